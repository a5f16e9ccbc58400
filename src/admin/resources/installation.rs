//! A declared installation: its account, its credential, and what a change makes of its status. Part of `admin`, floor 7.

use super::super::AdminError;
use super::super::document::{CredentialSpec, InstallationSpec, account};
use super::sealing::judge;
use super::{CREDENTIAL_CHARS_MIN, Plan, immutable, mode_follows, same_identity};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::OrgId;
use crate::domain::installation::{AppProfile, ExternalAccount, Installation, InstallationStatus, Ownership};
use crate::domain::lifecycle::StatusReason;
use crate::domain::reason::ReasonCode;
use crate::providers;
use crate::store::directory::SealedSecret;
use crate::store::{Change, Resource, SecretPut};
use crate::vault::field;

impl Plan<'_> {
    pub(in crate::admin) fn installation(&mut self, spec: InstallationSpec) -> Result<(), AdminError> {
        let at = format!("installations `{}`", spec.id);
        self.org_exists(&at, Some(&spec.org))?;
        let unknown = |what: String| AdminError::new(ReasonCode::AdminReferenceUnknown, format!("{at}: {what}"));
        let profile = self
            .future
            .profiles()
            .get(&spec.profile)
            .map(|p| p.item.clone())
            .ok_or_else(|| unknown(format!("there is no profile `{}`", spec.profile)))?;
        if let Ownership::Org(owner) = &profile.owner
            && *owner != spec.org
        {
            return Err(unknown(format!("profile `{}` belongs to org `{owner}`", profile.id)));
        }
        let account = account(&at, profile.provider, &spec.account)?;
        let known = self.future.installations().get(&spec.id).map(|k| (k.item.clone(), k.secrets.clone()));
        let old = known.as_ref().map(|(k, _)| k);
        mode_follows(&at, spec.mode, profile.owner.mode(), old.is_some())?;
        immutable(&at, "profile", old.map(|k| &k.profile), &spec.profile)?;
        immutable(&at, "org", old.map(|k| &k.org), &spec.org)?;
        if let Some(old) = old
            && !same_identity(&old.account, &account)
            && stands(Guard::AccountImmutable)
        {
            return Err(AdminError::new(ReasonCode::AdminFieldImmutable, format!("{at}: account is set once; make a new installation")));
        }
        let (puts, declared) = match spec.credential {
            Some(credential) => self.credential(&at, (spec.id.as_str(), &spec.org), credential, &profile, &account, known.as_ref())?,
            None => (Vec::new(), old.and_then(|k| k.declared.clone())),
        };
        let standing = standing(&at, old, spec.status, !puts.is_empty(), self.now)?;
        // A credential that is declared revoked with its installation is not kept.
        let puts = if standing.status == InstallationStatus::Revoked { Vec::new() } else { puts };
        let mut installation = Installation {
            id: spec.id,
            profile: spec.profile,
            org: spec.org,
            provider: profile.provider,
            owner: profile.owner,
            account,
            status: standing.status,
            epoch: standing.epoch,
            connected_at: standing.connected_at,
            status_reason: old.and_then(|k| k.status_reason),
            since: old.and_then(|k| k.since),
            declared,
        };
        if old.is_none_or(|k| k.status != standing.status) {
            let reason = (standing.status != InstallationStatus::Active).then_some(StatusReason::Operator);
            installation.stand(standing.status, reason, self.now);
        }
        let old_token = known.as_ref().is_some_and(|(_, s)| s.iter().any(|s| s.field == field::REFRESH_TOKEN));
        let drop_token = old_token && !puts.is_empty() && !puts.iter().any(|p| p.secret.field == field::REFRESH_TOKEN);
        let owner = installation.id.to_string();
        self.record(Resource::Installation(installation), known.map(|(i, s)| (Resource::Installation(i), s)), puts)?;
        if drop_token {
            // It would refresh the credential that was replaced.
            let field = field::REFRESH_TOKEN.to_owned();
            self.changes.push(Change::DropSecret { kind: "installations", owner, field, slot: "current" });
        }
        Ok(())
    }

    /// A credential with what refreshes it, to be sealed, and its digest. One that was declared before is no new one, though
    /// it may have been revoked or rotated away since: what stands in a file would replace what is newer.
    fn credential(
        &self,
        at: &str,
        (id, org): (&str, &OrgId),
        spec: CredentialSpec,
        profile: &AppProfile,
        account: &ExternalAccount,
        known: Option<&(Installation, Vec<SealedSecret>)>,
    ) -> Result<(Vec<SecretPut>, Option<String>), AdminError> {
        let provider = providers::of(profile.provider);
        judge(at, field::CREDENTIAL, &spec.value, CREDENTIAL_CHARS_MIN)?;
        if !provider.credential_fits(spec.value.expose(), account) {
            let detail = format!("{at}: credential is not of the form {} gives out, or is another account's", profile.provider);
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
        }
        if spec.refresh_token.is_some() {
            let client = self.future.profiles().get(&profile.id);
            if !provider.refreshes() {
                let detail = format!("{at}: {} has no tokens that are refreshed, so no refresh_token", profile.provider);
                return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
            }
            if !client.is_some_and(|p| p.item.oauth_client_id.is_some() && p.secret(field::CLIENT_SECRET).is_some()) {
                let detail = format!("{at}: a refresh_token needs oauth.client_id and oauth.client_secret of profile `{}`", profile.id);
                return Err(AdminError::new(ReasonCode::AdminSecretRequired, detail));
            }
        }
        let fingerprint = self.admin.vault.fingerprint(spec.value.expose());
        let declared = Some(fingerprint.clone());
        // One that is still there may get another end.
        let is_there = |all: &[SealedSecret]| all.iter().any(|s| s.field == field::CREDENTIAL && s.fingerprint == fingerprint);
        if known.is_some_and(|(old, all)| old.declared == declared && !is_there(all)) {
            return Ok((Vec::new(), declared));
        }
        let mut sealing = self.sealing("installations", id, Some(org.clone()), known.map(|(_, s)| s.clone()));
        sealing.put("current", field::CREDENTIAL, &spec.value, spec.expires_at)?;
        if let Some(token) = spec.refresh_token {
            judge(at, field::REFRESH_TOKEN, &token.value, CREDENTIAL_CHARS_MIN)?;
            sealing.put("current", field::REFRESH_TOKEN, &token.value, None)?;
        }
        Ok((sealing.puts, declared))
    }
}

