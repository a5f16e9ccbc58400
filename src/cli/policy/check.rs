//! `byoa policy check`: every fault of the policy folder at its place, for people, programs and code hosts.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use url::Url;

use super::{CheckFormat, CliError, Place};
use crate::cli::show::{cell, counted};
use crate::domain::clock::Timestamp;
use crate::domain::reason::ReasonCode;
use crate::policy::{Diagnostic, LoadError, Rule, Snapshot, read};

/// What was found.
struct Found {
    /// How many files there are; none where not all could be read.
    files: Option<usize>,
    /// Version and number of policies of a set without fault.
    set: Option<(String, usize)>,
    faults: Vec<Diagnostic>,
    notes: Vec<Note>,
    /// Whether there was something to look at.
    ran: bool,
}

/// What is no fault and worth a look.
struct Note {
    file: String,
    line: usize,
    message: String,
}

pub(super) fn run(place: &Place, format: CheckFormat) -> Result<(), CliError> {
    let found = look(place);
    match format {
        CheckFormat::Human => anstream::print!("{}", human(&found)),
        CheckFormat::Json => anstream::println!("{}", pretty(&json(&found))?),
        CheckFormat::Sarif => anstream::println!("{}", pretty(&sarif(&found, &std::env::current_dir().unwrap_or_default()))?),
    }
    match (found.faults.is_empty(), found.ran) {
        (true, _) => Ok(()),
        // Every fault has been said.
        (false, true) => Err(CliError::Found(String::new())),
        (false, false) => Err(CliError::Unable(String::new())),
    }
}

fn pretty(value: &Value) -> Result<String, CliError> {
    serde_json::to_string_pretty(value).map_err(|e| CliError::Unable(e.to_string()))
}

fn look(place: &Place) -> Found {
    let failed = |files, error: LoadError| {
        let ran = error.code != ReasonCode::PolicyMissing && !error.diagnostics.iter().any(is_unread);
        Found { files, set: None, faults: error.diagnostics, notes: vec![], ran }
    };
    let sources = match read(&place.dir, &place.schema, &place.limits) {
        Ok(sources) => sources,
        Err(error) => return failed(None, error),
    };
    let files = Some(sources.policy_files());
    match Snapshot::checked(&sources, place.now) {
        Ok(law) => {
            let set = Some((law.version().to_string(), law.policies()));
            Found { files, set, faults: vec![], notes: notes(&law, place.now), ran: true }
        }
        Err(error) => failed(files, error),
    }
}

/// Whether it was not even looked at.
fn is_unread(fault: &Diagnostic) -> bool {
    matches!(fault.rule, Rule::File | Rule::Schema) && fault.message.starts_with("cannot be read")
}

fn notes(law: &Snapshot, now: Timestamp) -> Vec<Note> {
    let note = |(id, place, end): (String, Option<&crate::policy::Place>, Timestamp)| {
        let message = if end <= now {
            format!("`{id}` ended {end} and is no part of the policy set any more; remove it")
        } else {
            format!("`{id}` ends {end}; from then on it is no part of the policy set")
        };
        let (file, line) = place.map_or_else(Default::default, |place| (place.file.clone(), place.line));
        Note { file, line, message }
    };
    law.ends().into_iter().map(note).collect()
}

fn human(found: &Found) -> String {
    let mut text = String::new();
    for fault in &found.faults {
        text += &block(fault);
    }
    for note in &found.notes {
        text += &format!("{}:{}: note: {}\n", note.file, note.line, note.message);
    }
    if let (Some(files), Some((version, policies))) = (found.files, &found.set) {
        let nothing = if found.notes.is_empty() { ": nothing to say" } else { "" };
        let version: String = version.chars().take(8).collect();
        return text + &format!("{}, {}, version {version}…{nothing}\n", counted(files, "file"), counted(*policies, "policy"));
    }
    let mut with: Vec<&str> = found.faults.iter().map(|fault| fault.file.as_str()).collect();
    with.dedup();
    let of = found.files.map_or_else(|| counted(with.len(), "file"), |files| format!("{} of {}", with.len(), counted(files, "file")));
    text += &format!("{} in {of}\n", counted(found.faults.len(), "fault"));
    if found.faults.iter().all(|fault| !fault.orgs.is_empty()) {
        let orgs = orgs(found).join(", ");
        text += &format!("a gateway would reject the folder of {orgs} and keep its last accepted files; everything else it would take\n");
    }
    text
}

