//! The floors hold: imports go down, and what one floor alone may name, no other does. The tables are read from
//! `docs/architecture.md` §1, so that the page and the code cannot disagree. Code under `#[cfg(test)]` may reach anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use byoa_gateway::domain::installation::ProviderKind;

/// Files, or modules with all their files, that start a stopwatch, and why. Only durations: no decision may depend on them.
const STOPWATCHES: [(&str, &str); 6] = [
    ("domain/clock", "how far the wall clock has run away from a steady one"),
    ("ingress", "how long requests and decisions take, for metrics"),
    ("policy/reload", "how long a reload takes, and when a folder that keeps changing is given up"),
    ("policy/prove", "how long proofs take, for whoever waits for them"),
    ("delivery", "pauses between claims, on tokio's clock"),
    ("cli/demo", "how long journeys take, for the picture"),
];

/// The same for what tells providers apart outside `providers` and `domain`.
const TELLS_PROVIDERS_APART: [(&str, &str); 5] = [
    ("config", "the key of each provider's API address"),
    ("authn/principal", "one typed principal per provider"),
    ("admin/document", "the form of an account in a resource file"),
    ("cli/demo", "plays the providers' side of the wire"),
    ("matrix", "plays the providers' side of the wire"),
];

/// Longest file without a reason.
const LINES_MAX: usize = 600;

/// Files that are longer, how long they may get, and why.
const LONG: [(&str, usize, &str); 3] = [
    ("store.rs", 800, "every use case of the store with the types it takes"),
    ("store/queries.rs", 800, "every statement that writes"),
    ("admin/resources.rs", 700, "five kinds of resources, planned in one pass"),
];

/// What the tables of `docs/architecture.md` say.
struct Rules {
    floors: BTreeMap<String, u32>,
    /// Crate → the module that may name it.
    homes: BTreeMap<String, String>,
}

/// One token of code: comments, texts and test code are gone.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Mark(char),
    Text(String),
}

#[derive(Clone, Debug)]
struct Spot {
    token: Token,
    line: usize,
}

/// Reads a file into tokens.
fn tokens(source: &str) -> Vec<Spot> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut all = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let (c, began) = (at(i), line);
        let from = i;
        let mut token = None;
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if let Some((hashes, quote)) = raw_text(&chars, i) {
            i = quote + 1;
            let inside = i;
            while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|n| at(i + n) == '#')) {
                i += 1;
            }
            token = Some(Token::Text(chars[inside..i.min(chars.len())].iter().collect()));
            i += 1 + hashes;
        } else if c == '"' || (matches!(c, 'b' | 'c') && at(i + 1) == '"') {
            i += if c == '"' { 1 } else { 2 };
            let inside = i;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            token = Some(Token::Text(chars[inside..i.min(chars.len())].iter().collect()));
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if is_word(c) {
            while is_word(at(i)) {
                i += 1;
            }
            token = Some(Token::Word(chars[from..i].iter().collect()));
        } else {
            i += 1;
            if !c.is_whitespace() {
                token = Some(Token::Mark(c));
            }
        }
        line += chars[from..i.min(chars.len())].iter().filter(|c| **c == '\n').count();
        all.extend(token.map(|token| Spot { token, line: began }));
    }
    all
}

/// `r"`, `r#"`, `br##"`: how many hashes, and where the quote is.
fn raw_text(chars: &[char], from: usize) -> Option<(usize, usize)> {
    let mut i = from;
    if matches!(chars.get(i), Some('b' | 'c')) {
        i += 1;
    }
    if chars.get(i) != Some(&'r') || (from > 0 && (chars[from - 1].is_alphanumeric() || chars[from - 1] == '_')) {
        return None;
    }
    let hashes = chars[i + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(i + 1 + hashes) == Some(&'"')).then_some((hashes, i + 1 + hashes))
}

