//! Declared resources: checked, planned, applied. All of a document or nothing of it.

use std::cell::RefCell;
use std::collections::BTreeMap;

mod installation;
mod sealing;

use base64::Engine as _;
use serde_json::{Value as Json, json};

use super::changes::{self, Part};
use super::document::{AgentSpec, BindingSpec, Document, OrgSpec, ProfileSpec, is_mutable};
use super::future::Future;
use super::view::unchanged_since;
use super::{Admin, AdminError, Asking};
use crate::crypto::envelope::Key;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{AgentId, OrgId};
use crate::domain::installation::{Agent, AgentStatus, AppProfile, Binding, DeliveryFormat, ExternalAccount, Mode, Org, Ownership};
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;
use crate::domain::secret::Secret;
use crate::policy::action::ApplyResources;
use crate::policy::facts;
use crate::providers;
use crate::store::directory::{Directory, SealedSecret};
use crate::store::{Change, Resource, SecretPut, StoreError};
use crate::transport::agent_url;
use crate::vault::{field, keys};

pub(super) use sealing::fit_signing_secret;

/// How long a previous signing secret verifies where nothing else is said.
pub(super) const OVERLAP_MS: i64 = 24 * 3_600_000;
/// The longest it may be told to.
pub(super) const OVERLAP_MS_MAX: i64 = 7 * OVERLAP_MS;
const INGRESS_ID_CHARS_MIN: usize = 16;
const CREDENTIAL_CHARS_MIN: usize = 8;

/// What became of one resource.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// The kind, plural.
    pub kind: &'static str,
    /// The id.
    pub id: String,
    /// `created`, `updated` or `unchanged`.
    pub action: &'static str,
}

impl Admin {
    /// Applies a document; with `dry_run` only says what it would do. Every change asks the policies its own question.
    ///
    /// # Errors
    /// The policies' refusal, or the first thing that is wrong, by resource and field; nothing was changed then.
    pub async fn apply(&self, asking: &Asking, document: Json, dry_run: bool) -> Result<Vec<Applied>, AdminError> {
        self.apply_where(asking, document, dry_run, |_| Ok(())).await
    }

    /// Applies one resource, where it still is what `if_match` says.
    ///
    /// # Errors
    /// `admin.precondition_failed` where it is not, and those of [`Admin::apply`].
    pub async fn put(&self, asking: &Asking, kind: &str, resource: Json, if_match: Option<&str>) -> Result<Vec<Applied>, AdminError> {
        let id = resource.get("id").and_then(Json::as_str).unwrap_or_default().to_owned();
        let unchanged = |directory: &Directory| unchanged_since(if_match, directory, kind, &id);
        self.apply_where(asking, json!({kind: [resource]}), false, unchanged).await
    }

    async fn apply_where(
        &self,
        asking: &Asking,
        document: Json,
        dry_run: bool,
        fits: impl Fn(&Directory) -> Result<(), AdminError>,
    ) -> Result<Vec<Applied>, AdminError> {
        let decision = self.authorize(asking, ApplyResources { operator: asking.facts() }, "resource.apply", "resources").await?;
        let document = Document::read(document)?;
        let _one_at_a_time = self.changing.lock().await;
        let directory = self.store.directory();
        fits(&directory)?;
        let mut plan = self.plan(Future::of(directory));
        plan.document(document)?;
        let applied = plan.applied.clone();
        // A dry run is refused what the run would be refused: what it says of a secret is for those who may put one.
        let lines = self.permitted(asking, std::mem::take(&mut plan.parts), &decision).await?;
        if dry_run {
            return Ok(applied);
        }
        self.commit(plan, lines).await?;
        Ok(applied)
    }

