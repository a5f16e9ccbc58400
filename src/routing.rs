//! Which agent hears an event; through which installation an agent speaks. Each asks policy, none acts. Floor 6.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::authn::principal::AgentPrincipal;
use crate::authn::webhook::Verified;
use crate::domain::installation::{Binding, ExternalAccount, Installation, Selector};
use crate::domain::message::{ConversationKind, InboundEvent};
use crate::domain::reason::{ReasonCode, Refusal};
use crate::domain::record::Decision;
use crate::policy::action::{Freshness, RouteMessage, SendMessage};
use crate::policy::{Denied, Permit, Snapshot, facts};
use crate::store::directory::{Directory, Kept};

/// Policy permitted this event to this agent.
pub struct Routed {
    verified: Box<Verified>,
    binding: Arc<Kept<Binding>>,
    permit: Permit<RouteMessage>,
}

impl Routed {
    /// The event and its sender.
    pub fn verified(&self) -> &Verified {
        &self.verified
    }

    /// The binding that was the candidate.
    pub fn binding(&self) -> &Binding {
        &self.binding.item
    }

    /// What the policies said.
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
    /// The decision, where policies were asked.
    pub decision: Option<Arc<Decision>>,
}

/// Finds the one candidate and asks whether the event may go there. A forbidden candidate does not fall through to a
/// wider one.
///
/// # Errors
/// [`Unrouted`] with `routing.no_route`, `ingress.self_authored` or the policies' reason.
pub fn inbound(policy: &Snapshot, directory: &Directory, verified: Box<Verified>) -> Result<Routed, Unrouted> {
    let installation = verified.sender().installation();
    let event = verified.event();
    let none = |code| Refusal::of(code);
    if event.kind == crate::domain::message::EventKind::MessageSelf {
        return Err(Unrouted { verified, refusal: none(ReasonCode::IngressSelfAuthored), decision: None });
    }
    let candidate = candidate(directory.bindings_of(&installation.id), installation, event).cloned();
    let Some((binding, agent)) = candidate.and_then(|b| directory.agents.get(&b.item.agent).map(|a| (b, a))) else {
        return Err(Unrouted { verified, refusal: none(ReasonCode::RoutingNoRoute), decision: None });
    };
    let ask = RouteMessage {
        installation: facts::installation(directory, installation),
        agent: facts::agent(&agent.item),
        event_type: event.kind.cloud_type(),
        conversation: event.normal.conversation.as_ref().map(|c| c.id.clone()),
        conversation_kind: event.normal.conversation.as_ref().map(|c| c.kind.as_str()),
        from_bot: event.normal.sender.as_ref().is_some_and(|s| s.is_bot),
        // Only a signed timestamp proves freshness, and a stale one did not come this far.
        freshness: if crate::providers::of(installation.provider).edge().signs_time { Freshness::Fresh } else { Freshness::Unsigned },
    };
    match policy.decide(ask) {
        Ok(permit) => Ok(Routed { verified, binding, permit }),
        Err(Denied { refusal, decision }) => Err(Unrouted { verified, refusal, decision: Some(decision) }),
    }
}

/// The binding that hears an event: the most specific of those whose selectors all match, then the lowest priority, then
/// the first id.
pub fn candidate<'a>(
    bindings: &'a [Arc<Kept<Binding>>],
    installation: &Installation,
    event: &InboundEvent,
) -> Option<&'a Arc<Kept<Binding>>> {
    bindings.iter().filter(|b| b.item.enabled && selects(&b.item.select, installation, event)).min_by(|a, b| order(&a.item, &b.item))
}

fn selects(select: &Selector, installation: &Installation, event: &InboundEvent) -> bool {
    let is = |wanted: &Option<String>, actual: Option<&str>| wanted.as_deref().is_none_or(|w| actual == Some(w));
    let conversation = event.normal.conversation.as_ref();
    let (account, own_team) = match &installation.account {
        ExternalAccount::Slack { team_id, enterprise_id } => (team_id.as_deref().or(enterprise_id.as_deref()), team_id.as_deref()),
        ExternalAccount::Telegram { bot_id, .. } => (Some(bot_id.as_str()), None),
        ExternalAccount::WhatsApp { phone_number_id, .. } => (Some(phone_number_id.as_str()), None),
    };
    select.provider.is_none_or(|p| p == installation.provider)
        && is(&select.account, account)
        && is(&select.team, event.normal.team.as_deref().or(own_team))
        && is(&select.channel, conversation.map(|c| c.id.as_str()))
        && is(&select.thread, conversation.and_then(|c| c.thread.as_deref()))
        && is(&select.peer, event.normal.sender.as_ref().map(|s| s.id.as_str()))
}

/// Most specific first: presence of peer, thread, channel, team, account, provider, in that order.
fn order(a: &Binding, b: &Binding) -> Ordering {
    let present = |s: &Selector| {
        [s.peer.is_some(), s.thread.is_some(), s.channel.is_some(), s.team.is_some(), s.account.is_some(), s.provider.is_some()]
    };
    present(&b.select).cmp(&present(&a.select)).then(a.priority.cmp(&b.priority)).then(a.id.cmp(&b.id))
}

