//! "Accepted means delivered", against the program itself: `herald` runs as a process of its own, is killed with
//! SIGKILL and started again on the same outbox, and its vendors fail as vendors do.
//!
//! | module | what it shows |
//! |---|---|
//! | `colours` | thousands of changes, 30 % of the answers broken, a kill every 2 s: at rest every status is the last one, and none has the wrong colour; the same after an outage, and after all was refused and mended |
//! | `restart` | what waits when the process is killed is told by the next one, once |
//! | `tenant` | beside a tenant that means ill the platform's statuses are as right as without it and about as fast, memory is bounded, and no credential goes where it does not belong |
//! | `flood` | with every vendor hung memory is bounded, senders are asked to come again, and nothing is wrong afterwards |
//!
//! `cargo test --test torture` takes about a minute and a half. `make torture` runs the same with the numbers of the
//! promise, which takes a quarter of an hour.

#[path = "../support/mod.rs"]
mod support;

mod child;
mod colours;
mod flood;
mod restart;
mod sender;
mod tenant;

/// Whether `make torture` asks for the long form.
fn long() -> bool {
    std::env::var_os("HERALD_TORTURE").is_some()
}
