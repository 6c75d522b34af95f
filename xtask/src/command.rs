//! Starting other programs, and ending as they ended.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};

use crate::signals;

/// Exit code for a wrong command line, as clap's.
const USAGE: u8 = 2;

/// Why xtask ends with something other than success.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    /// Absent when the child has already said what was wrong.
    message: Option<String>,
}

impl Failure {
    /// The command line was wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: Some(message.into()) }
    }

    /// Something of ours did not work.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 1, message: Some(message.into()) }
    }

    /// The same exit code, with something to add to what the child has said.
    pub(crate) fn with_message(self, message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..self }
    }

    /// Says what there is to say and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        if self.message.is_some() {
            eprintln!("error: {}", self.to_string().trim_end());
        }
        ExitCode::from(self.code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or_default())
    }
}

/// The cargo that runs us, in the workspace's root.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The commit at hand, for results to name; `+` after it where files differ from it.
pub(crate) fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { commit + "+" })
}

/// Runs `command` to its end and passes its exit code on.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.spawn().and_then(|mut child| signals::wait(&mut child));
    finish(status.map_err(|error| cannot_start(command, &error))?)
}

/// The failure of a program that could not be started at all.
pub(crate) fn cannot_start(command: &Command, error: &io::Error) -> Failure {
    Failure::new(format!("cannot start {}: {error}", Path::new(command.get_program()).display()))
}

/// Success, or the failure that has `status`' exit code.
pub(crate) fn finish(status: ExitStatus) -> Result<(), Failure> {
    if status.success() {
        return Ok(());
    }
    Err(Failure { code: exit_code(status), message: None })
}

/// Whether a program can be started by its name alone.
pub(crate) fn is_there(program: &str) -> bool {
    let name = Path::new(program).with_extension(std::env::consts::EXE_EXTENSION);
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).any(|folder| folder.join(&name).is_file())
}

/// A word as one would type it in a shell.
pub(crate) fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./\\:=,@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The exit code a shell would give: 128 + the signal for a program that a signal ended.
fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let ended_by =
        std::os::unix::process::ExitStatusExt::signal(&status).map(|signal| 128 + signal);
    #[cfg(not(unix))]
    let ended_by = None;
    let code = status.code().or(ended_by).unwrap_or(1);
    // Windows' codes have 32 bits; what matters is that none becomes 0.
    u8::try_from(code).unwrap_or(1)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<(), Failure> {
        let _alone = signals::ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        run(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn exit_codes_pass_through() {
        assert!(shell("exit 0").is_ok());
        assert_eq!(shell("exit 7").expect_err("7").code, 7);
        assert_eq!(shell("kill -TERM $$").expect_err("a signal").code, 128 + 15);
    }

    #[test]
    fn words_can_be_typed_again() {
        assert_eq!(word("runs/a-1"), "runs/a-1");
        assert_eq!(word("runs/it's a"), r"'runs/it'\''s a'");
        assert_eq!(word("*"), "'*'");
    }

    #[test]
    fn a_missing_program_is_named() {
        let failure = run(&mut Command::new("/no/such/program")).expect_err("nothing there");
        assert!(failure.to_string().contains("/no/such/program"), "{failure}");
    }
}
