//! `byoa policy prove`

use super::{CliError, ExplainFormat, Place};

pub(super) fn run(place: &Place, format: ExplainFormat) -> Result<(), CliError> {
    let _ = (place, format);
    Err(CliError::Unable("not built yet".into()))
}

/// What proved the set, for its lock; none in a build without a prover.
pub(super) fn word(place: &Place) -> Result<Option<String>, CliError> {
    let _ = place;
    Ok(None)
}
