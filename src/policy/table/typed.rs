//! What stands in a table, held to the schema: the type of an attribute says how its value is written. Every fault says
//! what would be right. Knows nothing of rows. Floor 5.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Value, json};

use super::Fault;
use super::node::{Is, Key, Node};
use crate::policy::row::{Name, derived, parent_key};
use crate::policy::vocabulary::{ActionShape, EntityShape, Field, Kind, Vocabulary, full};

/// The key for parents that do not follow from `org`: damaged records.
const PARENTS: &str = "in";

/// What is known of one thing.
#[derive(Clone, Default, Debug)]
pub(super) struct Thing {
    attrs: BTreeMap<String, Value>,
    /// Words it is a child of, by their type: an operator's roles.
    words: BTreeMap<String, Vec<String>>,
    /// Its other parents, where they are not what `org` says.
    parents: Option<Vec<Name>>,
}

/// A change of what is known of one thing.
#[derive(Clone, Debug)]
pub(super) enum Patch {
    /// Nothing is known of it any more.
    Gone,
    Set {
        attrs: BTreeMap<String, Option<Value>>,
        words: BTreeMap<String, Vec<String>>,
        parents: Option<Vec<Name>>,
    },
}

impl Patch {
    pub fn over(&self, thing: Option<&Thing>) -> Option<Thing> {
        let Self::Set { attrs, words, parents } = self else { return None };
        let mut thing = thing.cloned().unwrap_or_default();
        for (name, value) in attrs {
            match value {
                Some(value) => thing.attrs.insert(name.clone(), value.clone()),
                None => thing.attrs.remove(name),
            };
        }
        thing.words.extend(words.clone());
        thing.parents = parents.clone().or(thing.parents);
        Some(thing)
    }
}

impl Thing {
    /// The first attribute that it lacks.
    pub fn lacks<'f>(&self, shape: &'f EntityShape) -> Option<&'f Field> {
        shape.fields.iter().find(|field| field.required && !self.attrs.contains_key(&field.name))
    }

    /// The things that it leads to: its attributes, one by one, and its parents. What is in a set can only be compared.
    pub fn leads_to(&self, shape: &EntityShape) -> Vec<Name> {
        let of_attrs = self.attrs.values().filter_map(crate::policy::row::entity_name);
        of_attrs.chain(self.parents(shape)).collect()
    }

    fn parents(&self, shape: &EntityShape) -> Vec<Name> {
        let org = self.attrs.get("org").and_then(crate::policy::row::entity_name).map(|(_, id)| id);
        let others = self.parents.clone().unwrap_or_else(|| derived(shape, org.as_deref()).into_iter().collect());
        let words = self.words.iter().flat_map(|(kind, ids)| ids.iter().map(move |id| (kind.clone(), id.clone())));
        words.chain(others).collect()
    }

    /// As Cedar reads it.
    pub fn json(&self, name: &Name, shape: &EntityShape) -> Value {
        let parents: Vec<Value> = self.parents(shape).iter().map(uid).collect();
        json!({ "uid": uid(name), "attrs": self.attrs, "parents": parents })
    }
}

fn uid((kind, id): &Name) -> Value {
    json!({ "type": full(kind), "id": id })
}

/// `Byoa::OrgAgent::"support"`, as Cedar prints it.
pub(super) fn written((kind, id): &Name) -> String {
    format!("{}::\"{}\"", full(kind), id.escape_debug())
}

