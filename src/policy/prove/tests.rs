//! The prover below the lints, and against Cedar: a planted mistake that no file may hold, the kinds of request that a scope
//! admits, laws compared, names that only a solver would make up. Floor 5.

use std::sync::Arc;

use std::collections::BTreeSet;

use cedar_policy::{Policy, PolicyId, PolicySet};

use super::super::Snapshot;
use super::super::decide::Law;
use super::super::law_tests::Disk;
use super::super::vocabulary::{Environment, Vocabulary};
use super::*;

fn prover() -> Prover {
    Prover::start(std::env::var_os("CVC5")).unwrap_or_else(|e| panic!("{e}"))
}

fn shipped() -> Snapshot {
    Disk::starter().load().unwrap_or_else(|e| panic!("{e}"))
}

/// The shipped law with policies that no lint has seen.
fn with(policies: &[(&str, &str)]) -> Law {
    let law = shipped().law;
    let mut set = law.policies.clone();
    for (id, text) in policies {
        set.add(Policy::parse(Some(PolicyId::new(id)), text).unwrap()).unwrap();
    }
    law.with(set).unwrap()
}

fn without(id: &str) -> Snapshot {
    let mut snapshot = shipped();
    let mut set: PolicySet = snapshot.law.policies.clone();
    set.remove_static(PolicyId::new(id)).unwrap();
    snapshot.law = Arc::new(snapshot.law.with(set).unwrap());
    snapshot
}

fn kind(text: &str) -> Environment {
    let mut words = text.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap();
    Environment { principal: next(), action: next(), resource: next() }
}

fn violations(report: &Report) -> Vec<(String, &Violation)> {
    let violated = report.proofs.iter().filter_map(|proof| match &proof.outcome {
        Outcome::Violated(violation) => Some((proof, &**violation)),
        _ => None,
    });
    violated.map(|(p, v)| (format!("{}: {}", p.check, p.environment.as_ref().map(ToString::to_string).unwrap_or_default()), v)).collect()
}

#[test]
fn a_forbid_that_overflows_is_found_and_refuses() {
    let law = with(&[(
        "planted",
        "@id(\"planted\") @code(\"policy.forbidden\")\n\
         forbid (principal, action == Byoa::Action::\"UseFallback\", resource)\n\
         when { context.bucket + context.flag.percent > 250 };",
    )]);
    let report = prover().proved(&law, |_| {}).unwrap();
    let found = violations(&report);
    let (what, violation) = found.first().unwrap();
    assert_eq!((found.len(), what.as_str()), (1, "never errs: ByoaInstallation UseFallback PlatformInstallation"));
    let fallback = |proof: &&Proof| {
        proof.check == Check::Errors && proof.environment == Some(kind("ByoaInstallation UseFallback PlatformInstallation"))
    };
    assert_eq!(report.proofs.iter().filter(fallback).count(), 1, "it errs, or it does not");
    let witness = violation.witness.as_ref().unwrap();
    let ruling = witness.case.ruled(&law).unwrap();
    assert_eq!(ruling.code, Some(ReasonCode::PolicyEvaluationError));
    // Actions and words are left out, and nothing that can be read is.
    let kinds = witness.case.entities.as_array().unwrap().iter().map(|entity| entity["uid"]["type"].as_str().unwrap());
    let readable = ["Byoa::ByoaInstallation", "Byoa::Flag", "Byoa::Org", "Byoa::PlatformInstallation"];
    assert_eq!(kinds.collect::<BTreeSet<_>>(), BTreeSet::from(readable));
    assert_eq!((&witness.gateway, &*ruling.policies), (&Said::from(&ruling), &["planted".to_owned()][..]));
    assert!(violation.what.contains("overflow"), "{}", violation.what);
}

/// No lint stands between an org's file and the prover here.
#[test]
fn an_org_that_locks_operators_out_falls_below_the_floor() {
    let law = with(&[(
        "org.acme.lock",
        "@id(\"org.acme.lock\") @code(\"policy.forbidden\")\nforbid (principal, action, resource in Byoa::Org::\"acme\");",
    )]);
    let report = prover().proved(&law, |_| {}).unwrap();
    let found: BTreeSet<String> = violations(&report).into_iter().map(|(what, _)| what).collect();
    for what in [
        "above the floor: Operator RevokeSecret ByoaProfile",
        "above the floor: Operator RotateSecret ByoaInstallation",
        "above the floor: Operator ShredOrg Org",
        "above the floor: Operator PurgePerson Org",
    ] {
        assert!(found.contains(what), "{what}: {found:?}");
    }
}

