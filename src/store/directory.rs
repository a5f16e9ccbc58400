//! Everything operators declared, in memory: what the request path looks things up in, so that nothing waits for the
//! database between proof and commit. Immutable; swapped whole after every change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId};
use crate::domain::installation::{
    Agent, AppProfile, Binding, ExternalAccount, Installation, InstallationStatus, Mode, Org, Ownership, ProviderKind, SecretFacts,
};
use crate::domain::rollout::Flag;
use crate::domain::session::SessionKey;

/// A sealed value as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedSecret {
    /// Identifies the value; a credential's is `crd_…`.
    pub id: String,
    /// `signing_secret`, `verify_token`, `credential`, `token` and so on.
    pub field: String,
    /// `current` or `previous`.
    pub slot: String,
    /// The sealed bytes.
    pub sealed: Vec<u8>,
    /// Keyed digest.
    pub fingerprint: String,
    /// When it was put.
    pub set: Timestamp,
    /// When a previous one stops to count, or a credential to be one.
    pub until: Option<Timestamp>,
}

impl SealedSecret {
    /// What reads show.
    pub fn facts(&self) -> SecretFacts {
        SecretFacts {
            fingerprint: self.fingerprint.chars().take(12).collect(),
            set_at: self.set,
            state: if self.slot == "previous" { "previous" } else { "current" },
            until: self.until.filter(|_| self.slot == "previous"),
            expires_at: self.until.filter(|_| self.slot != "previous"),
        }
    }
}

/// A resource with its sealed values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept<T> {
    /// The resource.
    pub item: T,
    /// Its sealed values.
    pub secrets: Vec<SealedSecret>,
    /// When it was last changed.
    pub updated: Timestamp,
}

impl<T> Kept<T> {
    /// The current value of a field.
    pub fn secret(&self, field: &str) -> Option<&SealedSecret> {
        self.secrets.iter().find(|s| s.field == field && s.slot == "current")
    }
}

/// Where a webhook address leads.
#[derive(Clone, Debug)]
pub enum Locator {
    /// To this profile.
    Profile(Arc<Kept<AppProfile>>),
    /// To one that was removed.
    Gone(ProfileId),
}

/// What an operator handed from one agent to another.
#[derive(Clone, Debug)]
pub(super) struct HandedOver {
    /// Who has it now.
    pub agent: AgentId,
    /// The session's key with that agent.
    pub key: String,
}

/// The whole declared state.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Orgs.
    pub orgs: BTreeMap<OrgId, Arc<Kept<Org>>>,
    /// App profiles.
    pub profiles: BTreeMap<ProfileId, Arc<Kept<AppProfile>>>,
    /// Installations.
    pub installations: BTreeMap<InstallationId, Arc<Kept<Installation>>>,
    /// Agents.
    pub agents: BTreeMap<AgentId, Arc<Kept<Agent>>>,
    /// Bindings.
    pub bindings: BTreeMap<BindingId, Arc<Kept<Binding>>>,
    /// Rollout flags.
    pub flags: BTreeMap<ProviderKind, Flag>,
    pub(super) ingress: HashMap<String, Locator>,
    pub(super) accounts: HashMap<(ProfileId, String), Vec<Arc<Kept<Installation>>>>,
    pub(super) modes_by_account: HashMap<String, Vec<Mode>>,
    pub(super) bindings_by_installation: HashMap<InstallationId, Vec<Arc<Kept<Binding>>>>,
    pub(super) legacy: HashMap<(OrgId, ProviderKind), Vec<Arc<Kept<Binding>>>>,
    pub(super) hearing: HashMap<(OrgId, ProviderKind), Vec<InstallationId>>,
    claimed: Claimed,
    pub(super) disputed: HashSet<String>,
    pub(super) handed: HashMap<String, HandedOver>,
    pub(super) installations_by_agent: HashMap<AgentId, Vec<InstallationId>>,
    pub(super) agents_by_token: HashMap<String, AgentId>,
}

impl Directory {
    /// The profile of a webhook address.
    pub fn locate(&self, ingress_id: &str) -> Option<&Locator> {
        self.ingress.get(ingress_id)
    }

