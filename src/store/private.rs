//! The store's folder and files are their owner's alone: what people said is in them, sealed, and who said it to whom is not.
//! Floor 2.

use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::StoreError;
use crate::domain::reason::ReasonCode;

/// The files that SQLite and the gateway keep beside the database.
const BESIDE: [&str; 4] = ["-wal", "-shm", "-journal", ".lock"];

/// Makes the folder and the file where they are missing, and holds both and what lies beside to their owner.
///
/// # Errors
/// `store.permissions` with the command that makes all of them private; `store.unavailable`.
pub(super) fn prepare(file: &Path) -> Result<(), StoreError> {
    let cannot = |path: &Path, e: std::io::Error| StoreError::Unavailable(format!("{}: {e}", path.display()));
    let folder = folder_of(file);
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| cannot(folder, e))?;
    check(file)?;
    // SQLite gives the files beside it the mode of this one.
    match File::options().write(true).create_new(true).mode(0o600).open(file) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(cannot(file, e)),
        _ => Ok(()),
    }
}

/// Holds what is there to its owner; makes nothing.
///
/// # Errors
/// As [`prepare`].
pub(super) fn check(file: &Path) -> Result<(), StoreError> {
    let wide = |path: PathBuf| {
        let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o777;
        (mode & 0o077 != 0).then_some((path, mode))
    };
    // A link may lead to another folder, and SQLite's files lie beside what it leads to.
    let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let mut files = vec![real.clone()];
    files.extend([file, &real].into_iter().flat_map(|file| BESIDE.map(|ending| PathBuf::from(format!("{}{ending}", file.display())))));
    let mut folders = vec![folder_of(file).to_owned()];
    folders.extend(
        fs::canonicalize(folder_of(&real)).into_iter().filter(|real| fs::canonicalize(folder_of(file)).is_ok_and(|own| own != *real)),
    );
    files.dedup();
    let (folders, files): (Vec<_>, Vec<_>) = (
        folders.into_iter().filter_map(wide).collect(),
        files.into_iter().filter_map(wide).collect::<std::collections::BTreeSet<_>>().into_iter().collect(),
    );
    let all: Vec<String> = folders.iter().chain(&files).map(|(path, mode)| format!("{} has mode {mode:o}", path.display())).collect();
    if all.is_empty() {
        return Ok(());
    }
    let names = |found: &[(PathBuf, u32)]| found.iter().map(|(path, _)| format!(" {}", quoted(path))).collect::<String>();
    let commands: Vec<String> = [("700", &folders), ("600", &files)]
        .into_iter()
        .filter(|(_, found)| !found.is_empty())
        .map(|(mode, found)| format!("chmod {mode}{}", names(found)))
        .collect();
    let message = format!("{}, so others could read the store; run `{}`", all.join(", "), commands.join(" && "));
    Err(StoreError::Refused { code: ReasonCode::StorePermissions, message })
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A path as one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_'));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    fn said(file: &Path) -> String {
        match prepare(file) {
            Err(StoreError::Refused { code: ReasonCode::StorePermissions, message }) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_made_is_its_owners() {
        let dir = tempfile::tempdir().unwrap();
        set(dir.path(), 0o755);
        let file = dir.path().join("a/b/byoa.db");
        prepare(&file).unwrap();
        assert_eq!([mode(&dir.path().join("a")), mode(&dir.path().join("a/b")), mode(&file)], [0o700, 0o700, 0o600]);
        prepare(&file).unwrap();
    }

    #[test]
    fn what_others_can_read_is_refused_with_the_command_that_repairs_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("data");
        let file = folder.join("byoa.db");
        prepare(&file).unwrap();
        let at = folder.display();
        for wide in [0o755, 0o750, 0o701, 0o720, 0o2770 & 0o777] {
            set(&folder, wide);
            assert_eq!(said(&file), format!("{at} has mode {wide:o}, so others could read the store; run `chmod 700 {at}`"));
        }
        set(&folder, 0o700);
        for ending in ["", "-wal", "-shm", "-journal", ".lock"] {
            let path = PathBuf::from(format!("{}{ending}", file.display()));
            fs::write(&path, "").unwrap();
            set(&path, 0o640);
            let name = path.display();
            assert_eq!(said(&file), format!("{name} has mode 640, so others could read the store; run `chmod 600 {name}`"));
            set(&path, 0o600);
        }
        prepare(&file).unwrap();
        set(&folder, 0o755);
        set(&file, 0o644);
        let want = format!("run `chmod 700 {at} && chmod 600 {}`", file.display());
        assert!(said(&file).ends_with(&want), "{}", said(&file));
    }

    #[test]
    fn a_link_is_held_to_where_it_leads() {
        let dir = tempfile::tempdir().unwrap();
        let (own, other) = (dir.path().join("own"), dir.path().join("other"));
        let (file, real) = (own.join("byoa.db"), other.join("real.db"));
        prepare(&real).unwrap();
        fs::create_dir(&own).unwrap();
        set(&own, 0o700);
        std::os::unix::fs::symlink(&real, &file).unwrap();
        prepare(&file).unwrap();
        set(&other, 0o755);
        assert!(said(&file).starts_with(&format!("{} has mode 755", fs::canonicalize(&other).unwrap().display())), "{}", said(&file));
        set(&other, 0o700);
        let wal = other.join("real.db-wal");
        fs::write(&wal, "").unwrap();
        set(&wal, 0o644);
        assert!(said(&file).contains("real.db-wal has mode 644"), "{}", said(&file));
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
        assert_eq!(quoted(Path::new("data/byoa.db-wal")), "data/byoa.db-wal");
    }
}
