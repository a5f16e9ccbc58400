//! Slack: signed Events API callbacks, slash commands and interactivity in, `chat.postMessage` out. Floor 2.

mod answer;
mod body;
mod lifecycle;
pub(super) mod methods;
mod replies;
mod sdk;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    Claim, EdgeLimits, Inspected, Limit, OauthClient, Parsed, Provider, Refresh, ReplyAddresses, Sample, Shared, SignatureValid,
    SigningSecrets, error_word, get, json_post, lay_over, printable, tagged_digest, text_to_send, within,
};
use crate::crypto::MacKey;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::{AnswerKind, ExternalAccount, ProviderKind};
use crate::domain::lifecycle::LifecycleNews;
use crate::domain::message::{EventKind, InboundEvent, OutboundMessage, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::methods::find;
use crate::wire::{RequestHead, WireRequest, WireResponse};

/// <https://docs.slack.dev/authentication/verifying-requests-from-slack>
const SIGNATURE: &str = "x-slack-signature";
const TIMESTAMP: &str = "x-slack-request-timestamp";
const SCHEME: &str = "v0";
/// Both ways and inclusive, as slack_sdk has it: Bolt for JavaScript lets the future in, which lengthens every replay.
const WINDOW_MS: i64 = 300_000;

const JSON: &str = "application/json";
/// <https://docs.slack.dev/interactivity/handling-user-interaction>
const FORM: &str = "application/x-www-form-urlencoded";

/// <https://docs.slack.dev/reference/methods/chat.postMessage>: longer texts are truncated silently.
const TEXT_CHARS_MAX: usize = 40_000;
/// Where a message goes, in which workspace and by which token.
const RESERVED: &[&str] = &["channel", "token", "team_id", "thread_ts", "as_user"];

/// <https://docs.slack.dev/reference/methods/chat.postMessage>
const CREDENTIAL_DEAD: &[&str] = &["token_revoked", "account_inactive", "invalid_auth", "not_authed", "token_expired"];
/// <https://docs.slack.dev/apis/web-api/rate-limits>
const RATE_LIMITED: &[&str] = &["rate_limited", "ratelimited"];
/// <https://docs.slack.dev/reference/methods/chat.postMessage>: Slack's own trouble, or a workspace on its way
/// into an Enterprise Grid org.
const UNAVAILABLE: &[&str] =
    &["team_added_to_org", "org_login_required", "fatal_error", "internal_error", "service_unavailable", "request_timeout"];

/// <https://docs.slack.dev/apis/web-api/rate-limits>: one a second to a channel, short bursts tolerated; and what the tiers
/// take of one method in a minute.
const POSTING: &[Limit] = &[Limit::new(Shared::Conversation, 1, 1_000, 5)];
const TIER_1: &[Limit] = &[Limit::new(Shared::Method, 1, 60_000, 2)];
const TIER_2: &[Limit] = &[Limit::new(Shared::Method, 20, 60_000, 20)];
const TIER_3: &[Limit] = &[Limit::new(Shared::Method, 50, 60_000, 50)];
const TIER_4: &[Limit] = &[Limit::new(Shared::Method, 100, 60_000, 100)];

/// Slack.
pub struct Slack;

impl Provider for Slack {
    fn kind(&self) -> ProviderKind {
        ProviderKind::Slack
    }

    fn edge(&self) -> EdgeLimits {
        EdgeLimits {
            body_bytes_max: 1024 * 1024,
            media_types: &[JSON, FORM],
            dedupe_kept_ms: 24 * 3_600_000,
            dedupe_is_personal: false,
            signs_time: true,
        }
    }

    fn secret_chars_min(&self) -> usize {
        16
    }

    fn secret_form(&self, secret: &str) -> bool {
        printable(secret)
    }

    fn credential_fits(&self, credential: &str, account: &ExternalAccount) -> bool {
        printable(credential) && matches!(account, ExternalAccount::Slack { .. })
    }

    fn inspect(&self, head: &RequestHead, _: &SigningSecrets, now: Timestamp) -> Result<Inspected, ReasonCode> {
        let signature = head.only(SIGNATURE, ReasonCode::AuthnSignatureMissing)?;
        let timestamp = head.only(TIMESTAMP, ReasonCode::AuthnTimestampMalformed)?;
        // Digits only, or `T:start-of-body` as timestamp would move the border between timestamp and body.
        let plain = !timestamp.is_empty() && timestamp.iter().all(u8::is_ascii_digit);
        if !plain && stands(Guard::TimestampPlain) {
            return Err(ReasonCode::AuthnTimestampMalformed);
        }
        // More digits than fit are a time that is far ahead.
        let secs = std::str::from_utf8(timestamp).ok().and_then(|t| t.parse::<i64>().ok()).unwrap_or(i64::MAX);
        let age_ms = now.ms().saturating_sub(Timestamp::from_secs(secs).ms());
        if age_ms > WINDOW_MS && stands(Guard::TimestampStale) {
            return Err(ReasonCode::AuthnTimestampStale);
        }
        if age_ms < -WINDOW_MS && stands(Guard::TimestampFuture) {
            return Err(ReasonCode::AuthnTimestampFuture);
        }
        let digest = tagged_digest(signature, SCHEME)?;
        Ok(Inspected(Claim::Mac { prefix: prefix(timestamp), digest }))
    }

    fn names_app(&self) -> bool {
        true
    }

    fn parse(&self, _: &SignatureValid, head: &RequestHead, body: &Bytes) -> Result<Parsed, ReasonCode> {
        match (body.is_empty(), head.media_type().as_str()) {
            (true, _) if stands(Guard::BodyThere) => Err(ReasonCode::IngressPayloadMalformed),
            (_, JSON) => body::read_json(body),
            (_, FORM) => body::read_form(body),
            _ => Err(ReasonCode::IngressMediaType),
        }
    }

    fn raw_for_agent(&self, raw: &[u8], media_type: &str) -> Option<String> {
        if media_type != FORM {
            return replies::withheld(std::str::from_utf8(raw).ok()?);
        }
        let fields = body::form_fields(raw).ok()?;
        match fields.iter().find(|(name, _)| name == "payload") {
            Some((_, payload)) => replies::withheld(payload),
            None => {
                let fields: Map<String, Value> = fields.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
                replies::withheld(&Value::Object(fields).to_string())
            }
        }
    }

    fn reply_addresses(&self, raw: &[u8], media_type: &str) -> Result<ReplyAddresses, ReasonCode> {
        replies::addresses(raw, media_type == FORM).ok_or(ReasonCode::StoreCorrupt)
    }

    fn as_reply_address(&self, text: &str, media_type: &str) -> String {
        if media_type == FORM { form_urlencoded::byte_serialize(text.as_bytes()).collect() } else { text.to_owned() }
    }

    fn reply(&self, address: &Secret, body: &Bytes, api_base: &str) -> Result<WireRequest, ReasonCode> {
        replies::request(address, body, api_base).ok_or(ReasonCode::EgressMessageInvalid)
    }

    fn read_reply(&self, response: &WireResponse) -> SendReceipt {
        replies::receipt(response)
    }

    /// <https://docs.slack.dev/apis/events-api/>; of the words that Slack has for a reason this one says least.
    fn repeat_headers(&self, repeat: i64) -> Vec<(&'static str, String)> {
        vec![("x-slack-retry-num", repeat.to_string()), ("x-slack-retry-reason", "unknown_error".to_owned())]
    }

    fn answer_kind(&self, event: &InboundEvent) -> Option<AnswerKind> {
        let is_form = event.kind == EventKind::Interaction && event.media_type == FORM;
        AnswerKind::ALL.into_iter().find(|kind| is_form && event.provider_event_type == kind.as_str())
    }

    fn answer(&self, kind: AnswerKind, body: &[u8]) -> Option<Vec<u8>> {
        answer::read(kind, body)
    }

    fn lifecycle(&self, event: &InboundEvent) -> Option<LifecycleNews> {
        lifecycle::news(event)
    }

    fn render_refresh(&self, client: &OauthClient<'_>, refresh_token: &Secret, api_base: &str) -> Option<WireRequest> {
        Some(lifecycle::refresh(client, refresh_token, api_base))
    }

    fn read_refresh(&self, response: &WireResponse, account: &ExternalAccount, app_id: Option<&str>) -> Refresh {
        lifecycle::refreshed(response, account, app_id)
    }

    fn refreshes(&self) -> bool {
        true
    }

    fn says_expired(&self, response: &WireResponse) -> bool {
        lifecycle::has_expired(response)
    }

    fn send_method(&self) -> &'static str {
        "chat.postMessage"
    }

    fn limits(&self, method: &str, _: Option<&str>) -> &'static [Limit] {
        match method {
            "chat.postMessage" => POSTING,
            "admin.apps.approve" | "apps.connections.open" | "auth.revoke" | "oauth.v2.exchange" => TIER_1,
            "chat.update"
            | "chat.delete"
            | "chat.scheduleMessage"
            | "chat.deleteScheduledMessage"
            | "chat.unfurl"
            | "bots.info"
            | "conversations.history"
            | "conversations.replies"
            | "conversations.info"
            | "conversations.open"
            | "conversations.join"
            | "conversations.invite"
            | "files.list"
            | "reactions.add"
            | "reactions.get"
            | "team.info"
            | "users.conversations"
            | "users.lookupByEmail" => TIER_3,
            "api.test"
            | "auth.test"
            | "assistant.threads.setStatus"
            | "assistant.threads.setSuggestedPrompts"
            | "assistant.threads.setTitle"
            | "chat.getPermalink"
            | "chat.postEphemeral"
            | "conversations.members"
            | "files.completeUploadExternal"
            | "files.getUploadURLExternal"
            | "files.info"
            | "users.info"
            | "views.open"
            | "views.publish"
            | "views.push"
            | "views.update" => TIER_4,
            _ => TIER_2,
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
        if message.conversation.is_empty() || !matches!(account, ExternalAccount::Slack { .. }) {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        let mut fields = Map::new();
        fields.insert("channel".into(), message.conversation.as_str().into());
        if let Some(text) = text {
            fields.insert("text".into(), escaped(text).into());
        }
        if let Some(thread) = &message.thread {
            fields.insert("thread_ts".into(), thread.as_str().into());
        }
        lay_over(&mut fields, message, RESERVED, &methods::WHO, find(methods::METHODS, self.send_method()))?;
        within(fields.get("text").and_then(Value::as_str), TEXT_CHARS_MAX)?;
        json_post(format!("{}/chat.postMessage", api_base.trim_end_matches('/')), Some(credential), fields)
    }

    fn read_receipt(&self, response: &WireResponse) -> SendReceipt {
        let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        // An error is one lower-case word; whatever else stands there is not Slack's.
        let is_word =
            |e: &&str| (1..=100).contains(&e.len()) && e.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let word = answer.get("error").and_then(Value::as_str).filter(is_word);
        let error = word.map_or_else(|| format!("http {}", response.status), str::to_owned);
        match (response.status, word) {
            (429, _) => SendReceipt::RateLimited { retry_after_s: response.retry_after_s(), error },
            (_, Some(w)) if RATE_LIMITED.contains(&w) => SendReceipt::RateLimited { retry_after_s: response.retry_after_s(), error },
            (_, Some(w)) if CREDENTIAL_DEAD.contains(&w) => SendReceipt::CredentialDead { error },
            (_, Some(w)) if UNAVAILABLE.contains(&w) => SendReceipt::Unavailable { error },
            (500.., _) => SendReceipt::Unavailable { error },
            (_, Some(_)) => SendReceipt::Rejected { error },
            // <https://docs.slack.dev/apis/web-api/>: the status is 200 whatever happened, `ok` says it.
            (200, None) if answer.get("ok") == Some(&Value::Bool(true)) => {
                let ts = answer.get("ts").and_then(Value::as_str).unwrap_or_default();
                SendReceipt::Sent { provider_message_id: error_word(ts) }
            }
            (200, None) => SendReceipt::Unknown { error: "unreadable answer".to_owned() },
            _ => SendReceipt::Rejected { error },
        }
    }

    /// <https://docs.slack.dev/reference/objects/file-object>: `url_private_download`.
    fn is_conversation(&self, text: &str) -> bool {
        let fit = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
        text.strip_prefix(['C', 'D', 'G']).is_some_and(|rest| (1..=63).contains(&rest.len()) && rest.bytes().all(fit))
    }

    fn conversation_form(&self) -> &'static str {
        "a Slack conversation is written as its id, as in C0123ABCD: C, D or G, then capital letters and digits; neither a name such as #help \
         nor a person's id"
    }

    fn file_hosts(&self) -> &'static [&'static str] {
        &["files.slack.com"]
    }

    fn file_method(&self) -> &'static str {
        "files.info"
    }

    /// <https://docs.slack.dev/reference/methods/files.info>
    fn file_lookup(&self, file: &str, _: &ExternalAccount, credential: &Secret, api_base: &str) -> Result<WireRequest, ReasonCode> {
        let fit = !file.is_empty() && file.bytes().all(|b| b.is_ascii_alphanumeric());
        let url = format!("{}/files.info?file={file}", api_base.trim_end_matches('/'));
        if fit { Ok(get(url, Some(credential))) } else { Err(ReasonCode::EgressNotFound) }
    }

    fn file_request(&self, answer: &WireResponse, credential: &Secret, _: &str) -> Result<WireRequest, ReasonCode> {
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let url = answer.get("file").and_then(|f| f.get("url_private_download")).and_then(Value::as_str);
        url.map(|url| get(url.to_owned(), Some(credential))).ok_or(ReasonCode::EgressProviderRejected)
    }

    fn sample_kinds(&self) -> &'static [&'static str] {
        &["message", "mention", "direct", "command", "interaction", "uninstalled"]
    }

    fn sample(&self, sample: &Sample<'_>) -> Option<(Vec<u8>, &'static str)> {
        let ExternalAccount::Slack { team_id, enterprise_id } = sample.account else { return None };
        let app = sample.app_id.unwrap_or("A00SIMULATED");
        let team = team_id.as_deref().unwrap_or("T00SIMULATED");
        let org_wide = team_id.is_none();
        let secs = sample.now.secs();
        let ts = format!("{secs}.{:06}", sample.nonce % 1_000_000);
        let trigger = format!("{}.{secs}.{}", sample.nonce, super::digest_id(&sample.nonce.to_be_bytes()));
        let user = "U00SIMULATED";
        let event = |event: Value| {
            let body = json!({
                "token": "simulated", "team_id": team, "context_team_id": team, "context_enterprise_id": enterprise_id, "api_app_id": app,
                "event": event, "type": "event_callback", "event_id": format!("Ev{:012}", sample.nonce), "event_time": secs,
                "authorizations": [{"enterprise_id": enterprise_id, "team_id": team_id, "user_id": "U00BOT", "is_bot": true,
                    "is_enterprise_install": org_wide}],
                "is_ext_shared_channel": false,
            });
            Some((serde_json::to_vec(&body).ok()?, JSON))
        };
        let said = |word: &str, place: &str| {
            let mut said = json!({"user": user, "type": word, "ts": ts, "text": sample.text, "team": team, "channel": sample.conversation,
                "event_ts": ts});
            // `app_mention` has no channel type.
            if word == "message"
                && let Some(fields) = said.as_object_mut()
            {
                fields.insert("channel_type".into(), place.into());
            }
            said
        };
        match sample.kind {
            "message" => event(said("message", "channel")),
            "mention" => event(said("app_mention", "channel")),
            "direct" => event(said("message", "im")),
            "uninstalled" => {
                let mut body = json!({"token": "simulated", "api_app_id": app, "event": {"type": "app_uninstalled"},
                    "type": "event_callback", "event_id": format!("Ev{:012}", sample.nonce), "event_time": secs});
                let (name, id) = if org_wide { ("enterprise_id", enterprise_id.as_deref()?) } else { ("team_id", team) };
                body.as_object_mut()?.insert(name.into(), id.into());
                Some((serde_json::to_vec(&body).ok()?, JSON))
            }
            "command" => {
                let mut form = form_urlencoded::Serializer::new(String::new());
                form.append_pair("token", "simulated").append_pair("team_id", team).append_pair("channel_id", sample.conversation);
                if let Some(enterprise) = enterprise_id {
                    form.append_pair("enterprise_id", enterprise);
                }
                form.append_pair("user_id", user).append_pair("user_name", "simulated").append_pair("command", "/ask");
                form.append_pair("text", sample.text).append_pair("api_app_id", app);
                form.append_pair("is_enterprise_install", if org_wide { "true" } else { "false" });
                form.append_pair("trigger_id", &trigger);
                Some((form.finish().into_bytes(), FORM))
            }
            "interaction" => {
                let payload = json!({
                    "type": "block_actions", "user": {"id": user, "username": "simulated", "team_id": team}, "api_app_id": app,
                    "token": "simulated", "trigger_id": trigger, "team": {"id": team, "domain": "simulated"},
                    "enterprise": enterprise_id.as_ref().map(|id| json!({"id": id})), "is_enterprise_install": org_wide,
                    "container": {"type": "message", "message_ts": ts, "channel_id": sample.conversation},
                    "channel": {"id": sample.conversation, "name": "simulated"},
                    "actions": [{"action_id": "simulated", "block_id": "b1", "type": "button", "value": sample.text, "action_ts": ts}],
                });
                let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &payload.to_string()).finish();
                Some((form.into_bytes(), FORM))
            }
            _ => None,
        }
    }

    fn sign(&self, body: &[u8], secret: &Secret, now: Timestamp) -> Vec<(&'static str, String)> {
        let timestamp = now.secs().to_string();
        let Some(key) = MacKey::new(secret.expose().as_bytes()) else { return Vec::new() };
        let digest = hex::encode(key.sign(&[&prefix(timestamp.as_bytes()), body]));
        vec![(TIMESTAMP, timestamp), (SIGNATURE, format!("{SCHEME}={digest}"))]
    }
}

/// <https://docs.slack.dev/messaging/formatting-message-text>: these three make mentions, commands and links. Whoever wants
/// one says so in a native field.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// What stands before the body in the signed text: the timestamp goes in as it was sent.
fn prefix(timestamp: &[u8]) -> Vec<u8> {
    [b"v0:", timestamp, b":"].concat()
}
