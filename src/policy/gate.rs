//! The decision tables as a gate: a set that answers one row otherwise decides nothing. Beside the answers it holds two things
//! that no row has to say: nothing is permitted outside the envelope, and the index answers what the whole set answers.
//! Floor 5.

use std::collections::BTreeSet;

use super::Snapshot;
use super::decide::Law;
use super::index::Index;
use super::load::{Diagnostic, LoadError, Rule, Sources};
use super::outside;
use super::table::{Row, Tables};
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// Policies that are visited to compare the index with the whole set; rows are left out evenly beyond that.
const VISITS_MAX: usize = 200_000;

/// Holds a policy set to the envelope, whatever the tables say.
///
/// # Errors
/// `policy.outside_envelope` with every permit that leaves it.
pub(super) fn within_bounds(law: &Law, sources: &Sources) -> Result<(), LoadError> {
    let faults = outside::faults(law, sources);
    if faults.is_empty() { Ok(()) } else { Err(LoadError::new(ReasonCode::PolicyOutsideEnvelope, faults)) }
}

/// Holds the ends by `@until` that are to come to the tables: what there is to say of a set by itself.
///
/// # Errors
/// `policy.invalid` where a table does not read, `policy.table_failed` with every row that will not hold and every forbid whose
/// end no row shows.
pub(super) fn ends(law: &Law, sources: &Sources) -> Result<(), LoadError> {
    if law.expires_at.is_none() {
        return Ok(());
    }
    let tables = Tables::read(sources)?;
    let faults = tables.ends(law, sources, &tables.run_on(law, sources)?)?;
    if faults.is_empty() { Ok(()) } else { Err(LoadError::new(ReasonCode::PolicyTableFailed, faults)) }
}

/// Runs every row on a set that wants in, as it is and as it will be after each end; says how many there were. A row that one of
/// the `excused` orgs is to blame for does not count: that org's folder is rejected already, and the row may be about what was in
/// it.
///
/// # Errors
/// `policy.invalid` where a table does not read, `policy.table_failed` with every row that does not hold or will not, and with
/// every forbid whose end no row shows.
pub(super) fn run(sources: &Sources, snapshot: &Snapshot, excused: &BTreeSet<OrgId>) -> Result<usize, LoadError> {
    let (mut tables, law) = (Tables::read(sources)?, &snapshot.law);
    tables.leave_out(excused);
    let run = tables.run_on(law, sources)?;
    let mut faults = run.faults();
    faults.extend(tables.unmeant(law, sources)?);
    let plain = |row: &&Row| row.without.is_empty() && row.at.is_none();
    for (row, outcome) in tables.rows().iter().zip(&run.results).filter(|(row, _)| plain(row)) {
        if outcome.got.code == Some(ReasonCode::PolicyOutsideEnvelope) {
            let by = outcome.got.policies.join(", ");
            faults.push(at(row, format!("{by} permits what the gateway's own bounds do not: {}", row.case)));
        }
    }
    let rows: Vec<&Row> = tables.rows().iter().filter(plain).collect();
    let stride = (rows.len() * law.policies.num_of_policies()).div_ceil(VISITS_MAX).max(1);
    faults.extend(
        rows.iter()
            .step_by(stride)
            .filter(|row| !index_agrees(law, row))
            .map(|row| at(row, "the index answers otherwise than the whole set: this is a fault of the gateway, please report it".into())),
    );
    faults.retain(|fault| fault.orgs.is_empty() || !fault.orgs.iter().all(|org| excused.contains(org)));
    if faults.is_empty() { Ok(tables.rows().len()) } else { Err(LoadError::new(ReasonCode::PolicyTableFailed, faults)) }
}

fn index_agrees(law: &Law, row: &Row) -> bool {
    // What is no request is a fault of its own.
    row.case
        .request(law)
        .is_ok_and(|(request, entities)| law.asked(&request, &entities) == Index::authorize_unindexed(&law.policies, &request, &entities))
}

fn at(row: &Row, message: String) -> Diagnostic {
    Diagnostic { line: row.line, ..Diagnostic::of_file(Rule::Table, &row.file, format!("{}: {message}", row.name)) }
}

#[cfg(test)]
mod tests {
    use super::super::accept::Terms;
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::read;
    use super::*;
    use crate::domain::clock::Timestamp;

    const TABLE: &str = "about: Whom operators are.\nask: ReplayDelivery\ngiven: {Operator ann: {mfa: true, role: viewer}}\n\
        defaults: {principal: Operator ann, resource: Gateway byoa}\nrows:\n";

    fn gate(disk: &Disk) -> Result<usize, LoadError> {
        let terms = Terms {
            dir: disk.path().to_owned(),
            schema: SCHEMA_FILE.into(),
            gate_tables: true,
            require_lock: false,
            platform_limits: Default::default(),
        };
        let sources = terms.read().unwrap();
        terms.accept_whole(&sources, Timestamp::default()).map(|(_, rows)| rows)
    }

