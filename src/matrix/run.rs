//! Plays every case, on threads of its own: each has a runtime, gives way to whoever serves, and logs nothing, because what a
//! row provokes is no news of this gateway.

use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

use super::bench::Setting;
use super::play::{Played, play};
use super::row::Play;
use super::wire::Response;
use crate::domain::installation::ProviderKind;
use crate::domain::matrix::{Exercise, PlayedCase, Player, Playing};
use crate::policy::reload::give_way;

/// Threads that play.
const THREADS_MAX: usize = 4;

/// Cases that one thread has under way: while one waits for the disk, another goes on.
const AT_ONCE: usize = 3;

/// A case that takes longer hangs.
const CASE_MAX: Duration = Duration::from_secs(120);

/// Plays the rows that are in the binary.
#[derive(Debug)]
pub(super) struct Embedded;

impl Player for Embedded {
    fn cases(&self, providers: &[ProviderKind]) -> usize {
        super::plays(providers).map_or(0, |plays| plays.len())
    }

    fn play<'p>(&'p self, exercise: Exercise, tell: &'p (dyn Fn(PlayedCase) + Send + Sync)) -> Playing<'p> {
        Box::pin(async move {
            let plays = super::plays(&exercise.providers)?;
            let setting = Setting::new(exercise.policies, exercise.now)?;
            if *setting.version() != exercise.version {
                return Err(format!("the policies that were given are the set {}, not {}", setting.version(), exercise.version));
            }
            let setting = Arc::new(setting);
            let work = Arc::new(Work { waiting: Mutex::new(VecDeque::from(plays)), first: Mutex::default() });
            let (done, mut played) = mpsc::unbounded_channel();
            let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
            for _ in 0..threads {
                let (setting, work, done) = (Arc::clone(&setting), Arc::clone(&work), done.clone());
                let thread = std::thread::Builder::new().name("byoa-matrix".into());
                thread.spawn(move || go(&setting, &work, &done)).map_err(|e| format!("no thread to play on: {e}"))?;
            }
            drop(done);
            while let Some(case) = played.recv().await {
                tell(case);
            }
            Ok(())
        })
    }
}

/// What is to be done, and what was answered first where every case is to be answered alike.
struct Work {
    waiting: Mutex<VecDeque<Play>>,
    first: Mutex<BTreeMap<(String, ProviderKind), (String, Response)>>,
}

impl Work {
    fn next(&self) -> Option<Play> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Why this answer is not like the first one.
    fn unlike(&self, case: &Play, provider: ProviderKind, answer: Option<Response>) -> Option<String> {
        let answer = answer.filter(|_| case.same_answer)?;
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, first) = first.entry((case.row.clone(), provider)).or_insert_with(|| (case.name(), answer.clone()));
        (*first != answer).then(|| format!("it is answered otherwise than {name}"))
    }
}

/// Takes one case after the other until none is left, or nobody listens any more.
fn go(setting: &Setting, work: &Work, done: &mpsc::UnboundedSender<PlayedCase>) {
    give_way(false);
    let _silent = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new());
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let mut under_way = FuturesUnordered::new();
        loop {
            while under_way.len() < AT_ONCE
                && !done.is_closed()
                && let Some(play) = work.next()
            {
                under_way.push(one(setting, work, play));
            }
            match under_way.next().await {
                Some(Some(case)) => drop(done.send(case)),
                Some(None) => {}
                None => return,
            }
        }
    });
}

async fn one(setting: &Setting, work: &Work, case: Play) -> Option<PlayedCase> {
    let (provider, mode) = (case.to.provider()?, case.mode?);
    let played = AssertUnwindSafe(tokio::time::timeout(CASE_MAX, play(setting, &case))).catch_unwind().await;
    let wrong = match played {
        Ok(Ok(Ok(Played { mut wrong, answer, .. }))) => {
            wrong.extend(work.unlike(&case, provider, answer));
            wrong
        }
        Ok(Ok(Err(why))) => vec![format!("it could not be played: {why}")],
        Ok(Err(_)) => vec![format!("it did not end within {} s", CASE_MAX.as_secs())],
        Err(_) => vec!["something in it panicked".to_owned()],
    };
    let Play { row, title, dimension, case, .. } = case;
    Some(PlayedCase { row, title, dimension, provider, mode, case, wrong })
}
