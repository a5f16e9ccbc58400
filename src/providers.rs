//! What messaging providers are like. One file each; everything else knows only [`ProviderKind`] as data.
//!
//! Owns header names, windows, signatures, body shapes, rendering and receipts. Never waits, never does I/O, never
//! decides: bytes in, values out. Floor 2.

mod methods;
pub mod sdk;
pub mod slack;
pub mod telegram;
pub mod whatsapp;
mod who;

#[cfg(test)]
mod conformance;

use std::ops::Range;

use bytes::Bytes;
use http::Method;
use serde_json::{Map, Value};

use crate::crypto::MacKey;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::{AnswerKind, ExternalAccount, ProviderKind};
use crate::domain::lifecycle::LifecycleNews;
use crate::domain::message::{InboundEvent, OutboundMessage, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::wire::json::Json;
use crate::wire::{Payload, RequestHead, WireRequest, WireResponse};

/// Which of a profile's secrets a signature was made with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SecretSlot {
    /// The secret in force.
    Current,
    /// The one before it, while their overlap lasts.
    Previous,
}

impl SecretSlot {
    /// The word in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
        }
    }
}

/// One opened signing secret, keyed. Cannot be made of nothing.
#[derive(Debug)]
pub struct SigningSecret {
    slot: SecretSlot,
    text: Secret,
    key: MacKey,
}

impl SigningSecret {
    /// Keys the secret; `None` when it is blank.
    pub fn new(slot: SecretSlot, text: Secret) -> Option<Self> {
        if text.expose().trim().is_empty() {
            return None;
        }
        let key = MacKey::new(text.expose().as_bytes())?;
        Some(Self { slot, text, key })
    }
}

/// The secrets that may verify now: current first. Never empty.
#[derive(Debug)]
pub struct SigningSecrets(Vec<SigningSecret>);

impl SigningSecrets {
    /// Takes the candidates; `None` when there are none.
    pub fn new(candidates: Vec<SigningSecret>) -> Option<Self> {
        if candidates.is_empty() && stands(Guard::SecretsThere) { None } else { Some(Self(candidates)) }
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first candidate whose MAC over the parts is `digest`.
    fn matching_mac(&self, parts: &[&[u8]], digest: &[u8; 32]) -> Option<SecretSlot> {
        self.0.iter().find(|s| s.key.verify(parts, digest)).map(|s| s.slot)
    }

    /// The first candidate that is `text`, compared by fixed-length digests.
    fn matching_text(&self, text: &[u8]) -> Option<SecretSlot> {
        self.0.iter().find(|s| crate::crypto::same_text(s.text.expose().as_bytes(), text)).map(|s| s.slot)
    }
}

/// The headers passed: what is left to prove is the body.
#[derive(Debug)]
pub struct Inspected(Claim);

#[derive(Debug)]
enum Claim {
    /// A MAC over `prefix` and then the body.
    Mac { prefix: Vec<u8>, digest: [u8; 32] },
    /// The provider proves itself by a header alone.
    Proven(SecretSlot),
}

/// The request was made by somebody who holds the profile's secret. Created only in this module.
#[derive(Debug)]
pub struct SignatureValid {
    slot: SecretSlot,
}

impl SignatureValid {
    /// Which secret it was.
    pub fn slot(&self) -> SecretSlot {
        self.slot
    }

    /// A proof out of thin air, for unit tests of what comes behind the proof.
    #[cfg(test)]
    pub(crate) fn assertion() -> Self {
        Self { slot: SecretSlot::Current }
    }
}

impl Inspected {
    /// Proves the body.
    ///
    /// # Errors
    /// [`ReasonCode::AuthnSignatureMismatch`]
    pub fn prove(self, body: &[u8], secrets: &SigningSecrets) -> Result<SignatureValid, ReasonCode> {
        match self.0 {
            Claim::Mac { prefix, digest } => secrets
                .matching_mac(&[&prefix, body], &digest)
                .or((!stands(Guard::SignatureCompared)).then_some(SecretSlot::Current))
                .map(|slot| SignatureValid { slot })
                .ok_or(ReasonCode::AuthnSignatureMismatch),
            Claim::Proven(slot) => Ok(SignatureValid { slot }),
        }
    }
}

/// What a proved body was.
#[derive(Debug)]
pub enum Parsed {
    /// The provider checks the address: answer with this text, nothing is stored.
    Handshake(String),
    /// Events, one or many; none is an authentic body that says nothing.
    Events(Vec<InboundEvent>),
}

/// What the edge lets through before anything is looked at.
#[derive(Clone, Copy, Debug)]
pub struct EdgeLimits {
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// The media types the provider sends.
    pub media_types: &'static [&'static str],
    /// How long the provider may repeat an event, in milliseconds: a repeat within it is recognised.
    pub dedupe_kept_ms: i64,
    /// Whether the provider's event ids hold ids of persons.
    pub dedupe_is_personal: bool,
    /// Whether the proof covers a timestamp.
    pub signs_time: bool,
}

