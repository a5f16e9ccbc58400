//! What the writer must hear of sessions that something other than an event changed, so that what it remembers stays true
//! and a successor finds its predecessor. Few: operators end sessions by hand, and imports come once.

use std::collections::HashMap;

use crate::domain::ids::SessionId;

/// Sessions that were ended by hand or imported.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// Keys whose active session ended: what is remembered under them is no longer so.
    pub forgotten: Vec<String>,
    /// Ended sessions by the key under which the next one will open.
    pub followed: HashMap<String, SessionId>,
    /// Whether sessions without a route may be there. Without any, no event looks for one.
    pub imported: bool,
}
