//! Puts an edit in force, or says why not. One task for each gateway: it looks at the content of the policy folder, waits
//! until nothing moves any more, holds the set to everything ([`super::accept`]), writes the audit line and swaps one object.
//! Never takes a part of a set, never lets go of the last good one. Floor 5.
//!
//! Events of the file system only say when to look: kinds and paths are not believed, since a swapped link or a replaced
//! folder tells nothing of the files behind it. A look at every file each second is the guarantee; what is compared is
//! content, so our own reading changes nothing.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use super::accept::{Passed, Terms};
use super::fault::Told;
use super::load::{Diagnostic, LoadError, Sources};
use super::orgs::{InForce, Last, LastFiles, OrgRejected, none};
use super::{Engine, History, Shadow, Snapshot};
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;

/// A look even when no event came.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look takes at most one part in so many of the time, however large the folder.
const LOOK_SHARE: u32 = 25;
/// Two looks this far apart must see the same before it is taken for finished.
const SETTLE: Duration = Duration::from_millis(250);
/// What does not settle by then is rejected, and looked at again.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Ids and faults that one audit line lists.
const LISTED_MAX: usize = 50;
/// How much the threads that read and build a set give way to those that answer requests.
const NICE: i32 = 10;
/// A set larger than this is seconds of work: it is read and built only when nothing else wants the processor, since a thread
/// that is merely nice keeps a request waiting for a slice of the scheduler, and a request meets several threads.
const LARGE_BYTES: usize = 256 * 1024;

/// Why the set on disk is not the one in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rejected {
    /// Why, as a code.
    pub code: ReasonCode,
    /// Its version, where it could be read whole.
    pub version: Option<Arc<str>>,
    /// When it was rejected.
    pub at: Timestamp,
    /// Every fault, with its place and without the text of files.
    pub diagnostics: Vec<Told>,
}

/// How the folders stand against what is in force.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    /// Why the live folder is not in force.
    pub rejected: Option<Rejected>,
    /// Why the shadow folder is not in the shadow.
    pub shadow_rejected: Option<Rejected>,
    /// The orgs whose folders are not in force as they are on disk.
    pub orgs: Vec<OrgRejected>,
    /// Rows of the tables that the set in force was held to.
    pub rows: usize,
}

/// The standing, for whoever shows it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Status(Arc<RwLock<Standing>>);

impl Status {
    /// As it is.
    pub fn get(&self) -> Standing {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the folder holds something else than what is in force.
    pub fn is_stale(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).rejected.is_some()
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What a look saw; two looks that saw the same are equal.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Content([u8; 32]),
    Fault(LoadError),
}

impl Seen {
    fn of(read: &Result<Sources, LoadError>) -> Self {
        match read {
            Ok(sources) => Self::Content(sources.digest),
            Err(error) => Self::Fault(error.clone()),
        }
    }
}

/// Everything a reload needs.
pub struct Reloader {
    /// What is swapped.
    pub engine: Engine,
    /// The live folder and what is asked of it.
    pub terms: Terms,
    /// A folder that decides without effect.
    pub shadow: Option<PathBuf>,
    /// Where accepted sets are kept.
    pub history: History,
    /// Where the audit is.
    pub store: Store,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What time it is.
    pub clock: Clock,
    /// Who is told.
    pub status: Status,
    /// What the last look led to; none before the first.
    pub done: Done,
}

/// The policies that a gateway begins with.
pub struct Begun {
    /// The digest of what was read.
    pub seen: [u8; 32],
    /// The sources of the active policies.
    pub sources: Sources,
    /// Rows of tables that were run.
    pub rows: usize,
    /// The orgs whose folders are rejected.
    pub orgs: Vec<OrgRejected>,
}

/// The orgs that have no files in force because theirs are rejected.
fn without(orgs: &[OrgRejected]) -> Vec<OrgId> {
    orgs.iter().filter(|rejected| rejected.in_force == InForce::Nothing).map(|rejected| rejected.org.clone()).collect()
}

/// What was handled last, so that it is handled once.
#[derive(Debug, Default)]
pub struct Done {
    live: Option<Seen>,
    shadow: Option<Seen>,
    /// Whether the set that was read last is large.
    large: bool,
}

impl Reloader {
    /// Writes down what is in force from the start: metrics, history, audit.
    ///
    /// # Errors
    /// When the audit line cannot be written.
    pub async fn started(&mut self, begun: Begun) -> Result<(), crate::store::StoreError> {
        let Begun { seen, sources, rows, orgs } = begun;
        let snapshot = self.engine.pin();
        let line = self.line("done", None, snapshot.version(), json!({"trigger": "start", "policies": snapshot.policies(), "rows": rows}));
        let lines = [vec![line], self.org_lines(&[], &orgs, snapshot.version(), "start")].concat();
        self.store.audit(lines).await?;
        self.done.live = Some(Seen::Content(seen));
        self.done.large = sources.bytes() > LARGE_BYTES;
        self.metrics.policies_in_force(snapshot.version(), self.clock.now().secs());
        self.metrics.policies_of_orgs_rejected(orgs.len());
        self.keep(sources, snapshot.policies(), without(&orgs)).await;
        self.status.change(|s| (s.rows, s.orgs) = (rows, orgs));
        self.look_at_shadow().await;
        Ok(())
    }

