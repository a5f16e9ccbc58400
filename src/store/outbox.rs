//! Which deliveries go next, in memory: an org's turn, then an agent's, then a session's, each round robin.
//!
//! The rows are the truth; this is their order. Kept here because an index by session would make every event write a page
//! of its own (measured: 8 → 19 µs a row, `docs/performance.md`). The one writer changes it together with the rows, and
//! reads it anew from them after a commit that failed.
//!
//! Sharing has one rule on every level: nobody takes more than is left free for the others. An org holds no more of all
//! slots than are free, an agent no more of its org's slots, and an org no more of an agent that serves several orgs. On top
//! of that stand the caps, a reserve of all slots for agents that answer quickly, and a breaker for each agent
//! (`docs/agents.md`). A session that cannot go waits where a claim does not look: a claim costs what it hands out and what
//! became due since the last one, however many conversations wait behind an agent.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque, hash_map};
use std::sync::Arc;

use super::terms::Claiming;
use crate::domain::breaker::{Breaker, BreakerState, BreakerView, Health};
use crate::domain::clock::Timestamp;

/// An attempt that takes longer makes its agent a slow one, in milliseconds.
const SLOW_MS: i64 = 1_000;

/// One slot of so many is kept from slow agents.
const RESERVE: usize = 4;

/// An open delivery: its number and when it may be claimed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: i64,
    at_ms: i64,
}

/// Where a session waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// Nowhere yet.
    None,
    /// Among the times: its head's time has not come, or was not looked at yet.
    Later { at_ms: i64, seq: i64 },
    /// Among the times too: this delivery of it is under way until then.
    Leased { until_ms: i64, seq: i64 },
    /// In its lane, with its turn.
    Ready(u64),
    /// Behind its installation, which is halted.
    Parked,
}

/// The open deliveries of one session, oldest first. A session has one org, one agent and one installation for as long as
/// it lives, and at most one delivery under way.
#[derive(Debug)]
struct Queue {
    org: Arc<str>,
    agent: Arc<str>,
    installation: Arc<str>,
    entries: VecDeque<Entry>,
    place: Place,
}

/// Where a lane waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waits {
    /// It has nothing that is due.
    Idle,
    /// In the ring of its org.
    Turn,
    /// Behind its agent, which takes nothing more for now.
    Agent,
}

/// What one org has for one agent.
#[derive(Debug)]
struct Lane {
    ready: BTreeMap<u64, Arc<str>>,
    waits: Waits,
    /// Sessions with open deliveries.
    sessions: usize,
    under_way: usize,
}

#[derive(Debug, Default)]
struct Org {
    lanes: HashMap<Arc<str>, Lane>,
    /// Agents with a lane that waits for its turn.
    ring: VecDeque<Arc<str>>,
    in_turn: bool,
    under_way: usize,
}

/// What is known of an agent's answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Pace {
    #[default]
    Unknown,
    Quick,
    Slow,
}

#[derive(Debug, Default)]
struct Agent {
    /// End of lease and number of each attempt under way.
    under_way: BTreeSet<(i64, i64)>,
    breaker: Breaker,
    pace: Pace,
    /// Orgs whose lane waits for this agent.
    asleep: Vec<Arc<str>>,
}

impl Agent {
    /// Whether one more attempt may use the reserve: an agent that answers quickly, or one attempt to find that out.
    fn is_trusted(&self, now_ms: i64, lease_ms: i64) -> bool {
        let began_ms = self.under_way.first().map(|(until_ms, _)| until_ms.saturating_sub(lease_ms));
        let hangs = began_ms.is_some_and(|began_ms| now_ms.saturating_sub(began_ms) >= SLOW_MS);
        !hangs && (self.pace == Pace::Quick || self.pace == Pace::Unknown && self.under_way.is_empty())
    }
}

