//! One question, one answer: builds the request with the schema, asks Cedar, turns every doubt into a refusal and keeps
//! the answer. Never grants on an error: Cedar skips a policy that errs, so a `forbid` that overflows would be a yes.
//! Floor 5.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{Entities, PolicyId, PolicySet, Request, Schema};

use super::action::{Action, default_deny};
use super::entities::{Names, Question, Slice};
use super::index::{Answer, Index};
use super::shadow::Disagreement;
use super::{Snapshot, envelope, limits};
use crate::crypto::sha256;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::reason::{ReasonCode, Refusal};
pub use crate::domain::record::Decision;

/// Proof that the law said yes to this very question. Only [`Snapshot::decide`] makes one.
#[derive(Clone, PartialEq, Eq, Debug)]
#[must_use]
pub struct Permit<A> {
    ask: A,
    decision: Arc<Decision>,
}

impl<A> Permit<A> {
    /// What was asked.
    pub fn ask(&self) -> &A {
        &self.ask
    }

    /// The answer, for the record.
    pub fn decision(&self) -> &Arc<Decision> {
        &self.decision
    }
}

/// The law said no.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// For whoever asked.
    pub refusal: Refusal,
    /// For the record.
    pub decision: Arc<Decision>,
}

/// What every law of this build shares.
pub(super) struct Base {
    pub schema: Schema,
    /// The schema's actions. Entities start from these: without them `action in Group` matches nothing, without an error.
    pub actions: Entities,
    pub names: Names,
}

/// What one question may bring, as JSON: a canary list of some fifteen thousand orgs.
const QUESTION_BYTES_MAX: usize = 1024 * 1024;

/// The law without its memory.
pub(super) struct Law {
    pub base: Arc<Base>,
    pub policies: PolicySet,
    index: Index,
    /// The `@code` of every forbid.
    codes: HashMap<PolicyId, ReasonCode>,
    /// Where each policy stands.
    pub places: Arc<HashMap<PolicyId, Place>>,
    /// What it answers for: the files' version, and what has ended since.
    pub version: Arc<str>,
    /// The files' version.
    whole: Arc<str>,
    /// When the first of its policies ends by its `@until`.
    pub expires_at: Option<Timestamp>,
    /// Its policies that have ended, and when.
    pub ended: Vec<(String, Timestamp)>,
    /// How deep its expressions can be.
    levels: usize,
}

/// Where a policy stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
}

/// The answer to one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruling {
    /// Why not; none for yes.
    pub code: Option<ReasonCode>,
    /// The policies that decided, sorted.
    pub policies: Arc<[String]>,
    /// What went wrong in each policy that could not be evaluated. Any is a refusal.
    pub errors: Vec<String>,
}

impl Snapshot {
    /// Asks the law.
    ///
    /// # Errors
    /// [`Denied`] unless a policy permits, none forbids and none errs.
    pub fn decide<A: Action>(&self, ask: A) -> Result<Permit<A>, Denied> {
        let cache = A::cache(&self.caches);
        let hash = cache.hash(&ask);
        let decision = cache.find(hash, &ask).unwrap_or_else(|| {
            let decision = Arc::new(self.law.judge(&ask));
            let otherwise = self.shadow.as_ref().and_then(|shadow| shadow.compare(&ask, &decision));
            if let Some(otherwise) = &otherwise {
                otherwise.again();
            }
            cache.keep(hash, ask.clone(), ask.bytes() + decision.facts.len(), Kept { decision: Arc::clone(&decision), otherwise });
            decision
        });
        match decision.code {
            None if decision.allowed => Ok(Permit { ask, decision }),
            code => {
                let code = code.unwrap_or(A::DEFAULT_DENY);
                let refusal = Refusal { code, policies: Arc::clone(&decision.policies), version: Some(Arc::clone(&decision.version)) };
                Err(Denied { refusal, decision })
            }
        }
    }
}

