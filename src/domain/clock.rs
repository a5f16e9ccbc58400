//! The only place that reads the time. Everything else is handed a [`Clock`] or a [`Timestamp`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time: milliseconds since the Unix epoch, UTC. Prints and serialises as RFC 3339.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    pub const fn from_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// From seconds since the Unix epoch.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Milliseconds since the Unix epoch.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    pub const fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This instant moved by `ms` (negative moves back).
    pub const fn plus_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Parses RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<jiff::Timestamp>().ok().map(|t| Self(t.as_millisecond()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no RFC 3339 time")))
    }
}

/// Where the time comes from: the machine, or a test's hand.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: Source,
    /// By how much the wall clock was ahead of the steady one when it was last believed, in milliseconds.
    ahead: AtomicI64,
    /// When (steady) the wall clock was first seen to have stepped; [`NEVER`] while it is believed.
    stepped: AtomicI64,
}

#[derive(Debug)]
enum Source {
    System { began: Instant },
    Manual { wall: AtomicI64, steady: AtomicI64 },
}

const NEVER: i64 = i64::MIN;

/// The wall clock may run away from the steady one by so much between two looks before it counts as a step.
const STEP_MS: i64 = 60_000;

/// After so long at the new time, the new time is the time.
const DOUBT_MS: i64 = 600_000;

impl Clock {
    fn of(source: Source) -> Self {
        let clock = Self(Arc::new(Inner { source, ahead: AtomicI64::new(0), stepped: AtomicI64::new(NEVER) }));
        clock.0.ahead.store(clock.ahead_ms(), Ordering::SeqCst);
        clock
    }

    /// The machine's wall clock.
    pub fn system() -> Self {
        Self::of(Source::System { began: Instant::now() })
    }

    /// A clock that stands still until [`Clock::advance_ms`] moves it.
    pub fn manual(start: Timestamp) -> Self {
        Self::of(Source::Manual { wall: AtomicI64::new(start.ms()), steady: AtomicI64::new(0) })
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        match &self.0.source {
            Source::System { .. } => Timestamp(jiff::Timestamp::now().as_millisecond()),
            Source::Manual { wall, .. } => Timestamp(wall.load(Ordering::SeqCst)),
        }
    }

    /// Milliseconds since the clock was made. Never goes back, whatever happens to the wall clock.
    pub fn steady_ms(&self) -> i64 {
        match &self.0.source {
            Source::System { began } => i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX),
            Source::Manual { steady, .. } => steady.load(Ordering::SeqCst),
        }
    }

    fn ahead_ms(&self) -> i64 {
        self.now().ms().saturating_sub(self.steady_ms())
    }

    /// Whether the wall clock stepped by more than a minute against the steady one less than ten minutes ago: what is
    /// judged by its time is not to be judged now. Has to be asked from time to time, because small corrections between two
    /// looks are believed.
    pub fn is_suspect(&self) -> bool {
        let (steady, ahead) = (self.steady_ms(), self.ahead_ms());
        let step = ahead.saturating_sub(self.0.ahead.load(Ordering::SeqCst));
        if step.abs() <= STEP_MS {
            self.0.ahead.store(ahead, Ordering::SeqCst);
            self.0.stepped.store(NEVER, Ordering::SeqCst);
            return false;
        }
        let first = self.0.stepped.compare_exchange(NEVER, steady, Ordering::SeqCst, Ordering::SeqCst);
        match first {
            Ok(_) => true,
            Err(since) if steady.saturating_sub(since) < DOUBT_MS => true,
            Err(_) => {
                self.0.ahead.store(ahead, Ordering::SeqCst);
                self.0.stepped.store(NEVER, Ordering::SeqCst);
                false
            }
        }
    }

    /// Moves a manual clock by `ms`, as time passing does; the machine's clock is nobody's to move, there it does nothing.
    pub fn advance_ms(&self, ms: i64) {
        if let Source::Manual { wall, steady } = &self.0.source {
            wall.fetch_add(ms, Ordering::SeqCst);
            steady.fetch_add(ms, Ordering::SeqCst);
        }
    }

    /// Sets a manual clock forward or back by `ms` without any time passing, as a wrong time server does.
    pub fn step_ms(&self, ms: i64) {
        if let Source::Manual { wall, .. } = &self.0.source {
            wall.fetch_add(ms, Ordering::SeqCst);
        }
    }

    /// Whether a test moves this clock. Waits on a manual clock are polls, not sleeps until a time.
    pub fn is_manual(&self) -> bool {
        matches!(self.0.source, Source::Manual { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_rfc_3339_and_reads_it_back() {
        let t = Timestamp::from_ms(1_790_000_100_250);
        assert_eq!(t.to_string(), "2026-09-21T14:15:00.250Z");
        assert_eq!(Timestamp::parse("2026-09-21T14:15:00.250Z"), Some(t));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }

    #[test]
    fn a_wall_clock_that_steps_is_doubted_for_ten_minutes() {
        let clock = Clock::manual(Timestamp::from_secs(1_790_000_000));
        for step in [60_001_i64, -60_001] {
            assert!(!clock.is_suspect());
            // Small corrections are believed, and do not add up to a step.
            for _ in 0..3 {
                clock.step_ms(step.signum() * 60_000);
                assert!(!clock.is_suspect());
            }
            clock.step_ms(step);
            assert!(clock.is_suspect());
            clock.advance_ms(DOUBT_MS - 1);
            assert!(clock.is_suspect());
            clock.advance_ms(1);
            assert!(!clock.is_suspect());
        }
        // Set right again, it is believed at once.
        clock.step_ms(3_600_000);
        assert!(clock.is_suspect());
        clock.step_ms(-3_600_000);
        assert!(!clock.is_suspect());
        clock.advance_ms(86_400_000);
        assert!(!clock.is_suspect(), "time that passes is no step");
    }

    #[test]
    fn seconds_before_the_epoch_round_down() {
        assert_eq!(Timestamp::from_ms(-1).secs(), -1);
    }
}
