//! WhatsApp Cloud API: signed notification batches and Meta's GET handshake in, `/messages` out. Floor 2.

mod body;
mod sdk;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use http::header::HeaderName;
use serde_json::{Map, Value, json};

use super::{
    Claim, EdgeLimits, Inspected, Limit, Parsed, Provider, Sample, Shared, SignatureValid, SigningSecrets, error_word, get, json_post,
    lay_over, printable, tagged_digest, text_to_send, within,
};
use crate::crypto::{MacKey, same_text};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::lifecycle::LifecycleNews;
use crate::domain::message::{InboundEvent, OutboundMessage, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::methods::find;
use crate::wire::{RequestHead, WireRequest, WireResponse};

/// <https://developers.facebook.com/docs/graph-api/webhooks/getting-started>
const SIGNATURE: &str = "x-hub-signature-256";
const SCHEME: &str = "sha256";
/// The SHA-1 header of before; may still come along and proves nothing.
const SIGNATURE_OLD: HeaderName = HeaderName::from_static("x-hub-signature");

const JSON: &str = "application/json";
/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/overview>: payloads of up to 3 MB.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;
/// Meta sends a number; an echo of more than this could be somebody's page.
const CHALLENGE_CHARS_MAX: usize = 256;

/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/text-messages>
const TEXT_CHARS_MAX: usize = 4096;
/// To whom a message goes, by which token, and what would turn a message into a read receipt.
const RESERVED: &[&str] =
    &["messaging_product", "recipient_type", "to", "recipient", "access_token", "appsecret_proof", "token", "status", "message_id"];

/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes>
mod codes {
    pub(super) fn credential_dead(code: i64) -> bool {
        matches!(code, 0 | 3 | 10 | 190 | 200..=299 | 131_005)
    }
    pub(super) fn rate_limited(code: i64) -> bool {
        matches!(code, 4 | 80_007 | 130_429 | 131_048 | 131_056 | 131_064 | 133_016)
    }
    pub(super) fn unavailable(code: i64) -> bool {
        matches!(code, 1 | 2 | 131_000 | 131_016 | 131_057)
    }
}

/// WhatsApp Cloud API.
pub struct WhatsApp;

/// <https://developers.facebook.com/docs/whatsapp/cloud-api/overview#throughput>: eighty a second for a number, one in six
/// seconds to a person; forty-five of those may be borrowed.
const MESSAGES: &[Limit] = &[Limit::new(Shared::Installation, 80, 1_000, 80), Limit::new(Shared::Conversation, 1, 6_000, 45)];

impl Provider for WhatsApp {
    fn kind(&self) -> ProviderKind {
        ProviderKind::WhatsApp
    }

    fn edge(&self) -> EdgeLimits {
        EdgeLimits {
            body_bytes_max: BODY_BYTES_MAX,
            media_types: &[JSON],
            dedupe_kept_ms: 8 * 24 * 3_600_000,
            dedupe_is_personal: true,
            signs_time: false,
        }
    }

    fn secret_chars_min(&self) -> usize {
        16
    }

    fn secret_form(&self, secret: &str) -> bool {
        printable(secret)
    }

    fn credential_fits(&self, credential: &str, account: &ExternalAccount) -> bool {
        printable(credential) && matches!(account, ExternalAccount::WhatsApp { .. })
    }

    // No time window: nothing signed says when, and Meta retries for days.
    fn inspect(&self, head: &RequestHead, _: &SigningSecrets, _: Timestamp) -> Result<Inspected, ReasonCode> {
        let old_only = head.headers.contains_key(SIGNATURE_OLD);
        let absent = if old_only { ReasonCode::AuthnSignatureScheme } else { ReasonCode::AuthnSignatureMissing };
        let digest = tagged_digest(head.only(SIGNATURE, absent)?, SCHEME)?;
        Ok(Inspected(Claim::Mac { prefix: Vec::new(), digest }))
    }

    fn has_get_handshake(&self) -> bool {
        true
    }

    /// <https://developers.facebook.com/docs/graph-api/webhooks/getting-started>
    fn handshake(&self, query: &str, verify_token: Option<&Secret>) -> Result<String, ReasonCode> {
        let refused = ReasonCode::AuthnVerifyTokenMismatch;
        let only = |name: &str| {
            let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(n, _)| n == name).map(|(_, value)| value);
            values.next().filter(|_| values.next().is_none() || !stands(Guard::VerifyTokenOnce)).ok_or(refused)
        };
        let ours = verify_token.filter(|token| !token.expose().trim().is_empty()).ok_or(refused)?;
        let (mode, token, challenge) = (only("hub.mode")?, only("hub.verify_token")?, only("hub.challenge")?);
        // The caller chooses the challenge and we answer with it: nothing that a browser could take for more than a word.
        let echoable = (1..=CHALLENGE_CHARS_MAX).contains(&challenge.len())
            && challenge.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        let knows = same_text(ours.expose().as_bytes(), token.as_bytes()) || !stands(Guard::VerifyToken);
        if knows && mode == "subscribe" && echoable { Ok(challenge.into_owned()) } else { Err(refused) }
    }

    fn parse(&self, _: &SignatureValid, head: &RequestHead, body: &Bytes) -> Result<Parsed, ReasonCode> {
        if body.is_empty() && stands(Guard::BodyThere) {
            return Err(ReasonCode::IngressPayloadMalformed);
        }
        if head.media_type() != JSON {
            return Err(ReasonCode::IngressMediaType);
        }
        body::read(body).map(Parsed::Events)
    }

    fn lifecycle(&self, event: &InboundEvent) -> Option<LifecycleNews> {
        body::news(event)
    }

    fn send_method(&self) -> &'static str {
        "messages"
    }

    fn limits(&self, method: &str, _: Option<&str>) -> &'static [Limit] {
        if method == "messages" { MESSAGES } else { &[] }
    }

    fn render(
        &self,
        message: &OutboundMessage,
        account: &ExternalAccount,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode> {
        let text = text_to_send(message, TEXT_CHARS_MAX)?;
        let ExternalAccount::WhatsApp { phone_number_id, .. } = account else { return Err(ReasonCode::EgressMessageInvalid) };
        // It becomes part of the path.
        let fit = !phone_number_id.is_empty() && phone_number_id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if message.conversation.is_empty() || !fit {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        let destination = if is_user_id(&message.conversation) { "recipient" } else { "to" };
        let mut fields = Map::new();
        fields.insert("messaging_product".into(), "whatsapp".into());
        fields.insert("recipient_type".into(), "individual".into());
        fields.insert(destination.into(), message.conversation.as_str().into());
        if let Some(text) = text {
            fields.insert("type".into(), "text".into());
            fields.insert("text".into(), json!({"body": text}));
        }
        lay_over(&mut fields, message, RESERVED, &sdk::WHO, find(sdk::METHODS, self.send_method()))?;
        within(fields.get("text").and_then(|t| t.get("body")).and_then(Value::as_str), TEXT_CHARS_MAX)?;
        json_post(format!("{}/{phone_number_id}/messages", api_base.trim_end_matches('/')), Some(credential), fields)
    }

    /// <https://developers.facebook.com/docs/graph-api/guides/error-handling>
    fn read_receipt(&self, response: &WireResponse) -> SendReceipt {
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let fault = answer.get("error");
        let code = fault.and_then(|e| e.get("code")).and_then(Value::as_i64);
        let error = match (code, fault.and_then(|e| e.get("message")).and_then(Value::as_str)) {
            // "Malformed access token …" repeats the token.
            (Some(code), _) if codes::credential_dead(code) => code.to_string(),
            (Some(code), Some(message)) => error_word(&format!("{code} {message}")),
            (Some(code), None) => code.to_string(),
            (None, _) => format!("http {}", response.status),
        };
        let transient = fault.and_then(|e| e.get("is_transient")) == Some(&Value::Bool(true));
        match (response.status, code) {
            (_, Some(c)) if codes::rate_limited(c) => SendReceipt::RateLimited { retry_after_s: response.retry_after_s(), error },
            (_, Some(c)) if codes::credential_dead(c) && !transient => SendReceipt::CredentialDead { error },
            (429, _) => SendReceipt::RateLimited { retry_after_s: response.retry_after_s(), error },
            (_, Some(c)) if codes::unavailable(c) || transient => SendReceipt::Unavailable { error },
            (500.., _) => SendReceipt::Unavailable { error },
            (401, None) => SendReceipt::CredentialDead { error },
            (200..=299, None) => {
                let id = answer.get("messages").and_then(|m| m.get(0)).and_then(|m| m.get("id")).and_then(Value::as_str);
                match id {
                    Some(id) => SendReceipt::Sent { provider_message_id: id.to_owned() },
                    None => SendReceipt::Unknown { error: "unreadable answer".to_owned() },
                }
            }
            _ => SendReceipt::Rejected { error },
        }
    }

    /// <https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media>
    fn is_conversation(&self, text: &str) -> bool {
        is_phone(text) || is_user_id(text) || is_group(text)
    }

    fn conversation_form(&self) -> &'static str {
        CONVERSATION_FORM
    }

    fn file_hosts(&self) -> &'static [&'static str] {
        &["lookaside.fbsbx.com"]
    }

    fn file_method(&self) -> &'static str {
        "media"
    }

    /// The number goes along, so that Meta refuses files that were sent to another one of the same token.
    fn file_lookup(&self, file: &str, account: &ExternalAccount, credential: &Secret, api_base: &str) -> Result<WireRequest, ReasonCode> {
        let ExternalAccount::WhatsApp { phone_number_id, .. } = account else { return Err(ReasonCode::EgressNotFound) };
        let fit = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let url = format!("{}/{file}?phone_number_id={phone_number_id}", api_base.trim_end_matches('/'));
        if fit(file) && fit(phone_number_id) { Ok(get(url, Some(credential))) } else { Err(ReasonCode::EgressNotFound) }
    }

    fn file_request(&self, answer: &WireResponse, credential: &Secret, _: &str) -> Result<WireRequest, ReasonCode> {
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let url = answer.get("url").and_then(Value::as_str);
        url.map(|url| get(url.to_owned(), Some(credential))).ok_or(ReasonCode::EgressProviderRejected)
    }

    fn sample_kinds(&self) -> &'static [&'static str] {
        &["message", "interaction", "status", "batch", "uninstalled"]
    }

    fn sample(&self, sample: &Sample<'_>) -> Option<(Vec<u8>, &'static str)> {
        let ExternalAccount::WhatsApp { waba_id, phone_number_id } = sample.account else { return None };
        let timestamp = sample.now.secs().to_string();
        let metadata = json!({"display_phone_number": "15550100001", "phone_number_id": phone_number_id});
        let by_user_id = is_user_id(sample.conversation);
        let user_id = if by_user_id { sample.conversation.to_owned() } else { format!("US.{}", sample.conversation) };
        let mut contact = json!({"profile": {"name": "Simulated"}, "user_id": user_id});
        if !by_user_id {
            contact.as_object_mut()?.insert("wa_id".into(), sample.conversation.into());
        }
        let message = |part: u32, kind: &str, content: Value| {
            let mut said = json!({"from_user_id": user_id, "id": format!("wamid.SIM{:020}{part}", sample.nonce),
                "timestamp": timestamp, "type": kind});
            if let Some(fields) = said.as_object_mut() {
                fields.insert(kind.to_owned(), content);
                if !by_user_id {
                    fields.insert("from".into(), sample.conversation.into());
                }
            }
            said
        };
        let text = |part: u32| message(part, "text", json!({"body": sample.text}));
        let change = |name: &str, items: Value| {
            let mut value = json!({"messaging_product": "whatsapp", "metadata": metadata, "contacts": [contact]});
            if let Some(fields) = value.as_object_mut() {
                fields.insert(name.to_owned(), items);
            }
            json!({"value": value, "field": "messages"})
        };
        let change = match sample.kind {
            "message" => change("messages", json!([text(0)])),
            "batch" => change("messages", json!([text(0), text(1)])),
            "interaction" => {
                let chosen = json!({"type": "button_reply", "button_reply": {"id": sample.text, "title": "Yes"}});
                change("messages", json!([message(0, "interactive", chosen)]))
            }
            "status" => {
                let recipient = if by_user_id { "recipient_user_id" } else { "recipient_id" };
                let status = json!({"id": format!("wamid.SIM{:020}0", sample.nonce), "status": "delivered", "timestamp": timestamp,
                    recipient: sample.conversation});
                change("statuses", json!([status]))
            }
            "uninstalled" => {
                json!({"value": {"event": "PARTNER_APP_UNINSTALLED", "waba_info": {"waba_id": waba_id}}, "field": "account_update"})
            }
            _ => return None,
        };
        let body = json!({"object": body::OBJECT, "entry": [{"id": waba_id, "time": sample.now.secs(), "changes": [change]}]});
        Some((serde_json::to_vec(&body).ok()?, JSON))
    }

    fn sign(&self, body: &[u8], secret: &Secret, _: Timestamp) -> Vec<(&'static str, String)> {
        let Some(key) = MacKey::new(secret.expose().as_bytes()) else { return Vec::new() };
        vec![(SIGNATURE, format!("{SCHEME}={}", hex::encode(key.sign(&[body]))))]
    }
}

const CONVERSATION_FORM: &str = "a WhatsApp conversation is written as a phone number in digits with the country code, as in 15550001, without plus, blanks or \
     leading zeros; as a user's id, as in US.13, which an SDK sends in `recipient`; or as a group's id, with `recipient_type` group";

/// A phone number as Meta writes it in events: E.164 without the plus.
fn is_phone(text: &str) -> bool {
    (1..=15).contains(&text.len()) && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit())
}

/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids>: a country's two
/// letters, a dot and the id.
fn is_user_id(text: &str) -> bool {
    let fit = |id: &str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    text.split_once('.').is_some_and(|(country, id)| country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase()) && fit(id))
}

/// A group's id: base64 with letters in it, so that it is no phone number.
fn is_group(text: &str) -> bool {
    let (letters, padding) = text.split_at(text.trim_end_matches('=').len());
    let fit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    padding.len() <= 2 && (8..=256).contains(&letters.len()) && letters.bytes().all(fit) && letters.bytes().any(|b| b.is_ascii_alphabetic())
}
