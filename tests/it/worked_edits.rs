//! The ten edits of `docs/policies.md`, made: each is applied to a copy of the shipped set, passes `byoa policy check`, and its
//! table holds afterwards and did not hold before. The vocabulary on that page is the schema's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use byoa_gateway::policy::vocabulary::Vocabulary;
use serde_json::Value;

use super::support::{copy, here};

struct Edit {
    title: String,
    changes: u64,
    file: String,
    policies: Vec<String>,
    table: String,
}

fn page() -> String {
    fs::read_to_string(here("docs/policies.md")).unwrap()
}

fn block(text: &str, language: &str) -> String {
    let start = format!("```{language}\n");
    let rest = text.split_once(&start).unwrap_or_else(|| panic!("no {language} block in:\n{text}")).1;
    rest.split_once("\n```").unwrap().0.to_owned() + "\n"
}

/// The policies of a file, each from its `@id` to its semicolon at the end of a line.
fn policies(text: &str) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("@id(") {
            all.push(String::new());
        }
        if let Some(policy) = all.last_mut().filter(|p| !p.ends_with(";\n\n")) {
            policy.push_str(line);
            policy.push('\n');
            if line.ends_with(';') {
                policy.push('\n');
            }
        }
    }
    all
}

fn id(policy: &str) -> &str {
    policy.strip_prefix("@id(\"").unwrap().split('"').next().unwrap()
}

fn edits() -> Vec<Edit> {
    page()
        .split("\n### ")
        .filter(|section| section.starts_with(|c: char| c.is_ascii_digit()))
        .map(|section| {
            let title = section.lines().next().unwrap().to_owned();
            let changes = section.lines().find_map(|l| l.strip_prefix("Shipped cases that change: ")).expect("says how many cases change");
            let cedar = block(section, "cedar");
            let file = cedar.lines().next().unwrap().strip_prefix("// policies/").expect("names its file").to_owned();
            Edit { title, changes: changes.parse().unwrap(), file, policies: policies(&cedar), table: block(section, "yaml") }
        })
        .collect()
}

fn apply(edit: &Edit, dir: &Path) {
    let file = dir.join(&edit.file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut text = fs::read_to_string(&file).unwrap_or_default();
    let there = policies(&text);
    for policy in &edit.policies {
        match there.iter().find(|p| id(p) == id(policy)) {
            Some(old) => text = text.replace(old.trim_end(), policy.trim_end()),
            None => text = format!("{}\n\n{policy}", text.trim_end()),
        }
    }
    fs::write(file, format!("{}\n", text.trim())).unwrap();
}

fn byoa(dir: &Path, args: &[&str]) -> (Option<i32>, String) {
    let schema = here("schemas/gateway.cedarschema");
    let done = Command::new(env!("CARGO_BIN_EXE_byoa"))
        .args(["policy", "--policies", dir.to_str().unwrap(), "--schema", schema.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout) + &text(&done.stderr))
}

#[test]
fn ten_edits() {
    let edits = edits();
    assert_eq!(edits.len(), 10);
    let (mut shown, mut differ) = (String::new(), Vec::new());
    for edit in &edits {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("before"), dir.path().join("after"));
        copy(&here("policies"), &before);
        copy(&here("policies"), &after);
        apply(edit, &after);
        let table = dir.path().join("table.yaml");
        fs::write(&table, &edit.table).unwrap();
        let table = table.to_str().unwrap();

        // Where ends are looked at, the edit's own table says what is meant.
        fs::write(after.join("tables/99-edit.yaml"), &edit.table).unwrap();
        let (code, said) = byoa(&after, &["check"]);
        let refused = edit.table.contains("policy.outside_envelope");
        assert_eq!(code, Some(i32::from(refused)), "{}: {said}", edit.title);
        fs::remove_file(after.join("tables/99-edit.yaml")).unwrap();
        let (code, said) = byoa(&after, &["fmt", "--check"]);
        assert_eq!(code, Some(0), "{}: {said}", edit.title);
        let (code, said) = byoa(&after, &["test", table]);
        assert_eq!(code, Some(0), "{}: {said}", edit.title);
        let (code, _) = byoa(&before, &["test", table]);
        assert_eq!(code, Some(1), "{}: its table says nothing that was not so before", edit.title);
        let (_, said) = byoa(&after, &["test", "--format", "json"]);
        let report: Value =
            serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap_or_else(|e| panic!("{}: {e}: {said}", edit.title));
        let tables = report["tables"].as_array().unwrap();
        let wrong: u64 = tables.iter().map(|table| table["wrong"].as_u64().unwrap()).sum();
        if edit.changes != wrong {
            differ.push(format!("{}: {wrong} cases of the shipped tables change", edit.title));
        }
        shown += &format!("{}: {wrong} shipped cases change\n", edit.title);
    }
    println!("{shown}");
    assert!(differ.is_empty(), "docs/policies.md says otherwise:\n{}", differ.join("\n"));
}

/// Names in backticks.
fn ticked(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_vocabulary_is_the_schemas() {
    let text = page();
    let rows: Vec<Vec<&str>> =
        text.lines().filter(|l| l.starts_with("| `")).map(|l| l.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let words = Vocabulary::get();
    let mark = |f: &byoa_gateway::policy::vocabulary::Field| format!("{}{}", f.name, if f.required { "" } else { "?" });

    let mut told = BTreeMap::new();
    for row in rows.iter().filter(|r| r.len() == 4) {
        told.insert(ticked(row[0]), (ticked(row[1]), ticked(row[2]), ticked(row[3])));
    }
    let wanted: BTreeMap<_, _> = words
        .actions
        .iter()
        .map(|(name, shape)| {
            let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
            let context = shape.context.iter().map(mark).collect();
            (BTreeSet::from([name.clone()]), (set(&shape.principals), set(&shape.resources), context))
        })
        .collect();
    assert_eq!(told, wanted);

    let known: BTreeMap<String, BTreeSet<String>> = rows
        .iter()
        .filter(|r| r.len() == 2 && words.entities.contains_key(r[0].trim_matches('`')))
        .map(|r| (r[0].trim_matches('`').to_owned(), ticked(r[1]).into_iter().filter(|w| !w.contains(' ')).collect()))
        .collect();
    let wanted: BTreeMap<String, BTreeSet<String>> = words
        .entities
        .iter()
        .filter(|(_, shape)| !shape.fields.is_empty())
        .map(|(name, shape)| (name.clone(), shape.fields.iter().map(mark).collect()))
        .collect();
    assert_eq!(known, wanted);
}
