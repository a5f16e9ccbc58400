use serde_json::json;

use super::*;
use crate::domain::clock::Timestamp;
use crate::providers::conformance::answer;
use crate::wire::Piece;
use crate::wire::form::Body;

const GATEWAY: &str = "https://gw.example";

fn account(kind: ProviderKind) -> ExternalAccount {
    match kind {
        ProviderKind::Slack => ExternalAccount::Slack { team_id: Some("T1".into()), enterprise_id: None },
        ProviderKind::Telegram => ExternalAccount::Telegram { bot_id: "7001".into(), chats: Vec::new() },
        ProviderKind::WhatsApp => ExternalAccount::WhatsApp { waba_id: "1".into(), phone_number_id: "2".into() },
    }
}

struct Line {
    kind: ProviderKind,
    http: Method,
    path: Vec<String>,
    arguments: Arguments,
}

impl Line {
    fn asked(&self) -> Asked<'_> {
        Asked { http: &self.http, path: &self.path, arguments: &self.arguments, gateway: GATEWAY, upload: None }
    }

    fn tell(&self) -> Result<Told, ReasonCode> {
        tell(self.kind, &self.asked(), &account(self.kind)).map_err(|untold| untold.code)
    }

    fn url(&self, credential: &str, base: &str) -> String {
        let written = self.arguments.write("B").unwrap();
        let request = of(self.kind).rebuild(&self.asked(), &account(self.kind), &written, &Secret::new(credential.into()), base).unwrap();
        request.url.expose().to_owned()
    }
}

/// A call by the path below the provider's part, with a JSON body.
fn line(kind: ProviderKind, http: Method, path: &str, body: Value) -> Line {
    let path = of(kind).locate(path).unwrap_or_else(|| panic!("{path}")).path;
    let body = match body {
        Value::Object(fields) => Body::Json(fields),
        _ => Body::Empty,
    };
    Line { kind, http, path: path.into_iter().map(str::to_owned).collect(), arguments: Arguments { query: Vec::new(), body } }
}

fn slack(method: &str, body: Value) -> Line {
    line(ProviderKind::Slack, Method::POST, &format!("api/{method}"), body)
}

fn telegram(method: &str, body: Value) -> Line {
    line(ProviderKind::Telegram, Method::POST, &format!("bot1:agent/{method}"), body)
}

fn whatsapp(http: Method, path: &str, body: Value) -> Line {
    line(ProviderKind::WhatsApp, http, &format!("v25.0/{path}"), body)
}

/// `Message(C1, thread)`, `Plain` and so on.
fn shown(line: &Line) -> String {
    match line.tell() {
        Ok(told) => match told.kind {
            Kind::Message { conversation, thread } => format!("{} says in {conversation}/{}", told.method, thread.unwrap_or_default()),
            Kind::Own(status, _) => format!("{} own {status}", told.method),
            kind => format!("{} {kind:?}", told.method),
        },
        Err(code) => code.to_string(),
    }
}

