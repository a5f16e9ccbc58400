//! byoa-gateway: webhooks in, decided by Cedar, stored, delivered, answered.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice))]

pub mod config;
pub mod crypto;
pub mod domain;
pub mod store;
pub mod wire;
