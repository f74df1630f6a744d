//! Runs one scenario: writes and faults; then all faults end, and everything must come to rest.

use std::time::Duration;

use serde::Serialize;
use tokio::runtime::Builder;
use tracing::subscriber::NoSubscriber;
use tradewind::tally::TallySnapshot;

use crate::clock::SimClock;
use crate::crew::Crew;
use crate::network::SharedWorld;
use crate::oracle::Counts;
use crate::panics;
use crate::settings::{FaultKind, Scenario};
use crate::world::World;

/// How often the agents and the checks are looked at, in milliseconds.
const PACE: u64 = 250;
/// How many calls in a row must have found a stream drained.
const IDLE_CALLS: u32 = 8;
/// How long this must last; a wrong result that lasts this long is final.
const STABLE: u64 = 5_000;
const FINAL: u64 = 180_000;
/// Agents' writes that an application's write may cause, for each region.
const AMPLIFICATION: u64 = 4;

/// The result of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub profile: String,
    pub seed: u64,
    /// What was violated; empty if nothing.
    pub failures: Vec<String>,
    /// The hash of the trace.
    pub trace: String,
    pub virtual_seconds: u64,
    pub requests: u64,
    #[serde(flatten)]
    pub counts: Counts,
    pub tally: TallySnapshot,
    /// The trace's text, if requested.
    #[serde(skip)]
    pub lines: Vec<String>,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Runs a scenario to its end, or to the first violation.
