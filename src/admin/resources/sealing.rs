//! Secrets of declared resources: judged, and sealed for their place. Part of `admin`, floor 7.

use std::collections::btree_map::Entry;

use super::super::AdminError;
use super::super::document::{PreviousSpec, SecretSpec};
use super::{OVERLAP_MS, OVERLAP_MS_MAX, Plan};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{CredentialId, OrgId};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::{self, Secret, Unfit};
use crate::providers::Provider;
use crate::store::SecretPut;
use crate::store::directory::SealedSecret;
use crate::vault::{field, keys};

/// One resource's secrets on their way to be sealed.
pub(super) struct Sealing<'p, 'a> {
    plan: &'p Plan<'a>,
    kind: &'static str,
    owner: String,
    org: Option<OrgId>,
    known: Vec<SealedSecret>,
    pub(super) puts: Vec<SecretPut>,
}

impl<'a> Plan<'a> {
    pub(super) fn sealing<'p>(
        &'p self,
        kind: &'static str,
        owner: &str,
        org: Option<OrgId>,
        known: Option<Vec<SealedSecret>>,
    ) -> Sealing<'p, 'a> {
        Sealing { plan: self, kind, owner: owner.to_owned(), org, known: known.unwrap_or_default(), puts: Vec::new() }
    }
}

impl Sealing<'_, '_> {
    pub(super) fn required(&mut self, at: &str, name: &'static str, spec: Option<SecretSpec>, chars_min: usize) -> Result<(), AdminError> {
        let there = spec.is_some() || self.known.iter().any(|s| s.field == name && s.slot == "current");
        if !there && stands(Guard::SecretRequired) {
            return Err(AdminError::new(ReasonCode::AdminSecretRequired, format!("{at}: {name} is required")));
        }
        self.optional(at, name, spec, chars_min)
    }

    pub(super) fn optional(&mut self, at: &str, name: &'static str, spec: Option<SecretSpec>, chars_min: usize) -> Result<(), AdminError> {
        let Some(spec) = spec else { return Ok(()) };
        judge(at, name, &spec.value, chars_min)?;
        self.put("current", name, &spec.value, None)
    }

    /// A profile's previous signing secret: the one that the document names, or the one that a new one replaces, which verifies
    /// on for as long as a rotation would let it.
    pub(super) fn overlap(&mut self, at: &str, said: Option<PreviousSpec>, chars_min: usize) -> Result<(), AdminError> {
        let (now, slot) = (self.plan.now, |slot: &'static str| move |s: &&SealedSecret| s.field == field::SIGNING_SECRET && s.slot == slot);
        let previous = self.known.iter().find(slot("previous")).cloned();
        if let Some(said) = said {
            judge(at, "previous_signing_secret", &said.value, chars_min)?;
            let fingerprint = self.plan.admin.vault.fingerprint(said.value.expose());
            // The one that is there keeps its end: a document that is applied again is no new overlap.
            let known = previous.filter(|p| p.fingerprint == fingerprint).and_then(|p| p.until);
            let until = said.until.or(known).unwrap_or_else(|| now.plus_ms(OVERLAP_MS));
            if until.ms() - now.ms() > OVERLAP_MS_MAX {
                let detail = format!("{at}: previous_signing_secret may last 7 days at most");
                return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
            }
            return self.put("previous", field::SIGNING_SECRET, &said.value, Some(until));
        }
        let is_new = self.puts.iter().any(|put| put.secret.field == field::SIGNING_SECRET && put.secret.slot == "current");
        let Some(replaced) = self.known.iter().find(slot("current")).filter(|_| is_new) else { return Ok(()) };
        if let Some(previous) = previous.filter(|p| p.until.is_none_or(|until| now <= until)) {
            let until = previous.until.map_or_else(|| "it is revoked".to_owned(), |until| until.to_string());
            let detail = format!(
                "{at}: signing_secret: the previous one verifies until {until}; revoke it first, or name the one to keep as previous_signing_secret"
            );
            return Err(AdminError::new(ReasonCode::AdminOverlapRunning, detail));
        }
        // A slot is no part of what a value is sealed for, so it moves as it is.
        let secret = SealedSecret { slot: "previous".to_owned(), until: Some(now.plus_ms(OVERLAP_MS)), ..replaced.clone() };
        self.puts.push(SecretPut { kind: self.kind, owner: self.owner.clone(), secret });
        Ok(())
    }

    pub(super) fn put(
        &mut self,
        slot: &'static str,
        name: &'static str,
        value: &Secret,
        until: Option<Timestamp>,
    ) -> Result<(), AdminError> {
        let vault = &self.plan.admin.vault;
        let fingerprint = vault.fingerprint(value.expose());
        let same = |s: &SealedSecret| s.field == name && s.slot == slot && s.fingerprint == fingerprint && s.until == until;
        if self.known.iter().any(same) {
            return Ok(());
        }
        let sealed = match &self.org {
            Some(org) if !vault.has_org(org) => {
                let mut keys = self.plan.keys.borrow_mut();
                let key = match keys.entry(org.clone()) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(none) => none.insert(keys::fresh()?),
                };
                vault.seal_under(key, self.kind, &self.owner, name, value)?
            }
            org => vault.seal(org.as_ref(), self.kind, &self.owner, name, value)?,
        };
        let id = CredentialId::fresh(self.plan.now).to_string();
        let secret = SealedSecret { id, field: name.to_owned(), slot: slot.to_owned(), sealed, fingerprint, set: self.plan.now, until };
        self.puts.push(SecretPut { kind: self.kind, owner: self.owner.clone(), secret });
        Ok(())
    }
}

/// Checks a profile's signing secret: long enough, of the provider's form, no placeholder.
pub(in crate::admin) fn fit_signing_secret(at: &str, provider: &dyn Provider, value: &Secret) -> Result<(), AdminError> {
    let formed = provider.secret_form(value.expose()) || !stands(Guard::SecretForm);
    if secret::judge(value.expose(), 1).is_ok() && !formed {
        let detail = format!("{at}: signing_secret has characters that {} does not use", provider.kind());
        return Err(AdminError::new(ReasonCode::AdminSecretWeak, detail));
    }
    judge(at, field::SIGNING_SECRET, value, provider.secret_chars_min())
}

pub(super) fn judge(at: &str, name: &str, value: &Secret, chars_min: usize) -> Result<(), AdminError> {
    let (code, why) = match secret::judge(value.expose(), chars_min) {
        Ok(()) => return Ok(()),
        Err(Unfit::Absent) => (ReasonCode::AdminSecretRequired, "is empty".to_owned()),
        Err(Unfit::TooShort) => (ReasonCode::AdminSecretWeak, format!("is shorter than {chars_min} characters")),
        Err(Unfit::Placeholder) => (ReasonCode::AdminSecretPlaceholder, "is a placeholder".to_owned()),
    };
    Err(AdminError::new(code, format!("{at}: {name} {why}")))
}
