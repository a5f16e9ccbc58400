//! `byoa policy test`

use std::path::PathBuf;

use super::{CliError, Place, TestFormat};

pub(super) struct Wanted {
    pub files: Vec<PathBuf>,
    pub format: TestFormat,
    pub update: bool,
    pub mutate: bool,
    pub suggest: bool,
}

pub(super) fn run(place: &Place, wanted: &Wanted) -> Result<(), CliError> {
    let _ = (place, &wanted.files, wanted.format, wanted.update, wanted.mutate, wanted.suggest);
    Err(CliError::Unable("not built yet".into()))
}
