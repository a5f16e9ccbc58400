//! A call of an official SDK: picked apart, judged, built anew and answered like a message, by the same way and with the same
//! records. Part of `egress`, floor 7.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, header};
use serde_json::{Value as Json, json};

use super::call::{Answer, Call};
use super::media::{self, is_pinned};
use super::{Egress, Ended, Ending, Trail, Underway, is_theirs};
use crate::authn::principal::AgentPrincipal;
use crate::credentials;
use crate::crypto::{random, sha256, sha256_of};
use crate::domain::ids::{InstallationId, MessageId, RequestId};
use crate::domain::installation::{Agent, Installation, ProviderKind};
use crate::domain::message::SendReceipt;
use crate::domain::reason::{Failure, ReasonCode, Stop};
use crate::policy::action::CallProviderMethod;
use crate::policy::{Permit, Snapshot};
use crate::providers;
use crate::providers::sdk::{self, Asked, Kind, Place, Refused, Sdk, Told};
use crate::routing::{self, Called, Tie};
use crate::store::NewSend;
use crate::store::directory::{Directory, Kept};
use crate::transport::Streamed;
use crate::vault::ticket::MediaLinks;
use crate::wire::budget::Taken;
use crate::wire::form::Arguments;
use crate::wire::{Payload, Piece, WireResponse};

/// The most that is read of an answer which is no file: what an answer says is parsed, and takes many times its bytes then.
const JSON_ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What an SDK asks for, its token proved and taken out.
#[derive(Debug)]
pub struct SdkCall {
    /// Whose SDK.
    pub provider: ProviderKind,
    /// The HTTP method.
    pub http: Method,
    /// What is called.
    pub path: Vec<String>,
    /// With what.
    pub arguments: Arguments,
    /// The installation, where the agent names one.
    pub named: Option<String>,
    /// Where the gateway is, as the agent reaches it.
    pub gateway: String,
    /// The provider's address for an upload, from a ticket that the gateway wrote.
    pub upload: Option<String>,
    /// What the call holds of the budget of bodies until it ends.
    pub room: Taken,
    /// Its place among the agent's calls.
    pub underway: Underway,
}

/// What the SDK hears.
#[derive(Debug)]
pub struct SdkAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The media type of the body, where it has one.
    pub media_type: Option<String>,
    /// `Retry-After`, where there is one.
    pub retry_after_s: Option<u64>,
    /// The body.
    pub body: AnswerBody,
}

/// What the SDK is sent.
#[derive(Debug)]
pub enum AnswerBody {
    /// In memory.
    Whole(Bytes),
    /// A file, as it comes from the provider. The call is under way until its last byte.
    File(Box<Streamed>, Underway),
}

impl SdkAnswer {
    fn json(status: u16, body: &Json, retry_after_s: Option<u64>) -> Self {
        Self {
            status,
            media_type: Some("application/json; charset=utf-8".into()),
            retry_after_s,
            body: AnswerBody::Whole(body.to_string().into()),
        }
    }

    /// A refusal in the shape that the provider's SDK raises as its own error.
    pub fn refusal(provider: ProviderKind, code: ReasonCode, detail: &str, retry_after_s: Option<u64>, request: &RequestId) -> Self {
        let (status, body) = sdk::of(provider).refusal(&Refused { code, detail, retry_after_s, request });
        Self::json(status, &body, retry_after_s)
    }
}

/// What is known of a call whichever way it ends.
#[derive(Default)]
struct Noted {
    method: Option<String>,
    /// It stands among what agents sent.
    begun: bool,
    /// It is with the provider.
    relayed: bool,
}

/// A call that has an answer.
struct Answered {
    answer: SdkAnswer,
    /// What the answer means; a message's id where it was one.
    outcome: Result<String, ReasonCode>,
}

