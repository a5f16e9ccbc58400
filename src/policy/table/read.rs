//! From a tree to the parts of a table: which keys there are, and what each of them says. Collects every fault it can; a
//! part that is wrong is left out. Floor 5.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::Fault;
use super::node::{Is, Key, Node};
use super::typed::{Patch, Thing, Typed, hint};
use crate::domain::clock::Timestamp;
use crate::domain::reason::ReasonCode;
use crate::policy::row::{Name, Want};

/// What people of one file need to hear at once.
const FAULTS_MAX: usize = 50;
const TABLE: [&str; 6] = ["about", "ask", "given", "defaults", "rows", "complete"];
const DEFAULTS: [&str; 3] = ["principal", "resource", "context"];
const ROW: [&str; 10] = ["name", "ask", "principal", "resource", "context", "given", "each", "without", "at", "want"];
const WANT: [&str; 3] = ["decision", "code", "policies"];

pub(super) struct Table<'n> {
    pub about: String,
    pub asks: Asks<'n>,
    pub given: BTreeMap<Name, Thing>,
    pub rows: Vec<Written<'n>>,
    /// Products of values, each combination of which is to be the case of one row.
    pub complete: Vec<(Range<usize>, Vec<Axis<'n>>)>,
}

/// The parts of a question, as far as they are said in one place.
#[derive(Default)]
pub(super) struct Asks<'n> {
    pub action: Option<&'static str>,
    pub principal: Option<(Name, Range<usize>)>,
    pub resource: Option<(Name, Range<usize>)>,
    pub context: &'n [(Key, Node)],
}

/// A row as it is written.
pub(super) struct Written<'n> {
    pub name: String,
    pub place: Range<usize>,
    pub asks: Asks<'n>,
    pub given: Vec<(Name, Range<usize>, Patch)>,
    pub each: Vec<Axis<'n>>,
    pub without: Vec<(String, Range<usize>)>,
    pub at: Option<Timestamp>,
    pub want: Want,
    /// From behind the key to the end of the value.
    pub want_range: Range<usize>,
}

/// One thing that varies, and its values.
pub(super) struct Axis<'n> {
    pub label: String,
    pub values: Vec<(String, Choice<'n>)>,
}

pub(super) enum Choice<'n> {
    Action(&'static str),
    Principal(Name, Range<usize>),
    Resource(Name, Range<usize>),
    /// What type it is of depends on the action.
    Context(&'n Key, &'n str, &'n Node),
    Known(Name, Range<usize>, Patch),
}

pub(super) struct Reader<'t> {
    pub text: &'t str,
    pub typed: Typed,
    pub faults: Vec<Fault>,
}

