//! `/sdk/{provider}/…`: the providers' official SDKs, with the gateway's address and the agent's own token. The token is
//! looked for where that SDK puts it, and nowhere else.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, StatusCode, header};

use super::extract::{HttpBody, bearer};
use super::respond::{closing, not_found};
use super::{Rooms, budget};
use crate::authn::agent::{authenticate, uploader};
use crate::authn::principal::AgentPrincipal;
use crate::domain::ids::RequestId;
use crate::domain::installation::ProviderKind;
use crate::domain::reason::ReasonCode;
use crate::egress::{SdkAnswer, SdkCall};
use crate::providers::sdk::{self, Located};
use crate::wire::BodySource as _;
use crate::wire::form::Arguments;

/// The installation, for an agent that may use several.
const INSTALLATION: &str = "byoa-installation";

pub(super) async fn call(State(rooms): State<Arc<Rooms>>, Path((provider, _)): Path<(String, String)>, request: Request<Body>) -> Response {
    let Some(provider) = ProviderKind::parse(&provider) else { return not_found().await };
    let id = RequestId::fresh(rooms.clock.now());
    let (parts, body) = request.into_parts();
    match read(&rooms, provider, &parts, body).await {
        Ok((principal, call)) => respond(rooms.egress.sdk(principal, call, id).await),
        Err(Unread { code, detail, body_left }) => {
            let wait = if code == ReasonCode::AuthnTokenUnknown { budget::failed(&rooms, &parts.extensions, "agent") } else { None };
            let code = if wait.is_some() { ReasonCode::AuthnThrottled } else { code };
            let response = respond(SdkAnswer::refusal(provider, code, detail, wait, &id));
            if body_left { closing(response) } else { response }
        }
    }
}

/// Why a request is none that can be judged.
struct Unread {
    code: ReasonCode,
    detail: &'static str,
    /// The body was not read to its end.
    body_left: bool,
}

impl Unread {
    fn of(code: ReasonCode, detail: &'static str) -> Self {
        Self { code, detail, body_left: true }
    }
}

/// The token first: of a stranger's body no more is read than a token may stand in.
async fn read(rooms: &Rooms, provider: ProviderKind, parts: &Parts, body: Body) -> Result<(AgentPrincipal, SdkCall), Unread> {
    let sdk = sdk::of(provider);
    let unknown = |detail| Unread::of(ReasonCode::AuthnTokenUnknown, detail);
    let directory = rooms.store.directory();
    let proved = |token: Option<&str>| authenticate(token, &directory, &rooms.vault);
    // As it stands on the wire: what would have to be decoded is no path of an SDK.
    let path = parts.uri.path().strip_prefix("/sdk/").and_then(|p| p.strip_prefix(provider.as_str())).and_then(|p| p.strip_prefix('/'));
    let located = path.and_then(|path| sdk.locate(path)).ok_or_else(|| unknown("not a path of this SDK, or the token in it is missing"))?;
    let Located { token, ticket, path } = located;
    let host = only(parts, &header::HOST).ok().flatten().unwrap_or_default();
    let gateway = rooms.config.public_url.as_deref().map_or_else(|| format!("http://{host}"), |url| url.trim_end_matches('/').to_owned());
    let content_type =
        only(parts, &header::CONTENT_TYPE).map_err(|code| Unread::of(code, "the media type is said twice"))?.unwrap_or_default();
    let whole =
        async |bytes_max| HttpBody::new(body, &rooms.config.limits).read(bytes_max).await.map_err(|code| Unread::of(code, code.meaning()));
    if let Some(ticket) = ticket {
        let (principal, installation, url) = uploader(ticket, &directory, &rooms.vault, rooms.clock.now())
            .map_err(|code| Unread::of(code, "the upload address is not yours, or not any more"))?;
        let arguments = Arguments::raw(content_type, whole(rooms.config.limits.sdk_body_bytes_max).await?);
        let named = Some(installation.to_string());
        return Ok((
            principal,
            SdkCall { provider, http: parts.method.clone(), path: Vec::new(), arguments, named, gateway, upload: Some(url) },
        ));
    }
    let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
    let in_head = match token {
        Some(ref token) => Some(token.as_ref()),
        None => bearer(&parts.headers),
    };
    let (principal, bytes_max) = match (in_head, sdk.token_argument()) {
        (None, Some(_)) if !parts.headers.contains_key(header::AUTHORIZATION) => (None, rooms.config.limits.api_body_bytes_max),
        (token, _) => {
            let principal = proved(token).map_err(|code| Unread::of(code, "put the agent's token where the SDK puts its own"))?;
            (Some(principal), rooms.config.limits.sdk_body_bytes_max)
        }
    };
    let body = whole(bytes_max).await?;
    let unfit = |code| Unread { code, detail: "the arguments can be read in more than one way, or in none", body_left: false };
    let mut arguments = Arguments::read(parts.uri.query(), content_type, body).await.map_err(unfit)?;
    let principal = match sdk.token_argument() {
        None => principal,
        Some(name) => {
            // A query ends in logs, so a token is not looked for there.
            let written = arguments.query.iter().any(|(n, _)| n == name);
            let token = arguments.text(name).map_err(unfit)?;
            arguments.remove(name);
            let second =
                token.filter(|_| !written).map(|token| proved(Some(&token))).transpose().map_err(|_| unknown("the token is nobody's"))?;
            match (principal, second) {
                _ if written => return Err(unknown("a token is not sent in the query")),
                (Some(one), Some(other)) if one.agent().id != other.agent().id => return Err(unknown("two tokens of two agents")),
                (Some(one), _) | (None, Some(one)) => Some(one),
                (None, None) => None,
            }
        }
    };
    let principal = principal.ok_or_else(|| unknown("put the agent's token where the SDK puts its own"))?;
    let header = only(parts, &HeaderName::from_static(INSTALLATION)).map_err(unfit)?.map(str::to_owned);
    let query = arguments.text(INSTALLATION).map_err(unfit)?;
    arguments.remove(INSTALLATION);
    let named = match (header, query) {
        (Some(one), Some(other)) if one != other => return Err(unfit(ReasonCode::EgressInstallationAmbiguous)),
        (one, other) => one.or(other),
    };
    Ok((principal, SdkCall { provider, http: parts.method.clone(), path, arguments, named, gateway, upload: None }))
}

/// The one value of a header.
fn only<'p>(parts: &'p Parts, name: &HeaderName) -> Result<Option<&'p str>, ReasonCode> {
    let mut values = parts.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ReasonCode::EgressMessageInvalid),
        _ => Err(ReasonCode::EgressMessageInvalid),
    }
}

fn respond(answer: SdkAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = (status, Body::from(answer.body)).into_response();
    let headers = response.headers_mut();
    if let Some(media_type) = answer.media_type.and_then(|m| HeaderValue::try_from(m).ok()) {
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    if let Some(seconds) = answer.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
