//! Which addresses agents may live on. Owns the address table, the check of an agent's URL and the resolver that hands out
//! checked addresses only. Never dials. Floor 2, part of `transport`.
//!
//! A name is checked when it is dialled, not when it is declared: it may resolve to something else by then. The checked
//! address is the dialled one, because the client connects to what this resolver returned and asks nobody else.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::domain::guard::{Guard, stands};
use crate::domain::reason::ReasonCode;

/// An agent's URL is no longer than this.
const URL_CHARS_MAX: usize = 2048;

/// Whether the address belongs to somebody on the open internet, as far as IANA's special-purpose registries tell
/// ([IPv4](https://www.iana.org/assignments/iana-ipv4-special-registry), [IPv6](https://www.iana.org/assignments/iana-ipv6-special-registry)).
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)              // this network, private, loopback
            | (100, 64..=127, _)          // carrier-grade NAT
            | (169, 254, _)               // link-local, where clouds keep their metadata
            | (172, 16..=31, _)           // private
            | (192, 0, 0 | 2)             // protocol assignments, documentation
            | (192, 88, 99)               // 6to4 relays
            | (192, 168, _)               // private
            | (198, 18 | 19, _)           // benchmarks
            | (198, 51, 100)              // documentation
            | (203, 0, 113)               // documentation
            | (224.., _, _) // multicast, reserved, broadcast
    )
}

/// Only global unicast, 2000::/3, can be public. That alone refuses loopback, unspecified, ULA, link-local, multicast and
/// every form that carries an IPv4 address in front of it: mapped, compatible, NAT64.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [a, b, ..] = ip.segments();
    let global = a & 0xe000 == 0x2000;
    let special = (a == 0x2001 && (b < 0x0200 || b == 0x0db8)) // Teredo, ORCHID and the like; documentation
        || a == 0x2002                                          // 6to4: an IPv4 address inside
        || (a == 0x3fff && b < 0x1000); // documentation
    global && !special
}

/// Takes an agent's address as declared: HTTPS on its own port at a public address or at a name, nothing else. On networks
/// that the operator opened (`egress.allow_private_agents`) plain HTTP, any port and any address.
///
/// # Errors
/// [`ReasonCode::AdminAgentUrlForbidden`]
pub fn agent_url(text: &str, allow_private: bool) -> Result<Url, ReasonCode> {
    let forbidden = ReasonCode::AdminAgentUrlForbidden;
    // The parser drops tabs and line ends and turns `\` into `/`; whoever wrote those meant to be misread.
    let odd = |c: char| c.is_control() || c.is_whitespace() || c == '\\';
    if text.len() > URL_CHARS_MAX || text.chars().any(odd) {
        return Err(forbidden);
    }
    let url = Url::parse(text).map_err(|_| forbidden)?;
    let scheme = match url.scheme() {
        "https" => true,
        "http" => allow_private,
        _ => false,
    };
    // `https://@host` parses to a URL without userinfo, `https:///host` to one with a host; hence the look at the text.
    let authority = text.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(""));
    let plain = url.username().is_empty()
        && url.password().is_none()
        && !authority.contains('@')
        && !authority.is_empty()
        && url.fragment().is_none();
    let port = allow_private || url.port().is_none();
    let host = match url.host() {
        None => false,
        Some(_) if allow_private => true,
        Some(Host::Ipv4(ip)) => is_public_v4(ip),
        Some(Host::Ipv6(ip)) => is_public_v6(ip),
        Some(Host::Domain(name)) => !is_localhost(name),
    };
    if (scheme && plain && port && host) || !stands(Guard::AgentUrl) { Ok(url) } else { Err(forbidden) }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    name.is_empty() || name == "localhost" || name.ends_with(".localhost")
}

/// Every address of the name is one that configuration does not allow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Forbidden;

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name resolves to no address that configuration allows")
    }
}

impl std::error::Error for Forbidden {}

