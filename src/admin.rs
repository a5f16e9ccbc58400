//! What operators do: one function a use case, whichever door it came through. Authorize, do, audit. Floor 7.

mod changes;
pub mod document;
mod future;
pub mod import;
pub mod keys;
pub mod matrix;
pub mod purge;
pub mod resources;
pub mod rollout;
pub mod secrets;
pub mod sessions;
pub mod shred;
pub mod simulate;
pub mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::authn::principal::OperatorPrincipal;
use crate::config::{RetentionSection, RolloutSection};
use crate::domain::clock::Clock;
use crate::domain::ids::{BindingId, DeliveryId, EventId, OrgId, RequestId};
use crate::domain::installation::Installation;
use crate::domain::matrix::Player;
use crate::domain::reason::{Failure, ReasonCode, Refusal, Stop};
use crate::domain::record::{AuditRecord, Decision};
use crate::policy::action::{Action, OperatorFacts, ReadAudit, ReplayDelivery, Role, ViewResources};
use crate::policy::{Denied, Engine};
use crate::quota::OrgQuotas;
use crate::store::directory::Directory;
use crate::store::{LegacyUse, ListFilter, Page, Replayed, Store};
use crate::vault::Vault;
use crate::vault::keys::Origin;

/// Why an operator's request ended: the code and, for people, what is wrong with it.
#[derive(Clone, Debug)]
pub struct AdminError {
    /// The reason code.
    pub code: ReasonCode,
    /// What is wrong, where, and what to do.
    pub detail: String,
    /// The policies that refused, sorted; empty where none did.
    pub policies: Arc<[String]>,
}

impl AdminError {
    /// An error with its detail.
    pub fn new(code: ReasonCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), policies: Arc::new([]) }
    }
}

impl From<Failure> for AdminError {
    fn from(failure: Failure) -> Self {
        Self::new(failure.code, failure.detail)
    }
}

impl From<Stop> for AdminError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Refused(Refusal { code, policies, .. }) => Self { policies, ..Self::new(code, code.meaning()) },
            Stop::Failed(failure) => failure.into(),
        }
    }
}

impl From<crate::store::StoreError> for AdminError {
    fn from(error: crate::store::StoreError) -> Self {
        Failure::from(error).into()
    }
}

/// Everything operators' use cases need. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// Keeps.
    pub store: Store,
    /// Seals.
    pub vault: Vault,
    /// Decides.
    pub engine: Engine,
    /// Where the master keys are kept.
    pub keys: Origin,
    /// Tells the time.
    pub clock: Clock,
    /// One change at a time: each is planned against what the last one left.
    pub changing: Arc<tokio::sync::Mutex<()>>,
    /// An import's dry run that is under way.
    pub rehearsal: Arc<std::sync::Mutex<Option<import::Rehearsal>>>,
    /// What a promotion asks for.
    pub rollout: RolloutSection,
    /// How long what is kept.
    pub retention: RetentionSection,
    /// Whether agents may live on private addresses.
    pub allow_private_agents: bool,
    /// What tenants are told to point providers at.
    pub public_url: Option<String>,
    /// Who plays the failure-path matrix; nobody in a gateway that is itself played with.
    pub player: Option<Arc<dyn Player>>,
    /// Which build this is, found out at the first call, which waits for a file; none where it cannot be.
    pub build: fn() -> Option<Arc<str>>,
    /// The run of the matrix that is under way, or the last one.
    pub matrix: matrix::Latest,
    /// How much each org may use.
    pub quotas: Arc<OrgQuotas>,
}

/// An operator's request: who, and under which id it is recorded.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The operator.
    pub operator: OperatorPrincipal,
    /// The request.
    pub request: RequestId,
}

impl Asking {
    fn facts(&self) -> OperatorFacts {
        OperatorFacts { id: self.operator.name().to_owned(), role: self.operator.role(), mfa: self.operator.mfa() }
    }

    fn line(&self, clock: &Clock, action: &'static str, target: String, decision: Option<&Arc<Decision>>) -> AuditRecord {
        AuditRecord {
            at: clock.now(),
            actor: format!("operator:{}", self.operator.name()),
            action,
            target,
            org: None,
            outcome: "done",
            code: None,
            decision: decision.cloned(),
            request: Some(self.request.clone()),
            detail: None,
        }
    }
}

