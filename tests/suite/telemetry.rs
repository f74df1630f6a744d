//! What goes to a collector by OTLP, and what a log shows of keys.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use tokio::net::TcpListener;

use crate::items::{key, row};
use crate::process::Process;
use crate::world::{PLAIN, World, eventually};
use tradewind_proxy::Fate;

const DUBLIN: usize = 0;
const TOKYO: usize = 1;

/// What a collector was sent: paths, and what was said there.
type Sent = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

/// A collector that takes everything; its address.
async fn collector() -> (String, Sent) {
    async fn take(State(sent): State<Sent>, uri: Uri, body: Bytes) {
        sent.lock().unwrap().push((uri.path().to_owned(), body.to_vec()));
    }
    let sent = Sent::default();
    let router = Router::new().fallback(take).with_state(Arc::clone(&sent));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, sent)
}

/// Which of `words` have been sent to a path.
fn found<'a>(sent: &Sent, path: &str, words: &[&'a str]) -> Vec<&'a str> {
    let sent = sent.lock().unwrap();
    let bodies: Vec<&[u8]> =
        sent.iter().filter(|(to, _)| to == path).map(|(_, body)| body.as_slice()).collect();
    let has =
        |word: &str| bodies.iter().any(|body| body.windows(word.len()).any(|part| part == word.as_bytes()));
    words.iter().filter(|word| has(word)).copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_the_ways_of_records_are_pushed_to_a_collector() {
    let world = World::prepared(2, PLAIN).await;
    let (address, sent) = collector().await;
    let mut command = world.tradewind(DUBLIN, &["run", "--region", "dublin", "--listen", "off"]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", address).env("OTEL_METRIC_EXPORT_INTERVAL", "300");
    command.env("OTEL_TRACES_SAMPLER", "always_on").env("OTEL_BSP_SCHEDULE_DELAY", "200");
    let process = Process::start(command);
    world.put(DUBLIN, row("a-secret-key", "1")).await;
    world.await_item(TOKYO, &key("a-secret-key"), &row("a-secret-key", "1")).await;
    let metrics = ["tradewind.apply.lag", "tradewind.watermark.age", "tradewind.local_puts", &world.table];
    let all = |found: &Vec<&str>| found.len() == 4;
    eventually("the metrics", || async { found(&sent, "/v1/metrics", &metrics) }, all).await;
    let spans = ["record", "read", "classify", "apply", "tradewind.verdict", "LocalPut", "tokyo", "Applied"];
    let all = |found: &Vec<&str>| found.len() == 8;
    eventually("the spans", || async { found(&sent, "/v1/traces", &spans) }, all).await;
    assert!(found(&sent, "/v1/traces", &["a-secret-key"]).is_empty(), "a key is hashed");
    process.signal("TERM").await;
    assert_eq!(process.end().await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_hashed_in_logs_unless_they_are_allowed() {
    for allowed in [false, true] {
        let mut world = World::prepared(2, PLAIN).await;
        let tries = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&tries);
        let refuse = move |operation: &str, body: &str| {
            let write = operation == "PutItem" && body.contains("a-secret-key");
            match write.then(|| counted.fetch_add(1, Ordering::Relaxed)) {
                Some(0) => Fate::Fail("InternalServerError"),
                Some(_) => Fate::Fail("ValidationException"),
                None => Fate::Pass,
            }
        };
        world.tamper(DUBLIN, TOKYO, refuse).await;
        let arguments = ["run", "--region", "dublin", "--listen", "off", "--json", "--log-keys"];
        let arguments = if allowed { &arguments[..] } else { &arguments[..6] };
        let mut process = Process::start(world.tradewind(DUBLIN, arguments));
        world.put(DUBLIN, row("a-secret-key", "1")).await;
        for told in ["write failed", "dead letters"] {
            if told == "dead letters" {
                // What is taken after a refusal shows that the item is the cause.
                let tries = || async { tries.load(Ordering::Relaxed) };
                eventually("a refusal", tries, |tries| *tries > 2).await;
                world.put(DUBLIN, row("another", "1")).await;
            }
            let line = process.says(told).await;
            let line: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
            let shown = line["key"].as_str().expect("a key");
            assert_eq!(shown.contains("a-secret-key"), allowed, "{line}");
            assert_eq!(shown.starts_with('#') && shown.len() == 13, !allowed, "{line}");
            assert_eq!(
                (&line["region"], &line["peer"], &line["table"]),
                (&"dublin".into(), &"tokyo".into(), &world.table.as_str().into())
            );
        }
        process.kill().await;
    }
}
