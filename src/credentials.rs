//! Which credential a send leaves with: the installation's own, a permitted fallback, or none. Floor 6.
//!
//! [`CredentialLease`] is made here only, from a permit; without one there is no token and no socket.

use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::InstallationId;
use crate::domain::installation::{Binding, Installation, InstallationStatus, Mode};
use crate::domain::lifecycle::StatusReason;
use crate::domain::reason::{ReasonCode, Stop};
use crate::domain::record::Decision;
use crate::domain::secret::Secret;
use crate::policy::action::{Action, CallProviderMethod, CredentialFacts, SendMessage, UseCredential, UseFallback};
use crate::policy::{Permit, Snapshot, facts};
use crate::store::directory::{Directory, Kept};
use crate::vault::{OpenGrant, Vault, field};

/// Policy permitted this credential for this send.
pub struct CredentialLease {
    installation: Arc<Kept<Installation>>,
    permit: Permit<UseCredential>,
    takeover: Option<Takeover>,
    /// The fingerprint of the value that was opened last: a refresh may have replaced the one that was selected.
    used: Mutex<Option<String>>,
}

/// Policy permitted a send to leave its own route for the platform's: that the org's own may be left, and that the agent may
/// speak through the other.
pub struct Takeover {
    leave: Permit<UseFallback>,
    speak: Permit<SendMessage>,
    reason: ReasonCode,
}

impl Takeover {
    /// The installation that it left.
    pub fn from(&self) -> &InstallationId {
        &self.leave.ask().from.id
    }

    /// The installation that the agent speaks through instead.
    pub fn to(&self) -> &InstallationId {
        &self.speak.ask().installation.id
    }

    /// Why the own credential could not be used.
    pub fn reason(&self) -> ReasonCode {
        self.reason
    }
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

    /// How the send came to leave its own route for the platform's, where it did.
    pub fn takeover(&self) -> Option<&Takeover> {
        self.takeover.as_ref()
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
        let used = directory.installations.get(self.permit.installation()).and_then(|i| i.secret(field::CREDENTIAL));
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used.map(|s| s.fingerprint.clone());
        use_it(&token).map_err(Stop::from)
    }

    /// Opens what refreshes the token for as long as `use_it` runs.
    ///
    /// # Errors
    /// `credentials.unavailable`, or what `use_it` says.
    pub fn with_refresh_token<T>(
        &self,
        vault: &Vault,
        directory: &Directory,
        use_it: impl FnOnce(&Secret) -> Result<T, ReasonCode>,
    ) -> Result<T, Stop> {
        let token = vault.refresh_token(&self.permit, directory)?;
        use_it(&token).map_err(Stop::from)
    }

    /// The fingerprint of the token that was used last; empty before.
    pub fn fingerprint(&self) -> String {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
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
pub fn select(policy: &Snapshot, directory: &Directory, spoken: &Permit<SendMessage>, allow_fallback: bool, now: Timestamp) -> Selection {
    let mut asking = Asking { policy, directory, now, decisions: Vec::new() };
    let outcome = match asking.installation(&spoken.ask().installation.id) {
        Some(own) => match unusable(&own, now) {
            None => asking.lease(&own, None),
            Some(reason) => asking.instead(&own, spoken.ask(), reason, allow_fallback),
        },
        None => Err(ReasonCode::CredentialsAbsent.into()),
    };
    Selection { decisions: asking.decisions, outcome }
}

/// Selects for a send through a revoked installation. Nobody speaks through one, so there is no permit to show, and nothing
/// but the platform's may be used.
pub fn select_instead(policy: &Snapshot, directory: &Directory, wanted: &SendMessage, allow_fallback: bool, now: Timestamp) -> Selection {
    let mut asking = Asking { policy, directory, now, decisions: Vec::new() };
    let outcome = match asking.installation(&wanted.installation.id).map(|own| (unusable(&own, now), own)) {
        Some((Some(reason), own)) => asking.instead(&own, wanted, reason, allow_fallback),
        _ => Err(ReasonCode::InstallationInactive.into()),
    };
    Selection { decisions: asking.decisions, outcome }
}

/// Selects for a permitted call of a method. Through another app it would be a call in another account, hence no fallback.
pub fn called(policy: &Snapshot, directory: &Directory, permitted: &Permit<CallProviderMethod>, now: Timestamp) -> Selection {
    match directory.installations.get(&permitted.ask().installation.id) {
        Some(installation) => own(policy, directory, installation, now),
        None => Selection { decisions: Vec::new(), outcome: Err(ReasonCode::CredentialsAbsent.into()) },
    }
}

/// Selects an installation's own credential for what is no send, as for fetching a file that came through it. There is no
/// other way to such a thing, hence no fallback.
pub fn own(policy: &Snapshot, directory: &Directory, installation: &Arc<Kept<Installation>>, now: Timestamp) -> Selection {
    let mut asking = Asking { policy, directory, now, decisions: Vec::new() };
    let outcome = match unusable(installation, now) {
        None => asking.lease(installation, None),
        Some(code) => Err(code.into()),
    };
    Selection { decisions: asking.decisions, outcome }
}

/// Why an installation's own credential cannot be used, if so. One that is there and does not open is no such state: that is
/// our trouble, is found out by opening it, and leads nowhere else.
fn unusable(installation: &Kept<Installation>, now: Timestamp) -> Option<ReasonCode> {
    match (installation.item.status, installation.secret(field::CREDENTIAL)) {
        (InstallationStatus::Revoked, _) => Some(ReasonCode::CredentialsRevoked),
        (InstallationStatus::Degraded, _) if installation.item.status_reason.is_some_and(StatusReason::of_account) => {
            Some(ReasonCode::EgressAccountRestricted)
        }
        (InstallationStatus::Degraded, _) if stands(Guard::DegradedParks) => Some(ReasonCode::EgressCredentialInvalid),
        (_, None) => Some(ReasonCode::CredentialsAbsent),
        // With a refresh token, the call gets a new one first.
        (_, Some(credential))
            if installation.secret(field::REFRESH_TOKEN).is_none() && credential.until.is_some_and(|until| until <= now) =>
        {
            Some(ReasonCode::CredentialsExpired)
        }
        _ => None,
    }
}

/// One selection under way.
struct Asking<'a> {
    policy: &'a Snapshot,
    directory: &'a Directory,
    now: Timestamp,
    decisions: Vec<Arc<Decision>>,
}

impl Asking<'_> {
    fn installation(&self, id: &InstallationId) -> Option<Arc<Kept<Installation>>> {
        self.directory.installations.get(id).cloned()
    }

