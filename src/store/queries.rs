//! Every statement that writes, once. Rows of one kind go in by many at a time: a statement costs a walk to SQLite's
//! thread and back.

mod declared;
mod deliveries;
mod flags;
mod lifecycle;
pub(super) mod purge;
mod refusals;
pub(super) mod retention;
mod sends;
mod sessions;

use std::borrow::Cow;
use std::collections::HashSet;

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Row, Sqlite, SqliteConnection};

use super::conn::Conn;
use super::content::{SealedEvent, SealedRefusal, VERDICTS, seal};
use super::writer::failed;
use super::{AcceptRequest, NewEvent, StoreError};
use crate::crypto::content::ContentKey;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{OrgId, SessionId};
use crate::domain::installation::ProviderKind;
use crate::domain::record::{AuditRecord, Decision, RefusalRecord};
use crate::domain::repeats::Repeats;

pub(super) use declared::{apply, learn_app};
pub(super) use deliveries::{halted, lease, open_deliveries, release, replay, settle};
pub(super) use flags::{change_flag, change_global, events_since, flags, keep_run, kept_run, kept_runs, last_run};
pub use lifecycle::Refreshed;
pub(super) use lifecycle::{refreshed, shift};
pub(super) use refusals::insert_refusals;
pub(super) use sends::{abandon_sends, begin_send, finish_send};
pub(super) use sessions::{
    Found, active_session, end, expire, follow, import, imported_session, insert_session, legacy_used, promote, touch_session, touched,
};

pub(super) const SEED_FLAG: &str = "INSERT INTO flags (name, enabled, stage, canary, reason, changed_by, changed_ms, staged_ms, version) \
     VALUES ($1, $2, $3, '[]', 'seeded from rollout.initial', 'gateway', $4, $4, 1) ON CONFLICT DO NOTHING";

pub(super) struct EventRow<'a> {
    pub request: &'a AcceptRequest,
    pub event: &'a NewEvent,
    pub sealed: &'a SealedEvent,
    pub session: SessionId,
    pub session_new: bool,
    /// The number of its first decision; the others follow it.
    pub decision_first: i64,
    /// The last decision's verdict.
    pub verdict: Option<i64>,
}

pub(super) struct DecisionRow<'a> {
    pub at: Timestamp,
    pub org: Option<&'a OrgId>,
    pub subject: &'a str,
    pub verdict: i64,
}

pub(super) struct AuditRow<'a> {
    pub record: &'a AuditRecord,
    pub verdict: Option<i64>,
}

pub(super) struct RefusalRow<'a> {
    pub record: &'a RefusalRecord,
    pub sealed: &'a SealedRefusal,
    /// One for each of its decisions.
    pub verdicts: Vec<i64>,
}

type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Rows per statement at most. Each smaller number is a statement of its own, prepared once and kept: with the size of a
/// batch rather than with the sizes of its parts, a table costs one walk to SQLite's thread.
const ROWS_MAX: usize = 64;

/// `head` with `columns` placeholders for each of `rows` rows. Nameless ones: SQLite looks a numbered one up among all others.
fn many(head: &str, columns: usize, rows: usize, tail: &str) -> String {
    let mut sql = String::with_capacity(head.len() + rows * (columns * 2 + 3) + tail.len());
    sql.push_str(head);
    for row in 0..rows {
        sql.push_str(if row == 0 { " (" } else { ",(" });
        for column in 0..columns {
            sql.push_str(if column == 0 { "?" } else { ",?" });
        }
        sql.push(')');
    }
    sql.push_str(tail);
    sql
}

/// Inserts rows; the number of the first of them.
async fn insert<'a, T>(
    conn: &mut Conn,
    head: &str,
    columns: usize,
    rows: &'a [T],
    bind: impl for<'q> Fn(Bound<'q>, &'a T) -> Bound<'q>,
) -> Result<i64, StoreError> {
    let mut last = 0;
    for chunk in rows.chunks(ROWS_MAX) {
        let sql = many(head, columns, chunk.len(), "");
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
        last = query.execute(&mut **conn).await.map_err(failed)?.last_insert_rowid();
    }
    // The first row's number: the one writer numbers rows without gaps.
    Ok(last - i64::try_from(rows.len()).unwrap_or(0) + 1)
}

