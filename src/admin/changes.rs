//! The questions that a planned change asks the policies, and its lines in the audit. A line names the fields that change and
//! the fingerprints of secrets, never a value. Part of `admin`, floor 7.

use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::{Admin, AdminError, Asking};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;
use crate::domain::installation::{Installation, InstallationStatus, ProviderKind};
use crate::domain::record::{AuditRecord, Decision};
use crate::policy::action::{ConnectInstallation, OrgFacts, RevokeSecret, RotateSecret, SecretHolder, ShredOrg};
use crate::policy::facts;
use crate::store::directory::{Directory, SealedSecret};
use crate::store::{Resource, SecretPut};
use crate::vault::field;

/// A secret that stops to count within this time was ended, whatever its overlap is called: that asks `RevokeSecret`.
pub(super) const ENDED_WITHIN_MS: i64 = 3_600_000;

/// The question that one part of a change asks.
#[derive(Clone, Debug)]
pub(super) enum Question {
    /// `ApplyResources`, which every change asks before it is planned.
    Apply,
    /// `ConnectInstallation`: of this org, and this provider.
    Connect(OrgFacts, ProviderKind),
    /// `RotateSecret`.
    Rotate(SecretHolder),
    /// `RevokeSecret`.
    Revoke(SecretHolder),
    /// `ShredOrg`.
    Shred(OrgFacts),
}

/// One part of a planned change: a question, and a line in the audit.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) action: &'static str,
    pub(super) target: String,
    pub(super) org: Option<OrgId>,
    pub(super) question: Question,
    pub(super) detail: Json,
}

impl Admin {
    /// Asks the question of each part; the lines for the audit, in the same order. `applied` is the answer to `ApplyResources`.
    ///
    /// # Errors
    /// The policies' refusal of the first part that they refuse.
    pub(super) async fn permitted(
        &self,
        asking: &Asking,
        parts: Vec<Part>,
        applied: &Arc<Decision>,
    ) -> Result<Vec<AuditRecord>, AdminError> {
        let mut lines = Vec::with_capacity(parts.len());
        for Part { action, target, org, question, detail } in parts {
            let operator = asking.facts();
            let decision = match question {
                Question::Apply => applied.clone(),
                Question::Connect(org, provider) => {
                    self.authorize(asking, ConnectInstallation { operator, org, provider }, action, &target).await?
                }
                Question::Rotate(holder) => self.authorize(asking, RotateSecret { operator, holder }, action, &target).await?,
                Question::Revoke(holder) => self.authorize(asking, RevokeSecret { operator, holder }, action, &target).await?,
                Question::Shred(org) => self.authorize(asking, ShredOrg { operator, org }, action, &target).await?,
            };
            let mut line = asking.line(&self.clock, action, target, Some(&decision));
            (line.org, line.detail) = (org, Some(detail.to_string()));
            lines.push(line);
        }
        Ok(lines)
    }
}

/// The parts of one resource's change. `before` is the resource with its secrets as they are, none where there is none yet;
/// `org` is the org it belongs to, as it will be.
pub(super) fn parts(
    directory: &Directory,
    before: Option<&(Resource, Vec<SealedSecret>)>,
    after: &Resource,
    puts: &[SecretPut],
    org: Option<OrgFacts>,
    now: Timestamp,
) -> Vec<Part> {
    let target = format!("{}/{}", after.kind(), after.id());
    let part = |action, question, detail| Part { action, target: target.clone(), org: None, question, detail };
    let connect = |installation: &Installation, org: OrgFacts| Question::Connect(org, installation.provider);
    let Some((was, secrets)) = before else {
        let put = puts.iter().map(|put| (name(&put.secret), json!({"to": shown(&put.secret)}))).collect::<Map<_, _>>();
        let mut detail = json!({"fields": fields(None, after)});
        if let (Some(detail), false) = (detail.as_object_mut(), put.is_empty()) {
            detail.insert("secrets".into(), Json::Object(put));
        }
        return vec![match (after, org) {
            (Resource::Installation(made), Some(org)) => part("resource.connect", connect(made, org), detail),
            _ => part("resource.create", Question::Apply, detail),
        }];
    };
    let mut parts = Vec::new();
    let changed = fields(Some(was), after);
    match (was, after, org) {
        // Another account, or the same one installed anew.
        (Resource::Installation(old), Resource::Installation(new), Some(org)) if old.account != new.account || old.epoch != new.epoch => {
            parts.push(part("resource.connect", connect(new, org), json!({"fields": changed})));
        }
        _ if !changed.is_empty() => parts.push(part("resource.update", Question::Apply, json!({"fields": changed}))),
        _ => {}
    }
    if let Some(holder) = holder(directory, was) {
        let of = |action, question, secrets: Map<String, Json>| {
            let org = directory.org_of(was.kind(), was.id());
            (!secrets.is_empty()).then(|| Part { org, ..part(action, question, json!({"secrets": secrets})) })
        };
        let is_profile = matches!(after, Resource::Profile(_));
        parts.extend(of("secret.rotate", Question::Rotate(holder.clone()), rotated(secrets, puts)));
        let mut ended = ended(secrets, puts, is_profile, now);
        if let (Resource::Installation(old), Resource::Installation(new)) = (was, after)
            && old.status != InstallationStatus::Revoked
            && new.status == InstallationStatus::Revoked
        {
            // Revoking an installation destroys its credential, and ends it where it has none.
            ended = all(secrets);
            ended.entry("status").or_insert_with(|| json!({"from": old.status.as_str()}));
        }
        parts.extend(of("secret.revoke", Question::Revoke(holder), ended));
    }
    if parts.is_empty() {
        parts.push(part("resource.update", Question::Apply, json!({"fields": changed})));
    }
    parts
}

