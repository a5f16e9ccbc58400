//! `byoa policy prove`: what was proved, line by line, and for what is not so a request that shows it.

use std::io::IsTerminal as _;

use serde_json::Value;

use super::{CliError, ExplainFormat, Place};
use crate::cli::Output;
use crate::cli::show::raw;
use crate::policy::Snapshot;
use crate::policy::case::{Case, bare};
use crate::policy::prove::{Check, Outcome, Proof, Prover, Report, Unable, Violation, Witness};

pub(super) fn run(place: &Place, format: ExplainFormat) -> Result<(), CliError> {
    let mut prover = prover()?;
    let law = place.snapshot()?;
    let told = std::io::stderr().is_terminal();
    let report = prover.prove(&law, |step| progress(told, step));
    progress(told, "");
    let report = report.map_err(unable)?;
    match format {
        ExplainFormat::Human => anstream::println!("{}", text(&report)),
        ExplainFormat::Json => drop(raw(&report.json(), Output::Json)?),
    }
    match (report.violated(), report.undecided()) {
        // What is known to be wrong is said first; it is wrong whatever else is not known.
        (0, 0) => Ok(()),
        (0, unknown) => Err(CliError::Unable(format!("not proved: the solver left {unknown} open"))),
        (wrong, 0) => Err(CliError::Found(format!("not proved: {wrong} violated"))),
        (wrong, unknown) => Err(CliError::Found(format!("not proved: {wrong} violated, {unknown} left open by the solver"))),
    }
}

/// The solver that the environment names, started.
pub(super) fn prover() -> Result<Prover, CliError> {
    Prover::start(std::env::var_os("CVC5")).map_err(unable)
}

pub(super) fn unable(error: Unable) -> CliError {
    CliError::Unable(error.to_string())
}

/// One line that is written over, for whoever sits and waits.
fn progress(told: bool, step: &str) {
    if told {
        anstream::eprint!("\r\x1b[K{step}");
    }
}

/// What proved the set, for its lock; none where this build or this machine has no prover. A set that is not proved is not
/// locked.
pub(super) fn word(law: &Snapshot) -> Result<Option<String>, CliError> {
    let Ok(mut prover) = prover() else { return Ok(None) };
    let report = prover.prove(law, |_| {}).map_err(unable)?;
    match (report.violated(), report.undecided()) {
        (0, 0) => Ok(Some(format!("proved by {}", report.solver))),
        (0, unknown) => Err(CliError::Unable(format!("not locked: the solver left {unknown} open; `byoa policy prove` shows them"))),
        (wrong, _) => Err(CliError::Found(format!("not locked: {wrong} violated; `byoa policy prove` shows them"))),
    }
}

fn text(report: &Report) -> String {
    let mut lines = Vec::new();
    for check in Check::ALL {
        let of_check: Vec<&Proof> = report.proofs.iter().filter(|proof| proof.check == check).collect();
        // Of each policy only what there is to know; that the others are as they should be is one line.
        let fine = |proof: &&Proof| proof.environment.is_none() && proof.outcome == Outcome::Proved;
        let (many, each): (Vec<&Proof>, Vec<&Proof>) = of_check.into_iter().partition(fine);
        if !many.is_empty() {
            let took: std::time::Duration = many.iter().map(|proof| proof.took).sum();
            lines.push(format!("{:<8}   {:<19}   {} policies   {} ms", "proved", check.to_string(), many.len(), took.as_millis()));
        }
        for proof in &each {
            lines.push(proof.line());
            match &proof.outcome {
                Outcome::Violated(violation) => violated(violation, &mut lines),
                Outcome::Noted(what) | Outcome::Undecided(what) => lines.push(format!("  {what}")),
                Outcome::Proved | Outcome::Reaches(_) => {}
            }
        }
        if !(many.is_empty() && each.is_empty()) {
            lines.push(String::new());
        }
    }
    lines.push(summary(report));
    lines.join("\n")
}

fn summary(report: &Report) -> String {
    let Report { policies, environments, solver, took, version, .. } = report;
    let proved = report.proofs.len() - report.violated() - report.undecided() - report.noted();
    format!(
        "{proved} proved, {} violated, {} unknown, {} to note: {policies} policies, {environments} kinds of request, {} ms with {solver}\nversion {version}",
        report.violated(),
        report.undecided(),
        report.noted(),
        took.as_millis(),
    )
}

fn violated(violation: &Violation, lines: &mut Vec<String>) {
    lines.push(format!("  {}", violation.what));
    lines.extend(violation.policies.iter().map(|policy| format!("    {policy}")));
    let Some(Witness { case, policies, gateway, row }) = &violation.witness else { return };
    lines.push("  for example".to_owned());
    lines.extend(request(case).into_iter().map(|line| format!("    {line}")));
    lines.push(format!("  asked again   of the policies alone: {policies}"));
    lines.push(format!("                of the gateway:        {gateway}"));
    lines.extend(gateway.errors.iter().map(|error| format!("                {error}")));
    lines.push("  as a row of a decision table, with the answer that it should get".to_owned());
    lines.extend(row.lines().map(str::to_owned));
}

/// A question, and what is known of whom, a line each.
fn request(case: &Case) -> Vec<String> {
    let mut lines = vec![case.to_string(), format!("context   {}", values(&case.context))];
    for entity in case.entities.as_array().into_iter().flatten() {
        let parents: Vec<String> = entity.get("parents").and_then(Value::as_array).into_iter().flatten().map(value).collect();
        let within = if parents.is_empty() { String::new() } else { format!("   in {}", parents.join(", ")) };
        let attrs = entity.get("attrs").map(values).unwrap_or_default();
        lines.push(format!("{}   {attrs}{within}", entity.get("uid").map(value).unwrap_or_default()));
    }
    lines
}

fn values(record: &Value) -> String {
    let fields: Vec<String> = record.as_object().into_iter().flatten().map(|(name, field)| format!("{name}: {}", value(field))).collect();
    format!("{{{}}}", fields.join(", "))
}

fn value(json: &Value) -> String {
    match json {
        Value::Array(all) => format!("[{}]", all.iter().map(value).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let inner = fields.get("__entity").unwrap_or(json);
            match (inner.get("type").and_then(Value::as_str), inner.get("id").and_then(Value::as_str)) {
                (Some(kind), Some(id)) => format!("{}::\"{}\"", bare(kind), id.escape_debug()),
                _ => values(json),
            }
        }
        Value::String(text) => format!("\"{}\"", text.escape_debug()),
        other => other.to_string(),
    }
}
