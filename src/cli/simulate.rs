//! `byoa simulate`: a signed webhook that the gateway makes and sends to itself, and what became of it.

use http::Method;
use serde_json::Value;

use super::show::cell;
use super::{CliError, Target};

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) async fn run(target: &Target, ask: Value) -> Result<(), CliError> {
    let expect_refusal = !ask.get("fault").is_none_or(Value::is_null);
    let answer = target.call(Method::POST, "/v1/simulate", Some(&ask)).await?;
    let odd = || CliError::Unable("the gateway's answer is not what this build expects".into());
    let status = answer.get("status").and_then(Value::as_u64).ok_or_else(odd)?;
    let (outcome, code) = (text(&answer, "outcome"), text(&answer, "code"));
    let why = if code.is_empty() { String::new() } else { format!(" ({code})") };
    anstream::println!("{} {} → {status} {outcome}{why}", text(&ask, "provider"), text(&ask, "kind"));
    let list = |name: &str| answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for event in list("events").iter().filter(|event| event.get("id").is_some_and(Value::is_string)) {
        let agent = cell(event.get("agent").unwrap_or(&Value::Null));
        anstream::println!("  {} to agent {agent}, permitted by {}", text(event, "id"), policies(event));
    }
    for refusal in list("refusals") {
        anstream::println!("  {}: {}", text(refusal, "code"), text(refusal, "meaning"));
    }
    if outcome == "refused" && !expect_refusal {
        return Err(CliError::Found(format!("the gateway answered {status}: {code}: {}", text(&answer, "meaning"))));
    }
    Ok(())
}

/// The policies behind the last decision.
fn policies(event: &Value) -> String {
    let last = event.get("decisions").and_then(Value::as_array).and_then(|all| all.last());
    let names = last.and_then(|d| d.get("policies")).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    names.iter().map(cell).collect::<Vec<_>>().join(", ")
}
