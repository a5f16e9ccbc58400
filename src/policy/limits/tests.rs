use std::sync::Arc;

use proptest::prelude::*;

use super::super::case::Case;
use super::super::law_tests::{Disk, SCHEMA_FILE, agent, installation, route};
use super::super::load::{LoadError, Rule};
use super::super::{Snapshot, diff, format};
use super::*;
use crate::domain::reason::ReasonCode;

/// An org's limits, which are the platform's too where settings say nothing.
const ORG: PolicyTextLimits = Bounds::ORG.limits;

/// What a test's thread has, what tokio's workers have, and less.
const SMALL: usize = 512 * 1024;

/// Runs on a thread whose stack is this small.
fn on_a_stack_of<T: Send>(bytes: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, work).unwrap().join().unwrap())
}

/// A policy of acme's with this condition.
fn forbid(condition: &str) -> String {
    format!(
        "@id(\"org.acme.deep\")\n@reason(\"r\")\n@code(\"policy.forbidden\")\nforbid (principal in Byoa::Org::\"acme\", \
         action == Byoa::Action::\"RouteMessage\", resource)\nwhen {{ {condition} }};\n"
    )
}

/// `{`, `principal in`, `action ==`: what the policy around a condition uses up.
const AROUND: (usize, usize) = (1, 3);

fn nested(open: &str, inner: &str, close: &str, times: usize) -> String {
    format!("{}{inner}{}", open.repeat(times), close.repeat(times))
}

fn chain(part: &str, operator: &str, operators: usize) -> String {
    vec![part; operators + 1].join(operator)
}

/// The text with an id that its place may use, of the same length: texts are at their limits to the byte.
fn named(path: &str, text: &str) -> String {
    if path.starts_with("orgs/") { text.to_owned() } else { text.replace("org.acme.deep", "plt.acme.deep") }
}

fn loaded(path: &str, text: &str) -> Result<Snapshot, LoadError> {
    let disk = Disk::starter();
    disk.write(path, &named(path, text));
    disk.load()
}

/// Each way to go deep or long that is within the limits by this much; what the type checker says of it does not matter.
fn at_the_limits(less: usize) -> Vec<(&'static str, String)> {
    let nesting = ORG.nesting - AROUND.0 - less;
    // Every condition is an operator.
    let operators = ORG.operators - AROUND.1 - less;
    vec![
        ("sets", format!("{} == context.text", nested("[", "1", "]", nesting))),
        ("brackets", nested("(", "context.fromBot", ")", nesting)),
        ("records", format!("{} == context.text", nested("{a: ", "1", "}", nesting))),
        ("not", nested("!(", "context.fromBot", ")", nesting)),
        ("if", format!("{}context.fromBot", "if context.fromBot then false else ".repeat(nesting))),
        ("if in if", nested("if ", "context.fromBot", " then false else true", nesting)),
        ("attributes", format!("context{} == 1", ".a".repeat(ORG.nesting - less))),
        ("attributes in brackets", format!("context{} == 1", "[\"a\"]".repeat(ORG.nesting - less))),
        ("calls", format!("context{}", ".contains(1)".repeat(ORG.nesting - less))),
        ("has", format!("context has a{}", ".a".repeat(ORG.nesting - less))),
        ("a long name", format!("resource is A{}", "::A".repeat(ORG.nesting - less))),
        ("and", chain("context.fromBot", " && ", operators / 2)),
        ("or", chain("context.fromBot", " || ", operators / 2)),
        ("and of literals", chain("true", "&&", operators)),
        ("sum", format!("{} == 1", chain("1", " + ", operators - 1))),
        ("product", format!("{} == 1", chain("1", " * ", operators - 1))),
        ("in", format!("{} == 1", chain("1", " - ", operators - 1))),
        ("conditions", format!("true }} when {{ {}", chain("true", "} when {", operators - 1))),
        ("both at once", nested("(true && true && true && true && true && ", "context.fromBot", ")", nesting)),
    ]
}

fn one_fault(error: &LoadError) -> &super::super::Diagnostic {
    assert_eq!(error.code, ReasonCode::PolicyTooComplex, "{error}");
    assert_eq!(error.diagnostics.len(), 1, "{error}");
    let fault = &error.diagnostics[0];
    assert_eq!(fault.rule, Rule::Limit);
    fault
}

