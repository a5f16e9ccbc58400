//! Sealing: each value under its own data key, each data key under a key-encryption key.
//!
//! A sealed blob is `version 1 | key id | wrapped data key | nonce | ciphertext`, XChaCha20-Poly1305 both times
//! (192-bit nonces are safe to draw at random, [RFC draft](https://datatracker.ietf.org/doc/html/draft-irtf-cfrg-xchacha)).
//! What the value is for is authenticated with it, built from the row that is read and never from the blob, so a blob
//! copied to another row or tenant does not open.

use std::collections::BTreeMap;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::{MacKey, random, sha256};

const VERSION: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
const ID_BYTES: usize = 8;
const WRAPPED_BYTES: usize = NONCE_BYTES + KEY_BYTES + TAG_BYTES;

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
    fn associated_data(&self) -> Vec<u8> {
        let mut data = vec![VERSION];
        for part in [self.kind, self.owner, self.field] {
            data.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            data.extend_from_slice(part.as_bytes());
        }
        data
    }
}

/// Why a sealed value did not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not of the sealed form.
    #[error("sealed value is damaged")]
    Damaged,
    /// Sealed under a key that is not loaded.
    #[error("sealed value names a key that is not loaded")]
    KeyUnknown,
    /// Altered, or sealed for another row.
    #[error("sealed value does not belong here or was altered")]
    Forged,
}

/// One key-encryption key.
struct Kek {
    key: Zeroizing<[u8; KEY_BYTES]>,
}

/// The key-encryption keys that are loaded: one seals, all open.
pub struct KeyRing {
    keys: BTreeMap<[u8; ID_BYTES], Kek>,
    current: [u8; ID_BYTES],
    pepper: MacKey,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyRing({} keys, current {})", self.keys.len(), hex::encode(self.current))
    }
}

impl KeyRing {
    /// Takes the keys; the last one seals. `None` when there is none, or one is all the same byte.
    pub fn new(keys: Vec<Zeroizing<[u8; KEY_BYTES]>>) -> Option<Self> {
        let first = keys.first()?;
        // Fingerprints outlive key rotation, so the pepper hangs on the first key, which is kept while a row names it.
        let pepper = MacKey::new(&MacKey::new(first.as_slice())?.sign(&[b"byoa pepper v1"]))?;
        let mut ring = Self { keys: BTreeMap::new(), current: [0; ID_BYTES], pepper };
        for key in keys {
            let head = key.first().copied();
            if key.iter().all(|b| Some(*b) == head) {
                return None;
            }
            ring.current = key_id(&key);
            ring.keys.insert(ring.current, Kek { key });
        }
        Some(ring)
    }

    /// How many keys are loaded.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether none is; cannot happen to a ring that was made.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The sealing key's public name.
    pub fn current_id(&self) -> String {
        hex::encode(self.current)
    }

    /// A keyed digest: the same text gives the same digest here and tells nothing anywhere else.
    pub fn fingerprint(&self, text: &str) -> [u8; 32] {
        self.pepper.sign(&[text.as_bytes()])
    }

    /// The key of another purpose than fingerprints. It begins with a byte that no text has, so no text's fingerprint is ever
    /// such a key.
    pub fn derived(&self, purpose: &str) -> Option<MacKey> {
        MacKey::new(&self.pepper.sign(&[&[0xff], purpose.as_bytes()]))
    }

