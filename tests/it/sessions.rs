//! Sessions over time, dedupe over time, and old addresses.

use byoa_gateway::config::Config;
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::ids::{AgentId, OrgId, SessionId};
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use byoa_gateway::store::ImportedSession;
use serde_json::{Value, json};

use super::support::gateway::TestGateway;
use super::support::raw::Request;
use super::support::sign;
use super::support::world::{self, App};

pub const NOW: i64 = 1_790_000_100;
pub const HOUR: i64 = 3_600_000;

pub struct Talk {
    pub gateway: TestGateway,
    pub app: App,
}

impl Talk {
    pub async fn start(provider: ProviderKind, tweak: impl FnOnce(&mut Value)) -> Self {
        Self::start_with(provider, |_| {}, tweak).await
    }

    pub async fn start_with(provider: ProviderKind, config: impl FnOnce(&mut Config), tweak: impl FnOnce(&mut Value)) -> Self {
        let gateway = TestGateway::start_with(NOW, config).await;
        let mut document = world::document(provider);
        tweak(&mut document);
        gateway.applied(&document).await;
        Self { gateway, app: world::acme(provider) }
    }

    /// A message as of the gateway's clock, with what `edit` makes of it; the same nonce is the same event.
    pub async fn hear(&self, path: &str, nonce: u64, edit: impl FnOnce(String) -> String) -> u16 {
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

    pub async fn sessions(&self) -> Vec<Value> {
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

/// One deed of an operator on a session.
async fn end(talk: &Talk, session: &Value, deed: &str, body: &Value) -> (u16, Value) {
    let answer = talk.gateway.operate("POST", &format!("/v1/sessions/{}/{deed}", session.as_str().unwrap()), body).await;
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_closes_a_session_and_the_next_event_opens_its_successor() {
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    let path = talk.app.path();
    let hear = async |nonce| assert_eq!(talk.hear(&path, nonce, |body| body).await, 200);
    hear(1).await;
    hear(2).await;
    let first = talk.sessions().await[0]["id"].clone();
    let (status, closed) = end(&talk, &first, "close", &Value::Null).await;
    assert_eq!((status, &closed["status"], &closed["ended_by"]), (200, &json!("closed"), &json!("operator")), "{closed}");
    assert!(closed["ended_at"].is_string() && closed["successor"].is_null(), "{closed}");
    assert_eq!(end(&talk, &first, "close", &Value::Null).await.1["code"], "admin.session_ended");
    assert_eq!(end(&talk, &json!("ses_01"), "close", &Value::Null).await.0, 404);
    assert_eq!(end(&talk, &json!("nonsense"), "close", &Value::Null).await.0, 404);
    hear(3).await;
    hear(4).await;
    let all = talk.sessions().await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert_eq!((&all[0]["successor"], &all[1]["predecessor"], &all[1]["status"]), (&all[1]["id"], &all[0]["id"], &json!("active")));
    let audit = talk.gateway.operate("GET", &format!("/v1/audit?id={}", first.as_str().unwrap()), &Value::Null).await.json();
    let line = &audit["items"][0];
    assert_eq!((&line["action"], &line["actor"], &line["org"]), (&json!("session.close"), &json!("operator:security-1"), &json!("acme")));
    assert!(line["policies"].as_array().is_some_and(|p| !p.is_empty()), "a policy permitted it: {line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_handed_to_another_agent_until_that_one_is_closed() {
    let provider = super::support::fakes::FakeProvider::start().await;
    provider.answers(200, json!({"ok": true, "ts": "1.2"}));
    let api_base = provider.api_base();
    let agent = |id: &str, org: &str| {
        json!({"id": id, "org": org, "endpoint": "http://127.0.0.1:9/events", "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
            "token": {"value": format!("agt_{id}_3kd9slw02mfj47")}})
    };
    let talk = Talk::start_with(
        ProviderKind::Slack,
        |config| config.providers.slack.api_base = api_base,
        |document| {
            document["agents"].as_array_mut().unwrap().extend([agent("people", "acme"), agent("others", "acme")]);
            document["installations"][1]["credential"] = json!({"value": "xoxb-111111111111-abcdefabcdef"});
        },
    )
    .await;
    let path = talk.app.path();
    let hear = async |nonce| assert_eq!(talk.hear(&path, nonce, |body| body).await, 200);
    let say = async |agent: &str, key: &str, body: Value| {
        let request = Request::post("/v1/messages", serde_json::to_vec(&body).unwrap())
            .json()
            .header("authorization", format!("Bearer agt_{agent}_3kd9slw02mfj47"))
            .header("idempotency-key", key);
        talk.gateway.send(&request).await
    };
    hear(1).await;
    let first = talk.sessions().await[0]["id"].clone();
    assert_eq!(end(&talk, &first, "handoff", &json!({"agent": "globex-agent"})).await.1["code"], "admin.reference_unknown");
    assert_eq!(end(&talk, &first, "handoff", &json!({"agent": "acme-agent"})).await.1["code"], "admin.resource_invalid", "its own");
    assert_eq!(end(&talk, &first, "handoff", &json!({})).await.1["code"], "admin.resource_invalid");
    let (status, handed) = end(&talk, &first, "handoff", &json!({"agent": "people"})).await;
    assert_eq!((status, &handed["status"]), (200, &json!("handed_off")), "{handed}");
    hear(2).await;
    hear(3).await;
    let all = talk.sessions().await;
    assert_eq!((all.len(), &all[1]["agent"], &all[1]["predecessor"]), (2, &json!("people"), &first), "{all:?}");
    assert_eq!(all[0]["successor"], all[1]["id"]);
    let decisions = talk.gateway.operate("GET", "/v1/decisions", &Value::Null).await.json();
    assert!(decisions["items"][0]["resource"].as_str().unwrap().contains("people"), "the law was asked about that agent");

    // It answers where it was put, and nowhere else through that installation.
    let answer = say("people", "k1", json!({"session": all[1]["id"], "text": "a person here"})).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    provider.next().await;
    let elsewhere = say("people", "k2", json!({"session": all[1]["id"], "conversation": "C0ELSEWHERE", "text": "hi"})).await;
    assert_eq!(elsewhere.json()["code"], "policy.no_permit");
    assert_eq!(say("others", "k3", json!({"session": all[1]["id"], "text": "hi"})).await.status, 404, "not theirs");
    assert_eq!(talk.gateway.operate("DELETE", "/v1/agents/people", &Value::Null).await.json()["code"], "admin.in_use");

    // Handed on, handed back, and closed: then the binding decides again.
    assert_eq!(end(&talk, &all[1]["id"], "handoff", &json!({"agent": "others"})).await.0, 200);
    hear(4).await;
    let third = talk.sessions().await[2].clone();
    assert_eq!(third["agent"], "others");
    assert_eq!(end(&talk, &third["id"], "handoff", &json!({"agent": "acme-agent"})).await.0, 200);
    assert_eq!(talk.gateway.kept.rows("SELECT * FROM handed").await, Vec::<Value>::new(), "back where it began");
    hear(5).await;
    let fourth = talk.sessions().await[3].clone();
    assert_eq!((&fourth["agent"], &fourth["predecessor"]), (&json!("acme-agent"), &third["id"]));
    assert_eq!(end(&talk, &fourth["id"], "handoff", &json!({"agent": "people"})).await.0, 200);
    hear(6).await;
    let fifth = talk.sessions().await[4].clone();
    assert_eq!(end(&talk, &fifth["id"], "close", &Value::Null).await.0, 200);
    hear(7).await;
    let all = talk.sessions().await;
    assert_eq!((all.len(), &all[5]["agent"]), (6, &json!("acme-agent")), "{all:?}");
    assert_eq!(talk.gateway.operate("DELETE", "/v1/agents/people", &Value::Null).await.status, 204);
}

/// Who the samples are from.
const CONTACT: &str = "U00SIMULATED";

/// A session of acme's agent with a contact, as an earlier system kept it.
fn imported(talk: &Talk, contact: &str) -> ImportedSession {
    let now = talk.gateway.clock.now();
    ImportedSession {
        id: SessionId::fresh(now),
        org: OrgId::parse("acme").unwrap(),
        provider: ProviderKind::Slack,
        agent: AgentId::parse("acme-agent").unwrap(),
        contact: contact.into(),
        conversation: None,
        thread: None,
        created: now,
        last: now,
    }
}

async fn import(talk: &Talk, session: ImportedSession) {
    let line = super::behaviour::session::imported(&session);
    assert_eq!(talk.gateway.store().import_sessions(vec![(session, line)]).await.unwrap(), [true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_session_is_promoted_only_where_nothing_is_guessed() {
    for (what, imports, sessions) in [
        ("the only one", &[(CONTACT, None, 0_i64)][..], 1),
        ("in this conversation", &[(CONTACT, Some("C0HELP"), 0)], 1),
        ("in another conversation", &[(CONTACT, Some("C0OTHER"), 0)], 2),
        ("somebody else's", &[("U0OTHER", None, 0)], 2),
        ("one of two", &[(CONTACT, None, 0), (CONTACT, None, 0)], 3),
    ] {
        let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
        for (contact, conversation, hours_ago) in imports {
            let last = talk.gateway.clock.now().plus_ms(-hours_ago * HOUR);
            let conversation = conversation.map(str::to_owned);
            import(&talk, ImportedSession { conversation, created: last, last, ..imported(&talk, contact) }).await;
        }
        let path = talk.app.path();
        assert_eq!((talk.hear(&path, 1, |b| b).await, talk.hear(&path, 2, |b| b).await), (200, 200));
        let all = talk.sessions().await;
        let routed = all.iter().filter(|s| s["key"] == "acme/slack/slack-acme/acme-agent/C0HELP//").count();
        assert_eq!((all.len(), routed), (sessions, 1), "{what}: {all:?}");
        let promoted = talk.gateway.kept.rows("SELECT target FROM audit WHERE action = 'session.promote'").await;
        assert_eq!(promoted.len(), usize::from(sessions == 1), "{what}: {promoted:?}");
        let news = talk.gateway.kept.rows("SELECT json_extract(meta_json, '$.session_new') AS new FROM events ORDER BY seq").await;
        assert_eq!(news, [json!({"new": i64::from(sessions > 1)}), json!({"new": 0})], "{what}");
    }
    // One that had been silent for too long is over, and the new one follows it.
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    let last = talk.gateway.clock.now().plus_ms(-25 * HOUR);
    import(&talk, ImportedSession { created: last, last, ..imported(&talk, CONTACT) }).await;
    assert_eq!(talk.hear(&talk.app.path(), 1, |b| b).await, 200);
    let all = talk.sessions().await;
    assert_eq!((all.len(), &all[0]["status"], &all[1]["predecessor"]), (2, &json!("closed"), &all[0]["id"]), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_session_of_another_provider_or_thread_or_beside_another_session_stays_as_it_is() {
    let promoted = async |talk: &Talk| talk.gateway.kept.rows("SELECT 1 FROM audit WHERE action = 'session.promote'").await.len();
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    import(&talk, ImportedSession { provider: ProviderKind::Telegram, ..imported(&talk, CONTACT) }).await;
    assert_eq!((talk.hear(&talk.app.path(), 1, |b| b).await, promoted(&talk).await), (200, 0), "another provider");

    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    import(&talk, ImportedSession { thread: Some("1.2".into()), ..imported(&talk, CONTACT) }).await;
    assert_eq!((talk.hear(&talk.app.path(), 1, |b| b).await, promoted(&talk).await), (200, 0), "another thread");

    let talk = Talk::start(ProviderKind::Slack, |document| document["bindings"][1]["session"] = json!("peer")).await;
    assert_eq!(talk.hear(&talk.app.path(), 1, |body| body.replace("C0HELP", "C0OTHER")).await, 200);
    import(&talk, imported(&talk, CONTACT)).await;
    assert_eq!((talk.hear(&talk.app.path(), 2, |b| b).await, promoted(&talk).await), (200, 0), "a session with the contact elsewhere");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_stays_its_orgs_when_another_org_takes_the_agents_name() {
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    assert_eq!(talk.hear(&talk.app.path(), 1, |body| body).await, 200);
    let session = talk.sessions().await[0]["id"].clone();
    let send = Request::post("/v1/messages", json!({"session": session, "text": "hi"}).to_string())
        .json()
        .header("authorization", "Bearer agt_acme_3kd9slw02mfj47")
        .header("idempotency-key", "k1");
    // Answered for acme, whatever it is.
    assert_eq!(talk.gateway.send(&send).await.json()["code"], "credentials.absent");
    for path in ["bindings/slack-acme", "bindings/slack-platform", "agents/acme-agent"] {
        let removed = talk.gateway.operate("DELETE", &format!("/v1/{path}"), &Value::Null).await;
        assert_eq!(removed.status, 204, "{path}: {}", removed.text());
    }
    let mut agent = world::document(ProviderKind::Slack)["agents"][0].clone();
    agent["org"] = json!("globex");
    talk.gateway.applied(&json!({"agents": [agent]})).await;
    // The same key and body, and another org's agent by now.
    let answer = talk.gateway.send(&send).await;
    assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("egress.not_found")), "{}", answer.text());
    let alarms = talk
        .gateway
        .kept
        .rows("SELECT json_extract(detail_json, '$.named') AS named FROM audit WHERE action = 'message.send' AND code = 'egress.not_found'")
        .await;
    assert_eq!(alarms, [json!({"named": format!("sessions/{}", session.as_str().unwrap())})], "nothing of it was read");
}
