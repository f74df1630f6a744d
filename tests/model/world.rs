//! What a search knows of the world at one moment, and what can happen next.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use super::catalogue::{FLOORS, KEYS, MAX, V};
use super::seeder::Seeder;
use super::settings::Setting;

/// One unit of the model's clocks: as far as the protocol lets record times go back.
pub(crate) const UNIT_MILLIS: u64 = tradewind::protocol::SLACK_MILLIS;
/// How far a clock moves on at once: by more than it may go back.
pub(crate) const TICK: u8 = 2;

/// Who made a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Truth {
    Put,
    Update,
    PutBack,
    /// By an application, or by the service, for TTL: their records differ only in the user
    /// identity, which the protocol does not read.
    Delete,
    AgentPut,
    /// A put of the region's own agent.
    AgentHeal,
    /// A stamp beside what stands.
    AgentStamp,
    AgentMark,
    AgentDelete,
}

impl Truth {
    pub(crate) fn is_agent(self) -> bool {
        matches!(
            self,
            Self::AgentPut | Self::AgentHeal | Self::AgentStamp | Self::AgentMark | Self::AgentDelete
        )
    }
}

#[derive(Clone, Hash)]
pub(crate) struct Rec {
    pub(crate) key: u8,
    pub(crate) time: u8,
    pub(crate) old: u16,
    pub(crate) new: u16,
    pub(crate) truth: Truth,
    /// The first judgement, or 0.
    pub(crate) judged: u32,
}

/// What an agent has made durable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Durable {
    pub(crate) rewind: u8,
    /// The floors in force at `rewind`.
    pub(crate) floors: [u8; FLOORS],
    /// By destination: all records before are done.
    pub(crate) done: [u8; MAX],
    pub(crate) watermark: [u8; MAX],
}

/// What a push has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Contention {
    No,
    /// A write that its region's agent has not told of; the own stamp is to be set at home.
    Met,
    /// That has been done since.
    Stamped,
}

/// What an agent was about to do: the record's ordinal, the destination, the action.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pending {
    pub(crate) ordinal: u8,
    pub(crate) dest: u8,
    pub(crate) key: u8,
    pub(crate) act: u16,
    /// Whether it has met a write that its region's agent has not told of.
    pub(crate) contention: Contention,
    /// Something newer has come from where it goes meanwhile.
    pub(crate) superseded: bool,
}

#[derive(Clone, Hash)]
pub(crate) struct Agent {
    pub(crate) memory: u32,
    pub(crate) floors: [u8; FLOORS],
    /// How many records have been read.
    pub(crate) read: u8,
    /// In order for each destination and key.
    pub(crate) queue: Vec<Pending>,
    /// By destination: records before are not acted on (again).
    pub(crate) act_from: [u8; MAX],
    /// Per record read: the floors in force, where a rebuild of the memory before it starts, and whether the
    /// floors said what it is.
    pub(crate) log: Vec<([u8; FLOORS], u8, bool)>,
    pub(crate) durable: Durable,
    /// The floors that count besides those of the rewind position, from which record on; durable with it.
    pub(crate) terms: Vec<(u8, [u8; FLOORS])>,
    pub(crate) in_place: bool,
}

#[derive(Clone, Hash)]
pub(crate) struct Region {
    pub(crate) clock: u8,
    pub(crate) items: [u16; KEYS],
    pub(crate) stream: Vec<Rec>,
    pub(crate) agent: Agent,
    /// The images that an application may put back.
    pub(crate) seen: BTreeSet<u16>,
    pub(crate) puts: u8,
    /// The oracle's: the highest version that the stream has shown, by key.
    pub(crate) highest: [V; KEYS],
    /// The oracle's: whether the stream has shown an older write in the place of that.
    pub(crate) stale: [bool; KEYS],
    /// The oracle's: the conflicts that were told.
    pub(crate) lost: Vec<(u8, V)>,
}

#[derive(Clone)]
pub(crate) struct State {
    pub(crate) regions: Vec<Region>,
    /// Requests under way that no agent waits for: destination, action.
    pub(crate) zombies: BTreeSet<(u8, u16)>,
    pub(crate) seeder: Seeder,
    pub(crate) left: Left,
    /// The oracle's: by key, the highest version of all, and its data (0 for absent).
    pub(crate) best: [(V, u8); KEYS],
    /// The oracle's, where writes do for others: what each was made on top of.
    pub(crate) bases: BTreeMap<(u8, V), Option<V>>,
}

