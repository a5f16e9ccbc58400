//! `byoa policy check`, `fmt` and `explain` as people and CI call them: what is printed, and how it exits.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use byoa_gateway::domain::clock::{Clock, Timestamp};
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use insta::assert_snapshot;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::gateway::{OPERATOR_TOKEN, TestGateway};
use super::support::raw::{Request, once};
use super::support::world;
use super::support::{here, sign};

const NOW: i64 = 1_790_000_100;

const GOOD: &str = "@id(\"a\")\n@reason(\"Operators look\")\npermit (\n  principal is Byoa::Operator,\n  action in Byoa::Action::\"View\",\n  resource\n);\n";

/// A folder with `policies/`, and the command run in it.
struct Desk(TempDir);

impl Desk {
    fn with(files: &[(&str, &str)]) -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(desk.0.path().join("policies")).unwrap();
        files.iter().for_each(|(name, text)| desk.write(name, text));
        desk
    }

    /// With the law that ships.
    fn shipped() -> Self {
        let desk = Self::with(&[]);
        for entry in std::fs::read_dir(here("policies/platform")).unwrap() {
            let entry = entry.unwrap();
            desk.write(&format!("platform/{}", entry.file_name().to_str().unwrap()), &std::fs::read_to_string(entry.path()).unwrap());
        }
        desk
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("policies").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Runs `byoa policy …`: its exit code and what it printed.
    fn run(&self, args: &[&str]) -> (i32, String) {
        self.run_with(args, &here("schemas/gateway.cedarschema"), "")
    }

    fn run_with(&self, args: &[&str], schema: &Path, input: &str) -> (i32, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
        command.current_dir(self.0.path()).arg("policy").args(args).arg("--schema").arg(schema).env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN);
        let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that takes no input may be gone by now.
        let _ = running.stdin.take().unwrap().write_all(input.as_bytes());
        let output = running.wait_with_output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!text.contains('\u{1b}'), "no colour where nobody looks: {text:?}");
        (output.status.code().unwrap(), text)
    }

    /// The same as one text.
    fn said(&self, args: &[&str]) -> String {
        let (code, text) = self.run(args);
        format!("exit {code}\n{text}")
    }
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"(evt|ses|req|crd)_[0-9A-Z]{26}", "${1}_00000000000000000000000000");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "2026-01-01T00:00:00.000Z");
    settings.add_filter(r"\b[0-9a-f]{8}…", "01234567…");
    settings.add_filter(r"\b[0-9a-f]{64}\b", "0".repeat(64));
    settings
}

/// Faults of several kinds, in one of three files each but the last.
fn broken() -> Desk {
    Desk::with(&[
        ("10-good.cedar", GOOD),
        (
            "20-types.cedar",
            "@id(\"b\") @reason(\"r\")\npermit (principal is Byoa::Org, action, resource)\n\twhen { principal.suspnded };\n\
             @id(\"c\") @reason(\"r\") @code(\"no.such\")\nforbid (principal, action, resource) when { 1 + 1 == 2 };",
        ),
        ("30 syntax.cedar", "permit (principal, action"),
        ("orgs/acme/empty.cedar", "// nothing yet\n"),
    ])
}

#[test]
fn check_shows_each_fault_at_its_place() {
    assert_snapshot!(broken().said(&["check"]));
}

#[test]
fn check_tells_programs_the_same() {
    let _bound = settings().bind_to_scope();
    let desk = broken();
    let (code, text) = desk.run(&["check", "--format", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["ok"], &json["version"], &json["files"]), (1, &json!(false), &Value::Null, &json!(4)));
    let (code, text) = desk.run(&["check", "--format", "sarif"]);
    let mut sarif: Value = serde_json::from_str(&text).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!((code, results.len()), (1, json["diagnostics"].as_array().unwrap().len()));
    for (result, fault) in results.iter().zip(json["diagnostics"].as_array().unwrap()) {
        assert_eq!((&result["message"]["text"], &result["ruleId"]), (&fault["message"], &fault["rule"]));
    }
    sarif["runs"][0]["tool"]["driver"]["rules"].as_array_mut().unwrap().truncate(2);
    assert_snapshot!(serde_json::to_string_pretty(&sarif).unwrap());

    let good = Desk::with(&[("a.cedar", GOOD)]);
    assert_snapshot!("check_good", format!("{}{}", good.said(&["check"]), good.said(&["check", "--format", "json"])));
    let (code, text) = good.run(&["check", "--format", "sarif"]);
    let sarif: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &sarif["runs"][0]["results"]), (0, &json!([])));
}

