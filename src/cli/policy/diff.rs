//! `byoa policy diff`: two folders side by side, as text, in what they mean, and over questions that were asked before. Exits
//! like diff: 0 where nothing is decided otherwise, 1 where something is.

use std::fmt::Write as _;

use http::Method;
use serde_json::{Value, json};

use super::{CliError, ExplainFormat, Place, Target, refused};
use crate::domain::clock::Timestamp;
use crate::policy::case::Case;
use crate::policy::decide::{Place as Spot, Ruling};
use crate::policy::diff::{self, Change, Edit, Proof, Replay, SAMPLES, TextChange, Witness};
use crate::policy::matrix::How;
use crate::policy::prove::Flip;
use crate::policy::row::Want;
use crate::policy::table::Tables;
use crate::policy::{Snapshot, vocabulary::Environment};

/// Rows that the gateway hands out at once.
const PAGE_ROWS: usize = 1_000;

pub(super) async fn run(from: &Place, to: &Place, recorded: Option<(&Target, u32)>, format: ExplainFormat) -> Result<(), CliError> {
    let (was, is) = (from.snapshot()?, to.snapshot()?);
    let recorded = match recorded {
        Some((target, most)) => Some(diff::replay(&was, &is, questions(target, most).await?)),
        None => None,
    };
    // Where this build has a prover and this machine a solver, what samples leave open is proved.
    let proofs = super::prove::prover().ok().and_then(|mut prover| prover.compare(&was, &is, |_| {}).ok());
    let ask = |environment: &Environment| {
        let difference = proofs.as_ref()?.iter().find(|difference| difference.environment == *environment)?;
        let case = |flip: &Option<Box<Flip>>| flip.as_ref().map(|flip| flip.case.clone());
        Some(Proof { more: case(&difference.gained), less: case(&difference.lost) })
    };
    let now = to.now;
    let found = Found {
        ends: ends(&was, &is, now),
        sides: [(from, &was), (to, &is)],
        text: diff::text(&was, &is),
        meaning: diff::meaning(&was, &is, Some(&ask)),
        rows: diff::replay(&was, &is, rows(to)?.into_iter().map(|(name, case)| (name, Ok(case)))),
        recorded,
    };
    match format {
        ExplainFormat::Human => anstream::print!("{}", found.human()),
        ExplainFormat::Json => anstream::println!("{:#}", found.json()),
    }
    // What differs was printed.
    if found.differs() { Err(CliError::Found(String::new())) } else { Ok(()) }
}

/// The rows of the decision tables, each under its name.
fn rows(place: &Place) -> Result<Vec<(String, Case)>, CliError> {
    let tables = Tables::read(&place.sources()?).map_err(|e| refused(&e))?;
    Ok(tables.rows().iter().map(|row| (format!("{}: {}", row.table, row.name), row.case.clone())).collect())
}

/// The last recorded decisions as questions, each under its id.
async fn questions(target: &Target, most: u32) -> Result<Vec<(String, Result<Case, String>)>, CliError> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut all: Vec<(String, Result<Case, String>)> = Vec::new();
    let mut cursor = String::new();
    while all.len() < most {
        let limit = (most - all.len()).min(PAGE_ROWS);
        let page = target.call(Method::GET, &format!("/v1/decisions?limit={limit}{cursor}"), None).await?;
        let items = page.get("items").and_then(Value::as_array);
        let items = items.ok_or_else(|| CliError::Unable("the gateway's answer is not what this build expects".into()))?;
        all.extend(items.iter().take(limit).map(question));
        match page.get("next").and_then(Value::as_str) {
            Some(next) if !items.is_empty() => cursor = format!("&cursor={next}"),
            _ => break,
        }
    }
    Ok(all)
}

fn question(item: &Value) -> (String, Result<Case, String>) {
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    let facts = match item.get("facts") {
        Some(Value::String(text)) => text.clone(),
        Some(facts) => facts.to_string(),
        None => String::new(),
    };
    (text("id").to_owned(), Case::recorded(text("action"), text("principal"), text("resource"), &facts))
}

struct Found<'a> {
    ends: Vec<End>,
    sides: [(&'a Place, &'a Snapshot); 2],
    text: Vec<TextChange>,
    meaning: Vec<Change>,
    rows: Replay,
    /// None where nobody asked for them.
    recorded: Option<Replay>,
}

