//! The tables as a gate. Floor 5.

use super::Snapshot;
use super::load::{LoadError, Sources};
use crate::domain::clock::Timestamp;

pub(super) fn run(_: &Sources, _: &Snapshot, _: Timestamp) -> Result<usize, LoadError> {
    Ok(0)
}
