//! What a notification says: each message and status of a batch is an event of its own, in the provider's own bytes.
//! Floor 2.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{digest_id, fit_id, text_id};
use crate::domain::clock::Timestamp;
use crate::domain::installation::InstallationStatus as Status;
use crate::domain::lifecycle::{LifecycleChange, LifecycleNews, StatusReason};
use crate::domain::message::{AccountClaim, Attachment, Conversation, ConversationKind, EventKind, InboundEvent, Normal, Sender};
use crate::domain::reason::ReasonCode;
use crate::wire::json::{self, Json};

pub(super) const OBJECT: &str = "whatsapp_business_account";

/// <https://developers.facebook.com/docs/graph-api/webhooks/getting-started>: at most 1,000 updates in a batch.
const EVENTS_MAX: usize = 1000;

/// What the events of one change share is copied into each. Theirs has some 200 bytes; without a limit a batch of
/// 1,000 could make gigabytes out of a body of 3 MB.
const SHARED_BYTES_MAX: usize = 16 * 1024;

// The same documents as the strict tree, in slices of their original text. Read only after the strict pass, so there is
// no name twice and no other reading.

#[derive(Deserialize)]
struct RawBody<'a> {
    #[serde(borrow)]
    entry: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawEntry<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow)]
    changes: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawChange<'a> {
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    field: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawContent<'a> {
    #[serde(borrow)]
    messaging_product: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    contacts: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    statuses: Option<&'a RawValue>,
}

/// Cuts one level of the text apart.
fn cut<'a, T: Deserialize<'a>>(text: Option<&'a RawValue>) -> Result<T, ReasonCode> {
    let text = text.map_or("null", RawValue::get);
    serde_json::from_str(text).map_err(|_| ReasonCode::IngressPayloadMalformed)
}

