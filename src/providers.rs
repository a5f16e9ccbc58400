//! What messaging providers are like. One file each; everything else knows only [`ProviderKind`] as data.
//!
//! Owns header names, windows, signatures, body shapes, rendering and receipts. Never waits, never does I/O, never
//! decides: bytes in, values out. Floor 2.

pub mod slack;
pub mod telegram;
pub mod whatsapp;

use bytes::Bytes;

use crate::crypto::MacKey;
use crate::domain::clock::Timestamp;
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{InboundEvent, OutboundMessage, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::wire::{RequestHead, WireRequest, WireResponse};

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
        if candidates.is_empty() { None } else { Some(Self(candidates)) }
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

    /// Reads a proved body.
    ///
    /// # Errors
    /// An `ingress.*` or `authn.identity_*` code.
    fn parse(&self, proof: &SignatureValid, head: &RequestHead, body: &Bytes) -> Result<Parsed, ReasonCode>;

    /// The provider's own JSON of an event for an agent, without the bearer secrets it may hold.
    fn raw_for_agent(&self, raw: &[u8], media_type: &str) -> serde_json::Value;

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
    if id.len() > 512 || id.chars().any(char::is_control) { Err(ReasonCode::AuthnIdentityInvalid) } else { Ok(id) }
}
