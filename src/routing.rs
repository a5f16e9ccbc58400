//! Which agent hears an event; through which installation an agent speaks. Each asks policy, none acts. Floor 6.

pub mod select;

use std::sync::Arc;

use crate::authn::principal::AgentPrincipal;
use crate::authn::webhook::Verified;
use crate::domain::ids::{AgentId, BindingId};
use crate::domain::installation::{Binding, Installation, SessionScope};
use crate::domain::message::{ConversationKind, Effect, EventKind, InboundEvent};
use crate::domain::reason::{ReasonCode, Refusal};
use crate::domain::record::Decision;
use crate::domain::route::Route;
use crate::domain::session::SessionKey;
use crate::policy::action::{AgentFacts, CallProviderMethod, Freshness, RouteMessage, SendMessage, UseLegacyRoute};
use crate::policy::{Denied, Permit, Snapshot, facts};
use crate::store::SessionView;
use crate::store::directory::{Directory, Kept};
pub use select::{Standing, Unmet, candidate, choose, standings};

/// Policy permitted this event to this agent.
pub struct Routed {
    verified: Box<Verified>,
    route: Route,
    session: SessionKey,
    peer: Option<String>,
    legacy: Option<Arc<Decision>>,
    permit: Permit<RouteMessage>,
}

/// A route that was found for an event, and the session it leads to.
struct Way {
    route: Route,
    peer: Option<String>,
    session: SessionKey,
    legacy: Option<Arc<Decision>>,
}

impl Routed {
    /// The event and its sender.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The way it goes, and its answers come back.
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// Which conversation it belongs to.
    pub fn session(&self) -> &SessionKey {
        &self.session
    }

    /// Whose conversation that is, where it is one person's.
    pub fn peer(&self) -> Option<&str> {
        self.peer.as_deref()
    }

    /// What the policies said of its legacy binding, where it is one.
    pub fn legacy(&self) -> Option<&Arc<Decision>> {
        self.legacy.as_ref()
    }

    /// What the policies said of the event.
    pub fn decision(&self) -> &Arc<Decision> {
        self.permit.decision()
    }
}

/// Why an event goes nowhere, with what was verified of it.
pub struct Unrouted {
    /// The event.
    pub verified: Box<Verified>,
    /// The refusal.
    pub refusal: Refusal,
    /// Whether there was a way that could be used; then it is the event that was refused.
    pub had_way: bool,
    /// The decisions, in the order the policies were asked.
    pub decisions: Vec<Arc<Decision>>,
}

/// Finds the one candidate and asks whether the event may go there. A forbidden candidate does not fall through to a
/// wider one. An org that the rollout does not let in (`eligible`) has its legacy bindings and no others.
///
/// # Errors
/// [`Unrouted`] with `routing.no_route`, `routing.ambiguous_installation`, `ingress.self_authored` or the policies' reason.
pub fn inbound(policy: &Snapshot, directory: &Directory, verified: Box<Verified>, eligible: bool) -> Result<Routed, Unrouted> {
    let mut decisions = Vec::new();
    let way = match find(policy, directory, &verified, eligible, &mut decisions) {
        Ok(way) => way,
        Err(refusal) => return Err(Unrouted { verified, refusal, had_way: false, decisions }),
    };
    let installation = verified.sender().installation();
    let event = verified.event();
    let ask = RouteMessage {
        installation: facts::installation(directory, installation),
        agent: agent_facts(directory, &way.route.agent),
        event_type: event.kind.cloud_type(),
        conversation: event.normal.conversation.as_ref().map(|c| c.id.clone()),
        conversation_kind: event.normal.conversation.as_ref().map(|c| c.kind.as_str()),
        from_bot: event.normal.sender.as_ref().is_some_and(|s| s.is_bot),
        // Only a signed timestamp proves freshness, and a stale one did not come this far.
        freshness: if crate::providers::of(installation.provider).edge().signs_time { Freshness::Fresh } else { Freshness::Unsigned },
    };
    match policy.decide(ask) {
        Ok(permit) => {
            let Way { route, peer, session, legacy } = way;
            Ok(Routed { verified, route, session, peer, legacy, permit })
        }
        Err(Denied { refusal, decision }) => {
            decisions.push(decision);
            Err(Unrouted { verified, refusal, had_way: true, decisions })
        }
    }
}