    fn lease(&mut self, installation: &Arc<Kept<Installation>>, takeover: Option<Takeover>) -> Result<CredentialLease, Stop> {
        let stored = installation.secret(field::CREDENTIAL).ok_or(ReasonCode::CredentialsAbsent)?;
        let ask = UseCredential {
            installation: facts::installation(self.directory, &installation.item),
            credential: CredentialFacts {
                id: stored.id.clone(),
                provider: installation.item.provider,
                owner: installation.item.owner.clone(),
                stranger: facts::stranger(self.directory, &installation.item.owner, &installation.item.org),
                org: facts::org(self.directory, &installation.item.org),
                usable: unusable(installation, self.now).is_none(),
            },
        };
        let permit = self.ask(ask)?;
        Ok(CredentialLease { installation: installation.clone(), permit, takeover, used: Mutex::default() })
    }

    /// What is left when the own credential cannot be used: the reason, or the platform's route where the caller asked for
    /// it. Only a tenant's own app has another to fall back to.
    fn instead(
        &mut self,
        own: &Arc<Kept<Installation>>,
        wanted: &SendMessage,
        reason: ReasonCode,
        allow_fallback: bool,
    ) -> Result<CredentialLease, Stop> {
        let asked = allow_fallback || !stands(Guard::FallbackAsked);
        if !asked || own.item.owner.mode() == Mode::Platform {
            return Err(reason.into());
        }
        let (to, takeover) = self.take_over(own, wanted, reason)?;
        self.lease(&to, Some(takeover))
    }

    /// The platform's installation takes over: along the first binding that ties the agent to one and allows it, where the
    /// policies permit both to leave the own one and to speak through the other. The tenant's credential boundary is never
    /// crossed; the route changes instead.
    fn take_over(
        &mut self,
        from: &Arc<Kept<Installation>>,
        wanted: &SendMessage,
        reason: ReasonCode,
    ) -> Result<(Arc<Kept<Installation>>, Takeover), Stop> {
        let (directory, now, own) = (self.directory, self.now, &from.item);
        let platform: Vec<&Arc<Kept<Installation>>> = directory
            .installations
            .values()
            .filter(|i| i.item.org == own.org && i.item.provider == own.provider && i.item.owner.mode() == Mode::Platform)
            .collect();
        let mut ways: Vec<(&Binding, &Arc<Kept<Installation>>)> = platform
            .iter()
            .flat_map(|i| directory.bindings_of(&i.item.id).iter().map(move |b| (&b.item, *i)))
            .filter(|(b, _)| b.enabled && b.org == own.org && b.agent == wanted.agent.id)
            .filter(|(b, _)| b.allow_platform_fallback || !stands(Guard::FallbackBinding))
            .collect();
        ways.sort_by(|(a, _), (b, _)| a.order(b));
        let fit = |i: &Kept<Installation>| {
            let sends = i.item.status == InstallationStatus::Active && unusable(i, now).is_none();
            sends && directory.serves(&i.item, &wanted.conversation)
        };
        let way = ways.iter().find(|(_, i)| fit(i)).map(|(_, i)| *i);
        // What nobody can take is asked about all the same: the answer says why, and is kept.
        let Some(to) = way.or(ways.first().map(|(_, i)| *i)).or(platform.first().copied()) else {
            let opted_in = directory.orgs.get(&own.org).is_some_and(|o| o.item.fallback_opt_in.contains(&own.provider));
            let code = if opted_in { ReasonCode::CredentialsPlatformFallbackDenied } else { ReasonCode::CredentialsFallbackNotOptedIn };
            return Err(code.into());
        };
        let leave = self.ask(UseFallback {
            from: facts::installation(directory, own),
            to: facts::installation(directory, &to.item),
            own_credential_usable: false,
            binding_allows: !ways.is_empty(),
            flag: facts::flag(directory, own.provider),
            bucket: facts::bucket(&own.org, own.provider),
        })?;
        if way.is_none() {
            return Err(ReasonCode::CredentialsPlatformFallbackDenied.into());
        }
        let speak = self.ask(SendMessage {
            installation: facts::installation(directory, &to.item),
            bound: directory.binds(&to.item.id, &wanted.agent.id),
            ..wanted.clone()
        })?;
        Ok((to.clone(), Takeover { leave, speak, reason }))
    }

    fn ask<A: Action>(&mut self, ask: A) -> Result<Permit<A>, Stop> {
        let answer = self.policy.decide(ask);
        self.decisions.push(match &answer {
            Ok(permit) => permit.decision().clone(),
            Err(denied) => denied.decision.clone(),
        });
        answer.map_err(|denied| Stop::Refused(denied.refusal))
    }
}

#[cfg(test)]
mod tests;
