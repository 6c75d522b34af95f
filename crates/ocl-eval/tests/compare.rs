//! Methods compared on the embedded data set: stopped and asked again is the unbroken comparison.

#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use ocl_eval::{Budget, CompareConfig, Entrant, EvalError, Standings, compare};

fn config(methods: &[&str]) -> CompareConfig {
    let overrides = [
        "model.patch_px=7",
        "model.width=16",
        "model.depth=1",
        "model.heads=2",
        "batch.size=800",
        "data.workers=1",
    ];
    CompareConfig {
        version: "0".to_owned(),
        recipe: "embedded".to_owned(),
        overrides: overrides.map(str::to_owned).to_vec(),
        backend: "flex".to_owned(),
        budget: Budget::Epochs(1),
        seeds: vec![0, 1],
        marks: 2,
        limits: [200, 100],
        entrants: methods
            .iter()
            .map(|method| Entrant {
                method: (*method).to_owned(),
                overrides: vec!["optim.base_lr=2e-3".to_owned()],
                step_secs: 0.0,
                steps: 0,
            })
            .collect(),
    }
}

/// Runs until `lines` lines were said, or to the end.
fn run(
    config: &CompareConfig,
    folder: &Path,
    lines: usize,
) -> Result<(Standings, bool), EvalError> {
    let (stop, mut said) = (AtomicBool::new(false), 0);
    compare(config, folder, &stop, |_| {
        said += 1;
        stop.fetch_or(said >= lines, Ordering::Relaxed);
    })
}

/// What does not depend on the machine's speed.
fn found(standings: &Standings) -> Vec<(String, u64, u64, u64, u64, u64)> {
    let bits = f64::to_bits;
    let of = |mark: &ocl_eval::Mark| {
        let (knn, linear) = (bits(mark.knn), bits(mark.linear));
        (mark.method.clone(), mark.seed, mark.mark, mark.step, knn, linear)
    };
    standings.marks.iter().map(of).collect()
}

#[test]
fn stopped_and_asked_again_it_finds_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let config = config(&["ocl", "i-jepa"]);
    let (unbroken, finished) = run(&config, &whole, usize::MAX).unwrap();
    // Raw pixels, and two methods of two seeds at three marks each.
    assert_eq!((finished, unbroken.marks.len()), (true, 13));
    let minutes = |mark: u64| {
        let of = |m: &&ocl_eval::Mark| m.method == "ocl" && (m.seed, m.mark) == (1, mark);
        unbroken.marks.iter().find(of).unwrap().minutes
    };
    assert!(minutes(0) == 0.0 && minutes(1) > 0.0 && minutes(2) > minutes(1));
    assert_eq!(unbroken.marks.iter().map(|mark| mark.step).max(), Some(10));

    let mut rounds = 0;
    let stopped = loop {
        let (standings, finished) = run(&config, &broken, 3).unwrap();
        rounds += 1;
        if finished {
            break standings;
        }
    };
    assert!(rounds > 2, "{rounds}");
    assert_eq!(found(&stopped), found(&unbroken));
    for name in ["comparison.json", "comparison.csv", "comparison.svg", "comparison.png"] {
        assert!(broken.join(name).metadata().unwrap().len() > 100, "{name}");
    }
    assert!(stopped.text().contains("i-jepa, untrained"), "{}", stopped.text());
    let weights = |root: &Path| std::fs::read(root.join("i-jepa-seed-1/encoder.safetensors"));
    assert_eq!(weights(&broken).unwrap(), weights(&whole).unwrap());

    // Another question is no continuation.
    let mut other = config.clone();
    other.marks = 3;
    let error = run(&other, &broken, 1).unwrap_err().to_string();
    assert!(error.contains("holds another comparison"), "{error}");
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let error = |config: CompareConfig| run(&config, folder.path(), 1).unwrap_err().to_string();
    assert!(error(config(&[])).contains("methods: at least 1"));
    assert!(error(config(&["mae", "mae"])).contains("mae is named twice"));
    assert!(error(config(&["maee"])).contains("did you mean `mae`?"));
    let no_time = CompareConfig { budget: Budget::Minutes(0.0), ..config(&["ocl"]) };
    assert!(error(no_time).contains("minutes: is above 0"));
    let mut wrong = config(&["ocl"]);
    wrong.entrants[0].overrides.push("method.norm_pix=true".to_owned());
    assert!(error(wrong).contains("no key of method `ocl`"));
    assert!(!folder.path().join("comparison.toml").exists());
}
