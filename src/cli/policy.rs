//! `byoa policy …`: what the security team does with policy files. Each command is a file below; all of them read the same
//! folder the gateway reads, and none needs a running gateway unless it asks for recorded decisions. Floor 11.

mod check;
mod diff;
mod explain;
mod fmt;
mod lock;
mod matrix;
mod prove;
mod test;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{CliError, Target};
use crate::config::PolicyTextLimits;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::reason::ReasonCode;
use crate::policy::{LoadError, Snapshot, Sources, read};

#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// The folder of policies; policies.dir where it is left out.
    #[arg(long, global = true, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// The schema file; policies.schema where it is left out.
    #[arg(long, global = true, value_name = "FILE")]
    schema: Option<PathBuf>,
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Syntax, types and lints, each fault with its file, line, column and source line.
    Check {
        /// How it is printed.
        #[arg(long, value_enum, default_value = "human")]
        format: CheckFormat,
    },
    /// Rewrite policy files in the one layout.
    Fmt {
        /// Change nothing; 1 where a file would change.
        #[arg(long)]
        check: bool,
    },
    /// Run the decision tables.
    Test {
        /// These tables; all of the folder's where none is named.
        files: Vec<PathBuf>,
        /// How it is printed.
        #[arg(long, value_enum, default_value = "human")]
        format: TestFormat,
        /// Write what was answered into rows that are wrong.
        #[arg(long, conflicts_with = "mutate")]
        update: bool,
        /// Leave out one clause at a time: which mutants does no row notice?
        #[arg(long)]
        mutate: bool,
        /// With --mutate: the rows that would notice them.
        #[arg(long, requires = "mutate")]
        suggest: bool,
    },
    /// The whole law: principal, action, resource, and whether never, sometimes or always.
    Matrix {
        /// How it is printed.
        #[arg(long, value_enum, default_value = "table")]
        format: MatrixFormat,
        /// Compare with this file, made by the same command; 1 where it differs.
        #[arg(long, value_name = "FILE")]
        check: Option<PathBuf>,
    },
    /// Why a request is permitted or refused, clause by clause.
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Explain {
        /// A request in a file: action, principal, resource, context, entities; - reads standard input.
        #[arg(long, value_name = "FILE", group = "what")]
        request: Option<PathBuf>,
        /// A recorded decision.
        #[arg(long, value_name = "ID", group = "what")]
        decision: Option<String>,
        /// Every decision about an event.
        #[arg(long, value_name = "ID", group = "what")]
        event: Option<String>,
        /// How it is printed.
        #[arg(long, value_enum, default_value = "human")]
        format: ExplainFormat,
    },
    /// What another folder of policies would decide otherwise. Exits like diff: 0 where that is nothing, 1 where it is something.
    Diff {
        /// The policies as they would be.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
        /// The policies as they are; the folder in force where it is left out.
        #[arg(long, value_name = "DIR")]
        from: Option<PathBuf>,
        /// Ask the gateway for so many recorded decisions and decide them again.
        #[arg(long, value_name = "N")]
        recorded: Option<u32>,
        /// How it is printed.
        #[arg(long, value_enum, default_value = "human")]
        format: ExplainFormat,
    },
    /// Prove the set: within the envelope, above the floor, without errors, nothing dead, nothing redundant.
    Prove {
        /// How it is printed.
        #[arg(long, value_enum, default_value = "human")]
        format: ExplainFormat,
    },
    /// Write policies.lock: what the set consists of, so that nothing else is taken for it.
    Lock {
        /// Change nothing; 1 where the lock does not describe the set.
        #[arg(long)]
        check: bool,
    },
    /// Put one of the last accepted sets back into the folder.
    Rollback {
        /// Its version, or the first characters of it; left out, the sets that are kept are listed.
        version: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CheckFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
    /// For code hosts (SARIF 2.1.0).
    Sarif,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TestFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
    /// For CI servers.
    Junit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MatrixFormat {
    /// For people, and for a file in review.
    Table,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExplainFormat {
    /// For people.
    Human,
    /// For programs.
    Json,
}

/// Where the policies are.
struct Place {
    dir: PathBuf,
    schema: PathBuf,
    limits: PolicyTextLimits,
    now: Timestamp,
}

impl Place {
    fn sources(&self) -> Result<Sources, CliError> {
        read(&self.dir, &self.schema, &self.limits).map_err(|e| refused(&e))
    }

    fn snapshot(&self) -> Result<Snapshot, CliError> {
        Snapshot::build(&self.sources()?, self.now).map_err(|e| refused(&e))
    }

    /// The same, of another folder.
    fn at(&self, dir: PathBuf) -> Self {
        Self { dir, schema: self.schema.clone(), limits: self.limits, now: self.now }
    }
}

/// Every fault with its place and its line, for people.
pub(super) fn faults(error: &LoadError) -> String {
    error.diagnostics.iter().map(check::block).collect()
}

/// A set that is not there could not be looked at; one that is wrong was.
fn refused(error: &LoadError) -> CliError {
    let message = format!("{}\n{error}", error.code);
    if error.code == ReasonCode::PolicyMissing { CliError::Unable(message) } else { CliError::Found(message) }
}

pub(super) async fn run(args: PolicyArgs, target: Target) -> Result<(), CliError> {
    let place = Place {
        dir: args.policies.unwrap_or_else(|| target.config.policies.dir.clone()),
        schema: args.schema.unwrap_or_else(|| target.config.policies.schema.clone()),
        limits: target.config.policies.platform_limits,
        now: Clock::system().now(),
    };
    match args.command {
        PolicyCommand::Check { format } => check::run(&place, format),
        PolicyCommand::Fmt { check } => fmt::run(&place, check),
        PolicyCommand::Test { files, format, update, mutate, suggest } => {
            test::run(&place, &test::Wanted { files, format, update, mutate, suggest })
        }
        PolicyCommand::Matrix { format, check } => matrix::run(&place, format, check.as_deref()),
        PolicyCommand::Explain { request, decision, event, format } => {
            explain::run(&place, &target, explain::Wanted { request, decision, event }, format).await
        }
        PolicyCommand::Diff { to, from, recorded, format } => {
            let from = from.unwrap_or_else(|| place.dir.clone());
            diff::run(&place.at(from), &place.at(to), recorded.map(|n| (&target, n)), format).await
        }
        PolicyCommand::Prove { format } => prove::run(&place, format),
        PolicyCommand::Lock { check } => lock::lock(&place, check),
        PolicyCommand::Rollback { version } => lock::rollback(&place, &target.config, version.as_deref()),
    }
}
