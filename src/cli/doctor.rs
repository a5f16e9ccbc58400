//! `byoa doctor`: what is wrong, and what to do.

use http::Method;
use serde_json::{Value, json};

use super::show::{cell, raw, table};
use super::{CliError, Output, Target};
use crate::authn::operator::Operators;
use crate::domain::clock::Clock;
use crate::policy::accept::Terms;
use crate::store::Store;
use crate::vault::keys;

fn good(check: &str, detail: String) -> Value {
    json!({"check": check, "ok": true, "detail": detail, "todo": null})
}

fn bad(check: &str, detail: String, todo: &str) -> Value {
    json!({"check": check, "ok": false, "detail": detail, "todo": todo})
}

pub(super) async fn run(target: &Target, output: Output) -> Result<(), CliError> {
    let mut items = local(target);
    match target.call(Method::GET, "/v1/doctor", None).await {
        Ok(answer) => {
            items.push(good("gateway", "answers".into()));
            items.extend(answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default());
        }
        Err(CliError::Found(why) | CliError::Unable(why)) => {
            items.push(bad("gateway", why, "start it with `byoa serve`; until then only files are checked"));
        }
    }
    let wrong = items.iter().filter(|i| i["ok"] != true).count();
    if !raw(&json!({"items": items, "next": null}), output)? {
        let rows = items.iter().map(|i| {
            let mark = if i["ok"] == true { "ok" } else { "WRONG" };
            vec![mark.to_owned(), cell(&i["check"]), cell(&i["detail"]), cell(&i["todo"])]
        });
        anstream::println!("{}", table(&["", "check", "found", "to do"], rows));
    }
    if wrong == 0 { Ok(()) } else { Err(CliError::Found(format!("{wrong} of {} checks found something wrong", items.len()))) }
}

/// What files alone can tell.
fn local(target: &Target) -> Vec<Value> {
    let config = &target.config;
    let mut items = vec![good("configuration", "reads".into())];
    items.push(if config.public_url.is_some() {
        good("public_url", "set".into())
    } else {
        bad("public_url", "absent".into(), "set public_url, so that set-up packets name the address providers reach")
    });
    let terms = Terms::from(&config.policies);
    items.push(match terms.read().and_then(|sources| terms.accept_whole(&sources, Clock::system().now())) {
        Ok((set, rows)) => {
            let version: String = set.version().chars().take(12).collect();
            good("policies", format!("{} policies, {rows} cases of tables hold, version {version}", set.policies()))
        }
        Err(error) => {
            bad("policies", error.to_string(), "mend the file at the place named; the gateway does not start without a valid set")
        }
    });
    // Looking must not make what is missing.
    let env = std::env::var("BYOA_MASTER_KEYS").ok();
    items.push(if env.is_none() && !config.keys.file.exists() {
        bad("keys", format!("{} is not there", config.keys.file.display()), "`byoa serve` makes it on its first start")
    } else {
        match keys::load(&config.keys.file, env.as_deref(), false) {
            Ok((ring, _)) => good("keys", format!("{} loaded, {} seals", ring.masters().len(), ring.current())),
            Err(failure) => bad("keys", failure.detail, "restore the key file from its backup: without it no sealed secret opens"),
        }
    });
    items.push(if config.operators.token_file.exists() {
        match Operators::load(&config.operators.token_file, None) {
            Ok(_) => good("operators", "token file reads".into()),
            Err(failure) => bad("operators", failure.detail, "correct the token file: TOKEN [ROLE [NAME [mfa]]] a line, mode 600"),
        }
    } else {
        bad("operators", format!("{} is not there", config.operators.token_file.display()), "`byoa serve` makes it on its first start")
    });
    items.push(match Store::file_of(&config.store.url) {
        Some(file) if file.exists() => match Store::is_private(file) {
            Ok(()) => good("store", format!("{} is there", file.display())),
            Err(error) => {
                bad("store", error.to_string(), "make it private with the command that is named; the gateway does not start before")
            }
        },
        Some(file) => bad("store", format!("{} is not there", file.display()), "`byoa serve` makes it on its first start"),
        None => bad("store", format!("`{}` names no file", config.store.url), "write store.url as sqlite:PATH"),
    });
    items
}
