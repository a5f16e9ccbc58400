//! Why an answer is what it is: every policy that concerns a request, condition by condition, with the values that each of
//! them read. Explains what [`super::decide`] answered, decides nothing: the verdict is the law's own. Floor 5.

use std::cmp::Reverse;
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, Entities, EntityUid, EvalResult, EvaluationError, Policy, PrincipalConstraint, Request, ResourceConstraint,
    eval_expression,
};
use serde::Serialize;
use serde_json::Value;

use super::case::{Case, bare};
use super::decide::{Law, Place, Ruling};
use super::vocabulary::{Vocabulary, full, short};
use super::{Snapshot, envelope, est, limits};
use crate::domain::reason::ReasonCode;

/// What came out, and of which kind it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A permit matched, no forbid did, and the envelope admits it.
    Permitted,
    /// A policy could not be evaluated.
    Error,
    /// A forbid matched.
    Forbidden,
    /// The policies permit it, the gateway's own bounds do not.
    OutsideEnvelope,
    /// No permit matched, and no forbid.
    NotPermitted,
    /// The question does not fit the schema.
    NotApplicable,
}

/// What became of a condition, or of a whole policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It could not be evaluated.
    Error,
    /// It was not evaluated: what comes before it settled the matter, and it may rely on that.
    NotReached,
}

/// One answer with its reasons.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Explanation {
    /// What was asked.
    pub action: String,
    /// Who asked.
    pub principal: String,
    /// About what.
    pub resource: String,
    /// The kind of request.
    pub environment: String,
    /// What came out.
    pub verdict: Verdict,
    /// Why not; none for yes.
    pub code: Option<ReasonCode>,
    /// The code in words.
    pub meaning: Option<&'static str>,
    /// What went wrong, where something did.
    pub errors: Vec<String>,
    /// The policies that decided, sorted.
    pub deciding: Arc<[String]>,
    /// The law that was asked.
    pub version: Arc<str>,
    /// Every policy that the request is in the scope of: those that decided first, then the nearest.
    pub policies: Vec<Considered>,
    /// Where the policies permit and the envelope does not: its permits, the nearest first.
    pub envelope: Vec<Considered>,
}

/// A policy that concerns a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Considered {
    /// Its `@id`.
    pub id: String,
    /// `permit` or `forbid`.
    pub effect: &'static str,
    /// The file; none where it is part of the binary.
    pub file: Option<String>,
    /// The line, from 1.
    pub line: usize,
    /// Its `@reason`.
    pub reason: Option<String>,
    /// Whether it matched.
    pub outcome: Outcome,
    /// Its conditions.
    pub clauses: Vec<Clause>,
    /// How many parts of its conditions hold.
    pub held: usize,
    /// How many there are.
    pub parts: usize,
}

/// One `when` or `unless`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Clause {
    /// `when` or `unless`.
    pub kind: &'static str,
    /// What it joins with `&&`.
    pub parts: Vec<Part>,
}

/// One part of a condition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Part {
    /// As Cedar text.
    pub text: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it could not be evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it read.
    pub read: Vec<Read>,
    /// Where it joins alternatives with `||`: each of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub any_of: Vec<Vec<Part>>,
}

/// A value that was read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Read {
    /// `context.flag.stage`
    pub path: String,
    /// As people write it.
    pub value: String,
}

impl Snapshot {
    /// Asks the law and says why it answers so.
    ///
    /// # Errors
    /// What makes it no request at all: a principal or resource that is no entity.
    pub fn explain(&self, case: &Case) -> Result<Explanation, String> {
        limits::with_most_room(|| self.explained(case))
    }

