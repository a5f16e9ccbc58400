//! Unmodified SDKs as agents: each judges what it gets with its own verification and the agent's secret. Which events reach
//! its handlers, and which do not when its secret is another, is what the tests look at.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use byoa_gateway::config::Config;
use byoa_gateway::delivery::DeliveryObserver;
use byoa_gateway::domain::clock::Clock;
use byoa_gateway::domain::delivery::Claimed;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response};
use super::support::script::Script;
use super::support::sign;
use super::support::world::{self, App};

/// Waiting for what never comes must fail, not hang; nothing is measured by it.
const GUARD: Duration = Duration::from_secs(60);

/// A secret that every provider could have given out.
const AGENT_SECRET: &str = "5f0e1d2c3b4a59687f8e9dacbb0c1d2e";
const OTHER_SECRET: &str = "00112233445566778899aabbccddeeff";

/// Hears how deliveries end.
struct Ear(mpsc::UnboundedSender<&'static str>);

impl DeliveryObserver for Ear {
    fn settled(&self, _: &Claimed, outcome: &'static str, _: i64) {
        let _ = self.0.send(outcome);
    }
}

struct Bed {
    app: App,
    gateway: TestGateway,
    settled: mpsc::UnboundedReceiver<&'static str>,
    endpoint: String,
    nonce: u64,
}

impl Bed {
    /// Acme's own app, and an agent at that port who wants its events as the provider sent them.
    async fn new(provider: ProviderKind, port: u16, path: &str, tweak: impl FnOnce(&mut Config)) -> Self {
        let (tell, settled) = mpsc::unbounded_channel();
        // The libraries compare with the machine's clock.
        let now = Clock::system().now().secs();
        let gateway = TestGateway::start_watched(
            now,
            |config| {
                config.delivery.concurrency = 4;
                tweak(config);
            },
            Some(Arc::new(Ear(tell))),
        )
        .await;
        let endpoint = format!("http://127.0.0.1:{port}{path}");
        let bed = Self { app: world::acme(provider), gateway, settled, endpoint, nonce: 0 };
        bed.gateway.applied(&bed.document(AGENT_SECRET)).await;
        bed
    }

    fn document(&self, secret: &str) -> Value {
        let mut document = world::document(self.app.provider);
        let agent = &mut document["agents"][0];
        agent["endpoint"] = json!(self.endpoint);
        agent["format"] = json!("native");
        agent["synchronous"] = json!(["view_submission", "block_suggestion"]);
        agent["signing_secret"] = json!({"value": secret});
        document
    }

    async fn post(&self, body: Vec<u8>, media_type: &str) -> Response {
        let signed = sign(self.app.provider, &body, self.app.secret, self.gateway.clock.now());
        self.gateway.send(&Request::post(&self.app.path(), body).header("content-type", media_type).headers(signed)).await
    }

    /// One event as the provider sends it; its answer is empty whatever the agent answers.
    async fn event(&mut self, kind: &str, text: &str) {
        self.nonce += 1;
        let account = self.app.external();
        let conversation = if self.app.provider == ProviderKind::Slack { "C00HELPDESK" } else { "5100000001" };
        let sample = Sample {
            kind,
            account: &account,
            app_id: Some(self.app.app_id),
            conversation,
            text,
            nonce: self.nonce,
            now: self.gateway.clock.now(),
        };
        let (body, media_type) = providers::of(self.app.provider).sample(&sample).unwrap();
        let answer = self.post(body, media_type).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    }

    async fn settled(&mut self) -> &'static str {
        tokio::time::timeout(GUARD, self.settled.recv()).await.expect("nothing is settled").unwrap()
    }

    /// The agent's secret at the gateway is another than the app's: the app's own verification refuses, and no handler runs.
    /// With the right one the same event arrives.
    async fn refuses_another_secret(mut self, script: &mut Script, status: i64) {
        self.gateway.applied(&self.document(OTHER_SECRET)).await;
        self.event("message", "signed by somebody else").await;
        assert_eq!(self.settled().await, "retry");
        let attempts = self.gateway.kept.rows("SELECT status FROM attempts WHERE status <> 200").await;
        assert_eq!(attempts[0]["status"], status, "the app's own answer");
        self.gateway.applied(&self.document(AGENT_SECRET)).await;
        self.gateway.clock.advance_ms(10_000);
        assert_eq!(self.settled().await, "delivered");
        let line = script.next().await;
        assert_eq!((line["heard"].as_str(), line["text"].as_str()), (Some("message"), Some("signed by somebody else")), "nothing before");
        if let Some(repeat) = line.get("repeat") {
            assert_eq!(*repeat, json!(1), "the gateway's own repeat is told as the provider tells one");
        }
        self.gateway.drain().await;
    }
}

