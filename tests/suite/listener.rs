//! What an agent serves, before clients that mean no good: bounds, other sites, and who may see items.

use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::items::row;
use crate::observe::{agent, get, start};
use crate::process::run;
use crate::world::{PATIENCE, PLAIN, World, eventually};

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// More than are served at once.
const MANY: usize = 300;

/// All that comes on a connection until the agent closes it.
async fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A connection may be reset, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end of the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

async fn send(address: &str, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a request");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_on_which_nothing_comes_are_let_go_and_keep_nobody_out() {
    let world = World::prepared(2, PLAIN).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let mut half_open = Vec::new();
    for i in 0..MANY {
        // Nothing at all, half a head, and a whole request after which nothing comes.
        let said =
            ["", "GET /metrics HTTP/1.1\r\nHost: 127", "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"]
                [i % 3];
        half_open.push(send(&address, said).await);
    }
    let health = timeout(Duration::from_secs(5), get(&address, "/healthz", &[])).await;
    assert_eq!(health.expect("an answer in time"), Some((200, "ok".to_owned())));
    for stream in half_open {
        rest(stream).await;
    }
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_never_waited_for() {
    let world = World::prepared(2, PLAIN).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    for (method, status) in [("GET", "200"), ("POST", "405")] {
        let head =
            format!("{method} /healthz HTTP/1.1\r\nHost: {address}\r\nContent-Length: 1000000\r\n\r\n");
        let stream = send(&address, &format!("{head}some")).await;
        let answer = rest(stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_sites_are_refused_and_nothing_is_taken_for_what_it_is_not() {
    let world = World::prepared(2, PLAIN).await;
    let (process, address) = start(agent(&world, DUBLIN, "127.0.0.1:0", |_| {})).await;
    let code =
        async |path: &str, headers: &[(&str, &str)]| get(&address, path, headers).await.map(|(code, _)| code);
    for path in ["/", "/metrics", "/api/overview", "/api/items", "/healthz"] {
        assert_eq!(code(path, &[("Sec-Fetch-Site", "cross-site")]).await, Some(403), "{path}");
        assert_eq!(code(path, &[("Origin", "http://evil.example")]).await, Some(403), "{path}");
    }
    let own = [("Sec-Fetch-Site", "same-origin"), ("Origin", &*format!("http://{address}"))];
    assert_eq!(code("/metrics", &own).await, Some(200));
    for (path, status) in [("/", "200"), ("/metrics", "200"), ("/healthz", "200"), ("/nowhere", "404")] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let answer = rest(send(&address, &request).await).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        assert!(
            answer.to_lowercase().contains("\r\nx-content-type-options: nosniff\r\n"),
            "{path}: {answer}"
        );
    }
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_are_shown_only_to_who_has_the_token() {
    let mut world = World::bare(2).await;
    world.conflicts = tradewind::config::Conflicts::Table;
    world.make_table(DUBLIN, PLAIN, Some(StreamViewType::NewAndOldImages)).await;
    let (code, _, log) = run(world.tradewind(DUBLIN, &["init", "--create-tables"])).await;
    assert_eq!(code, 0, "{log}");
    // Neither knows of the other's: of these, one loses.
    world.put(DUBLIN, row("secret key", "secret one")).await;
    world.put(TOKYO, row("secret key", "secret two")).await;
    let mut found = Vec::new();
    for token in [None, Some("s3cret")] {
        let mut shown = Vec::new();
        let mut processes = Vec::new();
        for region in world.regions() {
            let token = |command: &mut tokio::process::Command| {
                _ = token.map(|token| command.env("TRADEWIND_TOKEN", token));
            };
            processes.push(start(agent(&world, region, "127.0.0.1:0", token)).await);
        }
        let bearer = [("Authorization", "Bearer s3cret")];
        let headers = if token.is_some() { &bearer[..] } else { &[] };
        let look = || async {
            let mut all = Vec::new();
            for (_, address) in &processes {
                let (_, answer) = get(address, "/api/items", headers).await.expect("an answer");
                all.push(serde_json::from_str::<Value>(&answer).unwrap_or_default());
            }
            all
        };
        let conflict = |all: &Vec<Value>| all.iter().any(|told| told["conflicts"][0].is_object());
        shown.extend(eventually("a conflict", look, conflict).await);
        for (process, _) in processes {
            process.kill().await;
        }
        let told = shown.into_iter().find(|told| told["conflicts"][0].is_object());
        found.push(told.expect("a conflict"));
    }
    let [without, with] = &found[..] else { panic!("{found:#?}") };
    assert!(!without.to_string().contains("secret"), "{without:#}");
    assert_eq!((&without["withheld"], &with["withheld"]), (&true.into(), &false.into()));
    assert!(without["conflicts"][0]["key"].as_str().expect("a hash").starts_with('#'), "{without:#}");
    assert_eq!(with["conflicts"][0]["key"]["pk"]["S"], "secret key", "{with:#}");
    let images = [&with["conflicts"][0]["lost_image"], &with["conflicts"][0]["won_image"]];
    assert!(images.iter().all(|image| image.to_string().contains("secret")), "{with:#}");
}
