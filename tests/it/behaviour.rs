//! How an earlier system of this kind behaved, as tables: each case with the answer that is wanted here, played against the
//! gateway. `keep` wants the same verdict, `beat` a better one; a note says where the rules ask for something else.

mod backfill;
mod credential;
mod rollout;
mod route;
mod send;
pub mod session;
mod world;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::support::here;

const FOLDER: &str = "tests/tables/behaviour";

/// One area.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    pub area: String,
    #[expect(dead_code, reason = "for the reader")]
    about: String,
    pub cases: Vec<Case>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stance {
    Keep,
    Beat,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub title: String,
    #[expect(dead_code, reason = "for the reader")]
    pub stance: Stance,
    #[serde(default)]
    #[expect(dead_code, reason = "for the reader")]
    note: Option<String>,
    /// Why it cannot be played.
    #[serde(default)]
    pub not_here: Option<String>,
    #[serde(default)]
    pub given: Value,
    #[serde(default)]
    pub want: Value,
}

fn yaml<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let file = here(FOLDER).join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_yaml::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The table of an area.
pub fn table(area: &str) -> Table {
    yaml(&format!("{area}.yaml"))
}

/// The cases of an area that can be played.
pub fn cases(area: &str) -> Vec<Case> {
    table(area).cases.into_iter().filter(|case| case.not_here.is_none()).collect()
}

#[test]
fn every_case_stands_in_its_table_once() {
    let index: BTreeMap<String, Vec<String>> = yaml("index.yaml");
    let mut areas: Vec<String> = std::fs::read_dir(here(FOLDER))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".yaml").filter(|n| *n != "index").map(str::to_owned))
        .collect();
    areas.sort();
    assert_eq!(areas, index.keys().cloned().collect::<Vec<_>>());
    let mut seen = std::collections::BTreeSet::new();
    for (area, ids) in &index {
        let table = table(area);
        assert_eq!(&table.area, area);
        let found: Vec<&String> = table.cases.iter().map(|c| &c.id).collect();
        assert_eq!(found, ids.iter().collect::<Vec<_>>(), "{area}");
        for case in table.cases {
            assert!(seen.insert(case.id.clone()), "{} twice", case.id);
            assert!(!case.title.is_empty(), "{}", case.id);
            let whole = case.not_here.is_some() || (!case.given.is_null() && case.want.as_object().is_some_and(|w| !w.is_empty()));
            assert!(whole, "{}: a case is played, or says why it is not", case.id);
        }
    }
}
