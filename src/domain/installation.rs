//! Provider apps, the accounts they are installed in, the agents behind them and the bindings between.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId};
use super::lifecycle::StatusReason;
use super::quota::Quotas;

/// A messaging provider. Data everywhere; only `providers` and the provider files know what one is like.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// Slack.
    Slack,
    /// Telegram's Bot API.
    Telegram,
    /// WhatsApp Cloud API.
    WhatsApp,
}

impl ProviderKind {
    /// Every provider, in the order people list them.
    pub const ALL: [Self; 3] = [Self::Slack, Self::Telegram, Self::WhatsApp];

    /// The word in paths, configuration and policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Telegram => "telegram",
            Self::WhatsApp => "whatsapp",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

impl std::fmt::Display for ProviderKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whose app a profile is, and whose credential an installation has.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Ownership {
    /// The platform's.
    Platform,
    /// One tenant's own.
    Org(OrgId),
}

impl Ownership {
    /// `platform` or the org's id, as written in resources.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Platform => "platform",
            Self::Org(org) => org.as_str(),
        }
    }

    /// The mode that follows from it.
    pub fn mode(&self) -> Mode {
        match self {
            Self::Platform => Mode::Platform,
            Self::Org(_) => Mode::Byoa,
        }
    }
}

impl Serialize for Ownership {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Ownership {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "platform" { Ok(Self::Platform) } else { OrgId::parse(&text).map(Self::Org).map_err(serde::de::Error::custom) }
    }
}

/// Platform app or bring-your-own app.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The platform owns the app; it may be installed in many orgs' accounts.
    Platform,
    /// The org owns the app.
    Byoa,
}

impl Mode {
    /// The word in JSON, metrics and policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::Byoa => "byoa",
        }
    }
}

/// A tenant.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Org {
    /// Its identifier.
    pub id: OrgId,
    /// What people call it.
    pub name: String,
    /// Suspended by an operator: nothing of it moves.
    pub suspended: bool,
    /// Providers for which platform fallback is opted in.
    pub fallback_opt_in: BTreeSet<ProviderKind>,
    /// How much it may use.
    #[serde(default, skip_serializing_if = "Quotas::is_empty")]
    pub quotas: Quotas,
}

/// One provider app.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AppProfile {
    /// Its identifier.
    pub id: ProfileId,
    /// Whose API it speaks.
    pub provider: ProviderKind,
    /// Whose app it is.
    pub owner: Ownership,
    /// The provider's id of the app, as it was declared.
    pub app_id: Option<String>,
    /// The provider's id of the app, as the first proved event named it, where none is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned_app_id: Option<String>,
    /// The last part of its webhook address: at least 16 characters, unguessable.
    pub ingress_id: String,
    /// The OAuth client, where the app has one; its secret is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth_client_id: Option<String>,
    /// Which verifier's rules it was saved under; one this build does not know refuses everything.
    pub verifier: u16,
}

impl AppProfile {
    /// The provider's id of the app, declared or learned: events that name another are refused.
    pub fn app(&self) -> Option<&str> {
        self.app_id.as_deref().or(self.learned_app_id.as_deref())
    }
}

/// The provider's account that an installation lives in. What the verified body names must equal it.
///
/// Read back by its fields: without `deny_unknown_fields` every account would be a Slack one that names nothing.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ExternalAccount {
    /// A Slack workspace, or a whole Enterprise Grid where only `enterprise_id` is given.
    Slack {
        /// `T…`; absent for an org-wide install.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        team_id: Option<String>,
        /// `E…`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enterprise_id: Option<String>,
    },
    /// A Telegram bot, or its share of a bot that several orgs use.
    Telegram {
        /// The digits before the colon of its token.
        bot_id: String,
        /// The chats that are this installation's; empty takes what nobody else lists.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        chats: Vec<String>,
    },
    /// A WhatsApp business number.
    WhatsApp {
        /// The business account.
        waba_id: String,
        /// The number's id (not the number).
        phone_number_id: String,
    },
}

