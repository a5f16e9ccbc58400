//! `byoa matrix`: the failure-path matrix, played by a running gateway, or here against a folder of policies. Floor 11.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use http::Method;
use quick_junit::{Report, TestSuite};
use serde_json::{Value, json};

use super::junit::{case, written};
use super::policy::faults;
use super::progress::Progress;
use super::rollout::plain;
use super::show::{cell, counted, raw, table};
use super::{CliError, Output, Target};
use crate::admin::matrix::{MatrixReport, MatrixState, play};
use crate::config::PolicyTextLimits;
use crate::domain::clock::Clock;
use crate::domain::installation::ProviderKind;
use crate::domain::matrix::{Exercise, PlayedCase};
use crate::domain::reason::ReasonCode;
use crate::policy::Snapshot;

/// How long between two looks at a run.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum MatrixCommand {
    /// Play every case against the policies in force; the gateway keeps what it finds as evidence.
    Run {
        /// slack, telegram or whatsapp; all where it is left out.
        #[arg(long, value_name = "PROVIDER")]
        provider: Option<String>,
        /// How it is printed.
        #[arg(long, value_enum, default_value = "table")]
        format: RunFormat,
        /// Play here, without a gateway, against this folder of policies. That is no evidence.
        #[arg(long, value_name = "DIR")]
        policies: Option<PathBuf>,
        /// With --policies: the schema file; policies.schema where it is left out.
        #[arg(long, value_name = "FILE", requires = "policies")]
        schema: Option<PathBuf>,
    },
    /// Show the runs that are kept, and the one that is under way.
    List {
        /// slack, telegram or whatsapp; all where it is left out.
        #[arg(long, value_name = "PROVIDER")]
        provider: Option<String>,
        /// How it is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Show one run with its cases.
    Show {
        /// Its id.
        run: String,
        /// How it is printed.
        #[arg(long, value_enum, default_value = "table")]
        format: RunFormat,
    },
}

/// How a run is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RunFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For CI servers.
    Junit,
}

pub(super) async fn run(target: &Target, command: MatrixCommand) -> Result<(), CliError> {
    match command {
        MatrixCommand::Run { provider, format, policies: Some(dir), schema } => {
            let schema = schema.unwrap_or_else(|| target.config.policies.schema.clone());
            here(provider.as_deref(), &dir, &schema, &target.config.policies.platform_limits, format).await
        }
        MatrixCommand::Run { provider, format, .. } => there(target, provider.as_deref(), format).await,
        MatrixCommand::List { provider, output } => list(target, provider.as_deref(), output).await,
        MatrixCommand::Show { run, format } => {
            let (answer, report) = look(target, &run).await?;
            printed(&answer, &report, format)
        }
    }
}

/// What the gateway refuses is no red case: nothing was played.
fn unable(error: CliError) -> CliError {
    match error {
        CliError::Found(why) | CliError::Unable(why) => CliError::Unable(why),
    }
}

