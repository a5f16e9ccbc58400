//! The sealing of content: what people said and wrote, and who they are. Each org's content is sealed under keys that are made
//! of the org's own key, so destroying that key destroys the content, wherever copies of the rows lie. Floor 1.
//!
//! A sealed value is `version 1 | nonce | ciphertext`, XChaCha20-Poly1305 with a nonce drawn at random for each value. The
//! value's place is authenticated with it, so a value that was copied to another row does not open. There is no data key for
//! each value, unlike [`super::envelope`]: an event is sealed on the way to its ack.
//!
//! Values that rows are looked up by are replaced by keyed digests, of another key of the same org.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use super::MacKey;
use super::envelope::Key;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;

/// Bytes that sealing adds to a value.
pub const SEALED_BYTES: usize = 1 + NONCE_BYTES + TAG_BYTES;

/// Bytes of a digest that are kept: 128 bits, so that two texts never share one.
const DIGEST_BYTES: usize = 16;

/// The keys for one org's content, or for the content of requests that belong to no org.
pub struct ContentKey {
    cipher: XChaCha20Poly1305,
    lookup: MacKey,
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl ContentKey {
    /// Derives both keys. `None` when the key is none that a MAC can be made with.
    pub fn derive(key: &Key) -> Option<Self> {
        let root = MacKey::new(key.as_slice())?;
        let cipher = zeroize::Zeroizing::new(root.sign(&[b"byoa content v1"]));
        let lookup = zeroize::Zeroizing::new(root.sign(&[b"byoa lookup v1"]));
        Some(Self { cipher: XChaCha20Poly1305::new(cipher.as_slice().try_into().ok()?), lookup: MacKey::new(lookup.as_slice())? })
    }

    /// Seals a value for the row `id` of a table; `None` for a value of 256 GiB or more.
    pub fn seal(&self, table: &str, id: &str, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0u8; NONCE_BYTES];
        rand::fill(&mut nonce);
        let place = place(table, id);
        let mut sealed = Vec::with_capacity(plain.len() + SEALED_BYTES);
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        let ciphertext = self.cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &place }).ok()?;
        sealed.extend_from_slice(&ciphertext);
        Some(sealed)
    }

    /// Opens a value that was sealed for this row; `None` when it was not, or was altered.
    pub fn open(&self, table: &str, id: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = sealed.split_first()?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>()?;
        if *version != VERSION {
            return None;
        }
        self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: &place(table, id) }).ok()
    }

    /// The keyed digest of a text for one column, in hex: equal texts of one org have equal digests.
    pub fn digest(&self, column: &str, text: &str) -> String {
        let mac = self.lookup.sign(&[column.as_bytes(), b"\0", text.as_bytes()]);
        hex::encode(mac.get(..DIGEST_BYTES).unwrap_or_default())
    }
}

fn place(table: &str, id: &str) -> Vec<u8> {
    [table.as_bytes(), b"\0", id.as_bytes()].concat()
}

/// The content keys that are loaded, by org. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct ContentKeys(Arc<RwLock<Loaded>>);

#[derive(Debug, Default)]
struct Loaded {
    orgs: HashMap<String, Arc<ContentKey>>,
    platform: Option<Arc<ContentKey>>,
}

impl ContentKeys {
    /// Loads the key of an org, or the one for content of no org.
    pub fn add(&self, org: Option<&str>, key: &Key) {
        let Some(key) = ContentKey::derive(key).map(Arc::new) else { return };
        let mut loaded = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match org {
            Some(org) => {
                loaded.orgs.insert(org.to_owned(), key);
            }
            None => loaded.platform = Some(key),
        }
    }

    /// Forgets an org's key: its content does not open any more.
    pub fn drop_org(&self, org: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).orgs.remove(org);
    }

    /// The key of an org, or the one for content of no org; `None` when it is not loaded or was destroyed.
    pub fn of(&self, org: Option<&str>) -> Option<Arc<ContentKey>> {
        let loaded = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match org {
            Some(org) => loaded.orgs.get(org).cloned(),
            None => loaded.platform.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(seed: u8) -> ContentKey {
        ContentKey::derive(&Key::new([seed; 32])).unwrap()
    }

    #[test]
    fn a_value_opens_in_its_own_row_under_its_own_key_alone() {
        let (ours, theirs) = (key(1), key(2));
        let sealed = ours.seal("events", "evt_1", b"hello").unwrap();
        assert_eq!(sealed.len(), 5 + SEALED_BYTES);
        assert_eq!(ours.open("events", "evt_1", &sealed).as_deref(), Some(b"hello".as_slice()));
        assert_eq!(ours.open("events", "evt_2", &sealed), None);
        assert_eq!(ours.open("sends", "evt_1", &sealed), None);
        assert_eq!(theirs.open("events", "evt_1", &sealed), None);
        assert_ne!(ours.seal("events", "evt_1", b"hello").unwrap(), sealed, "each value has a nonce of its own");
    }

    #[test]
    fn digests_are_of_one_org_and_one_column() {
        let (ours, theirs) = (key(1), key(2));
        assert_eq!(ours.digest("peer", "U1"), ours.digest("peer", "U1"));
        let all = [ours.digest("peer", "U1"), ours.digest("peer", "U2"), ours.digest("key", "U1"), theirs.digest("peer", "U1")];
        let different: std::collections::HashSet<&String> = all.iter().collect();
        assert_eq!((different.len(), all.iter().all(|d| d.len() == 32)), (4, true));
    }

    #[test]
    fn a_forgotten_key_is_gone_for_every_clone() {
        let keys = ContentKeys::default();
        assert!(keys.of(Some("acme")).is_none() && keys.of(None).is_none());
        keys.add(Some("acme"), &Key::new([1; 32]));
        keys.add(None, &Key::new([2; 32]));
        let clone = keys.clone();
        clone.drop_org("acme");
        assert!(keys.of(Some("acme")).is_none() && keys.of(None).is_some());
    }

    proptest! {
        #[test]
        fn one_flipped_bit_does_not_open(plain in proptest::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let key = key(3);
            let mut sealed = key.seal("t", "1", &plain).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(key.open("t", "1", &sealed), None);
        }
    }
}
