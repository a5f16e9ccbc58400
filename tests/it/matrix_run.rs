//! Runs of the failure-path matrix: started over the operator API and by the command line, watched, kept, and what a promotion
//! makes of them. What is played is made up here; that the real rows are played is another suite's.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use byoa_gateway::app::Outfit;
use byoa_gateway::crypto::sha256_of;
use byoa_gateway::domain::installation::{Mode, ProviderKind};
use byoa_gateway::domain::matrix::{Exercise, PlayedCase, Player, Playing};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::rollout::Desk;
use super::support::gateway::{BUILD, OPERATOR_TOKEN, PLAIN_OPERATOR_TOKEN, VIEWER_TOKEN};
use super::support::process::Home;
use super::support::raw::{Connection, Request, once};
use super::support::{copy, here};

const PATIENCE: Duration = Duration::from_secs(30);

/// How the next run goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Green,
    Red,
    Skips,
    Repeats,
    Strays,
    GivesUp,
    Breaks,
}

/// A player of four cases for each provider, who waits before each for leave.
#[derive(Debug)]
struct Fake {
    how: Mutex<How>,
    leave: Semaphore,
    played: AtomicUsize,
    asked: Mutex<Vec<Exercise>>,
}

fn cases(provider: ProviderKind) -> Vec<PlayedCase> {
    let case = |row: &str, title: &str, dimension: &str, mode, case: &str| PlayedCase {
        row: row.into(),
        title: title.into(),
        dimension: dimension.into(),
        provider,
        mode,
        case: case.into(),
        wrong: vec![],
    };
    vec![
        case("002", "An event comes twice", "replay", Mode::Byoa, "at once"),
        case("002", "An event comes twice", "replay", Mode::Byoa, "after a day"),
        case("001", "A body that was changed", "auth", Mode::Byoa, ""),
        case("001", "A body that was changed", "auth", Mode::Platform, ""),
    ]
}

impl Player for Fake {
    fn cases(&self, providers: &[ProviderKind]) -> usize {
        4 * providers.len()
    }

    fn play<'p>(&'p self, exercise: Exercise, tell: &'p (dyn Fn(PlayedCase) + Send + Sync)) -> Playing<'p> {
        Box::pin(async move {
            let how = *self.how.lock().unwrap();
            self.asked.lock().unwrap().push(exercise.clone());
            let mut all: Vec<PlayedCase> = exercise.providers.iter().flat_map(|p| cases(*p)).collect();
            match how {
                How::Red => all[3].wrong = vec!["status: 200, not 401".into(), "rows: events + 1".into()],
                How::Skips => drop(all.pop()),
                How::Repeats => all[1] = all[0].clone(),
                How::Strays => all.extend(ProviderKind::ALL.into_iter().filter(|p| !exercise.providers.contains(p)).flat_map(cases)),
                How::Green | How::GivesUp | How::Breaks => {}
            }
            for case in all {
                self.leave.acquire().await.unwrap().forget();
                match how {
                    How::GivesUp => return Err("no scratch store".into()),
                    How::Breaks => panic!("planted"),
                    _ => tell(case),
                }
                self.played.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        })
    }
}

struct Room {
    desk: Desk,
    player: Arc<Fake>,
}

impl Room {
    async fn open() -> Self {
        Self::in_folder(here("policies")).await
    }

    async fn in_folder(policies: PathBuf) -> Self {
        let leave = Semaphore::new(10_000);
        let player = Arc::new(Fake { how: Mutex::new(How::Green), leave, played: AtomicUsize::new(0), asked: Mutex::default() });
        let outfit = Outfit { player: Some(player.clone()), ..Outfit::default() };
        Self { desk: Desk::outfitted(outfit, |config| config.policies.dir = policies).await, player }
    }

    fn how(&self, how: How) {
        *self.player.how.lock().unwrap() = how;
    }

    /// The player waits before its first case, until [`Room::go_on`].
    fn halt(&self) {
        self.player.leave.forget_permits(usize::MAX);
    }

    fn go_on(&self) {
        self.player.leave.add_permits(10_000);
    }

    async fn post(&self, target: &str, body: &Value) -> (u16, Value) {
        let answer = self.desk.gateway.operate("POST", target, body).await;
        (answer.status, answer.json())
    }

    async fn get(&self, target: &str) -> (u16, Value) {
        let answer = self.desk.gateway.operate("GET", target, &Value::Null).await;
        (answer.status, answer.json())
    }

