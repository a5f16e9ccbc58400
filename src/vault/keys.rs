//! Where key-encryption keys come from: a file that only its owner reads, or the environment.

use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use crate::crypto::envelope::KeyRing;
use crate::crypto::random;
use crate::domain::reason::{Failure, ReasonCode};

/// Loads the master keys: from `env` (`BYOA_MASTER_KEYS`) where it is set, else from the file, which is made on the first
/// start with mode 0600.
///
/// # Errors
/// `key.missing`, `key.weak`, `key.permissions`.
pub fn load(file: &Path, env: Option<&str>) -> Result<KeyRing, Failure> {
    if let Some(text) = env {
        return parse("BYOA_MASTER_KEYS", text);
    }
    if !file.exists() {
        let key = random::<32>().map_err(|e| Failure::new(ReasonCode::KeyMissing, e))?;
        write_private(file, &format!("{}\n", hex::encode(key))).map_err(|e| missing(file, &e))?;
    }
    private(file)?;
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(|e| missing(file, &e))?);
    parse(&file.display().to_string(), &text)
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

/// Writes a file that only its owner can read. It must not be there yet.
///
/// # Errors
/// What the file system says.
pub fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = file.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let mut out = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()
}

fn parse(origin: &str, text: &str) -> Result<KeyRing, Failure> {
    let weak = |why: &str| Failure::new(ReasonCode::KeyWeak, format!("{origin}: {why}; a master key is 64 hex digits, from a generator"));
    let mut keys = Vec::new();
    for word in text.split([',', '\n', ' ']).map(str::trim).filter(|w| !w.is_empty() && !w.starts_with('#')) {
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
        let first = load(&file, None).unwrap().current_id();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(&file, None).unwrap().current_id(), first);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(load(&file, None).unwrap_err().code, ReasonCode::KeyPermissions);
    }

    #[test]
    fn weak_and_missing_keys_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k");
        for (text, code) in [("", ReasonCode::KeyMissing), ("abc", ReasonCode::KeyWeak), (&"00".repeat(32), ReasonCode::KeyWeak)] {
            assert_eq!(load(&file, Some(text)).unwrap_err().code, code, "{text}");
        }
        write_private(&file, "short\n").unwrap();
        assert_eq!(load(&file, None).unwrap_err().code, ReasonCode::KeyWeak);
    }
}