impl Law {
    /// A law of these policies, which are valid and carry their `@id` as their id.
    pub(super) fn new(
        base: Arc<Base>,
        policies: PolicySet,
        places: Arc<HashMap<PolicyId, Place>>,
        whole: Arc<str>,
        levels: usize,
    ) -> Result<Self, String> {
        let code = |policy: &cedar_policy::Policy| Some((policy.id().clone(), ReasonCode::parse(policy.annotation("code")?)?));
        let codes = policies.policies().filter_map(code).collect();
        let expires_at = policies.policies().filter_map(until).min();
        let index = Index::new(&policies, &base.schema)?;
        Ok(Self { base, policies, index, codes, places, version: Arc::clone(&whole), whole, expires_at, ended: vec![], levels })
    }

    /// The same law with other policies: a mutant, or one that something was taken out of.
    pub(super) fn with(&self, policies: PolicySet) -> Result<Self, String> {
        let law = Self::new(Arc::clone(&self.base), policies, Arc::clone(&self.places), Arc::clone(&self.whole), self.levels)?;
        Ok(Self { version: Arc::clone(&self.version), ended: self.ended.clone(), ..law })
    }

    /// The law as it is then, where policies have ended by their `@until`; none where it is this one. It decides otherwise, so
    /// it is another version.
    pub(super) fn ended_by(&self, now: Timestamp) -> Result<Option<Self>, String> {
        if self.expires_at.is_none_or(|end| end > now) {
            return Ok(None);
        }
        let (mut policies, mut ended) = (self.policies.clone(), self.ended.clone());
        for (policy, end) in self.policies.policies().filter_map(|p| Some((p, until(p)?))).filter(|(_, end)| *end <= now) {
            policies.remove_static(policy.id().clone()).map_err(|e| e.to_string())?;
            ended.push((policy.id().to_string(), end));
        }
        ended.sort_unstable();
        let ids: Vec<&str> = ended.iter().map(|(id, _)| id.as_str()).collect();
        let version = hex::encode(sha256(format!("{} without {}", self.whole, ids.join(" ")).as_bytes())).into();
        Ok(Some(Self { version, ended, ..self.with(policies)? }))
    }

    /// Every `@until`, the first first, also of policies that have ended.
    pub(super) fn ends(&self) -> Vec<(PolicyId, Timestamp)> {
        let ended = self.ended.iter().map(|(id, end)| (PolicyId::new(id), *end));
        let mut all: Vec<_> = self.policies.policies().filter_map(|p| Some((p.id().clone(), until(p)?))).chain(ended).collect();
        all.sort_unstable_by(|(a, end_a), (b, end_b)| (end_a, a).cmp(&(end_b, b)));
        all
    }

    /// Answers from the question and the policies alone.
    pub(super) fn judge<A: Action>(&self, ask: &A) -> Decision {
        match ask.question(Slice::new(&self.base.names)) {
            Ok(question) => self.answer::<A>(question),
            Err(unfit) => self.unasked::<A>(ReasonCode::PolicyNotApplicable, String::new(), String::new(), &unfit.to_string()),
        }
    }

