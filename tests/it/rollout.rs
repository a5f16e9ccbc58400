//! From off through canary to on, and back: every guard, over the operator API and the command line.

use std::ops::RangeInclusive;

use byoa_gateway::app::Outfit;
use byoa_gateway::config::Config;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::gateway::{BUILD, TestGateway};
use super::support::world;

pub const NOW: i64 = 1_790_000_100;

pub struct Desk {
    pub gateway: TestGateway,
}

impl Desk {
    async fn start() -> Self {
        Self::outfitted(Outfit::default(), |_| {}).await
    }

    /// With what a gateway is given from above, and settings of its own.
    pub async fn outfitted(outfit: Outfit, tweak: impl FnOnce(&mut Config)) -> Self {
        let settings = |config: &mut Config| {
            config.rollout.initial.clear();
            config.rollout.min_canary_events = 2;
            tweak(config);
        };
        let gateway = TestGateway::start_outfitted(NOW, settings, outfit).await;
        gateway.applied(&world::document(ProviderKind::Slack)).await;
        Self { gateway }
    }

    /// Status and code, or the stage.
    pub async fn post(&self, path: &str, body: Value) -> String {
        let answer = self.gateway.operate("POST", &format!("/v1/rollout/{path}"), &body).await;
        let said = answer.json();
        let word = if answer.status == 200 { &said["stage"] } else { &said["code"] };
        format!("{} {}", answer.status, word.as_str().unwrap_or("-"))
    }

    pub async fn status(&self) -> Value {
        self.gateway.operate("GET", "/v1/rollout/slack", &Value::Null).await.json()["items"][0].clone()
    }

    /// A matrix run as the gateway stores it.
    pub async fn matrix_run(&self, seconds: i64, red: i64, version: Option<&str>, build: &str) {
        let version = match version {
            Some(version) => version.to_owned(),
            None => {
                let policies = self.gateway.operate("GET", "/v1/policies", &Value::Null).await.json();
                policies["active"]["version"].as_str().unwrap().to_owned()
            }
        };
        let at = self.gateway.clock.now().ms() + seconds * 1000;
        let sql = format!(
            "INSERT INTO matrix_runs (seq, id, at_ms, provider, policy_version, build, played, red, report_json) \
             VALUES (1 + MAX((SELECT COALESCE(MAX(seq), 0) FROM matrix_runs), (SELECT MAX(rolled_back_run) FROM flags)), 'run_1', {at}, 'slack', '{version}', '{build}', 12, {red}, '{{}}')"
        );
        self.gateway.damage(&sql).await;
    }

    /// Two events of acme's own app, and an hour.
    pub async fn soak(&self) {
        self.hear(&world::acme(ProviderKind::Slack), 1..=2).await;
        self.gateway.clock.advance_ms(3_600_000);
    }

    async fn hear(&self, app: &world::App, nonces: RangeInclusive<u64>) {
        for nonce in nonces {
            assert_eq!(self.gateway.send(&super::support::webhook(app, nonce, self.gateway.clock.now())).await.status, 200);
        }
    }

