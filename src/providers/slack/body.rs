//! What Slack's bodies say: JSON callbacks and the two sorts of form. Floor 2.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::super::{Parsed, digest_id, fit_id, text_id};
use crate::domain::guard::{Guard, stands};
use crate::domain::message::{AccountClaim, Attachment, Conversation, ConversationKind, EventKind, InboundEvent, Normal, Sender};
use crate::domain::reason::ReasonCode;
use crate::wire::json::{self, Json};

/// Slack documents neither length nor alphabet of a challenge; theirs are 52 letters and digits. Whoever writes the body chooses
/// what the gateway's address answers, so it is a word of that sort and nothing else.
const CHALLENGE_CHARS: RangeInclusive<usize> = 16..=128;

/// Fields of a form. Slack's forms have about 15; each further one becomes a larger member of the JSON that agents get.
const FIELDS_MAX: usize = 100;

/// Files of a message that agents get addresses for: an address is longer than the file's entry. Slack takes 10 with a message.
const FILES_MAX: usize = 50;

/// Interactions that come without the app's id: shortcuts, and what Slack had before blocks and modals. They are bound by
/// address, proof and account. <https://docs.slack.dev/reference/interaction-payloads/>
const WITHOUT_APP_ID: [&str; 6] =
    ["shortcut", "message_action", "interactive_message", "dialog_submission", "dialog_suggestion", "dialog_cancellation"];

/// The installation that a body names, found before anything else in it is read.
struct Account {
    app_id: Option<String>,
    team_id: Option<String>,
    enterprise_id: Option<String>,
    org_wide: bool,
}

impl Account {
    /// An org-wide install is its enterprise's, any other its team's.
    fn new(app_id: Option<String>, team_id: Option<String>, enterprise_id: Option<String>, org_wide: bool) -> Result<Self, ReasonCode> {
        let team_id = if org_wide { None } else { team_id };
        let named = if org_wide { enterprise_id.is_some() } else { team_id.is_some() };
        if named { Ok(Self { app_id, team_id, enterprise_id, org_wide }) } else { Err(ReasonCode::AuthnIdentityMissing) }
    }

    /// Slack's event ids are scoped by app and account: one id may reach two apps that a message names.
    fn key(&self, rest: &str) -> String {
        let scope = self.team_id.as_deref().or(self.enterprise_id.as_deref()).unwrap_or_default();
        format!("{}:{scope}:{rest}", self.app_id.as_deref().unwrap_or_default())
    }

    /// The workspace, where it is another than the claim's.
    fn elsewhere(&self, team: Option<String>) -> Option<String> {
        team.filter(|team| self.team_id.as_ref() != Some(team))
    }

    fn claim(self) -> AccountClaim {
        let Self { app_id, team_id, enterprise_id, org_wide } = self;
        AccountClaim::Slack { app_id, team_id, enterprise_id, org_wide }
    }
}

/// Reads a JSON body: `url_verification`, `event_callback` and the few beside them.
pub(super) fn read_json(body: &Bytes) -> Result<Parsed, ReasonCode> {
    let doc = json::parse(body)?;
    let word = doc.at("type").str().ok_or(ReasonCode::IngressPayloadMalformed)?;
    if word == "url_verification" {
        let is_word = |c: &&str| CHALLENGE_CHARS.contains(&c.len()) && c.bytes().all(|b| b.is_ascii_alphanumeric());
        let challenge = doc.at("challenge").str().filter(is_word);
        return challenge.map(|c| Parsed::Handshake(c.to_owned())).ok_or(ReasonCode::IngressChallengeMalformed);
    }
    let account = account_of_callback(&doc)?;
    let event = match word {
        "event_callback" => callback(&doc, account, body)?,
        // <https://docs.slack.dev/reference/events/app_rate_limited/>: no event and no id in it.
        "app_rate_limited" => {
            let minute = doc.at("minute_rate_limited").int().ok_or(ReasonCode::IngressPayloadMalformed)?;
            bare(EventKind::RateLimited, account, format!("rate:{minute}"), word, body)?
        }
        _ => bare(EventKind::Other, account, format!("sha256:{}", digest_id(body)), word, body)?,
    };
    Ok(Parsed::Events(vec![event]))
}

