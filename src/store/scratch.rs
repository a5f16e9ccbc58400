//! A second connection to a store that is played with: what a gateway left behind is counted and read, and rows are damaged
//! as a broken migration would. For the failure-path matrix and for tests; the gateway itself never opens one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _};

use super::content::{REFUSALS, open_event};
use super::writer::failed;
use super::{StoreError, queries};
use crate::crypto::content::ContentKeys;

/// The tables whose rows a webhook may add to.
const TABLES: [&str; 9] = ["events", "dedupe", "deliveries", "decisions", "refusals", "audit", "sessions", "attempts", "sends"];

/// The columns of a row, the name that its content is authenticated with, and the sealed content.
type SealedColumns = (Map<String, Json>, String, Option<Vec<u8>>);

/// Rows by table.
pub type Counts = BTreeMap<&'static str, i64>;

/// The connection.
#[derive(Debug)]
pub struct Scratch(SqliteConnection, ContentKeys);

impl Scratch {
    /// Opens the file beside the gateway that has it.
    ///
    /// # Errors
    /// When it is no database.
    pub async fn open(file: &Path, keys: ContentKeys) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new().filename(file).busy_timeout(Duration::from_secs(30)).disable_statement_logging();
        options.connect().await.map(|conn| Self(conn, keys)).map_err(failed)
    }

    /// How many rows there are, table by table.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn counts(&mut self) -> Result<Counts, StoreError> {
        let mut all = Counts::new();
        for table in TABLES {
            let count = sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}")));
            all.insert(table, count.fetch_one(&mut self.0).await.map_err(failed)?);
        }
        Ok(all)
    }

    /// The rows of a query as JSON objects; bytes as text where they are text, else in hex.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rows(&mut self, sql: &str) -> Result<Vec<Json>, StoreError> {
        let found = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(&mut self.0).await.map_err(failed)?;
        found.iter().map(object).collect()
    }

    /// The audit lines after one, each as its words: actor, action, target, outcome, code, org, detail.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audit_after(&mut self, seq: i64) -> Result<Vec<String>, StoreError> {
        let sql = format!("SELECT actor, action, target, outcome, code, org, detail_json FROM audit WHERE seq > {seq} ORDER BY seq");
        let rows = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut self.0).await.map_err(failed)?;
        let line = |row: &SqliteRow| {
            let words = (0..row.columns().len()).map(|i| row.try_get::<Option<String>, _>(i).map(|w| w.unwrap_or_else(|| "-".into())));
            words.collect::<Result<Vec<_>, _>>().map(|words| words.join(" ")).map_err(failed)
        };
        rows.iter().map(line).collect()
    }

    /// The number of the last audit line.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn audited(&mut self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM audit").fetch_one(&mut self.0).await.map_err(failed)
    }

    /// The codes of the rejections of policies, the first one first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rejections(&mut self) -> Result<Vec<String>, StoreError> {
        let all = "SELECT COALESCE(code, '') FROM audit WHERE action = 'policies.load' AND outcome = 'refused' ORDER BY seq";
        sqlx::query_scalar(all).fetch_all(&mut self.0).await.map_err(failed)
    }

    /// How many attempts of deliveries were settled.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn attempts(&mut self) -> Result<usize, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM attempts").fetch_one(&mut self.0).await.map_err(failed)?;
        Ok(usize::try_from(count).unwrap_or_default())
    }

    /// The id of the session that was opened last.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_session(&mut self) -> Result<Option<String>, StoreError> {
        let last = sqlx::query_scalar("SELECT id FROM sessions ORDER BY rowid DESC LIMIT 1");
        last.fetch_optional(&mut self.0).await.map_err(failed)
    }

    /// Takes the lock that every write needs, until it is let go.
    ///
    /// # Errors
    /// When nobody else lets it go.
    pub async fn hold(&mut self) -> Result<(), StoreError> {
        queries::run(&mut self.0, "BEGIN IMMEDIATE").await
    }

    /// Lets the lock go.
    ///
    /// # Errors
    /// When it was not held.
    pub async fn let_go(&mut self) -> Result<(), StoreError> {
        queries::run(&mut self.0, "ROLLBACK").await
    }

    /// The refusals, as far as anybody may read them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refusals(&mut self) -> Result<Vec<Json>, StoreError> {
        let sql = "SELECT provider, profile, installation, org, code, request AS sealed_id, content FROM refusals";
        let mut all = Vec::new();
        for (mut row, id, sealed) in self.sealed_rows(sql).await? {
            let text = |name: &str| row.get(name).and_then(Json::as_str).unwrap_or_default();
            let key = self.1.of(Some(text("org")).filter(|org| !org.is_empty()));
            let excerpt = sealed.zip(key).and_then(|(sealed, key)| key.open(REFUSALS, &id, &sealed));
            row.insert("excerpt".into(), json!(excerpt.and_then(|excerpt| String::from_utf8(excerpt).ok())));
            all.push(Json::Object(row));
        }
        Ok(all)
    }

    /// The events with what was read in them, and their bytes.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events(&mut self) -> Result<Vec<Json>, StoreError> {
        let mut all = Vec::new();
        let sql = "SELECT org, installation, agent, kind, id AS sealed_id, content FROM events";
        for (mut row, id, sealed) in self.sealed_rows(sql).await? {
            let text = |name: &str| row.get(name).and_then(Json::as_str).unwrap_or_default();
            let key = self.1.of(Some(text("org"))).ok_or_else(|| StoreError::KeyMissing(text("org").to_owned()))?;
            let content = open_event(&key, &id, &sealed.unwrap_or_default())?;
            row.insert("provider_event_id".into(), content.provider_event_id.into());
            row.insert("normal_json".into(), serde_json::to_string(&content.normal).unwrap_or_default().into());
            row.insert("raw".into(), String::from_utf8(content.raw).unwrap_or_else(|e| hex::encode(e.into_bytes())).into());
            all.push(Json::Object(row));
        }
        Ok(all)
    }

    /// Rows with sealed content: the other columns, the name that the content is authenticated with, the content.
    async fn sealed_rows(&mut self, sql: &'static str) -> Result<Vec<SealedColumns>, StoreError> {
        let found = sqlx::query(sql).fetch_all(&mut self.0).await.map_err(failed)?;
        found
            .iter()
            .map(|row| {
                let mut shown = Map::new();
                for column in row.columns().iter().filter(|column| !["sealed_id", "content"].contains(&column.name())) {
                    shown.insert(column.name().to_owned(), value(row, column.ordinal())?);
                }
                Ok((shown, row.try_get("sealed_id").map_err(failed)?, row.try_get("content").map_err(failed)?))
            })
            .collect()
    }

    /// Changes rows behind the gateway's back; how many.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn damage(&mut self, sql: &str) -> Result<u64, StoreError> {
        let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut self.0).await.map_err(failed)?;
        Ok(done.rows_affected())
    }
}

fn object(row: &SqliteRow) -> Result<Json, StoreError> {
    let mut object = serde_json::Map::new();
    for column in row.columns() {
        object.insert(column.name().to_owned(), value(row, column.ordinal())?);
    }
    Ok(Json::Object(object))
}

fn value(row: &SqliteRow, i: usize) -> Result<Json, StoreError> {
    let raw = row.try_get_raw(i).map_err(failed)?;
    if raw.is_null() {
        return Ok(Json::Null);
    }
    let kind = raw.type_info().name().to_owned();
    Ok(match kind.as_str() {
        "INTEGER" | "BIGINT" => json!(row.try_get::<i64, _>(i).map_err(failed)?),
        "BLOB" => {
            let bytes = row.try_get::<Vec<u8>, _>(i).map_err(failed)?;
            String::from_utf8(bytes).map_or_else(|e| json!(hex::encode(e.into_bytes())), Json::String)
        }
        _ => json!(row.try_get::<String, _>(i).map_err(failed)?),
    })
}
