//! Statements of the sweep: pages of what is old enough, read beside the writer; and the removals, which the writer is given by
//! their numbers. Each removal looks again at what it is given: between the two, rows change.

use sqlx::{AssertSqlSafe, Row, SqlitePool};

use super::super::conn::Conn;
use super::super::writer::failed;
use super::super::{StoreError, usage};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;

/// Numbers as the JSON list that statements take.
pub(super) fn list(seqs: &[i64]) -> String {
    serde_json::to_string(seqs).unwrap_or_default()
}

/// Runs statements over the rows of these numbers (`$1`; `$2` is a time in milliseconds); how many rows the last one changed.
pub(super) async fn over(conn: &mut Conn, statements: &[&str], seqs: &[i64], ms: i64) -> Result<u64, StoreError> {
    let mut changed = 0;
    for sql in statements {
        let ran = sqlx::query(AssertSqlSafe((*sql).to_owned())).bind(list(seqs)).bind(ms).execute(&mut **conn).await;
        changed = ran.map_err(failed)?.rows_affected();
    }
    Ok(changed)
}

/// Why a body is removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum Removed {
    /// Its time has passed.
    Retention,
    /// It was one person's, and an operator removed that person's data.
    Purge,
}

impl Removed {
    fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Purge => "purge",
        }
    }
}

/// Removes bodies and normalised texts of events: the one place that does. An event whose delivery is open keeps its own.
/// How many were removed. Bytes that are accounted for elsewhere are given back here.
pub(in crate::store) async fn remove_bodies(conn: &mut Conn, seqs: &[i64], why: Removed, now: Timestamp) -> Result<u64, StoreError> {
    const THESE: &str = "seq IN (SELECT value FROM json_each($1)) AND body_removed_ms IS NULL \
         AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.seq = events.seq AND d.settled_ms IS NULL)";
    let sums = format!("SELECT org, SUM(octet_length(content)) FROM events WHERE {THESE} AND content IS NOT NULL GROUP BY org");
    let sums: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(sums)).bind(list(seqs)).fetch_all(&mut **conn).await.map_err(failed)?;
    for (org, bytes) in sums {
        if let Ok(org) = OrgId::parse(&org) {
            usage::stored_bytes_removed(conn, &org, bytes).await?;
        }
    }
    let sql = format!("UPDATE events SET content = NULL, body_removed_ms = $2, body_removed_by = '{}' WHERE {THESE}", why.as_str());
    over(conn, &[&sql], seqs, now.ms()).await
}

/// What a page of numbered rows comes to.
#[derive(Default)]
pub(in crate::store) struct Aged {
    /// The rows that are old enough.
    pub old: Vec<i64>,
    /// The last row that was looked at.
    pub last: i64,
    /// Whether older rows may lie behind it.
    pub more: bool,
}

/// Bytes of bodies in one piece: freeing a long body reads all its pages.
const PIECE_BYTES_MAX: i64 = 256 * 1024;

/// A page of rows `(number, time, bytes)` in the order of their numbers. Where that is the order of their times too, they are looked
/// at up to the last one that is old enough: a clock that was ahead for a while must not end the walk.
fn aged(rows: &[(i64, i64, i64)], before: i64, limit: i64, in_time: bool) -> Aged {
    let end = if in_time { rows.iter().rposition(|(_, at, _)| *at <= before) } else { rows.len().checked_sub(1) };
    let Some(end) = end else { return Aged::default() };
    let mut page = Aged::default();
    let mut bytes = 0;
    for (seq, at, size) in rows.iter().take(end + 1) {
        bytes += size;
        if bytes > PIECE_BYTES_MAX && page.last != 0 {
            page.more = true;
            return page;
        }
        page.last = *seq;
        if *at <= before {
            page.old.push(*seq);
        }
    }
    page.more = i64::try_from(rows.len()).is_ok_and(|n| n == limit);
    page
}

