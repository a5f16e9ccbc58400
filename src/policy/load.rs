//! The law's bytes: which files count, how large they may be, what their version is, and how a fault in them is shown.
//! Reads each file once; everything later works on these bytes. Never judges what a policy says. Floor 5.

use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::SCHEMA;
use crate::crypto::sha256;
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

const FILE_BYTES_MAX: u64 = 1024 * 1024;
const FILES_MAX: usize = 10_000;
// A symbolic link may lead back up.
const DEPTH_MAX: usize = 16;

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
}

impl Diagnostic {
    /// A fault of a file as a whole.
    pub(super) fn of_file(file: impl fmt::Display, message: impl fmt::Display) -> Self {
        Self { file: file.to_string(), line: 1, column: 1, message: message.to_string(), source_line: None }
    }

    /// A fault at a byte offset of a text.
    pub(super) fn at(file: &str, text: &str, offset: usize, message: String) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        let source_line = text.get(start..).and_then(|rest| rest.lines().next()).map(str::to_owned);
        Self { file: file.to_owned(), line, column, message, source_line }
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

/// Everything that one snapshot is made of.
pub(super) struct Sources {
    pub files: Vec<Source>,
    pub version: Arc<str>,
}

/// Reads the policy files and holds the schema file to the compiled-in one.
pub(super) fn read(policies_dir: &Path, schema_file: &Path) -> Result<Sources, LoadError> {
    let mut faults = Vec::new();
    if let Err(message) = read_text(schema_file).and_then(|text| same_schema(&text)) {
        faults.push(Diagnostic::of_file(schema_file.display(), message));
    }
    let mut files = Vec::new();
    if let Err(fault) = walk(policies_dir, "", DEPTH_MAX, &mut files, &mut faults) {
        faults.push(fault);
    }
    if files.is_empty() && faults.is_empty() {
        let missing = Diagnostic::of_file(policies_dir.display(), "there is no policy file (*.cedar) here");
        return Err(LoadError::new(ReasonCode::PolicyMissing, vec![missing]));
    }
    if !faults.is_empty() {
        let code = if policies_dir.is_dir() { ReasonCode::PolicyInvalid } else { ReasonCode::PolicyMissing };
        return Err(LoadError::new(code, faults));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let version = version(&files);
    Ok(Sources { files, version })
}

fn same_schema(text: &str) -> Result<(), String> {
    // A checkout may have made the line ends its own.
    if text.lines().eq(SCHEMA.lines()) {
        return Ok(());
    }
    Err("this is not the schema that this build asks in: the schema belongs to the binary, take the file that came with it".into())
}

/// Paths and bytes, each behind its length, so that moving text from one file to the next is another version.
fn version(files: &[Source]) -> Arc<str> {
    let mut all = Vec::new();
    for (path, text) in std::iter::once(("", SCHEMA)).chain(files.iter().map(|f| (f.path.as_str(), f.text.as_str()))) {
        for part in [path, text] {
            all.extend_from_slice(&(part.len() as u64).to_be_bytes());
            all.extend_from_slice(part.as_bytes());
        }
    }
    hex::encode(sha256(&all)).into()
}

fn walk(dir: &Path, path: &str, depth: usize, files: &mut Vec<Source>, faults: &mut Vec<Diagnostic>) -> Result<(), Diagnostic> {
    let cannot = |error: std::io::Error| Diagnostic::of_file(dir.display(), format!("cannot be read: {error}"));
    if depth == 0 {
        return Err(Diagnostic::of_file(dir.display(), format!("directories nest deeper than {DEPTH_MAX} levels")));
    }
    for entry in fs::read_dir(dir).map_err(cannot)? {
        let entry = entry.map_err(cannot)?;
        let full = entry.path();
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            faults.push(Diagnostic::of_file(full.display(), "the name is not UTF-8"));
            continue;
        };
        if passed_over(name) {
            continue;
        }
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        // Follows links: a mounted ConfigMap is links to links.
        match fs::metadata(&full) {
            Err(error) => faults.push(Diagnostic::of_file(full.display(), format!("cannot be read: {error}"))),
            Ok(about) if about.is_dir() && path == "tables" => {}
            Ok(about) if about.is_dir() => walk(&full, &path, depth - 1, files, faults)?,
            Ok(_) if !name.ends_with(".cedar") => {}
            // A pipe would never end.
            Ok(about) if !about.is_file() => faults.push(Diagnostic::of_file(full.display(), "not a regular file")),
            Ok(_) if files.len() >= FILES_MAX => {
                return Err(Diagnostic::of_file(dir.display(), format!("there are more than {FILES_MAX} policy files")));
            }
            Ok(_) => match house(&path).and_then(|house| Ok((house, read_text(&full)?))) {
                Ok((house, text)) => files.push(Source { file: full.display().to_string(), path, house, text }),
                Err(message) => faults.push(Diagnostic::of_file(full.display(), message)),
            },
        }
    }
    Ok(())
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
        assert_eq!(refused("b.cedar", &vec![b' '; 1024 * 1024 + 1]), "the file is larger than 1048576 bytes");
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
            let d = Diagnostic::at("f", text, offset, "m".into());
            (d.line, d.column, d.source_line)
        };
        assert_eq!(at(0), (1, 1, Some("a".into())));
        assert_eq!(at(7), (2, 4, Some("öö x".into())));
        assert_eq!(at(3), (3, 1, None), "an offset within a character counts as the end");
        assert_eq!(at(99), (3, 1, None));
    }
}
