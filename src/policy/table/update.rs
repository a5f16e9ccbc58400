//! Writes what was answered into the rows that want something else, in place: every other byte of the file stays. Floor 5.

use std::collections::BTreeMap;

use super::{Run, Tables};
use crate::domain::reason::ReasonCode;
use crate::policy::row::Want;

/// A file with other answers in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rewritten {
    /// The file.
    pub file: String,
    /// Its new text.
    pub text: String,
    /// The rows that were changed: line, name, what was wanted, what is wanted now.
    pub rows: Vec<(usize, String, Want, Want)>,
}

/// A wrong row that nobody but its author can put right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// The file.
    pub file: String,
    /// The row's line.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// One written row and the answers to its cases.
struct Answers<'r> {
    line: usize,
    wanted: &'r Want,
    got: Vec<&'r Want>,
    is_unfit: bool,
}

impl Tables {
    /// The files as they would be if every row wanted what it got.
    pub fn updated(&self, run: &Run) -> (Vec<Rewritten>, Vec<Kept>) {
        let mut answers: BTreeMap<(usize, usize), Answers<'_>> = BTreeMap::new();
        for (row, outcome) in self.rows.iter().zip(&run.results) {
            let all = answers.entry(row.spot).or_insert(Answers { line: row.line, wanted: &row.want, got: vec![], is_unfit: false });
            all.is_unfit |= outcome.got.code == Some(ReasonCode::PolicyNotApplicable);
            if !all.got.contains(&&outcome.got) {
                all.got.push(&outcome.got);
            }
        }
        let (mut files, mut kept) = (BTreeMap::<usize, Rewritten>::new(), Vec::new());
        // From the end, so that places stay true.
        for ((table, entry), Answers { line, wanted, got, is_unfit }) in answers.into_iter().rev() {
            let Some((table_of, entry)) = self.tables.get(table).and_then(|t| Some((t, t.entries.get(entry)?))) else { continue };
            let mut keep = |why: &str| {
                let (file, name) = (table_of.file.clone(), entry.name.clone());
                kept.push(Kept { file, line, name, why: why.to_owned() });
            };
            let new = match got.as_slice() {
                _ if is_unfit => {
                    keep("it is no question that the schema knows");
                    continue;
                }
                [one] if *one == wanted => continue,
                [one] => *one,
                _ => {
                    keep("its cases are answered differently: split it into rows that are answered alike");
                    continue;
                }
            };
            let old = table_of.text.get(entry.want.clone()).unwrap_or_default();
            if has_comment(old) {
                keep("there is a comment within its `want`: change it by hand");
                continue;
            }
            let file =
                files.entry(table).or_insert_with(|| Rewritten { file: table_of.file.clone(), text: table_of.text.clone(), rows: vec![] });
            file.text.replace_range(entry.want.clone(), &format!(": {}", new.written()));
            file.rows.insert(0, (line, entry.name.clone(), wanted.clone(), new.clone()));
        }
        kept.reverse();
        for (after, row) in run.after.iter().filter_map(|after| Some((after, self.row_of(after)?))) {
            let Some((_, entry)) = self.entry(row) else { continue };
            let why = format!("{} it is answered otherwise: say with `at` as of when it holds", after.when());
            let left = Kept { file: row.file.clone(), line: row.line, name: entry.name.clone(), why };
            // A row may stand for several cases.
            if !kept.contains(&left) {
                kept.push(left);
            }
        }
        // YAML can be written in more ways than are thought of here; what does not read afterwards is not written.
        let (good, bad): (Vec<Rewritten>, Vec<Rewritten>) =
            files.into_values().partition(|file| Self::of_texts([(file.file.as_str(), file.text.as_str())]).is_ok());
        for Rewritten { file, rows, .. } in bad {
            let why = "the file would not read afterwards: change it by hand";
            kept.extend(rows.into_iter().map(|(line, name, ..)| Kept { file: file.clone(), line, name, why: why.to_owned() }));
        }
        (good, kept)
    }
}

fn has_comment(text: &str) -> bool {
    let mut before = ' ';
    text.chars().any(|c| {
        let starts = c == '#' && before.is_whitespace();
        before = c;
        starts
    })
}
