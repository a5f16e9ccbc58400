//! Telegram's SDKs: the Bot API by its methods, and its files. Part of `providers::telegram`, floor 2.

use std::borrow::Cow;

use http::Method;
use serde_json::{Value, json};

use super::{Telegram, is_token_byte};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::SendReceipt;
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::sdk::{Asked, Kind, Located, Refused, Sdk, Told, Untold, plain_receipt, request, segments};
use crate::wire::form::Written;
use crate::wire::{WireRequest, WireResponse};

/// Methods that speak into the chat of `chat_id`, or act there where people see it. <https://core.telegram.org/bots/api>
const SPEAKS: &[&str] = &[
    "copyMessage",
    "copyMessages",
    "createForumTopic",
    "closeForumTopic",
    "deleteMessage",
    "deleteMessages",
    "editForumTopic",
    "editMessageCaption",
    "editMessageChecklist",
    "editMessageLiveLocation",
    "editMessageMedia",
    "editMessageReplyMarkup",
    "editMessageText",
    "forwardMessage",
    "forwardMessages",
    "pinChatMessage",
    "reopenForumTopic",
    "sendAnimation",
    "sendAudio",
    "sendChatAction",
    "sendChecklist",
    "sendContact",
    "sendDice",
    "sendDocument",
    "sendGame",
    "sendInvoice",
    "sendLocation",
    "sendMediaGroup",
    "sendMessage",
    "sendMessageDraft",
    "sendPaidMedia",
    "sendPhoto",
    "sendPoll",
    "sendSticker",
    "sendVenue",
    "sendVideo",
    "sendVideoNote",
    "sendVoice",
    "setMessageReaction",
    "stopMessageLiveLocation",
    "stopPoll",
    "unpinAllChatMessages",
    "unpinChatMessage",
];

/// Methods that read, or answer who asked; some of them read a chat.
const PLAIN: &[&str] = &[
    "answerCallbackQuery",
    "answerInlineQuery",
    "answerPreCheckoutQuery",
    "answerShippingQuery",
    "getChat",
    "getChatAdministrators",
    "getChatMember",
    "getChatMemberCount",
    "getChatMenuButton",
    "getCustomEmojiStickers",
    "getFile",
    "getForumTopicIconStickers",
    "getMe",
    "getMyCommands",
    "getMyDefaultAdministratorRights",
    "getMyDescription",
    "getMyName",
    "getMyShortDescription",
    "getStickerSet",
    "getUserProfilePhotos",
];

/// Methods that change what the bot is to everybody.
const ACCOUNT: &[&str] = &[
    "deleteMyCommands",
    "setChatMenuButton",
    "setMyCommands",
    "setMyDefaultAdministratorRights",
    "setMyDescription",
    "setMyName",
    "setMyShortDescription",
];

/// Methods that would end the bot here, or hand out a token.
const RESERVED: &[&str] = &["close", "getManagedBotToken", "logOut", "replaceManagedBotToken"];

/// For whom a message would go besides its chat.
const NOT_THE_AGENTS: &[&str] = &["business_connection_id", "receiver_user_id", "method", "token"];

/// The part of a path under which files lie.
const FILE: &str = "file";

