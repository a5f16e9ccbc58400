//! An agent and a provider on loopback that keep what they got and answer what they are told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// One request that a fake got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Seen {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What a fake answers with.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Answer {
    pub fn new(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

/// A test that hangs is a test that fails; nothing is measured by it.
const GUARD: std::time::Duration = std::time::Duration::from_secs(30);

/// What a fake answers on paths that begin so, before anything else it was told.
#[derive(Clone)]
struct Route {
    prefix: String,
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

/// The status of a route that never answers.
const HANGS: u16 = 0;

struct Fake {
    routes: Arc<Mutex<Vec<Route>>>,
    address: SocketAddr,
    seen: tokio::sync::Mutex<mpsc::UnboundedReceiver<Seen>>,
    answer: Arc<Mutex<Answer>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::unbounded_channel();
        let answer = Arc::new(Mutex::new(answer));
        let answers = answer.clone();
        let routes: Arc<Mutex<Vec<Route>>> = Arc::default();
        let routed = routes.clone();
        let task = tokio::spawn(async move {
            // With the fake its connections end too: after that nobody answers there.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tell, answers, routed) = (tell.clone(), answers.clone(), routed.clone());
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (tell, answers, routed) = (tell.clone(), answers.clone(), routed.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                        let path = parts.uri.to_string();
                        let route = routed.lock().unwrap().iter().rev().find(|r| path.starts_with(&r.prefix)).cloned();
                        let _ = tell.send(Seen { method: parts.method.to_string(), path, headers: parts.headers, body });
                        if let Some(route) = route {
                            if route.status == HANGS {
                                std::future::pending::<()>().await;
                            }
                            let mut answer = hyper::Response::builder().status(route.status);
                            for (name, value) in &route.headers {
                                answer = answer.header(*name, value);
                            }
                            return Ok(answer.body(Full::new(route.body)).unwrap());
                        }
                        let Answer { status, headers, body } = answers.lock().unwrap().clone();
                        let body = Full::new(Bytes::from(body.to_string()));
                        let mut answer = hyper::Response::builder().status(status).header("content-type", "application/json");
                        for (name, value) in headers {
                            answer = answer.header(name, value);
                        }
                        Ok::<_, Infallible>(answer.body(body).unwrap())
                    }
                });
                connections.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { routes, address, seen: tokio::sync::Mutex::new(seen), answer, task }
    }

    /// The next request it gets; waits for it.
    async fn next(&self) -> Seen {
        let seen = async { self.seen.lock().await.recv().await };
        tokio::time::timeout(GUARD, seen).await.expect("nothing came").expect("the fake is gone")
    }

    fn unseen(&self) -> Option<Seen> {
        self.seen.try_lock().unwrap().try_recv().ok()
    }
}

/// An agent.
pub struct FakeAgent(Fake);

impl FakeAgent {
    pub async fn start() -> Self {
        Self(Fake::start(Answer::new(200, json!({}))).await)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}/events", self.0.address)
    }

    /// What it answers to everything from now on.
    pub fn answers(&self, status: u16, body: Value) {
        *self.0.answer.lock().unwrap() = Answer::new(status, body);
    }

    pub async fn next(&self) -> Seen {
        self.0.next().await
    }

    /// What it got and nobody has looked at.
    pub fn unseen(&self) -> Option<Seen> {
        self.0.unseen()
    }
}

/// A provider's API.
pub struct FakeProvider(Fake);

impl FakeProvider {
    /// Answers so on every path that begins so; what is said later goes first.
    pub fn on(&self, prefix: &str, status: u16, headers: &[(&'static str, &str)], body: impl Into<Bytes>) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.0.routes.lock().unwrap().push(Route { prefix: prefix.to_owned(), status, headers, body: body.into() });
    }

    /// Never answers on paths that begin so.
    pub fn hangs_on(&self, prefix: &str) {
        self.on(prefix, HANGS, &[], "");
    }

    pub async fn start() -> Self {
        Self(Fake::start(Answer::new(200, json!({"ok": true}))).await)
    }

    pub fn api_base(&self) -> String {
        format!("http://{}/", self.0.address)
    }

    pub fn answers(&self, status: u16, body: Value) {
        self.answers_with(Answer::new(status, body));
    }

    pub fn answers_with(&self, answer: Answer) {
        *self.0.answer.lock().unwrap() = answer;
    }

    pub async fn next(&self) -> Seen {
        self.0.next().await
    }

    pub fn unseen(&self) -> Option<Seen> {
        self.0.unseen()
    }
}
