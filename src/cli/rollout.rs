//! `byoa rollout`: from off through canary to on, and back. Floor 11.

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::show::{cell, raw, table};
use super::{CliError, Output, Target};

/// How far each provider's own apps are let in.
#[derive(Debug, Args)]
pub(super) struct RolloutArgs {
    #[command(subcommand)]
    command: RolloutCommand,
}

/// A stage to go to. On is reached by promotion only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Nobody.
    Off,
    /// The orgs on the list, or in the percentage.
    Canary,
    /// Everybody: refused, see `promote`.
    On,
}

/// What becomes of orgs that are not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Mode {
    /// Their legacy route, where they have one.
    LegacyProviderOnly,
    /// Nothing but their installations.
    InstallationIdentity,
}

#[derive(Debug, Subcommand)]
enum RolloutCommand {
    /// Show stage, list, soak, matrix evidence, what blocks the next step and the command for it.
    Status {
        /// slack, telegram or whatsapp; all where it is left out.
        provider: Option<String>,
        /// How it is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Start a canary, or edit its list and percentage.
    Set {
        /// slack, telegram or whatsapp
        provider: String,
        /// The stage to go to; left out, it stays.
        #[arg(long, value_enum)]
        stage: Option<Stage>,
        /// The canary's orgs, as they will be.
        #[arg(long, value_name = "ORG,ORG", value_delimiter = ',')]
        canary_orgs: Option<Vec<String>>,
        /// How many of a hundred orgs the canary takes beside the list.
        #[arg(long, value_name = "0..100")]
        percent: Option<u8>,
        #[command(flatten)]
        how: How,
    },
    /// Open a provider to everybody: after its soak, on a green matrix run.
    Promote {
        /// slack, telegram or whatsapp
        provider: String,
        /// Skip the soak; for the security team, with a reason. The matrix is never skipped.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        how: How,
    },
    /// Take a provider back to off, at once. Its list is kept.
    Rollback {
        /// slack, telegram or whatsapp
        provider: String,
        #[command(flatten)]
        how: How,
    },
    /// Change the switches over all providers.
    Global {
        /// Whether any provider's own apps are let in.
        #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
        enabled: Option<bool>,
        /// Whether legacy routes may be used at all.
        #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
        allow_legacy_fallback: Option<bool>,
        /// What becomes of orgs that are not let in.
        #[arg(long, value_enum)]
        rollback_mode: Option<Mode>,
        #[command(flatten)]
        how: How,
    },
}

/// What every change takes.
#[derive(Debug, Args)]
struct How {
    /// Why, for whoever reads the audit.
    #[arg(long)]
    reason: Option<String>,
    /// The version it is planned against; refused when it is another by now.
    #[arg(long = "if-version", value_name = "N")]
    version: Option<i64>,
    /// Say what would be done, change nothing.
    #[arg(long)]
    dry_run: bool,
}

impl How {
    fn body(&self, what: Value) -> Value {
        let mut body = json!({"reason": self.reason, "version": self.version, "dry_run": self.dry_run});
        if let (Some(body), Value::Object(what)) = (body.as_object_mut(), what) {
            body.extend(what);
        }
        body
    }
}

pub(super) async fn run(args: RolloutArgs, target: &Target) -> Result<(), CliError> {
    let (path, body) = match &args.command {
        RolloutCommand::Status { provider, output } => return status(target, provider.as_deref(), *output).await,
        RolloutCommand::Set { provider, stage, canary_orgs, percent, how } => {
            let stage = stage.map(|s| match s {
                Stage::Off => "off",
                Stage::Canary => "canary",
                Stage::On => "on",
            });
            (plain(provider)?.to_owned(), how.body(json!({"stage": stage, "canary_orgs": canary_orgs, "percent": percent})))
        }
        RolloutCommand::Promote { provider, force, how } => (format!("{}/promote", plain(provider)?), how.body(json!({"force": force}))),
        RolloutCommand::Rollback { provider, how } => (format!("{}/rollback", plain(provider)?), how.body(json!({}))),
        RolloutCommand::Global { enabled, allow_legacy_fallback, rollback_mode, how } => {
            let mode = rollback_mode.map(|m| match m {
                Mode::LegacyProviderOnly => "legacy_provider_only",
                Mode::InstallationIdentity => "installation_identity",
            });
            let what = json!({"enabled": enabled, "allow_legacy_fallback": allow_legacy_fallback, "rollback_mode": mode});
            ("global".to_owned(), how.body(what))
        }
    };
    let answer = target.call(Method::POST, &format!("/v1/rollout/{path}"), Some(&body)).await?;
    let unchanged = at(&answer, "/action") == "unchanged";
    if unchanged {
        anstream::println!("unchanged");
    }
    if at(&answer, "/dry_run") == &Value::Bool(true) {
        if unchanged {
            return Ok(());
        }
        anstream::println!("would change {} to {}", cell(at(&answer, "/from")), cell(at(&answer, "/to")));
    } else if path == "global" {
        global(&answer);
    } else {
        one(&answer);
    }
    Ok(())
}

/// What stands there; nothing where nothing does.
fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    value.pointer(pointer).unwrap_or(&Value::Null)
}

