//! The command `sluice`: what a policy folder allows (`eval`, `explain`, `matrix`, `graph`), what in it is probably a mistake (`lint`),
//! what a change of it does (`diff`) and whether it is what was meant (`test`), what a node's rules have decided (`counters`), and
//! the demonstration (`demo`).
//!
//! Every answer comes from the engine in `sluice-policy`, asked through [`cluster::Cluster`]: manifests in, one table of
//! everything out. The demonstration runs the real controller and proxy in network namespaces and holds what clients see
//! against [`expectation`]s, the same format that the folders of `examples/` use.

mod admin;
pub mod args;
pub mod cluster;
pub mod config;
pub mod contents;
pub mod counters;
pub mod demo;
pub mod diff;
mod ends;
pub mod eval;
pub mod expectation;
pub mod expected;
pub mod explain;
pub mod flow_line;
pub mod graph;
pub mod lint;
pub mod markup;
pub mod matrix;
pub mod names;
pub mod output;
pub mod progress;
pub mod reach;
pub mod workload;
