//! Legacy bindings in both directions, accounts that two hold, and what may not be written into a resource.

use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::rollout::RolloutStage;
use serde_json::{Value, json};

use super::sessions::Talk;
use super::support::fakes::FakeProvider;
use super::support::raw::{Request, Response};
use super::support::world;

const SLACK: ProviderKind = ProviderKind::Slack;

/// Acme has its own app and no other; its binding names the provider only.
fn legacy(document: &mut Value) {
    let without_platform = |items: &mut Value| items.as_array_mut().unwrap().retain(|i| i["id"] != "slack-platform");
    without_platform(&mut document["installations"]);
    without_platform(&mut document["bindings"]);
    for installation in document["installations"].as_array_mut().unwrap() {
        installation["credential"] = json!({"value": "xoxb-111111111111-abcdefabcdef"});
    }
    let own = document["bindings"].as_array_mut().unwrap().iter_mut().find(|b| b["org"] == "acme").unwrap();
    *own = json!({"id": "acme-legacy", "org": "acme", "select": {"provider": "slack"}, "agent": "acme-agent"});
}

/// The platform's app at acme: a second installation that `slack` could mean.
fn second() -> Value {
    json!({"id": "slack-platform", "profile": "slack-platform", "org": "acme", "account": {"team_id": "T00PLATACME"}})
}

async fn list(talk: &Talk, target: &str) -> Vec<Value> {
    talk.gateway.operate("GET", target, &Value::Null).await.json()["items"].as_array().unwrap().clone()
}

async fn hear(talk: &Talk, nonce: u64) -> u16 {
    talk.hear(&talk.app.path(), nonce, |body| body).await
}

async fn refusals(talk: &Talk) -> Vec<Value> {
    list(talk, "/v1/refusals").await.iter().map(|r| r["code"].clone()).collect()
}

