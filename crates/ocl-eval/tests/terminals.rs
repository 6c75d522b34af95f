//! Readers that go away, devices that are full, file systems without locks: no run ends by them.

#![cfg(all(target_os = "linux", feature = "flex"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stderr, reason = "it says when it is skipped")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A run of two short epochs, typed in a shell with `around` it, where `OCL` stands for the command.
fn shell(folder: &Path, name: &str, around: &str) -> Output {
    let command = format!(
        "'{}' pretrain --no-eval --epochs 2 --batch 2000 --out '{}' --name {name} \
         --set model.width=16 --set model.heads=2 --set model.depth=1 \
         --set train.checkpoint_every_epochs=1",
        env!("CARGO_BIN_EXE_ocl"),
        folder.display()
    );
    Command::new("bash").args(["-c", &around.replace("OCL", &command)]).output().unwrap()
}

fn is_whole(run: &Path) -> bool {
    run.join("encoder.safetensors").exists()
        && fs::read_to_string(run.join("log.jsonl")).unwrap().lines().count() == 8
}

#[test]
fn readers_that_go_away_end_no_run() {
    let folder = tempfile::tempdir().unwrap();
    for (name, around) in [
        ("head", "OCL 2>&1 | head -1; exit ${PIPESTATUS[0]}"),
        ("nobody", "OCL 2>&1 | true; exit ${PIPESTATUS[0]}"),
        ("full", "OCL 2> /dev/full"),
        ("closed", "OCL 2>&- >&-"),
    ] {
        let output = shell(folder.path(), name, around);
        assert!(output.status.success(), "{name}: {output:?}");
        assert!(is_whole(&folder.path().join(name)), "{name}");
    }
}

#[test]
fn results_that_did_not_arrive_are_an_error_unless_nobody_wanted_them() {
    let ocl = env!("CARGO_BIN_EXE_ocl");
    let run = |around: &str| {
        let around = around.replace("OCL", &format!("'{ocl}' recipes folder"));
        Command::new("bash").args(["-c", &around]).output().unwrap()
    };
    assert!(run("OCL | true; exit ${PIPESTATUS[0]}").status.success());
    let full = run("OCL > /dev/full");
    assert!(!full.status.success());
    assert!(String::from_utf8_lossy(&full.stderr).contains("could be written to stdout"));
}

#[test]
fn a_terminal_that_goes_away_ends_a_run_in_a_checkpoint_but_not_under_nohup() {
    let folder = tempfile::tempdir().unwrap();
    // Once it says something, it listens.
    let hang_up =
        "OCL 2> \"$LOG\" & until [ -s \"$LOG\" ]; do sleep 0.01; done; kill -HUP $!; wait $!";
    let log = |name: &str| format!("LOG='{}'; ", folder.path().join(name).display());
    let output = shell(folder.path(), "under-nohup", &(log("a") + "trap '' HUP; " + hang_up));
    assert!(output.status.success() && is_whole(&folder.path().join("under-nohup")), "{output:?}");
    let output = shell(folder.path(), "without", &(log("b") + hang_up));
    let run = folder.path().join("without");
    assert!(output.status.code() == Some(130) || is_whole(&run), "{output:?}");
    assert!(run.join("plan.toml").exists());
}

/// A library that stands before the system's: no locks, and no syncing of folders.
fn without_locks(folder: &Path) -> Option<PathBuf> {
    let (source, library) = (folder.join("without.c"), folder.join("without.so"));
    let text = r"
#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
int flock(int fd, int operation) { errno = ENOSYS; return -1; }
int fsync(int fd) {
    struct stat about;
    if (fstat(fd, &about) == 0 && S_ISDIR(about.st_mode)) { errno = EINVAL; return -1; }
    return syscall(SYS_fsync, fd);
}
";
    fs::write(&source, text).unwrap();
    let mut cc = Command::new("cc");
    let made = cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status();
    made.is_ok_and(|status| status.success()).then_some(library)
}

#[test]
fn file_systems_without_locks_and_synced_folders_are_used_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let Some(library) = without_locks(folder.path()) else {
        eprintln!("skipped: there is no C compiler");
        return;
    };
    let around = format!("LD_PRELOAD='{}' OCL", library.display());
    let output = shell(folder.path(), "run", &around);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && is_whole(&folder.path().join("run")), "{text}");
    for part in ["this file system has no locks", "cannot sync folders"] {
        assert_eq!(text.matches(part).count(), 1, "{part}: {text}");
    }
}
