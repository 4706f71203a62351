//! In what order records are written, and how many wait.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_policy::Table;

use super::{Entry, Ledger, MOST_WAITING, PATIENCE};
use crate::ident::Ids;
use crate::judge::{ClientAddr, Ends, OriginalDst};
use crate::records::{self, HttpFacts, Record, RecordType, RecordWriter};

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A ledger, and the records that came out of it.
struct Case {
    ledger: Arc<Ledger>,
    writer: RecordWriter,
    output: Output,
}

impl Case {
    fn new() -> Self {
        let output = Output::default();
        let (sink, writer) = records::start(100_000, output.clone()).unwrap();
        Self { ledger: Ledger::new(sink), writer, output }
    }

    fn open(&self, path: usize) -> Arc<Entry> {
        let address = |text: &str| text.parse().unwrap();
        let ends = Ends::new(ClientAddr(address("10.0.0.1:4000")), OriginalDst(address("10.0.0.2:80")));
        let mut record = Record::new(RecordType::Request, Ids::default().next(), &"n".into(), &Table::empty(), &ends);
        record.http = Some(HttpFacts { path: Some(format!("/{path}")), ..HttpFacts::default() });
        self.ledger.open(record)
    }

    fn waiting(&self) -> usize {
        self.ledger.waiting().entries.len()
    }

    /// The end of the connection: the paths of all records, and which of them have a duration.
    fn end(self) -> (Vec<String>, Vec<bool>) {
        drop(self.ledger);
        self.writer.finish(Duration::from_secs(10));
        let text = String::from_utf8(self.output.0.lock().unwrap().clone()).unwrap();
        let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let path = |record: &Value| record["http"]["path"].as_str().unwrap().to_owned();
        (records.iter().map(path).collect(), records.iter().map(|record| record["durationMs"].is_number()).collect())
    }
}

#[test]
fn records_keep_the_order_of_judgement() {
    let case = Case::new();
    let entries: Vec<_> = (0..3).map(|path| case.open(path)).collect();
    for path in [1, 2] {
        case.ledger.finish(&entries[path]);
        assert_eq!(case.waiting(), 3, "they wait for the first");
    }
    case.ledger.finish(&entries[0]);
    assert_eq!(case.waiting(), 0);
    assert_eq!(case.end(), (vec!["/0".into(), "/1".into(), "/2".into()], vec![true; 3]));
}

#[test]
fn one_that_goes_on_is_written_once_a_later_one_has_waited() {
    let case = Case::new();
    let (first, second, _third) = (case.open(0), case.open(1), case.open(2));
    case.ledger.finish(&second);
    case.ledger.write_ready();
    assert_eq!(case.waiting(), 3);
    std::thread::sleep(PATIENCE + Duration::from_millis(50));
    case.ledger.write_ready();
    assert_eq!(case.waiting(), 1, "the third waits for nobody");
    case.ledger.finish(&first);
    assert!(case.ledger.waiting().finished.is_empty(), "what was written is not kept in mind");
    assert_eq!(case.end(), (vec!["/0".into(), "/1".into(), "/2".into()], vec![false, true, false]));
}

#[test]
fn beside_a_long_request_so_many_wait_and_no_more() {
    let case = Case::new();
    let long = case.open(0);
    let begun = Instant::now();
    for path in 1..50_000 {
        let entry = case.open(path);
        case.ledger.finish(&entry);
        assert!(case.waiting() <= MOST_WAITING);
        assert!(case.ledger.waiting().finished.len() <= MOST_WAITING);
    }
    println!("50,000 records in {:?}", begun.elapsed());
    case.ledger.finish(&long);
    let (paths, finished) = case.end();
    assert!(paths.iter().map(String::as_str).eq((0..50_000).map(|path| format!("/{path}")).collect::<Vec<_>>().iter()));
    assert_eq!((finished[0], finished.iter().filter(|has| !**has).count()), (false, 1), "only the long one is written early");
}

#[test]
fn requests_that_all_go_on_are_bounded_too() {
    let case = Case::new();
    let entries: Vec<_> = (0..MOST_WAITING + 10).map(|path| case.open(path)).collect();
    assert_eq!(case.waiting(), MOST_WAITING);
    entries.iter().rev().for_each(|entry| case.ledger.finish(entry));
    assert_eq!(case.waiting(), 0);
    let (paths, finished) = case.end();
    assert_eq!(paths.len(), MOST_WAITING + 10);
    assert_eq!(finished.iter().filter(|has| !**has).count(), 10);
}
