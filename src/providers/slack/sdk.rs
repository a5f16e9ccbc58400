//! Slack's SDKs: the Web API by its methods. Part of `providers::slack`, floor 2.

use http::Method;
use serde_json::{Map, Value, json};

use super::Slack;
use super::methods::{METHODS, RESERVED, SHARE, UPLOAD, WHO};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{Effect, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers::methods::{Sort, find};
use crate::providers::sdk::{Asked, Kind, Located, Place, Refused, Sdk, Told, Untold, plain_receipt, request, segments};
use crate::providers::who;
use crate::wire::form::Written;
use crate::wire::{WireRequest, WireResponse};

impl Sdk for Slack {
    fn locate<'p>(&self, path: &'p str) -> Option<Located<'p>> {
        if let Some(ticket) = path.strip_prefix("upload/") {
            return Some(Located { token: None, ticket: Some(ticket), path: Vec::new() });
        }
        match segments(path)?.as_slice() {
            ["api", method] => Some(Located { token: None, ticket: None, path: vec![method] }),
            _ => None,
        }
    }

    /// <https://docs.slack.dev/authentication/tokens>
    fn token_argument(&self) -> Option<&'static str> {
        Some("token")
    }

    fn tell(&self, asked: &Asked<'_>, account: &ExternalAccount) -> Result<Told, Untold> {
        let ExternalAccount::Slack { team_id, .. } = account else { return Err(Untold::UNKNOWN) };
        if asked.upload.is_some() {
            return Ok(Told::quiet(UPLOAD, Kind::File, Effect::Write, None));
        }
        let &[method] = asked.parts().as_slice() else { return Err(Untold::UNKNOWN) };
        if !matches!(*asked.http, Method::GET | Method::POST) {
            return Err(Untold::invalid("Slack's methods are called with GET or POST"));
        }
        let arguments = asked.arguments;
        // An org-wide app names the workspace with each call; any other is in one, which is the installation's.
        if team_id.is_some() && arguments.text("team_id")?.is_some_and(|team| team_id.as_ref() != Some(&team)) {
            return Err(Untold::invalid("`team_id` is another workspace than the installation's"));
        }
        let Some(entry) = find(METHODS, method) else {
            return Err(if RESERVED.iter().any(|prefix| method.starts_with(prefix)) { Untold::RESERVED } else { Untold::UNKNOWN });
        };
        who::check(&WHO, entry, arguments)?;
        let mut conversation = entry.place.map(|place| arguments.text(place)).transpose()?.flatten();
        let mut speaks = entry.sort == Sort::Speaks;
        // Without a conversation the file is the app's own and nobody is shown it.
        if method == SHARE {
            conversation = match (arguments.text("channel_id")?, arguments.text("channels")?) {
                (None, None) => None,
                (Some(channel), None) | (None, Some(channel)) if !channel.contains(',') => Some(channel),
                _ => return Err(Untold::invalid("name one conversation for the file")),
            };
            speaks = conversation.is_some();
        }
        if !speaks {
            return Ok(Told::quiet(method, Kind::Plain, entry.effect, conversation));
        }
        let conversation = conversation.ok_or(Untold::invalid("name the conversation"))?;
        Ok(Told::message(method, entry.effect, conversation, arguments.text("thread_ts")?))
    }

    fn rebuild(
        &self,
        asked: &Asked<'_>,
        _: &ExternalAccount,
        written: &Written,
        credential: &Secret,
        api_base: &str,
    ) -> Result<WireRequest, ReasonCode> {
        // Slack's address for an upload is its own permission; a token is not wanted there.
        if let Some(url) = asked.upload {
            return Ok(request(&Method::POST, url.to_owned(), written, None));
        }
        let &[method] = asked.parts().as_slice() else { return Err(ReasonCode::EgressMessageInvalid) };
        Ok(request(asked.http, format!("{}/{method}", api_base.trim_end_matches('/')), written, Some(credential)))
    }

    fn receipt(&self, response: &WireResponse) -> SendReceipt {
        plain_receipt(ProviderKind::Slack, response)
    }

    /// <https://docs.slack.dev/reference/objects/file-object>. An upload's address is that of the one answer that gives one out.
    fn relink(&self, told: &Told, body: &[u8], link: &dyn Fn(Place<'_>) -> Option<String>) -> Result<Option<Vec<u8>>, ReasonCode> {
        let says = |word: &[u8]| memchr::memmem::find(body, word).is_some();
        if !says(b"\"url_private") && !says(b"\"upload_url\"") {
            return Ok(None);
        }
        let invalid = |_| ReasonCode::EgressOutcomeUnknown;
        let mut answer: Value = serde_json::from_slice(body).map_err(invalid)?;
        let upload = answer.as_object_mut().and_then(|fields| fields.remove("upload_url"));
        relink(&mut answer, Standing::Above, link);
        if let (Some(Value::String(url)), true, Some(fields)) = (upload, told.method == UPLOAD, answer.as_object_mut()) {
            fields.extend(link(Place::Upload(&url)).map(|link| ("upload_url".to_owned(), link.into())));
        }
        serde_json::to_vec(&answer).map(Some).map_err(invalid)
    }

    /// <https://docs.slack.dev/apis/web-api/#responses>: the status is 200 whatever happened, but for 429.
    fn refusal(&self, refused: &Refused<'_>) -> (u16, Value) {
        let (status, error) = match refused.code.status() {
            401 => (200, "invalid_auth"),
            429 => (429, "ratelimited"),
            // The call was not read: SDKs repeat it after a while, as they do when Slack itself answers so.
            503 if refused.code == ReasonCode::IngressMemoryFull => (503, "service_unavailable"),
            _ => (200, "byoa_refused"),
        };
        let body = json!({
            "ok": false,
            "error": error,
            "byoa": {"code": refused.code, "detail": refused.detail, "request_id": refused.request},
            "response_metadata": {"messages": [format!("[ERROR] {}", refused.text())]},
        });
        (status, body)
    }
}

