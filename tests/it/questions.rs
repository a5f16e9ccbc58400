//! Which question each address of the operator API that writes asks the policies. The list of addresses is read from the router's
//! source, so that one that is added without a question makes these tests fail.

use std::collections::BTreeSet;

use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::gateway::{OPERATOR_TOKEN, PLAIN_OPERATOR_TOKEN, SINGLE_FACTOR_TOKEN, TestGateway, VIEWER_TOKEN};
use super::support::here;
use super::support::world;

const NOW: i64 = 1_790_000_100;

/// A call of an address that writes: method, address as the router has it, path, body, and the questions that must have been
/// asked when it was done. It is one that succeeds where nobody asks.
struct Writes {
    method: &'static str,
    address: &'static str,
    path: String,
    body: Value,
    asks: &'static [&'static str],
}

fn writes(method: &'static str, address: &'static str, path: &str, body: Value, asks: &'static [&'static str]) -> Writes {
    Writes { method, address, path: path.to_owned(), body, asks }
}

/// Every address that writes, in an order in which each call succeeds.
fn all(session: &str, delivery: &str) -> Vec<Writes> {
    let secret = |value: &str| json!({"value": value});
    let line = json!({"line": 1, "record": {"kind": "connection", "id": "imported", "org": "acme", "provider": "slack",
        "profile": "slack-acme", "account": {"team_id": "T00IMPORTED"}}});
    let profile = json!({"provider": "slack", "owner": "acme", "app_id": "A00ACMEOWN1", "signing_secret": secret("0a1b2c3d4e5f60718293a4b5c6d7e8f9")});
    let agent = json!({"org": "acme", "endpoint": "http://127.0.0.1:9/other", "signing_secret": secret("whsec_plJ3nmyCDGBKInavdOK15jsl")});
    vec![
        writes("POST", "/v1/apply", "/v1/apply", json!({"orgs": [{"id": "late"}]}), &["ApplyResources"]),
        writes(
            "PUT",
            "/v1/{kind}/{id}",
            "/v1/installations/late",
            json!({"profile": "slack-acme", "org": "acme", "account": {"team_id": "T00LATE"}}),
            &["ConnectInstallation"],
        ),
        writes("PUT", "/v1/{kind}/{id}", "/v1/agents/acme-agent", agent, &["ApplyResources", "RotateSecret"]),
        writes("PUT", "/v1/{kind}/{id}", "/v1/profiles/slack-acme", profile, &["RotateSecret"]),
        writes("POST", "/v1/secrets/{profile}/revoke", "/v1/secrets/slack-acme/revoke", Value::Null, &["RevokeSecret"]),
        writes(
            "POST",
            "/v1/secrets/{profile}/rotate",
            "/v1/secrets/slack-acme/rotate",
            json!({"signing_secret": secret("1a1b2c3d4e5f60718293a4b5c6d7e8f9")}),
            &["RotateSecret"],
        ),
        writes(
            "POST",
            "/v1/secrets/{profile}/rotate",
            "/v1/secrets/slack-acme/rotate",
            json!({"signing_secret": secret("2a1b2c3d4e5f60718293a4b5c6d7e8f9"), "overlap_s": 0}),
            &["RevokeSecret"],
        ),
        writes("POST", "/v1/import", "/v1/import", json!({"lines": [line], "last": true}), &["ConnectInstallation"]),
        writes("POST", "/v1/backfill", "/v1/backfill", json!({}), &["ApplyResources"]),
        writes(
            "POST",
            "/v1/simulate",
            "/v1/simulate",
            json!({"provider": "slack", "kind": "message", "installation": "slack-acme"}),
            &["SimulateWebhook"],
        ),
        writes("POST", "/v1/deliveries/{id}/replay", &format!("/v1/deliveries/{delivery}/replay"), Value::Null, &["ReplayDelivery"]),
        writes(
            "POST",
            "/v1/sessions/{id}/handoff",
            &format!("/v1/sessions/{session}/handoff"),
            json!({"agent": "acme-second"}),
            &["ApplyResources"],
        ),
        writes("POST", "/v1/sessions/{id}/close", "/v1/sessions/{open}/close", Value::Null, &["ApplyResources"]),
        // What is on already is not promoted; a promotion that is one needs evidence, and is shown by rollout.rs.
        writes("POST", "/v1/rollout/{provider}/promote", "/v1/rollout/slack/promote", json!({}), &["SetRolloutFlag"]),
        writes("POST", "/v1/rollout/global", "/v1/rollout/global", json!({"enabled": false}), &["RollBack"]),
        writes("POST", "/v1/rollout/global", "/v1/rollout/global", json!({"enabled": true}), &["SetRolloutFlag"]),
        writes("POST", "/v1/rollout/{provider}", "/v1/rollout/slack", json!({"stage": "canary", "percent": 50}), &["SetRolloutFlag"]),
        writes("POST", "/v1/rollout/{provider}/rollback", "/v1/rollout/slack/rollback", json!({"reason": "an outage"}), &["RollBack"]),
        writes("POST", "/v1/purge", "/v1/purge", json!({"installation": "slack-acme", "sender": "U00NOBODY"}), &["PurgePerson"]),
        writes("POST", "/v1/sweep", "/v1/sweep", Value::Null, &["ApplyResources"]),
        writes("POST", "/v1/keys/rotate", "/v1/keys/rotate", Value::Null, &["RotateKeys"]),
        writes("POST", "/v1/keys/prune", "/v1/keys/prune", Value::Null, &["RotateKeys"]),
        writes("DELETE", "/v1/{kind}/{id}", "/v1/bindings/slack-acme", Value::Null, &["ApplyResources"]),
        writes("DELETE", "/v1/{kind}/{id}", "/v1/installations/slack-acme", Value::Null, &["RevokeSecret"]),
        writes("DELETE", "/v1/{kind}/{id}", "/v1/orgs/late", Value::Null, &["ShredOrg"]),
        writes("POST", "/v1/orgs/{id}/shred", "/v1/orgs/acme/shred", json!({"confirm": "acme"}), &["ShredOrg"]),
    ]
}

