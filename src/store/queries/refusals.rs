//! Statements that keep refusals: a repeat is no row of its own but one more of the first one's count.

use std::collections::{HashMap, HashSet};

use sqlx::{AssertSqlSafe, Row};

use super::super::StoreError;
use super::super::conn::Conn;
use super::super::writer::failed;
use super::{ROWS_MAX, RefusalRow, many};
use crate::domain::ids::OrgId;

/// Milliseconds in which repeats are one row: a UTC day.
const WINDOW_MS: i64 = 86_400_000;

/// The fields in which repeats agree. The digest decides first: with the others it is the unique index of the table.
type Identity<'a> = (&'a str, &'a str, &'a str, &'a str, i64, i64);

fn identity<'a>(row: &'a RefusalRow<'_>) -> Identity<'a> {
    let r = row.record;
    let installation = r.installation.as_ref().map_or("", |i| i.as_str());
    (row.sealed.digest.as_str(), r.code.as_str(), r.profile.as_str(), installation, row.verdicts.last().copied().unwrap_or(0), window(row))
}

fn window(row: &RefusalRow<'_>) -> i64 {
    row.record.at.ms().div_euclid(WINDOW_MS)
}

/// Keeps refusals; those that made a row.
pub(in crate::store) async fn insert_refusals<'r, 'a>(
    conn: &mut Conn,
    rows: &'r [RefusalRow<'a>],
) -> Result<Vec<&'r RefusalRow<'a>>, StoreError> {
    const HEAD: &str = "INSERT INTO refusals (at_ms, provider, profile, installation, org, code, verdict, digest, content, request, day, \
         count, last_ms) VALUES";
    const TAIL: &str = " ON CONFLICT (digest, code, profile, COALESCE(installation, ''), COALESCE(verdict, 0), day) DO UPDATE \
         SET count = count + excluded.count, last_ms = MAX(last_ms, excluded.last_ms) RETURNING request, digest, code";
    // Repeats within the batch are one row of the statement.
    let mut places: HashMap<Identity<'r>, usize> = HashMap::new();
    let mut once: Vec<(&'r RefusalRow<'a>, i64, i64)> = Vec::new();
    for row in rows {
        let place = *places.entry(identity(row)).or_insert(once.len());
        match once.get_mut(place) {
            Some((_, count, last)) => (*count, *last) = (*count + 1, (*last).max(row.record.at.ms())),
            None => once.push((row, 1, row.record.at.ms())),
        }
    }
    let mut made: HashSet<(String, String, String)> = HashSet::new();
    for chunk in once.chunks(ROWS_MAX) {
        let sql = many(HEAD, 13, chunk.len(), TAIL);
        let query = chunk.iter().fold(sqlx::query(AssertSqlSafe(sql)), |q, (row, count, last)| {
            let r = row.record;
            q.bind(r.at.ms())
                .bind(r.provider.as_str())
                .bind(r.profile.as_str())
                .bind(r.installation.as_ref().map(|i| i.as_str()))
                .bind(r.org.as_ref().map(OrgId::as_str))
                .bind(r.code.as_str())
                .bind(row.verdicts.last().copied())
                .bind(row.sealed.digest.as_str())
                .bind(row.sealed.content.as_deref())
                .bind(r.request.as_str())
                .bind(window(row))
                .bind(*count)
                .bind(*last)
        });
        for found in query.fetch_all(&mut **conn).await.map_err(failed)? {
            let text = |i: usize| found.try_get::<String, _>(i).map_err(failed);
            made.insert((text(0)?, text(1)?, text(2)?));
        }
    }
    // A row that was there already has the request of its first.
    let is_made = |row: &RefusalRow<'_>| {
        let r = row.record;
        made.contains(&(r.request.to_string(), row.sealed.digest.clone(), r.code.to_string()))
    };
    Ok(once.into_iter().map(|(row, ..)| row).filter(|row| is_made(row)).collect())
}
