//! `byoa keys`: the master keys of a running gateway.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::secrets::word;
use super::show::{cell, raw, table};
use super::{CliError, Output, Target};

#[derive(Debug, Subcommand)]
pub(super) enum KeysCommand {
    /// Make a new master key and seal everything under it, or go on where that was left.
    Rotate {
        /// Then take out the keys that nothing is sealed under any more. A backup of the store from before needs them.
        #[arg(long)]
        prune: bool,
    },
    /// Destroy an org's key, everything sealed under it, and what people said to it. For ever.
    Shred {
        /// The org.
        org: String,
        /// The org again.
        #[arg(long, value_name = "ORG", required_unless_present = "dry_run")]
        confirm: Option<String>,
        /// Say how much of what there is, destroy nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the master keys by name, and what is sealed under each.
    Status {
        /// How it is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

pub(super) async fn run(target: &Target, command: KeysCommand) -> Result<(), CliError> {
    match command {
        KeysCommand::Rotate { prune } => rotate(target, prune).await,
        KeysCommand::Shred { org, confirm, dry_run } => shred(target, &org, confirm.as_deref(), dry_run).await,
        KeysCommand::Status { output } => status(target, output).await,
    }
}

async fn rotate(target: &Target, prune: bool) -> Result<(), CliError> {
    let mut ask = json!({});
    let answer = loop {
        let answer = target.call(Method::POST, "/v1/keys/rotate", Some(&ask)).await?;
        if at(&answer, "made").is_string() {
            anstream::println!("master key {} seals from now on", cell(at(&answer, "made")));
        } else if at(&ask, "resume").is_null() {
            anstream::println!("an earlier rotation was not ended; it goes on, and no key is made");
        }
        anstream::println!("{} rows sealed anew, {} left", cell(at(&answer, "resealed")), cell(at(&answer, "rows_left")));
        if at(&answer, "finished") == true {
            break answer;
        }
        ask = json!({"resume": true});
    };
    let unreadable: Vec<String> = at(&answer, "unreadable").as_array().into_iter().flatten().map(cell).collect();
    let answer = if prune {
        let answer = target.call(Method::POST, "/v1/keys/prune", None).await?;
        for id in at(&answer, "removed").as_array().into_iter().flatten() {
            anstream::println!("master key {} removed from the key file", cell(id));
        }
        answer
    } else {
        answer
    };
    for key in keys(&answer, "unused") {
        anstream::println!(
            "master key {key} is not needed any more: `byoa keys rotate --prune` removes unused keys, or take it out of the list"
        );
    }
    if unreadable.is_empty() {
        return Ok(());
    }
    Err(CliError::Found(format!("these do not open and stay as they are; set them anew:\n{}", unreadable.join("\n"))))
}

fn at<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

/// What a shredding destroys.
const PIECES: [&str; 7] = ["secrets", "events", "deliveries", "sessions", "sends", "decisions", "refusals"];

async fn shred(target: &Target, org: &str, confirm: Option<&str>, dry_run: bool) -> Result<(), CliError> {
    let ask = json!({"confirm": confirm, "dry_run": dry_run});
    let path = format!("/v1/orgs/{}/shred", word(org)?);
    loop {
        let answer = target.call(Method::POST, &path, Some(&ask)).await?;
        let counts: Vec<String> = PIECES.iter().map(|piece| format!("{} {piece}", cell(at(&answer, piece)))).collect();
        anstream::println!("orgs/{org}: {}{}", counts.join(", "), if dry_run { " (dry run)" } else { " destroyed" });
        if dry_run || at(&answer, "finished") == true {
            return Ok(());
        }
    }
}

fn keys(answer: &Value, state: &str) -> Vec<String> {
    let items = at(answer, "items").as_array().into_iter().flatten();
    items.filter(|item| at(item, "state") == state).map(|item| cell(at(item, "id"))).collect()
}

async fn status(target: &Target, output: Output) -> Result<(), CliError> {
    let answer = target.call(Method::GET, "/v1/keys", None).await?;
    if !raw(&answer, output)? {
        let columns = ["id", "state", "rows"];
        let rows = at(&answer, "items").as_array().into_iter().flatten().map(|item| columns.iter().map(|c| cell(at(item, c))).collect());
        anstream::println!("{}", table(&columns, rows));
        anstream::println!("{} rows under {} keys of orgs", cell(at(&answer, "rows_under_org_keys")), cell(at(&answer, "org_keys")));
        if at(&answer, "rows_left") != 0 {
            anstream::println!("a rotation is not ended: {} rows are left; `byoa keys rotate` goes on", cell(at(&answer, "rows_left")));
        }
    }
    match keys(&answer, "not_loaded").as_slice() {
        [] => Ok(()),
        missing => Err(CliError::Found(format!("values are sealed under keys that are not loaded: {}", missing.join(", ")))),
    }
}
