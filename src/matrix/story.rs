//! Plays a row of several steps: webhooks, agents' messages, operators' calls, what the provider answers, time that passes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use futures_util::future::try_join_all;
use serde_json::{Value as Json, json};
use tokio::task::JoinSet;

use super::bench::Bench;
use super::judge::{at, delta, redacted};
use super::loopback::{Answer, Asked};
use super::outside::{self, Outside};
use super::play::Played;
use super::row::{When, Who};
use super::stage::{NONCE, Stage};
use super::step::{Says, SdkCall, Send, Step};
use super::wire::{Connection, Request, Response, once};
use super::world::{self, PREFIX};
use crate::domain::installation::ProviderKind;

/// A gateway, its provider, its tenants' agents, and what was answered so far.
struct Story<'s> {
    stage: Stage<'s>,
    bench: Bench,
    api: Outside,
    agents: Outside,
    told: Vec<Option<Response>>,
    /// Connections on which half of a request was sent.
    half_sent: JoinSet<Result<Option<Response>, String>>,
    wrong: Vec<String>,
    shown: String,
}

pub(super) async fn tell(mut stage: Stage<'_>) -> Result<Played, String> {
    let given = &stage.play.given;
    let api = Outside::provider(taken(stage.provider)).await.map_err(|e| format!("no socket for the provider: {e}"))?;
    let answer = given.agent.as_ref().map(|says| answer(&stage, says)).transpose()?.flatten();
    let agents = Outside::agents(answer).await.map_err(|e| format!("no socket for the agents: {e}"))?;
    (stage.api, stage.agents) = (api.base(), agents.base());
    let base = api.base();
    let mut bench = Bench::start(stage.setting, given, |config| {
        config.providers.slack.api_base = base.clone();
        config.providers.telegram.api_base = base.clone();
        config.providers.whatsapp.api_base = base;
    })
    .await?;
    let mut world = world::document(stage.provider, PREFIX, true);
    let endpoint = given.agent.as_ref().map(|_| format!("{}events", stage.agents)).or_else(|| given.agents_at.clone());
    for agent in world.get_mut("agents").and_then(Json::as_array_mut).into_iter().flatten() {
        if let (Some(agent), Some(endpoint)) = (agent.as_object_mut(), &endpoint) {
            agent.insert("endpoint".into(), json!(endpoint));
        }
    }
    bench.applied(&world).await?;
    if !given.apply.is_null() {
        bench.applied(&stage.filled(&given.apply)?).await?;
    }
    for statement in &given.damage {
        bench.damage(&stage.fill(statement)).await?;
    }
    let play = stage.play;
    let mut story =
        Story { stage, bench, api, agents, told: Vec::new(), half_sent: JoinSet::new(), wrong: Vec::new(), shown: String::new() };
    for step in &play.steps {
        story.step(step).await?;
    }
    story.half_sent.shutdown().await;
    let Story { bench, told, wrong, shown, .. } = story;
    bench.drain().await?;
    Ok(Played { wrong, shown, answer: told.into_iter().flatten().last() })
}

/// How the provider says that it took a message.
fn taken(provider: ProviderKind) -> Answer {
    let body = match provider {
        ProviderKind::Slack => json!({"ok": true, "channel": "C00HELPDESK", "ts": "1790000100.000200"}),
        ProviderKind::Telegram => json!({"ok": true, "result": {"message_id": 5}}),
        ProviderKind::WhatsApp => json!({"messages": [{"id": "wamid.1"}]}),
    };
    (200, body).into()
}

/// An answer as a row says it; none where none ever comes.
fn answer(stage: &Stage<'_>, says: &Says) -> Result<Option<Answer>, String> {
    if says.hangs {
        return Ok(None);
    }
    let body = says.body_bytes.map_or_else(|| stage.filled(&says.body), |bytes| Ok(json!("A".repeat(bytes))))?;
    Ok(Some(Answer { status: says.status, headers: says.headers.clone(), body }))
}

