//! What the store's use cases take and give: domain values, never rows.

use std::sync::Arc;

use serde_json::Value as Json;

use super::directory;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, BindingId, EventId, InstallationId, MessageId, OrgId, ProfileId, RequestId, SessionId};
use crate::domain::installation::{Agent, AppProfile, Binding, Installation, Mode, Org, ProviderKind};
use crate::domain::lifecycle::{Shift, Shifted};
use crate::domain::message::{EventKind, Normal};
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::record::{AuditRecord, Decision, RefusalRecord};
use crate::domain::route::Route;
use crate::domain::session::SessionKey;

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk is full: {0}")]
    Full(String),
    /// Somebody else holds the lock.
    #[error("the store is locked: {0}")]
    Busy(String),
    /// The file is damaged.
    #[error("the store's file is damaged: {0}")]
    Corrupt(String),
    /// A constraint said no; the text names it.
    #[error("{0}")]
    Conflict(String),
    /// Too many requests wait.
    #[error("too many requests wait for the store")]
    Overloaded,
    /// What was done could not be written down, so it was not done.
    #[error("the audit line could not be written: {0}")]
    Unaudited(String),
    /// The key that content is sealed under is not loaded, or was destroyed.
    #[error("the content key of {0} is not loaded")]
    KeyMissing(String),
    /// Anything else.
    #[error("the store failed: {0}")]
    Unavailable(String),
    /// It may not be opened.
    #[error("{message}")]
    Refused {
        /// Which rule.
        code: ReasonCode,
        /// What and where.
        message: String,
    },
}

impl StoreError {
    /// The reason code the outside sees.
    pub fn code(&self) -> ReasonCode {
        match self {
            Self::Full(_) => ReasonCode::StoreFull,
            Self::Busy(_) => ReasonCode::StoreBusy,
            Self::Corrupt(_) => ReasonCode::StoreCorrupt,
            Self::Conflict(_) => ReasonCode::AdminIdentityTaken,
            Self::Overloaded => ReasonCode::IngressOverloaded,
            Self::KeyMissing(_) => ReasonCode::VaultKeyUnknown,
            Self::Unaudited(_) => ReasonCode::AdminAuditUnavailable,
            Self::Unavailable(_) => ReasonCode::StoreUnavailable,
            Self::Refused { code, .. } => *code,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.code(), error)
    }
}

/// One event to accept. Everything about it is decided; the store gives it its session and keeps it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its identifier.
    pub id: EventId,
    /// Where it came in and who hears it; its session keeps that.
    pub route: Route,
    /// What the policies said of the route's binding, where that is a legacy one.
    pub legacy: Option<Arc<Decision>>,
    /// Platform app or own app.
    pub mode: Mode,
    /// The profile that proved it.
    pub profile: ProfileId,
    /// The session's identity.
    pub session_key: SessionKey,
    /// The peer, where the session is one person's.
    pub peer: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// The provider's id of it.
    pub provider_event_id: String,
    /// The provider's word for it.
    pub provider_event_type: String,
    /// Its identity within the installation.
    pub dedupe_key: String,
    /// Whether that identity holds a person's id, so that a digest of it is stored.
    pub dedupe_is_personal: bool,
    /// When a repeat would be a new event again.
    pub dedupe_until: Timestamp,
    /// The typed principal it came as.
    pub principal: String,
    /// Which secret proved it.
    pub verified_with: &'static str,
    /// The provider-neutral reading.
    pub normal: Normal,
    /// The provider's bytes.
    pub raw: bytes::Bytes,
    /// Their media type.
    pub media_type: &'static str,
    /// The provider's ids of the files that it tells of, where calls are held to them.
    pub files: Vec<String>,
    /// What the policies said, in the order they were asked.
    pub decisions: Vec<Arc<Decision>>,
}

/// What one webhook request comes to; all of it is committed, or none.
#[derive(Clone, Debug)]
pub struct AcceptRequest {
    /// The request.
    pub request: RequestId,
    /// When it came.
    pub received: Timestamp,
    /// The events that may go on.
    pub events: Vec<NewEvent>,
    /// The events, or the whole body, that may not.
    pub refusals: Vec<RefusalRecord>,
    /// What its events change of installations, whether they may go on or not.
    pub shifts: Vec<Shift>,
}

/// What became of a webhook request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// Where each event ended up.
    pub events: Vec<Acceptance>,
    /// What changed of installations.
    pub shifted: Vec<Shifted>,
}