/// What must not be sent for now.
#[derive(Debug, Default)]
pub(super) struct Halted {
    /// Agents that are paused.
    pub agents: HashSet<String>,
    /// Installations that are degraded or suspended.
    pub installations: HashSet<String>,
}

/// The schedule of open deliveries.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    sessions: HashMap<Arc<str>, Queue>,
    /// Sessions by the time at which they are looked at next.
    times: BTreeMap<(i64, i64), Arc<str>>,
    orgs: HashMap<Arc<str>, Org>,
    /// Orgs with a lane that waits for its turn.
    turns: VecDeque<Arc<str>>,
    agents: HashMap<Arc<str>, Agent>,
    /// When open breakers are looked at next.
    probes: BTreeSet<(i64, Arc<str>)>,
    /// Paused agents that lanes wait for.
    paused: BTreeSet<Arc<str>>,
    /// Sessions behind a halted installation.
    parked: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Changes of breakers that nobody was told of yet.
    turned: Vec<(Arc<str>, BreakerState)>,
    /// Counts the turns of sessions.
    turn: u64,
    under_way: usize,
    open: usize,
    /// Open deliveries by org.
    open_of: HashMap<Arc<str>, usize>,
    stale: bool,
}

/// An open row as it is in the store.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub seq: i64,
    pub session: String,
    pub org: String,
    pub agent: String,
    pub installation: String,
    /// When it may be claimed; of a leased one, when the lease runs out.
    pub at_ms: i64,
    pub leased: bool,
}

/// What an org's turn comes to.
enum Turn {
    Took(i64),
    /// It has work, and may not take it now.
    Waits,
    /// It has nothing that waits for a turn.
    Over,
}

/// The terms of one claim.
struct Round<'c> {
    claiming: &'c Claiming,
    now_ms: i64,
    until_ms: i64,
    halted: &'c Halted,
    /// Whether an agent serves several orgs.
    shared: &'c dyn Fn(&str) -> bool,
}

impl Outbox {
    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// How many of an org are open.
    pub(super) fn open_of(&self, org: &str) -> usize {
        self.open_of.get(org).copied().unwrap_or(0)
    }

    /// Whether a session has open deliveries.
    pub(super) fn has(&self, session: &str) -> bool {
        self.sessions.contains_key(session)
    }

    /// Whether the rows must be read anew first.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// A commit failed: what is here may never have happened.
    pub(super) fn distrust(&mut self) {
        self.stale = true;
    }

    /// Starts over from the rows. What was learnt about agents is no row, and stays.
    pub(super) fn rebuild(&mut self, rows: impl IntoIterator<Item = Open>) {
        let old = std::mem::take(self);
        let learnt = |(name, agent): (Arc<str>, Agent)| (name, Agent { breaker: agent.breaker, pace: agent.pace, ..Agent::default() });
        self.agents = old.agents.into_iter().map(learnt).collect();
        (self.probes, self.turned) = (old.probes, old.turned);
        for row in rows {
            self.push(&row);
        }
        let used: HashSet<&Arc<str>> = self.sessions.values().map(|queue| &queue.agent).collect();
        self.agents.retain(|name, agent| agent.breaker.state() != BreakerState::Closed || used.contains(name));
    }

    /// One more open delivery. A replayed one is older than those behind it and goes first again.
    pub(super) fn push(&mut self, open: &Open) {
        let key = match self.sessions.get_key_value(open.session.as_str()) {
            Some((key, _)) => key.clone(),
            None => self.begin(open),
        };
        let Some(queue) = self.sessions.get_mut(&key) else { return };
        *self.open_of.entry(queue.org.clone()).or_default() += 1;
        let behind = queue.entries.partition_point(|e| e.seq < open.seq);
        queue.entries.insert(behind, Entry { seq: open.seq, at_ms: open.at_ms });
        self.open += 1;
        let is_leased = matches!(queue.place, Place::Leased { .. });
        if open.leased && !is_leased {
            self.take_out(&key);
            self.lease(&key, open.seq, open.at_ms);
        } else if behind == 0 && !is_leased {
            self.take_out(&key);
            self.put_in(&key);
        }
    }

