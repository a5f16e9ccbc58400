//! What becomes of an earlier system's connections and bindings: imported as lines, then given the installations they mean.

use byoa_gateway::domain::installation::ProviderKind;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Case, cases};
use crate::import::{Desk, adds_up};

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    provider: ProviderKind,
    lines: Vec<Map<String, Value>>,
    /// So many legacy bindings beside them.
    bindings: usize,
    batch: Value,
    dry_run: bool,
    /// The import is dry too.
    dry_import: bool,
}

impl Default for Given {
    fn default() -> Self {
        Self { provider: ProviderKind::Slack, lines: vec![], bindings: 0, batch: Value::Null, dry_run: false, dry_import: false }
    }
}

/// A report says what is wanted of it, and nothing else.
fn says(report: &Value, wanted: &Value, what: &str) {
    adds_up(report);
    for name in ["processed", "migrated", "already_done", "skipped"] {
        let none = if name == "skipped" { json!({}) } else { json!(0) };
        let wanted_one = wanted.get(name).unwrap_or(&none);
        if wanted.get(name).is_some() || name != "processed" {
            assert_eq!(&report[name], wanted_one, "{what}: {name} of {report}");
        }
    }
}

async fn play(case: &Case) {
    let what = format!("{} {}", case.id, case.title);
    let given: Given = serde_json::from_value(case.given.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let want = case.want.as_object().unwrap();
    let desk = Desk::start(given.provider).await;
    let mut lines = given.lines.clone();
    lines.extend((0..given.bindings).map(|n| json!({"kind": "binding", "id": format!("b{n:03}")}).as_object().unwrap().clone()));
    for line in &mut lines {
        line.entry("org").or_insert(json!("acme"));
        line.entry("provider").or_insert(json!(given.provider));
        if line["kind"] == "binding" {
            line.entry("agent").or_insert(json!("acme-agent"));
        }
    }
    let lines: Vec<Value> = lines.into_iter().map(Value::Object).collect();
    let mut last = Value::Null;
    for page in lines.chunks(100) {
        last = desk.import(page, given.dry_import).await;
    }
    let backfill = json!({"dry_run": given.dry_run, "batch": given.batch});
    for name in ["import", "import_again", "backfill", "again"] {
        let Some(wanted) = want.get(name) else { continue };
        let report = match name {
            "import" => last.clone(),
            "import_again" => desk.import(&lines, false).await,
            _ => desk.backfill(&backfill).await,
        };
        says(&report, wanted, &format!("{what}: {name}"));
        if name == "backfill" {
            assert_eq!(!report["next"].is_null(), want.get("more") == Some(&json!(true)), "{what}: {report}");
        }
    }
    for (name, wanted) in want {
        match name.as_str() {
            "import" | "import_again" | "backfill" | "again" | "more" => {}
            "installation" => assert_eq!(desk.get("bindings/b").await["installation"], *wanted, "{what}"),
            "installations" => assert_eq!(desk.ids("installations").await, *wanted, "{what}"),
            "profile" => assert_eq!(desk.get("installations/c1").await["profile"], *wanted, "{what}"),
            "lines_of_audit" => assert_eq!(json!(desk.audit().await.len()), *wanted, "{what}"),
            other => panic!("{what}: `{other}` is nothing to want"),
        }
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

areas!(backfill_binding, backfill_connection);
