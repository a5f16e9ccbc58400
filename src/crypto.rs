//! Keys, digests and comparisons that take the same time whatever they compare. Floor 1.

pub mod content;
pub mod envelope;

use std::io;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::guard::{Guard, stands};

/// An HMAC-SHA256 key with its state computed once ([RFC 2104](https://www.rfc-editor.org/rfc/rfc2104)).
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

impl MacKey {
    /// Keys the MAC; `None` for an empty key, which would verify what anybody can sign.
    pub fn new(key: &[u8]) -> Option<Self> {
        if key.is_empty() {
            return None;
        }
        Hmac::<Sha256>::new_from_slice(key).ok().map(Self)
    }

    /// The MAC over the parts, one after the other.
    pub fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `digest` is the MAC over the parts; takes the same time for every wrong digest.
    pub fn verify(&self, parts: &[&[u8]], digest: &[u8; 32]) -> bool {
        same(&self.sign(parts), digest)
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// SHA-256 of everything that a reader gives.
///
/// # Errors
/// The reader's.
pub fn sha256_of(mut reader: impl io::Read) -> io::Result<[u8; 32]> {
    let mut digest = Sha256::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(read) => digest.update(piece.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Compares digests of fixed length in constant time.
pub fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.ct_eq(b).into()
}

/// Compares texts of any length by their digests, so that neither length nor common prefix shows.
pub fn same_text(a: &[u8], b: &[u8]) -> bool {
    same(&sha256(a), &sha256(b))
}

/// Fills an array from the system's generator.
///
/// # Errors
/// When the system has none.
pub fn random<const N: usize>() -> Result<[u8; N], getrandom::Error> {
    let mut bytes = [0u8; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// Reads exactly 64 lower-case hex digits.
pub fn digest_from_hex(text: &[u8]) -> Option<[u8; 32]> {
    if text.len() != 64 && stands(Guard::DigestLength) {
        return None;
    }
    if text.iter().any(u8::is_ascii_uppercase) && stands(Guard::DigestCase) {
        return None;
    }
    let mut digest = [0u8; 32];
    hex::decode_to_slice(text.get(..64)?, &mut digest).ok()?;
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_key_is_no_key() {
        assert!(MacKey::new(b"").is_none());
    }

    #[test]
    fn rfc_4231_case_2() {
        let key = MacKey::new(b"Jefe").unwrap();
        let want = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex::encode(key.sign(&[b"what do ya want ", b"for nothing?"])), want);
        assert!(key.verify(&[b"what do ya want for nothing?"], &digest_from_hex(want.as_bytes()).unwrap()));
        assert!(!key.verify(&[b"what do ya want for nothing!"], &digest_from_hex(want.as_bytes()).unwrap()));
    }

    #[test]
    fn digests_are_64_lower_case_digits() {
        assert!(digest_from_hex("A".repeat(64).as_bytes()).is_none());
        assert!(digest_from_hex("a".repeat(63).as_bytes()).is_none());
        assert!(digest_from_hex("g".repeat(64).as_bytes()).is_none());
        assert!(digest_from_hex("a".repeat(64).as_bytes()).is_some());
    }
}
