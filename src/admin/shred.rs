//! An org is made unreadable for ever: its key and everything sealed under it are destroyed at once, what people said page by
//! page. The audit stays.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{Admin, AdminError, Asking};
use crate::domain::ids::OrgId;
use crate::domain::installation::Org;
use crate::domain::reason::ReasonCode;
use crate::policy::action::ShredOrg;
use crate::policy::facts;
use crate::store::directory::Kept;
use crate::store::{Change, Resource};

/// Rows that one request destroys.
const ROWS_MAX: usize = 20_000;

/// What is asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ShredBody {
    /// The org's id again: nobody types that by mistake.
    confirm: Option<String>,
    /// Only counts.
    dry_run: bool,
    /// Rows to destroy before it answers.
    rows_max: Option<usize>,
}

impl Admin {
    /// Suspends an org, destroys its key and everything sealed of it, and then its events, sessions and what its agents sent. Says
    /// how much of each there is first, and destroys nothing, with `dry_run`. A request that was cut off is made again.
    ///
    /// # Errors
    /// The policies' refusal, `admin.not_found`, `admin.not_confirmed`.
    pub async fn shred(&self, asking: &Asking, id: &str, body: Json) -> Result<Json, AdminError> {
        let directory = self.store.directory();
        let found: Option<Arc<Kept<Org>>> = OrgId::parse(id).ok().and_then(|org| directory.orgs.get(&org).cloned());
        let Some(found) = found else {
            self.may_view(asking).await?;
            return Err(AdminError::new(ReasonCode::AdminNotFound, format!("there is no org `{id}`")));
        };
        let org = &found.item.id;
        let ask = ShredOrg { operator: asking.facts(), org: facts::org(&directory, org) };
        let decision = self.authorize(asking, ask, "org.shred", &format!("orgs/{id}")).await?;
        let ask: ShredBody = serde_json::from_value(body).map_err(|e| AdminError::new(ReasonCode::AdminResourceInvalid, e.to_string()))?;
        let _one_at_a_time = self.changing.lock().await;
        let kept = self.store.shreddable(org).await?;
        if ask.dry_run {
            return Ok(shown(org, kept.into_iter().map(|(name, n)| (name, json!(n))), true, false));
        }
        if ask.confirm.as_deref() != Some(id) {
            let detail = format!("this cannot be undone; say {{\"confirm\": \"{id}\"}} to destroy everything of org `{id}`");
            return Err(AdminError::new(ReasonCode::AdminNotConfirmed, detail));
        }
        let now = self.clock.now();
        let line = |action: &'static str, counts: Json| {
            let mut line = asking.line(&self.clock, action, format!("orgs/{id}"), Some(&decision));
            line.org = Some(org.clone());
            line.detail = Some(counts.to_string());
            line
        };
        let begun = line("org.shred.begin", kept.iter().map(|(name, n)| ((*name).to_owned(), json!(n))).collect::<Map<_, _>>().into());
        let suspended = Resource::Org(Org { suspended: true, ..found.item.clone() });
        let secrets = self.store.shred_secrets(org.clone(), vec![Change::Put(Box::new(suspended), vec![])], vec![begun], now).await?;
        self.vault.forget_org(org);
        // Content is unreadable as soon as no copy of the key is left, wherever copies of the rows are.
        let key_gone = self.store.cut_log().await?;
        let (rows, emptied) = self.store.shred_rows(org, ask.rows_max.unwrap_or(ROWS_MAX).max(1)).await?;
        let finished = key_gone && emptied;
        let counts: Vec<(&str, Json)> =
            std::iter::once(("secrets", json!(secrets))).chain(rows.into_iter().map(|(name, n)| (name, json!(n)))).collect();
        if !key_gone {
            tracing::warn!(org = %org, "the store's log still holds the org's sealed key; shred the org again to cut the log");
        }
        if finished {
            let done = line("org.shred", counts.iter().map(|(name, n)| ((*name).to_owned(), n.clone())).collect::<Map<_, _>>().into());
            self.store.audit(vec![done]).await?;
        }
        Ok(shown(org, counts.into_iter(), false, finished))
    }
}

fn shown<'a>(org: &OrgId, counts: impl Iterator<Item = (&'a str, Json)>, dry_run: bool, finished: bool) -> Json {
    let mut all: Map<String, Json> = counts.map(|(name, n)| (name.to_owned(), n)).collect();
    all.insert("org".into(), json!(org));
    all.insert("dry_run".into(), json!(dry_run));
    all.insert("finished".into(), json!(finished));
    Json::Object(all)
}
