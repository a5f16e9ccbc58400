//! Each org's folder by itself: what stands in place of a folder that is rejected, and the set that is made of it. An org's
//! last accepted files go on deciding for that org; where none are known, two forbids refuse everything of it. Never changes
//! what is decided for anybody else. Floor 5.

use std::borrow::Cow;
use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::fault::{LoadError, Told};
use super::load::{House, Source, Sources, org_of};
use crate::domain::ids::OrgId;
use crate::domain::reason::ReasonCode;

/// What every `@id` of an org's policies begins with.
pub(super) fn prefix(org: &OrgId) -> String {
    format!("org.{org}.")
}

/// The org that a policy's `@id` belongs to, where it is an org's.
pub(super) fn owner(id: &str) -> Option<OrgId> {
    let (org, _) = id.strip_prefix("org.")?.split_once('.')?;
    OrgId::parse(org).ok()
}

/// The files of each org in the set that was accepted last, looked up only where an org's folder is rejected.
pub type Last<'l> = LazyCell<LastFiles, Box<dyn FnOnce() -> LastFiles + Send + 'l>>;

/// For the case that no set is known.
pub fn none() -> Last<'static> {
    Last::new(Box::new(LastFiles::default))
}

/// The files of each org in the set that was accepted last.
#[derive(Clone, Default)]
pub struct LastFiles {
    /// True where any set is known.
    known: bool,
    files: BTreeMap<OrgId, Vec<Source>>,
    /// Orgs that had no accepted files at all in that set.
    without: BTreeSet<OrgId>,
}

impl LastFiles {
    /// Of a set's files, each its path below the folder and its text, and of the orgs that had no files in it because theirs
    /// were rejected.
    pub(super) fn new<'f>(
        dir: &str,
        files: impl IntoIterator<Item = (&'f str, &'f str)>,
        without: impl IntoIterator<Item = OrgId>,
    ) -> Self {
        let mut last = Self { known: true, without: without.into_iter().collect(), ..Self::default() };
        for (path, text) in files {
            if let Some(org) = org_of(path).filter(|_| path.ends_with(".cedar")) {
                let file = format!("{dir}/{path} (last accepted)");
                let source = Source { file, path: path.to_owned(), house: House::Org(org.clone()), text: text.to_owned() };
                last.files.entry(org).or_default().push(source);
            }
        }
        last
    }

    /// The org's files, which may be none; `None` where it is not known which they were.
    fn of(&self, org: &OrgId) -> Option<&[Source]> {
        let known = self.known && !self.without.contains(org);
        known.then(|| self.files.get(org).map(Vec::as_slice).unwrap_or_default())
    }
}

/// The files that decide for an org whose folder is rejected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum InForce {
    /// The files that were accepted last.
    LastAccepted,
    /// No files are known: everything of the org is refused with `policy.org_rejected`.
    Nothing,
}

/// An org's folder that is not in force as it is on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct OrgRejected {
    /// The org that it belongs to.
    pub org: OrgId,
    /// The reason code.
    pub code: ReasonCode,
    /// The files that decide in its place.
    pub in_force: InForce,
    /// Every fault, with its place and without the text of files.
    pub diagnostics: Vec<Told>,
}

/// The folders that are rejected so far.
#[derive(Default)]
pub(super) struct Rejections(BTreeMap<OrgId, OrgRejected>);

impl Rejections {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_list(self) -> Vec<OrgRejected> {
        self.0.into_values().collect()
    }

    pub fn orgs(&self) -> BTreeSet<OrgId> {
        self.0.keys().cloned().collect()
    }

    /// Takes faults as those of the orgs that they name: a folder's first fault puts its last accepted files in its place, a
    /// fault of those puts nothing there.
    ///
    /// # Errors
    /// The faults, where one of them is no org's, or where an org that is at fault has nothing left to be taken away.
    pub fn blame(&mut self, error: LoadError, sources: &Sources, last: &LastFiles) -> Result<(), LoadError> {
        let of_orgs = error.diagnostics.iter().all(|fault| !fault.orgs.is_empty());
        let at_fault: BTreeSet<OrgId> = error.diagnostics.iter().flat_map(|fault| fault.orgs.iter().cloned()).collect();
        if !of_orgs || at_fault.is_empty() {
            return Err(error);
        }
        for org in at_fault {
            let known = last.of(&org);
            let in_force = match self.0.get(&org).map(|rejected| rejected.in_force) {
                // A table that names an org without files is not that org's fault.
                None if known.is_none_or(<[_]>::is_empty) && !sources.has_folder(&org) => return Err(error),
                None if known.is_some() => InForce::LastAccepted,
                None | Some(InForce::LastAccepted) => InForce::Nothing,
                Some(InForce::Nothing) => return Err(error),
            };
            match self.0.get_mut(&org) {
                Some(rejected) => rejected.in_force = in_force,
                None => {
                    let own = error.diagnostics.iter().filter(|fault| fault.orgs.contains(&org)).cloned().collect();
                    // One org's text may be too large and another's no Cedar: the code is that of its own faults.
                    let code = if error.code == ReasonCode::PolicyTooComplex { ReasonCode::PolicyInvalid } else { error.code };
                    let own = LoadError::new(code, own);
                    let rejected = OrgRejected { org: org.clone(), code: own.code, in_force, diagnostics: own.told() };
                    self.0.insert(org, rejected);
                }
            }
        }
        Ok(())
    }

