//! Where key-encryption keys come from and are kept: a file that only its owner reads, or the environment. And the keys that
//! the store itself keeps, sealed.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use zeroize::Zeroizing;

use super::{Vault, field};
use crate::crypto::content::ContentKeys;
use crate::crypto::envelope::{Key, KeyId, KeyRing, OpenError, Purpose};
use crate::crypto::{MacKey, random};
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;
use crate::domain::reason::{Failure, ReasonCode};
use crate::domain::record::AuditRecord;
use crate::providers;
use crate::store::directory::SealedSecret;
use crate::store::{Change, SealedRow, SecretPut, Store};

/// The kind under which the store keeps the gateway's own keys.
pub const KIND: &str = "keys";
/// Whose the lookup key is.
const OWNER: &str = "byoa";

/// Where the master keys are, and whether they can be changed there.
#[derive(Clone, Debug)]
pub enum Origin {
    /// In a file of ours.
    File(PathBuf),
    /// In the environment, which is somebody else's.
    Environment,
}

/// Loads the master keys: from `env` (`BYOA_MASTER_KEYS`) where it is set, else from the file, which is made with mode 0600
/// where there is nothing yet that another key could have sealed.
///
/// # Errors
/// `key.missing`, `key.weak`, `key.permissions`.
pub fn load(file: &Path, env: Option<&str>, first_start: bool) -> Result<(KeyRing, Origin), Failure> {
    if let Some(text) = env {
        return Ok((parse("BYOA_MASTER_KEYS", text)?, Origin::Environment));
    }
    if !file.exists() {
        if !first_start {
            let detail = format!("{} is not there and the store is: put it back, without it nothing sealed opens", file.display());
            return Err(Failure::new(ReasonCode::KeyMissing, detail));
        }
        let key = random::<32>().map_err(|e| Failure::new(ReasonCode::KeyMissing, e))?;
        write_private(file, &format!("{}\n", hex::encode(key))).map_err(|e| missing(file, &e))?;
    }
    private(file)?;
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|e| missing(file, &e))?);
    Ok((parse(&file.display().to_string(), &text)?, Origin::File(file.to_owned())))
}

