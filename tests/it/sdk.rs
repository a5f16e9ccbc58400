//! Other people's libraries judge what we sign: what an agent's official library refuses is not signed, whatever our own
//! tests say. They are Python packages in `target/tools/python`; a missing one is a failure.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use byoa_gateway::app::{EnvSecrets, Gateway};
use byoa_gateway::config::Config;
use byoa_gateway::domain::clock::{Clock, Timestamp};
use byoa_gateway::domain::installation::{ExternalAccount, ProviderKind};
use byoa_gateway::domain::secret::Secret;
use byoa_gateway::providers::{self, Sample};
use byoa_gateway::transport::Transport;
use byoa_gateway::wire::{WireRequest, WireResponse};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const PACKAGES: &str = "target/tools/python";
const INSTALL: &str = "python3 -m pip install --target target/tools/python -r tests/sdk/requirements.txt";

/// What a script says about a request.
fn judge(script: &str, said: &Value) -> String {
    let mut child = Command::new("python3")
        .arg(script)
        .env("PYTHONPATH", PACKAGES)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3 is needed: `bash .ci/test` installs it");
    child.stdin.take().unwrap().write_all(said.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("ModuleNotFoundError"), "a Python package is missing; run\n  {INSTALL}\n{error}");
    assert!(output.status.success(), "{script}: {error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn request(secret: &str, headers: &BTreeMap<String, String>, body: &[u8], now: Timestamp) -> Value {
    json!({"secret": secret, "headers": headers, "body_base64": STANDARD.encode(body), "now": now.secs()})
}

/// One request that the agent got.
struct Delivered {
    headers: BTreeMap<String, String>,
    body: Bytes,
}

/// An agent on loopback that takes everything.
async fn agent() -> (String, mpsc::UnboundedReceiver<Delivered>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tell = tell.clone();
            let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let tell = tell.clone();
                async move {
                    let (head, body) = request.into_parts();
                    let headers = head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
                    let _ = tell.send(Delivered { headers, body: body.collect().await.unwrap().to_bytes() });
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::<Bytes>::default()))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    (format!("http://{address}/events"), seen)
}

const OPERATOR: &str = "opr_6b1f0a9c3d7e58f2";
const AGENT_SECRET: &str = "whsec_SJTJJ/UqECrncrEsDIdjEXCOe4prXNWO";
const SLACK_SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

/// A gateway with one tenant's Slack app and one agent.
async fn gateway(folder: &Path, agent: &str) -> Gateway {
    let mut config = Config::default();
    config.listen.public = ([127, 0, 0, 1], 0).into();
    config.listen.operator = ([127, 0, 0, 1], 0).into();
    config.store.url = format!("sqlite:{}", folder.join("data/byoa.db").display());
    config.keys.file = folder.join("master.keys");
    config.operators.token_file = folder.join("operator.token");
    config.egress.allow_private_agents = true;
    config.rollout.initial.insert(ProviderKind::Slack, byoa_gateway::domain::rollout::RolloutStage::On);
    let secrets = EnvSecrets { master_keys: None, operator_token: Some(OPERATOR.into()) };
    // The machine's clock: the library under test compares with it.
    let gateway = Gateway::start(config, secrets, Clock::system()).await.unwrap();
    let resources = json!({
        "orgs": [{"id": "acme"}],
        "agents": [{"id": "support", "org": "acme", "endpoint": agent, "signing_secret": {"value": AGENT_SECRET}}],
        "profiles": [{"id": "acme-slack-app", "provider": "slack", "owner": "acme", "app_id": "A0ACME", "ingress_id": "acme-slack-7f3k9d2m",
            "signing_secret": {"value": SLACK_SECRET}}],
        "installations": [{"id": "acme-slack", "profile": "acme-slack-app", "org": "acme", "account": {"team_id": "T0ACME"},
            "credential": {"value": "xoxb-1-acme"}}],
        "bindings": [{"id": "acme-support", "org": "acme", "installation": "acme-slack", "agent": "support"}],
    });
    let answer = operate(&gateway, "/v1/apply", &resources).await;
    assert_eq!(answer["items"].as_array().map(Vec::len), Some(5), "{answer}");
    gateway
}

