//! The questions themselves: each kind of request is compiled once with the policies that its types and action admit, then
//! asked about. What the solver denies is turned into a request, asked of the real law, and believed only when that agrees.
//! Floor 5.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::{Duration, Instant};

use cedar_policy::{
    ActionConstraint, Effect, EntityTypeName, EntityUid, Policy, PolicySet, PrincipalConstraint, RequestEnv, ResourceConstraint,
};
use cedar_policy_symcc::{CompiledPolicy, CompiledPolicySet, Env, SymEnv};
use tokio::runtime::Runtime;

use super::super::action::default_deny;
use super::super::decide::Law;
use super::super::index::Index;
use super::super::row::{Want, as_row};
use super::super::vocabulary::{Environment, short};
use super::super::{Snapshot, envelope};
use super::solver::{Answer, Solver};
use super::witness::{Asked, believed};
use super::{Check, Difference, Flip, Named, Outcome, Proof, Report, Said, Unable, Verdict, Violation, Witness};

/// Compiling a set walks it in as many nested calls as there are policies for one kind of request; this many bytes are
/// enough for [`POLICIES_MAX`] in a build that optimizes nothing. Only what is walked on is ever memory.
const STACK: usize = 1 << 30;
/// How many policies for one kind of request are put to the solver together: it is told of each pair of things they name.
const POLICIES_MAX: usize = 2_000;

/// Asks the solver about whole laws. One runs one solver's process, and waits for it in a thread of its own.
pub struct Prover {
    asking: Asking,
    room: Room,
}

/// What a question needs, apart from the law.
struct Asking {
    solver: Solver,
    envelope: PolicySet,
    floor: PolicySet,
}

impl Prover {
    /// Starts the solver: the program named, else `cvc5` of the search path.
    ///
    /// # Errors
    /// [`Unable::NoSolver`] where there is none that works.
    pub fn start(program: Option<OsString>) -> Result<Self, Unable> {
        let bounds = |text| envelope::parse(text).map_err(Unable::Undecided);
        let (envelope, floor) = (bounds(envelope::ENVELOPE)?, bounds(envelope::FLOOR)?);
        let room = Room::new()?;
        let solver = room.wait(|| Solver::start(program))??;
        Ok(Self { asking: Asking { solver, envelope, floor }, room })
    }

    /// Everything that there is to prove of a law. Tells how far it is before each step.
    ///
    /// # Errors
    /// [`Unable`] where the law cannot be asked about at all; what single questions came to is in the report.
    pub fn prove(&mut self, law: &Snapshot, told: impl FnMut(&str) + Send) -> Result<Report, Unable> {
        self.proved(&law.law, told)
    }

    /// The same, of a law that need not be anybody's.
    pub(super) fn proved(&mut self, law: &Law, told: impl FnMut(&str) + Send) -> Result<Report, Unable> {
        let Self { asking, room } = self;
        room.wait(|| asking.prove(law, told))
    }

    /// How much of a kind of request the gateway lets through: what the policies permit and the envelope admits.
    ///
    /// # Errors
    /// [`Unable::Undecided`] where the solver does not say.
    pub fn verdict(&mut self, law: &Snapshot, environment: &Environment) -> Result<Verdict, Unable> {
        let Self { asking, room } = self;
        let verdict = room.wait(|| asking.verdict(&law.law, environment))?;
        verdict.map_err(|why| Unable::Undecided(format!("{environment}: {why}")))
    }

    /// What the policies of the second law permit otherwise than those of the first, for each kind of request.
    ///
    /// # Errors
    /// [`Unable::Undecided`] where the solver does not say.
    pub fn compare(&mut self, from: &Snapshot, to: &Snapshot, told: impl FnMut(&str) + Send) -> Result<Vec<Difference>, Unable> {
        let Self { asking, room } = self;
        room.wait(|| asking.compare(&from.law, &to.law, told))?
    }
}

/// Where the solver's pipes live and where it is waited for; none only while it is dropped.
struct Room(Option<Runtime>);

