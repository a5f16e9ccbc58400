//! The mutants of a law, and where in the files stands what each of them leaves out. Policies are cut as Cedar's JSON, in
//! which a clause is a node: cutting one out leaves its neighbour. Floor 5.

use std::collections::{BTreeSet, HashMap};

use cedar_policy::{ActionConstraint, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint, Validator};
use serde_json::{Value, json};

use crate::policy::decide::{Law, Place};
use crate::policy::load::Sources;
use crate::policy::validate;
use crate::policy::vocabulary::{Environment, Vocabulary, short};

/// What sort of part was left out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// The whole policy.
    Policy,
    /// What the scope says of who asks.
    Principal,
    /// What the scope says of the action.
    Action,
    /// What the scope says of the resource.
    Resource,
    /// A whole `when` or `unless`.
    Condition,
    /// One side of an `&&` or an `||`.
    Clause,
}

/// The law with one part of one policy left out.
pub(super) struct Mutant {
    pub id: PolicyId,
    /// What is left of it.
    pub policy: Option<Policy>,
    pub part: Part,
    pub text: String,
    pub place: Place,
    /// The actions about which the policy or what is left of it can say something.
    actions: BTreeSet<String>,
}

impl Mutant {
    pub fn concerns(&self, action: &str) -> bool {
        self.actions.contains(action)
    }

    /// Whether a request of this kind can fit the scope, that of the policy or what is left of it.
    pub fn can_be_about(&self, environment: &Environment) -> bool {
        let fits = |policy: &Policy| {
            admits(policy, Part::Principal, &environment.principal) && admits(policy, Part::Resource, &environment.resource)
        };
        self.concerns(&environment.action) && self.policy.as_ref().is_none_or(fits)
    }

    /// The law with this in the policy's place.
    pub fn of(&self, law: &Law) -> Option<Law> {
        let others = law.policies.policies().filter(|p| *p.id() != self.id).chain(&self.policy).cloned();
        law.with(PolicySet::from_policies(others).ok()?).ok()
    }

    /// What it leaves out, in words.
    pub fn said(&self) -> String {
        match self.part {
            Part::Policy => format!("{} is there", self.id),
            _ => format!("{} asks for {}", self.id, self.text),
        }
    }
}

/// Every mutant that validates as the law does.
pub(super) fn mutants(law: &Law, sources: &Sources) -> Vec<Mutant> {
    let validator = Validator::new(law.base.schema.clone());
    let mut policies: Vec<&Policy> = law.policies.policies().collect();
    policies.sort_by_key(|policy| policy.id());
    let mut all = Vec::new();
    for policy in policies {
        let Some(place) = law.places.get(policy.id()) else { continue };
        let source = Text::of(policy.id(), place, law, sources);
        let mut add = |part: Part, text: String, line: usize, left: Option<Policy>| {
            let actions = actions(law, policy, left.as_ref());
            let place = Place { file: place.file.clone(), line };
            all.push(Mutant { id: policy.id().clone(), policy: left, part, text, place, actions });
        };
        add(Part::Policy, policy.id().to_string(), place.line, None);
        let Ok(json) = policy.to_json() else { continue };
        let mut seen = HashMap::new();
        for Cut { part, leaf, left } in scope_cuts(law, policy, &json).into_iter().chain(condition_cuts(&json)) {
            let Ok(left) = Policy::from_json(Some(policy.id().clone()), left) else { continue };
            let Ok(alone) = PolicySet::from_policies(std::iter::once(left.clone())) else { continue };
            let text = match part {
                Part::Principal | Part::Action | Part::Resource => scope_text(policy, part),
                _ => leaf.as_ref().and_then(clause_text).unwrap_or_default(),
            };
            // Of equal clauses the first is the first in the file, whether it was kept or not.
            let nth = seen.entry(text.clone()).or_insert(0);
            let line = source.line(&text, *nth);
            *nth += 1;
            if validate::passes(&validator, &alone) {
                add(part, text, line, Some(left));
            }
        }
    }
    all
}

/// One way to cut a policy.
struct Cut {
    part: Part,
    /// What is left out, where it is an expression.
    leaf: Option<Value>,
    left: Value,
}

/// The bounds of the scope that bound something.
fn scope_cuts(law: &Law, policy: &Policy, json: &Value) -> Vec<Cut> {
    let words = Vocabulary::get();
    let open = |part: &str| {
        let mut left = json.clone();
        left.as_object_mut().map(|left| left.insert(part.to_owned(), json!({"op": "All"})));
        left
    };
    let environments = words.environments();
    let sides = |e: &Environment| [admits(policy, Part::Principal, &e.principal), admits(policy, Part::Resource, &e.resource)];
    let widens = |part: Part| {
        environments.iter().any(|e| {
            let [principal, resource] = sides(e);
            let action = takes(law, policy, &e.action);
            match part {
                Part::Principal => !principal && action && resource,
                Part::Resource => principal && action && !resource,
                _ => principal && !action && resource,
            }
        })
    };
    let parts = [(Part::Principal, "principal"), (Part::Action, "action"), (Part::Resource, "resource")];
    let cuts = parts.into_iter().filter(|(part, _)| widens(*part) || names_one(policy, *part));
    cuts.map(|(part, key)| Cut { part, leaf: None, left: open(key) }).collect()
}

