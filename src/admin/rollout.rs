//! How operators take a provider from off through canary to on, and back. Plans a change, asks the policies, and lets the store
//! commit it against the version it was planned for. Part of `admin`, floor 7.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::matrix::BUILD_UNKNOWN;
use super::{Admin, AdminError, Asking};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::OrgId;
use crate::domain::installation::{Mode, ProviderKind};
use crate::domain::reason::ReasonCode;
use crate::domain::rollout::{FlagChange, FlagRecord, GlobalChange, GlobalRecord, MatrixRun, RollbackMode, RolloutStage};
use crate::policy::action::{FlagFacts, PromoteRollout, RollBack, SetRolloutFlag};
use crate::policy::facts::bucket;

/// A change of one provider's flag.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SetBody {
    /// The stage to go to; left out, only list and percentage change.
    pub stage: Option<RolloutStage>,
    /// The canary's orgs as they will be.
    pub canary_orgs: Option<Vec<OrgId>>,
    /// How many of a hundred the canary takes beside the list.
    pub percent: Option<u8>,
    /// Why.
    pub reason: Option<String>,
    /// The version this was planned against; the present one where it is left out.
    pub version: Option<i64>,
    /// Say what would be done, change nothing.
    pub dry_run: bool,
}

/// A promotion, or a roll-back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MoveBody {
    /// Why.
    pub reason: Option<String>,
    /// Skip the soak: the security team's to ask for, with a reason. Skips no matrix.
    pub force: bool,
    /// As in [`SetBody`].
    pub version: Option<i64>,
    /// As in [`SetBody`].
    pub dry_run: bool,
}

/// A change of the global switches.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GlobalBody {
    /// Whether any provider's own apps are let in.
    pub enabled: Option<bool>,
    /// Whether legacy routes may be used at all.
    pub allow_legacy_fallback: Option<bool>,
    /// What becomes of orgs that are not let in.
    pub rollback_mode: Option<RollbackMode>,
    /// As in [`SetBody`].
    pub reason: Option<String>,
    /// As in [`SetBody`].
    pub version: Option<i64>,
    /// As in [`SetBody`].
    pub dry_run: bool,
}

/// What a promotion rests on, as it stands now.
struct Standing {
    minutes: i64,
    events: i64,
    soaked: bool,
    run: Option<MatrixRun>,
    /// This build, where it can be told from others.
    build: Option<Arc<str>>,
    /// Why the matrix is no evidence; `None` where it is.
    not_green: Option<String>,
    /// The legacy bindings that are left, org by org.
    legacy: BTreeMap<OrgId, LegacyLeft>,
}

/// What an org still has of legacy bindings of one provider.
#[derive(Default, serde::Serialize)]
struct LegacyLeft {
    bindings: i64,
    uses: i64,
    last_used_at: Option<Timestamp>,
}

/// The `action` of an edit that changes nothing.
const UNCHANGED: &str = "unchanged";
/// The `action` of an edit that changes something.
const UPDATED: &str = "updated";

pub(super) fn invalid(detail: impl Into<String>) -> AdminError {
    AdminError::new(ReasonCode::RolloutInvalid, detail)
}

/// A provider by its word.
pub(super) fn provider_of(word: &str) -> Result<ProviderKind, AdminError> {
    ProviderKind::parse(word).ok_or_else(|| invalid(format!("there is no provider `{word}`; there are slack, telegram and whatsapp")))
}

