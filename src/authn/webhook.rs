//! From a request that believes nothing to events bound to installations: identify, verify, bind.
//!
//! `RequestHead` → [`Identified`] → [`Proved`] → [`Verified`]. Each is made in one place only, so skipping a step does not
//! compile.

use std::sync::Arc;

use bytes::Bytes;

use super::principal::Sender;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::installation::{AppProfile, ExternalAccount, Installation, Ownership};
use crate::domain::message::{AccountClaim, InboundEvent};
use crate::domain::reason::{Failure, ReasonCode, Stop};
use crate::providers::{self, Inspected, Parsed, Provider, SecretSlot, SignatureValid, SigningSecrets};
use crate::store::directory::{Directory, Kept, Locator};
use crate::vault::{Vault, field};
use crate::wire::RequestHead;

/// A known app profile is claimed; its signing secrets may be read.
pub struct Identified {
    profile: Arc<Kept<AppProfile>>,
    provider: &'static dyn Provider,
}

/// Looks the address up. The path is the only thing that picks an app.
///
/// # Errors
/// `authn.unknown_locator`, `authn.installation_gone`, `authn.verifier_unknown`.
pub fn identify(head: &RequestHead, directory: &Directory) -> Result<Identified, Stop> {
    let profile = match directory.locate(&head.ingress_id) {
        Some(Locator::Profile(profile)) if profile.item.provider == head.provider || !stands(Guard::ProviderOfAddress) => profile.clone(),
        Some(Locator::Gone(_)) if stands(Guard::Tombstone) => return Err(ReasonCode::AuthnInstallationGone.into()),
        _ => return Err(ReasonCode::AuthnUnknownLocator.into()),
    };
    let provider = providers::of(profile.item.provider);
    if profile.item.verifier != provider.verifier() && stands(Guard::VerifierKnown) {
        let detail = format!("profile `{}` has verifier {}", profile.item.id, profile.item.verifier);
        return Err(Failure::new(ReasonCode::AuthnVerifierUnknown, detail).into());
    }
    Ok(Identified { profile, provider })
}

impl Identified {
    /// The claimed profile, for limits and counters only: nothing is proved yet.
    pub fn unverified_profile(&self) -> &Arc<Kept<AppProfile>> {
        &self.profile
    }

    /// What the edge lets through for it.
    pub fn provider(&self) -> &'static dyn Provider {
        self.provider
    }

    /// Answers a GET handshake with the challenge.
    ///
    /// # Errors
    /// `ingress.method`, `authn.verify_token_mismatch`, `authn.secret_unavailable`.
    pub fn handshake(&self, head: &RequestHead, vault: &Vault) -> Result<String, Stop> {
        if !self.provider.has_get_handshake() {
            return Err(ReasonCode::IngressMethod.into());
        }
        let token = vault.profile_field(&self.profile, field::VERIFY_TOKEN)?;
        Ok(self.provider.handshake(head.query.as_deref().unwrap_or(""), token.as_ref())?)
    }

    /// Opens the profile's secrets and looks at the headers. The body is still unread.
    ///
    /// # Errors
    /// An `authn.*` code.
    pub fn inspect(self, head: &RequestHead, vault: &Vault, now: Timestamp) -> Result<HeadersPassed, Stop> {
        let secrets = vault.signing(&self.profile, now)?;
        let inspected = self.provider.inspect(head, &secrets, now)?;
        Ok(HeadersPassed { identified: self, secrets, inspected })
    }
}

/// The headers are those of a proof; the body decides.
pub struct HeadersPassed {
    identified: Identified,
    secrets: Arc<SigningSecrets>,
    inspected: Inspected,
}

impl HeadersPassed {
    /// Verifies the signature over the raw bytes.
    ///
    /// # Errors
    /// [`ReasonCode::AuthnSignatureMismatch`]
    pub fn verify(self, body: &Bytes) -> Result<Proved, ReasonCode> {
        let proof = self.inspected.prove(body, &self.secrets)?;
        Ok(Proved { identified: self.identified, proof })
    }
}

/// The request was made by somebody who holds the profile's secret.
pub struct Proved {
    identified: Identified,
    proof: SignatureValid,
}

/// What a proved request says.
pub enum Said {
    /// Answer with this text.
    Handshake(String),
    /// Events, not bound to installations yet.
    Events(Unbound),
}

/// The events of a proved body. Made by [`Proved::read`] only, and bound by [`Proved::bind`].
pub struct Unbound(Vec<InboundEvent>);

impl Unbound {
    /// The app that the events were sent to, where one of them names it.
    pub fn names_app(&self) -> Option<&str> {
        self.0.iter().find_map(|event| event.account.app_id())
    }
}

/// One event: bound to an installation, or refused by itself.
pub enum Binding {
    /// It is this installation's.
    Bound(Box<Verified>),
    /// It is none of ours, or not this app's.
    Refused(ReasonCode),
}

/// Signature valid and fresh; the event is bound to an installation of that profile.
pub struct Verified {
    sender: Sender,
    event: InboundEvent,
    slot: SecretSlot,
}

impl Verified {
    /// Who it came from.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// What happened.
    pub fn event(&self) -> &InboundEvent {
        &self.event
    }

