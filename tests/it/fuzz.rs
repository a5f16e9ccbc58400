//! Plays the corpora of the fuzz targets (`tests/fuzz`): what a fuzzer once found interesting, and what once was a finding.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use super::support::here;

#[path = "../fuzz/targets.rs"]
mod targets;

/// Corpora stay small enough to be read with every clone.
const CORPORA_BYTES_MAX: u64 = 300 * 1024;

fn corpus(target: &str) -> Vec<PathBuf> {
    let folder = here("tests/fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())).map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

fn play(target: &str) {
    let (_, run) = targets::ALL.into_iter().find(|(name, _)| *name == target).unwrap();
    let files = corpus(target);
    assert!(!files.is_empty(), "{target} has a corpus");
    for file in files {
        let data = fs::read(&file).unwrap();
        if std::panic::catch_unwind(|| run(&data)).is_err() {
            panic!("{} fails", file.display());
        }
    }
}

macro_rules! targets {
    ($($target:ident)+) => {
        const PLAYED: &[&str] = &[$(stringify!($target)),+];
        $(#[test] fn $target() { play(stringify!($target)); })+
    };
}

targets! { json forms multipart framing slack telegram whatsapp policies agent_url }

#[test]
fn every_target_is_played_and_the_corpora_are_small() {
    let known: BTreeSet<&str> = targets::ALL.iter().map(|(name, _)| *name).collect();
    assert_eq!(PLAYED.iter().copied().collect::<BTreeSet<_>>(), known);
    let bytes: u64 = known.iter().flat_map(|target| corpus(target)).map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= CORPORA_BYTES_MAX, "{bytes} bytes");
}
