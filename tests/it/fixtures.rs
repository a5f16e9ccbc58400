//! Every recorded body, through the real listener, against what `fixtures/providers/index.json` says a gateway should derive.

use std::collections::BTreeMap;

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::gateway::{TestGateway, delta};
use super::support::raw::{Request, Response};
use super::support::{here, json_file, sign};

const NOW: i64 = 1_790_003_600;

const SECRET: &str = "8f742231b10e8888abcd99aaabbb85a5";

/// The apps of the fixtures: the platform's Slack and WhatsApp apps at three tenants, globex's own Slack app, acme's own bot.
fn world() -> Value {
    let org = |id: &str| json!({"id": id});
    let agent = |org: &str| {
        json!({"id": format!("{org}-agent"), "org": org, "endpoint": "http://127.0.0.1:9/events",
            "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}})
    };
    let profile = |id: &str, provider: &str, owner: &str, app: &str| {
        json!({"id": id, "provider": provider, "owner": owner, "app_id": app, "ingress_id": format!("{id}-fixtures-0001"),
            "signing_secret": {"value": SECRET}})
    };
    let installed = [
        ("slack-acme", "slack", "acme", json!({"team_id": "T07ACME0001"})),
        ("slack-mega", "slack", "mega", json!({"enterprise_id": "E07MEGA0001"})),
        ("slack-globex", "globex-slack", "globex", json!({"team_id": "T07GLBX0001"})),
        ("telegram-acme", "telegram", "acme", json!({"bot_id": "7100000001"})),
        ("wa-1", "whatsapp", "acme", json!({"waba_id": "109000000000001", "phone_number_id": "118000000000001"})),
        ("wa-2", "whatsapp", "mega", json!({"waba_id": "109000000000001", "phone_number_id": "118000000000002"})),
        ("wa-3", "whatsapp", "globex", json!({"waba_id": "109000000000002", "phone_number_id": "118000000000003"})),
    ];
    let installations: Vec<Value> =
        installed.iter().map(|(id, profile, org, account)| json!({"id": id, "profile": profile, "org": org, "account": account})).collect();
    let bindings: Vec<Value> = installed
        .iter()
        .map(|(id, _, org, _)| json!({"id": id, "org": org, "installation": id, "agent": format!("{org}-agent")}))
        .collect();
    json!({
        "orgs": [org("acme"), org("globex"), org("mega")],
        "agents": [agent("acme"), agent("globex"), agent("mega")],
        "profiles": [profile("slack", "slack", "platform", "A07PLTFM001"), profile("globex-slack", "slack", "globex", "A07GLBXBYOA"),
            profile("telegram", "telegram", "acme", ""), profile("whatsapp", "whatsapp", "platform", "123")],
        "installations": installations,
        "bindings": bindings,
    })
}

/// Which installation the account of a fixture is.
fn installation(account: &Value) -> &'static str {
    let is = |name: &str, value: &str| account[name] == value;
    match () {
        () if is("team_id", "T07ACME0001") => "slack-acme",
        () if is("team_id", "T07GLBX0001") => "slack-globex",
        () if is("enterprise_id", "E07MEGA0001") => "slack-mega",
        () if is("phone_number_id", "118000000000001") => "wa-1",
        () if is("phone_number_id", "118000000000002") => "wa-2",
        () if is("phone_number_id", "118000000000003") => "wa-3",
        () => panic!("nobody has {account}"),
    }
}

fn profile_of(fixture: &Value) -> &'static str {
    match fixture["provider"].as_str().unwrap() {
        "slack" if fixture["expect"]["installation"]["api_app_id"] == "A07GLBXBYOA" => "globex-slack",
        "slack" => "slack",
        "telegram" => "telegram",
        "whatsapp" => "whatsapp",
        other => panic!("{other}"),
    }
}

