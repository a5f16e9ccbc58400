//! `byoa policy test --update`: the answers into the rows that are wrong. The file is replaced whole, so that a gateway that
//! watches it never reads half of it.

use std::path::Path;

use serde_json::{Value, json};

use super::super::{CliError, TestFormat};
use super::{answer, counted};
use crate::policy::history::replace;
use crate::policy::table::{Kept, Rewritten, Run, Tables};

pub(super) fn update(tables: &Tables, run: &Run, format: TestFormat) -> Result<(), CliError> {
    let (files, kept) = tables.updated(run);
    for file in &files {
        replace(Path::new(&file.file), file.text.as_bytes())
            .map_err(|e| CliError::Unable(format!("{} cannot be written: {e}", file.file)))?;
    }
    match format {
        TestFormat::Json => anstream::println!("{}", json(&files, &kept)),
        TestFormat::Human | TestFormat::Junit => anstream::println!("{}", human(&files, &kept)),
    }
    if kept.is_empty() { Ok(()) } else { Err(CliError::Found(format!("{} left as it is", counted(kept.len(), "wrong row")))) }
}

fn human(files: &[Rewritten], kept: &[Kept]) -> String {
    let mut lines = Vec::new();
    let mut rows = 0;
    for file in files {
        for (line, name, was, now) in &file.rows {
            rows += 1;
            lines.push(format!("{}:{line} {name}\n  wanted  {was}\n  wants   {now}", file.file));
        }
    }
    lines.extend(kept.iter().map(|Kept { file, line, name, why }| format!("{file}:{line} {name}\n  left: {why}")));
    lines.push(match rows {
        0 => "nothing was changed".to_owned(),
        rows => format!("{} changed in {}: read what they say now before you keep it", counted(rows, "row"), counted(files.len(), "file")),
    });
    lines.join("\n")
}

fn json(files: &[Rewritten], kept: &[Kept]) -> Value {
    let rows = files.iter().flat_map(|file| {
        file.rows.iter().map(
            |(line, name, was, now)| json!({"file": file.file, "line": line, "name": name, "wanted": answer(was), "wants": answer(now)}),
        )
    });
    let left = kept.iter().map(|Kept { file, line, name, why }| json!({"file": file, "line": line, "name": name, "why": why}));
    json!({"changed": rows.collect::<Vec<_>>(), "left": left.collect::<Vec<_>>()})
}
