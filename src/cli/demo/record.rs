//! What the gateway kept of a journey, as steps; and whether it is what should be there.
//!
//! Owns the expectations. Reads the operator API's JSON only: what it cannot see there, an operator could not either.
//! Floor 11.

use std::time::{Duration, Instant};

use serde_json::Value as Json;

use super::at;
use super::journey::{Noticed, Step, since};
use super::picture::{paint_faint, paint_verdict};
use super::world::Seat;
use crate::domain::installation::Mode;

/// Steps from the record, in the order things happened.
pub(super) fn tell(
    seat: &Seat,
    event: &Json,
    answering: &[Json],
    posted: Instant,
    noticed: &Noticed,
    steps: &mut Vec<Step>,
) -> Result<(), String> {
    let mut told = Told { steps, wrong: None };
    let text = |value: &Json| value.as_str().unwrap_or("nothing").to_owned();
    let asked = list(event, "/decisions");

    let slot = text(at(event, "/verified_with"));
    told.check(slot == "current", || format!("it was verified with {slot}"));
    told.step(None, "verified", format!("{slot} secret"));

    let principal = text(at(event, "/principal"));
    told.check(principal.starts_with(&format!("{}.{}:", seat.provider, seat.mode.as_str())), || format!("the principal is {principal}"));
    let names = [("org", seat.tenant), ("installation", seat.installation), ("agent", seat.agent)];
    for (name, want) in names {
        let is = event.get(name).unwrap_or(&Json::Null);
        told.check(is == want, || format!("the event's {name} is {is} and not {want}"));
    }
    told.step(None, "principal", format!("{principal}  {}", paint_faint(&format!("{} of {}", seat.installation, seat.tenant))));

    match seat.mode {
        Mode::Byoa => told.decided("rollout", asked, "EnterRollout", ""),
        Mode::Platform => told.step(None, "rollout", paint_faint("not asked: the platform's apps run at every stage")),
    }
    told.decided("route", asked, "RouteMessage", "");

    told.step(since(posted, noticed.accepted), "committed", format!("{}  {}", text(at(event, "/id")), paint_faint("200 to the provider")));

    let attempts = list(event, "/deliveries/0/attempts");
    let last = attempts.last().unwrap_or(&Json::Null);
    told.check(at(last, "/status") == 200, || "no attempt to deliver it was answered 200".into());
    let by = text(at(event, "/deliveries/0/agent"));
    told.step(
        since(posted, noticed.agent),
        "delivered",
        format!("to {by} (attempt {}, {})  {}", at(last, "/number"), at(last, "/status"), paint_faint("signature checked")),
    );

    let sends = list(event, "/sends");
    let [send] = sends else { return told.ended(Some(format!("the event was answered {} times", sends.len()))) };
    told.decided("answer", answering, "SendMessage", "");
    if seat.mode == Mode::Byoa {
        told.decided("rollout", answering, "EnterRollout", "");
    }
    told.decided("credential", answering, "UseCredential", &text(at(send, "/credential")));
    let owner = if seat.mode == Mode::Byoa { "org" } else { "platform" };
    told.check(at(send, "/owner") == owner && at(send, "/fallback") == false, || {
        format!("the credential's owner is {}", at(send, "/owner"))
    });
    if noticed.provider.is_some() {
        told.step(since(posted, noticed.provider), "provider", format!("{} took it (token: {})", seat.provider, seat.token_owner()));
    }
    told.step(since(posted, noticed.answered), "answered", format!("{}  {}", text(at(send, "/id")), paint_faint("200 to the agent")));
    told.ended(None)
}

fn list<'j>(value: &'j Json, pointer: &str) -> &'j [Json] {
    at(value, pointer).as_array().map_or(&[], Vec::as_slice)
}

struct Told<'s> {
    steps: &'s mut Vec<Step>,
    /// The first thing that is not as it should be.
    wrong: Option<String>,
}

impl Told<'_> {
    fn step(&mut self, at: Option<Duration>, name: &'static str, said: String) {
        self.steps.push(Step { at, name, said });
    }

    fn check(&mut self, right: bool, why: impl FnOnce() -> String) {
        if !right && self.wrong.is_none() {
            self.wrong = Some(why());
        }
    }

    /// What the policies said, and which of them.
    fn decided(&mut self, name: &'static str, decisions: &[Json], action: &str, of: &str) {
        let Some(decision) = decisions.iter().find(|decision| at(decision, "/action") == action) else {
            self.check(false, || format!("nobody asked {action}"));
            return;
        };
        let allowed = at(decision, "/allowed") == true;
        let policies = list(decision, "/policies");
        let policies: Vec<&str> = policies.iter().filter_map(Json::as_str).collect();
        self.check(allowed && !policies.is_empty(), || format!("{action} was refused: {}", at(decision, "/code")));
        let verdict = paint_verdict(allowed);
        self.step(None, name, format!("{action:<13} {verdict} [{}] {}", policies.join(", "), paint_faint(of)));
    }

    fn ended(self, wrong: Option<String>) -> Result<(), String> {
        match self.wrong.or(wrong) {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }
}
