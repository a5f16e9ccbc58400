//! Credentials that expire: traded for new ones before they do, by one refresher per installation. Part of `egress`, floor 7.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Egress, Ended};
use crate::credentials::CredentialLease;
use crate::domain::clock::Timestamp;
use crate::domain::guard::{Guard, stands};
use crate::domain::ids::{CredentialId, InstallationId};
use crate::domain::installation::{Installation, InstallationStatus};
use crate::domain::lifecycle::{LifecycleChange, Shift, StatusReason};
use crate::domain::reason::{Failure, ReasonCode, Stop};
use crate::domain::record::AuditRecord;
use crate::providers::{self, OauthClient, Refresh};
use crate::store::directory::{Directory, Kept, SealedSecret};
use crate::store::{Refreshed, SecretPut};
use crate::transport::TransportError;
use crate::vault::field;
use crate::wire::{WireRequest, WireResponse};

/// A credential that lives shorter than this is refreshed first.
const AHEAD_MS: i64 = 600_000;

/// Who refreshes which installation now. A pair that could not be kept yet stays with its place in the queue: its refresh
/// token is the only one that is left.
#[derive(Clone, Debug, Default)]
pub struct Refreshers(Arc<Mutex<HashMap<InstallationId, Queue>>>);

type Queue = Arc<tokio::sync::Mutex<Option<Refreshed>>>;
type Turn = tokio::sync::OwnedMutexGuard<Option<Refreshed>>;

impl Refreshers {
    async fn turn(&self, installation: &InstallationId) -> Turn {
        let queue = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(installation.clone()).or_default().clone();
        queue.lock_owned().await
    }
}

/// One exchange, with everything it takes and nothing that its caller could take away: once the request has left, the old
/// pair is spent, whether anybody still waits or not.
struct Exchange {
    egress: Egress,
    installation: Installation,
    app_id: Option<String>,
    credential: SealedSecret,
    request: WireRequest,
}

impl Egress {
    /// Sees to it that the credential lives; a newer directory to send by, where it had to be renewed. `spent` is the
    /// fingerprint of one that the provider called expired, whatever we thought of it.
    ///
    /// # Errors
    /// The credential is dead, or has expired while the provider cannot be asked for another.
    pub(super) async fn with_live_credential(
        &self,
        directory: &Directory,
        lease: &CredentialLease,
        spent: Option<&str>,
    ) -> Result<Option<Arc<Directory>>, Ended> {
        let id = &lease.installation().id;
        if !self.is_due(directory, id, spent) {
            return Ok(None);
        }
        let mut turn = self.refreshers.turn(id).await;
        // Somebody else may have done it while this one waited.
        let directory = self.store.directory();
        if !self.is_due(&directory, id, spent) && stands(Guard::RefreshedOnce) {
            return Ok(Some(directory));
        }
        let outcome = match turn.take() {
            Some(pair) => self.keep_pair(pair, &mut turn).await,
            None => {
                let exchange = self.exchange(&directory, lease)?;
                // On its own task: a caller who goes away must not take the new pair with him.
                let done = tokio::spawn(async move { exchange.run(&mut turn).await });
                done.await.unwrap_or_else(|_| Err(Ended::new(ReasonCode::IngressInternal, "the refresh broke")))
            }
        };
        match outcome {
            Ok(()) => Ok(Some(self.store.directory())),
            // The old one is still good for a while.
            Err(ended) if ended.stop.code().retryable() && spent.is_none() && self.lives(&directory, id) => Ok(Some(directory)),
            Err(ended) => Err(ended),
        }
    }

    fn is_due(&self, directory: &Directory, id: &InstallationId, spent: Option<&str>) -> bool {
        let Some(installation) = directory.installations.get(id) else { return false };
        let (Some(credential), Some(_)) = (installation.secret(field::CREDENTIAL), installation.secret(field::REFRESH_TOKEN)) else {
            return false;
        };
        let ahead = self.clock.now().plus_ms(AHEAD_MS);
        spent == Some(credential.fingerprint.as_str()) || credential.until.is_some_and(|until| until <= ahead)
    }

    fn lives(&self, directory: &Directory, id: &InstallationId) -> bool {
        let credential = directory.installations.get(id).and_then(|i| i.secret(field::CREDENTIAL));
        credential.and_then(|c| c.until).is_some_and(|until| self.clock.now() < until)
    }

    /// Opens what the exchange takes: the refresh token against the same permit as the credential itself.
    fn exchange(&self, directory: &Directory, lease: &CredentialLease) -> Result<Exchange, Ended> {
        let installation = lease.installation();
        let unavailable = |why: &str| {
            let detail = format!("installation `{}`: {why}", installation.id);
            Ended::from(Stop::from(Failure::new(ReasonCode::CredentialsUnavailable, detail)))
        };
        let kept: &Kept<Installation> =
            directory.installations.get(&installation.id).ok_or_else(|| unavailable("the installation is gone"))?;
        let credential = kept.secret(field::CREDENTIAL).ok_or_else(|| unavailable("the credential changed"))?.clone();
        let profile = directory.profiles.get(&installation.profile).ok_or_else(|| unavailable("its profile is gone"))?;
        let secret = self.vault.profile_field(profile, field::CLIENT_SECRET).map_err(|f| Ended::from(Stop::from(f)))?;
        let (Some(client_id), Some(secret)) = (&profile.item.oauth_client_id, &secret) else {
            return Err(unavailable("its profile has no OAuth client to refresh with"));
        };
        let api_base = self.providers.api_base(installation.provider);
        let request = lease.with_refresh_token(&self.vault, directory, |token| {
            let client = OauthClient { id: client_id, secret };
            providers::of(installation.provider).render_refresh(&client, token, api_base).ok_or(ReasonCode::CredentialsUnavailable)
        })?;
        let app_id = profile.item.app().map(str::to_owned);
        Ok(Exchange { egress: self.clone(), installation: installation.clone(), app_id, credential, request })
    }

