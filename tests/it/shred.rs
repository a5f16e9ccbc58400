//! What people say and write is sealed under their org's key: no file, log or backup shows it, and an org is made unreadable for
//! ever by destroying its key. The audit stays, and no other org notices.

use std::process::Command;

use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};

use super::support::fakes::FakeProvider;
use super::support::gateway::{Kept, OPERATOR_TOKEN, PLAIN_OPERATOR_TOKEN, SINGLE_FACTOR_TOKEN, TestGateway};
use super::support::raw::{Request, once};
use super::support::sign;
use super::support::world::{self, App};

const NOW: i64 = 1_790_000_100;
const ACME: &str = "agt_acme_3kd9slw02mfj47";
const GLOBEX: &str = "agt_globex_3kd9slw02mfj47";
const SLACK: ProviderKind = ProviderKind::Slack;

struct Bed {
    gateway: TestGateway,
    _api: FakeProvider,
    nonce: std::cell::Cell<u64>,
}

impl Bed {
    /// Both orgs have heard and said things.
    async fn start() -> Self {
        let api = FakeProvider::start().await;
        api.answers(200, json!({"ok": true, "ts": "1.2"}));
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| config.providers.slack.api_base = base).await;
        let mut document = world::document(SLACK);
        for installation in document["installations"].as_array_mut().unwrap() {
            installation["credential"] = json!({"value": format!("xoxb-canary-{}", installation["id"].as_str().unwrap())});
        }
        gateway.applied(&document).await;
        let bed = Self { gateway, _api: api, nonce: std::cell::Cell::new(1) };
        for app in [world::acme(SLACK), world::platform(SLACK), world::globex(SLACK)] {
            for _ in 0..3 {
                assert_eq!(bed.hear(&app, &format!("heard-by-{}", app.org)).await, 200);
            }
        }
        // Refused for good, with an excerpt of what it said.
        let broken = br#"{"text": "heard-by-acme", "broken": "#.to_vec();
        let app = world::acme(SLACK);
        let signed = sign(SLACK, &broken, app.secret, bed.gateway.clock.now());
        let request = Request::post(&app.path(), broken).header("content-type", "application/json").headers(signed);
        assert_eq!(bed.gateway.send(&request).await.status, 200);
        assert_eq!(bed.say(ACME, "slack-acme", "C0SAIDACME").await, 200);
        assert_eq!(bed.say(GLOBEX, "slack-globex", "C0SAIDGLOBEX").await, 200);
        // What is noted of single conversations: blocked there, handed over there.
        for org in ["acme", "globex"] {
            let place = format!("INSERT INTO places VALUES ('slack-{org}', 'digest for {org}', 'blocked', 1, x'00')");
            bed.gateway.damage(&place).await;
            let handed = format!("INSERT INTO handed VALUES ('digest for {org}', '{org}', '{org}-agent', 'k', 's', 1, x'00')");
            bed.gateway.damage(&handed).await;
        }
        bed
    }

    async fn hear(&self, app: &App, text: &str) -> u16 {
        let (account, now) = (app.external(), self.gateway.clock.now());
        let nonce = self.nonce.replace(self.nonce.get() + 1);
        let sample = Sample {
            kind: "message",
            account: &account,
            app_id: Some(app.app_id),
            conversation: &format!("C0HEARD{}", app.org.to_uppercase()),
            text,
            nonce,
            now,
        };
        let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
        let signed = sign(app.provider, &body, app.secret, now);
        self.gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await.status
    }

    async fn say(&self, token: &str, installation: &str, conversation: &str) -> u16 {
        let nonce = self.nonce.replace(self.nonce.get() + 1);
        let body = json!({"installation": installation, "conversation": conversation, "text": format!("answered-by-{token}").replace("agt_", "").replace("_3kd9slw02mfj47", "")});
        let request = Request::post("/v1/messages", body.to_string())
            .json()
            .header("authorization", format!("Bearer {token}"))
            .header("idempotency-key", format!("key-{nonce}"));
        once(self.gateway.public, &request).await.unwrap().status
    }

    async fn shred(&self, body: Value) -> Value {
        let answer = self.gateway.operate("POST", "/v1/orgs/acme/shred", &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    async fn globex_works(&self) {
        assert_eq!(self.hear(&world::globex(SLACK), "heard-by-globex").await, 200);
        assert_eq!(self.say(GLOBEX, "slack-globex", "C0SAIDGLOBEX").await, 200);
    }
}

/// Whether bytes are anywhere in the store's files: the database, its log, what else lies there.
fn in_files(kept: &Kept, wanted: &[u8]) -> bool {
    let files = std::fs::read_dir(kept.folder().join("data")).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_file());
    files.into_iter().any(|file| memchr::memmem::find(&std::fs::read(file).unwrap(), wanted).is_some())
}