    /// Watches until `stopping` turns true.
    pub async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let (tell, mut told) = mpsc::channel(1);
        let mut watchers = self.watch(&tell);
        loop {
            let read_took = self.look(if watchers.touched { "event" } else { "look" }).await;
            let pause = LOOK_EVERY.max(read_took * LOOK_SHARE);
            watchers.touched = tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                Some(()) = told.recv() => true,
                () = tokio::time::sleep(pause) => false,
            };
            if watchers.touched || watchers.deaf {
                // A folder that was replaced is another folder: the old watch hears nothing any more.
                watchers = Watchers { touched: watchers.touched, ..self.watch(&tell) };
            }
        }
    }

    fn watch(&self, tell: &mpsc::Sender<()>) -> Watchers {
        let mut watchers = Watchers { _held: vec![], touched: false, deaf: false };
        for dir in [Some(&self.terms.dir), self.shadow.as_ref()].into_iter().flatten() {
            match watcher(dir, tell.clone()) {
                Ok(watcher) => watchers._held.push(watcher),
                // No inotify left, a network file system, a folder that is just not there: the regular look remains.
                Err(error) => {
                    tracing::debug!(error = %error, dir = %dir.display(), "the policy folder cannot be watched; it is looked at every {} s", LOOK_EVERY.as_secs());
                    watchers.deaf = true;
                }
            }
        }
        watchers
    }

    /// Looks once at everything and acts on what changed; says how long reading took.
    pub async fn look(&mut self, trigger: &'static str) -> Duration {
        self.end().await;
        let began = Instant::now();
        let read = self.read().await;
        let read_took = began.elapsed();
        if let Ok(sources) = &read {
            self.done.large = sources.bytes() > LARGE_BYTES;
        }
        if self.done.live.as_ref() != Some(&Seen::of(&read)) {
            let settled = self.settle(read).await;
            self.reload(settled, trigger).await;
        }
        self.look_at_shadow().await;
        read_took
    }

    /// Takes policies out whose `@until` has come, whatever the folder holds by now.
    async fn end(&self) {
        let (live, now) = (self.engine.pin(), self.clock.now());
        let ended = match live.ended_by(now) {
            Ok(Some(ended)) => ended,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, "a policy whose `@until` has come could not be taken out"),
        };
        let version = Arc::clone(ended.version());
        let removed = changes(&live, &ended).removed;
        let detail = json!({"trigger": "until", "from": live.version(), "policies": ended.policies(), "removed": removed});
        if let Err(error) = self.store.audit(vec![self.line("done", None, &version, detail)]).await {
            return tracing::error!(error = %error, %version, "the audit line cannot be written: a policy whose `@until` has come stays");
        }
        self.metrics.policies_in_force(&version, now.secs());
        tracing::info!(%version, from = %live.version(), ?removed, "policies ended by their `@until`");
        drop(self.engine.swap(ended));
    }

    async fn read(&self) -> Result<Sources, LoadError> {
        let terms = self.terms.clone();
        aside(self.done.large, move || terms.read()).await.unwrap_or_else(|| Err(broke()))
    }

    /// Reads until two looks agree.
    async fn settle(&self, mut before: Result<Sources, LoadError>) -> Result<Sources, LoadError> {
        let began = Instant::now();
        loop {
            tokio::time::sleep(SETTLE).await;
            let after = self.read().await;
            if Seen::of(&before) == Seen::of(&after) {
                return after;
            }
            if began.elapsed() > SETTLE_MAX {
                let said = Diagnostic::of_file(
                    super::Rule::File,
                    self.terms.dir.display(),
                    format!(
                        "still changing after {} s; it is taken when it stays the same for {} ms",
                        SETTLE_MAX.as_secs(),
                        SETTLE.as_millis()
                    ),
                );
                return Err(LoadError::new(ReasonCode::PolicyUnsettled, vec![said]));
            }
            before = after;
        }
    }

    async fn reload(&mut self, read: Result<Sources, LoadError>, trigger: &'static str) {
        let (began, now) = (Instant::now(), self.clock.now());
        let seen = Seen::of(&read);
        let (live, terms, orgs) = (self.engine.pin(), self.terms.clone(), self.status.get().orgs);
        let judged = aside(self.done.large, move || {
            let last = Last::new(Box::new(|| {
                let files = live.texts().iter().map(|(path, text)| (path.as_str(), text.as_str()));
                LastFiles::new(&terms.dir.display().to_string(), files, without(&orgs))
            }));
            let passed = terms.accept(read?, &last, now)?;
            let changes = changes(&live, &passed.snapshot);
            Ok((passed, changes))
        });
        let judged = judged.await.unwrap_or_else(|| Err(broke()));
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let settled = match judged {
            Ok((passed, changes)) => self.take(passed, changes, trigger, took_ms).await,
            Err(error) => self.reject(error, trigger, took_ms).await,
        };
        // What could not be written down is tried again at the next look; so is what kept moving.
        if settled {
            self.done.live = Some(seen);
        }
    }

    async fn take(&self, passed: Passed, changes: Changes, trigger: &'static str, took_ms: u64) -> bool {
        let Passed { snapshot, sources, rows, orgs } = passed;
        let (live, before) = (self.engine.pin(), self.status.get());
        let same = live.version() == snapshot.version();
        let accepted = before.orgs.iter().any(|known| orgs.iter().all(|rejected| rejected.org != known.org));
        let taken = !same || before.rejected.is_some() || before.rows != rows || accepted;
        if !taken && before.orgs == orgs {
            return true;
        }
        let detail = json!({
            "trigger": trigger, "from": live.version(), "policies": snapshot.policies(), "rows": rows, "took_ms": took_ms,
            "added": changes.added, "removed": changes.removed, "changed": changes.changed,
        });
        let version = Arc::clone(snapshot.version());
        let done = if taken { vec![self.line("done", None, &version, detail)] } else { vec![] };
        let lines = [done, self.org_lines(&before.orgs, &orgs, &version, trigger)].concat();
        // A rejection is told before its audit line, as one of the platform's files is; what is put right is told when it decides.
        let fixed = before.orgs.iter().filter(|old| orgs.iter().all(|new| new.org != old.org)).cloned();
        let told: Vec<OrgRejected> = orgs.iter().cloned().chain(fixed).collect();
        self.metrics.policies_of_orgs_rejected(told.len());
        self.status.change(|s| s.orgs = told);
        if let Err(error) = self.store.audit(lines).await {
            // All of it is done again at the next look.
            self.metrics.policies_of_orgs_rejected(before.orgs.len());
            self.status.change(|s| s.orgs = before.orgs);
            tracing::error!(error = %error, %version, "the policies on disk are good, but the audit line cannot be written: the old ones stay in force");
            return false;
        }
        let policies = snapshot.policies();
        // Before it decides anything, so that what has decided can always be gone back to.
        self.keep(sources, policies, without(&orgs)).await;
        let old = if same { None } else { Some(self.engine.swap(snapshot.beside(live.shadow().cloned()))) };
        self.metrics.policies_in_force(&version, self.clock.now().secs());
        if taken {
            self.metrics.policies_reloaded(true);
        }
        self.metrics.policies_of_orgs_rejected(orgs.len());
        self.status.change(|s| (s.rejected, s.rows, s.orgs) = (None, rows, orgs));
        tracing::info!(%version, from = %live.version(), policies, rows, took_ms, trigger, "policies in force");
        // Whoever let go of it last would free every policy of it; that is no work for a request.
        let _ = aside(self.done.large, move || drop((live, old))).await;
        true
    }

    /// A line for each org whose folder is rejected anew, or for another reason than before; the log is told the same.
    fn org_lines(&self, before: &[OrgRejected], now: &[OrgRejected], version: &str, trigger: &'static str) -> Vec<AuditRecord> {
        let new = now.iter().filter(|rejected| !before.contains(rejected));
        new.map(|rejected| {
            let OrgRejected { org, code, in_force, diagnostics } = rejected;
            for fault in diagnostics.iter().take(LISTED_MAX) {
                tracing::error!(%version, %code, %org, ?in_force, "the org's policies on disk not taken: {fault}");
            }
            let first: Vec<&Told> = diagnostics.iter().take(LISTED_MAX).collect();
            let detail = json!({"trigger": trigger, "in_force": in_force, "faults": diagnostics.len(), "diagnostics": first});
            AuditRecord { org: Some(org.clone()), ..self.line("refused", Some(*code), version, detail) }
        })
        .collect()
    }

    async fn reject(&self, error: LoadError, trigger: &'static str, took_ms: u64) -> bool {
        let live = self.engine.pin();
        let (code, diagnostics) = (error.code, error.told());
        let unsettled = code == ReasonCode::PolicyUnsettled;
        let first: Vec<&Told> = diagnostics.iter().take(LISTED_MAX).collect();
        let detail = json!({"trigger": trigger, "took_ms": took_ms, "faults": diagnostics.len(), "diagnostics": first});
        for fault in &first {
            tracing::error!(version = %live.version(), %code, "policies on disk not taken: {fault}");
        }
        // What is refused is in force nowhere, and takes nothing out of force either.
        if !stands(Guard::LastGoodStays)
            && let Ok(law) = live.law.with(cedar_policy::PolicySet::new())
        {
            drop(self.engine.swap(live.under(law)));
        }
        let rejected = Rejected { code, version: None, at: self.clock.now(), diagnostics: diagnostics.clone() };
        // Before the audit: readiness must not hide what the store could not write down.
        self.status.change(|s| s.rejected = Some(rejected));
        self.metrics.policies_reloaded(false);
        if let Err(error) = self.store.audit(vec![self.line("refused", Some(code), live.version(), detail)]).await {
            tracing::error!(error = %error, "the rejection could not be audited");
            return false;
        }
        !unsettled
    }

    /// The set in the shadow follows its own folder, and is held to the same but the lock.
    async fn look_at_shadow(&mut self) {
        let Some(dir) = self.shadow.clone() else { return };
        let terms = Terms { dir, require_lock: false, gate_tables: false, ..self.terms.clone() };
        let now = self.clock.now();
        let known = self.done.shadow.clone();
        let loaded = aside(self.done.large, move || {
            let read = terms.read();
            let seen = Seen::of(&read);
            if known.as_ref() == Some(&seen) {
                return None;
            }
            Some((seen, read.and_then(|sources| terms.accept(sources, &none(), now))))
        });
        let Some(Some((seen, loaded))) = loaded.await else { return };
        match loaded {
            // A set without effect refuses nobody: it is watched whole or not at all.
            Ok(Passed { orgs, .. }) if !orgs.is_empty() => {
                let code = orgs.first().map_or(ReasonCode::PolicyInvalid, |rejected| rejected.code);
                let diagnostics: Vec<Told> = orgs.into_iter().flat_map(|rejected| rejected.diagnostics).collect();
                tracing::warn!(%code, faults = diagnostics.len(), "policies in the shadow folder not taken");
                let rejected = Rejected { code, version: None, at: now, diagnostics };
                self.status.change(|s| s.shadow_rejected = Some(rejected));
            }
            Ok(Passed { snapshot, .. }) => {
                tracing::info!(version = %snapshot.version(), policies = snapshot.policies(), "policies in the shadow");
                let live = self.engine.pin();
                drop(self.engine.swap(live.beside(Some(Arc::new(Shadow::new(snapshot))))));
                self.status.change(|s| s.shadow_rejected = None);
            }
            Err(error) => {
                let (code, diagnostics) = (error.code, error.told());
                tracing::warn!(%code, faults = diagnostics.len(), "policies in the shadow folder not taken");
                let rejected = Rejected { code, version: None, at: now, diagnostics };
                self.status.change(|s| s.shadow_rejected = Some(rejected));
            }
        }
        self.done.shadow = Some(seen);
    }

    async fn keep(&self, sources: Sources, policies: usize, orgs_without: Vec<OrgId>) {
        let (history, now) = (self.history.clone(), self.clock.now());
        let kept = aside(self.done.large, move || history.keep(&sources, policies, orgs_without, now)).await;
        if let Some(Err(error)) = kept {
            tracing::warn!(error = %error, "the accepted policies could not be kept: `byoa policy rollback` will not know them");
        }
    }

    fn line(&self, outcome: &'static str, code: Option<ReasonCode>, target: &str, detail: serde_json::Value) -> AuditRecord {
        AuditRecord {
            at: self.clock.now(),
            actor: "gateway".into(),
            action: "policies.load",
            target: target.to_owned(),
            org: None,
            outcome,
            code,
            decision: None,
            request: None,
            detail: Some(detail.to_string()),
        }
    }
}

