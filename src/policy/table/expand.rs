//! From the parts of a table to its cases: fills in defaults, lays a row's differences over what is given, takes every
//! combination of what varies, and holds each to the schema. A case has what its question leads to and nothing else.
//! Floor 5.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use serde_json::{Map, Value, json};

use super::Fault;
use super::node::{Key, Node};
use super::read::{Asks, Axis, Choice, Reader, Table, Written};
use super::typed::{Thing, Typed, a, either, hint, written};
use crate::policy::case::Case;
use crate::policy::row::Name;
use crate::policy::vocabulary::{ActionShape, Field};

/// One case of a row.
pub(super) struct Expanded {
    /// The row it is of, in the table's order.
    pub row: usize,
    /// What was chosen, ` [axis=value, …]`; empty where nothing varies.
    pub chosen: String,
    pub case: Case,
}

/// Everything known, with what one row and one combination say otherwise.
struct World<'t> {
    base: &'t BTreeMap<Name, Thing>,
    over: BTreeMap<Name, Option<Thing>>,
}

impl World<'_> {
    fn get(&self, name: &Name) -> Option<&Thing> {
        match self.over.get(name) {
            Some(over) => over.as_ref(),
            None => self.base.get(name),
        }
    }
}

/// Where a row stands, for faults about all of it.
struct Place<'r> {
    range: &'r Range<usize>,
}

impl Place<'_> {
    fn fault(&self, message: String) -> Fault {
        Fault { range: self.range.clone(), message }
    }
}

/// Every case of the table, `room` at most.
pub(super) fn expand(reader: &mut Reader<'_>, table: &Table<'_>, room: usize) -> Vec<Expanded> {
    let mut cases = Vec::new();
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for (index, row) in table.rows.iter().enumerate() {
        let Some(combinations) = combinations(reader, &row.each, room.saturating_sub(cases.len()), &row.place) else { return cases };
        for chosen in combinations {
            match case(reader.typed, table, Some(row), &row.each, &chosen, &Place { range: &row.place }, &mut used) {
                Ok(case) => cases.push(Expanded { row: index, chosen: shown(&row.each, &chosen), case }),
                Err(fault) => reader.fault(fault),
            }
        }
    }
    // Where rows are wrong it is not known what they would have used.
    if reader.faults.is_empty() {
        for (key, _) in table.asks.context.iter().filter(|(key, _)| !used.contains(key.text.as_str())) {
            let fields = table.asks.action.map_or(&[][..], |action| reader.typed.action_shape(action));
            let hint = hint(&key.text, fields.iter().map(|field| field.name.as_str()));
            let message = format!("no row's action has `{}` in its context{hint}", key.text);
            reader.fault(Fault { range: key.range.clone(), message });
        }
    }
    cases
}

/// Holds the table to its `complete`: every combination is the case of one row, under the whole law.
pub(super) fn complete(reader: &mut Reader<'_>, table: &Table<'_>, cases: &[Expanded], mut room: usize) {
    if table.complete.is_empty() {
        return;
    }
    let mut rows: HashMap<String, Vec<usize>> = HashMap::new();
    let whole = |row: usize| table.rows.get(row).is_some_and(|row| row.without.is_empty() && row.at.is_none());
    for case in cases.iter().filter(|case| whole(case.row)) {
        rows.entry(key(&case.case)).or_default().push(case.row);
    }
    for (range, axes) in &table.complete {
        let Some(combinations) = combinations(reader, axes, room, range) else { return };
        room = room.saturating_sub(combinations.len());
        for chosen in combinations {
            let said = shown(axes, &chosen);
            let case = match case(reader.typed, table, None, axes, &chosen, &Place { range }, &mut BTreeSet::new()) {
                Ok(case) => case,
                Err(fault) => {
                    reader.fault(fault);
                    continue;
                }
            };
            match rows.get(&key(&case)).map(Vec::as_slice) {
                Some([_]) => {}
                None | Some([]) => reader.fault(Fault { range: range.clone(), message: format!("no row is the case{said}") }),
                Some([first, second, ..]) => {
                    let row = |index: &usize| table.rows.get(*index);
                    let first = row(first).map_or("", |row| row.name.as_str());
                    let place = row(second).map_or(range, |row| &row.place);
                    let message = format!("this row and \"{first}\" are the same case{said}: which of them is meant?");
                    reader.fault(Fault { range: place.clone(), message });
                }
            }
        }
    }
}

