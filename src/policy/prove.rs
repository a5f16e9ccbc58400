//! What can be said of all requests at once, by asking an SMT solver: that no answer leaves the envelope, that none falls
//! below the floor, that no policy errs, is dead or redundant; how two laws differ. Owns what was asked and what came of it;
//! [`Prover`] asks. Never takes *unknown* for a yes, and believes no counterexample that the real law does not repeat.
//!
//! Compiled in with the feature `prove` only: the gateway that serves has no solver. Without it [`Prover::start`] says so.
//! Floor 5.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::case::Case;
use super::decide::Ruling;
pub use super::matrix::Verdict;
use super::vocabulary::Environment;
use crate::domain::reason::ReasonCode;

// Under test in every build: what it says is all that most builds do.
#[cfg(any(test, not(feature = "prove")))]
#[cfg_attr(feature = "prove", allow(dead_code))]
mod absent;
#[cfg(feature = "prove")]
mod checks;
#[cfg(feature = "prove")]
mod solver;
#[cfg(all(test, feature = "prove"))]
mod tests;
#[cfg(feature = "prove")]
mod witness;

#[cfg(not(feature = "prove"))]
pub use absent::Prover;
#[cfg(feature = "prove")]
pub use checks::Prover;

/// Why nothing could be proved.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Unable {
    /// This build cannot.
    #[error("this build has no prover: `cargo run --features prove -- policy prove`")]
    NotBuilt,
    /// There is no solver, or it is none.
    #[error("{0}\ninstall cvc5 (Debian and Ubuntu: `apt-get install cvc5`), or name its program in CVC5")]
    NoSolver(String),
    /// The solver did not settle a question, or settled it wrongly.
    #[error("{0}")]
    Undecided(String),
}

/// What is asked of a law.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Whatever the policies permit, the envelope admits.
    Envelope,
    /// Whatever the floor names, the policies permit.
    Floor,
    /// No policy errs, whatever it is asked.
    Errors,
    /// Each policy matches some request.
    Dead,
    /// Each policy changes some answer.
    Redundant,
    /// Whether anything is permitted, or everything.
    Reach,
}

impl Check {
    /// Every check, in the order in which they are shown.
    pub const ALL: [Self; 6] = [Self::Envelope, Self::Floor, Self::Errors, Self::Dead, Self::Redundant, Self::Reach];
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Envelope => "within the envelope",
            Self::Floor => "above the floor",
            Self::Errors => "never errs",
            Self::Dead => "not dead",
            Self::Redundant => "not redundant",
            Self::Reach => "permitted",
        })
    }
}

/// A policy, and where it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Named {
    /// Its `@id`.
    pub id: String,
    /// Its file; empty for what is no file's.
    pub file: String,
    /// Its line.
    pub line: usize,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}   {}:{}", self.id, self.file, self.line)
    }
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// Yes or no.
    pub allow: bool,
    /// Why not, where it is the gateway's own answer.
    pub code: Option<ReasonCode>,
    /// The policies that decided.
    pub policies: Vec<String>,
    /// What could not be evaluated.
    pub errors: Vec<String>,
}

impl From<&Ruling> for Said {
    fn from(ruling: &Ruling) -> Self {
        Self { allow: ruling.code.is_none(), code: ruling.code, policies: ruling.policies.to_vec(), errors: ruling.errors.clone() }
    }
}

impl Said {
    fn json(&self) -> Value {
        let code = self.code.map(ReasonCode::as_str);
        json!({ "allow": self.allow, "code": code, "policies": self.policies, "errors": self.errors })
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow" } else { "refuse" })?;
        if let Some(code) = self.code {
            write!(f, ", {code}")?;
        }
        match self.policies.as_slice() {
            [] => f.write_str(", by no policy"),
            policies => write!(f, ", by {}", policies.join(", ")),
        }
    }
}

/// A request that shows it, asked again of the real law.
#[derive(Clone, PartialEq, Debug)]
pub struct Witness {
    /// The request.
    pub case: Case,
    /// What Cedar says of the policies alone.
    pub policies: Said,
    /// What the gateway answers.
    pub gateway: Said,
    /// The same as a row of a decision table, with the answer that it should get.
    pub row: String,
}

/// Something that is not so.
#[derive(Clone, PartialEq, Debug)]
pub struct Violation {
    /// In words.
    pub what: String,
    /// The policies that make it so.
    pub policies: Vec<Named>,
    /// A request that shows it; none where it is about all requests.
    pub witness: Option<Witness>,
}

/// What came of a question.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It is so, for every request.
    Proved,
    /// It is so, and there is something to know about it.
    Noted(String),
    /// How much is permitted.
    Reaches(Verdict),
    /// It is not so.
    Violated(Box<Violation>),
    /// The solver did not say.
    Undecided(String),
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Proved | Self::Reaches(_) => "proved",
            Self::Noted(_) => "note",
            Self::Violated(_) => "VIOLATED",
            Self::Undecided(_) => "UNKNOWN",
        }
    }
}

