//! From bytes to law: parses each file, names each policy by its `@id`, lints, then validates the whole strictly, with
//! warnings as errors, at the depth of entities that `entities` supplies. Never accepts a part of a law. Floor 5.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};

use super::decide::{Base, Law, Place};
use super::entities::Names;
use super::load::{Diagnostic, LoadError, Rule, Source, Sources};
use super::{SCHEMA, limits, lint};
use crate::config::PolicyTextLimits;
use crate::domain::clock::Timestamp;
use crate::domain::reason::ReasonCode;

/// How deep a policy may reach, `principal.org.suspended` being two: what [`super::entities`] supplies, and no deeper.
const LEVEL: u32 = 2;

/// Makes the law of the sources as it is at this time, or lists every fault. A policy whose `@until` has passed is held to
/// everything like the others, and is not part of the policy set. Runs on any thread, whatever stack that has.
pub(super) fn law(sources: &Sources, now: Timestamp) -> Result<Law, LoadError> {
    whole(sources)?.at(now)
}

/// The law of the sources with every policy, also of those whose `@until` has passed.
pub(super) fn whole(sources: &Sources) -> Result<Law, LoadError> {
    limits::with_room(&sources.platform, || made(sources))
}

fn invalid(faults: Vec<Diagnostic>) -> LoadError {
    LoadError::new(ReasonCode::PolicyInvalid, faults)
}

/// A fault that is no policy's: this build cannot make the policy set.
fn ours(error: String) -> LoadError {
    invalid(vec![Diagnostic::of_file(Rule::Schema, "gateway.cedarschema", error)])
}

impl Law {
    /// This law as it is then, without the policies whose `@until` has passed.
    pub(super) fn at(self, now: Timestamp) -> Result<Self, LoadError> {
        Ok(self.ended_by(now).map_err(ours)?.unwrap_or(self))
    }
}

fn made(sources: &Sources) -> Result<Law, LoadError> {
    let base = base().map_err(ours)?;

    let mut reading = Reading { names: &base.names, policies: PolicySet::new(), places: HashMap::new(), faults: vec![], levels: 0 };
    for source in &sources.files {
        reading.file(source, &sources.platform);
    }
    let Reading { policies, places, mut faults, levels, .. } = reading;
    faults.extend(validated(&base.schema, &policies, &places));
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    let places = places.into_iter().map(|(id, place)| (id, place.shown())).collect();
    Law::new(base, policies, Arc::new(places), Arc::clone(&sources.version), levels).map_err(ours)
}

/// What this build brings: parsed once.
fn base() -> Result<Arc<Base>, String> {
    static BUILT: LazyLock<Result<Arc<Base>, String>> = LazyLock::new(|| {
        let (schema, _) = Schema::from_cedarschema_str(SCHEMA).map_err(|e| e.to_string())?;
        let actions = schema.action_entities().map_err(|e| e.to_string())?;
        Ok(Arc::new(Base { schema, actions, names: Names::new().map_err(|e| e.to_string())? }))
    });
    BUILT.clone()
}

/// Where a policy stands in a source.
#[derive(Clone)]
struct Spot<'s> {
    source: &'s Source,
    range: Range<usize>,
}

impl Spot<'_> {
    fn shown(self) -> Place {
        let Diagnostic { file, line, .. } = self.fault(Rule::File, "");
        Place { file, line }
    }

    fn fault(&self, rule: Rule, message: impl Into<String>) -> Diagnostic {
        let fault = Diagnostic::at(rule, &self.source.file, &self.source.text, self.range.clone(), message.into());
        fault.of_orgs(self.source.house.org().cloned())
    }
}

struct Reading<'s> {
    names: &'s Names,
    policies: PolicySet,
    places: HashMap<PolicyId, Spot<'s>>,
    faults: Vec<Diagnostic>,
    /// How deep an expression can be.
    levels: usize,
}

impl<'s> Reading<'s> {
    fn file(&mut self, source: &'s Source, platform: &PolicyTextLimits) {
        let set = match parsed(source, platform) {
            Ok((set, levels)) => {
                self.levels = self.levels.max(levels);
                set
            }
            Err(faults) => {
                let org = source.house.org();
                return self.faults.extend(faults.into_iter().map(|fault| fault.of_orgs(org.cloned())));
            }
        };
        for template in set.templates() {
            let range = template.as_ref().loc().map_or(0..0, |loc| loc.start()..loc.end());
            self.faults.push(Spot { source, range }.fault(Rule::Template, "templates are not used here: put what varies into entity data"));
        }
        for policy in set.policies() {
            let range = policy.as_ref().loc().map_or(0..0, |loc| loc.start()..loc.end());
            self.policy(policy, Spot { source, range });
        }
    }

