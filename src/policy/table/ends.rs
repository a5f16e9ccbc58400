//! The law as it will be: the rows, asked again after each end by `@until` that is to come; and whether a row shows that the
//! end of a forbid is meant. So a set that is accepted holds at every later time. Floor 5.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Effect, Policy};

use super::{Outcome, Row, Run, Tables, asked, blamed};
use crate::domain::clock::Timestamp;
use crate::domain::reason::ReasonCode;
use crate::policy::decide::{Law, until};
use crate::policy::load::{Diagnostic, LoadError, Rule, Sources};
use crate::policy::outside::at_policy;

/// A row that holds now and will not once policies have ended.
#[derive(Clone, Debug)]
pub struct After {
    /// From then on it does not hold.
    pub at: Timestamp,
    /// The policies that end then, sorted.
    pub ended: Vec<String>,
    /// The answer that will be given.
    pub outcome: Outcome,
}

impl After {
    /// `from 2026-11-27T18:00:00Z on, when "freeze" ends`
    pub fn when(&self) -> String {
        let ended: Vec<String> = self.ended.iter().map(|id| format!("`{id}`")).collect();
        format!("from {} on, when {} {}", self.at, ended.join(" and "), if ended.len() == 1 { "ends" } else { "end" })
    }
}

/// The ends that are to come, with the policies that end then.
fn coming(law: &Law) -> BTreeMap<Timestamp, BTreeSet<String>> {
    let mut ends: BTreeMap<Timestamp, BTreeSet<String>> = BTreeMap::new();
    for (policy, end) in law.policies.policies().filter_map(|policy| Some((policy, until(policy)?))) {
        ends.entry(end).or_default().insert(policy.id().to_string());
    }
    ends
}

fn broken(error: String) -> LoadError {
    LoadError::new(ReasonCode::PolicyInvalid, vec![Diagnostic::of_file(Rule::Until, "policies", error)])
}