    /// A plan that starts from this state.
    pub(super) fn plan(&self, future: Future) -> Plan<'_> {
        let (now, keys, said) = (self.clock.now(), RefCell::default(), BTreeMap::new());
        Plan { admin: self, future, now, keys, said, changes: Vec::new(), parts: Vec::new(), applied: Vec::new() }
    }

    /// Keeps what was planned with its audit lines, all or nothing. Whoever planned holds `changing` until this returns.
    pub(super) async fn commit(&self, plan: Plan<'_>, lines: Vec<AuditRecord>) -> Result<(), AdminError> {
        let Plan { mut changes, keys, now, .. } = plan;
        let mut keys = keys.into_inner();
        // Content of an org is sealed under the org's key, whether it has secrets or not.
        for change in &changes {
            if let Change::Put(resource, _) = change
                && let Resource::Org(org) = resource.as_ref()
                && !self.vault.has_org(&org.id)
                && !keys.contains_key(&org.id)
            {
                keys.insert(org.id.clone(), keys::fresh()?);
            }
        }
        for (org, key) in &keys {
            changes.push(Change::KeepKey(self.vault.sealed_org_key(org, key, now)?));
        }
        if changes.is_empty() {
            return Ok(());
        }
        match self.store.apply(changes, lines, self.clock.now()).await {
            // Only now: a key that is used and not kept would lose what is sealed under it.
            Ok(()) => keys.into_iter().for_each(|(org, key)| self.vault.add_org(&org, key)),
            Err(error) => {
                self.vault.add_kept_orgs(&self.store).await?;
                return Err(match error {
                    StoreError::Conflict(what) => AdminError::new(ReasonCode::AdminIdentityTaken, what),
                    other => other.into(),
                });
            }
        }
        Ok(())
    }

    /// Removes a resource that nothing refers to, where it still is what `if_match` says. Its secrets end with it, which asks
    /// `RevokeSecret`; with an org its key ends, which asks `ShredOrg`.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.precondition_failed`, `admin.in_use`.
    pub async fn delete(&self, asking: &Asking, kind: &str, id: &str, if_match: Option<&str>) -> Result<(), AdminError> {
        let decision =
            self.authorize(asking, ApplyResources { operator: asking.facts() }, "resource.delete", &format!("{kind}/{id}")).await?;
        let _one_at_a_time = self.changing.lock().await;
        let directory = self.store.directory();
        let kind = super::view::KINDS.into_iter().find(|k| *k == kind);
        let Some(kind) = kind.filter(|k| super::view::resource(&directory, k, id).is_some()) else {
            return Err(AdminError::new(ReasonCode::AdminNotFound, format!("there is no such resource `{id}`")));
        };
        unchanged_since(if_match, &directory, kind, id)?;
        let users = users_of(&directory, kind, id);
        if !users.is_empty() {
            return Err(AdminError::new(ReasonCode::AdminInUse, format!("{kind}/{id} is used by {}", users.join(", "))));
        }
        let lines = self.permitted(asking, vec![changes::deletion(&directory, kind, id)], &decision).await?;
        let mut changes = vec![Change::Delete { kind, id: id.to_owned() }];
        let org = OrgId::parse(id).ok().filter(|_| kind == "orgs");
        if let Some(org) = &org {
            let (owner, field) = (org.to_string(), field::ORG_KEY.to_owned());
            changes.push(Change::DropSecret { kind: keys::KIND, owner, field, slot: "current" });
        }
        self.store.apply(changes, lines, self.clock.now()).await?;
        org.iter().for_each(|org| self.vault.forget_org(org));
        Ok(())
    }
}

fn users_of(directory: &Directory, kind: &str, id: &str) -> Vec<String> {
    let mut users = Vec::new();
    let mut add = |uses: bool, kind: &str, user: &str| {
        if uses {
            users.push(format!("{kind}/{user}"));
        }
    };
    for (k, p) in &directory.profiles {
        add(kind == "orgs" && p.item.owner.as_str() == id && p.item.owner != Ownership::Platform, "profiles", k.as_str());
    }
    for (k, i) in &directory.installations {
        let uses = (kind == "orgs" && i.item.org.as_str() == id) || (kind == "profiles" && i.item.profile.as_str() == id);
        add(uses, "installations", k.as_str());
    }
    for (k, a) in &directory.agents {
        add(kind == "orgs" && a.item.org.as_ref().is_some_and(|o| o.as_str() == id), "agents", k.as_str());
    }
    for (k, b) in &directory.bindings {
        let uses = (kind == "orgs" && b.item.org.as_str() == id)
            || (kind == "installations" && b.item.installation.as_ref().is_some_and(|i| i.as_str() == id))
            || (kind == "agents" && b.item.agent.as_str() == id);
        add(uses, "bindings", k.as_str());
    }
    if kind == "agents" {
        directory.handed_to(id).for_each(|key| add(true, "sessions", key));
    }
    users
}

