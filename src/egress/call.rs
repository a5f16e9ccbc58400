//! One call to a provider under a lease: the way every call goes, whichever door it came through. Part of `egress`, floor 7.

use bytes::Bytes;

use super::{Egress, Ended, Receipt, refresh};
use crate::credentials::CredentialLease;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::Installation;
use crate::domain::lifecycle::{Place, StatusReason};
use crate::domain::message::SendReceipt;
use crate::domain::reason::{Failure, ReasonCode, Stop};
use crate::domain::secret::Secret;
use crate::providers;
use crate::store::directory::Directory;
use crate::transport::{Streamed, TransportError};
use crate::vault::field;
use crate::wire::budget::Held;
use crate::wire::{WireRequest, WireResponse};

/// What is called: what limits and pauses are counted by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// The provider's name of it, as in `chat.postMessage`.
    pub method: &'a str,
    /// Where it goes, where it goes somewhere.
    pub conversation: Option<&'a str>,
    /// How much of the answer is read.
    pub answer_bytes_max: usize,
    /// A 200 is a file, whose bytes are passed on as they come.
    pub file: bool,
}

/// An answer, whole but for the bytes of a file that are still to come.
pub(super) struct Answer {
    /// The head, and the body where it is no file.
    pub head: WireResponse,
    /// The file.
    pub file: Option<Streamed>,
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
        render: impl Fn(&Installation, &Secret, &str) -> Result<WireRequest, ReasonCode>,
    ) -> Result<WireResponse, Ended> {
        self.open(directory, lease, call, None, render).await.map(|answer| answer.head)
    }

    /// The same for an answer that may be a file, or may be large: what of it is in memory is counted in `held`.
    ///
    /// # Errors
    /// [`Ended`], which knows whether anything left.
    pub(super) async fn open(
        &self,
        directory: &Directory,
        lease: &CredentialLease,
        call: &Call<'_>,
        mut held: Option<&mut Held>,
        render: impl Fn(&Installation, &Secret, &str) -> Result<WireRequest, ReasonCode>,
    ) -> Result<Answer, Ended> {
        let installation = lease.installation();
        self.reachable(installation, call).await?;
        // Before the token is opened: what may not leave yet is answered at once, and nobody waits for anybody.
        let (provider, percent) = (providers::of(installation.provider), self.limits.provider_rate(installation.provider));
        if let Err(wait_s) = self.used.take(&installation.id, provider, call, percent, self.clock.now()) {
            let detail = format!("{} takes no more {} of this installation yet; nothing was sent", installation.provider, call.method);
            return Err(Ended { retry_after_s: Some(wait_s), ..Ended::new(ReasonCode::EgressRateLimited, detail) });
        }
        let renewed = self.with_live_credential(directory, lease, None).await?;
        let directory = renewed.as_deref().unwrap_or(directory);
        let mut answer = self.exchange_once(directory, lease, call, held.as_deref_mut(), &render).await?;
        // Nothing was done, and there may be a way to another token: the one call that is made twice.
        if refresh::has_expired(installation, &answer.head)
            && let Some(spent) = fingerprint(directory, installation)
            && let Some(renewed) = self.with_live_credential(directory, lease, Some(&spent)).await?
            && fingerprint(&renewed, installation).is_some_and(|new| new != spent)
        {
            answer = self.exchange_once(&renewed, lease, call, held, &render).await?;
        }
        let status = answer.head.status;
        if (300..400).contains(&status) && stands(Guard::RedirectNoAnswer) {
            let mut ended = Ended::new(ReasonCode::EgressProviderRedirect, "the provider's address answered with a redirect");
            ended.left = true;
            return Err(ended);
        }
        tracing::debug!(installation = %installation.id, method = call.method, conversation = call.conversation, status, "provider answered");
        Ok(answer)
    }

    async fn exchange_once(
        &self,
        directory: &Directory,
        lease: &CredentialLease,
        call: &Call<'_>,
        held: Option<&mut Held>,
        render: &impl Fn(&Installation, &Secret, &str) -> Result<WireRequest, ReasonCode>,
    ) -> Result<Answer, Ended> {
        let installation = lease.installation();
        let api_base = self.providers.api_base(installation.provider);
        let (request, echo) =
            lease.with_token(&self.vault, directory, |token| Ok((render(installation, token, api_base)?, Echo::of(token))))?;
        // A file takes as long as it takes anywhere else.
        let timeout_ms = if call.file { self.limits.media_timeout_ms } else { self.limits.provider_timeout_ms };
        let answer_bytes_max = u64::try_from(call.answer_bytes_max).unwrap_or(u64::MAX);
        let mut streamed = self.transport.open(request, timeout_ms, answer_bytes_max).await.map_err(|e| unsent(&e))?;
        if call.file && streamed.status == 200 {
            let head = WireResponse { status: streamed.status, headers: std::mem::take(&mut streamed.headers), body: Bytes::new() };
            return Ok(Answer { head: echo.withhold(head), file: Some(streamed) });
        }
        let head = streamed.whole(held).await.map_err(|e| unsent(&e))?;
        Ok(Answer { head: echo.withhold(head), file: None })
    }

    /// What the provider told of the conversation holds until it says otherwise: a person who blocked the bot is not knocked
    /// at again. A new id is a hint and no destination: which agent may speak there was not asked.
    async fn reachable(&self, installation: &Installation, call: &Call<'_>) -> Result<(), Ended> {
        let Some(conversation) = call.conversation else { return Ok(()) };
        let place = self.store.place(installation, conversation).await;
        match place.map_err(|e| Ended::from(Stop::from(Failure::from(e))))? {
            Place::Open => Ok(()),
            Place::Blocked | Place::Left => Err(Stop::from(ReasonCode::EgressRecipientBlocked).into()),
            Place::Moved { to } => Err(Ended::new(ReasonCode::EgressConversationMoved, format!("the conversation goes on as `{to}`"))),
        }
    }

    /// What an answer means: for the caller, and for the installation it was given to.
    ///
    /// # Errors
    /// Every answer but that the message was taken.
    pub(super) async fn heed(&self, lease: &CredentialLease, call: &Call<'_>, receipt: SendReceipt) -> Result<Receipt, Ended> {
        let (code, detail, retry_after_s, left) = match receipt {
            SendReceipt::Sent { provider_message_id } => return Ok(Receipt { provider_message_id }),
            SendReceipt::RateLimited { retry_after_s, error } => {
                if let Some(wait_s) = retry_after_s
                    && stands(Guard::WaitKept)
                {
                    self.used.close(&lease.installation().id, call.method, wait_s, self.clock.now());
                }
                (ReasonCode::EgressRateLimited, error, Some(retry_after_s.unwrap_or(1)), false)
            }
            SendReceipt::Rejected { error } => (ReasonCode::EgressProviderRejected, error, None, true),
            SendReceipt::Unknown { error } => (ReasonCode::EgressOutcomeUnknown, error, None, true),
            SendReceipt::Unavailable { error } => (ReasonCode::EgressProviderUnavailable, error, Some(5), false),
            SendReceipt::CredentialDead { error } => {
                if stands(Guard::DeadTokenDegrades) {
                    self.degrade(lease.installation(), &lease.fingerprint(), StatusReason::CredentialDead).await;
                }
                (ReasonCode::EgressCredentialInvalid, error, None, true)
            }
        };
        Err(Ended { stop: code.into(), detail, retry_after_s, left })
    }
}

