//! Two laws side by side: which policies differ as text, which kinds of request are decided otherwise, with a request that
//! shows it, and which given questions come out otherwise. Neither law is in force for that. Prints nothing. Floor 5.

use std::collections::{BTreeMap, BTreeSet};

use cedar_policy::{Policy, PolicyId, PolicySet};
use serde_json::Value;

use super::case::Case;
use super::decide::{Law, Place, Ruling};
use super::matrix::How;
use super::reach::{Clauses, Line};
use super::row::{Want, as_row};
use super::sample::Sampler;
use super::vocabulary::{Environment, Vocabulary};
use super::{Snapshot, limits};

/// Requests of each kind that are put to both laws.
pub const SAMPLES: u64 = 2_000;
/// Looks for plainer witnesses until here; then one each way is enough.
const ENOUGH: u64 = 200;

/// How a policy's text differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Edit {
    /// Only the new law has it.
    Added,
    /// Only the old law had it.
    Removed,
    /// It is other Cedar.
    Changed,
    /// It is the same Cedar with other annotations: it says something else.
    Reworded,
}

/// A policy that is not the same in both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TextChange {
    /// How.
    pub edit: Edit,
    /// Which.
    pub id: String,
    /// Where it stood.
    pub from: Option<Place>,
    /// Where it stands.
    pub to: Option<Place>,
}

/// A request that the two laws answer differently.
#[derive(Clone, PartialEq, Debug)]
pub struct Witness {
    /// The request.
    pub case: Case,
    /// The old law's answer.
    pub from: Ruling,
    /// The new law's.
    pub to: Ruling,
}

impl Witness {
    fn deciding(&self) -> usize {
        self.from.policies.len() + self.to.policies.len()
    }

    /// As a row that a decision table takes, wanting the new law's answer.
    pub fn row(&self, name: &str) -> String {
        as_row(name, &self.case, &Want::of(&self.to))
    }
}

/// What becomes of one kind of request.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Which.
    pub environment: Environment,
    /// A request that only the new law permits.
    pub more: Option<Witness>,
    /// A request that only the old law permitted.
    pub less: Option<Witness>,
    /// A request with the same answer for another reason: another code, or other policies.
    pub reason: Option<Witness>,
    /// How it is known that there is no other difference.
    pub how: How,
}

impl Change {
    /// `=` the same, `+` more is permitted, `-` less, `±` both, `~` only the reason is another.
    pub fn mark(&self) -> char {
        match (&self.more, &self.less, &self.reason) {
            (Some(_), Some(_), _) => '±',
            (Some(_), None, _) => '+',
            (None, Some(_), _) => '-',
            (None, None, Some(_)) => '~',
            (None, None, None) => '=',
        }
    }

    /// The witnesses, each with what it shows.
    pub fn witnesses(&self) -> impl Iterator<Item = (&'static str, &Witness)> {
        // A reason that is another too would only distract from an answer that is.
        let reason = self.reason.as_ref().filter(|_| self.mark() == '~');
        let all = [("more", self.more.as_ref()), ("less", self.less.as_ref()), ("reason", reason)];
        all.into_iter().filter_map(|(what, witness)| Some((what, witness?)))
    }
}

/// Requests that a solver found, each permitted by one law only; where it has none, there are none.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Proof {
    /// Permitted by the new law only.
    pub more: Option<Case>,
    /// Permitted by the old law only.
    pub less: Option<Case>,
}

/// Asks a solver about a kind of request; none where it has no answer. It is asked only where samples do not show both.
pub type Prover<'p> = &'p dyn Fn(&Environment) -> Option<Proof>;

/// Given questions, put to both laws.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Replay {
    /// How many were decided by both.
    pub decided: usize,
    /// Those that come out otherwise: answer, code or policies.
    pub flips: Vec<(String, Witness)>,
    /// Why the others could not be decided, with how many.
    pub undecided: BTreeMap<String, usize>,
}

/// Policies that differ as text, sorted.
pub fn text(from: &Snapshot, to: &Snapshot) -> Vec<TextChange> {
    limits::with_most_room(|| texts(from, to))
}

