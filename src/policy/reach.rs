//! Which policies can decide a kind of request at all, told from scopes and types alone: what an `is`, an `==`, an `in` of a
//! role or an action's group settles before anything is known of the things themselves. Sound both ways: what it calls
//! settled holds for every request of that kind, everything else it leaves open. Floor 5.

use std::fmt;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint};
use serde_json::Value;

use super::decide::Base;
use super::vocabulary::{Environment, Vocabulary, short};

/// Operators are asked about role by role: that is where they differ.
const ROLE: &str = "Role";

/// One line of the law: a kind of request; of those who are in a role, one role's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Line {
    /// The kind of request.
    pub environment: Environment,
    /// The principal's one role.
    pub role: Option<String>,
}

impl Line {
    /// Every line, sorted.
    pub fn all() -> Vec<Self> {
        let words = Vocabulary::get();
        let mut all = Vec::new();
        for environment in words.environments() {
            let has_role = words.entities.get(&environment.principal).is_some_and(|shape| shape.parents.iter().any(|p| p == ROLE));
            let roles = words.entities.get(ROLE).and_then(|shape| shape.ids.as_deref()).filter(|_| has_role);
            match roles {
                None => all.push(Self { environment, role: None }),
                Some(roles) => all.extend(roles.iter().map(|role| Self { environment: environment.clone(), role: Some(role.clone()) })),
            }
        }
        all.sort();
        all
    }
}

impl From<Environment> for Line {
    fn from(environment: Environment) -> Self {
        Self { environment, role: None }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Environment { principal, action, resource } = &self.environment;
        match &self.role {
            Some(role) => write!(f, "{principal}({role}) {action} {resource}"),
            None => write!(f, "{principal} {action} {resource}"),
        }
    }
}

/// A policy, taken apart once.
pub(super) struct Clauses<'p> {
    pub policy: &'p Policy,
    pub permits: bool,
    principal: PrincipalConstraint,
    action: ActionConstraint,
    resource: ResourceConstraint,
    /// Each with what it has to come out as.
    conditions: Vec<(Value, bool)>,
}

impl<'p> Clauses<'p> {
    /// Every policy of a set, by id.
    pub fn of(set: &'p PolicySet) -> Vec<Self> {
        let mut all: Vec<Self> = set.policies().map(Self::new).collect();
        all.sort_unstable_by(|a, b| a.policy.id().cmp(b.policy.id()));
        all
    }

    fn new(policy: &'p Policy) -> Self {
        let mut json = policy.to_json().unwrap_or_default();
        let condition = |mut condition: Value| {
            let wanted = condition.get("kind").is_some_and(|kind| kind == "when");
            (condition.get_mut("body").map(Value::take).unwrap_or_default(), wanted)
        };
        let conditions = match json.get_mut("conditions").map(Value::take) {
            Some(Value::Array(all)) => all.into_iter().map(condition).collect(),
            // A policy that is not understood is left open.
            _ => vec![(Value::Null, true)],
        };
        Self {
            policy,
            permits: policy.effect() == Effect::Permit,
            principal: policy.principal_constraint(),
            action: policy.action_constraint(),
            resource: policy.resource_constraint(),
            conditions,
        }
    }

    /// Whether the policy applies to every request of the line, to none, or it depends.
    pub fn applies(&self, line: &Line, base: &Base) -> Option<bool> {
        let about = About { line, base };
        let scope = [about.principal(&self.principal), about.action(&self.action), about.resource(&self.resource)];
        if scope.contains(&Some(false)) {
            return Some(false);
        }
        for (condition, wanted) in &self.conditions {
            match about.holds(condition) {
                Some(holds) if holds != *wanted => return Some(false),
                Some(_) => {}
                // Whatever stands behind it may never be looked at: this one may err.
                None => return None,
            }
        }
        (!scope.contains(&None)).then_some(true)
    }

    /// True where the policy could match some request of the line, as far as types tell. What errs does not match, so an open
    /// part leaves the rest to be looked at.
    pub fn could_match(&self, line: &Line, base: &Base) -> bool {
        let about = About { line, base };
        let scope = [about.principal(&self.principal), about.action(&self.action), about.resource(&self.resource)];
        !scope.contains(&Some(false)) && self.conditions.iter().all(|(condition, wanted)| about.could(condition, *wanted))
    }
}

struct About<'a> {
    line: &'a Line,
    base: &'a Base,
}

