//! Doors: the two listeners, their routers and their limits. Nothing else names axum. Floor 8.

mod admission;
mod api;
mod budget;
mod extract;
pub mod framing;
pub mod gate;
mod import;
pub mod listener;
mod matrix;
mod media;
mod messages;
mod pace;
mod replies;
mod respond;
mod rollout;
mod sdk;
mod simulate;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::{any, get, post};

use crate::admin::Admin;
use crate::authn::operator::Operators;
use crate::config::Config;
use crate::domain::clock::Clock;
use crate::egress::Egress;
use crate::ingress::Ingress;
use crate::policy::Engine;
use crate::quota::failures::FailureBudgets;
use crate::store::Store;
use crate::telemetry::metrics::Metrics;
use crate::vault::Vault;
pub use extract::{Bodies, shared};

/// Everything the doors open on.
pub struct Rooms {
    /// Webhooks.
    pub ingress: Ingress,
    /// Agents' messages.
    pub egress: Egress,
    /// Operators.
    pub admin: Admin,
    /// Who they are.
    pub operators: Operators,
    /// For agents' tokens and health.
    pub store: Store,
    /// For agents' tokens.
    pub vault: Vault,
    /// For health.
    pub engine: Engine,
    /// How the policies on disk stand against those in force.
    pub standing: crate::policy::reload::Status,
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// Time of requests.
    pub clock: Clock,
    /// Limits and aliases.
    pub config: Config,
    /// How many requests may fail to prove themselves.
    pub failures: Arc<FailureBudgets>,
    /// How many bytes of bodies are held at once.
    pub bodies: Bodies,
    /// Set while draining: not ready any more.
    pub draining: tokio::sync::watch::Receiver<bool>,
}

/// The public listener: webhooks, agents.
pub fn public(rooms: &Arc<Rooms>) -> Router {
    let mut router = Router::new()
        .route("/webhooks/{provider}/{ingress_id}", any(webhooks::receive))
        .route("/v1/messages", post(messages::send))
        .route("/v1/media/{ticket}", get(media::fetch))
        .route("/sdk/slack/respond/{ticket}", post(replies::reply))
        .route("/sdk/{provider}/{*call}", any(sdk::call))
        .fallback(respond::not_found);
    for (path, profile) in &rooms.config.ingress.aliases {
        let profile = profile.clone();
        router = router.route(path, any(move |rooms, request| webhooks::receive_alias(profile.clone(), rooms, request)));
    }
    router.with_state(rooms.clone())
}

/// The operator listener: API, metrics, health.
pub fn operator(rooms: &Arc<Rooms>) -> Router {
    Router::new()
        .route("/healthz", get(api::healthz))
        .route("/readyz", get(api::readyz))
        .route("/metrics", get(api::metrics))
        .route("/v1/policies", get(api::policies))
        .route("/v1/policies/shadow", get(api::shadow))
        .route("/v1/reasons", get(api::reasons))
        .route("/v1/apply", post(api::apply))
        .route("/v1/import", post(import::import))
        .route("/v1/backfill", post(import::backfill))
        .route("/v1/simulate", post(simulate::simulate))
        .route("/v1/doctor", get(api::doctor))
        .route("/v1/deliveries/{id}/replay", post(api::replay))
        .route("/v1/rollout", get(rollout::all))
        .route("/v1/rollout/global", post(rollout::global))
        .route("/v1/rollout/{provider}", get(rollout::one).post(rollout::set))
        .route("/v1/rollout/{provider}/promote", post(rollout::promote))
        .route("/v1/rollout/{provider}/rollback", post(rollout::rollback))
        .route("/v1/matrix", get(matrix::list).post(matrix::start))
        .route("/v1/matrix/{id}", get(matrix::one))
        .route("/v1/sessions/{id}/close", post(api::close_session))
        .route("/v1/sessions/{id}/handoff", post(api::hand_off_session))
        .route("/v1/secrets/{profile}/rotate", post(api::rotate_secret))
        .route("/v1/secrets/{profile}/revoke", post(api::revoke_secret))
        .route("/v1/orgs/{id}/shred", post(api::shred))
        .route("/v1/purge", post(api::purge))
        .route("/v1/sweep", post(api::sweep))
        .route("/v1/keys", get(api::keys))
        .route("/v1/keys/rotate", post(api::rotate_keys))
        .route("/v1/keys/prune", post(api::prune_keys))
        .route("/v1/{kind}", get(api::list))
        .route("/v1/{kind}/{id}", get(api::get).put(api::put).delete(api::delete))
        .fallback(respond::not_found)
        .method_not_allowed_fallback(respond::method_not_allowed)
        .layer(middleware::from_fn_with_state(rooms.clone(), budget::operators))
        .layer(middleware::from_fn_with_state(rooms.clone(), admission::operators))
        .with_state(rooms.clone())
}
