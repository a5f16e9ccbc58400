//! README and `docs/` tell what the code does: whatever is documented exists, and whatever exists is documented.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use byoa_gateway::admin::document::Document;
use byoa_gateway::config::Config;
use byoa_gateway::domain::breaker::BreakerState;
use byoa_gateway::domain::guard::Guard;
use byoa_gateway::domain::installation::{AnswerKind, InstallationStatus, Mode, ProviderKind};
use byoa_gateway::domain::reason::ReasonCode;
use byoa_gateway::telemetry::metrics::Metrics;
use serde_json::Value;

use crate::mutants::is_test;

fn page(name: &str) -> String {
    fs::read_to_string(name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// README and every page under `docs/`.
fn pages() -> Vec<(String, String)> {
    let mut names: Vec<String> = fs::read_dir("docs").unwrap().map(|e| e.unwrap().path().to_string_lossy().into_owned()).collect();
    names.retain(|n| n.ends_with(".md"));
    names.push("README.md".into());
    names.sort();
    names.into_iter().map(|n| (n.clone(), page(&n))).collect()
}

/// Rows of every table in a text, cells trimmed, heads and rules left out.
fn rows(text: &str) -> Vec<Vec<String>> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |l: &str| l.starts_with("|-");
    (0..lines.len())
        .filter(|i| lines[*i].starts_with('|') && !is_rule(lines[*i]) && !lines.get(i + 1).is_some_and(|next| is_rule(next)))
        .map(|i| lines[i].trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// What stands in backticks, code blocks left out.
fn ticked(text: &str) -> Vec<String> {
    let mut outside = true;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            outside = !outside;
        } else if outside {
            found.extend(line.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    found
}

/// The lines of the code blocks in a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

fn same(what: &str, exists: &BTreeSet<String>, documented: &BTreeSet<String>) {
    let missing: Vec<_> = exists.difference(documented).collect();
    let stale: Vec<_> = documented.difference(exists).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "{what}\nexists and is not documented: {missing:#?}\nis documented and does not exist: {stale:#?}"
    );
}

fn source_files(folder: &Path, all: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.insert(path.strip_prefix("src").unwrap().to_string_lossy().into_owned());
        }
    }
}

#[test]
fn the_tree_is_the_one_on_disk() {
    let mut exists = BTreeSet::new();
    source_files(Path::new("src"), &mut exists);
    let architecture = page("docs/architecture.md");
    let tree = architecture.split("```\nsrc/\n").nth(1).expect("a tree under src/").split("\n```").next().unwrap();
    let mut documented = BTreeSet::new();
    for line in tree.lines() {
        let (file, what) = line.trim().split_once(' ').unwrap_or_else(|| panic!("`{line}` says nothing about the file"));
        assert!(!what.trim().is_empty() && documented.insert(file.to_owned()), "`{line}` twice, or says nothing");
    }
    same("docs/architecture.md §2", &exists, &documented);
}

/// A page whose last table is written by the code; `BYOA_UPDATE_DOCS=1` writes it anew.
fn ends_with_table(name: &str, table: &str) {
    let now = page(name);
    let head = table.lines().next().unwrap();
    let (before, _) = now.split_once(head).unwrap_or_else(|| panic!("{name} has a table `{head}`"));
    let wanted = format!("{before}{table}");
    if std::env::var_os("BYOA_UPDATE_DOCS").is_some() {
        fs::write(name, &wanted).unwrap();
        return;
    }
    assert!(now == wanted, "{name} is not what the code says: run BYOA_UPDATE_DOCS=1 cargo test --test it docs::");
}

#[test]
fn every_guard_is_documented() {
    let mut table = String::from("| Guard | Keeps out | Rows |\n|---|---|---|\n");
    for guard in Guard::ALL {
        table += &format!("| `{}` | {} | {} |\n", guard.name(), guard.keeps_out(), guard.rows().join(" "));
    }
    ends_with_table("docs/matrix.md", &table);
}

#[test]
fn every_reason_code_is_documented() {
    let mut table = String::from("| Code | Status | Try again | Policies | Meaning |\n|---|---|---|---|---|\n");
    for code in ReasonCode::ALL {
        let again = if code.retryable() { "yes" } else { "no" };
        let policies = if code.usable_by_policies() { "yes" } else { "no" };
        table += &format!("| `{code}` | {} | {again} | {policies} | {} |\n", code.status(), code.meaning());
    }
    ends_with_table("docs/reasons.md", &table);
    let answer = byoa(&["reasons", "-o", "json"]);
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let printed: Vec<&str> = answer["items"].as_array().unwrap().iter().map(|i| i["code"].as_str().unwrap()).collect();
    assert_eq!(printed, ReasonCode::ALL.iter().map(|c| c.as_str()).collect::<Vec<_>>());
}

#[test]
fn reason_codes_in_texts_exist() {
    let stages: BTreeSet<&str> = ReasonCode::ALL.iter().filter_map(|c| c.as_str().split_once('.')).map(|(stage, _)| stage).collect();
    let settings: Vec<String> = keys().into_keys().collect();
    for (name, text) in pages() {
        for word in ticked(&text) {
            let Some((stage, what)) = word.split_once('.') else { continue };
            let formed = !what.is_empty() && what.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !word.ends_with(".rs");
            let setting = settings.iter().any(|k| *k == word || k.starts_with(&format!("{word}.")));
            // Code shown in passing: `store.accept_inbound`, `engine.pin`.
            let code =
                name == "docs/architecture.md" && ReasonCode::parse(&word).is_none() && Path::new(&format!("src/{stage}.rs")).exists();
            if stages.contains(stage) && formed && !setting && !code {
                assert!(ReasonCode::parse(&word).is_some(), "{name}: `{word}` is no reason code");
            }
        }
    }
}

fn leaves(path: &str, value: &Value, all: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                leaves(&if path.is_empty() { name.clone() } else { format!("{path}.{name}") }, value, all);
            }
        }
        Value::String(text) => drop(all.insert(path.to_owned(), text.clone())),
        other => drop(all.insert(path.to_owned(), other.to_string())),
    }
}

