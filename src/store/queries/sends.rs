//! Statements that keep what agents sent: the idempotency record and the receipt in one row.

use sqlx::Row;

use super::super::conn::Conn;
use super::super::writer::failed;
use super::super::{FinishedSend, NewSend, SendStart, StoreError};
use super::{DecisionRow, audit, insert_decisions, legacy_used, verdict};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{AgentId, DecisionId, OrgId};

pub(in crate::store) async fn begin_send(conn: &mut Conn, agent: &AgentId, send: &NewSend) -> Result<SendStart, StoreError> {
    let known = sqlx::query("SELECT digest, state, status, answer_json FROM sends WHERE agent = $1 AND key = $2")
        .bind(agent.as_str())
        .bind(send.key.as_str())
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    if let Some(row) = known {
        let digest: String = row.try_get(0).map_err(failed)?;
        let state: String = row.try_get(1).map_err(failed)?;
        if digest != send.digest && stands(Guard::SameKeySameBody) {
            return Ok(SendStart::Conflict);
        }
        if !stands(Guard::AnsweredOnce) {
            return Ok(SendStart::Fresh);
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
        .bind(agent.as_str())
        .bind(send.key.as_str())
        .bind(send.digest.as_str())
        .bind(send.at.ms())
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    Ok(SendStart::Fresh)
}

pub(in crate::store) async fn finish_send(conn: &mut Conn, send: &FinishedSend) -> Result<serde_json::Value, StoreError> {
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
        sqlx::query("DELETE FROM sends WHERE id = $1 AND state = 'started'")
            .bind(send.id.as_str())
            .execute(&mut **conn)
            .await
            .map_err(failed)?;
    } else {
        sqlx::query(
            "UPDATE sends SET state = $2, status = $3, answer_json = $4, org = $5, installation = $6, session = $7, conversation = $8, \
             credential = $9, owner = $10, fallback = $11, provider_message_id = $12, code = $13, decision_first = $14, \
             decision_count = $15, finished_ms = $16 WHERE id = $1 AND state = 'started'",
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
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    }
    if let Some(binding) = &send.legacy {
        legacy_used(conn, binding, at).await?;
    }
    audit(conn, std::slice::from_ref(&send.audit)).await?;
    Ok(answer)
}

pub(in crate::store) async fn abandon_sends(conn: &mut Conn, now: Timestamp) -> Result<u64, StoreError> {
    let answer = serde_json::json!({"status": 504, "code": crate::domain::reason::ReasonCode::EgressOutcomeUnknown});
    sqlx::query("UPDATE sends SET state = 'unknown', status = 504, answer_json = $1, code = $2, finished_ms = $3 WHERE state = 'started'")
        .bind(answer.to_string())
        .bind(crate::domain::reason::ReasonCode::EgressOutcomeUnknown.as_str())
        .bind(now.ms())
        .execute(&mut **conn)
        .await
        .map(|r| r.rows_affected())
        .map_err(failed)
}