impl Sdk for Telegram {
    /// `bot{token}/{method}` and `file/bot{token}/{path}`.
    fn locate<'p>(&self, path: &'p str) -> Option<Located<'p>> {
        let (file, path) = match path.strip_prefix("file/") {
            Some(path) => (true, path),
            None => (false, path),
        };
        let (token, rest) = path.strip_prefix("bot")?.split_once('/')?;
        // python-telegram-bot writes the colon so when it fetches a file.
        let token = if token.contains('%') { Cow::Owned(token.replace("%3A", ":").replace("%3a", ":")) } else { Cow::Borrowed(token) };
        let fit = !token.is_empty() && token.bytes().all(|b| is_token_byte(b) || matches!(b, b':' | b'.' | b'~'));
        let mut path = segments(rest)?;
        match (file, path.as_slice()) {
            (true, _) => path.insert(0, FILE),
            (false, [method]) if *method != FILE => {}
            (false, _) => return None,
        }
        fit.then_some(Located { token: Some(token), ticket: None, path })
    }

    fn tell(&self, asked: &Asked<'_>, account: &ExternalAccount) -> Result<Told, Untold> {
        if !matches!(account, ExternalAccount::Telegram { .. }) {
            return Err(Untold::UNKNOWN);
        }
        if !matches!(*asked.http, Method::GET | Method::POST) {
            return Err(Untold::invalid("the Bot API is called with GET or POST"));
        }
        let parts = asked.parts();
        let method = match parts.as_slice() {
            [FILE, _, ..] if *asked.http == Method::GET => {
                return Ok(Told { method: "getFile".into(), kind: Kind::File, touches: Vec::new() });
            }
            [method] => *method,
            _ => return Err(Untold::UNKNOWN),
        };
        let arguments = asked.arguments;
        let told = |kind, touches| Ok(Told { method: method.to_owned(), kind, touches });
        let own = |status, body| Ok(Told { method: method.to_owned(), kind: Kind::Own(status, body), touches: Vec::new() });
        // What libraries do when they start and stop: they are told what they want to hear, and updates come as before.
        match method {
            "setWebhook" => return own(200, json!({"ok": true, "result": true, "description": "the gateway keeps its own webhook"})),
            "deleteWebhook" => return own(200, json!({"ok": true, "result": true, "description": "the gateway keeps its webhook"})),
            "getWebhookInfo" => {
                let url = format!("{}/webhooks/telegram", asked.gateway);
                return own(200, json!({"ok": true, "result": {"url": url, "has_custom_certificate": false, "pending_update_count": 0}}));
            }
            "getUpdates" => {
                let description = "Conflict: can't use getUpdates method while webhook is active; \
                    the gateway delivers updates to the agent's endpoint (byoa_refused egress.method_reserved)";
                return own(409, json!({"ok": false, "error_code": 409, "description": description}));
            }
            _ => {}
        }
        if RESERVED.contains(&method) {
            return Err(Untold::RESERVED);
        }
        if NOT_THE_AGENTS.iter().any(|name| arguments.has(name)) {
            return Err(Untold::invalid("an argument says for whom the bot acts, which is not the agent's to say"));
        }
        let chat = |name| arguments.text(name).map_err(Untold::from)?.map(chat_id).transpose();
        let mut touches: Vec<String> = chat("from_chat_id")?.into_iter().collect();
        // <https://core.telegram.org/bots/api#replyparameters>: a reply may quote from another chat.
        if let Some(quoted) = arguments.object("reply_parameters")?.and_then(|mut r| r.remove("chat_id")).filter(|v| !v.is_null()) {
            let quoted = match quoted {
                Value::String(text) => text,
                Value::Number(n) => n.to_string(),
                _ => return Err(Untold::invalid("`reply_parameters.chat_id` is no chat")),
            };
            touches.push(chat_id(quoted)?);
        }
        if SPEAKS.contains(&method) {
            let conversation = chat("chat_id")?.ok_or(Untold::invalid("name the chat"))?;
            return told(Kind::Message { conversation, thread: arguments.text("message_thread_id")? }, touches);
        }
        let kind = match method {
            _ if PLAIN.contains(&method) => Kind::Plain,
            _ if ACCOUNT.contains(&method) => Kind::Account,
            _ => return Err(Untold::UNKNOWN),
        };
        touches.extend(chat("chat_id")?);
        told(kind, touches)
    }

    fn rebuild(
        &self,
        asked: &Asked<'_>,
        _: &ExternalAccount,
        written: &Written,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode> {
        let (base, token) = (api_base.trim_end_matches('/'), credential.expose());
        let url = match asked.parts().as_slice() {
            [FILE, path @ ..] => format!("{base}/file/bot{token}/{}", path.join("/")),
            [method] => format!("{base}/bot{token}/{method}"),
            _ => return Err(ReasonCode::EgressMessageInvalid),
        };
        Ok(request(asked.http, url, written, None))
    }

    fn receipt(&self, response: &WireResponse) -> SendReceipt {
        plain_receipt(ProviderKind::Telegram, response)
    }

    /// <https://core.telegram.org/bots/api#making-requests>. What is not found is 403: libraries take 404 for a bad token.
    fn refusal(&self, refused: &Refused<'_>) -> (u16, Value) {
        let (status, word) = match refused.code.status() {
            401 => (401, "Unauthorized"),
            409 => (409, "Conflict"),
            429 => (429, "Too Many Requests"),
            400 | 413 | 415 | 422 => (400, "Bad Request"),
            503 if refused.code == ReasonCode::IngressMemoryFull => (503, "Service Unavailable"),
            408 | 502.. => (502, "Bad Gateway"),
            _ => (403, "Forbidden"),
        };
        let mut body = json!({"ok": false, "error_code": status, "description": format!("{word}: {}", refused.text())});
        if let (429, Some(seconds), Some(fields)) = (status, refused.retry_after_s, body.as_object_mut()) {
            fields.insert("parameters".into(), json!({"retry_after": seconds}));
        }
        (status, body)
    }
}

/// A chat by its number, or by its public name. Another way to write the same number would be another conversation to us
/// and the same to Telegram.
fn chat_id(text: String) -> Result<String, Untold> {
    let number = text.parse::<i64>().is_ok_and(|n| n.to_string() == text);
    let name = text.strip_prefix('@').is_some_and(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    if number || name { Ok(text) } else { Err(Untold::invalid("a chat is a number or @name")) }
}
