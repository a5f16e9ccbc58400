//! Every combination of what a selection depends on, against a plain table of what must come of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::envelope::KeyRing;
use crate::domain::ids::{AgentId, BindingId, OrgId, ProfileId};
use crate::domain::installation::{
    Agent, AgentStatus, DeliveryFormat, ExternalAccount, Org, Ownership, ProviderKind, Selector, SessionScope,
};
use crate::domain::rollout::{Flag, RollbackMode, RolloutStage};
use crate::store::directory::SealedSecret;

const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

/// What varies, in the order in which outcomes are printed.
const DIMENSIONS: [(&str, &[&str]); 8] = [
    ("agent", &["same-org", "other-org"]),
    ("owner", &["org", "platform", "stranger"]),
    ("credential", &["usable", "absent", "expired", "revoked", "degraded", "damaged"]),
    ("asked", &["yes", "no"]),
    ("opted-in", &["yes", "no"]),
    ("binding", &["allows", "does-not"]),
    ("stage", &["on", "canary-listed", "canary-unlisted", "off"]),
    ("rollback", &["legacy_provider_only", "installation_identity"]),
];

/// One value of each dimension.
type Case = BTreeMap<&'static str, &'static str>;

fn cases() -> Vec<Case> {
    let mut all = vec![Case::new()];
    for (name, values) in DIMENSIONS {
        all = all
            .iter()
            .flat_map(|case| values.iter().map(|value| Case::from_iter(case.clone().into_iter().chain([(name, *value)]))))
            .collect();
    }
    all
}

pub(super) fn law() -> Snapshot {
    Snapshot::load("policies".as_ref(), "schemas/gateway.cedarschema".as_ref(), Timestamp::default()).unwrap()
}

pub(super) fn vault() -> Vault {
    let mut key = Zeroizing::new([9u8; 32]);
    key[0] = 1;
    Vault::new(KeyRing::new(vec![key]).unwrap(), crate::crypto::MacKey::new(b"lookup").unwrap())
}

fn org_id(org: &str) -> OrgId {
    OrgId::parse(org).unwrap()
}

