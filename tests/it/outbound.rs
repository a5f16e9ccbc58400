//! Where a send may go, with what, and how often: fallback, other tenants' names, hosts, hung providers, repeats, texts that
//! would be more than text.

use byoa_gateway::domain::installation::ProviderKind;
use serde_json::{Value, json};

use super::support::fakes::FakeProvider;
use super::support::gateway::TestGateway;
use super::support::raw::{Request, Response, once};
use super::support::world;

const NOW: i64 = 1_790_000_100;
const ACME: &str = "agt_acme_3kd9slw02mfj47";
const GLOBEX: &str = "agt_globex_3kd9slw02mfj47";

struct Bench {
    gateway: TestGateway,
    api: FakeProvider,
    document: Value,
}

/// The token of an installation of the world, as its provider would give one out.
fn token_of(installation: &Value) -> String {
    let bot = installation["account"]["bot_id"].as_str().map(|b| format!("{b}:")).unwrap_or_default();
    format!("{bot}canary-{}-credential", installation["id"].as_str().unwrap())
}

impl Bench {
    async fn start(kind: ProviderKind, tweak: impl FnOnce(&mut Value)) -> Self {
        Self::start_with(kind, |_| {}, tweak).await
    }

    /// One provider's world, every installation with a credential, and what `tweak` makes of it.
    async fn start_with(
        kind: ProviderKind,
        settings: impl FnOnce(&mut byoa_gateway::config::Config),
        tweak: impl FnOnce(&mut Value),
    ) -> Self {
        let api = FakeProvider::start().await;
        api.answers(200, json!({"ok": true, "ts": "1.2", "result": {"message_id": 5}, "messages": [{"id": "wamid.1"}]}));
        let base = api.api_base();
        let gateway = TestGateway::start_with(NOW, |config| {
            for place in [&mut config.providers.slack, &mut config.providers.telegram, &mut config.providers.whatsapp] {
                place.api_base = base.clone();
            }
            settings(config);
        })
        .await;
        let mut document = world::document(kind);
        for installation in document["installations"].as_array_mut().unwrap() {
            installation["credential"] = json!({"value": token_of(installation)});
        }
        tweak(&mut document);
        gateway.applied(&document).await;
        Self { gateway, api, document }
    }

    async fn post(&self, token: &str, key: &str, body: &Value) -> Response {
        let request = Request::post("/v1/messages", serde_json::to_vec(body).unwrap()).json();
        let request = request.header("authorization", format!("Bearer {token}")).header("idempotency-key", key);
        once(self.gateway.public, &request).await.unwrap()
    }

    /// What the provider got and nobody has looked at.
    fn calls(&self) -> usize {
        std::iter::from_fn(|| self.api.unseen()).count()
    }

    async fn audit(&self, action: &str) -> Vec<Value> {
        let page = self.gateway.operate("GET", "/v1/audit?limit=200", &Value::Null).await.json();
        page["items"].as_array().unwrap().iter().filter(|l| l["action"] == action).cloned().collect()
    }
}

fn hello(installation: &str) -> Value {
    let conversation = if installation.starts_with("slack") { "C424242" } else { "424242" };
    json!({"installation": installation, "conversation": conversation, "text": "hi"})
}

