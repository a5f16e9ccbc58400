//! How many bytes of bodies may be held at once, and who holds how many. Part of `wire`, floor 1.
//!
//! Bytes are taken as they arrive and given back when their holder is dropped. Nobody waits: where a budget is used up, the
//! newcomer is refused. One name (an agent, an address of an app) holds at most a share of the whole, so that one tenant, or a
//! stranger who knows one address, does not use up what belongs to all.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::domain::reason::ReasonCode;

/// Bytes are taken in steps of this size, so that a body which arrives byte by byte is not counted byte by byte.
const STEP: usize = 4 * 1024;

/// Names kept before those that hold nothing are forgotten.
const NAMES_MAX: usize = 1024;

#[derive(Debug)]
struct Pool {
    left: AtomicUsize,
}

impl Pool {
    fn of(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::AcqRel);
    }
}

/// A number of bytes that many hold parts of. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    all: Arc<Pool>,
    share: usize,
    shares: Mutex<HashMap<String, Weak<Pool>>>,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({} bytes left)", self.left())
    }
}

impl Budget {
    /// A budget of so many bytes, of which one name holds at most `share`.
    pub fn new(bytes: usize, share: usize) -> Self {
        Self(Arc::new(Inner { all: Pool::of(bytes), share, shares: Mutex::default() }))
    }

    /// The bytes that nobody holds.
    pub fn left(&self) -> usize {
        self.0.all.left.load(Ordering::Acquire)
    }

    /// A holder of nothing yet; it holds within the share of `name`, where a name is given.
    pub fn hold(&self, name: Option<&str>) -> Held {
        Held { all: self.0.all.clone(), share: name.map(|name| self.share(name)), bytes: 0 }
    }

    fn share(&self, name: &str) -> Arc<Pool> {
        let mut shares = self.0.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(name).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() >= NAMES_MAX {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Pool::of(self.0.share);
        shares.insert(name.to_owned(), Arc::downgrade(&share));
        share
    }
}

/// Bytes of a budget, given back when this is dropped.
#[derive(Debug)]
pub struct Held {
    all: Arc<Pool>,
    share: Option<Arc<Pool>>,
    bytes: usize,
}

impl Held {
    /// Holds at least so many bytes in all from here on.
    ///
    /// # Errors
    /// [`ReasonCode::IngressMemoryFull`], and holds what it held before.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ReasonCode> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let more = more.checked_next_multiple_of(STEP).ok_or(ReasonCode::IngressMemoryFull)?;
        if let Some(share) = &self.share
            && !share.take(more)
        {
            return Err(ReasonCode::IngressMemoryFull);
        }
        if !self.all.take(more) {
            if let Some(share) = &self.share {
                share.give(more);
            }
            return Err(ReasonCode::IngressMemoryFull);
        }
        self.bytes += more;
        Ok(())
    }

    /// The bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.give(self.bytes);
        if let Some(share) = &self.share {
            share.give(self.bytes);
        }
    }
}

/// A body that was read, with the bytes of the budget that it holds until its last copy is dropped.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The body.
    pub bytes: Bytes,
    held: Arc<Mutex<Held>>,
    proved: Option<Budget>,
}

impl Taken {
    /// A body and what it holds; `proved` is the budget that it moves to when its sender is known.
    pub fn new(bytes: Bytes, held: Held, proved: Option<Budget>) -> Self {
        let held = Arc::new(Mutex::new(held));
        if bytes.is_empty() {
            return Self { bytes, held, proved };
        }
        let owner = Owner { bytes, _held: held.clone() };
        Self { bytes: Bytes::from_owner(owner), held, proved }
    }

    /// The sender is known: the body counts among the proved ones, within the share of `name`, and makes room for the next
    /// unproved one.
    ///
    /// # Errors
    /// [`ReasonCode::IngressMemoryFull`]
    pub fn prove(self, name: &str) -> Result<Self, ReasonCode> {
        if let Some(proved) = &self.proved {
            let mut held = self.held();
            let mut moved = proved.hold(Some(name));
            moved.grow(held.bytes())?;
            *held = moved;
        }
        Ok(Self { proved: None, ..self })
    }

    /// Counts what is made of the body too: so many bytes in all.
    ///
    /// # Errors
    /// [`ReasonCode::IngressMemoryFull`]
    pub fn grow(&self, bytes: usize) -> Result<(), ReasonCode> {
        self.held().grow(bytes)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Owner {
    bytes: Bytes,
    _held: Arc<Mutex<Held>>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_and_nobody_holds_more_than_there_is() {
        let budget = Budget::new(16 * STEP, 4 * STEP);
        let (mut one, mut other) = (budget.hold(None), budget.hold(None));
        assert_eq!((one.grow(1), one.grow(STEP), one.bytes()), (Ok(()), Ok(()), STEP));
        assert_eq!(one.grow(15 * STEP), Ok(()));
        assert_eq!((other.grow(STEP), other.grow(STEP + 1)), (Ok(()), Err(ReasonCode::IngressMemoryFull)));
        assert_eq!((other.bytes(), budget.left()), (STEP, 0));
        drop(one);
        assert_eq!(other.grow(2 * STEP), Ok(()));
        drop(other);
        assert_eq!(budget.left(), 16 * STEP);
    }

    #[test]
    fn one_name_holds_a_share_and_leaves_the_rest_to_others() {
        let budget = Budget::new(16 * STEP, 4 * STEP);
        let (mut one, mut again, mut other) = (budget.hold(Some("a")), budget.hold(Some("a")), budget.hold(Some("b")));
        assert_eq!((one.grow(3 * STEP), again.grow(STEP), again.grow(2 * STEP)), (Ok(()), Ok(()), Err(ReasonCode::IngressMemoryFull)));
        assert_eq!((other.grow(4 * STEP), budget.left()), (Ok(()), 8 * STEP));
        drop((one, again, other));
        assert_eq!(budget.left(), 16 * STEP);
        assert_eq!(budget.hold(Some("a")).grow(4 * STEP), Ok(()));
    }

    #[test]
    fn a_body_holds_its_bytes_until_its_last_copy_is_gone_and_moves_when_it_is_proved() {
        let (unproved, proved) = (Budget::new(16 * STEP, 4 * STEP), Budget::new(16 * STEP, 4 * STEP));
        let mut held = unproved.hold(None);
        held.grow(STEP).unwrap();
        let taken = Taken::new(Bytes::from_static(b"body"), held, Some(proved.clone()));
        assert_eq!((unproved.left(), proved.left()), (15 * STEP, 16 * STEP));
        let taken = taken.prove("a").unwrap();
        assert_eq!((unproved.left(), proved.left()), (16 * STEP, 15 * STEP));
        let part = taken.bytes.slice(1..2);
        drop(taken);
        assert_eq!((proved.left(), part.as_ref()), (15 * STEP, &b"o"[..]));
        drop(part);
        assert_eq!(proved.left(), 16 * STEP);
    }
}
