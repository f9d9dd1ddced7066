//! The ring against a list of everything that was sent.

use proptest::prelude::*;

use super::*;

const MAX_AGE: Duration = Duration::from_secs(60);

fn bounds(max: usize, max_each: usize) -> Arc<Bounds> {
    Bounds::new(max, max_each, MAX_AGE)
}

/// Sends an event when the server begins.
fn push(ring: &mut Ring, event: Arc<Kept>) {
    let began = ring.bounds.began;
    ring.push(event, began);
}

fn event(bounds: &Arc<Bounds>, offset: u64, len: usize) -> Arc<Kept> {
    let arguments = vec![b'1'; len];
    Kept::encode(bounds, Offset(offset), [b"2", b"[", b"\"x\"", b",", &arguments], &[])
}

fn after(ring: &Ring, offset: Option<u64>) -> Option<Vec<u64>> {
    ring.after(offset.map(Offset)).map(|events| events.map(|event| event.offset().0).collect())
}

#[test]
fn an_event_has_its_offset_as_last_argument() {
    let bounds = bounds(1 << 20, 1 << 16);
    let attachment = Bytes::from_static(b"abc");
    let event = Kept::encode(&bounds, Offset(7), [b"51-", b"[", b"\"x\"", b"", b""], &[attachment]);
    assert_eq!(&event.bytes()[..], b"\x81\x17451-[\"x\",\"AAAAAAAAAAc\"]\x82\x03abc");
    let other = event.with_offset(Offset(u64::MAX));
    assert_eq!(&other.bytes()[..], b"\x81\x17451-[\"x\",\"__________8\"]\x82\x03abc");
    assert_eq!((event.offset(), other.offset()), (Offset(7), Offset(u64::MAX)));
    assert_eq!(bounds.used(), 2 * (event.bytes().len() + EVENT_COST));
    drop((event, other));
    assert_eq!(bounds.used(), 0);
}

#[test]
fn an_offset_comes_back_from_its_text() {
    for offset in [0, 1, 63, 64, u64::MAX].map(Offset) {
        assert_eq!(Offset::parse(str::from_utf8(&offset.text()).unwrap()), Some(offset));
    }
    for text in [
        "",
        "AAAA",
        "AAAAAAAAAA",
        "AAAAAAAAAAA=",
        "AAAAAAAAAAAA",
        "AAAAAAAAAAAAA",
        "AAAAAAAAAA!",
        "AAAAAAAAAAB",
    ] {
        assert_eq!(Offset::parse(text), None, "{text}");
    }
}

#[test]
fn what_follows_an_offset_is_found() {
    let bounds = bounds(1 << 20, 1 << 16);
    let mut ring = Ring::new(&bounds, Offset(100));
    assert_eq!(after(&ring, None), Some(vec![]));
    for offset in [101, 105, 109] {
        assert!(ring.accepts(Offset(offset)));
        push(&mut ring, event(&bounds, offset, 1));
        assert!(!ring.accepts(Offset(offset)) && !ring.accepts(Offset(100)));
    }
    assert_eq!(after(&ring, None), Some(vec![101, 105, 109]));
    assert_eq!(after(&ring, Some(101)), Some(vec![105, 109]));
    assert_eq!(after(&ring, Some(109)), Some(vec![]));
    // Nothing was dropped, so this is the offset of an earlier connection.
    assert_eq!(after(&ring, Some(40)), Some(vec![101, 105, 109]));
}

#[test]
fn a_client_that_missed_what_was_dropped_finds_nothing() {
    let cost = event(&bounds(1, 1), 1, 10).cost();
    let bounds = bounds(1 << 20, 2 * cost);
    let mut ring = Ring::new(&bounds, Offset(0));
    for offset in 1..=4 {
        push(&mut ring, event(&bounds, offset, 10));
    }
    assert_eq!([None, Some(1), Some(9)].map(|offset| after(&ring, offset)), [None, None, None]);
    // The last one that was dropped, which the client has received.
    assert_eq!(after(&ring, Some(2)), Some(vec![3, 4]));
    assert_eq!(after(&ring, Some(3)), Some(vec![4]));
    // One that does not fit alone.
    push(&mut ring, event(&bounds, 5, 2 * cost));
    assert_eq!([None, Some(3), Some(4)].map(|offset| after(&ring, offset)), [None, None, None]);
    assert_eq!(after(&ring, Some(5)), Some(vec![]));
    assert_eq!(bounds.used(), 0);
}

#[test]
fn an_event_of_many_connections_counts_once() {
    let bounds = bounds(1 << 20, 1 << 16);
    let mut rings: Vec<_> = (0..10).map(|_| Ring::new(&bounds, Offset(0))).collect();
    let shared = event(&bounds, 1, 1000);
    let alone = bounds.used();
    for ring in &mut rings {
        push(ring, Arc::clone(&shared));
    }
    drop(shared);
    assert_eq!(bounds.used(), alone + 10 * ENTRY_COST);
    rings.truncate(1);
    assert_eq!(bounds.used(), alone + ENTRY_COST);
    rings.clear();
    assert_eq!(bounds.used(), 0);
}

