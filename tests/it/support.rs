//! What the suites share: a gateway in a folder of its own, a client that writes exact bytes, fakes that keep what they got.

pub mod fakes;
pub mod gateway;
pub mod process;
pub mod raw;
pub mod script;
pub mod scripted;
pub mod world;

use std::path::PathBuf;

use byoa_gateway::domain::clock::Timestamp;
use byoa_gateway::domain::installation::ProviderKind;
use byoa_gateway::domain::secret::Secret;
use byoa_gateway::providers;

/// Copies a folder with everything in it.
pub fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// A path below the crate.
pub fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The file's JSON.
pub fn json_file(path: &str) -> serde_json::Value {
    let file = here(path);
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// The headers with which a provider proves a body.
pub fn sign(provider: ProviderKind, body: &[u8], secret: &str, at: Timestamp) -> Vec<(String, String)> {
    let headers = providers::of(provider).sign(body, &Secret::new(secret.to_owned()), at);
    headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A signed message of an app's account, as its provider would post it.
pub fn webhook(app: &world::App, nonce: u64, now: Timestamp) -> raw::Request {
    let account = app.external();
    let conversation = if app.provider == ProviderKind::Slack { "C00HELPDESK" } else { "5100000001" };
    let sample =
        providers::Sample { kind: "message", account: &account, app_id: Some(app.app_id), conversation, text: "hello", nonce, now };
    let (body, media_type) = providers::of(app.provider).sample(&sample).expect("a message");
    let proof = sign(app.provider, &body, app.secret, now);
    raw::Request::post(&app.path(), body).header("content-type", media_type).headers(proof)
}