impl Room {
    fn new() -> Result<Self, Unable> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| no_room(&error))
    }

    /// Waits in a thread whose stack is deep enough.
    fn wait<T: Send, F: Future<Output = T>>(&self, work: impl FnOnce() -> F + Send) -> Result<T, Unable> {
        let runtime = self.0.as_ref().ok_or_else(|| no_room(&"it is closed"))?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, || runtime.block_on(work()));
            thread.map_err(|error| no_room(&error))?.join().map_err(|_| no_room(&"it panicked"))
        })
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // Dropped as it is, it would wait for what it runs, and whoever is awaited must not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn no_room(why: &dyn std::fmt::Display) -> Unable {
    Unable::Undecided(format!("no thread to ask in: {why}"))
}

impl Asking {
    async fn verdict(&mut self, law: &Law, environment: &Environment) -> Result<Verdict, String> {
        let kind = kinds(law).into_iter().find(|kind| kind.environment == *environment);
        let kind = kind.ok_or_else(|| "there is no such kind of request".to_owned())?;
        let (set, envelope) = (kind.compiled(law, &law.policies)?, kind.compiled(law, &self.envelope)?);
        self.reach(&set, &envelope).await
    }

    async fn compare(&mut self, from: &Law, to: &Law, mut told: impl FnMut(&str)) -> Result<Vec<Difference>, Unable> {
        let kinds = kinds(from);
        let mut all = Vec::with_capacity(kinds.len());
        for (n, kind) in kinds.iter().enumerate() {
            told(&format!("{} of {}   {}", n + 1, kinds.len(), kind.environment));
            let difference = self.difference(kind, from, to).await;
            all.push(difference.map_err(|why| Unable::Undecided(format!("{}: {why}", kind.environment)))?);
        }
        Ok(all)
    }

    async fn difference(&mut self, kind: &Kind, from: &Law, to: &Law) -> Result<Difference, String> {
        let mut difference = Difference { environment: kind.environment.clone(), gained: None, lost: None };
        // Most edits leave most kinds of request alone.
        if kind.text(from) == kind.text(to) {
            return Ok(difference);
        }
        let (first, second) = (kind.compiled(from, &from.policies)?, kind.compiled(to, &to.policies)?);
        if let Answer::Fails(model) = self.solver.implies(&second, &first).await? {
            difference.gained = Some(Box::new(flip(kind, &model, (from, false), (to, true))?));
        }
        if let Answer::Fails(model) = self.solver.implies(&first, &second).await? {
            difference.lost = Some(Box::new(flip(kind, &model, (from, true), (to, false))?));
        }
        Ok(difference)
    }

    async fn prove(&mut self, law: &Law, mut told: impl FnMut(&str)) -> Report {
        let began = Instant::now();
        let kinds = kinds(law);
        let mut policies: Vec<Judged> = law.policies.policies().map(|policy| Judged::new(law, policy)).collect();
        policies.sort_by(|a, b| a.named.cmp_by_place(&b.named));
        let mut proofs = Vec::new();
        for (n, kind) in kinds.iter().enumerate() {
            told(&format!("{} of {}   {}", n + 1, kinds.len(), kind.environment));
            self.of_kind(law, kind, &mut policies, &mut proofs).await;
        }
        for (n, policy) in policies.into_iter().enumerate() {
            told(&format!("policy {}   {}", n + 1, policy.named.id));
            self.of_policy(&kinds, law, policy, &mut proofs).await;
        }
        proofs.sort_by_key(|proof| proof.check);
        Report {
            version: law.version.clone(),
            solver: self.solver.name().to_owned(),
            policies: law.policies.num_of_policies(),
            environments: kinds.len(),
            proofs,
            took: began.elapsed(),
        }
    }

