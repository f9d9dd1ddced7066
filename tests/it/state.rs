//! The files in which plugins keep their state: what they take of the disk, and what becomes of a host whose disk fails.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sockhop_tests::{TestHost, guest};

/// Bytes of the write-ahead log of the plugin `lab`; 0 where there is none.
fn wal_bytes(data: &Path) -> u64 {
    std::fs::metadata(data.join("state/lab.sqlite-wal")).map_or(0, |file| file.len())
}

/// One client that updates one record as fast as it is answered, and others whose handlers wait with an open view of the state.
#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_stays_short_while_one_record_is_written_and_handlers_wait() {
    const WAL_BYTES: u64 = 512 * 1024;
    let host = TestHost::with(&[guest("lab")], |config| {
        config.limits.state_wal_bytes = NonZeroU64::new(WAL_BYTES).expect("not zero");
        // The readers wait with an instance each.
        config.limits.instances = std::num::NonZeroUsize::new(8);
    })
    .await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let client = host.client().await;
        readers.push(tokio::spawn(async move {
            for _ in 0..4 {
                let counted = client.ask("slow_read", json!(400)).await;
                assert!(counted.is_u64(), "{counted}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }
    let client = host.client().await;
    let (mut most, mut number) = (0, 0_u64);
    while readers.iter().any(|reader| !reader.is_finished()) || number < 400 {
        number += 1;
        assert_eq!(client.ask("increment", json!(null)).await, json!(number));
        most = most.max(wal_bytes(host.data()));
    }
    for reader in readers {
        reader.await.expect("a reader that is answered");
    }
    // The bound, and one transaction.
    assert!(most > 0 && most <= WAL_BYTES + WAL_BYTES / 2, "{most} after {number} commits");
    sockhop_tests::eventually("the log of an idle plugin gives its space back", async || (wal_bytes(host.data()) == 0).then_some(())).await;
    assert_eq!(client.ask("counter", json!(null)).await, json!(number));
}
