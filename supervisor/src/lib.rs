//! The program pgvigil: everything that touches clocks, sockets, files and processes around the pure core.

pub mod agent;
pub mod api;
pub mod cli;
pub mod clock;
pub mod config;
pub mod controller;
pub mod demo;
pub mod guard;
pub mod journal;
pub mod metrics;
pub mod runtime;
pub mod telemetry;
pub mod view;
