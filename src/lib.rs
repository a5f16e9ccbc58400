//! byoa-gateway: webhooks in, decided by Cedar, stored, delivered, answered.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice))]

pub mod admin;
pub mod app;
pub mod authn;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod crypto;
pub mod delivery;
pub mod domain;
pub mod egress;
pub mod http;
pub mod ingress;
pub mod policy;
pub mod providers;
pub mod rollout;
pub mod routing;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod vault;
pub mod wire;
