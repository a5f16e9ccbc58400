//! One event on its way to one agent.

use super::clock::Timestamp;
use super::ids::{AgentId, DeliveryId, EventId, OrgId, SessionId};
use super::reason::ReasonCode;

/// What one attempt came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// 1 for the first.
    pub number: i64,
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub took_ms: i64,
    /// The agent's status, where it answered.
    pub status: Option<u16>,
    /// Why it did not settle.
    pub code: Option<ReasonCode>,
}

/// Where a delivery stands after an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Settled {
    /// The agent took it.
    Delivered,
    /// Again at that time.
    RetryAt(Timestamp),
    /// No more attempts; an operator may replay it.
    Dead(ReasonCode),
    /// The agent is gone (410): it is paused, and this waits with everything else of it.
    AgentGone,
}

/// A claimed delivery: this process holds its lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// Its identifier.
    pub id: DeliveryId,
    /// The event.
    pub event: EventId,
    /// The org.
    pub org: OrgId,
    /// To whom.
    pub agent: AgentId,
    /// The session it is ordered within.
    pub session: SessionId,
    /// Fencing token: settling with an older one changes nothing.
    pub lease: i64,
    /// When the lease runs out.
    pub lease_until: Timestamp,
    /// This attempt's number; counted and committed before the attempt began.
    pub attempt: i64,
}
