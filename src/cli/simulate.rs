//! `byoa simulate`: a signed webhook, made by the gateway, posted from here.

use base64::Engine as _;
use http::Method;
use serde_json::Value;

use super::{CliError, Target};
use crate::domain::secret::Secret;
use crate::wire::WireRequest;

fn text<'v>(value: &'v Value, name: &str) -> Option<&'v str> {
    value.get(name).and_then(Value::as_str)
}

pub(super) async fn run(target: &Target, ask: Value, public_server: Option<String>) -> Result<(), CliError> {
    let expect_refusal = !ask.get("fault").is_none_or(Value::is_null);
    let made = target.call(Method::POST, "/v1/simulate", Some(&ask)).await?;
    let odd = || CliError::Unable("the gateway's answer is not what this build expects".into());
    let base = public_server.unwrap_or_else(|| format!("http://{}", target.config.listen.public)).trim_end_matches('/').to_owned();
    let path = text(&made, "path").ok_or_else(odd)?;
    let body = base64::engine::general_purpose::STANDARD.decode(text(&made, "body_base64").ok_or_else(odd)?).map_err(|_| odd())?;
    let mut headers = Vec::new();
    for pair in made.get("headers").and_then(Value::as_array).ok_or_else(odd)? {
        let (Some(name), Some(value)) = (pair[0].as_str(), pair[1].as_str()) else { return Err(odd()) };
        headers.push((name.to_owned(), value.to_owned()));
    }
    // Header names of a request outlive it; there are a handful of them in a short-lived process.
    let headers = headers.into_iter().map(|(n, v)| (&*n.leak(), Secret::new(v))).collect();
    let request = WireRequest { method: Method::POST, url: Secret::new(format!("{base}{path}")), headers, body: body.into() };
    let answer = target.send(request, &base).await?;
    anstream::println!(
        "{} {} {path} → {}",
        text(&ask, "provider").unwrap_or_default(),
        text(&ask, "kind").unwrap_or_default(),
        answer.status
    );
    let accepted = answer.status == 200;
    if accepted || expect_refusal {
        return Ok(());
    }
    Err(CliError::Found(format!("the gateway answered {}", answer.status)))
}
