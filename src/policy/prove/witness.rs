//! A solver's model as a question that can be asked: read as a [`Case`], cut to what the question leads to, given names that
//! people can tell apart, and asked of the real law. Floor 5.

use std::collections::BTreeMap;
use std::str::FromStr;

use cedar_policy::{Entities, EntityUid, Request};
use cedar_policy_symcc::Env;
use serde_json::Value;

use super::super::case::Case;
use super::super::decide::Law;
use super::super::index::Index;
use super::super::row::{Name, entity_name, reached};
use super::super::vocabulary::{Environment, Vocabulary, full, short};
use super::Said;

const ORG: &str = "Org";
const ORGS: [&str; 4] = ["acme", "globex", "initech", "hooli"];

/// A question with what the real law needs to answer it.
pub(super) struct Asked {
    pub case: Case,
    pub request: Request,
    pub entities: Entities,
}

/// The model as a question that bears out what the solver says, and what it comes to. Tried first with names that people
/// can tell apart and every child under its own org, as the gateway would ask; else as the solver made it up.
pub(super) fn believed<T>(
    environment: &Environment,
    model: &Env,
    law: &Law,
    judge: impl Fn(&Asked) -> Option<T>,
) -> Result<(Asked, T), String> {
    let case = case(environment, model)?;
    let tidy = asked(tidied(&case), law).ok();
    if let Some((asked, came)) = tidy.and_then(|asked| judge(&asked).map(|came| (asked, came))) {
        return Ok((asked, came));
    }
    let asked = asked(case, law)?;
    match judge(&asked) {
        Some(came) => Ok((asked, came)),
        None => {
            let policies = asked.of_policies(law);
            Err(format!("the solver's request {} does not bear it out: asked of Cedar, the policies say {policies}", asked.case))
        }
    }
}

fn asked(case: Case, law: &Law) -> Result<Asked, String> {
    let (request, entities) = case.request(law).map_err(|unfit| format!("the solver's request is none: {unfit}"))?;
    Ok(Asked { case, request, entities })
}

impl Asked {
    /// What Cedar says of the policies alone.
    pub fn of_policies(&self, law: &Law) -> Said {
        let answer = Index::authorize_unindexed(&law.policies, &self.request, &self.entities);
        let policies = answer.reasons.iter().map(ToString::to_string).collect();
        let errors = answer.errors.into_iter().map(|(_, what)| what).collect();
        Said { allow: answer.allowed, code: None, policies, errors }
    }

    /// What the gateway answers.
    pub fn of_gateway(&self, law: &Law) -> Said {
        Said::from(&law.rule(&self.case.action, &self.request, &self.entities))
    }
}

fn case(environment: &Environment, model: &Env) -> Result<Case, String> {
    let unread = |what: &dyn std::fmt::Display| format!("the solver's request cannot be read: {what}");
    let Env { request, entities } = model;
    let (Some(principal), Some(resource), Some(context)) = (request.principal(), request.resource(), request.context()) else {
        return Err(unread(&"a part of it is not known"));
    };
    let mut case = Case {
        action: environment.action.clone(),
        principal: principal.to_string(),
        resource: resource.to_string(),
        context: context.to_json_value().map_err(|e| unread(&e))?,
        entities: entities.to_json_value().map_err(|e| unread(&e))?,
    };
    cut(&mut case);
    Ok(case)
}

/// Takes away what the question does not lead to, and what says nothing: words that the schema lists, and things of which
/// nothing can be known. Nothing is missing: a model has an entity for each name that occurs in it.
fn cut(case: &mut Case) {
    let words = Vocabulary::get();
    let says = |kind: &str| {
        words.entities.get(kind).is_some_and(|shape| shape.ids.is_none() && !(shape.fields.is_empty() && shape.parents.is_empty()))
    };
    let mut all: Vec<Value> =
        reached(case).entities.into_iter().filter(|((kind, _), _)| says(kind)).map(|(_, entity)| entity.clone()).collect();
    // Cedar lists both in an order of its own.
    all.sort_by_key(|entity| entity.get("uid").map(Value::to_string));
    for parents in all.iter_mut().filter_map(|entity| entity.get_mut("parents")?.as_array_mut()) {
        parents.sort_by_key(Value::to_string);
    }
    case.entities = Value::Array(all);
}

/// Makes a thing a child of the org that it carries, where its type can be, and of no other.
fn under_its_org(words: &Vocabulary, kind: &str, entity: &mut Value) {
    let is_child = words.entities.get(kind).is_some_and(|shape| shape.parents.iter().any(|parent| parent == ORG));
    let org = entity.pointer("/attrs/org").and_then(|org| org.get("__entity")).cloned();
    let (true, Some(org), Some(parents)) = (is_child, org, entity.get_mut("parents").and_then(Value::as_array_mut)) else { return };
    parents.retain(|parent| entity_name(parent).is_none_or(|(kind, _)| kind != ORG));
    parents.push(org);
}

/// The same with other ids: a solver's are empty, or letters that mean nothing.
fn tidied(case: &Case) -> Case {
    let words = Vocabulary::get();
    let mut names = Names { words, given: BTreeMap::new() };
    let mut case = case.clone();
    for uid in [&mut case.principal, &mut case.resource] {
        if let Ok(parsed) = EntityUid::from_str(uid) {
            let kind = short(&parsed.type_name().to_string()).to_owned();
            // The new names need no escapes.
            *uid = format!("{}::\"{}\"", full(&kind), names.of((kind, parsed.id().unescaped().to_owned())));
        }
    }
    names.within(&mut case.context);
    names.within(&mut case.entities);
    for entity in case.entities.as_array_mut().into_iter().flatten() {
        if let Some((kind, _)) = entity.get("uid").and_then(entity_name) {
            under_its_org(words, &kind, entity);
        }
    }
    case
}

/// New names for old.
struct Names<'w> {
    words: &'w Vocabulary,
    given: BTreeMap<Name, String>,
}

/// `OrgAgent` as `org-agent`.
fn dashed(kind: &str) -> String {
    let mut all = String::new();
    for c in kind.chars() {
        if c.is_ascii_uppercase() && !all.is_empty() {
            all.push('-');
        }
        all.push(c.to_ascii_lowercase());
    }
    all
}

impl Names<'_> {
    fn of(&mut self, old: Name) -> String {
        if self.words.entities.get(&old.0).is_none_or(|shape| shape.ids.is_some()) {
            return old.1;
        }
        if let Some(new) = self.given.get(&old) {
            return new.clone();
        }
        let before = self.given.keys().filter(|(kind, _)| *kind == old.0).count();
        let new = match ORGS.get(before).filter(|_| old.0 == ORG) {
            Some(org) => (*org).to_owned(),
            None => format!("{}-{}", dashed(&old.0), before + 1),
        };
        self.given.insert(old, new.clone());
        new
    }

    fn within(&mut self, json: &mut Value) {
        match json {
            Value::Array(all) => all.iter_mut().for_each(|item| self.within(item)),
            Value::Object(fields) => {
                let text = |key: &str| fields.get(key).and_then(Value::as_str);
                let name = text("type").zip(text("id")).map(|(kind, id)| (short(kind).to_owned(), id.to_owned()));
                match (name, fields.get_mut("id")) {
                    (Some(name), Some(id)) => *id = Value::String(self.of(name)),
                    _ => fields.values_mut().for_each(|field| self.within(field)),
                }
            }
            _ => {}
        }
    }
}
