//! The operator listener: who may, what it shows, and that trouble of the store is told as trouble.

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::support::gateway::{OPERATOR_TOKEN, TestGateway};
use super::support::raw::{Request, Response, once};
use super::support::sign;
use super::support::world::{self, App};

const NOW: i64 = 1_790_000_100;

fn webhook(app: &App, nonce: u64) -> Request {
    let account = app.external();
    let now = Timestamp::from_secs(NOW);
    let sample = Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation: "C0HELP", text: "hi", nonce, now };
    let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
    let signed = sign(app.provider, &body, app.secret, now);
    Request::post(&app.path(), body).header("content-type", media_type).headers(signed)
}

async fn with_token(gateway: &TestGateway, method: &str, path: &str, token: &str, body: &Value) -> Response {
    let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
    let mut request = Request::post(path, body).json();
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.method = method.into();
    once(gateway.operator, &request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_door_but_health_asks_who_it_is() {
    let gateway = TestGateway::start(NOW).await;
    for (method, path) in [
        ("GET", "/v1/orgs"),
        ("GET", "/v1/events"),
        ("GET", "/v1/events/evt_01"),
        ("GET", "/v1/policies"),
        ("GET", "/v1/doctor"),
        ("POST", "/v1/apply"),
        ("POST", "/v1/simulate"),
        ("POST", "/v1/import"),
        ("POST", "/v1/backfill"),
        ("POST", "/v1/deliveries/dlv_1/replay"),
        ("PUT", "/v1/orgs/acme"),
        ("DELETE", "/v1/orgs/acme"),
    ] {
        for token in ["", "opr_wrong_0123456789"] {
            let answer = with_token(&gateway, method, path, token, &Value::Null).await;
            assert_eq!((answer.status, answer.json()["code"].as_str()), (401, Some("admin.unauthenticated")), "{method} {path}");
        }
    }
    for path in ["/healthz", "/readyz", "/metrics", "/v1/reasons"] {
        assert_eq!(once(gateway.operator, &Request::get(path)).await.unwrap().status, 200, "{path}");
    }
    let ready = once(gateway.operator, &Request::get("/readyz")).await.unwrap().json();
    assert_eq!((&ready["status"], &ready["policies"], &ready["store"]), (&json!("ready"), &json!("current"), &json!("ok")), "{ready}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_resource_over_its_own_address() {
    let gateway = TestGateway::start(NOW).await;
    let put = async |path: &str, body: Value| gateway.operate("PUT", path, &body).await;
    assert_eq!(put("/v1/orgs/acme", json!({"name": "Acme"})).await.status, 201);
    assert_eq!(put("/v1/orgs/acme", json!({"name": "Acme Inc"})).await.json()["name"], "Acme Inc");
    assert_eq!(put("/v1/orgs/acme", json!({"id": "globex"})).await.json()["code"], "admin.resource_invalid");
    assert_eq!(put("/v1/nonsense/acme", json!({})).await.status, 422);
    assert_eq!(gateway.operate("GET", "/v1/orgs/acme", &Value::Null).await.json()["name"], "Acme Inc");
    assert_eq!(gateway.operate("DELETE", "/v1/orgs/acme", &Value::Null).await.status, 204);
    assert_eq!(gateway.operate("GET", "/v1/orgs/acme", &Value::Null).await.status, 404);
    assert_eq!(gateway.operate("DELETE", "/v1/orgs/acme", &Value::Null).await.status, 404);
    assert_eq!(gateway.operate("GET", "/v1/nonsense", &Value::Null).await.status, 404);
    let audit = gateway.operate("GET", "/v1/audit?limit=3", &Value::Null).await.json();
    let actions: Vec<&str> = audit["items"].as_array().unwrap().iter().map(|l| l["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["resource.delete", "resource.update", "resource.create"], "{audit}");
    assert!(audit["items"][0]["policies"].as_array().is_some_and(|p| !p.is_empty()), "the policies that permitted it: {audit}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_address_answers_410_for_ever_and_a_dead_letter_can_be_replayed() {
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world::document(ProviderKind::Slack)).await;
    let app = world::acme(ProviderKind::Slack);
    assert_eq!(gateway.send(&webhook(&app, 1)).await.status, 200);
    let events = gateway.operate("GET", "/v1/events", &Value::Null).await.json();
    let event = events["items"][0]["id"].as_str().unwrap().to_owned();
    let journey = gateway.operate("GET", &format!("/v1/events/{event}"), &Value::Null).await.json();
    let actions: Vec<&str> = journey["decisions"].as_array().unwrap().iter().map(|d| d["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["EnterRollout", "RouteMessage"], "{journey}");
    assert_eq!((&journey["verified_with"], &journey["principal"]), (&json!("current"), &json!("slack.byoa:T00ACMEOWN1")));
    let decision = journey["decisions"][1]["id"].as_str().unwrap();
    let decision = gateway.operate("GET", &format!("/v1/decisions/{decision}"), &Value::Null).await.json();
    assert_eq!((&decision["policies"], &decision["allowed"]), (&json!(["route.byoa"]), &json!(true)), "{decision}");
    assert_eq!(decision["version"].as_str().map(str::len), Some(64));
    let delivery = journey["deliveries"][0]["id"].as_str().unwrap().to_owned();
    let replay = format!("/v1/deliveries/{delivery}/replay");
    assert_eq!(gateway.operate("POST", &replay, &Value::Null).await.json()["code"], "admin.not_replayable");
    gateway.damage("UPDATE deliveries SET state = 'dead', settled_ms = 1, attempt = 9").await;
    assert_eq!(gateway.operate("POST", &replay, &Value::Null).await.json(), json!({"id": delivery, "state": "pending"}));
    assert_eq!(gateway.operate("POST", "/v1/deliveries/dlv_99/replay", &Value::Null).await.status, 404);
    for path in ["bindings/slack-acme", "installations/slack-acme", "profiles/slack-acme"] {
        assert_eq!(gateway.operate("DELETE", &format!("/v1/{path}"), &Value::Null).await.status, 204, "{path}");
    }
    assert_eq!(gateway.send(&webhook(&app, 2)).await.status, 410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_claim_on_an_account_is_refused_whoever_makes_it() {
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world::document(ProviderKind::Slack)).await;
    gateway.applied(&world::document(ProviderKind::Telegram)).await;
    gateway.applied(&world::document(ProviderKind::WhatsApp)).await;
    for (what, installation) in [
        ("another org, its own app", json!({"id": "x", "profile": "slack-globex", "org": "globex", "account": {"team_id": "T00ACMEOWN1"}})),
        (
            "another org, the platform's app",
            json!({"id": "x", "profile": "slack-platform", "org": "globex", "account": {"team_id": "T00ACMEOWN1"}}),
        ),
        ("the same org and app again", json!({"id": "x", "profile": "slack-acme", "org": "acme", "account": {"team_id": "T00ACMEOWN1"}})),
        ("another app's bot", json!({"id": "x", "profile": "telegram-globex", "org": "globex", "account": {"bot_id": "7000000002"}})),
        (
            "chats of another app's bot",
            json!({"id": "x", "profile": "telegram-globex", "org": "globex", "account": {"bot_id": "7000000002", "chats": ["-5"]}}),
        ),
        (
            "a number",
            json!({"id": "x", "profile": "whatsapp-globex", "org": "globex", "account": {"waba_id": "1", "phone_number_id": "118000000000002"}}),
        ),
    ] {
        let answer = gateway.apply(&json!({"installations": [installation]})).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("admin.identity_taken")), "{what}: {}", answer.text());
    }
    // The platform's app in the same workspace of the same org is no second owner.
    let both = json!({"installations": [{"id": "x", "profile": "slack-platform", "org": "acme", "account": {"team_id": "T00ACMEOWN1"}}]});
    assert_eq!(gateway.apply(&both).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_commit_is_503_and_nothing_is_lost() {
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world::document(ProviderKind::Slack)).await;
    let app = world::acme(ProviderKind::Slack);
    let before = gateway.kept.counts().await;
    let mut other = gateway.kept.open().await;
    let held = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let refused = gateway.send(&webhook(&app, 1)).await;
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (503, true));
    held.rollback().await.unwrap();
    assert_eq!(gateway.kept.counts().await, before, "nothing half written");
    // The provider tries again, and it is new.
    assert_eq!(gateway.send(&webhook(&app, 1)).await.status, 200);
    let counts = gateway.kept.counts().await;
    assert_eq!((counts["events"], counts["deliveries"]), (before["events"] + 1, before["deliveries"] + 1));
    let metrics = gateway.metrics().await;
    let busy = metrics.iter().find(|(series, _)| series.contains("store.busy")).map(|(_, value)| *value);
    assert_eq!(busy, Some(1.0), "{metrics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_is_off_asks_a_tenants_webhooks_to_come_again_and_lets_the_platforms_in() {
    let gateway = TestGateway::start_with(NOW, |config| config.rollout.initial.clear()).await;
    gateway.applied(&world::document(ProviderKind::Slack)).await;
    let before = gateway.kept.counts().await;
    let answer = gateway.send(&webhook(&world::acme(ProviderKind::Slack), 1)).await;
    assert_eq!((answer.status, answer.header("retry-after").is_some()), (503, true));
    assert_eq!(gateway.kept.counts().await, before, "it will come again, so nothing of it is kept");
    assert_eq!(gateway.send(&webhook(&world::platform(ProviderKind::Slack), 2)).await.status, 200);
    let metrics = gateway.metrics().await;
    let refused = metrics.iter().find(|(series, _)| series.contains("rollout.stage_off") && series.contains("outcome=\"failed\""));
    assert_eq!(refused.map(|(_, value)| *value), Some(1.0), "{metrics:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_planned_against_another_version_is_none() {
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world::document_with_credentials(ProviderKind::Slack)).await;
    let agent = |path: &str| json!({"org": "acme", "endpoint": format!("http://127.0.0.1:9/{path}")});
    let put = async |body: &Value, if_match: Option<&str>| {
        gateway.operate_if(OPERATOR_TOKEN, "PUT", "/v1/agents/acme-agent", body, if_match).await
    };
    let read = async |path: &str| {
        let answer = gateway.operate("GET", path, &Value::Null).await;
        let tag = answer.header("etag").unwrap().to_owned();
        assert_eq!(format!("\"{}\"", answer.json()["version"].as_str().unwrap()), tag, "{path}");
        tag
    };
    let first = read("/v1/agents/acme-agent").await;
    assert_eq!(first, read("/v1/agents/acme-agent").await, "reading changes nothing");
    assert_ne!(first, read("/v1/agents/globex-agent").await);
    assert_eq!(gateway.operate("GET", "/v1/agents", &Value::Null).await.json()["items"][0]["version"], first.trim_matches('"'));

    // Of several who planned against the same one does; the others may look again.
    let bodies: Vec<Value> = (0..8).map(|n| agent(&format!("events/{n}"))).collect();
    let answers = futures_util::future::join_all(bodies.iter().map(|body| put(body, Some(&first)))).await;
    let told = |status: u16| answers.iter().filter(|a| a.status == status).count();
    assert_eq!((told(200), told(412)), (1, 7));
    assert!(answers.iter().filter(|a| a.status == 412).all(|a| a.json()["code"] == "admin.precondition_failed"));
    let second = answers.iter().find(|a| a.status == 200).unwrap().header("etag").unwrap().to_owned();
    assert_eq!(second, read("/v1/agents/acme-agent").await, "what is answered is what is there");
    let updates = "SELECT seq FROM audit WHERE action = 'resource.update'";
    assert_eq!(gateway.kept.rows(updates).await.len(), 1);

    // Which of several, whatever there is, and what is no version at all.
    assert_eq!(put(&agent("events"), Some(&format!("{first}, {second}"))).await.status, 200);
    for (if_match, status) in
        [("*", 200), (second.as_str(), 412), (second.trim_matches('"'), 412), ("W/\"\"", 412), ("", 412), ("\u{e9}", 412)]
    {
        assert_eq!(put(&agent("events"), Some(if_match)).await.status, status, "{if_match}");
    }
    let third = read("/v1/agents/acme-agent").await;
    assert_eq!(third, first, "the same again is the same version");
    // A secret is part of what was read, though it does not show.
    let mut other = agent("events");
    other["token"] = json!({"value": "agt_acme_another_7d2k5"});
    assert_eq!(put(&other, Some(&third)).await.status, 200);
    assert_eq!(put(&agent("other"), Some(&third)).await.status, 412);
    assert_eq!(put(&agent("other"), None).await.status, 200, "who asks for no version is not asked for one");

    // What is gone, or was never there, is no version that anybody read.
    let delete =
        async |path: &str, if_match: &str| gateway.operate_if(OPERATOR_TOKEN, "DELETE", path, &Value::Null, Some(if_match)).await.status;
    let binding = read("/v1/bindings/slack-acme").await;
    assert_eq!((delete("/v1/bindings/slack-acme", &first).await, delete("/v1/bindings/slack-acme", &binding).await), (412, 204));
    assert_eq!(delete("/v1/bindings/slack-acme", &binding).await, 404);
    let again = json!({"org": "acme", "installation": "slack-acme", "agent": "acme-agent"});
    for if_match in [binding.as_str(), "*"] {
        assert_eq!(gateway.operate_if(OPERATOR_TOKEN, "PUT", "/v1/bindings/slack-acme", &again, Some(if_match)).await.status, 412);
    }
    assert_eq!(gateway.operate("PUT", "/v1/bindings/slack-acme", &again).await.status, 201);
}

/// What a request to the operator listener is answered: status and code.
async fn told(gateway: &TestGateway, request: &Request) -> (u16, Option<String>) {
    let answer = once(gateway.operator, request).await.expect("the operator listener answers");
    (answer.status, answer.json().get("code").and_then(Value::as_str).map(str::to_owned))
}

fn code(status: u16, code: &str) -> (u16, Option<String>) {
    (status, Some(code.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_operator_listener_answers_to_its_own_names_alone() {
    let gateway = TestGateway::start_with(NOW, |config| config.listen.operator_hosts = vec!["gw.example".into()]).await;
    let ask = |target: &str, hosts: &[&str]| {
        let request = Request::get(target).header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
        hosts.iter().fold(request, |request, host| request.header("host", host))
    };
    for host in ["localhost", "LOCALHOST.:8081", "127.0.0.1", "127.9.9.9:80", "[::1]:1", "gw.example:8081", "GW.Example."] {
        assert_eq!(told(&gateway, &ask("/v1/orgs", &[host])).await, (200, None), "{host}");
    }
    let refused = code(400, "admin.host_refused");
    for host in
        ["evil.example", "evil.example:8081", "gw.example.evil.example", "0.0.0.0", "10.0.0.1", "", "localhost@evil.example", "127.1"]
    {
        assert_eq!(told(&gateway, &ask("/v1/orgs", &[host])).await, refused, "{host}");
    }
    assert_eq!(told(&gateway, &ask("/v1/orgs", &["localhost", "localhost"])).await, refused);
    assert_eq!(told(&gateway, &ask("http://evil.example/v1/orgs", &["localhost"])).await, refused);
    assert_eq!(told(&gateway, &ask("http://localhost/v1/orgs", &["evil.example"])).await, refused);
    assert_eq!(told(&gateway, &ask("http://gw.example/v1/orgs", &["gw.example"])).await, (200, None));
    // Every door, whoever asks.
    for path in ["/healthz", "/readyz", "/metrics", "/v1/reasons", "/nowhere"] {
        assert_eq!(told(&gateway, &Request::get(path).header("host", "evil.example")).await, refused, "{path}");
    }
    let mut connection = byoa_gateway::matrix::wire::Connection::open(gateway.operator).await.unwrap();
    let nameless = connection.exchange(b"GET /healthz HTTP/1.1\r\n\r\n").await.unwrap().unwrap();
    assert_eq!((nameless.status, nameless.json()["code"].as_str()), (400, Some("admin.host_refused")));
    let before = gateway.kept.counts().await;
    let apply = Request::post("/v1/apply", r#"{"orgs": [{"id": "acme", "name": "Acme"}]}"#).json();
    let apply = apply.header("authorization", format!("Bearer {OPERATOR_TOKEN}")).header("host", "evil.example");
    assert_eq!(told(&gateway, &apply).await, refused);
    assert_eq!(gateway.kept.counts().await, before, "nothing is written");
    assert!(gateway.metrics().await["byoa_operator_refused_total{reason=\"admin.host_refused\"}"] >= 18.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_no_json_by_its_media_type_is_not_taken() {
    let gateway = TestGateway::start(NOW).await;
    let apply = |media_types: &[&str]| {
        let request = Request::post("/v1/apply", r#"{"orgs": [{"id": "acme", "name": "Acme"}]}"#);
        let request = request.header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
        media_types.iter().fold(request, |request, media_type| request.header("content-type", media_type))
    };
    let (before, refused) = (gateway.kept.counts().await, code(415, "admin.media_type"));
    for media_types in
        [&["text/plain"][..], &["application/x-www-form-urlencoded"], &["text/plain;application/json"], &[], &["application/json"; 2]]
    {
        assert_eq!(told(&gateway, &apply(media_types)).await, refused, "{media_types:?}");
    }
    let mut chunked = apply(&["text/plain"]);
    chunked.framing = byoa_gateway::matrix::wire::Framing::Chunked(7);
    assert_eq!(told(&gateway, &chunked).await, refused);
    // Before a token is looked at, so it says nothing about one.
    let nobodys = Request::post("/v1/apply", "{}").header("content-type", "text/plain");
    assert_eq!(told(&gateway, &nobodys).await, refused);
    assert_eq!(gateway.kept.counts().await, before);
    // Requests without a body need no media type.
    let sweep = Request::post("/v1/sweep", "").header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
    assert_eq!(told(&gateway, &sweep).await.0, 200);
    assert_eq!(told(&gateway, &sweep.header("content-type", "text/plain")).await, refused);
    assert_eq!(told(&gateway, &apply(&["application/json; charset=utf-8"])).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_tokens_that_are_nobodys_are_counted_and_audited_in_aggregate() {
    let gateway = TestGateway::start_with(NOW, |config| config.limits.failures_per_address_per_minute = 100).await;
    let before = gateway.kept.counts().await["audit"];
    let mut told = std::collections::BTreeMap::new();
    for n in 0..300 {
        *told.entry(gateway.operate_as(&format!("opr_wrong_{n:010}"), "GET", "/v1/orgs", &Value::Null).await.status).or_insert(0) += 1;
    }
    assert_eq!(told, [(401, 100), (429, 200)].into());
    assert_eq!(gateway.operate("GET", "/v1/orgs", &Value::Null).await.status, 200, "who has a token is not harmed");
    let metrics = gateway.metrics().await;
    let counted =
        (metrics["byoa_operator_refused_total{reason=\"admin.unauthenticated\"}"], metrics["byoa_throttled_total{door=\"operator\"}"]);
    assert_eq!(counted, (300.0, 200.0));
    assert_eq!(gateway.kept.counts().await["audit"], before, "not one line each");
    gateway.store().flush_repeats(gateway.clock.now()).await.unwrap();
    let sql = "SELECT actor, target, code, JSON_EXTRACT(detail_json, '$.count') AS count FROM audit WHERE action = 'operator.authenticate'";
    let want = json!({"actor": "gateway", "target": "127.0.0.1", "code": "admin.unauthenticated", "count": 300});
    assert_eq!(gateway.kept.rows(sql).await, [want]);
}
