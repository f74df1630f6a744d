//! What can happen in a state, and what comes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::agent::Answers;
use super::catalogue::{ABSENT, Catalogue, FLOORS, KEYS, MAX, V};
use super::oracle::Tally;
use super::seeder::Seeder;
use super::settings::{Defect, Init, Setting};
use super::table::Met;
use super::world::{Agent, Contention, Durable, Left, Region, State, Step, TICK, Truth};

pub(crate) struct Model {
    pub(crate) set: Setting,
    pub(crate) cat: Catalogue,
    pub(crate) tally: Tally,
    /// Why the state that is being built is a wrong one.
    pub(crate) failure: Option<String>,
    pub(crate) answers: Answers,
}

/// A step, the state after it, and why that is a wrong one.
pub(crate) type Next = (Step, State, Option<String>);

pub(crate) fn small(number: usize) -> u8 {
    u8::try_from(number).expect("a small model")
}

impl Model {
    pub(crate) fn new(set: Setting) -> Self {
        Self {
            set,
            cat: Catalogue::new(),
            tally: Tally::default(),
            failure: None,
            answers: Answers::default(),
        }
    }

    pub(crate) fn initial(&mut self) -> State {
        let regions = (0..self.set.regions).map(|r| self.initial_region(r)).collect();
        let Setting { ops, crashes, ticks, backs, dups, zombies, .. } = self.set;
        let best = match self.set.init {
            Init::Absent => ((0, 0), 0),
            Init::Lost => (self.long_ago(), 1),
            Init::Shared | Init::Alone | Init::Different => ((0, 0), 1),
        };
        State {
            regions,
            zombies: BTreeSet::new(),
            seeder: if self.set.seeds { Seeder::default() } else { Seeder::none() },
            left: Left { ops, crashes, ticks, backs, dups, zombies },
            best: [best; KEYS],
            bases: BTreeMap::new(),
        }
    }

    /// A version of the last region's, older than all that is written here.
    fn long_ago(&self) -> V {
        (1 << 20, small(self.set.regions - 1))
    }

    fn initial_region(&mut self, r: usize) -> Region {
        let mut items = [ABSENT; KEYS];
        let long_ago = self.long_ago();
        for key in 0..self.set.keys {
            let nonce = self.cat.nonce(r, 0xf000);
            items[usize::from(key)] = match self.set.init {
                Init::Shared if r == 0 => self.cat.image(key, 1, None),
                Init::Shared => self.cat.stamped(key, 1, (0, 0), nonce),
                Init::Alone if (r, key) == (0, 0) => self.cat.image(0, 1, None),
                Init::Different if key == 0 => self.cat.image(0, small(r + 1), None),
                Init::Lost if key == 0 && r + 1 < self.set.regions => self.cat.stamped(0, 1, long_ago, nonce),
                _ => ABSENT,
            };
        }
        let floor = match self.set.init {
            Init::Absent => 0,
            Init::Shared => 1,
            Init::Alone | Init::Different | Init::Lost => 2,
        };
        let mut floors = [floor; FLOORS];
        floors[MAX] = 0;
        let agent = Agent {
            memory: self.cat.empty_memory(r),
            floors,
            read: 0,
            queue: vec![],
            act_from: [0; MAX],
            log: vec![],
            durable: Durable { floors, watermark: [floor; MAX], ..Durable::default() },
            terms: vec![],
            in_place: false,
        };
        // Back steps must not end before the clock's zero.
        let clock = 2;
        let seen = items.iter().copied().filter(|item| *item != ABSENT).collect();
        Region {
            clock,
            items,
            stream: vec![],
            agent,
            seen,
            puts: 0,
            highest: [(0, 0); KEYS],
            stale: [false; KEYS],
            lost: vec![],
        }
    }

    /// All that can happen next.
    pub(crate) fn successors(&mut self, state: &State, out: &mut Vec<Next>) {
        let mut steps = Vec::new();
        for (r, region) in state.regions.iter().enumerate() {
            self.agent_steps(state, r, region, &mut steps);
            if state.left.ops > 0 && (r == 0 || !self.set.alone) {
                self.app_steps(state, r, region, &mut steps);
            }
        }
        steps.extend(state.zombies.iter().map(|(dest, act)| Step::Land { dest: *dest, act: *act }));
        self.seeder_steps(state, &mut steps);
        let from = out.len();
        for step in steps {
            self.take(state, step, out);
        }
        // An agent is patient for longer than what the others do takes, while they are up.
        if self.set.hasty || !out[from..].iter().any(|(step, ..)| step.is_work()) {
            for (r, region) in state.regions.iter().enumerate() {
                for pending in
                    region.agent.queue.iter().filter(|pending| pending.contention == Contention::Stamped)
                {
                    let (dest, key) = (pending.dest, pending.key);
                    self.take(state, Step::Insist { region: small(r), dest, key }, out);
                }
            }
        }
    }

