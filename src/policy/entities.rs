//! Facts become Cedar entities: the only builder, typed by the schema, complete for every path that the pinned
//! validation level can read: what is proved of a policy supposes that everything it can reach is there. Ids enter as typed parts, never as Cedar text. Floor 5.

use std::collections::{HashMap, HashSet};
use std::fmt;

use cedar_policy::{Context, Entity, EntityId, EntityTypeName, EntityUid, RestrictedExpression as Value};

use super::action::{AgentFacts, CredentialFacts, FlagFacts, InstallationFacts, OperatorFacts, OrgFacts, ProfileFacts, SecretHolder};
use crate::domain::ids::OrgId;
use crate::domain::installation::Ownership;

/// A question that does not become a request.
#[derive(Debug)]
pub struct Unfit(pub String);

impl<E: std::error::Error> From<E> for Unfit {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// An entity type's parsed name.
#[derive(Clone)]
pub struct Kind(EntityTypeName);

impl Kind {
    fn parse(name: &str) -> Result<Self, Unfit> {
        Ok(Self(format!("Byoa::{name}").parse()?))
    }

    /// The entity of this type with that id, whatever characters it holds.
    pub fn uid(&self, id: &str) -> EntityUid {
        EntityUid::from_type_name_and_id(self.0.clone(), EntityId::new(id))
    }

    /// The same as a value.
    pub fn value(&self, id: &str) -> Value {
        Value::new_entity_uid(self.uid(id))
    }

    /// Whether `uid` is of this type.
    pub fn is_of(&self, uid: &EntityUid) -> bool {
        uid.type_name() == &self.0
    }
}

macro_rules! names {
    ($($field:ident $name:literal),+ $(,)?) => {
        /// Every entity type, parsed once for each snapshot.
        pub struct Names {
            $(pub $field: Kind,)+
        }

        impl Names {
            /// Parses the names.
            pub fn new() -> Result<Self, Unfit> {
                Ok(Self { $($field: Kind::parse($name)?,)+ })
            }
        }
    };
}

names! {
    action "Action",
    provider "Provider",
    stage "Stage",
    rollback_mode "RollbackMode",
    role "Role",
    freshness "Freshness",
    conversation_kind "ConversationKind",
    event_type "EventType",
    interaction_kind "InteractionKind",
    effect "Effect",
    gateway "Gateway",
    org "Org",
    platform_profile "PlatformProfile",
    byoa_profile "ByoaProfile",
    platform_installation "PlatformInstallation",
    byoa_installation "ByoaInstallation",
    platform_credential "PlatformCredential",
    byoa_credential "ByoaCredential",
    platform_agent "PlatformAgent",
    org_agent "OrgAgent",
    flag "Flag",
    operator "Operator",
}

/// A request in parts, with every entity it reaches but the schema's actions.
pub struct Question {
    pub principal: EntityUid,
    pub action: EntityUid,
    pub resource: EntityUid,
    pub context: Context,
    pub entities: Vec<Entity>,
    pub facts: String,
}

/// The entities of one question while it is built.
pub struct Slice<'n> {
    pub names: &'n Names,
    entities: Vec<Entity>,
}

impl<'n> Slice<'n> {
    /// An empty one.
    pub fn new(names: &'n Names) -> Self {
        Self { names, entities: Vec::with_capacity(6) }
    }

    /// Adds a tenant.
    pub fn org(&mut self, org: &OrgFacts) -> Result<EntityUid, Unfit> {
        let opted_in = org.fallback_opt_in.iter().map(|p| self.names.provider.value(p.as_str()));
        let attributes = [("suspended", Value::new_bool(org.suspended)), ("fallbackOptIn", Value::new_set(opted_in))];
        self.add(self.names.org.uid(org.id.as_str()), attributes, None)
    }

    /// Adds a provider app and the org whose it is.
    pub fn profile(&mut self, profile: &ProfileFacts) -> Result<EntityUid, Unfit> {
        let provider = ("provider", self.names.provider.value(profile.provider.as_str()));
        match &profile.owner {
            None => self.add(self.names.platform_profile.uid(profile.id.as_str()), [provider], None),
            Some(org) => {
                let org = self.org(org)?;
                let attributes = [provider, ("org", Value::new_entity_uid(org.clone()))];
                self.add(self.names.byoa_profile.uid(profile.id.as_str()), attributes, Some(org))
            }
        }
    }

    /// Adds whatever holds the secret that is asked about.
    pub fn secret_holder(&mut self, holder: &SecretHolder) -> Result<EntityUid, Unfit> {
        match holder {
            SecretHolder::Profile(profile) => self.profile(profile),
            SecretHolder::Installation(installation) => self.installation(installation),
            SecretHolder::Agent(agent) => self.agent(agent),
        }
    }