fn word(spot: Option<&Spot>) -> Option<&str> {
    match spot.map(|s| &s.token) {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn is_mark(spot: Option<&Spot>, mark: char) -> bool {
    spot.is_some_and(|s| s.token == Token::Mark(mark))
}

/// The index behind the group that opens at `i`.
fn behind_group(all: &[Spot], mut i: usize) -> usize {
    let mut depth = 0;
    while let Some(spot) = all.get(i) {
        match spot.token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}' | ')' | ']') => depth -= 1,
            _ => {}
        }
        i += 1;
        if depth == 0 {
            break;
        }
    }
    i
}

/// Drops every item under `#[cfg(test)]`; names the modules among them that live in files of their own.
fn without_tests(all: &[Spot]) -> (Vec<Spot>, Vec<String>) {
    let mut kept = Vec::new();
    let mut modules = Vec::new();
    let mut i = 0;
    while i < all.len() {
        let test_only = is_mark(all.get(i), '#')
            && is_mark(all.get(i + 1), '[')
            && word(all.get(i + 2)) == Some("cfg")
            && is_mark(all.get(i + 3), '(')
            && word(all.get(i + 4)) == Some("test")
            && is_mark(all.get(i + 5), ')');
        if !test_only {
            kept.push(all[i].clone());
            i += 1;
            continue;
        }
        i = behind_group(all, i + 1);
        while is_mark(all.get(i), '#') && is_mark(all.get(i + 1), '[') {
            i = behind_group(all, i + 1);
        }
        let item = i;
        // The item ends with its first group in braces, or with a semicolon before that.
        while i < all.len() {
            if is_mark(all.get(i), '{') {
                i = behind_group(all, i);
                break;
            }
            if is_mark(all.get(i), ';') {
                let words: Vec<&str> = all[item..i].iter().filter_map(|s| word(Some(s))).collect();
                if let Some(n) = words.iter().position(|w| *w == "mod") {
                    modules.extend(words.get(n + 1).map(|w| (*w).to_owned()));
                }
                i += 1;
                break;
            }
            i = if is_mark(all.get(i), '(') || is_mark(all.get(i), '[') { behind_group(all, i) } else { i + 1 };
        }
    }
    (kept, modules)
}

/// The modules of a file's path: `policy/load.rs` → policy, load.
fn path_of(file: &str) -> Vec<&str> {
    match file.trim_end_matches(".rs") {
        "lib" => vec![],
        path => path.split('/').collect(),
    }
}

