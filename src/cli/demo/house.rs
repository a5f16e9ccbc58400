//! The throw-away folder: the law this build ships with, and a configuration that lives in it.
//!
//! Never touches anything
//! outside its own folder, never reads the configuration or the secrets of the place it was started in. Floor 11.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::config::{ApiBase, Config, LogFormat, LogSection};
use crate::crypto::random;
use crate::domain::installation::ProviderKind;
use crate::domain::rollout::RolloutStage;
use crate::policy::SCHEMA;
use crate::policy::shipped::SHIPPED;
use crate::vault::keys::write_private;

/// Refusals are the demo's own doing and stand in the picture; it speaks no TLS, so nobody misses CA certificates.
const LOG_LEVEL: &str = "warn,byoa_gateway::ingress=error,byoa_gateway::transport=error";

/// Ports are the system's to choose: the demo must start beside whatever runs already.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// The folder. Dropping it removes it.
pub(super) struct House(TempDir);

impl House {
    /// Makes the folder and writes the law into it.
    pub(super) fn build() -> io::Result<Self> {
        let house = Self(tempfile::Builder::new().prefix("byoa-demo-").tempdir()?);
        for folder in ["platform", "tables"] {
            std::fs::create_dir_all(house.policies().join(folder))?;
        }
        for (name, text) in SHIPPED {
            std::fs::write(house.policies().join(name), text)?;
        }
        std::fs::write(house.schema(), SCHEMA)?;
        // Whoever watches may try everything, so the line of this throw-away token says that a second factor stands behind it.
        let token = random::<32>().map_err(io::Error::other)?;
        write_private(&house.token_file(), &format!("opr_{} security demo mfa\n", hex::encode(token)))?;
        Ok(house)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The operator's token.
    pub(super) fn token_file(&self) -> PathBuf {
        self.path().join("operator.token")
    }

    fn policies(&self) -> PathBuf {
        self.path().join("policies")
    }

    fn schema(&self) -> PathBuf {
        self.path().join("gateway.cedarschema")
    }

    /// Settings that keep everything in this folder and on loopback, with every provider at `side` and let in.
    pub(super) fn config(&self, side: SocketAddr) -> Config {
        let mut config = Config::default();
        (config.listen.public, config.listen.operator) = (ANY_PORT, ANY_PORT);
        config.store.url = format!("sqlite:{}", self.path().join("data/byoa.db").display());
        (config.policies.dir, config.policies.schema) = (self.policies(), self.schema());
        config.policies.history = self.path().join("accepted");
        config.keys.file = self.path().join("master.keys");
        config.operators.token_file = self.token_file();
        let base = |path: &str| ApiBase::at(format!("http://{side}{path}"));
        config.providers.slack = base("/api/");
        config.providers.telegram = base("");
        config.providers.whatsapp = base("/v23.0/");
        config.rollout.initial = ProviderKind::ALL.into_iter().map(|provider| (provider, RolloutStage::On)).collect();
        config.egress.allow_private_agents = true;
        config.log = log();
        config
    }

    /// Removes the folder.
    pub(super) fn clear(self) -> io::Result<()> {
        self.0.close()
    }
}

/// How the demo logs: little, and for a person.
pub(super) fn log() -> LogSection {
    LogSection { format: LogFormat::Human, level: LOG_LEVEL.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_gone_afterwards() {
        let house = House::build().unwrap();
        let path = house.path().to_owned();
        assert!(path.join("policies/platform/10-routing.cedar").is_file());
        house.clear().unwrap();
        assert!(!path.exists());
    }
}
