//! The world outside in a story, the provider's API or the tenants' agents: it answers what it is told to, and keeps what it
//! was asked.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value as Json;

use super::bench::{LOOK_EVERY, LOOK_MAX};
use super::loopback::{self, Answer, Asked, Loopback};

/// What it answers, and what it was asked.
struct Inner {
    /// What a request is about.
    about: fn(&Asked) -> String,
    /// What it answers to what begins so; none where it never does. What was said later goes first.
    routes: Vec<(String, Option<Answer>)>,
    asked: Vec<Asked>,
    /// How much it was asked in all.
    count: usize,
}

/// A server that does as it is told.
pub(super) struct Outside {
    inner: Arc<Mutex<Inner>>,
    server: Loopback,
}

fn held(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outside {
    /// A provider's API that answers so to everything; it is told apart by path.
    pub(super) async fn provider(answer: Answer) -> io::Result<Self> {
        Self::open(Some(answer), target).await
    }

    /// Agents that answer so to everything; they are told apart by the event's text.
    pub(super) async fn agents(answer: Option<Answer>) -> io::Result<Self> {
        Self::open(answer, text).await
    }

    async fn open(answer: Option<Answer>, about: fn(&Asked) -> String) -> io::Result<Self> {
        let inner = Arc::new(Mutex::new(Inner { about, routes: vec![(String::new(), answer)], asked: Vec::new(), count: 0 }));
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

    /// What it answers from here on, to what begins so or to all; none where it takes what it is sent and never answers.
    pub(super) fn answers(&self, to: Option<&str>, answer: Option<Answer>) {
        let mut inner = held(&self.inner);
        match (to, inner.routes.first_mut()) {
            (None, Some(all)) => all.1 = answer,
            _ => inner.routes.push((to.unwrap_or_default().to_owned(), answer)),
        }
    }

    /// Waits until it was asked so often in all.
    pub(super) async fn asked(&self, times: usize) -> Result<(), String> {
        let asked = async {
            while held(&self.inner).count < times {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(LOOK_MAX, asked).await.map_err(|_| format!("nobody asks {times} times"))
    }

    /// What it was asked since somebody looked.
    pub(super) fn unseen(&self) -> Vec<Asked> {
        std::mem::take(&mut held(&self.inner).asked)
    }
}

fn taken(inner: &Mutex<Inner>, asked: Asked) -> Option<Answer> {
    let mut inner = held(inner);
    let about = (inner.about)(&asked);
    let answer = inner.routes.iter().rev().find(|(to, _)| about.starts_with(to)).and_then(|(_, answer)| answer.clone());
    inner.asked.push(asked);
    inner.count += 1;
    answer
}

/// The path with its query.
pub(super) fn target(asked: &Asked) -> String {
    asked.query.as_ref().map_or_else(|| asked.path.clone(), |query| format!("{}?{query}", asked.path))
}

/// The text of the event that an agent is sent.
pub(super) fn text(asked: &Asked) -> String {
    let event = serde_json::from_slice::<Json>(&asked.body).unwrap_or_default();
    event.pointer("/data/text").and_then(Json::as_str).unwrap_or_default().to_owned()
}
