//! Where a webhook meets quotas and failure budgets. What is refused here writes no row: it is counted, and told in one audit
//! line a minute. Part of `ingress`, floor 7.

use std::collections::BTreeMap;

use super::{Draft, Ingress, Outcome};
use crate::domain::ids::OrgId;
use crate::domain::installation::AppProfile;
use crate::domain::lifecycle::Shift;
use crate::domain::quota::OrgUsage;
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::record::RefusalRecord;
use crate::quota::{OverQuota, Reserved, Tenant};
use crate::store::NewEvent;
use crate::store::directory::Directory;
use crate::wire::RequestHead;

/// What the quotas say of a request.
#[derive(Default)]
pub(super) struct Admitted {
    /// Room for the events that go on, held until they are committed.
    _room: Vec<Reserved>,
    /// The quota that took events out of the request, where one did.
    pub(super) over: Option<OverQuota>,
}

impl Ingress {
    /// Takes the events of orgs that are over a quota out of the draft: all events of such an org, and none of another. The
    /// provider is then told to send the request again, when the others are repeats. An org whose events were all accepted
    /// before is over no quota: they are settled, whatever its quotas are.
    pub(super) async fn within_quotas(&self, directory: &Directory, draft: &mut Draft<'_>) -> Result<Admitted, Failure> {
        let mut asked: BTreeMap<OrgId, OrgUsage> = BTreeMap::new();
        for event in &draft.request.events {
            let of = asked.entry(event.route.org.clone()).or_default();
            of.open_deliveries += 1;
            of.stored_bytes += u64::try_from(event.raw.len()).unwrap_or(u64::MAX);
        }
        let mut admitted = Admitted::default();
        for (org, asked) in asked {
            let Some(declared) = directory.orgs.get(&org) else { continue };
            let limits = self.quotas.limits(&declared.item);
            match self.quotas.admit(&org, asked, self.store.usage(&org), &limits, self.clock.steady_ms()) {
                Ok(room) => admitted._room.push(room),
                Err(over) => {
                    let of_org: Vec<&NewEvent> = draft.request.events.iter().filter(|event| event.route.org == org).collect();
                    if self.store.all_accepted(&of_org).await? {
                        continue;
                    }
                    self.take_out(&org, over, draft);
                    // The longest wait: before that the request would be refused again.
                    admitted.over = admitted.over.into_iter().chain([over]).max_by_key(|over| over.retry_after_s);
                }
            }
        }
        Ok(admitted)
    }

    /// What the events say of installations holds at once, without the events.
    fn take_out(&self, org: &OrgId, over: OverQuota, draft: &mut Draft<'_>) {
        let profile = draft.profile;
        let request = &mut draft.request;
        let (out, rest): (Vec<NewEvent>, Vec<NewEvent>) =
            std::mem::take(&mut request.events).into_iter().partition(|e| e.route.org == *org);
        request.events = rest;
        let is_out = |event: &_| out.iter().any(|e| e.id == *event);
        for shift in &mut request.shifts {
            *shift = Shift { event: shift.event.take().filter(|event| !is_out(event)), ..shift.clone() };
        }
        draft.awaited = draft.awaited.take().filter(|awaited| !is_out(awaited.event()));
        for _ in &out {
            self.metrics.ingress(profile.provider, Some(profile.owner.mode()), "refused", Some(over.code));
            self.store.repeats().count_without_row(profile.provider, Some(&profile.id), Some(org), over.code, request.received);
        }
        tracing::debug!(request = %request.request, profile = %profile.id, org = %org, reason = %over.code, events = out.len(), "over a quota");
    }

    /// Drops the refusals that a tenant may not have recorded any more today, with the decisions behind them, and counts them.
    /// Whether there were any.
    pub(super) fn cap_refusals(&self, draft: &mut Draft<'_>) -> bool {
        let (profile, request) = (draft.profile, &mut draft.request);
        let (kept, dropped): (Vec<RefusalRecord>, Vec<RefusalRecord>) =
            std::mem::take(&mut request.refusals).into_iter().partition(|refusal| {
                let tenant = refusal.org.clone().map_or_else(|| Tenant::Platform(refusal.profile.clone()), Tenant::Org);
                self.quotas.may_record_refusal(tenant, refusal.at)
            });
        request.refusals = kept;
        for refusal in &dropped {
            self.metrics.ingress(profile.provider, Some(profile.owner.mode()), "refused", Some(refusal.code));
            self.store.repeats().count_without_row(profile.provider, Some(&profile.id), refusal.org.as_ref(), refusal.code, refusal.at);
            tracing::debug!(request = %request.request, profile = %profile.id, reason = %refusal.code, "refused, not recorded");
        }
        !dropped.is_empty()
    }

    /// Counts a request that failed to prove itself; what it is told instead where a budget is used up. An address that was
    /// removed goes on saying so, because providers act on that.
    pub(super) fn over_failure_budget(&self, head: &RequestHead, profile: Option<&AppProfile>, code: ReasonCode) -> Option<Outcome> {
        if !(400..500).contains(&code.status()) || code == ReasonCode::AuthnInstallationGone {
            return None;
        }
        let ingress = (head.provider, profile.map(|p| p.id.clone()));
        let wait = self.failures.failed(head.peer, Some(ingress), self.clock.steady_ms()).err()?;
        self.metrics.throttled("webhook");
        self.metrics.ingress(head.provider, profile.map(|p| p.owner.mode()), "unauthenticated", Some(ReasonCode::AuthnThrottled));
        self.store.repeats().count_unproved(head.provider, profile.map(|p| &p.id), ReasonCode::AuthnThrottled, head.received);
        tracing::debug!(request = %head.request_id, provider = %head.provider, reason = %code, "over a failure budget");
        Some(Outcome::Later(ReasonCode::AuthnThrottled, wait))
    }
}
