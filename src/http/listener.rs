//! The accept loop. Our own, because `axum::serve` sets no timer, and without one hyper's header deadline is inert: a
//! client that dribbles its headers would hold a connection for ever.
//!
//! HTTP/1.1 only: no provider speaks cleartext HTTP/2, and what is not served cannot be flooded (RUSTSEC-2024-0332).

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower_service::Service as _;

use super::extract::Local;
use super::framing::{Ambiguous, Watched};
use super::gate::{Gate, turn_away};
use super::pace::Paced;
use super::respond;
use crate::config::Limits;
use crate::domain::guard::{Guard, stands};
use crate::domain::reason::ReasonCode;
use crate::telemetry::metrics::Metrics;

/// A listener that answers.
pub struct Listening {
    /// Where.
    pub address: SocketAddr,
    /// Ends when every connection has, after shutdown was asked for.
    pub task: tokio::task::JoinHandle<()>,
}

/// Binds and serves until `shutdown` turns true; then connections in flight finish.
///
/// # Errors
/// When the address cannot be bound.
pub async fn listen(
    address: SocketAddr,
    router: Router,
    limits: &Limits,
    gate: Gate,
    metrics: Arc<Metrics>,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Listening> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(accept(listener, router, limits.clone(), gate, metrics, shutdown));
    Ok(Listening { address, task })
}

/// How long the accept loop rests when the process is out of file descriptors.
const EXHAUSTED_REST: Duration = Duration::from_millis(50);

async fn accept(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    gate: Gate,
    metrics: Arc<Metrics>,
    mut shutdown: watch::Receiver<bool>,
) {
    let times = Times::of(&limits);
    let header_bytes_max = limits.header_bytes_max;
    // No `pipeline_flush`: with it hyper keeps its own 400 and 431 to itself while bytes behind the bad head are unread.
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(stands(Guard::HeaderDeadline).then(|| Duration::from_millis(limits.header_timeout_ms)))
        .max_headers(limits.header_lines_max)
        .max_buf_size(limits.header_bytes_max)
        .keep_alive(true);
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(error = %error, "could not accept a connection");
                    tokio::time::sleep(EXHAUSTED_REST).await;
                    continue;
                }
            },
            () = down(&mut shutdown) => break,
        };
        let entered = match gate.enter(peer.ip()) {
            Ok(entered) => entered,
            Err(full) => {
                metrics.connection_refused(full.as_str());
                turn_away(&stream);
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (builder, router, metrics, mut shutdown) = (builder.clone(), router.clone(), metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            let _entered = entered;
            let ends = (peer, stream.local_addr().ok());
            let connection = connection(&builder, Paced::new(stream, times.write), ends, router, metrics, header_bytes_max);
            tokio::pin!(connection);
            tokio::select! {
                _ = &mut connection => return,
                () = down(&mut shutdown) => {}
                () = tokio::time::sleep(times.life) => {}
            }
            // The request under way is answered, and no other one is taken.
            connection.as_mut().graceful_shutdown();
            let _ = tokio::time::timeout(times.grace, connection).await;
        });
    }
    drop(listener);
    gate.empty().await;
}

/// How long a connection may take for what.
#[derive(Clone, Copy)]
struct Times {
    /// Without progress of what is written.
    write: Duration,
    /// In all.
    life: Duration,
    /// For the request that is under way at the end of its life: as long as the longest may take.
    grace: Duration,
}

impl Times {
    fn of(limits: &Limits) -> Self {
        let ms = Duration::from_millis;
        let longest = limits.body_timeout_ms.saturating_add(limits.media_timeout_ms.max(limits.provider_timeout_ms));
        Self { write: ms(limits.write_timeout_ms), life: ms(limits.connection_life_ms), grace: ms(longest) }
    }
}

/// Until shutdown is asked for, or nobody is left to ask.
async fn down(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|down| *down).await.map(|_| ());
}

type Connection<S> = hyper::server::conn::http1::Connection<TokioIo<Watched<Paced<TcpStream>>>, S>;

fn connection(
    builder: &hyper::server::conn::http1::Builder,
    stream: Paced<TcpStream>,
    (peer, local): (SocketAddr, Option<SocketAddr>),
    router: Router,
    metrics: Arc<Metrics>,
    header_bytes_max: usize,
) -> Connection<
    impl hyper::service::Service<hyper::Request<Incoming>, Response = hyper::Response<Body>, Error = std::convert::Infallible, Future: Send>,
> {
    let (stream, ambiguous) = Watched::new(stream);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        // Failure budgets are by address.
        request.extensions_mut().insert(peer);
        if let Some(local) = local {
            request.extensions_mut().insert(Local(local.ip()));
        }
        let (router, metrics, ambiguous) = (router.clone(), metrics.clone(), ambiguous.clone());
        async move { Ok(answer(router, &metrics, &ambiguous, header_bytes_max, request).await) }
    });
    builder.serve_connection(TokioIo::new(stream), service)
}

/// One request. A handler that breaks answers 503, and the process lives.
async fn answer(
    mut router: Router,
    metrics: &Metrics,
    ambiguous: &Ambiguous,
    header_bytes_max: usize,
    request: hyper::Request<Incoming>,
) -> hyper::Response<Body> {
    if ambiguous.seen() && stands(Guard::FramingOneWay) {
        return respond::closing(respond::constant(ReasonCode::IngressFraming));
    }
    // hyper's own limit is one of its buffer: a block that arrives in one piece may be larger.
    let header_bytes: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if header_bytes > header_bytes_max && stands(Guard::HeaderBytes) {
        return respond::closing(respond::constant(ReasonCode::IngressHeadersTooLarge));
    }
    let chunked = request.headers().contains_key(http::header::TRANSFER_ENCODING);
    let handled = std::panic::AssertUnwindSafe(router.call(request.map(Body::new)));
    let response = match futures_util::FutureExt::catch_unwind(handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(_) => {
            tracing::error!("a handler broke");
            metrics.panicked();
            respond::closing(respond::constant(ReasonCode::IngressInternal))
        }
    };
    // Whatever stands behind a chunked body is not watched, so it is not read either.
    if chunked { respond::closing(response) } else { response }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_handler_that_breaks_answers_503_and_the_process_lives() {
        async fn breaks() -> &'static str {
            panic!("canary-detail")
        }
        let router = Router::new().route("/breaks", get(breaks)).route("/works", get(async || "fine"));
        let (metrics, (stop, stopping)) = (Arc::new(Metrics::new("v")), watch::channel(false));
        let listening =
            listen(([127, 0, 0, 1], 0).into(), router, &Limits::default(), Gate::operators(), metrics.clone(), stopping).await.unwrap();
        let broken = ask(listening.address, "/breaks").await;
        assert!(broken.starts_with("HTTP/1.1 503") && broken.contains("retry-after") && !broken.contains("canary"), "{broken}");
        assert!(ask(listening.address, "/works").await.ends_with("fine"));
        assert!(metrics.encode(0, 0).contains("byoa_handler_panics_total 1"));
        stop.send(true).unwrap();
        listening.task.await.unwrap();
    }
}
