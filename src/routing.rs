//! Which agent hears an event; through which installation an agent speaks. Each asks policy, none acts. Floor 6.

use std::sync::Arc;

use serde::Serialize;

use crate::authn::principal::AgentPrincipal;
use crate::authn::webhook::Verified;
use crate::domain::ids::BindingId;
use crate::domain::installation::{Binding, ExternalAccount, Installation, ProviderKind, Selector};
use crate::domain::message::{ConversationKind, InboundEvent, Normal};
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
        agent: facts::agent(directory, &agent.item),
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
    bindings
        .iter()
        .filter(|b| b.item.enabled && unmet(&b.item.select, installation, &event.normal).is_none())
        .min_by(|a, b| a.item.order(&b.item))
}

/// How a binding fares with an event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "standing")]
pub enum Standing {
    /// It hears the event.
    Hears,
    /// It is switched off.
    Disabled,
    /// It selects other events.
    Unmet(Unmet),
    /// This one is more specific: it names what this binding does not.
    LessSpecific {
        /// The binding that goes before.
        than: BindingId,
        /// The selector that makes the difference.
        names: &'static str,
    },
    /// This one is as specific and has a lower priority number.
    LaterPriority {
        /// The binding that goes before.
        than: BindingId,
    },
    /// This one is as specific, has the same priority, and its id comes first.
    LaterId {
        /// The binding that goes before.
        than: BindingId,
    },
}

/// A selector that an event does not meet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Unmet {
    /// Which.
    pub selector: &'static str,
    /// What the binding asks for.
    pub wanted: String,
    /// What the event has.
    pub actual: Option<String>,
}

/// How each binding of an installation fares with an event, in the order they were given.
pub fn standings(bindings: &[Binding], installation: &Installation, normal: &Normal) -> Vec<Standing> {
    let fits = |b: &&Binding| b.enabled && unmet(&b.select, installation, normal).is_none();
    let winner = bindings.iter().filter(fits).min_by(|a, b| a.order(b));
    let standing = |binding: &Binding| {
        if let Some((selector, wanted, actual)) = unmet(&binding.select, installation, normal) {
            return Standing::Unmet(Unmet { selector, wanted: wanted.to_owned(), actual: actual.map(str::to_owned) });
        }
        let Some(winner) = winner.filter(|_| binding.enabled) else { return Standing::Disabled };
        let than = winner.id.clone();
        let names = Selector::NAMES.iter().zip(winner.select.present()).zip(binding.select.present()).find(|((_, w), b)| w != b);
        match names {
            Some(((names, _), _)) => Standing::LessSpecific { than, names },
            None if winner.id == binding.id => Standing::Hears,
            None if winner.priority != binding.priority => Standing::LaterPriority { than },
            None => Standing::LaterId { than },
        }
    };
    bindings.iter().map(standing).collect()
}

/// The first selector that an event does not meet: its name, what it asks for, what the event has.
fn unmet<'a>(select: &'a Selector, installation: &'a Installation, normal: &'a Normal) -> Option<(&'static str, &'a str, Option<&'a str>)> {
    let conversation = normal.conversation.as_ref();
    let (account, own_team) = match &installation.account {
        ExternalAccount::Slack { team_id, enterprise_id } => (team_id.as_deref().or(enterprise_id.as_deref()), team_id.as_deref()),
        ExternalAccount::Telegram { bot_id, .. } => (Some(bot_id.as_str()), None),
        ExternalAccount::WhatsApp { phone_number_id, .. } => (Some(phone_number_id.as_str()), None),
    };
    let asks = [
        ("provider", select.provider.map(ProviderKind::as_str), Some(installation.provider.as_str())),
        ("account", select.account.as_deref(), account),
        ("team", select.team.as_deref(), normal.team.as_deref().or(own_team)),
        ("channel", select.channel.as_deref(), conversation.map(|c| c.id.as_str())),
        ("thread", select.thread.as_deref(), conversation.and_then(|c| c.thread.as_deref())),
        ("peer", select.peer.as_deref(), normal.sender.as_ref().map(|s| s.id.as_str())),
    ];
    asks.into_iter()
        .find_map(|(selector, wanted, actual)| Some((selector, wanted?, actual)).filter(|(_, wanted, _)| actual != Some(wanted)))
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
    Ok(Destination { permit: policy.decide(speaking(directory, principal, installation, conversation, reply))? })
}

