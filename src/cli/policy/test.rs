//! `byoa policy test`: runs the decision tables, and says of each wrong row what it wanted, what it got and who decided.

mod junit;
mod mutants;
mod update;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{CliError, Place, TestFormat, refused};
use crate::policy::row::Want;
use crate::policy::table::{After, Outcome, Row, Run, Table, Tables};
use crate::policy::{LoadError, Sources};

/// Wrong rows that people are shown; programs get all of them.
const SHOWN_MAX: usize = 25;

pub(super) struct Wanted {
    pub files: Vec<PathBuf>,
    pub format: TestFormat,
    pub update: bool,
    pub mutate: bool,
    pub suggest: bool,
}

pub(super) fn run(place: &Place, wanted: &Wanted) -> Result<(), CliError> {
    let sources = place.sources()?;
    let texts = texts(&wanted.files)?;
    let tables = if texts.is_empty() {
        Tables::read(&sources)
    } else {
        Tables::of_texts(texts.iter().map(|(file, text)| (file.as_str(), text.as_str())))
    };
    let tables = tables.map_err(|error| unreadable(&error, wanted.format))?;
    if tables.rows().is_empty() {
        let dir = place.dir.join("tables");
        return Err(CliError::Found(format!("there is no decision table: write one into {}, so that something is tested", dir.display())));
    }
    let run = run_on(&tables, &sources, place).map_err(|error| unreadable(&error, wanted.format))?;
    if wanted.update {
        return update::update(&tables, &run, wanted.format);
    }
    // Of rows that are wrong already nothing can be learned.
    if wanted.mutate && run.holds() {
        let mutation = tables.mutate(&sources, place.now, wanted.suggest).map_err(|error| unreadable(&error, wanted.format))?;
        return mutants::report(&mutation, wanted.format, wanted.suggest);
    }
    let text = match wanted.format {
        TestFormat::Human => human(&tables, &run),
        TestFormat::Json => json(&tables, &run).to_string(),
        TestFormat::Junit => junit::report(&tables, &run)?,
    };
    anstream::println!("{}", text.trim_end());
    let wrong = run.results.iter().filter(|outcome| !outcome.ok).count();
    if wrong == 0 && run.after.is_empty() {
        return Ok(());
    }
    // People have read it above.
    Err(CliError::Found(if wanted.format == TestFormat::Human { String::new() } else { summary(&tables, &run) }))
}

fn run_on(tables: &Tables, sources: &Sources, place: &Place) -> Result<Run, LoadError> {
    tables.run(sources, place.now)
}

/// The named files' texts.
fn texts(files: &[PathBuf]) -> Result<Vec<(String, String)>, CliError> {
    let read = |file: &PathBuf| {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|e| CliError::Unable(format!("{name} cannot be read: {e}")))?;
        Ok((name, text))
    };
    files.iter().map(read).collect()
}

/// Tables that do not read are faults in them, and a program hears of each.
fn unreadable(error: &LoadError, format: TestFormat) -> CliError {
    match format {
        TestFormat::Human => {}
        TestFormat::Json => anstream::println!("{}", json!({"ok": false, "diagnostics": error.diagnostics})),
        TestFormat::Junit => {
            if let Ok(text) = junit::unreadable(error) {
                anstream::println!("{}", text.trim_end());
            }
        }
    }
    refused(error)
}

/// `312 rows in 9 tables: all hold`
fn summary(tables: &Tables, run: &Run) -> String {
    let (rows, cases) = (tables.written(), tables.rows().len());
    let cases_said = if rows == cases { String::new() } else { format!(" ({})", counted(cases, "case")) };
    let wrong = run.results.iter().filter(|outcome| !outcome.ok).count();
    let verdict = match (wrong, run.after.len()) {
        (0, 0) => "all hold".to_owned(),
        (0, later) => format!("{} wrong after an end", counted(later, "case")),
        (wrong, 0) => format!("{} wrong", counted(wrong, "case")),
        (wrong, later) => format!("{} wrong, {later} more after an end", counted(wrong, "case")),
    };
    format!("{}{cases_said} in {}: {verdict}", counted(rows, "row"), counted(tables.tables().len(), "table"))
}

fn counted(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The outcomes of one table.
fn of<'r>(table: &'r Table, tables: &'r Tables, run: &'r Run) -> impl Iterator<Item = (&'r Row, &'r Outcome)> {
    tables.rows().iter().zip(&run.results).filter(|(row, _)| row.file == table.file)
}

