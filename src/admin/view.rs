//! What reads show of a resource: everything but its secrets, and of those that they are there.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::{Admin, AdminError, Asking};
use crate::crypto;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId};
use crate::domain::reason::ReasonCode;
use crate::quota::Tenant;
use crate::store::LegacyUse;
use crate::store::directory::{Directory, Kept};

/// The declared kinds, in the order they refer to each other.
pub const KINDS: [&str; 5] = ["orgs", "agents", "profiles", "installations", "bindings"];

fn shown<T: serde::Serialize>(kept: &Kept<T>) -> Json {
    let mut object = match serde_json::to_value(&kept.item) {
        Ok(Json::Object(object)) => object,
        _ => Map::new(),
    };
    for secret in &kept.secrets {
        let name = if secret.slot == "previous" { format!("previous_{}", secret.field) } else { secret.field.clone() };
        object.insert(name, json!(secret.facts()));
    }
    // A digest is for comparing, not for showing whole.
    object.remove("declared");
    let version = version(&object);
    object.insert("version".into(), json!(version));
    object.insert("updated_at".into(), json!(kept.updated));
    Json::Object(object)
}

/// The digest of what is shown of a resource: another one wherever anything else is, a secret or a status too.
fn version(object: &Map<String, Json>) -> String {
    let digest = hex::encode(crypto::sha256(Json::Object(object.clone()).to_string().as_bytes()));
    format!("{digest:.16}")
}

/// Whether a resource is what a change was planned against: `if_match` is what the header of that name says, the versions that
/// fit or `*` for whatever is there.
///
/// # Errors
/// `admin.precondition_failed`.
pub(super) fn unchanged_since(if_match: Option<&str>, directory: &Directory, kind: &str, id: &str) -> Result<(), AdminError> {
    let Some(said) = if_match else { return Ok(()) };
    let there = resource(directory, kind, id);
    let now = there.as_ref().and_then(|r| r.get("version")).and_then(Json::as_str);
    let fits =
        |now: &str| said.split(',').map(str::trim).any(|v| v == "*" || v.strip_prefix('"').and_then(|v| v.strip_suffix('"')) == Some(now));
    if now.is_some_and(fits) || !stands(Guard::VersionHeld) {
        return Ok(());
    }
    // Not which version it is: whoever is told that has still not looked.
    let is = if now.is_some() { "another version" } else { "not there" };
    Err(AdminError::new(ReasonCode::AdminPreconditionFailed, format!("{kind}/{id} is {is} by now; look at it again, then decide")))
}

/// One resource.
pub fn resource(directory: &Directory, kind: &str, id: &str) -> Option<Json> {
    match kind {
        "orgs" => directory.orgs.get(&OrgId::parse(id).ok()?).map(|r| shown(r)),
        "agents" => directory.agents.get(&AgentId::parse(id).ok()?).map(|r| shown(r)),
        "profiles" => directory.profiles.get(&ProfileId::parse(id).ok()?).map(|r| shown(r)),
        "installations" => directory.installations.get(&InstallationId::parse(id).ok()?).map(|r| shown(r)),
        "bindings" => directory.bindings.get(&BindingId::parse(id).ok()?).map(|r| shown(r)),
        _ => None,
    }
}

fn all(directory: &Directory, kind: &str) -> Option<Vec<Json>> {
    Some(match kind {
        "orgs" => directory.orgs.values().map(|r| shown(r)).collect(),
        "agents" => directory.agents.values().map(|r| shown(r)).collect(),
        "profiles" => directory.profiles.values().map(|r| shown(r)).collect(),
        "installations" => directory.installations.values().map(|r| shown(r)).collect(),
        "bindings" => directory.bindings.values().map(|r| shown(r)).collect(),
        _ => return None,
    })
}

impl Admin {
    /// Every resource of a declared kind; `None` when the kind is not a declared one.
    ///
    /// # Errors
    /// The policies' refusal.
    pub async fn resources(&self, asking: &Asking, kind: &str, org: Option<&str>) -> Result<Option<Vec<Json>>, AdminError> {
        self.may_view(asking).await?;
        let directory = self.store.directory();
        let uses = self.legacy_uses(&directory, kind).await?;
        Ok(all(&directory, kind).map(|mut items| {
            items.retain(|item| org.is_none_or(|org| [item.get("org"), item.get("owner")].into_iter().flatten().any(|o| o == org)));
            items.iter_mut().for_each(|item| self.finished(kind, item, &uses));
            items
        }))
    }

