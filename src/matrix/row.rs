//! A row as a person writes it; its words are said in `tests/tables/failure_paths/README.md`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::step::{Says, Step};
use crate::domain::installation::{Mode, ProviderKind};

/// To whom a request goes: a provider's webhook address, or the process as a whole.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum To {
    /// A process of its own: a row that only the tests play.
    Proc,
    /// A provider.
    #[serde(untagged)]
    Provider(ProviderKind),
}

impl To {
    /// The provider, where it is one.
    pub fn provider(self) -> Option<ProviderKind> {
        match self {
            Self::Provider(provider) => Some(provider),
            Self::Proc => None,
        }
    }
}

/// One row of the matrix.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its number, three digits.
    pub id: String,
    /// What it is about.
    pub title: String,
    /// What it belongs to: `auth`, `replay`, `tenant`, …
    pub dimension: String,
    /// Whom it is played for.
    pub to: Vec<To>,
    /// And in which modes.
    #[serde(default)]
    pub mode: Vec<Mode>,
    /// Why something in it is as it is.
    #[serde(default)]
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
    /// The law underneath: what is in force, or what this build ships with, for rows about how the law is kept and not about
    /// what it says.
    pub law: LawWord,
    /// Settings over the defaults.
    pub config: Mapping,
    /// Where the world's agents live, where nobody is to answer there.
    pub agents_at: Option<String>,
    /// The world's agents are there, answer so, and are sent what is theirs by one worker.
    pub agent: Option<Says>,
    /// Resources beside the world's.
    pub apply: Value,
    /// Statements that damage stored rows.
    pub damage: Vec<String>,
    /// Policy files over a copy of the shipped ones, before the start.
    pub policies: BTreeMap<String, String>,
    /// The same, saved while the gateway runs; the request comes when the gateway has rejected them.
    pub policies_saved: BTreeMap<String, String>,
    /// The code that they are rejected with, where the row is about it.
    pub rejected_as: Option<String>,
}

/// Which policies a row begins with.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LawWord {
    /// Those that the run is about.
    #[default]
    Active,
    /// Those that came with this build.
    Shipped,
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

/// An operator by the line of the token file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Of the security team, with a second factor.
    Security,
    /// Of the security team; the line says nothing of a second factor.
    OneFactor,
    /// Of the role `operator`, with a second factor.
    Operator,
    /// Of the role `release-manager`, with a second factor.
    ReleaseManager,
    /// Who may look and do nothing.
    Viewer,
}

impl Who {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Security, Self::OneFactor, Self::Operator, Self::ReleaseManager, Self::Viewer];

    /// The rest of the line, behind the token.
    pub const fn line(self) -> &'static str {
        match self {
            Self::Security => "security security-1 mfa",
            Self::OneFactor => "security sam",
            Self::Operator => "operator olga mfa",
            Self::ReleaseManager => "release-manager rita mfa",
            Self::Viewer => "viewer vera",
        }
    }
}

impl Operate {
    /// Who calls, where no other authorization is said.
    pub fn who(&self) -> Who {
        self.by.unwrap_or(if self.viewer { Who::Viewer } else { Who::Security })
    }
}

/// A call of the operator API.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operate {
    pub method: String,
    pub path: String,
    /// The number of the earlier step whose answer's `ETag` goes along as `If-Match`.
    pub if_match: Option<usize>,
    #[serde(default)]
    pub document: Value,
    /// By somebody who may look and do nothing.
    #[serde(default)]
    pub viewer: bool,
    /// By somebody else who is known.
    pub by: Option<Who>,
    /// By whoever says this as `Authorization`; nothing where it is empty.
    #[serde(default)]
    pub authorization: Option<String>,
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
    /// The row's number.
    pub row: String,
    /// The row's dimension.
    pub dimension: String,
    /// The row's title.
    pub title: String,
    /// Whether every case of one provider is answered alike.
    pub same_answer: bool,
    /// The variant's name; empty where there is one.
    pub case: String,
    /// Whom it is played for.
    pub to: To,
    /// In which mode; none for a process.
    pub mode: Option<Mode>,
    /// The state before.
    pub given: Given,
    /// The request.
    pub when: When,
    /// What must come of it.
    pub expect: Expect,
    /// The steps of a story, instead of both.
    pub steps: Vec<Step>,
}

impl Play {
    /// The mode's word.
    pub fn mode_word(&self) -> &'static str {
        self.mode.map_or("any", Mode::as_str)
    }

    /// For whom, in which mode, which case.
    pub fn name(&self) -> String {
        let to = self.to.provider().map_or("proc", ProviderKind::as_str);
        if self.case.is_empty() { format!("{to} {}", self.mode_word()) } else { format!("{to} {}, {}", self.mode_word(), self.case) }
    }
}

fn over<T: DeserializeOwned>(row: &Mapping, case: &Mapping, at: &str) -> Result<T, String> {
    let mut all = row.clone();
    all.extend(case.clone());
    serde_yaml::from_value(Value::Mapping(all)).map_err(|e| format!("{at}: {e}"))
}

impl Row {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        serde_yaml::from_str(text).map_err(|e| e.to_string())
    }

    /// Case by provider by mode.
    ///
    /// # Errors
    /// What is wrong with a case.
    pub fn plays(&self) -> Result<Vec<Play>, String> {
        let mut cases: Vec<(String, Case)> = Vec::new();
        for (name, case) in &self.cases {
            let name = name.as_str().ok_or_else(|| format!("{}: a case's name is a text", self.id))?.to_owned();
            let case = serde_yaml::from_value(case.clone()).map_err(|e| format!("{} {name}: {e}", self.id))?;
            cases.push((name, case));
        }
        if cases.is_empty() {
            cases.push((String::new(), Case::default()));
        }
        let mut all = Vec::new();
        for (name, case) in cases {
            let at = format!("{} {name}", self.id);
            for to in case.to.as_ref().unwrap_or(&self.to) {
                let modes = case.mode.as_ref().unwrap_or(&self.mode);
                let modes: Vec<Option<Mode>> = if *to == To::Proc { vec![None] } else { modes.iter().copied().map(Some).collect() };
                for mode in modes {
                    all.push(Play {
                        row: self.id.clone(),
                        dimension: self.dimension.clone(),
                        title: self.title.clone(),
                        same_answer: self.same_answer,
                        case: name.clone(),
                        to: *to,
                        mode,
                        given: over(&self.given, &case.given, &at)?,
                        when: over(&self.when, &case.when, &at)?,
                        expect: over(&self.expect, &case.expect, &at)?,
                        steps: if case.steps.is_empty() { self.steps.clone() } else { case.steps.clone() },
                    });
                }
            }
        }
        if all.is_empty() { Err(format!("{}: nothing to play", self.id)) } else { Ok(all) }
    }
}
