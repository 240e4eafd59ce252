//! The faults that several instances meet, as a random course of events. Times are in milliseconds.

use std::collections::VecDeque;
use std::ops::Range;

use fastrand::Rng;

/// Something that goes wrong for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An instance is killed, and started again afterwards.
    Kill,
    /// An instance leaves in good order, and is started again afterwards.
    Leave,
    /// The process of an instance is stopped.
    Stop,
    /// The actors of an instance hang while its connection lives.
    Hang,
    /// An instance reads its socket slowly.
    Slow,
    /// An instance is cut off from the broker.
    Net,
    /// An instance is cut off from the database.
    Wire,
    /// The database is away.
    Away,
    /// The database fails over, and has lost what was committed last.
    FailOver { loses: i64 },
    /// The broker is stopped.
    Broker,
}

impl Fault {
    /// All kinds.
    const ALL: [Self; 10] = [
        Self::Kill,
        Self::Leave,
        Self::Stop,
        Self::Hang,
        Self::Slow,
        Self::Net,
        Self::Wire,
        Self::Away,
        Self::Broker,
        Self::FailOver { loses: 0 },
    ];
    /// Those that leave an instance that does not meet them with all that it has heard, and with
    /// what is published meanwhile.
    const OF_OTHERS: [Self; 8] = [
        Self::Kill,
        Self::Leave,
        Self::Stop,
        Self::Hang,
        Self::Slow,
        Self::Net,
        Self::Wire,
        Self::Away,
    ];

    /// True if the fault cuts an instance off from the database. `is_its` if it is that one's.
    fn cuts_off(self, is_its: bool) -> bool {
        match self {
            Self::Wire => is_its,
            Self::Away | Self::FailOver { .. } => true,
            _ => false,
        }
    }
}

/// A fault of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub at: i64,
    pub fault: Fault,
    /// The number of the instance.
    pub number: usize,
    pub lasts: i64,
}

/// The faults of a schedule, as they begin and end.
pub struct Course {
    planned: VecDeque<Planned>,
    /// Those that have begun, with the time at which they end.
    under_way: Vec<(i64, Planned)>,
}

impl Course {
    pub fn new(planned: VecDeque<Planned>) -> Self {
        Self { planned, under_way: Vec::new() }
    }

    /// The next fault that begins by now, if there is one.
    pub fn begins(&mut self, now: i64) -> Option<Planned> {
        let planned = self.planned.pop_front_if(|planned| planned.at <= now)?;
        self.under_way.push((now + planned.lasts, planned));
        Some(planned)
    }

    /// The faults that end by now.
    pub fn end(&mut self, now: i64) -> Vec<Planned> {
        let over = self.under_way.extract_if(.., |(until, _)| *until <= now);
        over.map(|(_, planned)| planned).collect()
    }

    /// True if an instance is cut off from the database.
    pub fn cuts_off(&self, number: usize) -> bool {
        self.under_way.iter().any(|(_, planned)| planned.fault.cuts_off(planned.number == number))
    }
}

/// The faults of a schedule with so many instances, in order.
pub fn plan(rng: &mut Rng, within: Range<i64>, instances: usize) -> VecDeque<Planned> {
    plan_of(&Fault::ALL, rng, within, instances)
}

/// The same, of which one instance meets none.
pub fn plan_without(
    spared: usize,
    rng: &mut Rng,
    within: Range<i64>,
    instances: usize,
) -> VecDeque<Planned> {
    let mut faults = plan_of(&Fault::OF_OTHERS, rng, within, instances - 1);
    for planned in &mut faults {
        planned.number += usize::from(planned.number >= spared);
    }
    faults
}

fn plan_of(
    kinds: &[Fault],
    rng: &mut Rng,
    within: Range<i64>,
    instances: usize,
) -> VecDeque<Planned> {
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
        faults.push_back(Planned { at, fault, number: rng.usize(0..instances), lasts });
        at += rng.i64(300..7_000);
    }
    faults
}

/// The second member hangs. For devices that die at the second time, after a last heartbeat at the
/// third, which it has received and not written.
pub fn one_hangs() -> (VecDeque<Planned>, i64, i64) {
    let hangs = Planned { at: 12_000, fault: Fault::Hang, number: 1, lasts: 20_000 };
    ([hangs].into(), 12_300, 12_200)
}

/// The third member joins at 10,000, the database fails over and loses its row, and it hangs before
/// it notices. The others are cut off from the database meanwhile, so that they lose nothing.
pub fn a_row_is_lost() -> VecDeque<Planned> {
    let fault = |at, fault, number, lasts| Planned { at, fault, number, lasts };
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
        assert!((0..3).all(|number| all.iter().any(|planned| planned.number == number)));
    }

    #[test]
    fn whoever_is_spared_meets_no_fault() {
        for seed in 0..100 {
            let faults = plan_without(1, &mut Rng::with_seed(seed), 4_000..55_000, 3);
            assert!(faults.iter().all(|planned| [0, 2].contains(&planned.number)), "seed {seed}");
            let of_all = |fault| matches!(fault, Fault::Broker | Fault::FailOver { .. });
            assert!(!faults.iter().any(|planned| of_all(planned.fault)), "seed {seed}");
        }
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
