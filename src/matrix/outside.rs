//! The provider's API in a story: it answers what it is told to, and keeps what it was asked.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::loopback::{self, Answer, Asked, Loopback};

/// Method, path with its query, and `Authorization`.
pub(super) type Call = (String, String, String);

/// What it answers, and what it was asked.
#[derive(Default)]
struct Inner {
    /// What it answers on paths that begin so; none where it never does. What was said later goes first.
    routes: Vec<(String, Option<Answer>)>,
    calls: Vec<Call>,
}

/// A provider's API.
pub(super) struct Provider {
    inner: Arc<Mutex<Inner>>,
    server: Loopback,
}

fn held(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Provider {
    /// One that answers so to everything.
    pub(super) async fn open(answer: Answer) -> io::Result<Self> {
        let inner = Arc::new(Mutex::new(Inner { routes: vec![(String::new(), Some(answer))], ..Inner::default() }));
        let asked = Arc::clone(&inner);
        let server = loopback::serve(move |request| {
            let answer = taken(&asked, request);
            async move {
                match answer {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            }
        });
        Ok(Self { inner, server: server.await? })
    }

    /// Where it answers.
    pub(super) fn base(&self) -> String {
        format!("http://{}/", self.server.address)
    }

    /// What it answers from here on; on paths that begin so, or on all.
    pub(super) fn answers(&self, path: Option<&str>, answer: Answer) {
        let mut inner = held(&self.inner);
        match (path, inner.routes.first_mut()) {
            (None, Some(all)) => all.1 = Some(answer),
            _ => inner.routes.push((path.unwrap_or_default().to_owned(), Some(answer))),
        }
    }

    /// It takes what it is sent and never answers.
    pub(super) fn hangs(&self) {
        held(&self.inner).routes.push((String::new(), None));
    }

    /// What it was asked since somebody looked.
    pub(super) fn unseen(&self) -> Vec<Call> {
        std::mem::take(&mut held(&self.inner).calls)
    }
}

fn taken(inner: &Mutex<Inner>, asked: Asked) -> Option<Answer> {
    let said = asked.header("authorization").to_owned();
    let path = asked.query.map_or_else(|| asked.path.clone(), |query| format!("{}?{query}", asked.path));
    let mut inner = held(inner);
    let answer = inner.routes.iter().rev().find(|(prefix, _)| path.starts_with(prefix)).and_then(|(_, answer)| answer.clone());
    inner.calls.push((asked.method.to_string(), path, said));
    answer
}
