use std::net::SocketAddr;

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::domain::secret::Secret;

const LONG: u64 = 10_000;

fn post(url: String) -> WireRequest {
    let headers = vec![("authorization", Secret::new("Bearer xoxb-canary".into()))];
    WireRequest { method: Method::POST, url: Secret::new(url), headers, body: Bytes::from_static(b"{}").into() }
}

/// A server that answers every connection with these bytes once it has read the head, then closes.
async fn server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            read_request(&mut socket).await;
            let _ = socket.write_all(answer).await;
        }
    });
    address
}

async fn read_request(socket: &mut TcpStream) {
    let mut seen = Vec::new();
    let mut chunk = [0; 1024];
    while !seen.ends_with(b"\r\n\r\n{}") {
        match socket.read(&mut chunk).await {
            Ok(n) if n > 0 => seen.extend_from_slice(&chunk[..n]),
            _ => break,
        }
    }
}

async fn ask(answer: &'static [u8], bytes_max: usize) -> Result<WireResponse, TransportError> {
    let address = server(answer).await;
    Transport::providers().unwrap().send(post(format!("http://{address}/bot123:token/x")), LONG, bytes_max).await
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let four = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx-a: b\r\n\r\nfour";
    let answer = ask(four, 4).await.unwrap();
    assert_eq!((answer.status, &answer.body[..], answer.headers["x-a"].to_str().unwrap()), (200, &b"four"[..], "b"));
    assert_eq!(ask(four, 3).await.unwrap_err(), TransportError::AnswerTooLarge);
    // Neither a missing length nor a lying one gets around it.
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n4\r\nfour\r\n0\r\n\r\n";
    assert_eq!(ask(chunked, 8).await.unwrap().body.len(), 8);
    assert_eq!(ask(chunked, 7).await.unwrap_err(), TransportError::AnswerTooLarge);
    assert_eq!(ask(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", 4).await.unwrap_err(), TransportError::AnswerTooLarge);
}

#[tokio::test]
async fn a_packed_answer_stays_packed() {
    let answer = ask(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x8b\x08", 64).await.unwrap();
    assert_eq!(&answer.body[..], b"\x1f\x8b\x08");
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let answer = ask(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", 64).await.unwrap();
    assert_eq!(answer.status, 307);
}

#[tokio::test]
async fn what_may_have_left_is_told_apart_from_what_did_not() {
    // Nobody listens there.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let transport = Transport::providers().unwrap();
    let refused = transport.send(post(format!("http://{gone}/bot123:token/x")), LONG, 64).await.unwrap_err();
    assert!(matches!(refused, TransportError::NotSent(_)) && !refused.may_have_left(), "{refused:?}");
    assert!(matches!(transport.send(post("no url".into()), LONG, 64).await.unwrap_err(), TransportError::NotSent(_)));

    // Read, then hung up; half an answer.
    let reset = ask(b"", 64).await.unwrap_err();
    assert!(matches!(reset, TransportError::Reset(_)) && reset.may_have_left(), "{reset:?}");
    let half = ask(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", 64).await.unwrap_err();
    assert!(matches!(half, TransportError::Reset(_)), "{half:?}");
    let junk = ask(b"SSH-2.0-OpenSSH\r\n\r\n", 64).await.unwrap_err();
    assert!(matches!(junk, TransportError::Reset(_)), "{junk:?}");

    for error in [refused, reset, half, junk] {
        let text = format!("{error} {error:?}");
        assert!(!text.contains("token") && !text.contains("127.0.0.1") && !text.contains("xoxb"), "{text}");
    }
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let transport = Transport::providers().unwrap();
    let (answer, held) = tokio::join!(transport.send(post(format!("http://{address}/")), 50, 64), listener.accept());
    assert_eq!(answer.unwrap_err(), TransportError::Timeout { sent: true });
    drop(held);
}

#[tokio::test]
async fn a_handshake_that_never_ends_sent_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let hasty = Transport { client: builder(None, Duration::from_millis(50)).build().unwrap(), guarded: None };
    let (answer, held) = tokio::join!(hasty.send(post(url), LONG, 64), listener.accept());
    assert_eq!(answer.unwrap_err(), TransportError::Timeout { sent: false });
    drop(held);
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_got_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let transport = Transport::providers().unwrap();
    let answering = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.read_u8().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    };
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let (answer, ()) = tokio::join!(transport.send(post(url), LONG, 64), answering);
    let error = answer.unwrap_err();
    assert!(matches!(error, TransportError::NotSent(_)), "{error:?}");
}

#[tokio::test]
async fn the_guard_stands_before_names_and_literals_alike() {
    let address = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let strict = Transport::agents(false).unwrap();
    for url in [format!("http://{address}/"), format!("https://{address}/"), "https://[::1]/".into(), "https://169.254.169.254/".into()] {
        assert_eq!(strict.send(post(url.clone()), LONG, 64).await.unwrap_err(), TransportError::DialForbidden, "{url}");
    }
    // A name that was fine when it was declared.
    let rebound: guard::Lookup = Arc::new(|_| Box::pin(async { Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]) }));
    let strict = Transport::guarded(false, rebound.clone()).unwrap();
    let error = strict.send(post("https://agent.example/".into()), LONG, 64).await.unwrap_err();
    assert_eq!(error, TransportError::DialForbidden);

    let open = Transport::guarded(true, rebound).unwrap();
    let answer = open.send(post(format!("http://agent.example:{}/", address.port())), LONG, 64).await.unwrap();
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_name_that_does_not_resolve_sends_nothing() {
    let none: guard::Lookup = Arc::new(|_| Box::pin(async { Err(std::io::Error::other("no such name")) }));
    let error = Transport::guarded(true, none).unwrap().send(post("http://agent.example/".into()), LONG, 64).await.unwrap_err();
    assert!(matches!(&error, TransportError::NotSent(why) if why.contains("no such name")), "{error:?}");
}

#[test]
fn the_fallback_for_machines_without_certificates_builds() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let trusts_nobody = rustls::ClientConfig::builder().with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    assert!(builder(None, CONNECT_TIMEOUT).tls_backend_preconfigured(trusts_nobody).build().is_ok());
}
