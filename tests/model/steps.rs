//! What can happen in a state, and what comes of it.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{Action, Body, Floors, Hlc, Item, KeyMemory, Nonce, Record, STAMP, Verdict};

use super::catalogue::{ABSENT, BARE, Catalogue, Judged, KEYS, MAX, V, item_of, v_of};
use super::oracle::Tally;
use super::settings::{Defect, Init, PutBacks, Setting};
use super::world::{Agent, Durable, Left, Pending, Rec, Region, State, Step, TICK, Truth, UNIT_MILLIS};

/// What a judgement depends on.
type Question = (u8, u32, u8, u8, u16, u16, [u8; MAX], bool, Option<Truth>, bool);

pub(crate) struct Model {
    pub(crate) set: Setting,
    pub(crate) cat: Catalogue,
    pub(crate) tally: Tally,
    /// Why the state that is being built is a wrong one.
    pub(crate) failure: Option<String>,
    /// The state that is being built lies beyond a limit which costs convergence.
    pub(crate) is_beyond: bool,
    judged: HashMap<Question, (u32, u32)>,
    forgotten: HashMap<(u8, u32, [u8; MAX]), u32>,
}

/// A step, the state after it, and why that is a wrong one.
pub(crate) type Next = (Step, State, Option<String>);

fn small(number: usize) -> u8 {
    u8::try_from(number).expect("a small model")
}

impl Model {
    pub(crate) fn new(set: Setting) -> Self {
        Self {
            set,
            cat: Catalogue::new(),
            tally: Tally::default(),
            failure: None,
            is_beyond: false,
            judged: HashMap::new(),
            forgotten: HashMap::new(),
        }
    }

    pub(crate) fn initial(&mut self) -> State {
        let shared = self.set.init == Init::Shared;
        let regions = (0..self.set.regions).map(|r| self.initial_region(r, shared)).collect();
        let Setting { ops, crashes, ticks, backs, dups, zombies, .. } = self.set;
        State {
            regions,
            zombies: BTreeSet::new(),
            left: Left { ops, crashes, ticks, backs, dups, zombies },
            best: [((0, 0), u8::from(shared)); KEYS],
        }
    }

    fn initial_region(&mut self, r: usize, shared: bool) -> Region {
        let mut items = [ABSENT; KEYS];
        for key in 0..self.set.keys {
            if shared {
                items[usize::from(key)] = match r {
                    0 => self.cat.image(key, 1, None),
                    _ => self.cat.stamped(key, 1, (0, 0), Nonce(0xf000 + r as u64)),
                };
            }
        }
        let floors = [u8::from(shared); MAX];
        let agent = Agent {
            memory: self.cat.empty_memory(r),
            floors,
            read: 0,
            queue: vec![],
            act_from: [0; MAX],
            log: vec![],
            durable: Durable { floors, watermark: floors, ..Durable::default() },
            in_place: false,
        };
        // Back steps must not end before the clock's zero.
        let clock = 2;
        let seen = items.iter().copied().filter(|item| *item != ABSENT).collect();
        Region { clock, items, stream: vec![], agent, seen, puts: 0, highest: [(0, 0); KEYS], lost: vec![] }
    }

