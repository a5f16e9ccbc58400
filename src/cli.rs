//! Commands and exit codes: 0 yes, 1 it ran and found something wrong, 2 it could not run. Floor 11.

mod client;
pub mod demo;
mod doctor;
mod import;
mod junit;
mod keys;
mod matrix;
mod policy;
mod progress;
mod purge;
mod resources;
mod rollout;
mod secrets;
mod serve;
mod show;
mod simulate;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::Config;
use crate::config::load::{self, ConfigError};
use crate::policy::limits::with_most_room;
use crate::transport::Transport;

/// A gateway between messaging providers and the agents that answer people.
#[derive(Debug, Parser)]
#[command(name = "byoa", version, about, long_about = None, arg_required_else_help = true)]
struct Cli {
    /// The configuration file; byoa.yaml here where it is left out. BYOA_SECTION__KEY variables win over it.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The operator listener of a running gateway; where the configuration says, if left out.
    #[arg(long, global = true, value_name = "URL")]
    server: Option<String>,
    /// A file with an operator token; where the configuration says, if left out.
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// How an answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve {
        /// Run with two made-up tenants on all three providers, in a folder that is thrown away.
        #[arg(long)]
        demo: bool,
        /// With --demo: exit when every journey has ended; 0 when all ended as they should.
        #[arg(long, requires = "demo")]
        once: bool,
        /// Webhooks and agents; wins over listen.public.
        #[arg(long, value_name = "ADDR")]
        public: Option<std::net::SocketAddr>,
        /// Operators; wins over listen.operator.
        #[arg(long, value_name = "ADDR")]
        operator: Option<std::net::SocketAddr>,
    },
    /// Apply declared resources: all of a file or nothing of it.
    Apply {
        /// The file; - reads standard input.
        #[arg(short = 'f', long = "file", value_name = "FILE")]
        file: PathBuf,
        /// Say what would be done, change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show resources and records.
    Get {
        /// orgs profiles installations agents bindings sessions events deliveries decisions audit refusals sends
        kind: String,
        /// One of them.
        id: Option<String>,
        /// How it is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
        /// Only this org's.
        #[arg(long)]
        org: Option<String>,
        /// At most so many rows.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Delete a resource that nothing refers to.
    Delete {
        /// orgs profiles installations agents bindings
        kind: String,
        /// Which.
        id: String,
    },
    /// Take over connections, bindings and sessions of an earlier system from a file of JSON lines.
    Import {
        /// The file; - reads standard input.
        file: PathBuf,
        /// Say what would be done, change nothing.
        #[arg(long)]
        dry_run: bool,
        /// How the report is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Give legacy bindings the installation that they mean.
    Backfill {
        /// Say what would be done, change nothing.
        #[arg(long)]
        dry_run: bool,
        /// How many bindings are looked at in one transaction: 1 to 250; 100 for what is below, 250 for what is above.
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        batch: Option<i64>,
        /// How the report is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Print the configuration that results from defaults, file, environment and flags; secrets redacted.
    Config,
    /// Print every reason code: meaning, HTTP status, whether trying again helps.
    Reasons {
        /// How it is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
    /// Post a correctly signed webhook of an installation to a running gateway.
    Simulate {
        /// slack, telegram or whatsapp
        provider: String,
        /// message, and what else that provider's samples have
        kind: String,
        /// Whose; the provider's first where it is left out.
        #[arg(long)]
        installation: Option<String>,
        /// What is said.
        #[arg(long)]
        text: Option<String>,
        /// Where it is said.
        #[arg(long)]
        conversation: Option<String>,
        /// Make it wrong: unsigned, bad-signature, tampered, stale, foreign-account, broken-json
        #[arg(long)]
        fault: Option<String>,
    },
    /// Take a provider from off through canary to on, and back.
    Rollout(rollout::RolloutArgs),
    /// Play the failure-path matrix, which a promotion rests on.
    Matrix {
        #[command(subcommand)]
        command: matrix::MatrixCommand,
    },
    /// Replace what proves an app's webhooks.
    Secrets {
        #[command(subcommand)]
        command: secrets::SecretsCommand,
    },
    /// Replace the master key, or show the keys.
    Keys {
        #[command(subcommand)]
        command: keys::KeysCommand,
    },
    /// Remove what one person said through an installation, and who they are. For ever.
    Purge {
        /// The installation.
        #[arg(long)]
        installation: String,
        /// The provider's stable id of the person: Slack's user id, Telegram's user id, WhatsApp's number or user id.
        #[arg(long, allow_hyphen_values = true)]
        sender: String,
        /// Say how much of what there is, remove nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove what its retention has passed now; the gateway does it by itself once an hour.
    Sweep,
    /// Check, test, prove and compare policies.
    Policy(policy::PolicyArgs),
    /// Say what is wrong with configuration, keys, store, policies and resources, and what to do.
    Doctor {
        /// How it is printed.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Output,
    },
}

/// Why a command ended other than well.
#[derive(Debug)]
enum CliError {
    /// It ran and found something wrong: exit 1.
    Found(String),
    /// It could not run: exit 2.
    Unable(String),
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::Unable(error.to_string())
    }
}

/// Where a running gateway is, and what its operator listener wants to see.
struct Target {
    config: Config,
    server: Option<String>,
    token_file: Option<PathBuf>,
    /// Made once: a command may call a thousand times.
    transport: OnceLock<Transport>,
}

/// Runs the command line.
pub fn main() -> ExitCode {
    // clap itself exits with 2 on usage errors and with 0 on --help.
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(CliError::Unable(format!("no runtime: {error}")))),
    };
    // Commands about policies read, show and evaluate them here.
    ended(with_most_room(|| runtime.block_on(run(cli))))
}

fn ended(result: Result<(), CliError>) -> ExitCode {
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(CliError::Found(message)) => (message, 1),
        Err(CliError::Unable(message)) => (message, 2),
    };
    if !message.is_empty() {
        anstream::eprintln!("byoa: {message}");
    }
    ExitCode::from(code)
}

async fn run(cli: Cli) -> Result<(), CliError> {
    let config = || load::load(cli.config.as_deref(), std::env::vars());
    let target = || -> Result<Target, CliError> {
        Ok(Target { config: config()?, server: cli.server.clone(), token_file: cli.token_file.clone(), transport: OnceLock::new() })
    };
    match cli.command {
        Command::Serve { demo: true, once, .. } => demo::run(once).await,
        Command::Serve { public, operator, .. } => {
            // A gateway that may not start says so in one line and exits 1, whatever the reason.
            let mut config = config().map_err(|e| CliError::Found(e.to_string()))?;
            config.listen.public = public.unwrap_or(config.listen.public);
            config.listen.operator = operator.unwrap_or(config.listen.operator);
            serve::run(config).await
        }
        Command::Apply { file, dry_run } => resources::apply(&target()?, &file, dry_run).await,
        Command::Get { kind, id, output, org, limit } => {
            resources::get(&target()?, &kind, id.as_deref(), org.as_deref(), limit, output).await
        }
        Command::Delete { kind, id } => resources::delete(&target()?, &kind, &id).await,
        Command::Import { file, dry_run, output } => import::import(&target()?, &file, dry_run, output).await,
        Command::Backfill { dry_run, batch, output } => import::backfill(&target()?, dry_run, batch, output).await,
        Command::Config => {
            anstream::print!("{}", load::redacted(&config()?));
            Ok(())
        }
        Command::Reasons { output } => show::reasons(output),
        Command::Simulate { provider, kind, installation, text, conversation, fault } => {
            let ask = serde_json::json!({
                "provider": provider, "kind": kind, "installation": installation, "text": text, "conversation": conversation, "fault": fault,
            });
            simulate::run(&target()?, ask).await
        }
        Command::Rollout(args) => rollout::run(args, &target()?).await,
        Command::Matrix { command } => matrix::run(&target()?, command).await,
        Command::Secrets { command } => secrets::run(&target()?, command).await,
        Command::Keys { command } => keys::run(&target()?, command).await,
        Command::Purge { installation, sender, dry_run } => purge::purge(&target()?, &installation, &sender, dry_run).await,
        Command::Sweep => purge::sweep(&target()?).await,
        Command::Policy(args) => policy::run(args, target()?).await,
        Command::Doctor { output } => doctor::run(&target()?, output).await,
    }
}
