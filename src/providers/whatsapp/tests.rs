use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::Provider as _;
use super::super::conformance::{NOW, account, answer, fixture, head, message, parse, parse_events, secrets, shown};
use super::{JSON, WhatsApp};
use crate::domain::installation::{ExternalAccount, ProviderKind};
use crate::domain::message::{AccountClaim, ConversationKind, EventKind, InboundEvent};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;

const SECRET: &str = "d3b07384d113edec49eaa6238ad5ff00";

#[test]
fn the_sha_256_header_is_the_only_one_that_counts() {
    use ReasonCode as R;
    let (name, old) = ("X-Hub-Signature-256", "X-Hub-Signature");
    let good = format!("sha256={}", "a".repeat(64));
    let inspect =
        |headers: &[(&str, &str)]| WhatsApp.inspect(&head(ProviderKind::WhatsApp, headers), &secrets(&[SECRET]).unwrap(), NOW).map(|_| ());
    for (headers, want) in [
        (vec![(name, good.as_str())], Ok(())),
        (vec![(name, &good), (old, "sha1=00")], Ok(())),
        (vec![], Err(R::AuthnSignatureMissing)),
        (vec![(old, "sha1=00")], Err(R::AuthnSignatureScheme)),
        (vec![(name, "sha1=00")], Err(R::AuthnSignatureScheme)),
        (vec![(name, "SHA256=00")], Err(R::AuthnSignatureMalformed)),
        (vec![(name, "sha256=00")], Err(R::AuthnSignatureMalformed)),
        (vec![(name, ""), (old, "sha1=00")], Err(R::AuthnSignatureMalformed)),
        (vec![(name, &good), (name, &good)], Err(R::AuthnHeaderDuplicated)),
    ] {
        assert_eq!(inspect(&headers), want, "{headers:?}");
    }
}

#[test]
fn a_handshake_is_answered_to_who_knows_the_token_only() {
    let shake = |query: &str, token: Option<&str>| WhatsApp.handshake(query, token.map(|t| Secret::new(t.into())).as_ref());
    let base = "hub.mode=subscribe&hub.verify_token=vt_acme-3Qe7";
    assert_eq!(shake(&format!("{base}&hub.challenge=a-B_9.z"), Some("vt_acme-3Qe7")), Ok("a-B_9.z".into()));
    assert_eq!(shake("hub%2Emode=subscribe&hub.verify_token=vt%5Facme-3Qe7&hub.challenge=1", Some("vt_acme-3Qe7")), Ok("1".into()));
    let refused = Err(ReasonCode::AuthnVerifyTokenMismatch);
    let long = format!("{base}&hub.challenge={}", "1".repeat(257));
    for query in [
        "",
        base,
        &format!("{base}&hub.challenge="),
        &format!("{base}&hub.challenge=a%0Ab"),
        &format!("{base}&hub.challenge=%3Cb%3E"),
        &format!("{base}&hub.challenge=1&hub.challenge=1"),
        &format!("{base}&hub.challenge=1&hub.verify_token=vt_acme-3Qe7"),
        &format!("{base}&hub.challenge=1&hub.mode=subscribe"),
        "hub.mode=subscribe&hub.verify_token=vt_acme-3Qe&hub.challenge=1",
        "hub.mode=Subscribe&hub.verify_token=vt_acme-3Qe7&hub.challenge=1",
        &long,
    ] {
        assert_eq!(shake(query, Some("vt_acme-3Qe7")), refused, "{query}");
    }
    for unset in [None, Some(""), Some("  ")] {
        assert_eq!(shake("hub.mode=subscribe&hub.verify_token=&hub.challenge=1", unset), refused);
        assert_eq!(shake("hub.mode=subscribe&hub.verify_token=++&hub.challenge=1", unset), refused);
    }
}

fn events(body: &Value) -> Vec<InboundEvent> {
    parse_events(&WhatsApp, JSON, &serde_json::to_vec(body).unwrap())
}

fn with_value(field: &str, value: Value) -> Value {
    json!({"object": "whatsapp_business_account", "entry": [{"id": "W1", "time": 5, "changes": [{"value": value, "field": field}]}]})
}

fn value(extra: Value) -> Value {
    let mut value = json!({"messaging_product": "whatsapp", "metadata": {"phone_number_id": "P1"}});
    value.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    value
}

