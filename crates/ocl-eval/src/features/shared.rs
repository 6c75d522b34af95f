//! One pass over images that several processes share: each encodes its part of every batch, and the
//! root gets the rows of all in order.

use std::sync::Arc;

use ocl_data::{BadImage, Batch, Findings, Loader, LoaderConfig, Source, Split, View, in_words};
use ocl_train::{Elsewhere, World};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// What a process says before all go on.
#[derive(Serialize, Deserialize)]
struct Word<W> {
    word: W,
    findings: Findings,
    fault: Option<Elsewhere>,
}

/// What this process came to and the words of all, when none of them failed and `note` finds nothing
/// amiss with what all met with together.
///
/// # Errors
/// In all processes, when one of them fails.
pub(crate) fn agreed<T, W: Serialize + DeserializeOwned>(
    world: &World,
    own: Result<T, EvalError>,
    word: W,
    findings: Findings,
    note: impl FnOnce(&Findings) -> Result<(), EvalError>,
) -> Result<(T, Vec<W>), EvalError> {
    let fault = own.as_ref().err().map(|error| Elsewhere::here(world, in_words(error)));
    let (mut all, mut first_fault, mut words) = (Findings::default(), None, vec![]);
    for said in world.exchange(Word { word, findings, fault }) {
        all.extend(said.findings);
        first_fault = first_fault.or(said.fault);
        words.push(said.word);
    }
    if let Some(fault) = first_fault {
        world.leave();
        return own.and(Err(fault.into()));
    }
    if let Err(error) = note(&all) {
        // All processes find the same.
        world.leave();
        return Err(error);
    }
    Ok((own?, words))
}

/// What all processes made of a batch.
pub(crate) struct Made {
    /// The images that could be read, in order.
    pub(crate) samples: Vec<u64>,
    /// A row for each of them, by extractor.
    pub(crate) rows: Vec<Vec<f32>>,
}

/// Has each process make rows of its part of the images, `config.batch` at a time, and the root
/// take them. What one process encodes at a time does not depend on how many there are: so the rows
/// are those of one alone, bit for bit. The last batch may leave nothing to some processes. What could
/// not be read is given back.
///
/// # Errors
/// In all processes, when one of them fails.
pub(crate) fn in_turns(
    world: &World,
    source: &Arc<Source>,
    split: Split,
    view: View,
    config: LoaderConfig,
    mut make: impl FnMut(&Batch) -> Result<Vec<Vec<f32>>, EvalError>,
    mut take: impl FnMut(Made) -> Result<(), EvalError>,
) -> Result<Vec<BadImage>, EvalError> {
    let failed = |source| EvalError::Loader { split, source };
    let (own, all) = (config.batch, config.batch * world.size());
    let share = world.rank() * own..(world.rank() + 1) * own;
    let config = LoaderConfig { batch: all, share: Some(share), ..config };
    let loader = Loader::start(Arc::clone(source), view, config).map_err(failed);
    let mut loader = world.together(loader, in_words)?;
    let mut taken: Result<(), EvalError> = Ok(());
    let mut bad = vec![];
    loop {
        // Of a batch, what could be read of it; none where the data ends.
        let mut samples = None;
        let made = taken.and_then(|()| {
            let Some(batch) = loader.next() else { return Ok(vec![]) };
            let mut batch = batch.map_err(failed)?;
            let rows = make(&batch)?;
            samples = Some(std::mem::take(&mut batch.samples));
            loader.give_back(batch);
            Ok(rows)
        });
        let findings = loader.take_findings();
        let (rows, samples) = agreed(world, made, samples, findings, |findings| {
            bad.extend_from_slice(&findings.bad);
            loader.note(findings).map_err(failed)
        })?;
        let samples: Option<Vec<Vec<u64>>> = samples.into_iter().collect();
        let Some(samples) = samples else { return Ok(bad) };
        let rows = rows.into_iter().map(|rows| world.to_root(rows)).collect();
        taken =
            if world.is_root() { take(Made { samples: samples.concat(), rows }) } else { Ok(()) };
    }
}
