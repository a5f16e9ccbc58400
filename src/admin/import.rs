//! Connections, bindings and sessions of an earlier system, taken over line by line. A line that does not say what it means is
//! skipped with its cause, never guessed at, and nothing that is there is overwritten. Part of `admin`, floor 7.

mod backfill;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::changes::Part;
use super::document::{Document, is_mutable};
use super::future::Future;
use super::resources::Plan;
use super::{Admin, AdminError, Asking};
use crate::crypto;
use crate::domain::clock::Timestamp;
use crate::domain::ids::{AgentId, BindingId, InstallationId, OrgId, ProfileId, SessionId};
use crate::domain::installation::{Mode, Ownership, ProviderKind};
use crate::domain::reason::ReasonCode;
use crate::domain::record::{AuditRecord, Decision};
use crate::policy::action::ApplyResources;
use crate::store::ImportedSession;

/// Lines, or bindings, in one transaction where nothing else is asked for.
pub const PAGE: usize = 100;
/// And at most.
pub const PAGE_MAX: usize = 250;
/// So many of what was skipped are listed.
const EXAMPLES: usize = 20;

/// Why a line, or a legacy binding, is left as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It is over 64 KiB.
    LineTooLong,
    /// It is not one strict JSON object.
    JsonInvalid,
    /// An earlier line of the file is of the same kind and id.
    DuplicateLine,
    /// Its secret names a variable or file that is not there.
    SecretUnreadable,
    /// It is neither connection nor binding nor session.
    UnknownKind,
    /// A field is missing, unknown or malformed, or two of them contradict each other.
    Invalid,
    /// There is no such org.
    UnknownOrg,
    /// There is no such provider.
    UnknownProvider,
    /// It does not say whose app the connection was made through.
    UnknownProfileType,
    /// There is no such app profile.
    UnknownProfile,
    /// Several app profiles could be meant.
    AmbiguousProfile,
    /// It names an installation or agent that the org does not have.
    UnknownReference,
    /// The account or the id is another's.
    IdentityTaken,
    /// The connection had been revoked.
    Revoked,
    /// The org has no installation that the binding could mean.
    MissingIdentity,
    /// Several installations could be meant.
    AmbiguousInstallation,
    /// The installation that is meant is not active.
    InactiveInstallation,
}

/// One thing that was skipped.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Example {
    /// Its line in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Why.
    pub cause: Cause,
    /// What about it.
    pub detail: String,
}

/// What became of lines, or of legacy bindings. A dry run's is the same as that of the run after it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// How many were looked at.
    pub processed: u64,
    /// How many of them are new, or were filled in.
    pub migrated: u64,
    /// How many were there, or were filled, before.
    pub already_done: u64,
    /// How many were left as they are, by cause.
    pub skipped: BTreeMap<Cause, u64>,
    /// The first of those.
    pub examples: Vec<Example>,
    /// Where the next page begins; none behind the last.
    pub next: Option<String>,
}

impl Report {
    /// Counts one that is left as it is.
    pub fn skip(&mut self, line: Option<u64>, id: Option<String>, cause: Cause, detail: String) {
        self.processed += 1;
        *self.skipped.entry(cause).or_default() += 1;
        self.list(Example { line, id, cause, detail });
    }

    /// Adds the report of another page.
    pub fn add(&mut self, page: Self) {
        self.processed += page.processed;
        self.migrated += page.migrated;
        self.already_done += page.already_done;
        for (cause, n) in page.skipped {
            *self.skipped.entry(cause).or_default() += n;
        }
        page.examples.into_iter().for_each(|e| self.list(e));
        self.next = page.next;
    }

    fn list(&mut self, example: Example) {
        let at = self.examples.partition_point(|e| e.line <= example.line);
        if at < EXAMPLES {
            self.examples.insert(at, example);
            self.examples.truncate(EXAMPLES);
        }
    }
}

/// An answer as JSON.
fn shown(report: &Report) -> Result<Json, AdminError> {
    serde_json::to_value(report).map_err(|e| AdminError::new(ReasonCode::IngressInternal, e.to_string()))
}

/// A page of an import.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    lines: Vec<Line>,
    #[serde(default)]
    dry_run: bool,
    /// `next` of the page before; none begins.
    #[serde(default)]
    cursor: Option<String>,
    /// Nothing comes after this page.
    #[serde(default)]
    last: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    line: u64,
    record: Json,
}

/// The state as a dry run's pages would have left it, for its next page: so that it says of a binding what the run will,
/// though the connection it names came pages ago and was not kept.
#[derive(Debug, Default)]
pub struct Rehearsal {
    cursor: String,
    future: Future,
    sessions: HashSet<SessionId>,
}

