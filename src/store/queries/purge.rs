//! Statements that remove what is one person's. Each takes numbers that were read before, and the pages that become free are overwritten.

use sqlx::Row;

use super::super::StoreError;
use super::super::conn::Conn;
use super::super::outbox::Open;
use super::super::writer::failed;
use super::retention::{Removed, list, over, remove_bodies};
use crate::domain::clock::Timestamp;
use crate::domain::ids::InstallationId;
use crate::domain::reason::ReasonCode;

/// Ends the open deliveries of events and removes the events' bodies. Deliveries that ended are added to `closed`.
pub(in crate::store) async fn events(conn: &mut Conn, seqs: &[i64], now: Timestamp, closed: &mut Vec<Open>) -> Result<(), StoreError> {
    // The lease grows, so that an attempt under way settles nothing.
    let rows = sqlx::query(
        "UPDATE deliveries SET state = 'dead', settled_ms = $2, code = $3, lease = lease + 1, lease_until_ms = NULL \
         WHERE seq IN (SELECT value FROM json_each($1)) AND settled_ms IS NULL RETURNING seq, session, agent, org",
    )
    .bind(list(seqs))
    .bind(now.ms())
    .bind(ReasonCode::DeliveryBodyRemoved.as_str())
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    for row in rows {
        let text = |i: usize| row.try_get::<String, _>(i).map_err(failed);
        let (seq, session, agent, org) = (row.try_get(0).map_err(failed)?, text(1)?, text(2)?, text(3)?);
        closed.push(Open { seq, session, org, agent, installation: String::new(), at_ms: now.ms(), leased: false });
    }
    remove_bodies(conn, seqs, Removed::Purge, now).await.map(|_| ())
}

/// Empties sends: their keys, and what became of them, stay.
pub(in crate::store) async fn sends(conn: &mut Conn, seqs: &[i64]) -> Result<(), StoreError> {
    let sql = "UPDATE sends SET content = NULL, session = NULL, digest = '' \
               WHERE seq IN (SELECT value FROM json_each($1)) AND state <> 'started'";
    over(conn, &[sql], seqs, 0).await.map(|_| ())
}

/// Removes excerpts of refusals.
pub(in crate::store) async fn refusals(conn: &mut Conn, seqs: &[i64]) -> Result<(), StoreError> {
    let sql = "UPDATE refusals SET content = NULL WHERE seq IN (SELECT value FROM json_each($1))";
    over(conn, &[sql], seqs, 0).await.map(|_| ())
}

/// Removes the facts of questions; what the policies said stays. The digest goes with them, so that the same question asked again is
/// written down again.
pub(in crate::store) async fn facts(conn: &mut Conn, seqs: &[i64]) -> Result<(), StoreError> {
    let sql = "UPDATE verdicts SET content = NULL, digest = 'removed:' || seq \
               WHERE seq IN (SELECT value FROM json_each($1))";
    over(conn, &[sql], seqs, 0).await.map(|_| ())
}

/// Removes the details of audit lines; who did what, and when, stays.
pub(in crate::store) async fn audit_details(conn: &mut Conn, seqs: &[i64]) -> Result<(), StoreError> {
    let sql = "UPDATE audit SET detail_json = '{\"removed\":\"with a person''s data\"}' \
               WHERE seq IN (SELECT value FROM json_each($1))";
    over(conn, &[sql], seqs, 0).await.map(|_| ())
}

/// Removes what is noted of conversations, and whose sessions were handed to another agent.
pub(in crate::store) async fn notes(
    conn: &mut Conn,
    installation: &InstallationId,
    conversations: &[String],
    sessions: &[i64],
) -> Result<(), StoreError> {
    let places = sqlx::query("DELETE FROM places WHERE installation = $1 AND conversation IN (SELECT value FROM json_each($2))")
        .bind(installation.as_str())
        .bind(serde_json::to_string(conversations).unwrap_or_default())
        .execute(&mut **conn)
        .await;
    let handed = sqlx::query(
        "DELETE FROM handed WHERE session IN (SELECT id FROM sessions WHERE rowid IN (SELECT value FROM json_each($1))) \
         OR handed_key IN (SELECT key FROM sessions WHERE rowid IN (SELECT value FROM json_each($1)))",
    )
    .bind(list(sessions))
    .execute(&mut **conn)
    .await;
    places.and(handed).map(|_| ()).map_err(failed)
}
