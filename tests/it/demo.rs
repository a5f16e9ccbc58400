//! `byoa serve --demo`, as a person runs it: from any folder, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const BYOA: &str = env!("CARGO_BIN_EXE_byoa");

/// However slow the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// The demo in an empty folder, with that folder for temporary files, and nothing of this process's settings.
fn demo(folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BYOA);
    command.args(["serve", "--demo"]).args(more).current_dir(folder).env_clear().env("TMPDIR", folder);
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    command
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// Puts `with` in place of what follows a mark, as long as it is part of it.
fn redact(text: &str, mark: &str, is_part: fn(char) -> bool, with: &str) -> String {
    let mut pieces = text.split(mark);
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let rest = piece.trim_start_matches(is_part);
        out.push_str(mark);
        out.push_str(if rest.len() < piece.len() { with } else { "" });
        out.push_str(rest);
    }
    out
}

/// The text without what differs from run to run.
fn redacted(text: &str) -> String {
    let mut text = text.to_owned();
    for mark in ["evt_", "msg_", "crd_"] {
        text = redact(&text, mark, |c| c.is_ascii_alphanumeric(), "…");
    }
    text = redact(&text, "127.0.0.1:", |c| c.is_ascii_digit(), "…");
    text = redact(&text, "version ", |c| c.is_ascii_hexdigit(), "…");
    // Whether this build has a console is not this test's question.
    text = text.replace("console, API", "API");
    let timeless = |line: &str| {
        // A time stands in seven columns, so its length moves nothing.
        let mut pieces = line.split(" ms").peekable();
        let mut out = String::new();
        while let Some(piece) = pieces.next() {
            let time = pieces.peek().is_some() && piece.ends_with(|c: char| c.is_ascii_digit());
            let kept = if time { piece.char_indices().rev().nth(6).map_or(0, |(at, _)| at) } else { piece.len() };
            out.push_str(&piece[..kept]);
            out.push_str(if time { "    0.0" } else { "" });
            out.push_str(if pieces.peek().is_some() { " ms" } else { "" });
        }
        out + "\n"
    };
    text.lines().map(timeless).collect()
}

#[test]
fn once_is_the_smoke_test() {
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &["--once"]).output().unwrap();
    let (text, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{text}\n{errors}");
    assert_eq!(errors, "", "nothing but the picture");
    assert!(is_empty(folder.path()), "the folder is removed");
    assert!(text.lines().any(|line| line.starts_with("listening public=127.0.0.1:") && line.contains(" operator=127.0.0.1:")));

    for tenant in ["acme", "globex"] {
        for provider in ["slack", "telegram", "whatsapp"] {
            let title = format!("── {tenant} · {provider} · ");
            assert!(text.lines().any(|line| line.starts_with(&title) && line.contains('✔')), "{title}");
        }
    }
    for refused in ["401 authn.signature_mismatch", "200 authn.tenant_mismatch", "200 ingress.duplicate"] {
        assert!(text.contains(refused), "{refused}");
    }
    assert!(!text.contains('✘') && !text.contains('\u{1b}'), "no failure, and no colour in a pipe");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "at most 100 columns");

    let calm = redacted(&text);
    // Every secret of the demo is a prefix and at least 32 digits, or those alone; no word of the picture is as long.
    for form in ["xoxb-", "EAA", ":AA", "whsec_", "agt_", "opr_"] {
        assert!(!text.contains(form), "{form}");
    }
    let longest = calm.split(|c: char| !c.is_ascii_alphanumeric()).map(str::len).max().unwrap_or(0);
    assert!(longest < 24, "something stands there that could be a secret");
    insta::assert_snapshot!(calm);
}

/// A running demo. A test that fails does not leave it behind.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(folder: &Path) -> Self {
        let mut child = demo(folder, &[]).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, lines }
    }

    /// Everything up to the line that has `mark` in it.
    fn until(&self, mark: &str) -> Vec<String> {
        let (mut all, end) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            all.push(line.unwrap_or_else(|_| panic!("no `{mark}` in:\n{}", all.join("\n"))));
            if all.last().is_some_and(|line| line.contains(mark)) {
                return all;
            }
        }
    }
}

#[test]
fn it_keeps_running_and_what_it_proposes_works() {
    let folder = tempfile::tempdir().unwrap();
    let mut running = Running::start(folder.path());
    let text = running.until("Ctrl-C stops and removes").join("\n");

    let proposed: Vec<String> =
        text.split("\n  $ ").skip(1).map(|c| c.split("\n  ").filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n")).collect();
    assert_eq!(proposed.len(), 3, "{text}");
    for command in &proposed {
        let command = command.split("\n\n").next().unwrap();
        let output = Command::new("sh").args(["-c", command]).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}\n{said}{}", String::from_utf8_lossy(&output.stderr));
        let want = if command.contains("get events") {
            "globex-phone"
        } else if command.contains("simulate") {
            "→ 200"
        } else {
            "authn.tenant_mismatch"
        };
        assert!(said.contains(want), "{command}\n{said}");
    }
    running.until("taken with the token of acme-slack");

    let pid = rustix::process::Pid::from_child(&running.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(running.child.wait().unwrap().success());
    assert!(is_empty(folder.path()), "the folder is removed");
}
