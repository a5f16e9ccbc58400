use proptest::prelude::*;

use super::super::law_tests::{Disk, SCHEMA_FILE};
use super::super::row::as_row;
use super::super::{Snapshot, read};
use super::*;

/// A table that says one thing of everything that tables can say.
pub(super) const TABLE: &str = "\
about: Which agent may hear which installation.
ask: RouteMessage
given:
  Org acme: {suspended: false, fallbackOptIn: [slack]}
  Org globex: {suspended: false, fallbackOptIn: []}
  ByoaInstallation acme-slack: {provider: slack, owner: acme, org: acme, active: true}
  PlatformInstallation plat: {provider: slack, org: acme, active: true}
  OrgAgent acme-support: {org: acme}
  Operator ann: {mfa: true, role: security}
defaults:
  principal: ByoaInstallation acme-slack
  resource: OrgAgent acme-support
  context: {eventType: message.received, fromBot: false, freshness: fresh, conversation: C1}
rows:
  - name: an org's own app reaches its own agent
    want: {decision: allow, policies: [route.byoa]}
  - name: a suspended org hears nothing
    given: {Org acme: {suspended: true}}
    want: {decision: refuse, code: org.suspended, policies: [guard.suspended]}
  - name: nor does an agent of another org
    given:
      OrgAgent acme-support: {org: globex}
    each:
      principal: [ByoaInstallation acme-slack, PlatformInstallation plat]
      context.fromBot: [true, false]
      Org acme.suspended: [false]
    want: {decision: refuse, code: policy.no_permit, policies: []}
  - name: security reads the audit
    ask: ReadAudit
    principal: Operator ann
    resource: Gateway byoa
    want: {decision: allow, policies: [operate.view.security]}
";

pub(super) fn of(text: &str) -> Result<Tables, LoadError> {
    Tables::of_texts([("policies/tables/a.yaml", text)])
}

fn faults(text: &str) -> String {
    let error = of(text).expect_err("must be refused");
    assert_eq!(error.code, ReasonCode::PolicyInvalid);
    let said = |d: &Diagnostic| {
        let line = d.source_line.as_deref().unwrap_or_default();
        let about: String = line.chars().skip(d.column - 1).take(d.length).collect();
        assert_eq!(text.lines().nth(d.line - 1), d.source_line.as_deref(), "{d}");
        format!("{}:{} [{about}] {}\n", d.line, d.column, d.message)
    };
    error.diagnostics.iter().map(said).collect()
}

/// The table with one part of it written otherwise.
fn with(from: &str, to: &str) -> String {
    assert!(TABLE.contains(from), "{from}");
    TABLE.replacen(from, to, 1)
}

fn each(changes: &[(&str, &str)]) -> String {
    changes.iter().map(|(from, to)| faults(&with(from, to))).collect()
}

fn starter() -> (Disk, Sources) {
    let disk = Disk::starter();
    let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
    (disk, sources)
}

fn run(text: &str) -> Run {
    let (_disk, sources) = starter();
    of(text).unwrap_or_else(|e| panic!("{e}")).run(&sources, Timestamp::default()).unwrap_or_else(|e| panic!("{e}"))
}

pub(super) fn said(run: &Run) -> Vec<String> {
    run.faults().iter().map(|d| format!("{}:{}: {}", d.line, d.column, d.message)).collect()
}

