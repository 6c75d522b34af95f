//! The processes of a run: one, or several that a launcher started together, one a device.
//!
//! Models, losses and evaluation know nothing of this. A step asks for three things: rows of all
//! processes in order ([`World::rows`]), the sum of all gradients ([`World::sum`]), and a word from
//! each before it begins ([`World::exchange`]). Process 0 is the root: it alone reads and writes
//! the run folder, and tells the others.

mod error;
mod launcher;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(all(feature = "mpi", feature = "cuda"))]
mod nccl;
pub(crate) mod tree;
#[cfg(feature = "mpi")]
mod watch;
pub(crate) mod words;

use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::{Elsewhere, WorldError};
pub use launcher::Launched;

/// The processes of a run.
#[derive(Clone, Debug)]
pub enum World {
    /// This one alone.
    One,
    /// Several, joined by MPI.
    #[cfg(feature = "mpi")]
    Mpi(std::rc::Rc<mpi::Mpi>),
}

/// Where a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The machine's name.
    pub host: String,
    /// Processes of the run on the same machine.
    pub on_host: usize,
    /// Which of these this one is, from 0.
    pub local_rank: usize,
}

impl World {
    /// Joins the processes that a launcher started with this one; one alone where there was none.
    ///
    /// From here on a panic ends all processes, and the number of threads is this process's part of
    /// the machine's, unless `RAYON_NUM_THREADS` says another.
    ///
    /// # Errors
    /// [`WorldError`] where the launcher speaks of processes that cannot be reached.
    pub fn join() -> Result<Self, WorldError> {
        let launched = Launched::from_environment();
        #[cfg(feature = "mpi")]
        let world = match &launched {
            None => Self::One,
            Some(_) => Self::of(mpi::Mpi::start()?),
        };
        #[cfg(not(feature = "mpi"))]
        let world = Self::One;
        match launched {
            Some(Launched { count, variable }) if count != world.size() => {
                // Each process finds it by itself.
                world.leave();
                Err(WorldError::Strangers { launched: count, variable, known: world.size() })
            }
            _ => Ok(world),
        }
    }

    #[cfg(feature = "mpi")]
    fn of(mpi: mpi::Mpi) -> Self {
        if mpi.size() > 1 { Self::Mpi(std::rc::Rc::new(mpi)) } else { Self::One }
    }

    /// Lets values of this device travel from device to device where they can: those of CUDA.
    ///
    /// # Errors
    /// In all processes, when one has no NCCL.
    pub fn join_devices(&self, device: &Device) -> Result<(), WorldError> {
        #[cfg(all(feature = "mpi", feature = "cuda"))]
        if let Self::Mpi(mpi) = self {
            return mpi.join_devices(self, device);
        }
        let _ = device;
        Ok(())
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        match self {
            Self::One => 0,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.rank(),
        }
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        match self {
            Self::One => 1,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.size(),
        }
    }

    /// Whether this process reads and writes the run folder.
    pub fn is_root(&self) -> bool {
        self.rank() == 0
    }

    /// Where this process runs.
    pub fn place(&self) -> Place {
        match self {
            Self::One => Place { host: launcher::host(), on_host: 1, local_rank: 0 },
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.place().clone(),
        }
    }

    /// A word from each process, in order, told to all.
    pub fn exchange<T: Serialize + DeserializeOwned>(&self, own: T) -> Vec<T> {
        match self {
            Self::One => vec![own],
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.exchange(&own),
        }
    }

    /// What each process came to, if all came to something; else all get the first failure, in
    /// words.
    ///
    /// # Errors
    /// The own one where this process failed, or [`Elsewhere`].
    pub fn together<T, E: From<Elsewhere>>(
        &self,
        own: Result<T, E>,
        in_words: impl FnOnce(&E) -> String,
    ) -> Result<T, E> {
        if self.size() == 1 {
            return own;
        }
        let fault = own.as_ref().err().map(|error| Elsewhere::here(self, in_words(error)));
        let Some(fault) = self.exchange(fault).into_iter().flatten().next() else { return own };
        self.leave();
        own.and(Err(fault.into()))
    }

    /// Has the root do something, and tells all whether it was done. Only the root gets what came
    /// of it.
    ///
    /// # Errors
    /// As [`World::together`].
    pub fn on_root<T, E: From<Elsewhere>>(
        &self,
        action: impl FnOnce() -> Result<T, E>,
        in_words: impl FnOnce(&E) -> String,
    ) -> Result<Option<T>, E> {
        let own = self.is_root().then(action).transpose();
        self.together(own, in_words)
    }

    /// Checks that all processes say the same of each of these, `(name, value)`.
    ///
    /// # Errors
    /// [`WorldError::Different`] naming the first process that does not, and in what.
    pub fn alike(&self, own: Vec<(String, String)>) -> Result<(), WorldError> {
        let all = self.exchange((self.place().host, own));
        let (_, expected) = &all[0];
        for (rank, (host, found)) in all.iter().enumerate() {
            let other = found.iter().zip(expected).filter(|(found, expected)| found != expected);
            let differences: Vec<String> = other
                .map(|((name, found), (_, expected))| {
                    format!("{name} {found}, rank 0 has {expected}")
                })
                .collect();
            if !differences.is_empty() {
                self.leave();
                return Err(WorldError::Different { rank, host: host.clone(), differences });
            }
        }
        Ok(())
    }