    /// A session's first open delivery.
    fn begin(&mut self, open: &Open) -> Arc<str> {
        let key: Arc<str> = Arc::from(open.session.as_str());
        let org = self.orgs.get_key_value(open.org.as_str()).map_or_else(|| Arc::from(open.org.as_str()), |(org, _)| org.clone());
        let agent = self.agents.get_key_value(open.agent.as_str()).map_or_else(|| Arc::from(open.agent.as_str()), |(a, _)| a.clone());
        self.agents.entry(agent.clone()).or_default();
        let lanes = &mut self.orgs.entry(org.clone()).or_default().lanes;
        let fresh = || Lane { ready: BTreeMap::new(), waits: Waits::Idle, sessions: 0, under_way: 0 };
        lanes.entry(agent.clone()).or_insert_with(fresh).sessions += 1;
        let installation = Arc::from(open.installation.as_str());
        self.sessions.insert(key.clone(), Queue { org, agent, installation, entries: VecDeque::new(), place: Place::None });
        key
    }

    /// Up to `claiming.limit` heads that are due, in turn; they are not due again before `until_ms`. `shared` says whether an
    /// agent serves several orgs.
    pub(super) fn claim(&mut self, claiming: &Claiming, now: Timestamp, halted: &Halted, shared: &dyn Fn(&str) -> bool) -> Vec<i64> {
        let until_ms = now.plus_ms(claiming.lease_ms).ms();
        let round = Round { claiming, now_ms: now.ms(), until_ms, halted, shared };
        self.unhalt(halted);
        self.pass_time(now.ms());
        let (mut claimed, mut aside) = (Vec::new(), Vec::new());
        while claimed.len() < claiming.limit {
            let Some(org) = self.turns.pop_front() else { break };
            match self.take_turn(&org, &round) {
                Turn::Took(seq) => {
                    claimed.push(seq);
                    self.turns.push_back(org);
                }
                Turn::Waits => aside.push(org),
                Turn::Over => self.leave(&org),
            }
        }
        // Who could not go keeps its place.
        for org in aside.into_iter().rev() {
            self.turns.push_front(org);
        }
        claimed
    }

    /// Sessions and lanes whose agent or installation is not halted any more.
    fn unhalt(&mut self, halted: &Halted) {
        let resumed: Vec<Arc<str>> = self.paused.iter().filter(|agent| !halted.agents.contains(&***agent)).cloned().collect();
        for agent in resumed {
            self.paused.remove(&agent);
            self.wake(&agent);
        }
        let active: Vec<Arc<str>> = self.parked.keys().filter(|i| !halted.installations.contains(&***i)).cloned().collect();
        for session in active.iter().filter_map(|installation| self.parked.remove(installation)).flatten().collect::<Vec<_>>() {
            self.put_in(&session);
        }
    }

