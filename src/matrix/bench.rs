//! A gateway of its own: its own folder, keys, store and ports, by a clock that stands still. Real in everything but time.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use serde_yaml::{Mapping, Value};
use tempfile::TempDir;

use super::row::{Given, LawWord, Who};
use super::wire::{Request, Response, once};
use crate::app::{EnvSecrets, Gateway, Outfit};
use crate::config::{Config, PolicyTextLimits};
use crate::crypto;
use crate::domain::clock::{Clock, Timestamp};
use crate::domain::installation::ProviderKind;
use crate::domain::rollout::RolloutStage;
use crate::policy::shipped::SHIPPED;
use crate::policy::{SCHEMA, Snapshot};
use crate::store::scratch::Scratch;

/// What every case of a run is played against: the law, and the time by which it holds. Its folder holds the law's files for
/// every gateway that changes nothing about them.
#[derive(Debug)]
pub struct Setting {
    policies: Arc<[(String, String)]>,
    law: Arc<Snapshot>,
    /// The time at which every case begins.
    pub now: Timestamp,
    folder: TempDir,
}

/// Where a setting keeps its policies.
const SHARED: &str = "policies";

/// How often it is asked whether what is waited for has come.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// And for how long.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(30);

/// Any port of this machine alone.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn said(what: &str) -> impl Fn(std::io::Error) -> String + '_ {
    move |e| format!("{what}: {e}")
}

impl Setting {
    /// These policies, at this time.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn new(policies: Arc<[(String, String)]>, now: Timestamp) -> Result<Self, String> {
        let folder = scratch()?;
        let schema = folder.path().join("gateway.cedarschema");
        std::fs::write(&schema, SCHEMA).map_err(said("the schema cannot be written"))?;
        // Rows stand at the edge of a second, and providers sign whole ones.
        let now = Timestamp::from_secs(now.secs());
        let shared = folder.path().join(SHARED);
        save(&shared, policies.iter().map(|(path, text)| (path.as_str(), text.as_str())))?;
        // Whoever put these in force held them to the limits of that gateway.
        let law =
            Snapshot::load_within(&shared, &schema, &PolicyTextLimits::MOST, now).map_err(|e| format!("the policies do not load: {e}"))?;
        Ok(Self { policies, law: Arc::new(law), now, folder })
    }

    /// The version of its law.
    pub fn version(&self) -> &Arc<str> {
        self.law.version()
    }

    fn shared(&self) -> PathBuf {
        self.folder.path().join(SHARED)
    }
}

fn scratch() -> Result<TempDir, String> {
    tempfile::Builder::new().prefix("byoa-matrix-").tempdir().map_err(said("there is no room for a scratch folder"))
}

/// A text that is a link to what follows it.
const LINK: &str = "-> ";
/// A text that is no file at all.
const REMOVED: &str = "removed";

/// Writes files below a folder, makes links and removes files.
fn save<'f>(dir: &Path, files: impl IntoIterator<Item = (&'f str, impl AsRef<str>)>) -> Result<(), String> {
    for (path, text) in files {
        let file = dir.join(path);
        let parent = file.parent().unwrap_or(dir);
        std::fs::create_dir_all(parent).map_err(said(path))?;
        let done = match text.as_ref() {
            REMOVED => std::fs::remove_file(&file),
            #[cfg(unix)]
            text if text.starts_with(LINK) => std::os::unix::fs::symlink(text.trim_start_matches(LINK), &file),
            text => std::fs::write(&file, text),
        };
        done.map_err(said(path))?;
    }
    Ok(())
}

/// The gateway.
pub(super) struct Bench {
    gateway: Gateway,
    pub clock: Clock,
    pub public: SocketAddr,
    tokens: Vec<(Who, String)>,
    policies: PathBuf,
    left: Left,
}

/// What a gateway leaves behind.
pub(super) struct Left {
    pub store: Scratch,
    _folder: TempDir,
}