    fn explained(&self, case: &Case) -> Result<Explanation, String> {
        for (what, uid) in [("principal", &case.principal), ("resource", &case.resource)] {
            uid.parse::<EntityUid>().map_err(|_| format!("{what} `{uid}` is no entity: write it like `Byoa::Org::\"acme\"`"))?;
        }
        let law = &self.law;
        let (request, entities) = match case.request(law) {
            Ok(asked) => asked,
            Err(unfit) => return Ok(self.inapplicable(case, unfit.0)),
        };
        let ruling = law.rule(&case.action, &request, &entities);
        let asked = Asked { request: &request, entities: &entities };
        let verdict = verdict(&ruling, law);
        let place = |policy: &Policy| law.places.get(policy.id()).cloned();
        let mut policies: Vec<Considered> = law.policies.policies().filter_map(|policy| asked.considered(policy, place(policy))).collect();
        let decided = |policy: &Considered| ruling.policies.contains(&policy.id);
        let far = if verdict == Verdict::NotPermitted { "forbid" } else { "permit" };
        policies.sort_by_cached_key(|p| {
            (!decided(p), p.outcome != Outcome::True, p.effect == far, Reverse((p.held * 100).checked_div(p.parts)), p.id.clone())
        });
        let mut bounds = Vec::new();
        if verdict == Verdict::OutsideEnvelope {
            bounds.extend(envelope::permits().policies().filter_map(|policy| asked.considered(policy, None)));
            bounds.sort_by_cached_key(|p| (Reverse((p.held * 100).checked_div(p.parts)), p.id.clone()));
        }
        let Ruling { code, policies: deciding, errors } = ruling;
        Ok(Explanation {
            verdict,
            code,
            meaning: code.map(ReasonCode::meaning),
            errors,
            deciding,
            policies,
            envelope: bounds,
            ..self.blank(case)
        })
    }

    /// The same for a question that never became a request, and why not.
    pub fn inapplicable(&self, case: &Case, why: String) -> Explanation {
        let code = ReasonCode::PolicyNotApplicable;
        Explanation { code: Some(code), meaning: Some(code.meaning()), errors: vec![why], ..self.blank(case) }
    }

    fn blank(&self, case: &Case) -> Explanation {
        Explanation {
            action: case.action.clone(),
            principal: case.principal.clone(),
            resource: case.resource.clone(),
            environment: case.environment().to_string(),
            verdict: Verdict::NotApplicable,
            code: None,
            meaning: None,
            errors: vec![],
            deciding: Arc::new([]),
            version: Arc::clone(&self.law.version),
            policies: vec![],
            envelope: vec![],
        }
    }
}

fn verdict(ruling: &Ruling, law: &Law) -> Verdict {
    let forbids = |id: &String| law.policies.policies().any(|p| p.id().to_string() == *id && p.effect() == Effect::Forbid);
    match ruling.code {
        None => Verdict::Permitted,
        Some(_) if !ruling.errors.is_empty() => Verdict::Error,
        // A forbid may carry any code, so the code does not tell.
        Some(_) if ruling.policies.iter().any(forbids) => Verdict::Forbidden,
        Some(ReasonCode::PolicyOutsideEnvelope) => Verdict::OutsideEnvelope,
        Some(_) => Verdict::NotPermitted,
    }
}

/// A request with everything known of it.
struct Asked<'r> {
    request: &'r Request,
    entities: &'r Entities,
}

