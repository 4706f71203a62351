//! `sluice test`: whether policies allow what they are meant to, by files of [`crate::expectation`]s.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sluice_policy::{Direction, Reason};

use crate::args::{TestArgs, TestFormat};
use crate::cluster::{Answer, Cluster, Names};
use crate::config::Settings;
use crate::expectation::{Expectations, Row};
use crate::output::{Form, Paint, Tone, complain, print};

/// All rows, judged.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub as_expected: usize,
    pub different: usize,
    /// Rows that can't be judged: a pod that isn't there.
    pub unjudged: usize,
    pub rows: Vec<Judged>,
}

/// One row, and what became of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged {
    pub file: String,
    pub line: u32,
    pub from: String,
    pub to: String,
    /// `8080/tcp`
    pub port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    pub expected: Said,
    /// `None`: it can't be judged.
    pub got: Option<Said>,
    /// What differs; nothing, if the row is as expected.
    pub problems: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What to type to learn why.
    pub explain: String,
}

/// A verdict and who is behind it.
#[derive(Debug, Serialize)]
pub struct Said {
    pub verdict: &'static str,
    pub by: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Judges every row and prints; returns the exit status.
pub fn run(args: &TestArgs, settings: &Settings) -> anyhow::Result<u8> {
    let files = files(args)?;
    let mut names = match &args.names {
        Some(path) => Names::read(path)?,
        None => Names::default(),
    };
    let mut read = Vec::new();
    let mut unread = Vec::new();
    for file in &files {
        match Expectations::read_file(file) {
            Ok((expectations, lines)) => {
                names.add(expectations.names);
                read.push((file, expectations.expectations, lines));
            }
            Err(error) => unread.push(error),
        }
    }
    let cluster = Cluster::load_with(&args.manifests.paths, &names);
    cluster.report(settings);
    let whole = cluster.is_whole() && unread.is_empty();
    for error in unread {
        complain(settings, format_args!("{:#}", anyhow::Error::from(error)));
    }
    let mut rows = Vec::new();
    for (file, expectations, lines) in &read {
        let judge = |(row, line): (&Row, &u32)| judge(&cluster, &names, args, file, *line, row);
        rows.extend(expectations.iter().zip(lines).map(judge));
    }
    let outcome = Outcome::of(rows);
    print(settings, &outcome, |paint| {
        Ok(match args.output {
            TestFormat::Text => Form::Text(outcome.to_text(paint)),
            TestFormat::Junit => Form::Text(outcome.to_junit()),
            TestFormat::Json => Form::Json,
            TestFormat::Yaml => Form::Yaml,
        })
    })?;
    Ok(match outcome.different {
        _ if !whole || outcome.unjudged > 0 => 2,
        0 => 0,
        _ => 1,
    })
}

/// The files that are named, and those of folders; where none is named, those beside the manifests.
fn files(args: &TestArgs) -> anyhow::Result<Vec<PathBuf>> {
    let in_folder = |path: &Path| if path.is_dir() { path.join(Expectations::FILE) } else { path.to_owned() };
    if !args.expectations.is_empty() {
        return Ok(args.expectations.iter().map(|path| in_folder(path)).collect());
    }
    let beside = args.manifests.paths.iter().filter(|path| path.is_dir()).map(|path| in_folder(path));
    let found: Vec<PathBuf> = beside.filter(|path| path.is_file()).collect();
    anyhow::ensure!(!found.is_empty(), "no expectations: name a file, or put {} beside the manifests", Expectations::FILE);
    Ok(found)
}

fn judge(cluster: &Cluster, names: &Names, args: &TestArgs, file: &Path, line: u32, row: &Row) -> Judged {
    let port = if row.protocol.has_ports() { format!("{}/", row.port) } else { String::new() };
    let mut judged = Judged {
        file: file.display().to_string(),
        line,
        from: row.from.clone(),
        to: row.to.clone(),
        port: format!("{port}{}", row.protocol.to_string().to_lowercase()),
        http: row.http.clone(),
        expected: Said { verdict: row.expect.as_str(), by: row.by.clone().into_iter().collect(), reason: row.reason },
        got: None,
        problems: Vec::new(),
        because: row.because.clone(),
        explain: String::new(),
    };
    judged.explain = judged.explain_command(args);
    let answer = row
        .question()
        .map_err(|e| e.to_string())
        .and_then(|question| cluster.judge(&question, names).map(|judgement| judgement.answer).map_err(|e| e.to_string()));
    match answer {
        Err(problem) => judged.problems.push(problem),
        Ok(answer) => {
            let got = Said { verdict: answer.verdict, by: deciders(&answer), reason: Some(answer.reason) };
            if got.verdict != row.expect.as_str() {
                judged.problems.push(format!("expected {}, got {}", row.expect.as_str(), got.verdict));
            }
            if let Some(by) = row.by.as_ref().filter(|by| !got.by.iter().any(|rule| Row::names(by, rule))) {
                judged.problems.push(format!("expected {by} to decide"));
            }
            if let Some(reason) = row.reason.filter(|reason| *reason != answer.reason) {
                judged.problems.push(format!("expected the reason {reason}, got {}", answer.reason));
            }
            judged.got = Some(got);
        }
    }
    judged
}

/// Who is behind the verdict: of the ends that decided. The other end's allow is no reason for a denial.
fn deciders(answer: &Answer) -> Vec<String> {
    let halves = [(Direction::Egress, &answer.egress), (Direction::Ingress, &answer.ingress)];
    let deciding = halves.into_iter().filter(|(_, half)| half.verdict == answer.verdict);
    deciding.flat_map(|(_, half)| half.by.as_slice().iter().map(ToString::to_string)).collect()
}

impl Judged {
    fn explain_command(&self, args: &TestArgs) -> String {
        let mut command = String::from("sluice explain");
        let mut option = |name: &str, value: &str| {
            let _ = write!(command, " {name} {}", quoted(value));
        };
        for path in &args.manifests.paths {
            option("-f", &path.display().to_string());
        }
        if let Some(names) = &args.names {
            option("--names", &names.display().to_string());
        }
        option("--from", &self.from);
        option("--to", &self.to);
        option("--port", &self.port);
        if let Some(http) = &self.http {
            option("--http", http);
        }
        command
    }

