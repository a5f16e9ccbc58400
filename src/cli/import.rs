//! `byoa import`, `byoa backfill`: page by page, with progress on standard error and one report. Floor 11.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::Path;

use http::Method;
use serde_json::{Value, json};

use super::progress::Progress;
use super::resources::resolve;
use super::show::{cell, raw, table};
use super::{CliError, Output, Target};
use crate::admin::import::{Cause, PAGE, Report};
use crate::crypto;
use crate::wire::json as strict;

/// The longest line that is read.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// A page is sent when it is this long, be it short of lines: the gateway takes a megabyte.
const PAGE_BYTES: usize = 512 * 1024;

pub(super) async fn import(target: &Target, file: &Path, dry_run: bool, output: Output) -> Result<(), CliError> {
    let unread = |e: std::io::Error| CliError::Unable(format!("{}: {e}", file.display()));
    let input: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        Box::new(BufReader::new(std::fs::File::open(file).map_err(unread)?))
    };
    let mut sending = Sending { target, dry_run, page: Vec::new(), bytes: 0, at: 0, report: Report::default(), progress: Progress::new() };
    let mut lines = Lines { input, line: Vec::new(), number: 0 };
    // Sixteen bytes a line are all that is kept of what was read.
    let mut seen = HashSet::new();
    loop {
        let length = lines.next().map_err(unread)?;
        let Some(length) = length else { break };
        sending.at = lines.number;
        match read(&lines.line, length, &mut seen) {
            Ok(None) => {}
            Ok(Some(record)) => sending.line(record, length).await?,
            Err((id, cause, detail)) => sending.report.skip(Some(lines.number), id, cause, detail),
        }
    }
    sending.send(true).await?;
    sending.progress.end();
    ended(&sending.report, dry_run, output)
}

pub(super) async fn backfill(target: &Target, dry_run: bool, batch: Option<i64>, output: Output) -> Result<(), CliError> {
    let (mut report, mut progress) = (Report::default(), Progress::new());
    loop {
        let page = json!({"dry_run": dry_run, "batch": batch, "cursor": report.next});
        report.add(call(target, "/v1/backfill", &page).await?);
        told(&mut progress, &report, "bindings");
        if report.next.is_none() {
            break;
        }
    }
    progress.end();
    ended(&report, dry_run, output)
}

/// One page. What the gateway refuses of a page as a whole ends the command: it could not run on.
async fn call(target: &Target, path: &str, page: &Value) -> Result<Report, CliError> {
    let answer = target.call(Method::POST, path, Some(page)).await.map_err(|error| match error {
        CliError::Found(why) | CliError::Unable(why) => CliError::Unable(why),
    })?;
    serde_json::from_value(answer).map_err(|e| CliError::Unable(format!("the gateway's answer is not what this build expects: {e}")))
}

/// A file's lines, one at a time, none longer than is read of one.
struct Lines {
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    /// Reads the next line; its whole length, though no more of it is kept than a line may have.
    fn next(&mut self) -> std::io::Result<Option<usize>> {
        self.line.clear();
        let mut length = 0;
        loop {
            let chunk = self.input.fill_buf()?;
            if chunk.is_empty() {
                break;
            }
            let (part, end) = match memchr::memchr(b'\n', chunk) {
                Some(at) => (chunk.get(..at).unwrap_or_default(), true),
                None => (chunk, false),
            };
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(part.get(..room).unwrap_or_default());
            length += part.len();
            let used = part.len() + usize::from(end);
            self.input.consume(used);
            if end {
                self.number += 1;
                return Ok(Some(length));
            }
        }
        self.number += 1;
        Ok((length > 0).then_some(length))
    }
}

type Unfit = (Option<String>, Cause, String);

