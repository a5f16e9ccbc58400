//! The outcomes as CI servers read them: a suite for each table, a test case for each case.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::super::CliError;
use super::{afterwards, of};
use crate::cli::junit::{case, written};
use crate::policy::LoadError;
use crate::policy::mutate::Mutation;
use crate::policy::table::{Outcome, Row, Run, Tables};

const NAME: &str = "byoa policy test";

pub(super) fn report(tables: &Tables, run: &Run) -> Result<String, CliError> {
    let mut report = Report::new(NAME);
    for table in tables.tables() {
        let mut suite = TestSuite::new(table.name.clone());
        suite.add_test_cases(of(table, tables, run).map(|(row, outcome)| of_row(row, outcome)));
        for (after, row) in afterwards(tables, run).filter(|(_, row)| row.file == table.file) {
            let mut later = row.clone();
            later.name = format!("{}, {}", row.name, after.when());
            suite.add_test_case(of_row(&later, &after.outcome));
        }
        report.add_test_suite(suite);
    }
    written(&report)
}

/// The tables or the law could not be read: one error for each fault.
pub(super) fn unreadable(error: &LoadError) -> Result<String, CliError> {
    let mut suite = TestSuite::new("tables");
    for fault in &error.diagnostics {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
        status.set_message(fault.message.clone());
        let mut case = TestCase::new(format!("{}:{}:{}", fault.file, fault.line, fault.column), status);
        case.set_classname("tables");
        suite.add_test_case(case);
    }
    let mut report = Report::new(NAME);
    report.add_test_suite(suite);
    written(&report)
}

/// The mutants that no row noticed, as failures; that there are none is one test that holds.
pub(super) fn mutants(mutation: &Mutation) -> Result<String, CliError> {
    let mut suite = TestSuite::new("mutants");
    suite.add_test_case(case("mutants", format!("{} of {} are noticed", mutation.noticed(), mutation.total), None));
    for survivor in &mutation.survivors {
        let place = &survivor.place;
        let message = format!("no row notices when this is left out: {}", super::mutants::said(survivor));
        let wrong = Some((message, survivor.row.clone()));
        suite.add_test_case(case("mutants", format!("{} {}:{}", survivor.policy, place.file, place.line), wrong));
    }
    let mut report = Report::new(NAME);
    report.add_test_suite(suite);
    written(&report)
}

fn of_row(row: &Row, outcome: &Outcome) -> TestCase {
    let wrong = (!outcome.ok).then(|| {
        let places = outcome.got.policies.iter().zip(&outcome.decided).map(|(id, place)| format!("{id} {}:{}\n", place.file, place.line));
        let notes = outcome.errors.iter().map(|error| format!("{error}\n"));
        let description = format!("{}:{}\n{}", row.file, row.line, places.chain(notes).collect::<String>());
        (format!("wants {}, got {}", row.want, outcome.got), Some(description))
    });
    case(&row.table, row.name.clone(), wrong)
}
