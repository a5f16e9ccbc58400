//! The outbound pipeline: an agent's message on its way to a provider.
//!
//! Order: idempotency, destination, rollout, credential, render, send, receipt, record. No lease, no request, no socket: a
//! refused send never reaches a token. Floor 7.

mod call;
mod calls;
pub mod limits;
mod media;
mod refresh;
mod reply;
mod sdk;

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use crate::authn::principal::AgentPrincipal;
use crate::config::{Limits, ProvidersSection};
use crate::credentials::{self, CredentialLease, Selection};
use crate::crypto::sha256;
use crate::domain::clock::Clock;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{BindingId, InstallationId, MessageId, RequestId, SessionId};
use crate::domain::installation::{Agent, Installation, InstallationStatus};
use crate::domain::message::OutboundMessage;
use crate::domain::reason::{Failure, ReasonCode, Stop};
use crate::domain::record::{AuditRecord, Decision};
use crate::policy::{Denied, Engine, Snapshot};
use crate::providers;
use crate::routing::{self, Tie};
use crate::store::directory::{Directory, Kept};
use crate::store::{FinishedSend, NewSend, SendStart, SessionView, Store};
use crate::telemetry::metrics::Metrics;
use crate::transport::Transport;
use crate::vault::Vault;
use crate::wire::budget::Budget;
use crate::wire::problem::problem;
use call::Call;
pub use calls::{Calls, Underway};
pub use media::Media;
pub use refresh::Refreshers;
pub use sdk::{AnswerBody, SdkAnswer, SdkCall};

/// Everything the pipeline needs. Cheap to clone.
#[derive(Clone)]
pub struct Egress {
    /// Keeps.
    pub store: Store,
    /// Opens credentials, against permits.
    pub vault: Vault,
    /// Decides.
    pub engine: Engine,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells the time.
    pub clock: Clock,
    /// Reaches providers.
    pub transport: Transport,
    /// Where they are.
    pub providers: ProvidersSection,
    /// How long and how large.
    pub limits: Limits,
    /// How much of what the providers take is used up.
    pub used: Arc<limits::Used>,
    /// Who refreshes which credential now.
    pub refreshers: Refreshers,
    /// Who has calls under way.
    pub calls: Calls,
    /// Counts what answers take in memory on their way to an agent.
    pub held: Budget,
}

/// `POST /v1/messages`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SendBody {
    installation: Option<InstallationId>,
    session: Option<SessionId>,
    conversation: Option<String>,
    thread: Option<String>,
    text: Option<String>,
    native: Option<Map<String, Json>>,
    #[serde(default)]
    allow_fallback: bool,
}

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct SendAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body: a receipt or a problem.
    pub body: Json,
    /// Seconds to wait, where waiting helps.
    pub retry_after_s: Option<u64>,
}

/// Why a send ended, with what an answer needs.
struct Ended {
    stop: Stop,
    detail: String,
    retry_after_s: Option<u64>,
    /// The request left; trying again would be another message.
    left: bool,
}

impl Ended {
    fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { stop: code.into(), detail: detail.into(), retry_after_s: None, left: false }
    }
}

impl From<Stop> for Ended {
    fn from(stop: Stop) -> Self {
        let detail = match &stop {
            Stop::Refused(refusal) if !refusal.policies.is_empty() => format!("refused by {}", refusal.policies.join(", ")),
            Stop::Refused(refusal) => refusal.code.meaning().to_owned(),
            Stop::Failed(failure) => failure.code.meaning().to_owned(),
        };
        let retry_after_s = stop.code().retryable().then_some(5);
        Self { stop, detail, retry_after_s, left: false }
    }
}

impl From<ReasonCode> for Ended {
    fn from(code: ReasonCode) -> Self {
        Stop::from(code).into()
    }
}

