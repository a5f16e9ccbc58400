//! The real binary between a provider and an app on the provider's official SDK, in both directions: a signed webhook comes in,
//! the SDK proves what it is handed with the agent's own secret, and answers through the SDK's own client with the agent's own
//! token. The provider sees its real token, the app never does.

use byoa_gateway::domain::clock::Clock;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::fakes::FakeProvider;
use super::support::process::{Home, Serving};
use super::support::raw::once;
use super::support::script::Script;
use super::support::{webhook, world};

const AGENT_SECRET: &str = "5f0e1d2c3b4a59687f8e9dacbb0c1d2e";
/// Of the shape that Telegram's libraries know.
const AGENT_TOKEN: &str = "4200000001:agt_acme_3kd9slw02mfj47xyz";

/// The world of one provider with one installation for acme's agent, which lives at that port.
fn document(provider: ProviderKind, port: u16, path: &str) -> Value {
    let mut document = world::document_with_credentials(provider);
    let agent = &mut document["agents"][0];
    agent["endpoint"] = json!(format!("http://127.0.0.1:{port}{path}"));
    agent["format"] = json!("native");
    agent["signing_secret"] = json!({"value": AGENT_SECRET});
    agent["token"] = json!({"value": AGENT_TOKEN});
    document["bindings"].as_array_mut().unwrap().retain(|b| !b["id"].as_str().unwrap().ends_with("platform"));
    document
}

async fn there_and_back(provider: ProviderKind, script: &str, path: &str, api: impl Fn(&Serving) -> String, answers: Value) {
    let (slack, app) = (FakeProvider::start().await, world::acme(provider));
    slack.answers(200, answers);
    let home = Home::new();
    let mut settings = home.settings();
    let base = slack.api_base();
    settings["providers"] =
        json!({"slack": {"api_base": base}, "telegram": {"api_base": base.trim_end_matches('/')}, "whatsapp": {"api_base": base}});
    home.config(&settings);
    let gateway = home.serve();
    // Libraries call their provider when they start, so the agent must be somebody by then.
    gateway.apply(&document(provider, 9, path)).await;
    let told = json!({"token": AGENT_TOKEN, "secret": AGENT_SECRET, "api": api(&gateway), "phone": app.account, "answers": true});
    let mut script = Script::start(script, &told).await;
    gateway.apply(&document(provider, script.port, path)).await;

    let answer = once(gateway.public, &webhook(&app, 71, Clock::system().now())).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    assert_eq!(script.heard().await, ("message".to_owned(), "hello".to_owned()));
    // Libraries ask who they are too, whenever they like; every call goes out with the installation's own token.
    loop {
        let sent = slack.next().await;
        let (carried, body) = (format!("{} {:?}", sent.path, sent.headers), String::from_utf8_lossy(&sent.body).into_owned());
        assert!(carried.contains(&app.credential()) && !carried.contains("agt_"), "{carried}");
        assert!(!body.contains("agt_"), "{body}");
        if ["you said hello", "you+said+hello"].iter().any(|text| body.contains(text)) {
            break;
        }
    }
    assert!(gateway.terminate().success());
}

fn slack_says() -> Value {
    json!({"ok": true, "user_id": "U00BOT", "bot_id": "B00BOT", "team_id": "T00ACMEOWN1", "app_id": "A00ACMEOWN1", "ts": "1.2", "channel": "C1"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_for_python() {
    let api = |gateway: &Serving| format!("http://{}/sdk/slack/api/", gateway.public);
    there_and_back(ProviderKind::Slack, "tests/sdk/agent_bolt.py", "/slack/events", api, slack_says()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bolt_for_javascript() {
    let api = |gateway: &Serving| format!("http://{}/sdk/slack/api/", gateway.public);
    there_and_back(ProviderKind::Slack, "tests/sdk/agent_bolt.js", "/slack/events", api, slack_says()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_telegram_bot() {
    let api = |gateway: &Serving| format!("http://{}/sdk/telegram/", gateway.public);
    let chat = json!({"id": 5_100_000_001_i64, "type": "private", "first_name": "Ada"});
    let says = json!({"ok": true, "result": {"id": 7_000_000_002_i64, "is_bot": true, "first_name": "Bot", "username": "acme_bot",
        "message_id": 5, "date": 1_790_000_000, "chat": chat, "text": "you said hello"}});
    there_and_back(ProviderKind::Telegram, "tests/sdk/agent_ptb.py", "/telegram", api, says).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pywa() {
    let api = |gateway: &Serving| format!("http://{}/sdk/whatsapp/v23.0", gateway.public);
    let says = json!({"messaging_product": "whatsapp", "contacts": [{"input": "5100000001", "wa_id": "5100000001"}], "messages": [{"id": "wamid.OUT1"}]});
    there_and_back(ProviderKind::WhatsApp, "tests/sdk/agent_pywa.py", "/", api, says).await;
}