/// A directory that a test fills.
pub(super) struct World {
    pub vault: Vault,
    pub directory: Directory,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self { vault: vault(), directory: Directory::default() };
        for org in ["acme", "globex"] {
            world.org(org, true);
            let id = AgentId::parse(&format!("{org}-agent")).unwrap();
            let item = Agent {
                id: id.clone(),
                org: Some(org_id(org)),
                endpoint: "http://127.0.0.1:9/".into(),
                format: DeliveryFormat::Cloudevents,
                synchronous: BTreeSet::new(),
                status: AgentStatus::Active,
            };
            world.directory.agents.insert(id, Arc::new(Kept { item, secrets: vec![], updated: NOW }));
        }
        world
    }

    pub fn org(&mut self, org: &str, opted_in: bool) {
        let fallback_opt_in = opted_in.then_some(ProviderKind::Slack).into_iter().collect();
        let item = Org { id: org_id(org), name: org.into(), suspended: false, fallback_opt_in, quotas: Default::default() };
        self.directory.orgs.insert(org_id(org), Arc::new(Kept { item, secrets: vec![], updated: NOW }));
    }

    /// An installation whose credential, where it has one, reads `token-of-ID`.
    pub fn installation(&mut self, id: &str, owner: &str, org: &str, credential: &str) {
        let owner = if owner == "platform" { Ownership::Platform } else { Ownership::Org(org_id(owner)) };
        let status = match credential {
            "revoked" => InstallationStatus::Revoked,
            "degraded" => InstallationStatus::Degraded,
            "suspended" => InstallationStatus::Suspended,
            _ => InstallationStatus::Active,
        };
        let key = InstallationId::parse(id).unwrap();
        let item = Installation {
            id: key.clone(),
            profile: ProfileId::parse(&format!("{id}-app")).unwrap(),
            org: org_id(org),
            provider: ProviderKind::Slack,
            owner,
            account: ExternalAccount::Slack { team_id: Some(format!("T-{id}")), enterprise_id: None },
            status,
            epoch: 1,
            connected_at: Timestamp::default(),
            status_reason: None,
            since: None,
            declared: None,
        };
        let text = Secret::new(format!("token-of-{id}"));
        let mut sealed = self.vault.seal(None, "installations", id, field::CREDENTIAL, &text).unwrap();
        if credential == "damaged" {
            sealed[100] ^= 1;
        }
        let secret = SealedSecret {
            id: format!("crd_{id}"),
            field: field::CREDENTIAL.into(),
            slot: "current".into(),
            sealed,
            fingerprint: self.vault.fingerprint(text.expose()),
            set: NOW,
            until: match credential {
                "expired" => Some(NOW),
                "expires" => Some(NOW.plus_ms(1)),
                _ => None,
            },
        };
        let secrets = if credential == "absent" { vec![] } else { vec![secret] };
        self.directory.installations.insert(key, Arc::new(Kept { item, secrets, updated: NOW }));
    }

    pub fn binding(&mut self, id: &str, installation: &str, agent: &str, tweak: impl FnOnce(&mut Binding)) {
        let installation = InstallationId::parse(installation).unwrap();
        let key = BindingId::parse(id).unwrap();
        let mut item = Binding {
            id: key.clone(),
            org: self.directory.installations[&installation].item.org.clone(),
            installation: Some(installation),
            mode: None,
            select: Selector::default(),
            agent: AgentId::parse(agent).unwrap(),
            priority: 100,
            enabled: true,
            session: SessionScope::Conversation,
            allow_platform_fallback: true,
            former: None,
        };
        tweak(&mut item);
        self.directory.bindings.insert(key, Arc::new(Kept { item, secrets: vec![], updated: NOW }));
    }

    pub fn flag(&mut self, stage: RolloutStage, canary: &[&str], rollback_mode: RollbackMode) {
        let canary = canary.iter().map(|org| org_id(org)).collect();
        let flag = Flag { enabled: true, stage, canary, percent: 0, legacy_fallback: true, rollback_mode };
        self.directory.flags.insert(ProviderKind::Slack, flag);
    }

    /// A send of an agent through an installation, in the order of the pipeline; every decision on the way, and what came
    /// of it.
    pub fn send(self, law: &Snapshot, agent: &str, through: &str, asked: bool) -> (Vec<Arc<Decision>>, String) {
        let (vault, directory) = (self.vault, self.directory.indexed());
        let agent = &directory.agents[&AgentId::parse(agent).unwrap()].item;
        let own = &directory.installations[&InstallationId::parse(through).unwrap()];
        let wanted = SendMessage {
            agent: facts::agent(&directory, agent),
            installation: facts::installation(&directory, &own.item),
            conversation: "C1".into(),
            bound: directory.binds(&own.item.id, &agent.id),
            reply: false,
        };
        let selection = if own.item.status == InstallationStatus::Revoked {
            select_instead(law, &directory, &wanted, asked, NOW)
        } else {
            match law.decide(wanted) {
                Ok(spoken) => select(law, &directory, &spoken, asked, NOW),
                Err(denied) => return (vec![denied.decision], format!("may not speak: {}", denied.refusal.code)),
            }
        };
        let told = match selection.outcome {
            Err(stop) => stop.code().to_string(),
            Ok(lease) => {
                let sends = lease.installation().id.clone();
                let route = match lease.takeover() {
                    None => {
                        assert_eq!(sends, own.item.id);
                        format!("own, of the {}", lease.owner())
                    }
                    Some(takeover) => {
                        assert_eq!((takeover.from(), takeover.to()), (&own.item.id, &sends));
                        assert_eq!(lease.owner(), "platform");
                        format!("{sends}, for {}", takeover.reason())
                    }
                };
                let opened = lease.with_token(&vault, &directory, |token| {
                    assert_eq!(token.expose(), format!("token-of-{sends}"));
                    Ok(())
                });
                match opened {
                    Ok(()) => route,
                    Err(stop) => format!("{route}; {}", stop.code()),
                }
            }
        };
        (selection.decisions, told)
    }
}

/// The world of one combination. What belongs to globex is in the best of order: it must not matter.
fn world(case: &Case) -> World {
    let agent = if case["agent"] == "same-org" { "acme-agent" } else { "globex-agent" };
    let mut world = World::new();
    world.org("acme", case["opted-in"] == "yes");
    world.installation(
        "own",
        match case["owner"] {
            "stranger" => "globex",
            "org" => "acme",
            _ => "platform",
        },
        "acme",
        case["credential"],
    );
    world.installation("platform", "platform", "acme", "usable");
    world.installation("globex-own", "globex", "globex", "usable");
    world.installation("globex-platform", "platform", "globex", "usable");
    world.binding("b-own", "own", agent, |_| {});
    world.binding("b-platform", "platform", agent, |b| b.allow_platform_fallback = case["binding"] == "allows");
    world.binding("a-globex-own", "globex-own", agent, |b| b.priority = 1);
    world.binding("a-globex-platform", "globex-platform", agent, |b| b.priority = 1);
    let (stage, canary): (_, &[&str]) = match case["stage"] {
        "on" => (RolloutStage::On, &[]),
        "canary-listed" => (RolloutStage::Canary, &["acme"]),
        "canary-unlisted" => (RolloutStage::Canary, &["globex"]),
        _ => (RolloutStage::Off, &["acme"]),
    };
    world.flag(stage, canary, RollbackMode::parse(case["rollback"]).unwrap());
    world
}

