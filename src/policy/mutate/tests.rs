use super::super::law_tests::{Disk, SCHEMA_FILE};
use super::super::read;
use super::*;

/// A law in which each part can be told from the others.
const LAW: &str = "\
@id(\"view\")
@reason(\"r\")
permit (
  principal in Byoa::Role::\"security\",
  action in [Byoa::Action::\"View\"],
  resource == Byoa::Gateway::\"byoa\"
);

@id(\"back\") @reason(\"r\")
permit (principal is Byoa::Operator, action == Byoa::Action::\"RollBack\", resource is Byoa::Flag)
when
{
  principal.mfa &&
  (context.from == Byoa::Stage::\"on\" ||
   resource.enabled)
}
unless { resource.percent > 50 };
";

fn sources() -> (Disk, Sources) {
    let disk = Disk::empty();
    disk.write("platform/a.cedar", LAW);
    let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
    (disk, sources)
}

const HEAD: &str = "\
about: x
given:
  Operator sara: {role: security, mfa: true}
  Operator vera: {role: viewer, mfa: true}
  Flag slack: {provider: slack, enabled: false, stage: 'on', canary: [], percent: 0, legacyFallback: true, rollbackMode: installation_identity}
defaults: {context: {from: 'on'}}
rows:
";

/// Rows that notice everything.
const ROWS: [&str; 8] = [
    "  - {name: view, principal: Operator sara, resource: Gateway byoa, each: {ask: [ReadAudit]}, want: {decision: allow, policies: [view]}}\n",
    "  - {name: viewers, principal: Operator vera, resource: Gateway byoa, ask: ReadAudit, want: {decision: refuse, code: policy.no_permit, policies: []}}\n",
    "  - {name: change, principal: Operator sara, resource: Gateway byoa, ask: ApplyResources, want: {decision: refuse, code: policy.no_permit, policies: []}}\n",
    "  - {name: back, principal: Operator sara, resource: Flag slack, ask: RollBack, want: {decision: allow, policies: [back]}}\n",
    "  - {name: mfa, principal: Operator sara, resource: Flag slack, ask: RollBack, each: {Operator sara.mfa: [false]}, want: {decision: refuse, code: policy.no_permit, policies: []}}\n",
    "  - {name: percent, principal: Operator sara, resource: Flag slack, ask: RollBack, each: {Flag slack.percent: [51]}, want: {decision: refuse, code: policy.no_permit, policies: []}}\n",
    "  - {name: neither, principal: Operator sara, resource: Flag slack, ask: RollBack, each: {context.from: [canary]}, want: {decision: refuse, code: policy.no_permit, policies: []}}\n",
    "  - {name: enabled, principal: Operator sara, resource: Flag slack, ask: RollBack, given: {Flag slack: {enabled: true}}, context: {from: canary}, want: {decision: allow, policies: [back]}}\n",
];

fn mutated(rows: &[&str], suggest: bool) -> Mutation {
    let (_disk, sources) = sources();
    let text = format!("{HEAD}{}", rows.concat());
    let tables = Tables::of_texts([("a.yaml", text.as_str())]).unwrap_or_else(|e| panic!("{e}"));
    let run = tables.run(&sources, Timestamp::default()).unwrap();
    assert!(run.holds(), "{:?}", run.faults());
    tables.mutate(&sources, Timestamp::default(), suggest).unwrap()
}

fn shown(mutation: &Mutation) -> String {
    mutation.survivors.iter().map(|s| format!("{} {} {:?} {}\n", s.place.line, s.policy, s.part, s.text)).collect()
}

#[test]
fn every_part_is_left_out_once() {
    let (_disk, sources) = sources();
    let law = validate::law(&sources, Timestamp::default()).unwrap();
    let all: String = cut::mutants(&law, &sources).iter().map(|m| format!("{} {} {:?} {}\n", m.place.line, m.id, m.part, m.text)).collect();
    insta::assert_snapshot!(all, @r#"
    9 back Policy back
    13 back Condition principal.mfa && (context.from == Byoa::Stage::"on" || resource.enabled)
    13 back Clause principal.mfa
    14 back Clause context.from == Byoa::Stage::"on" || resource.enabled
    14 back Clause context.from == Byoa::Stage::"on"
    15 back Clause resource.enabled
    17 back Condition resource.percent > 50
    1 view Policy view
    4 view Principal principal in Byoa::Role::"security"
    5 view Action action in Byoa::Action::"View"
    "#);
}

#[test]
fn a_row_that_is_gone_is_missed() {
    let whole = mutated(&ROWS, false);
    assert_eq!((shown(&whole), whole.noticed()), (String::new(), whole.total));
    let mut missed = Vec::new();
    for (n, row) in ROWS.iter().enumerate() {
        let rest: Vec<&str> = ROWS.iter().filter(|other| *other != row).copied().collect();
        let left = mutated(&rest, true);
        assert!(!left.survivors.is_empty(), "{row}");
        missed.push(format!("without row {n}:\n{}", shown(&left)));
        // With the rows that are suggested nothing is left.
        let suggested: Vec<String> = left.survivors.iter().map(|s| s.row.clone().unwrap_or_else(|| panic!("{s:?}"))).collect();
        let more: Vec<&str> = rest.into_iter().chain(suggested.iter().map(String::as_str)).collect();
        assert_eq!(shown(&mutated(&more, false)), "", "{row}");
    }
    insta::assert_snapshot!(missed.concat(), @r#"
    without row 0:
    1 view Policy view
    without row 1:
    4 view Principal principal in Byoa::Role::"security"
    without row 2:
    5 view Action action in Byoa::Action::"View"
    without row 3:
    14 back Clause context.from == Byoa::Stage::"on"
    without row 4:
    13 back Clause principal.mfa
    without row 5:
    17 back Condition resource.percent > 50
    without row 6:
    14 back Clause context.from == Byoa::Stage::"on" || resource.enabled
    without row 7:
    15 back Clause resource.enabled
    "#);
}

#[test]
fn what_does_not_validate_is_no_mutant() {
    let disk = Disk::empty();
    disk.write(
        "platform/a.cedar",
        "@id(\"a\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal, action == Byoa::Action::\"RouteMessage\", resource)\n\
         when { resource is Byoa::OrgAgent && resource.org.suspended };",
    );
    let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
    let law = validate::law(&sources, Timestamp::default()).unwrap();
    let texts: Vec<String> = cut::mutants(&law, &sources).into_iter().filter(|m| m.part == Part::Clause).map(|m| m.text).collect();
    // Without the type nobody knows that there is an `org`.
    assert_eq!(texts, ["resource.org.suspended"]);
}

#[test]
fn a_clause_behind_a_guard_is_shown_without_the_guard() {
    let disk = Disk::empty();
    disk.write(
        "platform/a.cedar",
        "@id(\"factor\") @reason(\"r\")\npermit (principal, action == Byoa::Action::\"RevokeSecret\", resource is Byoa::PlatformAgent)\n\
         when { principal.mfa && principal in Byoa::Role::\"security\" };\n\
         @id(\"guard\") @reason(\"r\") @code(\"policy.forbidden\")\nforbid (principal is Byoa::Operator, action, resource) unless { principal.mfa };",
    );
    let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
    let row = |name: &str, more: &str, want: &str| {
        format!("  - {{name: {name}, ask: RevokeSecret, resource: PlatformAgent a, {more}, want: {{decision: {want}}}}}\n")
    };
    let yes = row("may", "principal: Operator sara", "allow, policies: [factor]");
    let no = row("may not", "principal: Operator vera", "refuse, code: policy.no_permit, policies: []");
    let out =
        row("out", "principal: Operator sara, given: {Operator sara: {mfa: false}}", "refuse, code: policy.forbidden, policies: [guard]");
    let other = "  - {name: other, ask: RevokeSecret, principal: Operator sara, resource: OrgAgent b, given: {OrgAgent b: {org: acme}}, \
                 want: {decision: refuse, code: policy.no_permit, policies: []}}\n  - {name: rotate, ask: RotateSecret, principal: Operator sara, \
                 resource: PlatformAgent a, want: {decision: refuse, code: policy.no_permit, policies: []}}\n";
    let head = HEAD.split_once("  Flag").unwrap().0;
    let mutate = |rows: &str| {
        let text = format!("{head}rows:\n{rows}");
        let tables = Tables::of_texts([("a.yaml", text.as_str())]).unwrap_or_else(|e| panic!("{e}"));
        assert!(tables.run(&sources, Timestamp::default()).unwrap().holds());
        tables.mutate(&sources, Timestamp::default(), true).unwrap()
    };
    let rows = format!("{yes}{no}{out}{other}");
    let left = mutate(&rows);
    assert_eq!(shown(&left), "3 factor Clause principal.mfa\n");
    let suggested = left.survivors[0].row.as_ref().unwrap();
    insta::assert_snapshot!(suggested, @r#"
    - name: factor asks for principal.mfa
      ask: RevokeSecret
      principal: Operator operator-1
      resource: PlatformAgent platform-agent-1
      given:
        Operator operator-1: {mfa: false, role: security}
      without: [guard]
      want: {decision: refuse, code: policy.no_permit, policies: []}
    "#);
    assert_eq!(shown(&mutate(&format!("{rows}{suggested}"))), "");
}
