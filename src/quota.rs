//! How much one org may use, and how many failed proofs one address or webhook address may bring. Owns buckets and counts in
//! memory, which a restart empties. Decides nothing about who somebody is. Floor 6.

mod bucket;
pub mod failures;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bucket::Rate;

use crate::config::QuotasSection;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{OrgId, ProfileId};
use crate::domain::installation::Org;
use crate::domain::quota::{OrgUsage, QuotaLimits, Quotas};
use crate::domain::reason::ReasonCode;

/// Seconds until a provider should try again when too many deliveries are open. Agents need a while to catch up.
const OPEN_DELIVERIES_RETRY_S: u64 = 60;

/// Seconds until a provider should try again when the store holds enough of an org. Only retention or an operator makes room.
const STORED_BYTES_RETRY_S: u64 = 600;

/// Orgs whose buckets are kept before those that are full again are dropped.
const BUCKETS_SWEPT_AT: usize = 1_024;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// An org is over a quota.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverQuota {
    /// Which quota: one of the `quota.*` codes.
    pub code: ReasonCode,
    /// Seconds until a repeat may succeed.
    pub retry_after_s: u64,
}

/// Quotas of orgs.
#[derive(Debug, Default)]
pub struct OrgQuotas {
    defaults: QuotasSection,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the bucket of each org is full again, in nanoseconds of the steady clock.
    full_at: HashMap<OrgId, i64>,
    /// Admitted and not committed yet: events and their bytes.
    in_flight: HashMap<OrgId, OrgUsage>,
    /// The UTC day that `refusals` counts.
    day: i64,
    /// Refusal records by tenant since the day began.
    refusals: HashMap<Tenant, u64>,
}

/// Whose refusal records are counted together: an org's, or those of a platform profile that belong to no org.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Tenant {
    /// An org.
    Org(OrgId),
    /// Nobody's requests to a profile of the platform.
    Platform(ProfileId),
}

/// Room that was taken for events on their way to the store. It is given back on drop: the store counts them by then, or
/// never will.
#[derive(Debug)]
pub struct Reserved {
    quotas: Arc<OrgQuotas>,
    org: OrgId,
    room: OrgUsage,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut state = self.quotas.state();
        if let Some(held) = state.in_flight.get_mut(&self.org) {
            held.open_deliveries = held.open_deliveries.saturating_sub(self.room.open_deliveries);
            held.stored_bytes = held.stored_bytes.saturating_sub(self.room.stored_bytes);
            if *held == OrgUsage::default() {
                state.in_flight.remove(&self.org);
            }
        }
    }
}

/// A declared quota over its default; 0 is no limit.
fn limit<T: Copy + PartialEq + From<u8>>(declared: Option<T>, default: T) -> Option<T> {
    Some(declared.unwrap_or(default)).filter(|limit| *limit != T::from(0))
}

