//! Whose credentials sign: what regions.toml says, before whatever the environment has; and those that are
//! valid now, not those of the start.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::process::Command;

use crate::engine::{ACCESS_KEY, SECRET_KEY};
use crate::items::{key, row};
use crate::process::{Process, run, tradewind};
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::{Fate, Tamper};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// A service that takes some access keys, and remembers all that it was shown.
#[derive(Clone, Debug, Default)]
struct Gate(Arc<Mutex<Keys>>);

#[derive(Debug, Default)]
struct Keys {
    /// All, where none is named.
    taken: Option<&'static str>,
    seen: BTreeSet<String>,
}

impl Gate {
    async fn before(world: &mut World, to: usize) -> Self {
        let gate = Self::default();
        world.tamper(DUBLIN, to, gate.clone()).await;
        gate
    }

    fn takes(&self, key: &'static str) {
        self.0.lock().unwrap().taken = Some(key);
    }

    /// What it was shown since it was last asked.
    fn seen(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }
}

impl Tamper for Gate {
    fn signed(&self, access_key: &str) -> Fate {
        let mut keys = self.0.lock().unwrap();
        keys.seen.insert(access_key.to_owned());
        match keys.taken {
            Some(taken) if taken != access_key => Fate::Fail("UnrecognizedClientException"),
            _ => Fate::Pass,
        }
    }

    fn sign(&self) -> Option<&str> {
        Some(ACCESS_KEY)
    }
}