/// Names on the way to a message's file. What stands behind any other, as in a message's metadata, somebody wrote there.
const ABOVE_FILES: &[&str] = &["channel", "item", "items", "latest", "message", "messages"];

/// The place of a value in an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// The fields in which Slack puts messages.
    Above,
    /// The fields in which Slack puts a file.
    File,
    /// Anywhere else.
    Within,
}

fn relink(value: &mut Value, standing: Standing, link: &dyn Fn(Place<'_>) -> Option<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| relink(item, standing, link)),
        Value::Object(fields) => {
            fields.remove("upload_url");
            if fields.keys().any(|name| name.starts_with("url_private")) {
                relink_file(fields, standing == Standing::File, link);
            }
            for (name, field) in fields {
                let below = match name.as_str() {
                    "file" | "files" if standing == Standing::Above => Standing::File,
                    name if standing == Standing::Above && ABOVE_FILES.contains(&name) => Standing::Above,
                    _ => Standing::Within,
                };
                relink(field, below, link);
            }
        }
        _ => {}
    }
}

/// The file itself by the gateway's address; its previews, which have no id, not at all. What only looks like a file loses its
/// addresses: a ticket for the id that stands there would be one for any file of the workspace.
fn relink_file(file: &mut Map<String, Value>, is_file: bool, link: &dyn Fn(Place<'_>) -> Option<String>) {
    let id = file.get("id").and_then(Value::as_str).filter(|_| is_file).map(str::to_owned);
    let own = |name: &str| matches!(name, "url_private" | "url_private_download");
    let preview =
        |name: &str| ["thumb_", "url_", "mp4", "hls", "converted_pdf", "deanimate_gif", "pjpeg", "vtt"].iter().any(|p| name.starts_with(p));
    file.retain(|name, value| own(name) || !preview(name) || !value.as_str().is_some_and(|v| v.starts_with("http")));
    for name in ["url_private", "url_private_download"] {
        if file.remove(name).is_some() {
            file.extend(id.as_deref().and_then(|id| link(Place::File(id))).map(|link| (name.to_owned(), link.into())));
        }
    }
}