    /// What is asked about each kind of request; and, in passing, which policies change an answer.
    async fn of_kind(&mut self, law: &Law, kind: &Kind, policies: &mut [Judged], proofs: &mut Vec<Proof>) {
        let mut clock = Clock::start();
        let mut push = |check, outcome, clock: &mut Clock| {
            let environment = Some(kind.environment.clone());
            proofs.push(Proof { check, environment, policy: None, outcome, took: clock.lap() });
        };
        let sets = kind.compiled(law, &law.policies).and_then(|set| {
            let envelope = kind.compiled(law, &self.envelope)?;
            Ok((set, envelope, kind.compiled(law, &self.floor)?))
        });
        let (set, envelope, floor) = match sets {
            Ok(sets) => sets,
            Err(why) => {
                for policy in policies.iter_mut().filter(|policy| kind.admits(law, &policy.policy)) {
                    policy.doubt = Some(why.clone());
                }
                return push(Check::Envelope, Outcome::Undecided(why), &mut clock);
            }
        };
        let answer = self.solver.implies(&set, &envelope).await;
        push(Check::Envelope, outcome(answer, |model| outside(kind, model, law)), &mut clock);
        // Of most kinds of request the floor says nothing.
        if self.floor.policies().any(|policy| kind.admits(law, policy)) {
            let answer = self.solver.implies(&floor, &set).await;
            push(Check::Floor, outcome(answer, |model| below(kind, model, law, &self.floor)), &mut clock);
        }
        let reach = self.reach(&set, &envelope).await;
        push(Check::Reach, reach.map_or_else(Outcome::Undecided, Outcome::Reaches), &mut clock);

        let mut erring = Some(Outcome::Proved);
        for policy in policies.iter_mut().filter(|policy| kind.admits(law, &policy.policy)) {
            let compiled = match kind.policy(law, &policy.policy) {
                Ok(compiled) => compiled,
                Err(why) => {
                    erring = Some(Outcome::Undecided(why));
                    continue;
                }
            };
            let answer = self.solver.never_errors(&compiled).await;
            // Each that errs is said by itself.
            match outcome(answer, |model| errs(kind, model, law, policy)) {
                Outcome::Violated(violation) => {
                    push(Check::Errors, Outcome::Violated(violation), &mut clock);
                    erring = erring.filter(|so_far| *so_far != Outcome::Proved);
                }
                Outcome::Proved => {}
                open => erring = Some(open),
            }
        }
        if let Some(erring) = erring {
            push(Check::Errors, erring, &mut clock);
        }

        for policy in policies.iter_mut().filter(|policy| !policy.decides && kind.admits(law, &policy.policy)) {
            let mut clock = Clock::start();
            match self.decides(kind, law, &policy.policy).await {
                Ok(decides) => policy.decides = decides,
                Err(why) => policy.doubt = Some(why),
            }
            policy.took += clock.lap();
        }
    }

    /// What is asked about each policy, after all kinds of request: whether it can match at all, and whether it changes
    /// an answer. One that changes an answer matches.
    async fn of_policy(&mut self, kinds: &[Kind], law: &Law, judged: Judged, proofs: &mut Vec<Proof>) {
        let Judged { named, policy, decides, doubt, mut took } = judged;
        let mut push = |check, outcome, took| proofs.push(Proof { check, environment: None, policy: Some(named.clone()), outcome, took });
        let violated =
            |what: &str| Outcome::Violated(Box::new(Violation { what: what.to_owned(), policies: vec![named.clone()], witness: None }));
        if decides {
            push(Check::Dead, Outcome::Proved, Duration::ZERO);
            return push(Check::Redundant, Outcome::Proved, took);
        }
        let mut clock = Clock::start();
        match self.is_dead(kinds, law, &policy).await {
            Err(why) => return push(Check::Dead, Outcome::Undecided(why), clock.lap()),
            // That it is redundant too goes without saying.
            Ok(true) => return push(Check::Dead, violated("the policy matches no request at all"), clock.lap()),
            Ok(false) => push(Check::Dead, Outcome::Proved, clock.lap()),
        }
        took += clock.lap();
        let outcome = match (doubt, policy.effect()) {
            (Some(why), _) => Outcome::Undecided(why),
            (None, Effect::Permit) => violated("without the policy every answer stays the same"),
            (None, Effect::Forbid) => {
                let code = policy.annotation("code").unwrap_or_default();
                Outcome::Noted(format!("decides nothing, says why: what it matches nothing permits, and refusals read `{code}`"))
            }
        };
        push(Check::Redundant, outcome, took);
    }