/// The modules that a file's code names by a path from the crate's root, with their lines.
fn reached(file: &str, all: &[Spot]) -> Vec<(String, usize)> {
    let depth_of_file = path_of(file).len();
    let mut found = Vec::new();
    // Braces of inline modules that are open.
    let (mut depth, mut inline) = (0usize, Vec::new());
    let mut i = 0;
    while i < all.len() {
        let spot = &all[i];
        match &spot.token {
            Token::Mark('{') => depth += 1,
            Token::Mark('}') => {
                depth = depth.saturating_sub(1);
                while inline.last().is_some_and(|open| *open > depth) {
                    inline.pop();
                }
            }
            Token::Word(w) if w == "mod" && is_mark(all.get(i + 2), '{') => inline.push(depth + 1),
            Token::Word(w) if matches!(w.as_str(), "crate" | "byoa_gateway" | "super") => {
                let (mut next, mut ups) = (i, 0);
                while word(all.get(next)) == Some("super") && is_mark(all.get(next + 1), ':') && is_mark(all.get(next + 2), ':') {
                    (next, ups) = (next + 3, ups + 1);
                }
                if ups == 0 && is_mark(all.get(i + 1), ':') && is_mark(all.get(i + 2), ':') && w != "super" {
                    (next, ups) = (i + 3, usize::MAX);
                }
                // Below the root these are names within the module's own tree.
                if ups >= depth_of_file + inline.len() && ups > 0 {
                    found.extend(heads(all, next).into_iter().map(|head| (head, spot.line)));
                }
                i = i.max(next.saturating_sub(1));
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// The first names of a path or of a group of paths.
fn heads(all: &[Spot], i: usize) -> Vec<String> {
    if is_mark(all.get(i), '*') {
        return vec!["*".to_owned()];
    }
    if !is_mark(all.get(i), '{') {
        return word(all.get(i)).map(str::to_owned).into_iter().collect();
    }
    let end = behind_group(all, i);
    let mut names = Vec::new();
    let mut depth = 0;
    for n in i..end {
        match all[n].token {
            Token::Mark('{') => depth += 1,
            Token::Mark('}') => depth -= 1,
            Token::Word(ref name) if depth == 1 && (is_mark(all.get(n - 1), '{') || is_mark(all.get(n - 1), ',')) => {
                names.push(name.clone())
            }
            Token::Mark('*') if depth == 1 => names.push("*".to_owned()),
            _ => {}
        }
    }
    names
}

/// Whether a text is a statement to a database.
fn is_sql(text: &str) -> bool {
    let mut words = text.split_whitespace();
    match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
        ("SELECT" | "PRAGMA", second) => !second.is_empty(),
        ("INSERT", "INTO" | "OR") | ("DELETE", "FROM") | ("CREATE", "TABLE" | "INDEX" | "UNIQUE") | ("BEGIN", "IMMEDIATE") => true,
        ("UPDATE", _) => words.next() == Some("SET"),
        _ => false,
    }
}

/// The entry of a list that a file falls under.
fn listed<'l>(list: &'l [(&'l str, &'l str)], file: &str) -> Option<&'l str> {
    let falls = |entry: &str| file.strip_prefix(entry).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
    list.iter().map(|(entry, _)| *entry).find(|entry| falls(entry))
}

/// Traits that are a key: the trait, where it stands, and the one place that holds it.
const SEALED: [(&str, &str, &str, &str); 2] = [
    ("OpenGrant", "vault.rs", "credentials.rs", "Permit<UseCredential>"),
    ("AgentScope", "store/terms.rs", "authn/principal.rs", "AgentPrincipal"),
];

/// Every breach of the rules in the files, which are given with their paths below `src/`.
fn breaches(rules: &Rules, files: &[(String, String)]) -> Vec<String> {
    let mut all = Vec::new();
    let read: Vec<(&str, Vec<Spot>, Vec<String>)> = files
        .iter()
        .map(|(file, text)| {
            let (code, tests) = without_tests(&tokens(text));
            (file.as_str(), code, tests)
        })
        .collect();
    let test_files: BTreeSet<String> = read
        .iter()
        .flat_map(|(file, _, tests)| tests.iter().map(move |t| path_of(file).into_iter().chain([t.as_str()]).collect::<Vec<_>>().join("/")))
        .collect();
    let is_test = |file: &str| test_files.iter().any(|t| file == format!("{t}.rs") || file.starts_with(&format!("{t}/")));
    let kinds: Vec<String> = ProviderKind::ALL.iter().map(|k| format!("{k:?}")).collect();
    let (mut stopwatches, mut tellers, mut grants) = (BTreeSet::new(), BTreeSet::new(), Vec::new());

    for (file, code, _) in read.iter().filter(|(file, ..)| !is_test(file)) {
        let own = path_of(file).first().copied().unwrap_or("lib");
        let lines = files.iter().find(|(f, _)| f == file).map_or(0, |(_, text)| text.lines().count());
        let lines_max = LONG.iter().find(|(long, ..)| long == file).map_or(LINES_MAX, |(_, max, _)| *max);
        if lines > lines_max {
            all.push(format!("src/{file} has {lines} lines, {lines_max} are allowed: look for the seam"));
        }
        if own != "lib" {
            let Some(floor) = rules.floors.get(own) else {
                all.push(format!("src/{file}: module `{own}` has no floor in docs/architecture.md §1"));
                continue;
            };
            for (other, line) in reached(file, code) {
                match rules.floors.get(&other) {
                    _ if other == own || (own == "main" && other == "cli") => {}
                    Some(below) if below < floor => {}
                    Some(same) if same == floor => {
                        all.push(format!("src/{file}:{line}: `{own}` reaches sideways to `{other}` on floor {floor}"));
                    }
                    Some(above) => all.push(format!("src/{file}:{line}: `{own}` (floor {floor}) reaches up to `{other}` (floor {above})")),
                    None => all.push(format!("src/{file}:{line}: `crate::{other}` is no module with a floor")),
                }
            }
        }
        for (i, Spot { token, line }) in code.iter().enumerate() {
            let path = |names: &[&str]| {
                names.iter().enumerate().all(|(n, name)| {
                    word(code.get(i + 3 * n)) == Some(name)
                        && (n == 0 || (is_mark(code.get(i + 3 * n - 1), ':') && is_mark(code.get(i + 3 * n - 2), ':')))
                })
            };
            match token {
                Token::Text(text) if own != "store" && is_sql(text) => all.push(format!("src/{file}:{line}: SQL outside `store`")),
                Token::Word(name) => {
                    if let Some(home) = rules.homes.get(name)
                        && home != own
                    {
                        all.push(format!("src/{file}:{line}: `{name}` is named outside `{home}`"));
                    }
                    let wall_clock = name == "SystemTime" || ["Timestamp", "Zoned", "Utc", "Local"].iter().any(|t| path(&[t, "now"]));
                    if wall_clock && *file != "domain/clock.rs" {
                        all.push(format!("src/{file}:{line}: the time is read outside domain/clock.rs"));
                    }
                    if path(&["Instant", "now"]) {
                        match listed(&STOPWATCHES, file) {
                            Some(entry) => drop(stopwatches.insert(entry)),
                            None => all.push(format!("src/{file}:{line}: a stopwatch that tests/it/layering.rs does not list")),
                        }
                    }
                    if kinds.iter().any(|kind| path(&["ProviderKind", kind])) && !matches!(own, "providers" | "domain") {
                        match listed(&TELLS_PROVIDERS_APART, file) {
                            Some(entry) => drop(tellers.insert(entry)),
                            None => all.push(format!("src/{file}:{line}: tells providers apart; that belongs into `providers`")),
                        }
                    }
                    if SEALED.iter().any(|(sealed, ..)| name == sealed) && word(code.get(i + 1)) == Some("for") {
                        let whom = code[i + 2..].iter().take_while(|s| s.token != Token::Mark('{') && word(Some(s)) != Some("where"));
                        let whom: String = whom
                            .map(|s| match &s.token {
                                Token::Word(w) | Token::Text(w) => w.clone(),
                                Token::Mark(m) => m.to_string(),
                            })
                            .collect();
                        grants.push((name.clone(), *file, whom));
                    }
                }
                _ => {}
            }
        }
    }
    let known = |file: &str| files.iter().any(|(f, _)| f == file);
    for (list, used) in [(&STOPWATCHES[..], &stopwatches), (&TELLS_PROVIDERS_APART[..], &tellers)] {
        for (entry, why) in list.iter().filter(|(entry, _)| known(&format!("{entry}.rs")) && !used.contains(entry)) {
            all.push(format!("tests/it/layering.rs lists {entry} needlessly: {why}"));
        }
    }
    for (sealed, home, file, whom) in SEALED {
        let found: Vec<_> = grants.iter().filter(|(name, ..)| name == sealed).map(|(_, file, whom)| (*file, whom.as_str())).collect();
        if known(home) && found != [(file, whom)] {
            all.push(format!("`{sealed}` must be implemented once, for {whom} in {file}; it is: {found:?}"));
        }
    }
    all
}

/// The rows of the first table behind a heading, cells trimmed.
fn table(page: &str, heading: &str) -> Vec<Vec<String>> {
    let behind = page.split_once(heading).unwrap_or_else(|| panic!("docs/architecture.md has no `{heading}`")).1;
    behind
        .lines()
        .skip_while(|l| !l.starts_with('|'))
        .take_while(|l| l.starts_with('|'))
        .skip(2)
        .map(|l| l.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect())
        .collect()
}

/// The words in backticks.
fn ticked(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rules() -> Rules {
    let page = fs::read_to_string("docs/architecture.md").expect("docs/architecture.md");
    let mut floors = BTreeMap::new();
    for row in table(&page, "## 1. Floors") {
        let floor: u32 = row[0].parse().expect("a floor's number");
        for module in ticked(&row[2]) {
            assert_eq!(floors.insert(module.clone(), floor), None, "`{module}` has two floors");
        }
    }
    let mut homes = BTreeMap::new();
    for row in table(&page, "### Names with one home") {
        for name in ticked(&row[0]) {
            homes.insert(name, ticked(&row[1]).remove(0));
        }
    }
    Rules { floors, homes }
}

fn source_files(folder: &Path, all: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).expect("src") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            source_files(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix("src").expect("below src").to_string_lossy().replace('\\', "/");
            all.push((name, fs::read_to_string(&path).expect("a source file")));
        }
    }
}

