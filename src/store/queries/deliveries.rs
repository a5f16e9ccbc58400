//! Statements that move deliveries: lease, settle, release, replay.

use sqlx::Row;

use super::super::conn::Conn;
use super::super::outbox::{Halted, Open};
use super::super::writer::failed;
use super::super::{Replayed, StoreError};
use super::audit;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Claimed, Settled};
use crate::domain::ids::{AgentId, DeliveryId, EventId, OrgId, SessionId};
use crate::domain::record::AuditRecord;

/// Every open delivery, oldest first.
pub(in crate::store) async fn open_deliveries(conn: &mut Conn) -> Result<Vec<Open>, StoreError> {
    let rows = sqlx::query(
        "SELECT d.seq, d.session, d.agent, MAX(d.due_ms, COALESCE(d.lease_until_ms, 0)), e.installation, d.org, \
         d.lease_until_ms IS NOT NULL \
         FROM deliveries d INDEXED BY deliveries_open JOIN events e ON e.seq = d.seq WHERE d.settled_ms IS NULL ORDER BY d.seq",
    )
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    let open = |row: &sqlx::sqlite::SqliteRow| {
        let (seq, session, agent, org) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(5)?);
        Ok(Open { seq, session, org, agent, at_ms: row.try_get(3)?, installation: row.try_get(4)?, leased: row.try_get(6)? })
    };
    rows.iter().map(open).collect::<Result<_, sqlx::Error>>().map_err(failed)
}

/// Whose deliveries wait: paused agents', and those of installations that are degraded or suspended. Read here and not in
/// the directory, which follows a commit a moment later: a moment in which a 410 would be asked for twice.
pub(in crate::store) async fn halted(conn: &mut Conn) -> Result<Halted, StoreError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT kind, id FROM resources INDEXED BY resources_halted \
         WHERE json_extract(body, '$.status') IN ('paused', 'degraded', 'suspended')",
    )
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    let mut halted = Halted::default();
    for (kind, id) in rows {
        match kind.as_str() {
            "agents" => halted.agents.insert(id),
            "installations" => halted.installations.insert(id),
            _ => false,
        };
    }
    Ok(halted)
}

/// Leases these deliveries. The attempt is counted before it begins.
pub(in crate::store) async fn lease(conn: &mut Conn, seqs: &[i64], lease_until: Timestamp) -> Result<Vec<Claimed>, StoreError> {
    let rows = sqlx::query(
        "UPDATE deliveries SET state = 'leased', attempt = attempt + 1, lease = lease + 1, lease_until_ms = $1 \
         WHERE seq IN (SELECT value FROM json_each($2)) AND settled_ms IS NULL \
         RETURNING seq, event, org, agent, session, lease, attempt",
    )
    .bind(lease_until.ms())
    .bind(serde_json::to_string(seqs).unwrap_or_default())
    .fetch_all(&mut **conn)
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
                lease_until,
                attempt: row.try_get(6).map_err(failed)?,
            })
        })
        .collect()
}

/// Settles, fenced by the lease: an old worker that wakes up late changes nothing.
pub(in crate::store) async fn settle(
    conn: &mut Conn,
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
    .execute(&mut **conn)
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
        .execute(&mut **conn)
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
            .execute(&mut **conn)
            .await
            .map_err(failed)?;
            audit(conn, &[line("agent.pause", claimed.agent.as_str(), "done", attempt.code)]).await?;
        }
        Settled::Delivered | Settled::RetryAt(_) => {}
    }
    Ok(true)
}

/// Gives back leases; returns those that had not moved on.
pub(in crate::store) async fn release<'c>(conn: &mut Conn, claimed: &'c [Claimed]) -> Result<Vec<&'c Claimed>, StoreError> {
    let mut released = Vec::new();
    for c in claimed {
        let changed = sqlx::query("UPDATE deliveries SET state = 'pending', lease_until_ms = NULL, attempt = attempt - 1 WHERE seq = $1 AND lease = $2 AND settled_ms IS NULL")
            .bind(c.id.number())
            .bind(c.lease)
            .execute(&mut **conn)
            .await
            .map_err(failed)?;
        if changed.rows_affected() > 0 {
            released.push(c);
        }
    }
    Ok(released)
}

/// Makes a settled delivery due again; the delivery as it is open now goes into `opened`.
pub(in crate::store) async fn replay(
    conn: &mut Conn,
    id: &DeliveryId,
    line: &AuditRecord,
    now: Timestamp,
    opened: &mut Vec<Open>,
) -> Result<Replayed, StoreError> {
    let Some(seq) = id.number() else { return Ok(Replayed::Unknown) };
    let row = sqlx::query(
        "SELECT d.settled_ms IS NULL, d.session, d.agent, e.installation, d.org, e.content IS NULL \
         FROM deliveries d JOIN events e ON e.seq = d.seq WHERE d.seq = $1",
    )
    .bind(seq)
    .fetch_optional(&mut **conn)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(Replayed::Unknown) };
    if row.try_get(0).map_err(failed)? {
        return Ok(Replayed::StillOpen);
    }
    if row.try_get(5).map_err(failed)? {
        return Ok(Replayed::BodyRemoved);
    }
    // A replay counts its attempts anew; the lease goes on growing, so that nobody's old one fits.
    sqlx::query(
        "UPDATE deliveries SET state = 'pending', settled_ms = NULL, due_ms = $2, code = NULL, attempt = 0, lease_until_ms = NULL WHERE seq = $1",
    )
    .bind(seq)
    .bind(now.ms())
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    sqlx::query("DELETE FROM attempts WHERE delivery = $1").bind(seq).execute(&mut **conn).await.map_err(failed)?;
    audit(conn, std::slice::from_ref(line)).await?;
    let text = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    let (session, agent, installation, org) = (text(1)?, text(2)?, text(3)?, text(4)?);
    opened.push(Open { seq, session, org, agent, installation, at_ms: now.ms(), leased: false });
    Ok(Replayed::Again)
}