/// The address that writes and is shown elsewhere: a run of the matrix needs somebody who plays it.
const ELSEWHERE: (&str, &str, &str) = ("POST", "/v1/matrix", "tests/it/matrix_run.rs what_is_not_played");

/// Methods and addresses of the operator listener that are not reads.
fn routed() -> BTreeSet<(String, String)> {
    let source = std::fs::read_to_string(here("src/http.rs")).unwrap();
    let (_, operator) = source.split_once("pub fn operator(").unwrap();
    let mut found = BTreeSet::new();
    for route in operator.split(".route(\"").skip(1) {
        let (address, handlers) = route.split_once('"').unwrap();
        let handlers = handlers.split("\n").next().unwrap();
        for (word, method) in [("post(", "POST"), ("put(", "PUT"), ("delete(", "DELETE"), ("patch(", "PATCH"), ("any(", "ANY")] {
            if handlers.contains(word) {
                found.insert((method.to_owned(), address.to_owned()));
            }
        }
    }
    assert!(found.len() > 15, "the router is read: {found:?}");
    found
}

#[test]
fn every_address_that_writes_is_known_here() {
    let known: BTreeSet<(String, String)> = all("", "")
        .iter()
        .map(|w| (w.method.to_owned(), w.address.to_owned()))
        .chain([(ELSEWHERE.0.to_owned(), ELSEWHERE.1.to_owned())])
        .collect();
    assert_eq!(routed(), known, "an address that writes has a question, and a line in this file");
    let (file, function) = ELSEWHERE.2.split_once(' ').unwrap();
    assert!(std::fs::read_to_string(here(file)).unwrap().contains(&format!("fn {function}(")), "{file} {function}");
}

