//! The law's bytes: which files count, how large they may be, what their version is, and how a fault in them is shown.
//! Reads each file once; everything later works on these bytes. Never judges what a policy says. Floor 5.

use std::fmt;
use std::fs;
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::SCHEMA;
use crate::crypto::sha256;
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
const ALL_BYTES_MAX: usize = 64 * 1024 * 1024;
const FILES_MAX: usize = 20_000;
// A symbolic link may lead back up.
const DEPTH_MAX: usize = 16;

/// What a fault is a fault of. Stable words, for programs that sort findings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A file or folder cannot be taken: unreadable, too large, not UTF-8, in the wrong place.
    File,
    /// The schema is not this build's.
    Schema,
    /// It is not Cedar, or not YAML.
    Syntax,
    /// It does not fit the schema, or can never apply.
    Types,
    /// A file without a policy.
    Empty,
    /// Templates are not used.
    Template,
    /// `@id` is absent, unfit or taken.
    Id,
    /// `@reason` is absent.
    Reason,
    /// `@code` is absent, unknown or on a permit.
    Code,
    /// An annotation that does not exist.
    Annotation,
    /// `@mode`
    Mode,
    /// `@until`
    Until,
    /// A permit for everybody.
    Unconditional,
    /// An org's file that reaches beyond its org.
    OrgScope,
    /// A forbid that could err.
    MayErr,
    /// A decision table that does not make sense.
    Table,
    /// The set is not the one that `policies.lock` describes.
    Lock,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 17] = [
        Self::File,
        Self::Schema,
        Self::Syntax,
        Self::Types,
        Self::Empty,
        Self::Template,
        Self::Id,
        Self::Reason,
        Self::Code,
        Self::Annotation,
        Self::Mode,
        Self::Until,
        Self::Unconditional,
        Self::OrgScope,
        Self::MayErr,
        Self::Table,
        Self::Lock,
    ];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Schema => "schema",
            Self::Syntax => "syntax",
            Self::Types => "types",
            Self::Empty => "empty",
            Self::Template => "template",
            Self::Id => "id",
            Self::Reason => "reason",
            Self::Code => "code",
            Self::Annotation => "annotation",
            Self::Mode => "mode",
            Self::Until => "until",
            Self::Unconditional => "unconditional",
            Self::OrgScope => "org-scope",
            Self::MayErr => "may-err",
            Self::Table => "table",
            Self::Lock => "lock",
        }
    }

    /// What it asks, one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::File => "A file can be read, is UTF-8 text of bounded size and stands in its place.",
            Self::Schema => "The schema file is the one that this build was made with.",
            Self::Syntax => "A policy file is Cedar, a table is YAML.",
            Self::Types => "A policy fits the schema and can match.",
            Self::Empty => "A policy file holds at least one policy.",
            Self::Template => "Policies are static: what varies is entity data.",
            Self::Id => "Every policy has an `@id` of its own, a name that people can say.",
            Self::Reason => "Every policy has a `@reason`, one sentence for people.",
            Self::Code => "Every forbid has a `@code`, the reason code of its refusals, and no permit has one.",
            Self::Annotation => "Only annotations that exist are used.",
            Self::Mode => "`@mode` is \"enforce\" or left out.",
            Self::Until => "`@until` is a time, and what has ended is removed.",
            Self::Unconditional => "A permit has a scope or a condition.",
            Self::OrgScope => "An org's file holds forbids whose scope names that org.",
            Self::MayErr => "A forbid cannot err: it compares and does not compute.",
            Self::Table => "A decision table asks questions that the schema knows, and holds.",
            Self::Lock => "The policy files are the ones that `policies.lock` describes.",
        }
    }
}

/// One fault in one place.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Diagnostic {
    /// The file.
    pub file: String,
    /// The line, from 1; 1 where the whole file is meant.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong, one sentence.
    pub message: String,
    /// The line itself.
    pub source_line: Option<String>,
    /// How many characters it is about; 0 where the whole file is meant.
    pub length: usize,
    /// What it is a fault of.
    pub rule: Rule,
}

