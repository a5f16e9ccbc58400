//! Every statement that reads, once. Listings come as JSON: `*_ms` columns as RFC 3339 `*_at`, `*_json` columns as what
//! they hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Column, Row, SqlitePool, TypeInfo, ValueRef};

use super::directory::{Directory, Kept, Locator, SealedSecret};
use super::writer::failed;
use super::{EventView, ListFilter, Page, SessionView, StoreError};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, EventId, InstallationId, OrgId, ProfileId, SessionId};
use crate::domain::installation::{Agent, AppProfile, Binding, Installation, Org, ProviderKind};
use crate::domain::rollout::{Flag, RolloutStage};

fn damaged(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {why}"))
}

/// Reads everything operators declared.
pub(super) async fn directory(pool: &SqlitePool) -> Result<Directory, StoreError> {
    // One read transaction: rows of one change are seen together or not at all.
    let mut tx = pool.begin().await.map_err(failed)?;
    let mut sealed: BTreeMap<(String, String), Vec<SealedSecret>> = BTreeMap::new();
    let rows = sqlx::query("SELECT kind, owner, id, field, slot, sealed, fingerprint, set_ms, until_ms FROM secrets")
        .fetch_all(&mut *tx)
        .await
        .map_err(failed)?;
    for row in rows {
        let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
        sealed.entry((get(0)?, get(1)?)).or_default().push(SealedSecret {
            id: get(2)?,
            field: get(3)?,
            slot: get(4)?,
            sealed: row.try_get(5).map_err(failed)?,
            fingerprint: get(6)?,
            set: Timestamp::from_ms(row.try_get(7).map_err(failed)?),
            until: row.try_get::<Option<i64>, _>(8).map_err(failed)?.map(Timestamp::from_ms),
        });
    }
    let mut all = Directory::default();
    let rows = sqlx::query("SELECT kind, id, body, updated_ms FROM resources").fetch_all(&mut *tx).await.map_err(failed)?;
    for row in rows {
        let (kind, id, body): (String, String, String) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        let updated = Timestamp::from_ms(row.try_get(3).map_err(failed)?);
        let secrets = sealed.remove(&(kind.clone(), id.clone())).unwrap_or_default();
        macro_rules! keep {
            ($map:ident: $of:ty) => {{
                let item: $of = serde_json::from_str(&body).map_err(|e| damaged(&format!("{kind}/{id}"), e))?;
                let kept = Kept { item, secrets, updated };
                all.$map.insert(kept.item.id.clone(), Arc::new(kept));
            }};
        }
        match kind.as_str() {
            "orgs" => keep!(orgs: Org),
            "profiles" => keep!(profiles: AppProfile),
            "installations" => keep!(installations: Installation),
            "agents" => keep!(agents: Agent),
            "bindings" => keep!(bindings: Binding),
            _ => return Err(damaged("resources", format!("unknown kind `{kind}`"))),
        }
    }
    let rows = sqlx::query("SELECT ingress_id, profile, removed_ms FROM ingress_ids").fetch_all(&mut *tx).await.map_err(failed)?;
    for row in rows {
        let (ingress_id, profile): (String, String) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        let removed: Option<i64> = row.try_get(2).map_err(failed)?;
        let id = ProfileId::parse(&profile).map_err(|e| damaged("ingress_ids", e))?;
        let locator = match (removed, all.profiles.get(&id)) {
            (None, Some(profile)) => Locator::Profile(profile.clone()),
            _ => Locator::Gone(id),
        };
        all.ingress.insert(ingress_id, locator);
    }
    all.flags = flags(&mut tx).await?;
    all.index();
    Ok(all)
}

