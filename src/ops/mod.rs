//! For whoever runs Herald: metrics, health, logs.

pub mod health;
mod lines;
pub mod logging;
pub mod metrics;
mod process;
