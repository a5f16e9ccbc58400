//! `POST /v1/simulate`: the gateway sends a webhook to itself and says what became of it. The answer holds ids, codes and
//! decisions: no header, no body and no address of the request, so there is nothing in it to send again.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use http::{HeaderValue, Method, Request};
use serde_json::{Value, json};

use super::api::{Answer, asking, body_of, shown};
use super::respond::problem_response;
use super::{Rooms, webhooks};
use crate::admin::AdminError;
use crate::admin::simulate::{OwnWebhook, SimulateBody};
use crate::domain::reason::ReasonCode;
use crate::domain::record::Decision;
use crate::ingress::{Noted, Outcome};

pub(super) async fn simulate(State(rooms): State<Arc<Rooms>>, request: Request<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    let asking = asking(&rooms, &parts.headers)?;
    let ask = body_of(&rooms, &asking, body).await?;
    let ask: SimulateBody =
        serde_json::from_value(ask).map_err(|e| problem_response(ReasonCode::AdminResourceInvalid, &e.to_string(), &asking.request))?;
    match rooms.admin.simulate(&asking, ask).await {
        Ok(webhook) => shown(&asking, sent(&rooms, webhook).await),
        Err(error) => shown(&asking, Err(error)),
    }
}

async fn sent(rooms: &Rooms, webhook: OwnWebhook) -> Result<Value, AdminError> {
    let OwnWebhook { installation, profile, provider, ingress_id, headers, body } = webhook;
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    for (name, value) in headers {
        let value = HeaderValue::from_str(value.expose());
        let value =
            value.map_err(|_| AdminError::new(ReasonCode::AdminResourceInvalid, format!("the proof does not fit the header {name}")))?;
        request.headers_mut().append(name, value);
    }
    let (status, outcome, Noted { events, refusals }) = webhooks::take_own(rooms, provider, ingress_id, request).await;
    let refused = refusals.first().map(|refusal| refusal.code);
    let (word, code, retry_after_s) = match outcome {
        Outcome::Handshake(_) => ("handshake", None, None),
        Outcome::Stopped(code) => ("refused", Some(code), None),
        Outcome::Later(code, seconds) => ("refused", Some(code), Some(seconds)),
        Outcome::Answered(_) => ("accepted", None, None),
        Outcome::Settled if events.iter().any(|event| !event.duplicate) => ("accepted", None, None),
        Outcome::Settled if !events.is_empty() => ("duplicate", Some(ReasonCode::IngressDuplicate), None),
        Outcome::Settled if refused.is_some() => ("refused", refused, None),
        // Nothing that anybody is told of.
        Outcome::Settled => ("accepted", None, None),
    };
    let events: Vec<Value> = events
        .iter()
        .map(|e| {
            // A repeat has no row of its own.
            let id = (!e.duplicate).then_some(&e.id);
            json!({"id": id, "duplicate": e.duplicate, "installation": e.installation, "agent": e.agent, "decisions": told(&e.decisions)})
        })
        .collect();
    let refusals: Vec<Value> = refusals
        .iter()
        .map(|r| json!({"code": r.code, "meaning": r.code.meaning(), "installation": r.installation, "decisions": told(&r.decisions)}))
        .collect();
    Ok(json!({
        "installation": installation, "profile": profile, "status": status.as_u16(), "outcome": word,
        "code": code, "meaning": code.map(ReasonCode::meaning), "retry_after_s": retry_after_s,
        "events": events, "refusals": refusals,
    }))
}

fn told(decisions: &[Arc<Decision>]) -> Vec<Value> {
    let one = |d: &Arc<Decision>| json!({"action": d.action, "allowed": d.allowed, "code": d.code, "policies": d.policies.as_ref()});
    decisions.iter().map(one).collect()
}
