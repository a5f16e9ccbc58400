//! A Slack app that was declared without its id: whichever event is first, one app is the profile's from then on.

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::ids::ProfileId;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::store::{Change, Resource};
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::support::gateway::TestGateway;
use super::support::world::{self, App};
use super::support::{copy, webhook};

const NOW: i64 = 1_790_000_100;
const APPS: [&str; 8] = ["A00APP0001", "A00APP0002", "A00APP0003", "A00APP0004", "A00APP0005", "A00APP0006", "A00APP0007", "A00APP0008"];

/// The app, as events of it name it.
fn nameless(app_id: &'static str) -> App {
    let acme = world::acme(ProviderKind::Slack);
    App { profile: "nameless".into(), ingress: "slack-nameless-7f3k9q2m".into(), account: "T00NAMELESS", app_id, ..acme }
}

async fn declared(gateway: &TestGateway) {
    gateway.applied(&world::document(ProviderKind::Slack)).await;
    let mut profile = nameless("").profile_json();
    profile.as_object_mut().unwrap().remove("app_id");
    let document = json!({"profiles": [profile],
        "installations": [{"id": "nameless", "profile": "nameless", "org": "acme", "account": {"team_id": "T00NAMELESS"}}],
        "bindings": [{"id": "nameless", "org": "acme", "installation": "nameless", "agent": "acme-agent"}]});
    gateway.applied(&document).await;
}

async fn shown(gateway: &TestGateway) -> Value {
    gateway.operate("GET", "/v1/profiles/nameless", &Value::Null).await.json()["learned_app_id"].clone()
}

async fn counted(gateway: &TestGateway, sql: &str) -> Value {
    gateway.kept.rows(&format!("SELECT COUNT(*) AS n FROM {sql}")).await[0]["n"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_first_events_one_names_the_app_and_a_restart_forgets_nothing() {
    let gateway = TestGateway::start(NOW).await;
    declared(&gateway).await;
    assert_eq!(shown(&gateway).await, Value::Null);
    let simulated = json!({"provider": "slack", "installation": "nameless", "kind": "message"});
    let refused = gateway.operate("POST", "/v1/simulate", &simulated).await;
    assert_eq!((refused.status, &refused.json()["code"]), (422, &json!("admin.resource_invalid")), "a made-up app would be learned");
    let now = gateway.clock.now();
    let requests: Vec<_> = APPS.iter().zip(100..).map(|(app, nonce)| webhook(&nameless(app), nonce, now)).collect();
    for answer in join_all(requests.iter().map(|request| gateway.send(request))).await {
        assert_eq!((answer.status, answer.text().as_str()), (200, ""));
    }
    let learned = shown(&gateway).await;
    assert!(APPS.contains(&learned.as_str().unwrap()), "{learned}");
    assert_eq!(counted(&gateway, "events").await, 1);
    assert_eq!(counted(&gateway, "audit WHERE action = 'profile.learn_app' AND outcome = 'done' AND org = 'acme'").await, 1);
    assert_eq!(counted(&gateway, "refusals WHERE code = 'authn.tenant_mismatch'").await, APPS.len() - 1);

    let dir = tempfile::tempdir().unwrap();
    copy(gateway.drain().await.folder(), dir.path());
    let gateway = TestGateway::start_in(dir, NOW, |_| {}).await;
    assert_eq!(shown(&gateway).await, learned);
    let now = gateway.clock.now();
    for (app, nonce) in APPS.iter().zip(200..) {
        assert_eq!(gateway.send(&webhook(&nameless(app), nonce, now)).await.status, 200);
    }
    assert_eq!(counted(&gateway, "events").await, 2, "one more, of the same app");
    gateway.drain().await;
}

/// A change that was planned before the event and is kept after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_planned_before_does_not_forget_the_app() {
    let gateway = TestGateway::start(NOW).await;
    declared(&gateway).await;
    let id = ProfileId::parse("nameless").unwrap();
    let planned = gateway.store().directory().profiles[&id].item.clone();
    assert_eq!(gateway.send(&webhook(&nameless(APPS[0]), 1, gateway.clock.now())).await.status, 200);
    assert_eq!(shown(&gateway).await, APPS[0]);
    let change = Change::Put(Box::new(Resource::Profile(planned.clone())), Vec::new());
    gateway.store().apply(vec![change], Vec::new(), Timestamp::from_secs(NOW)).await.unwrap();
    assert_eq!(shown(&gateway).await, APPS[0]);
    let mut planned = planned;
    planned.app_id = Some(APPS[1].to_owned());
    let change = Change::Put(Box::new(Resource::Profile(planned)), Vec::new());
    gateway.store().apply(vec![change], Vec::new(), Timestamp::from_secs(NOW)).await.unwrap();
    assert_eq!(shown(&gateway).await, Value::Null, "what is declared replaces what was learned");
    gateway.drain().await;
}
