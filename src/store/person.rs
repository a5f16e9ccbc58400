//! What of the store is one person's: the one place that says so. Rows are read as what they mean and compared here; no statement
//! compares what people said, or who they are, except by the columns of sessions.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value as Json;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::StoreError;
use super::content::{
    REFUSALS, SENDS, SESSIONS, SendContent, SessionContent, VERDICTS, conversation_digest, key_of, open_event, open_json,
};
use super::purge::Purge;
use super::writer::failed;
use crate::crypto::content::{ContentKey, ContentKeys};
use crate::domain::message::Normal;

/// A person as an installation knows them.
#[derive(Clone, Debug)]
pub(super) struct Person {
    of: Purge,
    /// The org's key: content is opened to see whose it is.
    key: Arc<ContentKey>,
    /// Sessions that are theirs alone.
    sessions: BTreeSet<String>,
    /// Conversations in which nobody else spoke to an agent, and the person's own id: the conversation of many providers.
    conversations: BTreeSet<String>,
}

/// A kind of row that can hold something of a person, in the order in which they are removed: the sessions say which conversations
/// are theirs, so they go last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Events,
    Sends,
    Refusals,
    Facts,
    Audit,
    Sessions,
}

impl Piece {
    pub(super) const ALL: [Self; 6] = [Self::Events, Self::Sends, Self::Refusals, Self::Facts, Self::Audit, Self::Sessions];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Sends => "sends",
            Self::Refusals => "refusals",
            Self::Facts => "facts",
            Self::Audit => "audit",
            Self::Sessions => "sessions",
        }
    }

    /// The rows behind `$1`, at most `$2`, that may hold something: of an installation `$3`, of its profile `$4`, of its org `$5`; `$6` is the provider.
    const fn sql(self) -> &'static str {
        match self {
            Self::Events => {
                "SELECT seq, id, content FROM events WHERE seq > $1 AND installation = $3 AND content IS NOT NULL ORDER BY seq LIMIT $2"
            }
            Self::Sends => {
                "SELECT seq, id, content, session FROM sends WHERE seq > $1 AND installation = $3 AND content IS NOT NULL \
                 ORDER BY seq LIMIT $2"
            }
            Self::Refusals => {
                "SELECT seq, request, content FROM refusals WHERE seq > $1 AND profile = $4 AND org = $5 AND content IS NOT NULL \
                 ORDER BY seq LIMIT $2"
            }
            Self::Facts => {
                "SELECT seq, digest, content, principal, resource FROM verdicts WHERE seq > $1 AND org = $5 AND content IS NOT NULL \
                 ORDER BY seq LIMIT $2"
            }
            Self::Audit => {
                "SELECT seq, detail_json FROM audit WHERE seq > $1 AND org = $5 AND detail_json IS NOT NULL AND action NOT LIKE 'person.purge%' \
                 ORDER BY seq LIMIT $2"
            }
            Self::Sessions => {
                "SELECT rowid, id, peer FROM sessions WHERE rowid > $1 AND org = $5 \
                 AND (installation = $3 OR (installation = '' AND provider = $6)) ORDER BY rowid LIMIT $2"
            }
        }
    }
}

/// A page of rows that may hold something of a person.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// The numbers of those that do, each with its id where it is a session.
    pub theirs: Vec<(i64, String)>,
    /// The last row of the page.
    pub last: Option<i64>,
    /// How many rows were looked at.
    pub rows: usize,
}

impl Person {
    /// Finds what the sessions say of a person.
    pub(super) async fn find(pool: &SqlitePool, keys: &ContentKeys, of: &Purge) -> Result<Self, StoreError> {
        let key = key_of(keys, Some(&of.org))?;
        let (sessions, conversations) = (BTreeSet::new(), BTreeSet::from([of.sender.clone()]));
        let mut person = Self { of: of.clone(), key, sessions, conversations };
        let peer = person.peer();
        let rows: Vec<(String, Option<String>, Vec<u8>)> = sqlx::query_as(
            "WITH near AS (SELECT id, conversation, peer, content FROM sessions \
               WHERE org = $1 AND (installation = $2 OR (installation = '' AND provider = $4))) \
             SELECT id, peer, content FROM near WHERE peer = $3 OR conversation IN (SELECT conversation FROM near WHERE peer = $3)",
        )
        .bind(of.org.as_str())
        .bind(of.installation.as_str())
        .bind(peer.as_str())
        .bind(of.provider.as_str())
        .fetch_all(pool)
        .await
        .map_err(failed)?;
        let mut shared = BTreeSet::new();
        for (id, of_peer, sealed) in rows {
            let SessionContent { conversation, .. } = open_json(&person.key, SESSIONS, &id, &sealed)?;
            if of_peer.as_deref() == Some(peer.as_str()) {
                person.sessions.insert(id);
                person.conversations.insert(conversation);
            } else {
                shared.insert(conversation);
            }
        }
        person.conversations.retain(|conversation| !conversation.is_empty() && !shared.contains(conversation));
        Ok(person)
    }

    /// The digest of the person's id in the rows of sessions.
    fn peer(&self) -> String {
        self.key.digest("peer", &self.of.sender)
    }

    /// A page of a piece behind a number.
    pub(super) async fn look(&self, pool: &SqlitePool, piece: Piece, after: i64, limit: i64) -> Result<Looked, StoreError> {
        let rows = sqlx::query(AssertSqlSafe(piece.sql()))
            .bind(after)
            .bind(limit)
            .bind(self.of.installation.as_str())
            .bind(self.of.profile.as_str())
            .bind(self.of.org.as_str())
            .bind(self.of.provider.as_str())
            .fetch_all(pool)
            .await
            .map_err(failed)?;
        let mut looked = Looked { rows: rows.len(), ..Looked::default() };
        for row in &rows {
            let seq: i64 = row.try_get(0).map_err(failed)?;
            looked.last = Some(seq);
            let name: String = row.try_get::<Option<String>, _>(1).map_err(failed)?.unwrap_or_default();
            if self.is_theirs(piece, row, &name)? {
                looked.theirs.push((seq, name));
            }
        }
        Ok(looked)
    }

