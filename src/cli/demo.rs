//! `byoa serve --demo`.

use super::CliError;

pub(super) async fn run(_once: bool) -> Result<(), CliError> {
    Err(CliError::Unable("not built yet".into()))
}
