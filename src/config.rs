//! Settings: every key, its default and its meaning. Owns no I/O beyond reading the file and the environment. Floor 1.

pub mod load;
mod retention;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use retention::RetentionSection;
use serde::{Deserialize, Serialize};

use crate::domain::installation::ProviderKind;
use crate::domain::rollout::RolloutStage;

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The two listeners.
    pub listen: Listen,
    /// The address that providers reach; what set-up packets tell tenants.
    pub public_url: Option<String>,
    /// Where everything is kept.
    pub store: StoreSection,
    /// The law.
    pub policies: PoliciesSection,
    /// Master keys.
    pub keys: KeysSection,
    /// Who may use the operator listener.
    pub operators: OperatorsSection,
    /// Base addresses of the providers' APIs.
    pub providers: ProvidersSection,
    /// Rollout of bring-your-own traffic.
    pub rollout: RolloutSection,
    /// Old webhook addresses.
    pub ingress: IngressSection,
    /// How events reach agents.
    pub delivery: DeliverySection,
    /// Which addresses agents may live on.
    pub egress: EgressSection,
    /// Proxies (addresses), whose connections are not counted by address.
    pub trusted_proxies: Vec<std::net::IpAddr>,
    /// How long, how many, how large.
    pub limits: Limits,
    /// How much each org may use, where its resource says nothing else.
    pub quotas: QuotasSection,
    /// How long what is kept.
    pub retention: RetentionSection,
    /// Logs.
    pub log: LogSection,
}

/// `listen`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Webhooks, agents.
    pub public: SocketAddr,
    /// Operators, metrics, health.
    pub operator: SocketAddr,
    /// Hosts by which the operator listener is named, besides loopback addresses and its own; without ports.
    pub operator_hosts: Vec<String>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            public: SocketAddr::from(([127, 0, 0, 1], 8080)),
            operator: SocketAddr::from(([127, 0, 0, 1], 8081)),
            operator_hosts: Vec::new(),
        }
    }
}

/// `store`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSection {
    /// `sqlite:PATH`.
    pub url: String,
}

impl Default for StoreSection {
    fn default() -> Self {
        Self { url: "sqlite:data/byoa.db".into() }
    }
}

/// `policies`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoliciesSection {
    /// The folder of `*.cedar` files.
    pub dir: PathBuf,
    /// The vocabulary; must equal the one this build was made with.
    pub schema: PathBuf,
    /// Whether the decision tables must hold before a set decides anything.
    pub gate_tables: bool,
    /// Whether a set needs a `policies.lock` that describes it.
    pub require_lock: bool,
    /// A folder of policies that decides beside the live one without effect.
    pub shadow: Option<PathBuf>,
    /// Where accepted sets are kept for `byoa policy rollback`.
    pub history: PathBuf,
    /// How many of them.
    pub history_max: usize,
    /// How large and how deep the text of the platform's policies may be.
    pub platform_limits: PolicyTextLimits,
}

/// `policies.platform_limits`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyTextLimits {
    /// Brackets and `if`s within each other, and attributes in a row.
    pub nesting: usize,
    /// Operators of one policy.
    pub operators: usize,
    /// One file, in bytes.
    pub file_bytes: usize,
}

impl PolicyTextLimits {
    /// The most that settings can allow: more would take a stack that is not there.
    pub const MOST: Self = Self { nesting: 256, operators: 4_000, file_bytes: 4 * 1024 * 1024 };
}

impl Default for PolicyTextLimits {
    fn default() -> Self {
        Self { nesting: 64, operators: 1_000, file_bytes: 64 * 1024 }
    }
}

impl Default for PoliciesSection {
    fn default() -> Self {
        Self {
            dir: "policies".into(),
            schema: "schemas/gateway.cedarschema".into(),
            gate_tables: true,
            require_lock: false,
            shadow: None,
            history: "data/policies".into(),
            history_max: 20,
            platform_limits: PolicyTextLimits::default(),
        }
    }
}

/// `keys`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysSection {
    /// One master key a line, 64 hex digits; the last seals. Made with mode 0600 on the first start.
    pub file: PathBuf,
}

impl Default for KeysSection {
    fn default() -> Self {
        Self { file: "data/master.keys".into() }
    }
}

/// `operators`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorsSection {
    /// One operator a line: `TOKEN [ROLE [NAME]]`. Made with mode 0600 and one `security` token on the first start.
    pub token_file: PathBuf,
}

impl Default for OperatorsSection {
    fn default() -> Self {
        Self { token_file: "data/operator.token".into() }
    }
}

