use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::conformance::{NOW, account, answer, fixture, head, message, parse, parse_events, secrets, shown};
use super::super::{Parsed, Provider as _};
use super::{FORM, JSON, Slack};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{AccountClaim, ConversationKind, EventKind, InboundEvent, SendReceipt};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;

const SECRET: &str = "8f742231b10e8888abcd99aaabbb85a5";

fn inspect(headers: &[(&str, &str)]) -> Result<(), ReasonCode> {
    Slack.inspect(&head(ProviderKind::Slack, headers), &secrets(&[SECRET]).unwrap(), NOW).map(|_| ())
}

#[test]
fn headers_are_judged_in_order_and_without_a_body() {
    use ReasonCode as R;
    let good = format!("v0={}", "a".repeat(64));
    let (sig, ts) = ("X-Slack-Signature", "X-Slack-Request-Timestamp");
    let cases = [
        (vec![(sig, good.as_str()), (ts, "1790000100")], Ok(())),
        (vec![(sig, &good), (ts, "1789999800")], Ok(())),
        (vec![(sig, &good), (ts, "1790000400")], Ok(())),
        (vec![], Err(R::AuthnSignatureMissing)),
        (vec![(ts, "yesterday")], Err(R::AuthnSignatureMissing)),
        (vec![(sig, "junk")], Err(R::AuthnTimestampMalformed)),
        (vec![(sig, "junk"), (ts, "")], Err(R::AuthnTimestampMalformed)),
        (vec![(sig, &good), (ts, "+1790000100")], Err(R::AuthnTimestampMalformed)),
        (vec![(sig, &good), (ts, "-1")], Err(R::AuthnTimestampMalformed)),
        (vec![(sig, &good), (ts, "1790000100:x")], Err(R::AuthnTimestampMalformed)),
        (vec![(sig, &good), (ts, "1790000100.5")], Err(R::AuthnTimestampMalformed)),
        (vec![(sig, "junk"), (ts, "1789999799")], Err(R::AuthnTimestampStale)),
        (vec![(sig, &good), (ts, "0")], Err(R::AuthnTimestampStale)),
        (vec![(sig, &good), (ts, "1790000401")], Err(R::AuthnTimestampFuture)),
        (vec![(sig, &good), (ts, "9223372036854775807")], Err(R::AuthnTimestampFuture)),
        (vec![(sig, &good), (ts, "99999999999999999999999999999999")], Err(R::AuthnTimestampFuture)),
        (vec![(sig, "v1=00"), (ts, "1790000100")], Err(R::AuthnSignatureScheme)),
        (vec![(sig, "junk"), (ts, "1790000100")], Err(R::AuthnSignatureMalformed)),
        (vec![(sig, &good), (sig, &good), (ts, "1790000100")], Err(R::AuthnHeaderDuplicated)),
        (vec![(sig, &good), (ts, "1790000100"), (ts, "1790000100")], Err(R::AuthnHeaderDuplicated)),
    ];
    for (headers, want) in cases {
        assert_eq!(inspect(&headers), want, "{headers:?}");
    }
}

#[test]
fn half_a_second_over_the_window_is_over() {
    let good = format!("v0={}", "a".repeat(64));
    let head = head(ProviderKind::Slack, &[("X-Slack-Signature", &good), ("X-Slack-Request-Timestamp", "1789999800")]);
    let late = Slack.inspect(&head, &secrets(&[SECRET]).unwrap(), NOW.plus_ms(500));
    assert_eq!(late.map(|_| ()), Err(ReasonCode::AuthnTimestampStale));
}

/// The recorded channel message with its parts replaced.
fn changed(change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut doc: Value = serde_json::from_slice(&fixture("providers/slack/message_channel.json")).unwrap();
    change(&mut doc);
    serde_json::to_vec(&doc).unwrap()
}

fn one(body: &[u8]) -> InboundEvent {
    let mut events = parse_events(&Slack, JSON, body);
    assert_eq!(events.len(), 1);
    events.remove(0)
}

fn with_event(event: Value) -> InboundEvent {
    one(&changed(|doc| doc["event"] = event.clone()))
}

