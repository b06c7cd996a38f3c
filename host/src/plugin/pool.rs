//! The host's pool: the few threads that blocking work runs on.
//!
//! One thread is made at the start, the others when there is work for them, up to a number that never changes. None ends before the
//! pool does, so that all of them can be asked to clean up after a plugin. Each takes what was broadcast to it before what is queued
//! for all; a busy one delays only its own answer.

use std::{
    any::Any,
    collections::VecDeque,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    thread::{Builder, JoinHandle},
};

use tokio::sync::oneshot;

use crate::sys::{
    blocking::{Blocking, Busy},
    crash,
};

/// The pool. Dropping it stops it: jobs that run are waited for, jobs that are queued are dropped, and their tickets say so.
pub struct Pool {
    shared: Arc<Shared>,
    name: String,
    threads_max: usize,
}

/// How the pool is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStatus {
    /// How many threads it has by now.
    pub threads: usize,
    /// How many of them run something.
    pub busy: usize,
    /// Jobs that wait for a thread.
    pub queued: usize,
    /// Most jobs that may wait.
    pub queued_max: usize,
    /// Jobs that ran since the start, broadcasts not counted.
    pub done: u64,
}

/// A pool with nothing to do, and that is given nothing while this is there.
pub struct AtRest<'a> {
    pool: &'a Pool,
    state: MutexGuard<'a, State>,
}

impl AtRest<'_> {
    /// Gives the pool a thread in a process that has forked, where its threads are not there any more.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn revive(mut self) -> io::Result<()> {
        // They cannot be joined: they are the other process's.
        std::mem::take(&mut self.state.threads).into_iter().for_each(std::mem::forget);
        self.state.private.clear();
        self.pool.add_thread(&mut self.state)
    }
}

/// A job's result, to be awaited. Dropping it does not cancel the job.
#[must_use = "the job's result, and whether it panicked, is in here"]
pub struct Ticket<T>(oneshot::Receiver<Result<T, JobError>>);

/// A job was not taken: as many as are allowed are waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull {
    /// How many may wait.
    pub queued_max: usize,
}

/// Why there is no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobError {
    /// The job panicked, with this message.
    Panicked(String),
    /// The pool was stopped before the job began.
    Stopped,
}

type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    state: Mutex<State>,
    /// Something was queued, or the pool stops.
    work: Condvar,
    queued_max: usize,
}

struct State {
    /// For whichever thread comes first.
    queue: VecDeque<Job>,
    /// For each thread alone.
    private: Vec<VecDeque<Job>>,
    /// As many as `private` has.
    threads: Vec<JoinHandle<()>>,
    /// The last try to make one was in vain.
    is_short: bool,
    busy: usize,
    done: u64,
    is_stopping: bool,
}

impl Pool {
    /// Starts a pool that has up to `threads_max` threads (at least one), named after it, `NAME-N`; at most `queued_max` jobs wait for
    /// them.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(name: &str, threads_max: usize, queued_max: usize) -> io::Result<Pool> {
        let state = State {
            queue: VecDeque::new(),
            private: Vec::new(),
            threads: Vec::new(),
            is_short: false,
            busy: 0,
            done: 0,
            is_stopping: false,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), queued_max });
        let pool = Pool { shared, name: name.to_owned(), threads_max: threads_max.max(1) };
        pool.add_thread(&mut pool.shared.lock())?;
        Ok(pool)
    }

    /// Runs `job` on one of the threads. What the job captured is gone before its ticket is ready.
    ///
    /// # Errors
    /// The queue is full.
    pub fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Ticket<T>, QueueFull> {
        let (job, ticket) = with_ticket(job);
        self.enqueue(job).map(|()| ticket)
    }

    /// Runs `job` once on every thread, ahead of all that is queued. The results are in the threads' order; they are there when the
    /// slowest thread has come to it. What the job captured is gone by then.
    ///
    /// Never refused: the queues for this are the host's own.
    pub async fn broadcast<T: Send + 'static>(
        &self,
        job: impl Fn() -> T + Send + Sync + 'static,
    ) -> Vec<Result<T, JobError>> {
        let tickets = self.send_to_all(job);
        let mut results = Vec::with_capacity(tickets.len());
        for ticket in tickets {
            results.push(ticket.await);
        }
        results
    }

    /// How many threads it may have.
    pub fn threads_max(&self) -> usize {
        self.threads_max
    }

    /// How the pool is doing.
    pub fn status(&self) -> PoolStatus {
        let state = self.shared.lock();
        PoolStatus {
            threads: state.threads.len(),
            busy: state.busy,
            queued: state.queue.len(),
            queued_max: self.shared.queued_max,
            done: state.done,
        }
    }

    /// Holds the pool at rest, so that the process can fork; none if it has work.
    pub fn at_rest(&self) -> Option<AtRest<'_>> {
        let state = self.shared.lock();
        let is_idle = state.busy == 0
            && state.queue.is_empty()
            && state.private.iter().all(VecDeque::is_empty);
        is_idle.then_some(AtRest { pool: self, state })
    }

    /// Stops the pool as dropping it does. Blocks until the last running job has ended.
    pub fn stop(self) {}

    fn enqueue(&self, job: Job) -> Result<(), QueueFull> {
        let mut state = self.shared.lock();
        if state.queue.len() >= self.shared.queued_max {
            // What the job captured may do anything when it is dropped, so that happens without the lock.
            drop(state);
            return Err(QueueFull { queued_max: self.shared.queued_max });
        }
        state.queue.push_back(job);
        let idle = state.threads.len() - state.busy;
        if state.queue.len() > idle && state.threads.len() < self.threads_max {
            self.help(&mut state);
        }
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Makes another thread, if that can be; those that are there do the work in any case.
    fn help(&self, state: &mut State) {
        let added = self.add_thread(state);
        if let (Err(error), false) = (&added, state.is_short) {
            let (pool, threads) = (&self.name, state.threads.len());
            tracing::warn!(pool, threads, "no other thread can be started: {error}");
        }
        state.is_short = added.is_err();
    }

    fn add_thread(&self, state: &mut State) -> io::Result<()> {
        let (shared, number) = (self.shared.clone(), state.threads.len());
        // It begins by waiting for the lock, which is held here.
        let thread = Builder::new().name(format!("{}-{number}", self.name));
        state.threads.push(thread.spawn(move || shared.run(number))?);
        state.private.push(VecDeque::new());
        Ok(())
    }

    fn send_to_all<T: Send + 'static>(
        &self,
        job: impl Fn() -> T + Send + Sync + 'static,
    ) -> Vec<Ticket<T>> {
        let job = Arc::new(job);
        let mut state = self.shared.lock();
        let send = |queue: &mut VecDeque<Job>| {
            let job = job.clone();
            let (job, ticket) = with_ticket(move || job());
            queue.push_back(job);
            ticket
        };
        let tickets = state.private.iter_mut().map(send).collect();
        drop(state);
        self.shared.work.notify_all();
        tickets
    }
}

