//! What is played: manifests, and what is expected of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sluice_policy::source::plain_name;
use sluice_policy::{Decision, Flow, Protocol};

use super::lookup;
use crate::cluster::{Cluster, Judgement, Names, Unjudgeable};
use crate::expectation::{Expect, Expectations, Row};
use crate::flow_line::{End, Question};

/// The built-in scene: the files of examples/demo.
const BUILT_IN: [(&str, &str); 5] = [
    ("cluster.yaml", include_str!("../../../examples/demo/cluster.yaml")),
    ("shop.yaml", include_str!("../../../examples/demo/shop.yaml")),
    ("billing.yaml", include_str!("../../../examples/demo/billing.yaml")),
    ("agents.yaml", include_str!("../../../examples/demo/agents.yaml")),
    (Expectations::FILE, include_str!("../../../examples/demo/expectations.yaml")),
];

/// A scene, copied to where a person may edit it.
pub(super) struct Scene {
    /// The folder that the controller watches.
    pub(super) folder: PathBuf,
    pub(super) cluster: Cluster,
    /// The connections to try: those rows that say what a client sees.
    pub(super) rows: Vec<Row>,
    /// How many rows can't be tried here, by why.
    pub(super) left_out: BTreeMap<&'static str, usize>,
    /// The addresses of the scene's names, which are plain.
    pub(super) names: BTreeMap<String, Vec<IpAddr>>,
    /// The same for the engine.
    known: Names,
    /// The addresses of the pods that pods resolve names by.
    resolvers: Vec<IpAddr>,
}

/// Something that listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listener {
    pub(super) holder: Holder,
    pub(super) port: u16,
    pub(super) protocol: u8,
    pub(super) speaks: Speaks,
}

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Speaks {
    Http,
    Grpc,
    Dns,
    /// It answers whatever comes.
    Anything,
}

/// Whose namespace an end of a connection is in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// `namespace/name`.
    Pod(String),
    Node(String),
    /// An address of the host outside.
    Outside(IpAddr),
}

impl Scene {
    /// Copies the scene to `folder` and reads it there.
    pub(super) fn prepare(from: Option<&Path>, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        match from {
            None => {
                for (name, text) in BUILT_IN {
                    fs::write(folder.join(name), text).with_context(|| folder.join(name).display().to_string())?;
                }
            }
            Some(from) => copy_scene(from, folder)?,
        }
        let Expectations { names, expectations, .. } = Expectations::read(folder)?;
        let mut known = Names::default();
        known.add(names.clone());
        let cluster = Cluster::load_with(&[folder.to_owned()], &known);
        let names = names.into_iter().map(|(name, ips)| (plain_name(&name), ips)).collect();
        let addresses = cluster.live_pods().filter_map(|pod| cluster.pod(pod)).flat_map(|pod| pod.ips.clone());
        let resolvers = addresses.filter(|ip| cluster.table().is_resolver(*ip)).collect();
        let (folder, left_out) = (folder.to_owned(), BTreeMap::new());
        let mut scene = Self { folder, cluster, rows: Vec::new(), left_out, names, known, resolvers };
        ensure!(scene.cluster.nodes().next().is_some(), "the scene has no Node object: its pods need one to run on");
        for row in expectations.into_iter().filter(|row| row.expect != Expect::L7) {
            let question = row.question()?;
            scene.judge(&question).with_context(|| format!("{} to {}", row.from, row.to))?;
            match scene.out_of_reach(&row, &question) {
                Some(why) => *scene.left_out.entry(why).or_default() += 1,
                None => scene.rows.push(row),
            }
        }
        for (why, rows) in &scene.left_out {
            ensure!(!scene.rows.is_empty(), "none of the scene's {rows} rows can be tried: {why}");
        }
        Ok(scene)
    }

