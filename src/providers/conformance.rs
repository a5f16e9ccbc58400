//! One suite over all providers: the signed vectors, the recorded bodies, the made-up samples, and noise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::domain::ids::RequestId;
use crate::domain::message::AccountClaim;

pub(super) const NOW: Timestamp = Timestamp::from_secs(1_790_000_100);

pub(super) fn head(provider: ProviderKind, headers: &[(&str, &str)]) -> RequestHead {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        // Header values of the vectors are ISO-8859-1 text.
        let bytes: Vec<u8> = value.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
        map.append(HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).unwrap(), HeaderValue::from_bytes(&bytes).unwrap());
    }
    RequestHead {
        provider,
        ingress_id: "ing_test".into(),
        method: Method::POST,
        headers: map,
        query: None,
        peer: None,
        received: NOW,
        request_id: RequestId::parse("req_1").unwrap(),
    }
}

pub(super) fn secrets(texts: &[&str]) -> Option<SigningSecrets> {
    let slots = [SecretSlot::Current, SecretSlot::Previous];
    SigningSecrets::new(
        slots.iter().zip(texts).filter_map(|(slot, text)| SigningSecret::new(*slot, Secret::new((*text).to_owned()))).collect(),
    )
}

/// What a proved body of this media type parses to.
pub(super) fn parse(provider: &dyn Provider, media_type: &str, body: &[u8]) -> Result<Parsed, ReasonCode> {
    let head = head(provider.kind(), &[("content-type", media_type)]);
    provider.parse(&SignatureValid::assertion(), &head, &Bytes::copy_from_slice(body))
}

pub(super) fn parse_events(provider: &dyn Provider, media_type: &str, body: &[u8]) -> Vec<InboundEvent> {
    match parse(provider, media_type, body) {
        Ok(Parsed::Events(events)) => events,
        other => panic!("no events: {other:?}"),
    }
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

pub(super) fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(fixtures().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn fixture_json(path: &str) -> Value {
    serde_json::from_slice(&fixture(path)).unwrap()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} is no text in {value}"))
}

fn pairs(value: &Value) -> Vec<(&str, &str)> {
    value.as_array().unwrap().iter().map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap())).collect()
}