impl Origin {
    /// Adds a key behind the others, which then seals at the next start too.
    ///
    /// # Errors
    /// `key.environment`; `key.missing` when the file cannot be written. The file is the old one then.
    pub fn append(&self, key: &Key) -> Result<(), Failure> {
        self.rewrite(|text| {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&Zeroizing::new(hex::encode(key.as_slice())));
            text.push('\n');
        })
    }

    /// Takes keys out.
    ///
    /// # Errors
    /// As [`Origin::append`].
    pub fn remove(&self, ids: &[KeyId]) -> Result<(), Failure> {
        let gone = |word: &str| {
            let mut key = Zeroizing::new([0u8; 32]);
            hex::decode_to_slice(word, key.as_mut_slice()).is_ok() && ids.contains(&KeyId::of(&key))
        };
        self.rewrite(|text| {
            let kept: Vec<&str> = text.lines().filter(|line| !words(line).any(gone)).collect();
            // A line may hold several keys; those that stay get lines of their own.
            let beside = text.lines().filter(|line| words(line).any(gone)).flat_map(words).filter(|word| !gone(word));
            let mut lines: Vec<&str> = beside.collect();
            lines.extend(kept);
            let new = Zeroizing::new(lines.join("\n") + "\n");
            text.clear();
            text.push_str(&new);
        })
    }

    /// Whole or not at all, and on disk before anybody seals with what is in it.
    fn rewrite(&self, change: impl FnOnce(&mut String)) -> Result<(), Failure> {
        let Self::File(file) = self else {
            let detail =
                "write the new list into BYOA_MASTER_KEYS and start again: the last key seals, and a start re-seals what others did";
            return Err(Failure::new(ReasonCode::KeyEnvironment, detail));
        };
        let failed = |e: std::io::Error| missing(file, &e);
        let mut text = Zeroizing::new(std::fs::read_to_string(file).map_err(failed)?);
        change(&mut text);
        let fresh = PathBuf::from(format!("{}.new", file.display()));
        // What a process left that was killed here.
        if fresh.exists() {
            std::fs::remove_file(&fresh).map_err(failed)?;
        }
        write_private(&fresh, &text).map_err(failed)?;
        std::fs::rename(&fresh, file).map_err(failed)?;
        let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// A new master key.
///
/// # Errors
/// When the system gives no randomness.
pub fn fresh() -> Result<Key, Failure> {
    random::<32>().map(Zeroizing::new).map_err(|e| Failure::new(ReasonCode::StoreUnavailable, format!("no randomness: {e}")))
}

/// Opens the keys that the store keeps: the one that texts are looked up by, made at the first start, and those of orgs.
///
/// # Errors
/// `key.missing` when the store was sealed under a master key that is not loaded, `vault.*` when its lookup key is damaged,
/// the store's own trouble.
pub async fn unlock(mut ring: KeyRing, store: &Store, now: Timestamp) -> Result<Vault, Failure> {
    let rows = store.sealed_keys().await?;
    let lookup = match rows.iter().find(|row| row.field == field::LOOKUP_KEY) {
        Some(row) => open(&ring, row).map_err(|e| match e {
            OpenError::KeyUnknown(_) => Failure::new(ReasonCode::KeyMissing, format!("the store's lookup key is {e}: put it back")),
            OpenError::Context => Failure::new(ReasonCode::VaultSecretContext, format!("the store's lookup key: {e}")),
            OpenError::Absent | OpenError::Corrupt => Failure::new(ReasonCode::VaultSecretCorrupt, format!("the store's lookup key: {e}")),
        })?,
        None => first_lookup_key(&ring, store, now).await?,
    };
    let content = store.content_keys().clone();
    add_orgs(&mut ring, &content, &rows);
    content_key(&ring, store, &content, &rows, now).await?;
    give_orgs_keys(&mut ring, store, &content, now).await?;
    store.seal_plain_rows(|provider| providers::of(provider).edge().dedupe_is_personal).await?;
    let lookup =
        MacKey::new(lookup.as_slice()).ok_or_else(|| Failure::new(ReasonCode::VaultSecretCorrupt, "the store's lookup key is empty"))?;
    // Conversations that were handed over are read with the orgs' keys.
    store.reload().await?;
    Ok(Vault { content, ..Vault::new(ring, lookup) })
}

fn add_orgs(ring: &mut KeyRing, content: &ContentKeys, rows: &[SealedRow]) {
    for row in rows.iter().filter(|row| row.field == field::ORG_KEY) {
        match open(ring, row) {
            Ok(key) => {
                content.add(Some(&row.owner), &key);
                ring.add_org(&row.owner, key);
            }
            Err(error) => tracing::error!(org = %row.owner, error = %error, "the org's key does not open: none of its secrets will"),
        }
    }
}

/// Loads the key for content of no org. A store that has none yet gets one.
async fn content_key(ring: &KeyRing, store: &Store, content: &ContentKeys, rows: &[SealedRow], now: Timestamp) -> Result<(), Failure> {
    let key = match rows.iter().find(|row| row.field == field::CONTENT_KEY) {
        Some(row) => open(ring, row).map_err(|e| Failure::new(ReasonCode::VaultSecretCorrupt, format!("the store's content key: {e}")))?,
        None => {
            let key = fresh()?;
            let put = put(ring, OWNER, field::CONTENT_KEY, &key, now)?;
            let line = AuditRecord::of_gateway(now, "keys.content", format!("{KIND}/{OWNER}"));
            store.apply(vec![Change::KeepKey(put)], vec![line], now).await?;
            key
        }
    };
    content.add(None, &key);
    Ok(())
}

/// Gives keys to orgs that an earlier build left without one: their content is sealed too. A suspended org without a key may
/// have been shredded, and gets a key when an operator applies it again.
async fn give_orgs_keys(ring: &mut KeyRing, store: &Store, content: &ContentKeys, now: Timestamp) -> Result<(), Failure> {
    let directory = store.directory();
    // Rows in clear are sealed whoever's they are.
    let upgrading = store.has_plain_rows().await?;
    let without =
        directory.orgs.values().map(|org| &org.item).filter(|org| (upgrading || !org.suspended) && !ring.has_org(org.id.as_str()));
    let (mut keys, mut changes, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for org in without {
        let key = fresh()?;
        changes.push(Change::KeepKey(put(ring, org.id.as_str(), field::ORG_KEY, &key, now)?));
        lines.push(AuditRecord::of_gateway(now, "keys.org", org.id.to_string()));
        keys.push((org.id.to_string(), key));
    }
    if keys.is_empty() {
        return Ok(());
    }
    store.apply(changes, lines, now).await?;
    for (org, key) in keys {
        content.add(Some(&org), &key);
        ring.add_org(&org, key);
    }
    Ok(())
}

impl Vault {
    /// Whether an org has a key of its own.
    pub fn has_org(&self, org: &OrgId) -> bool {
        self.ring().has_org(org.as_str())
    }

    /// A new key of an org, sealed, to be kept before anything is left sealed under it.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn sealed_org_key(&self, org: &OrgId, key: &Key, now: Timestamp) -> Result<SecretPut, Failure> {
        put(&self.ring(), org.as_str(), field::ORG_KEY, key, now)
    }

    /// Takes a key up that is kept now.
    pub fn add_org(&self, org: &OrgId, key: Key) {
        self.content.add(Some(org.as_str()), &key);
        self.ring_mut().add_org(org.as_str(), key);
    }

    /// Takes up what is kept, after a change of which nobody knows whether it was.
    ///
    /// # Errors
    /// The store's trouble.
    pub async fn add_kept_orgs(&self, store: &Store) -> Result<(), Failure> {
        let rows = store.sealed_keys().await?;
        add_orgs(&mut self.ring_mut(), &self.content, &rows);
        Ok(())
    }

    /// Forgets an org's key, and whatever is open of anybody.
    pub fn forget_org(&self, org: &OrgId) {
        self.content.drop_org(org.as_str());
        self.ring_mut().drop_org(org.as_str());
        self.keyed.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn open(ring: &KeyRing, row: &SealedRow) -> Result<Key, OpenError> {
    let plain = ring.open(Purpose { kind: KIND, owner: &row.owner, field: &row.field }, &row.sealed)?;
    <[u8; 32]>::try_from(plain.as_slice()).map(Zeroizing::new).map_err(|_| OpenError::Corrupt)
}

/// A store that has no lookup key yet gets one. Texts that an earlier build sealed are known by a digest that hung on the first
/// master key; there that stays the key.
async fn first_lookup_key(ring: &KeyRing, store: &Store, now: Timestamp) -> Result<Key, Failure> {
    let kept = if store.sealed_under().await?.is_empty() { None } else { ring.first_lookup_key() };
    let key = kept.map_or_else(fresh, Ok)?;
    let put = put(ring, OWNER, field::LOOKUP_KEY, &key, now)?;
    let line = AuditRecord::of_gateway(now, "keys.lookup", format!("{KIND}/{OWNER}"));
    store.apply(vec![Change::KeepKey(put)], vec![line], now).await?;
    Ok(key)
}

fn put(ring: &KeyRing, owner: &str, name: &str, key: &Key, now: Timestamp) -> Result<SecretPut, Failure> {
    let sealed = ring
        .seal(ring.current(), Purpose { kind: KIND, owner, field: name }, key.as_slice())
        .map_err(|e| Failure::new(ReasonCode::StoreUnavailable, format!("sealing: {e}")))?;
    let secret = SealedSecret {
        id: KeyId::of(key).to_string(),
        field: name.to_owned(),
        slot: "current".to_owned(),
        sealed,
        fingerprint: KeyId::of(key).to_string(),
        set: now,
        until: None,
    };
    Ok(SecretPut { kind: KIND, owner: owner.to_owned(), secret })
}

/// The keys in a text; a line that begins with # is a comment.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|l| !l.starts_with('#')).flat_map(|l| l.split([',', ' '])).map(str::trim).filter(|w| !w.is_empty())
}

fn missing(file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(ReasonCode::KeyMissing, format!("{}: {error}", file.display()))
}

/// Refuses a file that others can read.
///
/// # Errors
/// `key.permissions`, `key.missing`.
pub fn private(file: &Path) -> Result<(), Failure> {
    let mode = std::fs::metadata(file).map_err(|e| missing(file, &e))?.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        Ok(())
    } else {
        Err(Failure::new(ReasonCode::KeyPermissions, format!("{} has mode {mode:o}; make it 600", file.display())))
    }
}

/// Writes a file that only its owner can read, in a folder that is made as private where it is missing. It must not be there yet.
///
/// # Errors
/// What the file system says.
pub fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()
}

