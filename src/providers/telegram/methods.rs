//! Telegram's methods that the gateway knows. <https://core.telegram.org/bots/api> Part of `providers::telegram`, floor 2.

use crate::domain::message::Effect::{Administer, Delete, Read, Write};
use crate::providers::methods::{Entry, about, account, plain, speaks};
use crate::providers::who::Who;

/// The argument that names the chat.
pub(super) const CHAT: &str = "chat_id";

/// Every method that the gateway knows.
pub(in crate::providers) const METHODS: &[Entry] = &[
    speaks("copyMessage", Write, CHAT).whom(&["from_chat_id"]),
    speaks("copyMessages", Write, CHAT).whom(&["from_chat_id"]),
    speaks("createForumTopic", Administer, CHAT),
    speaks("closeForumTopic", Administer, CHAT),
    speaks("deleteMessage", Delete, CHAT),
    speaks("deleteMessages", Delete, CHAT),
    speaks("editForumTopic", Administer, CHAT),
    speaks("editMessageCaption", Write, CHAT),
    speaks("editMessageChecklist", Write, CHAT),
    speaks("editMessageLiveLocation", Write, CHAT),
    speaks("editMessageMedia", Write, CHAT),
    speaks("editMessageReplyMarkup", Write, CHAT),
    speaks("editMessageText", Write, CHAT),
    speaks("forwardMessage", Write, CHAT).whom(&["from_chat_id"]),
    speaks("forwardMessages", Write, CHAT).whom(&["from_chat_id"]),
    speaks("pinChatMessage", Write, CHAT),
    speaks("reopenForumTopic", Administer, CHAT),
    speaks("sendAnimation", Write, CHAT),
    speaks("sendAudio", Write, CHAT),
    speaks("sendChatAction", Write, CHAT),
    speaks("sendChecklist", Write, CHAT),
    speaks("sendContact", Write, CHAT),
    speaks("sendDice", Write, CHAT),
    speaks("sendDocument", Write, CHAT),
    speaks("sendGame", Write, CHAT),
    speaks("sendInvoice", Write, CHAT),
    speaks("sendLocation", Write, CHAT),
    speaks("sendMediaGroup", Write, CHAT),
    speaks("sendMessage", Write, CHAT),
    speaks("sendMessageDraft", Write, CHAT),
    speaks("sendPaidMedia", Write, CHAT),
    speaks("sendPhoto", Write, CHAT),
    speaks("sendPoll", Write, CHAT),
    speaks("sendSticker", Write, CHAT),
    speaks("sendVenue", Write, CHAT),
    speaks("sendVideo", Write, CHAT),
    speaks("sendVideoNote", Write, CHAT),
    speaks("sendVoice", Write, CHAT),
    speaks("setMessageReaction", Write, CHAT),
    speaks("stopMessageLiveLocation", Write, CHAT),
    speaks("stopPoll", Write, CHAT),
    speaks("unpinAllChatMessages", Write, CHAT),
    speaks("unpinChatMessage", Write, CHAT),
    plain("answerCallbackQuery", Write),
    plain("answerInlineQuery", Write),
    plain("answerPreCheckoutQuery", Write),
    plain("answerShippingQuery", Write),
    about("getChat", Read, CHAT),
    about("getChatAdministrators", Read, CHAT),
    about("getChatMember", Read, CHAT).whom(&["user_id"]),
    about("getChatMemberCount", Read, CHAT),
    about("getChatMenuButton", Read, CHAT),
    plain("getCustomEmojiStickers", Read),
    plain("getFile", Read),
    plain("getForumTopicIconStickers", Read),
    plain("getMe", Read),
    plain("getMyCommands", Read).whom(&["scope.chat_id", "scope.user_id"]),
    plain("getMyDefaultAdministratorRights", Read).whom(&["for_channels"]),
    plain("getMyDescription", Read),
    plain("getMyName", Read),
    plain("getMyShortDescription", Read),
    plain("getStickerSet", Read),
    plain("getUserProfilePhotos", Read).whom(&["user_id"]),
    account("deleteMyCommands").whom(&["scope.chat_id", "scope.user_id"]),
    account("setChatMenuButton").or_of(CHAT),
    account("setMyCommands").whom(&["scope.chat_id", "scope.user_id"]),
    account("setMyDefaultAdministratorRights").whom(&["for_channels"]),
    account("setMyDescription"),
    account("setMyName"),
    account("setMyShortDescription"),
];

/// Methods that would end the bot here, or hand out a token.
pub(super) const RESERVED: &[&str] = &["close", "getManagedBotToken", "logOut", "replaceManagedBotToken"];

/// Of Telegram's arguments: the chat that a reply quotes from is asked about wherever it is named.
pub(super) const WHO: Who = Who {
    content: &[
        "caption_entities",
        "description_entities",
        "entities",
        "explanation_entities",
        "question_entities",
        "quote_entities",
        "reply_markup",
        "text_entities",
        "title_entities",
    ],
    everywhere: &["reply_parameters.chat_id"],
};
