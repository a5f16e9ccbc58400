//! Identifiers. Ours carry a prefix and sort by time; an operator's are his own words.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::clock::Timestamp;

/// An identifier that an operator chose broke the rule `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no identifier: use 1 to 63 of a-z 0-9 _ -, starting with a letter or digit")]
pub struct BadId(pub String);

fn is_word(text: &str) -> bool {
    let mut bytes = text.bytes();
    let head = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63 && bytes.next().is_some_and(head) && bytes.all(|b| head(b) || b == b'_' || b == b'-')
}

macro_rules! common {
    ($name:ident) => {
        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }
    };
}

macro_rules! words {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Arc<str>);
        common!($name);
        impl $name {
            /// Takes an operator's word.
            ///
            /// # Errors
            /// [`BadId`] when it is not of the form `[a-z0-9][a-z0-9_-]{0,62}`.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                if is_word(text) { Ok(Self(text.into())) } else { Err(BadId(text.to_owned())) }
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    )+};
}

words! {
    /// A tenant.
    OrgId,
    /// One provider app.
    ProfileId,
    /// One provider app in one account of one org.
    InstallationId,
    /// A program that answers people.
    AgentId,
    /// Which agent hears which conversations.
    BindingId,
}

macro_rules! ours {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(Box<str>);
        common!($name);
        impl $name {
            /// What every identifier of this kind starts with.
            pub const PREFIX: &str = $prefix;

            /// A fresh one: prefix, then a ULID made of `now` and 80 random bits.
            pub fn fresh(now: Timestamp) -> Self {
                Self(format!(concat!($prefix, "{}"), ulid_at(now)).into())
            }

            /// The one of a store's row, by the row's number.
            pub fn numbered(number: i64) -> Self {
                Self(format!(concat!($prefix, "{}"), number).into())
            }

            /// The row's number, where it is such a one.
            pub fn number(&self) -> Option<i64> {
                self.0.strip_prefix($prefix)?.parse().ok()
            }

            /// Takes text that carries the prefix; nothing else about it is believed.
            pub fn parse(text: &str) -> Option<Self> {
                let rest = text.strip_prefix($prefix)?;
                let fits = (1..=64).contains(&rest.len()) && rest.bytes().all(|b| b.is_ascii_alphanumeric());
                fits.then(|| Self(text.into()))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` does not start with {}", $prefix)))
            }
        }
    )+};
}

ours! {
    /// An accepted event.
    EventId = "evt_",
    /// A conversation between one person or channel and one agent, through one installation.
    SessionId = "ses_",
    /// One event on its way to one agent.
    DeliveryId = "dlv_",
    /// A message that an agent sent.
    MessageId = "msg_",
    /// One answer of the policies.
    DecisionId = "dec_",
    /// One line of the audit.
    AuditId = "aud_",
    /// A sealed provider credential.
    CredentialId = "crd_",
    /// One run of the failure-path matrix.
    MatrixRunId = "mtx_",
    /// One HTTP request to one of our listeners.
    RequestId = "req_",
}

impl EventId {
    /// What no event of that millisecond or later sorts before.
    pub fn first_at(at: Timestamp) -> String {
        let ms = u64::try_from(at.ms()).unwrap_or(0);
        format!("{}{}", Self::PREFIX, ulid::Ulid::from_parts(ms, 0))
    }
}

fn ulid_at(now: Timestamp) -> ulid::Ulid {
    // The thread's generator is seeded by the system and costs no call to it.
    ulid::Ulid::from_parts(u64::try_from(now.ms()).unwrap_or(0), rand::random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operators_word_keeps_to_the_rule() {
        for good in ["a", "acme", "acme-slack_2", "0", &"a".repeat(63)] {
            assert!(OrgId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Acme", "-a", "_a", "a b", "a\n", "ácme", &"a".repeat(64)] {
            assert!(OrgId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ours_carry_their_prefix_and_sort_by_time() {
        let early = EventId::fresh(Timestamp::from_ms(1_790_000_000_000));
        let late = EventId::fresh(Timestamp::from_ms(1_790_000_000_001));
        assert!(early < late);
        assert!(early.as_str().starts_with("evt_"));
        assert_eq!(EventId::parse(early.as_str()), Some(early));
        assert_eq!(EventId::parse("ses_01"), None);
        assert_eq!(EventId::parse("evt_'; --"), None);
    }
}
