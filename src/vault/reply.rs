//! Reply tickets: what an agent holds in place of a provider's address that anybody may post to.
//!
//! A ticket names one such address of one event, for one agent, through one installation, until a time, under a MAC of a key
//! of its own. Whoever shows it is taken for that agent, once more and for this only: SDKs send nothing besides. Floor 3.

use super::Vault;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, EventId, InstallationId};
use crate::store::EventView;

const PURPOSE: &str = "reply ticket v1";

/// <https://docs.slack.dev/interactivity/handling-user-interaction>: as long as the address behind it works.
const KEPT_MS: i64 = 30 * 60_000;

/// What a ticket that we wrote says. Made only by [`Vault::read_reply`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplyTicket {
    event: EventId,
    place: usize,
    installation: InstallationId,
    agent: AgentId,
    until: Timestamp,
}

impl ReplyTicket {
    /// The event that brought the address.
    pub fn event(&self) -> &EventId {
        &self.event
    }

    /// Which of its addresses, counted from 0.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Through which installation it is posted.
    pub fn installation(&self) -> &InstallationId {
        &self.installation
    }

    /// Whose ticket it is.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The last moment at which it counts.
    pub fn until(&self) -> Timestamp {
        self.until
    }
}

impl Vault {
    fn write_reply(&self, event: &EventView, place: usize) -> String {
        let until = event.received.plus_ms(KEPT_MS).ms();
        self.signed(PURPOSE, &serde_json::json!([event.id, place, event.installation, event.agent, until]))
    }

    /// Reads a ticket that [`ReplyLinks::link`] wrote; nothing in it is looked at before its MAC.
    pub fn read_reply(&self, text: &str) -> Option<ReplyTicket> {
        let (event, place, installation, agent, until): (EventId, usize, InstallationId, AgentId, i64) = self.proved(PURPOSE, text)?;
        Some(ReplyTicket { event, place, installation, agent, until: Timestamp::from_ms(until) })
    }
}

/// Writes the addresses that agents reply at. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ReplyLinks {
    vault: Vault,
    base: Option<String>,
}

impl ReplyLinks {
    /// Addresses under `public_url`; without one there are none.
    pub fn new(vault: Vault, public_url: Option<&str>) -> Self {
        let base = public_url.and_then(|url| url::Url::parse(url).ok()).map(|url| url.as_str().trim_end_matches('/').to_owned());
        Self { vault, base }
    }

    /// The address that stands for one of an event's own.
    pub fn link(&self, event: &EventView, place: usize) -> Option<String> {
        let base = self.base.as_deref()?;
        Some(format!("{base}/sdk/{}/respond/{}", event.provider, self.vault.write_reply(event, place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{OrgId, ProfileId, SessionId};
    use crate::domain::installation::ProviderKind;
    use crate::domain::message::Normal;
    use crate::vault::ticket::tests::vault;

    fn event() -> EventView {
        EventView {
            id: EventId::parse("evt_01").unwrap(),
            received: Timestamp::from_secs(1_790_000_000),
            org: OrgId::parse("acme").unwrap(),
            provider: ProviderKind::Slack,
            mode: "byoa".into(),
            profile: ProfileId::parse("acme-slack-app").unwrap(),
            installation: InstallationId::parse("acme-slack").unwrap(),
            agent: AgentId::parse("support").unwrap(),
            session: SessionId::parse("ses_01").unwrap(),
            session_key: String::new(),
            session_new: true,
            cloud_type: "interaction.received".into(),
            provider_event_id: "1".into(),
            provider_event_type: "block_actions".into(),
            normal: Normal::default(),
            raw: Vec::new(),
            media_type: "application/json".into(),
        }
    }

    #[test]
    fn a_ticket_is_read_back_by_the_vault_that_wrote_it_and_no_other() {
        let vault = vault(3);
        let link = ReplyLinks::new(vault.clone(), Some("https://gw.example/x/")).link(&event(), 1).unwrap();
        let text = link.strip_prefix("https://gw.example/x/sdk/slack/respond/").unwrap();
        let ticket = vault.read_reply(text).unwrap();
        assert_eq!((ticket.event().as_str(), ticket.place()), ("evt_01", 1));
        assert_eq!((ticket.installation().as_str(), ticket.agent().as_str()), ("acme-slack", "support"));
        assert_eq!(ticket.until(), event().received.plus_ms(1_800_000), "counted from the event");
        assert_eq!(self::vault(5).read_reply(text), None, "another gateway's");
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(vault.read_reply(std::str::from_utf8(&other).unwrap()), None, "changed at {at}");
        }
        for not in ["", "A", &text[..text.len() - 4], &"A".repeat(5000)] {
            assert_eq!(vault.read_reply(not), None);
        }
        for none in [None, Some("not an address")] {
            assert_eq!(ReplyLinks::new(vault.clone(), none).link(&event(), 0), None);
        }
    }
}
