//! `GET/POST /webhooks/{provider}/{ingress_id}`, and old addresses that lead to one profile each.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{Request, StatusCode};

use super::Rooms;
use super::budget;
use super::extract::{HttpBody, peer};
use super::respond;
use crate::domain::ids::{ProfileId, RequestId};
use crate::domain::installation::ProviderKind;
use crate::ingress::{Noted, Outcome};
use crate::providers;
use crate::wire::RequestHead;

pub(super) async fn receive(
    State(rooms): State<Arc<Rooms>>,
    Path((provider, ingress_id)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    match ProviderKind::parse(&provider) {
        Some(provider) => take(&rooms, provider, ingress_id, request).await,
        None => budget::unknown_address(&rooms, request.extensions()),
    }
}

pub(super) async fn receive_alias(profile: String, State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Response {
    let directory = rooms.store.directory();
    let found =
        ProfileId::parse(&profile).ok().and_then(|id| directory.profiles.get(&id).map(|p| (p.item.provider, p.item.ingress_id.clone())));
    match found {
        Some((provider, ingress_id)) => {
            rooms.metrics.alias_used(&profile);
            take(&rooms, provider, ingress_id, request).await
        }
        None => budget::unknown_address(&rooms, request.extensions()),
    }
}

async fn take(rooms: &Rooms, provider: ProviderKind, ingress_id: String, request: Request<Body>) -> Response {
    let (head, body) = taken(rooms, provider, ingress_id, request);
    let outcome = rooms.ingress.receive(head, body).await;
    respond::webhook(outcome, allow(provider))
}

/// Takes a webhook that the gateway sends to itself: the way of any other, from no address. The status that its sender would see,
/// the outcome, and what became of its parts.
pub(super) async fn take_own(
    rooms: &Rooms,
    provider: ProviderKind,
    ingress_id: String,
    request: Request<Body>,
) -> (StatusCode, Outcome, Noted) {
    let (head, body) = taken(rooms, provider, ingress_id, request);
    let (outcome, noted) = rooms.ingress.receive_noting(head, body).await;
    (respond::webhook(outcome.clone(), allow(provider)).status(), outcome, noted)
}

fn taken(rooms: &Rooms, provider: ProviderKind, ingress_id: String, request: Request<Body>) -> (RequestHead, HttpBody) {
    let received = rooms.clock.now();
    let (parts, body) = request.into_parts();
    let head = RequestHead {
        provider,
        ingress_id,
        method: parts.method,
        query: parts.uri.query().map(str::to_owned),
        headers: parts.headers,
        peer: peer(&parts.extensions),
        received,
        request_id: RequestId::fresh(received),
    };
    // Whoever knows one address uses up the share of that address, and no other app's.
    let body = HttpBody::unproved(body, rooms, &head.ingress_id);
    (head, body)
}

fn allow(provider: ProviderKind) -> &'static str {
    if providers::of(provider).has_get_handshake() { "GET, POST" } else { "POST" }
}
