//! From bytes to law: parses each file, names each policy by its `@id`, lints, then validates the whole strictly, with
//! warnings as errors, at the depth of entities that `entities` supplies. Never accepts a part of a law. Floor 5.

use std::collections::HashMap;

use cedar_policy::{
    ActionConstraint, Authorizer, Effect, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint, Schema,
    ValidationMode, Validator,
};

use super::SCHEMA;
use super::decide::Law;
use super::entities::Names;
use super::load::{Diagnostic, House, LoadError, Source, Sources};
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// How deep a policy may reach, `principal.org.suspended` being two: what [`super::entities`] supplies, and no deeper.
const LEVEL: u32 = 2;
const ANNOTATIONS: [&str; 7] = ["id", "reason", "code", "mode", "owner", "ticket", "until"];
const ID_CHARS_MAX: usize = 96;

/// Makes the law of the sources, or lists every fault.
pub(super) fn law(sources: &Sources) -> Result<Law, LoadError> {
    let invalid = |faults| LoadError::new(ReasonCode::PolicyInvalid, faults);
    let ours = |error: String| invalid(vec![Diagnostic::of_file("gateway.cedarschema", error)]);
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|e| ours(e.to_string()))?;
    let names = Names::new().map_err(|e| ours(e.to_string()))?;
    let actions = schema.action_entities().map_err(|e| ours(e.to_string()))?;

    let mut reading = Reading { names: &names, policies: PolicySet::new(), codes: HashMap::new(), places: HashMap::new(), faults: vec![] };
    for source in &sources.files {
        reading.file(source);
    }
    let Reading { policies, codes, places, mut faults, .. } = reading;
    faults.extend(validated(&schema, &policies, &places));
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    Ok(Law { schema, actions, policies, codes, names, authorizer: Authorizer::new(), version: sources.version.clone() })
}

/// Where a policy stands.
#[derive(Clone, Copy)]
struct Place<'s> {
    source: &'s Source,
    offset: usize,
}

impl Place<'_> {
    fn fault(&self, message: impl Into<String>) -> Diagnostic {
        Diagnostic::at(&self.source.file, &self.source.text, self.offset, message.into())
    }
}

struct Reading<'s> {
    names: &'s Names,
    policies: PolicySet,
    codes: HashMap<PolicyId, ReasonCode>,
    places: HashMap<PolicyId, Place<'s>>,
    faults: Vec<Diagnostic>,
}

impl<'s> Reading<'s> {
    fn file(&mut self, source: &'s Source) {
        let set: PolicySet = match source.text.parse() {
            Ok(set) => set,
            Err(errors) => {
                let errors: cedar_policy::ParseErrors = errors;
                self.faults.extend(errors.iter().map(|e| located(source, None, e)));
                return;
            }
        };
        let mut found = 0;
        for template in set.templates() {
            found += 1;
            let offset = template.as_ref().loc().map_or(0, |loc| loc.start());
            self.faults.push(Place { source, offset }.fault("templates are not used here: put what varies into entity data"));
        }
        for policy in set.policies() {
            found += 1;
            let offset = policy.as_ref().loc().map_or(0, |loc| loc.start());
            self.policy(policy, Place { source, offset });
        }
        if found == 0 {
            // A file that is being written looks like this first, and an empty text is a valid policy set.
            self.faults.push(Diagnostic::of_file(&source.file, "the file holds no policy: remove it, or was it cut short?"));
        }
    }

    fn policy(&mut self, policy: &Policy, place: Place<'s>) {
        let messages = self.lint(policy, place.source);
        self.faults.extend(messages.into_iter().map(|m| place.fault(m)));
        let Some(id) = policy.annotation("id").filter(|id| is_name(id)).map(PolicyId::new) else { return };
        if let Some(first) = self.places.get(&id) {
            let other = first.fault("");
            self.faults.push(place.fault(format!("`@id(\"{id}\")` is taken by {}:{}", other.file, other.line)));
            return;
        }
        if let Err(error) = self.policies.add(policy.new_id(id.clone())) {
            self.faults.push(place.fault(error.to_string()));
            return;
        }
        if let Some(code) = policy.annotation("code").and_then(ReasonCode::parse) {
            self.codes.insert(id.clone(), code);
        }
        self.places.insert(id, place);
    }

