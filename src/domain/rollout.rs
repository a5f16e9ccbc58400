//! How far a provider's bring-your-own traffic is let in. Platform apps run at every stage.

use serde::{Deserialize, Serialize};

use super::ids::OrgId;

/// The stage of one provider. Written in quotes in YAML where the reader might take `on` for a boolean.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutStage {
    /// Nobody.
    #[default]
    Off,
    /// The orgs on the list, or in the percentage.
    Canary,
    /// Everybody.
    On,
}

impl RolloutStage {
    /// As it is written everywhere: `off`, `canary`, `on`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Canary => "canary",
            Self::On => "on",
        }
    }

    /// Reads what [`RolloutStage::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Off, Self::Canary, Self::On].into_iter().find(|s| s.as_str() == text)
    }
}

/// What becomes of an org that the rollout does not let in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollbackMode {
    /// Its legacy route, where it has one.
    #[default]
    LegacyProviderOnly,
    /// Nothing but its installations.
    InstallationIdentity,
}

impl RollbackMode {
    /// As it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LegacyProviderOnly => "legacy_provider_only",
            Self::InstallationIdentity => "installation_identity",
        }
    }

    /// Reads what [`RollbackMode::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::LegacyProviderOnly, Self::InstallationIdentity].into_iter().find(|m| m.as_str() == text)
    }
}

/// One provider's flag together with the global switch: the facts that `EnterRollout` is decided from.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flag {
    /// The global switch.
    pub enabled: bool,
    /// The provider's stage.
    pub stage: RolloutStage,
    /// The orgs of the canary, sorted.
    pub canary: Vec<OrgId>,
    /// How many of a hundred buckets of orgs the canary takes beside the list.
    pub percent: u8,
    /// Whether legacy routes may be used at all.
    pub legacy_fallback: bool,
    /// What becomes of orgs that are not let in.
    pub rollback_mode: RollbackMode,
}
