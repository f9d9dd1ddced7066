//! A bounded run of the fuzz targets on a stable compiler: mutations of valid input of clients.
#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use proptest::prelude::*;
use proptest::sample::Index;
use sockhop_socketio::fuzzing;

const PACKETS: [&[u8]; 11] = [
    b"0{\"token\":\"x\"}",
    b"0/a?q=1,{\"t\":1}",
    b"1/a,",
    b"2[\"x\"]",
    b"212[\"x\",1,{\"a\":[1,-0.5e3]},null]",
    b"2/a,12[\"x\",\"\\u00e9\\\"\\\\\"]",
    "2/é,[\"é\",\"\u{1f980}\"]".as_bytes(),
    b"312[1,\"2\"]",
    b"51-[\"x\",{\"_placeholder\":true,\"num\":0}]",
    b"52-/a,7[\"x\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]",
    b"61-7[{\"_placeholder\":true,\"num\":0}]",
];

const PLACEHOLDERS: [&[u8]; 6] = [
    b"\x01{\"_placeholder\":true,\"num\":0}",
    b"\x02[{ \"_placeholder\" : true , \"num\" : 1.0 },{\"a\":{\"num\":0,\"_placeholder\":true}}]",
    b"\x03{\"\\u005fplaceholder\":true,\"num\":2,\"num\":\"splice\"}",
    b"\x01[{\"_placeholder\":false,\"num\":9},\"_placeholder\",{\"\\\"\":\"{\"}]",
    b"\x00[[],{},[{}],{\"a\":[]}]",
    b"\x01{\"_placeholder\":true,\"num\":{\"_placeholder\":true,\"num\":0}}",
];

/// The first byte says in which pieces the frames arrive; the mask of each is zero or `1234`.
const FRAMES: [&[u8]; 6] = [
    b"\x00\x81\x83\0\0\0\x0042x\x89\x80\0\0\0\0",
    b"\x05\x01\x82\0\0\0\x0042\x00\x81\0\0\0\0x\x80\x80\0\0\0\0",
    b"\xff\x02\x81\x31\x32\x33\x34a\x8a\x81\0\0\0\0z\x80\x81\0\0\0\0b",
    b"\x02\x88\x82\0\0\0\0\x03\xe8",
    b"\x01\x82\xfe\x00\x80\0\0\0\0",
    b"\x07\x81\xff\0\0\0\0\0\x01\0\0\0\0\0\0",
];

const BODIES: [&[u8]; 5] = [
    b"42[\"x\"]",
    b"40\x1e42[\"x\"]\x1e3",
    b"451-[]\x1ebAQIDBA==\x1e4",
    b"6\x1e1",
    "4é\u{1e}bAA==".as_bytes(),
];

const REQUESTS: [&[u8]; 9] = [
    b"GET /socket.io/?EIO=4&transport=polling\n\n",
    b"GET /socket.io/?EIO=4&transport=polling&sid=SID\n\n",
    b"GET /socket.io/?EIO=3&transport=polling&sid=SID&t=abc&b64=1 HTTP/1.0\n\n",
    b"POST /socket.io/?EIO=4&transport=polling&sid=SID\ncontent-length: 9\n\n40\x1e42[\"x\"]",
    b"POST /socket.io/?EIO=4&transport=polling&sid=SID\ncontent-length: 99999999999\n\n1",
    b"GET /socket.io/?EIO=4&transport=websocket\nconnection: keep-alive, Upgrade\nupgrade: \
      websocket\n\
      sec-websocket-version: 13\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
    b"GET /socket.io/?EIO=4&transport=websocket&sid=SID\nconnection: Upgrade\nupgrade: websocket\n\
      sec-websocket-version: 13\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\n\
      sec-websocket-protocol: a, b\n\n",
    b"OPTIONS /socket.io/?EIO=4&transport=polling\norigin: null\n\n",
    b"GET /socket.io/?transport=websocket&EIO=4&sid=%00%zz\nupgrade: WebSocket\n\n",
];

#[derive(Debug, Clone)]
enum Mutation {
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index, Index),
    Repeat(Index, Index, u8),
    Splice(Index, Index, Index),
}

impl Mutation {
    fn apply(&self, data: &mut Vec<u8>, seeds: &[&[u8]]) {
        let range = |from: &Index, to: &Index, length: usize| {
            let (from, to) = (from.index(length + 1), to.index(length + 1));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Flip(at, with) => {
                if !data.is_empty() {
                    let at = at.index(data.len());
                    data[at] ^= with;
                }
            }
            Self::Insert(at, byte) => data.insert(at.index(data.len() + 1), *byte),
            Self::Remove(from, to) => drop(data.drain(range(from, to, data.len()))),
            Self::Repeat(from, to, times) => {
                let range = range(from, to, data.len());
                let piece = data[range.clone()].repeat(usize::from(*times & 7));
                data.splice(range, piece);
            }
            Self::Splice(at, seed, from) => {
                let seed = seed.get(seeds);
                let at = at.index(data.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&seed[from.index(seed.len())..]);
            }
        }
    }
}

/// Bytes that mean something to a parser are more frequent than others.
fn byte() -> impl Strategy<Value = u8> {
    let bytes = b"0123456789-/,?[]{}\"\\:b\x1e\x80\x81\x82\x88\xff\x7e\x7f";
    prop_oneof![4 => prop::sample::select(&bytes[..]), 1 => any::<u8>()]
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let place = any::<Index>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, with)| Mutation::Flip(at, with)),
        (place(), byte()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        (place(), place()).prop_map(|(from, to)| Mutation::Remove(from, to)),
        (place(), place(), any::<u8>())
            .prop_map(|(from, to, times)| Mutation::Repeat(from, to, times)),
        (place(), place(), place()).prop_map(|(at, seed, from)| Mutation::Splice(at, seed, from)),
    ]
}

/// Mutations of one of the seeds.
fn mutated<const N: usize>(seeds: [&'static [u8]; N]) -> impl Strategy<Value = Vec<u8>> {
    (any::<Index>(), prop::collection::vec(mutation(), 0..6)).prop_map(move |(seed, mutations)| {
        let mut data = seed.get(&seeds).to_vec();
        for mutation in mutations {
            mutation.apply(&mut data, &seeds);
        }
        data
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets(data in mutated(PACKETS)) {
        fuzzing::packet(&data);
    }

    #[test]
    fn frames(data in mutated(FRAMES)) {
        fuzzing::frames(&data);
    }

    #[test]
    fn polling_bodies(data in mutated(BODIES)) {
        fuzzing::polling_body(&data);
    }

    #[test]
    fn requests(data in mutated(REQUESTS)) {
        fuzzing::request(&data);
    }

    #[test]
    fn placeholders(data in mutated(PLACEHOLDERS)) {
        fuzzing::placeholders(&data);
    }
}
