//! Every statement that reads, once. Listings come as JSON: `*_ms` columns as RFC 3339 `*_at`, `*_json` columns as what
//! they hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Column, Row, SqlitePool, TypeInfo, ValueRef};

use super::content::{HANDED, HandedContent, SESSIONS, Sealed, SessionContent, conversation_digest, key_of, open_event, open_json, shown};
use super::directory::{Directory, HandedOver, Kept, Locator, SealedSecret};
use super::queries::Meta;
use super::writer::failed;
use super::{AgentScope, EventView, LegacyUse, ListFilter, Page, SessionView, StoreError};
use crate::crypto::content::ContentKeys;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, BindingId, DecisionId, DeliveryId, EventId, InstallationId, OrgId, ProfileId, SessionId};
use crate::domain::installation::{Agent, AppProfile, Binding, Installation, Org, ProviderKind};
use crate::domain::rollout::{Flag, RollbackMode, RolloutStage};
use crate::domain::route::Route;

fn damaged(what: &str, why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("{what}: {why}"))
}

/// Reads everything operators declared.
pub(super) async fn directory(pool: &SqlitePool, keys: &ContentKeys) -> Result<Directory, StoreError> {
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
    let rows = sqlx::query("SELECT key, agent, org, content FROM handed").fetch_all(&mut *tx).await.map_err(failed)?;
    for row in rows {
        let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
        // Before the keys are loaded, and after an org's was destroyed, its conversations cannot be told.
        let Some(key) = keys.of(Some(&get(2)?)) else { continue };
        let sealed: Vec<u8> = row.try_get(3).map_err(failed)?;
        let Ok(HandedContent { key, handed_key }) = open_json(&key, HANDED, &get(0)?, &sealed) else { continue };
        let agent = AgentId::parse(&get(1)?).map_err(|e| damaged("handed", e))?;
        all.handed.insert(key, HandedOver { agent, key: handed_key });
    }
    all.flags = flags(&mut tx).await?;
    all.index();
    Ok(all)
}

async fn flags(tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>) -> Result<BTreeMap<ProviderKind, Flag>, StoreError> {
    let rows = sqlx::query("SELECT name, enabled, stage, canary, percent, legacy_fallback, rollback_mode FROM flags")
        .fetch_all(&mut **tx)
        .await
        .map_err(failed)?;
    let mut global = Flag::default();
    let mut found = BTreeMap::new();
    for row in rows {
        let (name, on, stage, canary): (String, i64, String, String) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
            row.try_get(2).map_err(failed)?,
            row.try_get(3).map_err(failed)?,
        );
        let (percent, legacy, mode): (i64, i64, String) =
            (row.try_get(4).map_err(failed)?, row.try_get(5).map_err(failed)?, row.try_get(6).map_err(failed)?);
        if name == "global" {
            let rollback_mode = RollbackMode::parse(&mode).ok_or_else(|| damaged("flags", format!("unknown rollback mode `{mode}`")))?;
            global = Flag { enabled: on != 0, legacy_fallback: legacy != 0, rollback_mode, ..Flag::default() };
            continue;
        }
        let provider = ProviderKind::parse(&name).ok_or_else(|| damaged("flags", format!("unknown provider `{name}`")))?;
        let stage = RolloutStage::parse(&stage).ok_or_else(|| damaged("flags", format!("unknown stage `{stage}`")))?;
        let canary: Vec<OrgId> = serde_json::from_str(&canary).map_err(|e| damaged("flags", e))?;
        let percent = u8::try_from(percent).ok().filter(|p| *p <= 100).ok_or_else(|| damaged("flags", format!("{percent} percent")))?;
        found.insert(provider, Flag { stage, canary, percent, ..Flag::default() });
    }
    for flag in found.values_mut() {
        (flag.enabled, flag.legacy_fallback, flag.rollback_mode) = (global.enabled, global.legacy_fallback, global.rollback_mode);
        flag.canary.sort();
    }
    Ok(found)
}

