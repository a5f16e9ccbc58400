//! Explanations against what Cedar does.

use cedar_policy::{PolicyId, PolicySet};
use proptest::prelude::*;
use serde_json::json;

use super::super::index::Index;
use super::super::law_tests::{Disk, SCHEMA_FILE};
use super::*;

fn starter() -> Snapshot {
    Snapshot::load("policies".as_ref(), SCHEMA_FILE.as_ref(), Default::default()).unwrap()
}

fn entity(kind: &str, id: &str) -> Value {
    json!({"type": format!("Byoa::{kind}"), "id": id})
}

/// Acme's own app asks to fall back to the platform's.
fn fallback(change: impl FnOnce(&mut Value, &mut Value)) -> Case {
    let org = || entity("Org", "acme");
    let mut context = json!({"flag": entity("Flag", "slack"), "bucket": 50, "ownCredentialUsable": false, "bindingAllows": true});
    context["flag"] = json!({"__entity": context["flag"].take()});
    let of = |uid: Value| json!({"__entity": uid});
    let installation = |kind: &str, id: &str| {
        json!({"uid": entity(kind, id), "parents": [org()],
            "attrs": {"provider": of(entity("Provider", "slack")), "org": of(org()), "active": true}})
    };
    let mut entities = json!([
        {"uid": org(), "attrs": {"suspended": false, "fallbackOptIn": [of(entity("Provider", "slack"))]}, "parents": []},
        installation("ByoaInstallation", "own"),
        installation("PlatformInstallation", "shared"),
        {"uid": entity("Flag", "slack"), "parents": [], "attrs": {"provider": of(entity("Provider", "slack")), "enabled": true,
            "stage": of(entity("Stage", "canary")), "canary": [of(org())], "percent": 0, "legacyFallback": false,
            "rollbackMode": of(entity("RollbackMode", "installation_identity"))}},
    ]);
    entities[1]["attrs"]["owner"] = of(org());
    change(&mut context, &mut entities);
    Case {
        action: "UseFallback".into(),
        principal: "Byoa::ByoaInstallation::\"own\"".into(),
        resource: "Byoa::PlatformInstallation::\"shared\"".into(),
        context,
        entities,
    }
}

fn tell(part: &Part, depth: usize) -> String {
    let read: Vec<String> = part.read.iter().map(|r| format!("{} = {}", r.path, r.value)).collect();
    let error = part.error.as_ref().map(|e| format!(" ! {e}")).unwrap_or_default();
    let any: String = part.any_of.iter().flatten().map(|one| tell(one, depth + 1)).collect();
    format!("{}{:?} {} [{}]{error}\n{any}", "  ".repeat(depth), part.outcome, part.text, read.join(", "))
}

/// The policies, the parts of their conditions, the values.
fn told(said: &Explanation) -> String {
    let policy = |p: &Considered| {
        let parts: String = p.clauses.iter().flat_map(|c| c.parts.iter()).map(|one| tell(one, 1)).collect();
        format!("{} {} {:?} {}/{}\n{parts}", p.effect, p.id, p.outcome, p.held, p.parts)
    };
    let policies: String = said.policies.iter().chain(&said.envelope).map(policy).collect();
    format!("{:?} {:?} {}\n{policies}", said.verdict, said.code.map(ReasonCode::as_str), said.deciding.join(" "))
}