impl Asked<'_> {
    /// The policy, where the request is in its scope.
    fn considered(&self, policy: &Policy, place: Option<Place>) -> Option<Considered> {
        if !self.in_scope(policy) {
            return None;
        }
        let mut outcome = Outcome::True;
        let (mut held, mut count) = (0, 0);
        let clauses = est::clauses(policy)
            .iter()
            .map(|clause| {
                let (parts, body) = self.all_of(&clause.body, outcome == Outcome::True);
                let (true_parts, all) = (parts.iter().filter(|p| p.outcome == Outcome::True).count(), parts.len());
                let stays = match body {
                    Outcome::True if clause.when => Outcome::True,
                    Outcome::False if !clause.when => Outcome::True,
                    Outcome::True | Outcome::False => Outcome::False,
                    other => other,
                };
                // An `unless` counts as one: either it lets the policy be or not.
                (held, count) =
                    if clause.when { (held + true_parts, count + all) } else { (held + usize::from(stays == Outcome::True), count + 1) };
                if outcome == Outcome::True {
                    outcome = stays;
                }
                Clause { kind: if clause.when { "when" } else { "unless" }, parts }
            })
            .collect();
        let id: &str = policy.id().as_ref();
        let (file, line) = match place {
            Some(place) => (Some(place.file), place.line),
            None => (None, line_of(envelope::ENVELOPE, id)),
        };
        Some(Considered {
            id: id.to_owned(),
            effect: if policy.effect() == Effect::Permit { "permit" } else { "forbid" },
            file,
            line,
            reason: policy.annotation("reason").map(str::to_owned),
            outcome,
            clauses,
            held,
            parts: count,
        })
    }

    fn in_scope(&self, policy: &Policy) -> bool {
        let (Some(principal), Some(action), Some(resource)) = (self.request.principal(), self.request.action(), self.request.resource())
        else {
            return false;
        };
        let under = |uid: &EntityUid, of: &EntityUid| uid == of || self.entities.is_ancestor_of(of, uid);
        let who = match policy.principal_constraint() {
            PrincipalConstraint::Any => true,
            PrincipalConstraint::Eq(uid) => *principal == uid,
            PrincipalConstraint::In(uid) => under(principal, &uid),
            PrincipalConstraint::Is(kind) => *principal.type_name() == kind,
            PrincipalConstraint::IsIn(kind, uid) => *principal.type_name() == kind && under(principal, &uid),
        };
        let does = match policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(uid) => *action == uid,
            ActionConstraint::In(uids) => uids.iter().any(|uid| under(action, uid)),
        };
        let what = match policy.resource_constraint() {
            ResourceConstraint::Any => true,
            ResourceConstraint::Eq(uid) => *resource == uid,
            ResourceConstraint::In(uid) => under(resource, &uid),
            ResourceConstraint::Is(kind) => *resource.type_name() == kind,
            ResourceConstraint::IsIn(kind, uid) => *resource.type_name() == kind && under(resource, &uid),
        };
        who && does && what
    }

    /// The parts that `&&` joins, up to the first that is not true.
    fn all_of(&self, expression: &Value, reached: bool) -> (Vec<Part>, Outcome) {
        let mut outcome = if reached { Outcome::True } else { Outcome::NotReached };
        let parts = est::parts(expression, "&&")
            .into_iter()
            .map(|part| {
                let part = self.part(part, outcome == Outcome::True);
                if outcome == Outcome::True {
                    outcome = part.outcome;
                }
                part
            })
            .collect();
        (parts, outcome)
    }

    fn part(&self, expression: &Value, reached: bool) -> Part {
        let text = est::text(expression);
        if !reached {
            return Part { text, outcome: Outcome::NotReached, error: None, read: vec![], any_of: vec![] };
        }
        let (outcome, error) = match self.evaluated(&text) {
            Ok(EvalResult::Bool(true)) => (Outcome::True, None),
            Ok(EvalResult::Bool(false)) => (Outcome::False, None),
            Ok(other) => (Outcome::Error, Some(format!("it is {} and neither true nor false", shown(&other)))),
            Err(error) => (Outcome::Error, Some(error)),
        };
        let alternatives = est::parts(expression, "||");
        if alternatives.len() == 1 {
            return Part { text, outcome, error, read: self.read(expression), any_of: vec![] };
        }
        // Up to the first that is not false: an error ends it too.
        let mut open = true;
        let any_of = alternatives
            .into_iter()
            .map(|alternative| {
                let (parts, came) = self.all_of(alternative, open);
                open = open && came == Outcome::False;
                parts
            })
            .collect();
        Part { text, outcome, error, read: vec![], any_of }
    }

    fn evaluated(&self, text: &str) -> Result<EvalResult, String> {
        let expression = est::expression(text).ok_or_else(|| format!("`{text}` does not read back as Cedar"))?;
        eval_expression(self.request, self.entities, &expression).map_err(|e: EvaluationError| e.to_string())
    }

    fn read(&self, expression: &Value) -> Vec<Read> {
        let within = est::operator(expression).is_some_and(|(name, on)| name == "in" || (name == "is" && on.get("in").is_some()));
        let value = |path: &String| match self.evaluated(path) {
            Ok(EvalResult::EntityUid(uid)) if within => self.with_parents(&uid),
            Ok(value) => shown(&value),
            // What `has` asks for, and what is behind a condition that kept it from being read.
            Err(_) => "absent".to_owned(),
        };
        est::paths(expression).iter().map(|path| Read { path: path.clone(), value: value(path) }).collect()
    }

    /// An entity, and what it is in: what `in` looks at.
    fn with_parents(&self, uid: &EntityUid) -> String {
        let mut parents: Vec<String> = self.entities.ancestors(uid).into_iter().flatten().map(entity).collect();
        parents.sort_unstable();
        if parents.is_empty() { entity(uid) } else { format!("{} in {}", entity(uid), parents.join(", ")) }
    }
}

