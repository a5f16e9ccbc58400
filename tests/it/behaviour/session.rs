//! Which session an event belongs to, how long, and who may use it.

use byoa_gateway::domain::ids::{AgentId, InstallationId, OrgId, SessionId};
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::record::AuditRecord;
use byoa_gateway::domain::route::Route;
use byoa_gateway::domain::session::SessionKey;
use byoa_gateway::store::ImportedSession;
use serde_json::{Map, Value, json};
use sqlx::AssertSqlSafe;

use super::world::{Edit, Send, World, has};
use super::{Case, cases};
use crate::sessions::HOUR;

async fn play(case: &Case) {
    let what = format!("{} {}", case.id, case.title);
    let want = case.want.as_object().unwrap();
    if let Some(key) = case.given.get("key") {
        match (key_of(key), want.get("key")) {
            (Some(key), Some(wanted)) => assert_eq!(json!(key), *wanted, "{what}"),
            (key, wanted) => assert_eq!((key.is_none(), wanted.is_none(), &want["no_id"]), (true, true, &json!(true)), "{what}"),
        }
        return;
    }
    let mut world = World::of(case, json!([{"id": "a", "agent": "a"}])).await;
    for step in std::mem::take(&mut world.given.story) {
        world.step(&what, &step).await;
    }
    let sessions = world.talk.sessions().await;
    let ids: Vec<Value> = sessions.iter().map(|s| s["id"].clone()).collect();
    for (name, value) in want {
        match name.as_str() {
            "sessions" => {
                let wanted = value.as_array().unwrap();
                assert_eq!(sessions.len(), wanted.len(), "{what}: {sessions:?}");
                for (there, wanted) in sessions.iter().zip(wanted) {
                    let mut wanted = wanted.as_object().unwrap().clone();
                    for link in ["predecessor", "successor"] {
                        if let Some(n) = wanted.get(link).and_then(Value::as_u64) {
                            wanted.insert(link.into(), ids[usize::try_from(n).unwrap()].clone());
                        }
                    }
                    has(there, &wanted, &what);
                }
            }
            "promoted" => {
                let lines = world.talk.gateway.kept.rows("SELECT target FROM audit WHERE action = 'session.promote'").await;
                assert_eq!(json!(lines.len()), *value, "{what}: {lines:?}");
            }
            "events" => assert_eq!(json!(world.list("events").await.len()), *value, "{what}"),
            other => panic!("{what}: `{other}` is nothing to want"),
        }
    }
}

/// The key of a route's parts; none where a part is no id.
fn key_of(parts: &Value) -> Option<String> {
    let text = |name: &str| parts.get(name).and_then(Value::as_str);
    let route = Route {
        org: OrgId::parse("acme").unwrap(),
        provider: ProviderKind::Slack,
        installation: InstallationId::parse(text("installation")?).ok()?,
        binding: None,
        agent: AgentId::parse("a").unwrap(),
        legacy: false,
    };
    Some(SessionKey::new(&route, text("conversation")?, text("thread"), text("peer")).as_str().to_owned())
}

impl World {
    async fn step(&mut self, what: &str, step: &Map<String, Value>) {
        let (deed, told) = step.iter().next().unwrap();
        let number = || told.as_u64().unwrap();
        match deed.as_str() {
            "hear" => {
                let mut told = told.as_object().unwrap().clone();
                let refused = told.remove("refused");
                self.via(told.remove("via").as_ref().and_then(Value::as_str));
                let edit: Edit = serde_json::from_value(Value::Object(told)).unwrap();
                assert_eq!(self.hear(&edit).await, 200, "{what}");
                let last = self.list("refusals").await.first().map(|r| r["code"].clone());
                assert_eq!(last, refused, "{what}");
            }
            "after_h" => self.talk.gateway.clock.advance_ms(i64::try_from(number()).unwrap() * HOUR),
            "hours" => {
                for _ in 0..told["times"].as_u64().unwrap() {
                    self.talk.gateway.clock.advance_ms(told["every"].as_i64().unwrap() * HOUR);
                    assert_eq!(self.hear(&Edit::default()).await, 200, "{what}");
                }
            }
            "import" => {
                let text = |name: &str| told.get(name).and_then(Value::as_str).map(str::to_owned);
                let now = self.talk.gateway.clock.now();
                let session = ImportedSession {
                    id: SessionId::fresh(now),
                    org: OrgId::parse("acme").unwrap(),
                    provider: ProviderKind::Slack,
                    agent: AgentId::parse(&text("agent").unwrap()).unwrap(),
                    contact: text("contact").unwrap(),
                    conversation: text("conversation"),
                    thread: text("thread"),
                    created: now,
                    last: now,
                };
                let line = imported(&session);
                let store = self.talk.gateway.store();
                assert_eq!(store.import_sessions(vec![(session.clone(), line.clone())]).await.unwrap(), [true], "{what}");
                assert_eq!(store.import_sessions(vec![(session, line)]).await.unwrap(), [false], "{what}: once");
            }
            "close" => {
                let id = self.session_id(number()).await;
                let answer = self.talk.gateway.operate("POST", &format!("/v1/sessions/{id}/close"), &Value::Null).await;
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            }
            "sql" => self.talk.gateway.damage(told.as_str().unwrap()).await,
            "refused_sql" => {
                let sql = AssertSqlSafe(told.as_str().unwrap().to_owned());
                let error = sqlx::query(sql).execute(&mut self.talk.gateway.kept.open().await).await.unwrap_err();
                assert!(error.to_string().contains("UNIQUE"), "{what}: {error}");
            }
            "send" => {
                let mut send: Send = serde_json::from_value(told.clone()).unwrap();
                if let Some(n) = send.body.get("session").and_then(Value::as_u64) {
                    let id = self.session_id(n).await;
                    send.body.insert("session".into(), json!(id));
                }
                let answer = self.send(&send).await;
                assert_eq!(json!({"status": answer.status, "code": answer.json()["code"]}), send.answer, "{what}: {}", answer.text());
            }
            other => panic!("{what}: `{other}` is no deed"),
        }
    }

    async fn session_id(&self, n: u64) -> String {
        self.talk.sessions().await[usize::try_from(n).unwrap()]["id"].as_str().unwrap().to_owned()
    }
}

/// The audit line of an import.
pub fn imported(session: &ImportedSession) -> AuditRecord {
    AuditRecord {
        at: session.last,
        actor: "operator:test".into(),
        action: "session.import",
        target: session.id.to_string(),
        org: Some(session.org.clone()),
        outcome: "done",
        code: None,
        decision: None,
        request: None,
        detail: None,
    }
}

macro_rules! areas {
    ($($area:ident),+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $area() {
            for case in cases(stringify!($area)) {
                play(&case).await;
            }
        }
    )+};
}

areas!(session_expiry, session_key, session_metadata, session_resolve, session_scope, session_select);
