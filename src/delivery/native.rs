//! What an unmodified SDK is sent: the provider's own bytes under the provider's own media type, signed as that provider
//! signs, with the agent's secret and a new time. Values in, bytes out. Part of `delivery`, floor 7.

use std::ops::Range;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::attempt::Composed;
use crate::domain::clock::Timestamp;
use crate::domain::delivery::Claimed;
use crate::domain::reason::ReasonCode;
use crate::domain::secret::Secret;
use crate::providers;
use crate::store::EventView;

/// The text in place of a token, and of an address that the gateway has no address for.
const WITHHELD: &str = "[withheld]";

/// Decoded once, a header holds what it was made of.
const UNFIT: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The headers and the body of one attempt. `reply` gives the gateway's address for the n-th address in the event that
/// would go around the gateway.
///
/// # Errors
/// `delivery.secret_unavailable` when the provider has no secrets of that form, `store.corrupt` when the bytes cannot be read.
pub fn compose(
    event: &EventView,
    secret: &Secret,
    claimed: &Claimed,
    now: Timestamp,
    reply: impl Fn(usize) -> Option<String>,
) -> Result<Composed, ReasonCode> {
    let provider = providers::of(event.provider);
    if !provider.secret_form(secret.expose()) {
        return Err(ReasonCode::DeliverySecretUnavailable);
    }
    let body = body(event, reply)?;
    let mut headers = vec![("content-type", event.media_type.clone())];
    headers.extend(provider.sign(&body, secret, now));
    // The provider's own repeats never come this far, so these are the gateway's.
    if claimed.attempt > 1 {
        headers.extend(provider.repeat_headers(claimed.attempt.saturating_sub(1)));
    }
    let facts = [
        ("byoa-event", event.id.as_str()),
        ("byoa-org", event.org.as_str()),
        ("byoa-provider", event.provider.as_str()),
        ("byoa-mode", &event.mode),
        ("byoa-installation", event.installation.as_str()),
        ("byoa-agent", event.agent.as_str()),
        ("byoa-session", event.session.as_str()),
        ("byoa-session-key", &event.session_key),
    ];
    headers.extend(facts.map(|(name, value)| (name, utf8_percent_encode(value, UNFIT).to_string())));
    Ok((headers.into_iter().map(|(name, value)| (name, Secret::new(value))).collect(), body))
}

