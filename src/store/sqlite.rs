//! SQLite: opening, pragmas, locks, checkpoints. WAL with `synchronous=FULL`, so that a commit is on disk before anybody
//! is told; one writer connection, readers beside it, checkpoints on a connection of their own (measured: ack p99 6.8 →
//! 2.7 ms, `docs/performance.md`).

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};
use tokio::sync::watch;

use super::{StoreError, private};
use crate::config::RolloutSection;
use crate::domain::clock::Timestamp;
use crate::domain::installation::ProviderKind;
use crate::domain::reason::ReasonCode;
use crate::domain::rollout::RolloutStage;

/// The first release without the WAL-reset corruption (<https://sqlite.org/wal.html#walresetbug>).
const LIBRARY_MIN: i32 = 3_051_003;

/// Every migration, oldest first: version, description, text. Forward only.
const MIGRATIONS: [(i64, &str, &str); 11] = [
    (1, "gateway", include_str!("../../schemas/sql/0001_gateway.sql")),
    (2, "flags", include_str!("../../schemas/sql/0002_flags.sql")),
    (3, "sessions", include_str!("../../schemas/sql/0003_sessions.sql")),
    (5, "lifecycle", include_str!("../../schemas/sql/0005_lifecycle.sql")),
    (6, "sessions by conversation", include_str!("../../schemas/sql/0006_sessions_by_conversation.sql")),
    (9, "rollout", include_str!("../../schemas/sql/0009_rollout.sql")),
    (10, "sealed", include_str!("../../schemas/sql/0010_sealed.sql")),
    (11, "repeated refusals", include_str!("../../schemas/sql/0011_refusals.sql")),
    (12, "retention", include_str!("../../schemas/sql/0012_retention.sql")),
    (13, "quotas", include_str!("../../schemas/sql/0013_quotas.sql")),
    (15, "files seen", include_str!("../../schemas/sql/0015_files_seen.sql")),
];

pub(super) struct Opened {
    pub readers: SqlitePool,
    pub writer: SqliteConnection,
    pub checkpointer: SqliteConnection,
    pub lock: File,
}

fn refused(code: ReasonCode, message: impl Into<String>) -> StoreError {
    StoreError::Refused { code, message: message.into() }
}

/// The file a store URL names.
pub(super) fn file_of(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("sqlite:")?;
    let path = path.strip_prefix("//").unwrap_or(path);
    let path = path.split('?').next().unwrap_or(path);
    if path.is_empty() || path == ":memory:" { None } else { Some(Path::new(path)) }
}

pub(super) async fn open(url: &str) -> Result<Opened, StoreError> {
    let Some(file) = file_of(url) else {
        return Err(refused(ReasonCode::ConfigInvalid, format!("store.url: `{url}` names no file; write sqlite:PATH")));
    };
    // Whatever would weaken durability is refused by name rather than corrected in silence.
    if let Some(query) = url.split_once('?').map(|(_, q)| q.to_ascii_lowercase())
        && !query.is_empty()
    {
        return Err(refused(
            ReasonCode::StoreDurabilityWeak,
            format!("store.url: `?{query}` is not taken: the store runs on WAL and synchronous=FULL"),
        ));
    }
    let found = libsqlite3_version();
    if found < LIBRARY_MIN {
        return Err(refused(
            ReasonCode::StoreDurabilityWeak,
            format!("SQLite {found} can corrupt its WAL; at least {LIBRARY_MIN} is needed"),
        ));
    }
    private::prepare(file)?;
    let lock = lock(file)?;
    let options = SqliteConnectOptions::from_str(&format!("sqlite:{}", file.display()))
        .map_err(|e| StoreError::Unavailable(e.to_string()))?
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Slack waits three seconds for its answer; ours, even a 503, must be there before.
        .busy_timeout(Duration::from_secs(1))
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
        .disable_statement_logging();
    // The writer commits; it does not stop to copy pages back. Pages that it frees are overwritten, so that no key of a shredded
    // org is left in one.
    let mut writer =
        connect(&options.clone().pragma("wal_autocheckpoint", "0").pragma("secure_delete", "ON").statement_cache_capacity(512), file)
            .await?;
    check_durability(&mut writer).await?;
    migrate(&mut writer, file).await?;
    let checkpointer = connect(&options, file).await?;
    let readers =
        SqlitePoolOptions::new().max_connections(4).connect_with(options.pragma("query_only", "0")).await.map_err(|e| from_sqlx(&e))?;
    Ok(Opened { readers, writer, checkpointer, lock })
}

