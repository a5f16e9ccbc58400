//! The questions. Each struct holds everything that a policy may read about it, so the struct is also the whole identity
//! of its answer. Never holds a body, a secret or a time. Floor 5.

use std::collections::BTreeSet;
use std::hash::Hash;

use cedar_policy::RestrictedExpression as Value;

use super::decide::Cache;
use super::entities::{Question, Slice, Unfit};
pub use crate::authn::principal::Role;
use crate::domain::ids::{AgentId, InstallationId, OrgId, ProfileId};
use crate::domain::installation::{Ownership, ProviderKind};
use crate::domain::message::Effect;
use crate::domain::reason::ReasonCode;
use crate::domain::rollout::Flag;
pub use operate::*;

mod operate;

pub(super) mod sealed {
    use super::{Cache, Caches, Question, Slice, Unfit};

    /// What only this module may say about a question.
    pub trait Ask: Sized {
        /// Builds the request and every entity it reaches, from the question alone.
        fn question(&self, slice: Slice<'_>) -> Result<Question, Unfit>;
        /// Where its answers are kept.
        fn cache(caches: &Caches) -> &Cache<Self>;
        /// Bytes of unbounded parts, so that huge questions do not fill the memory.
        fn bytes(&self) -> usize {
            0
        }
    }
}

/// A question to the law. Sealed: the schema knows one Cedar action for each.
pub trait Action: sealed::Ask + Clone + Eq + Hash + Send + Sync + 'static {
    /// The Cedar action.
    const NAME: &'static str;
    /// The code of a refusal that no policy had to say.
    const DEFAULT_DENY: ReasonCode = ReasonCode::PolicyNoPermit;
}

/// The code of a refusal of this action that no policy had to say.
pub(super) fn default_deny(action: &str) -> ReasonCode {
    if action == EnterRollout::NAME { EnterRollout::DEFAULT_DENY } else { ReasonCode::PolicyNoPermit }
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OrgFacts {
    /// Its identifier.
    pub id: OrgId,
    /// Suspended by an operator.
    pub suspended: bool,
    /// Providers for which platform fallback is opted in.
    pub fallback_opt_in: BTreeSet<ProviderKind>,
}

/// One provider app in one account of one org.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct InstallationFacts {
    /// Its identifier.
    pub id: InstallationId,
    /// The provider.
    pub provider: ProviderKind,
    /// Whose app.
    pub owner: Ownership,
    /// The owner, where it is another org than the one it answers for: damaged records.
    pub stranger: Option<OrgFacts>,
    /// Whether it may do what is asked: hear when routing, speak when sending.
    pub active: bool,
    /// The org it answers for.
    pub org: OrgFacts,
}

/// One provider app.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ProfileFacts {
    /// Its identifier.
    pub id: ProfileId,
    /// The provider.
    pub provider: ProviderKind,
    /// The org whose app it is; none for the platform's.
    pub owner: Option<OrgFacts>,
}

/// What a secret belongs to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum SecretHolder {
    /// A provider app: what proves its webhooks.
    Profile(ProfileFacts),
    /// An installation: what it sends with.
    Installation(InstallationFacts),
    /// An agent: what its deliveries are signed with, and what it calls with.
    Agent(AgentFacts),
}

/// A program that answers people.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AgentFacts {
    /// Its identifier.
    pub id: AgentId,
    /// Its org; none for a platform agent.
    pub org: Option<OrgFacts>,
}

/// A sealed provider credential.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CredentialFacts {
    /// Its identifier.
    pub id: String,
    /// The provider.
    pub provider: ProviderKind,
    /// Who put it.
    pub owner: Ownership,
    /// The owner, where it is another org than the one it serves: damaged records.
    pub stranger: Option<OrgFacts>,
    /// The org of the installation that holds it.
    pub org: OrgFacts,
    /// Present, not expired, not revoked.
    pub usable: bool,
}

/// One provider's rollout flag.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FlagFacts {
    /// The provider.
    pub provider: ProviderKind,
    /// Its stage and the global switch.
    pub flag: Flag,
}

impl FlagFacts {
    fn bytes(&self) -> usize {
        self.flag.canary.iter().map(|org| org.as_str().len() + size_of::<OrgId>()).sum()
    }
}

