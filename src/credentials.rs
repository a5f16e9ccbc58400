//! Which credential a send leaves with: the installation's own, a permitted fallback, or none. Floor 6.
//!
//! [`CredentialLease`] is made here only, from a permit; without one there is no token and no socket.

use std::sync::Arc;

use crate::domain::ids::InstallationId;
use crate::domain::installation::{Installation, InstallationStatus, Mode};
use crate::domain::reason::{ReasonCode, Refusal, Stop};
use crate::domain::record::Decision;
use crate::domain::secret::Secret;
use crate::policy::action::{CredentialFacts, SendMessage, UseCredential, UseFallback};
use crate::policy::{Denied, Permit, Snapshot, facts};
use crate::store::directory::{Directory, Kept};
use crate::vault::{OpenGrant, Vault, field};

/// Policy permitted this credential for this send.
pub struct CredentialLease {
    installation: Arc<Kept<Installation>>,
    permit: Permit<UseCredential>,
    fallback: Option<Permit<UseFallback>>,
}

impl OpenGrant for Permit<UseCredential> {
    fn installation(&self) -> &InstallationId {
        &self.ask().installation.id
    }

    fn credential(&self) -> &str {
        &self.ask().credential.id
    }
}

impl CredentialLease {
    /// The installation that sends.
    pub fn installation(&self) -> &Installation {
        &self.installation.item
    }

    /// The credential's id.
    pub fn credential(&self) -> &str {
        self.permit.credential()
    }

    /// `org` or `platform`: whose credential it is.
    pub fn owner(&self) -> &'static str {
        owner_word(&self.installation.item)
    }

    /// Whether the send left its own route for the platform's.
    pub fn fallback(&self) -> bool {
        self.fallback.is_some()
    }

    /// Opens the token for as long as `use_it` runs.
    ///
    /// # Errors
    /// `credentials.unavailable`, or what `use_it` says.
    pub fn with_token<T>(
        &self,
        vault: &Vault,
        directory: &Directory,
        use_it: impl FnOnce(&Secret) -> Result<T, ReasonCode>,
    ) -> Result<T, Stop> {
        let token = vault.credential(&self.permit, directory)?;
        use_it(&token).map_err(Stop::from)
    }
}

/// Whose credential an installation has.
pub fn owner_word(installation: &Installation) -> &'static str {
    match installation.owner.mode() {
        Mode::Platform => "platform",
        Mode::Byoa => "org",
    }
}

/// What came of the selection: every decision on the way, and the lease or why not.
pub struct Selection {
    /// Every decision, in the order they were asked.
    pub decisions: Vec<Arc<Decision>>,
    /// The lease, or why there is none.
    pub outcome: Result<CredentialLease, Stop>,
}

/// Selects the credential for a permitted send: the installation is the one that the permit names.
pub fn select(policy: &Snapshot, directory: &Directory, spoken: &Permit<SendMessage>, allow_fallback: bool) -> Selection {
    let mut decisions = Vec::new();
    let outcome = choose(policy, directory, spoken, allow_fallback, &mut decisions);
    Selection { decisions, outcome }
}

/// Selects an installation's own credential for what is no send, as for fetching a file that came through it. There is no
/// other way to such a thing, hence no fallback.
pub fn own(policy: &Snapshot, directory: &Directory, installation: &Arc<Kept<Installation>>) -> Selection {
    let mut decisions = Vec::new();
    let outcome = match unusable(installation) {
        None => lease(policy, directory, installation, None, &mut decisions),
        Some(code) => Err(code.into()),
    };
    Selection { decisions, outcome }
}

fn choose(
    policy: &Snapshot,
    directory: &Directory,
    spoken: &Permit<SendMessage>,
    allow_fallback: bool,
    decisions: &mut Vec<Arc<Decision>>,
) -> Result<CredentialLease, Stop> {
    let own = directory.installations.get(&spoken.ask().installation.id).ok_or(ReasonCode::CredentialsAbsent)?;
    match unusable(own) {
        None => lease(policy, directory, own, None, decisions),
        Some(_) if allow_fallback => {
            let (to, permit) = fall_back(policy, directory, own, decisions)?;
            lease(policy, directory, &to, Some(permit), decisions)
        }
        Some(code) => Err(code.into()),
    }
}

/// Why an installation's own credential cannot be used, if so.
fn unusable(installation: &Kept<Installation>) -> Option<ReasonCode> {
    match installation.item.status {
        InstallationStatus::Revoked => Some(ReasonCode::CredentialsRevoked),
        InstallationStatus::Degraded => Some(ReasonCode::EgressCredentialInvalid),
        _ if installation.secret(field::CREDENTIAL).is_none() => Some(ReasonCode::CredentialsAbsent),
        _ => None,
    }
}

fn lease(
    policy: &Snapshot,
    directory: &Directory,
    installation: &Arc<Kept<Installation>>,
    fallback: Option<Permit<UseFallback>>,
    decisions: &mut Vec<Arc<Decision>>,
) -> Result<CredentialLease, Stop> {
    let stored = installation.secret(field::CREDENTIAL).ok_or(ReasonCode::CredentialsAbsent)?;
    let ask = UseCredential {
        installation: facts::installation(directory, &installation.item),
        credential: CredentialFacts {
            id: stored.id.clone(),
            provider: installation.item.provider,
            owner: installation.item.owner.clone(),
            stranger: facts::stranger(directory, &installation.item.owner, &installation.item.org),
            org: facts::org(directory, &installation.item.org),
            usable: unusable(installation).is_none(),
        },
    };
    let permit = keep(policy.decide(ask), decisions)?;
    Ok(CredentialLease { installation: installation.clone(), permit, fallback })
}

/// The platform installation that may take over: the org's own enabled platform-mode binding must allow it, and the
/// policies must permit it. The tenant's credential boundary is never crossed; the route changes instead.
fn fall_back(
    policy: &Snapshot,
    directory: &Directory,
    from: &Arc<Kept<Installation>>,
    decisions: &mut Vec<Arc<Decision>>,
) -> Result<(Arc<Kept<Installation>>, Permit<UseFallback>), Stop> {
    let own = &from.item;
    let platform = directory
        .installations
        .values()
        .filter(|i| i.item.org == own.org && i.item.provider == own.provider && i.item.owner.mode() == Mode::Platform)
        .find(|i| directory.bindings_of(&i.item.id).iter().any(|b| b.item.enabled && b.item.allow_platform_fallback));
    let opted_in = directory.orgs.get(&own.org).is_some_and(|o| o.item.fallback_opt_in.contains(&own.provider));
    let Some(to) = platform else {
        let code = if opted_in { ReasonCode::CredentialsPlatformFallbackDenied } else { ReasonCode::CredentialsFallbackNotOptedIn };
        return Err(Refusal::of(code).into());
    };
    let ask = UseFallback {
        from: facts::installation(directory, own),
        to: facts::installation(directory, &to.item),
        own_credential_usable: unusable(from).is_none(),
        binding_allows: true,
        flag: facts::flag(directory, own.provider),
        bucket: facts::bucket(&own.org, own.provider),
    };
    let permit = keep(policy.decide(ask), decisions)?;
    Ok((to.clone(), permit))
}

fn keep<A>(answer: Result<Permit<A>, Denied>, decisions: &mut Vec<Arc<Decision>>) -> Result<Permit<A>, Stop>
where
    A: crate::policy::action::Action,
{
    match answer {
        Ok(permit) => {
            decisions.push(permit.decision().clone());
            Ok(permit)
        }
        Err(denied) => {
            decisions.push(denied.decision);
            Err(Stop::Refused(denied.refusal))
        }
    }
}