/// One fault: where, the line with what is meant underlined, what is wrong.
pub(super) fn block(fault: &Diagnostic) -> String {
    let bold = anstyle::Style::new().bold();
    let red = anstyle::AnsiColor::Red.on_default();
    let mut text = format!("{bold}{}:{}:{}{bold:#}  {red}{}{red:#}\n", fault.file, fault.line, fault.column, fault.rule.as_str());
    if let Some(line) = fault.source_line.as_deref().filter(|_| fault.length > 0) {
        let number = fault.line.to_string();
        let margin = " ".repeat(number.len());
        // Each character takes one column, tabs too, so that the marks stand under what they mean.
        let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let marks = "^".repeat(fault.length.min(line.chars().count().saturating_sub(fault.column - 1)).max(1));
        text += &format!("  {number} | {line}\n  {margin} | {}{red}{marks}{red:#}\n", " ".repeat(fault.column - 1));
    }
    text + &format!("  {}\n\n", cell(&Value::String(fault.message.clone())))
}

/// The orgs whose files are at fault.
fn orgs(found: &Found) -> Vec<&str> {
    let all: std::collections::BTreeSet<&str> = found.faults.iter().flat_map(|fault| &fault.orgs).map(|org| org.as_str()).collect();
    all.into_iter().collect()
}

fn json(found: &Found) -> Value {
    let notes: Vec<Value> = found.notes.iter().map(|n| json!({"file": n.file, "line": n.line, "message": n.message})).collect();
    let (version, policies) = found.set.as_ref().map_or((None, 0), |(version, policies)| (Some(version), *policies));
    json!({
        "ok": found.faults.is_empty(), "version": version, "policies": policies, "files": found.files,
        "diagnostics": found.faults, "notes": notes, "orgs_at_fault": orgs(found),
    })
}

/// SARIF 2.1.0: one run, every rule, a result for each fault and note.
fn sarif(found: &Found, here: &Path) -> Value {
    let rules: Vec<Value> =
        Rule::ALL.iter().map(|rule| json!({"id": rule.as_str(), "shortDescription": {"text": rule.meaning()}})).collect();
    let result = |rule: Rule, level: &str, message: &str, file: &str, region: Option<Value>| {
        let mut physical = json!({"artifactLocation": {"uri": uri(here, file)}});
        if let (Some(region), Some(physical)) = (region, physical.as_object_mut()) {
            physical.insert("region".into(), region);
        }
        let index = Rule::ALL.iter().position(|known| *known == rule);
        json!({
            "ruleId": rule.as_str(), "ruleIndex": index, "level": level, "message": {"text": message},
            "locations": [{"physicalLocation": physical}],
        })
    };
    let faults = found.faults.iter().map(|fault| {
        // A fault of the whole file has no region. `endColumn` is the column behind the last character.
        let region = (fault.length > 0)
            .then(|| json!({"startLine": fault.line, "startColumn": fault.column, "endColumn": fault.column + fault.length}));
        result(fault.rule, "error", &fault.message, &fault.file, region)
    });
    let notes =
        found.notes.iter().map(|note| result(Rule::Until, "note", &note.message, &note.file, Some(json!({"startLine": note.line.max(1)}))));
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "byoa", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "invocations": [{"executionSuccessful": found.ran}],
            "results": faults.chain(notes).collect::<Vec<Value>>(),
        }],
    })
}

