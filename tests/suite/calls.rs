//! Which calls are made over the links: who calls what, where, on which kind of table.
//!
//! Where `TRADEWIND_TEST_CALLS` names a file, each kind of call is added to it once a test, as a line of
//! JSON. `deploy/permissions` compares them with what the documents allow.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tradewind_proxy::{Proxy, Witness};
use url::Url;

/// An iterator's text may be cut in two by the network; none is longer.
const LONGEST: usize = 4096;

/// What all links of this test have seen.
static SEEN: Mutex<Seen> = Mutex::new(Seen { calls: BTreeSet::new(), iterators: BTreeMap::new() });

#[derive(Debug)]
struct Seen {
    calls: BTreeSet<String>,
    /// Which kind of stream an iterator is of: GetRecords names no other.
    iterators: BTreeMap<String, &'static str>,
}

/// One link of an agent, or of a command, to a region.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// A link whose calls are recorded where asked.
pub(crate) async fn watched(target: &Url, link: Link) -> Proxy {
    let witness = move || Tap::on(&link).map(|tap| Box::new(tap) as Box<dyn Witness>);
    Proxy::watched(target, witness).await.expect("a loopback port")
}

/// What one connection carries.
#[derive(Debug)]
struct Tap {
    link: Link,
    asked: Vec<u8>,
    answered: Vec<u8>,
    /// The kind of stream that the last request was about, if its answer may hold iterators.
    stream: Option<&'static str>,
}

impl Tap {
    /// None where nothing is to be recorded.
    fn on(link: &Link) -> Option<Self> {
        std::env::var_os("TRADEWIND_TEST_CALLS")?;
        Some(Self { link: link.clone(), asked: Vec::new(), answered: Vec::new(), stream: None })
    }

    fn request(&mut self, operation: &str, caller: &str, body: &Value) {
        let text = |name: &str| body[name].as_str();
        let of_stream = |arn: &str| match kind(arn.split('/').nth(1).unwrap_or_default()) {
            "control table" => "control table's stream",
            "conflict table" => "conflict table's stream",
            _ => "table's stream",
        };
        // A batch names its table as a key.
        let batch = body["RequestItems"].as_object().and_then(|tables| tables.keys().next());
        let on =
            match (text("TableName").or(batch.map(String::as_str)), text("StreamArn"), text("ShardIterator"))
            {
                (Some(name), ..) => kind(name.rsplit('/').next().unwrap_or(name)),
                (_, Some(arn), _) => of_stream(arn),
                (.., Some(iterator)) => match seen().iterators.get(iterator) {
                    Some(stream) => stream,
                    // Its answer was not seen: the next one's is.
                    None => return,
                },
                _ => "region",
            };
        self.answered.clear();
        self.stream = matches!(operation, "GetShardIterator" | "GetRecords").then_some(on);
        let Link { from, to } = &self.link;
        let call = json!({ "caller": caller, "from": from, "to": to, "on": on, "operation": operation });
        let call = call.to_string();
        if seen().calls.insert(call.clone()) {
            let path = std::env::var_os("TRADEWIND_TEST_CALLS").expect("it was there before");
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            // One write: other tests append, too.
            file.expect("a file").write_all(format!("{call}\n").as_bytes()).expect("a line");
        }
    }
}

impl Witness for Tap {
    fn asked(&mut self, bytes: &[u8]) {
        self.asked.extend_from_slice(bytes);
        while let Some(end) = self.asked.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&self.asked[..end]).into_owned();
            let header = |name: &str| {
                let of = |line: &str| {
                    let (found, value) = line.split_once(':')?;
                    found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                };
                head.lines().find_map(of).unwrap_or_default()
            };
            let length: usize = header("content-length").parse().unwrap_or_default();
            let Some(body) = self.asked.get(end + 4..end + 4 + length) else { return };
            let body = serde_json::from_slice(body).unwrap_or_default();
            let operation = header("x-amz-target").rsplit('.').next().unwrap_or_default().to_owned();
            self.request(&operation, &caller(&header("user-agent")), &body);
            self.asked.drain(..end + 4 + length);
        }
    }

    fn answered(&mut self, bytes: &[u8]) {
        let Some(stream) = self.stream else { return };
        self.answered.extend_from_slice(bytes);
        let text = String::from_utf8_lossy(&self.answered);
        for (at, found) in text.match_indices("ShardIterator\":\"") {
            if let Some((iterator, _)) = text[at + found.len()..].split_once('"') {
                seen().iterators.insert(iterator.to_owned(), stream);
            }
        }
        let done = self.answered.len().saturating_sub(LONGEST);
        self.answered.drain(..done);
    }
}

fn seen() -> MutexGuard<'static, Seen> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A table's kind, by its name in the suite.
fn kind(name: &str) -> &'static str {
    match name.split('-').next() {
        Some("control") => "control table",
        Some("conflicts") => "conflict table",
        _ => "table",
    }
}

/// What `process::tradewind` calls itself, or an agent in this process.
fn caller(user_agent: &str) -> String {
    let named = user_agent.split(' ').find_map(|part| part.strip_prefix("app/"));
    named.unwrap_or("run").to_owned()
}

/// The environment variable by which a process calls itself something in its requests.
pub(crate) const CALLER: &str = "AWS_SDK_UA_APP_ID";

/// What a command is to call itself in its requests: its name, and the region that it names.
pub(crate) fn name_of(arguments: &[&str]) -> String {
    let mut name: Vec<_> = arguments.iter().take(1).copied().collect();
    if matches!(arguments, ["conflicts" | "dead-letters" | "feed", ..]) {
        name.extend(arguments.get(1));
    }
    let option = arguments.iter().position(|argument| *argument == "--region");
    let names_first = matches!(arguments, ["add-region" | "remove-region", ..]);
    let at = if names_first { Some(1) } else { option.map(|at| at + 1) };
    let region = at.and_then(|at| arguments.get(at)).map(|region| format!("+{region}"));
    format!("{}{}", name.join("."), region.unwrap_or_default())
}
