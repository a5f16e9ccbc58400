//! The outbox worker: claim → attempt → settle.
//!
//! Owns when an event is sent to its agent, and what follows from the answer. An attempt is counted and committed before it
//! begins, so an event that takes the process down comes to its end too. Within a session the oldest goes first; the store
//! hands out no other. Never decides whether an event may go to an agent: that was decided when it was accepted. Floor 7.

pub mod attempt;
pub mod cloudevent;
pub mod native;
pub mod retry;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet, spawn_blocking};
use tokio::time::Instant;

use crate::config::{DeliverySection, SETTLE_MS};
use crate::domain::breaker::BreakerState;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::{Attempt, Claimed, Settled};
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::AgentId;
use crate::domain::reason::ReasonCode;
use crate::store::{Claiming, EventView, Store};
use crate::transport::Transport;
use crate::vault::Vault;
use crate::vault::reply::ReplyLinks;
use crate::vault::ticket::MediaLinks;
use crate::wire::WireRequest;
use crate::wire::waiting::{Told, Waiting};
use attempt::Verdict;

/// So much of an agent's answer is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// An event with more bytes than this is composed on a thread that may block: what serves requests must not.
const COMPOSED_HERE_MAX: usize = 64 * 1024;

/// However quiet it is, somebody looks this often.
const IDLE: Duration = Duration::from_secs(1);

/// How often somebody looks when the clock is moved by hand.
const IDLE_MANUAL: Duration = Duration::from_millis(5);

/// Between two claims passes at least this long, so that under load a claim takes many.
const CLAIM_GAP: Duration = Duration::from_millis(2);

/// And at least so many times as long as a claim took: claims run where requests commit, and may have a fifth of that.
const CLAIM_GAP_FACTOR: u32 = 4;

/// But no longer than this: a claim that waited for a slow disk did no work, and deliveries must not wait four times as long
/// as the disk took.
const CLAIM_GAP_MAX: Duration = Duration::from_millis(50);

/// The pause between a claim that took `took` and the next one.
fn claim_gap(took: Duration) -> Duration {
    (took * CLAIM_GAP_FACTOR).clamp(CLAIM_GAP, CLAIM_GAP_MAX)
}

/// Hears what becomes of deliveries: metrics, the demo, tests. Called on the worker's tasks, so it must not block.
pub trait DeliveryObserver: Send + Sync {
    /// An attempt begins.
    fn attempt_started(&self, claimed: &Claimed) {
        let _ = claimed;
    }

    /// An attempt is settled and committed: `delivered`, `retry`, `dead`, `agent_gone`, or `fenced` where somebody else had
    /// the lease by then. `lag_ms` counts from the event's reception.
    fn settled(&self, claimed: &Claimed, outcome: &'static str, lag_ms: i64) {
        let _ = (claimed, outcome, lag_ms);
    }

    /// The breaker of an agent changed to this state.
    fn breaker_turned(&self, agent: &AgentId, to: BreakerState) {
        let _ = (agent, to);
    }
}

/// Nobody listens.
impl DeliveryObserver for () {}

/// The outbox worker.
pub struct Courier {
    /// Where deliveries wait.
    pub store: Store,
    /// Opens agents' signing secrets.
    pub vault: Vault,
    /// Addresses of files.
    pub links: MediaLinks,
    /// Addresses that agents reply at.
    pub replies: ReplyLinks,
    /// Who waits for agents' answers.
    pub waiting: Waiting,
    /// To agents: guarded.
    pub transport: Transport,
    /// The time.
    pub clock: Clock,
    /// Schedule, concurrency, deadlines.
    pub settings: DeliverySection,
    /// Running attempts may finish for so long after a shutdown began; the rest is given back.
    pub grace: Duration,
    /// Who listens.
    pub observer: Arc<dyn DeliveryObserver>,
}

impl fmt::Debug for Courier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Courier")
    }
}

/// Attempts under way, with what to give back when they do not finish.
#[derive(Default)]
struct Running {
    tasks: JoinSet<()>,
    claimed: HashMap<Id, Claimed>,
}

impl Running {
    fn finished(&mut self, joined: Result<(Id, ()), JoinError>) {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let claimed = self.claimed.remove(&id);
        if let (Err(error), Some(claimed)) = (joined, claimed)
            && error.is_panic()
        {
            // Counted already; the lease runs out and it is tried again, until the schedule ends.
            tracing::error!(delivery = %claimed.id, event = %claimed.event, attempt = claimed.attempt, "an attempt panicked");
        }
    }
}