/// An address in an event's bytes that works without a token.
#[derive(Debug)]
pub struct ReplyAddress {
    /// Where it stands, as it is encoded there.
    pub at: Range<usize>,
    /// What it is.
    pub url: Secret,
    /// The conversation it posts to, where the bytes around it say so.
    pub conversation: Option<String>,
}

/// Places in an event's bytes with which an agent could go around the gateway, each list in the order of the bytes.
#[derive(Debug, Default)]
pub struct ReplyAddresses {
    /// Addresses that work without a token and that an agent may get a link for.
    pub linked: Vec<ReplyAddress>,
    /// The places of further addresses, and of the provider's tokens, which no agent sees.
    pub withheld: Vec<Range<usize>>,
}

/// What a provider counts calls by, within one installation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shared {
    /// All of them.
    Installation,
    /// Those of one method.
    Method,
    /// Those to one conversation, where the call has one.
    Conversation,
}

/// How many calls a provider takes: `count` in `per_ms`, and `burst` at once after a rest.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Counted by.
    pub shared: Shared,
    /// So many.
    pub count: u32,
    /// In so many milliseconds.
    pub per_ms: u32,
    /// At once.
    pub burst: u32,
}

impl Limit {
    const fn new(shared: Shared, count: u32, per_ms: u32, burst: u32) -> Self {
        Self { shared, count, per_ms, burst }
    }
}

/// What to make up for `byoa simulate` and the demo.
#[derive(Clone, Debug)]
pub struct Sample<'a> {
    /// `message`, or one of the provider's other [`Provider::sample_kinds`].
    pub kind: &'a str,
    /// The installation's account.
    pub account: &'a ExternalAccount,
    /// The profile's app id.
    pub app_id: Option<&'a str>,
    /// Where it is said.
    pub conversation: &'a str,
    /// What is said.
    pub text: &'a str,
    /// Makes the event's id unique.
    pub nonce: u64,
    /// When.
    pub now: Timestamp,
}

/// A profile's OAuth client, opened.
pub struct OauthClient<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its secret.
    pub secret: &'a Secret,
}

/// What became of a refresh.
pub enum Refresh {
    /// A new pair; the old one is spent.
    Pair {
        /// What to send with.
        credential: Secret,
        /// What the next refresh takes.
        refresh_token: Secret,
        /// How long the credential lives, in seconds.
        expires_in_s: Option<i64>,
    },
    /// A final no.
    Refused {
        /// The provider's word.
        error: String,
    },
    /// The provider is in trouble.
    Trouble {
        /// The provider's word or the status.
        error: String,
    },
}

