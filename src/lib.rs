//! A gateway between messaging providers and the agents that answer people.
//!
//! Slack, Telegram and WhatsApp call in with webhooks. Each is proved with the secrets of the app it is addressed to, bound
//! to an installation of one tenant, decided by Cedar policies, and committed to disk before it is acknowledged. Agents are
//! sent what is theirs, at least once and signed, and answer through the gateway, which alone opens the provider's
//! credential, and only for a send that policy permitted.
//!
//! Modules stand on floors and use what is below: [`domain`] at the ground; [`config`], [`telemetry`], [`crypto`], [`wire`];
//! [`providers`], [`transport`], [`store`]; [`vault`]; [`authn`]; [`policy`]; [`routing`], [`rollout`], [`credentials`];
//! [`ingress`], [`egress`], [`delivery`], [`admin`]; [`http`]; [`app`]; [`matrix`]; [`cli`] on top. `docs/architecture.md` has the map.
//!
//! # Seals
//!
//! What a type proves holds because nothing else can make one. Each pair below differs in one line: the first must not
//! compile, the second must.
//!
//! A signature is valid when `providers` proved it.
//!
//! ```compile_fail,E0451
//! use byoa_gateway::domain::reason::ReasonCode;
//! use byoa_gateway::providers::{Inspected, SecretSlot, SignatureValid, SigningSecrets};
//! fn prove(claim: Inspected, body: &[u8], secrets: &SigningSecrets) -> Result<SignatureValid, ReasonCode> {
//!     Ok(SignatureValid { slot: SecretSlot::Current })
//! }
//! ```
//!
//! ```
//! use byoa_gateway::domain::reason::ReasonCode;
//! use byoa_gateway::providers::{Inspected, SecretSlot, SignatureValid, SigningSecrets};
//! fn prove(claim: Inspected, body: &[u8], secrets: &SigningSecrets) -> Result<SignatureValid, ReasonCode> {
//!     claim.prove(body, secrets)
//! }
//! ```
//!
//! A sender is who a verified event came from.
//!
//! ```compile_fail,E0423
//! use byoa_gateway::authn::principal::{Bound, Sender, SenderMode};
//! use byoa_gateway::authn::webhook::Verified;
//! use byoa_gateway::domain::installation::Installation;
//! use byoa_gateway::store::directory::Kept;
//! fn name(installation: std::sync::Arc<Kept<Installation>>, verified: &Verified) -> String {
//!     Sender::Slack(SenderMode::Byoa(Bound(installation))).name()
//! }
//! ```
//!
//! ```
//! use byoa_gateway::authn::principal::{Bound, Sender, SenderMode};
//! use byoa_gateway::authn::webhook::Verified;
//! use byoa_gateway::domain::installation::Installation;
//! use byoa_gateway::store::directory::Kept;
//! fn name(installation: std::sync::Arc<Kept<Installation>>, verified: &Verified) -> String {
//!     verified.sender().name()
//! }
//! ```
//!
//! An agent is whoever has its token.
//!
//! ```compile_fail,E0423
//! use byoa_gateway::authn::{agent::authenticate, principal::AgentPrincipal};
//! use byoa_gateway::domain::{installation::Agent, reason::ReasonCode};
//! use byoa_gateway::store::directory::{Directory, Kept};
//! use byoa_gateway::vault::Vault;
//! fn agent(directory: &Directory, vault: &Vault, known: std::sync::Arc<Kept<Agent>>) -> Result<AgentPrincipal, ReasonCode> {
//!     Ok(AgentPrincipal(known))
//! }
//! ```
//!
//! ```
//! use byoa_gateway::authn::{agent::authenticate, principal::AgentPrincipal};
//! use byoa_gateway::domain::{installation::Agent, reason::ReasonCode};
//! use byoa_gateway::store::directory::{Directory, Kept};
//! use byoa_gateway::vault::Vault;
//! fn agent(directory: &Directory, vault: &Vault, known: std::sync::Arc<Kept<Agent>>) -> Result<AgentPrincipal, ReasonCode> {
//!     authenticate(Some("token"), directory, vault)
//! }
//! ```
//!
//! An operator is whoever has his token.
//!
//! ```compile_fail,E0451
//! use byoa_gateway::authn::{operator::Operators, principal::{OperatorPrincipal, Role}};
//! use byoa_gateway::domain::reason::ReasonCode;
//! fn operator(operators: &Operators) -> Result<OperatorPrincipal, ReasonCode> {
//!     Ok(OperatorPrincipal { name: "ann".into(), role: Role::Security })
//! }
//! ```
//!
//! ```
//! use byoa_gateway::authn::{operator::Operators, principal::{OperatorPrincipal, Role}};
//! use byoa_gateway::domain::reason::ReasonCode;
//! fn operator(operators: &Operators) -> Result<OperatorPrincipal, ReasonCode> {
//!     operators.authenticate(Some("token"))
//! }
//! ```
//!
//! An event is verified when it was read from a proved request.
//!
//! ```compile_fail,E0451
//! use byoa_gateway::authn::principal::Sender;
//! use byoa_gateway::authn::webhook::{Binding, Verified};
//! use byoa_gateway::domain::message::InboundEvent;
//! use byoa_gateway::providers::SecretSlot;
//! fn verified(binding: Binding, sender: Sender, event: InboundEvent) -> Option<Box<Verified>> {
//!     match binding {
//!         Binding::Bound(_) => Some(Box::new(Verified { sender, event, slot: SecretSlot::Current })),
//!         Binding::Refused(_) => None,
//!     }
//! }
//! ```
//!
//! ```
//! use byoa_gateway::authn::principal::Sender;
//! use byoa_gateway::authn::webhook::{Binding, Verified};
//! use byoa_gateway::domain::message::InboundEvent;
//! use byoa_gateway::providers::SecretSlot;
//! fn verified(binding: Binding, sender: Sender, event: InboundEvent) -> Option<Box<Verified>> {
//!     match binding {
//!         Binding::Bound(verified) => Some(verified),
//!         Binding::Refused(_) => None,
//!     }
//! }
//! ```
//!
//! A permit is the law's yes to one question.
//!
//! ```compile_fail,E0451
//! use byoa_gateway::policy::{Decision, Denied, Permit, SendMessage, Snapshot};
//! fn permit(law: &Snapshot, ask: SendMessage, decision: std::sync::Arc<Decision>) -> Result<Permit<SendMessage>, Denied> {
//!     Ok(Permit { ask, decision })
//! }
//! ```
//!
//! ```
//! use byoa_gateway::policy::{Decision, Denied, Permit, SendMessage, Snapshot};
//! fn permit(law: &Snapshot, ask: SendMessage, decision: std::sync::Arc<Decision>) -> Result<Permit<SendMessage>, Denied> {
//!     law.decide(ask)
//! }
//! ```
//!
//! An event is routed when policy permitted it to an agent.
//!
//! ```compile_fail,E0451
//! use std::sync::Arc;
//! use byoa_gateway::authn::webhook::Verified;
//! use byoa_gateway::domain::{route::Route, session::SessionKey};
//! use byoa_gateway::policy::{Decision, Permit, RouteMessage, Snapshot};
//! use byoa_gateway::routing::{self, Routed};
//! use byoa_gateway::store::directory::Directory;
//! type Found = (Route, SessionKey, Option<String>, Option<Arc<Decision>>, Permit<RouteMessage>);
//! fn routed(law: &Snapshot, all: &Directory, verified: Box<Verified>, (route, session, peer, legacy, permit): Found) -> Option<Routed> {
//!     Some(Routed { verified, route, session, peer, legacy, permit })
//! }
//! ```
//!
//! ```
//! use std::sync::Arc;
//! use byoa_gateway::authn::webhook::Verified;
//! use byoa_gateway::domain::{route::Route, session::SessionKey};
//! use byoa_gateway::policy::{Decision, Permit, RouteMessage, Snapshot};
//! use byoa_gateway::routing::{self, Routed};
//! use byoa_gateway::store::directory::Directory;
//! type Found = (Route, SessionKey, Option<String>, Option<Arc<Decision>>, Permit<RouteMessage>);
//! fn routed(law: &Snapshot, all: &Directory, verified: Box<Verified>, (route, session, peer, legacy, permit): Found) -> Option<Routed> {
//!     routing::inbound(law, all, verified, true).ok()
//! }
//! ```
//!
//! A lease is a credential that policy permitted for one send.
//!
//! ```compile_fail,E0451
//! use byoa_gateway::credentials::{self, CredentialLease};
//! use byoa_gateway::domain::clock::Timestamp;
//! use byoa_gateway::domain::installation::Installation;
//! use byoa_gateway::policy::{Permit, SendMessage, Snapshot, UseCredential};
//! use byoa_gateway::store::directory::{Directory, Kept};
//! type Stolen = (std::sync::Arc<Kept<Installation>>, Permit<UseCredential>);
//! fn lease(law: &Snapshot, all: &Directory, spoken: &Permit<SendMessage>, (installation, permit): Stolen) -> Option<CredentialLease> {
//!     Some(CredentialLease { installation, permit, takeover: None })
//! }
//! ```
//!
//! ```
//! use byoa_gateway::credentials::{self, CredentialLease};
//! use byoa_gateway::domain::clock::Timestamp;
//! use byoa_gateway::domain::installation::Installation;
//! use byoa_gateway::policy::{Permit, SendMessage, Snapshot, UseCredential};
//! use byoa_gateway::store::directory::{Directory, Kept};
//! type Stolen = (std::sync::Arc<Kept<Installation>>, Permit<UseCredential>);
//! fn lease(law: &Snapshot, all: &Directory, spoken: &Permit<SendMessage>, (installation, permit): Stolen) -> Option<CredentialLease> {
//!     credentials::select(law, all, spoken, false, Timestamp::default()).outcome.ok()
//! }
//! ```
//!
//! A send leaves its own route for the platform's when policy permitted both to leave and to arrive.
//!
//! ```compile_fail,E0451
//! use byoa_gateway::credentials::{CredentialLease, Takeover};
//! use byoa_gateway::domain::reason::ReasonCode;
//! use byoa_gateway::policy::{Permit, SendMessage, UseFallback};
//! fn why(lease: &CredentialLease, leave: Permit<UseFallback>, speak: Permit<SendMessage>) -> Option<ReasonCode> {
//!     Some(Takeover { leave, speak, reason: ReasonCode::CredentialsAbsent }.reason())
//! }
//! ```
//!
//! ```
//! use byoa_gateway::credentials::{CredentialLease, Takeover};
//! use byoa_gateway::domain::reason::ReasonCode;
//! use byoa_gateway::policy::{Permit, SendMessage, UseFallback};
//! fn why(lease: &CredentialLease, leave: Permit<UseFallback>, speak: Permit<SendMessage>) -> Option<ReasonCode> {
//!     lease.takeover().map(Takeover::reason)
//! }
//! ```
//!
//! A credential opens for the permit that names it, and not for an id.
//!
//! ```compile_fail,E0277
//! use byoa_gateway::domain::{ids::InstallationId, reason::Failure, secret::Secret};
//! use byoa_gateway::policy::{Permit, UseCredential};
//! use byoa_gateway::{store::directory::Directory, vault::Vault};
//! fn open(vault: &Vault, all: &Directory, id: &InstallationId, permit: &Permit<UseCredential>) -> Result<Secret, Failure> {
//!     vault.credential(id, all)
//! }
//! ```
//!
//! ```
//! use byoa_gateway::domain::{ids::InstallationId, reason::Failure, secret::Secret};
//! use byoa_gateway::policy::{Permit, UseCredential};
//! use byoa_gateway::{store::directory::Directory, vault::Vault};
//! fn open(vault: &Vault, all: &Directory, id: &InstallationId, permit: &Permit<UseCredential>) -> Result<Secret, Failure> {
//!     vault.credential(permit, all)
//! }
//! ```
//!
//! Nor for the answer to another question.
//!
//! ```compile_fail,E0277
//! use byoa_gateway::domain::{reason::Failure, secret::Secret};
//! use byoa_gateway::policy::{Permit, SendMessage, UseCredential};
//! use byoa_gateway::{store::directory::Directory, vault::Vault};
//! fn open(vault: &Vault, all: &Directory, permit: &Permit<SendMessage>) -> Result<Secret, Failure> {
//!     vault.credential(permit, all)
//! }
//! ```
//!
//! ```
//! use byoa_gateway::domain::{reason::Failure, secret::Secret};
//! use byoa_gateway::policy::{Permit, SendMessage, UseCredential};
//! use byoa_gateway::{store::directory::Directory, vault::Vault};
//! fn open(vault: &Vault, all: &Directory, permit: &Permit<UseCredential>) -> Result<Secret, Failure> {
//!     vault.credential(permit, all)
//! }
//! ```
//!
//! What an agent can ask the store for, it asks in its own name: an id is not enough.
//!
//! ```compile_fail,E0277
//! use byoa_gateway::authn::principal::AgentPrincipal;
//! use byoa_gateway::domain::ids::{AgentId, SessionId};
//! use byoa_gateway::store::{SessionView, Store};
//! async fn read(store: &Store, agent: &AgentId, principal: &AgentPrincipal, id: &SessionId) -> Option<SessionView> {
//!     store.session_of(agent, id).await.ok()?
//! }
//! ```
//!
//! ```
//! use byoa_gateway::authn::principal::AgentPrincipal;
//! use byoa_gateway::domain::ids::{AgentId, SessionId};
//! use byoa_gateway::store::{SessionView, Store};
//! async fn read(store: &Store, agent: &AgentId, principal: &AgentPrincipal, id: &SessionId) -> Option<SessionView> {
//!     store.session_of(principal, id).await.ok()?
//! }
//! ```
//!
//! A secret does not print.
//!
//! ```compile_fail,E0277
//! use byoa_gateway::domain::secret::Secret;
//! let secret = Secret::new("xoxb-1".to_owned());
//! println!("{secret}");
//! ```
//!
//! ```
//! use byoa_gateway::domain::secret::Secret;
//! let secret = Secret::new("xoxb-1".to_owned());
//! println!("{secret:?}"); // [redacted]
//! ```
//!
//! It is not copied.
//!
//! ```compile_fail,E0599
//! use byoa_gateway::domain::secret::Secret;
//! let secret = Secret::new("xoxb-1".to_owned());
//! let other: Secret = secret.clone();
//! ```
//!
//! ```
//! use byoa_gateway::domain::secret::Secret;
//! let secret = Secret::new("xoxb-1".to_owned());
//! let other: Secret = secret;
//! ```
//!
//! It is not written to JSON.
//!
//! ```compile_fail,E0277
//! use byoa_gateway::domain::secret::Secret;
//! let secret = Secret::new("xoxb-1".to_owned());
//! serde_json::to_string(&secret).unwrap();
//! ```
//!
//! ```
//! use byoa_gateway::domain::secret::Secret;
//! let secret = Secret::new("xoxb-1".to_owned());
//! serde_json::to_string(secret.expose()).unwrap();
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::string_slice))]

#[cfg(all(feature = "break-guards", not(debug_assertions)))]
compile_error!("break-guards takes guards out: it is for tests and never for a gateway that serves");

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
pub mod matrix;
pub mod policy;
pub mod providers;
pub mod quota;
pub mod rollout;
pub mod routing;
pub mod store;
pub mod telemetry;
pub mod transport;
pub mod vault;
pub mod wire;