/// Every key of the configuration with its default.
fn keys() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    leaves("", &serde_json::to_value(Config::default()).unwrap(), &mut all);
    all
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let exists = keys().into_iter().map(|(key, default)| format!("| `{key}` | `{default}` |")).collect();
    let text = page("docs/configuration.md");
    let mut documented = BTreeSet::new();
    for row in rows(&text).iter().filter(|row| row.len() == 3) {
        assert!(row[2].len() > 8, "{row:?} does not say what it means");
        documented.insert(format!("| {} | {} |", row[0], row[1]));
    }
    same("docs/configuration.md", &exists, &documented);
}

#[test]
fn every_metric_is_documented_with_its_labels() {
    let metrics = Metrics::new("v");
    let (slack, code) = (ProviderKind::Slack, Some(ReasonCode::PolicyNoPermit));
    metrics.ingress(slack, Some(Mode::Byoa), "refused", code);
    metrics.ingress_took(0.1);
    metrics.decision("RouteMessage", false, code, 0.1);
    metrics.delivery("delivered", Some(0.1));
    metrics.breaker_turned(BreakerState::Open);
    metrics.under_way(1, |_| 1);
    metrics.send(slack, "org", "sent", None);
    metrics.synchronous_answer(AnswerKind::ViewSubmission, "relayed");
    metrics.previous_secret_used(slack);
    metrics.lifecycle(slack, "revoked");
    metrics.refresh(slack, "done");
    metrics.installations(std::iter::once((slack, InstallationStatus::Active)));
    metrics.throttled("webhook");
    metrics.operator_refused(ReasonCode::AdminUnauthenticated);
    metrics.panicked();
    metrics.connection_refused("address");
    metrics.alias_used("acme-slack");
    metrics.policies_in_force("v", 1);
    metrics.policies_reloaded(true);
    let text = metrics.encode(1, 1);
    let mut exists = BTreeSet::new();
    for line in text.lines() {
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) else { continue };
        let shown = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        let sample = text.lines().find_map(|l| l.strip_prefix(&shown)?.strip_prefix('{')?.split_once('}'));
        let labels: Vec<String> =
            sample.map_or("", |(labels, _)| labels).split(',').filter_map(|l| l.split_once('=')).map(|(l, _)| format!("`{l}`")).collect();
        exists.insert(format!("| `{shown}` | {kind} | {} |", labels.join(" ")));
    }
    let documented =
        rows(&page("docs/metrics.md")).iter().filter(|r| r.len() == 4).map(|r| format!("| {} | {} | {} |", r[0], r[1], r[2])).collect();
    same("docs/metrics.md", &exists, &documented);
    for (name, text) in pages() {
        for word in ticked(&text).into_iter().filter(|w| w.starts_with("byoa_") && w != "byoa_gateway") {
            let word = word.split('{').next().unwrap_or_default();
            assert!(exists.iter().any(|e| e.starts_with(&format!("| `{word}`"))), "{name}: `{word}` is no metric");
        }
    }
}