/// What is known of a send so far; everything in it goes into its record.
#[derive(Default)]
struct Trail {
    decisions: Vec<Arc<Decision>>,
    /// What the agent named, or its session's.
    installation: Option<Arc<Kept<Installation>>>,
    /// What it leaves through, where that is the platform's instead, and why.
    instead: Option<(Installation, ReasonCode)>,
    session: Option<SessionId>,
    conversation: Option<String>,
    credential: Option<(String, &'static str)>,
    /// What the agent named of another tenant's.
    trespass: Option<String>,
    /// The legacy binding that it goes by, where it does.
    legacy: Option<BindingId>,
}

impl Trail {
    /// The installation that sends, as far as that is known.
    fn sends(&self) -> Option<&Installation> {
        self.instead.as_ref().map(|(installation, _)| installation).or(self.installation.as_ref().map(|i| &i.item))
    }
}

/// What the rollout says of an org.
type Entered = Result<Option<Arc<Decision>>, Denied>;

/// How a send or a call ended, as it is written down.
struct Ending {
    action: &'static str,
    state: &'static str,
    status: u16,
    answer: Json,
    code: Option<ReasonCode>,
    provider_message_id: Option<String>,
    /// The provider's method, where the agent named it itself.
    method: Option<String>,
}

struct Receipt {
    provider_message_id: String,
}

/// Characters an `Idempotency-Key` may have.
const KEY_CHARS_MAX: usize = 255;

impl Egress {
    /// Sends one message. Runs to its end even when the caller hangs up: what left is recorded, and until then it is under way.
    pub async fn send(
        &self,
        principal: AgentPrincipal,
        key: Option<String>,
        body: Bytes,
        request: RequestId,
        underway: Underway,
    ) -> SendAnswer {
        let id = MessageId::fresh(self.clock.now());
        let (this, who, message, asked) = (self.clone(), principal.clone(), id.clone(), request.clone());
        let send = async move {
            let _underway = underway;
            this.run(message, &who, key, &body, &asked).await
        };
        self.to_its_end(id, &principal, &request, send).await
    }

    /// Runs a send apart from whoever waits for it. One that breaks is settled too, as one whose outcome nobody knows: its
    /// key would be under way for ever, and a repeat might be a second message.
    async fn to_its_end(
        &self,
        id: MessageId,
        principal: &AgentPrincipal,
        request: &RequestId,
        send: impl Future<Output = SendAnswer> + Send + 'static,
    ) -> SendAnswer {
        match tokio::spawn(send).await {
            Ok(answer) => answer,
            Err(_) => {
                let broken =
                    Ended { left: true, ..Ended::new(ReasonCode::EgressOutcomeUnknown, "the send broke; look before you send it again") };
                self.finish(id, principal, request, Trail::default(), Err(broken)).await
            }
        }
    }

    async fn run(&self, id: MessageId, principal: &AgentPrincipal, key: Option<String>, body: &Bytes, request: &RequestId) -> SendAnswer {
        let key = key.filter(|k| (1..=KEY_CHARS_MAX).contains(&k.len()) && k.bytes().all(|b| b.is_ascii_graphic()));
        let Some(key) = key else {
            let detail = "send an Idempotency-Key header of 1 to 255 visible ASCII characters";
            return refused(&Ended::new(ReasonCode::EgressIdempotencyRequired, detail), request);
        };
        let message: SendBody = match serde_json::from_slice(body) {
            Ok(message) => message,
            Err(e) => return refused(&Ended::new(ReasonCode::EgressMessageInvalid, e.to_string()), request),
        };
        let send = NewSend { id: id.clone(), key, digest: hex::encode(sha256(body)), at: self.clock.now() };
        match self.store.begin_send(principal, send).await {
            Ok(SendStart::Fresh) => {}
            Ok(SendStart::Answered { status, answer }) => return SendAnswer { status, body: answer, retry_after_s: None },
            Ok(SendStart::InFlight) => {
                return refused(&Ended::new(ReasonCode::EgressInFlight, "the same message is being sent by another request"), request);
            }
            Ok(SendStart::Conflict) => {
                return refused(&Ended::new(ReasonCode::EgressIdempotencyConflict, "the key belongs to another body"), request);
            }
            Err(error) => return refused(&Ended::from(Stop::from(Failure::from(error))), request),
        }
        let mut trail = Trail::default();
        let result = self.deliver(principal, message, &mut trail).await;
        self.finish(id, principal, request, trail, result).await
    }

