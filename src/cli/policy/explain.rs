//! `byoa policy explain`: why a request, a recorded decision or everything decided about an event came out as it did.

mod shown;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use http::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::{CliError, ExplainFormat, Place, Target};
use crate::domain::installation::{Binding, Installation};
use crate::domain::message::Normal;
use crate::policy::Snapshot;
use crate::policy::case::Case;
use crate::policy::explain::{Explanation, Verdict};
use crate::routing::{Standing, standings};

pub(super) struct Wanted {
    pub request: Option<PathBuf>,
    pub decision: Option<String>,
    pub event: Option<String>,
}

/// A recorded decision, and what the law on disk makes of it.
#[derive(Serialize)]
struct Again {
    id: String,
    at: String,
    recorded: Recorded,
    /// Whether the law on disk is the one that decided.
    same_version: bool,
    /// Whether the answer would be the same: yes or no, code and policies.
    same_answer: bool,
    explanation: Explanation,
}

#[derive(Serialize)]
struct Recorded {
    allowed: bool,
    code: Option<String>,
    policies: Vec<String>,
    version: String,
}

/// How the bindings of an event's installation fare with it, as they are declared now.
#[derive(Serialize)]
struct Fared {
    #[serde(flatten)]
    binding: Binding,
    #[serde(flatten)]
    standing: Standing,
}

pub(super) async fn run(place: &Place, target: &Target, wanted: Wanted, format: ExplainFormat) -> Result<(), CliError> {
    let law = place.snapshot()?;
    let (json, text) = match wanted {
        Wanted { request: Some(file), .. } => {
            let explanation = request(&law, &file)?;
            (json!(explanation), shown::explanation(&explanation))
        }
        Wanted { decision: Some(id), .. } => {
            let decision = target.call(Method::GET, &format!("/v1/decisions/{}", plain(&id)?), None).await?;
            let again = again(&law, &decision)?;
            (json!(again), shown::again(&again))
        }
        Wanted { event, .. } => {
            let id = event.unwrap_or_default();
            let journey = target.call(Method::GET, &format!("/v1/events/{}", plain(&id)?), None).await?;
            let decisions = journey
                .get("decisions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|row| again(&law, row))
                .collect::<Result<Vec<_>, _>>()?;
            let bindings = bindings(target, &journey).await?;
            let text = shown::event(&journey, &decisions, bindings.as_deref());
            (json!({"event": id, "decisions": decisions, "bindings": bindings}), text)
        }
    };
    match format {
        ExplainFormat::Human => anstream::print!("{text}"),
        ExplainFormat::Json => {
            anstream::println!("{}", serde_json::to_string_pretty(&json).map_err(|e| CliError::Unable(e.to_string()))?)
        }
    }
    Ok(())
}

/// An id that can stand in a path.
fn plain(id: &str) -> Result<&str, CliError> {
    let fits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits { Ok(id) } else { Err(CliError::Unable("ids are letters, digits, - and _".into())) }
}

fn request(law: &Snapshot, file: &Path) -> Result<Explanation, CliError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    read.map_err(|e| CliError::Unable(format!("{}: cannot be read: {e}", file.display())))?;
    let found = |why: String| CliError::Found(format!("{}: {why}", file.display()));
    let value: Value = serde_json::from_str(&text).map_err(|e| found(format!("not JSON: {e}")))?;
    explained(law, &value).map_err(found)
}

/// A request, or a decision as it is recorded.
fn explained(law: &Snapshot, value: &Value) -> Result<Explanation, String> {
    // One that never became a request has no facts, and says why.
    if let Some(why) = value.pointer("/facts/unfit").and_then(Value::as_str) {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let case = Case {
            action: text("action"),
            principal: text("principal"),
            resource: text("resource"),
            context: Value::Null,
            entities: Value::Null,
        };
        return Ok(law.inapplicable(&case, why.to_owned()));
    }
    law.explain(&Case::written(value)?)
}

fn again(law: &Snapshot, row: &Value) -> Result<Again, CliError> {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let id = text("id");
    let explanation = explained(law, row).map_err(|why| CliError::Found(format!("{id}: {why}")))?;
    let recorded = Recorded {
        allowed: row["allowed"] == true,
        code: row["code"].as_str().map(str::to_owned),
        policies: row["policies"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        version: text("version"),
    };
    let same_answer = recorded.allowed == (explanation.verdict == Verdict::Permitted)
        && recorded.code.as_deref() == explanation.code.map(|code| code.as_str())
        && *recorded.policies == *explanation.deciding;
    Ok(Again { id, at: text("at"), same_version: recorded.version == *explanation.version, same_answer, recorded, explanation })
}

/// None where the installation is gone.
async fn bindings(target: &Target, journey: &Value) -> Result<Option<Vec<Fared>>, CliError> {
    let (Some(org), Some(id)) = (journey["org"].as_str(), journey["installation"].as_str()) else { return Ok(None) };
    let answer = target.call(Method::GET, &format!("/v1/bindings?org={}", plain(org)?), None).await?;
    let installation: Installation = match target.call(Method::GET, &format!("/v1/installations/{}", plain(id)?), None).await {
        Ok(shown) => read(shown)?,
        Err(CliError::Found(_)) => return Ok(None),
        Err(error) => return Err(error),
    };
    let normal: Normal = read(journey["normal"].clone())?;
    let all: Vec<Binding> = read(answer.get("items").cloned().unwrap_or_default())?;
    // The installation's own, and those that name a provider only.
    let looked_at: Vec<Binding> =
        all.into_iter().filter(|binding| binding.installation.as_ref().is_none_or(|named| *named == installation.id)).collect();
    let only = only_one(target, &installation).await?;
    let fared = standings(&looked_at, &installation, only, &normal);
    let mut fared: Vec<Fared> = looked_at.into_iter().zip(fared).map(|(binding, standing)| Fared { binding, standing }).collect();
    fared.sort_by_key(|f| f.standing != Standing::Hears);
    Ok(Some(fared))
}

/// Whether the org has no other installation of that provider that hears events.
async fn only_one(target: &Target, installation: &Installation) -> Result<bool, CliError> {
    let answer = target.call(Method::GET, &format!("/v1/installations?org={}", installation.org), None).await?;
    let all: Vec<Installation> = read(answer.get("items").cloned().unwrap_or_default())?;
    Ok(all.iter().filter(|i| i.provider == installation.provider && i.org == installation.org && i.status.hears()).count() == 1)
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, CliError> {
    serde_json::from_value(value).map_err(|e| CliError::Unable(format!("the gateway's answer does not read, is it another version? {e}")))
}
