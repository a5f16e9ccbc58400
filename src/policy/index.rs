//! Which policies a request can concern at all: each policy stands under what its scope names, so that a decision costs the
//! same beside ten policies and beside ten thousand. Owns the placement and the union of the parts' answers, which is what
//! the whole set says; never reads a condition, never decides on its own. Floor 5.

use std::collections::HashMap;
use std::iter;

use cedar_policy::{
    ActionConstraint, AuthorizationError, Authorizer, Decision, Entities, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint,
    Request, RequestEnv, ResourceConstraint, Schema,
};

/// So many policies of one name stay together whatever their actions: asking one more set costs as much as two policies
/// that do not apply, and each set some hundred bytes.
const TOGETHER_MAX: usize = 8;

/// What the policies say of one request.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Answer {
    /// A permit is satisfied and no forbid is.
    pub allowed: bool,
    /// The satisfied forbids; where there is none, the satisfied permits. Sorted, each once.
    pub reasons: Vec<PolicyId>,
    /// The policies that erred and how. Sorted, each once.
    pub errors: Vec<(PolicyId, String)>,
}

/// The policies, placed by their scopes.
///
/// Sound because a scope never errs and is the first thing that a policy asks: where it does not hold, the policy says
/// nothing, not even an error. Each policy is in one place that a request meets, or in none when its scope cannot hold.
pub(super) struct Index {
    authorizer: Authorizer,
    /// Policies whose scope names an entity, under that entity: a request meets those of its principal, of its resource and
    /// of their ancestors. A policy stands here once, however many actions it is about.
    named: HashMap<EntityUid, Vec<Bucket>>,
    /// All others, under every environment which their scope admits. Holds all environments, so that a request from outside
    /// the schema is seen to be one.
    open: HashMap<RequestEnv, PolicySet>,
}

/// Policies that name the same entity.
struct Bucket {
    /// The one action that they are about; none for those about several, and for few.
    action: Option<EntityUid>,
    policies: PolicySet,
}

impl Index {
    /// Places static policies.
    ///
    /// # Errors
    /// A message when a policy is linked to a template, or the schema's actions cannot be had.
    pub fn new(policies: &PolicySet, schema: &Schema) -> Result<Self, String> {
        let actions = schema.action_entities().map_err(|e| e.to_string())?;
        let mut named: HashMap<EntityUid, Vec<(Option<EntityUid>, &Policy)>> = HashMap::new();
        let mut open: HashMap<_, _> = schema.request_envs().map(|env| (env, PolicySet::new())).collect();
        for policy in policies.policies() {
            let scope = Scope::of(policy);
            if let Some(entity) = scope.name() {
                named.entry(entity.clone()).or_default().push((scope.only_action().cloned(), policy));
                continue;
            }
            for (_, set) in open.iter_mut().filter(|(env, _)| scope.admits(env, &actions)) {
                add(set, policy)?;
            }
        }
        let named = named.into_iter().map(|(entity, policies)| Ok((entity, buckets(policies)?))).collect::<Result<_, String>>()?;
        Ok(Self { authorizer: Authorizer::new(), named, open })
    }

    /// What the whole set would say. The request must have passed the schema, and the entities must hold the schema's
    /// actions; a request that no environment of the schema is for is denied unasked.
    pub fn authorize(&self, request: &Request, entities: &Entities) -> Answer {
        self.concerned(request, entities).map(|sets| united(&self.authorizer, sets, request, entities)).unwrap_or_default()
    }

    /// The whole set without the index, in the same shape.
    pub fn authorize_unindexed(policies: &PolicySet, request: &Request, entities: &Entities) -> Answer {
        united(&Authorizer::new(), iter::once(policies), request, entities)
    }

    fn concerned<'a>(&'a self, request: &'a Request, entities: &'a Entities) -> Option<impl Iterator<Item = &'a PolicySet>> {
        let (principal, action, resource) = (request.principal()?, request.action()?, request.resource()?);
        // Clones of names are counted references.
        let env = RequestEnv::new(principal.type_name().clone(), action.clone(), resource.type_name().clone());
        let open = self.open.get(&env)?;
        // Principal and resource are mostly children of one org.
        let met = move |entity: &EntityUid| entity == principal || entities.is_ancestor_of(entity, principal);
        let named = line(principal, entities)
            .chain(line(resource, entities).filter(move |entity| !met(entity)))
            .filter_map(|entity| self.named.get(entity))
            .flatten()
            .filter(move |bucket| bucket.action.as_ref().is_none_or(|only| only == action))
            .map(|bucket| &bucket.policies);
        Some(iter::once(open).filter(|set| !set.is_empty()).chain(named))
    }
}

