//! Whether a tenant's own app is let in yet. Gives the policies the facts; they decide. Floor 6.

use std::sync::Arc;

use crate::domain::installation::{Installation, Mode};
use crate::domain::record::Decision;
use crate::policy::action::EnterRollout;
use crate::policy::{Denied, Snapshot, facts};
use crate::store::directory::Directory;

/// Asks `EnterRollout` for a bring-your-own installation. Platform apps run at every stage: `None`.
///
/// # Errors
/// [`Denied`] with `rollout.stage_off`, unless a policy says something else.
pub fn enter(policy: &Snapshot, directory: &Directory, installation: &Installation) -> Result<Option<Arc<Decision>>, Denied> {
    if installation.owner.mode() == Mode::Platform {
        return Ok(None);
    }
    let ask = EnterRollout {
        org: facts::org(directory, &installation.org),
        provider: installation.provider,
        flag: facts::flag(directory, installation.provider),
        bucket: facts::bucket(&installation.org, installation.provider),
    };
    policy.decide(ask).map(|permit| Some(permit.decision().clone()))
}