/// Started at a gateway, which plays on whether or not somebody looks.
async fn there(target: &Target, provider: Option<&str>, format: RunFormat) -> Result<(), CliError> {
    let body = json!({"provider": provider});
    let started = target.call(Method::POST, "/v1/matrix?wait=false", Some(&body)).await.map_err(|error| match error {
        CliError::Unable(why) => CliError::Unable(format!("{why}; or play it here with --policies DIR")),
        found => unable(found),
    })?;
    let id = started.get("id").and_then(Value::as_str).unwrap_or_default();
    let mut progress = Progress::new();
    loop {
        let (answer, report) = match look(target, id).await {
            Ok(found) => found,
            Err(error) => {
                progress.end();
                return Err(match error {
                    CliError::Unable(why) => CliError::Unable(format!("{why}; run {id} goes on where the gateway does")),
                    failed => unable(failed),
                });
            }
        };
        if report.state == MatrixState::Done {
            progress.end();
            return printed(&answer, &report, format);
        }
        drawn(&mut progress, report.played, report.total, report.red, report.last.as_ref());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Played by this process. Nothing is kept.
async fn here(provider: Option<&str>, dir: &Path, schema: &Path, limits: &PolicyTextLimits, format: RunFormat) -> Result<(), CliError> {
    let providers = match provider {
        None => ProviderKind::ALL.to_vec(),
        Some(word) => vec![
            ProviderKind::parse(word)
                .ok_or_else(|| CliError::Unable(format!("`{word}` is no provider; there are slack, telegram and whatsapp")))?,
        ],
    };
    let now = Clock::system().now();
    let law = Snapshot::load_within(dir, schema, limits, now)
        .map_err(|error| CliError::Unable(format!("{}\n{}", error.code, faults(&error).trim_end())))?;
    let player = crate::matrix::player();
    let exercise = Exercise { policies: Arc::clone(law.texts()), version: Arc::clone(law.version()), now, providers: providers.clone() };
    let total = player.cases(&providers);
    let state = std::sync::Mutex::new((Progress::new(), 0, 0));
    let state = Arc::new(state);
    let telling = Arc::clone(&state);
    let tell = move |case: &PlayedCase| {
        let mut state = telling.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (progress, played, red) = &mut *state;
        *played += 1;
        *red += usize::from(!case.is_green());
        drawn(progress, *played, total, *red, Some(case));
    };
    let came = play(player, exercise, tell).await;
    state.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0.end();
    let cases = came.map_err(|why| CliError::Unable(format!("{}: {why}", ReasonCode::MatrixFailed)))?;
    let report = MatrixReport::done(None, law.version().to_string(), None, now, providers, cases);
    let answer = serde_json::to_value(&report).map_err(|e| CliError::Unable(e.to_string()))?;
    printed(&answer, &report, format)
}

/// A run as the gateway shows it, both ways.
async fn look(target: &Target, id: &str) -> Result<(Value, MatrixReport), CliError> {
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(CliError::Unable(format!("`{id}` is no run; `byoa matrix list` shows which there are")));
    }
    let answer = target.call(Method::GET, &format!("/v1/matrix/{id}"), None).await?;
    let report = serde_json::from_value(answer.clone())
        .map_err(|e| CliError::Unable(format!("the gateway's answer is not what this build expects: {e}")))?;
    Ok((answer, report))
}

fn drawn(progress: &mut Progress, played: usize, total: usize, red: usize, last: Option<&PlayedCase>) {
    let last = last.map_or_else(String::new, |case| format!(", last {} {} {}", case.row, case.provider, case.mode.as_str()));
    progress.draw(&format!("{played} of {total} cases, {red} red{last}"));
}

/// Prints a run; what is red is what was found.
fn printed(answer: &Value, report: &MatrixReport, format: RunFormat) -> Result<(), CliError> {
    match format {
        RunFormat::Table => anstream::println!("{}", human(report)),
        RunFormat::Json => drop(raw(answer, Output::Json)?),
        RunFormat::Junit => anstream::println!("{}", junit(report)?.trim_end()),
    }
    if report.state == MatrixState::Running || report.green { Ok(()) } else { Err(CliError::Found(String::new())) }
}

/// How many cases of each dimension are green, and of how many, in the order of providers.
fn dimensions(cases: &[PlayedCase]) -> BTreeMap<(ProviderKind, &str), (usize, usize)> {
    let mut counts = BTreeMap::new();
    for case in cases {
        let (green, played): &mut (usize, usize) = counts.entry((case.provider, case.dimension.as_str())).or_default();
        *green += usize::from(case.is_green());
        *played += 1;
    }
    counts
}

fn name(case: &PlayedCase) -> String {
    let variant = if case.case.is_empty() { String::new() } else { format!(" [{}]", case.case) };
    plainly(&format!("{} {}: {}{variant}", case.row, case.mode.as_str(), case.title))
}

/// Without what would move a terminal's cursor.
fn plainly(text: &str) -> String {
    cell(&Value::String(text.to_owned()))
}

fn human(report: &MatrixReport) -> String {
    let mut text = String::new();
    if !report.cases.is_empty() {
        let rows = dimensions(&report.cases).into_iter().map(|((provider, dimension), (green, played))| {
            let verdict = if green == played { "green" } else { "RED" };
            vec![provider.to_string(), plainly(dimension), format!("{green} of {played}"), verdict.to_owned()]
        });
        text = format!("{}\n\n", table(&["provider", "dimension", "green", ""], rows));
    }
    for case in report.cases.iter().filter(|case| !case.is_green()) {
        text += &format!("{} {}\n", case.provider, name(case));
        for wrong in &case.wrong {
            text += &format!("  {}\n", plainly(wrong));
        }
        text.push('\n');
    }
    text + &summary(report)
}

/// What it came to, and what to do next.
fn summary(report: &MatrixReport) -> String {
    let verdict = match (report.state, report.red) {
        (MatrixState::Running, red) => format!("running: {} of {}, {red} red", report.played, counted(report.total, "case")),
        (MatrixState::Done, 0) => format!("green: {}", counted(report.played, "case")),
        (MatrixState::Done, red) => format!("RED: {red} of {}", counted(report.played, "case")),
    };
    let version: String = report.policy_version.chars().take(12).collect();
    let providers: Vec<&str> = report.providers.iter().map(|provider| provider.as_str()).collect();
    let of = match (&report.id, &report.build) {
        (Some(id), Some(build)) => format!("run {id}, policies {version}, build {build}"),
        _ => format!("policies {version}; not evidence: it was played here and is kept nowhere"),
    };
    let next = match (report.state, report.red, &report.id) {
        (MatrixState::Running, _, Some(id)) => format!("byoa matrix show {id}"),
        (_, 0, Some(_)) => providers.iter().map(|provider| format!("byoa rollout promote {provider}")).collect::<Vec<_>>().join(", "),
        (_, 0, None) => "put the policies in force, then byoa matrix run".to_owned(),
        _ => "mend what is wrong above, then byoa matrix run again; nothing is promoted before it is green".to_owned(),
    };
    format!("{verdict} for {}; {of}\nnext: {next}", providers.join(", "))
}

/// A suite for each provider, a test for each case.
fn junit(report: &MatrixReport) -> Result<String, CliError> {
    let mut written_report = Report::new("byoa matrix run");
    for provider in &report.providers {
        let mut suite = TestSuite::new(provider.as_str());
        for played in report.cases.iter().filter(|case| case.provider == *provider) {
            let wrong = (!played.is_green()).then(|| (plainly(&played.wrong.join("; ")), None));
            suite.add_test_case(case(&played.dimension, name(played), wrong));
        }
        written_report.add_test_suite(suite);
    }
    written(&written_report)
}

async fn list(target: &Target, provider: Option<&str>, output: Output) -> Result<(), CliError> {
    let query = provider.map(plain).transpose()?.map_or_else(String::new, |provider| format!("?provider={provider}"));
    let answer = target.call(Method::GET, &format!("/v1/matrix{query}"), None).await?;
    if raw(&answer, output)? {
        return Ok(());
    }
    let running = answer.get("running").filter(|running| !running.is_null());
    if let Some(running) = running {
        let report: MatrixReport = serde_json::from_value(running.clone())
            .map_err(|e| CliError::Unable(format!("the gateway's answer is not what this build expects: {e}")))?;
        anstream::println!("{}", summary(&report));
    }
    let items: Vec<&Value> = answer.get("items").and_then(Value::as_array).into_iter().flatten().collect();
    if items.is_empty() {
        if running.is_none() {
            anstream::println!("no runs; make one with byoa matrix run");
        }
        return Ok(());
    }
    let columns = ["id", "provider", "started_at", "played", "red", "policy_version", "build"];
    let rows = items.iter().map(|item| columns.iter().map(|c| item.get(c).map_or_else(String::new, cell)).collect());
    anstream::println!("{}", table(&columns, rows));
    Ok(())
}
