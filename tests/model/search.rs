//! The searches: depth first through everything, and breadth first to the shortest way into a
//! wrong state.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::settings::Setting;
use super::steps::{Model, Next};
use super::world::{State, Step};

/// The way to a state: each step with the state after it, and at the end what is wrong.
pub(crate) type Path = Vec<Next>;

/// What a search came to.
pub(crate) struct Found {
    pub(crate) model: Model,
    pub(crate) states: usize,
    pub(crate) steps: usize,
    pub(crate) took: Duration,
    /// Every reachable state was visited.
    pub(crate) complete: bool,
    pub(crate) wrong: Option<Path>,
}

fn digest(model: &Model, state: &State) -> u64 {
    state.digest(model.promises(state).as_deref())
}

/// Visits every state, depth first.
pub(crate) fn exhaust(set: Setting) -> Found {
    let from = Instant::now();
    let most = set.max_states;
    let mut model = Model::new(set);
    let start = model.initial();
    let mut visited = HashSet::from([digest(&model, &start)]);
    let mut path: Path = vec![];
    let mut steps = 0;
    let mut wrong = None;
    let mut first = vec![];
    model.successors(&start, &mut first);
    let mut stack = vec![first];
    while let Some(top) = stack.last_mut() {
        let Some((step, state, failure)) = top.pop() else {
            stack.pop();
            path.pop();
            continue;
        };
        steps += 1;
        let fresh = visited.insert(digest(&model, &state));
        let failure = failure.or_else(|| fresh.then(|| model.check(&state)).flatten());
        if failure.is_some() {
            path.push((step, state, failure));
            wrong = Some(path);
            break;
        }
        if !fresh {
            continue;
        }
        if visited.len() >= most {
            break;
        }
        let mut next = vec![];
        model.successors(&state, &mut next);
        path.push((step, state, None));
        stack.push(next);
    }
    let complete = stack.is_empty();
    Found { model, states: visited.len(), steps, took: from.elapsed(), complete, wrong }
}

/// The shortest way into a wrong state, breadth first.
pub(crate) fn shortest(set: Setting) -> Found {
    let from = Instant::now();
    let most = set.max_states;
    let mut model = Model::new(set);
    let start = model.initial();
    let mut visited = HashSet::from([digest(&model, &start)]);
    // Each step with the place of the one before it.
    let mut taken: Vec<(usize, Step)> = vec![];
    let mut level = vec![(usize::MAX, start.clone())];
    let (mut steps, mut wrong) = (0, None);
    'search: while !level.is_empty() && visited.len() < most {
        let mut below = vec![];
        for (before, state) in level {
            let mut next = vec![];
            model.successors(&state, &mut next);
            for (step, state, failure) in next {
                steps += 1;
                let fresh = visited.insert(digest(&model, &state));
                if failure.is_none() && !fresh {
                    continue;
                }
                let failure = failure.or_else(|| model.check(&state));
                taken.push((before, step));
                if failure.is_some() {
                    wrong = Some(replay(&mut model, start, &taken, failure));
                    break 'search;
                }
                below.push((taken.len() - 1, state));
            }
        }
        level = below;
    }
    let complete = wrong.is_none() && visited.len() < most;
    Found { model, states: visited.len(), steps, took: from.elapsed(), complete, wrong }
}

fn replay(model: &mut Model, start: State, taken: &[(usize, Step)], failure: Option<String>) -> Path {
    let mut steps = vec![];
    let mut at = taken.len() - 1;
    while at != usize::MAX {
        steps.push(taken[at].1);
        at = taken[at].0;
    }
    let mut path: Path = vec![];
    let mut state = start;
    for step in steps.into_iter().rev() {
        state = model.step(&state, step).expect("it was possible before");
        model.failure = None;
        path.push((step, state.clone(), None));
    }
    if let Some(last) = path.last_mut() {
        last.2 = failure;
    }
    path
}