impl Reader<'_> {
    pub fn fault(&mut self, fault: Fault) {
        // The same mistake shows in every case of a row.
        if self.faults.len() > FAULTS_MAX || self.faults.contains(&fault) {
            return;
        }
        let is_last = self.faults.len() == FAULTS_MAX;
        self.faults.push(if is_last { Fault { message: "there is more: mend what is named so far".into(), ..fault } } else { fault });
    }

    fn keep<T>(&mut self, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.fault(fault)).ok()
    }

    /// The map's values by key; keys that are not known are faults.
    fn fields<'n>(&mut self, node: &'n Node, known: &[&str], whose: &str) -> HashMap<&'n str, (&'n Key, &'n Node)> {
        let Some(entries) = self.keep(node.map()) else { return HashMap::new() };
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.text.as_str())) {
            let hint = hint(&key.text, known.iter());
            let message = format!("{whose} has no `{}`{hint}; there is {}", key.text, known.join(", "));
            self.fault(Fault { range: key.range.clone(), message });
        }
        entries.iter().map(|(key, value)| (key.text.as_str(), (key, value))).collect()
    }

    pub fn table<'n>(&mut self, root: &'n Node) -> Table<'n> {
        let fields = self.fields(root, &TABLE, "a table");
        let start = Fault { range: root.range.start..root.range.start, message: String::new() };
        let about = match fields.get("about") {
            Some((_, node)) => self.keep(node.text()).unwrap_or_default().trim().to_owned(),
            None => {
                self.fault(Fault { message: "the table has no `about`: one sentence for people".into(), ..start.clone() });
                String::new()
            }
        };
        let mut asks = Asks::default();
        if let Some((_, node)) = fields.get("defaults") {
            let fields = self.fields(node, &DEFAULTS, "`defaults`");
            asks = self.asks(&fields);
        }
        asks.action = fields.get("ask").and_then(|(_, node)| self.keep(self.typed.action(node)));
        let mut given = BTreeMap::new();
        for (name, range, patch) in fields.get("given").map(|(_, node)| self.given(node)).unwrap_or_default() {
            match patch.over(None) {
                Some(thing) => {
                    self.is_whole(&name, &thing, &range);
                    given.insert(name, thing);
                }
                None => self.fault(Fault { range, message: "only a row takes something away: write what is known, or `{}`".into() }),
            }
        }
        let complete = match fields.get("complete") {
            None => vec![],
            Some((_, node)) if matches!(node.is, Is::List(_)) => {
                let products = self.keep(node.list()).unwrap_or_default();
                products.iter().map(|product| (product.range.clone(), self.axes(product))).collect()
            }
            Some((key, node)) => vec![(key.range.clone(), self.axes(node))],
        };
        let mut rows: Vec<Written<'n>> = Vec::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        match fields.get("rows").map(|(_, node)| node.list()) {
            Some(Ok(items)) if !items.is_empty() => {
                for item in items {
                    let Some(row) = self.row(item, &given) else { continue };
                    if let Some(first) = names.insert(row.name.clone(), row.place.start) {
                        let line = 1 + self.text.get(..first).unwrap_or_default().matches('\n').count();
                        let message = format!("the row in line {line} has this name too: rows are found by their names");
                        self.fault(Fault { range: row.place.clone(), message });
                    }
                    rows.push(row);
                }
            }
            Some(Err(fault)) => self.fault(fault),
            _ => self.fault(Fault { message: "the table has no rows".into(), ..start }),
        }
        Table { about, asks, given, rows, complete }
    }

    fn asks<'n>(&mut self, fields: &HashMap<&str, (&'n Key, &'n Node)>) -> Asks<'n> {
        let action = fields.get("ask").and_then(|(_, node)| self.keep(self.typed.action(node)));
        let mut thing = |key: &str| {
            let (_, node) = fields.get(key)?;
            Some((self.keep(self.typed.thing(node))?, node.range.clone()))
        };
        let (principal, resource) = (thing("principal"), thing("resource"));
        let context = fields.get("context").and_then(|(_, node)| self.keep(node.map())).unwrap_or_default();
        Asks { action, principal, resource, context }
    }

    fn given(&mut self, node: &Node) -> Vec<(Name, Range<usize>, Patch)> {
        let mut all = Vec::new();
        for (key, value) in self.keep(node.map()).unwrap_or_default() {
            let Some(name) = self.keep(self.typed.name(&key.text, &key.range)) else { continue };
            if self.typed.shape(&name.0).is_some_and(|shape| shape.ids.is_some()) {
                let message = format!("{} is a list of words: nothing is known of them", name.0);
                self.fault(Fault { range: key.range.clone(), message });
                continue;
            }
            match self.typed.patch(&name, value) {
                Ok(patch) => all.push((name, key.range.clone(), patch)),
                Err(faults) => faults.into_iter().for_each(|fault| self.fault(fault)),
            }
        }
        all
    }

    /// A thing is known whole or not at all.
    fn is_whole(&mut self, (kind, id): &Name, thing: &Thing, range: &Range<usize>) {
        let Some(lacks) = self.typed.shape(kind).and_then(|shape| thing.lacks(shape)) else { return };
        let message = format!("`{kind} {id}` lacks `{}`", lacks.name);
        self.fault(Fault { range: range.clone(), message });
    }

    fn row<'n>(&mut self, node: &'n Node, world: &BTreeMap<Name, Thing>) -> Option<Written<'n>> {
        let before = self.faults.len();
        let fields = self.fields(node, &ROW, "a row");
        let start = node.range.start..node.range.start;
        let lacks = |what: &str| Fault { range: start.clone(), message: format!("the row has no `{what}`") };
        let name = match fields.get("name") {
            Some((_, node)) => self.keep(node.text()).map(|text| (text.to_owned(), node.range.clone())),
            None => self.keep(Err(lacks("name"))),
        };
        let want = match fields.get("want") {
            Some((key, node)) => self.want(node).map(|want| (want, key.range.end..node.range.end)),
            None => self.keep(Err(lacks("want"))),
        };
        let asks = self.asks(&fields);
        let given = fields.get("given").map(|(_, node)| self.given(node)).unwrap_or_default();
        for (name, range, patch) in &given {
            if let Some(thing) = patch.over(world.get(name)) {
                self.is_whole(name, &thing, range);
            }
        }
        let each = fields.get("each").map(|(_, node)| self.axes(node)).unwrap_or_default();
        let mut without = Vec::new();
        for item in fields.get("without").and_then(|(_, node)| self.keep(node.list())).unwrap_or_default() {
            without.extend(self.keep(item.text()).map(|id| (id.to_owned(), item.range.clone())));
        }
        without.sort_by(|(one, _): &(String, Range<usize>), (two, _)| one.cmp(two));
        without.dedup_by(|(one, _), (two, _)| one == two);
        let at = fields.get("at").and_then(|(_, node)| {
            let time = Timestamp::parse(node.text().unwrap_or_default());
            self.keep(time.ok_or_else(|| node.fault(format!("a time like 2026-11-27T18:00:00Z stands here, not {}", node.sort()))))
        });
        let ((name, place), (want, want_range)) = name.zip(want)?;
        (self.faults.len() == before).then_some(Written { name, place, asks, given, each, without, at, want, want_range })
    }

    fn want(&mut self, node: &Node) -> Option<Want> {
        let before = self.faults.len();
        let fields = self.fields(node, &WANT, "`want`");
        let allow = match fields.get("decision") {
            Some((_, node)) => match self.keep(node.text())? {
                "allow" => true,
                "refuse" => false,
                other => {
                    self.fault(node.fault(format!("`allow` or `refuse` stands here, not `{other}`")));
                    return None;
                }
            },
            None => {
                self.fault(node.fault("`want` has no `decision`: allow or refuse"));
                return None;
            }
        };
        let code = match (fields.get("code"), allow) {
            (Some((key, _)), true) => {
                self.fault(Fault { range: key.range.clone(), message: "`allow` has no code: a code says why not".into() });
                None
            }
            (None, false) => {
                self.fault(node.fault("`refuse` has no `code`: the reason that is wanted; `byoa reasons` lists them"));
                None
            }
            (Some((_, node)), false) => {
                let text = self.keep(node.text())?;
                let code = ReasonCode::parse(text).ok_or_else(|| {
                    let hint = hint(text, ReasonCode::ALL.iter().map(|code| code.as_str()));
                    node.fault(format!("there is no reason code `{text}`{hint}; `byoa reasons` lists them"))
                });
                self.keep(code)
            }
            (None, true) => None,
        };
        let mut policies = Vec::new();
        match fields.get("policies") {
            Some((_, node)) => {
                for item in self.keep(node.list()).unwrap_or_default() {
                    policies.extend(self.keep(item.text()).map(str::to_owned));
                }
            }
            None => self.fault(node.fault("`want` has no `policies`: the ids of all that decide, or [] where none has to")),
        }
        policies.sort();
        policies.dedup();
        (self.faults.len() == before).then_some(Want { allow, code, policies })
    }

    fn axes<'n>(&mut self, node: &'n Node) -> Vec<Axis<'n>> {
        let mut axes = Vec::new();
        for (key, values) in self.keep(node.map()).unwrap_or_default() {
            let Some(items) = self.keep(values.list()) else { continue };
            let mut axis = Axis { label: key.text.clone(), values: Vec::with_capacity(items.len()) };
            if items.is_empty() {
                self.fault(values.fault(format!("`{}` has no values, so there would be no case", key.text)));
            }
            for item in items {
                let shown = self.text.get(item.range.clone()).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
                if axis.values.iter().any(|(other, _)| *other == shown) {
                    self.fault(item.fault(format!("{} is in the list already", item.sort())));
                }
                let Some(choice) = self.choice(key, item) else { break };
                axis.values.push((shown, choice));
            }
            axes.push(axis);
        }
        axes
    }

    fn choice<'n>(&mut self, key: &'n Key, item: &'n Node) -> Option<Choice<'n>> {
        let typed = self.typed;
        let choice = match key.text.as_str() {
            "ask" => typed.action(item).map(Choice::Action),
            "principal" => typed.thing(item).map(|name| Choice::Principal(name, item.range.clone())),
            "resource" => typed.thing(item).map(|name| Choice::Resource(name, item.range.clone())),
            text => match (text.strip_prefix("context."), text.rsplit_once('.')) {
                (Some(field), _) => Ok(Choice::Context(key, field, item)),
                (None, Some((thing, field))) => typed.name(thing, &key.range).and_then(|name| {
                    let field = Key { text: field.to_owned(), range: key.range.clone() };
                    typed.one(&name, &field, item).map(|patch| Choice::Known(name, key.range.clone(), patch))
                }),
                (None, None) => {
                    let known = ["ask", "principal", "resource", "context.KEY", "Type id.attribute"].join(", ");
                    Err(Fault { range: key.range.clone(), message: format!("`{text}` is nothing that varies; there is {known}") })
                }
            },
        };
        self.keep(choice)
    }
}
