//! `embed`: features of images, as Parquet too.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::{self, Failure};
use crate::program;

/// `cargo xtask embed`. A Parquet table is made of an array by a program of its own: what writes
/// tables would make everyone compile the encoder's own dependencies anew.
pub(crate) fn command(mut args: Vec<OsString>) -> Result<(), Failure> {
    let Some(table) = take_table(&mut args) else { return program::run("embed", args) };
    let array = with_suffix(&table, "npy");
    args.extend(["--out".into(), array.clone().into()]);
    program::run("embed", args)?;
    to_parquet(&array, &table)?;
    let names = with_suffix(&array, "names.jsonl");
    for file in [array, names] {
        fs::remove_file(&file)
            .map_err(|error| Failure::new(format!("cannot remove {}: {error}", file.display())))?;
    }
    println!("the table is {}", table.display());
    Ok(())
}

/// Builds and runs ocl-data's program where the user stands: the paths are meant from there.
fn to_parquet(array: &Path, table: &Path) -> Result<(), Failure> {
    let here = std::env::current_dir()
        .map_err(|error| Failure::new(format!("the current folder cannot be told: {error}")))?;
    let mut cargo = command::cargo(&["run", "--release", "--quiet", "-p", "ocl-data"]);
    cargo.arg("--manifest-path").arg(command::root().join("Cargo.toml"));
    cargo.args(["--features", "parquet", "--bin", "to-parquet", "--"]);
    command::run(cargo.arg(array).arg(table).current_dir(here))
}

/// Takes `--out TABLE.parquet` out of `args`, if that is there.
fn take_table(args: &mut Vec<OsString>) -> Option<PathBuf> {
    let is_table = |word: &str| word.ends_with(".parquet");
    let at = args
        .iter()
        .position(|arg| arg == "--out" || arg.to_string_lossy().starts_with("--out="))?;
    let whole = args[at].to_string_lossy().into_owned();
    if let Some(value) = whole.strip_prefix("--out=") {
        return is_table(value).then(|| {
            args.remove(at);
            value.into()
        });
    }
    let value = args.get(at + 1).filter(|value| is_table(&value.to_string_lossy()))?.clone();
    args.drain(at..at + 2);
    Some(value.into())
}

/// `a.parquet` and `npy` make `a.parquet.npy`.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_table_is_taken_out() {
        let taken = |line: &str| {
            let mut args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let table = take_table(&mut args).map(|table| table.display().to_string());
            (table, args.join(&OsString::from(" ")).into_string().expect("words"))
        };
        let table = Some("f.parquet".to_owned());
        assert_eq!(taken("a --out f.parquet --test"), (table.clone(), "a --test".into()));
        assert_eq!(taken("a --out=f.parquet"), (table, "a".into()));
        for line in ["a --out f.npy", "a --out", "a.parquet --run b", "--out=f.npy"] {
            assert_eq!(taken(line), (None, line.into()));
        }
    }
}