/// Everything the gateway needs to know of one provider.
pub trait Provider: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> ProviderKind;

    /// The version of the verification rules below; grows when a profile must be saved again to be trusted.
    fn verifier(&self) -> u16 {
        1
    }

    /// What the edge lets through.
    fn edge(&self) -> EdgeLimits;

    /// Characters a signing secret must have at least.
    fn secret_chars_min(&self) -> usize;

    /// Whether the secret is of the form the provider gives out or accepts.
    fn secret_form(&self, secret: &str) -> bool;

    /// Whether a credential can belong to the account: form and, where the credential says it, identity.
    fn credential_fits(&self, credential: &str, account: &ExternalAccount) -> bool;

    /// Looks at the headers alone, so that a body without proof is not even read where that can be told.
    ///
    /// # Errors
    /// An `authn.*` code.
    fn inspect(&self, head: &RequestHead, secrets: &SigningSecrets, now: Timestamp) -> Result<Inspected, ReasonCode>;

    /// Whether a profile has a verify token for a GET handshake.
    fn has_get_handshake(&self) -> bool {
        false
    }

    /// Answers a GET handshake with the challenge.
    ///
    /// # Errors
    /// [`ReasonCode::IngressMethod`] where there is none, [`ReasonCode::AuthnVerifyTokenMismatch`].
    fn handshake(&self, query: &str, verify_token: Option<&Secret>) -> Result<String, ReasonCode> {
        let _ = (query, verify_token);
        Err(ReasonCode::IngressMethod)
    }

    /// True where events name the app that they were sent to.
    fn names_app(&self) -> bool {
        false
    }

    /// Reads a proved body.
    ///
    /// # Errors
    /// An `ingress.*` or `authn.identity_*` code.
    fn parse(&self, proof: &SignatureValid, head: &RequestHead, body: &Bytes) -> Result<Parsed, ReasonCode>;

    /// The provider's own JSON of an event for an agent, without the bearer secrets in it. Everything else is as it came, so
    /// that numbers of any length and form arrive. `None` when the bytes cannot be read.
    fn raw_for_agent(&self, raw: &[u8], media_type: &str) -> Option<String> {
        let _ = media_type;
        std::str::from_utf8(raw).ok().map(str::to_owned)
    }

    /// The addresses in an event's own bytes to which anybody who has them may post in the app's name.
    ///
    /// # Errors
    /// [`ReasonCode::StoreCorrupt`] when the bytes cannot be read any more.
    fn reply_addresses(&self, raw: &[u8], media_type: &str) -> Result<ReplyAddresses, ReasonCode> {
        let _ = (raw, media_type);
        Ok(ReplyAddresses::default())
    }

    /// A text as it stands in a place of [`Provider::reply_addresses`].
    fn as_reply_address(&self, text: &str, media_type: &str) -> String {
        let _ = media_type;
        text.to_owned()
    }

    /// A post to one of them.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] when it is not the provider's address, or the body is none for it.
    fn reply(&self, address: &Secret, body: &Bytes, api_base: &str) -> Result<WireRequest, ReasonCode> {
        let _ = (address, body, api_base);
        Err(ReasonCode::EgressMessageInvalid)
    }

    /// Reads what the provider answered to it.
    fn read_reply(&self, response: &WireResponse) -> SendReceipt {
        self.read_receipt(response)
    }

    /// What the provider says with its own repeats, said with the gateway's; `repeat` is 1 for the first.
    fn repeat_headers(&self, repeat: i64) -> Vec<(&'static str, String)> {
        let _ = repeat;
        Vec::new()
    }

    /// What the provider waits for, where it waits for an answer to this event. By default it never does: Telegram would
    /// execute one.
    fn answer_kind(&self, event: &InboundEvent) -> Option<AnswerKind> {
        let _ = event;
        None
    }

    /// An agent's answer as the provider may get it: built anew from what was read, `None` when it is not of the kind's form.
    fn answer(&self, kind: AnswerKind, body: &[u8]) -> Option<Vec<u8>> {
        let _ = (kind, body);
        None
    }

    /// What an event says of the installation that it is bound to; most say nothing.
    fn lifecycle(&self, event: &InboundEvent) -> Option<LifecycleNews>;

    /// Whether its credentials can expire and be refreshed.
    fn refreshes(&self) -> bool {
        false
    }

    /// Builds the request that trades a refresh token for a new pair; `None` where there is no such thing.
    fn render_refresh(&self, client: &OauthClient<'_>, refresh_token: &Secret, api_base: &str) -> Option<WireRequest> {
        let _ = (client, refresh_token, api_base);
        None
    }

    /// Reads the answer to it; a pair of another account or app is refused.
    fn read_refresh(&self, response: &WireResponse, account: &ExternalAccount, app_id: Option<&str>) -> Refresh {
        let _ = (response, account, app_id);
        Refresh::Refused { error: "there is nothing to refresh".to_owned() }
    }

    /// Whether an answer says that the credential expired, and nothing else is wrong with it: nothing was done then.
    fn says_expired(&self, response: &WireResponse) -> bool {
        let _ = response;
        false
    }

    /// The provider's name of what [`Provider::render`] calls, as in `chat.postMessage`.
    fn send_method(&self) -> &'static str;

    /// How often a method may be called. What is not said here the provider says itself, with a 429.
    fn limits(&self, method: &str, conversation: Option<&str>) -> &'static [Limit];

    /// Builds the provider's send request.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`]
    fn render(
        &self,
        message: &OutboundMessage,
        account: &ExternalAccount,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode>;

    /// Reads what the provider answered to it.
    fn read_receipt(&self, response: &WireResponse) -> SendReceipt;

    /// True for a conversation's id in the one form that the gateway takes: another spelling of the same place would be another
    /// place to the policies.
    fn is_conversation(&self, text: &str) -> bool;

    /// That form, in words for whoever wrote another.
    fn conversation_form(&self) -> &'static str;

    /// Hosts that hold the provider's files, besides the one of its API: where a credential may go to fetch one.
    fn file_hosts(&self) -> &'static [&'static str];

    /// The provider's name of what [`Provider::file_lookup`] calls, as in `files.info`.
    fn file_method(&self) -> &'static str;

    /// Asks where a file is.
    ///
    /// # Errors
    /// [`ReasonCode::EgressNotFound`] for an id that is none of the provider's.
    fn file_lookup(&self, file: &str, account: &ExternalAccount, credential: &Secret, api_base: &str) -> Result<WireRequest, ReasonCode>;

    /// The request for the file itself, from the answer to [`Provider::file_lookup`]. Whether a credential may go where the
    /// answer points is not decided here.
    ///
    /// # Errors
    /// [`ReasonCode::EgressProviderRejected`] when the answer names no file.
    fn file_request(&self, answer: &WireResponse, credential: &Secret, api_base: &str) -> Result<WireRequest, ReasonCode>;

    /// The kinds [`Provider::sample`] can make up.
    fn sample_kinds(&self) -> &'static [&'static str];

    /// Makes up a body as the provider would send it: bytes and media type. `None` for an unknown kind.
    fn sample(&self, sample: &Sample<'_>) -> Option<(Vec<u8>, &'static str)>;

    /// Signs a body as the provider does; the headers to add.
    fn sign(&self, body: &[u8], secret: &Secret, now: Timestamp) -> Vec<(&'static str, String)>;
}

