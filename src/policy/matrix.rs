//! The whole law at a glance: for every kind of request, and of operators for every role, whether it is never, sometimes or
//! always permitted, which policies can say so, and how that is known. Decides nothing and prints nothing. Floor 5.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::envelope::{self, ENVELOPE};
use super::reach::{Clauses, Line};
use super::sample::Sampler;
use super::{Snapshot, limits};

/// Requests that are tried where types alone do not settle a line.
pub const SAMPLES: u64 = 4_000;

/// How much of a kind of request, or of one line of it, is permitted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// None is.
    Never,
    /// Some are, some are not.
    Sometimes,
    /// All are.
    Always,
}

/// How something is known of all requests of one kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum How {
    /// From scopes and types: certain.
    TypeCheck,
    /// From requests that were tried. That both answers occur is certain then; that only one does is not.
    Sampled,
    /// By a solver: certain.
    Proved,
}

/// Asks a solver about a line; none where it has no answer. It is asked only where nothing else settles a line.
pub type Prover<'p> = &'p dyn Fn(&Line) -> Option<Verdict>;

/// One line of the law with what becomes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Which requests.
    pub line: Line,
    /// Whether they are permitted.
    pub verdict: Verdict,
    /// How that is known.
    pub how: How,
    /// The permits that can apply, sorted.
    pub permits: Vec<String>,
    /// The forbids that can apply, sorted.
    pub forbids: Vec<String>,
}

impl Cell {
    /// Whether the verdict is certain.
    pub fn is_certain(&self) -> bool {
        self.how != How::Sampled || self.verdict == Verdict::Sometimes
    }
}

impl Snapshot {
    /// Every line, sorted.
    pub fn matrix(&self, prover: Option<Prover<'_>>) -> Vec<Cell> {
        limits::with_most_room(|| self.cells(prover))
    }

    fn cells(&self, prover: Option<Prover<'_>>) -> Vec<Cell> {
        let law = &self.law;
        let policies = Clauses::of(&law.policies);
        let bounds = envelope::parse(ENVELOPE).unwrap_or_default();
        let bounds = Clauses::of(&bounds);
        let sampler = Sampler::new(&[&law.policies]);
        let mut samplers: BTreeMap<Option<String>, Sampler> = BTreeMap::new();
        let cell = |line: Line| {
            let applies = |clauses: &Clauses<'_>| clauses.applies(&line, &law.base);
            let able: Vec<(&Clauses<'_>, Option<bool>)> =
                policies.iter().map(|c| (c, applies(c))).filter(|(_, applies)| *applies != Some(false)).collect();
            let ids = |permits| able.iter().filter(|(c, _)| c.permits == permits).map(|(c, _)| c.policy.id().to_string()).collect();
            let (permits, forbids): (Vec<String>, Vec<String>) = (ids(true), ids(false));
            let never = permits.is_empty()
                || able.iter().any(|(c, applies)| !c.permits && *applies == Some(true))
                || bounds.iter().all(|c| applies(c) == Some(false));
            // A policy that depends on anything could err, and an error refuses.
            let always = able.iter().all(|(_, applies)| *applies == Some(true)) && bounds.iter().any(|c| applies(c) == Some(true));
            let (verdict, how) = match (never, always) {
                (true, _) => (Verdict::Never, How::TypeCheck),
                (_, true) => (Verdict::Always, How::TypeCheck),
                _ => {
                    let of_role = || line.role.as_deref().map_or_else(|| sampler.clone(), |role| sampler.of_role(role));
                    let sampler = samplers.entry(line.role.clone()).or_insert_with(of_role);
                    match (self.tried(sampler, &line), prover) {
                        (Verdict::Sometimes, _) => (Verdict::Sometimes, How::Sampled),
                        (seen, prover) => prover.and_then(|ask| ask(&line)).map_or((seen, How::Sampled), |proved| (proved, How::Proved)),
                    }
                }
            };
            Cell { line, verdict, how, permits, forbids }
        };
        Line::all().into_iter().map(cell).collect()
    }

    fn tried(&self, sampler: &Sampler, line: &Line) -> Verdict {
        let (mut permitted, mut refused) = (false, false);
        for n in 0..SAMPLES {
            let Ok(ruling) = sampler.case(&line.environment, n).ruled(&self.law) else { continue };
            *(if ruling.code.is_none() { &mut permitted } else { &mut refused }) = true;
            if permitted && refused {
                return Verdict::Sometimes;
            }
        }
        if permitted { Verdict::Always } else { Verdict::Never }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Sometimes => "sometimes",
            Self::Always => "always",
        })
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TypeCheck => "by type-check",
            Self::Sampled => "by sample",
            Self::Proved => "proved",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::super::law_tests::Disk;
    use super::*;

