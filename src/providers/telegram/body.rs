//! What an update says. Floor 2.

use bytes::Bytes;

use super::super::fit_id;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::lifecycle::{LifecycleChange, LifecycleNews, Place};
use crate::domain::message::{AccountClaim, Attachment, Conversation, ConversationKind, EventKind, InboundEvent, Normal, Sender};
use crate::domain::reason::ReasonCode;
use crate::wire::json::{self, Json};

/// <https://core.telegram.org/bots/api#update>: the kinds that are told apart here, of which an update holds at most one.
const KNOWN: &[&str] = &[
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_message",
    "edited_business_message",
    "deleted_business_messages",
    "message_reaction",
    "message_reaction_count",
    "inline_query",
    "callback_query",
    "my_chat_member",
    "chat_member",
    "managed_bot",
];

/// <https://core.telegram.org/bots/api#message>: what makes a message more than a service note.
const CONTENT: &[&str] =
    &["text", "caption", "location", "venue", "contact", "poll", "dice", "game", "story", "checklist", "paid_media", "invoice", "giveaway"];

/// <https://core.telegram.org/bots/api#message>: fields that hold a file, and what an agent is told it is. An animation
/// repeats itself as `document`.
const FILES: &[(&str, &str)] = &[
    ("animation", "video"),
    ("audio", "audio"),
    ("document", "document"),
    ("sticker", "sticker"),
    ("video", "video"),
    ("video_note", "video"),
    ("voice", "voice"),
];

/// Each look at an entity walks the text, so their number has an end; a text of 4,096 characters names a bot earlier.
const ENTITIES_MAX: usize = 100;

pub(super) fn read(body: &Bytes) -> Result<InboundEvent, ReasonCode> {
    let doc = json::parse(body)?;
    let update_id = doc.at("update_id").digits().ok_or(ReasonCode::IngressPayloadMalformed)?;
    let word = update_kind(&doc)?;
    let payload = doc.at(word);
    let is_message = matches!(
        word,
        "message" | "edited_message" | "channel_post" | "edited_channel_post" | "business_message" | "edited_business_message"
    );
    if KNOWN.contains(&word) && !matches!(payload, Json::Object(_)) {
        return Err(ReasonCode::IngressPayloadMalformed);
    }
    // A callback is about a message, and happens where that stands.
    let about = if word == "callback_query" { payload.at("message") } else { payload };
    let chat = about.at("chat");
    let chat_id = id_of(chat)?;
    // The chat picks the tenant of a shared bot, so a message without one is nobody's.
    if is_message && chat_id.is_none() && stands(Guard::ChatNamed) {
        return Err(ReasonCode::AuthnIdentityMissing);
    }
    let attachments = files(payload);
    let kind = kind_of(word, payload, &attachments);
    let normal = Normal {
        conversation: chat_id.clone().map(|id| conversation(id, chat, about)),
        sender: sender(word, payload)?,
        text: text(word, payload),
        attachments,
        reply_to: reply_to(word, payload, about),
        team: None,
    };
    Ok(InboundEvent {
        kind,
        account: AccountClaim::Telegram { chat_id },
        dedupe_key: update_id.clone(),
        provider_event_id: update_id,
        provider_event_type: fit_id(word.to_owned())?,
        normal,
        raw: body.clone(),
        media_type: super::JSON,
    })
}

/// The one field that the update is about. Fields that we do not know beside one that we do are ignored; two that we know
/// would be two events under one identity.
fn update_kind<'d>(doc: &'d Json<'_>) -> Result<&'d str, ReasonCode> {
    let Json::Object(fields) = doc else { return Err(ReasonCode::IngressPayloadMalformed) };
    let mut known = fields.iter().filter(|(name, _)| KNOWN.contains(&name.as_ref()));
    match (known.next(), known.next()) {
        (Some((name, _)), None) => Ok(name),
        (Some(_), Some(_)) => Err(ReasonCode::IngressPayloadMalformed),
        _ => {
            let others = || fields.iter().filter(|(name, _)| name != "update_id");
            let object = others().find(|(_, value)| matches!(value, Json::Object(_)));
            Ok(object.or_else(|| others().next()).map_or("update", |(name, _)| name))
        }
    }
}