    /// The installations of one profile that have this account; more than one is ambiguous, and refused.
    pub fn by_account(&self, profile: &ProfileId, account: &str) -> &[Arc<Kept<Installation>>] {
        self.accounts.get(&(profile.clone(), account.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Whether some tenant's own app has this account.
    pub fn account_is_byoa(&self, account: &str) -> bool {
        self.modes_by_account.get(account).is_some_and(|modes| modes.contains(&Mode::Byoa))
    }

    /// Whether another owner, or another installation of the same app, holds an account that this one holds. The database
    /// forbids it; where rows are damaged all the same, neither is to be believed.
    pub fn disputed(&self, installation: &Installation) -> bool {
        !self.disputed.is_empty()
            && claims(installation).into_iter().chain(bot_owner(installation)).any(|(account, _)| self.disputed.contains(&account))
    }

    /// Who holds which account.
    pub fn claimed(&self) -> &Claimed {
        &self.claimed
    }

    /// An org's legacy bindings for a provider.
    pub fn legacy_bindings(&self, org: &OrgId, provider: ProviderKind) -> &[Arc<Kept<Binding>>] {
        self.legacy.get(&(org.clone(), provider)).map_or(&[], Vec::as_slice)
    }

    /// Whether this is the one installation of its org and provider that hears events. Where it is not, a binding that names
    /// only the provider does not say which it means.
    pub fn is_only_installation(&self, installation: &Installation) -> bool {
        let hearing = self.hearing.get(&(installation.org.clone(), installation.provider));
        matches!(hearing.map(Vec::as_slice), Some([only]) if *only == installation.id)
    }

    /// An org's installations of a provider that hear events.
    pub fn hearing(&self, org: &OrgId, provider: ProviderKind) -> impl Iterator<Item = &Installation> {
        let ids = self.hearing.get(&(org.clone(), provider)).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| self.installations.get(id)).map(|i| &i.item)
    }

    /// To whom a session of this key was handed, where an operator did that.
    pub fn handed(&self, key: &SessionKey) -> Option<&AgentId> {
        if self.handed.is_empty() { None } else { self.handed.get(key.as_str()).map(|h| &h.agent) }
    }

    /// Whether a session was handed to its agent by an operator, rather than given by a binding.
    pub fn was_handed(&self, key: &str) -> bool {
        self.handed.values().any(|h| h.key == key)
    }

    /// The sessions that were handed to an agent, by the keys they have with it.
    pub fn handed_to<'a>(&'a self, agent: &'a str) -> impl Iterator<Item = &'a str> {
        self.handed.values().filter(move |h| h.agent.as_str() == agent).map(|h| h.key.as_str())
    }

    /// The bindings of an installation.
    pub fn bindings_of(&self, installation: &InstallationId) -> &[Arc<Kept<Binding>>] {
        self.bindings_by_installation.get(installation).map_or(&[], Vec::as_slice)
    }

    /// Whether an enabled binding ties an agent to an installation.
    pub fn binds(&self, installation: &InstallationId, agent: &AgentId) -> bool {
        self.bindings_of(installation).iter().any(|b| b.item.enabled && b.item.agent == *agent)
    }

    /// Whether a conversation can be an installation's. A bot that several orgs share is in the chats of all of them, so its
    /// token alone does not say: a listed chat is who lists it, and what nobody lists is whose list is empty.
    pub fn serves(&self, installation: &Installation, conversation: &str) -> bool {
        let ExternalAccount::Telegram { chats, .. } = &installation.account else { return true };
        // As the number that it is: `+5` and `05` are the same chat.
        let Ok(chat) = conversation.parse::<i64>() else {
            // A public name may be anybody's chat.
            return !self.installations.values().any(|i| i.item.profile == installation.profile && i.item.id != installation.id);
        };
        let chat = chat.to_string();
        if chats.is_empty() { self.by_account(&installation.profile, &format!("chat:{chat}")).is_empty() } else { chats.contains(&chat) }
    }

    /// The installations of a provider that enabled bindings connect an agent to, legacy ones where they can mean only one.
    pub fn installations_for(&self, agent: &AgentId, provider: ProviderKind) -> Vec<&Arc<Kept<Installation>>> {
        let ids = self.installations_by_agent.get(agent).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| self.installations.get(id)).filter(|i| i.item.provider == provider).collect()
    }

    /// Whether other installations have a share of the same account.
    pub fn is_shared(&self, installation: &Installation) -> bool {
        let ExternalAccount::Telegram { .. } = &installation.account else { return false };
        let has_share = |i: &Installation| i.profile == installation.profile && i.status != InstallationStatus::Revoked;
        self.installations.values().any(|i| i.item.id != installation.id && has_share(&i.item))
    }

    /// The agent with this token, by the token's keyed digest.
    pub fn agent_by_token(&self, fingerprint: &str) -> Option<&Arc<Kept<Agent>>> {
        self.agents.get(self.agents_by_token.get(fingerprint)?)
    }

    /// One installation, for the org it must belong to.
    pub fn installation_of(&self, org: &OrgId, id: &InstallationId) -> Option<&Arc<Kept<Installation>>> {
        self.installations.get(id).filter(|i| i.item.org == *org)
    }

    /// The org that a resource's secrets are kept for; none is the platform's own.
    pub fn org_of(&self, kind: &str, id: &str) -> Option<OrgId> {
        match kind {
            "profiles" => match &self.profiles.get(&ProfileId::parse(id).ok()?)?.item.owner {
                Ownership::Org(org) => Some(org.clone()),
                Ownership::Platform => None,
            },
            "installations" => Some(self.installations.get(&InstallationId::parse(id).ok()?)?.item.org.clone()),
            "agents" => self.agents.get(&AgentId::parse(id).ok()?)?.item.org.clone(),
            _ => None,
        }
    }

    /// The flag of a provider; absence is `off`.
    pub fn flag(&self, provider: ProviderKind) -> Flag {
        self.flags.get(&provider).cloned().unwrap_or_default()
    }

    /// A directory made up for a test, with its lookups.
    #[cfg(test)]
    pub(crate) fn indexed(mut self) -> Self {
        self.index();
        self
    }

    /// Rebuilds every lookup from the resources.
    pub(super) fn index(&mut self) {
        let is_revoked = |i: &Arc<Kept<Installation>>| i.item.status == InstallationStatus::Revoked;
        for installation in self.installations.values().filter(|i| !is_revoked(i)) {
            let mode = installation.item.owner.mode();
            for key in lookup_keys(&installation.item.account) {
                self.modes_by_account.entry(key.clone()).or_default().push(mode);
                self.accounts.entry((installation.item.profile.clone(), key)).or_default().push(installation.clone());
            }
            if installation.item.status.hears() {
                let of = (installation.item.org.clone(), installation.item.provider);
                self.hearing.entry(of).or_default().push(installation.item.id.clone());
            }
        }
        // A revoked one has let go of its account. While nobody else has it, what is still on its way is that one's and is
        // refused as such, not as a stranger's.
        let mut ended: Vec<_> = self.installations.values().filter(|i| is_revoked(i)).cloned().collect();
        ended.sort_by_key(|i| std::cmp::Reverse(i.item.since));
        for installation in ended {
            for key in lookup_keys(&installation.item.account) {
                self.accounts.entry((installation.item.profile.clone(), key)).or_insert_with(|| vec![installation.clone()]);
            }
        }
        (self.claimed, self.disputed) = claimed(self.installations.values().filter(|i| !is_revoked(i)).map(|i| &i.item));
        let mut connected = Vec::new();
        for binding in self.bindings.values() {
            match (&binding.item.installation, binding.item.select.provider) {
                (Some(installation), _) => {
                    self.bindings_by_installation.entry(installation.clone()).or_default().push(binding.clone());
                    connected.push((binding, installation.clone()));
                }
                (None, Some(provider)) => {
                    let of = (binding.item.org.clone(), provider);
                    // What it can mean is one installation, or it means none.
                    if let Some([only]) = self.hearing.get(&of).map(Vec::as_slice) {
                        connected.push((binding, only.clone()));
                    }
                    self.legacy.entry(of).or_default().push(binding.clone());
                }
                // Not to be had over the API; it names nothing, so it means nothing.
                (None, None) => {}
            }
        }
        for (binding, installation) in connected.into_iter().filter(|(binding, _)| binding.item.enabled) {
            let installations = self.installations_by_agent.entry(binding.item.agent.clone()).or_default();
            if !installations.contains(&installation) {
                installations.push(installation);
            }
        }
        for agent in self.agents.values() {
            if let Some(token) = agent.secret("token") {
                self.agents_by_token.insert(token.fingerprint.clone(), agent.item.id.clone());
            }
        }
    }
}

/// Who holds which account: each has one owner overall and one installation per app. A revoked one let go of its own.
#[derive(Clone, Debug, Default)]
pub struct Claimed {
    owners: HashMap<String, String>,
    holders: HashSet<(String, ProfileId)>,
}

impl Claimed {
    /// What an installation would claim and somebody else holds.
    pub fn taken(&self, installation: &Installation) -> Vec<String> {
        let other_owner = |(account, owner): &(String, String)| self.owners.get(account).is_some_and(|o| o != owner);
        let held = |(account, _): &(String, String)| self.holders.contains(&(account.clone(), installation.profile.clone()));
        let mine = claims(installation);
        let held: Vec<_> = mine.iter().filter(|c| held(c)).cloned().collect();
        bot_owner(installation).into_iter().chain(mine).filter(other_owner).chain(held).map(|(account, _)| account).collect()
    }

