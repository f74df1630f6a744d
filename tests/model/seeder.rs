//! The seeder: what `operate::seeding` does for one key. Which copies it makes, the shipped protocol
//! says.

use tradewind::protocol::{Body, Guard, Hlc, Seeding, Selections, Version, seed};

use super::catalogue::{ABSENT, MAX, data_of};
use super::settings::Defect;
use super::steps::{Model, small};
use super::world::{State, Step, Truth, UNIT_MILLIS};

/// The number of the hold.
pub(crate) const HOLD: u64 = 1;
/// The key that is seeded.
const KEY: u8 = 0;

/// Where the seeder stands.
#[derive(Clone, Hash, Default)]
pub(crate) struct Seeder {
    /// The regions whose agents know of the hold.
    pub(crate) held: [bool; MAX],
    /// How many records were in each stream when its last barrier was raised.
    barrier: [Option<u8>; MAX],
    /// What each region showed.
    looks: [Option<u16>; MAX],
    /// What they showed at the first look.
    first: Option<[Option<u16>; MAX]>,
    /// What is to be written.
    to_do: Option<Vec<u16>>,
    /// What is under way, and nobody waits for.
    late: Vec<u16>,
    /// Where the hold is told to be over.
    pub(crate) released: [bool; MAX],
    /// There is no seeder.
    none: bool,
}

impl Seeder {
    pub(crate) fn none() -> Self {
        Self { none: true, ..Self::default() }
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.none || self.released[0] && self.late.is_empty()
    }

    pub(crate) fn has_decided(&self) -> bool {
        self.to_do.is_some()
    }
}

impl Model {
    pub(crate) fn seeder_steps(&self, state: &State, steps: &mut Vec<Step>) {
        let seeder = &state.seeder;
        if seeder.none {
            return;
        }
        let all = 0..small(self.set.regions);
        let first = |test: &dyn Fn(usize) -> bool| all.clone().find(|region| test((*region).into()));
        steps.extend(seeder.late.iter().map(|seed| Step::SeedLand { seed: *seed }));
        let Some(to_do) = &seeder.to_do else {
            // One region after the other, whatever else happens between: the order is of no account.
            if let Some(region) = first(&|r| seeder.barrier[r].is_none()) {
                steps.push(Step::SeedHold { region });
            } else if let Some(region) = first(&|r| seeder.looks[r].is_none())
                && (self.set.defect == Defect::HoldNotAwaited || self.has_passed(state))
            {
                steps.push(Step::SeedLook { region });
            }
            return;
        };
        for seed in to_do {
            steps.push(Step::SeedDo { seed: *seed });
            if state.left.dups > 0 {
                steps.push(Step::SeedDuplicate { seed: *seed });
            }
            if state.left.zombies > 0 && !seeder.late.contains(seed) {
                steps.push(Step::SeedDelay { seed: *seed });
            }
        }
        if to_do.is_empty()
            && seeder.late.is_empty()
            && let Some(region) = first(&|r| !seeder.released[r])
        {
            steps.push(Step::SeedRelease { region });
        }
    }

    /// Whether all that was written before the barriers is done everywhere, and durably so.
    fn has_passed(&self, state: &State) -> bool {
        state.regions.iter().zip(state.seeder.barrier).all(|(region, barrier)| {
            let durable =
                if state.left.crashes == 0 { self.checkpoint(region) } else { region.agent.durable };
            let done = &durable.done[..self.set.regions];
            barrier.is_some_and(|barrier| done.iter().all(|done| *done >= barrier))
        })
    }

    pub(crate) fn seeder_step(&mut self, s: &mut State, step: Step) -> Option<()> {
        match step {
            Step::SeedHold { region } => {
                let r = usize::from(region);
                s.seeder.held[r] = true;
                s.seeder.barrier[r] = Some(small(s.regions[r].stream.len()));
            }
            Step::SeedLook { region } => {
                let r = usize::from(region);
                s.seeder.looks[r] = Some(s.regions[r].items[usize::from(KEY)]);
                if s.seeder.looks[..self.set.regions].iter().all(Option::is_some) {
                    self.decide(s);
                }
            }
            Step::SeedDo { seed } => {
                s.seeder.to_do.as_mut()?.retain(|other| *other != seed);
                self.write_seed(s, seed);
            }
            Step::SeedDuplicate { seed } => {
                let before: usize = s.regions.iter().map(|region| region.stream.len()).sum();
                self.write_seed(s, seed);
                if s.regions.iter().map(|region| region.stream.len()).sum::<usize>() == before {
                    return None;
                }
                s.left.dups -= 1;
            }
            Step::SeedDelay { seed } => {
                s.seeder.late.push(seed);
                s.left.zombies -= 1;
            }
            Step::SeedLand { seed } => {
                s.seeder.late.retain(|other| *other != seed);
                self.write_seed(s, seed);
            }
            Step::SeedRelease { region } => s.seeder.released[usize::from(region)] = true,
            _ => return None,
        }
        Some(())
    }

    fn decide(&mut self, s: &mut State) {
        let items: Vec<_> = (0..self.set.regions)
            .map(|r| {
                let image = s.seeder.looks[r].filter(|image| *image != ABSENT);
                (self.cat.origins[r].clone(), image.map(|image| self.cat.get(image).item.clone()))
            })
            .collect();
        let to: Vec<_> = items.iter().map(|(region, _)| region.clone()).collect();
        let key = self.cat.keys[usize::from(KEY)].clone();
        let seeder = &mut s.seeder;
        let seeds = match seed(&key, &items, &Selections::default(), &to, HOLD) {
            Seeding::Same | Seeding::Marked => vec![],
            Seeding::Copy(seeds) | Seeding::Clash(seeds) => match seeder.first {
                _ if self.set.defect == Defect::OneLook => seeds,
                Some(first) if first == seeder.looks => seeds,
                // It changed: what was written is on its way.
                Some(_) => vec![],
                None => {
                    seeder.first = Some(seeder.looks);
                    (seeder.looks, seeder.barrier) = ([None; MAX], [None; MAX]);
                    return;
                }
            },
        };
        let live = self.set.defect == Defect::SeedIsNew;
        let seeds = seeds.into_iter().map(|mut seed| {
            if live {
                let time = s.regions.iter().map(|region| region.clock).max().unwrap_or_default();
                let origin = seed.write.version.origin.clone();
                seed.write.version = Version { hlc: Hlc::at_millis(u64::from(time) * UNIT_MILLIS), origin };
            }
            self.cat.seed(seed)
        });
        seeder.to_do = Some(seeds.collect());
    }

    /// One physical write of a seed: what `replica::Replica` asks of DynamoDB.
    fn write_seed(&mut self, s: &mut State, seed: u16) {
        let seed = self.cat.get_seed(seed).clone();
        let r = self.cat.origins.iter().position(|origin| *origin == seed.region).unwrap();
        let region = &s.regions[r];
        let item = region.items[usize::from(KEY)];
        let guard = Guard::exactly(seed.write.replaced.as_deref());
        let holds = guard.holds(self.cat.item(item));
        let Body::Put(data, _) = &seed.write.body else { return };
        if !holds {
            return;
        }
        let nonce = self.cat.nonce(r, region.stream.len() as u64 + 1);
        let stamp = seed.write.stamp(nonce, &guard).to_string();
        let new = self.cat.image(KEY, data_of(data), Some(stamp.into()));
        self.write(s, r, KEY, new, Truth::AgentPut);
    }
}
