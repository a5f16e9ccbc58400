//! Use cases of deliveries: claimed, settled, given back, made due again. Part of `store`, floor 2.

use super::{Claiming, Replayed, Store, StoreError, lock, queries, writer};
use crate::domain::breaker::{BreakerState, BreakerView, Health};
use crate::domain::clock::Timestamp;
use crate::domain::delivery::{Attempt, Claimed, Settled};
use crate::domain::ids::{AgentId, DeliveryId};
use crate::domain::record::AuditRecord;

impl Store {
    /// Claims up to `limit` due deliveries for `lease_ms`, in turn over orgs, agents and sessions, within everybody's share:
    /// at most one per session, its oldest. Those of paused agents, of agents whose breaker is open, and of degraded or
    /// suspended installations wait. The attempt is counted and committed before it begins.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn claim_deliveries(&self, claiming: Claiming, now: Timestamp) -> Result<Vec<Claimed>, StoreError> {
        let outbox = self.0.outbox.clone();
        let directory = self.directory();
        self.task_that(writer::Wake::No, move |conn| {
            Box::pin(async move {
                let halted = queries::halted(conn).await?;
                let until = now.plus_ms(claiming.lease_ms);
                let due = {
                    let mut outbox = lock(&outbox);
                    if outbox.is_stale() {
                        return Err(StoreError::Unavailable("the outbox is being read anew".into()));
                    }
                    // One that is not there any more serves nobody.
                    let agent = |id: &str| AgentId::parse(id).ok().and_then(|id| directory.agents.get(&id).cloned());
                    outbox.claim(&claiming, now, &halted, &|id| agent(id).is_some_and(|agent| agent.item.org.is_none()))
                };
                if due.is_empty() { Ok(Vec::new()) } else { queries::lease(conn, &due, until).await }
            })
        })
        .await
    }

    /// The earliest time at which a delivery becomes due, a lease runs out or a breaker may be probed, where there is one.
    /// What was due at the last claim and is still open waits for something else: its session's head, its agent, its share.
    pub fn next_due(&self) -> Option<Timestamp> {
        lock(&self.0.outbox).next().map(Timestamp::from_ms)
    }

    /// The breaker of an agent.
    pub fn breaker(&self, agent: &AgentId) -> BreakerView {
        lock(&self.0.outbox).breaker(agent.as_str())
    }

    /// How many breakers are in this state. Closed ones are counted of agents with deliveries only.
    pub fn breakers(&self, state: BreakerState) -> usize {
        lock(&self.0.outbox).breakers(state)
    }

    /// Changes of breakers since the last call, oldest first.
    pub fn turned_breakers(&self) -> Vec<(AgentId, BreakerState)> {
        let turned = lock(&self.0.outbox).turned();
        turned.into_iter().filter_map(|(agent, state)| Some((AgentId::parse(&agent).ok()?, state))).collect()
    }

    /// How many attempts are under way.
    pub fn under_way(&self) -> usize {
        lock(&self.0.outbox).under_way()
    }

    /// Settles a claimed delivery, and notes what the attempt says of its agent's health. `false` when the lease moved on:
    /// then the delivery was not changed.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn settle_delivery(
        &self,
        claimed: &Claimed,
        settled: Settled,
        attempt: Attempt,
        health: Health,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
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
                    let mut outbox = lock(&outbox);
                    if held && let Some(seq) = claimed.id.number() {
                        outbox.settle(claimed.session.as_str(), seq, again);
                    }
                    outbox.learn(claimed.agent.as_str(), health, attempt.took_ms, now);
                    Ok(held)
                })
            })
            .await?;
        if gone {
            self.reload().await?;
        }
        Ok(held)
    }

    /// Gives back the leases of claimed deliveries that were not attempted, or not to the end.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn release_leases(&self, claimed: Vec<Claimed>) -> Result<(), StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let released = queries::release(conn, &claimed).await?;
                let mut outbox = lock(&outbox);
                for c in released {
                    if let Some(seq) = c.id.number() {
                        outbox.settle(c.session.as_str(), seq, Some(0));
                    }
                }
                Ok(())
            })
        })
        .await
    }

    /// Makes a settled or dead delivery due again, and closes its agent's breaker.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn replay_delivery(&self, id: DeliveryId, audit: AuditRecord, now: Timestamp) -> Result<Replayed, StoreError> {
        let outbox = self.0.outbox.clone();
        self.task(move |conn| {
            Box::pin(async move {
                let mut opened = Vec::new();
                let replayed = queries::replay(conn, &id, &audit, now, &mut opened).await?;
                for row in &opened {
                    let mut outbox = lock(&outbox);
                    outbox.push(row);
                    outbox.forgive(&row.agent);
                }
                Ok(replayed)
            })
        })
        .await
    }
}
