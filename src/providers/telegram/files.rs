//! Files by their ids: those that an update tells of, and those that a call fetches or sends. Part of `providers::telegram`, floor 2.

use serde_json::Value;

use crate::domain::reason::ReasonCode;
use crate::providers::sdk::Untold;
use crate::wire::form::Arguments;
use crate::wire::json;

/// Ids that are read of one update: a photo has four sizes, and a message may quote another.
const FILES_MAX: usize = 32;
/// Longer texts are no ids.
const ID_CHARS_MAX: usize = 256;

/// The fields in which updates and answers have a file's id.
const ID: &str = "file_id";

/// Arguments that take a file: by its id, by an address, or as a part of the body. <https://core.telegram.org/bots/api#sending-files>
const ARGUMENTS: &[&str] =
    &["animation", "audio", "cover", "document", "media", "photo", "sticker", "thumb", "thumbnail", "video", "video_note", "voice"];

/// The ids of the files that an update tells of.
pub(super) fn told(raw: &[u8]) -> Vec<String> {
    let mut ids = Vec::new();
    if memchr::memmem::find(raw, b"\"file_id\"").is_some()
        && let Ok(update) = serde_json::from_slice::<Value>(raw)
    {
        collect(&update, "", &|name| name == ID, &mut ids);
    }
    ids.truncate(FILES_MAX);
    ids
}

/// The ids of the files that a call fetches or sends.
///
/// # Errors
/// [`Untold`] where an argument that takes a file cannot be read.
pub(super) fn named(arguments: &Arguments) -> Result<Vec<String>, Untold> {
    let takes = |name: &str| ARGUMENTS.contains(&name) || name.ends_with(ID);
    let mut ids = Vec::new();
    for (name, value) in arguments.each() {
        let read;
        let value = match value.as_ref() {
            Value::String(text) if text.trim_start().starts_with(['[', '{']) && (takes(name) || name == "results") => {
                read = json::value(text).map_err(|_| Untold::from(ReasonCode::EgressMessageInvalid))?;
                &read
            }
            value => value,
        };
        collect(value, name, &takes, &mut ids);
    }
    // Whatever is fetched from elsewhere, or comes along, is no file of the bot's.
    let elsewhere = |id: &str| ["http://", "https://", "attach://"].iter().any(|scheme| id.to_ascii_lowercase().starts_with(scheme));
    ids.retain(|id| !elsewhere(id));
    Ok(ids)
}

fn collect(value: &Value, name: &str, takes: &dyn Fn(&str) -> bool, ids: &mut Vec<String>) {
    match value {
        Value::String(text) if takes(name) && !text.is_empty() && text.len() <= ID_CHARS_MAX => ids.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| collect(item, name, takes, ids)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| collect(field, name, takes, ids)),
        _ => {}
    }
}

/// The answer to `getFile` with a ticket in place of the path.
///
/// # Errors
/// [`ReasonCode::EgressNotFound`] for an answer that names no file.
pub(super) fn with_ticket(body: &[u8], ticket: &str) -> Result<Vec<u8>, ReasonCode> {
    let mut answer: Value = serde_json::from_slice(body).map_err(|_| ReasonCode::EgressNotFound)?;
    let file = answer.get_mut("result").and_then(Value::as_object_mut).ok_or(ReasonCode::EgressNotFound)?;
    if let Some(path) = file.get_mut("file_path") {
        *path = ticket.into();
    }
    serde_json::to_vec(&answer).map_err(|_| ReasonCode::EgressNotFound)
}