/// One line as a record; none where it is blank.
fn read(line: &[u8], length: usize, seen: &mut HashSet<[u8; 16]>) -> Result<Option<Value>, Unfit> {
    if length > LINE_BYTES_MAX {
        return Err((None, Cause::LineTooLong, format!("it has {length} bytes, more than {LINE_BYTES_MAX}")));
    }
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    strict::parse(line).map_err(|code| (None, Cause::JsonInvalid, code.meaning().to_owned()))?;
    let mut record: Value = serde_json::from_slice(line).map_err(|e| (None, Cause::JsonInvalid, e.to_string()))?;
    let text = |name: &str| record.get(name).and_then(Value::as_str).map(str::to_owned);
    let id = text("id");
    if let (Some(kind), Some(id)) = (text("kind"), &id) {
        let digest = crypto::sha256(format!("{kind}/{id}").as_bytes());
        let key = digest.first_chunk::<16>().copied().unwrap_or_default();
        if !seen.insert(key) {
            return Err((Some(id.clone()), Cause::DuplicateLine, format!("{kind} `{id}` stands on an earlier line")));
        }
    }
    resolve(&mut record).map_err(|e| (id, Cause::SecretUnreadable, e))?;
    Ok(Some(record))
}

/// Lines on their way to the gateway.
struct Sending<'t> {
    target: &'t Target,
    dry_run: bool,
    page: Vec<Value>,
    bytes: usize,
    /// The line that was read last.
    at: u64,
    report: Report,
    progress: Progress,
}

impl Sending<'_> {
    async fn line(&mut self, record: Value, length: usize) -> Result<(), CliError> {
        self.page.push(json!({"line": self.at, "record": record}));
        self.bytes += length;
        if self.page.len() >= PAGE || self.bytes >= PAGE_BYTES { self.send(false).await } else { Ok(()) }
    }

    async fn send(&mut self, last: bool) -> Result<(), CliError> {
        let lines = std::mem::take(&mut self.page);
        self.bytes = 0;
        // A gateway that rehearses is told when nothing more comes.
        if lines.is_empty() && !(last && self.dry_run) {
            return Ok(());
        }
        let page = json!({"lines": lines, "dry_run": self.dry_run, "cursor": self.report.next, "last": last});
        match call(self.target, "/v1/import", &page).await {
            Ok(report) => self.report.add(report),
            Err(CliError::Found(why) | CliError::Unable(why)) => {
                self.progress.end();
                let again = "what was taken over stays; run it again and it goes on";
                return Err(CliError::Unable(format!("stopped before line {}: {why}; {again}", self.at)));
            }
        }
        told(&mut self.progress, &self.report, "lines");
        Ok(())
    }
}

fn told(progress: &mut Progress, report: &Report, what: &str) {
    let skipped: u64 = report.skipped.values().sum();
    let Report { processed, migrated, already_done, .. } = report;
    progress.say(&format!("{processed} {what}: {migrated} migrated, {already_done} already done, {skipped} skipped"));
}

/// Prints the report; what was skipped is what was found.
fn ended(report: &Report, dry_run: bool, output: Output) -> Result<(), CliError> {
    let shown = serde_json::to_value(report).map_err(|e| CliError::Unable(e.to_string()))?;
    if !raw(&shown, output)? {
        let mut rows = vec![
            vec!["processed".to_owned(), report.processed.to_string()],
            vec![if dry_run { "would migrate" } else { "migrated" }.to_owned(), report.migrated.to_string()],
            vec!["already done".to_owned(), report.already_done.to_string()],
        ];
        for (cause, n) in &report.skipped {
            rows.push(vec![format!("skipped: {}", cell(&json!(cause))), n.to_string()]);
        }
        anstream::println!("{}", table(&["", "count"], rows));
        if !report.examples.is_empty() {
            let rows = report.examples.iter().map(|e| {
                vec![
                    e.line.map_or_else(|| "–".into(), |n| n.to_string()),
                    cell(&json!(e.id)),
                    cell(&json!(e.cause)),
                    cell(&json!(e.detail)),
                ]
            });
            anstream::println!("{}", table(&["line", "id", "skipped for", "because"], rows));
        }
    }
    if report.skipped.is_empty() { Ok(()) } else { Err(CliError::Found(String::new())) }
}