fn kind_of(word: &str, payload: &Json<'_>, attachments: &[Attachment]) -> EventKind {
    match word {
        "message" => message_kind(payload, attachments),
        "channel_post" => EventKind::MessageChannelPost,
        "business_message" => EventKind::MessageBusiness,
        "edited_message" | "edited_channel_post" | "edited_business_message" => EventKind::MessageEdited,
        "deleted_business_messages" => EventKind::MessageDeleted,
        "message_reaction" | "message_reaction_count" => EventKind::Reaction,
        "inline_query" => EventKind::InlineQuery,
        "callback_query" => EventKind::Interaction,
        "my_chat_member" => own_membership(payload),
        "chat_member" => EventKind::Membership,
        "managed_bot" => EventKind::ManagedBot,
        _ => EventKind::Other,
    }
}

fn message_kind(message: &Json<'_>, attachments: &[Attachment]) -> EventKind {
    if message.has("migrate_to_chat_id") || message.has("migrate_from_chat_id") {
        EventKind::ChatMigrated
    } else if message.has("new_chat_members") || message.has("left_chat_member") {
        EventKind::Membership
    } else if names_a_bot(message) {
        EventKind::MessageMention
    } else if !attachments.is_empty() {
        EventKind::MessageMedia
    } else if !CONTENT.iter().any(|name| message.has(name)) {
        EventKind::Other
    } else if message.at("chat").at("type").str() == Some("private") {
        EventKind::MessageDirect
    } else {
        EventKind::Message
    }
}

/// Whether the text names a bot. Which bot is ours is not in an update, but every bot's username ends in `bot`
/// (<https://core.telegram.org/bots/features#botfather>), and with privacy mode on no other's mention reaches us.
fn names_a_bot(message: &Json<'_>) -> bool {
    [("text", "entities"), ("caption", "caption_entities")].iter().any(|(text, entities)| {
        let text = message.at(text).str().unwrap_or_default();
        message.at(entities).items().iter().take(ENTITIES_MAX).any(|entity| match entity.at("type").str() {
            Some("mention") => slice(text, entity).is_some_and(|name| name.to_ascii_lowercase().ends_with("bot")),
            Some("text_mention") => entity.at("user").at("is_bot").bool() == Some(true),
            _ => false,
        })
    })
}

/// The text of an entity. <https://core.telegram.org/bots/api#messageentity>: offsets count UTF-16 code units.
fn slice(text: &str, entity: &Json<'_>) -> Option<String> {
    let offset = usize::try_from(entity.at("offset").int()?).ok()?;
    let length = usize::try_from(entity.at("length").int()?).ok()?;
    let units: Vec<u16> = text.encode_utf16().skip(offset).take(length).collect();
    if units.len() == length { String::from_utf16(&units).ok() } else { None }
}

/// <https://core.telegram.org/bots/api#chatmember>
fn own_membership(change: &Json<'_>) -> EventKind {
    let inside = |member: &Json<'_>| match member.at("status").str() {
        Some("creator" | "administrator" | "member") => Some(true),
        Some("restricted") => Some(member.at("is_member").bool() == Some(true)),
        Some("left" | "kicked") => Some(false),
        _ => None,
    };
    let private = change.at("chat").at("type").str() == Some("private");
    match (inside(change.at("old_chat_member")), inside(change.at("new_chat_member"))) {
        (_, Some(false)) if private => EventKind::Blocked,
        (_, Some(true)) if private => EventKind::Unblocked,
        (Some(false), Some(true)) => EventKind::ChatJoined,
        (_, Some(false)) => EventKind::ChatLeft,
        _ => EventKind::Membership,
    }
}

/// What an update says of the installation: never of all of it, always of one chat. Only the old group's news of an upgrade
/// counts; the new one's would let a chat speak for another.
pub(super) fn news(event: &InboundEvent) -> Option<LifecycleNews> {
    use EventKind as K;
    if !matches!(event.kind, K::Blocked | K::Unblocked | K::ChatJoined | K::ChatLeft | K::ChatMigrated) {
        return None;
    }
    // Parsed before, strictly, or there were no event.
    let doc = json::parse(&event.raw).ok()?;
    let payload = doc.at(&event.provider_event_type);
    let place = match event.kind {
        K::Blocked => Place::Blocked,
        K::ChatLeft => Place::Left,
        K::ChatMigrated => Place::Moved { to: payload.at("migrate_to_chat_id").digits()? },
        _ => Place::Open,
    };
    let conversation = event.normal.conversation.as_ref()?.id.clone();
    let happened = payload.at("date").int().and_then(|s| s.try_into().ok()).map(Timestamp::from_secs);
    Some(LifecycleNews { change: LifecycleChange::Place { conversation, place }, happened })
}

