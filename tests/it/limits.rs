//! Failure budgets and quotas: who is over one is told so, nothing is written for it, and nobody else notices.

use std::collections::BTreeMap;

use byoa_gateway::domain::ids::OrgId;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::support::gateway::{OPERATOR_TOKEN, TestGateway};
use super::support::raw::{Connection, Request, Response, once};
use super::support::world::{self, App};
use super::support::{copy, sign, webhook};

const NOW: i64 = 1_790_000_100;
const SLACK: ProviderKind = ProviderKind::Slack;
const WHATSAPP: ProviderKind = ProviderKind::WhatsApp;

/// A webhook that somebody else signed.
fn forged(app: &App, gateway: &TestGateway) -> Request {
    let stranger = App { secret: "6d1f0a9b8c7e5d4f3a2b1c0d9e8f7a6b", ..app.clone() };
    webhook(&stranger, 1, gateway.clock.now())
}

fn body(app: &App, kind: &str, nonce: u64, gateway: &TestGateway) -> Value {
    let (account, now) = (app.external(), gateway.clock.now());
    let conversation = if app.provider == SLACK { "C00HELPDESK" } else { "16505550123" };
    let sample = Sample { kind, account: &account, app_id: Some(app.app_id), conversation, text: "hello", nonce, now };
    serde_json::from_slice(&providers::of(app.provider).sample(&sample).unwrap().0).unwrap()
}

fn signed(app: &App, body: &Value, gateway: &TestGateway) -> Request {
    let body = serde_json::to_vec(body).unwrap();
    let proof = sign(app.provider, &body, app.secret, gateway.clock.now());
    Request::post(&app.path(), body).header("content-type", "application/json").headers(proof)
}

fn refused(answer: &Response, retry_after: &str) {
    assert_eq!((answer.status, answer.text().as_str(), answer.header("retry-after")), (429, "refused\n", Some(retry_after)));
}

async fn numbers(gateway: &TestGateway, sql: &str) -> Vec<Value> {
    gateway.kept.rows(sql).await.into_iter().flat_map(|row| row.as_object().unwrap().values().cloned().collect::<Vec<_>>()).collect()
}