/// Why a line is skipped.
struct Skip(Cause, String);

type Taken = Result<bool, Skip>;

fn skip<T>(cause: Cause, detail: impl Into<String>) -> Result<T, Skip> {
    Err(Skip(cause, detail.into()))
}

impl From<AdminError> for Skip {
    fn from(error: AdminError) -> Self {
        let cause = match error.code {
            ReasonCode::AdminReferenceUnknown => Cause::UnknownReference,
            ReasonCode::AdminIdentityTaken => Cause::IdentityTaken,
            _ => Cause::Invalid,
        };
        Self(cause, error.detail)
    }
}

impl Admin {
    /// Takes over one page of lines: what is new of it is kept with one audit line each, all in one transaction. Each connection
    /// asks `ConnectInstallation`; where one is refused, the page is.
    ///
    /// # Errors
    /// The policies' refusal; `admin.resource_invalid` for what is no page; `admin.version_conflict` for a page of a dry run
    /// that is not under way; trouble of the store. Nothing of the page was kept then.
    pub async fn import(&self, asking: &Asking, page: Json) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, ApplyResources { operator: asking.facts() }, "import.apply", "resources").await?;
        let invalid = |what: String| AdminError::new(ReasonCode::AdminResourceInvalid, what);
        let page: Page = serde_json::from_value(page).map_err(|e| invalid(e.to_string()))?;
        if page.lines.len() > PAGE_MAX {
            return Err(invalid(format!("a page has {PAGE_MAX} lines at most")));
        }
        let _one_at_a_time = self.changing.lock().await;
        let known = self.known_sessions(&page.lines).await?;
        let Rehearsal { future, sessions, .. } = self.rehearsed(&page)?;
        let mut work = Work { plan: self.plan(future), known, sessions, fresh: Vec::new(), now: self.clock.now() };
        let mut report = Report::default();
        for line in page.lines {
            let id = line.record.get("id").and_then(Json::as_str).map(str::to_owned);
            match work.line(line.record) {
                Ok(true) => (report.processed, report.migrated) = (report.processed + 1, report.migrated + 1),
                Ok(false) => (report.processed, report.already_done) = (report.processed + 1, report.already_done + 1),
                Err(Skip(cause, detail)) => report.skip(Some(line.line), id, cause, detail),
            }
        }
        let Work { mut plan, sessions, fresh, .. } = work;
        let parts = std::mem::take(&mut plan.parts).into_iter().map(|part| Part { action: "import.apply", ..part });
        let lines = self.permitted(asking, parts.collect(), &decision).await?;
        if page.dry_run {
            let cursor = asking.request.to_string();
            report.next = (!page.last).then(|| cursor.clone());
            let next = (!page.last).then_some(Rehearsal { cursor, future: plan.future, sessions });
            *self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner) = next;
            return shown(&report);
        }
        self.commit(plan, lines).await?;
        if !fresh.is_empty() {
            let kept = fresh.into_iter().map(|session| self.with_line(asking, &decision, session)).collect();
            self.store.import_sessions(kept).await?;
        }
        shown(&report)
    }

    fn with_line(&self, asking: &Asking, decision: &Arc<Decision>, session: ImportedSession) -> (ImportedSession, AuditRecord) {
        let mut line = asking.line(&self.clock, "import.apply", format!("sessions/{}", session.id), Some(decision));
        line.org = Some(session.org.clone());
        (session, line)
    }

    /// Where a page starts from: what is there, or what the dry run before it would have left.
    fn rehearsed(&self, page: &Page) -> Result<Rehearsal, AdminError> {
        let Some(cursor) = page.cursor.as_ref().filter(|_| page.dry_run) else {
            return Ok(Rehearsal { future: Future::of(self.store.directory()), ..Rehearsal::default() });
        };
        let under_way = self.rehearsal.lock().unwrap_or_else(PoisonError::into_inner).take_if(|r| r.cursor == *cursor);
        under_way.ok_or_else(|| AdminError::new(ReasonCode::AdminVersionConflict, "this dry run is not under way; begin it again"))
    }

    /// The sessions of a page that are kept already, with their orgs.
    async fn known_sessions(&self, lines: &[Line]) -> Result<HashMap<SessionId, String>, AdminError> {
        let mut known = HashMap::new();
        for Line { record, .. } in lines {
            let text = |name| record.get(name).and_then(Json::as_str);
            if let (Some("session"), Some(org), Some(id)) = (text("kind"), text("org"), text("id")) {
                let id = session_id(org, id);
                if let Some(kept) = self.store.one("sessions", id.as_str()).await? {
                    known.insert(id, kept.get("org").and_then(Json::as_str).unwrap_or_default().to_owned());
                }
            }
        }
        Ok(known)
    }
}

