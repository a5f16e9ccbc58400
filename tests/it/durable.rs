//! Acknowledged is committed: the real binary, killed at random moments, loses nothing that it said 200 to, and keeps
//! nothing twice. And what it must not start with.
//!
//! `BYOA_KILL_ROUNDS` sets how often it is killed, `BYOA_KILL_SEED` repeats a run.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use byoa_gateway::domain::clock::Clock;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::support::gateway::{open, rows};
use super::support::process::Home;
use super::support::raw::{Connection, Request, Response, once};
use super::support::{sign, world};

/// SplitMix64: a run is its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: u64, high: u64) -> usize {
        usize::try_from(low + self.next() % (high - low)).unwrap()
    }
}

fn from_env(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |v| v.parse().unwrap_or_else(|_| panic!("{name} is no number: {v}")))
}

/// A signed Slack message with an event id of its own; each worker talks in a channel of its own.
fn webhook(worker: usize, id: &str) -> Request {
    let app = world::acme(ProviderKind::Slack);
    let body = json!({"token": "x", "team_id": app.account, "context_team_id": app.account, "api_app_id": app.app_id, "type": "event_callback",
        "event_id": id, "event_time": 1_790_000_100, "event": {"type": "message", "user": "U1", "text": "hello", "ts": "1790000100.000100",
        "channel": format!("C{worker}"), "channel_type": "channel", "event_ts": "1790000100.000100"},
        "authorizations": [{"enterprise_id": null, "team_id": app.account, "user_id": "U0", "is_bot": true, "is_enterprise_install": false}]});
    let body = serde_json::to_vec(&body).unwrap();
    // The binary goes by the machine's clock, so what is sent to it is signed by that; nothing is judged by it.
    let headers = sign(ProviderKind::Slack, &body, app.secret, Clock::system().now());
    Request::post(&app.path(), body).json().headers(headers)
}

const WORKERS: usize = 8;

