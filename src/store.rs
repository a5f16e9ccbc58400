//! Keeps everything that must outlive the process, in whole use cases: one method, one transaction, domain types in and out.
//!
//! Owns SQL, migrations, the group-committing writer and the in-memory [`directory::Directory`]. Never decides, never
//! opens a secret. Floor 2. The callers see use cases only, so that PostgreSQL joins without touching them.

mod conn;
mod content;
mod deliveries;
pub mod directory;
mod files;
mod outbox;
mod person;
mod places;
mod private;
mod purge;
mod queries;
mod read;
mod repeats;
mod retention;
mod rollout;
pub mod scratch;
mod sealed;
mod sessions;
mod shred;
mod sqlite;
mod terms;
mod upgrade;
mod usage;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value as Json;
use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Limits, RolloutSection};
use crate::crypto::content::ContentKeys;
use crate::crypto::envelope::KeyId;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::ids::{BindingId, EventId, OrgId, ProfileId, SessionId};
use crate::domain::installation::Installation;
use crate::domain::lifecycle::{Place, Shift, Shifted};
use crate::domain::record::AuditRecord;
use crate::domain::repeats::Repeats;
pub use purge::{Purge, Purged};
pub use queries::Refreshed;
pub use terms::{
    AcceptRequest, Acceptance, Accepted, AgentScope, Change, Claiming, Ended, Ending, EventView, FinishedSend, ImportedSession, LegacyUse,
    ListFilter, NewEvent, NewSend, Page, Replayed, Resource, SealedRow, SecretPut, SendStart, SessionView, StoreError,
};

use conn::Conn;
use content::SealedRequest;
use directory::Directory;
use outbox::Outbox;
use sessions::Touched;
use usage::StoredBytes;

/// Rows that a sweep looks at, and at most removes, at a time.
const SWEEP_ROWS: i64 = 1_000;