impl Diagnostic {
    /// A fault of a file as a whole.
    pub(super) fn of_file(rule: Rule, file: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { file: file.to_string(), line: 1, column: 1, length: 0, rule, message: message.to_string(), source_line: None }
    }

    /// A fault at a byte range of a text. What reaches over several lines is shown to the end of its first.
    pub(super) fn at(rule: Rule, file: &str, text: &str, range: Range<usize>, message: String) -> Self {
        let Range { start: offset, end } = range;
        let length = text.get(offset..end).and_then(|about| about.lines().next()).map_or(1, |line| line.chars().count().max(1));
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        let source_line = text.get(start..).and_then(|rest| rest.lines().next()).map(str::to_owned);
        Self { file: file.to_owned(), line, column, length, rule, message, source_line }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

/// The law was not loaded. Prints one line for each fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadError {
    /// `policy.missing` or `policy.invalid`.
    pub code: ReasonCode,
    /// Every fault found, in order of place.
    pub diagnostics: Vec<Diagnostic>,
}

impl LoadError {
    pub(super) fn new(code: ReasonCode, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort();
        diagnostics.dedup();
        Self { code, diagnostics }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.diagnostics.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadError {}

/// Whose law a file is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum House {
    /// The platform's: it may say anything.
    Platform,
    /// One org's: it may only narrow what that org does.
    Org(OrgId),
}

/// One policy file, read.
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
pub struct Sources {
    pub(super) files: Vec<Source>,
    pub(super) tables: Vec<Beside>,
    pub(super) lock: Option<Beside>,
    /// Of the policies alone: what decides.
    pub(super) version: Arc<str>,
    /// Of everything that was read: what is compared to see whether anything changed.
    pub(super) digest: [u8; 32],
}

impl Sources {
    /// The set's version, before any of its policies ends.
    pub fn version(&self) -> &Arc<str> {
        &self.version
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
pub fn read(policies_dir: &Path, schema_file: &Path) -> Result<Sources, LoadError> {
    let mut faults = Vec::new();
    if let Err(message) = read_text(schema_file).and_then(|text| same_schema(&text)) {
        faults.push(Diagnostic::of_file(Rule::Schema, schema_file.display(), message));
    }
    let Found { files, tables, lock, .. } = found(policies_dir, faults)?;
    let policies = files.iter().map(|f| (f.path.as_str(), f.text.as_str()));
    let version = digest(std::iter::once(("", SCHEMA)).chain(policies));
    let beside = tables.iter().chain(&lock).map(|f| (f.path.as_str(), f.text.as_str()));
    let whole = hex::encode(version);
    let digest = digest(std::iter::once(("", whole.as_str())).chain(beside));
    Ok(Sources { files, tables, lock, version: whole.into(), digest })
}

/// The policy files alone.
pub(super) fn policy_files(policies_dir: &Path) -> Result<Vec<Source>, LoadError> {
    Ok(found(policies_dir, vec![])?.files)
}

/// Everything in the folder, sorted by path; the faults known so far are added to.
fn found(policies_dir: &Path, mut faults: Vec<Diagnostic>) -> Result<Found, LoadError> {
    let mut found = Found::default();
    if let Err(fault) = walk(policies_dir, "", DEPTH_MAX, &mut found, &mut faults) {
        faults.push(fault);
    }
    if found.files.is_empty() && faults.is_empty() {
        let missing = Diagnostic::of_file(Rule::File, policies_dir.display(), "there is no policy file (*.cedar) here");
        return Err(LoadError::new(ReasonCode::PolicyMissing, vec![missing]));
    }
    if !faults.is_empty() {
        let code = if policies_dir.is_dir() { ReasonCode::PolicyInvalid } else { ReasonCode::PolicyMissing };
        return Err(LoadError::new(code, faults));
    }
    found.files.sort_by(|a, b| a.path.cmp(&b.path));
    found.tables.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

#[derive(Default)]
struct Found {
    files: Vec<Source>,
    tables: Vec<Beside>,
    lock: Option<Beside>,
    bytes: usize,
}

impl Found {
    fn count(&self) -> usize {
        self.files.len() + self.tables.len()
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

fn walk(dir: &Path, path: &str, depth: usize, found: &mut Found, faults: &mut Vec<Diagnostic>) -> Result<(), Diagnostic> {
    let cannot = |error: std::io::Error| Diagnostic::of_file(Rule::File, dir.display(), format!("cannot be read: {error}"));
    if depth == 0 {
        return Err(Diagnostic::of_file(Rule::File, dir.display(), format!("directories nest deeper than {DEPTH_MAX} levels")));
    }
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let full = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            faults.push(Diagnostic::of_file(Rule::File, full.display(), "the name is not UTF-8"));
            continue;
        };
        if passed_over(name) {
            continue;
        }
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        // Follows links: a mounted ConfigMap is links to links.
        match fs::metadata(&full) {
            Err(error) => faults.push(Diagnostic::of_file(Rule::File, full.display(), format!("cannot be read: {error}"))),
            Ok(about) if about.is_dir() => walk(&full, &path, depth - 1, found, faults)?,
            Ok(about) => {
                let Some(role) = role(&path) else { continue };
                // A pipe would never end.
                if !about.is_file() {
                    faults.push(Diagnostic::of_file(Rule::File, full.display(), "not a regular file"));
                    continue;
                }
                if found.count() >= FILES_MAX {
                    return Err(Diagnostic::of_file(
                        Rule::File,
                        dir.display(),
                        format!("there are more than {FILES_MAX} policy files and tables"),
                    ));
                }
                let (role, text) = match role.and_then(|role| Ok((role, read_text(&full)?))) {
                    Ok(read) => read,
                    Err(message) => {
                        faults.push(Diagnostic::of_file(Rule::File, full.display(), message));
                        continue;
                    }
                };
                found.bytes += text.len();
                if found.bytes > ALL_BYTES_MAX {
                    return Err(Diagnostic::of_file(
                        Rule::File,
                        dir.display(),
                        format!("the files are larger than {ALL_BYTES_MAX} bytes together"),
                    ));
                }
                let file = full.display().to_string();
                match role {
                    Role::Policy(house) => found.files.push(Source { file, path, house, text }),
                    Role::Table => found.tables.push(Beside { file, path, text }),
                    Role::Lock => found.lock = Some(Beside { file, path, text }),
                }
            }
        }
    }
    Ok(())
}

/// Every file of a folder that is a policy, a table or the lock, by its place alone: what it holds may be broken.
///
/// # Errors
/// When a folder cannot be read.
pub(super) fn ours(dir: &Path) -> std::io::Result<Vec<String>> {
    fn collect(dir: &Path, path: &str, depth: usize, all: &mut Vec<String>) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned).filter(|name| !passed_over(name)) else { continue };
            let path = if path.is_empty() { name } else { format!("{path}/{name}") };
            if entry.path().is_dir() {
                if depth > 0 {
                    collect(&entry.path(), &path, depth - 1, all)?;
                }
            } else if role(&path).is_some() {
                all.push(path);
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    collect(dir, "", DEPTH_MAX, &mut all)?;
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

fn read_text(file: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    // One byte more than allowed: the size is judged by what was read, not by what the directory said before.
    fs::File::open(file).map_err(cannot)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the file is larger than {FILE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|e| format!("not UTF-8 from byte {}", e.utf8_error().valid_up_to()))?;
    if text.starts_with('\u{feff}') {
        return Err("the file starts with a byte order mark; save it without".into());
    }
    if text.contains('\0') {
        return Err("the file holds a NUL byte".into());
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
            let disk = Disk::empty();
            disk.write("a.cedar", GOOD);
            disk.write_bytes(name, bytes);
            let error = disk.load().unwrap_err();
            assert_eq!(error.code, ReasonCode::PolicyInvalid);
            error.diagnostics.first().unwrap().message.clone()
        };
        assert_eq!(refused("b.cedar", b"\xef\xbb\xbf// x"), "the file starts with a byte order mark; save it without");
        assert_eq!(refused("b.cedar", b"// \0"), "the file holds a NUL byte");
        assert_eq!(refused("b.cedar", b"// \xff"), "not UTF-8 from byte 3");
        assert_eq!(refused("b.cedar", &vec![b' '; 4 * 1024 * 1024 + 1]), "the file is larger than 4194304 bytes");
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