/// The part of a resource that is deleted: what is sealed of it ends with it, and with an org's key all that is kept of the org.
pub(super) fn deletion(directory: &Directory, kind: &str, id: &str) -> Part {
    let found = found(directory, kind, id);
    let secrets = found.as_ref().map(|(_, secrets)| secrets.as_slice()).unwrap_or_default();
    let question = match &found {
        Some((Resource::Org(org), _)) => Question::Shred(facts::declared_org(org)),
        Some((resource, _)) if !secrets.is_empty() => holder(directory, resource).map_or(Question::Apply, Question::Revoke),
        _ => Question::Apply,
    };
    Part { action: "resource.delete", target: format!("{kind}/{id}"), org: None, question, detail: json!({"secrets": all(secrets)}) }
}

fn found(directory: &Directory, kind: &str, id: &str) -> Option<(Resource, Vec<SealedSecret>)> {
    macro_rules! of {
        ($map:ident, $variant:ident) => {
            directory
                .$map
                .iter()
                .find(|(known, _)| known.as_str() == id)
                .map(|(_, k)| (Resource::$variant(k.item.clone()), k.secrets.clone()))
        };
    }
    match kind {
        "orgs" => of!(orgs, Org),
        "agents" => of!(agents, Agent),
        "profiles" => of!(profiles, Profile),
        "installations" => of!(installations, Installation),
        "bindings" => of!(bindings, Binding),
        _ => None,
    }
}

fn holder(directory: &Directory, resource: &Resource) -> Option<SecretHolder> {
    match resource {
        Resource::Profile(profile) => Some(SecretHolder::Profile(facts::profile(directory, profile))),
        Resource::Installation(installation) => Some(SecretHolder::Installation(facts::installation(directory, installation))),
        Resource::Agent(agent) => Some(SecretHolder::Agent(facts::agent(directory, agent))),
        Resource::Org(_) | Resource::Binding(_) => None,
    }
}

/// The names of the fields that differ, sorted. A digest of a secret is none of them: its fingerprint is shown elsewhere.
fn fields(before: Option<&Resource>, after: &Resource) -> Vec<String> {
    let (before, after) = (before.map(object).unwrap_or_default(), object(after));
    let mut names: Vec<String> = before.keys().chain(after.keys()).filter(|name| *name != "declared" && *name != "id").cloned().collect();
    names.sort();
    names.dedup();
    let value = |of: &Map<String, Json>, name: &str| of.get(name).cloned().unwrap_or(Json::Null);
    names.retain(|name| value(&before, name) != value(&after, name));
    names
}

fn object(resource: &Resource) -> Map<String, Json> {
    let json = match resource {
        Resource::Org(r) => serde_json::to_value(r),
        Resource::Agent(r) => serde_json::to_value(r),
        Resource::Profile(r) => serde_json::to_value(r),
        Resource::Installation(r) => serde_json::to_value(r),
        Resource::Binding(r) => serde_json::to_value(r),
    };
    match json {
        Ok(Json::Object(object)) => object,
        _ => Map::new(),
    }
}

fn name(secret: &SealedSecret) -> String {
    if secret.slot == "previous" { format!("previous_{}", secret.field) } else { secret.field.clone() }
}

/// A secret by its fingerprint; the end of one that has an end.
pub(super) fn shown(secret: &SealedSecret) -> Json {
    match secret.until {
        Some(until) => json!({"fingerprint": secret.facts().fingerprint, "until": until}),
        None => json!({"fingerprint": secret.facts().fingerprint}),
    }
}

fn all(secrets: &[SealedSecret]) -> Map<String, Json> {
    secrets.iter().map(|secret| (name(secret), json!({"from": shown(secret)}))).collect()
}

fn same_slot(a: &SealedSecret, b: &SealedSecret) -> bool {
    a.field == b.field && a.slot == b.slot
}

/// The secrets that are put, each with the one that it replaces.
pub(super) fn rotated(secrets: &[SealedSecret], puts: &[SecretPut]) -> Map<String, Json> {
    let puts = puts.iter().map(|put| &put.secret);
    puts.map(|put| {
        let from = secrets.iter().find(|s| same_slot(s, put)).map(shown);
        (name(put), json!({"from": from, "to": shown(put)}))
    })
    .collect()
}

/// The secrets that count now and soon will not, though nothing of the same kind takes their place. A profile's signing secret
/// has an overlap to end in, so there a new one takes the place of none.
fn ended(secrets: &[SealedSecret], puts: &[SecretPut], is_profile: bool, now: Timestamp) -> Map<String, Json> {
    let after = |one: &SealedSecret| {
        let kept = secrets.iter().filter(|s| !puts.iter().any(|put| same_slot(s, &put.secret)));
        let ends = kept.chain(puts.iter().map(|put| &put.secret)).filter(|s| s.field == one.field && s.fingerprint == one.fingerprint);
        ends.map(end_ms).max().unwrap_or(now.ms())
    };
    let replaced = |one: &SealedSecret| {
        let overlaps = is_profile && one.field == field::SIGNING_SECRET;
        !overlaps && puts.iter().any(|put| same_slot(one, &put.secret) && put.secret.fingerprint != one.fingerprint)
    };
    let soon = now.plus_ms(ENDED_WITHIN_MS).ms();
    let counts = secrets.iter().filter(|s| end_ms(s) > now.ms() && !replaced(s));
    counts.filter(|s| after(s) < end_ms(s).min(soon)).map(|s| (name(s), json!({"from": shown(s)}))).collect()
}

fn end_ms(secret: &SealedSecret) -> i64 {
    secret.until.map_or(i64::MAX, Timestamp::ms)
}
