//! The courier against a real store and a real agent on loopback. Nothing sleeps: every wait is for a message.

mod bed;

use serde_json::Value as Json;
use tokio::sync::Notify;

use super::*;
use crate::domain::ids::AgentId;
use crate::domain::installation::AgentStatus;
use crate::domain::secret::Secret;
use crate::store::ListFilter;
use bed::{Answer, Bed, LEASE_MS, SECRET, START, agent, claiming, run, soon, vault, won};

#[test]
fn a_claim_that_waited_for_the_disk_holds_up_the_next_one_only_briefly() {
    assert_eq!(claim_gap(Duration::ZERO), CLAIM_GAP);
    assert_eq!(claim_gap(Duration::from_millis(5)), Duration::from_millis(20));
    assert_eq!(claim_gap(Duration::from_secs(3)), CLAIM_GAP_MAX);
}

#[tokio::test]
async fn an_event_arrives_signed_and_settles() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, mut seen) = agent(Box::new(|_| Answer::Status(204))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0], 4));
    let event = bed.accept("support", "C1", "hello").await;
    assert_eq!(bed.next().await, won("hello", 1, "delivered"));

    let got = soon(seen.recv()).await.unwrap();
    let header = |name: &str| got.headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!((header("content-type").as_str(), header("webhook-id")), (cloudevent::MEDIA_TYPE, event.to_string()));
    assert_eq!(header("webhook-timestamp"), START.secs().to_string());
    assert_eq!(Some(header("webhook-signature")), cloudevent::signature(&Secret::new(SECRET.into()), event.as_str(), START, &got.body));
    let delivery = bed.delivery(&event).await;
    assert_eq!((header("byoa-attempt"), Json::from(header("byoa-delivery"))), ("1".into(), delivery["id"].clone()));
    assert_eq!((delivery["state"].as_str(), delivery["attempts"][0]["status"].as_i64()), (Some("delivered"), Some(204)));
    assert!(!got.headers.contains_key("accept-encoding"));
}

#[tokio::test]
async fn a_session_keeps_its_order_through_retries_and_others_do_not_wait() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let mut refusals = 2;
    let (endpoint, mut seen) = agent(Box::new(move |seen| {
        if seen.text == "a1" && refusals > 0 {
            refusals -= 1;
            return Answer::Status(500);
        }
        Answer::Status(200)
    }))
    .await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    for (conversation, text) in [("A", "a1"), ("A", "a2"), ("B", "b1"), ("A", "a3"), ("B", "b2")] {
        bed.accept("support", conversation, text).await;
    }
    let (_stop, _task) = run(bed.courier(&[0, 5_000, 5_000], 8));
    assert_eq!(bed.next_sorted(3).await, [won("a1", 1, "retry"), won("b1", 1, "delivered"), won("b2", 1, "delivered")]);
    bed.clock.advance_ms(6_000);
    assert_eq!(bed.next().await, won("a1", 2, "retry"));
    bed.clock.advance_ms(6_000);
    for (text, attempt) in [("a1", 3), ("a2", 1), ("a3", 1)] {
        assert_eq!(bed.next().await, won(text, attempt, "delivered"));
    }
    let mut order = Vec::new();
    while let Ok(seen) = seen.try_recv() {
        order.push(seen.text);
    }
    order.retain(|text| text.starts_with('a'));
    assert_eq!(order, ["a1", "a1", "a1", "a2", "a3"]);
}

