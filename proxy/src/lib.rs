//! The traffic of one node: kernel rules, interception, filters, upstream.