impl Found<'_> {
    fn differs(&self) -> bool {
        let flips = self.recorded.as_ref().map_or(0, |r| r.flips.len()) + self.rows.flips.len();
        flips > 0 || self.ends.iter().any(|end| end.sides != [true, true]) || self.meaning.iter().any(|change| change.mark() != '=')
    }

    fn count(&self, mark: char) -> usize {
        self.meaning.iter().filter(|change| change.mark() == mark).count()
    }

    fn human(&self) -> String {
        let mut out = String::new();
        self.print(&mut out);
        out
    }

    /// Writing into a String does not fail, so what it says is not looked at.
    fn print(&self, out: &mut String) {
        for (word, (place, law)) in ["from", "to"].into_iter().zip(self.sides) {
            let version = law.version().get(..12).unwrap_or_default();
            let _ = writeln!(out, "{word:4}  {}  version {version}, {} policies", place.dir.display(), law.policies());
        }
        let _ = writeln!(out, "\ntext");
        for change in &self.text {
            let _ = writeln!(out, "  {:8}  {}  {}", edit(change.edit), change.id, spots(change));
        }
        if self.text.is_empty() {
            let _ = writeln!(out, "  the same policies");
        }
        if !self.ends.is_empty() {
            let _ = writeln!(out, "\nends");
        }
        for End { at, id, spot, sides } in &self.ends {
            let which = match sides {
                [true, true] => "",
                [true, false] => "  only of from",
                _ => "  only of to",
            };
            let _ = writeln!(out, "  {at}  {id}  {spot}{which}");
        }
        let _ = writeln!(out, "\nmeaning");
        for change in self.meaning.iter().filter(|change| change.mark() != '=' || change.how == How::Sampled) {
            let _ = writeln!(out, "  {}  {}{}", change.mark(), change.environment, known(change));
            for (what, witness) in change.witnesses() {
                let _ = writeln!(out, "     {what}: {}", witness.case);
                print_answers(out, witness);
                // A row is for a table, and a table is for answers; JSON has it all the same.
                if change.mark() != '~' {
                    for line in row(&change.environment, what, witness).lines() {
                        let _ = writeln!(out, "       {line}");
                    }
                }
            }
        }
        for (how, why) in [(How::TypeCheck, "no policy that can decide them differs"), (How::Proved, "proved")] {
            let same = self.meaning.iter().filter(|change| change.mark() == '=' && change.how == how).count();
            if same > 0 {
                let _ = writeln!(out, "  =  {same} kinds of request: {why}");
            }
        }
        for (title, replay) in [("rows", Some(&self.rows)), ("recorded", self.recorded.as_ref())] {
            if let Some(replay) = replay {
                print_replay(out, title, replay);
            }
        }
        let _ = write!(out, "\n{} of {} kinds of request differ", self.meaning.len() - self.count('='), self.meaning.len());
        let _ = write!(out, " (+ {}, - {}, ± {}, ~ {})", self.count('+'), self.count('-'), self.count('±'), self.count('~'));
        let _ = write!(out, "; {} of {} rows", self.rows.flips.len(), self.rows.decided);
        if let Some(recorded) = &self.recorded {
            let _ = write!(out, "; {} of {} recorded decisions", recorded.flips.len(), recorded.decided);
        }
        out.push('\n');
    }

    fn json(&self) -> Value {
        let [from, to] = self.sides.map(
            |(place, law)| json!({ "dir": place.dir.display().to_string(), "version": law.version().as_ref(), "policies": law.policies() }),
        );
        let spot = |spot: &Option<Spot>| spot.as_ref().map(|spot| json!({ "file": spot.file, "line": spot.line }));
        let text = |c: &TextChange| json!({ "edit": edit(c.edit), "id": c.id, "from": spot(&c.from), "to": spot(&c.to) });
        let change = |c: &Change| {
            let witness = |(what, witness): (&str, &Witness)| {
                let row = row(&c.environment, what, witness);
                json!({ "shows": what, "request": witness.case, "from": side(&witness.from), "to": side(&witness.to), "row": row })
            };
            json!({
                "environment": c.environment.to_string(),
                "change": c.mark().to_string(),
                "how": how(c.how),
                "samples": (c.how == How::Sampled).then_some(SAMPLES),
                "witnesses": c.witnesses().map(witness).collect::<Vec<_>>(),
            })
        };
        let replay = |r: &Replay| {
            let flip = |(name, witness): &(String, Witness)| {
                json!({
                    "name": name, "request": witness.case, "from": side(&witness.from), "to": side(&witness.to)
                })
            };
            json!({ "decided": r.decided, "flips": r.flips.iter().map(flip).collect::<Vec<_>>(), "undecided": r.undecided })
        };
        json!({
            "differs": self.differs(),
            "from": from,
            "to": to,
            "text": self.text.iter().map(text).collect::<Vec<_>>(),
            "ends": self.ends.iter().map(End::json).collect::<Vec<_>>(),
            "meaning": self.meaning.iter().map(change).collect::<Vec<_>>(),
            "rows": replay(&self.rows),
            "recorded": self.recorded.as_ref().map(replay),
        })
    }
}

