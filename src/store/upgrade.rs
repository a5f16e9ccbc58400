//! Rows that an earlier build wrote in clear, sealed at the first start of this one. They lie in `plain_*` tables until then
//! (`schemas/sql/0010_sealed.sql`). A start that is cut off goes on where it was left. Part of `store`, floor 2.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};

use super::conn::Conn;
use super::content::{
    EVENTS, HANDED, HandedContent, PLACES, PlaceContent, REFUSALS, SENDS, SealedSession, SendContent, SessionContent, VERDICTS,
    conversation_digest, packed, place_id, seal, seal_json, session_digest,
};
use super::writer::failed;
use super::{Store, StoreError, queries, usage};
use crate::crypto::content::ContentKey;
use crate::domain::ids::{InstallationId, OrgId};
use crate::domain::installation::ProviderKind;

/// Rows that are sealed in one transaction.
const ROWS: i64 = 500;

/// The tables, questions first: the other rows name them.
const TABLES: [&str; 7] = ["verdicts", "sessions", "events", "refusals", "sends", "places", "handed"];

impl Store {
    /// Whether an earlier build left rows in clear.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_plain_rows(&self) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name LIKE 'plain\\_%' ESCAPE '\\'";
        Ok(sqlx::query(sql).fetch_optional(&self.0.readers).await.map_err(failed)?.is_some())
    }

    /// Seals the rows that an earlier build left in clear, and leaves no copy of them in the file or its log. Needs every org's
    /// key. Logs how far it is. `is_personal` tells whose event ids hold ids of persons.
    ///
    /// # Errors
    /// When the database does not answer; what was sealed before stays so.
    pub async fn seal_plain_rows(&self, is_personal: fn(ProviderKind) -> bool) -> Result<(), StoreError> {
        if !self.has_plain_rows().await? {
            return Ok(());
        }
        let orgs: Vec<(i64, Option<String>)> =
            sqlx::query_as("SELECT verdict, MIN(org) FROM decisions GROUP BY verdict").fetch_all(&self.0.readers).await.map_err(failed)?;
        let orgs: Arc<HashMap<i64, String>> = Arc::new(orgs.into_iter().filter_map(|(seq, org)| Some((seq, org?))).collect());
        let mut sealed = 0;
        for table in TABLES {
            loop {
                let orgs = Arc::clone(&orgs);
                let rows = self.task(move |conn| Box::pin(async move { next(conn, table, &orgs, is_personal).await })).await?;
                let Some(rows) = rows else { break };
                sealed += rows;
                tracing::info!(table, rows = sealed, "rows of an earlier build are being sealed");
            }
        }
        self.refresh_usage().await?;
        // Pages that became free under the earlier build may hold what people said.
        sqlx::query("VACUUM").execute(&self.0.readers).await.map_err(failed)?;
        self.cut_log().await?;
        if sealed > 0 {
            tracing::info!(rows = sealed, "every row of an earlier build is sealed");
        }
        Ok(())
    }
}

/// Seals the next rows of a table; `None` when its last row was sealed before.
async fn next(
    conn: &mut Conn,
    table: &'static str,
    orgs: &HashMap<i64, String>,
    is_personal: fn(ProviderKind) -> bool,
) -> Result<Option<usize>, StoreError> {
    let there = sqlx::query("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'plain_' || $1").bind(table);
    if there.fetch_optional(&mut **conn).await.map_err(failed)?.is_none() {
        return Ok(None);
    }
    let order = match table {
        "places" => "installation, conversation",
        "handed" => "key",
        _ => "rowid",
    };
    // The org of a note is its installation's; the org of a handed-over conversation is the first part of its key.
    let org = match table {
        "places" => ", (SELECT org FROM resources WHERE kind = 'installations' AND id = installation) AS org",
        "handed" => ", substr(key, 1, instr(key, '/') - 1) AS org",
        _ => "",
    };
    let sql = format!("SELECT *{org} FROM plain_{table}");
    let rows = sqlx::query(AssertSqlSafe(format!("{sql} ORDER BY {order} LIMIT {ROWS}"))).fetch_all(&mut **conn).await.map_err(failed)?;
    if rows.is_empty() {
        sqlx::query(AssertSqlSafe(format!("DROP TABLE plain_{table}"))).execute(&mut **conn).await.map_err(failed)?;
        return Ok(None);
    }
    for row in &rows {
        one(conn, table, row, orgs, is_personal).await?;
    }
    let done = format!("DELETE FROM plain_{table} WHERE ({order}) IN (SELECT {order} FROM plain_{table} ORDER BY {order} LIMIT {ROWS})");
    sqlx::query(AssertSqlSafe(done)).execute(&mut **conn).await.map_err(failed)?;
    Ok(Some(rows.len()))
}

