//! Which deliveries are due, in memory: the head of each session, by time.
//!
//! The rows are the truth; this is their order. Kept here because an index by session would make every event write a page
//! of its own (measured: 8 → 19 µs a row, `docs/performance.md`). The one writer changes it together with the rows, and
//! reads it anew from them after a commit that failed.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// An open delivery: its number and when it may be claimed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: i64,
    at_ms: i64,
}

/// The open deliveries of one session, oldest first. A session has one agent and one installation for as long as it lives.
#[derive(Debug)]
struct Queue {
    agent: Arc<str>,
    installation: Arc<str>,
    entries: VecDeque<Entry>,
}

/// What must not be sent for now.
#[derive(Debug, Default)]
pub(super) struct Halted {
    /// Agents that are paused.
    pub agents: HashSet<String>,
    /// Installations that are degraded or suspended.
    pub installations: HashSet<String>,
}

/// Why a head is out of the way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Cause {
    Agent(Arc<str>),
    Installation(Arc<str>),
}

impl Halted {
    fn cause(&self, queue: &Queue) -> Option<Cause> {
        if self.agents.contains(&*queue.agent) {
            return Some(Cause::Agent(queue.agent.clone()));
        }
        self.installations.contains(&*queue.installation).then(|| Cause::Installation(queue.installation.clone()))
    }

    fn holds(&self, cause: &Cause) -> bool {
        match cause {
            Cause::Agent(agent) => self.agents.contains(&**agent),
            Cause::Installation(installation) => self.installations.contains(&**installation),
        }
    }
}

/// The schedule of open deliveries.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    sessions: HashMap<Arc<str>, Queue>,
    heads: BTreeMap<(i64, i64), Arc<str>>,
    /// Heads that are halted: out of the way until they are not.
    parked: HashMap<Cause, Vec<(i64, Arc<str>)>>,
    open: usize,
    stale: bool,
}

/// An open row as it lies in the store.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub seq: i64,
    pub session: String,
    pub agent: String,
    pub installation: String,
    pub at_ms: i64,
}

