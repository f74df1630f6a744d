//! The protocol, model-checked: an exhaustive search through everything that two or three small
//! regions, one or two keys, a handful of application writes, crashes and retries can do to each
//! other.
//!
//! The search calls the shipped protocol. What judges it is apart from it (`oracle`).

#![allow(
    clippy::print_stdout,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation
)]

mod agent;
mod catalogue;
mod display;
mod oracle;
mod search;
mod seeder;
mod settings;
mod steps;
mod table;
mod world;

use search::{exhaust, shortest};
use settings::{Defect, Init, PutBacks, Setting};

/// Searches everything, and shows the shortest way to what is wrong.
fn holds(set: Setting) {
    let found = exhaust(set.clone());
    println!("{}", found.summary());
    if found.wrong.is_some() {
        let short = shortest(Setting { max_states: 1_500_000, ..set });
        println!("{}", if short.wrong.is_some() { short.story() } else { found.story() });
        panic!("the search found a wrong state");
    }
    assert!(found.complete, "the search was cut short");
}

/// The search must notice a broken rule, and the same setting must hold without.
fn notices(defect: Defect, set: Setting) {
    let found = shortest(Setting { defect, ..set.clone() });
    println!("{}\n{}", found.summary(), found.story());
    assert!(found.wrong.is_some(), "the search did not notice {defect:?}");
    let without = shortest(Setting { defect: Defect::None, max_states: found.states.min(50_000), ..set });
    assert!(without.wrong.is_none(), "{}", without.story());
}

/// `R=3 OPS=2 CRASHES=1 cargo test --release --test model explore -- --ignored --nocapture`
#[test]
#[ignore = "a search that the environment describes"]
fn explore() {
    let set = Setting::from_env();
    if set.defect == Defect::None { holds(set) } else { notices(set.defect, set) }
}

macro_rules! settings {
    ($check:expr; $($(#[$doc:meta])* $name:ident: $regions:literal regions, $ops:literal writes $(, $field:ident = $value:expr)*;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            $check(Setting { $($field: $value,)* ..Setting::new(stringify!($name), $regions, $ops) });
        }
    )*};
}

mod all_is_well {
    use super::*;

    settings! { holds;
        three_writes: 2 regions, 3 writes;
        three_regions: 3 regions, 2 writes, ticks = 0;
        two_keys: 2 regions, 2 writes, keys = 2, ticks = 2;
        shared_and_put_back: 2 regions, 2 writes, init = Init::Shared, put_backs = PutBacks::Any, edits = true;
        long_requests: 2 regions, 2 writes, zombies = 1, ticks = 2;
        lost_answers: 2 regions, 2 writes, dups = 1, init = Init::Shared;
        a_clock_goes_back: 2 regions, 2 writes, backs = 1, ticks = 2;
        stamps_in_place: 2 regions, 2 writes, stamp_in_place = true, ticks = 2;
        writes_do_for_the_ones_before: 2 regions, 3 writes, coalesces = true;
        writes_do_for_others_on_shared_items: 2 regions, 2 writes, coalesces = true, init = Init::Shared, put_backs = PutBacks::Any, edits = true;
        writes_do_for_others_that_take_long: 2 regions, 2 writes, coalesces = true, zombies = 1, ticks = 2;
        writes_do_for_others_and_a_crash: 2 regions, 2 writes, coalesces = true, crashes = 1, ticks = 0, settles = false, pages = true;
        writes_do_for_others_in_three_regions: 3 regions, 2 writes, coalesces = true, ticks = 0;
        records_read_one_by_one: 2 regions, 2 writes, lazy = true, ticks = 2;
        a_region_takes_some_items: 2 regions, 3 writes, selects = true;
        one_of_three_takes_some_items: 3 regions, 2 writes, selects = true, ticks = 0;
        a_region_is_seeded: 2 regions, 1 writes, init = Init::Alone, seeds = true, ticks = 2;
        a_clash_is_settled: 2 regions, 1 writes, init = Init::Different, seeds = true;
        a_seed_is_put_back: 2 regions, 2 writes, init = Init::Different, seeds = true, ticks = 0;
        a_region_is_seeded_with_what_it_wrote: 2 regions, 1 writes, init = Init::Lost, seeds = true, ticks = 2;
        seeds_meet_what_is_replicated: 2 regions, 1 writes, init = Init::Shared, seeds = true, ticks = 2;
        a_seed_takes_long: 2 regions, 1 writes, init = Init::Alone, seeds = true, zombies = 1;
        a_seeds_answer_is_lost: 2 regions, 1 writes, init = Init::Alone, seeds = true, dups = 1;
        three_regions_are_seeded: 3 regions, 1 writes, init = Init::Alone, seeds = true, ticks = 0;
        what_applications_see: 2 regions, 3 writes, lazy = true, settles = false;
        what_applications_see_of_shared_items: 2 regions, 2 writes, lazy = true, init = Init::Shared, put_backs = PutBacks::Any, edits = true, settles = false;
        what_applications_see_in_three_regions: 3 regions, 2 writes, lazy = true, ticks = 0, settles = false;
        what_applications_see_while_stamps_are_set: 2 regions, 2 writes, lazy = true, init = Init::Shared, stamp_in_place = true, settles = false;
        what_applications_see_of_the_same_data: 3 regions, 2 writes, lazy = true, alike = true, ticks = 0, settles = false;
        the_same_data_is_put_back: 2 regions, 3 writes, alike = true, init = Init::Shared, put_backs = PutBacks::Any, ticks = 0, settles = false;
        an_agent_loses_patience: 2 regions, 2 writes, lazy = true, hasty = true, init = Init::Shared;
        a_crash: 2 regions, 2 writes, crashes = 1, ticks = 0, settles = false, pages = true;
        a_crash_with_watermarks: 2 regions, 1 writes, crashes = 1, ticks = 1, pages = true, init = Init::Shared;
        a_crash_with_two_keys: 2 regions, 2 writes, keys = 2, crashes = 1, ticks = 0, settles = false;
    }
}

