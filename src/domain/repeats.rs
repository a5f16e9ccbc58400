//! Refusals that repeat: the audit line of the first is written at once, further ones of the same kind are counted in memory and
//! written once a minute as one line with the count, so that an operator sees an attack and the attacker cannot fill the audit.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::Timestamp;
use super::ids::{OrgId, ProfileId, RequestId};
use super::installation::ProviderKind;
use super::reason::ReasonCode;
use super::record::AuditRecord;

/// Milliseconds between two writes of the counts.
pub const FLUSH_EVERY_MS: u64 = 60_000;

/// Kinds that are counted apart at most. Beyond, all actors, targets and orgs of one action and code are one kind.
const KINDS_MAX: usize = 4_096;

/// Actions of agents, whose targets are ids that are fresh each time. Other targets tell kinds apart.
const FRESH_TARGETS: [&str; 3] = ["message.send", "provider.call", "media.fetch"];

/// The fields in which two lines of the same kind agree.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Kind {
    actor: String,
    action: &'static str,
    target: Option<String>,
    org: Option<OrgId>,
    code: ReasonCode,
    /// An alert has a line of its own beside what is refused alike without one.
    alert: bool,
    provider: Option<ProviderKind>,
}

impl Kind {
    fn folded(&self) -> Self {
        let (action, code, alert) = (self.action, self.code, self.alert);
        Self { actor: GATEWAY.into(), action, target: Some(OTHERS.into()), org: None, code, alert, provider: None }
    }
}

/// The actor of lines about nobody in particular.
const GATEWAY: &str = "gateway";

/// The target of lines about kinds beyond [`KINDS_MAX`].
const OTHERS: &str = "others";

/// What was counted of one kind and is not written yet.
#[derive(Clone, Debug, Default)]
struct Count {
    count: u64,
    first: Timestamp,
    last: Timestamp,
    /// The last one's target and request.
    target: String,
    request: Option<RequestId>,
}

/// One refusal that was heard and whose commit is not known yet.
#[derive(Debug)]
struct Heard {
    kind: Kind,
    written: bool,
}

#[derive(Debug, Default)]
struct Inner {
    counts: BTreeMap<Kind, Count>,
    /// Since the last commit, in order.
    heard: Vec<Heard>,
}

/// Counts of repeated refusals. Bounded; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Repeats(Arc<Mutex<Inner>>);

/// Counts that were taken to be written.
#[derive(Debug)]
pub struct Taken(BTreeMap<Kind, Count>);

impl Repeats {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a refusal before proof, which has no line of its own.
    pub fn count_unproved(&self, provider: ProviderKind, profile: Option<&ProfileId>, code: ReasonCode, at: Timestamp) {
        self.count_without_row(provider, profile, None, code, at);
    }

    /// Counts a refusal that has no record and no line of its own: before proof, or over a quota of an org.
    pub fn count_without_row(
        &self,
        provider: ProviderKind,
        profile: Option<&ProfileId>,
        org: Option<&OrgId>,
        code: ReasonCode,
        at: Timestamp,
    ) {
        let target = profile.map_or_else(|| provider.to_string(), ToString::to_string);
        let kind = Kind {
            actor: GATEWAY.into(),
            action: "request.refuse",
            target: Some(target.clone()),
            org: org.cloned(),
            code,
            alert: false,
            provider: Some(provider),
        };
        let mut inner = self.lock();
        let kind = inner.bounded(kind);
        inner.counts.entry(kind).or_default().add(at, target, None);
    }

    /// Counts a request to the operator API whose token is nobody's, from this address.
    pub fn count_unknown_operator(&self, address: Option<IpAddr>, at: Timestamp) {
        let target = address.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let kind = Kind {
            actor: GATEWAY.into(),
            action: "operator.authenticate",
            target: Some(target.clone()),
            org: None,
            code: ReasonCode::AdminUnauthenticated,
            alert: false,
            provider: None,
        };
        let mut inner = self.lock();
        let kind = inner.bounded(kind);
        inner.counts.entry(kind).or_default().add(at, target, None);
    }