fn libsqlite3_version() -> i32 {
    libsqlite3_sys::SQLITE_VERSION_NUMBER
}

/// A file beside the database is locked, not the database: SQLite's own locks on it come and go with transactions.
fn lock(file: &Path) -> Result<File, StoreError> {
    let path = PathBuf::from(format!("{}.lock", file.display()));
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| StoreError::Unavailable(format!("{}: {e}", path.display())))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(_) => Err(refused(ReasonCode::StoreLocked, format!("{} is open in another process", file.display()))),
    }
}

async fn connect(options: &SqliteConnectOptions, file: &Path) -> Result<SqliteConnection, StoreError> {
    SqliteConnection::connect_with(options).await.map_err(|e| named(from_sqlx(&e), file))
}

fn named(error: StoreError, file: &Path) -> StoreError {
    match error {
        StoreError::Corrupt(m) => {
            refused(ReasonCode::StoreCorrupt, format!("{}: {m}; restore the latest backup of the file", file.display()))
        }
        other => other,
    }
}

async fn check_durability(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *conn).await.map_err(|e| from_sqlx(&e))?;
    let sync: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&mut *conn).await.map_err(|e| from_sqlx(&e))?;
    if mode != "wal" || sync < 2 {
        return Err(refused(
            ReasonCode::StoreDurabilityWeak,
            format!("journal_mode={mode}, synchronous={sync}: the file system does not give WAL with FULL"),
        ));
    }
    Ok(())
}

/// The migrations up to a version.
fn migrator(last: i64) -> Migrator {
    let migrations = MIGRATIONS
        .into_iter()
        .filter(|(version, ..)| *version <= last)
        .map(|(version, name, sql)| Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false))
        .collect();
    Migrator::with_migrations(migrations)
}

async fn migrate(conn: &mut SqliteConnection, file: &Path) -> Result<(), StoreError> {
    let check: Result<String, _> = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *conn).await;
    match check {
        Ok(word) if word == "ok" => {}
        Ok(word) => return Err(named(StoreError::Corrupt(word), file)),
        Err(e) => return Err(named(from_sqlx(&e), file)),
    }
    match migrator(i64::MAX).run(&mut *conn).await {
        Ok(()) => Ok(()),
        Err(sqlx::migrate::MigrateError::VersionMissing(version)) => {
            Err(refused(ReasonCode::StoreSchemaNewer, format!("{}: schema {version} was written by a newer build", file.display())))
        }
        Err(sqlx::migrate::MigrateError::VersionMismatch(version)) => {
            Err(refused(ReasonCode::StoreSchemaNewer, format!("{}: schema {version} differs from this build's", file.display())))
        }
        Err(e) => Err(StoreError::Unavailable(e.to_string())),
    }
}

/// Seeds flags that do not exist; a live one is never reset.
pub(super) async fn seed_flags(pool: &SqlitePool, rollout: &RolloutSection, now: Timestamp) -> Result<(), StoreError> {
    let enabled = rollout.initial.values().any(|s| *s != RolloutStage::Off);
    let mut rows = vec![("global".to_owned(), i64::from(enabled), RolloutStage::Off)];
    for provider in ProviderKind::ALL {
        rows.push((provider.as_str().to_owned(), 1, rollout.initial.get(&provider).copied().unwrap_or_default()));
    }
    for (name, enabled, stage) in rows {
        sqlx::query(super::queries::SEED_FLAG)
            .bind(name)
            .bind(enabled)
            .bind(stage.as_str())
            .bind(now.ms())
            .execute(pool)
            .await
            .map_err(|e| from_sqlx(&e))?;
    }
    Ok(())
}

