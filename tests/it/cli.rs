//! The command line against a real gateway process: what it prints and how it exits.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use insta::assert_snapshot;
use tempfile::TempDir;

const BYOA: &str = env!("CARGO_BIN_EXE_byoa");

const RESOURCES: &str = r#"
orgs:
  - {id: acme, name: Acme Inc, fallback_opt_in: [slack]}
agents:
  - {id: support, org: acme, endpoint: "http://127.0.0.1:9/events", signing_secret: {env: TEST_AGENT_SECRET}, token: {file: agent.token}}
profiles:
  - {id: acme-slack-app, provider: slack, owner: acme, app_id: A0ACME, ingress_id: acme-slack-7f3k9d2m, signing_secret: {value: 8f742231b10e8888abcd99aaabbb85a5}}
installations:
  - {id: acme-slack, profile: acme-slack-app, org: acme, account: {team_id: T0ACME}, credential: {value: xoxb-canary-credential}}
bindings:
  - {id: acme-support, org: acme, installation: acme-slack, select: {channel: C0HELP}, agent: support}
"#;

/// A gateway process in a folder of its own.
struct Running {
    folder: TempDir,
    process: Child,
    public: String,
    operator: String,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let config = format!(
            "listen: {{public: 127.0.0.1:0, operator: 127.0.0.1:0}}\npublic_url: https://hooks.example.com\n\
             policies: {{dir: {0}/policies, schema: {0}/schemas/gateway.cedarschema}}\n\
             rollout: {{initial: {{slack: \"on\", telegram: \"on\", whatsapp: \"on\"}}}}\n\
             egress: {{allow_private_agents: true}}\ndelivery: {{concurrency: 0}}\nlog: {{level: warn}}\n",
            root.display()
        );
        std::fs::write(folder.path().join("byoa.yaml"), config).unwrap();
        std::fs::write(folder.path().join("agent.token"), "agt_0123456789abcdef\n").unwrap();
        std::fs::write(folder.path().join("acme.yaml"), RESOURCES).unwrap();
        let mut process = byoa(folder.path()).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = |name: &str| {
            let (_, rest) = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line:?}"));
            format!("http://{}", rest.split_whitespace().next().unwrap())
        };
        let (public, operator) = (address("public="), address("operator="));
        Self { folder, process, public, operator }
    }

    /// Runs a command against it; exit code, stdout and stderr as one text with what varies taken out.
    fn run(&self, args: &[&str]) -> String {
        let output = byoa(self.folder.path()).args(args).args(["--server", &self.operator]).output().unwrap();
        shown(&output, self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn byoa(folder: &Path) -> Command {
    let mut command = Command::new(BYOA);
    command.current_dir(folder).env("TEST_AGENT_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").env_remove("BYOA_OPERATOR_TOKEN");
    command
}

fn shown(output: &Output, gateway: &Running) -> String {
    let text = format!(
        "exit {}\n{}{}",
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for secret in ["xoxb-canary-credential", "8f742231b10e8888abcd99aaabbb85a5", "agt_0123456789abcdef", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    text.replace(&gateway.operator, "OPERATOR").replace(&gateway.public, "PUBLIC")
}

/// Ids, times and fingerprints, one width each so that tables stay tables.
fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"(evt|ses|req|crd)_[0-9A-Z]{26}", "${1}_00000000000000000000000000");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "2026-01-01T00:00:00.000Z");
    settings.add_filter(r"[0-9a-f]{16} seals", "0123456789abcdef seals");
    settings.add_filter(r"version [0-9a-f]{12}", "version 0123456789ab");
    settings.add_filter(r"fingerprint: '?[0-9a-f]{12}'?", "fingerprint: 0123456789ab");
    settings.add_filter(r"version: '?[0-9a-f]{16}'?", "version: 0123456789abcdef");
    settings.add_filter(r"\d+ policies", "N policies");
    settings.add_filter(r"\d+ cases of tables", "N cases of tables");
    settings.add_filter(r"\b[0-9a-f]{64}\b", "0".repeat(64));
    settings.add_filter(r"\b[0-9a-f]{32}\b", "0".repeat(32));
    settings
}

#[test]
fn a_tenant_from_file_to_event() {
    let gateway = Running::start();
    let _bound = settings().bind_to_scope();
    let mut story = String::new();
    for args in [
        &["apply", "-f", "acme.yaml", "--dry-run"][..],
        &["apply", "-f", "acme.yaml"],
        &["apply", "-f", "acme.yaml"],
        &["get", "installations"],
        &["get", "profiles", "acme-slack-app"],
        &["simulate", "slack", "message", "--conversation", "C0HELP"],
        &["simulate", "slack", "message", "--fault", "bad-signature"],
        &["simulate", "slack", "message", "--fault", "foreign-account"],
        &["simulate", "telegram", "message"],
        &["get", "events"],
        &["get", "deliveries"],
        &["get", "refusals"],
        &["get", "nonsense"],
        &["delete", "agents", "support"],
        &["delete", "bindings", "acme-support"],
        &["doctor"],
    ] {
        let words: Vec<&str> = args.iter().copied().filter(|a| !a.starts_with("http")).collect();
        story.push_str(&format!("$ byoa {}\n{}\n", words.join(" "), gateway.run(args)));
    }
    assert_snapshot!(story);
}

#[test]
fn one_invalid_resource_and_nothing_of_the_file_is_applied() {
    let gateway = Running::start();
    let _bound = settings().bind_to_scope();
    let mut story = String::new();
    for (what, from, to) in [
        ("blank secret", "8f742231b10e8888abcd99aaabbb85a5", "\"  \""),
        ("short secret", "8f742231b10e8888abcd99aaabbb85a5", "abc"),
        ("placeholder", "8f742231b10e8888abcd99aaabbb85a5", "changeme"),
        ("agent secret that signs nothing", "{env: TEST_AGENT_SECRET}", "{value: whsec_not-base64-at-all}"),
        ("unknown field", "app_id: A0ACME", "app: A0ACME"),
        ("guessable address", "acme-slack-7f3k9d2m", "short"),
        ("somebody else's agent", "agent: support", "agent: nobody"),
        ("bad id", "id: acme-support", "id: Acme Support"),
        ("name for a person", "select: {channel: C0HELP}", "select: {peer: \"@ann\"}"),
        ("wrong account", "account: {team_id: T0ACME}", "account: {bot_id: \"7\"}"),
        ("no such variable", "TEST_AGENT_SECRET", "TEST_NO_SUCH"),
    ] {
        std::fs::write(gateway.folder.path().join("bad.yaml"), RESOURCES.replace(from, to)).unwrap();
        story.push_str(&format!("{what}: {}", gateway.run(&["apply", "-f", "bad.yaml"])));
    }
    story.push_str(&gateway.run(&["get", "orgs"]));
    assert_snapshot!(story);
}

#[test]
fn commands_that_need_no_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let output = byoa(folder.path()).args(args).output().unwrap();
        (output.status.code().unwrap(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
    };
    let (code, text) = run(&["reasons"]);
    assert_eq!(code, 0);
    assert_snapshot!("reasons", text);
    let (code, text) = run(&["config"]);
    assert_eq!(code, 0);
    assert!(text.contains("public: 127.0.0.1:8080"), "{text}");
    for usage in [&["frobnicate"][..], &[], &["serve", "--once"], &["get"]] {
        assert_eq!(run(usage).0, 2, "{usage:?}");
    }
    std::fs::write(folder.path().join("byoa.yaml"), "lisen: {}\n").unwrap();
    let (code, text) = run(&["config"]);
    assert_eq!(code, 2);
    assert_snapshot!("unknown_key", text);
    std::fs::remove_file(folder.path().join("byoa.yaml")).unwrap();
    // Nobody listens there.
    let (code, text) = run(&["get", "orgs", "--server", "http://127.0.0.1:1", "--token-file", "byoa.yaml"]);
    assert_eq!(code, 2, "{text}");
}