struct Watchers {
    _held: Vec<RecommendedWatcher>,
    /// An event came since the last look.
    touched: bool,
    /// Something could not be watched.
    deaf: bool,
}

/// Watches a folder, and its parent: a folder that is replaced whole, or a link that points elsewhere, is an event of the
/// parent only.
fn watcher(dir: &Path, tell: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let heard = move |event: notify::Result<notify::Event>| {
        // Reading is an event too; answering it with a look would never end.
        if !event.is_ok_and(|e| e.kind.is_access()) {
            let _ = tell.try_send(());
        }
    };
    // A link to a large tree outside would take a watch for every folder of it.
    let mut watcher = RecommendedWatcher::new(heard, notify::Config::default().with_follow_symlinks(false))?;
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}

/// What one set has that another has not.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

fn changes(from: &Snapshot, to: &Snapshot) -> Changes {
    let (before, after) = (&from.law.policies, &to.law.policies);
    let mut changes = Changes::default();
    for policy in after.policies() {
        match before.policy(policy.id()) {
            None => changes.added.push(policy.id().to_string()),
            Some(known) if known.to_string() != policy.to_string() => changes.changed.push(policy.id().to_string()),
            Some(_) => {}
        }
    }
    changes.removed = before.policies().filter(|p| after.policy(p.id()).is_none()).map(|p| p.id().to_string()).collect();
    for list in [&mut changes.added, &mut changes.removed, &mut changes.changed] {
        list.sort_unstable();
        if list.len() > LISTED_MAX {
            let more = list.len() - LISTED_MAX;
            list.truncate(LISTED_MAX);
            list.push(format!("and {more} more"));
        }
    }
    changes
}