/// `tests/tables/credentials/combinations.yaml`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    #[serde(rename = "because")]
    _because: String,
    /// Dimension → the values it is about; one that is not named is about all.
    #[serde(default)]
    when: BTreeMap<String, Vec<String>>,
    then: String,
}

impl Row {
    fn is_about(&self, case: &Case) -> bool {
        self.when.iter().all(|(name, values)| values.iter().any(|v| v == case[name.as_str()]))
    }
}

/// The outcomes as a tree that names a dimension only where it makes a difference.
fn compressed(cases: &[(Case, String)], dimensions: &[(&str, &[&'static str])], indent: usize, out: &mut String) {
    let outcomes: BTreeSet<&str> = cases.iter().map(|(_, told)| told.as_str()).collect();
    let Some(((name, values), rest)) = dimensions.split_first().filter(|_| outcomes.len() > 1) else {
        let _ = writeln!(out, " → {}", outcomes.into_iter().collect::<Vec<_>>().join(" | "));
        return;
    };
    let mut branches: Vec<(Vec<&str>, String)> = Vec::new();
    for value in *values {
        let part: Vec<(Case, String)> = cases.iter().filter(|(case, _)| case[name] == *value).cloned().collect();
        let mut text = String::new();
        compressed(&part, rest, indent + 1, &mut text);
        match branches.iter_mut().find(|(_, known)| *known == text) {
            Some((values, _)) => values.push(value),
            None => branches.push((vec![value], text)),
        }
    }
    if let [(_, _)] = branches.as_slice() {
        return compressed(cases, rest, indent, out);
    }
    for (values, text) in branches {
        let _ = write!(out, "\n{}{name} {}{}", "  ".repeat(indent), values.join(", "), text.trim_end());
    }
    out.push('\n');
}

#[test]
fn every_combination_comes_out_as_the_table_says() {
    let table: Table = serde_yaml::from_str(include_str!("../../tests/tables/credentials/combinations.yaml")).unwrap();
    let law = law();
    let mut used = BTreeSet::new();
    let mut all = Vec::new();
    let mut wrong = Vec::new();
    for case in cases() {
        let agent = if case["agent"] == "same-org" { "acme-agent" } else { "globex-agent" };
        let (decisions, told) = world(&case).send(&law, agent, "own", case["asked"] == "yes");
        let (n, row) = table.rows.iter().enumerate().find(|(_, row)| row.is_about(&case)).unwrap_or_else(|| panic!("no row for {case:?}"));
        used.insert(n);
        if row.then != told {
            wrong.push(format!("{case:?}: {told}, and row {n} says {}", row.then));
        }
        // Whatever the outcome, nothing of globex was ever asked about.
        for decision in decisions.iter().filter(|_| case["agent"] == "same-org" && case["owner"] != "stranger") {
            assert!(!decision.facts.contains("globex-own") && !decision.facts.contains("globex-platform"), "{case:?}: {decision:?}");
        }
        all.push((case, told));
    }
    let mut tree = format!("{} combinations", all.len());
    compressed(&all, &DIMENSIONS, 0, &mut tree);
    insta::assert_snapshot!("combinations", tree);
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), all.len(), &wrong[..wrong.len().min(20)]);
    assert_eq!(used.len(), table.rows.len(), "a row is about nothing");
}

/// A world in which acme's own credential is absent and everything else allows fallback.
fn open() -> World {
    let mut world = World::new();
    world.flag(RolloutStage::On, &[], RollbackMode::LegacyProviderOnly);
    world.installation("own", "acme", "acme", "absent");
    world.binding("b-own", "own", "acme-agent", |_| {});
    world
}

#[test]
fn of_several_platform_bindings_the_one_that_routing_would_take_goes_first() {
    let law = law();
    // The order is that of bindings, whatever their installations are called.
    for (p1, p2, first) in [
        ((Selector::default(), 100), (Selector::default(), 99), "p2"),
        ((Selector::default(), 100), (Selector::default(), 100), "p1"),
        ((Selector::default(), 1), (Selector { channel: Some("C1".into()), ..Selector::default() }, 100), "p2"),
        (
            (Selector { peer: Some("U1".into()), ..Selector::default() }, 9),
            (Selector { channel: Some("C1".into()), ..Selector::default() }, 1),
            "p1",
        ),
    ] {
        let mut world = open();
        for (id, (select, priority)) in [("p1", p1), ("p2", p2)] {
            world.installation(id, "platform", "acme", "usable");
            world.binding(&format!("b-{id}"), id, "acme-agent", |b| (b.select, b.priority) = (select, priority));
        }
        assert_eq!(world.send(&law, "acme-agent", "own", true).1, format!("{first}, for credentials.absent"));
    }
}

#[test]
fn a_platform_installation_that_cannot_send_itself_takes_nothing_over() {
    let law = law();
    for (credential, told) in [
        ("usable", "p1, for credentials.absent"),
        ("expires", "p1, for credentials.absent"),
        ("damaged", "p1, for credentials.absent; vault.secret_corrupt"),
        ("absent", "p2, for credentials.absent"),
        ("expired", "p2, for credentials.absent"),
        ("degraded", "p2, for credentials.absent"),
        ("revoked", "p2, for credentials.absent"),
        ("suspended", "p2, for credentials.absent"),
    ] {
        let mut world = open();
        world.installation("p1", "platform", "acme", credential);
        world.binding("b1", "p1", "acme-agent", |_| {});
        world.installation("p2", "platform", "acme", "usable");
        world.binding("b2", "p2", "acme-agent", |_| {});
        assert_eq!(world.send(&law, "acme-agent", "own", true).1, told, "{credential}");
        if told.starts_with("p2") {
            let mut world = open();
            world.installation("p1", "platform", "acme", credential);
            world.binding("b1", "p1", "acme-agent", |_| {});
            let alone = world.send(&law, "acme-agent", "own", true).1;
            assert!(["credentials.platform_fallback_denied", "installation.inactive"].contains(&alone.as_str()), "{credential}: {alone}");
        }
    }
}

#[test]
fn only_a_binding_that_is_on_and_the_agents_own_leads_to_the_platform() {
    let law = law();
    type Tweak = (&'static str, fn(&mut Binding));
    let tweaks: [Tweak; 3] = [
        ("off", |b| b.enabled = false),
        ("does not allow it", |b| b.allow_platform_fallback = false),
        ("another agent's", |b| b.agent = AgentId::parse("globex-agent").unwrap()),
    ];
    for (what, tweak) in tweaks {
        let mut world = open();
        world.installation("p1", "platform", "acme", "usable");
        world.binding("b1", "p1", "acme-agent", tweak);
        assert_eq!(world.send(&law, "acme-agent", "own", true).1, "credentials.platform_fallback_denied", "{what}");
    }
    // There is nothing at all to fall back to.
    let mut none = open();
    assert_eq!(open().send(&law, "acme-agent", "own", true).1, "credentials.platform_fallback_denied");
    none.org("acme", false);
    assert_eq!(none.send(&law, "acme-agent", "own", true).1, "credentials.fallback_not_opted_in");
}

#[test]
fn a_credential_expires_at_its_time_unless_there_is_a_refresh_token() {
    let law = law();
    for (credential, told) in [("expires", "own, of the org"), ("expired", "credentials.expired")] {
        let mut world = open();
        world.installation("own", "acme", "acme", credential);
        assert_eq!(world.send(&law, "acme-agent", "own", false).1, told);
    }
    let mut world = open();
    world.installation("own", "acme", "acme", "expired");
    let id = InstallationId::parse("own").unwrap();
    let mut kept = Kept::clone(&world.directory.installations[&id]);
    let refresh = SealedSecret { field: field::REFRESH_TOKEN.into(), until: None, ..kept.secrets[0].clone() };
    kept.secrets.push(refresh);
    world.directory.installations.insert(id, Arc::new(kept));
    assert_eq!(world.send(&law, "acme-agent", "own", false).1, "own, of the org");
}

#[test]
fn a_permit_of_before_does_not_lead_to_what_is_revoked_now() {
    let law = law();
    let mut before = open();
    before.installation("own", "acme", "acme", "usable");
    let before = before.directory.indexed();
    let own = &before.installations[&InstallationId::parse("own").unwrap()];
    let agent = &before.agents[&AgentId::parse("acme-agent").unwrap()].item;
    let wanted = SendMessage {
        agent: facts::agent(&before, agent),
        installation: facts::installation(&before, &own.item),
        conversation: "C1".into(),
        bound: true,
        reply: false,
    };
    let spoken = law.decide(wanted.clone()).unwrap();
    for (now, told) in [("revoked", "credentials.revoked"), ("suspended", "installation.inactive"), ("absent", "credentials.absent")] {
        let mut after = open();
        after.installation("own", "acme", "acme", now);
        let after = after.directory.indexed();
        assert_eq!(select(&law, &after, &spoken, false, NOW).outcome.err().unwrap().code().as_str(), told);
    }
    // And what is for revoked installations does not open one that is not.
    assert_eq!(select_instead(&law, &before, &wanted, true, NOW).outcome.err().unwrap().code().as_str(), "installation.inactive");
}
