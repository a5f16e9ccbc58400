//! Judgement: may this happen? The one place that knows Cedar.
//!
//! Owns the schema, the loaded law and every answer given from it. A question is a struct of [`action`]; the answer is a
//! [`Permit`] that nothing else can make, or a [`Denied`]. Answering looks nothing up (the facts come with the question, put
//! together by [`facts`]), never acts, never waits: reading the law at start is its only I/O. Floor 5.

pub mod action;
pub mod decide;
mod entities;
pub mod facts;
pub mod load;
mod validate;
pub mod watch;

#[cfg(test)]
mod law_tests;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

pub use action::{
    Action, AgentFacts, ApplyResources, CredentialFacts, EnterRollout, FlagFacts, Freshness, InstallationFacts, OperatorFacts, OrgFacts,
    ReadAudit, ReplayDelivery, Role, RouteMessage, SendMessage, SimulateWebhook, UseCredential, UseFallback, ViewResources,
};
pub use decide::{Decision, Denied, Permit};
pub use load::{Diagnostic, LoadError};

use crate::domain::clock::Timestamp;

/// The vocabulary that this build asks in; a copy on disk that differs is refused.
pub const SCHEMA: &str = include_str!("../schemas/gateway.cedarschema");

/// The law in force. Cheap to clone; all clones see the same swap.
#[derive(Clone, Debug)]
pub struct Engine(Arc<RwLock<Arc<Snapshot>>>);

impl Engine {
    /// Puts a first snapshot in force.
    pub fn new(snapshot: Snapshot) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(snapshot))))
    }

    /// The snapshot in force; a request pins one and asks it every question, so that one law answers all of them.
    pub fn pin(&self) -> Arc<Snapshot> {
        // Poisoned or not, the lock holds a whole snapshot: a swap is one assignment.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another snapshot in force, whole; whoever pinned the old one keeps it.
    pub fn swap(&self, snapshot: Snapshot) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }
}

/// One loaded law: schema, policies, version and the answers already given. Immutable; the answers die with it.
pub struct Snapshot {
    law: decide::Law,
    caches: action::Caches,
    loaded_at: Timestamp,
    files: usize,
}

impl Snapshot {
    /// Reads, lints and validates the law.
    ///
    /// # Errors
    /// [`LoadError`] with every fault found: `policy.missing` where there is no policy file, else `policy.invalid`.
    pub fn load(policies_dir: &Path, schema_file: &Path, now: Timestamp) -> Result<Self, LoadError> {
        let sources = load::read(policies_dir, schema_file)?;
        let law = validate::law(&sources)?;
        Ok(Self { law, caches: action::Caches::default(), loaded_at: now, files: sources.files.len() })
    }

    /// SHA-256 over the schema and every policy file, paths included, as hex.
    pub fn version(&self) -> &Arc<str> {
        &self.law.version
    }

    /// How many policies there are.
    pub fn policies(&self) -> usize {
        self.law.policies.num_of_policies()
    }

    /// How many files they came from.
    pub fn files(&self) -> usize {
        self.files
    }

    /// When it was loaded.
    pub fn loaded_at(&self) -> Timestamp {
        self.loaded_at
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Snapshot({}, {} policies)", self.version(), self.policies())
    }
}
