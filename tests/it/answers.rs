//! What becomes of an agent's message: every answer a provider can give, every reason not to ask it, and that nothing is
//! sent twice or with somebody else's credential.

use byoa_gateway::domain::installation::ProviderKind;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::support::fakes::FakeProvider;
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response, once};
use super::support::world;

const NOW: i64 = 1_790_000_100;
const ACME: &str = "agt_acme_3kd9slw02mfj47";
const GLOBEX: &str = "agt_globex_3kd9slw02mfj47";

struct Bench {
    gateway: TestGateway,
    api: FakeProvider,
    sent: std::cell::Cell<u32>,
}

impl Bench {
    /// One provider's world, every installation with a credential but globex's.
    async fn start(provider: ProviderKind) -> Self {
        Self::start_with(provider, |_| {}).await
    }

    async fn start_with(provider: ProviderKind, tweak: impl FnOnce(&mut byoa_gateway::config::Config)) -> Self {
        let api = FakeProvider::start().await;
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            config.providers.slack.api_base = base.clone();
            config.providers.telegram.api_base = base.clone();
            config.providers.whatsapp.api_base = base;
            tweak(config);
        })
        .await;
        let mut document = world::document(provider);
        for installation in document["installations"].as_array_mut().unwrap() {
            let id = installation["id"].as_str().unwrap().to_owned();
            let bot = installation["account"]["bot_id"].as_str().map(|b| format!("{b}:")).unwrap_or_default();
            if !id.ends_with("globex") {
                installation["credential"] = json!({"value": format!("{bot}canary-{id}-credential")});
            }
        }
        gateway.applied(&document).await;
        Self { gateway, api, sent: std::cell::Cell::new(0) }
    }

    async fn post(&self, token: &str, key: Option<&str>, body: &Value) -> Response {
        let mut request = Request::post("/v1/messages", serde_json::to_vec(body).unwrap()).json();
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        once(self.gateway.public, &request).await.unwrap()
    }

    /// A message under a key of its own; status, code, and whether the provider was called.
    async fn say(&self, token: &str, body: Value) -> String {
        let key = format!("key-{}", self.sent.replace(self.sent.get() + 1));
        let answer = self.post(token, Some(&key), &body).await;
        self.told(&answer)
    }

    fn told(&self, answer: &Response) -> String {
        let body = answer.json();
        let word = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let called = if self.api.unseen().is_some() { "provider called" } else { "no call" };
        let wait = answer.header("retry-after").map(|s| format!(" retry-after {s}")).unwrap_or_default();
        let what = if answer.status == 200 { word("status") } else { format!("{} ({})", word("code"), word("detail")) };
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        format!("{} {what}{wait} · {called}", answer.status)
    }
}

