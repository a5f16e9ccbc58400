//! What makes two events part of the same conversation with the same agent.

use super::guard::{Guard, stands};
use super::route::Route;

/// Identity of a session: org, provider, installation, agent, conversation, thread, and the peer where it counts.
///
/// The text escapes `/` and `%` in every part, so that two identities never share a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey(String);

impl SessionKey {
    /// Builds the key; an absent thread or peer is an empty part, which no real one can be.
    pub fn new(route: &Route, conversation: &str, thread: Option<&str>, peer: Option<&str>) -> Self {
        let way = [route.org.as_str(), route.provider.as_str(), route.installation.as_str(), route.agent.as_str()];
        let way = if stands(Guard::SessionOfRoute) { way } else { [""; 4] };
        let mut key = String::with_capacity(96);
        for (i, part) in way.into_iter().chain([conversation, thread.unwrap_or(""), peer.unwrap_or("")]).enumerate() {
            if i > 0 {
                key.push('/');
            }
            for c in part.chars() {
                match c {
                    '/' => key.push_str("%2F"),
                    '%' => key.push_str("%25"),
                    c => key.push(c),
                }
            }
        }
        Self(key)
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{AgentId, InstallationId, OrgId};
    use crate::domain::installation::ProviderKind;
    use proptest::prelude::*;

    fn key(conversation: &str, thread: Option<&str>, peer: Option<&str>) -> SessionKey {
        let route = Route {
            org: OrgId::parse("o").unwrap(),
            provider: ProviderKind::Slack,
            installation: InstallationId::parse("i").unwrap(),
            binding: None,
            agent: AgentId::parse("a").unwrap(),
            legacy: false,
        };
        SessionKey::new(&route, conversation, thread, peer)
    }

    proptest! {
        #[test]
        fn two_identities_never_share_a_key(a in "[a/%2F5]{1,6}", b in "[a/%2F5]{1,6}", c in "[a/%2F5]{1,6}", d in "[a/%2F5]{1,6}") {
            prop_assert_eq!(key(&a, Some(&b), None) == key(&c, Some(&d), None), (a, b) == (c, d));
        }
    }
}
