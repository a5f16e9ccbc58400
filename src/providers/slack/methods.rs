//! Slack's methods that the gateway knows. <https://docs.slack.dev/reference/methods> Part of `providers::slack`, floor 2.

use crate::domain::message::Effect::{Administer, Delete, Read, Write};
use crate::providers::methods::{Entry, about, plain, speaks};
use crate::providers::who::Who;

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
    speaks("chat.postEphemeral", Write, "channel").whom(&["user"]),
    speaks("chat.postMessage", Write, "channel"),
    speaks("chat.scheduleMessage", Write, "channel"),
    speaks("chat.startStream", Write, "channel").whom(&["recipient_team_id", "recipient_user_id"]),
    speaks("chat.stopStream", Write, "channel"),
    speaks("chat.unfurl", Write, "channel").whom(&["user_auth_blocks", "user_auth_message", "user_auth_required", "user_auth_url"]),
    speaks("chat.update", Write, "channel"),
    speaks("conversations.invite", Administer, "channel").whom(&["users"]),
    speaks("conversations.join", Write, "channel"),
    speaks("conversations.kick", Administer, "channel").whom(&["user"]),
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
    plain("bots.info", Read).whom(&["bot"]),
    about("chat.getPermalink", Read, "channel"),
    about("chat.scheduledMessages.list", Read, "channel"),
    about("conversations.history", Read, "channel"),
    about("conversations.info", Read, "channel"),
    plain("conversations.list", Read),
    about("conversations.mark", Write, "channel"),
    about("conversations.members", Read, "channel"),
    about("conversations.open", Write, "channel").whom(&["users"]),
    about("conversations.replies", Read, "channel"),
    plain("dialog.open", Write),
    plain("emoji.list", Read),
    plain(SHARE, Write).whom(&["channel_id", "channels"]),
    plain("files.delete", Delete),
    plain(UPLOAD, Write),
    plain("files.info", Read),
    about("files.list", Read, "channel").whom(&["user"]),
    plain("functions.completeError", Write),
    plain("functions.completeSuccess", Write),
    about("pins.list", Read, "channel"),
    about("reactions.get", Read, "channel"),
    plain("reactions.list", Read).whom(&["user"]),
    plain("team.info", Read).whom(&["team"]),
    plain("usergroups.list", Read).whom(&["include_users"]),
    plain("usergroups.users.list", Read),
    plain("users.conversations", Read).whom(&["user"]),
    plain("users.getPresence", Read).whom(&["user"]),
    plain("users.info", Read).whom(&["user"]),
    plain("users.list", Read),
    plain("users.lookupByEmail", Read),
    plain("users.profile.get", Read).whom(&["user"]),
    plain("views.open", Write),
    plain("views.publish", Write).whom(&["user_id"]),
    plain("views.push", Write),
    plain("views.update", Write),
];

/// Methods that hand out or take away tokens, move the app's events elsewhere, or administer what is not the agent's.
pub(super) const RESERVED: &[&str] =
    &["admin.", "apps.", "auth.", "migration.", "oauth.", "openid.", "rtm.", "team.preferences.", "tooling."];

/// Of Slack's arguments: a workspace is compared with the installation's own wherever it is named.
pub(super) const WHO: Who = Who {
    content: &["attachments", "blocks", "dialog", "metadata", "outputs", "prompts", "unfurls", "user_auth_blocks", "view"],
    everywhere: &["team_id"],
};
