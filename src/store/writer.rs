//! The one writer: drains what is queued, one commit, then the acks.
//!
//! A commit costs one fsync whatever is in it, so everything that waits goes into the next one; no window is waited for
//! (measured: waiting only costs). A hung-up client cannot cancel a commit: it happens here, not in the request.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use super::conn::Conn;
use super::content::{SealedEvent, SealedRequest};
use super::outbox::{Open, Outbox};
use super::queries::{self, AuditRow, DecisionRow, EventRow, Found, RefusalRow};
use super::sessions::Touched;
use super::sqlite::from_sqlx;
use super::usage::{self, StoredBytes};
use super::{AcceptRequest, Acceptance, Accepted, NewEvent, StoreError, close, files, lock};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{OrgId, SessionId};
use crate::domain::lifecycle::Shift;
use crate::domain::record::{AuditRecord, Decision, RefusalRecord};
use crate::domain::repeats::Repeats;

/// A piece of work inside the writer's transaction.
pub(super) type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'c>>;

type AnyWork = Box<dyn for<'c> FnOnce(&'c mut Conn) -> Work<'c, Box<dyn Any + Send>> + Send>;
type Acked = Box<dyn FnOnce(Result<Box<dyn Any + Send>, StoreError>) + Send>;

/// Whether those who wait for commits hear of a task. A claim makes nothing that could be claimed; were it announced, every
/// claim would wake its own claimer for the next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Yes,
    No,
}

pub(super) enum Job {
    Accept(Box<SealedRequest>, oneshot::Sender<Result<Accepted, StoreError>>),
    Task(AnyWork, Acked, Wake),
    Stop(oneshot::Sender<()>),
}

/// Wraps a closure as a job; the receiver hears after the commit.
pub(super) fn task<T: Send + 'static>(
    wake: Wake,
    work: impl for<'c> FnOnce(&'c mut Conn) -> Work<'c, T> + Send + 'static,
) -> (Job, oneshot::Receiver<Result<T, StoreError>>) {
    let (tell, done) = oneshot::channel();
    let any: AnyWork = Box::new(move |conn| {
        let inner = work(conn);
        Box::pin(async move { inner.await.map(|v| Box::new(v) as Box<dyn Any + Send>) })
    });
    let acked: Acked = Box::new(move |result| {
        let result = result
            .and_then(|any| any.downcast::<T>().map(|v| *v).map_err(|_| StoreError::Unavailable("the writer mixed up its answers".into())));
        let _ = tell.send(result);
    });
    (Job::Task(any, acked, wake), done)
}

/// A job that ends the writer behind everything queued before it.
pub(super) fn stop() -> (Job, oneshot::Receiver<()>) {
    let (tell, done) = oneshot::channel();
    (Job::Stop(tell), done)
}

/// What the writer goes by.
pub(super) struct Rules {
    pub batch_max: usize,
    pub idle_ms: i64,
    pub age_ms: i64,
}

/// Active sessions the writer remembers, so that most events find theirs without a query.
const SESSIONS_REMEMBERED: usize = 100_000;

/// The log starts over when it is longer: 32 MiB of 4 KiB pages.
const LOG_PAGES_MAX: i64 = 8_192;

/// Verdicts the writer remembers.
const VERDICTS_REMEMBERED: usize = 65_536;

/// A session's last event is written again only when it is this much older: the idle limit is hours.
const LAST_SEEN_GRAIN_MS: i64 = 60_000;

#[derive(Clone)]
struct Remembered {
    id: SessionId,
    created: Timestamp,
    last: Timestamp,
    written: Timestamp,
}

impl From<Found> for Remembered {
    fn from(found: Found) -> Self {
        Self { id: found.id, created: found.created, last: found.last, written: found.last }
    }
}

/// Whether a session is over: by its age (`true`), or because nothing was said for long enough. At the limit it is over.
fn ending(now: Timestamp, created: Timestamp, last: Timestamp, rules: &Rules) -> Option<bool> {
    let aged = now.ms() - created.ms() >= rules.age_ms;
    let idle = now.ms() - last.ms() >= rules.idle_ms;
    (aged || idle).then_some(aged)
}

