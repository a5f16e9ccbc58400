//! The schema as data: which questions there are, of whom about what, and what may be known of each thing. Tables,
//! the matrix and the search for witnesses read it; it says nothing that the schema does not say. Floor 5.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use cedar_policy::SchemaFragment;
use serde_json::Value;

use super::SCHEMA;

const NAMESPACE: &str = "Byoa";

/// What an attribute can be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Yes or no.
    Bool,
    /// A whole number.
    Long,
    /// Text.
    Text,
    /// An entity of this type.
    Entity(String),
    /// A set of them.
    Set(Box<Kind>),
}

/// One attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it can be.
    pub kind: Kind,
    /// Whether it is always there.
    pub required: bool,
}

/// One entity type.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntityShape {
    /// The types it can be a child of.
    pub parents: Vec<String>,
    /// What is known of it.
    pub fields: Vec<Field>,
    /// Its only ids, where the schema lists them.
    pub ids: Option<Vec<String>>,
}

/// One action that can be asked about; groups are not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ActionShape {
    /// Who can ask.
    pub principals: Vec<String>,
    /// About what.
    pub resources: Vec<String>,
    /// What comes with the question.
    pub context: Vec<Field>,
}

/// A kind of request: who asks, what, about what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Environment {
    /// The principal's type.
    pub principal: String,
    /// The action.
    pub action: String,
    /// The resource's type.
    pub resource: String,
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.principal, self.action, self.resource)
    }
}

/// Everything that policies can be about.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Entity types by name, without the namespace.
    pub entities: BTreeMap<String, EntityShape>,
    /// Actions by name.
    pub actions: BTreeMap<String, ActionShape>,
}

impl Vocabulary {
    /// This build's.
    pub fn get() -> &'static Self {
        static BUILT: LazyLock<Vocabulary> = LazyLock::new(|| {
            // The schema is compiled in and parsed at every load: one that does not read here has no policies either.
            SchemaFragment::from_cedarschema_str(SCHEMA)
                .ok()
                .and_then(|(fragment, _)| fragment.to_json_value().ok())
                .map(|json| read(&json))
                .unwrap_or_default()
        });
        &BUILT
    }

    /// Every kind of request, sorted.
    pub fn environments(&self) -> Vec<Environment> {
        let mut all: Vec<Environment> = self
            .actions
            .iter()
            .flat_map(|(action, shape)| {
                let pairs = shape.principals.iter().flat_map(move |p| shape.resources.iter().map(move |r| (p, r)));
                pairs.map(|(p, r)| Environment { principal: p.clone(), action: action.clone(), resource: r.clone() })
            })
            .collect();
        all.sort();
        all
    }

    /// The fields of an entity type.
    pub fn fields(&self, entity: &str) -> &[Field] {
        self.entities.get(entity).map_or(&[], |shape| &shape.fields)
    }
}

/// A type's or action's name in full, as policies write it.
pub fn full(name: &str) -> String {
    format!("{NAMESPACE}::{name}")
}

/// A type's name without the namespace.
pub fn short(name: &str) -> &str {
    name.strip_prefix(NAMESPACE).and_then(|rest| rest.strip_prefix("::")).unwrap_or(name)
}

fn read(schema: &Value) -> Vocabulary {
    let space = &schema[NAMESPACE];
    let object = |key: &str| space[key].as_object().into_iter().flatten();
    let entities = object("entityTypes").map(|(name, shape)| (name.clone(), entity(shape))).collect();
    let actions = object("actions")
        .map(|(name, shape)| (name, &shape["appliesTo"]))
        .filter(|(_, to)| to["principalTypes"].as_array().is_some_and(|types| !types.is_empty()))
        .map(|(name, to)| {
            let shape = ActionShape {
                principals: names(&to["principalTypes"]),
                resources: names(&to["resourceTypes"]),
                context: fields(&to["context"]),
            };
            (name.clone(), shape)
        })
        .collect();
    Vocabulary { entities, actions }
}

fn entity(shape: &Value) -> EntityShape {
    let ids = shape["enum"].as_array().map(|ids| ids.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    EntityShape { parents: names(&shape["memberOfTypes"]), fields: fields(&shape["shape"]), ids }
}

fn fields(record: &Value) -> Vec<Field> {
    let attributes = record["attributes"].as_object().into_iter().flatten();
    let field = |(name, shape): (&String, &Value)| {
        let required = shape["required"].as_bool().unwrap_or(true);
        Some(Field { name: name.clone(), kind: kind(shape)?, required })
    };
    attributes.filter_map(field).collect()
}

fn kind(shape: &Value) -> Option<Kind> {
    let name = || shape["name"].as_str().map(short);
    Some(match shape["type"].as_str()? {
        "Set" => Kind::Set(Box::new(kind(&shape["element"])?)),
        "Boolean" | "Bool" => Kind::Bool,
        "Long" => Kind::Long,
        "String" => Kind::Text,
        "Entity" => Kind::Entity(name()?.to_owned()),
        "EntityOrCommon" => match name()? {
            "Bool" | "Boolean" | "__cedar::Bool" => Kind::Bool,
            "Long" | "__cedar::Long" => Kind::Long,
            "String" | "__cedar::String" => Kind::Text,
            entity => Kind::Entity(entity.to_owned()),
        },
        _ => return None,
    })
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(|name| short(name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cedar_policy::Schema;

    use super::*;

    #[test]
    fn it_says_what_the_schema_says() {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let words = Vocabulary::get();
        let ours: BTreeSet<String> = words.environments().iter().map(ToString::to_string).collect();
        let cedars: BTreeSet<String> = schema
            .request_envs()
            .map(|env| {
                let action = env.action().id().unescaped().to_owned();
                let (principal, resource) = (env.principal().to_string(), env.resource().to_string());
                format!("{} {action} {}", short(&principal), short(&resource))
            })
            .collect();
        assert_eq!(ours, cedars);
        assert_eq!(ours.len(), words.environments().len());
        // Nothing of the schema is of a kind that is not known here.
        let written = SCHEMA.lines().filter(|l| l.contains("entity ")).count();
        assert_eq!(words.entities.len(), written);
        let flag: Vec<String> = words.fields("Flag").iter().map(|f| format!("{} {:?}", f.name, f.kind)).collect();
        insta::assert_snapshot!(flag.join("\n"), @r#"
        canary Set(Entity("Org"))
        enabled Bool
        legacyFallback Bool
        percent Long
        provider Entity("Provider")
        rollbackMode Entity("RollbackMode")
        stage Entity("Stage")
        "#);
        let optional =
            |action: &str| words.actions[action].context.iter().filter(|f| !f.required).map(|f| f.name.as_str()).collect::<Vec<_>>();
        assert_eq!(optional("RouteMessage"), ["conversation", "conversationKind"]);
        assert_eq!(words.entities["Operator"].parents, ["Role"]);
        assert_eq!(words.entities["Stage"].ids.as_deref().unwrap(), ["off", "canary", "on"]);
        for (name, shape) in &words.entities {
            assert!(shape.ids.is_some() || name == "PlatformAgent" || !shape.fields.is_empty(), "{name}");
        }
    }
}
