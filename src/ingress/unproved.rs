//! Refusals before proof, and those over a quota, cost no database write: they are counted here and written once a minute, one
//! line for each profile, org and reason, so that an operator sees an attack and an attacker cannot fill the audit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::clock::Timestamp;
use crate::domain::ids::{OrgId, ProfileId};
use crate::domain::installation::ProviderKind;
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;

/// How often the counts are written.
pub const FLUSH_EVERY_MS: u64 = 60_000;

type Counts = BTreeMap<(ProviderKind, Option<ProfileId>, Option<OrgId>, ReasonCode), u64>;

/// Counts of refusals. Bounded: declared profiles times their orgs times reason codes.
#[derive(Clone, Debug, Default)]
pub struct Unproved(Arc<Mutex<Counts>>);

impl Unproved {
    /// One more.
    pub fn count(&self, provider: ProviderKind, profile: Option<ProfileId>, code: ReasonCode) {
        self.count_of(provider, profile, None, code);
    }

    /// One more of an org.
    pub fn count_of(&self, provider: ProviderKind, profile: Option<ProfileId>, org: Option<OrgId>, code: ReasonCode) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((provider, profile, org, code)).or_default() += 1;
    }

    /// Takes the counts as audit lines.
    pub fn take(&self, now: Timestamp) -> Vec<AuditRecord> {
        let counts = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        counts
            .into_iter()
            .map(|((provider, profile, org, code), count)| AuditRecord {
                at: now,
                actor: "gateway".into(),
                action: "request.refuse",
                target: profile.map_or_else(|| provider.to_string(), |p| p.to_string()),
                org,
                outcome: "refused",
                code: Some(code),
                decision: None,
                request: None,
                detail: Some(serde_json::json!({"provider": provider, "count": count}).to_string()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_are_one_line() {
        let unproved = Unproved::default();
        for _ in 0..1000 {
            unproved.count(ProviderKind::Slack, None, ReasonCode::AuthnSignatureMismatch);
        }
        let lines = unproved.take(Timestamp::default());
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].detail.as_deref(), Some(r#"{"provider":"slack","count":1000}"#));
        assert!(unproved.take(Timestamp::default()).is_empty());
    }
}
