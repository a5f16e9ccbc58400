//! Calls of the providers' official SDKs. Each provider says which there are, what each would do, and in which shape its SDK
//! raises an error; whether a call may be made is not decided here. Part of `providers`, floor 2.

use std::borrow::Cow;

use http::Method;
use serde_json::Value;

use super::{slack, telegram, whatsapp};
use crate::domain::ids::RequestId;
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{Effect, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::wire::form::{Arguments, Written};
use crate::wire::{WireRequest, WireResponse};

/// A path below `/sdk/{provider}/`, taken apart as that provider's SDK puts it together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Located<'p> {
    /// The agent's token, where the SDK puts it into the path.
    pub token: Option<Cow<'p, str>>,
    /// What the gateway gave out for one upload, in place of a token: SDKs send none there.
    pub ticket: Option<&'p str>,
    /// What is called.
    pub path: Vec<&'p str>,
}

/// What an SDK asks for, without the agent's token.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The HTTP method.
    pub http: &'a Method,
    /// What is called: [`Located::path`].
    pub path: &'a [String],
    /// With what.
    pub arguments: &'a Arguments,
    /// Where the gateway is, as the agent reaches it.
    pub gateway: &'a str,
    /// The provider's address for an upload, from a ticket that the gateway wrote.
    pub upload: Option<&'a str>,
}

impl Asked<'_> {
    /// The path as texts.
    pub(super) fn parts(&self) -> Vec<&str> {
        self.path.iter().map(String::as_str).collect()
    }
}

/// What a call would do.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// Speaks into a conversation, or acts there where people see it.
    Message {
        /// The conversation.
        conversation: String,
        /// The thread in it.
        thread: Option<String>,
    },
    /// Reads, or acts where nobody is spoken to.
    Plain,
    /// Changes what the account is to everybody in it.
    Account,
    /// Passes on the bytes of a file, in or out.
    File,
    /// Never leaves: the gateway answers it itself, so that the SDK is content and the channel stays where it is.
    Own(u16, Value),
}

/// A call, told apart.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    /// The provider's name of it, as policies know it.
    pub method: String,
    /// What it would do.
    pub kind: Kind,
    /// The effect that policies are told: on the conversation that it speaks into, or on what it is about.
    pub effect: Effect,
    /// Further conversations that it names, and what it does there.
    pub touches: Vec<Touch>,
    /// The provider's ids of the files that it fetches or sends.
    pub files: Vec<String>,
}

/// A conversation that a call names without speaking into it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touch {
    /// The conversation.
    pub conversation: String,
    /// The effect there.
    pub effect: Effect,
}

impl Told {
    /// A call that speaks into a conversation.
    pub(super) fn message(method: &str, effect: Effect, conversation: String, thread: Option<String>) -> Self {
        Self { method: method.to_owned(), kind: Kind::Message { conversation, thread }, effect, touches: Vec::new(), files: Vec::new() }
    }

    /// A call that speaks to nobody; about `conversation`, where it names one.
    pub(super) fn quiet(method: &str, kind: Kind, effect: Effect, conversation: Option<String>) -> Self {
        let touches = conversation.into_iter().map(|conversation| Touch { conversation, effect }).collect();
        Self { method: method.to_owned(), kind, effect, touches, files: Vec::new() }
    }

    /// Every conversation that it names, and what it does there; the one that it speaks into comes first.
    pub fn named(&self) -> impl Iterator<Item = (&str, Effect)> {
        let place = match &self.kind {
            Kind::Message { conversation, .. } => Some((conversation.as_str(), self.effect)),
            _ => None,
        };
        place.into_iter().chain(self.touches.iter().map(|touch| (touch.conversation.as_str(), touch.effect)))
    }
}

/// Why a call is not one that can be made at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Untold {
    /// [`ReasonCode::EgressMethodUnknown`], [`ReasonCode::EgressMethodReserved`], [`ReasonCode::EgressMessageInvalid`],
    /// [`ReasonCode::EgressConversationForm`] or [`ReasonCode::EgressNotFound`].
    pub code: ReasonCode,
    /// For the developer.
    pub detail: &'static str,
}

impl Untold {
    /// The call would take the channel from the gateway.
    pub(super) const RESERVED: Self =
        Self { code: ReasonCode::EgressMethodReserved, detail: "this call is the gateway's own, or would take the channel from it" };
    /// Nobody has told us what the call does.
    pub(super) const UNKNOWN: Self = Self { code: ReasonCode::EgressMethodUnknown, detail: "this gateway does not know the call" };

    /// An argument is missing, twice there, or not the agent's to set.
    pub(super) const fn invalid(detail: &'static str) -> Self {
        Self { code: ReasonCode::EgressMessageInvalid, detail }
    }
}

impl From<ReasonCode> for Untold {
    fn from(code: ReasonCode) -> Self {
        Self { code, detail: "an argument is missing, stands there twice, or is of the wrong type" }
    }
}

/// A no on its way to an SDK.
#[derive(Debug)]
pub struct Refused<'a> {
    /// Why.
    pub code: ReasonCode,
    /// More for the developer.
    pub detail: &'a str,
    /// Seconds to wait, where waiting helps.
    pub retry_after_s: Option<u64>,
    /// The request.
    pub request: &'a RequestId,
}

