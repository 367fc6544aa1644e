//! Looking again until nothing is left, within a bound.

use std::thread;
use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// So many looks in a row must find nothing: a packet that was on its way may have made an entry, a process may have forked.
const QUIET_LOOKS: u32 = 3;
/// After this long what is left is reported instead.
pub(crate) const BOUND: Duration = Duration::from_secs(5);

/// Calls `look`, which does what is to be done and says how much it still found, until it finds nothing several times in a row or the
/// bound is reached. What is returned is what the last look found.
pub(crate) fn until_quiet<E>(bound: Duration, mut look: impl FnMut() -> Result<usize, E>) -> Result<usize, E> {
    let end = Instant::now() + bound;
    let mut quiet = 0;
    loop {
        let found = look()?;
        quiet = if found == 0 { quiet + 1 } else { 0 };
        if quiet == QUIET_LOOKS || Instant::now() >= end {
            return Ok(found);
        }
        // Neither conntrack tables nor processes of others tell when they change in a way that this could wait for.
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_comes_back_is_met_again_and_nothing_is_believed_only_after_several_looks() {
        let mut found = [3, 0, 1, 0, 0, 0, 7].into_iter();
        let left = until_quiet::<Infallible>(BOUND, || Ok(found.next().unwrap()));
        assert_eq!((left, found.next()), (Ok(0), Some(7)));
    }

    #[test]
    fn what_always_comes_back_is_reported_when_the_bound_is_reached() {
        assert_eq!(until_quiet::<Infallible>(Duration::ZERO, || Ok(2)), Ok(2));
    }
}
