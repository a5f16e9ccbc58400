//! The law's bytes: which files count, how large they may be, what their version is, and how a fault in them is shown.
//! Reads each file once; everything later works on these bytes. Never judges what a policy says. Floor 5.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::SCHEMA;
pub use super::fault::{Diagnostic, LoadError, Rule};
use super::folder::{Entry, Folder, NOT_REGULAR};
use super::limits::Bounds;
use crate::config::PolicyTextLimits;
use crate::crypto::sha256;
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// A file that is no policy.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;
const ALL_BYTES_MAX: usize = 64 * 1024 * 1024;
const FILES_MAX: usize = 20_000;
/// One org's folder, so that no org uses up what all have together.
const ORG_FILES_MAX: usize = 1_000;
const ORG_BYTES_MAX: usize = 1024 * 1024;
const ORG_ENTRIES_MAX: usize = 10_000;
// A symbolic link may lead back up.
const DEPTH_MAX: usize = 16;

/// Whose law a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum House {
    /// The platform's: it may say anything.
    Platform,
    /// One org's: it may only narrow what that org does.
    Org(OrgId),
    /// The gateway's own, in place of an org's files that are not known.
    Gateway,
}

impl House {
    /// The limits of its texts.
    pub(super) fn bounds(&self, platform: &PolicyTextLimits) -> Bounds {
        match self {
            Self::Platform | Self::Gateway => Bounds::platform(*platform),
            Self::Org(_) => Bounds::ORG,
        }
    }

    /// The org, where it is one's.
    pub(super) fn org(&self) -> Option<&OrgId> {
        if let Self::Org(org) = self { Some(org) } else { None }
    }
}

/// One policy file, read.
#[derive(Clone)]
pub(super) struct Source {
    /// As people find it.
    pub file: String,
    /// Relative to the policy directory, with `/`.
    pub path: String,
    pub house: House,
    pub text: String,
}

/// A file beside the policies, read: a decision table or the lock.
#[derive(Clone)]
pub(super) struct Beside {
    /// As people find it.
    pub file: String,
    /// Relative to the policy directory, with `/`.
    pub path: String,
    pub text: String,
}

/// Everything that one snapshot is made of and held to.
#[derive(Clone)]
pub struct Sources {
    pub(super) files: Vec<Source>,
    pub(super) tables: Vec<Beside>,
    pub(super) lock: Option<Beside>,
    /// Of the policies alone: what decides.
    pub(super) version: Arc<str>,
    /// Of everything that was read: what is compared to see whether anything changed.
    pub(super) digest: [u8; 32],
    /// What is wrong with orgs' files that could not be taken; each fault names its org.
    pub(super) faults: Vec<Diagnostic>,
    /// The folder, as people find it.
    pub(super) dir: String,
    /// The limits that the platform's files were read with.
    pub(super) platform: PolicyTextLimits,
}

