//! Processes joined by MPI. Only the thread that joined them talks to it, the watch's abort
//! excepted.

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, Root, Source};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::watch::Heart;
use super::words::{pack, unpack};
use super::{Place, WorldError, launcher, tree};
use crate::device::share_memory;

/// Exit code of processes that end because one of them went wrong.
const ABORTED: i32 = 70;
/// Bytes of a message: MPI counts with 32 bits.
const MESSAGE: usize = 1 << 30;
/// Values of a process that are few: as quick to send by way of the root as all to all.
const FEW: usize = 1 << 12;
/// Values of a sum that travel at once, so that its copies take little memory.
const BAND: usize = 1 << 25;

/// How long to wait for others before a plan says it.
const PATIENCE: Duration = Duration::from_secs(600);

/// This process among those of the run.
pub struct Mpi {
    comm: SimpleCommunicator,
    rank: usize,
    size: usize,
    place: Place,
    heart: Arc<Heart>,
    spent: Cell<Duration>,
    /// The devices' own exchange, once they are joined.
    #[cfg(feature = "cuda")]
    nccl: std::cell::OnceCell<super::nccl::Nccl>,
    /// Whether all processes know that they end.
    leaving: Cell<bool>,
    /// Ends MPI, which waits for all processes: dropped last.
    _universe: Universe,
}

/// What processes tell each other of where they run.
type Whereabouts = (String, Vec<usize>);

