//! Files for agents: a ticket in place of an address, bytes in place of a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::providers::{self, Sample};
use serde_json::{Value, json};

use super::support::fakes::{FakeAgent, FakeProvider};
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response};
use super::support::sign;
use super::support::world::{self, App};

const NOW: i64 = 1_790_000_100;
const HOUR: i64 = 3_600_000;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";

/// Acme's own app, its agent on loopback, and the provider beside them.
struct Files {
    gateway: TestGateway,
    provider: FakeProvider,
    agent: FakeAgent,
    app: App,
    token: String,
}

fn token_of(app: &App) -> String {
    match app.provider {
        ProviderKind::Slack => "xoxb-canary-4f1d0c".into(),
        ProviderKind::Telegram => format!("{}:AAcanary-4f1d0c9e8b7a6d5c4b3a29", app.account),
        ProviderKind::WhatsApp => "EAAcanary4f1d0c".into(),
    }
}

fn bearer(org: &str) -> String {
    format!("Bearer agt_{org}_3kd9slw02mfj47")
}

impl Files {
    async fn start(kind: ProviderKind, tweak: impl FnOnce(&mut byoa_gateway::config::Config)) -> Self {
        let (provider, agent) = (FakeProvider::start().await, FakeAgent::start().await);
        let base = provider.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            for place in [&mut config.providers.slack, &mut config.providers.telegram, &mut config.providers.whatsapp] {
                place.api_base = base.clone();
            }
            config.delivery.concurrency = 1;
            config.public_url = Some("https://gw.example".into());
            tweak(config);
        })
        .await;
        let app = world::acme(kind);
        let token = token_of(&app);
        let mut document = world::document(kind);
        document["agents"][0]["endpoint"] = json!(agent.endpoint());
        document["installations"][1]["credential"] = json!({"value": token});
        document["installations"][2]["credential"] = json!({"value": token_of(&world::globex(kind))});
        // A second agent of the same org, which may speak through the same installation.
        let mut second = document["agents"][0].clone();
        second["id"] = json!("acme-second");
        second["token"] = json!({"value": "agt_second_3kd9slw02mfj47"});
        document["agents"].as_array_mut().unwrap().push(second);
        gateway.applied(&document).await;
        Self { gateway, provider, agent, app, token }
    }

    /// The ticket of a file that somebody sent, as the agent was told.
    async fn ticket(&self) -> String {
        let kind = self.app.provider;
        let account = self.app.external();
        let now = self.gateway.clock.now();
        let sample = Sample {
            kind: "message",
            account: &account,
            app_id: Some(self.app.app_id),
            conversation: "5100000001",
            text: "look",
            nonce: 7,
            now: Timestamp::from_secs(NOW),
        };
        let (body, media_type) = providers::of(kind).sample(&sample).unwrap();
        let mut body: Value = serde_json::from_slice(&body).unwrap();
        match kind {
            ProviderKind::Slack => body["event"]["files"] = json!([{"id": "F0FILE1", "mimetype": "image/png", "name": "a.png"}]),
            ProviderKind::Telegram => body["message"]["photo"] = json!([{"file_id": "AgACfile-1", "width": 1, "height": 1}]),
            ProviderKind::WhatsApp => {
                let message = &mut body["entry"][0]["changes"][0]["value"]["messages"][0];
                message["type"] = json!("image");
                message["image"] = json!({"id": "9041", "mime_type": "image/png"});
            }
        }
        let body = serde_json::to_vec(&body).unwrap();
        let signed = sign(kind, &body, self.app.secret, now);
        let request = Request::post(&self.app.path(), body).header("content-type", media_type).headers(signed);
        assert_eq!(self.gateway.send(&request).await.status, 200);
        let event = self.agent.next().await.json();
        let url = event["data"]["attachments"][0]["url"].as_str().unwrap().to_owned();
        assert!(!event.to_string().contains("canary"));
        url.strip_prefix("https://gw.example/v1/media/").unwrap().to_owned()
    }

    async fn fetch(&self, ticket: &str, authorization: &str) -> Response {
        self.gateway.send(&Request::get(&format!("/v1/media/{ticket}")).header("authorization", authorization)).await
    }

    /// Lets the provider say that the file is at `url`; Telegram names no host, so there it is a path.
    fn located(&self, url: &str) {
        match self.app.provider {
            ProviderKind::Slack => {
                let answer = json!({"ok": true, "file": {"id": "F0FILE1", "url_private_download": url}});
                self.provider.on("/files.info", 200, &[], answer.to_string());
            }
            ProviderKind::Telegram => {
                let answer = json!({"ok": true, "result": {"file_id": "AgACfile-1", "file_path": url}});
                self.provider.on(&format!("/bot{}/getFile", self.token), 200, &[], answer.to_string());
            }
            ProviderKind::WhatsApp => self.provider.on("/9041", 200, &[], json!({"url": url, "id": "9041"}).to_string()),
        }
    }

    /// Where the file is, at the provider's own host.
    fn at_home(&self) -> String {
        match self.app.provider {
            ProviderKind::Telegram => "photos/file_1.png".into(),
            _ => format!("{}files/1", self.provider.api_base()),
        }
    }

    fn path_of_file(&self) -> String {
        match self.app.provider {
            ProviderKind::Telegram => format!("/file/bot{}/photos/file_1.png", self.token),
            _ => "/files/1".into(),
        }
    }

    async fn audit(&self) -> Vec<Value> {
        let page = self.gateway.operate("GET", "/v1/audit?limit=200", &Value::Null).await.json();
        page["items"].as_array().unwrap().iter().filter(|l| l["action"] == "media.fetch").cloned().collect()
    }
}

