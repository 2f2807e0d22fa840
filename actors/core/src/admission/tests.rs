use super::*;
use proptest::prelude::*;

const LIMITS: AdmissionLimits = AdmissionLimits { in_flight_max: 10, per_s_max: Some(5) };

fn refused(code: Code, retry_after_ms: u64) -> Result<(), Refusal> {
    Err(Refusal { code, retry_after_ms })
}

#[test]
fn a_full_lane_refuses_until_something_is_over() {
    let limits = AdmissionLimits { per_s_max: None, ..LIMITS };
    let mut lane = Admission::new(1, limits, 0);
    assert_eq!(lane.admit(9, 0), Ok(()));
    assert_eq!(lane.admit(2, 0), refused(Code::LaneFull, LANE_FULL_RETRY_MS));
    assert_eq!(lane.admit(1, 0), Ok(()));
    lane.release(1, 2);
    assert_eq!(lane.admit(2, 0), Ok(()));
}

#[test]
fn the_quota_allows_a_burst_of_one_second_and_says_when_to_come_back() {
    let mut lane = Admission::new(1, LIMITS, 0);
    assert_eq!(lane.admit(5, 0), Ok(()));
    lane.release(1, 5);
    assert_eq!(lane.admit(1, 0), refused(Code::RateLimited, 200));
    assert_eq!(lane.admit(2, 100), refused(Code::RateLimited, 300));
    assert_eq!(lane.admit(2, 400), Ok(()));
    assert_eq!(lane.admit(6, 10_000), Ok(()), "larger than the burst: paid off");
    assert_eq!(lane.admit(1, 10_000), refused(Code::RateLimited, 400));
}

#[test]
fn releases_of_a_former_incarnation_are_ignored() {
    let mut lane = Admission::new(2, LIMITS, 0);
    lane.admit(3, 0).unwrap();
    lane.release(1, 3);
    assert_eq!(lane.in_flight(), 3);
    lane.release(lane.incarnation(), 3);
    assert_eq!(lane.in_flight(), 0);
}

#[test]
fn a_push_larger_than_the_lane_gets_in_alone() {
    let mut lane = Admission::new(1, AdmissionLimits { per_s_max: None, ..LIMITS }, 0);
    assert_eq!(lane.admit(50, 0), Ok(()));
    assert_eq!(lane.admit(1, 0), refused(Code::LaneFull, LANE_FULL_RETRY_MS));
}

#[test]
fn new_limits_hold_at_once() {
    let mut lane = Admission::new(1, LIMITS, 0);
    lane.set_limits(AdmissionLimits { in_flight_max: 10, per_s_max: Some(2) }, 0);
    assert_eq!(lane.admit(2, 0), Ok(()));
    assert_eq!(lane.admit(1, 0), refused(Code::RateLimited, 500));
    lane.set_limits(AdmissionLimits { in_flight_max: 3, per_s_max: None }, 0);
    assert_eq!(lane.admit(1, 0), Ok(()));
    assert_eq!(lane.admit(1, 0), refused(Code::LaneFull, LANE_FULL_RETRY_MS));
    lane.release(1, 3);
    lane.set_limits(LIMITS, 0);
    assert_eq!(lane.admit(5, 0), Ok(()), "a quota that is new starts with a full bucket");
}

proptest! {
    /// In flight never above the bound, admitted never above rate and burst, a refusal changes
    /// nothing and its pause is enough.
    #[test]
    fn bounds_hold_and_pauses_suffice(
        steps in proptest::collection::vec((1u32..6, 0u64..400, any::<bool>()), 1..200),
    ) {
        let mut lane = Admission::new(7, LIMITS, 1000);
        let (mut now_ms, mut admitted, mut in_flight) = (1000, 0u64, Vec::new());
        for (n, pause_ms, over) in steps {
            now_ms += pause_ms;
            if over && let Some(n) = in_flight.pop() {
                lane.release(7, n);
            }
            match lane.admit(n, now_ms) {
                Ok(()) => {
                    admitted += u64::from(n);
                    in_flight.push(n);
                }
                Err(Refusal { code: Code::RateLimited, retry_after_ms }) => {
                    prop_assert_eq!(lane.in_flight(), in_flight.iter().sum::<u32>());
                    now_ms += retry_after_ms;
                    prop_assert_eq!(lane.admit(n, now_ms), Ok(()));
                    admitted += u64::from(n);
                    in_flight.push(n);
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal.code, Code::LaneFull);
                    prop_assert!(lane.in_flight() + n > 10);
                }
            }
            prop_assert!(lane.in_flight() <= 10);
            prop_assert!(admitted * 1000 <= 5 * 1000 + 5 * (now_ms - 1000));
        }
    }
}