/// The principal's or the resource's constraint as a type and an id.
fn side(policy: &Policy, part: Part) -> (Option<String>, Option<(EntityUid, bool)>) {
    let kind = |name: &cedar_policy::EntityTypeName| Some(short(&name.to_string()).to_owned());
    if part == Part::Principal {
        match policy.principal_constraint() {
            PrincipalConstraint::Any => (None, None),
            PrincipalConstraint::Eq(uid) => (None, Some((uid, false))),
            PrincipalConstraint::In(uid) => (None, Some((uid, true))),
            PrincipalConstraint::Is(name) => (kind(&name), None),
            PrincipalConstraint::IsIn(name, uid) => (kind(&name), Some((uid, true))),
        }
    } else {
        match policy.resource_constraint() {
            ResourceConstraint::Any => (None, None),
            ResourceConstraint::Eq(uid) => (None, Some((uid, false))),
            ResourceConstraint::In(uid) => (None, Some((uid, true))),
            ResourceConstraint::Is(name) => (kind(&name), None),
            ResourceConstraint::IsIn(name, uid) => (kind(&name), Some((uid, true))),
        }
    }
}

/// Whether a thing of this type can fit.
fn admits(policy: &Policy, part: Part, kind: &str) -> bool {
    let (is, uid) = side(policy, part);
    let by_uid = uid.is_none_or(|(uid, within)| {
        let of = uid.type_name().to_string();
        let parents = Vocabulary::get().entities.get(kind).map_or(&[][..], |shape| &shape.parents);
        short(&of) == kind || (within && parents.iter().any(|parent| parent == short(&of)))
    });
    is.is_none_or(|is| is == kind) && by_uid
}

/// Whether it is about one thing of several: a type with one id is named by its id as well as by its type.
fn names_one(policy: &Policy, part: Part) -> bool {
    if part == Part::Action {
        return false;
    }
    let (_, uid) = side(policy, part);
    let is_only = |uid: &EntityUid| {
        let shape = Vocabulary::get().entities.get(short(&uid.type_name().to_string()));
        shape.and_then(|shape| shape.ids.as_ref()).is_some_and(|ids| ids.len() == 1)
    };
    uid.is_some_and(|(uid, _)| !is_only(&uid))
}

/// Whether the scope takes this action.
fn takes(law: &Law, policy: &Policy, action: &str) -> bool {
    let uid = law.base.names.action.uid(action);
    let within = |group: &EntityUid| *group == uid || law.base.actions.is_ancestor_of(group, &uid);
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(one) => one == uid,
        ActionConstraint::In(groups) => groups.iter().any(within),
    }
}

fn actions(law: &Law, policy: &Policy, left: Option<&Policy>) -> BTreeSet<String> {
    let all = Vocabulary::get().actions.keys();
    all.filter(|action| takes(law, policy, action) || left.is_some_and(|left| takes(law, left, action))).cloned().collect()
}

/// Each condition, and each side of what it joins.
fn condition_cuts(json: &Value) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let conditions = json.get("conditions").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (n, condition) in conditions.iter().enumerate() {
        let with = |body: Option<Value>| {
            let mut left = json.clone();
            let all = left.get_mut("conditions").and_then(Value::as_array_mut);
            match (all, body) {
                (Some(all), Some(body)) => {
                    let one = all.get_mut(n).and_then(Value::as_object_mut);
                    one.map(|one| one.insert("body".into(), body));
                }
                (Some(all), None) => drop(all.remove(n)),
                (None, _) => {}
            }
            left
        };
        let Some(body) = condition.get("body") else { continue };
        cuts.push(Cut { part: Part::Condition, leaf: Some(body.clone()), left: with(None) });
        for (leaf, left) in cut_out(body) {
            cuts.push(Cut { part: Part::Clause, leaf: Some(leaf), left: with(Some(left)) });
        }
    }
    cuts
}

/// Everything that stands on one side of an `&&` or an `||`, with what is left of the whole. A chain of the same word is one
/// list: of `a && b && c`, `a && b` is no part.
fn cut_out(whole: &Value) -> Vec<(Value, Value)> {
    let mut cuts = Vec::new();
    for word in ["&&", "||"] {
        let Some((left, right)) = whole.get(word).and_then(|sides| Some((sides.get("left")?, sides.get("right")?))) else { continue };
        for (side, other, is_left) in [(left, right, true), (right, left, false)] {
            if side.get(word).is_none() {
                cuts.push((side.clone(), other.clone()));
            }
            for (leaf, rest) in cut_out(side) {
                let (left, right) = if is_left { (rest, other.clone()) } else { (other.clone(), rest) };
                cuts.push((leaf, json!({ word: { "left": left, "right": right } })));
            }
        }
    }
    cuts
}

/// An expression as people write it: Cedar itself prints `a > b` as `!(a <= b)` and brackets everything.
fn clause_text(body: &Value) -> Option<String> {
    plain(body, 0).or_else(|| cedars(body))
}

