//! What operators ask, and the answers given so far to every question. Part of `policy`, floor 5.

use cedar_policy::RestrictedExpression as Value;

use super::super::decide::Cache;
use super::super::entities::{Question, Slice, Unfit};
use super::{
    Action, AnswerInteraction, CallProviderMethod, EnterRollout, FlagFacts, OperatorFacts, OrgFacts, RouteMessage, SecretHolder,
    SendMessage, UseCredential, UseFallback, UseLegacyRoute, sealed,
};
use crate::domain::installation::ProviderKind;
use crate::domain::rollout::RolloutStage;

/// May this operator put a new secret beside an old one?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RotateSecret {
    /// Who asks.
    pub operator: OperatorFacts,
    /// Whose secret.
    pub holder: SecretHolder,
}

/// May this operator end a secret at once?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RevokeSecret {
    /// Who asks.
    pub operator: OperatorFacts,
    /// Whose secret.
    pub holder: SecretHolder,
}

/// May this operator connect an installation to this org?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectInstallation {
    /// Who asks.
    pub operator: OperatorFacts,
    /// The org of the installation, now or after the change.
    pub org: OrgFacts,
    /// Of which provider.
    pub provider: ProviderKind,
}

/// May this operator start a canary, or edit one?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SetRolloutFlag {
    /// Who asks.
    pub operator: OperatorFacts,
    /// The flag as it stands.
    pub flag: FlagFacts,
}

/// May this operator play the failure-path matrix of a provider?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RunMatrix {
    /// Who asks.
    pub operator: OperatorFacts,
    /// The flag as it stands.
    pub flag: FlagFacts,
}

/// May this operator take a provider back?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RollBack {
    /// Who asks.
    pub operator: OperatorFacts,
    /// The flag as it stands.
    pub flag: FlagFacts,
}

/// May this operator open a provider to everybody?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PromoteRollout {
    /// Who asks.
    pub operator: OperatorFacts,
    /// The flag as it stands.
    pub flag: FlagFacts,
    /// Where to.
    pub to: RolloutStage,
    /// Whether a green run of the failure-path matrix stands behind it.
    pub matrix_green: bool,
    /// Whether the canary ran long enough and saw enough.
    pub soaked: bool,
    /// Whether the operator asks to skip the soak.
    pub force: bool,
}

/// May this operator make everything of an org unreadable?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ShredOrg {
    /// Who asks.
    pub operator: OperatorFacts,
    /// Whose.
    pub org: OrgFacts,
}

/// May this operator remove everything of one person?
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct PurgePerson {
    /// Who asks.
    pub operator: OperatorFacts,
    /// Whose customer the person is.
    pub org: OrgFacts,
}

impl sealed::Ask for RotateSecret {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.secret_holder(&self.holder)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.rotate_secret
    }
}

impl sealed::Ask for RevokeSecret {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.secret_holder(&self.holder)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.revoke_secret
    }
}

impl sealed::Ask for ConnectInstallation {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.org(&self.org)?;
        let context = vec![("provider", slice.names.provider.value(self.provider.as_str()))];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.connect_installation
    }
}

impl sealed::Ask for SetRolloutFlag {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.flag(&self.flag)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.set_rollout_flag
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl sealed::Ask for RunMatrix {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.flag(&self.flag)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.run_matrix
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl sealed::Ask for RollBack {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.flag(&self.flag)?;
        let context = vec![("from", slice.names.stage.value(self.flag.flag.stage.as_str()))];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.roll_back
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl sealed::Ask for PromoteRollout {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.flag(&self.flag)?;
        let context = vec![
            ("from", slice.names.stage.value(self.flag.flag.stage.as_str())),
            ("to", slice.names.stage.value(self.to.as_str())),
            ("matrixGreen", Value::new_bool(self.matrix_green)),
            ("soaked", Value::new_bool(self.soaked)),
            ("force", Value::new_bool(self.force)),
            // Approvals of others are nowhere kept yet: nobody but the one who asks stands behind it.
            ("approvedBy", Value::new_set([])),
        ];
        slice.question(principal, Self::NAME, resource, context)
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.promote_rollout
    }

    fn bytes(&self) -> usize {
        self.flag.bytes()
    }
}

impl sealed::Ask for ShredOrg {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.org(&self.org)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.shred_org
    }
}

impl sealed::Ask for PurgePerson {
    fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
        let principal = slice.operator(&self.operator)?;
        let resource = slice.org(&self.org)?;
        slice.question(principal, Self::NAME, resource, vec![])
    }

