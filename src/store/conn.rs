//! The writer's connection, with what the statements on it need beside the database. Part of `store`, floor 2.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::SqliteConnection;

use super::StoreError;
use super::content::key_of;
use crate::crypto::content::{ContentKey, ContentKeys};
use crate::domain::ids::OrgId;

/// The one connection that writes, and the keys that content is sealed under.
#[derive(Debug)]
pub(super) struct Conn {
    sqlite: SqliteConnection,
    keys: ContentKeys,
}

impl Conn {
    pub(super) fn new(sqlite: SqliteConnection, keys: ContentKeys) -> Self {
        Self { sqlite, keys }
    }

    /// The key for an org's content, or for content of no org.
    ///
    /// # Errors
    /// [`StoreError::KeyMissing`].
    pub(super) fn key(&self, org: Option<&OrgId>) -> Result<Arc<ContentKey>, StoreError> {
        key_of(&self.keys, org)
    }

    /// The connection itself, to close it.
    pub(super) fn into_inner(self) -> SqliteConnection {
        self.sqlite
    }
}

impl Deref for Conn {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        &self.sqlite
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.sqlite
    }
}
