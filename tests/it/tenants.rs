//! Two orgs whose conversations, users, texts and threads have the same ids: everything that acme can ask, asked for what is
//! globex's, and globex looked for in every answer. What another org has is answered like what nobody has, to the byte.

use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::fakes::{FakeAgent, FakeProvider, Seen};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response, once};
use super::support::{webhook, world};

const NOW: i64 = 1_790_000_100;
const ACME: &str = "agt_acme_3kd9slw02mfj47";
const GLOBEX: &str = "agt_globex_3kd9slw02mfj47";
/// An agent's token of the shape that Telegram's SDKs want.
const ACME_TELEGRAM: &str = "4000000001:agt_acme_3kd9slw02mfj47xyz";

/// What gives globex away: its names, and everything that only it has.
struct Traces(Vec<String>);

impl Traces {
    fn none_in(&self, what: &str, text: &str) {
        for trace in &self.0 {
            assert!(!text.contains(trace.as_str()), "{what} shows `{trace}` of globex: {text}");
        }
    }
}

fn shown(seen: &Seen) -> String {
    format!("{} {:?} {}", seen.path, seen.headers, String::from_utf8_lossy(&seen.body))
}

/// An answer without what differs from request to request.
fn told(answer: &Response) -> String {
    let text = answer.text();
    let id = text.find("req_").map(|at| text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>());
    format!("{} {}", answer.status, id.map_or(text.clone(), |id| text.replace(&id, "req")))
}

struct Stage {
    provider: ProviderKind,
    gateway: TestGateway,
    api: FakeProvider,
    acme: FakeAgent,
    globex: FakeAgent,
}

async fn stage(provider: ProviderKind) -> Stage {
    let (acme, globex, api) = (FakeAgent::start().await, FakeAgent::start().await, FakeProvider::start().await);
    let base = api.api_base();
    let gateway = TestGateway::start_with(NOW, |config| {
        config.delivery.concurrency = 4;
        config.providers.slack.api_base = base.clone();
        config.providers.telegram.api_base = base.trim_end_matches('/').into();
        config.providers.whatsapp.api_base = base;
    })
    .await;
    let mut document = world::document_with_credentials(provider);
    document["agents"][0]["endpoint"] = json!(acme.endpoint());
    document["agents"][1]["endpoint"] = json!(globex.endpoint());
    if provider == ProviderKind::Telegram {
        document["agents"][0]["token"] = json!({"value": ACME_TELEGRAM});
    }
    // One installation each, so that the SDK paths need no name.
    let own = |list: &mut Value| list.as_array_mut().unwrap().retain(|r| !r["id"].as_str().unwrap().ends_with("platform"));
    own(&mut document["bindings"]);
    own(&mut document["installations"]);
    gateway.applied(&document).await;
    api.answers(
        200,
        match provider {
            ProviderKind::Slack => json!({"ok": true, "ts": "1790000101.000200", "channel": "C00HELPDESK"}),
            ProviderKind::Telegram => json!({"ok": true, "result": {"message_id": 77}}),
            ProviderKind::WhatsApp => json!({"messages": [{"id": "wamid.OUT1"}]}),
        },
    );
    Stage { provider, gateway, api, acme, globex }
}

impl Stage {
    fn token(&self) -> &'static str {
        if self.provider == ProviderKind::Telegram { ACME_TELEGRAM } else { ACME }
    }

    async fn say(&self, token: &str, key: &str, body: &Value) -> Response {
        let request = Request::post("/v1/messages", body.to_string()).json();
        let request = request.header("authorization", format!("Bearer {token}")).header("idempotency-key", key);
        once(self.gateway.public, &request).await.unwrap()
    }

    /// The same call by an SDK of acme's agent, about an installation and an account.
    async fn sdk(&self, installation: &str, account: &str) -> Response {
        let token = self.token();
        let request = match self.provider {
            ProviderKind::Slack => {
                Request::post("/sdk/slack/api/chat.postMessage", json!({"channel": "C00HELPDESK", "text": "hi"}).to_string())
                    .header("authorization", format!("Bearer {token}"))
            }
            ProviderKind::Telegram => Request::post(
                &format!("/sdk/telegram/bot{token}/sendMessage"),
                json!({"chat_id": 5_100_000_001_i64, "text": "hi"}).to_string(),
            ),
            ProviderKind::WhatsApp => Request::post(
                &format!("/sdk/whatsapp/v23.0/{account}/messages"),
                json!({"messaging_product": "whatsapp", "to": "5100000001", "type": "text", "text": {"body": "hi"}}).to_string(),
            )
            .header("authorization", format!("Bearer {token}")),
        };
        once(self.gateway.public, &request.json().header("byoa-installation", installation)).await.unwrap()
    }

    async fn column(&self, sql: &str) -> Vec<String> {
        let rows = self.gateway.kept.rows(sql).await;
        rows.iter().map(|r| r.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()).collect()
    }
}

