//! The nouns: ids, installations, messages, sessions, rollout stages, deliveries, reasons, secrets, time.
//!
//! Owns what the other floors talk about. Never does I/O, never waits, knows no other module. Floor 0.

pub mod breaker;
pub mod clock;
pub mod delivery;
pub mod guard;
pub mod host;
pub mod ids;
pub mod installation;
pub mod lifecycle;
pub mod matrix;
pub mod message;
pub mod quota;
pub mod reason;
pub mod record;
pub mod repeats;
pub mod rollout;
pub mod route;
pub mod secret;
pub mod session;
