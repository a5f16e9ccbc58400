//! How much a provider takes: a bucket for each thing it counts by, and what it told us to wait. Part of `egress`, floor 7.
//!
//! Every bucket is one installation's, so that no tenant waits for another. Nothing is queued: whoever comes too early is told
//! when to come again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::call::Call;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::InstallationId;
use crate::providers::{Limit, Provider, Shared};

/// Buckets of one installation; those that are full again are forgotten first.
const BUCKETS_MAX: usize = 10_000;
/// The longest that a provider is believed to mean.
const CLOSED_MS_MAX: i64 = 24 * 3_600_000;

/// What each installation has used up, in memory: a restart forgets it, and the provider reminds us.
#[derive(Debug, Default)]
pub struct Used(Mutex<HashMap<InstallationId, Buckets>>);

#[derive(Debug, Default)]
struct Buckets {
    /// When each bucket will be full again, in microseconds.
    full_at: HashMap<(Shared, String), i64>,
    /// Methods that the provider closed, and until when.
    closed: HashMap<String, Timestamp>,
}

/// One token of one bucket, ready to be taken.
struct Taking {
    key: (Shared, String),
    full_at: i64,
}

impl Used {
    /// Takes a token from every bucket that the call counts in, or none and says after how many seconds to come again.
    ///
    /// # Errors
    /// Seconds, at least one.
    pub(super) fn take(
        &self,
        installation: &InstallationId,
        provider: &dyn Provider,
        call: &Call<'_>,
        percent: u32,
        now: Timestamp,
    ) -> Result<(), u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let buckets = of(&mut all, installation);
        if let Some(until) = buckets.closed.get(call.method) {
            if now < *until {
                return Err(seconds((until.ms() - now.ms()).saturating_mul(1000)));
            }
            buckets.closed.remove(call.method);
        }
        let now = now.ms().saturating_mul(1000);
        let mut taking = Vec::new();
        let mut wait = 0;
        for limit in provider.limits(call.method, call.conversation) {
            let Some((every, key)) = bucket(limit, call, percent) else { continue };
            let begin = buckets.full_at.get(&key).copied().unwrap_or(now).max(now);
            let early = begin - now - every.saturating_mul(i64::from(limit.burst).max(1) - 1);
            wait = wait.max(early);
            taking.push(Taking { key, full_at: begin.saturating_add(every) });
        }
        if wait > 0 {
            return Err(seconds(wait));
        }
        if buckets.full_at.len() + taking.len() > BUCKETS_MAX {
            buckets.full_at.retain(|_, full_at| *full_at > now);
            if buckets.full_at.len() + taking.len() > BUCKETS_MAX {
                return Err(1);
            }
        }
        for Taking { key, full_at } in taking {
            buckets.full_at.insert(key, full_at);
        }
        Ok(())
    }

    /// The provider said to wait: that method of that installation is closed until then.
    pub(super) fn close(&self, installation: &InstallationId, method: &str, wait_s: u64, now: Timestamp) {
        let wait_ms = i64::try_from(wait_s).unwrap_or(i64::MAX).saturating_mul(1000).min(CLOSED_MS_MAX);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = &mut of(&mut all, installation).closed;
        closed.retain(|_, until| now < *until);
        if closed.len() < BUCKETS_MAX {
            let until = closed.entry(method.to_owned()).or_default();
            *until = now.plus_ms(wait_ms).max(*until);
        }
    }
}

/// The buckets of one installation.
fn of<'a>(all: &'a mut HashMap<InstallationId, Buckets>, installation: &InstallationId) -> &'a mut Buckets {
    let whose = if stands(Guard::WaitOfInstallation) { installation } else { all.keys().next().unwrap_or(installation) };
    all.entry(whose.clone()).or_default()
}

/// Microseconds between two tokens, and which bucket they are in; `None` where the call does not count.
fn bucket(limit: &Limit, call: &Call<'_>, percent: u32) -> Option<(i64, (Shared, String))> {
    let key = match limit.shared {
        Shared::Installation => String::new(),
        Shared::Method => call.method.to_owned(),
        Shared::Conversation => call.conversation?.to_owned(),
    };
    if percent == 0 || limit.count == 0 {
        return None;
    }
    let every = i64::from(limit.per_ms) * 100_000 / i64::from(limit.count) / i64::from(percent);
    Some((every, (limit.shared, key)))
}