#[tokio::test]
async fn an_agent_that_is_gone_is_paused_and_its_events_wait() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (gone, mut asked) = agent(Box::new({
        let mut first = true;
        move |_| Answer::Status(if std::mem::take(&mut first) { 410 } else { 200 })
    }))
    .await;
    let (other, _seen) = agent(Box::new(|_| Answer::Status(200))).await;
    bed.declare("gone", &gone, AgentStatus::Active).await;
    bed.declare("other", &other, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0, 5_000], 1));
    let event = bed.accept("gone", "A", "a1").await;
    assert_eq!(bed.next().await, won("a1", 1, "agent_gone"));
    bed.accept("gone", "A", "a2").await;
    bed.accept("gone", "B", "b1").await;
    bed.clock.advance_ms(60_000);
    // The worker has one slot: when it took this one it had passed over the others.
    bed.accept("other", "A", "o1").await;
    assert_eq!(bed.next().await, won("o1", 1, "delivered"));
    assert_eq!((asked.recv().await.map(|s| s.text), asked.try_recv().is_err()), (Some("a1".into()), true));
    assert_eq!(bed.store.directory().agents[&AgentId::parse("gone").unwrap()].item.status, AgentStatus::Paused);
    assert_eq!(bed.delivery(&event).await["code"], "delivery.agent_gone");

    bed.declare("gone", &gone, AgentStatus::Active).await;
    assert_eq!(bed.next_sorted(3).await, [won("a1", 2, "delivered"), won("a2", 1, "delivered"), won("b1", 1, "delivered")]);
}

#[tokio::test]
async fn an_agent_that_asks_for_a_pause_gets_it() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let mut answers = vec![Answer::Status(200), Answer::With(503, "retry-after", "99999999"), Answer::With(429, "retry-after", "90")];
    let (endpoint, _seen) = agent(Box::new(move |_| answers.pop().unwrap())).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0, 5, 5], 2));
    let event = bed.accept("support", "A", "a1").await;
    for (attempt, from_ms, to_ms) in [(1, 90_000, 108_000), (2, 3_600_000, 3_600_000)] {
        assert_eq!(bed.next().await, won("a1", attempt, "retry"));
        let delivery = bed.delivery(&event).await;
        let wait = Timestamp::parse(delivery["due_at"].as_str().unwrap()).unwrap().ms() - bed.clock.now().ms();
        assert!((from_ms..=to_ms).contains(&wait), "{wait}");
        assert_eq!(delivery["code"], "delivery.agent_throttled");
        bed.clock.advance_ms(to_ms);
    }
    assert_eq!(bed.next().await, won("a1", 3, "delivered"));
}

#[tokio::test]
async fn the_schedule_ends_in_a_dead_letter_and_the_session_goes_on() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, _seen) = agent(Box::new(|seen| Answer::Status(if seen.text == "a1" { 500 } else { 200 }))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let event = bed.accept("support", "A", "a1").await;
    bed.accept("support", "A", "a2").await;
    let (_stop, _task) = run(bed.courier(&[0, 1_000, 1_000], 2));
    for attempt in 1..=2 {
        assert_eq!(bed.next().await, won("a1", attempt, "retry"));
        bed.clock.advance_ms(1_200);
    }
    assert_eq!(bed.next().await, won("a1", 3, "dead"));
    assert_eq!(bed.next().await, won("a2", 1, "delivered"));
    let delivery = bed.delivery(&event).await;
    assert_eq!((delivery["state"].as_str(), delivery["code"].as_str()), (Some("dead"), Some("delivery.exhausted")));
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 3);
    assert_eq!(delivery["attempts"][2]["code"], "delivery.agent_rejected");
    let audit = bed.store.list("audit", &ListFilter { limit: 9, ..ListFilter::default() }).await.unwrap().unwrap();
    assert_eq!(audit.items.iter().filter(|line| line["action"] == "delivery.dead" && line["target"] == delivery["id"]).count(), 1);
}

#[tokio::test]
async fn a_worker_that_wakes_after_its_lease_moved_changes_nothing() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let hold = Arc::new(Notify::new());
    let (endpoint, mut seen) = agent(Box::new({
        let hold = hold.clone();
        move |_| Answer::Held(hold.clone(), 200)
    }))
    .await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let event = bed.accept("support", "A", "a1").await;
    // One slot, and it is taken: only the test claims from here on.
    let (_stop, _task) = run(bed.courier(&[0, 5, 5], 1));
    soon(seen.recv()).await.unwrap();
    assert!(bed.store.claim_deliveries(claiming(9), bed.clock.now()).await.unwrap().is_empty());
    bed.clock.advance_ms(LEASE_MS + 1);
    let claimed = bed.store.claim_deliveries(claiming(9), bed.clock.now()).await.unwrap().pop().unwrap();
    assert_eq!((claimed.attempt, claimed.lease), (2, 2));
    hold.notify_one();
    assert_eq!(bed.next().await, won("a1", 1, "fenced"));
    let delivery = bed.delivery(&event).await;
    assert_eq!((delivery["state"].as_str(), delivery["attempts"].as_array().unwrap().len()), (Some("leased"), 0));
}