fn pair(heard: &str, text: &str) -> (String, String) {
    (heard.into(), text.into())
}

/// A form as Slack sends interactions.
fn interaction(payload: &Value) -> Vec<u8> {
    form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload.to_string()).finish().into_bytes()
}

const FORM: &str = "application/x-www-form-urlencoded";

/// Where the gateway will listen: events carry its address, so it must be known before.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

async fn bolt(script: &str) {
    let slack = FakeProvider::start().await;
    slack.answers(200, json!({"ok": true, "user_id": "U00BOT", "bot_id": "B00BOT", "team_id": "T00ACMEOWN1", "app_id": "A00ACMEOWN1"}));
    let mut script =
        Script::start(script, &json!({"token": "agt_acme_3kd9slw02mfj47", "secret": AGENT_SECRET, "api": slack.api_base()})).await;
    assert_eq!(slack.next().await.path, "/auth.test");
    let here = free_address();
    let mut bed = Bed::new(ProviderKind::Slack, script.port, "/slack/events", |config| {
        config.listen.public = here;
        config.public_url = Some(format!("http://{here}"));
        config.providers.slack.api_base = slack.api_base();
        config.limits.synchronous_ms = 100_000;
    })
    .await;

    bed.event("message", "hallo, w\u{f6}rld \u{1F44B}").await;
    assert_eq!(script.heard().await, pair("message", "hallo, w\u{f6}rld \u{1F44B}"));
    bed.event("command", "a+b & c=d").await;
    assert_eq!(script.heard().await, pair("command", "a+b & c=d"));
    bed.event("interaction", "yes").await;
    assert_eq!(script.heard().await, pair("action", "yes"));
    for _ in 0..3 {
        assert_eq!(bed.settled().await, "delivered");
    }
    while slack.unseen().is_some() {}

    // The address to respond at is the gateway's; Slack's own is known to the gateway alone.
    let hook = format!("{}actions/T00ACMEOWN1/1/canary", slack.api_base());
    let fields = [
        ("token", "x"),
        ("team_id", "T00ACMEOWN1"),
        ("channel_id", "C00HELPDESK"),
        ("user_id", "U1"),
        ("command", "/ask"),
        ("text", "respond"),
        ("api_app_id", bed.app.app_id),
        ("response_url", &hook),
        ("trigger_id", "1.2.3"),
    ];
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    assert_eq!(bed.post(form.into(), FORM).await.text(), "");
    assert_eq!(script.heard().await, pair("command", "respond"));
    let posted = slack.next().await;
    assert_eq!(posted.path, "/actions/T00ACMEOWN1/1/canary");
    let said = posted.json();
    assert_eq!((said["text"].as_str(), said["response_type"].as_str()), (Some("as you ask"), Some("ephemeral")));
    let base = json!({"team": {"id": "T00ACMEOWN1"}, "user": {"id": "U1"}, "api_app_id": bed.app.app_id, "token": "x"});
    let with = |more: Value| {
        let mut payload = base.clone();
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        interaction(&payload)
    };
    let pressed = with(json!({"type": "block_actions", "trigger_id": "2.2", "channel": {"id": "C00HELPDESK"}, "response_url": hook,
        "container": {"type": "message", "message_ts": "1.2", "channel_id": "C00HELPDESK"},
        "actions": [{"action_id": "simulated", "block_id": "b", "type": "button", "value": "respond", "action_ts": "1"}]}));
    assert_eq!(bed.post(pressed, FORM).await.text(), "");
    assert_eq!(script.heard().await, pair("action", "respond"));
    assert_eq!(slack.next().await.json()["text"], "seen");

    // What Slack waits for is answered by the app itself.
    let submitted =
        with(json!({"type": "view_submission", "trigger_id": "3.3", "view": {"id": "V1", "type": "modal", "callback_id": "ask",
        "private_metadata": "long enough", "state": {"values": {}}, "hash": "1"}, "response_urls": []}));
    let answer = bed.post(submitted, FORM).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json(), json!({"response_action": "errors", "errors": {"b1": "not long enough"}}));
    assert_eq!(script.heard().await, pair("view", "long enough"));
    let asked = with(json!({"type": "block_suggestion", "action_id": "menu", "block_id": "b", "value": "be",
        "container": {"type": "message", "message_ts": "1.2", "channel_id": "C00HELPDESK"}, "channel": {"id": "C00HELPDESK"}}));
    assert_eq!(bed.post(asked, FORM).await.json(), json!({"options": [{"text": {"type": "plain_text", "text": "be"}, "value": "v1"}]}));
    assert_eq!(script.heard().await, pair("options", "be"));
    for _ in 0..4 {
        assert_eq!(bed.settled().await, "delivered");
    }
    bed.refuses_another_secret(&mut script, 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_for_javascript_runs_unmodified() {
    bolt("tests/sdk/agent_bolt.js").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_for_python_runs_unmodified() {
    bolt("tests/sdk/agent_bolt.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_telegram_bot_runs_unmodified() {
    let api = FakeProvider::start().await;
    api.answers(200, json!({"ok": true, "result": {"id": 7_000_000_002_i64, "is_bot": true, "first_name": "Bot", "username": "acme_bot"}}));
    let told = json!({"token": "7000000002:agt_acme_3kd9slw02mfj47", "secret": AGENT_SECRET, "api": api.api_base()});
    let mut script = Script::start("tests/sdk/agent_ptb.py", &told).await;
    let mut bed = Bed::new(ProviderKind::Telegram, script.port, "/telegram", |_| {}).await;
    bed.event("message", "hallo, w\u{f6}rld \u{1F44B}").await;
    assert_eq!(script.heard().await, pair("message", "hallo, w\u{f6}rld \u{1F44B}"));
    bed.event("callback", "yes").await;
    assert_eq!(script.heard().await, pair("callback", "yes"));
    for _ in 0..2 {
        assert_eq!(bed.settled().await, "delivered");
    }
    bed.refuses_another_secret(&mut script, 403).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pywa_runs_unmodified() {
    let app = world::acme(ProviderKind::WhatsApp);
    let told = json!({"token": "agt_acme_3kd9slw02mfj47", "secret": AGENT_SECRET, "phone": app.account});
    let mut script = Script::start("tests/sdk/agent_pywa.py", &told).await;
    let mut bed = Bed::new(ProviderKind::WhatsApp, script.port, "/", |_| {}).await;
    bed.event("message", "hallo, w\u{f6}rld \u{1F44B}").await;
    assert_eq!(script.heard().await, pair("message", "hallo, w\u{f6}rld \u{1F44B}"));
    bed.event("status", "read").await;
    assert_eq!(script.heard().await.0, "status");
    for _ in 0..2 {
        assert_eq!(bed.settled().await, "delivered");
    }

    // pywa looks at the first entry, change and message only: of a batch it gets each alone.
    let message = |from: &str, n: u32| json!({"from": from, "id": format!("wamid.B{n}"), "timestamp": "1790000000", "type": "text", "text": {"body": format!("number {n}")}});
    let contact = |wa_id: &str, name: &str| json!({"wa_id": wa_id, "user_id": format!("DE.{wa_id}"), "profile": {"name": name}});
    let value = |messages: Value, contacts: Value| {
        json!({"field": "messages", "value": {"messaging_product": "whatsapp", "metadata": {"display_phone_number": "1", "phone_number_id": app.account},
            "contacts": contacts, "messages": messages}})
    };
    let both = json!([contact("15550001", "Ann"), contact("15550002", "Bob")]);
    let batch = json!({"object": "whatsapp_business_account", "entry": [
        {"id": app.waba, "changes": [value(json!([message("15550001", 1), message("15550002", 2)]), both), value(json!([message("15550001", 3)]), json!([contact("15550001", "Ann")]))]},
        {"id": app.waba, "changes": [value(json!([message("15550002", 4)]), json!([contact("15550002", "Bob")]))]},
    ]});
    assert_eq!(bed.post(batch.to_string().into(), "application/json").await.status, 200);
    let mut heard = Vec::new();
    for _ in 0..4 {
        let line = script.next().await;
        heard.push(format!("{} {}", line["name"].as_str().unwrap(), line["text"].as_str().unwrap()));
        assert_eq!(bed.settled().await, "delivered");
    }
    heard.sort();
    assert_eq!(heard, ["Ann number 1", "Ann number 3", "Bob number 2", "Bob number 4"]);
    // An entry without changes stands before a message: alone in its body it is not, and alone it arrives.
    let behind = json!({"object": "whatsapp_business_account", "entry": [
        {"id": app.waba, "changes": []}, {"id": app.waba, "changes": [value(json!([message("15550001", 5)]), json!([contact("15550001", "Ann")]))]}]});
    assert_eq!(bed.post(behind.to_string().into(), "application/json").await.status, 200);
    assert_eq!(script.heard().await, pair("message", "number 5"));
    assert_eq!(bed.settled().await, "delivered");
    bed.refuses_another_secret(&mut script, 403).await;
}

/// Each event as its own provider would sign it, to one agent with one secret.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_agent_hears_several_providers() {
    let agent = FakeAgent::start().await;
    let gateway = TestGateway::start_with(1_790_000_100, |config| config.delivery.concurrency = 4).await;
    for provider in ProviderKind::ALL {
        let mut document = world::document(provider);
        document["agents"][0]["endpoint"] = json!(agent.endpoint());
        document["agents"][0]["format"] = json!("native");
        document["agents"][0]["signing_secret"] = json!({"value": AGENT_SECRET});
        // Ids are each provider's own, but for the agents and orgs.
        gateway.applied(&document).await;
    }
    for provider in ProviderKind::ALL {
        let (app, now) = (world::acme(provider), gateway.clock.now());
        let account = app.external();
        let sample = Sample {
            kind: "message",
            account: &account,
            app_id: Some(app.app_id),
            conversation: "5100000001",
            text: "hello",
            nonce: 7,
            now,
        };
        let (body, media_type) = providers::of(provider).sample(&sample).unwrap();
        let signed = sign(provider, &body, app.secret, now);
        let sent = Request::post(&app.path(), body.clone()).header("content-type", media_type).headers(signed.clone());
        assert_eq!(gateway.send(&sent).await.status, 200);
        let heard = agent.next().await;
        // Slack's verification token is withheld: of one that is shorter than the word for it, the field stays and is empty.
        let body = String::from_utf8(body).unwrap().replace(r#""token":"simulated""#, r#""token":"""#).into_bytes();
        assert_eq!((heard.method.as_str(), &heard.body[..]), ("POST", &body[..]), "{provider}: byte for byte");
        assert_eq!(heard.headers["content-type"], media_type);
        let ours = sign(provider, &body, AGENT_SECRET, now);
        assert!(!ours.is_empty() && ours.iter().all(|(name, value)| heard.headers[name.as_str()] == value.as_str()), "{provider}");
        for (name, value) in [("byoa-provider", provider.as_str()), ("byoa-org", "acme"), ("byoa-mode", "byoa"), ("byoa-attempt", "1")] {
            assert_eq!(heard.headers[name], value, "{provider}");
        }
        assert!(!format!("{:?}", heard.headers).contains(app.secret), "{provider}: the app's own secret stays here");
    }
    gateway.drain().await;
}
