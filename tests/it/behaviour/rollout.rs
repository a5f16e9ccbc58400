//! What may be done to a provider's flag, and what a store that is opened does to it.

use std::collections::BTreeMap;

use byoa_gateway::config::Config;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::rollout::RolloutStage;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::world::has;
use super::{Case, cases};
use crate::rollout::{Desk, NOW};
use crate::support::gateway::{BUILD, TestGateway};
use crate::support::{copy, webhook, world};

type Initial = BTreeMap<ProviderKind, RolloutStage>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    /// What the configuration seeds.
    initial: Initial,
    story: Vec<Map<String, Value>>,
}

fn seeds(initial: Initial) -> impl FnOnce(&mut Config) {
    move |config| config.rollout.initial = initial
}

async fn play(case: &Case) {
    let what = format!("{} {}", case.id, case.title);
    let given: Given = serde_json::from_value(case.given.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut desk = Desk { gateway: TestGateway::start_with(NOW, seeds(given.initial)).await };
    desk.gateway.applied(&world::document(ProviderKind::Slack)).await;
    let mut nonce = 0;
    for step in &given.story {
        let (deed, told) = step.iter().find(|(name, _)| !matches!(name.as_str(), "body" | "answer")).unwrap();
        match deed.as_str() {
            "post" => assert_eq!(desk.post(told.as_str().unwrap(), step["body"].clone()).await, step["answer"], "{what}: {step:?}"),
            "matrix" => desk.matrix_run(0, told.as_i64().unwrap(), None, BUILD).await,
            "after_h" => desk.gateway.clock.advance_ms(told.as_i64().unwrap() * 3_600_000),
            "sql" => desk.gateway.damage(told.as_str().unwrap()).await,
            "hear" => {
                nonce += 1;
                let request = webhook(&world::acme(ProviderKind::Slack), nonce, desk.gateway.clock.now());
                assert_eq!(json!(desk.gateway.send(&request).await.status), *told, "{what}: {step:?}");
            }
            "restart" => {
                let (dir, kept) = (tempfile::tempdir().unwrap(), desk.gateway.drain().await);
                copy(kept.folder(), dir.path());
                let initial: Initial = serde_json::from_value(told.clone()).unwrap();
                desk = Desk { gateway: TestGateway::start_in(dir, NOW, seeds(initial)).await };
            }
            other => panic!("{what}: `{other}` is no deed"),
        }
    }
    let status = desk.gateway.operate("GET", "/v1/rollout", &Value::Null).await.json();
    let of = |provider: &str| status["items"].as_array().unwrap().iter().find(|i| i["provider"] == provider).unwrap();
    for (name, wanted) in case.want.as_object().unwrap() {
        match name.as_str() {
            "global" => has(&status["global"], wanted.as_object().unwrap(), &what),
            "slack" => has(of("slack"), wanted.as_object().unwrap(), &what),
            "flags" => wanted.as_object().unwrap().iter().for_each(|(p, stage)| assert_eq!(of(p)["stage"], *stage, "{what}: {p}")),
            "green" => assert_eq!(of("slack")["matrix"]["green"], *wanted, "{what}"),
            "audit" => {
                let lines = desk.gateway.kept.rows("SELECT target FROM audit WHERE action LIKE 'rollout.%'").await;
                assert_eq!(json!(lines.len()), *wanted, "{what}: {lines:?}");
            }
            other => panic!("{what}: `{other}` is nothing to want"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollout_flag() {
    for case in cases("rollout_flag") {
        Box::pin(play(&case)).await;
    }
}
