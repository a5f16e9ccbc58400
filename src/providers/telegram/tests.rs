use serde_json::{Value, json};

use super::super::Provider as _;
use super::super::conformance::{NOW, account, answer, fixture, head, message, parse, parse_events, secrets, shown};
use super::{JSON, Telegram};
use crate::domain::installation::ProviderKind;
use crate::domain::message::{AccountClaim, ConversationKind, EventKind, InboundEvent};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;

const TOKEN: &str = "7100000001:AAHinventedBotTokenValue0000000000000";

#[test]
fn the_secret_header_alone_is_the_proof() {
    use ReasonCode as R;
    let name = "X-Telegram-Bot-Api-Secret-Token";
    let inspect = |headers: &[(&str, &str)]| {
        Telegram.inspect(&head(ProviderKind::Telegram, headers), &secrets(&["Zk3_acme-9vQx7LmN2pRt"]).unwrap(), NOW).map(|_| ())
    };
    assert_eq!(inspect(&[(name, "Zk3_acme-9vQx7LmN2pRt")]), Ok(()));
    assert_eq!(inspect(&[]), Err(R::AuthnSecretMissing));
    for wrong in ["", "Zk3_acme-9vQx7LmN2pR", "Zk3_acme-9vQx7LmN2pRtx", "zk3_acme-9vqx7lmn2prt", "é"] {
        assert_eq!(inspect(&[(name, wrong)]), Err(R::AuthnSecretMismatch), "{wrong}");
    }
    assert_eq!(inspect(&[(name, "Zk3_acme-9vQx7LmN2pRt"), (name, "x")]), Err(R::AuthnHeaderDuplicated));
}

fn one(body: &Value) -> InboundEvent {
    parse_events(&Telegram, JSON, &serde_json::to_vec(body).unwrap()).remove(0)
}

fn said(extra: Value) -> Value {
    let mut message = json!({"message_id": 1, "from": {"id": 5, "is_bot": false, "first_name": "Ana", "last_name": "Lima"},
        "chat": {"id": -100, "type": "supergroup"}, "date": 1, "text": "hi"});
    message.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"update_id": 9, "message": message})
}

#[test]
fn kinds_follow_the_update() {
    use EventKind as K;
    let private = json!({"id": 5, "type": "private"});
    let member = |chat: &Value, old: Value, new: Value| json!({"update_id": 9, "my_chat_member": {"chat": chat, "from": {"id": 5}, "old_chat_member": old, "new_chat_member": new}});
    let group = json!({"id": -1, "type": "group"});
    let status = |word: &str| json!({"status": word});
    let mention = |text: &str, offset: u32, length: u32| {
        said(json!({"text": text, "entities": [{"type": "mention", "offset": offset, "length": length}]}))
    };
    let cases = [
        (said(json!({})), K::Message),
        (said(json!({"chat": private})), K::MessageDirect),
        (mention("@acme_bot x", 0, 9), K::MessageMention),
        (mention("👩‍💻 @AcmeBot", 6, 8), K::MessageMention),
        // The same offset in code points or bytes would name nobody.
        (mention("👩‍💻 @AcmeBot", 4, 8), K::Message),
        (mention("@alice ok bot", 0, 6), K::Message),
        (mention("@acme_bot", 3, 999), K::Message),
        (mention("@acme_bot", 4_000_000_000, 4_000_000_000), K::Message),
        (said(json!({"entities": [{"type": "mention", "offset": -1, "length": 2}]})), K::Message),
        (
            said(json!({"entities": [{"type": "text_mention", "offset": 0, "length": 2, "user": {"id": 7, "is_bot": true}}]})),
            K::MessageMention,
        ),
        (said(json!({"voice": {"file_id": "v1"}})), K::MessageMedia),
        (said(json!({"new_chat_members": [{"id": 6}]})), K::Membership),
        (said(json!({"left_chat_member": {"id": 6}})), K::Membership),
        (said(json!({"migrate_from_chat_id": -4})), K::ChatMigrated),
        (json!({"update_id": 9, "message": {"message_id": 1, "chat": group, "new_chat_title": "x"}}), K::Other),
        (json!({"update_id": 9, "edited_channel_post": {"chat": group, "text": "x"}}), K::MessageEdited),
        (json!({"update_id": 9, "deleted_business_messages": {"chat": private, "message_ids": [1]}}), K::MessageDeleted),
        (
            json!({"update_id": 9, "message_reaction": {"chat": group, "message_id": 4, "user": {"id": 5}, "new_reaction": [{"type": "emoji", "emoji": "👍"}]}}),
            K::Reaction,
        ),
        (json!({"update_id": 9, "chat_member": {"chat": group, "from": {"id": 5}}}), K::Membership),
        (member(&private, status("member"), status("kicked")), K::Blocked),
        (member(&private, status("kicked"), status("member")), K::Unblocked),
        (member(&group, status("left"), status("administrator")), K::ChatJoined),
        (member(&group, status("kicked"), json!({"status": "restricted", "is_member": true})), K::ChatJoined),
        (member(&group, status("member"), status("kicked")), K::ChatLeft),
        (member(&group, status("member"), json!({"status": "restricted", "is_member": false})), K::ChatLeft),
        (member(&group, status("member"), status("administrator")), K::Membership),
        (json!({"update_id": 9, "invented_in_2031": {"id": "x"}}), K::Other),
        (json!({"update_id": 9, "poll": {"id": "1"}}), K::Other),
        (json!({"update_id": 9}), K::Other),
    ];
    for (body, want) in cases {
        assert_eq!(one(&body).kind, want, "{body}");
    }
    assert_eq!(one(&json!({"update_id": 9, "bot_id": 1, "invented": {}})).provider_event_type, "invented");
    assert_eq!(
        one(&json!({"update_id": 9, "message": said(json!({}))["message"], "bot_id": 7, "org": {"id": "x"}})).kind,
        EventKind::Message
    );
}

