//! Every metric, named once (`interface.md` §10). Labels are closed sets: attacker text never becomes one.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::domain::breaker::BreakerState;
use crate::domain::installation::{AnswerKind, InstallationStatus, Mode, ProviderKind};
use crate::domain::reason::ReasonCode;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct IngressLabels {
    provider: &'static str,
    mode: &'static str,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct DecisionLabels {
    action: &'static str,
    decision: &'static str,
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct DoorLabel {
    door: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TurnLabel {
    to: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct AnswerLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SendLabels {
    provider: &'static str,
    owner: &'static str,
    outcome: &'static str,
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ProviderLabel {
    provider: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct LifecycleLabels {
    provider: &'static str,
    change: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct StatusLabels {
    provider: &'static str,
    status: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RefreshLabels {
    provider: &'static str,
    result: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ProfileLabel {
    profile: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct VersionLabel {
    version: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

/// All metrics of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    ingress: Family<IngressLabels, Counter>,
    ingress_seconds: Histogram,
    decisions: Family<DecisionLabels, Counter>,
    decision_seconds: Histogram,
    deliveries: Family<OutcomeLabel, Counter>,
    delivery_lag: Histogram,
    queue_depth: Gauge,
    under_way: Gauge,
    breakers: Family<StateLabel, Gauge>,
    breaker_turns: Family<TurnLabel, Counter>,
    answers: Family<AnswerLabels, Counter>,
    sends: Family<SendLabels, Counter>,
    reloads: Family<ResultLabel, Counter>,
    legacy: Family<ProviderLabel, Counter>,
    previous_secret: Family<ProviderLabel, Counter>,
    aliases: Family<ProfileLabel, Counter>,
    lifecycle: Family<LifecycleLabels, Counter>,
    refreshes: Family<RefreshLabels, Counter>,
    installations: Family<StatusLabels, Gauge>,
    throttled: Family<DoorLabel, Counter>,
    operator_refused: Family<ReasonLabel, Counter>,
    panics: Counter<u64, AtomicU64>,
    connections_refused: Family<ReasonLabel, Counter>,
    policy: Family<VersionLabel, Gauge>,
    policy_stale: Gauge,
    policy_orgs_rejected: Gauge,
    policy_loaded: Gauge,
    shadow: Gauge,
}

impl Metrics {
    /// Names every metric; `version` is the policy set's.
    pub fn new(policy_version: &str) -> Self {
        let mut registry = Registry::with_prefix("byoa");
        let metrics = Self {
            ingress: Family::default(),
            ingress_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 16)),
            decisions: Family::default(),
            decision_seconds: Histogram::new(exponential_buckets(0.000_001, 2.0, 16)),
            deliveries: Family::default(),
            delivery_lag: Histogram::new(exponential_buckets(0.001, 4.0, 12)),
            queue_depth: Gauge::default(),
            under_way: Gauge::default(),
            breakers: Family::default(),
            breaker_turns: Family::default(),
            answers: Family::default(),
            sends: Family::default(),
            reloads: Family::default(),
            legacy: Family::default(),
            previous_secret: Family::default(),
            aliases: Family::default(),
            lifecycle: Family::default(),
            refreshes: Family::default(),
            installations: Family::default(),
            throttled: Family::default(),
            operator_refused: Family::default(),
            panics: Counter::default(),
            connections_refused: Family::default(),
            policy: Family::default(),
            policy_stale: Gauge::default(),
            policy_orgs_rejected: Gauge::default(),
            policy_loaded: Gauge::default(),
            shadow: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("ingress_requests", "Webhook requests by outcome", metrics.ingress.clone());
        registry.register("ingress_duration_seconds", "From the request's head to its answer", metrics.ingress_seconds.clone());
        registry.register("decisions", "Answers of the policies", metrics.decisions.clone());
        registry.register("decision_duration_seconds", "One decision", metrics.decision_seconds.clone());
        registry.register("deliveries", "Delivery attempts by outcome", metrics.deliveries.clone());
        registry.register("delivery_lag_seconds", "From accept to the agent's 2xx", metrics.delivery_lag.clone());
        registry.register("queue_depth", "Open deliveries", metrics.queue_depth.clone());
        registry.register("deliveries_under_way", "Delivery attempts under way", metrics.under_way.clone());
        registry.register("agent_breakers", "Circuit breakers of agents that are not closed", metrics.breakers.clone());
        registry.register("agent_breaker_transitions", "Changes of agents' circuit breakers", metrics.breaker_turns.clone());
        registry.register("synchronous_answers", "Agents' answers that a provider waited for", metrics.answers.clone());
        registry.register("sends", "Messages and calls of agents by outcome", metrics.sends.clone());
        registry.register("policy_reloads", "Loads of the policy set by result", metrics.reloads.clone());
        registry.register("legacy_fallback", "Routes taken through a legacy binding", metrics.legacy.clone());
        registry.register("secret_previous_used", "Webhooks proved by a previous secret", metrics.previous_secret.clone());
        registry.register("ingress_alias", "Webhooks that came by an old address", metrics.aliases.clone());
        registry.register("lifecycle", "What befell installations", metrics.lifecycle.clone());
        registry.register("credential_refreshes", "Expiring credentials traded for new ones by result", metrics.refreshes.clone());
        registry.register("installations", "Installations by status", metrics.installations.clone());
        registry.register("throttled", "Requests that failed beyond a failure budget", metrics.throttled.clone());
        registry.register(
            "operator_refused",
            "Requests to the operator listener that were refused before anything was asked",
            metrics.operator_refused.clone(),
        );
        registry.register("handler_panics", "Requests whose handler broke", metrics.panics.clone());
        registry.register("connections_refused", "Connections that were one too many", metrics.connections_refused.clone());
        registry.register("policy_info", "1 for the policy set in force", metrics.policy.clone());
        registry.register("policy_stale", "1 while the policies on disk are not the ones in force", metrics.policy_stale.clone());
        registry.register(
            "policy_orgs_rejected",
            "orgs whose policy folder is not in force as it is on disk",
            metrics.policy_orgs_rejected.clone(),
        );
        registry.register("policy_loaded_timestamp_seconds", "When the set in force was taken", metrics.policy_loaded.clone());
        registry.register(
            "policy_shadow_disagreements",
            "Answers the set in the shadow would have given otherwise",
            metrics.shadow.clone(),
        );
        for provider in ProviderKind::ALL {
            // Counters that alerts watch exist before the first event.
            let _ = metrics.legacy.get_or_create(&ProviderLabel { provider: provider.as_str() });
            let _ = metrics.previous_secret.get_or_create(&ProviderLabel { provider: provider.as_str() });
        }
        // The first load is the start's.
        metrics.reloads.get_or_create(&ResultLabel { result: "accepted" }).inc();
        let _ = metrics.reloads.get_or_create(&ResultLabel { result: "rejected" });
        metrics.policy.get_or_create(&VersionLabel { version: policy_version.to_owned() }).set(1);
        Self { registry, ..metrics }
    }

    /// One webhook request or one event of it came to an end.
    pub fn ingress(&self, provider: ProviderKind, mode: Option<Mode>, outcome: &'static str, reason: Option<ReasonCode>) {
        let mode = mode.map_or("unknown", Mode::as_str);
        let reason = reason.map_or("", ReasonCode::as_str);
        self.ingress.get_or_create(&IngressLabels { provider: provider.as_str(), mode, outcome, reason }).inc();
    }

    /// How long a webhook request took.
    pub fn ingress_took(&self, seconds: f64) {
        self.ingress_seconds.observe(seconds);
    }

    /// The policies answered.
    pub fn decision(&self, action: &'static str, allowed: bool, code: Option<ReasonCode>, seconds: f64) {
        let decision = if allowed { "permit" } else { "refuse" };
        self.decisions.get_or_create(&DecisionLabels { action, decision, reason: code.map_or("", ReasonCode::as_str) }).inc();
        self.decision_seconds.observe(seconds);
    }

    /// A delivery attempt came to an end.
    pub fn delivery(&self, outcome: &'static str, lag_seconds: Option<f64>) {
        self.deliveries.get_or_create(&OutcomeLabel { outcome }).inc();
        if let Some(lag) = lag_seconds {
            self.delivery_lag.observe(lag);
        }
    }

    /// An agent's breaker changed to this state.
    pub fn breaker_turned(&self, to: BreakerState) {
        self.breaker_turns.get_or_create(&TurnLabel { to: to.as_str() }).inc();
    }

    /// How many attempts are under way, and how many breakers are in each state but closed.
    pub fn under_way(&self, attempts: usize, breakers: impl Fn(BreakerState) -> usize) {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.under_way.set(count(attempts));
        for state in BreakerState::ALL.into_iter().filter(|state| *state != BreakerState::Closed) {
            self.breakers.get_or_create(&StateLabel { state: state.as_str() }).set(count(breakers(state)));
        }
    }

    /// An answer that a provider waited for came, or did not.
    pub fn synchronous_answer(&self, kind: AnswerKind, outcome: &'static str) {
        self.answers.get_or_create(&AnswerLabels { kind: kind.as_str(), outcome }).inc();
    }

    /// A send came to an end.
    pub fn send(&self, provider: ProviderKind, owner: &'static str, outcome: &'static str, reason: Option<ReasonCode>) {
        let reason = reason.map_or("", ReasonCode::as_str);
        self.sends.get_or_create(&SendLabels { provider: provider.as_str(), owner, outcome, reason }).inc();
    }

    /// An event or a message took a legacy binding.
    pub fn legacy_used(&self, provider: ProviderKind) {
        self.legacy.get_or_create(&ProviderLabel { provider: provider.as_str() }).inc();
    }

    /// A webhook was proved by a previous secret.
    pub fn previous_secret_used(&self, provider: ProviderKind) {
        self.previous_secret.get_or_create(&ProviderLabel { provider: provider.as_str() }).inc();
    }

    /// A webhook came by an old address of a declared profile.
    pub fn alias_used(&self, profile: &str) {
        self.aliases.get_or_create(&ProfileLabel { profile: profile.to_owned() }).inc();
    }

    /// Something befell an installation: the change's word, or `stale`.
    pub fn lifecycle(&self, provider: ProviderKind, change: &'static str) {
        self.lifecycle.get_or_create(&LifecycleLabels { provider: provider.as_str(), change }).inc();
    }

    /// A credential was refreshed: `done`, `refused` or `failed`.
    pub fn refresh(&self, provider: ProviderKind, result: &'static str) {
        self.refreshes.get_or_create(&RefreshLabels { provider: provider.as_str(), result }).inc();
    }

    /// How many installations there are of each provider and status.
    pub fn installations(&self, all: impl Iterator<Item = (ProviderKind, InstallationStatus)>) {
        let all: Vec<_> = all.collect();
        for (provider, status) in ProviderKind::ALL.into_iter().flat_map(|p| InstallationStatus::ALL.map(|s| (p, s))) {
            let count = all.iter().filter(|of| **of == (provider, status)).count();
            let labels = StatusLabels { provider: provider.as_str(), status: status.as_str() };
            self.installations.get_or_create(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// A request failed to prove itself beyond a budget, at a door: `webhook`, `agent` or `operator`.
    pub fn throttled(&self, door: &'static str) {
        self.throttled.get_or_create(&DoorLabel { door }).inc();
    }

    /// A request to the operator listener was refused before anything was asked: its host, its media type, its token.
    pub fn operator_refused(&self, code: ReasonCode) {
        self.operator_refused.get_or_create(&ReasonLabel { reason: code.as_str() }).inc();
    }

    /// A connection was not let in: `listener` or `address` has all that it may have.
    pub fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// A handler broke.
    pub fn panicked(&self) {
        self.panics.inc();
    }

    /// A policy set is in force since then; no other is.
    pub fn policies_in_force(&self, version: &str, since_secs: i64) {
        self.policy.clear();
        self.policy.get_or_create(&VersionLabel { version: version.to_owned() }).set(1);
        self.policy_loaded.set(since_secs);
    }

    /// A reload was taken, or was not.
    pub fn policies_reloaded(&self, taken: bool) {
        self.reloads.get_or_create(&ResultLabel { result: if taken { "accepted" } else { "rejected" } }).inc();
        self.policy_stale.set(i64::from(!taken));
    }

    /// So many orgs' policy folders are not in force as they are on disk.
    pub fn policies_of_orgs_rejected(&self, orgs: usize) {
        self.policy_orgs_rejected.set(i64::try_from(orgs).unwrap_or(i64::MAX));
    }

    /// The Prometheus text, with the queue's depth and the shadow's disagreements as of now.
    pub fn encode(&self, queue_depth: i64, shadow_disagreements: i64) -> String {
        self.queue_depth.set(queue_depth);
        self.shadow.set(shadow_disagreements);
        let mut out = String::new();
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
