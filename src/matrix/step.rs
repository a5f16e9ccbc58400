//! A step of a story as a person writes it; its words are said in `tests/tables/failure_paths/README.md`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::row::{Operate, When};

/// One thing that happens in a story, and what must come of it. Exactly one of the first few words says what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    pub webhook: Option<When>,
    pub send: Option<Send>,
    /// An agent's call of the provider's SDK.
    pub sdk: Option<SdkCall>,
    /// Of the webhook, the message or the call only the first half is sent, on so many connections that stay; the step ends when
    /// all of them but one are answered.
    pub half_sent: Option<usize>,
    /// Whatever was half sent before is given up.
    pub hang_up: bool,
    pub operate: Option<Operate>,
    pub get: Option<String>,
    /// What the provider answers from here on.
    pub provider: Option<Says>,
    /// What the agents answer from here on.
    pub agent: Option<Says>,
    /// Policy files saved while it runs; the step ends when they are in force.
    pub policies: Option<BTreeMap<String, String>>,
    /// Policy files saved while it runs; the step ends when they are rejected.
    pub policies_refused: Option<PoliciesRefused>,
    /// So many seconds pass.
    pub wait_s: Option<i64>,
    /// The wall clock is set by so many seconds while none pass.
    pub clock_step_s: Option<i64>,
    pub damage: Option<String>,
    pub apply: Option<Value>,
    /// The same request so many times at once.
    pub at_once: Option<usize>,
    /// Each of them is another message, or another event: from its nonce on.
    pub fresh_keys: bool,
    /// Somebody else holds the store's lock until they are answered.
    pub store_held: bool,
    /// The step ends when so many attempts of deliveries are settled in all.
    pub settled: Option<usize>,
    /// The step ends when the agents were sent so many events since the start.
    pub asked: Option<usize>,
    pub expect: StepExpect,
}

/// Policy files that are rejected.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoliciesRefused {
    /// The code of the rejection.
    #[serde(rename = "as")]
    pub code: String,
    /// The files, by their place below the policy folder.
    pub files: BTreeMap<String, String>,
}

/// An agent's message.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// Whose agent: `tenant`, `other`; a token of nobody where it is `nobody`.
    #[serde(rename = "as", default = "tenant")]
    pub who: String,
    /// The key; one of its own where it is left out.
    pub key: Option<String>,
    /// Fields over `{installation, conversation, text}`; null takes one away.
    #[serde(default)]
    pub body: Mapping,
}

/// A call of the provider's SDK.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SdkCall {
    /// Whose agent: `tenant`, `other`; a token of nobody where it is `nobody`. The tenant's where it is left out.
    #[serde(rename = "as")]
    pub who: Option<String>,
    /// The last part of the path; the call that sends a message where it is left out.
    pub method: Option<String>,
    /// The media type of the body; JSON where it is left out.
    pub content_type: Option<String>,
    /// Texts of the body in order, each so many times; a message where it is left out.
    pub body: Vec<(String, usize)>,
    /// A file is fetched by this path instead (Telegram).
    pub file: Option<String>,
    /// The number in the path, where it is another than the app's (WhatsApp).
    pub number: Option<String>,
    /// The installation is not named in a header.
    pub unnamed: bool,
    /// The token goes into the body, as the argument `token` (Slack).
    pub token_in_body: bool,
}

fn tenant() -> String {
    "tenant".to_owned()
}

/// What the provider or an agent answers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Says {
    #[serde(default)]
    pub status: u16,
    /// Only to what begins so: the provider's path, the text of the agent's event.
    #[serde(default)]
    pub to: Option<String>,
    /// It takes what it is sent and never answers.
    #[serde(default)]
    pub hangs: bool,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub body: Value,
    /// So many bytes instead.
    #[serde(default)]
    pub body_bytes: Option<usize>,
}

/// What a step must come to; what is left out is in the snapshot only.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StepExpect {
    pub status: Option<u16>,
    /// Of requests at once, sorted.
    pub statuses: Option<Vec<u16>>,
    /// The problem's code.
    pub code: Option<String>,
    /// The reason in the ingress metrics.
    pub reason: Option<String>,
    /// All of them, of many at once.
    pub reasons: Option<BTreeSet<String>>,
    pub body: Option<String>,
    pub says: Vec<String>,
    pub silent_of: Vec<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<String>,
    /// Headers of the answer.
    pub headers: BTreeMap<String, String>,
    /// Rows by table, exactly.
    pub writes: Option<BTreeMap<String, i64>>,
    /// How often the provider was called, and with whose credential: `none`, `own`, `own own`.
    pub calls: Option<String>,
    /// How often which path of the provider was called.
    pub called: Option<BTreeMap<String, usize>>,
    /// What the agents were sent since the last step: each event's text and the attempt's number.
    pub agent_calls: Option<Vec<String>>,
    /// How often each text is in the bodies that the agents were sent since the last step.
    pub agent_bodies: BTreeMap<String, usize>,
    /// By how much these series of the metrics grew.
    pub counts: Option<BTreeMap<String, f64>>,
    /// Answered like an earlier step, whose number from 1 it is, to the byte but for ids of requests.
    pub same_as: Option<usize>,
    /// The first column of what a query finds, row by row.
    pub finds: Vec<(String, Vec<String>)>,
    /// Audit actions, in order.
    pub audits: Option<Vec<String>>,
}
