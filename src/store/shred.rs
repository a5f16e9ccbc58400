//! Statements that destroy what is kept of an org: its secrets with their key at once, what people said page by page.

use sqlx::{AssertSqlSafe, SqlitePool};

use super::conn::Conn;
use super::queries::{apply, run};
use super::writer::failed;
use super::{Change, StoreError, usage};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;
use crate::domain::record::AuditRecord;

/// One kind of row that holds what people said, or who they are.
pub(super) struct Piece {
    /// What it is called.
    pub name: &'static str,
    /// Which rows of an org still hold something.
    rows: &'static str,
    /// How those between two of them are emptied.
    wipe: &'static [&'static str],
}

/// Deliveries before the events that they carry, so that none is left without its event.
pub(super) const PIECES: [Piece; 6] = [
    Piece {
        name: "deliveries",
        rows: "FROM deliveries WHERE org = $1",
        wipe: &[
            "DELETE FROM attempts WHERE delivery IN (SELECT seq FROM deliveries WHERE org = $1 AND seq BETWEEN $2 AND $3)",
            "DELETE FROM deliveries WHERE org = $1 AND seq BETWEEN $2 AND $3",
        ],
    },
    Piece { name: "events", rows: "FROM events WHERE org = $1", wipe: &["DELETE FROM events WHERE org = $1 AND rowid BETWEEN $2 AND $3"] },
    Piece {
        name: "sessions",
        rows: "FROM sessions WHERE org = $1",
        wipe: &["DELETE FROM sessions WHERE org = $1 AND rowid BETWEEN $2 AND $3"],
    },
    Piece {
        name: "sends",
        rows: "FROM sends WHERE org = $1 AND content IS NOT NULL",
        wipe: &["UPDATE sends SET content = NULL, session = NULL, digest = '' WHERE org = $1 AND rowid BETWEEN $2 AND $3"],
    },
    // Which policies said what stays; what they could read names conversations. The digest goes with it, so that the same
    // question asked again is written down again.
    Piece {
        name: "decisions",
        rows: "FROM decisions WHERE org = $1 AND EXISTS (SELECT 1 FROM verdicts v WHERE v.seq = decisions.verdict AND v.content IS NOT NULL)",
        wipe: &["UPDATE verdicts SET content = NULL, digest = 'shredded:' || seq \
                 WHERE seq IN (SELECT verdict FROM decisions WHERE org = $1 AND rowid BETWEEN $2 AND $3)"],
    },
    Piece {
        name: "refusals",
        rows: "FROM refusals WHERE org = $1 AND content IS NOT NULL",
        wipe: &["UPDATE refusals SET content = NULL WHERE org = $1 AND rowid BETWEEN $2 AND $3"],
    },
];

/// Whose sealed values they are, and the key that they are sealed under.
const SECRETS: &str = "FROM secrets WHERE (kind = 'keys' AND owner = $1 AND field = 'org_key') \
    OR EXISTS (SELECT 1 FROM resources r WHERE r.kind = secrets.kind AND r.id = secrets.owner AND r.org = $1)";

/// Notes about single conversations: few rows, with people's ids sealed in them.
const NOTES: &[&str] = &[
    "DELETE FROM places WHERE installation IN (SELECT id FROM resources WHERE kind = 'installations' AND org = $1)",
    "DELETE FROM handed WHERE org = $1",
    "DELETE FROM files_seen WHERE installation IN (SELECT id FROM resources WHERE kind = 'installations' AND org = $1)",
];

/// Writes the table of sealed values anew.
const REWRITTEN: [&str; 4] = [
    "CREATE TABLE rewritten (kind TEXT NOT NULL, owner TEXT NOT NULL, field TEXT NOT NULL, slot TEXT NOT NULL, id TEXT NOT NULL, \
     sealed BLOB NOT NULL, fingerprint TEXT NOT NULL, set_ms BIGINT NOT NULL, until_ms BIGINT, PRIMARY KEY (kind, owner, field, slot)) WITHOUT ROWID",
    "INSERT INTO rewritten SELECT kind, owner, field, slot, id, sealed, fingerprint, set_ms, until_ms FROM secrets",
    "DROP TABLE secrets",
    "ALTER TABLE rewritten RENAME TO secrets",
];

pub(super) async fn count(pool: &SqlitePool, org: &OrgId) -> Result<Vec<(&'static str, i64)>, StoreError> {
    let mut counts = Vec::new();
    for (name, rows) in std::iter::once(("secrets", SECRETS)).chain(PIECES.iter().map(|p| (p.name, p.rows))) {
        let found = sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) {rows}"))).bind(org.as_str()).fetch_one(pool).await;
        counts.push((name, found.map_err(failed)?));
    }
    Ok(counts)
}

/// The next rows of a piece, at most `limit`: the first and the last, and how many.
pub(super) async fn next(pool: &SqlitePool, piece: &Piece, org: &OrgId, limit: i64) -> Result<Option<(i64, i64, usize)>, StoreError> {
    let sql = format!("SELECT rowid {} ORDER BY rowid LIMIT $2", piece.rows);
    let found: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(org.as_str()).bind(limit).fetch_all(pool).await.map_err(failed)?;
    Ok(found.first().zip(found.last()).map(|(first, last)| (*first, *last, found.len())))
}

/// Destroys the key, everything sealed and every note of a conversation, with what else changes of the org, as one.
pub(super) async fn secrets(
    conn: &mut Conn,
    org: &OrgId,
    changes: &[Change],
    lines: &[AuditRecord],
    now: Timestamp,
) -> Result<u64, StoreError> {
    let removed = sqlx::query(AssertSqlSafe(format!("DELETE {SECRETS}"))).bind(org.as_str()).execute(&mut **conn).await;
    let removed = removed.map_err(failed)?.rows_affected();
    for sql in NOTES {
        sqlx::query(*sql).bind(org.as_str()).execute(&mut **conn).await.map_err(failed)?;
    }
    // A page of the table may hold remains of cells that moved to other pages. A table that is written anew has none, and the
    // pages of the old one are overwritten as they become free.
    for sql in REWRITTEN {
        run(conn, sql).await?;
    }
    apply(conn, changes, lines, now).await?;
    Ok(removed)
}

/// Empties the rows of a piece between two of them.
pub(super) async fn wipe(conn: &mut Conn, piece: &Piece, org: &OrgId, first: i64, last: i64) -> Result<(), StoreError> {
    if piece.name == "events" {
        usage::events_removed(conn, org, first, last).await?;
    }
    for sql in piece.wipe {
        sqlx::query(*sql).bind(org.as_str()).bind(first).bind(last).execute(&mut **conn).await.map_err(failed)?;
    }
    Ok(())
}

/// Copies the log into the file and cuts it, so that no older page is left in it. `false` while somebody reads.
pub(super) async fn cut_log(pool: &SqlitePool) -> Result<bool, StoreError> {
    match sqlx::query_scalar::<_, i64>("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(pool).await.map_err(failed) {
        Ok(busy) => Ok(busy == 0),
        Err(StoreError::Busy(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
