//! `policies.lock`: what a set consists of. With it plain files become one bundle: a file that is cut short, half copied or
//! not there yet does not match, so nothing of it is taken. Read together with the files, never remembered from an earlier
//! read: a digest pinned at start would refuse every later set. Never judges what policies say. Floor 5.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use super::load::LOCK;
use super::load::{Beside, Diagnostic, Rule, Source, Sources, org_of};
use super::{SCHEMA, envelope};
use crate::crypto::sha256;

/// The manifest, as it is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The form of this file: 1.
    pub lock: u32,
    /// The set's version.
    pub version: String,
    /// How many policies there are.
    pub policies: usize,
    /// What proved the set; none where nothing did.
    pub proved: Option<String>,
    /// SHA-256 of the schema.
    pub schema: String,
    /// SHA-256 of the bounds that the binary brings.
    pub invariants: BTreeMap<String, String>,
    /// SHA-256 of every policy file.
    pub files: BTreeMap<String, String>,
    /// SHA-256 of every decision table.
    pub tables: BTreeMap<String, String>,
}

impl Lock {
    /// What there is to say of these sources.
    pub fn of(sources: &Sources, policies: usize, proved: Option<String>) -> Self {
        let file = |f: &Source| (f.path.clone(), digest(&f.text));
        let table = |f: &Beside| (f.path.clone(), digest(&f.text));
        Self {
            lock: 1,
            version: sources.version.to_string(),
            policies,
            proved,
            schema: digest(SCHEMA),
            invariants: [("envelope", envelope::ENVELOPE), ("floor", envelope::FLOOR)].map(|(n, text)| (n.into(), digest(text))).into(),
            files: sources.files.iter().map(file).collect(),
            tables: sources.tables.iter().map(table).collect(),
        }
    }

    /// The file's text.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn text(&self) -> Result<String, String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n").map_err(|e| e.to_string())
    }
}

/// Holds the sources to their lock: one fault for each file that is not what the lock says. Without a lock there is nothing to
/// hold them to, and one fault if there has to be one.
pub(super) fn faults(sources: &Sources, dir: &str, policies: Option<usize>, required: bool) -> Vec<Diagnostic> {
    let Some(lock) = &sources.lock else {
        let missing = Diagnostic::of_file(
            Rule::Lock,
            format!("{dir}/{LOCK}"),
            "policies.require_lock is set and there is no lock: write it with `byoa policy lock`",
        );
        return if required { vec![missing] } else { vec![] };
    };
    let written: Lock = match serde_json::from_str(&lock.text) {
        Ok(written) => written,
        Err(error) => {
            let fault =
                Diagnostic::of_file(Rule::Lock, &lock.file, format!("the lock does not read: {error}; write it with `byoa policy lock`"));
            return vec![Diagnostic { line: error.line().max(1), column: error.column().max(1), ..fault }];
        }
    };
    let fault = |message: String| Diagnostic::of_file(Rule::Lock, &lock.file, message);
    // A fault of one file is that file's org's.
    let of_file = |path: &str, message: String| {
        let known = sources.files.iter().find(|file| file.path == path).map_or(&lock.file, |file| &file.file);
        Diagnostic::of_file(Rule::Lock, known, message).of_orgs(org_of(path))
    };
    let found = Lock::of(sources, policies.unwrap_or(written.policies), written.proved.clone());
    let mut faults = Vec::new();
    if written.lock != found.lock {
        return vec![fault(format!("the lock is of form {}, this build reads {}", written.lock, found.lock))];
    }
    for (written, found) in [(&written.files, &found.files), (&written.tables, &found.tables)] {
        for (path, digest) in written {
            match found.get(path) {
                None => faults.push(of_file(path, format!("`{path}` is in the lock and not in the folder"))),
                Some(other) if other != digest => faults.push(of_file(path, format!("`{path}` is not the file that was locked"))),
                Some(_) => {}
            }
        }
        faults.extend(
            found.keys().filter(|path| !written.contains_key(*path)).map(|path| of_file(path, format!("`{path}` is not in the lock"))),
        );
    }
    if written.schema != found.schema || written.invariants != found.invariants {
        faults.push(fault("the lock was written by a build with another schema or other bounds; check the set and write it anew".into()));
    }
    if written.policies != found.policies {
        faults.push(fault(format!("the lock counts {} policies, there are {}", written.policies, found.policies)));
    }
    if faults.is_empty() && written.version != found.version {
        faults.push(fault("the lock's version is not that of the files it lists; write it anew".into()));
    }
    faults
}

fn digest(text: &str) -> String {
    hex::encode(sha256(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::read;
    use super::*;

    fn said(disk: &Disk, required: bool) -> String {
        let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        let faults = faults(&sources, "policies", None, required);
        faults.iter().map(|f| f.message.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn lock(disk: &Disk) {
        let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        disk.write(LOCK, &Lock::of(&sources, disk.load().unwrap().policies(), None).text().unwrap());
    }

    #[test]
    fn a_lock_holds_the_set_to_every_byte() {
        let disk = Disk::starter();
        disk.write("tables/a.yaml", "about: x\n");
        assert_eq!(said(&disk, false), "");
        assert_eq!(said(&disk, true), "policies.require_lock is set and there is no lock: write it with `byoa policy lock`");
        lock(&disk);
        assert_eq!(said(&disk, true), "");

        let routing = std::fs::read_to_string(disk.path().join("platform/10-routing.cedar")).unwrap();
        disk.write("platform/10-routing.cedar", routing.split_inclusive("};\n").next().unwrap());
        disk.write("tables/b.yaml", "about: x\n");
        std::fs::remove_file(disk.path().join("tables/a.yaml")).unwrap();
        insta::assert_snapshot!(said(&disk, false), @r"
        `platform/10-routing.cedar` is not the file that was locked
        `tables/a.yaml` is in the lock and not in the folder
        `tables/b.yaml` is not in the lock
        ");
    }

    #[test]
    fn a_lock_that_does_not_read_locks_nothing_in() {
        let disk = Disk::starter();
        disk.write(LOCK, "{\n");
        assert!(said(&disk, false).starts_with("the lock does not read: EOF"), "{}", said(&disk, false));
        lock(&disk);
        let text = std::fs::read_to_string(disk.path().join(LOCK)).unwrap();
        for (from, to, want) in [
            ("\"lock\": 1", "\"lock\": 2", "the lock is of form 2, this build reads 1"),
            ("\"version\": \"", "\"version\": \"0", "the lock's version is not that of the files it lists; write it anew"),
            (
                "\"envelope\": \"",
                "\"envelope\": \"0",
                "the lock was written by a build with another schema or other bounds; check the set and write it anew",
            ),
            (
                "\"schema\": \"",
                "\"schema\": \"0",
                "the lock was written by a build with another schema or other bounds; check the set and write it anew",
            ),
        ] {
            disk.write(LOCK, &text.replace(from, to));
            assert_eq!(said(&disk, false), want);
        }
        let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        disk.write(LOCK, &text);
        let counted = faults(&read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap(), "p", Some(1), false);
        assert!(counted.iter().any(|f| f.message.contains("there are 1")), "{counted:?}");
        assert!(sources.lock.is_some());
    }
}
