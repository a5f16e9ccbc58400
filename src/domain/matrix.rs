//! The failure-path matrix as a noun: what a run of it is asked, and what each case came to. Floor 0.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::installation::{Mode, ProviderKind};

/// What a run is played against.
#[derive(Clone, Debug)]
pub struct Exercise {
    /// The policies in force, as they were read: path below the policy folder, and text.
    pub policies: Arc<[(String, String)]>,
    /// Their version: what is played against is another set where it is another one.
    pub version: Arc<str>,
    /// The time by which they are in force.
    pub now: Timestamp,
    /// Whose rows are played.
    pub providers: Vec<ProviderKind>,
}

/// One case of a row, played for one provider and mode.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlayedCase {
    /// The row's number, three digits.
    pub row: String,
    /// What the row is about.
    pub title: String,
    /// The dimension that it belongs to: `auth`, `replay`, `tenant`, …
    pub dimension: String,
    /// The provider.
    pub provider: ProviderKind,
    /// Whose app the request was addressed to.
    pub mode: Mode,
    /// The variant's name; empty where a row has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub case: String,
    /// What was not as the row says; empty where the case is green.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
}

impl PlayedCase {
    /// Whether everything was as the row says.
    pub fn is_green(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// What a player's work comes to: why it could not be done, where it could not.
pub type Playing<'p> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'p>>;

/// Whoever can play the matrix with this build. Given to the gateway from above, which itself knows no gateways.
pub trait Player: Send + Sync + Debug {
    /// How many cases there are for these providers.
    fn cases(&self, providers: &[ProviderKind]) -> usize;

    /// Plays every case, and tells each when it ended, in no order.
    fn play<'p>(&'p self, exercise: Exercise, tell: &'p (dyn Fn(PlayedCase) + Send + Sync)) -> Playing<'p>;
}
