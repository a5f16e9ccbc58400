//! One integration binary; suites as modules. Everything goes over real sockets on loopback, against a manual clock
//! (`durable` alone runs the real binary, on the machine's).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice)]

mod answers;
mod behaviour;
mod both_ways;
mod canaries;
mod cli;
mod connections;
mod demo;
mod docs;
mod docs_rollout;
mod durable;
mod failure_paths;
mod fairness;
mod fixtures;
mod fuzz;
#[cfg(feature = "break-guards")]
mod guards;
mod import;
mod journey;
mod keys;
mod layering;
mod learned_app;
mod lifecycle;
mod limits;
mod matrix_run;
mod media;
mod mutants;
mod native;
mod operator;
mod org_policies;
mod outbound;
mod policy_cli;
mod policy_diff;
mod prove;
mod questions;
mod rates;
mod release;
mod reload;
mod retention;
mod rollout;
mod rollout_load;
mod rotation;
mod rotation_slack;
mod routes;
mod sdk;
mod sdk_paths;
mod sessions;
mod shred;
mod support;
mod synchronous;
mod tables;
mod tenants;
mod vectors;
mod worked_edits;
