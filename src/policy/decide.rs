//! One question, one answer: builds the request with the schema, asks Cedar, turns every doubt into a refusal and keeps
//! the answer. Never grants on an error: Cedar skips a policy that errs, so a `forbid` that overflows would be a yes.
//! Floor 5.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use cedar_policy::{AuthorizationError, Authorizer, Decision as Verdict, Entities, PolicyId, PolicySet, Request, Schema};

use super::Snapshot;
use super::action::Action;
use super::entities::{Names, Question, Slice};
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

/// The law without its memory.
pub(super) struct Law {
    pub schema: Schema,
    /// The schema's actions. Entities start from these: without them `action in Group` matches nothing, without an error.
    pub actions: Entities,
    pub policies: PolicySet,
    /// The `@code` of every forbid.
    pub codes: HashMap<PolicyId, ReasonCode>,
    pub names: Names,
    pub authorizer: Authorizer,
    pub version: Arc<str>,
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
            cache.keep(hash, ask.clone(), ask.bytes() + decision.facts.len(), Arc::clone(&decision));
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
    /// Answers from the question and the policies alone.
    pub(super) fn judge<A: Action>(&self, ask: &A) -> Decision {
        match ask.question(Slice::new(&self.names)) {
            Ok(question) => self.answer::<A>(question),
            Err(unfit) => {
                let facts = serde_json::json!({ "unfit": unfit.to_string() }).to_string();
                self.not_applicable::<A>(String::new(), String::new(), facts)
            }
        }
    }

    fn answer<A: Action>(&self, question: Question) -> Decision {
        let Question { principal, action, resource, context, entities, facts } = question;
        let (who, what) = (principal.to_string(), resource.to_string());
        let Ok(request) = Request::new(principal, action, resource, context, Some(&self.schema)) else {
            return self.not_applicable::<A>(who, what, facts);
        };
        // Holding the entities to the schema costs a tenth of a fresh answer, and what was proved of the law is proved of
        // entities that conform.
        let Ok(entities) = self.actions.clone().add_entities(entities, Some(&self.schema)) else {
            return self.not_applicable::<A>(who, what, facts);
        };
        let (code, policies, errors) = self.verdict::<A>(&request, &entities);
        Decision {
            action: A::NAME,
            principal: who,
            resource: what,
            facts,
            allowed: code.is_none(),
            code,
            policies,
            version: Arc::clone(&self.version),
            errors,
        }
    }

    /// Why not, or none for yes; the policies that decided; how many erred.
    pub(super) fn verdict<A: Action>(&self, request: &Request, entities: &Entities) -> (Option<ReasonCode>, Arc<[String]>, usize) {
        let response = self.authorizer.is_authorized(request, &self.policies, entities);
        let erred: Vec<&PolicyId> =
            response.diagnostics().errors().map(|AuthorizationError::PolicyEvaluationError(e)| e.policy_id()).collect();
        if !erred.is_empty() {
            let errors = erred.len();
            return (Some(ReasonCode::PolicyEvaluationError), sorted(erred), errors);
        }
        let reasons: Vec<&PolicyId> = response.diagnostics().reason().collect();
        let code = match response.decision() {
            Verdict::Allow => None,
            Verdict::Deny if reasons.is_empty() => Some(A::DEFAULT_DENY),
            Verdict::Deny => {
                let codes = reasons.iter().filter_map(|id| self.codes.get(id).copied());
                Some(codes.min().unwrap_or(ReasonCode::PolicyForbidden))
            }
        };
        (code, sorted(reasons), 0)
    }

    fn not_applicable<A: Action>(&self, principal: String, resource: String, facts: String) -> Decision {
        Decision {
            action: A::NAME,
            principal,
            resource,
            facts,
            allowed: false,
            code: Some(ReasonCode::PolicyNotApplicable),
            policies: Arc::new([]),
            version: Arc::clone(&self.version),
            errors: 0,
        }
    }
}

// Cedar names deciding policies in an order that changes with every load.
fn sorted(ids: Vec<&PolicyId>) -> Arc<[String]> {
    let mut ids: Vec<String> = ids.into_iter().map(ToString::to_string).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into()
}

const SHARDS: usize = 16;
const ENTRIES_MAX: usize = 65_536;
const ENTRY_BYTES: usize = 1_024;
const SHARD_BYTES_MAX: usize = ENTRIES_MAX / SHARDS * ENTRY_BYTES;

/// Answers by question. Bounded by number and by bytes; a full shard starts anew.
///
/// Keyed by a hash that only this process knows, since parts of a question are chosen by strangers; a hit is compared with
/// the whole question, so a collision costs a lookup and nothing else.
pub struct Cache<A> {
    state: RandomState,
    shards: [RwLock<Shard<A>>; SHARDS],
}

struct Shard<A> {
    answers: HashMap<u64, (A, Arc<Decision>), BuildHasherDefault<Hashed>>,
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
        shard.answers.get(&hash).filter(|(known, _)| known == ask).map(|(_, decision)| Arc::clone(decision))
    }

    fn keep(&self, hash: u64, ask: A, bytes: usize, decision: Arc<Decision>) {
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
        shard.answers.insert(hash, (ask, decision));
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

    fn answer() -> Arc<Decision> {
        Arc::new(Decision {
            action: ReadAudit::NAME,
            principal: String::new(),
            resource: String::new(),
            facts: String::new(),
            allowed: false,
            code: None,
            policies: Arc::new([]),
            version: "v".into(),
            errors: 0,
        })
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