/// The events of a body; `raw` of one that is all a body says is the body itself.
pub(super) fn read(body: &Bytes) -> Result<Vec<InboundEvent>, ReasonCode> {
    let doc = json::parse(body)?;
    let Json::Array(entries) = doc.at("entry") else { return Err(ReasonCode::IngressPayloadMalformed) };
    if doc.at("object").str() != Some(OBJECT) {
        return Err(ReasonCode::IngressPayloadMalformed);
    }
    let raw: RawBody<'_> = serde_json::from_slice(body).map_err(|_| ReasonCode::IngressPayloadMalformed)?;
    let mut events = Vec::new();
    for (entry, text) in entries.iter().zip(raw.entry) {
        let waba_id = text_id(entry.at("id"))?.ok_or(ReasonCode::AuthnIdentityMissing)?;
        let raw_entry: RawEntry<'_> = cut(Some(text))?;
        if let Json::Array(changes) = entry.at("changes") {
            let texts: Vec<&RawValue> = cut(raw_entry.changes)?;
            for (change, text) in changes.iter().zip(texts) {
                read_change(&waba_id, &raw_entry, change, text, &mut events)?;
                within_batch(events.len())?;
            }
        } else {
            let id = digest_id(text.get().as_bytes());
            let raw = format!(r#"{{"object":"{OBJECT}","entry":[{}]}}"#, text.get());
            events.push(about_account(EventKind::Other, waba_id, None, "entry", id, raw));
        }
        within_batch(events.len())?;
    }
    // Alone in its body it is the body. Beside an empty entry or change it is not: apps that look at the first one only
    // would not find it.
    let alone = matches!(entries.as_slice(), [entry] if entry.at("changes").items().len() <= 1);
    if let ([only], true) = (events.as_mut_slice(), alone) {
        only.raw = body.clone();
    }
    Ok(events)
}

/// Asked before and after each copying, so that a body never grows by more than a batch.
fn within_batch(events: usize) -> Result<(), ReasonCode> {
    if events > EVENTS_MAX { Err(ReasonCode::IngressPayloadMalformed) } else { Ok(()) }
}

fn read_change(
    waba_id: &str,
    entry: &RawEntry<'_>,
    change: &Json<'_>,
    text: &RawValue,
    events: &mut Vec<InboundEvent>,
) -> Result<(), ReasonCode> {
    let field = fit_id(change.at("field").str().unwrap_or("change").to_owned())?;
    let value = change.at("value");
    let phone = text_id(value.at("metadata").at("phone_number_id"))?;
    let (messages, statuses) = (value.at("messages").items(), value.at("statuses").items());
    if field == "messages" {
        let phone = phone.clone().ok_or(ReasonCode::AuthnIdentityMissing)?;
        within_batch(messages.len().saturating_add(statuses.len()))?;
        if !(messages.is_empty() && statuses.is_empty()) {
            let raw: RawChange<'_> = cut(Some(text))?;
            let number = Number::new(waba_id, phone, entry, &raw, value)?;
            let (said, told): (Vec<&RawValue>, Vec<&RawValue>) = (items(number.raw.messages)?, items(number.raw.statuses)?);
            for (message, text) in messages.iter().zip(said) {
                events.push(number.message(message, text)?);
            }
            for (status, text) in statuses.iter().zip(told) {
                events.push(number.status(status, text)?);
            }
            return Ok(());
        }
    }
    // <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/account_update>: about
    // the business account that it names, which for partner events is not only the entry's.
    let named = if field == "account_update" { text_id(value.at("waba_info").at("waba_id"))? } else { None };
    let kind = if field == "account_update" { account_kind(value) } else { EventKind::Other };
    // A change has no id. The entry's time is in its identity, or the second removal of an app in a week would pass for
    // a repeat of the first.
    let id = digest_id(format!("{}{}", text.get(), entry.time.map_or("", RawValue::get)).as_bytes());
    let raw = format!(r#"{{"object":"{OBJECT}","entry":[{{"id":{}{},"changes":[{}]}}]}}"#, entry.id.get(), time(entry), text.get());
    events.push(about_account(kind, named.unwrap_or_else(|| waba_id.to_owned()), phone, &field, id, raw));
    Ok(())
}

fn time(entry: &RawEntry<'_>) -> String {
    entry.time.filter(|time| time.get().len() <= 64).map_or_else(String::new, |time| format!(r#","time":{}"#, time.get()))
}

/// The slices of a list; none of what is no list.
fn items(list: Option<&RawValue>) -> Result<Vec<&RawValue>, ReasonCode> {
    if list.is_some_and(|list| list.get().starts_with('[')) { cut(list) } else { Ok(Vec::new()) }
}

fn about_account(kind: EventKind, waba_id: String, phone: Option<String>, field: &str, id: String, raw: String) -> InboundEvent {
    InboundEvent {
        kind,
        dedupe_key: format!("waba:{waba_id}:{field}:{id}"),
        account: AccountClaim::WhatsApp { waba_id, phone_number_id: phone },
        provider_event_id: id,
        provider_event_type: field.to_owned(),
        normal: Normal::default(),
        raw: raw.into(),
        media_type: super::JSON,
    }
}

/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/account_update>
fn account_kind(value: &Json<'_>) -> EventKind {
    match value.at("event").str() {
        Some("PARTNER_APP_UNINSTALLED" | "PARTNER_REMOVED" | "ACCOUNT_DELETED") => EventKind::Uninstalled,
        Some("DISABLED_UPDATE") if value.at("ban_info").at("waba_ban_state").str() == Some("REINSTATE") => EventKind::Other,
        Some("DISABLED_UPDATE" | "ACCOUNT_RESTRICTION" | "ACCOUNT_VIOLATION") => EventKind::Restricted,
        _ => EventKind::Other,
    }
}

/// What an account update says of the installations of that account. What it says beside these is for people.
pub(super) fn news(event: &InboundEvent) -> Option<LifecycleNews> {
    if event.provider_event_type != "account_update" {
        return None;
    }
    // Parsed before, strictly, or there were no event.
    let doc = json::parse(&event.raw).ok()?;
    let entry = doc.at("entry").items().first()?;
    let value = entry.at("changes").items().first()?.at("value");
    let change = match (value.at("event").str()?, value.at("ban_info").at("waba_ban_state").str()) {
        ("PARTNER_APP_UNINSTALLED" | "PARTNER_REMOVED", _) => LifecycleChange::Status(Status::Revoked, StatusReason::Uninstalled),
        ("ACCOUNT_DELETED", _) => LifecycleChange::Status(Status::Revoked, StatusReason::AccountDeleted),
        ("DISABLED_UPDATE", Some("REINSTATE")) | ("ACCOUNT_RECONNECTED", _) => LifecycleChange::Restored,
        ("DISABLED_UPDATE", Some("SCHEDULE_FOR_DISABLE")) => LifecycleChange::Status(Status::Degraded, StatusReason::BanScheduled),
        // One that we do not know is taken for what the event is named after.
        ("DISABLED_UPDATE", _) => LifecycleChange::Status(Status::Suspended, StatusReason::Banned),
        ("ACCOUNT_RESTRICTION" | "ACCOUNT_VIOLATION", _) => LifecycleChange::Status(Status::Degraded, StatusReason::Restricted),
        ("ACCOUNT_OFFBOARDED", _) => LifecycleChange::Status(Status::Suspended, StatusReason::Offboarded),
        _ => return None,
    };
    Some(LifecycleNews { change, happened: entry.at("time").int().and_then(|s| s.try_into().ok()).map(Timestamp::from_secs) })
}

/// One change about one number: what its messages and statuses share.
struct Number<'t, 'a> {
    waba_id: &'t str,
    phone: String,
    raw: RawContent<'a>,
    /// `{"object"…"messaging_product":…,"metadata":…`, up to where an event's own part begins.
    before: String,
    /// From behind the event's own part to the end.
    after: String,
    contacts: &'t [Json<'a>],
    contact_texts: Vec<&'a RawValue>,
    /// A contact's place by phone and by user id.
    places: HashMap<&'t str, usize>,
}

impl<'t, 'a> Number<'t, 'a> {
    fn new(waba_id: &'t str, phone: String, entry: &RawEntry<'_>, change: &RawChange<'a>, value: &'t Json<'a>) -> Result<Self, ReasonCode> {
        let raw: RawContent<'a> = cut(change.value)?;
        let shared: Vec<String> = [("messaging_product", raw.messaging_product), ("metadata", raw.metadata)]
            .iter()
            .filter_map(|(name, text)| text.map(|text| format!(r#""{name}":{},"#, text.get())))
            .collect();
        let shared = shared.concat();
        if shared.len() > SHARED_BYTES_MAX {
            return Err(ReasonCode::IngressPayloadMalformed);
        }
        let field = change.field.map_or_else(String::new, |field| format!(r#","field":{}"#, field.get()));
        let contacts = value.at("contacts").items();
        let mut places = HashMap::new();
        for (place, contact) in contacts.iter().enumerate() {
            for id in [contact.at("user_id").str(), contact.at("wa_id").str()].into_iter().flatten() {
                places.entry(id).or_insert(place);
            }
        }
        Ok(Self {
            waba_id,
            phone,
            before: format!(r#"{{"object":"{OBJECT}","entry":[{{"id":{}{},"changes":[{{"value":{{{shared}"#, entry.id.get(), time(entry)),
            after: format!("}}{field}}}]}}]}}"),
            contacts,
            contact_texts: items(raw.contacts)?,
            places,
            raw,
        })
    }

    /// Whose contact it is. One that names another user under the same number is somebody else's.
    fn contact(&self, user_id: Option<&str>, phone: Option<&str>) -> Option<usize> {
        let of = |id: Option<&str>| id.and_then(|id| self.places.get(id).copied());
        of(user_id).or_else(|| {
            of(phone).filter(|place| {
                let other = self.contacts.get(*place).and_then(|contact| contact.at("user_id").str());
                user_id.is_none() || other.is_none()
            })
        })
    }

    /// This event's envelope: as if the provider had sent it alone.
    fn envelope(&self, list: &str, text: &RawValue, contact: Option<usize>) -> Bytes {
        let matched = contact.and_then(|place| self.contact_texts.get(place)).map(|text| format!("[{}]", text.get()));
        let contacts = matched.or_else(|| self.raw.contacts.map(|all| all.get().to_owned()));
        let contacts = contacts.filter(|contacts| contacts.len() <= SHARED_BYTES_MAX);
        let contacts = contacts.map_or_else(String::new, |contacts| format!(r#""contacts":{contacts},"#));
        format!("{}{contacts}\"{list}\":[{}]{}", self.before, text.get(), self.after).into()
    }

    fn event(&self, kind: EventKind, key: &str, id: String, word: &str, normal: Normal, raw: Bytes) -> Result<InboundEvent, ReasonCode> {
        Ok(InboundEvent {
            kind,
            account: AccountClaim::WhatsApp { waba_id: self.waba_id.to_owned(), phone_number_id: Some(self.phone.clone()) },
            dedupe_key: format!("{}:{key}", self.phone),
            provider_event_id: id,
            provider_event_type: fit_id(word.to_owned())?,
            normal,
            raw,
            media_type: super::JSON,
        })
    }

    fn message(&self, message: &Json<'a>, text: &RawValue) -> Result<InboundEvent, ReasonCode> {
        let (user_id, phone) = (message.at("from_user_id").str(), message.at("from").str());
        let place = self.contact(user_id, phone);
        let contact = place.and_then(|place| self.contacts.get(place)).unwrap_or(&Json::Null);
        let raw = self.envelope("messages", text, place);
        let Some(id) = message.at("id").str().filter(|id| !id.is_empty()) else { return self.nameless("messages", text, raw) };
        let id = fit_id(id.to_owned())?;
        let word = message.at("type").str().unwrap_or("messages");
        let content = message.at(word);
        let stable = first_id([user_id, contact.at("user_id").str(), phone])?;
        let reaction = if word == "reaction" { content.at("message_id").str() } else { None };
        let normal = Normal {
            conversation: direct([phone, contact.at("wa_id").str(), user_id, contact.at("user_id").str()])?,
            sender: stable.map(|id| Sender { id, name: contact.at("profile").at("name").str().map(str::to_owned), is_bot: false }),
            text: said(word, content),
            attachments: file(word, content).into_iter().collect(),
            reply_to: first_id([message.at("context").at("id").str(), reaction])?,
            team: None,
        };
        self.event(message_kind(word), &format!("msg:{id}"), id.clone(), word, normal, raw)
    }

    fn status(&self, status: &Json<'a>, text: &RawValue) -> Result<InboundEvent, ReasonCode> {
        let (user_id, phone) = (status.at("recipient_user_id").str(), status.at("recipient_id").str());
        let place = self.contact(user_id, phone);
        let raw = self.envelope("statuses", text, place);
        let (id, word) = (status.at("id").str().filter(|id| !id.is_empty()), status.at("status").str());
        let (Some(id), Some(word)) = (id, word) else { return self.nameless("statuses", text, raw) };
        let id = fit_id(id.to_owned())?;
        // <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages/status>
        let kind = match word {
            "sent" | "delivered" | "read" | "played" => EventKind::Status,
            "failed" => EventKind::StatusFailed,
            _ => EventKind::Other,
        };
        let normal = Normal { conversation: direct([phone, user_id, None, None])?, ..Normal::default() };
        self.event(kind, &format!("status:{id}:{word}"), id.clone(), word, normal, raw)
    }

    /// What has no id still happened; its bytes are its identity.
    fn nameless(&self, list: &str, text: &RawValue, raw: Bytes) -> Result<InboundEvent, ReasonCode> {
        let id = digest_id(text.get().as_bytes());
        self.event(EventKind::Other, &format!("{list}:{id}"), id.clone(), list, Normal::default(), raw)
    }
}

/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages>
fn message_kind(word: &str) -> EventKind {
    match word {
        "text" | "location" | "contacts" | "order" => EventKind::Message,
        "image" | "audio" | "video" | "document" | "sticker" => EventKind::MessageMedia,
        "interactive" | "button" => EventKind::Interaction,
        "reaction" => EventKind::Reaction,
        "edit" => EventKind::MessageEdited,
        "revoke" => EventKind::MessageDeleted,
        "unsupported" => EventKind::MessageUnsupported,
        _ => EventKind::Other,
    }
}

fn first_id<const N: usize>(candidates: [Option<&str>; N]) -> Result<Option<String>, ReasonCode> {
    candidates.into_iter().flatten().find(|id| !id.is_empty()).map(|id| fit_id(id.to_owned())).transpose()
}

/// A conversation with one person: by phone number while there is one, because that is where sends go.
fn direct(candidates: [Option<&str>; 4]) -> Result<Option<Conversation>, ReasonCode> {
    Ok(first_id(candidates)?.map(|id| Conversation { id, kind: ConversationKind::Direct, thread: None }))
}

fn said(word: &str, content: &Json<'_>) -> Option<String> {
    let chosen = [content.at("button_reply"), content.at("list_reply")].iter().find_map(|reply| reply.at("title").str());
    let text = match word {
        "text" => content.at("body").str(),
        "button" => content.at("text").str(),
        "interactive" => chosen.or_else(|| content.at("nfm_reply").at("body").str()),
        "reaction" => content.at("emoji").str(),
        _ => content.at("caption").str(),
    };
    text.map(str::to_owned)
}

fn file(word: &str, content: &Json<'_>) -> Option<Attachment> {
    let kind = match word {
        "audio" if content.at("voice").bool() == Some(true) => "voice",
        "image" | "audio" | "video" | "document" | "sticker" => word,
        _ => return None,
    };
    Some(Attachment {
        id: fit_id(content.at("id").str()?.to_owned()).ok()?,
        kind: kind.to_owned(),
        media_type: content.at("mime_type").str().map(str::to_owned),
        name: content.at("filename").str().map(str::to_owned),
    })
}
