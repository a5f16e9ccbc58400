//! How the parts are built, started and drained. Floor 9.

mod build;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::authn::operator::Operators;
use crate::config::{Config, RetentionSection};
use crate::delivery::{Courier, DeliveryObserver};
use crate::domain::breaker::BreakerState;
use crate::domain::clock::Clock;
use crate::domain::delivery::Claimed;
use crate::domain::ids::AgentId;
use crate::domain::matrix::Player;
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::repeats::FLUSH_EVERY_MS;
use crate::egress::{Calls, Egress, Refreshers};
use crate::http::gate::{self, Gate};
use crate::http::listener::{Listening, listen};
use crate::http::{self, Bodies, Rooms};
use crate::ingress::Ingress;
use crate::policy::accept::{Passed, Terms};
use crate::policy::orgs::Last;
use crate::policy::reload::{Begun, Done, Reloader, Status};
use crate::policy::{Engine, History, LoadError, Snapshot};
use crate::quota::OrgQuotas;
use crate::quota::failures::FailureBudgets;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::transport::Transport;
use crate::vault::keys;
use crate::vault::reply::ReplyLinks;
use crate::vault::ticket::MediaLinks;
use crate::wire::waiting::Waiting;

/// Secrets that the environment may bring instead of files.
#[derive(Debug, Default)]
pub struct EnvSecrets {
    /// `BYOA_MASTER_KEYS`
    pub master_keys: Option<String>,
    /// `BYOA_OPERATOR_TOKEN`
    pub operator_token: Option<String>,
}

/// What a gateway is given from above, beside its settings.
#[derive(Default)]
pub struct Outfit {
    /// Who is told of deliveries besides the metrics.
    pub watcher: Option<Arc<dyn DeliveryObserver>>,
    /// Who plays the failure-path matrix.
    pub player: Option<Arc<dyn Player>>,
    /// Which build this is; asked of the running executable where it is left out.
    pub build: Option<fn() -> Option<Arc<str>>>,
    /// A law that was accepted already; read and accepted anew where the folder holds another one.
    pub law: Option<Arc<Snapshot>>,
}

/// A gateway that answers.
pub struct Gateway {
    /// Where webhooks and agents knock.
    pub public: SocketAddr,
    /// Where operators do.
    pub operator: SocketAddr,
    rooms: Arc<Rooms>,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    drain_timeout: Duration,
}

/// Why there is no set to begin with. A start is in the log of whoever starts it, so no text of the files is in it.
fn policies_refused(error: &LoadError) -> Failure {
    let mut lines: Vec<String> = error.told().iter().map(ToString::to_string).collect();
    lines.push("`byoa policy check` prints each line that is at fault".into());
    Failure::new(error.code, lines.join("\n"))
}

/// How often what has passed its retention is removed.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

impl Gateway {
    /// Builds everything and starts answering.
    ///
    /// # Errors
    /// The one reason why not: no or no valid policy set, weak or missing keys, a store that may not be opened, an address
    /// that cannot be bound.
    pub async fn start(config: Config, secrets: EnvSecrets, clock: Clock) -> Result<Self, Failure> {
        Self::start_with(config, secrets, clock, Outfit::default()).await
    }

