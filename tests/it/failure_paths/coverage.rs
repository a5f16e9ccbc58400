//! Every row of the matrix, and every pair of provider and mode in each of its dimensions, is played, shown by a test that has
//! a name, or named with the reason why not; and no exemption is needless.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use byoa_gateway::domain::installation::{Mode, ProviderKind};
use byoa_gateway::matrix::ROWS;
use byoa_gateway::matrix::row::To;
use serde::Deserialize;

use super::{TESTS, read};
use crate::support::here;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    /// Played, for whom.
    rows: BTreeMap<String, Wanted>,
    /// Shown by tests.
    tests: Vec<ByTest>,
    /// Not there yet.
    not_built: Vec<NotBuilt>,
    /// Dimensions that mean nothing to a provider in a mode.
    not_applicable: Vec<NotApplicable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    to: Vec<To>,
    #[serde(default)]
    mode: Vec<Mode>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByTest {
    /// `NNN` or `NNN-NNN`.
    rows: String,
    dimension: String,
    /// `file.rs function`, below `tests/it` or `src`.
    by: Vec<String>,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotBuilt {
    rows: String,
    dimension: String,
    why: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotApplicable {
    dimension: String,
    to: Vec<ProviderKind>,
    mode: Vec<Mode>,
    why: String,
}

/// The rows of the matrix, and what each belongs to.
const DIMENSIONS: [(&str, &[(u16, u16)]); 18] = [
    ("auth", &[(1, 27), (256, 256)]),
    ("replay", &[(28, 39)]),
    ("clock", &[(40, 40)]),
    ("tenant", &[(41, 54), (243, 244), (255, 255)]),
    ("policy", &[(55, 61), (202, 202), (226, 233)]),
    ("parse", &[(62, 72)]),
    ("http", &[(73, 86), (250, 250)]),
    ("limit", &[(87, 91), (201, 201), (203, 205), (208, 209)]),
    ("secret", &[(92, 100), (213, 213), (253, 254)]),
    ("send", &[(101, 112), (245, 247), (257, 257)]),
    ("oauth", &[(113, 118)]),
    ("life", &[(119, 123)]),
    ("ssrf", &[(124, 129), (248, 248)]),
    ("deliver", &[(130, 137), (206, 207), (249, 249), (258, 258)]),
    ("store", &[(138, 144), (211, 211), (242, 242)]),
    ("ops", &[(145, 148)]),
    ("admin", &[(149, 155), (212, 212), (234, 237), (240, 241), (252, 252)]),
    ("audit", &[(156, 158), (210, 210)]),
];

/// The rows there must be: those of the first matrix, and those that attacks from outside added.
const NUMBERS: [RangeInclusive<u16>; 5] = [1..=158, 201..=213, 226..=237, 240..=250, 252..=258];

fn matrix() -> Matrix {
    let text = std::fs::read_to_string(here("tests/tables/failure_paths/matrix.yaml")).unwrap();
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("matrix.yaml: {e}"))
}

fn dimension_of(id: &str) -> &'static str {
    let number: u16 = id.parse().unwrap();
    let found = DIMENSIONS.iter().find(|(_, spans)| spans.iter().any(|(first, last)| (first..=last).contains(&&number)));
    found.unwrap_or_else(|| panic!("{id} is in no dimension")).0
}

fn holds(rows: &str, id: &str) -> bool {
    match rows.split_once('-') {
        Some((first, last)) => (first..=last).contains(&id),
        None => rows == id,
    }
}

fn pairs(to: &[To], mode: &[Mode]) -> BTreeSet<(To, &'static str)> {
    let modes: Vec<&'static str> = if mode.is_empty() { vec!["any"] } else { mode.iter().map(|m| m.as_str()).collect() };
    to.iter().flat_map(|to| modes.iter().map(|mode| (*to, *mode))).collect()
}