async fn post(url: String, headers: Vec<(&'static str, Secret)>, body: Bytes) -> WireResponse {
    let request = WireRequest { method: http::Method::POST, url: Secret::new(url), headers, body: body.into() };
    Transport::providers().unwrap().send(request, 10_000, 1024 * 1024).await.unwrap()
}

async fn operate(gateway: &Gateway, path: &str, body: &Value) -> Value {
    let token = Secret::new(format!("Bearer {OPERATOR}"));
    let headers = vec![("authorization", token), ("content-type", Secret::new("application/json".into()))];
    let answer = post(format!("http://{}{path}", gateway.operator), headers, body.to_string().into()).await;
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_library_verifies_a_delivery() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, mut seen) = agent().await;
    let gateway = gateway(folder.path(), &endpoint).await;

    let (slack, now) = (providers::of(ProviderKind::Slack), Clock::system().now());
    let account = ExternalAccount::Slack { team_id: Some("T0ACME".into()), enterprise_id: None };
    let text = "hallo, wörld \u{1F44B}";
    let sample = Sample { kind: "message", account: &account, app_id: Some("A0ACME"), conversation: "C0HELP", text, nonce: 7, now };
    let (body, media_type) = slack.sample(&sample).unwrap();
    let mut headers: BTreeMap<String, String> =
        slack.sign(&body, &Secret::new(SLACK_SECRET.into()), now).into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    headers.insert("content-type".into(), media_type.into());
    let wire = headers.iter().map(|(n, v)| (&*n.clone().leak(), Secret::new(v.clone()))).collect();
    let answer = post(format!("http://{}/webhooks/slack/acme-slack-7f3k9d2m", gateway.public), wire, body.clone().into()).await;
    assert_eq!(answer.status, 200);

    // What the sample is signed with is what Slack would sign it with.
    assert_eq!(judge("tests/sdk/verify_slack.py", &request(SLACK_SECRET, &headers, &body, now)), "verified");

    let delivered = tokio::time::timeout(Duration::from_secs(20), seen.recv()).await.expect("a delivery").unwrap();
    let script = "tests/sdk/verify_standardwebhooks.py";
    let said = request(AGENT_SECRET, &delivered.headers, &delivered.body, now);
    assert_eq!(judge(script, &said), format!("verified {}", delivered.headers["webhook-id"]));

    // The judge does judge.
    let mut longer = delivered.body.to_vec();
    longer.push(b' ');
    assert!(judge(script, &request(AGENT_SECRET, &delivered.headers, &longer, now)).starts_with("refused"));
    let other = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert!(judge(script, &request(other, &delivered.headers, &delivered.body, now)).starts_with("refused"));
    assert!(gateway.drain().await);
}

#[test]
fn slack_s_own_verifier_takes_what_we_sign() {
    let slack = providers::of(ProviderKind::Slack);
    let secret = Secret::new(SLACK_SECRET.into());
    let now = Timestamp::from_secs(1_790_000_000);
    let script = "tests/sdk/verify_slack.py";
    for body in ["{}", "", "token=x&command=%2Fhelp&text=gr%C3%BC%C3%9Fe", "{\"text\":\"h\u{e9}llo \u{1F44B}\"}"] {
        let headers: BTreeMap<String, String> =
            slack.sign(body.as_bytes(), &secret, now).into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        let said = |body: &str, now| judge(script, &request(SLACK_SECRET, &headers, body.as_bytes(), now));
        assert_eq!(said(body, now), "verified", "{body}");
        assert_eq!(said(&format!("{body} "), now), "refused");
        assert_eq!(said(body, now.plus_ms(301_000)), "refused", "five minutes are Slack's window too");
    }
}
