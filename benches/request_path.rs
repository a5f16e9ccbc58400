//! The pieces of one webhook's way to its ack, each by itself: `cargo bench --bench request_path`.
//!
//! Read ratios within one run; the whole path is measured by `benches/run.sh`.

use std::hint::black_box;
use std::path::Path;

use byoa_gateway::crypto::content::ContentKey;
use byoa_gateway::crypto::envelope::{KeyRing, Purpose};
use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::ids::{AgentId, InstallationId, OrgId, RequestId};
use byoa_gateway::domain::installation::{Ownership, ProviderKind};
use byoa_gateway::domain::secret::Secret;
use byoa_gateway::policy::Snapshot;
use byoa_gateway::policy::action::{AgentFacts, Freshness, InstallationFacts, OrgFacts, RouteMessage};
use byoa_gateway::providers::{self, SecretSlot, SigningSecret, SigningSecrets};
use byoa_gateway::wire::{RequestHead, json};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

const BODY: &[u8] = include_bytes!("../fixtures/providers/slack/message_channel.json");
const SECRET: &str = "8f742231b10e8888abcd99aaabbb85a5";
const NOW: Timestamp = Timestamp::from_secs(1_790_000_100);

fn head() -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in providers::of(ProviderKind::Slack).sign(BODY, &Secret::new(SECRET.into()), NOW) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    RequestHead {
        provider: ProviderKind::Slack,
        ingress_id: "bench".into(),
        method: Method::POST,
        headers,
        query: None,
        peer: None,
        received: NOW,
        request_id: RequestId::fresh(NOW),
    }
}

fn secrets() -> Option<SigningSecrets> {
    SigningSecrets::new(SigningSecret::new(SecretSlot::Current, Secret::new(SECRET.into())).into_iter().collect())
}

fn proof(c: &mut Criterion) {
    let (provider, head, body) = (providers::of(ProviderKind::Slack), head(), Bytes::from_static(BODY));
    let Some(secrets) = secrets() else { return };
    let mut group = c.benchmark_group("proof");
    group.throughput(Throughput::Bytes(BODY.len() as u64));
    group.bench_function("headers and HMAC", |b| {
        b.iter(|| provider.inspect(&head, &secrets, NOW).and_then(|inspected| inspected.prove(black_box(&body), &secrets)).is_ok());
    });
    group.bench_function("strict JSON", |b| b.iter(|| json::parse(black_box(BODY)).is_ok()));
    let proved = provider.inspect(&head, &secrets, NOW).and_then(|inspected| inspected.prove(&body, &secrets));
    if let Ok(proved) = proved {
        group.bench_function("strict JSON and reading", |b| b.iter(|| provider.parse(&proved, &head, black_box(&body)).is_ok()));
    }
    group.finish();
}

fn vault(c: &mut Criterion) {
    let key = zeroize::Zeroizing::new(std::array::from_fn(|n| u8::try_from(n).unwrap_or_default()));
    let Some(ring) = KeyRing::new(vec![key]) else { return };
    let purpose = Purpose { kind: "profiles", owner: "acme-slack-app", field: "signing_secret" };
    let Ok(sealed) = ring.seal(ring.current(), purpose, SECRET.as_bytes()) else { return };
    c.bench_function("vault/open a signing secret", |b| b.iter(|| ring.open(purpose, black_box(&sealed)).is_ok()));
}

fn route(conversation: u32) -> Option<RouteMessage> {
    let org = OrgFacts { id: OrgId::parse("acme").ok()?, suspended: false, fallback_opt_in: Default::default() };
    Some(RouteMessage {
        installation: InstallationFacts {
            id: InstallationId::parse("acme-slack").ok()?,
            provider: ProviderKind::Slack,
            owner: Ownership::Org(org.id.clone()),
            stranger: None,
            active: true,
            org: org.clone(),
        },
        agent: AgentFacts { id: AgentId::parse("support").ok()?, org: Some(org) },
        event_type: "message.received",
        conversation: Some(format!("C{conversation}")),
        conversation_kind: Some("channel"),
        from_bot: false,
        freshness: Freshness::Fresh,
    })
}

fn decide(c: &mut Criterion) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(law) = Snapshot::load(&root.join("policies"), &root.join("schemas/gateway.cedarschema"), NOW) else { return };
    let mut group = c.benchmark_group("decide");
    group.bench_function("asked before", |b| b.iter(|| route(1).map(|ask| law.decide(ask).is_ok())));
    let mut n = 0;
    group.bench_function("asked for the first time", |b| {
        b.iter(|| {
            n += 1;
            route(n).map(|ask| law.decide(ask).is_ok())
        });
    });
    group.finish();
}

fn content(c: &mut Criterion) {
    let Some(key) = ContentKey::derive(&zeroize::Zeroizing::new([7; 32])) else { return };
    // An event is stored as the provider's bytes and their reading.
    let plain = [BODY, BODY.get(..BODY.len() / 3).unwrap_or_default()].concat();
    let Some(sealed) = key.seal("events", "evt_1", &plain) else { return };
    let mut group = c.benchmark_group("content");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    group.bench_function("sealing an event", |b| b.iter(|| key.seal("events", "evt_1", black_box(&plain))));
    group.bench_function("opening an event", |b| b.iter(|| key.open("events", "evt_1", black_box(&sealed))));
    group.bench_function("digest of a session key", |b| {
        b.iter(|| key.digest("sessions", black_box("acme/slack/acme-slack/support/C0HELP//")))
    });
    group.finish();
}

criterion_group!(benches, proof, vault, decide, content);
criterion_main!(benches);
