//! Tests of the breaker: offenders are throttled one by one while the plugin works for others, and
//! the breaker opens if it does not.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::activity::PARTS;
use super::recent::MAX_CLIENTS;
use super::throttle::MAX_RECORDS;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn breaker() -> Breaker {
    Breaker::new("plugin", BreakerLimits::default())
}

/// A client whose address is derived from `name`, so it is the only connection of that address.
fn client(name: &str) -> ClientKeys {
    let address: u32 = name.bytes().fold(0, |address, byte| (address << 8) | u32::from(byte));
    ClientKeys::new(name, None, Some(std::net::Ipv4Addr::from(address).into()))
}

/// One of the connections of an address.
fn connection(number: u32, address: u8) -> ClientKeys {
    ClientKeys::new(&format!("{number}"), None, Some([192, 0, 2, address].into()))
}

/// One of the connections of an IPv4 address or of an IPv6 network.
fn stranger(number: u32, network: u16, is_v6: bool) -> ClientKeys {
    let address = if is_v6 {
        let host = u128::from(number) + 1;
        IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (u128::from(network) << 64) | host))
    } else {
        let [high, low] = network.to_be_bytes();
        IpAddr::from([192, 0, high, low])
    };
    ClientKeys::new(&format!("stranger {number}"), None, Some(address))
}

fn fail_by(breaker: &mut Breaker, by: &ClientKeys, now: Instant) -> Option<Change> {
    let permit = breaker.admit(Some(by), now).unwrap();
    breaker.record(permit, Some(by), Outcome::Failed, now)
}

fn succeed_by(breaker: &mut Breaker, by: &ClientKeys, now: Instant) {
    let permit = breaker.admit(Some(by), now).unwrap();
    assert_eq!(breaker.record(permit, Some(by), Outcome::Answered, now), None);
}

/// Fails until the breaker reports a change.
fn fail_until_changed(breaker: &mut Breaker, by: &ClientKeys, now: Instant) -> Change {
    (0..100).find_map(|_| fail_by(breaker, by, now)).expect("a change")
}

fn is_throttled(breaker: &mut Breaker, by: &ClientKeys, now: Instant) -> bool {
    matches!(breaker.admit(Some(by), now), Err(Denied::Throttled { .. }))
}

fn fail(breaker: &mut Breaker, by: &str, now: Instant) -> Option<Change> {
    fail_by(breaker, &client(by), now)
}

fn succeed(breaker: &mut Breaker, by: &str, now: Instant) {
    succeed_by(breaker, &client(by), now);
}

#[test]
fn five_failures_in_ten_seconds_open_it_and_a_probe_that_succeeds_closes_it() {
    let (mut breaker, start) = (breaker(), Instant::now());
    for second in 0..4 {
        assert_eq!(fail(&mut breaker, "a", start + SECOND * second), None);
    }
    assert_eq!(fail(&mut breaker, "b", start + SECOND * 4), Some(Change::Opened(SECOND)));
    let at = start + SECOND * 4;
    assert_eq!(breaker.admit(None, at), Err(Denied::Open { retry_after: SECOND }));
    assert_eq!(breaker.admit(None, at + SECOND), Ok(Permit::Probe));
    assert!(breaker.admit(None, at + SECOND).is_err(), "one probe at a time");
    assert_eq!(
        breaker.record(Permit::Probe, None, Outcome::Unknown, at + SECOND),
        None,
        "a probe that was not asked tells nothing"
    );
    assert_eq!(breaker.admit(None, at + SECOND), Ok(Permit::Probe));
    assert_eq!(
        breaker.record(Permit::Probe, None, Outcome::Answered, at + SECOND),
        Some(Change::Closed)
    );
    assert_eq!(breaker.admit(None, at + SECOND), Ok(Permit::Normal));
}

#[test]
fn failures_that_are_far_apart_do_not_open_it() {
    let (mut breaker, start) = (breaker(), Instant::now());
    for turn in 0..100 {
        assert_eq!(fail(&mut breaker, "a", start + SECOND * 3 * turn), None);
    }
}

