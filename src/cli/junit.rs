//! Reports as CI servers read them.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus};

use super::CliError;

/// One test: what went wrong in a line and, where there is more to say, at length; nothing where it holds.
pub(super) fn case(class: &str, name: String, wrong: Option<(String, Option<String>)>) -> TestCase {
    let status = match wrong {
        None => TestCaseStatus::success(),
        Some((message, description)) => {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(message);
            if let Some(description) = description {
                status.set_description(description);
            }
            status
        }
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(class);
    case
}

pub(super) fn written(report: &Report) -> Result<String, CliError> {
    report.to_string().map_err(|e| CliError::Unable(e.to_string()))
}
