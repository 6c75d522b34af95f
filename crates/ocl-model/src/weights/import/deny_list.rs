//! Functions of Python that run programs: what a file that attacks its reader asks for.
//!
//! Nothing is ever called, so the list protects no one here. It tells users that a file is not to
//! be trusted: PyTorch would run what it asks for.

/// Whether a class or function of this name has no honest use in a file of weights.
pub(super) fn runs_programs(module: &str, name: &str) -> bool {
    let known = |names: &[&str]| names.contains(&name);
    match module.split('.').next().unwrap_or_default() {
        "os" | "posix" | "nt" => !known(&["PathLike", "stat_result", "fspath"]),
        "subprocess" | "pty" | "runpy" | "socket" | "shutil" | "ctypes" | "importlib" | "pip"
        | "webbrowser" | "code" | "commands" => true,
        "builtins" | "__builtin__" => {
            known(&["eval", "exec", "execfile", "compile", "__import__", "open", "breakpoint"])
        }
        _ => false,
    }
}