#[test]
fn what_could_not_be_looked_at_is_not_wrong() {
    let desk = Desk::with(&[]);
    for format in ["human", "json", "sarif"] {
        let (code, text) = desk.run(&["check", "--format", format]);
        assert!(code == 2 && text.contains("there is no policy file (*.cedar) here"), "{text}");
    }
    let (code, text) = desk.run(&["check", "--policies", "nowhere"]);
    assert!(code == 2 && text.contains("nowhere:1:1  file\n  cannot be read"), "{text}");
    desk.write("a.cedar", GOOD);
    let (code, text) = desk.run_with(&["check", "--format", "sarif"], Path::new("nowhere"), "");
    let sarif: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &sarif["runs"][0]["invocations"][0]["executionSuccessful"]), (2, &json!(false)));
    // Another schema can be looked at, and is wrong.
    std::fs::write(desk.0.path().join("other.cedarschema"), "entity A;").unwrap();
    assert_eq!(desk.run_with(&["check"], Path::new("other.cedarschema"), "").0, 1);
    std::os::unix::fs::symlink("nothing", desk.path("b.cedar")).unwrap();
    assert_eq!(desk.run(&["check"]).0, 2);
}

#[test]
fn what_has_ended_is_noted() {
    let _bound = settings().bind_to_scope();
    let now = Clock::system().now();
    let until = |id: &str, days: i64| GOOD.replace("@id(\"a\")", &format!("@id(\"{id}\")\n@until(\"{}\")", now.plus_ms(days * 86_400_000)));
    let desk = Desk::with(&[
        ("a.cedar", GOOD),
        ("ended.cedar", &until("ended", -1)),
        ("soon.cedar", &until("soon", 6)),
        ("later.cedar", &until("later", 8)),
    ]);
    assert_snapshot!(desk.said(&["check"]));
    let (code, text) = desk.run(&["check", "--format", "json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, json["notes"].as_array().unwrap().len(), &json["ok"]), (0, 3, &json!(true)));
    let (_, text) = desk.run(&["check", "--format", "sarif"]);
    let sarif: Value = serde_json::from_str(&text).unwrap();
    assert!(sarif["runs"][0]["results"].as_array().unwrap().iter().all(|r| r["level"] == "note" && r["ruleId"] == "until"));
}

#[test]
fn an_end_that_nobody_meant_is_a_fault() {
    let freeze = |id: &str, year: u32| {
        format!(
            "@id(\"{id}\")\n@reason(\"r\")\n@code(\"policy.forbidden\")\n@until(\"{year}-01-01T00:00:00Z\")\nforbid (principal, action == Byoa::Action::\"ReadAudit\", resource);\n"
        )
    };
    let desk = Desk::with(&[("a.cedar", GOOD), ("b.cedar", &freeze("freeze", 2998))]);
    let (code, said) = desk.run(&["check"]);
    assert!(code == 1 && said.contains("b.cedar:1:1  until") && said.contains("this forbid ends 2998-01-01"), "{said}");
    let table = |at: &str| {
        format!(
            "about: x\nask: ReadAudit\ngiven: {{Operator ann: {{mfa: true, role: viewer}}}}\n\
             defaults: {{principal: Operator ann, resource: Gateway byoa}}\nrows:\n  - {{name: frozen, {at} want: {{decision: refuse, code: policy.forbidden, policies: [freeze]}}}}\n  \
             - {{name: afterwards, at: \"2998-01-01T00:00:00Z\", want: {{decision: allow, policies: [a]}}}}\n"
        )
    };
    // The row of today is one that will not hold.
    desk.write("tables/a.yaml", &table(""));
    let (code, said) = desk.run(&["check"]);
    assert!(
        code == 1 && said.contains("tables/a.yaml:6:12  table") && said.contains("when `freeze` ends: wants refuse policy.forbidden"),
        "{said}"
    );
    let (code, said) = desk.run(&["test"]);
    assert!(code == 1 && said.contains("as of     2998-01-01") && said.contains("2 rows in 1 table: 1 case wrong after an end"), "{said}");
    let (code, said) = desk.run(&["test", "--format", "json"]);
    assert!(code == 1 && said.contains("\"ok\":false") && said.contains("\"ended\":[\"freeze\"]"), "{said}");
    let (code, said) = desk.run(&["test", "--format", "junit"]);
    assert!(code == 1 && said.contains("frozen, from 2998-01-01T00:00:00.000Z on, when `freeze` ends"), "{said}");
    let (code, said) = desk.run(&["test", "--update"]);
    assert!(code == 1 && said.contains("it is answered otherwise: say with `at`"), "{said}");
    assert_eq!(desk.run(&["lock"]).0, 1);
    desk.write("tables/a.yaml", &table("at: \"2997-12-31T00:00:00Z\","));
    let (code, said) = desk.run(&["check"]);
    assert!(code == 0 && said.contains("b.cedar:1: note: `freeze` ends 2998-01-01T00:00:00.000Z"), "{said}");
    assert_eq!(desk.run(&["test"]).0, 0);
    // Both sets say when: of the one what it has alone.
    for (name, text) in [("a.cedar", GOOD.to_owned()), ("b.cedar", freeze("freeze", 2998)), ("c.cedar", freeze("other", 2999))] {
        std::fs::create_dir_all(desk.0.path().join("to")).unwrap();
        std::fs::write(desk.0.path().join("to").join(name), text).unwrap();
    }
    let (code, said) = desk.run(&["diff", "--to", "to"]);
    let ends = said.split("\nends\n").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_eq!(
        ends.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>(),
        ["2998-01-01T00:00:00.000Z freeze policies/b.cedar:1", "2999-01-01T00:00:00.000Z other to/c.cedar:1 only of to",]
    );
    assert_eq!(code, 1);
    std::fs::write(desk.0.path().join("to/c.cedar"), freeze("freeze", 2999)).unwrap();
    std::fs::remove_file(desk.0.path().join("to/b.cedar")).unwrap();
    let (code, said) = desk.run(&["diff", "--to", "to", "--format", "json"]);
    let json: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, json["ends"].as_array().unwrap().len(), &json["differs"]),
        (1, 2, &json!(true)),
        "another end is another law: {said}"
    );
}

