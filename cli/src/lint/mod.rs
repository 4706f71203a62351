//! `sluice lint`: what is probably not meant in a folder of manifests, before it is in force.
//!
//! ```text
//! files -> read (text beside understanding) -> Scene (classes of pods, members of selectors) -> checks -> findings
//! ```
//!
//! Whether a flow passes is asked of the engine, which is given one pod for each class of pods that no selector tells apart; whether
//! one rule covers another is told by [`cover`] from what is written. In doubt a check is silent: a false alarm is worse than a
//! mistake that `sluice explain` shows.

pub mod catalogue;
mod checks;
mod cover;
mod finding;
mod inventory;
mod near;
mod read;
mod report;
mod scene;
mod service;
mod template;

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

pub use finding::{Finding, Severity};

use crate::args::LintArgs;
use crate::config::Settings;
use crate::output::print;
use crate::progress::Progress;
use catalogue::Code;
use finding::Findings;
use scene::Scene;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Linted {
    /// By file and line.
    pub findings: Vec<Finding>,
    pub summary: Summary,
    /// Whether something could not be read or understood.
    #[serde(skip)]
    pub damaged: bool,
}

#[derive(Debug, Serialize)]
pub struct Summary {
    pub errors: usize,
    pub warnings: usize,
    pub infos: usize,
    /// Findings that labels of their objects leave out.
    pub ignored: usize,
    pub files: usize,
    pub policies: usize,
    pub pods: usize,
}

/// Lints, or tells of the checks; returns the exit status.
pub fn run(args: &LintArgs, settings: &Settings) -> anyhow::Result<u8> {
    if args.list || args.explain.is_some() {
        let text: String = wanted(args.explain.as_deref())?.into_iter().map(Code::to_text).collect();
        io::stdout().write_all(text.as_bytes())?;
        return Ok(0);
    }
    let linted = lint(&args.paths, &Progress::on_terminal(settings));
    print(settings, &linted, |paint| Ok(args.output.form(|| linted.to_text(paint))))?;
    let fails = linted.findings.iter().any(|finding| finding.severity >= args.fail_on);
    Ok(if linted.damaged { 2 } else { u8::from(fails) })
}

fn wanted(name: Option<&str>) -> anyhow::Result<Vec<Code>> {
    let Some(name) = name else { return Ok(Code::ALL.to_vec()) };
    match Code::from_name(name) {
        Some(code) => Ok(vec![code]),
        None => {
            let near = near::nearest(name, Code::ALL.iter().map(|code| code.as_str()));
            let hint = near.map_or_else(|| "--list shows all".to_owned(), |near| format!("is {near} meant?"));
            anyhow::bail!("no check is called {name}: {hint}")
        }
    }
}

/// Reads files and folders, and holds everything in them against every check.
pub fn lint(paths: &[PathBuf], progress: &Progress) -> Linted {
    let mut findings = Findings::default();
    let objects = read::read(paths, &mut findings, progress);
    progress.step("checks:", 0, checks::ALL.len());
    let scene = Scene::new(objects);
    for (i, check) in checks::ALL.iter().enumerate() {
        progress.step("checks:", i, checks::ALL.len());
        check(&scene, &mut findings);
    }
    let (findings, ignored) = findings.finish();
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let summary = Summary {
        errors: count(Severity::Error),
        warnings: count(Severity::Warning),
        infos: count(Severity::Info),
        ignored,
        files: scene.objects.files,
        policies: scene.objects.policies.len(),
        pods: scene.objects.pods.len(),
    };
    Linted { findings, summary, damaged: scene.objects.damaged }
}
