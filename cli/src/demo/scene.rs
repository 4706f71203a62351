//! What is played: manifests, and what is expected of them.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sluice_policy::Protocol;

use crate::cluster::{Cluster, Names};
use crate::expectation::{Expect, Expectations, Row};
use crate::flow_line::End;

/// The built-in scene: the files of examples/demo.
const BUILT_IN: [(&str, &str); 4] = [
    ("cluster.yaml", include_str!("../../../examples/demo/cluster.yaml")),
    ("shop.yaml", include_str!("../../../examples/demo/shop.yaml")),
    ("billing.yaml", include_str!("../../../examples/demo/billing.yaml")),
    (Expectations::FILE, include_str!("../../../examples/demo/expectations.yaml")),
];

/// A scene, copied to where a person may edit it.
pub(super) struct Scene {
    /// The folder that the controller watches.
    pub(super) folder: PathBuf,
    pub(super) cluster: Cluster,
    /// The connections to try: those rows that say what a client sees.
    pub(super) rows: Vec<Row>,
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
        let cluster = Cluster::load(&[folder.to_owned()]);
        let rows = Expectations::read(folder)?.expectations.into_iter().filter(|row| row.expect != Expect::L7).collect();
        let scene = Self { folder: folder.to_owned(), cluster, rows };
        ensure!(scene.cluster.nodes().next().is_some(), "the scene has no Node object: its pods need one to run on");
        for row in &scene.rows {
            let question = row.question()?;
            scene.cluster.verdict(&question, &Names::default()).with_context(|| format!("{} to {}", row.from, row.to))?;
        }
        Ok(scene)
    }

    /// In whose namespace `end` is.
    pub(super) fn holder(&self, end: &End) -> Option<Holder> {
        let ip = match end {
            End::Pod(pod, _) => return Some(Holder::Pod(pod.to_string())),
            End::Ip(ip) => *ip,
            End::Name(_) => return None,
        };
        if let Some(pod) = self.cluster.pod_at(ip) {
            return Some(Holder::Pod(pod.to_string()));
        }
        let node = self.cluster.nodes().find(|node| node.ips.contains(&ip));
        Some(node.map_or(Holder::Outside(ip), |node| Holder::Node(node.name.to_string())))
    }

    /// Addresses that the rows speak of and that nobody in the cluster has.
    pub(super) fn outside(&self) -> BTreeSet<IpAddr> {
        let ends = self.rows.iter().flat_map(|row| [&row.from, &row.to]).filter_map(|end| end.parse().ok());
        ends.filter_map(|end| match self.holder(&end) {
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
            listeners.insert(Listener { holder, port: row.port, protocol: row.protocol.number(), speaks });
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

    /// What listens there speaks: gRPC if a row calls it, HTTP if it is the pod's port `http` or a row sends it a request.
    pub(super) fn speaks(&self, holder: &Holder, port: u16, protocol: Protocol) -> Speaks {
        if protocol != Protocol::Tcp {
            return Speaks::Anything;
        }
        let is_there =
            |row: &Row| row.port == port && row.to.parse().ok().and_then(|end| self.holder(&end)).as_ref() == Some(holder);
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
