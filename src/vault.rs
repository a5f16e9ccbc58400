//! Sealed secrets: put in by operators, opened only to verify, to sign a delivery, or to send.
//!
//! Owns the key ring and what each sealed field is for. Never prints, never compares secrets with each other, never opens a
//! provider credential without a grant. Floor 3.

pub mod keys;
pub mod reply;
pub mod ticket;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use zeroize::Zeroizing;

use crate::crypto::MacKey;
use crate::crypto::content::ContentKeys;
use crate::crypto::envelope::{Key, KeyId, KeyRing, OpenError, Purpose, seal_under};
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{InstallationId, OrgId, ProfileId};
use crate::domain::installation::{Agent, AppProfile};
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::secret::Secret;
use crate::providers::{SecretSlot, SigningSecret, SigningSecrets};
use crate::store::SealedRow;
use crate::store::directory::{Directory, Kept, SealedSecret};

/// Names the one credential that may be opened. Implemented by policy permits only; the layering test counts them.
pub trait OpenGrant {
    /// The installation whose credential it is.
    fn installation(&self) -> &InstallationId;
    /// The credential's id; another one at the same place does not open.
    fn credential(&self) -> &str;
}

/// The sealed fields there are.
pub mod field {
    /// What proves a profile's webhooks, or signs an agent's deliveries.
    pub const SIGNING_SECRET: &str = "signing_secret";
    /// What Meta says in its handshake.
    pub const VERIFY_TOKEN: &str = "verify_token";
    /// The OAuth client's secret.
    pub const CLIENT_SECRET: &str = "client_secret";
    /// What an installation sends with.
    pub const CREDENTIAL: &str = "credential";
    /// What a new credential is had for, where the provider gives out ones that expire.
    pub const REFRESH_TOKEN: &str = "refresh_token";
    /// What an agent calls us with; only its digest is ever compared.
    pub const TOKEN: &str = "token";
    /// What texts are looked up by; the gateway's own.
    pub const LOOKUP_KEY: &str = "lookup_key";
    /// What an org's values are sealed under.
    pub const ORG_KEY: &str = "org_key";
    /// The key for content of requests that belong to no org; the gateway's own.
    pub const CONTENT_KEY: &str = "content_key";
}

/// Seals and opens. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Vault {
    ring: Arc<RwLock<KeyRing>>,
    /// The keys that the store seals content under, made of the orgs' keys.
    content: ContentKeys,
    lookup: Arc<MacKey>,
    keyed: Arc<RwLock<HashMap<ProfileId, Keyed>>>,
}

/// A profile's signing secrets, opened and keyed. Opening costs as much as the whole proof of a webhook, so it is done once
/// for as long as the profile stays as it is.
#[derive(Debug)]
struct Keyed {
    /// Held, so that its address stays its own: another value at this place is another profile.
    profile: Arc<Kept<AppProfile>>,
    /// When a previous secret stops to count and they must be opened anew.
    until: Option<Timestamp>,
    secrets: Arc<SigningSecrets>,
}

impl Vault {
    /// A vault over these keys, and the one that texts are looked up by. That one outlives every master key: were it made
    /// of one, a new master key would make every agent a stranger.
    pub fn new(ring: KeyRing, lookup: MacKey) -> Self {
        Self { ring: Arc::new(RwLock::new(ring)), content: ContentKeys::default(), lookup: Arc::new(lookup), keyed: Arc::default() }
    }

