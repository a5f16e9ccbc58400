//! What is kept how long, kind by kind; one person's data; counts of repeated refusals.

use byoa_gateway::config::RetentionSection;
use byoa_gateway::domain::breaker::Health;
use byoa_gateway::domain::delivery::{Attempt, Settled};
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::store::Claiming;
use serde_json::{Value, json};

use super::sessions::Talk;
use super::support::raw::Request;
use super::support::sign;

const DAY: i64 = 86_400_000;
/// Telegram's private chat of the made-up person.
const PERSON: &str = "5100000001";

/// The first column of a query's rows.
async fn found(talk: &Talk, sql: &str) -> Vec<Value> {
    let rows = talk.gateway.kept.rows(sql).await;
    rows.iter().map(|row| row.as_object().unwrap().values().next().unwrap().clone()).collect()
}

async fn swept(talk: &Talk, keep: RetentionSection) -> Value {
    json!(talk.gateway.store().sweep(&keep, talk.gateway.clock.now()).await.unwrap())
}

/// Everything for ever.
fn for_ever() -> RetentionSection {
    RetentionSection {
        event_bodies_days: 0,
        events_days: 0,
        attempts_days: 0,
        refusals_days: 0,
        sends_days: 0,
        sessions_days: 0,
        decisions_days: 0,
        audit_days: 0,
    }
}

async fn heard(talk: &Talk, nonces: std::ops::Range<u64>) {
    for nonce in nonces {
        assert_eq!(talk.hear(&talk.app.path(), nonce, |body| body).await, 200);
    }
}

