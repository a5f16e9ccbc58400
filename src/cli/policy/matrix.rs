//! `byoa policy matrix`

use super::{CliError, MatrixFormat, Place};

pub(super) fn run(place: &Place, format: MatrixFormat, check: Option<&std::path::Path>) -> Result<(), CliError> {
    let _ = (place, format, check);
    Err(CliError::Unable("not built yet".into()))
}
