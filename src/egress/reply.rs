//! A reply by the address that came with an event: the agent shows its ticket, the gateway asks what it asks of every
//! message, and posts to the provider's own address, which no agent has seen. Part of `egress`, floor 7.

use bytes::Bytes;

use super::{Egress, Ended, Receipt, SendAnswer, Trail, Underway, refused};
use crate::authn::agent;
use crate::authn::principal::AgentPrincipal;
use crate::domain::ids::{MessageId, RequestId};
use crate::domain::message::SendReceipt;
use crate::domain::reason::{Failure, ReasonCode, Stop};
use crate::providers;
use crate::routing;
use crate::store::{NewSend, SendStart};
use crate::vault::reply::ReplyTicket;

/// <https://docs.slack.dev/interactivity/handling-user-interaction>
const USES_MAX: u32 = 5;

impl Egress {
    /// The ticket, where it still counts.
    pub fn reply_ticket(&self, text: &str) -> Option<ReplyTicket> {
        self.vault.read_reply(text).filter(|ticket| self.clock.now() <= ticket.until())
    }

    /// Posts a reply. Runs to its end even when the caller hangs up: what left is recorded.
    pub async fn reply(&self, ticket: ReplyTicket, body: Bytes, request: RequestId, underway: Underway) -> SendAnswer {
        let (this, lost) = (self.clone(), request.clone());
        let task = tokio::spawn(async move {
            let _underway = underway;
            this.run_reply(&ticket, &body, &request).await
        });
        task.await
            .unwrap_or_else(|_| refused(&Ended::new(ReasonCode::IngressInternal, "the reply broke; look before you send it again"), &lost))
    }

    async fn run_reply(&self, ticket: &ReplyTicket, body: &Bytes, request: &RequestId) -> SendAnswer {
        let Ok(principal) = agent::of_reply(ticket, &self.store.directory()) else { return refused(&no_more(), request) };
        let id = match self.take_use(ticket, &principal, request).await {
            Ok(Some(id)) => id,
            Ok(None) => return refused(&no_more(), request),
            Err(failure) => return refused(&Ended::from(Stop::from(failure)), request),
        };
        let mut trail = Trail::default();
        let result = self.post(&principal, ticket, body, &mut trail).await;
        self.finish(id, &principal, request, trail, result).await
    }

    /// Each use is a send with a key of its own, so that uses are counted by what is recorded. No agent can say such a key:
    /// there is a blank in it.
    async fn take_use(&self, ticket: &ReplyTicket, principal: &AgentPrincipal, request: &RequestId) -> Result<Option<MessageId>, Failure> {
        for used in 0..USES_MAX {
            let now = self.clock.now();
            let id = MessageId::fresh(now);
            let send = NewSend {
                id: id.clone(),
                key: format!("reply {} {} {used}", ticket.event(), ticket.place()),
                // The same words twice are two replies.
                digest: request.to_string(),
                at: now,
            };
            if self.store.begin_send(principal, send).await? == SendStart::Fresh {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    async fn post(&self, principal: &AgentPrincipal, ticket: &ReplyTicket, body: &Bytes, trail: &mut Trail) -> Result<Receipt, Ended> {
        let directory = self.store.directory();
        let policy = self.engine.pin();
        let installation = directory.installations.get(ticket.installation()).ok_or_else(no_more)?;
        trail.installation = Some(installation.clone());
        let lost = |e| Ended::from(Stop::from(Failure::from(e)));
        let event = self.store.event_of(principal, ticket.event()).await.map_err(lost)?;
        let event = event.filter(|e| e.agent == *ticket.agent() && e.installation == *ticket.installation()).ok_or_else(no_more)?;
        let session = self.store.session_of(principal, &event.session).await.map_err(lost)?;
        trail.session = Some(event.session.clone());
        let provider = providers::of(event.provider);
        let addresses = provider.reply_addresses(&event.raw, &event.media_type).map_err(|code| Ended::from(Stop::from(code)))?;
        let address = addresses.linked.into_iter().nth(ticket.place()).ok_or_else(no_more)?;
        let conversation = address.conversation.or_else(|| event.normal.conversation.map(|c| c.id));
        let conversation = conversation.ok_or_else(|| Ended::new(ReasonCode::EgressMessageInvalid, "the event names no conversation"))?;
        trail.conversation = Some(conversation.clone());
        let within = session.as_ref().filter(|s| s.conversation == conversation);
        let (entered, tie) = self.tied(&policy, &directory, principal, &installation.item, within, trail);
        let spoken = routing::outbound(&policy, &directory, principal, installation, &conversation, true, &tie);
        let _permitted = self.asked(trail, spoken, |d| d.decision())?;
        self.enter(entered, &tie, trail)?;
        trail.legacy = tie.legacy().cloned();
        // The address is the credential, and came with the event: there is no other one to choose or to open.
        let unfit = |code| Ended::new(code, "the body is no JSON object, or the address is not the provider's");
        let request = provider.reply(&address.url, body, self.providers.api_base(event.provider)).map_err(unfit)?;
        let sent = self.transport.send(request, self.limits.provider_timeout_ms, self.limits.provider_answer_bytes_max).await;
        let answer = sent.map_err(|e| super::call::unsent(&e))?;
        let ended = |code, detail: String, retry_after_s, left| Ended { retry_after_s, left, ..Ended::new(code, detail) };
        match provider.read_reply(&answer) {
            SendReceipt::Sent { provider_message_id } => Ok(Receipt { provider_message_id }),
            SendReceipt::RateLimited { retry_after_s, error } => {
                Err(ended(ReasonCode::EgressRateLimited, error, Some(retry_after_s.unwrap_or(1)), false))
            }
            SendReceipt::Unavailable { error } => Err(ended(ReasonCode::EgressProviderUnavailable, error, Some(5), false)),
            SendReceipt::Unknown { error } => Err(ended(ReasonCode::EgressOutcomeUnknown, error, None, true)),
            SendReceipt::Rejected { error } | SendReceipt::CredentialDead { error } => {
                Err(ended(ReasonCode::EgressProviderRejected, error, None, true))
            }
        }
    }
}

/// Unknown, too old, used up or nobody's any more: the caller cannot tell which.
fn no_more() -> Ended {
    Ended::new(ReasonCode::EgressNotFound, "no such reply address, or no more")
}