impl Sources {
    /// The sources of these policy files, each with its path below the policy folder, as if they had been read there.
    ///
    /// # Errors
    /// [`LoadError`] with every file that cannot be taken.
    pub fn of_policies<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>, platform: &PolicyTextLimits) -> Result<Self, LoadError> {
        let (mut found, mut faults) = (Found::default(), Vec::new());
        for (path, text) in files {
            match house(path) {
                Err(message) => faults.push(Diagnostic::of_file(Rule::File, path, message)),
                Ok(house) if text.len() > house.bounds(platform).limits.file_bytes => {
                    faults.push(Diagnostic::of_file(Rule::Limit, path, house.bounds(platform).too_large()));
                }
                Ok(house) => found.files.push(Source { file: path.to_owned(), path: path.to_owned(), house, text: text.to_owned() }),
            }
        }
        if faults.is_empty() { Ok(found.sources(platform)) } else { Err(LoadError::new(ReasonCode::PolicyInvalid, faults)) }
    }

    /// The set's version, before any of its policies ends.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }

    /// SHA-256 of everything that was read, tables and lock too.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// How large the policies are together.
    pub(super) fn bytes(&self) -> usize {
        self.files.iter().map(|f| f.text.len()).sum()
    }

    /// The same as if there were no lock: what a new one is made of.
    pub fn without_lock(mut self) -> Self {
        self.lock = None;
        self
    }

    /// True where there is a folder of this org with anything in it.
    pub(super) fn has_folder(&self, org: &OrgId) -> bool {
        self.files.iter().any(|file| file.house.org() == Some(org)) || self.faults.iter().any(|fault| fault.orgs.contains(org))
    }

    /// The same tables and lock with other policy files.
    pub(super) fn with_files(&self, files: Vec<Source>) -> Self {
        let (tables, lock, platform) = (self.tables.clone(), self.lock.clone(), self.platform);
        let mut found = Found { files, tables, lock, platform, ..Found::default() };
        found.sort();
        Self { dir: self.dir.clone(), ..found.sources(&platform) }
    }

    /// The sources, where every org's files could be taken.
    ///
    /// # Errors
    /// [`LoadError`] with every org's file that cannot.
    fn whole(self) -> Result<Self, LoadError> {
        if self.faults.is_empty() { Ok(self) } else { Err(LoadError::new(ReasonCode::PolicyInvalid, self.faults)) }
    }

    /// How many policy files there are.
    pub fn policy_files(&self) -> usize {
        self.files.len()
    }
}

/// The manifest's name, in the policy directory.
pub const LOCK: &str = "policies.lock";

/// Reads the policy files, the tables and the lock, and holds the schema file to the compiled-in one.
///
/// # Errors
/// [`LoadError`] with every file that cannot be taken: `policy.missing` where there is no policy file at all.
pub fn read(policies_dir: &Path, schema_file: &Path, platform: &PolicyTextLimits) -> Result<Sources, LoadError> {
    read_by_org(policies_dir, schema_file, platform)?.whole()
}

/// The same, where what is wrong with orgs' files is kept beside what could be read.
///
/// # Errors
/// [`LoadError`] with every file that cannot be taken, where one of them is the platform's.
pub(super) fn read_by_org(policies_dir: &Path, schema_file: &Path, platform: &PolicyTextLimits) -> Result<Sources, LoadError> {
    let mut faults = Vec::new();
    if let Err(message) = read_text(schema_file, FILE_BYTES_MAX).map_err(|unfit| unfit.to_string()).and_then(|text| same_schema(&text)) {
        faults.push(Diagnostic::of_file(Rule::Schema, schema_file.display(), message));
    }
    Ok(found(policies_dir, platform, faults)?.sources(platform))
}

/// The policy files alone.
pub(super) fn policy_files(policies_dir: &Path, platform: &PolicyTextLimits) -> Result<Vec<Source>, LoadError> {
    Ok(found(policies_dir, platform, vec![])?.sources(platform).whole()?.files)
}

/// Everything in the folder, sorted by path; the faults known so far are added to.
fn found(policies_dir: &Path, platform: &PolicyTextLimits, mut faults: Vec<Diagnostic>) -> Result<Found, LoadError> {
    let mut found = Found { platform: *platform, ..Found::default() };
    let walked = match Folder::open(policies_dir) {
        Ok(folder) => walk(policies_dir, &folder, DEPTH_MAX, &mut found, &mut faults),
        Err(error) => Err(Box::new(Diagnostic::of_file(Rule::File, policies_dir.display(), format!("cannot be read: {error}")))),
    };
    faults.extend(walked.err().map(|fault| *fault));
    if found.files.is_empty() && faults.iter().all(|fault| !fault.orgs.is_empty()) {
        let missing = Diagnostic::of_file(Rule::File, policies_dir.display(), "there is no policy file (*.cedar) here");
        faults.push(missing);
        return Err(LoadError::new(ReasonCode::PolicyMissing, faults));
    }
    if faults.iter().any(|fault| fault.orgs.is_empty()) {
        let code = if policies_dir.is_dir() { ReasonCode::PolicyInvalid } else { ReasonCode::PolicyMissing };
        return Err(LoadError::new(code, faults));
    }
    found.sort();
    (found.faults, found.dir) = (faults, policies_dir.display().to_string());
    Ok(found)
}