fn hello(installation: &str) -> Value {
    let conversation = if installation.starts_with("slack") { "C424242" } else { "424242" };
    json!({"installation": installation, "conversation": conversation, "text": "hi"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_a_provider_is_read_as_what_it_means() {
    let mut told = String::new();
    for (provider, answers) in [
        (
            ProviderKind::Slack,
            vec![
                (200, json!({"ok": true, "ts": "1.2"})),
                (200, json!({"ok": false, "error": "channel_not_found"})),
                (200, json!({"ok": false, "error": "msg_too_long"})),
                (200, json!({"ok": false, "error": "ratelimited"})),
                (429, json!({"ok": false, "error": "ratelimited"})),
                (503, json!({})),
                (302, json!({})),
                (200, json!("what")),
                (200, json!({"ok": false, "error": "token_revoked"})),
            ],
        ),
        (
            ProviderKind::Telegram,
            vec![
                (200, json!({"ok": true, "result": {"message_id": 5}})),
                (403, json!({"ok": false, "error_code": 403, "description": "Forbidden: bot was blocked by the user"})),
                (400, json!({"ok": false, "error_code": 400, "description": "Bad Request: chat not found"})),
                (429, json!({"ok": false, "error_code": 429, "description": "Too Many Requests", "parameters": {"retry_after": 7}})),
                (500, json!({"ok": false, "error_code": 500, "description": "restart"})),
                (401, json!({"ok": false, "error_code": 401, "description": "Unauthorized"})),
            ],
        ),
        (
            ProviderKind::WhatsApp,
            vec![
                (200, json!({"messages": [{"id": "wamid.1"}]})),
                (400, json!({"error": {"code": 131047, "message": "Re-engagement message"}})),
                (400, json!({"error": {"code": 130429, "message": "Rate limit hit"}})),
                (500, json!({"error": {"code": 131000, "message": "Something went wrong"}})),
                (401, json!({"error": {"code": 190, "message": "Error validating access token"}})),
            ],
        ),
    ] {
        let bench = Bench::start(provider).await;
        for (status, body) in answers {
            bench.api.answers(status, body.clone());
            // Whatever the last answer asked to wait for is over.
            bench.gateway.clock.advance_ms(10_000);
            told.push_str(&format!("{provider} {status} {body}\n  → {}\n", bench.say(ACME, hello(&format!("{provider}-acme"))).await));
        }
        // The last answer said that the credential is dead: the installation sends no more until it has a new one.
        bench.api.answers(200, json!({"ok": true, "ts": "1.3", "result": {"message_id": 6}, "messages": [{"id": "wamid.2"}]}));
        told.push_str(&format!("{provider} afterwards\n  → {}\n", bench.say(ACME, hello(&format!("{provider}-acme"))).await));
        told.push_str(&format!("{provider} its neighbour\n  → {}\n", bench.say(ACME, hello(&format!("{provider}-platform"))).await));
    }
    assert_snapshot!(told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_never_reaches_a_provider() {
    let bench = Bench::start(ProviderKind::Slack).await;
    bench.api.answers(200, json!({"ok": true, "ts": "1.2"}));
    let mut told = String::new();
    for (what, token, body) in [
        ("no token", "", hello("slack-acme")),
        ("a wrong token", "agt_nobody_0123456789", hello("slack-acme")),
        ("another org's installation", GLOBEX, hello("slack-acme")),
        ("one that does not exist", GLOBEX, hello("slack-nowhere")),
        ("a session of nobody", ACME, json!({"session": "ses_01", "text": "hi"})),
        ("no destination", ACME, json!({"text": "hi"})),
        ("no conversation", ACME, json!({"installation": "slack-acme", "text": "hi"})),
        ("nothing to say", ACME, json!({"installation": "slack-acme", "conversation": "C1"})),
        ("a field that does not exist", ACME, json!({"installation": "slack-acme", "conversation": "C1", "text": "hi", "token": "x"})),
        ("another destination in native", ACME, json!({"installation": "slack-acme", "conversation": "C1", "native": {"channel": "C2"}})),
        ("no credential", GLOBEX, hello("slack-globex")),
        (
            "no credential, fallback asked for and not opted in",
            GLOBEX,
            json!({"installation": "slack-globex", "conversation": "C1", "text": "hi", "allow_fallback": true}),
        ),
    ] {
        told.push_str(&format!("{what}\n  → {}\n", bench.say(token, body).await));
    }
    assert_snapshot!(told);
    let kept = bench.gateway.drain().await;
    let asked = kept
        .rows("SELECT DISTINCT v.principal FROM decisions d JOIN verdicts v ON v.seq = d.verdict WHERE v.action = 'UseCredential'")
        .await;
    assert_eq!(asked, [json!({"principal": "Byoa::ByoaInstallation::\"slack-acme\""})], "nobody else's credential was even asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_is_one_message() {
    let bench = Bench::start(ProviderKind::Slack).await;
    bench.api.answers(200, json!({"ok": true, "ts": "1.2"}));
    let first = bench.post(ACME, Some("k"), &hello("slack-acme")).await;
    assert_eq!(bench.told(&first), "200 sent · provider called");
    let again = bench.post(ACME, Some("k"), &hello("slack-acme")).await;
    assert_eq!((bench.told(&again).as_str(), again.json()), ("200 sent · no call", first.json()));
    assert!(first.json()["decision"].as_str().is_some_and(|d| d.starts_with("dec_")), "{}", first.text());
    let other = bench.post(ACME, Some("k"), &hello("slack-platform")).await;
    assert_eq!((other.status, other.json()["code"].as_str()), (409, Some("egress.idempotency_conflict")));
    for key in [None, Some("")] {
        assert_eq!(bench.post(ACME, key, &hello("slack-acme")).await.json()["code"], "egress.idempotency_key_required");
    }
    // What the provider did not take may be tried again under its key; what may have left may not.
    bench.api.answers(429, json!({"ok": false, "error": "ratelimited"}));
    assert_eq!(bench.post(ACME, Some("later"), &hello("slack-acme")).await.status, 429);
    bench.api.answers(200, json!({"ok": true, "ts": "1.4"}));
    assert_eq!(bench.post(ACME, Some("later"), &hello("slack-acme")).await.status, 200);
    bench.api.answers(200, json!("unreadable"));
    assert_eq!(bench.post(ACME, Some("lost"), &hello("slack-acme")).await.status, 504);
    while bench.api.unseen().is_some() {}
    bench.api.answers(200, json!({"ok": true, "ts": "1.5"}));
    let lost = bench.post(ACME, Some("lost"), &hello("slack-acme")).await;
    assert_eq!((lost.status, bench.api.unseen().is_none()), (504, true), "no automatic resend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_free_after_a_day_and_what_was_sent_stays_on_record() {
    let bench = Bench::start(ProviderKind::Slack).await;
    bench.api.answers(200, json!({"ok": true, "ts": "1.2"}));
    let first = bench.post(ACME, Some("k"), &hello("slack-acme")).await.json();
    for (hours, again) in [(23, false), (2, true)] {
        bench.gateway.clock.advance_ms(hours * 3_600_000);
        bench.gateway.sweep().await;
        let answer = bench.post(ACME, Some("k"), &hello("slack-acme")).await.json();
        assert_eq!(answer["id"] != first["id"], again, "after {hours} h more");
    }
    let sends = bench.gateway.operate("GET", "/v1/sends", &Value::Null).await.json();
    assert_eq!(sends["items"].as_array().map(Vec::len), Some(2), "{sends}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_does_not_open_is_our_trouble_and_nobody_elses_is_taken() {
    let bench = Bench::start(ProviderKind::Slack).await;
    bench.api.answers(200, json!({"ok": true, "ts": "1.2"}));
    // Moved from its neighbour's row: whole, and not at home.
    let moved = "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE kind = 'installations' AND owner = 'slack-platform') \
                 WHERE kind = 'installations' AND owner = 'slack-acme'";
    bench.gateway.damage(moved).await;
    for fallback in [false, true] {
        let mut message = hello("slack-acme");
        message["allow_fallback"] = json!(fallback);
        let told = bench.say(ACME, message).await;
        assert!(told.starts_with("503 vault.secret_context") && told.ends_with("no call"), "{told}");
    }
    assert_eq!(bench.say(ACME, hello("slack-platform")).await, "200 sent · provider called");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_cannot_be_reached_took_nothing() {
    let bench = Bench::start_with(ProviderKind::Slack, |config| config.providers.slack.api_base = "http://127.0.0.1:1/".into()).await;
    let told = bench.say(ACME, hello("slack-acme")).await;
    assert!(told.starts_with("502 egress.provider_unavailable") && told.contains("retry-after"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_is_off_stops_both_directions_of_a_tenants_app_only() {
    let bench = Bench::start_with(ProviderKind::Slack, |config| config.rollout.initial.clear()).await;
    bench.api.answers(200, json!({"ok": true, "ts": "1.2"}));
    assert!(bench.say(ACME, hello("slack-acme")).await.starts_with("503 rollout.stage_off"));
    assert_eq!(bench.say(ACME, hello("slack-platform")).await, "200 sent · provider called");
}