/// An operator, proved elsewhere.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OperatorFacts {
    /// The operator's name.
    pub id: String,
    /// What the operator is there for.
    pub role: Role,
    /// Whether a second factor stands behind the proof.
    pub mfa: bool,
}

/// Whether the provider's proof says when a webhook was sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Freshness {
    /// A signed time, within the window.
    Fresh,
    /// The provider signs no time: only deduplication stands against a replay.
    Unsigned,
}

impl Freshness {
    /// The word in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Unsigned => "unsigned",
        }
    }
}

/// May this agent hear this event?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RouteMessage {
    /// Where it came in.
    pub installation: InstallationFacts,
    /// Who would hear it.
    pub agent: AgentFacts,
    /// The CloudEvents type.
    pub event_type: &'static str,
    /// The conversation's id.
    pub conversation: Option<String>,
    /// What sort of place that is.
    pub conversation_kind: Option<&'static str>,
    /// Whether a bot said it.
    pub from_bot: bool,
    /// Whether its time is proved.
    pub freshness: Freshness,
}

/// May this installation's traffic take a legacy binding, which names a provider only?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UseLegacyRoute {
    /// Where it comes in or goes out.
    pub installation: InstallationFacts,
    /// Whom the binding leads to.
    pub agent: AgentFacts,
    /// How far the provider is rolled out, and what the global switches say of legacy routes.
    pub flag: FlagFacts,
    /// Whether the rollout lets the org in.
    pub eligible: bool,
    /// Whether the binding can mean this installation and no other.
    pub only_installation: bool,
}

/// May this agent speak through this installation?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SendMessage {
    /// Who speaks.
    pub agent: AgentFacts,
    /// Through what.
    pub installation: InstallationFacts,
    /// Where to.
    pub conversation: String,
    /// Whether an enabled binding ties the two.
    pub bound: bool,
    /// Whether it answers within a session.
    pub reply: bool,
}

/// May this agent call this method through this installation?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct CallProviderMethod {
    /// Who calls.
    pub agent: AgentFacts,
    /// Through what.
    pub installation: InstallationFacts,
    /// The provider's name of the method, as in `chat.postMessage`.
    pub method: String,
    /// A conversation that the call names, in the provider's one form; a call that names several is several questions.
    pub conversation: Option<String>,
    /// The method's effect there.
    pub effect: Effect,
    /// Whether an enabled binding ties the two.
    pub bound: bool,
    /// For an agent that is bound to certain conversations only: whether the call stays in one of those. `None` where the agent
    /// is bound to the whole installation.
    pub bound_here: Option<bool>,
}

/// May what this agent answers to an interaction go back to the provider while the person waits?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct AnswerInteraction {
    /// Where the interaction came in.
    pub installation: InstallationFacts,
    /// Who answers.
    pub agent: AgentFacts,
    /// `view_submission` or `block_suggestion`.
    pub kind: &'static str,
}

/// May this installation use this credential?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UseCredential {
    /// Who sends.
    pub installation: InstallationFacts,
    /// With what.
    pub credential: CredentialFacts,
}

/// May a send move from an org's own app to the platform's?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UseFallback {
    /// The org's own installation.
    pub from: InstallationFacts,
    /// The platform's installation for the same org.
    pub to: InstallationFacts,
    /// Whether the own credential could be used after all.
    pub own_credential_usable: bool,
    /// Whether the org's platform binding allows fallback.
    pub binding_allows: bool,
    /// How far the provider is rolled out.
    pub flag: FlagFacts,
    /// Where the org falls among the hundred that a percentage counts.
    pub bucket: u8,
}

/// Does the rollout let this org's own apps in?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EnterRollout {
    /// The org.
    pub org: OrgFacts,
    /// The provider it comes with.
    pub provider: ProviderKind,
    /// How far that provider is rolled out.
    pub flag: FlagFacts,
    /// Where the org falls among the hundred that a percentage counts.
    pub bucket: u8,
}

