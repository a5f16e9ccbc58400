//! The few events whose provider waits for the agent's own answer. The event is committed like every other; then, where the
//! agent takes the kind and the policies permit it, the request waits for the courier's attempt and passes on what the
//! provider's file makes of the agent's answer. Part of `ingress`, floor 7.

use std::sync::Arc;

use serde_json::json;

use super::{Ingress, Outcome};
use crate::domain::ids::{AgentId, EventId, OrgId, RequestId};
use crate::domain::installation::{AnswerKind, ProviderKind};
use crate::domain::record::{AuditRecord, Decision};
use crate::policy::action::AnswerInteraction;
use crate::policy::{Denied, Snapshot, facts};
use crate::providers;
use crate::routing::Routed;
use crate::store::directory::Directory;
use crate::wire::waiting::{Told, Wait};

/// An answer that the provider waits for and the agent gives, as far as the policies go.
pub(super) struct Asked {
    kind: AnswerKind,
    provider: ProviderKind,
    agent: AgentId,
    org: OrgId,
    permitted: bool,
    /// What the policies said, kept with the event.
    pub(super) decision: Arc<Decision>,
}

/// One that is waited for.
pub(super) struct Awaited {
    asked: Asked,
    event: EventId,
    wait: Wait,
}

impl Awaited {
    /// The event whose answer it is.
    pub(super) fn event(&self) -> &EventId {
        &self.event
    }
}

impl Ingress {
    /// Whether this event's answer may be the agent's.
    pub(super) fn ask_for_answer(&self, policy: &Snapshot, directory: &Directory, routed: &Routed) -> Option<Asked> {
        if self.synchronous.is_zero() {
            return None;
        }
        let installation = routed.verified().sender().installation();
        let kind = providers::of(installation.provider).answer_kind(routed.verified().event())?;
        let agent = directory.agents.get(&routed.route().agent).filter(|agent| agent.item.synchronous.contains(&kind))?;
        let question = AnswerInteraction {
            installation: facts::installation(directory, installation),
            agent: facts::agent(directory, &agent.item),
            kind: kind.as_str(),
        };
        let (permitted, decision) = match policy.decide(question) {
            Ok(permit) => (true, permit.decision().clone()),
            Err(Denied { decision, .. }) => (false, decision),
        };
        self.metrics.decision(decision.action, decision.allowed, decision.code, 0.0);
        if !permitted {
            self.metrics.synchronous_answer(kind, "forbidden");
        }
        let (agent, org) = (agent.item.id.clone(), installation.org.clone());
        Some(Asked { kind, provider: installation.provider, agent, org, permitted, decision })
    }

    /// Waits from now on, before the event is committed.
    pub(super) fn await_answer(&self, asked: Asked, event: &EventId) -> Option<Awaited> {
        asked.permitted.then(|| Awaited { asked, event: event.clone(), wait: self.waiting.expect(event) })
    }

    /// The event is committed: what the provider is told. Nothing but an answer of the kind's form is passed on, and that
    /// only with its line in the audit.
    pub(super) async fn answer(&self, awaited: Awaited, request: &RequestId) -> Outcome {
        let Awaited { asked, event, wait } = awaited;
        let (result, answer) = match wait.told(self.synchronous).await {
            Told::Answered(body) if body.is_empty() => ("empty", None),
            Told::Answered(body) => match providers::of(asked.provider).answer(asked.kind, &body) {
                Some(answer) => ("relayed", Some(answer)),
                None => ("unfit", None),
            },
            Told::Failed => ("failed", None),
            Told::Late => ("late", None),
        };
        self.metrics.synchronous_answer(asked.kind, result);
        let line = AuditRecord {
            at: self.clock.now(),
            actor: format!("agent:{}", asked.agent),
            action: "interaction.answer",
            target: event.to_string(),
            org: Some(asked.org),
            outcome: if answer.is_some() { "done" } else { "refused" },
            code: None,
            decision: Some(asked.decision),
            request: Some(request.clone()),
            detail: Some(json!({"kind": asked.kind.as_str(), "result": result}).to_string()),
        };
        // An empty answer is the usual "taken": nothing of the agent's goes out.
        let audited = if result == "empty" { Ok(()) } else { self.store.audit(vec![line]).await };
        match (audited, answer) {
            (Ok(()), Some(answer)) => Outcome::Answered(answer.into()),
            (Ok(()), None) => Outcome::Settled,
            (Err(error), _) => {
                tracing::error!(event = %event, error = %error, "an answer was not passed on, for its audit line could not be written");
                Outcome::Settled
            }
        }
    }
}
