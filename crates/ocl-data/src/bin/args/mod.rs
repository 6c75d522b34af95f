//! Command lines of `--option value` and words, for programs that want no library for them.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

/// A program: shows `help` where that is asked for, else runs and says what went wrong.
pub(crate) fn program(help: &str, run: fn(Args) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let Some(args) = Args::take(help) else { return ExitCode::SUCCESS };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told of a failure.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What stands on a command line.
pub(crate) struct Args(Vec<String>);

impl Args {
    /// Takes this process's, and shows `help` where that is asked for.
    fn take(help: &str) -> Option<Args> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        if args.iter().any(|arg| arg == "--help" || arg == "-h") {
            let _ = writeln!(std::io::stdout(), "{help}");
            return None;
        }
        Some(Args(args))
    }

    /// Whether a word stands there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let found = self.0.iter().position(|arg| arg == name);
        found.map(|at| self.0.remove(at)).is_some()
    }

    /// The value of an option, given as `--name value` or `--name=value`.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String> {
        let of = |arg: &String| {
            arg.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
        };
        let Some(at) = self.0.iter().position(of) else { return Ok(None) };
        let word = self.0.remove(at);
        let text = match word.split_once('=') {
            Some((_, text)) => text.to_string(),
            None if at < self.0.len() => self.0.remove(at),
            None => return Err(format!("{name} needs a value")),
        };
        text.parse().map(Some).map_err(|_| format!("{name}: `{text}` is no value for it"))
    }

    /// The words that are left, which must be as many as there are names.
    pub(crate) fn words<const N: usize>(self, names: [&str; N]) -> Result<[String; N], String> {
        if let Some(unknown) = self.0.iter().find(|arg| arg.starts_with("--")) {
            return Err(format!("there is no option `{unknown}`; --help lists all"));
        }
        let wanted = format!("give {}; --help says more", names.join(" and "));
        self.0.try_into().map_err(|_| wanted)
    }
}
