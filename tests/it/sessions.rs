//! Sessions over time, dedupe over time, and old addresses.

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};

use super::support::gateway::TestGateway;
use super::support::raw::Request;
use super::support::sign;
use super::support::world::{self, App};

const NOW: i64 = 1_790_000_100;
const HOUR: i64 = 3_600_000;

struct Talk {
    gateway: TestGateway,
    app: App,
}

impl Talk {
    async fn start(provider: ProviderKind, tweak: impl FnOnce(&mut Value)) -> Self {
        let gateway = TestGateway::start(NOW).await;
        let mut document = world::document(provider);
        tweak(&mut document);
        gateway.applied(&document).await;
        Self { gateway, app: world::acme(provider) }
    }

    /// A message as of the gateway's clock, with what `edit` makes of it; the same nonce is the same event.
    async fn hear(&self, path: &str, nonce: u64, edit: impl FnOnce(String) -> String) -> u16 {
        let now = self.gateway.clock.now();
        let account = self.app.external();
        // The event's own time stays, so that a repeat is one.
        let sample = Sample {
            kind: "message",
            account: &account,
            app_id: Some(self.app.app_id),
            conversation: "C0HELP",
            text: "hi",
            nonce,
            now: Timestamp::from_secs(NOW),
        };
        let (body, media_type) = providers::of(self.app.provider).sample(&sample).unwrap();
        let body = edit(String::from_utf8(body).unwrap()).into_bytes();
        let signed = sign(self.app.provider, &body, self.app.secret, now);
        self.gateway.send(&Request::post(path, body).header("content-type", media_type).headers(signed)).await.status
    }

    async fn sessions(&self) -> Vec<Value> {
        let page = self.gateway.operate("GET", "/v1/sessions", &Value::Null).await.json();
        page["items"].as_array().unwrap().iter().rev().cloned().collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_by_idleness_or_age_and_its_successor_knows_it() {
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    let path = talk.app.path();
    let mut nonce = 0;
    let mut after = async |ms: i64| {
        talk.gateway.clock.advance_ms(ms);
        nonce += 1;
        assert_eq!(talk.hear(&path, nonce, |body| body).await, 200);
        talk.sessions().await
    };
    assert_eq!(after(0).await.len(), 1);
    assert_eq!(after(23 * HOUR).await.len(), 1, "still the same after 23 h");
    let two = after(24 * HOUR + 1).await;
    assert_eq!((two.len(), &two[0]["status"], &two[1]["status"]), (2, &json!("closed"), &json!("active")));
    assert_eq!(two[1]["predecessor"], two[0]["id"]);
    for _ in 0..7 {
        assert_eq!(after(23 * HOUR).await.len(), 2, "kept alive");
    }
    let three = after(23 * HOUR).await;
    assert_eq!(
        (three.len(), &three[1]["status"], &three[2]["predecessor"]),
        (3, &json!("expired"), &three[1]["id"]),
        "seven days are its age"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_is_shared_or_each_senders_own() {
    for (scope, sessions) in [("conversation", 1), ("peer", 2)] {
        let talk = Talk::start(ProviderKind::Slack, |document| {
            for binding in document["bindings"].as_array_mut().unwrap() {
                binding["session"] = json!(scope);
            }
        })
        .await;
        let path = talk.app.path();
        assert_eq!(talk.hear(&path, 1, |body| body).await, 200);
        let renamed = |body: String| {
            let mut event: Value = serde_json::from_str(&body).unwrap();
            event["event"]["user"] = json!("U0SOMEBODYELSE");
            event.to_string()
        };
        assert_eq!(talk.hear(&path, 2, renamed).await, 200);
        let keys: Vec<Value> = talk.sessions().await.iter().map(|s| s["key"].clone()).collect();
        assert_eq!(keys.len(), sessions, "{scope}: {keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_known_for_as_long_as_the_provider_repeats() {
    for (provider, kept_h) in [(ProviderKind::Slack, 24), (ProviderKind::Telegram, 48), (ProviderKind::WhatsApp, 192)] {
        let talk = Talk::start(provider, |_| {}).await;
        let path = talk.app.path();
        let events = async |now_h: i64| {
            let target = Timestamp::from_secs(NOW).plus_ms(now_h * HOUR);
            talk.gateway.clock.advance_ms(target.ms() - talk.gateway.clock.now().ms());
            talk.gateway.sweep().await;
            assert_eq!(talk.hear(&path, 7, |body| body).await, 200);
            talk.gateway.kept.counts().await["events"]
        };
        assert_eq!((events(0).await, events(kept_h - 1).await, events(kept_h + 1).await), (1, 1, 2), "{provider}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_address_leads_to_one_profile_and_is_counted() {
    let app = world::acme(ProviderKind::Slack);
    let profile = app.profile.clone();
    let gateway = TestGateway::start_with(NOW, |config| {
        config.ingress.aliases.insert("/slack/events".into(), profile);
        config.ingress.aliases.insert("/old/nowhere".into(), "nobody".into());
    })
    .await;
    gateway.applied(&world::document(ProviderKind::Slack)).await;
    let talk = Talk { gateway, app };
    assert_eq!(talk.hear("/slack/events", 1, |body| body).await, 200);
    assert_eq!(talk.hear(&talk.app.path(), 1, |body| body).await, 200);
    assert_eq!(talk.hear("/old/nowhere", 2, |body| body).await, 404);
    assert_eq!(talk.gateway.kept.counts().await["events"], 1, "the same event by either address");
    let metrics = talk.gateway.metrics().await;
    assert_eq!(metrics.get("byoa_ingress_alias_total{profile=\"slack-acme\"}"), Some(&1.0), "{metrics:?}");
}
