//! Files that people sent: an agent shows its ticket, the gateway fetches the file with the installation's credential and
//! passes on its bytes. The credential goes to the provider's own hosts and nowhere else. Part of `egress`, floor 7.

use std::sync::Arc;

use http::{HeaderMap, header};
use serde_json::json;
use url::Url;

use super::{Call, Egress, Ended, SendAnswer, Trail, is_theirs, refused};
use crate::authn::principal::AgentPrincipal;
use crate::credentials;
use crate::domain::ids::RequestId;
use crate::domain::installation::{Installation, InstallationStatus};
use crate::domain::message::SendReceipt;
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;
use crate::providers;
use crate::store::directory::{Directory, Kept};
use crate::transport::{Streamed, TransportError};
use crate::vault::ticket::MediaTicket;

/// Media types that are passed on: what browsers show and do not run. Everything else is bytes.
const MEDIA_TYPES: &[&str] = &[
    "application/pdf",
    "audio/aac",
    "audio/amr",
    "audio/mp4",
    "audio/mpeg",
    "audio/ogg",
    "audio/wav",
    "audio/webm",
    "image/gif",
    "image/jpeg",
    "image/png",
    "image/webp",
    "text/plain",
    "video/3gpp",
    "video/mp4",
    "video/quicktime",
    "video/webm",
];

/// What is passed on of a file, and nothing else that its provider said.
#[derive(Debug)]
pub struct Media {
    /// Its media type, or that it is bytes.
    pub media_type: &'static str,
    /// Its length, where it is known.
    pub length: Option<u64>,
    /// Its bytes, as they come.
    pub body: Streamed,
}

impl Egress {
    /// Fetches the file of a ticket.
    ///
    /// # Errors
    /// `egress.not_found` for every ticket that is not this agent's to use now, whatever is wrong with it; else what stands
    /// between the credential and the file.
    pub async fn media(&self, principal: &AgentPrincipal, ticket: &str, request: &RequestId) -> Result<Media, SendAnswer> {
        let directory = self.store.directory();
        let mut trail = Trail::default();
        let fetched = match self.admitted(&directory, principal, ticket) {
            Some((ticket, installation)) => {
                trail.installation = Some(installation.clone());
                let fetched = self.fetch(&directory, principal, &ticket, &installation, &mut trail).await;
                self.told(principal, &ticket, &trail, fetched.as_ref().err().map(|ended| ended.stop.code()), request).await;
                fetched
            }
            None => Err(ReasonCode::EgressNotFound.into()),
        };
        tracing::info!(request = %request, agent = %principal.agent().id, reason = fetched.as_ref().err().map_or("", |e| e.stop.code().as_str()), "media");
        fetched.map_err(|ended| refused(&ended, request))
    }

    /// The ticket and its installation, where both are the caller's now.
    pub(super) fn admitted(
        &self,
        directory: &Directory,
        principal: &AgentPrincipal,
        ticket: &str,
    ) -> Option<(MediaTicket, Arc<Kept<Installation>>)> {
        let agent = principal.agent();
        let ticket = self.vault.read_ticket(ticket)?;
        let installation = directory.installations.get(ticket.installation())?;
        let in_use = matches!(installation.item.status, InstallationStatus::Active | InstallationStatus::Degraded);
        let theirs = *ticket.agent() == agent.id && is_theirs(directory, agent, &installation.item);
        (theirs && in_use && self.clock.now() <= ticket.until()).then(|| (ticket, installation.clone()))
    }

    pub(super) async fn fetch(
        &self,
        directory: &Directory,
        principal: &AgentPrincipal,
        ticket: &MediaTicket,
        installation: &Arc<Kept<Installation>>,
        trail: &mut Trail,
    ) -> Result<Media, Ended> {
        let policy = self.engine.pin();
        let (entered, tie) = self.tied(&policy, directory, principal, &installation.item, None, trail);
        self.enter(entered, &tie, trail)?;
        let lease = self.selected(trail, credentials::own(&policy, directory, installation, self.clock.now()))?;
        let provider = providers::of(installation.item.provider);
        let answer_bytes_max = self.limits.provider_answer_bytes_max;
        let call = Call { method: provider.file_method(), conversation: None, answer_bytes_max, file: false };
        let answer = self
            .call(directory, &lease, &call, |installation, token, api_base| {
                provider.file_lookup(ticket.file(), &installation.account, token, api_base)
            })
            .await
            .map_err(again)?;
        match provider.read_receipt(&answer) {
            // Neither says anything of a file: the next step looks for one.
            SendReceipt::Sent { .. } | SendReceipt::Unknown { .. } => {}
            told => self.heed(&lease, &call, told).await.map(drop)?,
        }
        let place = self.providers.of(installation.item.provider);
        let request = lease.with_token(&self.vault, directory, |token| provider.file_request(&answer, token, &place.api_base))?;
        let hosts = provider.file_hosts().iter().copied().chain(place.file_hosts.iter().map(String::as_str));
        if !is_pinned(request.url.expose(), hosts, &place.api_base) {
            return Err(ReasonCode::EgressMediaHostForbidden.into());
        }
        let limits = &self.limits;
        let body = self.transport.open(request, limits.media_timeout_ms, limits.media_bytes_max).await.map_err(|e| unfetched(&e))?;
        passed_on(body)
    }