#[test]
fn what_is_within_the_limits_is_read_on_the_smallest_stack() {
    for (name, condition) in at_the_limits(0) {
        let text = forbid(&condition);
        assert_eq!(measured(&text, Bounds::ORG).err(), None, "{name}");
        let read = on_a_stack_of(SMALL, || loaded("orgs/acme/deep.cedar", &text).map(|_| ()));
        let said = read.err().map(|e| e.to_string()).unwrap_or_default();
        assert!(!said.contains("nests deeper") && !said.contains("operators"), "{name}: {said}");
    }
}

#[test]
fn what_is_beyond_the_limits_is_one_fault_at_its_place() {
    for (name, condition) in at_the_limits(0) {
        // The same with one level or one operator more.
        let more = format!("({condition}) && true");
        let deeper = measured(&forbid(&more), Bounds::ORG).is_err() || name == "and" || name == "or";
        let chained = name.starts_with("attributes") || ["calls", "has", "a long name", "if in if"].contains(&name);
        assert!(deeper || chained, "{name} is not at its limit");
    }
    for (name, bad, says) in [
        ("sets", format!("{} == 1", nested("[", "1", "]", 2_000)), "nests deeper than 64 levels"),
        ("brackets", nested("(", "true", ")", 3_000), "nests deeper than 64 levels"),
        ("records", format!("{} == 1", nested("{a: ", "1", "}", 2_000)), "nests deeper than 64 levels"),
        ("if", format!("{}true", "if true then false else ".repeat(900)), "nests deeper than 64 levels"),
        ("and", chain("true", " && ", 2_000), "more than 1000 operators"),
        ("or", chain("true", " || ", 2_000), "more than 1000 operators"),
        ("sum", format!("{} == 1", chain("1", "+", 20_000)), "more than 1000 operators"),
        ("not", format!("{}true", "!".repeat(2_000)), "more than 1000 operators"),
        ("minus", format!("{}1 == 1", "-".repeat(2_000)), "more than 1000 operators"),
        ("attributes", format!("context{} == 1", ".a".repeat(2_000)), "more than 64 attributes, calls or names in a row"),
        ("attributes in brackets", format!("context{}", "[\"a\"]".repeat(2_000)), "more than 64 attributes"),
        ("calls", format!("context{}", ".contains(1)".repeat(2_000)), "more than 64 attributes"),
        ("has", format!("context has a{}", ".a".repeat(2_000)), "more than 64 attributes"),
        ("names", format!("resource is A{}", "::A".repeat(10_000)), "more than 64 attributes"),
        ("conditions", format!("true }} {}", "when{true}".repeat(2_000)), "more than 1000 operators"),
        ("half a policy", "(".repeat(60_000), "nests deeper than 64 levels"),
    ] {
        let error = on_a_stack_of(SMALL, || loaded("orgs/acme/deep.cedar", &forbid(&bad))).unwrap_err();
        let fault = one_fault(&error);
        assert!(fault.message.contains(says) && fault.message.ends_with("make several policies of it"), "{name}: {}", fault.message);
        assert!(fault.file.ends_with("orgs/acme/deep.cedar"), "{name}: {}", fault.file);
        assert!((fault.line, fault.length) >= (5, 1) && fault.column > 8, "{name}: {}:{}", fault.line, fault.column);
    }
    let bad = "\n\n  permit (principal, action, resource) when { ";
    let excess = measured(&format!("{bad}{}", "(".repeat(64)), Bounds::ORG).unwrap_err();
    assert_eq!(excess.range, bad.len() + 63..bad.len() + 64, "the first bracket that is one too many");
}

#[test]
fn a_file_of_an_org_has_its_own_size() {
    let fill = |bytes: usize| {
        let text = forbid("context.fromBot");
        format!("{text}{}", "/".repeat(bytes - text.len()))
    };
    loaded("orgs/acme/deep.cedar", &fill(ORG.file_bytes)).unwrap();
    let error = loaded("orgs/acme/deep.cedar", &fill(ORG.file_bytes + 1)).unwrap_err();
    assert_eq!(one_fault(&error).message, "the file is larger than 65536 bytes: make several files of it");
    let error = loaded("platform/99-deep.cedar", &fill(ORG.file_bytes + 1)).unwrap_err();
    let advice = "make several files of it, or allow more with policies.platform_limits.file_bytes";
    assert_eq!(one_fault(&error).message, format!("the file is larger than 65536 bytes: {advice}"));
}

