//! What others do on this node, as far as it bears on enforcement: looked at again and again, told once per change.
//!
//! | found | what follows |
//! |---|---|
//! | rules of others that proxied flows would evade, or that would cut them | Nothing is diverted until they are gone, or the configuration says `enforcementAlone: true`. Not ready: `OtherEngine`. |
//! | packets of pods take a way that the rules don't see | What comes by is enforced all the same. Not ready: `PathNotSeen`. |
//! | nothing can be found out, and never could | As if others' rules had been found. |

use std::time::{Duration, Instant};

use sluice_policy::Table;

use super::EnforceError;
use super::state::{Trouble, Unready};
use crate::config::Config;
use crate::error_chain;
use crate::kernel::others::{Effect, Findings, Lookout};
use crate::kernel::path::{PathWatch, Unseen};
use crate::kernel::{self, Kernel};
use crate::metrics::Metrics;

/// A look at the path asks for the route of every pod.
const PATH_PERIOD: Duration = Duration::from_secs(5);

/// Looks that may fail in a row before the node is called unready for it.
const MOST_FAILURES: u32 = 5;

/// A pod's interface may be there later than its object, and be gone earlier.
const PATIENCE: Duration = Duration::from_secs(15);

const REMEDY: &str = "remove them, or set `enforcementAlone: true` if Sluice alone shall decide. Until then connections that need the \
     proxy are denied; addresses and ports are enforced as ever";

/// What is known of the node.
#[derive(Debug)]
pub(super) struct Node {
    lookout: Lookout,
    path: PathWatch,
    /// The operator's word that rules of others don't matter.
    alone: bool,
    metrics: Metrics,
    /// What was told last; `None` before the first look.
    findings: Option<Findings>,
    unseen: Vec<Unseen>,
    /// When the path is looked at again.
    path_due: Instant,
    /// Why the last looks at others' rules failed, and those at the packets' path.
    blind: [Option<Blind>; 2],
}

/// Looks that failed, one after the other.
#[derive(Debug)]
struct Blind {
    why: String,
    times: u32,
}