#[test]
fn every_row_is_played_or_shown_or_named() {
    let matrix = matrix();
    let mut files: Vec<String> = std::fs::read_dir(here("tests/tables/failure_paths"))
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".yaml").map(str::to_owned))
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .collect();
    files.sort();
    let embedded: Vec<&str> = ROWS.iter().map(|(id, _)| *id).collect();
    assert_eq!(files, embedded, "rows! of src/matrix.rs is not what lies in tests/tables/failure_paths");
    let tests: Vec<&str> = TESTS.iter().map(|t| t.trim_start_matches("row_")).collect();
    assert_eq!(files, tests, "a row without its test, or a test without its row");

    let mut wrong = Vec::new();
    for number in NUMBERS.into_iter().flatten() {
        let id = format!("{number:03}");
        let shown: Vec<&ByTest> = matrix.tests.iter().filter(|t| holds(&t.rows, &id)).collect();
        let missing: Vec<&NotBuilt> = matrix.not_built.iter().filter(|n| holds(&n.rows, &id)).collect();
        let played = files.contains(&id);
        match (matrix.rows.get(&id), shown.as_slice(), missing.as_slice()) {
            (Some(wanted), [], []) if played => {
                let row = read(&id);
                if row.dimension != dimension_of(&id) {
                    wrong.push(format!("{id} is of the dimension {}, not {}", dimension_of(&id), row.dimension));
                }
                let played: BTreeSet<(To, &'static str)> = row.plays().unwrap().iter().map(|p| (p.to, p.mode_word())).collect();
                let wanted = pairs(&wanted.to, &wanted.mode);
                wrong.extend(wanted.difference(&played).map(|(to, mode)| format!("{id}: {to:?} {mode} is not played")));
                wrong.extend(played.difference(&wanted).map(|(to, mode)| format!("{id}: {to:?} {mode} is not in the matrix")));
            }
            (None, [by], []) if !played => {
                if by.dimension != dimension_of(&id) || by.why.len() < 20 {
                    wrong.push(format!("{id}: of another dimension, or without a reason"));
                }
            }
            (None, [], [none]) if !played => {
                if none.dimension != dimension_of(&id) || none.why.len() < 20 {
                    wrong.push(format!("{id}: of another dimension, or without a reason"));
                }
            }
            _ => wrong.push(format!("{id}: played, shown by tests or not built: one of them, and once")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rows from 201 on that are played or shown by tests, each with the test functions that show it.
pub fn hardening_rows() -> Vec<(String, Vec<String>)> {
    let matrix = matrix();
    let mut rows = Vec::new();
    for id in NUMBERS.into_iter().skip(1).flatten().map(|number| format!("{number:03}")) {
        let mut tests: Vec<String> = matrix.rows.contains_key(&id).then(|| format!("failure_paths::row_{id}")).into_iter().collect();
        for name in matrix.tests.iter().filter(|t| holds(&t.rows, &id)).flat_map(|t| &t.by) {
            let Some((file, function)) = name.split_once(' ') else { continue };
            let module = file.trim_end_matches(".rs").replace('/', "::");
            tests.extend([format!("{module}::{function}"), format!("{module}::tests::{function}")]);
        }
        if !tests.is_empty() {
            rows.push((id, tests));
        }
    }
    rows
}

/// What a row that is not played says of tests is so.
#[test]
fn the_tests_that_rows_name_are_there() {
    let mut wrong = Vec::new();
    for by in matrix().tests {
        if by.by.is_empty() {
            wrong.push(format!("{}: no test is named", by.rows));
        }
        for name in &by.by {
            let Some((file, function)) = name.split_once(' ') else {
                wrong.push(format!("{}: `{name}` is no file and function", by.rows));
                continue;
            };
            let text = ["tests/it", "src"].iter().find_map(|folder| std::fs::read_to_string(here(folder).join(file)).ok());
            if !text.is_some_and(|text| text.contains(&format!("fn {function}("))) {
                wrong.push(format!("{}: there is no `{function}` in {file}", by.rows));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The gateway plays each of them, so each says for whom and in which mode, and each is another one.
#[test]
fn every_case_that_is_played_has_a_name_of_its_own() {
    let plays = byoa_gateway::matrix::plays(&ProviderKind::ALL).unwrap();
    let names: BTreeSet<(String, String)> = plays.iter().map(|p| (p.row.clone(), p.name())).collect();
    assert_eq!(names.len(), plays.len());
    assert!(plays.iter().all(|p| p.to.provider().is_some() && p.mode.is_some()));
    let apart: usize = ProviderKind::ALL.iter().map(|p| byoa_gateway::matrix::plays(&[*p]).unwrap().len()).sum();
    assert_eq!(apart, plays.len());
}

#[test]
fn every_pair_of_every_dimension_is_covered() {
    let matrix = matrix();
    let mut wrong = Vec::new();
    let mut played: BTreeSet<(String, To, &str)> = BTreeSet::new();
    for (id, _) in ROWS {
        let row = read(id);
        played.extend(row.plays().unwrap().iter().map(|p| (row.dimension.clone(), p.to, p.mode_word())));
    }
    for (dimension, _) in DIMENSIONS {
        let tests = matrix.tests.iter().any(|t| t.dimension == dimension);
        let rows = played.iter().any(|(d, ..)| d == dimension);
        let nothing_yet = !tests && !rows && matrix.not_built.iter().any(|n| n.dimension == dimension);
        for provider in ProviderKind::ALL {
            for mode in [Mode::Platform, Mode::Byoa] {
                let pair = (dimension.to_owned(), To::Provider(provider), mode.as_str());
                let exempt: Vec<&NotApplicable> = matrix
                    .not_applicable
                    .iter()
                    .filter(|n| n.dimension == dimension && n.to.contains(&provider) && n.mode.contains(&mode))
                    .collect();
                match (played.contains(&pair), exempt.as_slice()) {
                    (true, []) => {}
                    (true, _) => wrong.push(format!("{dimension} {provider} {}: needless exemption, rows play it", mode.as_str())),
                    // A dimension that only tests show is shown for all at once; one that rows play is played for each.
                    (false, []) if nothing_yet || (tests && !rows) => {}
                    (false, [exempt]) if exempt.why.len() >= 20 => {}
                    (false, _) => wrong.push(format!("{dimension} {provider} {}: neither played nor named", mode.as_str())),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