pub(super) async fn run(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(conn).await.map(|_| ()).map_err(failed)
}

/// Inserts the dedupe keys; the events whose keys were new.
pub(super) async fn insert_dedupe(
    conn: &mut Conn,
    events: &[(&AcceptRequest, &NewEvent, &SealedEvent)],
) -> Result<HashSet<String>, StoreError> {
    const HEAD: &str = "INSERT INTO dedupe (key, installation, event, expires_ms) VALUES";
    let mut fresh = HashSet::with_capacity(events.len());
    for chunk in events.chunks(ROWS_MAX) {
        let sql = many(HEAD, 4, chunk.len(), " ON CONFLICT DO NOTHING RETURNING event");
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), |q, (_, e, sealed)| {
            let installation = if stands(Guard::DedupeOfInstallation) { e.route.installation.as_str() } else { "" };
            q.bind(tail_first(&sealed.dedupe)).bind(installation).bind(e.id.as_str()).bind(e.dedupe_until.ms())
        });
        for row in query.fetch_all(&mut **conn).await.map_err(failed)? {
            fresh.insert(row.try_get(0).map_err(failed)?);
        }
    }
    if !stands(Guard::DedupeKey) {
        fresh.extend(events.iter().map(|(_, e, _)| e.id.to_string()));
    }
    Ok(fresh)
}

/// A dedupe key with its parts turned round: the provider's own id, which grows, before the account, which does not.
pub(super) fn tail_first(key: &str) -> String {
    let mut turned = String::with_capacity(key.len());
    for part in key.rsplit(':') {
        if !turned.is_empty() {
            turned.push(':');
        }
        turned.push_str(part);
    }
    turned
}

