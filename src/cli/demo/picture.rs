//! How it looks: at most 100 columns, colour where there is a terminal, the same words where there is none.
//!
//! Owns glyphs, columns and colours. Never shows a secret; it is handed none. Floor 11.

use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use super::heard::Sent;
use super::journey::{Journey, Step};
use super::refusals::Refused;
use super::world::{GUEST, OWN, Seat, World};
use crate::cli::show::cell;
use crate::domain::installation::ProviderKind;

const WIDTH: usize = 96;
const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const ACCENT: Style = AnsiColor::Cyan.on_default();

fn paint(style: Style, text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{style}{text}{style:#}") }
}

/// Said by the way.
pub(super) fn paint_faint(text: &str) -> String {
    paint(FAINT, text)
}

/// The policies' word.
pub(super) fn paint_verdict(allowed: bool) -> String {
    if allowed { paint(GOOD, "permit") } else { paint(BAD, "refuse") }
}

fn mark(good: bool) -> String {
    if good { paint(GOOD, "✔") } else { paint(BAD, "✘") }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// `1234.5 ms` in ten columns; as many blanks where nothing was measured.
fn time(at: Option<Duration>) -> String {
    at.map_or_else(|| " ".repeat(10), |at| format!("{:>7.1} ms", ms(at)))
}

/// Shows a piece of the picture. A reader that has gone away is no reason to stop.
pub(super) fn say(out: &mut (dyn Write + Send), text: &str) {
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// `── title ───────────── 12.3 ms ✔ ──`
fn rule(title: &str, tail: &str, tail_width: usize) -> String {
    let used = 3 + title.chars().count() + 1 + 1 + tail_width + 3;
    let line = "─".repeat(WIDTH.saturating_sub(used));
    format!("{} {} {} {tail} {}", paint_faint("──"), paint(STRONG, title), paint_faint(&line), paint_faint("──"))
}

/// What is about to be seen.
pub(super) fn opening(world: &World, version: &str) -> String {
    let apps = |tenant: &str| {
        let seats = world.seats.iter().filter(|seat| seat.tenant == tenant);
        seats.map(|seat| seat.profile).collect::<Vec<_>>().join(" · ")
    };
    let mut text = format!("\n{}  {}\n\n", paint(STRONG, "byoa gateway"), paint_faint("two tenants, three providers, six journeys"));
    let mut line = |name: &str, what: &str, more: &str| {
        let _ = writeln!(text, "  {}{what:<20}  {}", paint(ACCENT, &format!("{name:<11}")), paint_faint(more));
    };
    line(OWN, "its own apps", &apps(OWN));
    line(GUEST, "the platform's apps", &apps(GUEST));
    line("law", "as this build ships", &format!("version {}", version.get(..12).unwrap_or(version)));
    line("simulated", "the provider side", "which checks every token");
    line("", "the agents", "which check every signature and say back what they hear");
    let outside = format!("{} noticed outside, milliseconds after the webhook", paint(ACCENT, "●"));
    let inside = format!("{} from the gateway's own record", paint_faint("│"));
    let _ = writeln!(text, "\n  {outside}    {inside}");
    text
}

/// One journey, step by step.
pub(super) fn journey(seat: &Seat, journey: &Journey) -> String {
    let title = format!("{} · {} · {}", seat.tenant, seat.provider, seat.app_owner());
    let good = journey.wrong.is_none();
    let mut text = rule(&title, &format!("{} {}", time(journey.took), mark(good)), 12);
    text.push('\n');
    for Step { at, name, said } in &journey.steps {
        let dot = if at.is_some() { paint(ACCENT, "●") } else { paint_faint("│") };
        let _ = writeln!(text, "  {} {dot} {name:<11} {}", paint_faint(&time(*at)), said.trim_end());
    }
    if let Some(wrong) = &journey.wrong {
        let _ = writeln!(text, "  {} {} {}", time(None), mark(false), paint(BAD, wrong));
    }
    text
}

/// What came to nothing, as it should.
pub(super) fn refusals(all: &[Refused]) -> String {
    let good = all.iter().all(|refused| refused.wrong.is_none());
    let mut text = rule("what it refuses", &mark(good), 1);
    text.push('\n');
    for Refused { name, how, came_to, wrong } in all {
        let _ = writeln!(text, "  {} {name:<21} {how}", mark(wrong.is_none()));
        let _ = writeln!(text, "    {:<21} {}", "", paint_faint(came_to));
        if let Some(wrong) = wrong {
            let _ = writeln!(text, "    {:<21} {}", "", paint(BAD, wrong));
        }
    }
    text
}

/// Everything at a glance: tenants down, providers across.
pub(super) fn summary(world: &World, journeys: &[Journey], refused: &[Refused]) -> String {
    let good = journeys.iter().filter(|j| j.wrong.is_none()).count() + refused.iter().filter(|r| r.wrong.is_none()).count();
    let all = journeys.len() + refused.len();
    let mut text = rule(&format!("{good} of {all} as they should"), &mark(good == all), 1);
    text.push('\n');
    let _ = write!(text, "  {:<9}", "");
    let providers = ProviderKind::ALL.map(|provider| format!("{:<14}", provider.as_str())).join("  ");
    let _ = writeln!(text, "  {}", paint_faint(providers.trim_end()));
    for tenant in [OWN, GUEST] {
        let _ = write!(text, "  {}", paint(ACCENT, &format!("{tenant:<9}")));
        let own = world.seats.iter().zip(journeys).filter(|(seat, _)| seat.tenant == tenant);
        let cells: Vec<String> =
            own.map(|(_, journey)| format!("  {} {:<12}", mark(journey.wrong.is_none()), time(journey.took))).collect();
        let _ = writeln!(text, "{}", cells.concat().trim_end());
    }
    let marks: Vec<String> = refused.iter().map(|r| format!("{} {}", mark(r.wrong.is_none()), r.name)).collect();
    let _ = writeln!(text, "  {}  {}", paint(ACCENT, &format!("{:<9}", "refused")), marks.join("   "));
    text
}

/// Where to look from here.
pub(super) struct Next<'a> {
    /// The program as it was called.
    pub program: &'a str,
    /// `http://…`
    pub public: &'a str,
    /// `http://…`
    pub operator: &'a str,
    /// The operator's token.
    pub token_file: &'a str,
    /// What is removed in the end.
    pub folder: &'a str,
    /// Whether the operator listener has pages.
    pub console: bool,
    /// Whose webhook is simulated.
    pub seat: Option<&'a Seat>,
}

/// The two addresses.
pub(super) fn addresses(public: &str, operator: &str, console: bool) -> String {
    let line =
        |name: &str, address: &str, what: &str| format!("  {}  {address}  {}\n", paint(ACCENT, &format!("{name:<9}")), paint_faint(what));
    let rooms = if console { "console, API, metrics, health" } else { "API, metrics, health" };
    line("public", public, "webhooks, agents") + &line("operator", operator, rooms)
}

/// What to try while it runs.
pub(super) fn closing(next: &Next<'_>) -> String {
    let Next { program, operator, token_file, .. } = next;
    let mut text = rule("it keeps running", &paint(ACCENT, "●"), 1);
    text.push('\n');
    text.push_str(&addresses(next.public, operator, next.console));
    let _ = writeln!(text, "  {}  {token_file}\n", paint(ACCENT, &format!("{:<9}", "token")));
    let mut command = |what: &str, more: &[String]| {
        let _ = write!(text, "  {} {program} {what}", paint_faint("$"));
        for more in more.iter().chain([&format!("--server {operator} --token-file {token_file}")]) {
            let _ = write!(text, " \\\n      {more}");
        }
        text.push('\n');
    };
    command("get events", &[]);
    if let Some(seat) = next.seat {
        let whose = format!("--installation {} --conversation {}", seat.installation, seat.conversation);
        command(&format!("simulate {} message", seat.provider), &[whose]);
    }
    command("get refusals", &[]);
    let _ = write!(text, "\n  {} stops and removes {}", paint(STRONG, "Ctrl-C"), next.folder);
    text
}

/// A message that reached a provider while somebody looks on.
pub(super) fn seen(sent: &Sent) -> String {
    let said = |text: &str| cell(&serde_json::Value::from(text));
    let verdict = match sent.verdict {
        Ok(installation) => format!("{} taken with the token of {installation}", mark(true)),
        Err(why) => format!("{} {}", mark(false), paint(BAD, why)),
    };
    format!("  {} {} {} “{}”  {verdict}", paint(ACCENT, "●"), sent.provider, said(&sent.conversation), said(&sent.text))
}
