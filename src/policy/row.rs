//! A question and its answer as a row of a decision table: what a proof, a diff or a surviving mutant hands to people, to be
//! pasted under `rows:` as it is. Writes what [`super::table`] reads, and leaves out what that derives: actions, words that
//! the schema lists, things without attributes, parents that follow from `org`. Floor 5.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::str::FromStr;

use cedar_policy::EntityUid;
use serde_json::Value;

use super::case::Case;
use super::decide::Ruling;
use super::vocabulary::{EntityShape, Vocabulary, short};
use crate::domain::reason::ReasonCode;

/// The answer that a row wants, or that it got.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Want {
    /// Yes or no.
    pub allow: bool,
    /// Why not; none for yes.
    pub code: Option<ReasonCode>,
    /// The policies that decide: these and no others, sorted.
    pub policies: Vec<String>,
}

impl Want {
    /// What was ruled.
    pub fn of(ruling: &Ruling) -> Self {
        Self { allow: ruling.code.is_none(), code: ruling.code, policies: ruling.policies.to_vec() }
    }

    /// The same as a row writes it.
    pub fn written(&self) -> String {
        let policies: Vec<String> = self.policies.iter().map(|id| scalar(id)).collect();
        let policies = policies.join(", ");
        match self.code {
            None => format!("{{decision: allow, policies: [{policies}]}}"),
            Some(code) => format!("{{decision: refuse, code: {code}, policies: [{policies}]}}"),
        }
    }
}

impl std::fmt::Display for Want {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            None => f.write_str("allow")?,
            Some(code) => write!(f, "refuse {code}")?,
        }
        match self.policies.as_slice() {
            [] => f.write_str(" by no policy"),
            policies => write!(f, " by {}", policies.join(", ")),
        }
    }
}

/// A thing's name as Cedar's JSON writes it: its type without the namespace, and its id.
pub(super) type Name = (String, String);

/// The case as a row under `rows:`, indented by two, that needs nothing from its table.
pub fn as_row(name: &str, case: &Case, want: &Want) -> String {
    as_row_without(name, case, &[], want)
}

/// The same of the law with these policies taken out.
pub(super) fn as_row_without(name: &str, case: &Case, without: &[String], want: &Want) -> String {
    let words = Vocabulary::get();
    let mut row = String::new();
    // Writing into a String does not fail.
    let _ = writeln!(row, "  - name: {}\n    ask: {}", scalar(name), scalar(&case.action));
    let _ = writeln!(row, "    principal: {}\n    resource: {}", thing_named(&case.principal), thing_named(&case.resource));
    let known = reached(case);
    let given: Vec<String> = known.entities.iter().filter_map(|(name, entity)| given(words, name, entity)).collect();
    let absent = known.absent.iter().filter(|(kind, _)| has_attributes(words, kind)).map(|(kind, id)| format!("{}: null", thing(kind, id)));
    let given: Vec<String> = given.into_iter().chain(absent).collect();
    if !given.is_empty() {
        let _ = writeln!(row, "    given:\n      {}", given.join("\n      "));
    }
    let context = context(words, case);
    if !context.is_empty() {
        let _ = writeln!(row, "    context: {{{}}}", context.join(", "));
    }
    if !without.is_empty() {
        let without: Vec<String> = without.iter().map(|id| scalar(id)).collect();
        let _ = writeln!(row, "    without: [{}]", without.join(", "));
    }
    let _ = writeln!(row, "    want: {}", want.written());
    row
}

/// What of a case's entities the question leads to, and what it leads to in vain.
///
/// A policy gets nowhere else: entities written in policies cannot be read, and what stands in a set can only be compared.
pub(super) struct Reached<'c> {
    pub entities: Vec<(Name, &'c Value)>,
    pub absent: BTreeSet<Name>,
}

pub(super) fn reached(case: &Case) -> Reached<'_> {
    let listed = case.entities.as_array().map_or(&[][..], Vec::as_slice);
    let mut all: BTreeMap<Name, &Value> = BTreeMap::new();
    for entity in listed {
        all.extend(entity_name(entity.get("uid").unwrap_or(&Value::Null)).map(|name| (name, entity)));
    }
    let mut seen: BTreeSet<Name> = BTreeSet::new();
    let ends = [&case.principal, &case.resource].into_iter().filter_map(|uid| parsed(uid));
    let mut open: VecDeque<Name> = ends.chain(names_in(&case.context)).collect();
    let mut absent = BTreeSet::new();
    while let Some(name) = open.pop_front() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(entity) = all.get(&name) else {
            absent.insert(name);
            continue;
        };
        open.extend(names_in(entity.get("attrs").unwrap_or(&Value::Null)));
        open.extend(parents(entity));
    }
    let entities = listed.iter().filter_map(|entity| {
        let name = entity_name(entity.get("uid")?)?;
        seen.contains(&name).then_some((name, entity))
    });
    Reached { entities: entities.collect(), absent }
}

