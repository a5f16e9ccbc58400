//! The bounds that no policy file moves: the envelope, which every answer is held against, and the floor, which is proved.
//! Their text is part of the binary (`invariants/*.cedar`): whoever edits policies cannot edit these in the same breath.
//! Never widens an answer. Floor 5.

use std::sync::LazyLock;

use cedar_policy::{Entities, PolicyId, PolicySet, Request};

use super::index::Index;

/// The upper bound: permits only.
pub const ENVELOPE: &str = include_str!("invariants/envelope.cedar");
/// The lower bound: permits only.
pub const FLOOR: &str = include_str!("invariants/floor.cedar");

/// Whether the envelope admits this request. A permit of it that errs admits nothing, and an envelope that did not parse
/// would admit nothing at all.
pub(super) fn admits(request: &Request, entities: &Entities) -> bool {
    Index::authorize_unindexed(permits(), request, entities).allowed
}

/// The envelope's permits.
pub(super) fn permits() -> &'static PolicySet {
    static PARSED: LazyLock<PolicySet> = LazyLock::new(|| parse(ENVELOPE).unwrap_or_default());
    &PARSED
}

/// One of the two as a set, each policy under its `@id`.
pub(super) fn parse(text: &str) -> Result<PolicySet, String> {
    let read: PolicySet = text.parse().map_err(|e: cedar_policy::ParseErrors| e.to_string())?;
    let mut named = PolicySet::new();
    for policy in read.policies() {
        let id = policy.annotation("id").ok_or("a policy without `@id`")?;
        named.add(policy.new_id(PolicyId::new(id))).map_err(|e| e.to_string())?;
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use cedar_policy::{Effect, Schema, ValidationMode, Validator};

    use super::*;
    use crate::policy::SCHEMA;

    #[test]
    fn the_bounds_are_permits_that_validate() {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let validator = Validator::new(schema);
        for text in [ENVELOPE, FLOOR] {
            let set = parse(text).unwrap();
            assert!(set.num_of_policies() > 0 && set.templates().count() == 0);
            assert!(set.policies().all(|p| p.effect() == Effect::Permit));
            let result = validator.validate_with_level(&set, ValidationMode::Strict, 2);
            let said: Vec<String> =
                result.validation_errors().map(|e| e.to_string()).chain(result.validation_warnings().map(|w| w.to_string())).collect();
            assert_eq!(said, Vec::<String>::new());
        }
    }
}