#[tokio::test]
async fn an_event_that_takes_workers_down_is_a_dead_letter_in_the_end() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, mut seen) = agent(Box::new(|_| Answer::Status(200))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    bed.accept("support", "A", "poison").await;
    for attempt in 1..=2 {
        let claimed = bed.store.claim_deliveries(claiming(1), bed.clock.now()).await.unwrap();
        assert_eq!(claimed[0].attempt, attempt);
        bed.clock.advance_ms(LEASE_MS);
    }
    bed.accept("support", "B", "b1").await;
    let (_stop, _task) = run(bed.courier(&[0, 5], 2));
    assert_eq!(bed.next_sorted(2).await, [won("b1", 1, "delivered"), won("poison", 3, "dead")]);
    assert_eq!((soon(seen.recv()).await.map(|s| s.text), seen.try_recv().is_err()), (Some("b1".into()), true));
}

#[tokio::test]
async fn redirects_and_endless_answers_are_failures() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, mut seen) = agent(Box::new(|seen| match seen.text.as_str() {
        "large" => Answer::Large(200),
        _ => Answer::With(307, "location", "/elsewhere"),
    }))
    .await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0, 5_000], 2));
    for (text, code) in [("moved", "delivery.agent_redirect"), ("large", "delivery.agent_response_too_large")] {
        let event = bed.accept("support", text, text).await;
        assert_eq!(bed.next().await, won(text, 1, "retry"));
        assert_eq!(bed.delivery(&event).await["code"], code);
        assert_eq!(soon(seen.recv()).await.unwrap().path, "/events");
    }
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn an_agent_on_loopback_is_not_dialled_unless_allowed() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, mut seen) = agent(Box::new(|_| Answer::Status(200))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let strict = Courier { transport: Transport::agents(false).unwrap(), ..bed.courier(&[0, 5_000], 2) };
    let (_stop, _task) = run(strict);
    let event = bed.accept("support", "A", "a1").await;
    assert_eq!(bed.next().await, won("a1", 1, "retry"));
    assert_eq!(bed.delivery(&event).await["code"], "delivery.agent_dial_forbidden");
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn an_agent_without_a_secret_or_without_itself_gets_nothing() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let stranger = vault(1);
    bed.declare("support", "http://127.0.0.1:1/", AgentStatus::Active).await;
    let (_stop, _task) = run(Courier { vault: stranger, ..bed.courier(&[0, 5_000], 2) });
    for (agent, code) in [("support", "vault.key_unknown"), ("nobody", "delivery.agent_unreachable")] {
        let event = bed.accept(agent, agent, agent).await;
        assert_eq!(bed.next().await, won(agent, 1, "retry"));
        assert_eq!(bed.delivery(&event).await["code"], code);
    }
}

