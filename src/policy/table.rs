//! Decision tables: YAML files that say what the policies must answer, written and read by people who know no Cedar. Owns
//! the form of a table, its cases and their comparison with the law; `row` writes what is read here. Never changes an
//! answer, and never lets a case pass that did not become a question. Floor 5.

mod ends;
mod expand;
mod node;
mod read;
mod typed;
mod update;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use cedar_policy::PolicyId;

pub use ends::After;
pub use update::{Kept, Rewritten};

use super::case::Case;
use super::decide::{Law, Place};
use super::load::{Diagnostic, LoadError, Rule, Sources};
use super::row::Want;
use super::vocabulary::Vocabulary;
use super::{orgs, validate};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// Cases of all tables together: each is kept in memory (about 14 KB) and asked at every load (about 0.2 ms).
pub const CASES_MAX: usize = 10_000;
/// Laws that the tables of one run may ask for: one for each `without` and each `at`.
const LAWS_MAX: usize = 256;

/// What is wrong in one place of a text.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Fault {
    range: Range<usize>,
    message: String,
}

/// One case of one row.
#[derive(Clone, Debug)]
pub struct Row {
    /// The file.
    pub file: String,
    /// The line of the row, from 1.
    pub line: usize,
    /// The table: the file's name without its ending.
    pub table: String,
    /// The row's name, with ` [axis=value, …]` where it stands for several cases.
    pub name: String,
    /// What is asked.
    pub case: Case,
    /// The policies that are taken out before, sorted.
    pub without: Vec<String>,
    /// The time as of which the law is asked; now where it is left out.
    pub at: Option<Timestamp>,
    /// What it must answer.
    pub want: Want,
    /// The text and the row in it.
    spot: (usize, usize),
}

/// One file.
#[derive(Clone, Debug)]
pub struct Table {
    /// As people find it.
    pub file: String,
    /// Its name without the ending.
    pub name: String,
    /// What it is about.
    pub about: String,
    text: String,
    entries: Vec<Entry>,
}

impl Table {
    /// How many rows are written in it.
    pub fn written(&self) -> usize {
        self.entries.len()
    }
}

/// Where the parts of a written row are.
#[derive(Clone, Debug)]
struct Entry {
    name: String,
    place: Range<usize>,
    want: Range<usize>,
    without: Vec<(String, Range<usize>)>,
}

/// Decision tables, read and expanded.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    tables: Vec<Table>,
    rows: Vec<Row>,
}

impl Tables {
    /// Reads the tables beside the policies.
    ///
    /// # Errors
    /// [`LoadError`] with every fault found.
    pub fn read(sources: &Sources) -> Result<Self, LoadError> {
        Self::of_texts(sources.tables.iter().map(|table| (table.file.as_str(), table.text.as_str())))
    }

