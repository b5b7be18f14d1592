//! Work that many threads do at the same time.

use crate::verbs::Error;
use std::sync::Barrier;
use std::thread;

/// Has so many threads begin at one moment, each with its number, and waits for all of them. An
/// error says how many failed, and the first of them with what.
pub(crate) fn at_once<T: Send>(
    count: u64,
    work: impl Fn(u64) -> Result<T, Error> + Sync,
) -> Result<Vec<T>, Error> {
    let start = Barrier::new(usize::try_from(count).unwrap_or_default());
    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let (start, work) = (&start, &work);
                scope.spawn(move || {
                    start.wait();
                    work(number)
                })
            })
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for outcome in outcomes {
        match outcome {
            Ok(Ok(result)) => done.push(result),
            Ok(Err(error)) => failed.push(error),
            Err(_) => failed.push(Error::from("a thread panicked".to_owned())),
        }
    }
    let failures = failed.len();
    match failed.into_iter().next() {
        None => Ok(done),
        Some(first) => Err(Error {
            errno: first.errno,
            message: format!("{failures} of {count} at once: {}", first.message),
        }),
    }
}