    fn take(&mut self, state: &State, step: Step, out: &mut Vec<Next>) {
        let next = self.step(state, step);
        let failure = self.failure.take();
        if let Some(next) = next {
            out.push((step, next, failure));
        }
    }

    fn app_steps(&self, state: &State, r: usize, region: &Region, steps: &mut Vec<Step>) {
        let r = small(r);
        for key in 0..self.set.keys {
            let item = region.items[usize::from(key)];
            steps.push(Step::Put { region: r, key });
            if item != ABSENT {
                steps.push(Step::Delete { region: r, key });
                if self.cat.get(item).stamp.is_some() {
                    steps.push(Step::Update { region: r, key });
                }
            }
        }
        let held = |image: &u16| region.items.contains(image);
        let put_backs = region.seen.iter().filter(|image| !held(image));
        steps.extend(put_backs.map(|image| Step::PutBack { region: r, image: *image }));
        let stamped = |image: &&u16| self.set.edits && self.cat.get(**image).stamp.is_some();
        let edits = region.seen.iter().filter(|image| !held(image)).filter(stamped);
        steps.extend(edits.map(|image| Step::Edit { region: r, image: *image }));
        if state.left.backs > 0 {
            steps.push(Step::Back { region: r });
        }
        if self.set.stamp_in_place && !region.agent.in_place {
            steps.push(Step::InPlace { region: r });
        }
    }

    fn agent_steps(&self, state: &State, r: usize, region: &Region, steps: &mut Vec<Step>) {
        let agent = &region.agent;
        let r = small(r);
        for dest in 0..small(self.set.regions) {
            for key in 0..self.set.keys {
                let Some(front) = agent.front(dest, key) else { continue };
                let contention = agent.queue[front].contention;
                if contention != Contention::Met {
                    steps.push(Step::Do { region: r, dest, key });
                }
                if contention != Contention::No {
                    steps.push(Step::StampAtHome { region: r, dest, key });
                }
                if state.left.dups > 0 {
                    steps.push(Step::Duplicate { region: r, dest, key });
                }
                if state.left.zombies > 0 && !state.zombies.contains(&(dest, agent.queue[front].act)) {
                    steps.push(Step::Delay { region: r, dest, key });
                }
                if self.set.coalesces {
                    let queued = agent.queue.iter().filter(|p| (p.dest, p.key) == (dest, key)).count();
                    steps.extend((1..small(queued)).map(|n| Step::Coalesce {
                        region: r,
                        dest,
                        key,
                        skip: n - 1,
                    }));
                }
            }
        }
        if !region.has_read_all() {
            steps.push(Step::Read { region: r });
        }
        if self.set.settles {
            steps.push(Step::Settle { region: r });
        }
        if state.left.ticks > 0 && (self.set.settles || state.left.ops > 0) {
            steps.push(Step::Tick { region: r });
        }
        if state.left.crashes > 0 {
            let best = self.checkpoint(region);
            let first = if self.set.pages { agent.durable.rewind } else { best.rewind };
            for rewind in first..=best.rewind {
                steps.push(Step::Checkpoint { region: r, rewind, pin_done: false });
            }
            if self.set.pages {
                for rewind in first..=self.rewind(agent, agent.durable.done) {
                    steps.push(Step::Checkpoint { region: r, rewind, pin_done: true });
                }
            }
            steps.push(Step::Crash { region: r });
        }
    }

    /// The state after a step; none where it would change nothing.
    pub(crate) fn step(&mut self, state: &State, step: Step) -> Option<State> {
        let mut s = state.clone();
        match step {
            Step::Put { region, key } => self.app_put(&mut s, region, key, None, Truth::Put),
            Step::Update { region, key } => {
                let item = s.regions[usize::from(region)].items[usize::from(key)];
                let stamp = self.cat.get(item).stamp.clone();
                self.app_put(&mut s, region, key, stamp, Truth::Update);
            }
            Step::Edit { region, image } => {
                let image = self.cat.get(image);
                let (key, stamp) = (image.key, image.stamp.clone());
                self.app_put(&mut s, region, key, stamp, Truth::Update);
            }
            Step::PutBack { region, image } => {
                s.left.ops -= 1;
                let key = self.cat.get(image).key;
                self.write(&mut s, region.into(), key, image, Truth::PutBack);
            }
            Step::Delete { region, key } => {
                s.left.ops -= 1;
                self.write(&mut s, region.into(), key, ABSENT, Truth::Delete);
            }
            Step::Tick { region } => {
                s.left.ticks -= 1;
                s.regions[usize::from(region)].clock += TICK;
            }
            Step::Back { region } => {
                s.left.backs -= 1;
                s.regions[usize::from(region)].clock -= 1;
            }
            Step::Read { region } => self.read(&mut s, region.into()),
            _ => self.agent_step(&mut s, step)?,
        }
        if !self.set.lazy {
            for r in 0..self.set.regions {
                while !s.regions[r].has_read_all() {
                    self.read(&mut s, r);
                }
            }
        }
        Some(s)
    }

