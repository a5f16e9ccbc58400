//! What befalls an installation: uninstalled, revoked, banned, blocked, installed again; and what waits meanwhile.

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::rollout::RolloutStage;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};

use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, once};
use super::support::scripted::Scripted;
use super::support::world::{self, App};
use super::support::{json_file, sign};

const NOW: i64 = 1_790_000_100;

struct Bed {
    gateway: TestGateway,
    agent: FakeAgent,
    api: FakeProvider,
    app: App,
    nonce: std::cell::Cell<u64>,
}

fn credential(app: &App, generation: u32) -> String {
    match app.provider {
        ProviderKind::Slack => format!("xoxb-canary-123456789-{generation}"),
        ProviderKind::Telegram => format!("{}:AAcanary1234567890abcdef{generation}", app.account),
        ProviderKind::WhatsApp => format!("EAAcanary1234567890{generation}"),
    }
}

fn document(app: &App, agent: &str) -> Value {
    let mut document = world::document(app.provider);
    document["agents"][0]["endpoint"] = json!(agent);
    for installation in document["installations"].as_array_mut().unwrap() {
        if installation["id"] == app.profile.as_str() {
            installation["credential"] = json!({"value": credential(app, 1)});
        }
    }
    document
}

impl Bed {
    async fn start(provider: ProviderKind) -> Self {
        Self::start_with(world::acme(provider), 4, |_| {}, |_| {}).await
    }

    async fn start_with(
        app: App,
        concurrency: usize,
        tweak: impl FnOnce(&mut byoa_gateway::config::Config),
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let (agent, api) = (FakeAgent::start().await, FakeProvider::start().await);
        api.answers(200, json!({"ok": true, "ts": "1.2", "result": {"message_id": 5}, "messages": [{"id": "wamid.1"}]}));
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            config.delivery.concurrency = concurrency;
            config.providers.slack.api_base = base.clone();
            config.providers.telegram.api_base = base.trim_end_matches('/').into();
            config.providers.whatsapp.api_base = base;
            tweak(config);
        })
        .await;
        let mut document = document(&app, &agent.endpoint());
        edit(&mut document);
        gateway.applied(&document).await;
        Self { gateway, agent, api, app, nonce: std::cell::Cell::new(0) }
    }

    fn next(&self) -> u64 {
        self.nonce.set(self.nonce.get() + 1);
        self.nonce.get()
    }

    async fn post(&self, body: Vec<u8>) -> u16 {
        let signed = sign(self.app.provider, &body, self.app.secret, self.gateway.clock.now());
        self.gateway.send(&Request::post(&self.app.path(), body).json().headers(signed)).await.status
    }

    async fn event(&self, body: &Value) -> u16 {
        self.post(serde_json::to_vec(body).unwrap()).await
    }

    /// A recorded body with its accounts, times and ids replaced.
    async fn recorded(&self, file: &str, replace: &[(&str, &str)]) -> u16 {
        let mut text = json_file(&format!("fixtures/providers/{file}")).to_string();
        for (from, to) in replace {
            assert!(text.contains(from), "{file} has no {from}: {text}");
            text = text.replace(from, to);
        }
        self.post(text.into_bytes()).await
    }

    /// A Slack callback about the installation itself.
    async fn slack(&self, event: Value, at_secs: i64) -> u16 {
        let id = format!("EvLIFE{:06}", self.next());
        self.event(&json!({"team_id": self.app.account, "api_app_id": self.app.app_id, "event": event, "type": "event_callback",
            "event_id": id, "event_time": at_secs}))
            .await
    }

    async fn hear(&self, conversation: &str, text: &str) -> u16 {
        let account = self.app.external();
        let now = self.gateway.clock.now();
        let nonce = self.next();
        let sample = Sample { kind: "message", account: &account, app_id: Some(self.app.app_id), conversation, text, nonce, now };
        let (body, _) = providers::of(self.app.provider).sample(&sample).unwrap();
        self.post(body).await
    }

    /// Status and code of a send.
    async fn say(&self, installation: &str, conversation: &str) -> (u16, String) {
        let body = json!({"installation": installation, "conversation": conversation, "text": "hi"});
        let send = Request::post("/v1/messages", serde_json::to_vec(&body).unwrap()).json();
        let send = send.header("authorization", "Bearer agt_acme_3kd9slw02mfj47").header("idempotency-key", format!("key-{}", self.next()));
        let answer = once(self.gateway.public, &send).await.unwrap();
        let text = |name: &str| answer.json().get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        if answer.status == 422 {
            return (422, format!("{}: {}", text("code"), text("detail")));
        }
        (answer.status, text(if answer.status == 200 { "status" } else { "code" }))
    }

    /// A send that must not reach the provider.
    async fn refused(&self, conversation: &str) -> (u16, String) {
        while self.api.unseen().is_some() {}
        let said = self.say(&self.app.profile, conversation).await;
        assert!(self.api.unseen().is_none(), "the provider was called: {said:?}");
        said
    }

    async fn shown(&self, id: &str) -> Value {
        self.gateway.operate("GET", &format!("/v1/installations/{id}"), &Value::Null).await.json()
    }

    async fn own(&self) -> Value {
        self.shown(&self.app.profile).await
    }

    /// Audit lines of an action, newest first.
    async fn audit(&self, action: &str) -> Vec<Value> {
        let page = self.gateway.operate("GET", "/v1/audit?limit=1000", &Value::Null).await.json();
        page["items"].as_array().unwrap().iter().filter(|l| l["action"] == action).cloned().collect()
    }

    async fn declare(&self, fields: Value) -> super::support::raw::Response {
        let mut spec = json!({"id": self.app.profile, "profile": self.app.profile, "org": self.app.org,
            "account": world::account_json(&self.app.external())});
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        self.gateway.apply(&json!({"installations": [spec]})).await
    }

    async fn secrets(&self) -> i64 {
        let sql = format!("SELECT COUNT(*) AS n FROM secrets WHERE kind = 'installations' AND owner = '{}'", self.app.profile);
        self.gateway.kept.rows(&sql).await[0]["n"].as_i64().unwrap()
    }

    async fn deliveries(&self) -> Vec<(String, Value)> {
        let rows = self.gateway.kept.rows("SELECT state, code FROM deliveries ORDER BY seq").await;
        rows.iter().map(|r| (r["state"].as_str().unwrap().to_owned(), r["code"].clone())).collect()
    }
}

