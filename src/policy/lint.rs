//! What the house asks of a policy beyond Cedar: a name and a reason, a code where it refuses, an org's file that stays
//! within its org, no forbid that can err, nothing that contradicts itself. Looks at one policy at a time and at nothing
//! else. Floor 5.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, PrincipalConstraint, ResourceConstraint, Schema};
use serde_json::{Value, json};

use super::entities::Names;
use super::load::{House, Rule, Source};
use super::{SCHEMA, est, orgs};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

const ANNOTATIONS: [&str; 7] = ["id", "reason", "code", "mode", "owner", "ticket", "until"];
const ID_CHARS_MAX: usize = 96;

/// Every fault of one policy.
pub(super) fn lint(policy: &Policy, source: &Source, names: &Names) -> Vec<(Rule, String)> {
    if source.house == House::Gateway {
        return vec![];
    }
    let mut faults = annotations(policy);
    if let Some(id) = policy.annotation("id").filter(|id| !is_of_house(id, &source.house)) {
        let fault = match &source.house {
            House::Org(org) => format!("`@id(\"{id}\")`: the ids of an org's policies begin with `{}`", orgs::prefix(org)),
            _ => format!("`@id(\"{id}\")`: `org.` begins the ids of orgs' policies, in `orgs/<org>/`"),
        };
        faults.push((Rule::Id, fault));
    }
    let forbids = policy.effect() == Effect::Forbid;
    if !forbids && is_unconditional(policy) {
        faults.push((Rule::Unconditional, "a permit without scope and without condition permits everything".into()));
    }
    if let House::Org(org) = &source.house {
        if !forbids {
            faults.push((Rule::OrgScope, "an org's file may only narrow: it holds forbids, no permits".into()));
        }
        if !is_scoped_to(policy, org, names) {
            faults.push((
                Rule::OrgScope,
                format!("an org's policy names its org in the scope: `principal in Byoa::Org::\"{org}\"`, or `resource in …`"),
            ));
        }
        if let Some(fault) = reaches_beyond(policy, org, names) {
            faults.push((Rule::OrgScope, fault));
        }
    }
    let clauses = est::clauses(policy);
    if forbids {
        faults.extend(clauses.iter().filter_map(|clause| may_err(&clause.body)).map(|what| (Rule::MayErr, what)));
    }
    faults.extend(contradictions(&clauses).into_iter().map(|what| (Rule::Types, what)));
    faults
}

fn annotations(policy: &Policy) -> Vec<(Rule, String)> {
    let mut faults: Vec<(Rule, String)> = Vec::new();
    let forbids = policy.effect() == Effect::Forbid;
    for (key, _) in policy.annotations().filter(|(key, _)| !ANNOTATIONS.contains(key)) {
        faults.push((
            Rule::Annotation,
            format!("annotation `@{key}` is not known; there are {}", ANNOTATIONS.map(|a| format!("@{a}")).join(", ")),
        ));
    }
    match policy.annotation("id") {
        None => faults.push((Rule::Id, "the policy has no `@id`".into())),
        Some(id) if !is_name(id) => {
            faults.push((Rule::Id, format!("`@id(\"{id}\")` is no name: use 1 to {ID_CHARS_MAX} of a-z 0-9 . _ -")))
        }
        Some(_) => {}
    }
    if policy.annotation("reason").is_none_or(|r| r.trim().is_empty()) {
        faults.push((Rule::Reason, "the policy has no `@reason`: one sentence for people".into()));
    }
    match policy.annotation("code") {
        None if forbids => faults.push((Rule::Code, "a forbid needs a `@code`: the reason code of its refusals".into())),
        Some(code) if ReasonCode::parse(code).is_none() => faults.push((Rule::Code, format!("`@code(\"{code}\")` is no reason code"))),
        Some(_) if !forbids => faults.push((Rule::Code, "only a forbid has a `@code`".into())),
        Some(code) if ReasonCode::parse(code).is_some_and(|code| !code.usable_by_policies()) => {
            let usable: Vec<&str> = ReasonCode::ALL.iter().filter(|c| c.usable_by_policies()).map(|c| c.as_str()).collect();
            faults.push((Rule::Code, format!("`@code(\"{code}\")` is the gateway's own; a policy may use {}", usable.join(", "))));
        }
        _ => {}
    }
    if policy.annotation("until").is_some_and(|until| Timestamp::parse(until).is_none()) {
        faults.push((
            Rule::Until,
            "`@until` is a time like 2026-11-27T18:00:00Z: from then on the policy is no part of the policy set".into(),
        ));
    }
    if policy.annotation("mode").is_some_and(|mode| mode != "enforce") {
        // Evaluated anyway it would say more than its author meant.
        faults.push((Rule::Mode, "`@mode` can only be \"enforce\": this build evaluates every policy".into()));
    }
    faults
}