fn broke() -> LoadError {
    let said = Diagnostic::of_file(super::Rule::File, "policies", "reading them broke inside the gateway; its log says where");
    LoadError::new(ReasonCode::PolicyInvalid, vec![said])
}

/// Runs on a thread of its own that gives way to every other: ten thousand policies are a second of work, and requests go
/// first. `None` when it panicked.
async fn aside<T: Send + 'static>(large: bool, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (done, result) = oneshot::channel();
    let spawned = std::thread::Builder::new().name("policies".into()).spawn(move || {
        give_way(large);
        let _ = done.send(work());
    });
    match spawned {
        Ok(_) => result.await.ok(),
        Err(error) => {
            tracing::error!(error = %error, "no thread for reading policies");
            None
        }
    }
}

/// Puts the thread that asks, and those that it starts, behind the ones that answer requests; where the work is large, behind
/// everything. On Linux niceness and the scheduling class are a thread's own (setpriority(2), "C library/kernel differences";
/// sched(7)).
pub fn give_way(large: bool) {
    #[cfg(target_os = "linux")]
    {
        use thread_priority::unix::{NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};
        let done = if large {
            let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
            set_thread_priority_and_policy(thread_native_id(), thread_priority::ThreadPriority::Min, idle).map_err(|e| format!("{e:?}"))
        } else {
            rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE).map_err(|e| e.to_string())
        };
        if let Err(error) = done {
            tracing::debug!(%error, "a thread beside the requests keeps its priority");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Niceness and scheduling policy of the thread that asks, by proc_pid_stat(5); 5 is SCHED_IDLE.
    fn standing() -> (i32, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        (fields[16].parse().unwrap(), fields[38].parse().unwrap())
    }

    #[tokio::test]
    async fn whoever_builds_a_set_gives_way() {
        let own = standing();
        assert_eq!(aside(false, standing).await, Some((NICE.max(own.0), 0)));
        assert_eq!(aside(true, standing).await.map(|(_, policy)| policy), Some(5));
        assert_eq!(standing(), own, "the thread that asked stays what it was");
    }

    #[tokio::test]
    async fn a_thread_that_breaks_is_no_answer() {
        assert_eq!(
            aside(false, || {
                if standing().1 < 9 {
                    panic!("planned")
                }
            })
            .await,
            None
        );
    }
}
