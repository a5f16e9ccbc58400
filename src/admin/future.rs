//! The declared state as it will be, over the one that is: only what changes is kept twice, so that planning a page of an
//! import costs what the page costs, however much is there. Part of `admin`, floor 7.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId};
use crate::domain::installation::{Agent, AppProfile, Binding, Installation, Org};
use crate::store::Resource;
use crate::store::directory::{Claimed, Directory, Kept, SealedSecret};

/// Resources of one kind, by their ids.
type Map<K, T> = BTreeMap<K, Arc<Kept<T>>>;

/// What is, what of it will be otherwise, and the accounts that this claims.
#[derive(Debug, Default)]
pub(super) struct Future {
    base: Arc<Directory>,
    orgs: Map<OrgId, Org>,
    profiles: Map<ProfileId, AppProfile>,
    installations: Map<InstallationId, Installation>,
    agents: Map<AgentId, Agent>,
    bindings: Map<BindingId, Binding>,
    claimed: Claimed,
}

/// One kind of resource as it will be.
pub(super) struct Layered<'f, K, T> {
    is: &'f Map<K, T>,
    will: &'f Map<K, T>,
}

impl<'f, K: Ord, T> Layered<'f, K, T> {
    /// The resource with this id.
    pub(super) fn get(&self, id: &K) -> Option<&'f Arc<Kept<T>>> {
        self.will.get(id).or_else(|| self.is.get(id))
    }

    /// Whether there will be one with this id.
    pub(super) fn contains_key(&self, id: &K) -> bool {
        self.get(id).is_some()
    }

    /// All of them: what changes first.
    pub(super) fn values(&self) -> impl Iterator<Item = &'f Arc<Kept<T>>> + use<'f, K, T> {
        let will = self.will;
        will.values().chain(self.is.iter().filter(move |(id, _)| !will.contains_key(id)).map(|(_, kept)| kept))
    }
}

impl Future {
    /// What is, and nothing planned.
    pub(super) fn of(base: Arc<Directory>) -> Self {
        Self { base, ..Self::default() }
    }

    /// The state as it is.
    pub(super) fn base(&self) -> &Directory {
        &self.base
    }

    pub(super) fn orgs(&self) -> Layered<'_, OrgId, Org> {
        Layered { is: &self.base.orgs, will: &self.orgs }
    }

    pub(super) fn profiles(&self) -> Layered<'_, ProfileId, AppProfile> {
        Layered { is: &self.base.profiles, will: &self.profiles }
    }

    pub(super) fn installations(&self) -> Layered<'_, InstallationId, Installation> {
        Layered { is: &self.base.installations, will: &self.installations }
    }

    pub(super) fn agents(&self) -> Layered<'_, AgentId, Agent> {
        Layered { is: &self.base.agents, will: &self.agents }
    }

    pub(super) fn bindings(&self) -> Layered<'_, BindingId, Binding> {
        Layered { is: &self.base.bindings, will: &self.bindings }
    }

    /// One installation, for the org it must belong to.
    pub(super) fn installation_of(&self, org: &OrgId, id: &InstallationId) -> Option<&Arc<Kept<Installation>>> {
        self.installations().get(id).filter(|i| i.item.org == *org)
    }

    /// Shows a resource as it will be, so that the next one of the same document may refer to it.
    pub(super) fn foresee(&mut self, resource: &Resource, secrets: Vec<SealedSecret>, updated: Timestamp) {
        macro_rules! keep {
            ($map:ident, $item:expr) => {{
                self.$map.insert($item.id.clone(), Arc::new(Kept { item: $item.clone(), secrets, updated }));
            }};
        }
        match resource {
            Resource::Org(r) => keep!(orgs, r),
            Resource::Agent(r) => keep!(agents, r),
            Resource::Profile(r) => keep!(profiles, r),
            Resource::Installation(r) => keep!(installations, r),
            Resource::Binding(r) => keep!(bindings, r),
        }
    }

    /// An installation that was not there before is not planned after all.
    pub(super) fn drop_new(&mut self, id: &InstallationId) {
        self.installations.remove(id);
    }

    /// What a new installation would claim and somebody else holds, or will.
    pub(super) fn taken(&self, installation: &Installation) -> Vec<String> {
        let mut taken = self.base.claimed().taken(installation);
        taken.extend(self.claimed.taken(installation));
        taken
    }

    /// Gives a new installation what nobody holds.
    pub(super) fn claim(&mut self, installation: &Installation) {
        self.claimed.claim(installation);
    }
}