async fn flags(tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>) -> Result<BTreeMap<ProviderKind, Flag>, StoreError> {
    let rows = sqlx::query("SELECT name, enabled, stage, canary FROM flags").fetch_all(&mut **tx).await.map_err(failed)?;
    let mut enabled = false;
    let mut found = BTreeMap::new();
    for row in rows {
        let (name, on, stage, canary): (String, i64, String, String) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
            row.try_get(2).map_err(failed)?,
            row.try_get(3).map_err(failed)?,
        );
        if name == "global" {
            enabled = on != 0;
            continue;
        }
        let provider = ProviderKind::parse(&name).ok_or_else(|| damaged("flags", format!("unknown provider `{name}`")))?;
        let stage = RolloutStage::parse(&stage).ok_or_else(|| damaged("flags", format!("unknown stage `{stage}`")))?;
        let canary: Vec<OrgId> = serde_json::from_str(&canary).map_err(|e| damaged("flags", e))?;
        found.insert(provider, Flag { enabled: true, stage, canary });
    }
    for flag in found.values_mut() {
        flag.enabled = enabled;
        flag.canary.sort();
    }
    Ok(found)
}

pub(super) async fn event_view(pool: &SqlitePool, event: &EventId) -> Result<Option<EventView>, StoreError> {
    let row = sqlx::query(
        "SELECT e.received_ms, e.org, e.provider, e.mode, e.profile, e.installation, e.agent, e.session, e.session_new, e.type, \
         e.provider_event_id, e.provider_event_type, e.normal_json, e.raw, e.media_type, s.key \
         FROM events e JOIN sessions s ON s.id = e.session WHERE e.id = $1",
    )
    .bind(event.as_str())
    .fetch_optional(pool)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    let provider = get(2)?;
    Ok(Some(EventView {
        id: event.clone(),
        received: Timestamp::from_ms(row.try_get(0).map_err(failed)?),
        org: OrgId::parse(&get(1)?).map_err(|e| damaged("events", e))?,
        provider: ProviderKind::parse(&provider).ok_or_else(|| damaged("events", provider))?,
        mode: get(3)?,
        profile: ProfileId::parse(&get(4)?).map_err(|e| damaged("events", e))?,
        installation: InstallationId::parse(&get(5)?).map_err(|e| damaged("events", e))?,
        agent: AgentId::parse(&get(6)?).map_err(|e| damaged("events", e))?,
        session: SessionId::parse(&get(7)?).ok_or_else(|| damaged("events", "session id"))?,
        session_new: row.try_get::<i64, _>(8).map_err(failed)? != 0,
        cloud_type: get(9)?,
        provider_event_id: get(10)?,
        provider_event_type: get(11)?,
        normal: serde_json::from_str(&get(12)?).map_err(|e| damaged("events", e))?,
        raw: row.try_get(13).map_err(failed)?,
        media_type: get(14)?,
        session_key: get(15)?,
    }))
}

pub(super) async fn session_of(pool: &SqlitePool, agent: &AgentId, id: &SessionId) -> Result<Option<SessionView>, StoreError> {
    let row = sqlx::query("SELECT org, installation, conversation, thread, status FROM sessions WHERE id = $1 AND agent = $2")
        .bind(id.as_str())
        .bind(agent.as_str())
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    Ok(Some(SessionView {
        id: id.clone(),
        org: OrgId::parse(&get(0)?).map_err(|e| damaged("sessions", e))?,
        installation: InstallationId::parse(&get(1)?).map_err(|e| damaged("sessions", e))?,
        agent: agent.clone(),
        conversation: get(2)?,
        thread: row.try_get(3).map_err(failed)?,
        status: get(4)?,
    }))
}

pub(super) async fn next_due(pool: &SqlitePool, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let due: Option<i64> = sqlx::query_scalar(
        "SELECT MIN(at) FROM (SELECT MAX(due_ms, COALESCE(lease_until_ms, 0)) AS at FROM deliveries INDEXED BY deliveries_open \
         WHERE settled_ms IS NULL) WHERE at > $1",
    )
    .bind(now.ms())
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    Ok(due.map(Timestamp::from_ms))
}

