//! Statements about files that an installation's own events told of. Part of `store`, floor 2.

use sqlx::{SqliteConnection, SqlitePool};

use super::StoreError;
use super::content::key_of;
use super::writer::failed;
use crate::crypto::content::{ContentKey, ContentKeys};
use crate::domain::clock::Timestamp;
use crate::domain::ids::InstallationId;
use crate::domain::installation::Installation;

/// Files that are remembered of one installation: beyond it the oldest are forgotten.
pub(super) const FILES_MAX: i64 = 10_000;

/// Rows that are forgotten at a time.
const PIECE_ROWS: i64 = 256;

/// A file's id as its row holds it.
pub(super) fn digest(key: &ContentKey, file: &str) -> String {
    key.digest("file", file)
}

/// True where events of the installation told of each of these files.
///
/// # Errors
/// [`StoreError::KeyMissing`], and when the database does not answer.
pub(super) async fn seen(pool: &SqlitePool, keys: &ContentKeys, installation: &Installation, files: &[String]) -> Result<bool, StoreError> {
    let key = key_of(keys, Some(&installation.org))?;
    for file in files {
        let row: Option<i64> = sqlx::query_scalar("SELECT seq FROM files_seen WHERE installation = $1 AND file = $2")
            .bind(installation.id.as_str())
            .bind(digest(&key, file))
            .fetch_optional(pool)
            .await
            .map_err(failed)?;
        if row.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Remembers files, by their digests, and forgets the oldest beyond `files_max` of the installation.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn see(
    conn: &mut SqliteConnection,
    installation: &InstallationId,
    files: &[String],
    files_max: i64,
    at: Timestamp,
) -> Result<(), StoreError> {
    for file in files {
        sqlx::query("INSERT OR REPLACE INTO files_seen (installation, file, seen_ms) VALUES ($1, $2, $3)")
            .bind(installation.as_str())
            .bind(file.as_str())
            .bind(at.ms())
            .execute(&mut *conn)
            .await
            .map_err(failed)?;
    }
    if files.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "DELETE FROM files_seen WHERE installation = $1 \
         AND seq <= (SELECT seq FROM files_seen WHERE installation = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
    )
    .bind(installation.as_str())
    .bind(files_max)
    .execute(&mut *conn)
    .await
    .map(|_| ())
    .map_err(failed)
}

/// Forgets a piece of the files that were last told of before a time; how many they were.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn forget(conn: &mut SqliteConnection, before: Timestamp) -> Result<u64, StoreError> {
    sqlx::query("DELETE FROM files_seen WHERE seq IN (SELECT seq FROM files_seen WHERE seen_ms <= $1 ORDER BY seen_ms LIMIT $2)")
        .bind(before.ms())
        .bind(PIECE_ROWS)
        .execute(&mut *conn)
        .await
        .map(|done| done.rows_affected())
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    #[tokio::test]
    async fn the_oldest_files_are_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let mut opened = sqlite::open(&format!("sqlite:{}", folder.path().join("data/byoa.db").display())).await.unwrap();
        let (one, other) = (InstallationId::parse("one").unwrap(), InstallationId::parse("other").unwrap());
        let at = Timestamp::from_secs;
        let files = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        see(&mut opened.writer, &other, &files(&["z"]), 3, at(1)).await.unwrap();
        see(&mut opened.writer, &one, &files(&["a", "b", "c"]), 3, at(2)).await.unwrap();
        // What is told of again is new again.
        see(&mut opened.writer, &one, &files(&["a", "d"]), 3, at(3)).await.unwrap();
        see(&mut opened.writer, &one, &[], 0, at(4)).await.unwrap();
        let kept = sqlx::query_scalar::<_, String>("SELECT file FROM files_seen ORDER BY seq").fetch_all(&mut opened.writer).await.unwrap();
        assert_eq!(kept.concat(), "zcad");
        assert_eq!(forget(&mut opened.writer, at(2)).await.unwrap(), 2);
        let left = sqlx::query_scalar::<_, String>("SELECT file FROM files_seen ORDER BY seq").fetch_all(&mut opened.writer).await.unwrap();
        assert_eq!(left.concat(), "ad");
        assert_eq!(forget(&mut opened.writer, at(2)).await.unwrap(), 0);
    }
}