    /// In canary for acme, let in, on green evidence.
    async fn canary(&self) {
        assert_eq!(self.gateway.operate("POST", "/v1/rollout/global", &json!({"enabled": true})).await.status, 200);
        assert_eq!(self.post("slack", json!({"stage": "canary", "canary_orgs": ["acme"]})).await, "200 canary");
        self.matrix_run(0, 0, None, BUILD).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_guard_bites_and_the_way_through_is_open() {
    let desk = Desk::start().await;
    // Each on the heap: together they are more than a test thread's stack holds.
    Box::pin(what_is_no_change(&desk)).await;
    Box::pin(into_canary(&desk)).await;
    Box::pin(from_canary_to_on(&desk)).await;
    Box::pin(and_back(&desk)).await;
    let audit = desk.gateway.kept.rows("SELECT action, outcome, code FROM audit WHERE action LIKE 'rollout.%' ORDER BY seq").await;
    let told: Vec<String> = audit
        .iter()
        .map(|l| format!("{} {} {}", l["action"].as_str().unwrap(), l["outcome"].as_str().unwrap(), l["code"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(told.iter().filter(|l| l.ends_with("done -")).count(), 6, "{told:#?}");
    assert!(told.contains(&"rollout.promote refused rollout.gate_not_green".to_owned()));
}

async fn what_is_no_change(desk: &Desk) {
    // What is no change at all.
    assert_eq!(desk.post("viber", json!({"stage": "canary", "percent": 1})).await, "422 rollout.invalid");
    assert_eq!(desk.post("slack", json!({"stage": "canary"})).await, "422 rollout.canary_empty");
    assert_eq!(desk.post("slack", json!({"stage": "canary", "percent": 101})).await, "422 rollout.invalid");
    assert_eq!(desk.post("slack", json!({"stage": "canary", "canary_orgs": ["nobody"]})).await, "422 rollout.invalid");
    assert_eq!(desk.post("slack", json!({"stage": "half"})).await, "422 rollout.invalid");
    // Never from off to on, by whatever word.
    assert_eq!(desk.post("slack", json!({"stage": "on"})).await, "409 rollout.canary_required");
    assert_eq!(desk.post("slack/promote", json!({})).await, "409 rollout.canary_required");
    assert_eq!(desk.post("slack/rollback", json!({"reason": "no"})).await, "200 off");
    assert_eq!(desk.status().await["version"], 1);
}

async fn into_canary(desk: &Desk) {
    let own = world::acme(ProviderKind::Slack);
    let webhook = |nonce| super::support::webhook(&own, nonce, desk.gateway.clock.now());
    // A dry run changes nothing; then a canary for one org.
    let dry =
        desk.gateway.operate("POST", "/v1/rollout/slack", &json!({"stage": "canary", "canary_orgs": ["acme"], "dry_run": true})).await;
    assert_eq!(dry.json()["to"]["stage"], "canary");
    assert_eq!(desk.status().await["stage"], "off");
    assert_eq!(desk.post("slack", json!({"stage": "canary", "canary_orgs": ["acme"], "reason": "first"})).await, "200 canary");
    assert_eq!(desk.post("slack", json!({"canary_orgs": []})).await, "422 rollout.canary_empty");
    // Editing the list leaves the stage and its soak alone.
    desk.gateway.clock.advance_ms(60_000);
    assert_eq!(desk.post("slack", json!({"canary_orgs": ["acme", "globex"]})).await, "200 canary");
    assert_eq!(desk.status().await["soak"]["minutes"], 1);

    // The global switch is off: nothing enters, whatever the stage.
    assert_eq!(desk.gateway.send(&webhook(70)).await.status, 503);
    assert_eq!(desk.gateway.operate("POST", "/v1/rollout/global", &json!({"enabled": true})).await.status, 200);
    assert_eq!(desk.gateway.send(&webhook(70)).await.status, 200);
}

async fn from_canary_to_on(desk: &Desk) {
    let gate = "409 rollout.gate_not_green";
    // Evidence: none, red, for other policies, by another build, too old, of tomorrow.
    assert_eq!(desk.post("slack/promote", json!({})).await, gate);
    for (seconds, red, version, build) in
        [(0, 1, None, BUILD), (0, 0, Some("0123"), BUILD), (0, 0, None, "0.0.0"), (-86_401, 0, None, BUILD), (60, 0, None, BUILD)]
    {
        desk.matrix_run(seconds, red, version, build).await;
        assert_eq!(
            desk.post("slack/promote", json!({"force": true, "reason": "hurry"})).await,
            gate,
            "{seconds} {red} {version:?} {build}"
        );
    }
    // Green, and not soaked; by force with a reason, for whoever may.
    desk.matrix_run(0, 0, None, BUILD).await;
    assert_eq!(desk.status().await["matrix"]["green"], true);
    desk.gateway.damage("UPDATE matrix_runs SET played = 0").await;
    assert_eq!(desk.post("slack/promote", json!({})).await, gate, "a run of no cases");
    desk.gateway.damage("UPDATE matrix_runs SET played = 12").await;
    assert_eq!(desk.post("slack/promote", json!({})).await, "409 rollout.not_soaked");
    assert_eq!(desk.post("slack/promote", json!({"force": true})).await, "422 rollout.reason_required");
    desk.soak().await;
    // A clock that was set back is no soak.
    desk.gateway.clock.step_ms(-7_200_000);
    assert_eq!(desk.post("slack/promote", json!({})).await, gate, "evidence of tomorrow");
    desk.matrix_run(0, 0, None, BUILD).await;
    assert_eq!(desk.post("slack/promote", json!({})).await, "409 rollout.not_soaked");
    desk.gateway.clock.step_ms(7_200_000);
    assert_eq!(desk.post("slack/promote", json!({"version": 2})).await, "409 admin.version_conflict");
    assert_eq!(desk.post("slack/promote", json!({"reason": "soaked"})).await, "200 on");
    assert_eq!(desk.status().await["evidence"], "run_1");
    assert_eq!(desk.post("slack/promote", json!({})).await, "200 on");
}

async fn and_back(desk: &Desk) {
    let own = world::acme(ProviderKind::Slack);
    let webhook = |nonce| super::support::webhook(&own, nonce, desk.gateway.clock.now());
    let gate = "409 rollout.gate_not_green";
    // Back, at once, with a reason; the list is kept and the evidence void.
    assert_eq!(desk.post("slack/rollback", json!({})).await, "422 rollout.reason_required");
    assert_eq!(desk.post("slack/rollback", json!({"reason": "complaints"})).await, "200 off");
    assert_eq!(desk.gateway.send(&webhook(71)).await.status, 503);
    let status = desk.status().await;
    assert_eq!(status["canary_orgs"], json!(["acme", "globex"]));
    assert_eq!(desk.post("slack", json!({"stage": "canary"})).await, "200 canary");
    assert_eq!(desk.gateway.send(&webhook(71)).await.status, 200);
    let status = desk.status().await;
    assert_eq!(status["matrix"]["why_not"], "the last matrix run is from before the last roll-back");
    assert_eq!(desk.post("slack/promote", json!({"force": true, "reason": "hurry"})).await, gate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_legacy_bindings_that_are_left_are_counted() {
    let desk = Desk::start().await;
    assert_eq!(desk.status().await["legacy"], json!({}));
    let legacy = |id: &str, org: &str| json!({"id": id, "org": org, "agent": format!("{org}-agent"), "select": {"provider": "slack"}});
    desk.gateway.applied(&json!({"bindings": [legacy("old-1", "acme"), legacy("old-2", "acme"), legacy("old-3", "globex")]})).await;
    desk.gateway.damage("INSERT INTO legacy_uses VALUES ('old-2', 3, 1790000000000), ('old-3', 1, 1790000050000)").await;
    let wanted = json!({
        "acme": {"bindings": 2, "uses": 3, "last_used_at": "2026-09-21T14:13:20.000Z"},
        "globex": {"bindings": 1, "uses": 1, "last_used_at": "2026-09-21T14:14:10.000Z"},
    });
    assert_eq!(desk.status().await["legacy"], wanted);
    let telegram = desk.gateway.operate("GET", "/v1/rollout/telegram", &Value::Null).await.json();
    assert_eq!(telegram["items"][0]["legacy"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_operators_at_once_one_is_told_to_look_again() {
    let desk = Desk::start().await;
    let version = desk.status().await["version"].clone();
    let body = |org: &str| json!({"stage": "canary", "canary_orgs": [org], "version": version});
    let (one, other) = tokio::join!(desk.post("slack", body("acme")), desk.post("slack", body("globex")));
    let mut told = [one, other];
    told.sort();
    assert_eq!(told, ["200 canary", "409 admin.version_conflict"]);
    assert_eq!(desk.status().await["version"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_soak_is_time_and_events_of_the_tenants_own_apps_since_the_canary_began() {
    let (own, platform) = (world::acme(ProviderKind::Slack), world::platform(ProviderKind::Slack));
    let early = "409 rollout.not_soaked";
    let desk = Desk::start().await;
    desk.canary().await;
    desk.hear(&own, 1..=2).await;
    desk.gateway.clock.advance_ms(3_540_000);
    assert_eq!(desk.post("slack/promote", json!({})).await, early, "events, and not the time");
    desk.gateway.clock.advance_ms(60_000);
    assert_eq!(desk.post("slack/promote", json!({})).await, "200 on");

    assert_eq!(desk.post("slack/rollback", json!({"reason": "complaints"})).await, "200 off");
    desk.canary().await;
    desk.gateway.clock.advance_ms(3_600_000);
    assert_eq!(desk.post("slack/promote", json!({})).await, early, "the time, and events of the canary before");
    desk.hear(&platform, 11..=12).await;
    desk.hear(&own, 13..=13).await;
    assert_eq!(desk.post("slack/promote", json!({})).await, early, "one event and the platform's");
    desk.hear(&own, 14..=14).await;
    assert_eq!(desk.post("slack/promote", json!({})).await, "200 on");

    assert_eq!(desk.post("slack/rollback", json!({"reason": "complaints"})).await, "200 off");
    desk.gateway.clock.advance_ms(1_000);
    desk.canary().await;
    assert_eq!(desk.post("slack", json!({"canary_orgs": ["acme", "globex"]})).await, "200 canary");
    desk.hear(&world::globex(ProviderKind::Slack), 21..=22).await;
    desk.gateway.clock.advance_ms(3_600_000);
    assert_eq!(desk.post("slack", json!({"canary_orgs": ["acme"]})).await, "200 canary");
    assert_eq!(desk.post("slack/promote", json!({})).await, early, "events of an org that is not in the canary any more");
    assert_eq!(desk.post("slack", json!({"canary_orgs": ["acme", "globex"]})).await, "200 canary");
    assert_eq!(desk.post("slack/promote", json!({})).await, "200 on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_who_turn_the_global_switches_at_once_one_does() {
    let desk = Desk::start().await;
    let status = desk.gateway.operate("GET", "/v1/rollout", &Value::Null).await.json();
    let body = json!({"enabled": true, "version": status["global"]["version"]});
    let told = futures_util::future::join_all((0..8).map(|_| desk.post("global", body.clone()))).await;
    let conflicts = told.iter().filter(|t| *t == "409 admin.version_conflict").count();
    assert_eq!((conflicts, told.iter().filter(|t| *t == "200 -").count()), (7, 1), "{told:?}");
    assert_eq!(desk.post("global", body).await, "409 admin.version_conflict", "planned against what was");
}