    /// Starts with what it is given from above.
    ///
    /// # Errors
    /// As [`Gateway::start`].
    pub async fn start_with(config: Config, secrets: EnvSecrets, clock: Clock, outfit: Outfit) -> Result<Self, Failure> {
        let Outfit { watcher, player, build, law } = outfit;
        let terms = Terms::from(&config.policies);
        let history = History::new(&config.policies.history, config.policies.history_max);
        let last = Last::new(Box::new(|| history.last_files(&terms.dir)));
        let read = terms.read().and_then(|sources| {
            let seen = sources.digest();
            Ok((seen, terms.accept_again(sources, law.as_deref(), &last, clock.now())?))
        });
        drop(last);
        let (seen, Passed { snapshot, sources, rows, orgs }) = read.map_err(|e| policies_refused(&e))?;
        let metrics = Arc::new(Metrics::new(snapshot.version()));
        let engine = Engine::new(snapshot);
        let first_start = Store::file_of(&config.store.url).is_none_or(|file| !file.exists());
        let (ring, origin) = keys::load(&config.keys.file, secrets.master_keys.as_deref(), first_start)?;
        let operators = Operators::load(&config.operators.token_file, secrets.operator_token.as_deref())?;
        let store = Store::open(&config.store.url, &config.limits, &config.rollout, &clock).await?;
        let vault = keys::unlock(ring, &store, clock.now()).await?;
        let abandoned = store.abandon_sends(clock.now()).await?;
        if abandoned > 0 {
            tracing::warn!(abandoned, "sends were on their way when the last process died; their outcome is unknown");
        }

        let (stop, stopping) = watch::channel(false);
        let waiting = Waiting::default();
        let quotas = Arc::new(OrgQuotas::new(config.quotas.clone()));
        let failures = Arc::new(FailureBudgets::new(
            config.limits.failures_per_address_per_minute,
            config.limits.failures_per_ingress_per_minute,
            &config.trusted_proxies,
        ));
        let ingress = Ingress {
            store: store.clone(),
            vault: vault.clone(),
            engine: engine.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            quotas: quotas.clone(),
            failures: failures.clone(),
            waiting: waiting.clone(),
            // Where another process delivers, the answer arrives there.
            synchronous: Duration::from_millis(if config.delivery.concurrency == 0 { 0 } else { config.limits.synchronous_ms }),
        };
        let proved = http::shared(config.limits.proved_bytes_max);
        let egress = Egress {
            store: store.clone(),
            vault: vault.clone(),
            engine: engine.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            transport: Transport::providers()?,
            providers: config.providers.clone(),
            limits: config.limits.clone(),
            used: Arc::default(),
            refreshers: Refreshers::default(),
            calls: Calls::default(),
            held: proved.clone(),
        };
        let admin = Admin {
            store: store.clone(),
            vault: vault.clone(),
            engine: engine.clone(),
            keys: origin,
            clock: clock.clone(),
            changing: Arc::new(Mutex::new(())),
            rehearsal: Arc::default(),
            rollout: config.rollout.clone(),
            retention: config.retention.clone(),
            allow_private_agents: config.egress.allow_private_agents,
            public_url: config.public_url.clone(),
            player,
            build: build.unwrap_or(build::build),
            matrix: Arc::default(),
            quotas,
        };
        let courier = Courier {
            store: store.clone(),
            vault: vault.clone(),
            links: MediaLinks::new(vault.clone(), config.public_url.as_deref(), config.limits.media_url_hours),
            replies: ReplyLinks::new(vault.clone(), config.public_url.as_deref()),
            waiting,
            transport: Transport::agents(config.egress.allow_private_agents)?,
            clock: clock.clone(),
            settings: config.delivery.clone(),
            grace: Duration::from_millis(config.limits.drain_timeout_ms / 2),
            observer: Arc::new(Counted { metrics: metrics.clone(), watcher }),
        };
        let limits = config.limits.clone();
        let (public, operator) = (config.listen.public, config.listen.operator);
        let drain_timeout = Duration::from_millis(limits.drain_timeout_ms);
        let standing = Status::default();
        let mut reloader = Reloader {
            engine: engine.clone(),
            terms,
            shadow: config.policies.shadow.clone(),
            history,
            store: store.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            status: standing.clone(),
            done: Done::default(),
        };
        reloader.started(Begun { seen, sources, rows, orgs }).await?;
        let rooms = Arc::new(Rooms {
            ingress,
            egress,
            admin,
            operators,
            store: store.clone(),
            vault,
            engine: engine.clone(),
            standing,
            metrics,
            clock: clock.clone(),
            config: config.clone(),
            failures,
            bodies: Bodies::new(&config.limits, proved),
            draining: stopping.clone(),
        });
        let bind = |address: SocketAddr, router, gate| listen(address, router, &limits, gate, rooms.metrics.clone(), stopping.clone());
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let connections_max = gate::connections_max(limits.connections_max, descriptors, config.delivery.concurrency);
        if connections_max < limits.connections_max {
            tracing::warn!(connections_max, descriptors, "there are descriptors for fewer connections than limits.connections_max");
        }
        let at_public = Gate::public(connections_max, limits.connections_per_address_max, config.trusted_proxies.clone());
        let cannot = |address: SocketAddr| {
            move |e: std::io::Error| Failure::new(ReasonCode::ConfigInvalid, format!("cannot listen on {address}: {e}"))
        };
        let Listening { address: public, task: public_task } =
            bind(public, http::public(&rooms), at_public).await.map_err(cannot(public))?;
        let Listening { address: operator, task: operator_task } =
            bind(operator, http::operator(&rooms), Gate::operators()).await.map_err(cannot(operator))?;
        let workers = vec![
            tokio::spawn(courier.run(stopping.clone())),
            tokio::spawn(end_rotation(rooms.admin.clone())),
            tokio::spawn(flush(store.clone(), clock.clone(), stopping.clone())),
            tokio::spawn(sweep(store, config.retention, clock, stopping.clone())),
            tokio::spawn(reloader.run(stopping)),
        ];
        Ok(Self { public, operator, rooms, stop, listeners: vec![public_task, operator_task], workers, drain_timeout })
    }

