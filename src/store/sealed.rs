//! Statements about sealed values as such: which key each names, page by page, and the same value under another key.

use sqlx::{Row, SqlitePool};

use super::conn::Conn;
use super::writer::failed;
use super::{SealedRow, StoreError};
use crate::crypto::envelope::KeyId;
use crate::domain::record::AuditRecord;

/// How many values name each key. Those that name none are damaged, and told of where they are opened.
pub(super) async fn under(pool: &SqlitePool) -> Result<Vec<(KeyId, i64)>, StoreError> {
    let rows = sqlx::query("SELECT substr(sealed, 2, 8), COUNT(*) FROM secrets WHERE length(sealed) > 9 GROUP BY 1")
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let id: Vec<u8> = row.try_get(0).map_err(failed)?;
        if let Some(id) = KeyId::from_bytes(&id) {
            found.push((id, row.try_get(1).map_err(failed)?));
        }
    }
    Ok(found)
}

/// Values in the order of their places, behind one of them.
pub(super) async fn page(pool: &SqlitePool, after: Option<&SealedRow>, limit: i64) -> Result<Vec<SealedRow>, StoreError> {
    let (kind, owner, field, slot) =
        after.map_or(("", "", "", ""), |r| (r.kind.as_str(), r.owner.as_str(), r.field.as_str(), r.slot.as_str()));
    let rows = sqlx::query(
        "SELECT kind, owner, field, slot, sealed FROM secrets WHERE (kind, owner, field, slot) > ($1, $2, $3, $4) \
         ORDER BY kind, owner, field, slot LIMIT $5",
    )
    .bind(kind)
    .bind(owner)
    .bind(field)
    .bind(slot)
    .bind(limit)
    .fetch_all(pool)
    .await
    .map_err(failed)?;
    rows.iter().map(row).collect()
}

/// The gateway's own keys.
pub(super) async fn keys(pool: &SqlitePool) -> Result<Vec<SealedRow>, StoreError> {
    let rows =
        sqlx::query("SELECT kind, owner, field, slot, sealed FROM secrets WHERE kind = 'keys'").fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(row).collect()
}

fn row(row: &sqlx::sqlite::SqliteRow) -> Result<SealedRow, StoreError> {
    let text = |i: usize| row.try_get::<String, _>(i).map_err(failed);
    Ok(SealedRow { kind: text(0)?, owner: text(1)?, field: text(2)?, slot: text(3)?, sealed: row.try_get(4).map_err(failed)? })
}

/// Puts values back under another key, each only where it still is what was read.
pub(super) async fn reseal(conn: &mut Conn, rows: &[(SealedRow, Vec<u8>)], line: AuditRecord) -> Result<u64, StoreError> {
    let mut moved = 0;
    for (row, sealed) in rows {
        moved += sqlx::query("UPDATE secrets SET sealed = $1 WHERE kind = $2 AND owner = $3 AND field = $4 AND slot = $5 AND sealed = $6")
            .bind(sealed.as_slice())
            .bind(row.kind.as_str())
            .bind(row.owner.as_str())
            .bind(row.field.as_str())
            .bind(row.slot.as_str())
            .bind(row.sealed.as_slice())
            .execute(&mut **conn)
            .await
            .map_err(failed)?
            .rows_affected();
    }
    super::queries::audit(conn, &[line]).await?;
    Ok(moved)
}
