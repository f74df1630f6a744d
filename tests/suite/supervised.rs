//! What supervisors ask and are told: `tradewind health`, and systemd's notifications.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, UnixDatagram};
use tokio::time::{Instant, timeout};

use crate::observe::{agent, start};
use crate::process::{Process, run, run_json, tradewind};
use crate::world::{PATIENCE, PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_whether_the_agent_is_alive_and_whether_it_is_ready() {
    let world = World::prepared(2, PLAIN).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let ready = || run(tradewind(&["health", "--ready", "--listen", &address]));
    let told = eventually("a ready agent", ready, |told| told.0 == 0).await;
    assert_eq!(told.1, "ok\n");
    let (code, told) = run_json(tradewind(&["health", "--listen", &address])).await;
    assert_eq!((code, &told["well"], &told["says"]), (0, &true.into(), &"ok".into()));
    // Where an agent listens on all addresses, it is asked on this machine's own.
    let everywhere = address.replace("127.0.0.1", "0.0.0.0");
    assert_eq!(run(tradewind(&["health", "--listen", &everywhere])).await.0, 0);

    // Its own control table is away: it can't be ready, but it is alive.
    world.link(DUBLIN, DUBLIN).cut();
    let told = eventually("an agent that is not ready", ready, |told| told.0 == 1).await;
    assert_eq!(told.1, "silence\n");
    assert_eq!(run(tradewind(&["health", "--listen", &address])).await.0, 0);
    process.kill().await;

    let (code, _, message) = run(tradewind(&["health", "--listen", &address])).await;
    assert_eq!(code, 69, "{message}");
    assert!(message.contains(&address), "{message}");
    let (code, _, message) = run(tradewind(&["health", "--listen", "off"])).await;
    assert_eq!(code, 64, "{message}");
    // Someone else's port.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    let (code, _, message) = run(tradewind(&["health", "--listen", &address, "--timeout", "200ms"])).await;
    assert_eq!(code, 69, "{message}");
    assert!(message.contains("timed out"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_its_own_stream_makes_an_agent_unready_but_a_restart_would_mend_nothing() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.liveness_timeout = Duration::from_secs(2);
    // What becomes of a call for records.
    let answers = Arc::new(Mutex::new(Fate::Pass));
    let tamper = {
        let answers = Arc::clone(&answers);
        move |operation: &str, _: &str| {
            if operation == "GetRecords" { *answers.lock().unwrap() } else { Fate::Pass }
        }
    };
    world.tamper(DUBLIN, DUBLIN, tamper).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let ready = || run(tradewind(&["health", "--ready", "--listen", &address]));
    let alive = || run(tradewind(&["health", "--listen", &address]));
    eventually("a ready agent", ready, |told| told.0 == 0).await;

    *answers.lock().unwrap() = Fate::Fail("InternalServerError");
    let told = eventually("an agent that is not ready", ready, |told| told.0 == 1).await;
    assert_eq!(told.1, "unread\n");
    assert_eq!(alive().await.0, 0);
    *answers.lock().unwrap() = Fate::Pass;
    eventually("a ready agent", ready, |told| told.0 == 0).await;

    // What an agent does not get over by itself, though its region answers, is another matter.
    *answers.lock().unwrap() = Fate::Fail("ExpiredIteratorException");
    let told = eventually("an agent that is not well", alive, |told| told.0 == 1).await;
    assert_eq!(told.1, "halted\n");
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_is_told_when_the_agent_is_ready_well_and_stopping() {
    let mut world = World::prepared(2, PLAIN).await;
    world.tuning.liveness_timeout = Duration::from_secs(2);
    let stuck = Arc::new(AtomicBool::new(false));
    let tamper = {
        let stuck = Arc::clone(&stuck);
        move |operation: &str, _: &str| {
            let hold = operation == "GetRecords" && stuck.load(Ordering::Relaxed);
            if hold { Fate::Fail("ExpiredIteratorException") } else { Fate::Pass }
        }
    };
    world.tamper(DUBLIN, DUBLIN, tamper).await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let hear = async |most: Duration| {
        let mut told = [0; 256];
        let length = timeout(most, manager.recv(&mut told)).await.ok()?.expect("a message");
        Some(String::from_utf8_lossy(&told[..length]).trim().to_owned())
    };
    let process = Process::start(agent(&world, DUBLIN, "off", |command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    }));
    assert_eq!(hear(PATIENCE).await.as_deref(), Some("READY=1"));
    for _ in 0..5 {
        assert_eq!(hear(PATIENCE).await.as_deref(), Some("WATCHDOG=1"));
    }
    // An agent that gets nowhere, though its region answers, feeds the watchdog no more.
    stuck.store(true, Ordering::Relaxed);
    let quiet = || async { hear(Duration::from_secs(2)).await.is_none() };
    eventually("a watchdog that is not fed", quiet, |quiet| *quiet).await;
    stuck.store(false, Ordering::Relaxed);
    assert_eq!(hear(PATIENCE).await.as_deref(), Some("WATCHDOG=1"));
    process.signal("TERM").await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match hear(PATIENCE).await.as_deref() {
            Some("WATCHDOG=1") if Instant::now() < deadline => {}
            told => {
                assert_eq!(told, Some("STOPPING=1"));
                break;
            }
        }
    }
    assert_eq!(process.end().await.0, 0);
}
