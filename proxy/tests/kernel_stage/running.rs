//! An enforcer at work in a stage's node, on a thread of its own as in the program.

use std::sync::Arc;
use std::thread::JoinHandle;

use prometheus_client::registry::Registry;
use sluice_policy::Table;
use sluice_policy::snapshot::Generation;
use sluice_proxy::config::{Config, Redirect};
use sluice_proxy::enforcer::{Enforcer, Inputs, KernelState, Learner, Learning};
use sluice_proxy::feed::{Extent, Handover};
use sluice_proxy::kernel::bridge::Form;
use sluice_proxy::metrics::Metrics;
use sluice_proxy::names::Lesson;
use tokio::sync::{mpsc, oneshot, watch};

use super::Stage;

/// Dropped, it ends; what it put in force stays.
pub struct Running {
    handovers: Option<mpsc::Sender<Handover>>,
    learner: Learner,
    pub state: watch::Receiver<KernelState>,
    pub metrics: Metrics,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn start(stage: &Stage) -> Self {
        Self::with(stage, None)
    }

    /// One that learns names.
    pub fn learning(stage: &Stage, learning: Learning) -> Self {
        Self::with(stage, Some(learning))
    }

    fn with(stage: &Stage, learning: Option<Learning>) -> Self {
        let (learner, lessons) = Learner::new();
        let ns = stage.node.ns().clone();
        let (handovers, to_apply) = mpsc::channel(1);
        let (tables, _) = watch::channel(Arc::new(Table::empty()));
        let (shown, state) = watch::channel(KernelState::Waiting);
        let metrics = Metrics::new(&mut Registry::default());
        let counted = metrics.clone();
        let redirect = match stage.form {
            Form::Auto => Redirect::Auto,
            Form::Classifier => Redirect::Classifier,
            Form::Bpf => Redirect::Bpf,
        };
        let config = Config { redirect, ..Config::default() };
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mut enforcer = Enforcer::open(&config, tables, shown, counted).expect("an enforcer");
            if let Some(learning) = learning {
                enforcer.learn_names(learning);
            }
            runtime.block_on(enforcer.run(Inputs { lessons, ..Inputs::tables(to_apply) }));
        };
        let thread = std::thread::spawn(move || ns.run(work));
        Self { handovers: Some(handovers), learner, state, metrics, thread: Some(thread) }
    }

    /// Returns when the kernel holds it, or can't.
    pub fn learn(&self, lesson: Lesson) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(self.learner.learn(vec![lesson]))
    }

    /// Returns at once.
    pub fn prolong(&self, lesson: Lesson) {
        self.learner.prolong(lesson);
    }

    /// Returns when the table is in force.
    pub fn hand_over(&self, table: &Table, extent: Extent) {
        let (done, is_done) = oneshot::channel();
        let handover = Handover { table: Arc::new(table.clone()), extent, epoch: 1, generation: Generation(1), done };
        self.handovers.as_ref().expect("it runs").blocking_send(handover).expect("it takes tables");
        is_done.blocking_recv().expect("it answers").expect("the table is in force");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handovers.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