    /// Hears an audit line that is about to be committed. `true` when it is to be written: it is no refusal of somebody outside,
    /// or the first of its kind within the minute. Otherwise it is counted.
    pub fn hear(&self, line: &AuditRecord) -> bool {
        let Some(code) = line.code.filter(|_| line.outcome == "refused" && line.actor != GATEWAY) else { return true };
        let kind = Kind {
            actor: line.actor.clone(),
            action: line.action,
            target: (!FRESH_TARGETS.contains(&line.action)).then(|| line.target.clone()),
            org: line.org.clone(),
            code,
            alert: is_alert(line),
            provider: None,
        };
        let mut inner = self.lock();
        let kind = inner.bounded(kind);
        let written = match inner.counts.get_mut(&kind) {
            Some(count) => {
                count.add(line.at, line.target.clone(), line.request.clone());
                false
            }
            None => {
                inner.counts.insert(kind.clone(), Count::default());
                true
            }
        };
        inner.heard.push(Heard { kind, written });
        written
    }

    /// How many lines were heard since the last commit, for [`Repeats::undo`].
    pub fn mark(&self) -> usize {
        self.lock().heard.len()
    }

    /// Takes back what was heard after a mark: it was rolled back.
    pub fn undo(&self, mark: usize) {
        let mut inner = self.lock();
        let undone: Vec<Heard> = inner.heard.drain(mark..).rev().collect();
        for Heard { kind, written } in undone {
            if written {
                inner.counts.remove(&kind);
            } else if let Some(count) = inner.counts.get_mut(&kind) {
                count.count = count.count.saturating_sub(1);
            }
        }
    }

    /// What was heard is committed.
    pub fn committed(&self) {
        self.lock().heard.clear();
    }

    /// Takes the counts to be written. A kind that repeated stays known, so that a refusal which goes on for hours is one line a
    /// minute; one that did not is forgotten.
    pub fn take(&self) -> Taken {
        let mut inner = self.lock();
        inner.counts.retain(|_, count| count.count > 0);
        let taken = inner.counts.clone();
        for count in inner.counts.values_mut() {
            *count = Count::default();
        }
        Taken(taken)
    }

    /// Adds counts that could not be written to those since.
    pub fn put_back(&self, taken: Taken) {
        let mut inner = self.lock();
        for (kind, earlier) in taken.0 {
            let kind = inner.bounded(kind);
            let count = inner.counts.entry(kind).or_default();
            if count.count == 0 {
                *count = earlier;
            } else {
                (count.count, count.first) = (count.count + earlier.count, earlier.first);
            }
        }
    }
}

impl Inner {
    /// The kind under which a line is counted.
    fn bounded(&self, kind: Kind) -> Kind {
        if self.counts.len() < KINDS_MAX || self.counts.contains_key(&kind) { kind } else { kind.folded() }
    }
}

impl Count {
    fn add(&mut self, at: Timestamp, target: String, request: Option<RequestId>) {
        if self.count == 0 {
            self.first = at;
        }
        (self.count, self.last, self.target, self.request) = (self.count + 1, at, target, request);
    }
}

impl Taken {
    /// The counts as audit lines, one for each kind.
    pub fn lines(&self, now: Timestamp) -> Vec<AuditRecord> {
        let line = |(kind, count): (&Kind, &Count)| {
            let mut detail = match kind.provider {
                Some(provider) => serde_json::json!({"provider": provider, "count": count.count}),
                None => serde_json::json!({"count": count.count, "first_at": count.first, "last_at": count.last}),
            };
            if let Some(fields) = detail.as_object_mut().filter(|_| kind.alert) {
                fields.insert("alert".into(), serde_json::json!(true));
            }
            AuditRecord {
                org: kind.org.clone(),
                outcome: "refused",
                code: Some(kind.code),
                request: count.request.clone(),
                detail: Some(detail.to_string()),
                actor: kind.actor.clone(),
                ..AuditRecord::of_gateway(now, kind.action, kind.target.clone().unwrap_or_else(|| count.target.clone()))
            }
        };
        self.0.iter().map(line).collect()
    }
}