#[test]
fn an_unclear_account_is_refused() {
    use ReasonCode::{AuthnIdentityInvalid as Invalid, AuthnIdentityMissing as Missing};
    let cases: Vec<(&str, Value, ReasonCode)> = vec![
        ("/api_app_id", Value::Null, Missing),
        ("/api_app_id", json!(7), Missing),
        ("/api_app_id", json!(""), Missing),
        ("/api_app_id", json!("A\n1"), Invalid),
        ("/authorizations", json!("T1"), Missing),
        ("/authorizations", json!([5]), Missing),
        ("/authorizations/0/team_id", Value::Null, Missing),
        ("/authorizations/0/team_id", json!(["T1"]), Missing),
        ("/authorizations/0/team_id", json!("T".repeat(513)), Invalid),
        ("/authorizations/0/is_enterprise_install", json!("true"), Missing),
        ("/authorizations/0/is_enterprise_install", json!(true), Missing),
        ("/event_id", json!("Ev\u{7}"), Invalid),
        ("/event/channel", json!("C\u{0}"), Invalid),
        ("/event/user", json!("U\u{1b}[0m"), Invalid),
        ("/event_id", Value::Null, ReasonCode::IngressPayloadMalformed),
        ("/event", json!([]), ReasonCode::IngressPayloadMalformed),
        ("/event/type", json!(1), ReasonCode::IngressPayloadMalformed),
        ("/event/channel", Value::Null, ReasonCode::IngressPayloadMalformed),
        ("/type", Value::Null, ReasonCode::IngressPayloadMalformed),
    ];
    for (path, value, want) in cases {
        let body = changed(|doc| *doc.pointer_mut(path).unwrap() = value.clone());
        assert_eq!(parse(&Slack, JSON, &body).unwrap_err(), want, "{path} = {value}");
    }
}

#[test]
fn the_first_place_that_names_an_account_decides() {
    let team = |body: &[u8]| match one(body).account {
        AccountClaim::Slack { team_id, enterprise_id, org_wide, .. } => (team_id, enterprise_id, org_wide),
        other => panic!("{other:?}"),
    };
    let set = |names: &[(&str, Value)]| {
        changed(|doc| {
            for (name, value) in names {
                doc[*name] = value.clone();
            }
        })
    };
    let none = Value::Null;
    let body = set(&[("authorizations", none.clone()), ("context_team_id", json!("T-ctx")), ("team_id", json!("T-out"))]);
    assert_eq!(team(&body), (Some("T-ctx".into()), None, false));
    let body = set(&[("authorizations", json!([])), ("context_team_id", none.clone()), ("team_id", json!("T-out"))]);
    assert_eq!(team(&body), (Some("T-out".into()), None, false));
    let body = set(&[
        ("authorizations", none.clone()),
        ("context_team_id", none.clone()),
        ("team_id", none.clone()),
        ("enterprise_id", json!("E-out")),
    ]);
    assert_eq!(team(&body), (None, Some("E-out".into()), true));
    let body = set(&[("authorizations", none.clone()), ("context_team_id", none.clone()), ("team_id", none)]);
    assert_eq!(parse(&Slack, JSON, &body).unwrap_err(), ReasonCode::AuthnIdentityMissing);
}

#[test]
fn kinds_follow_the_event() {
    use EventKind as K;
    let said = |extra: Value| {
        let mut event = json!({"type": "message", "user": "U1", "channel": "C1", "ts": "1.2", "text": "x", "channel_type": "channel"});
        event.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        event
    };
    let own = "U07BOTACME1";
    let cases = [
        (said(json!({})), K::Message),
        (said(json!({"channel_type": "im"})), K::MessageDirect),
        (said(json!({"files": [{"id": "F1", "mimetype": "image/png", "name": "a.png"}], "subtype": "file_share"})), K::MessageMedia),
        (said(json!({"subtype": "bot_message", "bot_id": "B9", "app_id": "A-OTHER"})), K::Message),
        (said(json!({"app_id": "A07PLTFM001"})), K::MessageSelf),
        (said(json!({"bot_profile": {"app_id": "A07PLTFM001"}})), K::MessageSelf),
        (said(json!({"user": own})), K::MessageSelf),
        (said(json!({"subtype": "message_changed", "message": {"user": own, "text": "x"}})), K::MessageSelf),
        (said(json!({"subtype": "message_changed", "message": {"user": "U1", "text": "x"}})), K::MessageEdited),
        (said(json!({"subtype": "message_deleted", "previous_message": {"user": "U1", "text": "gone"}})), K::MessageDeleted),
        (said(json!({"subtype": "channel_join"})), K::Membership),
        (said(json!({"subtype": "channel_topic"})), K::Other),
        (json!({"type": "member_joined_channel", "user": "U1", "channel": "C1"}), K::Membership),
        (json!({"type": "member_joined_channel", "user": own, "channel": "C1"}), K::ChatJoined),
        (json!({"type": "member_left_channel", "user": own, "channel": "C1"}), K::ChatLeft),
        (json!({"type": "reaction_added", "user": "U1", "reaction": "eyes", "item": {"channel": "C1", "ts": "1.2"}}), K::Reaction),
        (json!({"type": "reaction_removed", "user": own, "reaction": "eyes", "item": {"channel": "C1", "ts": "1.2"}}), K::MessageSelf),
        (json!({"type": "team_access_granted", "team_ids": ["T9"]}), K::WorkspaceAdded),
        (json!({"type": "tokens_revoked", "tokens": {"oauth": ["U1"]}}), K::Other),
        (json!({"type": "tokens_revoked", "tokens": {"bot": ["U2"]}}), K::TokensRevoked),
        (json!({"type": "channel_id_changed", "old_channel_id": "G1", "new_channel_id": "C1"}), K::ChatMigrated),
        (json!({"type": "channel_rename", "channel": {"id": "C1", "name": "x"}}), K::Other),
        (json!({"type": "invented_in_2031", "whatever": 1}), K::Other),
    ];
    for (event, want) in cases {
        let got = with_event(event.clone());
        assert_eq!(got.kind, want, "{event}");
        assert_eq!(got.provider_event_type, event["type"].as_str().unwrap());
    }
}

