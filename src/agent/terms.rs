//! The floors by which records are judged: records read again are judged by those of the first time.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::control::Term;
use crate::protocol::Floors;
use crate::source::{Position, Sequence, ShardId};

/// The floors in force at a position in the stream, and those that checkpoints say were in force further on.
#[derive(Debug)]
pub(super) struct Terms {
    floors: Arc<Floors>,
    /// The shards being read, in this order.
    order: Vec<ShardId>,
    /// Each with the position of its shard in `order`.
    ahead: VecDeque<(usize, Term)>,
}

impl Terms {
    /// The floors in force where the first of the shards is read on.
    pub(super) fn new(
        floors: Floors,
        from: Vec<(ShardId, Position)>,
        terms: impl Iterator<Item = Term>,
    ) -> Self {
        let mut floors = floors;
        let order: Vec<ShardId> = from.iter().map(|(shard, _)| shard.clone()).collect();
        let mut ahead = Vec::new();
        for term in terms {
            match order.iter().position(|shard| *shard == term.shard) {
                Some(place) => ahead.push((place, term)),
                // That shard has been read.
                None => floors.raise_all(&term.floors),
            }
        }
        ahead.sort_by(|(a, one), (b, other)| (a, &one.after).cmp(&(b, &other.after)));
        let mut terms = Self { floors: Arc::new(floors), order, ahead: ahead.into() };
        if let Some((shard, position)) = from.first() {
            terms.passed(shard, position);
        }
        terms
    }

    pub(super) fn floors(&self) -> &Arc<Floors> {
        &self.floors
    }

    pub(super) fn raise(&mut self, floors: &Floors) {
        Arc::make_mut(&mut self.floors).raise_all(floors);
    }

    /// Moves to the next record to be judged.
    pub(super) fn come_to(&mut self, shard: &ShardId, sequence: &Sequence) {
        self.enforce(shard, |after| !after.covers(sequence));
    }

    /// Records that everything up to here has been judged.
    pub(super) fn passed(&mut self, shard: &ShardId, position: &Position) {
        self.enforce(shard, |after| after <= position);
    }

    fn enforce(&mut self, shard: &ShardId, has_come: impl Fn(&Position) -> bool) {
        if self.ahead.is_empty() {
            return;
        }
        let at = self.order.iter().position(|other| other == shard).unwrap_or_default();
        let is_here =
            |(place, term): &mut (usize, Term)| *place < at || *place == at && has_come(&term.after);
        while let Some((_, term)) = self.ahead.pop_front_if(is_here) {
            self.raise(&term.floors);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Hlc, Origin};

    fn floors(millis: u64) -> Floors {
        let mut floors = Floors::default();
        floors.raise(&origin(), Hlc::at_millis(millis));
        floors
    }

    fn origin() -> Origin {
        "tokyo".parse().expect("a name")
    }

    #[test]
    fn a_record_is_judged_by_the_floors_that_were_in_force_at_it() {
        let shard = |name: &str| ShardId(name.into());
        let term = |name: &str, after: &str, millis: u64| Term {
            shard: shard(name),
            after: Position::from(after),
            floors: floors(millis),
        };
        let terms = [
            term("child", "7", 40),
            term("parent", "30", 30),
            term("parent", "20", 20),
            term("gone", "9", 10),
        ];
        let from = vec![(shard("parent"), Position::from("5")), (shard("child"), Position::TrimHorizon)];
        let mut terms = Terms::new(floors(5), from, terms.into_iter());
        let now = |terms: &Terms| terms.floors().get(&origin()).millis();
        assert_eq!(now(&terms), 10, "of a shard that is no longer read");
        for (name, sequence, millis) in [
            ("parent", "20", 10),
            ("parent", "21", 20),
            ("parent", "30", 20),
            ("child", "1", 30),
            ("child", "8", 40),
        ] {
            terms.come_to(&shard(name), &Sequence::new(sequence));
            assert_eq!(now(&terms), millis, "{name} {sequence}");
        }
        terms.raise(&floors(50));
        assert_eq!(now(&terms), 50);

        let from = vec![(shard("child"), Position::from("5"))];
        let mut terms = Terms::new(floors(5), from, [term("child", "7", 40)].into_iter());
        terms.passed(&shard("child"), &Position::from("6"));
        assert_eq!(now(&terms), 5);
        terms.passed(&shard("child"), &Position::from("7"));
        assert_eq!(now(&terms), 40, "it counts for everything that follows");
    }
}
