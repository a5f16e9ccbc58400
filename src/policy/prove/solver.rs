//! The solver's process: started, asked one question at a time, started anew when it died or was too slow. Says *yes*, *no
//! with a request that shows it*, or why it does not know. Never waits without end. Floor 5.

use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use cedar_policy_symcc::err::Error;
use cedar_policy_symcc::solver::LocalSolver;
use cedar_policy_symcc::{CedarSymCompiler, CompiledPolicy, CompiledPolicySet, Env};
use tokio::process::Command;
use tokio::time::timeout;

use super::Unable;

/// How long the solver may think about one question; then it says *unknown*.
const THINKS_MAX: Duration = Duration::from_secs(20);
/// How long is waited for an answer; longer than it may think, so that its own word is heard first.
const ANSWERS_MAX: Duration = Duration::from_secs(30);

/// How long may be spent in vain on one law; then nothing more is asked. Each question that is left open says *not proved*
/// already.
const VAIN_MAX: Duration = Duration::from_secs(60);

/// A solver that runs.
pub(super) struct Solver {
    program: OsString,
    name: String,
    compiler: CedarSymCompiler<LocalSolver>,
    in_vain: Duration,
}

/// What the solver says of a claim about all requests.
pub(super) enum Answer {
    /// It holds for each of them.
    Holds,
    /// It does not hold for this one.
    Fails(Box<Env>),
}

impl Solver {
    /// Starts it: the program named, else `cvc5` of the search path.
    pub async fn start(program: Option<OsString>) -> Result<Self, Unable> {
        let program = program.filter(|named| !named.is_empty()).unwrap_or_else(|| "cvc5".into());
        let name = name(&program).await.map_err(Unable::NoSolver)?;
        let compiler = compiler(&program).map_err(Unable::NoSolver)?;
        Ok(Self { program, name, compiler, in_vain: Duration::ZERO })
    }

    /// Its name and version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether everything that the first permits, the second permits.
    pub async fn implies(&mut self, first: &CompiledPolicySet, second: &CompiledPolicySet) -> Result<Answer, String> {
        self.ask(async |compiler| compiler.check_implies_with_counterexample_opt(first, second).await).await.map(found)
    }

    /// Whether nothing is permitted by both.
    pub async fn disjoint(&mut self, first: &CompiledPolicySet, second: &CompiledPolicySet) -> Result<bool, String> {
        self.ask(async |compiler| compiler.check_disjoint_opt(first, second).await).await
    }

    /// Whether everything is permitted.
    pub async fn always_allows(&mut self, set: &CompiledPolicySet) -> Result<bool, String> {
        self.ask(async |compiler| compiler.check_always_allows_opt(set).await).await
    }

    /// Whether it matches nothing.
    pub async fn never_matches(&mut self, policy: &CompiledPolicy) -> Result<bool, String> {
        self.ask(async |compiler| compiler.check_never_matches_opt(policy).await).await
    }

    /// Whether it never errs.
    pub async fn never_errors(&mut self, policy: &CompiledPolicy) -> Result<Answer, String> {
        self.ask(async |compiler| compiler.check_never_errors_with_counterexample_opt(policy).await).await.map(found)
    }

    async fn ask<T>(&mut self, question: impl AsyncFnOnce(&mut CedarSymCompiler<LocalSolver>) -> Result<T, Error>) -> Result<T, String> {
        if self.in_vain > VAIN_MAX {
            return Err(format!("not asked: {} seconds went by without an answer to others", VAIN_MAX.as_secs()));
        }
        let began = Instant::now();
        let why = match timeout(ANSWERS_MAX, question(&mut self.compiler)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Error::SolverUnknown)) => {
                self.in_vain += began.elapsed();
                return Err("the solver says `unknown`".to_owned());
            }
            Ok(Err(error)) => format!("the solver failed: {error}"),
            Err(_) => format!("no answer within {} seconds", ANSWERS_MAX.as_secs()),
        };
        self.in_vain += began.elapsed();
        // What is left of the old one may be in the middle of a word. Where none can be started, the next question says so.
        if let Ok(compiler) = compiler(&self.program) {
            self.compiler = compiler;
        }
        Err(why)
    }
}

fn found(counterexample: Option<Env>) -> Answer {
    counterexample.map_or(Answer::Holds, |env| Answer::Fails(Box::new(env)))
}

fn compiler(program: &OsStr) -> Result<CedarSymCompiler<LocalSolver>, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("{} cannot be started: {error}", program.display());
    let mut command = Command::new(program);
    command.args(["--lang", "smt"]).arg(format!("--tlimit-per={}", THINKS_MAX.as_millis())).kill_on_drop(true);
    let solver = LocalSolver::from_command(&mut command).map_err(|e| cannot(&e))?;
    CedarSymCompiler::new(solver).map_err(|e| cannot(&e))
}

/// What it calls itself. Another solver would understand the questions and answer in other words.
async fn name(program: &OsStr) -> Result<String, String> {
    let shown = program.display();
    let run = Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = timeout(ANSWERS_MAX, run).await.map_err(|_| format!("{shown} does not answer"))?;
    let output = output.map_err(|error| format!("there is no solver: {shown}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().and_then(|line| line.strip_prefix("This is cvc5 version ")?.split_whitespace().next());
    match version {
        Some(version) if output.status.success() => Ok(format!("cvc5 {version}")),
        _ => Err(format!("{shown} is no cvc5")),
    }
}