    /// The set with what stands in place of rejected folders.
    pub fn composed<'s>(&self, sources: &'s Sources, last: &LastFiles) -> Cow<'s, Sources> {
        if self.is_empty() {
            return Cow::Borrowed(sources);
        }
        let stays = |source: &&Source| !matches!(&source.house, House::Org(org) if self.0.contains_key(org));
        let mut files: Vec<Source> = sources.files.iter().filter(stays).cloned().collect();
        for rejected in self.0.values() {
            match (rejected.in_force, last.of(&rejected.org)) {
                (InForce::LastAccepted, Some(kept)) => files.extend(kept.iter().cloned()),
                _ => files.push(refusing(&rejected.org, sources)),
            }
        }
        Cow::Owned(sources.with_files(files))
    }
}

/// Refuses everything of an org, in place of what is not known of it. Its actions are those that an org's own policies may
/// name, so operators are not concerned.
fn refusing(org: &OrgId, sources: &Sources) -> Source {
    let path = format!("orgs/{org}");
    let forbid = |id: &str, scope: &str| {
        format!(
            "@id(\"{}{id}\")\n@reason(\"The org's policy files are rejected, and none of them were accepted before\")\n\
             @code(\"{}\")\nforbid ({scope});\n",
            prefix(org),
            ReasonCode::PolicyOrgRejected,
        )
    };
    let asks =
        format!("principal in Byoa::Org::\"{org}\", action in [Byoa::Action::\"Deliver\", Byoa::Action::\"EnterRollout\"], resource");
    let is_asked = format!("principal, action in Byoa::Action::\"Deliver\", resource in Byoa::Org::\"{org}\"");
    let text = forbid("rejected.principal", &asks) + &forbid("rejected.resource", &is_asked);
    Source { file: format!("{}/{path}", sources.dir), path, house: House::Gateway, text }
}

#[cfg(test)]
mod tests {
    use super::super::Snapshot;
    use super::super::accept::{Passed, Terms};
    use super::super::law_tests::{Disk, SCHEMA_FILE};
    use super::super::lock::{LOCK, Lock};
    use super::*;
    use crate::domain::clock::Timestamp;

    const TABLE: &str = "about: Which agent hears.\nask: RouteMessage\n\
        given:\n  Org acme: {suspended: false, fallbackOptIn: []}\n  Org globex: {suspended: false, fallbackOptIn: []}\n\
        \x20 ByoaInstallation acme-slack: {provider: slack, owner: acme, org: acme, active: true}\n\
        \x20 ByoaInstallation globex-slack: {provider: slack, owner: globex, org: globex, active: true}\n\
        \x20 OrgAgent support: {org: acme}\n  OrgAgent helper: {org: globex}\n\
        defaults:\n  principal: ByoaInstallation acme-slack\n  resource: OrgAgent support\n\
        \x20 context: {eventType: message.received, fromBot: true, freshness: fresh}\nrows:\n";

    fn forbid(org: &str, name: &str, when: &str) -> String {
        format!(
            "@id(\"org.{org}.{name}\") @reason(\"r\") @code(\"policy.forbidden\")\n\
             forbid (principal in Byoa::Org::\"{org}\", action == Byoa::Action::\"RouteMessage\", resource) when {{ {when} }};\n"
        )
    }

    fn terms(disk: &Disk) -> Terms {
        Terms {
            dir: disk.path().to_owned(),
            schema: SCHEMA_FILE.into(),
            gate_tables: true,
            require_lock: false,
            platform_limits: Default::default(),
        }
    }

    fn accept(disk: &Disk, last: LastFiles) -> Result<Passed, LoadError> {
        let terms = terms(disk);
        terms.accept(terms.read()?, &Last::new(Box::new(move || last)), Timestamp::default())
    }

