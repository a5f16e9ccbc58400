//! A profile's signing secret is replaced: both verify while the overlap lasts, and the old one can be dropped at once.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::changes::{ENDED_WITHIN_MS, rotated, shown};
use super::document::SecretSpec;
use super::resources::{OVERLAP_MS, OVERLAP_MS_MAX, fit_signing_secret};
use super::view::resource;
use super::{Admin, AdminError, Asking};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{CredentialId, ProfileId};
use crate::domain::installation::AppProfile;
use crate::domain::reason::ReasonCode;
use crate::domain::record::Decision;
use crate::policy::action::{Action, OperatorFacts, RevokeSecret, RotateSecret, SecretHolder};
use crate::policy::facts;
use crate::providers;
use crate::store::directory::{Directory, Kept, SealedSecret};
use crate::store::{Change, Resource, SecretPut};
use crate::vault::field;

const KIND: &str = "profiles";

/// What a signing secret becomes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    signing_secret: SecretSpec,
    /// Seconds for which the secret in force verifies beside the new one; a day where it is left out.
    overlap_s: Option<i64>,
}

/// The profile, and what verifies its webhooks.
struct Found {
    profile: Arc<Kept<AppProfile>>,
    at: String,
}

impl Found {
    fn of(directory: &Directory, id: &str) -> Result<Self, AdminError> {
        let profile = ProfileId::parse(id).ok().and_then(|id| directory.profiles.get(&id)).cloned();
        let profile = profile.ok_or_else(|| AdminError::new(ReasonCode::AdminNotFound, format!("there is no profile `{id}`")))?;
        Ok(Self { profile, at: format!("profiles `{id}`") })
    }

    /// The previous secret, while it verifies.
    fn overlapping(&self, now: Timestamp) -> Option<&SealedSecret> {
        let previous = self.profile.secrets.iter().find(|s| s.field == field::SIGNING_SECRET && s.slot == "previous");
        previous.filter(|s| s.until.is_none_or(|until| now <= until))
    }

    fn drop_previous(&self) -> Change {
        Change::DropSecret {
            kind: KIND,
            owner: self.profile.item.id.to_string(),
            field: field::SIGNING_SECRET.to_owned(),
            slot: "previous",
        }
    }
}

impl Admin {
    /// Puts a new signing secret in force; the one before it verifies on until the overlap ends. The next request is verified
    /// by it. With an overlap of less than an hour the one in force ends, which takes the right to revoke as well.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.secret_*` where the secret is not fit or is the one in force,
    /// `admin.overlap_invalid`, `admin.overlap_running` where a third secret would have to verify.
    pub async fn rotate_secret(&self, asking: &Asking, id: &str, body: Json) -> Result<Json, AdminError> {
        let target = format!("{KIND}/{id}");
        let mut decision = self.authorize_secret(asking, id, "secret.rotate", |operator, holder| RotateSecret { operator, holder }).await?;
        // What serde says of a body that does not fit may repeat what stood in it.
        let ask: RotateBody = serde_json::from_value(body).map_err(|_| {
            let detail = "write {\"signing_secret\": {\"value\": …}, \"overlap_s\": 86400}";
            AdminError::new(ReasonCode::AdminResourceInvalid, detail)
        })?;
        let overlap_ms = ask.overlap_s.map_or(OVERLAP_MS, |s| s.saturating_mul(1000));
        if !(0..=OVERLAP_MS_MAX).contains(&overlap_ms) {
            return Err(AdminError::new(ReasonCode::AdminOverlapInvalid, "overlap_s is 0 to 604800, seven days"));
        }
        if overlap_ms < ENDED_WITHIN_MS {
            // Without an overlap, or one of minutes, the secret in force ends, which is the question that revoking asks.
            decision = self.authorize_secret(asking, id, "secret.revoke", |operator, holder| RevokeSecret { operator, holder }).await?;
        }
        let _one_at_a_time = self.changing.lock().await;
        let now = self.clock.now();
        let directory = self.store.directory();
        let found = Found::of(&directory, id)?;
        let (profile, value) = (&found.profile, &ask.signing_secret.value);
        fit_signing_secret(&found.at, providers::of(profile.item.provider), value)?;
        let fingerprint = self.vault.fingerprint(value.expose());
        let current = profile.secret(field::SIGNING_SECRET);
        if current.is_some_and(|current| current.fingerprint == fingerprint) {
            return Err(AdminError::new(ReasonCode::AdminSecretUnchanged, format!("{}: that is the secret in force", found.at)));
        }
        if overlap_ms > 0
            && let Some(previous) = found.overlapping(now)
        {
            let until = previous.until.map_or_else(|| "it is revoked".to_owned(), |until| until.to_string());
            let detail = format!("{}: the previous secret verifies until {until}; revoke it first, or rotate without an overlap", found.at);
            return Err(AdminError::new(ReasonCode::AdminOverlapRunning, detail));
        }
        let org = directory.org_of(KIND, id);
        let put = |secret: SealedSecret| SecretPut { kind: KIND, owner: id.to_owned(), secret };
        let mut changes = Vec::new();
        let mut puts = vec![put(SealedSecret {
            id: CredentialId::fresh(now).to_string(),
            field: field::SIGNING_SECRET.to_owned(),
            slot: "current".to_owned(),
            sealed: self.vault.seal(org.as_ref(), KIND, id, field::SIGNING_SECRET, value)?,
            fingerprint,
            set: now,
            until: None,
        })];
        let until = now.plus_ms(overlap_ms);
        match current.filter(|_| overlap_ms > 0) {
            // A slot is no part of what a value is sealed for, so it moves as it is.
            Some(current) => puts.push(put(SealedSecret { slot: "previous".to_owned(), until: Some(until), ..current.clone() })),
            None => changes.push(found.drop_previous()),
        }
        let mut line = asking.line(&self.clock, "secret.rotate", target, Some(&decision));
        line.org = org;
        let secrets = rotated(&profile.secrets, &puts);
        let overlap = (overlap_ms > 0).then_some(until);
        line.detail = Some(json!({"overlap_s": overlap_ms / 1000, "until": overlap, "secrets": secrets}).to_string());
        changes.push(Change::Put(Box::new(Resource::Profile(profile.item.clone())), puts));
        self.store.apply(changes, vec![line], now).await?;
        self.shown_profile(id)
    }