    fn cache(caches: &Caches) -> &Cache<Self> {
        &caches.purge_person
    }
}

impl Action for PurgePerson {
    const NAME: &'static str = "PurgePerson";
}

impl Action for ConnectInstallation {
    const NAME: &'static str = "ConnectInstallation";
}

impl Action for RotateSecret {
    const NAME: &'static str = "RotateSecret";
}

impl Action for RevokeSecret {
    const NAME: &'static str = "RevokeSecret";
}

impl Action for SetRolloutFlag {
    const NAME: &'static str = "SetRolloutFlag";
}

impl Action for RunMatrix {
    const NAME: &'static str = "RunMatrix";
}

impl Action for RollBack {
    const NAME: &'static str = "RollBack";
}

impl Action for PromoteRollout {
    const NAME: &'static str = "PromoteRollout";
}

impl Action for ShredOrg {
    const NAME: &'static str = "ShredOrg";
}

macro_rules! operator_questions {
    ($($(#[$doc:meta])* $name:ident in $cache:ident;)+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, Hash, Debug)]
            pub struct $name {
                /// Who asks.
                pub operator: OperatorFacts,
            }

            impl sealed::Ask for $name {
                fn question(&self, mut slice: Slice<'_>) -> Result<Question, Unfit> {
                    let principal = slice.operator(&self.operator)?;
                    let resource = slice.names.gateway.uid("byoa");
                    slice.question(principal, Self::NAME, resource, vec![])
                }

                fn cache(caches: &Caches) -> &Cache<Self> {
                    &caches.$cache
                }
            }

            impl Action for $name {
                const NAME: &'static str = stringify!($name);
            }
        )+

        /// The answers given so far, one table for each question.
        #[derive(Default)]
        pub struct Caches {
            pub(super) route_message: Cache<RouteMessage>,
            pub(super) use_legacy_route: Cache<UseLegacyRoute>,
            pub(super) send_message: Cache<SendMessage>,
            pub(super) call_provider_method: Cache<CallProviderMethod>,
            pub(super) answer_interaction: Cache<AnswerInteraction>,
            connect_installation: Cache<ConnectInstallation>,
            rotate_secret: Cache<RotateSecret>,
            revoke_secret: Cache<RevokeSecret>,
            shred_org: Cache<ShredOrg>,
            purge_person: Cache<PurgePerson>,
            set_rollout_flag: Cache<SetRolloutFlag>,
            run_matrix: Cache<RunMatrix>,
            roll_back: Cache<RollBack>,
            promote_rollout: Cache<PromoteRollout>,
            pub(super) use_credential: Cache<UseCredential>,
            pub(super) use_fallback: Cache<UseFallback>,
            pub(super) enter_rollout: Cache<EnterRollout>,
            $($cache: Cache<$name>,)+
        }
    };
}

operator_questions! {
    /// May this operator change resources?
    ApplyResources in apply_resources;
    /// May this operator read resources?
    ViewResources in view_resources;
    /// May this operator send a delivery again?
    ReplayDelivery in replay_delivery;
    /// May this operator read the audit?
    ReadAudit in read_audit;
    /// May this operator make up a webhook?
    SimulateWebhook in simulate_webhook;
    /// May this operator wrap everything sealed under a new master key?
    RotateKeys in rotate_keys;
}
