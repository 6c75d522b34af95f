//! The one way to stdout and stderr. A reader that went away (`| head`), a full device or a terminal
//! that was closed ends no run and costs no result.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static LOST: AtomicBool = AtomicBool::new(false);

/// Says a line on stderr.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::say_line(::std::format_args!($($text)*)) };
}

/// Prints a line of a result on stdout.
#[macro_export]
macro_rules! print_line {
    ($($text:tt)*) => { $crate::print_text(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// What [`say!`] calls.
pub fn say_line(line: Arguments<'_>) {
    // In one piece, so that lines of several processes do not mix. Nobody can be told of a failure.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Prints a text on stdout.
pub fn print_text(text: Arguments<'_>) {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_fmt(text).and_then(|()| stdout.flush());
    // Who closes a pipe has read enough.
    if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// Whether something that was printed on stdout did not arrive, but for readers that went away.
pub fn lost_output() -> bool {
    LOST.load(Ordering::Relaxed)
}
