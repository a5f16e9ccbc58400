//! The request that a row describes, made and signed: what is left out of a row is right.

use serde_json::Value as Json;
use serde_yaml::Value;

use super::bench::Setting;
use super::row::{Play, When};
use super::wire::{Framing, Request};
use super::world::{self, App, PREFIX};
use crate::crypto::MacKey;
use crate::domain::clock::Timestamp;
use crate::domain::installation::{Mode, ProviderKind};
use crate::providers::{self, Sample};

/// What makes an event's id its own, where a row says nothing else.
pub(super) const NONCE: u64 = 71;

/// What a request is made from: the app it is addressed to and the others.
pub(super) struct Stage<'p> {
    pub setting: &'p Setting,
    pub play: &'p Play,
    pub provider: ProviderKind,
    pub own: App,
    pub other: App,
    pub platform: App,
    pub tenant: App,
    /// Where the provider answers in a story.
    pub api: String,
    /// And where the agents do.
    pub agents: String,
    /// The session that was opened last in a story.
    pub session: String,
}

impl<'p> Stage<'p> {
    pub(super) fn new(setting: &'p Setting, play: &'p Play, provider: ProviderKind) -> Self {
        let (platform, tenant) = (world::platform(provider, PREFIX), world::acme(provider, PREFIX));
        let own = if play.mode == Some(Mode::Platform) { platform.clone() } else { tenant.clone() };
        let (api, agents, session) = (String::new(), String::new(), String::new());
        Self { setting, play, provider, own, other: world::globex(provider, PREFIX), platform, tenant, api, agents, session }
    }

    pub(super) fn app(&self, word: &str) -> Result<&App, String> {
        match word {
            "own" => Ok(&self.own),
            "other" => Ok(&self.other),
            "platform" => Ok(&self.platform),
            "tenant" => Ok(&self.tenant),
            _ => Err(format!("no app is called `{word}`")),
        }
    }

    /// Puts in what rows name in braces.
    pub(super) fn fill(&self, text: &str) -> String {
        if !text.contains('{') {
            return text.to_owned();
        }
        let mut out = text.to_owned();
        for (word, app) in [("", &self.own), ("other.", &self.other), ("platform.", &self.platform), ("tenant.", &self.tenant)] {
            for (name, value) in [
                ("account", app.account),
                ("waba", app.waba),
                ("app_id", app.app_id),
                ("secret", app.secret),
                ("verify_token", app.verify_token),
                ("profile", &app.profile),
                ("ingress", &app.ingress),
                ("owner", &app.owner),
            ] {
                out = out.replace(&format!("{{{word}{name}}}"), value);
            }
        }
        out = out.replace("{provider}", self.provider.as_str()).replace("{long}", &"A".repeat(600));
        out = out
            .replace("{conversation}", self.conversation())
            .replace("{api}", &self.api)
            .replace("{agents}", &self.agents)
            .replace("{session}", &self.session);
        let now = self.setting.now;
        timed(timed(out, "{now", |offset| (now.secs() + offset).to_string()), "{time", |offset| {
            Timestamp::from_secs(now.secs() + offset).to_string()
        })
    }

    pub(super) fn filled(&self, value: &Value) -> Result<Json, String> {
        let mut text = serde_json::to_string(value).map_err(|e| e.to_string())?;
        for (word, app) in [("", &self.own), ("other.", &self.other), ("platform.", &self.platform), ("tenant.", &self.tenant)] {
            text = text.replace(&format!("\"{{{word}account_json}}\""), &world::account_json(&app.external()).to_string());
        }
        serde_json::from_str(&self.fill(&text)).map_err(|e| e.to_string())
    }

