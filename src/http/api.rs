//! The operator API, health and metrics. Every handler is a door to one function of `admin`.

#![expect(clippy::result_large_err, reason = "a refusal is an answer as large as any other")]

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde_json::{Value, json};

use super::Rooms;
use super::extract::{HttpBody, bearer};
use super::respond::{admin_error, closing, problem_response};
use crate::admin::sessions::HandoffBody;
use crate::admin::view::KINDS;
use crate::admin::{AdminError, Asking, resources};
use crate::domain::ids::RequestId;
use crate::domain::reason::ReasonCode;
use crate::store::ListFilter;
use crate::telemetry::metrics;
use crate::wire::BodySource as _;

pub(super) type Answer = Result<Response, Response>;

pub(super) fn asking(rooms: &Rooms, headers: &HeaderMap) -> Result<Asking, Response> {
    let request = RequestId::fresh(rooms.clock.now());
    match rooms.operators.authenticate(bearer(headers)) {
        Ok(operator) => Ok(Asking { operator, request }),
        Err(code) => Err(problem_response(code, "send an operator token as Authorization: Bearer", &request)),
    }
}

async fn bytes_of(rooms: &Rooms, asking: &Asking, body: Body) -> Result<Bytes, Response> {
    let read = HttpBody::operators(body, rooms).read(rooms.config.limits.api_body_bytes_max).await;
    read.map(|taken| taken.bytes).map_err(|code| closing(problem_response(code, code.meaning(), &asking.request)))
}

/// For requests that may say nothing.
pub(super) async fn optional_body(rooms: &Rooms, asking: &Asking, body: Body) -> Result<Value, Response> {
    let bytes = bytes_of(rooms, asking, body).await?;
    if bytes.is_empty() { Ok(Value::Null) } else { json_of(asking, &bytes) }
}

pub(super) async fn body_of(rooms: &Rooms, asking: &Asking, body: Body) -> Result<Value, Response> {
    json_of(asking, &bytes_of(rooms, asking, body).await?)
}

fn json_of(asking: &Asking, bytes: &[u8]) -> Result<Value, Response> {
    serde_json::from_slice(bytes).map_err(|e| problem_response(ReasonCode::AdminResourceInvalid, &e.to_string(), &asking.request))
}

pub(super) fn shown(asking: &Asking, answer: Result<Value, AdminError>) -> Answer {
    match answer {
        Ok(value) => Ok(Json(value).into_response()),
        Err(error) => Err(admin_error(&error, &asking.request)),
    }
}

