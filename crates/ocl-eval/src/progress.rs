//! One line on stderr that says how far a long step is, when someone is there to read it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use ocl_data::BadImage;
use ocl_train::World;

use crate::text::counted;

/// A line that rewrites itself, at most ten times a second; silent where stderr is no terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    silent: bool,
    written: bool,
    started: Instant,
    next: Instant,
}

impl Progress {
    /// Writes to stderr if it is a terminal.
    pub fn stderr() -> Self {
        Self::new(std::io::stderr().is_terminal(), false)
    }

    /// Writes to stderr in the root, and in no other process.
    pub fn of(world: &World) -> Self {
        if world.is_root() { Self::stderr() } else { Self::silent() }
    }

    /// Never writes.
    pub fn silent() -> Self {
        Self::new(false, true)
    }

    fn new(shown: bool, silent: bool) -> Self {
        let now = Instant::now();
        Self { shown, silent, written: false, started: now, next: now }
    }

    /// Begins a step: rates count from here.
    pub(crate) fn begin(&mut self) {
        self.started = Instant::now();
        self.next = self.started;
    }

    /// Says that `done` of `total` images of `step` are through.
    pub(crate) fn images(&mut self, step: &str, done: usize, total: usize) {
        let secs = self.started.elapsed().as_secs_f64().max(1e-3);
        self.line(|| {
            let rate = thousands((done as f64 / secs) as usize);
            format!("{step}: {} / {}, {rate} img/s", thousands(done), thousands(total))
        });
    }

    /// Rewrites the line if it is time to.
    pub(crate) fn line(&mut self, text: impl FnOnce() -> String) {
        if !self.shown || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + Duration::from_millis(100);
        self.written = true;
        // A terminal that went away is no reason to stop measuring.
        let _ = write!(std::io::stderr(), "\r\x1b[K{}", text());
    }

    /// Says which images could not be read and were left out, on a terminal or not.
    pub(crate) fn left_out(&mut self, bad: &[BadImage]) {
        const NAMED: usize = 10;
        if bad.is_empty() || self.silent {
            return;
        }
        self.clear();
        ocl_train::say!(
            "{} left out, which cannot be read:",
            counted(bad.len(), "image", "images")
        );
        for BadImage { name, reason, .. } in bad.iter().take(NAMED) {
            ocl_train::say!("  {name}: {reason}");
        }
        if bad.len() > NAMED {
            ocl_train::say!("  and {} more", bad.len() - NAMED);
        }
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.written) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A count with commas between thousands.
pub(crate) fn thousands(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
