//! Well-formed requests of one kind, made up to search for witnesses where there is no solver. Whatever was found this way
//! is true; that nothing was found proves nothing. Whole requests only: every thing that is named is there, with its
//! parents, as [`super::entities`] builds them. No chance of the system: the n-th request is the same everywhere. Floor 5.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Effect, PolicySet};
use serde_json::{Map, Value, json};

use super::case::Case;
use super::envelope::{self, ENVELOPE};
use super::vocabulary::{Environment, Field, Kind, Vocabulary, full, short};

/// Elements that a made-up set has at most.
const SET_MAX: usize = 3;
/// Passes over a witness to make it smaller; the second rarely finds anything.
const PASSES: usize = 3;
/// Of a hundred decisions, how many stray from what policies like, drawn anew for each request: a conjunction of many
/// conditions is met only by requests that hardly stray, and its single conditions are told apart by those that stray once.
const STRAYS: [u64; 10] = [0, 0, 5, 5, 5, 12, 12, 12, 50, 50];

/// Makes requests.
#[derive(Clone)]
pub(super) struct Sampler {
    ids: BTreeMap<String, Pool<String>>,
    texts: Pool<String>,
    longs: Pool<i64>,
    /// How often policies want a yes of the attributes of this name, and how often a no.
    wishes: BTreeMap<String, (usize, usize)>,
    /// The one role that operators have, where only one is asked about.
    role: Option<String>,
}

impl Sampler {
    /// Takes the values worth trying from the policies and from the envelope, beside a few of its own.
    pub fn new(sets: &[&PolicySet]) -> Self {
        Self::about(sets, &[])
    }

    /// The same, and prefers what these policies name: of a large law the few that changed.
    pub fn about(sets: &[&PolicySet], subject: &[&PolicySet]) -> Self {
        let mut all = Words::default();
        // What parses at every start parses here; without it there are fewer values to try.
        all.read(&envelope::parse(ENVELOPE).unwrap_or_default());
        let mut near = Words::default();
        sets.iter().for_each(|set| all.read(set));
        subject.iter().for_each(|set| near.read(set));
        let ids = Vocabulary::get().entities.iter().map(|(kind, shape)| {
            let none = BTreeSet::new();
            let pool = match &shape.ids {
                Some(ids) => {
                    let named = all.ids.get(kind).is_some_and(|named| !named.is_empty());
                    Pool { values: ids.clone(), own: ids.len(), near: 0, named }
                }
                None => Pool::new(names(kind), near.ids.get(kind).unwrap_or(&none), all.ids.get(kind).unwrap_or(&none)),
            };
            (kind.clone(), pool)
        });
        Self {
            ids: ids.collect(),
            texts: Pool::new(["text", "other text"].map(str::to_owned), &near.texts, &all.texts),
            longs: Pool::new([0, 1, 49, 50, 51, 99, 100], &near.longs, &all.longs),
            wishes: all.wishes,
            role: None,
        }
    }

    /// The same for operators of one role.
    pub fn of_role(&self, role: &str) -> Self {
        Self { role: Some(role.to_owned()), ..self.clone() }
    }

    /// The n-th request of this kind, the same for the same n.
    pub fn case(&self, environment: &Environment, n: u64) -> Case {
        self.planned(environment, n).0
    }

    /// The first request among `budget` that `wanted` accepts, made smaller for as long as it is still accepted: fewer
    /// elements, fewer differences, a `true` only where it matters.
    pub fn witness(&self, environment: &Environment, budget: u64, mut wanted: impl FnMut(&Case) -> bool) -> Option<Case> {
        let (case, plan) = (0..budget).map(|n| self.planned(environment, n)).find(|(case, _)| wanted(case))?;
        Some(self.smaller(environment, case, plan, wanted))
    }

    /// The n-th request, which `wanted` accepts, made smaller in the same way.
    pub fn smallest(&self, environment: &Environment, n: u64, wanted: impl FnMut(&Case) -> bool) -> Case {
        let (case, plan) = self.planned(environment, n);
        self.smaller(environment, case, plan, wanted)
    }

    /// Puts back one choice after the other to the plainest.
    fn smaller(&self, environment: &Environment, mut case: Case, mut plan: Plan, mut wanted: impl FnMut(&Case) -> bool) -> Case {
        for _ in 0..PASSES {
            let before = plan.clone();
            for (choice, _) in before.iter().filter(|(_, picked)| **picked > 0) {
                let mut plainer = plan.clone();
                plainer.insert(choice.clone(), 0);
                let (other, plainer) = Draft::new(self, environment, plainer, None).finish();
                if wanted(&other) {
                    (case, plan) = (other, plainer);
                }
            }
            if plan == before {
                break;
            }
        }
        case
    }