impl About<'_> {
    fn principal(&self, scope: &PrincipalConstraint) -> Option<bool> {
        let kind = &self.line.environment.principal;
        match scope {
            PrincipalConstraint::Any => Some(true),
            PrincipalConstraint::Eq(uid) => is_one(kind, uid),
            PrincipalConstraint::In(uid) => self.is_in(kind, uid),
            PrincipalConstraint::Is(of) => Some(is_named(kind, &of.to_string())),
            PrincipalConstraint::IsIn(of, uid) => both(Some(is_named(kind, &of.to_string())), || self.is_in(kind, uid)),
        }
    }

    fn resource(&self, scope: &ResourceConstraint) -> Option<bool> {
        let kind = &self.line.environment.resource;
        match scope {
            ResourceConstraint::Any => Some(true),
            ResourceConstraint::Eq(uid) => is_one(kind, uid),
            ResourceConstraint::In(uid) => is_under(kind, uid),
            ResourceConstraint::Is(of) => Some(is_named(kind, &of.to_string())),
            ResourceConstraint::IsIn(of, uid) => both(Some(is_named(kind, &of.to_string())), || is_under(kind, uid)),
        }
    }

    fn action(&self, scope: &ActionConstraint) -> Option<bool> {
        let action = self.base.names.action.uid(&self.line.environment.action);
        Some(match scope {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => *uid == action,
            ActionConstraint::In(uids) => uids.iter().any(|uid| self.is_of_group(&action, uid)),
        })
    }

    fn is_of_group(&self, action: &EntityUid, group: &EntityUid) -> bool {
        action == group || self.base.actions.is_ancestor_of(group, action)
    }

    fn is_in(&self, kind: &str, uid: &EntityUid) -> Option<bool> {
        match &self.line.role {
            Some(role) if is_named(ROLE, &uid.type_name().to_string()) => Some(role == uid.id().unescaped()),
            _ => is_under(kind, uid),
        }
    }

    /// What a condition comes out as, for all requests of the line and without an error; none where that is not certain.
    fn holds(&self, condition: &Value) -> Option<bool> {
        let (operator, parts) = condition.as_object()?.iter().next()?;
        let (left, right) = (&parts["left"], &parts["right"]);
        match operator.as_str() {
            "Value" => parts.as_bool(),
            "!" => self.holds(&parts["arg"]).map(|holds| !holds),
            "&&" => both(self.holds(left), || self.holds(right)),
            "||" => either(self.holds(left), || self.holds(right)),
            "if-then-else" => self.holds(&parts[if self.holds(&parts["if"])? { "then" } else { "else" }]),
            "is" => {
                let of = is_named(self.kind(left)?, parts["entity_type"].as_str()?);
                match parts.get("in") {
                    None => Some(of),
                    Some(place) => both(Some(of), || self.compares("in", left, place)),
                }
            }
            "==" | "in" => self.compares(operator, left, right),
            "!=" => self.compares("==", left, right).map(|same| !same),
            _ => None,
        }
    }

    /// True where a condition could come out as wanted for some request of the line.
    fn could(&self, condition: &Value, wanted: bool) -> bool {
        let Some((operator, parts)) = condition.as_object().and_then(|parts| parts.iter().next()) else { return true };
        let (left, right) = (&parts["left"], &parts["right"]);
        match (operator.as_str(), wanted) {
            ("!", _) => self.could(&parts["arg"], !wanted),
            ("&&", true) | ("||", false) => self.could(left, wanted) && self.could(right, wanted),
            ("&&", false) | ("||", true) => self.could(left, wanted) || self.could(right, wanted),
            ("if-then-else", _) => {
                let branch = |chosen, name: &str| self.could(&parts["if"], chosen) && self.could(&parts[name], wanted);
                branch(true, "then") || branch(false, "else")
            }
            _ => self.holds(condition).is_none_or(|holds| holds == wanted),
        }
    }

    /// A variable against an entity, or a list of them.
    fn compares(&self, how: &str, variable: &Value, other: &Value) -> Option<bool> {
        if let Some(all) = other["Set"].as_array() {
            // Cedar looks at each until one is found; none of them errs.
            let each: Vec<Option<bool>> = all.iter().map(|one| self.compares(how, variable, one)).collect();
            return match how {
                "in" if each.contains(&Some(true)) => Some(true),
                "in" if !each.contains(&None) => Some(false),
                _ => None,
            };
        }
        let uid = EntityUid::from_json(other["Value"].get("__entity")?.clone()).ok()?;
        match (variable["Var"].as_str()?, how) {
            ("action", "==") => self.action(&ActionConstraint::Eq(uid)),
            ("action", _) => self.action(&ActionConstraint::In(vec![uid])),
            ("principal", "==") => self.principal(&PrincipalConstraint::Eq(uid)),
            ("principal", _) => self.principal(&PrincipalConstraint::In(uid)),
            ("resource", "==") => self.resource(&ResourceConstraint::Eq(uid)),
            ("resource", _) => self.resource(&ResourceConstraint::In(uid)),
            _ => None,
        }
    }

    fn kind(&self, variable: &Value) -> Option<&str> {
        match variable["Var"].as_str()? {
            "principal" => Some(&self.line.environment.principal),
            "resource" => Some(&self.line.environment.resource),
            _ => None,
        }
    }
}

