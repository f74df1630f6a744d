//! A world's configuration without its third region.

use tokio::process::Command;
use tradewind::config::Config;

use crate::process::tradewind;
use crate::world::World;

/// The file of a region's agent without Oregon.
pub(crate) struct Without(tempfile::NamedTempFile);

impl Without {
    pub(crate) fn oregon(world: &World, region: usize) -> Self {
        let file = world.config_file(region);
        let (head, tail) = file.split_once("[[region]]\nname = \"oregon\"").expect("oregon");
        let (_, tail) = tail.split_once("[[table]]").expect("the table");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), format!("{head}[[table]]{tail}").replace(", \"oregon\"", ""))
            .expect("a file");
        Self(file)
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tradewind(arguments);
        command.arg("--config").arg(self.0.path());
        command
    }

    pub(crate) fn config(&self, world: &World) -> Config {
        let mut config = Config::load(self.0.path()).expect("a configuration");
        config.regions.iter_mut().for_each(|region| region.credentials = world.engine.credentials());
        config
    }
}