/// Where a policy of the binary stands in its text.
fn line_of(text: &str, id: &str) -> usize {
    let annotation = format!("@id({})", est::quoted(id));
    text.lines().position(|line| line.starts_with(&annotation)).map_or(1, |at| at + 1)
}

/// A value as people write it: words of a closed list as words, types without the namespace.
fn shown(value: &EvalResult) -> String {
    match value {
        EvalResult::Bool(value) => value.to_string(),
        EvalResult::Long(number) => number.to_string(),
        EvalResult::String(text) | EvalResult::ExtensionValue(text) => est::quoted(text),
        EvalResult::EntityUid(uid) => entity(uid),
        EvalResult::Set(items) => {
            let mut items: Vec<String> = items.iter().map(shown).collect();
            items.sort_unstable();
            format!("[{}]", items.join(", "))
        }
        EvalResult::Record(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{}: {}", est::quoted(name), shown(value))).collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

fn entity(uid: &EntityUid) -> String {
    let kind = uid.type_name().to_string();
    let listed = Vocabulary::get().entities.get(short(&kind)).is_some_and(|shape| shape.ids.is_some());
    let id = est::quoted(uid.id().unescaped());
    if listed { id } else { format!("{}::{id}", short(&kind)) }
}

impl Case {
    /// Reads a request as people write it, or a recorded decision as `byoa get decisions ID -o json` prints it.
    ///
    /// # Errors
    /// What of it is no request.
    pub fn written(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("a request is a JSON object with action, principal, resource, context and entities")?;
        let action = object.get("action").ok_or("there is no `action`")?;
        let action = match action {
            Value::String(name) => name.rsplit("::").next().unwrap_or_default().trim_matches('"').to_owned(),
            other => uid("action", other)?.id().unescaped().to_owned(),
        };
        let side = |name: &'static str| uid(name, object.get(name).ok_or(format!("there is no `{name}`"))?).map(|uid| uid.to_string());
        let (principal, resource) = (side("principal")?, side("resource")?);
        if let Some(facts) = object.get("facts") {
            return Self::recorded(&action, &principal, &resource, &facts.to_string());
        }
        const FIELDS: [&str; 5] = ["action", "principal", "resource", "context", "entities"];
        if let Some(other) = object.keys().find(|key| !FIELDS.contains(&key.as_str())) {
            return Err(format!("`{other}` is not known; a request has {}", FIELDS.join(", ")));
        }
        let or = |name: &str, nothing: Value| object.get(name).filter(|v| !v.is_null()).cloned().unwrap_or(nothing);
        Ok(Self {
            action,
            principal,
            resource,
            context: or("context", Value::Object(Default::default())),
            entities: or("entities", Value::Array(vec![])),
        })
    }
}

/// `Byoa::Org::"acme"`, `Org::"acme"` or `{"type": "Org", "id": "acme"}`.
fn uid(name: &str, value: &Value) -> Result<EntityUid, String> {
    let form = format!("`{name}` is `Byoa::Org::\"acme\"`, `Org::\"acme\"` or {{\"type\": \"Org\", \"id\": \"acme\"}}, not {value}");
    let text = match value {
        Value::String(text) => full(bare(text)),
        _ => {
            let value = value.get("__entity").unwrap_or(value);
            match (value["type"].as_str(), value["id"].as_str()) {
                // As a typed value, so that an id is an id whatever it looks like.
                (Some(kind), Some(id)) => format!("{}::{}", full(bare(kind)), est::quoted(id)),
                _ => return Err(form),
            }
        }
    };
    text.parse().map_err(|_| form)
}

#[cfg(test)]
mod tests;
