//! `byoa policy matrix` and `byoa policy diff`, run as programs over folders of policies.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use insta::assert_snapshot;
use serde_json::Value;
use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

const LAW: &str = r#"@id("look") @reason("Everybody reads the audit")
permit (principal is Byoa::Operator, action == Byoa::Action::"ReadAudit", resource);

@id("enter") @reason("The rollout is on")
permit (principal is Byoa::Org, action == Byoa::Action::"EnterRollout", resource)
when { resource.provider == context.provider && resource.enabled && resource.stage == Byoa::Stage::"on" && context.bucket < 30 };
"#;

/// A folder with policies beside each other.
struct Desk(TempDir);

impl Desk {
    fn new(sets: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in sets {
            fs::create_dir_all(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("a.cedar"), text).unwrap();
        }
        Self(folder)
    }

    /// Exit code and what was printed.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let schema = format!("{ROOT}/schemas/gateway.cedarschema");
        let output = byoa(self.0.path()).args(["policy", "--schema", &schema]).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn story(&self, args: &[&str]) -> String {
        let (code, out, err) = self.run(args);
        format!("exit {code}\n{out}{err}")
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }
}

fn byoa(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
    command.current_dir(folder).env("TEST_AGENT_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").env_remove("BYOA_OPERATOR_TOKEN");
    // What is known without a solver; with one, `prove.rs` looks.
    command.env("CVC5", "/nonexistent");
    command
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"version [0-9a-f]{12}", "version 0123456789ab");
    settings.add_filter(r#""version": "[0-9a-f]{64}""#, r#""version": "0""#);
    settings.add_filter(r"dec_\d+", "dec_N");
    settings
}

#[test]
fn the_shipped_matrix_is_the_laws() {
    let here = Desk::new(&[]);
    let (policies, file) = (format!("{ROOT}/policies"), format!("{ROOT}/policies/matrix.txt"));
    assert_eq!(here.run(&["--policies", &policies, "matrix", "--check", &file]), (0, String::new(), String::new()));
    let (code, printed, _) = here.run(&["--policies", &policies, "matrix"]);
    let kept = fs::read_to_string(&file).unwrap();
    assert_eq!((code, printed == kept), (0, true), "{printed}");
    // Nothing of the shipped law is known by luck only.
    assert!(!kept.contains('*'), "{kept}");
}

