//! The shipped decision tables, and `byoa policy test` as people and CI servers meet it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use byoa_gateway::domain::clock::Clock;
use byoa_gateway::domain::reason::ReasonCode;
use byoa_gateway::policy::read;
use byoa_gateway::policy::table::Tables;
use byoa_gateway::policy::vocabulary::{Field, Kind, Vocabulary};
use insta::assert_snapshot;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const BYOA: &str = env!("CARGO_BIN_EXE_byoa");
const SCHEMA: &str = "schemas/table.schema.json";

#[test]
fn the_shipped_tables_hold() {
    let sources = read("policies".as_ref(), "schemas/gateway.cedarschema".as_ref(), &Default::default()).unwrap_or_else(|e| panic!("{e}"));
    let tables = Tables::read(&sources).unwrap_or_else(|e| panic!("{e}"));
    let run = tables.run(&sources, Clock::system().now()).unwrap_or_else(|e| panic!("{e}"));
    let faults: Vec<String> = run.faults().iter().map(ToString::to_string).collect();
    assert_eq!(faults, Vec::<String>::new());
    assert!(tables.tables().len() >= 10 && tables.rows().len() >= 500, "{} cases", tables.rows().len());
    // There is a row about every question that can be asked.
    for action in Vocabulary::get().actions.keys() {
        assert!(tables.rows().iter().any(|row| row.case.action == *action), "{action}");
    }
}

#[test]
fn no_part_of_the_shipped_law_can_be_lost_unnoticed() {
    let sources = read("policies".as_ref(), "schemas/gateway.cedarschema".as_ref(), &Default::default()).unwrap();
    let mutation = Tables::read(&sources).unwrap().mutate(&sources, Clock::system().now(), false).unwrap();
    let missed: Vec<String> =
        mutation.survivors.iter().map(|s| format!("{}:{} {} {:?} {}", s.place.file, s.place.line, s.policy, s.part, s.text)).collect();
    assert_eq!(missed, Vec::<String>::new());
    assert!(mutation.total > 150, "{} mutants", mutation.total);
}

/// A folder with a small law, to work in.
struct Folder(TempDir);

