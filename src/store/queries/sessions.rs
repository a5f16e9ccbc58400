//! Statements about sessions: which one an event belongs to, how one ends, who follows.

use sqlx::Row;

use super::super::conn::Conn;
use super::super::content::{
    HANDED, HandedContent, SESSIONS, SealedSession, SessionContent, conversation_digest, open_json, seal_json, session_digest,
};
use super::super::sessions::Touched;
use super::super::writer::failed;
use super::super::{Ended, Ending, ImportedSession, NewEvent, StoreError};
use super::audit;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, SessionId};
use crate::domain::installation::ProviderKind;
use crate::domain::record::AuditRecord;
use crate::domain::route::Route;
use crate::domain::session::SessionKey;

/// An active session.
pub(in crate::store) struct Found {
    pub id: SessionId,
    pub created: Timestamp,
    pub last: Timestamp,
}

fn damaged(why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("sessions: {why}"))
}

fn found(row: &sqlx::sqlite::SqliteRow) -> Result<Found, StoreError> {
    let id: String = row.try_get(0).map_err(failed)?;
    Ok(Found {
        id: SessionId::parse(&id).ok_or_else(|| damaged(format!("id `{id}`")))?,
        created: Timestamp::from_ms(row.try_get(1).map_err(failed)?),
        last: Timestamp::from_ms(row.try_get(2).map_err(failed)?),
    })
}

pub(in crate::store) async fn active_session(conn: &mut Conn, key: &str) -> Result<Option<Found>, StoreError> {
    let row = sqlx::query("SELECT id, created_ms, last_ms FROM sessions WHERE key = $1 AND status = 'active' AND key <> ''")
        .bind(key)
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    row.as_ref().map(found).transpose()
}

/// The imported session that an event continues: the only one of its org, agent and contact, nothing known of it speaks of
/// another route or conversation, and no session with a route is under way with that contact or in that conversation.
pub(in crate::store) async fn imported_session(conn: &mut Conn, event: &NewEvent) -> Result<Option<Found>, StoreError> {
    let Some(contact) = event.normal.sender.as_ref().map(|s| s.id.as_str()) else { return Ok(None) };
    let (conversation, thread) = place(event);
    let route = &event.route;
    let key = conn.key(Some(&route.org))?;
    let (contact, conversation) = (key.digest("peer", contact), conversation_digest(&key, conversation));
    let thread = thread.map(|thread| key.digest("thread", thread));
    let rows = sqlx::query(
        "SELECT id, created_ms, last_ms, provider, conversation, thread, installation FROM sessions \
         WHERE org = $1 AND agent = $2 AND peer = $3 AND status = 'active' AND key = '' LIMIT 2",
    )
    .bind(route.org.as_str())
    .bind(route.agent.as_str())
    .bind(contact.as_str())
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)?;
    let [row] = rows.as_slice() else { return Ok(None) };
    let (provider, home): (String, String) = (row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?);
    let (home_thread, installation): (Option<String>, String) = (row.try_get(5).map_err(failed)?, row.try_get(6).map_err(failed)?);
    let elsewhere = provider != route.provider.as_str()
        || (!installation.is_empty() && installation != route.installation.as_str())
        || (!home.is_empty() && home != conversation)
        || home_thread.is_some_and(|home| Some(home) != thread);
    if elsewhere {
        return Ok(None);
    }
    let routed = sqlx::query(
        "SELECT 1 FROM sessions WHERE org = $1 AND agent = $2 AND status = 'active' AND key <> '' AND (peer = $3 OR conversation = $4) LIMIT 1",
    )
    .bind(route.org.as_str())
    .bind(route.agent.as_str())
    .bind(contact)
    .bind(conversation)
    .fetch_optional(&mut **conn)
    .await
    .map_err(failed)?;
    if routed.is_some() { Ok(None) } else { found(row).map(Some) }
}

fn content(event: &NewEvent) -> SessionContent {
    let (conversation, thread) = place(event);
    SessionContent {
        key: event.session_key.as_str().to_owned(),
        conversation: conversation.to_owned(),
        thread: thread.map(str::to_owned),
        peer: event.peer.clone(),
    }
}

fn place(event: &NewEvent) -> (&str, Option<&str>) {
    let conversation = event.normal.conversation.as_ref();
    (conversation.map_or("", |c| c.id.as_str()), conversation.and_then(|c| c.thread.as_deref()))
}