/// As Cedar does: the second is not looked at where the first settles it, and an open first leaves it open, since it may err.
fn both(first: Option<bool>, second: impl FnOnce() -> Option<bool>) -> Option<bool> {
    if first? { second() } else { Some(false) }
}

fn either(first: Option<bool>, second: impl FnOnce() -> Option<bool>) -> Option<bool> {
    if first? { Some(true) } else { second() }
}

fn is_named(kind: &str, name: &str) -> bool {
    short(name) == kind
}

/// Things of a kind against one thing: none of another kind is it, and all are where there is no other of this kind.
fn is_one(kind: &str, uid: &EntityUid) -> Option<bool> {
    if !is_named(kind, &uid.type_name().to_string()) {
        return Some(false);
    }
    match Vocabulary::get().entities.get(kind)?.ids.as_deref() {
        Some([only]) => Some(only == uid.id().unescaped()),
        _ => None,
    }
}

fn is_under(kind: &str, uid: &EntityUid) -> Option<bool> {
    let name = uid.type_name().to_string();
    if is_named(kind, &name) {
        return is_one(kind, uid);
    }
    let mut open = vec![kind.to_owned()];
    let mut seen = Vec::new();
    while let Some(kind) = open.pop() {
        let parents = Vocabulary::get().entities.get(&kind).map_or(&[][..], |shape| &shape.parents);
        if parents.iter().any(|parent| is_named(parent, &name)) {
            return None;
        }
        open.extend(parents.iter().filter(|parent| !seen.contains(*parent)).cloned());
        seen.push(kind);
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::super::envelope::{ENVELOPE, parse};
    use super::super::index::Index;
    use super::super::law_tests::SCHEMA_FILE;
    use super::super::sample::Sampler;
    use super::*;

    fn law() -> Snapshot {
        Snapshot::load("policies".as_ref(), SCHEMA_FILE.as_ref(), Default::default()).unwrap()
    }

    /// What is said of a policy with this scope and these conditions about each line that is named.
    fn said(law: &Snapshot, policy: &str, lines: &[&str]) -> Vec<&'static str> {
        let set: PolicySet = format!("forbid {policy};").parse().unwrap();
        let clauses = Clauses::of(&set);
        let line = |text: &str| Line::all().into_iter().find(|line| line.to_string() == text).unwrap_or_else(|| panic!("{text}"));
        let word = |applies| match applies {
            Some(true) => "all",
            Some(false) => "none",
            None => "?",
        };
        lines.iter().map(|text| word(clauses[0].applies(&line(text), &law.law.base))).collect()
    }

    #[test]
    fn scopes_settle_what_they_can() {
        let law = law();
        let lines = [
            "Operator(viewer) ReadAudit Gateway",
            "OrgAgent SendMessage ByoaInstallation",
            "PlatformInstallation RouteMessage PlatformAgent",
        ];
        let of = |scope: &str| said(&law, &format!("({scope})"), &lines).join(" ");
        assert_eq!(of("principal, action, resource"), "all all all");
        assert_eq!(of("principal is Byoa::OrgAgent, action, resource"), "none all none");
        assert_eq!(of("principal in Byoa::Role::\"viewer\", action, resource"), "all none none");
        assert_eq!(of("principal in Byoa::Role::\"security\", action, resource"), "none none none");
        assert_eq!(of("principal in Byoa::Org::\"acme\", action, resource"), "none ? ?");
        assert_eq!(of("principal is Byoa::OrgAgent in Byoa::Org::\"acme\", action, resource"), "none ? none");
        assert_eq!(of("principal == Byoa::OrgAgent::\"bot\", action, resource"), "none ? none");
        assert_eq!(of("principal, action in Byoa::Action::\"Deliver\", resource"), "none all all");
        assert_eq!(of("principal, action in [Byoa::Action::\"View\", Byoa::Action::\"SendMessage\"], resource"), "all all none");
        assert_eq!(of("principal, action == Byoa::Action::\"RouteMessage\", resource"), "none none all");
        assert_eq!(of("principal, action, resource == Byoa::Gateway::\"byoa\""), "all none none");
        assert_eq!(of("principal, action, resource in Byoa::Gateway::\"byoa\""), "all none none");
        assert_eq!(of("principal, action, resource is Byoa::ByoaInstallation"), "none all none");
        assert_eq!(of("principal, action, resource is Byoa::ByoaInstallation in Byoa::Org::\"acme\""), "none ? none");
        assert_eq!(of("principal, action, resource == Byoa::ByoaInstallation::\"a\""), "none ? none");
    }

    #[test]
    fn conditions_settle_what_types_settle() {
        let law = law();
        let lines = [
            "Operator(viewer) ReadAudit Gateway",
            "OrgAgent SendMessage ByoaInstallation",
            "PlatformInstallation RouteMessage PlatformAgent",
        ];
        let of = |condition: &str| said(&law, &format!("(principal, action, resource) {condition}"), &lines).join(" ");
        assert_eq!(of("when { true } unless { false }"), "all all all");
        assert_eq!(of("when { principal is Byoa::OrgAgent }"), "none all none");
        assert_eq!(of("unless { principal is Byoa::OrgAgent || action == Byoa::Action::\"ReadAudit\" }"), "none none all");
        assert_eq!(of("when { !(resource is Byoa::PlatformAgent) && action != Byoa::Action::\"ReadAudit\" }"), "none all none");
        assert_eq!(of("when { action in [Byoa::Action::\"View\", Byoa::Action::\"RouteMessage\"] }"), "all none all");
        assert_eq!(of("when { principal in [Byoa::Role::\"viewer\", Byoa::Org::\"acme\"] }"), "all ? ?");
        assert_eq!(of("when { principal is Byoa::Operator in Byoa::Role::\"security\" }"), "none none none");
        assert_eq!(of("when { if principal is Byoa::Operator then resource == Byoa::Gateway::\"byoa\" else false }"), "all none none");
        assert_eq!(of("when { principal is Byoa::PlatformInstallation && principal.active }"), "none none ?");
        // What stands before may err, and an error is another answer.
        assert_eq!(of("when { context.n + 1 > 0 && false }"), "? ? ?");
        assert_eq!(of("when { context.n + 1 > 0 || true }"), "? ? ?");
        assert_eq!(of("when { context.n + 1 > 0 } unless { true }"), "? ? ?");
        assert_eq!(of("when { principal == resource }"), "? ? ?");
    }

    #[test]
    fn what_is_settled_holds_for_requests() {
        let law = law();
        let envelope = parse(ENVELOPE).unwrap();
        let sampler = Sampler::new(&[&law.law.policies]);
        // Forbids and permits apart: together, forbids hide which permits apply.
        let all = || law.law.policies.policies().chain(envelope.policies()).cloned();
        let sets = [Effect::Permit, Effect::Forbid].map(|e| PolicySet::from_policies(all().filter(|p| p.effect() == e)).unwrap());
        let clauses = [Clauses::of(&sets[0]), Clauses::of(&sets[1])];
        let mut settled = 0;
        for line in Line::all() {
            let sampler = line.role.as_deref().map_or_else(|| sampler.clone(), |role| sampler.of_role(role));
            let told =
                clauses.each_ref().map(|all| all.iter().map(|c| (c.policy.id(), c.applies(&line, &law.law.base))).collect::<Vec<_>>());
            for n in 0..3 {
                let (request, entities) = sampler.case(&line.environment, n).request(&law.law).unwrap();
                for (set, told) in sets.iter().zip(&told) {
                    let answer = Index::authorize_unindexed(set, &request, &entities);
                    for (id, applies) in told.iter().filter_map(|(id, applies)| Some((id, (*applies)?))) {
                        assert_eq!(applies, answer.reasons.contains(id), "{line}: {id}");
                        settled += 1;
                    }
                }
            }
        }
        assert!(settled > 10_000, "{settled}");
    }
}
