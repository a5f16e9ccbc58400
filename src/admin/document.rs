//! A document of declared resources: how it is read, and what is said of one that cannot be.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value as Json;

use super::AdminError;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId};
use crate::domain::installation::{
    AgentStatus, AnswerKind, DeliveryFormat, ExternalAccount, Former, InstallationStatus, Mode, Ownership, ProviderKind, Selector,
    SessionScope,
};
use crate::domain::quota::Quotas;
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;

/// A document of resources. Secrets come as values; whoever read the file has put the environment's and files' in.
#[derive(Debug, Default)]
pub struct Document {
    pub(super) orgs: Vec<OrgSpec>,
    pub(super) agents: Vec<AgentSpec>,
    pub(super) profiles: Vec<ProfileSpec>,
    pub(super) installations: Vec<InstallationSpec>,
    pub(super) bindings: Vec<BindingSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SecretSpec {
    pub(super) value: Secret,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreviousSpec {
    pub(super) value: Secret,
    pub(super) until: Option<Timestamp>,
}

/// What an installation sends with: for good, until a time, or until it is refreshed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialSpec {
    pub(super) value: Secret,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) refresh_token: Option<SecretSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OauthSpec {
    pub(super) client_id: String,
    pub(super) client_secret: Option<SecretSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrgSpec {
    pub(super) id: OrgId,
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) suspended: bool,
    #[serde(default)]
    pub(super) fallback_opt_in: BTreeSet<ProviderKind>,
    #[serde(default)]
    pub(super) quotas: Quotas,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentSpec {
    pub(super) id: AgentId,
    pub(super) org: Option<OrgId>,
    pub(super) endpoint: String,
    #[serde(default)]
    pub(super) format: DeliveryFormat,
    #[serde(default)]
    pub(super) synchronous: BTreeSet<AnswerKind>,
    pub(super) signing_secret: Option<SecretSpec>,
    pub(super) token: Option<SecretSpec>,
    pub(super) status: Option<AgentStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProfileSpec {
    pub(super) id: ProfileId,
    pub(super) provider: ProviderKind,
    pub(super) owner: Ownership,
    /// Follows from the owner; where it is said, it must be so.
    pub(super) mode: Option<Mode>,
    pub(super) app_id: Option<String>,
    pub(super) ingress_id: Option<String>,
    pub(super) signing_secret: Option<SecretSpec>,
    pub(super) previous_signing_secret: Option<PreviousSpec>,
    pub(super) verify_token: Option<SecretSpec>,
    pub(super) oauth: Option<OauthSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InstallationSpec {
    pub(super) id: InstallationId,
    pub(super) profile: ProfileId,
    pub(super) org: OrgId,
    pub(super) account: Json,
    /// Follows from the profile; where it is said, it must be so.
    pub(super) mode: Option<Mode>,
    pub(super) credential: Option<CredentialSpec>,
    pub(super) status: Option<InstallationStatus>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BindingSpec {
    pub(super) id: BindingId,
    pub(super) org: OrgId,
    /// Left out, the binding is a legacy one: it names its provider in `select`, and means the org's one installation of it.
    pub(super) installation: Option<InstallationId>,
    /// Follows from the installation; where it is said, it must be so. A legacy one says it or hears either.
    pub(super) mode: Option<Mode>,
    #[serde(default)]
    pub(super) select: Selector,
    pub(super) agent: AgentId,
    #[serde(default = "default_priority")]
    pub(super) priority: i64,
    #[serde(default = "yes")]
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) session: SessionScope,
    #[serde(default)]
    pub(super) allow_platform_fallback: bool,
    /// A legacy one's: what an earlier system knew its installation by.
    pub(super) former: Option<Former>,
}

fn default_priority() -> i64 {
    100
}

fn yes() -> bool {
    true
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// `admin.resource_invalid`, with kind, place and id of what is wrong.
    pub fn read(document: Json) -> Result<Self, AdminError> {
        let invalid = |what: String| AdminError::new(ReasonCode::AdminResourceInvalid, what);
        let Json::Object(kinds) = document else {
            return Err(invalid("a document is an object of orgs, agents, profiles, installations, bindings".into()));
        };
        let mut all = Self::default();
        for (kind, items) in kinds {
            let items = match items {
                Json::Array(items) => items,
                Json::Null => Vec::new(),
                _ => return Err(invalid(format!("{kind}: is no list"))),
            };
            for (n, item) in items.into_iter().enumerate() {
                let id = item.get("id").and_then(Json::as_str).map(|id| format!(" `{id}`")).unwrap_or_default();
                secrets_in_form(&item).map_err(|what| invalid(format!("{kind}[{n}]{id}: {what}")))?;
                let read = match kind.as_str() {
                    "orgs" => serde_json::from_value(item).map(|r| all.orgs.push(r)),
                    "agents" => serde_json::from_value(item).map(|r| all.agents.push(r)),
                    "profiles" => serde_json::from_value(item).map(|r| all.profiles.push(r)),
                    "installations" => serde_json::from_value(item).map(|r| all.installations.push(r)),
                    "bindings" => serde_json::from_value(item).map(|r| all.bindings.push(r)),
                    _ => {
                        return Err(invalid(format!(
                            "there is no kind `{kind}`; there are orgs, agents, profiles, installations, bindings"
                        )));
                    }
                };
                read.map_err(|e| invalid(format!("{kind}[{n}]{id}: {e}")))?;
            }
        }
        Ok(all)
    }
}

/// Where secrets stand in a document.
const SECRETS: [&str; 7] =
    ["signing_secret", "previous_signing_secret", "token", "verify_token", "client_secret", "credential", "refresh_token"];

/// Looks at the form of secrets before anything is read: the reader's own errors repeat what stands where it does not belong.
fn secrets_in_form(item: &Json) -> Result<(), String> {
    let Some(fields) = item.as_object() else { return Ok(()) };
    for (name, field) in fields {
        if !SECRETS.contains(&name.as_str()) {
            secrets_in_form(field)?;
            continue;
        }
        let in_form = match field {
            Json::Null => true,
            Json::Object(secret) => secret.get("value").is_some_and(Json::is_string),
            _ => false,
        };
        if !in_form {
            return Err(format!(
                "{name}: write a secret as {{value: TEXT}}, or in a file for `byoa apply` as {{env: NAME}} or {{file: PATH}}"
            ));
        }
        secrets_in_form(field)?;
    }
    Ok(())
}

/// Whether text is a name, handle or e-mail address rather than an id: such change hands, and who takes one over would take
/// over what is tied to it.
pub(super) fn is_mutable(text: &str) -> bool {
    let changes_hands = text.contains('@') || text.starts_with('#') || text.chars().any(char::is_whitespace);
    changes_hands && stands(Guard::PrincipalMutable)
}

/// Reads an account as its provider names one.
pub(super) fn account(at: &str, provider: ProviderKind, spec: &Json) -> Result<ExternalAccount, AdminError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Slack {
        team_id: Option<String>,
        enterprise_id: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Telegram {
        bot_id: String,
        #[serde(default)]
        chats: Vec<String>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct WhatsApp {
        waba_id: String,
        phone_number_id: String,
    }
    let invalid = |what: &str| AdminError::new(ReasonCode::AdminResourceInvalid, format!("{at}: account: {what}"));
    let unread = |e: serde_json::Error| invalid(&e.to_string());
    let account = match provider {
        ProviderKind::Slack => {
            let a: Slack = serde_json::from_value(spec.clone()).map_err(unread)?;
            if a.team_id.is_none() && a.enterprise_id.is_none() {
                return Err(invalid("name a team_id, or an enterprise_id for an org-wide install"));
            }
            ExternalAccount::Slack { team_id: a.team_id, enterprise_id: a.enterprise_id }
        }
        ProviderKind::Telegram => {
            let mut a: Telegram = serde_json::from_value(spec.clone()).map_err(unread)?;
            a.chats.sort();
            a.chats.dedup();
            ExternalAccount::Telegram { bot_id: a.bot_id, chats: a.chats }
        }
        ProviderKind::WhatsApp => {
            let a: WhatsApp = serde_json::from_value(spec.clone()).map_err(unread)?;
            ExternalAccount::WhatsApp { waba_id: a.waba_id, phone_number_id: a.phone_number_id }
        }
    };
    let ids: Vec<&String> = match &account {
        ExternalAccount::Slack { team_id, enterprise_id } => team_id.iter().chain(enterprise_id).collect(),
        ExternalAccount::Telegram { bot_id, chats } => std::iter::once(bot_id).chain(chats).collect(),
        ExternalAccount::WhatsApp { waba_id, phone_number_id } => vec![waba_id, phone_number_id],
    };
    if let Some(handle) = ids.iter().find(|id| is_mutable(id)) {
        let detail = format!("{at}: account: `{handle}` is a name or handle; write the stable id, names change hands");
        return Err(AdminError::new(ReasonCode::AdminPrincipalMutable, detail));
    }
    let fit = |id: &&String| !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if ids.iter().all(fit) { Ok(account) } else { Err(invalid("ids are 1 to 64 letters, digits, - or _")) }
}