fn key(case: &Case) -> String {
    json!([case.action, case.principal, case.resource, case.context, case.entities]).to_string()
}

fn shown(axes: &[Axis<'_>], chosen: &[usize]) -> String {
    let parts: Vec<String> = axes
        .iter()
        .zip(chosen)
        .filter_map(|(axis, choice)| axis.values.get(*choice).map(|(value, _)| format!("{}={value}", axis.label)))
        .collect();
    if parts.is_empty() { String::new() } else { format!(" [{}]", parts.join(", ")) }
}

/// One index into each axis, the last varying fastest.
fn combinations(reader: &mut Reader<'_>, axes: &[Axis<'_>], room: usize, range: &Range<usize>) -> Option<Vec<Vec<usize>>> {
    let count = axes.iter().try_fold(1_usize, |product, axis| product.checked_mul(axis.values.len()));
    let Some(count) = count.filter(|count| *count <= room) else {
        let most = super::CASES_MAX;
        let message = format!("with this there are more than {most} cases in all tables: let less vary");
        reader.fault(Fault { range: range.clone(), message });
        return None;
    };
    let one = |mut n: usize| {
        let mut chosen: Vec<usize> = axes
            .iter()
            .rev()
            .map(|axis| {
                let size = axis.values.len().max(1);
                let choice = n % size;
                n /= size;
                choice
            })
            .collect();
        chosen.reverse();
        chosen
    };
    Some((0..count).map(one).collect())
}