    /// The store, for tests and the demo.
    pub fn store(&self) -> &Store {
        &self.rooms.store
    }

    /// The rooms, for the demo, which declares its tenants without a socket.
    pub fn admin(&self) -> &Admin {
        &self.rooms.admin
    }

    /// Who may operate, for the demo.
    pub fn operators(&self) -> &Operators {
        &self.rooms.operators
    }

    /// Stops accepting, finishes what is under way, gives leases back, closes the store. `false` when the time ran out.
    pub async fn drain(self) -> bool {
        let _ = self.stop.send(true);
        let finish = async {
            for task in self.listeners {
                let _ = task.await;
            }
            for task in self.workers {
                let _ = task.await;
            }
            // Only now nobody is refused any more.
            if let Err(error) = self.rooms.store.flush_repeats(self.rooms.clock.now()).await {
                tracing::error!(error = %error, "the last refusals could not be audited");
            }
            self.rooms.store.close().await;
        };
        tokio::time::timeout(self.drain_timeout, finish).await.is_ok()
    }
}

/// Writes the counts of repeated refusals into the audit once a minute. [`Gateway::drain`] writes the last ones.
async fn flush(store: Store, clock: Clock, mut stopping: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(Duration::from_millis(FLUSH_EVERY_MS));
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = store.flush_repeats(clock.now()).await {
            tracing::error!(error = %error, "refusals could not be audited");
        }
        // Whoever removed events took their bytes off in the store only.
        if let Err(error) = store.refresh_usage().await {
            tracing::error!(error = %error, "the stored bytes of orgs could not be read");
        }
    }
}

/// A rotation of the master key that an earlier process left goes on beside everything else.
async fn end_rotation(admin: Admin) {
    if let Err(error) = admin.resume_keys().await {
        tracing::error!(reason = %error.code, detail = error.detail, "a rotation of the master key was not ended; `byoa keys rotate` goes on");
    }
}

async fn sweep(store: Store, keep: RetentionSection, clock: Clock, mut stopping: watch::Receiver<bool>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            _ = every.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        // Asked at least this often, so that a clock which is corrected little by little is never taken for one that steps.
        // While it is not believed, it does not say what is old.
        if clock.is_suspect() {
            continue;
        }
        let swept = tokio::select! {
            swept = store.sweep(&keep, clock.now()) => swept,
            // What is left is removed by the next one.
            _ = stopping.wait_for(|stop| *stop) => return,
        };
        match swept {
            Ok(swept) => tracing::info!(?swept, "what its retention has passed was removed"),
            Err(error) => tracing::error!(error = %error, "what its retention has passed could not be removed"),
        }
    }
}

/// Deliveries as metrics, and for whoever else watches.
struct Counted {
    metrics: Arc<Metrics>,
    watcher: Option<Arc<dyn DeliveryObserver>>,
}

impl DeliveryObserver for Counted {
    fn attempt_started(&self, claimed: &Claimed) {
        if let Some(watcher) = &self.watcher {
            watcher.attempt_started(claimed);
        }
    }

    fn settled(&self, claimed: &Claimed, outcome: &'static str, lag_ms: i64) {
        let lag = (outcome == "delivered").then(|| f64::from(i32::try_from(lag_ms).unwrap_or(i32::MAX)) / 1000.0);
        self.metrics.delivery(outcome, lag);
        if let Some(watcher) = &self.watcher {
            watcher.settled(claimed, outcome, lag_ms);
        }
    }

    fn breaker_turned(&self, agent: &AgentId, to: BreakerState) {
        self.metrics.breaker_turned(to);
        if let Some(watcher) = &self.watcher {
            watcher.breaker_turned(agent, to);
        }
    }
}
