//! The source mutants of `tests/mutants`: each applies to the source, names tests that exist, and each row of the failure-path
//! matrix from 201 on is named by one. `.ci/mutants` builds them and shows that the named tests fail.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::failure_paths::hardening_rows;
use crate::support::here;

struct Mutant {
    name: String,
    guards: Vec<String>,
    red: Vec<(String, String)>,
}

fn mutants() -> Vec<Mutant> {
    let mut all: Vec<Mutant> = std::fs::read_dir(here("tests/mutants"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "patch"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let values = |key: &str| {
                text.lines()
                    .take_while(|l| !l.starts_with("diff "))
                    .filter_map(|l| l.strip_prefix(key))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            let red = values("Red: ")
                .iter()
                .map(|line| line.split_once(' ').expect("`Red: TARGET TEST`"))
                .map(|(t, n)| (t.to_owned(), n.to_owned()))
                .collect();
            Mutant { name: path.file_stem().unwrap().to_str().unwrap().to_owned(), guards: values("Guards: "), red }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Whether a module path such as `delivery::tests::name` is a test function of a target.
pub fn is_test(target: &str, path: &str) -> bool {
    let mut parts: Vec<&str> = path.split("::").collect();
    let Some(function) = parts.pop() else { return false };
    if target == "lib" && parts.last() == Some(&"tests") {
        parts.pop();
    }
    let below = here(if target == "it" { "tests/it" } else { "src" });
    let file = parts.iter().fold(below, |at, part| at.join(part));
    [file.with_extension("rs"), file.join("tests.rs")]
        .iter()
        .filter_map(|f| std::fs::read_to_string(f).ok())
        .any(|text| text.contains(&format!("fn {function}(")) || text.split_whitespace().any(|word| word == function))
}

#[test]
fn each_mutant_applies_and_names_tests_that_exist() {
    let mut wrong = Vec::new();
    for Mutant { name, guards, red } in mutants() {
        if guards.len() != 1 || red.is_empty() {
            wrong.push(format!("{name}: one `Guards:` line and at least one `Red:` line"));
        }
        for (target, test) in &red {
            if !["it", "lib"].contains(&target.as_str()) || !is_test(target, test) {
                wrong.push(format!("{name}: there is no test `{target} {test}`"));
            }
        }
        let patch = Path::new("tests/mutants").join(format!("{name}.patch"));
        let check = Command::new("git").args(["apply", "--check"]).arg(&patch).current_dir(here("")).output().unwrap();
        if !check.status.success() {
            wrong.push(format!("{name} does not apply: {}", String::from_utf8_lossy(&check.stderr)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_row_from_201_on_has_a_mutant() {
    let named: BTreeSet<String> = mutants().into_iter().flat_map(|m| m.red).map(|(_, test)| test).collect();
    let missing: Vec<String> = hardening_rows()
        .into_iter()
        .filter(|(_, tests)| !tests.iter().any(|test| named.contains(test)))
        .map(|(row, tests)| format!("{row}: no patch names one of {tests:?}"))
        .collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