#[test]
fn the_platforms_limits_can_be_raised_and_an_orgs_cannot() {
    let raised = PolicyTextLimits { nesting: 65, operators: 1_001, file_bytes: 65_537 };
    let deep = |extra: usize| forbid(&nested("(", "context.fromBot", ")", ORG.nesting - AROUND.0 + extra));
    let long = |extra: usize| forbid(&chain("true", "&&", ORG.operators - AROUND.1 + extra));
    let large = |extra: usize| format!("{}{}", forbid("true"), "/".repeat(ORG.file_bytes - forbid("true").len() + extra));
    let read = |path: &str, text: &str, limits: &PolicyTextLimits| {
        let disk = Disk::starter();
        disk.write(path, text);
        let read = Snapshot::load_within(disk.path(), SCHEMA_FILE.as_ref(), limits, Default::default());
        let laid = format::folder(disk.path(), limits);
        let tidy = laid.is_ok_and(|laid| laid.iter().all(|file| file.new.as_ref().err().is_none_or(|f| f[0].rule != Rule::Limit)));
        let fits = read.err().is_none_or(|error| error.code != ReasonCode::PolicyTooComplex);
        assert_eq!(tidy, fits, "laying out has the same limits");
        fits
    };
    for text in [&deep as &dyn Fn(usize) -> String, &long, &large] {
        assert!(read("orgs/acme/a.cedar", &text(0), &raised));
        assert!(!read("orgs/acme/a.cedar", &text(1), &raised), "an org's limits are fixed");
        assert!(!read("platform/99-a.cedar", &text(1), &PolicyTextLimits::default()));
        assert!(read("platform/99-a.cedar", &text(1), &raised));
        assert!(!read("platform/99-a.cedar", &text(2), &raised));
    }
    assert_eq!(PolicyTextLimits::default(), ORG);
}

/// Cedar's validator finds nothing where the stack ends too early, so the deepest part of the longest policy is wrong here.
#[test]
fn what_does_not_fit_the_schema_is_found_at_any_depth() {
    for (limits, path) in [(ORG, "orgs/acme/deep.cedar"), (PolicyTextLimits::MOST, "platform/99-deep.cedar")] {
        let operators = limits.operators - AROUND.1;
        for (name, condition) in [
            ("and", format!("context.nowhere && {}", chain("true", " && ", operators - 2))),
            ("or", format!("context.nowhere || {}", chain("false", " || ", operators - 2))),
            ("sum", format!("context.nowhere + {} == 1", chain("1", " + ", operators - 3))),
            ("product", format!("context.nowhere * {} == 1", chain("1", " * ", operators - 3))),
            ("conditions", format!("context.nowhere {}", "} when { true".repeat(operators - 2))),
            ("brackets", nested("!(", "context.nowhere", ")", limits.nesting - AROUND.0)),
            ("sets", format!("{} == [context]", nested("[", "context.nowhere", "]", limits.nesting - AROUND.0))),
            ("if", format!("{}context.nowhere", "if context.fromBot then false else ".repeat(limits.nesting - AROUND.0))),
        ] {
            let text = forbid(&condition);
            assert_eq!(measured(&text, Bounds::platform(limits)).err(), None, "{name}");
            let error = on_a_stack_of(SMALL, || {
                let disk = Disk::starter();
                disk.write(path, &named(path, &text));
                let schema = SCHEMA_FILE.as_ref();
                Snapshot::load_within(disk.path(), schema, &limits, Default::default()).expect_err(name)
            });
            assert!(error.to_string().contains("nowhere"), "{name}: {error}");
        }
    }
}

