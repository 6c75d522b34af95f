//! Whether the other processes still live: a thread that ends all of them when none was heard of
//! for too long. Inside of MPI a process waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::mpi::abort;

/// Exit code of processes that have waited in vain.
const WAITED_IN_VAIN: i32 = 75;
/// What the others wait longer than the root: it knows better whom they all wait for.
const LATER: Duration = Duration::from_secs(3);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Nobody is waited for.
const NOBODY: usize = usize::MAX;
/// Some other process is waited for, and nobody knows which.
const SOMEBODY: usize = usize::MAX - 1;

/// Who is waited for, and since when.
pub(super) struct Heart {
    rank: usize,
    hosts: Vec<String>,
    begun: Instant,
    /// Milliseconds after `begun`.
    since: AtomicU64,
    waiting_for: AtomicUsize,
    resting: AtomicBool,
    /// Milliseconds to wait; 0 for ever.
    patience: AtomicU64,
}

impl Heart {
    pub(super) fn new(rank: usize, hosts: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            rank,
            hosts,
            begun: Instant::now(),
            since: AtomicU64::new(0),
            waiting_for: AtomicUsize::new(NOBODY),
            resting: AtomicBool::new(false),
            patience: AtomicU64::new(0),
        })
    }

    /// From now on this process waits for another.
    pub(super) fn wait_for(&self, rank: usize) {
        self.since.store(self.now(), Ordering::Release);
        self.waiting_for.store(rank, Ordering::Release);
    }

    /// From now on this process waits for some other.
    pub(super) fn wait(&self) {
        self.wait_for(SOMEBODY);
    }

    /// This process is at work again.
    pub(super) fn work(&self) {
        self.waiting_for.store(NOBODY, Ordering::Relaxed);
    }

    /// Nobody is waited for any more.
    pub(super) fn rest(&self) {
        self.resting.store(true, Ordering::Relaxed);
    }

    /// How long to wait for others, from now on.
    pub(super) fn set_patience(&self, patience: Duration) {
        // The root knows better whom all wait for, and speaks first.
        let later = if self.rank == 0 || patience.is_zero() { Duration::ZERO } else { LATER };
        let millis = u64::try_from((patience + later).as_millis()).unwrap_or(u64::MAX);
        self.patience.store(millis, Ordering::Release);
    }

    /// Watches from now on.
    pub(super) fn watch(self: &Arc<Self>) {
        let heart = Arc::clone(self);
        // Without a thread nothing is watched, and nothing else is lost.
        let _ = thread::Builder::new().name("ocl-watch".to_owned()).spawn(move || {
            while !heart.resting.load(Ordering::Relaxed) {
                thread::sleep(LOOK);
                let patience = heart.patience.load(Ordering::Acquire);
                let waiting_for = heart.waiting_for.load(Ordering::Acquire);
                let waited = heart.now().saturating_sub(heart.since.load(Ordering::Acquire));
                if waiting_for != NOBODY && patience > 0 && waited > patience {
                    heart.give_up(waiting_for, waited / 1000);
                }
            }
        });
    }

    fn give_up(&self, rank: usize, secs: u64) -> ! {
        let whom = match self.hosts.get(rank) {
            Some(host) => format!("rank {rank} on {host}"),
            None => "another rank".to_owned(),
        };
        crate::say!(
            "error: rank {} has waited {secs} s for {whom}: all processes end. What was saved is \
             whole; train.patience_secs says how long to wait",
            self.rank
        );
        abort(WAITED_IN_VAIN)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