    async fn deliver(&self, principal: &AgentPrincipal, message: SendBody, trail: &mut Trail) -> Result<Receipt, Ended> {
        let directory = self.store.directory();
        let (policy, now) = (self.engine.pin(), self.clock.now());
        let (installation, message, allow_fallback, session) = self.resolve(principal, message, &directory, trail).await?;
        let (place, reply) = (&message.conversation, session.is_some());
        let within = session.as_ref().filter(|s| s.conversation == *place);
        let (entered, tie) = self.tied(&policy, &directory, principal, &installation.item, within, trail);
        let selection = if installation.item.status == InstallationStatus::Revoked {
            self.enter(entered, &tie, trail)?;
            let wanted = routing::speaking(&directory, principal, &installation, place, reply, &tie);
            credentials::select_instead(&policy, &directory, &wanted, allow_fallback, now)
        } else {
            let spoken = routing::outbound(&policy, &directory, principal, &installation, place, reply, &tie);
            let destination = self.asked(trail, spoken, |d| d.decision())?;
            self.enter(entered, &tie, trail)?;
            credentials::select(&policy, &directory, destination.permit(), allow_fallback, now)
        };
        trail.legacy = tie.legacy().cloned();
        let lease = self.selected(trail, selection)?;
        self.leave(&directory, &lease, &message).await
    }

    /// Where to: the session's route, or the installation that the agent names. What is not the agent's is not found,
    /// exactly like what does not exist.
    async fn resolve(
        &self,
        principal: &AgentPrincipal,
        body: SendBody,
        directory: &Directory,
        trail: &mut Trail,
    ) -> Result<(Arc<Kept<Installation>>, OutboundMessage, bool, Option<SessionView>), Ended> {
        let agent = principal.agent();
        let not_found = || Ended::new(ReasonCode::EgressNotFound, "no such session or installation for this agent");
        let session = match &body.session {
            None => None,
            Some(id) => {
                let lost = |e| Ended::from(Stop::from(Failure::from(e)));
                let found = self.store.session_of(principal, id).await.map_err(lost)?;
                if found.is_none() && self.store.is_anothers_session(principal, id).await.map_err(lost)? {
                    trail.trespass = Some(format!("sessions/{id}"));
                }
                Some(found.ok_or_else(not_found)?)
            }
        };
        let named = match (&session, &body.installation) {
            (Some(session), None) => &session.route.installation,
            (Some(session), Some(named)) if session.route.installation == *named => named,
            (Some(_), Some(_)) => {
                return Err(Ended::new(ReasonCode::EgressMessageInvalid, "the session's route goes through another installation"));
            }
            (None, Some(named)) => named,
            (None, None) => return Err(Ended::new(ReasonCode::EgressMessageInvalid, "name a session or an installation")),
        };
        let installation = directory.installations.get(named).ok_or_else(not_found)?;
        let handed = session.as_ref().is_some_and(|s| directory.was_handed(&s.key));
        if !handed && !is_theirs(directory, agent, &installation.item) && stands(Guard::AgentsInstallation) {
            trail.trespass = Some(format!("installations/{named}"));
            return Err(not_found());
        }
        trail.installation = Some(installation.clone());
        let (home, home_thread) = session.as_ref().map_or((None, None), |s| {
            trail.session = Some(s.id.clone());
            (Some(s.conversation.clone()).filter(|c| !c.is_empty()), s.thread.clone())
        });
        // A reply stays in its thread unless the agent names a conversation of its own.
        let thread = body.thread.or(if body.conversation.is_none() { home_thread } else { None });
        let elsewhere = body.conversation.is_some() && body.conversation != home;
        let conversation = body
            .conversation
            .or(home)
            .filter(|c| is_conversation(c))
            .ok_or_else(|| Ended::new(ReasonCode::EgressMessageInvalid, "name the conversation"))?;
        // Another spelling of a place would be another place to the policies.
        let provider = providers::of(installation.item.provider);
        if elsewhere && !provider.is_conversation(&conversation) {
            return Err(Ended::new(ReasonCode::EgressConversationForm, provider.conversation_form()));
        }
        trail.conversation = Some(conversation.clone());
        if !directory.serves(&installation.item, &conversation) {
            trail.trespass = Some(format!("conversations/{conversation}"));
            return Err(not_found());
        }
        let message = OutboundMessage { conversation, thread, text: body.text, native: body.native };
        Ok((installation.clone(), message, body.allow_fallback, session))
    }