fn is_scoped_to(policy: &Policy, org: &OrgId, names: &Names) -> bool {
    let resource = match policy.resource_constraint() {
        ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => is_org(&uid, org, names),
        _ => false,
    };
    is_asked_by(policy, org, names) || resource
}

/// True where it is about what the org's own installations and agents ask.
fn is_asked_by(policy: &Policy, org: &OrgId, names: &Names) -> bool {
    match policy.principal_constraint() {
        PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => is_org(&uid, org, names),
        _ => false,
    }
}

fn is_org(uid: &EntityUid, org: &OrgId, names: &Names) -> bool {
    names.org.is_of(uid) && uid.id().unescaped() == org.as_str()
}

/// True where an `@id` is one that files of this house may use. No two houses share one.
pub(super) fn is_of_house(id: &str, house: &House) -> bool {
    match house {
        House::Platform => !id.starts_with("org."),
        House::Org(org) => id.starts_with(&orgs::prefix(org)),
        House::Gateway => true,
    }
}

/// The actions that an org's policy may name: everything that moves a tenant's messages, and the rollout's question. What
/// operators do is none of them, so no org locks an operator out.
static OF_ORGS: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let Ok((schema, _)) = Schema::from_cedarschema_str(SCHEMA) else { return HashSet::new() };
    let Ok(actions) = schema.action_entities() else { return HashSet::new() };
    let id = |uid: &EntityUid| uid.id().unescaped().to_owned();
    let delivers = actions
        .iter()
        .map(|action| action.uid())
        .filter(|uid| id(uid) == DELIVER || actions.ancestors(uid).into_iter().flatten().any(|group| id(group) == DELIVER));
    delivers.map(|uid| id(&uid)).chain([ENTER_ROLLOUT.to_owned()]).collect()
});
const DELIVER: &str = "Deliver";
const ENTER_ROLLOUT: &str = "EnterRollout";

/// Where an org's policy is about an action that is not the org's. Without an action it is about all that its principals and
/// resources can have, and a resource of the org can have an operator's.
fn reaches_beyond(policy: &Policy, org: &OrgId, names: &Names) -> Option<String> {
    let named = match policy.action_constraint() {
        ActionConstraint::Any if is_asked_by(policy, org, names) => return None,
        ActionConstraint::Any => {
            return Some(format!(
                "an org's policy that does not begin with `principal in Byoa::Org::\"{org}\"` names its actions: \
                 `action in Byoa::Action::\"{DELIVER}\"`"
            ));
        }
        ActionConstraint::Eq(action) => vec![action],
        ActionConstraint::In(actions) => actions,
    };
    let beyond = named.iter().find(|action| !OF_ORGS.contains(action.id().unescaped()))?;
    Some(format!("an org's policy names actions of `{DELIVER}` and `{ENTER_ROLLOUT}` only, and `{}` is none", beyond.id().unescaped()))
}

/// A name that people can say, and that cannot be mistaken for another by its looks.
pub(super) fn is_name(id: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(fits)
}

/// Anybody, on anything, always; `when { true }` is no condition either.
fn is_unconditional(policy: &Policy) -> bool {
    let open = policy.principal_constraint() == PrincipalConstraint::Any
        && policy.action_constraint() == ActionConstraint::Any
        && policy.resource_constraint() == ResourceConstraint::Any;
    open && est::clauses(policy).iter().all(|clause| clause.body == json!({"Value": clause.when}))
}

/// Methods of extension values that have an answer for every value; the others can overflow.
const NEVER_ERR: [&str; 15] = [
    "isIpv4",
    "isIpv6",
    "isLoopback",
    "isMulticast",
    "isInRange",
    "lessThan",
    "lessThanOrEqual",
    "greaterThan",
    "greaterThanOrEqual",
    "toTime",
    "toMilliseconds",
    "toSeconds",
    "toMinutes",
    "toHours",
    "toDays",
];