    /// All that can happen next.
    pub(crate) fn successors(&mut self, state: &State, out: &mut Vec<Next>) {
        let mut steps = Vec::new();
        for (r, region) in state.regions.iter().enumerate() {
            self.agent_steps(state, r, region, &mut steps);
            if state.left.ops > 0 {
                self.app_steps(state, r, region, &mut steps);
            }
        }
        steps.extend(state.zombies.iter().map(|(dest, act)| Step::Land { dest: *dest, act: *act }));
        for step in steps {
            let next = self.step(state, step);
            let failure = self.failure.take();
            if let (Some(next), false) = (next, std::mem::take(&mut self.is_beyond)) {
                out.push((step, next, failure));
            }
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
                steps.push(Step::Do { region: r, dest, key });
                if state.left.dups > 0 {
                    steps.push(Step::Duplicate { region: r, dest, key });
                }
                if state.left.zombies > 0 && !state.zombies.contains(&(dest, agent.queue[front].act)) {
                    steps.push(Step::Delay { region: r, dest, key });
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
                for rewind in first..=self.rewind(agent, &agent.durable.done) {
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
            Step::Do { region, dest, key } => {
                let queue = &mut s.regions[usize::from(region)].agent.queue;
                let front = queue.iter().position(|p| p.dest == dest && p.key == key)?;
                let done = queue.remove(front);
                self.attempt(&mut s, dest.into(), done.act);
                if self.set.defect == Defect::FarDelete {
                    self.delete_from_afar(&mut s, region, done);
                }
            }
            Step::Duplicate { region, dest, key } => {
                let agent = &s.regions[usize::from(region)].agent;
                let act = agent.queue[agent.front(dest, key)?].act;
                let before = s.regions[usize::from(dest)].stream.len();
                self.attempt(&mut s, dest.into(), act);
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
                self.attempt(&mut s, dest.into(), act);
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
            Step::Settle { region } => self.settle(&mut s, region.into())?,
            Step::InPlace { region } => s.regions[usize::from(region)].agent.in_place = true,
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

    fn app_put(&mut self, s: &mut State, r: u8, key: u8, stamp: Option<Rc<str>>, truth: Truth) {
        let region = &mut s.regions[usize::from(r)];
        region.puts += 1;
        let data = 10 * (r + 1) + region.puts;
        s.left.ops -= 1;
        let image = self.cat.image(key, data, stamp);
        self.write(s, r.into(), key, image, truth);
    }

    /// A write takes effect in a table. One that changes nothing makes no record.
    fn write(&mut self, s: &mut State, r: usize, key: u8, new: u16, truth: Truth) {
        let region = &mut s.regions[r];
        let item = &mut region.items[usize::from(key)];
        if *item == new {
            return;
        }
        region.stream.push(Rec { key, time: region.clock, old: *item, new, truth, judged: 0 });
        *item = new;
        let put_backs = self.set.put_backs;
        let stamped = self.cat.get(new).stamp.is_some();
        if new != ABSENT && (put_backs > PutBacks::Stamped || put_backs == PutBacks::Stamped && stamped) {
            let everywhere = put_backs == PutBacks::Any;
            for (i, region) in s.regions.iter_mut().enumerate() {
                if i == r || everywhere {
                    region.seen.insert(new);
                }
            }
        }
    }

    /// One physical write of an agent: what `apply::Replica` asks of DynamoDB.
    fn attempt(&mut self, s: &mut State, dest: usize, act: u16) {
        let act = Rc::clone(self.cat.get_act(act));
        let region = &s.regions[dest];
        let item = region.items[usize::from(act.key)];
        let stored = self.cat.get(item);
        let stamp = stored.stamp.as_deref();
        let (agents, stored_data, present) = (stored.is_stamped(), stored.data, item != ABSENT);
        let nonce = Nonce((dest as u64) << 32 | (region.stream.len() as u64 + 1));
        let defect = self.set.defect;
        let holds = match &act.action {
            Action::Push(write) => {
                let marks = write.body == Body::Delete;
                if marks && defect == Defect::NoMark && present {
                    let holds = !agents || stamp < Some(&act.bound);
                    return if holds {
                        self.write(s, dest, act.key, ABSENT, Truth::AgentDelete)
                    };
                }
                let blocked = marks && defect == Defect::PlainMark && !present;
                !blocked && (!agents || stamp < Some(&act.bound))
            }
            Action::Heal(_) => defect != Defect::NoHeal && agents && stamp < Some(&act.bound),
            Action::Restamp(write, expected) => {
                if defect == Defect::InPlaceBlind && present {
                    let stamp = write.stamp(nonce).to_string();
                    let new = self.cat.image(act.key, stored_data, Some(stamp.into()));
                    return self.write(s, dest, act.key, new, Truth::AgentPut);
                }
                stamp == expected.as_ref().and_then(|value| value.as_s().ok()).map(String::as_str)
            }
            Action::CarryOut { mark, .. } => {
                let mark = mark.as_s().expect("a stamp is a string");
                let same = |text: &str| match defect {
                    Defect::NoNonce => {
                        text.rsplit_once(' ').map(|t| t.0) == mark.rsplit_once(' ').map(|t| t.0)
                    }
                    _ => text == mark,
                };
                if stamp.is_some_and(same) {
                    self.write(s, dest, act.key, ABSENT, Truth::AgentDelete);
                }
                return;
            }
        };
        let Some(write) = act.write().filter(|_| holds) else { return };
        let (data, truth) = match act.data {
            Some(data) => (data, Truth::AgentPut),
            None => (if present { stored_data } else { BARE }, Truth::AgentMark),
        };
        self.tally.heals += usize::from(matches!(act.action, Action::Heal(_)));
        let new = self.cat.image(act.key, data, Some(write.stamp(nonce).to_string().into()));
        self.write(s, dest, act.key, new, truth);
    }

    /// The second step of a delete that no replica's own agent makes.
    fn delete_from_afar(&mut self, s: &mut State, r: u8, done: Pending) {
        let act = self.cat.get_act(done.act);
        let (key, deletes) = (act.key, act.data.is_none() && act.write().is_some());
        let image = self.cat.get(s.regions[usize::from(done.dest)].items[usize::from(key)]);
        if let (true, Some(mark)) = (deletes && image.mark, &image.stamp) {
            let mark = AttributeValue::S(mark.to_string());
            let item = self.cat.keys[usize::from(key)].clone();
            let act = self.cat.act(key, Action::CarryOut { key: item, mark });
            s.regions[usize::from(r)].agent.queue.insert(0, Pending { act, ..done });
        }
    }

    /// The agent judges its next record.
    fn read(&mut self, s: &mut State, r: usize) {
        let region = &s.regions[r];
        let ordinal = region.agent.read;
        let rec = region.stream[usize::from(ordinal)].clone();
        let oldest = self.oldest(&region.agent).unwrap_or(ordinal);
        let (memory, id) = self.protocol(r, &region.agent, s.left.crashes, ordinal, &rec);
        let judged = Rc::clone(&self.cat.judgements[id as usize]);
        let agent = &mut s.regions[r].agent;
        agent.log.truncate(ordinal.into());
        agent.log.push((agent.floors, oldest));
        agent.memory = memory;
        agent.read += 1;
        for dest in 0..self.set.regions {
            let acts = if dest == r { &judged.for_here } else { &judged.for_peers };
            if ordinal >= agent.act_from[dest] {
                let pending = |act: &u16| Pending { ordinal, dest: small(dest), key: rec.key, act: *act };
                agent.queue.extend(acts.iter().map(pending));
            }
        }
        if rec.judged == 0 {
            s.regions[r].stream[usize::from(ordinal)].judged = id;
            self.judge(s, r, ordinal, &rec, &judged);
        } else {
            let acts = agent.act_from[..self.set.regions].iter().any(|from| ordinal >= *from);
            self.judge_again(r, ordinal, &rec, &judged, acts);
        }
    }

    /// Asks the shipped protocol.
    fn protocol(&mut self, r: usize, agent: &Agent, crashes: u8, ordinal: u8, rec: &Rec) -> (u32, u32) {
        // Who made a write, only a defect asks.
        let truth = (self.set.defect != Defect::None).then_some(rec.truth);
        let crashed = self.set.defect == Defect::Recall && crashes < self.set.crashes;
        let Agent { memory, floors, in_place, .. } = agent;
        let question =
            (small(r), *memory, ordinal, rec.time, rec.old, rec.new, *floors, *in_place, truth, crashed);
        if let Some(known) = self.judged.get(&question) {
            return *known;
        }
        let (mut old, new) = self.shown(rec, 0xdead_0000 + u64::from(ordinal));
        let heals = rec.truth == Truth::AgentPut && self.cat.get(rec.old).stamp.is_some();
        if crashed && rec.truth == Truth::AgentDelete {
            old = old.map(|item| item.into_iter().filter(|(name, _)| name != STAMP).collect());
        } else if self.set.defect == Defect::StrangeHeal && heals && self.cat.get_memory(*memory).is_empty() {
            old = None;
        }
        let key = self.cat.keys[usize::from(rec.key)].clone();
        let record = Record { created_millis: u64::from(rec.time) * UNIT_MILLIS, key, old, new };
        let mut mem = self.cat.get_memory(*memory).clone();
        let judgement = mem.judge(ordinal.into(), record, &self.floors(*floors), *in_place);
        if self.set.defect == Defect::NoChainMemory && judgement.verdict == Verdict::LocalPut {
            mem = KeyMemory::new(self.cat.origins[r].clone());
        }
        let next = self.cat.memory(mem);
        let mut judged = Judged {
            verdict: judgement.verdict,
            version: None,
            for_peers: vec![],
            for_here: vec![],
            conflict: judgement.conflict.map(|c| (v_of(&c.lost), v_of(&c.won))),
        };
        for action in judgement.actions {
            if let Action::Push(write) = &action {
                judged.version = Some(v_of(&write.version));
                judged.for_peers.push(self.cat.act(rec.key, action));
            } else if self.set.defect != Defect::FarDelete || !matches!(action, Action::CarryOut { .. }) {
                judged.for_here.push(self.cat.act(rec.key, action));
            }
        }
        let id = u32::try_from(self.cat.judgements.len()).unwrap();
        self.cat.judgements.push(Rc::new(judged));
        self.judged.insert(question, (next, id));
        (next, id)
    }

    /// The images that the protocol is shown; some defects bend them.
    fn shown(&self, rec: &Rec, nonce: u64) -> (Option<Item>, Option<Item>) {
        let image = |id: u16| (id != ABSENT).then(|| self.cat.get(id).item.clone());
        let (mut old, mut new) = (image(rec.old), image(rec.new));
        let (was, is) = (self.cat.get(rec.old), self.cat.get(rec.new));
        let (put_back, truth_is_agent) = (rec.truth == Truth::PutBack, rec.truth.is_agent());
        let text = is.stamp.as_deref().unwrap_or_default();
        let restamp = |item: &mut Option<Item>, stamp: String| {
            item.iter_mut()
                .for_each(|item| _ = item.insert(STAMP.to_owned(), AttributeValue::S(stamp.clone())));
        };
        let unstamp = |item: &mut Option<Item>| item.iter_mut().for_each(|item| _ = item.remove(STAMP));
        match self.set.defect {
            Defect::NoFingerprint if is.version.is_some() && !is.mark => {
                let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
                words[5] = tradewind::protocol::Fingerprint::of(&is.item).to_string();
                restamp(&mut new, words.join(" "));
            }
            Defect::StampNotAbove if is.matches && was.version >= is.version => unstamp(&mut old),
            Defect::NoBump if is.stamp.is_none() => unstamp(&mut old),
            Defect::NoNewStampFloor if !truth_is_agent && !is.mark && is.data != was.data => {
                unstamp(&mut new)
            }
            Defect::MarkPutBack if put_back && is.mark => {
                old = Some(item_of(&self.cat.keys[usize::from(rec.key)], is.data, None));
                restamp(&mut new, format!("{}{nonce:016x}", &text[..text.len() - 16]));
            }
            _ => {}
        }
        (old, new)
    }

    fn floors(&self, floors: [u8; MAX]) -> Floors {
        let mut built = Floors::default();
        for (origin, floor) in self.cat.origins.iter().zip(floors).take(self.set.regions) {
            built.raise(origin, Hlc::at_millis(u64::from(floor) * UNIT_MILLIS));
        }
        built
    }

    fn oldest(&self, agent: &Agent) -> Option<u8> {
        self.cat.get_memory(agent.memory).oldest().map(|since| u8::try_from(since).unwrap())
    }

    /// What an agent may make durable now, at best.
    pub(crate) fn checkpoint(&self, region: &Region) -> Durable {
        let agent = &region.agent;
        let mut next = agent.durable;
        for dest in 0..self.set.regions {
            next.done[dest] = agent.done(dest).max(agent.durable.done[dest]);
            next.watermark[dest] = region.time_at(next.done[dest]).max(next.watermark[dest]);
        }
        next.rewind = self.rewind(agent, &next.done).max(agent.durable.rewind);
        next.floors = agent.floors_at(next.rewind);
        next
    }

    /// Where the stream must be read again from, at the latest, when these records are done.
    fn rewind(&self, agent: &Agent, done: &[u8; MAX]) -> u8 {
        let least = done[..self.set.regions].iter().copied().min().unwrap_or_default().min(agent.read);
        let now = self.oldest(agent).unwrap_or(least);
        // As the memory was before the first record that is not done.
        let then = agent.log.get(usize::from(least)).map_or(now, |(_, since)| *since);
        match self.set.defect {
            Defect::MemoryLost => least,
            Defect::LateRewind => least.min(now),
            _ => least.min(then),
        }
    }

    /// What each region would promise its peers now, where crashes no longer tell that apart from
    /// what it has promised.
    pub(crate) fn promises(&self, state: &State) -> Option<Vec<[u8; MAX]>> {
        let counts = self.set.settles && state.left.crashes == 0;
        counts.then(|| state.regions.iter().map(|region| self.checkpoint(region).watermark).collect())
    }

    fn settle(&mut self, s: &mut State, r: usize) -> Option<()> {
        let region = &s.regions[r];
        let defect = self.set.defect;
        if !region.has_read_all() && defect != Defect::ForgetBeforeRead {
            return None;
        }
        // A watermark counts only when requests that were under way with it have landed: the
        // agent waits for longer than a request can live.
        if s.zombies.iter().any(|(dest, _)| usize::from(*dest) == r) && defect != Defect::EagerSettle {
            return None;
        }
        let mut floors = region.agent.floors;
        for (peer, floor) in floors.iter_mut().enumerate().take(self.set.regions) {
            let other = &s.regions[peer];
            let watermark = match defect {
                Defect::ForgetBeforeDone if peer == r => other.time_at(other.agent.read),
                Defect::EarlyWatermark => other.time_at(other.agent.read),
                Defect::VolatileWatermark => self.checkpoint(other).watermark[r],
                _ if s.left.crashes == 0 => self.checkpoint(other).watermark[r],
                _ => other.agent.durable.watermark[r],
            };
            *floor = watermark.max(*floor);
        }
        let memory = self.forget(r, region.agent.memory, floors);
        let agent = &mut s.regions[r].agent;
        if floors == agent.floors && memory == agent.memory {
            return None;
        }
        agent.floors = floors;
        agent.memory = memory;
        Some(())
    }

    fn forget(&mut self, r: usize, memory: u32, floors: [u8; MAX]) -> u32 {
        let question = (small(r), memory, floors);
        if let Some(next) = self.forgotten.get(&question) {
            return *next;
        }
        let peers: Vec<_> =
            (0..self.set.regions).filter(|p| *p != r).map(|p| self.cat.origins[p].clone()).collect();
        let extra = u8::from(self.set.defect == Defect::NoSlack);
        let floors = self.floors(floors.map(|floor| floor + extra));
        let mut mem = self.cat.get_memory(memory).clone();
        mem.forget(&peers, &floors);
        let next = self.cat.memory(mem);
        self.forgotten.insert(question, next);
        next
    }
}

/// For the oracle.
pub(crate) fn record_time(rec: &Rec) -> V {
    ((u64::from(rec.time) * UNIT_MILLIS) << 20, 0)
}
