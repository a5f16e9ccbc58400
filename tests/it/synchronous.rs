//! What of an agent's answer a provider ever gets: of two kinds, asked for, permitted, of their form and in time. Everything
//! else is an empty answer. And the addresses that events carry for replies: the gateway's, and good for what they are for.

use byoa_gateway::config::Config;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response};
use super::support::world::{self, App};
use super::support::{copy, here, sign};

const NOW: i64 = 1_790_000_100;
const FORM: &str = "application/x-www-form-urlencoded";
const AGENT_SECRET: &str = "5f0e1d2c3b4a59687f8e9dacbb0c1d2e";
const CLEAR: &str = r#"{"response_action":"clear"}"#;

struct Bed {
    app: App,
    gateway: TestGateway,
    agent: FakeAgent,
    endpoint: String,
    nonce: u32,
}

impl Bed {
    async fn new(provider: ProviderKind, tweak: impl FnOnce(&mut Config)) -> Self {
        let agent = FakeAgent::start().await;
        let gateway = TestGateway::start_with(NOW, |config| {
            config.delivery.concurrency = 4;
            // Nothing here is late on its own.
            config.limits.synchronous_ms = 100_000;
            tweak(config);
        })
        .await;
        let bed = Self { app: world::acme(provider), gateway, endpoint: agent.endpoint(), agent, nonce: 0 };
        bed.declare(json!(["view_submission", "block_suggestion"])).await;
        bed
    }

    /// The agent answers these kinds itself.
    async fn declare(&self, synchronous: Value) {
        let mut document = world::document(self.app.provider);
        let agent = &mut document["agents"][0];
        agent["endpoint"] = json!(self.endpoint);
        agent["format"] = json!("native");
        agent["synchronous"] = synchronous;
        agent["signing_secret"] = json!({"value": AGENT_SECRET});
        self.gateway.applied(&document).await;
    }

    async fn post(&self, body: impl Into<Vec<u8>>, media_type: &str) -> Response {
        let body = body.into();
        let signed = sign(self.app.provider, &body, self.app.secret, self.gateway.clock.now());
        self.gateway.send(&Request::post(&self.app.path(), body).header("content-type", media_type).headers(signed)).await
    }

    /// An interaction of a kind, with more fields; each in a session of its own.
    fn interaction(&mut self, kind: &str, more: &Value) -> String {
        self.nonce += 1;
        let mut payload = json!({"type": kind, "team": {"id": self.app.account}, "user": {"id": "U1"}, "api_app_id": self.app.app_id,
            "trigger_id": format!("{}.1", self.nonce), "container": {"channel_id": format!("C{}", self.nonce)}});
        payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload.to_string()).finish()
    }

    /// What Slack is told of an interaction that the agent answers so.
    async fn told(&mut self, kind: &str, status: u16, answer: &Value) -> Response {
        self.agent.answers(status, answer.clone());
        let form = self.interaction(kind, &json!({}));
        let told = self.post(form, FORM).await;
        assert_eq!(told.status, 200);
        // The agent got it either way.
        assert_eq!(self.agent.next().await.headers["content-type"], FORM);
        told
    }

    async fn results(&self) -> Vec<String> {
        let rows = self.gateway.kept.rows("SELECT detail_json FROM audit WHERE action = 'interaction.answer' ORDER BY seq").await;
        let result = |row: &Value| {
            serde_json::from_str::<Value>(row["detail_json"].as_str().unwrap()).unwrap()["result"].as_str().unwrap().to_owned()
        };
        rows.iter().map(result).collect()
    }
}

