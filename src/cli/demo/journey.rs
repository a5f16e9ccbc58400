//! One message on its way: posted, waited for, and then read from the gateway's own record.
//!
//! Owns the order of what must happen and how long it may take. Never sleeps: it waits for what the agents, the provider
//! side and the courier notice. Floor 11.

use std::time::{Duration, Instant};

use serde_json::Value as Json;
use tokio::sync::mpsc::UnboundedReceiver;

use super::at;
use super::desk::{Desk, Webhook};
use super::heard::{Heard, Sent};
use super::record;
use super::world::Seat;

/// A journey that takes longer has failed. It takes some milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// One line of a journey.
#[derive(Debug)]
pub(super) struct Step {
    /// Since the webhook was posted, where something outside the gateway noticed it; inside, the gateway's record speaks.
    pub at: Option<Duration>,
    /// What happened.
    pub name: &'static str,
    /// What there is to say about it; may be styled.
    pub said: String,
}

/// One journey, told.
pub(super) struct Journey {
    /// From the webhook to the answer at the provider.
    pub took: Option<Duration>,
    /// What happened.
    pub steps: Vec<Step>,
    /// What did not happen as it should.
    pub wrong: Option<String>,
    /// What was posted.
    pub webhook: Option<Webhook>,
}

/// When the outside world noticed what.
#[derive(Default)]
pub(super) struct Noticed {
    /// The event's id; the agent learns it first.
    pub event: Option<String>,
    /// The provider had its 200.
    pub accepted: Option<Instant>,
    /// The agent had the event.
    pub agent: Option<Instant>,
    /// The provider had the answer.
    pub provider: Option<Instant>,
    /// The agent's own message was answered.
    pub answered: Option<Instant>,
    settled: bool,
}

impl Noticed {
    /// What is still waited for.
    fn missing(&self) -> Option<&'static str> {
        match self {
            Self { agent: None, .. } => Some("no agent was handed the event"),
            Self { provider: None, .. } => Some("no answer reached the provider"),
            Self { answered: None, .. } => Some("the agent's message was not answered"),
            Self { settled: false, .. } => Some("the delivery was not settled"),
            _ => None,
        }
    }

    fn take(&mut self, heard: Heard, seat: &Seat, said: &str) -> Result<(), String> {
        match heard {
            Heard::Agent { at, agent, event, text, proved } if text == said => {
                if agent != seat.agent {
                    return Err(format!("the event reached {agent}, and {} should have had it", seat.agent));
                }
                if !proved {
                    return Err(format!("{agent} does not take the gateway's signature for genuine"));
                }
                (self.agent, self.event) = (Some(at), Some(event));
            }
            Heard::Answered { at, event, status, code } if self.event.as_ref() == Some(&event) => {
                if status != 200 {
                    return Err(format!("the agent's message was answered {status} {}", code.unwrap_or_default()));
                }
                self.answered = Some(at);
            }
            Heard::Provider(Sent { at, provider, conversation, text, verdict })
                if provider == seat.provider && conversation == seat.conversation =>
            {
                let installation = verdict.map_err(|why| format!("{provider} refused the answer: {why}"))?;
                if installation != seat.installation {
                    return Err(format!("the answer came with the token of {installation}"));
                }
                if text != format!("echo: {said}") {
                    return Err("the answer is not what the agent said".into());
                }
                self.provider = Some(at);
            }
            Heard::Settled { event, outcome } if self.event.as_ref() == Some(&event) => {
                if outcome != "delivered" {
                    return Err(format!("the delivery ended as `{outcome}`"));
                }
                self.settled = true;
            }
            // Of another event.
            _ => {}
        }
        Ok(())
    }
}

/// How long after the webhook somebody noticed something.
pub(super) fn since(posted: Instant, at: Option<Instant>) -> Option<Duration> {
    at.map(|at| at.saturating_duration_since(posted))
}

/// Sends one message through `seat` and watches it come back.
pub(super) async fn travel(desk: &Desk, heard: &mut UnboundedReceiver<Heard>, seat: &Seat) -> Journey {
    let said = format!("hello from {}", seat.tenant);
    let mut journey = Journey { took: None, steps: Vec::new(), wrong: None, webhook: None };
    let webhook = match Webhook::new(seat, &seat.account, &seat.signing, &said, &desk.clock) {
        Ok(webhook) => webhook,
        Err(why) => return Journey { wrong: Some(why), ..journey },
    };
    let mut noticed = Noticed::default();
    let posted = Instant::now();
    let ended = follow(desk, heard, seat, &said, &webhook, &mut noticed).await;
    journey.took = since(posted, noticed.provider);
    journey.steps.push(Step {
        at: Some(Duration::ZERO),
        name: "webhook",
        said: format!("“{said}”, proved with the secret of {}", seat.profile),
    });
    let read = match &noticed.event {
        Some(event) => read(desk, event).await,
        None => Err(refusal(desk, seat).await),
    };
    let told = read.and_then(|(event, decisions)| record::tell(seat, &event, &decisions, posted, &noticed, &mut journey.steps));
    // Where something went wrong on the way, the record is bound to lack something too; the first is the cause.
    journey.wrong = match (ended, told) {
        (Err(why), Err(record)) if noticed.event.is_none() => Some(format!("{why}; {record}")),
        (Err(why), _) | (Ok(()), Err(why)) => Some(why),
        (Ok(()), Ok(())) => None,
    };
    journey.webhook = Some(webhook);
    journey
}

async fn follow(
    desk: &Desk,
    heard: &mut UnboundedReceiver<Heard>,
    seat: &Seat,
    said: &str,
    webhook: &Webhook,
    noticed: &mut Noticed,
) -> Result<(), String> {
    let status = desk.post(webhook).await?;
    noticed.accepted = Some(Instant::now());
    if status != 200 {
        return Err(format!("the webhook was answered {status}"));
    }
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while let Some(missing) = noticed.missing() {
        let next = tokio::time::timeout_at(deadline, heard.recv()).await;
        let next = next.map_err(|_| format!("{missing} within {} s", DEADLINE.as_secs()))?;
        noticed.take(next.ok_or("the outside world is gone")?, seat, said)?;
    }
    Ok(())
}

/// The event's record and the decisions about the agent's answer, which stand with the send or are kept under its id.
async fn read(desk: &Desk, event: &str) -> Result<(Json, Vec<Json>), String> {
    let mut event = desk.get(&format!("/v1/events/{event}")).await?;
    let decisions = match (event.pointer_mut("/sends/0/decisions").map(Json::take), at(&event, "/sends/0/id").as_str()) {
        (Some(Json::Array(decisions)), _) => decisions,
        (_, Some(message)) => {
            let mut newest_first = desk.rows(&format!("/v1/decisions?id={message}")).await?;
            newest_first.reverse();
            newest_first
        }
        _ => Vec::new(),
    };
    Ok((event, decisions))
}

/// Why the gateway let nothing through, where it says.
async fn refusal(desk: &Desk, seat: &Seat) -> String {
    let rows = desk.rows(&format!("/v1/refusals?id={}&limit=1", seat.profile)).await.unwrap_or_default();
    let code = rows.first().and_then(|row| at(row, "/code").as_str()).unwrap_or("unknown");
    format!("the last refusal of {} is {code}", seat.profile)
}
