//! What an attacker's pod tries against the real programs: raw packets out of its interface, which is all that a pod can do.
//!
//! Each test makes its attack in every layout of [`stage`], in IPv4 and IPv6 where it exists in both, and shows that the same
//! packets do arrive where nothing is enforced. docs/attacks.md lists them with the rules that close them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

#[path = "../end_to_end/client.rs"]
#[expect(dead_code, reason = "shared with the other end-to-end tests")]
mod client;
mod direction;
mod endings;
mod errors;
mod everybody;
mod forgery;
mod fragments;
#[path = "../end_to_end/given.rs"]
#[expect(dead_code, reason = "another program of tests asks for the rest")]
mod given;
mod headers;
mod neighbours;
mod packet;
mod path_mtu;
mod protocols;
mod proxy_port;
#[path = "../end_to_end/scene.rs"]
#[expect(dead_code, reason = "shared with the other end-to-end tests")]
mod scene;
mod segments;
mod stage;
mod tunnel;
#[path = "../end_to_end/web.rs"]
#[expect(dead_code, reason = "shared with the other end-to-end tests")]
mod web;
mod wire;
