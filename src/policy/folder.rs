//! The policy folder as a closed box. Everything in it is opened through one handle of the folder, so that a link, a `..` or
//! a folder that is replaced meanwhile opens nothing outside. Links count only outside `orgs/`, and only to targets inside
//! the folder: mounted ConfigMaps are such links. Never reads what is not a regular file. Floor 5.

use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use cap_std::ambient_authority;
#[cfg(unix)]
use cap_std::fs::OpenOptionsExt as _;
use cap_std::fs::{Dir, FileType, Metadata, OpenOptions};

/// The place of the orgs' folders.
const ORGS: &str = "orgs";

/// An open folder and the place in it that is looked at.
pub(super) struct Folder {
    /// Nothing outside of this is opened: the policy folder, or the folder of one org.
    within: Dir,
    /// Below `within`; `.` is the folder itself.
    at: PathBuf,
    /// Below the policy folder, with `/`; empty for the policy folder itself.
    path: String,
}

/// Something in a folder.
pub(super) enum Entry {
    /// A folder of its own.
    Folder(Folder),
    /// Everything else; `link` where it is reached by a link.
    Other { link: bool, regular: bool },
}

impl Folder {
    /// Opens the policy folder, which may itself be a link.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(dir: &Path) -> io::Result<Self> {
        Ok(Self { within: Dir::open_ambient_dir(dir, ambient_authority())?, at: ".".into(), path: String::new() })
    }

    /// Below the policy folder, with `/`; empty for the policy folder itself.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The path of this entry below the policy folder.
    pub fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }

    /// The names in it; the error stands for one that is not UTF-8.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn names(&self) -> io::Result<impl Iterator<Item = io::Result<Result<(String, FileType), PathBuf>>>> {
        let entries = self.within.read_dir(&self.at)?;
        Ok(entries.map(|entry| {
            let entry = entry?;
            let kind = entry.file_type()?;
            Ok(entry.file_name().into_string().map(|name| (name, kind)).map_err(PathBuf::from))
        }))
    }

    /// Looks at an entry without opening a file.
    ///
    /// # Errors
    /// One sentence, where it cannot be looked at or is a link that does not count.
    pub fn entry(&self, name: &str, kind: FileType) -> Result<Entry, String> {
        let (at, path) = (self.at.join(name), self.path_of(name));
        let link = kind.is_symlink();
        let mut is = (kind.is_dir(), kind.is_file());
        if link {
            if is_below_orgs(&path) {
                return Err("a link is not taken below `orgs/`: put the file itself here".into());
            }
            let target = self.target(&at)?;
            if path != ORGS && target.1.components().any(|part| part == Component::Normal(ORGS.as_ref())) {
                return Err("the link leads into `orgs/`, and what an org writes is no file of the platform".into());
            }
            is = (target.0.is_dir(), target.0.is_file());
        }
        let (folder, regular) = is;
        if !folder {
            return Ok(Entry::Other { link, regular });
        }
        if is_below_orgs(&path) && !is_below_orgs(&self.path) {
            // The folder of one org: from here on its own box.
            let within = self.within.open_dir(&at).map_err(|error| unreadable(&error))?;
            return Ok(Entry::Folder(Self { within, at: ".".into(), path }));
        }
        let within = self.within.try_clone().map_err(|error| unreadable(&error))?;
        Ok(Entry::Folder(Self { within, at, path }))
    }

    /// Where a link leads, with every link on the way resolved.
    fn target(&self, at: &Path) -> Result<(Metadata, PathBuf), String> {
        let found = self.within.metadata(at).and_then(|about| Ok((about, self.within.canonicalize(at)?)));
        found.map_err(|error| unreadable(&error))
    }

    /// The first bytes of a file, `most` and one more at most. What was opened is looked at again before it is read: it may be
    /// something else than what was there before.
    ///
    /// # Errors
    /// One sentence, where it cannot be read, lies outside or is no regular file.
    pub fn read(&self, name: &str, link: bool, most: usize) -> Result<Vec<u8>, String> {
        let mut options = OpenOptions::new();
        options.read(true);
        #[cfg(unix)]
        {
            use rustix::fs::OFlags;
            // A pipe would wait for somebody who writes.
            let flags = if link { OFlags::NONBLOCK } else { OFlags::NONBLOCK | OFlags::NOFOLLOW };
            options.custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
        }
        #[cfg(not(unix))]
        let _ = link;
        let file = self.within.open_with(self.at.join(name), &options).map_err(|error| unreadable(&error))?;
        if !file.metadata().map_err(|error| unreadable(&error))?.is_file() {
            return Err(NOT_REGULAR.into());
        }
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
        Ok(bytes)
    }

    /// Removes a file or link; what a link leads to stays.
    ///
    /// # Errors
    /// When it cannot be removed, or lies outside.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        self.within.remove_file(path)
    }
}

