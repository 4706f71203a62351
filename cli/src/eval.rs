//! `sluice eval`: a verdict per flow, without any traffic.
//!
//! A flow that can't be read has an answer too, `{"error": "FILE:LINE: .."}`, so that answers stay in step with questions.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};

use anyhow::Context;

use crate::args::EvalArgs;
use crate::cluster::{Cluster, Names};
use crate::config::Settings;
use crate::flow_line::Question;
use crate::output::complain;

/// A line longer than this is no flow: memory stays bounded whatever is sent.
const LINE_LIMIT_BYTES: u64 = 1 << 20;

/// Answers every flow that can be read; returns the exit status.
pub fn run(args: &EvalArgs, settings: &Settings) -> anyhow::Result<u8> {
    let names = match &args.names {
        Some(path) => Names::read(path)?,
        None => Names::default(),
    };
    let cluster = Cluster::load_at(&args.manifests.paths, &names, args.manifests.time());
    cluster.report(settings);
    let mut flows: Box<dyn BufRead> = if args.flows.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        let file = File::open(&args.flows).with_context(|| args.flows.display().to_string())?;
        Box::new(BufReader::new(file))
    };
    let source = args.flows.display().to_string();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut unreadable = !cluster.is_whole();
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = io::Read::take(&mut flows, LINE_LIMIT_BYTES).read_until(b'\n', &mut line);
        if read.with_context(|| source.clone())? == 0 {
            break;
        }
        let too_long = line.len() as u64 == LINE_LIMIT_BYTES && !line.ends_with(b"\n");
        if too_long {
            skip_line(&mut flows)?;
        } else if line.trim_ascii().is_empty() {
            continue;
        }
        let answer =
            if too_long { Err(format!("longer than {LINE_LIMIT_BYTES} bytes")) } else { answer(&cluster, &names, &line) };
        match answer {
            Ok(json) => writeln!(out, "{json}")?,
            Err(problem) => {
                let problem = format!("{source}:{number}: {problem}");
                writeln!(out, "{}", serde_json::json!({ "error": problem }))?;
                // Answers so far come first, so that the two streams tell one story on a terminal.
                out.flush()?;
                complain(settings, problem);
                unreadable = true;
            }
        }
    }
    out.flush()?;
    Ok(if unreadable { 2 } else { 0 })
}

fn answer(cluster: &Cluster, names: &Names, line: &[u8]) -> Result<String, String> {
    let line = str::from_utf8(line).map_err(|e| format!("not UTF-8: {e}"))?;
    let question = Question::from_json(line).map_err(|e| e.to_string())?;
    let judgement = cluster.judge(&question, names).map_err(|e| e.to_string())?;
    serde_json::to_string(&judgement.answer).map_err(|e| e.to_string())
}

/// Reads up to the end of the line, and keeps nothing.
fn skip_line(from: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = from.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let used = end.map_or(buffer.len(), |at| at + 1);
        from.consume(used);
        if end.is_some() {
            return Ok(());
        }
    }
}