#[test]
fn imports_go_down_and_names_stay_home() {
    let mut files = Vec::new();
    source_files(Path::new("src"), &mut files);
    files.sort();
    let found = breaches(&rules(), &files);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn every_floor_has_its_modules_and_no_others() {
    let rules = rules();
    for module in rules.floors.keys().chain(rules.homes.values()) {
        assert!(Path::new(&format!("src/{module}.rs")).is_file(), "docs/architecture.md §1 names `{module}`, which is not there");
    }
    for floor in 0..=10 {
        assert!(rules.floors.values().any(|f| *f == floor), "floor {floor} is empty");
    }
}

/// The checker finds what is planted, so that its silence about `src/` means something.
mod planted {
    use super::{Rules, breaches};

    fn found_in(files: &[(&str, &str)]) -> Vec<String> {
        let floors = [
            ("authn", 4),
            ("domain", 0),
            ("wire", 1),
            ("store", 2),
            ("vault", 3),
            ("policy", 5),
            ("routing", 6),
            ("rollout", 6),
            ("http", 8),
        ];
        let homes = [("axum", "http"), ("cedar_policy", "policy"), ("sqlx", "store")];
        let rules =
            Rules { floors: floors.map(|(m, f)| (m.to_owned(), f)).into(), homes: homes.map(|(n, m)| (n.to_owned(), m.to_owned())).into() };
        let files: Vec<(String, String)> = files.iter().map(|(f, t)| ((*f).to_owned(), (*t).to_owned())).collect();
        breaches(&rules, &files)
    }

    fn one(file: &str, text: &str, says: &str) {
        let found = found_in(&[(file, text)]);
        assert!(found.len() == 1 && found[0].contains(says), "`{text}` in {file}: {found:?}, wanted one with `{says}`");
    }

    fn none(file: &str, text: &str) {
        let found = found_in(&[(file, text)]);
        assert!(found.is_empty(), "`{text}` in {file}: {found:?}");
    }

    #[test]
    fn up_and_sideways() {
        none("routing.rs", "use crate::policy::Permit;");
        none("policy/load.rs", "use super::super::store::Store; use crate::policy::SCHEMA;");
        one("store.rs", "fn f() { crate::policy::decide() }", "reaches up to `policy`");
        one("rollout.rs", "use crate::routing::org_facts;", "reaches sideways to `routing`");
        one("rollout.rs", "use super::routing::org_facts;", "reaches sideways to `routing`");
        one("policy/load.rs", "use super::super::http::Rooms;", "reaches up to `http`");
        one("wire.rs", "use crate::{domain::ids::OrgId, http::{self, Rooms}};", "reaches up to `http`");
        one("wire.rs", "macro_rules! m { () => { $crate::http::x() } }", "reaches up to `http`");
        one("wire.rs", "mod inner { use super::super::http::Rooms; }", "reaches up to `http`");
        one("wire.rs", "use byoa_gateway::http::Rooms;", "reaches up to `http`");
        one("wire.rs", "use crate::*;", "`crate::*` is no module");
        none("wire.rs", "mod inner { use super::Thing; } use super::domain::ids;");
    }

    #[test]
    fn no_floor() {
        one("helper.rs", "", "module `helper` has no floor");
        one("helper/x.rs", "", "module `helper` has no floor");
        one("http.rs", "use crate::helper::x;", "`crate::helper` is no module");
    }

    #[test]
    fn texts_comments_and_tests_are_not_code() {
        none("wire.rs", "// crate::http::x\n/* crate::http /* x */ crate::http */ const A: &str = \"crate::http \\\" axum\";");
        none("wire.rs", "const A: &str = r#\"crate::http \" axum\"#; const B: char = '\"'; const C: char = '\\''; fn f<'a>(x: &'a str) {}");
        none("wire.rs", "#[cfg(test)]\nmod tests { use crate::http::Rooms; fn f() { axum::x() } }");
        none("wire.rs", "#[cfg(test)]\n#[allow(unused)]\nuse crate::http::Rooms;");
        one("wire.rs", "#[cfg(test)]\nfn f() { axum::x() }\nfn g() { axum::x() }", "wire.rs:3: `axum` is named");
        let files =
            [("wire.rs", "#[cfg(test)]\nmod bench;"), ("wire/bench.rs", "use crate::http::x;"), ("wire/bench/a.rs", "use axum::x;")];
        assert!(found_in(&files).is_empty());
    }

    #[test]
    fn names_away_from_home() {
        none("http/api.rs", "use axum::Router;");
        one("policy.rs", "use axum::Router;", "`axum` is named outside `http`");
        one("vault.rs", "impl OpenGrant for Permit<UseCredential> {}", "must be implemented once");
        one("http.rs", "use cedar_policy::Policy;", "`cedar_policy` is named outside `policy`");
        one("http.rs", "const Q: &str = \"SELECT id FROM events\";", "SQL outside `store`");
        one("http.rs", "const Q: &str = \"UPDATE events SET x = 1\";", "SQL outside `store`");
        none("http.rs", "const Q: &str = \"UPDATE is a word, SELECT too\";");
        none("store/queries.rs", "const Q: &str = \"SELECT id FROM events\"; fn f() -> sqlx::Row {}");
    }

    #[test]
    fn time_and_providers() {
        none("domain/clock.rs", "fn now() { jiff::Timestamp::now(); std::time::Instant::now(); }");
        one("http.rs", "fn f() { std::time::SystemTime::now() }", "the time is read");
        one("http.rs", "fn f() { jiff::Timestamp::now() }", "the time is read");
        one("http.rs", "fn f() { std::time::Instant::now() }", "a stopwatch");
        none("http.rs", "fn f(at: Instant) { clock.now() }");
        assert_eq!(super::listed(&super::STOPWATCHES, "ingress/synchronous.rs"), Some("ingress"));
        assert_eq!(super::listed(&super::STOPWATCHES, "ingress2.rs"), None);
        one("http.rs", "match kind { ProviderKind::Slack => 1, _ => 2 }", "tells providers apart");
        none("http.rs", "match ProviderKind::parse(word) { Some(kind) => kind, None => ProviderKind::ALL[0] }");
        none("domain/installation.rs", "match kind { ProviderKind::Slack => 1 }");
    }

    #[test]
    fn grants() {
        let good = ("credentials.rs", "");
        let floors = |text: &'static str| found_in(&[("vault.rs", "pub trait OpenGrant {}"), ("policy/grants.rs", text), good]);
        let missing = floors("");
        assert!(missing.iter().any(|b| b.contains("must be implemented once")), "{missing:?}");
        for text in ["impl OpenGrant for Permit<UseCredential> {}", "impl<T> crate::vault::OpenGrant for T where T: Clone {}"] {
            assert!(floors(text).iter().any(|b| b.contains("must be implemented once")), "{text}");
        }
        let scope = ("store/terms.rs", "pub trait AgentScope {}");
        let held = ("authn/principal.rs", "impl AgentScope for AgentPrincipal {}");
        let once = found_in(&[scope, held]);
        assert!(!once.iter().any(|b| b.contains("implemented once")), "{once:?}");
        let twice = found_in(&[scope, held, ("http/files.rs", "impl crate::store::AgentScope for AgentId {}")]);
        assert!(twice.iter().any(|b| b.contains("`AgentScope` must be implemented once")), "{twice:?}");
    }

    #[test]
    fn long_files() {
        one("wire.rs", &"\n".repeat(601), "601 lines");
        none("wire.rs", &"\n".repeat(600));
    }
}