    fn planned(&self, environment: &Environment, n: u64) -> (Case, Plan) {
        Draft::new(self, environment, Plan::new(), Some(Dice::new(environment, n))).finish()
    }
}

/// What was picked at each choice, by what the choice is about; 0 is the plainest. Only the choices that came up.
type Plan = BTreeMap<String, usize>;

/// One request while it is made.
struct Draft<'s> {
    sampler: &'s Sampler,
    environment: &'s Environment,
    /// What was picked before: these choices are settled.
    settled: Plan,
    plan: Plan,
    /// Settles the others; without it they are plain.
    dice: Option<Dice>,
    entities: BTreeMap<String, Value>,
}

impl<'s> Draft<'s> {
    fn new(sampler: &'s Sampler, environment: &'s Environment, settled: Plan, dice: Option<Dice>) -> Self {
        Self { sampler, environment, settled, plan: Plan::new(), dice, entities: BTreeMap::new() }
    }

    fn finish(mut self) -> (Case, Plan) {
        let Environment { principal, action, resource } = self.environment;
        let asker = self.thing(principal, "principal", false);
        let subject = self.thing(resource, "resource", false);
        let context = Vocabulary::get().actions.get(action).map_or(&[][..], |shape| &shape.context);
        let context = self.record(context, "context");
        let uid = |kind: &str, id: &str| format!("{}::{}", full(kind), json!(id));
        let case = Case {
            action: action.clone(),
            principal: uid(principal, &asker),
            resource: uid(resource, &subject),
            context: context.into(),
            entities: self.entities.into_values().collect(),
        };
        (case, self.plan)
    }

    fn choose(&mut self, about: &str, among: usize, draw: impl FnOnce(&mut Dice) -> usize) -> usize {
        let last = among.saturating_sub(1);
        let settled = self.plan.get(about).or_else(|| self.settled.get(about)).copied();
        let picked = settled.unwrap_or_else(|| self.dice.as_mut().map_or(0, draw)).min(last);
        self.plan.insert(about.to_owned(), picked);
        picked
    }

    fn record(&mut self, fields: &[Field], of: &str) -> Map<String, Value> {
        let mut record = Map::new();
        for field in fields {
            let about = format!("{of}.{}", field.name);
            if !field.required && self.choose(&format!("{about}?"), 2, |dice| dice.below(2)) == 0 {
                continue;
            }
            record.insert(field.name.clone(), self.value(&field.kind, &about, &field.name, false));
        }
        record
    }

    /// A value of this kind; `widely` where being like the others is not likelier than not.
    fn value(&mut self, kind: &Kind, about: &str, name: &str, widely: bool) -> Value {
        let sampler = self.sampler;
        match kind {
            Kind::Bool => {
                // Plain is what policies agree to want, so that one flaw does not hide among others.
                let wished @ (yes, no) = sampler.wishes.get(name).copied().unwrap_or_default();
                let plain = yes > 0 && no == 0;
                let other = self.choose(about, 2, |dice| usize::from(dice.wished(wished) != plain)) == 1;
                json!(plain != other)
            }
            Kind::Long => {
                let longs = &sampler.longs;
                let main = self.choose("every number", longs.values.len(), |dice| longs.draw(dice));
                let picked = self.choose(about, longs.values.len(), |dice| if dice.chance(35) { main } else { longs.draw(dice) });
                json!(longs.values.get(picked))
            }
            Kind::Text => {
                let texts = &sampler.texts;
                let picked = self.choose(about, texts.values.len(), |dice| texts.draw(dice));
                json!(texts.values.get(picked))
            }
            Kind::Entity(kind) => {
                let id = self.thing(kind, about, widely);
                json!({ "__entity": { "type": full(kind), "id": id } })
            }
            Kind::Set(of) => {
                let mut elements: Vec<Value> = Vec::new();
                for n in 0..SET_MAX {
                    let (about, likely) = (format!("{about}[{n}]"), if n == 0 { 75 } else { 30 });
                    if self.choose(&format!("{about}?"), 2, |dice| usize::from(dice.chance(likely))) == 1 {
                        let element = self.value(of, &about, name, n > 0);
                        if !elements.contains(&element) {
                            elements.push(element);
                        }
                    }
                }
                elements.into()
            }
        }
    }