    fn said(disk: &Disk) -> String {
        let error = gate(disk).unwrap_err();
        let all = error.diagnostics.iter().map(|d| d.to_string().replace(&disk.path().display().to_string(), ""));
        format!("{} {}", error.code, all.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_set_that_answers_a_row_otherwise_is_not_taken() {
        let disk = Disk::starter();
        assert_eq!(gate(&disk), Ok(0), "no tables, no gate");
        let no = "  - {name: a viewer does not replay, want: {decision: refuse, code: policy.no_permit, policies: []}}\n";
        disk.write("tables/a.yaml", &format!("{TABLE}{no}"));
        assert_eq!(gate(&disk), Ok(1));
        let yes = "  - {name: a viewer replays, want: {decision: allow, policies: [operate.change.operator]}}\n";
        disk.write("tables/a.yaml", &format!("{TABLE}{no}{yes}"));
        let want =
            "policy.table_failed /tables/a.yaml:7:12: wants allow by operate.change.operator, got refuse policy.no_permit by no policy";
        assert_eq!(said(&disk), want);
    }

    #[test]
    fn what_the_envelope_does_not_admit_is_not_taken_even_where_a_row_wants_it() {
        let disk = Disk::starter();
        let wide = "@id(\"wide\") @reason(\"r\")\npermit (principal in Byoa::Role::\"viewer\", action == Byoa::Action::\"ReplayDelivery\", resource);\n";
        disk.write("platform/99-wide.cedar", wide);
        let row = "  - {name: a viewer replays, want: {decision: refuse, code: policy.outside_envelope, policies: [wide]}}\n";
        disk.write("tables/a.yaml", &format!("{TABLE}{row}"));
        let want = "policy.outside_envelope /platform/99-wide.cedar:1:1: this permits nothing: the gateway's own bounds refuse every \
            request that it matches, as Operator(viewer) ReplayDelivery Gateway";
        assert_eq!(said(&disk), want);
        // The rows alone say so too: they may ask what nobody thought of.
        let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        let error = run(&sources, &Snapshot::build(&sources, Timestamp::default()).unwrap(), &BTreeSet::new()).unwrap_err();
        let want =
            "a viewer replays: wide permits what the gateway's own bounds do not: Operator::\"ann\" ReplayDelivery Gateway::\"byoa\"";
        assert_eq!((error.code, error.diagnostics[0].message.as_str()), (ReasonCode::PolicyTableFailed, want));
    }

    #[test]
    fn what_was_accepted_is_accepted_at_every_later_time() {
        let disk = Disk::starter();
        let policy = |id: &str, until: &str, text: &str| format!("@id(\"{id}\") @reason(\"r\") @until(\"{until}\") {text};\n");
        let scope = "(principal is Byoa::Operator, action == Byoa::Action::\"ReplayDelivery\", resource)";
        disk.write(
            "platform/99.cedar",
            &(policy("help", "2030-01-02T00:00:00Z", "permit (principal in Byoa::Role::\"release-manager\", action == Byoa::Action::\"ReplayDelivery\", resource) when { principal.mfa }")
                + &policy("freeze", "2030-01-01T00:00:00Z", &format!("@code(\"policy.forbidden\") forbid {scope}"))),
        );
        let refuse = |code: &str, by: &str| format!("want: {{decision: refuse, code: {code}, policies: [{by}]}}");
        let (frozen, no) = (refuse("policy.forbidden", "freeze"), refuse("policy.no_permit", ""));
        let help = "want: {decision: allow, policies: [help]}";
        let table = |rows: &[(&str, &str)]| {
            let head = TABLE.replace("role: viewer", "role: release-manager");
            let row = |(n, (at, want)): (usize, &(&str, &str))| format!("  - {{name: r{n}, {at} {want}}}\n");
            disk.write("tables/a.yaml", &format!("{head}{}", rows.iter().enumerate().map(row).collect::<String>()));
        };
        let at = |time: &str| {
            let terms = Terms {
                dir: disk.path().to_owned(),
                schema: SCHEMA_FILE.into(),
                gate_tables: true,
                require_lock: false,
                platform_limits: Default::default(),
            };
            let said =
                |e: LoadError| format!("{} {}", e.code, e.diagnostics.iter().map(|d| d.message.as_str()).collect::<Vec<_>>().join("; "));
            terms.accept_whole(&terms.read().unwrap(), Timestamp::parse(time).unwrap()).map(|(_, rows)| rows).map_err(said)
        };
        let times =
            ["2029-12-31T00:00:00Z", "2030-01-01T00:00:00Z", "2030-01-01T12:00:00Z", "2030-01-02T00:00:00Z", "2031-01-01T00:00:00Z"];
        // As it is before the first end, and nothing else: accepted it would fail at the next start.
        table(&[("at: 2030-01-01T00:00:00Z,", help), ("", &frozen)]);
        let said = at(times[0]).unwrap_err();
        assert!(said.starts_with("policy.table_failed from 2030-01-01T00:00:00.000Z on, when `freeze` ends: wants"), "{said}");
        // The second end counts too.
        table(&[("at: 2030-01-01T00:00:00Z,", help), ("at: 2029-12-31T00:00:00Z,", &frozen)]);
        assert_eq!(at(times[0]), Ok(2));
        table(&[("", help)]);
        let said = at(times[2]).unwrap_err();
        assert!(said.starts_with("policy.table_failed from 2030-01-02T00:00:00.000Z on, when `help` ends: wants"), "{said}");
        table(&[("at: 2029-12-31T00:00:00Z,", &frozen), ("at: 2030-01-01T00:00:00Z,", help), ("at: 2030-01-02T00:00:00Z,", &no)]);
        assert_eq!(times.map(at), [Ok(3), Ok(3), Ok(3), Ok(3), Ok(3)]);
    }

    #[test]
    fn a_table_that_does_not_read_is_a_fault_of_the_set() {
        let disk = Disk::starter();
        let no = "  - {name: a viewer does not replay, want: {decision: refuse, code: policy.no_permit, policies: []}}\n";
        disk.write("tables/a.yaml", &format!("{}{no}", TABLE.replace("mfa", "mfo")));
        assert!(said(&disk).starts_with("policy.invalid /tables/a.yaml:3:"), "{}", said(&disk));
        assert!(said(&disk).contains("mfo"), "{}", said(&disk));
    }
}