#[tokio::test]
async fn a_shutdown_lets_attempts_finish_and_gives_back_the_rest() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let hold = Arc::new(Notify::new());
    let (endpoint, mut seen) = agent(Box::new({
        let hold = hold.clone();
        move |_| Answer::Held(hold.clone(), 200)
    }))
    .await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    bed.accept("support", "A", "a1").await;
    let (stop, task) = run(Courier { grace: Duration::from_secs(20), ..bed.courier(&[0], 1) });
    soon(seen.recv()).await.unwrap();
    stop.send(true).unwrap();
    hold.notify_one();
    soon(task).await.unwrap();
    assert_eq!(bed.next().await, won("a1", 1, "delivered"));

    let event = bed.accept("support", "A", "a2").await;
    let (stop, task) = run(bed.courier(&[0], 1));
    soon(seen.recv()).await.unwrap();
    drop(stop); // Nobody left to announce it is an announcement too.
    soon(task).await.unwrap();
    let delivery = bed.delivery(&event).await;
    assert_eq!((delivery["state"].as_str(), delivery["attempt"].as_i64()), (Some("pending"), Some(0)));
    assert_eq!(bed.store.claim_deliveries(claiming(9), bed.clock.now()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn without_slots_or_store_there_is_nothing_to_run() {
    let bed = Bed::new(Clock::manual(START)).await;
    let (_stop, task) = run(bed.courier(&[0], 0));
    soon(task).await.unwrap();
    let (_stop, task) = run(bed.courier(&[0], 1));
    bed.store.close().await;
    soon(task).await.unwrap();
}

#[tokio::test]
async fn on_the_machines_clock_a_retry_comes_by_itself() {
    let mut bed = Bed::new(Clock::system()).await;
    let mut first = true;
    let (endpoint, _seen) = agent(Box::new(move |_| Answer::Status(if std::mem::take(&mut first) { 500 } else { 200 }))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0, 20], 2));
    bed.accept("support", "A", "a1").await;
    assert_eq!(bed.next().await, won("a1", 1, "retry"));
    assert_eq!(bed.next().await, won("a1", 2, "delivered"));
}

#[tokio::test]
async fn a_claim_does_not_wake_its_claimer() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    bed.declare("support", "http://127.0.0.1:1/", AgentStatus::Active).await;
    let mut committed = bed.store.committed();
    committed.borrow_and_update();
    assert!(bed.store.claim_deliveries(claiming(9), START).await.unwrap().is_empty());
    assert!(!committed.has_changed().unwrap());
    bed.accept("support", "A", "a1").await;
    assert!(committed.has_changed().unwrap());
    // What waits for its lease is a time to look again; what waits for its session's head is not.
    bed.accept("support", "A", "a2").await;
    assert_eq!(bed.store.claim_deliveries(claiming(9), START).await.unwrap().len(), 1);
    assert_eq!(bed.store.next_due(), Some(START.plus_ms(LEASE_MS)));
}

#[tokio::test]
async fn an_attempt_ends_before_its_lease() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, _seen) = agent(Box::new(|_| Answer::Held(Arc::new(Notify::new()), 200))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    let mut courier = bed.courier(&[0, 5_000], 2);
    (courier.settings.attempt_timeout_ms, courier.settings.lease_ms) = (3_600_000, SETTLE_MS + 2_000);
    let (_stop, _task) = run(courier);
    let event = bed.accept("support", "A", "a1").await;
    assert_eq!(bed.next().await, won("a1", 1, "retry"));
    assert_eq!(bed.delivery(&event).await["code"], "delivery.agent_timeout");
}

#[test]
fn the_time_for_an_attempt_is_what_its_lease_leaves() {
    for (passed_ms, time_ms) in [(0, 25_000), (10_000, 15_000), (25_000, 0), (LEASE_MS, 0), (2 * LEASE_MS, 0)] {
        let claimed = Claimed {
            id: crate::domain::ids::DeliveryId::numbered(1),
            event: crate::domain::ids::EventId::fresh(START),
            org: crate::domain::ids::OrgId::parse("acme").unwrap(),
            agent: AgentId::parse("support").unwrap(),
            session: crate::domain::ids::SessionId::fresh(START),
            lease: 1,
            lease_until: START.plus_ms(LEASE_MS),
            attempt: 1,
        };
        assert_eq!(Courier::time_for(&claimed, START.plus_ms(passed_ms)), Duration::from_millis(time_ms), "{passed_ms}");
    }
}