impl Egress {
    /// Makes one call. Runs to its end even when the caller hangs up: what left is recorded.
    pub async fn sdk(&self, principal: AgentPrincipal, call: SdkCall, request: RequestId) -> SdkAnswer {
        let (provider, id) = (call.provider, MessageId::fresh(self.clock.now()));
        let (this, who, message, asked) = (self.clone(), principal.clone(), id.clone(), request.clone());
        let made = tokio::spawn(async move {
            let (mut trail, mut noted) = (Trail::default(), Noted::default());
            let result = this.make(&message, &who, call, &mut trail, &mut noted).await;
            this.end(message, &who, provider, &asked, (trail, noted), result).await
        });
        match made.await {
            Ok(answer) => answer,
            Err(_) => {
                let broken =
                    Ended { left: true, ..Ended::new(ReasonCode::EgressOutcomeUnknown, "the call broke; look before you make it again") };
                self.end(id, &principal, provider, &request, Default::default(), Err(broken)).await
            }
        }
    }

    async fn end(
        &self,
        id: MessageId,
        principal: &AgentPrincipal,
        provider: ProviderKind,
        request: &RequestId,
        (trail, mut noted): (Trail, Noted),
        result: Result<Answered, Ended>,
    ) -> SdkAnswer {
        let (answer, code, message) = match result {
            Ok(Answered { answer, outcome: Ok(message) }) => (answer, None, Some(message).filter(|m| !m.is_empty())),
            Ok(Answered { answer, outcome: Err(code) }) => (answer, Some(code), None),
            Err(ended) => {
                if let Stop::Failed(failure) = &ended.stop {
                    tracing::error!(request = %request, reason = %failure.code, detail = %failure.detail, "a call failed");
                }
                let code = ended.stop.code();
                noted.relayed |= ended.left;
                (SdkAnswer::refusal(provider, code, &ended.detail, ended.retry_after_s, request), Some(code), None)
            }
        };
        let state = match code {
            None if noted.begun => "sent",
            None => "called",
            Some(ReasonCode::EgressOutcomeUnknown) => "unknown",
            Some(_) if noted.relayed => "failed",
            Some(_) => "refused",
        };
        let ending = Ending {
            action: "provider.call",
            state,
            status: answer.status,
            answer: json!({"method": noted.method, "status": answer.status}),
            code,
            provider_message_id: message,
            method: noted.method,
        };
        self.keep(id, principal, request, trail, ending).await;
        answer
    }