/// What follows the rows in memory: the order of deliveries, sessions that others touched, and bytes by org, and refusals that repeat.
type Copies = (Arc<Mutex<Outbox>>, Arc<Mutex<Touched>>, Arc<Mutex<StoredBytes>>, Repeats);

struct Writer {
    conn: Conn,
    rules: Rules,
    sessions: HashMap<String, Remembered>,
    /// Each with its number and when it was last written.
    verdicts: HashMap<usize, (Arc<Decision>, i64, Timestamp)>,
    outbox: Arc<Mutex<Outbox>>,
    touched: Arc<Mutex<Touched>>,
    stored_bytes: Arc<Mutex<StoredBytes>>,
    repeats: Repeats,
}

pub(super) async fn run(
    mut queue: mpsc::Receiver<Job>,
    conn: Conn,
    rules: Rules,
    committed: watch::Sender<u64>,
    (outbox, touched, stored_bytes, repeats): Copies,
    log_pages: Arc<AtomicI64>,
) {
    let batch_max = rules.batch_max;
    let mut writer = Writer { conn, rules, sessions: HashMap::new(), verdicts: HashMap::new(), outbox, touched, stored_bytes, repeats };
    let mut batch = Vec::with_capacity(batch_max);
    loop {
        batch.clear();
        if queue.recv_many(&mut batch, batch_max).await == 0 {
            break;
        }
        let mut accepts = Vec::new();
        let mut tasks = Vec::new();
        let mut stops = Vec::new();
        let mut wake = false;
        for job in batch.drain(..) {
            match job {
                Job::Accept(request, ack) => {
                    wake = true;
                    accepts.push((request, ack));
                }
                Job::Task(work, ack, wakes) => {
                    wake |= wakes == Wake::Yes;
                    tasks.push((work, ack));
                }
                Job::Stop(tell) => stops.push(tell),
            }
        }
        if !accepts.is_empty() || !tasks.is_empty() {
            writer.commit(accepts, tasks).await;
            if wake {
                committed.send_modify(|commits| *commits += 1);
            }
            // Only here nothing is written meanwhile, so only here the log can be copied to its end and started over: over
            // written space, which syncs faster than new space.
            if log_pages.load(Ordering::Relaxed) > LOG_PAGES_MAX {
                let _ = queries::run(&mut writer.conn, "PRAGMA wal_checkpoint(PASSIVE)").await;
                log_pages.store(0, Ordering::Relaxed);
            }
        }
        if !stops.is_empty() {
            queue.close();
            for tell in stops {
                let _ = tell.send(());
            }
        }
    }
    let _ = writer.conn.into_inner().close().await;
}

type AcceptJob = (Box<SealedRequest>, oneshot::Sender<Result<Accepted, StoreError>>);
type TaskJob = (AnyWork, Acked);
/// What a batch of requests comes to.
#[derive(Default)]
struct Kept {
    accepted: Vec<Accepted>,
    opened: Vec<Open>,
    closed: Vec<Open>,
    /// New sums of the orgs whose events they are.
    stored_bytes: StoredBytes,
}

type Answer = (Acked, Result<Box<dyn Any + Send>, StoreError>);

impl Writer {
    async fn commit(&mut self, accepts: Vec<AcceptJob>, tasks: Vec<TaskJob>) {
        // Until this succeeds nothing is claimed.
        let stale = lock(&self.outbox).is_stale();
        if stale
            && let Ok(open) = queries::open_deliveries(&mut self.conn).await
            && let Ok(stored_bytes) = usage::stored_bytes_by_org(&mut self.conn).await
        {
            lock(&self.outbox).rebuild(open);
            *lock(&self.stored_bytes) = stored_bytes;
            // Whatever made the deliveries doubtful made these so as well.
            self.sessions.clear();
            self.verdicts.clear();
        }
        let (requests, acks): (Vec<_>, Vec<_>) = accepts.into_iter().unzip();
        let mut answers: Vec<Answer> = Vec::with_capacity(tasks.len());
        let result = self.transact(&requests, tasks, &mut answers).await;
        match result {
            Ok(Kept { mut accepted, opened, closed, stored_bytes }) => {
                self.repeats.committed();
                let mut outbox = lock(&self.outbox);
                for open in &opened {
                    outbox.push(open);
                }
                drop(outbox);
                close(&self.outbox, &closed);
                lock(&self.stored_bytes).extend(stored_bytes);
                for ack in acks.into_iter().rev() {
                    let _ = ack.send(Ok(accepted.pop().unwrap_or_default()));
                }
                for (ack, answer) in answers {
                    ack(answer);
                }
            }
            Err(error) => {
                tracing::error!(error = %error, "the store did not commit");
                // What was remembered may name rows that were rolled back.
                self.sessions.clear();
                self.verdicts.clear();
                lock(&self.outbox).distrust();
                self.repeats.undo(0);
                for ack in acks {
                    let _ = ack.send(Err(error.clone()));
                }
                for (ack, _) in answers {
                    ack(Err(error.clone()));
                }
            }
        }
    }

