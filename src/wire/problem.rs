//! Errors as agents and operators see them: RFC 9457 problem details (<https://www.rfc-editor.org/rfc/rfc9457>).

use serde_json::{Value, json};

use crate::domain::ids::RequestId;
use crate::domain::reason::ReasonCode;

/// The media type.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// The body of an error: the code's meaning as title, and what is wrong with this request as detail.
pub fn problem(code: ReasonCode, detail: &str, request: &RequestId) -> Value {
    json!({
        "type": format!("urn:byoa:reason:{code}"),
        "title": code.meaning(),
        "status": code.status(),
        "code": code,
        "detail": detail,
        "request_id": request,
    })
}