async fn page(pool: &SqlitePool, sql: &str, after: i64, before: i64, limit: i64, in_time: bool) -> Result<Aged, StoreError> {
    let rows: Vec<(i64, i64, i64)> =
        sqlx::query_as(AssertSqlSafe(sql.to_owned())).bind(after).bind(limit).fetch_all(pool).await.map_err(failed)?;
    Ok(aged(&rows, before, limit, in_time))
}

/// How far a sweep got.
pub(in crate::store) async fn swept(pool: &SqlitePool, kind: &str) -> Result<i64, StoreError> {
    let seq = sqlx::query_scalar("SELECT seq FROM swept WHERE kind = $1").bind(kind).fetch_optional(pool).await.map_err(failed)?;
    Ok(seq.unwrap_or(0))
}

async fn keep_swept(conn: &mut Conn, kind: &str, seq: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO swept (kind, seq) VALUES ($1, $2) ON CONFLICT (kind) DO UPDATE SET seq = excluded.seq";
    sqlx::query(sql).bind(kind).bind(seq).execute(&mut **conn).await.map(|_| ()).map_err(failed)
}

/// Events with a body from before a time, behind a number.
pub(in crate::store) async fn aged_bodies(pool: &SqlitePool, after: i64, before: Timestamp, limit: i64) -> Result<Aged, StoreError> {
    let sql = "SELECT seq, received_ms, COALESCE(OCTET_LENGTH(content), 0) FROM events WHERE seq > $1 ORDER BY seq LIMIT $2";
    page(pool, sql, after, before.ms(), limit, true).await
}

/// Removes the bodies of a page, notes which events were passed over, and how far the sweep got.
pub(in crate::store) async fn sweep_bodies(conn: &mut Conn, after: i64, page: &Aged, now: Timestamp) -> Result<u64, StoreError> {
    let removed = remove_bodies(conn, &page.old, Removed::Retention, now).await?;
    sqlx::query(
        "INSERT INTO put_off (seq) SELECT seq FROM events WHERE seq > $1 AND seq <= $2 AND body_removed_ms IS NULL ON CONFLICT DO NOTHING",
    )
    .bind(after)
    .bind(page.last)
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    keep_swept(conn, "bodies", page.last).await?;
    Ok(removed)
}

/// Events that were passed over and are not waited for any more: their delivery is settled, or they are gone.
pub(in crate::store) async fn put_off(pool: &SqlitePool, after: i64, before: Timestamp, limit: i64) -> Result<Vec<i64>, StoreError> {
    sqlx::query_scalar(
        "SELECT p.seq FROM put_off p LEFT JOIN events e ON e.seq = p.seq LEFT JOIN deliveries d ON d.seq = p.seq \
         WHERE p.seq > $1 AND (e.seq IS NULL OR e.body_removed_ms IS NOT NULL OR (e.received_ms <= $2 AND d.settled_ms IS NOT NULL)) \
         ORDER BY p.seq LIMIT $3",
    )
    .bind(after)
    .bind(before.ms())
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed)
}

/// Removes bodies that were put off.
pub(in crate::store) async fn sweep_put_off(conn: &mut Conn, seqs: &[i64], now: Timestamp) -> Result<u64, StoreError> {
    let removed = remove_bodies(conn, seqs, Removed::Retention, now).await?;
    sqlx::query(
        "DELETE FROM put_off WHERE seq IN (SELECT value FROM json_each($1)) \
         AND NOT EXISTS (SELECT 1 FROM events e WHERE e.seq = put_off.seq AND e.body_removed_ms IS NULL)",
    )
    .bind(list(seqs))
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    Ok(removed)
}

/// A kind of row that goes as a whole when its time has passed.
pub(in crate::store) struct AgedRows {
    /// The kind.
    pub name: &'static str,
    /// Number, time and zero of the rows behind `$1`, at most `$2`.
    page: &'static str,
    /// Removes those of the numbers `$1` from before `$2`. The last row stays, so that no number is given twice.
    remove: &'static [&'static str],
}

