//! The inbound pipeline: the only place that branches on what a webhook turned out to be.
//!
//! Order, which no field of a request can change: path, limits, headers' proof, body, signature, one strict parse, binding,
//! rollout, policy, one transaction, answer. Nothing durable happens before proof. Floor 7.

mod limits;
mod noted;
mod synchronous;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use serde_json::json;

use crate::authn::webhook::{Binding, Identified, Proved, Said, Unbound, Verified, identify};
use crate::crypto::sha256;
use crate::domain::clock::Clock;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{EventId, OrgId};
use crate::domain::installation::AppProfile;
use crate::domain::lifecycle::{LifecycleChange, Shift, Shifted};
use crate::domain::reason::{Failure, ReasonCode, Refusal, Stop};
use crate::domain::record::{AuditRecord, Decision, RefusalRecord};
use crate::policy::{Denied, Engine, Snapshot};
use crate::providers;
use crate::quota::OrgQuotas;
use crate::quota::failures::FailureBudgets;
use crate::routing::{self, Routed, Unrouted};
use crate::store::directory::{Directory, Kept};
use crate::store::{AcceptRequest, Acceptance, NewEvent, Store};
use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;
use crate::wire::offload::in_proportion;
use crate::wire::waiting::Waiting;
use crate::wire::{BodySource, RequestHead};
pub use noted::{Noted, NotedEvent, NotedRefusal};
use synchronous::Awaited;

/// Everything the pipeline needs.
pub struct Ingress {
    /// Keeps.
    pub store: Store,
    /// Opens signing secrets.
    pub vault: Vault,
    /// Decides.
    pub engine: Engine,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Tells the time.
    pub clock: Clock,
    /// How much each org may use.
    pub quotas: Arc<OrgQuotas>,
    /// How many requests may fail to prove themselves.
    pub failures: Arc<FailureBudgets>,
    /// Where agents' answers arrive that providers wait for.
    pub waiting: Waiting,
    /// How long they are waited for; zero asks nobody.
    pub synchronous: Duration,
}

/// What the provider is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that may go on is committed; what may not is recorded. Do not send it again.
    Settled,
    /// The same, and the agent's own answer goes along: only of a kind that the provider waits for.
    Answered(Bytes),
    /// The address check is answered.
    Handshake(String),
    /// Refused before proof, or our own trouble: the code's status says what to do.
    Stopped(ReasonCode),
    /// Refused for now: send it again after so many seconds.
    Later(ReasonCode, u64),
}

impl Ingress {
    /// Takes one webhook request to its end.
    pub async fn receive(&self, head: RequestHead, body: impl BodySource) -> Outcome {
        self.take(head, body, &mut None).await
    }

    /// The same, and says what became of its parts.
    pub async fn receive_noting(&self, head: RequestHead, body: impl BodySource) -> (Outcome, Noted) {
        let mut noted = Some(Noted::default());
        let outcome = self.take(head, body, &mut noted).await;
        (outcome, noted.unwrap_or_default())
    }

    async fn take(&self, head: RequestHead, body: impl BodySource, noted: &mut Option<Noted>) -> Outcome {
        let began = Instant::now();
        let outcome = match self.pipeline(&head, body, noted).await {
            Ok(outcome) => outcome,
            Err(Ended { profile, stop, proved }) => {
                let profile = profile.as_ref().map(|p| &p.item);
                let later = if proved { None } else { self.over_failure_budget(&head, profile, stop.code()) };
                later.unwrap_or_else(|| self.stopped(&head, profile, &stop))
            }
        };
        self.metrics.ingress_took(began.elapsed().as_secs_f64());
        outcome
    }