    /// The new pair is on disk before anybody uses it. One that could not be kept waits in its turn.
    async fn keep_pair(&self, pair: Refreshed, turn: &mut Option<Refreshed>) -> Result<(), Ended> {
        match self.store.keep_refreshed(pair.clone()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Ended::new(ReasonCode::CredentialsUnavailable, "the credential changed while it was refreshed")),
            Err(error) => {
                tracing::error!(installation = %pair.installation, error = %error, "a refreshed credential is not on disk yet; it is kept in memory and tried again");
                *turn = Some(pair);
                Err(Ended::from(Stop::from(Failure::from(error))))
            }
        }
    }
}

impl Exchange {
    async fn run(self, turn: &mut Option<Refreshed>) -> Result<(), Ended> {
        let Self { egress, installation, app_id, credential, request } = self;
        let provider = providers::of(installation.provider);
        let limits = &egress.limits;
        let sent = egress.transport.send(request, limits.provider_timeout_ms, limits.provider_answer_bytes_max).await;
        let outcome = match &sent {
            Ok(response) => provider.read_refresh(response, &installation.account, app_id.as_deref()),
            Err(error) => Refresh::Trouble { error: trouble(error) },
        };
        let now = egress.clock.now();
        match outcome {
            Refresh::Pair { credential: new, refresh_token, expires_in_s } => {
                let until = expires_in_s.map(|s| now.plus_ms(s.saturating_mul(1000)));
                let put = |name: &str, id: String, value: &_, until: Option<Timestamp>| {
                    let sealed = egress.vault.seal(Some(&installation.org), "installations", installation.id.as_str(), name, value)?;
                    let fingerprint = egress.vault.fingerprint(crate::domain::secret::Secret::expose(value));
                    let secret =
                        SealedSecret { id, field: name.to_owned(), slot: "current".to_owned(), sealed, fingerprint, set: now, until };
                    Ok::<_, Failure>(SecretPut { kind: "installations", owner: installation.id.to_string(), secret })
                };
                // The credential stays the one that permits name; only its value is another.
                let pair = vec![
                    put(field::CREDENTIAL, credential.id.clone(), &new, until).map_err(|f| Ended::from(Stop::from(f)))?,
                    put(field::REFRESH_TOKEN, CredentialId::fresh(now).to_string(), &refresh_token, None)
                        .map_err(|f| Ended::from(Stop::from(f)))?,
                ];
                let audit = line(&installation, "done", now, format!(r#"{{"credential":"{}"}}"#, credential.id));
                let pair = Refreshed { installation: installation.id.clone(), replaces: credential.fingerprint.clone(), pair, audit };
                let kept = egress.keep_pair(pair, turn).await;
                egress.metrics.refresh(installation.provider, if kept.is_ok() { "done" } else { "failed" });
                kept
            }
            Refresh::Refused { error } => {
                egress.metrics.refresh(installation.provider, "refused");
                tracing::error!(installation = %installation.id, error, "the provider refuses to refresh the credential");
                egress.degrade(&installation, &credential.fingerprint, StatusReason::RefreshRefused).await;
                Err(Ended::new(ReasonCode::EgressCredentialInvalid, error))
            }
            Refresh::Trouble { error } => {
                egress.metrics.refresh(installation.provider, "failed");
                tracing::warn!(installation = %installation.id, error, "the credential could not be refreshed yet");
                Err(Ended { retry_after_s: Some(5), ..Ended::new(ReasonCode::EgressProviderUnavailable, error) })
            }
        }
    }
}

fn line(installation: &Installation, outcome: &'static str, now: Timestamp, detail: String) -> AuditRecord {
    AuditRecord {
        at: now,
        actor: "gateway".into(),
        action: "credential.refresh",
        target: installation.id.to_string(),
        org: Some(installation.org.clone()),
        outcome,
        code: None,
        decision: None,
        request: None,
        detail: Some(detail),
    }
}

fn trouble(error: &TransportError) -> String {
    match error {
        TransportError::NotSent(why) => format!("the provider could not be reached: {why}"),
        _ => "the provider did not answer the refresh".to_owned(),
    }
}

impl Egress {
    /// The provider says the credential is dead: the installation hears on and sends no more until an operator acts. Only
    /// while it is still that credential, and the installation is still active.
    pub(super) async fn degrade(&self, installation: &Installation, fingerprint: &str, reason: StatusReason) {
        let shift = Shift {
            installation: installation.id.clone(),
            profile: installation.profile.clone(),
            org: installation.org.clone(),
            provider: installation.provider,
            change: LifecycleChange::Status(InstallationStatus::Degraded, reason),
            event: None,
            happened: None,
            credential: Some(fingerprint.to_owned()),
            actor: "gateway".into(),
            request: None,
        };
        match self.store.shift(shift, self.clock.now()).await {
            Ok(shifted) if shifted.is_empty() => {}
            Ok(_) => {
                self.metrics.lifecycle(installation.provider, InstallationStatus::Degraded.as_str());
                tracing::error!(installation = %installation.id, reason = reason.as_str(), advice = reason.advice(), "an installation is degraded");
            }
            Err(error) => tracing::error!(installation = %installation.id, error = %error, "could not be marked degraded"),
        }
    }
}

/// Whether the answer says that the credential, and nothing else, is over.
pub(super) fn has_expired(installation: &Installation, response: &WireResponse) -> bool {
    providers::of(installation.provider).says_expired(response)
}