#[derive(Default)]
struct Found {
    files: Vec<Source>,
    tables: Vec<Beside>,
    lock: Option<Beside>,
    bytes: usize,
    platform: PolicyTextLimits,
    faults: Vec<Diagnostic>,
    dir: String,
    of_orgs: HashMap<OrgId, OfOrg>,
}

/// What one org's folder holds so far.
#[derive(Default)]
struct OfOrg {
    entries: usize,
    files: usize,
    bytes: usize,
}

impl OfOrg {
    /// Which limit it is beyond, one sentence.
    fn excess(&self) -> Option<String> {
        if self.entries > ORG_ENTRIES_MAX {
            return Some(format!("an org's folder holds more than {ORG_ENTRIES_MAX} names"));
        }
        if self.files > ORG_FILES_MAX {
            return Some(format!("an org has more than {ORG_FILES_MAX} policy files"));
        }
        (self.bytes > ORG_BYTES_MAX).then(|| format!("an org's policy files are larger than {ORG_BYTES_MAX} bytes together"))
    }
}

impl Found {
    fn sort(&mut self) {
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.tables.sort_by(|a, b| a.path.cmp(&b.path));
    }

    fn count(&self) -> usize {
        self.files.len() + self.tables.len()
    }

    fn sources(self, platform: &PolicyTextLimits) -> Sources {
        let Self { files, tables, lock, faults, dir, .. } = self;
        let policies = files.iter().map(|f| (f.path.as_str(), f.text.as_str()));
        let version = digest(std::iter::once(("", SCHEMA)).chain(policies));
        let beside = tables.iter().chain(&lock).map(|f| (f.path.as_str(), f.text.as_str()));
        let wrong = faults.iter().map(|fault| (fault.file.as_str(), fault.message.as_str()));
        let whole = hex::encode(version);
        let digest = digest(std::iter::once(("", whole.as_str())).chain(beside).chain(wrong));
        Sources { files, tables, lock, version: whole.into(), digest, faults, dir, platform: *platform }
    }
}

fn same_schema(text: &str) -> Result<(), String> {
    // A checkout may have made the line ends its own.
    if text.lines().eq(SCHEMA.lines()) {
        return Ok(());
    }
    Err("this is not the schema that this build asks in: the schema belongs to the binary, take the file that came with it".into())
}

/// Paths and bytes, each behind its length, so that moving text from one file to the next is another version.
fn digest<'t>(texts: impl Iterator<Item = (&'t str, &'t str)>) -> [u8; 32] {
    let mut all = Vec::new();
    for (path, text) in texts {
        for part in [path, text] {
            all.extend_from_slice(&(part.len() as u64).to_be_bytes());
            all.extend_from_slice(part.as_bytes());
        }
    }
    sha256(&all)
}