impl Admin {
    /// Asks the policies; a refusal leaves its own audit line.
    async fn authorize<A: Action>(&self, asking: &Asking, ask: A, action: &'static str, target: &str) -> Result<Arc<Decision>, AdminError> {
        match self.engine.pin().decide(ask) {
            Ok(permit) => Ok(permit.decision().clone()),
            Err(Denied { refusal, decision }) => {
                let mut line = asking.line(&self.clock, action, target.to_owned(), Some(&decision));
                line.outcome = "refused";
                line.code = Some(refusal.code);
                self.store.audit_refused(line, asking.request.to_string()).await?;
                let (name, role) = (asking.operator.name(), asking.operator.role().as_str());
                let factors = match (asking.operator.role(), asking.operator.mfa()) {
                    (Role::Viewer, _) | (_, true) => "",
                    _ => " and one factor (its token's line does not say mfa)",
                };
                let mut detail = format!("operator `{name}` with role {role}{factors} may not do this ({} {target})", A::NAME);
                if !refusal.policies.is_empty() {
                    detail = format!("{detail}: refused by {}", refusal.policies.join(", "));
                }
                Err(AdminError { policies: refusal.policies, ..AdminError::new(refusal.code, detail) })
            }
        }
    }

    /// Whether the operator may look at all.
    ///
    /// # Errors
    /// The policies' refusal.
    pub async fn may_view(&self, asking: &Asking) -> Result<(), AdminError> {
        self.authorize(asking, ViewResources { operator: asking.facts() }, "resource.view", "resources").await.map(|_| ())
    }

    /// A page of a listing.
    ///
    /// # Errors
    /// The policies' refusal, or `admin.not_found` for a kind there is none of.
    pub async fn list(&self, asking: &Asking, kind: &str, filter: &ListFilter) -> Result<Page, AdminError> {
        if kind == "audit" {
            self.authorize(asking, ReadAudit { operator: asking.facts() }, "audit.read", "audit").await?;
        } else {
            self.may_view(asking).await?;
        }
        let page = self.store.list(kind, filter).await?;
        page.ok_or_else(|| AdminError::new(ReasonCode::AdminNotFound, format!("there is no kind `{kind}`")))
    }

    /// The journey of one event.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`.
    pub async fn journey(&self, asking: &Asking, id: &str) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let not_found = || AdminError::new(ReasonCode::AdminNotFound, format!("there is no event `{id}`"));
        let event = EventId::parse(id).ok_or_else(not_found)?;
        self.store.journey(&event).await?.ok_or_else(not_found)
    }

    /// Makes a settled or dead delivery due again.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.not_replayable`.
    pub async fn replay(&self, asking: &Asking, id: &str) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, ReplayDelivery { operator: asking.facts() }, "delivery.replay", id).await?;
        let not_found = || AdminError::new(ReasonCode::AdminNotFound, format!("there is no delivery `{id}`"));
        let delivery = DeliveryId::parse(id).ok_or_else(not_found)?;
        let line = asking.line(&self.clock, "delivery.replay", delivery.to_string(), Some(&decision));
        match self.store.replay_delivery(delivery, line, self.clock.now()).await? {
            Replayed::Again => Ok(json!({"id": id, "state": "pending"})),
            Replayed::BodyRemoved => Err(AdminError::new(
                ReasonCode::AdminBodyRemoved,
                format!("the body of the event that delivery `{id}` carries was removed"),
            )),
            Replayed::StillOpen => Err(AdminError::new(ReasonCode::AdminNotReplayable, format!("delivery `{id}` is still on its way"))),
            Replayed::Unknown => Err(not_found()),
        }
    }
}

