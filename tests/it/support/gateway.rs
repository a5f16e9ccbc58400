//! A gateway in a folder of its own, on ports of its own, by a clock that stands still.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use byoa_gateway::app::{EnvSecrets, Gateway, Outfit};
use byoa_gateway::config::{Config, RetentionSection};
use byoa_gateway::delivery::DeliveryObserver;
use byoa_gateway::domain::clock::{Clock, Timestamp};
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::reason::Failure;
use byoa_gateway::domain::rollout::RolloutStage;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Row as _, SqliteConnection, TypeInfo as _, ValueRef as _};
use tempfile::TempDir;

use super::here;
use super::raw::{Request, Response, once};

pub const OPERATOR_TOKEN: &str = "opr_5c1f0b9e7a3d4826";

/// Its line in the token file: somebody of the security team, with a second factor.
pub const OPERATOR_LINE: &str = "opr_5c1f0b9e7a3d4826 security security-1 mfa";

/// Somebody of the security team without a second factor, and somebody of the role `operator`.
pub const SINGLE_FACTOR_TOKEN: &str = "opr_single_7f3a9c2e4b";
pub const PLAIN_OPERATOR_TOKEN: &str = "opr_plain_2d8e6f1a9c";

/// What the gateways of tests take themselves for.
pub const BUILD: &str = "0.1.0+0123456789ab";

/// Somebody who may look and do nothing.
pub const VIEWER_TOKEN: &str = "opr_viewer_8b1d4c7e2f";

/// The tables whose rows a webhook may add to.
pub const TABLES: [&str; 9] = ["events", "dedupe", "deliveries", "decisions", "refusals", "audit", "sessions", "attempts", "sends"];

pub type Counts = BTreeMap<&'static str, i64>;

pub struct TestGateway {
    gateway: Gateway,
    pub clock: Clock,
    pub public: SocketAddr,
    pub operator: SocketAddr,
    pub kept: Kept,
}

/// What a gateway leaves behind.
pub struct Kept {
    dir: TempDir,
    db: PathBuf,
}

impl TestGateway {
    pub async fn start(now_secs: i64) -> Self {
        Self::start_with(now_secs, |_| {}).await
    }

    /// Starts with settings of its own; nothing is delivered unless `delivery.concurrency` says so.
    pub async fn start_with(now_secs: i64, tweak: impl FnOnce(&mut Config)) -> Self {
        Self::start_watched(now_secs, tweak, None).await
    }

    /// The same, with somebody who is told of deliveries.
    pub async fn start_watched(now_secs: i64, tweak: impl FnOnce(&mut Config), watcher: Option<Arc<dyn DeliveryObserver>>) -> Self {
        Self::start_outfitted(now_secs, tweak, Outfit { watcher, ..Outfit::default() }).await
    }

    /// The same with all that a gateway can be given from above.
    pub async fn start_outfitted(now_secs: i64, tweak: impl FnOnce(&mut Config), outfit: Outfit) -> Self {
        Self::try_start(tempfile::tempdir().unwrap(), now_secs, None, tweak, outfit).await.unwrap()
    }

    /// Starts on what another gateway left behind.
    pub async fn start_in(dir: TempDir, now_secs: i64, tweak: impl FnOnce(&mut Config)) -> Self {
        Self::start_with_keys(dir, now_secs, None, tweak).await.unwrap()
    }

    /// The same with master keys of the environment; says why where it does not start.
    pub async fn start_with_keys(
        dir: TempDir,
        now_secs: i64,
        keys: Option<String>,
        tweak: impl FnOnce(&mut Config),
    ) -> Result<Self, Failure> {
        Self::try_start(dir, now_secs, keys, tweak, Outfit::default()).await
    }

    async fn try_start(
        dir: TempDir,
        now_secs: i64,
        master_keys: Option<String>,
        tweak: impl FnOnce(&mut Config),
        outfit: Outfit,
    ) -> Result<Self, Failure> {
        let db = dir.path().join("data/byoa.db");
        let mut config = Config::default();
        config.listen.public = "127.0.0.1:0".parse().unwrap();
        config.listen.operator = "127.0.0.1:0".parse().unwrap();
        config.store.url = format!("sqlite:{}", db.display());
        config.policies.dir = here("policies");
        config.policies.schema = here("schemas/gateway.cedarschema");
        // The shipped tables hold for the shipped policies, which is tested once; each start need not find out again.
        config.policies.gate_tables = false;
        config.policies.history = dir.path().join("data/policies");
        config.keys.file = dir.path().join("data/master.keys");
        config.operators.token_file = dir.path().join("data/operator.token");
        config.rollout.initial = ProviderKind::ALL.into_iter().map(|p| (p, RolloutStage::On)).collect();
        config.egress.allow_private_agents = true;
        config.delivery.concurrency = 0;
        // The clock stands still, so what a provider takes in a second would be all it ever takes.
        config.limits.provider_rate_percent = ProviderKind::ALL.into_iter().map(|p| (p, 0)).collect();
        tweak(&mut config);
        let clock = Clock::manual(Timestamp::from_secs(now_secs));
        let tokens = format!(
            "{OPERATOR_LINE}\n{SINGLE_FACTOR_TOKEN} security sam single-factor\n{PLAIN_OPERATOR_TOKEN} operator olga\n{VIEWER_TOKEN} viewer vera\n"
        );
        // To find out, the real one reads this whole binary.
        let outfit = Outfit { build: outfit.build.or(Some(|| Some(BUILD.into()))), ..outfit };
        let secrets = EnvSecrets { master_keys, operator_token: Some(tokens) };
        let gateway = Box::pin(Gateway::start_with(config, secrets, clock.clone(), outfit)).await?;
        let (public, operator) = (gateway.public, gateway.operator);
        Ok(Self { gateway, clock, public, operator, kept: Kept { dir, db } })
    }

