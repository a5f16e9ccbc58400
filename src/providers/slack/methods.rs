//! Slack's methods that the gateway knows. <https://docs.slack.dev/reference/methods> Part of `providers::slack`, floor 2.

use crate::domain::message::Effect::{Administer, Delete, Read, Write};
use crate::providers::methods::{Entry, about, plain, speaks};

/// Both steps of an upload go by the name of the first.
pub(super) const UPLOAD: &str = "files.getUploadURLExternal";
/// Shares uploaded files: in a conversation, where it names one.
pub(super) const SHARE: &str = "files.completeUploadExternal";

/// Every method that the gateway knows.
pub(in crate::providers) const METHODS: &[Entry] = &[
    speaks("assistant.threads.setStatus", Write, "channel_id"),
    speaks("assistant.threads.setSuggestedPrompts", Write, "channel_id"),
    speaks("assistant.threads.setTitle", Write, "channel_id"),
    speaks("bookmarks.add", Write, "channel_id"),
    speaks("bookmarks.edit", Write, "channel_id"),
    speaks("bookmarks.remove", Delete, "channel_id"),
    speaks("chat.appendStream", Write, "channel"),
    speaks("chat.delete", Delete, "channel"),
    speaks("chat.deleteScheduledMessage", Delete, "channel"),
    speaks("chat.meMessage", Write, "channel"),
    speaks("chat.postEphemeral", Write, "channel"),
    speaks("chat.postMessage", Write, "channel"),
    speaks("chat.scheduleMessage", Write, "channel"),
    speaks("chat.startStream", Write, "channel"),
    speaks("chat.stopStream", Write, "channel"),
    speaks("chat.unfurl", Write, "channel"),
    speaks("chat.update", Write, "channel"),
    speaks("conversations.invite", Administer, "channel"),
    speaks("conversations.join", Write, "channel"),
    speaks("conversations.kick", Administer, "channel"),
    speaks("conversations.leave", Write, "channel"),
    speaks("conversations.setPurpose", Administer, "channel"),
    speaks("conversations.setTopic", Administer, "channel"),
    speaks("pins.add", Write, "channel"),
    speaks("pins.remove", Write, "channel"),
    speaks("reactions.add", Write, "channel"),
    speaks("reactions.remove", Write, "channel"),
    plain("api.test", Read),
    plain("auth.test", Read),
    about("bookmarks.list", Read, "channel_id"),
    plain("bots.info", Read),
    about("chat.getPermalink", Read, "channel"),
    about("chat.scheduledMessages.list", Read, "channel"),
    about("conversations.history", Read, "channel"),
    about("conversations.info", Read, "channel"),
    plain("conversations.list", Read),
    about("conversations.mark", Write, "channel"),
    about("conversations.members", Read, "channel"),
    about("conversations.open", Write, "channel"),
    about("conversations.replies", Read, "channel"),
    plain("dialog.open", Write),
    plain("emoji.list", Read),
    plain(SHARE, Write),
    plain("files.delete", Delete),
    plain(UPLOAD, Write),
    plain("files.info", Read),
    about("files.list", Read, "channel"),
    plain("functions.completeError", Write),
    plain("functions.completeSuccess", Write),
    about("pins.list", Read, "channel"),
    about("reactions.get", Read, "channel"),
    plain("reactions.list", Read),
    plain("team.info", Read),
    plain("usergroups.list", Read),
    plain("usergroups.users.list", Read),
    plain("users.conversations", Read),
    plain("users.getPresence", Read),
    plain("users.info", Read),
    plain("users.list", Read),
    plain("users.lookupByEmail", Read),
    plain("users.profile.get", Read),
    plain("views.open", Write),
    plain("views.publish", Write),
    plain("views.push", Write),
    plain("views.update", Write),
];

/// Methods that hand out or take away tokens, move the app's events elsewhere, or administer what is not the agent's.
pub(super) const RESERVED: &[&str] =
    &["admin.", "apps.", "auth.", "migration.", "oauth.", "openid.", "rtm.", "team.preferences.", "tooling."];
