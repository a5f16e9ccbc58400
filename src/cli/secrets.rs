//! `byoa secrets`: a profile's signing secret is replaced, or the one before it dropped.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use super::show::cell;
use super::{CliError, Target};
use crate::domain::secret::Secret;

#[derive(Debug, Subcommand)]
pub(super) enum SecretsCommand {
    /// Put a new signing secret in force; the one before it verifies on for a while.
    Rotate {
        /// The profile.
        profile: String,
        /// env:NAME, file:PATH or value:TEXT; anything else is the secret itself, which then stands in the shell's history.
        #[arg(long, value_name = "SECRET", value_parser = said)]
        new: New,
        /// How long the one before it verifies on: 90m, 24h, 7d at most; 0 ends it at once.
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = seconds)]
        overlap: i64,
    },
    /// Drop the previous signing secret before its time.
    Revoke {
        /// The profile.
        profile: String,
    },
}

/// Where the new secret is.
#[derive(Clone, Debug)]
pub(super) enum New {
    Env(String),
    File(String),
    Value(std::sync::Arc<Secret>),
}

fn said(text: &str) -> Result<New, std::convert::Infallible> {
    let value = |text: &str| New::Value(std::sync::Arc::new(Secret::new(text.to_owned())));
    Ok(match text.split_once(':') {
        Some(("env", name)) => New::Env(name.to_owned()),
        Some(("file", path)) => New::File(path.to_owned()),
        Some(("value", rest)) => value(rest),
        _ => value(text),
    })
}

fn seconds(text: &str) -> Result<i64, String> {
    if text == "0" {
        return Ok(0);
    }
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let span = text.parse::<jiff::Span>().map_err(|_| "write it as 90m, 24h or 7d".to_owned())?;
    span.to_duration(days).map(|duration| duration.as_secs()).map_err(|_| "write it as 90m, 24h or 7d".to_owned())
}

fn read(new: &New) -> Result<Secret, CliError> {
    match new {
        New::Value(secret) => Ok(Secret::new(secret.expose().to_owned())),
        New::Env(name) => std::env::var(name).map(Secret::new).map_err(|_| CliError::Unable(format!("the environment has no {name}"))),
        New::File(path) => std::fs::read_to_string(path)
            .map(|text| Secret::new(text.trim_end().to_owned()))
            .map_err(|e| CliError::Unable(format!("{path}: {e}"))),
    }
}

pub(super) async fn run(target: &Target, command: SecretsCommand) -> Result<(), CliError> {
    let (path, body) = match &command {
        SecretsCommand::Rotate { profile, new, overlap } => {
            let body = json!({"signing_secret": {"value": read(new)?.expose()}, "overlap_s": overlap});
            (format!("/v1/secrets/{}/rotate", word(profile)?), Some(body))
        }
        SecretsCommand::Revoke { profile } => (format!("/v1/secrets/{}/revoke", word(profile)?), None),
    };
    let profile = target.call(Method::POST, &path, body.as_ref()).await?;
    let until = profile.pointer("/previous_signing_secret/until").filter(|until| !until.is_null());
    let before = until.map_or_else(|| "no other verifies".to_owned(), |until| format!("the one before it verifies until {}", cell(until)));
    let fingerprint = profile.pointer("/signing_secret/fingerprint").unwrap_or(&Value::Null);
    anstream::println!("profiles/{}: secret {} is in force, {before}", cell(profile.get("id").unwrap_or(&Value::Null)), cell(fingerprint));
    Ok(())
}

/// An id as it may stand in a path.
pub(super) fn word(id: &str) -> Result<&str, CliError> {
    let plain = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if plain { Ok(id) } else { Err(CliError::Unable("ids are letters, digits, - and _".into())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_read_as_people_write_them() {
        for (text, wanted) in
            [("0", Some(0)), ("90m", Some(5_400)), ("24h", Some(86_400)), ("7d", Some(604_800)), ("90", None), ("x", None)]
        {
            assert_eq!(seconds(text).ok(), wanted, "{text}");
        }
    }
}