/// Minutes each, and some gigabytes:
/// `cargo test --release --test model deep -- --ignored --nocapture --test-threads 1`
mod deep {
    use super::*;

    settings! { holds;
        #[ignore = "deep"]
        four_writes: 2 regions, 4 writes;
        #[ignore = "deep"]
        three_regions: 3 regions, 3 writes, ticks = 0;
        #[ignore = "deep"]
        three_regions_and_long_requests: 3 regions, 2 writes, zombies = 1;
        #[ignore = "deep"]
        three_regions_and_a_crash: 3 regions, 2 writes, crashes = 1, ticks = 0, settles = false, pages = true;
        #[ignore = "deep"]
        two_keys_and_a_clock_that_goes_back: 2 regions, 3 writes, keys = 2, backs = 1;
        #[ignore = "deep"]
        stamps_in_place: 2 regions, 3 writes, stamp_in_place = true, ticks = 2;
        #[ignore = "deep"]
        writes_do_for_the_ones_before: 2 regions, 4 writes, coalesces = true, ticks = 0;
        #[ignore = "deep"]
        writes_do_for_the_ones_before_in_three_regions: 3 regions, 3 writes, coalesces = true, ticks = 0;
        #[ignore = "deep"]
        writes_do_for_others_that_take_long: 2 regions, 3 writes, coalesces = true, zombies = 1;
        #[ignore = "deep"]
        writes_do_for_others_and_a_crash: 2 regions, 3 writes, coalesces = true, crashes = 1, ticks = 0, settles = false, pages = true;
        #[ignore = "deep"]
        writes_do_for_others_and_some_items_are_taken: 2 regions, 3 writes, coalesces = true, selects = true;
        #[ignore = "deep"]
        put_back_and_edited: 2 regions, 3 writes, init = Init::Shared, put_backs = PutBacks::Any, edits = true;
        #[ignore = "deep"]
        one_of_three_takes_some_items: 3 regions, 3 writes, selects = true, ticks = 0;
        #[ignore = "deep"]
        a_region_takes_some_items_and_a_crash: 2 regions, 3 writes, selects = true, crashes = 1, ticks = 0, settles = false;
        #[ignore = "deep"]
        a_region_is_seeded: 2 regions, 2 writes, init = Init::Alone, seeds = true, ticks = 2;
        #[ignore = "deep"]
        a_clash_is_settled: 2 regions, 2 writes, init = Init::Different, seeds = true;
        #[ignore = "deep"]
        a_region_is_seeded_with_what_it_wrote: 2 regions, 2 writes, init = Init::Lost, seeds = true;
        #[ignore = "deep"]
        seeds_meet_what_is_replicated: 2 regions, 2 writes, init = Init::Shared, seeds = true;
        #[ignore = "deep"]
        a_seed_takes_long: 2 regions, 2 writes, init = Init::Alone, seeds = true, zombies = 1, ticks = 0;
        #[ignore = "deep"]
        a_region_is_seeded_and_a_crash: 2 regions, 1 writes, init = Init::Alone, seeds = true, crashes = 1, ticks = 2;
        #[ignore = "deep"]
        a_clash_is_settled_and_a_crash: 2 regions, 1 writes, init = Init::Different, seeds = true, crashes = 1;
        #[ignore = "deep"]
        what_is_replicated_is_seeded_and_a_crash: 2 regions, 1 writes, init = Init::Shared, seeds = true, crashes = 1, pages = true;
        #[ignore = "deep"]
        three_regions_are_seeded: 3 regions, 2 writes, init = Init::Alone, seeds = true, ticks = 0;
        #[ignore = "deep"]
        three_regions_clash: 3 regions, 1 writes, init = Init::Different, seeds = true;
        #[ignore = "deep"]
        seeds_and_stamps_in_place: 2 regions, 1 writes, init = Init::Alone, seeds = true, ticks = 2, stamp_in_place = true;
        #[ignore = "deep"]
        seeds_and_a_clock_that_goes_back: 2 regions, 1 writes, init = Init::Shared, seeds = true, ticks = 2, backs = 1;
        #[ignore = "deep"]
        long_requests_read_one_by_one: 2 regions, 3 writes, zombies = 1, lazy = true;
        #[ignore = "deep"]
        a_crash: 2 regions, 3 writes, crashes = 1, settles = false, pages = true;
        #[ignore = "deep"]
        two_crashes: 2 regions, 2 writes, crashes = 2, settles = false, pages = true, zombies = 1;
        #[ignore = "deep"]
        a_crash_with_watermarks: 2 regions, 2 writes, crashes = 1;
        #[ignore = "deep"]
        a_crash_with_watermarks_and_pages: 2 regions, 1 writes, crashes = 1, ticks = 2, pages = true, init = Init::Shared;
        #[ignore = "deep"]
        a_crash_with_watermarks_and_put_backs: 2 regions, 2 writes, crashes = 1, ticks = 0, pages = true, init = Init::Shared;
        #[ignore = "deep"]
        a_crash_with_two_keys: 2 regions, 3 writes, keys = 2, crashes = 1, ticks = 0, settles = false, pages = true;
        #[ignore = "deep"]
        a_crash_while_stamping_in_place: 2 regions, 2 writes, crashes = 1, ticks = 0, settles = false, pages = true, stamp_in_place = true;
    }
}