#[test]
fn kinds_follow_the_type() {
    use EventKind as K;
    for (word, want) in [
        ("text", K::Message),
        ("location", K::Message),
        ("image", K::MessageMedia),
        ("audio", K::MessageMedia),
        ("interactive", K::Interaction),
        ("button", K::Interaction),
        ("reaction", K::Reaction),
        ("unsupported", K::MessageUnsupported),
        ("edit", K::MessageEdited),
        ("revoke", K::MessageDeleted),
        ("invented_in_2031", K::Other),
    ] {
        let got = events(&with_value("messages", value(json!({"messages": [{"id": "m1", "from": "1", "type": word}]}))));
        assert_eq!((got[0].kind, got[0].dedupe_key.as_str()), (want, "P1:msg:m1"), "{word}");
    }
    for (word, want) in [("sent", K::Status), ("played", K::Status), ("failed", K::StatusFailed), ("warped", K::Other)] {
        let got = events(&with_value("messages", value(json!({"statuses": [{"id": "m1", "status": word, "recipient_id": "1"}]}))));
        assert_eq!((got[0].kind, got[0].dedupe_key.clone()), (want, format!("P1:status:m1:{word}")));
    }
    for (event, want) in [
        (json!({"event": "PARTNER_REMOVED"}), K::Uninstalled),
        (json!({"event": "ACCOUNT_DELETED"}), K::Uninstalled),
        (json!({"event": "ACCOUNT_RESTRICTION"}), K::Restricted),
        (json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE"}}), K::Restricted),
        (json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "REINSTATE"}}), K::Other),
        (json!({"event": "PARTNER_ADDED"}), K::Other),
    ] {
        assert_eq!(events(&with_value("account_update", event.clone()))[0].kind, want, "{event}");
    }
}

#[test]
fn nothing_of_a_batch_is_dropped() {
    let body = json!({"object": "whatsapp_business_account", "entry": [
        {"id": "W1", "changes": [
            {"field": "messages", "value": value(json!({"messages": [{"id": "m1", "type": "text"}, 7, {"type": "text"}], "statuses": [{"id": "m0"}]}))},
            {"field": "messages", "value": value(json!({"errors": [{"code": 1}]}))},
            {"field": "template_category_update", "value": {"x": 1}},
            {"field": "messages_but_new", "value": value(json!({"messages": [{"id": "m9"}]}))},
            {"value": 5},
            8,
        ]},
        {"id": "W2", "messaging": [{"sender": {"id": "x"}}]},
        {"id": "W3", "changes": []},
    ]});
    let got = events(&body);
    let lines: Vec<String> = got.iter().map(|e| format!("{} {}", e.kind.as_str(), e.provider_event_type)).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    message text
    other messages
    other messages
    other statuses
    other messages
    other template_category_update
    other messages_but_new
    other change
    other change
    other entry
    ");
    let keys: std::collections::BTreeSet<&str> = got.iter().map(|e| e.dedupe_key.as_str()).collect();
    assert_eq!(keys.len(), got.len());
    for event in &got {
        assert_eq!(events(&serde_json::from_slice(&event.raw).unwrap()).len(), 1, "{}", event.dedupe_key);
    }
    assert!(events(&json!({"object": "whatsapp_business_account", "entry": []})).is_empty());
}

