//! The failure-path matrix, played by the gateway itself with the policies in force: started, watched, kept. One run goes on at
//! a time, and nobody has to wait for it. Part of `admin`, floor 7.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::rollout::{facts, invalid, provider_of};
use super::{Admin, AdminError, Asking};
use crate::domain::clock::Timestamp;
use crate::domain::ids::MatrixRunId;
use crate::domain::installation::ProviderKind;
use crate::domain::matrix::{Exercise, PlayedCase, Player};
use crate::domain::reason::ReasonCode;
use crate::domain::record::Decision;
use crate::domain::rollout::{FlagRecord, MatrixRun, NewMatrixRun};
use crate::policy::action::RunMatrix;

/// Why nothing that is played is evidence.
pub(super) const BUILD_UNKNOWN: &str = "this build cannot be told from others: /proc/self/exe cannot be read";

/// How long a run may take, on the slowest machine. One that hangs must not keep the next from starting.
const RUN_TIME_MAX: Duration = Duration::from_secs(3600);

/// What is to be played.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatrixBody {
    /// Whose rows; everybody's where it is left out.
    pub provider: Option<String>,
}

/// Where a run stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MatrixState {
    /// It is being played.
    Running,
    /// Every case was played.
    Done,
}

/// A run as it is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MatrixReport {
    /// Its identifier; none where it is kept nowhere.
    pub id: Option<String>,
    /// Where it stands.
    pub state: MatrixState,
    /// Against which policies it is played.
    pub policy_version: String,
    /// By which build; none where nobody asked.
    pub build: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// For which providers.
    pub providers: Vec<ProviderKind>,
    /// How many cases there are.
    pub total: usize,
    /// How many were played so far.
    pub played: usize,
    /// How many of them were not as they must be.
    pub red: usize,
    /// Whether it ended, and none was red.
    pub green: bool,
    /// While it is played: the case that ended last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<PlayedCase>,
    /// Every case, when all were played.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<PlayedCase>,
}

/// A run that is under way, or was.
#[derive(Debug)]
pub struct Run {
    id: MatrixRunId,
    policy_version: Arc<str>,
    build: Arc<str>,
    started_at: Timestamp,
    /// The flags as they stood.
    flags: Vec<FlagRecord>,
    total: usize,
    so_far: Mutex<SoFar>,
    ended: watch::Sender<Option<Result<(), AdminError>>>,
}

/// The run that is under way, or the last one.
pub type Latest = Arc<Mutex<Option<Arc<Run>>>>;

#[derive(Debug, Default)]
struct SoFar {
    played: usize,
    red: usize,
    last: Option<PlayedCase>,
}

impl Run {
    /// Its identifier.
    pub fn id(&self) -> &MatrixRunId {
        &self.id
    }

    fn providers(&self) -> Vec<ProviderKind> {
        self.flags.iter().map(|flag| flag.provider).collect()
    }

    fn tell(&self, case: &PlayedCase) {
        let mut so_far = locked(&self.so_far);
        so_far.played += 1;
        so_far.red += usize::from(!case.is_green());
        so_far.last = Some(case.clone());
    }

    /// As it stands, while it is played.
    fn report(&self) -> MatrixReport {
        let so_far = locked(&self.so_far);
        MatrixReport {
            id: Some(self.id.to_string()),
            state: MatrixState::Running,
            policy_version: self.policy_version.to_string(),
            build: Some(self.build.to_string()),
            started_at: self.started_at,
            providers: self.providers(),
            total: self.total,
            played: so_far.played,
            red: so_far.red,
            green: false,
            last: so_far.last.clone(),
            cases: Vec::new(),
        }
    }
}

/// What a poisoned lock holds is whole: nothing is done under it that could break off half way.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Plays every case, in a task of its own: a player that breaks ends its run and nothing else. The cases, in order.
///
/// # Errors
/// Why they could not all be played. Nothing is left out: what was played must be what there is, each case once.
pub async fn play(
    player: Arc<dyn Player>,
    exercise: Exercise,
    tell: impl Fn(&PlayedCase) + Send + Sync + 'static,
) -> Result<Vec<PlayedCase>, String> {
    let wanted: Vec<_> = exercise.providers.iter().map(|provider| (*provider, player.cases(&[*provider]))).collect();
    let told = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&told);
    let mut playing = tokio::spawn(async move {
        let tell = |case: PlayedCase| {
            tell(&case);
            locked(&keep).push(case);
        };
        player.play(exercise, &tell).await
    });
    match tokio::time::timeout(RUN_TIME_MAX, &mut playing).await {
        Ok(ended) => ended.map_err(|_| "the player broke".to_owned())??,
        Err(_) => {
            playing.abort();
            return Err(format!("it did not end within {} s", RUN_TIME_MAX.as_secs()));
        }
    }
    let mut cases = std::mem::take(&mut *locked(&told));
    cases.sort_by(|a, b| key(a).cmp(&key(b)));
    let different = cases.iter().map(key).collect::<BTreeSet<_>>().len();
    if different != cases.len() {
        return Err(format!("{} cases were played more than once", cases.len() - different));
    }
    for (provider, wanted) in &wanted {
        let played = cases.iter().filter(|case| case.provider == *provider).count();
        if played != *wanted || played == 0 {
            return Err(format!("{played} of {wanted} cases of {provider} were played"));
        }
    }
    let strangers = cases.len() - wanted.iter().map(|(_, wanted)| wanted).sum::<usize>();
    if strangers > 0 { Err(format!("{strangers} cases were played that nobody asked for")) } else { Ok(cases) }
}

