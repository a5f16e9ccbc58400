//! The only outbound HTTP client: deadline, size cap, private-address guard.
//!
//! Owns connections, TLS and the answer to "did anything leave?". Follows no redirect, asks no proxy of the environment,
//! unpacks nothing, repeats nothing, and never lets an address into an error text: Telegram's holds the token. Floor 2.

pub mod guard;

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::Stream;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use url::Url;

pub use guard::agent_url;

use crate::domain::guard::{Guard, stands};
use crate::domain::reason::{Failure, ReasonCode};
use crate::wire::budget::Held;
use crate::wire::{Payload, WireRequest, WireResponse};

/// Names, TCP and TLS of one connection. Shorter than a call's own deadline, so that an address nobody answers at ends as
/// "nothing left" and not as "who knows".
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections kept to one host.
const IDLE_PER_HOST_MAX: usize = 16;

/// An idle connection is closed before most servers would close it under a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An error text is cut here.
const DETAIL_CHARS_MAX: usize = 300;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection came to be: nothing left.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// The address is not one that configuration allows; nothing left.
    #[error("the address is not one that configuration allows")]
    DialForbidden,
    /// The deadline passed.
    #[error("no answer in time")]
    Timeout {
        /// Whether the request may have left.
        sent: bool,
    },
    /// The connection broke. The request may have left.
    #[error("the connection broke: {0}")]
    Reset(String),
    /// The answer is longer than the caller reads, or than there is room for. The request left.
    #[error("the answer is too large")]
    AnswerTooLarge,
}

impl TransportError {
    /// Whether the other side may have acted on it.
    pub fn may_have_left(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::DialForbidden => false,
            Self::Timeout { sent } => *sent,
            Self::Reset(_) | Self::AnswerTooLarge => true,
        }
    }
}

/// A pooled HTTP client. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transport {
    client: reqwest::Client,
    /// `Some(allow_private)`: every address is checked first.
    guarded: Option<bool>,
}

impl Transport {
    /// For the providers' APIs: their addresses come from the configuration and are trusted.
    ///
    /// # Errors
    /// [`ReasonCode::ConfigInvalid`] when no client can be built at all.
    pub fn providers() -> Result<Self, Failure> {
        Ok(Self { client: client(None)?, guarded: None })
    }

    /// For agents: their addresses come from tenants, so unless `allow_private` only public ones are dialled.
    ///
    /// # Errors
    /// [`ReasonCode::ConfigInvalid`] when no client can be built at all.
    pub fn agents(allow_private: bool) -> Result<Self, Failure> {
        Self::guarded(allow_private, guard::system())
    }

    fn guarded(allow_private: bool, lookup: guard::Lookup) -> Result<Self, Failure> {
        let resolver = Arc::new(guard::Resolver { allow_private, lookup });
        Ok(Self { client: client(Some(resolver))?, guarded: Some(allow_private) })
    }

    /// Sends one request and reads its answer, all within `timeout_ms`.
    ///
    /// # Errors
    /// [`TransportError`]
    pub async fn send(&self, request: WireRequest, timeout_ms: u64, answer_bytes_max: usize) -> Result<WireResponse, TransportError> {
        self.open(request, timeout_ms, u64::try_from(answer_bytes_max).unwrap_or(u64::MAX)).await?.whole(None).await
    }

    /// Sends one request and returns when the head of its answer is here. The body is read with [`Streamed::chunk`], all of
    /// it within the same `timeout_ms`.
    ///
    /// # Errors
    /// [`TransportError`]
    pub async fn open(&self, request: WireRequest, timeout_ms: u64, answer_bytes_max: u64) -> Result<Streamed, TransportError> {
        let url = match self.guarded {
            // The client does not ask the resolver about literal addresses, hence the look at the URL.
            Some(allow_private) => agent_url(request.url.expose(), allow_private).map_err(|_| TransportError::DialForbidden)?,
            None => Url::parse(request.url.expose()).map_err(|e| TransportError::NotSent(e.to_string()))?,
        };
        let mut call = self.client.request(request.method, url).timeout(Duration::from_millis(timeout_ms));
        for (name, value) in &request.headers {
            let mut value = HeaderValue::from_str(value.expose())
                .map_err(|_| TransportError::NotSent(format!("the value of `{name}` is not fit for a header")))?;
            value.set_sensitive(true);
            call = call.header(*name, value);
        }
        let mut response = call.body(outgoing(request.body)).send().await.map_err(sort)?;
        let length = response.content_length();
        if length.is_some_and(|bytes| bytes > answer_bytes_max) && stands(Guard::AnswerLength) {
            return Err(TransportError::AnswerTooLarge);
        }
        let (status, headers) = (response.status().as_u16(), std::mem::take(response.headers_mut()));
        Ok(Streamed { status, headers, length, response, left: answer_bytes_max })
    }
}

