//! A row as a person writes it.

use std::collections::{BTreeMap, BTreeSet};

use byoa_gateway::domain::installation::{Mode, ProviderKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use crate::support::here;

const FOLDER: &str = "tests/tables/failure_paths";

/// To whom a request goes: a provider's webhook address, or the process as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    Slack,
    Telegram,
    WhatsApp,
    Proc,
}

impl To {
    pub fn provider(self) -> Option<ProviderKind> {
        match self {
            Self::Slack => Some(ProviderKind::Slack),
            Self::Telegram => Some(ProviderKind::Telegram),
            Self::WhatsApp => Some(ProviderKind::WhatsApp),
            Self::Proc => None,
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub id: String,
    pub title: String,
    pub to: Vec<To>,
    #[serde(default)]
    pub mode: Vec<Mode>,
    /// Why something in it is as it is.
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader")]
    pub note: Option<String>,
    /// All cases of one provider are answered alike, to the byte.
    #[serde(default)]
    pub same_answer: bool,
    #[serde(default)]
    given: Mapping,
    #[serde(default)]
    when: Mapping,
    #[serde(default)]
    expect: Mapping,
    /// A row that takes more than one request: each step with what it must come to.
    #[serde(default)]
    steps: Vec<Step>,
    /// Variants by name; what a case says wins over what the row says.
    #[serde(default)]
    cases: Mapping,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    to: Option<Vec<To>>,
    mode: Option<Vec<Mode>>,
    #[serde(default)]
    given: Mapping,
    #[serde(default)]
    when: Mapping,
    #[serde(default)]
    expect: Mapping,
    /// Its own steps instead of the row's.
    #[serde(default)]
    steps: Vec<Step>,
}

/// The state before.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    /// Settings over the defaults.
    pub config: Mapping,
    /// Resources beside the world's.
    pub apply: Value,
    /// Statements that damage stored rows.
    pub damage: Vec<String>,
    /// Policy files over a copy of the shipped ones, before the start.
    pub policies: BTreeMap<String, String>,
    /// The same, saved while the gateway runs; the request comes when the gateway has rejected them.
    pub policies_saved: BTreeMap<String, String>,
}

/// The request, in the words that are said in `README.md` beside the rows. What is left out is right.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// Whose webhook it is, where it is not the own app's: addressed to that app, about its account, signed by it.
    pub app: Option<String>,
    pub sample: Option<String>,
    /// Makes the event's id another one.
    pub nonce: Option<u64>,
    pub method: Option<String>,
    pub policies: Option<BTreeMap<String, String>>,
    pub at: Option<String>,
    pub path: Option<String>,
    pub query: Option<String>,
    pub sign_with: Option<String>,
    pub timestamp_offset_s: i64,
    pub timestamp: Option<String>,
    pub proof: Option<String>,
    pub proof_again: Option<String>,
    pub drop_headers: Vec<String>,
    pub headers: Vec<(String, String)>,
    pub content_type: Option<String>,
    pub body: Option<String>,
    pub body_hex: Option<String>,
    pub body_depth: Option<usize>,
    pub body_bytes: Option<usize>,
    pub edit: Vec<(String, String)>,
    pub edit_after_signing: Vec<(String, String)>,
    pub framing: Option<String>,
    pub wire_body: Option<String>,
    pub body_withheld: bool,
    pub dribble: Option<String>,
    pub repeat: Option<usize>,
    pub silent_connections: Option<usize>,
    pub wire: Option<String>,
    pub header_lines: Option<usize>,
    pub header_bytes: Option<usize>,
    pub operate: Option<Operate>,
    pub config_file: Option<String>,
    pub key_file: Option<String>,
    pub key_mode: Option<String>,
    pub environment: Vec<(String, String)>,
}

/// A call of the operator API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operate {
    pub method: String,
    pub path: String,
    #[serde(default)]
    pub document: Value,
}

/// One thing that happens in a story, and what must come of it. Exactly one of the first few words says what.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Step {
    pub webhook: Option<When>,
    pub send: Option<Send>,
    pub operate: Option<Operate>,
    pub get: Option<String>,
    /// What the provider answers from here on.
    pub provider: Option<ProviderSays>,
    /// So many seconds pass.
    pub wait_s: Option<i64>,
    /// The wall clock is set by so many seconds while none pass.
    pub clock_step_s: Option<i64>,
    pub damage: Option<String>,
    pub apply: Option<Value>,
    /// The same request so many times at once.
    pub at_once: Option<usize>,
    /// Each of them under an idempotency key of its own.
    pub fresh_keys: bool,
    pub expect: StepExpect,
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