fn key(case: &PlayedCase) -> (ProviderKind, &str, &'static str, &str) {
    (case.provider, &case.row, case.mode.as_str(), &case.case)
}

fn red(cases: &[PlayedCase]) -> usize {
    cases.iter().filter(|case| !case.is_green()).count()
}

impl MatrixReport {
    /// A run that has ended.
    pub fn done(
        id: Option<String>,
        policy_version: String,
        build: Option<String>,
        started_at: Timestamp,
        providers: Vec<ProviderKind>,
        cases: Vec<PlayedCase>,
    ) -> Self {
        let (played, red) = (cases.len(), red(&cases));
        let green = red == 0 && played > 0;
        let state = MatrixState::Done;
        Self { id, state, policy_version, build, started_at, providers, total: played, played, red, green, last: None, cases }
    }
}

/// A run that is kept, without its cases.
fn listed(run: &MatrixRun) -> Json {
    json!({
        "id": run.id, "provider": run.provider, "policy_version": run.policy_version, "build": run.build, "started_at": run.at,
        "played": run.played, "red": run.red, "green": run.red == 0 && run.played > 0,
    })
}

fn shown(report: &MatrixReport) -> Result<Json, AdminError> {
    serde_json::to_value(report).map_err(|e| AdminError::new(ReasonCode::MatrixFailed, e.to_string()))
}

impl Admin {
    /// This build, where it can be told from others.
    pub(super) async fn this_build(&self) -> Option<Arc<str>> {
        tokio::task::spawn_blocking(self.build).await.ok().flatten()
    }

    /// Starts a run. It goes on by itself, whoever waits for it.
    ///
    /// # Errors
    /// The policies' refusal, `rollout.invalid` for a provider there is none of, `matrix.running`, `matrix.unavailable`.
    pub async fn matrix_start(&self, asking: &Asking, body: MatrixBody) -> Result<Arc<Run>, AdminError> {
        let only = body.provider.as_deref().map(provider_of).transpose()?;
        let (_, mut flags) = self.store.flags().await?;
        flags.retain(|flag| only.is_none_or(|provider| provider == flag.provider));
        let mut decision = None;
        for flag in &flags {
            let ask = RunMatrix { operator: asking.facts(), flag: facts(flag) };
            decision = Some(self.authorize(asking, ask, "matrix.run", flag.provider.as_str()).await?);
        }
        let decision = decision.ok_or_else(|| invalid("there is no flag to play for"))?;
        let unavailable = |why: &str| AdminError::new(ReasonCode::MatrixUnavailable, why);
        let player = self.player.clone().ok_or_else(|| unavailable("this gateway was started without anybody who plays it"))?;
        let build = self.this_build().await.ok_or_else(|| unavailable(BUILD_UNKNOWN))?;
        let policy = self.engine.pin();
        let started_at = self.clock.now();
        let providers: Vec<_> = flags.iter().map(|flag| flag.provider).collect();
        let exercise = Exercise { policies: Arc::clone(policy.texts()), version: Arc::clone(policy.version()), now: started_at, providers };
        let run = Arc::new(Run {
            id: MatrixRunId::fresh(started_at),
            policy_version: Arc::clone(policy.version()),
            build,
            started_at,
            total: player.cases(&exercise.providers),
            flags,
            so_far: Mutex::default(),
            ended: watch::Sender::new(None),
        });
        {
            let mut latest = locked(&self.matrix);
            if let Some(other) = latest.as_ref().filter(|other| other.ended.borrow().is_none()) {
                let detail = format!("run {} began {}; `byoa matrix show {0}` tells how far it is", other.id, other.started_at);
                return Err(AdminError::new(ReasonCode::MatrixRunning, detail));
            }
            *latest = Some(Arc::clone(&run));
        }
        tokio::spawn(self.clone().matrix_play(asking.clone(), Arc::clone(&run), player, exercise, decision));
        Ok(run)
    }

    /// Waits until a run has ended, and shows it.
    ///
    /// # Errors
    /// `matrix.failed` where it did not come to its end, the store's where it could not be kept.
    pub async fn matrix_ended(&self, run: &Run) -> Result<Json, AdminError> {
        let mut ended = run.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.unwrap_or_else(|| Err(AdminError::new(ReasonCode::MatrixFailed, "nobody plays it any more")))?;
        shown(&self.matrix_kept(&run.id).await?)
    }

