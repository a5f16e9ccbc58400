//! The events and refusals that a request came to, with the decisions behind them. For operators; a provider is told an outcome and
//! nothing more. Part of `ingress`, floor 7.

use std::sync::Arc;

use crate::domain::ids::{AgentId, EventId, InstallationId};
use crate::domain::reason::ReasonCode;
use crate::domain::record::Decision;
use crate::store::{AcceptRequest, Acceptance};

/// The events and refusals that a request came to.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// The events that go to an agent.
    pub events: Vec<NotedEvent>,
    /// The events, or the whole body, that were refused after the sender was proved.
    pub refusals: Vec<NotedRefusal>,
}

/// One event on its way to an agent.
#[derive(Clone, Debug)]
pub struct NotedEvent {
    /// Its identifier; of a repeat, one that was given up.
    pub id: EventId,
    /// It was accepted before, so nothing is delivered now.
    pub duplicate: bool,
    /// The installation that it came in by.
    pub installation: InstallationId,
    /// Who is sent it.
    pub agent: AgentId,
    /// The answers of the policies, in the order they were asked.
    pub decisions: Vec<Arc<Decision>>,
}

/// One event, or a whole body, that was refused.
#[derive(Clone, Debug)]
pub struct NotedRefusal {
    /// The reason.
    pub code: ReasonCode,
    /// The installation, where it was bound to one.
    pub installation: Option<InstallationId>,
    /// The answers of the policies; the last one refused, where they were asked.
    pub decisions: Vec<Arc<Decision>>,
}

impl Noted {
    /// Adds what is about to be committed.
    pub(super) fn add(&mut self, request: &AcceptRequest) {
        self.events.extend(request.events.iter().map(|event| NotedEvent {
            id: event.id.clone(),
            duplicate: false,
            installation: event.route.installation.clone(),
            agent: event.route.agent.clone(),
            decisions: event.decisions.clone(),
        }));
        self.refusals.extend(request.refusals.iter().map(|refusal| NotedRefusal {
            code: refusal.code,
            installation: refusal.installation.clone(),
            decisions: refusal.decisions.clone(),
        }));
    }

    /// Marks the events that turned out to be repeats: `accepted` is in the order of those that were added.
    pub(super) fn accepted(&mut self, accepted: &[Acceptance]) {
        for (event, acceptance) in self.events.iter_mut().zip(accepted) {
            event.duplicate = matches!(acceptance, Acceptance::Duplicate);
        }
    }
}
