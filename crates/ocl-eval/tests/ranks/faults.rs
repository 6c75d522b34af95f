//! What ends a run of several processes, and what is said then.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{
    alone, for_open_mpi, fresh, images, processes, recipe, resume, signal, start, stderr,
    until_step,
};

#[test]
fn a_process_that_hangs_ends_the_run_and_is_named() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let mut command = fresh(3, folder.path(), "hangs", "ocl");
    command.args(["--set", "train.epochs=4000", "--set", "train.patience_secs=2"]);
    let mut launcher = start(&mut command, "hang");
    until_step(&mut launcher, &folder.path().join("hangs"), 3);
    let stopped = processes(&launcher, 3)[2];
    signal(stopped, libc::SIGSTOP);
    let output = launcher.wait_with_output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("has waited") && text.contains("train.patience_secs"), "{text}");
    // Stopped between what it sends to one and to the next, it keeps rank 1 from the root's next word.
    assert!(["for rank 2 on ", "for rank 1 on "].iter().any(|whom| text.contains(whom)), "{text}");
    // What is stopped cannot end by itself.
    signal(stopped, libc::SIGKILL);
    assert!(fs::read_dir(folder.path().join("hangs/checkpoints")).unwrap().count() > 0);
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_all_processes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    fs::create_dir(folder.path().join("full")).unwrap();
    fs::write(folder.path().join("full/checkpoints"), "in the way").unwrap();
    let started = Instant::now();
    let output = fresh(3, folder.path(), "full", "ocl").output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot create") && text.contains("checkpoints"), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "said once: {text}");
    assert!(started.elapsed() < Duration::from_secs(60));
}

/// Two processes in folders of their own, each with data at the same relative path.
fn apart(folder: &Path, args: &[String]) -> Command {
    let mut mpirun = Command::new("mpirun");
    for_open_mpi(&mut mpirun);
    mpirun.env("RAYON_NUM_THREADS", "1");
    mpirun.stdin(Stdio::null()).arg("--quiet");
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        if number > 0 {
            mpirun.arg(":");
        }
        mpirun.args(["-n", "1", "--wdir"]).arg(folder.join(name));
        mpirun.arg(env!("CARGO_BIN_EXE_ocl")).args(args);
    }
    mpirun
}

fn pretrain_here() -> Vec<String> {
    let words =
        ["pretrain", "--recipe", "folder", "--no-eval", "--data", "images", "--name", "run"];
    words.into_iter().map(str::to_owned).chain(recipe("ocl")).collect()
}

#[test]
fn other_data_is_refused_before_the_first_step_and_one_folder_serves_all() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    for name in ["first", "second"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        images(&folder.path().join(name));
    }
    let lost = folder.path().join("second/images/005.png");
    let kept = fs::read(&lost).unwrap();
    fs::remove_file(&lost).unwrap();
    let output = apart(folder.path(), &pretrain_here()).output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("rank 1 on ") && text.contains("images in images 99"), "{text}");
    assert!(text.contains("rank 0 has 100"), "{text}");
    assert!(!folder.path().join("first/runs").exists(), "nothing was begun");

    // With the file back they are alike, and the second needs no run folder of its own: neither to
    // begin nor to resume.
    fs::write(&lost, kept).unwrap();
    let output = apart(folder.path(), &pretrain_here()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let run = folder.path().join("first/runs/run");
    fs::remove_dir_all(run.join("checkpoints/step-00000008")).unwrap();
    fs::remove_file(run.join("encoder.safetensors")).unwrap();
    let again = ["pretrain", "--no-eval", "--resume", "runs/run"].map(str::to_owned);
    let output = apart(folder.path(), &again).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(run.join("encoder.safetensors").exists());
    assert!(!folder.path().join("second/runs").exists());

    // A file that one of them cannot read is unreadable for all, and stood in for.
    fs::write(folder.path().join("second/images/006.png"), "broken").unwrap();
    fs::remove_dir_all(&run).unwrap();
    let output = apart(folder.path(), &pretrain_here()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let bad = fs::read_to_string(run.join("quarantine.jsonl")).unwrap();
    for name in ["017.png", "060.png"] {
        assert!(bad.contains(name), "{bad}");
    }
    // Whether 006 was ever the second's to read is chance.
    assert!(bad.lines().count() <= 3, "{bad}");

    // Nothing of what it should read can be read: that ends the run, as too much.
    for entry in fs::read_dir(folder.path().join("second/images")).unwrap() {
        fs::write(entry.unwrap().path(), "broken").unwrap();
    }
    fs::remove_dir_all(&run).unwrap();
    let output = apart(folder.path(), &pretrain_here()).output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("cannot be read") && text.contains("quarantine.jsonl"), "{text}");
    let bad = fs::read_to_string(run.join("quarantine.jsonl")).unwrap();
    assert!(bad.lines().count() > 5, "{bad}");
}

#[test]
fn a_killed_process_is_named() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let mut command = fresh(3, folder.path(), "killed", "ocl");
    let mut launcher = start(command.args(["--set", "train.epochs=4000"]), "killed");
    until_step(&mut launcher, &folder.path().join("killed"), 3);
    signal(processes(&launcher, 3)[1], libc::SIGKILL);
    let output = launcher.wait_with_output().unwrap();
    let text = stderr(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("rank 1 ") && text.contains("signal 9"), "{text}");
    assert!(!text.contains("stopping after this step"), "{text}");
}

#[test]
fn a_launcher_of_another_mpi_is_refused() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let mut command = fresh(4, folder.path(), "alone", "ocl");
    let output = command.env("PMI_SIZE", "4").env("PMI_RANK", "0").output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("PMI_SIZE=4") && text.contains("two kinds of MPI"), "{text}");
    assert!(!folder.path().join("alone").exists());
}

#[test]
fn too_many_processes_and_missing_launchers_are_answered() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let mut command = fresh(2, folder.path(), "few", "ocl");
    let output = command.args(["--set", "batch.size=101"]).output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("101 is more than the 100 images"), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");

    let output = fresh(9, folder.path(), "nine", "ocl").output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("batch.parts: 8: each of 9 ranks needs a part"), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");

    let mut command = fresh(2, folder.path(), "lost", "ocl");
    let output = command.env("PATH", folder.path()).output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("no mpirun") && text.contains("openmpi-bin"), "{text}");

    let output = resume(2, &folder.path().join("nowhere")).output().unwrap();
    let text = stderr(&output);
    assert!(text.contains("nowhere is not a run folder"), "{text}");
    assert_eq!(text.matches("error:").count(), 1, "{text}");
}
