//! Requests as the rooms take them: bodies with a cap and a deadline, tokens, ids.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use futures_util::stream::{Stream, try_unfold};
use http::{Extensions, HeaderMap};
use http_body_util::BodyExt as _;

use super::Rooms;
use crate::config::Limits;
use crate::domain::guard::{Guard, stands};
use crate::domain::reason::ReasonCode;
use crate::wire::BodySource;
use crate::wire::budget::{Budget, Held, Taken};

/// The operators' bodies have a budget of their own, of so many of the largest, so that no agent keeps an operator out.
const OPERATORS_BODIES: usize = 16;

/// How many bytes of bodies are in memory at once, by what is known of their senders; and on the disk.
#[derive(Clone, Debug)]
pub struct Bodies {
    /// Of strangers: nothing is proved yet.
    unproved: Budget,
    /// Of agents, and of webhooks whose signature was verified.
    proved: Budget,
    /// Of operators.
    operators: Budget,
    /// Files on their way through.
    pub(super) spooled: Budget,
}

impl Bodies {
    /// Budgets as the limits say; `proved` counts answers to agents too.
    pub fn new(limits: &Limits, proved: Budget) -> Self {
        Self {
            unproved: shared(limits.unproved_bytes_max),
            proved,
            operators: shared(limits.api_body_bytes_max.saturating_mul(OPERATORS_BODIES)),
            spooled: shared(limits.spooled_bytes_max),
        }
    }
}

/// A budget of which one sender has a share.
pub fn shared(bytes: usize) -> Budget {
    Budget::new(bytes, bytes / Limits::SHARES)
}

/// A request's body, unread.
pub(super) struct HttpBody {
    body: Body,
    timeout: Duration,
    held: Held,
    /// Where it is counted when its sender is known.
    proved: Option<Budget>,
}

impl HttpBody {
    fn new(body: Body, rooms: &Rooms, held: Held, proved: Option<Budget>) -> Self {
        Self { body, timeout: Duration::from_millis(rooms.config.limits.body_timeout_ms), held, proved }
    }

    /// Of a sender whose request is not proved yet; `place` is the address that the request is sent to.
    pub(super) fn unproved(body: Body, rooms: &Rooms, place: &str) -> Self {
        Self::new(body, rooms, rooms.bodies.unproved.hold(Some(place)), Some(rooms.bodies.proved.clone()))
    }

    /// Of an agent.
    pub(super) fn proved(body: Body, rooms: &Rooms, agent: &str) -> Self {
        Self::new(body, rooms, rooms.bodies.proved.hold(Some(agent)), None)
    }

    /// Of an operator.
    pub(super) fn operators(body: Body, rooms: &Rooms) -> Self {
        Self::new(body, rooms, rooms.bodies.operators.hold(None), None)
    }

    /// The body piece by piece, at most `bytes_max` in all and all within the deadline; and the parts that it is made of, to hold
    /// what is kept of the pieces.
    pub(super) fn pieces(self, bytes_max: usize) -> (impl Stream<Item = Result<Bytes, ReasonCode>> + Send, Held, Option<Budget>) {
        let until = Box::pin(tokio::time::sleep(self.timeout));
        let pieces = try_unfold((self.body, 0usize, until), move |(mut body, mut total, mut until)| async move {
            tokio::select! {
                next = next(&mut body, &mut total, bytes_max) => Ok(next?.map(|piece| (piece, (body, total, until)))),
                () = &mut until => Err(ReasonCode::IngressBodyTimeout),
            }
        });
        (pieces, self.held, self.proved)
    }
}

/// The next piece that is data; counts it.
async fn next(body: &mut Body, total: &mut usize, bytes_max: usize) -> Result<Option<Bytes>, ReasonCode> {
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| ReasonCode::IngressBodyIncomplete)?.into_data() else { continue };
        *total = total.saturating_add(data.len());
        if *total > bytes_max && stands(Guard::BodyCap) {
            return Err(ReasonCode::IngressBodyTooLarge);
        }
        return Ok(Some(data));
    }
    Ok(None)
}

impl BodySource for HttpBody {
    async fn read(self, bytes_max: usize) -> Result<Taken, ReasonCode> {
        let Self { mut body, timeout, mut held, proved } = self;
        let read = async {
            let (mut all, mut total) = (Vec::new(), 0usize);
            while let Some(data) = next(&mut body, &mut total, bytes_max).await? {
                // Most bodies come in one piece, which is then not copied.
                if all.is_empty() && body.is_end_stream() {
                    held.grow(total)?;
                    return Ok(data);
                }
                // A piece is part of a larger buffer, so it is copied rather than kept. Room is made as it is needed: what is
                // announced may never come.
                if total > all.capacity() {
                    let mut room = all.capacity().saturating_mul(2).min(bytes_max).max(total);
                    if held.grow(room).is_err() {
                        room = total;
                        held.grow(room)?;
                    }
                    all.reserve_exact(room.saturating_sub(all.len()));
                }
                all.extend_from_slice(&data);
            }
            Ok(Bytes::from(all))
        };
        let read = match stands(Guard::BodyDeadline) {
            true => tokio::time::timeout(timeout, read).await.unwrap_or(Err(ReasonCode::IngressBodyTimeout)),
            false => read.await,
        };
        Ok(Taken::new(read?, held, proved))
    }
}

/// The address that the request's connection came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local(pub IpAddr);

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