#[test]
fn what_an_agent_is_told() {
    let topic = parse_events(&Telegram, JSON, &fixture("providers/telegram/message_group_topic.json")).remove(0);
    let place = topic.normal.conversation.unwrap();
    assert_eq!((place.kind, place.thread.as_deref()), (ConversationKind::Thread, Some("42")));
    let admin = parse_events(&Telegram, JSON, &fixture("providers/telegram/message_anonymous_admin.json")).remove(0);
    let sender = admin.normal.sender.unwrap();
    assert_eq!((sender.id.as_str(), sender.name.as_deref(), sender.is_bot), ("-1002100000001", Some("Ops Forum"), false));
    let post = parse_events(&Telegram, JSON, &fixture("providers/telegram/channel_post.json")).remove(0);
    assert_eq!((post.normal.sender, post.normal.conversation.unwrap().kind), (None, ConversationKind::Channel));
    let photo = parse_events(&Telegram, JSON, &fixture("providers/telegram/message_photo_caption.json")).remove(0);
    assert_eq!((photo.normal.attachments[0].id.as_str(), photo.normal.attachments.len()), ("AgACAgQAAxkBAAIBDmX1inventedLarge", 1));
    assert_eq!((photo.normal.text.as_deref(), photo.normal.sender.unwrap().name.as_deref()), (Some("o recibo"), Some("Ana Lima")));
    let pressed = parse_events(&Telegram, JSON, &fixture("providers/telegram/callback_query.json")).remove(0);
    assert_eq!((pressed.normal.text.as_deref(), pressed.normal.reply_to.as_deref()), (Some("appr:77:y"), Some("13")));
    assert_eq!(pressed.account, AccountClaim::Telegram { chat_id: Some("5100000001".into()) });
    let inline = parse_events(&Telegram, JSON, &fixture("providers/telegram/inline_query.json")).remove(0);
    assert_eq!((inline.account, inline.normal.text.as_deref()), (AccountClaim::Telegram { chat_id: None }, Some("pizza 🍕")));
    let animation = one(&said(json!({"animation": {"file_id": "a", "mime_type": "video/mp4"}, "document": {"file_id": "a"}})));
    assert_eq!(animation.normal.attachments.len(), 1);
    // In a topic, everything answers the message that opened it; that is no reply.
    let topic = |to: u32| {
        one(&said(json!({"message_thread_id": 42, "is_topic_message": true, "reply_to_message": {"message_id": to}}))).normal.reply_to
    };
    assert_eq!((topic(42), topic(43).as_deref()), (None, Some("43")));
}

#[test]
fn ids_keep_their_digits() {
    let event = one(&json!({"update_id": 9_007_199_254_740_993_i64, "message": {"chat": {"id": i64::MIN, "type": "group"}, "text": "x"}}));
    assert_eq!(event.dedupe_key, "9007199254740993");
    assert_eq!(event.account, AccountClaim::Telegram { chat_id: Some(i64::MIN.to_string()) });
}

#[test]
fn a_body_that_is_no_update_is_refused() {
    use ReasonCode::{AuthnIdentityInvalid as Invalid, AuthnIdentityMissing as Missing, IngressPayloadMalformed as Malformed};
    for (body, want) in [
        (json!({}), Malformed),
        (json!({"update_id": "9"}), Malformed),
        (json!({"update_id": 1.5}), Malformed),
        (json!({"update_id": 9, "message": []}), Malformed),
        (json!({"update_id": 9, "message": null}), Malformed),
        (json!({"update_id": 9, "message": {"chat": {"id": 1}}, "callback_query": {}}), Malformed),
        (json!({"update_id": 9, "message": {"text": "x"}}), Missing),
        (json!({"update_id": 9, "message": {"chat": {"id": null}}}), Missing),
        (json!({"update_id": 9, "message": {"chat": {"id": "5"}}}), Missing),
        (json!({"update_id": 9, "my_chat_member": {"chat": 5}}), Missing),
        (json!({"update_id": 9, "message": {"chat": {"id": 5}, "from": {"id": "x"}}}), Missing),
        (json!({"update_id": 9, "x\n": {}}), Invalid),
    ] {
        assert_eq!(parse(&Telegram, JSON, &serde_json::to_vec(&body).unwrap()).unwrap_err(), want, "{body}");
    }
}

