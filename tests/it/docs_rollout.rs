//! `docs/rollout.md`, played: every command on the page, in its order, by the real binary against the real binary. What the page
//! says it answers, it must.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::support::fakes::FakeAgent;
use super::support::gateway::OPERATOR_TOKEN;
use super::support::process::{Home, Serving};
use super::support::raw::{Request, once};
use super::support::{copy, here};

/// A block of the page: its language, and its lines.
struct Block {
    language: String,
    lines: Vec<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut all = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some(Block { language: language.to_owned(), lines: Vec::new() }),
            (Some(_), Some(_)) => all.extend(open.take()),
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
    all
}

/// A command, how it must end and what it must say.
fn expected(line: &str) -> (&str, i32, &str) {
    let (command, note) = line.split_once(" # ").unwrap_or((line, ""));
    let note = note.trim();
    match (note.strip_prefix("says: "), note.strip_prefix("exit ").and_then(|n| n.split_once(": "))) {
        (Some(says), _) => (command.trim(), 0, says),
        (None, Some((code, says))) => (command.trim(), code.parse().unwrap(), says),
        (None, None) if note.is_empty() => (command.trim(), 0, ""),
        (None, None) => panic!("nobody understands `{note}`"),
    }
}

struct Bed {
    home: Home,
    serving: Serving,
}

impl Bed {
    fn run(&self, command: &str) -> Output {
        let byoa = std::path::Path::new(env!("CARGO_BIN_EXE_byoa")).parent().unwrap();
        let path = format!("{}:{}", byoa.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", command]).current_dir(self.home.dir.path()).env_clear();
        shell.env("PATH", path).env("HOME", self.home.dir.path()).env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN).env("NO_COLOR", "1");
        // The ports that the system chose.
        shell.env("BYOA_LISTEN__PUBLIC", self.serving.public.to_string());
        shell.env("BYOA_LISTEN__OPERATOR", self.serving.operator.to_string());
        shell.output().unwrap()
    }

    /// Waits until the law in force is the one that lies in the folder.
    async fn settled(&self) {
        let (dir, schema) = (self.home.path("policies"), here("schemas/gateway.cedarschema"));
        let version = byoa_gateway::policy::load::read(&dir, &schema, &Default::default()).unwrap().version().to_string();
        while self.get("/v1/policies").await["active"]["version"] != version.as_str() {}
    }

    async fn get(&self, path: &str) -> Value {
        let request = Request::get(path).header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
        once(self.serving.operator, &request).await.unwrap().json()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_runbook() {
    let page = std::fs::read_to_string(here("docs/rollout.md")).unwrap();
    let agent = FakeAgent::start().await;
    let home = Home::new();
    copy(&here("policies"), &home.path("policies"));
    let mut settings = home.settings();
    settings["policies"]["dir"] = json!(home.path("policies"));
    let blocks = blocks(&page);
    for block in blocks.iter().filter(|b| b.language == "yaml") {
        let name = block.lines[0].strip_prefix("# ").unwrap();
        let text = block.lines.join("\n");
        if name == "byoa.yaml" {
            let said: Value = serde_yaml::from_str(&text).unwrap();
            settings["rollout"] = said["rollout"].clone();
            // Nobody waits for an hour here; what a soak counts is shown by rollout.rs on a clock that is moved.
            settings["rollout"]["min_canary_minutes"] = json!(0);
        } else {
            let text = ["acme", "globex"]
                .iter()
                .fold(text, |t, org| t.replace(&format!("https://agents.{org}.example/events"), &agent.endpoint()));
            std::fs::write(home.path(name), text).unwrap();
        }
    }
    home.config(&settings);
    let bed = Bed { serving: home.serve(), home };
    let kept = bed.run("cd policies && git init --quiet && git add . && git -c user.name=a -c user.email=a@b.test commit --quiet -m law");
    assert!(kept.status.success(), "{kept:?}");

    let mut played = 0;
    for line in blocks.iter().filter(|b| b.language == "sh").flat_map(|b| &b.lines) {
        let (command, code, says) = expected(line);
        if !command.starts_with("sed ") && !command.starts_with("byoa policy ") && !command.starts_with("git ") {
            bed.settled().await;
        }
        let output = bed.run(command);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{command}\n{said}");
        assert!(said.contains(says), "{command} does not say `{says}`:\n{said}");
        played += 1;
    }
    assert!(played > 40, "only {played} commands are on the page");

    // Whatever was let in on the way, by its own route or by a legacy one, arrived, and arrived once.
    let events = bed.get("/v1/events?limit=200").await["items"].as_array().unwrap().clone();
    let mut waited_for: BTreeSet<String> = events.iter().map(|e| e["id"].as_str().unwrap().to_owned()).collect();
    assert!(waited_for.len() > 25, "{events:?}");
    while !waited_for.is_empty() {
        let id = agent.next().await.headers["webhook-id"].to_str().unwrap().to_owned();
        assert!(waited_for.remove(&id), "{id} arrived twice, or is nobody's");
    }
    assert!(agent.unseen().is_none());
    assert!(bed.serving.terminate().success());
}
