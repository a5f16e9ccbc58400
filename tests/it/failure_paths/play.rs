//! Plays one case against a gateway of its own and says what was seen, and what of it was not as the row expects.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use byoa_gateway::config::Config;
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::{Mode, ProviderKind};
use byoa_gateway::providers::{self, Sample};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value as Json, json};
use serde_yaml::Value;

use super::row::{Expect, Operate, Play, When};
use crate::support::gateway::{Kept, TestGateway, delta};
use crate::support::here;
use crate::support::raw::{Connection, Framing, Request, Response};
use crate::support::world::{self, App};

pub const NOW: i64 = 1_790_000_100;

pub struct Played {
    pub wrong: Vec<String>,
    pub shown: String,
    pub answer: Option<Response>,
}

pub async fn play(play: &Play) -> Played {
    match play.to.provider() {
        Some(provider) if play.steps.is_empty() => Stage::new(play, provider).play().await,
        Some(provider) => super::story::tell(&Stage::new(play, provider)).await,
        None => process(play),
    }
}

/// What a request is made from: the app it is addressed to and the others.
pub(super) struct Stage<'p> {
    pub play: &'p Play,
    pub provider: ProviderKind,
    pub own: App,
    pub other: App,
    pub platform: App,
    pub acme: App,
}

impl<'p> Stage<'p> {
    fn new(play: &'p Play, provider: ProviderKind) -> Self {
        let (platform, acme) = (world::platform(provider), world::acme(provider));
        let own = if play.mode == Some(Mode::Platform) { platform.clone() } else { acme.clone() };
        Self { play, provider, own, other: world::globex(provider), platform, acme }
    }

    pub(super) fn app(&self, word: &str) -> &App {
        match word {
            "own" => &self.own,
            "other" => &self.other,
            "platform" => &self.platform,
            "tenant" => &self.acme,
            _ => panic!("no app is called `{word}`"),
        }
    }

