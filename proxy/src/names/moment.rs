//! Time since the node's boot, suspension included: the one clock that a process and its successor share, and that nobody sets.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A [`Tick`].
const TICK_NANOS: u64 = 250_000_000;

/// A point in time on CLOCK_BOOTTIME. Says nothing in another boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    nanos: u64,
}

impl Moment {
    /// For the edge: what decides gets its moment as a parameter.
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has CLOCK_BOOTTIME since 2.6.39");
        Self::since_boot(Duration::from(time))
    }

    pub fn since_boot(time: Duration) -> Self {
        Self { nanos: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) }
    }

    pub(super) fn from_nanos(nanos: u64) -> Self {
        Self { nanos }
    }

    pub(super) fn nanos(self) -> u64 {
        self.nanos
    }

    /// The moment `time` later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_add(nanos) }
    }

    /// The moment `time` earlier, but none before the boot.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self { nanos: self.nanos.saturating_sub(nanos) }
    }

    /// The time from this moment to `later`; zero if that has passed.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_nanos(later.nanos.saturating_sub(self.nanos))
    }
}

/// The end of a quarter of a second since boot, at which something expires. Four bytes: there are up to a million of them, for 34 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Tick(pub(super) u32);

impl Tick {
    /// The first one that is not before `moment`.
    pub(super) fn not_before(moment: Moment) -> Self {
        Self(u32::try_from(moment.nanos.div_ceil(TICK_NANOS)).unwrap_or(u32::MAX))
    }

    /// So many ticks later.
    pub(super) const fn later(self, ticks: u32) -> Self {
        Self(self.0.saturating_add(ticks))
    }

    /// Whether it has come.
    pub(super) fn is_over(self, now: Moment) -> bool {
        self.moment() <= now
    }

    pub(super) fn moment(self) -> Moment {
        Moment { nanos: u64::from(self.0) * TICK_NANOS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_rounded_up_and_over_when_they_come() {
        for (millis, tick) in [(0, 0), (1, 1), (249, 1), (250, 1), (251, 2), (u64::from(u32::MAX) * 250 + 1, u32::MAX)] {
            let moment = Moment::since_boot(Duration::from_millis(millis));
            assert_eq!(Tick::not_before(moment), Tick(tick), "{millis}");
        }
        let at = |millis| Moment::since_boot(Duration::from_millis(millis));
        assert!(!Tick(8).is_over(at(1999)) && Tick(8).is_over(at(2000)));
        assert_eq!(at(500).until(Tick(8).moment()), Duration::from_millis(1500));
        assert_eq!(at(2500).until(Tick(8).moment()), Duration::ZERO);
        assert_eq!((Tick(8).later(3), Tick(u32::MAX).later(1)), (Tick(11), Tick(u32::MAX)));
        assert_eq!(at(1).after(Duration::MAX), Moment::from_nanos(u64::MAX));
    }

    #[test]
    fn the_clock_goes_forward() {
        let before = Moment::now();
        assert!(before > Moment::default() && Moment::now() >= before);
    }
}
