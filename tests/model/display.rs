//! A search's result and a counterexample, in words.

use std::collections::BTreeSet;

use tradewind::protocol::Body;

use super::catalogue::{ABSENT, BARE, KEY_NAMES, MAX, NAMES, data_of, show_version};
use super::search::{Found, Path};
use super::steps::Model;
use super::world::{Rec, State, Step, Truth};

impl Found {
    /// One line of figures.
    pub(crate) fn summary(&self) -> String {
        let set = &self.model.set;
        let tally = &self.model.tally;
        let verdict = match (&self.wrong, self.complete) {
            (Some(_), _) => "a wrong state found",
            (None, true) => "holds in all",
            (None, false) => "holds as far as it went, CUT SHORT at",
        };
        format!(
            "{}: {verdict} {} states, {} steps, {} at rest, in {:.1?}; {} heals, {} insisted on; agents' writes by applications' \
             {:?}; limits met {:?}; {}",
            set.name,
            self.states,
            self.steps,
            tally.quiet,
            self.took,
            tally.heals,
            tally.insisted,
            tally.agent_writes,
            tally.limits,
            self.model.cat.sizes(),
        )
    }

    /// The counterexample, step by step.
    pub(crate) fn story(&self) -> String {
        let Some(path) = &self.wrong else { return String::new() };
        let mut lines =
            vec![format!("{} ({:?}), {} steps:", self.model.set.name, self.model.set.defect, path.len())];
        self.model.tell(path, &mut lines);
        lines.join("\n")
    }
}

impl Model {
    fn tell(&self, path: &Path, lines: &mut Vec<String>) {
        let mut read = [0; MAX];
        let mut before: Option<&State> = None;
        for (number, (step, state, failure)) in path.iter().enumerate() {
            lines.push(format!("{:>3}. {}", number + 1, self.show_step(*step, before, state)));
            if let Step::Crash { region } = step {
                let region = usize::from(*region);
                read[region] = state.regions[region].agent.durable.rewind;
            }
            for (r, region) in state.regions.iter().enumerate() {
                for i in read[r]..region.agent.read {
                    lines.push(format!("       {}", self.show_record(r, i, &region.stream[usize::from(i)])));
                }
                read[r] = region.agent.read;
            }
            if let Some(why) = failure {
                lines.push(format!("  => {why}"));
            }
            before = Some(state);
        }
    }