impl ExternalAccount {
    /// Every id that its provider has for it, the narrowest first.
    pub fn ids(&self) -> Vec<&str> {
        match self {
            Self::Slack { team_id, enterprise_id } => team_id.iter().chain(enterprise_id).map(String::as_str).collect(),
            Self::Telegram { bot_id, .. } => vec![bot_id],
            Self::WhatsApp { waba_id, phone_number_id } => vec![phone_number_id, waba_id],
        }
    }
}

/// What an installation may do now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstallationStatus {
    /// Made, not yet fit for use.
    Pending,
    /// In use.
    Active,
    /// Its credential was refused by the provider; sends wait for an operator.
    Degraded,
    /// Stopped by an operator.
    Suspended,
    /// Uninstalled or revoked at the provider.
    Revoked,
}

impl InstallationStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Active, Self::Degraded, Self::Suspended, Self::Revoked];

    /// The word in JSON and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
        }
    }

    /// Reads what [`InstallationStatus::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether events of it are let in: a degraded one still hears, it only cannot speak.
    pub const fn hears(self) -> bool {
        matches!(self, Self::Active | Self::Degraded)
    }

    /// Whether its deliveries wait. What the store asks for with every claim says the same.
    pub const fn parks(self) -> bool {
        matches!(self, Self::Degraded | Self::Suspended)
    }
}

/// One provider app in one account of one org.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Installation {
    /// Its identifier.
    pub id: InstallationId,
    /// The app.
    pub profile: ProfileId,
    /// The org it answers for.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// Whose app, and therefore whose credential.
    pub owner: Ownership,
    /// Where it is installed.
    pub account: ExternalAccount,
    /// What it may do now.
    pub status: InstallationStatus,
    /// Grows by one with every re-install; older lifecycle events are void.
    pub epoch: i64,
    /// When this epoch began: what happened before is about an earlier one.
    #[serde(default)]
    pub connected_at: Timestamp,
    /// Why its status is what it is, where it is not simply active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_reason: Option<StatusReason>,
    /// Since when its status is what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Keyed digest of the credential that an operator declared last. It outlives the value: applied again after it was
    /// revoked or rotated away, it is no new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub declared: Option<String>,
}

impl Installation {
    /// Gives it another status, with the cause.
    pub fn stand(&mut self, status: InstallationStatus, reason: Option<StatusReason>, now: Timestamp) {
        self.status = status;
        self.status_reason = reason;
        self.since = Some(now);
    }

    /// What an operator does next, where something is to do.
    pub fn advice(&self) -> Option<&'static str> {
        match (self.status, self.status_reason) {
            (InstallationStatus::Active, _) => None,
            (_, Some(reason)) => Some(reason.advice()),
            (InstallationStatus::Degraded | InstallationStatus::Revoked, None) => Some(StatusReason::CredentialDead.advice()),
            (InstallationStatus::Pending | InstallationStatus::Suspended, None) => Some(StatusReason::Operator.advice()),
        }
    }
}

/// How an agent wants its events.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryFormat {
    /// CloudEvents 1.0, structured JSON, signed as Standard Webhooks.
    #[default]
    Cloudevents,
    /// The provider's own bytes, signed as that provider signs, with the agent's secret: for unmodified SDKs.
    Native,
}

/// What a provider waits for an answer to: the only events whose answer by an agent ever reaches a provider.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// A Slack modal was submitted; the answer says what becomes of it.
    ViewSubmission,
    /// A Slack menu asks for its options.
    BlockSuggestion,
}

impl AnswerKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::ViewSubmission, Self::BlockSuggestion];

    /// The word in documents, policies and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ViewSubmission => "view_submission",
            Self::BlockSuggestion => "block_suggestion",
        }
    }
}

/// Whether an agent is sent anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AgentStatus {
    /// Events go out.
    Active,
    /// It answered 410: events wait until an operator sets it active again.
    Paused,
}

impl AgentStatus {
    /// The word in JSON and in the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
        }
    }
}