/// The provider's bytes, with nothing changed but the addresses that work without a token, and the provider's own token. What
/// gets no link is replaced by a text that is no longer, so the links alone make the body grow.
fn body(event: &EventView, reply: impl Fn(usize) -> Option<String>) -> Result<Vec<u8>, ReasonCode> {
    let provider = providers::of(event.provider);
    let found = provider.reply_addresses(&event.raw, &event.media_type)?;
    let withheld = provider.as_reply_address(WITHHELD, &event.media_type);
    let short = |at: &Range<usize>| if at.len() < withheld.len() { String::new() } else { withheld.clone() };
    let linked = found.linked.iter().enumerate().map(|(n, address)| {
        let ours = reply(n).map(|link| provider.as_reply_address(&link, &event.media_type));
        (address.at.clone(), ours.unwrap_or_else(|| short(&address.at)))
    });
    let mut replaced: Vec<(Range<usize>, String)> = linked.chain(found.withheld.iter().map(|at| (at.clone(), short(at)))).collect();
    replaced.sort_by_key(|(at, _)| at.start);
    let mut body = Vec::with_capacity(event.raw.len());
    let mut copied = 0;
    for (at, ours) in replaced {
        body.extend_from_slice(event.raw.get(copied..at.start).ok_or(ReasonCode::StoreCorrupt)?);
        body.extend_from_slice(ours.as_bytes());
        copied = at.end;
    }
    body.extend_from_slice(event.raw.get(copied..).ok_or(ReasonCode::StoreCorrupt)?);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cloudevent::tests::event;
    use super::*;
    use crate::domain::ids::{DeliveryId, EventId};
    use crate::domain::installation::ProviderKind;
    use crate::domain::message::Normal;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_100);
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";

    fn claimed(attempt: i64) -> Claimed {
        let of = event(Normal::default(), "{}");
        Claimed {
            id: DeliveryId::parse("dlv_1").unwrap(),
            event: EventId::parse("evt_01").unwrap(),
            org: of.org,
            agent: of.agent,
            session: of.session,
            lease: 1,
            lease_until: NOW,
            attempt,
        }
    }

    fn of(provider: ProviderKind, raw: &str, media_type: &str) -> EventView {
        EventView { provider, media_type: media_type.into(), ..event(Normal::default(), raw) }
    }

    fn made(event: &EventView, secret: &str, attempt: i64) -> Result<(BTreeMap<&'static str, String>, String), ReasonCode> {
        let reply = |n: usize| Some(format!("https://gw.example/r/{n}"));
        let (headers, body) = compose(event, &Secret::new(secret.into()), &claimed(attempt), NOW, reply)?;
        let count = headers.len();
        let headers: BTreeMap<_, _> = headers.into_iter().map(|(n, v)| (n, v.expose().to_owned())).collect();
        assert_eq!(headers.len(), count, "no header twice");
        Ok((headers, String::from_utf8(body).unwrap()))
    }

    #[test]
    fn the_provider_s_bytes_and_the_provider_s_signature_over_them() {
        let raw = "text=gr%C3%BC%C3%9Fe+%2Bmehr&z=";
        let slack = of(ProviderKind::Slack, raw, "application/x-www-form-urlencoded");
        let (headers, body) = made(&slack, SECRET, 1).unwrap();
        assert_eq!((body.as_str(), headers["content-type"].as_str()), (raw, "application/x-www-form-urlencoded"));
        let signed = providers::of(ProviderKind::Slack).sign(raw.as_bytes(), &Secret::new(SECRET.into()), NOW);
        assert!(signed.len() == 2 && signed.iter().all(|(name, value)| headers[name] == *value));
        assert!(!headers.contains_key("webhook-signature") && !headers.contains_key("x-slack-retry-num"));

        let telegram = of(ProviderKind::Telegram, "{\"update_id\":1.0 }", "application/json");
        let (headers, body) = made(&telegram, "agent_secret-0123456789", 3).unwrap();
        assert_eq!(body, "{\"update_id\":1.0 }");
        assert_eq!(headers["x-telegram-bot-api-secret-token"], "agent_secret-0123456789");
        assert!(!headers.keys().any(|name| name.starts_with("x-slack")));
    }

    #[test]
    fn a_repeat_of_ours_is_told_as_slack_tells_its_own() {
        let (headers, _) = made(&of(ProviderKind::Slack, "{}", "application/json"), SECRET, 3).unwrap();
        assert_eq!((headers["x-slack-retry-num"].as_str(), headers["x-slack-retry-reason"].as_str()), ("2", "unknown_error"));
    }

    #[test]
    fn facts_ride_in_headers_that_decode_to_what_they_were() {
        let mut slack = of(ProviderKind::Slack, "{}", "application/json");
        slack.session_key = "acme/slack/i/a/C 1%2F\u{e9}//".into();
        let (headers, _) = made(&slack, SECRET, 1).unwrap();
        let facts: Vec<_> = headers.iter().filter(|(name, _)| name.starts_with("byoa-")).map(|(n, v)| format!("{n}: {v}")).collect();
        insta::assert_snapshot!(facts.join("\n"), @r"
        byoa-agent: support
        byoa-event: evt_01
        byoa-installation: acme-slack
        byoa-mode: byoa
        byoa-org: acme
        byoa-provider: slack
        byoa-session: ses_01
        byoa-session-key: acme/slack/i/a/C%201%252F%C3%A9//
        ");
    }

    #[test]
    fn an_address_that_goes_around_the_gateway_is_the_gateway_s_or_withheld() {
        let raw = r#"{"a":1.50,"response_url":"https:\/\/hooks.slack.com\/canary","b":"x"}"#;
        let slack = of(ProviderKind::Slack, raw, "application/json");
        assert_eq!(made(&slack, SECRET, 1).unwrap().1, r#"{"a":1.50,"response_url":"https://gw.example/r/0","b":"x"}"#);
        let form = of(ProviderKind::Slack, "response_url=https%3A%2F%2Fhooks.slack.com%2Fcanary&b=+", "application/x-www-form-urlencoded");
        assert_eq!(made(&form, SECRET, 1).unwrap().1, "response_url=https%3A%2F%2Fgw.example%2Fr%2F0&b=+");
        let (_, body) = compose(&form, &Secret::new(SECRET.into()), &claimed(1), NOW, |_| None).unwrap();
        assert_eq!(body, b"response_url=%5Bwithheld%5D&b=+");
        let torn = of(ProviderKind::Slack, "{", "application/json");
        assert_eq!(made(&torn, SECRET, 1), Err(ReasonCode::StoreCorrupt));
    }

    #[test]
    fn the_verification_token_is_withheld_and_its_field_stays() {
        let json = of(ProviderKind::Slack, r#"{"token":"Z26uHrxmH4l","type":"event_callback"}"#, "application/json");
        let (headers, body) = made(&json, SECRET, 1).unwrap();
        assert_eq!(body, r#"{"token":"[withheld]","type":"event_callback"}"#);
        let signed = providers::of(ProviderKind::Slack).sign(body.as_bytes(), &Secret::new(SECRET.into()), NOW);
        assert!(signed.iter().all(|(name, value)| headers[name] == *value), "what is signed is what is sent");
        let form = |raw: &str| made(&of(ProviderKind::Slack, raw, "application/x-www-form-urlencoded"), SECRET, 1).unwrap().1;
        assert_eq!(form("token=Z26uHrxmH4lCanary&text=a"), "token=%5Bwithheld%5D&text=a");
        assert_eq!(form("payload=%7B%22token%22%3A%22Z26uHrxmH4lCanary%22%7D"), "payload=%7B%22token%22%3A%22%5Bwithheld%5D%22%7D");
        assert_eq!(form("token=short&text=a"), "token=&text=a");
    }

    #[test]
    fn a_secret_that_the_provider_could_not_have_given_signs_nothing() {
        let telegram = of(ProviderKind::Telegram, "{}", "application/json");
        assert_eq!(made(&telegram, "whsec_SJTJJ/UqECrncrEs", 1), Err(ReasonCode::DeliverySecretUnavailable));
    }
}