    fn show_step(&self, step: Step, before: Option<&State>, after: &State) -> String {
        let name = |region: u8| NAMES[usize::from(region)];
        let key = |key: u8| KEY_NAMES[usize::from(key)];
        let pending = |region: u8, dest: u8, key: u8| {
            let agent = before.map(|s| &s.regions[usize::from(region)].agent);
            let found = agent.and_then(|agent| agent.front(dest, key).map(|front| agent.queue[front]));
            found.map_or_else(String::new, |found| self.cat.get_act(found.act).text.clone())
        };
        match step {
            Step::Put { region, key: k } => format!("an application puts {} in {}", key(k), name(region)),
            Step::Update { region, key: k } => {
                format!("an application updates {} in {}, and keeps the stamp", key(k), name(region))
            }
            Step::Edit { region, image } => {
                let k = self.cat.get(image).key;
                let image = self.show_image(image);
                format!("an application edits a copy of {} and puts it in {}: {image}", key(k), name(region))
            }
            Step::PutBack { region, image } => {
                let k = self.cat.get(image).key;
                format!("an application puts {} back in {}: {}", key(k), name(region), self.show_image(image))
            }
            Step::Delete { region, key: k } => {
                format!("an application deletes {} in {}", key(k), name(region))
            }
            Step::Tick { region } => format!("the clock of {} moves on", name(region)),
            Step::Back { region } => format!("the clock of {} goes back", name(region)),
            Step::Read { region } => format!("the agent of {} reads on", name(region)),
            Step::Do { region, dest, key } => {
                format!("{} at {}: {}", name(region), name(dest), pending(region, dest, key))
            }
            Step::StampAtHome { region, dest, key } => {
                format!("{} stamps at home: {}", name(region), pending(region, dest, key))
            }
            Step::Insist { region, dest, key } => {
                format!("{} at {}, whatever stands: {}", name(region), name(dest), pending(region, dest, key))
            }
            Step::Coalesce { region, dest, key: k, .. } => {
                format!("of {} queued in {} for {}, one does for another", key(k), name(region), name(dest))
            }
            Step::Duplicate { region, dest, key } => {
                format!("{} at {}, the answer lost: {}", name(region), name(dest), pending(region, dest, key))
            }
            Step::Delay { region, dest, key } => {
                format!(
                    "{} at {}, under way for long: {}",
                    name(region),
                    name(dest),
                    pending(region, dest, key)
                )
            }
            Step::Land { dest, act } => {
                format!("lands at {} at last: {}", name(dest), self.cat.get_act(act).text)
            }
            Step::Checkpoint { region, .. } => {
                let d = after.regions[usize::from(region)].agent.durable;
                format!(
                    "checkpoint in {}: rewind to {} with floors {:?}, done {:?}, promised {:?}",
                    name(region),
                    d.rewind,
                    d.floors,
                    d.done,
                    d.watermark
                )
            }
            Step::Crash { region } => format!("the agent of {} crashes, and starts again", name(region)),
            Step::Settle { region } => {
                let agent = &after.regions[usize::from(region)].agent;
                let keys = self.cat.get_memory(agent.memory).len();
                format!(
                    "{} takes watermarks in: floors {:?}, {keys} keys remembered",
                    name(region),
                    agent.floors
                )
            }
            Step::InPlace { region } => format!("{} stamps in place from now on", name(region)),
            Step::SeedHold { region } => {
                format!("the seeder raises its hold or a barrier in {}", name(region))
            }
            Step::SeedLook { region } => format!("the seeder looks at {}", name(region)),
            Step::SeedDo { seed } => self.show_seed("seeds", seed),
            Step::SeedDuplicate { seed } => self.show_seed("seeds, the answer lost:", seed),
            Step::SeedDelay { seed } => self.show_seed("seeds, under way for long:", seed),
            Step::SeedLand { seed } => self.show_seed("seeds, landing at last:", seed),
            Step::SeedRelease { region } => {
                format!("the seeder says in {} that its hold is over", name(region))
            }
        }
    }

    fn show_seed(&self, how: &str, seed: u16) -> String {
        let seed = self.cat.get_seed(seed);
        let data = match &seed.write.body {
            Body::Put(item, _) => data_of(item),
            Body::Delete => 0,
        };
        format!(
            "the seeder {how} {} with {data} as {:?}, over {:?}",
            seed.region, seed.write.version, seed.write.replaced
        )
    }

    fn show_record(&self, r: usize, ordinal: u8, rec: &Rec) -> String {
        let judged = &self.cat.judgements[rec.judged as usize];
        let who = match rec.truth {
            Truth::Put | Truth::Update | Truth::PutBack | Truth::Delete => "application",
            Truth::AgentPut
            | Truth::AgentHeal
            | Truth::AgentStamp
            | Truth::AgentMark
            | Truth::AgentDelete => "agent",
        };
        let peers: BTreeSet<&u16> = judged.for_peers.iter().flatten().collect();
        let acts = judged.for_here.iter().chain(peers);
        let acts: Vec<&str> = acts.map(|act| self.cat.get_act(*act).text.as_str()).collect();
        format!(
            "{} #{ordinal} at {} {who}: {} {} -> {} | {:?}{}{}",
            NAMES[r],
            rec.time,
            KEY_NAMES[usize::from(rec.key)],
            self.show_image(rec.old),
            self.show_image(rec.new),
            judged.verdict,
            if acts.is_empty() { String::new() } else { format!(": {}", acts.join("; ")) },
            judged.conflict.map_or_else(String::new, |(lost, _)| format!(", {} lost", show_version(lost)))
        )
    }

    fn show_image(&self, id: u16) -> String {
        if id == ABSENT {
            return "absent".to_owned();
        }
        let image = self.cat.get(id);
        let data = if image.data == BARE { "bare".to_owned() } else { image.data.to_string() };
        let Some(stamp) = &image.stamp else { return data };
        let Some(version) = image.version else { return format!("{data} [{stamp}]") };
        let nonce = stamp.rsplit(' ').next().unwrap_or_default().trim_start_matches('0');
        let kind = match (image.mark, image.matches) {
            (true, _) => "mark ",
            (false, true) => "",
            (false, false) => "kept ",
        };
        format!("{data} [{kind}{} n{nonce}]", show_version(version))
    }
}