/// What of a condition could err. Validation proves that what is read is there and of its type; it does not prove that a
/// sum fits.
fn may_err(expression: &Value) -> Option<String> {
    let (name, on) = est::operator(expression)?;
    let what = match name {
        "+" | "-" | "*" => Some(format!("`{name}` can overflow")),
        // `-5` is a number; of numbers only the least has no negative.
        "neg" if on.pointer("/arg/Value").and_then(Value::as_i64).is_none_or(|n| n == i64::MIN) => {
            Some("a unary `-` can overflow".to_owned())
        }
        "ip" | "decimal" | "datetime" | "duration" => {
            let plain = on.pointer("/0/Value").is_some_and(Value::is_string);
            (!plain).then(|| format!("`{name}(…)` of anything but a literal can fail"))
        }
        _ if on.is_array() && name != "Set" && !NEVER_ERR.contains(&name) => Some(format!("`.{name}(…)` can overflow")),
        _ => None,
    };
    let said = |what| {
        format!("{what} in `{}`, and a policy that errs refuses everything it concerns: compare what is there", est::text(expression))
    };
    what.map(said).or_else(|| est::children(expression).into_iter().find_map(may_err))
}

/// One thing that must hold: an expression that is to be true, or false.
type Must<'e> = (&'e Value, bool);

/// What can never hold together. Cedar's validator finds what is impossible by type; this finds what contradicts itself.
fn contradictions(clauses: &[est::Clause]) -> Vec<String> {
    let mut faults = Vec::new();
    let musts = clauses.iter().map(|clause| (&clause.body, clause.when)).collect();
    chain(&Held::default(), musts, "this can never match", &mut faults);
    faults
}

/// Adds what must hold to what is known to hold, then looks into each alternative with all of it known.
fn chain<'e>(known: &Held<'e>, musts: Vec<Must<'e>>, what: &str, faults: &mut Vec<String>) {
    let mut held = known.clone();
    let mut alternatives: Vec<Vec<Must<'e>>> = Vec::new();
    let mut waiting: Vec<Must<'e>> = musts.into_iter().rev().collect();
    while let Some((expression, must)) = waiting.pop() {
        match (est::operator(expression), must) {
            (Some(("!", on)), _) => waiting.push((&on["arg"], !must)),
            (Some(("&&", on)), true) | (Some(("||", on)), false) => {
                waiting.push((&on["right"], must));
                waiting.push((&on["left"], must));
            }
            (Some((name @ ("||" | "&&"), _)), _) => {
                alternatives.push(est::parts(expression, name).into_iter().map(|part| (part, must)).collect());
            }
            _ => {
                if let Some(other) = held.add(expression, must) {
                    faults.push(format!("{what}: `{other}` and `{}`", shown((expression, must))));
                    return;
                }
            }
        }
    }
    for alternative in alternatives.into_iter().flatten() {
        chain(&held, vec![alternative], "one of the alternatives can never match", faults);
    }
}

fn shown((expression, must): Must<'_>) -> String {
    if must { est::text(expression) } else { est::text(&json!({"!": {"arg": expression}})) }
}

