//! Media tickets: what an agent holds in place of a provider's file address, which would carry a token or need one.
//!
//! A ticket names one file of one installation for one agent until a time, under a MAC of a key of its own. It is no secret
//! that opens anything: whoever shows it must prove to be that agent besides. Floor 3.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Vault;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, InstallationId};

const PURPOSE: &str = "media ticket v1";

/// Longer ones are not looked at: the longest id there is, three times.
const TICKET_CHARS_MAX: usize = 4096;

/// What a ticket that we wrote says. Made only by [`Vault::read_ticket`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MediaTicket {
    installation: InstallationId,
    agent: AgentId,
    file: String,
    until: Timestamp,
}

impl MediaTicket {
    /// Through whose credential the file is fetched.
    pub fn installation(&self) -> &InstallationId {
        &self.installation
    }

    /// Who may fetch it.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The provider's id of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The last moment at which it counts.
    pub fn until(&self) -> Timestamp {
        self.until
    }
}

impl Vault {
    /// Writes a ticket.
    pub fn write_ticket(&self, installation: &InstallationId, agent: &AgentId, file: &str, until: Timestamp) -> String {
        self.signed(PURPOSE, &serde_json::json!([installation, agent, file, until.ms()]))
    }

    /// Reads a ticket that [`Vault::write_ticket`] wrote; nothing in it is looked at before its MAC.
    pub fn read_ticket(&self, text: &str) -> Option<MediaTicket> {
        let (installation, agent, file, until): (InstallationId, AgentId, String, i64) = self.proved(PURPOSE, text)?;
        Some(MediaTicket { installation, agent, file, until: Timestamp::from_ms(until) })
    }

    /// A text of ours that says this, for one purpose.
    pub(super) fn signed(&self, purpose: &str, said: &serde_json::Value) -> String {
        let said = said.to_string();
        let mac = self.derived(purpose).map(|key| key.sign(&[said.as_bytes()])).unwrap_or_default();
        URL_SAFE_NO_PAD.encode([mac.as_slice(), said.as_bytes()].concat())
    }

    /// What a text of [`Vault::signed`] for that purpose says; nothing in it is looked at before its MAC.
    pub(super) fn proved<T: serde::de::DeserializeOwned>(&self, purpose: &str, text: &str) -> Option<T> {
        if text.len() > TICKET_CHARS_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (mac, said) = bytes.split_first_chunk::<32>()?;
        self.derived(purpose).filter(|key| key.verify(&[said], mac))?;
        serde_json::from_slice(said).ok()
    }
}

/// What an upload's ticket names in place of a file's id; no provider's id has a colon.
const UPLOAD: &str = "upload:";

/// An address for an upload is used at once.
const UPLOAD_KEPT_MS: i64 = 3_600_000;

impl Vault {
    /// Writes a ticket for one upload to a provider's address. SDKs show no token there, so this one alone is the proof, and
    /// it is good for nothing else.
    pub fn write_upload_ticket(&self, installation: &InstallationId, agent: &AgentId, url: &str, now: Timestamp) -> String {
        self.write_ticket(installation, agent, &format!("{UPLOAD}{url}"), now.plus_ms(UPLOAD_KEPT_MS))
    }

    /// Reads a ticket that [`Vault::write_upload_ticket`] wrote and that still counts: the ticket and the address.
    pub fn read_upload_ticket(&self, text: &str, now: Timestamp) -> Option<(MediaTicket, String)> {
        let ticket = self.read_ticket(text).filter(|ticket| now <= ticket.until)?;
        let url = ticket.file.strip_prefix(UPLOAD)?.to_owned();
        Some((ticket, url))
    }
}

/// Writes the addresses that agents fetch files at. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MediaLinks {
    vault: Vault,
    base: String,
    kept_ms: i64,
}

impl MediaLinks {
    /// Addresses under `public_url`; without one they are relative to wherever the agent reaches the gateway.
    pub fn new(vault: Vault, public_url: Option<&str>, hours: u32) -> Self {
        let base = public_url.unwrap_or_default().trim_end_matches('/').to_owned();
        Self { vault, base, kept_ms: i64::from(hours) * 3_600_000 }
    }

    /// The address of one file for one agent, from now on for as long as addresses last.
    pub fn link(&self, installation: &InstallationId, agent: &AgentId, file: &str, now: Timestamp) -> String {
        format!("{}/v1/media/{}", self.base, self.ticket(installation, agent, file, now))
    }

    /// The ticket in such an address.
    pub fn ticket(&self, installation: &InstallationId, agent: &AgentId, file: &str, now: Timestamp) -> String {
        self.vault.write_ticket(installation, agent, file, now.plus_ms(self.kept_ms))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::crypto::envelope::KeyRing;
    use zeroize::Zeroizing;

    /// A vault whose keys are another for each seed.
    pub fn vault(seed: u8) -> Vault {
        let mut key = Zeroizing::new([seed; 32]);
        key[0] = seed.wrapping_add(1);
        Vault::new(KeyRing::new(vec![key]).unwrap(), crate::crypto::MacKey::new(&[seed; 8]).unwrap())
    }

    #[test]
    fn a_ticket_is_read_back_by_the_vault_that_wrote_it_and_no_other() {
        let (vault, now) = (vault(3), Timestamp::from_secs(1_790_000_000));
        let (installation, agent) = (InstallationId::parse("acme-slack").unwrap(), AgentId::parse("support").unwrap());
        let links = MediaLinks::new(vault.clone(), Some("https://gw.example/"), 24);
        let link = links.link(&installation, &agent, "F1\",\"x", now);
        let text = link.strip_prefix("https://gw.example/v1/media/").unwrap();
        let ticket = vault.read_ticket(text).unwrap();
        assert_eq!((ticket.installation(), ticket.agent(), ticket.file()), (&installation, &agent, "F1\",\"x"));
        assert_eq!(ticket.until().ms(), now.ms() + 24 * 3_600_000);
        assert_eq!(self::vault(5).read_ticket(text), None, "another gateway's");
        assert!(MediaLinks::new(vault.clone(), None, 1).link(&installation, &agent, "F", now).starts_with("/v1/media/"));
        for at in 0..text.len() {
            let mut other = text.as_bytes().to_vec();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(vault.read_ticket(std::str::from_utf8(&other).unwrap()), None, "changed at {at}");
        }
        for not in ["", "A", &text[..text.len() - 4], &"A".repeat(5000)] {
            assert_eq!(vault.read_ticket(not), None);
        }
    }

    #[test]
    fn a_fingerprint_is_never_the_key_of_a_ticket() {
        let vault = vault(3);
        let from_fingerprint = crate::crypto::MacKey::new(&hex::decode(vault.fingerprint(PURPOSE)).unwrap()).unwrap();
        assert_ne!(from_fingerprint.sign(&[b"x"]), vault.derived(PURPOSE).unwrap().sign(&[b"x"]));
    }
}