pub(super) async fn queue_depth(pool: &SqlitePool) -> Result<i64, StoreError> {
    sqlx::query_scalar("SELECT COUNT(*) FROM deliveries INDEXED BY deliveries_open WHERE settled_ms IS NULL")
        .fetch_one(pool)
        .await
        .map_err(failed)
}

/// Columns a listing shows, and which of them its filters mean: `(columns, id column, state column)`.
fn listing(kind: &str) -> Option<(&'static str, &'static str, &'static str, &'static str)> {
    Some(match kind {
        "events" => (
            "seq, id, received_ms, org, provider, mode, profile, installation, agent, binding, session, kind, type, provider_event_id, \
             provider_event_type, principal, verified_with, request",
            "events",
            "id",
            "kind",
        ),
        "deliveries" => {
            ("seq, id, event, org, agent, session, state, attempt, code, created_ms, due_ms, settled_ms", "deliveries", "event", "state")
        }
        "decisions" => (
            "seq, id, at_ms, org, subject, action, principal, resource, facts_json, allowed, code, policies_json, version, request",
            "decisions",
            "subject",
            "action",
        ),
        "audit" => (
            "seq, at_ms, actor, action, target, org, outcome, code, policies_json, version, request, detail_json",
            "audit",
            "target",
            "outcome",
        ),
        "refusals" => (
            "seq, at_ms, provider, profile, installation, org, code, policies_json, version, digest, excerpt, request",
            "refusals",
            "profile",
            "code",
        ),
        "sends" => (
            "seq, id, agent, state, status, org, installation, session, conversation, credential, owner, fallback, \
             provider_message_id, code, decision, created_ms, finished_ms",
            "sends",
            "id",
            "state",
        ),
        "sessions" => (
            "rowid AS seq, id, key, org, provider, installation, agent, conversation, thread, peer, status, created_ms, last_ms, predecessor",
            "sessions",
            "id",
            "status",
        ),
        _ => return None,
    })
}

pub(super) async fn list(pool: &SqlitePool, kind: &str, filter: &ListFilter) -> Result<Option<Page>, StoreError> {
    let Some((columns, table, id, state)) = listing(kind) else { return Ok(None) };
    let seq = if table == "sessions" { "rowid" } else { "seq" };
    let sql = format!(
        "SELECT {columns} FROM {table} WHERE ($1 IS NULL OR org = $1) AND ($2 IS NULL OR {id} = $2) AND ($3 IS NULL OR {state} = $3) \
         AND ($4 IS NULL OR {seq} < $4) ORDER BY {seq} DESC LIMIT $5"
    );
    let limit = filter.limit.clamp(1, 1000);
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(filter.org.as_deref())
        .bind(filter.id.as_deref())
        .bind(filter.state.as_deref())
        .bind(filter.before)
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    let full = i64::try_from(rows.len()).is_ok_and(|n| n == limit);
    let next = match rows.last() {
        Some(row) if full => Some(row.try_get::<i64, _>("seq").map_err(failed)?.to_string()),
        _ => None,
    };
    Ok(Some(Page { items: rows.iter().map(to_json).collect::<Result<_, _>>()?, next }))
}

/// One row by its id; listings without ids have none.
pub(super) async fn one(pool: &SqlitePool, kind: &str, id: &str) -> Result<Option<Json>, StoreError> {
    let Some((columns, table, _, _)) = listing(kind).filter(|(columns, ..)| columns.contains("seq, id,")) else { return Ok(None) };
    let sql = format!("SELECT {columns} FROM {table} WHERE id = $1");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await.map_err(failed)?;
    row.as_ref().map(to_json).transpose()
}

