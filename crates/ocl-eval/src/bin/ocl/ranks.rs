//! Commands whose work several processes share.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use ocl_train::{Backend, Launched, Place, World, stop_on_signals};

use crate::launching::{self, Stop};

#[derive(Args, Debug)]
pub(crate) struct RanksArgs {
    /// Processes that share the images, a device or a part of the cores each, started by mpirun
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) ranks: Option<u16>,
}

/// Whether `--ranks` asks for processes that nobody has started yet.
fn wants_launching(ranks: Option<u16>) -> Option<usize> {
    // A shell inside of a job of Slurm is a step of one process.
    let alone = Launched::from_environment().is_none_or(|launched| launched.count == 1);
    ranks.map(usize::from).filter(|ranks| *ranks > 1 && alone)
}

/// Runs a command as one of the processes that share its work: `shared` in all of them, then
/// `afterwards` in the root alone, on all cores of its machine. It gives the exit code.
pub(crate) fn run<T: Send>(
    ranks: Option<u16>,
    stop: Stop,
    shared: impl FnOnce(&World) -> Result<T>,
    afterwards: impl FnOnce(T) -> Result<u8> + Send,
) -> Result<ExitCode> {
    if let Some(ranks) = wants_launching(ranks) {
        return launching::run(ranks, stop);
    }
    if let Stop::AfterStep(stop) = stop {
        // Before anything is loaded: stopping is then a matter of the loop, at any moment.
        stop_on_signals(stop, !launching::is_launched()).context("cannot listen for Ctrl-C")?;
    }
    let world = World::join()?;
    let (root, alone) = (world.is_root(), world.size() == 1);
    let made = shared(&world);
    if let (Err(error), false) = (&made, world.has_left()) {
        // The others wait for this process, and would for ever.
        let Place { host, .. } = world.place();
        ocl_train::say!("error: rank {} on {host}: {error:#}; all processes end", world.rank());
        world.abort(1);
    }
    // Processes that wait for the root's end would keep a core busy each.
    world.end();
    match (root, alone) {
        // What there is to say the root says.
        (false, _) => Ok(ExitCode::SUCCESS),
        (true, true) => made.and_then(afterwards).map(ExitCode::from),
        (true, false) => {
            // The others have gone, and all cores are there again.
            let pool = rayon::ThreadPoolBuilder::new().build()?;
            launching::end(pool.install(|| made.and_then(afterwards)))
        }
    }
}

/// This process's device, when all processes have one and are as many as `--ranks` says.
pub(crate) fn device(world: &World, ranks: Option<u16>, backend: Backend) -> Result<Device> {
    let own = || {
        let asked = ranks.map_or(world.size(), usize::from);
        if asked != world.size() {
            let started = world.size();
            bail!("--ranks {asked}, and the launcher started {started}: leave one of them out");
        }
        Ok(backend.device_number(world.place().local_rank)?)
    };
    world.together(own(), in_words)
}

pub(crate) fn in_words(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