/// Rows that go as a whole. An event goes when its body is gone, so never with an open delivery.
pub(in crate::store) const EVENTS: AgedRows = AgedRows {
    name: "events",
    page: "SELECT seq, received_ms, 0 FROM events WHERE seq > $1 ORDER BY seq LIMIT $2",
    remove: &[
        "DELETE FROM attempts WHERE delivery IN (SELECT seq FROM events WHERE seq IN (SELECT value FROM json_each($1)) \
         AND received_ms <= $2 AND body_removed_ms IS NOT NULL AND seq < (SELECT MAX(seq) FROM events))",
        "DELETE FROM deliveries WHERE seq IN (SELECT seq FROM events WHERE seq IN (SELECT value FROM json_each($1)) \
         AND received_ms <= $2 AND body_removed_ms IS NOT NULL AND seq < (SELECT MAX(seq) FROM events))",
        "DELETE FROM events WHERE seq IN (SELECT value FROM json_each($1)) AND received_ms <= $2 AND body_removed_ms IS NOT NULL \
         AND seq < (SELECT MAX(seq) FROM events)",
    ],
};

/// Attempts have no number of their own: those of a delivery go together, once it is settled. What is left of a delivery that was
/// open goes with its event.
pub(in crate::store) const ATTEMPTS: AgedRows = AgedRows {
    name: "attempts",
    page: "SELECT seq, created_ms, 0 FROM deliveries WHERE seq > $1 ORDER BY seq LIMIT $2",
    remove: &["DELETE FROM attempts WHERE delivery IN (SELECT seq FROM deliveries WHERE seq IN (SELECT value FROM json_each($1)) \
               AND settled_ms IS NOT NULL) AND at_ms <= $2"],
};

pub(in crate::store) const REFUSALS: AgedRows = AgedRows {
    name: "refusals",
    page: "SELECT seq, last_ms, 0 FROM refusals WHERE seq > $1 ORDER BY seq LIMIT $2",
    remove: &["DELETE FROM refusals WHERE seq IN (SELECT value FROM json_each($1)) AND last_ms <= $2 \
               AND seq < (SELECT MAX(seq) FROM refusals)"],
};

pub(in crate::store) const SENDS: AgedRows = AgedRows {
    name: "sends",
    page: "SELECT seq, created_ms, 0 FROM sends WHERE seq > $1 ORDER BY seq LIMIT $2",
    remove: &["DELETE FROM sends WHERE seq IN (SELECT value FROM json_each($1)) AND created_ms <= $2 AND state <> 'started' \
               AND seq < (SELECT MAX(seq) FROM sends)"],
};

pub(in crate::store) const DECISIONS: AgedRows = AgedRows {
    name: "decisions",
    page: "SELECT seq, at_ms, 0 FROM decisions WHERE seq > $1 ORDER BY seq LIMIT $2",
    remove: &["DELETE FROM decisions WHERE seq IN (SELECT value FROM json_each($1)) AND at_ms <= $2 \
               AND seq < (SELECT MAX(seq) FROM decisions)"],
};

pub(in crate::store) const AUDIT: AgedRows = AgedRows {
    name: "audit",
    page: "SELECT seq, at_ms, 0 FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2",
    remove: &["DELETE FROM audit WHERE seq IN (SELECT value FROM json_each($1)) AND at_ms <= $2 AND seq < (SELECT MAX(seq) FROM audit)"],
};

/// The facts of questions that nobody asked for long. The digest goes with them, so that the same question asked again is written
/// down again; what the policies said stays, for the audit.
pub(in crate::store) const FACTS: AgedRows = AgedRows {
    name: "facts",
    page: "SELECT seq, last_ms, 0 FROM verdicts WHERE seq > $1 AND digest NOT LIKE 'removed:%' ORDER BY seq LIMIT $2",
    remove: &["UPDATE verdicts SET content = NULL, digest = 'removed:' || seq \
               WHERE seq IN (SELECT value FROM json_each($1)) AND last_ms <= $2"],
};

