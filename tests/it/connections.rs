//! What strangers and agents may take: connections, files that nobody reads, large files that pass through.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use byoa_gateway::config::Config;
use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::support::fakes::FakeProvider;
use super::support::gateway::TestGateway;
use super::support::process::Home;
use super::support::raw::{Request, once};
use super::support::world;

const NOW: i64 = 1_790_000_100;

/// Nothing is measured by it: what does not come at all has not come by then.
const GUARD: Duration = Duration::from_secs(60);

/// A connection from an address of loopback.
async fn from(address: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}

/// What is said on a connection until its end.
async fn said(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    let read = tokio::time::timeout(GUARD, stream.read_to_end(&mut said)).await.expect("the connection does not end");
    read.unwrap();
    String::from_utf8(said).unwrap()
}

/// The first line of the answer to a request for what is not there.
async fn asked(address: &str, to: SocketAddr) -> String {
    let mut stream = from(address, to).await;
    let _ = stream.write_all(b"GET /none HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await;
    let mut said = Vec::new();
    // Whoever is turned away with something unread hears of a reset instead of an end.
    let _ = tokio::time::timeout(GUARD, stream.read_to_end(&mut said)).await.expect("neither an answer nor an end");
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}

/// Asks until the answer is another one than `but`.
async fn until_not(but: &str, address: &str, to: SocketAddr) -> String {
    let looking = async {
        loop {
            let line = asked(address, to).await;
            if line != but && !line.is_empty() {
                return line;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, looking).await.expect("the answer stays the same")
}

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found";
const FULL: &str = "HTTP/1.1 503 Service Unavailable";

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_so_many_connections_and_others_are_served() {
    let gateway = TestGateway::start_with(NOW, |config| config.limits.connections_per_address_max = 3).await;
    // Connections are taken in the order in which they come.
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(from("127.0.0.1", gateway.public).await);
    }
    let told = said(from("127.0.0.1", gateway.public).await).await;
    assert!(told.starts_with(FULL) && told.contains("retry-after: 5\r\n") && told.ends_with("\r\n\r\nrefused\n"), "{told}");
    assert_eq!(asked("127.0.0.2", gateway.public).await, NOT_FOUND);
    assert_eq!(gateway.metrics().await["byoa_connections_refused_total{reason=\"address\"}"], 1.0);
    drop(idle.pop());
    assert_eq!(until_not(FULL, "127.0.0.1", gateway.public).await, NOT_FOUND);
    drop(idle);
    gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_addresses_are_not_counted() {
    let gateway = TestGateway::start_with(NOW, |config| {
        config.limits.connections_per_address_max = 1;
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
    })
    .await;
    let idle = [from("127.0.0.1", gateway.public).await, from("127.0.0.1", gateway.public).await];
    assert_eq!(asked("127.0.0.1", gateway.public).await, NOT_FOUND);
    drop(idle);
    gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_listener_says_so_and_operators_are_served() {
    let gateway = TestGateway::start_with(NOW, |config| config.limits.connections_max = 2).await;
    let mut idle = vec![from("127.0.0.1", gateway.public).await, from("127.0.0.2", gateway.public).await];
    assert!(said(from("127.0.0.3", gateway.public).await).await.starts_with(FULL));
    assert_eq!(once(gateway.operator, &Request::get("/healthz")).await.unwrap().status, 200);
    assert_eq!(gateway.metrics().await["byoa_connections_refused_total{reason=\"listener\"}"], 1.0);
    drop(idle.pop());
    assert_eq!(until_not(FULL, "127.0.0.3", gateway.public).await, NOT_FOUND);
    drop(idle);
    gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_does_not_live_for_ever() {
    let gateway = TestGateway::start_with(NOW, |config| {
        config.limits.connection_life_ms = 200;
        config.limits.header_timeout_ms = 600_000;
    })
    .await;
    assert_eq!(said(from("127.0.0.1", gateway.public).await).await, "");
    // Nor does one that says something now and then.
    let mut stream = from("127.0.0.1", gateway.public).await;
    let talking = async {
        let mut buffer = [0u8; 1024];
        while stream.write_all(b"GET /none HTTP/1.1\r\nhost: a\r\n\r\n").await.is_ok() {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(GUARD, talking).await.expect("it lives for ever");
    gateway.drain().await;
}

/// Telegram with acme's own app, and a provider that serves what it is told.
async fn telegram(tweak: impl FnOnce(&mut Config)) -> (TestGateway, FakeProvider) {
    let provider = FakeProvider::start().await;
    let base = provider.api_base();
    let gateway = TestGateway::start_with(NOW, |config| {
        config.providers.telegram.api_base = base;
        tweak(config);
    })
    .await;
    let mut document = world::document(ProviderKind::Telegram);
    document["installations"][1]["credential"] = json!({"value": TOKEN});
    gateway.applied(&document).await;
    (gateway, provider)
}

const TOKEN: &str = "7000000002:AAcanary-4f1d0c9e8b7a6d5c4b3a29";
const AGENT: &str = "agt_acme_3kd9slw02mfj47";

fn named(request: Request) -> Request {
    request.header("byoa-installation", "telegram-acme")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_ends_its_connection() {
    let (gateway, provider) = telegram(|config| {
        config.limits.write_timeout_ms = 300;
        config.limits.agent_calls_max = 1;
    })
    .await;
    // More than the kernel takes in for somebody who does not read.
    provider.on(&format!("/file/bot{TOKEN}/"), 200, &[], vec![7u8; 40 * 1024 * 1024]);
    let mut stream = from("127.0.0.1", gateway.public).await;
    let file = named(Request::get(&format!("/sdk/telegram/file/bot{AGENT}/documents/file_1.bin")));
    stream.write_all(&file.bytes()).await.unwrap();
    provider.next().await;
    let call = named(Request::post(&format!("/sdk/telegram/bot{AGENT}/getMe"), Vec::new()));
    provider.answers(200, json!({"ok": true, "result": {"id": 7_000_000_002_i64, "is_bot": true, "first_name": "x"}}));
    // The agent's only call is under way until its connection ends.
    let waiting = async {
        while gateway.send(&call).await.status == 429 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(GUARD, waiting).await.expect("the call of whoever does not read goes on for ever");
    assert_eq!(gateway.send(&call).await.status, 200);
    let mut read = Vec::new();
    let _ = stream.read_to_end(&mut read).await;
    assert!(read.len() < 40 * 1024 * 1024, "the file was cut off");
    gateway.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_passes_through_whole_in_both_directions() {
    let (gateway, provider) = telegram(|config| {
        // Neither would find room in memory.
        config.limits.proved_bytes_max = 1024 * 1024;
        config.limits.api_body_bytes_max = 128 * 1024;
    })
    .await;
    let file: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    provider.on(&format!("/file/bot{TOKEN}/"), 200, &[("content-type", "application/octet-stream")], file.clone());
    let got = gateway.send(&named(Request::get(&format!("/sdk/telegram/file/bot{AGENT}/documents/file_1.bin")))).await;
    assert_eq!((got.status, got.header("content-length"), got.body == file), (200, Some("3000000"), true));
    provider.next().await;

    let sent = json!({"message_id": 5, "date": 1, "chat": {"id": -1001, "type": "supergroup"}});
    provider.answers(200, json!({"ok": true, "result": sent}));
    let part = |name: &str, more: &str, body: &[u8]| {
        [format!("--XX\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n").as_bytes(), body, b"\r\n"].concat()
    };
    // The file before the arguments that the policies are asked about.
    let parts = [part("document", "; filename=\"f.bin\"", &file), part("chat_id", "", b"5100000001"), b"--XX--\r\n".to_vec()].concat();
    let post = named(Request::post(&format!("/sdk/telegram/bot{AGENT}/sendDocument"), parts));
    let answer = gateway.send(&post.header("content-type", "multipart/form-data; boundary=XX")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = provider.next().await;
    assert_eq!(seen.headers["content-length"], seen.body.len().to_string(), "its length is told, not found out");
    assert!(seen.headers["content-type"].to_str().unwrap().starts_with("multipart/form-data; boundary="));
    let at = seen.body.windows(16).position(|window| window == &file[..16]).expect("the file");
    assert_eq!(seen.body[at..at + file.len()], file);
    assert!(String::from_utf8_lossy(&seen.body[at + file.len()..]).contains("name=\"chat_id\"\r\n\r\n5100000001\r\n"));
    let digests = gateway.kept.rows("SELECT digest FROM sends WHERE state = 'sent'").await;
    assert_eq!(digests[0]["digest"].as_str().map(str::len), Some(32), "{digests:?}");
    gateway.drain().await;
}

/// A gateway in a process with so many descriptors.
fn serving(home: &Home, soft: u32, hard: u32) -> super::support::process::Serving {
    let limits = format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"");
    home.serve_with(|command| {
        let (program, arguments) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned).collect::<Vec<_>>());
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(limits).arg(program).args(arguments).current_dir(home.dir.path());
        shell.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        shell.env("BYOA_OPERATOR_TOKEN", super::support::gateway::OPERATOR_TOKEN);
        shell.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        *command = shell;
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_listener_answers_where_descriptors_are_few() {
    let home = Home::new();
    let mut settings = home.settings();
    settings["limits"] = json!({"connections_per_address_max": 100_000, "header_timeout_ms": 600_000});
    home.config(&settings);
    // The soft limit alone would be too low to start with.
    let serving = serving(&home, 40, 420);
    let open = std::fs::read_to_string(format!("/proc/{}/limits", serving.child.id())).unwrap();
    let line = open.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["420", "420"], "the soft limit is the hard one");
    // 420 less 256 and 64 for deliveries, halved.
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(from("127.0.0.1", serving.public).await);
    }
    assert_eq!(until_not("", "127.0.0.2", serving.public).await, FULL);
    for _ in 0..10 {
        assert_eq!(once(serving.operator, &Request::get("/healthz")).await.unwrap().status, 200);
    }
    let ready: Value = once(serving.operator, &Request::get("/readyz")).await.unwrap().json();
    assert_eq!(ready["status"], "ready");
    drop(idle);
    assert_eq!(until_not(FULL, "127.0.0.2", serving.public).await, NOT_FOUND, "it goes on when they are gone");
}