impl Courier {
    /// Delivers until the shutdown is announced (or its announcer is gone), then lets running attempts finish for a while
    /// and gives back the leases of those that did not.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        let slots = self.settings.concurrency;
        if slots == 0 {
            return;
        }
        let courier = Arc::new(self);
        let mut committed = courier.store.committed();
        let mut running = Running::default();
        let mut claim_from = Instant::now();
        loop {
            while let Some(joined) = running.tasks.try_join_next_with_id() {
                running.finished(joined);
            }
            let free = slots.saturating_sub(running.tasks.len());
            let mut look_again = claim_from;
            if free > 0 && claim_from <= Instant::now() {
                // Before the claim: whatever is committed from here on wakes us, whether the claim saw it or not.
                committed.borrow_and_update();
                let began = Instant::now();
                let claimed = courier.claim(free).await;
                claim_from = Instant::now() + claimed.as_ref().map_or(IDLE, |_| claim_gap(began.elapsed()));
                let claimed = claimed.unwrap_or_default();
                // Fewer than asked for is all there is. A commit since then asks for another look by itself.
                let quiet = claimed.len() < free && !committed.has_changed().unwrap_or(true);
                for claimed in claimed {
                    let task = running.tasks.spawn(courier.clone().deliver(claimed.clone()));
                    running.claimed.insert(task.id(), claimed);
                }
                look_again = if quiet { claim_from.max(courier.next_look().await) } else { claim_from };
            }
            // Whatever wakes us, the next claim is not made before `claim_from`: what comes until then shares it.
            let has_slot = running.tasks.len() < slots;
            tokio::select! {
                // Ends with `Err` when nobody can announce a shutdown any more, which is one.
                _ = shutdown.wait_for(|down| *down) => break,
                Some(joined) = running.tasks.join_next_with_id() => running.finished(joined),
                changed = committed.changed(), if has_slot => {
                    if changed.is_err() {
                        break; // The store is closed.
                    }
                }
                () = tokio::time::sleep_until(look_again), if has_slot => {}
            }
        }
        courier.drain(running).await;
    }

    async fn claim(&self, limit: usize) -> Option<Vec<Claimed>> {
        let settings = &self.settings;
        let claiming = Claiming {
            limit,
            lease_ms: i64::try_from(settings.lease_ms).unwrap_or(i64::MAX),
            slots: settings.concurrency,
            org_max: settings.org_concurrency,
            agent_max: settings.agent_concurrency,
        };
        let claimed = self.store.claim_deliveries(claiming, self.clock.now()).await;
        self.tell_breakers();
        match claimed {
            Ok(claimed) => Some(claimed),
            Err(error) => {
                tracing::warn!(code = %error.code(), error = %error, "no delivery could be claimed");
                None
            }
        }
    }

    /// Logs and counts what became of breakers.
    fn tell_breakers(&self) {
        for (agent, to) in self.store.turned_breakers() {
            match to {
                BreakerState::Open => {
                    let breaker = self.store.breaker(&agent);
                    let next = breaker.next_probe_at.map(tracing::field::display);
                    tracing::warn!(agent = %agent, failures = breaker.failures, next_probe_at = next, "the agent fails; its deliveries wait");
                }
                BreakerState::HalfOpen => tracing::debug!(agent = %agent, "the agent is probed with one delivery"),
                BreakerState::Closed => tracing::info!(agent = %agent, "the agent is delivered to again"),
            }
            self.observer.breaker_turned(&agent, to);
        }
    }

    /// When something may be due that no commit announces: a retry, a lease that runs out.
    async fn next_look(&self) -> Instant {
        if self.clock.is_manual() {
            return Instant::now() + IDLE_MANUAL;
        }
        let now = self.clock.now();
        let due = self.store.next_due();
        let wait = due.map(|due| Duration::from_millis(u64::try_from(due.ms().saturating_sub(now.ms())).unwrap_or(0)));
        Instant::now() + wait.map_or(IDLE, |wait| wait.min(IDLE))
    }

    async fn drain(&self, mut running: Running) {
        let grace = tokio::time::sleep(self.grace);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                joined = running.tasks.join_next_with_id() => match joined {
                    Some(joined) => running.finished(joined),
                    None => break,
                },
                () = &mut grace => break,
            }
        }
        running.tasks.abort_all();
        while let Some(joined) = running.tasks.join_next_with_id().await {
            if joined.is_ok() {
                running.finished(joined);
            }
        }
        let unfinished: Vec<Claimed> = running.claimed.into_values().collect();
        if unfinished.is_empty() {
            return;
        }
        tracing::info!(deliveries = unfinished.len(), "deliveries given back unfinished");
        if let Err(error) = self.store.release_leases(unfinished).await {
            tracing::warn!(code = %error.code(), error = %error, "leases run out by themselves instead");
        }
    }

    /// How long an attempt may take that starts at `at`: it ends before its lease does, with time to settle. Zero when the
    /// lease is about to end.
    fn time_for(claimed: &Claimed, at: Timestamp) -> Duration {
        let left_ms = u64::try_from(claimed.lease_until.ms().saturating_sub(at.ms())).unwrap_or(0);
        Duration::from_millis(left_ms.saturating_sub(SETTLE_MS))
    }

    /// One claimed delivery: attempt, settle, tell.
    async fn deliver(self: Arc<Self>, claimed: Claimed) {
        let at = self.clock.now();
        let time = Self::time_for(&claimed, at);
        if time.is_zero() {
            // The claim's commit took too long. Nothing was sent, so nothing is counted.
            tracing::warn!(delivery = %claimed.id, "a lease ended before its attempt could begin");
            if let Err(error) = self.store.release_leases(vec![claimed]).await {
                tracing::warn!(code = %error.code(), error = %error, "the lease runs out by itself instead");
            }
            return;
        }
        let schedule = &self.settings.schedule_ms;
        let mut received = at;
        let (verdict, status, settled) = if retry::is_beyond(schedule, claimed.attempt) && stands(Guard::PoisonEnds) {
            // Not even read again: reading may be what takes the process down.
            let code = ReasonCode::DeliveryExhausted;
            (Verdict::failed(code), None, Settled::Dead(code))
        } else {
            self.observer.attempt_started(&claimed);
            let (verdict, status) = self.attempt(&claimed, at, time, &mut received).await;
            let spread = retry::spread_of(&claimed.id, claimed.attempt);
            let settled = retry::settle(&verdict, schedule, claimed.attempt, spread, self.clock.now());
            (verdict, status, settled)
        };
        // Whoever still waits waits in vain: the next attempt is too late.
        self.waiting.tell(&claimed.event, || Told::Failed);
        let now = self.clock.now();
        let record = Attempt { number: claimed.attempt, at, took_ms: now.ms().saturating_sub(at.ms()), status, code: verdict.code() };
        let outcome = match &settled {
            Settled::Delivered => "delivered",
            Settled::RetryAt(_) => "retry",
            Settled::Dead(_) => "dead",
            Settled::AgentGone => "agent_gone",
        };
        let health = verdict.health(status);
        let outcome = match self.store.settle_delivery(&claimed, settled, record, health, now).await {
            Ok(true) => outcome,
            Ok(false) => "fenced",
            Err(error) => {
                // The lease runs out and the event is sent again under the same id: at least once.
                tracing::error!(delivery = %claimed.id, event = %claimed.event, code = %error.code(), error = %error, "a delivery could not be settled");
                return;
            }
        };
        tracing::info!(
            delivery = %claimed.id,
            event = %claimed.event,
            org = %claimed.org,
            agent = %claimed.agent,
            session = %claimed.session,
            attempt = claimed.attempt,
            outcome,
            status,
            code = verdict.code().map(ReasonCode::as_str),
            "delivery settled"
        );
        self.observer.settled(&claimed, outcome, now.ms().saturating_sub(received.ms()));
        self.tell_breakers();
    }

    /// The signed POST, all of it within `time`; what it came to and the agent's status, where it answered. Its body goes to
    /// nobody but a request that waits for it.
    async fn attempt(
        self: &Arc<Self>,
        claimed: &Claimed,
        at: Timestamp,
        time: Duration,
        received: &mut Timestamp,
    ) -> (Verdict, Option<u16>) {
        let began = Instant::now();
        let prepared = tokio::time::timeout(time, self.prepare(claimed, at, received)).await;
        let request = match prepared.unwrap_or(Err(ReasonCode::DeliveryNotPrepared)) {
            Ok(request) => request,
            Err(code) => return (Verdict::failed(code), None),
        };
        // What preparing took is not the agent's fault, so the agent has its time; but not beyond the lease.
        let left_ms = u64::try_from(time.saturating_sub(began.elapsed()).as_millis()).unwrap_or(u64::MAX);
        let answer = self.transport.send(request, self.settings.attempt_timeout_ms.min(left_ms), ANSWER_BYTES_MAX).await;
        let verdict = attempt::classify(&answer, self.clock.now());
        if let (Verdict::Delivered, Ok(answer)) = (&verdict, &answer) {
            self.waiting.tell(&claimed.event, || Told::Answered(answer.body.clone()));
        }
        (verdict, answer.ok().map(|a| a.status))
    }

    /// The request of an attempt: the event read, composed and signed.
    async fn prepare(self: &Arc<Self>, claimed: &Claimed, at: Timestamp, received: &mut Timestamp) -> Result<WireRequest, ReasonCode> {
        let event = self.store.event_view(&claimed.event).await.map_err(|error| error.code())?.ok_or(ReasonCode::StoreCorrupt)?;
        *received = event.received;
        if event.raw.len() <= COMPOSED_HERE_MAX {
            return self.compose(&event, claimed, at);
        }
        let (courier, claimed) = (self.clone(), claimed.clone());
        match spawn_blocking(move || courier.compose(&event, &claimed, at)).await {
            Ok(request) => request,
            Err(broken) => match broken.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ReasonCode::DeliveryNotPrepared),
            },
        }
    }

    fn compose(&self, event: &EventView, claimed: &Claimed, at: Timestamp) -> Result<WireRequest, ReasonCode> {
        let directory = self.store.directory();
        // It was removed. Its events end as dead letters, for an operator to see.
        let agent = directory.agents.get(&claimed.agent).ok_or(ReasonCode::DeliveryAgentUnreachable)?;
        match self.vault.agent_signing(agent) {
            Ok(secret) => attempt::compose(event, &agent.item, &secret, claimed, &self.links, &self.replies, at),
            Err(failure) => {
                tracing::warn!(agent = %claimed.agent, code = %failure.code, detail = failure.detail, "a delivery cannot be signed");
                Err(failure.code)
            }
        }
    }
}

#[cfg(test)]
mod tests;
