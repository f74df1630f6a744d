//! The tables: what a write does, and when the condition of an agent's write holds.

use std::rc::Rc;

use aws_sdk_dynamodb::types::AttributeValue;
use tradewind::protocol::{Action, Body, Nonce};

use super::catalogue::{ABSENT, BARE};
use super::settings::{Defect, PutBacks};
use super::steps::Model;
use super::world::{Pending, Rec, State, Truth};

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

    /// One physical write of an agent: what `apply::Replica` asks of DynamoDB.
    pub(crate) fn attempt(&mut self, s: &mut State, dest: usize, act: u16) {
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
                    if holds {
                        self.write(s, dest, act.key, ABSENT, Truth::AgentDelete);
                    }
                    return;
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
    pub(crate) fn delete_from_afar(&mut self, s: &mut State, r: u8, done: Pending) {
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
}
