//! Secrets planted in every place where there can be one, and looked for in everything that leaves the gateway or stays
//! behind: logs at their most talkative, answers, errors, metrics, listings, the command's output, and the files of the store.

use std::io::Read as _;
use std::process::Command;
use std::sync::{Arc, Mutex};

use byoa_gateway::domain::clock::Clock;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::OPERATOR_TOKEN;
use super::support::process::{Home, Serving};
use super::support::raw::{Request, Response, once};
use super::support::{webhook, world};

/// The key that everything is sealed under, as it stands in its file.
const MASTER: &str = "ca0a51e5ca0a51e5ca0a51e5ca0a51e5ca0a51e5ca0a51e5ca0a51e5ca0a51e6";
const AGENT_TOKEN: &str = "4000000001:canary-token-of-the-agent-0001";

/// One secret of each kind, by provider where that matters.
struct Planted {
    all: Vec<(&'static str, String)>,
}

impl Planted {
    fn new() -> Self {
        let mut all = vec![
            ("the master key", MASTER.to_owned()),
            ("the operator's token", OPERATOR_TOKEN.to_owned()),
            ("an agent's token", AGENT_TOKEN.to_owned()),
            ("an agent's signing secret", "canarySigningOfTheAgent0000001".to_owned()),
            ("a client secret", "canary-client-secret-0001".to_owned()),
            ("a verify token", "canary-verify-token-0001".to_owned()),
            ("a refresh token", "xoxe-canary-refresh-token-0001".to_owned()),
            ("a new signing secret", "canary0new0signing0secret0000001".to_owned()),
            ("a wrong secret that a stranger presents", "canary-of-a-stranger-0001".to_owned()),
            ("a wrong token that a stranger presents", "4000000009:canary-token-of-a-stranger-1".to_owned()),
        ];
        for (name, provider) in
            [("Slack's", ProviderKind::Slack), ("Telegram's", ProviderKind::Telegram), ("WhatsApp's", ProviderKind::WhatsApp)]
        {
            all.push((name, world::acme(provider).credential()));
            all.push((name, world::acme(provider).secret.to_owned()));
        }
        Self { all }
    }

    fn of(&self, name: &str) -> &str {
        self.all.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str()).unwrap()
    }

    /// Fails where a text holds one of them, whole or in a form that is as good.
    fn none_in(&self, place: &str, text: &[u8]) {
        for (name, value) in &self.all {
            let forms = [value.clone(), hex::encode(value), value.replace(':', "%3A")];
            for form in forms.iter().filter(|f| f.len() >= 12) {
                let found = text.windows(form.len()).position(|w| w == form.as_bytes());
                if let Some(at) = found {
                    let from = at.saturating_sub(160);
                    let around = String::from_utf8_lossy(&text[from..(at + form.len() + 40).min(text.len())]);
                    panic!("{name} is in {place}: …{around}…");
                }
            }
        }
    }
}

/// A gateway whose log is kept.
struct Talking {
    serving: Serving,
    log: Arc<Mutex<Vec<u8>>>,
}

impl Talking {
    fn start(home: &Home) -> Self {
        let mut serving = home.serve_with(|command| {
            command.env("RUST_LOG", "trace");
        });
        let log = Arc::new(Mutex::new(Vec::new()));
        let (mut stderr, keep) = (serving.child.stderr.take().unwrap(), log.clone());
        std::thread::spawn(move || {
            let mut piece = [0u8; 8192];
            while let Ok(n @ 1..) = stderr.read(&mut piece) {
                keep.lock().unwrap().extend_from_slice(&piece[..n]);
            }
        });
        Self { serving, log }
    }

    async fn public(&self, request: Request) -> Response {
        once(self.serving.public, &request).await.unwrap()
    }

    async fn operator(&self, method: &str, path: &str, body: &Value) -> Response {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = Request::post(path, body).json().header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
        request.method = method.into();
        once(self.serving.operator, &request).await.unwrap()
    }
}

fn document(planted: &Planted, agent: &FakeAgent) -> Value {
    let mut all = json!({"orgs": [], "agents": [], "profiles": [], "installations": [], "bindings": []});
    for provider in ProviderKind::ALL {
        let part = world::document_with_credentials(provider);
        for (kind, list) in all.as_object_mut().unwrap() {
            for item in part[kind].as_array().unwrap() {
                let list = list.as_array_mut().unwrap();
                if !list.iter().any(|known| known["id"] == item["id"]) {
                    list.push(item.clone());
                }
            }
        }
    }
    all["agents"][0]["endpoint"] = json!(agent.endpoint());
    all["agents"][0]["token"] = json!({"value": AGENT_TOKEN});
    all["agents"][0]["signing_secret"] = json!({"value": planted.of("an agent's signing secret")});
    let profiles = all["profiles"].as_array_mut().unwrap();
    let find = |profiles: &mut Vec<Value>, id: &str| profiles.iter().position(|p| p["id"] == id).unwrap();
    let slack = find(profiles, "slack-acme");
    profiles[slack]["oauth"] = json!({"client_id": "1.2", "client_secret": {"value": planted.of("a client secret")}});
    let whatsapp = find(profiles, "whatsapp-acme");
    profiles[whatsapp]["verify_token"] = json!({"value": planted.of("a verify token")});
    let installations = all["installations"].as_array_mut().unwrap();
    let slack = installations.iter().position(|i| i["id"] == "slack-acme").unwrap();
    installations[slack]["credential"]["refresh_token"] = json!({"value": planted.of("a refresh token")});
    installations[slack]["credential"]["expires_at"] = json!("2036-01-01T00:00:00Z");
    all
}

