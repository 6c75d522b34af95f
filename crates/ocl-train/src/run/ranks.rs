//! What the processes of a run tell each other between steps.
//!
//! Before each step every process says a word: go on, stop, or what went wrong. So all stop after
//! the same step, and who fails is named by all.

use std::sync::atomic::{AtomicBool, Ordering};

use ocl_data::{Batch, Findings, Loader, LoaderError, Source, in_words};
use serde::{Deserialize, Serialize};

use super::error::TrainError;
use super::stored::Stored;
use crate::config::Plan;
use crate::world::{Elsewhere, World, WorldError};

/// What a process says before a step.
#[derive(Default, Serialize, Deserialize)]
struct Word {
    stop: bool,
    /// Epoch and number of the batch; none where the data ends.
    batch: Option<(u64, u64)>,
    samples: Vec<u64>,
    findings: Findings,
    fault: Option<Elsewhere>,
}

/// This process's share of the next batch, with all of the batch's samples. None when the data ends
/// or a process was asked to stop.
pub(super) fn turn(
    world: &World,
    plan: &Plan,
    loader: &mut Loader,
    stop: &AtomicBool,
) -> Result<Option<(Batch, Vec<u64>)>, TrainError> {
    let stopped = stop.load(Ordering::Relaxed);
    let next = if stopped { None } else { loader.next() };
    if world.size() == 1 {
        let Some(batch) = next.transpose()? else { return Ok(None) };
        let samples = batch.samples.clone();
        return Ok(Some((batch, samples)));
    }
    let share = plan.micro_batches().share(plan.batch, world.rank(), world.size());
    let mut word = Word { stop: stopped, ..Word::default() };
    let own = match next.transpose() {
        Ok(batch) => {
            word.batch = batch.as_ref().map(|batch| (batch.epoch, batch.index));
            word.samples = batch.as_ref().map_or_else(Vec::new, |batch| batch.samples.clone());
            word.findings = loader.take_findings();
            if let Some(images) = batch.as_ref().map(|batch| batch.images)
                && images < share.len()
            {
                // Other processes' images would have to move up: too rare to be worth it.
                let reason = format!(
                    "{images} of {} images of a batch could be read, and nothing that could stand \
                     in for the others; repair or remove what quarantine.jsonl names",
                    share.len()
                );
                word.fault = Some(Elsewhere::here(world, reason));
            }
            batch
        }
        Err(error) => {
            word.fault = Some(Elsewhere::here(world, in_words(&error)));
            None
        }
    };
    let mut words = world.exchange(word);
    let mut findings = Findings::default();
    for word in &mut words {
        findings.extend(std::mem::take(&mut word.findings));
    }
    if let Err(error) = loader.note(&findings) {
        if matches!(error, LoaderError::TooManyBad { .. }) {
            // All processes find the same.
            world.leave();
        }
        return Err(error.into());
    }
    if let Some(fault) = words.iter().find_map(|word| word.fault.clone()) {
        world.leave();
        return Err(fault.into());
    }
    if words.iter().any(|word| word.stop) {
        return Ok(None);
    }
    assert!(
        words.iter().all(|word| word.batch == words[0].batch),
        "all processes are at one batch: {:?}",
        words.iter().map(|word| word.batch).collect::<Vec<_>>()
    );
    let Some(batch) = own else { return Ok(None) };
    let samples: Vec<u64> = words.into_iter().flat_map(|word| word.samples).collect();
    let batch = plan.view().with_blocks_among(batch, plan.seed, &samples, share.start);
    Ok(Some((batch, samples)))
}

/// Checks that all processes run one program on one kind of processor and see the same data.
///
/// # Errors
/// [`WorldError::Different`] naming the first that does not.
pub fn check_alike(world: &World, data: &str, source: &Source) -> Result<(), WorldError> {
    if world.size() == 1 {
        return Ok(());
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    world.alike(vec![
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("program".to_owned(), program()),
        ("arguments".to_owned(), format!("{arguments:?}")),
        ("processor features".to_owned(), processor()),
        (format!("images in {data}"), source.len().to_string()),
        ("names and labels of these, as CRC-32,".to_owned(), names(source)),
    ])
}

/// The program's CRC-32.
fn program() -> String {
    let bytes = std::env::current_exe().and_then(std::fs::read);
    bytes.map_or_else(|error| error.to_string(), |bytes| format!("{:08x}", crc32fast::hash(&bytes)))
}

/// What of a processor decides which of our passes serve.
fn processor() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        let features = [
            ("avx2", std::is_x86_feature_detected!("avx2")),
            ("fma", std::is_x86_feature_detected!("fma")),
            ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ];
        let there = features.iter().filter(|(_, there)| *there).map(|(name, _)| *name);
        format!("x86-64 {}", there.collect::<Vec<_>>().join(" "))
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH.to_owned()
}

fn names(source: &Source) -> String {
    let mut digest = crc32fast::Hasher::new();
    for sample in 0..source.len() {
        digest.update(source.name_of(sample).as_bytes());
        digest.update(&[0]);
    }
    for label in source.labels().unwrap_or_default() {
        digest.update(&label.to_le_bytes());
    }
    format!("{:08x}", digest.finalize())
}

/// Checks that all processes have the same weights and moments, before they are saved: processes
/// that have drifted apart train something that no one of them holds.
pub(super) fn same_everywhere(world: &World, state: &Stored) -> Result<(), TrainError> {
    if world.size() == 1 {
        return Ok(());
    }
    let digests = world.exchange(state.digest());
    match digests.iter().position(|digest| *digest != digests[0]) {
        None => Ok(()),
        Some(rank) => {
            world.leave();
            Err(TrainError::Diverged { step: state.step, rank })
        }
    }
}