impl Admin {
    /// Every flag: stage, list, how far the soak is, what the matrix says, what blocks the next step and the command for it.
    ///
    /// # Errors
    /// The policies' refusal, `rollout.invalid` for a provider there is none of.
    pub async fn rollout_status(&self, asking: &Asking, provider: Option<&str>) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let only = provider.map(provider_of).transpose()?;
        let (global, flags) = self.store.flags().await?;
        let mut items = Vec::new();
        for record in flags.iter().filter(|r| only.is_none_or(|p| p == r.provider)) {
            let standing = self.standing(record).await?;
            items.push(self.shown(record, &standing));
        }
        Ok(json!({"global": shown_global(&global), "items": items, "next": null}))
    }

    /// Starts a canary, or edits its list and percentage. An edit that changes neither keeps version, reason and time.
    ///
    /// # Errors
    /// The policies' refusal and the guards' codes; nothing was changed then.
    pub async fn rollout_set(&self, asking: &Asking, provider: &str, body: SetBody) -> Result<Json, AdminError> {
        let record = self.record(provider, body.version).await?;
        let stage = body.stage.unwrap_or(record.flag.stage);
        if stage == RolloutStage::Off && record.flag.stage != RolloutStage::Off {
            let (reason, version, dry_run) = (body.reason, body.version, body.dry_run);
            return self.rollout_rollback(asking, provider, MoveBody { reason, version, dry_run, force: false }).await;
        }
        let ask = SetRolloutFlag { operator: asking.facts(), flag: facts(&record) };
        let decision = self.authorize(asking, ask, "rollout.set", record.provider.as_str()).await?;
        if stage == RolloutStage::On && record.flag.stage != RolloutStage::On {
            let detail = format!("{} is {}; start a canary, let it soak, then promote it", record.provider, record.flag.stage.as_str());
            return Err(AdminError::new(ReasonCode::RolloutCanaryRequired, detail));
        }
        let percent = body.percent.unwrap_or(record.flag.percent);
        if percent > 100 {
            return Err(invalid(format!("percent is {percent}; it is 0 to 100")));
        }
        let mut canary = body.canary_orgs.unwrap_or_else(|| record.flag.canary.clone());
        canary.sort();
        canary.dedup();
        let directory = self.store.directory();
        if let Some(unknown) = canary.iter().find(|org| !directory.orgs.contains_key(*org)) {
            return Err(invalid(format!("there is no org `{unknown}`; apply it first, or take it off the list")));
        }
        if stage == RolloutStage::Canary && canary.is_empty() && percent == 0 {
            let detail = "name orgs with canary_orgs, or give a percentage; going back to off is a roll-back";
            return Err(AdminError::new(ReasonCode::RolloutCanaryEmpty, detail));
        }
        let change = FlagChange {
            provider: record.provider,
            version: record.version,
            stage,
            canary,
            percent,
            reason: body.reason,
            by: asking.operator.name().to_owned(),
            evidence: None,
            rolls_back: false,
        };
        self.change(asking, &record, change, "rollout.set", &decision, body.dry_run).await
    }

    /// Opens a provider to everybody: from canary, after its soak, on a green matrix run that the gateway made itself. One that is
    /// open already stays as it is.
    ///
    /// # Errors
    /// The policies' refusal and the guards' codes; nothing was changed then.
    pub async fn rollout_promote(&self, asking: &Asking, provider: &str, body: MoveBody) -> Result<Json, AdminError> {
        let record = self.record(provider, body.version).await?;
        let standing = self.standing(&record).await?;
        let ask = |matrix_green, soaked| PromoteRollout {
            operator: asking.facts(),
            flag: facts(&record),
            to: RolloutStage::On,
            matrix_green,
            soaked,
            force: body.force,
        };
        if body.force && body.reason.as_deref().is_none_or(|r| r.trim().is_empty()) {
            return Err(AdminError::new(ReasonCode::RolloutReasonRequired, "say why the soak is skipped, with a reason"));
        }
        if record.flag.stage == RolloutStage::On {
            // Nothing is promoted, so this asks what an edit that changes nothing asks.
            let ask = SetRolloutFlag { operator: asking.facts(), flag: facts(&record) };
            self.authorize(asking, ask, "rollout.promote", record.provider.as_str()).await?;
            return self.unchanged(&record, body.dry_run).await;
        }
        let green = standing.not_green.is_none();
        // Whoever may promote at all is told what stands in the way; whoever may not is told that.
        let policy = self.engine.pin();
        if record.flag.stage != RolloutStage::Canary || policy.decide(ask(true, true)).is_ok() {
            let told = match record.flag.stage {
                RolloutStage::Off => Some((ReasonCode::RolloutCanaryRequired, "it is off; start a canary first".to_owned())),
                RolloutStage::On => None,
                RolloutStage::Canary if !green => standing.not_green.clone().map(|why| (ReasonCode::RolloutGateNotGreen, why)),
                RolloutStage::Canary if !standing.soaked && policy.decide(ask(true, false)).is_err() => {
                    Some((ReasonCode::RolloutNotSoaked, self.soak_left(&standing)))
                }
                RolloutStage::Canary => None,
            };
            if let Some((code, detail)) = told {
                self.refused(asking, "rollout.promote", &record, code).await?;
                return Err(AdminError::new(code, format!("{}: {detail}", record.provider)));
            }
        }
        let decision = self.authorize(asking, ask(green, standing.soaked), "rollout.promote", record.provider.as_str()).await?;
        let change = FlagChange {
            provider: record.provider,
            version: record.version,
            stage: RolloutStage::On,
            canary: record.flag.canary.clone(),
            percent: record.flag.percent,
            reason: body.reason,
            by: asking.operator.name().to_owned(),
            evidence: standing.run.map(|run| run.id),
            rolls_back: false,
        };
        self.change(asking, &record, change, "rollout.promote", &decision, body.dry_run).await
    }

    /// Takes a provider back to off, at once. The canary's list is kept; evidence from before is void. One that is off stays as it
    /// is.
    ///
    /// # Errors
    /// The policies' refusal, `rollout.reason_required`.
    pub async fn rollout_rollback(&self, asking: &Asking, provider: &str, body: MoveBody) -> Result<Json, AdminError> {
        let record = self.record(provider, body.version).await?;
        let ask = RollBack { operator: asking.facts(), flag: facts(&record) };
        let decision = self.authorize(asking, ask, "rollout.rollback", record.provider.as_str()).await?;
        if body.reason.as_deref().is_none_or(|r| r.trim().is_empty()) {
            return Err(AdminError::new(ReasonCode::RolloutReasonRequired, "say why it is taken back, with a reason"));
        }
        if record.flag.stage == RolloutStage::Off {
            return self.unchanged(&record, body.dry_run).await;
        }
        let change = FlagChange {
            provider: record.provider,
            version: record.version,
            stage: RolloutStage::Off,
            canary: record.flag.canary.clone(),
            percent: record.flag.percent,
            reason: body.reason,
            by: asking.operator.name().to_owned(),
            evidence: None,
            rolls_back: true,
        };
        self.change(asking, &record, change, "rollout.rollback", &decision, body.dry_run).await
    }

    /// Changes the global switches. Every provider is concerned, so the policies are asked about each. Switches that stand so
    /// already keep their version and their reason.
    ///
    /// # Errors
    /// The policies' refusal, `admin.version_conflict`.
    pub async fn rollout_global(&self, asking: &Asking, body: GlobalBody) -> Result<Json, AdminError> {
        let (global, flags) = self.store.flags().await?;
        let mut last = None;
        for record in &flags {
            let target = format!("global/{}", record.provider);
            last = Some(if body.enabled == Some(false) && body.allow_legacy_fallback.is_none() && body.rollback_mode.is_none() {
                // The switch that stops everything is a roll-back, and as easy as one.
                self.authorize(asking, RollBack { operator: asking.facts(), flag: facts(record) }, "rollout.global", &target).await?
            } else {
                self.authorize(asking, SetRolloutFlag { operator: asking.facts(), flag: facts(record) }, "rollout.global", &target).await?
            });
        }
        if body.version.is_some_and(|v| v != global.version) {
            return Err(stale(global.version));
        }
        let change = GlobalChange {
            version: global.version,
            enabled: body.enabled.unwrap_or(global.enabled),
            legacy_fallback: body.allow_legacy_fallback.unwrap_or(global.legacy_fallback),
            rollback_mode: body.rollback_mode.unwrap_or(global.rollback_mode),
            reason: body.reason,
            by: asking.operator.name().to_owned(),
        };
        let would =
            json!({"enabled": change.enabled, "allow_legacy_fallback": change.legacy_fallback, "rollback_mode": change.rollback_mode});
        let same = (change.enabled, change.legacy_fallback, change.rollback_mode)
            == (global.enabled, global.legacy_fallback, global.rollback_mode);
        let action = if same { UNCHANGED } else { UPDATED };
        if body.dry_run {
            return Ok(json!({"dry_run": true, "action": action, "from": shown_global(&global), "to": would}));
        }
        if same {
            return Ok(acted(shown_global(&global), action));
        }
        let mut line = asking.line(&self.clock, "rollout.global", "rollout/global".into(), last.as_ref());
        line.detail = Some(json!({"from": shown_global(&global), "to": would, "reason": change.reason}).to_string());
        if !self.store.change_global(change, line, self.clock.now()).await? {
            return Err(stale(self.store.flags().await?.0.version));
        }
        Ok(acted(shown_global(&self.store.flags().await?.0), action))
    }

    async fn record(&self, provider: &str, version: Option<i64>) -> Result<FlagRecord, AdminError> {
        let provider = provider_of(provider)?;
        let (_, flags) = self.store.flags().await?;
        let record = flags.into_iter().find(|r| r.provider == provider).ok_or_else(|| invalid(format!("{provider} has no flag")))?;
        match version {
            Some(version) if version != record.version => Err(stale(record.version)),
            _ => Ok(record),
        }
    }

    /// The answer to an edit that changes nothing: the flag as it stands. Version, reason and audit stay as they are.
    async fn unchanged(&self, record: &FlagRecord, dry_run: bool) -> Result<Json, AdminError> {
        if dry_run {
            let is = json!({"stage": record.flag.stage, "canary_orgs": record.flag.canary, "percent": record.flag.percent});
            return Ok(json!({"dry_run": true, "action": UNCHANGED, "provider": record.provider, "from": is, "to": is}));
        }
        let standing = self.standing(record).await?;
        Ok(acted(self.shown(record, &standing), UNCHANGED))
    }

    async fn change(
        &self,
        asking: &Asking,
        record: &FlagRecord,
        change: FlagChange,
        action: &'static str,
        decision: &Arc<crate::domain::record::Decision>,
        dry_run: bool,
    ) -> Result<Json, AdminError> {
        let to = json!({"stage": change.stage, "canary_orgs": change.canary, "percent": change.percent});
        let from = json!({"stage": record.flag.stage, "canary_orgs": record.flag.canary, "percent": record.flag.percent});
        if from == to {
            return self.unchanged(record, dry_run).await;
        }
        if dry_run {
            return Ok(json!({"dry_run": true, "action": UPDATED, "provider": record.provider, "from": from, "to": to}));
        }
        let mut line = asking.line(&self.clock, action, format!("rollout/{}", record.provider), Some(decision));
        line.detail = Some(json!({"from": from, "to": to, "reason": change.reason, "evidence": change.evidence}).to_string());
        if !self.store.change_flag(change, line, self.clock.now()).await? {
            return Err(stale(self.record(record.provider.as_str(), None).await?.version));
        }
        let record = self.record(record.provider.as_str(), None).await?;
        let standing = self.standing(&record).await?;
        Ok(acted(self.shown(&record, &standing), UPDATED))
    }

    async fn refused(&self, asking: &Asking, action: &'static str, record: &FlagRecord, code: ReasonCode) -> Result<(), AdminError> {
        let mut line = asking.line(&self.clock, action, format!("rollout/{}", record.provider), None);
        line.outcome = "refused";
        line.code = Some(code);
        Ok(self.store.audit(vec![line]).await?)
    }

    async fn standing(&self, record: &FlagRecord) -> Result<Standing, AdminError> {
        let (now, rules) = (self.clock.now(), &self.rollout);
        let directory = self.store.directory();
        let own = directory.installations.values().filter(|i| i.item.provider == record.provider && i.item.owner.mode() == Mode::Byoa);
        // Of whoever is let in: what others were heard by their legacy routes says nothing of their own apps.
        let in_canary = |org: &OrgId| record.flag.canary.contains(org) || bucket(org, record.provider) < record.flag.percent;
        let own: Vec<_> = own.filter(|i| in_canary(&i.item.org)).map(|i| i.item.id.clone()).collect();
        let wanted = i64::from(rules.min_canary_events);
        let canary = record.flag.stage == RolloutStage::Canary;
        let events = if canary { self.store.events_since(&own, record.staged_at, wanted.max(1)).await? } else { 0 };
        // A clock that was set back makes this negative, and negative is not soaked.
        let minutes = if canary { (now.ms() - record.staged_at.ms()).div_euclid(60_000) } else { 0 };
        let run = self.store.last_matrix_run(record.provider).await?;
        let build = self.this_build().await;
        let not_green = self.not_green(record, run.as_ref(), build.as_deref(), now);
        let legacy = self.legacy_left(record.provider).await?;
        let soaked = canary && minutes >= i64::from(rules.min_canary_minutes) && events >= wanted;
        Ok(Standing { minutes, events, soaked, run, build, not_green, legacy })
    }

    /// How many legacy bindings are left: when there are none, legacy fallback can be switched off and nobody notices.
    async fn legacy_left(&self, provider: ProviderKind) -> Result<BTreeMap<OrgId, LegacyLeft>, AdminError> {
        let directory = self.store.directory();
        let legacy: Vec<_> =
            directory.bindings.values().filter(|b| b.item.is_legacy() && b.item.select.provider == Some(provider)).collect();
        let mut left: BTreeMap<OrgId, LegacyLeft> = BTreeMap::new();
        if legacy.is_empty() {
            return Ok(left);
        }
        let uses = self.store.legacy_uses().await?;
        for binding in legacy {
            let of = left.entry(binding.item.org.clone()).or_default();
            of.bindings += 1;
            if let Some(used) = uses.get(&binding.item.id) {
                of.uses += used.count;
                of.last_used_at = of.last_used_at.max(Some(used.last));
            }
        }
        Ok(left)
    }

    fn not_green(&self, record: &FlagRecord, run: Option<&MatrixRun>, build: Option<&str>, now: Timestamp) -> Option<String> {
        let Some(run) = run else { return stands(Guard::MatrixThere).then(|| "no matrix run for it is stored".into()) };
        let Some(build) = build else { return Some(BUILD_UNKNOWN.into()) };
        let age_ms = now.ms() - run.at.ms();
        let version = self.engine.pin().version().to_string();
        if run.seq <= record.rolled_back_run && stands(Guard::RollBackVoids) {
            Some("the last matrix run is from before the last roll-back".into())
        } else if run.policy_version != version && stands(Guard::MatrixOfPolicies) {
            Some("the last matrix run was against other policies than those in force".into())
        } else if run.build != build {
            Some(format!("the last matrix run was made by build {}, this is {build}", run.build))
        } else if !(0..=i64::from(self.rollout.matrix_max_age_hours) * 3_600_000).contains(&age_ms) {
            Some(format!("the last matrix run is of {}, more than {} h away", run.at, self.rollout.matrix_max_age_hours))
        } else if (run.red > 0 || run.played == 0) && stands(Guard::MatrixGreen) {
            Some(format!("{} of {} cases of the last matrix run were red", run.red, run.played))
        } else {
            None
        }
    }

    fn soak_left(&self, standing: &Standing) -> String {
        let rules = &self.rollout;
        format!("{} of {} minutes, {} of {} events", standing.minutes, rules.min_canary_minutes, standing.events, rules.min_canary_events)
    }

    fn shown(&self, record: &FlagRecord, standing: &Standing) -> Json {
        let provider = record.provider;
        let mut blocked = Vec::new();
        let next = match record.flag.stage {
            RolloutStage::Off => Some(format!("byoa rollout set {provider} --stage canary --canary-orgs ORG")),
            RolloutStage::Canary => {
                blocked.extend(standing.not_green.clone());
                if !standing.soaked {
                    blocked.push(self.soak_left(standing));
                }
                Some(match standing.not_green {
                    Some(_) => format!("byoa matrix run --provider {provider}"),
                    None => format!("byoa rollout promote {provider}"),
                })
            }
            RolloutStage::On => None,
        };
        if !record.flag.enabled {
            blocked.push("the global switch is off: byoa rollout global --enabled true".into());
        }
        json!({
            "provider": provider, "stage": record.flag.stage, "canary_orgs": record.flag.canary, "percent": record.flag.percent,
            "reason": record.reason, "changed_by": record.changed_by, "changed_at": record.changed_at, "version": record.version,
            "staged_at": record.staged_at, "evidence": record.evidence,
            "soak": {"minutes": standing.minutes, "minutes_wanted": self.rollout.min_canary_minutes, "events": standing.events,
                "events_wanted": self.rollout.min_canary_events, "done": standing.soaked},
            "matrix": {"green": standing.not_green.is_none(), "why_not": standing.not_green, "build": standing.build,
                "run": standing.run.as_ref().map(|r| json!({"id": r.id, "at": r.at, "policy_version": r.policy_version, "build": r.build,
                    "played": r.played, "red": r.red}))},
            "legacy": standing.legacy,
            "next": {"command": next, "blocked_by": blocked},
        })
    }
}

pub(super) fn facts(record: &FlagRecord) -> FlagFacts {
    FlagFacts { provider: record.provider, flag: record.flag.clone() }
}

/// Adds `action` to an answer, in the words that `byoa apply` uses for resources.
fn acted(mut shown: Json, action: &'static str) -> Json {
    if let Some(object) = shown.as_object_mut() {
        object.insert("action".into(), json!(action));
    }
    shown
}

fn stale(version: i64) -> AdminError {
    AdminError::new(ReasonCode::AdminVersionConflict, format!("it is version {version} by now; look at it again, then decide"))
}

fn shown_global(global: &GlobalRecord) -> Json {
    json!({
        "enabled": global.enabled, "allow_legacy_fallback": global.legacy_fallback, "rollback_mode": global.rollback_mode,
        "reason": global.reason, "changed_by": global.changed_by, "changed_at": global.changed_at, "version": global.version,
    })
}