/// What does not change from one refusal to the next: everything but the request's id.
fn said(answer: &Response) -> (u16, Value) {
    let mut body = answer.json();
    body.as_object_mut().unwrap().remove("request_id");
    (answer.status, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_gets_the_bytes_and_the_provider_gets_the_token() {
    for kind in ProviderKind::ALL {
        let files = Files::start(kind, |_| {}).await;
        let ticket = files.ticket().await;
        files.located(&files.at_home());
        let headers = [("content-type", "image/PNG; charset=x"), ("set-cookie", "canary=1"), ("x-canary", "1")];
        files.provider.on(&files.path_of_file(), 200, &headers, PNG);
        let answer = files.fetch(&ticket, &bearer("acme")).await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, PNG), "{kind}: {}", answer.text());
        for (name, value) in [
            ("content-type", Some("image/png")),
            ("content-length", Some("18")),
            ("content-disposition", Some("attachment")),
            ("x-content-type-options", Some("nosniff")),
            ("content-security-policy", Some("default-src 'none'; sandbox")),
            ("cache-control", Some("no-store")),
            ("set-cookie", None),
            ("x-canary", None),
        ] {
            assert_eq!(answer.header(name), value, "{kind}: {name}");
        }
        let (lookup, file) = (files.provider.next().await, files.provider.next().await);
        assert_eq!((lookup.method.as_str(), file.method.as_str(), file.path), ("GET", "GET", files.path_of_file()));
        if kind == ProviderKind::Telegram {
            assert_eq!(lookup.path, format!("/bot{}/getFile?file_id=AgACfile-1", files.token));
        } else {
            for seen in [&lookup.headers, &file.headers] {
                assert_eq!(seen["authorization"], format!("Bearer {}", files.token).as_str(), "{kind}");
            }
        }
        let lines = files.audit().await;
        assert_eq!((lines.len(), &lines[0]["outcome"], &lines[0]["actor"]), (1, &json!("done"), &json!("agent:acme-agent")), "{kind}");
        assert!(!lines[0].to_string().contains("canary") && lines[0].to_string().contains("crd_"), "{}", lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_is_not_the_callers_now_is_not_found_whatever_is_wrong_with_it() {
    for kind in ProviderKind::ALL {
        let files = Files::start(kind, |_| {}).await;
        let ticket = files.ticket().await;
        files.located(&files.at_home());
        let unknown = said(&files.fetch("nothing-like-a-ticket", &bearer("acme")).await);
        assert_eq!(unknown.0, 404);
        let mut flipped = ticket.clone().into_bytes();
        let middle = flipped.len() / 2;
        flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(flipped).unwrap();
        let (acme, globex) = (bearer("acme"), bearer("globex"));
        // Made out to somebody else, under the old MAC.
        let bytes = URL_SAFE_NO_PAD.decode(&ticket).unwrap();
        let (mac, names) = bytes.split_at(32);
        let names = String::from_utf8(names.to_vec()).unwrap().replace("acme-agent", "globex-agent");
        let readdressed = URL_SAFE_NO_PAD.encode([mac, names.as_bytes()].concat());
        for (ticket, who, what) in [
            (&flipped, acme.as_str(), "changed"),
            (&readdressed, globex.as_str(), "made out to another agent"),
            (&ticket, globex.as_str(), "another org's agent"),
            (&ticket, "Bearer agt_second_3kd9slw02mfj47", "another agent of the same org"),
        ] {
            assert_eq!(said(&files.fetch(ticket, who).await), unknown, "{kind}: {what}");
        }
        for nobody in ["", "Bearer agt_nobody", &format!("Bearer {}", files.token)] {
            assert_eq!(files.fetch(&ticket, nobody).await.status, 401, "{kind}");
        }
        files.gateway.clock.advance_ms(24 * HOUR);
        assert_eq!(files.gateway.kept.rows("SELECT 1 FROM audit WHERE action = 'media.fetch'").await.len(), 0);
        files.provider.on(&files.path_of_file(), 200, &[], PNG);
        assert_eq!(files.fetch(&ticket, &acme).await.status, 200, "{kind}: its last moment");
        files.gateway.clock.advance_ms(1);
        assert_eq!(said(&files.fetch(&ticket, &acme).await), unknown, "{kind}: expired");
        files.gateway.clock.advance_ms(-1);
        for status in ["suspended", "pending", "revoked"] {
            let mut document = world::document(kind);
            document["installations"] = json!([document["installations"][1]]);
            document["installations"][0]["status"] = json!(status);
            files.gateway.applied(&json!({"installations": document["installations"]})).await;
            assert_eq!(said(&files.fetch(&ticket, &acme).await), unknown, "{kind}: {status}");
        }
        while files.provider.unseen().is_some() {}
        assert_eq!(files.fetch(&ticket, &acme).await.status, 404);
        assert!(files.provider.unseen().is_none(), "{kind}: nobody was asked");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_goes_to_the_providers_own_hosts_alone() {
    let stranger = FakeProvider::start().await;
    for kind in ProviderKind::ALL {
        let files = Files::start(kind, |_| {}).await;
        let ticket = files.ticket().await;
        let elsewhere = match kind {
            // Telegram names a path; what would leave its folder is no file.
            ProviderKind::Telegram => vec!["../../x", "a/../../../x", "/etc/passwd", "a?b", "a#b", "", "http://127.0.0.1/x"],
            _ => vec!["files/1", "http://files.slack.com/x", "https://files.slack.com.example/x", "ftp://127.0.0.1/x"],
        };
        let mut elsewhere: Vec<String> = elsewhere.into_iter().map(str::to_owned).collect();
        if kind != ProviderKind::Telegram {
            elsewhere.push(format!("{}files/1", stranger.api_base()));
        }
        for url in elsewhere {
            files.located(&url);
            let answer = files.fetch(&ticket, &bearer("acme")).await;
            let code = if kind == ProviderKind::Telegram { "egress.provider_rejected" } else { "egress.media_host_forbidden" };
            assert_eq!((answer.status, &answer.json()["code"]), (502, &json!(code)), "{kind} {url}");
            files.provider.next().await;
            assert!(files.provider.unseen().is_none() && stranger.unseen().is_none(), "{kind} {url}");
        }
        // A redirect is not followed, by either step.
        let away = format!("{}files/1", stranger.api_base());
        files.located(&files.at_home());
        files.provider.on(&files.path_of_file(), 302, &[("location", &away)], "");
        let answer = files.fetch(&ticket, &bearer("acme")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("egress.provider_redirect")), "{kind}");
        files.provider.on("/", 302, &[("location", &away)], "");
        let answer = files.fetch(&ticket, &bearer("acme")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("egress.provider_redirect")), "{kind}");
        assert!(stranger.unseen().is_none(), "{kind}");
        for line in files.audit().await {
            assert!(!line.to_string().contains("canary"), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_shown_by_browsers_is_bytes_and_what_is_too_large_is_refused() {
    let files = Files::start(ProviderKind::Slack, |config| config.limits.media_bytes_max = 64).await;
    let ticket = files.ticket().await;
    files.located(&files.at_home());
    for (media_type, passed_on) in [
        ("text/html", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("audio/ogg; codecs=opus", "audio/ogg"),
    ] {
        files.provider.on("/files/1", 200, &[("content-type", media_type)], "x");
        let answer = files.fetch(&ticket, &bearer("acme")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(passed_on)), "{media_type}");
    }
    files.provider.on("/files/1", 200, &[], vec![b'x'; 65]);
    let answer = files.fetch(&ticket, &bearer("acme")).await;
    assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("egress.media_too_large")));
    for (status, code, seen) in
        [(404, "egress.provider_rejected", 502), (429, "egress.rate_limited", 429), (503, "egress.provider_unavailable", 502)]
    {
        files.provider.on("/files/1", status, &[], "xoxb-canary in the page");
        let answer = files.fetch(&ticket, &bearer("acme")).await;
        assert_eq!((answer.status, &answer.json()["code"]), (seen, &json!(code)));
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    // A token that the provider calls dead degrades the installation here as in a send.
    files.provider.on("/files.info", 200, &[], json!({"ok": false, "error": "token_revoked"}).to_string());
    let answer = files.fetch(&ticket, &bearer("acme")).await;
    assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("egress.credential_invalid")));
    let answer = files.fetch(&ticket, &bearer("acme")).await;
    assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("egress.credential_invalid")));
    let shown = files.gateway.operate("GET", "/v1/installations/slack-acme", &Value::Null).await.json();
    assert_eq!(shown["status"], "degraded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_stays_its_orgs_when_another_org_takes_the_agents_name() {
    let files = Files::start(ProviderKind::Slack, |_| {}).await;
    let ticket = files.ticket().await;
    files.located(&files.at_home());
    files.provider.on(&files.path_of_file(), 200, &[], PNG);
    for path in ["bindings/slack-acme", "bindings/slack-platform", "agents/acme-agent"] {
        let removed = files.gateway.operate("DELETE", &format!("/v1/{path}"), &Value::Null).await;
        assert_eq!(removed.status, 204, "{path}: {}", removed.text());
    }
    let mut agent = world::document(ProviderKind::Slack)["agents"][0].clone();
    agent["org"] = json!("globex");
    files.gateway.applied(&json!({"agents": [agent]})).await;
    let unknown = said(&files.fetch("nothing-like-a-ticket", &bearer("acme")).await);
    assert_eq!(said(&files.fetch(&ticket, &bearer("acme")).await), unknown);
    assert!(files.provider.unseen().is_none(), "nobody was asked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_waits_for_the_rollout_like_everything_of_a_tenants_app() {
    let files = Files::start(ProviderKind::Slack, |_| {}).await;
    let ticket = files.ticket().await;
    files.located(&files.at_home());
    files.provider.on(&files.path_of_file(), 200, &[], PNG);
    files.gateway.damage("UPDATE flags SET stage = 'off' WHERE name = 'slack'").await;
    let early = files.fetch(&ticket, &bearer("acme")).await;
    assert_eq!((early.status, &early.json()["code"]), (503, &json!("rollout.stage_off")), "{}", early.text());
    assert!(files.provider.unseen().is_none(), "nobody was asked");
    files.gateway.damage("UPDATE flags SET stage = 'on' WHERE name = 'slack'").await;
    assert_eq!(files.fetch(&ticket, &bearer("acme")).await.status, 200);
}