#[test]
fn a_message_is_rendered_for_send_message() {
    let mut said = message(Some("hi"), Some(json!({"parse_mode": "HTML", "reply_parameters": {"message_id": 3, "chat_id": -1001}})));
    said.conversation = "-1001".into();
    said.thread = Some("42".into());
    let request =
        Telegram.render(&said, &account(ProviderKind::Telegram), &Secret::new(TOKEN.into()), "https://api.telegram.org/").unwrap();
    assert!(!format!("{request:?}").contains("AAHinvented"));
    let (line, headers, body) = shown(&request);
    assert_eq!(line, format!("POST https://api.telegram.org/bot{TOKEN}/sendMessage"));
    assert_eq!(headers, ["content-type: application/json; charset=utf-8"]);
    let want = json!({"chat_id": -1001, "text": "hi", "message_thread_id": 42, "parse_mode": "HTML",
        "reply_parameters": {"message_id": 3, "chat_id": -1001}});
    assert_eq!(body, want);
    said.conversation = "@acme_news".into();
    said.native = None;
    let (_, _, body) = shown(&Telegram.render(&said, &account(ProviderKind::Telegram), &Secret::new(TOKEN.into()), "https://t").unwrap());
    assert_eq!(body["chat_id"], "@acme_news");
}

#[test]
fn what_may_not_be_sent_is_refused() {
    let render = |m| Telegram.render(&m, &account(ProviderKind::Telegram), &Secret::new(TOKEN.into()), "https://t").map(|_| ());
    let invalid = Err(ReasonCode::EgressMessageInvalid);
    for name in super::RESERVED {
        assert_eq!(render(message(Some("hi"), Some(json!({*name: 1})))), invalid, "{name}");
    }
    for quote in [json!({"message_id": 1, "chat_id": -9}), json!("{\"chat_id\":-9}")] {
        assert_eq!(render(message(Some("hi"), Some(json!({"reply_parameters": quote})))), invalid);
    }
    assert_eq!(render(message(None, None)), invalid);
    assert_eq!(render(message(Some(&"x".repeat(4097)), None)), invalid);
    assert_eq!(render(message(Some(&"é".repeat(4096)), None)), Ok(()));
    let mut threaded = message(Some("hi"), None);
    threaded.thread = Some("1.0".into());
    assert_eq!(render(threaded), invalid);
}

#[test]
fn receipts_are_read_from_the_error_code() {
    let read = |status, headers: &[(&str, &str)], body: &str| format!("{:?}", Telegram.read_receipt(&answer(status, headers, body)));
    let shown: Vec<String> = vec![
        read(200, &[], r#"{"ok":true,"result":{"message_id":77}}"#),
        read(401, &[], r#"{"ok":false,"error_code":401,"description":"Unauthorized"}"#),
        read(403, &[], r#"{"ok":false,"error_code":403,"description":"Forbidden: bot was blocked by the user"}"#),
        read(400, &[], r#"{"ok":false,"error_code":400,"description":"Bad Request: chat not found"}"#),
        read(429, &[], r#"{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}"#),
        read(429, &[("retry-after", "9")], "{}"),
        read(500, &[], r#"{"ok":false,"error_code":500,"description":"restart"}"#),
        read(502, &[], "<html>"),
        read(404, &[], r#"{"ok":false,"error_code":404,"description":"Not Found: /bot7100000001:AAHinv/x"}"#),
        read(200, &[], "<html>"),
    ];
    insta::assert_snapshot!(shown.join("\n"), @r#"
    Sent { provider_message_id: "77" }
    CredentialDead { error: "Unauthorized" }
    Rejected { error: "Forbidden: bot was blocked by the user" }
    Rejected { error: "Bad Request: chat not found" }
    RateLimited { retry_after_s: Some(7), error: "Too Many Requests: retry after 7" }
    RateLimited { retry_after_s: Some(9), error: "http 429" }
    Unavailable { error: "restart" }
    Unavailable { error: "http 502" }
    Rejected { error: "Not Found: [withheld]" }
    Unknown { error: "unreadable answer" }
    "#);
}

#[test]
fn secrets_and_credentials_have_a_form() {
    assert!(Telegram.secret_form("Zk3_acme-9vQx") && Telegram.secret_form(&"a".repeat(256)));
    for bad in ["", "a b", "a:b", "é", &"a".repeat(257)] {
        assert!(!Telegram.secret_form(bad), "{bad}");
    }
    let ours = account(ProviderKind::Telegram);
    assert!(Telegram.credential_fits(TOKEN, &ours));
    for bad in [
        "7100000002:AAH",
        "7100000001",
        "7100000001:",
        ":AAH",
        "7100000001:AAH/../x",
        "7100000001:A A",
        &format!("7100000001:{}", "a".repeat(70)),
    ] {
        assert!(!Telegram.credential_fits(bad, &ours), "{bad}");
    }
    assert!(!Telegram.credential_fits(TOKEN, &account(ProviderKind::Slack)));
}