/// The state as it will be, resource by resource, and the changes that lead there.
pub(super) struct Plan<'a> {
    admin: &'a Admin,
    pub(super) future: Future,
    now: Timestamp,
    /// New keys of orgs that had none; kept together with what is sealed under them.
    keys: RefCell<BTreeMap<OrgId, Key>>,
    /// Agents' signing secrets as this document says them: sealed, some of them lie under a key that is not kept yet.
    said: BTreeMap<AgentId, Secret>,
    pub(super) changes: Vec<Change>,
    /// The questions of the changes, and their lines in the audit.
    pub(super) parts: Vec<Part>,
    pub(super) applied: Vec<Applied>,
}

impl<'a> Plan<'a> {
    fn document(&mut self, document: Document) -> Result<(), AdminError> {
        for spec in document.orgs {
            self.org(spec)?;
        }
        for spec in document.agents {
            self.agent(spec)?;
        }
        for spec in document.profiles {
            self.profile(spec)?;
        }
        for spec in document.installations {
            self.installation(spec)?;
        }
        for spec in document.bindings {
            self.binding(spec)?;
        }
        self.native_secrets_fit()
    }

    /// Of agents that changed: whether the bindings that were there before still fit.
    fn native_secrets_fit(&self) -> Result<(), AdminError> {
        let changed = |id: &AgentId| self.applied.iter().any(|a| a.kind == "agents" && a.id == id.as_str() && a.action != "unchanged");
        self.future.bindings().values().filter(|b| changed(&b.item.agent)).try_for_each(|b| self.native_secret_fits(&b.item))
    }

