//! Use cases of deliveries: claimed, settled, given back, made due again. Part of `store`, floor 2.

use super::{Store, StoreError, lock, queries, writer};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Claimed, Settled};
use crate::domain::ids::DeliveryId;
use crate::domain::record::AuditRecord;

impl Store {
    /// Claims up to `limit` due deliveries for `lease_ms`: at most one per session, its oldest; those of
    /// paused agents and of degraded or suspended installations wait. The
    /// attempt is counted and committed before it begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_deliveries(&self, limit: usize, lease_ms: i64, now: Timestamp) -> Result<Vec<Claimed>, StoreError> {
        let outbox = self.0.outbox.clone();
        self.task_that(writer::Wake::No, move |conn| {
            Box::pin(async move {
                let halted = queries::halted(conn).await?;
                let until = now.plus_ms(lease_ms);
                let due = {
                    let mut outbox = lock(&outbox);
                    if outbox.is_stale() {
                        return Err(StoreError::Unavailable("the outbox is being read anew".into()));
                    }
                    outbox.claim(limit, now.ms(), until.ms(), &halted)
                };
                if due.is_empty() { Ok(Vec::new()) } else { queries::lease(conn, &due, until).await }
            })
        })
        .await
    }

    /// The earliest time after `now` at which a delivery becomes due or a lease runs out, where there is one. What was due
    /// before and is still open waits for something else: its session's head, its agent, its lease.
    ///
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        lock(&self.0.outbox).next_after(now.ms()).map(Timestamp::from_ms)
    }

    /// Settles a claimed delivery. `false` when the lease moved on: then nothing was changed.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn settle_delivery(&self, claimed: &Claimed, settled: Settled, attempt: Attempt, now: Timestamp) -> Result<bool, StoreError> {
        let claimed = claimed.clone();
        let gone = settled == Settled::AgentGone;
        let outbox = self.0.outbox.clone();
        let held = self
            .task(move |conn| {
                Box::pin(async move {
                    let held = queries::settle(conn, &claimed, &settled, &attempt, now).await?;
                    let again = match settled {
                        Settled::RetryAt(at) => Some(at.ms()),
                        Settled::AgentGone => Some(now.ms()),
                        Settled::Delivered | Settled::Dead(_) => None,
                    };
                    if held && let Some(seq) = claimed.id.number() {
                        lock(&outbox).settle(claimed.session.as_str(), seq, again);
                    }
                    Ok(held)
                })
            })
            .await?;
        if gone {
            self.reload().await?;
        }
        Ok(held)
    }

    /// Gives back every lease of claimed deliveries, for a process that drains.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn release_leases(&self, claimed: Vec<Claimed>) -> Result<(), StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                queries::release(conn, &claimed).await?;
                let mut outbox = lock(&outbox);
                for c in &claimed {
                    if let Some(seq) = c.id.number() {
                        outbox.settle(c.session.as_str(), seq, Some(0));
                    }
                }
                Ok(())
            })
        })
        .await
    }

    /// Makes a settled or dead delivery due again.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn replay_delivery(&self, id: DeliveryId, audit: AuditRecord, now: Timestamp) -> Result<Option<bool>, StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let replayed = queries::replay(conn, &id, &audit, now).await?;
                Ok(replayed.map(|open| match open {
                    Some(row) => {
                        lock(&outbox).push(&row);
                        true
                    }
                    None => false,
                }))
            })
        })
        .await
    }
}
