//! Use cases of rollout: flags, and what a promotion rests on. Part of `store`, floor 2.

use super::{Store, StoreError, queries};
use crate::domain::clock::Timestamp;
use crate::domain::ids::InstallationId;
use crate::domain::installation::ProviderKind;
use crate::domain::record::AuditRecord;
use crate::domain::rollout::{FlagChange, FlagRecord, GlobalChange, GlobalRecord, MatrixRun};

impl Store {
    /// The global switches, and every provider's flag with how it came to be so.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn flags(&self) -> Result<(GlobalRecord, Vec<FlagRecord>), StoreError> {
        queries::flags(&self.0.readers).await
    }

    /// Changes one provider's flag with its audit line, where it is still the version that the change was planned against.
    /// The directory shows it when this returns.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn change_flag(&self, change: FlagChange, audit: AuditRecord, now: Timestamp) -> Result<bool, StoreError> {
        let done = self.task(move |conn| Box::pin(async move { queries::change_flag(conn, &change, &[audit], now).await })).await?;
        self.reload().await?;
        Ok(done)
    }

    /// Changes the global switches, in the same way.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn change_global(&self, change: GlobalChange, audit: AuditRecord, now: Timestamp) -> Result<bool, StoreError> {
        let done = self.task(move |conn| Box::pin(async move { queries::change_global(conn, &change, &[audit], now).await })).await?;
        self.reload().await?;
        Ok(done)
    }

    /// The last matrix run for a provider.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn last_matrix_run(&self, provider: ProviderKind) -> Result<Option<MatrixRun>, StoreError> {
        queries::last_run(&self.0.readers, provider).await
    }

    /// How many events came in through these installations since then, counted no further than `enough`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_since(&self, installations: &[InstallationId], since: Timestamp, enough: i64) -> Result<i64, StoreError> {
        queries::events_since(&self.0.readers, installations, since, enough).await
    }
}
