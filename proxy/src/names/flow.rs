//! The names of a flow's server.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_policy::Table;

use super::{Moment, Names};

impl Names {
    /// The names by which `pod` was told where a flow goes that asked for `asked` and, after any translation, leads to `server`.
    ///
    /// A name may lead to a Service, whose address is translated before anything is judged. The names of both count then, if the pod
    /// that is behind the Service is the cluster's own: a name leads there by a rule with `allowPrivate` alone. Where a Service stands for
    /// servers outside, they are judged by their own names.
    pub fn of_flow(&self, table: &Table, pod: IpAddr, asked: IpAddr, server: IpAddr, now: Moment) -> Vec<Arc<str>> {
        let mut names = self.names_of(pod, server, now);
        if asked != server && table.is_inside(server) {
            for name in self.names_of(pod, asked, now) {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
        names
    }
}