impl AgedRows {
    /// A page of them behind a number.
    pub(in crate::store) async fn page(&self, pool: &SqlitePool, after: i64, before: Timestamp, limit: i64) -> Result<Aged, StoreError> {
        page(pool, self.page, after, before.ms(), limit, self.name != FACTS.name).await
    }

    /// Removes them, as far as they still may go; where `kept`, notes how far the sweep got.
    pub(in crate::store) async fn remove(&self, conn: &mut Conn, page: &Aged, before: Timestamp, kept: bool) -> Result<u64, StoreError> {
        let removed = over(conn, self.remove, &page.old, before.ms()).await?;
        if kept {
            keep_swept(conn, self.name, page.last).await?;
        }
        Ok(removed)
    }
}

/// Sessions that ended before a time, or in which nothing was said since: number and id.
pub(in crate::store) async fn aged_sessions(
    pool: &SqlitePool,
    after: i64,
    before: Timestamp,
    limit: i64,
) -> Result<(Vec<(i64, String)>, Aged), StoreError> {
    let rows =
        sqlx::query("SELECT rowid, created_ms, COALESCE(ended_ms, last_ms), id FROM sessions WHERE rowid > $1 ORDER BY rowid LIMIT $2")
            .bind(after)
            .bind(limit)
            .fetch_all(pool)
            .await
            .map_err(failed)?;
    let (mut created, mut over) = (Vec::new(), Vec::new());
    for row in rows {
        let number: i64 = row.try_get(0).map_err(failed)?;
        created.push((number, row.try_get(1).map_err(failed)?, 0));
        if row.try_get::<i64, _>(2).map_err(failed)? <= before.ms() {
            over.push((number, row.try_get(3).map_err(failed)?));
        }
    }
    Ok((over, aged(&created, before.ms(), limit, true)))
}

/// Removes sessions, as far as they still may go: the keys that nobody must remember any more, and the ids.
pub(in crate::store) async fn remove_sessions(
    conn: &mut Conn,
    rows: &[i64],
    before: Timestamp,
) -> Result<Vec<(String, String)>, StoreError> {
    sqlx::query_as(
        "DELETE FROM sessions WHERE rowid IN (SELECT value FROM json_each($1)) AND COALESCE(ended_ms, last_ms) <= $2 \
         RETURNING key, id",
    )
    .bind(list(rows))
    .bind(before.ms())
    .fetch_all(&mut **conn)
    .await
    .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_behind_its_last_old_row_or_where_its_bytes_are_enough() {
        let page = aged(&[(1, 10, 5), (2, 99, 5), (3, 10, 5), (4, 99, 5)], 50, 4, true);
        assert_eq!((page.old, page.last, page.more), (vec![1, 3], 3, true), "the second came from a clock that was ahead");
        let page = aged(&[(1, 10, 5), (2, 10, 5)], 50, 4, true);
        assert_eq!((page.old, page.last, page.more), (vec![1, 2], 2, false));
        let page = aged(&[(7, 99, 5)], 50, 1, true);
        assert_eq!((page.old, page.last, page.more), (vec![], 0, false));
        let page = aged(&[(1, 10, PIECE_BYTES_MAX * 3), (2, 10, 1), (3, 10, PIECE_BYTES_MAX)], 50, 4, true);
        assert_eq!((page.old, page.last, page.more), (vec![1], 1, true), "a long body is a piece by itself");
        let page = aged(&[(1, 99, 0), (2, 99, 0)], 50, 2, false);
        assert_eq!((page.old, page.last, page.more), (vec![], 2, true), "rows that are not in the order of their times");
    }
}