/// The way of an event: the installation's own bindings first, legacy ones only where none of those hears it.
fn find(
    policy: &Snapshot,
    directory: &Directory,
    verified: &Verified,
    eligible: bool,
    decisions: &mut Vec<Arc<Decision>>,
) -> Result<Way, Refusal> {
    let installation = verified.sender().installation();
    let event = verified.event();
    if event.kind == EventKind::MessageSelf {
        return Err(Refusal::of(ReasonCode::IngressSelfAuthored));
    }
    let no_route = || Refusal::of(ReasonCode::RoutingNoRoute);
    let own = if eligible { directory.bindings_of(&installation.id) } else { &[] };
    let legacy_ones = directory.legacy_bindings(&installation.org, installation.provider);
    let binding = &choose(own, legacy_ones, installation, event).ok_or_else(no_route)?.item;
    let mut way = way(binding, installation, event);
    // An operator's word goes before the binding's, until the session is closed or handed back.
    if let Some(agent) = directory.handed(&way.session) {
        way.route.agent = agent.clone();
        way.session = session_key(&way.route, event, way.peer.as_deref());
    }
    if !directory.agents.contains_key(&way.route.agent) {
        return Err(no_route());
    }
    if way.route.legacy {
        let asked = legacy(policy, directory, installation, &way.route.agent, eligible);
        decisions.push(asked.decision.clone());
        if let Some(refusal) = asked.refusal {
            return Err(refusal);
        }
        way.legacy = Some(asked.decision);
    }
    Ok(way)
}

fn way(binding: &Binding, installation: &Installation, event: &InboundEvent) -> Way {
    let route = Route {
        org: installation.org.clone(),
        provider: installation.provider,
        installation: installation.id.clone(),
        binding: Some(binding.id.clone()),
        agent: binding.agent.clone(),
        legacy: binding.is_legacy(),
    };
    let peer = session_peer(binding, event).map(str::to_owned);
    Way { session: session_key(&route, event, peer.as_deref()), route, peer, legacy: None }
}

fn session_key(route: &Route, event: &InboundEvent, peer: Option<&str>) -> SessionKey {
    let conversation = event.normal.conversation.as_ref();
    SessionKey::new(route, conversation.map_or("", |c| c.id.as_str()), conversation.and_then(|c| c.thread.as_deref()), peer)
}

/// An agent that is not declared is as good as the platform's that nothing is permitted to.
fn agent_facts(directory: &Directory, id: &AgentId) -> AgentFacts {
    directory.agents.get(id).map_or_else(|| AgentFacts { id: id.clone(), org: None }, |kept| facts::agent(directory, &kept.item))
}

/// What came of asking whether a legacy binding may be used.
struct LegacyAnswer {
    decision: Arc<Decision>,
    refusal: Option<Refusal>,
}

/// Asks `UseLegacyRoute`. Where the binding could mean several installations nothing is guessed, whatever policies say.
fn legacy(policy: &Snapshot, directory: &Directory, installation: &Installation, agent: &AgentId, eligible: bool) -> LegacyAnswer {
    let only_installation = directory.is_only_installation(installation);
    let ask = UseLegacyRoute {
        installation: facts::installation(directory, installation),
        agent: agent_facts(directory, agent),
        flag: facts::flag(directory, installation.provider),
        eligible,
        only_installation,
    };
    let ambiguous = || Refusal::of(ReasonCode::RoutingAmbiguousInstallation);
    match policy.decide(ask) {
        Ok(permit) => LegacyAnswer { decision: permit.decision().clone(), refusal: (!only_installation).then(ambiguous) },
        // Where no policy had to say no, this is why.
        Err(Denied { refusal, decision }) if !only_installation && refusal.code == ReasonCode::PolicyNoPermit => {
            LegacyAnswer { decision, refusal: Some(ambiguous()) }
        }
        Err(Denied { refusal, decision }) => LegacyAnswer { decision, refusal: Some(refusal) },
    }
}