fn fingerprint(directory: &Directory, installation: &Installation) -> Option<String> {
    directory.installations.get(&installation.id)?.secret(field::CREDENTIAL).map(|s| s.fingerprint.clone())
}

/// The ways in which an answer could repeat the token that it was given.
struct Echo(Vec<Secret>);

/// What stands in its place.
const WITHHELD: &[u8] = b"[withheld]";

/// A shorter part of a token could be a word of the answer's own.
const ECHO_CHARS_MIN: usize = 12;

impl Echo {
    fn of(token: &Secret) -> Self {
        let text = token.expose();
        let quoted: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
        // Telegram's is the bot's public number, a colon, and what is secret.
        let tail = text.rsplit_once(':').map(|(_, tail)| tail.to_owned());
        let all = [Some(text.to_owned()), Some(quoted).filter(|q| q != text), tail.filter(|t| t.len() >= ECHO_CHARS_MIN)];
        Self(all.into_iter().flatten().map(Secret::new).collect())
    }

    fn withhold(&self, mut response: WireResponse) -> WireResponse {
        let said = |bytes: &[u8], word: &Secret| memchr::memmem::find(bytes, word.expose().as_bytes()).is_some();
        for word in &self.0 {
            if said(&response.body, word) {
                response.body = replaced(&response.body, word.expose().as_bytes()).into();
            }
        }
        if response.headers.values().any(|value| self.0.iter().any(|word| said(value.as_bytes(), word))) {
            response.headers.clear();
        }
        response
    }
}

fn replaced(bytes: &[u8], word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut from = 0;
    for at in memchr::memmem::find_iter(bytes, word) {
        out.extend_from_slice(bytes.get(from..at).unwrap_or_default());
        out.extend_from_slice(WITHHELD);
        from = at + word.len();
    }
    out.extend_from_slice(bytes.get(from..).unwrap_or_default());
    out
}

/// Why a request to a provider has no answer, and whether it left.
pub(super) fn unsent(error: &TransportError) -> Ended {
    if error.may_have_left() && stands(Guard::OutcomeUnknown) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn an_answer_loses_every_way_of_repeating_the_token() {
        let echo = Echo::of(&Secret::new("7001:AAcanary_token-12345".to_owned()));
        let heard = |body: &str, header: &str| {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_str(header).unwrap())]);
            let response = echo.withhold(WireResponse { status: 200, headers, body: body.to_owned().into() });
            (String::from_utf8(response.body.to_vec()).unwrap(), response.headers.len())
        };
        assert_eq!(heard("nothing of it", "text/plain"), ("nothing of it".into(), 1));
        assert_eq!(heard("7001:AAcanary_token-12345", "text/plain"), ("[withheld]".into(), 1));
        assert_eq!(heard("a/bot7001%3AAAcanary_token-12345/b", "text/plain"), ("a/bot[withheld]/b".into(), 1));
        assert_eq!(
            heard("7001 AAcanary_token-12345 twice AAcanary_token-12345", "text/plain"),
            ("7001 [withheld] twice [withheld]".into(), 1)
        );
        assert_eq!(heard("", "text/7001:AAcanary_token-12345"), (String::new(), 0), "a header that repeats it takes all with it");
    }
}