/// However many orgs there are, the floor is asked about: no org's policy is one of those about operators.
#[test]
fn the_policies_of_many_orgs_do_not_keep_the_floor_from_being_proved() {
    let ids: Vec<String> = (0..2_100).map(|n| format!("org.org-{n}.a")).collect();
    let forbids: Vec<String> = (0..2_100).map(|n| format!("forbid (principal in Byoa::Org::\"org-{n}\", action, resource);")).collect();
    let all: Vec<(&str, &str)> = ids.iter().map(String::as_str).zip(forbids.iter().map(String::as_str)).collect();
    let mut law = shipped();
    law.law = Arc::new(with(&all));
    assert_eq!(prover().verdict(&law, &kind("Operator RevokeSecret ByoaProfile")).unwrap(), Verdict::Sometimes);
}

#[test]
fn many_policies_for_one_kind_of_request_are_asked_about() {
    let ids: Vec<String> = (0..500).map(|n| format!("org-{n}")).collect();
    let forbids = ids.iter().map(|org| {
        format!("forbid (principal in Byoa::Org::\"{org}\", action == Byoa::Action::\"SendMessage\", resource) unless {{ context.reply }};")
    });
    let forbids: Vec<String> = forbids.collect();
    let all: Vec<(&str, &str)> = ids.iter().map(String::as_str).zip(forbids.iter().map(String::as_str)).collect();
    let mut law = shipped();
    law.law = Arc::new(with(&all));
    assert_eq!(prover().verdict(&law, &kind("OrgAgent SendMessage ByoaInstallation")).unwrap(), Verdict::Sometimes);
}

/// What is left out by types and action alone is never asked about again, so it must be nothing.
#[test]
fn a_kind_of_request_that_a_scope_leaves_out_is_never_matched() {
    let law = with(&[
        ("one.of", "permit (principal, action in [Byoa::Action::\"SendMessage\", Byoa::Action::\"View\"], resource);"),
        ("is.in", "forbid (principal is Byoa::OrgAgent in Byoa::Org::\"acme\", action, resource in Byoa::Org::\"acme\");"),
        ("exactly", "forbid (principal == Byoa::OrgAgent::\"a\", action, resource == Byoa::ByoaInstallation::\"b\");"),
    ]);
    let (admitted, missed) = prover().left_out(&law).unwrap();
    assert_eq!(missed, []);
    let of = |id: &str| admitted.iter().filter(|(_, policy)| policy == id).map(|(kind, _)| kind.as_str()).collect::<BTreeSet<_>>();
    let speaks = |kind: &&str| kind.contains(" SendMessage ") || kind.contains(" ViewResources ") || kind.contains(" ReadAudit ");
    let all: BTreeSet<String> = Vocabulary::get().environments().iter().map(ToString::to_string).collect();
    assert_eq!(of("one.of"), all.iter().map(String::as_str).filter(speaks).collect());
    assert_eq!(of("exactly"), BTreeSet::from(["OrgAgent CallProviderMethod ByoaInstallation", "OrgAgent SendMessage ByoaInstallation"]));
}

#[test]
fn how_much_is_permitted() {
    let mut prover = prover();
    let law = shipped();
    for (verdict, of) in [
        (Verdict::Sometimes, "OrgAgent SendMessage ByoaInstallation"),
        (Verdict::Never, "PlatformAgent SendMessage ByoaInstallation"),
        (Verdict::Never, "PlatformInstallation UseCredential ByoaCredential"),
    ] {
        assert_eq!(prover.verdict(&law, &kind(of)).unwrap(), verdict, "{of}");
    }
    let mut all = shipped();
    all.law = Arc::new(with(&[("open", "permit (principal, action, resource);")]));
    // The envelope has the last word, and it admits whoever looks.
    assert_eq!(prover.verdict(&all, &kind("Operator ReadAudit Gateway")).unwrap(), Verdict::Always);
    assert_eq!(prover.verdict(&all, &kind("Operator ApplyResources Gateway")).unwrap(), Verdict::Sometimes);
    assert_eq!(prover.verdict(&all, &kind("PlatformAgent SendMessage ByoaInstallation")).unwrap(), Verdict::Never);
    assert!(prover.verdict(&law, &kind("Org SendMessage Org")).is_err());
}