#[test]
fn what_an_agent_is_told() {
    let reaction = with_event(json!({"type": "reaction_added", "user": "U1", "reaction": "eyes", "item": {"channel": "C9", "ts": "1.2"}}));
    let place = reaction.normal.conversation.unwrap();
    assert_eq!(
        (place.id.as_str(), reaction.normal.text.as_deref(), reaction.normal.reply_to.as_deref()),
        ("C9", Some("eyes"), Some("1.2"))
    );

    let edited = one(&fixture("providers/slack/message_changed.json"));
    assert_eq!(edited.normal.sender.unwrap().id, "U07ALICE001");
    assert_eq!(edited.normal.text.as_deref(), Some("can you summarise (edited)"));

    let deleted = with_event(json!({"type": "message", "subtype": "message_deleted", "channel": "C1",
        "previous_message": {"user": "U1", "text": "gone", "thread_ts": "1.0"}}));
    assert_eq!((deleted.normal.text, deleted.normal.sender.unwrap().id.as_str()), (None, "U1"));
    assert_eq!(deleted.normal.conversation.unwrap().thread.as_deref(), Some("1.0"));

    for (channel_type, thread, want) in [
        ("channel", None, ConversationKind::Channel),
        ("im", None, ConversationKind::Direct),
        ("mpim", None, ConversationKind::Group),
        ("group", None, ConversationKind::Group),
        ("channel", Some("1.0"), ConversationKind::Thread),
    ] {
        let got = with_event(json!({"type": "message", "user": "U1", "channel": "C1", "channel_type": channel_type, "thread_ts": thread}));
        assert_eq!(got.normal.conversation.unwrap().kind, want);
    }
    let file = with_event(json!({"type": "message", "user": "U1", "channel": "C1", "files": [{"id": "F1", "mimetype": "application/pdf",
        "name": "a.pdf", "url_private": "https://files.slack.com/secret"}]}));
    assert_eq!(file.normal.attachments[0].kind, "file");

    let command = parse_events(&Slack, FORM, &fixture("providers/slack/slash_command.txt")).remove(0);
    assert_eq!(command.normal.text.as_deref(), Some("/ask what's 2+2 & été?"));
    let action = parse_events(&Slack, FORM, &fixture("providers/slack/block_actions.txt")).remove(0);
    assert_eq!(action.normal.conversation.as_ref().unwrap().thread.as_deref(), Some("1790000100.000100"));
    assert_eq!((action.normal.text.as_deref(), action.provider_event_type.as_str()), (Some("req-77"), "block_actions"));
    assert_eq!(one(&fixture("providers/slack/message_channel.json")).normal.team, None);
}