    async fn transact(
        &mut self,
        requests: &[Box<SealedRequest>],
        tasks: Vec<TaskJob>,
        answers: &mut Vec<Answer>,
    ) -> Result<Kept, StoreError> {
        if let Err(e) = queries::run(&mut self.conn, "BEGIN IMMEDIATE").await {
            for (_, ack) in tasks {
                answers.push((ack, Err(e.clone())));
            }
            return Err(e);
        }
        for (work, ack) in tasks {
            let answer = self.in_savepoint(work).await;
            answers.push((ack, answer));
        }
        for key in std::mem::take(&mut lock(&self.touched).forgotten) {
            self.sessions.remove(&key);
        }
        let accepted = if requests.is_empty() { Ok(Default::default()) } else { self.accept(requests).await };
        let result = match accepted {
            Ok(accepted) => queries::run(&mut self.conn, "COMMIT").await.map(|()| accepted),
            Err(e) => Err(e),
        };
        if result.is_err() {
            let _ = queries::run(&mut self.conn, "ROLLBACK").await;
        }
        result
    }

    /// One failing task must not undo its neighbours.
    async fn in_savepoint(&mut self, work: AnyWork) -> Result<Box<dyn Any + Send>, StoreError> {
        queries::run(&mut self.conn, "SAVEPOINT task").await?;
        let heard = self.repeats.mark();
        let answer = work(&mut self.conn).await;
        if answer.is_err() {
            lock(&self.outbox).distrust();
            self.repeats.undo(heard);
            queries::run(&mut self.conn, "ROLLBACK TO task").await?;
        }
        queries::run(&mut self.conn, "RELEASE task").await?;
        answer
    }

