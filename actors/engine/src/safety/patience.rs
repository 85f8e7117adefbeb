//! Time limits that measure the waiting of a process that runs: one that was stopped as a whole (a debugger, a virtual
//! machine that was moved, a laptop that slept) wakes up to find that everyone it waits for was stopped with it.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// However long the process was stopped, it counts as this much waiting.
const TICK: Duration = Duration::from_millis(500);

/// The future's answer, or `None` when this process has run for `limit` without it.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = limit;
    while !left.is_zero() {
        let tick = TICK.min(left);
        if let Ok(answer) = timeout(tick, &mut future).await {
            return Some(answer);
        }
        left = left.saturating_sub(tick);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn a_standstill_of_the_process_is_no_waiting() {
        let limit = Duration::from_millis(1_500);
        // The whole runtime stands still for longer than the limit, and the answer comes soon after.
        let answer = async {
            tokio::task::yield_now().await;
            std::thread::sleep(limit * 2);
            tokio::time::sleep(Duration::from_millis(300)).await;
            7
        };
        assert_eq!(within(limit, answer).await, Some(7));
        let started = Instant::now();
        assert_eq!(within(limit, std::future::pending::<()>()).await, None);
        assert!(started.elapsed() >= limit);
    }
}
