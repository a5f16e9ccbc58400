//! Master keys: a new one takes over every sealed row while all of them open, wherever the process is killed; and what becomes
//! of rows whose key, place or bytes are not theirs.

use std::process::Command;

use byoa_gateway::config::Config;
use byoa_gateway::crypto::envelope::{KeyRing, Purpose};
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::fakes::FakeProvider;
use super::support::gateway::{OPERATOR_TOKEN, PLAIN_OPERATOR_TOKEN, SINGLE_FACTOR_TOKEN, TestGateway, open};
use super::support::raw::{Request, once};
use super::support::world::{self, App};
use super::support::{copy, sign};

const NOW: i64 = 1_790_000_100;
const ACME: &str = "agt_acme_3kd9slw02mfj47";
const SLACK: ProviderKind = ProviderKind::Slack;

struct Bed {
    gateway: TestGateway,
    nonce: std::cell::Cell<u64>,
}

/// A provider that takes every message, and what points a gateway at it.
async fn provider() -> (FakeProvider, impl Fn(&mut Config)) {
    let api = FakeProvider::start().await;
    api.answers(200, json!({"ok": true, "ts": "1.2"}));
    let base = api.api_base();
    (api, move |config: &mut Config| config.providers.slack.api_base = base.clone())
}

impl Bed {
    /// Slack's world with a credential for acme.
    async fn start(tweak: impl FnOnce(&mut Config)) -> Self {
        let gateway = TestGateway::start_with(NOW, tweak).await;
        let mut document = world::document(SLACK);
        for installation in document["installations"].as_array_mut().unwrap() {
            installation["credential"] = json!({"value": format!("xoxb-canary-{}", installation["id"].as_str().unwrap())});
        }
        gateway.applied(&document).await;
        Self { gateway, nonce: std::cell::Cell::new(1) }
    }