/// A session's id: its own where it has our form, else one that follows from it, so that the next import finds it.
fn session_id(org: &str, id: &str) -> SessionId {
    SessionId::parse(id).unwrap_or_else(|| {
        let digest = hex::encode(crypto::sha256(format!("{org}/{id}").as_bytes()));
        SessionId::parse(&format!("ses_{digest:.26}")).unwrap_or_else(|| SessionId::numbered(0))
    })
}

/// A conversation as a line says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SessionLine {
    id: String,
    agent: AgentId,
    contact: String,
    conversation: Option<String>,
    thread: Option<String>,
    created_at: Timestamp,
    last_at: Timestamp,
}

/// A page under way.
struct Work<'a> {
    plan: Plan<'a>,
    known: HashMap<SessionId, String>,
    sessions: HashSet<SessionId>,
    fresh: Vec<ImportedSession>,
    now: Timestamp,
}

fn taken_text(record: &mut Map<String, Json>, name: &str) -> Result<Option<String>, Skip> {
    match record.remove(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => skip(Cause::Invalid, format!("{name} is no text")),
    }
}

fn needed<T>(value: Option<T>, name: &str) -> Result<T, Skip> {
    value.map_or_else(|| skip(Cause::Invalid, format!("{name} is missing")), Ok)
}