    /// Keeps an answer of the policies, whichever it is.
    fn asked<T>(&self, trail: &mut Trail, answer: Result<T, Denied>, decision_of: impl Fn(&T) -> &Arc<Decision>) -> Result<T, Ended> {
        let decision = match &answer {
            Ok(permitted) => decision_of(permitted).clone(),
            Err(denied) => denied.decision.clone(),
        };
        self.metrics.decision(decision.action, decision.allowed, decision.code, 0.0);
        trail.decisions.push(decision);
        answer.map_err(|denied| Stop::Refused(denied.refusal).into())
    }

    /// Keeps every answer on the way to a credential, and which it is.
    fn selected(&self, trail: &mut Trail, selection: Selection) -> Result<CredentialLease, Ended> {
        for decision in selection.decisions {
            self.metrics.decision(decision.action, decision.allowed, decision.code, 0.0);
            trail.decisions.push(decision);
        }
        let lease = selection.outcome?;
        trail.credential = Some((lease.credential().to_owned(), lease.owner()));
        trail.instead = lease.takeover().map(|takeover| (lease.installation().clone(), takeover.reason()));
        Ok(lease)
    }

    /// What ties the agent to the installation now, and whether the rollout lets the org in.
    fn tied(
        &self,
        policy: &Snapshot,
        directory: &Directory,
        principal: &AgentPrincipal,
        installation: &Installation,
        within: Option<&SessionView>,
        trail: &mut Trail,
    ) -> (Entered, Tie) {
        let entered = crate::rollout::enter(policy, directory, installation);
        let tie = routing::tie(policy, directory, principal, installation, within, entered.is_ok());
        if let Some(decision) = tie.decision() {
            self.metrics.decision(decision.action, decision.allowed, decision.code, 0.0);
            trail.decisions.push(decision.clone());
        }
        (entered, tie)
    }

    /// An org that the rollout does not let in keeps its legacy route, in this direction too.
    fn enter(&self, entered: Entered, tie: &Tie, trail: &mut Trail) -> Result<(), Ended> {
        let Some(answer) = entered.transpose() else { return Ok(()) };
        let left_to_it = matches!(&answer, Err(denied) if denied.refusal.code == ReasonCode::RolloutStageOff) && tie.legacy().is_some();
        let entered = self.asked(trail, answer, |d| d);
        if left_to_it { Ok(()) } else { entered.map(|_| ()) }
    }

    async fn leave(&self, directory: &Directory, lease: &CredentialLease, message: &OutboundMessage) -> Result<Receipt, Ended> {
        let provider = providers::of(lease.installation().provider);
        let call = Call {
            method: provider.send_method(),
            conversation: Some(&message.conversation),
            answer_bytes_max: self.limits.provider_answer_bytes_max,
            file: false,
        };
        let response = self
            .call(directory, lease, &call, |installation, token, api_base| provider.render(message, &installation.account, token, api_base))
            .await?;
        self.heed(lease, &call, provider.read_receipt(&response)).await
    }

    async fn finish(
        &self,
        id: MessageId,
        principal: &AgentPrincipal,
        request: &RequestId,
        trail: Trail,
        result: Result<Receipt, Ended>,
    ) -> SendAnswer {
        let (state, answer, code) = match &result {
            Ok(receipt) => {
                let fallback_reason = trail.instead.as_ref().map(|(_, reason)| *reason);
                let body = json!({
                    "id": id,
                    "status": "sent",
                    "installation": trail.sends().map(|i| &i.id),
                    "credential": trail.credential.as_ref().map(|(id, owner)| json!({"id": id, "owner": owner})),
                    "fallback": fallback_reason.is_some(),
                    "fallback_reason": fallback_reason,
                    "provider_message_id": receipt.provider_message_id,
                    "decision": null,
                });
                ("sent", SendAnswer { status: 200, body, retry_after_s: None }, None)
            }
            Err(ended) => {
                let code = ended.stop.code();
                let state = match code {
                    ReasonCode::EgressOutcomeUnknown => "unknown",
                    // Nothing left and the same message may go through later: the key is free again.
                    _ if code.retryable() && !ended.left => "retry",
                    _ if ended.left => "failed",
                    _ => "refused",
                };
                (state, refused(ended, request), Some(code))
            }
        };
        let ending = Ending {
            action: "message.send",
            state,
            status: answer.status,
            answer: answer.body.clone(),
            code,
            provider_message_id: result.ok().map(|r| r.provider_message_id),
            method: None,
        };
        let body = self.keep(id, principal, request, trail, ending).await.unwrap_or(answer.body);
        SendAnswer { body, ..answer }
    }