/// Known hazards, and those that the searches found.
mod hazards {
    use super::*;

    macro_rules! defects {
        ($($name:ident: $defect:ident, $regions:literal regions, $ops:literal writes $(, $field:ident = $value:expr)*;)*) => {
            $(settings! { |set| notices(Defect::$defect, set); $name: $regions regions, $ops writes $(, $field = $value)*; })*
        };
    }

    // It takes minutes.
    settings! { |set| notices(Defect::NoTerms, set);
        #[ignore = "deep"]
        floors_of_the_rewind_position_alone: 2 regions, 3 writes, crashes = 1, ticks = 0, init = Init::Shared;
    }

    settings! { |set| notices(Defect::HealPastFloors, set);
        #[ignore = "deep"]
        a_heal_of_a_copy_that_the_floors_passed: 2 regions, 3 writes, crashes = 1, ticks = 0, init = Init::Shared;
    }

    settings! { |set| notices(Defect::OneLook, set);
        #[ignore = "deep"]
        settled_at_the_first_look: 2 regions, 2 writes, init = Init::Different, seeds = true, ticks = 2;
    }

    defects! {
           no_fingerprint: NoFingerprint, 2 regions, 2 writes, init = Init::Shared, edits = true, settles = false;
           a_stamp_not_above_the_old_images: StampNotAbove, 2 regions, 3 writes, settles = false;
           a_write_that_does_for_another_on_its_own_base: OwnBase, 2 regions, 3 writes, coalesces = true, settles = false;
           a_write_that_does_for_another_past_a_conflict: PastConflict, 2 regions, 3 writes, coalesces = true, settles = false, hasty = true;
           no_heal: NoHeal, 2 regions, 2 writes, hasty = true, settles = false;
           no_mark: NoMark, 2 regions, 2 writes, init = Init::Shared, settles = false;
           a_mark_only_on_an_item: PlainMark, 3 regions, 2 writes, settles = false;
           deleting_from_afar: FarDelete, 2 regions, 2 writes, init = Init::Shared, settles = false;
           classifying_by_what_was_done: Recall, 2 regions, 1 writes, init = Init::Shared, settles = false, crashes = 1;
           no_bump_above_the_old_image: NoBump, 2 regions, 2 writes, settles = false;
           no_memory_of_a_chain: NoChainMemory, 2 regions, 2 writes, settles = false;
           the_new_images_stamp_left_out: NoNewStampFloor, 2 regions, 3 writes, put_backs = PutBacks::Any, edits = true, settles = false;
           memory_lost_in_a_crash: MemoryLost, 2 regions, 2 writes, crashes = 1, settles = false;
           a_rewind_to_what_is_needed_now: LateRewind, 2 regions, 3 writes, crashes = 1, settles = false;
           a_heal_read_without_its_memory: StrangeHeal, 2 regions, 3 writes, crashes = 1, pages = true, settles = false, ticks = 0, hasty = true;
           no_guard: NoGuard, 2 regions, 2 writes, lazy = true, init = Init::Shared, settles = false;
           no_version_of_what_is_replaced: NoBase, 3 regions, 3 writes, alike = true, ticks = 0, settles = false;
           a_heal_of_whatever_stands: BlindHeal, 2 regions, 3 writes, lazy = true, init = Init::Shared, settles = false, hasty = true;
           a_heal_of_a_copy_that_was_put_back: HealOverCopy, 2 regions, 3 writes, put_backs = PutBacks::Any, hasty = true, ticks = 0, settles = false;
           a_copy_taken_for_a_stamp: CopyIsStamp, 2 regions, 3 writes, alike = true, init = Init::Shared, put_backs = PutBacks::Any, ticks = 0, settles = false;
           a_delete_of_whatever_is_marked: BlindDelete, 2 regions, 2 writes, lazy = true, init = Init::Shared, settles = false;
           what_is_on_top_of_a_stamp_passes_for_it: AgainOnTop, 2 regions, 2 writes, lazy = true, init = Init::Shared, settles = false;
           a_stamp_in_place_by_a_put: StampByPut, 2 regions, 2 writes, lazy = true, init = Init::Shared, stamp_in_place = true, settles = false;
           a_contended_write_is_made_though_something_newer_has_come: NotDropped, 2 regions, 3 writes, settles = false;
           a_contended_write_is_but_waited_for: NoStamp, 2 regions, 2 writes, lazy = true, init = Init::Shared, settles = false;
           a_stamp_beside_newer_data_is_a_write: StampIsWrite, 2 regions, 2 writes, lazy = true, init = Init::Shared, stamp_in_place = true, settles = false;
           no_nonce: NoNonce, 2 regions, 2 writes, init = Init::Shared, dups = 1, settles = false;
           a_stamp_that_does_not_tell_its_region: NoRegion, 2 regions, 3 writes, lazy = true, stamp_in_place = true, put_backs = PutBacks::Any, settles = false;
           a_mark_put_back: MarkPutBack, 2 regions, 3 writes, settles = false;
           a_stamp_in_place_on_other_data: InPlaceBlind, 2 regions, 2 writes, stamp_in_place = true, settles = false;
           a_watermark_of_what_was_read: EarlyWatermark, 2 regions, 2 writes, ticks = 2;
    a_watermark_that_is_not_durable: VolatileWatermark, 2 regions, 2 writes, ticks = 2, crashes = 1;
           forgetting_before_reading: ForgetBeforeRead, 2 regions, 3 writes, lazy = true, ticks = 2;
           forgetting_before_heals_are_done: ForgetBeforeDone, 2 regions, 3 writes, ticks = 2, put_backs = PutBacks::Any;
        forgetting_right_up_to_a_watermark: NoSlack, 2 regions, 3 writes, ticks = 2, backs = 1;
           what_leaves_a_selection_is_not_sent: NotSent, 2 regions, 2 writes, selects = true, settles = false;
           no_hold: NoHold, 2 regions, 1 writes, init = Init::Alone, seeds = true, zombies = 1, ticks = 2;
           a_hold_that_is_not_awaited: HoldNotAwaited, 2 regions, 1 writes, init = Init::Shared, seeds = true, ticks = 2;
           a_seed_that_takes_a_live_version: SeedIsNew, 2 regions, 2 writes, init = Init::Alone, seeds = true, ticks = 2;
           a_hold_that_ends_too_early: EarlyRelease, 2 regions, 1 writes, init = Init::Alone, seeds = true, ticks = 2;
           forgetting_as_a_hold_ends: ForgetAtRelease, 2 regions, 1 writes, init = Init::Alone, seeds = true, ticks = 2, lazy = true;
           seeds_that_are_not_told: SeedIsNoSeed, 2 regions, 1 writes, init = Init::Alone, seeds = true;
           forgetting_while_requests_are_under_way: EagerSettle, 2 regions, 3 writes, zombies = 1, ticks = 2;
       }
}
