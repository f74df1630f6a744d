//! The tables: what a write does, and when the condition of an agent's write holds.

use std::rc::Rc;

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{Action, Body, Floors, Guard, Item, Next, Origin, Past, STAMP, StampGuard};

use super::catalogue::{ABSENT, BARE, v_of};
use super::settings::{Defect, PutBacks};
use super::steps::Model;
use super::world::{Pending, Rec, State, Truth};

/// What a write of an agent met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// What it expected.
    Holds,
    /// Something that it may replace by a second request.
    Again,
    Superseded,
    Contended,
}

impl Model {
    /// A write takes effect in a table. One that changes nothing makes no record.
    pub(crate) fn write(&mut self, s: &mut State, r: usize, key: u8, new: u16, truth: Truth) {
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

    /// What an agent's write finds, and what follows: as the shipped guard says, by the rules of the service.
    fn meets(&mut self, dest: usize, act: u16, stored: u16, insists: bool) -> Met {
        let question = (dest, act, stored, insists);
        if let Some(met) = self.answers.met.get(&question) {
            return *met;
        }
        let act = self.cat.get_act(act);
        let found = self.cat.item(stored);
        let to = &self.cat.origins[dest];
        let guard = self.bend_guard(to, &act.action, stored, insists);
        let met = if guard.holds(found) || self.is_of_same_version(&act.action, stored) {
            Met::Holds
        } else {
            match act.action.next(to, found) {
                Next::Superseded if self.is_copy_for(to, &act.action, stored) => Met::Again,
                Next::Superseded => Met::Superseded,
                Next::Again => Met::Again,
                Next::Contended if self.is_blind(&act.action, stored) => Met::Again,
                Next::Contended => Met::Contended,
            }
        };
        self.answers.met.insert(question, met);
        met
    }

    /// Whether a heal without the rule takes this for one more older write.
    fn is_copy_for(&self, to: &Origin, action: &Action, stored: u16) -> bool {
        let Action::Heal(write, past) = action else { return false };
        let found = self.cat.get(stored);
        match self.set.defect {
            Defect::HealOverCopy => {
                (found.matches || found.mark)
                    && found.version.is_some_and(|found| found < v_of(&write.version))
            }
            Defect::HealPastFloors => {
                let past = Past { floors: Floors::default(), ..past.clone() };
                Action::Heal(write.clone(), past).next(to, self.cat.item(stored)) == Next::Again
            }
            _ => false,
        }
    }

    /// What an action expects at first; some defects bend it.
    fn bend_guard<'a>(&'a self, to: &Origin, action: &'a Action, stored: u16, insists: bool) -> Guard<'a> {
        match (action, self.set.defect) {
            (Action::Push(write), Defect::NoGuard) => Guard::Below(&write.version),
            (Action::Push(write), _) if insists => Guard::Below(&write.version),
            (Action::Heal(write, _), Defect::BlindHeal) if self.cat.get(stored).version.is_some() => {
                Guard::Below(&write.version)
            }
            (Action::ApplyDelete { marked, .. }, Defect::BlindDelete | Defect::FarDelete) => {
                Guard::Stamp(marked.get(STAMP))
            }
            (Action::Push(write), Defect::NoBase) => match action.guard(to) {
                Guard::Data { image, or_absent, .. } => {
                    Guard::Data { image, stamp: StampGuard::Below(&write.version), or_absent }
                }
                guard => guard,
            },
            _ => action.guard(to),
        }
    }

    /// Whether a defect takes a mark of the same version, of another attempt, for the one that was read.
    fn is_of_same_version(&self, action: &Action, stored: u16) -> bool {
        let Action::ApplyDelete { marked, .. } = action else { return false };
        let text = |item: Option<&Item>| Some(item?.get(STAMP)?.as_s().ok()?.rsplit_once(' ')?.0.to_owned());
        let read = text(Some(marked));
        self.set.defect == Defect::NoNonce && read.is_some() && read == text(self.cat.item(stored))
    }

    /// Whether a defect takes what an application wrote on top of a lower stamp for a replicated write.
    fn is_blind(&self, action: &Action, stored: u16) -> bool {
        let Action::Push(write) = action else { return false };
        let below = self.cat.get(stored).version.is_some_and(|version| version < v_of(&write.version));
        self.set.defect == Defect::AgainOnTop && below
    }

    /// One write of an agent: what `replica::Replica` asks of DynamoDB, until it is clear what comes of it.
    ///
    /// That takes several requests where something else is found. What happens between them is left out: a
    /// request that expects exactly what the one before it found comes to the same as both at once.
    pub(crate) fn attempt(&mut self, s: &mut State, dest: usize, act: u16, insists: bool) -> Met {
        let item = s.regions[dest].items[usize::from(self.cat.get_act(act).key)];
        let met = self.meets(dest, act, item, insists);
        let act = Rc::clone(self.cat.get_act(act));
        let present = item != ABSENT;
        let nonce = self.cat.nonce(dest, s.regions[dest].stream.len() as u64 + 1);
        let defect = self.set.defect;
        if !matches!(met, Met::Holds | Met::Again) {
            let blind = defect == Defect::InPlaceBlind && matches!(act.action, Action::Restamp(_)) && present;
            if !blind {
                return met;
            }
        }
        let stored_data = self.cat.get(item).data;
        let Some(write) = act.action.write() else {
            self.write(s, dest, act.key, ABSENT, Truth::AgentDelete);
            return met;
        };
        let marks = write.body == Body::Delete;
        if defect == Defect::NoHeal && matches!(act.action, Action::Heal(..)) {
            return met;
        }
        if marks && defect == Defect::NoMark && present && matches!(act.action, Action::Push(_)) {
            self.write(s, dest, act.key, ABSENT, Truth::AgentDelete);
            return met;
        }
        if marks && defect == Defect::PlainMark && !present {
            return met;
        }
        let guard = if met == Met::Holds {
            self.bend_guard(&self.cat.origins[dest], &act.action, item, insists)
        } else {
            Guard::exactly(self.cat.item(item))
        };
        let stamp = match &act.action {
            Action::Restamp(_) => write.stamp_at_home(nonce),
            _ => write.stamp(nonce, &guard),
        };
        let stamp = stamp.to_string();
        let (data, truth) = match (&act.action, act.data) {
            (Action::Restamp(_), _) if defect != Defect::StampByPut => (stored_data, Truth::AgentStamp),
            (Action::Heal(..), Some(data)) => (data, Truth::AgentHeal),
            (_, Some(data)) => (data, Truth::AgentPut),
            (_, None) => (if present { stored_data } else { BARE }, Truth::AgentMark),
        };
        self.tally.heals += usize::from(matches!(act.action, Action::Heal(..)));
        let new = self.cat.image(act.key, data, Some(stamp.into()));
        self.write(s, dest, act.key, new, truth);
        met
    }

    /// What an agent does at home while a push of its is contended: it sets the stamp of the newest write that
    /// is queued beside what stands, so that the other side can see the version.
    pub(crate) fn stamp_at_home(&mut self, s: &mut State, r: usize, lane: (u8, u8)) -> Option<()> {
        let newest = s.regions[r].agent.queue.iter().rfind(|pending| (pending.dest, pending.key) == lane)?;
        let act = Rc::clone(self.cat.get_act(newest.act));
        let Action::Push(write) = &act.action else { return None };
        if self.set.defect == Defect::NoStamp {
            return None;
        }
        let before = s.regions[r].stream.len();
        let restamp = self.cat.act(act.key, Action::Restamp(write.clone()));
        self.attempt(s, r, restamp, false);
        (s.regions[r].stream.len() > before).then_some(())
    }

    /// The second step of a delete that no replica's own agent makes.
    pub(crate) fn delete_from_afar(&mut self, s: &mut State, r: u8, done: Pending) {
        let act = self.cat.get_act(done.act);
        let (key, deletes) = (act.key, act.data.is_none() && act.action.write().is_some());
        let image = self.cat.get(s.regions[usize::from(done.dest)].items[usize::from(key)]);
        if let (true, Some(mark)) = (deletes && image.mark, &image.stamp) {
            let mut marked = image.item.clone();
            marked.insert(STAMP.to_owned(), AttributeValue::S(mark.to_string()));
            let item = self.cat.keys[usize::from(key)].clone();
            let act = self.cat.act(key, Action::ApplyDelete { key: item, marked: marked.into() });
            s.regions[usize::from(r)].agent.queue.insert(0, Pending { act, ..done });
        }
    }
}