fn walk(dir: &Path, folder: &Folder, depth: usize, found: &mut Found, faults: &mut Vec<Diagnostic>) -> Result<(), Box<Diagnostic>> {
    let here = if folder.path().is_empty() { dir.to_owned() } else { dir.join(folder.path()) };
    let cannot = |error: std::io::Error| Diagnostic::of_file(Rule::File, here.display(), format!("cannot be read: {error}"));
    let org = org_of(folder.path());
    let fault = |fault: Diagnostic| fault.of_orgs(org.clone());
    if depth == 0 {
        let deep = Diagnostic::of_file(Rule::File, here.display(), format!("directories nest deeper than {DEPTH_MAX} levels"));
        return Err(Box::new(fault(deep)));
    }
    for entry in folder.names().map_err(|error| Box::new(fault(cannot(error))))? {
        if let Some(org) = &org {
            let of_org = found.of_orgs.entry(org.clone()).or_default();
            of_org.entries += 1;
            if let Some(excess) = of_org.excess() {
                return Err(Box::new(fault(Diagnostic::of_file(Rule::File, here.display(), excess))));
            }
        }
        let (name, kind) = match entry.map_err(|error| Box::new(fault(cannot(error))))? {
            Ok(entry) => entry,
            Err(name) => {
                faults.push(fault(Diagnostic::of_file(Rule::File, here.join(name).display(), "the name is not UTF-8")));
                continue;
            }
        };
        if passed_over(&name) {
            continue;
        }
        let path = folder.path_of(&name);
        let full = dir.join(&path);
        let fault = |rule, message: String| Diagnostic::of_file(rule, full.display(), message).of_orgs(org_of(&path));
        let (link, regular) = match folder.entry(&name, kind) {
            Ok(Entry::Folder(below)) => {
                match walk(dir, &below, depth - 1, found, faults) {
                    // The folder of one org: the others are read all the same.
                    Err(fault) if org.is_none() && !fault.orgs.is_empty() => faults.push(*fault),
                    walked => walked?,
                }
                continue;
            }
            Ok(Entry::Other { link, regular }) => (link, regular),
            Err(message) => {
                faults.push(fault(Rule::File, message));
                continue;
            }
        };
        let Some(role) = role(&path) else { continue };
        if !regular {
            faults.push(fault(Rule::File, NOT_REGULAR.into()));
            continue;
        }
        if found.count() >= FILES_MAX {
            let many = format!("there are more than {FILES_MAX} policy files and tables");
            return Err(Box::new(Diagnostic::of_file(Rule::File, dir.display(), many)));
        }
        let taken = role.map_err(|message| (Rule::File, message)).and_then(|role| {
            let bounds = if let Role::Policy(house) = &role { Some(house.bounds(&found.platform)) } else { None };
            let most = bounds.map_or(FILE_BYTES_MAX, |bounds| bounds.limits.file_bytes);
            let read = folder.read(&name, link, most).map_err(Unfit::Otherwise).and_then(|bytes| text(bytes, most));
            match (read, bounds) {
                (Ok(text), _) => Ok((role, text)),
                (Err(Unfit::TooLarge(_)), Some(bounds)) => Err((Rule::Limit, bounds.too_large())),
                (Err(unfit), _) => Err((Rule::File, unfit.to_string())),
            }
        });
        let (role, text) = match taken {
            Ok(read) => read,
            Err((rule, message)) => {
                faults.push(fault(rule, message));
                continue;
            }
        };
        if let Some(org) = &org {
            let of_org = found.of_orgs.entry(org.clone()).or_default();
            (of_org.files, of_org.bytes) = (of_org.files + 1, of_org.bytes + text.len());
            if let Some(excess) = of_org.excess() {
                return Err(Box::new(fault(Rule::File, excess)));
            }
        }
        found.bytes += text.len();
        if found.bytes > ALL_BYTES_MAX {
            return Err(Box::new(Diagnostic::of_file(
                Rule::File,
                dir.display(),
                format!("the files are larger than {ALL_BYTES_MAX} bytes together"),
            )));
        }
        let file = full.display().to_string();
        match role {
            Role::Policy(house) => found.files.push(Source { file, path, house, text }),
            Role::Table => found.tables.push(Beside { file, path, text }),
            Role::Lock => found.lock = Some(Beside { file, path, text }),
        }
    }
    Ok(())
}