    /// A provider's SDK takes no secret that the provider could not have given out, so an agent that wants native events of
    /// an installation has one of that form. Looked at whenever one of the two changes.
    fn native_secret_fits(&self, binding: &Binding) -> Result<(), AdminError> {
        let agent = self.future.agents().get(&binding.agent);
        let Some(agent) = agent.filter(|agent| agent.item.format == DeliveryFormat::Native) else { return Ok(()) };
        let provider = match &binding.installation {
            Some(id) => self.future.installations().get(id).map(|i| i.item.provider),
            None => binding.select.provider,
        };
        let Some(provider) = provider else { return Ok(()) };
        let provider_takes = |secret: &Secret| providers::of(provider).secret_form(secret.expose());
        let fits = match self.said.get(&binding.agent) {
            Some(secret) => provider_takes(secret),
            None => provider_takes(&self.admin.vault.agent_signing(agent)?),
        };
        if fits {
            return Ok(());
        }
        let detail = format!(
            "agents `{}`: signing_secret has characters that {provider} does not use, so its SDKs cannot have it; binding `{}` needs it",
            binding.agent, binding.id
        );
        Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail))
    }

    fn org(&mut self, spec: OrgSpec) -> Result<(), AdminError> {
        let name = spec.name.unwrap_or_else(|| spec.id.to_string());
        let org = Org { id: spec.id, name, suspended: spec.suspended, fallback_opt_in: spec.fallback_opt_in, quotas: spec.quotas };
        if org.id.as_str() == "platform" {
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, "orgs `platform`: the word means the platform itself"));
        }
        let known = self.future.orgs().get(&org.id).map(|k| (k.item.clone(), k.secrets.clone()));
        self.record(Resource::Org(org), known.map(|(o, s)| (Resource::Org(o), s)), vec![])
    }

    fn agent(&mut self, spec: AgentSpec) -> Result<(), AdminError> {
        let at = format!("agents `{}`", spec.id);
        self.org_exists(&at, spec.org.as_ref())?;
        agent_url(&spec.endpoint, self.admin.allow_private_agents).map_err(|code| {
            AdminError::new(
                code,
                format!("{at}: endpoint `{}` is not an address agents may live on (https, no user, default port, public)", spec.endpoint),
            )
        })?;
        let known = self.future.agents().get(&spec.id).map(|k| (k.item.clone(), k.secrets.clone()));
        immutable(&at, "org", known.as_ref().map(|(k, _)| &k.org), &spec.org)?;
        let status = spec.status.or(known.as_ref().map(|(k, _)| k.status)).unwrap_or(AgentStatus::Active);
        let AgentSpec { id, org, endpoint, format, synchronous, .. } = spec;
        let agent = Agent { id, org, endpoint, format, synchronous, status };
        let encoded = spec.signing_secret.as_ref().and_then(|s| s.value.expose().strip_prefix("whsec_"));
        if encoded.is_some_and(|text| base64::engine::general_purpose::STANDARD.decode(text).is_err()) {
            let detail =
                format!("{at}: signing_secret: what follows whsec_ must be base64 (Standard Webhooks), or no delivery could be signed");
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
        }
        if let Some(secret) = &spec.signing_secret {
            self.said.insert(agent.id.clone(), Secret::new(secret.value.expose().to_owned()));
        }
        let mut sealing = self.sealing("agents", agent.id.as_str(), agent.org.clone(), known.as_ref().map(|(_, s)| s.clone()));
        sealing.required(&at, field::SIGNING_SECRET, spec.signing_secret, 16)?;
        sealing.optional(&at, field::TOKEN, spec.token, 16)?;
        let puts = sealing.puts;
        let token = puts.iter().find(|p| p.secret.field == field::TOKEN).map(|p| p.secret.fingerprint.clone());
        if let Some(token) = token
            && self
                .future
                .agents()
                .values()
                .any(|a| a.item.id != agent.id && a.secret(field::TOKEN).is_some_and(|t| t.fingerprint == token))
        {
            return Err(AdminError::new(ReasonCode::AdminIdentityTaken, format!("{at}: token is another agent's")));
        }
        self.record(Resource::Agent(agent), known.map(|(a, s)| (Resource::Agent(a), s)), puts)
    }

    fn profile(&mut self, spec: ProfileSpec) -> Result<(), AdminError> {
        let at = format!("profiles `{}`", spec.id);
        if let Ownership::Org(org) = &spec.owner {
            self.org_exists(&at, Some(org))?;
        }
        let provider = providers::of(spec.provider);
        let known = self.future.profiles().get(&spec.id).map(|k| (k.item.clone(), k.secrets.clone()));
        let old = known.as_ref().map(|(k, _)| k);
        immutable(&at, "provider", old.map(|k| &k.provider), &spec.provider)?;
        mode_follows(&at, spec.mode, old.map_or(&spec.owner, |k| &k.owner).mode(), old.is_some())?;
        immutable(&at, "owner", old.map(|k| &k.owner), &spec.owner)?;
        if old.is_some_and(|k| k.app_id.is_some()) {
            immutable(&at, "app_id", old.map(|k| &k.app_id), &spec.app_id)?;
        }
        let ingress_id = match (spec.ingress_id, old) {
            (Some(id), Some(k)) if id != k.ingress_id => return immutable(&at, "ingress_id", Some(&k.ingress_id), &id),
            (Some(id), _) => id,
            (None, Some(k)) => k.ingress_id.clone(),
            (None, None) => hex::encode(
                crate::crypto::random::<20>().map_err(|e| AdminError::new(ReasonCode::StoreUnavailable, format!("no randomness: {e}")))?,
            ),
        };
        let fit = ingress_id.len() <= 128 && ingress_id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if ingress_id.len() < INGRESS_ID_CHARS_MIN || !fit {
            let detail =
                format!("{at}: ingress_id must be {INGRESS_ID_CHARS_MIN} to 128 of A-Z a-z 0-9 - _; leave it out for a random one");
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
        }
        let taken = self.future.profiles().values().any(|p| p.item.id != spec.id && p.item.ingress_id == ingress_id);
        if taken {
            return Err(AdminError::new(ReasonCode::AdminIdentityTaken, format!("{at}: ingress_id belongs to another profile")));
        }
        let learned_app_id = old.filter(|_| spec.app_id.is_none()).and_then(|k| k.learned_app_id.clone());
        let profile = AppProfile {
            id: spec.id,
            provider: spec.provider,
            owner: spec.owner,
            app_id: spec.app_id.filter(|a| !a.is_empty()),
            learned_app_id,
            ingress_id,
            oauth_client_id: spec.oauth.as_ref().map(|o| o.client_id.clone()),
            verifier: provider.verifier(),
        };
        let org = match &profile.owner {
            Ownership::Platform => None,
            Ownership::Org(org) => Some(org.clone()),
        };
        let mut sealing = self.sealing("profiles", profile.id.as_str(), org, known.as_ref().map(|(_, s)| s.clone()));
        if let Some(secret) = &spec.signing_secret {
            fit_signing_secret(&at, provider, &secret.value)?;
        }
        sealing.required(&at, field::SIGNING_SECRET, spec.signing_secret, provider.secret_chars_min())?;
        sealing.overlap(&at, spec.previous_signing_secret, provider.secret_chars_min())?;
        if spec.verify_token.is_some() && !provider.has_get_handshake() {
            let detail = format!("{at}: {} has no handshake, so no verify_token", profile.provider);
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
        }
        sealing.optional(&at, field::VERIFY_TOKEN, spec.verify_token, 8)?;
        sealing.optional(&at, field::CLIENT_SECRET, spec.oauth.and_then(|o| o.client_secret), 8)?;
        let puts = sealing.puts;
        self.record(Resource::Profile(profile), known.map(|(p, s)| (Resource::Profile(p), s)), puts)
    }

    pub(super) fn binding(&mut self, spec: BindingSpec) -> Result<(), AdminError> {
        let at = format!("bindings `{}`", spec.id);
        self.org_exists(&at, Some(&spec.org))?;
        let unknown = |what: String| AdminError::new(ReasonCode::AdminReferenceUnknown, format!("{at}: {what}"));
        let known = self.future.bindings().get(&spec.id).map(|k| (k.item.clone(), k.secrets.clone()));
        let old = known.as_ref().map(|(k, _)| k);
        immutable(&at, "org", old.map(|k| &k.org), &spec.org)?;
        let (installation, mode) = match &spec.installation {
            // Another org's is as unknown as none.
            Some(id) => {
                let found = self.future.installation_of(&spec.org, id).map(|i| i.item.clone());
                let found = found.ok_or_else(|| unknown(format!("org `{}` has no installation `{id}`", spec.org)))?;
                let was = old.and_then(|k| k.installation.as_ref()).and_then(|id| self.future.installations().get(id));
                let mode = found.owner.mode();
                immutable(&at, "mode", was.map(|i| i.item.owner.mode()).as_ref(), &mode)?;
                mode_follows(&at, spec.mode, mode, old.is_some())?;
                (Some(found.id), None)
            }
            None => {
                if old.is_some_and(|k| !k.is_legacy()) {
                    return immutable(&at, "installation", Some(&true), &false);
                }
                if spec.select.provider.is_none() {
                    let detail = format!("{at}: name an installation; a legacy binding, which names none, needs select.provider");
                    return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
                }
                if spec.allow_platform_fallback {
                    let detail = format!("{at}: allow_platform_fallback: a binding that names no installation is no platform binding");
                    return Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail));
                }
                if old.is_some_and(|k| k.mode.is_some()) {
                    immutable(&at, "mode", old.map(|k| &k.mode), &spec.mode)?;
                }
                (None, spec.mode)
            }
        };
        let agent = self.future.agents().get(&spec.agent).map(|a| a.item.clone());
        let agent = agent.filter(|a| a.org.as_ref().is_none_or(|o| *o == spec.org));
        let agent = agent.ok_or_else(|| unknown(format!("org `{}` has no agent `{}`", spec.org, spec.agent)))?;
        let select = &spec.select;
        let named = [
            ("account", &select.account),
            ("team", &select.team),
            ("channel", &select.channel),
            ("thread", &select.thread),
            ("peer", &select.peer),
        ];
        if let Some((name, value)) = named.into_iter().find_map(|(name, value)| Some((name, value.as_deref().filter(|v| is_mutable(v))?))) {
            let detail = format!("{at}: select.{name} `{value}` is a name, handle or e-mail; write the stable id, names change hands");
            return Err(AdminError::new(ReasonCode::AdminPrincipalMutable, detail));
        }
        let blank = named.into_iter().find(|(_, value)| value.as_ref().is_some_and(String::is_empty));
        if let Some((name, _)) = blank {
            return Err(AdminError::new(
                ReasonCode::AdminResourceInvalid,
                format!("{at}: select.{name} is empty; leave it out to select all"),
            ));
        }
        // An installation is named: nothing is left to be found by what it was.
        let former = spec.former.or_else(|| old.and_then(|k| k.former.clone())).filter(|_| installation.is_none());
        let binding = Binding {
            id: spec.id,
            org: spec.org,
            installation,
            mode,
            select: spec.select,
            agent: agent.id,
            priority: spec.priority,
            enabled: spec.enabled,
            session: spec.session,
            allow_platform_fallback: spec.allow_platform_fallback,
            former,
        };
        if old != Some(&binding) {
            self.native_secret_fits(&binding)?;
        }
        self.record(Resource::Binding(binding), known.map(|(b, s)| (Resource::Binding(b), s)), vec![])
    }

    fn org_exists(&self, at: &str, org: Option<&OrgId>) -> Result<(), AdminError> {
        match org {
            Some(org) if !self.future.orgs().contains_key(org) => {
                Err(AdminError::new(ReasonCode::AdminReferenceUnknown, format!("{at}: there is no org `{org}`")))
            }
            _ => Ok(()),
        }
    }

    fn record(&mut self, resource: Resource, known: Option<(Resource, Vec<SealedSecret>)>, puts: Vec<SecretPut>) -> Result<(), AdminError> {
        let action = match &known {
            None => "created",
            Some((old, _)) if *old == resource && puts.is_empty() => "unchanged",
            Some(_) => "updated",
        };
        let (kind, id) = (resource.kind(), resource.id().to_owned());
        if self.applied.iter().any(|a| a.kind == kind && a.id == id) {
            return Err(AdminError::new(ReasonCode::AdminResourceInvalid, format!("{kind} `{id}` stands twice in the document")));
        }
        self.applied.push(Applied { kind, id, action });
        if action == "unchanged" {
            return Ok(());
        }
        let org = resource.org().and_then(|org| self.future.orgs().get(org)).map(|org| facts::declared_org(&org.item));
        self.parts.extend(changes::parts(self.future.base(), known.as_ref(), &resource, &puts, org, self.now));
        let mut secrets = known.map(|(_, s)| s).unwrap_or_default();
        for put in &puts {
            secrets.retain(|s| !(s.field == put.secret.field && s.slot == put.secret.slot));
            secrets.push(put.secret.clone());
        }
        self.future.foresee(&resource, secrets, self.now);
        self.changes.push(Change::Put(Box::new(resource), puts));
        Ok(())
    }
}

