//! What the operator listener looks at before anything else: the host that is named, and the body's media type. A page that
//! makes its own name point here (DNS rebinding) names itself, and a form cannot send JSON without asking first.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, Method, Request, header};

use super::Rooms;
use super::extract::Local;
use super::respond::{closing, problem_response};
use crate::config::Listen;
use crate::domain::host::Host;
use crate::domain::ids::RequestId;
use crate::domain::reason::ReasonCode;

/// Around the operator listener, health and metrics included.
pub(super) async fn operators(State(rooms): State<Arc<Rooms>>, request: Request<Body>, next: Next) -> Response {
    let refused = if !is_ours(&rooms.config.listen, &request) {
        Some((
            ReasonCode::AdminHostRefused,
            "name the operator listener by a loopback address or by listen.operator, or add the name to listen.operator_hosts",
        ))
    } else if !is_json(&request) {
        Some((ReasonCode::AdminMediaType, "send the body as Content-Type: application/json"))
    } else {
        None
    };
    let Some((code, detail)) = refused else { return next.run(request).await };
    rooms.metrics.operator_refused(code);
    // The body was not read.
    closing(problem_response(code, detail, &RequestId::fresh(rooms.clock.now())))
}

/// True where the one `Host`, and the target where it names a host too, are this listener's.
fn is_ours(listen: &Listen, request: &Request<Body>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let local = request.extensions().get::<Local>().map(|Local(address)| *address);
    let named = [host.to_str().ok(), Some(request.uri().authority().map_or("localhost", http::uri::Authority::as_str))];
    named.into_iter().all(|named| named.and_then(Host::parse).is_some_and(|(host, _)| answers_to(listen, local, &host)))
}

/// True where this is a host of the listener. `local` is the address that the connection came to.
fn answers_to(listen: &Listen, local: Option<IpAddr>, host: &Host) -> bool {
    let own = listen.operator.ip();
    // Where every address of the machine is listened on, each of them is the configured one.
    let is_own =
        |ip: &IpAddr| *ip == own.to_canonical() || (own.is_unspecified() && local.is_some_and(|local| local.to_canonical() == *ip));
    host.is_loopback()
        || matches!(host, Host::Ip(ip) if is_own(ip))
        || listen.operator_hosts.iter().filter_map(|listed| Host::parse(listed)).any(|(listed, _)| listed == *host)
}

/// True where the body is JSON by its one `Content-Type`, or there is none.
fn is_json(request: &Request<Body>) -> bool {
    let has_body = !request.body().is_end_stream();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match media_types(request.headers()).as_slice() {
        [] => !has_body,
        [one] => one.eq_ignore_ascii_case("application/json") || (reads && !has_body),
        _ => false,
    }
}

/// The media type of each `Content-Type`, without its parameters.
fn media_types(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::CONTENT_TYPE).iter();
    values.map(|value| value.to_str().ok().and_then(|text| text.split(';').next()).map_or("", str::trim)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(target: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Body> {
        let request =
            headers.iter().fold(Request::builder().method("POST").uri(target), |request, (name, value)| request.header(*name, *value));
        request.body(if body.is_empty() { Body::empty() } else { Body::from(body) }).unwrap()
    }

    fn ours(listen: &Listen, local: &str, target: &str, hosts: &[&str]) -> bool {
        let headers: Vec<(&str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
        let mut request = ask(target, &headers, "");
        request.extensions_mut().insert(Local(local.parse().unwrap()));
        is_ours(listen, &request)
    }

    #[test]
    fn the_listener_answers_to_its_own_names_alone() {
        let listen = |operator: &str, hosts: &[&str]| Listen {
            operator: operator.parse().unwrap(),
            operator_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Listen::default()
        };
        let plain = listen("10.0.0.5:8081", &["gw.example", "192.0.2.7"]);
        let one = |host: &str| ours(&plain, "10.0.0.5", "/v1/orgs", &[host]);
        assert!(
            ["localhost", "LocalHost.:9", "127.0.0.1:8081", "[::1]", "10.0.0.5", "10.0.0.5:1", "GW.example.", "192.0.2.7"]
                .into_iter()
                .all(one)
        );
        let others = [
            "evil.example",
            "gw.example.evil.example",
            "10.0.0.6",
            "0.0.0.0",
            "a@localhost",
            "localhost:x",
            "",
            "localhost,evil.example",
            "127.1",
        ];
        assert!(!others.into_iter().any(one));
        assert!(!ours(&plain, "10.0.0.5", "/", &[]), "no Host");
        assert!(!ours(&plain, "10.0.0.5", "/", &["localhost", "localhost"]), "two of them");
        // The target counts as well as the header.
        assert!(ours(&plain, "10.0.0.5", "http://gw.example:8081/v1/orgs", &["localhost"]));
        assert!(!ours(&plain, "10.0.0.5", "http://evil.example/v1/orgs", &["localhost"]));
        assert!(!ours(&plain, "10.0.0.5", "http://localhost/v1/orgs", &["evil.example"]));
        // Where all addresses are listened on, the one that the connection came to is its own.
        let all = listen("0.0.0.0:8081", &[]);
        assert!(ours(&all, "10.0.0.5", "/", &["10.0.0.5:8081"]) && !ours(&all, "10.0.0.5", "/", &["10.0.0.6"]));
        assert!(ours(&listen("[::]:8081", &[]), "::ffff:10.0.0.5", "/", &["10.0.0.5"]));
        assert!(!ours(&plain, "10.0.0.6", "/", &["10.0.0.6"]));
    }

    #[test]
    fn a_body_is_json_or_it_is_not_taken() {
        let json = |method: Method, types: &[&str], body| {
            let headers: Vec<(&str, &str)> = types.iter().map(|media_type| ("content-type", *media_type)).collect();
            let mut request = ask("/v1/apply", &headers, body);
            *request.method_mut() = method;
            is_json(&request)
        };
        for media_type in ["application/json", "Application/JSON", "application/json; charset=utf-8", " application/json ;x"] {
            assert!(json(Method::POST, &[media_type], "{}"), "{media_type}");
        }
        for media_type in
            ["text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "application/jsonp", "text/json", ""]
        {
            assert!(!json(Method::POST, &[media_type], "{}") && !json(Method::DELETE, &[media_type], ""), "{media_type}");
        }
        assert!(!json(Method::POST, &[], "{}") && !json(Method::GET, &[], "{}"), "a body that says nothing of itself");
        assert!(!json(Method::PUT, &["application/json", "application/json"], "{}"));
        assert!([Method::POST, Method::DELETE, Method::GET].into_iter().all(|method| json(method, &[], "")));
        assert!(json(Method::GET, &["text/plain"], ""), "nothing to read");
    }
}
