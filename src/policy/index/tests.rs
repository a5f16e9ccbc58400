//! The index against the whole set: each place by itself, then whatever chance makes up. Floor 5.

use std::collections::{BTreeSet, HashSet};
use std::sync::LazyLock;

use cedar_policy::{Context, Entity, RestrictedExpression as Value};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};
use proptest::test_runner::{Config, TestRunner};

use super::*;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::from_cedarschema_str(crate::policy::SCHEMA).unwrap().0);
static ACTIONS: LazyLock<Entities> = LazyLock::new(|| SCHEMA.action_entities().unwrap());

const ROUTE: [&str; 3] = [r#"ByoaInstallation::"i""#, "RouteMessage", r#"OrgAgent::"a""#];
const SEND: [&str; 3] = [r#"OrgAgent::"a""#, "SendMessage", r#"ByoaInstallation::"i""#];
const VIEW: [&str; 3] = [r#"Operator::"ann""#, "ViewResources", r#"Gateway::"byoa""#];

fn uid(text: &str) -> EntityUid {
    format!("Byoa::{text}").parse().unwrap()
}

fn policies<'p>(texts: impl IntoIterator<Item = (&'p str, &'p str)>) -> PolicySet {
    let parsed = texts.into_iter().map(|(id, text)| Policy::parse(Some(PolicyId::new(id)), text).unwrap_or_else(|e| panic!("{text}: {e}")));
    PolicySet::from_policies(parsed).unwrap()
}

fn index(policies: &PolicySet) -> Index {
    Index::new(policies, &SCHEMA).unwrap()
}

fn request([principal, action, resource]: [&str; 3], from_bot: bool) -> Request {
    let word = |text| Value::new_entity_uid(uid(text));
    let context = match action {
        "RouteMessage" => vec![
            ("eventType", word(r#"EventType::"message.received""#)),
            ("fromBot", Value::new_bool(from_bot)),
            ("freshness", word(r#"Freshness::"fresh""#)),
        ],
        "SendMessage" => {
            vec![("conversation", Value::new_string("C1".into())), ("bound", Value::new_bool(true)), ("reply", Value::new_bool(from_bot))]
        }
        "EnterRollout" => vec![("provider", word(r#"Provider::"slack""#)), ("bucket", Value::new_long(7))],
        "ConnectInstallation" => vec![("provider", word(r#"Provider::"slack""#))],
        _ => vec![],
    };
    let context = Context::from_pairs(context.into_iter().map(|(key, value)| (key.to_owned(), value))).unwrap();
    let action = uid(&format!("Action::\"{action}\""));
    Request::new(uid(principal), action, uid(resource), context, Some(&SCHEMA)).unwrap_or_else(|e| panic!("{e}"))
}

fn entity(name: &str, parents: &[&str]) -> Entity {
    let attributes = if name.starts_with("Org::") {
        ("suspended", Value::new_bool(false))
    } else {
        ("org", Value::new_entity_uid(uid(r#"Org::"acme""#)))
    };
    let attributes = iter::once((attributes.0.to_owned(), attributes.1)).collect();
    Entity::new(uid(name), attributes, parents.iter().map(|parent| uid(parent)).collect::<HashSet<_>>()).unwrap()
}

fn slice<'e>(of: impl IntoIterator<Item = (&'e str, &'e [&'e str])>) -> Entities {
    ACTIONS.clone().add_entities(of.into_iter().map(|(name, parents)| entity(name, parents)), None).unwrap()
}

/// Installation and agent in acme, which stands in globex as no org does: two steps up.
fn family() -> Entities {
    slice([
        (r#"ByoaInstallation::"i""#, [r#"Org::"acme""#].as_slice()),
        (r#"OrgAgent::"a""#, &[r#"Org::"acme""#]),
        (r#"Org::"acme""#, &[r#"Org::"globex""#]),
        (r#"Org::"globex""#, &[]),
        (r#"Operator::"ann""#, &[r#"Role::"viewer""#]),
    ])
}

/// Cedar's own words, read without the code under test.
fn cedar(policies: &PolicySet, request: &Request, entities: &Entities) -> Answer {
    let response = Authorizer::new().is_authorized(request, policies, entities);
    let errors =
        response.diagnostics().errors().map(|AuthorizationError::PolicyEvaluationError(e)| (e.policy_id().clone(), e.inner().to_string()));
    Answer {
        allowed: response.decision() == Decision::Allow,
        reasons: response.diagnostics().reason().cloned().collect::<BTreeSet<_>>().into_iter().collect(),
        errors: errors.collect::<BTreeSet<_>>().into_iter().collect(),
    }
}

fn agreed(policies: &PolicySet, index: &Index, request: &Request, entities: &Entities) -> Answer {
    let answer = cedar(policies, request, entities);
    assert_eq!(index.authorize(request, entities), answer, "{request}\n{policies}");
    assert_eq!(Index::authorize_unindexed(policies, request, entities), answer);
    answer
}

fn said(texts: &[(&str, &str)], triple: [&str; 3], entities: &Entities) -> String {
    let set = policies(texts.iter().copied());
    let Answer { allowed, reasons, errors } = agreed(&set, &index(&set), &request(triple, true), entities);
    let names = |ids: Vec<PolicyId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let errors = names(errors.into_iter().map(|(id, _)| id).collect());
    format!("{} [{}] errors [{errors}]", if allowed { "yes" } else { "no" }, names(reasons))
}

/// Which of the policies a request is held against, in how many sets.
fn asked(texts: &[(&str, &str)], triple: [&str; 3], entities: &Entities) -> String {
    let set = policies(texts.iter().copied());
    let (index, request) = (index(&set), request(triple, true));
    agreed(&set, &index, &request, entities);
    let sets: Vec<_> = index.concerned(&request, entities).unwrap().collect();
    let mut ids: Vec<_> = sets.iter().flat_map(|set| set.policies()).map(|policy| policy.id().to_string()).collect();
    ids.sort_unstable();
    format!("{} in {}", ids.join(" "), sets.len())
}

#[test]
fn an_entity_without_data_is_in_itself() {
    let texts = [
        ("p", r#"permit (principal in Byoa::ByoaInstallation::"i", action, resource);"#),
        ("q", r#"permit (principal, action, resource in Byoa::OrgAgent::"a");"#),
        ("r", r#"permit (principal is Byoa::ByoaInstallation in Byoa::ByoaInstallation::"i", action, resource);"#),
    ];
    assert_eq!(said(&texts, ROUTE, &ACTIONS), "yes [p q r] errors []");
    assert_eq!(said(&texts, ROUTE, &family()), "yes [p q r] errors []");
    assert_eq!(said(&texts, SEND, &family()), "no [] errors []");
}

#[test]
fn ancestors_of_principal_and_resource_count_however_far() {
    let near = [
        ("p", r#"permit (principal in Byoa::Org::"acme", action, resource);"#),
        ("q", r#"permit (principal is Byoa::ByoaInstallation in Byoa::Org::"acme", action, resource);"#),
        ("r", r#"permit (principal, action, resource in Byoa::Org::"acme");"#),
        ("s", r#"permit (principal, action, resource is Byoa::OrgAgent in Byoa::Org::"acme");"#),
    ];
    assert_eq!(said(&near, ROUTE, &family()), "yes [p q r s] errors []");
    assert_eq!(said(&near, SEND, &family()), "yes [p r] errors []");
    assert_eq!(said(&near, ROUTE, &ACTIONS), "no [] errors []");
    let only = |name| slice([(name, [r#"Org::"acme""#].as_slice())]);
    assert_eq!(said(&near, ROUTE, &only(r#"ByoaInstallation::"i""#)), "yes [p q] errors []");
    assert_eq!(said(&near, ROUTE, &only(r#"OrgAgent::"a""#)), "yes [r s] errors []");
    let far = near.map(|(id, text)| (id, text.replace("acme", "globex")));
    let far = far.each_ref().map(|(id, text)| (*id, text.as_str()));
    assert_eq!(said(&far, ROUTE, &family()), "yes [p q r s] errors []");
}

#[test]
fn what_both_are_in_is_asked_once() {
    let texts = [("p", r#"permit (principal in Byoa::Org::"acme", action, resource in Byoa::Org::"acme");"#)];
    assert_eq!(asked(&texts, ROUTE, &family()), "p in 1");
    // The resource is in the principal, with and without data of that.
    let mixed = [("p", r#"permit (principal == Byoa::ByoaInstallation::"i", action, resource);"#)];
    let child = (ROUTE[2], [ROUTE[0]].as_slice());
    assert_eq!(asked(&mixed, ROUTE, &slice([child])), "p in 1");
    assert_eq!(asked(&mixed, ROUTE, &slice([child, (ROUTE[0], &[])])), "p in 1");
}

#[test]
fn a_policy_stands_under_the_narrowest_name() {
    let texts = [
        ("p-eq", r#"permit (principal == Byoa::ByoaInstallation::"i", action, resource == Byoa::OrgAgent::"other");"#),
        ("p-eq-in", r#"permit (principal == Byoa::ByoaInstallation::"i", action, resource in Byoa::Org::"other");"#),
        ("r-eq", r#"permit (principal in Byoa::Org::"other", action, resource == Byoa::OrgAgent::"a");"#),
        ("r-eq-is", r#"permit (principal is Byoa::PlatformInstallation, action, resource == Byoa::OrgAgent::"a");"#),
        ("p-in", r#"permit (principal in Byoa::Org::"acme", action, resource in Byoa::Org::"other");"#),
        ("r-in", r#"permit (principal, action, resource in Byoa::Org::"acme");"#),
        // Not met: another name is narrower.
        ("x-p-eq", r#"permit (principal == Byoa::ByoaInstallation::"other", action, resource == Byoa::OrgAgent::"a");"#),
        ("x-r-eq", r#"permit (principal in Byoa::Org::"acme", action, resource == Byoa::OrgAgent::"other");"#),
        ("x-p-in", r#"permit (principal in Byoa::Org::"other", action, resource in Byoa::Org::"acme");"#),
        ("x-p-is-in", r#"permit (principal is Byoa::ByoaInstallation in Byoa::Org::"other", action, resource in Byoa::Org::"acme");"#),
        ("x-r-in", r#"permit (principal, action, resource in Byoa::Org::"other");"#),
        ("x-r-is-in", r#"permit (principal is Byoa::ByoaInstallation, action, resource is Byoa::OrgAgent in Byoa::Org::"other");"#),
    ];
    assert_eq!(asked(&texts, ROUTE, &family()), "p-eq p-eq-in p-in r-eq r-eq-is r-in in 3");
}

#[test]
fn a_policy_without_names_stands_where_its_types_and_actions_fit() {
    let texts = [
        ("a-any", "permit (principal, action, resource);"),
        ("a-eq", r#"permit (principal, action == Byoa::Action::"RouteMessage", resource);"#),
        ("a-group", r#"permit (principal, action in Byoa::Action::"Deliver", resource);"#),
        ("a-in-one", r#"permit (principal, action in Byoa::Action::"RouteMessage", resource);"#),
        ("a-list", r#"permit (principal, action in [Byoa::Action::"View", Byoa::Action::"RouteMessage"], resource);"#),
        ("p-is", "permit (principal is Byoa::ByoaInstallation, action, resource);"),
        ("r-is", "permit (principal, action, resource is Byoa::OrgAgent);"),
        ("x-a-eq", r#"permit (principal, action == Byoa::Action::"Deliver", resource);"#),
        ("x-a-group", r#"permit (principal, action in Byoa::Action::"Operate", resource);"#),
        ("x-p-is", "permit (principal is Byoa::PlatformInstallation, action, resource);"),
        ("x-r-is", "permit (principal, action, resource is Byoa::PlatformAgent);"),
    ];
    assert_eq!(asked(&texts, ROUTE, &family()), "a-any a-eq a-group a-in-one a-list p-is r-is in 1");
    assert_eq!(said(&texts, ROUTE, &family()), "yes [a-any a-eq a-group a-in-one a-list p-is r-is] errors []");
    // `View` is in `Operate`.
    assert_eq!(asked(&texts, VIEW, &family()), "a-any a-list x-a-group in 1");
    assert_eq!(said(&texts, VIEW, &family()), "yes [a-any a-list x-a-group] errors []");
}

#[test]
fn many_under_one_name_are_kept_apart_by_action() {
    let fill: Vec<_> = (0..=TOGETHER_MAX - 5).map(|n| (format!("x-{n}"), "SendMessage")).collect();
    let all = ["any", "group"].map(|id| (id.to_owned(), id)).into_iter().chain(["eq", "eq-too"].map(|id| (id.to_owned(), "RouteMessage")));
    let texts: Vec<_> = all
        .chain(fill)
        .map(|(id, about)| {
            let action = match about {
                "any" => "action".to_owned(),
                "group" => r#"action in Byoa::Action::"Deliver""#.to_owned(),
                _ => format!("action == Byoa::Action::\"{about}\""),
            };
            (id, format!("permit (principal in Byoa::Org::\"acme\", {action}, resource);"))
        })
        .collect();
    let texts: Vec<_> = texts.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
    assert_eq!(texts.len(), TOGETHER_MAX);
    assert_eq!(asked(&texts, ROUTE, &family()), "any eq eq-too group x-0 x-1 x-2 x-3 in 1");
    let one_more = [texts.as_slice(), &[("one-more", r#"permit (principal == Byoa::Org::"acme", action, resource);"#)]].concat();
    assert_eq!(asked(&one_more, ROUTE, &family()), "any eq eq-too group one-more in 2");
    assert_eq!(said(&one_more, ROUTE, &family()), "yes [any eq eq-too group] errors []");
    assert_eq!(asked(&one_more, SEND, &family()), "any group one-more x-0 x-1 x-2 x-3 in 2");
}

#[test]
fn a_forbid_in_one_place_beats_a_permit_in_another() {
    let permits =
        [("a", "permit (principal, action, resource);"), ("b", r#"permit (principal == Byoa::ByoaInstallation::"i", action, resource);"#)];
    assert_eq!(said(&permits, ROUTE, &family()), "yes [a b] errors []");
    let named = ("f", r#"forbid (principal in Byoa::Org::"acme", action, resource);"#);
    let open = ("e", r#"forbid (principal, action in Byoa::Action::"Deliver", resource);"#);
    let silent = ("g", r#"forbid (principal, action, resource in Byoa::Org::"acme") when { !context.fromBot };"#);
    assert_eq!(said(&[permits[0], named], ROUTE, &family()), "no [f] errors []");
    assert_eq!(said(&[permits[1], open], ROUTE, &family()), "no [e] errors []");
    assert_eq!(said(&[permits[0], permits[1], named, open], ROUTE, &family()), "no [e f] errors []");
    assert_eq!(said(&[permits[0], silent], ROUTE, &family()), "yes [a] errors []");
}

#[test]
fn errors_of_all_places_are_told_whatever_the_answer() {
    let texts = [
        ("d", r#"forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };"#),
        ("a", r#"forbid (principal in Byoa::Org::"acme", action, resource) when { Byoa::Org::"absent".suspended };"#),
        ("c", r#"permit (principal, action, resource == Byoa::OrgAgent::"a") when { 9223372036854775807 * 2 > 0 };"#),
        ("b", r#"permit (principal == Byoa::ByoaInstallation::"i", action, resource);"#),
    ];
    assert_eq!(said(&texts, ROUTE, &family()), "yes [b] errors [a c d]");
    assert_eq!(said(&texts[..3], ROUTE, &family()), "no [] errors [a c d]");
    // Where the scope does not hold, nothing is read.
    assert_eq!(said(&texts, SEND, &ACTIONS), "no [] errors [d]");
}

#[test]
fn what_the_schema_does_not_know_is_denied() {
    let set =
        policies([("p", "permit (principal, action, resource);"), ("q", r#"permit (principal in Byoa::Org::"acme", action, resource);"#)]);
    let [principal, _, resource] = ROUTE;
    let stray = Request::new(uid(principal), uid(r#"Action::"Fly""#), uid(resource), Context::empty(), None).unwrap();
    assert!(cedar(&set, &stray, &family()).allowed);
    assert_eq!(index(&set).authorize(&stray, &family()), Answer::default());
    assert!(index(&set).authorize(&request(ROUTE, false), &family()).allowed);
}

#[test]
fn only_static_policies_are_placed() {
    let mut set: PolicySet = "permit (principal == ?principal, action, resource);".parse().unwrap();
    let slots = HashMap::from([(cedar_policy::SlotId::principal(), uid(r#"ByoaInstallation::"i""#))]);
    set.link(PolicyId::new("policy0"), PolicyId::new("linked"), slots).unwrap();
    assert!(Index::new(&set, &SCHEMA).is_err());
}

#[test]
fn other_orgs_cost_nothing() {
    let texts = |orgs: u32| {
        let of = |org: u32| {
            [
                (format!("p{org}"), format!("forbid (principal in Byoa::Org::\"{org}\", action, resource);")),
                (format!("r{org}"), format!("forbid (principal, action, resource is Byoa::OrgAgent in Byoa::Org::\"{org}\");")),
            ]
        };
        (0..orgs).flat_map(of).collect::<Vec<_>>()
    };
    let entities = slice([(ROUTE[0], [r#"Org::"7""#].as_slice()), (ROUTE[2], &[r#"Org::"7""#])]);
    for orgs in [8, 100] {
        let texts = texts(orgs);
        let texts: Vec<_> = texts.iter().map(|(id, text)| (id.as_str(), text.as_str())).collect();
        assert_eq!(asked(&texts, ROUTE, &entities), "p7 r7 in 1");
    }
}

const NAMES: [&str; 12] = [
    r#"ByoaInstallation::"i""#,
    r#"ByoaInstallation::"j""#,
    r#"PlatformInstallation::"i""#,
    r#"OrgAgent::"a""#,
    r#"PlatformAgent::"a""#,
    r#"ByoaCredential::"c""#,
    r#"Org::"acme""#,
    r#"Org::"globex""#,
    r#"Operator::"ann""#,
    r#"Flag::"slack""#,
    r#"Gateway::"byoa""#,
    r#"Role::"viewer""#,
];
/// With groups, and one that does not exist.
const ACTS: [&str; 12] = [
    "RouteMessage",
    "SendMessage",
    "UseCredential",
    "EnterRollout",
    "ViewResources",
    "ApplyResources",
    "ConnectInstallation",
    "Deliver",
    "Operate",
    "View",
    "Change",
    "Fly",
];
const TRIPLES: [[&str; 3]; 12] = [
    ROUTE,
    [r#"ByoaInstallation::"j""#, "RouteMessage", r#"OrgAgent::"a""#],
    [r#"PlatformInstallation::"i""#, "RouteMessage", r#"OrgAgent::"a""#],
    [r#"PlatformInstallation::"i""#, "RouteMessage", r#"PlatformAgent::"a""#],
    SEND,
    [r#"PlatformAgent::"a""#, "SendMessage", r#"PlatformInstallation::"i""#],
    [r#"ByoaInstallation::"i""#, "UseCredential", r#"ByoaCredential::"c""#],
    [r#"Org::"acme""#, "EnterRollout", r#"Flag::"slack""#],
    VIEW,
    [r#"Operator::"ann""#, "ApplyResources", r#"Gateway::"byoa""#],
    [r#"Operator::"ann""#, "ConnectInstallation", r#"Org::"acme""#],
    [r#"Operator::"ann""#, "ConnectInstallation", r#"Org::"globex""#],
];
const CONDITIONS: [&str; 9] = [
    "",
    "when { true }",
    "when { false }",
    "unless { context has fromBot && context.fromBot }",
    "when { context has reply && context.reply }",
    "when { if context has fromBot then context.fromBot && 9223372036854775807 + 1 > 0 else true }",
    "when { Byoa::Org::\"acme\".suspended == false }",
    "when { principal has org && !principal.org.suspended }",
    "when { resource.org == Byoa::Org::\"acme\" }",
];

fn scope(who: &'static str) -> impl Strategy<Value = String> {
    (0..9, select(&NAMES), select(&NAMES)).prop_map(move |(form, name, other)| {
        let kind = other.split_once("::").unwrap().0;
        match form {
            0..3 => who.to_owned(),
            3 => format!("{who} == Byoa::{name}"),
            4 => format!("{who} in Byoa::{name}"),
            // So many that they are kept apart by action.
            5 => format!("{who} in Byoa::Org::\"acme\""),
            6 => format!("{who} is Byoa::{kind}"),
            _ => format!("{who} is Byoa::{kind} in Byoa::{name}"),
        }
    })
}

fn policy() -> impl Strategy<Value = String> {
    let actions = (0..5, select(&ACTS), select(&ACTS)).prop_map(|(form, one, two)| match form {
        0 | 1 => "action".to_owned(),
        2 => format!("action == Byoa::Action::\"{one}\""),
        3 => format!("action in Byoa::Action::\"{one}\""),
        _ => format!("action in [Byoa::Action::\"{one}\", Byoa::Action::\"{two}\"]"),
    });
    (select(&["permit", "permit", "forbid"]), scope("principal"), actions, scope("resource"), select(&CONDITIONS))
        .prop_map(|(effect, principal, action, resource, condition)| format!("{effect} ({principal}, {action}, {resource}) {condition};"))
}

/// Any of the entities may be absent, and any of the ties.
fn entities() -> impl Strategy<Value = Entities> {
    (any::<[u8; NAMES.len()]>()).prop_map(|bits| {
        let present =
            NAMES.into_iter().zip(bits).filter(|(name, bits)| bits & 3 > 0 && !name.starts_with("Role") && !name.starts_with("Gateway"));
        let present = present.map(|(name, bits)| {
            let parents: &[&str] = match (name, bits >> 2 & 3) {
                (r#"Org::"globex""#, _) | (_, 0) => &[],
                (r#"Operator::"ann""#, _) => &[r#"Role::"viewer""#],
                (r#"Org::"acme""#, _) | (_, 1) => &[r#"Org::"globex""#],
                (_, 2) => &[r#"Org::"acme""#],
                _ => &[r#"Org::"acme""#, r#"Org::"globex""#],
            };
            (name, parents)
        });
        slice(present.collect::<Vec<_>>())
    })
}

#[test]
fn the_index_says_what_the_whole_set_says() {
    let seen = std::cell::RefCell::new([0; 5]);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(64) });
    let case = (vec(policy(), 1..60), vec(entities(), 4), vec((select(&TRIPLES), any::<bool>(), any::<Pick>()), 20));
    let outcome = runner.run(&case, |(texts, slices, requests)| {
        let ids: Vec<_> = (0..texts.len()).map(|n| format!("p{n}")).collect();
        let set = policies(ids.iter().zip(&texts).map(|(id, text)| (id.as_str(), text.as_str())));
        let index = index(&set);
        for (triple, bot, pick) in requests {
            let (request, entities) = (request(triple, bot), pick.get(&slices));
            let whole = cedar(&set, &request, entities);
            prop_assert_eq!(&index.authorize(&request, entities), &whole, "{}", request);
            prop_assert_eq!(&Index::authorize_unindexed(&set, &request, entities), &whole);
            let kinds = [
                whole.allowed,
                !whole.allowed && !whole.reasons.is_empty(),
                !whole.allowed && whole.reasons.is_empty(),
                whole.reasons.len() > 1,
                !whole.errors.is_empty(),
            ];
            seen.borrow_mut().iter_mut().zip(kinds).for_each(|(seen, kind)| *seen += usize::from(kind));
        }
        Ok(())
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    // Yes, forbidden, not permitted, several reasons, errors: the cases are not all alike.
    assert!(seen.borrow().iter().all(|seen| *seen > 60), "{seen:?}");
}
