//! What the outbox makes of any bytes in its file: they are no record of a job, or a job that is
//! written and read again as the same. `make fuzz` runs it.

#![no_main]

use std::sync::LazyLock;

use herald::clock::TurnedClock;
use herald::outbox::record::{self, Record, Times};
use libfuzzer_sys::fuzz_target;

static TIMES: LazyLock<Times> = LazyLock::new(|| Times::of(&*TurnedClock::new()));

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = record::decode(bytes) else { return };
    let written = record::encode(&read.clone().into_job(&TIMES), &TIMES);
    let again = record::decode(&written).expect("what is written can be read");
    // A time this process cannot know is now; nothing else changes.
    let arrived = TIMES.wall_of(TIMES.past_instant_of(read.arrived));
    assert!(arrived == read.arrived || arrived == TIMES.wall());
    assert_eq!(again, Record { arrived, ..read });
    assert_eq!(record::encode(&again.into_job(&TIMES), &TIMES), written);
});
