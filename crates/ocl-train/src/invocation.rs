//! What a user types to run the program: texts that name a command name it so.

use std::sync::OnceLock;

/// Whoever starts the program in a user's place says here what the user typed.
const VARIABLE: &str = "OCL_INVOKED_AS";

/// What is typed before a command's name: `ocl`, or `cargo xtask` where that has started the
/// program.
pub fn invocation() -> &'static str {
    static TYPED: OnceLock<String> = OnceLock::new();
    TYPED.get_or_init(|| match std::env::var(VARIABLE) {
        Ok(typed) if !typed.is_empty() => typed,
        _ => "ocl".to_owned(),
    })
}

/// A command as the user would type it: `command_line("replay CAPTURE")` is `ocl replay CAPTURE`.
pub fn command_line(command: &str) -> String {
    format!("{} {command}", invocation())
}