/// Alive: the process answers.
pub(super) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// Ready: the store answers, the clock is believed and the process is not draining.
pub(super) async fn readyz(State(rooms): State<Arc<Rooms>>) -> Response {
    let store = rooms.store.ping().await;
    let draining = *rooms.draining.borrow();
    let suspect = rooms.clock.is_suspect();
    let ready = store.is_ok() && !draining && !suspect;
    let policy = rooms.engine.pin();
    let body = json!({
        "status": if ready { "ready" } else { "not_ready" },
        "store": if store.is_ok() { "ok" } else { "unavailable" },
        "policies": if rooms.standing.is_stale() { "stale" } else { "current" },
        "policy_version": policy.version(),
        "policy_orgs_rejected": rooms.standing.get().orgs.len(),
        "clock": if suspect { "suspect" } else { "ok" },
        "draining": draining,
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

pub(super) async fn metrics(State(rooms): State<Arc<Rooms>>) -> Response {
    let disagreements = rooms.engine.pin().shadow().map_or(0, |shadow| shadow.total());
    rooms.metrics.installations(rooms.store.directory().installations.values().map(|i| (i.item.provider, i.item.status)));
    rooms.metrics.under_way(rooms.store.under_way(), |state| rooms.store.breakers(state));
    let depth = i64::try_from(rooms.store.queue_depth()).unwrap_or(i64::MAX);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], rooms.metrics.encode(depth, i64::try_from(disagreements).unwrap_or(i64::MAX)))
        .into_response()
}

pub(super) async fn policies(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    if let Err(error) = rooms.admin.may_view(&asking).await {
        return Err(admin_error(&error, &asking.request));
    }
    let policy = rooms.engine.pin();
    let standing = rooms.standing.get();
    let active = json!({
        "version": policy.version(), "loaded_at": policy.loaded_at(), "policies": policy.policies(), "files": policy.files(),
        "rows": standing.rows, "expires_at": policy.expires_at(),
    });
    Ok(Json(json!({"active": active, "rejected": standing.rejected, "orgs_rejected": standing.orgs})).into_response())
}

/// Where the set in the shadow would have answered otherwise.
pub(super) async fn shadow(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    if let Err(error) = rooms.admin.may_view(&asking).await {
        return Err(admin_error(&error, &asking.request));
    }
    let (policy, rejected) = (rooms.engine.pin(), rooms.standing.get().shadow_rejected);
    let shadow = policy.shadow().map(|shadow| {
        let set = shadow.set();
        json!({"version": set.version(), "loaded_at": set.loaded_at(), "policies": set.policies(), "files": set.files()})
    });
    let (total, unlisted, items) = policy.shadow().map_or((0, 0, vec![]), |s| (s.total(), s.unlisted(), s.list()));
    let body = json!({"shadow": shadow, "rejected": rejected, "total": total, "unlisted": unlisted, "items": items, "next": null});
    Ok(Json(body).into_response())
}

/// Every reason code; no secret in it, so no token for it.
pub(super) async fn reasons() -> Json<Value> {
    let items: Vec<Value> = ReasonCode::ALL
        .iter()
        .map(|c| {
            json!({"code": c, "status": c.status(), "retryable": c.retryable(), "policies": c.usable_by_policies(), "meaning": c.meaning()})
        })
        .collect();
    Json(json!({"items": items, "next": null}))
}

pub(super) async fn apply(State(rooms): State<Arc<Rooms>>, Query(query): Query<HashMap<String, String>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let document = body_of(&rooms, &asking, body).await?;
    let dry_run = query.get("dry_run").is_some_and(|v| v == "true");
    shown(&asking, rooms.admin.apply(&asking, document, dry_run).await.map(|applied| resources::report(&applied)))
}

pub(super) async fn put(State(rooms): State<Arc<Rooms>>, Path((kind, id)): Path<(String, String)>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let mut resource = body_of(&rooms, &asking, body).await?;
    let named = match resource.as_object_mut() {
        Some(object) => object.entry("id").or_insert_with(|| json!(id)) == &json!(id),
        None => false,
    };
    if !named || !KINDS.contains(&kind.as_str()) {
        let detail =
            format!("PUT /v1/{{orgs,agents,profiles,installations,bindings}}/ID takes one resource whose id is the path's (`{id}`)");
        return Err(problem_response(ReasonCode::AdminResourceInvalid, &detail, &asking.request));
    }
    let if_match = if_match(&parts.headers);
    let applied = rooms.admin.put(&asking, &kind, resource, if_match.as_deref()).await.map_err(|e| admin_error(&e, &asking.request))?;
    let created = applied.iter().any(|a| a.action == "created");
    let shown = rooms.admin.resource(&asking, &kind, &id).await.map_err(|e| admin_error(&e, &asking.request))?;
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, tagged(shown)).into_response())
}

/// What `If-Match` says, all lines of it. What is no text is no version.
fn if_match(headers: &HeaderMap) -> Option<String> {
    let said: Vec<&str> = headers.get_all(header::IF_MATCH).iter().map(|v| v.to_str().unwrap_or_default()).collect();
    (!said.is_empty()).then(|| said.join(","))
}

/// A resource with its version as the tag to come back with.
fn tagged(shown: Value) -> Response {
    let tag = shown.get("version").and_then(Value::as_str).and_then(|version| HeaderValue::try_from(format!("\"{version}\"")).ok());
    let mut response = Json(shown).into_response();
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response
}

pub(super) async fn delete(State(rooms): State<Arc<Rooms>>, Path((kind, id)): Path<(String, String)>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    match rooms.admin.delete(&asking, &kind, &id, if_match(&headers).as_deref()).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(error) => Err(admin_error(&error, &asking.request)),
    }
}

