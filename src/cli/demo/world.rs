//! Who takes part: two tenants, six installations, three agents, and secrets that are made up anew in every run.
//!
//! Owns the cast and its declaration. Never prints a secret and never hands one to anybody but who has it in life: a
//! provider's to the simulated provider, an agent's to that agent. Floor 11.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use crate::crypto::random;
use crate::domain::installation::{ExternalAccount, Mode, ProviderKind};
use crate::domain::secret::Secret;

/// The tenant with apps of its own.
pub(super) const OWN: &str = "acme";
/// The tenant on the platform's apps.
pub(super) const GUEST: &str = "globex";

/// One tenant on one provider: app, account, conversation, and who answers there.
pub(super) struct Seat {
    /// The org.
    pub tenant: &'static str,
    /// The provider.
    pub provider: ProviderKind,
    /// Whose app it is.
    pub mode: Mode,
    /// The app.
    pub profile: &'static str,
    /// The app in the tenant's account.
    pub installation: &'static str,
    /// The provider's id of the app, where events name it.
    pub app_id: Option<&'static str>,
    /// The tenant's account.
    pub account: ExternalAccount,
    /// Where somebody writes.
    pub conversation: &'static str,
    /// Who must hear it.
    pub agent: &'static str,
    /// What the provider proves its webhooks with.
    pub signing: Secret,
    /// What the provider wants to see when the answer comes.
    pub credential: Secret,
    ingress_id: String,
}

impl Seat {
    /// Where its provider posts.
    pub(super) fn path(&self) -> String {
        format!("/webhooks/{}/{}", self.provider, self.ingress_id)
    }

    /// Whose token has to answer, in words.
    pub(super) fn token_owner(&self) -> String {
        match self.mode {
            Mode::Byoa => format!("{}'s own", self.tenant),
            Mode::Platform => format!("the platform's, for {}", self.tenant),
        }
    }

    /// Whose app it is, in words.
    pub(super) fn app_owner(&self) -> &'static str {
        match self.mode {
            Mode::Byoa => "own app",
            Mode::Platform => "the platform's app",
        }
    }
}

/// A program that answers.
pub(super) struct Voice {
    /// Its identifier.
    pub id: &'static str,
    /// Its org; none for the platform's.
    pub org: Option<&'static str>,
    /// What the gateway signs its events with.
    pub signing: Secret,
    /// What it shows when it speaks.
    pub token: Secret,
}

/// The whole cast.
pub(super) struct World {
    /// Tenant × provider, in the order of the journeys.
    pub seats: Vec<Seat>,
    /// The agents.
    pub voices: Vec<Voice>,
}

