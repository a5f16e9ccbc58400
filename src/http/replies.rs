//! `POST /sdk/slack/respond/{ticket}`: what stands in an event where the provider's own reply address stood. SDKs send no
//! token there; the ticket is the proof.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::Request;

use super::Rooms;
use super::budget::refused;
use super::extract::HttpBody;
use super::respond::{answered, closing, problem_response};
use crate::domain::ids::RequestId;
use crate::domain::reason::ReasonCode;
use crate::wire::BodySource as _;

pub(super) async fn reply(State(rooms): State<Arc<Rooms>>, Path(ticket): Path<String>, request: Request<Body>) -> Response {
    let id = RequestId::fresh(rooms.clock.now());
    // The ticket first: a stranger's body is not read.
    let Some(ticket) = rooms.egress.reply_ticket(&ticket) else {
        let code = ReasonCode::EgressNotFound;
        return closing(refused(&rooms, request.extensions(), code, "no such reply address, or no more", &id));
    };
    let agent = rooms.store.directory().agents.get(ticket.agent()).cloned();
    let underway = match agent.ok_or(ReasonCode::EgressNotFound).and_then(|agent| rooms.egress.begin(&agent.item)) {
        Ok(underway) => underway,
        Err(ReasonCode::EgressNotFound) => {
            return closing(problem_response(ReasonCode::EgressNotFound, "no such reply address, or no more", &id));
        }
        Err(code) => return closing(problem_response(code, code.meaning(), &id)),
    };
    let body = HttpBody::proved(request.into_body(), &rooms, ticket.agent().as_str());
    let body = match body.read(rooms.config.limits.api_body_bytes_max).await {
        Ok(body) => body.bytes,
        Err(code) => return closing(problem_response(code, code.meaning(), &id)),
    };
    answered(rooms.egress.reply(ticket, body, id, underway).await)
}
