//! Statements that keep what agents sent: the idempotency record and the receipt in one row.

use sqlx::Row;

use super::super::conn::Conn;
use super::super::content::{SENDS, SendContent, open_json, seal_json};
use super::super::writer::failed;
use super::super::{FinishedSend, NewSend, SendStart, StoreError};
use super::{DecisionRow, audit, audit_heard, insert_decisions, legacy_used, verdict};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{AgentId, DecisionId, OrgId};
use crate::domain::reason::ReasonCode;
use crate::domain::repeats::Repeats;

pub(in crate::store) async fn begin_send(conn: &mut Conn, agent: &AgentId, send: &NewSend) -> Result<SendStart, StoreError> {
    let body = conn.key(None)?.digest(SENDS, &send.digest);
    let known = sqlx::query("SELECT digest, state, status, id, org, content FROM sends WHERE agent = $1 AND key = $2")
        .bind(agent.as_str())
        .bind(send.key.as_str())
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    if let Some(row) = known {
        let digest: String = row.try_get(0).map_err(failed)?;
        let state: String = row.try_get(1).map_err(failed)?;
        if digest != body && stands(Guard::SameKeySameBody) {
            return Ok(SendStart::Conflict);
        }
        if !stands(Guard::AnsweredOnce) {
            return Ok(SendStart::Fresh);
        }
        if state == "started" {
            return Ok(SendStart::InFlight);
        }
        let status: i64 = row.try_get(2).map_err(failed)?;
        let (id, org): (String, Option<String>) = (row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?);
        let sealed: Option<Vec<u8>> = row.try_get(5).map_err(failed)?;
        let org = org.as_deref().and_then(|org| OrgId::parse(org).ok());
        let content: SendContent = match (sealed, conn.key(org.as_ref())) {
            (Some(sealed), Ok(key)) => open_json(&key, SENDS, &id, &sealed)?,
            // What was answered was removed since; that it was is still known.
            _ => SendContent::default(),
        };
        return Ok(SendStart::Answered { status: u16::try_from(status).unwrap_or(500), answer: content.answer });
    }
    sqlx::query("INSERT INTO sends (id, agent, key, digest, state, fallback, created_ms) VALUES ($1, $2, $3, $4, 'started', 0, $5)")
        .bind(send.id.as_str())
        .bind(agent.as_str())
        .bind(send.key.as_str())
        .bind(body)
        .bind(send.at.ms())
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    Ok(SendStart::Fresh)
}

pub(in crate::store) async fn finish_send(
    conn: &mut Conn,
    repeats: &Repeats,
    send: &FinishedSend,
) -> Result<serde_json::Value, StoreError> {
    let at = send.audit.at;
    let mut rows = Vec::with_capacity(send.decisions.len());
    for decision in &send.decisions {
        let verdict = verdict(conn, send.org.as_ref(), decision, at).await?;
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
        let content = SendContent {
            conversation: send.conversation.clone(),
            provider_message_id: send.provider_message_id.clone(),
            answer: answer.clone(),
        };
        let content = seal_json(&*conn.key(send.org.as_ref())?, SENDS, send.id.as_str(), &content)?;
        sqlx::query(
            "UPDATE sends SET state = $2, status = $3, content = $4, org = $5, installation = $6, session = $7, credential = $8, \
             owner = $9, fallback = $10, code = $11, decision_first = $12, decision_count = $13, finished_ms = $14 \
             WHERE id = $1 AND state = 'started'",
        )
        .bind(send.id.as_str())
        .bind(send.state)
        .bind(i64::from(send.status))
        .bind(content)
        .bind(send.org.as_ref().map(OrgId::as_str))
        .bind(send.installation.as_ref().map(|i| i.as_str()))
        .bind(send.session.as_deref())
        .bind(send.credential.as_deref())
        .bind(send.owner)
        .bind(i64::from(send.fallback))
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
    let line = std::slice::from_ref(&send.audit);
    match send.state {
        // It left, or may have: each has its line.
        "failed" | "unknown" => audit(conn, line).await?,
        _ => audit_heard(conn, repeats, line).await?,
    }
    Ok(answer)
}

pub(in crate::store) async fn abandon_sends(conn: &mut Conn, now: Timestamp) -> Result<u64, StoreError> {
    let key = conn.key(None)?;
    let answer = serde_json::json!({"status": 504, "code": ReasonCode::EgressOutcomeUnknown});
    let started: Vec<String> =
        sqlx::query_scalar("SELECT id FROM sends WHERE state = 'started'").fetch_all(&mut **conn).await.map_err(failed)?;
    for id in &started {
        let content = SendContent { answer: answer.clone(), ..SendContent::default() };
        sqlx::query("UPDATE sends SET state = 'unknown', status = 504, content = $1, code = $2, finished_ms = $3 WHERE id = $4")
            .bind(seal_json(&key, SENDS, id, &content)?)
            .bind(ReasonCode::EgressOutcomeUnknown.as_str())
            .bind(now.ms())
            .bind(id)
            .execute(&mut **conn)
            .await
            .map_err(failed)?;
    }
    Ok(started.len() as u64)
}