    async fn make(
        &self,
        id: &MessageId,
        principal: &AgentPrincipal,
        call: SdkCall,
        trail: &mut Trail,
        noted: &mut Noted,
    ) -> Result<Answered, Ended> {
        let sdk = sdk::of(call.provider);
        let directory = self.store.directory();
        let asked = Asked {
            http: &call.http,
            path: &call.path,
            arguments: &call.arguments,
            gateway: &call.gateway,
            upload: call.upload.as_deref(),
        };
        let installation = pick(&directory, principal.agent(), &call, &asked, trail)?;
        trail.installation = Some(installation.clone());
        let told = sdk::tell(call.provider, &asked, &installation.item.account).map_err(|untold| Ended::new(untold.code, untold.detail))?;
        noted.method = Some(told.method.clone());
        if let Kind::Own(status, body) = &told.kind {
            let outcome = if *status < 400 { Ok(String::new()) } else { Err(ReasonCode::EgressMethodReserved) };
            return Ok(Answered { answer: SdkAnswer::json(*status, body, None), outcome });
        }
        let place = placed(&directory, &installation.item, &told, trail)?;
        let shared = directory.is_shared(&installation.item);
        if shared && !self.store.has_seen_files(&installation.item, &told.files).await.map_err(broken)? {
            return Err(Ended::new(ReasonCode::EgressNotFound, "no event of this installation told of such a file"));
        }
        let policy = self.engine.pin();
        let mut within = None;
        if let Some((conversation, thread)) = place {
            trail.conversation = Some(conversation.to_owned());
            trail.session = self.store.session_at(principal, &installation.item, conversation, thread).await.map_err(broken)?;
            if let Some(session) = &trail.session {
                within = self.store.session_of(principal, session).await.map_err(broken)?;
            }
            let digest = digest(&call.arguments).await?;
            // No key of the caller's: the SDK that calls twice says it twice.
            let send = NewSend { id: id.clone(), key: id.to_string(), digest, at: self.clock.now() };
            self.store.begin_send(principal, send).await.map_err(broken)?;
            noted.begun = true;
        }
        let (entered, tie) = self.tied(&policy, &directory, principal, &installation.item, within.as_ref(), trail);
        if let Some((conversation, _)) = place {
            let reply = within.is_some();
            let spoken = routing::outbound(&policy, &directory, principal, &installation, conversation, reply, &tie);
            self.asked(trail, spoken, |d| d.decision())?;
        }
        self.enter(entered, &tie, trail)?;
        let permit = self.permitted(&policy, &directory, principal, &installation, (&told, &tie), trail).await?;
        trail.legacy = tie.legacy().cloned();
        // A path alone fetches any file of the bot, and can be guessed: whoever shares the bot, or is bound to a part of what it hears,
        // is given a ticket for one file instead.
        let guarded = shared || routing::is_confined(&directory, &principal.agent().id, &installation.item, &tie);
        if let (Kind::File, Some(ticket)) = (&told.kind, call.path.last()) {
            match self.admitted(&directory, principal, ticket).filter(|(ticket, _)| *ticket.installation() == installation.item.id) {
                Some((ticket, _)) => {
                    let media = self.fetch(&directory, principal, &ticket, &installation, trail).await?;
                    let body = AnswerBody::File(Box::new(media.body), call.underway);
                    let answer = SdkAnswer { status: 200, media_type: Some(media.media_type.into()), retry_after_s: None, body };
                    return Ok(Answered { answer, outcome: Ok(String::new()) });
                }
                None if guarded => {
                    let detail = "a file of this bot is fetched by the path that its lookup answers with, for as long as that is good";
                    return Err(Ended::new(ReasonCode::EgressNotFound, detail));
                }
                None => {}
            }
        }
        // Never through the platform's app: its conversations are others, and the SDK would not know.
        let lease = self.selected(trail, credentials::called(&policy, &directory, &permit, self.clock.now()))?;
        let boundary = hex::encode(random::<24>().map_err(|e| Stop::from(Failure::new(ReasonCode::IngressInternal, e.to_string())))?);
        let written = call.arguments.write(&boundary).map_err(Stop::from)?;
        let line = Call {
            method: &told.method,
            conversation: place.map(|(conversation, _)| conversation),
            answer_bytes_max: if told.kind == Kind::File { self.limits.sdk_body_bytes_max } else { JSON_ANSWER_BYTES_MAX },
            file: told.kind == Kind::File,
        };
        let mut held = self.held.hold(Some(principal.agent().id.as_str()));
        let Answer { head: response, file } = self
            .open(&directory, &lease, &line, Some(&mut held), |installation, token, api_base| {
                sdk.rebuild(&asked, &installation.account, &written, token, api_base)
            })
            .await?;
        noted.relayed = true;
        let outcome = match self.heed(&lease, &line, receipt(sdk, call.provider, &told.kind, &response)).await {
            Ok(receipt) => Ok(receipt.provider_message_id),
            // That the token is dead is between the provider and an operator: the agent's is alive.
            Err(ended) if ended.stop.code() == ReasonCode::EgressCredentialInvalid => return Err(ended),
            Err(ended) => Err(ended.stop.code()),
        };
        let (status, media_type, retry_after_s) = relayed(&response)?;
        if let Some(file) = file {
            let media_type = Some(media::media_type(&response.headers).to_owned());
            let body = AnswerBody::File(Box::new(file), call.underway);
            return Ok(Answered { answer: SdkAnswer { status, media_type, retry_after_s, body }, outcome });
        }
        let mut body = response.body;
        if (200..300).contains(&status) && told.kind != Kind::File {
            let link = |place: Place<'_>| self.link(principal, &installation.item, &call.gateway, place);
            let relinked = sdk.relink(&told, &body, &link).map_err(|code| Ended { left: true, ..Ended::from(code) })?;
            body = relinked.map_or(body, Bytes::from);
            if let (true, Some(file)) = (guarded && told.method == providers::of(call.provider).file_method(), told.files.first()) {
                let links = MediaLinks::new(self.vault.clone(), None, self.limits.media_url_hours);
                let ticket = links.ticket(&installation.item.id, &principal.agent().id, file, self.clock.now());
                body = sdk.with_ticket(&body, &ticket).map_err(|code| Ended { left: true, ..Ended::from(code) })?.into();
            }
        }
        // The answer holds its part of the budget until it is written.
        let body = AnswerBody::Whole(Taken::new(body, held, None).bytes);
        Ok(Answered { answer: SdkAnswer { status, media_type, retry_after_s, body }, outcome })
    }