    fn policy(&mut self, policy: &Policy, place: Spot<'s>) {
        let messages = lint::lint(policy, place.source, self.names);
        self.faults.extend(messages.into_iter().map(|(rule, m)| place.fault(rule, m)));
        // One that is not this house's must not stand in the way of its owner's.
        let house = &place.source.house;
        let named = policy.annotation("id").filter(|id| lint::is_name(id) && lint::is_of_house(id, house));
        let Some(id) = named.map(PolicyId::new) else { return };
        if let Some(first) = self.places.get(&id) {
            let other = first.fault(Rule::Id, "");
            self.faults.push(place.fault(Rule::Id, format!("`@id(\"{id}\")` is taken by {}:{}", other.file, other.line)));
            return;
        }
        if let Err(error) = self.policies.add(policy.new_id(id.clone())) {
            self.faults.push(place.fault(Rule::Id, error.to_string()));
            return;
        }
        self.places.insert(id, place);
    }
}

/// The policies and templates of one file, under the ids that Cedar gives them, and how deep its expressions can be; there is
/// at least one policy. The caller gives room for the limits ([`limits::with_room`]).
pub(super) fn parsed(source: &Source, platform: &PolicyTextLimits) -> Result<(PolicySet, usize), Vec<Diagnostic>> {
    let levels = limits::measured(&source.text, source.house.bounds(platform))
        .map_err(|excess| vec![Diagnostic::at(Rule::Limit, &source.file, &source.text, excess.range, excess.message)])?;
    let set: PolicySet = source
        .text
        .parse()
        .map_err(|errors: cedar_policy::ParseErrors| errors.iter().map(|e| located(Rule::Syntax, source, None, e)).collect::<Vec<_>>())?;
    if set.is_empty() {
        // A file that is being written looks like this first, and an empty text is a valid policy set.
        let message = "the file holds no policy: remove it, or was it cut short?";
        return Err(vec![Diagnostic::of_file(Rule::Empty, &source.file, message)]);
    }
    Ok((set, levels))
}

/// Whether these could stand in a law: the same call as below, without saying why not.
pub(super) fn passes(validator: &Validator, policies: &PolicySet) -> bool {
    validator.validate_with_level(policies, ValidationMode::Strict, LEVEL).validation_passed_without_warnings()
}

fn validated(schema: &Schema, policies: &PolicySet, places: &HashMap<PolicyId, Spot<'_>>) -> Vec<Diagnostic> {
    let result = Validator::new(schema.clone()).validate_with_level(policies, ValidationMode::Strict, LEVEL);
    let place = |id: &PolicyId, fault: &dyn miette::Diagnostic| match places.get(id) {
        Some(place) => {
            let found = located(Rule::Types, place.source, Some(place.range.clone()), fault);
            found.of_orgs(place.source.house.org().cloned())
        }
        None => Diagnostic::of_file(Rule::Types, "policies", fault),
    };
    let errors = result.validation_errors().map(|e| place(e.policy_id(), e));
    let warnings = result.validation_warnings().map(|w| place(w.policy_id(), w));
    errors.chain(warnings).collect()
}