fn human(tables: &Tables, run: &Run) -> String {
    let mut text = String::new();
    let width = tables.tables().iter().map(|table| table.name.chars().count()).max().unwrap_or(0);
    for table in tables.tables() {
        let cases = of(table, tables, run).count();
        let wrong = of(table, tables, run).filter(|(_, outcome)| !outcome.ok).count();
        let verdict = if wrong == 0 { "ok".to_owned() } else { format!("{wrong} WRONG") };
        // Writing into a String does not fail.
        let _ = writeln!(text, "{:width$}  {:>4} rows {cases:>5} cases  {verdict:<9} {}", table.name, table.written(), table.about);
    }
    let wrong: Vec<(&Row, &Outcome)> = tables.rows().iter().zip(&run.results).filter(|(_, outcome)| !outcome.ok).collect();
    for (row, outcome) in wrong.iter().take(SHOWN_MAX) {
        let _ = writeln!(text, "\n{}", wrong_row(row, outcome));
    }
    if wrong.len() > SHOWN_MAX {
        let _ = writeln!(text, "\nand {} more; `--format json` has all of them", wrong.len() - SHOWN_MAX);
    }
    for (after, row) in afterwards(tables, run).take(SHOWN_MAX) {
        let mut later = row.clone();
        later.at = Some(after.at);
        let _ = writeln!(text, "\n{}", wrong_row(&later, &after.outcome));
        let _ = writeln!(text, "  note      it holds now; {} it does not: say with `at` as of when it holds", after.when());
    }
    let _ = write!(text, "\n{}", summary(tables, run));
    text
}

/// What does not hold after an end, with its rows.
fn afterwards<'r>(tables: &'r Tables, run: &'r Run) -> impl Iterator<Item = (&'r After, &'r Row)> {
    run.after.iter().filter_map(|after| Some((after, tables.row_of(after)?)))
}

fn wrong_row(row: &Row, outcome: &Outcome) -> String {
    let mut text = format!("{}\n  {}:{}\n", row.name, row.file, row.line);
    if !row.without.is_empty() {
        let _ = writeln!(text, "  without   {}", row.without.join(", "));
    }
    if let Some(at) = row.at {
        let _ = writeln!(text, "  as of     {at}");
    }
    let (wanted, got) = (columns(&row.want), columns(&outcome.got));
    let width = wanted.iter().map(|(_, value)| value.chars().count()).max().unwrap_or(0).max("wanted".len());
    let _ = writeln!(text, "            {:width$}   got", "wanted");
    let empty = ("", String::new());
    for line in 0..wanted.len().max(got.len()) {
        let (left, right) = (wanted.get(line).unwrap_or(&empty), got.get(line).unwrap_or(&empty));
        let label = if left.0.is_empty() { right.0 } else { left.0 };
        let _ = writeln!(text, "  {label:<8}  {:width$}   {}", left.1, right.1);
    }
    for (id, place) in outcome.got.policies.iter().zip(&outcome.decided) {
        let _ = writeln!(text, "  decided   {id}  {}:{}", place.file, place.line);
    }
    for error in &outcome.errors {
        let _ = writeln!(text, "  note      {error}");
    }
    text.trim_end().to_owned()
}

fn columns(want: &Want) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("decision", if want.allow { "allow" } else { "refuse" }.to_owned()),
        ("code", want.code.map_or_else(|| "-".to_owned(), |code| code.to_string())),
    ];
    let none = ["-".to_owned()];
    let policies = if want.policies.is_empty() { &none[..] } else { &want.policies };
    lines.extend(policies.iter().enumerate().map(|(n, id)| (if n == 0 { "policies" } else { "" }, id.clone())));
    lines
}

fn answer(want: &Want) -> Value {
    json!({
        "decision": if want.allow { "allow" } else { "refuse" },
        "code": want.code,
        "policies": want.policies,
    })
}

fn json(tables: &Tables, run: &Run) -> Value {
    let about = |table: &Table| {
        let cases = of(table, tables, run).count();
        let wrong = of(table, tables, run).filter(|(_, outcome)| !outcome.ok).count();
        json!({"table": table.name, "file": table.file, "about": table.about, "rows": table.written(), "cases": cases, "wrong": wrong})
    };
    let result = |(row, outcome): (&Row, &Outcome)| {
        json!({
            "table": row.table, "file": row.file, "line": row.line, "name": row.name, "without": row.without, "at": row.at,
            "ok": outcome.ok, "want": answer(&row.want), "got": answer(&outcome.got), "errors": outcome.errors,
        })
    };
    let after = |(after, row): (&After, &Row)| {
        json!({
            "table": row.table, "file": row.file, "line": row.line, "name": row.name, "without": row.without, "from": after.at,
            "ended": after.ended, "want": answer(&row.want), "got": answer(&after.outcome.got), "errors": after.outcome.errors,
        })
    };
    json!({
        "ok": run.holds(),
        "rows": tables.written(),
        "cases": tables.rows().len(),
        "tables": tables.tables().iter().map(about).collect::<Vec<_>>(),
        "results": tables.rows().iter().zip(&run.results).map(result).collect::<Vec<_>>(),
        "after": afterwards(tables, run).map(after).collect::<Vec<_>>(),
    })
}
