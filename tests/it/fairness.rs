//! One tenant's agent hangs, dribbles or takes its time; the other tenant's deliveries arrive all the same. Nothing is timed:
//! no attempt may run out of time here, so whatever arrives has not waited for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use byoa_gateway::domain::breaker::BreakerState;
use byoa_gateway::domain::ids::{AgentId, EventId, InstallationId, OrgId, ProfileId, RequestId};
use byoa_gateway::domain::installation::{Mode, ProviderKind};
use byoa_gateway::domain::message::{Conversation, ConversationKind, EventKind, Normal};
use byoa_gateway::domain::route::Route;
use byoa_gateway::domain::session::SessionKey;
use byoa_gateway::store::{AcceptRequest, NewEvent};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::support::fakes::FakeAgent;
use super::support::gateway::TestGateway;

const NOW: i64 = 1_790_000_100;

/// A test that waits for what never comes must fail, not hang.
const GUARD: std::time::Duration = std::time::Duration::from_secs(120);

/// What an agent does with a request that it has read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Nothing.
    Hangs,
    /// Answers byte by byte, without an end.
    Dribbles,
    /// Answers when the gate is opened.
    Waits,
}

/// An agent of bad manners.
struct Agent {
    endpoint: String,
    gate: watch::Sender<bool>,
    asked: watch::Receiver<usize>,
    most: Arc<AtomicUsize>,
}

async fn read_request(stream: &mut TcpStream) -> bool {
    let (mut got, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).map_or(0, |n| n.trim().parse().unwrap());
            if body.len() >= length {
                return true;
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(n) => got.extend_from_slice(&buffer[..n]),
        }
    }
}