/// The verdict of authentication alone.
fn authenticate(provider: &dyn Provider, case: &Value) -> Result<SecretSlot, ReasonCode> {
    let body = base64::engine::general_purpose::STANDARD.decode(text(case, "body_base64")).unwrap();
    let values: Vec<&str> = case["secrets"]["values"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    let mut head = head(provider.kind(), &pairs(&case["headers"]));
    head.query = text(case, "path").split_once('?').map(|(_, query)| query.to_owned());
    // No secret is no candidate: the type refuses before the provider is asked.
    let secrets = secrets(&values).ok_or(ReasonCode::AuthnSecretMissing)?;
    let now = Timestamp::from_secs(case["now_unix"].as_i64().unwrap());
    let inspected = provider.inspect(&head, &secrets, now)?;
    inspected.prove(&body, &secrets).map(|proof| proof.slot())
}

#[test]
fn every_vector_is_answered_as_expected() {
    let mut wrong = Vec::new();
    for kind in ProviderKind::ALL {
        let file = fixture_json(&format!("vectors/{kind}.json"));
        let vectors = file["vectors"].as_array().unwrap();
        assert_eq!(vectors.len() as u64, file["counts"]["total"].as_u64().unwrap());
        for case in vectors {
            let answer = authenticate(of(kind), case);
            if answer.is_ok() != (text(case, "expect") == "accept") {
                wrong.push(format!("{kind}/{} ({}): {answer:?}", text(case, "name"), text(case, "level")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_previous_secret_is_told_apart() {
    for kind in ProviderKind::ALL {
        let file = fixture_json(&format!("vectors/{kind}.json"));
        let case = file["vectors"].as_array().unwrap().iter().find(|c| c["name"] == "valid_rotation_second_secret").unwrap();
        assert_eq!(authenticate(of(kind), case), Ok(SecretSlot::Previous), "{kind}");
    }
}

#[test]
fn every_handshake_is_answered_as_expected() {
    let file = fixture_json("vectors/handshakes.json");
    let mut ran = 0;
    for case in file["handshakes"].as_array().unwrap() {
        let Some(kind) = ProviderKind::parse(text(case, "provider")) else { continue };
        ran += 1;
        let provider = of(kind);
        let name = text(case, "name");
        let answer = if text(case, "method") == "GET" {
            let query = text(case, "path").split_once('?').unwrap().1;
            let token = Secret::new(case["secrets"]["values"][0].as_str().unwrap().to_owned());
            provider.handshake(query, Some(&token))
        } else {
            authenticate(provider, case).and_then(|_| {
                let body = base64::engine::general_purpose::STANDARD.decode(text(case, "body_base64")).unwrap();
                match parse(provider, "application/json", &body)? {
                    Parsed::Handshake(challenge) => Ok(challenge),
                    Parsed::Events(events) => panic!("{name}: {events:?}"),
                }
            })
        };
        let status = answer.as_ref().map_or_else(|code| code.status(), |_| 200);
        let allowed: Vec<u64> = case["expect_status"]
            .as_array()
            .map_or_else(|| vec![case["expect_status"].as_u64().unwrap()], |list| list.iter().map(|s| s.as_u64().unwrap()).collect());
        assert!(allowed.contains(&u64::from(status)), "{name}: {answer:?}");
        if let Some(body) = case["expect_body_exact"].as_str() {
            assert_eq!(answer.as_deref(), Ok(body), "{name}");
        }
    }
    assert_eq!(ran, 11);
}

/// The account as the index writes it; only what the index says is compared.
fn assert_account(name: &str, expect: &Value, claim: &AccountClaim) {
    let want: BTreeMap<&str, &Value> = expect.as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v)).collect();
    let got: BTreeMap<&str, Value> = match claim {
        AccountClaim::Slack { app_id, team_id, enterprise_id, org_wide } => BTreeMap::from([
            ("api_app_id", app_id.clone().into()),
            ("team_id", team_id.clone().into()),
            ("enterprise_id", enterprise_id.clone().into()),
            ("is_enterprise_install", (*org_wide).into()),
        ]),
        AccountClaim::Telegram { .. } => panic!("{name}: Telegram names no installation"),
        AccountClaim::WhatsApp { waba_id, phone_number_id } => {
            BTreeMap::from([("waba_id", waba_id.clone().into()), ("phone_number_id", phone_number_id.clone().into())])
        }
    };
    for (field, value) in want {
        assert_eq!(got.get(field), Some(value), "{name}: {field}");
    }
    if let AccountClaim::WhatsApp { phone_number_id, .. } = claim {
        assert_eq!(phone_number_id.is_some(), expect.get("phone_number_id").is_some(), "{name}");
    }
}

#[test]
fn every_fixture_says_what_the_index_says() {
    let index = fixture_json("providers/index.json");
    let mut seen = BTreeSet::new();
    for entry in index["fixtures"].as_array().unwrap() {
        let name = text(entry, "file");
        seen.insert(name.to_owned());
        let kind = ProviderKind::parse(text(entry, "provider")).unwrap();
        let body = fixture(&format!("providers/{name}"));
        let expect = &entry["expect"];
        for field in expect.as_object().unwrap().keys() {
            let known = [
                "kind",
                "note",
                "installation",
                "dedupe_key",
                "logical_key",
                "thread",
                "actor",
                "workspace",
                "response",
                "chat_id",
                "events",
            ];
            assert!(known.contains(&field.as_str()), "{name}: nobody looks at {field}");
        }
        let parsed = parse(of(kind), text(entry, "content_type"), &body).unwrap_or_else(|code| panic!("{name}: {code}"));
        let events = match parsed {
            Parsed::Handshake(challenge) => {
                assert_eq!(text(expect, "kind"), "handshake", "{name}");
                assert_eq!(expect["response"]["body"], challenge.as_str(), "{name}");
                continue;
            }
            Parsed::Events(events) => events,
        };
        assert!(!events.is_empty(), "{name}");
        let wanted = text(expect, "kind");
        if wanted == "batch" {
            let groups = expect["events"].as_array().unwrap();
            let total: u64 = groups.iter().map(|g| g["count"].as_u64().unwrap()).sum();
            assert_eq!(events.len() as u64, total, "{name}");
            for group in groups {
                let fits = |claim: &AccountClaim| match claim {
                    AccountClaim::WhatsApp { waba_id, phone_number_id } => {
                        group["phone_number_id"].as_str() == phone_number_id.as_deref()
                            && group["waba_id"].as_str().is_none_or(|w| w == waba_id)
                    }
                    _ => false,
                };
                assert_eq!(events.iter().filter(|e| fits(&e.account)).count() as u64, group["count"].as_u64().unwrap(), "{name}");
            }
        } else {
            assert!(events.iter().all(|e| e.kind.as_str() == wanted), "{name}: {events:?}");
            assert_eq!(events.len(), if name.contains("statuses_sent") { 3 } else { 1 }, "{name}");
        }
        for event in &events {
            if events.len() == 1 {
                assert_eq!(event.raw, body, "{name}: raw is the request body");
            } else {
                let alone = parse_events(of(kind), "application/json", &event.raw);
                assert_eq!(alone.as_slice(), std::slice::from_ref(event), "{name}: an envelope reads as its event");
            }
            if let Some(account) = expect.get("installation") {
                assert_account(name, account, &event.account);
            }
            if let Some(key) = expect["dedupe_key"].as_str() {
                let ours =
                    if kind == ProviderKind::Telegram { format!("{{bot_id}}:{}", event.dedupe_key) } else { event.dedupe_key.clone() };
                assert_eq!(ours, key.replace("{status}", &event.provider_event_type), "{name}");
            }
            let place = event.normal.conversation.as_ref();
            if let Some(key) = expect["logical_key"].as_str() {
                let AccountClaim::Slack { team_id: Some(team), .. } = &event.account else { panic!("{name}") };
                let doc: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(format!("{team}:{}:{}", place.unwrap().id, text(&doc["event"], "ts")), key, "{name}");
            }
            if let Some(thread) = expect["thread"].as_str() {
                let conversation = place.unwrap();
                let found = match kind {
                    ProviderKind::Slack => conversation.thread.clone().unwrap(),
                    ProviderKind::Telegram => format!("{}:{}", conversation.id, conversation.thread.as_ref().unwrap()),
                    ProviderKind::WhatsApp => event.normal.reply_to.as_ref().map(|_| "reply".to_owned()).unwrap(),
                };
                assert_eq!(found, thread, "{name}");
            }
            if let Some(actor) = expect.get("actor") {
                assert_eq!(event.normal.sender.as_ref().unwrap().id, text(actor, "user"), "{name}");
                assert_eq!(event.normal.team.as_deref(), actor["team"].as_str(), "{name}");
            }
            if let Some(workspace) = expect["workspace"].as_str() {
                assert_eq!(event.normal.team.as_deref(), Some(workspace), "{name}");
            }
            if let Some(chat) = expect["chat_id"].as_i64() {
                assert_eq!(event.account, AccountClaim::Telegram { chat_id: Some(chat.to_string()) }, "{name}");
            }
        }
    }
    let mut files = BTreeSet::new();
    for kind in ProviderKind::ALL {
        for file in std::fs::read_dir(fixtures().join("providers").join(kind.as_str())).unwrap() {
            files.insert(format!("{kind}/{}", file.unwrap().file_name().to_str().unwrap()));
        }
    }
    assert_eq!(files, seen, "every file stands in the index");
}

pub(super) fn account(kind: ProviderKind) -> ExternalAccount {
    match kind {
        ProviderKind::Slack => ExternalAccount::Slack { team_id: Some("T1".into()), enterprise_id: None },
        ProviderKind::Telegram => ExternalAccount::Telegram { bot_id: "7100000001".into(), chats: Vec::new() },
        ProviderKind::WhatsApp => ExternalAccount::WhatsApp { waba_id: "109".into(), phone_number_id: "118".into() },
    }
}

#[test]
fn every_sample_is_signed_parsed_and_names_its_account() {
    let org_wide = ExternalAccount::Slack { team_id: None, enterprise_id: Some("E1".into()) };
    let mut accounts: Vec<(ProviderKind, ExternalAccount)> = ProviderKind::ALL.into_iter().map(|kind| (kind, account(kind))).collect();
    accounts.push((ProviderKind::Slack, org_wide));
    for (kind, account) in accounts {
        let provider = of(kind);
        assert_eq!(provider.kind(), kind);
        assert!(provider.sample_kinds().contains(&"message"));
        for sample_kind in provider.sample_kinds() {
            let keys: Vec<String> = [7, 8]
                .map(|nonce| {
                    let sample = Sample {
                        kind: sample_kind,
                        account: &account,
                        app_id: Some("A1"),
                        conversation: if kind == ProviderKind::Slack { "C1" } else { "16505550123" },
                        text: "héllo & 100%",
                        nonce,
                        now: NOW.plus_ms(i64::try_from(nonce).unwrap() * 1000),
                    };
                    let (body, media_type) = provider.sample(&sample).unwrap_or_else(|| panic!("{kind} {sample_kind}"));
                    let secret = Secret::new("0123456789abcdef".into());
                    let signed = provider.sign(&body, &secret, NOW);
                    let mut headers: Vec<(&str, &str)> = signed.iter().map(|(name, value)| (*name, value.as_str())).collect();
                    headers.push(("content-type", media_type));
                    assert!(provider.edge().media_types.contains(&media_type));
                    let head = head(kind, &headers);
                    let secrets = secrets(&["0123456789abcdef"]).unwrap();
                    let proof = provider.inspect(&head, &secrets, NOW).unwrap().prove(&body, &secrets).unwrap();
                    let Ok(Parsed::Events(events)) = provider.parse(&proof, &head, &Bytes::from(body)) else {
                        panic!("{kind} {sample_kind}")
                    };
                    assert!(!events.is_empty());
                    for event in &events {
                        match (&event.account, &account) {
                            (
                                AccountClaim::Slack { app_id, team_id, enterprise_id, org_wide },
                                ExternalAccount::Slack { team_id: t, enterprise_id: e },
                            ) => {
                                assert_eq!((app_id.as_deref(), team_id, *org_wide), (Some("A1"), t, t.is_none()));
                                assert!(!org_wide || enterprise_id == e);
                            }
                            (AccountClaim::Telegram { chat_id }, _) => assert_eq!(chat_id.as_deref(), Some("16505550123")),
                            (
                                AccountClaim::WhatsApp { waba_id, phone_number_id },
                                ExternalAccount::WhatsApp { waba_id: w, phone_number_id: p },
                            ) => {
                                assert_eq!(waba_id, w);
                                assert!(phone_number_id.is_none() || phone_number_id.as_ref() == Some(p));
                            }
                            other => panic!("{other:?}"),
                        }
                        assert!(provider.raw_for_agent(&event.raw, event.media_type).is_some_and(|text| text.starts_with('{')));
                    }
                    let kinds: Vec<&str> = events.iter().map(|e| e.kind.as_str()).collect();
                    if matches!(*sample_kind, "message" | "mention" | "direct" | "batch" | "command") {
                        assert!(events.iter().all(|e| e.normal.text.as_deref().unwrap().contains("héllo & 100%")), "{kind} {sample_kind}");
                        assert!(kinds.iter().all(|k| k.starts_with("message") || *k == "command"), "{kinds:?}");
                    } else {
                        assert!(kinds.iter().all(|k| *k != "other"), "{kind} {sample_kind}: {kinds:?}");
                    }
                    events[0].dedupe_key.clone()
                })
                .into();
            assert_ne!(keys[0], keys[1], "{kind} {sample_kind}: a nonce makes another event");
        }
        let sample = Sample { kind: "nonsense", account: &account, app_id: None, conversation: "C1", text: "", nonce: 0, now: NOW };
        assert!(provider.sample(&sample).is_none());
    }
}

#[test]
fn an_empty_proved_body_and_a_foreign_media_type_are_refused() {
    for kind in ProviderKind::ALL {
        for media_type in of(kind).edge().media_types {
            assert_eq!(parse(of(kind), media_type, b"").unwrap_err(), ReasonCode::IngressPayloadMalformed, "{kind}");
        }
        assert_eq!(parse(of(kind), "text/plain", b"{}").unwrap_err(), ReasonCode::IngressMediaType, "{kind}");
        assert_eq!(parse(of(kind), "application/json; charset=utf-8", b"{}").unwrap_err(), ReasonCode::IngressPayloadMalformed, "{kind}");
    }
}

#[test]
fn what_is_no_strict_json_is_refused_alike() {
    use ReasonCode::{IngressJsonDuplicateKey as Dup, IngressJsonInvalid as Bad, IngressJsonTooDeep as Deep};
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let cases: &[(&[u8], ReasonCode)] = &[
        (br#"{"type":"event_callback","type":"x","update_id":1,"object":"whatsapp_business_account"}"#, Dup),
        (br#"{"update_id":1,"x":{"y":1,"\u0079":2},"object":"whatsapp_business_account","entry":[]}"#, Dup),
        (deep.as_bytes(), Deep),
        (b"null", Bad),
        (b"{} x", Bad),
        (b"\xef\xbb\xbf{}", Bad),
        (b"a=1&b=2", Bad),
        (br#"{"a":"\udc00"}"#, Bad),
    ];
    for kind in ProviderKind::ALL {
        for (body, want) in cases {
            assert_eq!(parse(of(kind), "application/json", body).unwrap_err(), *want, "{kind}");
        }
    }
}

#[test]
fn signature_headers_are_judged_by_their_shape() {
    use ReasonCode::{AuthnSignatureMalformed as Malformed, AuthnSignatureScheme as Scheme};
    let hex = "a".repeat(64);
    assert_eq!(tagged_digest(format!("v0={hex}").as_bytes(), "v0"), Ok([0xaa; 32]));
    for (value, want) in [
        (format!("v1={hex}"), Scheme),
        ("sha1=00".to_owned(), Scheme),
        (format!("V0={hex}"), Malformed),
        (format!("={hex}"), Malformed),
        (hex.clone(), Malformed),
        (String::new(), Malformed),
        ("v0=".to_owned(), Malformed),
        ("v0=a".to_owned(), Malformed),
        (format!("v0={}", "a".repeat(63)), Malformed),
        (format!("v0={}", "a".repeat(65)), Malformed),
        (format!("v0={}", "A".repeat(64)), Malformed),
        (format!("v0={}", "g".repeat(64)), Malformed),
        (format!("v0= {}", "a".repeat(63)), Malformed),
        (format!("{hex}=v0"), Malformed),
    ] {
        assert_eq!(tagged_digest(value.as_bytes(), "v0"), Err(want), "{value}");
    }
}

#[test]
fn error_words_are_short_and_hold_no_token() {
    for (text, want) in [
        ("Bad Request: chat not found", "Bad Request: chat not found"),
        ("Too Many Requests: retry after 5", "Too Many Requests: retry after 5"),
        ("no /bot7100000001:AAHinv-x/sendMessage\r\nhere", "no [withheld] here"),
        ("token 7100000001:canary", "token [withheld]"),
        ("Malformed access token EAAGm0PX4ZCpsBAinvented", "Malformed access token [withheld]"),
        ("xoxb-1", "[withheld]"),
        ("0123456789abcdef0123456789abcdef", "[withheld]"),
    ] {
        assert_eq!(error_word(text), want);
    }
    assert_eq!(error_word(&"é ".repeat(400)).chars().count(), 200);
}

pub(super) fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> WireResponse {
    WireResponse { status, headers: head(ProviderKind::Slack, headers).headers, body: Bytes::copy_from_slice(body.as_bytes()) }
}

/// A rendered request as text: address, headers, body.
pub(super) fn shown(request: &WireRequest) -> (String, Vec<String>, Value) {
    let headers = request.headers.iter().map(|(name, value)| format!("{name}: {}", value.expose())).collect();
    (format!("{} {}", request.method, request.url.expose()), headers, serde_json::from_slice(request.body.whole()).unwrap())
}

pub(super) fn message(text: Option<&str>, native: Option<Value>) -> OutboundMessage {
    OutboundMessage {
        conversation: "C1".into(),
        thread: None,
        text: text.map(str::to_owned),
        native: native.map(|value| value.as_object().unwrap().clone()),
    }
}

proptest! {
    #[test]
    fn noise_never_panics(body in proptest::collection::vec(any::<u8>(), 0..400), header in proptest::collection::vec(0x20u8..0x7f, 0..90)) {
        let said = String::from_utf8(header).unwrap();
        for kind in ProviderKind::ALL {
            let provider = of(kind);
            for media_type in provider.edge().media_types {
                let _ = parse(provider, media_type, &body);
                let _ = provider.raw_for_agent(&body, media_type);
            }
            let names = ["x-slack-signature", "x-slack-request-timestamp", "x-hub-signature-256", "x-telegram-bot-api-secret-token"];
            let head = head(kind, &names.map(|name| (name, said.as_str())));
            prop_assert!(provider.inspect(&head, &secrets(&["0123456789abcdef"]).unwrap(), NOW).is_err());
            prop_assert!(provider.handshake(&said, Some(&Secret::new("0123456789abcdef".into()))).is_err());
            let _ = provider.read_receipt(&WireResponse { status: 200, headers: HeaderMap::new(), body: body.clone().into() });
        }
    }

    /// Recorded bodies with a stretch of them replaced: noise that gets past the first look.
    #[test]
    fn damaged_fixtures_never_panic(which in 0usize..1000, at in 0usize..2000, cut in 0usize..40, put in "[\\[\\]{}:,\"a-z0-9\\\\%&=]{0,8}") {
        let index = fixture_json("providers/index.json");
        let list = index["fixtures"].as_array().unwrap();
        let entry = &list[which % list.len()];
        let mut body = fixture(&format!("providers/{}", text(entry, "file")));
        let start = at % body.len();
        let end = (start + cut).min(body.len());
        body.splice(start..end, put.bytes());
        let provider = of(ProviderKind::parse(text(entry, "provider")).unwrap());
        if let Ok(Parsed::Events(events)) = parse(provider, text(entry, "content_type"), &body) {
            for event in events {
                prop_assert!(provider.kind() != ProviderKind::WhatsApp || json_agrees(&event.raw));
            }
        }
    }
}

fn json_agrees(raw: &[u8]) -> bool {
    crate::wire::json::parse(raw).is_ok()
}
