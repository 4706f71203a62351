//! Sluice as its users meet it: the real programs on a network of namespaces, manifests in a folder, real clients.
//!
//! Each module is a promise. Tests with `long:` take a minute or more and belong to `make test-long`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

mod audit;
mod bypass;
mod client;
mod contents;
mod counters;
mod denials;
mod drain;
mod ends;
mod files;
mod given;
mod grpc;
mod histories;
mod hostile_clients;
mod hostile_files;
mod http;
mod killed;
mod names;
mod node_processes;
mod others;
mod redirect;
mod restart;
mod revocation;
mod scene;
mod service;
mod tls;
mod two_nodes;
mod web;
