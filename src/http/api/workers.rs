//! Threads for what requests ask for: they read the database and write JSON, so that the thread
//! of HTTP is free for the next probe of `/healthz`.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_rt::{Arbiter, ArbiterHandle};
use tokio::sync::{Semaphore, oneshot};

use super::problem::{Kind, Problem};
use crate::process::panics;

/// The number of threads. Most of the time is the database's.
pub(in crate::http) const THREADS: usize = 2;

/// The number of requests that are worked on at once; others wait.
const AT_ONCE: usize = 32;

/// The time for which a request waits until others are done.
const PATIENCE: Duration = Duration::from_secs(5);

/// The threads.
pub(in crate::http) struct Workers {
    threads: [ArbiterHandle; THREADS],
    next: AtomicUsize,
    places: Arc<Semaphore>,
}

impl Workers {
    /// Starts the threads, inside an actix system, with which they end.
    pub(in crate::http) fn start() -> Self {
        let threads = std::array::from_fn(|_| {
            let thread = Arbiter::new().handle();
            thread.spawn_fn(|| panics::this_thread_is("api"));
            thread
        });
        Self { threads, next: AtomicUsize::new(0), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Runs something that never ends on one of the threads.
    pub(in crate::http) fn begin(&self, work: impl FnOnce() + Send + 'static) {
        self.threads[0].spawn_fn(work);
    }

    /// Runs `work` on one of the threads. Whoever waits for it may give up; it then ends by
    /// itself.
    pub(super) async fn run<T, Work>(
        &self,
        work: impl FnOnce() -> Work + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        Work: Future<Output = Result<T, Problem>> + 'static,
    {
        let places = Arc::clone(&self.places).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(PATIENCE, places).await else {
            let detail = "too many requests are being answered; try again in a second";
            return Err(Problem::new(Kind::Busy, detail).retry_after(1));
        };
        let (done, answer) = oneshot::channel();
        let thread = &self.threads[self.next.fetch_add(1, Ordering::Relaxed) % THREADS];
        thread.spawn_fn(move || {
            actix_rt::spawn(async move {
                // Whoever asked may be gone.
                let _ = done.send(work().await);
                drop(place);
            });
        });
        let ending = || Problem::new(Kind::Busy, "the service is ending").retry_after(5);
        answer.await.unwrap_or_else(|_| Err(ending()))
    }
}
