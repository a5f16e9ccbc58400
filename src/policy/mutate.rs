//! How much of the law its tables hold: leaves out one policy, one bound of a scope, one condition or one clause at a time,
//! and asks whether any row notices. A clause whose absence nobody notices is one that an edit can lose. Counts only what
//! still validates: everything else is noticed at load. Floor 5.

mod cut;

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cedar_policy::{Effect, Entities, Policy, PolicySet, Request};

use self::cut::Mutant;
pub use self::cut::Part;
use super::case::Case;
use super::decide::{Law, Place, Ruling};
use super::index::Index;
use super::load::{LoadError, Sources};
use super::row::{Want, as_row_without};
use super::sample::Sampler;
use super::table::{Laws, Row, Tables};
use super::vocabulary::{Environment, Vocabulary};
use super::{limits, validate};
use crate::domain::clock::Timestamp;

/// Requests of each kind that the search for a row tries: a few of every kind first, since most kinds cannot show it.
const TRIES: [u64; 2] = [200, 4_000];
/// Mutants are independent; two at a time is what a small machine has.
const THREADS: usize = 2;

/// What became of all mutants.
#[derive(Clone, Debug, Default)]
pub struct Mutation {
    /// How many there were.
    pub total: usize,
    /// Those that no row noticed, in order of place.
    pub survivors: Vec<Survivor>,
}

impl Mutation {
    /// How many some row noticed.
    pub fn noticed(&self) -> usize {
        self.total.saturating_sub(self.survivors.len())
    }
}

/// A mutant that no row noticed.
#[derive(Clone, Debug)]
pub struct Survivor {
    /// The policy.
    pub policy: String,
    /// Where what was left out stands.
    pub place: Place,
    /// What sort of part was left out.
    pub part: Part,
    /// Its text.
    pub text: String,
    /// A row that would notice; none where it was not searched for, or not found.
    pub row: Option<String>,
}

/// A row as a request, and what the law says to it.
struct Prepared<'t> {
    row: &'t Row,
    request: Request,
    entities: Entities,
    ruling: Ruling,
}

/// What one policy alone does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Applies,
    Rests,
    Errs,
}

/// Everything that mutants are held against.
struct Bench<'t> {
    law: &'t Law,
    laws: &'t Laws<'t>,
    rows: Vec<Prepared<'t>>,
    environments: Vec<Environment>,
}

impl Tables {
    /// Leaves out one part of the law at a time, and asks every row that could notice.
    ///
    /// # Errors
    /// [`LoadError`] where the law is not valid, or lacks a policy that a row takes out.
    pub fn mutate(&self, sources: &Sources, now: Timestamp, suggest: bool) -> Result<Mutation, LoadError> {
        limits::with_room(&sources.platform, || self.mutated(sources, now, suggest))
    }

    fn mutated(&self, sources: &Sources, now: Timestamp, suggest: bool) -> Result<Mutation, LoadError> {
        let law = validate::law(sources, now)?;
        let laws = self.laws(&law, sources)?;
        let mut bench = Bench { law: &law, laws: &laws, rows: vec![], environments: Vocabulary::get().environments() };
        for row in self.rows() {
            let law = bench.law_of(row);
            // A row that is no question fails for itself.
            let Ok((request, entities)) = row.case.request(law) else { continue };
            let ruling = law.rule(&row.case.action, &request, &entities);
            bench.rows.push(Prepared { row, request, entities, ruling });
        }
        let mutants = cut::mutants(&law, sources);
        let survivors = bench.survivors(&mutants);
        // A policy may ask for the same thing twice, and rows of one table have different names.
        let is_said_twice = |mutant: &Mutant| mutants.iter().filter(|other| other.said() == mutant.said()).count() > 1;
        let name = |mutant: &Mutant| match is_said_twice(mutant) {
            true => format!("{} (line {})", mutant.said(), mutant.place.line),
            false => mutant.said(),
        };
        let survivor = |mutant: &Mutant| Survivor {
            policy: mutant.id.to_string(),
            place: mutant.place.clone(),
            part: mutant.part,
            text: mutant.text.clone(),
            row: if suggest { bench.suggest(mutant, &name(mutant)) } else { None },
        };
        let mut survivors: Vec<Survivor> = survivors.into_iter().map(survivor).collect();
        survivors.sort_by(|a, b| (&a.place.file, a.place.line, &a.text).cmp(&(&b.place.file, b.place.line, &b.text)));
        Ok(Mutation { total: mutants.len(), survivors })
    }
}

