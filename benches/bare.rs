//! The ceiling that the gateway is measured against: the same axum, hyper, tokio, hmac and sha2, one installation
//! lookup, the timestamp window and the HMAC over the raw body, and nothing else. No JSON, no policy, no storage.
//!
//! `bare ADDR INSTALLATIONS` where each line of INSTALLATIONS is `ingress_id signing_secret …`.
#![allow(clippy::expect_used)] // a bench program: a wrong start should be loud

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hmac::{Hmac, KeyInit, Mac};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use sha2::Sha256;

/// Keyed once at the start: a request clones the state instead of hashing the key again.
type Installations = Arc<HashMap<String, Hmac<Sha256>>>;

const WINDOW_SECONDS: u64 = 300;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(file)) = (args.next(), args.next()) else {
        eprintln!("usage: bare ADDR INSTALLATIONS");
        std::process::exit(2);
    };
    let app = Router::new().route("/webhooks/slack/{ingress_id}", post(webhook)).with_state(load(&file));
    let listener = tokio::net::TcpListener::bind(&addr).await.expect("address is free");
    println!("listening public={}", listener.local_addr().expect("bound"));
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(app.clone());
        // A connection that breaks is the load generator's to count.
        tokio::spawn(async move { http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok() });
    }
}

fn load(file: &str) -> Installations {
    let text = std::fs::read_to_string(file).expect("installations are readable");
    let keyed = |line: &str| {
        let mut words = line.split_whitespace();
        let (id, secret) = (words.next()?, words.next()?);
        Some((id.to_owned(), Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length")))
    };
    Arc::new(text.lines().filter_map(keyed).collect())
}

async fn webhook(State(known): State<Installations>, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> StatusCode {
    match verify(&known, &id, &headers, &body) {
        Some(()) => StatusCode::OK,
        None => StatusCode::UNAUTHORIZED,
    }
}

fn verify(known: &Installations, id: &str, headers: &HeaderMap, body: &[u8]) -> Option<()> {
    let mut mac = known.get(id)?.clone();
    let timestamp = headers.get("x-slack-request-timestamp")?.to_str().ok()?;
    if !timestamp.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    if now.abs_diff(timestamp.parse().ok()?) > WINDOW_SECONDS {
        return None;
    }
    let claimed = headers.get("x-slack-signature")?.to_str().ok()?.strip_prefix("v0=")?;
    let mut tag = [0; 32];
    hex::decode_to_slice(claimed, &mut tag).ok()?;
    mac.update(b"v0:");
    mac.update(timestamp.as_bytes());
    mac.update(b":");
    mac.update(body);
    mac.verify_slice(&tag).ok()
}
