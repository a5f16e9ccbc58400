//! Statements about rollout: flags, and the matrix runs that promotions rest on.

use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use super::super::conn::Conn;
use super::super::writer::failed;
use super::super::{Change, StoreError};
use super::apply;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{InstallationId, MatrixRunId};
use crate::domain::installation::ProviderKind;
use crate::domain::record::AuditRecord;
use crate::domain::rollout::{
    Flag, FlagChange, FlagRecord, GlobalChange, GlobalRecord, MatrixRun, NewMatrixRun, RollbackMode, RolloutStage,
};

fn damaged(why: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("flags: {why}"))
}

fn text(row: &SqliteRow, name: &str) -> Result<String, StoreError> {
    row.try_get(name).map_err(failed)
}

fn number(row: &SqliteRow, name: &str) -> Result<i64, StoreError> {
    row.try_get(name).map_err(failed)
}

/// The global switches and every provider's flag, in the order people list them.
pub(in crate::store) async fn flags(pool: &SqlitePool) -> Result<(GlobalRecord, Vec<FlagRecord>), StoreError> {
    let rows = sqlx::query("SELECT * FROM flags").fetch_all(pool).await.map_err(failed)?;
    let mut global = None;
    let mut records = Vec::new();
    for row in &rows {
        let (name, changed_by) = (text(row, "name")?, text(row, "changed_by")?);
        let reason: Option<String> = row.try_get("reason").map_err(failed)?;
        let (changed_at, version) = (Timestamp::from_ms(number(row, "changed_ms")?), number(row, "version")?);
        if name == "global" {
            let mode = text(row, "rollback_mode")?;
            global = Some(GlobalRecord {
                enabled: number(row, "enabled")? != 0,
                legacy_fallback: number(row, "legacy_fallback")? != 0,
                rollback_mode: RollbackMode::parse(&mode).ok_or_else(|| damaged(format!("unknown rollback mode `{mode}`")))?,
                reason,
                changed_by,
                changed_at,
                version,
            });
            continue;
        }
        let stage = text(row, "stage")?;
        let flag = Flag {
            stage: RolloutStage::parse(&stage).ok_or_else(|| damaged(format!("unknown stage `{stage}`")))?,
            canary: serde_json::from_str(&text(row, "canary")?).map_err(damaged)?,
            percent: u8::try_from(number(row, "percent")?).map_err(damaged)?,
            ..Flag::default()
        };
        records.push(FlagRecord {
            provider: ProviderKind::parse(&name).ok_or_else(|| damaged(format!("unknown provider `{name}`")))?,
            flag,
            reason,
            changed_by,
            changed_at,
            staged_at: Timestamp::from_ms(number(row, "staged_ms")?),
            version,
            evidence: row.try_get("evidence").map_err(failed)?,
            rolled_back_run: number(row, "rolled_back_run")?,
        });
    }
    let global = global.ok_or_else(|| damaged("the row `global` is not there"))?;
    for record in &mut records {
        let flag = &mut record.flag;
        (flag.enabled, flag.legacy_fallback, flag.rollback_mode) = (global.enabled, global.legacy_fallback, global.rollback_mode);
        flag.canary.sort();
    }
    records.sort_by_key(|r| r.provider);
    Ok((global, records))
}

/// `false` when somebody else changed it first: nothing was changed then.
pub(in crate::store) async fn change_flag(
    conn: &mut Conn,
    change: &FlagChange,
    audit: &[AuditRecord],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE flags SET staged_ms = CASE WHEN stage = $2 THEN staged_ms ELSE $3 END, stage = $2, canary = $4, percent = $5, \
         reason = $6, changed_by = $7, changed_ms = $3, evidence = COALESCE($8, evidence), version = version + 1, \
         rolled_back_run = CASE WHEN $9 = 1 THEN MAX(rolled_back_run + 1, (SELECT COALESCE(MAX(seq), 0) FROM matrix_runs)) ELSE rolled_back_run END \
         WHERE name = $1 AND version = $10",
    )
    .bind(change.provider.as_str())
    .bind(change.stage.as_str())
    .bind(now.ms())
    .bind(serde_json::to_string(&change.canary).map_err(damaged)?)
    .bind(i64::from(change.percent))
    .bind(change.reason.as_deref())
    .bind(change.by.as_str())
    .bind(change.evidence.as_deref())
    .bind(i64::from(change.rolls_back))
    .bind(change.version)
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    recorded(conn, done.rows_affected(), audit, now).await
}

/// `false` when somebody else changed them first: nothing was changed then.
pub(in crate::store) async fn change_global(
    conn: &mut Conn,
    change: &GlobalChange,
    audit: &[AuditRecord],
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE flags SET enabled = $1, legacy_fallback = $2, rollback_mode = $3, reason = $4, changed_by = $5, changed_ms = $6, \
         version = version + 1 WHERE name = 'global' AND version = $7",
    )
    .bind(i64::from(change.enabled))
    .bind(i64::from(change.legacy_fallback))
    .bind(change.rollback_mode.as_str())
    .bind(change.reason.as_deref())
    .bind(change.by.as_str())
    .bind(now.ms())
    .bind(change.version)
    .execute(&mut **conn)
    .await
    .map_err(failed)?;
    recorded(conn, done.rows_affected(), audit, now).await
}