impl Work<'_> {
    /// Takes a line over: `true` where it is new, `false` where it is there already.
    fn line(&mut self, record: Json) -> Taken {
        let Json::Object(mut record) = record else { return skip(Cause::JsonInvalid, "a line is an object") };
        let kind = needed(taken_text(&mut record, "kind")?, "kind")?;
        if !["connection", "binding", "session"].contains(&kind.as_str()) {
            return skip(Cause::UnknownKind, format!("there is no kind `{kind}`; there are connection, binding and session"));
        }
        let org = needed(record.get("org").and_then(Json::as_str), "org")?;
        let Some(org) = OrgId::parse(org).ok().filter(|org| self.plan.future.orgs().contains_key(org)) else {
            return skip(Cause::UnknownOrg, format!("there is no org `{org}`"));
        };
        let word = needed(taken_text(&mut record, "provider")?, "provider")?;
        let Some(provider) = ProviderKind::parse(&word) else {
            return skip(Cause::UnknownProvider, format!("there is no provider `{word}`"));
        };
        match kind.as_str() {
            "connection" => self.connection(&org, provider, record),
            "binding" => self.binding(&org, provider, record),
            _ => self.session(org, provider, record),
        }
    }

    fn connection(&mut self, org: &OrgId, provider: ProviderKind, mut record: Map<String, Json>) -> Taken {
        if record.get("status").and_then(Json::as_str) == Some("revoked") {
            return skip(Cause::Revoked, "it was revoked; connect the account anew");
        }
        let id = needed(record.get("id").and_then(Json::as_str).and_then(|id| InstallationId::parse(id).ok()), "id")?;
        if let Some(there) = self.plan.future.installations().get(&id) {
            return if there.item.org == *org { Ok(false) } else { skip(Cause::IdentityTaken, format!("id `{id}` is another org's")) };
        }
        let mode = match taken_text(&mut record, "profile_type")?.as_deref() {
            Some("platform") => Some(Mode::Platform),
            Some("organization") => Some(Mode::Byoa),
            None if record.contains_key("profile") => None,
            said => {
                let detail = format!("profile_type is {}; it is platform or organization", said.unwrap_or("missing"));
                return skip(Cause::UnknownProfileType, detail);
            }
        };
        let app_id = taken_text(&mut record, "app_id")?;
        let profile = self.profile(org, provider, mode, taken_text(&mut record, "profile")?, app_id)?;
        record.insert("profile".into(), json!(profile));
        record.insert("mode".into(), json!(mode));
        let mut document = Document::read(json!({"installations": [record]}))?;
        let before = (self.plan.changes.len(), self.plan.parts.len(), self.plan.applied.len());
        for spec in document.installations.drain(..) {
            self.plan.installation(spec)?;
        }
        let Some(made) = self.plan.future.installations().get(&id).map(|i| i.item.clone()) else { return Ok(false) };
        let taken = self.plan.future.taken(&made);
        if let Some(account) = taken.first() {
            // It was not there before, so it is as if it had not been planned.
            self.plan.future.drop_new(&id);
            self.plan.changes.truncate(before.0);
            self.plan.parts.truncate(before.1);
            self.plan.applied.truncate(before.2);
            return skip(Cause::IdentityTaken, format!("account {account} is another installation's"));
        }
        self.plan.future.claim(&made);
        Ok(true)
    }

    /// The app a connection was made through: the one that is named, or the only one that can be meant.
    fn profile(
        &self,
        org: &OrgId,
        provider: ProviderKind,
        mode: Option<Mode>,
        named: Option<String>,
        app_id: Option<String>,
    ) -> Result<ProfileId, Skip> {
        let of_org = |owner: &Ownership| match owner {
            Ownership::Platform => true,
            Ownership::Org(owner) => owner == org,
        };
        let profiles = self.plan.future.profiles().values().map(|p| &p.item);
        let mut fit = profiles.filter(|p| {
            let named = named.as_ref().is_none_or(|id| p.id.as_str() == id);
            let app = app_id.is_none() || p.app() == app_id.as_deref();
            p.provider == provider && of_org(&p.owner) && mode.is_none_or(|m| p.owner.mode() == m) && named && app
        });
        match (fit.next(), fit.next()) {
            (Some(profile), None) => Ok(profile.id.clone()),
            (None, _) => skip(Cause::UnknownProfile, format!("org `{org}` can use no app of {provider} with what the line says of it")),
            (Some(_), Some(_)) => skip(Cause::AmbiguousProfile, "several apps could be meant; name one as profile"),
        }
    }

    fn binding(&mut self, org: &OrgId, provider: ProviderKind, mut record: Map<String, Json>) -> Taken {
        let id = needed(record.get("id").and_then(Json::as_str).and_then(|id| BindingId::parse(id).ok()), "id")?;
        if let Some(there) = self.plan.future.bindings().get(&id) {
            return if there.item.org == *org { Ok(false) } else { skip(Cause::IdentityTaken, format!("id `{id}` is another org's")) };
        }
        let said = record.get("select").and_then(|s| s.get("provider")).and_then(Json::as_str);
        if said.is_some_and(|said| said != provider.as_str()) {
            return skip(Cause::Invalid, format!("select.provider is not {provider}"));
        }
        let mut former = Map::new();
        for (name, of) in [("connection", "connection"), ("account", "account"), ("installation_id", "installation")] {
            if let Some(text) = taken_text(&mut record, name)?.filter(|text| !text.is_empty()) {
                former.insert(of.to_owned(), json!(text));
            }
        }
        match record.get("installation").and_then(Json::as_str).and_then(|id| InstallationId::parse(id).ok()) {
            Some(id) => {
                let there = self.plan.future.installation_of(org, &id).map(|i| i.item.provider);
                if there.is_some_and(|there| there != provider) {
                    return skip(Cause::Invalid, format!("installation `{id}` is not of {provider}"));
                }
            }
            None => {
                let select = record.entry("select").or_insert_with(|| json!({}));
                let Some(select) = select.as_object_mut() else { return skip(Cause::Invalid, "select is no object") };
                select.insert("provider".into(), json!(provider));
                if !former.is_empty() {
                    record.insert("former".into(), Json::Object(former));
                }
            }
        }
        let mut document = Document::read(json!({"bindings": [record]}))?;
        for spec in document.bindings.drain(..) {
            self.plan.binding(spec)?;
        }
        Ok(true)
    }

    fn session(&mut self, org: OrgId, provider: ProviderKind, mut record: Map<String, Json>) -> Taken {
        record.remove("org");
        let line: SessionLine = serde_json::from_value(Json::Object(record)).map_err(|e| Skip(Cause::Invalid, e.to_string()))?;
        let id = session_id(org.as_str(), &line.id);
        if let Some(there) = self.known.get(&id) {
            return if *there == org.as_str() { Ok(false) } else { skip(Cause::IdentityTaken, format!("id `{id}` is another org's")) };
        }
        let agent = self.plan.future.agents().get(&line.agent).filter(|a| a.item.org.as_ref().is_none_or(|o| *o == org));
        if agent.is_none() {
            return skip(Cause::UnknownReference, format!("org `{org}` has no agent `{}`", line.agent));
        }
        if line.contact.is_empty() || is_mutable(&line.contact) {
            return skip(Cause::Invalid, "contact is the person's stable id at the provider, no name, handle or address");
        }
        if line.created_at > line.last_at || line.last_at > self.now {
            return skip(Cause::Invalid, "created_at is after last_at, or that is yet to come");
        }
        if !self.sessions.insert(id.clone()) {
            return Ok(false);
        }
        let SessionLine { agent, contact, conversation, thread, created_at, last_at, .. } = line;
        self.fresh.push(ImportedSession { id, org, provider, agent, contact, conversation, thread, created: created_at, last: last_at });
        Ok(true)
    }
}
