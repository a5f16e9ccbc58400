//! Tests of the choice and its order.

use proptest::prelude::*;

use super::*;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{InstallationId, OrgId, ProfileId};
use crate::domain::installation::{ExternalAccount, InstallationStatus, Mode, Ownership, ProviderKind, Selector};
use crate::domain::message::{AccountClaim, Conversation, Normal, Sender};

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
        connected_at: Timestamp::default(),
        status_reason: None,
        since: None,
        declared: None,
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
        installation: Some(InstallationId::parse("ins").unwrap()),
        mode: None,
        select,
        agent: AgentId::parse("a").unwrap(),
        priority,
        enabled: true,
        session: Default::default(),
        allow_platform_fallback: false,
        former: None,
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
    let fared = standings(&all, &installation(), true, &normal);
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
    assert!(standings(&all[5..], &installation(), true, &normal).iter().all(|s| matches!(s, Standing::Unmet(_) | Standing::Disabled)));
}

/// The same binding, naming its provider only.
fn legacy_one(binding: &Kept<Binding>) -> Arc<Kept<Binding>> {
    let select = Selector { provider: Some(ProviderKind::Slack), ..binding.item.select.clone() };
    let item = Binding {
        id: BindingId::parse(&format!("legacy-{}", binding.item.id)).unwrap(),
        installation: None,
        select,
        ..binding.item.clone()
    };
    Arc::new(Kept { item, secrets: vec![], updated: Timestamp::default() })
}

