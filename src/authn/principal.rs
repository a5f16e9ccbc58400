//! What a proof is worth: typed principals with private constructors.

use std::sync::Arc;

use crate::domain::ids::{AgentId, OrgId};
use crate::domain::installation::{Agent, ExternalAccount, Installation, Mode, ProviderKind};
use crate::store::AgentScope;
use crate::store::directory::Kept;

/// A verified webhook sender, per provider: whoever takes one knows whose account it speaks for.
#[derive(Debug)]
pub enum Sender {
    /// Slack.
    Slack(SenderMode),
    /// Telegram.
    Telegram(SenderMode),
    /// WhatsApp.
    WhatsApp(SenderMode),
}

/// Per mode: a platform principal can never be mistaken for a tenant's.
#[derive(Debug)]
pub enum SenderMode {
    /// The platform's app, in this installation.
    Platform(Bound),
    /// The tenant's own app, in this installation.
    Byoa(Bound),
}

/// The installation that a proved event was bound to. Not `Clone`: a bound one cannot be wrapped again as another mode's.
#[derive(Debug)]
pub struct Bound(Arc<Kept<Installation>>);

impl Sender {
    /// Only the binding of a verified event makes one.
    pub(super) fn new(installation: Arc<Kept<Installation>>) -> Self {
        let (provider, mode) = (installation.item.provider, installation.item.owner.mode());
        let bound = Bound(installation);
        let mode = match mode {
            Mode::Platform => SenderMode::Platform(bound),
            Mode::Byoa => SenderMode::Byoa(bound),
        };
        match provider {
            ProviderKind::Slack => Self::Slack(mode),
            ProviderKind::Telegram => Self::Telegram(mode),
            ProviderKind::WhatsApp => Self::WhatsApp(mode),
        }
    }

    fn mode_of(&self) -> &SenderMode {
        match self {
            Self::Slack(mode) | Self::Telegram(mode) | Self::WhatsApp(mode) => mode,
        }
    }

    /// The installation it speaks for.
    pub fn installation(&self) -> &Installation {
        match self.mode_of() {
            SenderMode::Platform(bound) | SenderMode::Byoa(bound) => &bound.0.item,
        }
    }

    /// Platform or own app.
    pub fn mode(&self) -> Mode {
        match self.mode_of() {
            SenderMode::Platform(_) => Mode::Platform,
            SenderMode::Byoa(_) => Mode::Byoa,
        }
    }

    /// The principal in records: `slack.byoa:T0ACME`.
    pub fn name(&self) -> String {
        let installation = self.installation();
        let account = match &installation.account {
            ExternalAccount::Slack { team_id: Some(id), .. } | ExternalAccount::Slack { team_id: None, enterprise_id: Some(id) } => id,
            ExternalAccount::Slack { .. } => "",
            ExternalAccount::Telegram { bot_id, .. } => bot_id,
            ExternalAccount::WhatsApp { phone_number_id, .. } => phone_number_id,
        };
        format!("{}.{}:{account}", installation.provider, self.mode().as_str())
    }
}

/// An agent whose token was proved.
#[derive(Clone, Debug)]
pub struct AgentPrincipal(Arc<Kept<Agent>>);

impl AgentPrincipal {
    pub(super) fn new(agent: Arc<Kept<Agent>>) -> Self {
        Self(agent)
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.0.item
    }
}

impl AgentScope for AgentPrincipal {
    fn agent(&self) -> &AgentId {
        &self.0.item.id
    }

    fn org(&self) -> Option<&OrgId> {
        self.0.item.org.as_ref()
    }
}

/// What an operator may be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Connects, applies, replays.
    Operator,
    /// Rolls out.
    ReleaseManager,
    /// Everything an operator may, and secrets.
    Security,
}

impl Role {
    /// Every role, from the weakest.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::ReleaseManager, Self::Security];

    /// The word in the token file and in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::ReleaseManager => "release-manager",
            Self::Security => "security",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

/// An operator whose token was proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperatorPrincipal {
    name: String,
    role: Role,
    mfa: bool,
}

impl OperatorPrincipal {
    pub(super) fn new(name: String, role: Role, mfa: bool) -> Self {
        Self { name, role, mfa }
    }

    /// Who, for the audit.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What he may be asked about.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether a second factor stands behind the token.
    pub fn mfa(&self) -> bool {
        self.mfa
    }
}