/// What an installation is after a change of an operator's.
struct Standing {
    status: InstallationStatus,
    epoch: i64,
    connected_at: Timestamp,
}

/// A new credential is what a degraded installation waits for, and what makes a revoked one another install: its epoch
/// grows, and what its provider still has to say of the one before is void.
fn standing(
    at: &str,
    old: Option<&Installation>,
    said: Option<InstallationStatus>,
    new_credential: bool,
    now: Timestamp,
) -> Result<Standing, AdminError> {
    use InstallationStatus as Status;
    let Some(old) = old else { return Ok(Standing { status: said.unwrap_or(Status::Active), epoch: 1, connected_at: now }) };
    let same = |status| Standing { status, epoch: old.epoch, connected_at: old.connected_at };
    let for_credential = old.status_reason.is_none_or(|r| !r.of_account());
    match (old.status, said) {
        (Status::Revoked, Some(Status::Revoked)) => Ok(same(Status::Revoked)),
        (Status::Revoked, said) if new_credential => {
            Ok(Standing { status: said.unwrap_or(Status::Active), epoch: old.epoch.saturating_add(1), connected_at: now })
        }
        (Status::Revoked, None) => Ok(same(Status::Revoked)),
        (Status::Revoked, Some(_)) => {
            let why = old.status_reason.map_or("revoked", StatusReason::as_str);
            let detail = format!("{at}: status: it was revoked ({why}) and comes back with a new credential only");
            Err(AdminError::new(ReasonCode::AdminSecretRequired, detail))
        }
        (Status::Degraded, None) if new_credential && for_credential => Ok(same(Status::Active)),
        (status, said) => Ok(same(said.unwrap_or(status))),
    }
}
