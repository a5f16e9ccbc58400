//! From what operators declared to what policies may know of it, so that every question about one thing states the same
//! facts. Reads the directory it is handed, decides nothing. Floor 5.

use std::collections::BTreeSet;

use super::action::{AgentFacts, FlagFacts, InstallationFacts, OrgFacts, ProfileFacts};
use crate::crypto::sha256;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::OrgId;
use crate::domain::installation::{Agent, AppProfile, Installation, Org, Ownership, ProviderKind};
use crate::store::directory::Directory;

/// What the policies may know of an org. One that is not declared is as good as suspended.
pub fn org(directory: &Directory, id: &OrgId) -> OrgFacts {
    match directory.orgs.get(id) {
        Some(org) => declared_org(&org.item),
        None => OrgFacts { id: id.clone(), suspended: true, fallback_opt_in: Default::default() },
    }
}

/// The facts of an org that is declared, or will be.
pub fn declared_org(org: &Org) -> OrgFacts {
    OrgFacts { id: org.id.clone(), suspended: org.suspended, fallback_opt_in: opted_in(org) }
}

fn opted_in(org: &Org) -> BTreeSet<ProviderKind> {
    if stands(Guard::FallbackOptedIn) { org.fallback_opt_in.clone() } else { ProviderKind::ALL.into() }
}

/// What the policies may know of an installation.
pub fn installation(directory: &Directory, installation: &Installation) -> InstallationFacts {
    InstallationFacts {
        id: installation.id.clone(),
        provider: installation.provider,
        owner: installation.owner.clone(),
        stranger: stranger(directory, &installation.owner, &installation.org),
        active: installation.status.hears(),
        org: org(directory, &installation.org),
    }
}

/// What the policies may know of a provider app.
pub fn profile(directory: &Directory, profile: &AppProfile) -> ProfileFacts {
    let owner = match &profile.owner {
        Ownership::Platform => None,
        Ownership::Org(id) => Some(org(directory, id)),
    };
    ProfileFacts { id: profile.id.clone(), provider: profile.provider, owner }
}

/// What the policies may know of an agent.
pub fn agent(directory: &Directory, agent: &Agent) -> AgentFacts {
    AgentFacts { id: agent.id.clone(), org: agent.org.as_ref().map(|id| org(directory, id)) }
}

/// The facts of an owner that is another org than `org`: never there unless records are damaged.
pub fn stranger(directory: &Directory, owner: &Ownership, of: &OrgId) -> Option<OrgFacts> {
    match owner {
        Ownership::Org(owner) if owner != of => Some(org(directory, owner)),
        _ => None,
    }
}

/// Where an org falls among the hundred that a provider's percentage counts: from 0, always the same, and another for each
/// provider, so that the same orgs are not the first every time.
pub fn bucket(org: &OrgId, provider: ProviderKind) -> u8 {
    let [first, second, ..] = sha256(format!("{provider}:{org}").as_bytes());
    // 65,536 is no multiple of 100; the first buckets are a thousandth more likely.
    u8::try_from(u16::from_be_bytes([first, second]) % 100).unwrap_or(0)
}

/// How far a provider is rolled out; a flag that is not there is `off`.
pub fn flag(directory: &Directory, provider: ProviderKind) -> FlagFacts {
    FlagFacts { provider, flag: directory.flag(provider) }
}