    /// Keeps a batch; what became of each event, and the deliveries that are open now.
    async fn accept(&mut self, requests: &[Box<SealedRequest>]) -> Result<Kept, StoreError> {
        let all: Vec<_> =
            requests.iter().flat_map(|r| r.request.events.iter().zip(&r.events).map(|(e, sealed)| (&r.request, e, sealed))).collect();
        let fresh = queries::insert_dedupe(&mut self.conn, &all).await?;
        let (mut accepted, mut closed) = (Vec::with_capacity(requests.len()), Vec::new());
        for SealedRequest { request, .. } in requests.iter().map(AsRef::as_ref) {
            let became =
                |e: &NewEvent| if fresh.contains(e.id.as_str()) { Acceptance::Stored(e.id.clone()) } else { Acceptance::Duplicate };
            let mut shifted = Vec::new();
            // Before the events: what an uninstall ends is what was accepted before it, and its own news still goes out.
            let news = |shift: &&Shift| shift.event.as_ref().is_none_or(|event| fresh.contains(event.as_str()));
            for shift in request.shifts.iter().filter(news) {
                shifted.extend(queries::shift(&mut self.conn, shift, request.received, &mut closed).await?);
            }
            accepted.push(Accepted { events: request.events.iter().map(became).collect(), shifted });
        }

        let mut rows = Vec::with_capacity(all.len());
        let mut decisions = Vec::with_capacity(all.len() * 2);
        let mut notes = Vec::new();
        for (request, event, sealed) in all.into_iter().filter(|(_, e, _)| fresh.contains(e.id.as_str())) {
            let (session, session_new) = self.session(request, event, sealed, &mut notes).await?;
            files::see(&mut self.conn, &event.route.installation, &sealed.files, files::FILES_MAX, request.received).await?;
            if let Some(decision) = &event.legacy {
                notes.push(legacy_line(request, event, decision));
                if let Some(binding) = &event.route.binding {
                    queries::legacy_used(&mut self.conn, binding, request.received).await?;
                }
            }
            let decision_first = i64::try_from(decisions.len()).unwrap_or(i64::MAX);
            let mut last = None;
            for decision in &event.decisions {
                let verdict = self.verdict(Some(&event.route.org), decision, request.received).await?;
                decisions.push(DecisionRow { at: request.received, org: Some(&event.route.org), subject: event.id.as_str(), verdict });
                last = Some(verdict);
            }
            rows.push(EventRow { request, event, sealed, session, session_new, decision_first, verdict: last });
        }
        let mut refusals = Vec::new();
        let records = requests.iter().flat_map(|request| request.request.refusals.iter().zip(&request.refusals));
        for (record, sealed) in records {
            let mut verdicts = Vec::with_capacity(record.decisions.len());
            for decision in &record.decisions {
                verdicts.push(self.verdict(record.org.as_ref(), decision, record.at).await?);
            }
            refusals.push(RefusalRow { record, sealed, verdicts });
        }
        // A repeat is one more of its row, which has its decisions.
        for row in queries::insert_refusals(&mut self.conn, &refusals).await? {
            let (at, org, subject) = (row.record.at, row.record.org.as_ref(), row.record.request.as_str());
            decisions.extend(row.verdicts.iter().map(|verdict| DecisionRow { at, org, subject, verdict: *verdict }));
        }
        let first = queries::insert_decisions(&mut self.conn, &decisions).await?;
        for row in &mut rows {
            row.decision_first += first;
        }
        let first = queries::insert_events(&mut self.conn, &rows).await?;
        queries::insert_deliveries(&mut self.conn, &rows, first).await?;
        let stored_bytes = if rows.is_empty() { StoredBytes::new() } else { usage::events_added(&mut self.conn, first).await? };
        queries::insert_accepted(&mut self.conn, &rows).await?;
        let lines: Vec<AuditRecord> = refusals.iter().map(|row| refused_line(row.record)).collect();
        let lines: Vec<AuditRow<'_>> = lines
            .iter()
            .zip(&refusals)
            .filter(|(line, _)| self.repeats.hear(line))
            .map(|(record, row)| AuditRow { record, verdict: row.verdicts.last().copied() })
            .collect();
        queries::insert_audit(&mut self.conn, &lines).await?;
        queries::audit(&mut self.conn, &notes).await?;
        let opened = (first..)
            .zip(&rows)
            .map(|(seq, row)| Open {
                seq,
                session: row.session.to_string(),
                org: row.event.route.org.to_string(),
                agent: row.event.route.agent.to_string(),
                installation: row.event.route.installation.to_string(),
                at_ms: row.request.received.ms(),
                leased: false,
            })
            .collect();
        Ok(Kept { accepted, opened, closed, stored_bytes })
    }

    /// The number of a decision's verdict. Decisions come out of the policies' cache, so most are the very same value; a
    /// remembered one is held, so that its address stays its own.
    async fn verdict(&mut self, org: Option<&OrgId>, decision: &Arc<Decision>, at: Timestamp) -> Result<i64, StoreError> {
        let address = Arc::as_ptr(decision).addr();
        if let Some((_, seq, written)) = self.verdicts.get(&address)
            && at.ms() - written.ms() < queries::ASKED_GRAIN_MS
        {
            return Ok(*seq);
        }
        let seq = queries::verdict(&mut self.conn, org, decision, at).await?;
        if self.verdicts.len() >= VERDICTS_REMEMBERED {
            self.verdicts.clear();
        }
        self.verdicts.insert(address, (decision.clone(), seq, at));
        Ok(seq)
    }

