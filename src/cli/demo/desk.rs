//! The driver's hands: it posts webhooks as a provider would and asks the operator API as an operator would.
//!
//! Owns the two addresses and the operator's token. Never reaches into the gateway in any other way. Floor 11.

use bytes::Bytes;
use http::Method;
use serde_json::Value as Json;

use super::at;
use super::world::Seat;
use crate::domain::clock::Clock;
use crate::domain::installation::ExternalAccount;
use crate::domain::secret::Secret;
use crate::providers::{self, Sample};
use crate::transport::Transport;
use crate::wire::{WireRequest, WireResponse};

const TIMEOUT_MS: u64 = 10_000;
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A request as its provider would make it; it can be made twice.
#[derive(Clone)]
pub(super) struct Webhook {
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
}

impl Webhook {
    /// Somebody writes `text` at `seat`. The body names `account` and is proved with `signing`; who means well takes the
    /// seat's own of both.
    pub(super) fn new(seat: &Seat, account: &ExternalAccount, signing: &Secret, text: &str, clock: &Clock) -> Result<Self, String> {
        let provider = providers::of(seat.provider);
        let nonce = crate::crypto::random::<8>().map_err(|e| e.to_string())?;
        let now = clock.now();
        let sample = Sample {
            kind: "message",
            account,
            app_id: seat.app_id,
            conversation: seat.conversation,
            text,
            nonce: u64::from_le_bytes(nonce) >> 16,
            now,
        };
        let (body, media_type) = provider.sample(&sample).ok_or("the provider has no sample of a message")?;
        let mut headers = provider.sign(&body, signing, now);
        headers.push(("content-type", media_type.to_owned()));
        Ok(Self { path: seat.path(), headers, body: body.into() })
    }
}

/// What is counted before and after a request, to see what it left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    /// Webhooks that ended in the way that is looked for.
    pub ended: u64,
    /// Deliveries in the store.
    pub deliveries: u64,
    /// Refusals in the store.
    pub refusals: u64,
}

/// Calls the two listeners.
pub(super) struct Desk {
    /// Where webhooks go.
    pub public: String,
    /// Where operators ask.
    pub operator: String,
    /// Signs and dates.
    pub clock: Clock,
    token: Secret,
    transport: Transport,
}

impl Desk {
    pub(super) fn new(public: String, operator: String, token: Secret, transport: Transport, clock: Clock) -> Self {
        Self { public, operator, clock, token, transport }
    }

    /// Posts a webhook; the status is all a provider hears.
    pub(super) async fn post(&self, webhook: &Webhook) -> Result<u16, String> {
        let request = WireRequest {
            method: Method::POST,
            url: Secret::new(format!("{}{}", self.public, webhook.path)),
            headers: webhook.headers.iter().map(|(name, value)| (*name, Secret::new(value.clone()))).collect(),
            body: webhook.body.clone().into(),
        };
        self.send(request).await.map(|answer| answer.status)
    }

    async fn send(&self, request: WireRequest) -> Result<WireResponse, String> {
        self.transport.send(request, TIMEOUT_MS, ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<WireResponse, String> {
        let headers = vec![
            ("authorization", Secret::new(format!("Bearer {}", self.token.expose()))),
            ("content-type", Secret::new("application/json".into())),
        ];
        self.send(WireRequest { method, url: Secret::new(format!("{}{path}", self.operator)), headers, body: body.into() }).await
    }

    /// Declares the cast.
    pub(super) async fn apply(&self, document: &Json) -> Result<(), String> {
        let answer = self.ask(Method::POST, "/v1/apply", document.to_string().into()).await?;
        let problem: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
        let why = || format!("the gateway did not take the demo's resources: {} {}", at(&problem, "/code"), at(&problem, "/detail"));
        if answer.status == 200 { Ok(()) } else { Err(why()) }
    }

    /// Reads from the operator API.
    pub(super) async fn get(&self, path: &str) -> Result<Json, String> {
        let answer = self.ask(Method::GET, path, Bytes::new()).await?;
        if answer.status != 200 {
            return Err(format!("{path}: the gateway answered {}", answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| format!("{path}: {error}"))
    }

    /// Whether a page stands there.
    pub(super) async fn is_page(&self, path: &str) -> bool {
        self.ask(Method::GET, path, Bytes::new()).await.is_ok_and(|answer| answer.status < 400)
    }

    /// The rows of a listing, newest first.
    pub(super) async fn rows(&self, path: &str) -> Result<Vec<Json>, String> {
        match self.get(path).await?.get_mut("items").map(Json::take) {
            Some(Json::Array(rows)) => Ok(rows),
            _ => Err(format!("{path}: no items")),
        }
    }

    /// Counts how often webhooks ended with this outcome and reason, and what the store holds.
    pub(super) async fn tally(&self, outcome: &str, reason: &str) -> Result<Tally, String> {
        let metrics = self.ask(Method::GET, "/metrics", Bytes::new()).await?;
        let labels = [format!("outcome=\"{outcome}\""), format!("reason=\"{reason}\"")];
        let text = String::from_utf8_lossy(&metrics.body);
        let of_it = text.lines().filter(|l| l.starts_with("byoa_ingress_requests_total{") && labels.iter().all(|label| l.contains(label)));
        let ended = of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
        let count = |rows: Vec<Json>| u64::try_from(rows.len()).unwrap_or(u64::MAX);
        let deliveries = count(self.rows("/v1/deliveries?limit=1000").await?);
        let refusals = count(self.rows("/v1/refusals?limit=1000").await?);
        Ok(Tally { ended, deliveries, refusals })
    }
}
