//! What an agent is sent: CloudEvents 1.0 structured JSON ([spec](https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md)),
//! signed as [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks). Values in, bytes out. Part of
//! `delivery`, floor 7.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::attempt::Composed;
use crate::crypto::MacKey;
use crate::domain::clock::Timestamp;
use crate::domain::message::{Attachment, Conversation, Sender};
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers;
use crate::store::EventView;

/// The media type of [`body`].
pub const MEDIA_TYPE: &str = "application/cloudevents+json";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'a str,
    subject: &'a str,
    time: Timestamp,
    datacontenttype: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    org: &'a str,
    provider: &'static str,
    mode: &'a str,
    profile: &'a str,
    installation: &'a str,
    agent: &'a str,
    session: Session<'a>,
    conversation: Option<&'a Conversation>,
    sender: Option<&'a Sender>,
    text: Option<&'a str>,
    attachments: Vec<Attached<'a>>,
    reply_to: Option<&'a str>,
    provider_event_id: &'a str,
    provider_event_type: &'a str,
    raw: &'a RawValue,
}

#[derive(Serialize)]
struct Session<'a> {
    id: &'a str,
    key: &'a str,
    new: bool,
}

#[derive(Serialize)]
struct Attached<'a> {
    #[serde(flatten)]
    attachment: &'a Attachment,
    /// The gateway's to give; the provider's would carry a token.
    url: String,
}

/// The headers and the body of one attempt; `link` gives the address of a file.
///
/// # Errors
/// `delivery.secret_unavailable` when the secret is no key, `store.corrupt` when the event cannot be written.
pub fn compose(event: &EventView, secret: &Secret, now: Timestamp, link: impl Fn(&Attachment) -> String) -> Result<Composed, ReasonCode> {
    let body = body(event, link).map_err(|_| ReasonCode::StoreCorrupt)?;
    let id = event.id.as_str();
    let signature = signature(secret, id, now, &body).ok_or(ReasonCode::DeliverySecretUnavailable)?;
    let headers = vec![
        ("content-type", Secret::new(MEDIA_TYPE.into())),
        ("webhook-id", Secret::new(id.into())),
        ("webhook-timestamp", Secret::new(now.secs().to_string())),
        ("webhook-signature", Secret::new(signature)),
    ];
    Ok((headers, body))
}

/// The event as its agent sees it; `link` gives the address of a file.
///
/// # Errors
/// When it cannot be written as JSON, which stored events always can.
pub fn body(event: &EventView, link: impl Fn(&Attachment) -> String) -> Result<Vec<u8>, serde_json::Error> {
    let raw = raw(event)?;
    let normal = &event.normal;
    serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: event.id.as_str(),
        source: format!("/installations/{}", event.installation),
        r#type: &event.cloud_type,
        subject: &event.session_key,
        time: event.received,
        datacontenttype: "application/json",
        data: Data {
            org: event.org.as_str(),
            provider: event.provider.as_str(),
            mode: &event.mode,
            profile: event.profile.as_str(),
            installation: event.installation.as_str(),
            agent: event.agent.as_str(),
            session: Session { id: event.session.as_str(), key: &event.session_key, new: event.session_new },
            conversation: normal.conversation.as_ref(),
            sender: normal.sender.as_ref(),
            text: normal.text.as_deref(),
            attachments: normal.attachments.iter().map(|attachment| Attached { attachment, url: link(attachment) }).collect(),
            reply_to: normal.reply_to.as_deref(),
            provider_event_id: &event.provider_event_id,
            provider_event_type: &event.provider_event_type,
            raw: &raw,
        },
    })
}

/// The provider's own JSON, every number as it was written.
fn raw(event: &EventView) -> Result<Box<RawValue>, serde_json::Error> {
    let shown = providers::of(event.provider).raw_for_agent(&event.raw, &event.media_type);
    RawValue::from_string(shown.unwrap_or_else(|| "null".to_owned()))
}

