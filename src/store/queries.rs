//! Every statement that writes, once. Rows of one kind go in by many at a time: a statement costs a walk to SQLite's
//! thread and back.

use std::borrow::Cow;
use std::collections::HashSet;

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Row, Sqlite, SqliteConnection};

use super::directory::{bot_owner, claims};
use super::outbox::Open;
use super::writer::failed;
use super::{AcceptRequest, Change, FinishedSend, NewEvent, NewSend, Resource, SecretPut, SendStart, StoreError};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Claimed, Settled};
use crate::domain::ids::{AgentId, DecisionId, DeliveryId, EventId, OrgId, SessionId};
use crate::domain::installation::ProviderKind;
use crate::domain::record::{AuditRecord, Decision, RefusalRecord};

pub(super) const SEED_FLAG: &str = "INSERT INTO flags (name, enabled, stage, canary, reason, changed_by, changed_ms, version) \
     VALUES ($1, $2, $3, '[]', 'seeded from rollout.initial', 'gateway', $4, 1) ON CONFLICT DO NOTHING";

/// Idempotency records are kept this long.
const SEND_KEPT_MS: i64 = 24 * 3_600_000;

pub(super) struct EventRow<'a> {
    pub request: &'a AcceptRequest,
    pub event: &'a NewEvent,
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
    pub verdict: Option<i64>,
}

pub(super) struct SessionRow<'a> {
    pub id: &'a SessionId,
    pub event: &'a NewEvent,
    pub now: Timestamp,
    pub predecessor: Option<SessionId>,
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
    conn: &mut SqliteConnection,
    head: &str,
    columns: usize,
    rows: &'a [T],
    bind: impl for<'q> Fn(Bound<'q>, &'a T) -> Bound<'q>,
) -> Result<i64, StoreError> {
    let mut last = 0;
    for chunk in rows.chunks(ROWS_MAX) {
        let sql = many(head, columns, chunk.len(), "");
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), &bind);
        last = query.execute(&mut *conn).await.map_err(failed)?.last_insert_rowid();
    }
    // The first row's number: the one writer numbers rows without gaps.
    Ok(last - i64::try_from(rows.len()).unwrap_or(0) + 1)
}

pub(super) async fn run(conn: &mut SqliteConnection, sql: &'static str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(conn).await.map(|_| ()).map_err(failed)
}

/// Inserts the dedupe keys; the events whose keys were new.
pub(super) async fn insert_dedupe(
    conn: &mut SqliteConnection,
    events: &[(&AcceptRequest, &NewEvent)],
) -> Result<HashSet<String>, StoreError> {
    const HEAD: &str = "INSERT INTO dedupe (key, installation, event, expires_ms) VALUES";
    let mut fresh = HashSet::with_capacity(events.len());
    for chunk in events.chunks(ROWS_MAX) {
        let sql = many(HEAD, 4, chunk.len(), " ON CONFLICT DO NOTHING RETURNING event");
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), |q, (_, e)| {
            q.bind(tail_first(&e.dedupe_key)).bind(e.installation.as_str()).bind(e.id.as_str()).bind(e.dedupe_until.ms())
        });
        for row in query.fetch_all(&mut *conn).await.map_err(failed)? {
            fresh.insert(row.try_get(0).map_err(failed)?);
        }
    }
    Ok(fresh)
}

/// A dedupe key with its parts turned round: the provider's own id, which grows, before the account, which does not.
fn tail_first(key: &str) -> String {
    let mut turned = String::with_capacity(key.len());
    for part in key.rsplit(':') {
        if !turned.is_empty() {
            turned.push(':');
        }
        turned.push_str(part);
    }
    turned
}

/// What an event's row knows beside its columns.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Meta<'a> {
    pub provider: ProviderKind,
    #[serde(borrow)]
    pub mode: Cow<'a, str>,
    pub profile: Cow<'a, str>,
    pub binding: Cow<'a, str>,
    pub r#type: Cow<'a, str>,
    pub provider_event_type: Cow<'a, str>,
    pub principal: Cow<'a, str>,
    pub verified_with: Cow<'a, str>,
    pub media_type: Cow<'a, str>,
    pub session_new: bool,
    pub request: Cow<'a, str>,
}

