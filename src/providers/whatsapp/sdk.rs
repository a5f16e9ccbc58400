//! WhatsApp's SDKs: the few nodes of the Graph API that an agent needs. Part of `providers::whatsapp`, floor 2.

use http::Method;
use serde_json::{Value, json};

use super::{CONVERSATION_FORM, WhatsApp, is_group, is_phone, is_user_id};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{Effect, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::methods::{Entry, find, plain, speaks};
use crate::providers::sdk::{Asked, Kind, Located, Place, Refused, Sdk, Told, Untold, plain_receipt, request, segments};
use crate::providers::who::{self, Who};
use crate::wire::form::{Body, Written};
use crate::wire::{Payload, WireRequest, WireResponse};

/// Every call that the gateway knows, by the name that it gives them: Graph has paths. The recipient of a message is `to`, or
/// `recipient` for a user's id.
pub(super) const METHODS: &[Entry] = &[
    speaks(MESSAGES, Effect::Write, "to").whom(&["recipient", "recipient_identity_key_hash", "recipient_type"]),
    plain("media.upload", Effect::Write),
    plain("media.get", Effect::Read),
    plain("phone_number.get", Effect::Read),
    plain("business_profile.get", Effect::Read),
];
/// Of WhatsApp's arguments: what a message may hold.
pub(super) const WHO: Who = Who {
    content: &[
        "audio",
        "contacts",
        "document",
        "image",
        "interactive",
        "location",
        "reaction",
        "sticker",
        "template",
        "text",
        "typing_indicator",
        "video",
    ],
    everywhere: &[],
};
const MESSAGES: &str = "messages";

/// Edges and nodes that move webhooks, hand out tokens, or open and close the number.
const RESERVED: &[&str] = &[
    "access_token",
    "assigned_users",
    "debug_token",
    "deregister",
    "oauth",
    "phone_numbers",
    "register",
    "request_code",
    "settings",
    "subscribed_apps",
    "subscriptions",
    "verify_code",
    "whatsapp_business_encryption",
];

/// Graph reads these from the query as well as from a body, before anything else: who calls, as what, and what instead.
const NOT_THE_AGENTS: &[&str] = &[
    "access_token",
    "appsecret_proof",
    "appsecret_time",
    "batch",
    "callback",
    "callback_url",
    "id",
    "ids",
    "include_headers",
    "method",
    "override_callback_uri",
    "token",
    "verify_token",
    "webhook_configuration",
];

/// Arguments that Graph takes in a query; anything else there is refused.
const QUERY: &[&str] = &["fields", "phone_number_id"];

impl Sdk for WhatsApp {
    /// `{version}/{node}` and `{version}/{node}/{edge}`; the version is the SDK's.
    fn locate<'p>(&self, path: &'p str) -> Option<Located<'p>> {
        // pywa ends a bare node with one.
        let path = segments(path.strip_suffix('/').unwrap_or(path))?;
        let version = path.first()?.strip_prefix('v')?;
        let is_version = version.len() <= 6 && version.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        (is_version && matches!(path.len(), 2..=3)).then_some(Located { token: None, ticket: None, path })
    }

    /// The number behind the version of the API, or the number that a file was sent to.
    fn names(&self, asked: &Asked<'_>, account: &ExternalAccount) -> bool {
        let ExternalAccount::WhatsApp { phone_number_id, .. } = account else { return false };
        let argument = asked.arguments.text("phone_number_id").ok().flatten();
        asked.path.get(1) == Some(phone_number_id) || argument.as_ref() == Some(phone_number_id)
    }

    fn tell(&self, asked: &Asked<'_>, account: &ExternalAccount) -> Result<Told, Untold> {
        let ExternalAccount::WhatsApp { phone_number_id, .. } = account else { return Err(Untold::UNKNOWN) };
        let arguments = asked.arguments;
        let effect = |method: &str| {
            let entry = find(METHODS, method).ok_or(Untold::UNKNOWN)?;
            who::check(&WHO, entry, arguments).map(|()| entry.effect)
        };
        let told = |method: &str| Ok(Told::quiet(method, Kind::Plain, effect(method)?, None));
        let parts = asked.parts();
        let (_, path) = parts.split_first().ok_or(Untold::UNKNOWN)?;
        if path.iter().any(|part| RESERVED.contains(part)) || NOT_THE_AGENTS.iter().any(|name| arguments.has(name)) {
            return Err(Untold::RESERVED);
        }
        if !arguments.query.iter().all(|(name, value)| QUERY.contains(&name.as_str()) && is_list(value)) {
            return Err(Untold::invalid("the query has an argument that is not passed on"));
        }
        if arguments.text("phone_number_id")?.is_some_and(|id| id != *phone_number_id) {
            return Err(Untold { code: ReasonCode::EgressNotFound, detail: "the number is another than the installation's" });
        }
        let own = |id: &str| {
            let refused = Untold { code: ReasonCode::EgressNotFound, detail: "the number in the path is another than the installation's" };
            if id == phone_number_id { Ok(()) } else { Err(refused) }
        };
        match (asked.http, path) {
            (&Method::POST, [id, "messages"]) => {
                own(id)?;
                let Body::Json(_) = arguments.body else { return Err(Untold::invalid("a message is JSON")) };
                // A read receipt, with or without a sign of typing: whom it is for is in the message that it names.
                if arguments.has("status") {
                    let read = arguments.text("status")?.as_deref() == Some("read") && !arguments.has("to") && !arguments.has("recipient");
                    return if read { told(MESSAGES) } else { Err(Untold::invalid("a status is `read` and names nobody")) };
                }
                let group = arguments.text("recipient_type")?.as_deref() == Some("group");
                let conversation = match (arguments.text("to")?, arguments.text("recipient")?) {
                    (Some(to), None) => Some(to).filter(|to| if group { is_group(to) } else { is_phone(to) }),
                    (None, Some(user)) => Some(user).filter(|user| is_user_id(user) && !group),
                    _ => return Err(Untold::invalid("name one recipient")),
                };
                let form = Untold { code: ReasonCode::EgressConversationForm, detail: CONVERSATION_FORM };
                Ok(Told::message(MESSAGES, effect(MESSAGES)?, conversation.ok_or(form)?, None))
            }
            (&Method::POST, [id, "media"]) => {
                own(id)?;
                match arguments.body {
                    Body::Multipart(_) => told("media.upload"),
                    _ => Err(Untold::invalid("a file is uploaded as multipart")),
                }
            }
            (&Method::GET, [id]) if id == phone_number_id => told("phone_number.get"),
            (&Method::GET, [id, "whatsapp_business_profile"]) => own(id).and_then(|()| told("business_profile.get")),
            // Only files are read by their bare number; the answer must be one. Whose it is, Meta checks by the number that
            // goes along.
            (&Method::GET, [id]) if is_number(id) && !arguments.has("fields") => told("media.get"),
            // The same without an edge moves the webhook of the number, or its name.
            (_, [_]) => Err(Untold::RESERVED),
            _ => Err(Untold::UNKNOWN),
        }
    }

    fn rebuild(
        &self,
        asked: &Asked<'_>,
        account: &ExternalAccount,
        written: &Written,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode> {
        let ExternalAccount::WhatsApp { phone_number_id, .. } = account else { return Err(ReasonCode::EgressMessageInvalid) };
        let parts = asked.parts();
        let (version, path) = parts.split_first().ok_or(ReasonCode::EgressMessageInvalid)?;
        // Meta answers for a file of this number only.
        let of_this_number;
        let written = match path {
            [id] if id != phone_number_id => {
                let query = format!("phone_number_id={phone_number_id}");
                of_this_number = Written { query, media_type: None, body: Payload::default() };
                &of_this_number
            }
            _ => written,
        };
        // The SDK reads the answers of its own version of the API.
        let base = api_base.trim_end_matches('/');
        let base = match base.rsplit_once('/') {
            Some((host, last)) if last.strip_prefix('v').is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit())) => {
                format!("{host}/{version}")
            }
            _ => base.to_owned(),
        };
        Ok(request(asked.http, format!("{base}/{}", path.join("/")), written, Some(credential)))
    }

    /// Most answers of Graph name no message.
    fn receipt(&self, response: &WireResponse) -> SendReceipt {
        match plain_receipt(ProviderKind::WhatsApp, response) {
            SendReceipt::Unknown { .. } => SendReceipt::Sent { provider_message_id: String::new() },
            receipt => receipt,
        }
    }

    /// A bare number could be any node of Graph's; only a file has an address that its token opens.
    fn relink(&self, told: &Told, body: &[u8], link: &dyn Fn(Place<'_>) -> Option<String>) -> Result<Option<Vec<u8>>, ReasonCode> {
        if told.method != "media.get" {
            return Ok(None);
        }
        let Ok(Value::Object(mut file)) = serde_json::from_slice(body) else { return Err(ReasonCode::EgressNotFound) };
        let id = file.get("id").and_then(Value::as_str).filter(|id| is_number(id)).map(str::to_owned);
        let (Some(id), true) = (id, file.contains_key("url")) else { return Err(ReasonCode::EgressNotFound) };
        file.remove("url");
        file.extend(link(Place::File(&id)).map(|link| ("url".to_owned(), link.into())));
        serde_json::to_vec(&file).map(Some).map_err(|_| ReasonCode::EgressNotFound)
    }

    /// <https://developers.facebook.com/docs/graph-api/guides/error-handling>
    fn refusal(&self, refused: &Refused<'_>) -> (u16, Value) {
        let status = refused.code.status();
        let code = match status {
            401 => 190,
            400 | 404 | 413 | 415 | 422 => 100,
            429 => 130_429,
            500.. => 131_016,
            _ => 200,
        };
        let body = json!({"error": {
            "message": refused.text(),
            "type": "OAuthException",
            "code": code,
            "is_transient": refused.code.retryable(),
            "error_data": {"messaging_product": "whatsapp", "details": format!("{}: {}", refused.code, refused.detail)},
            "fbtrace_id": refused.request,
        }});
        (status, body)
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Names with commas between them: what Graph's fields are without the braces that lead on to other nodes.
fn is_list(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b','))
}
