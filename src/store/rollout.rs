//! Use cases of rollout: flags, and what a promotion rests on. Part of `store`, floor 2.

use super::{Store, StoreError, queries};
use crate::domain::clock::Timestamp;
use crate::domain::ids::{InstallationId, MatrixRunId};
use crate::domain::installation::ProviderKind;
use crate::domain::record::AuditRecord;
use crate::domain::rollout::{FlagChange, FlagRecord, GlobalChange, GlobalRecord, MatrixRun, NewMatrixRun};

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

    /// Every matrix run that is kept, the last one first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn matrix_runs(&self, provider: Option<ProviderKind>) -> Result<Vec<MatrixRun>, StoreError> {
        queries::kept_runs(&self.0.readers, provider).await
    }

    /// What is kept of one matrix run: each provider's part with its cases, as JSON.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn matrix_run(&self, id: &MatrixRunId) -> Result<Vec<(MatrixRun, String)>, StoreError> {
        queries::kept_run(&self.0.readers, id).await
    }

    /// Keeps a matrix run with its audit line, and lets go of old ones. The provider that was rolled back since the run
    /// began, where there is one: nothing is kept then.
    ///
    /// # Errors
    /// When it could not be committed.
    pub async fn keep_matrix_run(
        &self,
        parts: Vec<NewMatrixRun>,
        audit: AuditRecord,
        now: Timestamp,
    ) -> Result<Option<ProviderKind>, StoreError> {
        self.task(move |conn| Box::pin(async move { queries::keep_run(conn, &parts, &[audit], now).await })).await
    }

    /// How many events came in through these installations since then, counted no further than `enough`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn events_since(&self, installations: &[InstallationId], since: Timestamp, enough: i64) -> Result<i64, StoreError> {
        queries::events_since(&self.0.readers, installations, since, enough).await
    }
}