    /// Puts in what rows name in braces.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (word, app) in [("", &self.own), ("other.", &self.other), ("platform.", &self.platform), ("tenant.", &self.acme)] {
            for (name, value) in [
                ("account", app.account),
                ("waba", app.waba),
                ("app_id", app.app_id),
                ("secret", app.secret),
                ("verify_token", app.verify_token),
                ("profile", &app.profile),
                ("ingress", &app.ingress),
                ("owner", app.owner),
            ] {
                out = out.replace(&format!("{{{word}{name}}}"), value);
            }
        }
        out.replace("{provider}", self.provider.as_str()).replace("{long}", &"A".repeat(600))
    }

    pub(super) fn filled(&self, value: &Value) -> Json {
        let mut text = serde_json::to_string(value).unwrap();
        for (word, app) in [("", &self.own), ("other.", &self.other), ("platform.", &self.platform), ("tenant.", &self.acme)] {
            text = text.replace(&format!("\"{{{word}account_json}}\""), &world::account_json(&app.external()).to_string());
        }
        serde_json::from_str(&self.fill(&text)).unwrap()
    }

    /// The request of the row, and the body that was signed.
    fn request(&self, when: &When) -> Request {
        self.request_at(when, Timestamp::from_secs(NOW))
    }

    /// The same, said and signed at a time.
    pub(super) fn request_at(&self, when: &When, now: Timestamp) -> Request {
        let app = self.app(when.at.as_deref().or(when.app.as_deref()).unwrap_or("own"));
        let (body, media_type) = self.body(when, now);
        let mut target = when.path.as_deref().map_or_else(|| app.path(), |p| self.fill(p));
        let proof = self.proof(when, &body, now);
        if let Some(query) = &when.query {
            let said = proof.last().map_or("", |(_, value)| value.as_str());
            target = format!("{target}?{}", self.fill(query).replace("{proof}", said));
        }
        let sent = edited(body, &when.edit_after_signing, |t| self.fill(t));
        let mut request = Request::post(&target, sent);
        if let Some(method) = &when.method {
            request.method.clone_from(method);
        }
        if request.method == "GET" {
            request.body.clear();
        }
        let media_type = when.content_type.clone().unwrap_or(media_type);
        if !media_type.is_empty() {
            request = request.header("content-type", media_type);
        }
        for (name, value) in proof {
            if !when.drop_headers.iter().any(|d| d.eq_ignore_ascii_case(&name)) {
                request = request.header(&name, latin1(&value));
            }
        }
        for (name, value) in &when.headers {
            let length = request.body.len().to_string();
            request = request.header(name, latin1(&self.fill(value).replace("{length}", &length)));
        }
        for n in 0..when.header_lines.unwrap_or(0) {
            request = request.header(&format!("x-line-{n}"), "1");
        }
        if let Some(bytes) = when.header_bytes {
            request = request.header("x-long", "a".repeat(bytes));
        }
        request.framing = match when.framing.as_deref() {
            None => Framing::Length,
            Some("chunked") => Framing::Chunked(64 * 1024),
            Some("as written") => Framing::AsIs,
            Some(other) => panic!("no framing is called `{other}`"),
        };
        if let Some(body) = &when.wire_body {
            request.body = body.clone().into_bytes();
        }
        request
    }

    /// Where people talk.
    pub(super) fn conversation(&self) -> &'static str {
        match self.provider {
            ProviderKind::Slack => "C00HELPDESK",
            ProviderKind::Telegram => "5100000001",
            ProviderKind::WhatsApp => "16505550123",
        }
    }

    /// The body as it is signed, and its media type.
    fn body(&self, when: &When, now: Timestamp) -> (Vec<u8>, String) {
        let app = self.app(when.app.as_deref().unwrap_or("own"));
        let sample = Sample {
            kind: when.sample.as_deref().unwrap_or("message"),
            account: &app.external(),
            app_id: Some(app.app_id),
            conversation: self.conversation(),
            text: "hello",
            nonce: when.nonce.unwrap_or(71),
            now,
        };
        let (body, media_type) = providers::of(self.provider).sample(&sample).expect("the provider makes up such a body");
        let mut body = match (&when.body, &when.body_hex, when.body_depth) {
            (Some(text), None, None) => self.fill(text).into_bytes(),
            (None, Some(digits), None) => hex::decode(digits.replace(char::is_whitespace, "")).unwrap(),
            // Where a careless reader would skip it: in a field that nobody asks for.
            (None, None, Some(depth)) => {
                let text = String::from_utf8(body).unwrap();
                let nest = format!("{{\"nest\":{}1{},", "[".repeat(depth - 1), "]".repeat(depth - 1));
                format!("{nest}{}", text.strip_prefix('{').unwrap()).into_bytes()
            }
            (None, None, None) => body,
            _ => panic!("one body, please"),
        };
        body = edited(body, &when.edit, |t| self.fill(t));
        if let Some(bytes) = when.body_bytes {
            let closing = body.pop().unwrap();
            body.resize(bytes - 1, b' ');
            body.push(closing);
        }
        (body, media_type.to_owned())
    }

    /// The headers that prove it, as the row wants them.
    fn proof(&self, when: &When, body: &[u8], now: Timestamp) -> Vec<(String, String)> {
        let sign_with = when.sign_with.as_deref().or(when.app.as_deref()).unwrap_or("own");
        if sign_with == "nothing" {
            return Vec::new();
        }
        let secret = match sign_with {
            "the empty key" => "",
            "nobody's key" => "6d1f0a9b8c7e5d4f3a2b1c0d9e8f7a6b",
            app => self.app(app).secret,
        };
        let timestamp = match when.timestamp.as_deref() {
            Some(text) => text.to_owned(),
            None => (now.secs() + when.timestamp_offset_s).to_string(),
        };
        let (name, default, signed) = match self.provider {
            ProviderKind::Slack => ("X-Slack-Signature", "v0={hex}", [b"v0:", timestamp.as_bytes(), b":", body].concat()),
            ProviderKind::Telegram => ("X-Telegram-Bot-Api-Secret-Token", "{key}", Vec::new()),
            ProviderKind::WhatsApp => ("X-Hub-Signature-256", "sha256={hex}", body.to_vec()),
        };
        let digits = hex::encode(hmac(secret.as_bytes(), &signed));
        let tag = if self.provider == ProviderKind::Slack { "v0" } else { "sha256" };
        let value = |template: &str| {
            let shorter = &secret[..secret.len().saturating_sub(1)];
            let mut value = self.fill(template).replace("{tag}", tag).replace("{key}", secret).replace("{hex}", &digits);
            value = value.replace("{shorter}", shorter);
            value = value.replace("{HEX}", &digits.to_uppercase());
            for n in [1, 32, 40, 63] {
                value = value.replace(&format!("{{hex:{n}}}"), &digits[..n]);
            }
            value
        };
        let mut headers = vec![(name.to_owned(), value(when.proof.as_deref().unwrap_or(default)))];
        if let Some(again) = &when.proof_again {
            headers.push((name.to_owned(), value(if again == "same" { default } else { again })));
        }
        if self.provider == ProviderKind::Slack {
            headers.insert(0, ("X-Slack-Request-Timestamp".to_owned(), timestamp));
        }
        headers
    }

    /// The gateway that the row is played against, with the shipped policies and the row's over them.
    pub(super) async fn start(&self, policies: &tempfile::TempDir, tweak: impl FnOnce(&mut Config)) -> TestGateway {
        let given = &self.play.given;
        let (platform, shipped) = (policies.path().join("platform"), here("policies/platform"));
        std::fs::create_dir(&platform).unwrap();
        for file in std::fs::read_dir(shipped).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), platform.join(file.file_name())).unwrap();
        }
        save(policies.path(), &given.policies);
        TestGateway::start_with(NOW, |config| {
            let mut tree = serde_yaml::to_value(&*config).unwrap();
            lay(&mut tree, &Value::Mapping(given.config.clone()));
            *config = serde_yaml::from_value(tree).unwrap_or_else(|e| panic!("{}: config: {e}", self.play.name()));
            config.policies.dir = policies.path().to_owned();
            tweak(config);
        })
        .await
    }

    async fn play(&self) -> Played {
        let given = &self.play.given;
        let policies = tempfile::tempdir().unwrap();
        let gateway = self.start(&policies, |_| {}).await;
        gateway.applied(&world::document(self.provider)).await;
        if !given.apply.is_null() {
            gateway.applied(&self.filled(&given.apply)).await;
        }
        for statement in &given.damage {
            gateway.damage(&self.fill(statement)).await;
        }
        if !given.policies_saved.is_empty() {
            save(policies.path(), &given.policies_saved);
            // The last thing that a rejection does is its audit line.
            let line = "SELECT seq FROM audit WHERE action = 'policies.load' AND outcome = 'refused'";
            while gateway.kept.rows(line).await.is_empty() {}
        }
        let when = &self.play.when;
        let mut seen = Seen::default();
        let request = self.request(when);
        for _ in 1..when.repeat.unwrap_or(1) {
            let first = gateway.send(&request).await;
            assert_eq!(first.status, 200, "what is repeated was not taken the first time");
        }
        let (rows, metrics) = (gateway.kept.counts().await, gateway.metrics().await);
        let audited = gateway.kept.rows("SELECT COALESCE(MAX(seq), 0) AS seq FROM audit").await[0]["seq"].as_i64().unwrap();
        seen.body = request.body.clone();
        match (&when.operate, when.silent_connections) {
            (Some(operate), _) => seen.answer = Some(self.operate(&gateway, operate).await),
            (None, Some(many)) => seen = self.among_silent(&gateway, &request, many).await,
            (None, None) => seen.see(gateway.public, when, &request).await,
        }
        seen.rows = delta(&rows, &gateway.kept.counts().await);
        for (series, now) in gateway.metrics().await {
            let more = now - metrics.get(&series).copied().unwrap_or(0.0);
            if let Some(labels) = series.strip_prefix("byoa_ingress_requests_total")
                && more != 0.0
            {
                seen.metrics.insert(labels.to_owned(), more);
            }
        }
        let kept = gateway.drain().await;
        seen.audit = audit(&kept, audited).await;
        seen.refusals = kept.rows("SELECT provider, profile, installation, org, code, excerpt FROM refusals").await;
        seen.events = kept.rows("SELECT org, installation, agent, kind, provider_event_id, normal_json, raw FROM events").await;
        let wrong = self.judge(&self.play.expect, &seen);
        let shown = seen.show();
        // Two answers of one second differ in nothing, of two seconds in the date.
        let answer = seen.answer.map(|mut answer| {
            answer.headers.retain(|(name, _)| name != "date");
            answer
        });
        Played { wrong, shown, answer }
    }

    pub(super) async fn operate(&self, gateway: &TestGateway, operate: &Operate) -> Response {
        gateway.operate(&operate.method, &self.fill(&operate.path), &self.filled(&operate.document)).await
    }

    /// Many connections that say nothing: others are served meanwhile, and the silent ones are closed in the end.
    async fn among_silent(&self, gateway: &TestGateway, request: &Request, many: usize) -> Seen {
        let mut silent = Vec::with_capacity(many);
        for n in 0..many {
            let mut connection = Connection::open(gateway.public).await;
            if n % 2 == 0 {
                connection.write(b"POST /webhooks/").await;
            }
            silent.push(connection);
        }
        let mut seen = Seen { body: request.body.clone(), ..Seen::default() };
        seen.see(gateway.public, &self.play.when, request).await;
        for connection in &mut silent {
            connection.rest().await;
        }
        seen
    }

    fn judge(&self, expect: &Expect, seen: &Seen) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut no = |right: bool, why: String| {
            if !right {
                wrong.push(why);
            }
        };
        let answer = seen.answer.as_ref();
        let status = answer.map(|a| a.status);
        no(status == expect.status, format!("status {status:?} for {:?}", expect.status));
        no(status.is_none_or(|s| s < 500 || s == 503), format!("status {status:?} is never answered"));
        if let Some(answer) = answer {
            let header = |name: &str| answer.header(name).unwrap_or_default();
            if let Some(body) = &expect.body {
                no(answer.text() == self.fill(body), format!("body `{}`", answer.text()));
            }
            if let Some(kind) = &expect.content_type {
                no(header("content-type").starts_with(kind), format!("content type `{}`", header("content-type")));
            }
            no(header("retry-after").is_empty() != expect.retry_after, format!("retry-after `{}`", header("retry-after")));
            no(header("allow") == expect.allow.as_deref().unwrap_or_default(), format!("allow `{}`", header("allow")));
            for text in &expect.says {
                no(answer.text().contains(&self.fill(text)), format!("does not say `{text}`: {}", answer.text()));
            }
            if self.play.when.operate.is_none() && (400..500).contains(&answer.status) && answer.status != 431 && !answer.body.is_empty() {
                no(answer.text() == "refused\n", format!("a refusal's body is `{}`", answer.text()));
            }
        }
        if expect.ends {
            no(seen.ended, "the connection stays open".into());
        }

        let events = if self.play.mode == Some(Mode::Platform) { 1 } else { 2 };
        let wanted: BTreeMap<String, i64> = match &expect.writes {
            Value::String(word) => match word.as_str() {
                "nothing" => BTreeMap::new(),
                "event" => rows(&[("audit", 1), ("decisions", events), ("dedupe", 1), ("deliveries", 1), ("events", 1), ("sessions", 1)]),
                "refusal" => rows(&[("audit", 1), ("refusals", 1)]),
                "handshake" => rows(&[("audit", 1)]),
                other => panic!("nothing is written as `{other}`"),
            },
            value => serde_yaml::from_value(value.clone()).unwrap_or_else(|e| panic!("writes: {e}")),
        };
        let written: BTreeMap<String, i64> = seen.rows.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect();
        no(written == wanted, format!("wrote {written:?} for {wanted:?}"));

        let outcome = expect.outcome.as_deref().unwrap_or("none");
        let reason = expect.reason.as_deref().unwrap_or_default();
        if outcome == "none" {
            no(seen.metrics.is_empty(), format!("counted {:?}", seen.metrics));
        } else {
            no(!seen.metrics.is_empty(), "not counted".into());
            let own = expect.counted_on.as_deref() != Some("none");
            let mode = if own { self.mode_at() } else { "unknown" };
            let labels = format!(r#"mode="{mode}",outcome="{outcome}",reason="{reason}""#);
            for counted in seen.metrics.keys() {
                no(counted.contains(&labels), format!("counted {counted} for {labels}"));
                let provider = expect.counted_provider.as_deref().unwrap_or(self.provider.as_str());
                no(counted.contains(&format!(r#"provider="{provider}""#)), format!("counted {counted} for {provider}"));
            }
        }
        match outcome {
            "unauthenticated" | "failed" => {
                let target = match expect.counted_on.as_deref() {
                    None => self.app(self.play.when.at.as_deref().unwrap_or("own")).profile.clone(),
                    Some("none") => expect.counted_provider.clone().unwrap_or_else(|| self.provider.to_string()),
                    Some(app) => self.app(app).profile.clone(),
                };
                let line = format!("gateway request.refuse {target} refused {reason}");
                let lines: Vec<&String> = seen.audit.iter().filter(|l| l.contains("request.refuse")).collect();
                no(lines.len() == 1 && lines[0].starts_with(&line), format!("audit {lines:?} for `{line}`"));
            }
            "refused" => {
                no(seen.refusals.iter().all(|r| r["code"] == reason) && !seen.refusals.is_empty(), format!("refusals {:?}", seen.refusals));
            }
            _ => {}
        }
        if let Some(excerpt) = expect.excerpt {
            no(seen.refusals.iter().all(|r| r["excerpt"].is_string() == excerpt), format!("excerpts {:?}", seen.refusals));
        }
        if expect.kept_bytes {
            let raw = seen.events.first().map(|e| e["raw"].as_str().unwrap_or_default().to_owned());
            no(raw.as_ref().is_some_and(|r| r.as_bytes() == seen.body), format!("kept {raw:?}"));
        }
        if let Some(org) = &expect.org {
            no(seen.events.iter().chain(&seen.refusals).all(|r| r["org"] == org.as_str()), format!("orgs of {:?}", seen.events));
        }
        for text in &expect.reads {
            let text = self.fill(text);
            let read = |e: &Json| e["normal_json"].as_str().unwrap_or_default().contains(&text) || e["provider_event_id"] == text.as_str();
            no(seen.events.iter().any(read), format!("`{text}` is not in {:?}", seen.events));
        }
        wrong
    }

    fn mode_at(&self) -> &'static str {
        if self.app(self.play.when.at.as_deref().unwrap_or("own")).owner == "platform" { "platform" } else { "byoa" }
    }
}

fn rows(all: &[(&str, i64)]) -> BTreeMap<String, i64> {
    all.iter().map(|(t, n)| ((*t).to_owned(), *n)).collect()
}

/// HMAC-SHA256, written here so that no signer vouches for its own verifier.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}

fn edited(body: Vec<u8>, edits: &[(String, String)], fill: impl Fn(&str) -> String) -> Vec<u8> {
    if edits.is_empty() {
        return body;
    }
    let mut text = String::from_utf8(body).unwrap();
    for (from, to) in edits {
        let (from, to) = (fill(from), fill(to));
        assert!(text.contains(&from), "nothing to edit: `{from}` is not in {text}");
        text = text.replace(&from, &to);
    }
    text.into_bytes()
}

pub(super) fn lay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Mapping(under), Value::Mapping(over)) => {
            for (key, value) in over {
                lay(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// What could be seen from outside, and what was left behind.
#[derive(Default)]
struct Seen {
    body: Vec<u8>,
    answer: Option<Response>,
    ended: bool,
    rows: BTreeMap<&'static str, i64>,
    metrics: BTreeMap<String, f64>,
    audit: Vec<String>,
    refusals: Vec<Json>,
    events: Vec<Json>,
}

impl Seen {
    /// Sends the request in the way the row wants.
    async fn see(&mut self, to: std::net::SocketAddr, when: &When, request: &Request) {
        let mut connection = Connection::open(to).await;
        if let Some(wire) = &when.wire {
            self.answer = connection.exchange(wire.as_bytes()).await;
            self.ended = connection.ends().await;
            return;
        }
        let head = request.head();
        self.answer = match when.dribble.as_deref() {
            // The end of the head never comes; every byte so far was a legal one.
            Some("headers") => connection.exchange(&head[..head.len() - 2]).await,
            Some("body") => {
                let half = request.body.len() / 2;
                connection.exchange(&[&head, &request.body[..half]].concat()).await
            }
            Some(other) => panic!("nothing dribbles `{other}`"),
            None if when.body_withheld => connection.exchange(&head).await,
            None => connection.send(request).await,
        };
        let closing = self.answer.as_ref().is_none_or(|a| a.header("connection") == Some("close"));
        if closing || when.dribble.is_some() {
            self.ended = connection.ends().await;
        }
    }

    fn show(&self) -> String {
        let mut out = String::new();
        match &self.answer {
            None => out.push_str("no answer\n"),
            Some(answer) => {
                let _ = writeln!(out, "{}", answer.status);
                let mut headers: Vec<String> =
                    answer.headers.iter().filter(|(n, _)| n != "date").map(|(n, v)| format!("{n}: {v}")).collect();
                headers.sort();
                for line in headers {
                    let _ = writeln!(out, "{line}");
                }
                let _ = writeln!(out, "{:?}", redacted(&answer.text()));
            }
        }
        if self.ended {
            out.push_str("the connection ends\n");
        }
        let rows: Vec<String> = self.rows.iter().map(|(t, n)| format!("{t} {n:+}")).collect();
        let _ = writeln!(out, "rows: {}", if rows.is_empty() { "none".into() } else { rows.join(", ") });
        for (labels, more) in &self.metrics {
            let _ = writeln!(out, "counted: {labels} {more:+}");
        }
        for refusal in &self.refusals {
            let _ = writeln!(out, "refusal: {}", redacted(&short(refusal).to_string()));
        }
        for event in &self.events {
            let mut event = event.clone();
            event.as_object_mut().unwrap().remove("raw");
            let _ = writeln!(out, "event: {}", redacted(&short(&event).to_string()));
        }
        for line in &self.audit {
            let _ = writeln!(out, "audit: {line}");
        }
        out
    }
}

/// Long texts cut, so that a snapshot stays readable.
fn short(row: &Json) -> Json {
    let mut row = row.clone();
    for (_, value) in row.as_object_mut().unwrap() {
        if let Some(text) = value.as_str().filter(|t| t.len() > 400) {
            *value = json!(format!("{}… ({} bytes)", text.chars().take(100).collect::<String>(), text.len()));
        }
    }
    row
}

pub(super) async fn audit(kept: &Kept, since: i64) -> Vec<String> {
    let sql = format!("SELECT actor, action, target, org, outcome, code, detail_json FROM audit WHERE seq > {since} ORDER BY seq");
    let word = |v: &Json| v.as_str().unwrap_or("-").to_owned();
    let line = |r: &Json| {
        let words = ["actor", "action", "target", "outcome", "code", "org", "detail_json"].map(|name| word(&r[name]));
        redacted(&words.join(" "))
    };
    kept.rows(&sql).await.iter().map(line).collect()
}

/// Without what differs from run to run: ids.
pub(super) fn redacted(text: &str) -> String {
    let mut out = text.to_owned();
    for prefix in ["evt_", "req_", "dec_", "ses_", "dlv_", "crd_", "msg_"] {
        let mut from = 0;
        while let Some(at) = out[from..].find(prefix).map(|at| from + at + prefix.len()) {
            let id = out[at..].chars().take_while(char::is_ascii_alphanumeric).count();
            // Decisions are counted, everything else has a time and a draw of lots in its id.
            if id >= 20 || (prefix == "dec_" && id > 0) {
                out.replace_range(at..at + id, "…");
            }
            from = at;
        }
    }
    // The set's version changes with every policy, a fingerprint with every master key.
    for name in ["\"policy_version\":\"", "\"fingerprint\":\""] {
        let parts: Vec<&str> = out.split(name).collect();
        let rest = parts.iter().skip(1).map(|part| format!("{name}…{}", part.trim_start_matches(|c: char| c.is_ascii_hexdigit())));
        out = std::iter::once(parts[0].to_owned()).chain(rest).collect();
    }
    out
}

/// Rows about the process as a whole: a configuration it must not start with.
fn save(dir: &std::path::Path, files: &BTreeMap<String, String>) {
    for (path, text) in files {
        std::fs::create_dir_all(dir.join(path).parent().unwrap()).unwrap();
        std::fs::write(dir.join(path), text).unwrap();
    }
}

/// A process that must not start, by its configuration or by its policies.
fn process(play: &Play) -> Played {
    let (when, expect) = (&play.when, &play.expect);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("byoa.yaml");
    std::fs::write(&file, when.config_file.as_deref().unwrap_or_default()).unwrap();
    let loaded = byoa_gateway::config::load::load(Some(&file), when.environment.clone().into_iter());
    let policies = dir.path().join("policies");
    if let Some(files) = &when.policies {
        std::fs::create_dir(&policies).unwrap();
        save(&policies, files);
    }
    let said = match &loaded {
        Ok(_) if when.policies.is_some() || when.key_file.is_some() => {
            let keys = dir.path().join("data/master.keys");
            if let Some(text) = &when.key_file {
                std::fs::create_dir(dir.path().join("data")).unwrap();
                std::fs::write(&keys, text).unwrap();
                let mode = u32::from_str_radix(when.key_mode.as_deref().unwrap_or("600"), 8).unwrap();
                std::fs::set_permissions(&keys, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            }
            let policies = if when.policies.is_some() { policies } else { here("policies") };
            let done = std::process::Command::new(env!("CARGO_BIN_EXE_byoa"))
                .args(["serve", "--public", "127.0.0.1:0", "--operator", "127.0.0.1:0", "--config"])
                .arg(&file)
                .env("BYOA_POLICIES__DIR", &policies)
                .env("BYOA_POLICIES__SCHEMA", here("schemas/gateway.cedarschema"))
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert_eq!(done.status.code(), Some(1), "a refused start exits 1");
            String::from_utf8(done.stderr).unwrap().replace(&dir.path().display().to_string(), "…")
        }
        Ok(_) => "starts".to_owned(),
        Err(error) => error.to_string().replace(&dir.path().display().to_string(), "…"),
    };
    let mut wrong: Vec<String> =
        expect.says.iter().filter(|text| !said.contains(*text)).map(|t| format!("does not say `{t}`: {said}")).collect();
    if loaded.is_ok() && when.policies.is_none() && when.key_file.is_none() {
        wrong.push("it starts".into());
    }
    Played { wrong, shown: format!("{said}\n"), answer: None }
}
