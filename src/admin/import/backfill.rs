//! The installation that a legacy binding means, found and filled in. No hit, or several, and the binding is left as it is.
//! Part of `admin`, floor 7.

use std::ops::Bound;

use serde::Deserialize;
use serde_json::Value as Json;

use super::super::changes::Part;
use super::super::document::BindingSpec;
use super::super::future::Future;
use super::super::{Admin, AdminError, Asking};
use super::{Cause, PAGE, PAGE_MAX, Report, Skip, shown, skip};
use crate::domain::ids::BindingId;
use crate::domain::installation::{Binding, Installation, InstallationStatus};
use crate::domain::reason::ReasonCode;
use crate::policy::action::ApplyResources;
use crate::store::directory::Directory;

/// A page of a backfill.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Page {
    dry_run: bool,
    /// How many bindings; below one is the usual number, above the most is the most.
    batch: Option<i64>,
    /// `next` of the page before: the last binding of that. None begins.
    cursor: Option<BindingId>,
}

impl Page {
    fn rows(&self) -> usize {
        match self.batch.map(usize::try_from) {
            None | Some(Err(_) | Ok(0)) => PAGE,
            Some(Ok(rows)) => rows.min(PAGE_MAX),
        }
    }
}

impl Admin {
    /// Gives the legacy bindings of one page the installation that they mean, with one audit line each, all in one
    /// transaction. Bindings are walked in the order of their ids, so a walk that was cut off goes on anywhere.
    ///
    /// # Errors
    /// The policies' refusal; `admin.resource_invalid` for what is no page; trouble of the store. Nothing of the page was
    /// kept then.
    pub async fn backfill(&self, asking: &Asking, page: Json) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, ApplyResources { operator: asking.facts() }, "backfill.bind", "bindings").await?;
        let page = if page.is_null() { Ok(Page::default()) } else { serde_json::from_value(page) };
        let page: Page = page.map_err(|e| AdminError::new(ReasonCode::AdminResourceInvalid, e.to_string()))?;
        let _one_at_a_time = self.changing.lock().await;
        let directory = self.store.directory();
        let mut plan = self.plan(Future::of(directory.clone()));
        let mut report = Report::default();
        let behind = page.cursor.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut bindings = directory.bindings.range::<BindingId, _>((behind, Bound::Unbounded)).map(|(_, b)| &b.item);
        let mut last = None;
        for binding in bindings.by_ref().take(page.rows()) {
            last = Some(binding.id.to_string());
            if !binding.is_legacy() {
                (report.processed, report.already_done) = (report.processed + 1, report.already_done + 1);
                continue;
            }
            let filled = meant(&directory, binding).and_then(|i| plan.binding(filled(binding, i)).map_err(Skip::from));
            match filled {
                Ok(()) => (report.processed, report.migrated) = (report.processed + 1, report.migrated + 1),
                Err(Skip(cause, detail)) => report.skip(None, Some(binding.id.to_string()), cause, detail),
            }
        }
        report.next = last.filter(|_| bindings.next().is_some());
        if !page.dry_run {
            let parts = std::mem::take(&mut plan.parts).into_iter().map(|part| Part { action: "backfill.bind", ..part });
            let lines = self.permitted(asking, parts.collect(), &decision).await?;
            self.commit(plan, lines).await?;
        }
        shown(&report)
    }
}

/// The one installation that a legacy binding means: by the earlier system's id of its connection, then by the account, then
/// by what that system called the installation; where the binding knows none of these, the only one there is.
fn meant<'d>(directory: &'d Directory, binding: &Binding) -> Result<&'d Installation, Skip> {
    let Some(provider) = binding.select.provider else { return skip(Cause::MissingIdentity, "it names no provider") };
    // A degraded one still hears: were it left out, the other of two would be a guess.
    let candidates = directory.hearing(&binding.org, provider);
    let candidates: Vec<&Installation> = candidates.filter(|i| binding.mode.is_none_or(|m| m == i.owner.mode())).collect();
    let former = binding.former.clone().unwrap_or_default();
    let by_id = |i: &Installation, known: &str| i.id.as_str() == known;
    let by_account = |i: &Installation, known: &str| i.account.ids().contains(&known);
    let by_either = |i: &Installation, known: &str| by_id(i, known) || by_account(i, known);
    type Fits<'f> = &'f dyn Fn(&Installation, &str) -> bool;
    let knows: [(Option<&String>, Fits<'_>); 4] = [
        (former.connection.as_ref(), &by_id),
        (binding.select.account.as_ref(), &by_account),
        (former.account.as_ref(), &by_account),
        (former.installation.as_ref(), &by_either),
    ];
    let mut found: Option<&Installation> = None;
    for (known, fits) in knows.iter().filter_map(|(known, fits)| known.map(|known| (known, fits))) {
        let hits: Vec<&Installation> = candidates.iter().copied().filter(|i| fits(i, known)).collect();
        match (hits.as_slice(), found) {
            ([], _) => {}
            ([only], None) => found = Some(*only),
            (hits, Some(found)) if hits.iter().any(|i| i.id == found.id) => {}
            _ => return several(&hits),
        }
    }
    let knows_any = knows.iter().any(|(known, _)| known.is_some());
    let meant = match (found, candidates.as_slice()) {
        (Some(found), _) => found,
        (None, [only]) if !knows_any => *only,
        (None, [_, _, ..]) if !knows_any => return several(&candidates),
        _ => {
            let which = if knows_any { "is what it names" } else { "of that provider hears events" };
            return skip(Cause::MissingIdentity, format!("no installation of org `{}` {which}", binding.org));
        }
    };
    if meant.status != InstallationStatus::Active {
        return skip(Cause::InactiveInstallation, format!("installation `{}` is {}", meant.id, meant.status.as_str()));
    }
    Ok(meant)
}

fn several<T>(installations: &[&Installation]) -> Result<T, Skip> {
    let names: Vec<&str> = installations.iter().map(|i| i.id.as_str()).take(5).collect();
    skip(Cause::AmbiguousInstallation, format!("it could mean {}; name one in the binding", names.join(", ")))
}

/// What the binding says itself stands; the installation brings what it leaves open.
fn filled(binding: &Binding, installation: &Installation) -> BindingSpec {
    let Binding { id, org, select, agent, priority, enabled, session, allow_platform_fallback, mode, .. } = binding.clone();
    let installation = Some(installation.id.clone());
    BindingSpec { id, org, installation, mode, select, agent, priority, enabled, session, allow_platform_fallback, former: None }
}