/// A row as JSON: times as RFC 3339 under `*_at`, JSON columns as values, 0/1 flags as booleans.
fn to_json(row: &SqliteRow) -> Result<Json, StoreError> {
    const FLAGS: [&str; 3] = ["allowed", "fallback", "session_new"];
    let mut object = Map::new();
    for (i, column) in row.columns().iter().enumerate() {
        let name = column.name();
        let raw = row.try_get_raw(i).map_err(failed)?;
        let (null, integer) = (raw.is_null(), raw.type_info().name() == "INTEGER");
        let (name, value) = match name {
            "seq" => continue,
            _ if null => {
                (name.strip_suffix("_ms").map_or_else(|| name.trim_end_matches("_json").to_owned(), |n| format!("{n}_at")), Json::Null)
            }
            n if n == "took_ms" => (n.to_owned(), json!(row.try_get::<i64, _>(i).map_err(failed)?)),
            n if n.ends_with("_ms") => {
                let at = Timestamp::from_ms(row.try_get(i).map_err(failed)?);
                (format!("{}_at", n.trim_end_matches("_ms")), json!(at))
            }
            n if n.ends_with("_json") => {
                let text: String = row.try_get(i).map_err(failed)?;
                (n.trim_end_matches("_json").to_owned(), serde_json::from_str(&text).unwrap_or(Json::Null))
            }
            n if FLAGS.contains(&n) => (n.to_owned(), json!(row.try_get::<i64, _>(i).map_err(failed)? != 0)),
            n if integer => (n.to_owned(), json!(row.try_get::<i64, _>(i).map_err(failed)?)),
            n => (n.to_owned(), json!(row.try_get::<String, _>(i).map_err(failed)?)),
        };
        object.insert(name, value);
    }
    Ok(Json::Object(object))
}

async fn rows(pool: &SqlitePool, sql: &'static str, key: &str) -> Result<Vec<Json>, StoreError> {
    sqlx::query(sql).bind(key.to_owned()).fetch_all(pool).await.map_err(failed)?.iter().map(to_json).collect()
}

pub(super) async fn journey(pool: &SqlitePool, event: &EventId) -> Result<Option<Json>, StoreError> {
    let id = event.as_str();
    let mut found = rows(
        pool,
        "SELECT id, received_ms, org, provider, mode, profile, installation, agent, binding, session, session_new, kind, type, \
         provider_event_id, provider_event_type, principal, verified_with, normal_json, media_type, request FROM events WHERE id = $1",
        id,
    )
    .await?;
    let Some(mut journey) = found.pop() else { return Ok(None) };
    let decisions = rows(
        pool,
        "SELECT id, at_ms, action, principal, resource, facts_json, allowed, code, policies_json, version FROM decisions WHERE subject = $1 ORDER BY seq",
        id,
    )
    .await?;
    let mut deliveries = rows(
        pool,
        "SELECT id, agent, state, attempt, code, created_ms, due_ms, settled_ms FROM deliveries WHERE event = $1 ORDER BY seq",
        id,
    )
    .await?;
    for delivery in &mut deliveries {
        let key = delivery["id"].as_str().unwrap_or_default().to_owned();
        delivery["attempts"] = Json::Array(
            rows(pool, "SELECT number, at_ms, took_ms, status, code FROM attempts WHERE delivery = $1 ORDER BY number", &key).await?,
        );
    }
    let session = journey["session"].as_str().unwrap_or_default().to_owned();
    let sessions = rows(
        pool,
        "SELECT id, key, status, conversation, thread, peer, created_ms, last_ms, predecessor FROM sessions WHERE id = $1",
        &session,
    )
    .await?;
    let sends = rows(
        pool,
        "SELECT id, agent, state, status, installation, conversation, credential, owner, fallback, provider_message_id, code, decision, \
         created_ms, finished_ms FROM sends WHERE session = $1 ORDER BY seq",
        &session,
    )
    .await?;
    let object = journey.as_object_mut().ok_or_else(|| damaged("events", "row"))?;
    object.insert("decisions".into(), Json::Array(decisions));
    object.insert("session".into(), sessions.into_iter().next().unwrap_or(Json::Null));
    object.insert("deliveries".into(), Json::Array(deliveries));
    object.insert("sends".into(), Json::Array(sends));
    Ok(Some(journey))
}