    /// Seals a value.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn seal(&self, purpose: Purpose<'_>, plain: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let aad = purpose.associated_data();
        let data_key = Zeroizing::new(random::<KEY_BYTES>()?);
        let (wrap_nonce, nonce) = (random::<NONCE_BYTES>()?, random::<NONCE_BYTES>()?);
        let Some(kek) = self.keys.get(&self.current) else { return Err(getrandom::Error::UNEXPECTED) };
        let wrapped = encrypt(&kek.key, &wrap_nonce, &aad, data_key.as_slice());
        let sealed = encrypt(&data_key, &nonce, &aad, plain);
        let (Some(wrapped), Some(sealed)) = (wrapped, sealed) else { return Err(getrandom::Error::UNEXPECTED) };
        let mut blob = Vec::with_capacity(1 + ID_BYTES + WRAPPED_BYTES + NONCE_BYTES + sealed.len());
        blob.push(VERSION);
        blob.extend_from_slice(&self.current);
        blob.extend_from_slice(&wrap_nonce);
        blob.extend_from_slice(&wrapped);
        blob.extend_from_slice(&nonce);
        blob.extend_from_slice(&sealed);
        Ok(blob)
    }

    /// Opens a value that was sealed for this purpose.
    ///
    /// # Errors
    /// [`OpenError`]; which one says what an operator should look at, never what the value was.
    pub fn open(&self, purpose: Purpose<'_>, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (version, rest) = blob.split_first().ok_or(OpenError::Damaged)?;
        if *version != VERSION {
            return Err(OpenError::Damaged);
        }
        let (id, rest) = rest.split_first_chunk::<ID_BYTES>().ok_or(OpenError::Damaged)?;
        let (wrap_nonce, rest) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Damaged)?;
        let (wrapped, rest) = rest.split_first_chunk::<{ KEY_BYTES + TAG_BYTES }>().ok_or(OpenError::Damaged)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError::Damaged)?;
        let kek = self.keys.get(id).ok_or(OpenError::KeyUnknown)?;
        let aad = purpose.associated_data();
        let data_key = Zeroizing::new(decrypt(&kek.key, wrap_nonce, &aad, wrapped).ok_or(OpenError::Forged)?);
        let data_key: &[u8; KEY_BYTES] = data_key.as_slice().try_into().map_err(|_| OpenError::Damaged)?;
        decrypt(data_key, nonce, &aad, sealed).map(Zeroizing::new).ok_or(OpenError::Forged)
    }
}

fn key_id(key: &[u8; KEY_BYTES]) -> [u8; ID_BYTES] {
    let digest = sha256(key);
    let digest = sha256(&digest);
    let mut id = [0; ID_BYTES];
    for (to, from) in id.iter_mut().zip(digest) {
        *to = from;
    }
    id
}

fn encrypt(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    XChaCha20Poly1305::new(key.into()).encrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
}

fn decrypt(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], aad: &[u8], msg: &[u8]) -> Option<Vec<u8>> {
    XChaCha20Poly1305::new(key.into()).decrypt(&XNonce::from(*nonce), Payload { msg, aad }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring(seed: u8) -> KeyRing {
        let mut key = [seed; KEY_BYTES];
        key[0] = seed.wrapping_add(1);
        KeyRing::new(vec![Zeroizing::new(key)]).unwrap()
    }

    const HERE: Purpose<'_> = Purpose { kind: "profile", owner: "acme-tg", field: "signing_secret" };

    #[test]
    fn a_sealed_value_opens_only_where_it_belongs() {
        let ring = ring(7);
        let blob = ring.seal(HERE, b"xoxb-canary").unwrap();
        assert_eq!(ring.open(HERE, &blob).unwrap().as_slice(), b"xoxb-canary");
        for elsewhere in [
            Purpose { owner: "globex-tg", ..HERE },
            Purpose { field: "verify_token", ..HERE },
            Purpose { kind: "installation", ..HERE },
            Purpose { kind: "profileacme", owner: "-tg", ..HERE },
        ] {
            assert_eq!(ring.open(elsewhere, &blob).unwrap_err(), OpenError::Forged, "{elsewhere:?}");
        }
        assert_eq!(self::ring(9).open(HERE, &blob).unwrap_err(), OpenError::KeyUnknown);
        assert_eq!(ring.open(HERE, b"").unwrap_err(), OpenError::Damaged);
        assert!(!blob.windows(6).any(|w| w == b"canary"));
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
            let mut blob = ring.seal(HERE, &plain).unwrap();
            let opened = ring.open(HERE, &blob).unwrap();
            prop_assert_eq!(opened.as_slice(), plain.as_slice());
            let at = at.index(blob.len());
            blob[at] ^= 1 << bit;
            prop_assert!(ring.open(HERE, &blob).is_err());
        }
    }
}