/// An event with its content; `None` where there is no such event, or its body was removed.
pub(super) async fn event_view(pool: &SqlitePool, keys: &ContentKeys, event: &EventId) -> Result<Option<EventView>, StoreError> {
    let row = sqlx::query(
        "SELECT e.received_ms, e.org, e.installation, e.agent, e.session, e.meta_json, e.content, s.content \
         FROM events e JOIN sessions s ON s.id = e.session WHERE e.id = $1",
    )
    .bind(event.as_str())
    .fetch_optional(pool)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let Some(sealed) = row.try_get::<Option<Vec<u8>>, _>(6).map_err(failed)? else { return Ok(None) };
    let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    let meta = get(5)?;
    let meta: Meta<'_> = serde_json::from_str(&meta).map_err(|e| damaged("events", e))?;
    let (org, session) = (OrgId::parse(&get(1)?).map_err(|e| damaged("events", e))?, get(4)?);
    let key = key_of(keys, Some(&org))?;
    let content = open_event(&key, event.as_str(), &sealed)?;
    let sealed: Vec<u8> = row.try_get(7).map_err(failed)?;
    let session_content: SessionContent = open_json(&key, SESSIONS, &session, &sealed)?;
    Ok(Some(EventView {
        id: event.clone(),
        received: Timestamp::from_ms(row.try_get(0).map_err(failed)?),
        org,
        provider: meta.provider,
        mode: meta.mode.into_owned(),
        profile: ProfileId::parse(&meta.profile).map_err(|e| damaged("events", e))?,
        installation: InstallationId::parse(&get(2)?).map_err(|e| damaged("events", e))?,
        agent: AgentId::parse(&get(3)?).map_err(|e| damaged("events", e))?,
        session: SessionId::parse(&session).ok_or_else(|| damaged("events", "session id"))?,
        session_new: meta.session_new,
        cloud_type: meta.r#type.into_owned(),
        provider_event_id: content.provider_event_id,
        provider_event_type: meta.provider_event_type.into_owned(),
        normal: content.normal,
        raw: content.raw,
        media_type: meta.media_type.into_owned(),
        session_key: session_content.key,
    }))
}

pub(super) async fn legacy_uses(pool: &SqlitePool) -> Result<BTreeMap<BindingId, LegacyUse>, StoreError> {
    let rows = sqlx::query("SELECT binding, uses, last_ms FROM legacy_uses").fetch_all(pool).await.map_err(failed)?;
    let mut all = BTreeMap::new();
    for row in rows {
        let binding: String = row.try_get(0).map_err(failed)?;
        let last = Timestamp::from_ms(row.try_get(2).map_err(failed)?);
        let used = LegacyUse { count: row.try_get(1).map_err(failed)?, last };
        all.insert(BindingId::parse(&binding).map_err(|e| damaged("legacy_uses", e))?, used);
    }
    Ok(all)
}

/// One that has no route yet is not there for an agent: nothing can be answered through it.
pub(super) async fn session_of(
    pool: &SqlitePool,
    keys: &ContentKeys,
    scope: &impl AgentScope,
    id: &SessionId,
) -> Result<Option<SessionView>, StoreError> {
    let row = sqlx::query(
        "SELECT org, provider, installation, binding, legacy, status, content FROM sessions \
         WHERE id = $1 AND agent = $2 AND ($3 IS NULL OR org = $3) AND key <> ''",
    )
    .bind(id.as_str())
    .bind(scope.agent().as_str())
    .bind(scope.org().map(OrgId::as_str))
    .fetch_optional(pool)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    let binding: Option<String> = row.try_get(3).map_err(failed)?;
    let org = OrgId::parse(&get(0)?).map_err(|e| damaged("sessions", e))?;
    let sealed: Vec<u8> = row.try_get(6).map_err(failed)?;
    let content: SessionContent = open_json(&*key_of(keys, Some(&org))?, SESSIONS, id.as_str(), &sealed)?;
    Ok(Some(SessionView {
        id: id.clone(),
        key: content.key,
        route: Route {
            org,
            provider: ProviderKind::parse(&get(1)?).ok_or_else(|| damaged("sessions", "provider"))?,
            installation: InstallationId::parse(&get(2)?).map_err(|e| damaged("sessions", e))?,
            binding: binding.as_deref().map(BindingId::parse).transpose().map_err(|e| damaged("sessions", e))?,
            agent: scope.agent().clone(),
            legacy: row.try_get::<i64, _>(4).map_err(failed)? != 0,
        },
        conversation: content.conversation,
        thread: content.thread,
        status: get(5)?,
    }))
}

