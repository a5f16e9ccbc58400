//! The check before a release: `.ci/advisories`, with commands in place of git and cargo-deny that do as the test says.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use super::support::here;

fn command(folder: &Path, name: &str, script: &str) {
    let file = folder.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The exit code, and all that is printed.
fn check(reached: bool, clean: bool, required: Option<&str>) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    command(folder.path(), "git", if reached { "exit 0" } else { "exit 128" });
    command(folder.path(), "cargo-deny", if clean { "echo \"asked: $*\"" } else { "echo \"asked: $*\"; exit 1" });
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let mut check = Command::new("bash");
    check.arg(here(".ci/advisories")).env("PATH", path).env("CARGO_DENY", "cargo-deny --log-level error");
    match required {
        Some(value) => check.env("REQUIRE_ADVISORIES", value),
        None => check.env_remove("REQUIRE_ADVISORIES"),
    };
    let output = check.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_release_is_not_checked_without_the_advisory_database() {
    let asked = "asked: --log-level error check advisories\n".to_owned();
    for required in [None, Some("0"), Some("1")] {
        assert_eq!(check(true, true, required), (0, asked.clone()), "{required:?}");
        assert_eq!(check(true, false, required), (1, asked.clone()), "{required:?}");
    }
    for required in [None, Some("0")] {
        let (code, said) = check(false, true, required);
        assert!(code == 0 && said.starts_with("advisories not checked: "), "{required:?}: {code} {said}");
    }
    let (code, said) = check(false, true, Some("1"));
    assert!(code == 1 && said.contains("REQUIRE_ADVISORIES=1"), "{code} {said}");
    let (code, said) = check(true, true, Some("yes"));
    assert!(code == 2 && said.contains("`yes`"), "{code} {said}");
}