/// Reads from a line's detail whether it is an alert, such as an agent that names another tenant's installation.
fn is_alert(line: &AuditRecord) -> bool {
    let detail = line.detail.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    detail.is_some_and(|detail| detail.get("alert").is_some_and(|alert| !alert.is_null()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(actor: &str, target: &str, at: i64) -> AuditRecord {
        AuditRecord {
            actor: actor.into(),
            outcome: "refused",
            code: Some(ReasonCode::EgressNotFound),
            ..AuditRecord::of_gateway(Timestamp::from_secs(at), "message.send", target.into())
        }
    }

    fn details(repeats: &Repeats) -> Vec<String> {
        repeats.take().lines(Timestamp::from_secs(99)).into_iter().map(|l| format!("{} {}", l.target, l.detail.unwrap())).collect()
    }

    #[test]
    fn many_refusals_before_proof_are_one_line() {
        let repeats = Repeats::default();
        for at in 0..1000 {
            repeats.count_unproved(ProviderKind::Slack, None, ReasonCode::AuthnSignatureMismatch, Timestamp::from_secs(at));
        }
        let expected = r#"slack {"provider":"slack","count":1000}"#;
        assert_eq!(details(&repeats), [expected]);
        assert!(details(&repeats).is_empty());
    }

    #[test]
    fn the_first_is_written_and_the_rest_is_one_line_a_minute() {
        let repeats = Repeats::default();
        let written: Vec<bool> = (0..4).map(|at| repeats.hear(&refusal("agent:a", &format!("msg_{at}"), at))).collect();
        assert_eq!(written, [true, false, false, false]);
        repeats.committed();
        let expected = r#"msg_3 {"count":3,"first_at":"1970-01-01T00:00:01.000Z","last_at":"1970-01-01T00:00:03.000Z"}"#;
        assert_eq!(details(&repeats), [expected]);
        assert!(!repeats.hear(&refusal("agent:a", "msg_5", 5)), "it goes on: the next minute has one line too");
        assert_eq!(details(&repeats).len(), 1);
        assert!(details(&repeats).is_empty(), "a quiet minute");
        assert!(repeats.hear(&refusal("agent:a", "msg_6", 200)), "after a quiet minute it is written at once again");
        assert!(repeats.hear(&refusal("agent:b", "msg_7", 200)), "another actor");
        let alert = AuditRecord { detail: Some(r#"{"alert":"another tenant's"}"#.into()), ..refusal("agent:a", "msg_8", 200) };
        assert!(repeats.hear(&alert), "an alert");
    }

    #[test]
    fn what_is_no_refusal_of_somebody_outside_is_always_written() {
        let repeats = Repeats::default();
        for _ in 0..2 {
            assert!(repeats.hear(&refusal(GATEWAY, "x", 1)));
            assert!(repeats.hear(&AuditRecord { outcome: "done", code: None, ..refusal("agent:a", "x", 1) }));
        }
        assert!(details(&repeats).is_empty());
    }

    #[test]
    fn what_was_rolled_back_is_not_counted_and_not_taken_for_written() {
        let repeats = Repeats::default();
        assert!(repeats.hear(&refusal("agent:a", "m", 1)));
        repeats.undo(0);
        assert!(repeats.hear(&refusal("agent:a", "m", 2)), "the first was not written after all");
        repeats.committed();
        assert!(!repeats.hear(&refusal("agent:a", "m", 3)));
        let mark = repeats.mark();
        assert!(!repeats.hear(&refusal("agent:a", "m", 4)));
        repeats.undo(mark);
        let taken = repeats.take();
        assert_eq!(taken.0.values().map(|c| c.count).collect::<Vec<_>>(), [1]);
        repeats.hear(&refusal("agent:a", "m", 5));
        repeats.put_back(taken);
        assert_eq!(repeats.take().0.values().map(|c| (c.count, c.first)).collect::<Vec<_>>(), [(2, Timestamp::from_secs(3))]);
    }

    #[test]
    fn tokens_that_are_nobodys_are_one_line_for_each_address() {
        let repeats = Repeats::default();
        for n in 0..300i64 {
            repeats.count_unknown_operator(Some([192, 0, 2, u8::from(n > 298)].into()), Timestamp::from_secs(n));
        }
        let lines = repeats.take().lines(Timestamp::from_secs(300));
        let said: Vec<String> = lines.iter().map(|l| format!("{} {} {}", l.action, l.target, l.detail.as_deref().unwrap())).collect();
        assert_eq!(
            said,
            [
                r#"operator.authenticate 192.0.2.0 {"count":299,"first_at":"1970-01-01T00:00:00.000Z","last_at":"1970-01-01T00:04:58.000Z"}"#,
                r#"operator.authenticate 192.0.2.1 {"count":1,"first_at":"1970-01-01T00:04:59.000Z","last_at":"1970-01-01T00:04:59.000Z"}"#,
            ]
        );
    }

    #[test]
    fn the_number_of_kinds_is_bounded() {
        let repeats = Repeats::default();
        let written = (0..KINDS_MAX + 50).filter(|n| repeats.hear(&refusal(&format!("agent:{n}"), "m", 1))).count();
        assert_eq!(written, KINDS_MAX + 1, "those beyond are one kind");
        let lines = repeats.take().lines(Timestamp::default());
        assert_eq!(lines.iter().map(|l| (l.actor.as_str(), l.target.as_str())).collect::<Vec<_>>(), [(GATEWAY, OTHERS)]);
    }
}
