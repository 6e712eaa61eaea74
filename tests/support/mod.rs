//! Real servers for the integration tests, one module per server. Every test
//! binary under `tests/` that needs one starts with `mod support;`.

#![allow(dead_code, unused_imports, reason = "every test binary compiles all of this and uses a part of it")]

pub mod apiserver;
pub mod app;
pub mod assets;
pub mod clock;
pub mod flux;
pub mod forge;
pub mod gitea;
pub mod hostile;
pub mod kustomize;
pub mod process;
pub mod wait;
