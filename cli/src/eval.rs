//! `sluice eval`: a verdict per flow, without any traffic.
//!
//! A flow that can't be read has an answer too, `{"error": "FILE:LINE: .."}`, so that answers stay in step with questions. Answers are
//! printed as they are found, whatever the format: a JSON object a line, a YAML document each, or a line for people.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};

use anyhow::Context;
use sluice_policy::{Direction, Reason};

use crate::args::EvalArgs;
use crate::cluster::{Answer, Cluster, HalfAnswer, Names};
use crate::config::Settings;
use crate::explain::destination_port;
use crate::flow_line::Question;
use crate::output::{Format, Paint, Tone, complain};

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
    // People read on terminals, and scripts elsewhere.
    let usual = if io::stdout().is_terminal() { Format::Text } else { Format::Json };
    let format = args.output.unwrap_or(usual);
    let paint = Paint::for_terminal(settings, &io::stdout());
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
            Ok((question, answer)) => match format {
                Format::Text => write_text(&mut out, &question, &answer, paint)?,
                Format::Json => writeln!(out, "{}", serde_json::to_string(&answer)?)?,
                Format::Yaml => write!(out, "---\n{}", serde_saphyr::to_string(&answer)?)?,
            },
            Err(problem) => {
                let problem = format!("{source}:{number}: {problem}");
                let error = serde_json::json!({ "error": problem });
                match format {
                    Format::Text => writeln!(out, "{}  {problem}", paint.paint(Tone::Bad, "error"))?,
                    Format::Json => writeln!(out, "{error}")?,
                    Format::Yaml => write!(out, "---\n{}", serde_saphyr::to_string(&error)?)?,
                }
                // Answers so far come first, so that the two streams tell one story on a terminal.
                out.flush()?;
                if format != Format::Text || !io::stdout().is_terminal() {
                    complain(settings, problem);
                }
                unreadable = true;
            }
        }
    }
    out.flush()?;
    Ok(if unreadable { 2 } else { 0 })
}

fn answer(cluster: &Cluster, names: &Names, line: &[u8]) -> Result<(Question, Answer), String> {
    let line = str::from_utf8(line).map_err(|e| format!("not UTF-8: {e}"))?;
    let question = Question::from_json(line).map_err(|e| e.to_string())?;
    let judgement = cluster.judge(&question, names).map_err(|e| e.to_string())?;
    Ok((question, judgement.answer))
}

/// The flow and its verdict on a line, and below it who decided each half.
fn write_text(out: &mut dyn Write, question: &Question, answer: &Answer, paint: Paint) -> io::Result<()> {
    let verdict = |word: &str| match word {
        "allow" => paint.paint(Tone::Good, "allow"),
        "deny" => paint.paint(Tone::Bad, "deny "),
        _ => paint.paint(Tone::Depends, "l7   "),
    };
    let Question { from, to, port, protocol, icmp, contents } = question;
    let contents = contents.as_ref().map(|contents| format!("  {contents}")).unwrap_or_default();
    let port = destination_port(*port, *protocol, *icmp);
    writeln!(out, "{}  {from} → {to} {port}{contents}", verdict(answer.verdict))?;
    for (direction, half) in [(Direction::Egress, &answer.egress), (Direction::Ingress, &answer.ingress)] {
        writeln!(out, "       {direction}: {}", in_words(half))?;
    }
    if let Some(audit) = &answer.audit {
        writeln!(out, "       Audit: {}  {}: {}", verdict(audit.verdict), audit.direction, in_words(audit.half()))?;
    }
    Ok(())
}

fn in_words(half: &HalfAnswer) -> String {
    let by: Vec<String> = half.by.as_slice().iter().map(ToString::to_string).collect();
    let by = by.join(", ");
    match half.reason {
        Reason::RuleMatched => format!("allowed by {by}"),
        Reason::DeniedByRule => format!("denied by {by}"),
        Reason::NeedsRequest => format!("requests judged by {by}"),
        Reason::NoRuleMatched => format!("no rule of {by}"),
        Reason::NotIsolated => "isolated by nobody".to_owned(),
        reason => reason.to_string(),
    }
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