/// Sends until the server is gone; the ids that were answered 200.
async fn load(to: SocketAddr, round: u64, acks: Arc<AtomicUsize>, at: usize, now: Arc<Notify>) -> Vec<String> {
    let acked = Arc::new(Mutex::new(Vec::new()));
    let mut workers = tokio::task::JoinSet::new();
    for worker in 0..WORKERS {
        let (acks, now, acked) = (acks.clone(), now.clone(), acked.clone());
        workers.spawn(async move {
            let Ok(mut connection) = Connection::try_open(to).await else { return };
            for n in 0.. {
                let id = format!("Ev{round:04}W{worker}N{n:06}");
                match connection.send(&webhook(worker, &id)).await {
                    Some(answer) => {
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        acked.lock().unwrap().push(id);
                        if acks.fetch_add(1, Ordering::SeqCst) + 1 == at {
                            now.notify_one();
                        }
                    }
                    None => return,
                }
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    Arc::into_inner(acked).unwrap().into_inner().unwrap()
}

/// How often everything that belongs to an event is there.
async fn kept(db: &Path, id: &str) -> Value {
    let sql = format!(
        "SELECT (SELECT COUNT(*) FROM dedupe WHERE key LIKE '{id}:%') AS events, \
         (SELECT COUNT(*) FROM dedupe WHERE event = e.id) AS dedupe, (SELECT COUNT(*) FROM deliveries WHERE event = e.id) AS deliveries, \
         (SELECT COUNT(*) FROM decisions WHERE subject = e.id) AS decisions, \
         (SELECT COUNT(*) FROM audit WHERE target = e.id AND action = 'event.accept') AS audit, \
         (SELECT COUNT(*) FROM sessions WHERE id = e.session) AS sessions \
         FROM events e JOIN dedupe k ON k.event = e.id WHERE k.key LIKE '{id}:%'"
    );
    rows(&mut open(db).await, &sql).await.into_iter().next().unwrap_or(Value::Null)
}

/// All acked ids whose rows are not exactly these.
async fn lost_or_doubled(db: &Path, acked: &[String]) -> Vec<String> {
    let whole = json!({"events": 1, "dedupe": 1, "deliveries": 1, "decisions": 2, "audit": 1, "sessions": 1});
    let mut conn = open(db).await;
    // One pass over each table, however many there are.
    let sql = "SELECT substr(k.key, 1, instr(k.key, ':') - 1) AS id FROM events e JOIN dedupe k ON k.event = e.id \
        JOIN (SELECT event, COUNT(*) AS n FROM dedupe GROUP BY event) d ON d.event = e.id AND d.n = 1 \
        JOIN (SELECT event, COUNT(*) AS n FROM deliveries GROUP BY event) v ON v.event = e.id AND v.n = 1 \
        JOIN (SELECT target, COUNT(*) AS n FROM audit WHERE action = 'event.accept' GROUP BY target) a ON a.target = e.id AND a.n = 1 \
        JOIN (SELECT subject, COUNT(*) AS n FROM decisions GROUP BY subject) c ON c.subject = e.id AND c.n = 2 \
        JOIN sessions s ON s.id = e.session GROUP BY k.key HAVING COUNT(*) = 1";
    let found: std::collections::HashSet<String> =
        rows(&mut conn, sql).await.into_iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
    let mut wrong = Vec::new();
    for id in acked.iter().filter(|id| !found.contains(*id)) {
        wrong.push(format!("{id}: {} for {whole}", kept(db, id).await));
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let rounds = from_env("BYOA_KILL_ROUNDS", 15);
    let mut drawn = [0u8; 8];
    getrandom::fill(&mut drawn).unwrap();
    let seed = from_env("BYOA_KILL_SEED", u64::from_le_bytes(drawn));
    println!("BYOA_KILL_SEED={seed} BYOA_KILL_ROUNDS={rounds}");
    let mut random = Random(seed);
    let home = Home::new();
    let mut acked: Vec<String> = Vec::new();
    for round in 0..rounds {
        let serving = home.serve();
        if round == 0 {
            serving.apply(&world::document(ProviderKind::Slack)).await;
        }
        // What earlier lives said 200 to is a repeat now, not a new event.
        for _ in 0..3.min(acked.len()) {
            let id = &acked[random.between(0, acked.len() as u64)];
            assert_eq!(once(serving.public, &webhook(0, id)).await.map(|a| a.status), Some(200), "seed {seed}, round {round}: {id}");
            assert_eq!(kept(&home.db(), id).await["events"], 1, "seed {seed}, round {round}: {id} is there twice");
        }
        let (acks, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let at = random.between(1, 150);
        let sending = tokio::spawn(load(serving.public, round, acks.clone(), at, now.clone()));
        now.notified().await;
        serving.kill();
        let heard = sending.await.unwrap();
        assert!(heard.len() >= at, "seed {seed}, round {round}: {} acks of {at}", heard.len());
        acked.extend(heard);
    }
    // The log is read back by whoever opens the file next; a serving gateway is.
    let serving = home.serve();
    let wrong = lost_or_doubled(&home.db(), &acked).await;
    assert!(wrong.is_empty(), "seed {seed}, {rounds} rounds, {} acks:\n{}", acked.len(), wrong.join("\n"));
    // A key is there once; an event without exactly one key would be a second one.
    let twice = "SELECT e.id, COUNT(d.event) AS n FROM events e LEFT JOIN dedupe d ON d.event = e.id GROUP BY 1 HAVING n <> 1";
    assert_eq!(rows(&mut open(&home.db()).await, twice).await, Vec::<Value>::new(), "seed {seed}");
    println!("{} acknowledged events, none lost, none twice", acked.len());
    assert!(serving.terminate().success());
}

#[test]
fn a_second_process_on_the_same_file_refuses_to_start() {
    let home = Home::new();
    let _first = home.serve();
    let (code, said) = home.refused();
    assert_eq!(code, Some(1), "{said}");
    says(&said, "store.locked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains_and_exits_0() {
    let home = Home::new();
    let serving = home.serve();
    serving.apply(&world::document(ProviderKind::Slack)).await;
    let mut connection = Connection::open(serving.public).await;
    let answer: Response = connection.send(&webhook(0, "EvDRAIN1")).await.unwrap();
    assert_eq!(answer.status, 200);
    // Refused before proof: counted in memory, written at the latest by the drain.
    let forged = Request::post(&world::acme(ProviderKind::Slack).path(), "{}").json();
    assert_eq!(once(serving.public, &forged).await.unwrap().status, 401);
    let (public, db) = (serving.public, home.db());
    assert_eq!(serving.terminate().code(), Some(0));
    assert!(connection.ends().await, "an idle connection is closed");
    assert!(Connection::try_open(public).await.is_err(), "nobody listens any more");
    assert_eq!(lost_or_doubled(&db, &["EvDRAIN1".to_owned()]).await, Vec::<String>::new());
    let refused = rows(&mut open(&db).await, "SELECT code FROM audit WHERE action = 'request.refuse'").await;
    assert_eq!(refused, vec![json!({"code": "authn.signature_missing"})]);
    let leased = rows(&mut open(&db).await, "SELECT seq FROM deliveries WHERE settled_ms IS NULL AND lease_until_ms IS NOT NULL").await;
    assert_eq!(leased, Vec::<Value>::new(), "leases are given back");
}

/// One line, and the reason code in it.
fn says(said: &str, code: &str) {
    let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("byoa: ")).collect();
    assert_eq!(lines.len(), 1, "one line, please: {said}");
    assert!(lines[0].contains(code), "no {code} in: {said}");
}

/// Starts `home` and expects the refusal.
fn refuses(home: &Home, code: &str) {
    let (status, said) = home.refused();
    assert_eq!(status, Some(1), "{said}");
    says(&said, code);
}

/// The home with one setting changed.
fn home_with(change: impl FnOnce(&Home, &mut Value)) -> Home {
    let home = Home::new();
    let mut settings = home.settings();
    change(&home, &mut settings);
    home.config(&settings);
    home
}

#[test]
fn no_policies_no_start() {
    let home = home_with(|home, settings| settings["policies"]["dir"] = json!(home.path("nothing")));
    refuses(&home, "policy.missing");
    std::fs::create_dir(home.path("nothing")).unwrap();
    refuses(&home, "policy.missing");
}

#[test]
fn a_broken_policy_no_start() {
    let home = home_with(|home, settings| settings["policies"]["dir"] = json!(home.path("law")));
    std::fs::create_dir(home.path("law")).unwrap();
    std::fs::write(home.path("law/10-broken.cedar"), "permit (principal, action, resource when { true };\n").unwrap();
    refuses(&home, "policy.invalid");
    // What parses and names what the schema has not is as broken.
    std::fs::write(home.path("law/10-broken.cedar"), "@id(\"a\") @reason(\"b\")\npermit (principal is Byoa::Nobody, action, resource);\n")
        .unwrap();
    refuses(&home, "policy.invalid");
}

/// Each of these texts overflowed the stack of a thread before texts were measured, which aborts the process.
#[test]
fn a_policy_that_is_too_complex_no_start() {
    let home = home_with(|home, settings| settings["policies"]["dir"] = json!(home.path("law")));
    std::fs::create_dir_all(home.path("law/platform")).unwrap();
    let scope = "@id(\"a\") @reason(\"b\") @code(\"policy.forbidden\")\nforbid (principal in Byoa::Org::\"acme\", action, resource)";
    for condition in [
        format!("{}1{} == 1", "[".repeat(2_000), "]".repeat(2_000)),
        format!("{}true{}", "(".repeat(3_000), ")".repeat(3_000)),
        vec!["true"; 2_000].join(" && "),
        format!("{}true", "if true then false else ".repeat(2_000)),
        format!("true // {}", "x".repeat(65_536)),
    ] {
        std::fs::write(home.path("law/platform/a.cedar"), format!("{scope} when {{ {condition}\n}};\n")).unwrap();
        refuses(&home, "policy.too_complex");
    }
}

#[test]
fn a_key_that_others_read_no_start() {
    let home = Home::new();
    std::fs::create_dir_all(home.path("data")).unwrap();
    let key = home.path("data/master.keys");
    std::fs::write(&key, format!("{}\n", "4f".repeat(16) + &"a1".repeat(16))).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    refuses(&home, "key.permissions");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    for weak in ["short\n".to_owned(), "zz".repeat(32), "00".repeat(32)] {
        std::fs::write(&key, weak).unwrap();
        refuses(&home, "key.weak");
    }
    std::fs::write(&key, "# nothing\n").unwrap();
    refuses(&home, "key.missing");
}

#[test]
fn a_store_without_its_key_no_start_and_no_new_key() {
    let home = Home::new();
    drop(home.serve());
    let key = home.path("data/master.keys");
    let text = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    refuses(&home, "key.missing");
    assert!(!key.exists(), "a new key would look like the old one");
    // Another key is no key either.
    std::fs::write(&key, format!("{}\n", "4f".repeat(16) + &"a1".repeat(16))).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    refuses(&home, "key.missing");
    std::fs::write(&key, text).unwrap();
    home.serve();
}

#[test]
fn an_unknown_setting_no_start() {
    let home = home_with(|_, settings| settings["ingress"] = json!({"skip_verification": true}));
    refuses(&home, "config.unknown_key");
}

#[test]
fn weaker_durability_no_start() {
    let home = home_with(|home, settings| settings["store"]["url"] = json!(format!("sqlite:{}?synchronous=normal", home.db().display())));
    refuses(&home, "store.durability_weak");
}

#[test]
fn a_store_that_others_can_read_no_start() {
    let home = Home::new();
    drop(home.serve());
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let folder = home.db().parent().unwrap().to_owned();
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file()) {
        assert_eq!(mode(&entry), 0o600, "{}", entry.display());
    }
    for (path, wide, repaired) in [(folder, 0o755, 0o700), (home.db(), 0o644, 0o600)] {
        set(&path, wide);
        let (status, said) = home.refused();
        let command = format!("chmod {repaired:o} {}", path.display());
        assert!(status == Some(1) && said.contains("store.permissions") && said.contains(&command), "{said}");
        set(&path, repaired);
    }
    home.serve();
}
