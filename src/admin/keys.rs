//! Master keys are replaced while the gateway runs: a new one seals at once, what others sealed is taken over page by page.
//!
//! There is no state of a rotation but the rows themselves: each names the key it is sealed under, and as long as one names an
//! older master key there is something left to do. So whoever is killed leaves nothing half done, and whoever comes next goes on.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{Admin, AdminError, Asking};
use crate::crypto::envelope::KeyId;
use crate::domain::reason::ReasonCode;
use crate::domain::record::AuditRecord;
use crate::policy::action::{RotateKeys, ViewResources};
use crate::store::Change;
use crate::vault::keys;

/// Rows that are read, and at most written, at a time.
const PAGE_ROWS: i64 = 200;
/// Rows that one request seals anew, where it does not say.
const ROWS_MAX: usize = 2_000;

/// How far a request goes.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotateBody {
    /// Goes on with what is left, and never makes a key.
    resume: bool,
    /// Rows to seal anew before it answers.
    rows_max: Option<usize>,
}

/// What came of a walk over the sealed rows.
#[derive(Debug, Default)]
struct Walk {
    /// Rows sealed anew.
    rows: usize,
    /// Those of them that an older master key had.
    taken_over: usize,
    /// Rows that do not open where they lie: they stay as they are, and so does their key.
    unreadable: Vec<String>,
    /// Whether the end was reached.
    finished: bool,
}

impl Admin {
    /// The master keys, which one seals, and how many rows are still sealed under each.
    ///
    /// # Errors
    /// The policies' refusal.
    pub async fn keys(&self, asking: &Asking) -> Result<Json, AdminError> {
        self.authorize(asking, ViewResources { operator: asking.facts() }, "keys.view", "keys").await?;
        self.key_status().await
    }

