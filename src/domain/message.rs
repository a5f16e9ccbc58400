//! Events on their way in, messages on their way out.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The effect of a provider's method, as policies are told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Reads.
    Read,
    /// Says, changes or marks something.
    Write,
    /// Takes away what was said or shared.
    Delete,
    /// Changes a conversation's or the account's settings, or who is in it.
    Administer,
}

impl Effect {
    /// The word in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Administer => "administer",
        }
    }
}

/// What happened, as finely as the gateway tells events apart. [`EventKind::cloud_type`] is the coarser word that agents
/// see as the CloudEvents type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EventKind {
    /// A message in a channel or group.
    Message,
    /// A message that names the bot.
    MessageMention,
    /// A message to the bot alone.
    MessageDirect,
    /// A message with a file, photo, voice note and the like.
    MessageMedia,
    /// A post in a Telegram channel: it has no sender.
    MessageChannelPost,
    /// A message to a business account that the bot acts for.
    MessageBusiness,
    /// A message of a type the provider does not hand out.
    MessageUnsupported,
    /// Written by this app itself; delivering it again would be a loop.
    MessageSelf,
    /// A message was changed.
    MessageEdited,
    /// A message was taken back.
    MessageDeleted,
    /// A slash command.
    Command,
    /// A button, menu, modal or the like.
    Interaction,
    /// A reaction was set or taken back.
    Reaction,
    /// An inline query.
    InlineQuery,
    /// Sent, delivered or read.
    Status,
    /// A sent message failed after all.
    StatusFailed,
    /// The app was removed from the account.
    Uninstalled,
    /// Tokens of the installation died.
    TokensRevoked,
    /// A workspace left an org-wide install.
    WorkspaceRemoved,
    /// A workspace joined an org-wide install.
    WorkspaceAdded,
    /// One person blocked the bot.
    Blocked,
    /// One person unblocked the bot.
    Unblocked,
    /// The bot was added to a chat.
    ChatJoined,
    /// The bot was removed from a chat.
    ChatLeft,
    /// The chat has a new id.
    ChatMigrated,
    /// A managed bot was made, or its token or owner changed.
    ManagedBot,
    /// The account was restricted or banned.
    Restricted,
    /// Members of a conversation changed.
    Membership,
    /// The provider dropped events.
    RateLimited,
    /// Anything else that was authentic.
    Other,
}

impl EventKind {
    /// The fine word, as in `message.mention`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::MessageMention => "message.mention",
            Self::MessageDirect => "message.direct",
            Self::MessageMedia => "message.media",
            Self::MessageChannelPost => "message.channel_post",
            Self::MessageBusiness => "message.business",
            Self::MessageUnsupported => "message.unsupported",
            Self::MessageSelf => "message.self",
            Self::MessageEdited => "message.edited",
            Self::MessageDeleted => "message.deleted",
            Self::Command => "command",
            Self::Interaction => "interaction",
            Self::Reaction => "reaction",
            Self::InlineQuery => "inline_query",
            Self::Status => "status",
            Self::StatusFailed => "status.failed",
            Self::Uninstalled => "lifecycle.uninstalled",
            Self::TokensRevoked => "lifecycle.tokens_revoked",
            Self::WorkspaceRemoved => "lifecycle.workspace_removed",
            Self::WorkspaceAdded => "lifecycle.workspace_added",
            Self::Blocked => "lifecycle.blocked",
            Self::Unblocked => "lifecycle.unblocked",
            Self::ChatJoined => "lifecycle.chat_joined",
            Self::ChatLeft => "lifecycle.chat_left",
            Self::ChatMigrated => "lifecycle.chat_migrated",
            Self::ManagedBot => "lifecycle.managed_bot",
            Self::Restricted => "lifecycle.restricted",
            Self::Membership => "membership",
            Self::RateLimited => "ops.rate_limited",
            Self::Other => "other",
        }
    }

    /// The CloudEvents type (`interface.md` §4).
    pub const fn cloud_type(self) -> &'static str {
        match self {
            Self::Message
            | Self::MessageMention
            | Self::MessageDirect
            | Self::MessageMedia
            | Self::MessageChannelPost
            | Self::MessageBusiness
            | Self::MessageUnsupported
            | Self::MessageSelf => "message.received",
            Self::MessageEdited => "message.edited",
            Self::MessageDeleted => "message.deleted",
            Self::Command => "command.invoked",
            Self::Interaction => "interaction.received",
            Self::Reaction => "reaction.changed",
            Self::Status | Self::StatusFailed => "delivery.status",
            Self::Blocked | Self::Unblocked | Self::ChatJoined | Self::ChatLeft | Self::ChatMigrated | Self::Membership => {
                "membership.changed"
            }
            Self::InlineQuery
            | Self::Uninstalled
            | Self::TokensRevoked
            | Self::WorkspaceRemoved
            | Self::WorkspaceAdded
            | Self::ManagedBot
            | Self::Restricted
            | Self::RateLimited
            | Self::Other => "event.other",
        }
    }
}