fn text(row: &SqliteRow, column: &str) -> Result<Option<String>, StoreError> {
    row.try_get(column).map_err(failed)
}

fn number(row: &SqliteRow, column: &str) -> Result<Option<i64>, StoreError> {
    row.try_get(column).map_err(failed)
}

fn needed(row: &SqliteRow, column: &str) -> Result<String, StoreError> {
    row.try_get(column).map_err(failed)
}

/// Seals one row. The content of an org that was removed, and whose key went with it, is dropped.
async fn one(
    conn: &mut Conn,
    table: &str,
    row: &SqliteRow,
    orgs: &HashMap<i64, String>,
    is_personal: fn(ProviderKind) -> bool,
) -> Result<(), StoreError> {
    let org = match table {
        "verdicts" => number(row, "seq")?.and_then(|seq| orgs.get(&seq).cloned()),
        _ => text(row, "org")?,
    };
    let parsed = org.as_deref().and_then(|org| OrgId::parse(org).ok());
    let Ok(key) = conn.key(parsed.as_ref()) else {
        tracing::warn!(table, org, "a row of an org without a key is dropped");
        return Ok(());
    };
    match table {
        "verdicts" => verdict(conn, row, parsed.as_ref(), &key).await,
        "sessions" => session(conn, row, &key).await,
        "events" => event(conn, row, &key, is_personal).await,
        "refusals" => refusal(conn, row, &key).await,
        "sends" => send(conn, row, &key).await,
        "places" => place(conn, row, &key).await,
        _ => handed(conn, row, parsed.as_ref(), &key).await,
    }
}

/// Copies the columns that stay as they are, and sets the others.
async fn copy(
    conn: &mut Conn,
    (table, order): (&str, (&str, &str)),
    columns: &str,
    set: &str,
    texts: &[Option<String>],
    content: Option<Vec<u8>>,
) -> Result<(), StoreError> {
    let places: String = (0..texts.len()).map(|n| format!("${}, ", n + 3)).collect();
    let sql = format!(
        "INSERT OR IGNORE INTO {table} ({columns}, {set}{}content) SELECT {columns}, {places}$2 FROM plain_{table} WHERE {} = $1",
        if set.is_empty() { "" } else { ", " },
        order.0
    );
    let query = sqlx::query(AssertSqlSafe(sql)).bind(order.1).bind(content);
    texts.iter().fold(query, |query, text| query.bind(text.as_deref())).execute(&mut **conn).await.map(|_| ()).map_err(failed)
}

async fn verdict(conn: &mut Conn, row: &SqliteRow, org: Option<&OrgId>, key: &ContentKey) -> Result<(), StoreError> {
    let facts = needed(row, "facts_json")?;
    let allowed = if number(row, "allowed")? == Some(1) { "1" } else { "0" };
    let whole = [
        needed(row, "action")?,
        needed(row, "principal")?,
        needed(row, "resource")?,
        facts.clone(),
        allowed.to_owned(),
        text(row, "code")?.unwrap_or_default(),
        needed(row, "policies_json")?,
        needed(row, "version")?,
    ];
    let digest = key.digest(VERDICTS, &whole.join("\0"));
    let content = seal(key, VERDICTS, &digest, facts.as_bytes())?;
    let seq = number(row, "seq")?.unwrap_or_default().to_string();
    let columns = "seq, action, principal, resource, allowed, code, policies_json, version";
    let texts = [Some(digest), org.map(ToString::to_string)];
    copy(conn, (VERDICTS, ("seq", &seq)), columns, "digest, org", &texts, Some(content)).await?;
    // Nobody wrote down when it was last asked: retention counts from the last decision there is.
    sqlx::query("UPDATE verdicts SET last_ms = COALESCE((SELECT at_ms FROM decisions ORDER BY seq DESC LIMIT 1), 0) WHERE seq = $1")
        .bind(seq)
        .execute(&mut **conn)
        .await
        .map(|_| ())
        .map_err(failed)
}