#[test]
fn an_envelope_keeps_the_original_text() {
    let number = r#""messaging_product":"whatsapp","metadata": {"phone_number_id":"P1", "n":1.50}"#;
    let contacts = r#"[{"wa_id":"1","profile":{"name":"Jos\u00e9"}}, {"wa_id":"2", "user_id":"US.2"}]"#;
    let (one, two) = (r#"{"id":"a","from":"1","x":1.0e2,"text":{"body":"\/ \u2014"},"type":"text"}"#, r#"{ "id":"b","from":"3" }"#);
    let body = format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"W1","changes":[{{"field":"messages","value":{{{number},"contacts":{contacts},"messages":[{one}, {two}]}}}}]}}]}}"#
    );
    let got = parse_events(&WhatsApp, JSON, body.as_bytes());
    let raw: Vec<&str> = got.iter().map(|e| std::str::from_utf8(&e.raw).unwrap()).collect();
    insta::assert_snapshot!(raw.join("\n"), @r#"
    {"object":"whatsapp_business_account","entry":[{"id":"W1","changes":[{"value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"P1", "n":1.50},"contacts":[{"wa_id":"1","profile":{"name":"Jos\u00e9"}}],"messages":[{"id":"a","from":"1","x":1.0e2,"text":{"body":"\/ \u2014"},"type":"text"}]},"field":"messages"}]}]}
    {"object":"whatsapp_business_account","entry":[{"id":"W1","changes":[{"value":{"messaging_product":"whatsapp","metadata":{"phone_number_id":"P1", "n":1.50},"contacts":[{"wa_id":"1","profile":{"name":"Jos\u00e9"}}, {"wa_id":"2", "user_id":"US.2"}],"messages":[{ "id":"b","from":"3" }]},"field":"messages"}]}]}
    "#);
}

#[test]
fn a_body_never_grows_out_of_hand() {
    let many = |n: usize| vec![json!({"id": "m", "type": "text"}); n];
    let refused = |body: &Value| parse(&WhatsApp, JSON, &serde_json::to_vec(body).unwrap()).unwrap_err();
    assert_eq!(events(&with_value("messages", value(json!({"messages": many(1000)})))).len(), 1000);
    assert_eq!(refused(&with_value("messages", value(json!({"messages": many(1001)})))), ReasonCode::IngressPayloadMalformed);
    let change = json!({"field": "messages", "value": value(json!({"messages": many(600)}))});
    let split = json!({"object": "whatsapp_business_account", "entry": [{"id": "W1", "changes": [change, change]}]});
    assert_eq!(refused(&split), ReasonCode::IngressPayloadMalformed);
    let heavy = json!({"metadata": {"phone_number_id": "P1", "x": "y".repeat(20_000)}, "messages": many(2)});
    assert_eq!(refused(&with_value("messages", heavy)), ReasonCode::IngressPayloadMalformed);
    let crowd: Vec<Value> = (0..2000).map(|n| json!({"wa_id": n.to_string()})).collect();
    let got = events(&with_value("messages", value(json!({"contacts": crowd, "messages": many(2)}))));
    assert!(got.iter().all(|e| e.raw.len() < 1000));
}

#[test]
fn people_are_told_apart_by_their_stable_id() {
    let who = |message: Value, contacts: Value| {
        let event = events(&with_value("messages", value(json!({"messages": [message], "contacts": contacts})))).remove(0);
        let sender = event.normal.sender.map(|s| (s.id, s.name));
        (sender, event.normal.conversation.map(|c| (c.id, c.kind)))
    };
    let ana = json!({"wa_id": "1", "user_id": "US.1", "profile": {"name": "Ana"}});
    let direct = |id: &str| Some((id.to_owned(), ConversationKind::Direct));
    let (id, name) = (|id: &str| id.to_owned(), Some("Ana".to_owned()));
    assert_eq!(who(json!({"id": "m", "from": "1", "from_user_id": "US.1"}), json!([ana])), (Some((id("US.1"), name.clone())), direct("1")));
    assert_eq!(who(json!({"id": "m", "from": "1"}), json!([ana])), (Some((id("US.1"), name.clone())), direct("1")));
    assert_eq!(who(json!({"id": "m", "from_user_id": "US.1"}), json!([ana])), (Some((id("US.1"), name)), direct("1")));
    assert_eq!(who(json!({"id": "m", "from_user_id": "US.2"}), json!([])), (Some((id("US.2"), None)), direct("US.2")));
    // The number changed hands: the contact under it is somebody else.
    assert_eq!(who(json!({"id": "m", "from": "1", "from_user_id": "US.9"}), json!([ana])), (Some((id("US.9"), None)), direct("1")));
    assert_eq!(who(json!({"id": "m"}), json!([ana])), (None, None));

    let status = parse_events(&WhatsApp, JSON, &fixture("providers/whatsapp/statuses_sent_delivered_read.json")).remove(0);
    assert_eq!((status.normal.sender, status.normal.conversation.unwrap().id.as_str()), (None, "16505550123"));
    let reaction = parse_events(&WhatsApp, JSON, &fixture("providers/whatsapp/reaction.json")).remove(0);
    assert_eq!((reaction.normal.text.as_deref(), reaction.normal.reply_to.is_some()), (Some("👍"), true));
    let image = parse_events(&WhatsApp, JSON, &fixture("providers/whatsapp/image.json")).remove(0);
    assert_eq!((image.normal.attachments[0].id.as_str(), image.normal.text.as_deref()), ("1003383421387256", Some("broken strap")));
    let pressed = parse_events(&WhatsApp, JSON, &fixture("providers/whatsapp/interactive_button_reply.json")).remove(0);
    assert_eq!(pressed.normal.text.as_deref(), Some("Yes"));
}

#[test]
fn an_unclear_account_is_refused() {
    use ReasonCode::{AuthnIdentityInvalid as Invalid, AuthnIdentityMissing as Missing, IngressPayloadMalformed as Malformed};
    let body = |id: Value, phone: Value| {
        json!({"object": "whatsapp_business_account", "entry": [{"id": id, "changes": [{"field": "messages",
            "value": {"metadata": {"phone_number_id": phone}, "messages": [{"id": "m"}]}}]}]})
    };
    for (body, want) in [
        (json!({"entry": []}), Malformed),
        (json!({"object": "page", "entry": []}), Malformed),
        (json!({"object": "whatsapp_business_account"}), Malformed),
        (json!({"object": "whatsapp_business_account", "entry": {}}), Malformed),
        (json!({"object": "whatsapp_business_account", "entry": [5]}), Missing),
        (body(Value::Null, json!("P1")), Missing),
        (body(json!(109), json!("P1")), Missing),
        (body(json!("W1"), Value::Null), Missing),
        (body(json!("W1"), json!(118)), Missing),
        (body(json!("W1"), json!("")), Missing),
        (body(json!("W\n1"), json!("P1")), Invalid),
        (body(json!("W1"), json!("P".repeat(513))), Invalid),
        (with_value("messages", value(json!({"messages": [{"id": "m\u{0}"}]}))), Invalid),
        (with_value("messages", json!({"messages": []})), Missing),
        (with_value("account_update", json!({"waba_info": {"waba_id": 5}})), Missing),
    ] {
        assert_eq!(parse(&WhatsApp, JSON, &serde_json::to_vec(&body).unwrap()).unwrap_err(), want, "{body}");
    }
}

#[test]
fn account_changes_are_about_the_account_they_name() {
    let removed = |time: u32| {
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "W1", "time": time, "changes": [
            {"field": "account_update", "value": {"event": "PARTNER_REMOVED", "waba_info": {"waba_id": "W2"}}}]}]});
        events(&body).remove(0)
    };
    let event = removed(1);
    assert_eq!(event.account, AccountClaim::WhatsApp { waba_id: "W2".into(), phone_number_id: None });
    assert!(event.dedupe_key.starts_with("waba:W2:account_update:") && event.provider_event_id.len() == 32);
    assert_eq!(event.dedupe_key, removed(1).dedupe_key);
    assert_ne!(event.dedupe_key, removed(2).dedupe_key);
}

#[test]
fn a_message_is_rendered_for_the_number() {
    let render = |conversation: &str, text: Option<&str>, native: Option<Value>| {
        let mut said = message(text, native);
        said.conversation = conversation.into();
        shown(
            &WhatsApp
                .render(&said, &account(ProviderKind::WhatsApp), &Secret::new("EAA1".into()), "https://graph.facebook.com/v23.0/")
                .unwrap(),
        )
    };
    let (line, headers, body) = render("16505550123", Some("hi"), None);
    assert_eq!(line, "POST https://graph.facebook.com/v23.0/118/messages");
    assert_eq!(headers, ["content-type: application/json; charset=utf-8", "authorization: Bearer EAA1"]);
    let want = json!({"messaging_product": "whatsapp", "recipient_type": "individual", "to": "16505550123", "type": "text", "text": {"body": "hi"}});
    assert_eq!(body, want);
    let (_, _, body) = render("US.13491208655302741918", Some("hi"), Some(json!({"context": {"message_id": "wamid.1"}})));
    assert_eq!(
        (body["recipient"].as_str(), body.get("to"), &body["context"]),
        (Some("US.13491208655302741918"), None, &json!({"message_id": "wamid.1"}))
    );
    let (_, _, body) = render("1", None, Some(json!({"type": "template", "template": {"name": "x"}})));
    assert_eq!((body["type"].as_str(), body.get("text")), (Some("template"), None));
}

#[test]
fn what_may_not_be_sent_is_refused() {
    let render = |m, account: &ExternalAccount| WhatsApp.render(&m, account, &Secret::new("EAA1".into()), "https://g").map(|_| ());
    let ours = account(ProviderKind::WhatsApp);
    let invalid = Err(ReasonCode::EgressMessageInvalid);
    for name in super::RESERVED {
        assert_eq!(render(message(Some("hi"), Some(json!({*name: "x"}))), &ours), invalid, "{name}");
    }
    assert_eq!(render(message(None, None), &ours), invalid);
    assert_eq!(render(message(Some(&"x".repeat(4097)), None), &ours), invalid);
    assert_eq!(render(message(None, Some(json!({"type": "text", "text": {"body": "x".repeat(4097)}}))), &ours), invalid);
    let escape = ExternalAccount::WhatsApp { waba_id: "1".into(), phone_number_id: "../me".into() };
    assert_eq!(render(message(Some("hi"), None), &escape), invalid);
    assert_eq!(render(message(Some("hi"), None), &account(ProviderKind::Slack)), invalid);
}

#[test]
fn receipts_are_read_from_the_error_code() {
    let read = |status, headers: &[(&str, &str)], body: &str| format!("{:?}", WhatsApp.read_receipt(&answer(status, headers, body)));
    let fault = |code: i64, message: &str| json!({"error": {"code": code, "message": message, "type": "OAuthException"}}).to_string();
    let shown: Vec<String> = vec![
        read(200, &[], r#"{"messaging_product":"whatsapp","messages":[{"id":"wamid.1"}]}"#),
        read(401, &[], &fault(190, "Malformed access token EAAshort")),
        read(403, &[], &fault(200, "no permission")),
        read(403, &[], &fault(131_005, "Access denied")),
        read(400, &[], &fault(131_047, "Re-engagement message")),
        read(400, &[], &fault(131_026, "Message undeliverable")),
        read(400, &[("retry-after", "3")], &fault(130_429, "Rate limit hit")),
        read(400, &[], &fault(131_056, "(#131056) pair rate limit")),
        read(500, &[], &fault(131_000, "Something went wrong")),
        read(400, &[], r#"{"error":{"code":99,"message":"x","is_transient":true}}"#),
        read(429, &[("retry-after", "60")], ""),
        read(503, &[], "<html>"),
        read(401, &[], ""),
        read(404, &[], ""),
        read(200, &[], "{}"),
    ];
    insta::assert_snapshot!(shown.join("\n"), @r##"
    Sent { provider_message_id: "wamid.1" }
    CredentialDead { error: "190" }
    CredentialDead { error: "200" }
    CredentialDead { error: "131005" }
    Rejected { error: "131047 Re-engagement message" }
    Rejected { error: "131026 Message undeliverable" }
    RateLimited { retry_after_s: Some(3), error: "130429 Rate limit hit" }
    RateLimited { retry_after_s: None, error: "131056 (#131056) pair rate limit" }
    Unavailable { error: "131000 Something went wrong" }
    Unavailable { error: "99 x" }
    RateLimited { retry_after_s: Some(60), error: "http 429" }
    Unavailable { error: "http 503" }
    CredentialDead { error: "http 401" }
    Rejected { error: "http 404" }
    Unknown { error: "unreadable answer" }
    "##);
}

proptest! {
    /// Splitting a batch keeps every message, once, with its own text.
    #[test]
    fn every_message_of_a_batch_comes_out_once(counts in proptest::collection::vec(0usize..5, 1..5)) {
        let mut next = 0;
        let changes: Vec<Value> = counts.iter().map(|count| {
            let messages: Vec<Value> = (0..*count).map(|_| { next += 1; json!({"id": format!("m{next}"), "from": "1", "type": "text", "text": {"body": format!("t{next}")}}) }).collect();
            json!({"field": "messages", "value": value(json!({"messages": messages, "statuses": [{"id": format!("s{next}"), "status": "sent"}]}))})
        }).collect();
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "W1", "changes": changes}]});
        let got = events(&body);
        let texts: Vec<String> = got.iter().filter_map(|e| e.normal.text.clone()).collect();
        prop_assert_eq!(texts, (1..=next).map(|n| format!("t{n}")).collect::<Vec<_>>());
        prop_assert_eq!(got.len(), next + counts.len());
    }
}