/// The account that a verified body names. It may only confirm what the path said.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum AccountClaim {
    /// Slack: the installation is the enterprise where the app is installed org-wide, else the team.
    Slack {
        /// `api_app_id`.
        app_id: Option<String>,
        /// The workspace, absent for an org-wide install.
        team_id: Option<String>,
        /// The Enterprise Grid org.
        enterprise_id: Option<String>,
        /// Installed in the whole Enterprise Grid org.
        org_wide: bool,
    },
    /// Telegram names no bot: the path did. The chat picks the share of a shared bot.
    Telegram {
        /// The chat, where the update has one.
        chat_id: Option<String>,
    },
    /// One WhatsApp number, or the whole business account where the event is about that.
    WhatsApp {
        /// The business account.
        waba_id: String,
        /// The number's id.
        phone_number_id: Option<String>,
    },
}

impl AccountClaim {
    /// The provider's id of the app that the event was sent to, where the event names it.
    pub fn app_id(&self) -> Option<&str> {
        match self {
            Self::Slack { app_id, .. } => app_id.as_deref(),
            Self::Telegram { .. } | Self::WhatsApp { .. } => None,
        }
    }
}

/// What sort of place a conversation is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConversationKind {
    /// A channel.
    Channel,
    /// One person and the bot.
    Direct,
    /// A group.
    Group,
    /// A thread or topic in one of those.
    Thread,
}

impl ConversationKind {
    /// The word in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Direct => "direct",
            Self::Group => "group",
            Self::Thread => "thread",
        }
    }
}

/// Where people talk.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Conversation {
    /// Channel, chat or the other party's stable id.
    pub id: String,
    /// What sort of place it is.
    pub kind: ConversationKind,
    /// Thread or topic.
    pub thread: Option<String>,
}

/// Who said it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// A stable id; names and phone numbers change hands.
    pub id: String,
    /// What the provider calls the person, for display only.
    pub name: Option<String>,
    /// Not a person.
    pub is_bot: bool,
}

/// A file that came along. Its address is the gateway's to give; the provider's would carry a token.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// The provider's id of the file.
    pub id: String,
    /// `image`, `audio`, `video`, `document`, `sticker`, `voice`, `file`.
    pub kind: String,
    /// The media type the provider states.
    pub media_type: Option<String>,
    /// The file's name.
    pub name: Option<String>,
}

/// What an agent is told of an event, whatever the provider. Stored beside the raw bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Normal {
    /// Where.
    pub conversation: Option<Conversation>,
    /// Who.
    pub sender: Option<Sender>,
    /// What was said.
    pub text: Option<String>,
    /// What came along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// The message it answers.
    pub reply_to: Option<String>,
    /// The workspace it happened in, where that can differ from the installation's (Slack Connect, Enterprise Grid).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<String>,
}

/// One event out of one verified request. Not bound to an installation yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InboundEvent {
    /// What happened.
    pub kind: EventKind,
    /// The account it names.
    pub account: AccountClaim,
    /// The provider's identity of the event within the installation. Telegram's is the update id alone, so the key is
    /// complete only together with the installation.
    pub dedupe_key: String,
    /// The provider's own id, for people.
    pub provider_event_id: String,
    /// The provider's own word for what happened.
    pub provider_event_type: String,
    /// The provider-neutral reading.
    pub normal: Normal,
    /// The provider's own bytes of this event: the request body, or this event's part of a batch.
    pub raw: Bytes,
    /// `application/json` or `application/x-www-form-urlencoded`.
    pub media_type: &'static str,
}

/// What an agent wants said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboundMessage {
    /// Channel, chat or recipient.
    pub conversation: String,
    /// Thread or topic.
    pub thread: Option<String>,
    /// Plain text; may be empty when `native` says it all.
    pub text: Option<String>,
    /// Fields of the provider's own request body, laid over ours. Never the destination.
    pub native: Option<serde_json::Map<String, serde_json::Value>>,
}

/// What the provider answered to a send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SendReceipt {
    /// Taken; the provider's id of the message.
    Sent {
        /// `ts`, `message_id` or `wamid…`.
        provider_message_id: String,
    },
    /// Wait, that installation and method only.
    RateLimited {
        /// Seconds, where the provider said.
        retry_after_s: Option<u64>,
        /// The provider's word.
        error: String,
    },
    /// The credential is dead.
    CredentialDead {
        /// The provider's word.
        error: String,
    },
    /// A final no about this message or destination.
    Rejected {
        /// The provider's word.
        error: String,
    },
    /// The request was answered and the answer does not say whether the message was taken.
    Unknown {
        /// The provider's word.
        error: String,
    },
    /// The provider is in trouble; the message was not taken.
    Unavailable {
        /// The provider's word or the status.
        error: String,
    },
}
