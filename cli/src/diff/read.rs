//! The two versions, from their files.

use std::path::PathBuf;

use sluice_crds::Loaded;
use sluice_policy::source::{Key, Object};

use crate::args::DiffArgs;
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::output::remark;

/// Reads both versions at once. A version without any pod has the other's inventory: a folder of policies alone says nothing of
/// pods.
pub(super) fn versions(args: &DiffArgs, settings: &Settings) -> anyhow::Result<(Cluster, Cluster)> {
    let with =
        |positional: &Option<PathBuf>, named: &[PathBuf]| -> Vec<PathBuf> { positional.iter().chain(named).cloned().collect() };
    let (old, new) = (with(&args.old, &args.old_paths), with(&args.new, &args.new_paths));
    anyhow::ensure!(!old.is_empty() && !new.is_empty(), "two versions are needed: sluice diff OLD NEW, or --old PATH --new PATH");
    let (old, mut new) = std::thread::scope(|scope| {
        let reading = scope.spawn(|| sluice_crds::load(&old));
        let new = sluice_crds::load(&new);
        (reading.join(), new)
    });
    let mut old = old.map_err(|_| anyhow::anyhow!("reading the old version failed"))?;
    if !args.inventory.is_empty() {
        let inventory = sluice_crds::load(&args.inventory);
        for version in [&mut old, &mut new] {
            add_inventory(version, &inventory.objects);
        }
        // Said once: the inventory is one.
        old.diagnostics.extend(inventory.diagnostics);
        old.unreadable.extend(inventory.unreadable);
    } else {
        match (has_pods(&old), has_pods(&new)) {
            (true, false) => {
                remark(settings, "the new version has no pods: those of the old one are taken (or give --inventory PATH)");
                add_inventory(&mut new, &old.objects);
            }
            (false, true) => {
                remark(settings, "the old version has no pods: those of the new one are taken (or give --inventory PATH)");
                add_inventory(&mut old, &new.objects);
            }
            _ => {}
        }
    }
    anyhow::ensure!(has_pods(&old), "neither version has a pod to ask about: give the cluster's with --inventory PATH");
    Ok(Cluster::versions(old, new))
}

fn has_pods(loaded: &Loaded) -> bool {
    loaded.objects.iter().any(|object| matches!(object, Object::Pod(_)))
}

/// Namespaces, pods and nodes of `inventory` that the version doesn't say something of itself.
fn add_inventory(version: &mut Loaded, inventory: &[Object]) {
    let own: std::collections::HashSet<Key> = version.objects.iter().map(Object::key).collect();
    let wanted = inventory.iter().filter(|object| !matches!(object, Object::Policy(_)) && !own.contains(&object.key()));
    version.objects.extend(wanted.cloned());
}