    /// A run: how far it is, or what it came to.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, and what it ended with where it did not come to its end.
    pub async fn matrix_run(&self, asking: &Asking, id: &str) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let latest = locked(&self.matrix).clone().filter(|run| run.id.as_str() == id);
        if let Some(run) = latest {
            let ended = run.ended.borrow().clone();
            match ended {
                None => return shown(&run.report()),
                Some(ended) => ended?,
            }
        }
        let parsed = MatrixRunId::parse(id).ok_or_else(|| unknown(id))?;
        shown(&self.matrix_kept(&parsed).await?)
    }

    /// The runs that are kept, the last one first, and the one that is under way.
    ///
    /// # Errors
    /// The policies' refusal, `rollout.invalid` for a provider there is none of.
    pub async fn matrix_runs(&self, asking: &Asking, provider: Option<&str>) -> Result<Json, AdminError> {
        self.may_view(asking).await?;
        let only = provider.map(provider_of).transpose()?;
        let items: Vec<Json> = self.store.matrix_runs(only).await?.iter().map(listed).collect();
        let latest = locked(&self.matrix).clone().filter(|run| run.ended.borrow().is_none());
        let running = latest.map(|run| shown(&run.report())).transpose()?;
        Ok(json!({"items": items, "next": null, "running": running}))
    }

    /// A run from the store.
    async fn matrix_kept(&self, id: &MatrixRunId) -> Result<MatrixReport, AdminError> {
        let parts = self.store.matrix_run(id).await?;
        let Some((first, _)) = parts.first() else { return Err(unknown(id.as_str())) };
        let (version, build, at) = (first.policy_version.clone(), first.build.clone(), first.at);
        let mut cases: Vec<PlayedCase> = Vec::new();
        for (run, report) in &parts {
            let damaged = |e| AdminError::new(ReasonCode::StoreCorrupt, format!("matrix run {id} for {}: {e}", run.provider));
            cases.append(&mut serde_json::from_str(report).map_err(damaged)?);
        }
        let providers = parts.iter().map(|(run, _)| run.provider).collect();
        Ok(MatrixReport::done(Some(id.to_string()), version, Some(build), at, providers, cases))
    }

    async fn matrix_play(self, asking: Asking, run: Arc<Run>, player: Arc<dyn Player>, exercise: Exercise, decision: Arc<Decision>) {
        let telling = Arc::clone(&run);
        let ended = match play(player, exercise, move |case| telling.tell(case)).await {
            Ok(cases) => self.matrix_keep(&asking, &run, &cases, &decision).await,
            Err(why) => Err(AdminError::new(ReasonCode::MatrixFailed, why)),
        };
        if let Err(error) = &ended {
            let mut line = asking.line(&self.clock, "matrix.run", format!("matrix/{}", run.id), Some(&decision));
            line.outcome = "failed";
            line.code = Some(error.code);
            line.detail = Some(json!({"providers": run.providers(), "why": error.detail}).to_string());
            if let Err(error) = self.store.audit(vec![line]).await {
                tracing::error!(run = %run.id, error = %error, "a matrix run failed, and that could not be audited");
            }
        }
        run.ended.send_replace(Some(ended));
    }

    /// Keeps what was found, with its audit line.
    async fn matrix_keep(&self, asking: &Asking, run: &Run, cases: &[PlayedCase], decision: &Arc<Decision>) -> Result<(), AdminError> {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let mut parts = Vec::new();
        for flag in &run.flags {
            let own: Vec<PlayedCase> = cases.iter().filter(|case| case.provider == flag.provider).cloned().collect();
            let report = serde_json::to_string(&own).map_err(|e| AdminError::new(ReasonCode::MatrixFailed, e.to_string()))?;
            parts.push(NewMatrixRun {
                id: run.id.clone(),
                at: run.started_at,
                provider: flag.provider,
                policy_version: Arc::clone(&run.policy_version),
                build: Arc::clone(&run.build),
                played: count(own.len()),
                red: count(red(&own)),
                report,
                rolled_back_run: flag.rolled_back_run,
            });
        }
        let mut line = asking.line(&self.clock, "matrix.run", format!("matrix/{}", run.id), Some(decision));
        let detail = json!({"providers": run.providers(), "played": cases.len(), "red": red(cases), "policy_version": run.policy_version,
            "build": run.build});
        line.detail = Some(detail.to_string());
        match self.store.keep_matrix_run(parts, line, self.clock.now()).await? {
            None => Ok(()),
            Some(provider) => {
                Err(AdminError::new(ReasonCode::MatrixFailed, format!("{provider} was rolled back while it was played; play it again")))
            }
        }
    }
}

fn unknown(id: &str) -> AdminError {
    AdminError::new(ReasonCode::AdminNotFound, format!("there is no matrix run `{id}`; `byoa matrix list` shows those that are kept"))
}