/// An entity and its ancestors: everything that it is `in`. Itself always, as an entity without data is in itself too.
fn line<'a>(entity: &'a EntityUid, entities: &'a Entities) -> impl Iterator<Item = &'a EntityUid> {
    iter::once(entity).chain(entities.ancestors(entity).into_iter().flatten())
}

fn buckets(policies: Vec<(Option<EntityUid>, &Policy)>) -> Result<Vec<Bucket>, String> {
    let together = policies.len() <= TOGETHER_MAX;
    let mut buckets: Vec<Bucket> = Vec::new();
    for (action, policy) in policies {
        let action = action.filter(|_| !together);
        match buckets.iter_mut().find(|bucket| bucket.action == action) {
            Some(bucket) => add(&mut bucket.policies, policy)?,
            None => {
                let mut policies = PolicySet::new();
                add(&mut policies, policy)?;
                buckets.push(Bucket { action, policies });
            }
        }
    }
    Ok(buckets)
}

fn add(set: &mut PolicySet, policy: &Policy) -> Result<(), String> {
    set.add(policy.clone()).map_err(|e| e.to_string())
}

struct Scope {
    principal: PrincipalConstraint,
    action: ActionConstraint,
    resource: ResourceConstraint,
}

impl Scope {
    fn of(policy: &Policy) -> Self {
        Self { principal: policy.principal_constraint(), action: policy.action_constraint(), resource: policy.resource_constraint() }
    }

    /// The narrowest name counts: one entity before all that are in one, and who asks before what is asked about.
    fn name(&self) -> Option<&EntityUid> {
        use {PrincipalConstraint as P, ResourceConstraint as R};
        match (&self.principal, &self.resource) {
            (P::Eq(entity), _) | (_, R::Eq(entity)) | (P::In(entity) | P::IsIn(_, entity), _) | (_, R::In(entity) | R::IsIn(_, entity)) => {
                Some(entity)
            }
            (P::Any | P::Is(_), R::Any | R::Is(_)) => None,
        }
    }

    fn only_action(&self) -> Option<&EntityUid> {
        if let ActionConstraint::Eq(action) = &self.action { Some(action) } else { None }
    }

    /// Whether a scope without a name can hold in this environment.
    fn admits(&self, env: &RequestEnv, actions: &Entities) -> bool {
        let principal = if let PrincipalConstraint::Is(kind) = &self.principal { kind == env.principal() } else { true };
        let resource = if let ResourceConstraint::Is(kind) = &self.resource { kind == env.resource() } else { true };
        let is_in = |group: &EntityUid| group == env.action() || actions.is_ancestor_of(group, env.action());
        let action = match &self.action {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(action) => action == env.action(),
            ActionConstraint::In(groups) => groups.iter().any(is_in),
        };
        principal && action && resource
    }
}

/// Cedar's answer over the union of disjoint sets, from its answers over each.
fn united<'s>(authorizer: &Authorizer, sets: impl Iterator<Item = &'s PolicySet>, request: &Request, entities: &Entities) -> Answer {
    let (mut permits, mut forbids, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for set in sets {
        let response = authorizer.is_authorized(request, set, entities);
        // A set without a satisfied policy denies as well, and names nobody: it says nothing about the others.
        let reasons = if response.decision() == Decision::Allow { &mut permits } else { &mut forbids };
        reasons.extend(response.diagnostics().reason().cloned());
        errors.extend(
            response
                .diagnostics()
                .errors()
                .map(|AuthorizationError::PolicyEvaluationError(e)| (e.policy_id().clone(), e.inner().to_string())),
        );
    }
    let allowed = forbids.is_empty() && !permits.is_empty();
    let mut reasons = if forbids.is_empty() { permits } else { forbids };
    // Cedar's order changes with every load.
    reasons.sort_unstable();
    reasons.dedup();
    errors.sort_unstable();
    errors.dedup();
    Answer { allowed, reasons, errors }
}

#[cfg(test)]
mod tests;
