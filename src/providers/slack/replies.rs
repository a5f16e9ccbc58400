//! Slack's `response_url`: found where it stands in an event's bytes, and posted to. Whoever has one may post with it, five
//! times within half an hour and without a token. Floor 2.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::super::ReplyAddress;
use super::body::decoded;
use crate::domain::message::SendReceipt;
use crate::domain::secret::Secret;
use crate::wire::{WireRequest, WireResponse};

/// <https://docs.slack.dev/interactivity/handling-user-interaction>
const NAME: &str = "response_url";

/// The only host whose addresses Slack gives out for this.
const HOST: &str = "hooks.slack.com";

/// Every `response_url`, in the order in which they stand there.
pub(super) fn addresses(raw: &[u8], is_form: bool) -> Option<Vec<ReplyAddress>> {
    let mut found = if is_form { in_form(raw)? } else { in_json(std::str::from_utf8(raw).ok()?)? };
    found.sort_by_key(|address| address.at.start);
    Some(found)
}

fn in_form(raw: &[u8]) -> Option<Vec<ReplyAddress>> {
    let mut found = Vec::new();
    let mut start = 0_usize;
    let mut channel = None;
    for pair in raw.split(|b| *b == b'&') {
        let value_at = pair.iter().position(|b| *b == b'=').map_or(pair.len(), |at| at.saturating_add(1));
        let encoded = pair.get(value_at..)?;
        let name = decoded(pair.get(..value_at)?.strip_suffix(b"=").unwrap_or(pair)).ok()?;
        let from = start.checked_add(value_at)?;
        match name.as_str() {
            NAME => found.push(ReplyAddress {
                at: from..from.checked_add(encoded.len())?,
                url: decoded(encoded).ok()?.into(),
                conversation: None,
            }),
            "channel_id" => channel = Some(decoded(encoded).ok()?),
            // Interactions: JSON in a form. Places in the JSON are places in the form, only longer.
            "payload" => {
                for inner in in_json(&decoded(encoded).ok()?)? {
                    let at = from.checked_add(encoded_at(encoded, inner.at.start))?..from.checked_add(encoded_at(encoded, inner.at.end))?;
                    found.push(ReplyAddress { at, ..inner });
                }
            }
            _ => {}
        }
        start = start.checked_add(pair.len())?.checked_add(1)?;
    }
    for address in &mut found {
        address.conversation = address.conversation.take().or_else(|| channel.clone());
    }
    Some(found)
}

/// Where a byte of the decoded text stands in the encoded one.
fn encoded_at(encoded: &[u8], decoded: usize) -> usize {
    let mut at = 0_usize;
    for _ in 0..decoded {
        at = at.saturating_add(if encoded.get(at) == Some(&b'%') { 3 } else { 1 });
    }
    at
}

fn in_json(text: &str) -> Option<Vec<ReplyAddress>> {
    let mut found = Vec::new();
    walk(serde_json::from_str(text).ok()?, text, &mut found)?;
    Some(found)
}

fn walk(value: &RawValue, whole: &str, found: &mut Vec<ReplyAddress>) -> Option<()> {
    let text = value.get();
    if text.starts_with('{') {
        let fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
        for (name, inner) in &fields {
            if name == NAME && inner.get().starts_with('"') {
                // Slices of one text: the distance of their starts is the place, and the quotes stay.
                let from = inner.get().as_ptr().addr().checked_sub(whole.as_ptr().addr())?.checked_add(1)?;
                let at = from..from.checked_add(inner.get().len().checked_sub(2)?)?;
                let beside = fields.get("channel_id").and_then(|id| serde_json::from_str(id.get()).ok());
                found.push(ReplyAddress { at, url: serde_json::from_str::<String>(inner.get()).ok()?.into(), conversation: beside });
            } else {
                walk(inner, whole, found)?;
            }
        }
    } else if text.starts_with('[') {
        for inner in serde_json::from_str::<Vec<&RawValue>>(text).ok()? {
            walk(inner, whole, found)?;
        }
    }
    Some(())
}

/// A post to an address that is Slack's: its host, or where configuration says that Slack's API is. Anything else would
/// make of the gateway a client for whoever writes such a field into a message.
pub(super) fn request(address: &Secret, body: &Bytes, api_base: &str) -> Option<WireRequest> {
    let url = Url::parse(address.expose()).ok()?;
    let base = Url::parse(api_base).ok()?;
    let slack = url.scheme() == "https" && url.host_str() == Some(HOST) && url.port().is_none();
    let bare = url.username().is_empty() && url.password().is_none();
    if !(bare && (slack || url.origin() == base.origin())) {
        return None;
    }
    let is_object = serde_json::from_slice::<BTreeMap<String, &RawValue>>(body).is_ok();
    let headers = vec![("content-type", Secret::new(super::JSON.to_owned()))];
    is_object.then(|| WireRequest { method: Method::POST, url: Secret::new(url.into()), headers, body: body.clone() })
}