impl sealed::Ask for RouteMessage {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.installation(&self.installation)?;
        let resource = slice.agent(&self.agent)?;
        let names = slice.names;
        let mut context = vec![
            ("eventType", names.event_type.value(self.event_type)),
            ("fromBot", Value::new_bool(self.from_bot)),
            ("freshness", names.freshness.value(self.freshness.as_str())),
        ];
        if let Some(conversation) = &self.conversation {
            context.push(("conversation", Value::new_string(conversation.clone())));
        }
        if let Some(kind) = self.conversation_kind {
            context.push(("conversationKind", names.conversation_kind.value(kind)));
        }
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.route_message
    }

    fn bytes(&self) -> usize {
        self.conversation.as_deref().map_or(0, str::len)
    }
}

impl sealed::Ask for UseLegacyRoute {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.installation(&self.installation)?;
        let resource = slice.agent(&self.agent)?;
        let flag = slice.flag(&self.flag)?;
        let context = vec![
            ("flag", Value::new_entity_uid(flag)),
            ("eligible", Value::new_bool(self.eligible)),
            ("onlyInstallation", Value::new_bool(self.only_installation)),
        ];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.use_legacy_route
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl sealed::Ask for SendMessage {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.agent(&self.agent)?;
        let resource = slice.installation(&self.installation)?;
        let context = vec![
            ("conversation", Value::new_string(self.conversation.clone())),
            ("bound", Value::new_bool(self.bound)),
            ("reply", Value::new_bool(self.reply)),
        ];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.send_message
    }

    fn bytes(&self) -> usize {
        self.conversation.len()
    }
}

impl sealed::Ask for CallProviderMethod {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.agent(&self.agent)?;
        let resource = slice.installation(&self.installation)?;
        let mut context = vec![
            ("method", Value::new_string(self.method.clone())),
            ("effect", slice.names.effect.value(self.effect.as_str())),
            ("bound", Value::new_bool(self.bound)),
        ];
        if let Some(conversation) = &self.conversation {
            context.push(("conversation", Value::new_string(conversation.clone())));
        }
        if let Some(here) = self.bound_here {
            context.push(("boundHere", Value::new_bool(here)));
        }
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.call_provider_method
    }

    fn bytes(&self) -> usize {
        self.method.len() + self.conversation.as_deref().map_or(0, str::len)
    }
}

impl sealed::Ask for AnswerInteraction {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.installation(&self.installation)?;
        let resource = slice.agent(&self.agent)?;
        let context = vec![("kind", slice.names.interaction_kind.value(self.kind))];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.answer_interaction
    }
}

impl sealed::Ask for UseCredential {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.installation(&self.installation)?;
        let resource = slice.credential(&self.credential)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.use_credential
    }
}

impl sealed::Ask for UseFallback {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.installation(&self.from)?;
        let resource = slice.installation(&self.to)?;
        let flag = slice.flag(&self.flag)?;
        let context = vec![
            ("flag", Value::new_entity_uid(flag)),
            ("bucket", Value::new_long(self.bucket.into())),
            ("ownCredentialUsable", Value::new_bool(self.own_credential_usable)),
            ("bindingAllows", Value::new_bool(self.binding_allows)),
        ];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.use_fallback
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl sealed::Ask for EnterRollout {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.org(&self.org)?;
        let resource = slice.flag(&self.flag)?;
        let context =
            vec![("provider", slice.names.provider.value(self.provider.as_str())), ("bucket", Value::new_long(self.bucket.into()))];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.enter_rollout
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl Action for RouteMessage {
    const NAME: &'static str = "RouteMessage";
}

impl Action for UseLegacyRoute {
    const NAME: &'static str = "UseLegacyRoute";
}

impl Action for SendMessage {
    const NAME: &'static str = "SendMessage";
}

impl Action for CallProviderMethod {
    const NAME: &'static str = "CallProviderMethod";
}

impl Action for AnswerInteraction {
    const NAME: &'static str = "AnswerInteraction";
}

impl Action for UseCredential {
    const NAME: &'static str = "UseCredential";
}

impl Action for UseFallback {
    const NAME: &'static str = "UseFallback";
}

impl Action for EnterRollout {
    const NAME: &'static str = "EnterRollout";
    // Retryable, unlike any other no: the provider sends again and nothing is lost while the stage is closed.
    const DEFAULT_DENY: ReasonCode = ReasonCode::RolloutStageOff;
}
