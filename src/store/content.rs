//! Content on its way into rows and out of them: sealed under the key of its org, looked up by keyed digests. Part of `store`,
//! floor 2.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::{AcceptRequest, NewEvent, StoreError, files};
use crate::crypto::content::{ContentKey, ContentKeys};
use crate::domain::ids::{InstallationId, OrgId};
use crate::domain::message::Normal;
use crate::domain::record::RefusalRecord;

/// The key for an org's content, or for content of no org.
///
/// # Errors
/// [`StoreError::KeyMissing`] where the key is not loaded or was destroyed: what cannot be sealed is not stored.
pub(super) fn key_of(keys: &ContentKeys, org: Option<&OrgId>) -> Result<Arc<ContentKey>, StoreError> {
    keys.of(org.map(OrgId::as_str)).ok_or_else(|| StoreError::KeyMissing(org.map_or_else(|| "the platform".into(), ToString::to_string)))
}

/// An event's content as its row holds it.
pub(super) struct SealedEvent {
    pub content: Vec<u8>,
    /// The digest of the session's key.
    pub session: String,
    /// The identity within the installation; a digest where the provider's own holds a person's id.
    pub dedupe: String,
    /// Digests of the ids of its files.
    pub files: Vec<String>,
}

/// A refusal's content as its row holds it.
pub(super) struct SealedRefusal {
    pub content: Option<Vec<u8>>,
    pub digest: String,
}

/// A request with its content sealed, ready for the writer.
pub(super) struct SealedRequest {
    pub request: AcceptRequest,
    pub events: Vec<SealedEvent>,
    pub refusals: Vec<SealedRefusal>,
}

impl SealedRequest {
    /// Seals a request's content. Runs in the request's own task, not in the writer.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`].
    pub(super) fn new(keys: &ContentKeys, request: AcceptRequest) -> Result<Self, StoreError> {
        let events = request.events.iter().map(|event| seal_event(keys, event)).collect::<Result<_, _>>()?;
        let refusals = request.refusals.iter().map(|refusal| seal_refusal(keys, refusal)).collect::<Result<_, _>>()?;
        Ok(Self { request, events, refusals })
    }
}

fn seal_event(keys: &ContentKeys, event: &NewEvent) -> Result<SealedEvent, StoreError> {
    let key = key_of(keys, Some(&event.route.org))?;
    let normal = serde_json::to_vec(&event.normal).map_err(|e| StoreError::Unavailable(e.to_string()))?;
    Ok(SealedEvent {
        content: seal(&key, EVENTS, event.id.as_str(), &packed(&[event.provider_event_id.as_bytes(), &normal, &event.raw]))?,
        session: session_digest(&key, event.session_key.as_str()),
        dedupe: dedupe(&key, event),
        files: event.files.iter().map(|file| files::digest(&key, file)).collect(),
    })
}

/// The identity of an event within its installation, as its row holds it.
fn dedupe(key: &ContentKey, event: &NewEvent) -> String {
    if event.dedupe_is_personal { key.digest("dedupe", &event.dedupe_key) } else { event.dedupe_key.clone() }
}

/// The same for an event that is looked for.
///
/// # Errors
/// [`StoreError::KeyMissing`].
pub(super) fn dedupe_of(keys: &ContentKeys, event: &NewEvent) -> Result<String, StoreError> {
    Ok(dedupe(&*key_of(keys, Some(&event.route.org))?, event))
}

/// An org whose key was destroyed has its refusals counted and their bodies not kept.
fn seal_refusal(keys: &ContentKeys, refusal: &RefusalRecord) -> Result<SealedRefusal, StoreError> {
    let org = refusal.org.as_ref();
    let (own, platform) = (keys.of(org.map(OrgId::as_str)), key_of(keys, None)?);
    let digest = own.as_ref().unwrap_or(&platform).digest("refusals", &hex::encode(refusal.digest));
    let content = match (&refusal.excerpt, own) {
        (Some(excerpt), Some(key)) => Some(seal(&key, REFUSALS, refusal.request.as_str(), excerpt.as_bytes())?),
        _ => None,
    };
    Ok(SealedRefusal { content, digest })
}

