//! Plays one case against a gateway of its own and says what was seen, and what of it was not as the row expects.

use super::bench::{Bench, Setting};
use super::judge::{Seen, delta, redacted};
use super::row::{Operate, Play, When};
use super::stage::Stage;
use super::wire::{Connection, Request, Response};
use super::world::{self, PREFIX};

/// What came of a case.
#[derive(Debug)]
pub struct Played {
    /// What was not as the row says; empty where the case is green.
    pub wrong: Vec<String>,
    /// Everything that was seen, without what differs from run to run.
    pub shown: String,
    /// The last answer.
    pub answer: Option<Response>,
}

/// Plays it.
///
/// # Errors
/// Why it could not be played: the row says what nobody understands, or the gateway did not start, answer or stop. Such a
/// case is as little green as one that came out wrong.
pub async fn play(setting: &Setting, play: &Play) -> Result<Played, String> {
    let Some(provider) = play.to.provider() else { return Err("a row about a process is played by the tests".into()) };
    let stage = Stage::new(setting, play, provider);
    if play.steps.is_empty() { stage.play().await } else { super::story::tell(stage).await }
}

impl Stage<'_> {
    async fn play(&self) -> Result<Played, String> {
        let given = &self.play.given;
        let mut bench = Bench::start(self.setting, given, |_| {}).await?;
        bench.applied(&world::document(self.provider, PREFIX, false)).await?;
        if !given.apply.is_null() {
            bench.applied(&self.filled(&given.apply)?).await?;
        }
        for statement in &given.damage {
            bench.damage(&self.fill(statement)).await?;
        }
        if !given.policies_saved.is_empty() {
            bench.rejected(&given.policies_saved, given.rejected_as.as_deref()).await?;
        }
        let when = &self.play.when;
        let mut seen = Seen::default();
        let request = self.request(when, self.setting.now)?;
        for _ in 1..when.repeat.unwrap_or(1) {
            let first = bench.send(&request).await?;
            if first.status != 200 {
                return Err(format!("what is repeated was answered {} the first time", first.status));
            }
        }
        let kept = bench.store();
        let (rows, audited) = (kept.counts().await.map_err(|e| e.to_string())?, kept.audited().await.map_err(|e| e.to_string())?);
        let metrics = bench.metrics().await?;
        seen.body = request.body.clone();
        match (&when.operate, when.silent_connections) {
            (Some(operate), _) => seen.answer = Some(self.operate(&bench, operate, None).await?),
            (None, Some(many)) => seen = self.among_silent(&bench, &request, many).await?,
            (None, None) => seen.see(bench.public, when, &request).await?,
        }
        seen.rows = delta(&rows, &bench.store().counts().await.map_err(|e| e.to_string())?);
        for (series, now) in bench.metrics().await? {
            let more = now - metrics.get(&series).copied().unwrap_or(0.0);
            if let Some(labels) = series.strip_prefix("byoa_ingress_requests_total")
                && more != 0.0
            {
                seen.metrics.insert(labels.to_owned(), more);
            }
        }
        let mut left = bench.drain().await?;
        let audit = left.store.audit_after(audited).await.map_err(|e| e.to_string())?;
        seen.audit = audit.iter().map(|line| redacted(line)).collect();
        seen.refusals = left.store.refusals().await.map_err(|e| e.to_string())?;
        seen.events = left.store.events().await.map_err(|e| e.to_string())?;
        let wrong = self.judge(&self.play.expect, &seen)?;
        let shown = seen.show();
        // Two answers of one second differ in nothing, of two seconds in the date.
        let answer = seen.answer.map(|mut answer| {
            answer.headers.retain(|(name, _)| name != "date");
            answer
        });
        Ok(Played { wrong, shown, answer })
    }

    pub(super) async fn operate(&self, bench: &Bench, operate: &Operate, if_match: Option<&str>) -> Result<Response, String> {
        let (path, document) = (self.fill(&operate.path), self.filled(&operate.document)?);
        let authorization = operate.authorization.clone().unwrap_or_else(|| bench.bearer(operate.who()));
        bench.operate_if(&authorization, &operate.method, &path, &document, if_match).await
    }

    /// Many connections that say nothing: others are served meanwhile, and the silent ones are closed in the end.
    async fn among_silent(&self, bench: &Bench, request: &Request, many: usize) -> Result<Seen, String> {
        let mut silent = Vec::with_capacity(many);
        for n in 0..many {
            let mut connection = Connection::open(bench.public).await.map_err(|e| e.to_string())?;
            if n % 2 == 0 {
                connection.write(b"POST /webhooks/").await;
            }
            silent.push(connection);
        }
        let mut seen = Seen { body: request.body.clone(), ..Seen::default() };
        seen.see(bench.public, &self.play.when, request).await?;
        for connection in &mut silent {
            connection.rest().await?;
        }
        Ok(seen)
    }
}

impl Seen {
    /// Sends the request in the way the row wants.
    pub(super) async fn see(&mut self, to: std::net::SocketAddr, when: &When, request: &Request) -> Result<(), String> {
        let mut connection = Connection::open(to).await.map_err(|e| e.to_string())?;
        if let Some(wire) = &when.wire {
            self.answer = connection.exchange(wire.as_bytes()).await?;
            self.ended = connection.ends().await?;
            return Ok(());
        }
        let head = request.head();
        self.answer = match when.dribble.as_deref() {
            // The end of the head never comes; every byte so far was a legal one.
            Some("headers") => connection.exchange(head.get(..head.len().saturating_sub(2)).unwrap_or_default()).await?,
            Some("body") => {
                let half = request.body.get(..request.body.len() / 2).unwrap_or_default();
                connection.exchange(&[&head, half].concat()).await?
            }
            Some(other) => return Err(format!("nothing dribbles `{other}`")),
            None if when.body_withheld => connection.exchange(&head).await?,
            None => connection.send(request).await?,
        };
        let closing = self.answer.as_ref().is_none_or(|a| a.header("connection") == Some("close"));
        if closing || when.dribble.is_some() {
            self.ended = connection.ends().await?;
        }
        Ok(())
    }
}
