//! A provider's API on loopback that answers each request as a test tells it to, when the test lets it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::fakes::Seen;

/// Status and body.
pub type Told = (u16, serde_json::Value);

type Answering = Pin<Box<dyn Future<Output = Told> + Send>>;

pub struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    pub async fn start(answer: impl Fn(Seen) -> Answering + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, seen) = (Arc::new(answer), Arc::new(Mutex::new(Vec::new())));
        let kept = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, kept) = (answer.clone(), kept.clone());
                let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                    let (answer, kept) = (answer.clone(), kept.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                        let seen = Seen { method: parts.method.to_string(), path: parts.uri.to_string(), headers: parts.headers, body };
                        kept.lock().unwrap().push(seen.clone());
                        let (status, body) = answer(seen).await;
                        let body = Full::new(Bytes::from(body.to_string()));
                        let answer = hyper::Response::builder().status(status).header("content-type", "application/json").body(body);
                        Ok::<_, Infallible>(answer.unwrap())
                    }
                });
                tokio::spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, seen, task }
    }

    pub fn api_base(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What it got by now at paths that end so.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.seen.lock().unwrap().iter().filter(|s| s.path.ends_with(path)).cloned().collect()
    }
}