#[test]
fn slack_s_methods_are_told_apart() {
    for (method, body, wanted) in [
        ("auth.test", json!({}), "auth.test Plain"),
        ("conversations.list", json!({"cursor": "x"}), "conversations.list Plain"),
        ("chat.postMessage", json!({"channel": "C1", "thread_ts": "1.2"}), "chat.postMessage says in C1/1.2"),
        ("chat.update", json!({"channel": "C1", "ts": "1.2"}), "chat.update says in C1/"),
        ("reactions.add", json!({"channel": "C1"}), "reactions.add says in C1/"),
        ("assistant.threads.setStatus", json!({"channel_id": "C1"}), "assistant.threads.setStatus says in C1/"),
        ("chat.postMessage", json!({"text": "x"}), "egress.message_invalid"),
        ("chat.postMessage", json!({"channel": "#secret"}), "egress.conversation_form"),
        ("chat.postMessage", json!({"channel": "secret"}), "egress.conversation_form"),
        ("chat.postMessage", json!({"channel": " C1"}), "egress.conversation_form"),
        ("chat.postMessage", json!({"channel": "c1"}), "egress.conversation_form"),
        ("chat.postMessage", json!({"channel": "U1"}), "egress.conversation_form"),
        ("conversations.history", json!({"channel": "secret"}), "egress.conversation_form"),
        ("files.list", json!({"channel": "#secret"}), "egress.conversation_form"),
        ("conversations.open", json!({"channel": "U1"}), "egress.conversation_form"),
        ("files.completeUploadExternal", json!({"channels": "#secret"}), "egress.conversation_form"),
        ("chat.postMessage", json!({"channel": ["C1", "C2"]}), "egress.message_invalid"),
        ("chat.postMessage", json!({"channel": "C1", "as_user": true}), "egress.message_invalid"),
        ("chat.postMessage", json!({"channel": "C1", "team_id": "T2"}), "egress.message_invalid"),
        ("chat.postMessage", json!({"channel": "C1", "team_id": "T1"}), "chat.postMessage says in C1/"),
        ("files.getUploadURLExternal", json!({"filename": "a"}), "files.getUploadURLExternal Plain"),
        ("files.completeUploadExternal", json!({"files": []}), "files.completeUploadExternal Plain"),
        ("files.completeUploadExternal", json!({"channel_id": "C1"}), "files.completeUploadExternal says in C1/"),
        ("files.completeUploadExternal", json!({"channels": "C1"}), "files.completeUploadExternal says in C1/"),
        ("files.completeUploadExternal", json!({"channels": "C1,C2"}), "egress.message_invalid"),
        ("files.completeUploadExternal", json!({"channels": "C1", "channel_id": "C2"}), "egress.message_invalid"),
        ("auth.revoke", json!({}), "egress.method_reserved"),
        ("oauth.v2.access", json!({}), "egress.method_reserved"),
        ("apps.uninstall", json!({}), "egress.method_reserved"),
        ("apps.manifest.update", json!({}), "egress.method_reserved"),
        ("apps.connections.open", json!({}), "egress.method_reserved"),
        ("apps.event.authorizations.list", json!({}), "egress.method_reserved"),
        ("tooling.tokens.rotate", json!({}), "egress.method_reserved"),
        ("admin.users.remove", json!({}), "egress.method_reserved"),
        ("rtm.connect", json!({}), "egress.method_reserved"),
        ("chat.postmessage", json!({"channel": "C1"}), "egress.method_unknown"),
        ("Chat.postMessage", json!({"channel": "C1"}), "egress.method_unknown"),
    ] {
        assert_eq!(shown(&slack(method, body.clone())), wanted, "{method} {body}");
    }
    assert_eq!(line(ProviderKind::Slack, Method::DELETE, "api/auth.test", json!({})).tell(), Err(ReasonCode::EgressMessageInvalid));
}