    /// What a killed process would have left at this moment: nothing is being written.
    fn image(&self) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        copy(self.gateway.kept.folder(), dir.path());
        dir
    }

    async fn resume(dir: TempDir, tweak: impl FnOnce(&mut Config)) -> Self {
        Self { gateway: TestGateway::start_in(dir, NOW, tweak).await, nonce: std::cell::Cell::new(1_000) }
    }

    fn next(&self) -> u64 {
        self.nonce.replace(self.nonce.get() + 1)
    }

    async fn webhook(&self, app: &App) -> u16 {
        let (account, now, nonce) = (app.external(), self.gateway.clock.now(), self.next());
        let sample =
            Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation: "C0HELP", text: "hi", nonce, now };
        let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
        let signed = sign(app.provider, &body, app.secret, now);
        self.gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await.status
    }

    async fn say(&self, installation: &str) -> (u16, String) {
        let body = json!({"installation": installation, "conversation": format!("C{}", self.next()), "text": "hi"});
        let request = Request::post("/v1/messages", body.to_string())
            .json()
            .header("authorization", format!("Bearer {ACME}"))
            .header("idempotency-key", format!("key-{}", self.next()));
        let answer = once(self.gateway.public, &request).await.unwrap();
        (answer.status, answer.json()["code"].as_str().unwrap_or("sent").to_owned())
    }

    /// Every secret of the world does its work: webhooks, an agent's token, credentials, deliveries' signatures.
    async fn all_open(&self, when: &str) {
        for app in [world::platform(SLACK), world::acme(SLACK), world::globex(SLACK)] {
            assert_eq!(self.webhook(&app).await, 200, "{when}: {}", app.profile);
        }
        for installation in ["slack-acme", "slack-platform"] {
            assert_eq!(self.say(installation).await, (200, "sent".to_owned()), "{when}: {installation}");
        }
        let doctor = self.gateway.operate("GET", "/v1/doctor", &Value::Null).await.json();
        let shut: Vec<&Value> = doctor["items"].as_array().unwrap().iter().filter(|i| i["ok"] != true).collect();
        assert!(shut.is_empty(), "{when}: {shut:?}");
    }

    async fn keys(&self) -> Value {
        self.gateway.operate("GET", "/v1/keys", &Value::Null).await.json()
    }

    async fn rotate(&self, body: Value) -> Value {
        let answer = self.gateway.operate("POST", "/v1/keys/rotate", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Until nothing of a rotation is left, which a start sees to by itself.
    async fn ended(&self) -> Value {
        loop {
            let keys = self.keys().await;
            if keys["rows_left"] == 0 {
                return keys;
            }
        }
    }
}

fn states(keys: &Value) -> Vec<String> {
    keys["items"].as_array().unwrap().iter().map(|k| format!("{} {}", k["state"].as_str().unwrap(), k["rows"])).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_killed_at_every_step_goes_on_and_every_row_opens_throughout() {
    let (_api, tweak) = provider().await;
    let base = Bed::start(&tweak).await;
    let all = base.keys().await["items"][0]["rows"].as_u64().unwrap();
    assert_eq!(
        all, 5,
        "the lookup key, the content key, two orgs' keys, the platform's signing secret; what is an org's lies under its key"
    );
    let mut steps = Vec::new();
    // The key is in the file and nothing more; once with what a torn write left beside it.
    for torn in [false, true] {
        let dir = base.image();
        let file = dir.path().join("data/master.keys");
        let both = std::fs::read_to_string(&file).unwrap() + &"0f1e2d3c".repeat(8) + "\n";
        std::fs::write(&file, both).unwrap();
        if torn {
            std::fs::write(dir.path().join("data/master.keys.new"), "0f1e2d").unwrap();
        }
        steps.push((0, dir));
    }
    // So many rows are taken over.
    for rows in 1..=all {
        let step = Bed::resume(base.image(), &tweak).await;
        let answer = step.rotate(json!({"rows_max": rows})).await;
        assert_eq!((answer["resealed"].as_u64(), answer["rows_left"].as_u64()), (Some(rows), Some(all - rows)), "{answer}");
        step.all_open(&format!("after {rows} rows")).await;
        steps.push((rows, step.image()));
    }
    for (rows, dir) in steps {
        let when = format!("killed after {rows} rows and started again");
        let bed = Bed::resume(dir, &tweak).await;
        bed.all_open(&when).await;
        let keys = bed.ended().await;
        assert_eq!(states(&keys), ["unused 0".to_owned(), format!("current {all}")], "{when}");
        let again = bed.rotate(json!({"resume": true})).await;
        assert_eq!((&again["made"], &again["resealed"], &again["finished"]), (&Value::Null, &json!(0), &json!(true)), "{when}");
        bed.all_open(&when).await;
        let pruned = bed.gateway.operate("POST", "/v1/keys/prune", &Value::Null).await.json();
        assert_eq!((pruned["removed"].as_array().map(Vec::len), states(&pruned)), (Some(1), vec![format!("current {all}")]), "{when}");
        bed.all_open("without the old key").await;
        let last = Bed::resume(bed.image(), &tweak).await;
        last.all_open("started without the old key").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_that_was_left_is_ended_before_another_begins() {
    let (_api, tweak) = provider().await;
    let bed = Bed::start(&tweak).await;
    let first = bed.rotate(json!({"rows_max": 3})).await;
    assert!(first["made"].is_string() && first["finished"] == false, "{first}");
    let second = bed.rotate(json!({})).await;
    assert_eq!((&second["made"], &second["rows_left"], &second["finished"]), (&Value::Null, &json!(0), &json!(true)), "{second}");
    let third = bed.rotate(json!({})).await;
    assert!(third["made"].is_string() && third["made"] != first["made"], "{third}");
    assert_eq!(states(&third)[..2], ["unused 0", "unused 0"]);
    bed.all_open("after two keys").await;
    // What is sealed from now on, is sealed with the new key; and a secret moves to the previous slot as it lies.
    let rotate = json!({"signing_secret": {"value": "5a7e4826b1d0c9f8e7a65b431f0c9d3b"}});
    assert_eq!(bed.gateway.operate("POST", "/v1/secrets/slack-acme/rotate", &rotate).await.status, 200);
    assert_eq!(bed.webhook(&world::acme(SLACK)).await, 200);
    assert_eq!(states(&bed.keys().await)[..2], ["unused 0", "unused 0"]);
    let kept = bed.gateway.drain().await;
    let lines = kept.rows("SELECT action, COUNT(*) AS n FROM audit WHERE action LIKE 'keys.%' GROUP BY action").await;
    let line = |action: &str, n: i64| json!({"action": action, "n": n});
    assert_eq!(lines, [line("keys.content", 1), line("keys.lookup", 1), line("keys.reseal", 3), line("keys.rotate", 2)]);
    let file = std::fs::read_to_string(kept.folder().join("data/master.keys")).unwrap();
    assert_eq!(file.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_are_the_security_teams_with_a_second_factor_and_never_shown() {
    let bed = Bed::start(|_| {}).await;
    for (token, path) in [SINGLE_FACTOR_TOKEN, PLAIN_OPERATOR_TOKEN].into_iter().flat_map(|t| [(t, "rotate"), (t, "prune")]) {
        let answer = bed.gateway.operate_as(token, "POST", &format!("/v1/keys/{path}"), &Value::Null).await;
        assert_eq!(answer.status, 403, "{}", answer.text());
    }
    let file = bed.gateway.kept.folder().join("data/master.keys");
    let before = std::fs::read_to_string(&file).unwrap();
    assert_eq!(before.lines().count(), 1);
    let said = bed.rotate(json!({})).await.to_string() + &bed.keys().await.to_string();
    for key in std::fs::read_to_string(&file).unwrap().lines() {
        assert!(!said.contains(&key[..16]), "{said}");
    }
    assert_eq!(bed.gateway.operate("POST", "/v1/keys/rotate", &json!({"force": true})).await.json()["code"], "admin.resource_invalid");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_rotates_shows_and_prunes() {
    let (_api, tweak) = provider().await;
    let bed = Bed::start(&tweak).await;
    let cli = async |args: &[&str], operator: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
        command.current_dir(bed.gateway.kept.folder()).args(args).args(["--server", operator]).env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap(), text)
    };
    let operator = format!("http://{}", bed.gateway.operator);
    let (code, said) = cli(&["keys", "rotate"], &operator).await;
    assert!(code == 0 && said.contains("seals from now on") && said.contains(" 0 left") && said.contains("--prune"), "{code} {said}");
    let (code, said) = cli(&["keys", "status"], &operator).await;
    assert!(code == 0 && said.contains("current") && said.contains("unused"), "{code} {said}");
    let (code, said) = cli(&["keys", "rotate", "--prune"], &operator).await;
    assert_eq!((code, said.matches("removed from the key file").count()), (0, 2), "{said}");
    assert_eq!(states(&bed.keys().await).len(), 1);
    bed.all_open("after the command").await;
    assert_eq!(cli(&["keys", "rotate"], "http://127.0.0.1:1").await.0, 2, "no gateway runs");
    // A row that opens nowhere is told of and keeps nothing up.
    bed.gateway.damage("UPDATE secrets SET sealed = substr(sealed, 1, 70) WHERE kind = 'profiles' AND owner = 'slack-platform'").await;
    let (code, said) = cli(&["keys", "rotate", "--prune"], &operator).await;
    assert!(code == 1 && said.contains("profiles/slack-platform signing_secret"), "{code} {said}");
    assert_eq!(states(&bed.keys().await).len(), 2, "its key stays");
    let (code, said) = cli(&["keys", "rotate"], &operator).await;
    assert!(code == 1 && said.contains("seals from now on"), "{code} {said}");
    assert_eq!((bed.webhook(&world::platform(SLACK)).await, bed.webhook(&world::acme(SLACK)).await), (503, 200), "but for that one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_environment_are_not_ours_to_change_and_a_start_takes_a_new_one_up() {
    let (_api, tweak) = provider().await;
    let bed = Bed::start(&tweak).await;
    let (dir, key) = (bed.image(), std::fs::read_to_string(bed.gateway.kept.folder().join("data/master.keys")).unwrap());
    std::fs::remove_file(dir.path().join("data/master.keys")).unwrap();
    let start = async |dir: TempDir, keys: String| Bed {
        gateway: TestGateway::start_with_keys(dir, NOW, Some(keys), &tweak).await.unwrap(),
        nonce: std::cell::Cell::new(9_000),
    };
    let bed = start(dir, key.trim().to_owned()).await;
    let answer = bed.gateway.operate("POST", "/v1/keys/rotate", &json!({})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("key.environment")), "{}", answer.text());
    bed.all_open("refused").await;
    let bed = start(bed.image(), format!("{},{}", key.trim(), "0f1e2d3c".repeat(8))).await;
    assert_eq!(states(&bed.ended().await)[0], "unused 0");
    bed.all_open("taken up").await;
    let last = start(bed.image(), "0f1e2d3c".repeat(8)).await;
    last.all_open("alone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_altered_or_copied_row_is_told_apart_and_nothing_else_is_taken_in_its_place() {
    let (api, tweak) = provider().await;
    let row = |kind: &str, field: &str| format!("kind = '{kind}' AND owner = 'slack-acme' AND field = '{field}'");
    let cases = [
        (
            "another tenant's",
            "sealed = (SELECT sealed FROM secrets s WHERE s.kind = secrets.kind AND s.owner = 'slack-globex' AND s.field = secrets.field)",
            "vault.secret_context",
        ),
        ("its ciphertext altered", "sealed = substr(sealed, 1, length(sealed) - 1) || x'00'", "vault.secret_corrupt"),
        ("its key's name altered", "sealed = substr(sealed, 1, 1) || x'0011223344556677' || substr(sealed, 10)", "vault.secret_corrupt"),
        ("its context altered", "sealed = substr(sealed, 1, 9) || zeroblob(32) || substr(sealed, 42)", "vault.secret_corrupt"),
        ("cut off", "sealed = substr(sealed, 1, 20)", "vault.secret_corrupt"),
        ("of a form to come", "sealed = x'09' || substr(sealed, 2)", "vault.secret_corrupt"),
    ];
    for (what, set, code) in cases {
        let bed = Bed::start(&tweak).await;
        bed.gateway.damage(&format!("UPDATE secrets SET {set} WHERE {}", row("profiles", "signing_secret"))).await;
        bed.gateway.damage(&format!("UPDATE secrets SET {set} WHERE {}", row("installations", "credential"))).await;
        assert_eq!(bed.webhook(&world::acme(SLACK)).await, 503, "{what}");
        assert_eq!(bed.webhook(&world::globex(SLACK)).await, 200, "{what}: the neighbour");
        assert_eq!(bed.say("slack-acme").await, (503, code.to_owned()), "{what}");
        assert!(api.unseen().is_none(), "{what}: no other credential was taken");
        assert_eq!(bed.say("slack-platform").await.0, 200, "{what}: the neighbour");
        assert!(api.unseen().is_some());
        let kept = bed.gateway.drain().await;
        let lines = kept.rows(&format!("SELECT action, target FROM audit WHERE code = '{code}' ORDER BY action")).await;
        assert_eq!(
            (lines.len(), &lines[0]["action"], &lines[1]),
            (2, &json!("message.send"), &json!({"action": "request.refuse", "target": "slack-acme"})),
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_under_a_key_that_is_not_there_are_our_trouble_and_never_a_strangers() {
    let (_api, tweak) = provider().await;
    let base = Bed::start(&tweak).await;
    let all = base.keys().await["items"][0]["rows"].as_u64().unwrap();
    // All but the last row, the platform's signing secret, have gone over when their key is lost.
    base.rotate(json!({"rows_max": all - 1})).await;
    let keys = std::fs::read_to_string(base.gateway.kept.folder().join("data/master.keys")).unwrap();
    let keys: Vec<&str> = keys.lines().collect();
    let bed = Bed {
        gateway: TestGateway::start_with_keys(base.image(), NOW, Some(keys[1].to_owned()), &tweak).await.unwrap(),
        nonce: std::cell::Cell::new(2_000),
    };
    assert_eq!(bed.webhook(&world::platform(SLACK)).await, 503);
    assert_eq!((bed.webhook(&world::acme(SLACK)).await, bed.say("slack-acme").await.0), (200, 200), "the others");
    assert_eq!(states(&bed.keys().await), [format!("current {}", all - 1), "not_loaded 1".to_owned()]);
    let kept = bed.gateway.drain().await;
    assert_eq!(kept.rows("SELECT target FROM audit WHERE code = 'vault.key_unknown'").await, [json!({"target": "slack-platform"})]);
    // The key comes back, and with it the row.
    let bed = Bed {
        gateway: TestGateway::start_with_keys(base.image(), NOW, Some(keys.join(",")), &tweak).await.unwrap(),
        nonce: std::cell::Cell::new(3_000),
    };
    bed.ended().await;
    bed.all_open("put back").await;
    // Without the key that agents' tokens are looked up by every agent would be a stranger: then it does not start.
    let failure = TestGateway::start_with_keys(base.image(), NOW, Some(keys[0].to_owned()), &tweak).await.err().unwrap();
    assert!(failure.code.as_str() == "key.missing" && failure.detail.contains("not loaded"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_build_sealed_keeps_its_fingerprints() {
    // Such a build kept no lookup key: fingerprints hung on the first master key.
    let (_api, tweak) = provider().await;
    let old = Bed::start(&tweak).await;
    let file = old.gateway.kept.folder().join("data/master.keys");
    let mut key = [0u8; 32];
    hex::decode_to_slice(std::fs::read_to_string(file).unwrap().trim(), &mut key).unwrap();
    let mac = |key: &[u8], text: &[u8]| byoa_gateway::crypto::MacKey::new(key).unwrap().sign(&[text]);
    let fingerprint = hex::encode(mac(&mac(&key, b"byoa pepper v1"), ACME.as_bytes()));
    let dir = old.image();
    let conn = &mut open(&dir.path().join("data/byoa.db")).await;
    let mut changes = vec![
        "DELETE FROM secrets WHERE kind = 'keys' AND field = 'lookup_key'".to_owned(),
        "DELETE FROM secrets WHERE kind = 'keys' AND owner = 'acme'".to_owned(),
        format!("UPDATE secrets SET fingerprint = '{fingerprint}' WHERE owner = 'acme-agent' AND field = 'token'"),
    ];
    // Nor had orgs keys of their own.
    let ring = KeyRing::new(vec![key.into()]).unwrap();
    for (kind, owner, field, text) in [
        ("profiles", "slack-acme", "signing_secret", world::acme(SLACK).secret),
        ("agents", "acme-agent", "signing_secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("agents", "acme-agent", "token", ACME),
        ("installations", "slack-acme", "credential", "xoxb-canary-slack-acme"),
        ("installations", "slack-platform", "credential", "xoxb-canary-slack-platform"),
    ] {
        let sealed = ring.seal(ring.current(), Purpose { kind, owner, field }, text.as_bytes()).unwrap();
        let place = format!("kind = '{kind}' AND owner = '{owner}' AND field = '{field}'");
        changes.push(format!("UPDATE secrets SET sealed = x'{}' WHERE {place}", hex::encode(sealed)));
    }
    for sql in changes {
        assert_eq!(sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *conn).await.unwrap().rows_affected(), 1);
    }
    let bed = Bed::resume(dir, &tweak).await;
    bed.all_open("after the upgrade").await;
    let (before, after) = (bed.keys().await, bed.rotate(json!({})).await);
    assert_eq!((&before["org_keys"], &before["rows_under_org_keys"]), (&json!(2), &json!(4)), "{before}");
    assert_eq!((&after["org_keys"], &after["rows_under_org_keys"], &after["rows_left"]), (&json!(2), &json!(9), &json!(0)), "{after}");
    bed.gateway.operate("POST", "/v1/keys/prune", &Value::Null).await;
    let bed = Bed::resume(bed.image(), &tweak).await;
    bed.all_open("with another first key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_an_org_is_never_written_over() {
    let bed = Bed::start(|_| {}).await;
    // Kept by somebody, and not taken up: what lies under it must not be lost to a second one.
    bed.gateway
        .damage("INSERT INTO secrets SELECT kind, 'initech', field, slot, id, sealed, fingerprint, set_ms, until_ms FROM secrets WHERE kind = 'keys' AND owner = 'acme'")
        .await;
    let agent = json!({"id": "i", "org": "initech", "endpoint": "http://127.0.0.1:9/", "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}});
    let answer = bed.gateway.apply(&json!({"orgs": [{"id": "initech"}], "agents": [agent]})).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("store.unavailable")), "{}", answer.text());
    assert!(bed.gateway.kept.rows("SELECT id FROM resources WHERE id IN ('i', 'initech')").await.is_empty(), "all or nothing");
}
