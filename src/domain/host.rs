//! The host that a client names: in a `Host` header, in the authority of a target, in a setting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Characters that a name has at most (RFC 1035 §2.3.4).
const NAME_CHARS_MAX: usize = 253;

/// A host in one spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Host {
    /// An address; IPv4 in IPv6 is the IPv4 address.
    Ip(IpAddr),
    /// A name in lower case, without the dot of the root.
    Name(String),
}

impl Host {
    /// Reads `host` or `host:port` with the port that it names; none where it is neither. IPv6 addresses stand in brackets.
    pub fn parse(authority: &str) -> Option<(Self, Option<u16>)> {
        let (host, rest) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                (Self::Ip(IpAddr::V6(address.parse::<Ipv6Addr>().ok()?).to_canonical()), rest)
            }
            None => {
                let name = authority.split(':').next()?;
                (Self::name(name)?, authority.strip_prefix(name)?)
            }
        };
        if rest.is_empty() {
            return Some((host, None));
        }
        let port = rest.strip_prefix(':').filter(|port| port.bytes().all(|b| b.is_ascii_digit()))?;
        Some((host, Some(port.parse().ok()?)))
    }

    fn name(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Ip(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let fits = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        (name.len() <= NAME_CHARS_MAX && name.split('.').all(fits)).then_some(Self::Name(name))
    }

    /// True where it is this machine for itself, whatever a resolver says.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Host {
        Host::Ip(text.parse().unwrap())
    }

    #[test]
    fn one_host_has_one_spelling() {
        let name = |text: &str| Host::Name(text.to_owned());
        for (text, host, port) in [
            ("gw.example", name("gw.example"), None),
            ("GW.Example.:8081", name("gw.example"), Some(8081)),
            ("localhost:1", name("localhost"), Some(1)),
            ("127.0.0.1", ip("127.0.0.1"), None),
            ("[::1]:8081", ip("::1"), Some(8081)),
            ("[::ffff:127.0.0.1]", ip("127.0.0.1"), None),
            // Not what an address looks like, so it is a name that nobody lists.
            ("127.1", name("127.1"), None),
            ("2130706433", name("2130706433"), None),
        ] {
            assert_eq!(Host::parse(text), Some((host, port)), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_is_none() {
        for text in [
            "", ".", ":80", "a:", "a:x", "a:99999", "a:1:2", "::1", "[::1", "[::1]x", "[a]", "a b", "a..b", "user@a", "a/b", "a?", "ä",
            "a..", "*", "*.a", "a,b", " a",
        ] {
            assert_eq!(Host::parse(text), None, "{text}");
        }
        assert_eq!(Host::parse(&"a".repeat(254)), None);
    }

    #[test]
    fn loopback_is_told_without_asking_anybody() {
        let is = |text: &str| Host::parse(text).unwrap().0.is_loopback();
        assert!(["localhost", "LOCALHOST.", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]:80"].into_iter().all(is));
        assert!(!["localhost.evil.example", "0.0.0.0", "10.0.0.1", "[::]", "127.0.0.1.evil.example"].into_iter().any(is));
    }
}
