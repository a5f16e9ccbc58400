//! Import and backfill on the operator API: each handler is a door to one function of `admin::import`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::Request;

use super::Rooms;
use super::api::{Answer, asking, body_of, optional_body, shown};

/// A page of lines.
pub(super) async fn import(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let page = body_of(&rooms, &asking, body).await?;
    shown(&asking, rooms.admin.import(&asking, page).await)
}

/// A page of legacy bindings.
pub(super) async fn backfill(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let page = optional_body(&rooms, &asking, body).await?;
    shown(&asking, rooms.admin.backfill(&asking, page).await)
}