fn empty(told: &Response) {
    assert_eq!((told.status, told.text().as_str(), told.header("content-type")), (200, "", None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_the_kind_s_form_is_passed_on_and_nothing_else_is() {
    let mut bed = Bed::new(ProviderKind::Slack, |_| {}).await;
    let clear = json!({"response_action": "clear"});
    let options = json!({"options": [{"text": {"type": "plain_text", "text": "One"}, "value": "1"}]});
    for (kind, answer) in [("view_submission", &clear), ("block_suggestion", &options)] {
        let told = bed.told(kind, 200, answer).await;
        assert_eq!((told.json(), told.header("content-type")), (answer.clone(), Some("application/json")));
    }
    for (kind, status, answer) in [
        // The other kind's form, no form at all, a form and more, too large.
        ("view_submission", 200, options.clone()),
        ("block_suggestion", 200, clear.clone()),
        ("view_submission", 200, json!({"text": "hello"})),
        ("view_submission", 200, json!({"response_action": "clear", "text": "hello"})),
        ("view_submission", 200, json!({"response_action": "update", "view": {"type": "modal", "x": "y".repeat(40_000)}})),
        // The agent did not take it.
        ("view_submission", 500, clear.clone()),
        ("block_suggestion", 404, options.clone()),
        // Kinds whose answer is nobody's but the gateway's.
        ("block_actions", 200, clear.clone()),
        ("view_closed", 200, clear.clone()),
        ("shortcut", 200, options.clone()),
    ] {
        empty(&bed.told(kind, status, &answer).await);
    }
    assert_eq!(bed.results().await, ["relayed", "relayed", "unfit", "unfit", "unfit", "unfit", "unfit", "failed", "failed"]);
    let metrics = bed.gateway.metrics().await;
    assert_eq!(metrics[r#"byoa_synchronous_answers_total{kind="view_submission",outcome="unfit"}"#], 4.0);
    assert_eq!(metrics[r#"byoa_synchronous_answers_total{kind="block_suggestion",outcome="relayed"}"#], 1.0);
    // The question and its answer stand with the event.
    let events = bed.gateway.operate("GET", "/v1/events", &Value::Null).await.json();
    let id = events["items"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    let journey = bed.gateway.operate("GET", &format!("/v1/events/{id}"), &Value::Null).await.text();
    assert!(journey.contains("AnswerInteraction") && journey.contains("answer.byoa"), "{journey}");
    bed.gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_and_events_are_never_answered_by_an_agent() {
    let mut bed = Bed::new(ProviderKind::Slack, |_| {}).await;
    bed.agent.answers(200, json!({"text": "in the channel", "response_action": "clear"}));
    let command = format!("command=%2Fask&text=x&team_id={}&api_app_id={}&channel_id=C1&trigger_id=9.9", bed.app.account, bed.app.app_id);
    empty(&bed.post(command, FORM).await);
    bed.agent.next().await;
    // A callback that calls itself a submission is a callback.
    let event = json!({"type": "event_callback", "team_id": bed.app.account, "api_app_id": bed.app.app_id, "event_id": "Ev1",
        "event": {"type": "view_submission"}});
    empty(&bed.post(event.to_string(), "application/json").await);
    bed.agent.next().await;
    assert!(bed.results().await.is_empty());
    // A repeat waits for nothing: its one delivery was the first one's.
    bed.agent.answers(200, serde_json::from_str(CLEAR).unwrap());
    let form = bed.interaction("view_submission", &json!({}));
    assert_eq!(bed.post(form.clone(), FORM).await.text(), CLEAR);
    empty(&bed.post(form, FORM).await);
    bed.gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_agents_that_say_so_answer() {
    let mut bed = Bed::new(ProviderKind::Slack, |_| {}).await;
    let clear: Value = serde_json::from_str(CLEAR).unwrap();
    for (enabled, answered) in [(json!([]), false), (json!(["block_suggestion"]), false), (json!(["view_submission"]), true)] {
        bed.declare(enabled).await;
        let told = bed.told("view_submission", 200, &clear).await;
        assert_eq!(told.text() == CLEAR, answered);
        assert_eq!(told.text().is_empty(), !answered);
    }
    let unknown = json!({"agents": [{"id": "acme-agent", "org": "acme", "endpoint": bed.endpoint, "synchronous": ["message"]}]});
    assert_eq!(bed.gateway.apply(&unknown).await.status, 422);
    bed.gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_the_policies_permit_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    copy(&here("policies"), &policies);
    let forbid = "@id(\"org.acme.no-answers\")\n@reason(\"Agents answer nobody who waits\")\n@code(\"policy.forbidden\")\nforbid (principal in \
                  Byoa::Org::\"acme\", action == Byoa::Action::\"AnswerInteraction\", resource);\n";
    std::fs::create_dir_all(policies.join("orgs/acme")).unwrap();
    std::fs::write(policies.join("orgs/acme/answers.cedar"), forbid).unwrap();
    let mut bed = Bed::new(ProviderKind::Slack, |config| config.policies.dir = policies).await;
    empty(&bed.told("view_submission", 200, &serde_json::from_str(CLEAR).unwrap()).await);
    assert!(bed.results().await.is_empty(), "nobody waited");
    assert_eq!(bed.gateway.metrics().await[r#"byoa_synchronous_answers_total{kind="view_submission",outcome="forbidden"}"#], 1.0);
    bed.gateway.drain().await;
}

/// An agent that answers when it is told to: by then the provider has its empty answer. The delivery goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_answer_is_nobody_s() {
    let mut bed = Bed::new(ProviderKind::Slack, |config| config.limits.synchronous_ms = 50).await;
    let slow = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bed.endpoint = format!("http://{}/events", slow.local_addr().unwrap());
    bed.declare(json!(["view_submission"])).await;
    let form = bed.interaction("view_submission", &json!({}));
    empty(&bed.post(form, FORM).await);
    assert_eq!(bed.results().await, ["late"]);
    let (mut socket, _) = slow.accept().await.unwrap();
    let mut read = [0; 16 * 1024];
    assert!(socket.read(&mut read).await.unwrap() > 0);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{CLEAR}", CLEAR.len());
    socket.write_all(answer.as_bytes()).await.unwrap();
    let kept = bed.gateway.drain().await;
    assert_eq!(kept.rows("SELECT status FROM attempts").await, [json!({"status": 200})]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_providers_are_never_answered_by_an_agent() {
    for provider in [ProviderKind::Telegram, ProviderKind::WhatsApp] {
        let bed = Bed::new(provider, |_| {}).await;
        bed.agent.answers(200, json!({"method": "sendMessage", "chat_id": 1, "text": "hello", "response_action": "clear"}));
        for (nonce, kind) in (1..).zip(providers::of(provider).sample_kinds()) {
            let account = bed.app.external();
            let (app_id, conversation) = (Some(bed.app.app_id), "5100000001");
            let sample =
                Sample { kind, account: &account, app_id, conversation, text: "view_submission", nonce, now: bed.gateway.clock.now() };
            let (body, media_type) = providers::of(provider).sample(&sample).unwrap();
            empty(&bed.post(body, media_type).await);
        }
        bed.agent.next().await;
        assert!(bed.results().await.is_empty());
        bed.gateway.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_s_secret_must_be_one_that_the_provider_could_have_given() {
    let gateway = TestGateway::start(NOW).await;
    let mut document = world::document(ProviderKind::Telegram);
    document["agents"][0]["format"] = json!("native");
    document["agents"][0]["signing_secret"] = json!({"value": "no/secret.of+Telegram's"});
    let answer = gateway.apply(&document).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("acme-agent") && answer.text().contains("telegram"), "{}", answer.text());
    document["agents"][0]["signing_secret"] = json!({"value": AGENT_SECRET});
    gateway.applied(&document).await;
    gateway.drain().await;
}

/// The ticket in an event of the agent's.
fn ticket(event: &Bytes) -> String {
    let payload = form_urlencoded::parse(event).find(|(name, _)| name == "payload").unwrap().1.into_owned();
    let payload: Value = serde_json::from_str(&payload).unwrap();
    payload["response_url"].as_str().unwrap().strip_prefix("https://gw.example").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_to_reply_at_is_good_for_five_replies_and_half_an_hour() {
    let slack = FakeProvider::start().await;
    slack.answers(200, json!({"ok": true}));
    let mut bed = Bed::new(ProviderKind::Slack, |config| {
        config.public_url = Some("https://gw.example".into());
        config.providers.slack.api_base = slack.api_base();
    })
    .await;
    let with = |url: String| json!({"response_url": url, "channel": {"id": "C00HELPDESK"}});
    let hook = |n: u32| with(format!("{}actions/canary{n}", slack.api_base()));
    let reply = |to: &str, text: &str| Request::post(to, json!({"text": text}).to_string()).json();

    let form = bed.interaction("block_actions", &hook(1));
    empty(&bed.post(form, FORM).await);
    let event = bed.agent.next().await.body;
    assert!(!String::from_utf8_lossy(&event).contains("canary"), "Slack's own address stays here");
    let to = ticket(&event);
    // Nothing leaves without a body that Slack would take, and such a use does not come back.
    assert_eq!(bed.gateway.send(&Request::post(&to, "text").json()).await.status, 422);
    // Our trouble and Slack's give the use back.
    slack.answers(500, json!({}));
    assert_eq!(bed.gateway.send(&reply(&to, "later")).await.status, 502);
    assert_eq!(slack.next().await.path, "/actions/canary1");
    slack.answers(200, json!({"ok": true}));
    for n in 0..4 {
        let answer = bed.gateway.send(&reply(&to, "same words")).await;
        assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("sent")), "{n}");
        let posted = slack.next().await;
        assert_eq!((posted.path.as_str(), posted.json()), ("/actions/canary1", json!({"text": "same words"})));
        assert!(!posted.headers.contains_key("authorization"), "no token goes along");
    }
    assert_eq!(bed.gateway.send(&reply(&to, "once more")).await.json()["code"], "egress.not_found");
    let mut sends = bed.gateway.listed("sends", &["state", "conversation"]).await;
    sends.retain(|send| send["state"] == "sent");
    assert_eq!(sends, vec![json!({"state": "sent", "conversation": "C00HELPDESK"}); 4]);
    let audit = bed.gateway.kept.rows("SELECT actor FROM audit WHERE action = 'message.send' AND outcome = 'done'").await;
    assert_eq!(audit, vec![json!({"actor": "agent:acme-agent"}); 4]);

    // An address that is not Slack's is not posted to, whoever put it there.
    let form = bed.interaction("block_actions", &with("http://127.0.0.1:9/elsewhere".into()));
    empty(&bed.post(form, FORM).await);
    let elsewhere = ticket(&bed.agent.next().await.body);
    assert_eq!(bed.gateway.send(&reply(&elsewhere, "x")).await.status, 422);

    let form = bed.interaction("block_actions", &hook(2));
    empty(&bed.post(form, FORM).await);
    let to = ticket(&bed.agent.next().await.body);
    // One letter of it changed.
    let mut other = to.clone();
    let last = if other.pop() == Some('A') { 'E' } else { 'A' };
    other.push(last);
    assert_eq!(bed.gateway.send(&reply(&other, "x")).await.status, 404);
    assert_eq!(bed.gateway.send(&reply("/sdk/slack/respond/evt_1", "x")).await.status, 404);
    bed.gateway.clock.advance_ms(30 * 60_000);
    assert_eq!(bed.gateway.send(&reply(&to, "just in time")).await.status, 200);
    slack.next().await;
    bed.gateway.clock.advance_ms(1);
    assert_eq!(bed.gateway.send(&reply(&to, "too late")).await.status, 404);
    assert!(slack.unseen().is_none());
    bed.gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_is_a_message_to_the_policies() {
    let slack = FakeProvider::start().await;
    let mut bed = Bed::new(ProviderKind::Slack, |config| {
        config.public_url = Some("https://gw.example".into());
        config.providers.slack.api_base = slack.api_base();
    })
    .await;
    let form = bed.interaction("block_actions", &json!({"response_url": format!("{}actions/canary", slack.api_base())}));
    empty(&bed.post(form, FORM).await);
    let to = ticket(&bed.agent.next().await.body);
    bed.gateway.damage("UPDATE flags SET stage = 'off' WHERE name = 'slack'").await;
    let early = bed.gateway.send(&Request::post(&to, "{}").json()).await;
    assert_eq!((early.status, early.json()["code"].as_str()), (503, Some("rollout.stage_off")), "{}", early.text());
    bed.gateway.damage("UPDATE flags SET stage = 'on' WHERE name = 'slack'").await;
    bed.gateway.applied(&json!({"orgs": [{"id": "acme", "name": "Acme Inc", "suspended": true}]})).await;
    let answer = bed.gateway.send(&Request::post(&to, "{}").json()).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("org.suspended")), "{}", answer.text());
    let refused = bed.gateway.kept.rows("SELECT code FROM audit WHERE action = 'message.send' AND outcome = 'refused'").await;
    assert_eq!(refused, [json!({"code": "rollout.stage_off"}), json!({"code": "org.suspended"})]);
    assert!(slack.unseen().is_none());
    // Without an address of its own the gateway gives none out.
    bed.gateway.drain().await;
    let mut bed = Bed::new(ProviderKind::Slack, |_| {}).await;
    let form = bed.interaction("block_actions", &json!({"response_url": "https://hooks.slack.com/canary"}));
    empty(&bed.post(form.clone(), FORM).await);
    let withheld = form.replace("https%3A%2F%2Fhooks.slack.com%2Fcanary", "%5Bwithheld%5D");
    assert_eq!(String::from_utf8_lossy(&bed.agent.next().await.body), withheld);
    bed.gateway.drain().await;
}