/// How often each thing can still happen.
#[derive(Clone, Copy, Hash)]
pub(crate) struct Left {
    pub(crate) ops: u8,
    pub(crate) crashes: u8,
    pub(crate) ticks: u8,
    pub(crate) backs: u8,
    pub(crate) dups: u8,
    pub(crate) zombies: u8,
}

impl Left {
    /// How many faults there have been.
    pub(crate) fn faults_since(self, set: &Setting) -> u8 {
        (set.crashes - self.crashes) + (set.dups - self.dups) + (set.zombies - self.zombies)
    }
}

/// What happens next. Regions, keys and destinations are numbers here, for brevity.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Put {
        region: u8,
        key: u8,
    },
    Update {
        region: u8,
        key: u8,
    },
    /// A copy with its old stamp, and new data.
    Edit {
        region: u8,
        image: u16,
    },
    PutBack {
        region: u8,
        image: u16,
    },
    Delete {
        region: u8,
        key: u8,
    },
    Tick {
        region: u8,
    },
    Back {
        region: u8,
    },
    /// The agent judges the next record.
    Read {
        region: u8,
    },
    /// A request is made and answered.
    Do {
        region: u8,
        dest: u8,
        key: u8,
    },
    /// While a request is contended, its agent sets the stamp beside what stands in its own replica.
    StampAtHome {
        region: u8,
        dest: u8,
        key: u8,
    },
    /// A request that has been contended for long is made whatever stands.
    Insist {
        region: u8,
        dest: u8,
        key: u8,
    },
    /// Of two queued writes of a key, the newer one does for the other: the first two, or the ones after.
    Coalesce {
        region: u8,
        dest: u8,
        key: u8,
        skip: u8,
    },
    /// A request takes effect, but the answer is lost.
    Duplicate {
        region: u8,
        dest: u8,
        key: u8,
    },
    /// A request gets lost on its way; for now.
    Delay {
        region: u8,
        dest: u8,
        key: u8,
    },
    Land {
        dest: u8,
        act: u16,
    },
    /// Progress is made durable: at which rewind position, and whether that of the destinations
    /// stays.
    Checkpoint {
        region: u8,
        rewind: u8,
        pin_done: bool,
    },
    Crash {
        region: u8,
    },
    /// Watermarks are read, and memory is forgotten.
    Settle {
        region: u8,
    },
    /// Local writes are stamped in place from now on.
    InPlace {
        region: u8,
    },
    /// The seeder raises its hold, or the next barrier.
    SeedHold {
        region: u8,
    },
    /// The seeder reads what a region holds.
    SeedLook {
        region: u8,
    },
    /// A seed is written, and answered.
    SeedDo {
        seed: u16,
    },
    /// A seed is written, but the answer is lost.
    SeedDuplicate {
        seed: u16,
    },
    /// A seed gets lost on its way; for now.
    SeedDelay {
        seed: u16,
    },
    SeedLand {
        seed: u16,
    },
    /// The seeder says that its hold is over.
    SeedRelease {
        region: u8,
    },
}

impl Step {
    /// Whether agents, or what is under way, get on by it.
    pub(crate) fn is_work(self) -> bool {
        match self {
            Self::Read { .. }
            | Self::Do { .. }
            | Self::StampAtHome { .. }
            | Self::Land { .. }
            | Self::SeedHold { .. }
            | Self::SeedLook { .. }
            | Self::SeedDo { .. }
            | Self::SeedLand { .. }
            | Self::SeedRelease { .. } => true,
            Self::Put { .. }
            | Self::Update { .. }
            | Self::Edit { .. }
            | Self::PutBack { .. }
            | Self::Delete { .. }
            | Self::Tick { .. }
            | Self::Back { .. }
            | Self::Insist { .. }
            | Self::Coalesce { .. }
            | Self::Duplicate { .. }
            | Self::Delay { .. }
            | Self::Checkpoint { .. }
            | Self::Crash { .. }
            | Self::Settle { .. }
            | Self::InPlace { .. }
            | Self::SeedDuplicate { .. }
            | Self::SeedDelay { .. } => false,
        }
    }
}

