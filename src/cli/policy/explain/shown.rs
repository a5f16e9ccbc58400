//! Explanations for people.

use anstyle::{AnsiColor, Style};
use serde_json::Value;

use super::{Again, Fared, Recorded};
use crate::cli::show::cell;
use crate::policy::case::bare;
use crate::policy::explain::{Considered, Explanation, Outcome, Part, Verdict};
use crate::routing::{Standing, Unmet};

/// Where the words of a condition end and its text begins.
const WORD: usize = 5;

pub(super) fn again(again: &Again) -> String {
    let Again { id, at, recorded, same_version, same_answer, explanation: now } = again;
    let Recorded { allowed, code, policies, version } = recorded;
    let answer = if *allowed { "permitted".to_owned() } else { format!("refused {}", code.as_deref().unwrap_or_default()) };
    let by = if policies.is_empty() { String::new() } else { format!(" by {}", policies.join(", ")) };
    let law = match same_version {
        true => format!("the law on disk is the one that decided, {}", version_of(version)),
        false => format!("the law on disk is another: {}, not {}", version_of(&now.version), version_of(version)),
    };
    let outcome = if *same_answer { "its answer to the recorded facts is the same" } else { "its answer to the recorded facts is ANOTHER" };
    format!("{}  {}\n  recorded  {answer}{by}\n  now       {law}; {outcome}\n\n{}", cell_of(id), cell_of(at), explanation(now))
}

pub(super) fn event(journey: &Value, decisions: &[Again], bindings: Option<&[Fared]>) -> String {
    let text = |name: &str| cell(&journey[name]);
    let mut said = format!(
        "{}  {}  received {}\n  {} of {} to agent {}\n",
        text("id"),
        text("kind"),
        text("received_at"),
        text("installation"),
        text("org"),
        text("agent")
    );
    said += "\nbindings of its installation, as they are declared now\n";
    match bindings {
        None => said += "  the installation is not there any more\n",
        Some([]) => said += "  none\n",
        Some(all) => {
            let rows: Vec<(String, String)> = all.iter().map(|f| (f.binding.id.to_string(), standing(f))).collect();
            let width = rows.iter().map(|(id, _)| id.len()).max().unwrap_or(0);
            for (id, why) in rows {
                said += &format!("  {id:width$}  {why}\n");
            }
        }
    }
    for decision in decisions {
        said += &format!("\n{}", again(decision));
    }
    let sends = journey["sends"].as_array().into_iter().flatten();
    let answered: Vec<String> = sends
        .flat_map(|send| send["decisions"].as_array().into_iter().flatten())
        .map(|row| {
            format!("  {}  {}  {}\n", cell(&row["id"]), cell(&row["action"]), if row["allowed"] == true { "permitted" } else { "refused" })
        })
        .collect();
    if !answered.is_empty() {
        said += &format!("\nsends of its session; explain each with --decision\n{}", answered.concat());
    }
    said
}

fn standing(fared: &Fared) -> String {
    match &fared.standing {
        Standing::Hears if fared.binding.is_legacy() => format!("hears it as a legacy binding: agent {}", fared.binding.agent),
        Standing::Hears => format!("hears it: agent {}", fared.binding.agent),
        Standing::Disabled => "disabled".to_owned(),
        Standing::Unmet(Unmet { selector, wanted, actual }) => match actual {
            Some(actual) => format!("selects {selector} {}, the event has {}", cell_of(wanted), cell_of(actual)),
            None => format!("selects {selector} {}, the event has none", cell_of(wanted)),
        },
        Standing::LessSpecific { than, names } => format!("less specific than {than}, which names a {names}"),
        Standing::LaterPriority { than } => format!("priority {} comes after that of {than}", fared.binding.priority),
        Standing::LegacyLast { than } => format!("names a provider only; {than} is the installation's own and hears it"),
        Standing::Ambiguous => "names a provider only, and the org has several installations of that".to_owned(),
        Standing::LaterId { than } => format!("its id comes after {than}, all else being equal"),
    }
}

pub(super) fn explanation(said: &Explanation) -> String {
    let bold = Style::new().bold();
    let (word, style) = match said.verdict {
        Verdict::Permitted => ("PERMITTED", AnsiColor::Green.on_default().bold()),
        _ => ("REFUSED", AnsiColor::Red.on_default().bold()),
    };
    let code = said.code.map(|code| format!("  {code}: {}", code.meaning())).unwrap_or_default();
    let mut text = format!("{style}{word}{style:#}{code}\n  {}\n", kind(said.verdict));
    for (name, value) in [
        ("who", cell_of(bare(&said.principal))),
        ("asks", said.action.clone()),
        ("about", cell_of(bare(&said.resource))),
        ("version", version_of(&said.version)),
    ] {
        text += &format!("  {name:8}{value}\n");
    }
    for error in &said.errors {
        text += &format!("  {:8}{}\n", "error", cell_of(error));
    }
    let (decided, others): (Vec<&Considered>, Vec<&Considered>) = said.policies.iter().partition(|p| said.deciding.contains(&p.id));
    let rest = match said.verdict {
        Verdict::NotPermitted => {
            let (permits, forbids): (Vec<&Considered>, Vec<&Considered>) = others.into_iter().partition(|p| p.effect == "permit");
            vec![("permits that concern it, the nearest first", permits), ("forbids that concern it and did not match", forbids)]
        }
        _ => vec![("also concern it", others)],
    };
    let sections = std::iter::once(("decided by", decided))
        .chain(rest)
        .chain(std::iter::once(("the gateway's own bounds, the nearest first", said.envelope.iter().collect())));
    for (title, policies) in sections {
        if policies.is_empty() {
            continue;
        }
        text += &format!("\n{bold}{title}{bold:#}\n");
        policies.into_iter().for_each(|policy| text += &considered(policy));
    }
    if said.verdict == Verdict::NotPermitted && said.policies.iter().all(|p| p.effect == "forbid") {
        text += &format!("\nno permit has {} in its scope\n", said.environment);
    }
    text
}

