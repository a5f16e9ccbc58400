//! Permits that leave the envelope: they look as if they permitted something, and the gateway refuses all the same. Types
//! settle most of them; for the rest a few requests of each kind are tried. What is found is certain, that nothing was found
//! is not: `byoa policy prove` settles that. Floor 5.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Effect, Entities, Policy, PolicyId, PolicySet, Request};

use super::case::Case;
use super::decide::{Law, until};
use super::index::Index;
use super::load::{Diagnostic, Rule, Sources};
use super::reach::{Clauses, Line};
use super::sample::Sampler;
use super::{envelope, limits, orgs};
use crate::domain::clock::Timestamp;

/// Requests of one kind that are tried at most. Trying ends earlier, when each permit was seen to permit something.
const TRIES: u64 = 200;
/// Requests that are tried at most for one set.
const TRIES_ALL: u64 = 4_000;

/// Each permit of the policy set that permits what the envelope refuses, one fault each.
pub(super) fn faults(law: &Law, sources: &Sources) -> Vec<Diagnostic> {
    let found = limits::with_most_room(|| found(law));
    found.into_iter().map(|(id, message)| at_policy(law, sources, Rule::Envelope, &id, message)).collect()
}

/// A fault of one policy, at the line where it begins.
pub(super) fn at_policy(law: &Law, sources: &Sources, rule: Rule, id: &PolicyId, message: String) -> Diagnostic {
    let place = law.places.get(id);
    let source = place.and_then(|place| Some((place.line, sources.files.iter().find(|source| source.file == place.file)?)));
    let Some((line, source)) = source else { return Diagnostic::of_file(rule, "policies", message) };
    let start = line.checked_sub(2).and_then(|n| source.text.match_indices('\n').nth(n)).map_or(0, |(newline, _)| newline + 1);
    let end = source.text.get(start..).and_then(|rest| rest.find('\n')).map_or(source.text.len(), |length| start + length);
    Diagnostic::at(rule, &source.file, &source.text, start..end, message).of_orgs(orgs::owner(id.as_ref()))
}

fn found(law: &Law) -> BTreeMap<PolicyId, String> {
    let permits: Vec<Clauses<'_>> = Clauses::of(&law.policies).into_iter().filter(|clauses| clauses.permits).collect();
    let bounds = Clauses::of(envelope::permits());
    let reach = |line: Line| {
        let able: Vec<&Clauses<'_>> = permits.iter().filter(|permit| permit.could_match(&line, &law.base)).collect();
        let admitted = bounds.iter().any(|bound| bound.could_match(&line, &law.base));
        (!able.is_empty()).then_some((line, able, admitted))
    };
    let lines: Vec<(Line, Vec<&Clauses<'_>>, bool)> = Line::all().into_iter().filter_map(reach).collect();
    let inside: BTreeSet<&PolicyId> = lines.iter().filter(|(.., in_)| *in_).flat_map(|(_, able, _)| able).map(|c| c.policy.id()).collect();
    let mut found = BTreeMap::new();
    for (line, able, _) in &lines {
        for permit in able.iter().filter(|permit| !inside.contains(permit.policy.id())) {
            let message = format!("this permits nothing: the gateway's own bounds refuse every request that it matches, as {line}");
            found.entry(permit.policy.id().clone()).or_insert(message);
        }
    }
    let mut tried = Tried::new(law);
    for (line, able, _) in &lines {
        tried.line(line, able.iter().map(|permit| permit.policy.id()).filter(|id| !found.contains_key(*id)).collect());
    }
    for (id, case) in tried.outside {
        let message = format!("this permits what the gateway's own bounds refuse: {case}; `byoa policy prove` prints such a request");
        found.entry(id).or_insert(message);
    }
    found
}

/// Requests, put to permits and envelope.
struct Tried<'l> {
    law: &'l Law,
    permits: PolicySet,
    sampler: Sampler,
    roles: BTreeMap<String, Sampler>,
    left: u64,
    outside: BTreeMap<PolicyId, Case>,
    /// The law as it is at last while a permit is in force, by the permit's end; none where that is the whole law.
    lasting: BTreeMap<Option<Timestamp>, Option<Law>>,
}

impl<'l> Tried<'l> {
    fn new(law: &'l Law) -> Self {
        let permits = law.policies.policies().filter(|policy| policy.effect() == Effect::Permit).cloned();
        // They are of one set already, so their ids differ.
        let permits = PolicySet::from_policies(permits).unwrap_or_default();
        let sampler = Sampler::new(&[&law.policies]);
        Self { law, permits, sampler, roles: BTreeMap::new(), left: TRIES_ALL, outside: BTreeMap::new(), lasting: BTreeMap::new() }
    }

    /// True where a permit is what lets the request through at some time: forbids that end before it do not count.
    fn lets_through(&mut self, id: &PolicyId, request: &Request, entities: &Entities) -> bool {
        let end = self.law.policies.policy(id).and_then(until);
        let ends_before = |policy: &Policy| until(policy).is_some_and(|other| end.is_none_or(|end| other < end));
        let law = self.lasting.entry(end).or_insert_with(|| {
            let gone: Vec<String> = self.law.policies.policies().filter(|p| ends_before(p)).map(|p| p.id().to_string()).collect();
            (!gone.is_empty()).then(|| self.law.without(&gone).ok()).flatten()
        });
        let law = law.as_ref().unwrap_or(self.law);
        // The envelope refuses the request, as the caller knows.
        let answer = law.asked(request, entities);
        answer.allowed && answer.errors.is_empty()
    }

