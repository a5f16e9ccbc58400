//! Budgets of failed proofs: per client address, and per webhook address. Beyond a budget a request that fails is answered
//! 429 instead of what it would be told; a request that proves itself is never asked. Part of `quota`.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use super::bucket::{self, Rate};
use crate::domain::ids::ProfileId;
use crate::domain::installation::ProviderKind;

/// Buckets of one kind that are remembered: twice this many at most.
const REMEMBERED: usize = 32_768;

/// The webhook address that a failed request named. All addresses that do not exist share one budget per provider.
pub type IngressKey = (ProviderKind, Option<ProfileId>);

/// The budgets.
#[derive(Debug, Default)]
pub struct FailureBudgets {
    per_address: Option<Rate>,
    per_ingress: Option<Rate>,
    /// Proxies: many clients share such an address.
    exempt: Vec<IpAddr>,
    addresses: Mutex<Recent<IpAddr>>,
    ingress: Mutex<Recent<IngressKey>>,
}

impl FailureBudgets {
    /// Budgets of so many failures a minute, in buckets of as many; 0 is no budget. Requests from the addresses in `exempt`
    /// count for the webhook address only.
    pub fn new(per_address: u32, per_ingress: u32, exempt: &[IpAddr]) -> Self {
        let rate = |tokens: u32| (tokens > 0).then(|| Rate::per_minute(tokens));
        Self {
            per_address: rate(per_address),
            per_ingress: rate(per_ingress),
            exempt: exempt.iter().map(IpAddr::to_canonical).collect(),
            ..Self::default()
        }
    }

    /// Counts a failure. `peer` is the client's address, `ingress` the webhook address where there is one.
    ///
    /// # Errors
    /// Over a budget: seconds until a failure counts again. Nothing was counted then.
    pub fn failed(&self, peer: Option<IpAddr>, ingress: Option<IngressKey>, steady_ms: i64) -> Result<(), u64> {
        let now = bucket::nanos(steady_ms);
        let peer = peer.map(|peer| peer.to_canonical()).filter(|peer| !self.exempt.contains(peer));
        take(self.per_address, &self.addresses, peer.map(network), now)?;
        take(self.per_ingress, &self.ingress, ingress, now)
    }
}

fn take<K: Hash + Eq + Clone>(rate: Option<Rate>, all: &Mutex<Recent<K>>, key: Option<K>, now: i64) -> Result<(), u64> {
    let (Some(rate), Some(key)) = (rate, key) else { return Ok(()) };
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let full_at = rate.take(all.get(&key), 1, now).map_err(bucket::seconds)?;
    all.put(key, full_at);
    Ok(())
}

/// What one client has of the address space: an IPv4 address, or the /64 of an IPv6 address.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// The buckets that were used last, in two generations: when the newer one is full, the older one is dropped. What is
/// forgotten is a full bucket again.
#[derive(Debug)]
struct Recent<K> {
    new: HashMap<K, i64>,
    old: HashMap<K, i64>,
}

impl<K> Default for Recent<K> {
    fn default() -> Self {
        Self { new: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Hash + Eq> Recent<K> {
    fn get(&self, key: &K) -> Option<i64> {
        self.new.get(key).or_else(|| self.old.get(key)).copied()
    }

    fn put(&mut self, key: K, full_at: i64) {
        if self.new.len() >= REMEMBERED && !self.new.contains_key(&key) {
            self.old = std::mem::take(&mut self.new);
        }
        self.new.insert(key, full_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn at(profile: &str) -> Option<IngressKey> {
        Some((ProviderKind::Slack, Some(ProfileId::parse(profile).unwrap())))
    }

    /// How many of `calls` failures are within the budget.
    fn counted(budgets: &FailureBudgets, peer: Option<IpAddr>, ingress: Option<IngressKey>, calls: usize, ms: i64) -> usize {
        (0..calls).filter(|_| budgets.failed(peer, ingress.clone(), ms).is_ok()).count()
    }

    #[test]
    fn each_address_has_a_budget_of_its_own() {
        let budgets = FailureBudgets::new(6, 0, &[]);
        assert_eq!(counted(&budgets, ip("192.0.2.1"), at("a"), 50, 0), 6);
        assert_eq!(budgets.failed(ip("192.0.2.1"), None, 0), Err(10));
        assert_eq!(counted(&budgets, ip("192.0.2.2"), at("a"), 50, 0), 6, "another address");
        assert_eq!(counted(&budgets, ip("192.0.2.1"), None, 50, 10_000), 1, "a minute brings six");
        assert_eq!(counted(&budgets, ip("192.0.2.1"), None, 50, 100_000), 6);
        assert_eq!(counted(&budgets, None, None, 50, 0), 50, "nobody to count for");
    }

    #[test]
    fn an_ipv6_client_is_its_64_and_an_ipv4_client_is_itself_however_it_is_written() {
        let budgets = FailureBudgets::new(2, 0, &[]);
        assert_eq!(counted(&budgets, ip("2001:db8:1:2::1"), None, 2, 0), 2);
        assert_eq!(counted(&budgets, ip("2001:db8:1:2:ffff::9"), None, 2, 0), 0);
        assert_eq!(counted(&budgets, ip("2001:db8:1:3::1"), None, 2, 0), 2);
        assert_eq!(counted(&budgets, ip("192.0.2.1"), None, 1, 0) + counted(&budgets, ip("::ffff:192.0.2.1"), None, 5, 0), 2);
        assert_eq!(counted(&budgets, ip("::ffff:192.0.2.2"), None, 5, 0), 2, "two of them are not one /64");
    }

    #[test]
    fn an_ingress_id_has_a_budget_whoever_asks_and_a_proxy_has_none_of_its_own() {
        let budgets = FailureBudgets::new(4, 10, &["198.51.100.7".parse().unwrap()]);
        assert_eq!((0..20).map(|n| counted(&budgets, ip(&format!("192.0.2.{n}")), at("a"), 1, 0)).sum::<usize>(), 10);
        assert_eq!(counted(&budgets, ip("::ffff:198.51.100.7"), at("b"), 50, 0), 10, "its webhook address only");
        assert_eq!(counted(&budgets, ip("192.0.2.99"), Some((ProviderKind::Slack, None)), 50, 0), 4);
    }

    #[test]
    fn a_flood_from_many_addresses_takes_bounded_memory() {
        let budgets = FailureBudgets::new(1, 0, &[]);
        let kept = |budgets: &FailureBudgets| {
            let all = budgets.addresses.lock().unwrap();
            all.new.len() + all.old.len()
        };
        for n in 0..(3 * REMEMBERED as u32 + 7) {
            assert!(budgets.failed(Some(IpAddr::V4(n.into())), None, 0).is_ok());
        }
        assert!(kept(&budgets) <= 2 * REMEMBERED, "{}", kept(&budgets));
        assert_eq!(budgets.failed(Some(IpAddr::V4((3 * REMEMBERED as u32).into())), None, 0), Err(60), "the last ones are remembered");
    }
}
