//! What the store holds of each org, in memory for whoever checks quotas, and the statements behind it. The rows of `org_usage`
//! change in the transaction that changes the events; the copy in memory follows the commit.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, SqliteConnection, SqlitePool};

use super::content::dedupe_of;
use super::queries::tail_first;
use super::writer::failed;
use super::{NewEvent, Store, StoreError, lock, writer};
use crate::domain::ids::{InstallationId, OrgId};
use crate::domain::quota::OrgUsage;

/// Bytes of stored events by org.
pub(super) type StoredBytes = HashMap<String, u64>;

/// The bytes of events: what their providers sent, and their readings, sealed.
const EVENT_BYTES: &str = "SUM(octet_length(content))";

impl Store {
    /// What the store holds of an org.
    pub fn usage(&self, org: &OrgId) -> OrgUsage {
        OrgUsage {
            open_deliveries: u64::try_from(lock(&self.0.outbox).open_of(org.as_str())).unwrap_or(u64::MAX),
            stored_bytes: lock(&self.0.stored_bytes).get(org.as_str()).copied().unwrap_or(0),
        }
    }

    /// Reads the stored bytes of every org anew: after events were removed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn refresh_usage(&self) -> Result<(), StoreError> {
        let stored_bytes = self.0.stored_bytes.clone();
        // In the writer, so that no commit comes between the reading and the copy.
        self.task_that(writer::Wake::No, move |conn| {
            Box::pin(async move {
                let fresh = stored_bytes_by_org(conn).await?;
                *lock(&stored_bytes) = fresh;
                Ok(())
            })
        })
        .await
    }

    /// Whether each of these events was accepted before.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn all_accepted(&self, events: &[&NewEvent]) -> Result<bool, StoreError> {
        for event in events {
            let key = dedupe_of(&self.0.keys, event)?;
            if !is_accepted(&self.0.readers, &key, &event.route.installation).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

async fn is_accepted(pool: &SqlitePool, key: &str, installation: &InstallationId) -> Result<bool, StoreError> {
    let found = sqlx::query("SELECT 1 FROM dedupe WHERE key = $1 AND installation = $2").bind(tail_first(key)).bind(installation.as_str());
    found.fetch_optional(pool).await.map(|row| row.is_some()).map_err(failed)
}

/// The stored bytes of every org.
pub(super) async fn stored_bytes_by_org(conn: &mut SqliteConnection) -> Result<StoredBytes, StoreError> {
    let rows: Vec<(String, i64)> = sqlx::query_as("SELECT org, stored_bytes FROM org_usage").fetch_all(conn).await.map_err(failed)?;
    Ok(rows.into_iter().map(|(org, bytes)| (org, u64::try_from(bytes).unwrap_or(0))).collect())
}

/// Adds the bytes of the events from number `first` on, which this transaction inserted: one statement for all of them. The
/// new sums of their orgs.
pub(super) async fn events_added(conn: &mut SqliteConnection, first: i64) -> Result<StoredBytes, StoreError> {
    let sql = format!(
        "INSERT INTO org_usage (org, stored_bytes) SELECT org, COALESCE({EVENT_BYTES}, 0) FROM events WHERE seq >= $1 GROUP BY org \
         ON CONFLICT (org) DO UPDATE SET stored_bytes = stored_bytes + excluded.stored_bytes RETURNING org, stored_bytes"
    );
    let rows: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(sql)).bind(first).fetch_all(conn).await.map_err(failed)?;
    Ok(rows.into_iter().map(|(org, bytes)| (org, u64::try_from(bytes).unwrap_or(0))).collect())
}

/// Adds the bytes of one event.
pub(super) async fn stored_bytes_added(conn: &mut SqliteConnection, org: &str, bytes: usize) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO org_usage (org, stored_bytes) VALUES ($1, $2) \
         ON CONFLICT (org) DO UPDATE SET stored_bytes = stored_bytes + excluded.stored_bytes",
    )
    .bind(org)
    .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
    .execute(conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

/// Takes off the bytes of an org's events between two rows, which this transaction is about to delete.
pub(super) async fn events_removed(conn: &mut SqliteConnection, org: &OrgId, first: i64, last: i64) -> Result<(), StoreError> {
    let sql = format!("SELECT COALESCE({EVENT_BYTES}, 0) FROM events WHERE org = $1 AND seq BETWEEN $2 AND $3");
    let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(org.as_str()).bind(first).bind(last);
    let bytes: i64 = query.fetch_one(&mut *conn).await.map_err(failed)?;
    stored_bytes_removed(conn, org, bytes).await
}

/// Takes bytes off an org's sum, for whoever removes events or their bodies, in that transaction. The copy in memory follows
/// with the next [`Store::refresh_usage`].
pub(super) async fn stored_bytes_removed(conn: &mut SqliteConnection, org: &OrgId, bytes: i64) -> Result<(), StoreError> {
    sqlx::query("UPDATE org_usage SET stored_bytes = MAX(0, stored_bytes - $2) WHERE org = $1")
        .bind(org.as_str())
        .bind(bytes)
        .execute(conn)
        .await
        .map(|_| ())
        .map_err(failed)
}