    /// Gives an installation what nobody holds.
    pub fn claim(&mut self, installation: &Installation) {
        for (account, owner) in bot_owner(installation).into_iter().chain(claims(installation)) {
            self.owners.entry(account).or_insert(owner);
        }
        self.holders.extend(claims(installation).into_iter().map(|(account, _)| (account, installation.profile.clone())));
    }
}

/// Who holds what, and the accounts that two owners hold, or two installations of one app.
fn claimed<'a>(installations: impl Iterator<Item = &'a Installation>) -> (Claimed, HashSet<String>) {
    let (mut claimed, mut disputed) = (Claimed::default(), HashSet::new());
    for installation in installations {
        disputed.extend(claimed.taken(installation));
        claimed.claim(installation);
    }
    (claimed, disputed)
}

/// How an event's account is looked up.
pub fn lookup_keys(account: &ExternalAccount) -> Vec<String> {
    match account {
        ExternalAccount::Slack { team_id: Some(team), .. } => vec![format!("team:{team}")],
        ExternalAccount::Slack { team_id: None, enterprise_id } => enterprise_id.iter().map(|e| format!("enterprise:{e}")).collect(),
        ExternalAccount::Telegram { bot_id, chats } if chats.is_empty() => vec![format!("bot:{bot_id}/*"), "bot/*".to_owned()],
        ExternalAccount::Telegram { bot_id, chats } => {
            let mut keys: Vec<String> = chats.iter().map(|c| format!("chat:{c}")).collect();
            keys.extend(chats.iter().map(|c| format!("bot:{bot_id}/{c}")));
            keys
        }
        ExternalAccount::WhatsApp { waba_id, phone_number_id } => {
            vec![format!("number:{phone_number_id}"), format!("waba:{waba_id}")]
        }
    }
}

