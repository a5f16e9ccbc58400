//! `POST /v1/messages`: the gateway's own door for agents.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Request, StatusCode, header};

use super::Rooms;
use super::extract::{HttpBody, bearer};
use super::respond::problem_response;
use crate::authn::agent::authenticate;
use crate::domain::ids::RequestId;
use crate::wire::{BodySource as _, problem};

pub(super) async fn send(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Response {
    let id = RequestId::fresh(rooms.clock.now());
    let (parts, body) = request.into_parts();
    // The token first: a stranger's body is not read.
    let principal = match authenticate(bearer(&parts.headers), &rooms.store.directory(), &rooms.vault) {
        Ok(principal) => principal,
        Err(code) => return problem_response(code, "send the agent's token as Authorization: Bearer", &id),
    };
    let body = match HttpBody::new(body, &rooms.config.limits).read(rooms.config.limits.api_body_bytes_max).await {
        Ok(body) => body,
        Err(code) => return super::respond::closing(problem_response(code, code.meaning(), &id)),
    };
    let mut keys = parts.headers.get_all("idempotency-key").iter();
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) => key.to_str().ok().map(str::to_owned),
        _ => None,
    };
    let answer = rooms.egress.send(principal, key, body, id).await;
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(answer.body)).into_response();
    if !status.is_success() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    }
    if let Some(seconds) = answer.retry_after_s {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