    /// The request, said and signed at a time.
    pub(super) fn request(&self, when: &When, now: Timestamp) -> Result<Request, String> {
        let app = self.app(when.at.as_deref().or(when.app.as_deref()).unwrap_or("own"))?;
        let (body, media_type) = self.body(when, now)?;
        let mut target = when.path.as_deref().map_or_else(|| app.path(), |p| self.fill(p));
        let proof = self.proof(when, &body, now)?;
        if let Some(query) = &when.query {
            let said = proof.last().map_or("", |(_, value)| value.as_str());
            target = format!("{target}?{}", self.fill(query).replace("{proof}", said));
        }
        let sent = self.edited(body, &when.edit_after_signing)?;
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
            Some(other) => return Err(format!("no framing is called `{other}`")),
        };
        if let Some(body) = &when.wire_body {
            request.body = body.clone().into_bytes();
        }
        Ok(request)
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
    fn body(&self, when: &When, now: Timestamp) -> Result<(Vec<u8>, String), String> {
        let app = self.app(when.app.as_deref().unwrap_or("own"))?;
        let sample = Sample {
            kind: when.sample.as_deref().unwrap_or("message"),
            account: &app.external(),
            app_id: Some(app.app_id),
            conversation: self.conversation(),
            text: "hello",
            nonce: when.nonce.unwrap_or(NONCE),
            now,
        };
        let (body, media_type) = providers::of(self.provider).sample(&sample).ok_or("the provider makes up no such body")?;
        let mut body = match (&when.body, &when.body_hex, when.body_depth) {
            (Some(text), None, None) => self.fill(text).into_bytes(),
            (None, Some(digits), None) => hex::decode(digits.replace(char::is_whitespace, "")).map_err(|e| e.to_string())?,
            // Where a careless reader would skip it: in a field that nobody asks for.
            (None, None, Some(depth)) => {
                let (text, levels) = (text(body)?, depth.saturating_sub(1));
                let rest = text.strip_prefix('{').ok_or("the body is no object")?;
                format!("{{\"nest\":{}1{},{rest}", "[".repeat(levels), "]".repeat(levels)).into_bytes()
            }
            (None, None, None) => body,
            _ => return Err("the row gives the body twice".into()),
        };
        body = self.edited(body, &when.edit)?;
        if let Some(bytes) = when.body_bytes
            && let Some(closing) = body.pop()
        {
            body.resize(bytes.saturating_sub(1), b' ');
            body.push(closing);
        }
        Ok((body, media_type.to_owned()))
    }

    /// The headers that prove it, as the row wants them.
    fn proof(&self, when: &When, body: &[u8], now: Timestamp) -> Result<Vec<(String, String)>, String> {
        let sign_with = when.sign_with.as_deref().or(when.app.as_deref()).unwrap_or("own");
        if sign_with == "nothing" {
            return Ok(Vec::new());
        }
        let secret = match sign_with {
            "the empty key" => "",
            "nobody's key" => "6d1f0a9b8c7e5d4f3a2b1c0d9e8f7a6b",
            app => self.app(app)?.secret,
        };
        let timestamp = match when.timestamp.as_deref() {
            Some(text) => self.fill(text),
            None => (now.secs() + when.timestamp_offset_s).to_string(),
        };
        let (name, default, signed) = match self.provider {
            ProviderKind::Slack => ("X-Slack-Signature", "v0={hex}", [b"v0:", timestamp.as_bytes(), b":", body].concat()),
            ProviderKind::Telegram => ("X-Telegram-Bot-Api-Secret-Token", "{key}", Vec::new()),
            ProviderKind::WhatsApp => ("X-Hub-Signature-256", "sha256={hex}", body.to_vec()),
        };
        // The empty key and one of a zero byte are the same key (RFC 2104, section 2: keys are filled up with zeros).
        let key = MacKey::new(if secret.is_empty() { b"\0" } else { secret.as_bytes() }).ok_or("an empty key")?;
        let digits = hex::encode(key.sign(&[&signed]));
        let tag = if self.provider == ProviderKind::Slack { "v0" } else { "sha256" };
        let value = |template: &str| {
            let shorter = secret.get(..secret.len().saturating_sub(1)).unwrap_or_default();
            let mut value = self.fill(template).replace("{tag}", tag).replace("{key}", secret).replace("{hex}", &digits);
            value = value.replace("{shorter}", shorter);
            value = value.replace("{HEX}", &digits.to_uppercase());
            for n in [1, 32, 40, 63] {
                value = value.replace(&format!("{{hex:{n}}}"), digits.get(..n).unwrap_or_default());
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
        Ok(headers)
    }

    fn edited(&self, body: Vec<u8>, edits: &[(String, String)]) -> Result<Vec<u8>, String> {
        if edits.is_empty() {
            return Ok(body);
        }
        let mut text = text(body)?;
        for (from, to) in edits {
            let (from, to) = (self.fill(from), self.fill(to));
            if !text.contains(&from) {
                return Err(format!("nothing to edit: `{from}` is not in {text}"));
            }
            text = text.replace(&from, &to);
        }
        Ok(text.into_bytes())
    }

    /// The mode of the app that the request is addressed to.
    pub(super) fn mode_at(&self) -> Result<&'static str, String> {
        let owner = &self.app(self.play.when.at.as_deref().unwrap_or("own"))?.owner;
        Ok(if owner == "platform" { "platform" } else { "byoa" })
    }
}

/// Puts in times: `{now}`, `{now+60}`, `{now-60}`.
fn timed(text: String, open: &str, at: impl Fn(i64) -> String) -> String {
    let mut parts = text.split(open);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}').and_then(|(offset, rest)| Some((if offset.is_empty() { 0 } else { offset.parse().ok()? }, rest))) {
            Some((offset, rest)) => out.push_str(&format!("{}{rest}", at(offset))),
            None => out.push_str(&format!("{open}{part}")),
        }
    }
    out
}

fn text(body: Vec<u8>) -> Result<String, String> {
    String::from_utf8(body).map_err(|_| "the body is no text".into())
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?')).collect()
}
