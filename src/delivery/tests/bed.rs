//! A store in a folder of its own, an agent on loopback, and an ear on the courier.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::super::{ANSWER_BYTES_MAX, Courier, DeliveryObserver};
use crate::config::{DeliverySection, Limits, RolloutSection};
use crate::crypto::MacKey;
use crate::crypto::envelope::KeyRing;
use crate::domain::breaker::BreakerState;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::delivery::Claimed;
use crate::domain::ids::{AgentId, EventId, InstallationId, OrgId, ProfileId, RequestId};
use crate::domain::installation::{Agent, AgentStatus, DeliveryFormat, Mode, ProviderKind};
use crate::domain::message::{Conversation, ConversationKind, EventKind, Normal};
use crate::domain::route::Route;
use crate::domain::secret::Secret;
use crate::domain::session::SessionKey;
use crate::store::directory::SealedSecret;
use crate::store::{AcceptRequest, Change, Claiming, NewEvent, Resource, SecretPut, Store};
use crate::transport::Transport;
use crate::vault::reply::ReplyLinks;
use crate::vault::ticket::MediaLinks;
use crate::vault::{Vault, field};
use crate::wire::waiting::Waiting;

pub const SECRET: &str = "whsec_SJTJJ/UqECrncrEsDIdjEXCOe4prXNWO";
pub const START: Timestamp = Timestamp::from_ms(1_790_000_000_000);
pub const LEASE_MS: i64 = 30_000;

/// One request that the agent got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub text: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

/// What the agent answers.
pub enum Answer {
    Status(u16),
    With(u16, &'static str, &'static str),
    Large(u16),
    /// Only when told to.
    Held(Arc<Notify>, u16),
}

pub type Script = Box<dyn FnMut(&Seen) -> Answer + Send>;

/// A claim of up to so many, in which nobody's share is in the way.
pub fn claiming(limit: usize) -> Claiming {
    Claiming { limit, lease_ms: LEASE_MS, slots: 1_000, org_max: 500, agent_max: 250 }
}

/// A vault with a key of its own.
pub fn vault(seed: u8) -> Vault {
    let key = Zeroizing::new(std::array::from_fn(|i| u8::try_from(i).unwrap() + seed));
    Vault::new(KeyRing::new(vec![key]).unwrap(), MacKey::new(b"lookup").unwrap())
}

/// An agent on loopback; says what it gets.
pub async fn agent(script: Script) -> (String, mpsc::UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    let script = Arc::new(Mutex::new(script));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tell, script) = (tell.clone(), script.clone());
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (tell, script) = (tell.clone(), script.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let event: Json = serde_json::from_slice(&body).unwrap();
                    let text = event["data"]["text"].as_str().unwrap_or_default().to_owned();
                    let seen = Seen { path: head.uri.path().to_owned(), text, headers: head.headers, body };
                    let answer = (script.lock().unwrap())(&seen);
                    let _ = tell.send(seen);
                    let response = http::Response::builder();
                    Ok::<_, Infallible>(
                        match answer {
                            Answer::Status(status) => response.status(status).body(Full::<Bytes>::default()),
                            Answer::With(status, name, value) => response.status(status).header(name, value).body(Full::<Bytes>::default()),
                            Answer::Large(status) => response.status(status).body(Full::<Bytes>::from(vec![b'x'; ANSWER_BYTES_MAX + 1])),
                            Answer::Held(until, status) => {
                                until.notified().await;
                                response.status(status).body(Full::<Bytes>::default())
                            }
                        }
                        .unwrap(),
                    )
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (format!("http://{address}/events"), seen)
}

