//! Progress on standard error, and Ctrl-C.

use crate::stderr;
use achilles_audit::escape::printable;
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by Ctrl-C; a job sees it at its next step and drops what it has not finished.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Bars where standard error is a terminal, else nothing
    Auto,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

/// Progress bars, JSON lines or nothing.
pub struct Bars {
    choice: Shown,
    stage: Mutex<Option<Stage>>,
}

#[derive(PartialEq)]
enum Shown {
    Bars,
    Json,
    Nothing,
}

struct Stage {
    name: String,
    unit: &'static str,
    done: u64,
    total: u64,
    bar: Option<ProgressBar>,
}

impl Bars {
    /// Listens for Ctrl-C from now on; a second one ends the process at once.
    pub fn new(choice: Choice) -> Result<Bars> {
        let handler = || {
            if INTERRUPTED.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
        };
        ctrlc::set_handler(handler).map_err(|e| Error::input(format!("cannot listen for Ctrl-C: {e}")))?;
        let choice = match choice {
            Choice::Auto if std::io::stderr().is_terminal() => Shown::Bars,
            Choice::Json => Shown::Json,
            _ => Shown::Nothing,
        };
        Ok(Bars { choice, stage: Mutex::new(None) })
    }

    fn with(&self, f: impl FnOnce(&mut Option<Stage>)) {
        f(&mut self.stage.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.end();
    }
}

impl Progress for Bars {
    fn begin(&self, name: &str, total: u64, unit: &'static str) {
        let bar = (self.choice == Shown::Bars).then(|| {
            let units = if unit == "bytes" { "{bytes}/{total_bytes}, {bytes_per_sec}" } else { "{pos}/{len}" };
            let template = format!("{{msg:28}} {{wide_bar}} {units} {{eta}}");
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(total).with_style(style).with_message(printable(name))
        });
        self.with(|stage| *stage = Some(Stage { name: name.into(), unit, done: 0, total, bar }));
    }

    fn advance(&self, steps: u64) -> Result<()> {
        self.with(|stage| {
            let Some(stage) = stage else { return };
            stage.done += steps;
            if let Some(bar) = &stage.bar {
                bar.inc(steps);
            }
            if self.choice == Shown::Json {
                let (done, total) = (stage.done, stage.total);
                let line = serde_json::json!({"stage": stage.name, "done": done, "total": total, "unit": stage.unit});
                stderr::json(&line);
            }
        });
        if INTERRUPTED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn end(&self) {
        self.with(|stage| {
            if let Some(bar) = stage.take().and_then(|s| s.bar) {
                bar.finish_and_clear();
            }
        });
    }
}