#[test]
fn telegram_s_methods_are_told_apart() {
    for (method, body, wanted) in [
        ("getMe", json!({}), "getMe Plain"),
        ("sendMessage", json!({"chat_id": -1001, "message_thread_id": 7}), "sendMessage says in -1001/7"),
        ("sendMessage", json!({"chat_id": "-1001"}), "sendMessage says in -1001/"),
        ("sendMessage", json!({"chat_id": "@acme_help"}), "egress.conversation_form"),
        ("sendMessage", json!({"chat_id": " 5"}), "egress.conversation_form"),
        ("sendMessage", json!({"chat_id": "+5"}), "egress.conversation_form"),
        ("sendMessage", json!({"chat_id": "05"}), "egress.conversation_form"),
        ("sendMessage", json!({"chat_id": 0}), "egress.conversation_form"),
        ("getChat", json!({"chat_id": "@acme_help"}), "egress.conversation_form"),
        ("copyMessage", json!({"chat_id": 5, "from_chat_id": "@acme_help"}), "egress.conversation_form"),
        ("sendMessage", json!({"chat_id": 5, "reply_parameters": {"chat_id": "@acme_help"}}), "egress.conversation_form"),
        ("getMyCommands", json!({"scope": {"type": "chat", "chat_id": "@acme_help"}}), "egress.conversation_form"),
        ("sendMessage", json!({}), "egress.message_invalid"),
        ("sendMessage", json!({"chat_id": 5, "business_connection_id": "b"}), "egress.message_invalid"),
        ("editMessageText", json!({"inline_message_id": "x"}), "egress.message_invalid"),
        ("sendMessage", json!({"chat_id": 5, "reply_parameters": "{\"chat_id\": 1, \"chat_id\": 5}"}), "egress.message_invalid"),
        ("setMyCommands", json!({}), "setMyCommands Account"),
        ("setWebhook", json!({"url": "https://evil.example"}), "setWebhook own 200"),
        ("deleteWebhook", json!({}), "deleteWebhook own 200"),
        ("getWebhookInfo", json!({}), "getWebhookInfo own 200"),
        ("getUpdates", json!({}), "getUpdates own 409"),
        ("logOut", json!({}), "egress.method_reserved"),
        ("close", json!({}), "egress.method_reserved"),
        ("getManagedBotToken", json!({"user_id": 1}), "egress.method_reserved"),
        ("replaceManagedBotToken", json!({"user_id": 1}), "egress.method_reserved"),
        // Telegram itself does not mind the case.
        ("SETWEBHOOK", json!({}), "egress.method_unknown"),
        ("setwebhook", json!({}), "egress.method_unknown"),
        ("banChatMember", json!({"chat_id": 5}), "egress.method_unknown"),
    ] {
        assert_eq!(shown(&telegram(method, body.clone())), wanted, "{method} {body}");
    }
    let touched = |method: &str, body: Value| -> Vec<String> {
        telegram(method, body).tell().unwrap().touches.into_iter().map(|t| format!("{} {}", t.effect.as_str(), t.conversation)).collect()
    };
    assert_eq!(touched("forwardMessage", json!({"chat_id": 5, "from_chat_id": -7})), ["read -7"]);
    assert_eq!(touched("getChat", json!({"chat_id": -7})), ["read -7"]);
    assert_eq!(touched("sendMessage", json!({"chat_id": 5, "reply_parameters": {"message_id": 1, "chat_id": -7}})), ["read -7"]);
    assert_eq!(touched("sendMessage", json!({"chat_id": 5, "reply_parameters": "{\"message_id\": 1, \"chat_id\": -7}"})), ["read -7"]);
    assert_eq!(touched("sendMessage", json!({"chat_id": 5, "reply_parameters": {"message_id": 1}})), Vec::<String>::new());
    assert_eq!(touched("getMyCommands", json!({"scope": "{\"type\": \"chat\", \"chat_id\": -7}"})), ["read -7"]);
    let Kind::Own(_, info) = telegram("getWebhookInfo", json!({})).tell().unwrap().kind else { panic!() };
    assert_eq!(info["result"]["url"], "https://gw.example/webhooks/telegram", "the address alone, not what makes it unguessable");
    let Kind::Own(_, set) = telegram("setWebhook", json!({"url": "https://evil.example"})).tell().unwrap().kind else { panic!() };
    assert_eq!((&set["ok"], &set["result"]), (&json!(true), &json!(true)));
}