fn tenant() -> String {
    "tenant".to_owned()
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderSays {
    #[serde(default)]
    pub status: u16,
    /// Only on paths that begin so.
    #[serde(default)]
    pub path: Option<String>,
    /// It takes what it is sent and never answers.
    #[serde(default)]
    pub hangs: bool,
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    #[serde(default)]
    pub body: Value,
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
    pub body: Option<String>,
    pub says: Vec<String>,
    pub silent_of: Vec<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<String>,
    /// Rows by table, exactly.
    pub writes: Option<BTreeMap<String, i64>>,
    /// How often the provider was called, and with whose credential: `none`, `own`, `own own`.
    pub calls: Option<String>,
    /// How often which path of the provider was called.
    pub called: Option<BTreeMap<String, usize>>,
    /// By how much these series of the metrics grew.
    pub counts: Option<BTreeMap<String, f64>>,
    /// Answered like an earlier step, whose number from 1 it is, to the byte but for ids of requests.
    pub same_as: Option<usize>,
    /// The first column of what a query finds, row by row.
    pub finds: Vec<(String, Vec<String>)>,
    /// Audit actions, in order.
    pub audits: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// The status; left out where the connection ends without an answer.
    pub status: Option<u16>,
    /// `unauthenticated`, `refused`, `accepted`, `duplicate`, `handshake`, `failed`; `none` where no handler ran.
    pub outcome: Option<String>,
    /// The reason in metrics and records; absent where nothing was refused.
    pub reason: Option<String>,
    /// `nothing`, `event`, `refusal`, `handshake`, or rows by table.
    pub writes: Value,
    pub body: Option<String>,
    pub content_type: Option<String>,
    /// Whether the refusal keeps the body's first bytes.
    pub excerpt: Option<bool>,
    pub retry_after: bool,
    pub allow: Option<String>,
    /// The connection ends after the answer.
    pub ends: bool,
    /// The stored event is the body, byte for byte.
    pub kept_bytes: bool,
    /// The org of what was written.
    pub org: Option<String>,
    /// Texts the stored event's reading holds.
    pub reads: Vec<String>,
    /// Texts that the operator's answer or the process's error holds.
    pub says: Vec<String>,
    /// The profile that the refusal before proof is counted on; its own where left out, `none` for nobody's.
    pub counted_on: Option<String>,
    /// The provider it is counted under, where that is not the request's own.
    pub counted_provider: Option<String>,
}

/// One case for one provider and mode.
#[derive(Clone, Debug)]
pub struct Play {
    pub case: String,
    pub to: To,
    pub mode: Option<Mode>,
    pub given: Given,
    pub when: When,
    pub expect: Expect,
    pub steps: Vec<Step>,
}

impl Play {
    pub fn mode_word(&self) -> &'static str {
        self.mode.map_or("any", Mode::as_str)
    }

    pub fn name(&self) -> String {
        let to = self.to.provider().map_or("proc", ProviderKind::as_str);
        if self.case.is_empty() { format!("{to} {}", self.mode_word()) } else { format!("{to} {}, {}", self.mode_word(), self.case) }
    }
}

fn over<T: DeserializeOwned>(row: &Mapping, case: &Mapping, at: &str) -> T {
    let mut all = row.clone();
    all.extend(case.clone());
    serde_yaml::from_value(Value::Mapping(all)).unwrap_or_else(|e| panic!("{at}: {e}"))
}

impl Row {
    pub fn read(id: &str) -> Self {
        let file = here(FOLDER).join(format!("{id}.yaml"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let row: Self = serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(row.id, id, "{}", file.display());
        row
    }

    /// The rows there are.
    pub fn ids() -> Vec<String> {
        let names = std::fs::read_dir(here(FOLDER)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let numbered = |n: &String| n.len() == 8 && n.ends_with(".yaml") && n.starts_with(|c: char| c.is_ascii_digit());
        names.filter(numbered).map(|n| n[..3].to_owned()).collect()
    }

    /// Case by provider by mode.
    pub fn plays(&self) -> Vec<Play> {
        let cases: Vec<(String, Case)> = if self.cases.is_empty() {
            vec![(String::new(), Case::default())]
        } else {
            let read = |(name, case): (&Value, &Value)| {
                let name = name.as_str().unwrap_or_else(|| panic!("{}: a case's name is a text", self.id)).to_owned();
                let case = serde_yaml::from_value(case.clone()).unwrap_or_else(|e| panic!("{} {name}: {e}", self.id));
                (name, case)
            };
            self.cases.iter().map(read).collect()
        };
        let mut all = Vec::new();
        for (name, case) in cases {
            for to in case.to.as_ref().unwrap_or(&self.to) {
                let modes = case.mode.as_ref().unwrap_or(&self.mode);
                let modes: Vec<Option<Mode>> = if *to == To::Proc { vec![None] } else { modes.iter().copied().map(Some).collect() };
                for mode in modes {
                    let at = format!("{} {name}", self.id);
                    all.push(Play {
                        case: name.clone(),
                        to: *to,
                        mode,
                        given: over(&self.given, &case.given, &at),
                        when: over(&self.when, &case.when, &at),
                        expect: over(&self.expect, &case.expect, &at),
                        steps: if case.steps.is_empty() { self.steps.clone() } else { case.steps.clone() },
                    });
                }
            }
        }
        assert!(!all.is_empty(), "{}: nothing to play", self.id);
        all
    }
}

/// What the matrix asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    pub rows: BTreeMap<String, Wanted>,
    not_here: Vec<NotHere>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    to: Vec<To>,
    #[serde(default)]
    mode: Vec<Mode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotHere {
    /// `NNN` or `NNN-NNN`.
    rows: String,
    why: String,
}

impl Wanted {
    pub fn pairs(&self) -> BTreeSet<(To, &'static str)> {
        let modes: Vec<&'static str> = if self.mode.is_empty() { vec!["any"] } else { self.mode.iter().map(|m| m.as_str()).collect() };
        self.to.iter().flat_map(|to| modes.iter().map(|mode| (*to, *mode))).collect()
    }
}

impl Matrix {
    pub fn read() -> Self {
        let text = std::fs::read_to_string(here(FOLDER).join("matrix.yaml")).unwrap();
        serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("matrix.yaml: {e}"))
    }

    pub fn why_not_here(&self, id: &str) -> Option<&str> {
        let holds = |rows: &str| match rows.split_once('-') {
            Some((first, last)) => (first..=last).contains(&id),
            None => rows == id,
        };
        let mut found = self.not_here.iter().filter(|n| holds(&n.rows));
        let why = found.next().map(|n| n.why.as_str());
        assert!(found.next().is_none(), "{id} is exempt twice");
        why
    }
}
