//! `byoa policy test --mutate`: which parts of the law no row would miss, and with `--suggest` the rows that would.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::super::{CliError, TestFormat};
use super::counted;
use crate::policy::mutate::{Mutation, Part, Survivor};

pub(super) fn report(mutation: &Mutation, format: TestFormat, suggested: bool) -> Result<(), CliError> {
    match format {
        TestFormat::Human => anstream::println!("{}", human(mutation, suggested)),
        TestFormat::Json => anstream::println!("{}", json(mutation)),
        TestFormat::Junit => anstream::println!("{}", super::junit::mutants(mutation)?.trim_end()),
    }
    if mutation.total == 0 {
        return Err(CliError::Found("there is nothing to leave out: the set has no policy that is in force".into()));
    }
    match mutation.survivors.len() {
        0 => Ok(()),
        _ if format == TestFormat::Human => Err(CliError::Found(String::new())),
        n => Err(CliError::Found(format!("{} noticed by no row", counted(n, "mutant")))),
    }
}

/// What was left out, as people say it.
pub(super) fn said(survivor: &Survivor) -> String {
    let part = match survivor.part {
        Part::Policy => return "the whole policy".into(),
        Part::Principal | Part::Action | Part::Resource => "of the scope",
        Part::Condition => "the whole condition",
        Part::Clause => "the clause",
    };
    format!("{part}  {}", survivor.text)
}

fn human(mutation: &Mutation, suggested: bool) -> String {
    let mut text = String::new();
    for survivor in &mutation.survivors {
        // Writing into a String does not fail.
        let _ = writeln!(text, "{}:{}  {}", survivor.place.file, survivor.place.line, survivor.policy);
        let _ = writeln!(text, "  no row notices when this is left out: {}", said(survivor));
        match &survivor.row {
            Some(row) => {
                let _ = writeln!(text, "  this row does:\n\n{row}");
            }
            None if suggested => {
                let _ = writeln!(text, "  no request was found on which it matters: leave it out, or say in a row when it does\n");
            }
            None => text.push('\n'),
        }
    }
    let (noticed, total) = (mutation.noticed(), mutation.total);
    let _ = write!(text, "{noticed} of {} noticed", counted(total, "mutant"));
    text
}

fn json(mutation: &Mutation) -> Value {
    let part = |part: Part| match part {
        Part::Policy => "policy",
        Part::Principal => "principal",
        Part::Action => "action",
        Part::Resource => "resource",
        Part::Condition => "condition",
        Part::Clause => "clause",
    };
    let survivor = |s: &Survivor| json!({"policy": s.policy, "file": s.place.file, "line": s.place.line, "part": part(s.part), "text": s.text, "row": s.row});
    json!({
        "ok": mutation.survivors.is_empty(),
        "mutants": mutation.total,
        "noticed": mutation.noticed(),
        "survivors": mutation.survivors.iter().map(survivor).collect::<Vec<_>>(),
    })
}