impl Node {
    /// In the calling thread's network namespace.
    pub(super) fn open(config: &Config, kernel: &kernel::Config, metrics: Metrics) -> Result<Self, EnforceError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| EnforceError::Node(error);
        let lookout = Lookout::open(kernel.mark, kernel.hook_priority).map_err(|error| failed(error.into()))?;
        let path = PathWatch::open(&config.uplinks, PATIENCE).map_err(|error| failed(error.into()))?;
        let (alone, blind) = (config.enforcement_alone, [None, None]);
        let path_due = Instant::now();
        Ok(Self { lookout, path, alone, metrics, findings: None, unseen: Vec::new(), path_due, blind })
    }

    /// Looks again, and tells what has changed.
    pub(super) fn look(&mut self, kernel: &Kernel) {
        self.look_at_rules(kernel.own_changes());
        if Instant::now() >= self.path_due {
            self.path_due = Instant::now() + PATH_PERIOD;
            self.look_at_path(kernel.in_force());
        }
    }

    /// Whether flows may be handed to the proxy.
    pub(super) fn may_divert(&self) -> bool {
        self.alone || self.findings.as_ref().is_some_and(Findings::is_empty)
    }

    /// The rules of others that the operator's word makes harmless.
    pub(super) fn tolerated(&self) -> Option<String> {
        let findings = self.findings.as_ref().filter(|findings| self.alone && !findings.is_empty())?;
        Some(list("enforcementAlone is true", findings))
    }

    /// Why the node is not ready.
    pub(super) fn troubles(&self) -> Vec<Trouble> {
        let mut troubles = Vec::new();
        if !self.may_divert() {
            let detail = match &self.findings {
                Some(findings) => list(REMEDY, findings),
                None => {
                    self.blind[0].as_ref().map_or("rules of others have not been looked at yet", |blind| &blind.why).to_owned()
                }
            };
            troubles.push(Trouble { word: Unready::OtherEngine, detail });
        }
        // The kernel's tables may change under one look, or a few.
        let lasting = self.blind.iter().flatten().filter(|blind| blind.times >= MOST_FAILURES);
        troubles.extend(lasting.map(|blind| Trouble { word: Unready::KernelRefused, detail: blind.why.clone() }));
        troubles.extend(self.unseen.iter().map(|unseen| Trouble { word: Unready::PathNotSeen, detail: unseen.to_string() }));
        troubles
    }

    fn look_at_rules(&mut self, own_changes: u32) {
        let found = match self.lookout.look(own_changes) {
            Ok(findings) if self.findings.as_ref() == Some(findings) => None,
            Ok(findings) => Some(findings.clone()),
            Err(error) => {
                note(&mut self.blind[0], format!("look at the rules of others: {}", error_chain(&error)));
                return;
            }
        };
        self.blind[0] = None;
        let Some(found) = found else { return };
        self.tell(&found);
        for (effect, count) in [(Effect::Evades, found.evades), (Effect::Cuts, found.cuts)] {
            self.metrics.other_engine_findings(effect, count);
        }
        self.findings = Some(found);
    }

    /// One line for each that is new, and one for what follows.
    fn tell(&self, found: &Findings) {
        let before = self.findings.as_ref();
        for finding in &found.named {
            if !before.is_some_and(|before| before.named.contains(finding)) {
                tracing::warn!("{}: {finding}", Unready::OtherEngine.as_str());
            }
        }
        match (found.is_empty(), before.is_none_or(Findings::is_empty)) {
            (true, true) => {}
            (true, false) => tracing::info!("rules of others that didn't go together with the proxy are gone"),
            (false, _) if self.alone => {
                tracing::info!(rules = found.evades + found.cuts, "diverting all the same: enforcementAlone is true");
            }
            (false, _) => {
                let (more, rules) = (found.more(), found.evades + found.cuts);
                tracing::error!(
                    rules,
                    not_named = more,
                    "nothing is diverted while others' rules don't go together with the proxy, and what it holds already goes on: {REMEDY}"
                );
            }
        }
    }

    fn look_at_path(&mut self, table: Option<&Table>) {
        let unseen = match self.path.look(table) {
            Ok(unseen) => unseen,
            Err(error) => {
                note(&mut self.blind[1], format!("look whether packets of pods come by: {}", error_chain(&error)));
                return;
            }
        };
        self.blind[1] = None;
        if unseen == self.unseen {
            return;
        }
        for one in unseen.iter().filter(|one| !self.unseen.contains(one)) {
            tracing::error!("{}: {one}; see docs/compatibility.md", Unready::PathNotSeen.as_str());
        }
        if unseen.is_empty() {
            tracing::info!("packets of all pods of this node come by again");
        }
        self.metrics.path_not_seen.set(i64::try_from(unseen.len()).unwrap_or(i64::MAX));
        self.unseen = unseen;
    }
}

/// A failure is said once, until it is another.
fn note(last: &mut Option<Blind>, why: String) {
    let times = last.as_ref().map_or(1, |blind| blind.times.saturating_add(1));
    if last.as_ref().is_none_or(|blind| blind.why != why) {
        tracing::error!("{why}");
    }
    *last = Some(Blind { why, times });
}

/// What stands in the way, what to do, and each of them on a line of its own.
fn list(remark: &str, findings: &Findings) -> String {
    let count = findings.evades + findings.cuts;
    let what = if count == 1 { "1 rule of others doesn't".to_owned() } else { format!("{count} rules of others don't") };
    let mut text = format!("{what} go together with the proxy: {remark}");
    for finding in &findings.named {
        text.push_str(&format!("\n  {finding}"));
    }
    if findings.more() > 0 {
        text.push_str(&format!("\n  and {} more", findings.more()));
    }
    text
}
