//! `byoa serve --demo`: the real gateway on real sockets, with a made-up outside world around it.
//!
//! Owns the order of the show: folder, provider side, agents, gateway, journeys, refusals. Never reads the configuration, the
//! environment's secrets or the data of where it was started, and leaves nothing behind. Floor 11.

mod desk;
mod echo;
mod heard;
mod house;
mod journey;
mod picture;
mod provider;
mod record;
mod refusals;
mod world;

use std::io::Write;
use std::sync::Arc;

use serde_json::Value as Json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{CliError, serve};
use crate::app::{EnvSecrets, Gateway, Outfit};
use crate::authn::operator::Operators;
use crate::delivery::DeliveryObserver;
use crate::domain::clock::Clock;
use crate::domain::delivery::Claimed;
use crate::domain::installation::ProviderKind;
use crate::domain::reason::Failure;
use crate::matrix;
use crate::matrix::loopback::{self, Loopback};
use crate::transport::Transport;
use desk::Desk;
use echo::Echo;
use heard::Heard;
use house::House;
use provider::ProviderSide;
use world::World;

/// What stands at a place of a JSON text; null where nothing does.
fn at<'j>(value: &'j Json, pointer: &str) -> &'j Json {
    value.pointer(pointer).unwrap_or(&Json::Null)
}

/// Passes on what the courier says.
struct Ear(UnboundedSender<Heard>);

impl DeliveryObserver for Ear {
    fn settled(&self, claimed: &Claimed, outcome: &'static str, _: i64) {
        let _ = self.0.send(Heard::Settled { event: claimed.event.to_string(), outcome });
    }
}

/// What ends it from outside.
struct Stop {
    term: Signal,
    int: Signal,
}