/// Passes on what the courier says.
pub struct Ear(mpsc::UnboundedSender<(Claimed, &'static str, i64)>, mpsc::UnboundedSender<(AgentId, BreakerState)>);

impl DeliveryObserver for Ear {
    fn settled(&self, claimed: &Claimed, outcome: &'static str, lag_ms: i64) {
        let _ = self.0.send((claimed.clone(), outcome, lag_ms));
    }

    fn breaker_turned(&self, agent: &AgentId, to: BreakerState) {
        let _ = self.1.send((agent.clone(), to));
    }
}

pub struct Bed {
    _dir: tempfile::TempDir,
    pub store: Store,
    vault: Vault,
    pub clock: Clock,
    texts: HashMap<EventId, String>,
    heard: mpsc::UnboundedReceiver<(Claimed, &'static str, i64)>,
    tell: mpsc::UnboundedSender<(Claimed, &'static str, i64)>,
    /// What the provider sends.
    pub raw: Bytes,
    pub turned: mpsc::UnboundedReceiver<(AgentId, BreakerState)>,
    tell_turned: mpsc::UnboundedSender<(AgentId, BreakerState)>,
}

impl Bed {
    pub async fn new(clock: Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("data/byoa.db").display());
        let store = Store::open(&url, &Limits::default(), &RolloutSection::default(), &clock).await.unwrap();
        for org in [None, Some("acme")] {
            store.content_keys().add(org, &zeroize::Zeroizing::new([3; 32]));
        }
        let vault = vault(0);
        let (tell, heard) = mpsc::unbounded_channel();
        let (tell_turned, turned) = mpsc::unbounded_channel();
        let raw = Bytes::from_static(b"{\"type\":\"message\"}");
        Self { _dir: dir, store, vault, clock, texts: HashMap::new(), heard, tell, raw, turned, tell_turned }
    }

    /// Declares an agent at an address.
    pub async fn declare(&self, id: &str, endpoint: &str, status: AgentStatus) {
        let sealed = self.vault.seal(None, "agents", id, field::SIGNING_SECRET, &Secret::new(SECRET.into())).unwrap();
        let secret = SealedSecret {
            id: "s1".into(),
            field: field::SIGNING_SECRET.into(),
            slot: "current".into(),
            sealed,
            fingerprint: "f".into(),
            set: START,
            until: None,
        };
        let agent = Agent {
            id: AgentId::parse(id).unwrap(),
            org: Some(OrgId::parse("acme").unwrap()),
            endpoint: endpoint.into(),
            format: DeliveryFormat::Cloudevents,
            synchronous: std::collections::BTreeSet::new(),
            status,
        };
        let put = SecretPut { kind: "agents", owner: id.into(), secret };
        self.store.apply(vec![Change::Put(Box::new(Resource::Agent(agent)), vec![put])], Vec::new(), self.clock.now()).await.unwrap();
    }

    /// Accepts a message in a conversation, for an agent.
    pub async fn accept(&mut self, agent: &str, conversation: &str, text: &str) -> EventId {
        let now = self.clock.now();
        let route = Route {
            org: OrgId::parse("acme").unwrap(),
            provider: ProviderKind::Slack,
            installation: InstallationId::parse("acme-slack").unwrap(),
            binding: None,
            agent: AgentId::parse(agent).unwrap(),
            legacy: false,
        };
        let id = EventId::fresh(now);
        let event = NewEvent {
            id: id.clone(),
            session_key: SessionKey::new(&route, conversation, None, None),
            route,
            legacy: None,
            mode: Mode::Byoa,
            profile: ProfileId::parse("acme-slack-app").unwrap(),
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
                conversation: Some(Conversation { id: conversation.into(), kind: ConversationKind::Channel, thread: None }),
                text: Some(text.into()),
                ..Normal::default()
            },
            raw: self.raw.clone(),
            media_type: "application/json",
            files: Vec::new(),
            decisions: Vec::new(),
        };
        let request =
            AcceptRequest { request: RequestId::fresh(now), received: now, events: vec![event], refusals: Vec::new(), shifts: Vec::new() };
        self.store.accept_inbound(request).await.unwrap();
        self.texts.insert(id.clone(), text.into());
        id
    }

    pub fn courier(&self, schedule_ms: &[u64], concurrency: usize) -> Courier {
        Courier {
            store: self.store.clone(),
            vault: self.vault.clone(),
            links: MediaLinks::new(self.vault.clone(), None, 24),
            replies: ReplyLinks::new(self.vault.clone(), None),
            waiting: Waiting::default(),
            transport: Transport::agents(true).unwrap(),
            clock: self.clock.clone(),
            settings: DeliverySection { schedule_ms: schedule_ms.into(), concurrency, ..DeliverySection::default() },
            grace: Duration::from_millis(50),
            observer: Arc::new(Ear(self.tell.clone(), self.tell_turned.clone())),
        }
    }

    /// The next settled delivery: its text, its attempt, how.
    pub async fn next(&mut self) -> (String, i64, &'static str) {
        let (claimed, outcome, _) = soon(self.heard.recv()).await.unwrap();
        (self.texts[&claimed.event].clone(), claimed.attempt, outcome)
    }

    /// The next `n`, whatever their order.
    pub async fn next_sorted(&mut self, n: usize) -> Vec<(String, i64, &'static str)> {
        let mut all = Vec::new();
        for _ in 0..n {
            all.push(self.next().await);
        }
        all.sort();
        all
    }

    pub async fn delivery(&self, event: &EventId) -> Json {
        self.store.journey(event).await.unwrap().unwrap()["deliveries"][0].clone()
    }
}

pub fn run(courier: Courier) -> (watch::Sender<bool>, JoinHandle<()>) {
    let (stop, stopped) = watch::channel(false);
    (stop, tokio::spawn(courier.run(stopped)))
}

/// A test that waits for what never comes must fail, not hang.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what).await.expect("waited in vain")
}

pub fn won(text: &str, attempt: i64, outcome: &'static str) -> (String, i64, &'static str) {
    (text.into(), attempt, outcome)
}
