//! How much an org may use: what operators declared for one org, and the limits that result.

use serde::{Deserialize, Serialize};

/// The quotas declared for one org. A quota that is left out follows the gateway's settings; 0 means no limit.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Events accepted per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events_per_second: Option<u32>,
    /// Events accepted at once after a pause; as many as per second where it is left out or 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Deliveries that are not settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_deliveries: Option<u64>,
    /// Bytes of events in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
}

impl Quotas {
    /// Whether nothing is declared.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The limits of one org in force. `None` means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuotaLimits {
    /// Events per second, and how many at once after a pause.
    pub events: Option<(u32, u32)>,
    /// Open deliveries.
    pub open_deliveries: Option<u64>,
    /// Bytes of stored events.
    pub stored_bytes: Option<u64>,
}

/// What the store holds of one org.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OrgUsage {
    /// Deliveries that are not settled.
    pub open_deliveries: u64,
    /// Bytes of its events, bodies and readings.
    pub stored_bytes: u64,
}
