//! One attempt: the signed POST, and what its answer means. Part of `delivery`, floor 7.

use http::Method;

use super::{cloudevent, native, retry};
use crate::domain::breaker::Health;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::{Agent, DeliveryFormat};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::store::EventView;
use crate::transport::TransportError;
use crate::vault::reply::ReplyLinks;
use crate::vault::ticket::MediaLinks;
use crate::wire::{WireRequest, WireResponse};

/// The headers and the body of an attempt, as its format has them.
pub(super) type Composed = (Vec<(&'static str, Secret)>, Vec<u8>);

/// What an attempt came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The agent took it.
    Delivered,
    /// The agent wants no more: 410.
    Gone,
    /// Not this time.
    Failed {
        /// Why.
        code: ReasonCode,
        /// How long the agent asked to wait, in milliseconds.
        after_ms: Option<i64>,
    },
}

impl Verdict {
    /// A failure that names no pause.
    pub fn failed(code: ReasonCode) -> Self {
        Self::Failed { code, after_ms: None }
    }

    /// Why it did not settle.
    pub fn code(&self) -> Option<ReasonCode> {
        match self {
            Self::Delivered => None,
            Self::Gone => Some(ReasonCode::DeliveryAgentGone),
            Self::Failed { code, .. } => Some(*code),
        }
    }

    /// What the attempt says about the agent's health; `status` is the agent's, where it answered. A refusal below 500 is an
    /// answer: it is about the event. A request to wait is kept to by the delivery's own schedule. What never reached the
    /// agent says nothing about it.
    pub fn health(&self, status: Option<u16>) -> Health {
        match self {
            Self::Delivered | Self::Gone => Health::Answered,
            Self::Failed { code: ReasonCode::DeliveryAgentThrottled, .. } => Health::Unknown,
            Self::Failed { code, .. } => match (status, code) {
                (Some(..500), _) => Health::Answered,
                (Some(_), _) => Health::Failed,
                (
                    None,
                    ReasonCode::DeliveryAgentUnreachable
                    | ReasonCode::DeliveryAgentTimeout
                    | ReasonCode::DeliveryAgentResponseTooLarge
                    | ReasonCode::DeliveryAgentDialForbidden,
                ) => Health::Failed,
                (None, _) => Health::Unknown,
            },
        }
    }
}

/// Builds the request for one attempt.
///
/// # Errors
/// `delivery.secret_unavailable` when the secret is no key, `store.corrupt` when the event cannot be written.
pub fn compose(
    event: &EventView,
    agent: &Agent,
    secret: &Secret,
    claimed: &Claimed,
    links: &MediaLinks,
    replies: &ReplyLinks,
    now: Timestamp,
) -> Result<WireRequest, ReasonCode> {
    let (mut headers, body) = match agent.format {
        // From now on, not from when the event came: a late or replayed delivery is of use too.
        DeliveryFormat::Cloudevents => {
            cloudevent::compose(event, secret, now, |file| links.link(&event.installation, &agent.id, &file.id, now))?
        }
        DeliveryFormat::Native => native::compose(event, secret, claimed, now, |place| replies.link(event, place))?,
    };
    headers.push(("byoa-delivery", Secret::new(claimed.id.to_string())));
    headers.push(("byoa-attempt", Secret::new(claimed.attempt.to_string())));
    Ok(WireRequest { method: Method::POST, url: Secret::new(agent.endpoint.clone()), headers, body: body.into() })
}

/// Reads what came back; the body is nobody's business.
pub fn classify(answer: &Result<WireResponse, TransportError>, now: Timestamp) -> Verdict {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => {
            return Verdict::failed(match error {
                TransportError::NotSent(_) | TransportError::Reset(_) => ReasonCode::DeliveryAgentUnreachable,
                TransportError::DialForbidden => ReasonCode::DeliveryAgentDialForbidden,
                TransportError::Timeout { .. } => ReasonCode::DeliveryAgentTimeout,
                TransportError::AnswerTooLarge => ReasonCode::DeliveryAgentResponseTooLarge,
            });
        }
    };
    let after_ms = || retry::retry_after_ms(&answer.headers, now);
    match answer.status {
        200..=299 => Verdict::Delivered,
        410 if stands(Guard::GoneHalts) => Verdict::Gone,
        300..=399 if !stands(Guard::AgentRedirect) => Verdict::Delivered,
        300..=399 => Verdict::failed(ReasonCode::DeliveryAgentRedirect),
        429 => Verdict::Failed { code: ReasonCode::DeliveryAgentThrottled, after_ms: after_ms() },
        503 => match after_ms() {
            Some(ms) => Verdict::Failed { code: ReasonCode::DeliveryAgentThrottled, after_ms: Some(ms) },
            None => Verdict::failed(ReasonCode::DeliveryAgentRejected),
        },
        _ => Verdict::failed(ReasonCode::DeliveryAgentRejected),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, retry_after: Option<&str>) -> Verdict {
        let headers = retry_after.map(|v| (http::header::RETRY_AFTER, v.parse().unwrap())).into_iter().collect();
        classify(&Ok(WireResponse { status, headers, body: bytes::Bytes::new() }), Timestamp::from_ms(0))
    }

    #[test]
    fn every_answer_has_its_meaning() {
        use ReasonCode::*;
        let failed = |code, after_ms| Verdict::Failed { code, after_ms };
        for (status, retry_after, want) in [
            (200, None, Verdict::Delivered),
            (202, Some("5"), Verdict::Delivered),
            (204, None, Verdict::Delivered),
            (299, None, Verdict::Delivered),
            (300, None, failed(DeliveryAgentRedirect, None)),
            (301, None, failed(DeliveryAgentRedirect, None)),
            (304, None, failed(DeliveryAgentRedirect, None)),
            (308, Some("5"), failed(DeliveryAgentRedirect, None)),
            (400, None, failed(DeliveryAgentRejected, None)),
            (401, Some("5"), failed(DeliveryAgentRejected, None)),
            (404, None, failed(DeliveryAgentRejected, None)),
            (410, None, Verdict::Gone),
            (429, None, failed(DeliveryAgentThrottled, None)),
            (429, Some("5"), failed(DeliveryAgentThrottled, Some(5_000))),
            (429, Some("soon"), failed(DeliveryAgentThrottled, None)),
            (500, Some("5"), failed(DeliveryAgentRejected, None)),
            (503, None, failed(DeliveryAgentRejected, None)),
            (503, Some("Thu, 01 Jan 1970 00:00:09 GMT"), failed(DeliveryAgentThrottled, Some(9_000))),
            (504, None, failed(DeliveryAgentRejected, None)),
            (999, None, failed(DeliveryAgentRejected, None)),
        ] {
            assert_eq!(answered(status, retry_after), want, "{status} {retry_after:?}");
        }
        for (error, code) in [
            (TransportError::NotSent(String::new()), DeliveryAgentUnreachable),
            (TransportError::Reset(String::new()), DeliveryAgentUnreachable),
            (TransportError::DialForbidden, DeliveryAgentDialForbidden),
            (TransportError::Timeout { sent: true }, DeliveryAgentTimeout),
            (TransportError::Timeout { sent: false }, DeliveryAgentTimeout),
            (TransportError::AnswerTooLarge, DeliveryAgentResponseTooLarge),
        ] {
            assert_eq!(classify(&Err(error), Timestamp::from_ms(0)), Verdict::failed(code));
        }
    }

    #[test]
    fn failures_of_the_agent_count_and_its_answers_do_not() {
        use Health::*;
        use ReasonCode::*;
        for (status, retry_after, want) in [
            (200, None, Answered),
            (307, None, Answered),
            (400, None, Answered),
            (404, None, Answered),
            (410, None, Answered),
            (429, None, Unknown),
            (429, Some("5"), Unknown),
            (500, None, Failed),
            (503, None, Failed),
            (503, Some("5"), Unknown),
            (504, Some("5"), Failed),
        ] {
            assert_eq!(answered(status, retry_after).health(Some(status)), want, "{status} {retry_after:?}");
        }
        for (code, want) in [
            (DeliveryAgentTimeout, Failed),
            (DeliveryAgentUnreachable, Failed),
            (DeliveryAgentResponseTooLarge, Failed),
            (DeliveryAgentDialForbidden, Failed),
            (DeliverySecretUnavailable, Unknown),
            (DeliveryNotPrepared, Unknown),
            (DeliveryExhausted, Unknown),
            (StoreCorrupt, Unknown),
        ] {
            assert_eq!(Verdict::failed(code).health(None), want, "{code}");
        }
    }
}
