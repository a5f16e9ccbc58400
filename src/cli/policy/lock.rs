//! `byoa policy lock` and `byoa policy rollback`: a set as one bundle, and back to one of the last accepted. Floor 11.

use std::fs;

use super::{CliError, Place, refused};
use crate::config::Config;
use crate::policy::accept::Terms;
use crate::policy::history::{Accepted, replace};
use crate::policy::lock::{LOCK, Lock};
use crate::policy::{History, read};

impl Place {
    /// What the gateway asks of a set, whatever stands in the lock.
    fn terms(&self) -> Terms {
        Terms { dir: self.dir.clone(), schema: self.schema.clone(), gate_tables: true, require_lock: false, platform_limits: self.limits }
    }
}

/// Writes the lock of a set that passes everything else.
pub(super) fn lock(place: &Place, check: bool) -> Result<(), CliError> {
    let terms = place.terms();
    let found = terms.read().map_err(|e| refused(&e))?;
    if check {
        let terms = Terms { require_lock: true, ..terms };
        let (law, _) = terms.accept_whole(&found, place.now).map_err(|e| refused(&e))?;
        anstream::println!("{LOCK} describes these {} policies, version {}", law.policies(), found.version());
        return Ok(());
    }
    let unlocked = found.without_lock();
    let (law, rows) = terms.accept_whole(&unlocked, place.now).map_err(|e| refused(&e))?;
    let proved = super::prove::word(&law)?;
    let lock = Lock::of(&unlocked, law.policies() + law.ended().len(), proved);
    let file = place.dir.join(LOCK);
    let text = lock.text().map_err(CliError::Unable)?;
    if fs::read_to_string(&file).is_ok_and(|there| there == text) {
        anstream::println!("unchanged {}", file.display());
        return Ok(());
    }
    replace(&file, text.as_bytes()).map_err(|e| CliError::Unable(format!("{}: {e}", file.display())))?;
    anstream::println!(
        "wrote {}: {} policies in {} files, {} tables, {} rows hold, version {}",
        file.display(),
        lock.policies,
        lock.files.len(),
        lock.tables.len(),
        rows,
        lock.version
    );
    Ok(())
}

/// Puts an accepted set back into the folder; without a version it lists what there is to go back to.
pub(super) fn rollback(place: &Place, config: &Config, version: Option<&str>) -> Result<(), CliError> {
    let dir = &config.policies.history;
    let cannot = |e: std::io::Error| {
        CliError::Unable(format!("{}: {e}; the gateway keeps what it accepted where policies.history says", dir.display()))
    };
    let kept = History::new(dir, config.policies.history_max).list().map_err(cannot)?;
    // What is there now may be broken: that is why one goes back.
    let now = read(&place.dir, &place.schema, &place.limits);
    let current = now.as_ref().map_or("", |sources| sources.version().as_ref());
    let Some(version) = version else {
        list(&kept, current);
        return Ok(());
    };
    let mut matching = kept.iter().filter(|set| set.version.starts_with(version));
    let set = match (matching.next(), matching.next()) {
        (Some(set), None) => set,
        (Some(_), Some(_)) => return Err(CliError::Found(format!("`{version}` is the beginning of several versions; give more of it"))),
        (None, _) => return Err(CliError::Found(format!("`{version}` is no version that was kept; `byoa policy rollback` lists them"))),
    };
    let (written, removed) = set.restore(&place.dir).map_err(|e| {
        let advice = "roll back where the folder comes from, or give this command a folder it may write to with --policies";
        CliError::Unable(format!("{}: {e}; {advice}", place.dir.display()))
    })?;
    let (short, dir) = (set.version.chars().take(12).collect::<String>(), place.dir.display());
    anstream::println!("{dir} is version {short} of {} again: {written} files written, {removed} removed", set.accepted_at);
    anstream::println!("a running gateway takes it within two seconds; GET /v1/policies says so");
    Ok(())
}

fn list(kept: &[Accepted], current: &str) {
    let rows = kept.iter().map(|set| {
        let here = if set.version == current { "on disk" } else { "" };
        vec![set.version.clone(), set.accepted_at.to_string(), set.policies.to_string(), here.to_owned()]
    });
    anstream::println!("{}", crate::cli::show::table(&["version", "accepted", "policies", ""], rows));
}
