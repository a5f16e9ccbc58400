//! A small HTTP server on loopback: the outside world of whoever plays with a gateway. Never knows what is said over it.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value as Json;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// A request that was made to it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// What follows the path.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// What it answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers beside the media type.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Json,
}

impl From<(u16, Json)> for Answer {
    fn from((status, body): (u16, Json)) -> Self {
        Self { status, headers: Vec::new(), body }
    }
}

impl Asked {
    /// A header's text; empty when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A server. Dropping it ends it and its connections.
#[derive(Debug)]
pub struct Loopback {
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
///
/// # Errors
/// When loopback has no port left.
pub async fn serve<F, A>(answer: F) -> io::Result<Loopback>
where
    F: Fn(Asked) -> A + Clone + Send + Sync + 'static,
    A: Future<Output: Into<Answer> + Send> + Send + 'static,
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
    A: Future<Output: Into<Answer>>,
{
    let (head, body) = request.into_parts();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            let (path, query) = (head.uri.path().to_owned(), head.uri.query().map(str::to_owned));
            answer(Asked { method: head.method, path, query, headers: head.headers, body: body.to_bytes() }).await.into()
        }
        Err(_) => (400, Json::Null).into(),
    };
    let mut response = Response::new(Full::from(answer.body.to_string()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in answer.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}
