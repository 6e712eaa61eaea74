//! Herald as a whole, in this process, against simulated Git hosts: no cluster, no other program
//! (`network` starts Herald itself once, for an environment of its own).
//!
//! Every test has hosts, ports and folders of its own, waits for conditions instead of guessed
//! times, and ends with an empty outbox and the number of requests it expects.

#[path = "../support/mod.rs"]
mod support;

mod proxy;
mod room;
mod scene;
mod secrets;
mod tls;
mod vendors;
mod verdicts;

mod budget;
mod compose;
mod connections;
mod contracts;
mod credentials;
mod delivery;
mod hosts;
mod ingest;
mod logs;
mod manifests;
mod matching;
mod memory;
mod metrics;
mod network;
mod operate;
mod order;
mod outbox;
mod outbox_file;
mod tables;
mod tenants;
