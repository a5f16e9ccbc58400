//! A webhook as the provider would send it, signed with the installation's own secret: what the gateway sends to itself for
//! `byoa simulate`. The signed request never leaves the process: who has it can send it again.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Admin, AdminError, Asking};
use crate::domain::ids::{InstallationId, ProfileId};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::policy::action::SimulateWebhook;
use crate::providers::{self, Sample};
use crate::vault::field;

/// What to simulate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulateBody {
    provider: ProviderKind,
    kind: String,
    installation: Option<InstallationId>,
    text: Option<String>,
    conversation: Option<String>,
    fault: Option<Fault>,
}

/// What is wrong with it on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Fault {
    /// No signature at all.
    Unsigned,
    /// A signature over other bytes.
    BadSignature,
    /// A byte changed after signing.
    Tampered,
    /// Signed ten minutes ago.
    Stale,
    /// Names an account that nobody has.
    ForeignAccount,
    /// Signed and no JSON.
    BrokenJson,
}

/// A webhook for the gateway itself. Shows nothing of itself, because its headers hold the proof.
pub struct OwnWebhook {
    /// The installation that it is about.
    pub installation: InstallationId,
    /// The app that it is sent to.
    pub profile: ProfileId,
    /// The app's provider.
    pub provider: ProviderKind,
    /// The app's address.
    pub ingress_id: String,
    /// Names and values, the proof among them.
    pub headers: Vec<(&'static str, Secret)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Admin {
    /// Makes up and signs a webhook, for the door to send it through the gateway.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.resource_invalid`.
    pub async fn simulate(&self, asking: &Asking, ask: SimulateBody) -> Result<OwnWebhook, AdminError> {
        let target = ask.installation.as_ref().map_or_else(|| ask.provider.to_string(), ToString::to_string);
        let decision = self.authorize(asking, SimulateWebhook { operator: asking.facts() }, "webhook.simulate", &target).await?;
        let directory = self.store.directory();
        let found = match &ask.installation {
            Some(id) => directory.installations.get(id).filter(|i| i.item.provider == ask.provider),
            None => directory.installations.values().find(|i| i.item.provider == ask.provider),
        };
        let not_found = || AdminError::new(ReasonCode::AdminNotFound, format!("there is no {} installation to simulate", ask.provider));
        let installation = found.ok_or_else(not_found)?;
        let profile = directory.profiles.get(&installation.item.profile).ok_or_else(not_found)?;
        let provider = providers::of(ask.provider);
        // A made-up id would be kept as the app's own.
        if provider.names_app() && profile.item.app().is_none() {
            let detail = format!(
                "profiles `{}` has no app_id yet, so no event of the app can be made up; declare app_id, or wait for the provider's first event",
                profile.item.id
            );
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
        }

        let foreign = foreign(&installation.item.account);
        let account = if ask.fault == Some(Fault::ForeignAccount) { &foreign } else { &installation.item.account };
        let now = self.clock.now();
        let nonce = crate::crypto::random::<8>()
            .map(u64::from_le_bytes)
            .map_err(|e| AdminError::new(ReasonCode::StoreUnavailable, e.to_string()))?;
        let sample = Sample {
            kind: &ask.kind,
            account,
            app_id: profile.item.app(),
            conversation: ask.conversation.as_deref().unwrap_or(match account {
                ExternalAccount::Slack { .. } => "C0SIMULATED",
                ExternalAccount::Telegram { chats, .. } => chats.first().map_or("424242", String::as_str),
                ExternalAccount::WhatsApp { .. } => "15550100",
            }),
            text: ask.text.as_deref().unwrap_or("hello from byoa simulate"),
            nonce: nonce >> 16,
            now,
        };
        let (mut body, media_type) = provider.sample(&sample).ok_or_else(|| {
            let detail = format!("{} has no kind `{}`; there are: {}", ask.provider, ask.kind, provider.sample_kinds().join(", "));
            AdminError::new(ReasonCode::AdminResourceInvalid, detail)
        })?;
        if ask.fault == Some(Fault::BrokenJson) {
            body = b"{\"broken\":".to_vec();
        }
        let secret = self.vault.profile_field(profile, field::SIGNING_SECRET)?.ok_or_else(not_found)?;
        let signed_at = if ask.fault == Some(Fault::Stale) { now.plus_ms(-600_000) } else { now };
        let mut headers = match ask.fault {
            Some(Fault::Unsigned) => Vec::new(),
            Some(Fault::BadSignature) => provider.sign(&body, &Secret::new("wrong-secret-0123456789".into()), signed_at),
            _ => provider.sign(&body, &secret, signed_at),
        };
        if ask.fault == Some(Fault::Tampered) {
            body.push(b'\n');
        }
        headers.push(("content-type", media_type.to_owned()));
        let mut line = asking.line(&self.clock, "webhook.simulate", installation.item.id.to_string(), Some(&decision));
        line.detail = Some(json!({"kind": ask.kind, "fault": ask.fault}).to_string());
        self.store.audit(vec![line]).await?;
        Ok(OwnWebhook {
            installation: installation.item.id.clone(),
            profile: profile.item.id.clone(),
            provider: ask.provider,
            ingress_id: profile.item.ingress_id.clone(),
            headers: headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(),
            body,
        })
    }
}

fn foreign(account: &ExternalAccount) -> ExternalAccount {
    match account {
        ExternalAccount::Slack { .. } => ExternalAccount::Slack { team_id: Some("T0NOBODY".into()), enterprise_id: None },
        ExternalAccount::Telegram { .. } => ExternalAccount::Telegram { bot_id: "1".into(), chats: vec!["-1".into()] },
        ExternalAccount::WhatsApp { .. } => ExternalAccount::WhatsApp { waba_id: "0".into(), phone_number_id: "0".into() },
    }
}