fn case<'n>(
    typed: Typed,
    table: &Table<'n>,
    row: Option<&Written<'n>>,
    axes: &[Axis<'n>],
    chosen: &[usize],
    place: &Place<'_>,
    used: &mut BTreeSet<&'n str>,
) -> Result<Case, Fault> {
    let none = Asks::default();
    let asks = row.map_or(&none, |row| &row.asks);
    let (mut action, mut principal, mut resource) = (
        asks.action.or(table.asks.action),
        asks.principal.as_ref().or(table.asks.principal.as_ref()).map(|(name, range)| (name, range)),
        asks.resource.as_ref().or(table.asks.resource.as_ref()).map(|(name, range)| (name, range)),
    );
    let mut world = World { base: &table.given, over: BTreeMap::new() };
    for (name, _, patch) in row.map_or(&[][..], |row| &row.given) {
        let changed = patch.over(table.given.get(name));
        world.over.insert(name.clone(), changed);
    }
    let mut varied: Vec<(&Key, &str, &'n Node)> = Vec::new();
    for (axis, choice) in axes.iter().zip(chosen) {
        match axis.values.get(*choice).map(|(_, choice)| choice) {
            Some(Choice::Action(name)) => action = Some(name),
            Some(Choice::Principal(name, range)) => principal = Some((name, range)),
            Some(Choice::Resource(name, range)) => resource = Some((name, range)),
            Some(Choice::Context(key, field, node)) => varied.push((key, field, node)),
            Some(Choice::Known(name, range, patch)) => {
                let Some(thing) = world.get(name) else {
                    return Err(Fault {
                        range: range.clone(),
                        message: format!("`{} {}` is not given, so nothing of it varies", name.0, name.1),
                    });
                };
                let changed = patch.over(Some(thing));
                world.over.insert(name.clone(), changed);
            }
            None => {}
        }
    }
    let action = action.ok_or_else(|| place.fault("there is no `ask` here, and none for the whole table".into()))?;
    let shape = typed.0.actions.get(action).ok_or_else(|| place.fault(format!("there is no action `{action}`")))?;
    let principal = end(typed, &world, action, &shape.principals, principal, "principal", place)?;
    let resource = end(typed, &world, action, &shape.resources, resource, "resource", place)?;
    let context = context(typed, action, shape, [table.asks.context, asks.context], &varied, place, used)?;
    let entities = entities(typed, &world, [principal.clone(), resource.clone()], &context);
    Ok(Case {
        action: action.to_owned(),
        principal: written(&principal),
        resource: written(&resource),
        context: Value::Object(context),
        entities,
    })
}

/// The principal or the resource: of a type that the action takes, and known.
fn end(
    typed: Typed,
    world: &World<'_>,
    action: &str,
    types: &[String],
    named: Option<(&Name, &Range<usize>)>,
    what: &str,
    place: &Place<'_>,
) -> Result<Name, Fault> {
    let Some((name, range)) = named else {
        return Err(place.fault(format!("there is no `{what}` here, and none in `defaults`")));
    };
    let fault = |message: String| Fault { range: range.clone(), message };
    if !types.contains(&name.0) {
        return Err(fault(format!("the {what} of {action} is {}, never {}", either(types), a(&name.0))));
    }
    let says_nothing = typed.shape(&name.0).is_some_and(|shape| shape.fields.is_empty());
    if world.get(name).is_none() && !says_nothing {
        if world.base.contains_key(name) {
            return Err(place.fault(format!("nothing is known of `{} {}` here, and it is the {what}", name.0, name.1)));
        }
        let known: Vec<String> = world.base.keys().map(|(kind, id)| format!("{kind} {id}")).collect();
        let hint = hint(&format!("{} {}", name.0, name.1), known.iter());
        return Err(fault(format!("`{} {}` is not given{hint}", name.0, name.1)));
    }
    Ok(name.clone())
}

fn context<'n>(
    typed: Typed,
    action: &str,
    shape: &ActionShape,
    [defaults, own]: [&'n [(Key, Node)]; 2],
    varied: &[(&Key, &str, &'n Node)],
    place: &Place<'_>,
    used: &mut BTreeSet<&'n str>,
) -> Result<Map<String, Value>, Fault> {
    let field = |name: &str| shape.context.iter().find(|field| field.name == name);
    let mut context = BTreeMap::new();
    let mut set = |field: &Field, node: &Node| -> Result<(), Fault> {
        if node.is_null() && !field.required {
            context.remove(&field.name);
        } else {
            context.insert(field.name.clone(), typed.value(&field.kind, node)?);
        }
        Ok(())
    };
    // What rows of other actions need does not hurt this one.
    for (key, node) in defaults {
        if let Some(field) = field(&key.text) {
            used.insert(&key.text);
            set(field, node)?;
        }
    }
    let own = own.iter().map(|(key, node)| (key, key.text.as_str(), node));
    for (key, name, node) in own.chain(varied.iter().copied()) {
        let Some(field) = field(name) else {
            let names: Vec<&str> = shape.context.iter().map(|field| field.name.as_str()).collect();
            let there = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            let hint = hint(name, names.iter());
            let message = format!("the context of {action} has no `{name}`{hint}; it has {there}");
            return Err(Fault { range: key.range.clone(), message });
        };
        set(field, node)?;
    }
    if let Some(lacks) = shape.context.iter().find(|field| field.required && !context.contains_key(&field.name)) {
        return Err(place.fault(format!("the context lacks `{}`, which {action} always has", lacks.name)));
    }
    Ok(context.into_iter().collect())
}

/// Whatever the question leads to: a policy gets no further.
fn entities(typed: Typed, world: &World<'_>, ends: [Name; 2], context: &Map<String, Value>) -> Value {
    let mut seen: BTreeSet<Name> = BTreeSet::new();
    let mut open: VecDeque<Name> = ends.into_iter().chain(context.values().filter_map(crate::policy::row::entity_name)).collect();
    while let Some(name) = open.pop_front() {
        let (Some(thing), Some(shape)) = (world.get(&name), typed.shape(&name.0)) else { continue };
        if seen.insert(name) {
            open.extend(thing.leads_to(shape));
        }
    }
    let json = |name: &Name| Some(world.get(name)?.json(name, typed.shape(&name.0)?));
    Value::Array(seen.iter().filter_map(json).collect())
}