/// The reader of typed values.
#[derive(Clone, Copy)]
pub(super) struct Typed(pub &'static Vocabulary);

impl Typed {
    pub fn shape(self, kind: &str) -> Option<&'static EntityShape> {
        self.0.entities.get(kind)
    }

    pub fn action(self, node: &Node) -> Result<&'static str, Fault> {
        let text = node.text()?;
        let known = self.0.actions.get_key_value(text).map(|(name, _)| name.as_str());
        known.ok_or_else(|| node.fault(format!("there is no action `{text}`{}", hint(text, self.0.actions.keys()))))
    }

    pub fn action_shape(self, action: &str) -> &'static [Field] {
        self.0.actions.get(action).map_or(&[], |shape: &ActionShape| &shape.context)
    }

    /// `Type id`.
    pub fn name(self, text: &str, range: &Range<usize>) -> Result<Name, Fault> {
        let fault = |message: String| Fault { range: range.clone(), message };
        let (kind, id) = text.split_once(' ').unwrap_or((text, ""));
        let Some(shape) = self.shape(kind) else {
            let kinds = hint(kind, self.0.entities.keys());
            return Err(fault(format!(
                "there is no type `{kind}`{kinds}; a thing is written as its type and its id, like `OrgAgent support`"
            )));
        };
        if id.is_empty() {
            return Err(fault(format!("`{text}` names no thing: write the type and the id, like `{kind} one`")));
        }
        if let Some(ids) = shape.ids.as_ref().filter(|ids| !ids.iter().any(|known| known == id)) {
            return Err(fault(format!("there is no {kind} `{id}`: there is {}", listed(ids))));
        }
        Ok((kind.to_owned(), id.to_owned()))
    }

    pub fn thing(self, node: &Node) -> Result<Name, Fault> {
        self.name(node.text()?, &node.range)
    }

    /// A value of this kind, as Cedar reads it.
    pub fn value(self, kind: &Kind, node: &Node) -> Result<Value, Fault> {
        match kind {
            Kind::Bool => match &node.is {
                Is::Plain(text) if text == "true" => Ok(Value::Bool(true)),
                Is::Plain(text) if text == "false" => Ok(Value::Bool(false)),
                _ => Err(node.fault(format!("`true` or `false` stands here, not {}", node.sort()))),
            },
            Kind::Long => match &node.is {
                Is::Plain(text) => text.parse::<i64>().map(Value::from).ok(),
                _ => None,
            }
            .ok_or_else(|| node.fault(format!("a whole number stands here, not {}", node.sort()))),
            Kind::Text => node.text().map(Value::from),
            Kind::Entity(kind) => self.entity(kind, node),
            Kind::Set(inner) => {
                let Is::List(items) = &node.is else {
                    return Err(node.fault(format!("a list of {} stands here, not {}", called(inner), node.sort())));
                };
                let mut values = Vec::with_capacity(items.len());
                for item in items {
                    let value = self.value(inner, item)?;
                    if values.contains(&value) {
                        return Err(item.fault(format!("{} is in the list already", item.sort())));
                    }
                    values.push(value);
                }
                // Equal sets are equal cases.
                values.sort_by_key(Value::to_string);
                Ok(Value::Array(values))
            }
        }
    }

    fn entity(self, kind: &str, node: &Node) -> Result<Value, Fault> {
        let words = self.shape(kind).and_then(|shape| shape.ids.as_ref());
        let stands = || match words {
            Some(ids) => format!("{} stands here", listed(ids)),
            None => format!("the id of one {kind} stands here"),
        };
        if matches!(node.is, Is::List(_) | Is::Map(_)) || node.is_null() {
            return Err(node.fault(format!("{}, not {}", stands(), node.sort())));
        }
        let id = node.text()?;
        if let Some(rest) = id.strip_prefix(kind).and_then(|rest| rest.strip_prefix(' ')) {
            return Err(node.fault(format!("only the id stands here, `{rest}`: that it is of type {kind} is known")));
        }
        if words.is_some_and(|ids| !ids.iter().any(|known| known == id)) {
            return Err(node.fault(format!("{}, not `{id}`", stands())));
        }
        Ok(json!({ "__entity": uid(&(kind.to_owned(), id.to_owned())) }))
    }

    /// `{attribute: value, …}`, or nothing at all for a thing that a row takes away.
    pub fn patch(self, name: &Name, node: &Node) -> Result<Patch, Vec<Fault>> {
        if node.is_null() {
            return Ok(Patch::Gone);
        }
        let (mut attrs, mut words, mut parents) = (BTreeMap::new(), BTreeMap::new(), None);
        let mut faults = Vec::new();
        for (key, value) in node.map().map_err(|fault| vec![fault])? {
            match self.field(name, key, value) {
                Ok(One::Attr(value)) => drop(attrs.insert(key.text.clone(), value)),
                Ok(One::Words(kind, ids)) => drop(words.insert(kind, ids)),
                Ok(One::Parents(names)) => parents = Some(names),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(Patch::Set { attrs, words, parents }) } else { Err(faults) }
    }

    /// One attribute of a thing.
    pub fn one(self, name: &Name, key: &Key, node: &Node) -> Result<Patch, Fault> {
        let (mut attrs, mut words, mut parents) = (BTreeMap::new(), BTreeMap::new(), None);
        match self.field(name, key, node)? {
            One::Attr(value) => drop(attrs.insert(key.text.clone(), value)),
            One::Words(kind, ids) => drop(words.insert(kind, ids)),
            One::Parents(names) => parents = Some(names),
        }
        Ok(Patch::Set { attrs, words, parents })
    }

    fn field(self, (kind, _): &Name, key: &Key, node: &Node) -> Result<One, Fault> {
        let Some(shape) = self.shape(kind).filter(|shape| shape.ids.is_none()) else {
            return Err(Fault { range: key.range.clone(), message: format!("{kind} is a list of words: nothing is known of them") });
        };
        if let Some(field) = shape.fields.iter().find(|field| field.name == key.text) {
            if node.is_null() && !field.required {
                return Ok(One::Attr(None));
            }
            return self.value(&field.kind, node).map(|value| One::Attr(Some(value)));
        }
        let is_words = |parent: &&String| self.shape(parent).is_some_and(|shape| shape.ids.is_some());
        if let Some(parent) = shape.parents.iter().filter(is_words).find(|parent| parent_key(parent) == key.text) {
            let one = Kind::Entity(parent.clone());
            let value = match &node.is {
                Is::List(_) => self.value(&Kind::Set(Box::new(one)), node)?,
                _ => Value::Array(vec![self.value(&one, node)?]),
            };
            let ids = value.as_array().into_iter().flatten().filter_map(crate::policy::row::entity_name).map(|(_, id)| id);
            return Ok(One::Words(parent.clone(), ids.collect()));
        }
        if key.text == PARENTS && !shape.parents.is_empty() {
            let names: Result<BTreeSet<Name>, Fault> = node.list()?.iter().map(|item| self.parent(kind, shape, item)).collect();
            return Ok(One::Parents(names?.into_iter().collect()));
        }
        let words = shape.parents.iter().filter(is_words).map(|parent| parent_key(parent));
        let known: Vec<String> = shape.fields.iter().map(|field| field.name.clone()).chain(words).collect();
        let hint = hint(&key.text, known.iter());
        let message = match known.as_slice() {
            [] => format!("nothing is known of {}: `{{}}` stands here, or leave it out", a(kind)),
            _ => format!("{} has no `{}`{hint}; it has {}", a(kind), key.text, known.join(", ")),
        };
        Err(Fault { range: key.range.clone(), message })
    }

    fn parent(self, kind: &str, shape: &EntityShape, node: &Node) -> Result<Name, Fault> {
        let name = self.thing(node)?;
        if shape.parents.contains(&name.0) {
            Ok(name)
        } else {
            Err(node.fault(format!("{} is a child of {}, never of {}", a(kind), either(&shape.parents), a(&name.0))))
        }
    }
}