    fn ring(&self) -> RwLockReadGuard<'_, KeyRing> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_mut(&self) -> RwLockWriteGuard<'_, KeyRing> {
        self.ring.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The master keys' names, oldest first; the last one seals.
    pub fn masters(&self) -> Vec<KeyId> {
        self.ring().masters().to_vec()
    }

    /// Whether a key of this name is loaded.
    pub fn has(&self, id: KeyId) -> bool {
        self.ring().has(id)
    }

    /// How many orgs have a key of their own.
    pub fn orgs(&self) -> usize {
        self.ring().orgs()
    }

    /// Seals with a new master key from now on; what is sealed under the others opens on. `None` when it is no key.
    pub fn add_master(&self, key: Key) -> Option<KeyId> {
        self.ring_mut().add_master(key)
    }

    /// Forgets a master key that no row names any more.
    pub fn drop_master(&self, id: KeyId) {
        self.ring_mut().drop_master(id);
    }

    /// The same sealed value under the key that it belongs under now; `None` when it is.
    ///
    /// # Errors
    /// [`OpenError`], where it does not open in its own row.
    pub fn rewrap(&self, row: &SealedRow, org: Option<&OrgId>) -> Result<Option<Vec<u8>>, OpenError> {
        let ring = self.ring();
        let purpose = Purpose { kind: &row.kind, owner: &row.owner, field: &row.field };
        ring.rewrap(ring.key_for(org.map(OrgId::as_str)), purpose, &row.sealed)
    }

    /// The keyed digest of a text, hex: what reads show shortened, and what tokens are looked up by.
    pub fn fingerprint(&self, text: &str) -> String {
        hex::encode(self.lookup.sign(&[text.as_bytes()]))
    }

    /// The key of another purpose than fingerprints. It begins with a byte that no text has, so no text's fingerprint is ever
    /// such a key.
    fn derived(&self, purpose: &str) -> Option<MacKey> {
        MacKey::new(&self.lookup.sign(&[&[0xff], purpose.as_bytes()]))
    }

    /// Seals a value for one field of one resource, under the key of the org it is for.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn seal(&self, org: Option<&OrgId>, kind: &str, owner: &str, field: &str, text: &Secret) -> Result<Vec<u8>, Failure> {
        let ring = self.ring();
        ring.seal(ring.key_for(org.map(OrgId::as_str)), Purpose { kind, owner, field }, text.expose().as_bytes())
            .map_err(|e| Failure::new(ReasonCode::StoreUnavailable, format!("sealing: {e}")))
    }