    /// Reads tables from anywhere: each its file's name and its text.
    ///
    /// # Errors
    /// [`LoadError`] with every fault found.
    pub fn of_texts<'t>(texts: impl IntoIterator<Item = (&'t str, &'t str)>) -> Result<Self, LoadError> {
        let mut all = Self::default();
        let mut faults = Vec::new();
        for (file, text) in texts {
            if let Err((rule, found)) = all.add(file, text) {
                faults.extend(found.into_iter().map(|Fault { range, message }| Diagnostic::at(rule, file, text, range, message)));
            }
        }
        if faults.is_empty() { Ok(all) } else { Err(LoadError::new(ReasonCode::PolicyInvalid, faults)) }
    }

    fn add(&mut self, file: &str, text: &str) -> Result<(), (Rule, Vec<Fault>)> {
        let root = node::parse(text).map_err(|fault| (Rule::Syntax, vec![fault]))?;
        let mut reader = read::Reader { text, typed: typed::Typed(Vocabulary::get()), faults: vec![] };
        let table = reader.table(&root);
        let room = CASES_MAX.saturating_sub(self.rows.len());
        let mut cases = Vec::new();
        // Each step stands on the one before: what follows from a fault is not one more.
        if reader.faults.is_empty() {
            cases = expand::expand(&mut reader, &table, room);
        }
        if reader.faults.is_empty() {
            expand::complete(&mut reader, &table, &cases, room);
        }
        if !reader.faults.is_empty() {
            return Err((Rule::Table, reader.faults));
        }
        let name = std::path::Path::new(file).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let lines = Lines::of(text);
        for case in cases {
            let Some(row) = table.rows.get(case.row) else { continue };
            self.rows.push(Row {
                file: file.to_owned(),
                line: lines.line(row.place.start),
                table: name.clone(),
                name: format!("{}{}", row.name, case.chosen),
                case: case.case,
                without: row.without.iter().map(|(id, _)| id.clone()).collect(),
                at: row.at,
                want: row.want.clone(),
                spot: (self.tables.len(), case.row),
            });
        }
        let entry = |row: read::Written<'_>| Entry { name: row.name, place: row.place, want: row.want_range, without: row.without };
        let entries = table.rows.into_iter().map(entry).collect();
        self.tables.push(Table { file: file.to_owned(), name, about: table.about, text: text.to_owned(), entries });
        Ok(())
    }

    /// Every case, in the order of the files.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Leaves out the rows that take policies of these orgs out of the set: their files are not what the rows were written for.
    pub(super) fn leave_out(&mut self, orgs: &BTreeSet<OrgId>) {
        self.rows.retain(|row| !row.without.iter().any(|id| orgs::owner(id).is_some_and(|org| orgs.contains(&org))));
    }

    /// Every table.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// How many rows are written in all of them.
    pub fn written(&self) -> usize {
        self.tables.iter().map(Table::written).sum()
    }

    /// Asks the policy set every row: as it is at the row's `at`, else at `now` and after each end by `@until` that is to come.
    ///
    /// # Errors
    /// [`LoadError`] where the law is not valid, or lacks a policy that a row takes out.
    pub fn run(&self, sources: &Sources, now: Timestamp) -> Result<Run, LoadError> {
        self.run_on(&validate::law(sources, now)?, sources)
    }

    /// The same of a law that is made already, from these sources.
    pub(super) fn run_on(&self, law: &Law, sources: &Sources) -> Result<Run, LoadError> {
        let laws = self.laws(law, sources)?;
        let mut run = Run::default();
        for (index, row) in self.rows.iter().enumerate() {
            let law = laws.get(&(row.at, row.without.as_slice())).map_or(law, |other| other);
            let outcome = asked(law, index, row);
            if !outcome.ok {
                run.faults.extend(self.wrong(row, &outcome));
            }
            run.results.push(outcome);
        }
        run.after = self.after(law, &run.results)?;
        run.faults.extend(run.after.iter().filter_map(|after| self.wrong_after(after)));
        Ok(run)
    }

    /// The laws that rows ask for beside the one at hand.
    pub(super) fn laws(&self, law: &Law, sources: &Sources) -> Result<Laws<'_>, LoadError> {
        let mut laws = BTreeMap::new();
        let mut faults = Vec::new();
        for row in self.rows.iter().filter(|row| row.at.is_some() || !row.without.is_empty()) {
            let key = (row.at, row.without.as_slice());
            if laws.contains_key(&key) {
                continue;
            }
            if laws.len() >= LAWS_MAX {
                let message = format!("the tables ask for more than {LAWS_MAX} laws, one for each `without` and each `at`");
                return Err(LoadError::new(ReasonCode::PolicyInvalid, self.at_name(row, message).into_iter().collect()));
            }
            let unknown = self.unknown_without(row, law);
            if !unknown.is_empty() {
                faults.extend(unknown);
                continue;
            }
            let other = match row.at {
                Some(at) => validate::law(sources, at)?.without(&row.without),
                None => law.without(&row.without),
            };
            match other {
                Ok(other) => drop(laws.insert(key, other)),
                Err(message) => faults.extend(self.at_name(row, message)),
            }
        }
        if faults.is_empty() { Ok(laws) } else { Err(LoadError::new(ReasonCode::PolicyInvalid, faults)) }
    }

    fn unknown_without(&self, row: &Row, law: &Law) -> Vec<Diagnostic> {
        let Some((table, entry)) = self.entry(row) else { return vec![] };
        let unknown = entry.without.iter().filter(|(id, _)| !law.places.contains_key(&PolicyId::new(id)));
        let fault = |id: &str, range: &Range<usize>| {
            let fault = Diagnostic::at(Rule::Table, &table.file, &table.text, range.clone(), no_policy(law, id));
            fault.of_orgs(orgs::owner(id))
        };
        unknown.map(|(id, range)| fault(id, range)).collect()
    }

    fn entry(&self, row: &Row) -> Option<(&Table, &Entry)> {
        let table = self.tables.get(row.spot.0)?;
        Some((table, table.entries.get(row.spot.1)?))
    }

    fn at_name(&self, row: &Row, message: String) -> Option<Diagnostic> {
        let (table, entry) = self.entry(row)?;
        Some(Diagnostic::at(Rule::Table, &table.file, &table.text, entry.place.clone(), message))
    }

    fn wrong(&self, row: &Row, outcome: &Outcome) -> Option<Diagnostic> {
        Some(self.at_name(row, self.said(row, outcome)?)?.of_orgs(blamed(&row.want, &outcome.got)))
    }

    fn said(&self, row: &Row, Outcome { got, errors, .. }: &Outcome) -> Option<String> {
        let (_, entry) = self.entry(row)?;
        let which = row.name.strip_prefix(&entry.name).unwrap_or_default();
        let said: String = errors.iter().map(|error| format!("; {error}")).collect();
        Some(format!("wants {}, got {got}{which}{said}", row.want))
    }
}

