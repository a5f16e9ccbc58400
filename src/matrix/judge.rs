//! What a row of one request expects, held against what was seen.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value as Json, json};
use serde_yaml::Value;

use super::row::Expect;
use super::stage::Stage;
use super::wire::Response;
use crate::domain::installation::Mode;
use crate::store::scratch::Counts;

impl Stage<'_> {
    /// What of it is not as the row says.
    pub(super) fn judge(&self, expect: &Expect, seen: &Seen) -> Result<Vec<String>, String> {
        let mut wrong = Vec::new();
        let mut no = |right: bool, why: String| {
            if !right {
                wrong.push(why);
            }
        };
        let answer = seen.answer.as_ref();
        let status = answer.map(|a| a.status);
        no(status == expect.status, format!("status {status:?} for {:?}", expect.status));
        no(status.is_none_or(|s| s < 500 || s == 503), format!("status {status:?} is never answered"));
        if let Some(answer) = answer {
            let header = |name: &str| answer.header(name).unwrap_or_default();
            if let Some(body) = &expect.body {
                no(answer.text() == self.fill(body), format!("body `{}`", answer.text()));
            }
            if let Some(kind) = &expect.content_type {
                no(header("content-type").starts_with(kind), format!("content type `{}`", header("content-type")));
            }
            no(header("retry-after").is_empty() != expect.retry_after, format!("retry-after `{}`", header("retry-after")));
            no(header("allow") == expect.allow.as_deref().unwrap_or_default(), format!("allow `{}`", header("allow")));
            for text in &expect.says {
                no(answer.text().contains(&self.fill(text)), format!("does not say `{text}`: {}", answer.text()));
            }
            if self.play.when.operate.is_none() && (400..500).contains(&answer.status) && answer.status != 431 && !answer.body.is_empty() {
                no(answer.text() == "refused\n", format!("a refusal's body is `{}`", answer.text()));
            }
        }
        if expect.ends {
            no(seen.ended, "the connection stays open".into());
        }

        let events = if self.play.mode == Some(Mode::Platform) { 1 } else { 2 };
        let wanted: BTreeMap<String, i64> = match &expect.writes {
            Value::String(word) => match word.as_str() {
                "nothing" => BTreeMap::new(),
                "event" => rows(&[("audit", 1), ("decisions", events), ("dedupe", 1), ("deliveries", 1), ("events", 1), ("sessions", 1)]),
                "refusal" => rows(&[("audit", 1), ("refusals", 1)]),
                "handshake" => rows(&[("audit", 1)]),
                other => return Err(format!("nothing is written as `{other}`")),
            },
            value => serde_yaml::from_value(value.clone()).map_err(|e| format!("writes: {e}"))?,
        };
        let written: BTreeMap<String, i64> = seen.rows.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
        no(written == wanted, format!("wrote {written:?} for {wanted:?}"));

        let outcome = expect.outcome.as_deref().unwrap_or("none");
        let reason = expect.reason.as_deref().unwrap_or_default();
        if outcome == "none" {
            no(seen.metrics.is_empty(), format!("counted {:?}", seen.metrics));
        } else {
            no(!seen.metrics.is_empty(), "not counted".into());
            let own = expect.counted_on.as_deref() != Some("none");
            let mode = if own { self.mode_at()? } else { "unknown" };
            let labels = format!(r#"mode="{mode}",outcome="{outcome}",reason="{reason}""#);
            for counted in seen.metrics.keys() {
                no(counted.contains(&labels), format!("counted {counted} for {labels}"));
                let provider = expect.counted_provider.as_deref().unwrap_or(self.provider.as_str());
                no(counted.contains(&format!(r#"provider="{provider}""#)), format!("counted {counted} for {provider}"));
            }
        }
        match outcome {
            "unauthenticated" | "failed" => {
                let target = match expect.counted_on.as_deref() {
                    None => self.app(self.play.when.at.as_deref().unwrap_or("own"))?.profile.clone(),
                    Some("none") => expect.counted_provider.clone().unwrap_or_else(|| self.provider.to_string()),
                    Some(app) => self.app(app)?.profile.clone(),
                };
                let line = format!("gateway request.refuse {target} refused {reason}");
                let lines: Vec<&String> = seen.audit.iter().filter(|l| l.contains("request.refuse")).collect();
                no(matches!(lines.as_slice(), [only] if only.starts_with(&line)), format!("audit {lines:?} for `{line}`"));
            }
            "refused" => {
                no(
                    seen.refusals.iter().all(|r| at(r, "code") == reason) && !seen.refusals.is_empty(),
                    format!("refusals {:?}", seen.refusals),
                );
            }
            _ => {}
        }
        if let Some(excerpt) = expect.excerpt {
            no(seen.refusals.iter().all(|r| at(r, "excerpt").is_string() == excerpt), format!("excerpts {:?}", seen.refusals));
        }
        if expect.kept_bytes {
            let raw = seen.events.first().map(|e| at(e, "raw").as_str().unwrap_or_default().to_owned());
            no(raw.as_ref().is_some_and(|r| r.as_bytes() == seen.body), format!("kept {raw:?}"));
        }
        if let Some(org) = &expect.org {
            no(seen.events.iter().chain(&seen.refusals).all(|r| at(r, "org") == org.as_str()), format!("orgs of {:?}", seen.events));
        }
        for text in &expect.reads {
            let text = self.fill(text);
            let read =
                |e: &Json| at(e, "normal_json").as_str().unwrap_or_default().contains(&text) || at(e, "provider_event_id") == text.as_str();
            no(seen.events.iter().any(read), format!("`{text}` is not in {:?}", seen.events));
        }
        Ok(wrong)
    }
}

fn rows(all: &[(&str, i64)]) -> BTreeMap<String, i64> {
    all.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect()
}

/// A field of a row; null where there is none.
pub(super) fn at<'v>(row: &'v Json, name: &str) -> &'v Json {
    row.get(name).unwrap_or(&Json::Null)
}

/// What changed, and by how much.
pub(super) fn delta(before: &Counts, after: &Counts) -> Counts {
    after.iter().map(|(table, n)| (*table, n - before.get(table).unwrap_or(&0))).filter(|(_, n)| *n != 0).collect()
}

/// What could be seen from outside, and what was left behind.
#[derive(Default)]
pub(super) struct Seen {
    /// What was sent.
    pub body: Vec<u8>,
    pub answer: Option<Response>,
    /// The connection ended.
    pub ended: bool,
    pub rows: BTreeMap<&'static str, i64>,
    pub metrics: BTreeMap<String, f64>,
    pub audit: Vec<String>,
    pub refusals: Vec<Json>,
    pub events: Vec<Json>,
}

impl Seen {
    /// All of it as text, without what differs from run to run.
    pub(super) fn show(&self) -> String {
        let mut out = String::new();
        match &self.answer {
            None => out.push_str("no answer\n"),
            Some(answer) => {
                let _ = writeln!(out, "{}", answer.status);
                let mut headers: Vec<String> =
                    answer.headers.iter().filter(|(n, _)| n != "date").map(|(n, v)| format!("{n}: {v}")).collect();
                headers.sort();
                for line in headers {
                    let _ = writeln!(out, "{line}");
                }
                let _ = writeln!(out, "{:?}", redacted(&answer.text()));
            }
        }
        if self.ended {
            out.push_str("the connection ends\n");
        }
        let rows: Vec<String> = self.rows.iter().map(|(t, n)| format!("{t} {n:+}")).collect();
        let _ = writeln!(out, "rows: {}", if rows.is_empty() { "none".into() } else { rows.join(", ") });
        for (labels, more) in &self.metrics {
            let _ = writeln!(out, "counted: {labels} {more:+}");
        }
        for refusal in &self.refusals {
            let _ = writeln!(out, "refusal: {}", redacted(&short(refusal).to_string()));
        }
        for event in &self.events {
            let mut event = event.clone();
            if let Some(event) = event.as_object_mut() {
                event.remove("raw");
            }
            let _ = writeln!(out, "event: {}", redacted(&short(&event).to_string()));
        }
        for line in &self.audit {
            let _ = writeln!(out, "audit: {line}");
        }
        out
    }
}

/// Long texts cut, so that a snapshot stays readable.
fn short(row: &Json) -> Json {
    let mut row = row.clone();
    for (_, value) in row.as_object_mut().into_iter().flatten() {
        if let Some(text) = value.as_str().filter(|t| t.len() > 400) {
            *value = json!(format!("{}… ({} bytes)", text.chars().take(100).collect::<String>(), text.len()));
        }
    }
    row
}

/// The beginning of a scratch folder's name.
const FOLDER: &str = "/byoa-matrix-";

/// Without what differs from run to run: ids, and the scratch folder.
pub(super) fn redacted(text: &str) -> String {
    let mut out = text.to_owned();
    while let Some(at) = out.find(FOLDER) {
        let before = out.get(..at).unwrap_or_default();
        let start = before.rfind(|c: char| c.is_whitespace() || "\"'`(".contains(c)).map_or(0, |last| last + 1);
        let name = out.get(at + 1..).unwrap_or_default();
        let end = name.find(|c: char| c != '-' && !c.is_ascii_alphanumeric()).map_or(out.len(), |length| at + 1 + length);
        out.replace_range(start..end, "…");
    }
    for prefix in ["evt_", "req_", "dec_", "ses_", "dlv_", "crd_", "msg_"] {
        let mut from = 0;
        while let Some(at) = out.get(from..).and_then(|rest| rest.find(prefix)).map(|at| from + at + prefix.len()) {
            let id = out.get(at..).unwrap_or_default().chars().take_while(char::is_ascii_alphanumeric).count();
            // Decisions are counted, everything else has a time and a draw of lots in its id.
            if id >= 20 || (prefix == "dec_" && id > 0) {
                out.replace_range(at..at + id, "…");
            }
            from = at;
        }
    }
    // The set's version changes with every policy, a digest with every org's key, a fingerprint and a resource's version with every
    // master key.
    for name in ["\"digest\":\"", "\"policy_version\":\"", "\"fingerprint\":\"", "\"version\":\""] {
        let mut parts = out.split(name);
        let first = parts.next().unwrap_or_default().to_owned();
        let rest = parts.map(|part| format!("{name}…{}", part.trim_start_matches(|c: char| c.is_ascii_hexdigit())));
        out = std::iter::once(first).chain(rest).collect();
    }
    out.split_inclusive(|c: char| !c.is_ascii_hexdigit()).map(versionless).collect()
}

/// A run of hex digits and what follows it, without the run where it is as long as a version.
fn versionless(part: &str) -> String {
    let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    if part.len() - rest.len() == 64 { format!("…{rest}") } else { part.to_owned() }
}
