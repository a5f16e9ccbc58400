//! What Slack's events say of the installation itself, and how its tokens are refreshed. Floor 2.

use serde_json::Value;

use super::super::{OauthClient, Refresh, error_word, printable};
use super::{CREDENTIAL_DEAD, FORM, RATE_LIMITED, UNAVAILABLE};
use crate::domain::clock::Timestamp;
use crate::domain::installation::{ExternalAccount, InstallationStatus};
use crate::domain::lifecycle::{LifecycleChange, LifecycleNews, Place, StatusReason};
use crate::domain::message::{EventKind, InboundEvent};
use crate::domain::secret::Secret;
use crate::wire::json::{self, Json};
use crate::wire::{WireRequest, WireResponse};

/// <https://docs.slack.dev/reference/events/app_uninstalled>, <https://docs.slack.dev/reference/events/tokens_revoked>: they
/// come in any order; each alone is the end. An app has one bot user per workspace, so a bot token named there is this one's.
pub(super) fn news(event: &InboundEvent) -> Option<LifecycleNews> {
    use EventKind as K;
    if !matches!(event.kind, K::Uninstalled | K::TokensRevoked | K::WorkspaceRemoved | K::WorkspaceAdded | K::ChatMigrated) {
        return None;
    }
    // Parsed before, strictly, or there were no event.
    let doc = json::parse(&event.raw).ok()?;
    let said = doc.at("event");
    let teams = || -> Vec<String> { said.at("team_ids").items().iter().filter_map(|t| t.str().map(str::to_owned)).collect() };
    let change = match event.kind {
        K::Uninstalled => LifecycleChange::Status(InstallationStatus::Revoked, StatusReason::Uninstalled),
        K::TokensRevoked => LifecycleChange::Status(InstallationStatus::Revoked, StatusReason::TokensRevoked),
        K::WorkspaceRemoved => LifecycleChange::WorkspacesRemoved(teams()),
        K::WorkspaceAdded => LifecycleChange::WorkspacesAdded(teams()),
        // <https://docs.slack.dev/reference/events/channel_id_changed>
        _ => {
            let id = |field: &str| text(said.at(field));
            LifecycleChange::Place { conversation: id("old_channel_id")?, place: Place::Moved { to: id("new_channel_id")? } }
        }
    };
    Some(LifecycleNews { change, happened: doc.at("event_time").int().and_then(|s| s.try_into().ok()).map(Timestamp::from_secs) })
}

fn text(value: &Json<'_>) -> Option<String> {
    value.str().filter(|t| !t.is_empty() && t.len() <= 64).map(str::to_owned)
}

/// <https://docs.slack.dev/authentication/using-token-rotation>
pub(super) fn refresh(client: &OauthClient<'_>, token: &Secret, api_base: &str) -> WireRequest {
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("client_id", client.id)
        .append_pair("client_secret", client.secret.expose())
        .append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", token.expose())
        .finish();
    WireRequest {
        method: http::Method::POST,
        url: Secret::new(format!("{}/oauth.v2.access", api_base.trim_end_matches('/'))),
        headers: vec![("content-type", Secret::new(FORM.to_owned()))],
        body: form.into(),
    }
}

/// Reads the answer. Whose tokens they are is said in it, and nothing else is believed about that.
pub(super) fn refreshed(response: &WireResponse, account: &ExternalAccount, app_id: Option<&str>) -> Refresh {
    let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let field = |name: &str| answer.get(name).and_then(Value::as_str).filter(|t| printable(t));
    if answer.get("ok") != Some(&Value::Bool(true)) {
        let word = answer.get("error").and_then(Value::as_str).map(error_word);
        let later = |w: &str| RATE_LIMITED.contains(&w) || UNAVAILABLE.contains(&w);
        return match word {
            Some(word) if response.status < 500 && response.status != 429 && !later(&word) => Refresh::Refused { error: word },
            word => Refresh::Trouble { error: word.unwrap_or_else(|| format!("http {}", response.status)) },
        };
    }
    let id = |of: &str| answer.get(of).and_then(|o| o.get("id")).and_then(Value::as_str);
    let ExternalAccount::Slack { team_id, enterprise_id } = account else {
        return Refresh::Refused { error: "the account is no Slack one".to_owned() };
    };
    let differs = |said: Option<&str>, ours: Option<&str>| matches!((said, ours), (Some(said), Some(ours)) if said != ours);
    let stranger = differs(id("team"), team_id.as_deref())
        || (team_id.is_none() && differs(id("enterprise"), enterprise_id.as_deref()))
        || differs(field("app_id"), app_id);
    if stranger {
        return Refresh::Refused { error: "the new tokens are another account's".to_owned() };
    }
    match (field("access_token"), field("refresh_token")) {
        (Some(access), Some(refresh)) => Refresh::Pair {
            credential: Secret::new(access.to_owned()),
            refresh_token: Secret::new(refresh.to_owned()),
            expires_in_s: answer.get("expires_in").and_then(Value::as_i64),
        },
        _ => Refresh::Trouble { error: "unreadable answer".to_owned() },
    }
}

/// The one way in which a token dies that a refresh mends.
pub(super) fn has_expired(response: &WireResponse) -> bool {
    let answer: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let word = answer.get("error").and_then(Value::as_str).filter(|w| CREDENTIAL_DEAD.contains(w));
    word == Some("token_expired")
}