#[test]
fn whatsapp_s_nodes_are_told_apart() {
    use Method as M;
    let text = |to: Value| json!({"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": "x"}});
    for (http, path, body, wanted) in [
        (M::POST, "2/messages", text(json!("15550001")), "messages says in 15550001/"),
        (M::POST, "2/messages", json!({"recipient": "US.13"}), "messages says in US.13/"),
        (M::POST, "2/messages", text(json!("+1 555-0001")), "egress.conversation_form"),
        (M::POST, "2/messages", text(json!("0015550001")), "egress.conversation_form"),
        (M::POST, "2/messages", text(json!("US.13")), "egress.conversation_form"),
        (M::POST, "2/messages", text(json!("Z3JvdXAtaWQ=")), "egress.conversation_form"),
        (M::POST, "2/messages", json!({"recipient": "15550001"}), "egress.conversation_form"),
        (M::POST, "2/messages", json!({"to": "Z3JvdXAtaWQ=", "recipient_type": "group"}), "messages says in Z3JvdXAtaWQ=/"),
        (M::POST, "2/messages", json!({"to": "15550001", "recipient_type": "group"}), "egress.conversation_form"),
        (M::POST, "2/messages", json!({"recipient": "US.13", "to": "1"}), "egress.message_invalid"),
        (M::POST, "2/messages", text(json!(null)), "egress.message_invalid"),
        (M::POST, "2/messages", json!({"status": "read", "message_id": "wamid.1"}), "messages Plain"),
        (M::POST, "2/messages", json!({"status": "read", "message_id": "wamid.1", "to": "1"}), "egress.message_invalid"),
        (M::POST, "2/messages", json!({"status": "deleted", "message_id": "wamid.1"}), "egress.message_invalid"),
        (M::POST, "3/messages", text(json!("1")), "egress.not_found"),
        (M::POST, "2/messages", json!({"to": "1", "access_token": "EAA"}), "egress.method_reserved"),
        (M::POST, "2/messages", json!({"to": "1", "method": "DELETE"}), "egress.method_reserved"),
        (M::POST, "2/media", json!({"file": "x"}), "egress.message_invalid"),
        (M::GET, "777", Value::Null, "media.get Plain"),
        (M::DELETE, "777", Value::Null, "egress.method_reserved"),
        (M::POST, "777", json!({"name": "x"}), "egress.method_reserved"),
        (M::GET, "2", Value::Null, "phone_number.get Plain"),
        (M::POST, "2", json!({"webhook_configuration": {}}), "egress.method_reserved"),
        (M::POST, "1/subscribed_apps", Value::Null, "egress.method_reserved"),
        (M::POST, "1/subscribed_apps", json!({"override_callback_uri": "https://evil.example"}), "egress.method_reserved"),
        (M::POST, "99/subscriptions", Value::Null, "egress.method_reserved"),
        (M::GET, "oauth/access_token", Value::Null, "egress.method_reserved"),
        (M::POST, "2/register", Value::Null, "egress.method_reserved"),
        (M::POST, "2/deregister", Value::Null, "egress.method_reserved"),
        (M::POST, "2/settings", Value::Null, "egress.method_reserved"),
        (M::GET, "me", Value::Null, "egress.method_reserved"),
        (M::GET, "1/message_templates", Value::Null, "egress.method_unknown"),
    ] {
        let what = format!("{http} {path} {body}");
        assert_eq!(shown(&whatsapp(http, path, body)), wanted, "{what}");
    }
    let with = |query: &[(&str, &str)]| {
        let mut line = whatsapp(Method::GET, "777", Value::Null);
        line.arguments.query = query.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        shown(&line)
    };
    assert_eq!(with(&[("phone_number_id", "2")]), "media.get Plain");
    assert_eq!(with(&[("phone_number_id", "3")]), "egress.not_found");
    assert_eq!(with(&[("access_token", "EAA")]), "egress.method_reserved");
    assert_eq!(with(&[("fields", "owner")]), "egress.method_reserved", "a bare number with fields could be read for anything");
    assert_eq!(with(&[("summary", "1")]), "egress.message_invalid");
}

#[test]
fn paths_are_those_of_the_sdks_and_no_other() {
    let path = |kind, path| of(kind).locate(path).map(|l| (l.token.map(Cow::into_owned), l.path.join("/")));
    let token = |text: &str| Some(text.to_owned());
    use ProviderKind as P;
    assert_eq!(path(P::Slack, "api/chat.postMessage"), Some((None, "chat.postMessage".into())));
    assert_eq!(path(P::Telegram, "bot1:a-b_c/getMe"), Some((token("1:a-b_c"), "getMe".into())));
    assert_eq!(path(P::Telegram, "bot1%3Aa/getMe"), Some((token("1:a"), "getMe".into())));
    assert_eq!(path(P::Telegram, "file/bot1:a/photos/f_1.jpg"), Some((token("1:a"), "file/photos/f_1.jpg".into())));
    assert_eq!(path(P::WhatsApp, "v23.0/2/messages"), Some((None, "v23.0/2/messages".into())));
    for (kind, not) in [
        (P::Slack, ""),
        (P::Slack, "api"),
        (P::Slack, "api/"),
        (P::Slack, "api/.."),
        (P::Slack, "api/a/b"),
        (P::Slack, "api/a%2Fb"),
        (P::Slack, "https://slack.com/api/auth.test"),
        (P::Telegram, "sendMessage"),
        (P::Telegram, "bot/getMe"),
        (P::Telegram, "bot1:a/"),
        (P::Telegram, "bot1:a/file"),
        (P::Telegram, "bot1:a/a/b"),
        (P::Telegram, "bot1%2Fa/getMe"),
        (P::Telegram, "file/bot1:a/../../bot1:a/getMe"),
        (P::Telegram, "file/bot1:a/photos//f"),
        (P::WhatsApp, "2/messages"),
        (P::WhatsApp, "v23.0"),
        (P::WhatsApp, "v23.0/2/messages/3"),
        (P::WhatsApp, "v23.0/../messages"),
    ] {
        assert_eq!(path(kind, not), None, "{not}");
    }
}