impl Stop {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|e| CliError::Unable(format!("signals: {e}")));
        Ok(Self { term: listen(SignalKind::terminate())?, int: listen(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// The gateway and everything around it.
struct Stage {
    house: House,
    world: Arc<World>,
    gateway: Gateway,
    desk: Desk,
    heard: UnboundedReceiver<Heard>,
    // They answer for as long as they are kept.
    _outside: [Loopback; 2],
}

impl Stage {
    async fn set() -> Result<Self, CliError> {
        let unable = |what: &str, why: String| CliError::Unable(format!("{what}: {why}"));
        let failed = |failure: Failure| CliError::Found(format!("{}: {}", failure.code, failure.detail));
        let house = House::build().map_err(|e| unable("no folder for the demo", e.to_string()))?;
        let world = Arc::new(World::new().map_err(|e| unable("no randomness", e.to_string()))?);
        let (clock, transport) = (Clock::system(), Transport::providers().map_err(failed)?);
        let (tell, heard) = unbounded_channel();

        let loopback = |e: std::io::Error| unable("no socket on loopback", e.to_string());
        let side = Arc::new(ProviderSide::new(world.clone(), tell.clone()));
        let side = loopback::serve(move |asked| {
            let side = side.clone();
            async move { side.answer(&asked) }
        });
        let side = side.await.map_err(loopback)?;
        let echo = Arc::new(Echo::new(world.clone(), tell.clone(), transport.clone(), clock.clone()));
        let agents = echo.clone();
        let agents = loopback::serve(move |asked| agents.clone().take(asked)).await.map_err(loopback)?;

        let (config, ear) = (house.config(side.address), Arc::new(Ear(tell)));
        let outfit = Outfit { watcher: Some(ear), player: Some(matrix::player()), ..Outfit::default() };
        let gateway = Gateway::start_with(config, EnvSecrets::default(), clock.clone(), outfit).await.map_err(failed)?;
        let (public, operator) = (format!("http://{}", gateway.public), format!("http://{}", gateway.operator));
        echo.answer_at(public.clone());
        let token = Operators::first_token(&house.token_file()).map_err(failed)?;
        let desk = Desk::new(public, operator, token, transport, clock);
        desk.apply(&world.document(agents.address)).await.map_err(CliError::Found)?;
        Ok(Self { house, world, gateway, desk, heard, _outside: [side, agents] })
    }

    /// Every journey and every refusal; how many of them did not end as they should.
    async fn show(&mut self, out: &mut (dyn Write + Send)) -> Result<usize, CliError> {
        let policies = self.desk.get("/v1/policies").await.map_err(CliError::Found)?;
        let version = at(&policies, "/active/version").as_str().unwrap_or_default();
        picture::say(out, &picture::opening(&self.world, version));
        let mut journeys = Vec::new();
        for seat in &self.world.seats {
            let journey = journey::travel(&self.desk, &mut self.heard, seat).await;
            picture::say(out, &picture::journey(seat, &journey));
            journeys.push(journey);
        }
        let first = journeys.first().filter(|journey| journey.wrong.is_none()).and_then(|journey| journey.webhook.as_ref());
        let refused = refusals::try_all(&self.desk, &self.world, first).await;
        picture::say(out, &picture::refusals(&refused));
        picture::say(out, &picture::summary(&self.world, &journeys, &refused));
        let wrong = journeys.iter().filter(|j| j.wrong.is_some()).count() + refused.iter().filter(|r| r.wrong.is_some()).count();
        Ok(wrong)
    }

    /// Says where everything is, then what reaches the providers.
    async fn keep_running(&mut self, out: &mut (dyn Write + Send)) {
        let program = std::env::args().next().filter(|program| program.contains('/')).unwrap_or_else(|| "byoa".into());
        let text = picture::closing(&picture::Next {
            program: &program,
            public: &self.desk.public,
            operator: &self.desk.operator,
            token_file: &self.house.token_file().display().to_string(),
            folder: &self.house.path().display().to_string(),
            console: self.desk.is_page("/").await,
            seat: self.world.seat(world::OWN, ProviderKind::Slack),
        });
        picture::say(out, &text);
        while let Some(heard) = self.heard.recv().await {
            if let Heard::Provider(sent) = heard {
                picture::say(out, &picture::seen(&sent));
            }
        }
    }

    /// Drains the gateway and removes the folder.
    async fn strike(self) -> Result<(), CliError> {
        let Self { house, gateway, .. } = self;
        let drained = gateway.drain().await;
        let folder = house.path().display().to_string();
        house.clear().map_err(|e| CliError::Found(format!("{folder} could not be removed: {e}")))?;
        if drained { Ok(()) } else { Err(CliError::Found("stopped before everything was finished".into())) }
    }
}

pub(super) async fn run(once: bool) -> Result<(), CliError> {
    serve::start_log(&house::log());
    serve::harden();
    let mut stop = Stop::listen()?;
    let mut stage = Stage::set().await?;
    println!("listening public={} operator={}", stage.gateway.public, stage.gateway.operator);
    let mut out = anstream::stdout();
    let shown = tokio::select! {
        shown = stage.show(&mut out) => Some(shown),
        () = stop.told() => None,
    };
    match &shown {
        Some(Ok(_)) if !once => tokio::select! {
            () = stage.keep_running(&mut out) => {}
            () = stop.told() => {}
        },
        Some(Ok(_)) => {
            let console = stage.desk.is_page("/").await;
            picture::say(&mut out, &picture::addresses(&stage.desk.public, &stage.desk.operator, console));
        }
        _ => {}
    }
    stage.strike().await?;
    match shown {
        Some(Err(error)) => Err(error),
        Some(Ok(wrong)) if once && wrong > 0 => Err(CliError::Found(format!("{wrong} did not end as they should"))),
        None if once => Err(CliError::Found("stopped before every journey had ended".into())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn every_journey_ends_well_and_no_secret_is_shown() {
        let mut stage = Stage::set().await.unwrap();
        let mut out = Vec::new();
        let wrong = stage.show(&mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(wrong, 0, "{text}");
        let operator = Operators::first_token(&stage.house.token_file()).unwrap();
        for secret in stage.world.secrets().into_iter().chain([operator.expose()]) {
            assert!(!text.contains(secret), "a secret is shown");
        }
        stage.strike().await.unwrap();
    }
}
