//! Telegram's Bot API: updates in, `sendMessage` out. The path alone names the bot. Floor 2.

mod body;
mod files;
pub(super) mod methods;
mod sdk;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    Claim, EdgeLimits, Inspected, Limit, Parsed, Provider, Sample, SecretSlot, Shared, SignatureValid, SigningSecrets, error_word, get,
    json_post, lay_over, text_to_send, within,
};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::lifecycle::LifecycleNews;
use crate::domain::message::{InboundEvent, OutboundMessage, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::methods::find;
use crate::wire::{RequestHead, WireRequest, WireResponse};

/// <https://core.telegram.org/bots/api#setwebhook>
const SECRET_TOKEN: &str = "x-telegram-bot-api-secret-token";
const SECRET_CHARS_MAX: usize = 256;

const JSON: &str = "application/json";

/// <https://core.telegram.org/bots/api#sendmessage>
const TEXT_CHARS_MAX: usize = 4096;
/// Where a message goes and for which business account.
const RESERVED: &[&str] =
    &["chat_id", "message_thread_id", "direct_messages_topic_id", "business_connection_id", "receiver_user_id", "token", "method"];

/// <https://github.com/tdlib/telegram-bot-api>, `ClientManager.cpp`: no longer token is looked at.
const TOKEN_CHARS_MAX: usize = 80;

/// <https://core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this>: thirty a second in all, one a second in a
/// chat with short bursts, twenty a minute in a group.
const BOT: &[Limit] = &[ALL];
const CHAT: &[Limit] = &[ALL, Limit::new(Shared::Conversation, 1, 1_000, 5)];
const GROUP: &[Limit] = &[ALL, Limit::new(Shared::Conversation, 20, 60_000, 20)];
const ALL: Limit = Limit::new(Shared::Installation, 30, 1_000, 30);

/// Telegram.
pub struct Telegram;

impl Provider for Telegram {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Telegram
    }

    fn edge(&self) -> EdgeLimits {
        EdgeLimits {
            body_bytes_max: 1024 * 1024,
            media_types: &[JSON],
            dedupe_kept_ms: 48 * 3_600_000,
            dedupe_is_personal: false,
            signs_time: false,
        }
    }

    fn secret_chars_min(&self) -> usize {
        1
    }

    fn secret_form(&self, secret: &str) -> bool {
        (1..=SECRET_CHARS_MAX).contains(&secret.len()) && secret.bytes().all(is_token_byte)
    }

    fn credential_fits(&self, credential: &str, account: &ExternalAccount) -> bool {
        let (ExternalAccount::Telegram { bot_id, .. }, Some((digits, secret))) = (account, credential.split_once(':')) else {
            return false;
        };
        // The token becomes part of a path, so nothing that ends or changes a path may be in it.
        let form = !secret.is_empty() && secret.bytes().all(is_token_byte) && credential.len() <= TOKEN_CHARS_MAX;
        form && !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) && digits == bot_id
    }

    fn inspect(&self, head: &RequestHead, secrets: &SigningSecrets, _: Timestamp) -> Result<Inspected, ReasonCode> {
        let said = head.only(SECRET_TOKEN, ReasonCode::AuthnSecretMissing)?;
        let slot = secrets.matching_text(said).or((!stands(Guard::SecretTokenCompared)).then_some(SecretSlot::Current));
        slot.map(|slot| Inspected(Claim::Proven(slot))).ok_or(ReasonCode::AuthnSecretMismatch)
    }

    fn parse(&self, _: &SignatureValid, head: &RequestHead, body: &Bytes) -> Result<Parsed, ReasonCode> {
        if body.is_empty() && stands(Guard::BodyThere) {
            return Err(ReasonCode::IngressPayloadMalformed);
        }
        if head.media_type() != JSON {
            return Err(ReasonCode::IngressMediaType);
        }
        body::read(body).map(|event| Parsed::Events(vec![event]))
    }

    fn lifecycle(&self, event: &InboundEvent) -> Option<LifecycleNews> {
        body::news(event)
    }

    fn send_method(&self) -> &'static str {
        "sendMessage"
    }

    fn limits(&self, method: &str, conversation: Option<&str>) -> &'static [Limit] {
        let posts = ["send", "copyMessage", "forwardMessage"].iter().any(|p| method.starts_with(p)) && method != "sendChatAction";
        match conversation {
            // Groups and channels have negative ids; only they have names.
            Some(chat) if posts && chat.starts_with(['-', '@']) => GROUP,
            Some(_) if posts => CHAT,
            _ => BOT,
        }
    }

    fn render(
        &self,
        message: &OutboundMessage,
        account: &ExternalAccount,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode> {
        let text = text_to_send(message, TEXT_CHARS_MAX)?;
        if message.conversation.is_empty() || !matches!(account, ExternalAccount::Telegram { .. }) {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        let chat_id = message.conversation.parse::<i64>().map_or_else(|_| message.conversation.as_str().into(), Value::from);
        let mut fields = Map::new();
        fields.insert("chat_id".into(), chat_id.clone());
        if let Some(text) = text {
            fields.insert("text".into(), text.into());
        }
        if let Some(thread) = &message.thread {
            let thread = thread.parse::<i64>().map_err(|_| ReasonCode::EgressMessageInvalid)?;
            fields.insert("message_thread_id".into(), thread.into());
        }
        lay_over(&mut fields, message, RESERVED, &methods::WHO, find(methods::METHODS, self.send_method()))?;
        within(fields.get("text").and_then(Value::as_str), TEXT_CHARS_MAX)?;
        // <https://core.telegram.org/bots/api#replyparameters>: a reply may quote from another chat, and a shared bot is in
        // chats of other tenants.
        let quoted = fields.get("reply_parameters");
        let elsewhere = match quoted {
            Some(Value::Object(quote)) => quote.get("chat_id").is_some_and(|id| *id != chat_id),
            // As text it would be read by Telegram, not by us.
            Some(_) => true,
            None => false,
        };
        if elsewhere {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        json_post(format!("{}/bot{}/sendMessage", api_base.trim_end_matches('/'), credential.expose()), None, fields)
    }

    /// <https://core.telegram.org/bots/api#making-requests>
    fn read_receipt(&self, response: &WireResponse) -> SendReceipt {
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        if (200..300).contains(&response.status) && answer.get("ok") == Some(&Value::Bool(true)) {
            let id = answer.get("result").and_then(|r| r.get("message_id")).and_then(Value::as_i64);
            return SendReceipt::Sent { provider_message_id: id.map(|id| id.to_string()).unwrap_or_default() };
        }
        let code = answer.get("error_code").and_then(Value::as_u64).unwrap_or_else(|| response.status.into());
        let error = match answer.get("description").and_then(Value::as_str) {
            Some(description) => error_word(description),
            None => format!("http {}", response.status),
        };
        match code {
            401 => SendReceipt::CredentialDead { error },
            // <https://core.telegram.org/bots/api#responseparameters>
            429 => {
                let told = answer.get("parameters").and_then(|p| p.get("retry_after")).and_then(Value::as_u64);
                SendReceipt::RateLimited { retry_after_s: told.or_else(|| response.retry_after_s()), error }
            }
            500.. => SendReceipt::Unavailable { error },
            200..=299 => SendReceipt::Unknown { error: "unreadable answer".to_owned() },
            _ => SendReceipt::Rejected { error },
        }
    }

    fn is_conversation(&self, text: &str) -> bool {
        text.parse::<i64>().is_ok_and(|chat| chat != 0 && chat.to_string() == text)
    }

    fn conversation_form(&self) -> &'static str {
        "a Telegram conversation is written as the chat's number, as in -1001234567890, without plus, blanks or leading zeros; no @name"
    }

    fn file_hosts(&self) -> &'static [&'static str] {
        &[]
    }

    fn file_method(&self) -> &'static str {
        "getFile"
    }

    /// <https://core.telegram.org/bots/api#getfile>
    fn file_lookup(&self, file: &str, _: &ExternalAccount, credential: &Secret, api_base: &str) -> Result<WireRequest, ReasonCode> {
        let fit = !file.is_empty() && file.bytes().all(is_token_byte);
        let url = format!("{}/bot{}/getFile?file_id={file}", api_base.trim_end_matches('/'), credential.expose());
        if fit { Ok(get(url, None)) } else { Err(ReasonCode::EgressNotFound) }
    }

    /// <https://core.telegram.org/bots/api#file>: the path is relative to a folder whose name holds the token.
    fn file_request(&self, answer: &WireResponse, credential: &Secret, api_base: &str) -> Result<WireRequest, ReasonCode> {
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let path = answer.get("result").and_then(|r| r.get("file_path")).and_then(Value::as_str);
        // A dot alone would leave that folder; anything that ends a path would cut it.
        let is_name = |part: &str| {
            !matches!(part, "" | "." | "..") && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let path = path.filter(|path| path.split('/').all(is_name)).ok_or(ReasonCode::EgressProviderRejected)?;
        Ok(get(format!("{}/file/bot{}/{path}", api_base.trim_end_matches('/'), credential.expose()), None))
    }

    fn sample_kinds(&self) -> &'static [&'static str] {
        &["message", "mention", "callback", "edited", "blocked"]
    }

    fn sample(&self, sample: &Sample<'_>) -> Option<(Vec<u8>, &'static str)> {
        let ExternalAccount::Telegram { bot_id, chats } = sample.account else { return None };
        let listed = || chats.first().and_then(|chat| chat.parse().ok());
        let chat_id: i64 = sample.conversation.parse().ok().or_else(listed).unwrap_or(5_100_000_001);
        let from = json!({"id": 5_100_000_001_i64, "is_bot": false, "first_name": "Sim", "username": "simulated"});
        let chat = if chat_id < 0 {
            json!({"id": chat_id, "title": "Simulated", "type": "supergroup"})
        } else {
            json!({"id": chat_id, "first_name": "Sim", "type": "private"})
        };
        let bot =
            json!({"id": bot_id.parse::<i64>().unwrap_or_default(), "is_bot": true, "first_name": "Bot", "username": "simulated_bot"});
        let date = sample.now.secs();
        let message = |text: &str| json!({"message_id": sample.nonce, "from": from, "chat": chat, "date": date, "text": text});
        let update = match sample.kind {
            "message" => json!({"update_id": sample.nonce, "message": message(sample.text)}),
            "mention" => {
                let mut said = message(&format!("@simulated_bot {}", sample.text));
                said.as_object_mut()?.insert("entities".into(), json!([{"offset": 0, "length": 14, "type": "mention"}]));
                json!({"update_id": sample.nonce, "message": said})
            }
            "edited" => {
                let mut said = message(sample.text);
                said.as_object_mut()?.insert("edit_date".into(), date.into());
                json!({"update_id": sample.nonce, "edited_message": said})
            }
            "callback" => json!({"update_id": sample.nonce, "callback_query": {
                "id": sample.nonce.to_string(), "from": from, "chat_instance": "1", "data": sample.text,
                "message": {"message_id": 1, "from": bot, "chat": chat, "date": date, "text": "?"}}}),
            "blocked" => json!({"update_id": sample.nonce, "my_chat_member": {
                "chat": chat, "from": from, "date": date, "old_chat_member": {"user": bot, "status": "member"},
                "new_chat_member": {"user": bot, "status": "kicked", "until_date": 0}}}),
            _ => return None,
        };
        Some((serde_json::to_vec(&update).ok()?, JSON))
    }

    fn sign(&self, _: &[u8], secret: &Secret, _: Timestamp) -> Vec<(&'static str, String)> {
        vec![(SECRET_TOKEN, secret.expose().to_owned())]
    }
}

/// <https://core.telegram.org/bots/api#setwebhook>: what a secret token is made of; bot tokens are base64url, the same set.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}
