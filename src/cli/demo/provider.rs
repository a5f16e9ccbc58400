//! The simulated provider side: Slack's, Telegram's and Graph's send methods, as strict about tokens as the real ones.
//!
//! Owns what a provider knows: which token belongs to which account and which conversation lies in it. Never takes a message
//! with a token of somebody else, and then says so in that provider's own words. Floor 11.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use http::Method;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::UnboundedSender;

use super::at;
use super::heard::{Heard, Sent};
use super::world::{Seat, World};
use crate::crypto::same_text;
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::matrix::loopback::Asked;

/// All three providers behind one address.
pub(super) struct ProviderSide {
    world: Arc<World>,
    tell: UnboundedSender<Heard>,
    sent: AtomicU64,
}

/// What a provider makes of a message: whose token it was and the answer, or why not and the answer to that.
type Verdict<'w> = Result<(&'w Seat, Json), (&'static str, u16, Json)>;

impl ProviderSide {
    pub(super) fn new(world: Arc<World>, tell: UnboundedSender<Heard>) -> Self {
        Self { world, tell, sent: AtomicU64::new(1) }
    }

    /// Takes or refuses one message.
    pub(super) fn answer(&self, asked: &Asked) -> (u16, Json) {
        let when = Instant::now();
        let body: Json = serde_json::from_slice(&asked.body).unwrap_or_default();
        let bearer = asked.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        let telegram = asked.path.strip_prefix("/bot").and_then(|rest| rest.strip_suffix("/sendMessage"));
        let graph = asked.path.strip_prefix("/v23.0/").and_then(|rest| rest.strip_suffix("/messages"));
        let text_of = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let (provider, conversation, text, verdict) = match (&asked.method, telegram, graph) {
            (&Method::POST, None, None) if asked.path == "/api/chat.postMessage" => {
                let (channel, text) = (text_of(at(&body, "/channel")), text_of(at(&body, "/text")));
                let verdict = self.slack(bearer, &channel, &text);
                (ProviderKind::Slack, channel, text, verdict)
            }
            (&Method::POST, Some(token), None) => {
                let (chat, text) = (text_of(at(&body, "/chat_id")), text_of(at(&body, "/text")));
                let verdict = self.telegram(token, &chat, &text);
                (ProviderKind::Telegram, chat, text, verdict)
            }
            (&Method::POST, None, Some(number)) => {
                let (to, text) = (text_of(at(&body, "/to")), text_of(at(&body, "/text/body")));
                let verdict = self.graph(bearer, number, &to);
                (ProviderKind::WhatsApp, to, text, verdict)
            }
            _ => return (404, json!({"ok": false, "error": "unknown_method", "error_code": 404, "description": "Not Found"})),
        };
        let (status, body, verdict) = match verdict {
            Ok((seat, body)) => (200, body, Ok(seat.installation)),
            Err((why, status, body)) => (status, body, Err(why)),
        };
        let _ = self.tell.send(Heard::Provider(Sent { at: when, provider, conversation, text, verdict }));
        (status, body)
    }

    /// Whose token it is.
    fn holder(&self, provider: ProviderKind, token: &str) -> Option<&Seat> {
        let of_provider = self.world.seats.iter().filter(|seat| seat.provider == provider);
        of_provider
            .fold(None, |found, seat| if same_text(seat.credential.expose().as_bytes(), token.as_bytes()) { Some(seat) } else { found })
    }

    /// Whether the conversation lies in somebody else's account. One that nobody declared may be anybody's: people write
    /// first.
    fn elsewhere(&self, holder: &Seat, conversation: &str) -> bool {
        let mut of_provider = self.world.seats.iter().filter(|seat| seat.provider == holder.provider);
        of_provider.any(|seat| seat.conversation == conversation && seat.installation != holder.installation)
    }

    fn next(&self) -> u64 {
        self.sent.fetch_add(1, Ordering::Relaxed)
    }

    /// <https://docs.slack.dev/reference/methods/chat.postMessage>
    fn slack(&self, token: &str, channel: &str, text: &str) -> Verdict<'_> {
        let refused = |error: &'static str| Err((error, 200, json!({"ok": false, "error": error})));
        if token.is_empty() {
            return refused("not_authed");
        }
        match self.holder(ProviderKind::Slack, token) {
            None => refused("invalid_auth"),
            Some(holder) if self.elsewhere(holder, channel) => refused("channel_not_found"),
            Some(holder) => {
                let ts = format!("1700000000.{:06}", self.next());
                Ok((holder, json!({"ok": true, "channel": channel, "ts": ts, "message": {"type": "message", "text": text, "ts": ts}})))
            }
        }
    }

    /// <https://core.telegram.org/bots/api#making-requests>
    fn telegram(&self, token: &str, chat: &str, text: &str) -> Verdict<'_> {
        let refused = |status: u16, description: &'static str| {
            Err((description, status, json!({"ok": false, "error_code": status, "description": description})))
        };
        match self.holder(ProviderKind::Telegram, token) {
            None => refused(401, "Unauthorized"),
            Some(holder) if self.elsewhere(holder, chat) => refused(400, "Bad Request: chat not found"),
            Some(holder) => {
                let id = chat.parse::<i64>().unwrap_or_default();
                Ok((holder, json!({"ok": true, "result": {"message_id": self.next(), "chat": {"id": id}, "text": text}})))
            }
        }
    }

    /// <https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes>
    fn graph(&self, token: &str, number: &str, to: &str) -> Verdict<'_> {
        let refused = |status: u16, code: i64, kind: &str, message: &'static str| {
            Err((message, status, json!({"error": {"message": message, "type": kind, "code": code, "fbtrace_id": "DEMO"}})))
        };
        let Some(holder) = self.holder(ProviderKind::WhatsApp, token) else {
            return refused(401, 190, "OAuthException", "Invalid OAuth access token - Cannot parse access token");
        };
        // A token of another business does not even see the number.
        if !matches!(&holder.account, ExternalAccount::WhatsApp { phone_number_id, .. } if phone_number_id == number) {
            return refused(400, 100, "GraphMethodException", "Unsupported post request. Object does not exist or cannot be loaded");
        }
        if self.elsewhere(holder, to) {
            return refused(400, 131_030, "OAuthException", "(#131030) Recipient phone number not in allowed list");
        }
        let id = format!("wamid.DEMO{:012}", self.next());
        Ok((holder, json!({"messaging_product": "whatsapp", "contacts": [{"input": to, "wa_id": to}], "messages": [{"id": id}]})))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::super::world::{GUEST, OWN};
    use super::*;
    use crate::domain::message::{OutboundMessage, SendReceipt};
    use crate::domain::secret::Secret;
    use crate::providers;
    use crate::wire::WireResponse;

    fn side() -> (ProviderSide, Arc<World>, UnboundedReceiver<Heard>) {
        let (tell, heard) = unbounded_channel();
        let world = Arc::new(World::new().unwrap());
        (ProviderSide::new(world.clone(), tell), world, heard)
    }

    /// The gateway's own rendering of a message to `seat`, with some token; what the side answers and how it is read.
    fn send(side: &ProviderSide, seat: &Seat, token: &Secret) -> (u16, Json, SendReceipt) {
        let message = OutboundMessage { conversation: seat.conversation.into(), thread: None, text: Some("hi".into()), native: None };
        let base = match seat.provider {
            ProviderKind::Slack => "http://side/api/",
            ProviderKind::Telegram => "http://side",
            ProviderKind::WhatsApp => "http://side/v23.0/",
        };
        let provider = providers::of(seat.provider);
        let wire = provider.render(&message, &seat.account, token, base).unwrap();
        let headers = wire.headers.iter().map(|(name, value)| (http::HeaderName::from_static(name), value.expose().parse().unwrap()));
        let path = wire.url.expose().strip_prefix("http://side").unwrap().to_owned();
        let (status, body) = side.answer(&Asked {
            method: wire.method,
            path,
            query: None,
            headers: headers.collect(),
            body: wire.body.whole().to_vec().into(),
        });
        let response = WireResponse { status, headers: http::HeaderMap::new(), body: Bytes::from(body.to_string()) };
        (status, body, provider.read_receipt(&response))
    }

    #[test]
    fn the_right_token_is_taken_and_told() {
        let (side, world, mut heard) = side();
        for seat in &world.seats {
            let (status, body, receipt) = send(&side, seat, &seat.credential);
            assert!(status == 200 && matches!(receipt, SendReceipt::Sent { .. }), "{}: {body}", seat.installation);
            let Some(Heard::Provider(sent)) = heard.try_recv().ok() else { panic!("{}: nothing was told", seat.installation) };
            assert_eq!((sent.verdict, sent.text.as_str()), (Ok(seat.installation), "hi"));
        }
    }

    #[test]
    fn a_foreign_token_is_refused_in_the_providers_own_shape() {
        let (side, world, mut heard) = side();
        let mut answers = Vec::new();
        for provider in ProviderKind::ALL {
            let (seat, other) = (world.seat(OWN, provider).unwrap(), world.seat(GUEST, provider).unwrap());
            let nobodys = Secret::new(if provider == ProviderKind::Telegram { "7001:AAnobody".into() } else { "nobody".to_owned() });
            for (whose, token) in [("globex's", &other.credential), ("nobody's", &nobodys)] {
                let (status, body, receipt) = send(&side, seat, token);
                assert!(!matches!(receipt, SendReceipt::Sent { .. }), "{provider} took {whose} token");
                let Some(Heard::Provider(sent)) = heard.try_recv().ok() else { panic!("{provider}: nothing was told") };
                assert!(sent.verdict.is_err());
                answers.push(format!("{provider}, {whose} token: {status} {body}"));
            }
        }
        insta::assert_snapshot!(answers.join("\n"), @r#"
        slack, globex's token: 200 {"ok":false,"error":"channel_not_found"}
        slack, nobody's token: 200 {"ok":false,"error":"invalid_auth"}
        telegram, globex's token: 400 {"ok":false,"error_code":400,"description":"Bad Request: chat not found"}
        telegram, nobody's token: 401 {"ok":false,"error_code":401,"description":"Unauthorized"}
        whatsapp, globex's token: 400 {"error":{"message":"Unsupported post request. Object does not exist or cannot be loaded","type":"GraphMethodException","code":100,"fbtrace_id":"DEMO"}}
        whatsapp, nobody's token: 401 {"error":{"message":"Invalid OAuth access token - Cannot parse access token","type":"OAuthException","code":190,"fbtrace_id":"DEMO"}}
        "#);
    }
}