    /// The orgs' files of what passed.
    fn kept(passed: &Passed) -> LastFiles {
        let without = passed.orgs.iter().filter(|o| o.in_force == InForce::Nothing).map(|o| o.org.clone());
        let files = passed.snapshot.texts().iter().map(|(path, text)| (path.as_str(), text.as_str()));
        LastFiles::new("kept", files, without)
    }

    fn shown(passed: &Passed) -> String {
        let orgs = passed.orgs.iter().map(|o| format!("{} {} {:?}", o.org, o.code, o.in_force));
        orgs.collect::<Vec<_>>().join(", ")
    }

    fn ids(law: &Snapshot) -> Vec<String> {
        let mut ids: Vec<String> = law.law.policies.policies().map(|p| p.id().to_string()).filter(|id| id.starts_with("org.")).collect();
        ids.sort();
        ids
    }

    #[test]
    fn an_id_says_whose_it_is() {
        let org = |id: &str| owner(id).map(|org| org.to_string());
        assert_eq!(org("org.acme.no-bots").as_deref(), Some("acme"));
        assert_eq!(org("org.acme.a.b").as_deref(), Some("acme"));
        for id in ["org.acme", "org..a", "organ.acme.a", "acme.no-bots", "org.Acme.a"] {
            assert_eq!(org(id), None, "{id}");
        }
    }

    #[test]
    fn each_orgs_folder_is_rejected_by_itself() {
        let disk = Disk::starter();
        disk.write("orgs/acme/a.cedar", &forbid("acme", "a", "context.fromBot"));
        disk.write("orgs/globex/a.cedar", &forbid("globex", "a", "context.fromBot"));
        let good = accept(&disk, LastFiles::default()).unwrap();
        assert_eq!((shown(&good), ids(&good.snapshot)), (String::new(), vec!["org.acme.a".to_owned(), "org.globex.a".to_owned()]));

        disk.write("orgs/acme/b.cedar", "forbid (principal");
        disk.write("orgs/globex/b.cedar", &forbid("globex", "b", "context.fromBot"));
        let passed = accept(&disk, kept(&good)).unwrap();
        assert_eq!(shown(&passed), "acme policy.invalid LastAccepted");
        assert_eq!(ids(&passed.snapshot), ["org.acme.a", "org.globex.a", "org.globex.b"]);
        let places = &passed.snapshot.law.places;
        assert!(places.values().any(|place| place.file == "kept/orgs/acme/a.cedar (last accepted)"), "{places:?}");

        let unknown = accept(&disk, LastFiles::default()).unwrap();
        assert_eq!(shown(&unknown), "acme policy.invalid Nothing");
        let refuses = ["org.acme.rejected.principal", "org.acme.rejected.resource", "org.globex.a", "org.globex.b"];
        assert_eq!(ids(&unknown.snapshot), refuses);
        // What refuses in place of files is nobody's file.
        assert!(unknown.snapshot.texts().iter().all(|(path, _)| !path.contains("acme")));
        let again = accept(&disk, kept(&unknown)).unwrap();
        assert_eq!((shown(&again), again.snapshot.version()), (shown(&unknown), unknown.snapshot.version()));

        // The last accepted files of an older build may be none for this one.
        let old = LastFiles::new("kept", [("orgs/acme/a.cedar", "@id(\"acme.a\") forbid (principal, action, resource);")], []);
        assert_eq!(shown(&accept(&disk, old).unwrap()), "acme policy.invalid Nothing");

        // What was accepted as no files at all stays no files.
        disk.write("orgs/initech/a.cedar", "x");
        let both = accept(&disk, kept(&good)).unwrap();
        assert_eq!(shown(&both), "acme policy.invalid LastAccepted, initech policy.invalid LastAccepted");
        assert_eq!(ids(&both.snapshot), ["org.acme.a", "org.globex.a", "org.globex.b"]);

        disk.write("platform/99-a.cedar", "x");
        assert_eq!(accept(&disk, kept(&good)).err().unwrap().code, ReasonCode::PolicyInvalid);
    }