/// Every file of a folder that is a policy, a table or the lock, by its place alone: what it holds may be broken. A link is a
/// file here, unless it leads to a folder inside.
///
/// # Errors
/// When a folder cannot be read.
pub(super) fn ours(dir: &Path) -> std::io::Result<Vec<String>> {
    fn collect(folder: &Folder, depth: usize, all: &mut Vec<String>) -> std::io::Result<()> {
        for entry in folder.names()? {
            let Ok((name, kind)) = entry? else { continue };
            if passed_over(&name) {
                continue;
            }
            let path = folder.path_of(&name);
            match folder.entry(&name, kind) {
                Ok(Entry::Folder(below)) if depth > 0 => collect(&below, depth - 1, all)?,
                Ok(Entry::Folder(_)) => {}
                // A link that does not count is what keeps the folder from being read.
                Err(_) if kind.is_symlink() => all.push(path),
                Ok(Entry::Other { .. }) | Err(_) if role(&path).is_some() => all.push(path),
                Ok(Entry::Other { .. }) | Err(_) => {}
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    collect(&Folder::open(dir)?, DEPTH_MAX, &mut all)?;
    Ok(all)
}

/// What a file is for.
enum Role {
    Policy(House),
    Table,
    Lock,
}

/// What a file is for, by its place; none where it is nothing of ours.
fn role(path: &str) -> Option<Result<Role, String>> {
    if path == LOCK {
        return Some(Ok(Role::Lock));
    }
    if path.starts_with("tables/") {
        return (path.ends_with(".yaml") || path.ends_with(".yml")).then_some(Ok(Role::Table));
    }
    path.ends_with(".cedar").then(|| house(path).map(Role::Policy))
}

/// What editors and deployments leave behind.
fn passed_over(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || name.ends_with(".tmp")
}

/// Whose law a file is follows from its place alone. A place that is neither is refused: `org/acme` must not become the
/// platform's law by a slip of the pen.
fn house(path: &str) -> Result<House, String> {
    let mut parts = path.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), None, _) | (Some("platform"), Some(_), _) => Ok(House::Platform),
        (Some("orgs"), Some(org), Some(_)) => OrgId::parse(org).map(House::Org).map_err(|bad| bad.to_string()),
        _ => Err("a policy file stands in `platform/` or in `orgs/<org>/`".into()),
    }
}

/// The org whose folder a path is in, or is.
pub(super) fn org_of(path: &str) -> Option<OrgId> {
    let rest = path.strip_prefix("orgs/")?;
    OrgId::parse(rest.split('/').next()?).ok()
}

/// Why a file's text is not taken.
enum Unfit {
    /// Larger than this many bytes.
    TooLarge(usize),
    /// Everything else, one sentence.
    Otherwise(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge(most) => write!(f, "the file is larger than {most} bytes"),
            Self::Otherwise(message) => f.write_str(message),
        }
    }
}