/// Inserts events; the number of the first of them.
pub(super) async fn insert_events(conn: &mut SqliteConnection, rows: &[EventRow<'_>]) -> Result<i64, StoreError> {
    const HEAD: &str = "INSERT INTO events (id, received_ms, org, installation, agent, session, kind, provider_event_id, \
         decision_first, decision_count, meta_json, normal_json, raw) VALUES";
    insert(conn, HEAD, 13, rows, |q, r| {
        let e = r.event;
        let meta = Meta {
            provider: e.provider,
            mode: e.mode.as_str().into(),
            profile: e.profile.as_str().into(),
            binding: e.binding.as_str().into(),
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
            .bind(e.org.as_str())
            .bind(e.installation.as_str())
            .bind(e.agent.as_str())
            .bind(r.session.as_str())
            .bind(e.kind.as_str())
            .bind(e.provider_event_id.as_str())
            .bind(r.decision_first)
            .bind(i64::try_from(e.decisions.len()).unwrap_or(0))
            .bind(serde_json::to_string(&meta).unwrap_or_default())
            .bind(serde_json::to_string(&e.normal).unwrap_or_default())
            .bind(e.raw.to_vec())
    })
    .await
}

/// One delivery an event, under the event's number.
pub(super) async fn insert_deliveries(conn: &mut SqliteConnection, rows: &[EventRow<'_>], first: i64) -> Result<(), StoreError> {
    const HEAD: &str = "INSERT INTO deliveries (seq, event, org, agent, session, created_ms, due_ms) VALUES";
    let numbered: Vec<(i64, &EventRow<'_>)> = (first..).zip(rows).collect();
    insert(conn, HEAD, 7, &numbered, |q, (seq, r)| {
        let e = r.event;
        q.bind(*seq)
            .bind(e.id.as_str())
            .bind(e.org.as_str())
            .bind(e.agent.as_str())
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

/// The number of a question and its answer, kept once.
pub(super) async fn verdict(conn: &mut SqliteConnection, d: &Decision) -> Result<i64, StoreError> {
    let (policies, code) = (policies_json(&d.policies), d.code.map(|c| c.as_str()));
    let whole =
        [d.action, &d.principal, &d.resource, &d.facts, if d.allowed { "1" } else { "0" }, code.unwrap_or(""), &policies, &d.version];
    let digest = hex::encode(crate::crypto::sha256(whole.join("\0").as_bytes()));
    sqlx::query(
        "INSERT INTO verdicts (digest, action, principal, resource, facts_json, allowed, code, policies_json, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (digest) DO NOTHING",
    )
    .bind(digest.as_str())
    .bind(d.action)
    .bind(d.principal.as_str())
    .bind(d.resource.as_str())
    .bind(d.facts.as_str())
    .bind(i64::from(d.allowed))
    .bind(code)
    .bind(policies)
    .bind(&*d.version)
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    sqlx::query_scalar("SELECT seq FROM verdicts WHERE digest = $1").bind(digest).fetch_one(conn).await.map_err(failed)
}

/// Inserts decisions; the number of the first of them.
pub(super) async fn insert_decisions(conn: &mut SqliteConnection, rows: &[DecisionRow<'_>]) -> Result<i64, StoreError> {
    const HEAD: &str = "INSERT INTO decisions (at_ms, org, subject, verdict) VALUES";
    insert(conn, HEAD, 4, rows, |q, r| q.bind(r.at.ms()).bind(r.org.map(OrgId::as_str)).bind(r.subject).bind(r.verdict)).await
}

pub(super) async fn insert_refusals(conn: &mut SqliteConnection, rows: &[RefusalRow<'_>]) -> Result<(), StoreError> {
    const HEAD: &str = "INSERT INTO refusals (at_ms, provider, profile, installation, org, code, verdict, digest, excerpt, request) VALUES";
    insert(conn, HEAD, 10, rows, |q, RefusalRow { record: r, verdict }| {
        q.bind(r.at.ms())
            .bind(r.provider.as_str())
            .bind(r.profile.as_str())
            .bind(r.installation.as_ref().map(|i| i.as_str()))
            .bind(r.org.as_ref().map(OrgId::as_str))
            .bind(r.code.as_str())
            .bind(*verdict)
            .bind(hex::encode(r.digest))
            .bind(r.excerpt.as_deref())
            .bind(r.request.as_str())
    })
    .await
    .map(|_| ())
}

pub(super) async fn insert_audit(conn: &mut SqliteConnection, rows: &[AuditRow<'_>]) -> Result<(), StoreError> {
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
pub(super) async fn insert_accepted(conn: &mut SqliteConnection, rows: &[EventRow<'_>]) -> Result<(), StoreError> {
    const HEAD: &str = "INSERT INTO audit (at_ms, actor, action, target, org, outcome, verdict, request) VALUES";
    insert(conn, HEAD, 8, rows, |q, r| {
        let e = r.event;
        q.bind(r.request.received.ms())
            .bind(format!("profile:{}", e.profile))
            .bind("event.accept")
            .bind(e.id.as_str())
            .bind(e.org.as_str())
            .bind("done")
            .bind(r.verdict)
            .bind(r.request.request.as_str())
    })
    .await
    .map(|_| ())
}

/// Writes audit lines with what the policies said.
pub(super) async fn audit(conn: &mut SqliteConnection, records: &[AuditRecord]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let verdict = match &record.decision {
            Some(decision) => Some(verdict(conn, decision).await?),
            None => None,
        };
        rows.push(AuditRow { record, verdict });
    }
    insert_audit(conn, &rows).await
}

pub(super) async fn active_session(
    conn: &mut SqliteConnection,
    key: &str,
) -> Result<Option<(SessionId, Timestamp, Timestamp)>, StoreError> {
    let row = sqlx::query("SELECT id, created_ms, last_ms FROM sessions WHERE key = $1 AND status = 'active'")
        .bind(key)
        .fetch_optional(conn)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let id: String = row.try_get(0).map_err(failed)?;
    let id = SessionId::parse(&id).ok_or_else(|| StoreError::Corrupt(format!("session id `{id}`")))?;
    let (created, last) = (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
    Ok(Some((id, Timestamp::from_ms(created), Timestamp::from_ms(last))))
}

pub(super) async fn touch_session(conn: &mut SqliteConnection, id: &SessionId, last: Timestamp) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE sessions SET last_ms = $2 WHERE id = $1").bind(id.as_str()).bind(last.ms());
    query.execute(conn).await.map(|_| ()).map_err(failed)
}

pub(super) async fn close_session(conn: &mut SqliteConnection, id: &SessionId, status: &'static str) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE sessions SET status = $2 WHERE id = $1").bind(id.as_str()).bind(status);
    query.execute(conn).await.map(|_| ()).map_err(failed)
}

pub(super) async fn insert_session(conn: &mut SqliteConnection, row: &SessionRow<'_>) -> Result<(), StoreError> {
    let e = row.event;
    let conversation = e.normal.conversation.as_ref();
    sqlx::query(
        "INSERT INTO sessions (id, key, org, provider, installation, agent, conversation, thread, peer, status, created_ms, last_ms, \
         predecessor) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'active', $10, $10, $11)",
    )
    .bind(row.id.as_str())
    .bind(e.session_key.as_str())
    .bind(e.org.as_str())
    .bind(e.provider.as_str())
    .bind(e.installation.as_str())
    .bind(e.agent.as_str())
    .bind(conversation.map_or("", |c| c.id.as_str()))
    .bind(conversation.and_then(|c| c.thread.as_deref()))
    .bind(e.peer.as_deref())
    .bind(row.now.ms())
    .bind(row.predecessor.as_ref().map(|p| p.as_str()))
    .execute(conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

/// Every open delivery, oldest first.
pub(super) async fn open_deliveries(conn: &mut SqliteConnection) -> Result<Vec<Open>, StoreError> {
    let rows = sqlx::query(
        "SELECT seq, session, agent, MAX(due_ms, COALESCE(lease_until_ms, 0)) FROM deliveries INDEXED BY deliveries_open \
         WHERE settled_ms IS NULL ORDER BY seq",
    )
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    let open = |row: &sqlx::sqlite::SqliteRow| {
        Ok(Open { seq: row.try_get(0)?, session: row.try_get(1)?, agent: row.try_get(2)?, at_ms: row.try_get(3)? })
    };
    rows.iter().map(open).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

/// Agents that are not sent anything. Read here and not in the directory, which follows a commit a moment later: a moment in
/// which a 410 would be asked for twice.
pub(super) async fn paused_agents(conn: &mut SqliteConnection) -> Result<HashSet<String>, StoreError> {
    let ids: Vec<String> =
        sqlx::query_scalar("SELECT id FROM resources WHERE kind = 'agents' AND json_extract(body, '$.status') = 'paused'")
            .fetch_all(conn)
            .await
            .map_err(failed)?;
    Ok(ids.into_iter().collect())
}

/// Leases these deliveries. The attempt is counted before it begins.
pub(super) async fn lease(conn: &mut SqliteConnection, seqs: &[i64], lease_until: Timestamp) -> Result<Vec<Claimed>, StoreError> {
    let rows = sqlx::query(
        "UPDATE deliveries SET state = 'leased', attempt = attempt + 1, lease = lease + 1, lease_until_ms = $1 \
         WHERE seq IN (SELECT value FROM json_each($2)) AND settled_ms IS NULL \
         RETURNING seq, event, org, agent, session, lease, attempt",
    )
    .bind(lease_until.ms())
    .bind(serde_json::to_string(seqs).unwrap_or_default())
    .fetch_all(conn)
    .await
    .map_err(failed)?;
    rows.iter()
        .map(|row| {
            let text = |i: usize| row.try_get::<String, _>(i).map_err(failed);
            let odd = |what: &str| StoreError::Corrupt(format!("delivery with a damaged {what}"));
            Ok(Claimed {
                id: DeliveryId::numbered(row.try_get(0).map_err(failed)?),
                event: EventId::parse(&text(1)?).ok_or_else(|| odd("event"))?,
                org: OrgId::parse(&text(2)?).map_err(|_| odd("org"))?,
                agent: AgentId::parse(&text(3)?).map_err(|_| odd("agent"))?,
                session: SessionId::parse(&text(4)?).ok_or_else(|| odd("session"))?,
                lease: row.try_get(5).map_err(failed)?,
                attempt: row.try_get(6).map_err(failed)?,
            })
        })
        .collect()
}

/// Settles, fenced by the lease: an old worker that wakes up late changes nothing.
pub(super) async fn settle(
    conn: &mut SqliteConnection,
    claimed: &Claimed,
    settled: &Settled,
    attempt: &Attempt,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let (state, due, settled_ms, code) = match settled {
        Settled::Delivered => ("delivered", None, Some(now.ms()), None),
        Settled::RetryAt(at) => ("pending", Some(at.ms()), None, attempt.code),
        Settled::Dead(code) => ("dead", None, Some(now.ms()), Some(*code)),
        Settled::AgentGone => ("pending", Some(now.ms()), None, attempt.code),
    };
    let changed = sqlx::query(
        "UPDATE deliveries SET state = $3, due_ms = COALESCE($4, due_ms), settled_ms = $5, code = $6, lease_until_ms = NULL \
         WHERE seq = $1 AND lease = $2 AND settled_ms IS NULL",
    )
    .bind(claimed.id.number())
    .bind(claimed.lease)
    .bind(state)
    .bind(due)
    .bind(settled_ms)
    .bind(code.map(|c| c.as_str()))
    .execute(&mut *conn)
    .await
    .map_err(failed)?
    .rows_affected();
    if changed == 0 {
        return Ok(false);
    }
    sqlx::query("INSERT OR REPLACE INTO attempts (delivery, number, at_ms, took_ms, status, code) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(claimed.id.number())
        .bind(attempt.number)
        .bind(attempt.at.ms())
        .bind(attempt.took_ms)
        .bind(attempt.status.map(i64::from))
        .bind(attempt.code.map(|c| c.as_str()))
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    let line = |action, target: &str, outcome, code| AuditRecord {
        at: now,
        actor: "gateway".into(),
        action,
        target: target.into(),
        org: Some(claimed.org.clone()),
        outcome,
        code,
        decision: None,
        request: None,
        detail: None,
    };
    match settled {
        Settled::Dead(code) => audit(conn, &[line("delivery.dead", claimed.id.as_str(), "refused", Some(*code))]).await?,
        Settled::AgentGone => {
            sqlx::query(
                "UPDATE resources SET body = json_set(body, '$.status', 'paused'), updated_ms = $2 WHERE kind = 'agents' AND id = $1",
            )
            .bind(claimed.agent.as_str())
            .bind(now.ms())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
            audit(conn, &[line("agent.pause", claimed.agent.as_str(), "done", attempt.code)]).await?;
        }
        Settled::Delivered | Settled::RetryAt(_) => {}
    }
    Ok(true)
}

pub(super) async fn release(conn: &mut SqliteConnection, claimed: &[Claimed]) -> Result<(), StoreError> {
    for c in claimed {
        sqlx::query("UPDATE deliveries SET state = 'pending', lease_until_ms = NULL, attempt = attempt - 1 WHERE seq = $1 AND lease = $2 AND settled_ms IS NULL")
            .bind(c.id.number())
            .bind(c.lease)
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// `None` when there is no such delivery, `Some(None)` when it is still open; else it is open again.
pub(super) async fn replay(
    conn: &mut SqliteConnection,
    id: &DeliveryId,
    line: &AuditRecord,
    now: Timestamp,
) -> Result<Option<Option<Open>>, StoreError> {
    let Some(seq) = id.number() else { return Ok(None) };
    let row = sqlx::query("SELECT settled_ms IS NULL, session, agent FROM deliveries WHERE seq = $1")
        .bind(seq)
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get(0).map_err(failed)? {
        return Ok(Some(None));
    }
    // A replay counts its attempts anew; the lease goes on growing, so that nobody's old one fits.
    sqlx::query(
        "UPDATE deliveries SET state = 'pending', settled_ms = NULL, due_ms = $2, code = NULL, attempt = 0, lease_until_ms = NULL WHERE seq = $1",
    )
    .bind(seq)
    .bind(now.ms())
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    sqlx::query("DELETE FROM attempts WHERE delivery = $1").bind(seq).execute(&mut *conn).await.map_err(failed)?;
    audit(conn, std::slice::from_ref(line)).await?;
    let (session, agent) = (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
    Ok(Some(Some(Open { seq, session, agent, at_ms: now.ms() })))
}

pub(super) async fn begin_send(conn: &mut SqliteConnection, send: &NewSend) -> Result<SendStart, StoreError> {
    let known = sqlx::query("SELECT digest, state, status, answer_json FROM sends WHERE agent = $1 AND key = $2")
        .bind(send.agent.as_str())
        .bind(send.key.as_str())
        .fetch_optional(&mut *conn)
        .await
        .map_err(failed)?;
    if let Some(row) = known {
        let digest: String = row.try_get(0).map_err(failed)?;
        let state: String = row.try_get(1).map_err(failed)?;
        if digest != send.digest {
            return Ok(SendStart::Conflict);
        }
        if state == "started" {
            return Ok(SendStart::InFlight);
        }
        let status: i64 = row.try_get(2).map_err(failed)?;
        let answer: String = row.try_get(3).map_err(failed)?;
        return Ok(SendStart::Answered {
            status: u16::try_from(status).unwrap_or(500),
            answer: serde_json::from_str(&answer).unwrap_or_default(),
        });
    }
    sqlx::query("INSERT INTO sends (id, agent, key, digest, state, fallback, created_ms) VALUES ($1, $2, $3, $4, 'started', 0, $5)")
        .bind(send.id.as_str())
        .bind(send.agent.as_str())
        .bind(send.key.as_str())
        .bind(send.digest.as_str())
        .bind(send.at.ms())
        .execute(conn)
        .await
        .map_err(failed)?;
    Ok(SendStart::Fresh)
}

pub(super) async fn finish_send(conn: &mut SqliteConnection, send: &FinishedSend) -> Result<serde_json::Value, StoreError> {
    let at = send.audit.at;
    let mut rows = Vec::with_capacity(send.decisions.len());
    for decision in &send.decisions {
        let verdict = verdict(conn, decision).await?;
        rows.push(DecisionRow { at, org: send.org.as_ref(), subject: send.id.as_str(), verdict });
    }
    let first = insert_decisions(conn, &rows).await?;
    let count = i64::try_from(rows.len()).unwrap_or(0);
    let mut answer = send.answer.clone();
    if let Some(decision) = answer.get_mut("decision").filter(|_| count > 0) {
        *decision = serde_json::json!(DecisionId::numbered(first + count - 1));
    }
    if send.state == "retry" {
        sqlx::query("DELETE FROM sends WHERE id = $1").bind(send.id.as_str()).execute(&mut *conn).await.map_err(failed)?;
    } else {
        sqlx::query(
            "UPDATE sends SET state = $2, status = $3, answer_json = $4, org = $5, installation = $6, session = $7, conversation = $8, \
             credential = $9, owner = $10, fallback = $11, provider_message_id = $12, code = $13, decision_first = $14, \
             decision_count = $15, finished_ms = $16 WHERE id = $1",
        )
        .bind(send.id.as_str())
        .bind(send.state)
        .bind(i64::from(send.status))
        .bind(answer.to_string())
        .bind(send.org.as_ref().map(OrgId::as_str))
        .bind(send.installation.as_ref().map(|i| i.as_str()))
        .bind(send.session.as_deref())
        .bind(send.conversation.as_deref())
        .bind(send.credential.as_deref())
        .bind(send.owner)
        .bind(i64::from(send.fallback))
        .bind(send.provider_message_id.as_deref())
        .bind(send.code.map(|c| c.as_str()))
        .bind(first)
        .bind(count)
        .bind(at.ms())
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    }
    audit(conn, std::slice::from_ref(&send.audit)).await?;
    Ok(answer)
}

pub(super) async fn abandon_sends(conn: &mut SqliteConnection, now: Timestamp) -> Result<u64, StoreError> {
    let answer = serde_json::json!({"status": 504, "code": crate::domain::reason::ReasonCode::EgressOutcomeUnknown});
    sqlx::query("UPDATE sends SET state = 'unknown', status = 504, answer_json = $1, code = $2, finished_ms = $3 WHERE state = 'started'")
        .bind(answer.to_string())
        .bind(crate::domain::reason::ReasonCode::EgressOutcomeUnknown.as_str())
        .bind(now.ms())
        .execute(conn)
        .await
        .map(|r| r.rows_affected())
        .map_err(failed)
}

pub(super) async fn sweep(conn: &mut SqliteConnection, now: Timestamp) -> Result<u64, StoreError> {
    let dedupe = sqlx::query("DELETE FROM dedupe WHERE expires_ms <= $1").bind(now.ms()).execute(&mut *conn).await.map_err(failed)?;
    let sends = sqlx::query("DELETE FROM sends WHERE state <> 'started' AND created_ms <= $1")
        .bind(now.ms() - SEND_KEPT_MS)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    Ok(dedupe.rows_affected() + sends.rows_affected())
}

pub(super) async fn apply(
    conn: &mut SqliteConnection,
    changes: &[Change],
    lines: &[AuditRecord],
    now: Timestamp,
) -> Result<(), StoreError> {
    for change in changes {
        match change {
            Change::Put(resource, secrets) => put(conn, resource, secrets, now).await?,
            Change::DropSecret { kind, owner, field, slot } => {
                sqlx::query("DELETE FROM secrets WHERE kind = $1 AND owner = $2 AND field = $3 AND slot = $4")
                    .bind(*kind)
                    .bind(owner.as_str())
                    .bind(field.as_str())
                    .bind(*slot)
                    .execute(&mut *conn)
                    .await
                    .map_err(failed)?;
            }
            Change::Delete { kind, id } => delete(conn, kind, id, now).await?,
        }
    }
    audit(conn, lines).await
}

async fn put(conn: &mut SqliteConnection, resource: &Resource, secrets: &[SecretPut], now: Timestamp) -> Result<(), StoreError> {
    let body = match resource {
        Resource::Org(r) => serde_json::to_string(r),
        Resource::Agent(r) => serde_json::to_string(r),
        Resource::Profile(r) => serde_json::to_string(r),
        Resource::Installation(r) => serde_json::to_string(r),
        Resource::Binding(r) => serde_json::to_string(r),
    };
    let body = body.map_err(|e| StoreError::Unavailable(e.to_string()))?;
    sqlx::query(
        "INSERT INTO resources (kind, id, org, body, created_ms, updated_ms) VALUES ($1, $2, $3, $4, $5, $5) \
         ON CONFLICT (kind, id) DO UPDATE SET org = excluded.org, body = excluded.body, updated_ms = excluded.updated_ms",
    )
    .bind(resource.kind())
    .bind(resource.id())
    .bind(resource.org().map(OrgId::as_str))
    .bind(body)
    .bind(now.ms())
    .execute(&mut *conn)
    .await
    .map_err(failed)?;
    match resource {
        Resource::Profile(profile) => {
            let taken: Option<String> = sqlx::query_scalar("SELECT profile FROM ingress_ids WHERE ingress_id = $1")
                .bind(profile.ingress_id.as_str())
                .fetch_optional(&mut *conn)
                .await
                .map_err(failed)?;
            if taken.as_deref().is_some_and(|t| t != profile.id.as_str()) {
                return Err(StoreError::Conflict(format!("ingress_id of profile `{}` belongs to another profile", profile.id)));
            }
            sqlx::query(
                "INSERT INTO ingress_ids (ingress_id, profile) VALUES ($1, $2) ON CONFLICT (ingress_id) DO UPDATE SET removed_ms = NULL",
            )
            .bind(profile.ingress_id.as_str())
            .bind(profile.id.as_str())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
        }
        Resource::Installation(installation) => claim_accounts(conn, installation).await?,
        _ => {}
    }
    for put in secrets {
        let s = &put.secret;
        sqlx::query(
            "INSERT INTO secrets (kind, owner, field, slot, id, sealed, fingerprint, set_ms, until_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT (kind, owner, field, slot) DO UPDATE SET id = excluded.id, sealed = excluded.sealed, \
             fingerprint = excluded.fingerprint, set_ms = excluded.set_ms, until_ms = excluded.until_ms",
        )
        .bind(put.kind)
        .bind(put.owner.as_str())
        .bind(s.field.as_str())
        .bind(s.slot.as_str())
        .bind(s.id.as_str())
        .bind(s.sealed.clone())
        .bind(s.fingerprint.as_str())
        .bind(s.set.ms())
        .bind(s.until.map(Timestamp::ms))
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    }
    Ok(())
}

async fn claim_accounts(conn: &mut SqliteConnection, installation: &crate::domain::installation::Installation) -> Result<(), StoreError> {
    free_accounts(conn, installation.id.as_str()).await?;
    if let Some((account, owner)) = bot_owner(installation) {
        own(conn, &account, &owner).await?;
    }
    for (account, owner) in claims(installation) {
        own(conn, &account, &owner).await?;
        sqlx::query("INSERT INTO claims (account, profile, installation, owner) VALUES ($1, $2, $3, $4)")
            .bind(account.as_str())
            .bind(installation.profile.as_str())
            .bind(installation.id.as_str())
            .bind(owner)
            .execute(&mut *conn)
            .await
            .map_err(|e| taken(e, &account))?;
    }
    Ok(())
}

async fn own(conn: &mut SqliteConnection, account: &str, owner: &str) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO owners (account, owner) VALUES ($1, $2) ON CONFLICT (account) DO NOTHING")
        .bind(account)
        .bind(owner)
        .execute(&mut *conn)
        .await
        .map_err(failed)?;
    let holder: String =
        sqlx::query_scalar("SELECT owner FROM owners WHERE account = $1").bind(account).fetch_one(&mut *conn).await.map_err(failed)?;
    if holder == owner { Ok(()) } else { Err(StoreError::Conflict(format!("account {account} belongs to another owner"))) }
}

fn taken(error: sqlx::Error, account: &str) -> StoreError {
    match failed(error) {
        StoreError::Conflict(_) => StoreError::Conflict(format!("account {account} belongs to another installation")),
        other => other,
    }
}

async fn free_accounts(conn: &mut SqliteConnection, installation: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM claims WHERE installation = $1").bind(installation).execute(&mut *conn).await.map_err(failed)?;
    sqlx::query(
        "DELETE FROM owners WHERE NOT EXISTS (SELECT 1 FROM claims c WHERE c.account = owners.account) \
         AND NOT EXISTS (SELECT 1 FROM claims c WHERE c.account >= owners.account || '/' AND c.account < owners.account || '0')",
    )
    .execute(conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

async fn delete(conn: &mut SqliteConnection, kind: &str, id: &str, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM resources WHERE kind = $1 AND id = $2").bind(kind).bind(id).execute(&mut *conn).await.map_err(failed)?;
    sqlx::query("DELETE FROM secrets WHERE kind = $1 AND owner = $2").bind(kind).bind(id).execute(&mut *conn).await.map_err(failed)?;
    match kind {
        "profiles" => sqlx::query("UPDATE ingress_ids SET removed_ms = $2 WHERE profile = $1")
            .bind(id)
            .bind(now.ms())
            .execute(conn)
            .await
            .map(|_| ())
            .map_err(failed),
        "installations" => free_accounts(conn, id).await,
        _ => Ok(()),
    }
}