    fn answer<A: Action>(&self, question: Question) -> Decision {
        let Question { principal, action, resource, context, entities, facts } = question;
        let (who, what) = (principal.to_string(), resource.to_string());
        if facts.len() > QUESTION_BYTES_MAX && stands(Guard::QuestionBudget) {
            // Evaluation has no loops: what it costs is policies times what they read, so the bound is on what they can read.
            let facts = format!("{} bytes of facts, {QUESTION_BYTES_MAX} are allowed", facts.len());
            return self.unasked::<A>(ReasonCode::PolicyOverBudget, who, what, &facts);
        }
        let Ok(request) = Request::new(principal, action, resource, context, Some(&self.base.schema)) else {
            return self.unasked::<A>(ReasonCode::PolicyNotApplicable, who, what, "it does not fit the schema");
        };
        // Holding the entities to the schema costs a tenth of a fresh answer, and what was proved of the law is proved of
        // entities that conform.
        let Ok(entities) = self.base.actions.clone().add_entities(entities, Some(&self.base.schema)) else {
            return self.unasked::<A>(ReasonCode::PolicyNotApplicable, who, what, "its entities do not fit the schema");
        };
        let Ruling { code, policies, errors } = self.rule(A::NAME, &request, &entities);
        if code == Some(ReasonCode::PolicyOutsideEnvelope) {
            tracing::error!(action = A::NAME, principal = %who, resource = %what, policies = ?policies, version = %self.version,
                "the policies permit what the gateway's own bounds do not; refused. `byoa policy prove` shows how far the set reaches");
        }
        Decision {
            action: A::NAME,
            principal: who,
            resource: what,
            facts,
            allowed: code.is_none(),
            code,
            policies,
            version: Arc::clone(&self.version),
            errors: errors.len(),
        }
    }

    /// What the policies alone say, before anything is made of it.
    pub(super) fn asked(&self, request: &Request, entities: &Entities) -> Answer {
        limits::with_room_to_evaluate(self.levels, || self.index.authorize(request, entities))
    }

    /// The answer to a request that was held to the schema, in the order in which doubts count: an error, a forbid, no
    /// permit, a permit outside the envelope.
    pub(super) fn rule(&self, action: &str, request: &Request, entities: &Entities) -> Ruling {
        let answer = self.asked(request, entities);
        if !answer.errors.is_empty() && stands(Guard::ErrorsRefuse) {
            let errors = answer.errors.iter().map(|(_, what)| what.clone()).collect();
            return Ruling {
                code: Some(ReasonCode::PolicyEvaluationError),
                policies: names(answer.errors.iter().map(|(id, _)| id)),
                errors,
            };
        }
        let let_through = if answer.reasons.is_empty() { !stands(Guard::PermitNeeded) } else { !stands(Guard::ForbidsHold) };
        let code = if answer.allowed || let_through {
            (stands(Guard::Envelope) && !envelope::admits(request, entities)).then_some(ReasonCode::PolicyOutsideEnvelope)
        } else if answer.reasons.is_empty() {
            Some(default_deny(action))
        } else {
            let codes = answer.reasons.iter().filter_map(|id| self.codes.get(id).copied());
            Some(codes.min().unwrap_or(ReasonCode::PolicyForbidden))
        };
        Ruling { code, policies: names(answer.reasons.iter()), errors: vec![] }
    }

    /// A question that was not put to the policies, and why.
    fn unasked<A: Action>(&self, code: ReasonCode, principal: String, resource: String, why: &str) -> Decision {
        Decision {
            action: A::NAME,
            principal,
            resource,
            facts: serde_json::json!({ "unfit": why }).to_string(),
            allowed: false,
            code: Some(code),
            policies: Arc::new([]),
            version: Arc::clone(&self.version),
            errors: 0,
        }
    }
}

/// The end that a policy's `@until` gives it.
pub(super) fn until(policy: &cedar_policy::Policy) -> Option<Timestamp> {
    Timestamp::parse(policy.annotation("until")?)
}

fn names<'i>(ids: impl Iterator<Item = &'i PolicyId>) -> Arc<[String]> {
    ids.map(ToString::to_string).collect()
}

const SHARDS: usize = 16;
const ENTRIES_MAX: usize = 65_536;
const ENTRY_BYTES: usize = 1_024;
const SHARD_BYTES_MAX: usize = ENTRIES_MAX / SHARDS * ENTRY_BYTES;

/// An answer, and whether the set in the shadow would have given another.
pub(super) struct Kept {
    decision: Arc<Decision>,
    otherwise: Option<Arc<Disagreement>>,
}