impl Refused<'_> {
    /// What every SDK shows of it.
    pub(super) fn text(&self) -> String {
        format!("byoa_refused {}: {}", self.code, self.detail)
    }
}

/// What the gateway hands out an address of its own for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place<'a> {
    /// A file, by its id.
    File(&'a str),
    /// An upload, by the provider's address for it.
    Upload(&'a str),
}

/// One provider's SDKs.
pub trait Sdk: Send + Sync {
    /// Takes a path apart; `None` for one that its SDKs do not use.
    fn locate<'p>(&self, path: &'p str) -> Option<Located<'p>>;

    /// The argument in which an SDK may send the agent's token, in a body.
    fn token_argument(&self) -> Option<&'static str> {
        None
    }

    /// True where a call names this account by itself, because its SDK puts an id of the account into the call.
    fn names(&self, asked: &Asked<'_>, account: &ExternalAccount) -> bool {
        let _ = (asked, account);
        false
    }

    /// Tells a call apart. Callers go by [`tell`], which also looks at how conversations are written.
    ///
    /// # Errors
    /// [`Untold`]
    fn tell(&self, asked: &Asked<'_>, account: &ExternalAccount) -> Result<Told, Untold>;

    /// Builds the provider's request anew from what was read of the SDK's.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`]
    fn rebuild(
        &self,
        asked: &Asked<'_>,
        account: &ExternalAccount,
        written: &Written,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode>;

    /// What the answer to a call that is no message says of the credential and of limits.
    fn receipt(&self, response: &WireResponse) -> SendReceipt;

    /// Puts the gateway's addresses in place of those that only the provider's token opens; `None` where the answer has none.
    /// `link` makes them; what it makes none for is taken out.
    ///
    /// # Errors
    /// When the answer is not what was asked for, so that nothing of it may be passed on.
    fn relink(&self, told: &Told, body: &[u8], link: &dyn Fn(Place<'_>) -> Option<String>) -> Result<Option<Vec<u8>>, ReasonCode> {
        let _ = (told, body, link);
        Ok(None)
    }

    /// The ids of the files that an event tells of, where a bot may be shared by orgs: a call through a shared one is held to them.
    fn file_ids(&self, raw: &[u8]) -> Vec<String> {
        let _ = raw;
        Vec::new()
    }

    /// Puts a ticket in place of the path in the answer to a lookup of a file, where such a path alone would fetch any file.
    ///
    /// # Errors
    /// When the answer is not what was asked for, so that nothing of it may be passed on.
    fn with_ticket(&self, body: &[u8], ticket: &str) -> Result<Vec<u8>, ReasonCode> {
        let _ = (body, ticket);
        Err(ReasonCode::EgressNotFound)
    }

    /// A refusal in the shape that the SDK raises as its own error: status and body.
    fn refusal(&self, refused: &Refused<'_>) -> (u16, Value);
}

/// Tells a call apart, and lets through only one that writes each conversation in the provider's one form.
///
/// # Errors
/// [`Untold`]
pub fn tell(kind: ProviderKind, asked: &Asked<'_>, account: &ExternalAccount) -> Result<Told, Untold> {
    let (told, provider) = (of(kind).tell(asked, account)?, super::of(kind));
    if told.named().any(|(conversation, _)| !provider.is_conversation(conversation)) {
        return Err(Untold { code: ReasonCode::EgressConversationForm, detail: provider.conversation_form() });
    }
    Ok(told)
}

/// The SDKs of a provider.
pub fn of(kind: ProviderKind) -> &'static dyn Sdk {
    match kind {
        ProviderKind::Slack => &slack::Slack,
        ProviderKind::Telegram => &telegram::Telegram,
        ProviderKind::WhatsApp => &whatsapp::WhatsApp,
    }
}

/// A ticket in place of a file's path is longer than any name.
const SEGMENT_CHARS_MAX: usize = 1024;

/// Whether a part of a path may be passed on: it neither ends a path nor leaves it.
pub(super) fn is_segment(part: &str) -> bool {
    (1..=SEGMENT_CHARS_MAX).contains(&part.len())
        && !matches!(part, "." | "..")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Reads every part of a path; `None` when one is not fit.
pub(super) fn segments(path: &str) -> Option<Vec<&str>> {
    let parts: Vec<&str> = path.split('/').collect();
    parts.iter().all(|part| is_segment(part)).then_some(parts)
}

/// The request, with its query and body; bearer token where the provider wants it there.
pub(super) fn request(http: &Method, mut url: String, written: &Written, bearer: Option<&Secret>) -> WireRequest {
    if !written.query.is_empty() {
        url.push('?');
        url.push_str(&written.query);
    }
    let mut headers = Vec::with_capacity(2);
    headers.extend(written.media_type.clone().map(|media_type| ("content-type", Secret::new(media_type))));
    headers.extend(bearer.map(|token| ("authorization", Secret::new(format!("Bearer {}", token.expose())))));
    WireRequest { method: http.clone(), url: Secret::new(url), headers, body: written.body.clone() }
}

/// The receipt of an answer that says no message id: what a 2xx without an error means is up to the provider.
pub(super) fn plain_receipt(kind: ProviderKind, response: &WireResponse) -> SendReceipt {
    super::of(kind).read_receipt(response)
}

#[cfg(test)]
mod tests;
