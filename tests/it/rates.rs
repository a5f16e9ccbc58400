//! What a provider takes: who comes too early is told when to come again, before anything leaves, and nobody else waits for it.

use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::fakes::{Answer, FakeProvider};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, once};
use super::support::world;

const NOW: i64 = 1_790_000_100;
const ACME: &str = "agt_acme_3kd9slw02mfj47";
const GLOBEX: &str = "agt_globex_3kd9slw02mfj47";

struct Bed {
    gateway: TestGateway,
    api: FakeProvider,
    keys: std::cell::Cell<u32>,
}

/// Status, code and `Retry-After` of an answer, and how often the provider was called for it.
type Told = (u16, Option<String>, Option<String>, usize);

fn sent() -> Told {
    (200, None, None, 1)
}

fn wait(seconds: u64, calls: usize) -> Told {
    (429, Some("egress.rate_limited".into()), Some(seconds.to_string()), calls)
}

impl Bed {
    async fn start(provider: ProviderKind, percent: u32) -> Self {
        let api = FakeProvider::start().await;
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            config.providers.slack.api_base = base.clone();
            config.providers.telegram.api_base = base.clone();
            config.providers.whatsapp.api_base = base;
            config.limits.provider_rate_percent = [(provider, percent)].into();
        })
        .await;
        let mut document = world::document(provider);
        for installation in document["installations"].as_array_mut().unwrap() {
            let bot = installation["account"]["bot_id"].as_str().map(|b| format!("{b}:")).unwrap_or_default();
            installation["credential"] = json!({"value": format!("{bot}canary-{}-credential", installation["id"].as_str().unwrap())});
        }
        gateway.applied(&document).await;
        let bed = Self { gateway, api, keys: std::cell::Cell::new(0) };
        bed.taken();
        bed
    }

    /// The provider takes everything.
    fn taken(&self) {
        self.api.answers(200, json!({"ok": true, "ts": "1.2", "result": {"message_id": 5}, "messages": [{"id": "wamid.1"}]}));
    }

    async fn say_under(&self, key: &str, token: &str, installation: &str, conversation: &str) -> Told {
        let letter = if installation.starts_with("slack") && !conversation.starts_with('C') { "C" } else { "" };
        let body = json!({"installation": installation, "conversation": format!("{letter}{conversation}"), "text": "hi"});
        let request = Request::post("/v1/messages", body.to_string())
            .json()
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", key);
        let answer = once(self.gateway.public, &request).await.unwrap();
        let calls = std::iter::from_fn(|| self.api.unseen()).count();
        let code = answer.json().get("code").and_then(Value::as_str).map(str::to_owned);
        (answer.status, code, answer.header("retry-after").map(str::to_owned), calls)
    }

    async fn say(&self, token: &str, installation: &str, conversation: &str) -> Told {
        let key = format!("key-{}", self.keys.replace(self.keys.get() + 1));
        self.say_under(&key, token, installation, conversation).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_asks_to_wait_is_left_alone_by_that_installation_and_by_no_other() {
    for provider in ProviderKind::ALL {
        // Obeyed even where nothing is reckoned with.
        for percent in [0, 100] {
            let bed = Bed::start(provider, percent).await;
            let (own, other) = (format!("{provider}-acme"), format!("{provider}-globex"));
            let throttled = json!({"ok": false, "error": "ratelimited", "error_code": 429, "description": "Too Many Requests"});
            bed.api.answers_with(Answer { headers: vec![("retry-after".into(), "30".into())], ..Answer::new(429, throttled) });
            assert_eq!(bed.say_under("kept", ACME, &own, "424242").await, wait(30, 1), "{provider}: the provider says so");
            bed.taken();
            assert_eq!(bed.say(ACME, &own, "424243").await, wait(30, 0), "{provider}: whatever the conversation");
            assert_eq!(bed.say(GLOBEX, &other, "424242").await, sent(), "{provider}: another tenant");
            assert_eq!(bed.say(ACME, &format!("{provider}-platform"), "424242").await, sent(), "{provider}: another installation");
            bed.gateway.clock.advance_ms(29_500);
            assert_eq!(bed.say_under("kept", ACME, &own, "424242").await, wait(1, 0), "{provider}");
            bed.gateway.clock.advance_ms(500);
            assert_eq!(bed.say_under("kept", ACME, &own, "424242").await, sent(), "{provider}: its key was free all the time");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telegram_says_it_in_the_body_too() {
    let bed = Bed::start(ProviderKind::Telegram, 100).await;
    bed.api.answers(429, json!({"ok": false, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 7}}));
    assert_eq!(bed.say(ACME, "telegram-acme", "424242").await, wait(7, 1));
    bed.taken();
    assert_eq!(bed.say(ACME, "telegram-acme", "424242").await, wait(7, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_floods_slows_nobody_but_itself() {
    let bed = Bed::start(ProviderKind::Slack, 100).await;
    let (mut through, mut told) = (0, 0);
    for _ in 0..60 {
        match bed.say(ACME, "slack-acme", "C1").await {
            (200, ..) => through += 1,
            refused => {
                assert_eq!(refused, wait(1, 0), "at once, and nothing left");
                told += 1;
            }
        }
        if told > 0 && told <= 5 {
            assert_eq!(bed.say(GLOBEX, "slack-globex", "C1").await, sent(), "the neighbour, in the middle of it");
        }
    }
    assert_eq!((through, told), (5, 55));
    assert_eq!(bed.say(ACME, "slack-acme", "C2").await, sent(), "another channel");
    bed.gateway.clock.advance_ms(1_000);
    assert_eq!((bed.say(ACME, "slack-acme", "C1").await, bed.say(ACME, "slack-acme", "C1").await), (sent(), wait(1, 0)));
    let series = "byoa_sends_total{provider=\"slack\",owner=\"org\",outcome=\"retry\",reason=\"egress.rate_limited\"}";
    assert_eq!(bed.gateway.metrics().await.get(series), Some(&56.0));
}
