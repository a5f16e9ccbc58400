//! Logs and metrics. Owns their set-up and their names; never sees a secret, a body or an address with a token. Floor 1.

pub mod metrics;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Human,
}

/// Starts logging to stderr; a second call changes nothing. `RUST_LOG` wins over `level`.
///
/// JSON escapes whatever it holds; the human form escapes control characters too (tracing-subscriber ≥ 0.3.20,
/// RUSTSEC-2025-0055).
pub fn start(lines: Lines, level: &str) {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match lines {
        Lines::Json => registry
            .with(tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(false).with_writer(std::io::stderr))
            .try_init(),
        Lines::Human => registry.with(tracing_subscriber::fmt::layer().with_target(false).with_writer(std::io::stderr)).try_init(),
    };
}