fn body(file: &str) -> Vec<u8> {
    std::fs::read(here("fixtures/providers").join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

fn request(fixture: &Value, profile: &str) -> Request {
    let provider = ProviderKind::parse(fixture["provider"].as_str().unwrap()).unwrap();
    let body = body(fixture["file"].as_str().unwrap());
    let signed = sign(provider, &body, SECRET, Timestamp::from_secs(NOW));
    let path = fixture["path"].as_str().unwrap().replace("{ingress_id}", &format!("{profile}-fixtures-0001"));
    let mut request = Request::post(&path, body).header("content-type", fixture["content_type"].as_str().unwrap()).headers(signed);
    request.method = fixture["method"].as_str().unwrap().into();
    let said = fixture["extra_headers"].as_array().unwrap().iter().map(|h| (h[0].as_str().unwrap(), h[1].as_str().unwrap()));
    for (name, value) in said.filter(|(_, value)| !value.contains('{')) {
        request = request.header(name, value);
    }
    request
}

/// Events by installation that a fixture comes to.
fn wanted(fixture: &Value) -> BTreeMap<String, i64> {
    let expect = &fixture["expect"];
    let kind = expect["kind"].as_str().unwrap();
    let one = |installation: &str, n: i64| BTreeMap::from([(installation.to_owned(), n)]);
    if let Some(parts) = expect.get("events") {
        return parts.as_array().unwrap().iter().map(|p| (installation(p).to_owned(), p["count"].as_i64().unwrap())).collect();
    }
    match (fixture["provider"].as_str().unwrap(), kind) {
        (_, "handshake" | "message.self") => BTreeMap::new(),
        ("telegram", _) => one("telegram-acme", 1),
        // About the whole business account, so an event of each of its numbers.
        ("whatsapp", _) if expect["installation"].get("phone_number_id").is_none() => {
            BTreeMap::from([("wa-1".into(), 1), ("wa-2".into(), 1)])
        }
        ("whatsapp", "status") => one("wa-1", 3),
        _ => one(installation(&expect["installation"]), 1),
    }
}

/// The dedupe keys, where the index names them. A key is unique within its installation, so a bot's own id is not in it.
fn keys(expect: &Value) -> Vec<String> {
    let Some(key) = expect.get("dedupe_key").and_then(Value::as_str) else { return Vec::new() };
    let key = key.replace("{bot_id}:", "");
    if key.contains("{status}") {
        return ["sent", "delivered", "read"].iter().map(|s| key.replace("{status}", s)).collect();
    }
    vec![key]
}

/// What a key is made of; in which order the store writes it is the store's business.
fn parts(key: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = key.split(':').collect();
    parts.sort_unstable();
    parts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fixture_is_what_the_index_says() {
    let index = json_file("fixtures/providers/index.json");
    let fixtures = index["fixtures"].as_array().unwrap();
    assert_eq!(fixtures.len(), 45, "fixtures came or went: say so here");
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world()).await;
    let mut wrong = Vec::new();
    for fixture in fixtures {
        let (file, expect) = (fixture["file"].as_str().unwrap(), &fixture["expect"]);
        let mut no = |right: bool, why: String| {
            if !right {
                wrong.push(format!("{file}: {why}"));
            }
        };
        let seq = gateway.kept.rows("SELECT COALESCE(MAX(seq), 0) AS seq FROM events").await[0]["seq"].as_i64().unwrap();
        let request = request(fixture, profile_of(fixture));
        let before = gateway.kept.counts().await;
        let answer = gateway.send(&request).await;
        no(answer.status == 200, format!("status {}", answer.status));
        let first = gateway.kept.counts().await;
        let events = gateway
            .kept
            .rows(&format!(
                "SELECT e.id, e.installation, e.org, e.kind, d.key FROM events e JOIN dedupe d ON d.event = e.id WHERE e.seq > {seq}"
            ))
            .await;
        let mut found: BTreeMap<String, i64> = BTreeMap::new();
        for event in &events {
            *found.entry(event["installation"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let wanted = wanted(fixture);
        no(found == wanted, format!("events {found:?} for {wanted:?}"));
        let n: i64 = wanted.values().sum();
        no(delta(&before, &first).get("deliveries").copied().unwrap_or(0) == n, "a delivery for each event".into());

        let kind = expect["kind"].as_str().unwrap();
        if kind == "handshake" {
            let response = &expect["response"];
            no(answer.text() == response["body"].as_str().unwrap(), format!("challenge `{}`", answer.text()));
            let said = answer.header("content-type").unwrap_or_default();
            no(said.starts_with(response["content_type"].as_str().unwrap()), format!("content type {said}"));
            continue;
        }
        no(answer.body.is_empty(), format!("an accepted event is answered with `{}`", answer.text()));
        // A batch is of messages.
        let kind = if kind == "batch" { "message" } else { kind };
        no(events.iter().all(|e| e["kind"] == kind), format!("kinds of {events:?} for {kind}"));
        let keys = keys(expect);
        // WhatsApp's ids hold people's numbers, so a digest is stored of each.
        let is_digest = |key: &str| key.len() == 32 && key.bytes().all(|b| b.is_ascii_hexdigit());
        let has = |k: &String| {
            events.iter().any(|e| {
                e["key"].as_str().is_some_and(|key| parts(key) == parts(k) || (fixture["provider"] == "whatsapp" && is_digest(key)))
            })
        };
        no(kind == "message.self" || keys.iter().all(has), format!("{keys:?} not in {events:?}"));
        if let Some(thread) = expect.get("thread").and_then(Value::as_str).filter(|t| *t != "reply") {
            let thread = thread.rsplit(':').next().unwrap();
            for event in &events {
                let journey = gateway.operate("GET", &format!("/v1/events/{}", event["id"].as_str().unwrap()), &Value::Null).await.json();
                let said = &journey["normal"]["conversation"]["thread"];
                no(said == thread, format!("thread {thread} of {said}"));
            }
        }
        if kind == "message.self" {
            let refused = gateway.kept.rows("SELECT code, org FROM refusals ORDER BY seq DESC LIMIT 1").await;
            no(refused == [json!({"code": "ingress.self_authored", "org": "acme"})], format!("{refused:?}"));
            continue;
        }

        // The provider repeats itself.
        let again = gateway.send(&request).await;
        no(again.status == 200, format!("the repeat: status {}", again.status));
        no(gateway.kept.counts().await == first, "the repeat was written".into());
    }
    gateway.drain().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The same event, found by its file.
async fn post(gateway: &TestGateway, file: &str, profile: &str) -> Response {
    let index = json_file("fixtures/providers/index.json");
    let fixture = index["fixtures"].as_array().unwrap().iter().find(|f| f["file"] == file).unwrap_or_else(|| panic!("{file}")).clone();
    gateway.send(&request(&fixture, profile)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_connect_goes_to_the_tenant_who_sees_it_even_where_the_sender_is_one_too() {
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world()).await;
    // The partner is a tenant of the same platform app, and hears nothing of it.
    gateway
        .applied(&json!({"orgs": [{"id": "partner"}],
            "agents": [{"id": "partner-agent", "org": "partner", "endpoint": "http://127.0.0.1:9/events", "signing_secret": {"value": "whsec_plJ3nmyCDGBKInavdOK15jsl"}}],
            "installations": [{"id": "slack-partner", "profile": "slack", "org": "partner", "account": {"team_id": "T07PARTNER1"}}],
            "bindings": [{"id": "slack-partner", "org": "partner", "installation": "slack-partner", "agent": "partner-agent"}]}))
        .await;
    assert_eq!(post(&gateway, "slack/message_slack_connect.json", "slack").await.status, 200);
    let events = gateway.kept.rows("SELECT org, installation, agent FROM events").await;
    assert_eq!(events, vec![json!({"org": "acme", "installation": "slack-acme", "agent": "acme-agent"})]);
    gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_on_a_tenants_own_address_is_bound_and_refused_part_by_part() {
    let gateway = TestGateway::start(NOW).await;
    let mut world = world();
    // The app is acme's own now, and has acme's number only.
    world["profiles"][3]["owner"] = json!("acme");
    for kind in ["installations", "bindings"] {
        world[kind].as_array_mut().unwrap().retain(|r| !matches!(r["id"].as_str(), Some("wa-2" | "wa-3")));
    }
    gateway.applied(&world).await;
    assert_eq!(post(&gateway, "whatsapp/batch_two_wabas.json", "whatsapp").await.status, 200);
    let events = gateway.kept.rows("SELECT org, installation FROM events").await;
    assert_eq!(events, vec![json!({"org": "acme", "installation": "wa-1"})]);
    let refusals = gateway.kept.rows("SELECT code, org FROM refusals").await;
    assert_eq!(refusals, vec![json!({"code": "authn.tenant_mismatch", "org": "acme"})]);
    gateway.drain().await;
}
