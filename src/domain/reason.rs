//! Why. The one enum of reason codes, and the shapes of a no.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

macro_rules! reasons {
    ($($variant:ident $code:literal $status:literal $retry:literal $doc:literal;)+) => {
        /// Why something was refused or failed. Stable strings of the form `stage.what`; no variant carries text.
        ///
        /// The order is the precedence: where several policies forbid, the code that stands first here is the answer.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum ReasonCode {
            $(#[doc = $doc] $variant,)+
        }

        impl ReasonCode {
            /// Every code, in order of precedence.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable string.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The HTTP status its receiver sees, be that a provider, an agent or an operator.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)+ }
            }

            /// Whether the same request may succeed later.
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)+ }
            }

            /// What it means, one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $doc,)+ }
            }
        }
    };
}

reasons! {
    PolicyEvaluationError "policy.evaluation_error" 403 false "A policy could not be evaluated, so nothing was permitted.";
    PolicyNotApplicable "policy.not_applicable" 403 false "The question does not fit the policy schema.";
    PolicyOutsideEnvelope "policy.outside_envelope" 403 false "A policy permits it, but the gateway's own bounds do not: the policy set is wrong.";
    PolicyOverBudget "policy.over_budget" 503 true "There is more to know for the question than the policies are asked with.";
    OrgSuspended "org.suspended" 403 false "The org is suspended by an operator.";
    PolicyOrgRejected "policy.org_rejected" 403 false "The org's policy files are rejected and none of them are known to have been accepted before, so everything of the org is refused.";
    InstallationInactive "installation.inactive" 403 false "The installation is not active.";
    CredentialsCrossOwner "credentials.cross_owner" 403 false "The credential belongs to another owner or org than the installation.";
    CredentialsFallbackNotOptedIn "credentials.fallback_not_opted_in" 403 false "The org did not opt in to platform fallback for this provider.";
    CredentialsPlatformFallbackDenied "credentials.platform_fallback_denied" 403 false "Platform fallback was asked for and is not open to this org: no platform binding of the agent allows it, or its installation cannot send.";
    CredentialsMethodNotAllowed "credentials.method_not_allowed" 403 false "The provider's method is none of those that agents may call.";
    CredentialsConversationElsewhere "credentials.conversation_elsewhere" 403 false "The agent is bound to certain conversations only, and the call reads elsewhere.";
    CredentialsAbsent "credentials.absent" 403 false "The installation has no credential.";
    CredentialsExpired "credentials.expired" 403 false "The installation's credential has expired.";
    CredentialsRevoked "credentials.revoked" 403 false "The installation's credential was revoked.";
    CredentialsUnavailable "credentials.unavailable" 503 true "The installation's credential could not be opened.";
    RolloutStageOff "rollout.stage_off" 503 true "The provider's rollout stage does not let this org in yet.";
    PolicyForbidden "policy.forbidden" 403 false "A policy of the house or of the org forbids it.";
    PolicyNoPermit "policy.no_permit" 403 false "No policy permits it.";

    AuthnUnknownLocator "authn.unknown_locator" 404 false "No app profile has this webhook address.";
    AuthnInstallationGone "authn.installation_gone" 410 false "The app profile of this webhook address was removed.";
    AuthnVerifierUnknown "authn.verifier_unknown" 503 true "The app profile was saved under verification rules this build does not know.";
    AuthnSecretUnavailable "authn.secret_unavailable" 503 true "The app profile's signing secret could not be opened.";
    AuthnSecretMissing "authn.secret_missing" 401 false "The secret header is absent, or the profile has no secret to compare with.";
    AuthnSecretMismatch "authn.secret_mismatch" 401 false "The secret header is not this profile's.";
    AuthnHeaderDuplicated "authn.header_duplicated" 401 false "A signature, timestamp or secret header was sent more than once.";
    AuthnSignatureMissing "authn.signature_missing" 401 false "The signature header is absent.";
    AuthnSignatureScheme "authn.signature_scheme" 401 false "The signature header names a scheme this provider does not use.";
    AuthnSignatureMalformed "authn.signature_malformed" 401 false "The signature header is not the scheme followed by 64 lower-case hex digits.";
    AuthnSignatureMismatch "authn.signature_mismatch" 401 false "The signature was not made over these bytes with this profile's secret.";
    AuthnTimestampMalformed "authn.timestamp_malformed" 401 false "The timestamp header is absent or not plain digits.";
    AuthnTimestampStale "authn.timestamp_stale" 401 false "The timestamp is more than 300 s old.";
    AuthnTimestampFuture "authn.timestamp_future" 401 false "The timestamp is more than 300 s ahead.";
    AuthnVerifyTokenMismatch "authn.verify_token_mismatch" 403 false "The handshake's verify token is not this profile's.";
    AuthnTokenUnknown "authn.token_unknown" 401 false "The bearer token is absent or nobody's.";
    AuthnTenantMismatch "authn.tenant_mismatch" 200 false "The verified body names another app or account than the address it was sent to.";
    AuthnModeConflict "authn.mode_conflict" 200 false "A platform app's event names an account that is bound to a tenant's own app only.";
    AuthnAccountNotBound "authn.account_not_bound" 200 false "No active installation of this app has the account that the event names.";
    AuthnRouteAmbiguous "authn.route_ambiguous" 503 true "More than one installation claims the account that the event names.";
    AuthnIdentityMissing "authn.identity_missing" 200 false "A field that names the account is absent, null or of the wrong type.";
    AuthnIdentityInvalid "authn.identity_invalid" 200 false "A field that names the account or the event is too long or holds control characters.";
    AuthnThrottled "authn.throttled" 429 true "Too many requests from this address, or for this webhook address, failed to prove themselves; so did this one.";

    IngressMethod "ingress.method" 405 false "This address does not take that method.";
    IngressMediaType "ingress.media_type" 415 false "The media type is none that this provider sends.";
    IngressEncodingUnsupported "ingress.encoding_unsupported" 415 false "The body is compressed; no provider does that.";
    IngressBodyTooLarge "ingress.body_too_large" 413 false "The body is larger than this provider's limit.";
    IngressBodyTimeout "ingress.body_timeout" 408 true "The body did not arrive in time.";
    IngressBodyIncomplete "ingress.body_incomplete" 400 true "The connection ended before the body did.";
    IngressHeadersTooLarge "ingress.headers_too_large" 431 false "The header block is over 32 KiB or 100 lines.";
    IngressFraming "ingress.framing" 400 false "The length of the body is stated twice or not clearly, or a line of the head does not end with CR LF.";
    IngressOverloaded "ingress.overloaded" 503 true "Too many requests wait for the store.";
    IngressInternal "ingress.internal" 503 true "Something broke inside the gateway.";
    IngressDuplicate "ingress.duplicate" 200 false "The event was accepted before.";
    IngressJsonInvalid "ingress.json_invalid" 200 false "The body is not one strict JSON object.";
    IngressJsonTooDeep "ingress.json_too_deep" 200 false "The body nests deeper than 64 levels.";
    IngressJsonDuplicateKey "ingress.json_duplicate_key" 200 false "A JSON object repeats a name.";
    IngressFormMalformed "ingress.form_malformed" 200 false "The form body has bad escapes, or its payload is absent or repeated.";
    IngressPayloadMalformed "ingress.payload_malformed" 200 false "The body is not what this provider sends.";
    IngressSelfAuthored "ingress.self_authored" 200 false "The app wrote the message itself; delivering it would be a loop.";
    IngressHandshake "ingress.handshake" 200 false "The provider checked the address and was answered.";
    IngressMemoryFull "ingress.memory_full" 503 true "Too many bytes of bodies are held at once, by all or by one sender.";
    IngressChallengeMalformed "ingress.challenge_malformed" 200 false "The challenge of a signed handshake is not of this provider's form, so it is not echoed.";
    IngressJsonTooManyValues "ingress.json_too_many_values" 200 false "The body holds more than 262,144 JSON values.";

    QuotaEventsRate "quota.events_rate" 429 true "The org sends more events per second than its quota.";
    QuotaOpenDeliveries "quota.open_deliveries" 429 true "The org has as many open deliveries as its quota.";
    QuotaStoredBytes "quota.stored_bytes" 429 true "The store holds as many bytes of the org's events as its quota.";

    ClockSuspect "clock.suspect" 503 true "The wall clock stepped by more than a minute; signed times are not judged until it is believed again.";

    RoutingNoRoute "routing.no_route" 200 false "No enabled binding hears this event.";
    RoutingAmbiguousInstallation "routing.ambiguous_installation" 200 false "A binding that names a provider only could mean several installations of the org.";
    StoreUnavailable "store.unavailable" 503 true "The store did not take the write.";
    StoreBusy "store.busy" 503 true "The store is locked by somebody else.";
    StoreFull "store.full" 503 true "The disk is full.";

    VaultKeyUnknown "vault.key_unknown" 503 true "The value is sealed under a master key that is not loaded.";
    VaultSecretContext "vault.secret_context" 503 true "The sealed value was made for another row: somebody copied it.";
    VaultSecretCorrupt "vault.secret_corrupt" 503 true "The sealed value or its key's name was altered or damaged.";

    EgressMessageInvalid "egress.message_invalid" 422 false "The message lacks a destination or content, or has a field that is not the agent's to set.";
    EgressConversationForm "egress.conversation_form" 422 false "The conversation is not written in the one form of its ids that the provider has here.";
    EgressFileAddress "egress.file_address" 422 false "The message names a file by a `file:` address, which would be read from the provider's own disk.";
    EgressNotFound "egress.not_found" 404 false "No such session, installation or file for this agent.";
    EgressInstallationAmbiguous "egress.installation_ambiguous" 400 false "The agent may use several installations of this provider and did not name one.";
    EgressMethodUnknown "egress.method_unknown" 403 false "The gateway does not know the provider's call, so it does not make it.";
    EgressMethodReserved "egress.method_reserved" 403 false "The call would take the channel from the gateway, or is the gateway's own.";
    EgressIdempotencyRequired "egress.idempotency_key_required" 400 false "The Idempotency-Key header is absent or unfit.";
    EgressIdempotencyConflict "egress.idempotency_conflict" 409 false "The Idempotency-Key was used for another body.";
    EgressInFlight "egress.in_flight" 409 true "The same message is being sent right now.";
    EgressRateLimited "egress.rate_limited" 429 true "The provider asks to wait, or takes no more of this installation yet.";
    EgressRecipientBlocked "egress.recipient_blocked" 403 false "The provider said that the bot cannot reach this conversation: it was blocked or removed there.";
    EgressConversationMoved "egress.conversation_moved" 422 false "The conversation goes on under another id, which the detail names.";
    EgressAccountRestricted "egress.account_restricted" 403 false "The provider restricted or banned the account; sends wait until that is lifted.";
    EgressCredentialInvalid "egress.credential_invalid" 502 false "The provider says that the credential is dead; the installation is degraded.";
    EgressProviderRejected "egress.provider_rejected" 502 false "The provider refused the message.";
    EgressProviderUnavailable "egress.provider_unavailable" 502 true "The provider did not take the message.";
    EgressProviderRedirect "egress.provider_redirect" 502 false "The provider's address answered with a redirect, which is never followed.";
    EgressMediaHostForbidden "egress.media_host_forbidden" 502 false "The provider names a host for the file that is none of its own, so nothing was sent there.";
    EgressMediaTooLarge "egress.media_too_large" 502 false "The file is larger than this gateway passes on.";
    EgressOutcomeUnknown "egress.outcome_unknown" 504 false "The request left and no answer came: the message may have been sent.";
    EgressTooManyCalls "egress.too_many_calls" 429 true "The agent, or its org, has as many calls under way as it may have at once.";

    DeliveryInstallationRevoked "delivery.installation_revoked" 200 false "The installation was revoked before the event was delivered; the delivery is a dead letter.";
    DeliveryExhausted "delivery.exhausted" 200 false "Every attempt failed; the delivery is a dead letter.";
    DeliveryAgentGone "delivery.agent_gone" 200 false "The agent answered 410 and is paused.";
    DeliveryAgentRejected "delivery.agent_rejected" 200 true "The agent answered with an error status.";
    DeliveryAgentThrottled "delivery.agent_throttled" 200 true "The agent asked to wait.";
    DeliveryAgentRedirect "delivery.agent_redirect" 200 true "The agent answered with a redirect, which is never followed.";
    DeliveryAgentUnreachable "delivery.agent_unreachable" 200 true "The agent could not be reached.";
    DeliveryAgentTimeout "delivery.agent_timeout" 200 true "The agent did not answer in time.";
    DeliveryAgentResponseTooLarge "delivery.agent_response_too_large" 200 true "The agent's answer is over 64 KiB.";
    DeliveryAgentDialForbidden "delivery.agent_dial_forbidden" 200 true "The agent's name resolves to an address that configuration does not allow.";
    DeliverySecretUnavailable "delivery.secret_unavailable" 200 true "The agent's signing secret could not be opened.";
    DeliveryNotPrepared "delivery.not_prepared" 200 true "The event could not be read and signed in time; nothing was sent.";
    DeliveryBodyRemoved "delivery.body_removed" 200 false "The event's body was removed before it was delivered; the delivery is a dead letter.";

    AdminHostRefused "admin.host_refused" 400 false "The request names a host that is none of the operator listener's, several, or none.";
    AdminMediaType "admin.media_type" 415 false "The operator listener takes bodies as application/json only.";
    AdminUnauthenticated "admin.unauthenticated" 401 false "The operator token is absent or wrong.";
    AdminNotFound "admin.not_found" 404 false "There is no such resource.";
    AdminResourceInvalid "admin.resource_invalid" 422 false "The resource is not well formed.";
    AdminReferenceUnknown "admin.reference_unknown" 422 false "The resource refers to one that does not exist, or to one of another org.";
    AdminSecretRequired "admin.secret_required" 422 false "The resource needs a secret and none was given.";
    AdminSecretWeak "admin.secret_weak" 422 false "The secret is shorter than the provider's own are.";
    AdminSecretPlaceholder "admin.secret_placeholder" 422 false "The secret is a placeholder.";
    AdminSecretUnchanged "admin.secret_unchanged" 422 false "The new secret is the one in force.";
    AdminOverlapInvalid "admin.overlap_invalid" 422 false "An overlap lasts from nothing to seven days.";
    AdminOverlapRunning "admin.overlap_running" 409 false "Two secrets verify already; revoke the previous one first, or rotate without an overlap.";
    AdminNothingToRevoke "admin.nothing_to_revoke" 409 false "No previous secret verifies.";
    AdminNotConfirmed "admin.not_confirmed" 422 false "What cannot be undone needs the id again as its confirmation.";
    AdminFieldImmutable "admin.field_immutable" 422 false "The field is set once; make a new resource.";
    AdminPrincipalMutable "admin.principal_mutable" 422 false "A name, handle or e-mail address stands where a stable id must: names change hands.";
    AdminSessionEnded "admin.session_ended" 409 false "The session is not active any more.";
    AdminIdentityTaken "admin.identity_taken" 409 false "The external account or address belongs to another installation.";
    AdminAgentUrlForbidden "admin.agent_url_forbidden" 422 false "The agent's address is not one that configuration allows.";
    AdminInUse "admin.in_use" 409 false "Other resources still refer to it.";
    AdminNotReplayable "admin.not_replayable" 409 false "Only a settled or dead delivery can be replayed.";
    AdminBodyRemoved "admin.body_removed" 409 false "The event's body was removed after its retention or with a person's data; there is nothing to deliver.";
    AdminAuditUnavailable "admin.audit_unavailable" 503 true "The audit row could not be written, so nothing was changed.";

    AdminPreconditionFailed "admin.precondition_failed" 412 false "The resource is not the version that If-Match names; read it again.";
    AdminVersionConflict "admin.version_conflict" 409 false "Somebody else changed it first; look at it again.";

    RolloutGateNotGreen "rollout.gate_not_green" 409 false "No green run of the failure-path matrix stands behind the promotion.";
    RolloutNotSoaked "rollout.not_soaked" 409 false "The canary has not run long enough, or has not seen enough events.";
    RolloutCanaryRequired "rollout.canary_required" 409 false "Only a canary is promoted; nothing goes from off to on.";
    RolloutCanaryEmpty "rollout.canary_empty" 422 false "A canary needs orgs on its list, or a percentage.";
    RolloutReasonRequired "rollout.reason_required" 422 false "The change needs a reason, for whoever reads the audit.";
    RolloutInvalid "rollout.invalid" 422 false "The change names no provider, org, stage or percentage that there is.";

    MatrixRunning "matrix.running" 409 true "The failure-path matrix is being played already; one run goes on at a time.";
    MatrixUnavailable "matrix.unavailable" 503 false "The failure-path matrix cannot be played here.";
    MatrixFailed "matrix.failed" 503 true "The run of the failure-path matrix did not come to its end, so it says nothing.";

    ConfigUnknownKey "config.unknown_key" 500 false "The configuration has a key that does not exist.";
    ConfigInvalid "config.invalid" 500 false "The configuration does not make sense.";
    PolicyMissing "policy.missing" 500 false "There is no policy set to decide by.";
    PolicyInvalid "policy.invalid" 500 false "The policy set does not pass validation.";
    PolicyTableFailed "policy.table_failed" 500 false "A decision table does not hold for the policy set.";
    PolicyLockMismatch "policy.lock_mismatch" 500 false "The policy files are not the ones that policies.lock describes.";
    PolicyUnsettled "policy.unsettled" 500 true "The policy files keep changing while they are read.";
    PolicyTooComplex "policy.too_complex" 500 false "A policy file is larger, or a policy deeper or longer, than the limits for policy texts.";
    KeyMissing "key.missing" 500 false "There is no master key.";
    KeyEnvironment "key.environment" 409 false "The master keys come from the environment, which the gateway cannot write.";
    KeyWeak "key.weak" 500 false "The master key is not 32 random bytes.";
    KeyPermissions "key.permissions" 500 false "The key file can be read by others.";
    StoreDurabilityWeak "store.durability_weak" 500 false "The store would acknowledge before its disk does.";
    StoreSchemaNewer "store.schema_newer" 500 false "The store was written by a newer build.";
    StoreLocked "store.locked" 500 false "Another process has this store open.";
    StorePermissions "store.permissions" 500 false "The folder or a file of the store can be read by others than its owner.";
    StoreCorrupt "store.corrupt" 500 false "The store's file is damaged.";
}

