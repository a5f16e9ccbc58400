//! Connections, bindings and sessions of an earlier system: taken over over the operator API and by the command line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::gateway::{OPERATOR_TOKEN, TestGateway, VIEWER_TOKEN};
use super::support::process::Home;
use super::support::world;

const NOW: i64 = 1_790_000_100;

/// Acme and globex with an agent and their own app each, the platform's app, and nothing installed.
pub struct Desk {
    pub gateway: TestGateway,
}

fn document(provider: ProviderKind) -> Value {
    let mut document = world::document(provider);
    document["installations"] = json!([]);
    document["bindings"] = json!([]);
    document
}

/// Counts are of what was looked at, and nothing is counted twice.
pub fn adds_up(report: &Value) {
    let number = |name: &str| report[name].as_u64().unwrap();
    let skipped: u64 = report["skipped"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(number("processed"), number("migrated") + number("already_done") + skipped, "{report}");
}

impl Desk {
    pub async fn start(provider: ProviderKind) -> Self {
        let gateway = TestGateway::start(NOW).await;
        gateway.applied(&document(provider)).await;
        Self { gateway }
    }

    pub async fn import(&self, lines: &[Value], dry_run: bool) -> Value {
        let lines: Vec<Value> = lines.iter().enumerate().map(|(n, record)| json!({"line": n + 1, "record": record})).collect();
        self.page(&json!({"lines": lines, "dry_run": dry_run, "last": true})).await
    }

    async fn page(&self, page: &Value) -> Value {
        let answer = self.gateway.operate("POST", "/v1/import", page).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let report = answer.json();
        adds_up(&report);
        report
    }

    pub async fn backfill(&self, page: &Value) -> Value {
        let answer = self.gateway.operate("POST", "/v1/backfill", page).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    pub async fn get(&self, path: &str) -> Value {
        self.gateway.operate("GET", &format!("/v1/{path}"), &Value::Null).await.json()
    }

    pub async fn ids(&self, kind: &str) -> Value {
        let all = self.get(kind).await;
        all["items"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect()
    }

    /// The lines that import and backfill left.
    pub async fn audit(&self) -> Vec<Value> {
        let sql = "SELECT action, target, outcome, code, verdict FROM audit WHERE action IN ('import.apply', 'backfill.bind') ORDER BY seq";
        self.gateway.kept.rows(sql).await
    }

    /// The command against this gateway.
    fn byoa(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
        command.args(arguments).arg("--server").arg(format!("http://{}", self.gateway.operator)).current_dir(self.gateway.kept.folder());
        command.env_clear().env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN).env("TEST_TOKEN", "xoxb-canary-imported");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it off the test's threads: exit code, report, and what it said on the way.
    async fn run(&self, arguments: &[&str]) -> (i32, Value, String) {
        let mut command = self.byoa(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains("xoxb-canary") && !String::from_utf8_lossy(&output.stdout).contains("xoxb-canary"), "{said}");
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default(), said)
    }

    fn file(&self, lines: &[String]) -> String {
        let file = self.gateway.kept.folder().join("lines.jsonl");
        std::fs::write(&file, lines.join("\n")).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

fn connection(org: &str, id: &str, team: &str) -> Value {
    json!({"kind": "connection", "id": id, "org": org, "provider": "slack", "profile_type": "organization", "account": {"team_id": team}})
}

fn binding(org: &str, id: &str) -> Value {
    json!({"kind": "binding", "id": id, "org": org, "provider": "slack", "agent": format!("{org}-agent")})
}

fn session(org: &str, id: &str) -> Value {
    json!({"kind": "session", "id": id, "org": org, "provider": "slack", "agent": format!("{org}-agent"), "contact": "U0ANN",
        "created_at": "2026-09-01T10:00:00Z", "last_at": "2026-09-01T11:00:00Z"})
}

fn texts(lines: &[Value]) -> Vec<String> {
    lines.iter().map(Value::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_the_run_does_and_a_second_run_changes_nothing() {
    let desk = Desk::start(ProviderKind::Slack).await;
    // Over two hundred lines, so that what a line refers to came pages before it.
    let mut lines = vec![connection("acme", "acme-old", "T00OLD")];
    lines[0]["credential"] = json!({"env": "TEST_TOKEN"});
    lines.extend((0..120).map(|n| session("acme", &format!("conv-{n}"))));
    lines.push(connection("acme", "acme-same-account", "T00OLD"));
    lines.push(connection("globex", "globex-same-account", "T00OLD"));
    lines.push(connection("globex", "acme-old", "T00NEW"));
    let mut bound = binding("acme", "bound");
    bound["installation"] = json!("acme-old");
    let mut anothers = binding("globex", "anothers");
    anothers["installation"] = json!("acme-old");
    lines.extend([bound, anothers, binding("acme", "legacy"), binding("acme", "legacy")]);
    let mut texts = texts(&lines);
    texts.push(String::new());
    texts.push("{\"kind\": \"binding\", \"kind\": \"connection\"}".into());
    texts.push("{\"kind\": \"binding\"".into());
    texts.push(format!("{{\"kind\": \"{}\"}}", "x".repeat(70_000)));
    texts.push(json!({"kind": "contact", "id": "x", "org": "acme"}).to_string());
    texts.push(json!({"kind": "binding", "id": "x1", "org": "umbrella", "provider": "slack", "agent": "a"}).to_string());
    texts.push(json!({"kind": "binding", "id": "x2", "org": "acme", "provider": "viber", "agent": "acme-agent"}).to_string());
    texts.push(json!({"kind": "binding", "id": "x3", "org": "acme", "provider": "slack", "agent": "nobody"}).to_string());
    texts.push(json!({"kind": "binding", "id": "x4", "org": "acme", "provider": "slack", "agent": "acme-agent", "colour": 1}).to_string());
    let mut unread = connection("acme", "x5", "T5");
    unread["credential"] = json!({"env": "NOT_SET"});
    texts.push(unread.to_string());
    let mut app = connection("acme", "x6", "T6");
    app["app_id"] = json!("A00OTHER");
    texts.push(app.to_string());
    let file = desk.file(&texts);

    let (dry_code, dry, _) = desk.run(&["import", &file, "--dry-run", "-o", "json"]).await;
    assert_eq!((desk.audit().await.len(), desk.ids("installations").await), (0, json!([])));
    let (code, report, said) = desk.run(&["import", &file, "-o", "json"]).await;
    assert_eq!((dry_code, &dry), (code, &report));
    assert_eq!(code, 1);
    adds_up(&report);
    let skipped = json!({"line_too_long": 1, "json_invalid": 2, "duplicate_line": 1, "unknown_kind": 1, "invalid": 1, "unknown_org": 1,
        "unknown_provider": 1, "unknown_profile": 1, "unknown_reference": 2, "identity_taken": 2, "secret_unreadable": 1});
    let mut skipped = skipped;
    // The third is a connection of globex that has another's id.
    skipped["duplicate_line"] = json!(2);
    assert_eq!((&report["skipped"], &report["migrated"], &report["already_done"]), (&skipped, &json!(123), &json!(0)), "{report:#}");
    // Listed by their lines, with what they are about.
    let examples = report["examples"].as_array().unwrap();
    let first: Vec<&Value> = examples.iter().map(|e| &e["line"]).take(4).collect();
    assert_eq!(first, [122, 123, 124, 126]);
    assert_eq!(said.lines().next().unwrap(), "100 lines: 100 migrated, 0 already done, 0 skipped");
    // A line of the audit for each, with the decision that let it.
    let audit = desk.audit().await;
    assert_eq!(audit.len(), 123);
    assert!(audit.iter().all(|l| l["outcome"] == "done" && !l["verdict"].is_null()), "{:?}", audit[0]);
    assert_eq!(desk.ids("bindings").await, json!(["bound", "legacy"]));
    assert_eq!(desk.get("bindings/legacy").await["legacy"], json!(true));
    assert_eq!(desk.get("installations/acme-old").await["credential"]["state"], "current");

    // Changed by hand since: an import overwrites nothing.
    let mut paused = binding("acme", "legacy");
    paused["enabled"] = json!(false);
    let before = desk.get("bindings/legacy").await;
    let again = desk.import(&[paused, lines[0].clone()], false).await;
    assert_eq!((&again["already_done"], &again["migrated"]), (&json!(2), &json!(0)));
    assert_eq!(desk.get("bindings/legacy").await, before);
    let (code, report, _) = desk.run(&["import", &file, "-o", "json"]).await;
    assert_eq!((code, &report["already_done"], &report["migrated"], &report["skipped"]), (1, &json!(123), &json!(0), &skipped));
    assert_eq!(desk.audit().await.len(), 123);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_tell_whether_it_ran_and_whether_all_was_taken() {
    let desk = Desk::start(ProviderKind::Slack).await;
    let file = desk.file(&texts(&[connection("acme", "c1", "T1"), binding("acme", "b"), session("acme", "s1")]));
    let (code, report, _) = desk.run(&["import", &file, "-o", "json"]).await;
    assert_eq!((code, &report["migrated"]), (0, &json!(3)), "{report}");
    let (code, report, _) = desk.run(&["backfill", "-o", "json"]).await;
    assert_eq!((code, &report["migrated"]), (0, &json!(1)), "{report}");
    let (code, _, said) = desk.run(&["import", "not-there.jsonl"]).await;
    assert_eq!(code, 2, "{said}");
    let mut command = desk.byoa(&["import", &file]);
    command.env("BYOA_OPERATOR_TOKEN", "opr_nobody_0123456789");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_apply_may_not_import() {
    let desk = Desk::start(ProviderKind::Slack).await;
    let page = json!({"lines": [{"line": 1, "record": binding("acme", "b")}]});
    for (path, page, action) in [("/v1/import", &page, "import.apply"), ("/v1/backfill", &Value::Null, "backfill.bind")] {
        let answer = desk.gateway.operate_as(VIEWER_TOKEN, "POST", path, page).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("policy.no_permit")), "{path}: {}", answer.text());
        let last = desk.audit().await.pop().unwrap();
        assert_eq!((&last["action"], &last["outcome"], &last["code"]), (&json!(action), &json!("refused"), &json!("policy.no_permit")));
    }
    assert_eq!(desk.ids("bindings").await, json!([]));
    let too_many: Vec<Value> = (0..251).map(|n| json!({"line": n, "record": {}})).collect();
    let answer = desk.gateway.operate("POST", "/v1/import", &json!({"lines": too_many})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("admin.resource_invalid")));
    let stale = json!({"lines": [], "dry_run": true, "cursor": "req_0"});
    let answer = desk.gateway.operate("POST", "/v1/import", &stale).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("admin.version_conflict")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_is_given_what_it_means_or_nothing() {
    let desk = Desk::start(ProviderKind::Slack).await;
    let mut platform = connection("globex", "globex-platform", "T3");
    platform["profile_type"] = json!("platform");
    let mut lines = vec![connection("acme", "c1", "T1"), connection("acme", "c2", "T2"), platform];
    for (id, fields) in [
        ("by-id", json!({"connection": "c2", "account": "T2"})),
        ("by-former-id-gone", json!({"connection": "c0", "account": "T1"})),
        ("by-installation-id", json!({"installation_id": "T2"})),
        ("by-select", json!({"select": {"account": "T1", "channel": "C1"}})),
        ("contradicts", json!({"connection": "c1", "account": "T2"})),
        ("no-hit", json!({"account": "T9"})),
        ("another-orgs", json!({"connection": "globex-platform"})),
        ("another-orgs-account", json!({"account": "T3"})),
        ("no-hint", json!({})),
        ("wrong-mode", json!({"connection": "c1", "mode": "platform"})),
    ] {
        let mut line = binding("acme", id);
        fields.as_object().unwrap().iter().for_each(|(name, value)| line[name] = value.clone());
        lines.push(line);
    }
    let report = desk.import(&lines, false).await;
    assert_eq!(report["migrated"], json!(lines.len()), "{report:#}");
    let skipped = json!({"ambiguous_installation": 2, "missing_identity": 4});
    for dry_run in [true, false] {
        let report = desk.backfill(&json!({"dry_run": dry_run})).await;
        assert_eq!((&report["migrated"], &report["skipped"]), (&json!(4), &skipped), "{report:#}");
    }
    for (id, installation) in [
        ("by-id", json!("c2")),
        ("by-former-id-gone", json!("c1")),
        ("by-installation-id", json!("c2")),
        ("by-select", json!("c1")),
        ("contradicts", Value::Null),
        ("no-hit", Value::Null),
        ("another-orgs", Value::Null),
        ("another-orgs-account", Value::Null),
        ("no-hint", Value::Null),
        ("wrong-mode", Value::Null),
    ] {
        let binding = desk.get(&format!("bindings/{id}")).await;
        assert_eq!(binding["installation"], installation, "{id}");
        // What it was found by is of no more use.
        assert_eq!(binding.get("former").is_some(), installation.is_null() && id != "no-hint", "{id}: {binding}");
    }
    assert_eq!(desk.get("bindings/by-select").await["select"]["channel"], "C1");
    // A degraded one hears still: the other is not the only one, and it is nobody's to be bound to.
    desk.gateway
        .applied(&json!({"installations": [{"id": "c1", "profile": "slack-acme", "org": "acme", "account": {"team_id": "T1"},
        "status": "degraded"}]}))
        .await;
    let report = desk
        .import(
            &[{
                let mut b = binding("acme", "to-degraded");
                b["connection"] = json!("c1");
                b
            }],
            false,
        )
        .await;
    assert_eq!(report["migrated"], 1);
    let report = desk.backfill(&json!({})).await;
    assert_eq!(report["skipped"], json!({"ambiguous_installation": 2, "inactive_installation": 1, "missing_identity": 4}));
    assert_eq!(desk.audit().await.iter().filter(|l| l["action"] == "backfill.bind").count(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_walks_on_from_anywhere() {
    let desk = Desk::start(ProviderKind::Slack).await;
    let mut lines = vec![connection("acme", "c1", "T1")];
    lines.extend((0..24).map(|n| binding("acme", &format!("b{n:02}"))));
    desk.import(&lines, false).await;
    let first = desk.backfill(&json!({"batch": 10})).await;
    assert_eq!((&first["processed"], &first["migrated"], &first["next"]), (&json!(10), &json!(10), &json!("b09")));
    // The command begins anew and finds the first ten done.
    let (code, report, said) = desk.run(&["backfill", "--batch", "5", "-o", "json"]).await;
    assert_eq!((code, &report["processed"], &report["migrated"], &report["already_done"]), (0, &json!(24), &json!(14), &json!(10)));
    assert_eq!(said.lines().count(), 5, "{said}");
    let rest = desk.backfill(&json!({"batch": 300, "cursor": "b09"})).await;
    assert_eq!((&rest["processed"], &rest["already_done"], &rest["next"]), (&json!(14), &json!(14), &Value::Null));
    assert_eq!(desk.audit().await.iter().filter(|l| l["action"] == "backfill.bind").count(), 24);
}

/// Starts the command on what the test writes to it.
fn fed(desk: &Desk) -> Child {
    desk.byoa(&["import", "-", "-o", "json"]).stdin(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_stopped_between_pages_goes_on() {
    let desk = Desk::start(ProviderKind::Slack).await;
    let lines: Vec<Value> = (0..250).map(|n| session("acme", &format!("conv-{n}"))).collect();
    let mut child = fed(&desk);
    let text = texts(&lines[..150]).join("\n") + "\n";
    tokio::task::spawn_blocking(move || {
        child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        // The first page is through; what was read of the second is lost with the process.
        let mut said = String::new();
        BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "100 lines: 100 migrated, 0 already done, 0 skipped\n");
        child.kill().unwrap();
        child.wait().unwrap();
    })
    .await
    .unwrap();
    let file = desk.file(&texts(&lines));
    let (code, report, _) = desk.run(&["import", &file, "-o", "json"]).await;
    assert_eq!((code, &report["migrated"], &report["already_done"]), (0, &json!(150), &json!(100)), "{report}");
    assert_eq!(desk.audit().await.len(), 250);
    assert_eq!(desk.gateway.kept.counts().await["sessions"], 250);
}

/// What a process had in memory at most, in kB.
#[cfg(target_os = "linux")]
fn peak_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A million lines through the command into a gateway that keeps some thousands of them. Half are broken. Of the others, whose
/// ids all differ, so that the command has to remember each, most name a secret that is not there: both the command finds out by
/// itself. What a gateway makes of a page does not grow with the pages before it, so a hundred show it, and the rest would
/// only take time. How much both had in memory is asked while the command waits for more.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_million_lines_take_little_memory() {
    const LINES: u64 = 1_000_000;
    let home = Home::new();
    let serving = home.serve();
    serving.apply(&document(ProviderKind::Slack)).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
    command.args(["import", "-", "-o", "json", "--server", &format!("http://{}", serving.operator)]).current_dir(home.dir.path());
    command.env_clear().env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let gateway = serving.child.id();
    let (peaks, bytes, output) = tokio::task::spawn_blocking(move || {
        let mut said = child.stderr.take().unwrap();
        let drained = std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let mut input = std::io::BufWriter::new(child.stdin.take().unwrap());
        let (pad, mut bytes) = ("x".repeat(100), 0);
        for n in 0..LINES {
            let line = match n % 200 {
                0 => session("acme", &format!("conv-{n}")).to_string(),
                2 => format!(r#"{{"kind":"binding","id":"b{n}","org":"nobody","provider":"slack","agent":"{pad}"}}"#),
                odd if odd % 2 == 1 => format!(r#"{{"kind" "connection","id":"c{n}","note":"{pad}"}}"#),
                _ => format!(
                    r#"{{"kind":"connection","id":"c{n}","org":"acme","provider":"slack","credential":{{"env":"NOT_SET"}},"note":"{pad}"}}"#
                ),
            };
            bytes += line.len();
            writeln!(input, "{line}").unwrap();
        }
        input.flush().unwrap();
        let peaks = (peak_kb(child.id()), peak_kb(gateway));
        drop(input);
        let output = child.wait_with_output().unwrap();
        drained.join().unwrap().unwrap();
        (peaks, bytes, output)
    })
    .await
    .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    adds_up(&report);
    let skipped = json!({"json_invalid": LINES / 2, "unknown_org": LINES / 200, "secret_unreadable": LINES / 200 * 98});
    assert_eq!(
        (output.status.code(), &report["processed"], &report["migrated"], &report["skipped"]),
        (Some(1), &json!(LINES), &json!(LINES / 200), &skipped)
    );
    assert_eq!(report["examples"].as_array().unwrap().len(), 20);
    // Of the command: thirty megabytes are a debug build's code and a TLS client, the rest is sixteen bytes a line in a set that
    // is half empty at worst and is moved when it grows. Of the gateway: the policies, the store's cache, the prepared statements.
    assert!(
        peaks.0 < 96 * 1024 && peaks.1 < 128 * 1024,
        "of {} kB the command had {} at once, the gateway {}",
        bytes / 1024,
        peaks.0,
        peaks.1
    );
}