/// Settles every open delivery at its first attempt.
async fn delivered(talk: &Talk) {
    let (store, at) = (talk.gateway.store(), talk.gateway.clock.now());
    let claiming = Claiming { limit: 10, lease_ms: 1_000, slots: 10, org_max: 10, agent_max: 10 };
    while store.queue_depth() > 0 {
        for claimed in store.claim_deliveries(claiming, at).await.unwrap() {
            let attempt = Attempt { number: claimed.attempt, at, took_ms: 1, status: Some(204), code: None };
            assert!(store.settle_delivery(&claimed, Settled::Delivered, attempt, Health::Answered, at).await.unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_goes_when_its_own_time_has_passed() {
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    heard(&talk, 0..3).await;
    delivered(&talk).await;
    let before = talk.gateway.kept.counts().await;
    talk.gateway.clock.advance_ms(40 * DAY);
    heard(&talk, 3..4).await;
    let after = talk.gateway.kept.counts().await;

    assert_eq!(swept(&talk, for_ever()).await, json!({"dedupe": 3, "idempotency_keys": 0}));
    let one = |name: &str, days| {
        let mut all = serde_json::to_value(for_ever()).unwrap();
        all[name] = json!(days);
        serde_json::from_value::<RetentionSection>(all).unwrap()
    };
    let young = swept(&talk, one("attempts_days", 41)).await;
    assert_eq!(young["attempts"], 0);
    let counts = [("attempts", "attempts_days", 3), ("event_bodies", "event_bodies_days", 3), ("events", "events_days", 3)];
    for (kind, key, rows) in counts {
        assert_eq!(swept(&talk, one(key, 30)).await[kind], rows, "{kind}");
        assert_eq!(swept(&talk, one(key, 30)).await[kind], 0, "{kind} a second time");
    }
    assert_eq!(found(&talk, "SELECT COUNT(*) FROM events").await, [json!(1)], "{after:?}");
    assert_eq!(found(&talk, "SELECT COUNT(*) FROM deliveries").await, [json!(1)]);

    let last = found(&talk, "SELECT MAX(seq) FROM decisions").await;
    assert_eq!(swept(&talk, one("decisions_days", 30)).await["decisions"], before["decisions"]);
    talk.gateway.clock.advance_ms(40 * DAY);
    swept(&talk, one("decisions_days", 30)).await;
    assert_eq!(found(&talk, "SELECT seq FROM decisions").await, last, "the last one stays: no number is given twice");
    let facts = "SELECT COUNT(*) || ' ' || COUNT(content) FROM verdicts WHERE digest LIKE 'removed:%'";
    assert!(found(&talk, facts).await[0].as_str().is_some_and(|n| n.ends_with(" 0") && n != "0 0"));

    assert_eq!(
        swept(&talk, one("sessions_days", 30)).await["sessions"],
        1,
        "the one of the first events is over; the other has a delivery"
    );
    let lines = found(&talk, "SELECT COUNT(*) FROM audit").await[0].as_i64().unwrap();
    assert_eq!(swept(&talk, one("audit_days", 30)).await["audit"], lines - 1);

    heard(&talk, 4..5).await;
    assert_eq!(found(&talk, "SELECT seq FROM events ORDER BY seq").await, [json!(4), json!(5)]);
    let asked = "SELECT COUNT(*) FROM decisions d JOIN verdicts v ON v.seq = d.verdict WHERE v.content IS NOT NULL AND d.subject = \
                 (SELECT id FROM events WHERE seq = 5)";
    assert!(found(&talk, asked).await[0].as_i64().unwrap() > 0, "the same question asked again is written down again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backlog_goes_in_pieces_and_none_is_forgotten() {
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    heard(&talk, 0..1).await;
    talk.gateway.damage("UPDATE deliveries SET state = 'delivered', settled_ms = created_ms").await;
    let more = "INSERT INTO events SELECT value + 1, 'evt_' || value, received_ms, org, installation, agent, session, kind, decision_first, \
                decision_count, meta_json, ZEROBLOB(20000), NULL, NULL \
                FROM events, (WITH RECURSIVE n(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n WHERE value < 700) SELECT value FROM n)";
    talk.gateway.damage(more).await;
    talk.gateway.clock.advance_ms(31 * DAY);
    assert_eq!(swept(&talk, RetentionSection::default()).await["event_bodies"], 701);
    assert_eq!(found(&talk, "SELECT COUNT(*) FROM events WHERE content IS NOT NULL OR body_removed_ms IS NULL").await, [json!(0)]);
    assert_eq!(found(&talk, "SELECT seq FROM swept WHERE kind = 'bodies'").await, [json!(701)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_of_one_person_goes_and_nothing_of_another() {
    let talk = Talk::start(ProviderKind::Telegram, |_| {}).await;
    let other = |body: String| body.replace(PERSON, "5100000002");
    heard(&talk, 0..2).await;
    assert_eq!(talk.hear(&talk.app.path(), 7, other).await, 200);
    let installation = talk.sessions().await[0]["installation"].as_str().unwrap().to_owned();
    let org = talk.sessions().await[0]["org"].as_str().unwrap().to_owned();
    let key = talk.gateway.store().content_keys().of(Some(&org)).unwrap();
    let sealed = |table: &str, id: &str, content: Value| hex::encode(key.seal(table, id, content.to_string().as_bytes()).unwrap());
    let send = |person: &str| {
        let id = format!("msg_{person}");
        let content = sealed("sends", &id, json!({"conversation": person, "provider_message_id": null, "answer": {"to": person}}));
        format!(
            "INSERT INTO sends (id, agent, key, digest, state, status, org, installation, fallback, created_ms, content) \
             VALUES ('{id}', 'a', 'k{person}', 'd', 'sent', 200, '{org}', '{installation}', 0, 1, X'{content}')"
        )
    };
    let place = |person: &str| {
        let digest = key.digest("conversation", person);
        let content = sealed("places", &format!("{installation}/{digest}"), json!({"conversation": person, "moved_to": null}));
        format!("INSERT INTO places VALUES ('{installation}', '{digest}', 'blocked', 1, X'{content}')")
    };
    let line = |person: &str| {
        format!(
            "INSERT INTO audit (at_ms, actor, action, target, org, outcome, detail_json) \
             VALUES (1, 'p', 'conversation.block', '{installation}', '{org}', 'done', '{{\"conversation\":\"{person}\"}}')"
        )
    };
    for person in [PERSON, "5100000002"] {
        for sql in [send(person), place(person), line(person)] {
            talk.gateway.damage(&sql).await;
        }
        // Refused for good, with an excerpt.
        let broken = format!("{{\"message\":{{\"from\":{{\"id\":{person},");
        let signed = sign(ProviderKind::Telegram, broken.as_bytes(), talk.app.secret, talk.gateway.clock.now());
        let request = Request::post(&talk.app.path(), broken.into_bytes()).header("content-type", "application/json").headers(signed);
        assert_eq!(talk.gateway.send(&request).await.status, 200);
    }
    // How many rows of each table have the person in their opened content.
    let left = async |person: &str| {
        let tables = [
            ("events", "id"),
            ("sessions", "id"),
            ("sends", "id"),
            ("places", "installation || '/' || conversation"),
            ("refusals", "request"),
            ("verdicts", "digest"),
        ];
        let mut all = Vec::new();
        for (table, id) in tables {
            let sealed = format!("SELECT {id} || ' ' || HEX(content) FROM {table} WHERE org = '{org}' AND content IS NOT NULL");
            let sealed = if table == "places" { sealed.replace(&format!("org = '{org}' AND "), "") } else { sealed };
            let rows = found(&talk, &sealed).await;
            let opened = rows.iter().map(|row| {
                let (id, content) = row.as_str().unwrap().split_once(' ').unwrap();
                key.open(table, id, &hex::decode(content).unwrap()).expect(table)
            });
            let theirs = opened.filter(|plain| String::from_utf8_lossy(plain).contains(person));
            all.push((table, theirs.count()));
        }
        let lines = "SELECT target || COALESCE(detail_json, '') FROM audit";
        all.push(("audit", found(&talk, lines).await.iter().filter(|line| line.as_str().unwrap().contains(person)).count()));
        all
    };
    let before = left("5100000002").await;
    assert!(before.iter().all(|(_, n)| *n > 0) && left(PERSON).await.iter().all(|(_, n)| *n > 0), "{before:?}");

    let mut ask = json!({"installation": installation, "sender": PERSON, "rows_max": 1});
    let (mut requests, mut events) = (0, 0);
    loop {
        let answer = talk.gateway.operate("POST", "/v1/purge", &ask).await;
        assert_eq!(answer.status, 200);
        let answer = answer.json();
        requests += 1;
        events += answer["events"].as_i64().unwrap();
        if answer["finished"] == true {
            break;
        }
        ask["after"] = answer["next"].clone();
    }
    assert!(requests > 3 && events == 2, "{requests} requests, {events} events");
    assert!(left(PERSON).await.iter().all(|(_, n)| *n == 0), "{:?}", left(PERSON).await);
    assert_eq!(left("5100000002").await, before);
    let lines = talk.gateway.kept.rows("SELECT detail_json FROM audit WHERE action LIKE 'person.purge%'").await;
    assert_eq!(lines.len(), requests + 1);
    assert!(lines.iter().all(|line| !line.to_string().contains(PERSON) && line.to_string().contains("person")), "{lines:?}");

    let open = "SELECT COUNT(*) FROM deliveries WHERE settled_ms IS NULL";
    assert_eq!(found(&talk, open).await, [json!(1)]);
    assert_eq!(talk.gateway.store().queue_depth(), 1);
    heard(&talk, 9..10).await;
    assert_eq!(found(&talk, "SELECT COUNT(*) FROM sessions").await, [json!(2)], "who writes again is a new session");
    for bad in [json!({"installation": installation}), json!({"installation": installation, "sender": ""})] {
        assert_eq!(talk.gateway.operate("POST", "/v1/purge", &bad).await.status, 422, "{bad}");
    }
    ask["after"] = json!("nowhere:1");
    assert_eq!(talk.gateway.operate("POST", "/v1/purge", &ask).await.status, 422);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_of_repeated_refusals_are_written_each_minute_and_at_the_end() {
    let talk = Talk::start(ProviderKind::Slack, |_| {}).await;
    let refused = async |times: usize| {
        for _ in 0..times {
            let body = b"{\"broken\":".to_vec();
            let signed = sign(ProviderKind::Slack, &body, talk.app.secret, talk.gateway.clock.now());
            let request = Request::post(&talk.app.path(), body).header("content-type", "application/json").headers(signed);
            assert_eq!(talk.gateway.send(&request).await.status, 200);
        }
    };
    let lines = "SELECT COALESCE(JSON_EXTRACT(detail_json, '$.count'), 1) FROM audit WHERE action = 'event.refuse' ORDER BY seq";
    refused(10).await;
    assert_eq!(found(&talk, lines).await, [json!(1)]);
    talk.gateway.clock.advance_ms(60_000);
    talk.gateway.store().flush_repeats(talk.gateway.clock.now()).await.unwrap();
    assert_eq!(found(&talk, lines).await, [json!(1), json!(9)]);
    refused(5).await;
    let shown = talk.gateway.operate("GET", "/v1/refusals", &Value::Null).await.json();
    let row = &shown["items"][0];
    assert_eq!((&row["count"], shown["items"].as_array().unwrap().len()), (&json!(15), 1), "{shown}");
    assert!(row["first_at"].as_str() < row["last_at"].as_str(), "{row}");
    let kept = talk.gateway.drain().await;
    let rows = kept.rows(lines).await;
    let counts: Vec<&Value> = rows.iter().map(|row| row.as_object().unwrap().values().next().unwrap()).collect();
    assert_eq!(counts, [1, 9, 5]);
}
