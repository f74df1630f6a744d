//! A world's configuration without one of its regions.

use tokio::process::Command;
use tradewind::config::Config;

use crate::process::{Process, tradewind};
use crate::world::World;

/// The file of a region's agent without some region.
pub(crate) struct Without(tempfile::NamedTempFile);

impl Without {
    pub(crate) fn oregon(world: &World, region: usize) -> Self {
        Self::region(world, "oregon", region)
    }

    pub(crate) fn region(world: &World, without: &str, region: usize) -> Self {
        let file = world.config_file(region);
        let (regions, table) = file.split_once("[[table]]").expect("the table");
        let begins = format!("\nname = \"{without}\"");
        let regions: Vec<_> =
            regions.split("[[region]]").filter(|region| !region.starts_with(&begins)).collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = format!("{}[[table]]{table}", regions.join("[[region]]"));
        std::fs::write(file.path(), text.replace(&format!(", \"{without}\""), "")).expect("a file");
        Self(file)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tradewind(arguments);
        command.arg("--config").arg(self.0.path());
        command
    }

    pub(crate) fn start_process(&self, region: &str) -> Process {
        Process::start(self.command(&["run", "--region", region]))
    }

    pub(crate) fn config(&self, world: &World) -> Config {
        let mut config = Config::load(self.0.path()).expect("a configuration");
        config.regions.iter_mut().for_each(|region| region.credentials = world.engine.credentials());
        config
    }
}