    /// The session of an event: the active one of its key, else the imported one that it continues, else a new one that
    /// follows what ended there.
    async fn session(
        &mut self,
        request: &AcceptRequest,
        event: &NewEvent,
        sealed: &SealedEvent,
        notes: &mut Vec<AuditRecord>,
    ) -> Result<(SessionId, bool), StoreError> {
        let (key, now) = (sealed.session.as_str(), request.received);
        let mut known = match self.sessions.get(key) {
            Some(known) => Some(known.clone()),
            None => queries::active_session(&mut self.conn, key).await?.map(Remembered::from),
        };
        let looks_for_imported = known.is_none() && lock(&self.touched).imported;
        let mut imported = false;
        if looks_for_imported {
            known = queries::imported_session(&mut self.conn, event).await?.map(Remembered::from);
            imported = known.is_some();
        }
        let mut predecessor = None;
        if let Some(mut known) = known {
            // Age is looked at first: a session that is both was over before it fell silent.
            let ending = ending(now, known.created, known.last, &self.rules);
            let Some(aged) = ending else {
                let id = known.id.clone();
                known.last = known.last.max(now);
                if imported {
                    queries::promote(&mut self.conn, &id, event, known.last).await?;
                    known.written = known.last;
                    notes.push(promoted_line(request, event, &id));
                } else if known.last.ms() - known.written.ms() > LAST_SEEN_GRAIN_MS {
                    queries::touch_session(&mut self.conn, &id, known.last).await?;
                    known.written = known.last;
                }
                self.remember(key, known);
                return Ok((id, false));
            };
            queries::expire(&mut self.conn, &known.id, aged, now).await?;
            predecessor = Some(known.id);
        }
        let id = SessionId::fresh(now);
        let handed = lock(&self.touched).followed.get(key).cloned();
        if let Some(ended) = predecessor.clone().or_else(|| handed.clone())
            && queries::follow(&mut self.conn, &ended, &id).await?
        {
            predecessor = Some(ended);
        } else if handed.is_some() {
            lock(&self.touched).followed.remove(key);
        }
        queries::insert_session(&mut self.conn, &id, event, predecessor.as_ref(), now).await?;
        self.remember(key, Remembered { id: id.clone(), created: now, last: now, written: now });
        Ok((id, true))
    }

    fn remember(&mut self, key: &str, session: Remembered) {
        if self.sessions.len() >= SESSIONS_REMEMBERED {
            self.sessions.clear();
        }
        self.sessions.insert(key.to_owned(), session);
    }
}

/// Who the writer's own lines say it was.
const GATEWAY: &str = "gateway";

fn promoted_line(request: &AcceptRequest, event: &NewEvent, session: &SessionId) -> AuditRecord {
    let detail = serde_json::json!({"event": event.id, "installation": event.route.installation});
    AuditRecord {
        at: request.received,
        actor: GATEWAY.into(),
        action: "session.promote",
        target: session.to_string(),
        org: Some(event.route.org.clone()),
        outcome: "done",
        code: None,
        decision: None,
        request: Some(request.request.clone()),
        detail: Some(detail.to_string()),
    }
}

fn legacy_line(request: &AcceptRequest, event: &NewEvent, decision: &Arc<Decision>) -> AuditRecord {
    let detail = serde_json::json!({"event": event.id, "installation": event.route.installation, "agent": event.route.agent});
    AuditRecord {
        at: request.received,
        actor: format!("profile:{}", event.profile),
        action: "route.legacy",
        target: event.route.binding.as_ref().map(ToString::to_string).unwrap_or_default(),
        org: Some(event.route.org.clone()),
        outcome: "done",
        code: None,
        decision: Some(decision.clone()),
        request: Some(request.request.clone()),
        detail: Some(detail.to_string()),
    }
}

fn refused_line(refusal: &RefusalRecord) -> AuditRecord {
    AuditRecord {
        at: refusal.at,
        actor: format!("profile:{}", refusal.profile),
        action: "event.refuse",
        target: refusal.installation.as_ref().map_or_else(|| refusal.profile.to_string(), ToString::to_string),
        org: refusal.org.clone(),
        outcome: "refused",
        code: Some(refusal.code),
        decision: None,
        request: Some(refusal.request.clone()),
        detail: None,
    }
}

/// Sorts a failing statement's error.
pub(super) fn failed(error: sqlx::Error) -> StoreError {
    from_sqlx(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_of_the_store_asks_the_provider_to_try_again() {
        for error in [
            StoreError::Full(String::new()),
            StoreError::Busy(String::new()),
            StoreError::Overloaded,
            StoreError::Unavailable(String::new()),
        ] {
            assert!(error.code().retryable() && error.code().status() == 503, "{error}");
        }
    }
}