/// The things that a record's attributes are, one by one; sets lead nowhere.
fn names_in(record: &Value) -> impl Iterator<Item = Name> + '_ {
    record.as_object().into_iter().flatten().filter_map(|(_, value)| entity_name(value))
}

fn parents(entity: &Value) -> impl Iterator<Item = Name> + '_ {
    entity.get("parents").and_then(Value::as_array).into_iter().flatten().filter_map(entity_name)
}

/// Both forms that Cedar reads.
pub(super) fn entity_name(value: &Value) -> Option<Name> {
    let inner = value.get("__entity").unwrap_or(value);
    Some((short(inner.get("type")?.as_str()?).to_owned(), inner.get("id")?.as_str()?.to_owned()))
}

fn parsed(uid: &str) -> Option<Name> {
    let uid = EntityUid::from_str(uid).ok()?;
    Some((short(&uid.type_name().to_string()).to_owned(), uid.id().unescaped().to_owned()))
}

fn has_attributes(words: &Vocabulary, kind: &str) -> bool {
    !words.fields(kind).is_empty()
}

/// The parents that follow from what an entity is: the org it carries, where its type can be a child of one.
pub(super) fn derived(shape: &EntityShape, org: Option<&str>) -> Option<Name> {
    let org = org.filter(|_| shape.parents.iter().any(|p| p == "Org"))?;
    Some(("Org".to_owned(), org.to_owned()))
}

/// The key under which a thing's parent of an enumerated type is given: `Role` as `role`.
pub(super) fn parent_key(kind: &str) -> String {
    let mut letters = kind.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

fn given(words: &Vocabulary, (kind, id): &Name, entity: &Value) -> Option<String> {
    let shape = words.entities.get(kind).filter(|shape| shape.ids.is_none() && !(shape.fields.is_empty() && shape.parents.is_empty()))?;
    let attrs = entity.get("attrs").unwrap_or(&Value::Null);
    let mut parts: Vec<String> = attrs.as_object().into_iter().flatten().map(|(key, v)| format!("{}: {}", scalar(key), value(v))).collect();
    let org = attrs.get("org").and_then(entity_name).map(|(_, id)| id);
    let derived = derived(shape, org.as_deref());
    let is_word = |kind: &str| words.entities.get(kind).is_some_and(|shape| shape.ids.is_some());
    let parents: BTreeSet<Name> = parents(entity).collect();
    let of_words: Vec<&Name> = parents.iter().filter(|(kind, _)| is_word(kind)).collect();
    let others: BTreeSet<&Name> = parents.iter().filter(|(kind, _)| !is_word(kind)).collect();
    for kind in shape.parents.iter().filter(|kind| is_word(kind)) {
        let ids: Vec<String> = of_words.iter().filter(|(k, _)| k == kind).map(|(_, id)| scalar(id)).collect();
        match ids.as_slice() {
            [] => {}
            [one] => parts.push(format!("{}: {one}", parent_key(kind))),
            several => parts.push(format!("{}: [{}]", parent_key(kind), several.join(", "))),
        }
    }
    // The gateway never asks so; a solver may.
    if others != derived.iter().collect() {
        let others: Vec<String> = others.iter().map(|(kind, id)| thing(kind, id)).collect();
        parts.push(format!("in: [{}]", others.join(", ")));
    }
    Some(format!("{}: {{{}}}", thing(kind, id), parts.join(", ")))
}

/// Optional keys that the case lacks are said to be absent: a table's defaults could bring them.
fn context(words: &Vocabulary, case: &Case) -> Vec<String> {
    let there = case.context.as_object();
    let written = there.into_iter().flatten().map(|(key, v)| format!("{}: {}", scalar(key), value(v)));
    let optional = words.actions.get(&case.action).into_iter().flat_map(|action| &action.context).filter(|field| !field.required);
    let absent = optional.filter(|field| there.is_none_or(|there| !there.contains_key(&field.name))).map(|f| format!("{}: null", f.name));
    written.chain(absent).collect()
}

fn value(json: &Value) -> String {
    match json {
        Value::Bool(_) | Value::Number(_) | Value::Null => json.to_string(),
        Value::String(text) => scalar(text),
        Value::Array(all) => format!("[{}]", all.iter().map(value).collect::<Vec<_>>().join(", ")),
        // The attribute's type says what it is one of.
        Value::Object(_) => entity_name(json).map_or_else(|| json.to_string(), |(_, id)| scalar(&id)),
    }
}

fn thing_named(uid: &str) -> String {
    parsed(uid).map_or_else(|| scalar(uid), |(kind, id)| thing(&kind, &id))
}

fn thing(kind: &str, id: &str) -> String {
    scalar(&format!("{kind} {id}"))
}

/// A YAML scalar that reads as this text, in whichever place: plain where no reader could take it for something else.
pub(super) fn scalar(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '.' | '_' | '-' | '/' | '@' | '+' | '(' | ')'))
        && !is_special(text);
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            c if c.is_alphanumeric() => quoted.push(c),
            c => {
                let _ = write!(quoted, "\\U{:08X}", u32::from(c));
            }
        }
    }
    quoted.push('"');
    quoted
}