/// Answers by question. Bounded by number and by bytes; a full shard starts anew.
///
/// Keyed by a hash that only this process knows, since parts of a question are chosen by strangers; a hit is compared with
/// the whole question, so a collision costs a lookup and nothing else.
pub struct Cache<A> {
    state: RandomState,
    shards: [RwLock<Shard<A>>; SHARDS],
}

struct Shard<A> {
    answers: HashMap<u64, (A, Kept), BuildHasherDefault<Hashed>>,
    bytes: usize,
}

impl<A> Default for Cache<A> {
    fn default() -> Self {
        let shard = || RwLock::new(Shard { answers: HashMap::default(), bytes: 0 });
        Self { state: RandomState::new(), shards: std::array::from_fn(|_| shard()) }
    }
}

impl<A: Action> Cache<A> {
    fn hash(&self, ask: &A) -> u64 {
        self.state.hash_one(ask)
    }

    fn shard(&self, hash: u64) -> Option<&RwLock<Shard<A>>> {
        // The middle bits: the map inside uses both ends.
        self.shards.get(usize::try_from(hash >> 32).unwrap_or(0) % SHARDS)
    }

    fn find(&self, hash: u64, ask: &A) -> Option<Arc<Decision>> {
        let shard = self.shard(hash)?.read().unwrap_or_else(PoisonError::into_inner);
        let (_, kept) = shard.answers.get(&hash).filter(|(known, _)| known == ask)?;
        if let Some(otherwise) = &kept.otherwise {
            otherwise.again();
        }
        Some(Arc::clone(&kept.decision))
    }

    fn keep(&self, hash: u64, ask: A, bytes: usize, kept: Kept) {
        let Some(shard) = self.shard(hash) else { return };
        if bytes > SHARD_BYTES_MAX / 4 {
            return;
        }
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.answers.len() >= ENTRIES_MAX / SHARDS || shard.bytes + bytes > SHARD_BYTES_MAX {
            shard.answers.clear();
            shard.bytes = 0;
        }
        shard.bytes += bytes;
        shard.answers.insert(hash, (ask, kept));
    }
}

/// Takes the key as its own hash: it is one already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, _: &[u8]) {}
}

#[cfg(test)]
mod tests {
    use super::super::action::{OperatorFacts, ReadAudit, Role};
    use super::*;

    fn ask(id: usize) -> ReadAudit {
        ReadAudit { operator: OperatorFacts { id: id.to_string(), role: Role::Viewer, mfa: true } }
    }

    fn answer() -> Kept {
        let decision = Arc::new(Decision {
            action: ReadAudit::NAME,
            principal: String::new(),
            resource: String::new(),
            facts: String::new(),
            allowed: false,
            code: None,
            policies: Arc::new([]),
            version: "v".into(),
            errors: 0,
        });
        Kept { decision, otherwise: None }
    }

    fn kept(cache: &Cache<ReadAudit>) -> usize {
        cache.shards.iter().map(|s| s.read().unwrap().answers.len()).sum()
    }

    #[test]
    fn a_collision_is_a_miss() {
        let cache = Cache::default();
        cache.keep(7, ask(1), 1, answer());
        assert!(cache.find(7, &ask(1)).is_some());
        assert!(cache.find(7, &ask(2)).is_none());
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let cache = Cache::default();
        let most = (0..2 * ENTRIES_MAX).map(|n| {
            let ask = ask(n);
            cache.keep(cache.hash(&ask), ask, 1, answer());
            if n % 4096 == 0 { kept(&cache) } else { 0 }
        });
        assert!(most.max().unwrap() <= ENTRIES_MAX);

        let cache = Cache::default();
        for n in 0..64 {
            cache.keep(n, ask(0), SHARD_BYTES_MAX / 4, answer());
            assert!(kept(&cache) <= 4);
        }
        cache.keep(99, ask(1), SHARD_BYTES_MAX / 4 + 1, answer());
        assert!(cache.find(99, &ask(1)).is_none());
    }
}