impl Blocking for Pool {
    fn start(&self, job: Box<dyn FnOnce() + Send>) -> Result<(), Busy> {
        self.enqueue(job).map_err(|QueueFull { .. }| Busy)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (dropped, threads) = {
            let mut state = self.shared.lock();
            state.is_stopping = true;
            (std::mem::take(&mut state.queue), std::mem::take(&mut state.threads))
        };
        self.shared.work.notify_all();
        drop(dropped);
        for thread in threads {
            // Jobs are caught, so a thread ends only by returning.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, number: usize) {
        crash::of_host();
        while let Some((job, is_private)) = self.take(number) {
            // A job with a ticket catches its panic itself, and tells; whoever gave another sees that it was dropped.
            if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
                std::mem::forget(payload);
            }
            let mut state = self.lock();
            state.busy -= 1;
            state.done += u64::from(!is_private);
        }
    }

    /// The next job for a thread; none once the pool stops and what was broadcast is done.
    fn take(&self, number: usize) -> Option<(Job, bool)> {
        let mut state = self.lock();
        loop {
            let private = state.private[number].pop_front();
            let is_private = private.is_some();
            if let Some(job) = private.or_else(|| state.queue.pop_front()) {
                state.busy += 1;
                return Some((job, is_private));
            }
            if state.is_stopping {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, JobError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A sender that is dropped unsent is a job that was dropped unrun.
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(cx)).unwrap_or(Err(JobError::Stopped)))
    }
}

impl fmt::Display for QueueFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot queue another blocking job: {} are waiting already; try again when some are done",
            self.queued_max
        )
    }
}

impl std::error::Error for QueueFull {}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::Panicked(message) => write!(f, "a blocking job panicked: {message}"),
            JobError::Stopped => {
                f.write_str("a blocking job was not run, for the pool was stopped")
            }
        }
    }
}

impl std::error::Error for JobError {}

fn with_ticket<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> (Job, Ticket<T>) {
    let (sender, receiver) = oneshot::channel();
    let run = move || {
        // Nothing of the job is seen after its panic: what it captured is dropped in the unwinding.
        let result = catch_unwind(AssertUnwindSafe(job))
            .map_err(|payload| JobError::Panicked(message_of(payload)));
        // Whoever dropped the ticket does not want to know.
        let _ = sender.send(result);
    };
    (Box::new(run), Ticket(receiver))
}

