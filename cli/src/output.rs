//! How answers are printed: the three formats, colours, and the width of the terminal.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::config::Settings;

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
    Yaml,
}

/// How one answer is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A text for people, or of one of a command's own formats.
    Text(String),
    /// Indented.
    Json,
    Yaml,
}

impl Format {
    /// The form that this is, with `text` for people.
    pub fn form(self, text: impl FnOnce() -> String) -> Form {
        match self {
            Self::Text => Form::Text(text()),
            Self::Json => Form::Json,
            Self::Yaml => Form::Yaml,
        }
    }
}

/// Writes `value` to standard output, in the form that `form` makes of the colours there.
pub fn print(
    settings: &Settings,
    value: &impl Serialize,
    form: impl FnOnce(Paint) -> anyhow::Result<Form>,
) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match form(Paint::for_terminal(settings, &io::stdout()))? {
        Form::Text(text) => out.write_all(text.as_bytes())?,
        Form::Yaml => write!(out, "{}", serde_saphyr::to_string(value)?)?,
        Form::Json => {
            serde_json::to_writer_pretty(&mut out, value)?;
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}

/// What a text means, and so how it looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Depends,
    Quiet,
    Strong,
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    on: bool,
}

impl Paint {
    pub const fn plain() -> Self {
        Self { on: false }
    }

    /// Colours if `out` is a terminal and nobody asked for none (`NO_COLOR`, `TERM=dumb`).
    pub fn for_terminal(settings: &Settings, out: &impl IsTerminal) -> Self {
        Self { on: settings.colors && out.is_terminal() }
    }

    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.on {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Depends => "33",
            Tone::Quiet => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Columns of the terminal that standard output is; `None` if it is none.
pub fn terminal_width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Writes a diagnostic line on standard error: `error: ..`, the first word in colour on a terminal.
pub fn complain(settings: &Settings, message: impl std::fmt::Display) {
    let paint = Paint::for_terminal(settings, &io::stderr());
    // Nobody is left to tell if standard error is closed.
    let _ = writeln!(io::stderr(), "{} {message}", paint.paint(Tone::Bad, "error:"));
}

/// Writes on standard error what is worth knowing and no error.
pub fn remark(settings: &Settings, message: impl std::fmt::Display) {
    let paint = Paint::for_terminal(settings, &io::stderr());
    let _ = writeln!(io::stderr(), "{} {message}", paint.paint(Tone::Depends, "note:"));
}