    /// The id of a thing of this type, which is supplied. Mostly the one that everything in this request is about: policies
    /// compare an org with an org, and two that were drawn are seldom the same.
    fn thing(&mut self, kind: &str, about: &str, widely: bool) -> String {
        let sampler = self.sampler;
        // The builder names a flag by its provider.
        if kind == "Flag" {
            let provider = self.thing("Provider", about, widely);
            self.supply(kind, &provider, about);
            return provider;
        }
        let Some(pool) = sampler.ids.get(kind) else { return String::new() };
        let picked = self.choose(about, pool.values.len() + 1, |dice| {
            // What policies compare with a name need not be the same all over: from `canary`, to `on`.
            let strays = widely || dice.strays() || (pool.named && dice.chance(50));
            if strays { pool.draw(dice) + 1 } else { 0 }
        });
        let id = match picked.checked_sub(1) {
            Some(other) => pool.values.get(other).cloned().unwrap_or_default(),
            None => self.main(kind),
        };
        self.supply(kind, &id, about);
        id
    }

    /// The thing of this type that everything in this request is about.
    fn main(&mut self, kind: &str) -> String {
        let Some(pool) = self.sampler.ids.get(kind) else { return String::new() };
        let picked = self.choose(&format!("every {kind}"), pool.values.len(), |dice| pool.draw(dice));
        pool.values.get(picked).cloned().unwrap_or_default()
    }

    /// Adds a thing with all that is known of it and all that this names, once.
    fn supply(&mut self, kind: &str, id: &str, about: &str) {
        let Some(shape) = Vocabulary::get().entities.get(kind) else { return };
        let key = format!("{kind}::{id}");
        // The schema brings the things that it lists.
        if shape.ids.is_some() || self.entities.contains_key(&key) {
            return;
        }
        // Two things may name each other.
        self.entities.insert(key.clone(), Value::Null);
        // By where it was named first: its facts stay with it when it gets a plainer name.
        let mut attributes = self.record(&shape.fields, about);
        if kind == "Flag" {
            attributes.insert("provider".into(), json!({ "__entity": { "type": full("Provider"), "id": id } }));
        }
        let parents: Vec<Value> = shape
            .parents
            .iter()
            .map(|parent| {
                // Whatever carries `org` is a child of that org: the builder makes both from one field.
                let named = attributes.get(&parent.to_lowercase()).and_then(|value| value.get("__entity")).cloned();
                named.unwrap_or_else(|| json!({ "type": full(parent), "id": self.parent(parent, about) }))
            })
            .collect();
        let uid = json!({ "type": full(kind), "id": id });
        self.entities.insert(key, json!({ "uid": uid, "attrs": attributes, "parents": parents }));
    }

    fn parent(&mut self, kind: &str, of: &str) -> String {
        let sampler = self.sampler;
        if kind == "Role"
            && let Some(role) = &sampler.role
        {
            return role.clone();
        }
        let Some(pool) = sampler.ids.get(kind) else { return String::new() };
        let about = format!("{of} in {kind}");
        let picked = self.choose(&about, pool.values.len(), |dice| pool.draw(dice));
        let id = pool.values.get(picked).cloned().unwrap_or_default();
        self.supply(kind, &id, &about);
        id
    }
}

/// Values to pick from: our own first, then those of the policies that matter most, then the others'.
#[derive(Clone)]
struct Pool<T> {
    values: Vec<T>,
    own: usize,
    near: usize,
    /// Whether policies name values.
    named: bool,
}

impl<T: Clone + Ord> Pool<T> {
    fn new(own: impl IntoIterator<Item = T>, near: &BTreeSet<T>, all: &BTreeSet<T>) -> Self {
        let own: Vec<T> = own.into_iter().filter(|value| !near.contains(value) && !all.contains(value)).collect();
        let others = all.iter().filter(|value| !near.contains(value));
        let values: Vec<T> = own.iter().chain(near).chain(others).cloned().collect();
        Self { own: own.len(), near: near.len(), named: values.len() > own.len(), values }
    }

    /// The index of one of them: in four draws one of our own, and three of those that policies name.
    fn draw(&self, dice: &mut Dice) -> usize {
        let rest = self.values.len() - self.own;
        if rest == 0 || (self.own > 0 && dice.chance(25)) {
            return dice.below(self.own);
        }
        let among = if self.near > 0 && dice.chance(80) { self.near } else { rest };
        self.own + dice.below(among)
    }
}

