//! The writer's connection, with what the statements on it need beside the database. Part of `store`, floor 2.

use std::ops::{Deref, DerefMut};

use sqlx::SqliteConnection;

/// The one connection that writes.
#[derive(Debug)]
pub(super) struct Conn {
    sqlite: SqliteConnection,
}

impl Conn {
    pub(super) fn new(sqlite: SqliteConnection) -> Self {
        Self { sqlite }
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