/// `profile`, `installation`, app id, account, conversation, agent.
type Row = (ProviderKind, &'static str, &'static str, Option<&'static str>, ExternalAccount, &'static str, &'static str);

fn own_apps() -> [Row; 3] {
    use ProviderKind::{Slack, Telegram, WhatsApp};
    [
        (Slack, "acme-slack-app", "acme-slack", Some("A0ACME"), team("T0ACME"), "C0ACMEHELP", "acme-support"),
        (Telegram, "acme-tg", "acme-bot", None, bot("7001", &[]), "5100001", "acme-support"),
        (WhatsApp, "acme-wa", "acme-phone", Some("770001"), number("9001", "9101"), "15550001", "acme-support"),
    ]
}

/// A platform app reaches the platform's agents and the tenant's own; both are shown.
fn platform_apps() -> [Row; 3] {
    use ProviderKind::{Slack, Telegram, WhatsApp};
    [
        (Slack, "slack-platform", "globex-slack", Some("A0PLAT"), team("T0GLOBEX"), "C0GLOBEX", "helper"),
        (Telegram, "telegram-platform", "globex-chat", None, bot("7000", &["-100200300"]), "-100200300", "helper"),
        (WhatsApp, "whatsapp-platform", "globex-phone", Some("770000"), number("9002", "9102"), "15550002", "globex-desk"),
    ]
}

fn team(id: &str) -> ExternalAccount {
    ExternalAccount::Slack { team_id: Some(id.into()), enterprise_id: None }
}

fn bot(id: &str, chats: &[&str]) -> ExternalAccount {
    ExternalAccount::Telegram { bot_id: id.into(), chats: chats.iter().map(|chat| (*chat).into()).collect() }
}

fn number(waba: &str, number: &str) -> ExternalAccount {
    ExternalAccount::WhatsApp { waba_id: waba.into(), phone_number_id: number.into() }
}

/// A secret as nobody has seen it before; `form` says how the provider's own look.
fn made_up(form: impl FnOnce(String) -> String) -> Result<Secret, getrandom::Error> {
    Ok(Secret::new(form(hex::encode(random::<16>()?))))
}

fn credential(account: &ExternalAccount) -> Result<Secret, getrandom::Error> {
    made_up(|digits| match account {
        ExternalAccount::Slack { .. } => format!("xoxb-{digits}"),
        ExternalAccount::Telegram { bot_id, .. } => format!("{bot_id}:AA{digits}"),
        ExternalAccount::WhatsApp { .. } => format!("EAA{digits}"),
    })
}

impl World {
    /// Makes everything up.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        let mut seats = Vec::new();
        let own = own_apps().map(|row| (OWN, Mode::Byoa, row));
        let guest = platform_apps().map(|row| (GUEST, Mode::Platform, row));
        for (tenant, mode, (provider, profile, installation, app_id, account, conversation, agent)) in own.into_iter().chain(guest) {
            let (signing, credential) = (made_up(|digits| digits)?, credential(&account)?);
            let ingress_id = hex::encode(random::<20>()?);
            seats.push(Seat {
                tenant,
                provider,
                mode,
                profile,
                installation,
                app_id,
                account,
                conversation,
                agent,
                signing,
                credential,
                ingress_id,
            });
        }
        let mut voices = Vec::new();
        for (id, org) in [("acme-support", Some(OWN)), ("globex-desk", Some(GUEST)), ("helper", None)] {
            let signing = Secret::new(format!("whsec_{}", STANDARD.encode(random::<32>()?)));
            voices.push(Voice { id, org, signing, token: made_up(|digits| format!("agt_{digits}"))? });
        }
        Ok(Self { seats, voices })
    }

    /// A tenant's seat on a provider.
    pub(super) fn seat(&self, tenant: &str, provider: ProviderKind) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.tenant == tenant && seat.provider == provider)
    }

    /// The document an operator would write, with the agents at `echo`.
    pub(super) fn document(&self, echo: SocketAddr) -> Json {
        let secret = |secret: &Secret| json!({"value": secret.expose()});
        let agents = self.voices.iter().map(|voice| {
            json!({"id": voice.id, "org": voice.org, "endpoint": format!("http://{echo}/{}", voice.id),
                "signing_secret": secret(&voice.signing), "token": secret(&voice.token)})
        });
        let profiles = self.seats.iter().map(|seat| {
            let owner = if seat.mode == Mode::Byoa { seat.tenant } else { "platform" };
            json!({"id": seat.profile, "provider": seat.provider, "owner": owner, "app_id": seat.app_id,
                "ingress_id": seat.ingress_id, "signing_secret": secret(&seat.signing)})
        });
        let installations = self.seats.iter().map(|seat| {
            json!({"id": seat.installation, "profile": seat.profile, "org": seat.tenant, "account": seat.account,
                "credential": secret(&seat.credential)})
        });
        let bindings = self.seats.iter().map(|seat| {
            json!({"id": format!("{}-hears", seat.installation), "org": seat.tenant, "installation": seat.installation,
                "agent": seat.agent})
        });
        json!({
            "orgs": [{"id": OWN, "name": "Acme Inc"}, {"id": GUEST, "name": "Globex Corporation"}],
            "agents": agents.collect::<Vec<_>>(),
            "profiles": profiles.collect::<Vec<_>>(),
            "installations": installations.collect::<Vec<_>>(),
            "bindings": bindings.collect::<Vec<_>>(),
        })
    }

    /// Everything that must never be seen.
    #[cfg(test)]
    pub(super) fn secrets(&self) -> Vec<&str> {
        let seats = self.seats.iter().flat_map(|s| [s.signing.expose(), s.credential.expose(), s.ingress_id.as_str()]);
        seats.chain(self.voices.iter().flat_map(|v| [v.signing.expose(), v.token.expose()])).collect()
    }
}
