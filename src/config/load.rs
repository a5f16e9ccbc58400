//! Defaults, then the file, then the environment. What is wrong is said with file and line, or with the variable's name.

use std::path::{Path, PathBuf};

use serde_yaml::Value;

use super::{Config, Limits, PolicyTextLimits, SETTLE_MS};
use crate::domain::host::Host;
use crate::domain::reason::ReasonCode;

/// The largest body that a provider sends.
const BODY_BYTES_LARGEST: usize = 3 * 1024 * 1024;

/// Why there is no configuration to run by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ConfigError {
    /// `config.unknown_key` or `config.invalid`.
    pub code: ReasonCode,
    /// Where and what.
    pub message: String,
}

impl ConfigError {
    fn new(origin: &str, message: &str) -> Self {
        let unknown = message.contains("unknown field") || message.contains("unknown variant");
        let code = if unknown && message.contains("unknown field") { ReasonCode::ConfigUnknownKey } else { ReasonCode::ConfigInvalid };
        Self { code, message: format!("{origin}: {message}") }
    }

    /// A setting that cannot be kept to.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { code: ReasonCode::ConfigInvalid, message: message.into() }
    }
}

/// Loads the configuration.
///
/// `file` is `--config`; without it `byoa.yaml` is read where it is there. `env` are the process's variables: those of the
/// form `BYOA_SECTION__KEY` set one key each.
///
/// # Errors
/// [`ConfigError`] with file, line and column, or the variable's name.
pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let path = file.map_or_else(|| PathBuf::from("byoa.yaml"), Path::to_path_buf);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if file.is_none() && e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(ConfigError::invalid(format!("{}: {e}", path.display()))),
    };
    let config = from_text(&path.display().to_string(), &text, env)?;
    validate(&config)?;
    Ok(config)
}

fn from_text(origin: &str, text: &str, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let blank = text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
    // The typed reading comes first: only it knows lines and columns.
    let typed: Config =
        if blank { Config::default() } else { serde_yaml::from_str(text).map_err(|e| ConfigError::new(origin, &e.to_string()))? };
    let mut env: Vec<(String, String)> =
        env.filter(|(name, _)| name.strip_prefix("BYOA_").is_some_and(|rest| rest.contains("__"))).collect();
    if env.is_empty() {
        return Ok(typed);
    }
    env.sort();
    let mut tree = serde_yaml::to_value(&typed).map_err(|e| ConfigError::new(origin, &e.to_string()))?;
    for (name, value) in env {
        let keys: Vec<String> = name.trim_start_matches("BYOA_").split("__").map(str::to_ascii_lowercase).collect();
        let value: Value = serde_yaml::from_str(&value).unwrap_or(Value::String(value));
        set(&mut tree, &keys, value);
        serde_yaml::from_value::<Config>(tree.clone()).map_err(|e| ConfigError::new(&name, &e.to_string()))?;
    }
    serde_yaml::from_value(tree).map_err(|e| ConfigError::new(origin, &e.to_string()))
}

fn set(tree: &mut Value, keys: &[String], value: Value) {
    let Some((first, rest)) = keys.split_first() else {
        *tree = value;
        return;
    };
    if !tree.is_mapping() {
        *tree = Value::Mapping(serde_yaml::Mapping::new());
    }
    if let Value::Mapping(map) = tree {
        set(map.entry(Value::String(first.clone())).or_insert(Value::Null), rest, value);
    }
}

