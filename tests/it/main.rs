//! Herald as a whole, in this process, against simulated Git hosts: no cluster, no other program.
//!
//! Every test has hosts, ports and folders of its own, waits for conditions instead of guessed
//! times, and ends with an empty outbox and the number of requests it expects.

#[path = "../support/mod.rs"]
mod support;

mod scene;
mod secrets;
mod tls;
mod vendors;

mod compose;
mod contracts;
mod delivery;
mod hosts;
mod ingest;
mod logs;
mod manifests;
mod matching;
mod metrics;
mod order;
mod outbox;
