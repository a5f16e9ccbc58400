//! The sweep: what its time has passed is removed in small pieces. Pages are read beside the writer, which is given a few rows at
//! a time and is left alone between two pieces, so that no ack waits for the sweep. Part of `store`, floor 2.

use std::collections::BTreeMap;
use std::time::Duration;

use super::queries::retention::{self, Aged, AgedRows};
use super::{SWEEP_ROWS, Store, StoreError, files, lock, queries, read};
use crate::config::RetentionSection;
use crate::domain::clock::Timestamp;

/// Idempotency keys are kept this long.
const SEND_KEY_KEPT_MS: i64 = 24 * 3_600_000;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// Rows that the writer removes at a time.
const PIECE_ROWS: i64 = 64;

/// Keys that the writer removes at a time.
const PIECE_KEYS: usize = 64;

/// The writer is left alone this long between two pieces, and longer while requests wait for it.
const PIECE_PAUSE: Duration = Duration::from_millis(5);

/// How often the pause is made longer at most: a writer that is never idle must not keep everything for ever.
const PAUSES_MAX: u32 = 100;

/// Rows removed, by kind.
pub type Swept = BTreeMap<&'static str, u64>;

impl Store {
    /// Removes what its retention has passed: bodies of events, then rows of each kind, dedupe keys, and idempotency keys after a
    /// day. Dedupe keys have windows of their own, which no setting changes. Goes on where an earlier sweep was cut off. One sweep
    /// at a time: a second one waits.
    ///
    /// # Errors
    /// When it could not be committed; what was removed before stays removed.
    pub async fn sweep(&self, keep: &RetentionSection, now: Timestamp) -> Result<Swept, StoreError> {
        let _one_at_a_time = self.0.sweeping.lock().await;
        let before = |days: u32| (days > 0).then(|| now.plus_ms(-i64::from(days) * DAY_MS));
        let mut swept = Swept::new();
        if let Some(before) = before(keep.event_bodies_days) {
            swept.insert("event_bodies", self.sweep_bodies(before, now).await?);
            // Where no body tells of a file any more, nothing that was delivered anew can.
            let forgotten = self.forget_files(before).await?;
            if forgotten > 0 {
                swept.insert("files_seen", forgotten);
            }
        }
        // Their walks begin where the last ones ended, or at the oldest row: what was removed is not there any more.
        for (rows, days, resumed) in [
            (&retention::EVENTS, keep.events_days, false),
            (&retention::ATTEMPTS, keep.attempts_days, true),
            (&retention::REFUSALS, keep.refusals_days, false),
            (&retention::SENDS, keep.sends_days, false),
            (&retention::DECISIONS, keep.decisions_days, false),
            (&retention::FACTS, keep.decisions_days, false),
            (&retention::AUDIT, keep.audit_days, false),
        ] {
            if let Some(before) = before(days) {
                swept.insert(rows.name, self.sweep_rows(rows, before, resumed).await?);
            }
        }
        if let Some(before) = before(keep.sessions_days) {
            swept.insert("sessions", self.sweep_sessions(before).await?);
        }
        self.refresh_usage().await?;
        swept.insert("dedupe", self.sweep_dedupe(now).await?);
        swept.insert("idempotency_keys", self.free_keys(now).await?);
        Ok(swept)
    }

    /// Leaves the writer alone for a moment, and for as long as requests wait for it.
    pub(super) async fn pause(&self) {
        for _ in 0..PAUSES_MAX {
            tokio::time::sleep(PIECE_PAUSE).await;
            if self.0.jobs.capacity() == self.0.jobs.max_capacity() {
                return;
            }
        }
    }