fn uninstalled() -> Value {
    json!({"type": "app_uninstalled"})
}

fn tokens(oauth: &[&str], bot: &[&str]) -> Value {
    json!({"type": "tokens_revoked", "tokens": {"oauth": oauth, "bot": bot}})
}

fn is(shown: &Value, status: &str, reason: Value) {
    assert_eq!((&shown["status"], &shown["status_reason"]), (&json!(status), &reason), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_tells_of_the_end_twice_in_any_order_and_it_holds_before_the_200() {
    let both = [("uninstalled", uninstalled()), ("tokens_revoked", tokens(&["U1"], &["U0BOT"]))];
    for order in [[0, 1], [1, 0]] {
        let bed = Bed::start(ProviderKind::Slack).await;
        let id = bed.app.profile.clone();
        assert_eq!(bed.say(&id, "C0HELP").await, (200, "sent".into()));
        assert_eq!(bed.secrets().await, 1);
        let (reason, first) = &both[order[0]];
        assert_eq!(bed.slack(first.clone(), NOW).await, 200);
        let shown = bed.own().await;
        is(&shown, "revoked", json!(reason));
        assert!(shown.get("credential").is_none() && shown.get("declared").is_none(), "{shown}");
        assert!(shown["advice"].as_str().unwrap().contains("new credential"), "{shown}");
        assert_eq!((&shown["since"], &shown["epoch"]), (&json!("2026-09-21T14:15:00.000Z"), &json!(1)));
        assert_eq!(bed.secrets().await, 0, "the credential is destroyed");
        assert_eq!(bed.refused("C0HELP").await, (403, "credentials.revoked".into()));
        // The other of the two, and both again: nothing more happens.
        for n in [order[1], 0, 1] {
            assert_eq!(bed.slack(both[n].1.clone(), NOW).await, 200);
        }
        is(&bed.own().await, "revoked", json!(reason));
        let lines = bed.audit("installation.revoke").await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!((&lines[0]["target"], &lines[0]["actor"]), (&json!(id), &json!(format!("profile:{id}"))), "{lines:?}");
        assert!(lines[0]["request"].is_string() && lines[0]["detail"]["reason"] == *reason, "{lines:?}");
        let metrics = bed.gateway.metrics().await;
        assert_eq!(metrics["byoa_lifecycle_total{provider=\"slack\",change=\"revoked\"}"], 1.0);
        assert_eq!(metrics["byoa_installations{provider=\"slack\",status=\"revoked\"}"], 1.0);
        assert_eq!(metrics["byoa_installations{provider=\"slack\",status=\"active\"}"], 2.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_tokens_and_other_peoples_news_leave_an_installation_alone() {
    let bed = Bed::start(ProviderKind::Slack).await;
    assert_eq!(bed.slack(tokens(&["U1", "U2"], &[]), NOW).await, 200);
    assert_eq!(bed.slack(json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"]}}), NOW).await, 200);
    // Another account's, and one that is signed with another app's secret.
    let body = json!({"team_id": "T00GLOBEX01", "api_app_id": bed.app.app_id, "event": uninstalled(), "type": "event_callback",
        "event_id": "EvOTHER", "event_time": NOW});
    assert_eq!(bed.event(&body).await, 200);
    let body = serde_json::to_vec(&body).unwrap();
    let signed = sign(ProviderKind::Slack, &body, world::globex(ProviderKind::Slack).secret, bed.gateway.clock.now());
    assert_eq!(bed.gateway.send(&Request::post(&bed.app.path(), body).json().headers(signed)).await.status, 401);
    for id in ["slack-acme", "slack-globex", "slack-platform"] {
        is(&bed.shown(id).await, "active", Value::Null);
    }
    assert_eq!(bed.say("slack-acme", "C0HELP").await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_needs_no_listener_and_no_stage() {
    let bed = Bed::start_with(world::acme(ProviderKind::Slack), 0, |_| {}, |d| d["bindings"] = json!([])).await;
    assert_eq!(bed.slack(uninstalled(), NOW).await, 200);
    is(&bed.own().await, "revoked", json!("uninstalled"));
    let off = |config: &mut byoa_gateway::config::Config| {
        config.rollout.initial.insert(ProviderKind::Slack, RolloutStage::Off);
    };
    let bed = Bed::start_with(world::acme(ProviderKind::Slack), 0, off, |_| {}).await;
    assert_eq!(bed.slack(uninstalled(), NOW).await, 503, "the event itself shall come again");
    is(&bed.own().await, "revoked", json!("uninstalled"));
    assert_eq!(bed.secrets().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_back_with_a_new_credential_only_and_older_news_is_void() {
    let bed = Bed::start(ProviderKind::Slack).await;
    assert_eq!(bed.slack(uninstalled(), NOW).await, 200);
    let no = bed.declare(json!({"status": "active"})).await;
    assert_eq!((no.status, no.json()["code"].as_str()), (422, Some("admin.secret_required")), "{}", no.text());
    assert!(no.text().contains("uninstalled"), "{}", no.text());
    // The file as it was: nothing of it is new.
    assert_eq!(bed.declare(json!({"credential": {"value": credential(&bed.app, 1)}})).await.json()["items"][0]["action"], "unchanged");
    assert_eq!(bed.declare(json!({"status": "active", "credential": {"value": credential(&bed.app, 1)}})).await.status, 422);
    is(&bed.own().await, "revoked", json!("uninstalled"));
    assert_eq!(bed.secrets().await, 0);

    bed.gateway.clock.advance_ms(60_000);
    assert_eq!(bed.declare(json!({"credential": {"value": credential(&bed.app, 2)}})).await.status, 200);
    let shown = bed.own().await;
    is(&shown, "active", Value::Null);
    assert_eq!((&shown["epoch"], &shown["connected_at"], &shown["advice"]), (&json!(2), &json!("2026-09-21T14:16:00.000Z"), &Value::Null));
    assert_eq!(bed.say(&bed.app.profile, "C0HELP").await.0, 200);

    // What Slack still has to say of the first install, late.
    assert_eq!(bed.slack(tokens(&[], &["U0BOT"]), NOW + 59).await, 200);
    is(&bed.own().await, "active", Value::Null);
    let stale = bed.audit("lifecycle.stale").await;
    assert_eq!((stale.len(), &stale[0]["outcome"]), (1, &json!("refused")), "{stale:?}");
    assert_eq!(bed.gateway.metrics().await["byoa_lifecycle_total{provider=\"slack\",change=\"stale\"}"], 1.0);
    assert_eq!(bed.say(&bed.app.profile, "C0HELP").await.0, 200);
    // And of this one.
    assert_eq!(bed.slack(tokens(&[], &["U0BOT"]), NOW + 60).await, 200);
    is(&bed.own().await, "revoked", json!("tokens_revoked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_installation_lets_go_of_its_account() {
    let bed = Bed::start(ProviderKind::Slack).await;
    let second = json!({"id": "second", "profile": "slack-acme", "org": "acme", "account": {"team_id": bed.app.account},
        "credential": {"value": "xoxb-canary-second-1"}});
    let claim =
        json!({"installations": [second], "bindings": [{"id": "second", "org": "acme", "installation": "second", "agent": "acme-agent"}]});
    assert_eq!(bed.gateway.apply(&claim).await.status, 409);
    assert_eq!(bed.slack(uninstalled(), NOW).await, 200);
    // What is still on its way is the revoked one's while nobody else has the account, and no stranger's.
    assert_eq!(bed.hear("C0HELP", "late").await, 200);
    let refusals = bed.gateway.operate("GET", "/v1/refusals", &Value::Null).await.json();
    let first = &refusals["items"][0];
    assert_eq!(
        (&first["code"], &first["installation"], &first["excerpt"]),
        (&json!("installation.inactive"), &json!("slack-acme"), &Value::Null)
    );
    bed.gateway.applied(&claim).await;
    assert_eq!(bed.hear("C0HELP", "to the second").await, 200);
    while bed.agent.next().await.json()["data"]["text"] != "to the second" {}
    assert_eq!(bed.say("second", "C0HELP").await.0, 200);
    let back = bed.declare(json!({"credential": {"value": credential(&bed.app, 2)}})).await;
    assert_eq!((back.status, back.json()["code"].as_str()), (409, Some("admin.identity_taken")), "{}", back.text());
    is(&bed.own().await, "revoked", json!("uninstalled"));
    assert_eq!(bed.secrets().await, 0, "nothing of a refused document is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_delivered_ends_with_it_and_can_be_replayed() {
    let bed = Bed::start_with(world::acme(ProviderKind::Slack), 0, |_| {}, |_| {}).await;
    for text in ["one", "two"] {
        assert_eq!(bed.hear("C0HELP", text).await, 200);
    }
    assert_eq!(bed.slack(uninstalled(), NOW).await, 200);
    let dead = ("dead".to_owned(), json!("delivery.installation_revoked"));
    assert_eq!(bed.deliveries().await, [dead.clone(), dead, ("pending".into(), Value::Null)], "its own news still goes out");
    assert_eq!(bed.gateway.metrics().await["byoa_queue_depth"], 1.0);
    assert_eq!(bed.audit("installation.revoke").await[0]["detail"]["deliveries_ended"], 2);
    let listed = bed.gateway.operate("GET", "/v1/deliveries?state=dead", &Value::Null).await.json();
    let id = listed["items"][0]["id"].as_str().unwrap();
    assert_eq!(bed.gateway.operate("POST", &format!("/v1/deliveries/{id}/replay"), &Value::Null).await.json()["state"], "pending");
    assert_eq!(bed.gateway.metrics().await["byoa_queue_depth"], 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_degraded_installation_parks_its_queue_and_goes_on_in_order() {
    let bed = Bed::start(ProviderKind::Slack).await;
    let id = bed.app.profile.clone();
    bed.api.answers(200, json!({"ok": false, "error": "account_inactive"}));
    assert_eq!(bed.say(&id, "C0HELP").await, (502, "egress.credential_invalid".into()));
    for text in ["one", "two", "three"] {
        assert_eq!(bed.hear("C0HELP", text).await, 200, "it still hears");
    }
    let platform = world::platform(ProviderKind::Slack);
    let account = platform.external();
    let sample = Sample {
        kind: "message",
        account: &account,
        app_id: Some(platform.app_id),
        conversation: "C0ELSE",
        text: "elsewhere",
        nonce: 900,
        now: Timestamp::from_secs(NOW),
    };
    let (body, _) = providers::of(ProviderKind::Slack).sample(&sample).unwrap();
    let signed = sign(ProviderKind::Slack, &body, platform.secret, bed.gateway.clock.now());
    assert_eq!(bed.gateway.send(&Request::post(&platform.path(), body).json().headers(signed)).await.status, 200);
    assert_eq!(bed.agent.next().await.json()["data"]["text"], "elsewhere", "another installation of the same agent does not wait");
    let shown = bed.own().await;
    is(&shown, "degraded", json!("credential_dead"));
    assert_eq!((&shown["parked"], &shown["since"]), (&json!(3), &json!("2026-09-21T14:15:00.000Z")), "{shown}");
    assert!(shown["advice"].as_str().unwrap().contains("new one"), "{shown}");
    let doctor = bed.gateway.operate("GET", "/v1/doctor", &Value::Null).await.json();
    let check = doctor["items"].as_array().unwrap().iter().find(|i| i["check"] == format!("installations/{id} status")).unwrap();
    assert_eq!((&check["ok"], &check["todo"]), (&json!(false), &shown["advice"]), "{check}");
    assert!(check["detail"].as_str().unwrap().contains("3 deliveries wait"), "{check}");
    assert_eq!(bed.refused("C0HELP").await, (502, "egress.credential_invalid".into()));
    assert_eq!(bed.audit("installation.degrade").await.len(), 1);

    bed.api.answers(200, json!({"ok": true, "ts": "1.3"}));
    assert_eq!(bed.declare(json!({"credential": {"value": credential(&bed.app, 2)}})).await.status, 200);
    for text in ["one", "two", "three"] {
        assert_eq!(bed.agent.next().await.json()["data"]["text"], text);
    }
    let shown = bed.own().await;
    is(&shown, "active", Value::Null);
    assert_eq!((&shown["parked"], &shown["epoch"]), (&json!(0), &json!(1)));
    assert_eq!(bed.say(&id, "C0HELP").await.0, 200);
    // An operator's halt parks as well, and says whose it is.
    assert_eq!(bed.declare(json!({"status": "degraded"})).await.status, 200);
    assert_eq!(bed.hear("C0HELP", "four").await, 200);
    let shown = bed.own().await;
    is(&shown, "degraded", json!("operator"));
    assert_eq!((&shown["parked"], bed.agent.unseen().is_none()), (&json!(1), true));
    assert_eq!(bed.declare(json!({"status": "active"})).await.status, 200);
    assert_eq!(bed.agent.next().await.json()["data"]["text"], "four");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_failure_of_an_old_credential_does_not_degrade_the_new_one() {
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let gate = std::sync::Arc::new(tokio::sync::Notify::new());
    let open = gate.clone();
    let slack = Scripted::start(move |_| {
        let (called, open) = (called.clone(), open.clone());
        Box::pin(async move {
            called.send(()).unwrap();
            open.notified().await;
            (200, json!({"ok": false, "error": "token_revoked"}))
        })
    })
    .await;
    let base = slack.api_base();
    let bed = Bed::start_with(world::acme(ProviderKind::Slack), 0, |c| c.providers.slack.api_base = base, |_| {}).await;
    let id = bed.app.profile.clone();
    let send = bed.say(&id, "C0HELP");
    let meanwhile = async {
        calls.recv().await.unwrap();
        assert_eq!(bed.declare(json!({"credential": {"value": credential(&bed.app, 2)}})).await.status, 200);
        gate.notify_one();
    };
    let (said, ()) = tokio::join!(send, meanwhile);
    assert_eq!(said, (502, "egress.credential_invalid".into()));
    is(&bed.own().await, "active", Value::Null);
    // Its own failure does.
    gate.notify_one();
    assert_eq!(bed.say(&id, "C0HELP").await, (502, "egress.credential_invalid".into()));
    is(&bed.own().await, "degraded", json!("credential_dead"));
}

fn member(update: u64, chat: &Value, old: &str, new: &str, date: i64) -> Value {
    let bot = json!({"id": 7_000_000_002_i64, "is_bot": true, "first_name": "Bot"});
    json!({"update_id": update, "my_chat_member": {"chat": chat, "from": {"id": 5100000001_i64, "is_bot": false, "first_name": "Ana"},
        "date": date, "old_chat_member": {"user": bot, "status": old}, "new_chat_member": {"user": bot, "status": new}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_person_who_blocks_the_bot_is_one_conversation() {
    let bed = Bed::start(ProviderKind::Telegram).await;
    let id = bed.app.profile.clone();
    let blocked = (403, "egress.recipient_blocked".to_owned());
    let person = json!({"id": 5100000001_i64, "first_name": "Ana", "type": "private"});
    assert_eq!(bed.event(&member(1, &person, "member", "kicked", NOW)).await, 200);
    assert_eq!(bed.refused("5100000001").await, blocked);
    assert_eq!(bed.say(&id, "5100000002").await.0, 200, "another person");
    let shown = bed.own().await;
    is(&shown, "active", Value::Null);
    assert_eq!(
        shown["unreachable"],
        json!([{"conversation": "5100000001", "state": "blocked", "moved_to": null, "since": "2026-09-21T14:15:00.000Z"}])
    );
    assert_eq!(bed.event(&member(1, &person, "member", "kicked", NOW)).await, 200);
    assert_eq!(bed.audit("conversation.block").await.len(), 1, "a repeat changes nothing");

    assert_eq!(bed.event(&member(2, &person, "kicked", "member", NOW + 5)).await, 200);
    assert_eq!(bed.say(&id, "5100000001").await.0, 200);
    // Older than what is known by now.
    assert_eq!(bed.event(&member(3, &person, "member", "kicked", NOW + 4)).await, 200);
    assert_eq!(bed.say(&id, "5100000001").await.0, 200);
    // Older than the install.
    assert_eq!(bed.event(&member(4, &json!({"id": 77, "type": "private"}), "member", "kicked", NOW - 9)).await, 200);
    assert_eq!(bed.say(&id, "77").await.0, 200);
    assert_eq!(bed.audit("lifecycle.stale").await.len(), 1);

    let group = json!({"id": -100, "title": "Ops", "type": "supergroup"});
    assert_eq!(bed.event(&member(5, &group, "member", "kicked", NOW)).await, 200);
    assert_eq!(bed.refused("-100").await, blocked);
    assert_eq!(bed.event(&member(6, &group, "left", "member", NOW + 1)).await, 200);
    assert_eq!(bed.say(&id, "-100").await.0, 200);
    assert_eq!(bed.own().await["unreachable"], json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chat_that_got_a_new_id_says_so_and_stays_its_orgs() {
    let bed = Bed::start(ProviderKind::Telegram).await;
    assert_eq!(bed.recorded("telegram/message_migrate_to_supergroup.json", &[]).await, 200);
    let (status, said) = bed.refused("-400000077").await;
    assert_eq!(status, 422);
    assert_eq!(said, "egress.conversation_moved: the conversation goes on as `-1002300000003`");
    assert_eq!(bed.say(&bed.app.profile, "-1002300000003").await.0, 200);

    // A shared bot: the chat that an org lists is the org's under its new id too.
    let mut app = world::platform(ProviderKind::Telegram);
    app.account = "7000000001";
    let listed = json!({"bot_id": "7000000001", "chats": ["-400000077"]});
    let bed = Bed::start_with(
        app,
        0,
        |_| {},
        |d| {
            d["installations"][0]["account"] = listed;
            d["installations"].as_array_mut().unwrap().push(json!({"id": "rest", "profile": "telegram-platform", "org": "globex",
            "account": {"bot_id": "7000000001"}}));
            d["bindings"]
                .as_array_mut()
                .unwrap()
                .push(json!({"id": "rest", "org": "globex", "installation": "rest", "agent": "globex-agent"}));
        },
    )
    .await;
    assert_eq!(bed.recorded("telegram/message_migrate_to_supergroup.json", &[]).await, 200);
    assert_eq!(bed.own().await["account"]["chats"], json!(["-1002300000003", "-400000077"]));
    assert_eq!(bed.hear("-1002300000003", "still ours").await, 200);
    let events = bed.gateway.operate("GET", "/v1/events", &Value::Null).await.json();
    assert_eq!(events["items"][0]["org"], "acme", "{events}");
}

fn account_update(app: &App, value: Value, time: i64) -> Value {
    json!({"object": "whatsapp_business_account", "entry": [{"id": app.waba, "time": time, "changes": [{"value": value, "field": "account_update"}]}]})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatsapp_accounts_are_warned_banned_reinstated_and_gone() {
    let bed = Bed::start_with(world::acme(ProviderKind::WhatsApp), 0, |_| {}, |d| {
        d["installations"].as_array_mut().unwrap().push(json!({"id": "sister", "profile": "whatsapp-acme", "org": "acme",
            "account": {"waba_id": "109000000000002", "phone_number_id": "118000000000022"}, "credential": {"value": "EAAcanary9876543210"}}));
    })
    .await;
    let ban = |state: &str| json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": state}});
    let update = async |value: Value, time: i64| bed.event(&account_update(&bed.app, value, time)).await;
    assert_eq!(update(ban("SCHEDULE_FOR_DISABLE"), NOW + 1).await, 200);
    is(&bed.own().await, "degraded", json!("ban_scheduled"));
    assert_eq!(bed.refused("15550001").await, (403, "egress.account_restricted".into()));
    // A new credential is not what it waits for.
    assert_eq!(bed.declare(json!({"credential": {"value": credential(&bed.app, 2)}})).await.status, 200);
    is(&bed.own().await, "degraded", json!("ban_scheduled"));
    assert_eq!(update(ban("DISABLE"), NOW + 2).await, 200);
    is(&bed.own().await, "suspended", json!("banned"));
    is(&bed.shown("sister").await, "suspended", json!("banned"));
    assert_eq!(bed.refused("15550001").await, (403, "installation.inactive".into()));
    assert_eq!(update(ban("REINSTATE"), NOW + 3).await, 200);
    for id in ["whatsapp-acme", "sister"] {
        is(&bed.shown(id).await, "active", Value::Null);
    }
    assert_eq!(bed.say("whatsapp-acme", "15550001").await.0, 200);
    assert_eq!(update(json!({"event": "ACCOUNT_RESTRICTION", "restriction_info": []}), NOW + 4).await, 200);
    let shown = bed.own().await;
    is(&shown, "degraded", json!("restricted"));
    assert!(shown["advice"].as_str().unwrap().contains("set the status to active"), "{shown}");
    assert_eq!(bed.declare(json!({"status": "active"})).await.status, 200);
    is(&bed.own().await, "active", Value::Null);
    // What an operator suspended no news of the provider's lifts.
    assert_eq!(bed.declare(json!({"status": "suspended"})).await.status, 200);
    assert_eq!(update(ban("REINSTATE"), NOW + 5).await, 200);
    is(&bed.own().await, "suspended", json!("operator"));
    assert_eq!(update(json!({"event": "PARTNER_REMOVED"}), NOW - 60).await, 200);
    is(&bed.own().await, "suspended", json!("operator"));
    assert_eq!(update(json!({"event": "PARTNER_REMOVED"}), NOW + 6).await, 200);
    for id in ["whatsapp-acme", "sister"] {
        is(&bed.shown(id).await, "revoked", json!("uninstalled"));
    }
    is(&bed.shown("whatsapp-platform").await, "active", Value::Null);
    assert_eq!(bed.refused("15550001").await, (403, "credentials.revoked".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_that_leaves_an_org_wide_install_ends_its_own_installation_only() {
    let bed = Bed::start_with(world::acme(ProviderKind::Slack), 0, |_| {}, |d| {
        let all = d["installations"].as_array_mut().unwrap();
        for (id, account) in [
            ("grid", json!({"enterprise_id": "E00GRID"})),
            ("ws1", json!({"team_id": "T00WS1", "enterprise_id": "E00GRID"})),
            ("ws2", json!({"team_id": "T00WS2", "enterprise_id": "E00GRID"})),
            ("other", json!({"team_id": "T00WS3", "enterprise_id": "E00OTHER"})),
        ] {
            all.push(json!({"id": id, "profile": "slack-acme", "org": "acme", "account": account, "credential": {"value": format!("xoxb-canary-{id}-1")}}));
        }
    })
    .await;
    let news = async |id: &str, word: &str, teams: Value| {
        bed.event(
            &json!({"enterprise_id": "E00GRID", "api_app_id": bed.app.app_id, "type": "event_callback", "event_id": id, "event_time": NOW,
            "event": {"type": word, "team_ids": teams}}),
        )
        .await
    };
    assert_eq!(news("Ev1", "team_access_revoked", json!(["T00WS1", "T00WS3", "T00ACMEOWN1"])).await, 200);
    is(&bed.shown("ws1").await, "revoked", json!("workspace_removed"));
    is(&bed.shown("grid").await, "active", Value::Null);
    for id in ["ws2", "other"] {
        is(&bed.shown(id).await, "active", Value::Null);
    }
    let gone: Vec<String> =
        bed.shown("grid").await["unreachable"].as_array().unwrap().iter().map(|p| p["conversation"].as_str().unwrap().to_owned()).collect();
    assert_eq!(gone, ["team:T00ACMEOWN1", "team:T00WS1", "team:T00WS3"]);
    assert_eq!(news("Ev2", "team_access_granted", json!(["T00WS1", "T00WS3", "T00ACMEOWN1"])).await, 200);
    assert_eq!(bed.shown("grid").await["unreachable"], json!([]));
    is(&bed.shown("ws1").await, "revoked", json!("workspace_removed"));
    assert_eq!(news("Ev3", "app_uninstalled", Value::Null).await, 200);
    is(&bed.shown("grid").await, "revoked", json!("uninstalled"));
    is(&bed.shown("ws2").await, "active", Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_suspended_orgs_events_is_kept_and_it_sends_nothing() {
    for provider in ProviderKind::ALL {
        let bed = Bed::start(provider).await;
        bed.gateway.applied(&json!({"orgs": [{"id": "acme", "name": "Acme Inc", "suspended": true}]})).await;
        let before = bed.gateway.kept.counts().await;
        assert_eq!(bed.hear("5100000001", "palimpsest").await, 200);
        let after = bed.gateway.kept.counts().await;
        let grown = super::support::gateway::delta(&before, &after);
        assert_eq!((grown.get("events"), grown.get("deliveries"), grown["refusals"], grown["audit"]), (None, None, 1, 1), "{grown:?}");
        let refusals = bed.gateway.kept.rows("SELECT * FROM refusals").await;
        assert_eq!((&refusals[0]["code"], &refusals[0]["excerpt"]), (&json!("org.suspended"), &Value::Null));
        let conversation = if provider == ProviderKind::Slack { "C0HELP" } else { "5100000001" };
        assert_eq!(bed.refused(conversation).await, (403, "org.suspended".into()));
        let kept = bed.gateway.drain().await;
        for entry in std::fs::read_dir(kept.folder().join("data")).unwrap().filter_map(Result::ok).filter(|e| e.path().is_file()) {
            let bytes = std::fs::read(entry.path()).unwrap();
            assert!(!bytes.windows(10).any(|w| w == b"palimpsest"), "{}", entry.path().display());
        }
        assert!(bed.agent.unseen().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_can_revoke_and_what_he_revoked_is_as_gone() {
    let bed = Bed::start_with(world::acme(ProviderKind::Slack), 0, |_| {}, |_| {}).await;
    assert_eq!(bed.hear("C0HELP", "one").await, 200);
    assert_eq!(bed.declare(json!({"status": "revoked"})).await.status, 200);
    is(&bed.own().await, "revoked", json!("operator"));
    assert_eq!((bed.secrets().await, bed.gateway.metrics().await["byoa_queue_depth"]), (0, 0.0));
    assert_eq!(bed.deliveries().await, [("dead".into(), json!("delivery.installation_revoked"))]);
    assert_eq!(bed.refused("C0HELP").await, (403, "credentials.revoked".into()));
    assert_eq!(bed.declare(json!({"status": "active"})).await.status, 422);
}