/// Whose conversation the session is: a direct one is always its peer's.
pub fn session_peer<'a>(binding: &Binding, event: &'a InboundEvent) -> Option<&'a str> {
    // What happens in no conversation, as in a dialog, is between one person and the bot too.
    let direct = event.normal.conversation.as_ref().is_none_or(|c| c.kind == ConversationKind::Direct);
    let peer = direct || binding.session == SessionScope::Peer;
    if peer { event.normal.sender.as_ref().map(|s| s.id.as_str()) } else { None }
}

/// How an agent is tied to an installation: the outbound half of the same route.
pub struct Tie {
    route: Option<Route>,
    legacy: Option<LegacyAnswer>,
}

impl Tie {
    /// The way between the two; none where nothing ties them.
    pub fn route(&self) -> Option<&Route> {
        self.route.as_ref()
    }

    /// The legacy binding that ties them, where it is one.
    pub fn legacy(&self) -> Option<&BindingId> {
        self.route.as_ref().filter(|route| route.legacy)?.binding.as_ref()
    }

    /// What the policies said of a legacy binding, where they were asked.
    pub fn decision(&self) -> Option<&Arc<Decision>> {
        self.legacy.as_ref().map(|l| &l.decision)
    }
}

/// Ties an agent to an installation as [`inbound`] would: by an enabled binding of the installation, by the session that an
/// operator handed to it (`within`, where the message stays in its conversation), else by a legacy binding where that may be used now. Where the rollout does not let the org in, the
/// legacy binding is looked at first: it alone leads past that.
pub fn tie(
    policy: &Snapshot,
    directory: &Directory,
    principal: &AgentPrincipal,
    installation: &Installation,
    within: Option<&SessionView>,
    eligible: bool,
) -> Tie {
    let agent = &principal.agent().id;
    let hears = |b: &&Arc<Kept<Binding>>| b.item.enabled && b.item.agent == *agent;
    let route = |binding: Option<&Binding>| Route {
        org: installation.org.clone(),
        provider: installation.provider,
        installation: installation.id.clone(),
        binding: binding.map(|b| b.id.clone()),
        agent: agent.clone(),
        legacy: binding.is_some_and(Binding::is_legacy),
    };
    let handed = || within.filter(|s| directory.was_handed(&s.key)).map(|_| route(None));
    let own = directory.bindings_of(&installation.id).iter().find(hears).map(|b| route(Some(&b.item))).or_else(handed);
    if let (Some(_), true) = (&own, eligible) {
        return Tie { route: own, legacy: None };
    }
    let fits = |b: &&Arc<Kept<Binding>>| hears(b) && b.item.mode.is_none_or(|mode| mode == installation.owner.mode());
    let wide = directory.legacy_bindings(&installation.org, installation.provider).iter().find(fits);
    let Some(binding) = wide else { return Tie { route: own, legacy: None } };
    let answer = legacy(policy, directory, installation, agent, eligible);
    let route = if answer.refusal.is_none() { Some(route(Some(&binding.item))) } else { own };
    Tie { route, legacy: Some(answer) }
}

/// Policy permitted this agent to speak here.
pub struct Destination {
    permit: Permit<SendMessage>,
}

impl Destination {
    /// The proof, which names the installation; what a credential is selected for.
    pub fn permit(&self) -> &Permit<SendMessage> {
        &self.permit
    }

