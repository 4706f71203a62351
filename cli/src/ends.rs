//! The pods and addresses that one flow is about, and the objects that count for it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;

use sluice_crds::Loaded;
use sluice_policy::source::{Object, Pod, PodRef};

use crate::cluster::Names;
use crate::flow_line::{End, Question};

/// What the ends of a flow are called.
pub(crate) struct Ends<'q> {
    pods: Vec<&'q PodRef>,
    ips: HashSet<IpAddr>,
}

impl<'q> Ends<'q> {
    pub(crate) fn of(question: &'q Question, names: &Names) -> Self {
        let (mut pods, mut ips) = (Vec::new(), HashSet::new());
        for end in [&question.from, &question.to] {
            match end {
                End::Pod(pod, _) => pods.push(pod),
                End::Ip(ip) => drop(ips.insert(*ip)),
                End::Name(name) => ips.extend(names.of(name).into_iter().flatten()),
            }
        }
        Self { pods, ips }
    }

    /// Everything below `paths` but the pods that have nothing to do with the flow. A pod that claims an address of a named one has.
    pub(crate) fn load(mut self, paths: &[PathBuf]) -> Loaded {
        if !self.pods.is_empty() {
            // Only to learn the addresses.
            let named = sluice_crds::load_where(paths, |outline| outline.kind == "Pod" && self.may_mean(outline.text));
            self.learn(&named);
        }
        loop {
            let mut loaded = sluice_crds::load_where(paths, |outline| outline.kind != "Pod" || self.may_mean(outline.text));
            // A file may have changed since it was read first.
            if !self.learn(&loaded) {
                loaded.objects.retain(|object| if let Object::Pod(pod) = object { self.mean(pod) } else { true });
                return loaded;
            }
        }
    }

    /// Adds the addresses of the named pods; returns whether one was unknown.
    fn learn(&mut self, loaded: &Loaded) -> bool {
        let known = self.ips.len();
        for object in &loaded.objects {
            if let Object::Pod(pod) = object
                && self.pods.contains(&&pod.reference)
            {
                self.ips.extend(&pod.ips);
            }
        }
        self.ips.len() > known
    }

    fn mean(&self, pod: &Pod) -> bool {
        self.pods.contains(&&pod.reference) || pod.ips.iter().any(|ip| self.ips.contains(ip))
    }

    /// Whether the pod that is written so could be one of them: a name or an address stands there, or could in disguise.
    fn may_mean(&self, text: &str) -> bool {
        // Escapes can spell anything.
        text.contains('\\')
            || self.pods.iter().any(|pod| text.contains(&*pod.name))
            || addresses(text).any(|ip| self.ips.contains(&ip))
    }
}

/// Every address in a text. One address of IPv6 can be spelt in several ways.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    text.split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'))
        // `key:` in flow style, the quotes left away, is no part of an address.
        .filter(|word| word.len() > 1)
        .filter_map(|word| word.parse().ok())
}