impl Tables {
    /// The rows without a time of their own that do not hold after an end to come; each at its first such end.
    ///
    /// Taking a policy out changes an answer only where that policy is one that decides it, so few rows are asked again.
    pub(super) fn after(&self, law: &Law, now: &[Outcome]) -> Result<Vec<After>, LoadError> {
        let ends = coming(law);
        let mut laws: BTreeMap<(Timestamp, &[String]), Law> = BTreeMap::new();
        let mut all = Vec::new();
        for (row, outcome) in self.rows.iter().zip(now).filter(|(row, outcome)| row.at.is_none() && outcome.ok) {
            let mut outcome = outcome.clone();
            for (at, ended) in &ends {
                if !outcome.got.policies.iter().any(|id| ended.contains(id)) {
                    continue;
                }
                let later = match laws.entry((*at, row.without.as_slice())) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(vacant) => {
                        // A row may take out itself what has ended by then.
                        let gone: BTreeSet<String> = ends.range(..=*at).flat_map(|(_, ids)| ids).chain(&row.without).cloned().collect();
                        let gone: Vec<String> = gone.into_iter().collect();
                        vacant.insert(law.without(&gone).map_err(broken)?)
                    }
                };
                outcome = asked(later, outcome.row, row);
                if !outcome.ok {
                    all.push(After { at: *at, ended: ended.iter().cloned().collect(), outcome });
                    break;
                }
            }
        }
        Ok(all)
    }

    /// The row that an [`After`] is about.
    pub fn row_of(&self, after: &After) -> Option<&Row> {
        self.rows.get(after.outcome.row)
    }

    pub(super) fn wrong_after(&self, after: &After) -> Option<Diagnostic> {
        let row = self.row_of(after)?;
        let said = self.said(row, &after.outcome)?;
        let fault = self.at_name(row, format!("{}: {said}; say with `at` as of when the row holds", after.when()))?;
        Some(fault.of_orgs(blamed(&row.want, &after.outcome.got)))
    }

    /// Each forbid that ends while no row shows that it is meant: none is asked as of its end or later, and would be answered
    /// by the forbid if it were still there.
    pub(in crate::policy) fn unmeant(&self, law: &Law, sources: &Sources) -> Result<Vec<Diagnostic>, LoadError> {
        let forbids: Vec<(&Policy, Timestamp)> =
            law.policies.policies().filter(|policy| policy.effect() == Effect::Forbid).filter_map(|p| Some((p, until(p)?))).collect();
        if forbids.is_empty() {
            return Ok(vec![]);
        }
        let laws = self.laws(law, sources)?;
        let mut faults = Vec::new();
        for (forbid, end) in forbids {
            let shows = |row: &Row| {
                let id = forbid.id().to_string();
                let asked_after = row.at.is_some_and(|at| at >= end) && !row.without.contains(&id);
                let later = laws.get(&(row.at, row.without.as_slice())).filter(|_| asked_after)?;
                let mut policies = later.policies.clone();
                policies.add(forbid.clone()).ok()?;
                let ruling = row.case.ruled(&later.with(policies).ok()?).ok()?;
                ruling.policies.contains(&id).then_some(())
            };
            if !self.rows.iter().any(|row| shows(row).is_some()) {
                let message = format!(
                    "this forbid ends {end}, and nothing is refused by it any more: show in a row with `at: {end}` what is answered then"
                );
                faults.push(at_policy(law, sources, Rule::Until, forbid.id(), message));
            }
        }
        Ok(faults)
    }

    /// Everything that is wrong with the ends to come: rows that will not hold, and forbids whose end no row shows.
    pub(in crate::policy) fn ends(&self, law: &Law, sources: &Sources, run: &Run) -> Result<Vec<Diagnostic>, LoadError> {
        let mut faults: Vec<Diagnostic> = run.after.iter().filter_map(|after| self.wrong_after(after)).collect();
        faults.extend(self.unmeant(law, sources)?);
        Ok(faults)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::super::{read, validate};
    use super::super::tests::{TABLE, of, said};
    use super::*;

    /// What is said of the ends to come, of a forbid that ends and of these rows.
    fn ends(until: &[&str], rows: &str, now: &str) -> Vec<String> {
        let disk = Disk::starter();
        let freeze = |(n, end): (usize, &&str)| {
            format!(
                "@id(\"freeze{n}\") @reason(\"r\") @code(\"policy.forbidden\") @until(\"{end}\")\n\
                 forbid (principal, action == Byoa::Action::\"RouteMessage\", resource) when {{ context.fromBot || {n} == 0 }};\n"
            )
        };
        disk.write("platform/95-freeze.cedar", &until.iter().enumerate().map(freeze).collect::<String>());
        let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        let tables = of(&format!("{}rows:\n{rows}", TABLE.split_once("rows:\n").unwrap().0)).unwrap_or_else(|e| panic!("{e}"));
        let law = validate::law(&sources, Timestamp::parse(now).unwrap()).unwrap();
        let run = tables.run_on(&law, &sources).unwrap();
        assert!(run.results.iter().all(|outcome| outcome.ok), "{:?}", said(&run));
        let faults = tables.ends(&law, &sources, &run).unwrap();
        faults.into_iter().map(|fault| format!("{}: {}", fault.line, fault.message)).collect()
    }

    const FROZEN: &str = "{decision: refuse, code: policy.forbidden, policies: [freeze0]}";
    const FREE: &str = "{decision: allow, policies: [route.byoa]}";

    #[test]
    fn a_row_holds_after_each_end_or_says_as_of_when() {
        let [before, first, second] = ["2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z", "2026-12-01T00:00:00Z"];
        let row = |more: &str, want: &str| {
            format!("  - {{name: x{}, {more} want: {want}}}\n", more.chars().filter(char::is_ascii_alphanumeric).collect::<String>())
        };
        let shown = row(&format!("at: \"{first}\","), FREE);
        let told = |ends_at: &[&str], rows: &str| ends(ends_at, rows, before).join("\n");
        let later = "16: from 2026-11-27T00:00:00.000Z on, when `freeze0` ends: wants refuse policy.forbidden by freeze0, got allow by route.byoa; \
            say with `at` as of when the row holds";
        assert_eq!(told(&[first], &format!("{shown}{}", row("", FROZEN))), later);
        // Each end is asked, with all that have ended by then taken out: what two forbids refuse is refused by one, then by none.
        let bot = "context: {fromBot: true},";
        let of_two = row(&format!("{bot} at: \"{second}\","), FREE);
        let both = "{decision: refuse, code: policy.forbidden, policies: [freeze0, freeze1]}";
        let said = told(&[first, second], &format!("{shown}{of_two}{}", row(bot, both)));
        assert!(said.starts_with("17: from 2026-11-27") && said.contains("got refuse policy.forbidden by freeze1"), "{said}");
        let one = "{decision: refuse, code: policy.forbidden, policies: [freeze1]}";
        let said = told(&[first, second], &format!("{shown}{of_two}{}", row(&format!("{bot} without: [freeze0],"), one)));
        assert!(said.starts_with("17: from 2026-12-01") && said.contains("when `freeze1` ends") && said.contains("got allow"), "{said}");
        // A row that takes the policy out itself, and one with a time of its own.
        let fine = format!("{shown}{}{}", row("without: [freeze0],", FREE), row(&format!("at: \"{before}\","), FROZEN));
        assert_eq!(told(&[first], &fine), "");
    }

    #[test]
    fn the_end_of_a_forbid_is_shown_by_a_row() {
        let (end, before) = ("2026-11-27T00:00:00Z", "2026-11-26T00:00:00Z");
        let row = |at: &str, more: &str| format!("  - {{name: x, at: \"{at}\", {more}}}\n");
        let frozen = format!("  - {{name: frozen, at: \"{before}\", want: {FROZEN}}}\n");
        let told = |rows: &str| ends(&[end], &format!("{frozen}{rows}"), before).join("\n");
        assert_eq!(told(&row(end, &format!("want: {FREE}"))), "");
        assert_eq!(told(&row("2027-01-01T00:00:00Z", &format!("want: {FREE}"))), "");
        // Too early; about what the forbid never refused; with the forbid taken out by hand.
        let other = "principal: PlatformInstallation plat, resource: OrgAgent acme-support, without: [freeze0]";
        for rows in [
            String::new(),
            row("2026-11-26T12:00:00Z", &format!("want: {FROZEN}")),
            row(end, &format!("without: [freeze0], want: {FREE}")),
            row(end, &format!("{other}, want: {{decision: allow, policies: [route.platform.org-agent]}}")),
        ] {
            let want = "1: this forbid ends 2026-11-27T00:00:00.000Z, and nothing is refused by it any more: show in a row with \
                `at: 2026-11-27T00:00:00.000Z` what is answered then";
            assert_eq!(told(&rows), want, "{rows}");
        }
        // Once it has ended there is nothing left to show.
        assert_eq!(ends(&[end], &frozen, end), Vec::<String>::new());
    }
}
