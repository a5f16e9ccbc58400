//! What is fuzzed: each target takes bytes that somebody made up and holds the code to what must be true of any bytes.
//! `tests/it/fuzz.rs` plays the corpora with every test run, `bash .ci/fuzz` makes up new bytes (docs/testing.md).

use std::net::IpAddr;
use std::sync::LazyLock;

use byoa_gateway::config::PolicyTextLimits;
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::ids::RequestId;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::secret::Secret;
use byoa_gateway::http::framing;
use byoa_gateway::policy::{Snapshot, Sources};
use byoa_gateway::providers::{self, SecretSlot, SigningSecret, SigningSecrets};
use byoa_gateway::transport::guard;
use byoa_gateway::wire::budget::Budget;
use byoa_gateway::wire::form::{Arguments, Body, Keep, media_type};
use byoa_gateway::wire::json;
use byoa_gateway::wire::{Payload, RequestHead};
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// What is done with the bytes; it panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const ALL: [(&str, Target); 9] = [
    ("json", json),
    ("forms", forms),
    ("multipart", multipart),
    ("framing", framing),
    ("slack", slack),
    ("telegram", telegram),
    ("whatsapp", whatsapp),
    ("policies", policies),
    ("agent_url", agent_url),
];

/// The strict pass takes nothing that the usual parser does not take, and a document that it takes says the same to both.
fn json(data: &[u8]) {
    let Ok(strict) = json::parse(data) else { return };
    let usual: Value = serde_json::from_slice(data).expect("the strict pass takes only JSON");
    let Value::Object(fields) = usual else { panic!("the root is an object") };
    for (name, value) in &fields {
        assert!(strict.has(name), "{name}");
        assert_eq!(strict.at(name).is_null(), value.is_null(), "{name}");
        assert_eq!(strict.at(name).str(), value.as_str(), "{name}");
        assert_eq!(strict.at(name).bool(), value.as_bool(), "{name}");
        assert_eq!(strict.at(name).items().len(), value.as_array().map_or(0, Vec::len), "{name}");
    }
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().unwrap());

/// Reads as the SDK paths do. A multipart body arrives in small pieces, because its boundaries may lie across them.
fn read(query: Option<&str>, content_type: &str, body: &[u8]) -> Option<Arguments> {
    if media_type(content_type) != "multipart/form-data" {
        return Arguments::read(query, content_type, body).ok();
    }
    let mut held = Budget::new(8 * 1024 * 1024, 0).hold(None);
    let pieces: Vec<_> = body.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let keep = Keep::new(&mut held, 256 * 1024, None);
    RUNTIME.block_on(Arguments::read_parts(query, content_type, stream::iter(pieces), keep)).ok()
}

fn bytes(payload: Payload) -> Vec<u8> {
    RUNTIME.block_on(payload.into_pieces().try_collect::<Vec<_>>()).expect("nothing is on the disk").concat()
}

/// What was read, written and read again is what was read.
fn round(read_first: &Arguments) {
    // No part can hold it: the fuzzer does not know it.
    let written = read_first.write("7d0b1f6e2c954a83b6f1d2c3e4a59687").expect("what was read can be written");
    let again = read(Some(&written.query), written.media_type.as_deref().unwrap_or_default(), &bytes(written.body));
    let empty = |body: &Body| match body {
        Body::Empty => true,
        Body::Form(pairs) => pairs.is_empty(),
        Body::Multipart(parts) => parts.is_empty(),
        Body::Json(_) | Body::Raw(..) => false,
    };
    match again {
        Some(again) if empty(&again.body) && empty(&read_first.body) => assert_eq!(again.query, read_first.query),
        again => {
            // In a file's name, what readers do not agree on is written as browsers write quotes, or left out.
            let mut wanted = read_first.clone();
            if let Body::Multipart(parts) = &mut wanted.body {
                for name in parts.iter_mut().filter_map(|part| part.file_name.as_mut()) {
                    name.retain(|c| !c.is_control());
                    *name = name.replace('\\', "%5C").replace('"', "%22");
                }
            }
            assert_eq!(again, Some(wanted));
        }
    }
}

/// The first line is the query, the rest a form; then the rest as JSON.
fn forms(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (query, body) = data.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    let Ok(query) = std::str::from_utf8(query) else { return };
    for content_type in ["application/x-www-form-urlencoded", "application/json"] {
        if let Some(arguments) = read(Some(query), content_type, body) {
            arguments.names().for_each(|name| {
                let _ = (arguments.text(name), arguments.object(name));
            });
            round(&arguments);
        }
    }
}

/// The first line is the media type, the rest a multipart body.
fn multipart(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (content_type, body) = data.split_at(end);
    let Ok(content_type) = std::str::from_utf8(content_type) else { return };
    let body = body.get(1..).unwrap_or_default();
    if let Some(arguments) = read(None, &format!("multipart/form-data{content_type}"), body) {
        round(&arguments);
    }
}