/// Where one event ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is new, and kept.
    Stored(EventId),
    /// It was accepted before.
    Duplicate,
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A tenant.
    Org(Org),
    /// A program that answers people.
    Agent(Agent),
    /// A provider app.
    Profile(AppProfile),
    /// An app in an account.
    Installation(Installation),
    /// Who hears what.
    Binding(Binding),
}

impl Resource {
    /// The kind's word, plural, as in paths.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Org(_) => "orgs",
            Self::Agent(_) => "agents",
            Self::Profile(_) => "profiles",
            Self::Installation(_) => "installations",
            Self::Binding(_) => "bindings",
        }
    }

    /// Its identifier.
    pub fn id(&self) -> &str {
        match self {
            Self::Org(r) => r.id.as_str(),
            Self::Agent(r) => r.id.as_str(),
            Self::Profile(r) => r.id.as_str(),
            Self::Installation(r) => r.id.as_str(),
            Self::Binding(r) => r.id.as_str(),
        }
    }

    /// The org it belongs to.
    pub fn org(&self) -> Option<&OrgId> {
        match self {
            Self::Org(r) => Some(&r.id),
            Self::Agent(r) => r.org.as_ref(),
            Self::Profile(r) => match &r.owner {
                crate::domain::installation::Ownership::Platform => None,
                crate::domain::installation::Ownership::Org(org) => Some(org),
            },
            Self::Installation(r) => Some(&r.org),
            Self::Binding(r) => Some(&r.org),
        }
    }
}

/// A sealed value where it lies, for whoever seals it anew.
#[derive(Clone, Debug)]
pub struct SealedRow {
    /// The resource's kind; `keys` is the gateway's own.
    pub kind: String,
    /// The resource's id.
    pub owner: String,
    /// The field.
    pub field: String,
    /// The slot.
    pub slot: String,
    /// The sealed bytes.
    pub sealed: Vec<u8>,
}

/// A sealed value to put.
#[derive(Clone, Debug)]
pub struct SecretPut {
    /// The resource's kind.
    pub kind: &'static str,
    /// The resource's id.
    pub owner: String,
    /// The value.
    pub secret: directory::SealedSecret,
}

/// One declared change.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes or replaces a resource and puts its sealed values.
    Put(Box<Resource>, Vec<SecretPut>),
    /// Keeps a sealed key of the gateway's own, where there is none yet.
    KeepKey(SecretPut),
    /// Removes a sealed value.
    DropSecret {
        /// The resource's kind.
        kind: &'static str,
        /// The resource's id.
        owner: String,
        /// The field.
        field: String,
        /// The slot.
        slot: &'static str,
    },
    /// Removes a resource with everything sealed of it.
    Delete {
        /// The kind.
        kind: &'static str,
        /// The id.
        id: String,
    },
}

/// A send that is about to leave, or was before.
#[derive(Clone, Debug, PartialEq)]
pub enum SendStart {
    /// It is new; this process sends it.
    Fresh,
    /// The same key and body were answered before: this is the answer.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The body.
        answer: Json,
    },
    /// The same key and body are on their way.
    InFlight,
    /// The key was used for another body.
    Conflict,
}

/// The identity of a send.
#[derive(Clone, Debug)]
pub struct NewSend {
    /// Its identifier.
    pub id: MessageId,
    /// The caller's key.
    pub key: String,
    /// SHA-256 of the body, hex.
    pub digest: String,
    /// When.
    pub at: Timestamp,
}

/// How a send ended.
#[derive(Clone, Debug)]
pub struct FinishedSend {
    /// Its identifier.
    pub id: MessageId,
    /// `sent`, `refused`, `failed`, `unknown`; `called` for a call that is no message, which has no row of its own; `retry` forgets the key so that the caller may try again.
    pub state: &'static str,
    /// The HTTP status the agent saw.
    pub status: u16,
    /// The body the agent saw.
    pub answer: Json,
    /// The org.
    pub org: Option<OrgId>,
    /// The installation that sent.
    pub installation: Option<InstallationId>,
    /// The session it belongs to.
    pub session: Option<String>,
    /// The legacy binding that let it through, where one did and it left.
    pub legacy: Option<BindingId>,
    /// The destination.
    pub conversation: Option<String>,
    /// The credential.
    pub credential: Option<String>,
    /// Its owner: `org` or `platform`.
    pub owner: Option<&'static str>,
    /// Whether it left through the platform's app instead of the org's own.
    pub fallback: bool,
    /// The provider's id of the message.
    pub provider_message_id: Option<String>,
    /// Why not.
    pub code: Option<ReasonCode>,
    /// Every decision, in the order they were asked.
    pub decisions: Vec<Arc<Decision>>,
    /// The audit line.
    pub audit: AuditRecord,
}