    #[test]
    fn an_orgs_folder_that_cannot_be_read_is_that_orgs_fault() {
        let disk = Disk::starter();
        disk.write("orgs/globex/a.cedar", &forbid("globex", "a", "context.fromBot"));
        let good = accept(&disk, LastFiles::default()).unwrap();
        disk.write(&format!("orgs/acme/{}x.cedar", "d/".repeat(20)), "deep");
        assert_eq!(shown(&accept(&disk, kept(&good)).unwrap()), "acme policy.invalid LastAccepted");
        disk.write_bytes("orgs/globex/b.cedar", b"\xff");
        let passed = accept(&disk, kept(&good)).unwrap();
        assert_eq!(shown(&passed), "acme policy.invalid LastAccepted, globex policy.invalid LastAccepted");
        disk.write("orgs/globex/b.cedar", &" ".repeat(70_000));
        let passed = accept(&disk, kept(&good)).unwrap();
        assert_eq!(shown(&passed), "acme policy.invalid LastAccepted, globex policy.too_complex LastAccepted");
        // More files than one org may have; the others are read all the same.
        for n in 0..=1_000 {
            disk.write(&format!("orgs/initech/{n}.cedar"), "x");
        }
        assert!(shown(&accept(&disk, kept(&good)).unwrap()).ends_with("initech policy.invalid LastAccepted"));
        disk.write("orgs/globex/b.cedar", &forbid("globex", "b", "context.fromBot"));
        // A folder that is no org's is the platform's mistake.
        disk.write("orgs/No Org/a.cedar", "x");
        assert_eq!(accept(&disk, kept(&good)).err().unwrap().code, ReasonCode::PolicyInvalid);
    }

    #[test]
    fn a_row_that_an_org_changes_is_that_orgs_fault_and_no_other() {
        let disk = Disk::starter();
        let hears = "  - {name: acme hears bots, want: {decision: allow, policies: [route.byoa]}}\n";
        disk.write("tables/a.yaml", &format!("{TABLE}{hears}"));
        let good = accept(&disk, LastFiles::default()).unwrap();
        assert_eq!(good.rows, 1);
        disk.write("orgs/acme/a.cedar", &forbid("acme", "a", "context.fromBot"));
        disk.write("orgs/globex/a.cedar", &forbid("globex", "a", "context.fromBot"));
        let passed = accept(&disk, kept(&good)).unwrap();
        assert_eq!(
            (shown(&passed), ids(&passed.snapshot)),
            ("acme policy.table_failed LastAccepted".into(), vec!["org.globex.a".to_owned()])
        );
        // Refused altogether, it answers rows about it otherwise, and nobody else waits for that.
        assert_eq!(shown(&accept(&disk, LastFiles::default()).unwrap()), "acme policy.table_failed Nothing");

        // A row that is written for what a folder should hold; also one that takes it out.
        let wants = "  - {name: acme hears no bots, want: {decision: refuse, code: policy.forbidden, policies: [org.acme.a]}}\n\
            \x20 - {name: but for that, without: [org.acme.a], want: {decision: allow, policies: [route.byoa]}}\n";
        disk.write("tables/a.yaml", &format!("{TABLE}{wants}"));
        assert_eq!(shown(&accept(&disk, kept(&good)).unwrap()), "");
        disk.write("orgs/acme/a.cedar", "forbid (");
        assert_eq!(shown(&accept(&disk, kept(&good)).unwrap()), "acme policy.invalid LastAccepted");

        // What the platform's policies answer otherwise is the platform's, whoever is rejected.
        let wrong = "  - {name: a bot of globex, principal: ByoaInstallation globex-slack, resource: OrgAgent helper, context: {fromBot: false}, \
            want: {decision: refuse, code: policy.no_permit, policies: []}}\n";
        disk.write("tables/a.yaml", &format!("{TABLE}{wrong}"));
        assert_eq!(accept(&disk, kept(&good)).err().unwrap().code, ReasonCode::PolicyTableFailed);
        // A row about an org that has no files is nobody's fault but the platform's.
        disk.write("tables/a.yaml", &format!("{TABLE}{}", wants.replace("org.acme", "org.nobody")));
        assert!(accept(&disk, kept(&good)).is_err());
    }

    #[test]
    fn a_file_that_is_not_as_it_was_locked_is_its_orgs_fault() {
        let disk = Disk::starter();
        disk.write("orgs/acme/a.cedar", &forbid("acme", "a", "context.fromBot"));
        let good = accept(&disk, LastFiles::default()).unwrap();
        disk.write(LOCK, &Lock::of(&good.sources, good.snapshot.policies(), None).text().unwrap());
        assert_eq!(shown(&accept(&disk, LastFiles::default()).unwrap()), "");
        disk.write("orgs/acme/a.cedar", &forbid("acme", "a", "!context.fromBot"));
        disk.write("orgs/globex/a.cedar", &forbid("globex", "a", "context.fromBot"));
        let passed = accept(&disk, kept(&good)).unwrap();
        assert_eq!(shown(&passed), "acme policy.lock_mismatch LastAccepted, globex policy.lock_mismatch LastAccepted");
        disk.write("platform/10-routing.cedar", "x");
        assert_eq!(accept(&disk, kept(&good)).err().unwrap().code, ReasonCode::PolicyLockMismatch);
    }
}
