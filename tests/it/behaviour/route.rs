//! Which way an event or a message goes.

use serde_json::{Value, json};

use super::world::{Edit, World, has};
use super::{Case, cases};

async fn play(case: &Case) {
    let mut world = World::of(case, json!([])).await;
    let what = format!("{} {}", case.id, case.title);
    let want = case.want.as_object().unwrap();
    if let Some(send) = world.given.send.take() {
        let answer = world.send(&send).await;
        assert_eq!(json!({"status": answer.status, "code": answer.json()["code"]}), want["answer"], "{what}: {}", answer.text());
        return;
    }
    let edit = Edit { set: world.given.event.set.clone(), drop: world.given.event.drop.clone() };
    let status = world.hear(&edit).await;
    if let Some(stopped) = want.get("stopped") {
        assert_eq!((&json!(status), world.list("events").await.len()), (stopped, 0), "{what}");
        return;
    }
    assert_eq!(status, 200, "{what}");
    let (events, refusals) = (world.list("events").await, world.list("refusals").await);
    let refused: Vec<&Value> = refusals.iter().map(|r| &r["code"]).collect();
    if let Some(code) = want.get("refused") {
        assert_eq!((refused, events.len()), (vec![code], 0), "{what}");
        return;
    }
    assert_eq!((events.len(), refused), (1, vec![]), "{what}");
    for (name, value) in want {
        match (name.as_str(), value) {
            ("session", Value::Object(wanted)) => has(&world.talk.sessions().await[0], wanted, &what),
            (name, value) => assert_eq!(&events[0][name], value, "{what}: {name}"),
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

areas!(binding_selection, dispatch_slack_route, route_identity, route_policy, route_selectors, telephony_route, tenant_resolution);
