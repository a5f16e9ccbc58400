//! One message from a provider to an agent and back, for every provider and mode, through real sockets on both sides.

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::{ExternalAccount, ProviderKind};
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};

use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, once};
use super::support::sign;
use super::support::world::{self, App};

const NOW: i64 = 1_790_000_100;

fn credential(account: &ExternalAccount) -> String {
    match account {
        ExternalAccount::Slack { .. } => "xoxb-canary-1234567890".into(),
        ExternalAccount::Telegram { bot_id, .. } => format!("{bot_id}:AAcanary1234567890abcdef"),
        ExternalAccount::WhatsApp { .. } => "EAAcanary1234567890".into(),
    }
}

fn receipt(provider: ProviderKind) -> Value {
    match provider {
        ProviderKind::Slack => json!({"ok": true, "ts": "1790000101.000200"}),
        ProviderKind::Telegram => json!({"ok": true, "result": {"message_id": 77}}),
        ProviderKind::WhatsApp => json!({"messages": [{"id": "wamid.OUT1"}]}),
    }
}

async fn journey(app: App) {
    let provider = app.provider;
    let (agent, api) = (FakeAgent::start().await, FakeProvider::start().await);
    api.answers(200, receipt(provider));
    let base = api.api_base();
    let gateway = TestGateway::start_with(NOW, |config| {
        config.delivery.concurrency = 4;
        match provider {
            ProviderKind::Slack => config.providers.slack.api_base = base,
            ProviderKind::Telegram => config.providers.telegram.api_base = base.trim_end_matches('/').into(),
            ProviderKind::WhatsApp => config.providers.whatsapp.api_base = base,
        }
    })
    .await;
    let mut document = world::document(provider);
    document["agents"][0]["endpoint"] = json!(agent.endpoint());
    for installation in document["installations"].as_array_mut().unwrap() {
        if installation["id"] == app.profile.as_str() {
            installation["credential"] = json!({"value": credential(&app.external())});
        }
    }
    gateway.applied(&document).await;

    let account = app.external();
    let conversation = if provider == ProviderKind::Slack { "C00HELPDESK" } else { "5100000001" };
    let sample = Sample {
        kind: "message",
        account: &account,
        app_id: Some(app.app_id),
        conversation,
        text: "hello",
        nonce: 71,
        now: Timestamp::from_secs(NOW),
    };
    let (body, media_type) = providers::of(provider).sample(&sample).unwrap();
    let signed = sign(provider, &body, app.secret, Timestamp::from_secs(NOW));
    let answer = gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, ""));

    let heard = agent.next().await;
    let event = heard.json();
    assert_eq!((heard.method.as_str(), heard.path.as_str()), ("POST", "/events"));
    assert_eq!(heard.headers["content-type"], "application/cloudevents+json");
    assert_eq!(heard.headers["webhook-id"], event["id"].as_str().unwrap());
    let mode = if app.owner == "platform" { "platform" } else { "byoa" };
    let data = &event["data"];
    assert_eq!((data["org"].as_str(), data["mode"].as_str(), data["text"].as_str()), (Some("acme"), Some(mode), Some("hello")), "{event}");

    let message = json!({"session": data["session"]["id"], "text": "hi there"});
    let send = Request::post("/v1/messages", serde_json::to_vec(&message).unwrap()).json();
    let send = send.header("authorization", "Bearer agt_acme_3kd9slw02mfj47").header("idempotency-key", "reply-1");
    let answer = once(gateway.public, &send).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["installation"], app.profile.as_str());
    let sent = api.next().await;
    assert!(String::from_utf8_lossy(&sent.body).contains("hi there"));
    let carried = format!("{} {:?}", sent.path, sent.headers);
    assert!(carried.contains(&credential(&account)), "the installation's own credential goes out: {carried}");
    // The same key and body again: the same answer, no second call.
    let again = once(gateway.public, &send).await.unwrap();
    assert_eq!((again.status, again.json()["id"].clone()), (200, answer.json()["id"].clone()));
    let kept = gateway.drain().await;
    assert!(api.unseen().is_none(), "one provider call for one message");
    assert!(agent.unseen().is_none(), "one delivery for one event");
    let counts = kept.counts().await;
    assert_eq!((counts["events"], counts["deliveries"], counts["attempts"], counts["sends"]), (1, 1, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_there_and_back() {
    journey(world::platform(ProviderKind::Slack)).await;
    journey(world::acme(ProviderKind::Slack)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telegram_there_and_back() {
    journey(world::platform(ProviderKind::Telegram)).await;
    journey(world::acme(ProviderKind::Telegram)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatsapp_there_and_back() {
    journey(world::platform(ProviderKind::WhatsApp)).await;
    journey(world::acme(ProviderKind::WhatsApp)).await;
}