impl Outbox {
    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.open
    }

    /// Whether the rows must be read anew first.
    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// A commit failed: what stands here may never have happened.
    pub(super) fn distrust(&mut self) {
        self.stale = true;
    }

    /// Starts over from the rows.
    pub(super) fn rebuild(&mut self, rows: impl IntoIterator<Item = Open>) {
        *self = Self::default();
        for row in rows {
            self.push(&row);
        }
    }

    /// One more open delivery. A replayed one is older than those behind it and goes first again.
    pub(super) fn push(&mut self, open: &Open) {
        let key = match self.sessions.get_key_value(open.session.as_str()) {
            Some((key, _)) => key.clone(),
            None => Arc::from(open.session.as_str()),
        };
        let queue = self.sessions.entry(key.clone()).or_insert_with(|| Queue {
            agent: Arc::from(open.agent.as_str()),
            installation: Arc::from(open.installation.as_str()),
            entries: VecDeque::new(),
        });
        let head = queue.entries.front().copied();
        let behind = queue.entries.partition_point(|e| e.seq < open.seq);
        queue.entries.insert(behind, Entry { seq: open.seq, at_ms: open.at_ms });
        self.open += 1;
        if behind == 0 {
            if let Some(head) = head {
                self.forget_head(head);
            }
            self.heads.insert((open.at_ms, open.seq), key);
        }
    }

    fn forget_head(&mut self, head: Entry) {
        if self.heads.remove(&(head.at_ms, head.seq)).is_none() {
            for parked in self.parked.values_mut() {
                parked.retain(|(seq, _)| *seq != head.seq);
            }
        }
    }

    /// Up to `limit` heads that are due, oldest first; they are not due again before `lease_until_ms`.
    pub(super) fn claim(&mut self, limit: usize, now_ms: i64, lease_until_ms: i64, halted: &Halted) -> Vec<i64> {
        let back: Vec<Cause> = self.parked.keys().filter(|cause| !halted.holds(cause)).cloned().collect();
        for (seq, session) in back.iter().flat_map(|cause| self.parked.remove(cause).unwrap_or_default()).collect::<Vec<_>>() {
            let at_ms = self.sessions.get(&session).and_then(|q| q.entries.front()).map_or(now_ms, |e| e.at_ms);
            self.heads.insert((at_ms, seq), session);
        }
        let mut claimed = Vec::new();
        while claimed.len() < limit {
            let Some(first) = self.heads.first_entry().filter(|e| e.key().0 <= now_ms) else { break };
            let ((_, seq), session) = first.remove_entry();
            let Some(queue) = self.sessions.get_mut(&session) else { continue };
            if let Some(cause) = halted.cause(queue) {
                self.parked.entry(cause).or_default().push((seq, session));
                continue;
            }
            if let Some(entry) = queue.entries.front_mut() {
                entry.at_ms = lease_until_ms;
            }
            claimed.push((seq, session));
        }
        let seqs = claimed.iter().map(|(seq, _)| *seq).collect();
        // Put back only now: a lease that is already over would be claimed twice in one go.
        self.heads.extend(claimed.into_iter().map(|(seq, session)| ((lease_until_ms, seq), session)));
        seqs
    }

    /// A delivery is settled, or open again at `again_ms`.
    pub(super) fn settle(&mut self, session: &str, seq: i64, again_ms: Option<i64>) {
        let Some(key) = self.sessions.get_key_value(session).map(|(key, _)| key.clone()) else { return };
        let Some(queue) = self.sessions.get_mut(&key).map(|q| &mut q.entries) else { return };
        let Some(place) = queue.iter().position(|e| e.seq == seq) else { return };
        let before = queue.get(place).copied();
        match again_ms {
            Some(at_ms) => {
                if let Some(entry) = queue.get_mut(place) {
                    entry.at_ms = at_ms;
                }
            }
            None => {
                queue.remove(place);
                self.open = self.open.saturating_sub(1);
            }
        }
        let front = queue.front().copied();
        if front.is_none() {
            self.sessions.remove(&key);
        }
        if place > 0 {
            return;
        }
        if let Some(before) = before {
            self.forget_head(before);
        }
        if let Some(front) = front {
            self.heads.insert((front.at_ms, front.seq), key);
        }
    }

    /// The earliest time after `now_ms` at which something becomes due.
    pub(super) fn next_after(&self, now_ms: i64) -> Option<i64> {
        self.heads.range((now_ms.saturating_add(1), i64::MIN)..).next().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn none() -> Halted {
        Halted::default()
    }

    fn open(session: &str, agent: &str, seq: i64, at_ms: i64) -> Open {
        Open { seq, session: session.into(), agent: agent.into(), installation: format!("of-{session}"), at_ms }
    }

    #[test]
    fn one_head_per_session_in_order() {
        let mut outbox = Outbox::default();
        for (seq, session) in [(1, "a"), (2, "a"), (3, "b")] {
            outbox.push(&open(session, "agent", seq, 0));
        }
        assert_eq!(outbox.claim(9, 10, 100, &none()), [1, 3]);
        assert_eq!(outbox.claim(9, 10, 100, &none()), Vec::<i64>::new());
        outbox.settle("a", 1, None);
        assert_eq!(outbox.claim(9, 10, 100, &none()), [2]);
        outbox.settle("a", 2, Some(50));
        assert_eq!(outbox.next_after(10), Some(50));
        assert_eq!(outbox.claim(9, 50, 150, &none()), [2]);
        assert_eq!(outbox.claim(9, 100, 200, &none()), [3], "a lease that ran out");
        assert_eq!(outbox.len(), 2);
    }

    #[test]
    fn a_paused_agent_waits_and_comes_back() {
        let mut outbox = Outbox::default();
        outbox.push(&open("a", "gone", 1, 0));
        outbox.push(&open("b", "here", 2, 0));
        let paused = Halted { agents: HashSet::from(["gone".to_owned()]), ..none() };
        assert_eq!(outbox.claim(9, 0, 100, &paused), [2]);
        assert_eq!(outbox.claim(9, 0, 100, &paused), Vec::<i64>::new());
        assert_eq!(outbox.claim(9, 0, 100, &none()), [1]);
    }

    #[test]
    fn a_degraded_installation_waits_in_its_order_whatever_else_halts_it() {
        let mut outbox = Outbox::default();
        for (seq, session) in [(1, "a"), (2, "a"), (3, "b")] {
            outbox.push(&open(session, "agent", seq, 0));
        }
        let degraded = || Halted { installations: HashSet::from(["of-a".to_owned()]), ..none() };
        assert_eq!(outbox.claim(9, 0, 100, &degraded()), [3]);
        assert_eq!(outbox.claim(9, 0, 100, &Halted { agents: HashSet::from(["agent".to_owned()]), ..degraded() }), Vec::<i64>::new());
        assert_eq!(outbox.claim(9, 0, 100, &degraded()), Vec::<i64>::new());
        assert_eq!(outbox.claim(9, 0, 100, &none()), [1]);
        outbox.settle("a", 1, None);
        assert_eq!(outbox.claim(9, 0, 100, &degraded()), Vec::<i64>::new());
        // Ended while it was parked: its head is forgotten with it.
        outbox.settle("a", 2, None);
        assert_eq!((outbox.claim(9, 0, 100, &none()), outbox.len()), (vec![], 1));
    }

    #[test]
    fn a_replayed_one_goes_before_its_successors() {
        let mut outbox = Outbox::default();
        outbox.push(&open("a", "agent", 5, 0));
        outbox.push(&open("a", "agent", 2, 0));
        assert_eq!(outbox.claim(9, 0, 100, &none()), [2]);
        outbox.settle("a", 2, None);
        assert_eq!(outbox.claim(9, 0, 100, &none()), [5]);
    }

    proptest! {
        /// Against the plain reading of the rows: the oldest open of each session, if due.
        #[test]
        fn claims_what_the_rows_say(steps in proptest::collection::vec((0u8..4, 0i64..6, 0i64..40), 1..60)) {
            let mut outbox = Outbox::default();
            let mut rows: BTreeMap<i64, (String, i64)> = BTreeMap::new();
            let (mut seq, mut now) = (0, 0);
            for (what, session, span) in steps {
                let name = format!("s{session}");
                match what {
                    0 | 1 => {
                        seq += 1;
                        outbox.push(&open(&name, "agent", seq, now));
                        rows.insert(seq, (name, now));
                    }
                    2 => {
                        let head = rows.iter().find(|(_, (s, _))| *s == name).map(|(seq, _)| *seq);
                        if let Some(head) = head {
                            let again = (span % 2 == 0).then_some(now + span);
                            outbox.settle(&name, head, again);
                            match again {
                                Some(at) => rows.get_mut(&head).unwrap().1 = at,
                                None => { rows.remove(&head); }
                            }
                        }
                    }
                    _ => now += span,
                }
                let mut seen = HashSet::new();
                let mut due: Vec<(i64, i64)> = rows.iter().filter(|(_, (s, _))| seen.insert(s.clone())).filter(|(_, (_, at))| *at <= now).map(|(seq, (_, at))| (*at, *seq)).collect();
                due.sort_unstable();
                let due: Vec<i64> = due.into_iter().map(|(_, seq)| seq).collect();
                if what == 3 {
                    prop_assert_eq!(outbox.claim(99, now, now + 5, &none()), due.clone());
                    for seq in due {
                        rows.get_mut(&seq).unwrap().1 = now + 5;
                    }
                }
                prop_assert_eq!(outbox.len(), rows.len());
            }
        }
    }
}
