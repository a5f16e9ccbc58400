//! `/sdk/{provider}/…`: the providers' official SDKs, with the gateway's address and the agent's own token. The token is
//! looked for where that SDK puts it, and nowhere else.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};

use super::extract::{HttpBody, bearer};
use super::media::passing;
use super::respond::{SDK_RETRY_AFTER_S, attached, closing, inert, not_found};
use super::{Rooms, budget};
use crate::authn::agent::{authenticate, uploader};
use crate::authn::principal::AgentPrincipal;
use crate::domain::ids::RequestId;
use crate::domain::installation::ProviderKind;
use crate::domain::reason::ReasonCode;
use crate::egress::{AnswerBody, SdkAnswer, SdkCall};
use crate::providers::sdk::{self, Located};
use crate::wire::BodySource as _;
use crate::wire::budget::Taken;
use crate::wire::form::{self, Arguments, Keep};
use crate::wire::spool::Spool;

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
            let wait = wait.or_else(|| matches!(code.status(), 429 | 503).then_some(SDK_RETRY_AFTER_S));
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
    let limits = &rooms.config.limits;
    let refused = |code: ReasonCode| Unread::of(code, code.meaning());
    if let Some(ticket) = ticket {
        let (principal, installation, url) = uploader(ticket, &directory, &rooms.vault, rooms.clock.now())
            .map_err(|code| Unread::of(code, "the upload address is not yours, or not any more"))?;
        let underway = rooms.egress.begin(principal.agent()).map_err(refused)?;
        let agent = principal.agent().id.as_str();
        let (pieces, mut held, _) = HttpBody::proved(body, rooms, agent).pieces(limits.sdk_body_bytes_max);
        let spool = Some(Spool::new(&rooms.bodies.spooled, agent));
        let keep = Keep::new(&mut held, limits.api_body_bytes_max, spool);
        let arguments = Arguments::read_raw(content_type, pieces, keep).await.map_err(refused)?;
        let (http, named, room) = (parts.method.clone(), Some(installation.to_string()), Taken::new(Bytes::new(), held, None));
        let call = SdkCall { provider, http, path: Vec::new(), arguments, named, gateway, upload: Some(url), room, underway };
        return Ok((principal, call));
    }
    let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
    let in_head = match token {
        Some(ref token) => Some(token.as_ref()),
        None => bearer(&parts.headers),
    };
    let principal = match (in_head, sdk.token_argument()) {
        (None, Some(_)) if !parts.headers.contains_key(header::AUTHORIZATION) => None,
        (token, _) => Some(proved(token).map_err(|code| Unread::of(code, "put the agent's token where the SDK puts its own"))?),
    };
    let mut underway = principal.as_ref().map(|principal| rooms.egress.begin(principal.agent())).transpose().map_err(refused)?;
    let unfit = |code| Unread { code, detail: "the arguments can be read in more than one way, or in none", body_left: false };
    let (mut arguments, room) = read_arguments(rooms, provider, parts, content_type, body, principal.as_ref()).await?;
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
    if underway.is_none() {
        underway = Some(rooms.egress.begin(principal.agent()).map_err(|code| Unread { body_left: false, ..refused(code) })?);
    }
    let underway = underway.ok_or_else(|| refused(ReasonCode::IngressInternal))?;
    let room = room.prove(principal.agent().id.as_str()).map_err(|code| Unread { body_left: false, ..refused(code) })?;
    let header = only(parts, &HeaderName::from_static(INSTALLATION)).map_err(unfit)?.map(str::to_owned);
    let query = arguments.text(INSTALLATION).map_err(unfit)?;
    arguments.remove(INSTALLATION);
    let named = match (header, query) {
        (Some(one), Some(other)) if one != other => return Err(unfit(ReasonCode::EgressInstallationAmbiguous)),
        (one, other) => one.or(other),
    };
    let http = parts.method.clone();
    Ok((principal, SdkCall { provider, http, path, arguments, named, gateway, upload: None, room, underway }))
}

/// Reads the arguments of a call within the limits of its media type: texts are small, only files are large, and of a stranger
/// nothing goes to the disk.
async fn read_arguments(
    rooms: &Rooms,
    provider: ProviderKind,
    parts: &Parts,
    content_type: &str,
    body: Body,
    principal: Option<&AgentPrincipal>,
) -> Result<(Arguments, Taken), Unread> {
    let limits = &rooms.config.limits;
    let agent = principal.map(|principal| principal.agent().id.as_str());
    let body = match agent {
        Some(agent) => HttpBody::proved(body, rooms, agent),
        None => HttpBody::unproved(body, rooms, &format!("sdk/{provider}")),
    };
    let refused = |code: ReasonCode| match code {
        ReasonCode::EgressMessageInvalid => Unread::of(code, "the arguments can be read in more than one way, or in none"),
        code => Unread::of(code, code.meaning()),
    };
    if form::media_type(content_type) == "multipart/form-data" {
        let bytes_max = if agent.is_some() { limits.sdk_body_bytes_max } else { limits.api_body_bytes_max };
        let (pieces, mut held, proved) = body.pieces(bytes_max);
        let spool = agent.map(|agent| Spool::new(&rooms.bodies.spooled, agent));
        let keep = Keep::new(&mut held, limits.api_body_bytes_max, spool);
        let arguments = Arguments::read_parts(parts.uri.query(), content_type, pieces, keep).await.map_err(refused)?;
        return Ok((arguments, Taken::new(Bytes::new(), held, proved)));
    }
    let read = body.read(limits.api_body_bytes_max).await.map_err(refused)?;
    let arguments = Arguments::read(parts.uri.query(), content_type, &read.bytes);
    let arguments = arguments.map_err(|code| Unread { body_left: false, ..refused(code) })?;
    read.grow(read.bytes.len().saturating_add(arguments.weight())).map_err(|code| Unread { body_left: false, ..refused(code) })?;
    Ok((arguments, read))
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
    let (body, length, mark): (_, _, fn(&mut HeaderMap)) = match answer.body {
        AnswerBody::Whole(bytes) => (Body::from(bytes), None, inert),
        AnswerBody::File(file, underway) => {
            let length = file.length;
            (passing(*file, underway), length, attached)
        }
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
    if let Some(media_type) = answer.media_type.and_then(|m| HeaderValue::try_from(m).ok()) {
        headers.insert(header::CONTENT_TYPE, media_type);
    }
    if let Some(seconds) = answer.retry_after_s {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    mark(headers);
    response
}