    /// One call of the operator API.
    pub async fn operate(&self, method: &str, target: &str, body: &Value) -> Response {
        self.operate_as(OPERATOR_TOKEN, method, target, body).await
    }

    /// The same by somebody else.
    pub async fn operate_as(&self, token: &str, method: &str, target: &str, body: &Value) -> Response {
        self.operate_if(token, method, target, body, None).await
    }

    /// The same, where the resource still has the version that was read.
    pub async fn operate_if(&self, token: &str, method: &str, target: &str, body: &Value, if_match: Option<&str>) -> Response {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        let mut request = Request::post(target, body).json().header("authorization", format!("Bearer {token}"));
        request.headers.extend(if_match.map(|version| ("if-match".to_owned(), version.as_bytes().to_vec())));
        request.method = method.into();
        once(self.operator, &request).await.expect("the operator listener answers")
    }

    /// `byoa apply`, over its API.
    pub async fn apply(&self, document: &Value) -> Response {
        self.operate("POST", "/v1/apply", document).await
    }

    /// The same where nothing may be wrong with it.
    pub async fn applied(&self, document: &Value) {
        let answer = self.apply(document).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// What only commands that are not there yet would ask for.
    pub fn store(&self) -> &byoa_gateway::store::Store {
        self.gateway.store()
    }

    pub async fn send(&self, request: &Request) -> Response {
        once(self.public, request).await.expect("the public listener answers")
    }

    /// Changes a row behind the gateway's back, as a broken migration would, and lets it read the declared state again.
    pub async fn damage(&self, sql: &str) {
        let done = sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&mut self.kept.open().await).await.unwrap();
        let rows = ["UPDATE", "DELETE", "INSERT"].iter().any(|word| sql.starts_with(word));
        assert!(!rows || done.rows_affected() > 0, "nothing damaged by: {sql}");
        self.gateway.store().reload().await.unwrap();
    }

    /// Removes what its retention has passed, as the hourly sweep does.
    pub async fn sweep(&self) {
        self.gateway.store().sweep(&RetentionSection::default(), self.clock.now()).await.unwrap();
    }

    /// The fields of a listing's rows, oldest first, as an operator sees them: content is opened.
    pub async fn listed(&self, kind: &str, fields: &[&str]) -> Vec<Value> {
        let answer = self.operate("GET", &format!("/v1/{kind}?limit=1000"), &Value::Null).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut items = answer.json()["items"].as_array().unwrap().clone();
        items.reverse();
        let pick = |item: &Value| Value::Object(fields.iter().map(|f| ((*f).to_owned(), item[*f].clone())).collect());
        items.iter().map(pick).collect()
    }

    /// Every series of `/metrics`, as it is written there.
    pub async fn metrics(&self) -> BTreeMap<String, f64> {
        let answer = once(self.operator, &Request::get("/metrics")).await.unwrap();
        assert_eq!(answer.status, 200);
        let text = answer.text();
        let lines = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.rsplit_once(' '));
        lines.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
    }

    /// Stops it as SIGTERM does; its store can still be read.
    pub async fn drain(self) -> Kept {
        assert!(self.gateway.drain().await, "the gateway did not finish in time");
        self.kept
    }
}

impl Kept {
    /// Everything the gateway writes is in here.
    pub fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub async fn open(&self) -> SqliteConnection {
        open(&self.db).await
    }

    pub async fn counts(&self) -> Counts {
        counts(&mut self.open().await).await
    }

    pub async fn rows(&self, sql: &str) -> Vec<Value> {
        rows(&mut self.open().await, sql).await
    }
}

pub async fn open(db: &std::path::Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(db)
        .busy_timeout(std::time::Duration::from_secs(30))
        .disable_statement_logging()
        .connect()
        .await
        .unwrap()
}

pub async fn counts(conn: &mut SqliteConnection) -> Counts {
    let mut all = Counts::new();
    for table in TABLES {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        all.insert(table, sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *conn).await.unwrap());
    }
    all
}

/// The rows of a query as JSON objects; bytes as text where they are text, else in hex.
pub async fn rows(conn: &mut SqliteConnection, sql: &str) -> Vec<Value> {
    let found = sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_all(conn).await.unwrap();
    let value = |row: &sqlx::sqlite::SqliteRow, i: usize| {
        let raw = row.try_get_raw(i).unwrap();
        if raw.is_null() {
            return Value::Null;
        }
        match raw.type_info().name() {
            "INTEGER" | "BIGINT" => json!(row.get::<i64, _>(i)),
            "BLOB" => {
                let bytes = row.get::<Vec<u8>, _>(i);
                String::from_utf8(bytes).map_or_else(|e| json!(hex::encode(e.into_bytes())), Value::String)
            }
            _ => json!(row.get::<String, _>(i)),
        }
    };
    found.iter().map(|row| Value::Object(row.columns().iter().map(|c| (c.name().to_owned(), value(row, c.ordinal()))).collect())).collect()
}

/// What changed, and by how much.
pub fn delta(before: &Counts, after: &Counts) -> BTreeMap<&'static str, i64> {
    after.iter().map(|(table, n)| (*table, n - before[table])).filter(|(_, n)| *n != 0).collect()
}
