//! Keeps everything that must outlive the process, in whole use cases: one method, one transaction, domain types in and out.
//!
//! Owns SQL, migrations, the group-committing writer and the in-memory [`directory::Directory`]. Never decides, never
//! opens a secret. Floor 2. The callers see use cases only, so that PostgreSQL joins without touching them.

pub mod directory;
mod outbox;
mod queries;
mod read;
mod sqlite;
mod writer;

use std::path::Path;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value as Json;
use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Limits, RolloutSection};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{Attempt, Claimed, Settled};
use crate::domain::ids::{AgentId, DeliveryId, EventId, InstallationId, MessageId, OrgId, ProfileId, RequestId, SessionId};
use crate::domain::installation::{Agent, AppProfile, Binding, Installation, Mode, Org, ProviderKind};
use crate::domain::message::{EventKind, Normal};
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::record::{AuditRecord, Decision, RefusalRecord};
use crate::domain::session::SessionKey;
use directory::Directory;
use outbox::Outbox;

/// Why the store did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk is full: {0}")]
    Full(String),
    /// Somebody else holds the lock.
    #[error("the store is locked: {0}")]
    Busy(String),
    /// The file is damaged.
    #[error("the store's file is damaged: {0}")]
    Corrupt(String),
    /// A constraint said no; the text names it.
    #[error("{0}")]
    Conflict(String),
    /// Too many requests wait.
    #[error("too many requests wait for the store")]
    Overloaded,
    /// Anything else.
    #[error("the store failed: {0}")]
    Unavailable(String),
    /// It may not be opened.
    #[error("{message}")]
    Refused {
        /// Which rule.
        code: ReasonCode,
        /// What and where.
        message: String,
    },
}

impl StoreError {
    /// The reason code the outside sees.
    pub fn code(&self) -> ReasonCode {
        match self {
            Self::Full(_) => ReasonCode::StoreFull,
            Self::Busy(_) => ReasonCode::StoreBusy,
            Self::Corrupt(_) => ReasonCode::StoreCorrupt,
            Self::Conflict(_) => ReasonCode::AdminIdentityTaken,
            Self::Overloaded => ReasonCode::IngressOverloaded,
            Self::Unavailable(_) => ReasonCode::StoreUnavailable,
            Self::Refused { code, .. } => *code,
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(error.code(), error)
    }
}

/// One event to accept. Everything about it is decided; the store gives it its session and keeps it.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its identifier.
    pub id: EventId,
    /// The org.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// Platform app or own app.
    pub mode: Mode,
    /// The profile that proved it.
    pub profile: ProfileId,
    /// The installation it is bound to.
    pub installation: InstallationId,
    /// Who hears it.
    pub agent: AgentId,
    /// The binding that said so.
    pub binding: String,
    /// The session's identity.
    pub session_key: SessionKey,
    /// The peer, where the session is one person's.
    pub peer: Option<String>,
    /// What happened.
    pub kind: EventKind,
    /// The provider's id of it.
    pub provider_event_id: String,
    /// The provider's word for it.
    pub provider_event_type: String,
    /// Its identity within the installation.
    pub dedupe_key: String,
    /// When a repeat would be a new event again.
    pub dedupe_until: Timestamp,
    /// The typed principal it came as.
    pub principal: String,
    /// Which secret proved it.
    pub verified_with: &'static str,
    /// The provider-neutral reading.
    pub normal: Normal,
    /// The provider's bytes.
    pub raw: bytes::Bytes,
    /// Their media type.
    pub media_type: &'static str,
    /// What the policies said, in the order they were asked.
    pub decisions: Vec<Arc<Decision>>,
}

/// What one webhook request comes to; all of it is committed, or none.
#[derive(Clone, Debug)]
pub struct AcceptRequest {
    /// The request.
    pub request: RequestId,
    /// When it came.
    pub received: Timestamp,
    /// The events that may go on.
    pub events: Vec<NewEvent>,
    /// The events, or the whole body, that may not.
    pub refusals: Vec<RefusalRecord>,
    /// Decisions that refused.
    pub denials: Vec<(Option<OrgId>, Arc<Decision>)>,
}

