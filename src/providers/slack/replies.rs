//! Slack's `response_url`, found in an event's bytes, withheld and posted to, and its verification token, found and withheld. A
//! holder of a `response_url` may post with it five times within half an hour and needs no token. Floor 2.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use http::Method;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::super::{ReplyAddress, ReplyAddresses};
use super::body::decoded;
use crate::domain::message::SendReceipt;
use crate::domain::secret::Secret;
use crate::wire::{WireRequest, WireResponse};

/// <https://docs.slack.dev/interactivity/handling-user-interaction>
const NAME: &str = "response_url";

/// The conversation that an address posts to, beside the address.
const CHANNEL: &str = "channel_id";

/// The deprecated verification token, which still opens doors of old apps. It stands in the root object.
const TOKEN: &str = "token";

/// The text that replaces what an agent does not see.
const WITHHELD: &str = "[withheld]";

/// The only host whose addresses Slack gives out for this.
const HOST: &str = "hooks.slack.com";

/// Addresses of one event that an agent gets a link for. A command has one, and a modal one for each input that asks for a
/// conversation.
const LINKED_MAX: usize = 10;

/// Every `response_url` of an event, and its verification token among what is withheld, in time that grows with the length of
/// the event alone. The addresses nearest to the root of the document are linked and the others withheld, so that a message with
/// addresses of its own deep in its metadata displaces none of Slack's.
pub(super) fn addresses(raw: &[u8], is_form: bool) -> Option<ReplyAddresses> {
    if is_form { in_form(raw) } else { in_json(std::str::from_utf8(raw).ok()?) }
}

fn in_form(raw: &[u8]) -> Option<ReplyAddresses> {
    let mut found = ReplyAddresses::default();
    let mut start = 0_usize;
    let mut channel = None;
    for pair in raw.split(|b| *b == b'&') {
        let value_at = pair.iter().position(|b| *b == b'=').map_or(pair.len(), |at| at.saturating_add(1));
        let encoded = pair.get(value_at..)?;
        let name = decoded(pair.get(..value_at)?.strip_suffix(b"=").unwrap_or(pair)).ok()?;
        let from = start.checked_add(value_at)?;
        match name.as_str() {
            NAME => {
                let at = from..from.checked_add(encoded.len())?;
                found.linked.push(ReplyAddress { at, url: decoded(encoded).ok()?.into(), conversation: None });
            }
            CHANNEL => channel = Some(decoded(encoded).ok()?),
            TOKEN => found.withheld.push(from..from.checked_add(encoded.len())?),
            // Interactions: JSON in a form.
            "payload" => {
                let mut inner = in_json(&decoded(encoded).ok()?)?;
                encode_places(&mut inner, encoded, from)?;
                found.linked.append(&mut inner.linked);
                found.withheld.append(&mut inner.withheld);
            }
            _ => {}
        }
        start = start.checked_add(pair.len())?.checked_add(1)?;
    }
    found.linked.sort_by_key(|address| address.at.start);
    found.withheld.extend(found.linked.drain(LINKED_MAX.min(found.linked.len())..).map(|address| address.at));
    found.withheld.sort_by_key(|at| at.start);
    for address in &mut found.linked {
        address.conversation = address.conversation.take().or_else(|| channel.clone());
    }
    Some(found)
}

/// Turns places in a decoded text into places in the encoded form, `from` bytes further on. One walk over the encoded text
/// serves all places.
fn encode_places(found: &mut ReplyAddresses, encoded: &[u8], from: usize) -> Option<()> {
    let ranges = found.linked.iter_mut().map(|address| &mut address.at).chain(&mut found.withheld);
    let mut offsets: Vec<&mut usize> = ranges.flat_map(|at| [&mut at.start, &mut at.end]).collect();
    offsets.sort_unstable();
    let (mut plain, mut at) = (0_usize, 0_usize);
    for offset in offsets {
        while plain < *offset {
            at = at.checked_add(if *encoded.get(at)? == b'%' { 3 } else { 1 })?;
            plain = plain.checked_add(1)?;
        }
        *offset = from.checked_add(at)?;
    }
    Some(())
}