pub fn run(scenario: &Scenario, keeps_text: bool) -> Report {
    let failed = |why: &str| Report {
        profile: scenario.profile.clone(),
        seed: scenario.seed,
        failures: vec![why.to_owned()],
        trace: String::new(),
        virtual_seconds: 0,
        requests: 0,
        counts: Counts::default(),
        tally: TallySnapshot::default(),
        lines: Vec::new(),
    };
    panics::watch();
    // Without a subscriber each of the SDK's spans draws a random number; with one, only those that are logged do.
    // A log must not change the run.
    let _ = tracing::subscriber::set_global_default(NoSubscriber::new());
    // The agents' nonces, and the jitter of their retries.
    fastrand::seed(scenario.seed);
    match Builder::new_current_thread().enable_time().start_paused(true).build() {
        Ok(runtime) => {
            runtime.block_on(play(scenario, keeps_text)).unwrap_or_else(|| failed("no legal configuration"))
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// What happens at a moment.
enum Event {
    Begin(usize),
    End(usize),
    Write(usize),
}

async fn play(scenario: &Scenario, keeps_text: bool) -> Option<Report> {
    let clock = SimClock::start();
    let settings = &scenario.settings;
    let world = SharedWorld::new(World::new(clock, settings, scenario.seed, keeps_text));
    let mut crew = Crew::new(settings, world.clone(), clock)?;
    let mut stage = Stage { scenario, clock, world: world.clone(), crew: &mut crew };
    stage.safety().await;
    let mut failures = stage.failures();
    if failures.is_empty() {
        failures = stage.liveness().await;
    }
    let tally = crew.tally();
    let mut world = world.lock();
    let counts = world.oracle.counts;
    let most = AMPLIFICATION * settings.regions as u64 * counts.app_writes;
    if counts.agent_writes > most {
        failures.push(format!("{} writes of agents for {}", counts.agent_writes, counts.app_writes));
    }
    let trimmed = world.services.iter().any(crate::service::Service::lost_unread);
    if trimmed && tally.gaps == 0 {
        failures.push("records were trimmed before they were read, and no agent reported it".to_owned());
    }
    for service in world.services.iter().filter(|service| service.is_recycled_unmarked()) {
        failures
            .push(format!("the stream of {} was turned off and on, and no agent reported it", service.name));
    }
    if failures.is_empty() {
        let unmarked = world.unmarked().into_iter();
        failures.extend(unmarked.map(|region| format!("{region}: records are lost, and no mark shows it")));
    }
    Some(Report {
        profile: scenario.profile.clone(),
        seed: scenario.seed,
        failures,
        trace: format!("{:016x}", world.trace.hash()),
        virtual_seconds: clock.now() / 1_000,
        requests: world.requests,
        counts,
        tally,
        lines: world.trace.take_lines(),
    })
}

struct Stage<'a> {
    scenario: &'a Scenario,
    clock: SimClock,
    world: SharedWorld,
    crew: &'a mut Crew,
}

impl Stage<'_> {
    /// Makes the writes and faults, until all of them are over.
    async fn safety(&mut self) {
        let mut events: Vec<(u64, Event)> = Vec::new();
        for (number, fault) in self.scenario.faults.iter().enumerate() {
            events.push((fault.at, Event::Begin(number)));
            if !fault.kind.is_moment() {
                events.push((fault.at + fault.lasts, Event::End(number)));
            }
        }
        let writes = self.scenario.writes.iter().enumerate();
        events.extend(writes.map(|(number, write)| (write.at, Event::Write(number))));
        events.sort_by_key(|(at, _)| *at);
        for (at, event) in events {
            while self.clock.now() < at {
                let next = at.min(self.clock.now() + PACE);
                tokio::time::sleep_until(self.clock.instant(next)).await;
                self.tend().await;
            }
            self.happen(&event);
            if !self.failures().is_empty() {
                return;
            }
        }
    }

    async fn tend(&mut self) {
        self.crew.tend().await;
        let mut world = self.world.lock();
        let now = self.clock.now();
        world.services.iter_mut().for_each(|service| service.trim(now));
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Write(number) => self.world.lock().write(&self.scenario.writes[*number]),
            Event::Begin(number) => {
                let fault = &self.scenario.faults[*number].kind;
                self.world.lock().begin(*number, fault);
                match fault {
                    FaultKind::Crash { agent } => self.crew.crash(*agent),
                    FaultKind::Stop { agent } => self.crew.stop(*agent),
                    _ => {}
                }
            }
            Event::End(number) => {
                self.world.lock().end(*number);
                if let FaultKind::Crash { agent } | FaultKind::Stop { agent } =
                    self.scenario.faults[*number].kind
                {
                    self.crew.let_up(agent);
                }
            }
        }
    }

    /// Waits until the agents are drained and the replicas correct, and stay so.
    async fn liveness(&mut self) -> Vec<String> {
        let from = self.clock.now();
        let mut drained_since = None;
        loop {
            tokio::time::sleep(Duration::from_millis(PACE)).await;
            self.tend().await;
            let failures = self.failures();
            if !failures.is_empty() {
                return failures;
            }
            let now = self.clock.now();
            let is_late = now > from + self.scenario.settings.patience;
            if !self.crew.is_drained(IDLE_CALLS) {
                drained_since = None;
                if is_late {
                    return vec!["the agents don't come to rest".to_owned()];
                }
                continue;
            }
            let since = *drained_since.get_or_insert(now);
            if now < since + STABLE {
                continue;
            }
            let wrong = self.world.lock().at_rest();
            if wrong.is_empty() || !self.scenario.settings.converges {
                return self.forgetting().await;
            }
            if now > since + FINAL {
                return wrong;
            }
        }
    }

    /// Waits until no agent holds a key in memory any more.
    async fn forgetting(&mut self) -> Vec<String> {
        let deadline = self.clock.now() + self.scenario.settings.forget_within;
        if self.scenario.settings.forget_within == 0 {
            return Vec::new();
        }
        while self.crew.remembered() > 0 {
            if self.clock.now() > deadline {
                return vec![format!("{} keys are still remembered at rest", self.crew.remembered())];
            }
            tokio::time::sleep(Duration::from_millis(PACE)).await;
            self.tend().await;
            let failures = self.failures();
            if !failures.is_empty() {
                return failures;
            }
        }
        if self.scenario.settings.converges { self.world.lock().at_rest() } else { Vec::new() }
    }

    fn failures(&self) -> Vec<String> {
        let mut failures = self.world.lock().oracle.failures.clone();
        failures.extend(self.crew.crowded());
        failures.extend(panics::seen());
        failures
    }
}