#[test]
fn requests_are_built_anew_with_the_provider_s_token() {
    let wa = whatsapp(Method::GET, "777", Value::Null);
    assert_eq!(wa.url("EAA", "https://graph.facebook.com/v23.0/"), "https://graph.facebook.com/v25.0/777?phone_number_id=2");
    assert_eq!(wa.url("EAA", "http://127.0.0.1:1/graph"), "http://127.0.0.1:1/graph/777?phone_number_id=2");
    let tg = telegram("getMe", json!({}));
    assert_eq!(tg.url("7001:AA", "https://api.telegram.org/"), "https://api.telegram.org/bot7001:AA/getMe");
    let file = line(ProviderKind::Telegram, Method::GET, "file/bot1:agent/documents/f_1.pdf", Value::Null);
    assert_eq!(file.tell().unwrap().kind, Kind::File);
    assert_eq!(file.url("7001:AA", "https://api.telegram.org"), "https://api.telegram.org/file/bot7001:AA/documents/f_1.pdf");
    let any = slack("auth.test", json!({}));
    let upload = Asked { upload: Some("https://files.slack.com/upload/v1/x"), ..any.asked() };
    let body = Body::Raw("text/plain".into(), Piece::Bytes("bytes".into()));
    let raw = Arguments { query: Vec::new(), body }.write("B").unwrap();
    let request = of(ProviderKind::Slack).rebuild(
        &upload,
        &account(ProviderKind::Slack),
        &raw,
        &Secret::new("xoxb".into()),
        "https://slack.com/api/",
    );
    let request = request.unwrap();
    assert_eq!(request.url.expose(), "https://files.slack.com/upload/v1/x");
    assert!(request.headers.iter().all(|(name, _)| *name != "authorization"), "its address is its own permission");
}

#[test]
fn refusals_are_what_each_sdk_raises() {
    let request = RequestId::fresh(Timestamp::from_secs(1_790_000_000));
    let refusal = |kind, code, retry_after_s| of(kind).refusal(&Refused { code, detail: "why", retry_after_s, request: &request });
    use ProviderKind as P;
    use ReasonCode as R;
    for code in ReasonCode::ALL {
        for kind in P::ALL {
            let (status, body) = refusal(kind, *code, None);
            assert!(body.to_string().contains(code.as_str()), "{kind} {code}: {body}");
            assert!(status == 200 && kind == P::Slack || status >= 400 || code.status() < 400, "{kind} {code}: {status}");
        }
    }
    let (status, body) = refusal(P::Slack, R::EgressMethodReserved, None);
    assert_eq!(
        (status, &body["ok"], &body["error"], &body["byoa"]["code"]),
        (200, &json!(false), &json!("byoa_refused"), &json!("egress.method_reserved"))
    );
    assert_eq!(refusal(P::Slack, R::EgressRateLimited, Some(7)).0, 429);
    let (status, body) = refusal(P::Telegram, R::EgressRateLimited, Some(7));
    assert_eq!((status, &body["error_code"], &body["parameters"]["retry_after"]), (429, &json!(429), &json!(7)));
    assert_eq!(refusal(P::Telegram, R::EgressNotFound, None).0, 403, "404 would say that the token is wrong");
    let (status, body) = refusal(P::WhatsApp, R::PolicyNoPermit, None);
    assert_eq!((status, &body["error"]["code"], &body["error"]["type"]), (403, &json!(200), &json!("OAuthException")));
}