    /// Makes a new master key and seals every row under it, or goes on where that was left.
    ///
    /// # Errors
    /// The policies' refusal, `key.environment` where the keys are not ours to write, `key.missing` where their file cannot be
    /// written. The keys are the old ones then.
    pub async fn rotate_keys(&self, asking: &Asking, body: Json) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, RotateKeys { operator: asking.facts() }, "keys.rotate", "keys").await?;
        let ask: RotateBody = if body.is_null() { RotateBody::default() } else { read(body)? };
        let rows_max = ask.rows_max.unwrap_or(ROWS_MAX).max(1);
        let _one_at_a_time = self.changing.lock().await;
        let line = |action: &'static str, target: &str| asking.line(&self.clock, action, target.to_owned(), Some(&decision));
        // A rotation that was left is ended before another begins, so there are never more than two keys to keep.
        self.give_orgs_keys(&line).await?;
        let mut walk = self.reseal(rows_max, &line).await?;
        let mut made = None;
        if walk.finished && walk.taken_over == 0 && !ask.resume {
            let key = keys::fresh()?;
            let id = KeyId::of(&key);
            self.store.audit(vec![line("keys.rotate", &id.to_string())]).await?;
            // First on disk, then in use: what is sealed under it must open after the next start.
            self.keys.append(&key)?;
            self.vault.add_master(key).ok_or_else(|| AdminError::new(ReasonCode::KeyWeak, "the system's randomness is none"))?;
            made = Some(id);
            walk = self.reseal(rows_max, &line).await?;
        }
        let mut status = self.key_status().await?;
        if let Some(status) = status.as_object_mut() {
            status.insert("made".into(), json!(made.map(|id| id.to_string())));
            status.insert("resealed".into(), json!(walk.rows));
            status.insert("unreadable".into(), json!(walk.unreadable));
            status.insert("finished".into(), json!(walk.finished));
        }
        Ok(status)
    }

    /// Takes the master keys that no row names any more out of the key file.
    ///
    /// # Errors
    /// The policies' refusal, `key.environment`, `key.missing`.
    pub async fn prune_keys(&self, asking: &Asking) -> Result<Json, AdminError> {
        let decision = self.authorize(asking, RotateKeys { operator: asking.facts() }, "keys.prune", "keys").await?;
        let _one_at_a_time = self.changing.lock().await;
        // Requests read the declared state from memory: there too nothing may name them.
        self.store.reload().await?;
        let rows = self.rows_of().await?;
        let masters = self.vault.masters();
        let old = masters.split_last().map_or(&[][..], |(_, old)| old);
        let unused: Vec<KeyId> = old.iter().filter(|id| !rows.contains_key(id)).copied().collect();
        if !unused.is_empty() {
            let mut line = asking.line(&self.clock, "keys.prune", "keys".into(), Some(&decision));
            line.detail = Some(json!({"removed": names(&unused)}).to_string());
            self.store.audit(vec![line]).await?;
            self.keys.remove(&unused)?;
            unused.iter().for_each(|id| self.vault.drop_master(*id));
        }
        let mut status = self.key_status().await?;
        if let Some(status) = status.as_object_mut() {
            status.insert("removed".into(), json!(names(&unused)));
        }
        Ok(status)
    }

    /// Ends what an earlier process left of a rotation, or what a key that somebody added to the list asks for.
    ///
    /// # Errors
    /// The store's trouble.
    pub async fn resume_keys(&self) -> Result<(), AdminError> {
        let _one_at_a_time = self.changing.lock().await;
        let sealing = self.vault.masters().last().copied();
        let rows = self.rows_of().await?;
        if self.vault.masters().iter().all(|id| Some(*id) == sealing || !rows.contains_key(id)) {
            return Ok(());
        }
        let line = |action: &'static str, target: &str| AuditRecord::of_gateway(self.clock.now(), action, target.to_owned());
        let walk = self.reseal(usize::MAX, &line).await?;
        tracing::warn!(rows = walk.rows, unreadable = walk.unreadable.len(), "a rotation of the master key was ended");
        Ok(())
    }

    /// Orgs whose secrets an earlier build sealed under a master key get a key of their own for them.
    async fn give_orgs_keys(&self, line: &(dyn Fn(&'static str, &str) -> AuditRecord + Sync)) -> Result<(), AdminError> {
        let now = self.clock.now();
        let directory = self.store.directory();
        let mut without = BTreeSet::new();
        without.extend(
            directory
                .profiles
                .iter()
                .filter(|(_, p)| !p.secrets.is_empty())
                .filter_map(|(id, _)| directory.org_of("profiles", id.as_str())),
        );
        without.extend(directory.installations.values().filter(|i| !i.secrets.is_empty()).map(|i| i.item.org.clone()));
        without.extend(directory.agents.values().filter(|a| !a.secrets.is_empty()).filter_map(|a| a.item.org.clone()));
        without.retain(|org| !self.vault.has_org(org));
        if without.is_empty() {
            return Ok(());
        }
        let (mut fresh, mut changes, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for org in without {
            let key = keys::fresh()?;
            changes.push(Change::KeepKey(self.vault.sealed_org_key(&org, &key, now)?));
            lines.push(line("keys.org", org.as_str()));
            fresh.push((org, key));
        }
        if let Err(error) = self.store.apply(changes, lines, now).await {
            self.vault.add_kept_orgs(&self.store).await?;
            return Err(error.into());
        }
        fresh.into_iter().for_each(|(org, key)| self.vault.add_org(&org, key));
        Ok(())
    }

    async fn rows_of(&self) -> Result<BTreeMap<KeyId, i64>, AdminError> {
        Ok(self.store.sealed_under().await?.into_iter().collect())
    }

    /// Walks over every sealed row and puts those back that lie under another key than they should.
    async fn reseal(&self, rows_max: usize, line: &(dyn Fn(&'static str, &str) -> AuditRecord + Sync)) -> Result<Walk, AdminError> {
        let directory = self.store.directory();
        let masters = self.vault.masters();
        let sealing = masters.last().copied();
        let mut walk = Walk::default();
        let mut after = None;
        loop {
            let page = self.store.sealed_page(after.as_ref(), PAGE_ROWS).await?;
            walk.finished = page.is_empty();
            after = page.last().cloned();
            let mut moved = Vec::new();
            for row in page {
                if walk.rows + moved.len() >= rows_max {
                    break;
                }
                let named = KeyId::named_by(&row.sealed);
                match self.vault.rewrap(&row, directory.org_of(&row.kind, &row.owner).as_ref()) {
                    Ok(None) => {}
                    Ok(Some(sealed)) => {
                        walk.taken_over += usize::from(named != sealing && named.is_some_and(|id| masters.contains(&id)));
                        moved.push((row, sealed));
                    }
                    Err(error) => {
                        tracing::error!(kind = row.kind, owner = row.owner, field = row.field, error = %error, "a sealed value does not open");
                        walk.unreadable.push(format!("{}/{} {} ({}): {error}", row.kind, row.owner, row.field, row.slot));
                    }
                }
            }
            if !moved.is_empty() {
                walk.rows += moved.len();
                let mut line = line("keys.reseal", &sealing.map_or_else(String::new, |id| id.to_string()));
                line.detail = Some(json!({"rows": moved.len()}).to_string());
                self.store.reseal(moved, line).await?;
            }
            if walk.finished || walk.rows >= rows_max {
                break;
            }
        }
        if walk.rows > 0 {
            self.store.reload().await?;
        }
        Ok(walk)
    }

    async fn key_status(&self) -> Result<Json, AdminError> {
        let mut rows = self.rows_of().await?;
        let masters = self.vault.masters();
        let sealing = masters.last().copied();
        let mut left = 0;
        let mut items = Vec::new();
        for id in &masters {
            let rows = rows.remove(id).unwrap_or(0);
            let state = match (Some(*id) == sealing, rows) {
                (true, _) => "current",
                (false, 0) => "unused",
                (false, _) => "old",
            };
            if state == "old" {
                left += rows;
            }
            items.push(json!({"id": id.to_string(), "state": state, "rows": rows}));
        }
        let mut of_orgs = 0;
        for (id, rows) in rows {
            if self.vault.has(id) {
                of_orgs += rows;
            } else {
                items.push(json!({"id": id.to_string(), "state": "not_loaded", "rows": rows}));
            }
        }
        Ok(json!({
            "current": sealing.map(|id| id.to_string()), "items": items, "rows_left": left,
            "org_keys": self.vault.orgs(), "rows_under_org_keys": of_orgs, "next": null,
        }))
    }
}

fn names(ids: &[KeyId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn read<T: serde::de::DeserializeOwned>(body: Json) -> Result<T, AdminError> {
    serde_json::from_value(body).map_err(|e| AdminError::new(ReasonCode::AdminResourceInvalid, e.to_string()))
}
