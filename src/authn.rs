//! Who is this, proved how. Webhooks by the secrets of the app they are addressed to, agents and operators by token.
//!
//! Owns the principals: nobody else can make one. Never asks policy, never routes. Floor 4.

pub mod agent;
pub mod operator;
pub mod principal;
pub mod webhook;
