//! The job script for Slurm, with programs in place of Slurm's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{alone, for_open_mpi, images, recipe, signal, stderr, until_step};

/// Starts as many ranks as the job has, and hands signals on.
const SRUN: &str = r#"#!/bin/bash
echo "srun $*" >> "$CALLS"
while [[ "$1" == --* ]]; do shift; done
mpirun --quiet --bind-to none -n "$SLURM_NTASKS" "$@" &
trap 'kill -USR1 $!' USR1
wait $!; code=$?
if [ "$code" -gt 128 ] && kill -0 $! 2>/dev/null; then wait $!; code=$?; fi
exit "$code"
"#;
const SCONTROL: &str = "#!/bin/bash\necho \"scontrol $*\" >> \"$CALLS\"\n";

fn program(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn job(folder: &Path, ranks: usize) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/slurm.sh");
    let ocl = PathBuf::from(env!("CARGO_BIN_EXE_ocl"));
    let mut folders = vec![folder.join("bin"), ocl.parent().unwrap().to_owned()];
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
    let mut command = Command::new("bash");
    command.arg(script).current_dir(folder);
    command.args(["--recipe", "folder", "--data", "images"]).args(recipe("ocl"));
    command.args(["--set", "train.epochs=60", "--set", "train.checkpoint_every_epochs=1000"]);
    command.env("PATH", std::env::join_paths(folders).unwrap());
    command.env("CALLS", folder.join("calls")).env("SLURM_JOB_ID", "77");
    command.env("SLURM_NTASKS", ranks.to_string()).env("SLURM_CPUS_PER_TASK", "1");
    for_open_mpi(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The process that plays `srun`.
fn srun() -> i32 {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains("bin/srun\0--mpi=pmix") {
            return pid;
        }
    }
    panic!("no srun runs");
}

#[test]
fn a_job_that_runs_out_of_time_is_queued_again_and_goes_on() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    fs::create_dir(folder.path().join("bin")).unwrap();
    program(&folder.path().join("bin"), "srun", SRUN);
    program(&folder.path().join("bin"), "scontrol", SCONTROL);
    let run = folder.path().join("runs/ocl-77");

    let mut first = job(folder.path(), 2).spawn().unwrap();
    until_step(&mut first, &run, 3);
    signal(srun(), libc::SIGUSR1);
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(calls.ends_with("scontrol requeue 77\n"), "{calls}");
    assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 1);

    // The next time with another number of ranks.
    let output = job(folder.path(), 3).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(run.join("encoder.safetensors").exists());
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert!(calls.lines().last().unwrap().contains("--resume runs/ocl-77"), "{calls}");
}