/// Asks for the addresses of a name.
pub(super) type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<Vec<SocketAddr>>> + Send>> + Send + Sync>;

/// Asks the system.
pub(super) fn system() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
}

/// Resolves names and hands out only addresses that may be dialled.
pub(super) struct Resolver {
    pub allow_private: bool,
    pub lookup: Lookup,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (allow_private, found) = (self.allow_private, (self.lookup)(name.as_str().to_owned()));
        Box::pin(async move {
            let allowed: Vec<SocketAddr> = found.await?.into_iter().filter(|a| allow_private || is_public(a.ip())).collect();
            if allowed.is_empty() {
                return Err(Forbidden.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_not_public() {
        for ip in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b::808:808",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "172.15.1.1",
            "172.32.1.1",
            "192.0.1.1",
            "198.17.1.1",
            "198.20.1.1",
            "223.255.255.254",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "3fff:1000::1",
        ] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn an_agent_url_is_https_at_a_public_place() {
        for good in
            ["https://agent.acme.example/events", "https://agent.acme.example:443/", "https://1.1.1.1/x?y=z", "https://[2606:4700::1111]/"]
        {
            assert!(agent_url(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "agent.acme.example",
            "ftp://agent.acme.example/",
            "file:///etc/passwd",
            "http://agent.acme.example/",
            "https://agent.acme.example:8443/",
            "https://u@agent.acme.example/",
            "https://u:p@agent.acme.example/",
            "https://@agent.acme.example/",
            "https:///agent.acme.example/",
            "https:/agent.acme.example/",
            "https://agent.acme.example/#x",
            "https://agent.acme.example/\n",
            " https://agent.acme.example/",
            "https:\\\\agent.acme.example/",
            "https://localhost/",
            "https://LOCALHOST./",
            "https://a.localhost/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://169.254.169.254/latest",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00::1]/",
            "https://１２７.0.0.1/",
        ] {
            assert_eq!(agent_url(bad, false), Err(ReasonCode::AdminAgentUrlForbidden), "{bad}");
        }
        assert!(agent_url(&format!("https://agent.example/{}", "a".repeat(2048)), false).is_err());
    }

    #[test]
    fn an_opened_network_takes_private_places_but_never_credentials_or_fragments() {
        for good in ["http://127.0.0.1:9000/events", "https://localhost:1/", "http://agent.internal/", "https://10.0.0.1/"] {
            assert!(agent_url(good, true).is_ok(), "{good}");
        }
        for bad in ["http://u:p@127.0.0.1/", "http://127.0.0.1/#x", "gopher://127.0.0.1/", "http:///x y"] {
            assert!(agent_url(bad, true).is_err(), "{bad}");
        }
    }

    async fn resolved(allow_private: bool, addresses: &[&str]) -> Option<Vec<String>> {
        let found: Vec<SocketAddr> = addresses.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0)).collect();
        let lookup: Lookup = Arc::new(move |_| {
            let found = found.clone();
            Box::pin(async move { Ok(found) })
        });
        match (Resolver { allow_private, lookup }).resolve("agent.example".parse().unwrap()).await {
            Ok(all) => Some(all.map(|a| a.ip().to_string()).collect()),
            Err(e) => {
                assert!(e.is::<Forbidden>());
                None
            }
        }
    }

    #[tokio::test]
    async fn a_name_yields_only_addresses_that_may_be_dialled() {
        assert_eq!(resolved(false, &["127.0.0.1", "::1", "169.254.169.254"]).await, None);
        assert_eq!(resolved(false, &[]).await, None);
        assert_eq!(resolved(false, &["10.0.0.1", "1.1.1.1", "::ffff:1.1.1.1"]).await, Some(vec!["1.1.1.1".into()]));
        assert_eq!(resolved(true, &["127.0.0.1"]).await, Some(vec!["127.0.0.1".into()]));
    }
}
