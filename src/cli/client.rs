//! Talks to a running gateway's operator listener.

use http::Method;
use serde_json::Value;

use super::{CliError, Target};
use crate::authn::operator::Operators;
use crate::domain::secret::Secret;
use crate::transport::{Transport, TransportError};
use crate::wire::{Payload, WireRequest, WireResponse};

const TIMEOUT_MS: u64 = 30_000;
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Target {
    fn base(&self) -> String {
        self.server.clone().unwrap_or_else(|| format!("http://{}", self.config.listen.operator)).trim_end_matches('/').to_owned()
    }

    fn token(&self) -> Result<Secret, CliError> {
        if self.token_file.is_none()
            && let Ok(token) = std::env::var("BYOA_OPERATOR_TOKEN")
        {
            return Operators::first_token_of("BYOA_OPERATOR_TOKEN", &token).map_err(|f| CliError::Unable(f.detail));
        }
        let file = self.token_file.as_ref().unwrap_or(&self.config.operators.token_file);
        Operators::first_token(file).map_err(|f| CliError::Unable(format!("{}; name another with --token-file", f.detail)))
    }

    /// Calls the operator API. A problem it answers is what was found: exit 1.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CliError> {
        let token = self.token()?;
        let request = WireRequest {
            method,
            url: Secret::new(format!("{}{path}", self.base())),
            headers: vec![
                ("authorization", Secret::new(format!("Bearer {}", token.expose()))),
                ("content-type", Secret::new("application/json".into())),
            ],
            body: body.map_or_else(Payload::default, |b| b.to_string().into()),
        };
        let response = self.send(request, &self.base()).await?;
        let answer: Value = if response.body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&response.body).map_err(|_| {
                CliError::Unable(format!("{} answered {} and no JSON: is it a gateway's operator listener?", self.base(), response.status))
            })?
        };
        if (200..300).contains(&response.status) {
            return Ok(answer);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        Err(CliError::Found(format!("{}: {} ({})", text("code"), text("detail"), text("request_id"))))
    }

    /// Sends one request to a gateway.
    pub(super) async fn send(&self, request: WireRequest, base: &str) -> Result<WireResponse, CliError> {
        let transport = match self.transport.get() {
            Some(transport) => transport,
            None => {
                let made = Transport::providers().map_err(|f| CliError::Unable(f.detail))?;
                self.transport.get_or_init(|| made)
            }
        };
        transport.send(request, TIMEOUT_MS, ANSWER_BYTES_MAX).await.map_err(|error| {
            let why = match error {
                TransportError::NotSent(why) | TransportError::Reset(why) => why,
                TransportError::Timeout { .. } => "it did not answer in time".into(),
                TransportError::DialForbidden | TransportError::AnswerTooLarge => "its answer cannot be used".into(),
            };
            CliError::Unable(format!("no gateway at {base}: {why}; start one with `byoa serve`, or name it with --server"))
        })
    }
}