    /// Drops the previous signing secret: it verifies nothing from the next request on.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.nothing_to_revoke`.
    pub async fn revoke_secret(&self, asking: &Asking, id: &str) -> Result<Json, AdminError> {
        let target = format!("{KIND}/{id}");
        let decision = self.authorize_secret(asking, id, "secret.revoke", |operator, holder| RevokeSecret { operator, holder }).await?;
        let _one_at_a_time = self.changing.lock().await;
        let now = self.clock.now();
        let directory = self.store.directory();
        let found = Found::of(&directory, id)?;
        let Some(previous) = found.overlapping(now) else {
            return Err(AdminError::new(ReasonCode::AdminNothingToRevoke, format!("{}: only the current secret verifies", found.at)));
        };
        let mut line = asking.line(&self.clock, "secret.revoke", target, Some(&decision));
        line.org = directory.org_of(KIND, id);
        line.detail = Some(json!({"secrets": {"previous_signing_secret": {"from": shown(previous)}}}).to_string());
        let dropped = stands(Guard::RevokedDropped).then(|| found.drop_previous());
        self.store.apply(dropped.into_iter().collect(), vec![line], now).await?;
        self.shown_profile(id)
    }

    /// The question names the profile, so one that is not there cannot be asked about; whether the operator may look at all
    /// can, so that nobody learns from a 404 what there is.
    async fn authorize_secret<A: Action>(
        &self,
        asking: &Asking,
        id: &str,
        action: &'static str,
        ask: impl FnOnce(OperatorFacts, SecretHolder) -> A,
    ) -> Result<Arc<Decision>, AdminError> {
        let directory = self.store.directory();
        let found = match Found::of(&directory, id) {
            Ok(found) => found,
            Err(error) => {
                self.may_view(asking).await?;
                return Err(error);
            }
        };
        let holder = SecretHolder::Profile(facts::profile(&directory, &found.profile.item));
        self.authorize(asking, ask(asking.facts(), holder), action, &format!("{KIND}/{id}")).await
    }

    fn shown_profile(&self, id: &str) -> Result<Json, AdminError> {
        resource(&self.store.directory(), KIND, id)
            .ok_or_else(|| AdminError::new(ReasonCode::AdminNotFound, format!("there is no profile `{id}`")))
    }
}