impl Mpi {
    /// Joins the processes that were started together.
    pub(super) fn start() -> Result<Self, WorldError> {
        let (universe, _) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| WorldError::Start("it has been started before".to_owned()))?;
        let comm = universe.world();
        let count = |n: i32| usize::try_from(n).expect("MPI counts from 0");
        let (rank, size) = (count(comm.rank()), count(comm.size()));
        let own: Whereabouts = (launcher::host(), launcher::cores());
        let mut mpi = Self {
            comm,
            rank,
            size,
            place: Place { host: own.0.clone(), on_host: 1, local_rank: 0 },
            heart: Heart::new(rank, vec![]),
            spent: Cell::default(),
            #[cfg(feature = "cuda")]
            nccl: std::cell::OnceCell::new(),
            leaving: Cell::new(size == 1),
            _universe: universe,
        };
        let all: Vec<Whereabouts> = mpi.exchange(&own);
        let beside =
            |places: &[Whereabouts]| places.iter().filter(|(host, _)| *host == own.0).count();
        (mpi.place.on_host, mpi.place.local_rank) = (beside(&all), beside(&all[..rank]));
        // Launchers may have divided the cores already. Those that several share are divided here.
        let sharing = all.iter().filter(|place| **place == own).count();
        use_threads((own.1.len() / sharing).max(1));
        share_memory(mpi.place.on_host);
        mpi.heart = Heart::new(rank, all.into_iter().map(|(host, _)| host).collect());
        mpi.heart.set_patience(PATIENCE);
        mpi.heart.watch();
        Ok(mpi)
    }

    /// Joins the CUDA devices of all processes; others are left alone.
    #[cfg(feature = "cuda")]
    pub(super) fn join_devices(
        &self,
        world: &super::World,
        device: &burn::tensor::Device,
    ) -> Result<(), WorldError> {
        use super::nccl::{self, Nccl};
        if !Nccl::serves(device) || self.nccl.get().is_some() {
            return Ok(());
        }
        let id = match self.rank {
            0 => nccl::new_id().map(|id| id.to_vec()),
            _ => Ok(vec![]),
        };
        let in_words = |error: &WorldError| error.to_string();
        let id = self.told_by_root(world.together(id, in_words)?);
        let id = id.try_into().expect("the root's id");
        let joined = Nccl::join(id, device, self.rank, self.size);
        let _ = self.nccl.set(world.together(joined, in_words)?);
        Ok(())
    }

    /// The exchange that serves this device, if it is one that was joined.
    #[cfg(feature = "cuda")]
    pub(super) fn nccl(&self, device: &burn::tensor::Device) -> Option<&super::nccl::Nccl> {
        self.nccl.get().filter(|_| super::nccl::Nccl::serves(device))
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    pub(super) fn time_spent(&self) -> Duration {
        self.spent.get()
    }

    pub(super) fn set_patience(&self, patience: Duration) {
        self.heart.set_patience(patience);
    }

    /// All processes know that they end; from now on to go is no fault.
    pub(super) fn leave(&self) {
        self.leaving.set(true);
    }

    pub(super) fn has_left(&self) -> bool {
        self.leaving.get()
    }

    pub(super) fn exchange<T: Serialize + DeserializeOwned>(&self, own: &T) -> Vec<T> {
        let own = serde_json::to_vec(own).expect("what is exchanged is plain data");
        let read = |bytes: &Vec<u8>| {
            serde_json::from_slice(bytes).expect("all processes run the same program")
        };
        self.timed(|| self.words(&own)).iter().map(read).collect()
    }

    pub(super) fn told_by_root(&self, own: Vec<u8>) -> Vec<u8> {
        self.timed(|| {
            self.words(&[]);
            self.broadcast(own)
        })
    }

    /// Values of all processes, in order.
    pub(super) fn values(&self, own: &[f32]) -> Vec<f32> {
        self.timed(|| {
            let (lengths, all) = self.few_values(own);
            all.unwrap_or_else(|| {
                let mut all = vec![0.0f32; lengths.iter().sum()];
                self.each_to_each(|_| own, cut(&mut all, lengths.into_iter()));
                all
            })
        })
    }

    /// The same in the root alone.
    pub(super) fn to_root(&self, own: &[f32]) -> Vec<f32> {
        self.timed(|| {
            let (lengths, all) = self.few_values(own);
            let all = all.unwrap_or_else(|| {
                // To the root everything goes, to the others nothing.
                let mut all = vec![0.0f32; if self.rank == 0 { lengths.iter().sum() } else { 0 }];
                let lengths = lengths.into_iter().map(|n| if self.rank == 0 { n } else { 0 });
                let sent = |rank: usize| if rank == 0 { own } else { &[] };
                self.each_to_each(sent, cut(&mut all, lengths));
                all
            });
            if self.rank == 0 { all } else { vec![] }
        })
    }

    /// How many values each process has, and the values where these are few: they travel as words,
    /// so that a process that does not come is known.
    fn few_values(&self, own: &[f32]) -> (Vec<usize>, Option<Vec<f32>>) {
        let few = |length: usize| length <= FEW;
        let mut word = (own.len() as u64).to_le_bytes().to_vec();
        if few(own.len()) {
            word.extend(own.iter().flat_map(|value| value.to_le_bytes()));
        }
        let words = self.words(&word);
        let length = |word: &Vec<u8>| {
            let bytes = word[..8].try_into().expect("a length of 8 bytes");
            u64::from_le_bytes(bytes) as usize
        };
        let lengths: Vec<usize> = words.iter().map(length).collect();
        let all = lengths.iter().all(|length| few(*length)).then(|| {
            let values = words.iter().flat_map(|word| word[8..].as_chunks::<4>().0);
            values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
        });
        (lengths, all)
    }

    /// The sum of all nodes of a tree: `own` are this process's, `nodes` those of each process.
    /// Every process adds up a shard of the values, and gets the others' sums.
    pub(super) fn sum(&self, own: Vec<Vec<f32>>, nodes: &[Vec<Range<usize>>]) -> Vec<f32> {
        self.timed(|| {
            self.words(&[]);
            let length = own[0].len();
            let mut sum = vec![0.0f32; length];
            for start in (0..length).step_by(BAND) {
                let band = start..(start + BAND).min(length);
                self.sum_band(&own, nodes, band.clone(), &mut sum[band]);
            }
            sum
        })
    }

    fn sum_band(
        &self,
        own: &[Vec<f32>],
        nodes: &[Vec<Range<usize>>],
        band: Range<usize>,
        sum: &mut [f32],
    ) {
        let shard = |rank: usize| {
            let at = tree::share(band.len(), rank, self.size);
            band.start + at.start..band.start + at.end
        };
        let sent: Vec<Vec<f32>> = (0..self.size)
            .map(|rank| own.iter().flat_map(|node| &node[shard(rank)]).copied().collect())
            .collect();
        let mine = shard(self.rank).len();
        let mut received: Vec<Vec<f32>> =
            nodes.iter().map(|nodes| vec![0.0; mine * nodes.len()]).collect();
        self.each_to_each(|rank| &sent[rank], received.iter_mut().map(|values| &mut values[..]));
        drop(sent);
        let added = match mine {
            0 => &[][..],
            _ => {
                let parts = received.iter_mut().flat_map(|values| values.chunks_exact_mut(mine));
                tree::sum(nodes.iter().flatten().cloned().zip(parts))
            }
        };
        let lengths = (0..self.size).map(|rank| shard(rank).len());
        self.each_to_each(|_| added, cut(sum, lengths));
    }

    /// Sends each process its values and takes what each has for this one, in order. Unlike a
    /// collective operation it is known at any moment whom it waits for.
    fn each_to_each<'a, 'b>(
        &self,
        sent: impl Fn(usize) -> &'a [f32],
        received: impl Iterator<Item = &'b mut [f32]>,
    ) {
        let process = |rank: usize| self.comm.process_at_rank(number(rank));
        let others = || (0..self.size).filter(|rank| *rank != self.rank);
        mpi::request::scope(|scope| {
            let sends: Vec<_> = others()
                .map(|rank| (rank, process(rank).immediate_send(scope, sent(rank))))
                .collect();
            for (rank, into) in received.enumerate() {
                if rank == self.rank {
                    into.copy_from_slice(sent(rank));
                } else {
                    self.heart.wait_for(rank);
                    process(rank).receive_into(into);
                }
            }
            for (rank, send) in sends {
                self.heart.wait_for(rank);
                send.wait();
            }
        });
        self.heart.wait();
    }

    /// A few bytes from each process, told to all. The root takes them in order, so that it knows
    /// whom it waits for when one does not come.
    fn words(&self, own: &[u8]) -> Vec<Vec<u8>> {
        let root = self.comm.process_at_rank(0);
        let all = match self.rank {
            0 => {
                let mut all = vec![own.to_vec()];
                for rank in 1..self.size {
                    self.heart.wait_for(rank);
                    let process = self.comm.process_at_rank(number(rank));
                    all.push(process.receive_vec::<u8>().0);
                }
                pack(&all)
            }
            _ => {
                self.heart.wait_for(0);
                root.send(own);
                vec![]
            }
        };
        let all = self.broadcast(all);
        self.heart.wait();
        unpack(&all)
    }

    /// The root's bytes, told to all.
    fn broadcast(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let root = self.comm.process_at_rank(0);
        let mut length = bytes.len() as u64;
        root.broadcast_into(&mut length);
        bytes.resize(usize::try_from(length).expect("it lies in the root's memory"), 0);
        bytes.chunks_mut(MESSAGE).for_each(|message| root.broadcast_into(message));
        bytes
    }

    pub(super) fn timed<T>(&self, exchange: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        self.heart.wait();
        let result = exchange();
        self.heart.work();
        self.spent.set(self.spent.get() + started.elapsed());
        result
    }
}

impl Drop for Mpi {
    /// A process that goes while the others do not know of it would leave them waiting for ever.
    fn drop(&mut self) {
        self.heart.rest();
        if std::thread::panicking() || !self.leaving.get() {
            crate::say!("rank {} on {} has failed: all processes end", self.rank, self.place.host);
            abort(ABORTED);
        }
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} on {}", self.rank, self.size, self.place.host)
    }
}

/// Ends all processes.
pub(super) fn abort(code: i32) -> ! {
    SimpleCommunicator::world().abort(code)
}

/// Values cut into pieces of these lengths, from the first on.
fn cut(
    mut values: &mut [f32],
    lengths: impl Iterator<Item = usize>,
) -> impl Iterator<Item = &mut [f32]> {
    lengths.map(move |length| values.split_off_mut(..length).expect("as long as all pieces"))
}

fn number(n: usize) -> i32 {
    i32::try_from(n).expect("MPI counts with 32 bits")
}

/// Sets the number of threads, unless the user did.
fn use_threads(threads: usize) {
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        // It fails where threads are at work already, which then stay.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
}
