//! Who may connect: so many connections in all, and so many from one address. Nobody waits at the gate: whoever is too many is
//! told so and let go, because an accept loop that waits for room keeps everybody out. Part of `http`, floor 8.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Descriptors that are not for public connections: the operators' connections, the store, policies, logs.
const RESERVED: usize = 256;

/// Connections that the operator listener takes, whatever the public one does.
pub const OPERATORS_MAX: usize = 128;

/// More connections than this are taken only where configuration asks for them: each takes some memory.
const DERIVED_MAX: usize = 8_192;

/// What somebody who is one too many is answered.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\nretry-after: 5\r\n\
    connection: close\r\ncontent-length: 8\r\n\r\nrefused\n";

/// How many public connections there may be: what is configured, where there are descriptors for them, else a half of those that
/// are left, because a connection may lead to another one, to a provider. `outbound` are those that deliveries need.
pub fn connections_max(configured: usize, descriptors: Option<u64>, outbound: usize) -> usize {
    let all = descriptors.map_or(usize::MAX, |all| usize::try_from(all).unwrap_or(usize::MAX));
    let left = all.saturating_sub(RESERVED.saturating_add(outbound)).max(2);
    match configured {
        0 => (left / 2).min(DERIVED_MAX),
        configured => configured.min(left),
    }
}

/// Counts connections. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: Arc<Semaphore>,
    all_max: usize,
    /// `None` where addresses are not counted.
    address_max: Option<usize>,
    exempt: Vec<IpAddr>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection that was let in; dropping it makes room for another.
#[derive(Debug)]
pub(super) struct Entered {
    gate: Gate,
    address: Option<IpAddr>,
    _slot: OwnedSemaphorePermit,
}

/// Why a connection was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Full {
    /// The listener has all the connections that it takes.
    Listener,
    /// The address has all that it may have.
    Address,
}

impl Full {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Address => "address",
        }
    }
}

impl Gate {
    /// For the public listener; `exempt` are proxies, behind which everybody has one address.
    pub fn public(connections_max: usize, address_max: usize, exempt: Vec<IpAddr>) -> Self {
        Self::new(connections_max, Some(address_max), exempt)
    }

    /// For the operator listener.
    pub fn operators() -> Self {
        Self::new(OPERATORS_MAX, None, Vec::new())
    }

    fn new(all_max: usize, address_max: Option<usize>, exempt: Vec<IpAddr>) -> Self {
        let all_max = all_max.min(Semaphore::MAX_PERMITS).min(usize::try_from(u32::MAX).unwrap_or(usize::MAX));
        let exempt = exempt.into_iter().map(|address| address.to_canonical()).collect();
        Self(Arc::new(Inner { all: Arc::new(Semaphore::new(all_max)), all_max, address_max, exempt, addresses: Mutex::default() }))
    }

    /// Lets a connection in, where there is room for it.
    pub(super) fn enter(&self, peer: IpAddr) -> Result<Entered, Full> {
        let inner = &self.0;
        let slot = inner.all.clone().try_acquire_owned().map_err(|_| Full::Listener)?;
        let counted = inner.address_max.filter(|_| !inner.exempt.contains(&peer.to_canonical()));
        let Some(address_max) = counted else { return Ok(Entered { gate: self.clone(), address: None, _slot: slot }) };
        let address = block(peer);
        let mut addresses = inner.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let count = addresses.entry(address).or_default();
        if *count >= address_max {
            return Err(Full::Address);
        }
        *count += 1;
        Ok(Entered { gate: self.clone(), address: Some(address), _slot: slot })
    }

    /// Waits until every connection has ended.
    pub(super) async fn empty(&self) {
        let _ = self.0.all.acquire_many(u32::try_from(self.0.all_max).unwrap_or(u32::MAX)).await;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut addresses = self.gate.0.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        match addresses.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                addresses.remove(&address);
            }
        }
    }
}

/// Tells somebody who is one too many, as far as that is possible without waiting, and hangs up.
pub(super) fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(FULL);
}

/// What is counted as one address: a network of 64 bits is one customer's in IPv6.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_others_have_theirs() {
        let gate = Gate::public(10, 2, vec![ip("10.0.0.9")]);
        let held: Vec<_> = ["192.0.2.1", "192.0.2.1"].map(|a| gate.enter(ip(a)).unwrap()).into();
        assert_eq!(gate.enter(ip("192.0.2.1")).unwrap_err(), Full::Address);
        assert_eq!(gate.enter(ip("::ffff:192.0.2.1")).unwrap_err(), Full::Address, "the same address, said otherwise");
        let six: Vec<_> = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"].map(|a| gate.enter(ip(a)).unwrap()).into();
        assert_eq!(gate.enter(ip("2001:db8:0:1::3")).unwrap_err(), Full::Address, "one network of 64 bits");
        let proxy: Vec<_> = (0..4).map(|_| gate.enter(ip("10.0.0.9")).unwrap()).collect();
        let other = [gate.enter(ip("2001:db8:0:2::1")).unwrap(), gate.enter(ip("192.0.2.2")).unwrap()];
        assert_eq!(gate.enter(ip("192.0.2.3")).unwrap_err(), Full::Listener);
        drop((held, six, proxy, other));
        assert!(gate.0.addresses.lock().unwrap().is_empty(), "who has none is forgotten");
        assert!(gate.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn there_are_as_many_connections_as_there_are_descriptors_for() {
        assert_eq!(connections_max(0, Some(1024), 64), 352);
        assert_eq!(connections_max(0, Some(1_048_576), 64), DERIVED_MAX);
        assert_eq!(connections_max(0, None, 64), DERIVED_MAX);
        assert_eq!(connections_max(4_096, Some(1024), 64), 704, "no more than there are");
        assert_eq!((connections_max(100, Some(1024), 64), connections_max(100_000, None, 64)), (100, 100_000));
        assert_eq!((connections_max(0, Some(64), 64), connections_max(5, Some(0), 0)), (1, 2));
    }
}