#[test]
fn addresses_that_only_the_token_opens_become_the_gateway_s() {
    let link = |place: Place<'_>| match place {
        Place::File(id) => Some(format!("gw:{id}")),
        Place::Upload(url) => url.starts_with("https://files.slack.com/").then(|| "gw:up".to_owned()),
    };
    let told = |method: &str| Told::quiet(method, Kind::Plain, Effect::Read, None);
    let relinked = |kind, method: &str, body: Value| {
        let out = of(kind).relink(&told(method), body.to_string().as_bytes(), &link)?;
        Ok::<Option<Value>, ReasonCode>(out.map(|bytes| serde_json::from_slice(&bytes).unwrap()))
    };
    use ProviderKind as P;
    let file = json!({"id": "F1", "name": "a", "url_private": "https://files.slack.com/x", "url_private_download": "https://files.slack.com/y",
        "thumb_64": "https://files.slack.com/t", "thumb_64_w": 64, "permalink": "https://acme.slack.com/files/F1"});
    let kept = json!({"id": "F1", "name": "a", "url_private": "gw:F1", "url_private_download": "gw:F1", "thumb_64_w": 64,
        "permalink": "https://acme.slack.com/files/F1"});
    let message = |file: &Value| json!({"ok": true, "messages": [{"text": "https://files.slack.com/said", "files": [file]}]});
    assert_eq!(relinked(P::Slack, "conversations.history", message(&file)), Ok(Some(message(&kept))));
    assert_eq!(relinked(P::Slack, "auth.test", json!({"ok": true})), Ok(None));
    let up = |url: &str| {
        relinked(P::Slack, "files.getUploadURLExternal", json!({"ok": true, "upload_url": url, "file_id": "F1"})).unwrap().unwrap()
    };
    assert_eq!(up("https://files.slack.com/upload/v1/x")["upload_url"], "gw:up");
    // What a message brings is none of Slack's: no ticket is made of it, and nothing of it is passed on.
    let planted = json!({"upload_url": "https://files.slack.com/upload/v1/x", "file": {"id": "F0SECRET", "url_private": "https://files.slack.com/s"}});
    let clean = json!({"file": {"id": "F0SECRET"}});
    for place in ["metadata", "event_payload", "attachments", "blocks", "root"] {
        let answer = |held: &Value| json!({"ok": true, "messages": [{"text": "x", place: held}]});
        assert_eq!(relinked(P::Slack, "conversations.history", answer(&planted)), Ok(Some(answer(&clean))), "{place}");
        assert_eq!(relinked(P::Slack, "files.getUploadURLExternal", answer(&planted)), Ok(Some(answer(&clean))), "{place}");
    }
    let top = json!({"ok": true, "upload_url": "https://files.slack.com/upload/v1/x"});
    assert_eq!(relinked(P::Slack, "conversations.history", top), Ok(Some(json!({"ok": true}))));
    assert_eq!(up("https://evil.example/upload"), json!({"ok": true, "file_id": "F1"}), "an address elsewhere is taken out");
    let media = json!({"url": "https://lookaside.fbsbx.com/x?mid=1", "mime_type": "image/png", "id": "777"});
    assert_eq!(relinked(P::WhatsApp, "media.get", media), Ok(Some(json!({"url": "gw:777", "mime_type": "image/png", "id": "777"}))));
    for other in [json!({"id": "777", "name": "a template"}), json!({"url": "https://x", "id": "../1"}), json!([1])] {
        assert_eq!(relinked(P::WhatsApp, "media.get", other), Err(ReasonCode::EgressNotFound));
    }
    assert_eq!(relinked(P::WhatsApp, "messages", json!({"id": "1"})), Ok(None));
}

#[test]
fn an_answer_without_a_message_says_how_the_call_went() {
    let receipt = |kind, status, body: Value| of(kind).receipt(&answer(status, &[], &body.to_string()));
    use ProviderKind as P;
    assert!(matches!(receipt(P::WhatsApp, 200, json!({"success": true})), SendReceipt::Sent { .. }));
    assert!(matches!(receipt(P::WhatsApp, 401, json!({"error": {"code": 190, "message": "x"}})), SendReceipt::CredentialDead { .. }));
    assert!(matches!(receipt(P::Telegram, 200, json!({"ok": true, "result": true})), SendReceipt::Sent { .. }));
    assert!(matches!(receipt(P::Slack, 200, json!({"ok": false, "error": "missing_scope"})), SendReceipt::Rejected { .. }));
    assert!(matches!(receipt(P::Slack, 429, json!({})), SendReceipt::RateLimited { .. }));
}

#[test]
fn a_call_of_whatsapp_names_its_number_and_no_other_call_names_an_account() {
    let names = |line: &Line| of(line.kind).names(&line.asked(), &account(line.kind));
    for (path, wanted) in [("2/messages", true), ("2", true), ("22/messages", false), ("1/messages", false)] {
        assert_eq!(names(&whatsapp(Method::POST, path, json!({}))), wanted, "{path}");
    }
    let mut file = whatsapp(Method::GET, "9041", Value::Null);
    assert!(!names(&file), "a file's id is no number");
    file.arguments.query = vec![("phone_number_id".into(), "2".into())];
    assert!(names(&file));
    file.arguments.query.push(("phone_number_id".into(), "2".into()));
    assert!(!names(&file), "an argument that stands there twice names nothing");
    assert!(!names(&slack("auth.test", json!({"team_id": "T1"}))) && !names(&telegram("getMe", json!({}))));
}