    /// One resource.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`.
    pub async fn resource(&self, asking: &Asking, kind: &str, id: &str) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let directory = self.store.directory();
        let mut item =
            resource(&directory, kind, id).ok_or_else(|| AdminError::new(ReasonCode::AdminNotFound, format!("there is no {kind}/{id}")))?;
        let uses = self.legacy_uses(&directory, kind).await?;
        self.finished(kind, &mut item, &uses);
        self.with_standing(kind, id, &mut item).await?;
        self.with_usage(&directory, kind, id, &mut item);
        Ok(item)
    }

    /// Only where legacy bindings are left does anybody ask how often they were used.
    async fn legacy_uses(&self, directory: &Directory, kind: &str) -> Result<BTreeMap<BindingId, LegacyUse>, AdminError> {
        let asked = kind == "bindings" && directory.bindings.values().any(|b| b.item.is_legacy());
        if asked { Ok(self.store.legacy_uses().await?) } else { Ok(BTreeMap::new()) }
    }

    /// What a resource shows beside what was declared.
    fn finished(&self, kind: &str, item: &mut Json, uses: &BTreeMap<BindingId, LegacyUse>) {
        self.with_address(kind, item);
        if let ("agents", Some(object)) = (kind, item.as_object_mut())
            && let Some(id) = object.get("id").and_then(Json::as_str).and_then(|id| AgentId::parse(id).ok())
        {
            object.insert("breaker".into(), json!(self.store.breaker(&id)));
        }
        if let ("bindings", Some(object)) = (kind, item.as_object_mut())
            && !object.contains_key("installation")
        {
            let id = object.get("id").and_then(Json::as_str).and_then(|id| BindingId::parse(id).ok());
            let used = id.and_then(|id| uses.get(&id));
            object.insert("legacy".into(), json!(true));
            object.insert("uses".into(), json!(used.map_or(0, |u| u.count)));
            object.insert("last_used_at".into(), json!(used.map(|u| u.last)));
        }
    }

    /// An installation is shown with what waits for it, what it cannot reach, and what to do next.
    async fn with_standing(&self, kind: &str, id: &str, item: &mut Json) -> Result<(), AdminError> {
        let ("installations", Ok(id), Some(object)) = (kind, InstallationId::parse(id), item.as_object_mut()) else { return Ok(()) };
        let directory = self.store.directory();
        let Some(installation) = directory.installations.get(&id).map(|i| &i.item) else { return Ok(()) };
        let advice = installation.advice();
        let (open, unreachable) = self.store.parked(installation).await?;
        // What is on its way waits for nothing but its turn.
        object.insert("parked".into(), json!(if installation.status.parks() { open } else { 0 }));
        object.insert("unreachable".into(), json!(unreachable));
        object.insert("advice".into(), json!(advice));
        Ok(())
    }

    /// An org is shown with its limits in force and what it uses of them; null where there is no limit.
    fn with_usage(&self, directory: &Directory, kind: &str, id: &str, item: &mut Json) {
        let ("orgs", Ok(id), Some(object)) = (kind, OrgId::parse(id), item.as_object_mut()) else { return };
        let Some(org) = directory.orgs.get(&id) else { return };
        let (limits, used) = (self.quotas.limits(&org.item), self.store.usage(&id));
        let (refusals, refusals_max) = self.quotas.refusals_today(&Tenant::Org(id), self.clock.now());
        let usage = json!({
            "events_per_second": {"limit": limits.events.map(|(rate, _)| rate), "burst": limits.events.map(|(_, burst)| burst)},
            "open_deliveries": {"used": used.open_deliveries, "limit": limits.open_deliveries},
            "stored_bytes": {"used": used.stored_bytes, "limit": limits.stored_bytes},
            "refusals_today": {"used": refusals, "limit": refusals_max},
        });
        object.insert("usage".into(), usage);
    }

    /// A profile is shown with the address to give to its provider.
    fn with_address(&self, kind: &str, item: &mut Json) {
        if let ("profiles", Some(base), Some(object)) = (kind, &self.public_url, item.as_object_mut()) {
            let text = |name: &str| object.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
            let url = format!("{}/webhooks/{}/{}", base.trim_end_matches('/'), text("provider"), text("ingress_id"));
            object.insert("webhook_url".into(), json!(url));
        }
    }
}