fn message_of(payload: Box<dyn Any + Send>) -> String {
    let message = match payload.downcast::<String>() {
        Ok(message) => return *message,
        Err(payload) => match payload.downcast::<&'static str>() {
            Ok(message) => return (*message).to_owned(),
            Err(payload) => payload,
        },
    };
    // Its drop may panic as well.
    std::mem::forget(message);
    "without a message".to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::HashSet,
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
            mpsc,
        },
        thread,
    };

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    /// Has as many threads run something at the same time, and waits until they are done.
    fn occupy(pool: &Pool, threads: usize) {
        let all_are_here = Arc::new(Barrier::new(threads));
        let meet = || {
            let all_are_here = all_are_here.clone();
            pool.submit(move || all_are_here.wait().is_leader()).unwrap()
        };
        for met in (0..threads).map(|_| meet()).collect::<Vec<_>>() {
            block_on(met).unwrap();
        }
        while pool.status().busy > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn threads_are_made_as_there_is_work_for_them() {
        let pool = Pool::start("medusa-pool", 3, 10).unwrap();
        assert_eq!(pool.status().threads, 1);
        for _ in 0..10 {
            occupy(&pool, 1);
        }
        assert_eq!(pool.status().threads, 1, "one was enough");
        occupy(&pool, 3);
        assert_eq!(pool.status().threads, 3);
        let (open, gate) = mpsc::channel::<()>();
        let busy = pool.submit(move || gate.recv().is_err()).unwrap();
        let waiting = Vec::from_iter((0..9).map(|_| pool.submit(|| ()).unwrap()));
        assert_eq!(pool.status().threads, 3, "never more than it may have");
        waiting.into_iter().for_each(|job| block_on(job).unwrap());
        drop(open);
        assert_eq!(block_on(busy), Ok(true));
    }

    #[test]
    fn jobs_run_on_named_threads_and_answer() {
        let pool = Pool::start("medusa-pool", 2, 10).unwrap();
        let ticket = pool.submit(|| thread::current().name().map(str::to_owned)).unwrap();
        assert!(block_on(ticket).unwrap().unwrap().starts_with("medusa-pool-"));
        assert_eq!(pool.status().queued, 0);
        pool.stop();
    }

    #[test]
    fn work_of_others_runs_and_may_panic() {
        let pool = Pool::start("medusa-pool", 1, 10).unwrap();
        Blocking::start(&pool, Box::new(|| panic!("no"))).unwrap();
        let (sender, receiver) = mpsc::channel();
        Blocking::start(&pool, Box::new(move || sender.send(7).unwrap())).unwrap();
        assert_eq!(receiver.recv(), Ok(7));
    }

    #[test]
    fn a_panic_is_an_answer_and_the_thread_lives() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("again");
            }
        }
        let pool = Pool::start("medusa-pool", 1, 10).unwrap();
        let ticket = pool.submit(|| -> u8 { panic!("no {}", 1) }).unwrap();
        assert_eq!(block_on(ticket), Err(JobError::Panicked("no 1".into())));
        let ticket = pool.submit(|| -> u8 { std::panic::panic_any(Bomb) }).unwrap();
        assert_eq!(block_on(ticket), Err(JobError::Panicked("without a message".into())));
        assert_eq!(block_on(pool.submit(|| 7).unwrap()), Ok(7));
    }

    #[test]
    fn a_broadcast_reaches_every_thread_once_ahead_of_the_queue() {
        let pool = Pool::start("medusa-pool", 3, 10).unwrap();
        occupy(&pool, 3);
        let (open, gate) = mpsc::channel::<()>();
        let (started, begun) = mpsc::channel();
        let busy = pool
            .submit(move || {
                started.send(()).unwrap();
                gate.recv().unwrap();
            })
            .unwrap();
        begun.recv().unwrap();
        assert_eq!(pool.status().busy, 1);
        let order = Arc::new(AtomicUsize::new(0));
        let tickets = pool.send_to_all({
            let order = order.clone();
            move || {
                order.fetch_add(1, Ordering::SeqCst);
                thread::current().id()
            }
        });
        // The two that are free answer while the third is busy.
        while order.load(Ordering::SeqCst) < 2 {
            thread::yield_now();
        }
        assert_eq!(order.load(Ordering::SeqCst), 2);
        open.send(()).unwrap();
        let threads: HashSet<_> = tickets.into_iter().map(|t| block_on(t).unwrap()).collect();
        assert_eq!(threads.len(), 3);
        assert_eq!(Arc::strong_count(&order), 1, "what was captured is gone");
        block_on(busy).unwrap();
    }

    #[test]
    fn a_full_queue_refuses_and_a_stop_says_what_was_not_run() {
        let pool = Pool::start("medusa-pool", 1, 1).unwrap();
        let (open, gate) = mpsc::channel::<()>();
        let (started, begun) = mpsc::channel();
        let running = pool
            .submit(move || {
                started.send(()).unwrap();
                gate.recv().is_err()
            })
            .unwrap();
        begun.recv().unwrap();
        let waiting = pool.submit(|| ()).unwrap();
        assert_eq!(pool.submit(|| ()).err(), Some(QueueFull { queued_max: 1 }));
        assert_eq!(pool.status().queued, 1);
        let stopper = thread::spawn(move || pool.stop());
        assert_eq!(block_on(waiting), Err(JobError::Stopped));
        drop(open);
        assert_eq!(block_on(running), Ok(true));
        stopper.join().unwrap();
    }
}