fn immutable<T: PartialEq>(at: &str, name: &str, old: Option<&T>, new: &T) -> Result<(), AdminError> {
    match old {
        Some(old) if old != new && stands(Guard::FieldImmutable) => {
            Err(AdminError::new(ReasonCode::AdminFieldImmutable, format!("{at}: {name} is set once; make a new resource")))
        }
        _ => Ok(()),
    }
}

/// A mode is never set: it follows from who owns the app. On a resource that exists, another one is an attempt to change it.
fn mode_follows(at: &str, said: Option<Mode>, mode: Mode, exists: bool) -> Result<(), AdminError> {
    match said {
        Some(said) if said != mode && exists => immutable(at, "mode", Some(&mode), &said),
        Some(said) if said != mode => {
            let detail = format!("{at}: mode is {}, as the app's owner says", mode.as_str());
            Err(AdminError::new(ReasonCode::AdminResourceInvalid, detail))
        }
        _ => Ok(()),
    }
}

/// A shared bot's list of chats may change; everything else about an account is what it is.
fn same_identity(old: &ExternalAccount, new: &ExternalAccount) -> bool {
    match (old, new) {
        (ExternalAccount::Telegram { bot_id: a, .. }, ExternalAccount::Telegram { bot_id: b, .. }) => a == b,
        (old, new) => old == new,
    }
}

/// What an apply answers.
pub fn report(applied: &[Applied]) -> Json {
    json!({"items": applied, "next": null})
}