/// A program that answers people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Its identifier.
    pub id: AgentId,
    /// Its org; none for a platform agent.
    pub org: Option<OrgId>,
    /// Where events are posted.
    pub endpoint: String,
    /// How they look.
    pub format: DeliveryFormat,
    /// The kinds of events whose answer it gives itself.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub synchronous: BTreeSet<AnswerKind>,
    /// Whether they go out.
    pub status: AgentStatus,
}

/// What an event must look like for a binding to hear it. Absent selects all; present must be equal, case included.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// The provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<ProviderKind>,
    /// The installation's account, by any id that its provider has for it: team or enterprise, bot, phone number id or WABA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The Slack workspace an event happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
    /// The conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The thread or topic within it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// The sender's stable id, never a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

impl Selector {
    /// What a selector can name, in the order in which it counts.
    pub const NAMES: [&'static str; 6] = ["peer", "thread", "channel", "team", "account", "provider"];

    /// Which of [`Selector::NAMES`] this one names.
    pub fn present(&self) -> [bool; 6] {
        [
            self.peer.is_some(),
            self.thread.is_some(),
            self.channel.is_some(),
            self.team.is_some(),
            self.account.is_some(),
            self.provider.is_some(),
        ]
    }
}

/// Whose conversation a session is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionScope {
    /// Everybody in the conversation shares it.
    #[default]
    Conversation,
    /// Each sender has his own.
    Peer,
}

/// What an earlier system knew a legacy binding's installation by. Nothing is routed by it; a backfill finds the installation
/// by it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Former {
    /// The id of its record of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The provider's id of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// What it called the installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
}

/// Which agent hears which conversations.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Binding {
    /// Its identifier.
    pub id: BindingId,
    /// The org.
    pub org: OrgId,
    /// The installation it listens to. None is a legacy one: it names a provider only, and means the one installation that
    /// the org has of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installation: Option<InstallationId>,
    /// A legacy one's: only installations of this mode. Where an installation is named, the mode follows from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// What it listens for.
    pub select: Selector,
    /// Who hears it.
    pub agent: AgentId,
    /// Lower goes first among equally specific ones.
    pub priority: i64,
    /// Off is as if it were not there.
    pub enabled: bool,
    /// Whose conversation a session is.
    pub session: SessionScope,
    /// A platform-mode binding that may take over when the org's own credential cannot be used.
    pub allow_platform_fallback: bool,
    /// A legacy one's: what an earlier system knew its installation by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Former>,
}

impl Binding {
    /// Whether it names a provider only.
    pub fn is_legacy(&self) -> bool {
        self.installation.is_none()
    }

    /// Which of two goes first, in both directions: the more specific one, then the lower priority, then the lower id.
    pub fn order(&self, other: &Self) -> Ordering {
        other.select.present().cmp(&self.select.present()).then(self.priority.cmp(&other.priority)).then(self.id.cmp(&other.id))
    }
}

/// What reads show of a secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SecretFacts {
    /// Keyed digest, shortened: tells two values apart, tells nothing of either.
    pub fingerprint: String,
    /// When it was put.
    pub set_at: Timestamp,
    /// `current`, `previous`.
    pub state: &'static str,
    /// When a previous one stops to verify.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// When a credential stops to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_back_as_what_it_was() {
        for account in [
            ExternalAccount::Slack { team_id: Some("T1".into()), enterprise_id: None },
            ExternalAccount::Slack { team_id: None, enterprise_id: Some("E1".into()) },
            ExternalAccount::Telegram { bot_id: "7000".into(), chats: vec![] },
            ExternalAccount::Telegram { bot_id: "7000".into(), chats: vec!["-1".into()] },
            ExternalAccount::WhatsApp { waba_id: "1".into(), phone_number_id: "2".into() },
        ] {
            let text = serde_json::to_string(&account).unwrap();
            assert_eq!(serde_json::from_str::<ExternalAccount>(&text).unwrap(), account, "{text}");
        }
    }
}