/// Where one event ended up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// It is new, and kept.
    Stored(EventId),
    /// It was accepted before.
    Duplicate,
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A tenant.
    Org(Org),
    /// A program that answers people.
    Agent(Agent),
    /// A provider app.
    Profile(AppProfile),
    /// An app in an account.
    Installation(Installation),
    /// Who hears what.
    Binding(Binding),
}

impl Resource {
    /// The kind's word, plural, as in paths.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Org(_) => "orgs",
            Self::Agent(_) => "agents",
            Self::Profile(_) => "profiles",
            Self::Installation(_) => "installations",
            Self::Binding(_) => "bindings",
        }
    }

    /// Its identifier.
    pub fn id(&self) -> &str {
        match self {
            Self::Org(r) => r.id.as_str(),
            Self::Agent(r) => r.id.as_str(),
            Self::Profile(r) => r.id.as_str(),
            Self::Installation(r) => r.id.as_str(),
            Self::Binding(r) => r.id.as_str(),
        }
    }

    /// The org it belongs to.
    pub fn org(&self) -> Option<&OrgId> {
        match self {
            Self::Org(r) => Some(&r.id),
            Self::Agent(r) => r.org.as_ref(),
            Self::Profile(r) => match &r.owner {
                crate::domain::installation::Ownership::Platform => None,
                crate::domain::installation::Ownership::Org(org) => Some(org),
            },
            Self::Installation(r) => Some(&r.org),
            Self::Binding(r) => Some(&r.org),
        }
    }
}

/// A sealed value to put.
#[derive(Clone, Debug)]
pub struct SecretPut {
    /// The resource's kind.
    pub kind: &'static str,
    /// The resource's id.
    pub owner: String,
    /// The value.
    pub secret: directory::SealedSecret,
}

/// One declared change.
#[derive(Clone, Debug)]
pub enum Change {
    /// Makes or replaces a resource and puts its sealed values.
    Put(Box<Resource>, Vec<SecretPut>),
    /// Removes a sealed value.
    DropSecret {
        /// The resource's kind.
        kind: &'static str,
        /// The resource's id.
        owner: String,
        /// The field.
        field: String,
        /// The slot.
        slot: &'static str,
    },
    /// Removes a resource with everything sealed of it.
    Delete {
        /// The kind.
        kind: &'static str,
        /// The id.
        id: String,
    },
}

/// A send that is about to leave, or was before.
#[derive(Clone, Debug, PartialEq)]
pub enum SendStart {
    /// It is new; this process sends it.
    Fresh,
    /// The same key and body were answered before: this is the answer.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The body.
        answer: Json,
    },
    /// The same key and body are on their way.
    InFlight,
    /// The key was used for another body.
    Conflict,
}

/// The identity of a send.
#[derive(Clone, Debug)]
pub struct NewSend {
    /// Its identifier.
    pub id: MessageId,
    /// Who sends.
    pub agent: AgentId,
    /// The caller's key.
    pub key: String,
    /// SHA-256 of the body, hex.
    pub digest: String,
    /// When.
    pub at: Timestamp,
}

/// How a send ended.
#[derive(Clone, Debug)]
pub struct FinishedSend {
    /// Its identifier.
    pub id: MessageId,
    /// `sent`, `refused`, `failed`, `unknown`; `retry` forgets the key so that the caller may try again.
    pub state: &'static str,
    /// The HTTP status the agent saw.
    pub status: u16,
    /// The body the agent saw.
    pub answer: Json,
    /// The org.
    pub org: Option<OrgId>,
    /// The installation that sent.
    pub installation: Option<InstallationId>,
    /// The session it belongs to.
    pub session: Option<String>,
    /// The destination.
    pub conversation: Option<String>,
    /// The credential.
    pub credential: Option<String>,
    /// Its owner: `org` or `platform`.
    pub owner: Option<&'static str>,
    /// Whether it left through the platform's app instead of the org's own.
    pub fallback: bool,
    /// The provider's id of the message.
    pub provider_message_id: Option<String>,
    /// Why not.
    pub code: Option<ReasonCode>,
    /// Every decision, in the order they were asked.
    pub decisions: Vec<Arc<Decision>>,
    /// The audit line.
    pub audit: AuditRecord,
}