/// However a connection is cut into pieces, the verdict is the same. The first byte says where it is cut.
fn framing(data: &[u8]) {
    let Some((first, wire)) = data.split_first() else { return };
    let whole = framing::is_ambiguous([wire]);
    assert_eq!(framing::is_ambiguous(wire.chunks(1)), whole, "byte by byte");
    assert_eq!(framing::is_ambiguous(wire.chunks(usize::from(*first) + 1)), whole, "in pieces of {}", usize::from(*first) + 1);
    let (head, tail) = wire.split_at(usize::from(*first).min(wire.len()));
    assert_eq!(framing::is_ambiguous([head, tail]), whole, "in two");
}

const SECRET: &str = "b1946ac92492d2347c6235b4d2611184";

/// The instant that signatures are checked at.
const NOW_S: i64 = 1_790_003_600;

/// Header lines, an empty line, the body: nothing that was made up proves anything, and the provider's own signature of the same
/// body does.
fn signature(provider: ProviderKind, data: &[u8]) {
    if data.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
        // It was guessed: for Telegram the secret itself is the proof.
        return;
    }
    let provider_of = providers::of(provider);
    let split = data.windows(2).position(|pair| pair == b"\n\n").unwrap_or(data.len());
    let (lines, body) = data.split_at(split);
    let body = body.get(2..).unwrap_or_default();
    let now = Timestamp::from_secs(NOW_S);
    let secret = || Secret::new(SECRET.to_owned());
    let secrets = SigningSecrets::new(vec![SigningSecret::new(SecretSlot::Current, secret()).unwrap()]).unwrap();
    let head = |headers: HeaderMap| RequestHead {
        provider,
        ingress_id: "fuzz-ingress-0000001".into(),
        method: Method::POST,
        headers,
        query: None,
        peer: Some(IpAddr::from([192, 0, 2, 1])),
        received: now,
        request_id: RequestId::numbered(1),
    };
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = line.split_at(colon);
        let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value.get(1..).unwrap_or_default()));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let made_up = head(headers);
    let proved = provider_of.inspect(&made_up, &secrets, now).and_then(|inspected| inspected.prove(body, &secrets));
    assert!(proved.is_err(), "made-up headers prove something");

    let mut signed = HeaderMap::new();
    for (name, value) in provider_of.sign(body, &secret(), now) {
        signed.append(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
    }
    let signed = head(signed);
    let inspected = provider_of.inspect(&signed, &secrets, now).expect("its own headers pass");
    let proof = inspected.prove(body, &secrets).expect("its own signature proves the body");
    for media_type in ["application/json", "application/x-www-form-urlencoded"] {
        let mut head = head(HeaderMap::new());
        head.headers.insert("content-type", HeaderValue::from_static(media_type));
        let _ = provider_of.parse(&proof, &head, &Bytes::copy_from_slice(body));
        let _ = provider_of.raw_for_agent(body, media_type);
    }
}

fn slack(data: &[u8]) {
    signature(ProviderKind::Slack, data);
}

fn telegram(data: &[u8]) {
    signature(ProviderKind::Telegram, data);
}

fn whatsapp(data: &[u8]) {
    signature(ProviderKind::WhatsApp, data);
}

/// A text of policies is a law or a list of faults, on a stack as small as a thread's may be.
fn policies(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let limits = PolicyTextLimits::default();
    let load = || {
        for path in ["orgs/acme/fuzz.cedar", "platform/fuzz.cedar"] {
            if let Err(error) = Sources::of_policies([(path, text)], &limits).and_then(|s| Snapshot::build(&s, Timestamp::from_secs(NOW_S)))
            {
                assert!(!error.diagnostics.is_empty() && error.diagnostics.iter().all(|fault| fault.line > 0 && fault.column > 0));
            }
        }
    };
    std::thread::scope(|scope| {
        let small = std::thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, load);
        small.unwrap().join().expect("loading does not panic");
    });
}

/// An address that strangers may give leads to no private address, and reads the same when it is read again.
fn agent_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = guard::agent_url(text, true);
    let Ok(url) = guard::agent_url(text, false) else { return };
    assert_eq!((url.scheme(), url.port(), url.username(), url.password()), ("https", None, "", None), "{url}");
    match url.host().expect("there is a host") {
        url::Host::Ipv4(ip) => assert!(guard::is_public(ip.into()), "{url}"),
        url::Host::Ipv6(ip) => assert!(guard::is_public(ip.into()), "{url}"),
        url::Host::Domain(name) => {
            assert!(!name.trim_end_matches('.').eq_ignore_ascii_case("localhost"), "{url}");
            assert!(name.parse::<std::net::IpAddr>().is_err(), "{url}");
        }
    }
    assert_eq!(guard::agent_url(url.as_str(), false).as_ref(), Ok(&url), "what is stored is read again");
}