impl<'t> Bench<'t> {
    fn law_of(&self, row: &'t Row) -> &'t Law {
        self.laws.get(&(row.at, row.without.as_slice())).unwrap_or(self.law)
    }

    fn survivors<'m>(&self, mutants: &'m [Mutant]) -> Vec<&'m Mutant> {
        let next = AtomicUsize::new(0);
        let alive = Mutex::new(Vec::new());
        let work = || {
            while let Some(mutant) = mutants.get(next.fetch_add(1, Ordering::Relaxed)) {
                if !self.is_noticed(mutant) {
                    alive.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(mutant);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..THREADS {
                scope.spawn(|| limits::with_most_room(work));
            }
            work();
        });
        alive.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn is_noticed(&self, mutant: &Mutant) -> bool {
        // Each of the laws that rows ask for, mutated when it is first needed.
        let mut mutated: HashMap<(Option<Timestamp>, &[String]), Option<Law>> = HashMap::new();
        self.rows.iter().any(|Prepared { row, request, entities, ruling }| {
            if !mutant.concerns(&row.case.action) {
                return false;
            }
            let law = self.law_of(row);
            let Some(original) = law.policies.policy(&mutant.id) else { return false };
            // Where the policy alone does the same, the whole law does.
            if status(Some(original), request, entities) == status(mutant.policy.as_ref(), request, entities) {
                return false;
            }
            let other = mutated.entry((row.at, row.without.as_slice())).or_insert_with(|| mutant.of(law));
            other.as_ref().is_some_and(|other| other.rule(&row.case.action, request, entities) != *ruling)
        })
    }

    /// A request on which the law and the mutant differ, as a row; where a forbid hides it, with that taken out.
    fn suggest(&self, mutant: &Mutant, name: &str) -> Option<String> {
        let forbids = self.law.policies.policies().filter(|p| p.effect() == Effect::Forbid && *p.id() != mutant.id);
        let mut forbids: Vec<String> = forbids.map(|p| p.id().to_string()).collect();
        forbids.sort();
        let alone = std::iter::once(vec![]).chain(forbids.iter().map(|id| vec![id.clone()]));
        let all = (forbids.len() > 1).then(|| forbids.clone());
        let original = self.law.policies.policy(&mutant.id)?;
        let subject = PolicySet::from_policies(std::iter::once(original.clone())).ok()?;
        let sampler = Sampler::about(&[&self.law.policies], &[&subject]);
        let outs: Vec<Vec<String>> = alone.chain(all).collect();
        let kinds = || self.environments.iter().filter(|e| mutant.can_be_about(e));
        TRIES.into_iter().find_map(|tries| {
            outs.iter().find_map(|without| {
                let law = self.law.without(without).ok()?;
                let other = mutant.of(&law)?;
                let differs = |case: &Case| {
                    let Ok((request, entities)) = case.request(&law) else { return false };
                    status(Some(original), &request, &entities) != status(mutant.policy.as_ref(), &request, &entities)
                        && law.rule(&case.action, &request, &entities) != other.rule(&case.action, &request, &entities)
                };
                let case = kinds().find_map(|environment| sampler.witness(environment, tries, differs))?;
                let want = Want::of(&case.ruled(&law).ok()?);
                Some(as_row_without(name, &case, without, &want))
            })
        })
    }
}

fn status(policy: Option<&Policy>, request: &Request, entities: &Entities) -> Status {
    let Some(policy) = policy else { return Status::Rests };
    let Ok(alone) = PolicySet::from_policies(std::iter::once(policy.clone())) else { return Status::Errs };
    let answer = Index::authorize_unindexed(&alone, request, entities);
    match (answer.errors.is_empty(), answer.reasons.is_empty()) {
        (false, _) => Status::Errs,
        (true, false) => Status::Applies,
        (true, true) => Status::Rests,
    }
}

#[cfg(test)]
mod tests;