/// What the answer to a post means. It is the text `ok`, or JSON that says so; there is no id of the message in it.
pub(super) fn receipt(response: &WireResponse) -> SendReceipt {
    let error = format!("http {}", response.status);
    let said: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    let ok = response.body.trim_ascii() == b"ok" || said.get("ok") == Some(&Value::Bool(true));
    match response.status {
        429 => SendReceipt::RateLimited { retry_after_s: response.retry_after_s(), error },
        500.. => SendReceipt::Unavailable { error },
        200 if ok => SendReceipt::Sent { provider_message_id: String::new() },
        200 if said.get("ok").is_none() => SendReceipt::Unknown { error: "unreadable answer".to_owned() },
        _ => SendReceipt::Rejected { error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(raw: &str, is_form: bool) -> (String, Vec<(String, Option<String>)>) {
        let found = addresses(raw.as_bytes(), is_form).unwrap();
        let mut text = raw.to_owned();
        for (n, address) in found.iter().enumerate().rev() {
            text.replace_range(address.at.clone(), &format!("<{n}>"));
        }
        (text, found.into_iter().map(|a| (a.url.expose().to_owned(), a.conversation)).collect())
    }

    #[test]
    fn only_the_address_is_cut_out_of_a_command() {
        let raw = "token=t&channel_id=C1&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1%2F2%2Fx&text=a+b%20c&x=&y";
        let (text, found) = replaced(raw, true);
        assert_eq!(text, "token=t&channel_id=C1&response_url=<0>&text=a+b%20c&x=&y");
        assert_eq!(found, [("https://hooks.slack.com/commands/T1/2/x".to_owned(), Some("C1".to_owned()))]);
    }

    #[test]
    fn only_the_addresses_are_cut_out_of_an_interaction_however_it_is_written() {
        let json = r#" { "z": "é response_url +%", "response\u005furl" : "https:\/\/hooks.slack.com\/actions\/1",
            "response_urls":[{"channel_id":"C2","response_url":"https://hooks.slack.com/app/2"}], "a": {"response_url": null}, "n": 1.50 } "#;
        let (inner, found) = replaced(json, false);
        assert_eq!(inner, json.replace(r"https:\/\/hooks.slack.com\/actions\/1", "<0>").replace("https://hooks.slack.com/app/2", "<1>"));
        let want =
            [("https://hooks.slack.com/actions/1".to_owned(), None), ("https://hooks.slack.com/app/2".to_owned(), Some("C2".to_owned()))];
        assert_eq!(found, want);

        let encode = |json: &str| form_urlencoded::byte_serialize(json.as_bytes()).collect::<String>();
        let form = format!("before=1&payload={}&after=%2B", encode(json));
        let (text, found) = replaced(&form, true);
        assert_eq!(text, format!("before=1&payload={}&after=%2B", encode(&inner).replace("%3C0%3E", "<0>").replace("%3C1%3E", "<1>")));
        assert_eq!(found, want);
    }

    #[test]
    fn what_cannot_be_read_is_not_handed_over() {
        assert!(addresses(b"payload=%7B", true).is_none());
        assert!(addresses(b"{", false).is_none());
        assert!(addresses(b"a=%zz&response_url", true).is_some_and(|found| found.len() == 1));
    }

    #[test]
    fn posts_go_to_slack_or_where_configuration_says_slack_is() {
        let body = Bytes::from_static(b"{\"text\":\"hi\"}");
        let base = "http://127.0.0.1:9/api/";
        let ask = |url: &str, body: &Bytes| request(&Secret::new(url.to_owned()), body, base).is_some();
        assert!(ask("https://hooks.slack.com/actions/T1/2/x", &body) && ask("http://127.0.0.1:9/hook", &body));
        for url in [
            "http://hooks.slack.com/x",
            "https://hooks.slack.com:8443/x",
            "https://u:p@hooks.slack.com/x",
            "https://hooks.slack.com.evil.example/x",
            "https://evil.example/hooks.slack.com",
            "http://127.0.0.1:10/hook",
            "http://169.254.169.254/latest",
            "file:///etc/passwd",
            "nothing",
        ] {
            assert!(!ask(url, &body), "{url}");
        }
        for not_one in ["", "[]", "text", "\"text\""] {
            assert!(!ask("https://hooks.slack.com/x", &Bytes::from(not_one)), "{not_one}");
        }
    }
}
