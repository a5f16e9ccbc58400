//! What a set has to pass before it may decide anything, at start and at every reload alike: the lock, parsing, lints, strict
//! validation, the envelope, the decision tables. Works on bytes that were read once. Never swaps anything. Floor 5.

use std::path::{Path, PathBuf};

use super::load::{LoadError, Sources};
use super::{Snapshot, gate, lock, validate};
use crate::config::{PoliciesSection, PolicyTextLimits};
use crate::domain::clock::Timestamp;
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
#[derive(Debug)]
pub struct Passed {
    /// Ready to be put in force.
    pub snapshot: Snapshot,
    /// How many rows of the tables were run.
    pub rows: usize,
}

impl Terms {
    /// Reads the folder and everything in it once.
    ///
    /// # Errors
    /// [`LoadError`] with every file that cannot be taken.
    pub fn read(&self) -> Result<Sources, LoadError> {
        super::read(&self.dir, &self.schema, &self.platform_limits)
    }

    /// The same, where it is to the letter a law that was accepted already and nothing but the law is asked for: many
    /// gateways of one process, on one set, need not find out each for itself that it is sound.
    ///
    /// # Errors
    /// As [`Terms::accept`].
    pub fn accept_again(&self, sources: &Sources, accepted: Option<&Snapshot>, now: Timestamp) -> Result<Passed, LoadError> {
        match accepted {
            Some(law) if law.version() == sources.version() && !self.gate_tables && !self.require_lock && sources.lock.is_none() => {
                Ok(Passed { snapshot: law.beside(None), rows: 0 })
            }
            _ => self.accept(sources, now),
        }
    }

    /// Holds what was read to everything.
    ///
    /// # Errors
    /// [`LoadError`]: `policy.lock_mismatch`, `policy.invalid`, `policy.too_complex`, `policy.outside_envelope` or
    /// `policy.table_failed`, with every fault of that step.
    pub fn accept(&self, sources: &Sources, now: Timestamp) -> Result<Passed, LoadError> {
        let dir = Path::display(&self.dir).to_string();
        let locked = |policies| match lock::faults(sources, &dir, policies, self.require_lock) {
            faults if faults.is_empty() => Ok(()),
            faults => Err(LoadError::new(ReasonCode::PolicyLockMismatch, faults)),
        };
        // Before anything else: half a bundle is not worth a list of its faults.
        locked(None)?;
        let whole = validate::whole(sources)?;
        locked(Some(whole.policies.num_of_policies()))?;
        gate::within_bounds(&whole, sources)?;
        let snapshot = Snapshot::of(whole.at(now)?, sources, now);
        let rows = if self.gate_tables { gate::run(sources, &snapshot)? } else { 0 };
        Ok(Passed { snapshot, rows })
    }
}