    async fn pipeline(&self, head: &RequestHead, body: impl BodySource, noted: &mut Option<Noted>) -> Result<Outcome, Ended> {
        let directory = self.store.directory();
        let identified = identify(head, &directory).map_err(|stop| Ended { profile: None, stop, proved: false })?;
        let kept = identified.unverified_profile().clone();
        let claimed = &kept.item;
        let stop = |stop: Stop| Ended { profile: Some(kept.clone()), stop, proved: false };
        let refuse = |code: ReasonCode| stop(code.into());

        if head.method == Method::GET {
            let challenge = identified.handshake(head, &self.vault).map_err(stop)?;
            self.metrics.ingress(claimed.provider, Some(claimed.owner.mode()), "handshake", Some(ReasonCode::IngressHandshake));
            self.handshake_seen(head, claimed).await;
            return Ok(Outcome::Handshake(challenge));
        }
        if head.method != Method::POST && stands(Guard::Method) {
            return Err(refuse(ReasonCode::IngressMethod));
        }
        let body_bytes_max = within_limits(head, &identified).map_err(refuse)?;
        if !self.store.has_room() {
            return Err(refuse(ReasonCode::IngressOverloaded));
        }
        if identified.provider().edge().signs_time && self.clock.is_suspect() && stands(Guard::ClockBelieved) {
            return Err(stop(
                Failure::new(ReasonCode::ClockSuspect, "signed times are not judged until the clock is believed again").into(),
            ));
        }
        let headers = identified.inspect(head, &self.vault, head.received).map_err(stop)?;
        let body = body.read(body_bytes_max).await.map_err(refuse)?;
        let proved = in_proportion(body.bytes.len(), || headers.verify(&body.bytes)).map_err(refuse)?;
        // What is proved makes room for the next request that is not.
        let body = body.prove(claimed.id.as_str()).map_err(refuse)?.bytes;

        if proved.slot() == providers::SecretSlot::Previous {
            self.metrics.previous_secret_used(claimed.provider);
        }
        self.proved(head, &body, &proved, &directory, noted).await.map_err(|end| Ended { proved: true, ..stop(end) })
    }

    /// From here on the sender is known: every refusal is recorded and answered 200.
    async fn proved(
        &self,
        head: &RequestHead,
        body: &Bytes,
        proved: &Proved,
        directory: &Directory,
        noted: &mut Option<Noted>,
    ) -> Result<Outcome, Stop> {
        let profile = proved.profile();
        let said = match in_proportion(body.len(), || proved.read(head, body)) {
            Ok(Said::Handshake(challenge)) => {
                self.metrics.ingress(profile.provider, Some(profile.owner.mode()), "handshake", Some(ReasonCode::IngressHandshake));
                self.handshake_seen(head, profile).await;
                return Ok(Outcome::Handshake(challenge));
            }
            Ok(Said::Events(events)) => Ok(events),
            Err(code) if code.status() == 200 => Err(code),
            Err(code) => return Err(code.into()),
        };
        let mut draft = Draft::new(head, body, profile);
        let decided = match said {
            Err(code) => {
                draft.refuse(code, None, Vec::new());
                Ok(())
            }
            Ok(events) => {
                let app = self.app_of(head, profile, &events).await?;
                let bindings = in_proportion(body.len(), || proved.bind(events, app.as_deref(), directory));
                self.decide_all(directory, bindings, &mut draft)
            }
        };
        if let Err(stop) = decided {
            // The provider shall send it again, but what it says of an installation holds at once.
            let shifts: Vec<Shift> = draft.request.shifts.drain(..).map(|shift| Shift { event: None, ..shift }).collect();
            if !shifts.is_empty() {
                let request = AcceptRequest { shifts, ..Draft::new(head, body, profile).request };
                self.shifted(&self.store.accept_inbound(request).await.map_err(Failure::from)?.shifted);
            }
            return Err(stop);
        }
        let admitted = self.within_quotas(directory, &mut draft).await?;
        let Some(over) = admitted.over else { return self.accept(draft, noted).await };
        // It comes again, and its refusals with it.
        draft.request.refusals.clear();
        draft.awaited = None;
        if !draft.request.events.is_empty() || !draft.request.shifts.is_empty() {
            self.accept(draft, noted).await?;
        }
        Ok(Outcome::Later(over.code, over.retry_after_s))
    }

    /// The app that events of this profile may name: the declared one, else the one that the first proved event named. That is kept
    /// before the event goes any further, and of several first events the store takes one.
    async fn app_of(&self, head: &RequestHead, profile: &AppProfile, events: &Unbound) -> Result<Option<String>, Stop> {
        if let Some(app) = profile.app() {
            return Ok(Some(app.to_owned()));
        }
        let Some(named) = events.names_app() else { return Ok(None) };
        let detail = Some(json!({"app_id": named}).to_string());
        let line = AuditRecord { detail, ..profile_line(head, profile, "profile.learn_app") };
        let app = self.store.learn_app(profile.id.clone(), named.to_owned(), line, head.received).await.map_err(Failure::from)?;
        app.map(Some).ok_or_else(|| ReasonCode::AuthnInstallationGone.into())
    }

