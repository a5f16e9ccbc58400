//! The agents: they check who sent an event, and say back what was said.
//!
//! Owns the agents' half of the bargain, written as an outsider would: a Standard Webhooks verifier and one call of
//! `POST /v1/messages`. Never sees a provider's credential; it has its own token and nothing else. Floor 11.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc::UnboundedSender;

use super::at;
use super::heard::Heard;
use super::world::{Voice, World};
use crate::crypto::MacKey;
use crate::domain::clock::Clock;
use crate::domain::secret::Secret;
use crate::matrix::loopback::Asked;
use crate::transport::Transport;
use crate::wire::WireRequest;

/// How far a signature's time may be off ([Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks)).
const TOLERANCE_S: i64 = 300;
const TIMEOUT_MS: u64 = 10_000;
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// All agents behind one address, each under its own path.
pub(super) struct Echo {
    world: Arc<World>,
    tell: UnboundedSender<Heard>,
    transport: Transport,
    clock: Clock,
    /// The gateway's public listener; known once it runs.
    gateway: OnceLock<String>,
}

impl Echo {
    pub(super) fn new(world: Arc<World>, tell: UnboundedSender<Heard>, transport: Transport, clock: Clock) -> Self {
        Self { world, tell, transport, clock, gateway: OnceLock::new() }
    }

    /// Tells the agents where to answer.
    pub(super) fn answer_at(&self, gateway: String) {
        let _ = self.gateway.set(gateway);
    }

    /// Takes one event. What follows from it happens afterwards: an agent that thinks before it says 200 is sent it twice.
    pub(super) async fn take(self: Arc<Self>, asked: Asked) -> (u16, Json) {
        let path = asked.path.trim_start_matches('/');
        let Some(index) = self.world.voices.iter().position(|voice| voice.id == path) else { return (404, Json::Null) };
        let Some(voice) = self.world.voices.get(index) else { return (404, Json::Null) };
        let proved = proved(&voice.signing, &asked, self.clock.now().secs());
        let event: Json = serde_json::from_slice(&asked.body).unwrap_or_default();
        let text_of = |value: &Json| value.as_str().unwrap_or_default().to_owned();
        let (id, text, session) =
            (asked.header("webhook-id").to_owned(), text_of(at(&event, "/data/text")), text_of(at(&event, "/data/session/id")));
        let heard = Heard::Agent { at: Instant::now(), agent: voice.id, event: id.clone(), text: text.clone(), proved };
        let _ = self.tell.send(heard);
        if !proved || at(&event, "/id") != id.as_str() {
            return (401, json!({"error": "this was not signed by the gateway"}));
        }
        if at(&event, "/type") == "message.received" {
            let this = self.clone();
            tokio::spawn(async move { this.speak(index, id, &session, &text).await });
        }
        (200, json!({}))
    }

    async fn speak(&self, index: usize, event: String, session: &str, text: &str) {
        let (Some(voice), Some(gateway)) = (self.world.voices.get(index), self.gateway.get()) else { return };
        let (status, code) = self.say(voice, gateway, &event, session, text).await;
        let _ = self.tell.send(Heard::Answered { at: Instant::now(), event, status, code });
    }

    /// The event's id is the idempotency key: however often the event comes, it is answered once.
    async fn say(&self, voice: &Voice, gateway: &str, event: &str, session: &str, text: &str) -> (u16, Option<String>) {
        let request = WireRequest {
            method: Method::POST,
            url: Secret::new(format!("{gateway}/v1/messages")),
            headers: vec![
                ("authorization", Secret::new(format!("Bearer {}", voice.token.expose()))),
                ("content-type", Secret::new("application/json".into())),
                ("idempotency-key", Secret::new(event.to_owned())),
            ],
            body: json!({"session": session, "text": format!("echo: {text}")}).to_string().into(),
        };
        match self.transport.send(request, TIMEOUT_MS, ANSWER_BYTES_MAX).await {
            Ok(answer) => {
                let body: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
                (answer.status, at(&body, "/code").as_str().map(str::to_owned))
            }
            Err(error) => (0, Some(error.to_string())),
        }
    }
}

/// Whether the gateway signed the request: `webhook-signature` holds `v1,` and the base64 of the MAC over id, time and body.
fn proved(secret: &Secret, asked: &Asked, now_s: i64) -> bool {
    let (id, time) = (asked.header("webhook-id"), asked.header("webhook-timestamp"));
    let fresh = time.parse::<i64>().is_ok_and(|time| (now_s - time).abs() <= TOLERANCE_S);
    let key = secret.expose().strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok()).and_then(|key| MacKey::new(&key));
    let (true, Some(key)) = (fresh && !id.is_empty(), key) else { return false };
    asked.header("webhook-signature").split(' ').filter_map(|word| word.strip_prefix("v1,")).any(|signature| {
        let digest: Option<[u8; 32]> = STANDARD.decode(signature).ok().and_then(|mac| mac.try_into().ok());
        digest.is_some_and(|digest| key.verify(&[id.as_bytes(), b".", time.as_bytes(), b".", &asked.body], &digest))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::cloudevent::signature;
    use crate::domain::clock::Timestamp;
    use bytes::Bytes;

    fn asked(secret: &Secret, at_s: i64, body: &'static str) -> Asked {
        let signed = signature(secret, "evt_1", Timestamp::from_secs(at_s), body.as_bytes()).unwrap();
        let mut headers = http::HeaderMap::new();
        for (name, value) in [("webhook-id", "evt_1"), ("webhook-timestamp", &at_s.to_string()), ("webhook-signature", &signed)] {
            headers.insert(http::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        Asked { method: Method::POST, path: "/helper".into(), query: None, headers, body: Bytes::from_static(body.as_bytes()) }
    }

    #[test]
    fn only_the_gateway_is_believed() {
        let (ours, theirs) =
            (Secret::new("whsec_SJTJJ/UqECrncrEsDIdjEXCOe4prXNWO".into()), Secret::new("whsec_SJTJJ/UqECrncrEsDIdjEXCOe4prXNWP".into()));
        assert!(proved(&ours, &asked(&ours, 1_000, "{}"), 1_300));
        assert!(!proved(&ours, &asked(&ours, 1_000, "{}"), 1_301), "old");
        assert!(!proved(&ours, &asked(&theirs, 1_000, "{}"), 1_000), "a stranger's");
        let mut tampered = asked(&ours, 1_000, "{}");
        tampered.body = Bytes::from_static(b"{ }");
        assert!(!proved(&ours, &tampered, 1_000), "tampered");
    }
}