/// The provider of a kind.
pub fn of(kind: ProviderKind) -> &'static dyn Provider {
    match kind {
        ProviderKind::Slack => &slack::Slack,
        ProviderKind::Telegram => &telegram::Telegram,
        ProviderKind::WhatsApp => &whatsapp::WhatsApp,
    }
}

/// An identifier from a body, fit to be stored and compared: at most 512 bytes, no control characters.
///
/// # Errors
/// [`ReasonCode::AuthnIdentityInvalid`]
pub(crate) fn fit_id(id: String) -> Result<String, ReasonCode> {
    let fit = id.len() <= 512 && !id.chars().any(char::is_control);
    if !fit && stands(Guard::IdFit) { Err(ReasonCode::AuthnIdentityInvalid) } else { Ok(id) }
}

/// An identifier that must be a text where it is given: absent and `null` are the same, anything else is no identity.
///
/// # Errors
/// [`ReasonCode::AuthnIdentityMissing`], [`ReasonCode::AuthnIdentityInvalid`]
fn text_id(value: &Json<'_>) -> Result<Option<String>, ReasonCode> {
    match value {
        Json::Null => Ok(None),
        Json::Str(text) if !text.is_empty() => fit_id(text.to_string()).map(Some),
        other if !stands(Guard::IdIsText) => Ok(other.id()),
        _ => Err(ReasonCode::AuthnIdentityMissing),
    }
}

/// Reads a signature header of the form `tag=` and 64 lower-case hex digits. A value that names another scheme is told
/// apart from one that names none.
fn tagged_digest(value: &[u8], tag: &str) -> Result<[u8; 32], ReasonCode> {
    let mut parts = value.splitn(2, |b| *b == b'=');
    let said = parts.next().unwrap_or_default();
    let digest = parts.next().ok_or(ReasonCode::AuthnSignatureMalformed)?;
    if said == tag.as_bytes() || !stands(Guard::SchemeTag) {
        let read = crate::crypto::digest_from_hex(digest).or((!stands(Guard::DigestShape)).then_some([0; 32]));
        return read.ok_or(ReasonCode::AuthnSignatureMalformed);
    }
    let is_scheme = (1..=16).contains(&said.len()) && said.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    Err(if is_scheme { ReasonCode::AuthnSignatureScheme } else { ReasonCode::AuthnSignatureMalformed })
}

