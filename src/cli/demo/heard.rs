//! What the driver is told of the outside world. Floor 11.

use std::time::Instant;

use crate::domain::installation::ProviderKind;

/// What one of the outside world's parts noticed, and when.
#[derive(Debug)]
pub(super) enum Heard {
    /// An agent was handed an event.
    Agent {
        at: Instant,
        agent: &'static str,
        event: String,
        text: String,
        /// Whether the signature was the gateway's.
        proved: bool,
    },
    /// The gateway answered the agent's own message.
    Answered { at: Instant, event: String, status: u16, code: Option<String> },
    /// A provider was sent a message.
    Provider(Sent),
    /// The gateway settled a delivery.
    Settled { event: String, outcome: &'static str },
}

/// A message at the simulated provider.
#[derive(Debug)]
pub(super) struct Sent {
    /// When.
    pub at: Instant,
    /// At which.
    pub provider: ProviderKind,
    /// In which conversation.
    pub conversation: String,
    /// What was said.
    pub text: String,
    /// The installation whose token it was, or the provider's own word for why it was refused.
    pub verdict: Result<&'static str, &'static str>,
}