    /// The same under a key that is to be an org's and is not kept yet.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn seal_under(&self, key: &Key, kind: &str, owner: &str, field: &str, text: &Secret) -> Result<Vec<u8>, Failure> {
        seal_under(key, Purpose { kind, owner, field }, text.expose().as_bytes())
            .map_err(|e| Failure::new(ReasonCode::StoreUnavailable, format!("sealing: {e}")))
    }

    fn open(&self, kind: &str, owner: &str, secret: &SealedSecret) -> Result<Secret, OpenError> {
        let plain = self.ring().open(Purpose { kind, owner, field: &secret.field }, &secret.sealed)?;
        let text = Zeroizing::new(String::from_utf8(plain.to_vec()).map_err(|_| OpenError::Corrupt)?);
        if text.trim().is_empty() {
            return Err(OpenError::Corrupt);
        }
        Ok(Secret::new(text.to_string()))
    }

    /// The secrets that may verify a profile's webhooks now: the current one, and the previous while its overlap lasts.
    ///
    /// # Errors
    /// [`ReasonCode::AuthnSecretUnavailable`] when there is none, a `vault.*` code when one does not open. A profile whose
    /// secret is damaged verifies nothing; it never falls back to fewer checks.
    pub fn signing(&self, profile: &Arc<Kept<AppProfile>>, now: Timestamp) -> Result<Arc<SigningSecrets>, Failure> {
        let known = self.keyed.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&profile.item.id)
            && (Arc::ptr_eq(&known.profile, profile) || !stands(Guard::OpenedForThisProfile))
            && (known.until.is_none_or(|until| now <= until) || !stands(Guard::OpenedAgain))
        {
            return Ok(known.secrets.clone());
        }
        drop(known);
        let secrets = Arc::new(self.open_signing(profile, now)?);
        let until = profile.secrets.iter().filter(|s| s.field == field::SIGNING_SECRET).filter_map(|s| s.until).filter(|u| now <= *u).min();
        let keyed = Keyed { profile: profile.clone(), until, secrets: secrets.clone() };
        self.keyed.write().unwrap_or_else(PoisonError::into_inner).insert(profile.item.id.clone(), keyed);
        Ok(secrets)
    }

    fn open_signing(&self, profile: &Kept<AppProfile>, now: Timestamp) -> Result<SigningSecrets, Failure> {
        let at = format!("profile `{}`", profile.item.id);
        let absent = || shut(ReasonCode::AuthnSecretUnavailable, &at)(OpenError::Absent);
        let mut candidates = Vec::with_capacity(2);
        for (slot, name) in [(SecretSlot::Current, "current"), (SecretSlot::Previous, "previous")] {
            let stored = profile.secrets.iter().find(|s| s.field == field::SIGNING_SECRET && s.slot == name);
            let Some(stored) = stored else { continue };
            let over = slot == SecretSlot::Previous && stored.until.is_some_and(|until| until < now);
            if over && stands(Guard::OverlapEnds) {
                continue;
            }
            let text = self.open("profiles", profile.item.id.as_str(), stored).map_err(shut(ReasonCode::AuthnSecretUnavailable, &at))?;
            candidates.extend(SigningSecret::new(slot, text));
        }
        let has_current = profile.secret(field::SIGNING_SECRET).is_some();
        SigningSecrets::new(candidates).filter(|_| has_current || !stands(Guard::SecretsThere)).ok_or_else(absent)
    }

    /// One field of a profile, where it has it.
    ///
    /// # Errors
    /// [`ReasonCode::AuthnSecretUnavailable`], `vault.*`
    pub fn profile_field(&self, profile: &Kept<AppProfile>, field: &str) -> Result<Option<Secret>, Failure> {
        let Some(stored) = profile.secret(field) else { return Ok(None) };
        self.open("profiles", profile.item.id.as_str(), stored)
            .map(Some)
            .map_err(shut(ReasonCode::AuthnSecretUnavailable, &format!("profile `{}`, {field}", profile.item.id)))
    }

    /// What deliveries to an agent are signed with.
    ///
    /// # Errors
    /// [`ReasonCode::DeliverySecretUnavailable`], `vault.*`
    pub fn agent_signing(&self, agent: &Kept<Agent>) -> Result<Secret, Failure> {
        let at = format!("agent `{}`", agent.item.id);
        let stored = agent.secret(field::SIGNING_SECRET).ok_or(OpenError::Absent);
        stored
            .and_then(|stored| self.open("agents", agent.item.id.as_str(), stored))
            .map_err(shut(ReasonCode::DeliverySecretUnavailable, &at))
    }

    /// Opens the credential that a permit names, and no other.
    ///
    /// # Errors
    /// [`ReasonCode::CredentialsUnavailable`], `vault.*`
    pub fn credential(&self, grant: &impl OpenGrant, directory: &Directory) -> Result<Secret, Failure> {
        self.granted(grant, directory, field::CREDENTIAL)
    }

    /// Opens what refreshes the credential that a permit names, and no other.
    ///
    /// # Errors
    /// [`ReasonCode::CredentialsUnavailable`]
    pub fn refresh_token(&self, grant: &impl OpenGrant, directory: &Directory) -> Result<Secret, Failure> {
        self.granted(grant, directory, field::REFRESH_TOKEN)
    }

    fn granted(&self, grant: &impl OpenGrant, directory: &Directory, name: &str) -> Result<Secret, Failure> {
        let owner = grant.installation();
        let at = format!("installation `{owner}`");
        let installation = directory.installations.get(owner);
        let is_it = installation.and_then(|i| i.secret(field::CREDENTIAL)).is_some_and(|s| s.id == grant.credential());
        let stored = installation.and_then(|i| i.secret(name)).filter(|_| is_it);
        let stored = stored.ok_or_else(|| Failure::new(ReasonCode::CredentialsUnavailable, format!("{at}: the credential changed")))?;
        self.open("installations", owner.as_str(), stored).map_err(shut(ReasonCode::CredentialsUnavailable, &at))
    }
}