    fn agent_step(&mut self, s: &mut State, step: Step) -> Option<()> {
        match step {
            Step::Do { region, dest, key } => {
                let agent = &s.regions[usize::from(region)].agent;
                let front = agent.front(dest, key)?;
                let done = agent.queue[front];
                let met = self.attempt(s, dest.into(), done.act, false);
                if met == Met::Superseded && dest != region && done.contention == Contention::No {
                    self.stamp_at_home(s, region.into(), (dest, key));
                }
                let queue = &mut s.regions[usize::from(region)].agent.queue;
                if met == Met::Contended && !(done.superseded && self.set.defect != Defect::NotDropped) {
                    if done.contention != Contention::No {
                        return None;
                    }
                    queue[front].contention = Contention::Met;
                } else {
                    queue.remove(front);
                }
                if self.set.defect == Defect::FarDelete {
                    self.delete_from_afar(s, region, done);
                }
            }
            Step::StampAtHome { region, dest, key } => {
                let stamped = self.stamp_at_home(s, region.into(), (dest, key));
                let agent = &mut s.regions[usize::from(region)].agent;
                let front = agent.front(dest, key)?;
                let before = std::mem::replace(&mut agent.queue[front].contention, Contention::Stamped);
                if stamped.is_none() && before == Contention::Stamped {
                    return None;
                }
            }
            Step::Insist { region, dest, key } => {
                let agent = &s.regions[usize::from(region)].agent;
                let front = agent.front(dest, key)?;
                let pending = agent.queue[front];
                self.attempt(s, dest.into(), pending.act, true);
                s.regions[usize::from(region)].agent.queue.remove(front);
                self.tally.insisted += 1;
            }
            Step::Coalesce { region, dest, key, skip } => self.coalesce(s, region, (dest, key), skip)?,
            Step::Duplicate { region, dest, key } => {
                let agent = &s.regions[usize::from(region)].agent;
                let act = agent.queue[agent.front(dest, key)?].act;
                let before = s.regions[usize::from(dest)].stream.len();
                self.attempt(s, dest.into(), act, false);
                if s.regions[usize::from(dest)].stream.len() == before {
                    return None;
                }
                s.left.dups -= 1;
            }
            Step::Delay { region, dest, key } => {
                let agent = &s.regions[usize::from(region)].agent;
                s.zombies.insert((dest, agent.queue[agent.front(dest, key)?].act));
                s.left.zombies -= 1;
            }
            Step::Land { dest, act } => {
                s.zombies.remove(&(dest, act));
                self.attempt(s, dest.into(), act, false);
            }
            Step::Checkpoint { region, rewind, pin_done } => {
                let region = &mut s.regions[usize::from(region)];
                let mut next = self.checkpoint(region);
                let last = region.agent.durable;
                (next.rewind, next.floors) = (rewind, region.agent.floors_at(rewind));
                if pin_done {
                    (next.done, next.watermark) = (last.done, last.watermark);
                }
                if next == last {
                    return None;
                }
                region.agent.durable = next;
                if s.left.crashes > 0 && self.set.defect != Defect::NoTerms {
                    let not_told_by = self.set.defect == Defect::NotToldBy;
                    let terms = region.agent.terms(rewind, &next.done[..self.set.regions], !not_told_by);
                    region.agent.terms = terms;
                }
            }
            Step::Crash { region } => {
                s.left.crashes -= 1;
                let memory = self.cat.empty_memory(region.into());
                let agent = &mut s.regions[usize::from(region)].agent;
                let Durable { rewind, floors, done, .. } = agent.durable;
                agent.memory = memory;
                agent.queue.clear();
                agent.read = rewind;
                agent.floors = floors;
                agent.act_from = done;
                agent.log.truncate(rewind.into());
            }
            Step::Settle { region } => self.settle(s, region.into())?,
            Step::InPlace { region } => s.regions[usize::from(region)].agent.in_place = true,
            _ => self.seeder_step(s, step)?,
        }
        Some(())
    }

    fn app_put(&mut self, s: &mut State, r: u8, key: u8, stamp: Option<Rc<str>>, truth: Truth) {
        let region = &mut s.regions[usize::from(r)];
        region.puts += 1;
        let data = if self.set.alike { 10 } else { 10 * (r + 1) } + region.puts;
        s.left.ops -= 1;
        let image = self.cat.image(key, data, stamp);
        self.write(s, r.into(), key, image, truth);
    }
}
