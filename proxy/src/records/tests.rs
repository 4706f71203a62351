//! The shape of a line, and what a reader that doesn't read does to traffic.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sluice_policy::Table;

use super::{Record, RecordType, shortened, start};
use crate::ident::Ids;
use crate::judge::{ClientAddr, Ends, OriginalDst};

fn record() -> Record {
    let ends = Ends::new(
        ClientAddr("10.0.0.1:4000".parse::<SocketAddr>().unwrap()),
        OriginalDst("[::ffff:10.0.0.2]:80".parse::<SocketAddr>().unwrap()),
    );
    Record::new(RecordType::Connection, Ids::default().next(), &"node-1".into(), &Table::empty(), &ends)
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_is_one_json_object_with_microseconds() {
    let kept = Kept::default();
    let (sink, writer) = start(8, kept.clone()).unwrap();
    sink.write(record());
    drop(sink);
    writer.finish(Duration::from_secs(5));
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.matches('\n').count(), 1);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["type"], "connection");
    assert_eq!(line["destination"]["ip"], "10.0.0.2", "an IPv4 address in IPv6 clothes");
    assert_eq!(line["node"], "node-1");
    let time = line["time"].as_str().unwrap();
    let fraction = time.strip_suffix('Z').unwrap().split_once('.').unwrap().1;
    assert_eq!(fraction.len(), 6, "{time}");
    assert!(line.get("suppressed").is_none());
}

/// Blocks until the test lets it go on.
struct Blocked {
    go: Mutex<Receiver<()>>,
    kept: Kept,
}

impl Write for Blocked {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        let _ = self.go.lock().unwrap().recv();
        self.kept.write(buf)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_stops_costs_records_and_no_time() {
    #[expect(clippy::disallowed_methods, reason = "the test never sends on it, it only hangs up")]
    let (hold, go): (Sender<()>, _) = std::sync::mpsc::channel();
    let kept = Kept::default();
    let (sink, writer) = start(4, Blocked { go: Mutex::new(go), kept: kept.clone() }).unwrap();
    sink.write(record());
    std::thread::sleep(Duration::from_millis(100));
    for _ in 0..19 {
        sink.write(record());
    }
    // One that stands for others takes their number along.
    sink.write(Record { suppressed: Some(100), ..record() });
    let dropped = sink.dropped();
    assert!((15..=17).contains(&dropped), "{dropped} of 21 left out, with 4 places");
    drop(hold);
    std::thread::sleep(Duration::from_millis(200));
    sink.write(record());
    drop(sink);
    writer.finish(Duration::from_secs(5));
    let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["suppressed"], dropped + 100);
}

#[test]
fn what_a_client_sent_is_cut_between_characters() {
    for (text, kept) in [
        (String::new(), 0),
        ("a".repeat(2048), 2048),
        ("a".repeat(2049), 2048),
        ("é".repeat(1024), 2048),
        (format!("a{}", "é".repeat(1024)), 2047),
        ("日".repeat(100_000), 2046),
    ] {
        let short = shortened(&text);
        let mark = if kept < text.len() { "…" } else { "" };
        assert_eq!(*short, format!("{}{mark}", &text[..kept]), "{} bytes", text.len());
    }
}