/// What an org's people said and wrote, where, and who they are.
const SAID: [&str; 5] = ["heard-by-acme", "answered-by-acme", "C0HEARDACME", "C0SAIDACME", "U00SIMULATED"];

/// The sealed form of an org's key.
async fn sealed_key(kept: &Kept, org: &str) -> Option<Vec<u8>> {
    let sql = format!("SELECT hex(sealed) AS sealed FROM secrets WHERE kind = 'keys' AND owner = '{org}'");
    kept.rows(&sql).await.first().map(|row| hex::decode(row["sealed"].as_str().unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_say_is_in_no_file_log_or_backup() {
    let bed = Bed::start().await;
    let kept = &bed.gateway.kept;
    let backup = kept.folder().join("data/backup.db");
    sqlx::query(sqlx::AssertSqlSafe(format!("VACUUM INTO '{}'", backup.display()))).execute(&mut kept.open().await).await.unwrap();
    assert!(in_files(kept, b"acme-agent"), "the files are looked into");
    for text in SAID {
        assert!(!in_files(kept, text.as_bytes()), "{text} is in a file");
    }
    // Whoever may read it reads it.
    let events = bed.gateway.operate("GET", "/v1/events?org=acme", &Value::Null).await.json();
    let journey = bed.gateway.operate("GET", &format!("/v1/events/{}", events["items"][0]["id"].as_str().unwrap()), &Value::Null).await;
    for text in ["heard-by-acme", "C0HEARDACME", "U00SIMULATED"] {
        assert!(journey.text().contains(text), "{text}: {}", journey.text());
    }
    for (kind, text) in [("sends", "C0SAIDACME"), ("sessions", "C0HEARDACME"), ("refusals", "heard-by-acme"), ("decisions", "C0HEARDACME")]
    {
        let listed = bed.gateway.operate("GET", &format!("/v1/{kind}?org=acme"), &Value::Null).await.text();
        assert!(listed.contains(text) && !listed.contains("unreadable"), "{kind}: {listed}");
    }
    let kept = bed.gateway.drain().await;
    for text in SAID {
        assert!(!in_files(&kept, text.as_bytes()), "{text} is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shredded_org_is_gone_but_for_its_audit_and_nobody_else_notices() {
    // Once in a test run; `BYOA_SHRED_ROUNDS=200` for the long form.
    let rounds = std::env::var("BYOA_SHRED_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for _ in 0..rounds {
        shred_an_org().await;
    }
}

/// Writes the page with the org's key so often that a few commits more do not overwrite it in the log: while somebody reads an
/// older state, the log cannot start over.
async fn fill_the_log(kept: &Kept) {
    let (mut reader, mut writer) = (kept.open().await, kept.open().await);
    sqlx::query("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::query("SELECT COUNT(*) FROM secrets").execute(&mut reader).await.unwrap();
    sqlx::query("PRAGMA synchronous = OFF").execute(&mut writer).await.unwrap();
    // A row that stays as it is would not be written.
    for step in [1, -1].repeat(500) {
        let sql = "UPDATE secrets SET set_ms = set_ms + $1 WHERE kind = 'keys' AND owner = 'acme'";
        sqlx::query(sql).bind(step).execute(&mut writer).await.unwrap();
    }
}

async fn shred_an_org() {
    let bed = Bed::start().await;
    let kept = &bed.gateway.kept;
    let key = sealed_key(kept, "acme").await.unwrap();
    fill_the_log(kept).await;
    let others = sealed_key(kept, "globex").await.unwrap();
    assert!(in_files(kept, &key));
    let audited = kept.rows("SELECT COUNT(*) AS n FROM audit WHERE org = 'acme'").await[0]["n"].as_i64().unwrap();
    let done = bed.shred(json!({"confirm": "acme"})).await;
    let wanted = json!({"org": "acme", "dry_run": false, "finished": true, "secrets": 6, "events": 6, "deliveries": 6, "sessions": 2, "sends": 1, "decisions": done["decisions"], "refusals": 1});
    assert_eq!(done, wanted);
    assert!(done["decisions"].as_u64() > Some(6));
    assert!(!in_files(kept, &key), "the org's key is left while the gateway runs");
    assert!(in_files(kept, &others), "the files are looked into");
    // Its own app proves nothing, its agent is nobody, and the platform's app is refused for it.
    assert_eq!((bed.hear(&world::acme(SLACK), "more").await, bed.say(ACME, "slack-acme", "C1").await), (503, 401));
    assert_eq!(bed.hear(&world::platform(SLACK), "more").await, 200);
    assert_eq!(kept.rows("SELECT COUNT(*) AS n FROM events WHERE org = 'acme'").await, [json!({"n": 0})]);
    assert_eq!(bed.gateway.operate("GET", "/v1/orgs/acme", &Value::Null).await.json()["suspended"], true);
    bed.globex_works().await;
    assert_eq!(
        kept.rows("SELECT (SELECT COUNT(*) FROM places) + (SELECT COUNT(*) FROM handed) AS n").await,
        [json!({"n": 2})],
        "globex's notes"
    );
    let again = bed.shred(json!({"confirm": "acme"})).await;
    assert_eq!((&again["secrets"], &again["events"], &again["finished"]), (&json!(0), &json!(0), &json!(true)));

    let kept = bed.gateway.drain().await;
    assert!(!in_files(&kept, &key), "the org's key is left");
    let left = kept.rows("SELECT kind, owner FROM secrets WHERE kind = 'keys' OR owner LIKE '%acme%' ORDER BY owner").await;
    assert_eq!(left, ["byoa", "byoa", "globex"].map(|owner| json!({"kind": "keys", "owner": owner})));
    let lines = kept
        .rows("SELECT action, outcome, json_extract(detail_json, '$.events') AS events FROM audit WHERE action LIKE 'org.%' ORDER BY seq")
        .await;
    let line = |action: &str, events: i64| json!({"action": action, "outcome": "done", "events": events});
    assert_eq!(lines, [line("org.shred.begin", 6), line("org.shred", 6), line("org.shred.begin", 0), line("org.shred", 0)]);
    let now = kept.rows("SELECT COUNT(*) AS n FROM audit WHERE org = 'acme'").await[0]["n"].as_i64().unwrap();
    assert!(now > audited, "the audit stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_destroyed_by_mistake() {
    let bed = Bed::start().await;
    let before = bed.gateway.kept.rows("SELECT * FROM secrets ORDER BY kind, owner, field, slot").await;
    let counted = bed.shred(json!({"dry_run": true})).await;
    assert_eq!((&counted["secrets"], &counted["events"], &counted["dry_run"]), (&json!(6), &json!(6), &json!(true)), "{counted}");
    for (token, path, body, status, code) in [
        (OPERATOR_TOKEN, "/v1/orgs/acme/shred", json!({}), 422, "admin.not_confirmed"),
        (OPERATOR_TOKEN, "/v1/orgs/acme/shred", json!({"confirm": "globex"}), 422, "admin.not_confirmed"),
        (OPERATOR_TOKEN, "/v1/orgs/acme/shred", json!({"confirm": true}), 422, "admin.resource_invalid"),
        (OPERATOR_TOKEN, "/v1/orgs/nobody/shred", json!({"confirm": "nobody"}), 404, "admin.not_found"),
        (SINGLE_FACTOR_TOKEN, "/v1/orgs/acme/shred", json!({"confirm": "acme"}), 403, "policy.no_permit"),
        (PLAIN_OPERATOR_TOKEN, "/v1/orgs/acme/shred", json!({"confirm": "acme"}), 403, "policy.no_permit"),
        (PLAIN_OPERATOR_TOKEN, "/v1/orgs/acme/shred", json!({"dry_run": true}), 403, "policy.no_permit"),
    ] {
        let answer = bed.gateway.operate_as(token, "POST", path, &body).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (status, Some(code)), "{body}: {}", answer.text());
    }
    assert_eq!(bed.gateway.kept.rows("SELECT * FROM secrets ORDER BY kind, owner, field, slot").await, before);
    assert_eq!((bed.hear(&world::acme(SLACK), "more").await, bed.say(ACME, "slack-acme", "C1").await), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cut_off_goes_on_and_the_org_can_begin_anew() {
    let bed = Bed::start().await;
    let first = bed.shred(json!({"confirm": "acme", "rows_max": 2})).await;
    assert_eq!((&first["finished"], &first["secrets"], &first["deliveries"]), (&json!(false), &json!(6), &json!(2)), "{first}");
    assert_eq!(bed.hear(&world::acme(SLACK), "more").await, 503, "the key goes first");
    let operator = format!("http://{}", bed.gateway.operator);
    let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
    command.current_dir(bed.gateway.kept.folder()).args(["keys", "shred", "acme", "--confirm", "acme", "--server", &operator]);
    command.env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("6 events, 4 deliveries") && said.contains("destroyed"), "{said}");
    bed.globex_works().await;
    // A tenant that comes back brings new secrets, under a new key.
    let mut document = world::document(SLACK);
    document["orgs"] = json!([{"id": "acme", "suspended": false}]);
    bed.gateway.applied(&document).await;
    assert_eq!(bed.hear(&world::acme(SLACK), "heard again").await, 200);
    let keys = bed.gateway.operate("GET", "/v1/keys", &Value::Null).await.json();
    assert_eq!(keys["org_keys"], 2);
    // And the open deliveries of the neighbour are still those that were.
    let open = bed.gateway.operate("GET", "/v1/deliveries?org=globex&state=pending", &Value::Null).await.json();
    assert_eq!(open["items"].as_array().map(Vec::len), Some(4));
    let depth = bed.gateway.metrics().await["byoa_queue_depth"];
    assert_eq!(depth, 5.0, "four of globex's, one of acme's");
}