/// A file relative to this folder, as a URI reference.
fn uri(here: &Path, file: &str) -> String {
    let path: PathBuf = here.join(file);
    // Without `./` and `../` where they can be taken out, so that one file has one name.
    let tidy = path.components().fold(PathBuf::new(), |mut tidy, part| {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => drop(tidy.pop()),
            part => tidy.push(part),
        }
        tidy
    });
    let relative =
        Url::from_directory_path(here).ok().zip(Url::from_file_path(&tidy).ok()).and_then(|(base, url)| base.make_relative(&url));
    relative.unwrap_or_else(|| file.replace('\\', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(line: usize, column: usize, length: usize, source: &str) -> Diagnostic {
        let source_line = Some(source.to_owned());
        Diagnostic {
            file: "policies/a b.cedar".into(),
            line,
            column,
            length,
            rule: Rule::Types,
            message: "wrong".into(),
            source_line,
            orgs: vec![],
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn what_is_meant_is_underlined() {
        insta::assert_snapshot!(plain(&block(&fault(12, 6, 3, "\twhen öö\u{7}x y"))), @"
        policies/a b.cedar:12:6  types
          12 |  when öö x y
             |      ^^^
          wrong
        ");
        // Never beyond the line, never nothing.
        assert!(plain(&block(&fault(1, 3, 99, "abcd"))).contains("|   ^^\n"));
        assert!(plain(&block(&fault(1, 9, 1, "abcd"))).contains("|         ^\n"));
        assert_eq!(plain(&block(&fault(1, 1, 0, "abcd"))), "policies/a b.cedar:1:1  types\n  wrong\n\n");
    }

    #[test]
    fn a_place_is_a_uri_from_here() {
        let from = |file: &str| uri(Path::new("/work/here"), file);
        assert_eq!(from("policies/a b%.cedar"), "policies/a%20b%25.cedar");
        assert_eq!(from("./policies/../a.cedar"), "a.cedar");
        assert_eq!(from("/work/here/x.cedar"), "x.cedar");
        assert_eq!(from("/work/there/x.cedar"), "../there/x.cedar");
        assert_eq!(from("/work/here/policies/ö#?.cedar"), "policies/%C3%B6%23%3F.cedar");
    }

    #[test]
    fn sarif_has_the_shape_that_readers_ask_for() {
        let whole = Diagnostic { rule: Rule::Empty, ..fault(1, 1, 0, "") };
        let note = Note { file: "policies/n.cedar".into(), line: 4, message: "ended".into() };
        let found = Found { files: Some(2), set: None, faults: vec![fault(3, 13, 4, "x"), whole], notes: vec![note], ran: true };
        let mut log = sarif(&found, Path::new("/work"));
        let rules = log["runs"][0]["tool"]["driver"]["rules"].take();
        assert_eq!(rules.as_array().unwrap().len(), Rule::ALL.len());
        for (rule, shown) in Rule::ALL.iter().zip(rules.as_array().unwrap()) {
            assert_eq!(shown["id"], json!(rule), "the word is the one that is serialised");
            assert!(shown["shortDescription"]["text"].as_str().unwrap().ends_with('.'));
        }
        for result in log["runs"][0]["results"].as_array().unwrap() {
            assert_eq!(rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()]["id"], result["ruleId"]);
        }
        insta::assert_json_snapshot!(log, @r#"
        {
          "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
          "version": "2.1.0",
          "runs": [
            {
              "tool": {
                "driver": {
                  "name": "byoa",
                  "semanticVersion": "0.1.0",
                  "rules": null
                }
              },
              "columnKind": "unicodeCodePoints",
              "invocations": [
                {
                  "executionSuccessful": true
                }
              ],
              "results": [
                {
                  "ruleId": "types",
                  "ruleIndex": 3,
                  "level": "error",
                  "message": {
                    "text": "wrong"
                  },
                  "locations": [
                    {
                      "physicalLocation": {
                        "artifactLocation": {
                          "uri": "policies/a%20b.cedar"
                        },
                        "region": {
                          "startLine": 3,
                          "startColumn": 13,
                          "endColumn": 17
                        }
                      }
                    }
                  ]
                },
                {
                  "ruleId": "empty",
                  "ruleIndex": 4,
                  "level": "error",
                  "message": {
                    "text": "wrong"
                  },
                  "locations": [
                    {
                      "physicalLocation": {
                        "artifactLocation": {
                          "uri": "policies/a%20b.cedar"
                        }
                      }
                    }
                  ]
                },
                {
                  "ruleId": "until",
                  "ruleIndex": 11,
                  "level": "note",
                  "message": {
                    "text": "ended"
                  },
                  "locations": [
                    {
                      "physicalLocation": {
                        "artifactLocation": {
                          "uri": "policies/n.cedar"
                        },
                        "region": {
                          "startLine": 4
                        }
                      }
                    }
                  ]
                }
              ]
            }
          ]
        }
        "#);
    }
}
