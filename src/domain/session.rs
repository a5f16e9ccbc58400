//! What makes two events part of the same conversation with the same agent.

use super::ids::{AgentId, InstallationId, OrgId};
use super::installation::ProviderKind;

/// Identity of a session: org, provider, installation, agent, conversation, thread, and the peer where it counts.
///
/// The text escapes `/` and `%` in every part, so that two identities never share a key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SessionKey(String);

impl SessionKey {
    /// Builds the key; an absent thread or peer is an empty part, which no real one can be.
    pub fn new(
        org: &OrgId,
        provider: ProviderKind,
        installation: &InstallationId,
        agent: &AgentId,
        conversation: &str,
        thread: Option<&str>,
        peer: Option<&str>,
    ) -> Self {
        let mut key = String::with_capacity(96);
        for (i, part) in
            [org.as_str(), provider.as_str(), installation.as_str(), agent.as_str(), conversation, thread.unwrap_or(""), peer.unwrap_or("")]
                .into_iter()
                .enumerate()
        {
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
    use proptest::prelude::*;

    fn key(conversation: &str, thread: Option<&str>, peer: Option<&str>) -> SessionKey {
        let (org, ins, agent) = (OrgId::parse("o").unwrap(), InstallationId::parse("i").unwrap(), AgentId::parse("a").unwrap());
        SessionKey::new(&org, ProviderKind::Slack, &ins, &agent, conversation, thread, peer)
    }

    proptest! {
        #[test]
        fn two_identities_never_share_a_key(a in "[a/%2F5]{1,6}", b in "[a/%2F5]{1,6}", c in "[a/%2F5]{1,6}", d in "[a/%2F5]{1,6}") {
            prop_assert_eq!(key(&a, Some(&b), None) == key(&c, Some(&d), None), (a, b) == (c, d));
        }
    }
}
