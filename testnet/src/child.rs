//! A process inside a namespace: its output captured, killed with its guard, and with this process however it ends.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::net::locked;
use crate::{Error, Netns, wait_until};

/// Lines kept of each stream; what comes after is counted and dropped.
const MOST_LINES: usize = 200_000;
/// A longer line is cut into pieces of this length.
const LONGEST_LINE: u64 = 1 << 20;

/// A running process. Dropped, it and what it started are killed.
pub struct Child {
    command: String,
    namespace: String,
    process: std::process::Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

/// What a process wrote to one of its streams.
#[derive(Default)]
struct Lines {
    state: Mutex<LinesState>,
    changed: Condvar,
}

#[derive(Default)]
struct LinesState {
    lines: Vec<String>,
    dropped: usize,
    ended: bool,
}

impl Child {
    pub(crate) fn start(ns: &Netns, command: Command) -> Result<Self, Error> {
        let words: Vec<_> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let words = words.join(" ");
        let failed = |error: io::Error| Error::Command {
            command: words.clone(),
            namespace: ns.name().to_owned(),
            reason: error.to_string(),
        };
        let mut process = spawn_inside(ns, dying_with_us(command)?).map_err(failed)?;
        let (stdout, stderr) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        if let Some(pipe) = process.stdout.take() {
            collect(pipe, &stdout);
        }
        if let Some(pipe) = process.stderr.take() {
            collect(pipe, &stderr);
        }
        Ok(Self { command: words, namespace: ns.name().to_owned(), process, stdout, stderr })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal to the process and what it started.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        let Ok(group) = i32::try_from(self.process.id()) else {
            return Ok(());
        };
        killpg(Pid::from_raw(group), signal).map_err(|errno| self.failed(&errno.to_string()))
    }

    /// Kills the process (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        // A process that has been waited for has given its number back: only one that still holds it is killed.
        if let Ok(None) = self.process.try_wait() {
            let _ = self.signal(Signal::SIGKILL);
            let _ = self.process.wait();
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Its exit status, once it has ended within `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let mut status = None;
        wait_until(timeout, || {
            status = self.process.try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(-1)));
            status.is_some()
        });
        status
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        locked(&self.stdout.state).lines.clone()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        locked(&self.stderr.state).lines.clone()
    }

    /// The first line on standard output, from its start on, that contains `text`.
    pub fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String, Error> {
        self.wait_for(&self.stdout, text, timeout)
    }

    /// The first line on standard error, from its start on, that contains `text`.
    pub fn wait_for_error_line(&self, text: &str, timeout: Duration) -> Result<String, Error> {
        self.wait_for(&self.stderr, text, timeout)
    }

    fn wait_for(&self, stream: &Lines, text: &str, timeout: Duration) -> Result<String, Error> {
        let deadline = Instant::now() + timeout;
        let mut state = locked(&stream.state);
        let mut seen = 0;
        loop {
            if let Some(line) = state.lines[seen..].iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            seen = state.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                drop(state);
                return Err(self.failed(&format!("no line with {text:?}\n{self:?}")));
            }
            state = stream.changed.wait_timeout(state, left).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Command { command: self.command.clone(), namespace: self.namespace.clone(), reason: reason.to_owned() }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// For the message of a failed test: the command and the end of what it wrote.
impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} (in {})", self.command, self.namespace)?;
        for (name, stream) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let state = locked(&stream.state);
            let from = state.lines.len().saturating_sub(30);
            for line in &state.lines[from..] {
                writeln!(f, "  {name}: {line}")?;
            }
            if state.dropped > 0 {
                writeln!(f, "  {name}: and {} lines more", state.dropped)?;
            }
        }
        Ok(())
    }
}

/// Wraps `command` so that the kernel kills it when the thread that started it ends: in the children of a test that was
/// itself killed, no guard runs.
fn dying_with_us(command: Command) -> Result<Command, Error> {
    let program = command.get_program().to_owned();
    let path = Path::new(&program);
    if path.components().count() > 1 && !path.exists() {
        return Err(Error::NotBuilt { name: program.to_string_lossy().into_owned(), looked: "that path".to_owned() });
    }
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--pdeathsig", "KILL", "--"]);
    append(&mut wrapped, &command);
    wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    Ok(wrapped)
}

/// Has `wrapper` run `command`: its program and arguments come last, its environment and folder are the wrapper's.
pub(crate) fn append(wrapper: &mut Command, command: &Command) {
    wrapper.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapper.env(name, value),
            None => wrapper.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapper.current_dir(folder);
    }
}

struct Job {
    namespace: Netns,
    command: Command,
    reply: SyncSender<io::Result<std::process::Child>>,
}

/// Starts `command` from the one thread that starts all children and lives as long as this process: the kernel's
/// parent-death signal goes by thread, and tests run on threads that end.
fn spawn_inside(ns: &Netns, command: Command) -> io::Result<std::process::Child> {
    static STARTER: OnceLock<Option<SyncSender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (send, receive) = sync_channel::<Job>(64);
        let home: OwnedFd = std::fs::File::open("/proc/thread-self/ns/net").ok()?.into();
        let work = move || {
            for mut job in receive {
                let child = job.namespace.enter().and_then(|()| job.command.spawn());
                // Back home, so that this thread keeps no namespace alive.
                let _ = setns(&home, CloneFlags::CLONE_NEWNET);
                drop(job.namespace);
                let _ = job.reply.send(child);
            }
        };
        let named = std::thread::Builder::new().name("testnet-start".to_owned());
        named.spawn(work).ok()?;
        Some(send)
    });
    let gone = || io::Error::other("the thread that starts processes has ended");
    let (reply, answer) = sync_channel(1);
    let job = Job { namespace: ns.clone(), command, reply };
    let starter = starter.as_ref().ok_or_else(gone)?;
    starter.send(job).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// Reads `pipe` to its end on a thread of its own; that ends with the last process that holds the pipe.
fn collect(pipe: impl Read + Send + 'static, lines: &Arc<Lines>) {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
            let ended = !matches!(read, Ok(1..));
            let mut state = locked(&lines.state);
            if ended {
                state.ended = true;
            } else if state.lines.len() >= MOST_LINES {
                state.dropped += 1;
            } else {
                let text = String::from_utf8_lossy(&line);
                state.lines.push(text.trim_end_matches(['\r', '\n']).to_owned());
            }
            drop(state);
            lines.changed.notify_all();
            if ended {
                return;
            }
        }
    });
}