#[test]
fn a_matrix_is_held_to_a_file() {
    let desk = Desk::new(&[("is", LAW)]);
    let (code, table, _) = desk.run(&["--policies", "is", "matrix"]);
    assert_eq!(code, 0);
    desk.write("matrix.txt", &table);
    let (_, json, _) = desk.run(&["--policies", "is", "matrix", "--format", "json"]);
    desk.write("matrix.json", &json);
    let value: Value = serde_json::from_str(&json).unwrap();
    let enter = value["lines"].as_array().unwrap().iter().find(|line| line["action"] == "EnterRollout").unwrap();
    assert_snapshot!(format!("{enter:#}"), @r#"
    {
      "line": "Org EnterRollout Flag",
      "principal": "Org",
      "role": null,
      "action": "EnterRollout",
      "resource": "Flag",
      "verdict": "sometimes",
      "how": "by sample",
      "certain": true,
      "permits": [
        "enter"
      ],
      "forbids": []
    }
    "#);

    let check = |file: &str, format: &str| desk.story(&["--policies", "is", "matrix", "--format", format, "--check", file]);
    assert_eq!(check("matrix.txt", "table"), "exit 0\n");
    assert_eq!(check("matrix.json", "json"), "exit 0\n");
    // How something is known is not what a review holds.
    desk.write("other.txt", &table.replace("by type-check", "proved       ").replace("never ", "never*"));
    assert_eq!(check("other.txt", "table"), "exit 0\n");

    let without =
        |text: &str, word: &str| text.lines().filter(|line| !line.contains(word)).map(|line| format!("{line}\n")).collect::<String>();
    let edited = without(&table, "Operator(viewer) ReadAudit").replace("permit enter", "permit entrance");
    desk.write("matrix.txt", &format!("{edited}Nobody DoesThis Ever  never  by type-check  -\nnonsense\n"));
    desk.write("matrix.json", &json.replace("\"sometimes\"", "\"never\""));
    assert_snapshot!(check("matrix.txt", "table"), @r#"
    exit 1
    - Nobody DoesThis Ever  never  -
    - Org EnterRollout Flag  sometimes  permit entrance
    + Org EnterRollout Flag  sometimes  permit enter
    - nonsense
    + Operator(viewer) ReadAudit Gateway  always  permit look
    byoa: 5 lines differ from matrix.txt; where that is meant, write the file anew
    "#);
    assert_snapshot!(check("matrix.json", "json"), @r#"
    exit 1
    - Org EnterRollout Flag  never  permit enter
    + Org EnterRollout Flag  sometimes  permit enter
    byoa: 2 lines differ from matrix.json; where that is meant, write the file anew
    "#);
    assert_snapshot!(check("gone.txt", "table"), @r#"
    exit 2
    byoa: gone.txt: No such file or directory (os error 2)
    "#);
    assert_snapshot!(check("matrix.txt", "json"), @r#"
    exit 2
    byoa: matrix.txt: not a matrix in JSON
    "#);
}

#[test]
fn what_differs_is_told_and_shown() {
    let _bound = settings().bind_to_scope();
    let tighter = LAW.replace("bucket < 30", "bucket < 10").replace("Everybody reads", "Whoever wants reads");
    let news = r#"@id("connect") @reason("The security team connects installations")
permit (principal in Byoa::Role::"security", action == Byoa::Action::"ConnectInstallation", resource);
"#;
    let desk = Desk::new(&[("was", LAW), ("is", &format!("{tighter}{news}"))]);
    assert_snapshot!("diff-human", desk.story(&["diff", "--from", "was", "--to", "is"]));
    let (code, json, _) = desk.run(&["--policies", "was", "diff", "--to", "is", "--format", "json"]);
    let mut value: Value = serde_json::from_str(&json).unwrap();
    let meaning = value["meaning"].as_array_mut().unwrap();
    assert_eq!((code, meaning.len()), (1, 51));
    meaning.retain(|change| change["change"] != "=" || change["environment"] == "Operator ReadAudit Gateway");
    assert_snapshot!("diff-json", format!("{value:#}"));
}

#[test]
fn what_does_not_differ_in_meaning_is_no_difference() {
    let _bound = settings().bind_to_scope();
    let reworded = LAW.replace("Everybody reads", "Whoever wants reads");
    let turned = LAW
        .replace("resource.enabled && resource.stage == Byoa::Stage::\"on\"", "resource.stage == Byoa::Stage::\"on\" && resource.enabled");
    let desk = Desk::new(&[("was", LAW), ("reworded", &reworded), ("turned", &turned)]);
    assert_snapshot!(desk.story(&["diff", "--from", "was", "--to", "reworded"]), @r#"
    exit 0
    from  was  version 0123456789ab, 2 policies
    to    reworded  version 0123456789ab, 2 policies

    text
      reworded  look  was/a.cedar:1 → reworded/a.cedar:1  the same Cedar; its annotations say something else

    meaning
      =  51 kinds of request: no policy that can decide them differs

    rows
      0 decided by both, 0 differ

    0 of 51 kinds of request differ (+ 0, - 0, ± 0, ~ 0); 0 of 0 rows
    "#);
    assert_snapshot!(desk.story(&["diff", "--from", "was", "--to", "turned"]), @r#"
    exit 0
    from  was  version 0123456789ab, 2 policies
    to    turned  version 0123456789ab, 2 policies

    text
      changed   enter  was/a.cedar:4 → turned/a.cedar:4

    meaning
      =  Org EnterRollout Flag  the same in 2000 samples; that is no proof
      =  50 kinds of request: no policy that can decide them differs

    rows
      0 decided by both, 0 differ

    0 of 51 kinds of request differ (+ 0, - 0, ± 0, ~ 0); 0 of 0 rows
    "#);
}

#[test]
fn a_folder_that_cannot_be_taken_is_said() {
    let desk = Desk::new(&[("was", LAW), ("broken", "permit (principal"), ("empty", "")]);
    fs::remove_file(desk.0.path().join("empty/a.cedar")).unwrap();
    assert_snapshot!(desk.story(&["diff", "--from", "was", "--to", "broken"]), @r#"
    exit 1
    byoa: policy.invalid
    broken/a.cedar:1:18: unexpected end of input
    "#);
    assert_snapshot!(desk.story(&["diff", "--from", "was", "--to", "empty"]), @r#"
    exit 2
    byoa: policy.missing
    empty:1:1: there is no policy file (*.cedar) here
    "#);
    assert_snapshot!(desk.story(&["diff", "--from", "gone", "--to", "was"]), @r#"
    exit 2
    byoa: policy.missing
    gone:1:1: cannot be read: No such file or directory (os error 2)
    "#);
    assert_snapshot!(desk.story(&["--policies", "broken", "matrix"]), @r#"
    exit 1
    byoa: policy.invalid
    broken/a.cedar:1:18: unexpected end of input
    "#);
    let (code, ..) = desk.run(&["diff", "--from", "was"]);
    assert_eq!(code, 2);
    let (code, _, said) = desk.run(&["diff", "--from", "was", "--to", "was", "--recorded", "5", "--server", "http://127.0.0.1:9"]);
    assert_eq!(code, 2, "{said}");
}

/// A gateway process with the shipped policies.
struct Gateway {
    process: Child,
    operator: String,
}

impl Gateway {
    fn start(folder: &Path) -> Self {
        let config = format!(
            "listen: {{public: 127.0.0.1:0, operator: 127.0.0.1:0}}\npublic_url: https://hooks.example.com\n\
             policies: {{dir: {ROOT}/policies, schema: {ROOT}/schemas/gateway.cedarschema}}\n\
             rollout: {{initial: {{slack: \"on\", telegram: \"on\", whatsapp: \"on\"}}}}\n\
             egress: {{allow_private_agents: true}}\ndelivery: {{concurrency: 0}}\nlog: {{level: warn}}\n"
        );
        fs::write(folder.join("byoa.yaml"), config).unwrap();
        let mut process = byoa(folder).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = |name: &str| {
            let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line:?}"));
            format!("http://{}", rest.split_whitespace().next().unwrap())
        };
        Self { operator: address("operator="), process }
    }

    fn run(&self, folder: &Path, args: &[&str]) {
        let output = byoa(folder).args(args).args(["--server", &self.operator]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

const RESOURCES: &str = r#"
orgs: [{id: acme, name: Acme Inc}]
agents: [{id: support, org: acme, endpoint: "http://127.0.0.1:9/events", signing_secret: {env: TEST_AGENT_SECRET}, token: {value: agt_0123456789abcdef}}]
profiles: [{id: acme-slack-app, provider: slack, owner: acme, app_id: A0ACME, ingress_id: acme-slack-7f3k9d2m, signing_secret: {value: 8f742231b10e8888abcd99aaabbb85a5}}]
installations: [{id: acme-slack, profile: acme-slack-app, org: acme, account: {team_id: T0ACME}, credential: {value: xoxb-some-credential}}]
bindings: [{id: acme-support, org: acme, installation: acme-slack, select: {channel: C0HELP}, agent: support}]
"#;

#[test]
fn recorded_decisions_are_decided_again() {
    let _bound = settings().bind_to_scope();
    let desk = Desk::new(&[]);
    let folder = desk.0.path();
    fs::create_dir(folder.join("is")).unwrap();
    for entry in fs::read_dir(format!("{ROOT}/policies/platform")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.join("is").join(path.file_name().unwrap())).unwrap();
    }
    desk.write("acme.yaml", RESOURCES);
    let gateway = Gateway::start(folder);
    gateway.run(folder, &["apply", "-f", "acme.yaml"]);
    let simulate = ["simulate", "slack", "message", "--conversation", "C0HELP"];
    gateway.run(folder, &simulate);

    let diff = |most: &str, format: &str| {
        let from = format!("{ROOT}/policies");
        let args = ["diff", "--from", &from, "--to", "is", "--recorded", most, "--format", format, "--server", &gateway.operator];
        let (code, out, err) = desk.run(&args);
        assert_eq!(err, "");
        (code, out)
    };
    let (code, out) = diff("50", "json");
    let value: Value = serde_json::from_str(&out).unwrap();
    let all = value["recorded"]["decided"].as_u64().unwrap();
    assert_eq!((code, all > 1, &value["recorded"]["flips"]), (0, true, &serde_json::json!([])), "{out}");

    // A set in which bots alone are heard.
    let path = folder.join("is/10-routing.cedar");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("principal.active &&", "context.fromBot &&\n  principal.active &&", 1)).unwrap();
    let (code, out) = diff("50", "human");
    let recorded = out.split("\nrecorded\n").nth(1).unwrap().replace(&format!("{all} decided"), "ALL decided");
    assert_eq!(code, 1);
    assert_snapshot!(recorded.replace(&format!("of {all} recorded"), "of ALL recorded"), @r#"
      ALL decided by both, 1 differ
      dec_N  ByoaInstallation::"acme-slack" RouteMessage OrgAgent::"support"
           from  allow by route.byoa
           to    refuse policy.no_permit by no policy

    1 of 51 kinds of request differ (+ 0, - 1, ± 0, ~ 0); 0 of 0 rows; 1 of ALL recorded decisions
    "#);
    let (_, out) = diff("1", "json");
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(value["recorded"]["decided"], 1);

    // What samples do not meet, what was asked does.
    let rare = r#"@id("rare") @reason("r") @code("policy.forbidden")
forbid (principal, action == Byoa::Action::"RouteMessage", resource is Byoa::OrgAgent)
when { context has conversation && context.conversation like "*HELP" && !(context.conversation like "x*") };"#;
    fs::write(&path, format!("{text}\n{rare}\n")).unwrap();
    let (code, out) = diff("50", "json");
    let value: Value = serde_json::from_str(&out).unwrap();
    let same = value["meaning"].as_array().unwrap().iter().all(|change| change["change"] == "=");
    assert_eq!((code, same, value["recorded"]["flips"].as_array().unwrap().len()), (1, true, 1), "{out}");
}