    /// What the policies said.
    pub fn decision(&self) -> &Arc<Decision> {
        self.permit.decision()
    }
}

/// Asks whether an agent may speak in a conversation of an installation, tied to it as `tie` says.
///
/// # Errors
/// [`Denied`]
pub fn outbound(
    policy: &Snapshot,
    directory: &Directory,
    principal: &AgentPrincipal,
    installation: &Arc<Kept<Installation>>,
    conversation: &str,
    reply: bool,
    tie: &Tie,
) -> Result<Destination, Denied> {
    Ok(Destination { permit: policy.decide(speaking(directory, principal, installation, conversation, reply, tie))? })
}

/// The question of [`outbound`], for where it cannot be asked: through a revoked installation nobody speaks, whoever it is.
pub fn speaking(
    directory: &Directory,
    principal: &AgentPrincipal,
    installation: &Arc<Kept<Installation>>,
    conversation: &str,
    reply: bool,
    tie: &Tie,
) -> SendMessage {
    SendMessage {
        agent: facts::agent(directory, principal.agent()),
        installation: facts::installation(directory, &installation.item),
        conversation: conversation.to_owned(),
        bound: tie.route().is_some(),
        reply,
    }
}

/// True for an agent that is bound to certain conversations of an installation, and not to the installation as a whole: by bindings
/// that each select a conversation, a thread or a person, or by a session that was handed to it.
pub fn is_confined(directory: &Directory, agent: &AgentId, installation: &Installation, tie: &Tie) -> bool {
    let certain = |b: &Binding| b.select.channel.is_some() || b.select.thread.is_some() || b.select.peer.is_some();
    let bound = tie.route().is_some() && tie.legacy().is_none();
    bound && bindings_to(directory, agent, installation).all(certain)
}

/// True where a confined agent is bound to this conversation. `session` is its open session there, where it has one.
pub fn is_bound_here(
    directory: &Directory,
    agent: &AgentId,
    installation: &Installation,
    conversation: &str,
    session: Option<&SessionView>,
) -> bool {
    let handed = session.is_some_and(|s| directory.was_handed(&s.key));
    handed
        || bindings_to(directory, agent, installation).any(|b| match &b.select.channel {
            Some(channel) => channel == conversation,
            // A thread or a person: the conversation is known by what was heard there.
            None => session.is_some() || b.select.peer.as_deref() == Some(conversation),
        })
}

fn bindings_to<'d>(directory: &'d Directory, agent: &'d AgentId, installation: &Installation) -> impl Iterator<Item = &'d Binding> {
    directory.bindings_of(&installation.id).iter().map(|b| &b.item).filter(move |b| b.enabled && b.agent == *agent)
}

/// A method of the provider as it is called: one conversation that it names, or none.
#[derive(Clone, Copy, Debug)]
pub struct Called<'c> {
    /// The provider's name of the method.
    pub method: &'c str,
    /// The conversation.
    pub conversation: Option<&'c str>,
    /// The method's effect there.
    pub effect: Effect,
    /// True where a confined agent is bound to it; `None` for an agent that is bound to the whole installation.
    pub bound_here: Option<bool>,
}

/// Asks whether an agent may call a method of the provider through an installation, tied to it as `tie` says.
///
/// # Errors
/// [`Denied`]
pub fn method(
    policy: &Snapshot,
    directory: &Directory,
    principal: &AgentPrincipal,
    installation: &Arc<Kept<Installation>>,
    called: &Called<'_>,
    tie: &Tie,
) -> Result<Permit<CallProviderMethod>, Denied> {
    policy.decide(CallProviderMethod {
        agent: facts::agent(directory, principal.agent()),
        installation: facts::installation(directory, &installation.item),
        method: called.method.to_owned(),
        conversation: called.conversation.map(str::to_owned),
        effect: called.effect,
        bound: tie.route().is_some(),
        bound_here: called.bound_here,
    })
}

#[cfg(test)]
mod tests;