fn byoa(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_byoa")).args(arguments).output().unwrap();
    assert!(output.status.success(), "byoa {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Flags in a help text, long where there is a long one.
fn flags_in(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim).filter(|l| l.starts_with('-') && !l.starts_with("- "));
    lines
        .filter_map(|l| l.split([' ', ',']).find(|w| w.starts_with("--")).map(str::to_owned))
        .filter(|f| f != "--help" && f != "--version")
        .collect()
}

/// Every command with its flags; the empty name holds those that go with all.
fn commands() -> BTreeMap<String, BTreeSet<String>> {
    fn look(words: &[&str], all: &mut BTreeMap<String, BTreeSet<String>>) {
        let help = byoa(&[words, &["--help"]].concat());
        let inner: Vec<String> = help
            .split("Commands:\n")
            .nth(1)
            .map(|rest| rest.lines().take_while(|l| !l.is_empty()).filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect())
            .unwrap_or_default();
        all.insert(words.join(" "), flags_in(&help));
        for name in inner.iter().filter(|n| *n != "help") {
            look(&[words, &[name.as_str()]].concat(), all);
        }
    }
    let mut all = BTreeMap::new();
    look(&[], &mut all);
    let common = all[""].clone();
    let groups: BTreeMap<String, BTreeSet<String>> =
        all.iter().filter(|(name, _)| !name.contains(' ')).map(|(n, f)| (n.clone(), f.clone())).collect();
    for (name, flags) in &mut all {
        if !name.is_empty() {
            flags.retain(|f| !common.contains(f));
        }
        // What goes with every command of a group is said once.
        if let Some((group, _)) = name.split_once(' ') {
            flags.retain(|f| !groups[group].contains(f));
        }
    }
    all
}

#[test]
fn every_command_and_flag_is_documented() {
    let text = page("docs/cli.md");
    let mut documented = BTreeSet::new();
    for section in text.split("\n## ").skip(1) {
        let title = ticked(section.lines().next().unwrap()).first().cloned().unwrap_or_default();
        let name = title.trim_start_matches("byoa").trim().to_owned();
        documented.insert(format!("byoa {name}"));
        for row in rows(section) {
            for flag in ticked(&row[0]).into_iter().filter(|f| f.starts_with("--")) {
                documented.insert(format!("byoa {name} {}", flag.split(' ').next().unwrap()));
            }
        }
    }
    let mut exists = BTreeSet::new();
    for (name, flags) in commands() {
        exists.insert(format!("byoa {name}"));
        exists.extend(flags.iter().map(|flag| format!("byoa {name} {flag}")));
    }
    same("docs/cli.md", &exists, &documented);
}

#[test]
fn commands_in_texts_exist() {
    let commands = commands();
    let mut seen = 0;
    for (name, text) in pages() {
        let lines = blocks(&text, "sh").iter().flat_map(|b| b.lines().map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>();
        for line in lines.into_iter().chain(ticked(&text)) {
            let line = line.trim_start_matches("$ ").replace("cargo run --locked -- ", "byoa ");
            let words: Vec<&str> = line.split_whitespace().take_while(|w| !matches!(*w, "#" | "|" | "&&" | ">" | "&")).collect();
            if words.first() != Some(&"byoa") || words.len() < 2 {
                continue;
            }
            seen += 1;
            let command = (1..words.len()).rev().map(|n| words[1..=n].join(" ")).find(|c| commands.contains_key(c)).unwrap_or_default();
            assert!(!command.is_empty() || words[1].starts_with('-'), "{name}: there is no `{line}`");
            for flag in words.iter().filter(|w| w.starts_with("--")) {
                let flag = flag.split('=').next().unwrap();
                let known = commands[&command].contains(flag) || commands[""].contains(flag);
                assert!(known || matches!(flag, "--help" | "--version"), "{name}: `{line}`: there is no {flag}");
            }
        }
    }
    assert!(seen > 10, "the texts show commands");
}

/// Path → methods, from the routers.
fn routes() -> BTreeMap<String, BTreeSet<&'static str>> {
    let source = page("src/http.rs");
    let mut all: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for part in source.split(".route(\"").skip(1) {
        let (path, rest) = part.split_once('"').unwrap();
        let handlers = rest.split(['\n', ';']).next().unwrap();
        let methods = all.entry(path.to_owned()).or_default();
        for (word, method) in [("get(", "GET"), ("post(", "POST"), ("put(", "PUT"), ("delete(", "DELETE"), ("any(", "ANY")] {
            let said = handlers.match_indices(word).any(|(at, _)| handlers[..at].ends_with([' ', '.', '(']));
            methods.extend(said.then_some(method));
        }
        assert!(!methods.is_empty(), "{path} has no method");
    }
    all
}

/// The route that a path leads to: the one with the fewest placeholders.
fn route_of<'r>(routes: &'r BTreeMap<String, BTreeSet<&'static str>>, path: &str) -> Option<&'r String> {
    let parts: Vec<&str> = path.split('/').collect();
    let fits = |route: &&String| {
        let pattern: Vec<&str> = route.split('/').collect();
        pattern.len() == parts.len() && pattern.iter().zip(&parts).all(|(p, s)| p == s || p.starts_with('{'))
    };
    routes.keys().filter(fits).min_by_key(|route| route.matches('{').count())
}

#[test]
fn every_path_is_documented_and_routed() {
    let routes = routes();
    let mut documented = BTreeSet::new();
    for (name, text) in pages() {
        for said in ticked(&text) {
            let said = said.split(['?', '#']).next().unwrap();
            let (method, path) = said.split_once(' ').unwrap_or(("", said));
            if !path.starts_with("/v1/") && !["GET", "POST", "PUT", "DELETE"].contains(&method) {
                continue;
            }
            let path = path.split(' ').next().unwrap();
            let route = route_of(&routes, path).unwrap_or_else(|| panic!("{name}: `{said}` is not routed"));
            let methods = &routes[route];
            let takes = method.is_empty() || methods.contains(method) || methods.contains("ANY");
            assert!(takes, "{name}: `{said}`: {route} takes {methods:?}");
            if name != "README.md" {
                documented.extend(methods.get(if methods.contains("ANY") { "ANY" } else { method }).map(|m| format!("{m} {route}")));
            }
        }
    }
    let exists = routes.iter().flat_map(|(path, methods)| methods.iter().map(move |m| format!("{m} {path}"))).collect();
    same("docs/operator-api.md and docs/agents.md", &exists, &documented);
}

#[test]
fn every_kind_that_can_be_listed_is_documented() {
    let help = byoa(&["get", "--help"]);
    let kinds = help.lines().find(|l| l.trim_start().starts_with("orgs ")).expect("the kinds").split_whitespace();
    let ticked = ticked(&page("docs/operator-api.md"));
    for kind in kinds {
        assert!(ticked.iter().any(|t| t == kind), "docs/operator-api.md does not say `{kind}`");
    }
}

#[test]
fn examples_read() {
    let readme = page("README.md");
    let examples = blocks(&readme, "yaml");
    assert_eq!(examples.len(), 2, "README.md shows a configuration and resources");
    let config: Config = serde_yaml::from_str(&examples[0]).expect("README.md: the configuration");
    assert_ne!(config, Config::default());
    Document::read(serde_yaml::from_str(&examples[1]).expect("README.md: the resources")).expect("README.md: the resources");
}

#[test]
fn links_lead_somewhere() {
    for (name, text) in pages() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.starts_with("http") {
                continue;
            }
            let path = Path::new(&name).parent().unwrap().join(target);
            assert!(path.exists(), "{name}: {link} leads nowhere");
        }
    }
    for page in fs::read_dir("docs").unwrap() {
        let page = page.unwrap().file_name().to_string_lossy().into_owned();
        assert!(!page.ends_with(".md") || self::page("README.md").contains(&format!("docs/{page}")), "README.md does not list docs/{page}");
    }
}

