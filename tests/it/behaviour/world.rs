//! The world of a route's or a session's case, and who speaks into it.

use std::collections::BTreeMap;

use byoa_gateway::config::Config;
use byoa_gateway::domain::installation::ProviderKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Case;
use crate::sessions::Talk;
use crate::support::raw::{Request, Response};
use crate::support::world::{self, App};
use crate::support::{copy, here};

/// The token of an agent that a case declares.
pub fn token(agent: &str) -> String {
    format!("agt_{agent}_3kd9slw02mfj47")
}

/// What a case may say about the world before it; all apps are there, acme and globex have their own installed.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Given {
    pub provider: ProviderKind,
    /// Whose app the events come through: `acme`, `globex` or `platform`.
    pub via: String,
    /// Agents beside those that bindings name.
    pub agents: BTreeMap<String, Map<String, Value>>,
    /// Installations beside each org's own.
    pub installations: Vec<String>,
    pub bindings: Option<Vec<Map<String, Value>>>,
    /// An org's policy.
    pub policy: Option<String>,
    /// Documents that must not be taken, with their codes.
    pub rejected: Vec<Rejected>,
    pub event: Edit,
    pub send: Option<Send>,
    pub damage: Option<String>,
    pub story: Vec<Map<String, Value>>,
    pub key: Option<Value>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            provider: ProviderKind::Slack,
            via: "acme".into(),
            agents: BTreeMap::new(),
            installations: Vec::new(),
            bindings: None,
            policy: None,
            rejected: Vec::new(),
            event: Edit::default(),
            send: None,
            damage: None,
            story: Vec::new(),
            key: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    pub code: String,
    pub document: Value,
}

/// What is changed in an event before it is signed, by JSON pointers.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Edit {
    pub set: BTreeMap<String, Value>,
    pub drop: Vec<String>,
}

impl Edit {
    pub fn apply(&self, body: &str) -> String {
        let mut event: Value = serde_json::from_str(body).unwrap();
        let split = |pointer: &str| {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            (parent.to_owned(), name.to_owned())
        };
        for pointer in &self.drop {
            let (parent, name) = split(pointer);
            event.pointer_mut(&parent).and_then(Value::as_object_mut).and_then(|o| o.remove(&name));
        }
        for (pointer, value) in &self.set {
            let (parent, name) = split(pointer);
            event.pointer_mut(&parent).unwrap().as_object_mut().unwrap().insert(name, value.clone());
        }
        event.to_string()
    }
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Send {
    #[serde(rename = "as")]
    pub agent: Option<String>,
    pub body: Map<String, Value>,
    #[serde(default)]
    pub answer: Value,
}

/// A case's world, and who speaks into it.
pub struct World {
    pub talk: Talk,
    pub given: Given,
    nonce: u64,
    // Holds the policies of a case that has its own.
    _policies: Option<tempfile::TempDir>,
}

impl World {
    pub async fn of(case: &Case, bindings_default: Value) -> Self {
        let mut given: Given = serde_json::from_value(case.given.clone()).unwrap_or_else(|e| panic!("{}: {e}", case.id));
        let bindings = given.bindings.take();
        let bindings = bindings.map_or(bindings_default, |b| json!(b));
        let policies = given.policy.as_ref().map(|text| {
            let dir = tempfile::tempdir().unwrap();
            copy(&here("policies"), dir.path());
            std::fs::create_dir_all(dir.path().join("orgs/acme")).unwrap();
            std::fs::write(dir.path().join("orgs/acme/case.cedar"), text).unwrap();
            dir
        });
        let dir = policies.as_ref().map(|d| d.path().to_path_buf());
        let config = |config: &mut Config| {
            if let Some(dir) = dir {
                config.policies.dir = dir;
            }
        };
        let document = |document: &mut Value| fill(document, &given, &bindings);
        let talk = Talk::start_with(given.provider, config, document).await;
        let mut world = Self { talk, given, nonce: 0, _policies: policies };
        world.via(None);
        for rejected in &world.given.rejected {
            let answer = world.talk.gateway.apply(&rejected.document).await;
            let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
            assert_eq!((answer.status, code.as_str()), (422, rejected.code.as_str()), "{}: {}", case.id, rejected.document);
        }
        if let Some(sql) = &world.given.damage {
            world.talk.gateway.damage(sql).await;
        }
        world
    }

    pub fn via(&mut self, via: Option<&str>) {
        let provider = self.given.provider;
        self.talk.app = match via.unwrap_or(&self.given.via) {
            "platform" => world::platform(provider),
            "globex" => world::globex(provider),
            _ => world::acme(provider),
        };
    }

    /// Another event, changed as told.
    pub async fn hear(&mut self, edit: &Edit) -> u16 {
        self.nonce += 1;
        let path = self.talk.app.path();
        self.talk.hear(&path, self.nonce, |body| edit.apply(&body)).await
    }

    pub async fn list(&self, kind: &str) -> Vec<Value> {
        let page = self.talk.gateway.operate("GET", &format!("/v1/{kind}"), &Value::Null).await.json();
        page["items"].as_array().unwrap().clone()
    }

    pub async fn send(&mut self, send: &Send) -> Response {
        self.nonce += 1;
        let mut request = Request::post("/v1/messages", serde_json::to_vec(&send.body).unwrap())
            .json()
            .header("idempotency-key", format!("key-{}", self.nonce));
        if let Some(agent) = &send.agent {
            request = request.header("authorization", format!("Bearer {}", token(agent)));
        }
        self.talk.gateway.send(&request).await
    }
}

/// The document of a case: every app, each org's own installation, what the case adds.
pub fn fill(document: &mut Value, given: &Given, bindings: &Value) {
    let provider = given.provider;
    let installed = |app: &App| {
        let account = world::account_json(&app.external());
        json!({"id": app.profile, "profile": app.profile, "org": app.org, "account": account})
    };
    let mut apps = vec![world::acme(provider), world::globex(provider)];
    if given.installations.contains(&format!("{provider}-platform")) {
        apps.push(world::platform(provider));
    }
    document["installations"] = apps.iter().map(installed).collect();
    let mut agents: BTreeMap<String, Map<String, Value>> = given.agents.clone();
    agents.entry("globex-agent".into()).or_default().insert("org".into(), json!("globex"));
    let mut all = Vec::new();
    for binding in bindings.as_array().unwrap() {
        let mut binding = binding.as_object().unwrap().clone();
        let org = binding.entry("org").or_insert(json!("acme")).clone();
        let installation = binding.entry("installation").or_insert_with(|| json!(format!("{provider}-acme"))).clone();
        if installation.is_null() {
            binding.remove("installation");
        }
        agents.entry(binding["agent"].as_str().unwrap().to_owned()).or_default().entry("org").or_insert(org);
        all.push(Value::Object(binding));
    }
    document["bindings"] = json!(all);
    document["agents"] = agents
        .into_iter()
        .map(|(id, said)| {
            let mut agent = json!({"id": id, "org": "acme", "endpoint": "http://127.0.0.1:9/events",
                "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "token": {"value": token(&id)}});
            agent.as_object_mut().unwrap().extend(said);
            agent
        })
        .collect();
}

/// Whether what is there has at least what is wanted.
pub fn has(there: &Value, wanted: &Map<String, Value>, what: &str) {
    for (name, value) in wanted {
        match name.strip_suffix("_begins") {
            Some(name) => assert!(there[name].as_str().unwrap().starts_with(value.as_str().unwrap()), "{what}: {name} of {there}"),
            None => assert_eq!(&there[name], value, "{what}: {name} of {there}"),
        }
    }
}
