//! One person's data is removed, page by page; and the sweep, when an operator does not want to wait for the hour.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{Admin, AdminError, Asking};
use crate::domain::ids::InstallationId;
use crate::domain::installation::Installation;
use crate::domain::reason::ReasonCode;
use crate::policy::action::{ApplyResources, PurgePerson};
use crate::policy::facts;
use crate::store::directory::Kept;
use crate::store::{Purge, Purged};

/// Rows that one request looks at.
const ROWS_MAX: usize = 20_000;

/// Characters that a person's id may have.
const SENDER_CHARS_MAX: usize = 512;

/// `POST /v1/purge`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PurgeBody {
    installation: String,
    /// The provider's stable id of the person.
    sender: String,
    /// Only counts.
    #[serde(default)]
    dry_run: bool,
    /// Rows to look at before it answers.
    rows_max: Option<usize>,
    /// Where an earlier request's walk ended: its `next`.
    after: Option<String>,
}

impl Admin {
    /// Removes what one person said through an installation, and who they are. Looks at a part of the rows and says where to go on;
    /// with `dry_run` counts and removes nothing. The audit names the person by a keyed digest only.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.resource_invalid`.
    pub async fn purge(&self, asking: &Asking, body: Json) -> Result<Json, AdminError> {
        let invalid = |why: String| AdminError::new(ReasonCode::AdminResourceInvalid, why);
        let ask: PurgeBody = match serde_json::from_value(body) {
            Ok(ask) => ask,
            Err(e) => {
                self.may_view(asking).await?;
                return Err(invalid(e.to_string()));
            }
        };
        let directory = self.store.directory();
        let found: Option<Arc<Kept<Installation>>> =
            InstallationId::parse(&ask.installation).ok().and_then(|id| directory.installations.get(&id).cloned());
        let Some(found) = found else {
            self.may_view(asking).await?;
            return Err(AdminError::new(ReasonCode::AdminNotFound, format!("there is no installation `{}`", ask.installation)));
        };
        let installation = &found.item;
        let target = format!("installations/{}", installation.id);
        let question = PurgePerson { operator: asking.facts(), org: facts::org(&directory, &installation.org) };
        let decision = self.authorize(asking, question, "person.purge", &target).await?;
        if !(1..=SENDER_CHARS_MAX).contains(&ask.sender.chars().count()) || ask.sender.chars().any(char::is_control) {
            return Err(invalid(format!("sender: the provider's id of a person, of 1 to {SENDER_CHARS_MAX} characters")));
        }
        // Keyed, so that nobody finds out whose it is by trying ids.
        let person = self.vault.fingerprint(&format!("person/{}/{}", installation.id, ask.sender));
        let line = |action: &'static str, counts: &Map<String, Json>| {
            let mut line = asking.line(&self.clock, action, target.clone(), Some(&decision));
            line.org = Some(installation.org.clone());
            let mut detail = counts.clone();
            detail.insert("person".into(), json!(person));
            line.detail = Some(Json::Object(detail).to_string());
            line
        };
        let whose = Purge {
            installation: installation.id.clone(),
            profile: installation.profile.clone(),
            org: installation.org.clone(),
            provider: installation.provider,
            sender: ask.sender,
        };
        let _one_at_a_time = self.changing.lock().await;
        if !ask.dry_run && ask.after.is_none() {
            self.store.audit(vec![line("person.purge.begin", &Map::new())]).await?;
        }
        let rows_max = ask.rows_max.unwrap_or(ROWS_MAX).max(1);
        let purged = self.store.purge(&whose, ask.after.as_deref(), rows_max, ask.dry_run, self.clock.now()).await?;
        let Purged { counts, looked_at, next } = purged.ok_or_else(|| invalid("after: no earlier answer's `next`".into()))?;
        let mut shown: Map<String, Json> = counts.into_iter().map(|(name, n)| (name.to_owned(), json!(n))).collect();
        if !ask.dry_run {
            let mut counts = shown.clone();
            counts.insert("finished".into(), json!(next.is_none()));
            self.store.audit(vec![line("person.purge", &counts)]).await?;
            if next.is_none() && !self.store.cut_log().await? {
                tracing::warn!(installation = %installation.id, "the store's log still holds pages from before; it is cut when nobody reads, at the latest at the end");
            }
        }
        shown.insert("installation".into(), json!(installation.id));
        shown.insert("dry_run".into(), json!(ask.dry_run));
        shown.insert("finished".into(), json!(next.is_none()));
        shown.insert("looked_at".into(), json!(looked_at));
        shown.insert("next".into(), json!(next));
        Ok(Json::Object(shown))
    }

    /// Removes what its retention has passed now instead of within the hour; how many rows of each kind.
    ///
    /// # Errors
    /// The policies' refusal.
    pub async fn sweep(&self, asking: &Asking) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, ApplyResources { operator: asking.facts() }, "retention.sweep", "retention").await?;
        let swept = json!(self.store.sweep(&self.retention, self.clock.now()).await?);
        let mut line = asking.line(&self.clock, "retention.sweep", "retention".into(), Some(&decision));
        line.detail = Some(swept.to_string());
        self.store.audit(vec![line]).await?;
        Ok(swept)
    }
}