async fn recorded(conn: &mut Conn, rows: u64, audit: &[AuditRecord], now: Timestamp) -> Result<bool, StoreError> {
    if rows == 0 {
        return Ok(false);
    }
    apply(conn, &[] as &[Change], audit, now).await?;
    Ok(true)
}

/// The last run for a provider.
pub(in crate::store) async fn last_run(pool: &SqlitePool, provider: ProviderKind) -> Result<Option<MatrixRun>, StoreError> {
    let row = sqlx::query("SELECT * FROM matrix_runs WHERE provider = $1 ORDER BY seq DESC LIMIT 1")
        .bind(provider.as_str())
        .fetch_optional(pool)
        .await
        .map_err(failed)?;
    row.map(|row| run_of(&row)).transpose()
}

fn run_of(row: &SqliteRow) -> Result<MatrixRun, StoreError> {
    let provider = text(row, "provider")?;
    Ok(MatrixRun {
        seq: number(row, "seq")?,
        id: text(row, "id")?,
        at: Timestamp::from_ms(number(row, "at_ms")?),
        provider: ProviderKind::parse(&provider).ok_or_else(|| damaged(format!("unknown provider `{provider}`")))?,
        policy_version: text(row, "policy_version")?,
        build: text(row, "build")?,
        played: number(row, "played")?,
        red: number(row, "red")?,
    })
}

/// Every run that is kept, the last one first.
pub(in crate::store) async fn kept_runs(pool: &SqlitePool, provider: Option<ProviderKind>) -> Result<Vec<MatrixRun>, StoreError> {
    let rows = sqlx::query("SELECT * FROM matrix_runs WHERE provider = COALESCE($1, provider) ORDER BY seq DESC")
        .bind(provider.map(ProviderKind::as_str))
        .fetch_all(pool)
        .await
        .map_err(failed)?;
    rows.iter().map(run_of).collect()
}

/// What is kept of one run: each provider's part with its cases, as JSON.
pub(in crate::store) async fn kept_run(pool: &SqlitePool, id: &MatrixRunId) -> Result<Vec<(MatrixRun, String)>, StoreError> {
    let rows =
        sqlx::query("SELECT * FROM matrix_runs WHERE id = $1 ORDER BY seq").bind(id.as_str()).fetch_all(pool).await.map_err(failed)?;
    rows.iter().map(|row| Ok((run_of(row)?, text(row, "report_json")?))).collect()
}

/// Runs kept of each provider, besides those that a flag names as its evidence.
const RUNS_KEPT: i64 = 20;

/// Keeps a run, each provider's part in a row, and lets go of old ones. The provider that was rolled back since the run
/// began, where there is one: nothing is kept then.
pub(in crate::store) async fn keep_run(
    conn: &mut Conn,
    parts: &[NewMatrixRun],
    audit: &[AuditRecord],
    now: Timestamp,
) -> Result<Option<ProviderKind>, StoreError> {
    for part in parts {
        let unmoved = sqlx::query("SELECT 1 FROM flags WHERE name = $1 AND rolled_back_run = $2")
            .bind(part.provider.as_str())
            .bind(part.rolled_back_run)
            .fetch_optional(&mut **conn)
            .await
            .map_err(failed)?;
        if unmoved.is_none() {
            return Ok(Some(part.provider));
        }
    }
    for part in parts {
        // Behind every run and every roll-back: which of them came first must not hang on a clock.
        sqlx::query(
            "INSERT INTO matrix_runs (seq, id, at_ms, provider, policy_version, build, played, red, report_json) \
             VALUES (1 + MAX((SELECT COALESCE(MAX(seq), 0) FROM matrix_runs), (SELECT MAX(rolled_back_run) FROM flags)), \
             $1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(part.id.as_str())
        .bind(part.at.ms())
        .bind(part.provider.as_str())
        .bind(&*part.policy_version)
        .bind(&*part.build)
        .bind(part.played)
        .bind(part.red)
        .bind(part.report.as_str())
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
        sqlx::query(
            "DELETE FROM matrix_runs WHERE provider = $1 AND id NOT IN (SELECT evidence FROM flags WHERE evidence IS NOT NULL) \
             AND seq NOT IN (SELECT seq FROM matrix_runs WHERE provider = $1 ORDER BY seq DESC LIMIT $2)",
        )
        .bind(part.provider.as_str())
        .bind(RUNS_KEPT)
        .execute(&mut **conn)
        .await
        .map_err(failed)?;
    }
    apply(conn, &[] as &[Change], audit, now).await?;
    Ok(None)
}

/// How many events came in through these installations since then, counted no further than `enough`.
pub(in crate::store) async fn events_since(
    pool: &SqlitePool,
    installations: &[InstallationId],
    since: Timestamp,
    enough: i64,
) -> Result<i64, StoreError> {
    let ids: Vec<&str> = installations.iter().map(|i| i.as_str()).collect();
    // Event ids begin with their time, and there is an index of them; there is none of times.
    let first = crate::domain::ids::EventId::first_at(since);
    sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT 1 FROM events WHERE id >= $1 AND installation IN (SELECT value FROM json_each($2)) LIMIT $3)",
    )
    .bind(first)
    .bind(serde_json::to_string(&ids).map_err(damaged)?)
    .bind(enough)
    .fetch_one(pool)
    .await
    .map_err(failed)
}
