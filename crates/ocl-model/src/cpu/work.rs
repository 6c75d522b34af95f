//! Tasks that the threads share, where some wait for others.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::IntoIter;

use rayon::Scope;

/// Tasks in the order in which threads take them.
struct Queue<A, B, Then> {
    first: IntoIter<A>,
    unfinished: usize,
    aside: VecDeque<B>,
    then: Option<Then>,
}

struct Work<A, B, Then, RunFirst, Run> {
    queue: Mutex<Queue<A, B, Then>>,
    run_first: RunFirst,
    run: Run,
}

/// Runs all of `first`; threads that find none of these left begin with `aside`. As soon as the
/// last of `first` is done, what `then` makes of it goes before what is left of `aside`.
///
/// So no thread waits for the slowest of `first`, as it would if these were a parallel loop of
/// their own.
pub(super) fn share<A: Send, B: Send>(
    first: Vec<A>,
    run_first: impl Fn(A) + Sync + Send,
    then: impl FnOnce() -> Vec<B> + Send,
    aside: Vec<B>,
    run: impl Fn(B) + Sync + Send,
) {
    assert!(!first.is_empty(), "nothing to wait for");
    let queue = Queue {
        unfinished: first.len(),
        first: first.into_iter(),
        aside: aside.into(),
        then: Some(then),
    };
    let work = Work { queue: Mutex::new(queue), run_first, run };
    rayon::scope(|scope| {
        work.help(scope);
        work.take_part(scope);
    });
}

impl<A, B, Then, RunFirst, Run> Work<A, B, Then, RunFirst, Run>
where
    A: Send,
    B: Send,
    Then: FnOnce() -> Vec<B> + Send,
    RunFirst: Fn(A) + Sync + Send,
    Run: Fn(B) + Sync + Send,
{
    /// Calls every other thread.
    fn help<'scope>(&'scope self, scope: &Scope<'scope>) {
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|scope| self.take_part(scope));
        }
    }

    fn take_part<'scope>(&'scope self, scope: &Scope<'scope>) {
        loop {
            let mut queue = self.queue();
            if let Some(task) = queue.first.next() {
                drop(queue);
                (self.run_first)(task);
                self.finished(scope);
            } else if let Some(task) = queue.aside.pop_front() {
                drop(queue);
                (self.run)(task);
            } else {
                return;
            }
        }
    }

    fn finished<'scope>(&'scope self, scope: &Scope<'scope>) {
        let mut queue = self.queue();
        queue.unfinished -= 1;
        if queue.unfinished > 0 {
            return;
        }
        let then = queue.then.take().map(|then| then());
        for task in then.into_iter().flatten().rev() {
            queue.aside.push_front(task);
        }
        drop(queue);
        // Some may have found nothing to do and left.
        self.help(scope);
    }

    fn queue(&self) -> MutexGuard<'_, Queue<A, B, Then>> {
        // Nothing that can panic runs under the lock but `then`, after which nobody goes on.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_task_runs_once_and_what_waits_waits() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for [first, then, aside] in [[1, 0, 0], [1, 3, 2], [7, 20, 0], [3, 5, 40]] {
                let done = AtomicUsize::new(0);
                let ran = Mutex::new(vec![]);
                let later = || {
                    assert_eq!(done.load(Ordering::SeqCst), first);
                    (100..100 + then).collect()
                };
                pool.install(|| {
                    share(
                        (0..first).collect(),
                        |task| {
                            std::thread::yield_now();
                            ran.lock().unwrap().push(task);
                            done.fetch_add(1, Ordering::SeqCst);
                        },
                        later,
                        (200..200 + aside).collect(),
                        |task| ran.lock().unwrap().push(task),
                    );
                });
                let mut ran = ran.into_inner().unwrap();
                ran.sort_unstable();
                let all: Vec<usize> =
                    (0..first).chain(100..100 + then).chain(200..200 + aside).collect();
                assert_eq!(ran, all, "{threads} threads");
            }
        }
    }
}
