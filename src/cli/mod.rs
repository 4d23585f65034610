//! One file per verb. Each prints for people, and with `--json` for programs.

pub mod check;
pub mod decode;
pub mod demo;
pub mod outbox;
pub mod plan;
pub mod read;
pub mod run;
pub mod show_config;
pub mod status;
