//! Features of images that several processes share.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{alone, fresh, images, ocl, signal, start, stderr, succeeds};

/// A run of one epoch on 100 images, of which two cannot be read.
fn run(folder: &Path) -> PathBuf {
    images(folder);
    succeeds(fresh(1, folder, "run", "ocl").args(["--set", "train.epochs=1"]));
    folder.join("run")
}

/// The images that can be read in class folders, three in four of them to train on.
fn labelled(folder: &Path) -> PathBuf {
    let data = folder.join("labelled");
    for (number, image) in (0..100).filter(|number| ![17, 60].contains(number)).enumerate() {
        let split = if number % 4 == 0 { "val" } else { "train" };
        let class = data.join(split).join(format!("class-{}", image % 5 % 3));
        fs::create_dir_all(&class).unwrap();
        let name = format!("{image:03}.png");
        fs::copy(folder.join("images").join(&name), class.join(&name)).unwrap();
    }
    data
}

fn embed(ranks: usize, run: &Path, images: &Path, out: &Path) -> std::process::Output {
    let mut command = ocl(ranks, &["embed"]);
    command.arg(images).arg("--run").arg(run).arg("--out").arg(out).output().unwrap()
}

#[test]
fn a_file_of_features_has_the_same_bytes_and_is_resumed_on_any_number_of_processes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let data = folder.path().join("images");
    let file = |ranks: usize| folder.path().join(format!("{ranks}.npy"));
    for ranks in [1, 2, 3, 5] {
        let output = embed(ranks, &run, &data, &file(ranks));
        assert!(output.status.success(), "{}", stderr(&output));
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(told.matches("100 images in").count(), 1, "the root alone tells: {told}");
        let said = stderr(&output);
        assert_eq!(said.matches("2 images left out").count(), 1, "{said}");
        assert!(said.contains("017.png: ") && said.contains("060.png: "), "{said}");
    }
    let whole = fs::read(file(1)).unwrap();
    let rows: Vec<f32> = whole[whole.len() - 100 * 16 * 4..]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let missing = rows.chunks_exact(16).enumerate().filter(|(_, row)| row[0].is_nan());
    assert!(missing.map(|(image, _)| image).eq([17, 60]));
    for ranks in [2, 3, 5] {
        assert!(fs::read(file(ranks)).unwrap() == whole, "{ranks} processes");
    }

    let patches = [1, 4].map(|ranks| {
        let out = folder.path().join(format!("patches-{ranks}.npy"));
        let mut command = ocl(ranks, &["embed", "--what", "patches"]);
        command.arg("--out").arg(&out).arg(&data);
        succeeds(command.arg("--run").arg(&run));
        fs::read(out).unwrap()
    });
    assert!(patches[0] == patches[1] && patches[0].len() > 16 * whole.len() / 2);

    // A folder in the file's place leaves it unfinished.
    let (out, part) = (folder.path().join("again.npy"), folder.path().join("again.npy.part"));
    fs::create_dir_all(out.join("in the way")).unwrap();
    let output = embed(2, &run, &data, &out);
    assert!(!output.status.success() && stderr(&output).contains("cannot write"));
    fs::remove_dir_all(&out).unwrap();
    fs::write(&part, &whole[..whole.len() - 60 * 16 * 4 - 7]).unwrap();
    let output = embed(3, &run, &data, &out);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("39 images were there already"), "{told} {}", stderr(&output));
    assert!(fs::read(&out).unwrap() == whole && !part.exists());
}

#[test]
fn results_are_those_of_one_process() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let data = labelled(folder.path());
    let results = |ranks: usize| {
        let kept = folder.path().join(format!("results-{ranks}"));
        let mut command =
            ocl(ranks, &["eval", "--protocols", "knn,linear,centroid", "--seeds", "1"]);
        command.args(["--encode-batch", "8", "--set", "linear.epochs=5", "--run"]).arg(&run);
        succeeds(command.arg("--data").arg(&data).arg("--results").arg(&kept));
        let text = fs::read_to_string(kept.join("results.jsonl")).unwrap();
        let scores = text.lines().map(|line| {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            (record["protocol"].to_string(), record["scores"].to_string())
        });
        scores.collect::<Vec<_>>()
    };
    let one = results(1);
    assert_eq!(one.len(), 3, "{one:?}");
    for ranks in [2, 3] {
        assert_eq!(results(ranks), one, "{ranks} processes");
    }
}

#[test]
fn a_fine_tuning_has_the_same_bits_and_is_resumed_on_any_number_of_processes() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let data = labelled(folder.path());
    // One that cannot be read, for which another steps in.
    let damaged = data.join("train/class-0/020.png");
    assert!(damaged.exists());
    fs::write(damaged, "not an image").unwrap();
    // A batch that parts and processes do not divide.
    let settings = ["train.batch=19", "train.parts=8", "train.epochs=6", "model.drop_path=0.3"];
    let fresh = |ranks: usize, out: &Path| {
        let mut command = ocl(ranks, &["finetune"]);
        command.arg("--run").arg(&run);
        command.args(settings.iter().flat_map(|pair| ["--set", pair]));
        command.args([
            "--set",
            "optim.warmup_epochs=1",
            "--set",
            "train.checkpoint_every_epochs=1",
        ]);
        command.arg("--data").arg(&data).arg("--out").arg(out);
        command
    };
    let bits = |out: &Path| {
        let seed = out.join("seed-0");
        let mut result: serde_json::Value =
            serde_json::from_slice(&fs::read(seed.join("result.json")).unwrap()).unwrap();
        result.as_object_mut().unwrap().remove("secs");
        let log = fs::read_to_string(seed.join("log.jsonl")).unwrap();
        (fs::read(seed.join("finetuned.safetensors")).unwrap(), log, result)
    };
    let one = folder.path().join("one");
    succeeds(&mut fresh(1, &one));
    let expected = bits(&one);
    assert!(expected.1.lines().count() >= 6);
    for ranks in [2, 3, 5] {
        let out = folder.path().join(format!("on-{ranks}"));
        succeeds(&mut fresh(ranks, &out));
        assert!(bits(&out) == expected, "{ranks} processes");
    }
    let output = fresh(9, &folder.path().join("nine")).output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("train.parts: 8: each of 9 ranks"), "{}", stderr(&output));

    let out = folder.path().join("stopped");
    let mut stopped = start(&mut fresh(3, &out), "fine-tuning");
    let log = out.join("seed-0/log.jsonl");
    while fs::read_to_string(&log).unwrap_or_default().lines().count() < 2 {
        assert!(stopped.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    signal(i32::try_from(stopped.id()).unwrap(), libc::SIGINT);
    let code = stopped.wait().unwrap().code();
    let mut resumed = ocl(2, &["finetune"]);
    if code == Some(130) {
        succeeds(resumed.arg("--resume").arg(&out));
    } else {
        assert_eq!(code, Some(0), "it came to its end before it heard of it");
    }
    assert!(bits(&out).0 == expected.0, "stopped on 3 processes, resumed on 2");
}

#[test]
fn what_one_process_lacks_all_say() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path());
    let output = embed(2, &run, &folder.path().join("nothing"), &folder.path().join("a.npy"));
    assert!(!output.status.success());
    let text = stderr(&output);
    assert_eq!(text.matches("nothing: no such file or folder").count(), 1, "{text}");
    let mut command = ocl(2, &["eval-knn"]);
    let output = command
        .arg("--run")
        .arg(&run)
        .arg("--data")
        .arg(folder.path().join("images"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("no labels"), "{}", stderr(&output));
}