    /// What the root has, told to all. The others' is ignored.
    pub fn from_root(&self, own: Vec<u8>) -> Vec<u8> {
        match self {
            Self::One => own,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.told_by_root(own),
        }
    }

    /// The root's value, told to all. The others' is ignored.
    pub fn told<T: Serialize + DeserializeOwned>(&self, own: T) -> T {
        if self.size() == 1 {
            return own;
        }
        let own = serde_json::to_vec(&own).expect("what is told is plain data");
        serde_json::from_slice(&self.from_root(own)).expect("all processes run the same program")
    }

    /// The rows of all processes, in order.
    ///
    /// # Shapes
    /// `[n, V, D]`, n being this process's; result `[N, V, D]`.
    pub fn rows(&self, own: Tensor<3>) -> Tensor<3> {
        if self.size() == 1 {
            return own;
        }
        #[cfg(all(feature = "mpi", feature = "cuda"))]
        if let Self::Mpi(mpi) = self
            && let Some(nccl) = mpi.nccl(&own.device())
        {
            let rows = self.exchange(own.dims()[0]);
            return mpi.timed(|| nccl.rows(own, &rows));
        }
        let ([_, views, width], device) = (own.dims(), own.device());
        let own = own.into_data().try_into_vec::<f32>().expect("rows are f32");
        let all = self.values(own);
        let rows = all.len() / (views * width).max(1);
        Tensor::from_data(TensorData::new(all, [rows, views, width]), &device)
    }

    /// Values of all processes, in order, in the root; the others get none.
    pub fn to_root(&self, own: Vec<f32>) -> Vec<f32> {
        match self {
            Self::One => own,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.to_root(&own),
        }
    }

    fn values(&self, own: Vec<f32>) -> Vec<f32> {
        match self {
            Self::One => own,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.values(&own),
        }
    }

    /// Whether [`World::sum_on_device`] takes values of this device.
    pub(crate) fn sums_on(&self, device: &Device) -> bool {
        match self {
            #[cfg(all(feature = "mpi", feature = "cuda"))]
            Self::Mpi(mpi) => mpi.nccl(device).is_some(),
            _ => {
                let _ = device;
                false
            }
        }
    }

    /// The sums over all processes of what each has, on the device; to 1e-5, not to the bit.
    ///
    /// # Panics
    /// If [`World::sums_on`] says no.
    pub(crate) fn sum_on_device(&self, own: Vec<Tensor<1>>) -> Vec<Tensor<1>> {
        match self {
            #[cfg(all(feature = "mpi", feature = "cuda"))]
            Self::Mpi(mpi) => {
                let device = own.first().map(Tensor::device).unwrap_or_default();
                let nccl = mpi.nccl(&device).expect("devices have been joined");
                // All come here before one enters NCCL, where it would wait unseen.
                self.exchange(());
                mpi.timed(|| nccl.sum(own))
            }
            _ => panic!("{} values, and no devices are joined", own.len()),
        }
    }

    /// The sum over all parts of a batch, bit for bit the same for any number of processes.
    ///
    /// `own` holds the sums of the nodes, largest first to be had, that this process's share of
    /// `parts` consists of, in order; each as long as the result.
    ///
    /// # Panics
    /// If they are not these nodes' sums.
    pub(crate) fn sum(&self, own: Vec<Vec<f32>>, parts: usize) -> Vec<f32> {
        let nodes = |rank: usize| tree::nodes(tree::share(parts, rank, self.size()));
        assert_eq!(own.len(), nodes(self.rank()).len(), "a sum for each node");
        match self {
            Self::One => own.into_iter().next().expect("one process has the whole tree"),
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.sum(own, &(0..self.size()).map(nodes).collect::<Vec<_>>()),
        }
    }

    /// Time that this process has spent in exchanges, waiting for the others included.
    pub fn time_spent(&self) -> Duration {
        match self {
            Self::One => Duration::ZERO,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.time_spent(),
        }
    }

    /// All processes know that the run ends, each by itself or by a word of another: to go is no
    /// fault from now on. A process that goes before, or panics, ends all.
    pub fn leave(&self) {
        match self {
            Self::One => {}
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.leave(),
        }
    }

    /// The end of a run that went well, in all processes.
    pub fn end(self) {
        self.leave();
    }

    /// Whether [`World::leave`] has been called.
    pub fn has_left(&self) -> bool {
        match self {
            Self::One => true,
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.has_left(),
        }
    }

    /// How long this process waits for another before it ends all of them: 600 s until this is
    /// called, zero for ever.
    pub fn set_patience(&self, patience: Duration) {
        match self {
            Self::One => {
                let _ = patience;
            }
            #[cfg(feature = "mpi")]
            Self::Mpi(mpi) => mpi.set_patience(patience),
        }
    }

    /// Ends all processes at once, with this exit code. One process alone ends as it likes.
    pub fn abort(&self, code: i32) {
        match self {
            Self::One => {
                let _ = code;
            }
            #[cfg(feature = "mpi")]
            Self::Mpi(_) => mpi::abort(code),
        }
    }
}
