//! The outcomes as CI servers read them: a suite for each table, a test case for each case.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::super::CliError;
use super::of;
use crate::policy::LoadError;
use crate::policy::mutate::Mutation;
use crate::policy::table::{Outcome, Row, Run, Tables};

const NAME: &str = "byoa policy test";

pub(super) fn report(tables: &Tables, run: &Run) -> Result<String, CliError> {
    let mut report = Report::new(NAME);
    for table in tables.tables() {
        let mut suite = TestSuite::new(table.name.clone());
        suite.add_test_cases(of(table, tables, run).map(|(row, outcome)| case(row, outcome)));
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
    let noticed = TestCase::new(format!("{} of {} are noticed", mutation.noticed(), mutation.total), TestCaseStatus::success());
    suite.add_test_case(noticed);
    for survivor in &mutation.survivors {
        let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(format!("no row notices when this is left out: {}", super::mutants::said(survivor)));
        if let Some(row) = &survivor.row {
            status.set_description(row.clone());
        }
        let place = &survivor.place;
        let mut case = TestCase::new(format!("{} {}:{}", survivor.policy, place.file, place.line), status);
        case.set_classname("mutants");
        suite.add_test_case(case);
    }
    let mut report = Report::new(NAME);
    report.add_test_suite(suite);
    written(&report)
}

fn case(row: &Row, outcome: &Outcome) -> TestCase {
    let mut status = TestCaseStatus::success();
    if !outcome.ok {
        status = TestCaseStatus::non_success(NonSuccessKind::Failure);
        status.set_message(format!("wants {}, got {}", row.want, outcome.got));
        let places = outcome.got.policies.iter().zip(&outcome.decided).map(|(id, place)| format!("{id} {}:{}\n", place.file, place.line));
        let notes = outcome.errors.iter().map(|error| format!("{error}\n"));
        status.set_description(format!("{}:{}\n{}", row.file, row.line, places.chain(notes).collect::<String>()));
    }
    let mut case = TestCase::new(row.name.clone(), status);
    case.set_classname(row.table.clone());
    case
}

fn written(report: &Report) -> Result<String, CliError> {
    report.to_string().map_err(|e| CliError::Unable(e.to_string()))
}