async fn never_meet(provider: ProviderKind) {
    let stage = stage(provider).await;
    let (ours, theirs) = (world::acme(provider), world::globex(provider));
    // The same person says the same words in the same place, under the same id, to both.
    for app in [&ours, &theirs] {
        let answer = stage.gateway.send(&webhook(app, 71, stage.gateway.clock.now())).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    let (heard, other) = (stage.acme.next().await, stage.globex.next().await);
    let session = |seen: &Seen| seen.json()["data"]["session"]["id"].as_str().unwrap().to_owned();
    let (our_session, their_session) = (session(&heard), session(&other));
    assert_ne!(our_session, their_session);
    // Globex answers, so that there is a send of it.
    let sent = stage.say(GLOBEX, "reply-1", &json!({"session": their_session, "text": "of globex alone"})).await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    let carried = shown(&stage.api.next().await);
    assert!(carried.contains(&theirs.credential()) && !carried.contains(&ours.credential()), "{carried}");

    let mut traces =
        vec!["globex".to_owned(), "of globex alone".into(), theirs.account.into(), theirs.secret.into(), their_session.clone()];
    traces.extend(stage.column("SELECT id FROM events WHERE org = 'globex'").await);
    traces.extend(stage.column("SELECT id FROM sends WHERE org = 'globex'").await);
    traces.extend([theirs.ingress.clone(), theirs.credential()].into_iter().filter(|t| !t.is_empty()));
    let traces = Traces(traces);
    traces.none_in("what acme's agent hears", &shown(&heard));

    // The door of messages: what is globex's is like what nobody has.
    for (n, (named, nobodys)) in [
        (json!({"session": their_session, "text": "hi"}), json!({"session": "ses_01J8X00000000000000000000", "text": "hi"})),
        (
            json!({"installation": theirs.profile, "conversation": "C00HELPDESK", "text": "hi"}),
            json!({"installation": "nowhere", "conversation": "C00HELPDESK", "text": "hi"}),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (a, b) = (stage.say(stage.token(), &format!("a{n}"), &named).await, stage.say(stage.token(), &format!("b{n}"), &nobodys).await);
        assert_eq!((a.status, told(&a)), (404, told(&b)));
        traces.none_in("a refusal", &told(&a));
    }
    // Globex's key says nothing about acme's.
    let sent = stage.say(stage.token(), "reply-1", &json!({"session": our_session, "text": "hello"})).await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    traces.none_in("a receipt", &sent.text());
    let carried = shown(&stage.api.next().await);
    assert!(carried.contains(&ours.credential()), "{carried}");
    traces.none_in("what leaves for acme", &carried);

    // The SDKs' door.
    let (a, b) = (stage.sdk(&theirs.profile, theirs.account).await, stage.sdk("nowhere", "118000000000009").await);
    assert_eq!(told(&a), told(&b));
    traces.none_in("an SDK's refusal", &told(&a));
    assert!(stage.api.unseen().is_none(), "a refused call reached the provider");
    let c = stage.sdk(&ours.profile, ours.account).await;
    assert_eq!(c.status, 200, "{}", c.text());
    let carried = shown(&stage.api.next().await);
    assert!(carried.contains(&ours.credential()), "{carried}");
    traces.none_in("what an SDK's call of acme leaves with", &carried);

    // Files: a ticket of nobody, and one that globex was given.
    let media = async |ticket: &str, token: &str| {
        let request = Request::get(&format!("/v1/media/{ticket}")).header("authorization", format!("Bearer {token}"));
        once(stage.gateway.public, &request).await.unwrap()
    };
    assert_eq!(media("nonsense", stage.token()).await.status, 404);

    // Operators who look at acme alone see acme alone. Alarms that repeat are one line with a count.
    stage.gateway.store().flush_repeats(stage.gateway.clock.now()).await.unwrap();
    for kind in
        ["events", "deliveries", "decisions", "refusals", "sends", "sessions", "audit", "profiles", "installations", "agents", "bindings"]
    {
        let listed = stage.gateway.operate("GET", &format!("/v1/{kind}?org=acme"), &Value::Null).await;
        assert_eq!(listed.status, 200, "{kind}: {}", listed.text());
        // The alarm of a trespass repeats what acme's agent asked for; that is its point.
        let items = listed.json()["items"].as_array().unwrap().clone();
        let (alarms, items): (Vec<Value>, Vec<Value>) = items.into_iter().partition(|i| !i["detail"]["alert"].is_null());
        let times: u64 = alarms.iter().map(|alarm| alarm["detail"]["count"].as_u64().unwrap_or(1)).sum();
        assert_eq!(times, if kind == "audit" { 3 } else { 0 }, "{kind}: {alarms:?}");
        traces.none_in(kind, &json!(items).to_string());
    }
    let events = stage.column("SELECT id FROM events WHERE org = 'acme'").await;
    let journey = stage.gateway.operate("GET", &format!("/v1/events/{}", events[0]), &Value::Null).await;
    traces.none_in("the journey of acme's event", &journey.text());

    let kept = stage.gateway.drain().await;
    let mixed = "SELECT COUNT(*) AS n FROM sends s JOIN sessions e ON e.id = s.session WHERE e.org <> s.org";
    assert_eq!(kept.rows(mixed).await[0]["n"], 0);
    assert!(stage.acme.unseen().is_none() && stage.globex.unseen().is_none(), "one delivery each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_slack_never_meet() {
    never_meet(ProviderKind::Slack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_telegram_never_meet() {
    never_meet(ProviderKind::Telegram).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_whatsapp_never_meet() {
    never_meet(ProviderKind::WhatsApp).await;
}
