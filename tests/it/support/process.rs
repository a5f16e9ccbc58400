//! The real binary, run in a folder of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::gateway::{OPERATOR_LINE, OPERATOR_TOKEN};
use super::here;
use super::raw::{Request, once};

/// A folder to run `byoa serve` in.
pub struct Home {
    pub dir: TempDir,
}

/// A running `byoa serve`. Killed when it is dropped.
pub struct Serving {
    pub child: Child,
    pub public: SocketAddr,
    pub operator: SocketAddr,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Home {
    pub fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        home.config(&home.settings());
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn db(&self) -> PathBuf {
        self.path("data/byoa.db")
    }

    pub fn settings(&self) -> Value {
        json!({
            "listen": {"public": "127.0.0.1:0", "operator": "127.0.0.1:0"},
            "store": {"url": format!("sqlite:{}", self.db().display())},
            "policies": {"dir": here("policies"), "schema": here("schemas/gateway.cedarschema")},
            "keys": {"file": self.path("data/master.keys")},
            "operators": {"token_file": self.path("data/operator.token")},
            "rollout": {"initial": {"slack": "on", "telegram": "on", "whatsapp": "on"}},
            "egress": {"allow_private_agents": true},
            "log": {"level": "error"},
        })
    }

    pub fn config(&self, settings: &Value) {
        std::fs::write(self.path("byoa.yaml"), serde_yaml::to_string(settings).unwrap()).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
        command.arg("serve").arg("--config").arg(self.path("byoa.yaml")).current_dir(self.dir.path());
        command.env_clear().env("BYOA_OPERATOR_TOKEN", OPERATOR_LINE);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it says where it listens.
    pub fn serve(&self) -> Serving {
        self.serve_with(|_| {})
    }

    /// The same, with more said to the process.
    pub fn serve_with(&self, more: impl FnOnce(&mut Command)) -> Serving {
        let mut command = self.command();
        more(&mut command);
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = |name: &str| line.split_whitespace().find_map(|w| w.strip_prefix(name)).and_then(|a| a.parse().ok());
        match (address("public="), address("operator=")) {
            (Some(public), Some(operator)) if line.starts_with("listening ") => Serving { child, public, operator },
            _ => {
                let (status, said) = ended(child);
                panic!("it does not serve: {status}, `{line}`, {said}");
            }
        }
    }

    /// Starts it where it must refuse; its exit code and what it says.
    pub fn refused(&self) -> (Option<i32>, String) {
        let (status, said) = ended(self.command().spawn().unwrap());
        (status.code(), said)
    }
}

/// How it ended, and what it said.
pub fn ended(mut child: Child) -> (ExitStatus, String) {
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap(), said)
}

impl Serving {
    pub async fn apply(&self, document: &Value) {
        let request = Request::post("/v1/apply", serde_json::to_vec(document).unwrap()).json();
        let answer = once(self.operator, &request.header("authorization", format!("Bearer {OPERATOR_TOKEN}"))).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; how it ended.
    pub fn terminate(mut self) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}