fn in_json(text: &str) -> Option<ReplyAddresses> {
    // The scan below only finds places: it relies on a well-formed document.
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let Scanned { addresses: spots, token } = scan(text)?;
    let mut nearest: Vec<usize> = (0..spots.len()).collect();
    nearest.sort_by_key(|i| spots.get(*i).map(|spot| spot.depth));
    nearest.truncate(LINKED_MAX);
    let mut found = ReplyAddresses { withheld: token.into_iter().collect(), ..ReplyAddresses::default() };
    for (i, Spot { at, channel, .. }) in spots.into_iter().enumerate() {
        if nearest.contains(&i) {
            let url = unquoted(text, &at)?.into();
            let conversation = channel.and_then(|channel| unquoted(text, &channel));
            found.linked.push(ReplyAddress { at, url, conversation });
        } else {
            found.withheld.push(at);
        }
    }
    found.withheld.sort_by_key(|at| at.start);
    Some(found)
}

/// A document without its addresses and its verification token, every other byte as it came. Never longer than the document:
/// a value that is shorter than the replacement is replaced by an empty text.
pub(super) fn withheld(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let found = scan(text)?;
    let mut places: Vec<Range<usize>> = found.addresses.into_iter().map(|spot| spot.at).chain(found.token).collect();
    places.sort_unstable_by_key(|at| at.start);
    let mut shown = String::with_capacity(text.len());
    let mut copied = 0;
    for at in places {
        shown.push_str(text.get(copied..at.start)?);
        shown.push_str(if at.len() < WITHHELD.len() { "" } else { WITHHELD });
        copied = at.end;
    }
    shown.push_str(text.get(copied..)?);
    Some(shown)
}

/// The text of a JSON string whose characters between the quotes stand at `at`.
fn unquoted(text: &str, at: &Range<usize>) -> Option<String> {
    serde_json::from_str(text.get(at.start.checked_sub(1)?..at.end.checked_add(1)?)?).ok()
}

/// An address in a JSON text: its characters between the quotes, how deep its object is nested, and the `channel_id` of that
/// object.
struct Spot {
    at: Range<usize>,
    depth: usize,
    channel: Option<Range<usize>>,
}

/// The places that a scan finds, in the order of the text.
#[derive(Default)]
struct Scanned {
    addresses: Vec<Spot>,
    token: Option<Range<usize>>,
}

/// An array or object around the place that is scanned.
#[derive(Default)]
struct Frame {
    is_object: bool,
    /// The name whose value comes next; a string that comes without one is a name.
    name: Option<Name>,
    channel: Option<Range<usize>>,
    /// The index of the address that stands in this object itself: no name is in an object twice.
    spot: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Address,
    Channel,
    Token,
    Other,
}

fn scan(text: &str) -> Option<Scanned> {
    let bytes = text.as_bytes();
    let (mut found, mut frames) = (Scanned::default(), Vec::<Frame>::new());
    let mut at = 0_usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'{' | b'[' => frames.push(Frame { is_object: *byte == b'{', ..Frame::default() }),
            b'}' | b']' => {
                let frame = frames.pop()?;
                if let Some(spot) = frame.spot.and_then(|i| found.addresses.get_mut(i)) {
                    spot.channel = frame.channel;
                }
            }
            b',' => {
                if let Some(frame) = frames.last_mut() {
                    frame.name = None;
                }
            }
            b'"' => {
                let inside = string_at(bytes, at.checked_add(1)?)?;
                at = inside.end;
                let depth = frames.len();
                if let Some(frame) = frames.last_mut().filter(|frame| frame.is_object) {
                    match frame.name {
                        None => frame.name = Some(name(text, &inside)?),
                        Some(Name::Address) => {
                            frame.spot = Some(found.addresses.len());
                            found.addresses.push(Spot { at: inside, depth, channel: None });
                        }
                        Some(Name::Channel) => frame.channel = Some(inside),
                        Some(Name::Token) if depth == 1 => found.token = Some(inside),
                        Some(Name::Token | Name::Other) => {}
                    }
                }
            }
            _ => {}
        }
        at = at.checked_add(1)?;
    }
    Some(found)
}

/// The characters of a string, from behind its first quote to its last.
fn string_at(bytes: &[u8], start: usize) -> Option<Range<usize>> {
    let mut at = start;
    loop {
        at = at.checked_add(memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some(start..at);
        }
        at = at.checked_add(2)?;
    }
}