/// An event together with all that its delivery says of it.
#[derive(Clone, Debug)]
pub struct EventView {
    /// Its identifier.
    pub id: EventId,
    /// When it came.
    pub received: Timestamp,
    /// The org.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// `platform` or `byoa`.
    pub mode: String,
    /// The profile.
    pub profile: ProfileId,
    /// The installation.
    pub installation: InstallationId,
    /// The agent.
    pub agent: AgentId,
    /// The session.
    pub session: SessionId,
    /// The session's key.
    pub session_key: String,
    /// Whether the event opened it.
    pub session_new: bool,
    /// The CloudEvents type.
    pub cloud_type: String,
    /// The provider's id of it.
    pub provider_event_id: String,
    /// The provider's word for it.
    pub provider_event_type: String,
    /// The provider-neutral reading.
    pub normal: Normal,
    /// The provider's bytes.
    pub raw: Vec<u8>,
    /// Their media type.
    pub media_type: String,
}

/// A session, as far as a reply needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its identifier.
    pub id: SessionId,
    /// The org.
    pub org: OrgId,
    /// The installation its route goes through.
    pub installation: InstallationId,
    /// The agent.
    pub agent: AgentId,
    /// The conversation.
    pub conversation: String,
    /// The thread.
    pub thread: Option<String>,
    /// `active` or how it ended.
    pub status: String,
}

/// What a listing asks for.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Only this org's.
    pub org: Option<String>,
    /// Only rows whose id, target or subject is this.
    pub id: Option<String>,
    /// Only rows in this state, or with this outcome.
    pub state: Option<String>,
    /// Rows older than this sequence number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: i64,
}

