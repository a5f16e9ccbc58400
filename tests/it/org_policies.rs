//! Policy files of orgs: each org's folder is accepted or rejected by itself, and what was accepted last outlives the process.

use std::fs;
use std::path::Path;
use std::time::Duration;

use byoa_gateway::config::Config;
use serde_json::{Value, json};

use super::support::gateway::TestGateway;
use super::support::{copy, here};

const NOW: i64 = 1_790_000_100;
const PATIENCE: Duration = Duration::from_secs(30);

fn forbid(org: &str, name: &str) -> String {
    format!(
        "@id(\"org.{org}.{name}\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal in Byoa::Org::\"{org}\", action == \
         Byoa::Action::\"RouteMessage\", resource);\n"
    )
}

fn write(dir: &Path, path: &str, text: &str) {
    let file = dir.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

/// A gateway with a data folder of its own, on these policies and this history.
async fn start(root: &Path) -> TestGateway {
    let (dir, history) = (root.join("policies"), root.join("history"));
    TestGateway::start_with(NOW, |config: &mut Config| {
        config.policies.dir = dir;
        config.policies.history = history;
        config.policies.gate_tables = true;
    })
    .await
}

async fn policies(gateway: &TestGateway) -> Value {
    gateway.operate("GET", "/v1/policies", &Value::Null).await.json()
}

async fn until(gateway: &TestGateway, what: &str, right: impl Fn(&Value) -> bool) -> Value {
    let asked = async {
        loop {
            let now = policies(gateway).await;
            if right(&now) {
                return now;
            }
        }
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(now) => now,
        Err(_) => panic!("{what}: not within {PATIENCE:?}: {:#}", policies(gateway).await),
    }
}

/// Each rejected org, why, and what decides for it.
fn rejected(policies: &Value) -> Vec<String> {
    let shown =
        |org: &Value| format!("{} {} {}", org["org"].as_str().unwrap(), org["code"].as_str().unwrap(), org["in_force"].as_str().unwrap());
    policies["orgs_rejected"].as_array().unwrap().iter().map(shown).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_org_had_accepted_outlives_the_process() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("policies");
    copy(&here("policies/platform"), &dir.join("platform"));
    write(&dir, "orgs/acme/a.cedar", &forbid("acme", "a"));
    write(&dir, "orgs/globex/a.cedar", &forbid("globex", "a"));
    let gateway = start(root.path()).await;
    let first = policies(&gateway).await;
    assert_eq!(first["orgs_rejected"], json!([]));

    // The broken folder of one org, with an edit of another's beside it.
    write(&dir, "orgs/acme/a.cedar", "forbid (principal");
    let broken = until(&gateway, "a broken file", |p| p["orgs_rejected"] != json!([])).await;
    assert_eq!(rejected(&broken), ["acme policy.invalid last_accepted"]);
    assert_eq!((&broken["active"]["version"], &broken["rejected"]), (&first["active"]["version"], &Value::Null));
    assert_eq!(gateway.metrics().await["byoa_policy_orgs_rejected"], 1.0);
    assert_eq!(gateway.metrics().await["byoa_policy_stale"], 0.0);
    let audit = gateway.operate("GET", "/v1/audit?org=acme", &Value::Null).await.json();
    let line = &audit["items"][0];
    assert_eq!((&line["action"], &line["outcome"], &line["code"]), (&json!("policies.load"), &json!("refused"), &json!("policy.invalid")));
    // The history tells by time which set came last.
    gateway.clock.advance_ms(1_000);
    write(&dir, "orgs/globex/b.cedar", &forbid("globex", "b"));
    let edited = until(&gateway, "another org's edit", |p| p["active"]["version"] != first["active"]["version"]).await;
    assert_eq!(rejected(&edited), rejected(&broken));
    gateway.drain().await;

    // From the history at the next start, and at the one after that.
    for _ in 0..2 {
        let gateway = start(root.path()).await;
        let again = policies(&gateway).await;
        assert_eq!((&again["active"]["version"], rejected(&again)), (&edited["active"]["version"], rejected(&broken)));
        gateway.drain().await;
    }
    // Not known is not none: also where the set that was accepted since has no files of the org.
    fs::remove_dir_all(root.path().join("history")).unwrap();
    for _ in 0..2 {
        let gateway = start(root.path()).await;
        let unknown = policies(&gateway).await;
        assert_eq!(rejected(&unknown), ["acme policy.invalid nothing"]);
        assert_ne!(unknown["active"]["version"], edited["active"]["version"]);
        gateway.drain().await;
    }
    // What is put right is taken, and known again.
    let gateway = start(root.path()).await;
    write(&dir, "orgs/acme/a.cedar", &forbid("acme", "a"));
    let right = until(&gateway, "put right", |p| p["orgs_rejected"] == json!([])).await;
    assert_eq!(right["active"]["version"], edited["active"]["version"]);
    assert_eq!(gateway.metrics().await["byoa_policy_orgs_rejected"], 0.0);
    gateway.drain().await;
}