impl ReasonCode {
    /// True where a policy may name it as its `@code`. Every other code is the gateway's own: with it a policy could choose the
    /// status of the answer, or ring an alarm.
    pub const fn usable_by_policies(self) -> bool {
        matches!(
            self,
            Self::OrgSuspended
                | Self::InstallationInactive
                | Self::CredentialsCrossOwner
                | Self::CredentialsFallbackNotOptedIn
                | Self::CredentialsPlatformFallbackDenied
                | Self::CredentialsMethodNotAllowed
                | Self::CredentialsConversationElsewhere
                | Self::PolicyForbidden
        )
    }

    /// Reads a code.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text)
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ReasonCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// We decided no.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why.
    pub code: ReasonCode,
    /// The policies that said so, sorted; empty where none had to.
    pub policies: Arc<[String]>,
    /// The policy set that was asked.
    pub version: Option<Arc<str>>,
}

impl Refusal {
    /// A no that no policy had to say.
    pub fn of(code: ReasonCode) -> Self {
        Self { code, policies: Arc::new([]), version: None }
    }
}

/// It did not work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What kind of trouble.
    pub code: ReasonCode,
    /// For the log and for operators; never a secret, never a body.
    pub detail: String,
}

impl Failure {
    /// Trouble with its detail.
    pub fn new(code: ReasonCode, detail: impl fmt::Display) -> Self {
        Self { code, detail: detail.to_string() }
    }
}

/// Why a job ended early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// We decided no.
    Refused(Refusal),
    /// It did not work.
    Failed(Failure),
}

impl Stop {
    /// The reason code of either.
    pub fn code(&self) -> ReasonCode {
        match self {
            Self::Refused(r) => r.code,
            Self::Failed(f) => f.code,
        }
    }
}

impl From<ReasonCode> for Stop {
    fn from(code: ReasonCode) -> Self {
        Self::Refused(Refusal::of(code))
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_of_one_form() {
        let mut seen = std::collections::BTreeSet::new();
        for code in ReasonCode::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} twice");
            let (stage, what) = text.split_once('.').expect("stage.what");
            for part in [stage, what] {
                assert!(!part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{text}");
            }
            assert_eq!(ReasonCode::parse(text), Some(*code));
            assert!(code.meaning().ends_with('.'), "{text}");
            // A policy refuses, and neither asks for the request again nor makes the gateway look out of order.
            assert!(!code.usable_by_policies() || (code.status(), code.retryable()) == (403, false), "{text}");
        }
    }
}