impl Agent {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/events", listener.local_addr().unwrap());
        let ((gate, opened), (count, asked)) = (watch::channel(false), watch::channel(0));
        let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let kept = most.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut opened, count, now, most) = (opened.clone(), count.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    while read_request(&mut stream).await {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        count.send_modify(|n| *n += 1);
                        match manner {
                            Manner::Hangs => std::future::pending().await,
                            Manner::Dribbles => {
                                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                                let mut pace = tokio::time::interval(std::time::Duration::from_millis(50));
                                while stream.write_all(b"1\r\nx\r\n").await.is_ok() {
                                    pace.tick().await;
                                }
                            }
                            Manner::Waits => drop(opened.wait_for(|open| *open).await),
                        }
                        now.fetch_sub(1, Ordering::SeqCst);
                        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { endpoint, gate, asked, most: kept }
    }

    /// Waits until it was asked so often.
    async fn asked(&mut self, times: usize) {
        soon(self.asked.wait_for(|n| *n >= times)).await.unwrap();
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(GUARD, what).await.expect("waited in vain")
}

/// Waits until it is so.
async fn until(what: impl Fn() -> bool) {
    soon(async {
        while !what() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// A gateway that delivers, with these agents, each in an org of its own name.
async fn gateway(agents: &[(String, &str)], attempt_timeout_ms: u64) -> TestGateway {
    let gateway = TestGateway::start_with(NOW, |config| {
        config.delivery = Default::default();
        (config.delivery.attempt_timeout_ms, config.delivery.lease_ms) = (attempt_timeout_ms, attempt_timeout_ms + 3_600_000);
    })
    .await;
    let org = |(id, _): &(String, &str)| json!({"id": id, "name": id});
    let agent = |(id, endpoint): &(String, &str)| {
        json!({"id": id, "org": id, "endpoint": endpoint, "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
            "token": {"value": format!("agt_{id}_3kd9slw02mfj47")}})
    };
    let all = |made: &dyn Fn(&(String, &str)) -> Value| agents.iter().map(made).collect::<Vec<_>>();
    gateway.applied(&json!({"orgs": all(&org), "agents": all(&agent)})).await;
    gateway
}

/// So many conversations of an agent with one event each, or more events in the same ones.
async fn accept(gateway: &TestGateway, agent: &str, conversations: usize, events: usize) {
    let now = gateway.clock.now();
    let route = Route {
        org: OrgId::parse(agent).unwrap(),
        provider: ProviderKind::Slack,
        installation: InstallationId::parse(&format!("{agent}-slack")).unwrap(),
        binding: None,
        agent: AgentId::parse(agent).unwrap(),
        legacy: false,
    };
    let event = |n: usize| {
        let (id, conversation) = (EventId::fresh(now), format!("C{}", n % conversations));
        NewEvent {
            id: id.clone(),
            session_key: SessionKey::new(&route, &conversation, None, None),
            route: route.clone(),
            legacy: None,
            mode: Mode::Byoa,
            profile: ProfileId::parse("app").unwrap(),
            peer: None,
            kind: EventKind::Message,
            provider_event_id: id.to_string(),
            provider_event_type: "message".into(),
            dedupe_key: id.to_string(),
            dedupe_is_personal: false,
            dedupe_until: now.plus_ms(1),
            principal: "Sender".into(),
            verified_with: "current",
            normal: Normal {
                conversation: Some(Conversation { id: conversation, kind: ConversationKind::Channel, thread: None }),
                text: Some(format!("event {n}")),
                ..Normal::default()
            },
            raw: bytes::Bytes::from_static(b"{\"type\":\"message\"}"),
            media_type: "application/json",
            files: Vec::new(),
            decisions: Vec::new(),
        }
    };
    let all: Vec<usize> = (0..events).collect();
    for some in all.chunks(500) {
        let request = AcceptRequest {
            request: RequestId::fresh(now),
            received: now,
            events: some.iter().map(|n| event(*n)).collect(),
            refusals: Vec::new(),
            shifts: Vec::new(),
        };
        gateway.store().accept_inbound(request).await.unwrap();
    }
}

/// Beside an agent of bad manners with so many conversations, all events of a healthy tenant arrive, in their order.
async fn beside(manner: Manner, conversations: usize) {
    let (mut bad, good) = (Agent::start(manner).await, FakeAgent::start().await);
    let gateway = gateway(&[("bad".into(), &bad.endpoint), ("good".into(), &good.endpoint())], 3_600_000).await;
    accept(&gateway, "bad", conversations, conversations).await;
    bad.asked(16).await;
    accept(&gateway, "good", 20, 300).await;
    let mut order = [0; 20];
    for _ in 0..300 {
        let event = soon(good.next()).await.json();
        let text = event["data"]["text"].as_str().unwrap();
        let number: usize = text.trim_start_matches("event ").parse().unwrap();
        assert_eq!(number / 20, order[number % 20], "within a conversation the oldest goes first");
        order[number % 20] += 1;
    }
    until(|| gateway.store().under_way() == 16).await;
    assert_eq!((*bad.asked.borrow(), bad.most.load(Ordering::SeqCst)), (16, 16), "no attempt at it has ended");
    assert_eq!(gateway.store().queue_depth(), conversations);
    assert_eq!(gateway.store().breakers(BreakerState::Open), 0);
    if manner == Manner::Waits {
        bad.gate.send(true).unwrap();
        until(|| gateway.store().queue_depth() == 0).await;
        assert_eq!((*bad.asked.borrow(), bad.most.load(Ordering::SeqCst)), (conversations, 16));
    }
}

#[tokio::test]
async fn beside_an_agent_that_never_answers_with_ten_thousand_conversations() {
    beside(Manner::Hangs, 10_000).await;
}

#[tokio::test]
async fn beside_an_agent_whose_answer_never_ends() {
    beside(Manner::Dribbles, 200).await;
}

#[tokio::test]
async fn beside_an_agent_that_takes_its_time() {
    beside(Manner::Waits, 200).await;
}

#[tokio::test]
async fn beside_fifty_tenants_whose_agents_hang() {
    let (bad, good) = (Agent::start(Manner::Hangs).await, FakeAgent::start().await);
    let endpoint = good.endpoint();
    let mut agents: Vec<(String, &str)> = (0..50).map(|n| (format!("bad{n}"), bad.endpoint.as_str())).collect();
    agents.push(("good".into(), &endpoint));
    let gateway = gateway(&agents, 3_600_000).await;
    for (agent, _) in agents.iter().filter(|(agent, _)| agent != "good") {
        accept(&gateway, agent, 20, 20).await;
    }
    accept(&gateway, "good", 20, 300).await;
    for _ in 0..300 {
        soon(good.next()).await;
    }
    until(|| gateway.store().queue_depth() == 1_000).await;
    // A quarter is kept from agents of which nothing is known.
    assert!(*bad.asked.borrow() <= 192 + 50, "{}", *bad.asked.borrow());
}

#[tokio::test]
async fn an_agent_that_never_answers_in_time_is_left_alone_and_then_probed() {
    let (mut bad, good) = (Agent::start(Manner::Hangs).await, FakeAgent::start().await);
    let gateway = gateway(&[("bad".into(), &bad.endpoint), ("good".into(), &good.endpoint())], 300).await;
    accept(&gateway, "bad", 100, 100).await;
    let store = gateway.store();
    until(|| store.breakers(BreakerState::Open) == 1 && store.under_way() == 0).await;
    // Sixteen at first, and one for each of those that ended before the fifth.
    let asked = *bad.asked.borrow();
    assert!((5..=20).contains(&asked), "{asked}");
    accept(&gateway, "good", 20, 100).await;
    for _ in 0..100 {
        soon(good.next()).await;
    }
    until(|| store.queue_depth() == 100).await;
    assert_eq!(*bad.asked.borrow(), asked, "nothing goes to it");
    let shown = gateway.operate("GET", "/v1/agents/bad", &Value::Null).await.json();
    assert_eq!((&shown["breaker"]["state"], &shown["breaker"]["next_probe_at"]), (&json!("open"), &json!("2026-09-21T14:15:01.000Z")));
    let metrics = gateway.metrics().await;
    assert_eq!((metrics["byoa_agent_breakers{state=\"open\"}"], metrics["byoa_agent_breakers{state=\"half_open\"}"]), (1.0, 0.0));
    gateway.clock.advance_ms(1_000);
    bad.asked(asked + 1).await;
    until(|| store.breakers(BreakerState::Open) == 1 && store.under_way() == 0).await;
    assert_eq!(*bad.asked.borrow(), asked + 1, "one probe");
    soon(async { while gateway.metrics().await["byoa_agent_breaker_transitions_total{to=\"open\"}"] < 2.0 {} }).await;
    let list = gateway.operate("GET", "/v1/agents", &Value::Null).await.json();
    let states: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|agent| &agent["breaker"]["state"]).collect();
    assert_eq!(states, [&json!("open"), &json!("closed")]);
}