#[test]
fn every_method_has_an_effect_and_a_name_of_its_own() {
    let effect = |line: &Line| line.tell().unwrap().effect.as_str();
    for (line, wanted) in [
        (slack("conversations.history", json!({"channel": "C1"})), "read"),
        (slack("files.list", json!({})), "read"),
        (slack("conversations.open", json!({"users": "U1"})), "write"),
        (slack("chat.update", json!({"channel": "C1"})), "write"),
        (slack("chat.delete", json!({"channel": "C1"})), "delete"),
        (slack("files.delete", json!({"file": "F1"})), "delete"),
        (slack("conversations.kick", json!({"channel": "C1", "user": "U1"})), "administer"),
        (telegram("getChatMember", json!({"chat_id": 5, "user_id": 6})), "read"),
        (telegram("editMessageText", json!({"chat_id": 5})), "write"),
        (telegram("deleteMessages", json!({"chat_id": 5})), "delete"),
        (telegram("setMyName", json!({"name": "x"})), "administer"),
        (whatsapp(Method::GET, "777", Value::Null), "read"),
        (whatsapp(Method::POST, "2/messages", json!({"to": "1"})), "write"),
    ] {
        assert_eq!(effect(&line), wanted, "{:?}", line.path);
    }
    let named = |line: Line| line.tell().unwrap().named().map(|(c, e)| format!("{} {c}", e.as_str())).collect::<Vec<_>>();
    assert_eq!(named(slack("conversations.history", json!({"channel": "C1"}))), ["read C1"]);
    assert_eq!(named(slack("chat.postMessage", json!({"channel": "C1"}))), ["write C1"]);
    assert_eq!(named(telegram("forwardMessage", json!({"chat_id": 5, "from_chat_id": -7}))), ["write 5", "read -7"]);
    assert_eq!(named(slack("conversations.list", json!({}))), Vec::<String>::new());
    for table in [slack::methods::METHODS, telegram::methods::METHODS] {
        for (n, entry) in table.iter().enumerate() {
            assert!(table.iter().skip(n + 1).all(|other| other.name != entry.name), "{} stands there twice", entry.name);
        }
    }
}

