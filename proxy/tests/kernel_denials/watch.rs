//! Somebody who listens to the kernel, as the proxy does, and what was written.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::Value;
use sluice_policy::Table;
use sluice_proxy::denials::{DenialMetrics, Witness};
use sluice_proxy::kernel::Log;
use sluice_proxy::records;
use sluice_testnet::{Netns, wait_until};
use tokio::sync::watch;

/// For what must happen: generous, because the machine may be busy with something else.
pub(crate) const LONG: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The thread that writes records, as the proxy runs it.
pub(crate) struct Watch {
    lines: Lines,
    pub(crate) tables: watch::Sender<Arc<Table>>,
    registry: Registry,
    end: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    writer: Option<records::RecordWriter>,
}

impl Watch {
    pub(crate) fn start(ns: &Netns, table: &Table, log: Log) -> Self {
        let lines = Lines::default();
        let (sink, writer) = records::start(100_000, lines.clone()).unwrap();
        let (tables, receiver) = watch::channel(Arc::new(table.clone()));
        let mut registry = Registry::default();
        let metrics = DenialMetrics::new(&mut registry, Default::default());
        let (witness, _) = ns.run(|| Witness::open(Some(log), "node-1", receiver, sink, metrics)).unwrap();
        let (end, ended) = UnixStream::pair().unwrap();
        let ns = ns.clone();
        let thread = std::thread::spawn(move || ns.run(|| witness.run(&ended)));
        Self { lines, tables, registry, end: Some(end), thread: Some(thread), writer: Some(writer) }
    }

    pub(crate) fn records(&self) -> Vec<Value> {
        let bytes = self.lines.0.lock().unwrap().clone();
        bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
    }

    /// The first record of this destination port, protocol and source.
    pub(crate) fn record(&self, from: &str, port: u16, protocol: &str) -> Value {
        let wanted = |record: &Value| {
            record["destination"]["port"] == port && record["protocol"] == protocol && record["source"]["ip"] == from
        };
        let found = wait_until(LONG, || self.records().iter().any(wanted));
        assert!(found, "no record of {from} -> {port} {protocol}: {:#?}", self.records());
        self.records().into_iter().find(wanted).unwrap()
    }

    pub(crate) fn with_reason(&self, reason: &str) -> Value {
        let wanted = |record: &Value| record["reason"] == reason;
        assert!(wait_until(LONG, || self.records().iter().any(wanted)), "no record with {reason}: {:#?}", self.records());
        self.records().into_iter().find(wanted).unwrap()
    }

    /// Packets that records stand for, of this source.
    pub(crate) fn told(&self, from: &str) -> u64 {
        let of_pod = self.records().into_iter().filter(|record| record["source"]["ip"] == from);
        of_pod.map(|record| 1 + record["suppressed"].as_u64().unwrap_or_default()).sum()
    }

    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// Ends as the proxy does, with what is still to be said.
    pub(crate) fn finish(mut self) -> Vec<Value> {
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
        self.writer.take().unwrap().finish(LONG);
        self.records()
    }
}
