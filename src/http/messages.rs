//! `POST /v1/messages`: the gateway's own door for agents.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;

use super::Rooms;
use super::budget::refused;
use super::extract::{HttpBody, bearer};
use super::respond::{answered, closing, problem_response};
use crate::authn::agent::authenticate;
use crate::domain::ids::RequestId;
use crate::wire::BodySource as _;

pub(super) async fn send(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Response {
    let id = RequestId::fresh(rooms.clock.now());
    let (parts, body) = request.into_parts();
    // The token first: a stranger's body is not read.
    let principal = match authenticate(bearer(&parts.headers), &rooms.store.directory(), &rooms.vault) {
        Ok(principal) => principal,
        Err(code) => return refused(&rooms, &parts.extensions, code, "send the agent's token as Authorization: Bearer", &id),
    };
    let underway = match rooms.egress.begin(principal.agent()) {
        Ok(underway) => underway,
        Err(code) => return closing(problem_response(code, code.meaning(), &id)),
    };
    let body = HttpBody::proved(body, &rooms, principal.agent().id.as_str());
    let body = match body.read(rooms.config.limits.api_body_bytes_max).await {
        Ok(body) => body.bytes,
        Err(code) => return closing(problem_response(code, code.meaning(), &id)),
    };
    let mut keys = parts.headers.get_all("idempotency-key").iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) => key.to_str().ok().map(str::to_owned),
        _ => None,
    };
    answered(rooms.egress.send(principal, key, body, id, underway).await)
}
