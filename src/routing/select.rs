//! Which of several bindings hears an event, and why the others do not. Floor 6.

use std::sync::Arc;

use serde::Serialize;

use crate::domain::ids::BindingId;
use crate::domain::installation::{Binding, ExternalAccount, Installation, Mode, ProviderKind, Selector};
use crate::domain::message::{InboundEvent, Normal};
use crate::store::directory::Kept;

/// The binding that an event goes by: of the installation's own the one that hears it, and only where none does, of the
/// org's legacy ones.
pub fn choose<'a>(
    own: &'a [Arc<Kept<Binding>>],
    legacy: &'a [Arc<Kept<Binding>>],
    installation: &Installation,
    event: &InboundEvent,
) -> Option<&'a Arc<Kept<Binding>>> {
    candidate(own, installation, event).or_else(|| candidate(legacy, installation, event))
}

/// The binding that hears an event: the most specific of those whose selectors all match, then the lowest priority, then
/// the first id.
pub fn candidate<'a>(
    bindings: &'a [Arc<Kept<Binding>>],
    installation: &Installation,
    event: &InboundEvent,
) -> Option<&'a Arc<Kept<Binding>>> {
    bindings.iter().filter(|b| b.item.enabled && unmet(&b.item, installation, &event.normal).is_none()).min_by(|a, b| a.item.order(&b.item))
}

/// How a binding fares with an event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "standing")]
pub enum Standing {
    /// It hears the event.
    Hears,
    /// It is switched off.
    Disabled,
    /// It selects other events.
    Unmet(Unmet),
    /// This one is more specific: it names what this binding does not.
    LessSpecific {
        /// The binding that goes before.
        than: BindingId,
        /// The selector that makes the difference.
        names: &'static str,
    },
    /// This one is as specific and has a lower priority number.
    LaterPriority {
        /// The binding that goes before.
        than: BindingId,
    },
    /// This one is as specific, has the same priority, and its id comes first.
    LaterId {
        /// The binding that goes before.
        than: BindingId,
    },
    /// It names a provider only, and such a one is looked at only where no binding of the installation hears the event.
    LegacyLast {
        /// The binding of the installation that hears it.
        than: BindingId,
    },
    /// It names a provider only, and the org has several installations of that, so it means none.
    Ambiguous,
}

/// A selector that an event does not meet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Unmet {
    /// Which.
    pub selector: &'static str,
    /// What the binding asks for.
    pub wanted: String,
    /// What the event has.
    pub actual: Option<String>,
}

/// How each binding fares with an event of an installation, in the order they were given: the installation's own and the
/// org's legacy ones. `only`: the org has no other installation of that provider that hears events.
pub fn standings(bindings: &[Binding], installation: &Installation, only: bool, normal: &Normal) -> Vec<Standing> {
    let fits = |b: &&Binding| b.enabled && unmet(b, installation, normal).is_none();
    let best = |legacy: bool| bindings.iter().filter(|b| b.is_legacy() == legacy).filter(fits).min_by(|a, b| a.order(b));
    let (own, wide) = (best(false), best(true));
    let standing = |binding: &Binding| {
        if let Some((selector, wanted, actual)) = unmet(binding, installation, normal) {
            return Standing::Unmet(Unmet { selector, wanted: wanted.to_owned(), actual: actual.map(str::to_owned) });
        }
        let winner = match (binding.is_legacy(), own) {
            _ if !binding.enabled => return Standing::Disabled,
            (true, Some(own)) => return Standing::LegacyLast { than: own.id.clone() },
            (true, None) if !only => return Standing::Ambiguous,
            (true, None) => wide,
            (false, own) => own,
        };
        let Some(winner) = winner else { return Standing::Disabled };
        let than = winner.id.clone();
        let names = Selector::NAMES.iter().zip(winner.select.present()).zip(binding.select.present()).find(|((_, w), b)| w != b);
        match names {
            Some(((names, _), _)) => Standing::LessSpecific { than, names },
            None if winner.id == binding.id => Standing::Hears,
            None if winner.priority != binding.priority => Standing::LaterPriority { than },
            None => Standing::LaterId { than },
        }
    };
    bindings.iter().map(standing).collect()
}

/// The first selector that an event does not meet: its name, what it asks for, what the event has.
fn unmet<'a>(binding: &'a Binding, installation: &'a Installation, normal: &'a Normal) -> Option<(&'static str, &'a str, Option<&'a str>)> {
    let select = &binding.select;
    let conversation = normal.conversation.as_ref();
    // Any of the provider's ids of it: a number, and the business account that the number is in.
    let ids = installation.account.ids();
    let account = ids.iter().find(|id| Some(**id) == select.account.as_deref()).or(ids.first()).copied();
    let own_team = match &installation.account {
        ExternalAccount::Slack { team_id, .. } => team_id.as_deref(),
        ExternalAccount::Telegram { .. } | ExternalAccount::WhatsApp { .. } => None,
    };
    let asks = [
        ("mode", binding.mode.map(Mode::as_str), Some(installation.owner.mode().as_str())),
        ("provider", select.provider.map(ProviderKind::as_str), Some(installation.provider.as_str())),
        ("account", select.account.as_deref(), account),
        ("team", select.team.as_deref(), normal.team.as_deref().or(own_team)),
        ("channel", select.channel.as_deref(), conversation.map(|c| c.id.as_str())),
        ("thread", select.thread.as_deref(), conversation.and_then(|c| c.thread.as_deref())),
        ("peer", select.peer.as_deref(), normal.sender.as_ref().map(|s| s.id.as_str())),
    ];
    asks.into_iter()
        .find_map(|(selector, wanted, actual)| Some((selector, wanted?, actual)).filter(|(_, wanted, _)| actual != Some(wanted)))
}