    /// Asks of every conversation that the call names, or once where it names none. The first permit stands for the call.
    async fn permitted(
        &self,
        policy: &Snapshot,
        directory: &Directory,
        principal: &AgentPrincipal,
        installation: &Arc<Kept<Installation>>,
        (told, tie): (&Told, &Tie),
        trail: &mut Trail,
    ) -> Result<Permit<CallProviderMethod>, Ended> {
        let confined = routing::is_confined(directory, &principal.agent().id, &installation.item, tie);
        let mut called = Called { method: &told.method, conversation: None, effect: told.effect, bound_here: confined.then_some(false) };
        let mut first = None;
        for (conversation, effect) in told.named() {
            (called.conversation, called.effect) = (Some(conversation), effect);
            if confined {
                called.bound_here = Some(self.is_bound_here(directory, principal, &installation.item, conversation).await?);
            }
            let answer = routing::method(policy, directory, principal, installation, &called, tie);
            let permit = self.asked(trail, answer, |p| p.decision())?;
            first.get_or_insert(permit);
        }
        match first {
            Some(permit) => Ok(permit),
            None => self.asked(trail, routing::method(policy, directory, principal, installation, &called, tie), |p| p.decision()),
        }
    }

    async fn is_bound_here(
        &self,
        directory: &Directory,
        principal: &AgentPrincipal,
        installation: &Installation,
        conversation: &str,
    ) -> Result<bool, Ended> {
        let session = match self.store.session_at(principal, installation, conversation, None).await.map_err(broken)? {
            Some(session) => self.store.session_of(principal, &session).await.map_err(broken)?,
            None => None,
        };
        Ok(routing::is_bound_here(directory, &principal.agent().id, installation, conversation, session.as_ref()))
    }

    /// An address of the gateway's, for this agent alone.
    fn link(&self, principal: &AgentPrincipal, installation: &Installation, gateway: &str, place: Place<'_>) -> Option<String> {
        let (agent, now) = (&principal.agent().id, self.clock.now());
        match place {
            Place::File(id) => {
                Some(MediaLinks::new(self.vault.clone(), Some(gateway), self.limits.media_url_hours).link(&installation.id, agent, id, now))
            }
            Place::Upload(url) => {
                let at = self.providers.of(installation.provider);
                let hosts =
                    providers::of(installation.provider).file_hosts().iter().copied().chain(at.file_hosts.iter().map(String::as_str));
                is_pinned(url, hosts, &at.api_base).then(|| {
                    let ticket = self.vault.write_upload_ticket(&installation.id, agent, url, now);
                    format!("{gateway}/sdk/{}/upload/{ticket}", installation.provider)
                })
            }
        }
    }
}

