//! Every signed vector and every handshake, through the real listener.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response};
use super::support::{json_file, sign};

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {value}"))
}

/// The ids of the vectors are shorter than an `ingress_id` may be.
fn ingress_id(short: &str) -> String {
    format!("{short}-vectors-000")
}

fn ingress_of(case: &Value) -> &str {
    text(case, "path").split('?').next().unwrap().rsplit('/').next().unwrap()
}

/// The vector's request: its headers in its order, its bytes, its query.
fn request(case: &Value) -> Request {
    let body = base64::engine::general_purpose::STANDARD.decode(text(case, "body_base64")).unwrap();
    let short = ingress_of(case);
    let mut request = Request::post(&text(case, "path").replace(short, &ingress_id(short)), body);
    request.method = text(case, "method").into();
    for pair in case["headers"].as_array().unwrap() {
        // Values are ISO-8859-1 text.
        let value: Vec<u8> = pair[1].as_str().unwrap().chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        request = request.header(pair[0].as_str().unwrap(), value);
    }
    request
}

fn secrets(case: &Value) -> Vec<String> {
    case["secrets"]["values"].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

const SOME_SECRET: &str = "5e8d0b7c1a2f43968877aabbccddeeff";

fn profile(provider: ProviderKind, short: &str, secrets: &[String]) -> Value {
    let current = secrets.first().filter(|s| !s.is_empty()).map_or(SOME_SECRET, String::as_str);
    let mut profile = json!({"id": format!("{provider}-{}", short.replace('_', "-")), "provider": provider, "owner": "platform",
        "ingress_id": ingress_id(short), "signing_secret": {"value": current}});
    if let Some(previous) = secrets.get(1) {
        profile["previous_signing_secret"] = json!({"value": previous});
    }
    profile
}

/// The profile that owns a path, by the secrets that most of its vectors have.
fn owners(cases: &[Value]) -> BTreeMap<String, Vec<String>> {
    let mut owners = BTreeMap::new();
    for case in cases.iter().filter(|c| secrets(c).iter().any(|s| !s.is_empty())) {
        owners.entry(ingress_of(case).to_owned()).or_insert_with(|| secrets(case));
    }
    owners
}

async fn gateway(provider: ProviderKind, now: i64, short: &str, secrets: &[String], owners: &BTreeMap<String, Vec<String>>) -> TestGateway {
    let gateway = TestGateway::start(now).await;
    let mut profiles = vec![profile(provider, short, secrets)];
    profiles.extend(owners.iter().filter(|(other, _)| *other != short).map(|(other, secrets)| profile(provider, other, &secrets[..1])));
    gateway.applied(&json!({"profiles": profiles})).await;
    let id = profiles[0]["id"].as_str().unwrap();
    match secrets.first() {
        None => gateway.damage(&format!("DELETE FROM secrets WHERE owner = '{id}' AND field = 'signing_secret'")).await,
        Some(empty) if empty.is_empty() => {
            gateway.damage(&format!("UPDATE secrets SET sealed = x'' WHERE owner = '{id}' AND field = 'signing_secret'")).await;
        }
        Some(_) => {}
    }
    gateway
}

async fn every_vector(provider: ProviderKind, total: usize) {
    let file = json_file(&format!("fixtures/vectors/{provider}.json"));
    let cases = file["vectors"].as_array().unwrap();
    assert_eq!(cases.len(), total, "vectors came or went: say so here");
    assert_eq!(file["counts"]["total"], total);
    let mut groups: BTreeMap<(String, Vec<String>, i64), Vec<&Value>> = BTreeMap::new();
    for case in cases {
        assert!(matches!(text(case, "level"), "must" | "should"));
        let key = (ingress_of(case).to_owned(), secrets(case), case["now_unix"].as_i64().unwrap());
        groups.entry(key).or_default().push(case);
    }
    let owners = owners(cases);
    let (mut sent, mut wrong) = (BTreeSet::new(), Vec::new());
    for ((short, secrets, now), cases) in groups {
        let usable = secrets.first().is_some_and(|s| !s.is_empty());
        let gateway = gateway(provider, now, &short, &secrets, &owners).await;
        for case in cases {
            let name = text(case, "name");
            assert!(sent.insert(name), "{name} twice");
            let before = gateway.kept.counts().await;
            let answer = gateway.send(&request(case)).await;
            let right = match text(case, "expect") {
                "accept" => answer.status == 200,
                "reject" if usable => answer.status == 401,
                "reject" => answer.status == 503,
                other => panic!("{name}: expect is {other}"),
            };
            if !right {
                wrong.push(format!("{name}: {} for {}", answer.status, text(case, "expect")));
            }
            if answer.status != 200 && gateway.kept.counts().await != before {
                wrong.push(format!("{name}: a refusal before proof was written to the store"));
            }
        }
        gateway.drain().await;
    }
    assert!(wrong.is_empty(), "{provider}:\n{}", wrong.join("\n"));
    assert_eq!(sent.len(), total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slack_vectors() {
    every_vector(ProviderKind::Slack, 51).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telegram_vectors() {
    every_vector(ProviderKind::Telegram, 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatsapp_vectors() {
    every_vector(ProviderKind::WhatsApp, 40).await;
}

fn is_as_told(case: &Value, answer: &Response) -> Result<(), String> {
    let statuses: Vec<u64> = match &case["expect_status"] {
        Value::Array(all) => all.iter().map(|s| s.as_u64().unwrap()).collect(),
        one => vec![one.as_u64().unwrap()],
    };
    if !statuses.contains(&u64::from(answer.status)) {
        return Err(format!("status {} for {statuses:?}", answer.status));
    }
    if let Some(body) = case.get("expect_body_exact")
        && answer.text() != body.as_str().unwrap()
    {
        return Err(format!("body `{}`", answer.text()));
    }
    let kind = answer.header("content-type").unwrap_or_default();
    if let Some(forbidden) = case.get("forbid_content_type")
        && kind.contains(forbidden.as_str().unwrap())
    {
        return Err(format!("content type {kind}"));
    }
    if answer.status == 200 && !kind.starts_with("text/plain") {
        return Err(format!("a challenge is answered as {kind}"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes() {
    let file = json_file("fixtures/vectors/handshakes.json");
    let ours = |c: &&Value| matches!(text(c, "provider"), "slack" | "whatsapp");
    let cases: Vec<&Value> = file["handshakes"].as_array().unwrap().iter().filter(ours).collect();
    assert_eq!(cases.len(), 11, "handshakes came or went: say so here");
    let mut wrong = Vec::new();
    for case in cases {
        let provider = ProviderKind::parse(text(case, "provider")).unwrap();
        let gateway = TestGateway::start(case["now_unix"].as_i64().unwrap()).await;
        let values = secrets(case);
        let mut profile = match text(&case["secrets"], "kind") {
            "slack_signing_secret" => profile(provider, ingress_of(case), &values),
            "meta_verify_token" => profile(provider, ingress_of(case), &[]),
            other => panic!("{other}"),
        };
        if provider == ProviderKind::WhatsApp && !values[0].is_empty() {
            profile["verify_token"] = json!({"value": values[0]});
        }
        gateway.applied(&json!({"profiles": [profile]})).await;
        let mut request = request(case);
        if request.method == "GET" {
            request.body.clear();
        }
        if let Err(why) = is_as_told(case, &gateway.send(&request).await) {
            wrong.push(format!("{}: {why}", text(case, "name")));
        }
        gateway.drain().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A previous secret verifies for a day where nothing else is said, and not a second longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_previous_secret_ends_with_its_overlap() {
    const OVERLAP_MS: i64 = 24 * 3_600_000;
    let now = 1_790_003_100;
    let secrets = [SOME_SECRET.to_owned(), "a87ff679a2f3e71d9181a67b7542122c".to_owned()];
    for provider in ProviderKind::ALL {
        let gateway = TestGateway::start(now).await;
        gateway.applied(&json!({"profiles": [profile(provider, "ing_old", &secrets)]})).await;
        let post = async |secret: &str, at: i64| {
            let path = format!("/webhooks/{provider}/{}", ingress_id("ing_old"));
            let signed = sign(provider, b"{}", secret, Timestamp::from_ms(at));
            gateway.send(&Request::post(&path, "{}").json().headers(signed)).await.status
        };
        assert_eq!(post(&secrets[1], now * 1000).await, 200, "{provider}: within the overlap");
        gateway.clock.advance_ms(OVERLAP_MS + 1000);
        let later = now * 1000 + OVERLAP_MS + 1000;
        assert_eq!(post(&secrets[1], later).await, 401, "{provider}: after it");
        assert_eq!(post(&secrets[0], later).await, 200, "{provider}: the current one");
        let used = gateway.metrics().await;
        assert_eq!(used[&format!(r#"byoa_secret_previous_used_total{{provider="{provider}"}}"#)], 1.0);
        gateway.drain().await;
    }
}