#[test]
fn whom_a_call_acts_for_is_said_only_where_its_method_lists_that() {
    let whom = "egress.message_invalid";
    for (method, body, wanted) in [
        ("sendMessage", json!({"chat_id": 5, "ephemeral_message_parameters": {"receiver_user_id": 6}}), whom),
        ("sendMessage", json!({"chat_id": 5, "ephemeral_message_parameters": "{\"receiver_user_id\": 6}"}), whom),
        ("sendMessage", json!({"chat_id": 5, "ephemeral_message_parameters": " {\"receiverUserId\": 6}"}), whom),
        ("sendMessage", json!({"chat_id": 5, "not_yet_known": [[{"deeper": {"business_connection_id": "b"}}]]}), whom),
        ("sendMessage", json!({"chat_id": 5, "receiver_user_id": 6}), whom),
        ("sendMessage", json!({"chat_id": 5, "inline_message_id": "x"}), whom),
        ("sendMessage", json!({"chat_id": 5, "user_id": 6}), whom),
        ("sendMessage", json!({"chat_id": 5, "from_chat_id": 6}), whom),
        ("sendMessage", json!({"chat_id": 5, "sender": {"chat_id": 5}}), whom),
        ("answerCallbackQuery", json!({"callback_query_id": "1", "chat_id": 5}), whom),
        ("sendMessage", json!({"chat_id": 5, "reply_parameters": {"message_id": 1, "user_id": 6}}), whom),
        ("sendMessage", json!({"chat_id": 5, "extra": "{not json"}), whom),
        ("sendMessage", json!({"chat_id": 5, "extra": "[1], \"receiver_user_id\": [6]"}), whom),
        ("sendMessage", json!({"chat_id": 5, "extra": "[{\"a\": 1, \"a\": 2}]"}), whom),
        (
            "sendMediaGroup",
            json!({"chat_id": 5, "media": "[{\"type\": \"photo\", \"media\": \"attach://a\"}]"}),
            "sendMediaGroup says in 5/",
        ),
        ("sendMessage", json!({"chat_id": 5, "text": "{\"receiver_user_id\": 6}"}), "sendMessage says in 5/"),
        ("sendMessage", json!({"chat_id": 5, "entities": [{"type": "text_mention", "user": {"id": 6}}]}), "sendMessage says in 5/"),
        (
            "sendMessage",
            json!({"chat_id": 5, "reply_markup": "{\"keyboard\": [[{\"request_users\": {\"user_is_bot\": true}}]]}"}),
            "sendMessage says in 5/",
        ),
        ("getChatMember", json!({"chat_id": 5, "user_id": 6}), "getChatMember Plain"),
        ("copyMessage", json!({"chat_id": 5, "from_chat_id": 6, "message_id": 1}), "copyMessage says in 5/"),
        ("getMyCommands", json!({"scope": {"type": "chat_member", "chat_id": 5, "user_id": 6}}), "getMyCommands Plain"),
        ("sendDocument", json!({"chat_id": 5, "document": "file:///etc/passwd"}), "egress.file_address"),
        ("sendDocument", json!({"chat_id": 5, "document": " FILE:/etc/passwd"}), "egress.file_address"),
        ("sendMediaGroup", json!({"chat_id": 5, "media": [{"type": "photo", "media": "file:///etc/passwd"}]}), "egress.file_address"),
        (
            "sendMediaGroup",
            json!({"chat_id": 5, "media": "[{\"type\": \"photo\", \"media\": \"file:///etc/passwd\"}]"}),
            "egress.file_address",
        ),
        ("sendMessage", json!({"chat_id": 5, "reply_markup": {"inline_keyboard": [[{"url": "file:///x"}]]}}), "egress.file_address"),
        ("sendMessage", json!({"chat_id": 5, "text": "file: see below"}), "sendMessage says in 5/"),
    ] {
        assert_eq!(shown(&telegram(method, body.clone())), wanted, "{method} {body}");
    }
    for (method, body, wanted) in [
        ("chat.postMessage", json!({"channel": "C1", "user": "U1"}), whom),
        ("chat.postMessage", json!({"channel": "C1", "channels": "C2"}), whom),
        ("chat.postMessage", json!({"channel": "C1", "as_user": true}), whom),
        ("chat.postMessage", json!({"channel": "C1", "recipient_user_id": "U1"}), whom),
        ("chat.postMessage", json!({"channel": "C1", "options": "{\"target\": \"C2\"}"}), whom),
        ("users.info", json!({"user": "U1", "channel": "C2"}), whom),
        (
            "chat.postMessage",
            json!({"channel": "C1", "blocks": [{"elements": [{"type": "user", "user_id": "U1"}]}]}),
            "chat.postMessage says in C1/",
        ),
        ("chat.postMessage", json!({"channel": "C1", "blocks": [{"image_url": "file:///x"}]}), "egress.file_address"),
        ("chat.postMessage", json!({"channel": "C1", "attachments": "[{\"image_url\": \"file:///x\"}]"}), "egress.file_address"),
        ("chat.postMessage", json!({"channel": "C1", "username": "Ada"}), "chat.postMessage says in C1/"),
        ("chat.postEphemeral", json!({"channel": "C1", "user": "U1"}), "chat.postEphemeral says in C1/"),
        ("conversations.open", json!({"users": "U1,U2"}), "conversations.open Plain"),
    ] {
        assert_eq!(shown(&slack(method, body.clone())), wanted, "{method} {body}");
    }
    for (body, wanted) in [
        (json!({"to": "1", "group": "x"}), whom),
        (json!({"to": "1", "context": {"message_id": "wamid.1", "from": "2"}}), whom),
        (json!({"to": "1", "contacts": [{"phones": [{"wa_id": "2"}]}]}), "messages says in 1/"),
        (json!({"to": "1", "image": {"link": "file:///etc/passwd"}}), "egress.file_address"),
    ] {
        assert_eq!(shown(&whatsapp(Method::POST, "2/messages", body.clone())), wanted, "{body}");
    }
    // Forms and parts say the same.
    let mut form = telegram("sendMessage", json!({}));
    form.arguments.body =
        Body::Form(vec![("chat_id".into(), "5".into()), ("ephemeral_message_parameters".into(), "{\"receiver_user_id\":6}".into())]);
    assert_eq!(shown(&form), whom);
    let part = |name: &str, said: &'static str| crate::wire::form::Part {
        name: name.into(),
        file_name: None,
        media_type: None,
        content: Piece::Bytes(said.into()),
    };
    form.arguments.body = Body::Multipart(vec![part("chat_id", "5"), part("media", "[{\"media\": \"file:///etc/passwd\"}]")]);
    assert_eq!(shown(&form), "egress.file_address");
    form.arguments.body = Body::Empty;
    form.arguments.query = vec![("chat_id".into(), "5".into()), ("receiver_user_id".into(), "6".into())];
    assert_eq!(shown(&form), whom);
}
