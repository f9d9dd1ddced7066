//! The ring against a list of everything that was sent.

use proptest::prelude::*;

use super::*;

fn event(bounds: &Arc<Bounds>, offset: u64, len: usize) -> Arc<Kept> {
    let arguments = vec![b'1'; len];
    Kept::encode(bounds, Offset(offset), [b"2", b"[", b"\"x\"", b",", &arguments], &[])
}

fn after(ring: &Ring, offset: Option<u64>) -> Option<Vec<u64>> {
    ring.after(offset.map(Offset)).map(|events| events.map(|event| event.offset().0).collect())
}

#[test]
fn an_event_has_its_offset_as_last_argument() {
    let bounds = Bounds::new(1 << 20, 1 << 16);
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
    let bounds = Bounds::new(1 << 20, 1 << 16);
    let mut ring = Ring::new(&bounds, Offset(100));
    assert_eq!(after(&ring, None), Some(vec![]));
    for offset in [101, 105, 109] {
        assert!(ring.accepts(Offset(offset)));
        ring.push(event(&bounds, offset, 1));
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
    let cost = event(&Bounds::new(1, 1), 1, 10).cost();
    let bounds = Bounds::new(1 << 20, 2 * cost);
    let mut ring = Ring::new(&bounds, Offset(0));
    for offset in 1..=4 {
        ring.push(event(&bounds, offset, 10));
    }
    assert_eq!([None, Some(1), Some(9)].map(|offset| after(&ring, offset)), [None, None, None]);
    // The last one that was dropped, which the client has received.
    assert_eq!(after(&ring, Some(2)), Some(vec![3, 4]));
    assert_eq!(after(&ring, Some(3)), Some(vec![4]));
    // One that does not fit alone.
    ring.push(event(&bounds, 5, 2 * cost));
    assert_eq!([None, Some(3), Some(4)].map(|offset| after(&ring, offset)), [None, None, None]);
    assert_eq!(after(&ring, Some(5)), Some(vec![]));
    assert_eq!(bounds.used(), 0);
}

#[test]
fn an_event_of_many_connections_counts_once() {
    let bounds = Bounds::new(1 << 20, 1 << 16);
    let mut rings: Vec<_> = (0..10).map(|_| Ring::new(&bounds, Offset(0))).collect();
    let shared = event(&bounds, 1, 1000);
    let alone = bounds.used();
    for ring in &mut rings {
        ring.push(Arc::clone(&shared));
    }
    drop(shared);
    assert_eq!(bounds.used(), alone + 10 * ENTRY_COST);
    rings.truncate(1);
    assert_eq!(bounds.used(), alone + ENTRY_COST);
    rings.clear();
    assert_eq!(bounds.used(), 0);
}

#[test]
fn above_half_of_the_bound_each_connection_has_a_share() {
    let cost = event(&Bounds::new(1, 1), 1, 100).cost();
    let bounds = Bounds::new(20 * cost, 20 * cost);
    let (mut greedy, mut late) = (Ring::new(&bounds, Offset(0)), Ring::new(&bounds, Offset(0)));
    for offset in 1..=30 {
        greedy.push(event(&bounds, offset, 100));
        assert!(bounds.used() <= 20 * cost);
    }
    assert!((9..=10).contains(&greedy.entries.len()), "{}", greedy.entries.len());
    for offset in 31..=60 {
        late.push(event(&bounds, offset, 100));
        assert!(bounds.used() <= 20 * cost);
    }
    assert_eq!(late.entries.len(), 5);
    greedy.push(event(&bounds, 61, 100));
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
        let bounds = Bounds::new(max, each);
        let mut rings = [Ring::new(&bounds, Offset(0)), Ring::new(&bounds, Offset(0))];
        let mut sent: [Vec<u64>; 2] = Default::default();
        for (offset, step) in (1..).zip(steps) {
            match step {
                Step::Push { ring, len } => {
                    rings[ring].push(event(&bounds, offset, len));
                    sent[ring].push(offset);
                }
                Step::Both { len } => {
                    let shared = event(&bounds, offset, len);
                    for (ring, sent) in rings.iter_mut().zip(&mut sent) {
                        ring.push(Arc::clone(&shared));
                        sent.push(offset);
                    }
                }
                Step::Clear { ring } => rings[ring].clear(),
            }
            prop_assert!(bounds.used() <= max, "{} of {max} bytes", bounds.used());
            for (ring, sent) in rings.iter().zip(&sent) {
                prop_assert!(ring.cost <= each);
                prop_assert!(ring.entries.iter().map(|entry| entry.cost()).sum::<usize>() == ring.cost);
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