/// One question, answered.
#[derive(Clone, PartialEq, Debug)]
pub struct Proof {
    /// What was asked.
    pub check: Check,
    /// Of which kind of request; none for all.
    pub environment: Option<Environment>,
    /// Of which policy; none for all.
    pub policy: Option<Named>,
    /// What came of it.
    pub outcome: Outcome,
    /// How long it took.
    pub took: Duration,
}

impl Proof {
    /// Its first line: the outcome, the question, whom it is about.
    pub fn line(&self) -> String {
        let about = match (&self.environment, &self.policy) {
            (Some(environment), None) => environment.to_string(),
            (None, Some(policy)) => policy.to_string(),
            (Some(environment), Some(policy)) => format!("{environment}   {policy}"),
            (None, None) => "the law".to_owned(),
        };
        let check = match (self.check, &self.outcome) {
            (check, Outcome::Reaches(verdict)) => format!("{verdict} {check}"),
            (check, _) => check.to_string(),
        };
        format!("{:<8}   {check:<19}   {about}   {} ms", self.outcome.word(), self.took.as_millis())
    }

    fn json(&self) -> Value {
        let environment = self.environment.as_ref().map(environment_json);
        let mut all = json!({
            "check": self.check, "outcome": self.outcome.word().to_lowercase(), "environment": environment, "policy": self.policy,
            "ms": ms(self.took),
        });
        let (key, value) = match &self.outcome {
            Outcome::Proved => return all,
            Outcome::Noted(note) => ("note", json!(note)),
            Outcome::Reaches(verdict) => ("permitted", json!(verdict)),
            Outcome::Undecided(why) => ("why", json!(why)),
            Outcome::Violated(violation) => {
                let witness = violation
                    .witness
                    .as_ref()
                    .map(|w| json!({ "request": w.case, "policies": w.policies.json(), "gateway": w.gateway.json(), "row": w.row }));
                ("violation", json!({ "what": violation.what, "policies": violation.policies, "witness": witness }))
            }
        };
        if let Some(fields) = all.as_object_mut() {
            fields.insert(key.to_owned(), value);
        }
        all
    }
}

/// Everything that was asked of a law.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// The law's version.
    pub version: Arc<str>,
    /// The solver's name and version.
    pub solver: String,
    /// How many policies there are.
    pub policies: usize,
    /// How many kinds of request there are.
    pub environments: usize,
    /// By check, then in the order of kinds of request or of files.
    pub proofs: Vec<Proof>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// How many proofs ended so.
    fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.proofs.iter().filter(|proof| is(&proof.outcome)).count()
    }

    /// How many things are not so.
    pub fn violated(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Violated(_)))
    }

    /// How many questions were not settled.
    pub fn undecided(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Undecided(_)))
    }

    /// How many remarks there are.
    pub fn noted(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Noted(_)))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "version": *self.version, "solver": self.solver, "policies": self.policies, "environments": self.environments,
            "proved": self.violated() + self.undecided() == 0, "violated": self.violated(), "undecided": self.undecided(),
            "ms": ms(self.took), "proofs": self.proofs.iter().map(Proof::json).collect::<Vec<_>>(),
        })
    }
}

/// What a law permits that another does not.
#[derive(Clone, PartialEq, Debug)]
pub struct Flip {
    /// The request.
    pub case: Case,
    /// What the first law answers.
    pub from: Said,
    /// What the second law answers.
    pub to: Said,
}

/// How two laws differ on one kind of request.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// The kind of request.
    pub environment: Environment,
    /// A request that only the second law's policies permit.
    pub gained: Option<Box<Flip>>,
    /// A request that only the first law's policies permit.
    pub lost: Option<Box<Flip>>,
}

impl Difference {
    /// `=` the same, `+` more is permitted, `-` less, `±` both.
    pub fn sign(&self) -> char {
        match (&self.gained, &self.lost) {
            (None, None) => '=',
            (Some(_), None) => '+',
            (None, Some(_)) => '-',
            (Some(_), Some(_)) => '±',
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let flip = |flip: &Flip| json!({ "request": flip.case, "from": flip.from.json(), "to": flip.to.json() });
        json!({
            "environment": environment_json(&self.environment), "sign": self.sign().to_string(),
            "gained": self.gained.as_deref().map(flip), "lost": self.lost.as_deref().map(flip),
        })
    }
}

fn environment_json(environment: &Environment) -> Value {
    let Environment { principal, action, resource } = environment;
    json!({ "principal": principal, "action": action, "resource": resource })
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