fn kind(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Permitted => "a policy permits it, none forbids it, and it is within the gateway's own bounds",
        Verdict::Error => "a policy could not be evaluated, which refuses whatever others say",
        Verdict::Forbidden => "a policy forbids it, whatever others permit",
        Verdict::OutsideEnvelope => "the policies permit it, the gateway's own bounds do not: the policies are wrong",
        Verdict::NotPermitted => "no policy forbids it, and none permits it",
        Verdict::NotApplicable => "the policies were not asked: the question does not fit the schema",
    }
}

fn considered(policy: &Considered) -> String {
    let place = match &policy.file {
        Some(file) => format!("{file}:{}", policy.line),
        None => format!("built in, envelope.cedar:{}", policy.line),
    };
    let came = match policy.outcome {
        Outcome::True => "matches",
        Outcome::Error => "errs",
        Outcome::False | Outcome::NotReached => "does not match",
    };
    let bold = Style::new().bold();
    let mut text = format!("  {bold}{}{bold:#}  {}  {}  {came}\n", policy.id, policy.effect, cell_of(&place));
    if let Some(reason) = &policy.reason {
        text += &format!("    {}\n", cell_of(reason));
    }
    for clause in &policy.clauses {
        // What stopped the policy: in a `when` what is false, in an `unless` that all of it is true.
        let blamed = match clause.kind {
            "when" => Some(Outcome::False),
            _ => clause.parts.iter().all(|part| part.outcome == Outcome::True).then_some(Outcome::True),
        };
        if clause.kind != "when" || policy.clauses.len() > 1 {
            text += &format!("    {}\n", clause.kind);
        }
        let indent = if clause.kind == "when" && policy.clauses.len() == 1 { 4 } else { 6 };
        clause.parts.iter().for_each(|one| text += &part(one, indent, blamed));
    }
    text
}

fn part(part: &Part, indent: usize, blamed: Option<Outcome>) -> String {
    let (word, style) = match part.outcome {
        Outcome::True if blamed == Some(Outcome::True) => ("TRUE", AnsiColor::Red.on_default()),
        Outcome::True => ("true", AnsiColor::Green.on_default()),
        Outcome::False if blamed == Some(Outcome::False) => ("FALSE", AnsiColor::Red.on_default()),
        Outcome::False => ("false", Style::new()),
        Outcome::Error => ("ERROR", AnsiColor::Red.on_default()),
        Outcome::NotReached => ("-", Style::new()),
    };
    let head = |what: &str| format!("{:indent$}{style}{word:WORD$}{style:#}  {what}\n", "");
    let under = indent + WORD + 2;
    let mut text = if part.any_of.is_empty() { head(&cell_of(&part.text)) } else { head("one of") };
    if let Some(error) = &part.error {
        text += &format!("{:under$}{}\n", "", cell_of(error));
    }
    // `principal.active` is its own value.
    let read: Vec<String> = part
        .read
        .iter()
        .filter(|read| part.text.trim_start_matches('!') != read.path)
        .map(|read| format!("{} = {}", read.path, read.value))
        .collect();
    if !read.is_empty() {
        let dim = Style::new().dimmed();
        text += &format!("{:under$}{dim}{}{dim:#}\n", "", cell_of(&read.join(", ")));
    }
    let blamed = blamed.filter(|blamed| part.outcome == *blamed);
    for alternative in &part.any_of {
        for (at, one) in alternative.iter().enumerate() {
            let inner = self::part(one, under + 2, blamed);
            // A dash begins each alternative.
            let mark = if at == 0 { "- " } else { "  " };
            text += &format!("{:under$}{mark}{}", "", inner.get(under + 2..).unwrap_or_default());
        }
    }
    text
}

fn version_of(version: &str) -> String {
    let short: String = version.chars().take(8).collect();
    if short.is_empty() { "none".to_owned() } else { format!("{}…", cell_of(&short)) }
}

/// What others wrote, made fit for a terminal.
fn cell_of(text: &str) -> String {
    cell(&Value::String(text.to_owned()))
}