/// An answer whose body is still to come.
#[derive(Debug)]
pub struct Streamed {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// How long the body will be, where the other side says so.
    pub length: Option<u64>,
    response: reqwest::Response,
    left: u64,
}

impl Streamed {
    /// The whole answer; what of it is in memory is counted in `held`, where that is given.
    ///
    /// # Errors
    /// [`TransportError`]
    pub async fn whole(mut self, mut held: Option<&mut Held>) -> Result<WireResponse, TransportError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if let Some(held) = &mut held {
                held.grow(body.len().saturating_add(chunk.len())).map_err(|_| TransportError::AnswerTooLarge)?;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(WireResponse { status: self.status, headers: self.headers, body: body.freeze() })
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`TransportError`], and [`TransportError::AnswerTooLarge`] where more comes than was allowed.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, TransportError> {
        let Some(chunk) = self.response.chunk().await.map_err(sort_body)? else { return Ok(None) };
        let left = u64::try_from(chunk.len()).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.or((!stands(Guard::AnswerLength)).then_some(0)).ok_or(TransportError::AnswerTooLarge)?;
        Ok(Some(chunk))
    }
}

fn outgoing(payload: Payload) -> reqwest::Body {
    match payload {
        Payload::Whole(bytes) => bytes.into(),
        payload => reqwest::Body::wrap(Outgoing { length: payload.length(), pieces: Box::pin(payload.into_pieces()) }),
    }
}

/// A body that is read from its file while it is sent. Its length is known, so it is sent with one and not in chunks, which not
/// every provider takes.
struct Outgoing {
    length: u64,
    pieces: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send + Sync>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.pieces.as_mut().poll_next(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// Decides what an error before the answer's head means. Only a failed connection proves that nothing left.
fn sort(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    if chain(&error).any(|e| e.is::<guard::Forbidden>()) {
        return TransportError::DialForbidden;
    }
    let connecting = error.is_connect();
    if error.is_timeout() {
        TransportError::Timeout { sent: !connecting }
    } else if connecting || error.is_builder() {
        TransportError::NotSent(detail(&error))
    } else {
        TransportError::Reset(detail(&error))
    }
}

fn sort_body(error: reqwest::Error) -> TransportError {
    let error = error.without_url();
    if error.is_timeout() { TransportError::Timeout { sent: true } } else { TransportError::Reset(detail(&error)) }
}

fn chain<'e>(error: &'e (dyn StdError + 'static)) -> impl Iterator<Item = &'e (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| e.source())
}

fn detail(error: &reqwest::Error) -> String {
    let all: Vec<String> = chain(error).map(ToString::to_string).collect();
    all.join(": ").chars().take(DETAIL_CHARS_MAX).collect()
}

fn client(resolver: Option<Arc<guard::Resolver>>) -> Result<reqwest::Client, Failure> {
    // The first one wins and another part of the process may have been it; all there is in this build is ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match builder(resolver.clone(), CONNECT_TIMEOUT).build() {
        Ok(client) => Ok(client),
        Err(e) => {
            // A machine without CA certificates can still talk plain HTTP; over TLS it trusts nobody, so that fails call by
            // call with a certificate error instead of keeping the gateway from starting.
            tracing::warn!(error = %e.without_url(), "no CA certificates: every outbound TLS connection will be refused");
            let trusts_nobody =
                rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
            let built = builder(resolver, CONNECT_TIMEOUT).tls_backend_preconfigured(trusts_nobody).build();
            built.map_err(|e| Failure::new(ReasonCode::ConfigInvalid, format!("no HTTP client: {}", e.without_url())))
        }
    }
}

fn builder(resolver: Option<Arc<guard::Resolver>>, connect_timeout: Duration) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("byoa-gateway/", env!("CARGO_PKG_VERSION")))
        .redirect(if stands(Guard::RedirectNotFollowed) { reqwest::redirect::Policy::none() } else { reqwest::redirect::Policy::default() })
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .connect_timeout(connect_timeout)
        .pool_max_idle_per_host(IDLE_PER_HOST_MAX)
        .pool_idle_timeout(IDLE_TIMEOUT);
    match resolver {
        Some(resolver) => builder.dns_resolver(resolver),
        None => builder,
    }
}

#[cfg(test)]
mod tests;