impl Story<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let number = self.told.len() + 1;
        let kept = self.bench.store();
        self.stage.session = kept.last_session().await.map_err(|e| e.to_string())?.unwrap_or_default();
        let (before, audited) = (kept.counts().await.map_err(|e| e.to_string())?, kept.audited().await.map_err(|e| e.to_string())?);
        let metrics = self.bench.metrics().await?;
        let (what, mut answers) = self.act(step).await?;
        // Which of many at once is answered how is nobody's to say.
        answers.sort_by_key(|answer| answer.status);
        if let Some(attempts) = step.settled {
            self.bench.settled(attempts).await?;
        }
        if let Some(events) = step.asked {
            self.agents.asked(events).await?;
        }
        let _ = writeln!(self.shown, "{number}. {what}");

        let expect = &step.expect;
        let mut wrong = Vec::new();
        let mut no = |right: bool, why: String| {
            if !right {
                wrong.push(format!("step {number}, {what}: {why}"));
            }
        };
        let statuses: Vec<u16> = answers.iter().map(|a| a.status).collect();
        no(statuses.iter().all(|s| *s < 500 || [502, 503, 504].contains(s)), format!("{statuses:?} is never answered"));
        if let Some(wanted) = &expect.statuses {
            no(statuses == *wanted, format!("statuses {statuses:?}"));
        }
        let answer = answers.into_iter().next();
        if let Some(answer) = &answer {
            if let Some(status) = expect.status {
                no(answer.status == status, format!("status {} for {status}: {}", answer.status, answer.text()));
            }
            let code = serde_json::from_slice::<Json>(&answer.body).ok().and_then(|b| at(&b, "code").as_str().map(str::to_owned));
            if let Some(wanted) = &expect.code {
                no(code.as_ref() == Some(wanted), format!("code {code:?} for {wanted}: {}", answer.text()));
            }
            if let Some(body) = &expect.body {
                no(answer.text() == self.stage.fill(body), format!("body `{}`", answer.text()));
            }
            let waits = answer.header("retry-after").map(str::to_owned);
            no(expect.retry_after.is_none() || expect.retry_after == waits, format!("retry-after {waits:?}"));
            for (name, wanted) in &expect.headers {
                no(answer.header(name) == Some(wanted.as_str()), format!("{name}: {:?}", answer.header(name)));
            }
            for text in &expect.says {
                no(answer.text().contains(&self.stage.fill(text)), format!("does not say `{text}`: {}", answer.text()));
            }
            for text in &expect.silent_of {
                no(!answer.text().contains(&self.stage.fill(text)), format!("says `{text}`: {}", answer.text()));
            }
            if let Some(earlier) = expect.same_as {
                let earlier = self.told.get(earlier.wrapping_sub(1)).and_then(Option::as_ref);
                let earlier = earlier.ok_or_else(|| format!("step {number}: no earlier step was answered"))?;
                no((earlier.status, redacted(&earlier.text())) == (answer.status, redacted(&answer.text())), "answered otherwise".into());
            }
            // Nothing that anybody is told holds a credential.
            no(!answer.text().contains("-credential"), format!("tells a credential: {}", answer.text()));
            self.shown.push_str(&shown(answer).replace(&self.stage.agents, "{agents}"));
        }

        let rows = delta(&before, &self.bench.store().counts().await.map_err(|e| e.to_string())?);
        let written: BTreeMap<String, i64> = rows.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
        if let Some(wanted) = &expect.writes {
            no(written == *wanted, format!("wrote {written:?} for {wanted:?}"));
        }
        if !rows.is_empty() {
            let rows: Vec<String> = rows.iter().map(|(t, n)| format!("{t} {n:+}")).collect();
            let _ = writeln!(self.shown, "   rows: {}", rows.join(", "));
        }
        let (mut grown, mut reasons) = (BTreeMap::new(), BTreeSet::new());
        for (series, now) in self.bench.metrics().await? {
            let more = now - metrics.get(&series).copied().unwrap_or(0.0);
            if more == 0.0 {
                continue;
            }
            if let Some(labels) = series.strip_prefix("byoa_ingress_requests_total") {
                let reason = expect.reason.as_ref();
                no(reason.is_none_or(|r| labels.contains(&format!("reason=\"{r}\""))), format!("counted {labels} for {reason:?}"));
                reasons.extend(labels.split_once("reason=\"").and_then(|(_, rest)| rest.split('"').next()).map(str::to_owned));
                // How many of many at once came too late is nobody's to say.
                let more = if expect.reasons.is_some() { String::new() } else { format!(" {more:+}") };
                let _ = writeln!(self.shown, "   counted: {labels}{more}");
            } else if let Some(labels) = series.strip_prefix("byoa_sends_total") {
                let _ = writeln!(self.shown, "   sends: {labels} {more:+}");
            }
            grown.insert(series, more);
        }
        no(expect.reasons.as_ref().is_none_or(|wanted| reasons == *wanted), format!("counted for {reasons:?}"));
        for (series, wanted) in expect.counts.iter().flatten() {
            let series = self.stage.fill(series);
            no(grown.get(&series) == Some(wanted), format!("{series} grew by {:?}", grown.get(&series)));
        }
        let lines = self.bench.store().audit_after(audited).await.map_err(|e| e.to_string())?;
        let lines: Vec<String> = lines.iter().map(|line| redacted(line)).collect();
        if let Some(wanted) = &expect.audits {
            let actions: Vec<&str> = lines.iter().filter_map(|l| l.split(' ').nth(1)).collect();
            no(actions == *wanted, format!("audited {actions:?}"));
        }
        for line in &lines {
            no(!line.contains("-credential"), format!("audits a credential: {line}"));
            // How long a set of policies took to load is another each time, and how many there are with every policy.
            let line = if line.contains(" policies.load ") { line.split(" {").next().unwrap_or_default() } else { line };
            let _ = writeln!(self.shown, "   audit: {line}");
        }
        let mut calls = self.calls();
        if let Some(wanted) = &expect.calls {
            let whose: Vec<&str> = calls.iter().map(|(_, whose)| *whose).collect();
            let whose = if whose.is_empty() { "none".to_owned() } else { whose.join(" ") };
            no(whose == *wanted, format!("the provider was called with {whose}"));
        }
        if let Some(wanted) = &expect.called {
            let mut called = BTreeMap::new();
            for (call, _) in &calls {
                *called.entry(call.clone()).or_insert(0) += 1;
            }
            no(called == *wanted, format!("the provider was called for {called:?}"));
        }
        // Which of many was first is nobody's to say.
        if step.at_once.is_some() {
            calls.sort();
        }
        for (call, whose) in &calls {
            let _ = writeln!(self.shown, "   provider: {call} with the credential of {whose}");
        }
        let sent = |asked: &Asked| format!("{} {}", outside::text(asked).replace(&self.stage.api, "{api}"), asked.header("byoa-attempt"));
        let unseen = self.agents.unseen();
        for (wanted, times) in &expect.agent_bodies {
            let found: usize = unseen.iter().map(|asked| String::from_utf8_lossy(&asked.body).matches(wanted.as_str()).count()).sum();
            no(found == *times, format!("the agents were sent `{wanted}` {found} times"));
        }
        let sent: Vec<String> = unseen.iter().map(sent).collect();
        no(expect.agent_calls.as_ref().is_none_or(|wanted| sent == *wanted), format!("the agents were sent {sent:?}"));
        for sent in &sent {
            let _ = writeln!(self.shown, "   agent: {sent}");
        }
        for (query, wanted) in &expect.finds {
            let query = self.stage.fill(query);
            let rows = self.bench.store().rows(&query).await.map_err(|e| format!("{query}: {e}"))?;
            let first = |row: &Json| match row.as_object().and_then(|o| o.values().next()) {
                Some(Json::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None => String::new(),
            };
            let found: Vec<String> = rows.iter().map(first).collect();
            let wanted: Vec<String> = wanted.iter().map(|w| self.stage.fill(w)).collect();
            no(found == wanted, format!("{query} finds {found:?}"));
        }
        self.wrong.extend(wrong);
        self.told.push(answer);
        Ok(())
    }

    /// Does what the step says; what that was, and what was answered.
    async fn act(&mut self, step: &Step) -> Result<(String, Vec<Response>), String> {
        let many = step.at_once.unwrap_or(1);
        let times = if many > 1 { format!(", {many} at once") } else { String::new() };
        if let Some(when) = &step.webhook {
            let mut requests = Vec::with_capacity(many);
            for n in (0u64..).take(many) {
                let nonce = if step.fresh_keys { Some(when.nonce.unwrap_or(NONCE) + n) } else { when.nonce };
                requests.push(self.stage.request(&When { nonce, ..when.clone() }, self.bench.clock.now())?);
            }
            let what = format!("webhook {}{times}", when.sample.as_deref().unwrap_or("message"));
            if let Some(many) = step.half_sent {
                let request = self.stage.request(when, self.bench.clock.now())?;
                return Ok((format!("{what}, {many} half sent"), self.half(&request, many).await?));
            }
            return Ok((what, self.all(requests.into_iter(), step.store_held).await?));
        }
        if let Some(send) = &step.send {
            let what = format!("{}'s agent sends{times}", send.who);
            let request = self.message(send, step.fresh_keys)?;
            let requests = (0..many)
                .map(|n| if step.fresh_keys { request.clone().header("idempotency-key", format!("key-{n}")) } else { request.clone() });
            return Ok((what, self.all(requests, step.store_held).await?));
        }
        if let Some(call) = &step.sdk {
            let what = format!("{}'s agent calls the SDK's door{times}", call.who.as_deref().unwrap_or("tenant"));
            let request = self.sdk_call(call)?;
            if let Some(many) = step.half_sent {
                return Ok((format!("{what}, {many} half sent"), self.half(&request, many).await?));
            }
            return Ok((what, self.all((0..many).map(|_| request.clone()), step.store_held).await?));
        }
        if step.hang_up {
            self.half_sent.shutdown().await;
            return Ok(("who had half sent hangs up".into(), Vec::new()));
        }
        if let Some(operate) = &step.operate {
            let who = match (&operate.authorization, operate.who()) {
                (Some(_), _) => "somebody",
                (None, Who::Viewer) => "viewer",
                (None, Who::Security) => "operator",
                (None, Who::OneFactor) => "operator with one factor",
                (None, Who::Operator) => "operator of the role operator",
                (None, Who::ReleaseManager) => "release manager",
            };
            let what = format!("{who}: {} {}", operate.method, operate.path);
            let version = operate.if_match.map(|step| self.version(step)).transpose()?;
            return Ok((what, vec![self.stage.operate(&self.bench, operate, version).await?]));
        }
        if let Some(path) = &step.get {
            let answer = self.bench.operate(&self.bench.bearer(Who::Security), "GET", &self.stage.fill(path), &Json::Null).await?;
            return Ok((format!("operator: GET {path}"), vec![answer]));
        }
        if let Some(says) = &step.provider {
            self.api.answers(says.to.as_deref(), answer(&self.stage, says)?);
            return Ok((told("the provider", says), Vec::new()));
        }
        if let Some(says) = &step.agent {
            self.agents.answers(says.to.as_deref(), answer(&self.stage, says)?);
            return Ok((told("the agent", says), Vec::new()));
        }
        if let Some(files) = &step.policies {
            if self.stage.play.given.policies.is_empty() {
                return Err("a row that replaces policies begins with some of its own".into());
            }
            self.bench.replaced(files).await?;
            return Ok(("policies are replaced".into(), Vec::new()));
        }
        if let Some(refused) = &step.policies_refused {
            if self.stage.play.given.policies.is_empty() {
                return Err("a row that replaces policies begins with some of its own".into());
            }
            self.bench.rejected(&refused.files, Some(&refused.code)).await?;
            return Ok((format!("policies are rejected with {}", refused.code), Vec::new()));
        }
        if let Some(seconds) = step.wait_s {
            self.bench.clock.advance_ms(seconds * 1000);
            return Ok((format!("{seconds} s pass"), Vec::new()));
        }
        if let Some(seconds) = step.clock_step_s {
            self.bench.clock.step_ms(seconds * 1000);
            return Ok((format!("the wall clock is set by {seconds} s"), Vec::new()));
        }
        if let Some(statement) = &step.damage {
            self.bench.damage(&self.stage.fill(statement)).await?;
            return Ok(("stored rows are damaged".into(), Vec::new()));
        }
        if let Some(document) = &step.apply {
            return Ok(("operator: apply".into(), vec![self.bench.apply(&self.stage.filled(document)?).await?]));
        }
        Err("a step that does nothing".into())
    }

    /// The `ETag` of what an earlier step was answered.
    fn version(&self, step: usize) -> Result<&str, String> {
        let answer = step.checked_sub(1).and_then(|n| self.told.get(n)).and_then(Option::as_ref);
        answer.and_then(|a| a.header("etag")).ok_or_else(|| format!("if_match: step {step} was answered with no ETag"))
    }

    /// Sends them at once; where the store is held, somebody else has its lock until all are answered.
    async fn all(&mut self, requests: impl Iterator<Item = Request>, held: bool) -> Result<Vec<Response>, String> {
        let to = self.bench.public;
        if held {
            self.bench.store().hold().await.map_err(|e| e.to_string())?;
        }
        let calls =
            requests.map(|request| async move { once(to, &request).await?.ok_or_else(|| "the public listener hangs up".to_owned()) });
        let answers = try_join_all(calls).await;
        if held {
            self.bench.store().let_go().await.map_err(|e| e.to_string())?;
        }
        answers
    }

    /// Sends half of a request on so many connections, one after the other, until all but one are answered.
    async fn half(&mut self, request: &Request, many: usize) -> Result<Vec<Response>, String> {
        let half = [request.head(), request.body.get(..request.body.len() / 2).unwrap_or_default().to_vec()].concat();
        for _ in 0..many {
            let (half, to) = (half.clone(), self.bench.public);
            self.half_sent.spawn(async move { Connection::open(to).await.map_err(|e| e.to_string())?.exchange(&half).await });
        }
        let mut answers = Vec::new();
        while answers.len() + 1 < many {
            let answered = self.half_sent.join_next().await.ok_or("nothing was half sent")?;
            answers.push(answered.map_err(|e| e.to_string())??.ok_or("the public listener hangs up")?);
        }
        Ok(answers)
    }

    fn sdk_call(&self, call: &SdkCall) -> Result<Request, String> {
        let token = format!("agt_{}_3kd9slw02mfj47", org(call.who.as_deref().unwrap_or("tenant"))?);
        let (conversation, app) =
            (self.stage.conversation(), if call.who.as_deref() == Some("other") { &self.stage.other } else { &self.stage.own });
        let (path, message) = match self.stage.provider {
            ProviderKind::Slack => {
                let method = call.method.as_deref().unwrap_or("chat.postMessage");
                (format!("/sdk/slack/api/{method}"), json!({"channel": conversation, "text": "hi"}))
            }
            ProviderKind::Telegram => {
                let method = call.method.as_deref().unwrap_or("sendMessage");
                (format!("/sdk/telegram/bot{token}/{method}"), json!({"chat_id": conversation, "text": "hi"}))
            }
            ProviderKind::WhatsApp => {
                let method = call.method.as_deref().unwrap_or("messages");
                let message = json!({"messaging_product": "whatsapp", "to": conversation, "type": "text", "text": {"body": "hi"}});
                let number = self.stage.fill(call.number.as_deref().unwrap_or(app.account));
                (format!("/sdk/whatsapp/v23.0/{number}/{method}"), message)
            }
        };
        if let Some(file) = &call.file {
            let request = Request::get(&format!("/sdk/telegram/file/bot{token}/{file}"));
            return Ok(request.header("byoa-installation", &app.profile));
        }
        let body: String = call.body.iter().map(|(text, times)| self.stage.fill(text).replace("{token}", &token).repeat(*times)).collect();
        let body = if call.body.is_empty() { message.to_string() } else { body };
        let request = Request::post(&path, body).header("content-type", call.content_type.as_deref().unwrap_or("application/json"));
        let request = if call.unnamed { request } else { request.header("byoa-installation", &app.profile) };
        let bearer = self.stage.provider != ProviderKind::Telegram && !call.token_in_body;
        Ok(if bearer { request.header("authorization", format!("Bearer {token}")) } else { request })
    }

    fn message(&self, send: &Send, fresh: bool) -> Result<Request, String> {
        let org = org(&send.who)?;
        let mut body = serde_json::Map::new();
        body.insert("installation".into(), json!(self.stage.own.profile));
        body.insert("conversation".into(), json!(self.stage.conversation()));
        body.insert("text".into(), json!("hi"));
        for (name, value) in &send.body {
            let (name, value) = (name.as_str().ok_or("a field's name is a text")?, self.stage.filled(value)?);
            if value.is_null() {
                body.remove(name);
            } else {
                body.insert(name.to_owned(), value);
            }
        }
        let key = send.key.clone().unwrap_or_else(|| format!("key-{}", self.told.len()));
        let request = Request::post("/v1/messages", Json::Object(body).to_string()).json();
        let request = request.header("authorization", format!("Bearer agt_{org}_3kd9slw02mfj47"));
        Ok(if fresh { request } else { request.header("idempotency-key", key) })
    }

    /// What the provider was called for since the last step, and with whose credential.
    fn calls(&self) -> Vec<(String, &'static str)> {
        let apps = [("platform", &self.stage.platform), ("tenant", &self.stage.tenant), ("other", &self.stage.other)];
        let call = |asked: Asked| {
            let (path, said) = (outside::target(&asked), asked.header("authorization"));
            let holds = |credential: &str| path.contains(credential) || said.contains(credential);
            let whose = apps.iter().find(|(_, app)| holds(&app.credential())).map_or("nobody", |(name, _)| name);
            let path = apps.iter().fold(path.clone(), |path, (_, app)| path.replace(&app.credential(), "…"));
            (format!("{} {path}", asked.method), whose)
        };
        self.api.unseen().into_iter().map(call).collect()
    }
}

/// The org of whoever is called so.
fn org(who: &str) -> Result<&'static str, String> {
    match who {
        "tenant" => Ok("acme"),
        "other" => Ok("globex"),
        "nobody" => Ok("nobody"),
        other => Err(format!("nobody is called `{other}`")),
    }
}

/// What somebody outside is told to do from here on.
fn told(who: &str, says: &Says) -> String {
    let to = says.to.as_ref().map_or_else(String::new, |to| format!(" {to} with"));
    if says.hangs { format!("{who} does not answer any more") } else { format!("{who} answers{to} {}", says.status) }
}

fn shown(answer: &Response) -> String {
    let mut out = format!("   {}", answer.status);
    for name in ["retry-after", "content-type"] {
        if let Some(value) = answer.header(name) {
            let _ = write!(out, " · {name}: {value}");
        }
    }
    let times = answer.header("content-type").is_some_and(|kind| kind.starts_with("application/openmetrics-text"));
    let text = if times { "(how long things took is another each time)".to_owned() } else { redacted(&answer.text()) };
    let cut: String = text.chars().take(1_000).collect();
    let _ = writeln!(out, "\n   {}", if cut.is_empty() { "(empty)" } else { cut.trim_end() });
    out
}
