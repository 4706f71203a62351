//! The DNS proxy between pods and servers, with packets as they are.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod connections;
mod datagrams;
mod links;
mod servers;
mod stage;