/// What a value that does not open means: nothing there is the caller's word, the rest is ours.
fn shut(absent: ReasonCode, at: &str) -> impl Fn(OpenError) -> Failure {
    move |error| {
        let code = match error {
            OpenError::Absent => absent,
            OpenError::KeyUnknown(_) => ReasonCode::VaultKeyUnknown,
            OpenError::Context => ReasonCode::VaultSecretContext,
            OpenError::Corrupt => ReasonCode::VaultSecretCorrupt,
        };
        Failure::new(code, format!("{at}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::installation::{Ownership, ProviderKind};

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn vault() -> Vault {
        let mut key = Zeroizing::new([9u8; 32]);
        key[0] = 1;
        Vault::new(KeyRing::new(vec![key]).unwrap(), MacKey::new(b"lookup").unwrap())
    }

    fn profile(vault: &Vault, secrets: &[(&str, &str, Option<Timestamp>)]) -> Arc<Kept<AppProfile>> {
        let item = AppProfile {
            id: ProfileId::parse("app").unwrap(),
            provider: ProviderKind::Telegram,
            owner: Ownership::Platform,
            app_id: None,
            learned_app_id: None,
            ingress_id: "ingress-0123456789".into(),
            oauth_client_id: None,
            verifier: 1,
        };
        let sealed = |slot: &str, text: &str, until| SealedSecret {
            id: "crd_1".into(),
            field: field::SIGNING_SECRET.into(),
            slot: slot.into(),
            sealed: vault.seal(None, "profiles", "app", field::SIGNING_SECRET, &Secret::new(text.to_owned())).unwrap(),
            fingerprint: vault.fingerprint(text),
            set: NOW,
            until,
        };
        let secrets = secrets.iter().map(|(slot, text, until)| sealed(slot, text, *until)).collect();
        Arc::new(Kept { item, secrets, updated: NOW })
    }

    #[test]
    fn a_previous_secret_ends_with_its_overlap_though_it_was_opened_before() {
        let vault = vault();
        let profile = profile(&vault, &[("current", "new-secret", None), ("previous", "old-secret", Some(NOW.plus_ms(1000)))]);
        let count = |now| vault.signing(&profile, now).unwrap().len();
        assert_eq!((count(NOW), count(NOW.plus_ms(1000)), count(NOW.plus_ms(1001))), (2, 2, 1));
        assert!(Arc::ptr_eq(&vault.signing(&profile, NOW.plus_ms(1002)).unwrap(), &vault.signing(&profile, NOW.plus_ms(1003)).unwrap()));
    }

    #[test]
    fn a_changed_profile_is_opened_anew() {
        let vault = vault();
        let before = vault.signing(&profile(&vault, &[("current", "first", None)]), NOW).unwrap();
        let after = vault.signing(&profile(&vault, &[("current", "second", None)]), NOW).unwrap();
        assert!(!Arc::ptr_eq(&before, &after));
    }

    #[test]
    fn a_damaged_or_absent_secret_verifies_nothing() {
        let vault = vault();
        let whole = profile(&vault, &[("current", "secret", None)]);
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut profile = Arc::unwrap_or_clone(whole.clone());
            change(&mut profile.secrets[0].sealed);
            Arc::new(profile)
        };
        let lone = profile(&vault, &[("previous", "old-secret", Some(NOW.plus_ms(1000)))]);
        let elsewhere = vault.seal(None, "profiles", "other", field::SIGNING_SECRET, &Secret::new("secret".into())).unwrap();
        let mut stranger = Zeroizing::new([7u8; 32]);
        stranger[0] = 1;
        let purpose = Purpose { kind: "profiles", owner: "app", field: field::SIGNING_SECRET };
        let foreign = seal_under(&stranger, purpose, b"secret").unwrap();
        for (profile, code) in [
            (profile(&vault, &[]), ReasonCode::AuthnSecretUnavailable),
            (lone, ReasonCode::AuthnSecretUnavailable),
            (changed(&|sealed| sealed.clear()), ReasonCode::AuthnSecretUnavailable),
            (changed(&|sealed| sealed[40] ^= 1), ReasonCode::VaultSecretCorrupt),
            (changed(&|sealed| *sealed = elsewhere.clone()), ReasonCode::VaultSecretContext),
            (changed(&|sealed| *sealed = foreign.clone()), ReasonCode::VaultKeyUnknown),
        ] {
            let failure = vault.signing(&profile, NOW).unwrap_err();
            assert_eq!((failure.code, failure.code.status()), (code, 503));
        }
    }
}
