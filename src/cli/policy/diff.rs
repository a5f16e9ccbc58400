//! `byoa policy diff`

use super::{CliError, ExplainFormat, Place, Target};

pub(super) async fn run(from: &Place, to: &Place, recorded: Option<(&Target, u32)>, format: ExplainFormat) -> Result<(), CliError> {
    let _ = (from, to, recorded.is_some(), format);
    Err(CliError::Unable("not built yet".into()))
}
