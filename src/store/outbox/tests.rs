//! The outbox against plain readings of the rows, and each rule of sharing by itself.

use super::*;
use proptest::prelude::*;

/// A claim in which nobody's share is in the way.
const ALL: Claiming = Claiming { limit: 9_999, lease_ms: 100, slots: 1_000_000, org_max: 400_000, agent_max: 100_000 };

/// The defaults.
const FAIR: Claiming = Claiming { limit: 256, lease_ms: 30_000, slots: 256, org_max: 32, agent_max: 16 };

fn none() -> Halted {
    Halted::default()
}

fn ms(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

/// An open delivery; `agent` is `org/agent` where the org is not `acme`.
fn open(session: &str, agent: &str, seq: i64, at_ms: i64) -> Open {
    let (org, agent) = agent.split_once('/').unwrap_or(("acme", agent));
    let (org, agent, installation) = (org.into(), agent.into(), format!("of-{session}"));
    Open { seq, session: session.into(), org, agent, installation, at_ms, leased: false }
}

impl Outbox {
    fn take(&mut self, claiming: Claiming, now_ms: i64) -> Vec<i64> {
        self.claim(&claiming, ms(now_ms), &none(), &|agent| agent.starts_with("shared"))
    }

    fn take_but(&mut self, now_ms: i64, halted: &Halted) -> Vec<i64> {
        self.claim(&ALL, ms(now_ms), halted, &|_| false)
    }

    /// So many conversations of an agent with one delivery each, numbered from `first`.
    fn fill(&mut self, agent: &str, sessions: i64, first: i64) {
        for seq in first..first + sessions {
            self.push(&open(&format!("{agent} {seq}"), agent, seq, 0));
        }
    }

    fn held_by(&self, org: &str) -> usize {
        self.orgs.get(org).map_or(0, |org| org.under_way)
    }

    fn fail(&mut self, agent: &str, times: usize, now_ms: i64) {
        for _ in 0..times {
            self.learn(agent, Health::Failed, 0, ms(now_ms));
        }
    }
}

#[test]
fn one_head_per_session_in_order() {
    let mut outbox = Outbox::default();
    for (seq, session) in [(1, "a"), (2, "a"), (3, "b")] {
        outbox.push(&open(session, "agent", seq, 0));
    }
    assert_eq!(outbox.take(ALL, 10), [1, 3]);
    assert_eq!(outbox.take(ALL, 10), Vec::<i64>::new());
    outbox.settle("a", 1, None);
    assert_eq!(outbox.take(ALL, 10), [2]);
    outbox.settle("a", 2, Some(50));
    assert_eq!(outbox.next(), Some(50));
    assert_eq!(outbox.take(ALL, 50), [2]);
    assert_eq!(outbox.take(ALL, 110), [3], "a lease that ran out");
    assert_eq!((outbox.len(), outbox.under_way()), (2, 2));
}

#[test]
fn a_paused_agent_waits_and_comes_back() {
    let mut outbox = Outbox::default();
    outbox.push(&open("a", "gone", 1, 0));
    outbox.push(&open("b", "here", 2, 0));
    let paused = Halted { agents: HashSet::from(["gone".to_owned()]), ..none() };
    assert_eq!(outbox.take_but(0, &paused), [2]);
    assert_eq!(outbox.take_but(0, &paused), Vec::<i64>::new());
    outbox.push(&open("c", "gone", 3, 0));
    assert_eq!(outbox.take_but(0, &paused), Vec::<i64>::new());
    assert_eq!(outbox.take_but(0, &none()), [1, 3]);
}

#[test]
fn a_degraded_installation_waits_in_its_order_with_its_agent_paused_or_not() {
    let mut outbox = Outbox::default();
    for (seq, session) in [(1, "a"), (2, "a"), (3, "b")] {
        outbox.push(&open(session, "agent", seq, 0));
    }
    let degraded = || Halted { installations: HashSet::from(["of-a".to_owned()]), ..none() };
    assert_eq!(outbox.take_but(0, &degraded()), [3]);
    assert_eq!(outbox.take_but(0, &Halted { agents: HashSet::from(["agent".to_owned()]), ..degraded() }), Vec::<i64>::new());
    assert_eq!(outbox.take_but(0, &degraded()), Vec::<i64>::new());
    assert_eq!(outbox.take_but(0, &none()), [1]);
    outbox.settle("a", 1, None);
    assert_eq!(outbox.take_but(0, &degraded()), Vec::<i64>::new());
    // Ended while it was parked: its head is forgotten with it.
    outbox.settle("a", 2, None);
    assert_eq!((outbox.take_but(0, &none()), outbox.len()), (vec![], 1));
}

#[test]
fn a_replayed_one_goes_before_its_successors_and_beside_none() {
    let mut outbox = Outbox::default();
    outbox.push(&open("a", "agent", 5, 0));
    outbox.push(&open("a", "agent", 2, 0));
    assert_eq!(outbox.take(ALL, 0), [2]);
    outbox.settle("a", 2, None);
    assert_eq!(outbox.take(ALL, 0), [5]);
    outbox.push(&open("a", "agent", 3, 0));
    assert_eq!(outbox.take(ALL, 0), Vec::<i64>::new(), "another one of its session is under way");
    outbox.settle("a", 5, Some(0));
    assert_eq!(outbox.take(ALL, 0), [3]);
    outbox.settle("a", 3, None);
    outbox.settle("a", 5, None);
    assert_eq!((outbox.len(), outbox.under_way(), outbox.orgs.len()), (0, 0, 0));
}

#[test]
fn orgs_take_turns_and_then_agents_and_then_sessions() {
    let mut outbox = Outbox::default();
    let mut seq = 0;
    // Everything of acme is older than anything of globex, and its first session has most of it.
    for (agent, session, count) in [("one", "a", 4), ("one", "b", 1), ("two", "c", 2), ("globex/three", "d", 3)] {
        for _ in 0..count {
            seq += 1;
            outbox.push(&open(session, agent, seq, 0));
        }
    }
    let mut order = Vec::new();
    while let [seq] = *outbox.take(Claiming { limit: 1, ..ALL }, 0) {
        let session = ["", "a", "a", "a", "a", "b", "c", "c", "d", "d", "d"][usize::try_from(seq).unwrap()];
        order.push(session);
        outbox.settle(session, seq, None);
    }
    assert_eq!(order, ["a", "d", "c", "d", "b", "d", "c", "a", "a", "a"]);
}

#[test]
fn no_agent_has_more_under_way_than_its_cap() {
    let mut outbox = Outbox::default();
    outbox.fill("acme/slow", 40, 1);
    outbox.fill("globex/other", 40, 100);
    let terms = Claiming { agent_max: 5, ..FAIR };
    let claimed = outbox.take(terms, 0);
    assert_eq!(claimed.iter().filter(|seq| **seq < 100).count(), 5);
    assert_eq!(claimed.len(), 10);
    assert!(outbox.take(terms, 0).is_empty());
    outbox.settle("acme/slow 1", 1, None);
    assert_eq!(outbox.take(terms, 0).len(), 1, "a slot that is given back is taken again");
}

#[test]
fn no_org_has_more_under_way_than_its_cap() {
    let mut outbox = Outbox::default();
    for agent in 0..40 {
        outbox.fill(&format!("acme/agent-{agent}"), 40, 1 + 100 * agent);
    }
    assert_eq!(outbox.take(FAIR, 0).len(), 32);
    assert!(outbox.take(FAIR, 0).is_empty());
    assert_eq!(outbox.held_by("acme"), 32);
    // One agent of an org leaves room for the next, and both for a third.
    let mut outbox = Outbox::default();
    for (n, held) in [(0, 16), (1, 24), (2, 28)] {
        outbox.fill(&format!("acme/agent-{n}"), 40, 1 + 100 * n);
        outbox.take(FAIR, 0);
        assert_eq!(outbox.held_by("acme"), held);
    }
}

#[test]
fn no_org_takes_more_slots_than_it_leaves_free() {
    let small = Claiming { slots: 16, ..FAIR };
    let mut outbox = Outbox::default();
    outbox.fill("acme/a", 40, 1);
    assert_eq!(outbox.take(small, 0).len(), 8);
    outbox.fill("globex/b", 40, 100);
    assert_eq!(outbox.take(small, 0).len(), 4);
    outbox.fill("initech/c", 40, 200);
    assert_eq!(outbox.take(small, 0).len(), 1, "the last quarter is not for an agent of which nothing is known");
    outbox.learn("c", Health::Answered, 5, ms(0));
    assert_eq!(outbox.take(small, 0).len(), 1, "and of the last quarter no org takes more than it leaves");
    // Alone with one slot, an org has the slot.
    let mut outbox = Outbox::default();
    outbox.fill("acme/a", 2, 1);
    assert_eq!(outbox.take(Claiming { slots: 1, ..FAIR }, 0).len(), 1);
}

#[test]
fn no_org_uses_up_an_agent_that_serves_several() {
    let mut outbox = Outbox::default();
    outbox.fill("acme/shared", 40, 1);
    assert_eq!(outbox.take(FAIR, 0).len(), 8);
    outbox.fill("globex/shared", 40, 100);
    assert_eq!(outbox.take(FAIR, 0).len(), 4);
    for n in 0..9 {
        outbox.fill(&format!("org{n}/shared"), 40, 1_000 + 100 * n);
    }
    assert_eq!(outbox.take(FAIR, 0).len(), 4, "one for each of four orgs, and then it is full");
    outbox.settle("acme/shared 1", 1, None);
    let next = outbox.take(FAIR, 0);
    assert!(matches!(next[..], [seq] if seq >= 1_000), "whoever has none goes before whoever has many: {next:?}");
}

#[test]
fn many_orgs_whose_agents_hang_leave_room_for_one_that_answers() {
    let mut outbox = Outbox::default();
    for org in 0..60 {
        outbox.fill(&format!("org{org}/hangs-{org}"), 20, 1 + 100 * org);
        outbox.fill(&format!("org{org}/hangs-too-{org}"), 20, 50 + 100 * org);
    }
    let hanging = outbox.take(FAIR, 0).len();
    assert!((100..=192).contains(&hanging), "{hanging}");
    outbox.fill("healthy/quick", 1, 1_000_000);
    assert_eq!(outbox.take(FAIR, 0), [1_000_000]);
    outbox.settle("healthy/quick 1000000", 1_000_000, None);
    outbox.learn("quick", Health::Answered, 5, ms(0));
    // From here on it is known, and it has the rest.
    for round in 1..50 {
        let first = 1_000_000 + 100 * round;
        outbox.fill("healthy/quick", 16, first);
        let claimed = outbox.take(FAIR, 10 * round);
        assert_eq!(claimed, (first..first + 16).collect::<Vec<_>>());
        for seq in claimed {
            outbox.settle(&format!("healthy/quick {seq}"), seq, None);
        }
    }
}

#[test]
fn an_agent_that_is_slow_now_has_no_part_in_the_reserve() {
    let mut outbox = Outbox::default();
    let terms = Claiming { slots: 8, agent_max: 8, ..FAIR };
    outbox.fill("acme/a", 3, 1);
    outbox.fill("globex/b", 3, 10);
    outbox.learn("b", Health::Answered, 5, ms(0));
    assert_eq!(outbox.take(terms, 0).len(), 6);
    outbox.fill("globex/b", 1, 20);
    outbox.fill("initech/c", 1, 30);
    outbox.learn("c", Health::Answered, SLOW_MS, ms(0));
    // It was quick, and has had three attempts under way for a second.
    assert!(outbox.take(terms, SLOW_MS).is_empty());
    outbox.settle("acme/a 1", 1, None);
    assert_eq!(outbox.take(terms, SLOW_MS), [30], "above the reserve everybody may go; who has less goes first");
}

#[test]
fn ten_thousand_conversations_of_a_full_agent_are_not_walked() {
    let mut outbox = Outbox::default();
    outbox.fill("acme/hangs", 10_000, 1);
    assert_eq!(outbox.take(FAIR, 0).len(), 16);
    // Nothing waits for a turn: all of it waits behind its agent, and is left there.
    assert!(outbox.turns.is_empty() && outbox.orgs["acme"].ring.is_empty());
    assert_eq!(outbox.orgs["acme"].lanes["hangs"].ready.len(), 9_984);
    outbox.fill("globex/quick", 1, 20_000);
    assert_eq!(outbox.take(FAIR, 0), [20_000]);
    outbox.fail("hangs", 5, 0);
    // With its leases over, the breaker alone is in the way.
    assert!(outbox.take(FAIR, 999).is_empty());
    assert!(outbox.turns.is_empty() && outbox.probes.len() == 1);
}

#[test]
fn behind_an_open_breaker_one_delivery_goes_at_a_time() {
    let mut outbox = Outbox::default();
    let mut told = Vec::new();
    outbox.fill("acme/sick", 20, 1);
    let first = outbox.take(Claiming { limit: 6, ..FAIR }, 0);
    assert_eq!(first.len(), 6);
    for seq in 1..=5 {
        outbox.settle(&format!("acme/sick {seq}"), seq, Some(90_000));
        outbox.fail("sick", 1, 0);
    }
    told.extend(outbox.turned());
    assert!(outbox.take(FAIR, 0).is_empty());
    assert_eq!(outbox.next(), Some(1_000), "the probe");
    assert!(outbox.take(FAIR, 1_000).is_empty(), "an older attempt is under way");
    outbox.settle("acme/sick 6", 6, Some(90_000));
    outbox.fail("sick", 1, 1_500);
    assert_eq!(outbox.take(FAIR, 1_500), [7], "one probe");
    assert!(outbox.take(FAIR, 9_000).is_empty());
    outbox.settle("acme/sick 7", 7, Some(90_000));
    outbox.fail("sick", 1, 9_000);
    assert!(outbox.take(FAIR, 10_999).is_empty());
    // The rows are read again: what was learnt stays.
    outbox.rebuild((8..=20).map(|seq| open(&format!("acme/sick {seq}"), "acme/sick", seq, 0)));
    assert!(outbox.take(FAIR, 10_999).is_empty());
    assert_eq!((outbox.next(), outbox.breakers(BreakerState::Open)), (Some(11_000), 1));
    assert_eq!(outbox.take(FAIR, 11_000), [8]);
    told.extend(outbox.turned());
    // A probe that is never settled: its lease runs out, and another goes.
    assert_eq!(outbox.take(FAIR, 41_000), [9]);
    outbox.settle("acme/sick 9", 9, None);
    outbox.learn("sick", Health::Answered, 5, ms(41_000));
    assert_eq!(outbox.take(FAIR, 41_000).len(), 12, "and then all that is due");
    told.extend(outbox.turned());
    use BreakerState::{Closed, HalfOpen, Open};
    assert_eq!(told.into_iter().map(|(_, state)| state).collect::<Vec<_>>(), [Open, HalfOpen, Open, HalfOpen, Closed]);
    assert!(outbox.probes.is_empty());
}

#[test]
fn an_operator_closes_a_breaker() {
    let mut outbox = Outbox::default();
    outbox.fill("acme/sick", 3, 1);
    outbox.fail("sick", 5, 0);
    assert_eq!(outbox.breaker("sick").state, BreakerState::Open);
    assert!(outbox.take(FAIR, 0).is_empty());
    outbox.forgive("sick");
    outbox.forgive("nobody");
    assert_eq!((outbox.take(FAIR, 0).len(), outbox.breaker("sick"), outbox.next()), (3, BreakerView::default(), Some(30_000)));
}

#[test]
fn a_breaker_stops_its_own_agent_alone() {
    let mut outbox = Outbox::default();
    outbox.fill("acme/sick", 3, 1);
    outbox.fill("acme/well", 3, 10);
    outbox.fail("sick", 5, 0);
    assert_eq!(outbox.take(FAIR, 0), [10, 11, 12]);
}

/// A row as the store has it: session, when it may be claimed, whether it is leased.
type Row = (usize, i64, bool);

/// The org and the agent of each session: six sessions, three agents, two orgs; each agent serves both.
fn of(session: usize) -> (String, String) {
    (format!("org{}", session % 2), format!("{}{}", if session.is_multiple_of(3) { "shared" } else { "agent" }, session % 3))
}

fn name(session: usize) -> String {
    format!("s{session}")
}

/// Sessions whose head may be claimed, with it.
fn due(rows: &BTreeMap<i64, Row>, now: i64) -> Vec<(usize, i64)> {
    let mut seen = HashSet::new();
    let heads = rows.iter().filter(|(_, (session, _, _))| seen.insert(*session));
    let busy = |session: usize| rows.values().any(|(s, at, leased)| *s == session && *leased && *at > now);
    heads.filter(|(_, (session, at, _))| *at <= now && !busy(*session)).map(|(seq, (session, _, _))| (*session, *seq)).collect()
}

proptest! {
    /// Against the plain reading of the rows: what is claimed is the oldest open of its session and due, nobody holds more
    /// than the caps, and what is due and not claimed has a rule against it. Reading the rows again changes nothing.
    #[test]
    fn claims_what_the_rows_and_the_shares_say(
        steps in proptest::collection::vec((0u8..7, 0usize..12, 0i64..40), 1..120),
        (slots, org_max, agent_max) in prop_oneof![Just((1_000, 400, 100)), (1usize..12, 1usize..6, 1usize..5)],
    ) {
        let claiming = Claiming { limit: slots, lease_ms: 50, slots, org_max, agent_max };
        let mut outbox = Outbox::default();
        let mut rows: BTreeMap<i64, Row> = BTreeMap::new();
        let (mut seq, mut now) = (0, 0);
        for (what, session, span) in steps {
            match what {
                0 | 1 => {
                    seq += 1;
                    let (org, agent) = of(session);
                    outbox.push(&open(&name(session), &format!("{org}/{agent}"), seq, now));
                    rows.insert(seq, (session, now, false));
                }
                2 | 3 => {
                    // Settled while it is under way, or ended by somebody else while it is not.
                    let mine = |leased: bool| rows.iter().find(|(_, (s, _, l))| *s == session && *l == leased).map(|(seq, _)| *seq);
                    if let Some(seq) = mine(true).or_else(|| mine(false)) {
                        let again = (span % 2 == 0 && rows[&seq].2).then_some(now + span);
                        outbox.settle(&name(session), seq, again);
                        match again {
                            Some(at) => *rows.get_mut(&seq).unwrap() = (session, at, false),
                            None => { rows.remove(&seq); }
                        }
                    }
                }
                4 => now += span,
                5 => outbox.rebuild(rows.iter().map(|(seq, (session, at_ms, leased))| {
                    let (org, agent) = of(*session);
                    Open { leased: *leased, ..open(&name(*session), &format!("{org}/{agent}"), *seq, *at_ms) }
                })),
                _ => {
                    let before = due(&rows, now);
                    let claimed = outbox.take(claiming, now);
                    for row in rows.values_mut().filter(|(_, at, leased)| *leased && *at <= now) {
                        row.2 = false;
                    }
                    for seq in &claimed {
                        prop_assert!(before.iter().any(|(_, due)| due == seq), "{} was not due", seq);
                        let row = rows.get_mut(seq).unwrap();
                        (row.1, row.2) = (now + 50, true);
                    }
                    let held = |is: &dyn Fn(&str, &str) -> bool| {
                        rows.values().filter(|(s, _, leased)| *leased && is(&of(*s).0, &of(*s).1)).count()
                    };
                    let all = held(&|_, _| true);
                    prop_assert_eq!(outbox.under_way(), all);
                    prop_assert!(all <= slots);
                    for session in 0..12 {
                        let (org, agent) = of(session);
                        prop_assert!(held(&|o, _| *o == org) <= org_max && held(&|_, a| *a == agent) <= agent_max);
                    }
                    let free = slots - all;
                    for (session, seq) in before.into_iter().filter(|(_, seq)| !claimed.contains(seq)) {
                        let (org, agent) = of(session);
                        let (of_org, of_agent) = (held(&|o, _| *o == org), held(&|_, a| *a == agent));
                        let of_both = held(&|o, a| *o == org && *a == agent);
                        let full = of_org >= org_max.min(free) || of_agent >= agent_max || of_both >= org_max - of_org;
                        let shared = agent.starts_with("shared") && of_both >= agent_max - of_agent;
                        prop_assert!(full || shared || (free <= slots / RESERVE && of_agent > 0), "nothing is against {}", seq);
                    }
                }
            }
            prop_assert_eq!(outbox.len(), rows.len());
        }
    }

    /// Of several orgs with work none waits longer than one turn of each other one.
    #[test]
    fn every_org_has_its_turn(work in proptest::collection::vec((1i64..6, 1i64..4), 1..8)) {
        let mut outbox = Outbox::default();
        let mut left: Vec<i64> = Vec::new();
        for (org, (sessions, each)) in work.iter().enumerate() {
            for (session, n) in (0..*sessions).flat_map(|s| (0..*each).map(move |n| (s, n))) {
                let org = i64::try_from(org).unwrap();
                let name = format!("{org} {session}");
                outbox.push(&open(&name, &format!("org{org}/agent{org}"), org * 1_000 + session * 10 + n, 0));
            }
            left.push(sessions * each);
        }
        let mut waited = vec![0; left.len()];
        while let [seq] = *outbox.take(Claiming { limit: 1, ..ALL }, 0) {
            let (org, session) = (usize::try_from(seq / 1_000).unwrap(), seq % 1_000 / 10);
            outbox.settle(&format!("{org} {session}"), seq, None);
            left[org] -= 1;
            for (other, waited) in waited.iter_mut().enumerate() {
                *waited = if other == org || left[other] == 0 { 0 } else { *waited + 1 };
                prop_assert!(*waited < left.len(), "org {} waited {} turns", other, waited);
            }
        }
        prop_assert!(left.iter().all(|left| *left == 0) && outbox.len() == 0);
    }
}

#[test]
fn each_org_has_its_own_count_of_what_is_open() {
    let mut outbox = Outbox::default();
    for (seq, session, agent) in [(1, "a", "x/agent"), (2, "a", "x/agent"), (3, "b", "y/agent")] {
        outbox.push(&open(session, agent, seq, 0));
    }
    let counts = |outbox: &Outbox| ["x", "y", "nobody"].map(|org| outbox.open_of(org));
    assert_eq!(counts(&outbox), [2, 1, 0]);
    outbox.settle("a", 1, Some(50));
    assert_eq!(counts(&outbox), [2, 1, 0], "a retry is still open");
    outbox.settle("a", 1, None);
    outbox.settle("a", 1, None);
    outbox.settle("b", 3, None);
    assert_eq!(counts(&outbox), [1, 0, 0]);
    outbox.rebuild([open("b", "y/agent", 3, 0)]);
    assert_eq!(counts(&outbox), [0, 1, 0]);
    assert_eq!(outbox.open_of.len(), 1, "no entry is left of an org without open deliveries");
}
