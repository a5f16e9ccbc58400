//! Failed proofs at the doors: each counts for the client's address. Beyond the budget the answer is 429 in that door's
//! shape. A request that proves itself is not looked at here.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::{Extensions, HeaderValue, Request, StatusCode, header};

use super::Rooms;
use super::extract::peer;
use super::respond::{constant, constant_later, problem_response};
use crate::domain::ids::RequestId;
use crate::domain::reason::ReasonCode;
use crate::quota::failures::network;

/// Counts a failed proof at a door that is no webhook's; seconds to wait where the client's address is over its budget.
pub(super) fn failed(rooms: &Rooms, extensions: &Extensions, door: &'static str) -> Option<u64> {
    let wait = rooms.failures.failed(peer(extensions), None, rooms.clock.steady_ms()).err();
    if wait.is_some() {
        rooms.metrics.throttled(door);
    }
    wait
}

/// An agent's or operator's request that failed to prove itself.
pub(super) fn refused(rooms: &Rooms, extensions: &Extensions, code: ReasonCode, detail: &str, request: &RequestId) -> Response {
    match failed(rooms, extensions, "agent") {
        Some(wait) => later(wait, request),
        None => problem_response(code, detail, request),
    }
}

fn later(wait: u64, request: &RequestId) -> Response {
    let code = ReasonCode::AuthnThrottled;
    let mut response = problem_response(code, code.meaning(), request);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
    response
}

/// A webhook address that cannot exist.
pub(super) fn unknown_address(rooms: &Rooms, extensions: &Extensions) -> Response {
    match failed(rooms, extensions, "webhook") {
        Some(wait) => constant_later(ReasonCode::AuthnThrottled, wait),
        None => constant(ReasonCode::AuthnUnknownLocator),
    }
}

/// Around the operator API: an answer that says who is asking is unknown counts, and is audited with others of its address.
pub(super) async fn operators(State(rooms): State<Arc<Rooms>>, request: Request<Body>, next: Next) -> Response {
    let extensions = request.extensions().clone();
    let response = next.run(request).await;
    if response.status() != StatusCode::UNAUTHORIZED {
        return response;
    }
    rooms.metrics.operator_refused(ReasonCode::AdminUnauthenticated);
    rooms.store.repeats().count_unknown_operator(peer(&extensions).map(|peer| network(peer.to_canonical())), rooms.clock.now());
    failed(&rooms, &extensions, "operator").map_or(response, |wait| later(wait, &RequestId::fresh(rooms.clock.now())))
}