impl OrgQuotas {
    /// Quotas with these defaults.
    pub fn new(defaults: QuotasSection) -> Self {
        Self { defaults, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limits of an org: what it declares, else the defaults. An org with a rate of its own has a burst of its own.
    pub fn limits(&self, org: &Org) -> QuotaLimits {
        let Quotas { events_per_second, burst, open_deliveries, stored_bytes } = org.quotas;
        let default_burst = if events_per_second.is_some() { 0 } else { self.defaults.burst };
        let events =
            limit(events_per_second, self.defaults.events_per_second).map(|rate| (rate, limit(burst, default_burst).unwrap_or(rate)));
        QuotaLimits {
            events,
            open_deliveries: limit(open_deliveries, self.defaults.open_deliveries),
            stored_bytes: limit(stored_bytes, self.defaults.stored_bytes),
        }
    }

    /// Takes room for `asked`, the events of one request and their bytes. What is below its limit goes in whole, so a
    /// request that is larger than what is left, or than the limit, is not refused for ever.
    ///
    /// # Errors
    /// The quota that is used up; nothing was taken then.
    pub fn admit(
        self: &Arc<Self>,
        org: &OrgId,
        asked: OrgUsage,
        stored: OrgUsage,
        limits: &QuotaLimits,
        steady_ms: i64,
    ) -> Result<Reserved, OverQuota> {
        let mut state = self.state();
        let held = state.in_flight.get(org).copied().unwrap_or_default();
        let over = |code, retry_after_s| Err(OverQuota { code, retry_after_s });
        if limits.stored_bytes.is_some_and(|limit| stored.stored_bytes.saturating_add(held.stored_bytes) >= limit) {
            return over(ReasonCode::QuotaStoredBytes, STORED_BYTES_RETRY_S);
        }
        if limits.open_deliveries.is_some_and(|limit| stored.open_deliveries.saturating_add(held.open_deliveries) >= limit) {
            return over(ReasonCode::QuotaOpenDeliveries, OPEN_DELIVERIES_RETRY_S);
        }
        if let Some((per_second, burst)) = limits.events {
            let (rate, now) = (Rate::per_second(per_second, burst), bucket::nanos(steady_ms));
            let full_at = match rate.take(state.full_at.get(org).copied(), asked.open_deliveries, now) {
                Ok(full_at) => full_at,
                Err(wait) => return over(ReasonCode::QuotaEventsRate, bucket::seconds(wait)),
            };
            if state.full_at.len() >= BUCKETS_SWEPT_AT && !state.full_at.contains_key(org) {
                state.full_at.retain(|_, full_at| *full_at > now);
            }
            state.full_at.insert(org.clone(), full_at);
        }
        let all = state.in_flight.entry(org.clone()).or_default();
        all.open_deliveries = all.open_deliveries.saturating_add(asked.open_deliveries);
        all.stored_bytes = all.stored_bytes.saturating_add(asked.stored_bytes);
        drop(state);
        Ok(Reserved { quotas: self.clone(), org: org.clone(), room: asked })
    }

    /// Whether one more refusal of a tenant may be recorded today. Counts it where it may.
    pub fn may_record_refusal(&self, tenant: Tenant, now: Timestamp) -> bool {
        let max = self.defaults.refusals_per_day;
        if max == 0 {
            return true;
        }
        let (mut state, today) = (self.state(), now.ms().div_euclid(DAY_MS));
        if state.day != today {
            state.day = today;
            state.refusals.clear();
        }
        let count = state.refusals.entry(tenant).or_default();
        let may = *count < max;
        *count += u64::from(may);
        may
    }

    /// Refusal records of a tenant today, and how many there may be; `None` without a limit.
    pub fn refusals_today(&self, tenant: &Tenant, now: Timestamp) -> (u64, Option<u64>) {
        let state = self.state();
        let count = state.refusals.get(tenant).copied().filter(|_| state.day == now.ms().div_euclid(DAY_MS));
        (count.unwrap_or(0), limit(None, self.defaults.refusals_per_day))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        OrgId::parse(id).unwrap()
    }

    fn events(count: u64) -> OrgUsage {
        OrgUsage { open_deliveries: count, stored_bytes: count * 100 }
    }

    const NONE: QuotaLimits = QuotaLimits { events: None, open_deliveries: None, stored_bytes: None };

    fn refused(
        quotas: &Arc<OrgQuotas>,
        id: &str,
        count: u64,
        stored: OrgUsage,
        limits: QuotaLimits,
        at_ms: i64,
    ) -> Option<(&'static str, u64)> {
        quotas.admit(&org(id), events(count), stored, &limits, at_ms).err().map(|over| (over.code.as_str(), over.retry_after_s))
    }

    #[test]
    fn a_declared_quota_wins_over_the_default_and_zero_is_no_limit() {
        let section = QuotasSection { events_per_second: 5, burst: 50, open_deliveries: 7, stored_bytes: 9, ..QuotasSection::default() };
        let quotas = OrgQuotas::new(section);
        let of = |quotas: &OrgQuotas, declared| {
            quotas.limits(&Org {
                id: org("acme"),
                name: String::new(),
                suspended: false,
                fallback_opt_in: Default::default(),
                quotas: declared,
            })
        };
        let all = |events, open_deliveries, stored_bytes| QuotaLimits { events, open_deliveries, stored_bytes };
        assert_eq!(of(&quotas, Quotas::default()), all(Some((5, 50)), Some(7), Some(9)));
        let declared = Quotas { events_per_second: Some(20), open_deliveries: Some(0), ..Quotas::default() };
        assert_eq!(of(&quotas, declared), all(Some((20, 20)), None, Some(9)), "the burst belongs to its rate");
        assert_eq!(of(&quotas, Quotas { burst: Some(8), ..declared }).events, Some((20, 8)));
        assert_eq!(of(&quotas, Quotas { events_per_second: Some(0), ..declared }).events, None);
        assert_eq!(of(&OrgQuotas::new(QuotasSection::default()), Quotas::default()).events, None, "off unless declared");
    }

    #[test]
    fn one_org_uses_up_its_own_bucket_and_no_other() {
        let quotas = Arc::new(OrgQuotas::default());
        let limits = QuotaLimits { events: Some((2, 3)), ..NONE };
        let at = |id: &str, ms| refused(&quotas, id, 1, OrgUsage::default(), limits, ms);
        assert_eq!([at("noisy", 0), at("noisy", 0), at("noisy", 0)], [None; 3]);
        assert_eq!(at("noisy", 0), Some(("quota.events_rate", 1)));
        assert_eq!([at("quiet", 0), at("quiet", 0), at("quiet", 0)], [None; 3]);
        assert_eq!(
            (at("noisy", 499), at("noisy", 500), at("noisy", 500)),
            (Some(("quota.events_rate", 1)), None, Some(("quota.events_rate", 1)))
        );
    }

    #[test]
    fn what_is_on_its_way_counts_until_it_is_stored() {
        let quotas = Arc::new(OrgQuotas::default());
        let limits = QuotaLimits { open_deliveries: Some(3), ..NONE };
        let stored = |open| OrgUsage { open_deliveries: open, stored_bytes: 0 };
        let first = quotas.admit(&org("acme"), events(2), stored(0), &limits, 0).unwrap();
        let second = quotas.admit(&org("acme"), events(2), stored(0), &limits, 0).unwrap();
        assert_eq!(refused(&quotas, "acme", 1, stored(0), limits, 0), Some(("quota.open_deliveries", OPEN_DELIVERIES_RETRY_S)));
        assert_eq!(refused(&quotas, "globex", 1, stored(0), limits, 0), None);
        drop(first);
        assert_eq!(refused(&quotas, "acme", 1, stored(2), limits, 0).map(|o| o.0), Some("quota.open_deliveries"));
        drop(second);
        assert_eq!(refused(&quotas, "acme", 1, stored(2), limits, 0), None);
        assert!(quotas.state().in_flight.is_empty());
    }

    #[test]
    fn bytes_on_their_way_count_and_a_body_larger_than_the_quota_still_fits_once() {
        let quotas = Arc::new(OrgQuotas::default());
        let limits = QuotaLimits { stored_bytes: Some(150), ..NONE };
        let stored = |bytes| OrgUsage { open_deliveries: 0, stored_bytes: bytes };
        let large = quotas.admit(&org("acme"), events(4), stored(0), &limits, 0).unwrap();
        assert_eq!(refused(&quotas, "acme", 1, stored(0), limits, 0), Some(("quota.stored_bytes", STORED_BYTES_RETRY_S)));
        drop(large);
        assert_eq!(
            (refused(&quotas, "acme", 1, stored(149), limits, 0), refused(&quotas, "acme", 1, stored(150), limits, 0).map(|o| o.0)),
            (None, Some("quota.stored_bytes"))
        );
    }

    #[test]
    fn a_request_over_another_quota_takes_no_token() {
        let quotas = Arc::new(OrgQuotas::default());
        let limits = QuotaLimits { events: Some((1, 1)), open_deliveries: Some(1), ..NONE };
        let full = OrgUsage { open_deliveries: 1, stored_bytes: 0 };
        assert_eq!(refused(&quotas, "acme", 1, full, limits, 0).map(|o| o.0), Some("quota.open_deliveries"));
        assert_eq!(refused(&quotas, "acme", 1, OrgUsage::default(), limits, 0), None);
    }

    #[test]
    fn buckets_that_are_full_again_are_dropped() {
        let quotas = Arc::new(OrgQuotas::default());
        let limits = QuotaLimits { events: Some((10, 10)), ..NONE };
        for n in 0..BUCKETS_SWEPT_AT {
            assert_eq!(refused(&quotas, &format!("org-{n}"), 1, OrgUsage::default(), limits, 0), None);
        }
        assert_eq!(refused(&quotas, "last", 1, OrgUsage::default(), limits, 100), None);
        assert_eq!(quotas.state().full_at.len(), 1);
    }

    #[test]
    fn refusals_are_recorded_up_to_a_number_per_tenant_and_day() {
        let quotas = OrgQuotas::new(QuotasSection { refusals_per_day: 2, ..QuotasSection::default() });
        let (acme, globex) = (Tenant::Org(org("acme")), Tenant::Org(org("globex")));
        let platform = Tenant::Platform(ProfileId::parse("acme").unwrap());
        let (day, next) = (Timestamp::from_ms(3 * DAY_MS + 5), Timestamp::from_ms(4 * DAY_MS));
        let may = |tenant: &Tenant, at| quotas.may_record_refusal(tenant.clone(), at);
        assert_eq!([may(&acme, day), may(&acme, day), may(&acme, day)], [true, true, false]);
        assert_eq!([may(&globex, day), may(&platform, day)], [true, true]);
        assert_eq!((quotas.refusals_today(&acme, day), quotas.refusals_today(&acme, next)), ((2, Some(2)), (0, Some(2))));
        assert!(may(&acme, next));
        let unlimited = OrgQuotas::new(QuotasSection { refusals_per_day: 0, ..QuotasSection::default() });
        assert!((0..5).all(|_| unlimited.may_record_refusal(acme.clone(), day)));
    }
}