/// The orgs whose policies make the difference between two answers. An org's policies only forbid, so one that changes an
/// answer is among those that decided.
fn blamed(want: &Want, got: &Want) -> Vec<OrgId> {
    let beyond = |of: &Want, other: &Want| of.policies.iter().filter(|id| !other.policies.contains(id)).cloned().collect::<Vec<_>>();
    let differ = [beyond(got, want), beyond(want, got)].concat();
    if differ.is_empty() {
        // The same policies with another code: theirs, where all of them are orgs'.
        return got.policies.iter().map(|id| orgs::owner(id)).collect::<Option<_>>().unwrap_or_default();
    }
    differ.iter().filter_map(|id| orgs::owner(id)).collect()
}

/// The answer of a policy set to a row.
fn asked(law: &Law, index: usize, row: &Row) -> Outcome {
    let (got, mut errors) = match row.case.ruled(law) {
        Ok(ruling) => (Want::of(&ruling), ruling.errors),
        Err(unfit) => {
            let got = Want { allow: false, code: Some(ReasonCode::PolicyNotApplicable), policies: vec![] };
            (got, vec![format!("it is no question that the schema knows: {unfit}")])
        }
    };
    let fit = errors.is_empty() || got.code == Some(ReasonCode::PolicyEvaluationError);
    let ok = got == row.want && fit;
    let mut decided = Vec::new();
    if !ok {
        errors.extend(unknown(law, &row.want));
        decided.extend(got.policies.iter().filter_map(|id| law.places.get(&PolicyId::new(id)).cloned()));
    }
    Outcome { row: index, got, errors, ok, decided }
}

/// The policies that are wanted and that nobody wrote.
fn unknown(law: &Law, want: &Want) -> Vec<String> {
    want.policies.iter().filter(|id| !law.places.contains_key(&PolicyId::new(id))).map(|id| no_policy(law, id)).collect()
}

fn no_policy(law: &Law, id: &str) -> String {
    let known: Vec<String> = law.places.keys().map(ToString::to_string).collect();
    format!("there is no policy `{id}`{}", typed::hint(id, known.iter()))
}

impl Law {
    /// The same law with these policies taken out. One that is no part of it (any more) is out already.
    pub(super) fn without(&self, ids: &[String]) -> Result<Self, String> {
        let mut policies = self.policies.clone();
        for id in ids.iter().map(PolicyId::new).filter(|id| self.policies.policy(id).is_some()) {
            policies.remove_static(id).map_err(|e| e.to_string())?;
        }
        self.with(policies)
    }
}

/// The laws that rows ask for, by `at` and `without`.
pub(super) type Laws<'t> = BTreeMap<(Option<Timestamp>, &'t [String]), Law>;

/// What the law said to every row.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// One for each row, in their order.
    pub results: Vec<Outcome>,
    /// Rows that hold now and will not once policies have ended.
    pub after: Vec<After>,
    faults: Vec<Diagnostic>,
}

/// What the law said to one row.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The row, by its place in [`Tables::rows`].
    pub row: usize,
    /// What was answered.
    pub got: Want,
    /// What went wrong in policies, or in the question itself.
    pub errors: Vec<String>,
    /// Whether that is what the row wants.
    pub ok: bool,
    /// Where the policies stand that decided; only of a row that does not hold.
    pub decided: Vec<Place>,
}

impl Run {
    /// Every row that does not hold, or will not, at its place.
    pub fn faults(&self) -> Vec<Diagnostic> {
        self.faults.clone()
    }

    /// True where every row holds and will.
    pub fn holds(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Where lines begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|newline| *newline < offset) + 1
    }
}

#[cfg(test)]
mod tests;
