//! A question as text that can be kept, read by people and asked again: of a recorded decision, a table's row, a request
//! file or a witness. The typed questions of [`super::action`] are what the gateway asks; this is what everybody else asks.
//! Floor 5.

use std::fmt;
use std::str::FromStr;

use cedar_policy::{Context, Entities, EntityUid, Request};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::decide::{Law, Ruling};
use super::entities::Unfit;
use super::vocabulary::{Environment, full, short};

/// One question with everything that policies may read for it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The action's name, without the namespace.
    pub action: String,
    /// Who asks: `Byoa::OrgAgent::"support"`.
    pub principal: String,
    /// About what.
    pub resource: String,
    /// What comes with the question, as Cedar's JSON.
    #[serde(default = "nothing")]
    pub context: Value,
    /// Everything that is known, as Cedar's entity JSON.
    #[serde(default = "nobody")]
    pub entities: Value,
}

fn nothing() -> Value {
    json!({})
}

fn nobody() -> Value {
    json!([])
}

impl Case {
    /// From a recorded decision, whose facts are one JSON text.
    ///
    /// # Errors
    /// What of it does not read.
    pub fn recorded(action: &str, principal: &str, resource: &str, facts: &str) -> Result<Self, String> {
        let mut facts: Value = serde_json::from_str(facts).map_err(|e| format!("the recorded facts do not read: {e}"))?;
        if let Some(unfit) = facts.get("unfit").and_then(Value::as_str) {
            return Err(format!("the question never became a request: {unfit}"));
        }
        Ok(Self {
            action: action.to_owned(),
            principal: principal.to_owned(),
            resource: resource.to_owned(),
            context: facts.get_mut("context").map_or_else(nothing, Value::take),
            entities: facts.get_mut("entities").map_or_else(nobody, Value::take),
        })
    }

    /// The kind of request that it is.
    pub fn environment(&self) -> Environment {
        let kind =
            |uid: &str| EntityUid::from_str(uid).map_or_else(|_| uid.to_owned(), |uid| short(&uid.type_name().to_string()).to_owned());
        Environment { principal: kind(&self.principal), action: self.action.clone(), resource: kind(&self.resource) }
    }

    /// The request and its entities, held to the schema.
    pub(super) fn request(&self, law: &Law) -> Result<(Request, Entities), Unfit> {
        let principal = EntityUid::from_str(&self.principal)?;
        let resource = EntityUid::from_str(&self.resource)?;
        let action = law.base.names.action.uid(&self.action);
        let context = Context::from_json_value(self.context.clone(), Some((&law.base.schema, &action)))?;
        let request = Request::new(principal, action, resource, context, Some(&law.base.schema))?;
        // The schema brings the actions and their groups with it.
        let entities = Entities::from_json_value(self.entities.clone(), Some(&law.base.schema))?;
        Ok((request, entities))
    }

    /// The same, and what the law says of it.
    pub(super) fn ruled(&self, law: &Law) -> Result<Ruling, Unfit> {
        let (request, entities) = self.request(law)?;
        Ok(law.rule(&self.action, &request, &entities))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", bare(&self.principal), self.action, bare(&self.resource))
    }
}

/// `Byoa::OrgAgent::"support"` as `OrgAgent::"support"`.
pub fn bare(uid: &str) -> &str {
    uid.strip_prefix(full("").as_str()).unwrap_or(uid)
}