/// What is known to hold, by the text of what it says, each with where that comes from.
#[derive(Clone, Default)]
struct Held<'e> {
    truths: HashMap<String, (bool, Must<'e>)>,
    /// The literal that something equals.
    equals: HashMap<String, (&'e Value, Must<'e>)>,
    /// Not less than, not more than.
    bounds: HashMap<String, [Option<(i128, Must<'e>)>; 2]>,
}

impl<'e> Held<'e> {
    /// Takes it in; else what that is known contradicts it.
    fn add(&mut self, expression: &'e Value, must: bool) -> Option<String> {
        let new = (expression, must);
        let (name, on) = est::operator(expression)?;
        let (left, right) = (&on["left"], &on["right"]);
        match name {
            "Value" => None,
            "==" | "!=" => self.equality(left, right, (name == "==") == must, new),
            "<" => self.order(left, right, must, new),
            ">" => self.order(right, left, must, new),
            // Not less is the other way round or equal.
            "<=" => self.order(right, left, !must, new),
            ">=" => self.order(left, right, !must, new),
            _ => self.truth(est::text(expression), must, new),
        }
    }

    fn truth(&mut self, of: String, value: bool, new: Must<'e>) -> Option<String> {
        let (known, from) = *self.truths.entry(of).or_insert((value, new));
        (known != value).then(|| shown(from))
    }

    fn equality(&mut self, left: &'e Value, right: &'e Value, equal: bool, new: Must<'e>) -> Option<String> {
        let (of, value) = match (literal(left), literal(right)) {
            (_, Some(value)) => (est::text(left), value),
            (Some(value), None) => (est::text(right), value),
            (None, None) => {
                let mut sides = [est::text(left), est::text(right)];
                sides.sort_unstable();
                return self.truth(sides.join(" == "), equal, new);
            }
        };
        if let Value::Bool(value) = value {
            return self.truth(of, *value == equal, new);
        }
        if !equal {
            return self.truth(format!("{of} == {value}"), false, new);
        }
        let (known, from) = *self.equals.entry(of.clone()).or_insert((value, new));
        if known != value {
            return Some(shown(from));
        }
        let number = value.as_i64().map(i128::from);
        self.truth(format!("{of} == {value}"), true, new).or_else(|| self.bound(&of, number, number, new))
    }

    /// `low < high`, or not.
    fn order(&mut self, low: &'e Value, high: &'e Value, must: bool, new: Must<'e>) -> Option<String> {
        let number = |side: &Value| literal(side).and_then(Value::as_i64).map(i128::from);
        match (number(low), number(high)) {
            (None, Some(n)) if must => self.bound(&est::text(low), None, Some(n - 1), new),
            (None, Some(n)) => self.bound(&est::text(low), Some(n), None, new),
            (Some(n), None) if must => self.bound(&est::text(high), Some(n + 1), None, new),
            (Some(n), None) => self.bound(&est::text(high), None, Some(n), new),
            _ => self.truth(format!("{} < {}", est::text(low), est::text(high)), must, new),
        }
    }

    fn bound(&mut self, of: &str, least: Option<i128>, most: Option<i128>, new: Must<'e>) -> Option<String> {
        let [known_least, known_most] = self.bounds.entry(of.to_owned()).or_default();
        let beyond =
            |known: &Option<(i128, Must<'e>)>, is: &dyn Fn(i128) -> bool| known.filter(|(n, _)| is(*n)).map(|(_, from)| shown(from));
        let against = least
            .and_then(|least| beyond(known_most, &|most| least > most))
            .or_else(|| most.and_then(|most| beyond(known_least, &|least| most < least)));
        if against.is_some() {
            return against;
        }
        if let Some(least) = least.filter(|least| known_least.is_none_or(|(known, _)| *least > known)) {
            *known_least = Some((least, new));
        }
        if let Some(most) = most.filter(|most| known_most.is_none_or(|(known, _)| *most < known)) {
            *known_most = Some((most, new));
        }
        None
    }
}

fn literal(expression: &Value) -> Option<&Value> {
    est::operator(expression).and_then(|(name, value)| (name == "Value").then_some(value))
}

#[cfg(test)]
mod tests {
    use super::super::law_tests::Disk;

    /// What is said of a forbid or permit with this condition.
    fn said(effect: &str, conditions: &[&str]) -> String {
        let mut all = Vec::new();
        for condition in conditions {
            let disk = Disk::empty();
            let (code, scope) = match effect {
                "forbid" => (
                    " @code(\"policy.forbidden\")",
                    "principal is Byoa::ByoaInstallation, action == Byoa::Action::\"UseFallback\", resource",
                ),
                _ => ("", "principal is Byoa::ByoaInstallation, action == Byoa::Action::\"UseFallback\", resource"),
            };
            disk.write("a.cedar", &format!("@id(\"a\") @reason(\"r\"){code}\n{effect} ({scope})\n{condition};"));
            all.push(match disk.load() {
                Ok(_) => format!("fine: {condition}"),
                Err(error) => error.diagnostics.iter().map(|d| format!("{:?}: {}", d.rule, d.message)).collect::<Vec<_>>().join("\n"),
            });
        }
        all.join("\n--\n")
    }

    #[test]
    fn a_forbid_that_can_err_is_refused() {
        insta::assert_snapshot!(said("forbid", &[
            "when { context.bucket + 1 > 50 }",
            "unless { principal.active && (context.bucket > 5 || context.bucket * 2 > 50) }",
            "when { 9223372036854775807 + 1 > 0 }",
            "when { -context.bucket < -5 }",
            "when { -(-9223372036854775808) > context.bucket }",
            "when { [context.bucket - 1].contains(3) }",
            "when { datetime(\"2026-01-01\").offset(duration(\"1h\")) > datetime(\"2026-01-01\") }",
            "when { ip(context.flag.provider) == ip(\"10.0.0.0\") }",
            "when { context.bucket > -5 && -(3) < context.bucket }",
            "when { ip(\"10.0.0.1\").isInRange(ip(\"10.0.0.0/8\")) && [1].contains(context.bucket) }",
        ]), @r#"
        MayErr: `+` can overflow in `context.bucket + 1`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: `*` can overflow in `context.bucket * 2`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: `+` can overflow in `9223372036854775807 + 1`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: a unary `-` can overflow in `-(context.bucket)`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: a unary `-` can overflow in `-(-9223372036854775808)`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: `-` can overflow in `context.bucket - 1`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: `.offset(…)` can overflow in `datetime("2026-01-01").offset(duration("1h"))`, and a policy that errs refuses everything it concerns: compare what is there
        --
        MayErr: `ip(…)` of anything but a literal can fail in `ip(context.flag.provider)`, and a policy that errs refuses everything it concerns: compare what is there
        Types: for policy `a`, extension constructors may not be called with non-literal expressions (consider applying extension constructors inside attribute values when constructing entity or context data)
        --
        fine: when { context.bucket > -5 && -(3) < context.bucket }
        --
        fine: when { ip("10.0.0.1").isInRange(ip("10.0.0.0/8")) && [1].contains(context.bucket) }
        "#);
    }

    #[test]
    fn a_permit_may_compute() {
        assert!(said("permit", &["when { context.bucket + 1 > 50 }"]).starts_with("fine"));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        insta::assert_snapshot!(said("permit", &[
            "when { context.flag.stage == Byoa::Stage::\"on\" && principal.active && Byoa::Stage::\"off\" == context.flag.stage }",
            "when { principal.active } unless { principal.active || context.bindingAllows }",
            "when { principal.active && !principal.active }",
            "when { principal.active == false && principal.active }",
            "when { principal.org == resource.org && resource.org != principal.org }",
            "when { context.bucket < 5 && context.bucket > 10 }",
            "when { context.bucket < 5 && context.bucket >= 5 }",
            "when { 5 > context.bucket && !(context.bucket < 5) }",
            "when { context.bucket == 7 && context.bucket <= 6 }",
            "when { context.bucket == 7 && context.bucket != 7 }",
            "when { context.bucket < context.flag.percent && context.flag.percent <= context.bucket }",
            "when { principal.active && (context.bindingAllows || !principal.active && resource.active) }",
            "unless { !(principal.active && context.bindingAllows) || !context.bindingAllows && resource.active || !resource.active || context.bindingAllows }",
        ]), @r#"
        Types: this can never match: `context.flag.stage == Byoa::Stage::"on"` and `Byoa::Stage::"off" == context.flag.stage`
        --
        Types: this can never match: `principal.active` and `!principal.active`
        --
        Types: this can never match: `principal.active` and `!principal.active`
        --
        Types: this can never match: `principal.active == false` and `principal.active`
        --
        Types: this can never match: `principal.org == resource.org` and `resource.org != principal.org`
        --
        Types: this can never match: `context.bucket < 5` and `context.bucket > 10`
        --
        Types: this can never match: `context.bucket < 5` and `context.bucket >= 5`
        --
        Types: this can never match: `5 > context.bucket` and `!(context.bucket < 5)`
        --
        Types: this can never match: `context.bucket == 7` and `context.bucket <= 6`
        --
        Types: this can never match: `context.bucket == 7` and `context.bucket != 7`
        --
        Types: this can never match: `context.bucket < context.flag.percent` and `context.flag.percent <= context.bucket`
        --
        Types: one of the alternatives can never match: `principal.active` and `!principal.active`
        --
        Types: this can never match: `context.bindingAllows` and `!context.bindingAllows`
        "#);
    }

    #[test]
    fn what_only_looks_like_it_is_not() {
        let fine = said(
            "permit",
            &[
                "when { context.bucket < 5 || context.bucket > 10 }",
                "when { context.bucket > 4 && context.bucket < 6 && context.bucket == 5 && context.bucket >= 5 && 5 >= context.bucket }",
                "when { principal.active && principal.active && principal.active == true }",
                "when { context.flag.stage != Byoa::Stage::\"on\" && context.flag.stage != Byoa::Stage::\"off\" }",
                "when { principal.active && resource.active } unless { !principal.active || !resource.active }",
                "when { (principal.active && context.bindingAllows) || (!principal.active && !context.bindingAllows) }",
                "when { context.bucket < context.flag.percent && context.bucket <= context.flag.percent }",
            ],
        );
        assert!(fine.split("\n--\n").all(|said| said.starts_with("fine")), "{fine}");
    }
}