    async fn is_dead(&mut self, kinds: &[Kind], law: &Law, policy: &Policy) -> Result<bool, String> {
        for kind in kinds.iter().filter(|kind| kind.admits(law, policy)) {
            if !self.solver.never_matches(&kind.policy(law, policy)?).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn reach(&mut self, set: &CompiledPolicySet, envelope: &CompiledPolicySet) -> Result<Verdict, String> {
        if self.solver.disjoint(set, envelope).await? {
            return Ok(Verdict::Never);
        }
        let always = self.solver.always_allows(set).await? && self.solver.always_allows(envelope).await?;
        Ok(if always { Verdict::Always } else { Verdict::Sometimes })
    }

    /// Whether some answer to this kind of request would be another without the policy.
    ///
    /// Forbids of other orgs than its own are left out on both sides: they only take away, so what changes nothing among
    /// fewer of them changes nothing among all; and a policy is not needless because of what strangers forbid themselves.
    async fn decides(&mut self, kind: &Kind, law: &Law, policy: &Policy) -> Result<bool, String> {
        let org = org_of(policy);
        let counts = |other: &&Policy| {
            let others = org_of(other);
            kind.admits(law, other) && (others.is_none() || others == org)
        };
        let fellows: Vec<&Policy> = law.policies.policies().collect();
        let with: Vec<Policy> = fellows.iter().copied().filter(counts).cloned().collect();
        let without: Vec<Policy> = with.iter().filter(|other| other.id() != policy.id()).cloned().collect();
        let (with, without) = (kind.set(law, with)?, kind.set(law, without)?);
        // A permit only adds, a forbid only takes away: one direction is enough.
        let same = match policy.effect() {
            Effect::Permit => self.solver.implies(&with, &without).await?,
            Effect::Forbid => self.solver.implies(&without, &with).await?,
        };
        Ok(matches!(same, Answer::Fails(_)))
    }
}

/// A policy on its way through all kinds of request.
struct Judged {
    named: Named,
    policy: Policy,
    decides: bool,
    doubt: Option<String>,
    took: Duration,
}

impl Judged {
    fn new(law: &Law, policy: &Policy) -> Self {
        let named = named(law, policy.id().as_ref());
        Self { named, policy: policy.clone(), decides: false, doubt: None, took: Duration::ZERO }
    }
}

impl Named {
    fn cmp_by_place(&self, other: &Self) -> std::cmp::Ordering {
        (&self.file, self.line, &self.id).cmp(&(&other.file, other.line, &other.id))
    }
}

fn named(law: &Law, id: &str) -> Named {
    let place = law.places.get(&cedar_policy::PolicyId::new(id));
    let (file, line) = place.map_or((String::new(), 0), |place| (place.file.clone(), place.line));
    Named { id: id.to_owned(), file, line }
}

/// A stopwatch for what people wait for.
struct Clock(Instant);

impl Clock {
    fn start() -> Self {
        Self(Instant::now())
    }

    /// Since it was last asked.
    fn lap(&mut self) -> Duration {
        let now = Instant::now();
        let took = now.duration_since(self.0);
        self.0 = now;
        took
    }
}

/// A kind of request, as the solver is told of it.
struct Kind {
    environment: Environment,
    env: RequestEnv,
    /// The same terms under every compilation, made once.
    symbols: OnceCell<SymEnv>,
}

/// Every kind of request, in the order of their names.
fn kinds(law: &Law) -> Vec<Kind> {
    let mut all: Vec<Kind> = law
        .base
        .schema
        .request_envs()
        .map(|env| {
            let name = |kind: &EntityTypeName| short(&kind.to_string()).to_owned();
            let environment = Environment {
                principal: name(env.principal()),
                action: env.action().id().unescaped().to_owned(),
                resource: name(env.resource()),
            };
            Kind { environment, env, symbols: OnceCell::new() }
        })
        .collect();
    all.sort_by(|a, b| a.environment.cmp(&b.environment));
    all
}

impl Kind {
    /// Whether a policy's scope can match such a request, by types and action alone: what it leaves out matches none.
    fn admits(&self, law: &Law, policy: &Policy) -> bool {
        // An org's policy without an action does not count among those about operators, however many orgs there are.
        let within = |group: &EntityUid, of: &EntityTypeName| {
            group.type_name() == of || law.base.schema.ancestors(of).is_none_or(|mut all| all.any(|kind| kind == group.type_name()))
        };
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::In(group) => within(&group, self.env.principal()),
            PrincipalConstraint::Eq(uid) => uid.type_name() == self.env.principal(),
            PrincipalConstraint::Is(kind) | PrincipalConstraint::IsIn(kind, _) => kind == *self.env.principal(),
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::In(group) => within(&group, self.env.resource()),
            ResourceConstraint::Eq(uid) => uid.type_name() == self.env.resource(),
            ResourceConstraint::Is(kind) | ResourceConstraint::IsIn(kind, _) => kind == *self.env.resource(),
        };
        let action = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => uid == *self.env.action(),
            ActionConstraint::In(groups) => {
                let action = self.env.action();
                groups.iter().any(|group| group == action || law.base.actions.is_ancestor_of(group, action))
            }
        };
        principal && resource && action
    }

