//! `retention`: how long which kind of row is kept. Part of `config`, floor 1.

use serde::{Deserialize, Serialize};

/// `retention`. Days; 0 keeps for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSection {
    /// Bodies and normalised texts of events, from when they came. Those of open deliveries stay until they are settled.
    pub event_bodies_days: u32,
    /// What else is kept of events, and their deliveries.
    pub events_days: u32,
    /// Attempts of settled deliveries.
    pub attempts_days: u32,
    /// Refusals, from their last repeat.
    pub refusals_days: u32,
    /// What agents sent.
    pub sends_days: u32,
    /// Sessions, from their end or their last event.
    pub sessions_days: u32,
    /// Decisions, and the facts of questions from when they were last asked.
    pub decisions_days: u32,
    /// Audit lines.
    pub audit_days: u32,
}

impl Default for RetentionSection {
    fn default() -> Self {
        Self {
            event_bodies_days: 30,
            events_days: 365,
            attempts_days: 30,
            refusals_days: 30,
            sends_days: 90,
            sessions_days: 365,
            decisions_days: 365,
            audit_days: 730,
        }
    }
}

/// The longest time in which a repeat of an event is a duplicate, in days: WhatsApp's eight.
const DEDUPE_DAYS: u32 = 8;

impl RetentionSection {
    /// Says which setting cannot be kept to, where one cannot.
    ///
    /// # Errors
    /// The setting and why.
    pub fn check(&self, session_idle_hours: u32) -> Result<(), String> {
        let longer = |kept: u32, than: u32| kept == 0 || (than != 0 && kept >= than);
        for (name, days) in [("events_days", self.events_days), ("sessions_days", self.sessions_days)] {
            if !longer(days, self.event_bodies_days) {
                return Err(format!(
                    "retention.{name}: must not be shorter than event_bodies_days: a body needs its event and its session"
                ));
            }
        }
        if !longer(self.events_days, DEDUPE_DAYS) {
            return Err(format!("retention.events_days: must be at least {DEDUPE_DAYS}: so long a repeat is told by the first one"));
        }
        if !longer(self.sends_days, 2) {
            return Err("retention.sends_days: must be at least 2: idempotency keys hold for a day".into());
        }
        if self.sessions_days != 0 && self.sessions_days.saturating_mul(24) <= session_idle_hours {
            return Err("retention.sessions_days: must be longer than limits.session_idle_hours".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_to_is_refused() {
        let keeps = RetentionSection::default;
        assert_eq!(keeps().check(24), Ok(()));
        let for_ever = RetentionSection { event_bodies_days: 0, events_days: 0, sessions_days: 0, sends_days: 0, ..keeps() };
        assert_eq!(for_ever.check(24), Ok(()));
        for (bad, named) in [
            (RetentionSection { event_bodies_days: 400, ..keeps() }, "events_days"),
            (RetentionSection { event_bodies_days: 0, ..keeps() }, "events_days"),
            (RetentionSection { sessions_days: 29, ..keeps() }, "sessions_days"),
            (RetentionSection { event_bodies_days: 1, events_days: 7, ..keeps() }, "events_days"),
            (RetentionSection { sends_days: 1, ..keeps() }, "sends_days"),
        ] {
            assert!(bad.check(24).unwrap_err().contains(named), "{bad:?}");
        }
        assert!(keeps().check(365 * 24).is_err());
    }
}
