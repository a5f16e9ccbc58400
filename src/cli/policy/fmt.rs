//! `byoa policy fmt`: puts policy files into the one layout, each whole or not at all.

use std::path::Path;

use super::check::block;
use super::{CliError, Place, refused};
use crate::cli::show::counted;
use crate::policy::format;
use crate::policy::history::replace;

pub(super) fn run(place: &Place, check: bool) -> Result<(), CliError> {
    let laid = format::folder(&place.dir, &place.limits).map_err(|e| refused(&e))?;
    let files = laid.len();
    let (mut changed, mut faults) = (0, 0);
    for file in laid {
        match file.new {
            Err(found) => {
                faults += 1;
                found.iter().for_each(|fault| anstream::print!("{}", block(fault)));
            }
            Ok(new) if new == file.old => {}
            Ok(new) => {
                changed += 1;
                if check {
                    anstream::print!("{}", difference(&file.file, &file.old, &new));
                } else {
                    replace(Path::new(&file.file), new.as_bytes())
                        .map_err(|e| CliError::Unable(format!("{}: cannot be written: {e}", file.file)))?;
                    anstream::println!("{}", file.file);
                }
            }
        }
    }
    let would = if check { "would change" } else { "changed" };
    let left = if faults == 0 { String::new() } else { format!(", {faults} left as they are") };
    anstream::println!("{changed} of {} {would}{left}", counted(files, "file"));
    if faults > 0 || (check && changed > 0) { Err(CliError::Found(String::new())) } else { Ok(()) }
}

/// Lines around a change that are shown with it.
const AROUND: usize = 1;
/// More comparisons than this are not made: what differs is then shown as one change.
const CELLS_MAX: usize = 4_000_000;

/// The lines that differ, `-` as they stand and `+` as they should.
fn difference(name: &str, old: &str, new: &str) -> String {
    let (red, green) = (anstyle::AnsiColor::Red.on_default(), anstyle::AnsiColor::Green.on_default());
    let steps = steps(&old.lines().collect::<Vec<_>>(), &new.lines().collect::<Vec<_>>());
    let near = |at: usize| {
        let window = at.saturating_sub(AROUND)..=at + AROUND;
        steps.iter().enumerate().any(|(i, (mark, _))| window.contains(&i) && *mark != ' ')
    };
    let mut text = format!("--- {name}\n+++ {name}\n");
    let (mut line, mut shown) = (0, usize::MAX);
    for (at, (mark, content)) in steps.iter().enumerate() {
        line += usize::from(*mark != '+');
        if !near(at) {
            continue;
        }
        if shown == usize::MAX || shown + 1 != at {
            text += &format!("@@ line {} @@\n", line.max(1));
        }
        shown = at;
        text += &match mark {
            '-' => format!("{red}-{content}{red:#}\n"),
            '+' => format!("{green}+{content}{green:#}\n"),
            _ => format!(" {content}\n"),
        };
    }
    if steps.iter().all(|(mark, _)| *mark == ' ') {
        text += "only line ends differ\n";
    }
    text
}

/// From the old lines to the new: `' '` stays, `'-'` goes, `'+'` comes.
fn steps<'l>(old: &[&'l str], new: &[&'l str]) -> Vec<(char, &'l str)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old_rest, new_rest) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let gone = old_rest.get(..old_rest.len() - tail).unwrap_or_default();
    let come = new_rest.get(..new_rest.len() - tail).unwrap_or_default();
    let mut all: Vec<(char, &str)> = old.iter().take(head).map(|line| (' ', *line)).collect();
    if gone.len().saturating_mul(come.len()) > CELLS_MAX {
        all.extend(gone.iter().map(|line| ('-', *line)));
        all.extend(come.iter().map(|line| ('+', *line)));
    } else {
        between(gone, come, &mut all);
    }
    all.extend(old_rest.iter().skip(gone.len()).map(|line| (' ', *line)));
    all
}

/// By the longest common subsequence.
fn between<'l>(gone: &[&'l str], come: &[&'l str], all: &mut Vec<(char, &'l str)>) {
    let width = come.len() + 1;
    let mut longest = vec![0usize; (gone.len() + 1) * width];
    let get = |longest: &[usize], i: usize, j: usize| longest.get(i * width + j).copied().unwrap_or(0);
    for (i, old) in gone.iter().enumerate().rev() {
        for (j, new) in come.iter().enumerate().rev() {
            let best = if old == new { get(&longest, i + 1, j + 1) + 1 } else { get(&longest, i + 1, j).max(get(&longest, i, j + 1)) };
            if let Some(cell) = longest.get_mut(i * width + j) {
                *cell = best;
            }
        }
    }
    let (mut i, mut j) = (0, 0);
    loop {
        match (gone.get(i), come.get(j)) {
            (Some(old), Some(new)) if old == new => {
                all.push((' ', old));
                (i, j) = (i + 1, j + 1);
            }
            (Some(old), new) if new.is_none() || get(&longest, i + 1, j) >= get(&longest, i, j + 1) => {
                all.push(('-', old));
                i += 1;
            }
            (_, Some(new)) => {
                all.push(('+', new));
                j += 1;
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use std::fs;

    use super::*;

    #[test]
    fn a_difference_is_lines_with_their_place() {
        let plain = |old: &str, new: &str| anstream::adapter::strip_str(&difference("a", old, new)).to_string();
        insta::assert_snapshot!(plain("1\n2\n3\n4\n5\n6\n7\n8\n", "1\n2\nx\n4\n5\n6\n8\n9\n"), @"
        --- a
        +++ a
        @@ line 2 @@
         2
        -3
        +x
         4
        @@ line 6 @@
         6
        -7
         8
        +9
        ");
        insta::assert_snapshot!(plain("1", "1\n"), @"
        --- a
        +++ a
        only line ends differ
        ");
    }

    proptest::proptest! {
        #[test]
        fn the_steps_lead_from_old_to_new(old in proptest::collection::vec("[ab]", 0..9), new in proptest::collection::vec("[ab]", 0..9)) {
            let (old, new): (Vec<&str>, Vec<&str>) = (old.iter().map(String::as_str).collect(), new.iter().map(String::as_str).collect());
            let steps = steps(&old, &new);
            let side = |other: char| steps.iter().filter(|(mark, _)| *mark != other).map(|(_, line)| *line).collect::<Vec<_>>();
            proptest::prop_assert_eq!(side('+'), old);
            proptest::prop_assert_eq!(side('-'), new);
        }
    }

    #[test]
    fn a_link_stays_a_link_and_permissions_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a.cedar"), folder.path().join("b.cedar"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        symlink("a.cedar", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    }
}