#[test]
fn what_ships_is_in_order() {
    let desk = Desk::shipped();
    assert_eq!(desk.run(&["check"]).0, 0);
    assert_eq!(desk.run(&["fmt", "--check"]), (0, "0 of 8 files would change\n".into()));
}

#[test]
fn fmt_rewrites_what_it_understands() {
    let untidy = "// head\n\n@id(\"b\") @reason(\"r\")\npermit (principal is Byoa::Operator,action in Byoa::Action::\"View\",resource) when {principal.mfa // why\n};";
    let desk = Desk::with(&[("a.cedar", GOOD), ("b.cedar", untidy), ("c.cedar", "permit (")]);
    std::os::unix::fs::symlink(".elsewhere.cedar", desk.path("d.cedar")).unwrap();
    let elsewhere = desk.path(".elsewhere.cedar");
    std::fs::write(&elsewhere, GOOD.replace("  ", "\t")).unwrap();
    let mut story = desk.said(&["fmt", "--check"]);
    assert_eq!(desk.read("b.cedar"), untidy, "--check changes nothing");
    story += &desk.said(&["fmt"]);
    assert_snapshot!(story + &desk.read("b.cedar"));
    assert_eq!((desk.read("c.cedar").as_str(), desk.read("a.cedar").as_str()), ("permit (", GOOD));
    assert!(std::fs::symlink_metadata(desk.path("d.cedar")).unwrap().is_symlink());
    assert_eq!(std::fs::read_to_string(elsewhere).unwrap(), GOOD);
    std::fs::remove_file(desk.path("c.cedar")).unwrap();
    assert_eq!(desk.run(&["fmt"]), (0, "0 of 3 files changed\n".into()));
    // The schema is none of its business.
    assert_eq!(desk.run_with(&["fmt", "--check"], Path::new("nowhere"), "").0, 0);
    assert_eq!(desk.run(&["fmt", "--policies", "nowhere"]).0, 2);
}

/// An operator without a second factor wants to roll back.
fn roll_back(role: &str) -> Value {
    json!({
        "action": "RevokeSecret", "principal": "Operator::\"ann\"", "resource": {"type": "PlatformAgent", "id": "desk"},
        "entities": [
            {"uid": {"type": "Byoa::Operator", "id": "ann"}, "attrs": {"mfa": false}, "parents": [{"type": "Byoa::Role", "id": role}]},
            {"uid": {"type": "Byoa::PlatformAgent", "id": "desk"}, "attrs": {}, "parents": []},
        ],
    })
}