/// The tables with sealed content, as they are named where content is authenticated.
pub(super) const EVENTS: &str = "events";
pub(super) const REFUSALS: &str = "refusals";
pub(super) const SESSIONS: &str = "sessions";
pub(super) const SENDS: &str = "sends";
pub(super) const VERDICTS: &str = "verdicts";
pub(super) const PLACES: &str = "places";
pub(super) const HANDED: &str = "handed";

/// Seals a value for the row `id` of a table.
///
/// # Errors
/// [`StoreError::Unavailable`] where the cipher refuses, which it does for no size that is let in.
pub(super) fn seal(key: &ContentKey, table: &str, id: &str, plain: &[u8]) -> Result<Vec<u8>, StoreError> {
    key.seal(table, id, plain).ok_or_else(|| StoreError::Unavailable(format!("{table}: the content cannot be sealed")))
}

/// Seals a value as JSON.
///
/// # Errors
/// As [`seal`].
pub(super) fn seal_json(key: &ContentKey, table: &str, id: &str, value: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    seal(key, table, id, &serde_json::to_vec(value).map_err(|e| StoreError::Unavailable(e.to_string()))?)
}

/// Opens a value that [`seal_json`] sealed.
///
/// # Errors
/// [`StoreError::Corrupt`] when it does not open in this row.
pub(super) fn open_json<T: DeserializeOwned>(key: &ContentKey, table: &str, id: &str, sealed: &[u8]) -> Result<T, StoreError> {
    let plain = key.open(table, id, sealed).ok_or_else(|| shut(table, id))?;
    serde_json::from_slice(&plain).map_err(|e| StoreError::Corrupt(format!("{table}/{id}: {e}")))
}

fn shut(table: &str, id: &str) -> StoreError {
    StoreError::Corrupt(format!("{table}/{id}: the sealed content does not open"))
}

/// The digest that sessions are looked up by; of an empty key it is empty.
pub(super) fn session_digest(key: &ContentKey, text: &str) -> String {
    digest_or_empty(key, "sessions", text)
}

/// The digest of a conversation's id; of an empty id it is empty.
pub(super) fn conversation_digest(key: &ContentKey, text: &str) -> String {
    digest_or_empty(key, "conversation", text)
}

fn digest_or_empty(key: &ContentKey, column: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { key.digest(column, text) }
}

/// The clear part of a session that its row does not hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SessionContent {
    pub key: String,
    pub conversation: String,
    pub thread: Option<String>,
    pub peer: Option<String>,
}

/// A session's content with the digests that stand in its row.
pub(super) struct SealedSession {
    pub key: String,
    pub conversation: String,
    pub thread: Option<String>,
    pub peer: Option<String>,
    pub content: Vec<u8>,
}

impl SealedSession {
    /// # Errors
    /// As [`seal`].
    pub(super) fn new(key: &ContentKey, id: &str, content: &SessionContent) -> Result<Self, StoreError> {
        Ok(Self {
            key: session_digest(key, &content.key),
            conversation: conversation_digest(key, &content.conversation),
            thread: content.thread.as_deref().map(|thread| key.digest("thread", thread)),
            peer: content.peer.as_deref().map(|peer| key.digest("peer", peer)),
            content: seal_json(key, SESSIONS, id, content)?,
        })
    }
}

/// The clear part of a send that its row does not hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct SendContent {
    pub conversation: Option<String>,
    pub provider_message_id: Option<String>,
    pub answer: Json,
}

/// The clear part of a note about a conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PlaceContent {
    pub conversation: String,
    pub moved_to: Option<String>,
}

/// The row of a note, as it is named where its content is authenticated.
pub(super) fn place_id(installation: &InstallationId, digest: &str) -> String {
    format!("{installation}/{digest}")
}

/// The clear part of a handed-over conversation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct HandedContent {
    pub key: String,
    pub handed_key: String,
}