/// How many deliveries a claim may take, and for whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claiming {
    /// At most so many.
    pub limit: usize,
    /// For so long, in milliseconds.
    pub lease_ms: i64,
    /// Attempts under way at once, of all orgs.
    pub slots: usize,
    /// Attempts under way at once, of one org.
    pub org_max: usize,
    /// Attempts under way at once, at one agent.
    pub agent_max: usize,
}

/// An event together with all that its delivery says of it.
#[derive(Clone, Debug)]
pub struct EventView {
    /// Its identifier.
    pub id: EventId,
    /// When it came.
    pub received: Timestamp,
    /// The org.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// `platform` or `byoa`.
    pub mode: String,
    /// The profile.
    pub profile: ProfileId,
    /// The installation.
    pub installation: InstallationId,
    /// The agent.
    pub agent: AgentId,
    /// The session.
    pub session: SessionId,
    /// The session's key.
    pub session_key: String,
    /// Whether the event opened it.
    pub session_new: bool,
    /// The CloudEvents type.
    pub cloud_type: String,
    /// The provider's id of it.
    pub provider_event_id: String,
    /// The provider's word for it.
    pub provider_event_type: String,
    /// The provider-neutral reading.
    pub normal: Normal,
    /// The provider's bytes.
    pub raw: Vec<u8>,
    /// Their media type.
    pub media_type: String,
}

/// A session, as far as a reply needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its identifier.
    pub id: SessionId,
    /// Its key.
    pub key: String,
    /// The way its events came, which is the way of its replies.
    pub route: Route,
    /// The conversation.
    pub conversation: String,
    /// The thread.
    pub thread: Option<String>,
    /// `active` or how it ended.
    pub status: String,
}

/// Whose eyes a read is made for. Only an authenticated agent is one (`authn`), so that no read which an agent can cause
/// takes a bare id.
pub trait AgentScope {
    /// The agent.
    fn agent(&self) -> &AgentId;
    /// Its org; none for a platform agent, which serves several.
    fn org(&self) -> Option<&OrgId>;
}

/// How an operator ends a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It is over; what the binding says is asked again.
    Closed,
    /// Another agent goes on with the conversation.
    HandedTo(AgentId),
}

/// What came of ending a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It ended.
    Done,
    /// There is none.
    Unknown,
    /// It had ended before.
    Before,
    /// It was imported and no event has given it a route, so there is nothing to hand over; or it is that agent's already.
    NotHandable,
}

/// What came of making a delivery due again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replayed {
    /// It is due again.
    Again,
    /// There is none.
    Unknown,
    /// It is still on its way.
    StillOpen,
    /// The body of its event was removed: there is nothing to deliver.
    BodyRemoved,
}

/// A conversation that an earlier system had under way. It has no route: the first event of its contact may give it one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportedSession {
    /// Its identifier; importing the same one again changes nothing.
    pub id: SessionId,
    /// The org.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// The agent it was with.
    pub agent: AgentId,
    /// The person it was with, by the provider's stable id.
    pub contact: String,
    /// Where, as far as that is known.
    pub conversation: Option<String>,
    /// The thread, as far as that is known.
    pub thread: Option<String>,
    /// When it began.
    pub created: Timestamp,
    /// When something was last said.
    pub last: Timestamp,
}

/// How often a legacy binding was used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LegacyUse {
    /// So often.
    pub count: i64,
    /// The last time.
    pub last: Timestamp,
}

/// What a listing asks for.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only this org's.
    pub org: Option<String>,
    /// Only rows whose id, target or subject is this.
    pub id: Option<String>,
    /// Only rows in this state, or with this outcome.
    pub state: Option<String>,
    /// Rows older than this sequence number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// One page of a listing: rows, newest first, and where the next page begins.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Page {
    /// The rows.
    pub items: Vec<Json>,
    /// Pass as `cursor` to go on.
    pub next: Option<String>,
}
