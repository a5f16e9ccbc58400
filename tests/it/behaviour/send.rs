//! What becomes of a message: a small world, steps that happen in it, what came of each, and what the provider got.

use std::collections::BTreeMap;

use byoa_gateway::domain::installation::{ExternalAccount, ProviderKind};
use byoa_gateway::providers::{self, Sample};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::support::fakes::{FakeProvider, Seen};
use super::super::support::gateway::TestGateway;
use super::super::support::raw::{Request, Response};
use super::super::support::{sign, world};
use super::Case;

const NOW: i64 = 1_790_000_100;

/// The world before the first step.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    provider: ProviderKind,
    /// Whether acme opted in to platform fallback for it.
    opted_in: bool,
    installations: BTreeMap<String, Installed>,
    #[serde(rename = "do")]
    steps: Vec<Step>,
}

impl Default for Given {
    fn default() -> Self {
        Self { provider: ProviderKind::Slack, opted_in: false, installations: BTreeMap::new(), steps: Vec::new() }
    }
}

/// An installation for acme, with an app of its own.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Installed {
    /// `acme` or `platform`.
    owner: String,
    /// `usable`, `absent`, or a status.
    credential: String,
    /// Whether acme's agent is bound to it.
    bound: bool,
    /// Whether that binding allows fallback.
    allows_fallback: bool,
}