/// A few ids of its own for each type: two can differ and a third is a stranger to both.
fn names(kind: &str) -> Vec<String> {
    if kind == "Org" {
        return ["acme", "globex", "initech"].map(str::to_owned).to_vec();
    }
    let mut name = String::new();
    for c in kind.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    (1..=2).map(|n| format!("{name}-{n}")).collect()
}

/// What policies name.
#[derive(Default)]
struct Words {
    ids: BTreeMap<String, BTreeSet<String>>,
    texts: BTreeSet<String>,
    longs: BTreeSet<i64>,
    wishes: BTreeMap<String, (usize, usize)>,
}

impl Words {
    fn read(&mut self, set: &PolicySet) {
        for policy in set.policies() {
            let Ok(json) = &policy.to_json() else { continue };
            let permits = policy.effect() == Effect::Permit;
            for part in ["principal", "resource", "conditions"] {
                self.literals(&json[part]);
            }
            for condition in json["conditions"].as_array().into_iter().flatten() {
                self.wish(&condition["body"], permits == (condition["kind"] == "when"));
            }
        }
    }

    fn literals(&mut self, expression: &Value) {
        match expression {
            Value::Array(all) => all.iter().for_each(|one| self.literals(one)),
            Value::Object(parts) => {
                let text = |key| parts.get(key).and_then(Value::as_str);
                if let (Some(kind), Some(id)) = (text("type"), text("id")) {
                    self.ids.entry(short(kind).to_owned()).or_default().insert(id.to_owned());
                    return;
                }
                match parts.get("Value") {
                    Some(Value::String(text)) => drop(self.texts.insert(text.clone())),
                    // The neighbours tell `<` from `<=`.
                    Some(Value::Number(n)) => {
                        let around = |n: i64| [n.saturating_sub(1), n, n.saturating_add(1)];
                        self.longs.extend(n.as_i64().into_iter().flat_map(around));
                    }
                    _ => {}
                }
                if let Some(pattern) = parts.get("pattern").and_then(Value::as_array) {
                    self.texts.insert(pattern.iter().map(|part| part["Literal"].as_str().unwrap_or("x")).collect());
                }
                parts.values().for_each(|part| self.literals(part));
            }
            _ => {}
        }
    }

    /// Which attributes a condition wants to be true.
    fn wish(&mut self, expression: &Value, wanted: bool) {
        let Some((operator, parts)) = expression.as_object().and_then(|e| e.iter().next()) else { return };
        match operator.as_str() {
            "&&" | "||" => ["left", "right"].iter().for_each(|side| self.wish(&parts[side], wanted)),
            "if-then-else" => ["then", "else"].iter().for_each(|side| self.wish(&parts[side], wanted)),
            "!" => self.wish(&parts["arg"], !wanted),
            "==" | "!=" => {
                for (side, other) in [("left", "right"), ("right", "left")] {
                    if let Some(value) = parts[side].get("Value").and_then(Value::as_bool) {
                        self.wish(&parts[other], wanted == (value == (operator == "==")));
                    }
                }
            }
            "." => {
                if let Some(name) = parts["attr"].as_str() {
                    let (yes, no) = self.wishes.entry(name.to_owned()).or_default();
                    *(if wanted { yes } else { no }) += 1;
                }
            }
            _ => {}
        }
    }
}

/// Numbers that look drawn and are always the same (SplitMix64).
struct Dice {
    state: u64,
    strays: u64,
}

impl Dice {
    fn new(environment: &Environment, n: u64) -> Self {
        // FNV-1a: kinds of request do not draw alike.
        let seed =
            environment.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        let mut dice = Self { state: seed.wrapping_add(n.wrapping_mul(0xd134_2543_de82_ef95)), strays: 0 };
        dice.strays = STRAYS.get(dice.below(STRAYS.len())).copied().unwrap_or_default();
        dice
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let z = z ^ (z >> 31);
        usize::try_from(z.checked_rem(bound as u64).unwrap_or(0)).unwrap_or(0)
    }

    fn chance(&mut self, of_a_hundred: u64) -> bool {
        (self.below(100) as u64) < of_a_hundred
    }

    fn strays(&mut self) -> bool {
        let strays = self.strays;
        self.chance(strays)
    }