/// A gateway with acme's own app, an event of it and a second agent; the session and the delivery of the event.
async fn bed() -> (TestGateway, String, String) {
    let gateway = TestGateway::start(NOW).await;
    let mut document = world::document_with_credentials(ProviderKind::Slack);
    let agents = document["agents"].as_array_mut().unwrap();
    agents.push(json!({"id": "acme-second", "org": "acme", "endpoint": "http://127.0.0.1:9/second",
        "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}));
    gateway.applied(&document).await;
    let app = world::acme(ProviderKind::Slack);
    assert_eq!(gateway.send(&super::support::webhook(&app, 1, gateway.clock.now())).await.status, 200);
    gateway.damage("UPDATE deliveries SET state = 'dead', settled_ms = 1, attempt = 9").await;
    let first = async |kind: &str| gateway.listed(kind, &["id"]).await[0]["id"].as_str().unwrap().to_owned();
    let (session, delivery) = (first("sessions").await, first("deliveries").await);
    (gateway, session, delivery)
}

/// The action of the decision behind each audit line after a number of them.
async fn asked_since(gateway: &TestGateway, seq: i64) -> Vec<String> {
    let rows = gateway
        .kept
        .rows(&format!("SELECT v.action FROM audit a JOIN verdicts v ON v.seq = a.verdict WHERE a.seq > {seq} ORDER BY a.seq"))
        .await;
    rows.iter().map(|row| row["action"].as_str().unwrap().to_owned()).collect()
}

async fn last_line(gateway: &TestGateway) -> i64 {
    gateway.kept.rows("SELECT COALESCE(MAX(seq), 0) AS n FROM audit").await[0]["n"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_that_writes_refuses_a_viewer_and_names_its_question() {
    let (gateway, session, delivery) = bed().await;
    for call in all(&session, &delivery) {
        let open = gateway.kept.rows("SELECT id FROM sessions WHERE status = 'active' ORDER BY id DESC LIMIT 1").await;
        let open = open.first().and_then(|row| row["id"].as_str()).unwrap_or_default().to_owned();
        let path = call.path.replace("{open}", &open);
        let refused = gateway.operate_as(VIEWER_TOKEN, call.method, &path, &call.body).await;
        assert_eq!(
            (refused.status, refused.json()["code"].as_str()),
            (403, Some("policy.no_permit")),
            "{} {path} by a viewer: {}",
            call.method,
            refused.text()
        );
        let before = last_line(&gateway).await;
        let done = gateway.operate_as(OPERATOR_TOKEN, call.method, &path, &call.body).await;
        assert!((200..300).contains(&done.status), "{} {path}: {}", call.method, done.text());
        let asked = asked_since(&gateway, before).await;
        for question in call.asks {
            // What changes nothing writes nothing: a backfill of no binding, a prune of no key, a promotion of what is on.
            let nothing = asked.is_empty() && ["/v1/backfill", "/v1/keys/prune", "/v1/rollout/{provider}/promote"].contains(&call.address);
            assert!(nothing || asked.iter().any(|a| a == question), "{} {path} asked {asked:?}, not {question}", call.method);
        }
    }
}

/// What a document may do to a secret, and what the operators' roles may do without the right to revoke.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_way_ends_a_secret_without_the_right_to_revoke() {
    let (gateway, ..) = bed().await;
    let account = json!({"team_id": "T00ACMEOWN1"});
    let profile = |secret: &str, previous: Value| {
        json!({"profiles": [{"id": "slack-acme", "provider": "slack", "owner": "acme", "app_id": "A00ACMEOWN1",
            "signing_secret": {"value": secret}, "previous_signing_secret": previous}]})
    };
    let new = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";
    let installation = |more: Value| {
        let mut declared = json!({"id": "slack-acme", "profile": "slack-acme", "org": "acme", "account": account});
        declared.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"installations": [declared]})
    };
    let app = world::acme(ProviderKind::Slack);
    let secrets = async || gateway.kept.rows("SELECT kind, owner, field, slot, until_ms FROM secrets ORDER BY 1, 2, 3, 4").await;
    let before = secrets().await;
    for token in [SINGLE_FACTOR_TOKEN, PLAIN_OPERATOR_TOKEN] {
        for (what, document) in [
            ("another secret as the previous one", profile(new, json!({"value": "1a1b2c3d4e5f60718293a4b5c6d7e8f9"}))),
            ("an overlap of a minute", profile(new, json!({"value": app.secret, "until": "2026-09-21T14:16:00.000Z"}))),
            ("an overlap that is over", profile(new, json!({"value": app.secret, "until": "2026-09-21T14:14:00.000Z"}))),
            ("revoked", installation(json!({"status": "revoked"}))),
            (
                "a credential that expires now",
                installation(json!({"credential": {"value": app.credential(), "expires_at": "2026-09-21T14:15:01.000Z"}})),
            ),
        ] {
            for path in ["/v1/apply", "/v1/apply?dry_run=true"] {
                let answer = gateway.operate_as(token, "POST", path, &document).await;
                assert_eq!((answer.status, answer.json()["code"].as_str()), (403, Some("policy.no_permit")), "{what}: {}", answer.text());
                assert!(answer.text().contains("RevokeSecret"), "{what}: {}", answer.text());
            }
        }
        for path in ["bindings/slack-acme", "installations/slack-acme"] {
            let status = gateway.operate_as(token, "DELETE", &format!("/v1/{path}"), &Value::Null).await.status;
            assert!([204, 403, 404].contains(&status), "{path}");
        }
    }
    assert_eq!(secrets().await, before, "nothing was ended");

    // What they may: a new secret with an overlap, a new credential in place of the old one.
    let answer = gateway.operate_as(PLAIN_OPERATOR_TOKEN, "POST", "/v1/apply", &profile(new, Value::Null)).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = gateway
        .operate_as(PLAIN_OPERATOR_TOKEN, "POST", "/v1/apply", &installation(json!({"credential": {"value": "xoxb-canary-other"}})))
        .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let audit = gateway.operate("GET", "/v1/audit?limit=20", &Value::Null).await;
    assert!(!audit.text().contains("xoxb-canary") && !audit.text().contains(new), "{}", audit.text());
    let rotated: Vec<Value> =
        audit.json()["items"].as_array().unwrap().iter().filter(|l| l["action"] == "secret.rotate").cloned().collect();
    let fields: Vec<&Value> = rotated.iter().map(|l| &l["detail"]["secrets"]).collect();
    assert_eq!(fields.len(), 2, "{audit:?}", audit = audit.text());
    assert!(fields[0]["credential"]["from"]["fingerprint"].is_string() && fields[0]["credential"]["to"]["fingerprint"].is_string());
    assert!(
        fields[1]["signing_secret"]["to"]["fingerprint"].is_string() && fields[1]["previous_signing_secret"]["to"]["until"].is_string()
    );
}

/// Every kind of secret, by every door that takes one, with blanks around it: the same text without them is no change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blanks_around_a_secret_are_no_part_of_it() {
    let gateway = TestGateway::start(NOW).await;
    let padded = |text: &str| json!({"value": format!("\u{feff} {text}\t\r\n")});
    let bare = |text: &str| json!({"value": text});
    type Form<'f> = &'f dyn Fn(&str) -> Value;
    let document = |form: Form<'_>| {
        let credential = |value: &str| {
            let mut credential = form(value);
            credential["expires_at"] = json!("2026-10-21T14:15:00.000Z");
            credential["refresh_token"] = form("xoxe-1-canary-refresh");
            credential
        };
        let mut previous = form("1a1b2c3d4e5f60718293a4b5c6d7e8f9");
        previous["until"] = json!("2026-09-22T14:15:00.000Z");
        json!({
            "orgs": [{"id": "acme"}],
            "agents": [{"id": "a", "org": "acme", "endpoint": "http://127.0.0.1:9/a",
                "signing_secret": form("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), "token": form("agt_7d1c0be25f3a4698")}],
            "profiles": [
                {"id": "s", "provider": "slack", "owner": "acme", "app_id": "A0ACME", "signing_secret": form("0a1b2c3d4e5f60718293a4b5c6d7e8f9"),
                    "previous_signing_secret": previous, "oauth": {"client_id": "1.2", "client_secret": form("canary-client-secret")}},
                {"id": "w", "provider": "whatsapp", "owner": "acme", "app_id": "77", "signing_secret": form("2a1c9d3b5a7e4826b1d0c9f8e7a65b44"),
                    "verify_token": form("canary-verify-token")},
                {"id": "t", "provider": "telegram", "owner": "acme", "signing_secret": form("plat_tg-4Qe7Rw2Lk9")},
            ],
            "installations": [{"id": "s", "profile": "s", "org": "acme", "account": {"team_id": "T0ACME"}, "credential": credential("xoxe.xoxb-1-canary")}],
        })
    };
    gateway.applied(&document(&padded)).await;
    let again = gateway.apply(&document(&bare)).await;
    let actions: Vec<Value> = again.json()["items"].as_array().unwrap().iter().map(|i| i["action"].clone()).collect();
    assert!(actions.len() == 6 && actions.iter().all(|a| a == "unchanged"), "{}", again.text());
    // By import, and by a rotation.
    let record = json!({"kind": "connection", "id": "i", "org": "acme", "provider": "slack", "profile": "s", "account": {"team_id": "T0OTHER"},
        "credential": padded("xoxb-canary-imported")});
    let answer = gateway.operate("POST", "/v1/import", &json!({"lines": [{"line": 1, "record": record}], "last": true})).await;
    assert_eq!(answer.json()["migrated"], 1, "{}", answer.text());
    let same = json!({"installations": [{"id": "i", "profile": "s", "org": "acme", "account": {"team_id": "T0OTHER"}, "credential": bare("xoxb-canary-imported")}]});
    assert_eq!(gateway.apply(&same).await.json()["items"][0]["action"], "unchanged");
    let rotated = gateway.operate("POST", "/v1/secrets/t/rotate", &json!({"signing_secret": padded("plat_tg-4Qe7Rw2Lk9")})).await;
    assert_eq!(rotated.json()["code"], "admin.secret_unchanged", "{}", rotated.text());
    // A document that is applied again ends and prolongs no overlap.
    gateway.clock.advance_ms(3_600_000);
    let mut open = document(&bare);
    open["profiles"][0]["previous_signing_secret"].as_object_mut().unwrap().remove("until");
    let again = gateway.apply(&open).await;
    assert!(again.json()["items"].as_array().unwrap().iter().all(|i| i["action"] == "unchanged"), "{}", again.text());
}
