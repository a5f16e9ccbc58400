//! What is written down: decisions, audit lines, refusals.

use std::sync::Arc;

use super::clock::Timestamp;
use super::ids::{InstallationId, OrgId, ProfileId, RequestId};
use super::installation::ProviderKind;
use super::reason::ReasonCode;

/// One answer of the policies, with what is needed to ask again: never bodies, never secrets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The question.
    pub action: &'static str,
    /// Who asked, as a Cedar entity.
    pub principal: String,
    /// About what, as a Cedar entity.
    pub resource: String,
    /// JSON of everything the policies could read.
    pub facts: String,
    /// Whether it was permitted.
    pub allowed: bool,
    /// Why not, where it was not.
    pub code: Option<ReasonCode>,
    /// The policies that decided, sorted.
    pub policies: Arc<[String]>,
    /// The policy set, by its hash.
    pub version: Arc<str>,
    /// How many policies could not be evaluated; any is a refusal.
    pub errors: usize,
}

/// One line of the audit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// `profile:ID`, `agent:ID`, `operator:NAME` or `gateway`.
    pub actor: String,
    /// `event.accept`, `event.refuse`, `request.refuse`, `message.send`, `resource.create`, `policies.load` and so on.
    pub action: &'static str,
    /// What it was done to: an id.
    pub target: String,
    /// The org it concerns, where it concerns one.
    pub org: Option<OrgId>,
    /// `done` or `refused`.
    pub outcome: &'static str,
    /// Why, where it was refused.
    pub code: Option<ReasonCode>,
    /// What the policies said, where they were asked.
    pub decision: Option<Arc<Decision>>,
    /// The request.
    pub request: Option<RequestId>,
    /// More, as JSON text; ids and words only.
    pub detail: Option<String>,
}

impl AuditRecord {
    /// What the gateway did by itself.
    pub fn of_gateway(at: Timestamp, action: &'static str, target: String) -> Self {
        Self {
            at,
            actor: "gateway".into(),
            action,
            target,
            org: None,
            outcome: "done",
            code: None,
            decision: None,
            request: None,
            detail: None,
        }
    }
}

/// An authentic request, or one event of it, that was refused for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefusalRecord {
    /// When.
    pub at: Timestamp,
    /// The provider.
    pub provider: ProviderKind,
    /// The app profile it was addressed to.
    pub profile: ProfileId,
    /// The installation, where it was bound.
    pub installation: Option<InstallationId>,
    /// The org, where it is known.
    pub org: Option<OrgId>,
    /// Why.
    pub code: ReasonCode,
    /// What the policies said, in the order they were asked; the last one refused, where they were asked.
    pub decisions: Vec<Arc<Decision>>,
    /// SHA-256 of the body.
    pub digest: [u8; 32],
    /// The body's first bytes, where they help an operator and cannot be another tenant's message.
    pub excerpt: Option<String>,
    /// The request.
    pub request: RequestId,
}