/// Whether there is one that belongs to another org. Nothing else of it is read.
pub(super) async fn is_anothers_session(pool: &SqlitePool, scope: &impl AgentScope, id: &SessionId) -> Result<bool, StoreError> {
    sqlx::query("SELECT 1 FROM sessions WHERE id = $1 AND ($2 IS NULL OR org <> $2)")
        .bind(id.as_str())
        .bind(scope.org().map(OrgId::as_str))
        .fetch_optional(pool)
        .await
        .map(|row| row.is_some())
        .map_err(failed)
}

/// The open session of an agent in a conversation, the one of the same thread before others.
pub(super) async fn session_at(
    pool: &SqlitePool,
    keys: &ContentKeys,
    scope: &impl AgentScope,
    installation: &Installation,
    conversation: &str,
    thread: Option<&str>,
) -> Result<Option<SessionId>, StoreError> {
    let key = key_of(keys, Some(&installation.org))?;
    let id: Option<String> = sqlx::query_scalar(
        "SELECT id FROM sessions WHERE status = 'active' AND conversation = $1 AND installation = $2 AND agent = $3 \
         ORDER BY thread IS $4 DESC, last_ms DESC LIMIT 1",
    )
    .bind(conversation_digest(&key, conversation))
    .bind(installation.id.as_str())
    .bind(scope.agent().as_str())
    .bind(thread.map(|thread| key.digest("thread", thread)))
    .fetch_optional(pool)
    .await
    .map_err(failed)?;
    id.map(|id| SessionId::parse(&id).ok_or_else(|| damaged("sessions", "id"))).transpose()
}

/// A dedupe row: key and installation.
pub(super) type DedupeKey = (String, String);

/// Walks the dedupe keys behind `after`, `limit` at a time: those that have expired, and where the walk stands. Read here, so
/// that the writer is given only what it must delete.
pub(super) async fn expired_dedupe(
    pool: &SqlitePool,
    after: &DedupeKey,
    now: Timestamp,
    limit: i64,
) -> Result<(Vec<DedupeKey>, Option<DedupeKey>), StoreError> {
    let rows = sqlx::query(
        "SELECT key, installation, expires_ms FROM dedupe WHERE (key, installation) > ($1, $2) ORDER BY key, installation LIMIT $3",
    )
    .bind(after.0.as_str())
    .bind(after.1.as_str())
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed)?;
    let mut expired = Vec::new();
    let mut last = None;
    for row in rows {
        let key: DedupeKey = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        if row.try_get::<i64, _>(2).map_err(failed)? <= now.ms() {
            expired.push(key.clone());
        }
        last = Some(key);
    }
    Ok((expired, last))
}

/// Settled sends behind the number `after`, from before `before`, whose keys are still theirs.
pub(super) async fn old_sends(pool: &SqlitePool, after: i64, before: Timestamp, limit: i64) -> Result<Vec<i64>, StoreError> {
    sqlx::query_scalar(
        "SELECT seq FROM sends WHERE seq > $1 AND state <> 'started' AND created_ms <= $2 AND key <> id ORDER BY seq LIMIT $3",
    )
    .bind(after)
    .bind(before.ms())
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed)
}

