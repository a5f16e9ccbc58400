//! A circuit breaker: after several failures in a row an agent is left alone, then asked with one delivery at a time.

use serde::Serialize;

use super::clock::Timestamp;

/// Consecutive failures that open a breaker.
pub const FAILURES_MAX: u32 = 5;

/// The pause before the first probe, in milliseconds. Each failed probe doubles the pause.
const PAUSE_MS: i64 = 1_000;

/// The longest pause between two probes, in milliseconds.
const PAUSE_MS_MAX: i64 = 60_000;

/// The state of a breaker.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// Deliveries go out.
    Closed,
    /// No delivery goes out before the next probe.
    Open,
    /// One delivery is under way; its outcome decides.
    HalfOpen,
}

impl BreakerState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What an attempt says about the health of its agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// The agent answered.
    Answered,
    /// The agent failed or did not answer in time.
    Failed,
    /// Nothing: the agent asked to wait, or nothing was sent.
    Unknown,
}

/// A breaker as operators see it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BreakerView {
    /// The state.
    pub state: BreakerState,
    /// Consecutive failures.
    pub failures: u32,
    /// When it opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the next delivery is tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_probe_at: Option<Timestamp>,
}

impl Default for BreakerView {
    fn default() -> Self {
        Breaker::default().view()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Open { since: Timestamp, pause_ms: i64, probe_at: Timestamp },
    HalfOpen { since: Timestamp, pause_ms: i64 },
}

/// The breaker of one agent. Lives in memory: after a restart every breaker is closed.
#[derive(Clone, Debug)]
pub struct Breaker {
    failures: u32,
    state: State,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 0, state: State::Closed }
    }
}

impl Breaker {
    /// The state.
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// When the next probe may start, of an open breaker.
    pub fn probe_at(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { probe_at, .. } => Some(probe_at),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }

    /// Whether an attempt may start at `now` while `under_way` others have not ended.
    ///
    /// A half-open breaker without an attempt under way lost its probe (a panic, a commit that failed) and admits another.
    pub fn admits(&self, now: Timestamp, under_way: usize) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { probe_at, .. } => now >= probe_at && under_way == 0,
            State::HalfOpen { .. } => under_way == 0,
        }
    }

    /// An admitted attempt starts. Returns the new state, where it changed.
    pub fn started(&mut self) -> Option<BreakerState> {
        let State::Open { since, pause_ms, .. } = self.state else { return None };
        self.state = State::HalfOpen { since, pause_ms };
        Some(BreakerState::HalfOpen)
    }

    /// An attempt ended. Returns the new state, where it changed.
    pub fn ended(&mut self, health: Health, now: Timestamp) -> Option<BreakerState> {
        match health {
            Health::Answered => return self.reset(),
            Health::Failed => self.failures = self.failures.saturating_add(1),
            Health::Unknown => {}
        }
        let (since, pause_ms) = match (self.state, health) {
            (State::Closed, Health::Failed) if self.failures >= FAILURES_MAX => (now, PAUSE_MS),
            (State::HalfOpen { since, pause_ms }, Health::Failed) => (since, (pause_ms * 2).min(PAUSE_MS_MAX)),
            (State::HalfOpen { since, pause_ms }, _) => (since, pause_ms),
            // An attempt that began before the breaker opened says nothing new.
            (State::Closed | State::Open { .. }, _) => return None,
        };
        self.state = State::Open { since, pause_ms, probe_at: now.plus_ms(pause_ms) };
        Some(BreakerState::Open)
    }

    /// Forgets every failure. Returns the new state, where it changed.
    pub fn reset(&mut self) -> Option<BreakerState> {
        let was = std::mem::take(self).state;
        (was != State::Closed).then_some(BreakerState::Closed)
    }

    /// The breaker as operators see it.
    pub fn view(&self) -> BreakerView {
        let since = match self.state {
            State::Closed => None,
            State::Open { since, .. } | State::HalfOpen { since, .. } => Some(since),
        };
        BreakerView { state: self.state(), failures: self.failures, since, next_probe_at: self.probe_at() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for n in 1..=FAILURES_MAX {
            assert!(breaker.admits(at(0), 16));
            assert_eq!(breaker.ended(Health::Failed, at(0)), (n == FAILURES_MAX).then_some(BreakerState::Open), "{n}");
        }
        breaker
    }

    #[test]
    fn five_failures_in_a_row_open_and_fewer_do_not() {
        assert_eq!(opened().probe_at(), Some(at(1_000)));
        let mut breaker = Breaker::default();
        for _ in 0..9 {
            for health in [Health::Failed, Health::Failed, Health::Unknown, Health::Failed, Health::Failed, Health::Answered] {
                assert_eq!(breaker.ended(health, at(0)), None);
            }
        }
        assert_eq!(breaker.view(), BreakerView { state: BreakerState::Closed, failures: 0, since: None, next_probe_at: None });
    }

    #[test]
    fn an_open_breaker_admits_one_probe_at_its_time() {
        let mut breaker = opened();
        assert!(!breaker.admits(at(999), 0));
        assert!(!breaker.admits(at(1_000), 1), "an older attempt is still under way");
        assert!(breaker.admits(at(1_000), 0));
        assert_eq!(breaker.started(), Some(BreakerState::HalfOpen));
        assert!(!breaker.admits(at(9_000), 1));
        assert!(breaker.admits(at(9_000), 0), "a probe that never ended is no reason to wait for ever");
        assert_eq!(breaker.started(), None);
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_up_to_a_minute() {
        let mut breaker = opened();
        let (mut now, mut pauses) = (1_000, Vec::new());
        for _ in 0..8 {
            breaker.started();
            assert_eq!(breaker.ended(Health::Failed, at(now)), Some(BreakerState::Open));
            let probe_at = breaker.probe_at().unwrap().ms();
            pauses.push(probe_at - now);
            now = probe_at;
        }
        assert_eq!(pauses, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]);
        assert_eq!((breaker.view().failures, breaker.view().since), (13, Some(at(0))));
        // An agent that asks to wait is asked again after the same pause.
        breaker.started();
        breaker.ended(Health::Unknown, at(now));
        assert_eq!(breaker.probe_at(), Some(at(now + 60_000)));
    }

    #[test]
    fn an_answer_closes_whatever_attempt_it_belongs_to() {
        let mut late = opened();
        assert_eq!(late.ended(Health::Failed, at(500)), None, "began before the breaker opened");
        assert_eq!(late.probe_at(), Some(at(1_000)));
        assert_eq!(late.ended(Health::Answered, at(600)), Some(BreakerState::Closed));
        let mut probed = opened();
        probed.started();
        assert_eq!(probed.ended(Health::Answered, at(1_000)), Some(BreakerState::Closed));
        assert_eq!(probed.view(), BreakerView::default());
        assert_eq!(probed.reset(), None);
        assert_eq!(opened().reset(), Some(BreakerState::Closed));
    }
}