/// An end by `@until` that is to come.
struct End {
    at: Timestamp,
    id: String,
    spot: String,
    /// True where the old set has it, and whether the new one does.
    sides: [bool; 2],
}

impl End {
    fn json(&self) -> Value {
        let [from, to] = self.sides;
        json!({ "at": self.at, "id": self.id, "from": from, "to": to })
    }
}

/// Every end to come of both sets, the first first.
fn ends(from: &Snapshot, to: &Snapshot, now: Timestamp) -> Vec<End> {
    let mut all: Vec<End> = Vec::new();
    for (law, sides) in [(from, [true, false]), (to, [false, true])] {
        for (id, spot, at) in law.ends().into_iter().filter(|(.., at)| *at > now) {
            if let Some(both) = all.iter_mut().find(|end| (end.at, &end.id) == (at, &id)) {
                both.sides = [true, true];
                continue;
            }
            let spot = spot.map_or_else(String::new, |spot| format!("{}:{}", spot.file, spot.line));
            all.push(End { at, id, spot, sides });
        }
    }
    all.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
    all
}

fn edit(edit: Edit) -> &'static str {
    match edit {
        Edit::Added => "added",
        Edit::Removed => "removed",
        Edit::Changed => "changed",
        Edit::Reworded => "reworded",
    }
}

fn how(how: How) -> &'static str {
    match how {
        How::TypeCheck => "type-check",
        How::Sampled => "samples",
        How::Proved => "proof",
    }
}

fn spots(change: &TextChange) -> String {
    let spots: Vec<String> = [&change.from, &change.to].into_iter().flatten().map(|spot| format!("{}:{}", spot.file, spot.line)).collect();
    let says = if change.edit == Edit::Reworded { "  the same Cedar; its annotations say something else" } else { "" };
    format!("{}{says}", spots.join(" → "))
}

/// What the mark alone does not say.
fn known(change: &Change) -> String {
    match (change.mark(), change.how) {
        ('=', How::Sampled) => format!("  the same in {SAMPLES} samples; that is no proof"),
        ('~', _) => "  for another reason".into(),
        _ => String::new(),
    }
}

fn row(environment: &Environment, what: &str, witness: &Witness) -> String {
    let says = match what {
        "more" => "is permitted now",
        "less" => "is refused now",
        _ => "has another reason now",
    };
    witness.row(&format!("{environment} {says}"))
}

fn answer(ruling: &Ruling) -> String {
    let errors = if ruling.errors.is_empty() { String::new() } else { format!(" ({})", ruling.errors.join("; ")) };
    format!("{}{errors}", Want::of(ruling))
}

fn print_answers(out: &mut String, witness: &Witness) {
    let _ = writeln!(out, "       from  {}\n       to    {}", answer(&witness.from), answer(&witness.to));
}

fn print_replay(out: &mut String, title: &str, replay: &Replay) {
    let _ = writeln!(out, "\n{title}\n  {} decided by both, {} differ", replay.decided, replay.flips.len());
    for (name, witness) in &replay.flips {
        let _ = writeln!(out, "  {name}  {}", witness.case);
        print_answers(out, witness);
    }
    for (why, count) in &replay.undecided {
        let _ = writeln!(out, "  {count} cannot be decided: {why}");
    }
}

fn side(ruling: &Ruling) -> Value {
    json!({
        "decision": if ruling.code.is_none() { "allow" } else { "refuse" },
        "code": ruling.code,
        "policies": ruling.policies.as_ref(),
        "errors": ruling.errors,
    })
}