/// A command of Dublin's, with these profiles of its two regions, and this file of credentials.
fn with_profiles(world: &World, files: &TempDir, profiles: [&str; 2], arguments: &[&str]) -> Command {
    let mut config = world.config_file(DUBLIN);
    for (place, profile) in [("eu-west-1", profiles[DUBLIN]), ("ap-northeast-1", profiles[TOKYO])] {
        let line = format!("aws_region = \"{place}\"\n");
        config = config.replacen(&line, &format!("{line}profile = \"{profile}\"\n"), 1);
    }
    let path = files.path().join("regions.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = tradewind(arguments);
    command.arg("--config").arg(path).env("AWS_SHARED_CREDENTIALS_FILE", files.path().join("credentials"));
    command
}

fn write(files: &TempDir, credentials: &str) {
    // As a person would have it: at once.
    let (new, file) = (files.path().join("new"), files.path().join("credentials"));
    std::fs::write(&new, credentials).unwrap();
    std::fs::rename(new, file).unwrap();
}

fn profile(name: &str, key: &str) -> String {
    format!("[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n")
}

const RUN: [&str; 5] = ["run", "--region", "dublin", "--listen", "off"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_in_the_file_wins_over_credentials_in_the_environment() {
    let mut world = World::prepared(2, PLAIN).await;
    let (dublin, tokyo) = (Gate::before(&mut world, DUBLIN).await, Gate::before(&mut world, TOKYO).await);
    let files = TempDir::new().unwrap();
    write(&files, &[profile("home", "dublins"), profile("china", "tokyos")].concat());
    world.put(DUBLIN, row("a", "one")).await;
    // The command's environment has a key of its own, too.
    let once = with_profiles(&world, &files, ["home", "china"], &[&RUN[..], &["--once"]].concat());
    let (code, _, log) = run(once).await;
    assert_eq!(code, 0, "{log}");
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    assert_eq!(dublin.seen(), BTreeSet::from(["dublins".to_owned()]));
    assert_eq!(tokyo.seen(), BTreeSet::from(["tokyos".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_is_not_there_is_refused_before_anything_is_sent() {
    let mut world = World::prepared(2, PLAIN).await;
    let (dublin, tokyo) = (Gate::before(&mut world, DUBLIN).await, Gate::before(&mut world, TOKYO).await);
    let files = TempDir::new().unwrap();
    write(&files, &profile("home", "dublins"));
    for arguments in [&RUN[..], &["init"], &["verify"], &["status"], &["doctor"]] {
        let (code, _, log) = run(with_profiles(&world, &files, ["home", "nope"], arguments)).await;
        assert_eq!(code, 77, "{log}");
        assert!(log.contains("region tokyo: no profile \"nope\""), "{log}");
        assert!(log.contains("there are: home"), "{log}");
    }
    assert_eq!((dublin.seen(), tokyo.seen()), (BTreeSet::new(), BTreeSet::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_are_refused_are_read_again() {
    let mut world = World::prepared(2, PLAIN).await;
    let gates = [Gate::before(&mut world, DUBLIN).await, Gate::before(&mut world, TOKYO).await];
    for gate in &gates {
        gate.takes("first");
    }
    let files = TempDir::new().unwrap();
    write(&files, &profile("home", "first"));
    let mut agent = Process::start(with_profiles(&world, &files, ["home", "home"], &RUN));
    agent.says("replicating").await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    // The service takes the old key no more, and only then does the file have the new one.
    for gate in &gates {
        gate.takes("second");
    }
    world.put(DUBLIN, row("b", "one")).await;
    let refused = || async { gates[DUBLIN].seen() };
    eventually("a refused call", refused, |seen| seen.contains("first")).await;
    write(&files, &profile("home", "second"));
    world.await_item(TOKYO, &key("b"), &row("b", "one")).await;
    agent.says("the profile \"home\" returned new credentials").await;
    for gate in &gates {
        gate.seen();
    }
    world.put(DUBLIN, row("c", "one")).await;
    world.await_item(TOKYO, &key("c"), &row("c", "one")).await;
    agent.signal("TERM").await;
    assert_eq!(agent.end().await.0, 0);
}

/// A profile whose credentials a command gives.
fn by_command(name: &str, command: &str) -> String {
    format!("[{name}]\ncredential_process = {command}\n")
}

/// What such a command prints.
fn printed(path: &Path, key: &str, expires: &str) {
    let text = format!(
        "{{\"Version\": 1, \"AccessKeyId\": \"{key}\", \"SecretAccessKey\": \"{SECRET_KEY}\", \"Expiration\": \
         \"{expires}\"}}"
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_had_anew_before_they_expire_and_a_source_that_fails_then_is_told() {
    let mut world = World::prepared(2, PLAIN).await;
    let gates = [Gate::before(&mut world, DUBLIN).await, Gate::before(&mut world, TOKYO).await];
    let files = TempDir::new().unwrap();
    let given = files.path().join("given");
    // By this machine's clock they have expired, which may be wrong: the service takes them.
    printed(&given, "first", "2020-01-01T00:00:00Z");
    write(&files, &by_command("home", &format!("cat {}", given.display())));
    let mut agent = Process::start(with_profiles(&world, &files, ["home", "home"], &RUN));
    agent.says("replicating").await;
    // A source that fails takes nothing away.
    std::fs::remove_file(&given).unwrap();
    let told = agent.says("can't renew the credentials").await;
    assert!(told.contains("no credentials from the profile \"home\""), "{told}");
    // Nothing was refused, and no other key is asked for.
    printed(&given, "second", "2099-01-01T00:00:00Z");
    agent.says("the profile \"home\" returned new credentials").await;
    let second = || async { gates.iter().map(Gate::seen).collect::<Vec<_>>() };
    let all = BTreeSet::from(["second".to_owned()]);
    eventually("the new key alone", second, |seen| seen.iter().all(|seen| *seen == all)).await;
    world.put(DUBLIN, row("a", "one")).await;
    world.await_item(TOKYO, &key("a"), &row("a", "one")).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_of_credentials_that_fails_or_hangs_is_told_by_its_name() {
    let world = World::prepared(2, PLAIN).await;
    let files = TempDir::new().unwrap();
    for (command, says) in [
        ("false", "no credentials from the profile \"home\""),
        ("sleep 20", "the profile \"home\" has not answered for 8 s"),
    ] {
        write(&files, &by_command("home", command));
        let (code, _, log) = run(with_profiles(&world, &files, ["home", "home"], &["status"])).await;
        assert_eq!(code, 77, "{log}");
        assert!(log.contains(says) && log.contains("Check the credentials"), "{log}");
        assert!(!log.contains("endpoint"), "{log}");
    }
    // Without a profile, it is told who was asked in vain.
    let mut command = world.tradewind(DUBLIN, &["status"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    let (code, _, log) = run(command).await;
    assert_eq!(code, 77, "{log}");
    assert!(log.contains("the environment, the AWS profile, the web identity"), "{log}");
}