/// <https://docs.slack.dev/apis/events-api/>. In Slack Connect the outer ids can be the sender's, so the
/// installation is who may see the event (`authorizations`), then through whom it came (`context_*`), then the outer ids,
/// which lifecycle events have alone. What stands in the first of these places decides: a broken one is not looked past.
fn account_of_callback(doc: &Json<'_>) -> Result<Account, ReasonCode> {
    let app_id = Some(text_id(doc.at("api_app_id"))?.ok_or(ReasonCode::AuthnIdentityMissing)?);
    match doc.at("authorizations") {
        Json::Array(seen_by) => {
            if let Some(first) = seen_by.first() {
                let org_wide = flag(first.at("is_enterprise_install"))?;
                return Account::new(app_id, text_id(first.at("team_id"))?, text_id(first.at("enterprise_id"))?, org_wide);
            }
        }
        Json::Null => {}
        _ => return Err(ReasonCode::AuthnIdentityMissing),
    }
    if let Some(team) = text_id(doc.at("context_team_id"))? {
        return Account::new(app_id, Some(team), text_id(doc.at("context_enterprise_id"))?, false);
    }
    let (team, enterprise) = (text_id(doc.at("team_id"))?, text_id(doc.at("enterprise_id"))?);
    let org_wide = team.is_none();
    Account::new(app_id, team, enterprise, org_wide)
}

/// A truth value that part of the identity hangs on.
fn flag(value: &Json<'_>) -> Result<bool, ReasonCode> {
    match value {
        Json::Null => Ok(false),
        Json::Bool(b) => Ok(*b),
        _ => Err(ReasonCode::AuthnIdentityMissing),
    }
}

/// An event of which nothing but its account and identity is known.
fn bare(kind: EventKind, account: Account, id: String, word: &str, body: &Bytes) -> Result<InboundEvent, ReasonCode> {
    Ok(InboundEvent {
        kind,
        dedupe_key: account.key(&id),
        account: account.claim(),
        provider_event_id: id,
        provider_event_type: fit_id(word.to_owned())?,
        normal: Normal::default(),
        raw: body.clone(),
        media_type: super::JSON,
    })
}

fn callback(doc: &Json<'_>, account: Account, body: &Bytes) -> Result<InboundEvent, ReasonCode> {
    let event = doc.at("event");
    let word = event.at("type").str().ok_or(ReasonCode::IngressPayloadMalformed)?;
    let id = doc.at("event_id").str().filter(|id| !id.is_empty()).ok_or(ReasonCode::IngressPayloadMalformed)?;
    let id = fit_id(id.to_owned())?;
    let is_message = matches!(word, "message" | "app_mention");
    // <https://docs.slack.dev/reference/events/message/message_changed>: an edit wraps the message that it is about.
    let said = match event.at("subtype").str() {
        Some("message_changed") if is_message => event.at("message"),
        Some("message_deleted") if is_message => event.at("previous_message"),
        _ => event,
    };
    let conversation = place(event, said)?;
    if is_message && conversation.is_none() {
        return Err(ReasonCode::IngressPayloadMalformed);
    }
    let attachments = said.at("files").items().iter().filter_map(file).take(FILES_MAX).collect::<Vec<_>>();
    let own_user =
        doc.at("authorizations").items().first().filter(|a| a.at("is_bot").bool() == Some(true)).and_then(|a| a.at("user_id").str());
    let facts = Facts {
        by_self: by_self(said, event, account.app_id.as_deref(), own_user),
        about_self: own_user.is_some() && event.at("user").str() == own_user,
        has_files: !attachments.is_empty(),
    };
    let kind = kind_of(word, event, &facts);
    let deleted = kind == EventKind::MessageDeleted;
    let text = if word.starts_with("reaction_") { event.at("reaction") } else { said.at("text") };
    let normal = Normal {
        conversation,
        sender: author(said, event)?,
        text: text.str().filter(|_| !deleted).map(str::to_owned),
        attachments: if deleted { Vec::new() } else { attachments },
        reply_to: text_id(event.at("item").at("ts")).ok().flatten(),
        team: account.elsewhere(workspace(doc, event, account.org_wide)?),
    };
    Ok(InboundEvent {
        kind,
        dedupe_key: account.key(&id),
        account: account.claim(),
        provider_event_id: id,
        provider_event_type: fit_id(word.to_owned())?,
        normal,
        raw: body.clone(),
        media_type: super::JSON,
    })
}