#[test]
fn a_table_holds() {
    let tables = of(TABLE).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((tables.rows().len(), tables.written(), tables.tables().len()), (7, 4, 1));
    let names: Vec<String> = tables.rows().iter().map(|row| format!("{} {}:{} {}", row.table, row.file, row.line, row.name)).collect();
    insta::assert_snapshot!(names.join("\n"), @r#"
    a policies/tables/a.yaml:15 an org's own app reaches its own agent
    a policies/tables/a.yaml:17 a suspended org hears nothing
    a policies/tables/a.yaml:20 nor does an agent of another org [principal=ByoaInstallation acme-slack, context.fromBot=true, Org acme.suspended=false]
    a policies/tables/a.yaml:20 nor does an agent of another org [principal=ByoaInstallation acme-slack, context.fromBot=false, Org acme.suspended=false]
    a policies/tables/a.yaml:20 nor does an agent of another org [principal=PlatformInstallation plat, context.fromBot=true, Org acme.suspended=false]
    a policies/tables/a.yaml:20 nor does an agent of another org [principal=PlatformInstallation plat, context.fromBot=false, Org acme.suspended=false]
    a policies/tables/a.yaml:28 security reads the audit
    "#);
    assert_eq!(said(&run(TABLE)), Vec::<String>::new());
}

#[test]
fn a_case_has_what_its_question_leads_to() {
    let tables = of(TABLE).unwrap();
    let last = &tables.rows()[6].case;
    insta::assert_snapshot!(serde_json::to_string(last).unwrap(), @r#"{"action":"ReadAudit","principal":"Byoa::Operator::\"ann\"","resource":"Byoa::Gateway::\"byoa\"","context":{},"entities":[{"uid":{"type":"Byoa::Operator","id":"ann"},"attrs":{"mfa":true},"parents":[{"type":"Byoa::Role","id":"security"}]}]}"#);
    let first = &tables.rows()[0].case;
    let known: Vec<&str> = first.entities.as_array().unwrap().iter().map(|e| e["uid"]["id"].as_str().unwrap()).collect();
    assert_eq!(known, ["acme-slack", "acme", "acme-support"]);
}

#[test]
fn faults_of_form() {
    let said = each(&[
        ("about: Which agent may hear which installation.\n", ""),
        ("about:", "abuot:"),
        ("ask: RouteMessage", "ask: RouteMesage"),
        ("  principal: ByoaInstallation acme-slack\n", ""),
        ("ask: RouteMessage\n", ""),
        ("rows:", "rows: []\nrest:"),
        ("  - name: an org's own app reaches its own agent\n    want", "  - want"),
        ("    want: {decision: allow, policies: [route.byoa]}\n", ""),
        ("a suspended org hears nothing", "an org's own app reaches its own agent"),
        ("decision: allow, policies: [route.byoa]", "decision: yes, policies: [route.byoa]"),
        ("decision: allow, policies: [route.byoa]", "decision: deny, policies: [route.byoa]"),
        ("decision: allow, policies: [route.byoa]", "decision: allow, code: org.suspended, policies: [route.byoa]"),
        ("decision: allow, policies: [route.byoa]", "decision: allow, policies: route.byoa"),
        ("decision: allow, policies: [route.byoa]", "decision: allow"),
        ("decision: refuse, code: org.suspended", "decision: refuse"),
        ("decision: refuse, code: org.suspended", "decision: refuse, code: org.suspend"),
        ("decision: refuse, code: org.suspended", "code: org.suspended"),
        ("    given: {Org acme: {suspended: true}}\n", "    at: yesterday\n"),
        ("defaults:", "defaults:\n  principle: x"),
        ("rows:\n", "rows:\n  - name: x\n    nmae: y\n    want: {decision: allow, policies: []}\n"),
    ]);
    insta::assert_snapshot!(said, @r#"
    1:1 [a] the table has no `about`: one sentence for people
    1:1 [abuot] a table has no `abuot` (did you mean `about`?); there is about, ask, given, defaults, rows, complete
    1:1 [a] the table has no `about`: one sentence for people
    2:6 [RouteMesage] there is no action `RouteMesage` (did you mean `RouteMessage`?)
    14:11 [an org's own app reaches its own agent] there is no `principal` here, and none in `defaults`
    16:11 [a suspended org hears nothing] there is no `principal` here, and none in `defaults`
    14:11 [an org's own app reaches its own agent] there is no `ask` here, and none for the whole table
    16:11 [a suspended org hears nothing] there is no `ask` here, and none for the whole table
    19:11 [nor does an agent of another org] there is no `ask` here, and none for the whole table
    1:1 [a] the table has no rows
    15:1 [rest] a table has no `rest`; there is about, ask, given, defaults, rows, complete
    15:5 [w] the row has no `name`
    15:5 [n] the row has no `want`
    17:11 [an org's own app reaches its own agent] the row in line 15 has this name too: rows are found by their names
    16:22 [yes] a bare `yes` is a truth to some readers of YAML: write it in quotes, "yes"
    16:22 [deny] `allow` or `refuse` stands here, not `deny`
    16:29 [code] `allow` has no code: a code says why not
    16:39 [route.byoa] a list stands here, not `route.byoa`
    16:11 [{decision: allow}] `want` has no `policies`: the ids of all that decide, or [] where none has to
    19:11 [{decision: refuse, policies: [guard.suspended]}] `refuse` has no `code`: the reason that is wanted; `byoa reasons` lists them
    19:36 [org.suspend] there is no reason code `org.suspend` (did you mean `org.suspended`?); `byoa reasons` lists them
    19:11 [{code: org.suspended, policies: [guard.suspended]}] `want` has no `decision`: allow or refuse
    18:9 [yesterday] a time like 2026-11-27T18:00:00Z stands here, not `yesterday`
    11:3 [principle] `defaults` has no `principle` (did you mean `principal`?); there is principal, resource, context
    16:5 [nmae] a row has no `nmae` (did you mean `name`?); there is name, ask, principal, resource, context, given, each, without, at, want
    "#);
}

#[test]
fn faults_of_meaning() {
    let said = each(&[
        ("Org globex:", "Orgg globex:"),
        ("Org globex:", "Org:"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Stage on: {}"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: {suspended: false}"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: null"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: {suspnded: false, fallbackOptIn: []}"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: {suspended: no, fallbackOptIn: []}"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: {suspended: false, fallbackOptIn: slack}"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: {suspended: false, fallbackOptIn: [slak]}"),
        ("Org globex: {suspended: false, fallbackOptIn: []}", "Org globex: {suspended: false, fallbackOptIn: [slack, slack]}"),
        ("provider: slack, owner: acme", "provider: [slack], owner: acme"),
        ("provider: slack, owner: acme", "provider: slack, owner: Org acme"),
        ("provider: slack, owner: acme", "provider: slack, owner: 12"),
        ("role: security", "role: admin"),
        ("role: security", "in: [Org acme]"),
        ("OrgAgent acme-support: {org: acme}\n", "OrgAgent acme-support: {org: acme, in: [Role security]}\n"),
        ("principal: ByoaInstallation acme-slack\n", "principal: ByoaInstallation acme-slak\n"),
        ("principal: ByoaInstallation acme-slack\n", "principal: OrgAgent acme-support\n"),
        ("principal: ByoaInstallation acme-slack\n", "principal: acme-slack\n"),
        ("resource: Gateway byoa", "resource: Gateway other"),
        ("fromBot: false, ", ""),
        ("fromBot: false, ", "fromBot: null, "),
        ("fromBot: false, ", "fromBot: \"false\", "),
        ("fromBot: false, ", "fromBot: false, fromBott: false, "),
        ("conversation: C1", "conversation: 1234.5"),
        ("conversation: C1", "conversation: on"),
        ("eventType: message.received", "eventType: message.recieved"),
        ("context.fromBot: [true, false]", "context.fromBott: [true, false]"),
        ("context.fromBot: [true, false]", "context.fromBot: [true, true]"),
        ("context.fromBot: [true, false]", "context.fromBot: []"),
        ("context.fromBot: [true, false]", "fromBot: [true, false]"),
        ("Org acme.suspended: [false]", "Org acmee.suspended: [false]"),
        ("Org acme.suspended: [false]", "Org acme.suspend: [false]"),
    ]);
    insta::assert_snapshot!(said, @r#"
    5:3 [Orgg globex] there is no type `Orgg` (did you mean `Org`?); a thing is written as its type and its id, like `OrgAgent support`
    5:3 [Org] `Org` names no thing: write the type and the id, like `Org one`
    5:3 [Stage on] Stage is a list of words: nothing is known of them
    5:3 [Org globex] `Org globex` lacks `fallbackOptIn`
    5:3 [Org globex] only a row takes something away: write what is known, or `{}`
    5:16 [suspnded] an Org has no `suspnded` (did you mean `suspended`?); it has fallbackOptIn, suspended
    5:27 [no] `true` or `false` stands here, not `no`
    5:49 [slack] a list of Provider ids stands here, not `slack`
    5:50 [slak] slack, telegram or whatsapp stands here, not `slak`
    5:57 [slack] `slack` is in the list already
    6:43 [[slack]] slack, telegram or whatsapp stands here, not a list
    6:57 [Org acme] only the id stands here, `acme`: that it is of type Org is known
    6:57 [12] a bare `12` is a number to some readers of YAML: write it in quotes, "12"
    9:35 [admin] viewer, operator, release-manager or security stands here, not `admin`
    9:34 [Org acme] an Operator is a child of a Role, never of an Org
    8:43 [Role security] an OrgAgent is a child of an Org, never of a Role
    11:14 [ByoaInstallation acme-slak] `ByoaInstallation acme-slak` is not given (did you mean `ByoaInstallation acme-slack`?)
    11:14 [OrgAgent acme-support] the principal of RouteMessage is a PlatformInstallation or a ByoaInstallation, never an OrgAgent
    11:14 [acme-slack] there is no type `acme-slack`; a thing is written as its type and its id, like `OrgAgent support`
    31:15 [Gateway other] there is no Gateway `other`: there is byoa
    15:11 [an org's own app reaches its own agent] the context lacks `fromBot`, which RouteMessage always has
    17:11 [a suspended org hears nothing] the context lacks `fromBot`, which RouteMessage always has
    13:51 [null] `true` or `false` stands here, not `null`
    13:51 ["false"] `true` or `false` stands here, not "false"
    13:58 [fromBott] no row's action has `fromBott` in its context (did you mean `fromBot`?)
    13:90 [1234.5] a bare `1234.5` is a number to some readers of YAML: write it in quotes, "1234.5"
    13:90 [on] a bare `on` is a truth to some readers of YAML: write it in quotes, "on"
    13:24 [message.recieved] message.received, message.edited, message.deleted, command.invoked, interaction.received, reaction.changed, delivery.status, membership.changed or event.other stands here, not `message.recieved`
    25:7 [context.fromBott] the context of RouteMessage has no `fromBott` (did you mean `fromBot`?); it has conversation, conversationKind, eventType, freshness, fromBot
    25:31 [true] `true` is in the list already
    25:24 [[]] `context.fromBot` has no values, so there would be no case
    25:7 [fromBot] `fromBot` is nothing that varies; there is ask, principal, resource, context.KEY, Type id.attribute
    26:7 [Org acmee.suspended] `Org acmee` is not given, so nothing of it varies
    26:7 [Org acme.suspend] an Org has no `suspend` (did you mean `suspended`?); it has fallbackOptIn, suspended
    "#);
}

#[test]
fn a_stage_is_written_in_quotes() {
    let flag = "\
about: x
ask: EnterRollout
given:
  Org acme: {suspended: false, fallbackOptIn: []}
  Flag slack: {provider: slack, enabled: true, stage: on, canary: [acme, nobody], percent: 0, legacyFallback: false, rollbackMode: legacy_provider_only}
defaults: {principal: Org acme, resource: Flag slack, context: {provider: slack, bucket: 7}}
rows:
  - {name: x, want: {decision: allow, policies: [rollout.enter.on]}}
";
    insta::assert_snapshot!(faults(flag), @r#"5:55 [on] a bare `on` is a truth to some readers of YAML: write it in quotes, "on""#);
    assert_eq!(said(&run(&flag.replace("stage: on", "stage: 'on'"))), Vec::<String>::new());
    // An org that nobody describes can be on the list; a number is a number.
    insta::assert_snapshot!(faults(&flag.replace("stage: on", "stage: canary").replace("percent: 0", "percent: '0'")), @r#"5:96 ['0'] a whole number stands here, not "0""#);
}

#[test]
fn a_row_says_only_what_differs() {
    let text = with(
        "rows:\n",
        "rows:\n  - name: no conversation\n    context: {conversation: null}\n    want: {decision: allow, policies: [route.byoa]}\n  \
         - name: nobody\n    given: {OrgAgent acme-support: null}\n    want: {decision: allow, policies: [route.byoa]}\n",
    );
    insta::assert_snapshot!(faults(&text), @r#"18:11 [nobody] nothing is known of `OrgAgent acme-support` here, and it is the resource"#);
    let tables = of(&text.replace("OrgAgent acme-support: null", "Org globex: null")).unwrap();
    let context = |row: usize| tables.rows()[row].case.context.get("conversation").is_some();
    assert_eq!((context(0), context(1)), (false, true));
}

#[test]
fn defaults_serve_each_row_as_far_as_its_action_knows_them() {
    insta::assert_snapshot!(faults(&with("conversation: C1}", "conversation: C1, bound: true}")), @r#"13:94 [bound] no row's action has `bound` in its context"#);
    let send = "  - name: an agent answers\n    ask: SendMessage\n    principal: OrgAgent acme-support\n    resource: ByoaInstallation acme-slack\n    \
        context: {reply: true}\n    want: {decision: allow, policies: [send.byoa]}\n";
    let text = format!("{}{send}", with("conversation: C1}", "conversation: C1, bound: true}"));
    assert_eq!(said(&run(&text)), Vec::<String>::new());
}

#[test]
fn wrong_rows_are_shown_at_their_place() {
    let run = run(&with("policies: [route.byoa]", "policies: [route.boya]").replacen(
        "code: policy.no_permit, policies: []",
        "code: org.suspended, policies: [guard.suspended]",
        1,
    ));
    insta::assert_snapshot!(said(&run).join("\n"), @r#"
    15:11: wants allow by route.boya, got allow by route.byoa; there is no policy `route.boya` (did you mean `route.byoa`?)
    20:11: wants refuse org.suspended by guard.suspended, got refuse policy.no_permit by no policy [principal=ByoaInstallation acme-slack, context.fromBot=true, Org acme.suspended=false]
    20:11: wants refuse org.suspended by guard.suspended, got refuse policy.no_permit by no policy [principal=ByoaInstallation acme-slack, context.fromBot=false, Org acme.suspended=false]
    20:11: wants refuse org.suspended by guard.suspended, got refuse policy.no_permit by no policy [principal=PlatformInstallation plat, context.fromBot=true, Org acme.suspended=false]
    20:11: wants refuse org.suspended by guard.suspended, got refuse policy.no_permit by no policy [principal=PlatformInstallation plat, context.fromBot=false, Org acme.suspended=false]
    "#);
    assert!(!run.holds());
    assert_eq!(run.results.iter().filter(|r| !r.ok).count(), run.faults().len());
}

#[test]
fn the_policies_that_decide_are_an_exact_set() {
    let both =
        with("given: {Org acme: {suspended: true}}", "given: {Org acme: {suspended: true}, ByoaInstallation acme-slack: {active: false}}");
    insta::assert_snapshot!(said(&run(&both)).join("\n"), @r#"17:11: wants refuse org.suspended by guard.suspended, got refuse org.suspended by guard.inactive, guard.suspended"#);
    let both = both.replace("policies: [guard.suspended]", "policies: [guard.suspended, guard.inactive]");
    assert_eq!(said(&run(&both)), Vec::<String>::new());
}

#[test]
fn without_a_guard_it_shows_what_stands_behind() {
    let without = |ids: &str| {
        with(
            "    want: {decision: refuse, code: org.suspended, policies: [guard.suspended]}",
            &format!("    without: [{ids}]\n    want: {{decision: refuse, code: policy.outside_envelope, policies: [route.byoa]}}"),
        )
    };
    assert_eq!(said(&run(&without("guard.suspended"))), Vec::<String>::new());
    let (_disk, sources) = starter();
    let error = of(&without("guard.suspendet")).unwrap().run(&sources, Timestamp::default()).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @r#"policies/tables/a.yaml:19:15: there is no policy `guard.suspendet` (did you mean `guard.suspended`?)"#);
}

#[test]
fn a_law_that_ends_is_asked_as_of_a_time() {
    let disk = Disk::starter();
    disk.write(
        "platform/95-freeze.cedar",
        "@id(\"freeze\") @reason(\"r\") @code(\"policy.forbidden\") @until(\"2026-11-27T00:00:00Z\")\n\
         forbid (principal, action == Byoa::Action::\"RouteMessage\", resource);",
    );
    let sources = read(disk.path(), SCHEMA_FILE.as_ref(), &Default::default()).unwrap();
    let row = |name: &str, more: &str, want: &str| format!("  - name: {name}\n    {more}\n    want: {want}\n");
    let frozen = "{decision: refuse, code: policy.forbidden, policies: [freeze]}";
    let free = "{decision: allow, policies: [route.byoa]}";
    let head = TABLE.split_once("rows:\n").unwrap().0;
    let text = format!(
        "{head}rows:\n{}{}{}{}",
        row("before", "at: 2026-11-26T23:59:59Z", frozen),
        row("after", "at: 2026-11-27T00:00:00Z", free),
        row("before, unfrozen", "at: 2026-11-26T00:00:00Z\n    without: [freeze]", free),
        row("after, unfrozen", "at: 2026-11-28T00:00:00Z\n    without: [freeze]", free),
    );
    let run = of(&text).unwrap().run(&sources, Timestamp::default()).unwrap();
    assert_eq!(said(&run), Vec::<String>::new());
    let text = format!("{head}rows:\n{}", row("now", "ask: RouteMessage", free));
    let at = |now: &str| of(&text).unwrap().run(&sources, Timestamp::parse(now).unwrap()).unwrap().holds();
    assert_eq!((at("2026-11-26T00:00:00Z"), at("2026-11-28T00:00:00Z")), (false, true));
}

const COMPLETE: &str = "\
complete:
  principal: [ByoaInstallation acme-slack, PlatformInstallation plat]
  Org acme.suspended: [true, false]
";

#[test]
fn a_table_can_be_held_to_be_complete() {
    let text = format!("{TABLE}{COMPLETE}");
    insta::assert_snapshot!(faults(&text), @r#"
    33:1 [complete] no row is the case [principal=PlatformInstallation plat, Org acme.suspended=false]
    33:1 [complete] no row is the case [principal=PlatformInstallation plat, Org acme.suspended=true]
    "#);
    let rest = "  - name: the platform's app\n    principal: PlatformInstallation plat\n    want: {decision: allow, policies: [route.platform.org-agent]}\n  \
        - name: the platform's app of a suspended org\n    principal: PlatformInstallation plat\n    given: {Org acme: {suspended: true}}\n    \
        want: {decision: refuse, code: org.suspended, policies: [guard.suspended]}\n";
    let whole = format!("{TABLE}{rest}{COMPLETE}");
    assert_eq!(said(&run(&whole)), Vec::<String>::new());
    let doubled = format!("{TABLE}{rest}{}{COMPLETE}", rest.replace("the platform's app", "again"));
    insta::assert_snapshot!(faults(&doubled), @r#"
    40:11 [again] this row and "the platform's app" are the same case [principal=PlatformInstallation plat, Org acme.suspended=false]: which of them is meant?
    43:11 [again of a suspended org] this row and "the platform's app of a suspended org" are the same case [principal=PlatformInstallation plat, Org acme.suspended=true]: which of them is meant?
    "#);
    // What a row shows of another law is not a case of this one.
    let without = whole.replacen(
        "    given: {Org acme: {suspended: true}}\n    want: {decision: refuse, code: org.suspended",
        "    given: {Org acme: {suspended: true}}\n    without: [guard.suspended]\n    want: {decision: refuse, code: org.suspended",
        1,
    );
    insta::assert_snapshot!(faults(&without), @r#"41:1 [complete] no row is the case [principal=ByoaInstallation acme-slack, Org acme.suspended=true]"#);
}

#[test]
fn what_is_kept_has_bounds() {
    let many = |n: usize| (0..n).map(|i| format!("C{i}")).collect::<Vec<_>>().join(", ");
    let axis = |values: &str| with("context.fromBot: [true, false]", &format!("context.conversation: [{values}]"));
    let error = faults(&axis(&many(CASES_MAX)));
    assert!(error.contains("more than 10000 cases in all tables"), "{error}");
    // The bound is of all files together.
    let half = axis(&many(CASES_MAX / 4 - 1));
    let both = Tables::of_texts([("a.yaml", half.as_str()), ("b.yaml", half.as_str())]);
    assert!(both.unwrap_err().to_string().starts_with("b.yaml:"));
    let wide = (0..40).fold(String::new(), |all, n| format!("{all}      OrgAgent a{n}.org: [acme, globex]\n"));
    let error = faults(&with("      Org acme.suspended: [false]\n", &wide));
    assert!(error.contains("more than 10000 cases"), "{error}");
}

#[test]
fn an_update_keeps_every_other_byte() {
    let text = "\
# What this is for.
about: x
ask: ReadAudit
given: {Operator ann: {mfa: true, role: viewer}}
defaults: {principal: Operator ann,   resource: Gateway byoa}
rows:
- name: one # kept
  want: {decision: refuse, code: policy.no_permit, policies: []} # kept too
- name: two
  want:
    decision: allow
    policies:
    - operate.view.security

# kept as well
- {name: three, want: {decision: allow, policies: [operate.view.viewer]}}
- name: four
  want:
    decision: allow
    # because
    policies: []
- name: five
  each: {Operator ann.role: [viewer, security]}
  want: {decision: allow, policies: []}
";
    let (_disk, sources) = starter();
    let tables = of(text).unwrap();
    let (files, kept) = tables.updated(&tables.run(&sources, Timestamp::default()).unwrap());
    let said: Vec<String> = kept.iter().map(|k| format!("{}:{} {}: {}\n", k.file, k.line, k.name, k.why)).collect();
    insta::assert_snapshot!(format!("{}{}", files[0].text, said.join("")), @r#"
    # What this is for.
    about: x
    ask: ReadAudit
    given: {Operator ann: {mfa: true, role: viewer}}
    defaults: {principal: Operator ann,   resource: Gateway byoa}
    rows:
    - name: one # kept
      want: {decision: allow, policies: [operate.view.viewer]} # kept too
    - name: two
      want: {decision: allow, policies: [operate.view.viewer]}

    # kept as well
    - {name: three, want: {decision: allow, policies: [operate.view.viewer]}}
    - name: four
      want:
        decision: allow
        # because
        policies: []
    - name: five
      each: {Operator ann.role: [viewer, security]}
      want: {decision: allow, policies: []}
    policies/tables/a.yaml:17 four: there is a comment within its `want`: change it by hand
    policies/tables/a.yaml:22 five: its cases are answered differently: split it into rows that are answered alike
    "#);
    assert_eq!(files[0].rows.iter().map(|(line, name, ..)| format!("{line} {name}")).collect::<Vec<_>>(), ["7 one", "9 two"]);
    let again = of(&files[0].text).unwrap();
    let (files, still) = again.updated(&again.run(&sources, Timestamp::default()).unwrap());
    assert_eq!((files, still.len()), (vec![], kept.len()));
}

#[test]
fn an_update_that_would_not_read_is_not_written() {
    let text = "about: x\nask: ReadAudit\ngiven: {Operator ann: {mfa: true, role: viewer}}\n\
                defaults: {principal: Operator ann, resource: Gateway byoa}\nrows:\n- name: one\n  ? want\n  : {decision: allow, policies: []}\n";
    let (_disk, sources) = starter();
    let tables = of(text).unwrap();
    let (files, kept) = tables.updated(&tables.run(&sources, Timestamp::default()).unwrap());
    assert_eq!((files, kept.len()), (vec![], 1));
    assert_eq!(kept[0].why, "the file would not read afterwards: change it by hand");
}

#[test]
fn nobody_reads_a_thousand_faults() {
    let rows: String =
        (0..200).map(|n| format!("  - {{name: r{n}, ask: Nonsense{n}, want: {{decision: allow, policies: []}}}}\n")).collect();
    let error = of(&format!("about: x\nrows:\n{rows}")).unwrap_err();
    assert_eq!(error.diagnostics.len(), 51);
    assert_eq!(error.diagnostics[50].message, "there is more: mend what is named so far");
}

fn thing(kind: &str, id: &str) -> serde_json::Value {
    serde_json::json!({"type": format!("Byoa::{kind}"), "id": id})
}

fn ids() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("acme".to_owned()),
        Just("on".to_owned()),
        Just("12".to_owned()),
        "\\PC{1,8}",
        "[ -~]{1,6}",
        any::<String>().prop_filter("an id", |id| !id.is_empty())
    ]
}

proptest! {
    #[test]
    fn a_row_that_is_written_is_the_case_that_it_was(
        org in ids(), owner in ids(), id in ids(), agent in ids(), conversation in proptest::option::of(any::<String>()),
        [suspended, active, bot, stray, known] in any::<[bool; 5]>(), name in "\\PC{1,20}",
    ) {
        thread_local!(static LAW: Snapshot = Snapshot::load("policies".as_ref(), SCHEMA_FILE.as_ref(), Timestamp::default()).unwrap());
        let of = |org: &str| serde_json::json!({"__entity": thing("Org", org)});
        let mut context = serde_json::json!({
            "eventType": {"__entity": thing("EventType", "message.received")}, "fromBot": bot,
            "freshness": {"__entity": thing("Freshness", "unsigned")},
        });
        if let Some(conversation) = conversation {
            context["conversation"] = conversation.into();
        }
        let parent = if stray { thing("Org", &owner) } else { thing("Org", &org) };
        let mut entities = vec![
            serde_json::json!({"uid": thing("ByoaInstallation", &id), "parents": [parent],
                "attrs": {"provider": {"__entity": thing("Provider", "slack")}, "owner": of(&owner), "org": of(&org), "active": active}}),
            serde_json::json!({"uid": thing("OrgAgent", &agent), "parents": [thing("Org", &org)], "attrs": {"org": of(&org)}}),
        ];
        if known {
            entities.push(serde_json::json!({"uid": thing("Org", &org), "attrs": {"suspended": suspended, "fallbackOptIn": []}, "parents": []}));
        }
        let uid = |kind: &str, id: &str| super::typed::written(&(kind.to_owned(), id.to_owned()));
        let case = Case {
            action: "RouteMessage".into(), principal: uid("ByoaInstallation", &id), resource: uid("OrgAgent", &agent),
            context, entities: entities.into(),
        };
        LAW.with(|law| {
            let law = &law.law;
            let ruling = case.ruled(law).unwrap();
            let want = Want::of(&ruling);
            // The table says otherwise about everything, and the row is not moved by it.
            let text = TABLE.split_once("rows:\n").unwrap().0.to_owned() + "rows:\n" + &as_row(&name, &case, &want);
            let tables = super::Tables::of_texts([("a.yaml", text.as_str())]).unwrap_or_else(|e| panic!("{e}\n{text}"));
            let row = &tables.rows()[0];
            prop_assert_eq!(&row.want, &want);
            prop_assert_eq!(&row.name, &name);
            let again = row.case.ruled(law).unwrap();
            prop_assert_eq!(&again, &ruling, "{}", text);
            prop_assert_eq!((&row.case.principal, &row.case.resource, &row.case.context), (&case.principal, &case.resource, &case.context));
            // Written again, it is the same row.
            prop_assert_eq!(as_row(&name, &row.case, &want).len(), as_row(&name, &case, &want).len());
            Ok(())
        })?;
    }
}

#[test]
fn a_case_that_is_no_question_is_wrong_whatever_is_wanted() {
    let mut tables = of(TABLE).unwrap();
    tables.rows.truncate(2);
    for row in &mut tables.rows {
        row.case.context = serde_json::json!({});
    }
    // Not even a row that wants the very refusal holds: nothing was asked.
    tables.rows[1].want = Want { allow: false, code: Some(ReasonCode::PolicyNotApplicable), policies: vec![] };
    let (_disk, sources) = starter();
    let run = tables.run(&sources, Timestamp::default()).unwrap();
    assert_eq!(run.results.iter().map(|r| (r.ok, r.got.code)).collect::<Vec<_>>(), [(false, Some(ReasonCode::PolicyNotApplicable)); 2]);
    assert!(said(&run).iter().all(|said| said.contains("it is no question that the schema knows")), "{:?}", said(&run));
    let (files, kept) = tables.updated(&run);
    assert_eq!((files, kept.len()), (vec![], 2));
}