/// Whether the database answers.
pub(super) async fn ping(pool: &SqlitePool) -> Result<(), StoreError> {
    sqlx::query("SELECT 1").execute(pool).await.map(|_| ()).map_err(failed)
}

/// What a listing shows, from where, and which of its columns the filters mean: `(columns, from, id column, state column)`.
fn listing(kind: &str) -> Option<(&'static str, &'static str, &'static str, &'static str)> {
    Some(match kind {
        "events" => (
            "t.seq, t.id, t.received_ms, t.org, t.installation, t.agent, t.session, t.kind, t.body_removed_ms, t.body_removed_by, \
             t.meta_json, t.id AS sealed_id, t.org AS sealed_org, t.content",
            "events t",
            "t.id",
            "t.kind",
        ),
        "deliveries" => (
            "t.seq, 'dlv_' || t.seq AS id, t.event, t.org, t.agent, t.session, t.state, t.attempt, t.code, t.created_ms, t.due_ms, t.settled_ms",
            "deliveries t",
            "t.event",
            "t.state",
        ),
        "decisions" => (
            "t.seq, 'dec_' || t.seq AS id, t.at_ms, t.org, t.subject, v.action, v.principal, v.resource, v.allowed, v.code, \
             v.policies_json, v.version, v.digest AS sealed_id, v.org AS sealed_org, v.content",
            "decisions t JOIN verdicts v ON v.seq = t.verdict",
            "t.subject",
            "v.action",
        ),
        "audit" => (
            "t.seq, t.at_ms, t.actor, t.action, t.target, t.org, t.outcome, t.code, COALESCE(v.policies_json, '[]') AS policies_json, \
             v.version, t.request, t.detail_json",
            "audit t LEFT JOIN verdicts v ON v.seq = t.verdict",
            "t.target",
            "t.outcome",
        ),
        "refusals" => (
            "t.seq, t.at_ms, t.at_ms AS first_ms, t.last_ms, t.count, t.provider, t.profile, t.installation, t.org, t.code, \
             COALESCE(v.policies_json, '[]') AS policies_json, v.version, t.digest, t.request, t.request AS sealed_id, \
             t.org AS sealed_org, t.content",
            "refusals t LEFT JOIN verdicts v ON v.seq = t.verdict",
            "t.profile",
            "t.code",
        ),
        "sends" => (
            "t.seq, t.id, t.agent, t.state, t.status, t.org, t.installation, t.session, t.credential, t.owner, \
             t.fallback, t.code, t.created_ms, t.finished_ms, t.id AS sealed_id, t.org AS sealed_org, t.content",
            "sends t",
            "t.id",
            "t.state",
        ),
        "sessions" => (
            "t.rowid AS seq, t.id, t.org, t.provider, t.installation, t.agent, t.status, t.created_ms, t.last_ms, t.binding, t.legacy, \
             t.predecessor, t.successor, t.ended_ms, t.ended_by, t.id AS sealed_id, t.org AS sealed_org, t.content",
            "sessions t",
            "t.id",
            "t.status",
        ),
        _ => return None,
    })
}

