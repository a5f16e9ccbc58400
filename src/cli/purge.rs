//! `byoa purge` and `byoa sweep`: one person's data, and what its retention has passed.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};

use super::show::cell;
use super::{CliError, Target};

/// What a purge removes, in the order in which it is removed.
const PIECES: [&str; 6] = ["events", "sends", "refusals", "facts", "audit", "sessions"];

fn at<'v>(value: &'v Value, name: &str) -> &'v Value {
    value.get(name).unwrap_or(&Value::Null)
}

pub(super) async fn purge(target: &Target, installation: &str, sender: &str, dry_run: bool) -> Result<(), CliError> {
    let mut ask = json!({"installation": installation, "sender": sender, "dry_run": dry_run});
    let (mut counts, mut looked_at): (BTreeMap<&str, u64>, u64) = (BTreeMap::new(), 0);
    loop {
        let answer = target.call(Method::POST, "/v1/purge", Some(&ask)).await?;
        for piece in PIECES {
            *counts.entry(piece).or_default() += at(&answer, piece).as_u64().unwrap_or(0);
        }
        looked_at += at(&answer, "looked_at").as_u64().unwrap_or(0);
        let shown: Vec<String> = PIECES.iter().map(|piece| format!("{} {piece}", counts.get(piece).unwrap_or(&0))).collect();
        let what = if dry_run { "(dry run)" } else { "removed" };
        anstream::println!("installations/{installation}: {looked_at} rows looked at: {} {what}", shown.join(", "));
        if at(&answer, "finished") == true {
            return Ok(());
        }
        if let Some(ask) = ask.as_object_mut() {
            ask.insert("after".into(), at(&answer, "next").clone());
        }
    }
}

pub(super) async fn sweep(target: &Target) -> Result<(), CliError> {
    let answer = target.call(Method::POST, "/v1/sweep", None).await?;
    let shown: Vec<String> = answer.as_object().into_iter().flatten().map(|(kind, n)| format!("{} {kind}", cell(n))).collect();
    anstream::println!("removed: {}", shown.join(", "));
    Ok(())
}
