//! One run, however many processes share it.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{
    Bits, alone, fresh, images, processes, resume, signal, start, stderr, succeeds, until_step,
};

#[test]
fn every_method_gives_the_same_bits_on_any_number_of_processes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    for method in ["ocl", "mae", "i-jepa", "moco-v3"] {
        let bits = |ranks: usize| {
            let name = format!("{method}-{ranks}");
            succeeds(&mut fresh(ranks, folder.path(), &name, method));
            Bits::of(&folder.path().join(name))
        };
        let one = bits(1);
        assert_eq!((one.steps.len(), one.bad()), (8, 2));
        for ranks in [2, 3, 4, 5, 8] {
            bits(ranks).assert_same(&one, &format!("{method} on {ranks} ranks"));
        }
    }
}

#[test]
fn one_part_is_for_one_process() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let mut command = fresh(2, folder.path(), "two", "ocl");
    let output = command.args(["--set", "batch.parts=1"]).output().unwrap();
    assert!(!output.status.success());
    let text = stderr(&output);
    assert!(text.contains("batch.parts: 1: each of 2 ranks"), "{text}");
    assert!(!folder.path().join("two").exists());
}

#[test]
fn a_run_goes_on_with_another_number_of_processes_whatever_was_killed() {
    let _alone = alone();
    let kills = std::env::var("OCL_RANK_KILLS").map_or(4, |kills| kills.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let long = ["--set", "train.epochs=40", "--set", "train.keep_checkpoints=3"];
    succeeds(fresh(1, folder.path(), "whole", "ocl").args(long));
    let whole = Bits::of(&folder.path().join("whole"));
    let run = folder.path().join("killed");
    let (mut killed, mut random, mut round) = (0, 12_345u64, 0);
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (random >> 33) % below
    };
    while killed < kills {
        round += 1;
        if run.join("encoder.safetensors").exists() {
            // It came to its end before anything was killed: again from the beginning.
            Bits::of(&run).assert_same(&whole, &format!("after {killed} kills"));
            fs::remove_dir_all(&run).unwrap();
        }
        let ranks = 1 + draw(5) as usize;
        let mut command = match run.join("plan.toml").exists() {
            true => resume(ranks, &run),
            false => {
                let mut command = fresh(ranks, folder.path(), "killed", "ocl");
                command.args(long);
                command
            }
        };
        let mut launcher = start(&mut command, &format!("kill {round}"));
        let moment = Instant::now() + Duration::from_millis(300 + draw(2500));
        let mut victim = None;
        while launcher.try_wait().unwrap().is_none() {
            if Instant::now() > moment && victim.is_none() {
                victim = match ranks {
                    1 => Some(i32::try_from(launcher.id()).unwrap()),
                    _ => processes(&launcher, ranks).get(draw(ranks as u64) as usize).copied(),
                };
                if let Some(pid) = victim {
                    signal(pid, libc::SIGKILL);
                    killed += 1;
                }
            }
            sleep(Duration::from_millis(5));
        }
        let output = launcher.wait_with_output().unwrap();
        let ended = run.join("encoder.safetensors").exists();
        assert!(ended || !output.status.success(), "a killed run succeeded: {}", stderr(&output));
    }
    succeeds(&mut resume(3, &run));
    Bits::of(&run).assert_same(&whole, &format!("after {killed} kills"));
}

#[test]
fn asked_to_stop_all_processes_leave_a_checkpoint() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    images(folder.path());
    let long = ["--set", "train.epochs=400", "--set", "train.checkpoint_every_epochs=1000"];
    let run = folder.path().join("stopped");
    let mut command = fresh(3, folder.path(), "stopped", "moco-v3");
    let mut launcher = start(command.args(long), "stop");
    until_step(&mut launcher, &run, 4);
    signal(i32::try_from(launcher.id()).unwrap(), libc::SIGTERM);
    let output = launcher.wait_with_output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("interrupted after step"), "{text}");
    assert!(!text.contains("non-zero"), "mpirun has nothing to add: {text}");
    assert_eq!(fs::read_dir(run.join("checkpoints")).unwrap().count(), 1);

    // As Slurm asks before the time is up, and with another number of processes.
    let mut launcher = start(&mut resume(2, &run), "stop again");
    let done = fs::read_to_string(run.join("log.jsonl")).unwrap().lines().count();
    until_step(&mut launcher, &run, done + 3);
    signal(i32::try_from(launcher.id()).unwrap(), libc::SIGUSR1);
    let output = launcher.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
}