fn texts(from: &Snapshot, to: &Snapshot) -> Vec<TextChange> {
    let (from, to) = (&from.law, &to.law);
    let both: BTreeSet<&PolicyId> = from.policies.policies().chain(to.policies.policies()).map(Policy::id).collect();
    let change = |id: &PolicyId| {
        let edit = match (from.policies.policy(id), to.policies.policy(id)) {
            (None, _) => Edit::Added,
            (_, None) => Edit::Removed,
            (Some(was), Some(is)) if cedar(was) != cedar(is) => Edit::Changed,
            (Some(was), Some(is)) if annotations(was) != annotations(is) => Edit::Reworded,
            _ => return None,
        };
        let place = |law: &Law| law.policies.policy(id).and_then(|_| law.places.get(id).cloned());
        Some(TextChange { edit, id: id.to_string(), from: place(from), to: place(to) })
    };
    let mut all: Vec<TextChange> = both.into_iter().filter_map(change).collect();
    all.sort_by(|a, b| (a.edit, &a.id).cmp(&(b.edit, &b.id)));
    all
}

/// What is decided, however it is laid out.
fn cedar(policy: &Policy) -> Value {
    let mut json = policy.to_json().unwrap_or_default();
    if let Some(parts) = json.as_object_mut() {
        parts.remove("annotations");
    }
    json
}

fn annotations(policy: &Policy) -> BTreeMap<&str, &str> {
    policy.annotations().collect()
}

/// What becomes of every kind of request, sorted.
pub fn meaning(from: &Snapshot, to: &Snapshot, prover: Option<Prover<'_>>) -> Vec<Change> {
    limits::with_most_room(|| meanings(from, to, prover))
}

fn meanings(from: &Snapshot, to: &Snapshot, prover: Option<Prover<'_>>) -> Vec<Change> {
    let (from, to) = (&from.law, &to.law);
    let (was, is) = (Clauses::of(&from.policies), Clauses::of(&to.policies));
    let (gone, come) = (differing(from, to), differing(to, from));
    let sampler = Sampler::about(&[&from.policies, &to.policies], &[&gone, &come]);
    let can_decide = |law: &Law, clauses: &[Clauses<'_>], changed: &PolicySet, line: &Line| {
        clauses.iter().any(|c| changed.policy(c.policy.id()).is_some() && c.applies(line, &law.base) != Some(false))
    };
    let change = |environment: Environment| {
        let line = Line::from(environment);
        let touched = can_decide(from, &was, &gone, &line) || can_decide(to, &is, &come, &line);
        let Line { environment, .. } = line;
        if !touched {
            return Change { environment, more: None, less: None, reason: None, how: How::TypeCheck };
        }
        tried(&sampler, from, to, environment, prover)
    };
    Vocabulary::get().environments().into_iter().map(change).collect()
}

/// The policies of one law that the other does not have like this. A code is part of an answer; other words are not.
fn differing(law: &Law, other: &Law) -> PolicySet {
    let same = |policy: &Policy| {
        let other = other.policies.policy(policy.id());
        other.is_some_and(|other| cedar(other) == cedar(policy) && other.annotation("code") == policy.annotation("code"))
    };
    // They stand in one set already, so their ids are not taken.
    PolicySet::from_policies(law.policies.policies().filter(|p| !same(p)).cloned()).unwrap_or_else(|_| law.policies.clone())
}

fn tried(sampler: &Sampler, from: &Law, to: &Law, environment: Environment, prover: Option<Prover<'_>>) -> Change {
    let mut found: [Option<(u64, Witness)>; 3] = [None, None, None];
    let [more, less, reason] = &mut found;
    for n in 0..SAMPLES {
        let Some(witness) = put(from, to, sampler.case(&environment, n)) else { continue };
        let best = match Shows::of(&witness) {
            Some(Shows::More) => &mut *more,
            Some(Shows::Less) => &mut *less,
            Some(Shows::Reason) => &mut *reason,
            None => continue,
        };
        // The fewer policies decide, the plainer it is which one matters.
        if best.as_ref().is_none_or(|(_, best)| witness.deciding() < best.deciding()) {
            *best = Some((n, witness));
        }
        if n > ENOUGH && more.is_some() && less.is_some() {
            break;
        }
    }
    let [more, less, reason] = found.map(|found| {
        let (n, Witness { from: was, to: is, .. }) = found?;
        // With the same answers: smaller must not become another story.
        let wanted = |case: &Case| put(from, to, case.clone()).is_some_and(|other| other.from == was && other.to == is);
        put(from, to, sampler.smallest(&environment, n, wanted))
    });
    let mut change = Change { environment, more, less, reason, how: How::Sampled };
    if change.mark() != '±'
        && let Some(proof) = prover.and_then(|ask| ask(&change.environment))
    {
        // What a solver says is put to the laws like everything else.
        let found = |case: Option<Case>, shows| put(from, to, case?).filter(|witness| Shows::of(witness) == Some(shows));
        change.more = change.more.or_else(|| found(proof.more, Shows::More));
        change.less = change.less.or_else(|| found(proof.less, Shows::Less));
        change.how = How::Proved;
    }
    change
}