/// Whose conversation the session is: a direct one is always its peer's.
pub fn session_peer<'a>(binding: &Binding, event: &'a InboundEvent) -> Option<&'a str> {
    let direct = event.normal.conversation.as_ref().is_some_and(|c| c.kind == ConversationKind::Direct);
    let peer = direct || binding.session == crate::domain::installation::SessionScope::Peer;
    if peer { event.normal.sender.as_ref().map(|s| s.id.as_str()) } else { None }
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

/// Asks whether an agent may speak in a conversation of an installation.
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
) -> Result<Destination, Denied> {
    let agent = principal.agent();
    let bound = directory.bindings_of(&installation.item.id).iter().any(|b| b.item.enabled && b.item.agent == agent.id);
    let ask = SendMessage {
        agent: facts::agent(agent),
        installation: facts::installation(directory, &installation.item),
        conversation: conversation.to_owned(),
        bound,
        reply,
    };
    Ok(Destination { permit: policy.decide(ask)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId};
    use crate::domain::installation::{InstallationStatus, Ownership, ProviderKind};
    use crate::domain::message::{AccountClaim, Conversation, EventKind, Normal, Sender};
    use proptest::prelude::*;

    fn installation() -> Installation {
        Installation {
            id: InstallationId::parse("ins").unwrap(),
            profile: ProfileId::parse("app").unwrap(),
            org: OrgId::parse("acme").unwrap(),
            provider: ProviderKind::Slack,
            owner: Ownership::Platform,
            account: ExternalAccount::Slack { team_id: Some("T1".into()), enterprise_id: None },
            status: InstallationStatus::Active,
            epoch: 1,
        }
    }

    fn event() -> InboundEvent {
        InboundEvent {
            kind: EventKind::Message,
            account: AccountClaim::Telegram { chat_id: None },
            dedupe_key: "k".into(),
            provider_event_id: "k".into(),
            provider_event_type: "message".into(),
            normal: Normal {
                conversation: Some(Conversation { id: "C1".into(), kind: ConversationKind::Thread, thread: Some("1.2".into()) }),
                sender: Some(Sender { id: "U1".into(), name: None, is_bot: false }),
                ..Normal::default()
            },
            raw: bytes::Bytes::new(),
            media_type: "application/json",
        }
    }

    fn binding(id: &str, select: Selector, priority: i64) -> Arc<Kept<Binding>> {
        let item = Binding {
            id: BindingId::parse(id).unwrap(),
            org: OrgId::parse("acme").unwrap(),
            installation: InstallationId::parse("ins").unwrap(),
            select,
            agent: AgentId::parse("a").unwrap(),
            priority,
            enabled: true,
            session: Default::default(),
            allow_platform_fallback: false,
        };
        Arc::new(Kept { item, secrets: vec![], updated: Timestamp::default() })
    }

    fn every_selector() -> Vec<Arc<Kept<Binding>>> {
        let s = |v: &str| Some(v.to_owned());
        (0..64u32)
            .map(|bits| {
                let has = |i: u32| bits & (1 << i) != 0;
                let select = Selector {
                    provider: has(0).then_some(ProviderKind::Slack),
                    account: if has(1) { s("T1") } else { None },
                    team: if has(2) { s("T1") } else { None },
                    channel: if has(3) { s("C1") } else { None },
                    thread: if has(4) { s("1.2") } else { None },
                    peer: if has(5) { s("U1") } else { None },
                };
                binding(&format!("b{bits:02}"), select, 100)
            })
            .collect()
    }

    #[test]
    fn the_most_specific_wins_then_priority_then_id() {
        let pick = |all: &[Arc<Kept<Binding>>]| candidate(all, &installation(), &event()).map(|b| b.item.id.to_string());
        assert_eq!(pick(&every_selector()).as_deref(), Some("b63"));
        let peer = Selector { peer: Some("U1".into()), ..Selector::default() };
        let wide = Selector { channel: Some("C1".into()), team: Some("T1".into()), account: Some("T1".into()), ..Selector::default() };
        assert_eq!(pick(&[binding("wide", wide.clone(), 1), binding("peer", peer, 999)]).as_deref(), Some("peer"));
        assert_eq!(pick(&[binding("b", wide.clone(), 5), binding("a", wide.clone(), 5), binding("c", wide, 1)]).as_deref(), Some("c"));
        let case = Selector { channel: Some("c1".into()), ..Selector::default() };
        assert_eq!(pick(&[binding("case", case, 1)]), None);
    }

    proptest! {
        #[test]
        fn the_order_of_input_never_changes_the_choice(all in Just(every_selector()).prop_shuffle(), keep in 1usize..64) {
            let mut sorted = all[..keep].to_vec();
            sorted.sort_by(|a, b| a.item.id.cmp(&b.item.id));
            let a = candidate(&all[..keep], &installation(), &event()).unwrap().item.id.clone();
            let b = candidate(&sorted, &installation(), &event()).unwrap().item.id.clone();
            prop_assert_eq!(a, b);
        }
    }
}