struct Facts {
    by_self: bool,
    about_self: bool,
    has_files: bool,
}

fn kind_of(word: &str, event: &Json<'_>, facts: &Facts) -> EventKind {
    match word {
        "app_uninstalled" => EventKind::Uninstalled,
        // <https://docs.slack.dev/reference/events/tokens_revoked>: user tokens are not the installation's credential.
        "tokens_revoked" if event.at("tokens").at("bot").items().is_empty() => EventKind::Other,
        "tokens_revoked" => EventKind::TokensRevoked,
        "team_access_revoked" => EventKind::WorkspaceRemoved,
        "team_access_granted" => EventKind::WorkspaceAdded,
        "channel_id_changed" => EventKind::ChatMigrated,
        // The two events about the bot itself that Bolt lets through too.
        "member_joined_channel" if facts.about_self => EventKind::ChatJoined,
        "member_left_channel" if facts.about_self => EventKind::ChatLeft,
        "member_joined_channel" | "member_left_channel" => EventKind::Membership,
        "channel_left" | "group_left" => EventKind::ChatLeft,
        "message" if event.at("subtype").str() == Some("message_deleted") => EventKind::MessageDeleted,
        _ if facts.by_self => EventKind::MessageSelf,
        "app_mention" => EventKind::MessageMention,
        "reaction_added" | "reaction_removed" => EventKind::Reaction,
        "message" => message_kind(event, facts.has_files),
        _ => EventKind::Other,
    }
}

/// <https://docs.slack.dev/reference/events/message>
fn message_kind(event: &Json<'_>, has_files: bool) -> EventKind {
    match event.at("subtype").str() {
        Some("message_changed") => EventKind::MessageEdited,
        Some("channel_join" | "channel_leave" | "group_join" | "group_leave") => EventKind::Membership,
        None | Some("bot_message" | "me_message" | "thread_broadcast" | "file_share") => {
            if has_files {
                EventKind::MessageMedia
            } else if matches!(event.at("channel_type").str(), Some("im" | "app_home")) {
                EventKind::MessageDirect
            } else {
                EventKind::Message
            }
        }
        // Topics set, reminders, huddles: Slack's prose, nobody's words.
        Some(_) => EventKind::Other,
    }
}

/// Whether this app wrote it: by its app id on a message, or by its bot user on anything.
fn by_self(said: &Json<'_>, event: &Json<'_>, app_id: Option<&str>, own_user: Option<&str>) -> bool {
    let is_message = matches!(event.at("type").str(), Some("message" | "app_mention"));
    let by_app = [said.at("app_id"), said.at("bot_profile").at("app_id")].iter().any(|id| id.str().is_some() && id.str() == app_id);
    (is_message && by_app) || (own_user.is_some() && said.at("user").str() == own_user)
}

fn first_text<'t>(candidates: &[&'t Json<'_>]) -> Option<&'t str> {
    candidates.iter().find_map(|value| value.str().filter(|text| !text.is_empty()))
}