/// Replaces the dedupe key of an event by its digest, where the provider's ids hold ids of persons.
pub(super) async fn redigest_dedupe(
    conn: &mut Conn,
    event: &str,
    key: &ContentKey,
    is_personal: fn(ProviderKind) -> bool,
) -> Result<(), StoreError> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "SELECT d.key, d.installation, json_extract(e.meta_json, '$.provider') FROM dedupe d JOIN events e ON e.id = d.event WHERE d.event = $1",
    )
    .bind(event)
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    for (old, installation, provider) in rows {
        if ProviderKind::parse(&provider).is_some_and(is_personal) {
            sqlx::query("UPDATE OR REPLACE dedupe SET key = $1 WHERE key = $2 AND installation = $3")
                .bind(key.digest("dedupe", &tail_first(&old)))
                .bind(old)
                .bind(installation)
                .execute(&mut **conn)
                .await
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// What an event's row knows beside its columns.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Meta<'a> {
    pub provider: ProviderKind,
    #[serde(borrow)]
    pub mode: Cow<'a, str>,
    pub profile: Cow<'a, str>,
    pub binding: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
    pub r#type: Cow<'a, str>,
    pub provider_event_type: Cow<'a, str>,
    pub principal: Cow<'a, str>,
    pub verified_with: Cow<'a, str>,
    pub media_type: Cow<'a, str>,
    pub session_new: bool,
    pub request: Cow<'a, str>,
}

/// Inserts events; the number of the first of them.
pub(super) async fn insert_events(conn: &mut Conn, rows: &[EventRow<'_>]) -> Result<i64, StoreError> {
    const HEAD: &str = "INSERT INTO events (id, received_ms, org, installation, agent, session, kind, decision_first, \
         decision_count, meta_json, content) VALUES";
    insert(conn, HEAD, 11, rows, |q, r| {
        let e = r.event;
        let meta = Meta {
            provider: e.route.provider,
            mode: e.mode.as_str().into(),
            profile: e.profile.as_str().into(),
            binding: e.route.binding.as_ref().map_or("", |b| b.as_str()).into(),
            legacy: e.route.legacy,
            r#type: e.kind.cloud_type().into(),
            provider_event_type: e.provider_event_type.as_str().into(),
            principal: e.principal.as_str().into(),
            verified_with: e.verified_with.into(),
            media_type: e.media_type.into(),
            session_new: r.session_new,
            request: r.request.request.as_str().into(),
        };
        q.bind(e.id.as_str())
            .bind(r.request.received.ms())
            .bind(e.route.org.as_str())
            .bind(e.route.installation.as_str())
            .bind(e.route.agent.as_str())
            .bind(r.session.as_str())
            .bind(e.kind.as_str())
            .bind(r.decision_first)
            .bind(i64::try_from(e.decisions.len()).unwrap_or(0))
            .bind(serde_json::to_string(&meta).unwrap_or_default())
            .bind(r.sealed.content.as_slice())
    })
    .await
}

/// One delivery an event, under the event's number.
pub(super) async fn insert_deliveries(conn: &mut Conn, rows: &[EventRow<'_>], first: i64) -> Result<(), StoreError> {
    const HEAD: &str = "INSERT INTO deliveries (seq, event, org, agent, session, created_ms, due_ms) VALUES";
    let numbered: Vec<(i64, &EventRow<'_>)> = (first..).zip(rows).collect();
    insert(conn, HEAD, 7, &numbered, |q, (seq, r)| {
        let e = r.event;
        q.bind(*seq)
            .bind(e.id.as_str())
            .bind(e.route.org.as_str())
            .bind(e.route.agent.as_str())
            .bind(r.session.as_str())
            .bind(r.request.received.ms())
            .bind(r.request.received.ms())
    })
    .await
    .map(|_| ())
}

fn policies_json(policies: &[String]) -> String {
    serde_json::to_string(policies).unwrap_or_default()
}

/// When a question was last asked is written again only when it is this much later: its retention is days.
pub(super) const ASKED_GRAIN_MS: i64 = 86_400_000;

/// The number of a question and its answer, kept once for each org.
pub(super) async fn verdict(conn: &mut Conn, org: Option<&OrgId>, d: &Decision, at: Timestamp) -> Result<i64, StoreError> {
    let (policies, code) = (policies_json(&d.policies), d.code.map(|c| c.as_str()));
    let whole =
        [d.action, &d.principal, &d.resource, &d.facts, if d.allowed { "1" } else { "0" }, code.unwrap_or(""), &policies, &d.version];
    // What a shredded org is refused is kept without its facts.
    let own = conn.key(org);
    let key = own.clone().or_else(|_| conn.key(None))?;
    let digest = key.digest(VERDICTS, &whole.join("\0"));
    let content = own.ok().map(|key| seal(&key, VERDICTS, &digest, d.facts.as_bytes())).transpose()?;
    sqlx::query(
        "INSERT INTO verdicts (digest, action, principal, resource, org, allowed, code, policies_json, version, content, last_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (digest) DO UPDATE SET last_ms = excluded.last_ms WHERE excluded.last_ms >= verdicts.last_ms + $12",
    )
    .bind(digest.as_str())
    .bind(d.action)
    .bind(d.principal.as_str())
    .bind(d.resource.as_str())
    .bind(org.map(OrgId::as_str))
    .bind(i64::from(d.allowed))
    .bind(code)
    .bind(policies)
    .bind(&*d.version)
    .bind(content)
    .bind(at.ms())
    .bind(ASKED_GRAIN_MS)
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    sqlx::query_scalar("SELECT seq FROM verdicts WHERE digest = $1").bind(digest).fetch_one(&mut **conn).await.map_err(failed)
}

/// Inserts decisions; the number of the first of them.
pub(super) async fn insert_decisions(conn: &mut Conn, rows: &[DecisionRow<'_>]) -> Result<i64, StoreError> {
    const HEAD: &str = "INSERT INTO decisions (at_ms, org, subject, verdict) VALUES";
    insert(conn, HEAD, 4, rows, |q, r| q.bind(r.at.ms()).bind(r.org.map(OrgId::as_str)).bind(r.subject).bind(r.verdict)).await
}

pub(super) async fn insert_audit(conn: &mut Conn, rows: &[AuditRow<'_>]) -> Result<(), StoreError> {
    const HEAD: &str = "INSERT INTO audit (at_ms, actor, action, target, org, outcome, code, verdict, request, detail_json) VALUES";
    insert(conn, HEAD, 10, rows, |q, AuditRow { record: r, verdict }| {
        q.bind(r.at.ms())
            .bind(r.actor.as_str())
            .bind(r.action)
            .bind(r.target.as_str())
            .bind(r.org.as_ref().map(OrgId::as_str))
            .bind(r.outcome)
            .bind(r.code.map(|c| c.as_str()))
            .bind(*verdict)
            .bind(r.request.as_ref().map(|r| r.as_str()))
            .bind(r.detail.as_deref())
    })
    .await
    .map(|_| ())
}

/// The audit lines of accepted events, straight from their rows.
pub(super) async fn insert_accepted(conn: &mut Conn, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
    const HEAD: &str = "INSERT INTO audit (at_ms, actor, action, target, org, outcome, verdict, request) VALUES";
    insert(conn, HEAD, 8, rows, |q, r| {
        let e = r.event;
        q.bind(r.request.received.ms())
            .bind(format!("profile:{}", e.profile))
            .bind("event.accept")
            .bind(e.id.as_str())
            .bind(e.route.org.as_str())
            .bind("done")
            .bind(r.verdict)
            .bind(r.request.request.as_str())
    })
    .await
    .map(|_| ())
}

/// Writes audit lines with what the policies said.
pub(super) async fn audit(conn: &mut Conn, records: &[AuditRecord]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let verdict = match &record.decision {
            Some(decision) => Some(verdict(conn, record.org.as_ref(), decision, record.at).await?),
            None => None,
        };
        rows.push(AuditRow { record, verdict });
    }
    match insert_audit(conn, &rows).await {
        Err(StoreError::Unavailable(why)) if stands(Guard::AuditedOrNothing) => Err(StoreError::Unaudited(why)),
        Err(StoreError::Unavailable(_)) => Ok(()),
        done => done,
    }
}

/// Writes audit lines, except refusals that repeat: those are counted.
pub(super) async fn audit_heard(conn: &mut Conn, repeats: &Repeats, records: &[AuditRecord]) -> Result<(), StoreError> {
    let (mut from, mut written) = (0, Ok(()));
    // Slices of neighbours, so that no line is copied.
    for (at, record) in records.iter().enumerate() {
        if !repeats.hear(record) {
            written = written.and(audit(conn, records.get(from..at).unwrap_or_default()).await);
            from = at + 1;
        }
    }
    written.and(audit(conn, records.get(from..).unwrap_or_default()).await)
}

/// Forgets dedupe keys.
pub(super) async fn forget_dedupe(conn: &mut Conn, keys: &[(String, String)]) -> Result<u64, StoreError> {
    sqlx::query(
        "DELETE FROM dedupe WHERE (key, installation) IN \
         (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each($1))",
    )
    .bind(serde_json::to_string(keys).unwrap_or_default())
    .execute(&mut **conn)
    .await
    .map(|r| r.rows_affected())
    .map_err(failed)
}

/// Frees idempotency keys; what was sent stays on record.
pub(super) async fn free_keys(conn: &mut Conn, seqs: &[i64]) -> Result<u64, StoreError> {
    sqlx::query("UPDATE sends SET key = id WHERE seq IN (SELECT value FROM json_each($1))")
        .bind(serde_json::to_string(seqs).unwrap_or_default())
        .execute(&mut **conn)
        .await
        .map(|r| r.rows_affected())
        .map_err(failed)
}
