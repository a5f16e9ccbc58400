//! Rollout on the operator API: each handler is a door to one function of `admin::rollout`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use http::{HeaderMap, Request};
use serde::de::DeserializeOwned;

use super::Rooms;
use super::api::{Answer, asking, body_of, shown};
use super::respond::problem_response;
use crate::admin::Asking;
use crate::domain::reason::ReasonCode;

pub(super) async fn all(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.rollout_status(&asking, None).await)
}

pub(super) async fn one(State(rooms): State<Arc<Rooms>>, Path(provider): Path<String>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.rollout_status(&asking, Some(&provider)).await)
}

/// Who asks, and what for.
async fn read<T: DeserializeOwned>(rooms: &Rooms, request: Request<Body>) -> Result<(Asking, T), axum::response::Response> {
    let (parts, body) = request.into_parts();
    let asking = asking(rooms, &parts.headers)?;
    let body = body_of(rooms, &asking, body).await?;
    match serde_json::from_value(body) {
        Ok(body) => Ok((asking, body)),
        Err(e) => Err(problem_response(ReasonCode::RolloutInvalid, &e.to_string(), &asking.request)),
    }
}

pub(super) async fn set(State(rooms): State<Arc<Rooms>>, Path(provider): Path<String>, request: Request<Body>) -> Answer {
    let (asking, body) = read(&rooms, request).await?;
    shown(&asking, rooms.admin.rollout_set(&asking, &provider, body).await)
}

pub(super) async fn promote(State(rooms): State<Arc<Rooms>>, Path(provider): Path<String>, request: Request<Body>) -> Answer {
    let (asking, body) = read(&rooms, request).await?;
    shown(&asking, rooms.admin.rollout_promote(&asking, &provider, body).await)
}

pub(super) async fn rollback(State(rooms): State<Arc<Rooms>>, Path(provider): Path<String>, request: Request<Body>) -> Answer {
    let (asking, body) = read(&rooms, request).await?;
    shown(&asking, rooms.admin.rollout_rollback(&asking, &provider, body).await)
}

pub(super) async fn global(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Answer {
    let (asking, body) = read(&rooms, request).await?;
    shown(&asking, rooms.admin.rollout_global(&asking, body).await)
}
