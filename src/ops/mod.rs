//! For whoever runs Herald: metrics, health, logs.

pub mod health;
pub mod logging;
pub mod metrics;
mod process;