/// One page of a listing: rows, newest first, and where the next page begins.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Page {
    /// The rows.
    pub items: Vec<Json>,
    /// Pass as `cursor` to go on.
    pub next: Option<String>,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    readers: SqlitePool,
    jobs: mpsc::Sender<writer::Job>,
    directory: RwLock<Arc<Directory>>,
    outbox: Arc<Mutex<Outbox>>,
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
        let mut opened = sqlite::open(url).await?;
        sqlite::seed_flags(&opened.readers, rollout, clock.now()).await?;
        let directory = read::directory(&opened.readers).await?;
        let (committing, committed) = watch::channel(0);
        let log_pages = Arc::new(AtomicI64::new(0));
        let outbox = Arc::new(Mutex::new(Outbox::default()));
        let open = queries::open_deliveries(&mut opened.writer).await?;
        lock(&outbox).rebuild(open);
        let (jobs, queue) = mpsc::channel(limits.queue_max);
        let writer = tokio::spawn(writer::run(
            queue,
            opened.writer,
            writer::Rules {
                batch_max: limits.batch_max,
                idle_ms: i64::from(limits.session_idle_hours) * 3_600_000,
                age_ms: i64::from(limits.session_age_days) * 86_400_000,
            },
            committing,
            outbox.clone(),
            log_pages.clone(),
        ));
        tokio::spawn(sqlite::checkpoints(opened.checkpointer, committed.clone(), log_pages));
        Ok(Self(Arc::new(Inner {
            readers: opened.readers,
            jobs,
            directory: RwLock::new(Arc::new(directory)),
            outbox,
            committed,
            writer: std::sync::Mutex::new(Some(writer)),
            _lock: opened.lock,
        })))
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
    pub async fn accept_inbound(&self, request: AcceptRequest) -> Result<Vec<Acceptance>, StoreError> {
        let (ack, done) = oneshot::channel();
        self.0.jobs.try_send(writer::Job::Accept(Box::new(request), ack)).map_err(queue_error)?;
        done.await.map_err(|_| StoreError::Unavailable("the writer stopped".into()))?
    }

    async fn task<T: Send + 'static>(
        &self,
        work: impl for<'c> FnOnce(&'c mut sqlx::SqliteConnection) -> writer::Work<'c, T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.task_that(writer::Wake::Yes, work).await
    }

    async fn task_that<T: Send + 'static>(
        &self,
        wake: writer::Wake,
        work: impl for<'c> FnOnce(&'c mut sqlx::SqliteConnection) -> writer::Work<'c, T> + Send + 'static,
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
        self.task(move |conn| Box::pin(async move { queries::apply(conn, &changes, &audit, now).await })).await?;
        self.reload().await
    }

    /// Reads the declared state again.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let fresh = Arc::new(read::directory(&self.0.readers).await?);
        *self.0.directory.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Writes audit lines by themselves.
    ///
    /// # Errors
    /// When they could not be committed.
    pub async fn audit(&self, records: Vec<AuditRecord>) -> Result<(), StoreError> {
        self.task(move |conn| Box::pin(async move { queries::audit(conn, &records).await })).await
    }

    /// Keeps decisions that belong to no event and no send.
    ///
    /// # Errors
    /// When they could not be committed.
    pub async fn keep_decision(&self, decision: Arc<Decision>, subject: String, now: Timestamp) -> Result<(), StoreError> {
        self.task(move |conn| {
            Box::pin(async move {
                let verdict = queries::verdict(conn, &decision).await?;
                queries::insert_decisions(conn, &[queries::DecisionRow { at: now, org: None, subject: &subject, verdict }])
                    .await
                    .map(|_| ())
            })
        })
        .await
    }

    /// Claims up to `limit` due deliveries for `lease_ms`: at most one per session, its oldest; paused agents wait. The
    /// attempt is counted and committed before it begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_deliveries(&self, limit: usize, lease_ms: i64, now: Timestamp) -> Result<Vec<Claimed>, StoreError> {
        let outbox = self.0.outbox.clone();
        self.task_that(writer::Wake::No, move |conn| {
            Box::pin(async move {
                let paused = queries::paused_agents(conn).await?;
                let until = now.plus_ms(lease_ms);
                let due = {
                    let mut outbox = lock(&outbox);
                    if outbox.is_stale() {
                        return Err(StoreError::Unavailable("the outbox is being read anew".into()));
                    }
                    outbox.claim(limit, now.ms(), until.ms(), &paused)
                };
                if due.is_empty() { Ok(Vec::new()) } else { queries::lease(conn, &due, until).await }
            })
        })
        .await
    }

    /// The earliest time after `now` at which a delivery becomes due or a lease runs out, where there is one. What was due
    /// before and is still open waits for something else: its session's head, its agent, its lease.
    ///
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        lock(&self.0.outbox).next_after(now.ms()).map(Timestamp::from_ms)
    }

    /// Settles a claimed delivery. `false` when the lease moved on: then nothing was changed.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn settle_delivery(&self, claimed: &Claimed, settled: Settled, attempt: Attempt, now: Timestamp) -> Result<bool, StoreError> {
        let claimed = claimed.clone();
        let gone = settled == Settled::AgentGone;
        let outbox = self.0.outbox.clone();
        let held = self
            .task(move |conn| {
                Box::pin(async move {
                    let held = queries::settle(conn, &claimed, &settled, &attempt, now).await?;
                    let again = match settled {
                        Settled::RetryAt(at) => Some(at.ms()),
                        Settled::AgentGone => Some(now.ms()),
                        Settled::Delivered | Settled::Dead(_) => None,
                    };
                    if held && let Some(seq) = claimed.id.number() {
                        lock(&outbox).settle(claimed.session.as_str(), claimed.agent.as_str(), seq, again);
                    }
                    Ok(held)
                })
            })
            .await?;
        if gone {
            self.reload().await?;
        }
        Ok(held)
    }

    /// Gives back every lease of claimed deliveries, for a process that drains.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn release_leases(&self, claimed: Vec<Claimed>) -> Result<(), StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                queries::release(conn, &claimed).await?;
                let mut outbox = lock(&outbox);
                for c in &claimed {
                    if let Some(seq) = c.id.number() {
                        outbox.settle(c.session.as_str(), c.agent.as_str(), seq, Some(0));
                    }
                }
                Ok(())
            })
        })
        .await
    }

    /// Makes a settled or dead delivery due again.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn replay_delivery(&self, id: DeliveryId, audit: AuditRecord, now: Timestamp) -> Result<Option<bool>, StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let replayed = queries::replay(conn, &id, &audit, now).await?;
                Ok(replayed.map(|open| match open {
                    Some(row) => {
                        lock(&outbox).push(&row.session, &row.agent, row.seq, row.at_ms);
                        true
                    }
                    None => false,
                }))
            })
        })
        .await
    }

    /// What a delivery says.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn event_view(&self, event: &EventId) -> Result<Option<EventView>, StoreError> {
        read::event_view(&self.0.readers, event).await
    }

    /// One session, for the agent it must belong to.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn session_of(&self, agent: &AgentId, id: &SessionId) -> Result<Option<SessionView>, StoreError> {
        read::session_of(&self.0.readers, agent, id).await
    }

    /// Reserves an idempotency key.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn begin_send(&self, send: NewSend) -> Result<SendStart, StoreError> {
        self.task(move |conn| Box::pin(async move { queries::begin_send(conn, &send).await })).await
    }

    /// Keeps how a send ended, with its decisions and its audit line. The answer comes back with the id of its last decision
    /// as `decision`, where it has that field.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn finish_send(&self, send: FinishedSend) -> Result<Json, StoreError> {
        self.task(move |conn| Box::pin(async move { queries::finish_send(conn, &send).await })).await
    }

    /// Sends that were on their way when an earlier process died: their outcome is unknown now.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn abandon_sends(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.task(move |conn| Box::pin(async move { queries::abandon_sends(conn, now).await })).await
    }

    /// Removes what its retention has passed: dedupe keys and idempotency records.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        self.task(move |conn| Box::pin(async move { queries::sweep(conn, now).await })).await
    }

    /// A page of `events`, `deliveries`, `sessions`, `decisions`, `audit`, `refusals` or `sends`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self, kind: &str, filter: &ListFilter) -> Result<Option<Page>, StoreError> {
        read::list(&self.0.readers, kind, filter).await
    }

    /// One row of a listing by its id.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn one(&self, kind: &str, id: &str) -> Result<Option<Json>, StoreError> {
        read::one(&self.0.readers, kind, id).await
    }

    /// The journey of one event: itself, its decisions, its session, its deliveries with every attempt, the sends of its
    /// session that followed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn journey(&self, event: &EventId) -> Result<Option<Json>, StoreError> {
        read::journey(&self.0.readers, event).await
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

    /// Where the file is, for `doctor`.
    pub fn file_of(url: &str) -> Option<&Path> {
        sqlite::file_of(url)
    }
}

fn lock(outbox: &Mutex<Outbox>) -> std::sync::MutexGuard<'_, Outbox> {
    outbox.lock().unwrap_or_else(PoisonError::into_inner)
}

fn queue_error<T>(error: mpsc::error::TrySendError<T>) -> StoreError {
    match error {
        mpsc::error::TrySendError::Full(_) => StoreError::Overloaded,
        mpsc::error::TrySendError::Closed(_) => StoreError::Unavailable("the writer stopped".into()),
    }
}
