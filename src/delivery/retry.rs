//! When to try again: schedule, jitter, ceiling, dead letter. Values in, values out. Part of `delivery`, floor 7.

use http::HeaderMap;

use super::attempt::Verdict;
use crate::crypto::sha256;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Settled;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::DeliveryId;
use crate::domain::reason::ReasonCode;

/// No agent may ask for a longer pause.
pub const RETRY_AFTER_MS_MAX: i64 = 3_600_000;

/// Nor for a shorter one: `Retry-After: 0` would spend the whole schedule at once.
const RETRY_AFTER_MS_MIN: i64 = 1_000;

/// Waits are spread by this part of themselves, up and down.
const SPREAD_PERCENT: i64 = 20;

/// Where a delivery stands after attempt `number` (1 for the first) of a schedule that lists the wait before each.
///
/// `spread` is any number; the same one gives the same answer.
pub fn settle(verdict: &Verdict, schedule_ms: &[u64], number: i64, spread: u64, now: Timestamp) -> Settled {
    let after_ms = match verdict {
        Verdict::Delivered => return Settled::Delivered,
        Verdict::Gone => return Settled::AgentGone,
        Verdict::Failed { after_ms, .. } => *after_ms,
    };
    // The wait before the next attempt stands at the index that is this one's number.
    let mut wait_ms = usize::try_from(number).ok().and_then(|next| schedule_ms.get(next));
    if !stands(Guard::ScheduleEnds) {
        wait_ms = wait_ms.or(schedule_ms.last());
    }
    let Some(wait_ms) = wait_ms else {
        return Settled::Dead(ReasonCode::DeliveryExhausted);
    };
    let wait_ms = match after_ms {
        // Not before the agent said, but not all at that very moment either.
        Some(ms) if !stands(Guard::PauseClamped) => ms,
        Some(ms) => spread_over(ms.clamp(RETRY_AFTER_MS_MIN, RETRY_AFTER_MS_MAX), 0, SPREAD_PERCENT, spread).min(RETRY_AFTER_MS_MAX),
        None => spread_over(i64::try_from(*wait_ms).unwrap_or(i64::MAX), -SPREAD_PERCENT, SPREAD_PERCENT, spread),
    };
    Settled::RetryAt(now.plus_ms(wait_ms))
}

/// Whether attempt `number` is one more than the schedule has: every earlier one was claimed and none was settled, so the
/// event itself takes the worker down.
pub fn is_beyond(schedule_ms: &[u64], number: i64) -> bool {
    usize::try_from(number).is_ok_and(|n| n > schedule_ms.len().max(1))
}

/// A number to spread by that differs from delivery to delivery and attempt to attempt, and is the same on every run: ids
/// are random, so nothing more has to be.
pub fn spread_of(id: &DeliveryId, number: i64) -> u64 {
    let digest = sha256(format!("{id} {number}").as_bytes());
    digest.iter().take(8).fold(0, |n, byte| n << 8 | u64::from(*byte))
}

fn spread_over(ms: i64, from_percent: i64, to_percent: i64, spread: u64) -> i64 {
    const STEPS: u64 = 10_000;
    let step = i128::from(spread % (STEPS + 1));
    let (from, to) = (i128::from(from_percent), i128::from(to_percent));
    let moved = i128::from(ms) * (from * i128::from(STEPS) + (to - from) * step) / (100 * i128::from(STEPS));
    i64::try_from(i128::from(ms) + moved).unwrap_or(i64::MAX)
}