    /// Counts, logs and writes down how a send or a call ended. The answer comes back with its decision's id, unless it
    /// could not be written.
    async fn keep(&self, id: MessageId, principal: &AgentPrincipal, request: &RequestId, trail: Trail, ending: Ending) -> Option<Json> {
        let Ending { action, state, status, answer, code, provider_message_id, method } = ending;
        let installation = trail.sends();
        let own = trail.installation.as_ref().map(|i| &i.item.id).filter(|_| trail.instead.is_some());
        let fallback_reason = trail.instead.as_ref().map(|(_, reason)| *reason);
        let owner = trail.credential.as_ref().map_or("none", |(_, owner)| owner);
        if let Some(installation) = installation {
            self.metrics.send(installation.provider, owner, state, code);
            if code.is_none() && trail.legacy.is_some() {
                self.metrics.legacy_used(installation.provider);
            }
        }
        let mut detail = json!({
            "installation": installation.map(|i| &i.id),
            "own_installation": own,
            "credential": trail.credential.as_ref().map(|(id, _)| id),
            "owner": owner,
            "fallback": fallback_reason.is_some(),
            "fallback_reason": fallback_reason,
            "alert": trail.trespass.as_ref().map(|_| "another tenant's"),
            "named": trail.trespass,
        });
        if let (Some(binding), Some(detail)) = (&trail.legacy, detail.as_object_mut()) {
            detail.insert("legacy".into(), json!(binding));
        }
        if let (Some(method), Some(fields)) = (&method, detail.as_object_mut()) {
            fields.insert("method".into(), method.as_str().into());
        }
        let audit = AuditRecord {
            at: self.clock.now(),
            actor: format!("agent:{}", principal.agent().id),
            action,
            target: id.to_string(),
            org: installation.map(|i| i.org.clone()).or_else(|| principal.agent().org.clone()),
            outcome: if code.is_none() { "done" } else { "refused" },
            code,
            decision: trail.decisions.last().cloned(),
            request: Some(request.clone()),
            detail: Some(detail.to_string()),
        };
        if let Some(named) = &trail.trespass {
            tracing::error!(request = %request, agent = %principal.agent().id, named, "an agent names what is another tenant's");
        }
        let reason = code.map_or("", ReasonCode::as_str);
        tracing::info!(request = %request, message = %id, agent = %principal.agent().id, state, reason, method, "send");
        let finished = FinishedSend {
            id,
            state,
            status,
            answer,
            org: installation.map(|i| i.org.clone()),
            installation: installation.map(|i| i.id.clone()),
            session: trail.session.map(|s| s.to_string()),
            legacy: trail.legacy.filter(|_| code.is_none()),
            conversation: trail.conversation,
            credential: trail.credential.as_ref().map(|(id, _)| id.clone()),
            owner: trail.credential.as_ref().map(|(_, owner)| *owner),
            fallback: fallback_reason.is_some(),
            provider_message_id,
            code,
            decisions: trail.decisions,
            audit,
        };
        // The message is out (or was refused); where only its record is missing, the caller must still hear the truth.
        let kept = self.store.finish_send(finished).await;
        kept.inspect_err(|error| tracing::error!(request = %request, error = %error, "a send could not be recorded")).ok()
    }
}

/// Whether a text can name a conversation.
fn is_conversation(text: &str) -> bool {
    let fit = !text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control);
    fit || !stands(Guard::ConversationFit)
}

/// Whether an installation is one that an agent may know of: its org's, or one that a binding ties it to.
fn is_theirs(directory: &Directory, agent: &Agent, installation: &Installation) -> bool {
    agent.org.as_ref() == Some(&installation.org) || directory.binds(&installation.id, &agent.id)
}

/// The agent hears the code; what failed inside is told to the log, here and once.
fn refused(ended: &Ended, request: &RequestId) -> SendAnswer {
    if let Stop::Failed(failure) = &ended.stop {
        tracing::error!(request = %request, reason = %failure.code, detail = %failure.detail, "a send failed");
    }
    let code = ended.stop.code();
    SendAnswer { status: code.status(), body: problem(code, &ended.detail, request), retry_after_s: ended.retry_after_s }
}

#[cfg(test)]
mod tests;