/// Each claim of docs/security.md names tests that exist.
#[test]
fn claims_of_security_name_tests() {
    let text = page("docs/security.md");
    let claims: Vec<Vec<String>> =
        text.split("\n## ").filter(|s| s.starts_with("Against ")).flat_map(rows).filter(|row| row.len() == 3).collect();
    assert!(claims.len() > 30, "the tables of claims are read: {}", claims.len());
    let mut wrong = Vec::new();
    for row in &claims {
        let tests: Vec<String> = ticked(&row[2]);
        let unknown = |test: &&String| test.split_once(' ').is_none_or(|(target, path)| !is_test(target, path));
        if tests.is_empty() {
            wrong.push(format!("`{}` names no test", row[0]));
        }
        wrong.extend(tests.iter().filter(unknown).map(|test| format!("`{}`: there is no test `{test}`", row[0])));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ci_runs_what_the_readme_says() {
    let command = "bash .ci/test";
    assert!(blocks(&page("README.md"), "sh").iter().any(|b| b.lines().any(|l| l == command)), "README.md shows `{command}`");
    let run: Vec<String> = page(".ci/run").lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(str::to_owned).collect();
    assert_eq!(run, [command], ".ci/run runs the README's command and nothing else");
}

/// A seal is a doctest that must not compile beside one that must: they differ in one line, so that line is the reason.
#[test]
fn each_seal_has_a_twin_that_differs_in_one_line() {
    let source = page("src/lib.rs");
    let text: String =
        source.lines().filter_map(|l| l.strip_prefix("//!")).map(|l| format!("{}\n", l.strip_prefix(' ').unwrap_or(l))).collect();
    let mut blocks = Vec::new();
    let mut open: Option<(String, Vec<String>)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(tag), None) => open = Some((tag.to_owned(), Vec::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, lines))) => lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    assert!(blocks.len() >= 20 && blocks.len() % 2 == 0, "seals come in pairs");
    for pair in blocks.chunks(2) {
        let [(forbidden, wrong), (allowed, right)] = pair else { panic!("a pair") };
        assert!(forbidden.starts_with("compile_fail,E") && allowed.is_empty(), "first the one that must fail, with its error: {wrong:?}");
        assert_eq!(wrong.len(), right.len(), "{wrong:?}");
        let differ = wrong.iter().zip(right).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 1, "{wrong:#?}\n{right:#?}");
    }
}