#[test]
fn a_request_is_explained() {
    let _bound = settings().bind_to_scope();
    let desk = Desk::shipped();
    let file = desk.0.path().join("request.json");
    let ask = |value: &str| {
        std::fs::write(&file, value).unwrap();
        desk.said(&["explain", "--request", "request.json"])
    };
    assert_snapshot!("explain_near_miss", ask(&roll_back("security").to_string()));
    assert_snapshot!("explain_json", desk.said(&["explain", "--request", "request.json", "--format", "json"]));
    let stdin = desk.run_with(&["explain", "--request", "-"], &here("schemas/gateway.cedarschema"), &roll_back("viewer").to_string());
    assert!(stdin.0 == 0 && stdin.1.starts_with("REFUSED  policy.no_permit"), "{}", stdin.1);
    let mut unfit = roll_back("security");
    unfit["context"] = json!({"why": 1});
    let story = [
        ask(&unfit.to_string()),
        ask("[1"),
        ask("[1]"),
        ask(&roll_back("security").to_string().replace("Operator::", "Operator:")),
        desk.said(&["explain", "--request", "nowhere.json"]),
        desk.said(&["explain"]).lines().take(2).collect::<Vec<_>>().join("\n"),
        desk.said(&["explain", "--decision", "dec_1/2"]),
        desk.said(&["explain", "--decision", "dec_1", "--server", "http://127.0.0.1:1"]),
    ];
    assert_snapshot!("explain_no_request", story.join("--\n"));
}