    /// Adds an installation and the org it answers for.
    pub fn installation(&mut self, installation: &InstallationFacts) -> Result<EntityUid, Unfit> {
        let org = self.org(&installation.org)?;
        self.stranger(installation.stranger.as_ref())?;
        let (kind, owner) = match &installation.owner {
            Ownership::Platform => (&self.names.platform_installation, None),
            Ownership::Org(owner) => (&self.names.byoa_installation, Some(self.owner(owner))),
        };
        let attributes = [
            ("provider", self.names.provider.value(installation.provider.as_str())),
            ("org", Value::new_entity_uid(org.clone())),
            ("active", Value::new_bool(installation.active)),
        ];
        self.add(kind.uid(installation.id.as_str()), attributes.into_iter().chain(owner), Some(org))
    }

    /// Adds an agent and its org.
    pub fn agent(&mut self, agent: &AgentFacts) -> Result<EntityUid, Unfit> {
        match &agent.org {
            None => self.add(self.names.platform_agent.uid(agent.id.as_str()), [], None),
            Some(org) => {
                let org = self.org(org)?;
                let attributes = [("org", Value::new_entity_uid(org.clone()))];
                self.add(self.names.org_agent.uid(agent.id.as_str()), attributes, Some(org))
            }
        }
    }

    /// Adds a credential and the org it serves.
    pub fn credential(&mut self, credential: &CredentialFacts) -> Result<EntityUid, Unfit> {
        let org = self.org(&credential.org)?;
        self.stranger(credential.stranger.as_ref())?;
        let (kind, owner) = match &credential.owner {
            Ownership::Platform => (&self.names.platform_credential, None),
            Ownership::Org(owner) => (&self.names.byoa_credential, Some(self.owner(owner))),
        };
        let attributes = [
            ("provider", self.names.provider.value(credential.provider.as_str())),
            ("org", Value::new_entity_uid(org.clone())),
            ("usable", Value::new_bool(credential.usable)),
        ];
        self.add(kind.uid(&credential.id), attributes.into_iter().chain(owner), Some(org))
    }

    /// Adds a rollout flag.
    pub fn flag(&mut self, facts: &FlagFacts) -> Result<EntityUid, Unfit> {
        let canary = facts.flag.canary.iter().map(|org| self.names.org.value(org.as_str()));
        let attributes = [
            ("provider", self.names.provider.value(facts.provider.as_str())),
            ("enabled", Value::new_bool(facts.flag.enabled)),
            ("stage", self.names.stage.value(facts.flag.stage.as_str())),
            ("canary", Value::new_set(canary)),
            ("percent", Value::new_long(facts.flag.percent.into())),
            ("legacyFallback", Value::new_bool(facts.flag.legacy_fallback)),
            ("rollbackMode", self.names.rollback_mode.value(facts.flag.rollback_mode.as_str())),
        ];
        self.add(self.names.flag.uid(facts.provider.as_str()), attributes, None)
    }

    /// Adds an operator, in its role.
    pub fn operator(&mut self, operator: &OperatorFacts) -> Result<EntityUid, Unfit> {
        let role = self.names.role.uid(operator.role.as_str());
        self.add(self.names.operator.uid(&operator.id), [("mfa", Value::new_bool(operator.mfa))], Some(role))
    }

    /// The finished question.
    pub fn question(
        self,
        principal: EntityUid,
        action: &str,
        resource: EntityUid,
        context: Vec<(&'static str, Value)>,
    ) -> Result<Question, Unfit> {
        let context = Context::from_pairs(context.into_iter().map(|(k, v)| (k.to_owned(), v)))?;
        let facts = facts(&context, &self.entities)?;
        Ok(Question { principal, action: self.names.action.uid(action), resource, context, entities: self.entities, facts })
    }

    /// An owner that is not the org itself has its facts too: a policy that reads them must not meet a hole.
    fn stranger(&mut self, org: Option<&OrgFacts>) -> Result<(), Unfit> {
        org.map_or(Ok(()), |org| self.org(org).map(|_| ()))
    }

    fn owner(&self, org: &OrgId) -> (&'static str, Value) {
        ("owner", self.names.org.value(org.as_str()))
    }

    fn add(
        &mut self,
        uid: EntityUid,
        attributes: impl IntoIterator<Item = (&'static str, Value)>,
        parent: Option<EntityUid>,
    ) -> Result<EntityUid, Unfit> {
        let attributes: HashMap<_, _> = attributes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let entity = Entity::new(uid.clone(), attributes, HashSet::from_iter(parent))?;
        match self.entities.iter().find(|e| e.uid() == uid) {
            // Two halves of a question that disagree about one thing: neither is to be believed.
            Some(known) if !known.deep_eq(&entity) => Err(Unfit(format!("the question contradicts itself about {uid}"))),
            Some(_) => Ok(uid),
            None => {
                self.entities.push(entity);
                Ok(uid)
            }
        }
    }
}

/// Everything that policies can read, as one line of JSON that Cedar can read back.
fn facts(context: &Context, entities: &[Entity]) -> Result<String, Unfit> {
    let entities = entities.iter().map(Entity::to_json_value).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::json!({ "context": context.to_json_value()?, "entities": entities }).to_string())
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