    fn decide_all(&self, directory: &Directory, bindings: Vec<Binding>, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let policy = self.engine.pin();
        let mut stopped = Ok(());
        for binding in bindings {
            let decided = match binding {
                Binding::Bound(verified) => {
                    let (shift, before) = (draft.shift(&verified), draft.request.events.len());
                    let decided = self.decide(&policy, directory, verified, draft);
                    draft.request.shifts.extend(shift.map(|shift| {
                        let event = draft.request.events.get(before).map(|e| e.id.clone());
                        Shift { event, ..shift }
                    }));
                    decided
                }
                Binding::Refused(code) if code.status() == 200 => {
                    draft.refuse(code, None, Vec::new());
                    Ok(())
                }
                Binding::Refused(code) => Err(code.into()),
            };
            stopped = stopped.and(decided);
        }
        stopped
    }

    /// What befell installations is said aloud: somebody has to act on most of it.
    fn shifted(&self, shifted: &[Shifted]) {
        for shift in shifted {
            match shift {
                Shifted::Done { installation, provider, change } => {
                    self.metrics.lifecycle(*provider, change.as_str());
                    match change {
                        LifecycleChange::Status(status, reason) => {
                            tracing::error!(installation = %installation, status = status.as_str(), reason = reason.as_str(), advice = reason.advice(), "an installation ended or was halted");
                        }
                        change => tracing::warn!(installation = %installation, change = change.as_str(), "an installation changed"),
                    }
                }
                Shifted::Stale { installation, provider } => {
                    self.metrics.lifecycle(*provider, "stale");
                    tracing::warn!(installation = %installation, "news older than the install changes nothing");
                }
            }
        }
    }

    /// Rollout, then route; each a question to the pinned policies.
    fn decide(&self, policy: &Snapshot, directory: &Directory, verified: Box<Verified>, draft: &mut Draft<'_>) -> Result<(), Stop> {
        let began = Instant::now();
        let (entered, closed) = match crate::rollout::enter(policy, directory, verified.sender().installation()) {
            Ok(entered) => (entered, None),
            // Not let in yet: its legacy route may be left to it.
            Err(Denied { refusal, decision }) if refusal.code == ReasonCode::RolloutStageOff => (Some(decision), Some(refusal)),
            Err(Denied { refusal, decision }) => {
                self.count(&decision, began);
                if refusal.code.status() == 503 {
                    return Err(refusal.into());
                }
                draft.deny(refusal, &verified, vec![decision]);
                return Ok(());
            }
        };
        if let Some(decision) = &entered {
            self.count(decision, began);
        }
        let began = Instant::now();
        match routing::inbound(policy, directory, verified, closed.is_none()) {
            Ok(routed) => {
                if let Some(decision) = routed.legacy() {
                    self.count(decision, began);
                }
                self.count(routed.decision(), began);
                let asked = self.ask_for_answer(policy, directory, &routed);
                let way = entered.into_iter().chain(routed.legacy().cloned()).chain([routed.decision().clone()]);
                let decisions = way.chain(asked.as_ref().map(|a| a.decision.clone()));
                let event = draft.event(&routed, decisions.collect());
                draft.awaited = asked.and_then(|asked| self.await_answer(asked, &event));
            }
            Err(Unrouted { verified, refusal, had_way, decisions }) => {
                for decision in &decisions {
                    self.count(decision, began);
                }
                match closed {
                    // Not yet is not no: the provider shall try again, so that nothing is lost.
                    Some(closed) if !had_way => return Err(closed.into()),
                    _ => draft.deny(refusal, &verified, decisions),
                }
            }
        }
        Ok(())
    }

    fn count(&self, decision: &Decision, began: Instant) {
        self.metrics.decision(decision.action, decision.allowed, decision.code, began.elapsed().as_secs_f64());
        if decision.errors > 0 {
            tracing::error!(action = decision.action, errors = decision.errors, "policies could not be evaluated; refused");
        }
    }