/// A gateway with a message that came in and was answered; the id of its event.
async fn answered() -> (TestGateway, String) {
    let gateway = TestGateway::start(NOW).await;
    let app = world::acme(ProviderKind::Slack);
    let mut document = world::document(ProviderKind::Slack);
    let bindings = document["bindings"].as_array_mut().unwrap();
    for (id, select, priority, enabled) in [
        ("desk", json!({"channel": "C00HELPDESK"}), 100, true),
        ("desk-late", json!({"channel": "C00HELPDESK"}), 200, true),
        ("desk-off", json!({"channel": "C00HELPDESK"}), 1, false),
        ("desk-twin", json!({"channel": "C00HELPDESK"}), 100, true),
        ("elsewhere", json!({"channel": "C00OTHER"}), 1, true),
    ] {
        bindings.push(json!({"id": id, "org": "acme", "installation": app.profile, "agent": "acme-agent", "select": select, "priority": priority, "enabled": enabled}));
    }
    gateway.applied(&document).await;
    let account = app.external();
    let now = Timestamp::from_secs(NOW);
    let sample =
        Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation: "C00HELPDESK", text: "hello", nonce: 71, now };
    let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
    let signed = sign(app.provider, &body, app.secret, now);
    let answer = gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await;
    assert_eq!(answer.status, 200);
    let events = gateway.operate("GET", "/v1/events", &Value::Null).await.json();
    let (event, session) = (events["items"][0]["id"].as_str().unwrap(), &events["items"][0]["session"]);
    // No credential: the send is refused, and its decisions are kept.
    let message = json!({"session": session, "text": "hi"});
    let send = Request::post("/v1/messages", serde_json::to_vec(&message).unwrap()).json();
    let send = send.header("authorization", "Bearer agt_acme_3kd9slw02mfj47").header("idempotency-key", "reply-1");
    once(gateway.public, &send).await.unwrap();
    (gateway, event.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_and_its_decisions_are_explained() {
    let (gateway, event) = answered().await;
    let _bound = settings().bind_to_scope();
    let server = format!("http://{}", gateway.operator);
    let desk = Desk::shipped();
    let asked = |args: &[&str]| desk.said(&[&["explain"], args, &["--server", &server]].concat());
    assert_snapshot!("explain_event", asked(&["--event", &event]));
    let json = asked(&["--event", &event, "--format", "json"]);
    let json: Value = serde_json::from_str(json.strip_prefix("exit 0\n").unwrap()).unwrap();
    let id = json["decisions"][0]["id"].as_str().unwrap().to_owned();
    assert!(json["decisions"].as_array().unwrap().iter().all(|d| d["same_version"] == true && d["same_answer"] == true));
    assert_eq!(
        json["bindings"][0],
        json!({"id": "desk", "org": "acme", "installation": "slack-acme", "select": {"channel": "C00HELPDESK"},
        "agent": "acme-agent", "priority": 100, "enabled": true, "session": "conversation", "allow_platform_fallback": false, "standing": "hears"})
    );

    // What `byoa get` prints is a request, too.
    let decisions = gateway.operate("GET", &format!("/v1/decisions?limit=50&id={event}"), &Value::Null).await.json();
    let route = decisions["items"].as_array().unwrap().iter().find(|d| d["action"] == "RouteMessage").unwrap();
    std::fs::write(desk.0.path().join("decision.json"), route.to_string()).unwrap();
    assert!(asked(&["--request", "decision.json"]).starts_with("exit 0\nPERMITTED\n"));
    let unfit = json!({"action": "RouteMessage", "principal": "", "resource": "", "facts": {"unfit": "the question contradicts itself"}});
    std::fs::write(desk.0.path().join("decision.json"), unfit.to_string()).unwrap();
    let said = asked(&["--request", "decision.json"]);
    assert!(said.contains("REFUSED  policy.not_applicable") && said.contains("the question contradicts itself"), "{said}");

    // The law changes on disk: the version is another, and for routing the answer as well.
    let route = route["id"].as_str().unwrap();
    let routing = desk.read("platform/10-routing.cedar");
    desk.write("platform/10-routing.cedar", &format!("{routing}// another version\n"));
    let said = asked(&["--decision", route]);
    assert!(said.contains("the law on disk is another") && said.contains("answer to the recorded facts is the same"), "{said}");
    desk.write("platform/10-routing.cedar", &routing.replace("@id(\"route.byoa\")", "@id(\"route.own\")"));
    let said = asked(&["--decision", route]);
    assert!(said.contains("PERMITTED") && said.contains("answer to the recorded facts is ANOTHER"), "by another policy: {said}");
    desk.write("platform/10-routing.cedar", &routing.replace("principal.active", "!principal.active"));
    assert_snapshot!("explain_decision_changed", asked(&["--decision", route]).lines().take(22).collect::<Vec<_>>().join("\n"));
    assert!(asked(&["--decision", &id]).starts_with("exit 0"));

    let gone = asked(&["--event", "evt_01J00000000000000000000000"]) + &asked(&["--decision", "dec_999999"]);
    assert_snapshot!("explain_not_there", gone);
}

/// Every command that reads policies has the same limits as a gateway, and ends with one of its own exit codes.
#[test]
fn a_policy_that_is_too_complex_is_a_fault_for_every_command() {
    let desk = Desk::shipped();
    let policy = |condition: &str| {
        format!(
            "@id(\"org.acme.a\")\n@reason(\"b\")\n@code(\"policy.forbidden\")\nforbid (\n  principal in Byoa::Org::\"acme\",\n  \
             action == Byoa::Action::\"RouteMessage\",\n  resource\n)\nwhen {{ {condition} }};\n"
        )
    };
    let terms = |n: usize| vec!["context.fromBot"; n].join(" && ");
    desk.write("orgs/acme/a.cedar", &policy(&terms(499)));
    let (code, said) = desk.run(&["check"]);
    assert_eq!(code, 0, "within the limits: {said}");
    for (condition, rule) in [
        (format!("{}1{} == [1]", "[".repeat(2_000), "]".repeat(2_000)), "orgs/acme/a.cedar:9:71  limit"),
        (format!("{}true{}", "(".repeat(3_000), ")".repeat(3_000)), "orgs/acme/a.cedar:9:71  limit"),
        (terms(2_000), "limit"),
        (format!("true // {}\n", "x".repeat(65_536)), "orgs/acme/a.cedar:1:1  limit"),
    ] {
        desk.write("orgs/acme/a.cedar", &policy(&condition));
        let (code, said) = desk.run(&["check"]);
        assert!(code == 1 && said.contains(rule), "{code} {}", said.chars().take(400).collect::<String>());
        for command in [&["matrix"][..], &["lock"], &["prove"], &["diff", "--to", "policies"]] {
            let (code, said) = desk.run(command);
            let said: String = said.chars().take(400).collect();
            assert!(code == 1 && said.contains("policy.too_complex"), "{command:?}: {code} {said}");
        }
        assert_eq!(desk.run(&["fmt", "--check"]).0, 1);
        let request = json!({"action": "ReadAudit", "principal": "Byoa::Operator::\"a\"", "resource": "Byoa::Gateway::\"g\""});
        std::fs::write(desk.0.path().join("request.json"), request.to_string()).unwrap();
        assert_eq!(desk.run(&["explain", "--request", "request.json"]).0, 1);
    }
}