#[test]
fn an_event_that_no_client_can_need_any_more_is_dropped_when_the_next_is_sent() {
    let bounds = bounds(1 << 20, 1 << 16);
    let mut ring = Ring::new(&bounds, Offset(0));
    let after_seconds = |seconds| bounds.began + Duration::from_secs(seconds);
    for (offset, seconds) in [(1, 0), (2, 10), (3, 60)] {
        ring.push(event(&bounds, offset, 1000), after_seconds(seconds));
    }
    assert_eq!(after(&ring, None), Some(vec![1, 2, 3]));
    // It was encoded before them.
    let early = event(&bounds, 4, 1000);
    ring.push(Arc::clone(&early), after_seconds(71));
    assert_eq!([None, Some(1)].map(|offset| after(&ring, offset)), [None, None]);
    assert_eq!(after(&ring, Some(2)), Some(vec![3, 4]));
    drop(early);
    let before = bounds.used();
    ring.push(event(&bounds, 5, 10), after_seconds(131));
    assert_eq!(after(&ring, Some(3)), Some(vec![4, 5]));
    assert!(bounds.used() < before, "its memory is released");
    ring.push(event(&bounds, 6, 10), after_seconds(10_000));
    assert_eq!(after(&ring, Some(5)), Some(vec![6]));
    assert_eq!(ring.cost, event(&bounds, 7, 10).cost());
}

#[test]
fn a_list_that_was_long_gives_its_memory_back() {
    let bounds = bounds(1 << 20, 1 << 20);
    let mut ring = Ring::new(&bounds, Offset(0));
    for offset in 1..=1000 {
        push(&mut ring, event(&bounds, offset, 1));
    }
    ring.push(event(&bounds, 1001, 1), bounds.began + 2 * MAX_AGE);
    assert!(ring.entries.capacity() <= 4, "{}", ring.entries.capacity());
}

#[test]
fn above_half_of_the_bound_each_connection_has_a_share() {
    let cost = event(&bounds(1, 1), 1, 100).cost();
    let bounds = bounds(20 * cost, 20 * cost);
    let (mut greedy, mut late) = (Ring::new(&bounds, Offset(0)), Ring::new(&bounds, Offset(0)));
    for offset in 1..=30 {
        push(&mut greedy, event(&bounds, offset, 100));
        assert!(bounds.used() <= 20 * cost);
    }
    assert!((9..=10).contains(&greedy.entries.len()), "{}", greedy.entries.len());
    for offset in 31..=60 {
        push(&mut late, event(&bounds, offset, 100));
        assert!(bounds.used() <= 20 * cost);
    }
    assert_eq!(late.entries.len(), 5);
    push(&mut greedy, event(&bounds, 61, 100));
    assert!(greedy.entries.len() <= 6, "{}", greedy.entries.len());
}

#[derive(Debug, Clone)]
enum Step {
    Push { ring: usize, len: usize },
    Both { len: usize },
    Clear { ring: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let len = || prop_oneof![8 => 0..200usize, 1 => 0..3000usize];
    let step = prop_oneof![
        6 => (0..2usize, len()).prop_map(|(ring, len)| Step::Push { ring, len }),
        4 => len().prop_map(|len| Step::Both { len }),
        1 => (0..2usize).prop_map(|ring| Step::Clear { ring }),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_gets_exactly_what_it_has_missed_or_nothing(steps in steps(), max in 500..8000usize, each in 300..4000usize) {
        let bounds = bounds(max, each);
        let mut rings = [Ring::new(&bounds, Offset(0)), Ring::new(&bounds, Offset(0))];
        let mut sent: [Vec<u64>; 2] = Default::default();
        for (offset, step) in (1..).zip(steps) {
            match step {
                Step::Push { ring, len } => {
                    push(&mut rings[ring], event(&bounds, offset, len));
                    sent[ring].push(offset);
                }
                Step::Both { len } => {
                    let shared = event(&bounds, offset, len);
                    for (ring, sent) in rings.iter_mut().zip(&mut sent) {
                        push(ring, Arc::clone(&shared));
                        sent.push(offset);
                    }
                }
                Step::Clear { ring } => rings[ring].clear(),
            }
            prop_assert!(bounds.used() <= max, "{} of {max} bytes", bounds.used());
            for (ring, sent) in rings.iter().zip(&sent) {
                prop_assert!(ring.cost <= each);
                prop_assert!(ring.entries.iter().map(|entry| entry.event.cost()).sum::<usize>() == ring.cost);
                let kept = ring.entries.len();
                for last in 0..=sent.len() {
                    let offset = last.checked_sub(1).map(|at| sent[at]);
                    let missed = &sent[last..];
                    let found = after(ring, offset);
                    prop_assert_eq!(found, (missed.len() <= kept).then(|| missed.to_vec()));
                }
            }
        }
        drop(rings);
        prop_assert_eq!(bounds.used(), 0);
    }
}