/// What a provider may say, the token in it more often than not.
fn answers(credential: &str) -> Vec<(u16, Value)> {
    vec![
        (200, json!({"ok": true, "ts": "1.2", "result": {"message_id": 5}, "messages": [{"id": "wamid.1"}]})),
        (200, json!({"ok": false, "error": format!("no such token {credential}"), "description": credential})),
        (400, json!({"ok": false, "error_code": 400, "description": format!("bad request: bot{credential}/sendMessage")})),
        (400, json!({"error": {"message": format!("token {credential} is no good"), "code": 100}})),
        (500, json!({"error": {"message": credential}, "description": credential})),
        (302, json!({"location": credential})),
        (200, json!(credential)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_anywhere() {
    let planted = Planted::new();
    let (agent, api) = (FakeAgent::start().await, FakeProvider::start().await);
    let home = Home::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(home.path("data")).unwrap();
    std::fs::write(home.path("data/master.keys"), format!("{MASTER}\n")).unwrap();
    std::fs::set_permissions(home.path("data/master.keys"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut settings = home.settings();
    settings["providers"] = json!({"slack": {"api_base": api.api_base()}, "telegram": {"api_base": api.api_base().trim_end_matches('/')},
        "whatsapp": {"api_base": api.api_base()}});
    settings["limits"] = json!({"provider_rate_percent": {"slack": 0, "telegram": 0, "whatsapp": 0}});
    home.config(&settings);
    let gateway = Talking::start(&home);
    let see = |place: &str, answer: &Response| {
        planted.none_in(place, answer.text().as_bytes());
        planted.none_in(place, format!("{:?}", answer.headers).as_bytes());
    };

    // Declared, in form and out of it.
    let all = document(&planted, &agent);
    see("an apply", &gateway.operator("POST", "/v1/apply", &all).await);
    for (field, value) in [
        ("signing_secret", json!(planted.of("an agent's signing secret"))),
        ("token", json!({"valeu": AGENT_TOKEN})),
        ("token", json!([AGENT_TOKEN])),
        ("signing_secret", json!({"value": planted.of("an agent's signing secret"), "until": AGENT_TOKEN})),
    ] {
        let mut wrong = json!({"agents": [all["agents"][0].clone()]});
        wrong["agents"][0][field] = value;
        let answer = gateway.operator("POST", "/v1/apply", &wrong).await;
        assert_eq!(answer.status, 422, "{}", answer.text());
        see("an apply that is refused", &answer);
    }

    // Heard: good, forged, and with secrets where none belongs.
    for provider in ProviderKind::ALL {
        let app = world::acme(provider);
        let good = webhook(&app, 71, Clock::system().now());
        let answer = gateway.public(good.clone()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        see("an accepted webhook", &answer);
        planted.none_in("what the agent hears", format!("{:?}", agent.next().await).as_bytes());
        let mut forged = good;
        forged.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("x-"));
        let stranger = planted.of("a wrong secret that a stranger presents");
        for name in ["x-telegram-bot-api-secret-token", "x-slack-signature", "x-hub-signature-256", "x-slack-request-timestamp"] {
            forged = forged.header(name, stranger);
        }
        see("a forged webhook", &gateway.public(forged).await);
        let handshake = format!("{}?hub.mode=subscribe&hub.challenge=1&hub.verify_token={stranger}", app.path());
        see("a handshake", &gateway.public(Request::get(&handshake)).await);
    }

    // Said: by every door, to a provider that repeats what it is told.
    let nobody = planted.of("a wrong token that a stranger presents");
    for provider in ProviderKind::ALL {
        let app = world::acme(provider);
        for (n, (status, body)) in answers(&app.credential()).into_iter().enumerate() {
            api.answers(status, body);
            for token in [AGENT_TOKEN, nobody] {
                let conversation = if provider == ProviderKind::Slack { "C424242" } else { "424242" };
                let send = json!({"installation": app.profile, "conversation": conversation, "text": "hi"});
                let request = Request::post("/v1/messages", send.to_string()).json().header("authorization", format!("Bearer {token}"));
                see("a send", &gateway.public(request.header("idempotency-key", format!("key-{provider}-{n}"))).await);
                let sdk = match provider {
                    ProviderKind::Slack => {
                        Request::post("/sdk/slack/api/chat.postMessage", json!({"channel": "C1", "text": "hi"}).to_string())
                            .header("authorization", format!("Bearer {token}"))
                    }
                    ProviderKind::Telegram => Request::post(
                        &format!("/sdk/telegram/bot{token}/sendMessage"),
                        json!({"chat_id": 424_242, "text": "hi"}).to_string(),
                    ),
                    ProviderKind::WhatsApp => Request::post(
                        &format!("/sdk/whatsapp/v23.0/{}/messages", app.account),
                        json!({"messaging_product": "whatsapp", "to": "424242", "type": "text", "text": {"body": "hi"}}).to_string(),
                    )
                    .header("authorization", format!("Bearer {token}")),
                };
                let sdk = sdk.json().header("byoa-installation", &app.profile);
                see("an SDK's call", &gateway.public(sdk).await);
                see(
                    "a file",
                    &gateway.public(Request::get(&format!("/v1/media/{token}")).header("authorization", format!("Bearer {token}"))).await,
                );
                see("a path that is none", &gateway.public(Request::get(&format!("/{token}"))).await);
            }
            while api.unseen().is_some() {}
        }
    }
    // An address where nobody answers: the error would name it.
    drop(api);
    let telegram = world::acme(ProviderKind::Telegram);
    let send = json!({"installation": telegram.profile, "conversation": "424242", "text": "hi"});
    let mut told = Value::Null;
    for n in 0..20 {
        let request = Request::post("/v1/messages", send.to_string()).json().header("authorization", format!("Bearer {AGENT_TOKEN}"));
        let answer = gateway.public(request.header("idempotency-key", format!("to-nobody-{n}"))).await;
        see("a send to nobody", &answer);
        told = answer.json()["code"].clone();
        // A connection that was open may take the first one with it.
        if told != "egress.outcome_unknown" {
            break;
        }
    }
    assert_eq!(told, "egress.provider_unavailable");

    // Rotated, looked at, told.
    let new = planted.of("a new signing secret");
    for path in ["rotate", "revoke"] {
        let body = json!({"signing_secret": {"value": new}});
        let body = if path == "rotate" { body } else { json!({}) };
        see("a rotation", &gateway.operator("POST", &format!("/v1/secrets/slack-acme/{path}"), &body).await);
    }
    for provider in ProviderKind::ALL {
        for fault in [None, Some("unsigned"), Some("bad-signature"), Some("stale"), Some("foreign-account"), Some("broken-json")] {
            let ask = json!({"provider": provider, "kind": "message", "installation": world::acme(provider).profile, "fault": fault});
            let answer = gateway.operator("POST", "/v1/simulate", &ask).await;
            assert_eq!(answer.status, 200, "{provider} {fault:?}: {}", answer.text());
            see("a simulation", &answer);
        }
    }
    see("a rotation of keys", &gateway.operator("POST", "/v1/keys/rotate", &json!({})).await);
    for path in [
        "orgs",
        "profiles",
        "installations",
        "agents",
        "bindings",
        "sessions",
        "events",
        "deliveries",
        "decisions",
        "audit",
        "refusals",
        "sends",
        "policies",
        "doctor",
        "keys",
        "rollout",
        "reasons",
        "installations/slack-acme",
        "profiles/slack-acme",
        "agents/acme-agent",
    ] {
        let answer = gateway.operator("GET", &format!("/v1/{path}"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        see(path, &answer);
        if path == "events" {
            for event in answer.json()["items"].as_array().unwrap() {
                let id = event["id"].as_str().unwrap();
                see("a journey", &gateway.operator("GET", &format!("/v1/events/{id}"), &Value::Null).await);
            }
        }
    }
    for path in ["/metrics", "/readyz", "/healthz"] {
        see(path, &gateway.operator("GET", path, &Value::Null).await);
    }
    let stranger = Request::get("/v1/orgs").header("authorization", format!("Bearer {nobody}"));
    see("a stranger's look", &once(gateway.serving.operator, &stranger).await.unwrap());
    for words in [
        &["get", "installations", "-o", "json"][..],
        &["doctor"],
        &["config"],
        &["keys", "status"],
        &["rollout", "status"],
        &["get", "audit"],
    ] {
        let said = Command::new(env!("CARGO_BIN_EXE_byoa"))
            .args(["--server", &format!("http://{}", gateway.serving.operator), "--config"])
            .arg(home.path("byoa.yaml"))
            .args(words)
            .env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN)
            .current_dir(home.dir.path())
            .output()
            .unwrap();
        planted.none_in(&words.join(" "), &[said.stdout, said.stderr].concat());
    }

    // What is left behind.
    let Talking { serving, log } = gateway;
    assert!(serving.terminate().success());
    let log = log.lock().unwrap();
    assert!(log.len() > 10_000, "the log is kept: {} bytes", log.len());
    planted.none_in("the log", &log);
    let mut files = 0;
    for file in std::fs::read_dir(home.path("data")).unwrap().map(|f| f.unwrap().path()).filter(|f| f.is_file()) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("master.keys") || name == "operator.token" {
            continue;
        }
        files += 1;
        planted.none_in(&name, &std::fs::read(&file).unwrap());
    }
    assert!(files >= 1);
}