    /// One transaction; 200 only after it is on disk.
    async fn accept(&self, mut draft: Draft<'_>, noted: &mut Option<Noted>) -> Result<Outcome, Stop> {
        // Before the cap: what is not recorded was refused all the same.
        noted.iter_mut().for_each(|noted| noted.add(&draft.request));
        let capped = self.cap_refusals(&mut draft);
        let Draft { profile, request, mut awaited, .. } = draft;
        if request.events.is_empty() && request.refusals.is_empty() && request.shifts.is_empty() {
            if !capped {
                self.metrics.ingress(profile.provider, Some(profile.owner.mode()), "accepted", None);
            }
            return Ok(Outcome::Settled);
        }
        let refused: Vec<ReasonCode> = request.refusals.iter().map(|r| r.code).collect();
        let request_id = request.request.clone();
        let legacy: Vec<bool> = request.events.iter().map(|e| e.route.legacy).collect();
        let accepted = match self.store.accept_inbound(request).await {
            Ok(accepted) => accepted,
            Err(_) if !stands(Guard::CommittedBeforeAck) => return Ok(Outcome::Settled),
            Err(error) => return Err(Failure::from(error).into()),
        };
        self.shifted(&accepted.shifted);
        noted.iter_mut().for_each(|noted| noted.accepted(&accepted.events));
        let mode = Some(profile.owner.mode());
        for (acceptance, legacy) in accepted.events.into_iter().zip(legacy) {
            match acceptance {
                Acceptance::Stored(event) => {
                    if legacy {
                        self.metrics.legacy_used(profile.provider);
                    }
                    tracing::debug!(request = %request_id, profile = %profile.id, event = %event, "accepted");
                    self.metrics.ingress(profile.provider, mode, "accepted", None);
                }
                Acceptance::Duplicate => {
                    // Its one delivery is the first one's.
                    awaited = None;
                    self.metrics.ingress(profile.provider, mode, "duplicate", Some(ReasonCode::IngressDuplicate));
                }
            }
        }
        for code in refused {
            tracing::warn!(request = %request_id, profile = %profile.id, reason = %code, "refused");
            self.metrics.ingress(profile.provider, mode, "refused", Some(code));
        }
        match awaited {
            Some(awaited) => Ok(self.answer(awaited, &request_id).await),
            None => Ok(Outcome::Settled),
        }
    }

    /// Ended before proof, or by our own trouble. Nothing durable: a counter, and a line a minute.
    fn stopped(&self, head: &RequestHead, profile: Option<&AppProfile>, stop: &Stop) -> Outcome {
        let code = stop.code();
        let mode = profile.map(|p| p.owner.mode());
        let outcome = match stop {
            Stop::Failed(_) => "failed",
            Stop::Refused(_) if code.status() == 503 => "failed",
            Stop::Refused(_) => "unauthenticated",
        };
        self.metrics.ingress(head.provider, mode, outcome, Some(code));
        let profile = profile.map(|p| p.id.clone());
        match stop {
            Stop::Failed(failure) => {
                let profile = profile.as_ref().map(|p| p.as_str().to_owned());
                tracing::error!(request = %head.request_id, provider = %head.provider, profile, reason = %code, detail = %failure.detail, "webhook failed");
            }
            Stop::Refused(_) => {
                tracing::debug!(request = %head.request_id, provider = %head.provider, reason = %code, "webhook stopped");
            }
        }
        self.store.repeats().count_unproved(head.provider, profile.as_ref(), code, head.received);
        Outcome::Stopped(code)
    }

    async fn handshake_seen(&self, head: &RequestHead, profile: &AppProfile) {
        let line = profile_line(head, profile, "profile.handshake");
        if let Err(error) = self.store.audit(vec![line]).await {
            tracing::error!(error = %error, "a handshake was answered without its audit line");
        }
    }
}

/// The audit line of what a request of the provider did to its profile.
fn profile_line(head: &RequestHead, profile: &AppProfile, action: &'static str) -> AuditRecord {
    AuditRecord {
        at: head.received,
        actor: format!("profile:{}", profile.id),
        action,
        target: profile.id.to_string(),
        org: org_of(profile),
        outcome: "done",
        code: None,
        decision: None,
        request: Some(head.request_id.clone()),
        detail: None,
    }
}

fn org_of(profile: &AppProfile) -> Option<OrgId> {
    match &profile.owner {
        crate::domain::installation::Ownership::Platform => None,
        crate::domain::installation::Ownership::Org(org) => Some(org.clone()),
    }
}

/// What the edge looks at before any secret is touched; the cap for the body.
fn within_limits(head: &RequestHead, identified: &Identified) -> Result<usize, ReasonCode> {
    let edge = identified.provider().edge();
    let coded = head.headers.get_all(http::header::CONTENT_ENCODING).iter().any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded && stands(Guard::ContentEncoding) {
        return Err(ReasonCode::IngressEncodingUnsupported);
    }
    if !edge.media_types.contains(&head.media_type().as_str()) && stands(Guard::MediaType) {
        return Err(ReasonCode::IngressMediaType);
    }
    let declared = head.headers.get(http::header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    if declared.is_some_and(|n| n > edge.body_bytes_max) && stands(Guard::DeclaredLength) {
        return Err(ReasonCode::IngressBodyTooLarge);
    }
    Ok(edge.body_bytes_max)
}

/// Why a request ended early, and how far it got.
struct Ended {
    /// The profile that it claimed.
    profile: Option<Arc<Kept<AppProfile>>>,
    stop: Stop,
    /// It was proved before.
    proved: bool,
}

/// What the one transaction will hold.
struct Draft<'a> {
    head: &'a RequestHead,
    profile: &'a AppProfile,
    body: &'a Bytes,
    request: AcceptRequest,
    /// The event whose answer the provider waits for.
    awaited: Option<Awaited>,
}