    /// Mostly what policies want; where they disagree, in proportion.
    fn wished(&mut self, (yes, no): (usize, usize)) -> bool {
        let liked = match (yes, no) {
            (0, 0) => self.chance(50),
            (_, 0) => true,
            (0, _) => false,
            _ => self.below(yes + no) < yes,
        };
        liked != self.strays()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::*;

    const BUDGET: u64 = 4_000;

    fn starter() -> Snapshot {
        Snapshot::load("policies".as_ref(), SCHEMA_FILE.as_ref(), Default::default()).unwrap()
    }

    fn environment(text: &str) -> Environment {
        let parts: Vec<&str> = text.split(' ').collect();
        Environment { principal: parts[0].into(), action: parts[1].into(), resource: parts[2].into() }
    }

    #[test]
    fn every_request_fits_the_schema() {
        let law = starter();
        let sampler = Sampler::new(&[&law.law.policies]);
        for environment in Vocabulary::get().environments() {
            for n in 0..12 {
                let case = sampler.case(&environment, n);
                let (_, entities) = case.request(&law.law).unwrap_or_else(|e| panic!("{environment} {n}: {e}"));
                assert_eq!(case.environment(), environment);
                assert_eq!(case, sampler.case(&environment, n));
                // Nothing that is named is missing.
                let known: BTreeSet<String> = entities.iter().map(|e| e.uid().to_string()).collect();
                let mut named = Words::default();
                named.literals(&json!([case.context, case.entities]));
                for (kind, ids) in named.ids.iter().filter(|(kind, _)| Vocabulary::get().entities[*kind].ids.is_none()) {
                    for id in ids {
                        assert!(known.contains(&format!("Byoa::{kind}::\"{id}\"")), "{environment} {n}: {kind} {id} in {case:?}");
                    }
                }
                // As the builder makes them: a child of the org that it carries, a flag named by its provider.
                for entity in case.entities.as_array().unwrap() {
                    let org = entity.pointer("/attrs/org/__entity");
                    assert_eq!(entity["parents"].as_array().unwrap().contains(org.unwrap_or(&Value::Null)), org.is_some(), "{entity}");
                    if entity["uid"]["type"] == "Byoa::Flag" {
                        assert_eq!(entity["uid"]["id"], entity["attrs"]["provider"]["__entity"]["id"]);
                    }
                }
            }
        }
    }

    /// No permit is for these.
    const NEVER: [&str; 9] = [
        "ByoaInstallation AnswerInteraction PlatformAgent",
        "ByoaInstallation RouteMessage PlatformAgent",
        "ByoaInstallation UseCredential PlatformCredential",
        "ByoaInstallation UseLegacyRoute PlatformAgent",
        "PlatformAgent CallProviderMethod ByoaInstallation",
        "PlatformAgent SendMessage ByoaInstallation",
        "PlatformInstallation UseCredential ByoaCredential",
        "PlatformInstallation UseLegacyRoute OrgAgent",
        "PlatformInstallation UseLegacyRoute PlatformAgent",
    ];

    #[test]
    fn whatever_a_permit_is_for_is_met_early() {
        let law = starter();
        let sampler = Sampler::new(&[&law.law.policies]);
        for environment in Vocabulary::get().environments().iter().filter(|e| !NEVER.contains(&e.to_string().as_str())) {
            let met = (0..BUDGET).find(|n| sampler.case(environment, *n).ruled(&law.law).unwrap().code.is_none());
            assert!(met.is_some_and(|n| n < BUDGET / 10), "{environment}: {met:?}");
        }
    }

    /// A kind of request, a file, what is written there and what is written instead: one condition each.
    const MUTANTS: &str = r#"
ByoaInstallation RouteMessage OrgAgent | 10-routing | principal.owner == principal.org && | true &&
ByoaInstallation RouteMessage OrgAgent | 10-routing | principal.org == resource.org | true
OrgAgent SendMessage ByoaInstallation | 20-sending | context.bound && | true &&
OrgAgent SendMessage ByoaInstallation | 90-guards | (resource is Byoa::ByoaInstallation && resource.org.suspended) | false
ByoaInstallation UseFallback PlatformInstallation | 30-credentials | !context.ownCredentialUsable && | true &&
ByoaInstallation UseFallback PlatformInstallation | 30-credentials | principal.provider == context.flag.provider && | true &&
ByoaInstallation UseFallback PlatformInstallation | 30-credentials | unless { principal.org.fallbackOptIn.contains(principal.provider) } | unless { principal.active }
ByoaInstallation UseFallback PlatformInstallation | 30-credentials | context.flag.enabled && | true &&
ByoaInstallation UseFallback PlatformInstallation | 30-credentials | context.flag.canary.contains(principal.org) || | false ||
ByoaInstallation UseFallback PlatformInstallation | 30-credentials | context.bucket < context.flag.percent | context.bucket <= context.flag.percent
Org EnterRollout Flag | 40-rollout | context.bucket < resource.percent | context.bucket + 1 < resource.percent
Org EnterRollout Flag | 40-rollout | resource.canary.contains(principal) || | false ||
ByoaInstallation UseLegacyRoute OrgAgent | 40-rollout | context.flag.rollbackMode == Byoa::RollbackMode::"legacy_provider_only" | false
Operator RevokeSecret OrgAgent | 60-changes | when { principal.mfa }; | ;
Operator PromoteRollout Flag | 60-changes | context.from == Byoa::Stage::"canary" && | true &&
Operator PromoteRollout Flag | 60-changes | || context.force | || false
"#;

    #[test]
    fn a_mutant_is_told_from_the_law() {
        let law = starter();
        for mutant in MUTANTS.lines().skip(1) {
            let [kind, file, from, to] = mutant.split(" | ").collect::<Vec<_>>().try_into().unwrap();
            let name = format!("platform/{file}.cedar");
            let text = std::fs::read_to_string(format!("policies/{name}")).unwrap();
            assert!(text.contains(from), "{mutant}");
            let disk = Disk::starter();
            disk.write(&name, &text.replacen(from, to, 1));
            let other = disk.load().unwrap_or_else(|e| panic!("{e}"));
            let sampler = Sampler::new(&[&law.law.policies, &other.law.policies]);
            let differs = |case: &Case| case.ruled(&law.law).unwrap() != case.ruled(&other.law).unwrap();
            assert!(sampler.witness(&environment(kind), BUDGET, differs).is_some(), "{mutant}");
        }
    }

    #[test]
    fn a_witness_shows_what_matters() {
        let law = starter();
        let sampler = Sampler::new(&[&law.law.policies]);
        let allowed = |case: &Case| case.ruled(&law.law).unwrap().code.is_none();
        let witness = sampler.witness(&environment("Operator PromoteRollout Flag"), BUDGET, allowed).unwrap();
        let entities = witness.entities.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(format!("{witness}\n{}\n{entities}", witness.context), @r#"
        Operator::"operator-1" PromoteRollout Flag::"slack"
        {"approvedBy":[],"force":true,"from":{"__entity":{"type":"Byoa::Stage","id":"canary"}},"matrixGreen":true,"soaked":true,"to":{"__entity":{"type":"Byoa::Stage","id":"on"}}}
        {"uid":{"type":"Byoa::Flag","id":"slack"},"attrs":{"canary":[],"enabled":true,"legacyFallback":true,"percent":0,"provider":{"__entity":{"type":"Byoa::Provider","id":"slack"}},"rollbackMode":{"__entity":{"type":"Byoa::RollbackMode","id":"legacy_provider_only"}},"stage":{"__entity":{"type":"Byoa::Stage","id":"canary"}}},"parents":[]}
        {"uid":{"type":"Byoa::Operator","id":"operator-1"},"attrs":{"mfa":true},"parents":[{"type":"Byoa::Role","id":"release-manager"}]}
        "#);
        let viewer = sampler.of_role("viewer");
        assert!(viewer.witness(&environment("Operator RotateSecret OrgAgent"), 200, allowed).is_none());
        assert!(viewer.witness(&environment("Operator ReadAudit Gateway"), 200, allowed).is_some());
    }

    #[test]
    fn words_are_read_where_policies_write_them() {
        let policies: PolicySet = "permit (principal in Byoa::Org::\"zeta\", action, resource == Byoa::OrgAgent::\"bot\")
            when { context.method like \"get*\" && !(context.n < 300) && [\"a b\"].contains(context.m) && context.on == false }
            unless { principal.off || resource.active };
            permit (principal, action, resource) when { principal.off };"
            .parse()
            .unwrap();
        let mut words = Words::default();
        words.read(&policies);
        insta::assert_snapshot!(format!("{:?}\n{:?}\n{:?}\n{:?}", words.ids, words.texts, words.longs, words.wishes), @r#"
        {"Org": {"zeta"}, "OrgAgent": {"bot"}}
        {"a b", "getx"}
        {299, 300, 301}
        {"active": (0, 1), "off": (1, 1), "on": (0, 1)}
        "#);
        let pool = Pool::new([1, 2, 7], &BTreeSet::from([7, 9]), &BTreeSet::from([5, 7, 9]));
        assert_eq!((pool.values, pool.own, pool.near, pool.named), (vec![1, 2, 7, 9, 5], 2, 2, true));
    }
}