/// A word that may stand in an address.
pub(super) fn plain(word: &str) -> Result<&str, CliError> {
    if !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric()) {
        Ok(word)
    } else {
        Err(CliError::Unable(format!("`{word}` is no provider; there are slack, telegram and whatsapp")))
    }
}

async fn status(target: &Target, provider: Option<&str>, output: Output) -> Result<(), CliError> {
    let path = match provider {
        Some(provider) => format!("/v1/rollout/{}", plain(provider)?),
        None => "/v1/rollout".to_owned(),
    };
    let answer = target.call(Method::GET, &path, None).await?;
    if raw(&answer, output)? {
        return Ok(());
    }
    global(at(&answer, "/global"));
    for item in at(&answer, "/items").as_array().into_iter().flatten() {
        anstream::println!();
        one(item);
    }
    Ok(())
}

fn global(global: &Value) {
    let rows = ["enabled", "allow_legacy_fallback", "rollback_mode", "reason", "changed_by", "changed_at", "version"];
    anstream::println!(
        "{}",
        table(&["global", ""], rows.map(|name| vec![name.to_owned(), cell(global.get(name).unwrap_or(&Value::Null))]))
    );
}

fn one(item: &Value) {
    let soak = at(item, "/soak");
    let so_far = format!(
        "{} of {} minutes, {} of {} events",
        at(soak, "/minutes"),
        at(soak, "/minutes_wanted"),
        at(soak, "/events"),
        at(soak, "/events_wanted")
    );
    let matrix = at(item, "/matrix");
    let run = at(matrix, "/run");
    let said = if at(matrix, "/green") == &Value::Bool(true) { "green".to_owned() } else { cell(at(matrix, "/why_not")) };
    let evidence = match run {
        Value::Null => said,
        run => format!("{said}: {} red of {} in {} of {}", at(run, "/red"), at(run, "/played"), cell(at(run, "/id")), cell(at(run, "/at"))),
    };
    let orgs: Vec<String> = at(item, "/canary_orgs").as_array().into_iter().flatten().map(cell).collect();
    let mut rows = vec![
        vec!["stage".to_owned(), cell(at(item, "/stage"))],
        vec![
            "canary".to_owned(),
            format!("{}; {} percent of orgs", if orgs.is_empty() { "no org listed".into() } else { orgs.join(", ") }, at(item, "/percent")),
        ],
        vec![
            "changed".to_owned(),
            format!("{} by {}: {}", cell(at(item, "/changed_at")), cell(at(item, "/changed_by")), cell(at(item, "/reason"))),
        ],
        vec!["version".to_owned(), cell(at(item, "/version"))],
    ];
    if at(item, "/stage") == "canary" {
        rows.push(vec!["soak".to_owned(), so_far]);
    }
    rows.push(vec!["matrix".to_owned(), evidence]);
    rows.push(vec!["build".to_owned(), cell(at(matrix, "/build"))]);
    for (org, left) in at(item, "/legacy").as_object().into_iter().flatten() {
        let last = cell(at(left, "/last_used_at"));
        let told = format!("{org}: {} bindings left, {} uses, the last {last}", at(left, "/bindings"), at(left, "/uses"));
        rows.push(vec!["legacy".to_owned(), told]);
    }
    for why in at(item, "/next/blocked_by").as_array().into_iter().flatten() {
        rows.push(vec!["blocked by".to_owned(), cell(why)]);
    }
    if !at(item, "/next/command").is_null() {
        rows.push(vec!["next".to_owned(), cell(at(item, "/next/command"))]);
    }
    anstream::println!("{}", table(&[&cell(at(item, "/provider")), ""], rows));
}