    async fn sweep_bodies(&self, before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        let (mut removed, mut after) = (0, 0);
        loop {
            let seqs = retention::put_off(&self.0.readers, after, before, PIECE_ROWS).await?;
            let Some(last) = seqs.last().copied() else { break };
            after = last;
            removed += self.task(move |conn| Box::pin(async move { retention::sweep_put_off(conn, &seqs, now).await })).await?;
            self.pause().await;
        }
        let mut after = retention::swept(&self.0.readers, "bodies").await?;
        loop {
            let page = retention::aged_bodies(&self.0.readers, after, before, PIECE_ROWS).await?;
            let Aged { last, more, .. } = page;
            if last == 0 {
                return Ok(removed);
            }
            removed += self.task(move |conn| Box::pin(async move { retention::sweep_bodies(conn, after, &page, now).await })).await?;
            if !more {
                return Ok(removed);
            }
            after = last;
            self.pause().await;
        }
    }

    async fn forget_files(&self, before: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            match self.task(move |conn| Box::pin(async move { files::forget(conn, before).await })).await? {
                0 => return Ok(removed),
                some => removed += some,
            }
            self.pause().await;
        }
    }

    async fn sweep_rows(&self, rows: &'static AgedRows, before: Timestamp, resumed: bool) -> Result<u64, StoreError> {
        let mut removed = 0;
        let mut after = if resumed { retention::swept(&self.0.readers, rows.name).await? } else { 0 };
        loop {
            let page = rows.page(&self.0.readers, after, before, PIECE_ROWS).await?;
            let Aged { last, more, .. } = page;
            if !page.old.is_empty() {
                removed += self.task(move |conn| Box::pin(async move { rows.remove(conn, &page, before, resumed).await })).await?;
                self.pause().await;
            }
            if !more {
                return Ok(removed);
            }
            after = last;
        }
    }

    async fn sweep_sessions(&self, before: Timestamp) -> Result<u64, StoreError> {
        let (mut removed, mut after) = (0, 0);
        loop {
            let (over, Aged { last, more, .. }) = retention::aged_sessions(&self.0.readers, after, before, PIECE_ROWS).await?;
            if !over.is_empty() {
                removed += self.remove_sessions(over, before).await?;
                self.pause().await;
            }
            if !more {
                return Ok(removed);
            }
            after = last;
        }
    }

    /// Removes sessions by their rows' numbers and ids: not those that have open deliveries, nor those in which something was said
    /// since `before`.
    pub(super) async fn remove_sessions(&self, rows: Vec<(i64, String)>, before: Timestamp) -> Result<u64, StoreError> {
        let (outbox, touched) = (self.0.outbox.clone(), self.0.touched.clone());
        self.task(move |conn| {
            Box::pin(async move {
                let free = |id: &str| {
                    let outbox = lock(&outbox);
                    !outbox.is_stale() && !outbox.has(id)
                };
                let rows: Vec<i64> = rows.iter().filter(|(_, id)| free(id)).map(|(row, _)| *row).collect();
                let removed = retention::remove_sessions(conn, &rows, before).await?;
                let mut touched = lock(&touched);
                for (key, id) in &removed {
                    touched.forgotten.push(key.clone());
                    touched.followed.retain(|_, followed| followed.as_str() != id);
                }
                Ok(u64::try_from(removed.len()).unwrap_or_default())
            })
        })
        .await
    }

    async fn sweep_dedupe(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut removed = 0;
        let mut after = (String::new(), String::new());
        loop {
            let (expired, last) = read::expired_dedupe(&self.0.readers, &after, now, SWEEP_ROWS).await?;
            // Keys lie all over the table, so each removal may write a page of its own.
            for piece in expired.chunks(PIECE_KEYS) {
                let piece = piece.to_vec();
                removed += self.task(move |conn| Box::pin(async move { queries::forget_dedupe(conn, &piece).await })).await?;
                self.pause().await;
            }
            let Some(last) = last else { return Ok(removed) };
            after = last;
        }
    }

    async fn free_keys(&self, now: Timestamp) -> Result<u64, StoreError> {
        let (mut removed, mut after) = (0, 0);
        loop {
            let old = read::old_sends(&self.0.readers, after, now.plus_ms(-SEND_KEY_KEPT_MS), PIECE_ROWS).await?;
            let Some(last) = old.last() else { return Ok(removed) };
            after = *last;
            removed += self.task(move |conn| Box::pin(async move { queries::free_keys(conn, &old).await })).await?;
            self.pause().await;
        }
    }
}