    const LAW: &str = r#"
@id("look") @reason("r") permit (principal is Byoa::Operator, action == Byoa::Action::"ReadAudit", resource);
@id("both") @reason("r") permit (principal in Byoa::Role::"viewer", action == Byoa::Action::"ViewResources", resource)
when { principal.mfa || !principal.mfa };
@id("neither") @reason("r") permit (principal in Byoa::Role::"security", action == Byoa::Action::"ViewResources", resource)
when { principal.mfa && [false].contains(principal.mfa) };
@id("with-a-second-factor") @reason("r") permit (principal in Byoa::Role::"operator", action == Byoa::Action::"ViewResources", resource)
when { principal.mfa };
@id("nobody-looks") @reason("r") @code("policy.forbidden")
forbid (principal in Byoa::Role::"security", action == Byoa::Action::"ReadAudit", resource);
@id("now-and-then") @reason("r") @code("policy.forbidden")
forbid (principal in Byoa::Role::"viewer", action == Byoa::Action::"ReadAudit", resource) when { !principal.mfa };
@id("may-err") @reason("r") permit (principal in Byoa::Role::"operator", action == Byoa::Action::"ReadAudit", resource) when { principal.mfa };
@id("bounded") @reason("r") permit (principal in Byoa::Role::"security", action == Byoa::Action::"RevokeSecret", resource is Byoa::OrgAgent);
@id("beyond") @reason("r") permit (principal is Byoa::PlatformAgent, action, resource is Byoa::ByoaInstallation);
"#;

    fn law() -> Snapshot {
        let disk = Disk::empty();
        disk.write("a.cedar", LAW);
        disk.load().unwrap_or_else(|e| panic!("{e}"))
    }

    fn told(cells: &[Cell]) -> String {
        let about = |cell: &&Cell| !cell.permits.is_empty() || !cell.forbids.is_empty();
        let line = |cell: &Cell| {
            let star = if cell.is_certain() { "" } else { "*" };
            format!("{}: {}{star} {}; {} | {}", cell.line, cell.verdict, cell.how, cell.permits.join(" "), cell.forbids.join(" "))
        };
        cells.iter().filter(about).map(|cell| line(cell).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_line_says_what_is_known_and_how() {
        let cells = law().matrix(None);
        assert!(cells.is_sorted_by_key(|cell| &cell.line));
        let rest = cells.iter().filter(|cell| cell.permits.is_empty() && cell.forbids.is_empty());
        assert!(rest.clone().count() > 60 && rest.into_iter().all(|cell| (cell.verdict, cell.how) == (Verdict::Never, How::TypeCheck)));
        insta::assert_snapshot!(told(&cells), @r#"
        Operator(operator) ReadAudit Gateway: always* by sample; look may-err |
        Operator(release-manager) ReadAudit Gateway: always by type-check; look |
        Operator(security) ReadAudit Gateway: never by type-check; look | nobody-looks
        Operator(viewer) ReadAudit Gateway: sometimes by sample; look | now-and-then
        Operator(security) RevokeSecret OrgAgent: sometimes by sample; bounded |
        Operator(operator) ViewResources Gateway: sometimes by sample; with-a-second-factor |
        Operator(security) ViewResources Gateway: never* by sample; neither |
        Operator(viewer) ViewResources Gateway: always* by sample; both |
        PlatformAgent CallProviderMethod ByoaInstallation: never by type-check; beyond |
        PlatformAgent SendMessage ByoaInstallation: never by type-check; beyond |
        "#);
    }

    #[test]
    fn a_solver_is_asked_where_nothing_else_settles_it() {
        let asked = RefCell::new(Vec::new());
        let prover = |line: &Line| {
            asked.borrow_mut().push(line.to_string());
            (line.role.as_deref() == Some("viewer")).then_some(Verdict::Always)
        };
        let cells = law().matrix(Some(&prover));
        let uncertain =
            ["Operator(operator) ReadAudit Gateway", "Operator(security) ViewResources Gateway", "Operator(viewer) ViewResources Gateway"];
        assert_eq!(asked.into_inner(), uncertain);
        let proved: Vec<&Cell> = cells.iter().filter(|cell| cell.how == How::Proved).collect();
        assert_eq!(told(&[proved[0].clone()]), "Operator(viewer) ViewResources Gateway: always proved; both |");
        assert_eq!((proved.len(), cells.iter().filter(|cell| !cell.is_certain()).count()), (1, 2));
    }
}