impl Region {
    /// The creation time of the record at a position, or of the next one to come.
    pub(crate) fn time_at(&self, position: u8) -> u8 {
        self.stream.get(usize::from(position)).map_or(self.clock, |rec| rec.time)
    }

    pub(crate) fn has_read_all(&self) -> bool {
        usize::from(self.agent.read) == self.stream.len()
    }
}

impl Agent {
    /// The next record that is not done for a destination.
    pub(crate) fn done(&self, dest: usize) -> u8 {
        let pending = self.queue.iter().find(|pending| usize::from(pending.dest) == dest);
        let next = pending.map_or(self.read, |pending| pending.ordinal);
        next.max(self.act_from[dest].min(self.read))
    }

    pub(crate) fn front(&self, dest: u8, key: u8) -> Option<usize> {
        self.queue.iter().position(|pending| pending.dest == dest && pending.key == key)
    }

    /// The floors by which the record at a position is judged.
    pub(crate) fn judging(&self, position: u8) -> [u8; FLOORS] {
        let terms = self.terms.iter().filter(|(from, _)| *from <= position);
        terms.fold(self.floors, |floors, (_, term)| std::array::from_fn(|i| floors[i].max(term[i])))
    }

    pub(crate) fn floors_at(&self, position: u8) -> [u8; FLOORS] {
        self.log.get(usize::from(position)).map_or_else(|| self.judging(position), |(floors, ..)| *floors)
    }

    /// What is made durable of the floors, beside those of the rewind position.
    pub(crate) fn terms(&self, rewind: u8, done: &[u8], told_by: bool) -> Vec<(u8, [u8; FLOORS])> {
        let most = done.iter().copied().max().unwrap_or_default();
        let told = |p: &u8| told_by && self.log.get(usize::from(*p)).is_some_and(|(.., told)| *told);
        let told = (rewind..most).filter(told);
        // What is read once more has not been read so far.
        let kept = self.terms.iter().map(|(from, _)| *from).filter(|from| *from >= self.read);
        let mut from: Vec<u8> = told.chain(kept).chain(done.iter().copied()).collect();
        from.sort_unstable();
        from.dedup();
        let mut terms: Vec<_> = from.into_iter().map(|from| (from, self.floors_at(from))).collect();
        let at_rewind = self.floors_at(rewind);
        terms.dedup_by_key(|(_, floors)| *floors);
        terms.retain(|(_, floors)| *floors != at_rewind);
        terms
    }
}

impl State {
    /// Whether nothing is left to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.zombies.is_empty()
            && self.seeder.is_quiet()
            && self.regions.iter().all(|region| region.agent.queue.is_empty() && region.has_read_all())
    }

    /// The part of a state that the future can depend on. `watermarks` are what each region would
    /// promise now, where that counts.
    pub(crate) fn digest(&self, watermarks: Option<&[[u8; MAX]]>) -> u64 {
        let mut h = DefaultHasher::new();
        let Left { ops, crashes, dups, zombies, ticks, backs } = self.left;
        (
            ops,
            crashes,
            dups,
            zombies,
            ticks,
            &self.best,
            &self.bases,
            &self.zombies,
            &self.seeder,
            watermarks,
        )
            .hash(&mut h);
        if ops > 0 {
            backs.hash(&mut h);
        }
        for region in &self.regions {
            let agent = &region.agent;
            (region.clock, region.items, region.stream.len(), region.highest, region.stale, &region.lost)
                .hash(&mut h);
            (agent.memory, agent.floors, agent.read, &agent.queue, agent.in_place).hash(&mut h);
            agent.act_from.map(|from| from.max(agent.read)).hash(&mut h);
            if ops > 0 {
                (&region.seen, region.puts).hash(&mut h);
            }
            if crashes > 0 {
                (&region.stream, &agent.log, agent.durable, &agent.terms).hash(&mut h);
            } else {
                region.stream[usize::from(agent.read)..].hash(&mut h);
            }
        }
        h.finish()
    }
}
