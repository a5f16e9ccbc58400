//! Back and forth under load: providers repeat what is refused, an operator moves the stages as fast as the load shows each
//! move, and in the end every event has arrived once, in its order. And who the percentage lets in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use byoa_gateway::config::Config;
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::rollout::{Desk, NOW};
use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::{BUILD, TestGateway};
use super::support::raw::{Connection, Request, Response};
use super::support::world::{self, App};
use super::support::{copy, sign, webhook};

const SLACK: ProviderKind = ProviderKind::Slack;

/// Waiting for what never comes must fail, not hang; nothing is measured by it.
const GUARD: Duration = Duration::from_secs(60);

/// So many more answers of each line show that a move is in force.
const SHOWN: u64 = 4;

/// The connections of each line.
const CONNECTIONS: u64 = 2;

/// What a line was answered by now: taken, and not yet.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    taken: u64,
    refused: u64,
}

type Tallies = BTreeMap<&'static str, Tally>;

/// The load: lines of connections, each with its name.
struct Load {
    public: SocketAddr,
    stop: Arc<AtomicBool>,
    tallies: watch::Sender<Tallies>,
    /// What was sent and, in the end, taken: each once, by its text.
    sent: JoinSet<Vec<String>>,
    /// The same of what the agent says.
    said: JoinSet<Vec<String>>,
}

/// A signed message; the text says which.
fn message(app: &App, conversation: &str, nonce: u64, text: &str) -> Request {
    let (account, now) = (app.external(), Timestamp::from_secs(NOW));
    let sample = Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation, text, nonce, now };
    let (body, media_type) = providers::of(app.provider).sample(&sample).unwrap();
    let signed = sign(app.provider, &body, app.secret, now);
    Request::post(&app.path(), body).header("content-type", media_type).headers(signed)
}

/// Sends the same bytes again until they are taken, as whoever is told to come back does.
async fn until_taken(line: &'static str, connection: &mut Connection, request: &Request, tallies: &watch::Sender<Tallies>) -> Response {
    loop {
        let answer = connection.send(request).await.expect("an answer to each request");
        let taken = answer.status == 200;
        tallies.send_modify(|all| {
            let tally = all.entry(line).or_default();
            if taken { tally.taken += 1 } else { tally.refused += 1 }
        });
        if taken {
            return answer;
        }
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{line}: {}", answer.text());
    }
}

impl Load {
    fn new(gateway: &TestGateway) -> Self {
        Self { public: gateway.public, stop: Arc::default(), tallies: watch::Sender::default(), sent: JoinSet::new(), said: JoinSet::new() }
    }

