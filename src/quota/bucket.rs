//! Token buckets, each kept as the one time at which it is full again (the generic cell rate algorithm). Part of `quota`.

const SECOND: i64 = 1_000_000_000;

/// Nanoseconds of a time of the steady clock.
pub(super) fn nanos(steady_ms: i64) -> i64 {
    steady_ms.saturating_mul(1_000_000)
}

/// Whole seconds of a wait, at least one.
pub(super) fn seconds(wait: i64) -> u64 {
    u64::try_from(wait).unwrap_or(0).div_ceil(1_000_000_000).max(1)
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Nanoseconds between two tokens.
    every: i64,
    /// Tokens of a full bucket.
    burst: u64,
}

impl Rate {
    /// So many tokens a second, in a bucket of `burst`.
    pub(super) fn per_second(tokens: u32, burst: u32) -> Self {
        Self { every: (SECOND / i64::from(tokens.max(1))).max(1), burst: u64::from(burst.max(1)) }
    }

    /// So many tokens a minute, in a bucket of as many.
    pub(super) fn per_minute(tokens: u32) -> Self {
        Self { every: 60 * SECOND / i64::from(tokens.max(1)), burst: u64::from(tokens.max(1)) }
    }

    fn time_of(self, tokens: u64) -> i64 {
        i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(self.every)
    }

    /// Takes tokens from a bucket that is full at `full_at`; returns when it is full again. More than the bucket holds is
    /// taken from a full one, which then needs longer to fill.
    ///
    /// # Errors
    /// Nanoseconds until there are enough tokens.
    pub(super) fn take(self, full_at: Option<i64>, tokens: u64, now: i64) -> Result<i64, i64> {
        let begin = full_at.map_or(now, |full_at| full_at.max(now));
        let missing = begin.saturating_sub(now);
        let early = missing.saturating_add(self.time_of(tokens.min(self.burst))).saturating_sub(self.time_of(self.burst));
        if early > 0 { Err(early) } else { Ok(begin.saturating_add(self.time_of(tokens))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_bucket_holds_its_burst_and_fills_at_its_rate() {
        let rate = Rate::per_second(4, 2);
        let one = rate.take(None, 1, 0).unwrap();
        let two = rate.take(Some(one), 1, 0).unwrap();
        assert_eq!(rate.take(Some(two), 1, 0), Err(SECOND / 4));
        assert_eq!(rate.take(Some(two), 1, SECOND / 4), Ok(two + SECOND / 4));
        assert_eq!((seconds(1), seconds(SECOND), seconds(SECOND + 1)), (1, 1, 2));
    }

    #[test]
    fn more_than_a_bucket_holds_goes_through_a_full_one() {
        let rate = Rate::per_second(1, 5);
        let full_at = rate.take(None, 8, 0).unwrap();
        assert_eq!(full_at, 8 * SECOND);
        assert_eq!(rate.take(Some(full_at), 1, 0), Err(4 * SECOND));
        assert_eq!(rate.take(Some(full_at), 8, 0), Err(8 * SECOND));
        assert!(rate.take(Some(full_at), 8, 8 * SECOND).is_ok());
    }

    proptest! {
        /// Over any time, no more passes than the burst and what the time brings.
        #[test]
        fn never_more_than_burst_and_rate(rate in 1u32..50, burst in 1u32..50, steps in proptest::collection::vec((1u64..4, 0i64..400), 1..200)) {
            let bucket = Rate::per_second(rate, burst);
            let (mut now, mut full_at, mut passed) = (0, None, 0u64);
            for (tokens, pause_ms) in steps {
                now += nanos(pause_ms);
                if let Ok(next) = bucket.take(full_at, tokens, now) {
                    full_at = Some(next);
                    passed += tokens;
                }
                let brought = u128::try_from(now).unwrap() * u128::from(rate) / 1_000_000_000;
                prop_assert!(u128::from(passed) <= u128::from(burst) + brought + 4);
            }
        }
    }
}
