//! Sealing: each value under its own data key, each data key under a key-encryption key.
//!
//! A sealed blob is `version 2 | key id | context | wrapped data key | nonce | ciphertext`, XChaCha20-Poly1305 both times
//! (192-bit nonces are safe to draw at random, [RFC draft](https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha)).
//! The context is a digest of what the value is for. It is authenticated with both ciphertexts and compared with the row that
//! is read, so a blob copied to another row or tenant does not open, and is told apart from one that was altered: only the
//! copy is authentic. The key id is authenticated with the data key alone, so that another key-encryption key can take a
//! value over without its ciphertext being touched.
//!
//! Version 1 had no context: what the value is for was authenticated itself, and a copy looked like damage. It is still read.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::{MacKey, random, same, sha256};
use crate::domain::guard::{Guard, stands};

const FIRST: u8 = 1;
const VERSION: u8 = 2;
const KEY_BYTES: usize = 32;
const CONTEXT_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const ID_BYTES: usize = 8;
const WRAPPED_BYTES: usize = KEY_BYTES + TAG_BYTES;

/// A key-encryption key.
pub type Key = Zeroizing<[u8; KEY_BYTES]>;

/// The public name of a key-encryption key: digits of a digest of its digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl KeyId {
    /// The name of a key.
    pub fn of(key: &Key) -> Self {
        let digest = sha256(&sha256(key.as_slice()));
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(digest) {
            *to = from;
        }
        Self(id)
    }

    /// The key that a blob names; `None` when it is too short to name one.
    pub fn named_by(blob: &[u8]) -> Option<Self> {
        blob.get(1..)?.first_chunk::<ID_BYTES>().copied().map(Self)
    }

    /// Reads a name from its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// What a sealed value is for. Two values never share it.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// The table.
    pub kind: &'a str,
    /// The row's owner: profile, installation or agent.
    pub owner: &'a str,
    /// The field, with its version or slot.
    pub field: &'a str,
}

impl Purpose<'_> {
    fn written(&self, version: u8) -> Vec<u8> {
        let mut data = vec![version];
        for part in [self.kind, self.owner, self.field] {
            data.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }

    fn context(&self) -> [u8; CONTEXT_BYTES] {
        sha256(&self.written(VERSION))
    }
}

/// Why a sealed value did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is nothing in it.
    #[error("there is no sealed value")]
    Absent,
    /// Sealed under a key that is not loaded.
    #[error("sealed under master key {0}, which is not loaded")]
    KeyUnknown(KeyId),
    /// Whole, and sealed for another row.
    #[error("sealed for another row")]
    Context,
    /// Not of the sealed form, or altered.
    #[error("sealed value is damaged or was altered")]
    Corrupt,
}

/// The key-encryption keys that are loaded: the newest master key seals, all open. An org may have one of its own.
#[derive(Clone)]
pub struct KeyRing {
    keys: BTreeMap<KeyId, Key>,
    masters: Vec<KeyId>,
    current: KeyId,
    orgs: BTreeMap<String, KeyId>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} master keys, current {}, {} of orgs)", self.masters.len(), self.current, self.orgs.len())
    }
}

/// A sealed blob taken apart.
struct Parts<'b> {
    id: KeyId,
    context: &'b [u8; CONTEXT_BYTES],
    wrap_nonce: &'b [u8; NONCE_BYTES],
    wrapped: &'b [u8; WRAPPED_BYTES],
    /// Nonce and ciphertext of the value.
    value: &'b [u8],
}

impl<'b> Parts<'b> {
    fn read(rest: &'b [u8]) -> Option<Self> {
        let (id, rest) = rest.split_first_chunk::<ID_BYTES>()?;
        let (context, rest) = rest.split_first_chunk::<CONTEXT_BYTES>()?;
        let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>()?;
        let (wrapped, value) = rest.split_first_chunk::<WRAPPED_BYTES>()?;
        Some(Self { id: KeyId(*id), context, wrap_nonce, wrapped, value })
    }

    fn unwrap(&self, id: KeyId, key: &Key) -> Option<Key> {
        let opened = Zeroizing::new(decrypt(key, self.wrap_nonce, &wrap_data(id, self.context), self.wrapped)?);
        <[u8; KEY_BYTES]>::try_from(opened.as_slice()).ok().map(Zeroizing::new)
    }
}

fn wrap_data(id: KeyId, context: &[u8; CONTEXT_BYTES]) -> Vec<u8> {
    [&[VERSION], id.0.as_slice(), context].concat()
}

fn value_data(context: &[u8; CONTEXT_BYTES]) -> Vec<u8> {
    [&[VERSION], context.as_slice()].concat()
}