    /// A provider that brings an app's messages: two connections in a conversation of their own each, or in the same.
    fn brings(&mut self, line: &'static str, app: &App, conversations: [&'static str; 2]) {
        for (n, conversation) in (1..).zip(conversations) {
            let (to, app, tallies, stop) = (self.public, app.clone(), self.tallies.clone(), self.stop.clone());
            self.sent.spawn(async move {
                let mut connection = Connection::open(to).await;
                let mut sent = Vec::new();
                for nonce in n * 100_000.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let text = format!("{line} {nonce}");
                    let request = message(&app, conversation, nonce, &text);
                    until_taken(line, &mut connection, &request, &tallies).await;
                    // Of some it never hears the answer, and brings them again.
                    if nonce % 3 == 0 {
                        until_taken(line, &mut connection, &request, &tallies).await;
                    }
                    sent.push(text);
                }
                sent
            });
        }
    }

    /// Acme's agent, which speaks all the time.
    fn speaks(&mut self, line: &'static str) {
        for connection in 1..=CONNECTIONS {
            let (to, tallies, stop) = (self.public, self.tallies.clone(), self.stop.clone());
            self.said.spawn(async move {
                let mut line_of = Connection::open(to).await;
                let mut said = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let text = format!("{line} {connection}-{}", said.len());
                    let body = json!({"installation": "slack-acme", "conversation": "C00HELPDESK", "text": text});
                    let request = Request::post("/v1/messages", body.to_string())
                        .json()
                        .header("authorization", "Bearer agt_acme_3kd9slw02mfj47")
                        .header("idempotency-key", text.replace(' ', "-"));
                    let first = until_taken(line, &mut line_of, &request, &tallies).await.json();
                    // What is sent is sent, at whatever stage it is asked for again.
                    let again = line_of.send(&request).await.unwrap();
                    assert_eq!((again.status, &again.json()["id"]), (200, &first["id"]), "one key, one message: {}", again.text());
                    said.push(text);
                }
                said
            });
        }
    }

    /// Waits until every line shows the present stage: these are let in, those are told to come back, and nobody sees anything
    /// else but for what was under way when the stage changed.
    async fn shows(&self, taken: &[&'static str], refused: &[&'static str]) {
        let mut now = self.tallies.subscribe();
        let before = now.borrow_and_update().clone();
        let since = |all: &Tallies, line: &'static str| {
            let (then, now) = (before.get(line).copied().unwrap_or_default(), all.get(line).copied().unwrap_or_default());
            Tally { taken: now.taken - then.taken, refused: now.refused - then.refused }
        };
        let all_show = |all: &Tallies| {
            taken.iter().all(|line| since(all, line).taken >= SHOWN) && refused.iter().all(|line| since(all, line).refused >= SHOWN)
        };
        let shown = tokio::time::timeout(GUARD, now.wait_for(all_show)).await.expect("the load does not show it");
        let shown = shown.expect("the load goes on");
        for line in taken {
            assert!(since(&shown, line).refused <= CONNECTIONS, "{line} is let in: {:?}", since(&shown, line));
        }
        for line in refused {
            assert!(since(&shown, line).taken <= CONNECTIONS, "{line} is not let in: {:?}", since(&shown, line));
        }
    }

    /// Lets each connection bring what it is at to its end: everything that came, what was said, and the answers to all of it.
    async fn ends(self) -> (BTreeSet<String>, BTreeSet<String>, Tallies) {
        self.stop.store(true, Ordering::SeqCst);
        let all = |lists: Vec<Vec<String>>| lists.into_iter().flatten().collect::<BTreeSet<String>>();
        let (sent, said) = (all(self.sent.join_all().await), all(self.said.join_all().await));
        (sent, said, self.tallies.borrow().clone())
    }
}

/// A gateway that delivers to an agent and sends to a provider, with everybody let in.
struct Floor {
    desk: Desk,
    agent: FakeAgent,
    api: FakeProvider,
}