    /// Whether a row of a piece holds something of the person. `name` is the row's second column.
    fn is_theirs(&self, piece: Piece, row: &SqliteRow, name: &str) -> Result<bool, StoreError> {
        let text = |i: usize| row.try_get::<Option<String>, _>(i).map(Option::unwrap_or_default).map_err(failed);
        let sealed = || row.try_get::<Vec<u8>, _>(2).map_err(failed);
        let opened = |table| {
            let plain = self.key.open(table, name, &sealed()?);
            Ok::<_, StoreError>(plain.and_then(|plain| String::from_utf8(plain).ok()).unwrap_or_default())
        };
        Ok(match piece {
            Piece::Events => self.said(&open_event(&self.key, name, &sealed()?)?.normal),
            Piece::Sends => {
                let content: SendContent = open_json(&self.key, SENDS, name, &sealed()?)?;
                self.sessions.contains(&text(3)?) || content.conversation.is_some_and(|c| self.conversations.contains(&c))
            }
            Piece::Refusals => self.is_mentioned(&opened(REFUSALS)?),
            Piece::Facts => {
                let of_installation = format!("::\"{}\"", self.of.installation);
                (text(3)?.ends_with(&of_installation) || text(4)?.ends_with(&of_installation)) && self.is_in(&opened(VERDICTS)?)
            }
            Piece::Audit => self.is_in(name),
            Piece::Sessions => text(2)? == self.peer(),
        })
    }

    /// The digests of the conversations that nobody else is in.
    pub(super) fn conversations(&self) -> Vec<String> {
        self.conversations.iter().map(|conversation| conversation_digest(&self.key, conversation)).collect()
    }

    /// Whether an event is one that the person caused, or one in a conversation that is theirs alone.
    fn said(&self, normal: &Normal) -> bool {
        normal.sender.as_ref().is_some_and(|sender| sender.id == self.of.sender)
            || normal.conversation.as_ref().is_some_and(|c| self.conversations.contains(&c.id))
    }

    /// Whether a JSON text has the person's id, one of their conversations or its digest as a value of its own, or as a part of a
    /// session's key.
    fn is_in(&self, json: &str) -> bool {
        fn any(value: &Json, is: &impl Fn(&str) -> bool) -> bool {
            match value {
                Json::String(text) => is(text),
                Json::Array(items) => items.iter().any(|item| any(item, is)),
                Json::Object(fields) => fields.values().any(|field| any(field, is)),
                _ => false,
            }
        }
        let digests = self.conversations();
        let is = |text: &str| text.split('/').any(|part| self.conversations.contains(part) || digests.iter().any(|digest| digest == part));
        serde_json::from_str(json).is_ok_and(|value| any(&value, &is))
    }

    /// Whether a text that may be cut anywhere has the person's id in it as a word.
    fn is_mentioned(&self, text: &str) -> bool {
        let of_word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        text.match_indices(self.of.sender.as_str()).any(|(at, id)| {
            let (before, behind) = (text.get(..at).unwrap_or_default(), text.get(at + id.len()..).unwrap_or_default());
            !before.ends_with(of_word) && !behind.starts_with(of_word)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{InstallationId, OrgId, ProfileId};

    fn person() -> Person {
        let of = Purge {
            installation: InstallationId::parse("ins").unwrap(),
            profile: ProfileId::parse("app").unwrap(),
            org: OrgId::parse("acme").unwrap(),
            provider: crate::domain::installation::ProviderKind::Slack,
            sender: "1001".into(),
        };
        let key = Arc::new(ContentKey::derive(&zeroize::Zeroizing::new([5; 32])).unwrap());
        Person { of, key, sessions: BTreeSet::from(["ses_1".into()]), conversations: BTreeSet::from(["1001".into(), "D7".into()]) }
    }

    fn normal(conversation: &str, sender: &str) -> Normal {
        serde_json::from_value(serde_json::json!({
            "conversation": {"id": conversation, "kind": "direct", "thread": null},
            "sender": {"id": sender, "name": null, "is_bot": false}, "text": "hi", "reply_to": null,
        }))
        .unwrap()
    }

    #[test]
    fn an_event_is_theirs_by_its_sender_or_its_conversation() {
        let person = person();
        assert!(person.said(&normal("C1", "1001")) && person.said(&normal("D7", "bot")));
        assert!(!person.said(&normal("C1", "1002")) && !person.said(&normal("C1", "100")) && !person.said(&Normal::default()));
    }

    #[test]
    fn an_id_is_a_word_and_not_a_part_of_one() {
        let person = person();
        for yes in ["1001", r#"{\"id\":1001,\"x\":"#, "chat=1001&text=hi", "hi 1001"] {
            assert!(person.is_mentioned(yes), "{yes}");
        }
        for no in ["", "10012", "91001", "-1001", "a1001", "1001_2"] {
            assert!(!person.is_mentioned(no), "{no}");
        }
        assert!(person.is_in(r#"{"context":{"conversation":"D7"}}"#) && person.is_in(r#"{"key":"acme/slack/ins/agent/D7//1001"}"#));
        assert!(!person.is_in(r#"{"context":{"conversation":"D77","n":1001}}"#) && !person.is_in("no JSON D7"));
    }
}