    /// Each use of a credential leaves a line.
    async fn told(&self, principal: &AgentPrincipal, ticket: &MediaTicket, trail: &Trail, code: Option<ReasonCode>, request: &RequestId) {
        let installation = trail.installation.as_ref().map(|i| &i.item);
        let line = AuditRecord {
            at: self.clock.now(),
            actor: format!("agent:{}", principal.agent().id),
            action: "media.fetch",
            target: ticket.file().to_owned(),
            org: installation.map(|i| i.org.clone()),
            outcome: if code.is_none() { "done" } else { "refused" },
            code,
            decision: trail.decisions.last().cloned(),
            request: Some(request.clone()),
            detail: Some(
                json!({"installation": ticket.installation(), "credential": trail.credential.as_ref().map(|(id, _)| id)}).to_string(),
            ),
        };
        if let Err(error) = self.store.audit(vec![line]).await {
            tracing::error!(request = %request, error = %error, "the fetch of a file could not be recorded");
        }
    }
}

/// Whether a credential may go to an address: the API's own, or `https` on one of the hosts, at the usual port.
pub(super) fn is_pinned<'h>(url: &str, mut hosts: impl Iterator<Item = &'h str>, api_base: &str) -> bool {
    let (Ok(url), Ok(base)) = (Url::parse(url), Url::parse(api_base)) else { return false };
    if !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    let named =
        url.scheme() == "https" && url.port().is_none() && url.host_str().is_some_and(|host| hosts.any(|h| h.eq_ignore_ascii_case(host)));
    named || url.origin() == base.origin()
}

/// What is passed on of an answer, where it is a file.
fn passed_on(body: Streamed) -> Result<Media, Ended> {
    let code = match body.status {
        200 => None,
        300..=399 => Some(ReasonCode::EgressProviderRedirect),
        429 => Some(ReasonCode::EgressRateLimited),
        500.. => Some(ReasonCode::EgressProviderUnavailable),
        _ => Some(ReasonCode::EgressProviderRejected),
    };
    if let Some(code) = code {
        let detail = format!("the host of the provider's files answered {}", body.status);
        return Err(Ended { retry_after_s: code.retryable().then_some(5), ..Ended::new(code, detail) });
    }
    Ok(Media { media_type: media_type(&body.headers), length: body.length, body })
}

/// The media type that a file is passed on as, whatever its provider or whoever sent it calls it.
pub(super) fn media_type(headers: &HeaderMap) -> &'static str {
    let said = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let said = said.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    MEDIA_TYPES.iter().find(|known| **known == said).copied().unwrap_or("application/octet-stream")
}

/// Fetching changes nothing, so what may have arrived can be asked again.
fn again(ended: Ended) -> Ended {
    if ended.stop.code() == ReasonCode::EgressOutcomeUnknown { unavailable() } else { ended }
}

fn unfetched(error: &TransportError) -> Ended {
    if *error == TransportError::AnswerTooLarge { Ended::from(ReasonCode::EgressMediaTooLarge) } else { unavailable() }
}

fn unavailable() -> Ended {
    Ended { retry_after_s: Some(5), ..Ended::new(ReasonCode::EgressProviderUnavailable, "the provider did not hand out the file") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_goes_to_named_hosts_over_tls_and_to_the_api() {
        let is = |url: &str| is_pinned(url, ["files.slack.com", "lookaside.fbsbx.com"].into_iter(), "https://slack.com/api/");
        for yes in ["https://files.slack.com/files-pri/T1-F1/download/x.png", "https://FILES.slack.com:443/x", "https://slack.com/x"] {
            assert!(is(yes), "{yes}");
        }
        for no in [
            "http://files.slack.com/x",
            "https://files.slack.com:8443/x",
            "https://files.slack.com.example/x",
            "https://example/files.slack.com",
            "https://xfiles.slack.com/x",
            "https://files.slack.com./x",
            "https://files.slack.com@example/x",
            "https://u:p@files.slack.com/x",
            "https://example\\@files.slack.com/x",
            "http://slack.com/x",
            "https://slack.com:444/x",
            "//files.slack.com/x",
            "/x",
            "",
            "file:///etc/passwd",
            "data:text/plain,x",
        ] {
            assert!(!is(no), "{no}");
        }
        // An opaque origin equals nothing, not even itself.
        assert!(!is_pinned("data:x", std::iter::empty(), "data:x"));
    }
}