/// A word that some reader of YAML takes for a truth or for nothing.
pub(super) fn is_special(word: &str) -> bool {
    ["true", "false", "yes", "no", "on", "off", "y", "n", "null"].iter().any(|special| special.eq_ignore_ascii_case(word)) || word == "~"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn org(id: &str) -> Value {
        json!({"type": "Byoa::Org", "id": id})
    }

    #[test]
    fn a_case_becomes_a_row() {
        let case = Case {
            action: "RouteMessage".into(),
            principal: "Byoa::ByoaInstallation::\"acme-slack\"".into(),
            resource: "Byoa::OrgAgent::\"support\"".into(),
            context: json!({
                "eventType": {"__entity": {"type": "Byoa::EventType", "id": "message.received"}},
                "fromBot": false,
                "freshness": {"__entity": {"type": "Byoa::Freshness", "id": "fresh"}},
                "conversation": "C1: \"off\"\u{85}",
            }),
            entities: json!([
                {"uid": org("acme"), "attrs": {"suspended": false, "fallbackOptIn": [{"__entity": {"type": "Byoa::Provider", "id": "slack"}}]}, "parents": []},
                {"uid": org("nobody's"), "attrs": {"suspended": false, "fallbackOptIn": []}, "parents": []},
                {"uid": {"type": "Byoa::ByoaInstallation", "id": "acme-slack"},
                 "attrs": {"provider": {"__entity": {"type": "Byoa::Provider", "id": "slack"}}, "owner": {"__entity": org("globex")}, "org": {"__entity": org("acme")}, "active": true},
                 "parents": [org("acme")]},
                {"uid": {"type": "Byoa::OrgAgent", "id": "support"}, "attrs": {"org": {"__entity": org("acme")}}, "parents": [org("globex"), org("acme")]},
                {"uid": {"type": "Byoa::Action", "id": "RouteMessage"}, "attrs": {}, "parents": []},
            ]),
        };
        let want = Want { allow: true, code: None, policies: vec!["route.byoa".into()] };
        insta::assert_snapshot!(as_row("off: a \"row\"", &case, &want), @r#"
        - name: "off: a \"row\""
          ask: RouteMessage
          principal: ByoaInstallation acme-slack
          resource: OrgAgent support
          given:
            Org acme: {suspended: false, fallbackOptIn: [slack]}
            ByoaInstallation acme-slack: {provider: slack, owner: globex, org: acme, active: true}
            OrgAgent support: {org: acme, in: [Org acme, Org globex]}
            Org globex: null
          context: {eventType: message.received, fromBot: false, freshness: fresh, conversation: "C1: \"off\"\U00000085", conversationKind: null}
          want: {decision: allow, policies: [route.byoa]}
        "#);
    }

    #[test]
    fn an_answer_is_said_and_written() {
        let no = Want { allow: false, code: Some(ReasonCode::PolicyNoPermit), policies: vec![] };
        assert_eq!(no.to_string(), "refuse policy.no_permit by no policy");
        assert_eq!(no.written(), "{decision: refuse, code: policy.no_permit, policies: []}");
    }
}
