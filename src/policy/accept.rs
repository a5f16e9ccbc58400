//! What a set has to pass before it may decide anything, at start and at every reload alike: the lock, parsing, lints, strict
//! validation, the envelope, the decision tables. The platform's files are taken whole or not at all, each org's by themselves. Works on bytes
//! that were read once. Never swaps anything. Floor 5.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::load::{self, LoadError, Sources};
use super::orgs::{Last, OrgRejected, Rejections};
use super::{Snapshot, gate, lock, validate};
use crate::config::{PoliciesSection, PolicyTextLimits};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// Where the policies are, and what is asked of them.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The folder.
    pub dir: PathBuf,
    /// The schema file.
    pub schema: PathBuf,
    /// Whether the decision tables must hold.
    pub gate_tables: bool,
    /// Whether there must be a lock.
    pub require_lock: bool,
    /// The limits of the platform's texts.
    pub platform_limits: PolicyTextLimits,
}

impl From<&PoliciesSection> for Terms {
    fn from(section: &PoliciesSection) -> Self {
        Self {
            dir: section.dir.clone(),
            schema: section.schema.clone(),
            gate_tables: section.gate_tables,
            require_lock: section.require_lock,
            platform_limits: section.platform_limits,
        }
    }
}

/// A set that passed.
pub struct Passed {
    /// The law, not in force yet.
    pub snapshot: Snapshot,
    /// What it was made of: as read, or with what stands in place of orgs' folders that are rejected.
    pub sources: Sources,
    /// The number of rows of tables that were run.
    pub rows: usize,
    /// The orgs whose folders are rejected.
    pub orgs: Vec<OrgRejected>,
}

impl Terms {
    /// Reads the folder and everything in it once. What is wrong with orgs' files is found in [`Terms::accept`].
    ///
    /// # Errors
    /// [`LoadError`] with every file that cannot be taken, where one of them is the platform's.
    pub fn read(&self) -> Result<Sources, LoadError> {
        load::read_by_org(&self.dir, &self.schema, &self.platform_limits)
    }

    /// The same, where it is to the letter a law that was accepted already and nothing but the law is asked for: many
    /// gateways of one process, on one set, need not find out each for itself that it is sound.
    ///
    /// # Errors
    /// As [`Terms::accept`].
    pub fn accept_again(
        &self,
        sources: Sources,
        accepted: Option<&Snapshot>,
        last: &Last<'_>,
        now: Timestamp,
    ) -> Result<Passed, LoadError> {
        match accepted {
            Some(law)
                if law.version() == sources.version()
                    && sources.faults.is_empty()
                    && !self.gate_tables
                    && !self.require_lock
                    && sources.lock.is_none() =>
            {
                Ok(Passed { snapshot: law.beside(None), sources, rows: 0, orgs: vec![] })
            }
            _ => self.accept(sources, last, now),
        }
    }

    /// Holds what was read to everything: the platform's files and the tables as a whole, each org's folder by itself. In place
    /// of a folder that does not pass, the org's last accepted files are held to the same; where those are not known or do not
    /// pass, everything of that org is refused.
    ///
    /// # Errors
    /// [`LoadError`]: `policy.lock_mismatch`, `policy.invalid`, `policy.too_complex`, `policy.outside_envelope` or
    /// `policy.table_failed`, with every fault of that step, where one of them is not an org's.
    pub fn accept(&self, sources: Sources, last: &Last<'_>, now: Timestamp) -> Result<Passed, LoadError> {
        let mut rejected = Rejections::default();
        if !sources.faults.is_empty() {
            rejected.blame(LoadError::new(ReasonCode::PolicyInvalid, sources.faults.clone()), &sources, last)?;
        }
        // Each turn takes something away from an org.
        loop {
            let set = rejected.composed(&sources, last);
            match self.judged(&sources, &set, &rejected.orgs(), now) {
                Err(error) => rejected.blame(error, &sources, last)?,
                Ok((snapshot, rows)) => {
                    let composed = if let Cow::Owned(composed) = set { Some(composed) } else { None };
                    return Ok(Passed { snapshot, rows, orgs: rejected.into_list(), sources: composed.unwrap_or(sources) });
                }
            }
        }
    }

    /// Holds what was read to everything, orgs' files like the platform's, for commands that look before a gateway does. Gives the
    /// policy set and how many rows of tables hold.
    ///
    /// # Errors
    /// As [`Terms::accept`], also of an org's file.
    pub fn accept_whole(&self, sources: &Sources, now: Timestamp) -> Result<(Snapshot, usize), LoadError> {
        if !sources.faults.is_empty() {
            return Err(LoadError::new(ReasonCode::PolicyInvalid, sources.faults.clone()));
        }
        self.judged(sources, sources, &BTreeSet::new(), now)
    }

    /// Holds a set to everything: what was read to its lock, and what is to decide to the rest. What concerns the orgs that are
    /// rejected already does not count.
    fn judged(&self, read: &Sources, set: &Sources, rejected: &BTreeSet<OrgId>, now: Timestamp) -> Result<(Snapshot, usize), LoadError> {
        let dir = Path::display(&self.dir).to_string();
        let locked = |policies| {
            let mut faults = lock::faults(read, &dir, policies, self.require_lock);
            faults.retain(|fault| fault.orgs.is_empty() || !fault.orgs.iter().all(|org| rejected.contains(org)));
            if faults.is_empty() { Ok(()) } else { Err(LoadError::new(ReasonCode::PolicyLockMismatch, faults)) }
        };
        // Before anything else: half a bundle is not worth a list of its faults.
        locked(None)?;
        let whole = validate::whole(set)?;
        if rejected.is_empty() {
            locked(Some(whole.policies.num_of_policies()))?;
        }
        gate::within_bounds(&whole, set)?;
        let snapshot = Snapshot::of(whole.at(now)?, set, now);
        let rows = if self.gate_tables { gate::run(set, &snapshot, rejected)? } else { 0 };
        Ok((snapshot, rows))
    }
}