/// An event's content, opened.
pub(super) struct EventContent {
    pub provider_event_id: String,
    pub normal: Normal,
    pub raw: Vec<u8>,
}

/// Opens an event's content.
///
/// # Errors
/// [`StoreError::Corrupt`] when it does not open in this row.
pub(super) fn open_event(key: &ContentKey, id: &str, sealed: &[u8]) -> Result<EventContent, StoreError> {
    let plain = key.open(EVENTS, id, sealed).ok_or_else(|| shut(EVENTS, id))?;
    let odd = || StoreError::Corrupt(format!("{EVENTS}/{id}: the content cannot be read"));
    let [provider_event_id, normal, raw] = unpacked(&plain).ok_or_else(odd)?;
    Ok(EventContent {
        provider_event_id: std::str::from_utf8(provider_event_id).map_err(|_| odd())?.to_owned(),
        normal: serde_json::from_slice(normal).map_err(|_| odd())?,
        raw: raw.to_vec(),
    })
}

/// Parts one behind the other, each behind its length.
pub(super) fn packed(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        all.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

fn unpacked<const N: usize>(mut rest: &[u8]) -> Option<[&[u8]; N]> {
    let mut parts = [&[][..]; N];
    for part in &mut parts {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        (*part, rest) = behind.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    }
    rest.is_empty().then_some(parts)
}

/// The sealed part of a listed row: the name that it is authenticated with, the org whose key it is under, the content.
#[derive(Default)]
pub(super) struct Sealed {
    pub id: String,
    pub org: Option<String>,
    pub content: Option<Vec<u8>>,
}

/// A row of a listing with its content put in: the fields of the content where it opens, else their absence with the cause.
/// `event` is one event with what was read in it, `events` are without.
pub(super) fn shown(keys: &ContentKeys, kind: &str, mut row: Map<String, Json>, sealed: Sealed) -> Map<String, Json> {
    let Sealed { id, org, content } = sealed;
    let (table, fields): (&str, &[&str]) = match kind {
        "event" => (EVENTS, &["provider_event_id", "normal"]),
        "events" => (EVENTS, &["provider_event_id"]),
        "sessions" => (SESSIONS, &["key", "conversation", "thread", "peer"]),
        "sends" => (SENDS, &["conversation", "provider_message_id"]),
        "refusals" => (REFUSALS, &["excerpt"]),
        "decisions" => (VERDICTS, &["facts"]),
        _ => return row,
    };
    for field in fields {
        row.insert((*field).to_owned(), Json::Null);
    }
    let Some(sealed) = content else { return row };
    let id = id.as_str();
    let opened = keys.of(org.as_deref()).and_then(|key| {
        let plain = || key.open(table, id, &sealed);
        Some(match kind {
            "event" | "events" => {
                let EventContent { provider_event_id, normal: read, .. } = open_event(&key, id, &sealed).ok()?;
                let mut fields = Map::from_iter([("provider_event_id".to_owned(), Json::from(provider_event_id))]);
                if kind == "event" {
                    fields.insert("normal".into(), serde_json::to_value(read).ok()?);
                }
                fields
            }
            "refusals" => Map::from_iter([("excerpt".to_owned(), Json::from(String::from_utf8(plain()?).ok()?))]),
            "decisions" => Map::from_iter([("facts".to_owned(), serde_json::from_slice(&plain()?).ok()?)]),
            _ => {
                let mut fields: Map<String, Json> = serde_json::from_slice(&plain()?).ok()?;
                fields.remove("answer");
                fields
            }
        })
    });
    match opened {
        Some(fields) => row.extend(fields),
        None => drop(row.insert("unreadable".into(), Json::Bool(true))),
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_whole_or_not_at_all() {
        let all = packed(&[b"a", b"", b"bc"]);
        assert_eq!(unpacked::<3>(&all), Some([&b"a"[..], b"", b"bc"]));
        for torn in 0..all.len() {
            assert_eq!(unpacked::<3>(&all[..torn]), None);
        }
        assert_eq!(unpacked::<2>(&all), None);
    }
}