/// The text, in brackets where what it stands in binds closer than `within`.
fn plain(body: &Value, within: u8) -> Option<String> {
    let (word, parts) = body.as_object()?.iter().next()?;
    let one = |key: &str, within| plain(parts.get(key)?, within);
    let joined = |word: &str, parts: &Value, binds: u8| {
        let side = |key: &str| plain(parts.get(key)?, binds);
        Some(format!("{} {word} {}", side("left")?, side("right")?))
    };
    let (text, binds) = match word.as_str() {
        "||" => (joined("||", parts, 1)?, 1),
        "&&" => (joined("&&", parts, 2)?, 2),
        "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" => (joined(word, parts, 4)?, 3),
        "is" => (format!("{} is {}", one("left", 4)?, parts.get("entity_type")?.as_str()?), 3),
        "!" => {
            let (inner, sides) = parts.get("arg")?.as_object()?.iter().next()?;
            let opposite = [("==", "!="), ("<=", ">"), ("<", ">=")].into_iter().find(|(one, _)| one == inner);
            match opposite {
                Some((_, word)) => (joined(word, sides, 4)?, 3),
                None => (format!("!{}", one("arg", 5)?), 4),
            }
        }
        "." => (format!("{}.{}", one("left", 5)?, parts.get("attr")?.as_str()?), 5),
        "contains" | "containsAll" | "containsAny" => (format!("{}.{word}({})", one("left", 5)?, one("right", 0)?), 5),
        "Var" => (parts.as_str()?.to_owned(), 5),
        _ => (cedars(body)?, 5),
    };
    Some(if binds < within { format!("({text})") } else { text })
}

/// The text as Cedar prints it.
fn cedars(body: &Value) -> Option<String> {
    let all = json!({"op": "All"});
    let policy = json!({
        "effect": "permit", "principal": all, "action": all, "resource": all,
        "conditions": [{"kind": "when", "body": body}],
    });
    let text = Policy::from_json(None, policy).ok()?.to_cedar()?;
    let inner = text.split_once('{')?.1.rsplit_once('}')?.0.trim();
    let is_enclosed = inner.starts_with('(') && inner.ends_with(')') && closes_last(inner);
    let inner = if is_enclosed { inner.get(1..inner.len() - 1)? } else { inner };
    Some(inner.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Whether the first bracket is the one that the last one closes.
fn closes_last(text: &str) -> bool {
    let mut depth = 0_i32;
    let first = text.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    first.is_some_and(|(at, _)| at + 1 == text.len())
}

fn scope_text(policy: &Policy, part: Part) -> String {
    let word = if part == Part::Principal { "principal" } else { "resource" };
    match (part, policy.action_constraint()) {
        (Part::Action, ActionConstraint::Eq(uid)) => format!("action == {uid}"),
        (Part::Action, ActionConstraint::In(groups)) => {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            match groups.as_slice() {
                [one] => format!("action in {one}"),
                several => format!("action in [{}]", several.join(", ")),
            }
        }
        (Part::Action, ActionConstraint::Any) => "action".into(),
        _ => match side(policy, part) {
            (Some(kind), Some((uid, _))) => format!("{word} is Byoa::{kind} in {uid}"),
            (Some(kind), None) => format!("{word} is Byoa::{kind}"),
            (None, Some((uid, true))) => format!("{word} in {uid}"),
            (None, Some((uid, false))) => format!("{word} == {uid}"),
            (None, None) => word.into(),
        },
    }
}

/// A policy's text, to find its clauses in.
struct Text {
    line: usize,
    /// Every character that says something, with its line.
    letters: Vec<(char, usize)>,
}

impl Text {
    fn of(id: &PolicyId, place: &Place, law: &Law, sources: &Sources) -> Self {
        let text = sources.files.iter().find(|source| source.file == place.file).map_or("", |source| &source.text);
        let next = law.places.iter().filter(|(other, p)| *other != id && p.file == place.file && p.line > place.line);
        let end = next.map(|(_, p)| p.line).min().unwrap_or(usize::MAX);
        let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(n, _)| (place.line..end).contains(n));
        let letters = lines.flat_map(|(n, line)| says(line).map(move |c| (c, n))).collect();
        Self { line: place.line, letters }
    }

    /// The line of the n-th place where this stands; the policy's where it is written otherwise.
    fn line(&self, text: &str, nth: usize) -> usize {
        let wanted: Vec<char> = says(text).collect();
        let is_there = |window: &&[(char, usize)]| window.iter().map(|(c, _)| c).eq(&wanted);
        if wanted.is_empty() {
            return self.line;
        }
        let mut found = self.letters.windows(wanted.len()).filter(is_there);
        let first = found.nth(nth).and_then(|window| window.first());
        first.map_or(self.line, |(_, line)| *line)
    }
}

/// Layout, brackets and `!(a == b)` for `a != b` are Cedar's in one text and people's in the other.
fn says(text: &str) -> impl Iterator<Item = char> + '_ {
    text.chars().filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | '[' | ']' | '!' | '=' | '<' | '>'))
}
