//! Outcomes as responses. Whatever is refused before proof looks the same from outside, whatever the cause.

use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::admin::AdminError;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::RequestId;
use crate::domain::reason::ReasonCode;
use crate::egress::SendAnswer;
use crate::ingress::Outcome;
use crate::wire::problem;

/// The one body of every refusal that a provider, or somebody who pretends to be one, gets to see.
const REFUSED: &str = "refused\n";

/// Seconds until a provider should try again when the trouble is ours. Slack gives three tries in about six minutes, so it
/// is short.
const RETRY_AFTER_S: &str = "5";

/// The same for an agent that is told in the shape of an SDK.
pub(super) const SDK_RETRY_AFTER_S: u64 = 5;

fn plain(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Marks what a provider said as data: a browser that is led to it runs nothing of it and gives it no origin of the gateway's.
pub(super) fn inert(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; sandbox"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Marks the bytes of a file that somebody sent: as data, and not to be shown.
pub(super) fn attached(headers: &mut HeaderMap) {
    inert(headers);
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
}

/// The constant answer of a code.
pub(super) fn constant(code: ReasonCode) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let body = if stands(Guard::ConstantAnswer) { REFUSED } else { code.as_str() };
    let mut response = plain(status, body.to_owned());
    match status {
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        _ => {}
    }
    response
}

/// The constant answer of a code, with the seconds after which to try again.
pub(super) fn constant_later(code: ReasonCode, seconds: u64) -> Response {
    let mut response = constant(code);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// The same response, and no further request on its connection.
pub(super) fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What a provider is told. An accepted event is answered with nothing: Telegram would execute a body. The one exception is
/// an answer that was asked for, permitted, and written by the provider's own file.
pub(super) fn webhook(outcome: Outcome, allow: &'static str) -> Response {
    match outcome {
        Outcome::Settled => StatusCode::OK.into_response(),
        Outcome::Answered(body) => ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response(),
        Outcome::Handshake(challenge) => plain(StatusCode::OK, challenge),
        Outcome::Later(code, seconds) => constant_later(code, seconds),
        Outcome::Stopped(code) => {
            let mut response = constant(code);
            match code {
                ReasonCode::IngressMethod => {
                    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
                }
                // The body was not read, or not to its end.
                ReasonCode::IngressBodyTooLarge
                | ReasonCode::IngressBodyTimeout
                | ReasonCode::IngressBodyIncomplete
                | ReasonCode::IngressMemoryFull => {
                    return closing(response);
                }
                _ => {}
            }
            response
        }
    }
}

/// A problem for an agent or an operator.
pub(super) fn problem_response(code: ReasonCode, detail: &str, request: &RequestId) -> Response {
    problem_with(code, problem::problem(code, detail, request))
}

fn problem_with(code: ReasonCode, body: serde_json::Value) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(body)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::MEDIA_TYPE));
    if code.retryable() && matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What an agent is told of a send.
pub(super) fn answered(answer: SendAnswer) -> Response {
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

/// An operator's error.
pub(super) fn admin_error(error: &AdminError, request: &RequestId) -> Response {
    let mut body = problem::problem(error.code, &error.detail, request);
    // Operators read policies; an agent is not told which one refused it.
    if let Some(fields) = body.as_object_mut().filter(|_| !error.policies.is_empty()) {
        fields.insert("policies".into(), error.policies.iter().cloned().collect());
    }
    problem_with(error.code, body)
}

/// No such address.
pub(super) async fn not_found() -> Response {
    constant(ReasonCode::AuthnUnknownLocator)
}

/// An operator address that does not take the method.
pub(super) async fn method_not_allowed() -> Response {
    problem_response(ReasonCode::IngressMethod, "see the documentation of the operator API", &RequestId::fresh(Timestamp::default()))
}