/// `providers`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProvidersSection {
    /// Slack's.
    pub slack: ApiBase,
    /// Telegram's, or a self-hosted Bot API server's.
    pub telegram: ApiBase,
    /// Graph's.
    pub whatsapp: ApiBase,
}

impl Default for ProvidersSection {
    fn default() -> Self {
        Self {
            slack: ApiBase::at("https://slack.com/api/"),
            telegram: ApiBase::at("https://api.telegram.org"),
            whatsapp: ApiBase::at("https://graph.facebook.com/v23.0/"),
        }
    }
}

impl ProvidersSection {
    /// Where one provider is.
    pub fn of(&self, provider: ProviderKind) -> &ApiBase {
        match provider {
            ProviderKind::Slack => &self.slack,
            ProviderKind::Telegram => &self.telegram,
            ProviderKind::WhatsApp => &self.whatsapp,
        }
    }

    /// The base address of one provider.
    pub fn api_base(&self, provider: ProviderKind) -> &str {
        &self.of(provider).api_base
    }
}

/// `providers.<name>`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiBase {
    /// The base address of its API.
    pub api_base: String,
    /// Hosts that files may be fetched from, besides the provider's own.
    #[serde(default)]
    pub file_hosts: Vec<String>,
}

impl ApiBase {
    /// At this address, and nowhere else.
    pub fn at(api_base: impl Into<String>) -> Self {
        Self { api_base: api_base.into(), file_hosts: Vec::new() }
    }
}

/// `rollout`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RolloutSection {
    /// Seeds flags that do not exist yet; never resets a live one. Any stage but `off` also seeds the global switch on.
    pub initial: BTreeMap<ProviderKind, RolloutStage>,
    /// How long a canary must have run before it may be promoted.
    pub min_canary_minutes: u32,
    /// How many events it must have seen.
    pub min_canary_events: u32,
    /// How old the matrix run may be that a promotion rests on.
    pub matrix_max_age_hours: u32,
}

impl Default for RolloutSection {
    fn default() -> Self {
        Self {
            initial: ProviderKind::ALL.into_iter().map(|p| (p, RolloutStage::Off)).collect(),
            min_canary_minutes: 60,
            min_canary_events: 20,
            matrix_max_age_hours: 24,
        }
    }
}

/// `ingress`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngressSection {
    /// Old path → profile id. One path, one profile.
    pub aliases: BTreeMap<String, String>,
}

/// `delivery`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliverySection {
    /// Waits before each attempt, the first included; after the last, dead letter.
    pub schedule_ms: Vec<u64>,
    /// Deliveries under way at once; 0 leaves delivery to another process. One org takes no more of them than it leaves free.
    pub concurrency: usize,
    /// Deliveries of one org under way at once.
    pub org_concurrency: usize,
    /// Deliveries to one agent under way at once.
    pub agent_concurrency: usize,
    /// One attempt, in milliseconds: the connection and the whole answer.
    pub attempt_timeout_ms: u64,
    /// How long a claimed delivery is this process's, in milliseconds; at least [`SETTLE_MS`] longer than an attempt.
    pub lease_ms: u64,
}

/// An attempt ends so long before its lease, so that there is time to settle it, in milliseconds.
pub const SETTLE_MS: u64 = 5_000;

impl Default for DeliverySection {
    fn default() -> Self {
        Self {
            schedule_ms: vec![0, 5_000, 30_000, 120_000, 600_000, 1_800_000, 7_200_000, 21_600_000, 43_200_000],
            concurrency: 256,
            org_concurrency: 32,
            agent_concurrency: 16,
            attempt_timeout_ms: 15_000,
            lease_ms: 30_000,
        }
    }
}

/// `egress`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressSection {
    /// Lets agent endpoints live on loopback and private networks, over plain HTTP, on any port.
    pub allow_private_agents: bool,
}

