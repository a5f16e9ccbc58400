//! Notices that the law on disk is no longer the one in force. Only notices: loading it while requests run is the reload's.
//!
//! Events say when to look, never what changed (a renamed folder or a swapped link tells nothing of the files in it), and a
//! look every few seconds makes up for the ones that got lost. What is compared is content, so our own reading of the files
//! does not count as a change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};

use super::{Engine, load};

/// A look even when no event came.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between an event and the look: an editor's save is several events.
const SETTLE: Duration = Duration::from_millis(250);

/// Whether the law on disk differs from the one in force, or cannot be read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stale(Arc<AtomicBool>);

impl Stale {
    /// Whether it does.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Looks now; whether it changed its mind.
    fn look(&self, engine: &Engine, dir: &Path, schema: &Path) -> bool {
        let same = load::read(dir, schema).is_ok_and(|sources| sources.version == *engine.pin().version());
        self.0.swap(!same, Ordering::Relaxed) == same
    }
}

/// Watches until `stopping` turns true.
pub async fn run(engine: Engine, dir: PathBuf, schema: PathBuf, stale: Stale, mut stopping: watch::Receiver<bool>) {
    let (tell, mut told) = mpsc::channel(1);
    // Without a watcher (no inotify left, a network file system) the regular look is what remains.
    let watcher = watcher(&dir, tell);
    if let Err(error) = &watcher {
        tracing::warn!(error = %error, "the policy folder cannot be watched; it is looked at every {} s", LOOK_EVERY.as_secs());
    }
    loop {
        if stale.look(&engine, &dir, &schema) {
            let stale = stale.get();
            let version = engine.pin().version().clone();
            if stale {
                tracing::warn!(%version, "the policies on disk are not the ones in force; restart to load them, `byoa doctor` says whether they can be");
            } else {
                tracing::info!(%version, "the policies on disk are the ones in force again");
            }
        }
        let told = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            Some(()) = told.recv() => true,
            () = tokio::time::sleep(LOOK_EVERY) => false,
        };
        if told {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn watcher(dir: &Path, tell: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading is an event too; answering it with a look would never end.
        if !event.is_ok_and(|e| e.kind.is_access()) {
            let _ = tell.try_send(());
        }
    })?;
    watcher.watch(dir, RecursiveMode::Recursive)?;
    // A folder that is replaced whole is an event of its parent only.
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        watcher.watch(parent, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::policy::{SCHEMA, Snapshot};

    #[test]
    fn an_edit_is_noticed_and_so_is_its_undoing() {
        let disk = tempfile::tempdir().unwrap();
        let (dir, schema) = (disk.path().join("policies"), disk.path().join("s.cedarschema"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(&schema, SCHEMA).unwrap();
        let law = "@id(\"a\") @reason(\"r\")\npermit (principal is Byoa::Operator, action == Byoa::Action::\"ViewResources\", resource);\n";
        std::fs::write(dir.join("a.cedar"), law).unwrap();
        let engine = Engine::new(Snapshot::load(&dir, &schema, Timestamp::default()).unwrap());
        let stale = Stale::default();
        assert!(!stale.look(&engine, &dir, &schema) && !stale.get());
        for broken in [format!("{law}\n// edited"), "permit(".to_owned()] {
            std::fs::write(dir.join("a.cedar"), broken).unwrap();
            assert!(stale.look(&engine, &dir, &schema) && stale.get());
            assert!(!stale.look(&engine, &dir, &schema), "told once");
            std::fs::write(dir.join("a.cedar"), law).unwrap();
            assert!(stale.look(&engine, &dir, &schema) && !stale.get());
        }
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(stale.look(&engine, &dir, &schema) && stale.get());
    }
}