impl KeyRing {
    /// Takes the master keys; the last one seals. `None` when there is none, or one is all the same byte.
    pub fn new(keys: Vec<Key>) -> Option<Self> {
        let current = KeyId::of(keys.last()?);
        let mut ring = Self { keys: BTreeMap::new(), masters: Vec::new(), current, orgs: BTreeMap::new() };
        for key in keys {
            ring.add_master(key)?;
        }
        Some(ring)
    }

    /// Adds a master key, which seals from now on. `None` when it is one byte repeated.
    pub fn add_master(&mut self, key: Key) -> Option<KeyId> {
        let head = key.first().copied();
        if key.iter().all(|b| Some(*b) == head) {
            return None;
        }
        let id = KeyId::of(&key);
        self.masters.retain(|m| *m != id);
        self.masters.push(id);
        self.keys.insert(id, key);
        self.current = id;
        Some(id)
    }

    /// Forgets a master key that no value is sealed under any more. The one that seals stays.
    pub fn drop_master(&mut self, id: KeyId) {
        if id != self.current {
            self.masters.retain(|m| *m != id);
            self.keys.remove(&id);
        }
    }

    /// The master keys' names, oldest first.
    pub fn masters(&self) -> &[KeyId] {
        &self.masters
    }

    /// Whether a key of this name is loaded.
    pub fn has(&self, id: KeyId) -> bool {
        self.keys.contains_key(&id)
    }

    /// The sealing key's name.
    pub fn current(&self) -> KeyId {
        self.current
    }

    /// Adds an org's own key.
    pub fn add_org(&mut self, org: &str, key: Key) {
        let id = KeyId::of(&key);
        self.keys.insert(id, key);
        self.orgs.insert(org.to_owned(), id);
    }

    /// Forgets an org's own key: what is sealed under it does not open any more.
    pub fn drop_org(&mut self, org: &str) {
        if let Some(id) = self.orgs.remove(org) {
            self.keys.remove(&id);
        }
    }

    /// Whether an org has a key of its own.
    pub fn has_org(&self, org: &str) -> bool {
        self.orgs.contains_key(org)
    }

    /// The orgs' own keys: how many.
    pub fn orgs(&self) -> usize {
        self.orgs.len()
    }

    /// The key that an org's values are sealed under; without an org, or where it has none of its own, the master key.
    pub fn key_for(&self, org: Option<&str>) -> KeyId {
        org.and_then(|org| self.orgs.get(org)).copied().unwrap_or(self.current)
    }

    /// What texts were looked up by before the store kept a key for that: hangs on the first master key.
    pub fn first_lookup_key(&self) -> Option<Key> {
        let first = self.keys.get(self.masters.first()?)?;
        Some(Zeroizing::new(MacKey::new(first.as_slice())?.sign(&[b"byoa pepper v1"])))
    }

    /// Seals a value under a key of the ring.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn seal(&self, under: KeyId, purpose: Purpose<'_>, plain: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let key = self.keys.get(&under).ok_or(getrandom::Error::UNEXPECTED)?;
        seal_under(key, purpose, plain)
    }

    /// Opens a value that was sealed for this purpose.
    ///
    /// # Errors
    /// [`OpenError`]; which one says what an operator should look at, never what the value was.
    pub fn open(&self, purpose: Purpose<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let Some((version, rest)) = blob.split_first() else {
            return if stands(Guard::SealedThere) { Err(OpenError::Absent) } else { Ok(Zeroizing::default()) };
        };
        match *version {
            FIRST => self.open_first(purpose, rest),
            VERSION => {
                let parts = Parts::read(rest).ok_or(OpenError::Corrupt)?;
                let data_key = self.data_key(&parts, purpose)?;
                let (nonce, sealed) = parts.value.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Corrupt)?;
                decrypt(&data_key, nonce, &value_data(parts.context), sealed).map(Zeroizing::new).ok_or(OpenError::Corrupt)
            }
            _ => Err(OpenError::Corrupt),
        }
    }

    fn data_key(&self, parts: &Parts<'_>, purpose: Purpose<'_>) -> Result<Key, OpenError> {
        let Some(key) = self.keys.get(&parts.id) else {
            // A key of ours under another name: the name was altered. Else it is a key that is not here.
            let ours = self.keys.iter().any(|(id, key)| parts.unwrap(*id, key).is_some());
            return Err(if ours && stands(Guard::SealedKeyName) { OpenError::Corrupt } else { OpenError::KeyUnknown(parts.id) });
        };
        let data_key = parts.unwrap(parts.id, key).ok_or(OpenError::Corrupt)?;
        if same(&purpose.context(), parts.context) || !stands(Guard::SealedForThisRow) { Ok(data_key) } else { Err(OpenError::Context) }
    }

    fn open_first(&self, purpose: Purpose<'_>, rest: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (id, rest) = rest.split_first_chunk::<ID_BYTES>().ok_or(OpenError::Corrupt)?;
        let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Corrupt)?;
        let (wrapped, rest) = rest.split_first_chunk::<WRAPPED_BYTES>().ok_or(OpenError::Corrupt)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Corrupt)?;
        let key = self.keys.get(&KeyId(*id)).ok_or(OpenError::KeyUnknown(KeyId(*id)))?;
        let data = purpose.written(FIRST);
        let opened = Zeroizing::new(decrypt(key, wrap_nonce, &data, wrapped).ok_or(OpenError::Corrupt)?);
        let data_key = <[u8; KEY_BYTES]>::try_from(opened.as_slice()).map(Zeroizing::new).map_err(|_| OpenError::Corrupt)?;
        decrypt(&data_key, nonce, &data, sealed).map(Zeroizing::new).ok_or(OpenError::Corrupt)
    }

    /// The same value under another key of the ring; `None` when it is there already. Its ciphertext stays, unless it is of
    /// the first form, which is sealed anew.
    ///
    /// # Errors
    /// [`OpenError`], where it does not open here; [`OpenError::Corrupt`] too where the system gives no randomness.
    pub fn rewrap(&self, under: KeyId, purpose: Purpose<'_>, blob: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
        let (version, rest) = blob.split_first().ok_or(OpenError::Absent)?;
        if *version == FIRST {
            let plain = self.open(purpose, blob)?;
            return self.seal(under, purpose, &plain).map(Some).map_err(|_| OpenError::Corrupt);
        }
        let parts = Parts::read(rest).filter(|_| *version == VERSION).ok_or(OpenError::Corrupt)?;
        if parts.id == under {
            return Ok(None);
        }
        // A value that does not open must not look as if it had been seen to be whole.
        self.open(purpose, blob)?;
        let data_key = self.data_key(&parts, purpose)?;
        let key = self.keys.get(&under).ok_or(OpenError::KeyUnknown(under))?;
        let head = wrap(key, under, parts.context, &data_key).map_err(|_| OpenError::Corrupt)?;
        Ok(Some([head.as_slice(), parts.value].concat()))
    }
}

