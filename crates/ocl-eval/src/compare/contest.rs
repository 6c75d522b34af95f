//! The comparison itself: pace, legs in turns, marks.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::tensor::Device;
use ocl_data::{Source, Split};
use ocl_model::OpenOptions;
use ocl_train::{Backend, Plan, RunLock, World, replace_file};

use super::config::{Budget, CompareConfig, Entrant};
use super::leg::{RunClock, advance};
use super::mark::{self, Mark, RAW_PIXELS};
use super::pace::step_secs;
use super::standings::Standings;
use crate::error::EvalError;
use crate::features::{
    Encoder, Extraction, Labelled, Material, Preparation, Run, Subject, choose_encoder,
    default_encode_batch, features,
};
use crate::progress::Progress;
use crate::protocols::{EvalRecipe, Protocol};
use crate::report::Circumstances;

/// Share of a method's budget that finding its pace may take, and the bounds of that time.
const PACE_SHARE: f64 = 0.02;
const PACE_SECS: [f64; 2] = [1.0, 20.0];
/// How often the pace is taken, in turns.
const PACE_ROUNDS: u32 = 2;

/// Everything that stays the same while methods take their turns.
struct Ground<'a> {
    config: CompareConfig,
    folder: &'a Path,
    source: Arc<Source>,
    data: Labelled,
    recipe: EvalRecipe,
    backend: Backend,
    device: Device,
    stop: &'a AtomicBool,
}

/// Compares methods in a folder, or goes on with a comparison that was begun there; `say` gets a
/// line for each mark. Returns what was found, and whether that is all of it.
///
/// # Errors
/// When a method cannot be trained or measured, or the folder holds another comparison.
pub fn compare(
    config: &CompareConfig,
    folder: &Path,
    stop: &AtomicBool,
    mut say: impl FnMut(&str),
) -> Result<(Standings, bool), EvalError> {
    config.check()?;
    let backend: Backend = config.backend.parse()?;
    let (source, data) = open(config)?;
    fs::create_dir_all(folder).map_err(|source| EvalError::File {
        doing: "make the folder",
        path: folder.to_owned(),
        source,
    })?;
    let _lock = RunLock::take(folder)
        .map_err(|source| EvalError::Training { run: folder.to_owned(), source })?;
    let device = backend.device()?;
    let mut ground = Ground {
        config: config.clone(),
        folder,
        source,
        data,
        recipe: EvalRecipe::load(None, &[])?,
        backend,
        device,
        stop,
    };
    match begun(config, folder)? {
        Some(begun) => ground.config = begun,
        None => {
            say("measuring the time of a step of each method");
            ground.find_paces()?;
            if stop.load(Ordering::Relaxed) {
                return Ok((ground.standings(vec![]), false));
            }
            let text = toml::to_string(&ground.config).expect("a comparison is plain data");
            write(&folder.join("comparison.toml"), text.as_bytes())?;
        }
    }
    ground.run(&mut say)
}

/// What each method will take, without running any further.
///
/// # Errors
/// As [`compare`].
pub fn paces(
    config: &CompareConfig,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<(CompareConfig, Vec<Plan>), EvalError> {
    config.check()?;
    let backend: Backend = config.backend.parse()?;
    let (source, data) = open(config)?;
    let device = backend.device()?;
    let recipe = EvalRecipe::load(None, &[])?;
    let mut ground =
        Ground { config: config.clone(), folder, source, data, recipe, backend, device, stop };
    match begun(config, folder)? {
        Some(begun) => ground.config = begun,
        None => ground.find_paces()?,
    }
    let of = |entrant| ground.config.plan(entrant, config.seeds[0], &ground.source, backend);
    let plans = ground.config.entrants.iter().map(of).collect::<Result<_, _>>()?;
    Ok((ground.config, plans))
}

/// The data, for training and for measuring.
fn open(config: &CompareConfig) -> Result<(Arc<Source>, Labelled), EvalError> {
    let recipe = ocl_train::Recipe::load(&config.recipe, &config.overrides)?;
    let data = Labelled::open(&recipe.data.path, recipe.data.kind, &recipe.data.splits)?;
    let split = Split::Train;
    let source = recipe.data.open(split).map_err(|source| EvalError::Source { split, source })?;
    Ok((Arc::new(source), data))
}

/// The comparison that a folder holds, with its paces.
fn begun(config: &CompareConfig, folder: &Path) -> Result<Option<CompareConfig>, EvalError> {
    let path = folder.join("comparison.toml");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(None) };
    let wrong = |reason: String| EvalError::Setting { setting: "out", reason };
    let begun: CompareConfig = toml::from_str(&text)
        .map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))?;
    if begun.asked() != config.asked() {
        return Err(wrong(format!(
            "{} holds another comparison ({}); give the same options to go on with it, or another \
             folder",
            folder.display(),
            path.display()
        )));
    }
    Ok(Some(begun))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), EvalError> {
    let failed = |source| EvalError::File { doing: "write", path: path.to_owned(), source };
    replace_file(path, bytes).map_err(failed)
}

