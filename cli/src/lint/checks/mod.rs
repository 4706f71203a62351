//! The checks, by what they look at.

mod addresses;
mod dns;
mod overlap;
mod peers;
mod requests;
mod selectors;
mod services;
mod shape;
mod sides;

use super::finding::Findings;
use super::scene::Scene;

/// One family of checks.
pub(super) type Check = fn(&Scene, &mut Findings);

/// All of them; those that only read come first.
pub(super) const ALL: [Check; 9] = [
    shape::check,
    requests::check,
    peers::check,
    selectors::check,
    services::check,
    addresses::check,
    overlap::check,
    dns::check,
    sides::check,
];
