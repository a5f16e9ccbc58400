//! Use cases of audit lines that stand by themselves, and of refusals that repeat. Part of `store`, floor 2.

use super::queries::DecisionRow;
use super::{Store, StoreError, queries};
use crate::domain::clock::Timestamp;
use crate::domain::record::AuditRecord;
use crate::domain::repeats::Repeats;

impl Store {
    /// The counts of refusals that repeat.
    pub fn repeats(&self) -> &Repeats {
        &self.0.repeats
    }

    /// Writes audit lines by themselves; refusals that repeat are counted instead.
    ///
    /// # Errors
    /// When they could not be committed.
    pub async fn audit(&self, records: Vec<AuditRecord>) -> Result<(), StoreError> {
        let repeats = self.0.repeats.clone();
        self.task(move |conn| Box::pin(async move { queries::audit_heard(conn, &repeats, &records).await })).await
    }

    /// Writes the audit line of a refusal by the policies and keeps its decision under `subject`; a repeat is counted and keeps
    /// none.
    ///
    /// # Errors
    /// When they could not be committed.
    pub async fn audit_refused(&self, line: AuditRecord, subject: String) -> Result<(), StoreError> {
        let repeats = self.0.repeats.clone();
        self.task(move |conn| {
            Box::pin(async move {
                if !repeats.hear(&line) {
                    return Ok(());
                }
                queries::audit(conn, std::slice::from_ref(&line)).await?;
                let Some(decision) = &line.decision else { return Ok(()) };
                let verdict = queries::verdict(conn, line.org.as_ref(), decision, line.at).await?;
                queries::insert_decisions(conn, &[DecisionRow { at: line.at, org: None, subject: &subject, verdict }]).await.map(|_| ())
            })
        })
        .await
    }

    /// Writes the counts of repeated refusals as audit lines. Counts that could not be written are kept for the next time.
    ///
    /// # Errors
    /// When they could not be committed.
    pub async fn flush_repeats(&self, now: Timestamp) -> Result<(), StoreError> {
        let taken = self.0.repeats.take();
        let lines = taken.lines(now);
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.task(move |conn| Box::pin(async move { queries::audit(conn, &lines).await })).await;
        if written.is_err() {
            self.0.repeats.put_back(taken);
        }
        written
    }
}
