//! Work whose length follows the length of input, kept off the workers of the runtime. Part of `wire`, floor 1.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Input up to this length is worked on in place: one pass over it takes well under a millisecond.
const INLINE_BYTES_MAX: usize = 32 * 1024;

/// Runs work that takes time in proportion to `bytes`. Long work gives the worker's other tasks to another thread first; a
/// runtime of one thread, which only tests have, runs the work in place.
pub fn in_proportion<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_workers = || Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes > INLINE_BYTES_MAX && has_workers() { tokio::task::block_in_place(work) } else { work() }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The worker's other task runs only where the long work does not hold the one worker there is.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn long_work_holds_up_nobody_else() {
        let (ran, runs) = mpsc::channel();
        let long = tokio::spawn(async move {
            tokio::spawn(async move { ran.send(()).unwrap() });
            in_proportion(INLINE_BYTES_MAX + 1, || runs.recv_timeout(std::time::Duration::from_secs(30)))
        });
        assert_eq!(long.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_works_in_place() {
        assert_eq!(in_proportion(usize::MAX, || 1), 1);
    }
}