fn seconds(micros: i64) -> u64 {
    u64::try_from(micros).unwrap_or(0).div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::installation::ProviderKind;
    use crate::providers;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn installation(id: &str) -> InstallationId {
        InstallationId::parse(id).unwrap()
    }

    /// How many of `calls` calls at once are let through.
    fn burst(used: &Used, id: &str, provider: ProviderKind, method: &str, to: Option<&str>, calls: u32, now: Timestamp) -> u32 {
        let call = Call { method, conversation: to, answer_bytes_max: 1, file: false };
        let took = |_: &u32| used.take(&installation(id), providers::of(provider), &call, 100, now).is_ok();
        u32::try_from((0..calls).filter(took).count()).unwrap()
    }

    #[test]
    fn each_provider_is_given_what_it_takes_and_then_a_time_to_come_again() {
        use ProviderKind::{Slack, Telegram, WhatsApp};
        for (provider, method, to, at_once, then_s, again_ms) in [
            (Slack, "chat.postMessage", Some("C1"), 5, 1, 1_000),
            (Slack, "chat.update", Some("C1"), 50, 2, 1_200),
            (Slack, "users.info", None, 100, 1, 600),
            (Slack, "nobody.knows", None, 20, 3, 3_000),
            (Telegram, "sendMessage", Some("424242"), 5, 1, 1_000),
            (Telegram, "sendMessage", Some("-100123"), 20, 3, 3_000),
            (Telegram, "sendMessage", Some("@channel"), 20, 3, 3_000),
            (Telegram, "getMe", None, 30, 1, 34),
            (WhatsApp, "messages", Some("15550100"), 45, 6, 6_000),
        ] {
            let used = Used::default();
            let what = format!("{provider} {method} {to:?}");
            assert_eq!(burst(&used, "a", provider, method, to, 200, NOW), at_once, "{what}");
            let call = Call { method, conversation: to, answer_bytes_max: 1, file: false };
            let take = |ms| used.take(&installation("a"), providers::of(provider), &call, 100, NOW.plus_ms(ms));
            assert_eq!(take(0), Err(then_s), "{what}");
            assert_eq!(take(again_ms - 1), Err(1), "{what}");
            assert_eq!((take(again_ms), take(again_ms)), (Ok(()), Err(then_s)), "{what}: one and no more");
        }
        let used = Used::default();
        let many = (0..200).map(|n| burst(&used, "a", WhatsApp, "messages", Some(&n.to_string()), 1, NOW)).sum::<u32>();
        assert_eq!(many, 80, "all recipients together");
    }

    #[test]
    fn a_flood_is_its_own_installations_trouble() {
        let used = Used::default();
        let slack = ProviderKind::Slack;
        assert_eq!(burst(&used, "noisy", slack, "chat.postMessage", Some("C1"), 1_000, NOW), 5);
        assert_eq!(burst(&used, "quiet", slack, "chat.postMessage", Some("C1"), 5, NOW), 5, "another installation");
        assert_eq!(burst(&used, "noisy", slack, "chat.postMessage", Some("C2"), 5, NOW), 5, "another channel");
        assert_eq!(burst(&used, "noisy", slack, "users.info", None, 5, NOW), 5, "another method");
    }

    #[test]
    fn a_wait_that_a_provider_asked_for_closes_that_method_of_that_installation() {
        let used = Used::default();
        let telegram = ProviderKind::Telegram;
        used.close(&installation("a"), "sendMessage", 7, NOW);
        used.close(&installation("a"), "sendMessage", 3, NOW);
        let call = Call { method: "sendMessage", conversation: Some("1"), answer_bytes_max: 1, file: false };
        let take = |at: i64, percent| used.take(&installation("a"), providers::of(telegram), &call, percent, NOW.plus_ms(at));
        assert_eq!((take(0, 100), take(6_001, 100), take(0, 0)), (Err(7), Err(1), Err(7)), "the longer one, whatever we reckon with");
        assert_eq!(burst(&used, "a", telegram, "sendPhoto", Some("1"), 1, NOW), 1, "another method");
        assert_eq!(burst(&used, "b", telegram, "sendMessage", Some("1"), 1, NOW), 1, "another installation");
        assert_eq!(take(7_000, 100), Ok(()));
        used.close(&installation("a"), "sendMessage", u64::MAX, NOW);
        assert_eq!(take(0, 100), Err(86_400), "nobody means for ever");
    }

    #[test]
    fn a_percentage_moves_the_rate_and_none_is_no_limit() {
        let used = Used::default();
        let call = Call { method: "chat.postMessage", conversation: Some("C1"), answer_bytes_max: 1, file: false };
        let slack = providers::of(ProviderKind::Slack);
        let calls =
            |percent, at: i64| (0..100).filter(|_| used.take(&installation("a"), slack, &call, percent, NOW.plus_ms(at)).is_ok()).count();
        assert_eq!(
            (calls(0, 0), calls(200, 0), calls(200, 500), calls(50, 20_000), calls(50, 21_999), calls(50, 22_000)),
            (100, 5, 1, 5, 0, 1)
        );
    }

    #[test]
    fn buckets_are_bounded_and_forgotten_when_full() {
        let used = Used::default();
        let slack = ProviderKind::Slack;
        let flood = |from: usize, n: usize, at| {
            (from..from + n).map(|c| burst(&used, "a", slack, "chat.postMessage", Some(&format!("C{c}")), 1, at)).sum::<u32>()
        };
        assert_eq!(flood(0, BUCKETS_MAX + 50, NOW), u32::try_from(BUCKETS_MAX).unwrap());
        assert_eq!(burst(&used, "b", slack, "chat.postMessage", Some("C1"), 5, NOW), 5, "the neighbour");
        assert_eq!(flood(BUCKETS_MAX, 50, NOW.plus_ms(1_000)), 50);
        assert_eq!(used.0.lock().unwrap()[&installation("a")].full_at.len(), 50);
    }
}
