//! Requests as the rooms take them: bodies with a cap and a deadline, tokens, ids.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{Extensions, HeaderMap};
use http_body_util::BodyExt as _;

use crate::config::Limits;
use crate::domain::guard::{Guard, stands};
use crate::domain::reason::ReasonCode;
use crate::wire::BodySource;

/// A request's body, unread.
pub(super) struct HttpBody {
    body: Body,
    timeout: Duration,
}

impl HttpBody {
    pub(super) fn new(body: Body, limits: &Limits) -> Self {
        Self { body, timeout: Duration::from_millis(limits.body_timeout_ms) }
    }
}

impl BodySource for HttpBody {
    async fn read(self, bytes_max: usize) -> Result<Bytes, ReasonCode> {
        let Self { mut body, timeout } = self;
        let read = async {
            let mut first: Option<Bytes> = None;
            let mut all = BytesMut::new();
            let mut total = 0usize;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| ReasonCode::IngressBodyIncomplete)?;
                let Ok(data) = frame.into_data() else { continue };
                total = total.saturating_add(data.len());
                if total > bytes_max && stands(Guard::BodyCap) {
                    return Err(ReasonCode::IngressBodyTooLarge);
                }
                // Most bodies come in one piece, which is then not copied.
                match first.take() {
                    None if all.is_empty() => first = Some(data),
                    None => all.extend_from_slice(&data),
                    Some(before) => {
                        all.extend_from_slice(&before);
                        all.extend_from_slice(&data);
                    }
                }
            }
            Ok(first.unwrap_or_else(|| all.freeze()))
        };
        if !stands(Guard::BodyDeadline) {
            return read.await;
        }
        tokio::time::timeout(timeout, read).await.unwrap_or(Err(ReasonCode::IngressBodyTimeout))
    }
}

/// The address that the request's connection comes from. Nothing that a header says of it is read.
pub(super) fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions.get::<SocketAddr>().map(SocketAddr::ip)
}

/// The token of `Authorization: Bearer`, sent once.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}