/// Everything that fallback needs, and acme's own installation without a credential.
fn open(document: &mut Value) {
    document["orgs"][0]["fallback_opt_in"] = json!(ProviderKind::ALL);
    document["bindings"][0]["allow_platform_fallback"] = json!(true);
    document["installations"][1].as_object_mut().unwrap().remove("credential");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_platform_sends_instead_is_said_and_kept() {
    for kind in ProviderKind::ALL {
        let bench = Bench::start(kind, open).await;
        let mut message = hello(&format!("{kind}-acme"));
        let alone = bench.post(ACME, "k0", &message).await;
        assert_eq!((alone.status, &alone.json()["code"], bench.calls()), (403, &json!("credentials.absent"), 0), "{kind}");
        message["allow_fallback"] = json!(true);
        let answer = bench.post(ACME, "k1", &message).await.json();
        let platform = format!("{kind}-platform");
        assert_eq!(
            (&answer["status"], &answer["installation"], &answer["credential"]["owner"], &answer["fallback"], &answer["fallback_reason"]),
            (&json!("sent"), &json!(platform), &json!("platform"), &json!(true), &json!("credentials.absent")),
            "{kind}: {answer}"
        );
        let seen = bench.api.next().await;
        let token = token_of(&bench.document["installations"][0]);
        let shown = format!("{} {:?}", seen.path, seen.headers.get("authorization"));
        assert!(shown.contains(&token), "{kind}: the platform's own token");
        assert_eq!(bench.calls(), 0, "{kind}");
        let line = bench.audit("message.send").await[0].to_string();
        for part in
            [platform.as_str(), &format!("{kind}-acme"), "credentials.absent", "\\\"fallback\\\":true", "\\\"owner\\\":\\\"platform\\\""]
        {
            assert!(line.contains(part) || line.contains(&part.replace("\\\"", "\"")), "{kind}: {part} in {line}");
        }
        let sent = bench.gateway.operate("GET", "/v1/sends", &Value::Null).await.json()["items"][0].clone();
        assert_eq!((&sent["installation"], &sent["owner"]), (&json!(platform), &json!("platform")), "{sent}");
        let metrics = bench.gateway.metrics().await;
        let counted = metrics.keys().filter(|k| k.starts_with("byoa_sends_total") && k.contains("outcome=\"sent\"")).collect::<Vec<_>>();
        assert!(counted.len() == 1 && counted[0].contains("owner=\"platform\""), "{counted:?}");
        let asked = bench.gateway.kept.rows("SELECT v.action FROM decisions d JOIN verdicts v ON v.seq = d.verdict ORDER BY d.seq").await;
        let asked: Vec<&str> =
            asked.iter().map(|r| r["action"].as_str().unwrap()).filter(|a| !a.contains("Resources") && *a != "ReadAudit").collect();
        let first = ["SendMessage", "EnterRollout"];
        assert_eq!(asked, [&first[..], &first[..], &["UseFallback", "SendMessage", "UseCredential"]].concat(), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_state_of_the_own_credential_has_its_answer() {
    let hour = "2026-09-21T15:15:00Z";
    for (state, alone, instead) in [
        ("expired", (403, "credentials.expired"), Some("credentials.expired")),
        ("revoked", (403, "credentials.revoked"), Some("credentials.revoked")),
        ("degraded", (502, "egress.credential_invalid"), Some("egress.credential_invalid")),
        ("suspended", (403, "installation.inactive"), None),
        ("damaged", (503, "vault.secret_context"), None),
    ] {
        let bench = Bench::start(ProviderKind::Slack, |document| {
            let own = document["installations"][1].clone();
            open(document);
            document["installations"][1] = own;
            match state {
                "expired" => document["installations"][1]["credential"]["expires_at"] = json!(hour),
                "damaged" => {}
                status => document["installations"][1]["status"] = json!(status),
            }
        })
        .await;
        if state == "expired" {
            let shown = bench.gateway.operate("GET", "/v1/installations/slack-acme", &Value::Null).await.json();
            assert!(shown["credential"]["expires_at"].as_str().is_some_and(|at| at.starts_with("2026-09-21T15:15:00")), "{shown}");
            assert_eq!(bench.post(ACME, "before", &hello("slack-acme")).await.status, 200);
            bench.gateway.clock.advance_ms(3_600_000);
        }
        if state == "damaged" {
            let moved = "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE kind = 'installations' AND owner = 'slack-platform') \
                         WHERE kind = 'installations' AND owner = 'slack-acme'";
            bench.gateway.damage(moved).await;
        }
        bench.calls();
        let answer = bench.post(ACME, "alone", &hello("slack-acme")).await;
        assert_eq!((answer.status, answer.json()["code"].as_str().unwrap(), bench.calls()), (alone.0, alone.1, 0), "{state}");
        let mut message = hello("slack-acme");
        message["allow_fallback"] = json!(true);
        let answer = bench.post(ACME, "instead", &message).await;
        match instead {
            Some(reason) => {
                let body = answer.json();
                assert_eq!(
                    (answer.status, &body["installation"], &body["fallback_reason"]),
                    (200, &json!("slack-platform"), &json!(reason)),
                    "{state}"
                );
                assert_eq!(bench.calls(), 1);
            }
            None => assert_eq!((answer.status, answer.json()["code"].as_str().unwrap(), bench.calls()), (alone.0, alone.1, 0), "{state}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fallback_waits_for_the_rollout_like_everything_of_a_tenants_app() {
    let bench = Bench::start_with(ProviderKind::Slack, |config| config.rollout.initial.clear(), open).await;
    let mut message = hello("slack-acme");
    message["allow_fallback"] = json!(true);
    let answer = bench.post(ACME, "k", &message).await;
    assert_eq!((answer.status, &answer.json()["code"], bench.calls()), (503, &json!("rollout.stage_off"), 0));
}

/// What does not change from one refusal to the next: everything but the request's id.
fn said(answer: &Response) -> (u16, Vec<(String, String)>, String) {
    let body = answer.json();
    let request = body["request_id"].as_str().unwrap();
    let headers = answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
    (answer.status, headers, answer.text().replace(request, "REQUEST"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_names_are_as_unknown_as_what_does_not_exist_and_an_alarm() {
    for kind in ProviderKind::ALL {
        let bench = Bench::start(kind, |_| {}).await;
        // A session of globex, made by a message to its app.
        let app = world::globex(kind);
        let account = app.external();
        let sample = byoa_gateway::providers::Sample {
            kind: "message",
            account: &account,
            app_id: Some(app.app_id),
            conversation: "5100000001",
            text: "hi",
            nonce: 7,
            now: bench.gateway.clock.now(),
        };
        let (body, media_type) = byoa_gateway::providers::of(kind).sample(&sample).unwrap();
        let signed = super::support::sign(kind, &body, app.secret, bench.gateway.clock.now());
        let heard = bench.gateway.send(&Request::post(&app.path(), body).header("content-type", media_type).headers(signed)).await;
        assert_eq!(heard.status, 200);
        let session = bench.gateway.operate("GET", "/v1/sessions", &Value::Null).await.json()["items"][0]["id"].clone();
        let event = bench.gateway.operate("GET", "/v1/events", &Value::Null).await.json()["items"][0]["id"].clone();
        let event = event.as_str().unwrap().replace("evt_", "ses_");
        let unknown = said(&bench.post(ACME, "u0", &hello("nowhere")).await);
        assert_eq!(unknown.0, 404);
        for (n, body) in [
            json!({"session": "ses_01JZZZZZZZZZZZZZZZZZZZZZZZ", "text": "hi"}),
            json!({"session": session, "text": "hi"}),
            json!({"session": event, "text": "hi"}),
            json!({"session": session, "installation": format!("{kind}-acme"), "text": "hi"}),
            hello(&format!("{kind}-globex")),
            json!({"installation": format!("{kind}-globex"), "conversation": "1", "text": "hi", "allow_fallback": true}),
        ]
        .iter()
        .enumerate()
        {
            assert_eq!(said(&bench.post(ACME, &format!("u{}", n + 1), body).await), unknown, "{kind}: {body}");
        }
        assert_eq!(bench.calls(), 0, "{kind}");
        // The first of a kind has a line of its own, the rest is one line with its count.
        bench.gateway.store().flush_repeats(bench.gateway.clock.now()).await.unwrap();
        let lines = bench.audit("message.send").await;
        let count = |line: &Value| line["detail"]["count"].as_u64().unwrap_or(1);
        let alarms: u64 = lines.iter().filter(|line| !line["detail"]["alert"].is_null()).map(count).sum();
        assert_eq!((lines.iter().map(count).sum::<u64>(), alarms), (7, 4), "{kind}: {lines:#?}");
        assert_eq!(lines.iter().filter(|line| line["detail"]["alert"].as_str().is_some_and(|a| a.contains("another tenant's"))).count(), 1);
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        assert!(lines.iter().all(|l| l.contains("egress.not_found") && l.contains("\"acme\"")), "{kind}: {lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_that_orgs_share_speaks_for_each_in_its_own_chats_alone() {
    let bench = Bench::start(ProviderKind::Telegram, |document| {
        let mut shared = document["installations"][0].clone();
        document["installations"][0]["account"]["chats"] = json!(["-100111"]);
        shared["id"] = json!("telegram-shared");
        shared["org"] = json!("globex");
        shared["account"]["chats"] = json!(["-100222"]);
        let mut rest = shared.clone();
        rest["id"] = json!("telegram-rest");
        rest["org"] = json!("acme");
        rest["account"]["chats"] = json!([]);
        document["installations"].as_array_mut().unwrap().extend([shared, rest]);
        let binding = |id: &str, org: &str| json!({"id": id, "org": org, "installation": id, "agent": format!("{org}-agent")});
        document["bindings"].as_array_mut().unwrap().extend([binding("telegram-shared", "globex"), binding("telegram-rest", "acme")]);
    })
    .await;
    for (n, (who, installation, chat, status)) in [
        (ACME, "telegram-platform", "-100111", 200),
        (ACME, "telegram-platform", "-100222", 404),
        (ACME, "telegram-platform", "-0100222", 422),
        (ACME, "telegram-platform", "-100333", 404),
        (ACME, "telegram-platform", "@somewhere", 422),
        (GLOBEX, "telegram-shared", "-100222", 200),
        (GLOBEX, "telegram-shared", "-100111", 404),
        // Whose list is empty has what nobody lists.
        (ACME, "telegram-rest", "555", 200),
        (ACME, "telegram-rest", "-100222", 404),
        (ACME, "telegram-rest", "-0100222", 422),
        (ACME, "telegram-rest", "-100111", 404),
        (ACME, "telegram-rest", "@somewhere", 422),
        // A bot of one's own goes where it can.
        (ACME, "telegram-acme", "-100222", 200),
        (ACME, "telegram-acme", "@somewhere", 422),
    ]
    .into_iter()
    .enumerate()
    {
        let message = json!({"installation": installation, "conversation": chat, "text": "hi"});
        let answer = bench.post(who, &format!("k{n}"), &message).await;
        assert_eq!((answer.status, bench.calls()), (status, usize::from(status == 200)), "{installation} {chat}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_takes_the_token_nowhere() {
    let stranger = FakeProvider::start().await;
    for kind in ProviderKind::ALL {
        for status in [301, 302, 303, 307, 308] {
            let bench = Bench::start(kind, |_| {}).await;
            bench.api.on("/", status, &[("location", &format!("{}elsewhere", stranger.api_base()))], "");
            let answer = bench.post(ACME, "k", &hello(&format!("{kind}-acme"))).await;
            assert_eq!((answer.status, &answer.json()["code"]), (502, &json!("egress.provider_redirect")), "{kind} {status}");
            assert_eq!((bench.calls(), stranger.unseen().is_none()), (1, true), "{kind} {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_never_answers_is_not_asked_twice() {
    for kind in ProviderKind::ALL {
        let bench = Bench::start_with(kind, |config| config.limits.provider_timeout_ms = 100, |_| {}).await;
        bench.api.hangs_on("/");
        let message = hello(&format!("{kind}-acme"));
        let answer = bench.post(ACME, "k", &message).await;
        assert_eq!((answer.status, &answer.json()["code"], bench.calls()), (504, &json!("egress.outcome_unknown"), 1), "{kind}");
        let again = bench.post(ACME, "k", &message).await;
        assert_eq!((again.status, again.json(), bench.calls()), (504, answer.json(), 0), "{kind}: no automatic resend");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_under_one_key_are_one_call() {
    let bench = Bench::start(ProviderKind::Slack, |_| {}).await;
    let message = hello("slack-acme");
    let answers = futures_util::future::join_all((0..16).map(|_| bench.post(ACME, "k", &message))).await;
    let sent: Vec<&Response> = answers.iter().filter(|a| a.status == 200).collect();
    assert!(!sent.is_empty() && sent.iter().all(|a| a.json() == sent[0].json()));
    assert!(answers.iter().all(|a| a.status == 200 || a.json()["code"] == "egress.in_flight"));
    assert_eq!(bench.calls(), 1);
    // While one is under way for good, another under its key waits outside.
    bench.api.hangs_on("/");
    let slow = bench.post(ACME, "held", &message);
    tokio::pin!(slow);
    let held = async {
        loop {
            let answer = bench.post(ACME, "held", &message).await;
            if answer.status == 409 {
                return answer;
            }
        }
    };
    let answer = tokio::select! {
        _ = &mut slow => panic!("it was held"),
        _ = bench.api.next() => held.await,
    };
    assert_eq!((&answer.json()["code"], bench.calls()), (&json!("egress.in_flight"), 0));
    let other = bench.post(ACME, "held", &hello("slack-platform")).await;
    assert_eq!((other.status, &other.json()["code"]), (409, &json!("egress.idempotency_conflict")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_is_text_whatever_stands_in_it() {
    let tricks = "<!channel> <@U1> <https://evil.example|https://bank.example> &lt;!here&gt; *b* _i_ `c` <b>x</b> [a](tg://user?id=1) @everyone \u{202e}\u{0}\u{1b}[31m {{1}} \",\"channel\":\"C2\"";
    for kind in ProviderKind::ALL {
        let bench = Bench::start(kind, |_| {}).await;
        let mut message = hello(&format!("{kind}-acme"));
        message["text"] = json!(tricks);
        assert_eq!(bench.post(ACME, "k", &message).await.status, 200, "{kind}");
        let mut body = bench.api.next().await.json();
        let text = match kind {
            ProviderKind::WhatsApp => body["text"]["body"].take(),
            _ => body["text"].take(),
        };
        let text = text.as_str().unwrap();
        match kind {
            // Slack reads `<…>` as mentions, commands and links; escaped it shows what was written.
            ProviderKind::Slack => {
                assert!(!text.contains(['<', '>']), "{text}");
                assert_eq!(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"), tricks);
            }
            // Telegram formats only what a parse mode or entities tell it to; WhatsApp has no mentions in text.
            ProviderKind::Telegram | ProviderKind::WhatsApp => assert_eq!(text, tricks),
        }
        let mut names: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
        names.sort_unstable();
        insta::assert_snapshot!(format!("text_of_{kind}"), format!("{names:?} {}", serde_json::to_string(&body).unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_that_is_switched_off_ties_nobody() {
    let bench = Bench::start(ProviderKind::Slack, |document| document["bindings"][1]["enabled"] = json!(false)).await;
    let refused = bench.post(ACME, "k1", &hello("slack-acme")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("policy.no_permit")), "{}", refused.text());
    assert_eq!(bench.calls(), 0);
    let mut binding = bench.document["bindings"][1].clone();
    binding["enabled"] = json!(true);
    bench.gateway.applied(&json!({"bindings": [binding]})).await;
    assert_eq!((bench.post(ACME, "k2", &hello("slack-acme")).await.status, bench.calls()), (200, 1));
}