/// `Retry-After` in milliseconds from `now`: seconds, or an HTTP date. `None` when it is absent or neither.
pub fn retry_after_ms(headers: &HeaderMap, now: Timestamp) -> Option<i64> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds still ask to wait, as long as possible.
        return Some(text.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(1000));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(at.as_millisecond().saturating_sub(now.ms()).max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DeliverySection;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_ms(1_790_000_000_000);

    fn failed(after_ms: Option<i64>) -> Verdict {
        Verdict::Failed { code: ReasonCode::DeliveryAgentRejected, after_ms }
    }

    fn wait(verdict: &Verdict, schedule: &[u64], number: i64, spread: u64) -> Option<i64> {
        match settle(verdict, schedule, number, spread, NOW) {
            Settled::RetryAt(at) => Some(at.ms() - NOW.ms()),
            _ => None,
        }
    }

    #[test]
    fn the_default_schedule_is_eight_waits_and_then_a_dead_letter() {
        let schedule = DeliverySection::default().schedule_ms;
        // 5000 is the middle of the spread: no jitter.
        let waits: Vec<_> = (1..=9).map(|n| wait(&failed(None), &schedule, n, 5_000)).collect();
        let want = [5_000, 30_000, 120_000, 600_000, 1_800_000, 7_200_000, 21_600_000, 43_200_000];
        assert_eq!(waits, want.into_iter().map(Some).chain([None]).collect::<Vec<_>>());
        assert_eq!(settle(&failed(None), &schedule, 9, 0, NOW), Settled::Dead(ReasonCode::DeliveryExhausted));
        assert!(!is_beyond(&schedule, 9) && is_beyond(&schedule, 10));
        assert!(!is_beyond(&[], 1) && is_beyond(&[], 2));
    }

    #[test]
    fn jitter_is_a_fifth_either_way() {
        assert_eq!(wait(&failed(None), &[0, 1_000], 1, 0), Some(800));
        assert_eq!(wait(&failed(None), &[0, 1_000], 1, 10_000), Some(1_200));
    }

    #[test]
    fn an_agent_may_ask_for_a_pause_within_bounds() {
        for (asked, want) in [(0, 1_000), (-5, 1_000), (7_000, 7_000), (3_600_000, 3_600_000), (i64::MAX, 3_600_000)] {
            assert_eq!(wait(&failed(Some(asked)), &[0, 5], 1, 0), Some(want), "{asked}");
        }
        // Spread only to later, never past the ceiling, and not beyond the last attempt.
        assert_eq!(wait(&failed(Some(7_000)), &[0, 5], 1, 10_000), Some(8_400));
        assert_eq!(wait(&failed(Some(3_500_000)), &[0, 5], 1, 10_000), Some(3_600_000));
        assert_eq!(wait(&failed(Some(7_000)), &[0, 5], 2, 0), None);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::parse("2026-09-21T14:00:00Z").unwrap();
        for (text, want) in [
            ("120", Some(120_000)),
            (" 0 ", Some(0)),
            ("99999999999999999999999", Some(i64::MAX)),
            ("Mon, 21 Sep 2026 14:00:30 GMT", Some(30_000)),
            ("Mon, 21 Sep 2026 13:00:00 GMT", Some(0)),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after_ms(&headers, now), want, "{text}");
        }
        assert_eq!(retry_after_ms(&HeaderMap::new(), now), None);
    }

    #[test]
    fn the_spread_of_an_attempt_is_its_own_and_stays_so() {
        let id = DeliveryId::parse("dlv_01").unwrap();
        assert_eq!(spread_of(&id, 1), spread_of(&id, 1));
        assert_ne!(spread_of(&id, 1), spread_of(&id, 2));
        assert_ne!(spread_of(&id, 1), spread_of(&DeliveryId::parse("dlv_02").unwrap(), 1));
    }

    proptest! {
        #[test]
        fn retry_is_bounded(
            schedule in proptest::collection::vec(0u64..=u64::MAX, 0..12),
            number in 0i64..20,
            after in proptest::option::of(any::<i64>()),
            spread in any::<u64>(),
        ) {
            let settled = settle(&failed(after), &schedule, number, spread, NOW);
            match (settled, schedule.get(usize::try_from(number).unwrap())) {
                (Settled::Dead(code), None) => prop_assert_eq!(code, ReasonCode::DeliveryExhausted),
                (Settled::RetryAt(at), Some(wait)) => {
                    let wait = i128::from(i64::try_from(*wait).unwrap_or(i64::MAX));
                    let waited = i128::from(at.ms()) - i128::from(NOW.ms());
                    match after {
                        Some(_) => prop_assert!((1_000..=3_600_000).contains(&waited)),
                        // Times end where i64 does.
                        None => prop_assert!(waited <= wait + wait / 5 && (waited >= wait - wait / 5 - 1 || at.ms() == i64::MAX)),
                    }
                }
                (settled, wait) => prop_assert!(false, "{:?} with {:?}", settled, wait),
            }
        }
    }
}