/// Said of what is no file to read.
pub(super) const NOT_REGULAR: &str = "not a regular file";

fn is_below_orgs(path: &str) -> bool {
    path.strip_prefix(ORGS).is_some_and(|rest| rest.starts_with('/'))
}

fn unreadable(error: &io::Error) -> String {
    // cap-std's own error for a path that leaves the box; it carries no number of the system.
    if error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none() {
        return "the link leads out of the policy folder, or its target is an absolute path: link to a file inside, by a relative \
                path, or copy it"
            .into();
    }
    format!("cannot be read: {error}")
}

/// The place of a file of the folder on disk, with its links resolved, where writing to it changes nothing outside. The file
/// need not be there.
///
/// # Errors
/// When it lies outside, or cannot be looked at.
pub(super) fn writable(dir: &Path, path: &str) -> io::Result<PathBuf> {
    let outside = || io::Error::other(format!("`{path}` is a link, or below one, that leads out of the policy folder: remove it first"));
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(io::Error::other(format!("`{path}` is no file of the policy folder")));
    }
    let root = dir.canonicalize()?;
    let full = root.join(path);
    match full.canonicalize() {
        Ok(real) if real.starts_with(&root) => return Ok(real),
        Ok(_) => return Err(outside()),
        // A link to nothing is not there either.
        Err(error) if error.kind() == io::ErrorKind::NotFound && full.symlink_metadata().is_err() => {}
        Err(error) => return Err(error),
    }
    // The folders that are there already.
    let known = full.ancestors().skip(1).find_map(|folder| folder.canonicalize().ok());
    if known.is_some_and(|known| known.starts_with(&root)) { Ok(full) } else { Err(outside()) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::fault::{LoadError, Rule};
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::load::read;
    use super::*;

    const GOOD: &str = "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Operator, action, resource);\n";
    const PLANTED: &str = "PLANTED root x 0 0\n";
    const OUT: &str = "leads out of the policy folder";

    /// A folder with one good policy, in a folder with a file that is nobody's to read.
    fn disk() -> (tempfile::TempDir, PathBuf) {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("policies");
        fs::create_dir_all(dir.join("platform")).unwrap();
        fs::create_dir_all(dir.join("orgs/acme")).unwrap();
        fs::create_dir_all(outer.path().join("away")).unwrap();
        fs::write(dir.join("platform/a.cedar"), GOOD).unwrap();
        for file in ["secret", "away/x.cedar", "away/x.yaml"] {
            fs::write(outer.path().join(file), PLANTED).unwrap();
        }
        (outer, dir)
    }

    fn load(dir: &Path) -> Result<usize, LoadError> {
        read(dir, SCHEMA_FILE.as_ref(), &Default::default()).map(|sources| sources.policy_files())
    }

    /// What is said of one link that does not count.
    fn refused(link: &str, target: &str) -> String {
        let (outer, dir) = disk();
        fs::create_dir_all(dir.join(link).parent().unwrap()).unwrap();
        symlink(target.replace("{outer}", &outer.path().display().to_string()), dir.join(link)).unwrap();
        let error = load(&dir).unwrap_err();
        assert!(!error.to_string().contains("PLANTED"), "{error}");
        let [fault] = error.diagnostics.as_slice() else { panic!("{error}") };
        assert_eq!((fault.rule, fault.source_line.as_ref()), (Rule::File, None));
        assert_eq!(fault.file, dir.join(link).display().to_string());
        fault.message.clone()
    }

    #[test]
    fn a_link_that_leads_out_opens_nothing() {
        for (link, target) in [
            ("platform/b.cedar", "../../secret"),
            ("platform/b.cedar", "{outer}/secret"),
            ("platform/b.cedar", "/etc/passwd"),
            ("b.cedar", "../secret"),
            ("platform/b.cedar", "/proc/self/environ"),
            ("platform/b.cedar", "/dev/zero"),
            ("platform/b.cedar", "../../policies/platform/a.cedar"),
            ("platform/b", "../../away"),
            ("tables", "../away"),
            ("tables/b.yaml", "../../away/x.yaml"),
            ("policies.lock", "../secret"),
            ("platform/up", "../.."),
        ] {
            let said = refused(link, target);
            assert!(said.contains(OUT), "{link} -> {target}: {said}");
        }
    }

    #[test]
    fn a_link_behind_a_link_leads_out_as_well() {
        let (_outer, dir) = disk();
        symlink("../../secret", dir.join("platform/z")).unwrap();
        symlink("z", dir.join("platform/y")).unwrap();
        symlink("platform/y", dir.join("x.cedar")).unwrap();
        let error = load(&dir).unwrap_err();
        assert_eq!(error.diagnostics.iter().filter(|d| d.message.contains(OUT)).count(), 3, "{error}");
    }

    #[test]
    fn below_orgs_there_are_no_links() {
        for target in ["../../platform/a.cedar", "../../../secret", "/etc/passwd", "nowhere"] {
            assert!(refused("orgs/acme/b.cedar", target).starts_with("a link is not taken below `orgs/`"), "{target}");
        }
        for (link, target) in [("orgs/globex", "acme"), ("orgs/acme/sub", "."), ("orgs/acme/notes.txt", "../../../secret")] {
            assert!(refused(link, target).starts_with("a link is not taken below `orgs/`"), "{link}");
        }
        assert!(refused("platform/b", "../orgs/acme").contains("what an org writes"));
        let (_outer, dir) = disk();
        fs::write(dir.join("orgs/acme/b.txt"), GOOD.replace("\"a\"", "\"b\"")).unwrap();
        symlink("../orgs/acme/b.txt", dir.join("platform/b.cedar")).unwrap();
        assert!(load(&dir).unwrap_err().to_string().contains("what an org writes"));
    }

    #[test]
    fn the_links_of_a_config_map_count() {
        let (_outer, dir) = disk();
        fs::remove_dir_all(&dir).unwrap();
        // As kubelet lays out a volume: https://pkg.go.dev/k8s.io/kubernetes/pkg/volume/util#AtomicWriter
        let data = dir.join("..2026_11_30_18_00_00.1");
        for (path, text) in [
            ("platform/a.cedar", GOOD.to_owned()),
            ("b.cedar", GOOD.replace("\"a\"", "\"b\"")),
            ("orgs/acme/c.cedar", "@id(\"org.acme.c\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal in Byoa::Org::\"acme\", action == Byoa::Action::\"RouteMessage\", resource);".to_owned()),
            ("tables/t.yaml", "about: x\n".to_owned()),
        ] {
            fs::create_dir_all(data.join(path).parent().unwrap()).unwrap();
            fs::write(data.join(path), text).unwrap();
        }
        symlink("..2026_11_30_18_00_00.1", dir.join("..data")).unwrap();
        for name in ["platform", "b.cedar", "orgs", "tables"] {
            symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
        assert_eq!(load(&dir), Ok(3));
        // The folder itself may be a link.
        symlink("policies", dir.parent().unwrap().join("current")).unwrap();
        assert_eq!(load(&dir.parent().unwrap().join("current")), Ok(3));
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let (_outer, dir) = disk();
        for name in ["platform/pipe.cedar", "orgs/acme/pipe.cedar"] {
            let made = std::process::Command::new("mkfifo").arg(dir.join(name)).status().unwrap();
            assert!(made.success());
        }
        let socket = std::os::unix::net::UnixListener::bind(dir.join("platform/socket.cedar")).unwrap();
        let error = load(&dir).unwrap_err();
        assert_eq!(error.diagnostics.iter().filter(|d| d.message == NOT_REGULAR).count(), 3, "{error}");
        drop(socket);
        // It was a file when it was looked at.
        let folder = Folder::open(&dir).unwrap();
        for link in [true, false] {
            assert_eq!(folder.read("platform/pipe.cedar", link, 9), Err(NOT_REGULAR.into()));
        }
        symlink("a.cedar", dir.join("platform/b.cedar")).unwrap();
        assert!(folder.read("platform/b.cedar", true, 9).is_ok());
        assert!(folder.read("platform/b.cedar", false, 9).is_err());
    }

    #[test]
    fn an_orgs_folder_is_a_box_of_its_own() {
        let (_outer, dir) = disk();
        fs::write(dir.join("orgs/acme/b.cedar"), GOOD).unwrap();
        let folder = Folder::open(&dir).unwrap();
        let below = |folder: &Folder, name: &str| {
            let kind = folder.names().unwrap().find_map(|entry| entry.unwrap().ok().filter(|(n, _)| n == name)).unwrap().1;
            let Entry::Folder(below) = folder.entry(name, kind).unwrap() else { panic!() };
            below
        };
        let acme = below(&below(&folder, "orgs"), "acme");
        assert!(acme.read("b.cedar", false, 9).is_ok());
        assert!(acme.read("../../platform/a.cedar", true, 9).is_err());
    }

    #[test]
    fn a_rollback_writes_and_removes_nothing_outside() {
        let (outer, dir) = disk();
        let secret = outer.path().join("secret");
        symlink(&secret, dir.join("platform/b.cedar")).unwrap();
        symlink("../../away", dir.join("platform/c")).unwrap();
        symlink("nowhere", dir.join("platform/d.cedar")).unwrap();
        for path in ["platform/b.cedar", "platform/c/x.cedar", "platform/c/y.cedar", "../secret", "/etc/passwd", "platform/d.cedar"] {
            assert!(writable(&dir, path).is_err(), "{path}");
        }
        for path in ["platform/a.cedar", "platform/new/z.cedar", "new.cedar"] {
            assert!(writable(&dir, path).unwrap().starts_with(dir.canonicalize().unwrap()), "{path}");
        }
        let mut listed = super::super::load::ours(&dir).unwrap();
        listed.sort();
        assert_eq!(listed, ["platform/a.cedar", "platform/b.cedar", "platform/c", "platform/d.cedar"]);
        let folder = Folder::open(&dir).unwrap();
        for path in &listed {
            folder.remove(path).unwrap();
        }
        assert!(folder.remove("../secret").is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), PLANTED);
        assert!(outer.path().join("away/x.cedar").exists());
    }

    #[test]
    fn what_is_told_of_a_fault_holds_no_text_of_the_file() {
        let disk = Disk::empty();
        disk.write("platform/ok.cedar", GOOD);
        let good = "@reason(\"r\")\npermit (principal is Byoa::Operator, action, resource)";
        let texts = [
            "PLANTED".to_owned(),
            "permit (PLANTED".to_owned(),
            format!("@id(\"PLANTED\") {good};"),
            format!("@id(\"b\") @PLANTED(\"x\") {good};"),
            format!("@id(\"b\") @code(\"PLANTED\") {good};"),
            format!("@id(\"b\") @mode(\"PLANTED\") {good};"),
            format!("@id(\"b\") @until(\"PLANTED\") {good};"),
            format!("@id(\"b\") {good} when {{ principal.PLANTED }};"),
            format!("@id(\"b\") {good} when {{ \"PLANTED\" == \"PLANTED\" && \"PLANTED\" != \"PLANTED\" }};"),
            "@id(\"b\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal == Byoa::Operator::\"PLANTED\", action, resource) when { 1 + 1 > 3 };".to_owned(),
            "@id(\"b\") @reason(\"PLANTED\")\npermit (principal, action, resource);".to_owned(),
            format!("@id(\"b\") @reason(\"PLANTED\") permit (principal is Byoa::Operator, action, resource) when {{ {}principal.mfa }};", "!".repeat(2000)),
            "@id(\"b\") @reason(\"PLANTED\") permit (principal == ?principal, action, resource);".to_owned(),
            "// PLANTED\n".to_owned(),
        ];
        for text in texts {
            disk.write("platform/b.cedar", &text);
            let error = disk.load().expect_err(&text);
            for told in error.told() {
                let shown = format!("{told} {}", serde_json::to_string(&told).unwrap());
                assert!(!shown.contains("PLANTED") && !shown.contains("source_line"), "{text}: {shown}");
            }
        }
    }
}
