//! A profile's signing secret is replaced, over the API and over the command line: both verify while the overlap lasts, the
//! old one ends with it or at once, and nobody else's app notices.

use std::process::Command;

use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};

use super::support::gateway::{OPERATOR_TOKEN, PLAIN_OPERATOR_TOKEN, TestGateway};
use super::support::raw::Request;
use super::support::sign;
use super::support::world::{self, App};

const NOW: i64 = 1_790_000_100;
const NEW: &str = "5a7e4826b1d0c9f8e7a65b431f0c9d3b";
const NEWER: &str = "c9f8e7a65b431f0c9d3b5a7e4826b1d0";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Door {
    Api,
    Cli,
}

struct Bed {
    gateway: TestGateway,
    nonce: std::cell::Cell<u64>,
}

impl Bed {
    async fn start(provider: ProviderKind) -> Self {
        let gateway = TestGateway::start(NOW).await;
        gateway.applied(&world::document(provider)).await;
        Self { gateway, nonce: std::cell::Cell::new(1) }
    }

    /// A message to the app, proved with this secret; the status it is answered with.
    async fn webhook(&self, app: &App, secret: &str) -> u16 {
        let (account, now) = (app.external(), self.gateway.clock.now());
        let nonce = self.nonce.replace(self.nonce.get() + 1);
        let sample =
            Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation: "C0HELP", text: "hi", nonce, now };
        let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
        let signed = sign(app.provider, &body, secret, now);
        self.gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await.status
    }

    async fn previous_used(&self, provider: ProviderKind) -> f64 {
        let series = format!("byoa_secret_previous_used_total{{provider=\"{provider}\"}}");
        self.gateway.metrics().await.get(&series).copied().unwrap_or(0.0)
    }

    async fn cli(&self, args: &[&str]) -> (i32, String) {
        let operator = format!("http://{}", self.gateway.operator);
        let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
        command.current_dir(self.gateway.kept.folder()).args(args).args(["--server", &operator]);
        command.env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN).env("TEST_NEW_SECRET", NEW);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!text.contains(NEW) && !text.contains(NEWER), "{text}");
        (output.status.code().unwrap(), text)
    }

    /// Puts `NEW` in force with an overlap of an hour.
    async fn rotate(&self, door: Door, app: &App) {
        match door {
            Door::Api => {
                let body = json!({"signing_secret": {"value": NEW}, "overlap_s": 3600});
                let answer = self.gateway.operate("POST", &format!("/v1/secrets/{}/rotate", app.profile), &body).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                assert_eq!(answer.json()["previous_signing_secret"]["until"], "2026-09-21T15:15:00.000Z");
                assert!(!answer.text().contains(NEW), "{}", answer.text());
            }
            Door::Cli => {
                let (code, said) = self.cli(&["secrets", "rotate", &app.profile, "--new", "env:TEST_NEW_SECRET", "--overlap", "60m"]).await;
                assert_eq!((code, said.contains("verifies until 2026-09-21T15:15:00.000Z")), (0, true), "{said}");
            }
        }
    }

    async fn revoke(&self, door: Door, app: &App) {
        match door {
            Door::Api => {
                let answer = self.gateway.operate("POST", &format!("/v1/secrets/{}/revoke", app.profile), &Value::Null).await;
                assert_eq!((answer.status, answer.json().get("previous_signing_secret")), (200, None), "{}", answer.text());
            }
            Door::Cli => {
                let (code, said) = self.cli(&["secrets", "revoke", &app.profile]).await;
                assert_eq!((code, said.contains("no other verifies")), (0, true), "{said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_secrets_verify_while_the_overlap_lasts_and_the_old_one_ends_with_it() {
    for (provider, door) in ProviderKind::ALL.into_iter().flat_map(|p| [(p, Door::Api), (p, Door::Cli)]) {
        let bed = Bed::start(provider).await;
        let (app, neighbours) = (world::acme(provider), [world::platform(provider), world::globex(provider)]);
        assert_eq!(bed.webhook(&app, NEW).await, 401, "{provider}: not yet");
        bed.rotate(door, &app).await;
        assert_eq!((bed.webhook(&app, NEW).await, bed.previous_used(provider).await), (200, 0.0), "{provider} {door:?}");
        assert_eq!((bed.webhook(&app, app.secret).await, bed.previous_used(provider).await), (200, 1.0), "{provider} {door:?}");
        for neighbour in &neighbours {
            assert_eq!((bed.webhook(neighbour, neighbour.secret).await, bed.webhook(neighbour, NEW).await), (200, 401), "{provider}");
        }
        bed.gateway.clock.advance_ms(3_600_000);
        assert_eq!(bed.webhook(&app, app.secret).await, 200, "{provider}: to its last moment");
        bed.gateway.clock.advance_ms(1);
        assert_eq!((bed.webhook(&app, app.secret).await, bed.webhook(&app, NEW).await), (401, 200), "{provider} {door:?}: it is over");
        let kept = bed.gateway.drain().await;
        let lines = kept
            .rows("SELECT action, target, org, outcome, json_remove(detail_json, '$.secrets') AS detail_json FROM audit WHERE action LIKE 'secret.%'")
            .await;
        let detail = r#"{"overlap_s":3600,"until":"2026-09-21T15:15:00.000Z"}"#;
        let line = json!({"action": "secret.rotate", "target": format!("profiles/{}", app.profile), "org": "acme", "outcome": "done", "detail_json": detail});
        assert_eq!(lines, [line]);
        let verified = kept.rows("SELECT json_extract(meta_json, '$.verified_with') AS slot, COUNT(*) AS n FROM events WHERE installation LIKE '%-acme' GROUP BY 1").await;
        assert_eq!(verified, [json!({"slot": "current", "n": 2}), json!({"slot": "previous", "n": 2})], "{provider}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_secret_verifies_nothing_from_the_next_request_on() {
    for (provider, door) in ProviderKind::ALL.into_iter().flat_map(|p| [(p, Door::Api), (p, Door::Cli)]) {
        let bed = Bed::start(provider).await;
        let (app, other) = (world::acme(provider), world::platform(provider));
        bed.rotate(door, &app).await;
        assert_eq!(bed.webhook(&app, app.secret).await, 200);
        bed.revoke(door, &app).await;
        assert_eq!((bed.webhook(&app, app.secret).await, bed.webhook(&app, NEW).await), (401, 200), "{provider} {door:?}");
        assert_eq!(bed.webhook(&other, other.secret).await, 200);
        let again = bed.gateway.operate("POST", &format!("/v1/secrets/{}/revoke", app.profile), &Value::Null).await;
        assert_eq!((again.status, again.json()["code"].as_str()), (409, Some("admin.nothing_to_revoke")));
        let kept = bed.gateway.drain().await;
        let lines = kept
            .rows("SELECT a.action, a.outcome, v.policies_json AS by FROM audit a JOIN verdicts v ON v.seq = a.verdict WHERE a.action LIKE 'secret.%' ORDER BY a.seq")
            .await;
        let line = |action: &str, by: &str| json!({"action": action, "outcome": "done", "by": format!("[\"{by}\"]")});
        assert_eq!(lines, [line("secret.rotate", "operate.rotate.security"), line("secret.revoke", "operate.revoke.security")]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_rotation_is_refused_by_name_and_changes_nothing() {
    let bed = Bed::start(ProviderKind::Slack).await;
    let app = world::acme(ProviderKind::Slack);
    let path = format!("/v1/secrets/{}/rotate", app.profile);
    let new = |value: &str, overlap: i64| json!({"signing_secret": {"value": value}, "overlap_s": overlap});
    let before = bed.gateway.kept.rows("SELECT * FROM secrets ORDER BY kind, owner, field, slot").await;
    for (what, path, body, status, code) in [
        ("nobody's", "/v1/secrets/nobody/rotate", new(NEW, 60), 404, "admin.not_found"),
        ("no id", "/v1/secrets/No%20Id/rotate", new(NEW, 60), 404, "admin.not_found"),
        ("empty", &path, new("", 60), 422, "admin.secret_required"),
        ("blank", &path, new("  ", 60), 422, "admin.secret_required"),
        ("a placeholder", &path, new("changeme", 60), 422, "admin.secret_placeholder"),
        ("too short", &path, new("8f742231b10e8", 60), 422, "admin.secret_weak"),
        ("the one in force", &path, new(app.secret, 60), 422, "admin.secret_unchanged"),
        ("an overlap before now", &path, new(NEW, -1), 422, "admin.overlap_invalid"),
        ("an overlap over a week", &path, new(NEW, 604_801), 422, "admin.overlap_invalid"),
        ("an overlap beyond all numbers", &path, new(NEW, i64::MAX), 422, "admin.overlap_invalid"),
        ("no secret", &path, json!({"overlap_s": 60}), 422, "admin.resource_invalid"),
        ("a bare secret", &path, json!({"signing_secret": NEW}), 422, "admin.resource_invalid"),
        ("a file of the gateway's", &path, json!({"signing_secret": {"file": "/etc/hostname"}}), 422, "admin.resource_invalid"),
        ("a word too many", &path, json!({"signing_secret": {"value": NEW}, "force": true}), 422, "admin.resource_invalid"),
    ] {
        let answer = bed.gateway.operate("POST", path, &body).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{what}: {}", answer.text());
        assert!(!answer.text().contains(NEW), "{what}: {}", answer.text());
    }
    assert_eq!(bed.gateway.kept.rows("SELECT * FROM secrets ORDER BY kind, owner, field, slot").await, before);
    assert_eq!(bed.cli(&["secrets", "rotate", &app.profile, "--new", "env:NOT_THERE"]).await.0, 2);
    assert_eq!(bed.cli(&["secrets", "rotate", &app.profile, "--new", NEW, "--overlap", "8d"]).await.0, 1);
    assert_eq!(bed.cli(&["secrets", "rotate", &app.profile, "--new", NEW, "--overlap", "soon"]).await.0, 2);
    std::fs::write(bed.gateway.kept.folder().join("new.secret"), format!("{NEW}\n")).unwrap();
    assert_eq!(bed.cli(&["secrets", "rotate", &app.profile, "--new", "file:new.secret"]).await.0, 0);
    assert_eq!(bed.webhook(&app, NEW).await, 200);

    // Two verify already.
    let third = bed.gateway.operate("POST", &path, &new(NEWER, 60)).await;
    assert_eq!((third.status, third.json()["code"].as_str()), (409, Some("admin.overlap_running")), "{}", third.text());
    // Without an overlap it is put in force alone, which ends a secret at once: only who may revoke may do that.
    let by_operator = bed.gateway.operate_as(PLAIN_OPERATOR_TOKEN, "POST", &path, &new(NEWER, 0)).await;
    assert_eq!((by_operator.status, bed.webhook(&app, app.secret).await), (403, 200), "{}", by_operator.text());
    assert_eq!(bed.gateway.operate("POST", &path, &new(NEWER, 0)).await.status, 200);
    for (secret, status) in [(NEWER, 200), (NEW, 401), (app.secret, 401)] {
        assert_eq!(bed.webhook(&app, secret).await, status);
    }
    // An overlap that is over does not stand in the way of the next.
    // One of a minute ends it too, for all that anybody can do in a minute.
    let by_operator = bed.gateway.operate_as(PLAIN_OPERATOR_TOKEN, "POST", &path, &new(NEW, 60)).await;
    assert_eq!(by_operator.status, 403, "{}", by_operator.text());
    assert_eq!(bed.gateway.operate("POST", &path, &new(NEW, 60)).await.status, 200);
    bed.gateway.clock.advance_ms(61_000);
    assert_eq!(bed.gateway.operate("POST", &format!("/v1/secrets/{}/revoke", app.profile), &Value::Null).await.status, 409);
    assert_eq!(bed.gateway.operate("POST", &path, &new(NEWER, 60)).await.status, 200);
    assert_eq!(
        bed.gateway.operate_as(PLAIN_OPERATOR_TOKEN, "POST", &format!("/v1/secrets/{}/revoke", app.profile), &Value::Null).await.status,
        403
    );
}