    /// What the house asks of a policy beyond Cedar.
    fn lint(&self, policy: &Policy, source: &Source) -> Vec<String> {
        let mut faults = Vec::new();
        let forbids = policy.effect() == Effect::Forbid;
        for (key, _) in policy.annotations().filter(|(key, _)| !ANNOTATIONS.contains(key)) {
            faults.push(format!("annotation `@{key}` is not known; there are {}", ANNOTATIONS.map(|a| format!("@{a}")).join(", ")));
        }
        match policy.annotation("id") {
            None => faults.push("the policy has no `@id`".into()),
            Some(id) if !is_name(id) => faults.push(format!("`@id(\"{id}\")` is no name: use 1 to {ID_CHARS_MAX} of a-z 0-9 . _ -")),
            Some(_) => {}
        }
        if policy.annotation("reason").is_none_or(|r| r.trim().is_empty()) {
            faults.push("the policy has no `@reason`: one sentence for people".into());
        }
        match policy.annotation("code") {
            None if forbids => faults.push("a forbid needs a `@code`: the reason code of its refusals".into()),
            Some(code) if ReasonCode::parse(code).is_none() => faults.push(format!("`@code(\"{code}\")` is no reason code")),
            Some(_) if !forbids => faults.push("only a forbid has a `@code`".into()),
            _ => {}
        }
        if policy.annotation("mode").is_some_and(|mode| mode != "enforce") {
            // Evaluated anyway it would say more than its author meant.
            faults.push("`@mode` can only be \"enforce\": this build evaluates every policy".into());
        }
        if !forbids && is_unconditional(policy) {
            faults.push("a permit without scope and without condition permits everything".into());
        }
        if let House::Org(org) = &source.house {
            if !forbids {
                faults.push("an org's file may only narrow: it holds forbids, no permits".into());
            }
            if !self.is_scoped_to(policy, org) {
                faults.push(format!("an org's policy names its org in the scope: `principal in Byoa::Org::\"{org}\"`, or `resource in …`"));
            }
        }
        faults
    }

    fn is_scoped_to(&self, policy: &Policy, org: &OrgId) -> bool {
        let is_org = |uid: &EntityUid| self.names.org.is_of(uid) && uid.id().unescaped() == org.as_str();
        let principal = match policy.principal_constraint() {
            PrincipalConstraint::In(uid) | PrincipalConstraint::IsIn(_, uid) => is_org(&uid),
            _ => false,
        };
        let resource = match policy.resource_constraint() {
            ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => is_org(&uid),
            _ => false,
        };
        principal || resource
    }
}

/// A name that people can say, and that cannot be mistaken for another by its looks.
fn is_name(id: &str) -> bool {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(fits)
}

/// Anybody, on anything, always; `when { true }` is no condition either.
fn is_unconditional(policy: &Policy) -> bool {
    let open = policy.principal_constraint() == PrincipalConstraint::Any
        && policy.action_constraint() == ActionConstraint::Any
        && policy.resource_constraint() == ResourceConstraint::Any;
    open && (!policy.has_non_scope_constraint() || has_only_trivial_conditions(policy))
}

fn has_only_trivial_conditions(policy: &Policy) -> bool {
    let json = policy.to_json().unwrap_or_default();
    let conditions = json.get("conditions").and_then(|c| c.as_array());
    conditions.is_some_and(|all| {
        all.iter().all(|c| {
            let value = c.pointer("/body/Value").and_then(serde_json::Value::as_bool);
            value == Some(c.get("kind").is_some_and(|kind| kind == "when"))
        })
    })
}

fn validated(schema: &Schema, policies: &PolicySet, places: &HashMap<PolicyId, Place<'_>>) -> Vec<Diagnostic> {
    let result = Validator::new(schema.clone()).validate_with_level(policies, ValidationMode::Strict, LEVEL);
    let place = |id: &PolicyId, fault: &dyn miette::Diagnostic| match places.get(id) {
        Some(place) => located(place.source, Some(place.offset), fault),
        None => Diagnostic::of_file("policies", fault),
    };
    let errors = result.validation_errors().map(|e| place(e.policy_id(), e));
    let warnings = result.validation_warnings().map(|w| place(w.policy_id(), w));
    errors.chain(warnings).collect()
}

