//! The shape of a provider's table of methods: what the gateway knows of each. Part of `providers`, floor 2.

use crate::domain::message::Effect;

/// The part that a method plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// Speaks into a conversation, or acts there where people see it.
    Speaks,
    /// Reads, or acts where nobody is spoken to.
    Plain,
    /// Changes what the account is to everybody in it.
    Account,
}

/// One method that the gateway knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The provider's name of it.
    pub name: &'static str,
    /// The part that it plays.
    pub sort: Sort,
    /// The effect that policies are told.
    pub effect: Effect,
    /// The argument that names the conversation.
    pub place: Option<&'static str>,
    /// Further arguments that say for or to whom it acts; with dots, what an argument holds.
    pub who: &'static [&'static str],
}

/// A method that speaks into the conversation of the argument `place`.
pub(super) const fn speaks(name: &'static str, effect: Effect, place: &'static str) -> Entry {
    Entry { name, sort: Sort::Speaks, effect, place: Some(place), who: &[] }
}

/// A method that speaks to nobody and names no conversation.
pub(super) const fn plain(name: &'static str, effect: Effect) -> Entry {
    Entry { name, sort: Sort::Plain, effect, place: None, who: &[] }
}

/// A method that speaks to nobody and may name a conversation in the argument `place`.
pub(super) const fn about(name: &'static str, effect: Effect, place: &'static str) -> Entry {
    Entry { name, sort: Sort::Plain, effect, place: Some(place), who: &[] }
}

/// A method that changes the account.
pub(super) const fn account(name: &'static str) -> Entry {
    Entry { name, sort: Sort::Account, effect: Effect::Administer, place: None, who: &[] }
}

impl Entry {
    /// The same for a method that may also be about the conversation of the argument `place`.
    pub const fn or_of(self, place: &'static str) -> Self {
        Self { place: Some(place), ..self }
    }

    /// The same for a method that may have these arguments, which say for or to whom it acts.
    pub const fn whom(self, who: &'static [&'static str]) -> Self {
        Self { who, ..self }
    }
}

/// The method of this name.
pub(super) fn find(table: &'static [Entry], name: &str) -> Option<&'static Entry> {
    table.iter().find(|entry| entry.name == name)
}
