//! The last accepted sets, each in one file under its version, so that going back needs no other system. Written by the
//! gateway when it accepts a set, read by `byoa policy rollback`, which puts the files back where the gateway reads them: the
//! folder stays the one truth. Never decides anything. Floor 5.

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::{Folder, writable};
use super::load::{House, LOCK, Sources, ours};
use super::orgs::LastFiles;
use crate::domain::clock::Timestamp;
use crate::domain::ids::OrgId;

/// One file of a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Kept {
    path: String,
    text: String,
}

/// One accepted set, whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// Its version.
    pub version: String,
    /// When the gateway accepted it last.
    pub accepted_at: Timestamp,
    /// How many policies it has.
    pub policies: usize,
    /// Orgs whose files were rejected when it was accepted, and of which no accepted ones were known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    orgs_without: Vec<OrgId>,
    files: Vec<Kept>,
}

/// The folder of accepted sets.
#[derive(Clone, Debug)]
pub struct History {
    dir: PathBuf,
    most: usize,
}

impl History {
    /// In this folder, at most so many.
    pub fn new(dir: &Path, most: usize) -> Self {
        Self { dir: dir.to_owned(), most }
    }

    /// Keeps a set; the oldest beyond the limit goes.
    pub(super) fn keep(&self, sources: &Sources, policies: usize, orgs_without: Vec<OrgId>, now: Timestamp) -> io::Result<()> {
        let policy_files = sources.files.iter().filter(|f| f.house != House::Gateway).map(|f| (&f.path, &f.text));
        let beside = sources.tables.iter().chain(&sources.lock).map(|f| (&f.path, &f.text));
        let files = policy_files.chain(beside).map(|(path, text)| Kept { path: path.clone(), text: text.clone() }).collect();
        let set = Accepted { version: sources.version.to_string(), accepted_at: now, policies, orgs_without, files };
        // The folder may be made beside the store, whose own folder is private.
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        replace(&self.dir.join(format!("{}.json", set.version)), serde_json::to_string(&set)?.as_bytes())?;
        for old in self.list()?.into_iter().skip(self.most) {
            fs::remove_file(self.dir.join(format!("{}.json", old.version)))?;
        }
        Ok(())
    }

    /// The orgs' files of the set that was accepted last; not known where none is kept, or they cannot be read.
    pub fn last_files(&self, policies_dir: &Path) -> LastFiles {
        let sets = self.list().unwrap_or_else(|error| {
            // The first start finds no folder.
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(%error, folder = %self.dir.display(), "the accepted policies cannot be read");
            }
            vec![]
        });
        sets.into_iter().next().map_or_else(LastFiles::default, |set| {
            let files = set.files.iter().map(|file| (file.path.as_str(), file.text.as_str()));
            LastFiles::new(&policies_dir.display().to_string(), files, set.orgs_without.iter().cloned())
        })
    }

    /// Every kept set, the latest first.
    ///
    /// # Errors
    /// When the folder cannot be read; a file in it that is no set is passed over.
    pub fn list(&self) -> io::Result<Vec<Accepted>> {
        let mut sets: Vec<Accepted> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "json") {
                sets.extend(fs::read_to_string(&path).ok().and_then(|text| serde_json::from_str(&text).ok()));
            }
        }
        sets.sort_by(|a: &Accepted, b: &Accepted| (b.accepted_at, &b.version).cmp(&(a.accepted_at, &a.version)));
        Ok(sets)
    }
}

impl Accepted {
    /// Makes `dir` hold these files and no other policy, table or lock: each is replaced whole, the lock last, and what the
    /// set does not have is removed. Gives what was written and what was removed.
    ///
    /// # Errors
    /// At the first file that cannot be written or removed; the gateway goes on deciding by what it has until the folder makes
    /// sense again.
    pub fn restore(&self, dir: &Path) -> io::Result<(usize, usize)> {
        fs::create_dir_all(dir)?;
        // Before anything is written.
        for file in &self.files {
            writable(dir, &file.path)?;
        }
        let mut files: Vec<&Kept> = self.files.iter().collect();
        files.sort_by_key(|f| f.path == LOCK);
        let mut written = 0;
        for file in files {
            let path = writable(dir, &file.path)?;
            if fs::read_to_string(&path).is_ok_and(|text| text == file.text) {
                continue;
            }
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            replace(&path, file.text.as_bytes())?;
            written += 1;
        }
        let mut removed = 0;
        let folder = Folder::open(dir)?;
        for path in ours(dir)?.iter().filter(|path| !self.files.iter().any(|f| f.path == **path)) {
            folder.remove(path)?;
            removed += 1;
        }
        Ok((written, removed))
    }
}

/// Puts a file in place whole: whoever reads sees the old one or the new one. A link stays a link, and the file keeps its
/// permissions.
///
/// # Errors
/// When the folder cannot be written to; the old file stays.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The name is one that readers of the folder pass over.
    let mut file = tempfile::Builder::new().prefix(".").suffix(".tmp").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    match fs::metadata(&path) {
        Ok(old) => file.as_file().set_permissions(old.permissions())?,
        Err(_) => readable(file.as_file())?,
    }
    file.persist(&path).map_err(|e| e.error)?;
    Ok(())
}

/// A temporary file is its owner's alone; a policy is for whoever runs the gateway.
#[cfg(unix)]
fn readable(file: &fs::File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &fs::File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::read;
    use super::*;

    #[test]
    fn a_kept_set_comes_back_byte_for_byte() {
        let (disk, kept) = (Disk::starter(), tempfile::tempdir().unwrap());
        disk.write("tables/a.yaml", "about: x\n");
        let history = History::new(&kept.path().join("history"), 2);
        let sources = || read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        let at = Timestamp::from_secs;
        let first = sources();
        history.keep(&first, 36, vec![], at(1)).unwrap();

        let more = "@id(\"org.acme.more\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal in Byoa::Org::\"acme\", action, resource);\n";
        disk.write("orgs/acme/more.cedar", more);
        disk.write("platform/10-routing.cedar", &more.replace("org.acme.more", "other"));
        disk.write(LOCK, "{}");
        history.keep(&sources(), 1, vec![], at(2)).unwrap();
        let sets = history.list().unwrap();
        assert_eq!(sets.iter().map(|s| (s.accepted_at, s.policies)).collect::<Vec<_>>(), [(at(2), 1), (at(1), 36)]);

        // Also from a folder that does not load.
        disk.write("orgs/Not An Org/x.cedar", "permit(");
        let (written, removed) = sets[1].restore(disk.path()).unwrap();
        assert_eq!((written, removed), (1, 3));
        assert_eq!(sources().digest, first.digest);
        assert_eq!(sets[1].restore(disk.path()).unwrap(), (0, 0));

        let mut foreign = sets[1].clone();
        foreign.files[0].path = "../outside.cedar".into();
        assert!(foreign.restore(disk.path()).is_err());

        // The third pushes the oldest out; the same set again only moves up.
        disk.write("orgs/acme/more.cedar", &more.replace("acme.more", "acme.third"));
        history.keep(&sources(), 37, vec![], at(3)).unwrap();
        history.keep(&sources(), 37, vec![], at(4)).unwrap();
        fs::write(kept.path().join("history/x.json"), "no set").unwrap();
        assert_eq!(history.list().unwrap().iter().map(|s| s.accepted_at).collect::<Vec<_>>(), [at(4), at(2)]);
    }
}