    fn symbols(&self, law: &Law) -> Result<SymEnv, String> {
        if let Some(symbols) = self.symbols.get() {
            return Ok(symbols.clone());
        }
        let made = SymEnv::new(&law.base.schema, &self.env).map_err(|e| uncompiled(&e))?;
        Ok(self.symbols.get_or_init(|| made).clone())
    }

    fn policy(&self, law: &Law, policy: &Policy) -> Result<CompiledPolicy, String> {
        let symbols = self.symbols(law)?;
        CompiledPolicy::compile_with_custom_symenv(policy, &self.env, &law.base.schema, symbols).map_err(|e| uncompiled(&e))
    }

    /// What of a set can match.
    fn compiled(&self, law: &Law, set: &PolicySet) -> Result<CompiledPolicySet, String> {
        self.set(law, set.policies().filter(|policy| self.admits(law, policy)).cloned())
    }

    fn set(&self, law: &Law, policies: impl IntoIterator<Item = Policy>) -> Result<CompiledPolicySet, String> {
        let set = PolicySet::from_policies(policies).map_err(|e| uncompiled(&e))?;
        if set.num_of_policies() > POLICIES_MAX {
            return Err(format!("more than {POLICIES_MAX} policies for one kind of request are not put to the solver"));
        }
        let symbols = self.symbols(law)?;
        CompiledPolicySet::compile_with_custom_symenv(&set, &self.env, &law.base.schema, symbols).map_err(|e| uncompiled(&e))
    }

    /// The policies that can match, as they are written.
    fn text(&self, law: &Law) -> BTreeSet<String> {
        law.policies.policies().filter(|policy| self.admits(law, policy)).map(ToString::to_string).collect()
    }
}

fn uncompiled(error: &dyn std::fmt::Display) -> String {
    format!("the policies cannot be put to the solver: {error}")
}

/// The org that a policy is about by its scope.
fn org_of(policy: &Policy) -> Option<EntityUid> {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        _ => None,
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => Some(uid),
        _ => None,
    };
    let is_org = |uid: &EntityUid| short(&uid.type_name().to_string()) == "Org";
    // A permit for one org is the platform's word like any other.
    [principal, resource].into_iter().flatten().find(is_org).filter(|_| policy.effect() == Effect::Forbid)
}

/// What an answer comes to. A counterexample that the real law does not bear out proves nothing, either way.
fn outcome(answer: Result<Answer, String>, shown: impl FnOnce(&Env) -> Result<Violation, String>) -> Outcome {
    match answer {
        Ok(Answer::Holds) => Outcome::Proved,
        Ok(Answer::Fails(model)) => shown(&model).map_or_else(Outcome::Undecided, |violation| Outcome::Violated(Box::new(violation))),
        Err(why) => Outcome::Undecided(why),
    }
}

fn witness(asked: Asked, policies: Said, gateway: Said, name: &str, want: &Want) -> Witness {
    let row = as_row(name, &asked.case, want);
    Witness { case: asked.case, policies, gateway, row }
}