/// The numeric id of a chat or user, digit for digit; absent only where the whole object is.
fn id_of(party: &Json<'_>) -> Result<Option<String>, ReasonCode> {
    match party {
        Json::Null => Ok(None),
        _ if !stands(Guard::ChatNamed) => Ok(party.at("id").digits()),
        _ => party.at("id").digits().map(Some).ok_or(ReasonCode::AuthnIdentityMissing),
    }
}

fn conversation(id: String, chat: &Json<'_>, message: &Json<'_>) -> Conversation {
    let thread = message.at("message_thread_id").digits().filter(|_| message.at("is_topic_message").bool() == Some(true));
    let kind = match (&thread, chat.at("type").str()) {
        (Some(_), _) => ConversationKind::Thread,
        (_, Some("private")) => ConversationKind::Direct,
        (_, Some("channel")) => ConversationKind::Channel,
        _ => ConversationKind::Group,
    };
    Conversation { id, kind, thread }
}

/// Who did it. `sender_chat` is the group itself for an anonymous admin, or a channel; `from` is then a placeholder bot
/// (<https://core.telegram.org/bots/api#message>).
fn sender(word: &str, payload: &Json<'_>) -> Result<Option<Sender>, ReasonCode> {
    if matches!(word, "channel_post" | "edited_channel_post") {
        return Ok(None);
    }
    for chat in [payload.at("sender_chat"), payload.at("actor_chat"), payload.at("voter_chat")] {
        if let Some(id) = id_of(chat)? {
            return Ok(Some(Sender { id, name: chat.at("title").str().map(str::to_owned), is_bot: false }));
        }
    }
    for user in [payload.at("from"), payload.at("user")] {
        if let Some(id) = id_of(user)? {
            let names: Vec<&str> = [user.at("first_name"), user.at("last_name")].iter().filter_map(|name| name.str()).collect();
            let name = if names.is_empty() { None } else { Some(names.join(" ")) };
            return Ok(Some(Sender { id, name, is_bot: user.at("is_bot").bool() == Some(true) }));
        }
    }
    Ok(None)
}

fn text(word: &str, payload: &Json<'_>) -> Option<String> {
    let reaction = payload.at("new_reaction").items().first().unwrap_or(&Json::Null);
    let said = match word {
        "inline_query" => payload.at("query"),
        "callback_query" => payload.at("data"),
        "message_reaction" => reaction.at("emoji"),
        _ if payload.has("text") => payload.at("text"),
        _ => payload.at("caption"),
    };
    said.str().map(str::to_owned)
}

fn reply_to(word: &str, payload: &Json<'_>, about: &Json<'_>) -> Option<String> {
    let id = match word {
        "callback_query" => about.at("message_id"),
        "message_reaction" | "message_reaction_count" => payload.at("message_id"),
        _ => payload.at("reply_to_message").at("message_id"),
    };
    // Every message of a topic "answers" the one that opened it.
    let opened = payload.at("is_topic_message").bool() == Some(true) && id == payload.at("message_thread_id");
    id.digits().filter(|_| !opened)
}

fn files(message: &Json<'_>) -> Vec<Attachment> {
    let told = |file: &Json<'_>, kind: &str| {
        Some(Attachment {
            id: fit_id(file.at("file_id").str()?.to_owned()).ok()?,
            kind: kind.to_owned(),
            media_type: file.at("mime_type").str().map(str::to_owned),
            name: file.at("file_name").str().map(str::to_owned),
        })
    };
    // <https://core.telegram.org/bots/api#photosize>: one photo in several sizes, the largest last.
    let photo = message.at("photo").items().last().and_then(|size| told(size, "image"));
    let others = FILES.iter().filter(|(name, _)| *name != "document" || !message.has("animation"));
    photo.into_iter().chain(others.filter_map(|(name, kind)| told(message.at(name), kind))).collect()
}
