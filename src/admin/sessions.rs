//! Sessions that operators end: closed, or handed to another agent.

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Admin, AdminError, Asking};
use crate::domain::ids::{AgentId, SessionId};
use crate::domain::reason::ReasonCode;
use crate::policy::action::ApplyResources;
use crate::store::{Ended, Ending};

/// `POST /v1/sessions/{id}/handoff`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HandoffBody {
    /// Who goes on with the conversation.
    pub agent: AgentId,
}

impl Admin {
    /// Closes a session. The next event of its conversation goes where the bindings say, into a session that follows it.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.session_ended`.
    pub async fn close_session(&self, asking: &Asking, id: &str) -> Result<Json, AdminError> {
        self.end_session(asking, id, "session.close", |_| Ok(Ending::Closed)).await
    }

    /// Hands a session to another agent of its org, or to one of the platform. The next event of its conversation opens that
    /// agent's session, and so on until that is closed or handed on. Whether the agent may hear it is asked with each event.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.session_ended`, `admin.reference_unknown`, `admin.resource_invalid`.
    pub async fn hand_off_session(&self, asking: &Asking, id: &str, body: HandoffBody) -> Result<Json, AdminError> {
        self.end_session(asking, id, "session.hand_off", |session| {
            let org = session.get("org").and_then(Json::as_str).unwrap_or_default();
            let directory = self.store.directory();
            let agent = directory.agents.get(&body.agent).map(|a| &a.item);
            let fits = agent.is_some_and(|a| a.org.as_ref().is_none_or(|o| o.as_str() == org));
            let unknown = || AdminError::new(ReasonCode::AdminReferenceUnknown, format!("org `{org}` has no agent `{}`", body.agent));
            if fits { Ok(Ending::HandedTo(body.agent.clone())) } else { Err(unknown()) }
        })
        .await
    }

    async fn end_session(
        &self,
        asking: &Asking,
        id: &str,
        deed: &'static str,
        ending: impl FnOnce(&Json) -> Result<Ending, AdminError>,
    ) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, ApplyResources { operator: asking.facts() }, deed, id).await?;
        let not_found = || AdminError::new(ReasonCode::AdminNotFound, format!("there is no session `{id}`"));
        let session = SessionId::parse(id).ok_or_else(not_found)?;
        let _one_at_a_time = self.changing.lock().await;
        let row = self.store.one("sessions", id).await?.ok_or_else(not_found)?;
        let ending = ending(&row)?;
        let mut line = asking.line(&self.clock, deed, id.to_owned(), Some(&decision));
        if let Ending::HandedTo(agent) = &ending {
            line.detail = Some(json!({"agent": agent}).to_string());
        }
        let over = || AdminError::new(ReasonCode::AdminSessionEnded, format!("session `{id}` is not active any more"));
        match self.store.end_session(session, ending, line, self.clock.now()).await? {
            Ended::Done => self.store.one("sessions", id).await?.ok_or_else(not_found),
            Ended::Unknown => Err(not_found()),
            Ended::Before => Err(over()),
            Ended::NotHandable => {
                let detail = format!("session `{id}` is that agent's already, or was imported and has no route to hand over yet");
                Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail))
            }
        }
    }
}
