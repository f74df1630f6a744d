//! The agents: how the shipped protocol is asked, and what is made durable around it.

use std::collections::HashMap;
use std::rc::Rc;

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{
    Action, Floors, Hlc, Item, KeyMemory, Nonce, Origin, Record, STAMP, Verdict, Write,
};

use super::catalogue::{FLOORS, Judged, MAX, item_of, v_of};
use super::seeder::HOLD;
use super::settings::Defect;
use super::steps::{Model, small};
use super::table::Met;
use super::world::{Agent, Contention, Durable, Pending, Rec, Region, State, Truth, UNIT_MILLIS};

/// What a judgement depends on.
type Question = (u8, u32, u8, u8, u16, u16, [u8; FLOORS], bool, Option<Truth>, bool);

/// What the protocol has been asked already.
#[derive(Default)]
pub(crate) struct Answers {
    judged: HashMap<Question, (u32, u32)>,
    forgotten: HashMap<(u8, u32, [u8; FLOORS], bool), u32>,
    /// Of an action in a region: what is found, and whether it is made whatever stands.
    pub(super) met: HashMap<(usize, u16, u16, bool), Met>,
}

impl Model {
    /// The agent judges its next record.
    pub(crate) fn read(&mut self, s: &mut State, r: usize) {
        let region = &s.regions[r];
        let ordinal = region.agent.read;
        let rec = region.stream[usize::from(ordinal)].clone();
        let oldest = self.oldest(&region.agent).unwrap_or(ordinal);
        let (memory, id) = self.protocol(r, &region.agent, s.left.crashes, ordinal, &rec);
        let judged = Rc::clone(&self.cat.judgements[id as usize]);
        let agent = &mut s.regions[r].agent;
        let floors = agent.judging(ordinal);
        agent.log.truncate(ordinal.into());
        agent.log.push((floors, oldest, judged.by_floors));
        agent.memory = memory;
        agent.read += 1;
        if let Some(arrived) = judged.arrived {
            for pending in agent.queue.iter_mut().filter(|p| (p.dest, p.key) == (arrived.1, rec.key)) {
                let write = self.cat.get_act(pending.act).action.write().map(|write| v_of(&write.version));
                pending.superseded |= write.is_some_and(|version| version < arrived);
            }
        }
        for dest in 0..self.set.regions {
            let acts = if dest == r { &judged.for_here } else { &judged.for_peers[dest] };
            if ordinal >= agent.act_from[dest] {
                let (dest, key) = (small(dest), rec.key);
                let pending = |act: &u16| Pending {
                    ordinal,
                    dest,
                    key,
                    act: *act,
                    contention: Contention::No,
                    superseded: false,
                };
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
    fn protocol(&mut self, r: usize, agent: &Agent, left: u8, ordinal: u8, rec: &Rec) -> (u32, u32) {
        // Who made a write, only a defect asks.
        let truth = (self.set.defect != Defect::None).then_some(rec.truth);
        let crashed = self.set.defect == Defect::Recall && left < self.set.crashes;
        let Agent { memory, in_place, .. } = agent;
        let floors = agent.judging(ordinal);
        let question =
            (small(r), *memory, ordinal, rec.time, rec.old, rec.new, floors, *in_place, truth, crashed);
        if let Some(known) = self.answers.judged.get(&question) {
            return *known;
        }
        let (mut old, new) = self.shown(rec, self.cat.nonce(r, 0xdead_0000 + u64::from(ordinal)));
        let heals = rec.truth == Truth::AgentHeal && self.cat.get(rec.old).stamp.is_some();
        if crashed && rec.truth == Truth::AgentDelete {
            old = old.map(|item| item.into_iter().filter(|(name, _)| name != STAMP).collect());
        } else if self.set.defect == Defect::StrangeHeal && heals && self.cat.get_memory(*memory).is_empty() {
            old = None;
        }
        let key = self.cat.keys[usize::from(rec.key)].clone();
        let record = Record { created_millis: u64::from(rec.time) * UNIT_MILLIS, key, old, new };
        let mut mem = self.cat.get_memory(*memory).clone();
        let judgement = mem.judge(ordinal.into(), record, &self.floors(floors), *in_place);
        if self.set.defect == Defect::NoChainMemory && judgement.verdict == Verdict::LocalPut {
            mem = KeyMemory::new(self.cat.origins[r].clone());
        }
        let next = self.cat.memory(mem);
        let mut judged = Judged {
            verdict: judgement.verdict,
            version: None,
            base: None,
            for_peers: Default::default(),
            for_here: vec![],
            arrived: judgement.arrived.as_ref().map(|(_, version)| v_of(version)),
            conflict: judgement.conflict.map(|c| (v_of(&c.lost), v_of(&c.won))),
            by_floors: judgement.by_floors,
        };
        for action in judgement.actions {
            if let Action::Push(write) = &action {
                judged.version = Some(v_of(&write.version));
                judged.base = write.base.as_ref().map(v_of);
                for dest in 0..self.set.regions {
                    if let Some(write) = self.view(dest, write) {
                        judged.for_peers[dest].push(self.cat.act(rec.key, Action::Push(write)));
                    }
                }
            } else if self.set.defect != Defect::FarDelete || !matches!(action, Action::ApplyDelete { .. }) {
                judged.for_here.push(self.cat.act(rec.key, action));
            }
        }
        let id = u32::try_from(self.cat.judgements.len()).unwrap();
        self.cat.judgements.push(Rc::new(judged));
        self.answers.judged.insert(question, (next, id));
        (next, id)
    }

    /// What of a write is to be done in a region.
    fn view(&self, dest: usize, write: &Write) -> Option<Write> {
        let selects = self.set.selects && dest + 1 == self.set.regions;
        let view = if selects { self.cat.even.view(write)?.into_owned() } else { write.clone() };
        (self.set.defect != Defect::NotSent || view.body == write.body).then_some(view)
    }

    /// The images that the protocol is shown; some defects bend them.
    fn shown(&self, rec: &Rec, fresh: Nonce) -> (Option<Item>, Option<Item>) {
        let image = |id: u16| self.cat.item(id).cloned();
        let (mut old, mut new) = (image(rec.old), image(rec.new));
        let (was, is) = (self.cat.get(rec.old), self.cat.get(rec.new));
        let (put_back, truth_is_agent) = (rec.truth == Truth::PutBack, rec.truth.is_agent());
        let text = is.stamp.as_deref().unwrap_or_default();
        let restamp = |item: &mut Option<Item>, stamp: String| {
            if let Some(item) = item {
                item.insert(STAMP.to_owned(), AttributeValue::S(stamp));
            }
        };
        let unstamp = |item: &mut Option<Item>| {
            if let Some(item) = item {
                item.remove(STAMP);
            }
        };
        match self.set.defect {
            // As if more stamps of the key had come than are remembered.
            Defect::NoFingerprint if is.version.is_some() && !is.mark => {
                let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
                words[5] = tradewind::protocol::Fingerprint::of(&is.item).to_string();
                words[6] = fresh.to_string();
                restamp(&mut new, words.join(" "));
            }
            Defect::StampNotAbove if is.matches && was.version >= is.version => {
                unstamp(&mut old);
                restamp(&mut new, format!("{}{fresh}", &text[..text.len() - 16]));
            }
            Defect::StampIsWrite if rec.truth == Truth::AgentStamp && !is.matches => {
                old = Some(item_of(&self.cat.keys[usize::from(rec.key)], 0, was.stamp.as_deref()));
            }
            Defect::NoBump if is.stamp.is_none() => unstamp(&mut old),
            Defect::NoNewStampFloor if !truth_is_agent && !is.mark && is.data != was.data => {
                unstamp(&mut new);
            }
            Defect::MarkPutBack if put_back && is.mark => {
                old = Some(item_of(&self.cat.keys[usize::from(rec.key)], is.data, None));
                restamp(&mut new, format!("{}{fresh}", &text[..text.len() - 16]));
            }
            Defect::NoRegion | Defect::CopyIsStamp
                if put_back
                    && is.stamp.is_some()
                    && (self.set.defect == Defect::NoRegion
                        || !is.matches && !is.mark && is.data == was.data) =>
            {
                let own = fresh.to_string();
                let tail = text.len() - 16;
                restamp(&mut new, format!("{}{}{}", &text[..tail], &own[..4], &text[tail + 4..]));
            }
            _ => {}
        }
        (old, new)
    }

    /// Of two writes of one key that are queued for one destination, the newer does for the other.
    pub(crate) fn coalesce(&mut self, s: &mut State, r: u8, lane: (u8, u8), skip: u8) -> Option<()> {
        let queue = &mut s.regions[usize::from(r)].agent.queue;
        let mut its = queue.iter().enumerate().filter(|(_, p)| (p.dest, p.key) == lane).skip(skip.into());
        let ((first, _), (second, _)) = (its.next()?, its.next()?);
        let before = self.cat.get_act(queue[first].act).action.clone();
        let mut action = self.cat.get_act(queue[second].act).action.clone();
        let (own_base, oldest) = match (&action, &before) {
            (Action::Push(write), Action::Push(before)) => (write.base.clone(), before.clone()),
            _ => return None,
        };
        let takes = action.coalesce(&before) || self.set.defect == Defect::PastConflict;
        if let Action::Push(write) = &mut action {
            match self.set.defect {
                Defect::OwnBase => write.base = own_base,
                Defect::PastConflict => (write.base, write.replaced) = (oldest.base, oldest.replaced),
                _ => {}
            }
        }
        if !takes {
            return None;
        }
        // What has met something may have been made; what is made must be what it was when it was begun.
        if queue[first].contention != Contention::No {
            return None;
        }
        queue[first].act = self.cat.act(lane.1, action);
        queue[first].superseded = queue[second].superseded;
        queue.remove(second);
        Some(())
    }

    fn floors(&self, floors: [u8; FLOORS]) -> Floors {
        let mut built = Floors::default();
        for (origin, floor) in self.cat.origins.iter().zip(floors).take(self.set.regions) {
            built.raise(origin, Hlc::at_millis(u64::from(floor) * UNIT_MILLIS));
        }
        if floors[MAX] > 0 || self.set.defect == Defect::SeedIsNoSeed {
            built.raise(&Origin::seeding(), Hlc::from(HOLD + 1));
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
        next.rewind = self.rewind(agent, next.done).max(agent.durable.rewind);
        next.floors = agent.floors_at(next.rewind);
        next
    }

    /// Where the stream must be read again from, at the latest, when these records are done.
    pub(crate) fn rewind(&self, agent: &Agent, done: [u8; MAX]) -> u8 {
        let least = done[..self.set.regions].iter().copied().min().unwrap_or_default().min(agent.read);
        let now = self.oldest(agent).unwrap_or(least);
        // As the memory was before the first record that is not done.
        let then = agent.log.get(usize::from(least)).map_or(now, |(_, since, _)| *since);
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

    pub(crate) fn settle(&mut self, s: &mut State, r: usize) -> Option<()> {
        let region = &s.regions[r];
        let defect = self.set.defect;
        if !region.has_read_all() && defect == Defect::ForgetAtRelease && s.seeder.released[r] {
            let memory = self.forget(r, region.agent.memory, region.agent.floors, false);
            let agent = &mut s.regions[r].agent;
            return (std::mem::replace(&mut agent.memory, memory) != memory).then_some(());
        }
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
        let told = match defect {
            Defect::EarlyRelease => s.seeder.has_decided(),
            _ => s.seeder.released[r],
        };
        floors[MAX] = u8::from(told).max(floors[MAX]);
        let held = match defect {
            Defect::NoHold => false,
            _ => s.seeder.held[r],
        };
        let memory = self.forget(r, region.agent.memory, floors, held);
        let agent = &mut s.regions[r].agent;
        if floors == agent.floors && memory == agent.memory {
            return None;
        }
        agent.floors = floors;
        agent.memory = memory;
        Some(())
    }

    fn forget(&mut self, r: usize, memory: u32, floors: [u8; FLOORS], held: bool) -> u32 {
        let question = (small(r), memory, floors, held);
        if let Some(next) = self.answers.forgotten.get(&question) {
            return *next;
        }
        let peers: Vec<_> =
            (0..self.set.regions).filter(|p| *p != r).map(|p| self.cat.origins[p].clone()).collect();
        let extra = u8::from(self.set.defect == Defect::NoSlack);
        let over = floors[MAX];
        let mut floors = floors.map(|floor| floor + extra);
        floors[MAX] = over;
        let floors = self.floors(floors);
        let mut mem = self.cat.get_memory(memory).clone();
        mem.forget(&peers, &floors, held.then_some(HOLD));
        let next = self.cat.memory(mem);
        self.answers.forgotten.insert(question, next);
        next
    }
}