pub(super) async fn list(pool: &SqlitePool, keys: &ContentKeys, kind: &str, filter: &ListFilter) -> Result<Option<Page>, StoreError> {
    let Some((columns, from, id, state)) = listing(kind) else { return Ok(None) };
    let sql = format!(
        "SELECT {columns} FROM {from} WHERE ($1 IS NULL OR t.org = $1) AND ($2 IS NULL OR {id} = $2) AND ($3 IS NULL OR {state} = $3) \
         AND ($4 IS NULL OR t.rowid < $4) ORDER BY t.rowid DESC LIMIT $5"
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
    Ok(Some(Page { items: rows.iter().map(|row| to_json(keys, kind, row)).collect::<Result<_, _>>()?, next }))
}

/// One row by its id; listings without ids have none. `dlv_` and `dec_` ids are their rows' numbers.
pub(super) async fn one(pool: &SqlitePool, keys: &ContentKeys, kind: &str, id: &str) -> Result<Option<Json>, StoreError> {
    let Some((columns, from, _, _)) = listing(kind) else { return Ok(None) };
    let number = match kind {
        "deliveries" => DeliveryId::parse(id).and_then(|id| id.number()),
        "decisions" => DecisionId::parse(id).and_then(|id| id.number()),
        "sends" | "sessions" | "events" => None,
        _ => return Ok(None),
    };
    let row = match (number, kind) {
        (Some(number), _) => {
            let sql = format!("SELECT {columns} FROM {from} WHERE t.seq = $1");
            sqlx::query(AssertSqlSafe(sql)).bind(number).fetch_optional(pool).await
        }
        (None, "deliveries" | "decisions") => return Ok(None),
        (None, _) => {
            let sql = format!("SELECT {columns} FROM {from} WHERE t.id = $1");
            sqlx::query(AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await
        }
    };
    row.map_err(failed)?.as_ref().map(|row| to_json(keys, kind, row)).transpose()
}

/// The name of a column in JSON.
fn shown_as(column: &str) -> String {
    match (column.strip_suffix("_ms"), column.strip_suffix("_json")) {
        (Some("at"), _) => "at".to_owned(),
        (Some(name), _) => format!("{name}_at"),
        (None, Some(name)) => name.to_owned(),
        (None, None) => column.to_owned(),
    }
}

/// A row as JSON: times as RFC 3339 under `*_at`, JSON columns as values, 0/1 flags as booleans, sealed content opened as the
/// fields of its kind.
fn to_json(keys: &ContentKeys, kind: &str, row: &SqliteRow) -> Result<Json, StoreError> {
    const FLAGS: [&str; 3] = ["allowed", "fallback", "legacy"];
    let mut object = Map::new();
    let mut sealed = Sealed::default();
    for (i, column) in row.columns().iter().enumerate() {
        let name = column.name();
        match name {
            "content" => sealed.content = row.try_get(i).map_err(failed)?,
            "sealed_id" => sealed.id = row.try_get(i).map_err(failed)?,
            "sealed_org" => sealed.org = row.try_get(i).map_err(failed)?,
            _ => {}
        }
        if ["content", "sealed_id", "sealed_org"].contains(&name) {
            continue;
        }
        let raw = row.try_get_raw(i).map_err(failed)?;
        let (null, integer) = (raw.is_null(), raw.type_info().name() == "INTEGER");
        let (name, value) = match name {
            "seq" => continue,
            _ if null => (shown_as(name), Json::Null),
            n if n == "took_ms" => (n.to_owned(), json!(row.try_get::<i64, _>(i).map_err(failed)?)),
            n if n.ends_with("_ms") => {
                let at = Timestamp::from_ms(row.try_get(i).map_err(failed)?);
                (shown_as(n), json!(at))
            }
            "meta_json" => {
                let text: String = row.try_get(i).map_err(failed)?;
                if let Ok(Json::Object(meta)) = serde_json::from_str(&text) {
                    object.extend(meta);
                }
                continue;
            }
            n if n.ends_with("_json") => {
                let text: String = row.try_get(i).map_err(failed)?;
                (shown_as(n), serde_json::from_str(&text).unwrap_or(Json::Null))
            }
            n if FLAGS.contains(&n) => (n.to_owned(), json!(row.try_get::<i64, _>(i).map_err(failed)? != 0)),
            n if integer => (n.to_owned(), json!(row.try_get::<i64, _>(i).map_err(failed)?)),
            n => (n.to_owned(), json!(row.try_get::<String, _>(i).map_err(failed)?)),
        };
        object.insert(name, value);
    }
    Ok(Json::Object(shown(keys, kind, object, sealed)))
}

async fn rows<'q>(
    (pool, keys): (&SqlitePool, &ContentKeys),
    kind: &str,
    sql: &'static str,
    key: impl sqlx::Encode<'q, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
) -> Result<Vec<Json>, StoreError> {
    sqlx::query(sql).bind(key).fetch_all(pool).await.map_err(failed)?.iter().map(|row| to_json(keys, kind, row)).collect()
}

pub(super) async fn journey(pool: &SqlitePool, keys: &ContentKeys, event: &EventId) -> Result<Option<Json>, StoreError> {
    let source = (pool, keys);
    let mut found = rows(
        source,
        "event",
        "SELECT id, received_ms, org, installation, agent, session, kind, body_removed_ms, body_removed_by, meta_json, \
         id AS sealed_id, org AS sealed_org, content FROM events WHERE id = $1",
        event.as_str(),
    )
    .await?;
    let Some(mut journey) = found.pop() else { return Ok(None) };
    let decisions = rows(
        source,
        "decisions",
        "SELECT 'dec_' || d.seq AS id, d.at_ms, v.action, v.principal, v.resource, v.allowed, v.code, v.policies_json, v.version, \
         v.digest AS sealed_id, v.org AS sealed_org, v.content \
         FROM events e JOIN decisions d ON d.seq >= e.decision_first AND d.seq < e.decision_first + e.decision_count \
         JOIN verdicts v ON v.seq = d.verdict WHERE e.id = $1 ORDER BY d.seq",
        event.as_str(),
    )
    .await?;
    let mut deliveries = rows(
        source,
        "deliveries",
        "SELECT 'dlv_' || d.seq AS id, d.agent, d.state, d.attempt, d.code, d.created_ms, d.due_ms, d.settled_ms \
         FROM events e JOIN deliveries d ON d.seq = e.seq WHERE e.id = $1",
        event.as_str(),
    )
    .await?;
    for delivery in &mut deliveries {
        let key = delivery["id"].as_str().and_then(DeliveryId::parse).and_then(|id| id.number());
        delivery["attempts"] = Json::Array(
            rows(source, "attempts", "SELECT number, at_ms, took_ms, status, code FROM attempts WHERE delivery = $1 ORDER BY number", key)
                .await?,
        );
    }
    let session = journey.get("session").and_then(Json::as_str).unwrap_or_default().to_owned();
    let sessions = rows(
        source,
        "sessions",
        "SELECT id, status, installation, agent, binding, legacy, created_ms, last_ms, predecessor, successor, ended_ms, ended_by, \
         id AS sealed_id, org AS sealed_org, content FROM sessions WHERE id = $1",
        session.as_str(),
    )
    .await?;
    let mut sends = rows(
        source,
        "sends",
        "SELECT id, agent, state, status, installation, credential, owner, fallback, code, created_ms, finished_ms, \
         id AS sealed_id, org AS sealed_org, content FROM sends WHERE session = $1 ORDER BY seq",
        session.as_str(),
    )
    .await?;
    for send in &mut sends {
        let key = send["id"].as_str().unwrap_or_default().to_owned();
        send["decisions"] = Json::Array(
            rows(
                source,
                "sent",
                "SELECT 'dec_' || d.seq AS id, v.action, v.principal, v.resource, v.allowed, v.code, v.policies_json, v.version \
                 FROM sends s JOIN decisions d ON d.seq >= s.decision_first AND d.seq < s.decision_first + s.decision_count \
                 JOIN verdicts v ON v.seq = d.verdict WHERE s.id = $1 ORDER BY d.seq",
                key.as_str(),
            )
            .await?,
        );
    }
    let object = journey.as_object_mut().ok_or_else(|| damaged("events", "row"))?;
    object.insert("decisions".into(), Json::Array(decisions));
    object.insert("session".into(), sessions.into_iter().next().unwrap_or(Json::Null));
    object.insert("deliveries".into(), Json::Array(deliveries));
    object.insert("sends".into(), Json::Array(sends));
    Ok(Some(journey))
}