/// What an installation claims for itself: `(account, owner)` pairs; the store lets each account have one owner overall
/// and one installation per profile.
///
/// A shared bot is owned by its app's owner as a whole and by an org chat by chat, so it makes two kinds of claims.
pub fn claims(installation: &Installation) -> Vec<(String, String)> {
    let org = installation.org.as_str().to_owned();
    match &installation.account {
        ExternalAccount::Slack { team_id: Some(team), .. } => vec![(format!("slack:team:{team}"), org)],
        ExternalAccount::Slack { team_id: None, enterprise_id } => {
            enterprise_id.iter().map(|e| (format!("slack:enterprise:{e}"), org.clone())).collect()
        }
        ExternalAccount::Telegram { bot_id, chats } => {
            let mut all = Vec::new();
            if chats.is_empty() {
                all.push((format!("telegram:bot:{bot_id}/*"), org.clone()));
            }
            all.extend(chats.iter().map(|c| (format!("telegram:bot:{bot_id}/{c}"), org.clone())));
            all
        }
        ExternalAccount::WhatsApp { phone_number_id, .. } => vec![(format!("whatsapp:number:{phone_number_id}"), org)],
    }
}

/// The bot itself belongs to the owner of the app, whoever's chats it serves.
pub fn bot_owner(installation: &Installation) -> Option<(String, String)> {
    match &installation.account {
        ExternalAccount::Telegram { bot_id, .. } => {
            Some((format!("telegram:bot:{bot_id}"), format!("{}:{}", installation.owner.as_str(), installation.profile)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::installation::{InstallationStatus, Ownership};

    const STATUSES: [InstallationStatus; 5] = [
        InstallationStatus::Pending,
        InstallationStatus::Active,
        InstallationStatus::Degraded,
        InstallationStatus::Suspended,
        InstallationStatus::Revoked,
    ];

    fn directory(all: &[(usize, ProviderKind, InstallationStatus)]) -> Directory {
        let mut directory = Directory::default();
        for (n, (org, provider, status)) in all.iter().enumerate() {
            let org = OrgId::parse(&format!("org{org}")).unwrap();
            let item = Installation {
                id: InstallationId::parse(&format!("i{n}")).unwrap(),
                profile: ProfileId::parse("app").unwrap(),
                org: org.clone(),
                provider: *provider,
                owner: Ownership::Org(org),
                account: ExternalAccount::Slack { team_id: Some(format!("T{n}")), enterprise_id: None },
                status: *status,
                epoch: 1,
                connected_at: Timestamp::default(),
                status_reason: None,
                since: None,
                declared: None,
            };
            directory.installations.insert(item.id.clone(), Arc::new(Kept { item, secrets: vec![], updated: Timestamp::default() }));
        }
        directory.index();
        directory
    }

    proptest! {
        #[test]
        fn a_provider_means_an_installation_only_where_the_org_has_one(
            all in prop::collection::vec((0usize..2, prop::sample::select(&ProviderKind::ALL), prop::sample::select(&STATUSES)), 0..8),
        ) {
            let directory = directory(&all);
            for installation in directory.installations.values() {
                let item = &installation.item;
                let hearing = |i: &&Arc<Kept<Installation>>| i.item.org == item.org && i.item.provider == item.provider && i.item.status.hears();
                let others = directory.installations.values().filter(hearing).filter(|i| i.item.id != item.id).count();
                prop_assert_eq!(directory.is_only_installation(item), item.status.hears() && others == 0);
            }
        }
    }
}