/// How often the log is tried to be cut, and the pause between two tries.
const CUTS_MAX: usize = 200;
const CUT_AGAIN: Duration = Duration::from_millis(25);

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    readers: SqlitePool,
    keys: ContentKeys,
    jobs: mpsc::Sender<writer::Job>,
    directory: RwLock<Arc<Directory>>,
    reloading: tokio::sync::Mutex<()>,
    sweeping: tokio::sync::Mutex<()>,
    outbox: Arc<Mutex<Outbox>>,
    touched: Arc<Mutex<Touched>>,
    stored_bytes: Arc<Mutex<StoredBytes>>,
    repeats: Repeats,
    committed: watch::Receiver<u64>,
    writer: std::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    // Held for as long as the store is open: a second process must not write the same file.
    _lock: std::fs::File,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the store, migrates it, seeds missing flags and starts its writer.
    ///
    /// # Errors
    /// `store.locked`, `store.schema_newer`, `store.durability_weak`, `store.corrupt`, `config.invalid`.
    pub async fn open(url: &str, limits: &Limits, rollout: &RolloutSection, clock: &Clock) -> Result<Self, StoreError> {
        let opened = sqlite::open(url).await?;
        let keys = ContentKeys::default();
        let mut writing = Conn::new(opened.writer, keys.clone());
        sqlite::seed_flags(&opened.readers, rollout, clock.now()).await?;
        let directory = read::directory(&opened.readers, &keys).await?;
        let (committing, committed) = watch::channel(0);
        let log_pages = Arc::new(AtomicI64::new(0));
        let outbox = Arc::new(Mutex::new(Outbox::default()));
        let open = queries::open_deliveries(&mut writing).await?;
        // Nobody is at work on what the last process leased; it waits for its lease and takes nobody's slot.
        lock(&outbox).rebuild(open.into_iter().map(|open| outbox::Open { leased: false, ..open }));
        let touched = Arc::new(Mutex::new(queries::touched(&mut writing).await?));
        let stored_bytes = Arc::new(Mutex::new(usage::stored_bytes_by_org(&mut writing).await?));
        let repeats = Repeats::default();
        let (jobs, queue) = mpsc::channel(limits.queue_max);
        let writer = tokio::spawn(writer::run(
            queue,
            writing,
            writer::Rules {
                batch_max: limits.batch_max,
                idle_ms: i64::from(limits.session_idle_hours) * 3_600_000,
                age_ms: i64::from(limits.session_age_days) * 86_400_000,
            },
            committing,
            (outbox.clone(), touched.clone(), stored_bytes.clone(), repeats.clone()),
            log_pages.clone(),
        ));
        tokio::spawn(sqlite::checkpoints(opened.checkpointer, committed.clone(), log_pages));
        Ok(Self(Arc::new(Inner {
            readers: opened.readers,
            keys,
            jobs,
            directory: RwLock::new(Arc::new(directory)),
            reloading: tokio::sync::Mutex::new(()),
            sweeping: tokio::sync::Mutex::new(()),
            outbox,
            touched,
            stored_bytes,
            repeats,
            committed,
            writer: std::sync::Mutex::new(Some(writer)),
            _lock: opened.lock,
        })))
    }

    /// The keys that content is sealed under. A store opens without them; nothing is accepted before they are loaded.
    pub fn content_keys(&self) -> &ContentKeys {
        &self.0.keys
    }

    /// The declared state as of now.
    pub fn directory(&self) -> Arc<Directory> {
        self.0.directory.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the writer's queue has room; without it a request is refused before its body is read.
    pub fn has_room(&self) -> bool {
        self.0.jobs.capacity() > 0
    }

    /// Changes after every commit but those of claims alone.
    pub fn committed(&self) -> watch::Receiver<u64> {
        self.0.committed.clone()
    }

    /// Accepts one webhook request: events, dedupe keys, sessions, decisions, deliveries, audit and refusals together, or
    /// nothing. Returns after the commit is on disk.
    ///
    /// # Errors
    /// Anything but [`StoreError::Conflict`]; nothing was kept then.
    pub async fn accept_inbound(&self, request: AcceptRequest) -> Result<Accepted, StoreError> {
        // Whether it changed something or not: had the last reload failed, the provider's repeat mends it.
        let shows = request.shifts.iter().any(|shift| shift.shows());
        let sealed = SealedRequest::new(&self.0.keys, request)?;
        let (ack, done) = oneshot::channel();
        self.0.jobs.try_send(writer::Job::Accept(Box::new(sealed), ack)).map_err(queue_error)?;
        let accepted = done.await.map_err(|_| StoreError::Unavailable("the writer stopped".into()))??;
        if shows {
            self.reload().await?;
        }
        Ok(accepted)
    }

    /// Changes what one installation may do, where the change still applies. The directory shows it when this returns.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn shift(&self, shift: Shift, now: Timestamp) -> Result<Vec<Shifted>, StoreError> {
        let outbox = self.0.outbox.clone();
        let shifted = self
            .task(move |conn| {
                Box::pin(async move {
                    let mut closed = Vec::new();
                    let shifted = queries::shift(conn, &shift, now, &mut closed).await?;
                    close(&outbox, &closed);
                    Ok(shifted)
                })
            })
            .await?;
        self.reload().await?;
        Ok(shifted)
    }

    /// Keeps a refreshed pair of tokens; `false` when the credential is another by now. The directory shows it when this
    /// returns.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn keep_refreshed(&self, refreshed: Refreshed) -> Result<bool, StoreError> {
        let kept = self.task(move |conn| Box::pin(async move { queries::refreshed(conn, &refreshed).await })).await?;
        self.reload().await?;
        Ok(kept)
    }

    /// Keeps the app id that the first proved event of a profile named, with its audit line, unless the profile has one. The app
    /// id that holds from here on; nothing where the profile is gone. The directory shows it when this returns.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn learn_app(
        &self,
        profile: ProfileId,
        named: String,
        line: AuditRecord,
        now: Timestamp,
    ) -> Result<Option<String>, StoreError> {
        let kept = self.task(move |conn| Box::pin(async move { queries::learn_app(conn, &profile, &named, line, now).await })).await?;
        if kept.as_ref().is_some_and(|(_, is_new)| *is_new) {
            self.reload().await?;
        }
        Ok(kept.map(|(app, _)| app))
    }

    /// How a conversation of an installation stands, where its provider told of it: the state, and where it moved to.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn place(&self, installation: &Installation, conversation: &str) -> Result<Place, StoreError> {
        places::place(&self.0.readers, &self.0.keys, installation, conversation).await
    }

    /// What cannot be reached through an installation, and how many deliveries of it wait.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn parked(&self, installation: &Installation) -> Result<(i64, Vec<Json>), StoreError> {
        places::parked(&self.0.readers, &self.0.keys, installation).await
    }

    async fn task<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(&'c mut Conn) -> writer::Work<'c, T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.task_that(writer::Wake::Yes, work).await
    }

    async fn task_that<T: Send + 'static>(
        &self,
        wake: writer::Wake,
        work: impl for<'c> FnOnce(&'c mut Conn) -> writer::Work<'c, T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (job, done) = writer::task(wake, work);
        self.0.jobs.send(job).await.map_err(|_| StoreError::Unavailable("the writer stopped".into()))?;
        done.await.map_err(|_| StoreError::Unavailable("the writer stopped".into()))?
    }

    /// Applies declared changes with their audit lines: all or none. The directory shows them when this returns.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when an account or address belongs to another.
    pub async fn apply(&self, changes: Vec<Change>, audit: Vec<AuditRecord>, now: Timestamp) -> Result<(), StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let closed = queries::apply(conn, &changes, &audit, now).await?;
                close(&outbox, &closed);
                // A changed agent is another one, as far as anybody knows.
                for change in &changes {
                    if let Change::Put(resource, _) = change
                        && let Resource::Agent(agent) = &**resource
                    {
                        lock(&outbox).forgive(agent.id.as_str());
                    }
                }
                Ok(())
            })
        })
        .await?;
        self.reload().await
    }

    /// Reads the declared state again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn reload(&self) -> Result<(), StoreError> {
        // One at a time: of two, the one that read earlier must not be the one that is kept.
        let _one_at_a_time = self.0.reloading.lock().await;
        let fresh = Arc::new(read::directory(&self.0.readers, &self.0.keys).await?);
        *self.0.directory.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// How many sealed values name each key-encryption key.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sealed_under(&self) -> Result<Vec<(KeyId, i64)>, StoreError> {
        sealed::under(&self.0.readers).await
    }

    /// Sealed values in the order of their places, behind one of them.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sealed_page(&self, after: Option<&SealedRow>, limit: i64) -> Result<Vec<SealedRow>, StoreError> {
        sealed::page(&self.0.readers, after, limit).await
    }

    /// The gateway's own sealed keys.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn sealed_keys(&self) -> Result<Vec<SealedRow>, StoreError> {
        sealed::keys(&self.0.readers).await
    }

    /// Puts values back under another key, with their audit line: each only where it still is what was read. The directory
    /// shows them after the next [`Store::reload`]; until then it has the old ones, which open as long as their key is loaded.
    ///
    /// # Errors
    /// When they could not be committed.
    pub async fn reseal(&self, rows: Vec<(SealedRow, Vec<u8>)>, line: AuditRecord) -> Result<u64, StoreError> {
        self.task(move |conn| Box::pin(async move { sealed::reseal(conn, &rows, line).await })).await
    }

    /// What is kept of an org that shredding it would destroy, by kind.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn shreddable(&self, org: &OrgId) -> Result<Vec<(&'static str, i64)>, StoreError> {
        shred::count(&self.0.readers, org).await
    }

    /// Destroys an org's key and everything that is sealed of it, with the other changes and their audit lines: as one.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn shred_secrets(
        &self,
        org: OrgId,
        changes: Vec<Change>,
        audit: Vec<AuditRecord>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let removed = self.task(move |conn| Box::pin(async move { shred::secrets(conn, &org, &changes, &audit, now).await })).await?;
        self.reload().await?;
        Ok(removed)
    }

    /// Destroys what people said to an org and who they are, at most `rows_max` rows of it, in pages so that acks never wait
    /// for it. How many of each kind, and whether that was all.
    ///
    /// # Errors
    /// When it could not be committed; what was destroyed before stays so.
    pub async fn shred_rows(&self, org: &OrgId, rows_max: usize) -> Result<(Vec<(&'static str, usize)>, bool), StoreError> {
        let mut counts = Vec::new();
        let mut left = rows_max;
        for piece in &shred::PIECES {
            let mut wiped = 0;
            while left > 0 {
                let limit = SWEEP_ROWS.min(i64::try_from(left).unwrap_or(i64::MAX));
                let Some((first, last, rows)) = shred::next(&self.0.readers, piece, org, limit).await? else { break };
                let (org, outbox) = (org.clone(), self.0.outbox.clone());
                self.task(move |conn| {
                    Box::pin(async move {
                        shred::wipe(conn, piece, &org, first, last).await?;
                        // Open deliveries and remembered sessions may be among them.
                        lock(&outbox).distrust();
                        Ok(())
                    })
                })
                .await?;
                wiped += rows;
                left = left.saturating_sub(rows);
            }
            counts.push((piece.name, wiped));
        }
        self.refresh_usage().await?;
        Ok((counts, left > 0))
    }

    /// Leaves no older page of the database in its log. A checkpoint waits for readers and for the other checkpointer, so it is
    /// tried until it succeeds, for some seconds. `false` where it did not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn cut_log(&self) -> Result<bool, StoreError> {
        for _ in 0..CUTS_MAX {
            if shred::cut_log(&self.0.readers).await? {
                return Ok(true);
            }
            tokio::time::sleep(CUT_AGAIN).await;
        }
        Ok(false)
    }

    /// What a delivery says.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn event_view(&self, event: &EventId) -> Result<Option<EventView>, StoreError> {
        read::event_view(&self.0.readers, &self.0.keys, event).await
    }

    /// What a delivery said, for the agent that it went to.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn event_of(&self, scope: &impl AgentScope, event: &EventId) -> Result<Option<EventView>, StoreError> {
        let view = read::event_view(&self.0.readers, &self.0.keys, event).await?;
        Ok(view.filter(|v| v.agent == *scope.agent() && scope.org().is_none_or(|org| v.org == *org)))
    }

    /// One session, as far as the agent whose scope it is may see it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn session_of(&self, scope: &impl AgentScope, id: &SessionId) -> Result<Option<SessionView>, StoreError> {
        read::session_of(&self.0.readers, &self.0.keys, scope, id).await
    }

    /// Whether a session is another org's than the agent's: what an operator is told of, and the agent is not.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_anothers_session(&self, scope: &impl AgentScope, id: &SessionId) -> Result<bool, StoreError> {
        read::is_anothers_session(&self.0.readers, scope, id).await
    }

    /// The open session of an agent in a conversation.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn session_at(
        &self,
        scope: &impl AgentScope,
        installation: &Installation,
        conversation: &str,
        thread: Option<&str>,
    ) -> Result<Option<SessionId>, StoreError> {
        read::session_at(&self.0.readers, &self.0.keys, scope, installation, conversation, thread).await
    }

    /// True where events of the installation told of each of these files.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_seen_files(&self, installation: &Installation, files: &[String]) -> Result<bool, StoreError> {
        files::seen(&self.0.readers, &self.0.keys, installation, files).await
    }

    /// Ends a session by an operator's word, with the audit line. The directory shows it when this returns.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn end_session(&self, id: SessionId, ending: Ending, line: AuditRecord, now: Timestamp) -> Result<Ended, StoreError> {
        let touched = self.0.touched.clone();
        let ended = self
            .task(move |conn| {
                Box::pin(async move {
                    let (ended, keys) = queries::end(conn, &id, &ending, line, now).await?;
                    if let Some((key, followed_as)) = keys.filter(|(key, _)| !key.is_empty()) {
                        let mut touched = lock(&touched);
                        touched.forgotten.push(key);
                        touched.followed.insert(followed_as, id);
                    }
                    Ok(ended)
                })
            })
            .await?;
        self.reload().await?;
        Ok(ended)
    }

    /// Keeps sessions of an earlier system, each with its audit line where it is new; which of them are.
    ///
    /// # Errors
    /// When they could not be committed; none was kept then.
    pub async fn import_sessions(&self, sessions: Vec<(ImportedSession, AuditRecord)>) -> Result<Vec<bool>, StoreError> {
        let touched = self.0.touched.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let mut fresh = Vec::new();
                for (session, line) in sessions {
                    fresh.push(queries::import(conn, &session, line).await?);
                }
                lock(&touched).imported |= fresh.contains(&true);
                Ok(fresh)
            })
        })
        .await
    }

    /// How often each legacy binding was used.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn legacy_uses(&self) -> Result<BTreeMap<BindingId, LegacyUse>, StoreError> {
        read::legacy_uses(&self.0.readers).await
    }

    /// Reserves an idempotency key of the agent whose scope it is.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn begin_send(&self, scope: &impl AgentScope, send: NewSend) -> Result<SendStart, StoreError> {
        let agent = scope.agent().clone();
        self.task(move |conn| Box::pin(async move { queries::begin_send(conn, &agent, &send).await })).await
    }

    /// Keeps how a send ended, with its decisions and its audit line. The answer comes back with the id of its last decision
    /// as `decision`, where it has that field.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn finish_send(&self, send: FinishedSend) -> Result<Json, StoreError> {
        let repeats = self.0.repeats.clone();
        self.task(move |conn| Box::pin(async move { queries::finish_send(conn, &repeats, &send).await })).await
    }

    /// Sends that were on their way when an earlier process died: their outcome is unknown now.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn abandon_sends(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.task(move |conn| Box::pin(async move { queries::abandon_sends(conn, now).await })).await
    }

    /// A page of `events`, `deliveries`, `sessions`, `decisions`, `audit`, `refusals` or `sends`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self, kind: &str, filter: &ListFilter) -> Result<Option<Page>, StoreError> {
        read::list(&self.0.readers, &self.0.keys, kind, filter).await
    }

    /// One row of a listing by its id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn one(&self, kind: &str, id: &str) -> Result<Option<Json>, StoreError> {
        read::one(&self.0.readers, &self.0.keys, kind, id).await
    }

    /// The journey of one event: itself, its decisions, its session, its deliveries with every attempt, the sends of its
    /// session that followed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn journey(&self, event: &EventId) -> Result<Option<Json>, StoreError> {
        read::journey(&self.0.readers, &self.0.keys, event).await
    }

    /// Open deliveries.
    pub fn queue_depth(&self) -> usize {
        lock(&self.0.outbox).len()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        read::ping(&self.0.readers).await
    }

    /// Finishes what is queued, checkpoints and closes.
    pub async fn close(&self) {
        let (job, done) = writer::stop();
        if self.0.jobs.send(job).await.is_ok() {
            let _ = done.await;
        }
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.await;
        }
        self.0.readers.close().await;
    }

    /// True where the file, its folder and what lies beside it are their owner's alone, for `doctor`; makes nothing.
    ///
    /// # Errors
    /// `store.permissions` with the command that repairs it.
    pub fn is_private(file: &Path) -> Result<(), StoreError> {
        private::check(file)
    }

    /// Where the file is, for `doctor`.
    pub fn file_of(url: &str) -> Option<&Path> {
        sqlite::file_of(url)
    }
}

/// Takes deliveries that ended out of the schedule.
fn close(outbox: &Mutex<Outbox>, closed: &[outbox::Open]) {
    let mut outbox = lock(outbox);
    for end in closed {
        outbox.settle(&end.session, end.seq, None);
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn queue_error<T>(error: mpsc::error::TrySendError<T>) -> StoreError {
    match error {
        mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the writer stopped".into()),
    }
}