#[test]
fn a_permit_is_told_with_what_it_read() {
    insta::assert_snapshot!(told(&starter().explain(&fallback(|_, _| {})).unwrap()), @r#"
    Permitted None fallback.opt-in
    permit fallback.opt-in True 10/10
      True resource.active [resource.active = true]
      True !context.ownCredentialUsable [context.ownCredentialUsable = false]
      True context.bindingAllows [context.bindingAllows = true]
      True principal.owner == principal.org [principal.owner = Org::"acme", principal.org = Org::"acme"]
      True principal.org == resource.org [principal.org = Org::"acme", resource.org = Org::"acme"]
      True principal.provider == resource.provider [principal.provider = "slack", resource.provider = "slack"]
      True principal.provider == context.flag.provider [principal.provider = "slack", context.flag.provider = "slack"]
      True principal.org.fallbackOptIn.contains(principal.provider) [principal.org.fallbackOptIn = ["slack"], principal.provider = "slack"]
      True context.flag.enabled [context.flag.enabled = true]
      True context.flag.stage == Byoa::Stage::"on" || (context.flag.stage == Byoa::Stage::"canary" && (context.flag.canary.contains(principal.org) || context.bucket < context.flag.percent)) []
        False context.flag.stage == Byoa::Stage::"on" [context.flag.stage = "canary"]
        True context.flag.stage == Byoa::Stage::"canary" [context.flag.stage = "canary"]
        True context.flag.canary.contains(principal.org) || context.bucket < context.flag.percent []
          True context.flag.canary.contains(principal.org) [context.flag.canary = [Org::"acme"], principal.org = Org::"acme"]
          NotReached context.bucket < context.flag.percent []
    forbid fallback-needs-binding False 0/1
      True context.bindingAllows [context.bindingAllows = true]
    forbid fallback-needs-opt-in False 0/1
      True principal.org.fallbackOptIn.contains(principal.provider) [principal.org.fallbackOptIn = ["slack"], principal.provider = "slack"]
    forbid guard.inactive False 0/1
      False (principal is Byoa::PlatformInstallation && !principal.active) || (principal is Byoa::ByoaInstallation && action != Byoa::Action::"UseFallback" && !principal.active) || (resource is Byoa::PlatformInstallation && !resource.active) || (resource is Byoa::ByoaInstallation && !resource.active) []
        False principal is Byoa::PlatformInstallation [principal = ByoaInstallation::"own"]
        NotReached !principal.active []
        True principal is Byoa::ByoaInstallation [principal = ByoaInstallation::"own"]
        False action != Byoa::Action::"UseFallback" [action = Action::"UseFallback"]
        NotReached !principal.active []
        True resource is Byoa::PlatformInstallation [resource = PlatformInstallation::"shared"]
        False !resource.active [resource.active = true]
        False resource is Byoa::ByoaInstallation [resource = PlatformInstallation::"shared"]
        NotReached !resource.active []
    forbid guard.suspended False 0/1
      False (principal is Byoa::PlatformInstallation && principal.org.suspended) || (principal is Byoa::ByoaInstallation && principal.org.suspended) || (resource is Byoa::PlatformInstallation && resource.org.suspended) || (resource is Byoa::ByoaInstallation && resource.org.suspended) []
        False principal is Byoa::PlatformInstallation [principal = ByoaInstallation::"own"]
        NotReached principal.org.suspended []
        True principal is Byoa::ByoaInstallation [principal = ByoaInstallation::"own"]
        False principal.org.suspended [principal.org.suspended = false]
        True resource is Byoa::PlatformInstallation [resource = PlatformInstallation::"shared"]
        False resource.org.suspended [resource.org.suspended = false]
        False resource is Byoa::ByoaInstallation [resource = PlatformInstallation::"shared"]
        NotReached resource.org.suspended []
    "#);
}

#[test]
fn a_near_miss_names_what_was_missing() {
    let case = fallback(|_, entities| entities[3]["attrs"]["canary"] = json!([]));
    let said = starter().explain(&case).unwrap();
    assert_eq!((said.verdict, said.code), (Verdict::NotPermitted, Some(ReasonCode::PolicyNoPermit)));
    let nearest = said.policies.first().unwrap();
    assert_eq!(
        (nearest.id.as_str(), nearest.file.as_deref(), nearest.line),
        ("fallback.opt-in", Some("policies/platform/30-credentials.cedar"), 56)
    );
    insta::assert_snapshot!(told(&Explanation { policies: vec![nearest.clone()], ..said.clone() }), @r#"
    NotPermitted Some("policy.no_permit") 
    permit fallback.opt-in False 9/10
      True resource.active [resource.active = true]
      True !context.ownCredentialUsable [context.ownCredentialUsable = false]
      True context.bindingAllows [context.bindingAllows = true]
      True principal.owner == principal.org [principal.owner = Org::"acme", principal.org = Org::"acme"]
      True principal.org == resource.org [principal.org = Org::"acme", resource.org = Org::"acme"]
      True principal.provider == resource.provider [principal.provider = "slack", resource.provider = "slack"]
      True principal.provider == context.flag.provider [principal.provider = "slack", context.flag.provider = "slack"]
      True principal.org.fallbackOptIn.contains(principal.provider) [principal.org.fallbackOptIn = ["slack"], principal.provider = "slack"]
      True context.flag.enabled [context.flag.enabled = true]
      False context.flag.stage == Byoa::Stage::"on" || (context.flag.stage == Byoa::Stage::"canary" && (context.flag.canary.contains(principal.org) || context.bucket < context.flag.percent)) []
        False context.flag.stage == Byoa::Stage::"on" [context.flag.stage = "canary"]
        True context.flag.stage == Byoa::Stage::"canary" [context.flag.stage = "canary"]
        False context.flag.canary.contains(principal.org) || context.bucket < context.flag.percent []
          False context.flag.canary.contains(principal.org) [context.flag.canary = [], principal.org = Org::"acme"]
          False context.bucket < context.flag.percent [context.bucket = 50, context.flag.percent = 0]
    "#);
}

#[test]
fn the_kinds_of_no_are_told_apart() {
    let law = starter();
    let suspended = fallback(|_, entities| entities[0]["attrs"]["suspended"] = json!(true));
    let said = law.explain(&suspended).unwrap();
    assert_eq!(
        (said.verdict, said.code, said.deciding.join(" ")),
        (Verdict::Forbidden, Some(ReasonCode::OrgSuspended), "guard.suspended".into())
    );
    assert_eq!(said.policies.first().map(|p| (p.id.as_str(), p.outcome)), Some(("guard.suspended", Outcome::True)));

    let with = |change: &dyn Fn(&mut PolicySet)| {
        let mut law = starter();
        let mut policies = law.law.policies.clone();
        change(&mut policies);
        law.law = Arc::new(law.law.with(policies).unwrap());
        law
    };
    let unguarded = with(&|policies| drop(policies.remove_static(PolicyId::new("guard.suspended")).unwrap()));
    let said = unguarded.explain(&suspended).unwrap();
    assert_eq!((said.verdict, said.deciding.join(" ")), (Verdict::OutsideEnvelope, "fallback.opt-in".into()));
    let bound = said.envelope.first().unwrap();
    assert_eq!((bound.id.as_str(), bound.file.clone()), ("envelope.fallback", None));
    assert!(envelope::ENVELOPE.lines().nth(bound.line - 1).unwrap().contains("envelope.fallback"));
    insta::assert_snapshot!(told(&Explanation { policies: vec![], ..said }), @r#"
    OutsideEnvelope Some("policy.outside_envelope") fallback.opt-in
    permit envelope.fallback False 1/12
      True resource.active [resource.active = true]
      False !principal.org.suspended [principal.org.suspended = true]
      NotReached !resource.org.suspended []
      NotReached !context.ownCredentialUsable []
      NotReached context.bindingAllows []
      NotReached principal.owner == principal.org []
      NotReached principal.org == resource.org []
      NotReached principal.provider == resource.provider []
      NotReached principal.provider == context.flag.provider []
      NotReached principal.org.fallbackOptIn.contains(principal.provider) []
      NotReached context.flag.enabled []
      NotReached context.flag.stage != Byoa::Stage::"off" []
    "#);

    let overflow = "@id(\"over\") forbid (principal, action, resource) when { context.bucket >= 0 && context.bucket + 9223372036854775807 > 0 && true };";
    let errs = with(&|policies| policies.add(Policy::parse(Some(PolicyId::new("over")), overflow).unwrap()).unwrap());
    let said = errs.explain(&fallback(|_, _| {})).unwrap();
    assert_eq!((said.verdict, said.code), (Verdict::Error, Some(ReasonCode::PolicyEvaluationError)));
    insta::assert_snapshot!(told(&Explanation { policies: said.policies[..1].to_vec(), ..said }), @r#"
    Error Some("policy.evaluation_error") over
    forbid over Error 1/3
      True context.bucket >= 0 [context.bucket = 50]
      Error context.bucket + 9223372036854775807 > 0 [context.bucket = 50] ! integer overflow while attempting to add the values `50` and `9223372036854775807`
      NotReached true []
    "#);

    let unfit = fallback(|context, _| context["bucket"] = json!("fifty"));
    let said = law.explain(&unfit).unwrap();
    assert_eq!((said.verdict, said.policies.len(), said.errors.len()), (Verdict::NotApplicable, 0, 1));
    let mut nobody = unfit;
    nobody.principal = "acme".into();
    assert_eq!(law.explain(&nobody).unwrap_err(), "principal `acme` is no entity: write it like `Byoa::Org::\"acme\"`");
}

#[test]
fn conditions_of_every_shape_are_told() {
    let disk = Disk::empty();
    disk.write("a.cedar", "@id(\"a\") @reason(\"r\") permit (principal is Byoa::Operator, action == Byoa::Action::\"RollBack\", resource)\n\
        when { principal in Byoa::Role::\"operator\" && resource is Byoa::Flag } unless { context.from == Byoa::Stage::\"off\" || !principal.mfa } when { true };\n\
        @id(\"b\") @reason(\"r\") permit (principal in Byoa::Role::\"viewer\", action in Byoa::Action::\"Change\", resource);\n\
        @id(\"c\") @reason(\"r\") permit (principal in Byoa::Role::\"operator\", action in [Byoa::Action::\"Change\"], resource is Byoa::Flag) unless { principal.mfa };");
    let law = disk.load().unwrap_or_else(|e| panic!("{e}"));
    let case = Case {
        action: "RollBack".into(),
        principal: "Byoa::Operator::\"ann\"".into(),
        resource: "Byoa::Flag::\"slack\"".into(),
        context: json!({"from": {"__entity": entity("Stage", "on")}}),
        entities: json!([{"uid": entity("Operator", "ann"), "attrs": {"mfa": true}, "parents": [entity("Role", "operator")]}]),
    };
    insta::assert_snapshot!(told(&law.explain(&case).unwrap()), @r#"
    Permitted None a
    permit a True 4/4
      True principal in Byoa::Role::"operator" [principal = Operator::"ann" in "operator"]
      True resource is Byoa::Flag [resource = Flag::"slack"]
      False context.from == Byoa::Stage::"off" || !principal.mfa []
        False context.from == Byoa::Stage::"off" [context.from = "on"]
        False !principal.mfa [principal.mfa = true]
      True true []
    permit c False 0/1
      True principal.mfa [principal.mfa = true]
    "#);
}

#[test]
fn requests_are_read_as_people_write_them() {
    let want = Case {
        action: "RollBack".into(),
        principal: "Byoa::Operator::\"ann \\\"x\\\"\"".into(),
        resource: "Byoa::Flag::\"slack\"".into(),
        context: json!({}),
        entities: json!([]),
    };
    let read = |value: Value| Case::written(&value);
    for (action, principal, resource) in [
        (json!("RollBack"), json!("Byoa::Operator::\"ann \\\"x\\\"\""), json!("Flag::\"slack\"")),
        (json!("Byoa::Action::\"RollBack\""), json!("Operator::\"ann \\\"x\\\"\""), json!({"type": "Flag", "id": "slack"})),
        (json!("Action::\"RollBack\""), json!({"type": "Byoa::Operator", "id": "ann \"x\""}), json!({"__entity": entity("Flag", "slack")})),
        (json!({"type": "Action", "id": "RollBack"}), json!({"type": "Operator", "id": "ann \"x\""}), json!("Byoa::Flag::\"slack\"")),
    ] {
        assert_eq!(read(json!({"action": action, "principal": principal, "resource": resource})).unwrap(), want);
    }
    let row = json!({"id": "dec_1", "action": "RollBack", "principal": want.principal, "resource": want.resource, "allowed": false,
        "facts": {"context": {"from": 1}, "entities": [7]}});
    assert_eq!(read(row).unwrap(), Case { context: json!({"from": 1}), entities: json!([7]), ..want });
    let no = |value: Value| read(value).unwrap_err();
    insta::assert_snapshot!([
        no(json!([])),
        no(json!({"principal": 1})),
        no(json!({"action": "RollBack", "principal": "ann"})),
        no(json!({"action": "RollBack", "principal": {"type": "Operator"}, "resource": "Flag::\"x\""})),
        no(json!({"action": "RollBack", "principal": "Operator::\"a\""})),
        no(json!({"action": "RollBack", "principal": "Operator::\"a\"", "resource": "Flag::\"x\"", "contxt": {}})),
    ].join("\n"), @r#"
    a request is a JSON object with action, principal, resource, context and entities
    there is no `action`
    `principal` is `Byoa::Org::"acme"`, `Org::"acme"` or {"type": "Org", "id": "acme"}, not "ann"
    `principal` is `Byoa::Org::"acme"`, `Org::"acme"` or {"type": "Org", "id": "acme"}, not {"type":"Operator"}
    there is no `resource`
    `contxt` is not known; a request has action, principal, resource, context, entities
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// What is told of each policy is what Cedar makes of it, and no policy that matched is left out.
    #[test]
    fn what_is_told_is_what_happened(
        [usable, allows, suspended, opted, own, shared, enabled, listed] in any::<[bool; 8]>(),
        stage in prop::sample::select(&["off", "canary", "on"]), percent in 0..100, foreign in any::<bool>(),
    ) {
        thread_local!(static LAW: Snapshot = starter());
        let case = fallback(|context, entities| {
            (context["ownCredentialUsable"], context["bindingAllows"]) = (json!(usable), json!(allows));
            entities[0]["attrs"]["suspended"] = json!(suspended);
            if !opted { entities[0]["attrs"]["fallbackOptIn"] = json!([]); }
            entities[1]["attrs"]["active"] = json!(own);
            entities[2]["attrs"]["active"] = json!(shared);
            if foreign { entities[1]["attrs"]["owner"] = json!({"__entity": entity("Org", "globex")}); }
            let flag = &mut entities[3]["attrs"];
            (flag["enabled"], flag["percent"], flag["stage"]) = (json!(enabled), json!(percent), json!({"__entity": entity("Stage", stage)}));
            if !listed { flag["canary"] = json!([]); }
        });
        LAW.with(|law| {
            let said = law.explain(&case).unwrap();
            let (request, entities) = case.request(&law.law).unwrap();
            let ruling = law.law.rule(&case.action, &request, &entities);
            prop_assert_eq!((&said.code, &said.deciding), (&ruling.code, &ruling.policies));
            for policy in law.law.policies.policies().chain(envelope::permits().policies()) {
                let mut alone = PolicySet::new();
                alone.add(policy.clone()).unwrap();
                let matched = !Index::authorize_unindexed(&alone, &request, &entities).reasons.is_empty();
                let asked = Asked { request: &request, entities: &entities };
                let told = asked.considered(policy, None);
                prop_assert_eq!(told.is_some_and(|p| p.outcome == Outcome::True), matched, "{}", policy.id());
            }
            Ok(())
        })?;
    }
}