impl Bench {
    /// Starts one on the setting's law with what the row gives over it. Nothing is delivered where no agents are given: rows
    /// look at what was stored.
    pub(super) async fn start(setting: &Setting, given: &Given, tweak: impl FnOnce(&mut Config)) -> Result<Self, String> {
        let folder = scratch()?;
        let policies = if given.law == LawWord::Active && given.policies.is_empty() && given.policies_saved.is_empty() {
            setting.shared()
        } else {
            let own = folder.path().join("policies");
            match given.law {
                LawWord::Active => save(&own, setting.policies.iter().map(|(path, text)| (path.as_str(), text.as_str())))?,
                LawWord::Shipped => save(&own, SHIPPED.iter().copied().filter(|(path, _)| path.ends_with(".cedar")))?,
            }
            save(&own, texts(&given.policies))?;
            own
        };
        let db = folder.path().join("data/byoa.db");
        let mut config = Config::default();
        (config.listen.public, config.listen.operator) = (ANY_PORT, ANY_PORT);
        config.store.url = format!("sqlite:{}", db.display());
        config.policies.dir.clone_from(&policies);
        config.policies.schema = setting.folder.path().join("gateway.cedarschema");
        // Whoever put this law in force held it to its tables.
        config.policies.gate_tables = false;
        config.policies.platform_limits = PolicyTextLimits::MOST;
        config.policies.history = folder.path().join("accepted");
        config.keys.file = folder.path().join("master.keys");
        config.operators.token_file = folder.path().join("operator.token");
        config.rollout.initial = ProviderKind::ALL.into_iter().map(|p| (p, RolloutStage::On)).collect();
        config.egress.allow_private_agents = true;
        config.delivery.concurrency = usize::from(given.agent.is_some());
        // The clock stands still, so what a provider takes in a second would be all it ever takes.
        config.limits.provider_rate_percent = ProviderKind::ALL.into_iter().map(|p| (p, 0)).collect();
        config = laid(&config, &given.config)?;
        tweak(&mut config);
        let clock = Clock::manual(setting.now);
        let tokens = Who::ALL.into_iter().map(|who| Ok((who, token()?))).collect::<Result<Vec<_>, String>>()?;
        let lines: String = tokens.iter().map(|(who, token)| format!("{token} {}\n", who.line())).collect();
        let secrets = EnvSecrets { master_keys: None, operator_token: Some(lines) };
        // A name that rows can say, where the real one is a digest.
        let outfit = Outfit { build: Some(|| Some("matrix".into())), law: Some(Arc::clone(&setting.law)), ..Outfit::default() };
        let gateway = Box::pin(Gateway::start_with(config, secrets, clock.clone(), outfit)).await;
        let gateway = gateway.map_err(|f| format!("the gateway does not start: {}: {}", f.code, f.detail))?;
        let store = Scratch::open(&db, gateway.store().content_keys().clone()).await.map_err(|e| e.to_string())?;
        let public = gateway.public;
        Ok(Self { gateway, clock, public, tokens, policies, left: Left { store, _folder: folder } })
    }

    /// What it keeps.
    pub(super) fn store(&mut self) -> &mut Scratch {
        &mut self.left.store
    }

    /// The `Authorization` of an operator.
    pub(super) fn bearer(&self, who: Who) -> String {
        let token = self.tokens.iter().find(|(known, _)| *known == who).map(|(_, token)| token.as_str());
        format!("Bearer {}", token.unwrap_or_default())
    }

    /// One call of the operator API.
    pub(super) async fn operate(&self, authorization: &str, method: &str, target: &str, body: &Json) -> Result<Response, String> {
        self.operate_if(authorization, method, target, body, None).await
    }

    /// The same, where the resource still has the version that was read.
    pub(super) async fn operate_if(
        &self,
        authorization: &str,
        method: &str,
        target: &str,
        body: &Json,
        if_match: Option<&str>,
    ) -> Result<Response, String> {
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let mut request = Request::post(target, body).json();
        if !authorization.is_empty() {
            request = request.header("authorization", authorization);
        }
        if let Some(version) = if_match {
            request = request.header("if-match", version);
        }
        request.method = method.into();
        once(self.gateway.operator, &request).await?.ok_or_else(|| "the operator listener hangs up".into())
    }

    /// `byoa apply`, over its API.
    pub(super) async fn apply(&self, document: &Json) -> Result<Response, String> {
        self.operate(&self.bearer(Who::Security), "POST", "/v1/apply", document).await
    }

    /// The same where nothing may be wrong with it.
    pub(super) async fn applied(&self, document: &Json) -> Result<(), String> {
        match self.apply(document).await? {
            answer if answer.status == 200 => Ok(()),
            answer => Err(format!("what the row begins with is refused: {}", answer.text())),
        }
    }

    pub(super) async fn send(&self, request: &Request) -> Result<Response, String> {
        once(self.public, request).await?.ok_or_else(|| "the public listener hangs up".into())
    }

