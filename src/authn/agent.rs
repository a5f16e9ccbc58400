//! An agent's token: looked up by its keyed digest, so that no comparison tells how close a guess was.

use super::principal::AgentPrincipal;
use crate::domain::clock::Timestamp;
use crate::domain::ids::InstallationId;
use crate::domain::reason::ReasonCode;
use crate::store::directory::Directory;
use crate::vault::Vault;
use crate::vault::reply::ReplyTicket;

/// The agent that a reply ticket was written for. The ticket is the proof: SDKs post to such an address without a token.
///
/// # Errors
/// [`ReasonCode::EgressNotFound`] when there is no such agent any more.
pub fn of_reply(ticket: &ReplyTicket, directory: &Directory) -> Result<AgentPrincipal, ReasonCode> {
    directory.agents.get(ticket.agent()).cloned().map(AgentPrincipal::new).ok_or(ReasonCode::EgressNotFound)
}

/// Longest token that is looked at.
const TOKEN_CHARS_MAX: usize = 512;

/// The agent to whom an address for one upload was given, with the installation and the provider's own address.
///
/// # Errors
/// [`ReasonCode::AuthnTokenUnknown`]
pub fn uploader(
    ticket: &str,
    directory: &Directory,
    vault: &Vault,
    now: Timestamp,
) -> Result<(AgentPrincipal, InstallationId, String), ReasonCode> {
    let (ticket, url) = vault.read_upload_ticket(ticket, now).ok_or(ReasonCode::AuthnTokenUnknown)?;
    let agent = directory.agents.get(ticket.agent()).ok_or(ReasonCode::AuthnTokenUnknown)?;
    Ok((AgentPrincipal::new(agent.clone()), ticket.installation().clone(), url))
}

/// The agent whose token this is.
///
/// # Errors
/// [`ReasonCode::AuthnTokenUnknown`]
pub fn authenticate(bearer: Option<&str>, directory: &Directory, vault: &Vault) -> Result<AgentPrincipal, ReasonCode> {
    let token = bearer.map(str::trim).filter(|t| !t.is_empty() && t.len() <= TOKEN_CHARS_MAX).ok_or(ReasonCode::AuthnTokenUnknown)?;
    let agent = directory.agent_by_token(&vault.fingerprint(token)).ok_or(ReasonCode::AuthnTokenUnknown)?;
    Ok(AgentPrincipal::new(agent.clone()))
}