fn outside(kind: &Kind, model: &Env, law: &Law) -> Result<Violation, String> {
    let (asked, (policies, gateway)) = believed(&kind.environment, model, law, |asked| {
        let (policies, gateway) = (asked.of_policies(law), asked.of_gateway(law));
        let is_outside = policies.allow && !envelope::admits(&asked.request, &asked.entities) && !gateway.allow;
        is_outside.then_some((policies, gateway))
    })?;
    let guilty = policies.policies.iter().map(|id| named(law, id)).collect();
    let want = Want { allow: false, code: Some(default_deny(&kind.environment.action)), policies: vec![] };
    let witness = witness(asked, policies, gateway, "nothing permits what the envelope does not", &want);
    Ok(Violation { what: "the policies permit what the gateway's own bounds do not".to_owned(), policies: guilty, witness: Some(witness) })
}

fn below(kind: &Kind, model: &Env, law: &Law, floor: &PolicySet) -> Result<Violation, String> {
    let (asked, (policies, wanted)) = believed(&kind.environment, model, law, |asked| {
        let policies = asked.of_policies(law);
        let wanted = Index::authorize_unindexed(floor, &asked.request, &asked.entities);
        (!policies.allow && wanted.allowed).then_some((policies, wanted))
    })?;
    let gateway = asked.of_gateway(law);
    let wanted: Vec<String> = wanted.reasons.iter().map(ToString::to_string).collect();
    let how = if policies.policies.is_empty() { "no policy permits" } else { "the policies forbid" };
    let what = format!("{how} what must always be permitted ({})", wanted.join(", "));
    let guilty = policies.policies.iter().map(|id| named(law, id)).collect();
    let want = Want { allow: true, code: None, policies: vec![] };
    let witness = witness(asked, policies, gateway, &format!("always permitted: {}", wanted.join(", ")), &want);
    Ok(Violation { what, policies: guilty, witness: Some(witness) })
}

fn errs(kind: &Kind, model: &Env, law: &Law, judged: &Judged) -> Result<Violation, String> {
    let alone = PolicySet::from_policies([judged.policy.clone()]).map_err(|e| uncompiled(&e))?;
    let (asked, error) = believed(&kind.environment, model, law, |asked| {
        let answer = Index::authorize_unindexed(&alone, &asked.request, &asked.entities);
        answer.errors.into_iter().next().map(|(_, error)| error)
    })?;
    let (policies, gateway) = (asked.of_policies(law), asked.of_gateway(law));
    let want = Want { allow: gateway.allow, code: gateway.code, policies: gateway.policies.clone() };
    let witness = witness(asked, policies, gateway, &format!("{} errs", judged.named.id), &want);
    let what = format!("the policy errs, and an error refuses: {error}");
    Ok(Violation { what, policies: vec![judged.named.clone()], witness: Some(witness) })
}

/// Both laws, asked; each policy set must answer as the solver says.
fn flip(kind: &Kind, model: &Env, from: (&Law, bool), to: (&Law, bool)) -> Result<Flip, String> {
    let (asked, ()) = believed(&kind.environment, model, from.0, |asked| {
        let agrees = [from, to].into_iter().all(|(law, permits)| asked.of_policies(law).allow == permits);
        agrees.then_some(())
    })?;
    let (from, to) = (asked.of_gateway(from.0), asked.of_gateway(to.0));
    Ok(Flip { case: asked.case, from, to })
}

/// Kinds of request and policies.
#[cfg(test)]
type Pairs = Vec<(String, String)>;

#[cfg(test)]
impl Prover {
    /// Which kinds of request each policy's scope admits; and which of the others the solver says it can match.
    pub(super) fn left_out(&mut self, law: &Law) -> Result<(Pairs, Pairs), String> {
        let Self { asking, room } = self;
        let (mut admitted, mut missed) = (Vec::new(), Vec::new());
        for kind in kinds(law) {
            for policy in law.policies.policies() {
                if kind.admits(law, policy) {
                    admitted.push((kind.environment.to_string(), policy.id().to_string()));
                    continue;
                }
                let compiled = kind.policy(law, policy)?;
                if !room.wait(|| asking.solver.never_matches(&compiled)).map_err(|e| e.to_string())?? {
                    missed.push((kind.environment.to_string(), policy.id().to_string()));
                }
            }
        }
        Ok((admitted, missed))
    }
}