    /// Played for slack while somebody waits.
    async fn played(&self) -> Value {
        let (status, run) = self.post("/v1/matrix", &json!({"provider": "slack"})).await;
        assert_eq!(status, 200, "{run}");
        run
    }

    /// Looks until a run is as it should be.
    async fn until(&self, id: &str, is: impl Fn(u16, &Value) -> bool) -> Value {
        let looking = async {
            loop {
                let (status, run) = self.get(&format!("/v1/matrix/{id}")).await;
                if is(status, &run) {
                    return run;
                }
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.expect("the run gets there")
    }

    async fn rows(&self, sql: &str) -> Vec<Value> {
        self.desk.gateway.kept.rows(sql).await
    }

    async fn audit(&self) -> Vec<String> {
        let lines = self.rows("SELECT outcome, code, target FROM audit WHERE action = 'matrix.run' ORDER BY seq").await;
        let told = |l: &Value| {
            format!("{} {} {}", l["outcome"].as_str().unwrap(), l["code"].as_str().unwrap_or("-"), l["target"].as_str().unwrap())
        };
        lines.iter().map(told).collect()
    }

    async fn kept(&self) -> usize {
        self.rows("SELECT seq FROM matrix_runs").await.len()
    }

    async fn version(&self) -> Value {
        self.get("/v1/policies").await.1["active"]["version"].clone()
    }
}

fn id(run: &Value) -> String {
    run["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_kept_with_what_it_was_played_against_and_audited_once() {
    let room = Room::open().await;
    let began = room.desk.gateway.clock.now();
    room.halt();
    let (status, started) = room.post("/v1/matrix?wait=false", &Value::Null).await;
    assert_eq!(status, 202, "{started}");
    let id = id(&started);
    assert!(id.starts_with("mtx_"), "{id}");
    room.player.leave.add_permits(2);
    let running = room.until(&id, |_, run| run["played"] == 2).await;
    assert_eq!(
        (&running["state"], &running["total"], &running["red"], &running["green"]),
        (&json!("running"), &json!(12), &json!(0), &json!(false))
    );
    assert_eq!((&running["last"]["row"], &running["cases"]), (&json!("002"), &Value::Null));
    assert_eq!(room.get("/v1/matrix").await.1["running"]["id"], json!(id));
    assert_eq!(room.kept().await, 0, "nothing is kept before it ended");
    // What counts is when it began.
    room.desk.gateway.clock.advance_ms(60_000);
    room.go_on();
    let run = room.until(&id, |_, run| run["state"] == "done").await;
    let version = room.version().await;
    assert_eq!((&run["policy_version"], &run["build"], &run["started_at"]), (&version, &json!(BUILD), &json!(began)));
    assert_eq!(
        (&run["played"], &run["red"], &run["green"], &run["providers"]),
        (&json!(12), &json!(0), &json!(true), &json!(["slack", "telegram", "whatsapp"]))
    );
    let order: Vec<String> =
        run["cases"].as_array().unwrap().iter().map(|c| format!("{} {} {}", c["provider"], c["row"], c["mode"])).collect();
    assert!(order.is_sorted() && order.len() == 12, "{order:?}");

    let rows = room.rows("SELECT id, at_ms, provider, policy_version, build, played, red FROM matrix_runs ORDER BY seq").await;
    let row = |provider: &str| json!({"id": id, "at_ms": began.ms(), "provider": provider, "policy_version": version, "build": BUILD, "played": 4, "red": 0});
    assert_eq!(rows, [row("slack"), row("telegram"), row("whatsapp")]);
    assert_eq!(room.audit().await, [format!("done - matrix/{id}")]);
    let detail = room.rows("SELECT detail_json AS detail, verdict FROM audit WHERE action = 'matrix.run'").await.remove(0);
    let said: Value = serde_json::from_str(detail["detail"].as_str().unwrap()).unwrap();
    let wanted = json!({"providers": ["slack", "telegram", "whatsapp"], "played": 12, "red": 0, "policy_version": version, "build": BUILD});
    assert_eq!(said, wanted);
    assert!(!detail["verdict"].is_null(), "{detail}");

    // The player was given the policies in force, to the letter.
    let asked = room.player.asked.lock().unwrap().remove(0);
    let (path, text) = asked.policies.iter().find(|(path, _)| path.ends_with("60-changes.cedar")).unwrap();
    assert_eq!(*text, std::fs::read_to_string(here("policies").join(path)).unwrap());
    assert_eq!((asked.policies.len(), asked.now, asked.providers), (8, began, ProviderKind::ALL.to_vec()));

    let (_, list) = room.get("/v1/matrix?provider=telegram").await;
    assert_eq!(list["running"], Value::Null);
    let item = json!({"id": id, "provider": "telegram", "policy_version": version, "build": BUILD, "started_at": began, "played": 4, "red": 0, "green": true});
    assert_eq!(list["items"], json!([item]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_run_goes_on_at_a_time() {
    let room = Room::open().await;
    room.halt();
    let (_, started) = room.post("/v1/matrix?wait=false", &json!({"provider": "slack"})).await;
    for provider in ["slack", "telegram"] {
        let (status, refused) = room.post("/v1/matrix", &json!({"provider": provider})).await;
        assert_eq!((status, &refused["code"]), (409, &json!("matrix.running")), "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains(&id(&started)), "{refused}");
    }
    room.go_on();
    room.until(&id(&started), |_, run| run["state"] == "done").await;
    room.played().await;
    // Of many at once, one is played.
    room.halt();
    let told = futures_util::future::join_all((0..8).map(|_| room.post("/v1/matrix?wait=false", &Value::Null))).await;
    let mut statuses: Vec<u16> = told.iter().map(|(status, _)| *status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [202, 409, 409, 409, 409, 409, 409, 409]);
    room.go_on();
    let started = told.iter().find(|(status, _)| *status == 202).unwrap();
    room.until(&id(&started.1), |_, run| run["state"] == "done").await;
    assert_eq!(room.kept().await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_played() {
    let room = Room::open().await;
    for body in [json!({"provider": "viber"}), json!({"provider": ""}), json!({"rows": ["001"]}), json!("slack")] {
        let (status, refused) = room.post("/v1/matrix", &body).await;
        assert_eq!((status, &refused["code"]), (422, &json!("rollout.invalid")), "{body}: {refused}");
    }
    assert_eq!(room.get("/v1/matrix?provider=viber").await.1["code"], "rollout.invalid");
    for unknown in ["mtx_01ARZ3NDEKTSV4RRFFQ69G5FAV", "run_1", "mtx_'"] {
        let (status, refused) = room.get(&format!("/v1/matrix/{unknown}")).await;
        assert_eq!((status, &refused["code"]), (404, &json!("admin.not_found")), "{unknown}");
    }
    let gateway = &room.desk.gateway;
    let refused = gateway.operate_as(VIEWER_TOKEN, "POST", "/v1/matrix", &json!({"provider": "slack"})).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("policy.no_permit")));
    assert_eq!(room.audit().await, ["refused policy.no_permit slack"]);
    assert_eq!(room.player.asked.lock().unwrap().len(), 0);
    // Who may only look may look at runs.
    assert_eq!(gateway.operate_as(VIEWER_TOKEN, "GET", "/v1/matrix", &Value::Null).await.status, 200);
    assert_eq!(gateway.operate_as("opr_nobody", "GET", "/v1/matrix", &Value::Null).await.status, 401);
    // Operators play, though they promote nothing.
    assert_eq!(gateway.operate_as(PLAIN_OPERATOR_TOKEN, "POST", "/v1/matrix", &Value::Null).await.status, 200);

    let nobody = Desk::outfitted(Outfit::default(), |_| {}).await;
    let answer = nobody.gateway.operate("POST", "/v1/matrix", &Value::Null).await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("matrix.unavailable")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_cannot_be_told_makes_no_evidence_and_takes_none() {
    let player =
        Arc::new(Fake { how: Mutex::new(How::Green), leave: Semaphore::new(99), played: AtomicUsize::new(0), asked: Mutex::default() });
    let desk = Desk::outfitted(Outfit { player: Some(player), build: Some(|| None), ..Outfit::default() }, |_| {}).await;
    let answer = desk.gateway.operate("POST", "/v1/matrix", &Value::Null).await;
    assert_eq!((answer.status, &answer.json()["code"]), (503, &json!("matrix.unavailable")));
    desk.matrix_run(0, 0, None, BUILD).await;
    let matrix = desk.status().await["matrix"].clone();
    assert_eq!((&matrix["green"], &matrix["build"]), (&json!(false), &Value::Null));
    assert!(matrix["why_not"].as_str().unwrap().starts_with("this build cannot be told from others"), "{matrix}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_ends_nothing() {
    let room = Room::open().await;
    room.halt();
    let mut client = Connection::open(room.desk.gateway.operator).await;
    let request = Request::post("/v1/matrix", "{}").json().header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
    assert!(client.write(&request.bytes()).await);
    let running = async {
        loop {
            if let Some(id) = room.get("/v1/matrix").await.1["running"]["id"].as_str() {
                return id.to_owned();
            }
        }
    };
    let id = tokio::time::timeout(PATIENCE, running).await.expect("it begins");
    drop(client);
    room.go_on();
    let run = room.until(&id, |_, run| run["state"] == "done").await;
    assert_eq!((&run["played"], room.kept().await), (&json!(12), 3));
    assert_eq!(room.audit().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_does_not_come_to_its_end_is_kept_nowhere() {
    let room = Room::open().await;
    for (how, why) in [
        (How::Skips, "3 of 4 cases of slack were played"),
        (How::Repeats, "1 cases were played more than once"),
        (How::Strays, "8 cases were played that nobody asked for"),
        (How::GivesUp, "no scratch store"),
        (How::Breaks, "the player broke"),
    ] {
        room.how(how);
        let (status, failed) = room.post("/v1/matrix", &json!({"provider": "slack"})).await;
        assert_eq!((status, &failed["code"], &failed["detail"]), (503, &json!("matrix.failed"), &json!(why)), "{how:?}");
        let told = room.audit().await.pop().unwrap();
        let id = told.strip_prefix("failed matrix.failed matrix/").unwrap_or_else(|| panic!("{told}")).to_owned();
        let (status, failed) = room.get(&format!("/v1/matrix/{id}")).await;
        assert_eq!((status, &failed["detail"]), (503, &json!(why)), "whoever looks at it later hears the same");
    }
    assert_eq!(room.kept().await, 0);
    // The store does not take the audit line: nothing is kept, and nothing is said to be.
    room.how(How::Green);
    room.desk.gateway.damage("CREATE TRIGGER no_audit BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'planted'); END").await;
    let (status, failed) = room.post("/v1/matrix", &json!({"provider": "slack"})).await;
    assert_eq!(status, 503, "{failed}");
    assert_eq!(room.kept().await, 0);
    room.desk.gateway.damage("DROP TRIGGER no_audit").await;
    room.played().await;
    assert_eq!(room.kept().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_runs_go_and_evidence_stays() {
    let room = Room::open().await;
    let first = id(&room.played().await);
    room.desk.gateway.damage(&format!("UPDATE flags SET evidence = '{first}' WHERE name = 'slack'")).await;
    let second = id(&room.played().await);
    let other = room.post("/v1/matrix", &json!({"provider": "telegram"})).await.1;
    for _ in 0..20 {
        room.played().await;
    }
    let (_, list) = room.get("/v1/matrix?provider=slack").await;
    let ids: Vec<&str> = list["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), ids.last()), (21, Some(&first.as_str())));
    assert!(!ids.contains(&second.as_str()));
    assert_eq!(room.get(&format!("/v1/matrix/{second}")).await.0, 404);
    for kept in [first, id(&other)] {
        assert_eq!(room.get(&format!("/v1/matrix/{kept}")).await.0, 200, "each provider has its own");
    }
}

async fn canary(room: &Room) {
    assert_eq!(room.post("/v1/rollout/global", &json!({"enabled": true})).await.0, 200);
    assert_eq!(room.desk.post("slack", json!({"stage": "canary", "canary_orgs": ["acme"]})).await, "200 canary");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn red_holds_a_promotion_back_and_green_lets_it_through() {
    let room = Room::open().await;
    canary(&room).await;
    assert_eq!(room.desk.status().await["next"]["command"], "byoa matrix run --provider slack");
    room.how(How::Red);
    let red = room.played().await;
    assert_eq!((&red["red"], &red["green"]), (&json!(1), &json!(false)));
    room.desk.soak().await;
    assert_eq!(room.desk.post("slack/promote", json!({})).await, "409 rollout.gate_not_green");
    let status = room.desk.status().await;
    assert_eq!(status["next"]["command"], "byoa matrix run --provider slack");
    let run = &status["matrix"]["run"];
    assert_eq!((&run["id"], &run["played"], &run["red"]), (&red["id"], &json!(4), &json!(1)));

    let (_, table, _) = Shell::at(&room).byoa(&["rollout", "status", "slack"]).await;
    let said = format!("1 of 4 cases of the last matrix run were red: 1 red of 4 in {} of ", red["id"].as_str().unwrap());
    assert!(table.contains(&said) && table.contains(BUILD), "{table}");

    room.how(How::Green);
    // Another provider's run is no evidence for this one.
    room.post("/v1/matrix", &json!({"provider": "telegram"})).await;
    assert_eq!(room.desk.post("slack/promote", json!({})).await, "409 rollout.gate_not_green");
    let green = room.played().await;
    let status = room.desk.status().await;
    assert_eq!((&status["next"]["command"], &status["next"]["blocked_by"]), (&json!("byoa rollout promote slack"), &json!([])));
    assert_eq!(room.desk.post("slack/promote", json!({})).await, "200 on");
    assert_eq!(room.desk.status().await["evidence"], green["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_that_change_while_it_is_played_are_not_what_it_speaks_of() {
    let folder = tempfile::tempdir().unwrap();
    copy(&here("policies"), folder.path());
    let room = Room::in_folder(folder.path().to_owned()).await;
    canary(&room).await;
    let before = room.version().await;
    room.halt();
    let (_, started) = room.post("/v1/matrix?wait=false", &json!({"provider": "slack"})).await;
    let file = folder.path().join("platform/40-rollout.cedar");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("// Edited.\n{text}")).unwrap();
    let reloaded = async { while room.version().await == before {} };
    tokio::time::timeout(PATIENCE, reloaded).await.expect("the edit is taken");
    room.go_on();
    let run = room.until(&id(&started), |_, run| run["state"] == "done").await;
    assert_eq!((&run["policy_version"], &run["green"]), (&before, &json!(true)));
    room.desk.soak().await;
    assert_eq!(room.desk.post("slack/promote", json!({})).await, "409 rollout.gate_not_green");
    assert_eq!(room.desk.status().await["matrix"]["why_not"], "the last matrix run was against other policies than those in force");
    room.played().await;
    assert_eq!(room.desk.post("slack/promote", json!({})).await, "200 on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roll_back_while_it_is_played_makes_it_void() {
    let room = Room::open().await;
    canary(&room).await;
    room.halt();
    let (_, started) = room.post("/v1/matrix?wait=false", &Value::Null).await;
    assert_eq!(room.desk.post("slack/rollback", json!({"reason": "complaints"})).await, "200 off");
    room.go_on();
    let failed = room.until(&id(&started), |status, _| status != 200).await;
    assert_eq!(
        (&failed["code"], &failed["detail"]),
        (&json!("matrix.failed"), &json!("slack was rolled back while it was played; play it again"))
    );
    assert_eq!(room.kept().await, 0);
    // One that begins after it counts, be it the first at all.
    canary(&room).await;
    room.played().await;
    assert_eq!(room.desk.status().await["matrix"]["green"], true);
    assert_eq!(room.desk.post("slack/rollback", json!({"reason": "again"})).await, "200 off");
    canary(&room).await;
    assert_eq!(room.desk.status().await["matrix"]["why_not"], "the last matrix run is from before the last roll-back");
}

/// The command against a gateway, in an empty folder.
struct Shell {
    folder: tempfile::TempDir,
    server: String,
}

impl Shell {
    fn at(room: &Room) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: format!("http://{}", room.desk.gateway.operator) }
    }

    /// `byoa matrix …`
    async fn run(&self, args: &[&str]) -> (i32, String, String) {
        self.byoa(&[&["matrix"], args].concat()).await
    }

    /// Exit code, standard output, standard error.
    async fn byoa(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_byoa"));
        command.args(args).args(["--server", &self.server]).current_dir(self.folder.path());
        command.env_clear().env("BYOA_OPERATOR_TOKEN", OPERATOR_TOKEN);
        let Output { status, stdout, stderr } = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_is_the_executable_that_runs() {
    let home = Home::new();
    let serving = home.serve();
    let request = Request::get("/v1/rollout/slack").header("authorization", format!("Bearer {OPERATOR_TOKEN}"));
    let status = once(serving.operator, &request).await.unwrap().json();
    let digest = sha256_of(std::fs::File::open(env!("CARGO_BIN_EXE_byoa")).unwrap()).unwrap();
    let wanted = format!("{}+{}", env!("CARGO_PKG_VERSION"), &hex::encode(digest)[..12]);
    assert_eq!(status["items"][0]["matrix"]["build"], json!(wanted));
}

fn settings(room: &Room) -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter("mtx_[0-9A-Z]{26}", "mtx_00000000000000000000000000");
    settings.add_filter("req_[0-9A-Z]{26}", "req_00000000000000000000000000");
    settings.add_filter(r"policies [0-9a-f]{12}", "policies 0123456789ab");
    settings.add_filter(r"\b[0-9a-f]{64}\b", "0".repeat(64));
    settings.add_filter(&room.desk.gateway.operator.to_string(), "OPERATOR");
    settings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_plays_shows_and_lists() {
    let room = Room::open().await;
    let shell = Shell::at(&room);
    let mut story = Vec::new();
    story.push(("list", shell.run(&["list"]).await));
    story.push(("run, green", shell.run(&["run", "--provider", "slack"]).await));
    room.how(How::Red);
    story.push(("run, red", shell.run(&["run", "--provider", "telegram"]).await));
    story.push(("run --format junit, red", shell.run(&["run", "--provider", "telegram", "--format", "junit"]).await));
    room.how(How::GivesUp);
    story.push(("run, not to its end", shell.run(&["run"]).await));
    story.push(("list", shell.run(&["list"]).await));
    story.push(("list --provider slack", shell.run(&["list", "--provider", "slack"]).await));
    room.how(How::Green);
    room.halt();
    let (_, started) = room.post("/v1/matrix?wait=false", &json!({"provider": "whatsapp"})).await;
    story.push(("run, while another goes on", shell.run(&["run"]).await));
    story.push(("show, while it is played", shell.run(&["show", &id(&started)]).await));
    room.player.leave.add_permits(1);
    room.until(&id(&started), |_, run| run["played"] == 1).await;
    story.push(("list, while it is played", shell.run(&["list", "--provider", "whatsapp"]).await));
    room.go_on();
    room.until(&id(&started), |_, run| run["state"] == "done").await;
    story.push(("show", shell.run(&["show", &id(&started)]).await));
    story.push(("show --format junit", shell.run(&["show", &id(&started), "--format", "junit"]).await));
    story.push(("show, of none", shell.run(&["show", "mtx_0"]).await));
    story.push(("show, of no id", shell.run(&["show", "../orgs"]).await));
    story.push(("run --provider viber", shell.run(&["run", "--provider", "viber"]).await));
    let told: String = story.iter().map(|(what, (code, out, err))| format!("$ {what}\nexit {code}\n{out}{err}\n")).collect();
    let _bound = settings(&room).bind_to_scope();
    insta::assert_snapshot!("matrix_command", told);
    drop(_bound);

    // JSON is the run as the API gives it.
    room.how(How::Red);
    let (code, out, _) = shell.run(&["run", "--format", "json"]).await;
    let run: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &run["red"]), (1, &json!(1)));
    assert_eq!(run, room.get(&format!("/v1/matrix/{}", id(&run))).await.1);
    assert_eq!(shell.run(&["show", &id(&run), "--format", "json"]).await, (1, out, String::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_gateway_policies_are_read_first() {
    let room = Room::open().await;
    let mut shell = Shell::at(&room);
    shell.server = "http://127.0.0.1:1".into();
    let (code, out, err) = shell.run(&["run"]).await;
    assert_eq!((code, &*out), (2, ""));
    assert!(err.contains("no gateway at") && err.contains("--policies DIR"), "{err}");
    let schema = here("schemas/gateway.cedarschema");
    let schema = schema.to_str().unwrap();
    let dir = shell.folder.path().join("policies");
    copy(&here("policies"), &dir);
    std::fs::write(dir.join("platform/99.cedar"), "permit(").unwrap();
    let (code, _, err) = shell.run(&["run", "--policies", "policies", "--schema", schema]).await;
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("policy.invalid") && err.contains("policies/platform/99.cedar:1:") && err.contains("1 | permit("), "{err}");
    let (code, _, err) = shell.run(&["run", "--policies", "nowhere", "--schema", schema]).await;
    assert_eq!(code, 2, "{err}");
    assert_eq!(shell.run(&["run", "--provider", "viber", "--policies", "policies"]).await.0, 2);
    assert_eq!(shell.run(&["run", "--schema", schema]).await.0, 2, "which schema says nothing without the folder");
}
