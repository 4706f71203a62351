//! `sluice demo`: policies in force on real traffic, on this machine.
//!
//! ```text
//! scene (manifests, expectations) -> lab (namespaces, servers, the real controller and proxies) -> clients -> report
//! ```
//!
//! Nothing here decides anything about policy. What is seen comes from clients inside the pods; who decided comes from the
//! proxy's own records and, for what the kernel alone denies, from the engine, and the report says which.

mod client;
mod exec;
mod lab;
mod lookup;
mod name_server;
mod named;
mod privilege;
mod records;
mod report;
mod scene;
mod server;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

use crate::args::{DemoArgs, DemoCommand};
use crate::config::Settings;
use crate::expectation::Expect;
use crate::output::{Paint, Tone, terminal_width};
use lab::Lab;
use report::Report;
use scene::Scene;

/// Runs the demonstration, or a command in a pod of one that is kept up; returns the exit status.
pub fn run(args: &DemoArgs, settings: &Settings) -> anyhow::Result<u8> {
    if let Some(DemoCommand::Exec { pod, command }) = &args.command {
        return exec::run(pod, command, settings);
    }
    client::find_curl()?;
    privilege::enter(settings)?;
    // Blocked before any thread is started, so that a signal comes to the one thread that waits for it.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;

    let work = tempfile::Builder::new().prefix("sluice-demo-").tempdir().context("a folder for the demonstration")?;
    let folder = work.path().to_owned();
    if !args.keep {
        end_on_signal(signals, &folder);
    }
    let outcome = perform(args, settings, &folder, signals);
    // Worth keeping only once something ran.
    if !matches!(outcome, Ok(0)) && folder.join("controller.log").exists() {
        let place = work.keep();
        eprintln!("Logs, records and policies of this run: {}", place.display());
    }
    outcome
}

fn perform(args: &DemoArgs, settings: &Settings, folder: &Path, signals: SigSet) -> anyhow::Result<u8> {
    let began = Instant::now();
    let progress = |what: &str| eprintln!("  {:>4.1} s  {what}", began.elapsed().as_secs_f32());
    let scene = Scene::prepare(args.scene.as_deref(), &folder.join("policies"))?;
    for error in scene.cluster.errors() {
        eprintln!("  {error}");
    }
    for (why, rows) in &scene.left_out {
        eprintln!("  LEFT OUT: {rows} rows: {why}");
    }
    let rows = scene.rows.len();
    progress(&format!("scene: {} pods, {rows} connections and look-ups to try", scene.cluster.live_pods().count()));
    let lab = Lab::start(&scene, folder, &progress)?;
    progress("policies are in the kernel; sending traffic");
    let seen = client::try_all(&scene, &lab);
    let report = Report::of(&scene, &lab, &seen);
    let paint = Paint::for_terminal(settings, &io::stdout());
    let width = if io::stdout().is_terminal() { terminal_width() } else { None };
    let mut out = io::stdout().lock();
    out.write_all(report.to_text(paint, width, began.elapsed()).as_bytes())?;
    out.write_all(named::to_text(&scene, &lab, &seen, &report, paint).as_bytes())?;
    out.flush()?;
    if args.keep {
        keep_up(&scene, &lab, folder, settings, signals, paint)?;
    }
    Ok(if report.is_as_expected() { 0 } else { 1 })
}

/// Leaves everything as it is until Ctrl-C.
fn keep_up(scene: &Scene, lab: &Lab, folder: &Path, settings: &Settings, signals: SigSet, paint: Paint) -> anyhow::Result<()> {
    let announced = exec::announce(lab, folder, settings)?;
    let exec = format!("{}{} demo exec", if settings.through_sudo { "sudo " } else { "" }, own_path());
    let pod = scene.rows.iter().find(|row| lab.has_pod(&row.from)).map_or("POD", |row| row.from.as_str());
    let mut out = io::stdout().lock();
    writeln!(out, "\n{}", paint.paint(Tone::Strong, "It stays up until Ctrl-C."))?;
    writeln!(out, "  policies   {}  (a saved change is in force at once)", folder.join("policies").display())?;
    writeln!(out, "  records    tail -f {}", folder.join("records-*.jsonl").display())?;
    writeln!(out, "  in a pod   {exec} {pod} -- curl -s http://NAME:PORT/PATH   (pods know each other by name)")?;
    if let Some(row) = scene.rows.iter().find(|row| row.http.is_some() && row.expect == Expect::Allow && row.goes_by_name()) {
        writeln!(out, "  by name    {exec} {} -- curl -s http://{}:{}/", row.from, row.to, row.port)?;
        writeln!(out, "  learned    {exec} {} -- {} names", lab.first_node(), own_path())?;
    }
    writeln!(out, "  the rules  {exec} {} -- nft list ruleset", lab.first_node())?;
    writeln!(out, "  pods       {}", lab.pod_names().join(", "))?;
    out.flush()?;
    drop(out);
    signals.wait()?;
    drop(announced);
    println!("\nending");
    Ok(())
}

/// This program as a person in this folder would call it.
fn own_path() -> String {
    let own = std::env::current_exe().unwrap_or_else(|_| "sluice".into());
    let here = std::env::current_dir().ok().and_then(|here| own.strip_prefix(here).map(Path::to_owned).ok());
    here.unwrap_or(own).display().to_string()
}

/// Removes what would outlive this process when it is told to end in the middle. Processes and namespaces end with it.
fn end_on_signal(signals: SigSet, folder: &Path) {
    let folder = folder.to_owned();
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            // Nothing more can be done for a folder that can't be removed.
            let _ = std::fs::remove_dir_all(&folder);
            std::process::exit(128 + signal as i32);
        }
    });
}