fn name(text: &str, at: &Range<usize>) -> Option<Name> {
    let written = text.get(at.clone())?;
    let spelled = if written.contains('\\') { unquoted(text, at)? } else { written.to_owned() };
    Some(match spelled.as_str() {
        NAME => Name::Address,
        CHANNEL => Name::Channel,
        TOKEN => Name::Token,
        _ => Name::Other,
    })
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
    is_object.then(|| WireRequest { method: Method::POST, url: Secret::new(url.into()), headers, body: body.clone().into() })
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
        assert!(found.withheld.iter().all(|at| raw[at.clone()].starts_with("tok")));
        let mut text = raw.to_owned();
        for (n, address) in found.linked.iter().enumerate().rev() {
            text.replace_range(address.at.clone(), &format!("<{n}>"));
        }
        (text, found.linked.into_iter().map(|a| (a.url.expose().to_owned(), a.conversation)).collect())
    }

    #[test]
    fn only_the_address_is_cut_out_of_a_command() {
        let raw = "token=tok&channel_id=C1&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1%2F2%2Fx&text=a+b%20c&x=&y";
        let (text, found) = replaced(raw, true);
        assert_eq!(text, "token=tok&channel_id=C1&response_url=<0>&text=a+b%20c&x=&y");
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
    fn the_verification_token_is_withheld_wherever_slack_puts_it() {
        let withheld = |raw: &str, is_form: bool| {
            let found = addresses(raw.as_bytes(), is_form).unwrap();
            assert!(found.linked.is_empty());
            found.withheld.into_iter().map(|at| raw[at].to_owned()).collect::<Vec<_>>()
        };
        let json = r#"{"a":{"token":"people's own"},"tok\u0065n":"secret + 1","event":{"token":"also"},"n":"token"}"#;
        assert_eq!(withheld(json, false), ["secret + 1"]);
        assert_eq!(withheld("text=token&%74oken=secret%2B1&user_token=x", true), ["secret%2B1"]);
        let form = |json: &str| format!("payload={}&token=outer", form_urlencoded::byte_serialize(json.as_bytes()).collect::<String>());
        assert_eq!(withheld(&form(json), true), ["secret+%2B+1", "outer"]);
        for none in [r#"{"token":7}"#, r#"{"token":{"a":"b"}}"#, r#"{"token":["a"]}"#, "{}"] {
            assert_eq!(withheld(none, false), [""; 0], "{none}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_handed_over() {
        assert!(addresses(b"payload=%7B", true).is_none());
        assert!(addresses(b"{", false).is_none());
        assert!(addresses(b"a=%zz&response_url", true).is_some_and(|found| found.linked.len() == 1));
    }

    #[test]
    fn ten_addresses_are_linked_and_those_nearest_to_the_root_are_among_them() {
        let deep: Vec<String> = (0..30).map(|n| format!(r#"{{"response_url":"https://deep/{n}","channel_id":"D{n}"}}"#)).collect();
        let json = format!(r#"{{"m":{{"e":[{}]}},"response_url":"https://own","channel_id":"C1"}}"#, deep.join(","));
        let form = format!("payload={}", form_urlencoded::byte_serialize(json.as_bytes()).collect::<String>());
        for (raw, is_form) in [(json, false), (form, true)] {
            let found = addresses(raw.as_bytes(), is_form).unwrap();
            let linked: Vec<_> = found.linked.iter().map(|a| (a.url.expose(), a.conversation.as_deref().unwrap_or_default())).collect();
            let wanted: Vec<_> =
                (0..9).map(|n| (format!("https://deep/{n}"), format!("D{n}"))).chain([("https://own".into(), "C1".into())]).collect();
            assert_eq!(linked, wanted.iter().map(|(url, at)| (url.as_str(), at.as_str())).collect::<Vec<_>>());
            assert_eq!(found.withheld.len(), 21);
            for at in found.withheld {
                let text = &raw[at];
                assert!(text.starts_with("https") && text.contains("deep"), "{text}");
            }
        }
    }

    /// A walk that begins anew for each address takes minutes for this.
    #[test]
    fn a_megabyte_of_addresses_is_one_walk() {
        let json = format!(r#"{{"a":[{}]}}"#, vec![r#"{"response_url":""}"#; 48_000].join(","));
        let nested = format!("{}{}", r#"{"response_url":"#.repeat(60), "1") + &"}".repeat(60);
        let form = format!("payload={}", form_urlencoded::byte_serialize(json.as_bytes()).collect::<String>());
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let counts = [(json, false), (nested, false), (form, true)]
                .map(|(raw, is_form)| addresses(raw.as_bytes(), is_form).map(|found| (found.linked.len(), found.withheld.len())));
            let _ = done.send(counts);
        });
        let counts = ended.recv_timeout(std::time::Duration::from_secs(60)).expect("one walk ends");
        assert_eq!(counts, [Some((10, 47_990)), Some((0, 0)), Some((10, 47_990))]);
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