/// A file that is not of the policy folder.
fn read_text(file: &Path, most: usize) -> Result<String, Unfit> {
    let mut bytes = Vec::new();
    let cannot = |error: std::io::Error| Unfit::Otherwise(format!("cannot be read: {error}"));
    fs::File::open(file).map_err(cannot)?.take(most as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    text(bytes, most)
}

/// The bytes as text. There is one byte more than allowed where there are more: the size is judged by what was read, not by
/// what the directory said before.
fn text(bytes: Vec<u8>, most: usize) -> Result<String, Unfit> {
    if bytes.len() > most {
        return Err(Unfit::TooLarge(most));
    }
    let not_utf8 = |e: std::string::FromUtf8Error| Unfit::Otherwise(format!("not UTF-8 from byte {}", e.utf8_error().valid_up_to()));
    let text = String::from_utf8(bytes).map_err(not_utf8)?;
    if text.starts_with('\u{feff}') {
        return Err(Unfit::Otherwise("the file starts with a byte order mark; save it without".into()));
    }
    if text.contains('\0') {
        return Err(Unfit::Otherwise("the file holds a NUL byte".into()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::super::law_tests::Disk;
    use super::*;
    use crate::domain::clock::Timestamp;

    const GOOD: &str = "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Operator, action, resource);\n";

    #[test]
    fn no_policy_is_no_law() {
        let disk = Disk::empty();
        assert_eq!(disk.load().unwrap_err().code, ReasonCode::PolicyMissing);
        for left_behind in [".a.cedar", "a.cedar~", "a.cedar.tmp", "a.txt", "tables/a.cedar", ".git/a.cedar", "..data/a.cedar"] {
            disk.write(left_behind, "not even Cedar");
        }
        assert_eq!(disk.load().unwrap_err().code, ReasonCode::PolicyMissing);
        let gone = Snapshot::load(&disk.path().join("gone"), "schemas/gateway.cedarschema".as_ref(), Timestamp::default()).unwrap_err();
        assert_eq!(gone.code, ReasonCode::PolicyMissing);
    }

    #[test]
    fn a_file_has_limits() {
        let refused = |name: &str, bytes: &[u8]| {
            let code =
                if bytes.len() > 64 * 1024 && name.ends_with(".cedar") { ReasonCode::PolicyTooComplex } else { ReasonCode::PolicyInvalid };
            let disk = Disk::empty();
            disk.write("a.cedar", GOOD);
            disk.write_bytes(name, bytes);
            let error = disk.load().unwrap_err();
            assert_eq!(error.code, code);
            error.diagnostics.first().unwrap().message.clone()
        };
        assert_eq!(refused("b.cedar", b"\xef\xbb\xbf// x"), "the file starts with a byte order mark; save it without");
        assert_eq!(refused("b.cedar", b"// \0"), "the file holds a NUL byte");
        assert_eq!(refused("b.cedar", b"// \xff"), "not UTF-8 from byte 3");
        assert_eq!(
            refused("b.cedar", &vec![b' '; 64 * 1024 + 1]),
            "the file is larger than 65536 bytes: make several files of it, or allow more with policies.platform_limits.file_bytes"
        );
        assert_eq!(refused("tables/b.yaml", &vec![b' '; 4 * 1024 * 1024 + 1]), "the file is larger than 4194304 bytes");
        assert_eq!(refused("b.cedar", b""), "the file holds no policy: remove it, or was it cut short?");
        assert_eq!(refused("org/acme/b.cedar", b""), "a policy file stands in `platform/` or in `orgs/<org>/`");
        assert_eq!(refused("orgs/b.cedar", b""), "a policy file stands in `platform/` or in `orgs/<org>/`");
        assert!(refused("orgs/Acme/b.cedar", b"").contains("is no identifier"));
    }

    #[test]
    fn the_schema_is_the_binarys() {
        let disk = Disk::starter();
        let other = disk.path().join("other.cedarschema");
        fs::write(&other, SCHEMA.replace("active: Bool", "active: Bool, extra: Bool")).unwrap();
        let error = Snapshot::load(disk.path(), &other, Timestamp::default()).unwrap_err();
        assert_eq!(error.code, ReasonCode::PolicyInvalid);
        assert!(error.to_string().contains("this is not the schema that this build asks in"), "{error}");
        assert!(Snapshot::load(disk.path(), &disk.path().join("none"), Timestamp::default()).is_err());
        fs::write(&other, SCHEMA.replace('\n', "\r\n")).unwrap();
        Snapshot::load(disk.path(), &other, Timestamp::default()).unwrap();
    }

    #[test]
    fn the_version_is_of_paths_and_bytes() {
        let version = |files: &[(&str, &str)]| {
            let disk = Disk::empty();
            files.iter().for_each(|(path, text)| disk.write(path, text));
            disk.load().unwrap_or_else(|e| panic!("{e}")).version().clone()
        };
        let one = version(&[("a.cedar", GOOD)]);
        assert_eq!(one.len(), 64);
        assert_eq!(one, version(&[("a.cedar", GOOD), ("notes.txt", "x")]));
        assert_ne!(one, version(&[("b.cedar", GOOD)]));
        assert_ne!(one, version(&[("a.cedar", &format!("{GOOD} "))]));
    }

    #[test]
    fn a_link_is_read_through_and_a_loop_ends() {
        let disk = Disk::empty();
        disk.write("..data/a.cedar", GOOD);
        std::os::unix::fs::symlink("..data/a.cedar", disk.path().join("a.cedar")).unwrap();
        assert_eq!(disk.load().unwrap().files(), 1);
        std::os::unix::fs::symlink(".", disk.path().join("platform")).unwrap();
        assert_eq!(disk.load().unwrap_err().code, ReasonCode::PolicyInvalid);
    }

    #[test]
    fn places_count_from_one_in_characters() {
        let text = "a\nöö x\n";
        let at = |offset| {
            let d = Diagnostic::at(Rule::File, "f", text, offset..offset, "m".into());
            (d.line, d.column, d.source_line)
        };
        assert_eq!(at(0), (1, 1, Some("a".into())));
        assert_eq!(at(7), (2, 4, Some("öö x".into())));
        assert_eq!(at(3), (3, 1, None), "an offset within a character counts as the end");
        assert_eq!(at(99), (3, 1, None));
    }
}