const LAW: &str = "\
@id(\"view\") @reason(\"Operators look\")
permit (principal in Byoa::Role::\"operator\", action in Byoa::Action::\"View\", resource is Byoa::Gateway);

@id(\"revoke\") @reason(\"The security team ends secrets\")
permit (principal in Byoa::Role::\"security\", action == Byoa::Action::\"RevokeSecret\", resource)
when { principal.mfa };
";

const TABLE: &str = "\
about: Who looks.
given:
  Operator otto: {role: operator, mfa: false}
  Operator vera: {role: viewer, mfa: false}
  Operator sara: {role: security, mfa: true}
defaults: {resource: Gateway byoa}
rows:
  - name: operators look
    principal: Operator otto
    each:
      ask: [ViewResources, ReadAudit]
    want: {decision: allow, policies: [view]}
  - name: viewers do not # yet
    ask: ReadAudit
    principal: Operator vera
    want: {decision: refuse, code: policy.no_permit, policies: []}
  - name: operators apply nothing
    ask: ApplyResources
    principal: Operator otto
    want: {decision: refuse, code: policy.no_permit, policies: []}
  - name: the security team ends secrets
    ask: RevokeSecret
    principal: Operator sara
    resource: PlatformAgent concierge
    want: {decision: allow, policies: [revoke]}
  - name: and puts none
    ask: RotateSecret
    principal: Operator sara
    resource: PlatformAgent concierge
    want: {decision: refuse, code: policy.no_permit, policies: []}
  - name: operators end none
    ask: RevokeSecret
    principal: Operator otto
    resource: PlatformAgent concierge
    given: {Operator otto: {mfa: true}}
    want: {decision: refuse, code: policy.no_permit, policies: []}
";

/// The row without which nobody would miss the second factor.
const FACTOR: &str = "  - name: not without a second factor
    ask: RevokeSecret
    principal: Operator sara
    resource: PlatformAgent concierge
    given: {Operator sara: {mfa: false}}
    want: {decision: refuse, code: policy.no_permit, policies: []}
";

impl Folder {
    fn new(table: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::write(folder.0.path().join("byoa.yaml"), "policies: {dir: policies, schema: gateway.cedarschema}\n").unwrap();
        std::fs::copy("schemas/gateway.cedarschema", folder.0.path().join("gateway.cedarschema")).unwrap();
        std::fs::create_dir_all(folder.0.path().join("policies/tables")).unwrap();
        folder.write("policies/law.cedar", LAW);
        if !table.is_empty() {
            folder.write("policies/tables/look.yaml", table);
        }
        folder
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.0.path().join(file), text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.0.path().join(file)).unwrap()
    }

    /// Exit code, stdout, stderr.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::new(BYOA).current_dir(self.0.path()).args(["policy", "test"]).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn said(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        format!("$ byoa policy test {}\nexit {code}\n{out}{err}", args.join(" "))
    }
}

/// The table with two rows that are wrong.
fn wrong() -> String {
    TABLE.replacen("decision: refuse, code: policy.no_permit, policies: []", "decision: allow, policies: [view]", 1).replacen(
        "want: {decision: allow, policies: [view]}\n",
        "want: {decision: refuse, code: policy.no_permit, policies: []}\n",
        1,
    )
}

#[test]
fn rows_that_hold_and_rows_that_do_not() {
    assert_snapshot!(Folder::new(TABLE).said(&[]), @r#"
    $ byoa policy test 
    exit 0
    look     6 rows     7 cases  ok        Who looks.

    6 rows (7 cases) in 1 table: all hold
    "#);
    assert_snapshot!(Folder::new(&wrong()).said(&[]), @r#"
    $ byoa policy test 
    exit 1
    look     6 rows     7 cases  3 WRONG   Who looks.

    operators look [ask=ViewResources]
      policies/tables/look.yaml:8
                wanted             got
      decision  refuse             allow
      code      policy.no_permit   -
      policies  -                  view
      decided   view  policies/law.cedar:1

    operators look [ask=ReadAudit]
      policies/tables/look.yaml:8
                wanted             got
      decision  refuse             allow
      code      policy.no_permit   -
      policies  -                  view
      decided   view  policies/law.cedar:1

    viewers do not
      policies/tables/look.yaml:13
                wanted   got
      decision  allow    refuse
      code      -        policy.no_permit
      policies  view     -

    6 rows (7 cases) in 1 table: 3 cases wrong
    "#);
}

#[test]
fn for_programs() {
    let folder = Folder::new(&wrong());
    let (code, out, err) = folder.run(&["--format", "json"]);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["ok"], &report["rows"], &report["cases"]), (1, &json!(false), &json!(6), &json!(7)));
    assert_eq!(err, "byoa: 6 rows (7 cases) in 1 table: 3 cases wrong\n");
    let results = report["results"].as_array().unwrap();
    assert_snapshot!(serde_json::to_string(&results[0]).unwrap(), @r#"{"table":"look","file":"policies/tables/look.yaml","line":8,"name":"operators look [ask=ViewResources]","without":[],"at":null,"ok":false,"want":{"decision":"refuse","code":"policy.no_permit","policies":[]},"got":{"decision":"allow","code":null,"policies":["view"]},"errors":[]}"#);
    assert_snapshot!(report["tables"].to_string(), @r#"[{"table":"look","file":"policies/tables/look.yaml","about":"Who looks.","rows":6,"cases":7,"wrong":3}]"#);

    let (code, out, _) = folder.run(&["--format", "junit"]);
    assert_eq!(code, 1);
    let suite = quick_junit::Report::deserialize_from_str(&out).unwrap();
    assert_eq!((suite.tests, suite.failures, suite.errors), (7, 3, 0));
    assert_snapshot!(out, @r#"
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="byoa policy test" tests="7" skipped="0" failures="3" errors="0">
        <testsuite name="look" tests="7" skipped="0" errors="0" failures="3">
            <testcase name="operators look [ask=ViewResources]" classname="look">
                <failure message="wants refuse policy.no_permit by no policy, got allow by view">policies/tables/look.yaml:8
    view policies/law.cedar:1
    </failure>
            </testcase>
            <testcase name="operators look [ask=ReadAudit]" classname="look">
                <failure message="wants refuse policy.no_permit by no policy, got allow by view">policies/tables/look.yaml:8
    view policies/law.cedar:1
    </failure>
            </testcase>
            <testcase name="viewers do not" classname="look">
                <failure message="wants allow by view, got refuse policy.no_permit by no policy">policies/tables/look.yaml:13
    </failure>
            </testcase>
            <testcase name="operators apply nothing" classname="look"/>
            <testcase name="the security team ends secrets" classname="look"/>
            <testcase name="and puts none" classname="look"/>
            <testcase name="operators end none" classname="look"/>
        </testsuite>
    </testsuites>
    "#);
    let (code, out, _) = Folder::new(TABLE).run(&["--format", "junit"]);
    assert_eq!((code, quick_junit::Report::deserialize_from_str(&out).unwrap().failures), (0, 0));
}

#[test]
fn how_it_ends() {
    let folder = Folder::new("");
    // Nothing to test is not a test that holds.
    assert_snapshot!(folder.said(&[]), @r#"
    $ byoa policy test 
    exit 1
    byoa: there is no decision table: write one into policies/tables, so that something is tested
    "#);
    folder.write("one.yaml", TABLE);
    folder.write("two.yaml", "about: x\nask: ReadAudits\nrows: []\n");
    assert_snapshot!(folder.said(&["one.yaml"]), @r#"
    $ byoa policy test one.yaml
    exit 0
    one     6 rows     7 cases  ok        Who looks.

    6 rows (7 cases) in 1 table: all hold
    "#);
    assert_snapshot!(folder.said(&["one.yaml", "two.yaml"]), @r#"
    $ byoa policy test one.yaml two.yaml
    exit 1
    byoa: policy.invalid
    two.yaml:1:1: the table has no rows
    two.yaml:2:6: there is no action `ReadAudits` (did you mean `ReadAudit`?)
    "#);
    assert_snapshot!(folder.said(&["two.yaml", "--format", "json"]), @r#"
    $ byoa policy test two.yaml --format json
    exit 1
    {"ok":false,"diagnostics":[{"file":"two.yaml","line":1,"column":1,"message":"the table has no rows","source_line":"about: x","length":1,"rule":"table"},{"file":"two.yaml","line":2,"column":6,"message":"there is no action `ReadAudits` (did you mean `ReadAudit`?)","source_line":"ask: ReadAudits","length":10,"rule":"table"}]}
    byoa: policy.invalid
    two.yaml:1:1: the table has no rows
    two.yaml:2:6: there is no action `ReadAudits` (did you mean `ReadAudit`?)
    "#);
    assert_snapshot!(folder.said(&["two.yaml", "--format", "junit"]), @r#"
    $ byoa policy test two.yaml --format junit
    exit 1
    <?xml version="1.0" encoding="UTF-8"?>
    <testsuites name="byoa policy test" tests="2" skipped="0" failures="0" errors="2">
        <testsuite name="tables" tests="2" skipped="0" errors="2" failures="0">
            <testcase name="two.yaml:1:1" classname="tables">
                <error message="the table has no rows"/>
            </testcase>
            <testcase name="two.yaml:2:6" classname="tables">
                <error message="there is no action `ReadAudits` (did you mean `ReadAudit`?)"/>
            </testcase>
        </testsuite>
    </testsuites>
    byoa: policy.invalid
    two.yaml:1:1: the table has no rows
    two.yaml:2:6: there is no action `ReadAudits` (did you mean `ReadAudit`?)
    "#);
    assert_snapshot!(folder.said(&["one.yaml", "three.yaml"]), @r#"
    $ byoa policy test one.yaml three.yaml
    exit 2
    byoa: three.yaml cannot be read: No such file or directory (os error 2)
    "#);
    assert_eq!(folder.run(&["--update", "--mutate"]).0, 2);
    assert_eq!(folder.run(&["--suggest"]).0, 2);
    folder.write("policies/law.cedar", "permit");
    assert_eq!(folder.run(&["one.yaml"]).0, 1);
    std::fs::remove_file(folder.0.path().join("policies/law.cedar")).unwrap();
    assert_eq!(folder.run(&["one.yaml"]).0, 2);
}

#[test]
fn an_update_writes_what_was_answered() {
    let folder = Folder::new(&wrong());
    assert_snapshot!(folder.said(&["--update"]), @r#"
    $ byoa policy test --update
    exit 0
    policies/tables/look.yaml:8 operators look
      wanted  refuse policy.no_permit by no policy
      wants   allow by view
    policies/tables/look.yaml:13 viewers do not
      wanted  allow by view
      wants   refuse policy.no_permit by no policy
    2 rows changed in 1 file: read what they say now before you keep it
    "#);
    assert_eq!(folder.read("policies/tables/look.yaml"), TABLE);
    assert_snapshot!(folder.said(&["--update"]), @r#"
    $ byoa policy test --update
    exit 0
    nothing was changed
    "#);
    let left: Vec<String> = std::fs::read_dir(folder.0.path().join("policies/tables"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(left, ["look.yaml"]);
    folder
        .write("policies/tables/look.yaml", &TABLE.replacen("ask: [ViewResources, ReadAudit]", "ask: [ViewResources, ApplyResources]", 1));
    assert_snapshot!(folder.said(&["--update"]), @r#"
    $ byoa policy test --update
    exit 1
    policies/tables/look.yaml:8 operators look
      left: its cases are answered differently: split it into rows that are answered alike
    nothing was changed
    byoa: 1 wrong row left as it is
    "#);
}

#[test]
fn a_clause_that_no_row_would_miss() {
    let folder = Folder::new(TABLE);
    assert_snapshot!(folder.said(&["--mutate"]), @r#"
    $ byoa policy test --mutate
    exit 1
    policies/law.cedar:6  revoke
      no row notices when this is left out: the whole condition  principal.mfa

    6 of 7 mutants noticed
    "#);
    let (code, out, _) = folder.run(&["--mutate", "--suggest", "--format", "json"]);
    assert_eq!(code, 1);
    let report: Value = serde_json::from_str(&out).unwrap();
    let row = report["survivors"][0]["row"].as_str().unwrap();
    assert_snapshot!(row, @r#"
    - name: revoke asks for principal.mfa
      ask: RevokeSecret
      principal: Operator operator-1
      resource: ByoaInstallation byoa-installation-1
      given:
        ByoaInstallation byoa-installation-1: {active: true, org: acme, owner: acme, provider: slack}
        Operator operator-1: {mfa: false, role: security}
        Org acme: {fallbackOptIn: [], suspended: false}
      want: {decision: refuse, code: policy.no_permit, policies: []}
    "#);
    for row in [row, FACTOR] {
        folder.write("policies/tables/look.yaml", &format!("{TABLE}{row}"));
        assert_eq!(folder.run(&["--mutate"]).0, 0, "{row}");
    }
    // Of rows that are wrong nothing can be learned.
    folder.write("policies/tables/look.yaml", &wrong());
    let (code, out, _) = folder.run(&["--mutate"]);
    assert!(code == 1 && out.contains("3 cases wrong"), "{out}");
}

/// What editors offer and check while a table is written. Made from the vocabulary, so that it cannot fall behind.
fn schema() -> Value {
    let words = Vocabulary::get();
    let (mut given, mut axes) = (Map::new(), Map::new());
    let list = |of: Value| json!({"type": "array", "minItems": 1, "uniqueItems": true, "items": of});
    for (kind, shape) in words.entities.iter().filter(|(_, shape)| shape.ids.is_none()) {
        let mut attributes: Map<String, Value> = shape.fields.iter().map(|f| (f.name.clone(), value(&f.kind))).collect();
        for (parent, ids) in shape.parents.iter().filter_map(|p| Some((p, words.entities[p].ids.as_ref()?))) {
            let key = parent[..1].to_lowercase() + &parent[1..];
            attributes.insert(key, json!({"anyOf": [{"enum": ids}, {"type": "array", "items": {"enum": ids}}]}));
        }
        for (name, of) in &attributes {
            axes.insert(format!("^{kind} .+\\.{name}$"), list(of.clone()));
        }
        if !shape.parents.is_empty() {
            let about = "Parents that do not follow from `org`: damaged records.";
            attributes.insert("in".into(), json!({"type": "array", "items": {"$ref": "#/$defs/thing"}, "description": about}));
        }
        given.insert(format!("^{kind} .+$"), json!({"type": ["object", "null"], "additionalProperties": false, "properties": attributes}));
    }
    let mut context: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for field in words.actions.values().flat_map(|action| &action.context) {
        let kinds = context.entry(field.name.clone()).or_default();
        let kind = optional(field);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let context: Map<String, Value> = context
        .into_iter()
        .map(|(name, mut kinds)| (name, if kinds.len() == 1 { kinds.remove(0) } else { json!({"anyOf": kinds}) }))
        .collect();
    let mut varies = Map::new();
    varies.insert("ask".into(), list(json!({"$ref": "#/$defs/action"})));
    varies.insert("principal".into(), list(json!({"$ref": "#/$defs/thing"})));
    varies.insert("resource".into(), list(json!({"$ref": "#/$defs/thing"})));
    varies.extend(context.iter().map(|(name, of)| (format!("context.{name}"), list(of.clone()))));
    let kinds: Vec<&str> = words.entities.keys().map(String::as_str).collect();
    let codes: Vec<&str> = ReasonCode::ALL.iter().map(|code| code.as_str()).collect();
    let text = |about: &str| json!({"type": "string", "minLength": 1, "description": about});
    let reference = |to: &str, about: &str| json!({"$ref": format!("#/$defs/{to}"), "description": about});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A decision table: what the policies must answer",
        "type": "object",
        "additionalProperties": false,
        "required": ["about", "rows"],
        "properties": {
            "about": text("What the table shows, one sentence for people."),
            "ask": reference("action", "What is asked; a row may ask something else."),
            "given": reference("given", "What is known: a thing as `Type id`, and its attributes."),
            "defaults": {
                "type": "object", "additionalProperties": false, "description": "What rows leave out.",
                "properties": {
                    "principal": reference("thing", "Who asks."),
                    "resource": reference("thing", "About what."),
                    "context": reference("context", "What comes with the question; an action takes what it knows."),
                },
            },
            "rows": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/row"}},
            "complete": {
                "description": "Every combination of these values must be the case of exactly one row.",
                "anyOf": [{"$ref": "#/$defs/axes"}, {"type": "array", "items": {"$ref": "#/$defs/axes"}}],
            },
        },
        "$defs": {
            "action": {"enum": words.actions.keys().collect::<Vec<_>>()},
            "thing": {"type": "string", "pattern": format!("^({}) .+$", kinds.join("|"))},
            "given": {"type": "object", "additionalProperties": false, "patternProperties": given},
            "context": {"type": "object", "additionalProperties": false, "properties": context},
            "axes": {"type": "object", "additionalProperties": false, "properties": varies, "patternProperties": axes},
            "policies": {"type": "array", "uniqueItems": true, "items": {"type": "string", "pattern": "^[a-z0-9._-]{1,96}$"}},
            "row": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name", "want"],
                "properties": {
                    "name": text("What the row shows; no other row of the table has this name."),
                    "ask": reference("action", "What is asked."),
                    "principal": reference("thing", "Who asks."),
                    "resource": reference("thing", "About what."),
                    "context": reference("context", "What differs from the defaults; null takes an optional key away."),
                    "given": reference("given", "What is known otherwise, attribute by attribute; null takes a thing away."),
                    "each": reference("axes", "Lists of values; every combination is a case of this row."),
                    "without": reference("policies", "The law without these: shows what stands behind them."),
                    "at": text("The law as of this time, RFC 3339."),
                    "want": {
                        "type": "object",
                        "required": ["decision", "policies"],
                        "properties": {"policies": reference("policies", "All that decide, and no others.")},
                        "oneOf": [
                            {"properties": {"decision": {"const": "allow"}, "policies": true}, "additionalProperties": false},
                            {
                                "properties": {"decision": {"const": "refuse"}, "code": {"enum": codes}, "policies": true},
                                "required": ["code"],
                                "additionalProperties": false,
                            },
                        ],
                    },
                },
            },
        },
    })
}

fn optional(field: &Field) -> Value {
    if field.required { value(&field.kind) } else { json!({"anyOf": [value(&field.kind), {"type": "null"}]}) }
}

fn value(kind: &Kind) -> Value {
    match kind {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Long => json!({"type": "integer"}),
        Kind::Text => json!({"type": "string"}),
        Kind::Entity(kind) => match &Vocabulary::get().entities[kind].ids {
            Some(ids) => json!({"enum": ids}),
            None => json!({"type": "string", "minLength": 1, "description": format!("The id of one {kind}.")}),
        },
        Kind::Set(of) => json!({"type": "array", "uniqueItems": true, "items": value(of)}),
    }
}

#[test]
fn editors_know_the_vocabulary() {
    let wanted = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    if std::env::var_os("BYOA_UPDATE_DOCS").is_some() {
        std::fs::write(SCHEMA, &wanted).unwrap();
    }
    let there = std::fs::read_to_string(SCHEMA).unwrap_or_default();
    assert!(there == wanted, "{SCHEMA} is not what the vocabulary says; BYOA_UPDATE_DOCS=1 writes it anew");
    // Every shipped table names it, from where it stands.
    for entry in std::fs::read_dir("policies/tables").unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let named = text.lines().next().and_then(|line| line.strip_prefix("# yaml-language-server: $schema=")).unwrap_or_default();
        let full = path.parent().unwrap().join(named).canonicalize().unwrap_or_default();
        assert_eq!(full, Path::new(SCHEMA).canonicalize().unwrap(), "{}", path.display());
    }
}