/// Cedar's own message with its advice, at the place it points to.
fn located(rule: Rule, source: &Source, otherwise: Option<Range<usize>>, fault: &dyn miette::Diagnostic) -> Diagnostic {
    let label = fault.labels().and_then(|mut labels| labels.next()).map(|label| label.offset()..label.offset() + label.len());
    let range = label.or(otherwise).unwrap_or(0..0);
    let mut message = fault.to_string();
    if let Some(help) = fault.help() {
        message = format!("{message} ({help})");
    }
    Diagnostic::at(rule, &source.file, &source.text, range, message.replace('\n', " "))
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
        assert_eq!((law.files(), law.policies()), (8, 50));
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
    fn an_orgs_ids_are_its_own_and_nobody_elses() {
        let scope = "(principal in Byoa::Org::\"acme\", action, resource);";
        let with = |id: &str| format!("{}{scope}", FORBID.replace("\"f\"", &format!("{id:?}")));
        insta::assert_snapshot!(faults(&[
            ("orgs/acme/a.cedar", &with("a")),
            ("orgs/acme/b.cedar", &with("org.acmeinc.b")),
            ("orgs/acme/c.cedar", &with("org.globex.c")),
            ("orgs/globex/c.cedar", &with("org.globex.c").replace("Org::\"acme\"", "Org::\"globex\"")),
            ("platform/a.cedar", &GOOD.replace("\"a\"", "\"org.acme.p\"")),
            ("platform/b.cedar", GOOD),
        ]), @r#"
        orgs/acme/a.cedar:1:1: `@id("a")`: the ids of an org's policies begin with `org.acme.`
        orgs/acme/b.cedar:1:1: `@id("org.acmeinc.b")`: the ids of an org's policies begin with `org.acme.`
        orgs/acme/c.cedar:1:1: `@id("org.globex.c")`: the ids of an org's policies begin with `org.acme.`
        platform/a.cedar:1:1: `@id("org.acme.p")`: `org.` begins the ids of orgs' policies, in `orgs/<org>/`
        "#);
    }

    #[test]
    fn a_policy_uses_no_code_of_the_gateway() {
        for code in ReasonCode::ALL {
            let disk = Disk::starter();
            let scope = "(principal is Byoa::OrgAgent, action == Byoa::Action::\"SendMessage\", resource);";
            disk.write("platform/99.cedar", &format!("{}{scope}", FORBID.replace("policy.forbidden", code.as_str())));
            match disk.load() {
                Ok(_) => assert!(code.usable_by_policies(), "{code}"),
                Err(error) => assert!(!code.usable_by_policies() && error.to_string().contains("is the gateway's own"), "{code}: {error}"),
            }
        }
    }

    /// An org's policy need not name an action where its principals have none but the org's.
    #[test]
    fn what_is_in_an_org_asks_nothing_that_operators_ask() {
        let base = base().unwrap();
        let org: cedar_policy::EntityTypeName = "Byoa::Org".parse().unwrap();
        for env in base.schema.request_envs() {
            let of_org = *env.principal() == org || base.schema.ancestors(env.principal()).into_iter().flatten().any(|kind| *kind == org);
            let operates = *env.principal() == "Byoa::Operator".parse().unwrap();
            assert!(!(of_org && operates), "{env:?}");
            let policy = format!(
                "@id(\"org.acme.f\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal, action == {}, resource in Byoa::Org::\"acme\");",
                env.action()
            );
            let disk = Disk::starter();
            disk.write("orgs/acme/a.cedar", &policy);
            let said = disk.load().err().map(|error| error.to_string()).unwrap_or_default();
            assert_eq!(said.contains("`Deliver` and `EnterRollout` only"), operates, "{}: {said}", env.action());
        }
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
            "(principal, action in Byoa::Action::\"Deliver\", resource in Byoa::Org::\"acme\");",
            "(principal is Byoa::OrgAgent in Byoa::Org::\"acme\", action, resource);",
            "(principal in Byoa::Org::\"acme\", action in [Byoa::Action::\"EnterRollout\", Byoa::Action::\"UseCredential\"], resource);",
            "(principal, action == Byoa::Action::\"SendMessage\", resource is Byoa::ByoaInstallation in Byoa::Org::\"acme\");",
        ];
        let forbid = FORBID.replace("\"f\"", "\"org.acme.f\"");
        for scope in narrow {
            let disk = Disk::starter();
            disk.write("orgs/acme/a.cedar", &format!("{forbid}{scope}"));
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
            let said = faults(&[("orgs/acme/a.cedar", &format!("{forbid}{scope}"))]);
            assert!(said.contains("names its org in the scope"), "{scope}: {said}");
        }
        let beyond = [
            "(principal, action, resource in Byoa::Org::\"acme\");",
            "(principal, action, resource is Byoa::ByoaProfile in Byoa::Org::\"acme\");",
            "(principal, action == Byoa::Action::\"RotateSecret\", resource in Byoa::Org::\"acme\");",
            "(principal, action in [Byoa::Action::\"SendMessage\", Byoa::Action::\"RevokeSecret\"], resource in Byoa::Org::\"acme\");",
            "(principal, action in Byoa::Action::\"Destructive\", resource in Byoa::Org::\"acme\");",
        ];
        for scope in beyond {
            let said = faults(&[("orgs/acme/a.cedar", &format!("{forbid}{scope}"))]);
            assert!(said.contains("`Deliver`") || said.contains("names its actions"), "{scope}: {said}");
        }
        let permit = "@id(\"org.acme.a\") @reason(\"r\")\npermit (principal in Byoa::Org::\"acme\", action, resource);";
        insta::assert_snapshot!(faults(&[("orgs/acme/a.cedar", permit)]), @r#"orgs/acme/a.cedar:1:1: an org's file may only narrow: it holds forbids, no permits"#);
    }
}