    /// What became due by `now_ms`: heads, leases that ran out, probes of open breakers.
    fn pass_time(&mut self, now_ms: i64) {
        while let Some(first) = self.times.first_entry().filter(|e| e.key().0 <= now_ms) {
            let session = first.remove();
            let Some(queue) = self.sessions.get_mut(&session) else { continue };
            let was = std::mem::replace(&mut queue.place, Place::None);
            if let Place::Leased { until_ms, seq } = was {
                self.release(&session, until_ms, seq);
            }
            self.make_ready(session);
        }
        while self.probes.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms) {
            if let Some((_, agent)) = self.probes.pop_first() {
                self.wake(&agent);
            }
        }
    }

    fn make_ready(&mut self, session: Arc<str>) {
        let Some(queue) = self.sessions.get_mut(&session) else { return };
        self.turn += 1;
        queue.place = Place::Ready(self.turn);
        let (name, agent) = (queue.org.clone(), queue.agent.clone());
        let Some(org) = self.orgs.get_mut(&name) else { return };
        let Some(lane) = org.lanes.get_mut(&agent) else { return };
        lane.ready.insert(self.turn, session);
        if lane.waits == Waits::Idle {
            lane.waits = Waits::Turn;
            org.ring.push_back(agent);
            if !std::mem::replace(&mut org.in_turn, true) {
                self.turns.push_back(name);
            }
        }
    }

    /// Lanes that wait for this agent wait for their turn again.
    fn wake(&mut self, agent: &Arc<str>) {
        let asleep = self.agents.get_mut(agent).map(|agent| std::mem::take(&mut agent.asleep)).unwrap_or_default();
        for name in asleep {
            let Some(org) = self.orgs.get_mut(&name) else { continue };
            let Some(lane) = org.lanes.get_mut(agent) else { continue };
            lane.waits = Waits::Turn;
            org.ring.push_back(agent.clone());
            if !std::mem::replace(&mut org.in_turn, true) {
                self.turns.push_back(name);
            }
        }
    }

    /// One delivery of an org, of the agent whose turn it is.
    fn take_turn(&mut self, name: &Arc<str>, round: &Round<'_>) -> Turn {
        let claiming = round.claiming;
        let free = claiming.slots.saturating_sub(self.under_way);
        let Some(org) = self.orgs.get_mut(name) else { return Turn::Over };
        if org.under_way >= claiming.org_max.min(free) {
            return if org.ring.is_empty() { Turn::Over } else { Turn::Waits };
        }
        let (left, reserved) = (claiming.org_max.saturating_sub(org.under_way), free <= claiming.slots / RESERVE);
        let (mut aside, mut found) = (Vec::new(), None);
        while let Some(key) = org.ring.pop_front() {
            let (Some(lane), Some(agent)) = (org.lanes.get_mut(&key), self.agents.get_mut(&key)) else { continue };
            if lane.ready.is_empty() {
                lane.waits = Waits::Idle;
                if lane.sessions == 0 && lane.under_way == 0 {
                    org.lanes.remove(&key);
                }
                continue;
            }
            let (paused, under_way) = (round.halted.agents.contains(&*key), agent.under_way.len());
            let share = if (round.shared)(&key) { claiming.agent_max.saturating_sub(under_way) } else { claiming.agent_max };
            let full = under_way >= claiming.agent_max || lane.under_way >= share;
            if paused || full || !agent.breaker.admits(Timestamp::from_ms(round.now_ms), under_way) {
                lane.waits = Waits::Agent;
                agent.asleep.push(name.clone());
                if paused {
                    self.paused.insert(key);
                }
                continue;
            }
            if lane.under_way >= left || reserved && !agent.is_trusted(round.now_ms, claiming.lease_ms) {
                aside.push(key);
                continue;
            }
            let session = loop {
                let Some((_, session)) = lane.ready.pop_first() else { break None };
                let Some(queue) = self.sessions.get_mut(&session) else { continue };
                if !round.halted.installations.contains(&*queue.installation) {
                    break queue.entries.front().map(|head| (session, head.seq));
                }
                queue.place = Place::Parked;
                self.parked.entry(queue.installation.clone()).or_default().insert(session);
            };
            if lane.ready.is_empty() {
                lane.waits = Waits::Idle;
            } else {
                org.ring.push_back(key.clone());
            }
            if let Some((session, seq)) = session {
                if let Some(state) = agent.breaker.started() {
                    self.turned.push((key, state));
                }
                found = Some((session, seq));
                break;
            }
        }
        let waits = !aside.is_empty();
        for agent in aside.into_iter().rev() {
            org.ring.push_front(agent);
        }
        match found {
            Some((session, seq)) => {
                self.lease(&session, seq, round.until_ms);
                Turn::Took(seq)
            }
            None if waits => Turn::Waits,
            None => Turn::Over,
        }
    }

    /// An org has nothing that waits for a turn.
    fn leave(&mut self, name: &Arc<str>) {
        if let Some(org) = self.orgs.get_mut(name) {
            org.in_turn = false;
            if org.lanes.is_empty() {
                self.orgs.remove(name);
            }
        }
    }

    /// Puts a session among the times by its head.
    fn put_in(&mut self, session: &Arc<str>) {
        let Some(queue) = self.sessions.get_mut(session) else { return };
        let Some(Entry { seq, at_ms }) = queue.entries.front().copied() else { return };
        queue.place = Place::Later { at_ms, seq };
        self.times.insert((at_ms, seq), session.clone());
    }

    /// Takes a session from where it waits.
    fn take_out(&mut self, session: &Arc<str>) {
        let Some(queue) = self.sessions.get_mut(session) else { return };
        match std::mem::replace(&mut queue.place, Place::None) {
            Place::None => {}
            Place::Later { at_ms, seq } => {
                self.times.remove(&(at_ms, seq));
            }
            Place::Leased { until_ms, seq } => {
                self.times.remove(&(until_ms, seq));
                self.release(session, until_ms, seq);
            }
            Place::Ready(turn) => {
                if let Some(lane) = self.orgs.get_mut(&queue.org).and_then(|org| org.lanes.get_mut(&queue.agent)) {
                    lane.ready.remove(&turn);
                }
            }
            Place::Parked => {
                if let Some(parked) = self.parked.get_mut(&queue.installation) {
                    parked.remove(session);
                }
            }
        }
    }

    /// A delivery of a session is under way from here on.
    fn lease(&mut self, session: &Arc<str>, seq: i64, until_ms: i64) {
        let Some(queue) = self.sessions.get_mut(session) else { return };
        queue.place = Place::Leased { until_ms, seq };
        if let Some(entry) = queue.entries.iter_mut().find(|e| e.seq == seq) {
            entry.at_ms = until_ms;
        }
        self.times.insert((until_ms, seq), session.clone());
        self.under_way += 1;
        if let Some(org) = self.orgs.get_mut(&queue.org) {
            org.under_way += 1;
            if let Some(lane) = org.lanes.get_mut(&queue.agent) {
                lane.under_way += 1;
            }
        }
        if let Some(agent) = self.agents.get_mut(&queue.agent) {
            agent.under_way.insert((until_ms, seq));
        }
    }

    /// It is under way no more: it was settled, or its lease ran out.
    fn release(&mut self, session: &Arc<str>, until_ms: i64, seq: i64) {
        let Some(queue) = self.sessions.get(session) else { return };
        let agent = queue.agent.clone();
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(org) = self.orgs.get_mut(&queue.org) {
            org.under_way = org.under_way.saturating_sub(1);
            if let Some(lane) = org.lanes.get_mut(&agent) {
                lane.under_way = lane.under_way.saturating_sub(1);
            }
        }
        if let Some(agent) = self.agents.get_mut(&agent) {
            agent.under_way.remove(&(until_ms, seq));
        }
        self.wake(&agent);
    }

    /// A delivery is settled, or open again at `again_ms`.
    pub(super) fn settle(&mut self, session: &str, seq: i64, again_ms: Option<i64>) {
        let Some(key) = self.sessions.get_key_value(session).map(|(key, _)| key.clone()) else { return };
        let Some(queue) = self.sessions.get_mut(&key) else { return };
        let Some(at) = queue.entries.iter().position(|e| e.seq == seq) else { return };
        match (again_ms, queue.entries.get_mut(at)) {
            (Some(at_ms), Some(entry)) => entry.at_ms = at_ms,
            _ => {
                queue.entries.remove(at);
                self.open = self.open.saturating_sub(1);
                if let hash_map::Entry::Occupied(mut open) = self.open_of.entry(queue.org.clone()) {
                    *open.get_mut() = open.get().saturating_sub(1);
                    if *open.get() == 0 {
                        open.remove();
                    }
                }
            }
        }
        let (is_empty, leased) = (queue.entries.is_empty(), queue.place);
        let is_leased = matches!(leased, Place::Leased { seq: under_way, .. } if under_way == seq);
        // Another delivery of the session is under way, or this one is not its head.
        if !is_leased && (at > 0 || matches!(leased, Place::Leased { .. })) {
            return;
        }
        self.take_out(&key);
        if is_empty { self.end(&key) } else { self.put_in(&key) }
    }

    /// A session has no open delivery any more.
    fn end(&mut self, session: &Arc<str>) {
        let Some(Queue { org: name, agent, .. }) = self.sessions.remove(session) else { return };
        let Some(org) = self.orgs.get_mut(&name) else { return };
        let Some(lane) = org.lanes.get_mut(&agent) else { return };
        lane.sessions = lane.sessions.saturating_sub(1);
        // A lane that waits somewhere is removed when its turn comes.
        if lane.sessions == 0 && lane.under_way == 0 && lane.waits == Waits::Idle {
            org.lanes.remove(&agent);
            if org.lanes.is_empty() && !org.in_turn {
                self.orgs.remove(&name);
            }
        }
    }

    /// An attempt at an agent ended after `took_ms`.
    pub(super) fn learn(&mut self, agent: &str, health: Health, took_ms: i64, now: Timestamp) {
        let Some(key) = self.agents.get_key_value(agent).map(|(key, _)| key.clone()) else { return };
        let Some(agent) = self.agents.get_mut(&key) else { return };
        match health {
            Health::Answered | Health::Failed if took_ms >= SLOW_MS => agent.pace = Pace::Slow,
            Health::Answered => agent.pace = Pace::Quick,
            Health::Failed | Health::Unknown => {}
        }
        let state = agent.breaker.ended(health, now);
        self.has_turned(&key, state);
    }

    /// Closes an agent's breaker: an operator changed the agent, or wants its deliveries tried again.
    pub(super) fn forgive(&mut self, agent: &str) {
        let Some(key) = self.agents.get_key_value(agent).map(|(key, _)| key.clone()) else { return };
        let state = self.agents.get_mut(&key).and_then(|agent| agent.breaker.reset());
        self.has_turned(&key, state);
    }

    fn has_turned(&mut self, agent: &Arc<str>, state: Option<BreakerState>) {
        let Some(state) = state else { return };
        self.probes.retain(|(_, other)| other != agent);
        if let Some(at) = self.agents.get(agent).and_then(|agent| agent.breaker.probe_at()) {
            self.probes.insert((at.ms(), agent.clone()));
        }
        self.turned.push((agent.clone(), state));
        self.wake(agent);
    }

    /// Changes of breakers since they were asked for.
    pub(super) fn turned(&mut self) -> Vec<(Arc<str>, BreakerState)> {
        std::mem::take(&mut self.turned)
    }

    /// An agent's breaker.
    pub(super) fn breaker(&self, agent: &str) -> BreakerView {
        self.agents.get(agent).map(|agent| agent.breaker.view()).unwrap_or_default()
    }

    /// How many breakers are in this state; agents that were never heard of have a closed one.
    pub(super) fn breakers(&self, state: BreakerState) -> usize {
        self.agents.values().filter(|agent| agent.breaker.state() == state).count()
    }

    /// How many attempts are under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// The earliest time at which something becomes due, a lease runs out or a breaker may be probed.
    pub(super) fn next(&self) -> Option<i64> {
        let times = self.times.first_key_value().map(|((at_ms, _), _)| *at_ms);
        times.into_iter().chain(self.probes.first().map(|(at_ms, _)| *at_ms)).min()
    }
}

#[cfg(test)]
mod tests;