    /// Tries requests of a line until each of its permits was seen to permit what the envelope admits.
    fn line(&mut self, line: &Line, mut open: BTreeSet<&PolicyId>) {
        for n in 0..TRIES.min(self.left) {
            if open.is_empty() {
                return;
            }
            self.left -= 1;
            let case = match &line.role {
                Some(role) => self.roles.entry(role.clone()).or_insert_with(|| self.sampler.of_role(role)).case(&line.environment, n),
                None => self.sampler.case(&line.environment, n),
            };
            let Ok((request, entities)) = case.request(self.law) else { continue };
            let answer = Index::authorize_unindexed(&self.permits, &request, &entities);
            if answer.reasons.is_empty() {
                continue;
            }
            if envelope::admits(&request, &entities) {
                open.retain(|id| !answer.reasons.contains(*id));
                continue;
            }
            // A forbid may refuse it first, and then the permit does no harm.
            for id in &answer.reasons {
                if self.lets_through(id, &request, &entities) {
                    open.remove(id);
                    self.outside.entry(id.clone()).or_insert_with(|| case.clone());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::{read, validate};
    use super::*;

    /// What is said of these permits beside the shipped law.
    fn said(permits: &[&str]) -> String {
        let disk = Disk::starter();
        let text: String = permits.iter().enumerate().map(|(n, permit)| format!("@id(\"p{n}\") @reason(\"r\")\n{permit};\n")).collect();
        if !text.is_empty() {
            disk.write("platform/99.cedar", &text);
        }
        let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
        let law = validate::whole(&sources).unwrap_or_else(|e| panic!("{e}"));
        faults(&law, &sources).iter().map(|fault| format!("{}: {}", fault.line, fault.message)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_stays_inside_is_no_fault() {
        assert_eq!(said(&[]), "");
        let fine = [
            "permit (principal in Byoa::Role::\"operator\", action in Byoa::Action::\"View\", resource)",
            "permit (principal is Byoa::Operator, action == Byoa::Action::\"RevokeSecret\", resource) when { principal.mfa && principal in Byoa::Role::\"security\" }",
            "permit (principal is Byoa::Operator, action in Byoa::Action::\"Change\", resource)
             when { if principal in Byoa::Role::\"viewer\" then false else principal.mfa } unless { action in Byoa::Action::\"Destructive\" }",
        ];
        assert_eq!(said(&fine), "");
    }

    #[test]
    fn a_permit_that_leaves_the_envelope_is_a_fault_at_its_place() {
        let said = said(&[
            // Types settle these: of the second only the role does, of the third nothing is left that a forbid lets through.
            "permit (principal in Byoa::Role::\"viewer\", action == Byoa::Action::\"ReplayDelivery\", resource)",
            "permit (principal in Byoa::Role::\"release-manager\", action == Byoa::Action::\"RevokeSecret\", resource) when { principal.mfa }",
            "permit (principal is Byoa::Operator, action == Byoa::Action::\"ShredOrg\", resource) when { principal.mfa && principal in Byoa::Role::\"viewer\" }",
            // Requests show these.
            "permit (principal is Byoa::PlatformInstallation, action == Byoa::Action::\"RouteMessage\", resource is Byoa::OrgAgent) when { principal.org != resource.org }",
            "permit (principal is Byoa::Operator, action, resource) when { principal.mfa }",
        ]);
        insta::assert_snapshot!(said, @r#"
        1: this permits nothing: the gateway's own bounds refuse every request that it matches, as Operator(viewer) ReplayDelivery Gateway
        3: this permits nothing: the gateway's own bounds refuse every request that it matches, as Operator(release-manager) RevokeSecret ByoaInstallation
        5: this permits nothing: the gateway's own bounds refuse every request that it matches, as Operator(viewer) ShredOrg Org
        7: this permits what the gateway's own bounds refuse: PlatformInstallation::"platform-installation-2" RouteMessage OrgAgent::"org-agent-2"; `byoa policy prove` prints such a request
        9: this permits what the gateway's own bounds refuse: Operator::"operator-1" ApplyResources Gateway::"byoa"; `byoa policy prove` prints such a request
        "#);
    }

    #[test]
    fn what_a_forbid_refuses_first_does_no_harm() {
        let wide = "permit (principal is Byoa::PlatformInstallation, action == Byoa::Action::\"RouteMessage\", resource is Byoa::PlatformAgent) when { principal.active }";
        assert_eq!(said(&[wide]), "", "`guard.suspended` refuses what the envelope does not admit");
    }

    #[test]
    fn a_forbid_that_ends_first_does_not_count() {
        let wide = "permit (principal is Byoa::PlatformInstallation, action == Byoa::Action::\"RouteMessage\", resource is Byoa::OrgAgent) when { principal.org != resource.org }";
        let scope = "(principal is Byoa::PlatformInstallation, action == Byoa::Action::\"RouteMessage\", resource) when { resource is Byoa::OrgAgent && principal.org != resource.org }";
        let guard = |until: &str| format!("@code(\"policy.forbidden\") {until} forbid {scope}");
        let dated = |day: u32| format!("@until(\"2030-01-0{day}T00:00:00Z\")");
        let lasting = said(&[wide, &guard("")]);
        assert!(lasting.contains("1: this permits nothing") || lasting.is_empty(), "{lasting}");
        assert!(said(&[wide, &guard(&dated(1))]).contains("1: this permits what"), "{}", said(&[wide, &guard(&dated(1))]));
        let ends = format!("{} {wide}", dated(1));
        assert_eq!(said(&[&ends, &guard(&dated(1))]), lasting);
        assert!(said(&[&ends.replace("01-01", "01-02"), &guard(&dated(1))]).contains("1: this permits what"));
    }
}