/// What a request shows of two laws.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shows {
    More,
    Less,
    Reason,
}

impl Shows {
    fn of(witness: &Witness) -> Option<Self> {
        match (witness.from.code.is_none(), witness.to.code.is_none()) {
            (false, true) => Some(Self::More),
            (true, false) => Some(Self::Less),
            _ => (witness.from != witness.to).then_some(Self::Reason),
        }
    }
}

fn put(from: &Law, to: &Law, case: Case) -> Option<Witness> {
    put_or_why(from, to, case).ok()
}

/// One request, held to the schema once: both laws ask in the same one.
fn put_or_why(from: &Law, to: &Law, case: Case) -> Result<Witness, String> {
    let (request, entities) = case.request(from).map_err(|unfit| unfit.to_string())?;
    let (from, to) = (from.rule(&case.action, &request, &entities), to.rule(&case.action, &request, &entities));
    Ok(Witness { case, from, to })
}

/// Puts given questions to both laws. One that did not become a question comes with why not.
pub fn replay(from: &Snapshot, to: &Snapshot, questions: impl IntoIterator<Item = (String, Result<Case, String>)>) -> Replay {
    let mut replay = Replay::default();
    for (name, question) in questions {
        match question.and_then(|case| put_or_why(&from.law, &to.law, case)) {
            Err(why) => *replay.undecided.entry(why).or_default() += 1,
            Ok(witness) => {
                replay.decided += 1;
                if Shows::of(&witness).is_some() {
                    replay.flips.push((name, witness));
                }
            }
        }
    }
    replay
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use serde_json::json;

    use super::super::law_tests::Disk;
    use super::*;

    const LOOK: &str = "@id(\"look\") @reason(\"r\") permit (principal is Byoa::Operator, action == Byoa::Action::\"ReadAudit\", resource)";
    const ENTER: &str = "@id(\"enter\") @reason(\"r\") permit (principal is Byoa::Org, action == Byoa::Action::\"EnterRollout\", resource)";
    const STOP: &str = "@id(\"stop\") @reason(\"r\") @code(\"policy.forbidden\")
        forbid (principal is Byoa::Operator, action == Byoa::Action::\"ReadAudit\", resource) when { !principal.mfa };";

    fn law(text: &str) -> Snapshot {
        let disk = Disk::empty();
        disk.write("a.cedar", text);
        disk.load().unwrap_or_else(|e| panic!("{e}"))
    }

    fn line(place: &Option<Place>) -> String {
        place.as_ref().map_or("-".into(), |place| place.line.to_string())
    }

    /// The marks of what is not the same by type-check, with the answers that show it.
    fn marks(from: &str, to: &str) -> String {
        let changes = meaning(&law(from), &law(to), None);
        assert_eq!(changes.len(), Vocabulary::get().environments().len());
        let side = |r: &Ruling| format!("{} {}", r.code.map_or("allow", |code| code.as_str()), r.policies.join(" "));
        let shown = |(what, w): (&str, &Witness)| format!("\n  {what}: {} -> {}", side(&w.from), side(&w.to));
        let lines = changes.iter().filter(|change| change.how != How::TypeCheck);
        lines
            .map(|c| format!("{} {}{}", c.mark(), c.environment, c.witnesses().map(shown).collect::<String>()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn text_is_compared_as_cedar() {
        let from =
            law(&format!("{LOOK};\n{STOP}\n@id(\"a\") @reason(\"r\") permit (principal is Byoa::Operator, action, resource);\n\n{ENTER};"));
        let to = law(&format!(
            "// moved, laid out otherwise\n{}\n  when   {{ principal.mfa }};\n{}\n{ENTER}\n  ;@id(\"b\") @reason(\"r\") permit (principal is Byoa::Operator, action, resource);",
            LOOK,
            STOP.replace("policy.forbidden", "org.suspended"),
        ));
        let changes = text(&from, &to);
        let told: Vec<String> = changes.iter().map(|c| format!("{:?} {} {} {}", c.edit, c.id, line(&c.from), line(&c.to))).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        Added b - 7
        Removed a 4 -
        Changed look 1 2
        Reworded stop 2 4
        "#);
        assert_eq!(text(&from, &from), []);
    }

    #[test]
    fn a_limit_that_moved_is_shown_between_the_two() {
        let limit = |n: u32| {
            law(&format!(
                "{ENTER} when {{ resource.provider == context.provider && resource.enabled && resource.stage == Byoa::Stage::\"on\" && context.bucket < {n} }};"
            ))
        };
        let changes = meaning(&limit(300), &limit(60), None);
        let change = changes.iter().find(|change| change.mark() != '=').unwrap();
        assert_eq!((change.mark(), change.environment.to_string().as_str()), ('-', "Org EnterRollout Flag"));
        let bucket = change.less.as_ref().unwrap().case.context["bucket"].as_i64().unwrap();
        assert!((60..300).contains(&bucket), "{bucket}");
        assert_eq!(meaning(&limit(60), &limit(300), None).iter().map(Change::mark).filter(|mark| *mark != '=').collect::<String>(), "+");
    }

    #[test]
    fn every_kind_of_change_has_its_mark() {
        let when = |condition: &str| format!("{LOOK} when {{ {condition} }};");
        let all = [
            marks(&when("principal.mfa"), &when("principal.mfa || principal in Byoa::Role::\"viewer\"")),
            marks(&when("principal.mfa"), &when("!principal.mfa")),
            marks(&format!("{LOOK};"), &format!("{LOOK};{STOP}")),
            marks(&format!("{LOOK};{STOP}"), &format!("{LOOK};")),
            // Another code; another policy that decides; the same in other words.
            marks(&format!("{LOOK};{STOP}"), &format!("{LOOK};{}", STOP.replace("policy.forbidden", "org.suspended"))),
            marks(&format!("{LOOK};"), &format!("{};", LOOK.replace("look", "watch"))),
            // A reason beside an answer is not shown.
            marks(&format!("{LOOK};"), &format!("{};{STOP}", LOOK.replace("look", "watch"))),
            marks(
                &when("principal.mfa && principal in Byoa::Role::\"viewer\""),
                &when("principal in Byoa::Role::\"viewer\" && principal.mfa"),
            ),
            // Other words for people are no other meaning.
            marks(&format!("{LOOK};"), &format!("{};", LOOK.replace("\"r\"", "\"because\""))),
        ];
        insta::assert_snapshot!(all.join("\n--\n"), @r#"
        + Operator ReadAudit Gateway
          more: policy.no_permit  -> allow look
        --
        ± Operator ReadAudit Gateway
          more: policy.no_permit  -> allow look
          less: allow look -> policy.no_permit 
        --
        - Operator ReadAudit Gateway
          less: allow look -> policy.forbidden stop
        --
        + Operator ReadAudit Gateway
          more: policy.forbidden stop -> allow look
        --
        ~ Operator ReadAudit Gateway
          reason: policy.forbidden stop -> org.suspended stop
        --
        ~ Operator ReadAudit Gateway
          reason: allow look -> allow watch
        --
        - Operator ReadAudit Gateway
          less: allow look -> policy.forbidden stop
        --
        = Operator ReadAudit Gateway
        --
        "#);
    }

    #[test]
    fn of_many_policies_those_that_changed_are_tried() {
        let forbid = |n: u32| {
            let scope = format!("principal in Byoa::Org::\"org-{n}\", action == Byoa::Action::\"RouteMessage\", resource");
            format!("@id(\"f{n}\") @reason(\"r\") @code(\"org.suspended\") forbid ({scope});\n")
        };
        let all: String = (0..300).map(forbid).collect();
        let (from, to) = (law(&all), law(&all.replace("org-7\"", "org-7000\"")));
        let (gone, come) = (differing(&from.law, &to.law), differing(&to.law, &from.law));
        assert_eq!((gone.num_of_policies(), come.num_of_policies()), (1, 1));
        let sampler = Sampler::about(&[&from.law.policies, &to.law.policies], &[&gone, &come]);
        let environment =
            Environment { principal: "PlatformInstallation".into(), action: "RouteMessage".into(), resource: "OrgAgent".into() };
        let names = |n| sampler.case(&environment, n).entities.to_string();
        let met = (0..200).filter(|n| ["\"org-7\"", "\"org-7000\""].iter().any(|org| names(*n).contains(org))).count();
        assert!(met > 80, "{met}");
    }

    #[test]
    fn a_witness_tells_one_story_however_small() {
        let most = STOP.replace("stop", "most").replace("when { !principal.mfa }", "unless { principal in Byoa::Role::\"security\" }");
        let to = STOP.replace("policy.forbidden", "org.suspended");
        let changes = meaning(&law(&format!("{LOOK};{STOP}{most}")), &law(&format!("{LOOK};{to}{most}")), None);
        let reason = changes.iter().find_map(|change| change.reason.as_ref()).unwrap();
        assert_eq!((reason.from.policies.join(" "), reason.to.policies.join(" ")), ("stop".to_owned(), "stop".to_owned()));
    }

    #[test]
    fn a_solver_is_asked_where_samples_do_not_show_both() {
        let (from, to) = (law(&format!("{LOOK};")), law(&format!("{LOOK} when {{ principal.mfa }};")));
        let shown = meaning(&from, &to, None).into_iter().find(|change| change.mark() == '-').unwrap();
        let case = shown.less.unwrap().case;
        let asked = RefCell::new(Vec::new());
        let prover = |environment: &Environment| {
            asked.borrow_mut().push(environment.to_string());
            // What a solver says is put to the laws: this request is no witness of more.
            Some(Proof { more: Some(case.clone()), less: Some(case.clone()) })
        };
        let changes = meaning(&from, &to, Some(&prover));
        let change = changes.iter().find(|change| change.how == How::Proved).unwrap();
        assert_eq!((change.mark(), asked.into_inner()), ('-', vec!["Operator ReadAudit Gateway".to_owned()]));
    }

    #[test]
    fn given_questions_are_put_to_both() {
        let (from, to) = (law(&format!("{LOOK};")), law(&format!("{LOOK};{STOP}")));
        let ask = |mfa: bool| Case {
            action: "ReadAudit".into(),
            principal: "Byoa::Operator::\"ann\"".into(),
            resource: "Byoa::Gateway::\"byoa\"".into(),
            context: json!({}),
            entities: json!([{
                "uid": {"type": "Byoa::Operator", "id": "ann"}, "attrs": {"mfa": mfa}, "parents": [{"type": "Byoa::Role", "id": "viewer"}]
            }]),
        };
        let odd = Case { resource: "Byoa::Org::\"acme\"".into(), ..ask(true) };
        let questions =
            [("a", Ok(ask(true))), ("b", Ok(ask(false))), ("c", Ok(odd.clone())), ("d", Ok(odd)), ("e", Err("cut short".into()))];
        let replay = replay(&from, &to, questions.map(|(name, question)| (name.to_owned(), question)));
        assert_eq!(replay.decided, 2);
        let flips: Vec<String> = replay.flips.iter().map(|(name, w)| format!("{name} {:?} {:?}", w.from.code, w.to.code)).collect();
        assert_eq!(flips, ["b None Some(PolicyForbidden)"]);
        let undecided: Vec<(usize, &str)> = replay.undecided.iter().map(|(why, n)| (*n, why.as_str())).collect();
        insta::assert_snapshot!(format!("{undecided:?}"), @r#"[(1, "cut short"), (2, "resource type `Byoa::Org` is not valid for `Byoa::Action::\"ReadAudit\"`")]"#);
    }

    #[test]
    fn a_witness_is_a_row() {
        let changes = meaning(&law(&format!("{LOOK};")), &law(&format!("{LOOK};{STOP}")), None);
        let change = changes.iter().find(|change| change.mark() == '-').unwrap();
        insta::assert_snapshot!(change.less.as_ref().unwrap().row("without a second factor"), @r#"
        - name: without a second factor
          ask: ReadAudit
          principal: Operator operator-1
          resource: Gateway byoa
          given:
            Operator operator-1: {mfa: false, role: viewer}
          want: {decision: refuse, code: policy.forbidden, policies: [stop]}
        "#);
    }
}