/// The installation that the agent names, or the only one it is bound to, or the one of them whose account the call names. What
/// is not the agent's is not found, exactly like what does not exist.
fn pick(
    directory: &Directory,
    agent: &Agent,
    call: &SdkCall,
    asked: &Asked<'_>,
    trail: &mut Trail,
) -> Result<Arc<Kept<Installation>>, Ended> {
    let provider = call.provider;
    let Some(named) = &call.named else {
        let mut bound = directory.installations_for(&agent.id, provider);
        if bound.len() > 1 {
            bound.retain(|installation| sdk::of(provider).names(asked, &installation.item.account));
        } else if bound.is_empty() {
            return Err(Ended::new(ReasonCode::EgressNotFound, "no installation of this provider is bound to this agent"));
        }
        return match bound.as_slice() {
            [only] => Ok((*only).clone()),
            _ => Err(Ended::new(ReasonCode::EgressInstallationAmbiguous, "name the installation in a `byoa-installation` header or query")),
        };
    };
    let not_found = || Ended::new(ReasonCode::EgressNotFound, "no such installation for this agent");
    let found = InstallationId::parse(named).ok().and_then(|id| directory.installations.get(&id)).ok_or_else(not_found)?;
    if !is_theirs(directory, agent, &found.item) {
        trail.trespass = Some(format!("installations/{named}"));
        return Err(not_found());
    }
    if found.item.provider == provider { Ok(found.clone()) } else { Err(not_found()) }
}

/// Where a call speaks, once every conversation it names is the installation's own.
fn placed<'t>(
    directory: &Directory,
    installation: &Installation,
    told: &'t Told,
    trail: &mut Trail,
) -> Result<Option<(&'t str, Option<&'t str>)>, Ended> {
    let place = match &told.kind {
        Kind::Message { conversation, thread } => Some((conversation.as_str(), thread.as_deref())),
        Kind::Account if directory.is_shared(installation) => {
            return Err(Ended::new(ReasonCode::EgressMethodReserved, "the account is shared with other installations"));
        }
        _ => None,
    };
    for (named, _) in told.named() {
        if !directory.serves(installation, named) {
            trail.trespass = Some(format!("conversations/{named}"));
            return Err(Ended::new(ReasonCode::EgressNotFound, "no such conversation for this agent"));
        }
    }
    Ok(place)
}

/// What an answer says of the message, of the credential and of limits.
fn receipt(sdk: &dyn Sdk, provider: ProviderKind, kind: &Kind, response: &WireResponse) -> SendReceipt {
    match kind {
        Kind::Message { .. } => providers::of(provider).read_receipt(response),
        Kind::File if response.status == 200 => SendReceipt::Sent { provider_message_id: String::new() },
        _ => sdk.receipt(response),
    }
}

/// A digest over everything that is sent: files by their own digests, because they are not in memory.
async fn digest(arguments: &Arguments) -> Result<String, Ended> {
    let broken = |e: std::io::Error| Ended::from(Stop::from(Failure::new(ReasonCode::IngressInternal, format!("a spooled file: {e}"))));
    let mut said = Vec::new();
    let mut write = |bytes: &[u8]| said.extend_from_slice(&sha256(bytes));
    match arguments.write("").map_err(Stop::from)?.body {
        Payload::Whole(body) => return Ok(hex::encode(sha256(&body))),
        Payload::Pieces(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Bytes(bytes) => write(&bytes),
                    Piece::Spooled(slice) => {
                        let read = tokio::task::spawn_blocking(move || sha256_of(slice.reader())).await;
                        write(&read.map_err(std::io::Error::other).and_then(|digest| digest).map_err(broken)?);
                    }
                }
            }
        }
    }
    Ok(hex::encode(sha256(&said)))
}

/// What is passed on of an answer beside its body: status, media type, how long to wait.
fn relayed(response: &WireResponse) -> Result<(u16, Option<String>, Option<u64>), Ended> {
    // Nobody asked for a packed body, and in one nothing can be withheld.
    if response.headers.contains_key(header::CONTENT_ENCODING) {
        let detail = "the provider's answer is packed and cannot be passed on";
        return Err(Ended { left: true, ..Ended::new(ReasonCode::EgressOutcomeUnknown, detail) });
    }
    let media_type = response.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).map(str::to_owned);
    Ok((response.status, media_type, response.retry_after_s()))
}

fn broken(error: crate::store::StoreError) -> Ended {
    Stop::from(Failure::from(error)).into()
}
