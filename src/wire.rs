//! Bytes and headers as they travel: nothing here is parsed further than its own form, nothing is believed. Floor 1.

pub mod budget;
pub mod form;
pub mod json;
pub mod offload;
pub mod problem;
pub mod spool;
pub mod waiting;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt as _, iter, once};
use http::{HeaderMap, Method};

use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::RequestId;
use crate::domain::installation::ProviderKind;
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;

/// The head of a webhook request: what the path names and what the headers claim. The body is unread.
#[derive(Debug)]
pub struct RequestHead {
    /// The provider in the path.
    pub provider: ProviderKind,
    /// The unguessable last part of the path.
    pub ingress_id: String,
    /// The method.
    pub method: Method,
    /// The headers.
    pub headers: HeaderMap,
    /// The query, undecoded.
    pub query: Option<String>,
    /// The address that the connection comes from, where there is one.
    pub peer: Option<IpAddr>,
    /// When the head was here.
    pub received: Timestamp,
    /// The request's own id, for logs and records.
    pub request_id: RequestId,
}

impl RequestHead {
    /// The one value of a header.
    ///
    /// # Errors
    /// `absent` when it is not there, [`ReasonCode::AuthnHeaderDuplicated`] when it is there twice: which one counts would
    /// be a guess.
    pub fn only(&self, name: &str, absent: ReasonCode) -> Result<&[u8], ReasonCode> {
        let mut values = self.headers.get_all(name).iter();
        let Some(first) = values.next() else {
            return if stands(Guard::HeaderThere) { Err(absent) } else { Ok(&[]) };
        };
        if values.next().is_some() && stands(Guard::HeaderOnce) {
            return Err(ReasonCode::AuthnHeaderDuplicated);
        }
        Ok(first.as_bytes())
    }

    /// The media type without parameters, lower case; empty when it is absent or said twice.
    pub fn media_type(&self) -> String {
        let mut values = self.headers.get_all(http::header::CONTENT_TYPE).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => {
                let text = value.to_str().unwrap_or("");
                text.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
            }
            _ => String::new(),
        }
    }
}

/// A body that is read only when everything before it has passed.
pub trait BodySource: Send {
    /// Reads it whole, at most `bytes_max`, within the listener's deadline. What was read is counted in a budget as it arrives,
    /// until the last copy of it is dropped.
    ///
    /// # Errors
    /// `ingress.body_too_large`, `ingress.body_timeout`, `ingress.body_incomplete`, `ingress.memory_full`.
    fn read(self, bytes_max: usize) -> impl Future<Output = Result<budget::Taken, ReasonCode>> + Send;
}

/// Bytes in memory, or in a spooled file.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// In memory.
    Bytes(Bytes),
    /// In a file.
    Spooled(spool::Slice),
}

impl Piece {
    /// The bytes in it.
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Spooled(slice) => slice.length(),
        }
    }
}

/// The body of a request that leaves. Can be sent more than once.
#[derive(Clone, PartialEq, Debug)]
pub enum Payload {
    /// All of it in memory.
    Whole(Bytes),
    /// Pieces in order, some of them in a file.
    Pieces(Vec<Piece>),
}

impl Default for Payload {
    fn default() -> Self {
        Self::Whole(Bytes::new())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Whole(bytes.into())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::Whole(text.into())
    }
}

impl Payload {
    /// The bytes in it.
    pub fn length(&self) -> u64 {
        match self {
            Self::Whole(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Pieces(pieces) => pieces.iter().map(Piece::length).fold(0, u64::saturating_add),
        }
    }

    /// The body where all of it is in memory; empty where it is not.
    pub fn whole(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Pieces(_) => &[],
        }
    }

    /// The bytes in order, piece by piece.
    pub fn into_pieces(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Sync + 'static {
        let pieces = match self {
            Self::Whole(bytes) => vec![Piece::Bytes(bytes)],
            Self::Pieces(pieces) => pieces,
        };
        iter(pieces).flat_map(|piece| match piece {
            Piece::Bytes(bytes) => once(async move { Ok(bytes) }).left_stream(),
            Piece::Spooled(slice) => slice.pieces().right_stream(),
        })
    }
}

/// A request to a provider or an agent, ready to go. Its address and header values may hold a credential, so they print
/// as `[redacted]`.
pub struct WireRequest {
    /// The method.
    pub method: Method,
    /// The whole address. Telegram's holds the token.
    pub url: Secret,
    /// Headers, lower-case names.
    pub headers: Vec<(&'static str, Secret)>,
    /// The body.
    pub body: Payload,
}

impl fmt::Debug for WireRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [redacted] ({} bytes)", self.method, self.body.length())
    }
}

/// What came back.
#[derive(Debug, Clone)]
pub struct WireResponse {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, capped.
    pub body: Bytes,
}

impl WireResponse {
    /// `Retry-After` in seconds, where it is given as a number.
    pub fn retry_after_s(&self) -> Option<u64> {
        self.headers.get(http::header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
    }
}
