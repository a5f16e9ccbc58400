//! Three requests that must come to nothing, and the proof that they did.
//!
//! Owns what is wrong with each. Judges by what a provider hears and by what an operator can count afterwards, never by the
//! gateway's insides. Floor 11.

use super::desk::{Desk, Tally, Webhook};
use super::world::{GUEST, OWN, World};
use crate::domain::installation::ProviderKind;
use crate::domain::secret::Secret;

/// One refusal, told.
pub(super) struct Refused {
    /// What somebody tried.
    pub name: &'static str,
    /// How.
    pub how: String,
    /// What the provider heard, why, and what is left of it.
    pub came_to: String,
    /// What did not happen as it should.
    pub wrong: Option<String>,
}

/// What must come of it.
struct Want {
    status: u16,
    outcome: &'static str,
    reason: &'static str,
    /// Refusals that an operator finds afterwards.
    kept: u64,
    left: &'static str,
}

/// Tries all three. `before` is a webhook of the tenant with its own apps that was accepted.
pub(super) async fn try_all(desk: &Desk, world: &World, before: Option<&Webhook>) -> Vec<Refused> {
    let (Some(own), Some(guest)) = (world.seat(OWN, ProviderKind::Slack), world.seat(GUEST, ProviderKind::Slack)) else {
        return Vec::new();
    };
    let forged = stranger().and_then(|secret| Webhook::new(own, &own.account, &secret, "let me in", &desk.clock));
    let foreign = Webhook::new(own, &guest.account, &own.signing, "I am globex", &desk.clock);
    let again = before.cloned().ok_or_else(|| "there is no accepted webhook to repeat".to_owned());
    vec![
        attempt(
            desk,
            "forged signature",
            format!("{OWN}'s address, a stranger's secret"),
            forged,
            Want { status: 401, outcome: "unauthenticated", reason: "authn.signature_mismatch", kept: 0, left: "nothing kept" },
        )
        .await,
        attempt(
            desk,
            "somebody else's name",
            format!("{OWN}'s address and secret, {GUEST}'s workspace in the body"),
            foreign,
            Want {
                status: 200,
                outcome: "refused",
                reason: "authn.tenant_mismatch",
                kept: 1,
                left: "delivered to nobody, kept as a refusal",
            },
        )
        .await,
        attempt(
            desk,
            "the same again",
            format!("{OWN}'s first webhook, byte for byte"),
            again,
            Want { status: 200, outcome: "duplicate", reason: "ingress.duplicate", kept: 0, left: "no second delivery" },
        )
        .await,
    ]
}

fn stranger() -> Result<Secret, String> {
    crate::crypto::random::<16>().map(|bytes| Secret::new(hex::encode(bytes))).map_err(|error| error.to_string())
}

async fn attempt(desk: &Desk, name: &'static str, how: String, webhook: Result<Webhook, String>, want: Want) -> Refused {
    let came_to = format!("{} {} · {}", want.status, want.reason, want.left);
    let wrong = match webhook {
        Ok(webhook) => measure(desk, &webhook, &want).await.err(),
        Err(why) => Some(why),
    };
    Refused { name, how, came_to, wrong }
}

/// A delivery is committed with the answer, so what is not there when the 200 comes never will be.
async fn measure(desk: &Desk, webhook: &Webhook, want: &Want) -> Result<(), String> {
    let before = desk.tally(want.outcome, want.reason).await?;
    let status = desk.post(webhook).await?;
    let after = desk.tally(want.outcome, want.reason).await?;
    let expected = Tally { ended: before.ended + 1, deliveries: before.deliveries, refusals: before.refusals + want.kept };
    if status != want.status {
        return Err(format!("it was answered {status} and not {}", want.status));
    }
    if after != expected {
        return Err(format!("counted {after:?} and not {expected:?}"));
    }
    Ok(())
}
