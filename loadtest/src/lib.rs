//! Traffic, scale scenarios, peers and reports.
