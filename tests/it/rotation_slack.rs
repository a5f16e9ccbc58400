//! Slack's token rotation: one exchange per installation however many send, and nothing lost between the old pair and the new.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::support::fakes::Seen;
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response, once};
use super::support::scripted::{Scripted, Told};
use super::support::world;

const NOW: i64 = 1_790_000_100;
const OAUTH: &str = "oauth.v2.access";
const SEND: &str = "chat.postMessage";

/// What Slack knows: which tokens live, and which refresh token is next.
#[derive(Default)]
struct Slack {
    exchanges: AtomicUsize,
    /// What an exchange answers instead, once each.
    instead: Mutex<Vec<Told>>,
    /// Access tokens that are over.
    over: Mutex<Vec<String>>,
    /// Exchanges with this refresh token wait here.
    held: Mutex<Option<String>>,
    waiting: Mutex<Option<mpsc::UnboundedSender<()>>>,
    gate: Notify,
}

impl Slack {
    async fn answer(self: Arc<Self>, seen: Seen) -> Told {
        if seen.path.ends_with(OAUTH) {
            let form: std::collections::HashMap<String, String> = form_urlencoded::parse(&seen.body).into_owned().collect();
            assert_eq!(seen.headers["content-type"], "application/x-www-form-urlencoded");
            assert_eq!((form["grant_type"].as_str(), form["client_id"].as_str()), ("refresh_token", "123.456"));
            assert_eq!(form["client_secret"], "canary-client-secret-1");
            let n = self.exchanges.fetch_add(1, Ordering::SeqCst) + 1;
            let held = self.held.lock().unwrap().as_deref() == Some(&form["refresh_token"]);
            if held {
                if let Some(waiting) = self.waiting.lock().unwrap().as_ref() {
                    waiting.send(()).unwrap();
                }
                self.gate.notified().await;
            }
            if let Some(answer) = self.instead.lock().unwrap().pop() {
                return answer;
            }
            // Whose it is, in its name, so that two installations are told apart.
            let of = form["refresh_token"].split('-').nth(2).unwrap().to_owned();
            let account = if of == "other" { "T00OTHER01" } else { "T00ACMEOWN1" };
            return (
                200,
                json!({"ok": true, "access_token": format!("xoxe.xoxb-canary-{of}-new{n}"), "token_type": "bot", "expires_in": 43200,
                "refresh_token": format!("xoxe-canary-{of}-next{n}"), "app_id": "A00ACMEOWN1", "team": {"id": account}}),
            );
        }
        let token = seen.headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
        if self.over.lock().unwrap().contains(&token) {
            return (200, json!({"ok": false, "error": "token_expired"}));
        }
        (200, json!({"ok": true, "ts": "1790000101.000200"}))
    }
}

struct Bed {
    gateway: TestGateway,
    api: Scripted,
    slack: Arc<Slack>,
    key: AtomicUsize,
}

fn at(secs: i64) -> String {
    Timestamp::from_secs(secs).to_string()
}

fn pair(of: &str, expires: Option<i64>) -> Value {
    json!({"value": format!("xoxe.xoxb-canary-{of}-first"), "refresh_token": {"value": format!("xoxe-canary-{of}-first")},
        "expires_at": expires.map(at)})
}

fn document(credential: Value) -> Value {
    let mut document = world::document(ProviderKind::Slack);
    let acme = document["profiles"].as_array_mut().unwrap().iter_mut().find(|p| p["id"] == "slack-acme").unwrap();
    acme["oauth"] = json!({"client_id": "123.456", "client_secret": {"value": "canary-client-secret-1"}});
    for installation in document["installations"].as_array_mut().unwrap() {
        if installation["id"] == "slack-acme" {
            installation["credential"] = credential.clone();
        }
    }
    document["installations"].as_array_mut().unwrap().push(json!({"id": "other", "profile": "slack-acme", "org": "acme",
        "account": {"team_id": "T00OTHER01"}, "credential": pair("other", Some(NOW - 1))}));
    document["bindings"]
        .as_array_mut()
        .unwrap()
        .push(json!({"id": "other", "org": "acme", "installation": "other", "agent": "acme-agent"}));
    document
}