/// `limits`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Header block of a request, in bytes.
    pub header_bytes_max: usize,
    /// Header lines of a request.
    pub header_lines_max: usize,
    /// From the first byte of a request to the end of its headers, and between requests, in milliseconds.
    pub header_timeout_ms: u64,
    /// From the end of the headers to the end of the body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Connections at once on the public listener; 0 is as many as there are file descriptors for. The operator listener has 128
    /// of its own.
    pub connections_max: usize,
    /// Connections at once from one address (IPv6: one network of 64 bits); those in `trusted_proxies` are not counted.
    pub connections_per_address_max: usize,
    /// Without progress of what is written, in milliseconds; then the connection ends.
    pub write_timeout_ms: u64,
    /// A connection in all, in milliseconds; the request that is under way then is still answered.
    pub connection_life_ms: u64,
    /// Requests that wait for the store's writer; more are answered 503.
    pub queue_max: usize,
    /// Requests in one commit.
    pub batch_max: usize,
    /// Body of an agent's or operator's request, in bytes.
    pub api_body_bytes_max: usize,
    /// Answer of a provider, in bytes.
    pub provider_answer_bytes_max: usize,
    /// Body of a call of a provider's SDK, and of its answer, in bytes: files go through.
    pub sdk_body_bytes_max: usize,
    /// Bodies of requests in memory whose senders are known, and answers to agents, in bytes; one agent's are at most a quarter.
    pub proved_bytes_max: usize,
    /// Bodies of requests in memory whose senders are not known yet, in bytes; those to one address are at most a quarter.
    pub unproved_bytes_max: usize,
    /// Files on their way from agents, in temporary files, in bytes; one agent's are at most a quarter.
    pub spooled_bytes_max: usize,
    /// Calls of one agent under way at once; all agents of one org together have four times as many.
    pub agent_calls_max: usize,
    /// One call to a provider, in milliseconds.
    pub provider_timeout_ms: u64,
    /// A file that is fetched for an agent, in bytes.
    pub media_bytes_max: u64,
    /// Fetching one, in milliseconds.
    pub media_timeout_ms: u64,
    /// How long the address of a file that an agent was told can be used, in hours.
    pub media_url_hours: u32,
    /// How long a provider that waits for the agent's own answer is kept waiting, in milliseconds; 0 never.
    pub synchronous_ms: u64,
    /// How much of what each provider is known to take may be used, in percent; 0 does not reckon with it at all. A number or
    /// an app that is allowed more has more than 100.
    pub provider_rate_percent: BTreeMap<ProviderKind, u32>,
    /// A session without an event, in hours.
    pub session_idle_hours: u32,
    /// A session in all, in days.
    pub session_age_days: u32,
    /// Finishing requests after SIGTERM, in milliseconds.
    pub drain_timeout_ms: u64,
    /// Requests from one address per minute that may fail to prove themselves; more are answered 429. 0 is no limit.
    pub failures_per_address_per_minute: u32,
    /// The same for one webhook address, whoever asks.
    pub failures_per_ingress_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 32 * 1024,
            header_lines_max: 100,
            header_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
            connections_max: 0,
            connections_per_address_max: 256,
            write_timeout_ms: 10_000,
            connection_life_ms: 600_000,
            queue_max: 4_096,
            batch_max: 512,
            api_body_bytes_max: 1024 * 1024,
            provider_answer_bytes_max: 1024 * 1024,
            sdk_body_bytes_max: 50 * 1024 * 1024,
            proved_bytes_max: 64 * 1024 * 1024,
            unproved_bytes_max: 64 * 1024 * 1024,
            spooled_bytes_max: 1024 * 1024 * 1024,
            agent_calls_max: 64,
            provider_timeout_ms: 20_000,
            media_bytes_max: 100 * 1024 * 1024,
            media_timeout_ms: 300_000,
            media_url_hours: 24,
            synchronous_ms: 2_500,
            provider_rate_percent: ProviderKind::ALL.into_iter().map(|p| (p, 100)).collect(),
            session_idle_hours: 24,
            session_age_days: 7,
            drain_timeout_ms: 25_000,
            failures_per_address_per_minute: 100,
            failures_per_ingress_per_minute: 600,
        }
    }
}

impl Limits {
    /// One sender has at most a budget of bytes divided by this.
    pub const SHARES: usize = 4;

    /// The percentage of one provider; 100 where nothing is said.
    pub fn provider_rate(&self, provider: ProviderKind) -> u32 {
        self.provider_rate_percent.get(&provider).copied().unwrap_or(100)
    }
}

/// `quotas`: defaults for orgs; 0 is no limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotasSection {
    /// Events per second.
    pub events_per_second: u32,
    /// Events at once after a pause; 0 means as many as per second.
    pub burst: u32,
    /// Deliveries that are not settled.
    pub open_deliveries: u64,
    /// Bytes of stored events.
    pub stored_bytes: u64,
    /// Refusals that are recorded per tenant and UTC day; more are only counted.
    pub refusals_per_day: u64,
}

impl Default for QuotasSection {
    fn default() -> Self {
        Self { events_per_second: 0, burst: 0, open_deliveries: 100_000, stored_bytes: 0, refusals_per_day: 10_000 }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// For a person at a terminal.
    Human,
}

/// `log`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// `json` or `human`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, or a filter of targets.
    pub level: String,
}

impl Default for LogSection {
    fn default() -> Self {
        Self { format: LogFormat::Json, level: "info".into() }
    }
}
