//! A wall clock that jumps, and comes back.

use super::*;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Three hundred years later by the wall clock. Redis has one clock for everything.
fn far(limiter: &Subject, now: Now) -> Now {
    let at = if matches!(limiter, Subject::Redis(_)) { now.at + 300 * YEAR } else { now.at };
    Now { at, unix_s: now.unix_s + 300 * YEAR.as_secs() }
}

#[test]
fn a_clock_that_jumps_and_comes_back_leaves_limits_as_they_were() {
    with_each(|limiter, now| {
        let limits = Limits {
            requests_per_minute: Some(60),
            concurrency: Some(2),
            dollars_per_day: Some(10.0),
            // Of two limits that a request is over, the one that keeps it waiting longer is told.
            dollars_per_month: Some(100.0),
            ..Limits::default()
        };
        let ask = |estimate: Estimate, now: Now| limiter.reserve(&[key(&limits)], estimate, now);
        ask(costs(8.0), now).unwrap().settle(0, 8.0, now.at);
        // In the year 2326 nothing is spent yet.
        let there = far(&limiter, now);
        ask(costs(9.0), there).unwrap().settle(0, 9.0, there.at);
        let lost = ask(costs(0.5), there).unwrap();
        // Back: what was spent today is known, what was spent there is not today's.
        let back = later(now, seconds(1.0));
        assert_eq!(refused(ask(costs(3.0), back)).kind, LimitKind::DollarsPerDay);
        ask(costs(1.0), back).unwrap().settle(0, 1.0, back.at);
        assert_eq!(limiter.spent(Id::Key("ci"), back), Spent { day: 9.0, month: 9.0, total: 18.5 });
        // Requests of a minute come back as time goes on, here and not there.
        for _ in 0..60 {
            let Ok(reservation) = ask(costs(0.0), back) else { break };
            reservation.settle(0, 0.0, back.at);
        }
        assert_eq!(refused(ask(costs(0.0), back)).kind, LimitKind::RequestsPerMinute);
        let minute = later(back, seconds(61.0));
        ask(costs(0.0), minute).unwrap().settle(0, 0.0, minute.at);
        lost.settle(0, 0.5, minute.at);
        // The next day begins when the clock shows it.
        let tomorrow = later(now, seconds(3600.0));
        assert_eq!(limiter.spent(Id::Key("ci"), tomorrow).day, 0.0);
    });
}

/// A little out of order around midnight, nothing is forgotten.
#[test]
fn requests_out_of_order_around_midnight_are_counted_for_their_days() {
    with_each(|limiter, now| {
        let limits = Limits { dollars_per_day: Some(10.0), ..Limits::default() };
        let pay = |dollars: f64, now: Now| {
            let reserved = limiter.reserve(&[key(&limits)], costs(dollars), now);
            reserved.map(|it| it.settle(0, dollars, now.at)).map_err(|refusal| refusal.kind)
        };
        let (before, after) = (now, later(now, seconds(61.0)));
        assert_eq!(pay(6.0, before), Ok(()));
        assert_eq!(pay(7.0, after), Ok(()));
        if matches!(limiter, Subject::Memory(_)) {
            assert_eq!(pay(5.0, before), Err(LimitKind::DollarsPerDay));
            assert_eq!(pay(4.0, before), Ok(()));
        }
        assert_eq!(pay(4.0, after), Err(LimitKind::DollarsPerDay));
        assert_eq!(pay(3.0, after), Ok(()));
    });
}