impl Bed {
    async fn start(expires: Option<i64>) -> Self {
        let slack = Arc::new(Slack::default());
        let knows = slack.clone();
        let api = Scripted::start(move |seen| Box::pin(knows.clone().answer(seen))).await;
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| config.providers.slack.api_base = base).await;
        gateway.applied(&document(pair("acme", expires))).await;
        Self { gateway, api, slack, key: AtomicUsize::new(0) }
    }

    async fn say(&self, installation: &str) -> Response {
        let body = json!({"installation": installation, "conversation": "C0HELP", "text": "hi"});
        let key = format!("key-{}", self.key.fetch_add(1, Ordering::SeqCst));
        let send = Request::post("/v1/messages", serde_json::to_vec(&body).unwrap()).json();
        let send = send.header("authorization", "Bearer agt_acme_3kd9slw02mfj47").header("idempotency-key", key);
        let answer = once(self.gateway.public, &send).await.unwrap();
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        answer
    }

    async fn said(&self, installation: &str) -> (u16, String) {
        let answer = self.say(installation).await;
        (answer.status, answer.json().get("code").and_then(Value::as_str).unwrap_or("sent").to_owned())
    }

    fn exchanges(&self) -> usize {
        self.slack.exchanges.load(Ordering::SeqCst)
    }

    /// The tokens that messages went out with.
    fn tokens(&self) -> Vec<String> {
        let token = |s: Seen| s.headers["authorization"].to_str().unwrap().trim_start_matches("Bearer ").to_owned();
        self.api.seen(SEND).into_iter().map(token).collect()
    }

    /// The refresh tokens that were traded in.
    fn traded(&self) -> Vec<String> {
        let token = |s: Seen| form_urlencoded::parse(&s.body).find(|(n, _)| n == "refresh_token").unwrap().1.into_owned();
        self.api.seen(OAUTH).into_iter().map(token).collect()
    }

    async fn shown(&self) -> Value {
        let answer = self.gateway.operate("GET", "/v1/installations/slack-acme", &Value::Null).await;
        assert!(!answer.text().contains("canary"), "{}", answer.text());
        answer.json()
    }

    async fn audited(&self, action: &str) -> usize {
        let page = self.gateway.operate("GET", "/v1/audit?limit=1000", &Value::Null).await.json();
        page["items"].as_array().unwrap().iter().filter(|l| l["action"] == action).count()
    }

    async fn secrets(&self) -> Vec<Value> {
        let sql =
            "SELECT field, id, fingerprint, until_ms FROM secrets WHERE kind = 'installations' AND owner = 'slack-acme' ORDER BY field";
        self.gateway.kept.rows(sql).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_sends_with_an_expired_token_make_one_exchange_and_all_arrive() {
    let bed = Bed::start(Some(NOW - 3600)).await;
    let before = bed.secrets().await;
    let (tell, mut waiting) = mpsc::unbounded_channel();
    *bed.slack.waiting.lock().unwrap() = Some(tell);
    *bed.slack.held.lock().unwrap() = Some("xoxe-canary-acme-first".into());
    let sends = futures_util::future::join_all((0..20).map(|_| bed.said("slack-acme")));
    let release = async {
        waiting.recv().await.unwrap();
        bed.slack.gate.notify_one();
    };
    let (said, ()) = tokio::join!(sends, release);
    assert!(said.iter().all(|s| *s == (200, "sent".into())), "{said:?}");
    assert_eq!(bed.exchanges(), 1);
    assert_eq!(bed.tokens(), vec!["xoxe.xoxb-canary-acme-new1"; 20]);
    let after = bed.secrets().await;
    assert_eq!(after.len(), 2, "one stored pair");
    assert_eq!((&after[0]["field"], &after[0]["until_ms"]), (&json!("credential"), &json!((NOW + 43_200) * 1000)));
    assert_eq!(after[0]["id"], before[0]["id"], "it is the same credential, renewed");
    for n in [0, 1] {
        assert_ne!(after[n]["fingerprint"], before[n]["fingerprint"]);
    }
    assert_eq!(bed.audited("credential.refresh").await, 1);
    assert_eq!(bed.gateway.metrics().await["byoa_credential_refreshes_total{provider=\"slack\",result=\"done\"}"], 1.0);
    // Ten minutes before its end it is refreshed again, with the new refresh token, and not a moment earlier.
    bed.gateway.clock.advance_ms((43_200 - 601) * 1000);
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!(bed.exchanges(), 1);
    bed.gateway.clock.advance_ms(1000);
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!(bed.traded(), ["xoxe-canary-acme-first", "xoxe-canary-acme-next1"]);
    assert_eq!(bed.tokens().last().unwrap(), "xoxe.xoxb-canary-acme-new2");
    // Nothing of it lies open anywhere.
    let kept = bed.gateway.drain().await;
    for entry in std::fs::read_dir(kept.folder().join("data")).unwrap().filter_map(Result::ok).filter(|e| e.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(8).any(|w| w == b"-canary-"), "{}", entry.path().display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_installations_do_not_wait_for_each_other() {
    let bed = Bed::start(Some(NOW - 1)).await;
    let (tell, mut waiting) = mpsc::unbounded_channel();
    *bed.slack.waiting.lock().unwrap() = Some(tell);
    *bed.slack.held.lock().unwrap() = Some("xoxe-canary-acme-first".into());
    let slow = bed.said("slack-acme");
    let meanwhile = async {
        waiting.recv().await.unwrap();
        assert_eq!(bed.said("other").await.0, 200, "while the first still waits for its exchange");
        bed.slack.gate.notify_one();
    };
    let (said, ()) = tokio::join!(slow, meanwhile);
    assert_eq!(said.0, 200);
    assert_eq!(bed.exchanges(), 2);
    assert_eq!(bed.tokens(), ["xoxe.xoxb-canary-other-new2", "xoxe.xoxb-canary-acme-new1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_slack_calls_expired_is_refreshed_though_nobody_knew_its_end() {
    let bed = Bed::start(None).await;
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!(bed.exchanges(), 0);
    bed.slack.over.lock().unwrap().push("xoxe.xoxb-canary-acme-first".into());
    let said = futures_util::future::join_all((0..8).map(|_| bed.said("slack-acme"))).await;
    assert!(said.iter().all(|s| s.0 == 200), "{said:?}");
    assert_eq!(bed.exchanges(), 1);
    assert_eq!(bed.shown().await["status"], "active");
    // A new one that is dead too is no reason to go round in circles.
    bed.slack.over.lock().unwrap().extend((1..9).map(|n| format!("xoxe.xoxb-canary-acme-new{n}")));
    assert_eq!(bed.said("slack-acme").await, (502, "egress.credential_invalid".into()));
    assert_eq!(bed.exchanges(), 2);
    assert_eq!((&bed.shown().await["status"], &bed.shown().await["status_reason"]), (&json!("degraded"), &json!("credential_dead")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_refresh_degrades_with_advice() {
    for answer in [
        (200, json!({"ok": false, "error": "invalid_refresh_token"})),
        (200, json!({"ok": false, "error": "bad_client_secret"})),
        // Somebody else's tokens are not taken, whatever the request was.
        (
            200,
            json!({"ok": true, "access_token": "xoxe.xoxb-canary-stranger", "refresh_token": "xoxe-canary-stranger-1", "expires_in": 43200,
            "team": {"id": "T00GLOBEX01"}, "app_id": "A00ACMEOWN1"}),
        ),
        (
            200,
            json!({"ok": true, "access_token": "xoxe.xoxb-canary-stranger", "refresh_token": "xoxe-canary-stranger-1", "expires_in": 43200,
            "team": {"id": "T00ACMEOWN1"}, "app_id": "A00STRANGER"}),
        ),
    ] {
        let bed = Bed::start(Some(NOW + 60)).await;
        bed.slack.instead.lock().unwrap().push(answer);
        assert_eq!(bed.said("slack-acme").await, (502, "egress.credential_invalid".into()));
        let shown = bed.shown().await;
        assert_eq!((&shown["status"], &shown["status_reason"]), (&json!("degraded"), &json!("refresh_refused")), "{shown}");
        assert!(shown["advice"].as_str().unwrap().contains("new pair"), "{shown}");
        assert_eq!((bed.tokens().len(), bed.audited("installation.degrade").await), (0, 1));
        assert_eq!(bed.said("slack-acme").await.0, 502);
        assert_eq!(bed.exchanges(), 1, "it is not asked again and again");
        assert_eq!(bed.gateway.metrics().await["byoa_credential_refreshes_total{provider=\"slack\",result=\"refused\"}"], 1.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_slack_is_in_trouble_the_old_token_serves_to_its_end() {
    let bed = Bed::start(Some(NOW + 300)).await;
    let trouble = || (503, json!({}));
    bed.slack.instead.lock().unwrap().extend([trouble(), trouble(), trouble()]);
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!(bed.tokens(), ["xoxe.xoxb-canary-acme-first"]);
    bed.gateway.clock.advance_ms(300_000);
    let answer = bed.say("slack-acme").await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (502, Some("egress.provider_unavailable")), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(bed.shown().await["status"], "active");
    bed.slack.instead.lock().unwrap().clear();
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!(bed.traded(), vec!["xoxe-canary-acme-first"; 3], "the refresh token is the old one until there is a new one");
    assert_eq!(bed.tokens().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_the_store_did_not_take_is_kept_and_not_traded_twice() {
    let bed = Bed::start(Some(NOW - 1)).await;
    let (tell, mut waiting) = mpsc::unbounded_channel();
    *bed.slack.waiting.lock().unwrap() = Some(tell);
    *bed.slack.held.lock().unwrap() = Some("xoxe-canary-acme-first".into());
    let send = bed.said("slack-acme");
    let meanwhile = async {
        waiting.recv().await.unwrap();
        let mut other = bed.gateway.kept.open().await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        bed.slack.gate.notify_one();
        other
    };
    let (said, mut other) = tokio::join!(send, meanwhile);
    assert_eq!(said.0, 503, "{said:?}");
    assert!(bed.tokens().is_empty(), "not on disk, not used");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!((bed.exchanges(), bed.tokens()), (1, vec!["xoxe.xoxb-canary-acme-new1".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_between_exchange_and_disk_ends_with_the_old_token_asked_again_and_said_aloud() {
    let bed = Bed::start(Some(NOW - 1)).await;
    let rows =
        "SELECT field, hex(sealed) AS sealed, fingerprint, until_ms FROM secrets WHERE kind = 'installations' AND owner = 'slack-acme'";
    let before = bed.gateway.kept.rows(rows).await;
    assert_eq!(bed.said("slack-acme").await.0, 200);
    // As if the process had died before the new pair was on disk.
    for row in &before {
        let until = row["until_ms"].as_i64().map_or("NULL".to_owned(), |ms| ms.to_string());
        bed.gateway
            .damage(&format!(
                "UPDATE secrets SET sealed = x'{}', fingerprint = '{}', until_ms = {until} WHERE kind = 'installations' AND owner = 'slack-acme' AND field = '{}'",
                row["sealed"].as_str().unwrap(),
                row["fingerprint"].as_str().unwrap(),
                row["field"].as_str().unwrap(),
            ))
            .await;
    }
    // Within Slack's grace the old one still works; after it, this is the answer.
    bed.slack.instead.lock().unwrap().push((200, json!({"ok": false, "error": "invalid_refresh_token"})));
    assert_eq!(bed.said("slack-acme").await, (502, "egress.credential_invalid".into()));
    assert_eq!(bed.traded(), vec!["xoxe-canary-acme-first"; 2]);
    assert_eq!(bed.shown().await["status_reason"], "refresh_refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_applied_again_does_not_bring_the_spent_pair_back() {
    let bed = Bed::start(Some(NOW - 1)).await;
    assert_eq!(bed.said("slack-acme").await.0, 200);
    let pair_now = bed.secrets().await;
    bed.gateway.applied(&document(pair("acme", Some(NOW - 1)))).await;
    assert_eq!(bed.secrets().await, pair_now);
    assert_eq!(bed.said("slack-acme").await.0, 200);
    assert_eq!(bed.tokens(), vec!["xoxe.xoxb-canary-acme-new1"; 2]);
    // Another credential, without a refresh token: the old one's must not refresh it.
    bed.gateway.applied(&document(json!({"value": "xoxb-canary-plain-123456"}))).await;
    assert_eq!(bed.secrets().await.len(), 1);
    bed.slack.over.lock().unwrap().push("xoxb-canary-plain-123456".into());
    assert_eq!(bed.said("slack-acme").await, (502, "egress.credential_invalid".into()));
    assert_eq!(bed.exchanges(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_an_operator_put_meanwhile_goes_before_the_refreshed_one() {
    let bed = Bed::start(Some(NOW - 1)).await;
    let (tell, mut waiting) = mpsc::unbounded_channel();
    *bed.slack.waiting.lock().unwrap() = Some(tell);
    *bed.slack.held.lock().unwrap() = Some("xoxe-canary-acme-first".into());
    let send = bed.said("slack-acme");
    let meanwhile = async {
        waiting.recv().await.unwrap();
        bed.gateway.applied(&document(json!({"value": "xoxb-canary-plain-123456"}))).await;
        bed.slack.gate.notify_one();
    };
    let (said, ()) = tokio::join!(send, meanwhile);
    assert_eq!(said, (503, "credentials.unavailable".into()));
    assert_eq!((bed.said("slack-acme").await.0, bed.tokens()), (200, vec!["xoxb-canary-plain-123456".to_owned()]));
    assert_eq!(bed.audited("credential.refresh").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_refreshed_is_refused_by_name() {
    let gateway = TestGateway::start(NOW).await;
    let mut document = document(pair("acme", None));
    for profile in document["profiles"].as_array_mut().unwrap() {
        profile.as_object_mut().unwrap().remove("oauth");
    }
    let answer = gateway.apply(&document).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("admin.secret_required")), "{}", answer.text());
    assert!(answer.text().contains("oauth.client_secret") && !answer.text().contains("canary"), "{}", answer.text());
    let mut document = world::document(ProviderKind::Telegram);
    document["installations"][0]["credential"] =
        json!({"value": "7000000001:AAcanary1234567890abcdef", "refresh_token": {"value": "xoxe-canary-1"}});
    let answer = gateway.apply(&document).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (422, Some("admin.resource_invalid")), "{}", answer.text());
}