/// The `webhook-signature` of a body; `None` when the secret is no key.
pub fn signature(secret: &Secret, id: &str, at: Timestamp, body: &[u8]) -> Option<String> {
    let key = MacKey::new(&key_bytes(secret.expose())?)?;
    let mac = key.sign(&[id.as_bytes(), b".", at.secs().to_string().as_bytes(), b".", body]);
    Some(format!("v1,{}", STANDARD.encode(mac)))
}

/// The key in a secret: what stands behind `whsec_` in base64. The prefix is optional to the official libraries, and then
/// they decode too, so a secret without it is only taken as it stands where they could not use it at all.
fn key_bytes(secret: &str) -> Option<Zeroizing<Vec<u8>>> {
    match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).ok().map(Zeroizing::new),
        None => Some(Zeroizing::new(STANDARD.decode(secret).unwrap_or_else(|_| secret.as_bytes().to_vec()))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::domain::ids::{AgentId, EventId, InstallationId, OrgId, ProfileId, SessionId};
    use crate::domain::installation::ProviderKind;
    use crate::domain::message::{ConversationKind, Normal};

    pub fn event(normal: Normal, raw: &str) -> EventView {
        EventView {
            id: EventId::parse("evt_01").unwrap(),
            received: Timestamp::from_ms(1_790_000_100_250),
            org: OrgId::parse("acme").unwrap(),
            provider: ProviderKind::Slack,
            mode: "byoa".into(),
            profile: ProfileId::parse("acme-slack-app").unwrap(),
            installation: InstallationId::parse("acme-slack").unwrap(),
            agent: AgentId::parse("support").unwrap(),
            session: SessionId::parse("ses_01").unwrap(),
            session_key: "acme/slack/acme-slack/support/C0HELP//".into(),
            session_new: true,
            cloud_type: "message.received".into(),
            provider_event_id: "Ev1".into(),
            provider_event_type: "app_mention".into(),
            normal,
            raw: raw.into(),
            media_type: "application/json".into(),
        }
    }

    fn text(event: &EventView) -> String {
        String::from_utf8(body(event, |file| format!("https://gw.example/v1/media/{}", file.id)).unwrap()).unwrap()
    }

    #[test]
    fn the_whole_event() {
        let normal = Normal {
            conversation: Some(Conversation {
                id: "C0HELP".into(),
                kind: ConversationKind::Channel,
                thread: Some("1700000000.000100".into()),
            }),
            sender: Some(Sender { id: "U1".into(), name: None, is_bot: false }),
            text: Some("hello".into()),
            attachments: vec![Attachment { id: "F1".into(), kind: "image".into(), media_type: Some("image/png".into()), name: None }],
            reply_to: None,
            team: Some("T1".into()),
        };
        let text = text(&event(normal, r#"{"type":"app_mention","n":12345678901234567890123,"f":1.0,"e":1e2}"#));
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        insta::assert_snapshot!(text.replace(",\"", ",\n\"").replace(":{\"", ":{\n\""), @r#"
        {"specversion":"1.0",
        "id":"evt_01",
        "source":"/installations/acme-slack",
        "type":"message.received",
        "subject":"acme/slack/acme-slack/support/C0HELP//",
        "time":"2026-09-21T14:15:00.250Z",
        "datacontenttype":"application/json",
        "data":{
        "org":"acme",
        "provider":"slack",
        "mode":"byoa",
        "profile":"acme-slack-app",
        "installation":"acme-slack",
        "agent":"support",
        "session":{
        "id":"ses_01",
        "key":"acme/slack/acme-slack/support/C0HELP//",
        "new":true},
        "conversation":{
        "id":"C0HELP",
        "kind":"channel",
        "thread":"1700000000.000100"},
        "sender":{
        "id":"U1",
        "name":null,
        "is_bot":false},
        "text":"hello",
        "attachments":[{"id":"F1",
        "kind":"image",
        "media_type":"image/png",
        "name":null,
        "url":"https://gw.example/v1/media/F1"}],
        "reply_to":null,
        "provider_event_id":"Ev1",
        "provider_event_type":"app_mention",
        "raw":{
        "type":"app_mention",
        "n":12345678901234567890123,
        "f":1.0,
        "e":1e2}}}
        "#);
    }

    #[test]
    fn an_event_of_nobody_says_null() {
        let text = text(&event(Normal::default(), "{}"));
        assert!(text.contains(r#""conversation":null,"sender":null,"text":null,"attachments":[],"reply_to":null"#), "{text}");
    }

    #[test]
    fn what_the_provider_leaves_out_is_left_out() {
        let text = text(&event(Normal::default(), r#"{"a":1.50,"response_url":"https://hooks.example/canary"}"#));
        assert!(text.contains(r#""raw":{"a":1.5"#) && !text.contains("canary"), "{text}");
    }

    #[derive(serde::Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(serde::Deserialize)]
    struct Vector {
        name: String,
        headers: Vec<(String, String)>,
        body_base64: String,
        secrets: Values,
        expect: String,
    }

    #[derive(serde::Deserialize)]
    struct Values {
        values: Vec<String>,
    }

    #[test]
    fn every_accepted_vector_is_what_we_sign_and_no_forged_one_is() {
        let all: Vectors = serde_json::from_str(include_str!("../../fixtures/vectors/standardwebhooks.json")).unwrap();
        let mut accepted = 0;
        for v in &all.vectors {
            let header = |name: &str| v.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v.as_str());
            let body = STANDARD.decode(&v.body_base64).unwrap();
            let at = Timestamp::from_secs(header("webhook-timestamp").parse().unwrap_or(0));
            let ours = v.secrets.values.iter().filter_map(|s| signature(&Secret::new(s.clone()), header("webhook-id"), at, &body));
            let matches = ours.into_iter().any(|ours| header("webhook-signature").split(' ').any(|theirs| theirs == ours));
            if v.expect == "accept" {
                accepted += 1;
                assert!(matches, "{}", v.name);
            } else if !v.name.starts_with("stale") && !v.name.starts_with("future") {
                // Those two are signed well and refused for their age, which is the receiver's to judge.
                assert!(!matches, "{}", v.name);
            }
        }
        assert_eq!((all.vectors.len(), accepted), (29, 11));
    }

    #[test]
    fn the_official_library_verifies_ours() {
        let body = text(&event(Normal::default(), "{}"));
        // That library compares with the machine's clock.
        let now = crate::domain::clock::Clock::system().now();
        for secret in ["whsec_SJTJJ/UqECrncrEsDIdjEXCOe4prXNWO", "SJTJJ/UqECrncrEsDIdjEXCOe4prXNWO"] {
            let ours = signature(&Secret::new(secret.into()), "evt_01", now, body.as_bytes()).unwrap();
            let mut headers = http::HeaderMap::new();
            headers.insert("webhook-id", "evt_01".parse().unwrap());
            headers.insert("webhook-timestamp", now.secs().to_string().parse().unwrap());
            headers.insert("webhook-signature", ours.parse().unwrap());
            let library = standardwebhooks::Webhook::new(secret).unwrap();
            assert!(library.verify(body.as_bytes(), &headers).is_ok());
            assert!(library.verify(b"{}", &headers).is_err());
        }
    }

    #[test]
    fn a_secret_that_is_no_base64_is_its_own_key_and_an_empty_one_is_none() {
        assert_eq!(*key_bytes("not base64, but long enough").unwrap(), b"not base64, but long enough");
        assert!(key_bytes("whsec_not base64").is_none());
        for none in ["", "whsec_", "whsec_@@"] {
            assert!(signature(&Secret::new(none.into()), "evt_01", Timestamp::from_ms(0), b"").is_none(), "{none}");
        }
    }
}