impl Ground<'_> {
    /// Measures the time of a step of each method, in turns, and gives each its steps.
    fn find_paces(&mut self) -> Result<(), EvalError> {
        let share = match self.config.budget {
            Budget::Minutes(minutes) => minutes * 60.0 * PACE_SHARE,
            Budget::Epochs(_) => 0.0,
        };
        let [least, most] = PACE_SECS;
        let time = Duration::from_secs_f64(share.clamp(least, most)) / PACE_ROUNDS;
        let mut secs = vec![0.0; self.config.entrants.len()];
        let mut plans = vec![];
        // Before anything takes time: what cannot be planned is refused.
        for entrant in &self.config.entrants {
            plans.push(self.config.plan(
                entrant,
                self.config.seeds[0],
                &self.source,
                self.backend,
            )?);
        }
        for _ in 0..PACE_ROUNDS {
            for (plan, secs) in plans.iter().zip(&mut secs) {
                let scratch = self.folder.join("pace");
                let on = (self.backend, &self.device);
                *secs += step_secs(plan, &self.source, &scratch, time, on, self.stop)?;
            }
        }
        for ((entrant, plan), secs) in self.config.entrants.iter_mut().zip(plans).zip(secs) {
            entrant.step_secs = secs / f64::from(PACE_ROUNDS);
            entrant.steps = match self.config.budget {
                Budget::Minutes(minutes) => (minutes * 60.0 / entrant.step_secs) as u64,
                Budget::Epochs(epochs) => epochs * plan.steps_per_epoch,
            }
            .max(self.config.marks);
        }
        Ok(())
    }

    fn standings(&self, marks: Vec<Mark>) -> Standings {
        Standings { config: self.config.clone(), data: self.data.path().to_owned(), marks }
    }

    fn run(&self, say: &mut impl FnMut(&str)) -> Result<(Standings, bool), EvalError> {
        let mut standings = self.standings(mark::read(self.folder)?);
        let mut progress = Progress::stderr();
        let config = &self.config;
        for &seed in &config.seeds {
            for mark in 0..=config.marks {
                for entrant in &config.entrants {
                    if standings.at(&entrant.method, seed, mark).is_some() {
                        continue;
                    }
                    let Some((clock, plan)) = self.train(entrant, seed, mark, &mut progress)?
                    else {
                        return Ok((standings, false));
                    };
                    let run = self.run_folder(entrant, seed);
                    if standings.pixels().is_none() {
                        let found = self.measure(None, &plan, &mut progress)?;
                        self.keep(&mut standings, Mark::of_pixels(found), say)?;
                    }
                    let found = self.measure(Some(&run), &plan, &mut progress)?;
                    let mark = Mark {
                        method: entrant.method.clone(),
                        seed,
                        mark,
                        step: clock.step,
                        epochs: plan.epoch_at(clock.step),
                        minutes: clock.secs / 60.0,
                        knn: found[0],
                        linear: found[1],
                        loss: clock.loss,
                    };
                    self.keep(&mut standings, mark, say)?;
                }
            }
        }
        // Also where nothing was left to do: pictures may have been lost.
        self.draw(&standings)?;
        Ok((standings, true))
    }

    fn run_folder(&self, entrant: &Entrant, seed: u64) -> std::path::PathBuf {
        self.folder.join(format!("{}-seed-{seed}", entrant.method))
    }

    /// Trains up to a mark; nothing when it was stopped before.
    fn train(
        &self,
        entrant: &Entrant,
        seed: u64,
        mark: u64,
        progress: &mut Progress,
    ) -> Result<Option<(RunClock, Plan)>, EvalError> {
        let plan = self.config.plan(entrant, seed, &self.source, self.backend)?;
        let step = self.config.step_of(entrant, mark);
        let run = self.run_folder(entrant, seed);
        let on = (self.backend, &self.device);
        let clock =
            advance(&plan, &self.source, &run, (step, entrant.step_secs), on, self.stop, |done| {
                progress.line(|| {
                    let marks = self.config.marks;
                    let Entrant { method, steps, .. } = entrant;
                    format!("{method}, seed {seed}, to mark {mark} of {marks}: {done} / {steps}")
                });
            })?;
        progress.clear();
        Ok((clock.step >= step).then_some((clock, plan)))
    }

    /// Top-1 by k-NN and by the linear probe: of the newest weights of a run, or of raw pixels.
    fn measure(
        &self,
        run: Option<&Path>,
        plan: &Plan,
        progress: &mut Progress,
    ) -> Result<[f64; 2], EvalError> {
        let (subject, pool, preparation) = match run {
            Some(folder) => {
                let weights = Run::open(folder)?.newest_weights()?;
                let options = OpenOptions::default();
                let opened = choose_encoder(Some(folder), Some(&weights), &options, &self.device)?;
                let Encoder { vit, pooling, preparation, .. } = opened;
                (Subject::Trained(Box::new(vit)), pooling, preparation)
            }
            None => (Subject::RawPixels, ocl_model::Pooling::Mean, Preparation::of_plan(plan)),
        };
        let how = Extraction {
            pool,
            encode_batch: default_encode_batch(self.backend),
            limits: self.config.limits.map(Some),
        };
        let subjects = [subject];
        let (splits, reading, features_secs) = features(
            &World::One,
            &preparation,
            &subjects,
            &self.data,
            &how,
            &self.device,
            progress,
        )?;
        let splits = &splits[0];
        let at = Circumstances {
            weights: None,
            data: self.data.record(splits.train.len(), splits.test.len()),
            features_secs,
            backend: self.config.backend.clone(),
        };
        let (data, limits) = (&self.data, how.limits);
        let subject = &subjects[0];
        let material = Material { subject, pool, splits, data, reading: &reading, limits };
        let mut top1 = |protocol| {
            let record =
                at.measure(protocol, &self.recipe, &material, 1, &self.device, progress)?;
            Ok::<_, EvalError>(record.headline().map_or(f64::NAN, |score| score.mean))
        };
        Ok([top1(Protocol::Knn)?, top1(Protocol::LinearCached)?])
    }

    /// Keeps a mark, and draws what is known by now.
    fn keep(
        &self,
        standings: &mut Standings,
        mark: Mark,
        say: &mut impl FnMut(&str),
    ) -> Result<(), EvalError> {
        mark::append(self.folder, &mark)?;
        say(&mark.line(self.config.marks));
        standings.marks.push(mark);
        self.draw(standings)
    }

    fn draw(&self, standings: &Standings) -> Result<(), EvalError> {
        for (name, bytes) in standings.files()? {
            write(&self.folder.join(name), &bytes)?;
        }
        Ok(())
    }
}

impl Mark {
    fn of_pixels([knn, linear]: [f64; 2]) -> Self {
        let method = RAW_PIXELS.to_owned();
        let (seed, mark, step) = (0, 0, 0);
        Self { method, seed, mark, step, epochs: 0.0, minutes: 0.0, knn, linear, loss: None }
    }
}
