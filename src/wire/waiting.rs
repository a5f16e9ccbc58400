//! Where an agent's answer to one event is waited for, by the request that brought the event, and where it arrives. Part of
//! `wire`, floor 1.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::domain::ids::EventId;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// The agent took the event and answered this.
    Answered(Bytes),
    /// The agent did not take it.
    Failed,
    /// Nothing came in time.
    Late,
}

/// Who waits, by event. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct Waiting(Arc<Mutex<HashMap<EventId, oneshot::Sender<Told>>>>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

impl Waiting {
    /// Waits from now on: asked before the event is committed, so that no answer comes too early.
    pub fn expect(&self, event: &EventId) -> Wait {
        let (teller, told) = oneshot::channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(event.clone(), teller);
        Wait { waiting: self.clone(), event: event.clone(), told }
    }

    /// Tells whoever waits for this event, which is mostly nobody. Only the first attempt's end is heard.
    pub fn tell(&self, event: &EventId, told: impl FnOnce() -> Told) {
        let teller = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(event);
        if let Some(teller) = teller {
            let _ = teller.send(told());
        }
    }
}

/// One who waits; dropped, he waits no more.
#[derive(Debug)]
pub struct Wait {
    waiting: Waiting,
    event: EventId,
    told: oneshot::Receiver<Told>,
}

impl Wait {
    /// What came within that time.
    pub async fn told(mut self, within: Duration) -> Told {
        match tokio::time::timeout(within, &mut self.told).await {
            Ok(told) => told.unwrap_or(Told::Failed),
            Err(_) => Told::Late,
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.waiting.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_first_to_tell_is_heard_and_nobody_is_left_behind() {
        let waiting = Waiting::default();
        let (event, other) = (EventId::parse("evt_1").unwrap(), EventId::parse("evt_2").unwrap());
        waiting.tell(&event, || Told::Failed);
        let wait = waiting.expect(&event);
        waiting.tell(&other, || Told::Failed);
        waiting.tell(&event, || Told::Answered("a".into()));
        waiting.tell(&event, || Told::Answered("b".into()));
        assert_eq!(wait.told(LONG).await, Told::Answered("a".into()));
        assert_eq!(waiting.expect(&event).told(Duration::ZERO).await, Told::Late);
        drop(waiting.expect(&event));
        assert!(waiting.0.lock().unwrap().is_empty());
    }
}