impl Admin {
    /// One row of a listing by its id.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`.
    pub async fn one(&self, asking: &Asking, kind: &str, id: &str) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let found = self.store.one(kind, id).await?;
        found.ok_or_else(|| AdminError::new(ReasonCode::AdminNotFound, format!("there is no {kind}/{id}")))
    }

    /// What is wrong with what operators declared, and what to do: every secret opens, every installation can hear and
    /// speak, every agent is reachable in principle.
    ///
    /// # Errors
    /// The policies' refusal.
    pub async fn doctor(&self, asking: &Asking) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let directory = self.store.directory();
        let now = self.clock.now();
        let mut items = Vec::new();
        let mut check = |what: String, found: Result<String, (String, &str)>| {
            items.push(match found {
                Ok(detail) => json!({"check": what, "ok": true, "detail": detail, "todo": null}),
                Err((detail, todo)) => json!({"check": what, "ok": false, "detail": detail, "todo": todo}),
            });
        };
        for (id, profile) in &directory.profiles {
            check(
                format!("profiles/{id} signing_secret"),
                match self.vault.signing(profile, now) {
                    Ok(_) => Ok("opens".into()),
                    Err(failure) => Err((failure.detail, "apply the profile again with its signing_secret, or restore the master key")),
                },
            );
        }
        for (id, installation) in &directory.installations {
            let (status, reason) = (installation.item.status, installation.item.status_reason);
            check(
                format!("installations/{id} status"),
                match installation.item.advice() {
                    None => Ok(status.as_str().into()),
                    Some(advice) => {
                        let why = reason.map_or(String::new(), |r| format!(": {}", r.as_str()));
                        let since = installation.item.since.map_or(String::new(), |at| format!(" since {at}"));
                        let (waiting, _) = if status.parks() { self.store.parked(&installation.item).await? } else { (0, Vec::new()) };
                        Err((format!("{}{why}{since}, {waiting} deliveries wait", status.as_str()), advice))
                    }
                },
            );
            check(
                format!("installations/{id} credential"),
                match installation.secret(crate::vault::field::CREDENTIAL) {
                    Some(secret) => Ok(format!("set {}", secret.set)),
                    None => {
                        Err(("absent".into(), "apply the installation with its credential; until then agents cannot answer through it"))
                    }
                },
            );
            check(
                format!("installations/{id} bindings"),
                match directory.bindings_of(id).iter().filter(|b| b.item.enabled).count() + legacy_of(&directory, &installation.item) {
                    0 => Err(("none".into(), "apply a binding; until then its events are refused with routing.no_route")),
                    n => Ok(format!("{n}")),
                },
            );
        }
        let uses = self.store.legacy_uses().await?;
        for org in directory.orgs.keys() {
            let left = legacy_left(&directory, org, &uses);
            if let Some(left) = left {
                let todo = "name the installation in each (GET /v1/bindings shows which are legacy), until none is left";
                check(format!("orgs/{org} legacy bindings"), Err((left, todo)));
            }
        }
        for (id, agent) in &directory.agents {
            check(
                format!("agents/{id} signing_secret"),
                self.vault
                    .agent_signing(agent)
                    .map(|_| "opens".into())
                    .map_err(|f| (f.detail, "apply the agent again with its signing_secret")),
            );
            check(
                format!("agents/{id} status"),
                match agent.item.status {
                    crate::domain::installation::AgentStatus::Active => Ok("active".into()),
                    crate::domain::installation::AgentStatus::Paused => {
                        Err(("paused".into(), "it answered 410; apply it with status: active"))
                    }
                },
            );
        }
        Ok(json!({"items": items, "next": null}))
    }
}

/// How many legacy bindings an installation can be meant by.
fn legacy_of(directory: &Directory, installation: &Installation) -> usize {
    if !directory.is_only_installation(installation) {
        return 0;
    }
    directory.legacy_bindings(&installation.org, installation.provider).iter().filter(|b| b.item.enabled).count()
}

/// What is left of an org's legacy bindings, and when one was last used; none where there are none.
fn legacy_left(directory: &Directory, org: &OrgId, uses: &BTreeMap<BindingId, LegacyUse>) -> Option<String> {
    let left: Vec<_> = directory.bindings.values().filter(|b| b.item.org == *org && b.item.is_legacy()).collect();
    let used: Vec<&LegacyUse> = left.iter().filter_map(|b| uses.get(&b.item.id)).collect();
    let times: i64 = used.iter().map(|u| u.count).sum();
    let last = used.iter().map(|u| u.last).max().map_or_else(|| "never used".to_owned(), |last| format!("used {times} times, last {last}"));
    (!left.is_empty()).then(|| format!("{} left, {last}", left.len()))
}
