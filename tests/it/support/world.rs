//! The matrix's world under plain names, for every test that wants three apps of a provider.

use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::matrix::world;
pub use byoa_gateway::matrix::world::{App, account_json};
use serde_json::Value;

/// The platform's app at acme.
pub fn platform(provider: ProviderKind) -> App {
    world::platform(provider, "")
}

/// Acme's own app.
pub fn acme(provider: ProviderKind) -> App {
    world::acme(provider, "")
}

/// Globex's own app.
pub fn globex(provider: ProviderKind) -> App {
    world::globex(provider, "")
}

/// All three with their orgs, agents and bindings, for `apply`.
pub fn document(provider: ProviderKind) -> Value {
    world::document(provider, "", false)
}

/// The same, every installation with its credential.
pub fn document_with_credentials(provider: ProviderKind) -> Value {
    world::document(provider, "", true)
}
