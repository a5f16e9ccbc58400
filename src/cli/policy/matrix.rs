//! `byoa policy matrix`: renders the law line by line, and holds it to a file.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::{CliError, MatrixFormat, Place};
use crate::policy::matrix::{Cell, SAMPLES, Verdict};
use crate::policy::reach::Line;

const HEAD: &str = "\
# The whole law: who asks what about what; whether it is permitted never, sometimes or always; how that is known; and the
# policies that can decide it. `byoa policy matrix` writes this, `byoa policy matrix --check FILE` holds a file to it.";

pub(super) fn run(place: &Place, format: MatrixFormat, check: Option<&Path>) -> Result<(), CliError> {
    let law = place.snapshot()?;
    // Where this build has a prover and this machine a solver, what samples leave open is proved.
    let prover = RefCell::new(super::prove::prover().ok());
    let ask = |line: &Line| {
        let verdict = prover.borrow_mut().as_mut()?.verdict(&law, &line.environment).ok()?;
        // That some requests of a kind are permitted says nothing of one role.
        (verdict != Verdict::Sometimes || line.role.is_none()).then_some(verdict)
    };
    let cells = law.matrix(Some(&ask));
    let Some(file) = check else {
        match format {
            MatrixFormat::Table => anstream::print!("{}", table(&cells)),
            MatrixFormat::Json => anstream::println!("{:#}", as_json(&cells)),
        }
        return Ok(());
    };
    let unreadable = |why: String| CliError::Unable(format!("{}: {why}", file.display()));
    let kept = std::fs::read_to_string(file).map_err(|e| unreadable(e.to_string()))?;
    let kept = match format {
        MatrixFormat::Table => lines(&kept),
        MatrixFormat::Json => entries(&kept).ok_or_else(|| unreadable("not a matrix in JSON".into()))?,
    };
    let law: BTreeMap<String, String> = cells.iter().map(|cell| (cell.line.to_string(), settled(cell))).collect();
    let changes = compared(&kept, &law);
    if changes.is_empty() {
        return Ok(());
    }
    let count = changes.len();
    for change in changes {
        anstream::println!("{change}");
    }
    Err(CliError::Found(format!("{count} lines differ from {}; where that is meant, write the file anew", file.display())))
}

/// What the file is held to: not how it is known, which depends on whether there was a solver.
fn settled(cell: &Cell) -> String {
    format!("{}  {}", cell.verdict, policies(cell))
}

fn policies(cell: &Cell) -> String {
    let part = |word: &str, ids: &[String]| (!ids.is_empty()).then(|| format!("{word} {}", ids.join(", ")));
    let parts: Vec<String> = [part("permit", &cell.permits), part("forbid", &cell.forbids)].into_iter().flatten().collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join("; ") }
}

fn verdict(cell: &Cell) -> String {
    format!("{}{}", cell.verdict, if cell.is_certain() { "" } else { "*" })
}

fn table(cells: &[Cell]) -> String {
    // Widths come from the schema and from the words here, so that an edit of a policy moves no other line.
    let wide = cells.iter().map(|cell| cell.line.to_string().len()).max().unwrap_or(0);
    let mut text = format!("{HEAD}\n");
    for cell in cells {
        let line = cell.line.to_string();
        text.push_str(&format!("{line:wide$}  {:9}  {:13}  {}\n", verdict(cell), cell.how.to_string(), policies(cell)));
    }
    if cells.iter().any(|cell| !cell.is_certain()) {
        text.push_str(&format!("# * nothing else was seen in {SAMPLES} samples; that is no proof\n"));
    }
    text
}

fn as_json(cells: &[Cell]) -> Value {
    let line = |cell: &Cell| {
        json!({
            "line": cell.line.to_string(),
            "principal": cell.line.environment.principal,
            "role": cell.line.role,
            "action": cell.line.environment.action,
            "resource": cell.line.environment.resource,
            "verdict": cell.verdict.to_string(),
            "how": cell.how.to_string(),
            "certain": cell.is_certain(),
            "permits": cell.permits,
            "forbids": cell.forbids,
        })
    };
    json!({ "samples": SAMPLES, "lines": cells.iter().map(line).collect::<Vec<_>>() })
}

/// The file's lines by who, what and about what.
fn lines(text: &str) -> BTreeMap<String, String> {
    let line = |line: &str| {
        let mut columns = line.split("  ").map(str::trim).filter(|column| !column.is_empty());
        let (key, verdict, _, policies) = (columns.next()?, columns.next()?, columns.next()?, columns.next().unwrap_or("-"));
        Some((key.to_owned(), format!("{}  {policies}", verdict.trim_end_matches('*'))))
    };
    // What is no line of a matrix is a difference, not nothing.
    let odd = |text: &str| (text.to_owned(), String::new());
    let written = text.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#'));
    written.map(|l| line(l).unwrap_or_else(|| odd(l))).collect()
}

fn entries(text: &str) -> Option<BTreeMap<String, String>> {
    let value: Value = serde_json::from_str(text).ok()?;
    let names = |entry: &Value, key: &str| -> Option<String> {
        let names: Option<Vec<&str>> = entry.get(key)?.as_array()?.iter().map(Value::as_str).collect();
        Some(names?.join(", "))
    };
    let entry = |entry: &Value| {
        let (permits, forbids) = (names(entry, "permits")?, names(entry, "forbids")?);
        let parts: Vec<String> = [("permit", permits), ("forbid", forbids)]
            .iter()
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(word, ids)| format!("{word} {ids}"))
            .collect();
        let policies = if parts.is_empty() { "-".to_owned() } else { parts.join("; ") };
        Some((entry.get("line")?.as_str()?.to_owned(), format!("{}  {policies}", entry.get("verdict")?.as_str()?)))
    };
    value.get("lines")?.as_array()?.iter().map(entry).collect()
}

/// What was and what is, line by line: `-` as the file has it, `+` as the law is.
fn compared(kept: &BTreeMap<String, String>, law: &BTreeMap<String, String>) -> Vec<String> {
    let mut changes = Vec::new();
    for (key, was) in kept {
        let is = law.get(key);
        if is != Some(was) {
            changes.push(format!("- {key}  {was}").trim_end().to_owned());
            changes.extend(is.map(|is| format!("+ {key}  {is}")));
        }
    }
    changes.extend(law.iter().filter(|(key, _)| !kept.contains_key(*key)).map(|(key, is)| format!("+ {key}  {is}")));
    changes
}