    fn flow(&self) -> String {
        let http = self.http.as_ref().map(|http| format!(" {http}")).unwrap_or_default();
        format!("{} → {} {}{http}", self.from, self.to, self.port)
    }
}

/// As a shell takes it for one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

impl Said {
    fn in_words(&self) -> String {
        let reason = self.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let by = if self.by.is_empty() { String::new() } else { format!(" by {}", self.by.join(", ")) };
        format!("{:<5}{by}{reason}", self.verdict).trim_end().to_owned()
    }
}

impl Outcome {
    pub fn of(rows: Vec<Judged>) -> Self {
        let unjudged = rows.iter().filter(|row| row.got.is_none()).count();
        let as_expected = rows.iter().filter(|row| row.problems.is_empty()).count();
        Self { as_expected, different: rows.len() - as_expected - unjudged, unjudged, rows }
    }

    /// What is not as expected, and a line about all.
    fn to_text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for row in self.rows.iter().filter(|row| !row.problems.is_empty()) {
            let place = format!("{}:{}", row.file, row.line);
            let _ = writeln!(text, "{} {place}: {}", paint.paint(Tone::Bad, "✘"), paint.paint(Tone::Strong, &row.flow()));
            let because = row.because.as_ref().map(|because| format!("   because {because}")).unwrap_or_default();
            let _ = writeln!(text, "    expected  {}{because}", row.expected.in_words());
            match &row.got {
                Some(got) => writeln!(text, "    got       {}", got.in_words()),
                None => writeln!(text, "    {}", row.problems.join("; ")),
            }
            .unwrap_or_default();
            let _ = writeln!(text, "    {}\n", paint.paint(Tone::Quiet, &row.explain));
        }
        let mut counts = vec![format!("{} as expected", self.as_expected)];
        for (count, word) in [(self.different, "different"), (self.unjudged, "can't be judged")] {
            if count > 0 {
                counts.push(format!("{count} {word}"));
            }
        }
        let tone = if self.different + self.unjudged > 0 { Tone::Bad } else { Tone::Good };
        let _ = writeln!(text, "{}", paint.paint(tone, &counts.join(", ")));
        text
    }

    /// The XML that build servers read: a test case per row.
    fn to_junit(&self) -> String {
        let (all, wrong, errors) = (self.rows.len(), self.different, self.unjudged);
        let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
        let _ = writeln!(xml, "<testsuite name=\"sluice\" tests=\"{all}\" failures=\"{wrong}\" errors=\"{errors}\">");
        for row in &self.rows {
            let (file, name) = (crate::markup::escape(&row.file), crate::markup::escape(&row.flow()));
            let _ = write!(xml, "  <testcase classname=\"{file}\" name=\"{name}\" file=\"{file}\" line=\"{}\"", row.line);
            if row.problems.is_empty() {
                xml.push_str("/>\n");
                continue;
            }
            let word = if row.got.is_some() { "failure" } else { "error" };
            let problems = crate::markup::escape(&row.problems.join("; "));
            let got = row.got.as_ref().map(|got| format!("got {}\n", got.in_words())).unwrap_or_default();
            let details = crate::markup::escape(&format!("expected {}\n{got}{}", row.expected.in_words(), row.explain));
            let _ = writeln!(xml, ">\n    <{word} message=\"{problems}\">{details}</{word}>\n  </testcase>");
        }
        xml.push_str("</testsuite>\n");
        xml
    }
}