/// Bytes of a refused body that an operator is shown.
const EXCERPT_BYTES_MAX: usize = 256;

impl<'a> Draft<'a> {
    fn new(head: &'a RequestHead, body: &'a Bytes, profile: &'a AppProfile) -> Self {
        let request = AcceptRequest {
            request: head.request_id.clone(),
            received: head.received,
            events: Vec::new(),
            refusals: Vec::new(),
            shifts: Vec::new(),
        };
        Self { head, profile, body, request, awaited: None }
    }

    /// Records a refusal: of the whole body, or of one event of one installation.
    fn refuse(&mut self, code: ReasonCode, of: Option<&Verified>, decisions: Vec<Arc<Decision>>) {
        let installation = of.map(|v| v.sender().installation());
        let bytes = of.map_or(self.body, |v| &v.event().raw);
        self.request.refusals.push(RefusalRecord {
            at: self.head.received,
            provider: self.profile.provider,
            profile: self.profile.id.clone(),
            installation: installation.map(|i| i.id.clone()),
            org: installation.map(|i| i.org.clone()).or_else(|| org_of(self.profile)),
            code,
            decisions,
            digest: sha256(bytes),
            excerpt: shows_payload(code).then(|| excerpt(self.body)),
            request: self.head.request_id.clone(),
        });
    }

    /// What an event says of its installation, whether the event itself may go on or not.
    fn shift(&self, verified: &Verified) -> Option<Shift> {
        let installation = verified.sender().installation();
        let news = providers::of(installation.provider).lifecycle(verified.event())?;
        Some(Shift {
            installation: installation.id.clone(),
            profile: installation.profile.clone(),
            org: installation.org.clone(),
            provider: installation.provider,
            change: news.change,
            event: None,
            happened: news.happened,
            credential: None,
            actor: format!("profile:{}", self.profile.id),
            request: Some(self.head.request_id.clone()),
        })
    }

    fn deny(&mut self, refusal: Refusal, verified: &Verified, decisions: Vec<Arc<Decision>>) {
        self.refuse(refusal.code, Some(verified), decisions);
    }

    fn event(&mut self, routed: &Routed, decisions: Vec<Arc<Decision>>) -> EventId {
        let now = self.head.received;
        let verified = routed.verified();
        let (sender, event) = (verified.sender(), verified.event());
        let installation = sender.installation();
        let id = EventId::fresh(now);
        self.request.events.push(NewEvent {
            id: id.clone(),
            route: routed.route().clone(),
            legacy: routed.legacy().cloned(),
            mode: sender.mode(),
            profile: installation.profile.clone(),
            session_key: routed.session().clone(),
            peer: routed.peer().map(str::to_owned),
            kind: event.kind,
            provider_event_id: event.provider_event_id.clone(),
            provider_event_type: event.provider_event_type.clone(),
            dedupe_key: event.dedupe_key.clone(),
            dedupe_is_personal: providers::of(installation.provider).edge().dedupe_is_personal,
            dedupe_until: now.plus_ms(providers::of(installation.provider).edge().dedupe_kept_ms),
            principal: sender.name(),
            verified_with: verified.slot().as_str(),
            normal: event.normal.clone(),
            raw: event.raw.clone(),
            media_type: event.media_type,
            files: providers::sdk::of(installation.provider).file_ids(&event.raw),
            decisions,
        });
        id
    }
}

/// Whether a refused body's first bytes are kept: where an operator must see what was wrong with it, and it cannot be the
/// message of an org we serve.
fn shows_payload(code: ReasonCode) -> bool {
    matches!(
        code,
        ReasonCode::AuthnTenantMismatch
            | ReasonCode::AuthnModeConflict
            | ReasonCode::AuthnIdentityMissing
            | ReasonCode::AuthnIdentityInvalid
            | ReasonCode::IngressJsonInvalid
            | ReasonCode::IngressJsonTooDeep
            | ReasonCode::IngressJsonTooManyValues
            | ReasonCode::IngressJsonDuplicateKey
            | ReasonCode::IngressFormMalformed
            | ReasonCode::IngressPayloadMalformed
            | ReasonCode::IngressChallengeMalformed
    )
}

fn excerpt(body: &[u8]) -> String {
    let head = body.get(..EXCERPT_BYTES_MAX).unwrap_or(body);
    String::from_utf8_lossy(head).chars().flat_map(char::escape_default).collect()
}