/// Seals a value under a key that need not be in a ring yet.
///
/// # Errors
/// When the system gives no randomness.
pub fn seal_under(key: &Key, purpose: Purpose<'_>, plain: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
    let context = purpose.context();
    let data_key = Zeroizing::new(random::<KEY_BYTES>()?);
    let nonce = random::<NONCE_BYTES>()?;
    let mut blob = wrap(key, KeyId::of(key), &context, &data_key)?;
    let sealed = encrypt(&data_key, &nonce, &value_data(&context), plain).ok_or(getrandom::Error::UNEXPECTED)?;
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(&sealed);
    Ok(blob)
}

/// Everything of a blob that stands before its value.
fn wrap(key: &Key, id: KeyId, context: &[u8; CONTEXT_BYTES], data_key: &Key) -> Result<Vec<u8>, getrandom::Error> {
    let nonce = random::<NONCE_BYTES>()?;
    let wrapped = encrypt(key, &nonce, &wrap_data(id, context), data_key.as_slice()).ok_or(getrandom::Error::UNEXPECTED)?;
    Ok([&[VERSION], id.0.as_slice(), context, &nonce, &wrapped].concat())
}

fn encrypt(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    XChaCha20Poly1305::new((&**key).into()).encrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
}

fn decrypt(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    XChaCha20Poly1305::new((&**key).into()).decrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> Key {
        let mut key = [seed; KEY_BYTES];
        key[0] = seed.wrapping_add(1);
        Zeroizing::new(key)
    }

    fn ring(seed: u8) -> KeyRing {
        KeyRing::new(vec![key(seed)]).unwrap()
    }

    const HERE: Purpose<'_> = Purpose { kind: "profile", owner: "acme-tg", field: "signing_secret" };

    /// As the first form was written.
    fn seal_first(key: &Key, purpose: Purpose<'_>, plain: &[u8]) -> Vec<u8> {
        let data = purpose.written(FIRST);
        let (data_key, wrap_nonce, nonce) = (self::key(77), random().unwrap(), random().unwrap());
        let wrapped = encrypt(key, &wrap_nonce, &data, data_key.as_slice()).unwrap();
        let sealed = encrypt(&data_key, &nonce, &data, plain).unwrap();
        [&[FIRST], KeyId::of(key).0.as_slice(), &wrap_nonce, &wrapped, &nonce, &sealed].concat()
    }

    #[test]
    fn a_sealed_value_opens_only_where_it_belongs() {
        let ring = ring(7);
        let blob = ring.seal(ring.current(), HERE, b"xoxb-canary").unwrap();
        assert_eq!(ring.open(HERE, &blob).unwrap().as_slice(), b"xoxb-canary");
        for elsewhere in [
            Purpose { owner: "globex-tg", ..HERE },
            Purpose { field: "verify_token", ..HERE },
            Purpose { kind: "installation", ..HERE },
            Purpose { kind: "profileacme", owner: "-tg", ..HERE },
        ] {
            assert_eq!(ring.open(elsewhere, &blob).unwrap_err(), OpenError::Context, "{elsewhere:?}");
            assert_eq!(ring.rewrap(ring.current(), elsewhere, &blob).unwrap(), None);
        }
        assert_eq!(self::ring(9).open(HERE, &blob).unwrap_err(), OpenError::KeyUnknown(ring.current()));
        assert_eq!(ring.open(HERE, b"").unwrap_err(), OpenError::Absent);
        assert!(!blob.windows(6).any(|w| w == b"canary"));
    }

    #[test]
    fn an_altered_key_id_is_damage_and_a_foreign_one_is_unknown() {
        let mut ring = ring(7);
        ring.add_master(key(8)).unwrap();
        let old = ring.masters()[0];
        let mut blob = ring.seal(old, HERE, b"xoxb-canary").unwrap();
        blob[1..9].copy_from_slice(&ring.current().0);
        assert_eq!(ring.open(HERE, &blob).unwrap_err(), OpenError::Corrupt, "another key of ours");
        blob[1] ^= 1;
        assert_eq!(ring.open(HERE, &blob).unwrap_err(), OpenError::Corrupt, "a key of nobody's");
    }

    #[test]
    fn another_key_takes_a_value_over_and_its_ciphertext_stays() {
        let mut ring = ring(7);
        let old = ring.current();
        let blob = ring.seal(old, HERE, b"xoxb-canary").unwrap();
        let new = ring.add_master(key(8)).unwrap();
        let moved = ring.rewrap(new, HERE, &blob).unwrap().unwrap();
        assert_eq!(moved[9 + CONTEXT_BYTES + NONCE_BYTES + WRAPPED_BYTES..], blob[9 + CONTEXT_BYTES + NONCE_BYTES + WRAPPED_BYTES..]);
        assert_eq!((KeyId::named_by(&blob), KeyId::named_by(&moved)), (Some(old), Some(new)));
        assert_eq!(ring.rewrap(new, HERE, &moved).unwrap(), None);
        ring.drop_master(old);
        assert_eq!(ring.open(HERE, &moved).unwrap().as_slice(), b"xoxb-canary");
        assert_eq!(ring.open(HERE, &blob).unwrap_err(), OpenError::KeyUnknown(old));
        ring.drop_master(new);
        assert_eq!(ring.current(), new, "the key that seals is not dropped");
    }

    #[test]
    fn the_first_form_is_read_and_written_anew() {
        let mut ring = ring(7);
        let blob = seal_first(&key(7), HERE, b"xoxb-canary");
        assert_eq!(ring.open(HERE, &blob).unwrap().as_slice(), b"xoxb-canary");
        assert_eq!(ring.open(Purpose { owner: "globex", ..HERE }, &blob).unwrap_err(), OpenError::Corrupt);
        let new = ring.add_master(key(8)).unwrap();
        let moved = ring.rewrap(new, HERE, &blob).unwrap().unwrap();
        assert_eq!((moved[0], ring.open(HERE, &moved).unwrap().as_slice()), (VERSION, b"xoxb-canary".as_slice()));
    }

    #[test]
    fn an_orgs_own_key_opens_its_values_and_nothing_else_does() {
        let mut ring = ring(7);
        ring.add_org("acme", key(30));
        assert_eq!((ring.key_for(Some("acme")), ring.key_for(Some("globex"))), (KeyId::of(&key(30)), ring.current()));
        let blob = ring.seal(ring.key_for(Some("acme")), HERE, b"xoxb-canary").unwrap();
        assert_eq!(ring.open(HERE, &blob).unwrap().as_slice(), b"xoxb-canary");
        ring.drop_org("acme");
        assert_eq!(ring.open(HERE, &blob).unwrap_err(), OpenError::KeyUnknown(KeyId::of(&key(30))));
    }

    #[test]
    fn a_key_of_one_byte_repeated_is_no_key() {
        assert!(KeyRing::new(vec![Zeroizing::new([0; KEY_BYTES])]).is_none());
        assert!(KeyRing::new(vec![]).is_none());
    }

    proptest! {
        #[test]
        fn one_flipped_bit_does_not_open(plain in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let ring = ring(3);
            let mut blob = ring.seal(ring.current(), HERE, &plain).unwrap();
            let opened = ring.open(HERE, &blob).unwrap();
            prop_assert_eq!(opened.as_slice(), plain.as_slice());
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
            prop_assert_eq!(ring.open(HERE, &blob).unwrap_err(), OpenError::Corrupt);
        }
    }
}
