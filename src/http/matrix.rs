//! Runs of the failure-path matrix on the operator API: each handler is a door to one function of `admin::matrix`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse as _;
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};

use super::Rooms;
use super::api::{Answer, asking, optional_body, shown};
use super::respond::{admin_error, problem_response};
use crate::admin::matrix::MatrixBody;
use crate::domain::reason::ReasonCode;

/// Starts a run. Who hangs up ends nothing.
pub(super) async fn start(State(rooms): State<Arc<Rooms>>, Query(query): Query<HashMap<String, String>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let body = match optional_body(&rooms, &asking, body).await? {
        Value::Null => MatrixBody::default(),
        body => serde_json::from_value(body).map_err(|e| problem_response(ReasonCode::RolloutInvalid, &e.to_string(), &asking.request))?,
    };
    let run = rooms.admin.matrix_start(&asking, body).await.map_err(|e| admin_error(&e, &asking.request))?;
    if query.get("wait").is_some_and(|wait| wait == "false") {
        return Ok((StatusCode::ACCEPTED, Json(json!({"id": run.id()}))).into_response());
    }
    shown(&asking, rooms.admin.matrix_ended(&run).await)
}

pub(super) async fn list(State(rooms): State<Arc<Rooms>>, Query(query): Query<HashMap<String, String>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.matrix_runs(&asking, query.get("provider").map(String::as_str)).await)
}

pub(super) async fn one(State(rooms): State<Arc<Rooms>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.matrix_run(&asking, &id).await)
}
