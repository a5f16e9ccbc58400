//! What befalls an installation after it was connected: at its provider, through its credential, by an operator.

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::{EventId, InstallationId, OrgId, ProfileId, RequestId};
use super::installation::{InstallationStatus, ProviderKind};

macro_rules! reasons {
    ($($variant:ident $word:literal $advice:literal;)+) => {
        /// Why an installation is not simply active. A closed set: it is shown to operators and decides what agents hear.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum StatusReason {
            $(#[doc = $advice] $variant,)+
        }

        impl StatusReason {
            /// The word in JSON, records and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What an operator does next, one sentence.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)+ }
            }
        }
    };
}

reasons! {
    Uninstalled "uninstalled" "The app was removed from the account: install it again there and apply the installation with the new credential.";
    TokensRevoked "tokens_revoked" "The provider revoked the app's tokens: install the app again and apply the installation with the new credential.";
    WorkspaceRemoved "workspace_removed" "The workspace was taken out of the org-wide install: have an admin add it again and apply the installation with a new credential.";
    AccountDeleted "account_deleted" "The business account was deleted: connect another one as a new installation.";
    BanScheduled "ban_scheduled" "The provider will disable the account: appeal in its business manager, then set the status to active.";
    Banned "banned" "The provider disabled the account: appeal in its business manager; the gateway goes on by itself when it is reinstated.";
    Restricted "restricted" "The provider restricted the account: read its notice, remove the cause, then set the status to active.";
    Offboarded "offboarded" "The account left the provider's API: connect it again; the gateway goes on by itself when the provider says so.";
    CredentialDead "credential_dead" "The provider refuses the credential: apply the installation with a new one.";
    RefreshRefused "refresh_refused" "The provider refuses the refresh token or the profile's OAuth client: check the client's secret, install the app again and apply the installation with the new pair.";
    Operator "operator" "An operator set this status: set it to active when the cause is gone.";
}

impl StatusReason {
    /// Whether the provider holds the account back; the credential may be as good as ever.
    pub const fn of_account(self) -> bool {
        matches!(self, Self::BanScheduled | Self::Banned | Self::Restricted | Self::Offboarded)
    }
}

/// One place that an installation talks in, as far as the provider told of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// It can be reached.
    Open,
    /// The one person there blocked the bot.
    Blocked,
    /// The bot was removed from it.
    Left,
    /// It goes on under another id.
    Moved {
        /// The new id.
        to: String,
    },
}

impl Place {
    /// The word in the store.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Blocked => "blocked",
            Self::Left => "left",
            Self::Moved { .. } => "moved",
        }
    }
}

/// What changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LifecycleChange {
    /// The installation gets another status. `revoked` is for good: its credential is destroyed with it.
    Status(InstallationStatus, StatusReason),
    /// The provider takes back what it said of the account: active again, where that was the cause.
    Restored,
    /// Workspaces leave an org-wide install; their own installations of the same app end.
    WorkspacesRemoved(Vec<String>),
    /// Workspaces are back; nothing of theirs that ended comes alive by it.
    WorkspacesAdded(Vec<String>),
    /// One conversation can be reached, or no more.
    Place {
        /// Which.
        conversation: String,
        /// How it stands.
        place: Place,
    },
}

impl LifecycleChange {
    /// The word in metrics: a closed set.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Status(status, _) => status.as_str(),
            Self::Restored => "restored",
            Self::WorkspacesRemoved(_) => "workspaces_removed",
            Self::WorkspacesAdded(_) => "workspaces_added",
            Self::Place { place, .. } => place.as_str(),
        }
    }
}

/// What a provider's event says of the installation it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LifecycleNews {
    /// What changes.
    pub change: LifecycleChange,
    /// When it happened, where the event says so; what is older than the install is void.
    pub happened: Option<Timestamp>,
}

/// A change on its way into the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shift {
    /// The installation.
    pub installation: InstallationId,
    /// Its profile.
    pub profile: ProfileId,
    /// Its org.
    pub org: OrgId,
    /// Its provider.
    pub provider: ProviderKind,
    /// What changes.
    pub change: LifecycleChange,
    /// The event that says so, where it is accepted: its repeat says nothing new.
    pub event: Option<EventId>,
    /// When it happened, where that is known.
    pub happened: Option<Timestamp>,
    /// Only while this is still its credential, by the value's fingerprint: news of an old one says nothing of a new one.
    pub credential: Option<String>,
    /// Who says so, for the audit.
    pub actor: String,
    /// The request that brought it.
    pub request: Option<RequestId>,
}

impl Shift {
    /// Whether it can change what the directory shows.
    pub fn shows(&self) -> bool {
        match &self.change {
            LifecycleChange::Status(..) | LifecycleChange::Restored | LifecycleChange::WorkspacesRemoved(_) => true,
            LifecycleChange::Place { place, .. } => matches!(place, Place::Moved { .. }),
            LifecycleChange::WorkspacesAdded(_) => false,
        }
    }
}

/// What became of a shift.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Shifted {
    /// It took effect, on this installation.
    Done {
        /// Which: a workspace's own may end with another's news.
        installation: InstallationId,
        /// The provider.
        provider: ProviderKind,
        /// What changed.
        change: LifecycleChange,
    },
    /// It is older than the install, so nothing changed.
    Stale {
        /// The installation.
        installation: InstallationId,
        /// The provider.
        provider: ProviderKind,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_serde_writes_and_advice_is_a_sentence() {
        for reason in [StatusReason::Uninstalled, StatusReason::WorkspaceRemoved, StatusReason::RefreshRefused, StatusReason::Operator] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
            assert!(reason.advice().ends_with('.'));
        }
    }
}