#[test]
fn a_legacy_binding_is_told_why_it_lost() {
    let peer = Selector { peer: Some("U1".into()), ..Selector::default() };
    let own = binding("own", Selector::default(), 1).item.clone();
    let narrow = legacy_one(&binding("narrow", peer, 1)).item.clone();
    let wide = legacy_one(&binding("wide", Selector::default(), 1)).item.clone();
    let other_mode = Binding { mode: Some(Mode::Byoa), id: BindingId::parse("mode").unwrap(), ..wide.clone() };
    let all = [own, narrow, wide, other_mode];
    let normal = event().normal;
    let told = |all: &[Binding], only: bool| -> String {
        all.iter().zip(standings(all, &installation(), only, &normal)).map(|(b, s)| format!("{}: {s:?}\n", b.id)).collect()
    };
    insta::assert_snapshot!(told(&all, true), @r#"
    own: Hears
    legacy-narrow: LegacyLast { than: BindingId("own") }
    legacy-wide: LegacyLast { than: BindingId("own") }
    mode: Unmet(Unmet { selector: "mode", wanted: "byoa", actual: Some("platform") })
    "#);
    insta::assert_snapshot!(told(&all[1..], true), @r#"
    legacy-narrow: Hears
    legacy-wide: LessSpecific { than: BindingId("legacy-narrow"), names: "peer" }
    mode: Unmet(Unmet { selector: "mode", wanted: "byoa", actual: Some("platform") })
    "#);
    insta::assert_snapshot!(told(&all[1..3], false), @r"
    legacy-narrow: Ambiguous
    legacy-wide: Ambiguous
    ");
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
        let hears: Vec<&BindingId> = bindings.iter().zip(standings(&bindings, &installation(), true, &event.normal)).filter(|(_, s)| *s == Standing::Hears).map(|(b, _)| &b.id).collect();
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

    #[test]
    fn nor_does_it_with_legacy_bindings_among_them(
        all in Just(every_selector()).prop_shuffle(), own in 0usize..8, legacy in 1usize..64, off in 0u64..,
    ) {
        let switched = |i: usize, b: &Arc<Kept<Binding>>| {
            let item = Binding { enabled: off & (1 << (i % 64)) == 0, ..b.item.clone() };
            Arc::new(Kept { item, secrets: vec![], updated: Timestamp::default() })
        };
        let mut own: Vec<_> = all.iter().rev().take(own).enumerate().map(|(i, b)| switched(i, b)).collect();
        let mut wide: Vec<_> = all.iter().take(legacy).enumerate().map(|(i, b)| switched(i, &legacy_one(b))).collect();
        let pick = |own: &[_], wide: &[_]| choose(own, wide, &installation(), &event()).map(|b| b.item.id.clone());
        let first = pick(&own, &wide);
        let bindings: Vec<Binding> = own.iter().chain(&wide).map(|b| b.item.clone()).collect();
        let hears: Vec<_> = bindings.iter().zip(standings(&bindings, &installation(), true, &event().normal))
            .filter(|(_, s)| *s == Standing::Hears).map(|(b, _)| b.id.clone()).collect();
        prop_assert_eq!(&hears, &first.iter().cloned().collect::<Vec<_>>(), "explained as chosen");
        // One of the installation's own goes before any legacy one.
        prop_assert_eq!(own.iter().any(|b| b.item.enabled), first.as_ref().is_some_and(|b| !b.as_str().starts_with("legacy-")));
        own.sort_by(|a, b| a.item.id.cmp(&b.item.id));
        wide.reverse();
        prop_assert_eq!(pick(&own, &wide), first);
        // Where the provider could mean several installations, no legacy binding hears anything.
        let unsure = standings(&bindings, &installation(), false, &event().normal);
        prop_assert!(bindings.iter().zip(unsure).all(|(b, s)| !b.is_legacy() || s != Standing::Hears));
    }
}

#[test]
fn an_agent_is_confined_where_each_of_its_bindings_selects_a_conversation() {
    let s = |v: &str| Some(v.to_owned());
    let channel = |id: &str| Selector { channel: s(id), ..Selector::default() };
    let peer = Selector { peer: s("15550001"), ..Selector::default() };
    let agent = AgentId::parse("a").unwrap();
    let directory = |all: &[Arc<Kept<Binding>>]| {
        let mut directory = Directory::default();
        directory.bindings = all.iter().map(|b| (b.item.id.clone(), b.clone())).collect();
        directory.indexed()
    };
    let tie = |binding: Option<&Arc<Kept<Binding>>>| Tie {
        route: binding.map(|b| Route {
            org: b.item.org.clone(),
            provider: ProviderKind::Slack,
            installation: installation().id,
            binding: Some(b.item.id.clone()),
            agent: agent.clone(),
            legacy: b.item.is_legacy(),
        }),
        legacy: None,
    };
    let (one, other, all) = (binding("one", channel("C1"), 1), binding("other", peer, 1), binding("all", Selector::default(), 1));
    let mut off = Binding::clone(&all.item);
    off.enabled = false;
    let off = Arc::new(Kept { item: off, secrets: vec![], updated: Timestamp::default() });
    let confined = |bindings: &[Arc<Kept<Binding>>]| is_confined(&directory(bindings), &agent, &installation(), &tie(bindings.first()));
    assert!(confined(&[one.clone(), other.clone()]));
    assert!(confined(&[one.clone(), off]), "a binding that is switched off binds to nothing");
    assert!(!confined(&[one.clone(), all]), "one that takes everything is enough");
    assert!(!is_confined(&directory(&[]), &agent, &installation(), &tie(None)), "whoever is not bound at all is refused for that");

    let session = |key: &str| SessionView {
        id: crate::domain::ids::SessionId::fresh(Timestamp::default()),
        key: key.into(),
        route: tie(Some(&one)).route.unwrap(),
        conversation: "D1".into(),
        thread: None,
        status: "active".into(),
    };
    let here = |bindings: &[Arc<Kept<Binding>>], conversation: &str, session: Option<&SessionView>| {
        is_bound_here(&directory(bindings), &agent, &installation(), conversation, session)
    };
    let by_channel = std::slice::from_ref(&one);
    assert!(here(by_channel, "C1", None));
    assert!(!here(by_channel, "C2", None));
    assert!(!here(by_channel, "D1", Some(&session("k"))), "a session from before the binding was changed is none of this binding's");
    let by_peer = std::slice::from_ref(&other);
    assert!(here(by_peer, "15550001", None), "a direct conversation that is called as its person");
    assert!(here(by_peer, "D1", Some(&session("k"))), "where that person was heard");
    assert!(!here(by_peer, "D1", None));
}