#[test]
fn the_longest_policies_are_evaluated_shown_and_compared_on_a_small_stack() {
    let operators = ORG.operators - AROUND.1;
    for (name, condition) in [
        ("and", format!("context.fromBot && {}", chain("context.fromBot", " && ", (operators - 2) / 2 - 1))),
        ("or", chain("context.fromBot", " || ", (operators - 1) / 2)),
        ("conditions", format!("context.fromBot {}", "} when { context.fromBot".repeat((operators - 1) / 2))),
        ("brackets", nested("!(!(", "context.fromBot", "))", (ORG.nesting - AROUND.0) / 2)),
    ] {
        let text = forbid(&condition);
        on_a_stack_of(SMALL, || {
            let before = loaded("orgs/acme/other.cedar", &forbid("context.fromBot")).unwrap();
            let law = loaded("orgs/acme/deep.cedar", &text).unwrap_or_else(|e| panic!("{name}: {e}"));
            // The policy does not apply, which only the whole of it says.
            let decision = Arc::clone(law.decide(route(installation("acme", "acme"), agent("acme"))).expect(name).decision());
            let case = Case::recorded(decision.action, &decision.principal, &decision.resource, &decision.facts).unwrap();
            let explained = law.explain(&case).unwrap();
            assert_eq!(explained.errors, Vec::<String>::new(), "{name}");
            assert!(explained.policies.iter().any(|policy| policy.id == "org.acme.deep"), "{name}");
            assert_eq!(diff::text(&before, &law).len(), 1, "{name}");
            let disk = Disk::empty();
            disk.write("orgs/acme/deep.cedar", &text);
            let laid = format::folder(disk.path(), &PolicyTextLimits::default()).unwrap();
            assert!(laid[0].new.is_ok(), "{name}: {:?}", laid[0].new);
        });
    }
}

#[test]
fn tokens_are_cut_as_cedar_cuts_them() {
    let levels = |text: &str| measured(text, Bounds::platform(PolicyTextLimits { nesting: 3, operators: 2, file_bytes: 0 })).ok();
    // Text in quotes and comments is neither deep nor long, whatever ends them.
    assert_eq!(levels(r#""((((((&&&&" "\"((((" "\\" // ((((("#), Some(0));
    assert_eq!(levels("\"\n((((\""), Some(0));
    assert_eq!(levels("// x\r((((\n"), None, "a carriage return ends a comment");
    assert_eq!(levels("// x\u{2028}((((\n"), Some(0));
    assert_eq!(levels(r#""\\" (((("#), None, "the backslash is escaped, not the quote");
    // A text that does not end is no Cedar.
    assert_eq!(levels("\"(((("), Some(0));
    assert_eq!(levels("a && b && c"), Some(2));
    assert_eq!(levels("a && b && c && d"), None);
    assert_eq!(levels("a && b && c; a && b && c"), Some(2), "a policy ends with its semicolon");
    assert_eq!(levels("((( ; ((("), Some(3), "wherever it stands");
    assert_eq!(levels("((()))((())),[{()}]"), Some(3));
    assert_eq!(levels("))))(((("), None, "brackets that were never open close nothing");
    assert_eq!(levels("[if a, if b]"), Some(4), "a comma ends an `if`");
    assert_eq!(levels("a::b::c::d"), Some(0));
    assert_eq!(levels("a::b::c::d::e"), None);
    assert_eq!(levels("f(a.b).c"), Some(3), "what stands in brackets can be below what follows them");
    assert_eq!(levels("ifs whens inn"), Some(0), "names that begin like words of Cedar");
    assert_eq!(levels("when { a } unless { b } when { c }"), None);
}

proptest! {
    /// Random texts of Cedar's tokens: measuring never panics, and what it lets through does not overflow Cedar on the stack
    /// that it is given.
    #[test]
    fn whatever_is_let_through_can_be_read(parts in proptest::collection::vec(proptest::sample::select(PARTS), 0..400)) {
        let text = parts.concat();
        if measured(&text, Bounds::ORG).is_ok() {
            on_a_stack_of(SMALL, || with_room(&ORG, || drop(text.parse::<cedar_policy::PolicySet>())));
        }
    }

    #[test]
    fn measuring_never_panics(text in ".{0,400}") {
        let _ = measured(&text, Bounds::ORG);
    }
}

const PARTS: &[&str] = &[
    "permit",
    "(",
    "(",
    "(",
    ")",
    "principal",
    ",",
    "action",
    "resource",
    ")",
    "when",
    "{",
    "{",
    "}",
    ";",
    "if ",
    " then ",
    " else ",
    "[",
    "[",
    "]",
    "!",
    "-",
    ".a",
    "::B",
    "\"x\"",
    "\"",
    "\\",
    "//",
    "\n",
    "\r",
    " && ",
    " || ",
    " == ",
    " in ",
    " is ",
    " has ",
    " like ",
    "@id",
    "1",
    "true",
];