    /// Which secret proved it.
    pub fn slot(&self) -> SecretSlot {
        self.slot
    }
}

impl Proved {
    /// The profile.
    pub fn profile(&self) -> &AppProfile {
        &self.identified.profile.item
    }

    /// Which secret proved it.
    pub fn slot(&self) -> SecretSlot {
        self.proof.slot()
    }

    /// Reads the body, once and strictly.
    ///
    /// # Errors
    /// An `ingress.*` or `authn.identity_*` code, for the whole body.
    pub fn read(&self, head: &RequestHead, body: &Bytes) -> Result<Said, ReasonCode> {
        Ok(match self.identified.provider.parse(&self.proof, head, body)? {
            Parsed::Handshake(challenge) => Said::Handshake(challenge),
            Parsed::Events(events) => Said::Events(Unbound(events)),
        })
    }

    /// Binds each event to an installation of this profile, or refuses it. An event that names another app than `app` is refused;
    /// one that names none is bound by address, proof and account.
    pub fn bind(&self, events: Unbound, app: Option<&str>, directory: &Directory) -> Vec<Binding> {
        let mut all = Vec::with_capacity(events.0.len());
        for event in events.0 {
            match bind(&self.identified.profile.item, app, &event.account, directory) {
                Ok(installations) => {
                    // An event about a whole account is an event of each of its installations.
                    all.extend(installations.into_iter().map(|installation| {
                        Binding::Bound(Box::new(Verified {
                            sender: Sender::new(installation),
                            event: event.clone(),
                            slot: self.proof.slot(),
                        }))
                    }));
                }
                Err(code) => all.push(Binding::Refused(code)),
            }
        }
        all
    }
}

/// The installations of this profile that have the account an event names. The path said which app; the body may only
/// confirm it.
fn bind(
    profile: &AppProfile,
    app: Option<&str>,
    claim: &AccountClaim,
    directory: &Directory,
) -> Result<Vec<Arc<Kept<Installation>>>, ReasonCode> {
    // The database forbids an account of two; should it happen all the same, the first of several would be a guess, and so
    // would the one that is left of an account that two owners hold.
    let one = |found: &[Arc<Kept<Installation>>], account: &str| match found {
        [one] if !directory.disputed(&one.item) || !stands(Guard::OneOwner) => Ok(vec![one.clone()]),
        [first, ..] if !stands(Guard::OneInstallation) => Ok(vec![first.clone()]),
        [] if !stands(Guard::AccountOfProfile) => Ok(guessed(profile, directory)),
        [] => Err(stranger(profile, account, directory)),
        _ => Err(ReasonCode::AuthnRouteAmbiguous),
    };
    let is_anothers = claim.app_id().zip(app).is_some_and(|(named, own)| named != own);
    if is_anothers && stands(Guard::AppOfProfile) {
        return Err(ReasonCode::AuthnTenantMismatch);
    }
    match claim {
        AccountClaim::Slack { team_id, enterprise_id, org_wide, .. } => {
            let key = match (org_wide, team_id, enterprise_id) {
                (false, Some(team), _) => format!("team:{team}"),
                (_, _, Some(enterprise)) => format!("enterprise:{enterprise}"),
                _ => return Err(ReasonCode::AuthnIdentityMissing),
            };
            one(directory.by_account(&profile.id, &key), &key)
        }
        AccountClaim::Telegram { chat_id } => {
            let listed = chat_id.as_ref().map_or(&[] as &[_], |chat| directory.by_account(&profile.id, &format!("chat:{chat}")));
            if listed.is_empty() { one(directory.by_account(&profile.id, "bot/*"), "bot/*") } else { one(listed, "chat") }
        }
        AccountClaim::WhatsApp { waba_id, phone_number_id } => {
            let key = match phone_number_id {
                Some(number) => format!("number:{number}"),
                None => format!("waba:{waba_id}"),
            };
            let found: Vec<_> = directory
                .by_account(&profile.id, &key)
                .iter()
                .filter(|i| matches!(&i.item.account, ExternalAccount::WhatsApp { waba_id: own, .. } if own == waba_id || !stands(Guard::BusinessOfNumber)))
                .cloned()
                .collect();
            let whole = phone_number_id.is_none() && found.len() > 1 && !found.iter().any(|i| directory.disputed(&i.item));
            if whole { Ok(found) } else { one(&found, &key) }
        }
    }
}

/// What would be taken if no account were asked for: the first installation of the profile.
fn guessed(profile: &AppProfile, directory: &Directory) -> Vec<Arc<Kept<Installation>>> {
    directory.installations.values().find(|i| i.item.profile == profile.id).cloned().into_iter().collect()
}

/// Why an account is not this profile's. A tenant's own app that names somebody else's account is an alarm; a platform
/// app may be installed where we do not serve.
fn stranger(profile: &AppProfile, account: &str, directory: &Directory) -> ReasonCode {
    match profile.owner {
        Ownership::Org(_) if stands(Guard::StrangersAlarm) => ReasonCode::AuthnTenantMismatch,
        Ownership::Platform if directory.account_is_byoa(account) && stands(Guard::ModeConflict) => ReasonCode::AuthnModeConflict,
        Ownership::Org(_) | Ownership::Platform => ReasonCode::AuthnAccountNotBound,
    }
}
