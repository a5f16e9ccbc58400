//! The prover of a build that has none: it cannot be started, so nothing can be asked of it. Floor 5.

use std::ffi::OsString;

use super::super::Snapshot;
use super::super::vocabulary::Environment;
use super::{Difference, Report, Unable, Verdict};

/// There is none in this build.
#[derive(Debug)]
pub enum Prover {}

impl Prover {
    /// Says that there is none.
    ///
    /// # Errors
    /// [`Unable::NotBuilt`], always.
    pub fn start(_: Option<OsString>) -> Result<Self, Unable> {
        Err(Unable::NotBuilt)
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn prove(&mut self, _: &Snapshot, _: impl FnMut(&str) + Send) -> Result<Report, Unable> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn verdict(&mut self, _: &Snapshot, _: &Environment) -> Result<Verdict, Unable> {
        match *self {}
    }

    /// Never called.
    ///
    /// # Errors
    /// None.
    pub fn compare(&mut self, _: &Snapshot, _: &Snapshot, _: impl FnMut(&str) + Send) -> Result<Vec<Difference>, Unable> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_to_get_one() {
        let said = Prover::start(None).unwrap_err();
        assert_eq!(said, Unable::NotBuilt);
        assert_eq!(said.to_string(), "this build has no prover: `cargo run --features prove -- policy prove`");
    }
}
