//! Telegram's SDKs: the Bot API by its methods, and its files. Part of `providers::telegram`, floor 2.

use std::borrow::Cow;

use http::Method;
use serde_json::{Value, json};

use super::files;
use super::methods::{CHAT, METHODS, RESERVED, WHO};
use super::{Telegram, is_token_byte};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{Effect, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::methods::{Sort, find};
use crate::providers::sdk::{Asked, Kind, Located, Refused, Sdk, Told, Touch, Untold, plain_receipt, request, segments};
use crate::providers::who;
use crate::wire::form::{Arguments, Written};
use crate::wire::{WireRequest, WireResponse};

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
                return Ok(Told::quiet("getFile", Kind::File, Effect::Read, None));
            }
            [method] => *method,
            _ => return Err(Untold::UNKNOWN),
        };
        let arguments = asked.arguments;
        let own = |status, body| Ok(Told::quiet(method, Kind::Own(status, body), Effect::Read, None));
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
        let entry = find(METHODS, method).ok_or(Untold::UNKNOWN)?;
        who::check(&WHO, entry, arguments)?;
        let mut touches = Vec::new();
        let mut reads = |conversation: Option<String>| {
            touches.extend(conversation.map(|conversation| Touch { conversation, effect: Effect::Read }));
        };
        reads(arguments.text("from_chat_id")?);
        // <https://core.telegram.org/bots/api#replyparameters>: a reply may quote from another chat.
        reads(within(arguments, "reply_parameters")?);
        // <https://core.telegram.org/bots/api#botcommandscope>: commands may be one chat's.
        let mut chat = within(arguments, "scope")?;
        if let Some(place) = entry.place {
            chat = chat.or(arguments.text(place)?);
        }
        let mut told = match entry.sort {
            Sort::Speaks => {
                let chat = chat.ok_or(Untold::invalid("name the chat"))?;
                Told::message(method, entry.effect, chat, arguments.text("message_thread_id")?)
            }
            Sort::Plain => Told::quiet(method, Kind::Plain, entry.effect, chat),
            Sort::Account => Told::quiet(method, Kind::Account, entry.effect, chat),
        };
        told.touches.append(&mut touches);
        told.files = files::named(arguments)?;
        Ok(told)
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

    fn file_ids(&self, raw: &[u8]) -> Vec<String> {
        files::told(raw)
    }

    fn with_ticket(&self, body: &[u8], ticket: &str) -> Result<Vec<u8>, ReasonCode> {
        files::with_ticket(body, ticket)
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

/// The chat that an object among the arguments names.
fn within(arguments: &Arguments, name: &str) -> Result<Option<String>, Untold> {
    match arguments.object(name)?.and_then(|mut fields| fields.remove(CHAT)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(n)) => Ok(Some(n.to_string())),
        Some(_) => Err(Untold::invalid("a `chat_id` within another argument is no chat")),
    }
}
