//! How far a provider's bring-your-own traffic is let in. Platform apps run at every stage.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::clock::Timestamp;
use super::ids::{MatrixRunId, OrgId};
use super::installation::ProviderKind;

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

/// A provider's flag as it is kept, with how it came to be so.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagRecord {
    /// Whose.
    pub provider: ProviderKind,
    /// Its stage, and the global switches.
    pub flag: Flag,
    /// Why it is so.
    pub reason: Option<String>,
    /// Who made it so.
    pub changed_by: String,
    /// When.
    pub changed_at: Timestamp,
    /// When the stage was entered.
    pub staged_at: Timestamp,
    /// Grows by one with each change.
    pub version: i64,
    /// The matrix run that the last promotion rested on.
    pub evidence: Option<String>,
    /// The number of the last matrix run before the last roll-back; only a later one is evidence.
    pub rolled_back_run: i64,
}

/// The global switches as they are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalRecord {
    /// Whether any provider's own apps are let in.
    pub enabled: bool,
    /// Whether legacy routes may be used at all.
    pub legacy_fallback: bool,
    /// What becomes of orgs that are not let in.
    pub rollback_mode: RollbackMode,
    /// Why it is so.
    pub reason: Option<String>,
    /// Who made it so.
    pub changed_by: String,
    /// When.
    pub changed_at: Timestamp,
    /// Grows by one with each change.
    pub version: i64,
}

/// A change of one provider's flag, planned against a version of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagChange {
    /// Whose.
    pub provider: ProviderKind,
    /// The version it was planned against; another one by now, and nothing is changed.
    pub version: i64,
    /// The stage as it will be.
    pub stage: RolloutStage,
    /// The list as it will be.
    pub canary: Vec<OrgId>,
    /// The percentage as it will be.
    pub percent: u8,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub by: String,
    /// The matrix run it rests on.
    pub evidence: Option<String>,
    /// Whether it takes the provider back: older evidence is void then.
    pub rolls_back: bool,
}

/// A change of the global switches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalChange {
    /// The version it was planned against.
    pub version: i64,
    /// As it will be.
    pub enabled: bool,
    /// As it will be.
    pub legacy_fallback: bool,
    /// As it will be.
    pub rollback_mode: RollbackMode,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub by: String,
}

/// What a run of the failure-path matrix found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MatrixRun {
    /// Grows with each run.
    pub seq: i64,
    /// Its identifier.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// For which provider.
    pub provider: ProviderKind,
    /// Against which policies.
    pub policy_version: String,
    /// With which build.
    pub build: String,
    /// How many cases were played.
    pub played: i64,
    /// How many were not as they must be.
    pub red: i64,
}

/// What a run of the failure-path matrix found, as it is to be kept.
#[derive(Clone, Debug)]
pub struct NewMatrixRun {
    /// Its identifier; runs for several providers share one.
    pub id: MatrixRunId,
    /// When it began.
    pub at: Timestamp,
    /// For which provider.
    pub provider: ProviderKind,
    /// Against which policies.
    pub policy_version: Arc<str>,
    /// With which build.
    pub build: Arc<str>,
    /// How many cases were played.
    pub played: i64,
    /// How many were not as they must be.
    pub red: i64,
    /// Every case, as JSON.
    pub report: String,
    /// The flag's [`FlagRecord::rolled_back_run`] when it began: kept only while no roll-back came in between.
    pub rolled_back_run: i64,
}