/// Cedar's own message with its advice, at the place it points to.
fn located(source: &Source, otherwise: Option<usize>, fault: &dyn miette::Diagnostic) -> Diagnostic {
    let offset = fault.labels().and_then(|mut labels| labels.next()).map(|label| label.offset()).or(otherwise).unwrap_or(0);
    let mut message = fault.to_string();
    if let Some(help) = fault.help() {
        message = format!("{message} ({help})");
    }
    Diagnostic::at(&source.file, &source.text, offset, message.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::*;

    const GOOD: &str = "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Operator, action, resource);\n";
    const FORBID: &str = "@id(\"f\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid ";

    fn faults(files: &[(&str, &str)]) -> String {
        let disk = Disk::empty();
        for (path, text) in files {
            disk.write(path, text);
        }
        let error = disk.load().expect_err("must be refused");
        assert_eq!(error.code, ReasonCode::PolicyInvalid);
        error.to_string().replace(&format!("{}/", disk.path().display()), "")
    }

    fn one(text: &str) -> String {
        faults(&[("a.cedar", text)])
    }

    fn each(texts: &[&str]) -> String {
        texts.iter().map(|text| one(text)).collect::<Vec<_>>().join("\n--\n")
    }

    #[test]
    fn the_starter_law_is_valid() {
        let law = Snapshot::load("policies".as_ref(), SCHEMA_FILE.as_ref(), Default::default()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((law.files(), law.policies()), (7, 36));
    }

    #[test]
    fn faults_of_form_are_shown_at_their_place() {
        let said = each(&[
            "permit (principal, action, resource",
            "@reason(\"r\")\npermit (principal is Byoa::Operator, action, resource);",
            "@id(\"a b\") @reson(\"r\")\npermit (principal is Byoa::Operator, action, resource);",
            "\n  @id(\"a\") @reason(\"r\") @code(\"org.suspended\")\npermit (principal is Byoa::Operator, action, resource);",
            "@id(\"a\") @reason(\"r\")\nforbid (principal is Byoa::Operator, action, resource);",
            "@id(\"a\") @reason(\"r\") @code(\"no.such\")\nforbid (principal is Byoa::Operator, action, resource);",
            "@id(\"a\") @reason(\"r\") @mode(\"log\")\npermit (principal is Byoa::Operator, action, resource);",
            "@id(\"a\") @reason(\"r\")\npermit (principal == ?principal, action, resource);",
            "// nothing yet\n",
        ]);
        insta::assert_snapshot!(said, @r#"
        a.cedar:1:36: unexpected end of input
        --
        a.cedar:1:1: the policy has no `@id`
        --
        a.cedar:1:1: `@id("a b")` is no name: use 1 to 96 of a-z 0-9 . _ -
        a.cedar:1:1: annotation `@reson` is not known; there are @id, @reason, @code, @mode, @owner, @ticket, @until
        a.cedar:1:1: the policy has no `@reason`: one sentence for people
        --
        a.cedar:2:3: only a forbid has a `@code`
        --
        a.cedar:1:1: a forbid needs a `@code`: the reason code of its refusals
        --
        a.cedar:1:1: `@code("no.such")` is no reason code
        --
        a.cedar:1:1: `@mode` can only be "enforce": this build evaluates every policy
        --
        a.cedar:1:1: templates are not used here: put what varies into entity data
        --
        a.cedar:1:1: the file holds no policy: remove it, or was it cut short?
        "#);
    }

    #[test]
    fn faults_of_meaning_are_shown_at_their_place() {
        let said = each(&[
            // A word, an attribute, an action that the schema lacks.
            "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Org, action, resource)\nwhen { resource.stage == Byoa::Stage::\"onn\" };",
            "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Org, action, resource)\nwhen { principal.suspnded };",
            "@id(\"a\") @reason(\"r\")\npermit (principal, action == Byoa::Action::\"ReadAudits\", resource);",
            // Warnings are errors: it never applies; the org's first letter is Cyrillic.
            "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Flag, action, resource);",
            "@id(\"a\") @reason(\"r\")\npermit (principal in Byoa::Org::\"\u{430}cme\", action, resource);",
            // May be absent.
            "@id(\"a\") @reason(\"r\")\npermit (principal, action == Byoa::Action::\"RouteMessage\", resource)\nwhen { context.conversation == \"C1\" };",
        ]);
        insta::assert_snapshot!(said, @r#"
        a.cedar:3:26: for policy `a`: entity `Byoa::Stage::"onn"` is of an enumerated entity type, but `"onn"` is not declared as a valid eid (valid entity eids: "off", "canary", "on")
        --
        a.cedar:3:8: for policy `a`, attribute `suspnded` on entity type `Byoa::Org` not found (did you mean `suspended`?)
        --
        a.cedar:1:1: for policy `a`, policy is impossible: the policy expression evaluates to false for all valid requests
        a.cedar:1:1: for policy `a`, unable to find an applicable action given the policy scope constraints
        a.cedar:2:30: for policy `a`, unrecognized action `Byoa::Action::"ReadAudits"` (did you mean `Byoa::Action::"ReadAudit"`?)
        --
        a.cedar:1:1: for policy `a`, policy is impossible: the policy expression evaluates to false for all valid requests
        a.cedar:1:1: for policy `a`, unable to find an applicable action given the policy scope constraints
        --
        a.cedar:1:1: for policy `a`, identifier `аcme` contains mixed scripts
        --
        a.cedar:3:8: for policy `a`, unable to guarantee safety of access to optional attribute `conversation` in context for Byoa::Action::"RouteMessage" (try testing for the attribute's presence with `context has conversation && ..`)
        "#);
    }

    #[test]
    fn the_depth_is_pinned() {
        let reach = "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::OrgAgent, action, resource) when { principal.org.suspended };";
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        let validator = Validator::new(schema);
        let set: PolicySet = reach.parse().unwrap();
        let passes = |level| validator.validate_with_level(&set, ValidationMode::Strict, level).validation_passed();
        assert_eq!((passes(LEVEL), passes(LEVEL - 1)), (true, false));
    }

    #[test]
    fn an_id_belongs_to_one_policy() {
        insta::assert_snapshot!(faults(&[("a.cedar", GOOD), ("platform/b.cedar", GOOD)]), @r#"platform/b.cedar:1:1: `@id("a")` is taken by a.cedar:1"#);
    }

    #[test]
    fn nobody_permits_everything() {
        for condition in ["", " when { true }", " unless { false }", " when { true } unless { false }"] {
            let said = one(&format!("@id(\"a\") @reason(\"r\")\npermit (principal, action, resource){condition};"));
            assert!(said.contains("permits everything"), "{said}");
        }
        let disk = Disk::empty();
        disk.write("a.cedar", "@id(\"a\") @reason(\"r\")\npermit (principal, action == Byoa::Action::\"ReadAudit\", resource);");
        disk.load().unwrap();
    }

    #[test]
    fn an_orgs_file_only_narrows_its_own_org() {
        let narrow = [
            "(principal in Byoa::Org::\"acme\", action, resource);",
            "(principal, action, resource in Byoa::Org::\"acme\");",
            "(principal is Byoa::OrgAgent in Byoa::Org::\"acme\", action, resource);",
            "(principal, action, resource is Byoa::ByoaInstallation in Byoa::Org::\"acme\");",
        ];
        for scope in narrow {
            let disk = Disk::starter();
            disk.write("orgs/acme/a.cedar", &format!("{FORBID}{scope}"));
            disk.load().unwrap_or_else(|e| panic!("{e}"));
        }
        let wide = [
            "(principal, action, resource);",
            "(principal in Byoa::Org::\"globex\", action, resource);",
            "(principal == Byoa::Org::\"acme\", action, resource);",
            "(principal in Byoa::Role::\"viewer\", action, resource);",
            "(principal is Byoa::OrgAgent, action, resource);",
        ];
        for scope in wide {
            let said = faults(&[("orgs/acme/a.cedar", &format!("{FORBID}{scope}"))]);
            assert!(said.contains("names its org in the scope"), "{scope}: {said}");
        }
        let permit = "@id(\"a\") @reason(\"r\")\npermit (principal in Byoa::Org::\"acme\", action, resource);";
        insta::assert_snapshot!(faults(&[("orgs/acme/a.cedar", permit)]), @r#"orgs/acme/a.cedar:1:1: an org's file may only narrow: it holds forbids, no permits"#);
    }
}