/// How often pages are copied back while commits come in.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(20);

/// Copies committed pages from the log into the file, away from the writer, and tells it how long the log is.
pub(super) async fn checkpoints(mut conn: SqliteConnection, mut committed: watch::Receiver<u64>, log_pages: Arc<AtomicI64>) {
    // Ends when the writer does.
    while committed.changed().await.is_ok() {
        tokio::time::sleep(CHECKPOINT_EVERY).await;
        let row = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&mut conn).await;
        if let Ok(pages) = row.and_then(|row| row.try_get::<i64, _>(1)) {
            log_pages.store(pages, Ordering::Relaxed);
        }
    }
    let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut conn).await;
    let _ = conn.close().await;
}

/// Sorts SQLite's result codes (<https://sqlite.org/rescode.html>) into what callers can act on.
pub(super) fn from_sqlx(error: &sqlx::Error) -> StoreError {
    let text = error.to_string();
    let Some(db) = error.as_database_error() else { return StoreError::Unavailable(text) };
    if db.is_unique_violation() || db.is_foreign_key_violation() || db.is_check_violation() {
        return StoreError::Conflict(text);
    }
    match db.code().and_then(|c| c.parse::<i32>().ok()).map(|c| c & 0xff) {
        Some(13) => StoreError::Full(text),
        Some(5 | 6) => StoreError::Busy(text),
        Some(11 | 26) => StoreError::Corrupt(text),
        _ => StoreError::Unavailable(text),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A database as an earlier build left it.
    pub async fn migrated_to(conn: &mut SqliteConnection, last: i64) {
        migrator(last).run(conn).await.unwrap();
    }

    #[test]
    fn the_library_has_no_wal_reset_bug() {
        assert!(libsqlite3_version() >= LIBRARY_MIN);
    }

    #[test]
    fn a_store_url_names_its_file() {
        assert_eq!(file_of("sqlite:data/byoa.db"), Some(Path::new("data/byoa.db")));
        assert_eq!(file_of("sqlite:///var/byoa.db"), Some(Path::new("/var/byoa.db")));
        assert_eq!(file_of("sqlite::memory:"), None);
        assert_eq!(file_of("postgres://h/db"), None);
    }

    async fn refused(url: &str) -> ReasonCode {
        match open(url).await {
            Err(error) => error.code(),
            Ok(_) => panic!("{url} opened"),
        }
    }

    #[tokio::test]
    async fn what_may_not_be_opened_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data/byoa.db");
        let url = format!("sqlite:{}", file.display());
        for weak in ["?synchronous=normal", "?mode=memory"] {
            assert_eq!(refused(&format!("{url}{weak}")).await, ReasonCode::StoreDurabilityWeak);
        }
        assert_eq!(refused("sqlite::memory:").await, ReasonCode::ConfigInvalid);

        let mut opened = open(&url).await.unwrap();
        assert_eq!(refused(&url).await, ReasonCode::StoreLocked);
        sqlx::query("UPDATE _sqlx_migrations SET version = 9999 WHERE version = 1").execute(&mut opened.writer).await.unwrap();
        opened.writer.close().await.unwrap();
        opened.checkpointer.close().await.unwrap();
        opened.readers.close().await;
        drop(opened.lock);
        assert_eq!(refused(&url).await, ReasonCode::StoreSchemaNewer);

        let mut bytes = std::fs::read(&file).unwrap();
        for byte in bytes.iter_mut().skip(4096).step_by(3) {
            *byte ^= 0x5a;
        }
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(refused(&url).await, ReasonCode::StoreCorrupt);
    }
}
