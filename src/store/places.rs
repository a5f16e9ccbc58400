//! Statements that read notes about conversations: blocked, left, moved. Part of `store`, floor 2.

use serde_json::{Value as Json, json};
use sqlx::SqlitePool;

use super::StoreError;
use super::content::{PLACES, PlaceContent, conversation_digest, key_of, open_json, place_id};
use super::writer::failed;
use crate::crypto::content::ContentKeys;
use crate::domain::clock::Timestamp;
use crate::domain::installation::Installation;
use crate::domain::lifecycle::Place;

/// The state of a conversation; a conversation that nothing is known of is open.
pub(super) async fn place(
    pool: &SqlitePool,
    keys: &ContentKeys,
    installation: &Installation,
    conversation: &str,
) -> Result<Place, StoreError> {
    let key = key_of(keys, Some(&installation.org))?;
    let digest = conversation_digest(&key, conversation);
    let row: Option<(String, Vec<u8>)> = sqlx::query_as("SELECT state, content FROM places WHERE installation = $1 AND conversation = $2")
        .bind(installation.id.as_str())
        .bind(digest.as_str())
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    let Some((state, sealed)) = row else { return Ok(Place::Open) };
    let content = || open_json::<PlaceContent>(&key, PLACES, &place_id(&installation.id, &digest), &sealed);
    match state.as_str() {
        "open" => Ok(Place::Open),
        "blocked" => Ok(Place::Blocked),
        "left" => Ok(Place::Left),
        "moved" => content()?.moved_to.map(|to| Place::Moved { to }).ok_or_else(|| StoreError::Corrupt("places: moved to nowhere".into())),
        _ => Err(StoreError::Corrupt(format!("places: unknown state `{state}`"))),
    }
}

/// Places that are listed of one installation.
const PLACES_SHOWN_MAX: i64 = 100;

pub(super) async fn parked(pool: &SqlitePool, keys: &ContentKeys, installation: &Installation) -> Result<(i64, Vec<Json>), StoreError> {
    let waiting: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM deliveries d INDEXED BY deliveries_open JOIN events e ON e.seq = d.seq \
         WHERE d.settled_ms IS NULL AND e.installation = $1",
    )
    .bind(installation.id.as_str())
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    let places: Vec<(String, String, i64, Vec<u8>)> = sqlx::query_as(
        "SELECT conversation, state, at_ms, content FROM places WHERE installation = $1 AND state != 'open' ORDER BY conversation LIMIT $2",
    )
    .bind(installation.id.as_str())
    .bind(PLACES_SHOWN_MAX)
    .fetch_all(pool)
    .await
    .map_err(failed)?;
    let key = keys.of(Some(installation.org.as_str()));
    let shown = |(digest, state, at, sealed): (String, String, i64, Vec<u8>)| {
        let opened = key.as_ref().and_then(|key| open_json(key, PLACES, &place_id(&installation.id, &digest), &sealed).ok());
        let (conversation, to) = opened.map_or((None, None), |place: PlaceContent| (Some(place.conversation), place.moved_to));
        json!({"conversation": conversation, "state": state, "moved_to": to, "since": Timestamp::from_ms(at)})
    };
    let mut shown: Vec<Json> = places.into_iter().map(shown).collect();
    // Rows are in the order of digests, which is nobody's order.
    shown.sort_by(|a, b| a.get("conversation").and_then(Json::as_str).cmp(&b.get("conversation").and_then(Json::as_str)));
    Ok((waiting, shown))
}