    /// Why a row can't be tried in the lab, if so.
    fn out_of_reach(&self, row: &Row, question: &Question) -> Option<&'static str> {
        let by_name = match &question.to {
            End::Name(_) => true,
            End::Ip(ip) => self.names_of(*ip).next().is_some(),
            End::Pod(..) => false,
        };
        if row.tls.is_some() {
            Some("they ask for a server name of TLS, and the servers here speak none")
        } else if by_name && row.dns.is_none() && self.resolvers.is_empty() {
            Some("they go by name, and the scene has no name server: a pod of kube-system with the label k8s-app: kube-dns")
        } else {
            None
        }
    }

    /// What the engine says of a flow, with the scene's names known.
    pub(super) fn judge(&self, question: &Question) -> Result<Judgement, Unjudgeable> {
        self.cluster.judge(question, &self.known)
    }

    /// Whether the proxy reads the flow's contents, by which it is decided: then the client is answered, whatever becomes of it.
    pub(super) fn is_read(&self, question: &Question) -> bool {
        let unread = Question { contents: None, ..question.clone() };
        let verdict = self.cluster.verdict(&unread, &self.known);
        question.contents.is_some() && verdict.is_ok_and(|verdict| verdict.decision() == Decision::Inspect)
    }

    /// Whether the flow is a look-up that is judged, and learned from.
    pub(super) fn is_lookup(&self, question: &Question) -> bool {
        let of_table = |flow: &Flow<'_>| self.cluster.table().is_lookup(flow);
        self.cluster.asked(question, &self.known, |flow, _| of_table(flow)).unwrap_or(false)
    }

    /// The addresses of the pods that pods resolve names by; none in a scene without names.
    pub(super) fn resolvers(&self) -> &[IpAddr] {
        if self.names.is_empty() { &[] } else { &self.resolvers }
    }

    /// The scene's names that have this address.
    pub(super) fn names_of(&self, ip: IpAddr) -> impl Iterator<Item = &str> {
        self.names.iter().filter(move |(_, ips)| ips.contains(&ip)).map(|(name, _)| name.as_str())
    }

    /// Whether the look-ups of the pod at `ip` are judged, and learned from.
    pub(super) fn teaches(&self, ip: IpAddr) -> bool {
        self.cluster.table().lookups(ip).next().is_some()
    }

    /// In whose namespace `end` is.
    pub(super) fn holder(&self, end: &End) -> Option<Holder> {
        let ip = match end {
            End::Pod(pod, _) => return Some(Holder::Pod(pod.to_string())),
            End::Ip(ip) => *ip,
            End::Name(name) => *self.names.get(&plain_name(name))?.first()?,
        };
        if let Some(pod) = self.cluster.pod_at(ip) {
            return Some(Holder::Pod(pod.to_string()));
        }
        let node = self.cluster.nodes().find(|node| node.ips.contains(&ip));
        Some(node.map_or(Holder::Outside(ip), |node| Holder::Node(node.name.to_string())))
    }

    /// Addresses that the rows speak of, or that the names have, and that nobody in the cluster has.
    pub(super) fn outside(&self) -> BTreeSet<IpAddr> {
        let ends = self.rows.iter().flat_map(|row| [&row.from, &row.to]).filter_map(|end| end.parse().ok());
        let named = self.names.values().flatten().map(|ip| End::Ip(*ip));
        ends.chain(named)
            .filter_map(|end| match self.holder(&end) {
                Some(Holder::Outside(ip)) => Some(ip),
                _ => None,
            })
            .collect()
    }

    /// What has to listen so that every row can be tried, and the pods' own HTTP ports besides.
    pub(super) fn listeners(&self) -> BTreeSet<Listener> {
        let mut listeners = BTreeSet::new();
        for row in self.rows.iter().filter(|row| row.protocol.has_ports()) {
            let holder = row.to.parse().ok().and_then(|end| self.holder(&end));
            let Some(holder) = holder else { continue };
            let speaks = self.speaks(&holder, row.port, row.protocol);
            // Name servers answer by both protocols.
            let protocol = if speaks == Speaks::Dns { Protocol::Udp } else { row.protocol };
            listeners.insert(Listener { holder, port: row.port, protocol: protocol.number(), speaks });
        }
        for ip in self.resolvers() {
            if let Some(holder) = self.holder(&End::Ip(*ip)) {
                listeners.insert(Listener { holder, port: lookup::PORT, protocol: Protocol::Udp.number(), speaks: Speaks::Dns });
            }
        }
        for pod in self.cluster.live_pods() {
            for port in self.cluster.pod(pod).map_or(&[][..], |p| &p.ports) {
                if &*port.name == "http" && port.protocol == Protocol::Tcp {
                    let holder = Holder::Pod(pod.to_string());
                    let speaks = self.speaks(&holder, port.port, port.protocol);
                    listeners.insert(Listener { holder, port: port.port, protocol: 6, speaks });
                }
            }
        }
        listeners
    }

    /// What listens there speaks: DNS if a row or the pods look names up there, gRPC if a row calls it, HTTP if it is the pod's port
    /// `http` or a row sends it a request.
    pub(super) fn speaks(&self, holder: &Holder, port: u16, protocol: Protocol) -> Speaks {
        let is_there =
            |row: &Row| row.port == port && row.to.parse().ok().and_then(|end| self.holder(&end)).as_ref() == Some(holder);
        let resolves = || self.resolvers().iter().any(|ip| self.holder(&End::Ip(*ip)).as_ref() == Some(holder));
        let carries_lookups = matches!(protocol, Protocol::Tcp | Protocol::Udp);
        if carries_lookups
            && (self.rows.iter().any(|row| row.dns.is_some() && is_there(row)) || (port == lookup::PORT && resolves()))
        {
            return Speaks::Dns;
        }
        if protocol != Protocol::Tcp {
            return Speaks::Anything;
        }
        if self.rows.iter().any(|row| row.grpc.is_some() && is_there(row)) {
            return Speaks::Grpc;
        }
        let named = match holder {
            Holder::Pod(name) => match name.parse() {
                Ok(End::Pod(reference, _)) => {
                    self.cluster.pod(&reference).is_some_and(|pod| pod.ports.iter().any(|p| p.port == port && &*p.name == "http"))
                }
                _ => false,
            },
            _ => false,
        };
        let asked = || self.rows.iter().any(|row| row.http.is_some() && is_there(row));
        if named || asked() { Speaks::Http } else { Speaks::Anything }
    }
}

/// Copies the manifests and expectations of a folder, so that editing them harms nobody.
fn copy_scene(from: &Path, to: &Path) -> anyhow::Result<()> {
    let files = sluice_crds::files_below(from).with_context(|| from.display().to_string())?;
    if !from.join(Expectations::FILE).is_file() {
        bail!("{} has no {}: such as examples/three-tier has", from.display(), Expectations::FILE);
    }
    for file in files {
        let target = to.join(file.strip_prefix(from).unwrap_or(&file));
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::copy(&file, &target).with_context(|| file.display().to_string())?;
    }
    Ok(())
}
