//! `byoa serve`: start, say where, run until told to stop, drain.

use std::io::Write as _;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;
use crate::app::{EnvSecrets, Gateway, Outfit};
use crate::config::{Config, LogFormat, LogSection};
use crate::domain::clock::Clock;
use crate::matrix;
use crate::telemetry::{self, Lines};

/// Secrets from the environment, taken once.
pub(super) fn env_secrets() -> EnvSecrets {
    let var = |name: &str| std::env::var(name).ok().filter(|v| !v.trim().is_empty());
    EnvSecrets { master_keys: var("BYOA_MASTER_KEYS"), operator_token: var("BYOA_OPERATOR_TOKEN") }
}

/// Starts logging as the settings say.
pub(super) fn start_log(log: &LogSection) {
    let lines = match log.format {
        LogFormat::Json => Lines::Json,
        LogFormat::Human => Lines::Human,
    };
    telemetry::start(lines, &log.level);
}

/// Secrets live in this process's memory: no core dump may hold them, no other process of the user may look.
pub(super) fn harden() {
    if let Err(error) = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable) {
        tracing::warn!(error = %error, "core dumps could not be switched off");
    }
}

/// The soft limit of file descriptors is often a fraction of what the process may have.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(error = %error, soft = limit.current, hard = limit.maximum, "the limit of file descriptors could not be raised");
    }
}

fn listen_for(kind: SignalKind) -> Result<Signal, CliError> {
    signal(kind).map_err(|e| CliError::Unable(format!("signals: {e}")))
}

pub(super) async fn run(config: Config) -> Result<(), CliError> {
    start_log(&config.log);
    harden();
    raise_descriptors();
    let (mut term, mut int) = (listen_for(SignalKind::terminate())?, listen_for(SignalKind::interrupt())?);
    let outfit = Outfit { player: Some(matrix::player()), ..Outfit::default() };
    let gateway = Gateway::start_with(config, env_secrets(), Clock::system(), outfit)
        .await
        .map_err(|f| CliError::Found(format!("{}: {}", f.code, f.detail)))?;
    println!("listening public={} operator={}", gateway.public, gateway.operator);
    let _ = std::io::stdout().flush();
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("draining");
    let drained = tokio::select! {
        drained = gateway.drain() => drained,
        // A second signal is meant.
        _ = term.recv() => false,
        _ = int.recv() => false,
    };
    if drained { Ok(()) } else { Err(CliError::Found("stopped before everything was finished".into())) }
}
