//! A small HTTP server on loopback, and what its owners tell the driver.
//!
//! Owns sockets of the simulated outside world. Never knows what is said over them. Floor 10.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::domain::installation::ProviderKind;

/// What one of the outside world's parts noticed, and when.
#[derive(Debug)]
pub(super) enum Heard {
    /// An agent was handed an event.
    Agent {
        at: Instant,
        agent: &'static str,
        event: String,
        text: String,
        /// Whether the signature was the gateway's.
        proved: bool,
    },
    /// The gateway answered the agent's own message.
    Answered { at: Instant, event: String, status: u16, code: Option<String> },
    /// A provider was sent a message.
    Provider(Sent),
    /// The gateway settled a delivery.
    Settled { event: String, outcome: &'static str },
}

/// A message at the simulated provider.
#[derive(Debug)]
pub(super) struct Sent {
    /// When.
    pub at: Instant,
    /// At which.
    pub provider: ProviderKind,
    /// In which conversation.
    pub conversation: String,
    /// What was said.
    pub text: String,
    /// The installation whose token it was, or the provider's own word for why it was refused.
    pub verdict: Result<&'static str, &'static str>,
}

/// A request that was made to one of them.
pub(super) struct Asked {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Asked {
    /// A header's text; empty when it is absent.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A server. Dropping it ends it and its connections.
pub(super) struct Loopback {
    /// Where it answers.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Answers every request with a status and JSON.
pub(super) async fn serve<F, A>(answer: F) -> io::Result<Loopback>
where
    F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = (u16, Json)> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        // Aborting this task drops the set, which aborts the connections.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            while connections.try_join_next().is_some() {}
            let _ = stream.set_nodelay(true);
            let answer = answer.clone();
            let service = service_fn(move |request| one(answer.clone(), request));
            connections.spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    Ok(Loopback { address, task })
}

async fn one<F, A>(answer: F, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible>
where
    F: Fn(Asked) -> A,
    A: Future<Output = (u16, Json)>,
{
    let (head, body) = request.into_parts();
    let (status, body) = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            let path = head.uri.path().to_owned();
            answer(Asked { method: head.method, path, headers: head.headers, body: body.to_bytes() }).await
        }
        Err(_) => (400, Json::Null),
    };
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(response)
}