    /// Changes rows behind its back, as a broken migration would, and lets it read the declared state again.
    pub(super) async fn damage(&mut self, sql: &str) -> Result<(), String> {
        let rows = self.left.store.damage(sql).await.map_err(|e| format!("{sql}: {e}"))?;
        if rows == 0 && ["UPDATE", "DELETE", "INSERT"].iter().any(|word| sql.starts_with(word)) {
            return Err(format!("nothing damaged by: {sql}"));
        }
        self.gateway.store().reload().await.map_err(|e| e.to_string())
    }

    /// Saves policy files that it must reject, and waits until it has; `wanted` is the code of the rejection.
    pub(super) async fn rejected(&mut self, files: &BTreeMap<String, String>, wanted: Option<&str>) -> Result<(), String> {
        let known = self.left.store.rejections().await.map_err(|e| e.to_string())?.len();
        save(&self.policies, texts(files))?;
        let rejected = async {
            loop {
                // The last thing that a rejection does is its audit line.
                if let Some(code) = self.left.store.rejections().await.map_err(|e| e.to_string())?.into_iter().nth(known) {
                    return Ok::<String, String>(code);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let code = tokio::time::timeout(LOOK_MAX, rejected).await.map_err(|_| "the saved policies are not rejected".to_owned())??;
        match wanted {
            Some(wanted) if wanted != code => Err(format!("the saved policies are rejected with {code}, not {wanted}")),
            _ => Ok(()),
        }
    }

    /// Saves policy files over its own, and waits until they are in force.
    pub(super) async fn replaced(&self, files: &BTreeMap<String, String>) -> Result<(), String> {
        let before = self.policy_version().await?;
        save(&self.policies, texts(files))?;
        let replaced = async {
            while self.policy_version().await? == before {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(LOOK_MAX, replaced).await.map_err(|_| "the saved policies do not come into force".to_owned())?
    }

    async fn policy_version(&self) -> Result<Json, String> {
        let answer = self.operate(&self.bearer(Who::Security), "GET", "/v1/policies", &Json::Null).await?;
        answer.json().pointer("/active/version").cloned().ok_or_else(|| format!("no policies are in force: {}", answer.text()))
    }

    /// Waits until so many attempts of deliveries are settled in all.
    pub(super) async fn settled(&mut self, attempts: usize) -> Result<(), String> {
        let settled = async {
            while self.left.store.attempts().await.map_err(|e| e.to_string())? < attempts {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(LOOK_MAX, settled).await.map_err(|_| format!("{attempts} attempts are never settled"))?
    }

    /// Every series of `/metrics`, as it is written there.
    pub(super) async fn metrics(&self) -> Result<BTreeMap<String, f64>, String> {
        let answer = once(self.gateway.operator, &Request::get("/metrics")).await?.ok_or("no metrics")?;
        let text = answer.text();
        let series = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.rsplit_once(' '));
        Ok(series.filter_map(|(series, value)| Some((series.to_owned(), value.parse().ok()?))).collect())
    }

    /// Stops it as SIGTERM does; its store can still be read.
    pub(super) async fn drain(self) -> Result<Left, String> {
        if self.gateway.drain().await { Ok(self.left) } else { Err("the gateway did not finish in time".into()) }
    }
}

fn token() -> Result<String, String> {
    crypto::random::<16>().map(|bytes| format!("opr_{}", hex::encode(bytes))).map_err(|e| e.to_string())
}

fn texts(files: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, String)> {
    files.iter().map(|(path, text)| (path.as_str(), repeated(text)))
}

/// The text with each `«N*part»` as N times that part.
fn repeated(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, (times, part, after))) = rest.split_once('«').and_then(|(before, from)| {
        let (inside, after) = from.split_once('»')?;
        let (times, part) = inside.split_once('*')?;
        Some((before, (times.parse().ok()?, part, after)))
    }) {
        out.push_str(before);
        out.push_str(&part.repeat(times));
        rest = after;
    }
    out + rest
}

/// Settings with some others over them.
fn laid(config: &Config, over: &Mapping) -> Result<Config, String> {
    let mut tree = serde_yaml::to_value(config).map_err(|e| e.to_string())?;
    lay(&mut tree, &Value::Mapping(over.clone()));
    serde_yaml::from_value(tree).map_err(|e| format!("the row's config: {e}"))
}

fn lay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Mapping(under), Value::Mapping(over)) => {
            for (key, value) in over {
                lay(under.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}