#[tokio::test]
async fn a_failing_agent_is_probed_with_one_delivery_and_then_delivered_to() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let mut failures = 6;
    let (endpoint, mut seen) = agent(Box::new(move |_| {
        failures -= i32::from(failures > 0);
        Answer::Status(if failures > 0 { 500 } else { 200 })
    }))
    .await;
    bed.declare("sick", &endpoint, AgentStatus::Active).await;
    let (well, _) = agent(Box::new(|_| Answer::Status(200))).await;
    bed.declare("well", &well, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0, 600_000], 16));
    for n in 0..5 {
        let text = format!("s{n}");
        bed.accept("sick", &text, &text).await;
        assert_eq!(bed.next().await, won(&text, 1, "retry"));
    }
    let sick = AgentId::parse("sick").unwrap();
    assert_eq!(bed.store.breaker(&sick).next_probe_at, Some(START.plus_ms(1_000)));
    for n in 5..8 {
        bed.accept("sick", &format!("s{n}"), &format!("s{n}")).await;
    }
    bed.accept("well", "w", "w").await;
    assert_eq!(bed.next().await, won("w", 1, "delivered"));
    bed.clock.advance_ms(1_000);
    assert_eq!(bed.next().await, won("s5", 1, "delivered"));
    assert_eq!(bed.next_sorted(2).await, [won("s6", 1, "delivered"), won("s7", 1, "delivered")]);
    assert_eq!(bed.store.breaker(&sick).state, BreakerState::Closed);
    let mut asked = 0;
    while seen.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 8);
    let told: Vec<_> = std::iter::from_fn(|| bed.turned.try_recv().ok()).collect();
    assert_eq!(told.into_iter().map(|(_, to)| to).collect::<Vec<_>>(), [BreakerState::Open, BreakerState::HalfOpen, BreakerState::Closed]);
}

#[tokio::test]
async fn a_replay_closes_the_breaker() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let mut failures = 6;
    let (endpoint, _seen) = agent(Box::new(move |_| {
        failures -= i32::from(failures > 0);
        Answer::Status(if failures > 0 { 500 } else { 200 })
    }))
    .await;
    bed.declare("sick", &endpoint, AgentStatus::Active).await;
    let (_stop, _task) = run(bed.courier(&[0], 8));
    let mut first = None;
    for n in 0..5 {
        let text = format!("s{n}");
        first = first.or(Some(bed.accept("sick", &text, &text).await));
        assert_eq!(bed.next().await, won(&text, 1, "dead"));
    }
    bed.accept("sick", "s5", "s5").await;
    let delivery = bed.delivery(&first.unwrap()).await;
    let id = crate::domain::ids::DeliveryId::parse(delivery["id"].as_str().unwrap()).unwrap();
    let line = crate::domain::record::AuditRecord {
        at: START,
        actor: "olga".into(),
        action: "delivery.replay",
        target: id.to_string(),
        org: None,
        outcome: "done",
        code: None,
        decision: None,
        request: None,
        detail: None,
    };
    assert_eq!(bed.store.replay_delivery(id, line, START).await.unwrap(), crate::store::Replayed::Again);
    assert_eq!(bed.next_sorted(2).await, [won("s0", 1, "delivered"), won("s5", 1, "delivered")]);
}

#[tokio::test]
async fn a_large_event_is_composed_and_arrives_whole() {
    let mut bed = Bed::new(Clock::manual(START)).await;
    let (endpoint, mut seen) = agent(Box::new(|_| Answer::Status(200))).await;
    bed.declare("support", &endpoint, AgentStatus::Active).await;
    bed.raw = format!("{{\"type\":\"{}\"}}", "m".repeat(2 * COMPOSED_HERE_MAX)).into();
    let (_stop, _task) = run(bed.courier(&[0], 2));
    let event = bed.accept("support", "A", "a1").await;
    assert_eq!(bed.next().await, won("a1", 1, "delivered"));
    let got = soon(seen.recv()).await.unwrap();
    let signed = cloudevent::signature(&Secret::new(SECRET.into()), event.as_str(), START, &got.body);
    assert_eq!(got.headers.get("webhook-signature").map(|v| v.to_str().unwrap().to_owned()), signed);
    let body: Json = serde_json::from_slice(&got.body).unwrap();
    assert_eq!(body["data"]["raw"]["type"].as_str().map(str::len), Some(2 * COMPOSED_HERE_MAX));
}