/// Gives an imported session the identity of the event that continues it.
pub(in crate::store) async fn promote(conn: &mut Conn, id: &SessionId, event: &NewEvent, now: Timestamp) -> Result<(), StoreError> {
    let sealed = SealedSession::new(&*conn.key(Some(&event.route.org))?, id.as_str(), &content(event))?;
    sqlx::query(
        "UPDATE sessions SET key = $2, provider = $3, installation = $4, binding = $5, legacy = $6, conversation = $7, thread = $8, \
         peer = $9, last_ms = $10, content = $11 WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(sealed.key)
    .bind(event.route.provider.as_str())
    .bind(event.route.installation.as_str())
    .bind(event.route.binding.as_ref().map(BindingId::as_str))
    .bind(i64::from(event.route.legacy))
    .bind(sealed.conversation)
    .bind(sealed.thread)
    .bind(sealed.peer)
    .bind(now.ms())
    .bind(sealed.content)
    .execute(&mut **conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

pub(in crate::store) async fn touch_session(conn: &mut Conn, id: &SessionId, last: Timestamp) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE sessions SET last_ms = $2 WHERE id = $1").bind(id.as_str()).bind(last.ms());
    query.execute(&mut **conn).await.map(|_| ()).map_err(failed)
}

/// Ends a session whose time is over: `expired` by age, `closed` by idleness.
pub(in crate::store) async fn expire(conn: &mut Conn, id: &SessionId, aged: bool, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE sessions SET status = $2, ended_by = $3, ended_ms = $4 WHERE id = $1")
        .bind(id.as_str())
        .bind(if aged { "expired" } else { "closed" })
        .bind(if aged { "age" } else { "idle" })
        .bind(now.ms())
        .execute(&mut **conn)
        .await
        .map(|_| ())
        .map_err(failed)
}

/// Links an ended session to the one that follows it; `false` where another already does.
pub(in crate::store) async fn follow(conn: &mut Conn, id: &SessionId, successor: &SessionId) -> Result<bool, StoreError> {
    sqlx::query("UPDATE sessions SET successor = $2 WHERE id = $1 AND successor IS NULL AND status <> 'active'")
        .bind(id.as_str())
        .bind(successor.as_str())
        .execute(&mut **conn)
        .await
        .map(|done| done.rows_affected() > 0)
        .map_err(failed)
}

pub(in crate::store) async fn insert_session(
    conn: &mut Conn,
    id: &SessionId,
    event: &NewEvent,
    predecessor: Option<&SessionId>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let route = &event.route;
    let sealed = SealedSession::new(&*conn.key(Some(&route.org))?, id.as_str(), &content(event))?;
    sqlx::query(
        "INSERT INTO sessions (id, key, org, provider, installation, agent, conversation, thread, peer, status, created_ms, last_ms, \
         predecessor, binding, legacy, content) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'active', $10, $10, $11, $12, $13, $14)",
    )
    .bind(id.as_str())
    .bind(sealed.key)
    .bind(route.org.as_str())
    .bind(route.provider.as_str())
    .bind(route.installation.as_str())
    .bind(route.agent.as_str())
    .bind(sealed.conversation)
    .bind(sealed.thread)
    .bind(sealed.peer)
    .bind(now.ms())
    .bind(predecessor.map(SessionId::as_str))
    .bind(route.binding.as_ref().map(BindingId::as_str))
    .bind(i64::from(route.legacy))
    .bind(sealed.content)
    .execute(&mut **conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

/// What a start must know of sessions that something other than an event touched.
pub(in crate::store) async fn touched(conn: &mut Conn) -> Result<Touched, StoreError> {
    let imported = sqlx::query("SELECT 1 FROM sessions WHERE status = 'active' AND key = '' LIMIT 1");
    let imported = imported.fetch_optional(&mut **conn).await.map_err(failed)?.is_some();
    let mut touched = Touched { imported, ..Touched::default() };
    let rows = sqlx::query("SELECT followed_as, id FROM sessions WHERE followed_as IS NOT NULL AND successor IS NULL ORDER BY ended_ms")
        .fetch_all(&mut **conn)
        .await
        .map_err(failed)?;
    for row in rows {
        let (key, id): (String, String) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        touched.followed.insert(key, SessionId::parse(&id).ok_or_else(|| damaged(format!("id `{id}`")))?);
    }
    Ok(touched)
}

/// Keeps a session of an earlier system; `false` where it is kept already.
pub(in crate::store) async fn import(conn: &mut Conn, session: &ImportedSession, line: AuditRecord) -> Result<bool, StoreError> {
    let content = SessionContent {
        key: String::new(),
        conversation: session.conversation.clone().unwrap_or_default(),
        thread: session.thread.clone(),
        peer: Some(session.contact.clone()),
    };
    let sealed = SealedSession::new(&*conn.key(Some(&session.org))?, session.id.as_str(), &content)?;
    let done = sqlx::query(
        "INSERT INTO sessions (id, key, org, provider, installation, agent, conversation, thread, peer, status, created_ms, last_ms, content) \
         VALUES ($1, '', $2, $3, '', $4, $5, $6, $7, 'active', $8, $9, $10) ON CONFLICT (id) DO NOTHING",
    )
    .bind(session.id.as_str())
    .bind(session.org.as_str())
    .bind(session.provider.as_str())
    .bind(session.agent.as_str())
    .bind(sealed.conversation)
    .bind(sealed.thread)
    .bind(sealed.peer)
    .bind(session.created.ms())
    .bind(session.last.ms())
    .bind(sealed.content)
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    audit(conn, &[line]).await?;
    Ok(true)
}

/// An operator ends a session. What became of it, and the keys that are another session's from now on: its own, and the one
/// that its successor will have.
pub(in crate::store) async fn end(
    conn: &mut Conn,
    id: &SessionId,
    ending: &Ending,
    line: AuditRecord,
    now: Timestamp,
) -> Result<(Ended, Option<(String, String)>), StoreError> {
    let row = sqlx::query("SELECT status, key, org, provider, installation, agent, content FROM sessions WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(&mut **conn)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok((Ended::Unknown, None)) };
    let get = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    let (status, key, org) = (get(0)?, get(1)?, OrgId::parse(&get(2)?).map_err(damaged)?);
    if status != "active" {
        return Ok((Ended::Before, None));
    }
    let content_key = conn.key(Some(&org))?;
    let mut handed_content = None;
    let (word, followed_as) = match ending {
        Ending::Closed => ("closed", key.clone()),
        Ending::HandedTo(agent) => {
            if key.is_empty() || *agent.as_str() == get(5)? {
                return Ok((Ended::NotHandable, None));
            }
            let route = Route {
                org: org.clone(),
                provider: ProviderKind::parse(&get(3)?).ok_or_else(|| damaged("provider"))?,
                installation: InstallationId::parse(&get(4)?).map_err(damaged)?,
                binding: None,
                agent: agent.clone(),
                legacy: false,
            };
            let sealed: Vec<u8> = row.try_get(6).map_err(failed)?;
            let clear: SessionContent = open_json(&content_key, SESSIONS, id.as_str(), &sealed)?;
            let handed = SessionKey::new(&route, &clear.conversation, clear.thread.as_deref(), clear.peer.as_deref());
            let followed_as = session_digest(&content_key, handed.as_str());
            handed_content = Some(HandedContent { key: clear.key, handed_key: handed.as_str().to_owned() });
            ("handed_off", followed_as)
        }
    };
    sqlx::query("UPDATE sessions SET status = $2, ended_by = 'operator', ended_ms = $3, followed_as = $4 WHERE id = $1")
        .bind(id.as_str())
        .bind(word)
        .bind(now.ms())
        .bind(Some(followed_as.as_str()).filter(|k| !k.is_empty()))
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    match ending {
        // What was handed here goes back to what the binding says.
        Ending::Closed => {
            sqlx::query("DELETE FROM handed WHERE handed_key = $1").bind(key.as_str()).execute(&mut **conn).await.map_err(failed)?;
        }
        Ending::HandedTo(agent) => {
            if let Some(content) = handed_content {
                hand(conn, (&key, &followed_as), &content, (&org, agent), id, now).await?;
            }
        }
    }
    audit(conn, &[AuditRecord { org: Some(org), ..line }]).await?;
    Ok((Ended::Done, Some((key, followed_as))))
}

/// Records whose a conversation is now. A conversation that was handed on before keeps one row, from the key that the binding
/// gives to the agent that has it last; handed back to its first agent, it needs none.
async fn hand(
    conn: &mut Conn,
    (key, to): (&str, &str),
    content: &HandedContent,
    (org, agent): (&OrgId, &AgentId),
    session: &SessionId,
    now: Timestamp,
) -> Result<(), StoreError> {
    let content_key = conn.key(Some(org))?;
    let back = sqlx::query("DELETE FROM handed WHERE handed_key = $1 AND key = $2").bind(key).bind(to);
    let back = back.execute(&mut **conn).await.map_err(failed)?.rows_affected();
    let first = sqlx::query_as::<_, (String, Vec<u8>)>("SELECT key, content FROM handed WHERE handed_key = $1").bind(key);
    let first = first.fetch_optional(&mut **conn).await.map_err(failed)?;
    if back > 0 && first.is_none() {
        return Ok(());
    }
    let (first, content) = match first {
        Some((first, sealed)) => {
            let before: HandedContent = open_json(&content_key, HANDED, &first, &sealed)?;
            (first, HandedContent { key: before.key, handed_key: content.handed_key.clone() })
        }
        None => (key.to_owned(), content.clone()),
    };
    sqlx::query(
        "INSERT INTO handed (key, org, agent, handed_key, session, at_ms, content) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (key) DO UPDATE SET agent = excluded.agent, handed_key = excluded.handed_key, session = excluded.session, \
         at_ms = excluded.at_ms, content = excluded.content",
    )
    .bind(first.as_str())
    .bind(org.as_str())
    .bind(agent.as_str())
    .bind(to)
    .bind(session.as_str())
    .bind(now.ms())
    .bind(seal_json(&content_key, HANDED, &first, &content)?)
    .execute(&mut **conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

/// One more use of a legacy binding.
pub(in crate::store) async fn legacy_used(conn: &mut Conn, binding: &BindingId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO legacy_uses (binding, uses, last_ms) VALUES ($1, 1, $2) ON CONFLICT (binding) DO UPDATE \
         SET uses = legacy_uses.uses + 1, last_ms = excluded.last_ms",
    )
    .bind(binding.as_str())
    .bind(now.ms())
    .execute(&mut **conn)
    .await
    .map(|_| ())
    .map_err(failed)
}