#[test]
fn a_half_of_twenty_calls_opens_it() {
    let limits = BreakerLimits { failures: 1000, ..BreakerLimits::default() };
    let (mut breaker, now) = (Breaker::new("plugin", limits), Instant::now());
    for _ in 0..10 {
        succeed(&mut breaker, "a", now);
    }
    for _ in 0..9 {
        assert_eq!(fail(&mut breaker, "b", now), None);
    }
    assert_eq!(fail(&mut breaker, "a", now), Some(Change::Opened(SECOND)));
}

#[test]
fn each_probe_that_fails_doubles_the_time_up_to_its_most() {
    let (mut breaker, mut now) = (breaker(), Instant::now());
    for _ in 0..5 {
        fail(&mut breaker, "a", now);
    }
    let mut times = Vec::new();
    for _ in 0..8 {
        now += Duration::from_secs(60);
        assert_eq!(breaker.admit(None, now), Ok(Permit::Probe));
        if let Some(Change::Opened(time)) =
            breaker.record(Permit::Probe, None, Outcome::Failed, now)
        {
            times.push(time.as_secs());
        }
    }
    assert_eq!(times, [2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn a_client_that_causes_the_failures_is_throttled_while_others_are_served() {
    let (mut breaker, now) = (breaker(), Instant::now());
    succeed(&mut breaker, "good", now);
    for _ in 0..4 {
        assert_eq!(fail(&mut breaker, "bad", now), None);
    }
    assert_eq!(
        fail(&mut breaker, "bad", now),
        Some(Change::Throttled(ClientKey::Connection("bad".into()), SECOND))
    );
    assert_eq!(
        breaker.admit(Some(&client("bad")), now),
        Err(Denied::Throttled { retry_after: SECOND })
    );
    assert_eq!(breaker.admit(Some(&client("good")), now), Ok(Permit::Normal));
    assert_eq!(
        breaker.admit(None, now),
        Ok(Permit::Normal),
        "the host's own events are not throttled"
    );
    // The client returns and fails again: it is throttled for longer.
    let later = now + SECOND;
    assert_eq!(
        fail_until_changed(&mut breaker, &client("bad"), later),
        Change::Throttled(ClientKey::Connection("bad".into()), SECOND * 2)
    );
}

#[test]
fn several_offenders_are_throttled_one_by_one_and_a_good_client_is_served() {
    for offenders in 1..8 {
        let (mut breaker, now) = (breaker(), Instant::now());
        let mut throttled = HashSet::new();
        for turn in 0..6 {
            succeed(&mut breaker, "good", now);
            for offender in 0..offenders {
                let offender = connection(offender, 100 + u8::try_from(offender).unwrap());
                if !is_throttled(&mut breaker, &offender, now)
                    && let Some(Change::Throttled(key, _)) = fail_by(&mut breaker, &offender, now)
                {
                    throttled.insert(key);
                }
            }
            assert!(!breaker.is_open(), "{offenders} offenders, turn {turn}");
        }
        assert_eq!(throttled.len(), offenders as usize);
    }
}

#[test]
fn a_plugin_that_fails_for_many_clients_is_at_fault_itself() {
    let (mut breaker, now) = (breaker(), Instant::now());
    for number in 0..40 {
        succeed_by(&mut breaker, &connection(number, u8::try_from(number).unwrap()), now);
    }
    let changes: Vec<_> = (0..40)
        .map_while(|number| {
            let client = connection(number, u8::try_from(number).unwrap());
            breaker.admit(Some(&client), now).is_ok().then(|| fail_by(&mut breaker, &client, now))
        })
        .collect();
    assert_eq!(
        changes.last(),
        Some(&Some(Change::Opened(SECOND))),
        "after {} failures",
        changes.len()
    );
    assert!(changes.len() <= 12, "after {} failures", changes.len());
}

#[test]
fn an_address_is_throttled_after_three_offenders_except_its_neighbours_that_are_served() {
    let (mut breaker, now) = (breaker(), Instant::now());
    let (served, failed) = (connection(1, 7), connection(2, 7));
    let address = ClientKey::Address([192, 0, 2, 7].into());
    let good = client("good");
    for by in [&good, &served, &failed] {
        succeed_by(&mut breaker, by, now);
    }
    // A client that connects again is not distinguished from a second client behind the address.
    for number in [3, 4] {
        let change = fail_until_changed(&mut breaker, &connection(number, 7), now);
        assert!(matches!(change, Change::Throttled(ClientKey::Connection(_), _)), "{change:?}");
        assert_eq!(breaker.admit(Some(&connection(5, 7)), now), Ok(Permit::Normal));
    }
    let third = fail_until_changed(&mut breaker, &connection(5, 7), now);
    assert_eq!(third, Change::Throttled(address.clone(), SECOND * 2));
    assert!(is_throttled(&mut breaker, &connection(6, 7), now), "a new connection");
    succeed_by(&mut breaker, &served, now);
    assert_eq!(fail_by(&mut breaker, &failed, now), None);
    assert!(is_throttled(&mut breaker, &failed, now), "it was served, and has failed since");
    // The address is throttled for longer when a connection of it fails again.
    let later = now + SECOND * 2;
    succeed_by(&mut breaker, &good, later);
    let again = fail_until_changed(&mut breaker, &connection(7, 7), later);
    assert_eq!(again, Change::Throttled(address, SECOND * 4));
    // A neighbour that was served is known even if it was idle for long.
    let much_later = now + SECOND * 3600;
    succeed_by(&mut breaker, &good, much_later);
    for number in 10..13 {
        fail_until_changed(&mut breaker, &connection(number, 7), much_later);
    }
    assert!(is_throttled(&mut breaker, &connection(13, 7), much_later));
    succeed_by(&mut breaker, &served, much_later);
}

#[test]
fn connections_that_fail_a_little_each_are_throttled_by_their_address() {
    let (mut breaker, now) = (breaker(), Instant::now());
    succeed(&mut breaker, "good", now);
    let changes: Vec<_> =
        (0..5).filter_map(|number| fail_by(&mut breaker, &connection(number, 7), now)).collect();
    assert_eq!(changes, [Change::Throttled(ClientKey::Address([192, 0, 2, 7].into()), SECOND)]);
}

#[test]
fn a_user_who_connects_again_is_throttled_and_the_address_is_not() {
    let (mut breaker, now) = (breaker(), Instant::now());
    let of = |number: u32, user: &str| {
        ClientKeys::new(&format!("{number}"), Some(user), Some([192, 0, 2, 7].into()))
    };
    succeed_by(&mut breaker, &of(1, "good"), now);
    assert!(matches!(
        fail_until_changed(&mut breaker, &of(2, "bad"), now),
        Change::Throttled(ClientKey::Connection(_), _)
    ));
    let again = fail_until_changed(&mut breaker, &of(3, "bad"), now);
    assert_eq!(again, Change::Throttled(ClientKey::User("bad".into()), SECOND * 2));
    assert_eq!(breaker.admit(Some(&of(4, "good")), now), Ok(Permit::Normal));
    assert!(is_throttled(&mut breaker, &of(5, "bad"), now));
}

#[test]
fn behind_one_address_for_all_clients_a_broken_plugin_opens_it_and_an_offender_does_not() {
    let (mut breaker, now) = (breaker(), Instant::now());
    let good: Vec<_> = (0..20).map(|number| connection(number, 7)).collect();
    good.iter().for_each(|by| succeed_by(&mut breaker, by, now));
    let mut admitted = 0;
    for number in 100..200 {
        let by = connection(number, 7);
        if breaker.admit(Some(&by), now).is_ok() {
            admitted += 1;
            fail_by(&mut breaker, &by, now);
        }
    }
    assert_eq!(admitted, 5, "new connections are throttled together");
    good.iter().for_each(|by| succeed_by(&mut breaker, by, now));
    // Now each of them fails. The breaker opens when nobody is served.
    let changes: Vec<_> = good.iter().filter_map(|by| fail_by(&mut breaker, by, now)).collect();
    assert_eq!(changes.last(), Some(&Change::Opened(SECOND)), "{changes:?}");
}

#[test]
fn new_connections_of_three_networks_that_fail_once_open_it_for_nobody() {
    for (is_v6, good) in [(false, 1), (false, 40), (true, 1), (true, 40)] {
        let (mut breaker, now) = (breaker(), Instant::now());
        let good: Vec<_> = (0..good).map(|number| connection(number, 7)).collect();
        good.iter().for_each(|by| succeed_by(&mut breaker, by, now));
        for number in 0..100 {
            let by = stranger(number, (number % 3) as u16, is_v6);
            if breaker.admit(Some(&by), now).is_ok() {
                fail_by(&mut breaker, &by, now);
            }
            assert!(!breaker.is_open(), "after {number} beside {}", good.len());
        }
        good.iter().for_each(|by| succeed_by(&mut breaker, by, now));
    }
}

#[test]
fn a_version_that_fails_for_some_clients_of_the_version_before_is_at_fault_itself() {
    let ([mut before, mut breaker], now) = ([breaker(), breaker()], Instant::now());
    let clients: Vec<_> =
        (0..40).map(|number| connection(number, u8::try_from(number).unwrap())).collect();
    clients.iter().for_each(|by| succeed_by(&mut before, by, now));
    let (failing, served) = clients.split_at(12);
    served.iter().for_each(|by| succeed_by(&mut breaker, by, now));
    let opened = failing.iter().find_map(|by| fail_by(&mut breaker, by, now));
    assert_eq!(opened, Some(Change::Opened(SECOND)));
}

#[test]
fn users_whose_connections_are_short_open_it_if_they_were_served_before() {
    let (mut breaker, now) = (breaker(), Instant::now());
    let user = |number: u32, user: u32| {
        let address = Some([192, 0, 2, 7].into());
        ClientKeys::new(&format!("{number}"), Some(&format!("user {user}")), address)
    };
    (0..40).for_each(|number| succeed_by(&mut breaker, &user(number, number), now));
    let opened = (0..12).find_map(|number| {
        let by = user(100 + number, number);
        breaker.admit(Some(&by), now).ok()?;
        match fail_by(&mut breaker, &by, now)? {
            Change::Throttled(..) => None,
            change => Some(change),
        }
    });
    assert_eq!(opened, Some(Change::Opened(SECOND)));
}

#[test]
fn more_offenders_than_are_remembered_open_it_for_nobody() {
    let (mut breaker, now) = (breaker(), Instant::now());
    let good = client("good");
    succeed_by(&mut breaker, &good, now);
    for number in 0..2 * u32::try_from(MAX_RECORDS).unwrap() {
        let by = ClientKeys::new(
            &format!("{number}"),
            None,
            Some(Ipv6Addr::from_bits(u128::from(number) << 64).into()),
        );
        let change = fail_until_changed(&mut breaker, &by, now);
        assert_eq!(
            change,
            Change::Throttled(ClientKey::Connection(format!("{number}").into()), SECOND)
        );
    }
    succeed_by(&mut breaker, &good, now);
}

#[test]
fn failures_that_nobody_caused_are_the_plugins() {
    let (mut breaker, now) = (breaker(), Instant::now());
    succeed(&mut breaker, "good", now);
    let changes: Vec<_> =
        (0..5).filter_map(|_| breaker.record(Permit::Normal, None, Outcome::Failed, now)).collect();
    assert_eq!(changes, [Change::Opened(SECOND)]);
}

#[test]
fn a_plugin_that_fails_its_only_client_is_at_fault_itself() {
    let (mut breaker, now) = (breaker(), Instant::now());
    for _ in 0..10 {
        breaker.record(Permit::Normal, Some(&client("only")), Outcome::Answered, now);
    }
    for _ in 0..4 {
        assert_eq!(fail(&mut breaker, "only", now), None);
    }
    assert_eq!(fail(&mut breaker, "only", now), Some(Change::Opened(SECOND)));
}

/// How often a client that asks once in `seconds` is denied in an hour, while others fail an event
/// ten times a second.
fn denied_beside(attackers: &[ClientKeys], seconds: u32) -> (u32, u32) {
    let (mut breaker, start) = (breaker(), Instant::now());
    let (good, mut denied, mut denied_last) = (client("good"), 0, 0);
    for tenth in 0..36_000_u32 {
        let now = start + SECOND / 10 * tenth;
        for by in attackers {
            if let Ok(permit) = breaker.admit(Some(by), now) {
                breaker.record(permit, Some(by), Outcome::Failed, now);
            }
        }
        if tenth % (seconds * 10) == seconds * 5 {
            match breaker.admit(Some(&good), now) {
                Ok(permit) => _ = breaker.record(permit, Some(&good), Outcome::Answered, now),
                Err(_) if tenth < 6_000 => denied += 1,
                Err(_) => denied_last += 1,
            }
        }
    }
    (denied, denied_last)
}

#[test]
fn a_client_that_comes_seldom_is_served_beside_one_that_fails_without_end() {
    let attackers: Vec<_> = (2..5).map(|address| connection(u32::from(address), address)).collect();
    for seconds in [2, 7, 20, 45, 100] {
        let (at_first, later) = denied_beside(&attackers, seconds);
        assert!(at_first <= 4, "once in {seconds} s: denied {at_first} times in ten minutes");
        assert_eq!(later, 0, "once in {seconds} s, after ten minutes");
    }
}

#[test]
fn a_plugin_that_is_broken_opens_it_though_there_are_suspects() {
    let (mut breaker, now) = (breaker(), Instant::now());
    fail_until_changed(&mut breaker, &client("bad"), now);
    let at = now + SECOND;
    assert!(breaker.admit(Some(&client("bad")), at).is_err(), "others come first");
    assert_eq!(breaker.admit(Some(&client("good")), at), Ok(Permit::Probe));
    let closed = breaker.record(Permit::Probe, Some(&client("good")), Outcome::Answered, at);
    assert_eq!(closed, Some(Change::Closed));
    let later = at + SECOND * 20;
    let of_suspect = fail_until_changed(&mut breaker, &client("bad"), later);
    assert!(matches!(of_suspect, Change::Throttled(..)), "{of_suspect:?}");
    assert_eq!(fail_until_changed(&mut breaker, &client("good"), later), Change::Opened(SECOND));
    // Nobody else asks: in the end, a suspect may probe.
    let end = later + SECOND * 2;
    assert_eq!(breaker.admit(Some(&client("bad")), end), Ok(Permit::Probe));
}

#[test]
fn many_sites_whose_events_failed_are_not_suspected() {
    let (mut breaker, now) = (breaker(), Instant::now());
    for number in 0..5 {
        fail_by(&mut breaker, &connection(number, u8::try_from(number).unwrap()), now);
    }
    let mut at = now;
    for number in 5..10 {
        at += SECOND * 60;
        let by = connection(number, u8::try_from(number).unwrap());
        assert!(matches!(fail_by(&mut breaker, &by, at), Some(Change::Opened(_))));
    }
    at += SECOND * 120;
    let good = client("good");
    assert_eq!(breaker.admit(Some(&good), at), Ok(Permit::Probe));
    breaker.record(Permit::Probe, Some(&good), Outcome::Answered, at);
    at += SECOND * 20;
    assert_eq!(fail_until_changed(&mut breaker, &connection(1, 1), at), Change::Opened(SECOND));
}

proptest! {
    /// An open breaker admits no event before its time and one event after it. The breaker never
    /// exceeds its memory bounds.
    #[test]
    fn it_is_never_open_for_longer_than_it_says(
        steps in proptest::collection::vec((0_u64..5_000, any::<bool>(), 0_u32..40, 0_u8..4), 1..300)
    ) {
        let mut breaker = breaker();
        let mut now = Instant::now();
        let mut closed_until = now;
        for (ms, failed, number, address) in steps {
            now += Duration::from_millis(ms);
            let by = connection(number, address);
            let admits_all = breaker.admits_all();
            match breaker.admit(Some(&by), now) {
                Ok(permit) => {
                    prop_assert!(now >= closed_until, "passed before its time");
                    prop_assert!(!admits_all || permit == Permit::Normal);
                    let outcome = if failed { Outcome::Failed } else { Outcome::Answered };
                    if let Some(Change::Opened(time)) = breaker.record(permit, Some(&by), outcome, now) {
                        prop_assert!(time <= Duration::from_secs(60));
                        closed_until = now + time;
                    }
                }
                Err(Denied::Open { retry_after } | Denied::Throttled { retry_after }) => {
                    prop_assert!(!admits_all);
                    prop_assert!(retry_after > Duration::ZERO && retry_after <= Duration::from_secs(120));
                }
            }
            prop_assert!(breaker.failures.len() <= *REMEMBERED.start() && breaker.throttle.len() <= MAX_RECORDS);
            prop_assert!(breaker.activity.parts() <= PARTS as usize + 1);
            prop_assert!(breaker.activity.largest() <= MAX_CLIENTS);
            prop_assert!(breaker.suspects.largest() <= MAX_CLIENTS);
        }
    }

    /// While up to eight connections of other addresses fail, in any order and at any rate, a
    /// client that is answered each second is always admitted.
    #[test]
    fn a_good_client_is_always_served_beside_some_offenders(
        steps in proptest::collection::vec((0_u64..300, 0_u32..8), 1..600)
    ) {
        let mut breaker = breaker();
        let good = client("good");
        let start = Instant::now();
        let (mut now, mut next_good) = (start, start);
        for (ms, offender) in steps {
            now += Duration::from_millis(ms);
            while next_good <= now {
                prop_assert_eq!(breaker.admit(Some(&good), next_good), Ok(Permit::Normal));
                breaker.record(Permit::Normal, Some(&good), Outcome::Answered, next_good);
                next_good += SECOND;
            }
            let offender = connection(offender, 100 + u8::try_from(offender).unwrap());
            if let Ok(permit) = breaker.admit(Some(&offender), now) {
                breaker.record(permit, Some(&offender), Outcome::Failed, now);
            }
            prop_assert_eq!(breaker.admit(Some(&good), now), Ok(Permit::Normal));
        }
    }

    /// If one connection of each address fails and the others do not, the others are never
    /// throttled.
    #[test]
    fn nobody_is_throttled_for_what_one_other_connection_did(
        steps in proptest::collection::vec((0_u64..2_000, 0_u32..6, 0_u8..3), 1..300)
    ) {
        let mut breaker = breaker();
        let mut now = Instant::now();
        for (ms, number, address) in steps {
            now += Duration::from_millis(ms);
            let fails = number == 0;
            let by = connection(u32::from(address) * 100 + number, address);
            match breaker.admit(Some(&by), now) {
                Ok(permit) => {
                    breaker.record(permit, Some(&by), if fails { Outcome::Failed } else { Outcome::Answered }, now);
                }
                Err(Denied::Throttled { .. }) => prop_assert!(fails, "throttled for its neighbour"),
                Err(Denied::Open { .. }) => {}
            }
        }
    }

    /// Any number of new connections of up to five addresses, or of up to 300 networks that one
    /// customer of an IPv6 provider has, fail, perhaps after they were answered.
    /// Clients that are answered now and then are always admitted, also if they share the network
    /// of the others, and the breaker never opens: so no version is rolled back.
    #[test]
    fn strangers_harm_no_good_client_however_often_they_connect(
        (is_v6, networks) in prop_oneof![(Just(false), 1_u16..=5), (Just(true), 1_u16..=300)],
        good in 1_u32..60,
        shares_networks in any::<bool>(),
        steps in proptest::collection::vec((0_u64..200, any::<u16>(), 0_u8..3, 1_u8..7), 1..600),
    ) {
        let mut breaker = breaker();
        let mut now = Instant::now();
        let good: Vec<_> = (0..good)
            .map(|number| stranger(number, if shares_networks { (number % 5) as u16 } else { 1_000 }, is_v6))
            .collect();
        // Each good client is answered once in five seconds.
        let pace = SECOND * 5 / u32::try_from(good.len()).unwrap();
        good.iter().for_each(|by| succeed_by(&mut breaker, by, now));
        let mut next = now;
        let mut turns = good.iter().cycle();
        for (number, (ms, network, answered, failed)) in (1_000..).zip(steps) {
            now += Duration::from_millis(ms);
            while next <= now {
                succeed_by(&mut breaker, turns.next().unwrap(), next);
                next += pace;
            }
            let by = stranger(number, network % networks, is_v6);
            let outcomes = [(Outcome::Answered, answered), (Outcome::Failed, failed)];
            for outcome in outcomes.into_iter().flat_map(|(outcome, times)| (0..times).map(move |_| outcome)) {
                if let Ok(permit) = breaker.admit(Some(&by), now) {
                    breaker.record(permit, Some(&by), outcome, now);
                }
                prop_assert!(!breaker.is_open());
            }
            prop_assert!(good.iter().all(|by| breaker.admit(Some(by), now) == Ok(Permit::Normal)));
        }
    }
}