/// The question of [`outbound`], for where it cannot be asked: through a revoked installation nobody speaks, whoever it is.
pub fn speaking(
    directory: &Directory,
    principal: &AgentPrincipal,
    installation: &Arc<Kept<Installation>>,
    conversation: &str,
    reply: bool,
) -> SendMessage {
    let agent = principal.agent();
    SendMessage {
        agent: facts::agent(directory, agent),
        installation: facts::installation(directory, &installation.item),
        conversation: conversation.to_owned(),
        bound: directory.binds(&installation.item.id, &agent.id),
        reply,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::ids::{AgentId, InstallationId, OrgId, ProfileId};
    use crate::domain::installation::{InstallationStatus, Ownership};
    use crate::domain::message::{AccountClaim, Conversation, EventKind, Sender};
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

    #[test]
    fn each_binding_is_told_why_it_lost() {
        let s = |v: &str| Some(v.to_owned());
        let channel = || Selector { channel: s("C1"), ..Selector::default() };
        let team = Selector { team: s("T1"), account: s("T1"), ..Selector::default() };
        let other = Selector { peer: s("u1"), ..Selector::default() };
        let elsewhere = Selector { channel: s("C1"), provider: Some(ProviderKind::Telegram), ..Selector::default() };
        let mut off = Binding::clone(&binding("off", channel(), 1).item);
        off.enabled = false;
        let mut all: Vec<Binding> = [
            ("b", channel(), 5),
            ("a", channel(), 9),
            ("c", channel(), 5),
            ("team", team, 1),
            ("all", Selector::default(), 1),
            ("other", other, 1),
            ("elsewhere", elsewhere, 1),
        ]
        .into_iter()
        .map(|(id, select, priority)| binding(id, select, priority).item.clone())
        .collect();
        all.push(off);
        let normal = event().normal;
        let fared = standings(&all, &installation(), &normal);
        let told: String = all.iter().zip(&fared).map(|(b, s)| format!("{}: {s:?}\n", b.id)).collect();
        insta::assert_snapshot!(told, @r#"
        b: Hears
        a: LaterPriority { than: BindingId("b") }
        c: LaterId { than: BindingId("b") }
        team: LessSpecific { than: BindingId("b"), names: "channel" }
        all: LessSpecific { than: BindingId("b"), names: "channel" }
        other: Unmet(Unmet { selector: "peer", wanted: "u1", actual: Some("U1") })
        elsewhere: Unmet(Unmet { selector: "provider", wanted: "telegram", actual: Some("slack") })
        off: Disabled
        "#);
        assert!(standings(&all[5..], &installation(), &normal).iter().all(|s| matches!(s, Standing::Unmet(_) | Standing::Disabled)));
    }

    proptest! {
        #[test]
        fn the_one_that_hears_is_the_candidate(all in Just(every_selector()).prop_shuffle(), keep in 1usize..64, thread in "1\\.[23]", off in 0u64..) {
            let mut event = event();
            event.normal.conversation.as_mut().unwrap().thread = Some(thread);
            let kept: Vec<Arc<Kept<Binding>>> = all[..keep].iter().enumerate().map(|(i, b)| {
                let item = Binding { enabled: off & (1 << i) == 0, ..b.item.clone() };
                Arc::new(Kept { item, secrets: vec![], updated: Timestamp::default() })
            }).collect();
            let bindings: Vec<Binding> = kept.iter().map(|b| b.item.clone()).collect();
            let hears: Vec<&BindingId> = bindings.iter().zip(standings(&bindings, &installation(), &event.normal)).filter(|(_, s)| *s == Standing::Hears).map(|(b, _)| &b.id).collect();
            let wanted: Vec<&BindingId> = candidate(&kept, &installation(), &event).iter().map(|b| &b.item.id).collect();
            prop_assert_eq!(hears, wanted);
        }

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