async fn session(conn: &mut Conn, row: &SqliteRow, key: &ContentKey) -> Result<(), StoreError> {
    let id = needed(row, "id")?;
    let content = SessionContent {
        key: needed(row, "key")?,
        conversation: needed(row, "conversation")?,
        thread: text(row, "thread")?,
        peer: text(row, "peer")?,
    };
    let sealed = SealedSession::new(key, &id, &content)?;
    let followed = text(row, "followed_as")?.map(|followed| session_digest(key, &followed));
    let columns =
        "id, org, provider, installation, agent, status, created_ms, last_ms, predecessor, binding, legacy, successor, ended_ms, ended_by";
    let texts = [Some(sealed.key), Some(sealed.conversation), sealed.thread, sealed.peer, followed];
    copy(conn, ("sessions", ("id", &id)), columns, "key, conversation, thread, peer, followed_as", &texts, Some(sealed.content)).await
}

async fn event(conn: &mut Conn, row: &SqliteRow, key: &ContentKey, is_personal: fn(ProviderKind) -> bool) -> Result<(), StoreError> {
    let id = needed(row, "id")?;
    let raw: Vec<u8> = row.try_get("raw").map_err(failed)?;
    let (event, normal) = (needed(row, "provider_event_id")?, needed(row, "normal_json")?);
    let content = seal(key, EVENTS, &id, &packed(&[event.as_bytes(), normal.as_bytes(), &raw]))?;
    let columns = "seq, id, received_ms, org, installation, agent, session, kind, decision_first, decision_count, meta_json";
    usage::stored_bytes_added(conn, &needed(row, "org")?, content.len()).await?;
    copy(conn, (EVENTS, ("id", &id)), columns, "", &[], Some(content)).await?;
    queries::redigest_dedupe(conn, &id, key, is_personal).await
}

async fn refusal(conn: &mut Conn, row: &SqliteRow, key: &ContentKey) -> Result<(), StoreError> {
    let (seq, request) = (number(row, "seq")?.unwrap_or_default().to_string(), needed(row, "request")?);
    let content = text(row, "excerpt")?.map(|excerpt| seal(key, REFUSALS, &request, excerpt.as_bytes())).transpose()?;
    let digest = key.digest(REFUSALS, &needed(row, "digest")?);
    let columns = "seq, at_ms, provider, profile, installation, org, code, verdict, request";
    copy(conn, (REFUSALS, ("seq", &seq)), columns, "digest", &[Some(digest)], content).await?;
    sqlx::query("UPDATE refusals SET last_ms = at_ms WHERE seq = $1").bind(seq).execute(&mut **conn).await.map(|_| ()).map_err(failed)
}

async fn send(conn: &mut Conn, row: &SqliteRow, key: &ContentKey) -> Result<(), StoreError> {
    let id = needed(row, "id")?;
    let answer = text(row, "answer_json")?;
    let content = SendContent {
        conversation: text(row, "conversation")?,
        provider_message_id: text(row, "provider_message_id")?,
        answer: answer.as_deref().and_then(|answer| serde_json::from_str(answer).ok()).unwrap_or_default(),
    };
    let content = answer.map(|_| seal_json(key, SENDS, &id, &content)).transpose()?;
    let digest = conn.key(None)?.digest(SENDS, &needed(row, "digest")?);
    let columns = "seq, id, agent, key, state, status, org, installation, session, credential, owner, fallback, code, decision_first, \
         decision_count, created_ms, finished_ms";
    copy(conn, (SENDS, ("id", &id)), columns, "digest", &[Some(digest)], content).await
}