fn parse(origin: &str, text: &str) -> Result<KeyRing, Failure> {
    let weak = |why: &str| Failure::new(ReasonCode::KeyWeak, format!("{origin}: {why}; a master key is 64 hex digits, from a generator"));
    let mut keys = Vec::new();
    for word in words(text) {
        let mut key = Zeroizing::new([0u8; 32]);
        if word.len() != 64 || hex::decode_to_slice(word, key.as_mut_slice()).is_err() {
            return Err(weak("a key is too short or no hex"));
        }
        keys.push(key);
    }
    if keys.is_empty() {
        return Err(Failure::new(ReasonCode::KeyMissing, format!("{origin}: no key in it")));
    }
    KeyRing::new(keys).ok_or_else(|| weak("a key is one byte repeated"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_start_makes_a_private_file_and_the_next_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("data/master.keys");
        let first = load(&file, None, true).unwrap().0.current();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&file, None, true).unwrap().0.current(), first);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load(&file, None, true).unwrap_err().code, ReasonCode::KeyPermissions);
    }

    #[test]
    fn weak_and_missing_keys_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k");
        for (text, code) in [("", ReasonCode::KeyMissing), ("abc", ReasonCode::KeyWeak), (&"00".repeat(32), ReasonCode::KeyWeak)] {
            assert_eq!(load(&file, Some(text), true).unwrap_err().code, code, "{text}");
        }
        write_private(&file, "short\n").unwrap();
        assert_eq!(load(&file, None, true).unwrap_err().code, ReasonCode::KeyWeak);
    }

    #[test]
    fn a_key_is_added_behind_the_others_and_taken_out_again_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("master.keys");
        let (old, key) = ("1f".repeat(31) + "00", fresh().unwrap());
        write_private(&file, &format!("# ours\n{old}")).unwrap();
        std::fs::write(dir.path().join("master.keys.new"), "torn").unwrap();
        let (ring, origin) = load(&file, None, true).unwrap();
        origin.append(&key).unwrap();
        let both = load(&file, None, true).unwrap().0;
        assert_eq!(both.masters(), [ring.current(), KeyId::of(&key)]);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!dir.path().join("master.keys.new").exists());
        origin.remove(&[ring.current()]).unwrap();
        assert_eq!(load(&file, None, true).unwrap().0.masters(), [KeyId::of(&key)]);
        assert!(std::fs::read_to_string(&file).unwrap().starts_with("# ours\n"));
        std::fs::remove_file(&file).unwrap();
        write_private(&file, &format!("{old},{}\n", hex::encode(key.as_slice()))).unwrap();
        origin.remove(&[KeyId::of(&key)]).unwrap();
        assert_eq!(load(&file, None, true).unwrap().0.masters(), [ring.current()]);
        assert_eq!(Origin::Environment.append(&key).unwrap_err().code, ReasonCode::KeyEnvironment);
    }
}