fn first_id(candidates: &[&Json<'_>]) -> Result<Option<String>, ReasonCode> {
    first_text(candidates).map(|text| fit_id(text.to_owned())).transpose()
}

/// The conversation, wherever this event type keeps it.
fn place(event: &Json<'_>, said: &Json<'_>) -> Result<Option<Conversation>, ReasonCode> {
    let (channel, assistant) = (event.at("channel"), event.at("assistant_thread"));
    let found = [channel, channel.at("id"), event.at("channel_id"), event.at("item").at("channel"), assistant.at("channel_id")];
    let thread = first_id(&[said.at("thread_ts"), event.at("thread_ts"), assistant.at("thread_ts")])?;
    Ok(first_id(&found)?.map(|id| conversation(id, thread, event.at("channel_type").str())))
}

/// <https://docs.slack.dev/reference/events/message>; where the type is not said, the id's first letter tells.
fn conversation(id: String, thread: Option<String>, channel_type: Option<&str>) -> Conversation {
    let kind = match (&thread, channel_type) {
        (Some(_), _) => ConversationKind::Thread,
        (_, Some("im" | "app_home")) => ConversationKind::Direct,
        (_, Some("mpim" | "group")) => ConversationKind::Group,
        (_, Some(_)) => ConversationKind::Channel,
        _ if id.starts_with('D') => ConversationKind::Direct,
        _ if id.starts_with('G') => ConversationKind::Group,
        _ => ConversationKind::Channel,
    };
    Conversation { id, kind, thread }
}

fn author(said: &Json<'_>, event: &Json<'_>) -> Result<Option<Sender>, ReasonCode> {
    let user = event.at("user");
    let assistant = event.at("assistant_thread").at("user_id");
    let id = first_id(&[said.at("user"), user, user.at("id"), event.at("user_id"), assistant, said.at("bot_id")])?;
    let is_bot = said.at("bot_id").str().is_some() || said.at("subtype").str() == Some("bot_message");
    let name = first_text(&[said.at("bot_profile").at("name"), said.at("username"), user.at("name")]).map(str::to_owned);
    Ok(id.map(|id| Sender { id, name, is_bot }))
}

/// The workspace an event happened in. Where the app is installed org-wide that is the one it came through; elsewhere the
/// outer id can be a Slack Connect partner's.
fn workspace(doc: &Json<'_>, event: &Json<'_>, org_wide: bool) -> Result<Option<String>, ReasonCode> {
    let (context, outer) = (doc.at("context_team_id"), doc.at("team_id"));
    let (first, second) = if org_wide { (context, outer) } else { (outer, context) };
    first_id(&[first, second, event.at("team"), event.at("user_team"), event.at("source_team")])
}

fn file(file: &Json<'_>) -> Option<Attachment> {
    let id = fit_id(file.at("id").str()?.to_owned()).ok()?;
    let media_type = file.at("mimetype").str().map(str::to_owned);
    let family = media_type.as_deref().and_then(|m| m.split('/').next()).unwrap_or_default();
    let kind = if ["image", "audio", "video"].contains(&family) { family } else { "file" };
    Some(Attachment { id, kind: kind.to_owned(), media_type, name: file.at("name").str().map(str::to_owned) })
}

/// Reads a form body: a slash command or an interaction.
pub(super) fn read_form(body: &Bytes) -> Result<Parsed, ReasonCode> {
    let fields = form_fields(body)?;
    let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty());
    // <https://api.slack.com/interactivity/slash-commands>: a check of our certificate, nothing to dispatch.
    if field("ssl_check") == Some("1") {
        return Ok(Parsed::Events(Vec::new()));
    }
    let event = match (field("payload"), field("command")) {
        (Some(payload), None) => interaction(payload, body)?,
        (None, Some(command)) => slash_command(command, field, body)?,
        _ => return Err(ReasonCode::IngressFormMalformed),
    };
    Ok(Parsed::Events(vec![event]))
}

fn slash_command<'f>(command: &str, field: impl Fn(&str) -> Option<&'f str>, body: &Bytes) -> Result<InboundEvent, ReasonCode> {
    let id_of = |name: &str| field(name).map(|text| fit_id(text.to_owned())).transpose();
    let org_wide = match field("is_enterprise_install") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ReasonCode::AuthnIdentityMissing),
    };
    let app_id = Some(id_of("api_app_id")?.ok_or(ReasonCode::AuthnIdentityMissing)?);
    let team = id_of("team_id")?;
    let account = Account::new(app_id, team.clone(), id_of("enterprise_id")?, org_wide)?;
    let (key, id) = trigger(id_of("trigger_id")?, body);
    let sender = id_of("user_id")?.map(|id| Sender { id, name: field("user_name").map(str::to_owned), is_bot: false });
    let text = field("text").map_or_else(|| command.to_owned(), |text| format!("{command} {text}"));
    let normal = Normal {
        conversation: id_of("channel_id")?.map(|id| conversation(id, None, None)),
        sender,
        text: Some(text),
        team: account.elsewhere(team),
        ..Normal::default()
    };
    Ok(InboundEvent {
        kind: EventKind::Command,
        dedupe_key: account.key(&key),
        account: account.claim(),
        provider_event_id: id,
        provider_event_type: "slash_command".to_owned(),
        normal,
        raw: body.clone(),
        media_type: super::FORM,
    })
}

