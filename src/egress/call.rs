//! One call to a provider under a lease: the way every call goes, whichever door it came through. Part of `egress`, floor 7.

use super::{Egress, Ended, Receipt};
use crate::credentials::CredentialLease;
use crate::domain::installation::{Installation, InstallationStatus};
use crate::domain::message::SendReceipt;
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;
use crate::domain::secret::Secret;
use crate::providers;
use crate::store::directory::Directory;
use crate::store::{Change, Resource};
use crate::transport::TransportError;
use crate::wire::{WireRequest, WireResponse};

/// What is called: what limits and pauses are counted by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// The provider's name of it, as in `chat.postMessage`.
    pub method: &'a str,
    /// Where it goes, where it goes somewhere.
    pub conversation: Option<&'a str>,
}

impl Egress {
    /// Opens the token for as long as `render` runs, sends what it rendered, and returns the provider's answer whatever it
    /// says. A redirect is no answer: it would take the token to another host.
    ///
    /// # Errors
    /// [`Ended`], which knows whether anything left.
    pub(super) async fn call(
        &self,
        directory: &Directory,
        lease: &CredentialLease,
        call: &Call<'_>,
        render: impl FnOnce(&Installation, &Secret, &str) -> Result<WireRequest, ReasonCode>,
    ) -> Result<WireResponse, Ended> {
        let installation = lease.installation();
        // Before the token is opened: what may not leave yet is answered at once, and nobody waits for anybody.
        let (provider, percent) = (providers::of(installation.provider), self.limits.provider_rate(installation.provider));
        if let Err(wait_s) = self.used.take(&installation.id, provider, call, percent, self.clock.now()) {
            let detail = format!("{} takes no more {} of this installation yet; nothing was sent", installation.provider, call.method);
            return Err(Ended { retry_after_s: Some(wait_s), ..Ended::new(ReasonCode::EgressRateLimited, detail) });
        }
        let api_base = self.providers.api_base(installation.provider);
        let request = lease.with_token(&self.vault, directory, |token| render(installation, token, api_base))?;
        let sent = self.transport.send(request, self.limits.provider_timeout_ms, self.limits.provider_answer_bytes_max).await;
        let response = sent.map_err(|e| unsent(&e))?;
        if (300..400).contains(&response.status) {
            let mut ended = Ended::new(ReasonCode::EgressProviderRedirect, "the provider's address answered with a redirect");
            ended.left = true;
            return Err(ended);
        }
        if let (429, Some(wait_s)) = (response.status, response.retry_after_s()) {
            self.used.close(&installation.id, call.method, wait_s, self.clock.now());
        }
        tracing::debug!(installation = %installation.id, method = call.method, conversation = call.conversation, status = response.status, "provider answered");
        Ok(response)
    }

    /// What an answer means: for the caller, and for the installation it was given to.
    ///
    /// # Errors
    /// Every answer but that the message was taken.
    pub(super) async fn heed(&self, lease: &CredentialLease, call: &Call<'_>, receipt: SendReceipt) -> Result<Receipt, Ended> {
        let (code, detail, retry_after_s, left) = match receipt {
            SendReceipt::Sent { provider_message_id } => return Ok(Receipt { provider_message_id }),
            SendReceipt::RateLimited { retry_after_s, error } => {
                if let Some(wait_s) = retry_after_s {
                    self.used.close(&lease.installation().id, call.method, wait_s, self.clock.now());
                }
                (ReasonCode::EgressRateLimited, error, Some(retry_after_s.unwrap_or(1)), false)
            }
            SendReceipt::Rejected { error } => (ReasonCode::EgressProviderRejected, error, None, true),
            SendReceipt::Unknown { error } => (ReasonCode::EgressOutcomeUnknown, error, None, true),
            SendReceipt::Unavailable { error } => (ReasonCode::EgressProviderUnavailable, error, Some(5), false),
            SendReceipt::CredentialDead { error } => {
                self.degrade(lease.installation()).await;
                (ReasonCode::EgressCredentialInvalid, error, None, true)
            }
        };
        Err(Ended { stop: code.into(), detail, retry_after_s, left })
    }

    /// The provider says the credential is dead: the installation hears on and sends no more until an operator acts.
    async fn degrade(&self, installation: &Installation) {
        let mut degraded = installation.clone();
        degraded.status = InstallationStatus::Degraded;
        let now = self.clock.now();
        let line = AuditRecord {
            at: now,
            actor: "gateway".into(),
            action: "installation.degrade",
            target: installation.id.to_string(),
            org: Some(installation.org.clone()),
            outcome: "done",
            code: Some(ReasonCode::EgressCredentialInvalid),
            decision: None,
            request: None,
            detail: None,
        };
        tracing::error!(installation = %installation.id, "the provider refuses the credential; connect the installation again");
        if let Err(error) = self.store.apply(vec![Change::Put(Box::new(Resource::Installation(degraded)), vec![])], vec![line], now).await {
            tracing::error!(installation = %installation.id, error = %error, "could not be marked degraded");
        }
    }
}

/// Why a request to a provider has no answer, and whether it left.
pub(super) fn unsent(error: &TransportError) -> Ended {
    if error.may_have_left() {
        let detail = "the request left and no usable answer came; look before you send it again";
        return Ended { left: true, ..Ended::new(ReasonCode::EgressOutcomeUnknown, detail) };
    }
    let detail = match error {
        TransportError::NotSent(why) => format!("the provider could not be reached: {why}"),
        TransportError::DialForbidden => "the provider's address may not be dialled".to_owned(),
        _ => "the provider did not take the connection in time".to_owned(),
    };
    Ended { retry_after_s: Some(5), ..Ended::new(ReasonCode::EgressProviderUnavailable, detail) }
}
