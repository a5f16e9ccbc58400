//! The one record of the way between an installation and an agent. Inbound makes it, the session keeps it, outbound reads
//! it: what came in through an installation goes out through it.

use serde::{Deserialize, Serialize};

use super::ids::{AgentId, BindingId, InstallationId, OrgId};
use super::installation::ProviderKind;

/// Which installation, which agent, and what ties them.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Route {
    /// The org both answer for.
    pub org: OrgId,
    /// The provider.
    pub provider: ProviderKind,
    /// Where events come in and replies go out.
    pub installation: InstallationId,
    /// The binding that says so. None where the session was handed to the agent, or was kept before bindings were.
    pub binding: Option<BindingId>,
    /// Who hears and answers.
    pub agent: AgentId,
    /// Whether that binding names a provider only, and this installation is what it can mean.
    pub legacy: bool,
}