#[test]
fn laws_are_compared_by_what_they_permit() {
    let mut prover = prover();
    let (shipped, narrower) = (shipped(), without("rollout.enter.canary"));
    let signs = |all: &[Difference]| {
        let changed = all.iter().filter(|d| d.sign() != '=');
        (all.len(), changed.map(|d| format!("{} {}", d.sign(), d.environment)).collect::<Vec<_>>())
    };
    let less = prover.compare(&shipped, &narrower, |_| {}).unwrap();
    assert_eq!(signs(&less), (51, vec!["- Org EnterRollout Flag".to_owned()]));
    let lost = less.iter().find_map(|d| d.lost.as_ref()).unwrap();
    assert_eq!((lost.from.allow, lost.to.code), (true, Some(ReasonCode::RolloutStageOff)));
    assert_eq!(lost.from.policies, ["rollout.enter.canary"]);
    assert!(lost.case.ruled(&shipped.law).unwrap().code.is_none());
    let more = prover.compare(&narrower, &shipped, |_| {}).unwrap();
    assert_eq!(signs(&more), (51, vec!["+ Org EnterRollout Flag".to_owned()]));
    assert_eq!(signs(&prover.compare(&shipped, &shipped, |_| {}).unwrap()).1, Vec::<String>::new());

    // Another text for the same law is no difference; another law under the same id is one.
    let mut reworded = without("rollout.enter.on");
    reworded.law = Arc::new(reworded.law.with(swapped(&reworded, "resource.stage == Byoa::Stage::\"on\" && resource.enabled")).unwrap());
    assert_eq!(signs(&prover.compare(&shipped, &reworded, |_| {}).unwrap()).1, Vec::<String>::new());
    let mut other = without("rollout.enter.on");
    other.law = Arc::new(other.law.with(swapped(&other, "resource.enabled && context.bucket < 10")).unwrap());
    let other = prover.compare(&shipped, &other, |_| {}).unwrap();
    assert_eq!(signs(&other).1, ["± Org EnterRollout Flag"]);
    let json = other.iter().find(|d| d.sign() == '±').unwrap().json();
    assert_eq!((&json["sign"], &json["gained"]["to"]["allow"]), (&json!("±"), &json!(true)));
}

fn swapped(law: &Snapshot, condition: &str) -> PolicySet {
    let mut set = law.law.policies.clone();
    let text = format!(
        "permit (principal is Byoa::Org, action == Byoa::Action::\"EnterRollout\", resource is Byoa::Flag)\n\
         when {{ resource.provider == context.provider && {condition} }};"
    );
    set.add(Policy::parse(Some(PolicyId::new("rollout.enter.on")), text).unwrap()).unwrap();
    set
}

/// An id that a policy names must stay, and one that nobody would write must come through as it is.
#[test]
fn strange_names_are_asked_as_they_are() {
    for id in ["", " ", "a\"b\\c", "\u{0}\u{7f}\u{202e}é", "\n\t", &"x".repeat(5_000)] {
        let literal = format!("Byoa::OrgAgent::\"{}\"", id.escape_debug());
        let law = with(&[("planted", &format!("permit (principal == {literal}, action == Byoa::Action::\"SendMessage\", resource);"))]);
        let report = prover().proved(&law, |_| {}).unwrap();
        let found = violations(&report);
        assert_eq!(found.len(), 2, "{id:?}");
        for (_, violation) in found {
            let witness = violation.witness.as_ref().unwrap();
            assert_eq!(witness.case.ruled(&law).unwrap().code, Some(ReasonCode::PolicyOutsideEnvelope));
            assert_eq!(witness.policies.policies, ["planted"]);
            let uid: cedar_policy::EntityUid = witness.case.principal.parse().unwrap();
            assert_eq!(uid.id().unescaped(), id);
            assert!(!witness.case.principal.chars().any(char::is_control));
        }
    }
}

/// What an org forbids itself is weighed against the platform's law and its own, not against other orgs'.
#[test]
fn an_orgs_own_forbids_are_noted_not_blamed() {
    let forbid = |org: &str, rest: &str| {
        format!(
            "@code(\"policy.forbidden\") forbid (principal in Byoa::Org::\"{org}\", action == Byoa::Action::\"SendMessage\", resource) {rest};"
        )
    };
    let law = with(&[
        ("acme.reply", &forbid("acme", "unless { context.reply }")),
        ("acme.some", &forbid("acme", "when { !context.reply && context.bound }")),
        ("globex.reply", &forbid("globex", "unless { context.reply }")),
        // Only whom globex forbids it too.
        ("hooli.reply", &forbid("hooli", "when { principal in Byoa::Org::\"globex\" && !context.reply }")),
    ]);
    let report = prover().proved(&law, |_| {}).unwrap();
    assert_eq!((report.violated(), report.undecided()), (0, 0));
    let noted = report.proofs.iter().filter(|p| matches!(p.outcome, Outcome::Noted(_))).filter_map(|p| p.policy.as_ref());
    let noted: BTreeSet<&str> = noted.map(|policy| policy.id.as_str()).filter(|id| id.contains(".reply") || id.contains(".some")).collect();
    // The permits ask for `bound`, so each of acme's two says all that the other says.
    assert_eq!(noted, BTreeSet::from(["acme.reply", "acme.some"]));
}
