//! Which build this is. Part of `app`, floor 9.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::crypto;

/// Digits of the executable's digest that are kept.
const DIGEST_DIGITS: usize = 12;

/// The version, and what tells this executable from others of that version; none where it cannot be read. Reads it at the
/// first call, so not for where nothing may wait.
pub(super) fn build() -> Option<Arc<str>> {
    static BUILD: OnceLock<Option<Arc<str>>> = OnceLock::new();
    // The link leads to what runs, whatever lies under the name by now.
    BUILD.get_or_init(|| of(Path::new("/proc/self/exe"))).clone()
}

fn of(executable: &Path) -> Option<Arc<str>> {
    let digest = File::open(executable).and_then(crypto::sha256_of);
    if let Err(error) = &digest {
        tracing::warn!(error = %error, file = %executable.display(), "this build cannot be told from others, so no matrix run is evidence");
    }
    let digits: String = hex::encode(digest.ok()?).chars().take(DIGEST_DIGITS).collect();
    Some(format!("{}+{digits}", env!("CARGO_PKG_VERSION")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_told_by_its_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        std::fs::write(&one, "abc").unwrap();
        std::fs::write(&other, "abd").unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(of(&one).as_deref(), Some(&*format!("{version}+ba7816bf8f01")));
        assert_eq!(of(&other).as_deref(), Some(&*format!("{version}+a52d159f262b")));
        assert_eq!(of(&folder.path().join("none")), None);
    }
}
