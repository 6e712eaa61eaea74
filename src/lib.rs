//! Herald: commit statuses and notifications for Flux.
//!
//! The modules below stand in the order of the path of an event; `pipeline` is the file to read
//! first.
//!
//! ```text
//!  Flux controllers
//!       │ POST /
//!       ▼
//!    ingest ─► pipeline ─► matching ─► compose ─► outbox ─► delivery ─► vendors ─► outbound ─► the vendor
//!                 ▲          which      what to    jobs,     order,      one file    the only
//!                 │         Alerts?      say?      memory    retries      each        sockets
//!              cluster (Alerts, Providers, Secrets; or files)
//!                 │
//!             reconcile ─► conditions                          ops: metrics, health, logs
//! ```
//!
//! * [`ingest`]: the events door: limits, decoding, the answer.
//! * [`pipeline`]: the path in one function: every notification is made there.
//! * [`matching`]: which Alerts want an event; the index that keeps that cheap.
//! * [`cel`]: the expressions users write, compiled when an object changes.
//! * [`compose`]: what is to be said: metadata, commit, state, name, words.
//! * [`outbox`]: what was accepted and is not said yet, on disk; what each place was last told.
//! * [`delivery`]: order inside a Slot, retries, one look before an unknown place is written, no fight about one.
//! * [`vendors`]: one file per Provider type, and the table of them.
//! * [`outbound`]: the only code that opens connections to vendors.
//! * [`cluster`]: watches, or a directory of files, behind [`view`].
//! * [`reconcile`]: the conditions of our objects.
//! * [`ops`], [`cli`], [`operate`], [`app`]: for whoever runs it; how the parts are put together.
//! * [`api`], [`view`], [`clock`], [`secret`], [`goregex`], [`pattern`],
//!   [`compute`]: what the stages share; they know none of them.

#![deny(missing_docs)]
#![deny(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

pub mod api;
pub mod clock;
pub mod compute;
pub mod secret;
pub mod view;

pub mod ingest;
pub mod pipeline;

pub mod goregex;
pub mod matching;
pub mod pattern;

pub mod cel;

pub mod compose;

pub mod outbox;

pub mod delivery;

pub mod vendors;

pub mod outbound;

pub mod cluster;
pub mod reconcile;

pub mod app;
pub mod cli;
pub mod operate;
pub mod ops;

/// Makes `aws-lc-rs` the one TLS provider of the process. Calls after the first do nothing.
pub fn install_tls_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