impl Default for Installed {
    fn default() -> Self {
        Self { owner: "acme".into(), credential: "usable".into(), bound: true, allows_fallback: false }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    /// A message of acme's agent; `key` and `agent` are not part of its body.
    Send(Map<String, Value>),
    /// A webhook.
    Hear(Heard),
    /// A document that is applied.
    Declare(Value),
    /// Time passes, and what is old is swept away.
    WaitMs(i64),
    /// What the provider answers from now on; nothing at all where it hangs.
    Provider(Says),
    /// A row is changed behind the gateway's back.
    Damage(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heard {
    through: String,
    #[serde(default = "message")]
    kind: String,
    #[serde(default)]
    nonce: u64,
    #[serde(default = "hi")]
    text: String,
    /// The whole body instead, where it is JSON; or what is taken out of a form.
    body: Option<Value>,
    without: Option<String>,
}

fn message() -> String {
    "message".into()
}

fn hi() -> String {
    "hi".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Says {
    #[serde(default)]
    hangs: bool,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    body: Value,
    retry_after: Option<u64>,
}

/// What must come of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Want {
    /// Of each send, webhook and document.
    came: Vec<String>,
    /// Calls of the provider in all.
    #[serde(default)]
    calls: usize,
    /// What stood in them, at least; null is that it did not.
    #[serde(default)]
    got: Vec<Map<String, Value>>,
    /// Events that were kept.
    events: Option<usize>,
    /// How the sends are on record, newest first.
    kept: Option<Vec<String>>,
}

struct Play {
    gateway: TestGateway,
    api: FakeProvider,
    provider: ProviderKind,
    given: BTreeMap<String, Installed>,
    sent: u32,
    calls: Vec<Seen>,
}

fn number(name: &str) -> usize {
    // Small, and another for every name.
    name.bytes().fold(7usize, |n, b| (n * 31 + usize::from(b)) % 90_000) + 10_000
}

fn account(provider: ProviderKind, name: &str) -> ExternalAccount {
    let n = number(name);
    match provider {
        ProviderKind::Slack => ExternalAccount::Slack { team_id: Some(format!("T{n}")), enterprise_id: None },
        ProviderKind::Telegram => ExternalAccount::Telegram { bot_id: format!("70{n}"), chats: Vec::new() },
        ProviderKind::WhatsApp => ExternalAccount::WhatsApp { waba_id: format!("10{n}"), phone_number_id: format!("11{n}") },
    }
}

fn token_of(provider: ProviderKind, name: &str) -> String {
    let bot = if provider == ProviderKind::Telegram { format!("70{}:", number(name)) } else { String::new() };
    format!("{bot}canary-{name}-credential-0123456789")
}

fn secret_of(name: &str) -> String {
    format!("signing-{name}-0f1e2d3c4b5a69788796a5b4")
}

impl Play {
    async fn start(given: Given) -> (Self, Vec<Step>) {
        let Given { provider, opted_in, installations, steps } = given;
        let api = FakeProvider::start().await;
        api.answers(200, json!({"ok": true, "ts": "1.2", "result": {"message_id": 5}, "messages": [{"id": "wamid.1"}]}));
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            for place in [&mut config.providers.slack, &mut config.providers.telegram, &mut config.providers.whatsapp] {
                place.api_base = base.clone();
            }
            config.limits.provider_timeout_ms = 150;
        })
        .await;
        let opted = if opted_in { json!([provider]) } else { json!([]) };
        let agent = |id: &str| {
            json!({"id": id, "org": "acme", "endpoint": "http://127.0.0.1:9/events",
                "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "token": {"value": format!("agt_{id}_3kd9slw02mfj47")}})
        };
        let mut document = json!({"orgs": [{"id": "acme", "fallback_opt_in": opted}], "agents": [agent("support"), agent("second")],
            "profiles": [], "installations": [], "bindings": []});
        for (name, said) in &installations {
            let push = |document: &mut Value, kind: &str, item: Value| document[kind].as_array_mut().unwrap().push(item);
            push(&mut document, "profiles", profile(provider, name, &said.owner));
            let account = world::account_json(&account(provider, name));
            let mut installed = json!({"id": name, "profile": format!("{name}-app"), "org": "acme", "account": account});
            if said.credential != "absent" {
                installed["credential"] = json!({"value": token_of(provider, name)});
            }
            if !["absent", "usable"].contains(&said.credential.as_str()) {
                installed["status"] = json!(said.credential);
            }
            push(&mut document, "installations", installed);
            if said.bound {
                let binding = json!({"id": format!("to-{name}"), "org": "acme", "installation": name, "agent": "support",
                    "allow_platform_fallback": said.allows_fallback});
                push(&mut document, "bindings", binding);
            }
        }
        gateway.applied(&document).await;
        (Self { gateway, api, provider, given: installations, sent: 0, calls: Vec::new() }, steps)
    }

    async fn step(&mut self, step: Step) -> Option<String> {
        match step {
            Step::Send(message) => Some(self.send(message).await),
            Step::Hear(heard) => Some(self.hear(heard).await.status.to_string()),
            Step::Declare(document) => {
                let answer = self.gateway.apply(&document).await;
                Some(if answer.status == 200 { "declared".into() } else { refusal(&answer) })
            }
            Step::WaitMs(ms) => {
                self.gateway.clock.advance_ms(ms);
                self.gateway.sweep().await;
                None
            }
            Step::Provider(says) => {
                match says {
                    Says { hangs: true, .. } => self.api.hangs_on("/"),
                    Says { status, body, retry_after, .. } => {
                        let after = retry_after.map(|s| s.to_string());
                        let headers: Vec<(&'static str, &str)> = after.iter().map(|s| ("retry-after", s.as_str())).collect();
                        self.api.on("/", status, &headers, body.to_string());
                    }
                }
                None
            }
            Step::Damage(sql) => {
                self.gateway.damage(&sql).await;
                None
            }
        }
    }

    async fn send(&mut self, mut message: Map<String, Value>) -> String {
        self.sent += 1;
        let word = |value: Option<Value>, default: String| value.and_then(|v| v.as_str().map(str::to_owned)).unwrap_or(default);
        let key = word(message.remove("key"), format!("key-{}", self.sent));
        let agent = word(message.remove("agent"), "support".into());
        message.entry("text").or_insert(json!("hi"));
        if message.contains_key("installation") {
            message.entry("conversation").or_insert(json!(self.place()));
        }
        if message.get("session") == Some(&json!("the latest")) {
            let sessions = self.gateway.operate("GET", "/v1/sessions", &Value::Null).await.json();
            message.insert("session".into(), sessions["items"][0]["id"].clone());
        }
        let body = serde_json::to_vec(&message).unwrap();
        let request = Request::post("/v1/messages", body).json().header("idempotency-key", key);
        let answer = self.gateway.send(&request.header("authorization", format!("Bearer agt_{agent}_3kd9slw02mfj47"))).await;
        let calls: Vec<Seen> = std::iter::from_fn(|| self.api.unseen()).collect();
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        if answer.status != 200 {
            self.calls.extend(calls);
            return refusal(&answer);
        }
        let body = answer.json();
        let through = body["installation"].as_str().unwrap().to_owned();
        // Whatever was sent was sent with the credential of the installation that the answer names.
        for call in &calls {
            let shown = format!("{} {:?}", call.path, call.headers.get("authorization"));
            assert!(shown.contains(&token_of(self.provider, &through)), "{shown}");
        }
        self.calls.extend(calls);
        let owner = if self.given[&through].owner == "platform" { "platform" } else { "org" };
        assert_eq!(body["credential"]["owner"], owner);
        match body["fallback_reason"].as_str() {
            None => format!("sent through {through}"),
            Some(reason) => format!("sent through {through} instead, for {reason}"),
        }
    }

    fn place(&self) -> &'static str {
        if self.provider == ProviderKind::Slack { "C424242" } else { "424242" }
    }

    async fn hear(&self, heard: Heard) -> Response {
        let account = account(self.provider, &heard.through);
        let now = self.gateway.clock.now();
        let app = app_id(&heard.through);
        let sample = Sample {
            kind: &heard.kind,
            account: &account,
            app_id: Some(&app),
            conversation: self.place(),
            text: &heard.text,
            nonce: heard.nonce,
            now: byoa_gateway::domain::clock::Timestamp::from_secs(NOW),
        };
        let (mut body, media_type) = providers::of(self.provider).sample(&sample).unwrap();
        if let Some(other) = heard.body {
            body = other.to_string().into_bytes();
        }
        if let Some(field) = heard.without {
            let kept = form_urlencoded::parse(&body).filter(|(name, _)| *name != field).collect::<Vec<_>>();
            body = form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish().into_bytes();
        }
        let signed = sign(self.provider, &body, &secret_of(&heard.through), now);
        let path = format!("/webhooks/{}/{}-ingress-0123456789", self.provider, heard.through);
        self.gateway.send(&Request::post(&path, body).header("content-type", media_type).headers(signed)).await
    }
}

fn app_id(name: &str) -> String {
    format!("A{}", number(name))
}

fn profile(provider: ProviderKind, name: &str, owner: &str) -> Value {
    let mut profile = json!({"id": format!("{name}-app"), "provider": provider, "owner": owner, "app_id": app_id(name),
        "ingress_id": format!("{name}-ingress-0123456789"), "signing_secret": {"value": secret_of(name)}});
    if provider == ProviderKind::WhatsApp {
        profile["verify_token"] = json!({"value": format!("verify-{name}-8Yh2")});
    }
    profile
}

fn refusal(answer: &Response) -> String {
    let wait = answer.header("retry-after").map(|s| format!(", wait {s} s")).unwrap_or_default();
    format!("{} {}{wait}", answer.status, answer.json()["code"].as_str().unwrap())
}

/// Plays one case.
pub async fn play(case: &Case) {
    let what = format!("{} {}", case.id, case.title);
    let given: Given = serde_json::from_value(case.given.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let want: Want = serde_json::from_value(case.want.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let (mut play, steps) = Play::start(given).await;
    let mut came = Vec::new();
    for step in steps {
        came.extend(play.step(step).await);
    }
    assert_eq!(came, want.came, "{what}");
    assert_eq!(play.calls.len(), want.calls, "{what}: calls");
    for (call, wanted) in play.calls.iter().zip(&want.got) {
        let body = call.json();
        for (name, value) in wanted {
            assert_eq!(body.get(name).unwrap_or(&Value::Null), value, "{what}: {name} in {body}");
        }
    }
    assert!(want.got.len() <= play.calls.len(), "{what}");
    if let Some(events) = want.events {
        assert_eq!(play.gateway.kept.counts().await["events"], i64::try_from(events).unwrap(), "{what}: events");
    }
    if let Some(kept) = want.kept {
        let sends = play.gateway.operate("GET", "/v1/sends", &Value::Null).await.json();
        let states: Vec<&str> = sends["items"].as_array().unwrap().iter().map(|s| s["state"].as_str().unwrap()).collect();
        assert_eq!(states, kept, "{what}: on record");
    }
}

macro_rules! areas {
    ($($area:ident),+ $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $area() {
            for case in super::cases(stringify!($area)) {
                super::send::play(&case).await;
            }
        }
    )+};
}
pub(super) use areas;

areas!(
    idempotency_key,
    idempotency_scope,
    idempotency_tuple,
    outbound_delivery,
    outbound_send,
    provider_capability,
    provider_contract,
    retry,
    slack_outbound,
);