#[test]
fn a_type_beside_callbacks_is_an_event_too() {
    let event = one(br#"{"type":"brand_new","api_app_id":"A1","team_id":"T1"}"#);
    assert_eq!((event.kind, event.provider_event_type.as_str()), (EventKind::Other, "brand_new"));
    assert!(event.dedupe_key.starts_with("A1:T1:sha256:"));
}

#[test]
fn a_challenge_is_a_word_of_letters_and_digits() {
    let shake =
        |challenge: Value| parse(&Slack, JSON, &serde_json::to_vec(&json!({"type": "url_verification", "challenge": challenge})).unwrap());
    for len in [16, 52, 128] {
        assert!(matches!(shake(json!("aZ09".repeat(len / 4))), Ok(Parsed::Handshake(c)) if c.len() == len));
    }
    let word = "3eZbrw1aBm2rZgRNFdxV";
    let with = |c: char| json!(format!("{word}{c}"));
    let bad = ['<', '"', '&', ' ', '\n', '\0', '-', '_', '.', '/', '\u{e9}', '\u{661}'].map(with);
    for bad in bad.into_iter().chain([json!("x".repeat(129)), json!("x".repeat(15)), json!(""), json!(1), json!([word]), Value::Null]) {
        assert_eq!(shake(bad.clone()).unwrap_err(), ReasonCode::IngressChallengeMalformed, "{bad}");
    }
}

fn form(body: &[u8]) -> Result<Parsed, ReasonCode> {
    parse(&Slack, FORM, body)
}

#[test]
fn forms_are_read_strictly() {
    use ReasonCode as R;
    let base = "command=%2Fask&api_app_id=A1&team_id=T1&trigger_id=1.2.3";
    assert!(form(base.as_bytes()).is_ok());
    for (body, want) in [
        (format!("{base}&text=%"), R::IngressFormMalformed),
        (format!("{base}&text=%2"), R::IngressFormMalformed),
        (format!("{base}&text=%zz"), R::IngressFormMalformed),
        (format!("{base}&text=%+1"), R::IngressFormMalformed),
        (format!("{base}&text=%ff"), R::IngressFormMalformed),
        (format!("{base}&text=a&text=b"), R::IngressFormMalformed),
        (format!("{base}&te%78t=a&text=b"), R::IngressFormMalformed),
        (format!("{base}&payload=%7B%7D"), R::IngressFormMalformed),
        ("payload=%7B%7D&payload=%7B%7D".into(), R::IngressFormMalformed),
        ("payload=".into(), R::IngressFormMalformed),
        ("team_id=T1&api_app_id=A1".into(), R::IngressFormMalformed),
        (r#"{"type":"event_callback"}"#.into(), R::IngressFormMalformed),
        ("payload=%7B%7D".into(), R::IngressPayloadMalformed),
        ("payload=%7B".into(), R::IngressJsonInvalid),
        (r#"payload={"type":"a","type":"b"}"#.into(), R::IngressJsonDuplicateKey),
        (format!("payload={}", "[".repeat(70)), R::IngressJsonTooDeep),
        (r#"payload={"type":"block_actions","team":{"id":"T1"}}"#.into(), R::AuthnIdentityMissing),
        (r#"payload={"type":"block_actions","api_app_id":"A1","team":null}"#.into(), R::AuthnIdentityMissing),
        (r#"payload={"type":"block_actions","api_app_id":"A1","team":{"id":7}}"#.into(), R::AuthnIdentityMissing),
        ("command=/ask&team_id=T1&trigger_id=1".into(), R::AuthnIdentityMissing),
        ("command=/ask&api_app_id=A1&trigger_id=1".into(), R::AuthnIdentityMissing),
        ("command=/ask&api_app_id=A1&team_id=T1&is_enterprise_install=yes".into(), R::AuthnIdentityMissing),
        ("command=/ask&api_app_id=A1&team_id=T1&is_enterprise_install=true".into(), R::AuthnIdentityMissing),
        ("command=/ask&api_app_id=A1&team_id=T%0A1".into(), R::AuthnIdentityInvalid),
    ] {
        assert_eq!(form(body.as_bytes()).unwrap_err(), want, "{body}");
    }
    assert_eq!(form(b"command=/ask&x=\xff").unwrap_err(), R::IngressFormMalformed);
    assert!(matches!(form(b"ssl_check=1&token=x"), Ok(Parsed::Events(events)) if events.is_empty()));
    let untriggered = parse_events(&Slack, FORM, b"command=/ask&api_app_id=A1&team_id=T1&text=");
    assert!(untriggered[0].dedupe_key.starts_with("A1:T1:sha256:"));
    assert_eq!(untriggered[0].normal.text.as_deref(), Some("/ask"));
}

#[test]
fn org_wide_installs_are_found_by_their_enterprise() {
    let command = "command=/ask&api_app_id=A1&team_id=T1&enterprise_id=E1&is_enterprise_install=true&trigger_id=9";
    let payload = r#"payload={"type":"shortcut","api_app_id":"A1","trigger_id":"9","is_enterprise_install":true,"enterprise":{"id":"E1"},"team":null,"user":{"id":"U1","team_id":"T1"}}"#;
    for body in [command, payload] {
        let event = parse_events(&Slack, FORM, body.as_bytes()).remove(0);
        assert_eq!(event.dedupe_key, "A1:E1:trigger:9");
        assert_eq!(event.normal.team.as_deref(), Some("T1"));
        assert!(matches!(event.account, AccountClaim::Slack { org_wide: true, team_id: None, .. }));
    }
    let modal = r#"payload={"type":"view_submission","api_app_id":"A1","team":{"id":"T-partner"},"view":{"app_installed_team_id":"T1"},"user":{"id":"U1"}}"#;
    let event = parse_events(&Slack, FORM, modal.as_bytes()).remove(0);
    assert!(matches!(&event.account, AccountClaim::Slack { team_id: Some(team), .. } if team == "T1"));
    assert_eq!(event.normal.team.as_deref(), Some("T-partner"));
}

#[test]
fn an_agent_gets_the_providers_json_without_its_bearer_secrets() {
    let shown = |raw: &[u8], media_type| -> Value { serde_json::from_str(&Slack.raw_for_agent(raw, media_type).unwrap()).unwrap() };
    let event = shown(&fixture("providers/slack/message_channel.json"), JSON);
    assert_eq!((event["token"].as_str(), event["event"]["client_msg_id"].is_string()), (Some("[withheld]"), true));
    let action = shown(&fixture("providers/slack/block_actions.txt"), FORM);
    assert_eq!((action["token"].as_str(), action["response_url"].as_str()), (Some("[withheld]"), Some("[withheld]")));
    assert_eq!(action["actions"][0]["value"], "req-77");
    let command = shown(&fixture("providers/slack/slash_command.txt"), FORM);
    assert_eq!((command["response_url"].as_str(), command["command"].as_str()), (Some("[withheld]"), Some("/ask")));
    let nested = shown(br#"{"response_urls":[{"response_url":"https://hooks"}],"event":{"token":"kept"},"n":9007199254740993}"#, JSON);
    insta::assert_json_snapshot!(nested, @r#"
    {
      "response_urls": [
        {
          "response_url": "[withheld]"
        }
      ],
      "event": {
        "token": "kept"
      },
      "n": 9007199254740993
    }
    "#);
}

#[test]
fn a_message_is_rendered_for_chat_post_message() {
    let secret = Secret::new("xoxb-1".into());
    let mut said = message(Some("hi"), Some(json!({"blocks": [], "text": "fallback"})));
    said.thread = Some("1.0".into());
    for base in ["https://slack.com/api/", "https://slack.com/api"] {
        let (line, headers, body) = shown(&Slack.render(&said, &account(ProviderKind::Slack), &secret, base).unwrap());
        assert_eq!(line, "POST https://slack.com/api/chat.postMessage");
        assert_eq!(headers, ["content-type: application/json; charset=utf-8", "authorization: Bearer xoxb-1"]);
        assert_eq!(body, json!({"channel": "C1", "text": "fallback", "thread_ts": "1.0", "blocks": []}));
    }
}

#[test]
fn what_may_not_be_sent_is_refused() {
    let render = |m| Slack.render(&m, &account(ProviderKind::Slack), &Secret::new("xoxb-1".into()), "https://slack.com/api/").map(|_| ());
    let invalid = Err(ReasonCode::EgressMessageInvalid);
    for name in ["channel", "token", "team_id", "thread_ts", "as_user"] {
        assert_eq!(render(message(Some("hi"), Some(json!({name: "x"})))), invalid, "{name}");
    }
    assert_eq!(render(message(None, None)), invalid);
    assert_eq!(render(message(Some(" \n"), Some(json!({})))), invalid);
    assert_eq!(render(message(Some(&"é".repeat(40_001)), None)), invalid);
    assert_eq!(render(message(None, Some(json!({"text": "x".repeat(40_001)})))), invalid);
    assert_eq!(render(message(Some(&"é".repeat(40_000)), None)), Ok(()));
    assert_eq!(render(message(None, Some(json!({"blocks": []})))), Ok(()));
    let mut nowhere = message(Some("hi"), None);
    nowhere.conversation.clear();
    assert_eq!(render(nowhere), invalid);
    let other = Slack.render(&message(Some("hi"), None), &account(ProviderKind::Telegram), &Secret::new("x".into()), "https://x");
    assert_eq!(other.map(|_| ()), invalid);
}

#[test]
fn receipts_are_read_from_ok_and_error() {
    let read = |status, headers: &[(&str, &str)], body: &str| format!("{:?}", Slack.read_receipt(&answer(status, headers, body)));
    let shown: Vec<String> = vec![
        read(200, &[], r#"{"ok":true,"ts":"1790000110.000700","channel":"C1"}"#),
        read(200, &[], r#"{"ok":false,"error":"channel_not_found"}"#),
        read(200, &[], r#"{"ok":false,"error":"token_revoked"}"#),
        read(401, &[], r#"{"ok":false,"error":"invalid_auth"}"#),
        read(200, &[], r#"{"ok":false,"error":"ratelimited"}"#),
        read(429, &[("retry-after", "30")], r#"{"ok":false,"error":"ratelimited"}"#),
        read(429, &[], ""),
        read(200, &[], r#"{"ok":false,"error":"team_added_to_org"}"#),
        read(503, &[], "<html>"),
        read(200, &[], "<html>"),
        read(200, &[], r#"{"ok":false,"error":"bad xoxb-1-secret"}"#),
        read(404, &[], ""),
    ];
    insta::assert_snapshot!(shown.join("\n"), @r#"
    Sent { provider_message_id: "1790000110.000700" }
    Rejected { error: "channel_not_found" }
    CredentialDead { error: "token_revoked" }
    CredentialDead { error: "invalid_auth" }
    RateLimited { retry_after_s: None, error: "ratelimited" }
    RateLimited { retry_after_s: Some(30), error: "ratelimited" }
    RateLimited { retry_after_s: None, error: "http 429" }
    Unavailable { error: "team_added_to_org" }
    Unavailable { error: "http 503" }
    Unknown { error: "unreadable answer" }
    Unknown { error: "unreadable answer" }
    Rejected { error: "http 404" }
    "#);
    for dead in super::CREDENTIAL_DEAD {
        let receipt = Slack.read_receipt(&answer(200, &[], &json!({"ok": false, "error": dead}).to_string()));
        assert_eq!(receipt, SendReceipt::CredentialDead { error: (*dead).into() });
    }
}

#[test]
fn secrets_and_credentials_have_a_form() {
    assert!(Slack.secret_form(SECRET) && !Slack.secret_form("with space") && !Slack.secret_form("é") && !Slack.secret_form(""));
    assert!(Slack.credential_fits("xoxb-1", &account(ProviderKind::Slack)));
    assert!(!Slack.credential_fits("xoxb 1", &account(ProviderKind::Slack)));
    assert!(!Slack.credential_fits("xoxb-1", &account(ProviderKind::WhatsApp)));
    let none = ExternalAccount::Slack { team_id: None, enterprise_id: Some("E1".into()) };
    assert!(Slack.credential_fits("xoxb-1", &none));
    let refused = Slack.handshake("hub.mode=subscribe", None);
    assert_eq!((Slack.has_get_handshake(), refused), (false, Err(ReasonCode::IngressMethod)));
}

proptest! {
    #[test]
    fn forms_read_what_the_encoder_wrote(fields in proptest::collection::btree_map("[a-z]{1,6}", "\\PC{0,12}", 0..6)) {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
        let read: std::collections::BTreeMap<String, String> = super::body::form_fields(body.as_bytes()).unwrap().into_iter().collect();
        prop_assert_eq!(read, fields);
    }
}

#[test]
fn what_an_agent_gets_is_never_longer_than_what_came() {
    let many = |item: &str| format!(r#"{{"token":"t","a":[{}]}}"#, vec![item; 1000].join(","));
    for item in
        [r#"{"response_url":""}"#, r#"{"response_url":1}"#, r#"{"response_url":"x"}"#, "1e15", r#"{"response_url":{"response_url":""}}"#]
    {
        let raw = many(item);
        let shown = Slack.raw_for_agent(raw.as_bytes(), JSON).unwrap();
        assert!(shown.len() <= raw.len() && serde_json::from_str::<Value>(&shown).is_ok(), "{item}");
    }
    let fields: Vec<String> = (0..101).map(|n| format!("f{n}")).collect();
    let form = format!("command=%2Fask&{}", fields.join("&"));
    assert_eq!(super::body::form_fields(form.as_bytes()).unwrap_err(), ReasonCode::IngressFormMalformed);
}
