//! A link that takes little at a time, as behind the bandwidth plugin of CNI.

use crate::{Error, Netns, Node, Pod};

/// What goes to a pod waits in its node for as long as it takes at this rate. Ends when it is dropped, with what waits.
#[derive(Debug)]
pub struct Shaper {
    ns: Netns,
    interface: String,
}

impl Shaper {
    /// The rate is one of `tc`'s, such as `8kbit`. Fails where the pod's link is shaped already.
    pub fn add(node: &Node, pod: &Pod, rate: &str) -> Result<Self, Error> {
        set(node.ns(), pod.interface(), "add", rate)?;
        Ok(Self { ns: node.ns().clone(), interface: pod.interface().to_owned() })
    }

    /// Another rate, for what waits as well.
    pub fn change(&self, rate: &str) -> Result<(), Error> {
        set(&self.ns, &self.interface, "change", rate)
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        // Without a link there is nothing to take away.
        let _ = self.ns.exec("tc", &["qdisc", "del", "dev", &self.interface, "root"]);
    }
}

fn set(ns: &Netns, interface: &str, verb: &str, rate: &str) -> Result<(), Error> {
    let of_rate = ["tbf", "rate", rate, "burst", "5k", "limit", "10mb"];
    ns.exec("tc", &[&["qdisc", verb, "dev", interface, "root"], &of_rate[..]].concat()).map(drop)
}
