//! `byoa apply`, `byoa get`, `byoa delete`.

use std::io::Read as _;
use std::path::Path;

use http::Method;
use serde_json::Value;

use super::show::{cell, raw, table};
use super::{CliError, Output, Target};

/// Fields that hold a secret, as `{value: …}`, `{env: NAME}` or `{file: PATH}`.
const SECRETS: [&str; 7] =
    ["signing_secret", "previous_signing_secret", "verify_token", "client_secret", "credential", "refresh_token", "token"];

pub(super) async fn apply(target: &Target, file: &Path, dry_run: bool) -> Result<(), CliError> {
    let unread = |e: &dyn std::fmt::Display| CliError::Unable(format!("{}: {e}", file.display()));
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(|e| unread(&e))?;
        text
    } else {
        std::fs::read_to_string(file).map_err(|e| unread(&e))?
    };
    let mut document: Value = serde_yaml::from_str(&text).map_err(|e| CliError::Found(format!("{}: {e}", file.display())))?;
    resolve(&mut document).map_err(|e| CliError::Found(format!("{}: {e}", file.display())))?;
    let path = if dry_run { "/v1/apply?dry_run=true" } else { "/v1/apply" };
    let answer = target.call(Method::POST, path, Some(&document)).await?;
    for item in answer.get("items").and_then(Value::as_array).into_iter().flatten() {
        let would = if dry_run { " (dry run)" } else { "" };
        anstream::println!("{}/{} {}{would}", cell(&item["kind"]), cell(&item["id"]), cell(&item["action"]));
    }
    Ok(())
}

/// Puts the environment's and files' secrets in as values. Here and not in the gateway: an operator's request must not
/// make the gateway read its own files.
pub(super) fn resolve(value: &mut Value) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter_mut().try_for_each(resolve),
        Value::Object(fields) => fields
            .iter_mut()
            .try_for_each(|(name, value)| if SECRETS.contains(&name.as_str()) { secret(name, value) } else { resolve(value) }),
        _ => Ok(()),
    }
}

fn secret(name: &str, value: &mut Value) -> Result<(), String> {
    let Value::Object(fields) = value else { return Err(format!("{name}: write {{value: …}}, {{env: NAME}} or {{file: PATH}}")) };
    // A credential has its refresh token in it.
    if let Some(token) = fields.get_mut("refresh_token") {
        secret("refresh_token", token)?;
    }
    let found = match (fields.remove("env"), fields.remove("file")) {
        (None, None) => return Ok(()),
        (Some(Value::String(var)), None) => std::env::var(&var).map_err(|_| format!("{name}: the environment has no {var}"))?,
        (None, Some(Value::String(path))) => {
            std::fs::read_to_string(&path).map_err(|e| format!("{name}: {path}: {e}"))?.trim_end().to_owned()
        }
        _ => return Err(format!("{name}: write one of {{value: …}}, {{env: NAME}}, {{file: PATH}}")),
    };
    fields.insert("value".into(), Value::String(found));
    Ok(())
}

pub(super) async fn get(
    target: &Target,
    kind: &str,
    id: Option<&str>,
    org: Option<&str>,
    limit: u32,
    output: Output,
) -> Result<(), CliError> {
    let plain = |word: &str| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if !plain(kind) || !id.is_none_or(plain) || !org.is_none_or(plain) {
        return Err(CliError::Unable("kinds and ids are letters, digits, - and _".into()));
    }
    let path = match id {
        Some(id) => format!("/v1/{kind}/{id}"),
        None => format!("/v1/{kind}?limit={limit}{}", org.map(|o| format!("&org={o}")).unwrap_or_default()),
    };
    let answer = target.call(Method::GET, &path, None).await?;
    if raw(&answer, output)? {
        return Ok(());
    }
    match answer.get("items").and_then(Value::as_array) {
        Some(items) => list(kind, items),
        None => anstream::println!("{}", serde_yaml::to_string(&answer).unwrap_or_default().trim_end()),
    }
    Ok(())
}

fn columns(kind: &str) -> &'static [&'static str] {
    match kind {
        "orgs" => &["id", "name", "suspended", "fallback_opt_in"],
        "profiles" => &["id", "provider", "owner", "app_id", "ingress_id"],
        "installations" => &["id", "profile", "org", "status", "account"],
        "agents" => &["id", "org", "endpoint", "format", "status", "breaker"],
        "bindings" => &["id", "org", "installation", "select", "agent", "priority", "enabled"],
        "sessions" => &["id", "org", "installation", "agent", "conversation", "thread", "status", "last_at"],
        "events" => &["id", "received_at", "org", "installation", "kind", "agent", "session"],
        "deliveries" => &["id", "event", "agent", "state", "attempt", "code", "due_at"],
        "decisions" => &["id", "at", "action", "allowed", "code", "policies", "subject"],
        "audit" => &["at", "actor", "action", "target", "outcome", "code", "policies"],
        "refusals" => &["first_at", "last_at", "count", "profile", "installation", "code", "policies", "digest"],
        "sends" => &["id", "agent", "installation", "state", "status", "code", "provider_message_id"],
        _ => &["id"],
    }
}

fn list(kind: &str, items: &[Value]) {
    if items.is_empty() {
        anstream::println!("no {kind}");
        return;
    }
    let columns = columns(kind);
    // Of a breaker a table has room for its state; an app id that was not declared is told apart.
    let value = |item: &Value, column: &str| match (column, item.get("learned_app_id")) {
        ("breaker", _) => item.pointer("/breaker/state").map_or_else(String::new, cell),
        ("app_id", Some(learned)) => format!("{} (learned)", cell(learned)),
        (column, _) => item.get(column).map_or_else(String::new, cell),
    };
    let rows = items.iter().map(|item| columns.iter().map(|c| value(item, c)).collect());
    anstream::println!("{}", table(columns, rows));
}

pub(super) async fn delete(target: &Target, kind: &str, id: &str) -> Result<(), CliError> {
    target.call(Method::DELETE, &format!("/v1/{kind}/{id}"), None).await?;
    anstream::println!("{kind}/{id} deleted");
    Ok(())
}