impl Floor {
    async fn start(tweak: impl FnOnce(&mut Config), edit: impl FnOnce(&mut Value)) -> Self {
        let (agent, api) = (FakeAgent::start().await, FakeProvider::start().await);
        api.answers(200, json!({"ok": true, "ts": "1790000101.000200", "channel": "C00HELPDESK"}));
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            config.delivery.concurrency = 8;
            config.providers.slack.api_base = base;
            config.rollout.min_canary_minutes = 0;
            config.rollout.min_canary_events = 0;
            tweak(config);
        })
        .await;
        let mut document = world::document_with_credentials(SLACK);
        edit(&mut document);
        for of_org in document["agents"].as_array_mut().unwrap() {
            of_org["endpoint"] = json!(agent.endpoint());
        }
        gateway.applied(&document).await;
        Self { desk: Desk { gateway }, agent, api }
    }

    async fn moves(&self, path: &str, body: Value, told: &str) {
        assert_eq!(self.desk.post(path, body.clone()).await, told, "{path} {body}");
    }

    async fn canary(&self, orgs: &[&str]) {
        self.moves("slack", json!({"stage": "canary", "canary_orgs": orgs}), "200 canary").await;
    }

    async fn back(&self) {
        self.moves("slack/rollback", json!({"reason": "complaints"}), "200 off").await;
    }

    /// Everything that was sent is kept once and was brought to its agent once, in the order of its conversation; everything
    /// that was said left once; and the only thing that anybody was refused for is the stage.
    async fn arrived(self, sent: &BTreeSet<String>, said: &BTreeSet<String>, tallies: &Tallies) {
        let mut heard: BTreeMap<String, u64> = BTreeMap::new();
        let mut order: HashMap<String, Vec<String>> = HashMap::new();
        for _ in sent {
            let event = self.agent.next().await.json();
            let data = &event["data"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            assert_eq!(data["agent"], format!("{}-agent", text(&data["org"])), "{event}");
            *heard.entry(text(&data["text"])).or_default() += 1;
            order.entry(text(&data["session"]["id"])).or_default().push(text(&event["id"]));
        }
        let metrics = self.desk.gateway.metrics().await;
        let kept = self.desk.gateway.drain().await;
        assert!(self.agent.unseen().is_none(), "more than was sent");
        assert!(heard.keys().eq(sent) && heard.values().all(|times| *times == 1), "each once: {heard:?}");

        let rows =
            kept.rows("SELECT e.id, e.session, e.installation, d.key FROM events e JOIN dedupe d ON d.event = e.id ORDER BY e.seq").await;
        let mut stored: HashMap<String, Vec<String>> = HashMap::new();
        for row in &rows {
            stored.entry(row["session"].as_str().unwrap().to_owned()).or_default().push(row["id"].as_str().unwrap().to_owned());
        }
        let distinct: BTreeSet<String> = rows.iter().map(|r| format!("{} {}", r["installation"], r["key"])).collect();
        assert_eq!((rows.len(), distinct.len()), (sent.len(), sent.len()));
        assert!(stored == order, "as it was stored, so it arrived");
        let open = "SELECT seq FROM deliveries WHERE state <> 'delivered' OR attempt <> 1";
        assert_eq!(kept.rows(open).await, Vec::<Value>::new());

        let mut left: BTreeMap<String, u64> = BTreeMap::new();
        while let Some(call) = self.api.unseen() {
            *left.entry(call.json()["text"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        assert!(left.keys().eq(said) && left.values().all(|times| *times == 1), "each once: {left:?}");

        let counted = |line: &str, what: &str| -> f64 {
            metrics.iter().filter(|(series, _)| series.starts_with(line) && series.contains(what)).map(|(_, n)| n).sum()
        };
        let refused =
            |lines: &dyn Fn(&str) -> bool| tallies.iter().filter(|(line, _)| lines(line)).map(|(_, t)| t.refused as f64).sum::<f64>();
        let (webhooks, sends) = ("byoa_ingress_requests_total", "byoa_sends_total");
        assert_eq!(counted(webhooks, "rollout.stage_off"), refused(&|line| line != "agent"), "{metrics:#?}");
        assert_eq!(counted(webhooks, "accepted"), sent.len() as f64);
        for outcome in ["refused", "unauthenticated", "failed"] {
            let of_stage = counted(webhooks, &format!("outcome=\"{outcome}\",reason=\"rollout.stage_off\""));
            assert_eq!(counted(webhooks, &format!("outcome=\"{outcome}\"")), of_stage, "{metrics:#?}");
        }
        assert_eq!(counted(sends, "rollout.stage_off"), refused(&|line| line == "agent"), "{metrics:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_and_forth_under_load_every_event_arrives_once() {
    let floor = Floor::start(|_| {}, |_| {}).await;
    let telegram = world::document(ProviderKind::Telegram);
    let profiles: Vec<&Value> = telegram["profiles"].as_array().unwrap().iter().filter(|p| p["owner"] == "acme").collect();
    let own =
        |kind: &str| -> Vec<Value> { telegram[kind].as_array().unwrap().iter().filter(|r| r["id"] == "telegram-acme").cloned().collect() };
    floor.desk.gateway.applied(&json!({"profiles": profiles, "installations": own("installations"), "bindings": own("bindings")})).await;

    let mut load = Load::new(&floor.desk.gateway);
    load.brings("acme", &world::acme(SLACK), ["C00ONE", "C00ONE"]);
    load.brings("globex", &world::globex(SLACK), ["C00ONE", "C00TWO"]);
    load.brings("telegram", &world::acme(ProviderKind::Telegram), ["5100000001", "5100000002"]);
    load.brings("platform", &world::platform(SLACK), ["C00ONE", "C00TWO"]);
    load.speaks("agent");

    load.shows(&["acme", "agent", "globex", "telegram", "platform"], &[]).await;
    for _ in 0..5 {
        floor.back().await;
        load.shows(&["telegram", "platform"], &["acme", "agent", "globex"]).await;
        floor.canary(&["acme"]).await;
        load.shows(&["acme", "agent", "telegram", "platform"], &["globex"]).await;
        floor.back().await;
        load.shows(&["telegram", "platform"], &["acme", "agent", "globex"]).await;
        floor.canary(&["acme", "globex"]).await;
        load.shows(&["acme", "agent", "globex", "telegram", "platform"], &[]).await;
        floor.moves("global", json!({"enabled": false}), "200 -").await;
        load.shows(&["platform"], &["acme", "agent", "globex", "telegram"]).await;
        floor.desk.matrix_run(0, 0, None, BUILD).await;
        floor.moves("global", json!({"enabled": true}), "200 -").await;
        load.shows(&["acme", "agent", "globex", "telegram", "platform"], &[]).await;
        floor.moves("slack/promote", json!({}), "200 on").await;
        load.shows(&["acme", "agent", "globex", "telegram", "platform"], &[]).await;
    }
    let (sent, said, tallies) = load.ends().await;
    assert_eq!(tallies["platform"].refused, 0, "platform apps run at every stage");
    floor.arrived(&sent, &said, &tallies).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_let_in_takes_the_legacy_route_meanwhile_and_every_event_arrives_once() {
    let floor = Floor::start(
        |_| {},
        |document| {
            // A legacy binding of acme beside its own one; a second installation would make it ambiguous. Globex has none.
            for kind in ["installations", "bindings"] {
                document[kind].as_array_mut().unwrap().retain(|r| r["id"] != "slack-platform");
            }
            let legacy = json!({"id": "acme-legacy", "org": "acme", "select": {"provider": "slack"}, "agent": "acme-agent"});
            document["bindings"].as_array_mut().unwrap().push(legacy);
        },
    )
    .await;
    let mut load = Load::new(&floor.desk.gateway);
    load.brings("acme", &world::acme(SLACK), ["C00ONE", "C00TWO"]);
    load.brings("globex", &world::globex(SLACK), ["C00ONE", "C00TWO"]);
    load.speaks("agent");
    let newest = async || {
        let sql = "SELECT json_extract(meta_json, '$.binding') AS binding, json_extract(meta_json, '$.legacy') AS legacy \
            FROM events WHERE org = 'acme' ORDER BY seq DESC LIMIT 1";
        let row = floor.desk.gateway.kept.rows(sql).await.remove(0);
        (row["binding"].as_str().unwrap().to_owned(), row["legacy"] == 1)
    };
    let (own, legacy) = (("slack-acme".to_owned(), false), ("acme-legacy".to_owned(), true));
    for _ in 0..5 {
        floor.back().await;
        load.shows(&["acme", "agent"], &["globex"]).await;
        assert_eq!(newest().await, legacy);
        floor.canary(&["acme"]).await;
        load.shows(&["acme", "agent"], &["globex"]).await;
        assert_eq!(newest().await, own);
        // Who is on the list changes within the stage too.
        floor.canary(&["globex"]).await;
        load.shows(&["acme", "agent", "globex"], &[]).await;
        assert_eq!(newest().await, legacy);
        floor.canary(&["acme", "globex"]).await;
        load.shows(&["acme", "agent", "globex"], &[]).await;
        assert_eq!(newest().await, own);
        // Where rolling back leaves no legacy route, there is none for whoever is not let in.
        floor.moves("global", json!({"rollback_mode": "installation_identity"}), "200 -").await;
        floor.back().await;
        load.shows(&[], &["acme", "agent", "globex"]).await;
        floor.moves("global", json!({"rollback_mode": "legacy_provider_only"}), "200 -").await;
        load.shows(&["acme", "agent"], &["globex"]).await;
        assert_eq!(newest().await, legacy);
        floor.canary(&["acme", "globex"]).await;
    }
    let (sent, said, tallies) = load.ends().await;
    // Each event by that route has its line, and each message.
    let kept = &floor.desk.gateway.kept;
    let count = async |sql: &str| kept.rows(sql).await[0]["n"].as_i64().unwrap();
    let by_legacy = count("SELECT COUNT(*) AS n FROM events WHERE json_extract(meta_json, '$.legacy')").await;
    let told = "SELECT COUNT(DISTINCT json_extract(detail_json, '$.event')) AS n FROM audit WHERE action = 'route.legacy' AND target = 'acme-legacy'";
    assert_eq!(
        (count(told).await, count("SELECT COUNT(*) AS n FROM events WHERE json_extract(meta_json, '$.legacy') AND org <> 'acme'").await),
        (by_legacy, 0)
    );
    floor.arrived(&sent, &said, &tallies).await;
}

/// So many orgs with an app of their own each.
const ORGS: usize = 200;

fn many() -> (Value, Vec<App>) {
    let app = |n: usize| -> App {
        App {
            profile: format!("app-{n}"),
            owner: format!("org-{n}"),
            org: format!("org-{n}"),
            ingress: format!("slack-many-{n:04}-2m8d4s6x"),
            account: format!("T{n:010}").leak(),
            ..world::acme(SLACK)
        }
    };
    let apps: Vec<App> = (0..ORGS).map(app).collect();
    let each = |make: &dyn Fn(&App) -> Value| apps.iter().map(make).collect::<Vec<Value>>();
    let document = json!({
        "orgs": each(&|a| json!({"id": a.org, "name": a.org})),
        "agents": [{"id": "agent", "endpoint": "http://127.0.0.1:9/events",
            "signing_secret": {"value": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}, "token": {"value": "agt_many_3kd9slw02mfj47"}}],
        "profiles": each(&App::profile_json),
        "installations": each(&|a| json!({"id": a.profile, "profile": a.profile, "org": a.org, "account": world::account_json(&a.external())})),
        "bindings": each(&|a| json!({"id": a.profile, "org": a.org, "installation": a.profile, "agent": "agent"})),
    });
    (document, apps)
}

/// The orgs that are let in; the same event of each, so that what was taken once is a repeat.
async fn let_in(desk: &Desk, apps: &[App]) -> BTreeSet<String> {
    let mut connection = Connection::open(desk.gateway.public).await;
    let mut taken = BTreeSet::new();
    for app in apps {
        match connection.send(&webhook(app, 1, Timestamp::from_secs(NOW))).await.unwrap().status {
            200 => taken.insert(app.org.clone()),
            status => {
                assert_eq!(status, 503, "{}", app.org);
                false
            }
        };
    }
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_percentage_lets_in_the_same_orgs_each_time_and_a_higher_one_those_and_more() {
    let (document, apps) = many();
    let canary = |config: &mut Config| config.rollout.initial.clear();
    let desk = Desk { gateway: TestGateway::start_with(NOW, canary).await };
    desk.gateway.applied(&document).await;
    assert_eq!(desk.post("global", json!({"enabled": true})).await, "200 -");
    let percent = async |desk: &Desk, percent: u8| {
        assert_eq!(desk.post("slack", json!({"stage": "canary", "percent": percent})).await, "200 canary");
        let_in(desk, &apps).await
    };
    let ten = percent(&desk, 10).await;
    let half = percent(&desk, 50).await;
    // Buckets are even enough that no tenth is empty or a third; which orgs these are is the hash's to say.
    assert!((8..=34).contains(&ten.len()) && (80..=120).contains(&half.len()), "{} and {} of {ORGS}", ten.len(), half.len());
    assert!(ten.is_subset(&half), "{:?} are out at 50", ten.difference(&half));
    let (dir, kept) = (tempfile::tempdir().unwrap(), desk.gateway.drain().await);
    copy(kept.folder(), dir.path());
    let desk = Desk { gateway: TestGateway::start_in(dir, NOW, canary).await };
    assert_eq!(let_in(&desk, &apps).await, half, "after a restart");
    assert_eq!(percent(&desk, 10).await, ten, "and back at 10");
    assert_eq!(percent(&desk, 100).await.len(), ORGS);
}