async fn place(conn: &mut Conn, row: &SqliteRow, key: &ContentKey) -> Result<(), StoreError> {
    let (installation, conversation) = (needed(row, "installation")?, needed(row, "conversation")?);
    let Ok(id) = InstallationId::parse(&installation) else { return Ok(()) };
    let digest = conversation_digest(key, &conversation);
    let content = PlaceContent { conversation, moved_to: text(row, "moved_to")? };
    sqlx::query("INSERT OR IGNORE INTO places (installation, conversation, state, at_ms, content) VALUES ($1, $2, $3, $4, $5)")
        .bind(installation)
        .bind(digest.as_str())
        .bind(needed(row, "state")?)
        .bind(number(row, "at_ms")?)
        .bind(seal_json(key, PLACES, &place_id(&id, &digest), &content)?)
        .execute(&mut **conn)
        .await
        .map(|_| ())
        .map_err(failed)
}

async fn handed(conn: &mut Conn, row: &SqliteRow, org: Option<&OrgId>, key: &ContentKey) -> Result<(), StoreError> {
    let content = HandedContent { key: needed(row, "key")?, handed_key: needed(row, "handed_key")? };
    let digest = session_digest(key, &content.key);
    sqlx::query("INSERT OR IGNORE INTO handed (key, org, agent, handed_key, session, at_ms, content) VALUES ($1, $2, $3, $4, $5, $6, $7)")
        .bind(digest.as_str())
        .bind(org.map(OrgId::as_str))
        .bind(needed(row, "agent")?)
        .bind(session_digest(key, &content.handed_key))
        .bind(needed(row, "session")?)
        .bind(number(row, "at_ms")?)
        .bind(seal_json(key, HANDED, &digest, &content)?)
        .execute(&mut **conn)
        .await
        .map(|_| ())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use sqlx::{ConnectOptions as _, Connection as _};
    use zeroize::Zeroizing;

    use super::*;
    use crate::config::{Limits, RolloutSection};
    use crate::domain::clock::{Clock, Timestamp};
    use crate::domain::ids::{EventId, ProfileId};
    use crate::domain::installation::{ExternalAccount, Installation, InstallationStatus, Ownership};
    use crate::domain::lifecycle::Place;
    use crate::store::ListFilter;

    /// One row of each kind, as the build before wrote them.
    const ROWS_IN_CLEAR: &str = "
        INSERT INTO verdicts VALUES (7, 'd', 'RouteMessage', 'p', 'r', '{\"context\":{\"conversation\":\"C0CLEAR\"}}', 1, NULL, '[]', 'v');
        INSERT INTO decisions VALUES (3, 1, 'acme', 'evt_1', 7);
        INSERT INTO sessions (id, key, org, provider, installation, agent, conversation, peer, status, created_ms, last_ms, followed_as)
            VALUES ('ses_1', 'acme/whatsapp/i/a/C0CLEAR//', 'acme', 'whatsapp', 'i', 'a', 'C0CLEAR', 'U0CLEAR', 'active', 1, 1, 'acme/x');
        INSERT INTO events VALUES (9, 'evt_1', 5, 'acme', 'i', 'a', 'ses_1', 'message', 'wamid.0CLEAR', 3, 1,
            '{\"provider\":\"whatsapp\",\"mode\":\"byoa\",\"profile\":\"p\",\"binding\":\"\",\"type\":\"message.received\",\"provider_event_type\":\"text\",\"principal\":\"x\",\"verified_with\":\"current\",\"media_type\":\"application/json\",\"session_new\":true,\"request\":\"req_1\"}',
            '{\"text\":\"said in clear\"}', CAST('{\"text\":\"said in clear\"}' AS BLOB));
        INSERT INTO dedupe VALUES ('wamid.0CLEAR:i', 'i', 'evt_1', 99);
        INSERT INTO refusals VALUES (4, 1, 'whatsapp', 'p', 'i', 'acme', 'org.suspended', NULL, 'digest', 'said in clear', 'req_2');
        INSERT INTO sends (seq, id, agent, key, digest, state, status, answer_json, org, conversation, fallback, provider_message_id, created_ms)
            VALUES (2, 'msg_1', 'a', 'k', 'digest', 'sent', 200, '{\"id\":\"msg_1\"}', 'acme', 'C0CLEAR', 0, 'wamid.1CLEAR', 1);
        INSERT INTO places VALUES ('i', 'C0CLEAR', 'moved', 'C1CLEAR', 1);
        INSERT INTO handed VALUES ('acme/whatsapp/i/a/C0CLEAR//', 'b', 'acme/whatsapp/i/b/C0CLEAR//', 'ses_1', 1);";

    #[tokio::test]
    async fn rows_of_an_earlier_build_are_sealed_and_leave_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data/byoa.db");
        super::super::private::prepare(&file).unwrap();
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let mut conn = options.connect().await.unwrap();
        super::super::sqlite::tests::migrated_to(&mut conn, 9).await;
        sqlx::raw_sql(ROWS_IN_CLEAR).execute(&mut conn).await.unwrap();
        let installation = Installation {
            id: InstallationId::parse("i").unwrap(),
            profile: ProfileId::parse("p").unwrap(),
            org: OrgId::parse("acme").unwrap(),
            provider: ProviderKind::WhatsApp,
            owner: Ownership::Platform,
            account: ExternalAccount::WhatsApp { waba_id: "1".into(), phone_number_id: "2".into() },
            status: InstallationStatus::Active,
            epoch: 1,
            connected_at: Timestamp::from_secs(1),
            status_reason: None,
            since: None,
            declared: None,
        };
        sqlx::query("INSERT INTO resources VALUES ('installations', 'i', 'acme', $1, 1, 1)")
            .bind(serde_json::to_string(&installation).unwrap())
            .execute(&mut conn)
            .await
            .unwrap();
        conn.close().await.unwrap();

        let url = format!("sqlite:{}", file.display());
        let clock = Clock::manual(Timestamp::from_secs(1));
        let store = Store::open(&url, &Limits::default(), &RolloutSection::default(), &clock).await.unwrap();
        for org in [None, Some("acme")] {
            store.content_keys().add(org, &Zeroizing::new([7; 32]));
        }
        assert!(store.has_plain_rows().await.unwrap());
        store.seal_plain_rows(|_| true).await.unwrap();
        assert!(!store.has_plain_rows().await.unwrap());
        store.seal_plain_rows(|_| true).await.unwrap();

        let view = store.event_view(&EventId::parse("evt_1").unwrap()).await.unwrap().unwrap();
        assert_eq!((view.normal.text.as_deref(), view.raw.as_slice()), (Some("said in clear"), br#"{"text":"said in clear"}"#.as_slice()));
        assert_eq!((view.session_key.as_str(), view.provider_event_id.as_str()), ("acme/whatsapp/i/a/C0CLEAR//", "wamid.0CLEAR"));
        let filter = ListFilter { limit: 9, ..ListFilter::default() };
        for (kind, text) in [
            ("sessions", "U0CLEAR"),
            ("decisions", "C0CLEAR"),
            ("refusals", "said in clear"),
            ("sends", "wamid.1CLEAR"),
            ("events", "wamid.0CLEAR"),
        ] {
            let page = store.list(kind, &filter).await.unwrap().unwrap();
            assert!(page.items.len() == 1 && page.items[0].to_string().contains(text), "{kind}: {:?}", page.items);
        }
        let bytes = store.usage(&OrgId::parse("acme").unwrap()).stored_bytes;
        assert!(bytes > 24, "the sealed event is counted: {bytes}");
        assert_eq!(store.place(&installation, "C0CLEAR").await.unwrap(), Place::Moved { to: "C1CLEAR".into() });
        store.reload().await.unwrap();
        assert!(store.directory().was_handed("acme/whatsapp/i/b/C0CLEAR//"));
        store.close().await;
        for entry in std::fs::read_dir(dir.path().join("data")).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for text in ["CLEAR", "said in clear"] {
                assert!(memchr::memmem::find(&bytes, text.as_bytes()).is_none(), "{text} is in {}", path.display());
            }
        }
    }
}