/// What one key of a thing says.
enum One {
    Attr(Option<Value>),
    Words(String, Vec<String>),
    Parents(Vec<Name>),
}

fn called(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "truths".into(),
        Kind::Long => "whole numbers".into(),
        Kind::Text => "texts".into(),
        Kind::Entity(kind) => format!("{kind} ids"),
        Kind::Set(inner) => format!("lists of {}", called(inner)),
    }
}

/// With its article.
pub(super) fn a(kind: &str) -> String {
    let article = if kind.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// One of several types.
pub(super) fn either(kinds: &[String]) -> String {
    kinds.iter().map(|kind| a(kind)).collect::<Vec<_>>().join(" or ")
}

fn listed(words: &[String]) -> String {
    match words {
        [] => "nothing".into(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// ` (did you mean …?)` where something known is near.
pub(super) fn hint<'k>(word: &str, known: impl Iterator<Item = impl AsRef<str> + 'k>) -> String {
    let near = |other: &str| distance(&word.to_lowercase(), &other.to_lowercase());
    let best = known.map(|other| (near(other.as_ref()), other.as_ref().to_owned())).min();
    match best {
        Some((steps, other)) if steps <= 1 + word.chars().count() / 4 => format!(" (did you mean `{other}`?)"),
        _ => String::new(),
    }
}

/// How many letters must be written, left out or changed.
fn distance(one: &str, two: &str) -> usize {
    let two: Vec<char> = two.chars().collect();
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(&two) {
            let above = *cell;
            left = (diagonal + usize::from(a != *b)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
