//! Judgement: may this happen? The one place that knows Cedar.
//!
//! Owns the schema, the loaded law and every answer given from it. A question is a struct of [`action`]; the answer is a
//! [`Permit`] that nothing else can make, or a [`Denied`]. Answering looks nothing up (the facts come with the question, put
//! together by [`facts`]), never acts, never waits: reading the law at start is its only I/O. Floor 5.

pub mod accept;
pub mod action;
pub mod case;
pub mod decide;
pub mod diff;
mod entities;
mod envelope;
mod est;
pub mod explain;
pub mod facts;
mod fault;
mod folder;
pub mod format;
mod gate;
pub mod history;
mod index;
pub mod limits;
mod lint;
pub mod load;
pub mod lock;
pub mod matrix;
pub mod mutate;
pub mod orgs;
mod outside;
pub mod prove;
pub mod reach;
pub mod reload;
pub mod row;
mod sample;
pub mod shadow;
pub mod shipped;
pub mod table;
mod validate;
pub mod vocabulary;

#[cfg(test)]
mod law_tests;

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

pub use action::{
    Action, AgentFacts, ApplyResources, CredentialFacts, EnterRollout, FlagFacts, Freshness, InstallationFacts, OperatorFacts, OrgFacts,
    ReadAudit, ReplayDelivery, Role, RouteMessage, SendMessage, SimulateWebhook, UseCredential, UseFallback, ViewResources,
};
pub use decide::{Decision, Denied, Permit, Place};
pub use fault::Told;
pub use history::History;
pub use load::{Diagnostic, LoadError, Rule, Sources, read};
pub use shadow::Shadow;

use crate::config::PolicyTextLimits;
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

    /// Puts another snapshot in force, whole, and gives back the old one; whoever pinned that keeps it.
    pub fn swap(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let new = Arc::new(snapshot);
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), new)
    }
}

/// One loaded law: schema, policies, version and the answers already given. Immutable; the answers die with it.
pub struct Snapshot {
    law: Arc<decide::Law>,
    caches: action::Caches,
    loaded_at: Timestamp,
    texts: Arc<[(String, String)]>,
    shadow: Option<Arc<Shadow>>,
}

impl Snapshot {
    /// Reads, lints and validates a policy set, with the limits that texts have where no settings say otherwise.
    ///
    /// # Errors
    /// [`LoadError`] with every fault found: `policy.missing` where there is no policy file, else `policy.invalid` or
    /// `policy.too_complex`.
    pub fn load(policies_dir: &Path, schema_file: &Path, now: Timestamp) -> Result<Self, LoadError> {
        Self::load_within(policies_dir, schema_file, &PolicyTextLimits::default(), now)
    }

    /// The same, where the platform's files have these limits.
    ///
    /// # Errors
    /// As [`Snapshot::load`].
    pub fn load_within(policies_dir: &Path, schema_file: &Path, platform: &PolicyTextLimits, now: Timestamp) -> Result<Self, LoadError> {
        Self::build(&read(policies_dir, schema_file, platform)?, now)
    }

    /// Lints and validates what was read, as the law at this time.
    ///
    /// # Errors
    /// [`LoadError`] with every fault found.
    pub fn build(sources: &Sources, now: Timestamp) -> Result<Self, LoadError> {
        Ok(Self::of(validate::law(sources, now)?, sources, now))
    }

    /// The same, held to the envelope as well, and to the tables as it will be after each end: everything but today's answers.
    ///
    /// # Errors
    /// [`LoadError`] with every fault found, `policy.outside_envelope` where the set is valid and leaves the envelope,
    /// `policy.table_failed` where an end by `@until` is not as the tables say.
    pub fn checked(sources: &Sources, now: Timestamp) -> Result<Self, LoadError> {
        let whole = validate::whole(sources)?;
        gate::within_bounds(&whole, sources)?;
        let law = whole.at(now)?;
        gate::ends(&law, sources)?;
        Ok(Self::of(law, sources, now))
    }

    fn of(law: decide::Law, sources: &Sources, now: Timestamp) -> Self {
        let own = |file: &&load::Source| file.house != load::House::Gateway;
        let texts = sources.files.iter().filter(own).map(|f| (f.path.clone(), f.text.clone())).collect();
        Self { law: Arc::new(law), caches: action::Caches::default(), loaded_at: now, texts, shadow: None }
    }

    /// The same law with another set, or none, in its shadow. What was answered before is forgotten: it was not compared.
    pub fn beside(&self, shadow: Option<Arc<Shadow>>) -> Self {
        let (law, texts) = (Arc::clone(&self.law), Arc::clone(&self.texts));
        Self { law, caches: action::Caches::default(), loaded_at: self.loaded_at, texts, shadow }
    }

    /// The same set under another law.
    fn under(&self, law: decide::Law) -> Self {
        let (texts, shadow) = (Arc::clone(&self.texts), self.shadow.clone());
        Self { law: Arc::new(law), caches: action::Caches::default(), loaded_at: self.loaded_at, texts, shadow }
    }

    /// This set as it is then, where policies have ended by their `@until`; none where it is this one.
    fn ended_by(&self, now: Timestamp) -> Result<Option<Self>, String> {
        let law = self.law.ended_by(now)?;
        Ok(law.map(|law| Self { loaded_at: now, ..self.under(law) }))
    }

    /// Its policies that have ended by their `@until`, and when: no part of it any more.
    pub fn ended(&self) -> &[(String, Timestamp)] {
        &self.law.ended
    }

    /// Every policy with an `@until`: its id, where it stands, when it ends. The first comes first; what has ended is no part
    /// of the law.
    pub fn ends(&self) -> Vec<(String, Option<&Place>, Timestamp)> {
        self.law.ends().into_iter().map(|(id, end)| (id.to_string(), self.law.places.get(&id), end)).collect()
    }

    /// The set in the shadow.
    pub fn shadow(&self) -> Option<&Arc<Shadow>> {
        self.shadow.as_ref()
    }

    /// When the first policy ends by its `@until`: from then on this is not the law any more.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.law.expires_at
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
        self.texts.len()
    }

    /// Those files: each path below the policy folder, and the text.
    pub fn texts(&self) -> &Arc<[(String, String)]> {
        &self.texts
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
