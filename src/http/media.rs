//! `GET /v1/media/{ticket}`: files that people sent, for the agent that holds the ticket.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use futures_util::stream::try_unfold;
use http::{HeaderValue, Request, header};

use super::extract::bearer;
use super::respond::{answered, attached, problem_response};
use super::{Rooms, budget};
use crate::authn::agent::authenticate;
use crate::domain::ids::RequestId;
use crate::egress::Underway;
use crate::transport::Streamed;

/// A file as it comes, under way until its last byte. What breaks off in the middle breaks the connection off, so that half a
/// file is never taken for a whole one.
pub(super) fn passing(file: Streamed, underway: Underway) -> Body {
    Body::from_stream(try_unfold((file, underway), |(mut file, underway)| async move {
        file.chunk().await.map(|piece| piece.map(|bytes| (bytes, (file, underway))))
    }))
}

pub(super) async fn fetch(State(rooms): State<Arc<Rooms>>, Path(ticket): Path<String>, request: Request<Body>) -> Response {
    let id = RequestId::fresh(rooms.clock.now());
    let principal = match authenticate(bearer(request.headers()), &rooms.store.directory(), &rooms.vault) {
        Ok(principal) => principal,
        Err(code) => return budget::refused(&rooms, request.extensions(), code, "send the agent's token as Authorization: Bearer", &id),
    };
    let underway = match rooms.egress.begin(principal.agent()) {
        Ok(underway) => underway,
        Err(code) => return problem_response(code, code.meaning(), &id),
    };
    let media = match rooms.egress.media(&principal, &ticket, &id).await {
        Ok(media) => media,
        Err(refused) => return answered(refused),
    };
    let (media_type, length) = (media.media_type, media.length);
    let mut response = Response::new(passing(media.body, underway));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
    attached(headers);
    response
}
