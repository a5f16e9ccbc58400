//! The starter law, asked: every pair of owner and org, every guard with and without itself, every trap of Cedar. Floor 5.

use std::collections::BTreeSet;
use std::path::Path;

use cedar_policy::{Entities, Policy, PolicyId, Request};
use proptest::prelude::*;

use super::action::UseLegacyRoute;
use super::action::sealed::Ask;
use super::entities::Slice;
use super::*;
use crate::domain::ids::{AgentId, InstallationId, OrgId};
use crate::domain::installation::{Ownership, ProviderKind};
use crate::domain::message::{ConversationKind, EventKind};
use crate::domain::reason::ReasonCode;
use crate::domain::rollout::{Flag, RollbackMode, RolloutStage};

pub const SCHEMA_FILE: &str = "schemas/gateway.cedarschema";

/// A policy directory of its own.
pub struct Disk(tempfile::TempDir);

impl Disk {
    pub fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn starter() -> Self {
        let disk = Self::empty();
        for entry in std::fs::read_dir("policies/platform").unwrap() {
            let path = entry.unwrap().path();
            let name = format!("platform/{}", path.file_name().unwrap().to_str().unwrap());
            disk.write(&name, &std::fs::read_to_string(&path).unwrap());
        }
        disk
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn write(&self, path: &str, text: &str) {
        self.write_bytes(path, text.as_bytes());
    }

    pub fn write_bytes(&self, path: &str, bytes: &[u8]) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub fn load(&self) -> Result<Snapshot, LoadError> {
        Snapshot::load(self.path(), SCHEMA_FILE.as_ref(), Timestamp::default())
    }
}

fn starter() -> Snapshot {
    Snapshot::load("policies".as_ref(), SCHEMA_FILE.as_ref(), Timestamp::default()).unwrap()
}

fn without(id: &str) -> Snapshot {
    let mut law = starter();
    let mut policies = law.law.policies.clone();
    policies.remove_static(PolicyId::new(id)).unwrap_or_else(|e| panic!("{id}: {e}"));
    law.law = Arc::new(law.law.with(policies).unwrap());
    law
}

fn with(policy: &str) -> Snapshot {
    let disk = Disk::starter();
    disk.write("platform/99-test.cedar", policy);
    disk.load().unwrap_or_else(|e| panic!("{e}"))
}

fn id(org: &str) -> OrgId {
    OrgId::parse(org).unwrap()
}

fn owner(text: &str) -> Ownership {
    if text == "platform" { Ownership::Platform } else { Ownership::Org(id(text)) }
}

fn org(name: &str) -> OrgFacts {
    OrgFacts { id: id(name), suspended: false, fallback_opt_in: BTreeSet::from([ProviderKind::Slack]) }
}

pub fn installation(owned_by: &str, for_org: &str) -> InstallationFacts {
    InstallationFacts {
        id: InstallationId::parse(&format!("{owned_by}-{for_org}")).unwrap(),
        provider: ProviderKind::Slack,
        owner: owner(owned_by),
        stranger: stranger(owned_by, for_org),
        active: true,
        org: org(for_org),
    }
}

fn stranger(owned_by: &str, for_org: &str) -> Option<OrgFacts> {
    (owned_by != "platform" && owned_by != for_org).then(|| org(owned_by))
}

pub fn agent(of: &str) -> AgentFacts {
    AgentFacts { id: AgentId::parse("concierge").unwrap(), org: (of != "platform").then(|| org(of)) }
}

fn credential(owned_by: &str, for_org: &str) -> CredentialFacts {
    CredentialFacts {
        id: "crd_1".into(),
        provider: ProviderKind::Slack,
        owner: owner(owned_by),
        stranger: stranger(owned_by, for_org),
        org: org(for_org),
        usable: true,
    }
}

pub fn route(installation: InstallationFacts, agent: AgentFacts) -> RouteMessage {
    RouteMessage {
        installation,
        agent,
        event_type: "message.received",
        conversation: Some("C1".into()),
        conversation_kind: Some("channel"),
        from_bot: false,
        freshness: Freshness::Fresh,
    }
}

fn send(agent: AgentFacts, installation: InstallationFacts) -> SendMessage {
    SendMessage { agent, installation, conversation: "C1".into(), bound: true, reply: false }
}

fn flag(stage: RolloutStage, canary: &[&str]) -> FlagFacts {
    let canary = canary.iter().map(|o| id(o)).collect();
    FlagFacts { provider: ProviderKind::Slack, flag: Flag { enabled: true, stage, canary, ..Flag::default() } }
}

fn fallback() -> UseFallback {
    UseFallback {
        from: installation("acme", "acme"),
        to: installation("platform", "acme"),
        own_credential_usable: false,
        binding_allows: true,
        flag: flag(RolloutStage::On, &[]),
        bucket: 50,
    }
}

fn operator(role: Role) -> OperatorFacts {
    OperatorFacts { id: "ann".into(), role, mfa: true }
}

/// `yes` or the code, then the policies that decided.
fn said<A: Action>(law: &Snapshot, ask: A) -> String {
    let (what, policies) = match law.decide(ask) {
        Ok(permit) => ("yes".to_owned(), permit.decision().policies.join(" ")),
        Err(denied) => {
            assert_eq!(denied.decision.code, Some(denied.refusal.code));
            assert_eq!(denied.refusal.policies, denied.decision.policies);
            assert_eq!(denied.refusal.version.as_ref(), Some(law.version()));
            (denied.refusal.code.to_string(), denied.refusal.policies.join(" "))
        }
    };
    format!("{what}: {policies}").trim_end_matches([' ', ':']).to_owned()
}

const OWNERS: [&str; 3] = ["platform", "acme", "globex"];
const ORGS: [&str; 2] = ["acme", "globex"];

#[test]
fn a_credential_serves_its_owner_and_org_only() {
    let (law, bare) = (starter(), without("cred-cross-owner"));
    let mut asked = 0;
    for (iowner, iorg, cowner, corg) in OWNERS
        .into_iter()
        .flat_map(|a| ORGS.into_iter().flat_map(move |b| OWNERS.into_iter().flat_map(move |c| ORGS.map(|d| (a, b, c, d)))))
    {
        let ask = UseCredential { installation: installation(iowner, iorg), credential: credential(cowner, corg) };
        let (got, unguarded) = (said(&law, ask.clone()), said(&bare, ask));
        asked += 1;
        let want = match (iowner == cowner && iorg == corg, iowner) {
            (true, "platform") => "yes: cred.platform",
            (true, own) if own == iorg => "yes: cred.byoa",
            _ => "credentials.cross_owner: cred-cross-owner",
        };
        assert_eq!(got, want, "{iowner}/{iorg} uses {cowner}/{corg}");
        // Nothing permits the cross-owner half; the forbid only says why.
        let want = if want.starts_with("yes") { want } else { "policy.no_permit" };
        assert_eq!(unguarded, want, "{iowner}/{iorg} uses {cowner}/{corg}, unguarded");
    }
    assert_eq!(asked, 36);
}

#[test]
fn a_credential_must_be_fit() {
    let law = starter();
    for kind in ["acme", "platform"] {
        let ask = UseCredential { installation: installation(kind, "acme"), credential: credential(kind, "acme") };
        let mut unusable = ask.clone();
        unusable.credential.usable = false;
        assert_eq!(said(&law, unusable), "policy.no_permit");
        let mut other = ask.clone();
        other.credential.provider = ProviderKind::Telegram;
        assert_eq!(said(&law, other), "policy.no_permit");
    }
}

#[test]
fn routing_and_sending_stay_within_the_org() {
    let law = starter();
    for (iowner, iorg, of) in OWNERS.into_iter().flat_map(|a| ORGS.into_iter().flat_map(move |b| OWNERS.map(|c| (a, b, c)))) {
        let heard = said(&law, route(installation(iowner, iorg), agent(of)));
        let spoken = said(&law, send(agent(of), installation(iowner, iorg)));
        let (route, send) = match (iowner, of) {
            ("platform", "platform") => ("yes: route.platform", "yes: send.platform"),
            ("platform", of) if of == iorg => ("yes: route.platform.org-agent", "yes: send.platform.org-agent"),
            (own, of) if own == iorg && of == iorg => ("yes: route.byoa", "yes: send.byoa"),
            _ => ("policy.no_permit", "policy.no_permit"),
        };
        assert_eq!((heard.as_str(), spoken.as_str()), (route, send), "{iowner}/{iorg} with agent of {of}");
    }
    let unbound = SendMessage { bound: false, ..send(agent("acme"), installation("acme", "acme")) };
    assert_eq!(said(&law, unbound), "policy.no_permit");
}

#[test]
fn fallback_needs_every_consent() {
    let law = starter();
    assert_eq!(said(&law, fallback()), "yes: fallback.opt-in");
    let change = |change: fn(&mut UseFallback)| {
        let mut ask = fallback();
        change(&mut ask);
        said(&law, ask)
    };
    assert_eq!(change(|a| a.flag = flag(RolloutStage::Canary, &["acme"])), "yes: fallback.opt-in");
    assert_eq!(change(|a| a.flag = flag(RolloutStage::Canary, &["globex"])), "policy.no_permit");
    assert_eq!(change(|a| a.flag = flag(RolloutStage::Off, &["acme"])), "policy.no_permit");
    assert_eq!(change(|a| a.flag.flag.enabled = false), "policy.no_permit");
    assert_eq!(change(|a| a.flag.provider = ProviderKind::Telegram), "policy.no_permit");
    assert_eq!(change(|a| a.own_credential_usable = true), "policy.no_permit");
    assert_eq!(change(|a| a.to = installation("platform", "globex")), "policy.no_permit");
    assert_eq!(change(|a| a.to.provider = ProviderKind::Telegram), "policy.no_permit");
    assert_eq!(change(|a| a.from = installation("globex", "acme")), "policy.no_permit");
    assert_eq!(change(|a| a.binding_allows = false), "credentials.platform_fallback_denied: fallback-needs-binding");
    let never = |a: &mut UseFallback| {
        a.from.org.fallback_opt_in.clear();
        a.to.org.fallback_opt_in.clear();
    };
    assert_eq!(change(never), "credentials.fallback_not_opted_in: fallback-needs-opt-in");
    // The source may be inactive, the target may not.
    assert_eq!(change(|a| a.from.active = false), "yes: fallback.opt-in");
    assert_eq!(change(|a| a.to.active = false), "installation.inactive: guard.inactive");
    // A platform app has nothing to fall back from, a tenant's app is nothing to fall back to.
    assert_eq!(change(|a| a.from = installation("platform", "acme")), "policy.not_applicable");
    assert_eq!(change(|a| a.to = installation("acme", "acme")), "policy.not_applicable");
}

#[test]
fn a_legacy_route_needs_the_switch_one_installation_and_a_way_in() {
    let law = starter();
    let ask = |change: fn(&mut UseLegacyRoute)| {
        let mut flag = flag(RolloutStage::On, &[]);
        flag.flag.legacy_fallback = true;
        let mut ask = UseLegacyRoute {
            installation: installation("acme", "acme"),
            agent: agent("acme"),
            flag,
            eligible: true,
            only_installation: true,
        };
        change(&mut ask);
        said(&law, ask)
    };
    assert_eq!(ask(|_| {}), "yes: legacy.route");
    assert_eq!(ask(|a| a.eligible = false), "yes: legacy.route", "rolling back means the legacy route");
    let identity = |a: &mut UseLegacyRoute| (a.eligible, a.flag.flag.rollback_mode) = (false, RollbackMode::InstallationIdentity);
    assert_eq!(ask(identity), "policy.no_permit");
    assert_eq!(ask(|a| a.flag.flag.legacy_fallback = false), "policy.no_permit");
    assert_eq!(ask(|a| a.only_installation = false), "policy.no_permit");
    assert_eq!(ask(|a| a.flag.provider = ProviderKind::Telegram), "policy.no_permit");
    assert_eq!(ask(|a| a.agent = agent("globex")), "policy.no_permit");
    assert_eq!(ask(|a| a.agent = agent("platform")), "policy.no_permit");
    assert_eq!(ask(|a| a.installation = installation("platform", "acme")), "policy.no_permit");
    assert_eq!(ask(|a| a.installation.active = false), "installation.inactive: guard.inactive");
}

#[test]
fn the_rollout_lets_in_by_stage() {
    let law = starter();
    let enter = |flag| said(&law, EnterRollout { org: org("acme"), provider: ProviderKind::Slack, flag, bucket: 50 });
    assert_eq!(enter(flag(RolloutStage::On, &[])), "yes: rollout.enter.on");
    assert_eq!(enter(flag(RolloutStage::Canary, &["acme", "globex"])), "yes: rollout.enter.canary");
    assert_eq!(enter(flag(RolloutStage::Canary, &["globex"])), "rollout.stage_off");
    assert_eq!(enter(flag(RolloutStage::Off, &["acme"])), "rollout.stage_off");
    let mut disabled = flag(RolloutStage::On, &[]);
    disabled.flag.enabled = false;
    assert_eq!(enter(disabled), "rollout.stage_off");
    let other = FlagFacts { provider: ProviderKind::Telegram, ..flag(RolloutStage::On, &[]) };
    assert_eq!(enter(other), "rollout.stage_off");
}

#[test]
fn operators_do_what_their_role_is_for() {
    let law = starter();
    let table: String = Role::ALL.into_iter().fold(String::new(), |table, role| {
        let operator = operator(role);
        let row = [
            ("view", law.decide(ViewResources { operator: operator.clone() }).is_ok()),
            ("audit", law.decide(ReadAudit { operator: operator.clone() }).is_ok()),
            ("apply", law.decide(ApplyResources { operator: operator.clone() }).is_ok()),
            ("replay", law.decide(ReplayDelivery { operator: operator.clone() }).is_ok()),
            ("simulate", law.decide(SimulateWebhook { operator }).is_ok()),
        ];
        let may: Vec<&str> = row.iter().filter(|(_, yes)| *yes).map(|(what, _)| *what).collect();
        format!("{table}{}: {}\n", role.as_str(), may.join(" "))
    });
    insta::assert_snapshot!(table, @r#"
    viewer: view audit
    operator: view audit apply replay simulate
    release-manager: view audit simulate
    security: view audit apply replay simulate
    "#);
}

#[test]
fn each_guard_is_what_refuses() {
    let mut suspended = installation("acme", "acme");
    suspended.org.suspended = true;
    let mut inactive = installation("platform", "acme");
    inactive.active = false;

    let law = starter();
    let mut its_agent = agent("acme");
    its_agent.org = Some(suspended.org.clone());
    let heard = route(suspended.clone(), its_agent.clone());
    let spoken = send(its_agent, suspended.clone());
    let mut its_credential = credential("acme", "acme");
    its_credential.org = suspended.org.clone();
    let used = UseCredential { installation: suspended.clone(), credential: its_credential };
    let mut moved = fallback();
    moved.from.org.suspended = true;
    moved.to.org.suspended = true;
    let no = "org.suspended: guard.suspended";
    assert_eq!(said(&law, heard.clone()), no);
    assert_eq!(said(&law, spoken.clone()), no);
    assert_eq!(said(&law, used.clone()), no);
    assert_eq!(said(&law, moved.clone()), no);
    let bare = without("guard.suspended");
    // Without it the policies permit, and the bounds of the gateway itself are what is left.
    assert_eq!(said(&bare, heard), "policy.outside_envelope: route.byoa");
    assert_eq!(said(&bare, spoken), "policy.outside_envelope: send.byoa");
    assert_eq!(said(&bare, used), "policy.outside_envelope: cred.byoa");
    assert_eq!(said(&bare, moved), "policy.outside_envelope: fallback.opt-in");

    let heard = route(inactive.clone(), agent("platform"));
    let spoken = send(agent("platform"), inactive.clone());
    let used = UseCredential { installation: inactive, credential: credential("platform", "acme") };
    let no = "installation.inactive: guard.inactive";
    assert_eq!([said(&law, heard.clone()), said(&law, spoken.clone()), said(&law, used.clone())], [no, no, no]);
    let bare = without("guard.inactive");
    let no = "policy.no_permit";
    assert_eq!([said(&bare, heard), said(&bare, spoken), said(&bare, used)], [no, no, no], "the permits ask for it as well");

    let mut never = fallback();
    never.from.org.fallback_opt_in.clear();
    never.to.org.fallback_opt_in.clear();
    assert_eq!(said(&without("fallback-needs-opt-in"), never), "policy.no_permit");
    let unbound = UseFallback { binding_allows: false, ..fallback() };
    assert_eq!(said(&without("fallback-needs-binding"), unbound), "policy.no_permit");
}

#[test]
fn of_several_forbids_the_first_code_answers_and_all_are_named() {
    let mut ask = fallback();
    for side in [&mut ask.from, &mut ask.to] {
        side.org.suspended = true;
        side.org.fallback_opt_in.clear();
    }
    ask.to.active = false;
    ask.binding_allows = false;
    let want = "org.suspended: fallback-needs-binding fallback-needs-opt-in guard.inactive guard.suspended";
    for _ in 0..5 {
        assert_eq!(said(&starter(), ask.clone()), want);
    }
}

#[test]
fn an_error_refuses_even_where_a_permit_matched() {
    let overflow = "@id(\"test.overflow\") @reason(\"r\") @code(\"policy.forbidden\")\n\
        forbid (principal, action == Byoa::Action::\"RouteMessage\", resource) when { 9223372036854775807 + 1 > 0 };";
    // No file like this passes the lints, so it is put in behind their back.
    let mut law = starter();
    let mut policies = law.law.policies.clone();
    policies.add(Policy::parse(Some(PolicyId::new("test.overflow")), overflow).unwrap()).unwrap();
    law.law = Arc::new(law.law.with(policies).unwrap());
    let denied = law.decide(route(installation("acme", "acme"), agent("acme"))).unwrap_err();
    assert_eq!(denied.refusal.code, ReasonCode::PolicyEvaluationError);
    assert_eq!((denied.decision.errors, denied.decision.allowed), (1, false));
    assert_eq!(*denied.decision.policies, ["test.overflow".to_owned()]);
}

#[test]
fn whatever_a_policy_can_reach_is_there() {
    // Every path of two steps from either side, also where owner, org and agent are three different orgs.
    let reach = |action: &str, path: &str, scope: &str| {
        format!(
            "@id(\"test.reach\") @reason(\"r\") @code(\"policy.forbidden\")\n\
            forbid (principal, action == Byoa::Action::\"{action}\", resource {scope}) when {{ {path}.suspended }};"
        )
    };
    let orgs = |path: &str| if path.starts_with("principal") { "" } else { "is Byoa::OrgAgent" };
    for path in ["principal.org", "resource.org"] {
        let law = with(&reach("RouteMessage", path, orgs(path)));
        for (owner, of) in [("acme", "acme"), ("acme", "globex"), ("platform", "globex")] {
            assert!(
                !said(&law, route(installation(owner, "acme"), agent(of))).starts_with("policy.evaluation_error"),
                "{path} {owner} {of}"
            );
        }
    }
    for path in ["resource.org", "resource.owner"] {
        let law = with(&reach("UseCredential", path, "is Byoa::ByoaCredential"));
        let ask = UseCredential { installation: installation("acme", "acme"), credential: credential("initech", "globex") };
        assert_eq!(said(&law, ask), "credentials.cross_owner: cred-cross-owner", "{path}");
    }
    let law = with(
        "@id(\"test.reach\") @reason(\"r\") @code(\"policy.forbidden\")\n\
        forbid (principal is Byoa::ByoaInstallation, action == Byoa::Action::\"RouteMessage\", resource) when { principal.owner.suspended };",
    );
    assert_eq!(said(&law, route(installation("globex", "acme"), agent("acme"))), "policy.no_permit");
}

#[test]
fn without_the_actions_the_guards_would_be_silent() {
    let law = starter();
    let mut ask = route(installation("acme", "acme"), agent("acme"));
    ask.installation.org.suspended = true;
    ask.agent.org = Some(ask.installation.org.clone());
    let question = ask.question(Slice::new(&law.law.base.names)).unwrap();
    let request =
        Request::new(question.principal, question.action, question.resource, question.context, Some(&law.law.base.schema)).unwrap();
    let bare = Entities::from_entities(question.entities.clone(), None).unwrap();
    // This is the trap: the policies say yes, and not one errs.
    let silent = law.law.rule(RouteMessage::NAME, &request, &bare);
    // The envelope reads the org itself, and so still says no.
    assert_eq!((silent.code, silent.policies.join(" ")), (Some(ReasonCode::PolicyOutsideEnvelope), "route.byoa".into()));
    assert!(silent.errors.is_empty());
    let whole = law.law.base.actions.clone().add_entities(question.entities, None).unwrap();
    assert_eq!(law.law.rule(RouteMessage::NAME, &request, &whole).code, Some(ReasonCode::OrgSuspended));
    assert_eq!(said(&law, ask), "org.suspended: guard.suspended");
}

#[test]
fn what_the_schema_does_not_know_is_not_asked() {
    let law = starter();
    let ask = RouteMessage { event_type: "message.recieved", ..route(installation("acme", "acme"), agent("acme")) };
    assert_eq!(said(&law, ask), "policy.not_applicable");
    let ask = RouteMessage { conversation_kind: Some("dm"), ..route(installation("acme", "acme"), agent("acme")) };
    assert_eq!(said(&law, ask), "policy.not_applicable");
    // Both halves speak of acme and disagree.
    let mut ask = fallback();
    ask.from.org.suspended = true;
    assert_eq!(said(&law, ask), "policy.not_applicable");
}

macro_rules! every_event_kind {
    ($($kind:ident)+) => {{
        // Does not compile when a kind is missing below.
        let _ = |kind: EventKind| match kind { $(EventKind::$kind => {})+ };
        [$(EventKind::$kind),+]
    }};
}

#[test]
fn the_schema_knows_every_word_of_the_domain() {
    let law = starter();
    let kinds = every_event_kind![
        Message MessageMention MessageDirect MessageMedia MessageChannelPost MessageBusiness MessageUnsupported MessageSelf
        MessageEdited MessageDeleted Command Interaction Reaction InlineQuery Status StatusFailed Uninstalled TokensRevoked
        WorkspaceRemoved WorkspaceAdded Blocked Unblocked ChatJoined ChatLeft ChatMigrated ManagedBot Restricted Membership
        RateLimited Other
    ];
    for kind in kinds {
        for place in [ConversationKind::Channel, ConversationKind::Direct, ConversationKind::Group, ConversationKind::Thread] {
            for (provider, freshness) in ProviderKind::ALL.into_iter().flat_map(|p| [(p, Freshness::Fresh), (p, Freshness::Unsigned)]) {
                let mut ask = route(installation("acme", "acme"), agent("acme"));
                ask.installation.provider = provider;
                (ask.event_type, ask.conversation_kind, ask.freshness) = (kind.cloud_type(), Some(place.as_str()), freshness);
                assert_eq!(said(&law, ask), "yes: route.byoa", "{kind:?} {place:?} {provider}");
            }
        }
    }
}

#[test]
fn a_question_has_a_size() {
    let law = starter();
    let orgs: Vec<String> = (0..30_000).map(|n| format!("org-{n}")).collect();
    let mut ask = EnterRollout { org: org("acme"), provider: ProviderKind::Slack, flag: flag(RolloutStage::On, &[]), bucket: 50 };
    ask.flag.flag.canary = orgs.iter().take(10_000).map(|o| id(o)).collect();
    assert_eq!(said(&law, ask.clone()), "yes: rollout.enter.on");
    ask.flag.flag.canary = orgs.iter().map(|o| id(o)).collect();
    let Err(denied) = law.decide(ask) else { panic!("twice as much was asked") };
    assert_eq!((denied.refusal.code, denied.refusal.code.retryable()), (ReasonCode::PolicyOverBudget, true));
    assert!(denied.decision.facts.len() < 100, "and what was too much is not kept either");
}

#[test]
fn an_id_is_data_whatever_it_looks_like() {
    let law = starter();
    let mut ask = UseCredential { installation: installation("acme", "acme"), credential: credential("acme", "acme") };
    ask.credential.id = "x\", Byoa::Org::\"globex\n".into();
    let permit = law.decide(ask.clone()).unwrap();
    assert_eq!(permit.decision().resource, r#"Byoa::ByoaCredential::"x\", Byoa::Org::\"globex\n""#);
    assert_eq!(*permit.ask(), ask);
}

#[test]
fn the_record_holds_what_policies_read() {
    let permit = starter().decide(UseCredential { installation: installation("acme", "acme"), credential: credential("acme", "acme") });
    insta::assert_snapshot!(permit.unwrap().decision().facts, @r#"{"context":{},"entities":[{"uid":{"type":"Byoa::Org","id":"acme"},"attrs":{"fallbackOptIn":[{"__entity":{"type":"Byoa::Provider","id":"slack"}}],"suspended":false},"parents":[]},{"uid":{"type":"Byoa::ByoaInstallation","id":"acme-acme"},"attrs":{"active":true,"org":{"__entity":{"type":"Byoa::Org","id":"acme"}},"owner":{"__entity":{"type":"Byoa::Org","id":"acme"}},"provider":{"__entity":{"type":"Byoa::Provider","id":"slack"}}},"parents":[{"type":"Byoa::Org","id":"acme"}]},{"uid":{"type":"Byoa::ByoaCredential","id":"crd_1"},"attrs":{"org":{"__entity":{"type":"Byoa::Org","id":"acme"}},"owner":{"__entity":{"type":"Byoa::Org","id":"acme"}},"provider":{"__entity":{"type":"Byoa::Provider","id":"slack"}},"usable":true},"parents":[{"type":"Byoa::Org","id":"acme"}]}]}"#);
}

#[test]
fn an_orgs_law_narrows_that_org() {
    let disk = Disk::starter();
    let text = "@id(\"org.acme.no-bots\") @reason(\"r\") @code(\"policy.forbidden\")\n\
        forbid (principal in Byoa::Org::\"acme\", action == Byoa::Action::\"RouteMessage\", resource) when { context.fromBot };";
    disk.write("orgs/acme/bots.cedar", text);
    let law = disk.load().unwrap();
    let bot = |org| RouteMessage { from_bot: true, ..route(installation("platform", org), agent(org)) };
    assert_eq!(said(&law, bot("acme")), "policy.forbidden: org.acme.no-bots");
    assert_eq!(said(&law, bot("globex")), "yes: route.platform.org-agent");
}

#[test]
fn a_pinned_law_outlives_a_swap() {
    let engine = Engine::new(starter());
    let pinned = engine.pin();
    let ask = route(installation("acme", "acme"), agent("acme"));
    assert!(pinned.decide(ask.clone()).is_ok());
    engine.clone().swap(without("route.byoa"));
    assert!(pinned.decide(ask.clone()).is_ok());
    assert_eq!(said(&engine.pin(), ask), "policy.no_permit");
}

fn facts() -> impl Strategy<Value = InstallationFacts> {
    (prop::sample::select(&OWNERS), prop::sample::select(&ORGS), any::<[bool; 3]>(), prop::sample::select(&ProviderKind::ALL)).prop_map(
        |(owner, org, [active, suspended, opted_in], provider)| {
            let mut facts = InstallationFacts { active, provider, ..installation(owner, org) };
            facts.org.suspended = suspended;
            if !opted_in {
                facts.org.fallback_opt_in.clear();
            }
            facts
        },
    )
}

fn kept_is_true<A: Action>(law: &Snapshot, ask: A) {
    let fresh = law.law.judge(&ask);
    let outcome = |ask: A| match law.decide(ask) {
        Ok(permit) => permit.decision().clone(),
        Err(denied) => denied.decision,
    };
    let (first, second) = (outcome(ask.clone()), outcome(ask));
    assert_eq!(*first, fresh);
    assert!(Arc::ptr_eq(&first, &second), "the second answer is the first one");
}

proptest! {
    #[test]
    fn a_kept_answer_is_the_answer(
        one in facts(), two in facts(), of in prop::sample::select(&OWNERS), text in ".{0,12}",
        [a, b, c] in any::<[bool; 3]>(), stage in prop::sample::select(&[RolloutStage::Off, RolloutStage::Canary, RolloutStage::On]),
    ) {
        thread_local!(static LAW: Snapshot = starter());
        LAW.with(|law| {
            let mut heard_by = agent(of);
            if heard_by.org.as_ref().is_some_and(|org| org.id == one.org.id) {
                heard_by.org = Some(one.org.clone());
            }
            kept_is_true(law, RouteMessage { from_bot: a, conversation: b.then(|| text.clone()), ..route(one.clone(), heard_by.clone()) });
            kept_is_true(law, SendMessage { bound: a, reply: b, conversation: text, ..send(heard_by, one.clone()) });
            let mut held = credential(of, two.org.id.as_str());
            held.usable = c;
            kept_is_true(law, UseCredential { installation: one.clone(), credential: held });
            let flag = flag(stage, &["acme"]);
            kept_is_true(law, EnterRollout { org: one.org.clone(), provider: one.provider, flag: flag.clone(), bucket: 7 });
            let legacy = UseLegacyRoute {
                installation: one.clone(), agent: agent(of), flag: flag.clone(), eligible: a, only_installation: b,
            };
            kept_is_true(law, legacy);
            kept_is_true(law, UseFallback { from: one, to: two, own_credential_usable: a, binding_allows: b, flag, bucket: 7 });
        });
    }
}