fn validate(config: &Config) -> Result<(), ConfigError> {
    let no = |message: &str| Err(ConfigError::invalid(message));
    if let Some(odd) = config.listen.operator_hosts.iter().find(|host| !matches!(Host::parse(host), Some((_, None)))) {
        return no(&format!(
            "listen.operator_hosts: `{odd}` is no host; write a name or an address, IPv6 in brackets, without scheme and port"
        ));
    }
    if config.delivery.schedule_ms.is_empty() {
        return no("delivery.schedule_ms needs at least one wait");
    }
    let delivery = &config.delivery;
    if delivery.attempt_timeout_ms.checked_add(SETTLE_MS).is_none_or(|least| delivery.lease_ms < least) {
        return no(&format!(
            "delivery.lease_ms must be at least {SETTLE_MS} more than delivery.attempt_timeout_ms: an attempt ends before its lease"
        ));
    }
    let limits = &config.limits;
    for (name, value) in [
        ("delivery.org_concurrency", delivery.org_concurrency),
        ("delivery.agent_concurrency", delivery.agent_concurrency),
        ("limits.header_bytes_max", limits.header_bytes_max),
        ("limits.header_lines_max", limits.header_lines_max),
        ("limits.connections_per_address_max", limits.connections_per_address_max),
        ("limits.agent_calls_max", limits.agent_calls_max),
        ("limits.queue_max", limits.queue_max),
        ("limits.batch_max", limits.batch_max),
        ("limits.api_body_bytes_max", limits.api_body_bytes_max),
        ("limits.provider_answer_bytes_max", limits.provider_answer_bytes_max),
    ] {
        if value == 0 {
            return no(&format!("{name} must be at least 1"));
        }
    }
    for (name, value) in [("limits.write_timeout_ms", limits.write_timeout_ms), ("limits.connection_life_ms", limits.connection_life_ms)] {
        if value == 0 {
            return no(&format!("{name} must be at least 1"));
        }
    }
    // One sender has a share of each: the largest body must find room in it.
    let largest = limits.api_body_bytes_max.max(BODY_BYTES_LARGEST).saturating_mul(Limits::SHARES);
    for (name, value, least) in [
        ("limits.unproved_bytes_max", limits.unproved_bytes_max, largest),
        ("limits.proved_bytes_max", limits.proved_bytes_max, largest),
        ("limits.spooled_bytes_max", limits.spooled_bytes_max, limits.sdk_body_bytes_max.saturating_mul(Limits::SHARES)),
    ] {
        if value < least {
            return no(&format!("{name} must be at least {least}: one sender has a quarter, and the largest body is read"));
        }
    }
    if limits.header_bytes_max < 8192 {
        return no("limits.header_bytes_max must be at least 8192");
    }
    if config.quotas.burst > 0 && config.quotas.events_per_second == 0 {
        return no("quotas.burst needs quotas.events_per_second");
    }
    config.retention.check(limits.session_idle_hours).map_err(ConfigError::invalid)?;
    let (platform, least, most) = (config.policies.platform_limits, PolicyTextLimits::default(), PolicyTextLimits::MOST);
    for (name, value, least, most) in [
        ("nesting", platform.nesting, least.nesting, most.nesting),
        ("operators", platform.operators, least.operators, most.operators),
        ("file_bytes", platform.file_bytes, least.file_bytes, most.file_bytes),
    ] {
        if !(least..=most).contains(&value) {
            return no(&format!("policies.platform_limits.{name} must be between {least} and {most}"));
        }
    }
    for path in config.ingress.aliases.keys() {
        if !path.starts_with('/') || path.starts_with("/webhooks/") || path.starts_with("/v1/") || path.starts_with("/sdk/") {
            return no(&format!("ingress.aliases: `{path}` must start with / and not shadow an address of the gateway"));
        }
    }
    for (name, base) in
        [("slack", &config.providers.slack), ("telegram", &config.providers.telegram), ("whatsapp", &config.providers.whatsapp)]
    {
        match url::Url::parse(&base.api_base) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => {}
            _ => return no(&format!("providers.{name}.api_base: `{}` is no http(s) address", base.api_base)),
        }
    }
    Ok(())
}

/// The configuration as YAML with whatever could be a secret redacted.
pub fn redacted(config: &Config) -> String {
    let mut config = config.clone();
    if let Ok(mut url) = url::Url::parse(&config.store.url)
        && url.password().is_some()
    {
        let _ = url.set_password(Some("redacted"));
        config.store.url = url.to_string();
    }
    serde_yaml::to_string(&config).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let text = "listen: {public: \"127.0.0.1:1\"}\nrollout: {initial: {slack: \"canary\", telegram: on}}\n";
        let config =
            from_text("byoa.yaml", text, env(&[("BYOA_LISTEN__PUBLIC", "127.0.0.1:2"), ("BYOA_EGRESS__ALLOW_PRIVATE_AGENTS", "true")]))
                .unwrap();
        assert_eq!(config.listen.public.port(), 2);
        assert!(config.egress.allow_private_agents);
        assert_eq!(config.rollout.initial[&ProviderKind::Telegram].as_str(), "on");
    }

    use crate::domain::installation::ProviderKind;

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let bad = |text: &str, pairs: &[(&str, &str)]| from_text("byoa.yaml", text, env(pairs)).unwrap_err();
        let e = bad("listen:\n  pubic: 127.0.0.1:1\n", &[]);
        assert_eq!(e.code, ReasonCode::ConfigUnknownKey);
        assert!(e.message.contains("byoa.yaml") && e.message.contains("line 2"), "{e}");
        let e = bad("ingress: {skip_verification: true}\n", &[]);
        assert_eq!(e.code, ReasonCode::ConfigUnknownKey);
        let e = bad("", &[("BYOA_LISTEN__PUBIC", "x")]);
        assert!(e.code == ReasonCode::ConfigUnknownKey && e.message.starts_with("BYOA_LISTEN__PUBIC"), "{e}");
        let e = bad("listen: {public: nowhere}\n", &[]);
        assert_eq!(e.code, ReasonCode::ConfigInvalid);
    }

    #[test]
    fn an_attempt_ends_before_its_lease_and_everybody_has_a_slot() {
        let check = |text: &str| validate(&from_text("byoa.yaml", text, env(&[])).unwrap());
        assert_eq!(check("delivery: {attempt_timeout_ms: 25000, lease_ms: 30000}"), Ok(()));
        for text in [
            "delivery: {attempt_timeout_ms: 25001}",
            "delivery: {lease_ms: 19999}",
            "delivery: {attempt_timeout_ms: 18446744073709551615, lease_ms: 18446744073709551615}",
            "delivery: {agent_concurrency: 0}",
            "delivery: {org_concurrency: 0}",
        ] {
            assert_eq!(check(text).map_err(|e| e.code), Err(ReasonCode::ConfigInvalid), "{text}");
        }
    }

    #[test]
    fn the_dump_shows_no_password() {
        let mut config = Config::default();
        config.store.url = "postgres://user:hunter2@host/db".into();
        assert!(!redacted(&config).contains("hunter2"));
    }

    #[test]
    fn defaults_are_what_the_dump_says() {
        insta::assert_snapshot!(redacted(&Config::default()));
    }
}
