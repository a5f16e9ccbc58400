//! For and to whom a call acts. Policies are asked about the conversation that a call names; a receiver, a sender or an account
//! in any other argument would go past them. Such an argument is passed on only where the table of methods lists it for that
//! method, and one that nobody has listed yet is refused. `file:` addresses name the provider's own disk and are passed on
//! nowhere. Part of `providers`, floor 2.

use serde_json::{Map, Value};

use super::methods::Entry;
use super::sdk::Untold;
use crate::domain::reason::ReasonCode;
use crate::wire::form::Arguments;
use crate::wire::json;

/// Words of which one in an argument's name means that the argument may say for or to whom the call acts.
const WORDS: &[&str] = &[
    "account",
    "accounts",
    "actor",
    "behalf",
    "bot",
    "business",
    "channel",
    "channels",
    "chat",
    "chats",
    "connection",
    "conversation",
    "conversations",
    "destination",
    "group",
    "groups",
    "guest",
    "invitee",
    "owner",
    "peer",
    "receiver",
    "receivers",
    "recipient",
    "recipients",
    "sender",
    "target",
    "team",
    "teams",
    "tenant",
    "user",
    "users",
    "workspace",
];

/// Names without such a word that say it too.
const NAMES: &[&str] = &["as", "bcc", "cc", "from", "inline_message_id", "method", "on_behalf_of", "to", "token", "unfurl_id", "waba_id"];

/// Texts for people, and what only the agent reads: they may begin with a bracket, or with `file:`.
const TEXTS: &[&str] = &[
    "action_id",
    "address",
    "alt_text",
    "author_name",
    "biz_opaque_callback_data",
    "block_id",
    "body",
    "callback_data",
    "callback_id",
    "caption",
    "copy_text",
    "description",
    "emoji",
    "explanation",
    "external_id",
    "fallback",
    "first_name",
    "footer",
    "header",
    "hint",
    "initial_comment",
    "initial_value",
    "input_field_placeholder",
    "label",
    "last_name",
    "loading_messages",
    "markdown_text",
    "message",
    "message_text",
    "name",
    "payload",
    "performer",
    "placeholder",
    "pretext",
    "private_metadata",
    "prompt",
    "query",
    "question",
    "quote",
    "short_description",
    "start_parameter",
    "status",
    "submit",
    "text",
    "title",
    "value",
    "vcard",
    "verbatim",
];

/// The arguments of a provider that need no listing.
pub(super) struct Who {
    /// Arguments that are content: shown to people, or handed back to the agent.
    pub content: &'static [&'static str],
    /// Arguments that every method may have, because they are looked at elsewhere.
    pub everywhere: &'static [&'static str],
}

/// Lets a call through whose arguments say for and to whom it acts only where its method lists that.
///
/// # Errors
/// [`ReasonCode::EgressMessageInvalid`] for such an argument, [`ReasonCode::EgressFileAddress`] for a `file:` address.
pub(super) fn check(who: &Who, entry: &Entry, arguments: &Arguments) -> Result<(), Untold> {
    // Files have names too.
    if arguments.names().any(|name| !who.lists(entry, name) && says_whom(name)) {
        return Err(NOT_THE_AGENTS);
    }
    for (name, value) in arguments.each() {
        who.look(entry, name, &value)?;
    }
    Ok(())
}

/// The same for fields of the provider's own that a message brings.
///
/// # Errors
/// The same.
pub(super) fn check_fields(who: &Who, entry: &Entry, fields: &Map<String, Value>) -> Result<(), ReasonCode> {
    for (name, value) in fields {
        if !who.lists(entry, name) && says_whom(name) {
            return Err(NOT_THE_AGENTS.code);
        }
        who.look(entry, name, value).map_err(|untold| untold.code)?;
    }
    Ok(())
}

const NOT_THE_AGENTS: Untold = Untold::invalid("an argument says for or to whom the call acts, and is none that this method may have here");
const FILE_ADDRESS: Untold = Untold {
    code: ReasonCode::EgressFileAddress,
    detail: "a `file:` address is not passed on; send the file itself, its id or an https address",
};

impl Who {
    fn lists(&self, entry: &Entry, path: &str) -> bool {
        entry.place == Some(path) || entry.who.contains(&path) || self.everywhere.contains(&path)
    }

    /// Looks at one argument. In a form, and where a provider takes either, a text may be JSON.
    fn look(&self, entry: &Entry, name: &str, value: &Value) -> Result<(), Untold> {
        let read;
        let value = match value {
            Value::String(text) if !TEXTS.contains(&name) && text.trim_start().starts_with(['{', '[']) => {
                read = json::value(text).map_err(|_| Untold::invalid("an argument looks like JSON and is none"))?;
                &read
            }
            value => value,
        };
        self.within(entry, name, name, self.content.contains(&name), value)
    }

    /// Looks at what an argument holds. `path` is the argument and the names below it that are listed for methods.
    fn within(&self, entry: &Entry, path: &str, name: &str, content: bool, value: &Value) -> Result<(), Untold> {
        match value {
            Value::String(text) if !TEXTS.contains(&name) && is_file_address(text) => Err(FILE_ADDRESS),
            Value::Array(items) => items.iter().try_for_each(|item| self.within(entry, path, name, content, item)),
            Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
                let path = format!("{path}.{name}");
                if !content && says_whom(name) && !self.lists(entry, &path) {
                    return Err(NOT_THE_AGENTS);
                }
                self.within(entry, &path, name, content || self.content.contains(&name.as_str()), value)
            }),
            _ => Ok(()),
        }
    }
}

/// True for a name of the sort that says for or to whom a call acts: `receiver_user_id`, `receiverUserId`, `to`.
fn says_whom(name: &str) -> bool {
    if NAMES.iter().any(|whole| name.eq_ignore_ascii_case(whole)) {
        return true;
    }
    let lower = name.to_ascii_lowercase();
    let mut words: Vec<String> = lower.split(|c: char| !c.is_ascii_alphabetic()).map(str::to_owned).collect();
    // A capital letter begins a word too.
    let mut word = String::new();
    for c in name.chars() {
        if !c.is_ascii_lowercase() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_ascii_alphabetic() {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.push(word);
    words.iter().any(|word| WORDS.contains(&word.as_str()))
}

/// True for an address on the disk of whoever reads it.
fn is_file_address(text: &str) -> bool {
    let text = text.trim_start_matches(|c: char| c.is_whitespace() || c.is_control());
    text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_say_whom() {
        for yes in [
            "receiver_user_id",
            "receiverUserId",
            "RECEIVER_USER_ID",
            "user",
            "Users",
            "chat_id",
            "business_connection_id",
            "to",
            "TO",
            "as_user",
            "recipient-type",
            "on_behalf_of",
            "target_1",
            "guest_query_id",
            "inline_message_id",
            "token",
        ] {
            assert!(says_whom(yes), "{yes}");
        }
        for no in ["text", "message_id", "username", "callback_query_id", "message_thread_id", "photo", "usergroup", "timeout", "limit", ""]
        {
            assert!(!says_whom(no), "{no}");
        }
    }

    #[test]
    fn file_addresses() {
        for yes in ["file:///etc/passwd", "FILE:/etc/passwd", " file://host/x", "\u{0}file:x", "\nFile:\\x"] {
            assert!(is_file_address(yes), "{yes:?}");
        }
        for no in ["https://x/file:", "profile:1", "file", "BQACAgIAAx", "attach://file", "дата:"] {
            assert!(!is_file_address(no), "{no}");
        }
    }
}
