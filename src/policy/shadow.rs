//! A second set beside the one in force: asked the same questions, without effect. What it would have answered otherwise is
//! counted and listed, so that an edit can be watched before it counts. Never changes an answer. Floor 5.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::Snapshot;
use super::action::Action;
use crate::domain::record::Decision;

/// Questions that are listed; those beyond are only counted.
const LISTED_MAX: usize = 1_000;

/// A set without effect, and where it disagreed with the one in force.
pub struct Shadow {
    set: Snapshot,
    found: Mutex<HashMap<String, Arc<Disagreement>>>,
    unlisted: Arc<Disagreement>,
}

/// One question that the two sets answer otherwise.
#[derive(Debug)]
pub(super) struct Disagreement {
    live: Option<Arc<Decision>>,
    shadow: Option<Decision>,
    asked: AtomicU64,
}

impl Disagreement {
    /// It was asked once more.
    pub fn again(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shadow {
    /// Puts a set in the shadow.
    pub fn new(set: Snapshot) -> Self {
        let unlisted = Arc::new(Disagreement { live: None, shadow: None, asked: AtomicU64::new(0) });
        Self { set, found: Mutex::default(), unlisted }
    }

    /// The set.
    pub fn set(&self) -> &Snapshot {
        &self.set
    }

    /// Where the two part, if they do: yes against no, or another reason code. Other policies that say the same are no news.
    pub(super) fn compare<A: Action>(&self, ask: &A, live: &Arc<Decision>) -> Option<Arc<Disagreement>> {
        let shadow = self.set.law.judge(ask);
        if (shadow.allowed, shadow.code) == (live.allowed, live.code) {
            return None;
        }
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let key = format!("{} {} {} {}", live.action, live.principal, live.resource, live.facts);
        let full = found.len() >= LISTED_MAX;
        match found.get(&key) {
            Some(known) => Some(Arc::clone(known)),
            None if full => Some(Arc::clone(&self.unlisted)),
            None => {
                let new = Arc::new(Disagreement { live: Some(Arc::clone(live)), shadow: Some(shadow), asked: AtomicU64::new(0) });
                found.insert(key, Arc::clone(&new));
                Some(new)
            }
        }
    }

    /// How often the two disagreed since the shadow was loaded.
    pub fn total(&self) -> u64 {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.values().chain([&self.unlisted]).map(|d| d.asked.load(Ordering::Relaxed)).sum()
    }

    /// The disagreements, the most frequent first.
    pub fn list(&self) -> Vec<Value> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(u64, &Arc<Decision>, &Decision)> =
            found.values().filter_map(|d| Some((d.asked.load(Ordering::Relaxed), d.live.as_ref()?, d.shadow.as_ref()?))).collect();
        all.sort_by(|(a, one, _), (b, two, _)| {
            (b, &one.action, &one.principal, &one.facts).cmp(&(a, &two.action, &two.principal, &two.facts))
        });
        let said = |d: &Decision| json!({"allowed": d.allowed, "code": d.code, "policies": d.policies.as_ref()});
        all.into_iter()
            .map(|(asked, live, shadow)| {
                let facts: Value = serde_json::from_str(&live.facts).unwrap_or_default();
                json!({
                    "action": live.action, "principal": live.principal, "resource": live.resource, "facts": facts,
                    "asked": asked, "live": said(live), "shadow": said(shadow),
                })
            })
            .collect()
    }

    /// How often they disagreed about questions that are not listed, since too many are.
    pub fn unlisted(&self) -> u64 {
        self.unlisted.asked.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shadow({:?})", self.set)
    }
}