async fn say(talk: &Talk, key: &str, body: &Value) -> Response {
    let request = Request::post("/v1/messages", serde_json::to_vec(body).unwrap())
        .json()
        .header("authorization", "Bearer agt_acme_3kd9slw02mfj47")
        .header("idempotency-key", key);
    talk.gateway.send(&request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_binding_is_used_where_it_can_mean_one_installation() {
    let talk = Talk::start(SLACK, legacy).await;
    assert_eq!((hear(&talk, 1).await, hear(&talk, 1).await), (200, 200), "the second is a repeat");
    let events = list(&talk, "/v1/events").await;
    assert_eq!((events.len(), &events[0]["legacy"], &events[0]["binding"]), (1, &json!(true), &json!("acme-legacy")), "{events:?}");
    let journey = talk.gateway.operate("GET", &format!("/v1/events/{}", events[0]["id"].as_str().unwrap()), &Value::Null).await.json();
    let asked: Vec<&str> = journey["decisions"].as_array().unwrap().iter().map(|d| d["action"].as_str().unwrap()).collect();
    assert_eq!((asked, &journey["legacy"]), (vec!["EnterRollout", "UseLegacyRoute", "RouteMessage"], &json!(true)));
    let session = &journey["session"];
    assert_eq!((&session["legacy"], &session["binding"]), (&json!(true), &json!("acme-legacy")), "{session}");

    let counted = talk.gateway.metrics().await;
    assert_eq!(counted.get("byoa_legacy_fallback_total{provider=\"slack\"}"), Some(&1.0));
    let used = list(&talk, "/v1/audit?id=acme-legacy").await;
    assert_eq!((used.len(), &used[0]["action"], &used[0]["policies"]), (1, &json!("route.legacy"), &json!(["legacy.route"])), "{used:?}");
    let shown = list(&talk, "/v1/bindings?org=acme").await;
    assert_eq!(
        (&shown[0]["legacy"], &shown[0]["uses"], shown[0]["last_used_at"].is_string()),
        (&json!(true), &json!(1), true),
        "{shown:?}"
    );
    let doctor = list(&talk, "/v1/doctor").await;
    let left = doctor.iter().find(|c| c["check"] == "orgs/acme legacy bindings").unwrap();
    assert!(left["ok"] == false && left["detail"].as_str().unwrap().starts_with("1 left, used 1 times"), "{left}");
    assert!(!doctor.iter().any(|c| c["check"] == "orgs/globex legacy bindings"), "globex has none");
    assert!(doctor.iter().any(|c| c["check"] == "installations/slack-acme bindings" && c["ok"] == true), "the legacy one hears it");

    // A second installation of the provider: the binding no longer says which.
    talk.gateway.applied(&json!({"installations": [second()]})).await;
    assert_eq!(hear(&talk, 2).await, 200);
    assert_eq!(refusals(&talk).await, ["routing.ambiguous_installation"]);
    let mut other = second();
    other["status"] = json!("suspended");
    talk.gateway.applied(&json!({"installations": [other]})).await;
    assert_eq!(hear(&talk, 3).await, 200);
    assert_eq!((list(&talk, "/v1/events").await.len(), refusals(&talk).await.len()), (2, 1), "one is left again");

    // The installation's own goes first, and then nobody uses the other.
    let own = json!({"id": "acme-own", "org": "acme", "installation": "slack-acme", "agent": "acme-agent"});
    talk.gateway.applied(&json!({"bindings": [own]})).await;
    assert_eq!(hear(&talk, 4).await, 200);
    let events = list(&talk, "/v1/events").await;
    assert_eq!((&events[0]["binding"], events[0].get("legacy")), (&json!("acme-own"), None));
    assert_eq!(list(&talk, "/v1/bindings?org=acme").await[0]["uses"], json!(2));
    assert_eq!(talk.gateway.operate("DELETE", "/v1/bindings/acme-legacy", &Value::Null).await.status, 204);
    assert_eq!(talk.gateway.kept.rows("SELECT * FROM legacy_uses").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_not_used_where_the_switch_the_selector_or_the_app_says_no() {
    let talk = Talk::start(SLACK, legacy).await;
    talk.gateway.damage("UPDATE flags SET legacy_fallback = 0 WHERE name = 'global'").await;
    assert_eq!(hear(&talk, 1).await, 200);
    assert_eq!(refusals(&talk).await, ["policy.no_permit"], "switched off");
    talk.gateway.damage("UPDATE flags SET legacy_fallback = 1 WHERE name = 'global'").await;
    for (nonce, select, mode) in [
        (2, json!({"provider": "telegram"}), Value::Null),
        (3, json!({"provider": "slack", "channel": "C0OTHER"}), Value::Null),
        (4, json!({"provider": "slack"}), json!("platform")),
    ] {
        talk.gateway.operate("DELETE", "/v1/bindings/acme-legacy", &Value::Null).await;
        let binding = json!({"id": "acme-legacy", "org": "acme", "select": select, "mode": mode, "agent": "acme-agent"});
        talk.gateway.applied(&json!({"bindings": [binding]})).await;
        assert_eq!(hear(&talk, nonce).await, 200);
        assert_eq!(refusals(&talk).await[0], "routing.no_route", "{select} {mode}");
    }
    assert_eq!(talk.gateway.kept.counts().await["events"], 0);

    // A platform app has no legacy route: the law says so.
    let platform = Talk {
        app: world::platform(SLACK),
        ..Talk::start(SLACK, |document| {
            let of_platform = |i: &Value| i["id"] == "slack-platform";
            document["installations"].as_array_mut().unwrap().retain(of_platform);
            document["bindings"] = json!([{"id": "wide", "org": "acme", "select": {"provider": "slack"}, "agent": "acme-agent"}]);
        })
        .await
    };
    assert_eq!(hear(&platform, 1).await, 200);
    assert_eq!(refusals(&platform).await, ["policy.no_permit"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_org_that_the_rollout_does_not_let_in_keeps_its_legacy_route_in_both_directions() {
    let provider = FakeProvider::start().await;
    provider.answers(200, json!({"ok": true, "ts": "1.2"}));
    let api_base = provider.api_base();
    let talk = Talk::start_with(
        SLACK,
        |config| {
            config.rollout.initial.insert(SLACK, RolloutStage::Off);
            config.providers.slack.api_base = api_base;
        },
        |document| {
            legacy(document);
            let own = json!({"id": "acme-own", "org": "acme", "installation": "slack-acme", "agent": "acme-agent"});
            document["bindings"].as_array_mut().unwrap().push(own);
        },
    )
    .await;
    assert_eq!(hear(&talk, 1).await, 200);
    let events = list(&talk, "/v1/events").await;
    assert_eq!((&events[0]["binding"], &events[0]["legacy"]), (&json!("acme-legacy"), &json!(true)), "its own binding is not for it yet");
    let session = talk.sessions().await[0]["id"].clone();
    let sent = say(&talk, "k1", &json!({"session": session, "text": "hi"})).await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    assert_eq!(provider.next().await.path, "/chat.postMessage");
    assert_eq!(talk.gateway.metrics().await.get("byoa_legacy_fallback_total{provider=\"slack\"}"), Some(&2.0), "one each way");
    assert_eq!(talk.gateway.operate("GET", "/v1/bindings/acme-legacy", &Value::Null).await.json()["uses"], 2);

    // Where rolling back leaves no legacy route, and where there is none, the provider shall try again.
    talk.gateway.damage("UPDATE flags SET rollback_mode = 'installation_identity' WHERE name = 'global'").await;
    assert_eq!(hear(&talk, 2).await, 503);
    assert_eq!(say(&talk, "k2", &json!({"session": session, "text": "hi"})).await.json()["code"], "rollout.stage_off");
    talk.gateway.damage("UPDATE flags SET rollback_mode = 'legacy_provider_only' WHERE name = 'global'").await;
    talk.gateway.applied(&json!({"installations": [second()]})).await;
    assert_eq!(hear(&talk, 2).await, 503, "two installations: not this route either");
    assert_eq!(say(&talk, "k3", &json!({"session": session, "text": "hi"})).await.json()["code"], "rollout.stage_off");
    let suspended = json!({"id": "slack-platform", "profile": "slack-platform", "org": "acme", "account": {"team_id": "T00PLATACME"}, "status": "revoked"});
    talk.gateway.applied(&json!({"installations": [suspended]})).await;
    assert_eq!(hear(&talk, 2).await, 200, "the provider's retry");
    talk.gateway.operate("DELETE", "/v1/bindings/acme-legacy", &Value::Null).await;
    assert_eq!(hear(&talk, 3).await, 503, "no legacy route");
    assert_eq!((talk.gateway.kept.counts().await["events"], provider.unseen().is_none()), (2, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_only_a_legacy_binding_ties_speaks_where_that_would_resolve() {
    let provider = FakeProvider::start().await;
    provider.answers(200, json!({"ok": true, "ts": "1.2"}));
    let api_base = provider.api_base();
    let talk = Talk::start_with(SLACK, |config| config.providers.slack.api_base = api_base, legacy).await;
    let message = json!({"installation": "slack-acme", "conversation": "C1", "text": "hi"});
    assert_eq!(say(&talk, "k1", &message).await.status, 200);
    provider.next().await;
    talk.gateway.applied(&json!({"installations": [second()]})).await;
    let refused = say(&talk, "k2", &message).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("policy.no_permit")), "{}", refused.text());
    assert!(provider.unseen().is_none(), "nothing left");
    let last = &list(&talk, "/v1/decisions").await[..2];
    let actions: Vec<&str> = last.iter().map(|d| d["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["SendMessage", "UseLegacyRoute"], "both are on record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_two_hold_is_nobodys() {
    for provider in ProviderKind::ALL {
        let talk = Talk::start(provider, |_| {}).await;
        assert_eq!(hear(&talk, 1).await, 200);
        let (acme, globex) = (world::acme(provider), world::globex(provider));
        // Two owners: rows that the database would not have taken.
        let change = |id: &str, from: &str, to: &str| {
            format!("UPDATE resources SET body = replace(body, '{from}', '{to}') WHERE kind = 'installations' AND id = '{id}'")
        };
        talk.gateway.damage(&change(&globex.profile, globex.account, acme.account)).await;
        assert_eq!(hear(&talk, 2).await, 503, "{provider}: two owners");
        let globex_talk = Talk { gateway: talk.gateway, app: world::App { account: acme.account, ..globex.clone() } };
        let own_waba = |body: String| body;
        assert_eq!(globex_talk.hear(&globex.path(), 3, own_waba).await, 503, "{provider}: neither is believed");
        let talk = Talk { gateway: globex_talk.gateway, app: acme.clone() };
        talk.gateway.damage(&change(&globex.profile, acme.account, globex.account)).await;
        assert_eq!(hear(&talk, 4).await, 200, "{provider}: repaired");
        // Two installations of one app.
        let twin = format!(
            "INSERT INTO resources SELECT kind, 'twin', org, replace(body, '\"id\":\"{0}\"', '\"id\":\"twin\"'), created_ms, updated_ms \
             FROM resources WHERE kind = 'installations' AND id = '{0}'",
            acme.profile
        );
        talk.gateway.damage(&twin).await;
        assert_eq!(hear(&talk, 5).await, 503, "{provider}: two of one app");
        let metrics = talk.gateway.metrics().await;
        let counted: f64 = metrics.iter().filter(|(k, _)| k.contains("authn.route_ambiguous")).map(|(_, n)| n).sum();
        assert_eq!((counted, talk.gateway.kept.counts().await["events"]), (3.0, 2), "{provider}: {metrics:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_handles_and_addresses_are_no_ids() {
    let talk = Talk::start(SLACK, |_| {}).await;
    talk.gateway.applied(&world::document(ProviderKind::Telegram)).await;
    let code = async |document: Value| {
        let answer = talk.gateway.apply(&document).await;
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    let mutable = (422, "admin.principal_mutable".to_owned());
    for (selector, value) in [
        ("peer", "@alice"),
        ("peer", "alice@example.com"),
        ("peer", "Alice Smith"),
        ("peer", "#alice"),
        ("channel", "#help"),
        ("channel", "@acme_news"),
        ("team", "Acme Inc"),
        ("account", "ops@example.com"),
        ("thread", "the one before"),
    ] {
        let mut binding = json!({"id": "b", "org": "acme", "installation": "slack-acme", "agent": "acme-agent", "select": {}});
        binding["select"][selector] = json!(value);
        assert_eq!(code(json!({"bindings": [binding]})).await, mutable, "{selector}: {value}");
    }
    let shared =
        json!({"id": "t", "profile": "telegram-platform", "org": "acme", "account": {"bot_id": "7000000001", "chats": ["@acme_news"]}});
    assert_eq!(code(json!({"installations": [shared]})).await, mutable, "a chat by its handle");
    let stable =
        json!({"id": "b", "org": "acme", "installation": "slack-acme", "agent": "acme-agent", "select": {"peer": "U1", "thread": "1.2"}});
    assert_eq!(code(json!({"bindings": [stable]})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_an_identity_is_set_once() {
    let talk = Talk::start(SLACK, |_| {}).await;
    talk.gateway.applied(&world::document(ProviderKind::Telegram)).await;
    talk.gateway.applied(&world::document(ProviderKind::WhatsApp)).await;
    let put = async |path: &str, body: Value| {
        let answer = talk.gateway.operate("PUT", path, &body).await;
        (answer.status, answer.json()["code"].as_str().unwrap_or_default().to_owned())
    };
    let fixed = (422, "admin.field_immutable".to_owned());
    for (id, account) in [
        ("slack-acme", json!({"team_id": "T0OTHER"})),
        ("slack-acme", json!({"enterprise_id": "E0OTHER"})),
        ("slack-acme", json!({"team_id": "T00ACMEOWN1", "enterprise_id": "E0OTHER"})),
        ("telegram-acme", json!({"bot_id": "7009"})),
        ("whatsapp-acme", json!({"waba_id": "1", "phone_number_id": "118000000000002"})),
        ("whatsapp-acme", json!({"waba_id": "109000000000002", "phone_number_id": "1"})),
    ] {
        let body = json!({"profile": id, "org": "acme", "account": account});
        assert_eq!(put(&format!("/v1/installations/{id}"), body).await, fixed, "{id} {account}");
    }
    let installation = |extra: Value| {
        let mut body = json!({"profile": "slack-acme", "org": "acme", "account": {"team_id": "T00ACMEOWN1"}});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    assert_eq!(put("/v1/installations/slack-acme", installation(json!({"mode": "platform"}))).await, fixed);
    assert_eq!(put("/v1/installations/slack-acme", installation(json!({"mode": "byoa"}))).await.0, 200, "what it is may be said");
    assert_eq!(put("/v1/installations/slack-acme", installation(json!({"profile": "slack-platform"}))).await, fixed);
    let profile = |extra: Value| {
        let mut body = world::acme(SLACK).profile_json();
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    for change in [
        json!({"app_id": "A0OTHER"}),
        json!({"app_id": null}),
        json!({"owner": "platform"}),
        json!({"owner": "globex"}),
        json!({"mode": "platform"}),
        json!({"provider": "telegram"}),
        json!({"ingress_id": "another-address-0123"}),
    ] {
        assert_eq!(put("/v1/profiles/slack-acme", profile(change.clone())).await, fixed, "{change}");
    }
    let binding = |installation: &str, extra: Value| {
        let mut body = json!({"org": "acme", "installation": installation, "agent": "acme-agent"});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    assert_eq!(put("/v1/bindings/slack-acme", binding("slack-acme", json!({"mode": "platform"}))).await, fixed);
    assert_eq!(put("/v1/bindings/slack-acme", binding("slack-platform", json!({}))).await, fixed, "that would be another mode");
    let unbound = json!({"org": "acme", "agent": "acme-agent", "select": {"provider": "slack"}});
    assert_eq!(put("/v1/bindings/slack-acme", unbound.clone()).await, fixed, "none becomes a legacy one");
    assert_eq!(put("/v1/bindings/new", unbound).await.0, 201);
    assert_eq!(put("/v1/bindings/new", binding("slack-acme", json!({}))).await.0, 200, "a legacy one is told which it means");
    let nameless = (422, "admin.resource_invalid".to_owned());
    assert_eq!(put("/v1/bindings/other", json!({"org": "acme", "agent": "acme-agent"})).await, nameless, "it must name its provider");
    let fallback = json!({"org": "acme", "agent": "acme-agent", "select": {"provider": "slack"}, "allow_platform_fallback": true});
    assert_eq!(put("/v1/bindings/other", fallback).await, nameless);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_legacy_binding_for_the_platforms_app_ties_nobody_to_a_tenants_own() {
    let provider = FakeProvider::start().await;
    provider.answers(200, json!({"ok": true, "ts": "1.2"}));
    let api_base = provider.api_base();
    let talk = Talk::start_with(SLACK, |config| config.providers.slack.api_base = api_base, legacy).await;
    let binding = json!({"id": "acme-platform", "org": "acme", "select": {"provider": "slack"}, "mode": "platform", "agent": "acme-agent"});
    talk.gateway.operate("DELETE", "/v1/bindings/acme-legacy", &Value::Null).await;
    talk.gateway.applied(&json!({"bindings": [binding]})).await;
    let refused = say(&talk, "k1", &json!({"installation": "slack-acme", "conversation": "C1", "text": "hi"})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("policy.no_permit")), "{}", refused.text());
    assert!(provider.unseen().is_none(), "nothing left");
}
