//! The faults that a group of instances meets, as a random course of events. Times are in
//! milliseconds.

use std::collections::VecDeque;
use std::ops::Range;

use fastrand::Rng;

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A member is killed, and started again afterwards.
    Kill,
    /// A member leaves in good order, and is started again afterwards.
    Leave,
    /// A member's process is stopped.
    Stop,
    /// A member's actors hang while its connection lives.
    Hang,
    /// A member reads its socket slowly.
    Slow,
    /// A member is cut off from the broker.
    Net,
    /// A member is cut off from the database.
    Wire,
    /// The database is away.
    Away,
    /// The database fails over, and has lost what was committed last.
    FailOver { loses: i64 },
    /// The broker is stopped.
    Broker,
}

/// A fault of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at: i64,
    pub fault: Fault,
    pub member: usize,
    pub lasts: i64,
}

/// The faults of a schedule, in order.
pub fn plan(rng: &mut Rng, within: Range<i64>, members: usize) -> VecDeque<Planned> {
    let kinds = [
        Fault::Kill,
        Fault::Leave,
        Fault::Stop,
        Fault::Hang,
        Fault::Slow,
        Fault::Net,
        Fault::Wire,
        Fault::Away,
        Fault::Broker,
        Fault::FailOver { loses: 0 },
    ];
    let mut faults = VecDeque::new();
    let (mut at, mut failed_over_at) = (within.start, 0);
    while at < within.end {
        let fault = match kinds[rng.usize(0..kinds.len())] {
            Fault::FailOver { .. } => {
                // What was lost once does not come back.
                let loses = rng.i64(0..2_000).min(at - failed_over_at);
                failed_over_at = at;
                Fault::FailOver { loses }
            }
            fault => fault,
        };
        let lasts = if rng.bool() { rng.i64(100..2_000) } else { rng.i64(1_000..9_000) };
        let lasts = match fault {
            Fault::Away => lasts.min(5_000),
            Fault::FailOver { .. } => lasts.min(2_000),
            Fault::Broker | Fault::Slow => lasts.min(3_000),
            _ => lasts,
        };
        faults.push_back(Planned { at, fault, member: rng.usize(0..members), lasts });
        at += rng.i64(300..7_000);
    }
    faults
}

/// The second member hangs. For devices that die at the second time, after a last heartbeat at the
/// third, which it has received and not written.
pub fn one_hangs() -> (VecDeque<Planned>, i64, i64) {
    let hangs = Planned { at: 12_000, fault: Fault::Hang, member: 1, lasts: 20_000 };
    ([hangs].into(), 12_300, 12_200)
}

/// The third member joins at 10,000, the database fails over and loses its row, and it hangs before
/// it notices. The others are cut off from the database meanwhile, so that they lose nothing.
pub fn a_row_is_lost() -> VecDeque<Planned> {
    let fault = |at, fault, member, lasts| Planned { at, fault, member, lasts };
    let faults = [
        fault(9_400, Fault::Wire, 0, 1_900),
        fault(9_400, Fault::Wire, 1, 1_900),
        fault(10_500, Fault::FailOver { loses: 600 }, 0, 300),
        fault(10_500, Fault::Hang, 2, 20_000),
    ];
    faults.into()
}

mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_course_of_faults_and_all_kinds_come() {
        let of = |seed| plan(&mut Rng::with_seed(seed), 4_000..55_000, 3);
        assert_eq!(of(7), of(7));
        let all: Vec<_> = (0..100).flat_map(of).collect();
        let kinds: std::collections::BTreeSet<_> = all
            .iter()
            .map(|planned| std::mem::discriminant(&planned.fault))
            .map(|d| format!("{d:?}"))
            .collect();
        assert_eq!(kinds.len(), 10);
        assert!((0..3).all(|member| all.iter().any(|planned| planned.member == member)));
    }

    #[test]
    fn a_failover_loses_nothing_from_before_the_one_before_it() {
        for seed in 0..200 {
            let faults = plan(&mut Rng::with_seed(seed), 4_000..55_000, 3);
            assert!(faults.iter().is_sorted_by_key(|planned| planned.at), "seed {seed}");
            let mut failed_over_at = 0;
            for planned in faults {
                assert!((4_000..55_000).contains(&planned.at) && planned.lasts >= 100);
                if let Fault::FailOver { loses } = planned.fault {
                    assert!(planned.at - loses >= failed_over_at, "seed {seed}: {planned:?}");
                    failed_over_at = planned.at;
                }
            }
        }
    }
}