fn interaction(payload: &str, body: &Bytes) -> Result<InboundEvent, ReasonCode> {
    let doc = json::parse(payload.as_bytes())?;
    let word = doc.at("type").str().ok_or(ReasonCode::IngressPayloadMalformed)?;
    let (team, user, view, container) = (doc.at("team"), doc.at("user"), doc.at("view"), doc.at("container"));
    let app_id = text_id(doc.at("api_app_id"))?;
    if app_id.is_none() && !WITHOUT_APP_ID.contains(&word) {
        return Err(ReasonCode::AuthnIdentityMissing);
    }
    let org_wide = flag(doc.at("is_enterprise_install"))?;
    // <https://docs.slack.dev/reference/interaction-payloads/>: `team` is null for org-wide installs, and the partner's for
    // a modal that was opened from a Slack Connect channel; the view then names the installation.
    let happened = match text_id(team.at("id"))? {
        Some(id) => Some(id),
        None => text_id(user.at("team_id"))?.or(text_id(view.at("team_id"))?),
    };
    let installed = text_id(view.at("app_installed_team_id"))?.or_else(|| happened.clone());
    let enterprise = text_id(doc.at("enterprise").at("id"))?.or(text_id(team.at("enterprise_id"))?);
    let account = Account::new(app_id, installed, enterprise, org_wide)?;
    let (key, id) = trigger(text_id(doc.at("trigger_id"))?, body);
    let channel = first_id(&[doc.at("channel").at("id"), container.at("channel_id")])?;
    let thread = first_id(&[container.at("thread_ts"), doc.at("message").at("thread_ts")])?;
    let sender = first_id(&[user.at("id")])?;
    let name = first_text(&[user.at("username"), user.at("name")]).map(str::to_owned);
    let chosen = doc.at("actions").items().first().unwrap_or(&Json::Null);
    let text = first_text(&[chosen.at("value"), chosen.at("selected_option").at("value"), doc.at("callback_id")]);
    let normal = Normal {
        conversation: channel.map(|id| conversation(id, thread, None)),
        sender: sender.map(|id| Sender { id, name, is_bot: false }),
        text: text.map(str::to_owned),
        attachments: Vec::new(),
        reply_to: first_id(&[container.at("message_ts"), doc.at("message").at("ts")])?,
        team: account.elsewhere(happened),
    };
    Ok(InboundEvent {
        kind: EventKind::Interaction,
        dedupe_key: account.key(&key),
        account: account.claim(),
        provider_event_id: id,
        provider_event_type: fit_id(word.to_owned())?,
        normal,
        raw: body.clone(),
        media_type: super::FORM,
    })
}

/// The key and the id of what has no event id. Closing a modal and loading options have no trigger either; their bytes
/// differ each time.
fn trigger(trigger_id: Option<String>, body: &[u8]) -> (String, String) {
    match trigger_id {
        Some(id) => (format!("trigger:{id}"), id),
        None => {
            let id = digest_id(body);
            (format!("sha256:{id}"), id)
        }
    }
}

/// The fields of a form, decoded. No name may stand there twice: two readers could then see different values.
///
/// # Errors
/// [`ReasonCode::IngressFormMalformed`]
pub(super) fn form_fields(body: &[u8]) -> Result<Vec<(String, String)>, ReasonCode> {
    let mut fields = Vec::new();
    let mut seen = HashSet::new();
    for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
        if fields.len() >= FIELDS_MAX {
            return Err(ReasonCode::IngressFormMalformed);
        }
        let mut parts = pair.splitn(2, |b| *b == b'=');
        let name = decoded(parts.next().unwrap_or_default())?;
        let value = decoded(parts.next().unwrap_or_default())?;
        if !seen.insert(name.clone()) && stands(Guard::FormNamesOnce) {
            return Err(ReasonCode::IngressFormMalformed);
        }
        fields.push((name, value));
    }
    Ok(fields)
}

/// Strict, unlike the `form_urlencoded` crate, which keeps a broken escape as it is and replaces what is not UTF-8.
pub(super) fn decoded(text: &[u8]) -> Result<String, ReasonCode> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
                match (digit(), digit()) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ if stands(Guard::FormEscapes) => return Err(ReasonCode::IngressFormMalformed),
                    _ => b'%',
                }
            }
            other => *other,
        });
    }
    String::from_utf8(bytes).map_err(|_| ReasonCode::IngressFormMalformed)
}