pub(super) async fn get(State(rooms): State<Arc<Rooms>>, Path((kind, id)): Path<(String, String)>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    let found = match kind.as_str() {
        "events" => rooms.admin.journey(&asking, &id).await,
        kind if KINDS.contains(&kind) => {
            return rooms.admin.resource(&asking, kind, &id).await.map(tagged).map_err(|e| admin_error(&e, &asking.request));
        }
        kind => rooms.admin.one(&asking, kind, &id).await,
    };
    shown(&asking, found)
}

/// Rows of a page where nothing else is asked for.
const PAGE_ROWS: i64 = 100;

pub(super) async fn list(
    State(rooms): State<Arc<Rooms>>,
    Path(kind): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Answer {
    let asking = asking(&rooms, &headers)?;
    let org = query.get("org").cloned();
    match rooms.admin.resources(&asking, &kind, org.as_deref()).await {
        Ok(Some(items)) => return Ok(Json(json!({"items": items, "next": null})).into_response()),
        Ok(None) => {}
        Err(error) => return Err(admin_error(&error, &asking.request)),
    }
    let number = |name: &str| query.get(name).map(|v| v.parse::<i64>());
    let (before, limit) = match (number("cursor").transpose(), number("limit").transpose()) {
        (Ok(before), Ok(limit)) => (before, limit.unwrap_or(PAGE_ROWS)),
        _ => return Err(problem_response(ReasonCode::AdminResourceInvalid, "cursor and limit are numbers", &asking.request)),
    };
    let filter = ListFilter { org, id: query.get("id").cloned(), state: query.get("state").cloned(), before, limit };
    match rooms.admin.list(&asking, &kind, &filter).await {
        Ok(page) => Ok(Json(page).into_response()),
        Err(error) => Err(admin_error(&error, &asking.request)),
    }
}

pub(super) async fn replay(State(rooms): State<Arc<Rooms>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.replay(&asking, &id).await)
}

pub(super) async fn close_session(State(rooms): State<Arc<Rooms>>, Path(id): Path<String>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.close_session(&asking, &id).await)
}

pub(super) async fn hand_off_session(State(rooms): State<Arc<Rooms>>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let body = body_of(&rooms, &asking, body).await?;
    let body: HandoffBody =
        serde_json::from_value(body).map_err(|e| problem_response(ReasonCode::AdminResourceInvalid, &e.to_string(), &asking.request))?;
    shown(&asking, rooms.admin.hand_off_session(&asking, &id, body).await)
}

/// What only the running gateway can tell `byoa doctor`.
pub(super) async fn doctor(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.doctor(&asking).await)
}

/// A profile's signing secret is replaced.
pub(super) async fn rotate_secret(State(rooms): State<Arc<Rooms>>, Path(profile): Path<String>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let body = body_of(&rooms, &asking, body).await?;
    shown(&asking, rooms.admin.rotate_secret(&asking, &profile, body).await)
}

/// The one before it verifies no more.
pub(super) async fn revoke_secret(State(rooms): State<Arc<Rooms>>, Path(profile): Path<String>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.revoke_secret(&asking, &profile).await)
}

/// One person's data is removed.
pub(super) async fn purge(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let body = body_of(&rooms, &asking, body).await?;
    shown(&asking, rooms.admin.purge(&asking, body).await)
}

/// What its retention has passed is removed now.
pub(super) async fn sweep(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.sweep(&asking).await)
}

/// The master keys by name.
pub(super) async fn keys(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.keys(&asking).await)
}

/// A new master key, or on with the last one.
pub(super) async fn rotate_keys(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let body = optional_body(&rooms, &asking, body).await?;
    shown(&asking, rooms.admin.rotate_keys(&asking, body).await)
}

/// Master keys that no row names leave the file.
pub(super) async fn prune_keys(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Answer {
    let asking = asking(&rooms, &headers)?;
    shown(&asking, rooms.admin.prune_keys(&asking).await)
}

/// An org is made unreadable for ever.
pub(super) async fn shred(State(rooms): State<Arc<Rooms>>, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let body = body_of(&rooms, &asking, body).await?;
    shown(&asking, rooms.admin.shred(&asking, &id, body).await)
}