async fn usage(gateway: &TestGateway, org: &str) -> Value {
    let answer = gateway.operate("GET", &format!("/v1/orgs/{org}"), &Value::Null).await;
    answer.json()["usage"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_bad_signatures_is_told_to_wait_writes_nothing_and_valid_webhooks_go_in_between() {
    for provider in ProviderKind::ALL {
        let gateway = TestGateway::start(NOW).await;
        gateway.applied(&world::document(provider)).await;
        let (acme, globex) = (world::acme(provider), world::globex(provider));
        let before = gateway.kept.counts().await;
        let (mut statuses, mut valid) = (BTreeMap::new(), 0);
        let mut connection = Connection::open(gateway.public).await;
        for n in 0..1_500 {
            let answer = connection.send(&forged(&acme, &gateway)).await.expect("the listener answers");
            assert_eq!(answer.text(), "refused\n");
            *statuses.entry(answer.status).or_insert(0) += 1;
            if n % 100 == 50 {
                for app in [&acme, &globex] {
                    valid += 1;
                    assert_eq!(gateway.send(&webhook(app, 1_000 + n, gateway.clock.now())).await.status, 200, "{provider}, {n}");
                }
            }
        }
        assert_eq!(statuses, BTreeMap::from([(401, 100), (429, 1_400)]), "{provider}");
        let after = gateway.kept.counts().await;
        assert_eq!(after["events"] - before["events"], valid);
        assert_eq!((after["audit"] - before["audit"], after["refusals"] - before["refusals"]), (valid, 0), "{provider}");
        // Counted, and told in one line for each reason.
        let kept = gateway.drain().await;
        let lines = kept.rows("SELECT code, detail_json FROM audit WHERE action = 'request.refuse' ORDER BY code DESC").await;
        let details: Vec<&str> = lines.iter().map(|l| l["detail_json"].as_str().unwrap()).collect();
        assert_eq!(lines[0]["code"], "authn.throttled");
        assert_eq!(
            details,
            [format!(r#"{{"provider":"{provider}","count":1400}}"#), format!(r#"{{"provider":"{provider}","count":100}}"#)]
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_trusted_has_no_budget_of_its_own() {
    let gateway = TestGateway::start_with(NOW, |config| {
        config.limits.failures_per_address_per_minute = 2;
        config.limits.failures_per_ingress_per_minute = 5;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    gateway.applied(&world::document(SLACK)).await;
    let mut statuses = Vec::new();
    for app in [world::acme(SLACK), world::globex(SLACK)] {
        for _ in 0..7 {
            statuses.push(gateway.send(&forged(&app, &gateway)).await.status);
        }
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 401, 401, 401, 401, 401, 429, 429]);
}

/// Every door with a token or a ticket, each in its own shape.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_nobodys_are_within_the_same_budget_at_every_door() {
    let gateway = TestGateway::start_with(NOW, |config| config.limits.failures_per_address_per_minute = 1).await;
    gateway.applied(&world::document_with_credentials(SLACK)).await;
    let nobody = |request: Request| request.header("authorization", "Bearer agt_nobody_0000000000");
    let doors = [
        ("messages", nobody(Request::post("/v1/messages", "{}").json()), "authn.token_unknown"),
        ("media", nobody(Request::get("/v1/media/ticket")), "authn.token_unknown"),
        ("slack", nobody(Request::post("/sdk/slack/api/chat.postMessage", "{}").json()), "authn.token_unknown"),
        ("telegram", Request::post("/sdk/telegram/bot1:nobody/getMe", "{}").json(), "authn.token_unknown"),
        ("whatsapp", nobody(Request::post("/sdk/whatsapp/v23.0/118000000000001/messages", "{}").json()), "authn.token_unknown"),
        ("reply", Request::post("/sdk/slack/respond/nobodys-ticket", "{}").json(), "egress.not_found"),
    ];
    for (door, request, code) in &doors {
        let first = gateway.send(request).await;
        assert!(first.status != 429 && first.text().contains(code), "{door}: {}", first.text());
        let second = gateway.send(request).await;
        assert_eq!((second.status, second.header("retry-after")), (429, Some("60")), "{door}: {}", second.text());
        assert!(second.text().contains("authn.throttled") && !second.text().contains(code), "{door}: {}", second.text());
        gateway.clock.advance_ms(60_000);
    }
    let operate = |token: &'static str| gateway.operate_as(token, "GET", "/v1/orgs", &Value::Null);
    let told = [operate("opr_nobody_00000000").await, operate("opr_nobody_00000000").await].map(|a| (a.status, a.json()["code"].clone()));
    assert_eq!(told, [(401, json!("admin.unauthenticated")), (429, json!("authn.throttled"))]);
    assert_eq!(operate(OPERATOR_TOKEN).await.status, 200);
    let metrics = gateway.metrics().await;
    let throttled = |door: &str| metrics.get(&format!("byoa_throttled_total{{door=\"{door}\"}}")).copied();
    assert_eq!((throttled("agent"), throttled("operator"), throttled("webhook")), (Some(6.0), Some(1.0), None));
}

/// An address that was removed goes on saying so: providers act on that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_address_answers_410_however_often_it_is_asked() {
    let gateway = TestGateway::start_with(NOW, |config| config.limits.failures_per_address_per_minute = 1).await;
    gateway.applied(&world::document(SLACK)).await;
    let app = world::acme(SLACK);
    for path in ["bindings/slack-acme", "installations/slack-acme", "profiles/slack-acme"] {
        assert_eq!(gateway.operate("DELETE", &format!("/v1/{path}"), &Value::Null).await.status, 204, "{path}");
    }
    for _ in 0..5 {
        assert_eq!(gateway.send(&webhook(&app, 1, gateway.clock.now())).await.status, 410);
    }
    assert_eq!(gateway.send(&forged(&world::globex(SLACK), &gateway)).await.status, 401, "none of them counted");
}

/// One notification about two orgs of one app: what is over its quota comes again, the rest is committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_about_two_orgs_keeps_what_is_within_its_quota_and_is_asked_for_again() {
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world::document(WHATSAPP)).await;
    let app = world::platform(WHATSAPP);
    let shared = App { account: "118000000000009", waba: "109000000000009", ..app.clone() };
    let quotas = json!({"events_per_second": 1, "burst": 1});
    gateway
        .applied(&json!({
            "orgs": [{"id": "acme", "name": "Acme Inc", "quotas": quotas}],
            "installations": [{"id": "shared-globex", "profile": app.profile, "org": "globex", "account": world::account_json(&shared.external())}],
            "bindings": [{"id": "shared-globex", "org": "globex", "installation": "shared-globex", "agent": "globex-agent"}],
        }))
        .await;
    let of = |sql_org: &str| format!("SELECT COUNT(*) FROM events WHERE org = '{sql_org}'");
    assert_eq!(gateway.send(&signed(&app, &body(&app, "message", 1, &gateway), &gateway)).await.status, 200);

    let (mut both, globex) = (body(&app, "batch", 2, &gateway), body(&shared, "message", 3, &gateway));
    both["entry"].as_array_mut().unwrap().extend(globex["entry"].as_array().unwrap().clone());
    refused(&gateway.send(&signed(&app, &both, &gateway)).await, "1");
    assert_eq!((numbers(&gateway, &of("acme")).await, numbers(&gateway, &of("globex")).await), (vec![json!(1)], vec![json!(1)]));
    // Asked again too early, and then in time; two events go through a bucket of one when it is full.
    refused(&gateway.send(&signed(&app, &both, &gateway)).await, "1");
    gateway.clock.advance_ms(1_000);
    assert_eq!(gateway.send(&signed(&app, &both, &gateway)).await.status, 200);
    assert_eq!((numbers(&gateway, &of("acme")).await, numbers(&gateway, &of("globex")).await), (vec![json!(3)], vec![json!(1)]));
    refused(&gateway.send(&signed(&app, &body(&app, "message", 4, &gateway), &gateway)).await, "2");
    assert_eq!(gateway.send(&signed(&app, &both, &gateway)).await.status, 200, "a repeat of what was accepted");
    let kept = gateway.drain().await;
    let lines = kept.rows("SELECT target, org, code, detail_json FROM audit WHERE action = 'request.refuse'").await;
    assert_eq!(
        lines,
        [
            json!({"target": "whatsapp-platform", "org": "acme", "code": "quota.events_rate", "detail_json": r#"{"provider":"whatsapp","count":5}"#})
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_says_of_its_installation_holds_though_the_event_is_over_quota() {
    let gateway = TestGateway::start_with(NOW, |config| config.quotas.open_deliveries = 1).await;
    gateway.applied(&world::document_with_credentials(SLACK)).await;
    let app = world::acme(SLACK);
    assert_eq!(gateway.send(&webhook(&app, 1, gateway.clock.now())).await.status, 200);
    let uninstalled = signed(&app, &body(&app, "uninstalled", 2, &gateway), &gateway);
    refused(&gateway.send(&uninstalled).await, "60");
    let status = "SELECT json_extract(body, '$.status') FROM resources WHERE kind = 'installations' AND id = 'slack-acme'";
    assert_eq!(numbers(&gateway, status).await, [json!("revoked")]);
    assert_eq!(numbers(&gateway, "SELECT COUNT(*) FROM events").await, [json!(1)]);
    // The end of the installation ended its deliveries, so there is room again.
    assert_eq!(usage(&gateway, "acme").await["open_deliveries"], json!({"used": 0, "limit": 1}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_bytes_are_those_of_the_rows_after_events_a_restart_and_a_shredding() {
    const SUMS: &str = "SELECT org, SUM(octet_length(content)) AS bytes FROM events GROUP BY org ORDER BY org";
    const KEPT: &str = "SELECT org, stored_bytes AS bytes FROM org_usage WHERE stored_bytes > 0 ORDER BY org";
    let gateway = TestGateway::start(NOW).await;
    gateway.applied(&world::document(SLACK)).await;
    let requests: Vec<Request> = (0..40)
        .map(|n| webhook(&if n % 3 == 0 { world::globex(SLACK) } else { world::acme(SLACK) }, 10 + n, gateway.clock.now()))
        .collect();
    let sends = requests.iter().chain(&requests[..5]).map(|request| once(gateway.public, request));
    assert!(futures_util::future::join_all(sends).await.iter().all(|answer| answer.as_ref().unwrap().status == 200));
    let sums = gateway.kept.rows(SUMS).await;
    assert_eq!((sums.len(), gateway.kept.rows(KEPT).await), (2, sums.clone()));
    let used = async |gateway: &TestGateway| {
        (usage(gateway, "acme").await["stored_bytes"]["used"].clone(), usage(gateway, "globex").await["open_deliveries"]["used"].clone())
    };
    assert_eq!(used(&gateway).await, (sums[0]["bytes"].clone(), json!(14)));

    // As an earlier build left it: the sums are made from the rows.
    let kept = gateway.drain().await;
    let mut file = kept.open().await;
    sqlx::raw_sql("DROP TABLE org_usage; DELETE FROM _sqlx_migrations WHERE version = 13").execute(&mut file).await.unwrap();
    file.close().await.unwrap();
    let copied = tempfile::tempdir().unwrap();
    copy(kept.folder(), copied.path());
    let gateway = TestGateway::start_in(copied, NOW, |_| {}).await;
    assert_eq!(gateway.kept.rows(KEPT).await, sums);
    assert_eq!(used(&gateway).await, (sums[0]["bytes"].clone(), json!(14)));

    assert_eq!(gateway.operate("POST", "/v1/orgs/acme/shred", &json!({"confirm": "acme"})).await.json()["finished"], json!(true));
    assert_eq!(gateway.kept.rows(KEPT).await, sums[1..]);
    assert_eq!(gateway.store().usage(&OrgId::parse("acme").unwrap()).stored_bytes, 0);
    assert_eq!(used(&gateway).await, (json!(0), json!(14)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orgs_quotas_are_declared_shown_and_read_strictly() {
    let gateway = TestGateway::start_with(NOW, |config| config.quotas.events_per_second = 9).await;
    let declare = async |quotas: Value| gateway.apply(&json!({"orgs": [{"id": "acme", "quotas": quotas}]})).await;
    for wrong in [json!({"events_per_secnd": 1}), json!({"open_deliveries": -1}), json!({"burst": 1.5}), json!(5)] {
        let answer = declare(wrong.clone()).await;
        assert_eq!((answer.status, answer.json()["code"].clone()), (422, json!("admin.resource_invalid")), "{wrong}");
    }
    let quotas = json!({"events_per_second": 50, "burst": 100, "open_deliveries": 10_000, "stored_bytes": 1_073_741_824_u64});
    assert_eq!(declare(quotas.clone()).await.status, 200);
    let org = gateway.operate("GET", "/v1/orgs/acme", &Value::Null).await.json();
    assert_eq!(org["quotas"], quotas);
    assert_eq!(
        org["usage"],
        json!({
            "events_per_second": {"limit": 50, "burst": 100}, "open_deliveries": {"used": 0, "limit": 10_000},
            "stored_bytes": {"used": 0, "limit": 1_073_741_824_u64}, "refusals_today": {"used": 0, "limit": 10_000},
        })
    );
    // What is left out of a resource is what the settings say.
    assert_eq!(gateway.apply(&json!({"orgs": [{"id": "acme"}]})).await.status, 200);
    let org = gateway.operate("GET", "/v1/orgs/acme", &Value::Null).await.json();
    assert_eq!((org.get("quotas"), &org["usage"]["events_per_second"]), (None, &json!({"limit": 9, "burst": 9})));
}
