//! The pods and addresses that one flow is about, and the objects that count for it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;

use aho_corasick::AhoCorasick;
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
            let traces = self.traces();
            let named = sluice_crds::load_where(paths, |outline| outline.kind == "Pod" && traces.are_in(outline.text));
            self.learn(&named);
        }
        loop {
            let traces = self.traces();
            let mut loaded = sluice_crds::load_where(paths, |outline| outline.kind != "Pod" || traces.are_in(outline.text));
            // A file may have changed since it was read first, or names a pod where it can't be told without reading.
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

    /// What the text of a pod has in it that could be one of them.
    fn traces(&self) -> Traces {
        let names = self.pods.iter().map(|pod| pod.name.to_string());
        let ips = self.ips.iter().filter(|ip| ip.is_ipv4()).map(ToString::to_string);
        // Escapes can spell anything.
        let words = names.chain(ips).chain(["\\".to_owned()]);
        Traces {
            words: AhoCorasick::new(words).expect("a few words are no automaton too large"),
            v6: self.ips.iter().copied().filter(IpAddr::is_ipv6).collect(),
        }
    }
}

/// Texts of which at least one is in each manifest of a pod that is meant.
struct Traces {
    words: AhoCorasick,
    /// One address can be spelt in several ways.
    v6: HashSet<IpAddr>,
}

impl Traces {
    fn are_in(&self, text: &str) -> bool {
        self.words.is_match(text) || (!self.v6.is_empty() && addresses(text).any(|ip| self.v6.contains(&ip)))
    }
}

/// Every address of IPv6 in a text.
fn addresses(text: &str) -> impl Iterator<Item = IpAddr> {
    let words = text.as_bytes().split(|byte| !(byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':')));
    // Most words are none, and are told by a glance.
    let looks_like_one = |word: &&[u8]| word.iter().filter(|byte| **byte == b':').count() > 1;
    words.filter(looks_like_one).filter_map(|word| std::str::from_utf8(word).ok()?.parse().ok())
}