/// Whether a secret is something that can be copied out of a dashboard and put into a header.
fn printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())
}

/// The first 32 hex digits of the SHA-256: the identity of what the provider gave none.
fn digest_id(bytes: &[u8]) -> String {
    let mut text = hex::encode(crate::crypto::sha256(bytes));
    text.truncate(32);
    text
}

/// A provider's error text, fit for records: short, on one line, and without anything that may be a credential, because
/// some providers (and proxies in between) repeat the token or the address it stands in.
fn error_word(text: &str) -> String {
    let tokenish = |word: &str| {
        let digits_then_colon = word
            .split(':')
            .next()
            .is_some_and(|head| head.len() < word.len() && head.len() >= 5 && head.bytes().rev().take(5).all(|b| b.is_ascii_digit()));
        let long_mixed = word.len() >= 20 && word.bytes().any(|b| b.is_ascii_digit()) && word.bytes().any(|b| b.is_ascii_alphabetic());
        digits_then_colon || long_mixed || word.contains("xox") || word.starts_with("EAA")
    };
    let words: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .map(|word| if tokenish(word) { "[withheld]" } else { word })
        .collect();
    words.join(" ").chars().take(200).collect()
}

/// The text of a message, where it has one, within the provider's limit.
///
/// # Errors
/// [`ReasonCode::EgressMessageInvalid`] when it is too long, or when there is neither text nor native content.
fn text_to_send(message: &OutboundMessage, chars_max: usize) -> Result<Option<&str>, ReasonCode> {
    let text = message.text.as_deref().filter(|text| !text.trim().is_empty());
    let native = message.native.as_ref().is_some_and(|fields| !fields.is_empty());
    if text.is_none() && !native && stands(Guard::SomethingToSay) {
        return Err(ReasonCode::EgressMessageInvalid);
    }
    within(text, chars_max)?;
    Ok(text)
}

/// # Errors
/// [`ReasonCode::EgressMessageInvalid`] when the text has more characters than the provider takes.
fn within(text: Option<&str>, chars_max: usize) -> Result<(), ReasonCode> {
    if text.is_some_and(|text| text.chars().count() > chars_max) { Err(ReasonCode::EgressMessageInvalid) } else { Ok(()) }
}

/// Lays an agent's native fields over ours, for the method of `entry`. Where a message goes and in whose name is decided
/// before; a native field that says so too, or that holds it, would go around that decision.
///
/// # Errors
/// [`ReasonCode::EgressMessageInvalid`] for such a field, [`ReasonCode::EgressFileAddress`] for a `file:` address.
fn lay_over(
    ours: &mut Map<String, Value>,
    message: &OutboundMessage,
    reserved: &[&str],
    who: &who::Who,
    entry: Option<&methods::Entry>,
) -> Result<(), ReasonCode> {
    who::check_fields(who, entry.ok_or(ReasonCode::EgressMessageInvalid)?, message.native.as_ref().unwrap_or(&Map::new()))?;
    for (name, value) in message.native.iter().flatten() {
        if reserved.contains(&name.as_str()) && stands(Guard::ReservedFields) {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        ours.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// A GET, with the credential as bearer token where the provider wants it there.
fn get(url: String, bearer: Option<&Secret>) -> WireRequest {
    let headers = bearer.map(|token| ("authorization", Secret::new(format!("Bearer {}", token.expose()))));
    WireRequest { method: Method::GET, url: Secret::new(url), headers: headers.into_iter().collect(), body: Payload::default() }
}

/// A JSON POST, with the credential as bearer token where the provider wants it there.
///
/// # Errors
/// [`ReasonCode::EgressMessageInvalid`]
fn json_post(url: String, bearer: Option<&Secret>, fields: Map<String, Value>) -> Result<WireRequest, ReasonCode> {
    let body = serde_json::to_vec(&Value::Object(fields)).map_err(|_| ReasonCode::EgressMessageInvalid)?;
    let mut headers = vec![("content-type", Secret::new("application/json; charset=utf-8".to_owned()))];
    if let Some(token) = bearer {
        headers.push(("authorization", Secret::new(format!("Bearer {}", token.expose()))));
    }
    Ok(WireRequest { method: Method::POST, url: Secret::new(url), headers, body: body.into() })
}
