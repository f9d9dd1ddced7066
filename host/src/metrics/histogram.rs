//! A histogram of times. Counting one takes no lock, so that events on different processors do not
//! wait for each other.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::{EncodeMetric, MetricEncoder, MetricType, NoLabelSet, TypedMetric};

/// The upper bound of the first bucket. Each of the others has twice the bound of the one before.
const FIRST: Duration = Duration::from_micros(100);

/// Number of buckets with a bound: the last one has 6.5 s, and a handler's time limit is 5 s.
const BOUNDED: usize = 17;

/// Times in buckets from 100 µs, doubling, to 6.5 s. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct TimeHistogram(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    /// The times above the bound of the bucket before. The last bucket has no bound.
    buckets: [AtomicU64; BOUNDED + 1],
    /// In nanoseconds: enough for 584 years.
    sum: AtomicU64,
}

/// The upper bounds of all buckets but the last.
fn bounds() -> impl Iterator<Item = Duration> {
    std::iter::successors(Some(FIRST), |bound| Some(*bound * 2)).take(BOUNDED)
}

impl TimeHistogram {
    /// Counts a time.
    pub(super) fn observe(&self, time: Duration) {
        let bucket = bounds().position(|bound| time <= bound).unwrap_or(BOUNDED);
        if let Some(bucket) = self.0.buckets.get(bucket) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.sum.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl TypedMetric for TimeHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for TimeHistogram {
    /// The count is that of the shown buckets. The sum may have a time that the buckets do not have
    /// yet, or lack one.
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let sum = Duration::from_nanos(self.0.sum.load(Ordering::Relaxed)).as_secs_f64();
        let bounds = bounds().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Registry, encode};
    use super::*;

    #[test]
    fn each_time_counts_in_its_bucket_and_in_all_above() {
        let (mut registry, times) = (Registry::default(), TimeHistogram::default());
        registry.register("times", "Times", times.clone());
        for millis in [0, 1, 5_000, 60_000] {
            times.observe(Duration::from_millis(millis));
        }
        times.observe(FIRST);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "times_sum 65.0011",
            "times_count 5",
            r#"times_bucket{le="0.0001"} 2"#,
            r#"times_bucket{le="0.0008"} 2"#,
            r#"times_bucket{le="0.0016"} 3"#,
            r#"times_bucket{le="6.5536"} 4"#,
            r#"times_bucket{le="+Inf"} 5"#,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}:\n{text}");
        }
        assert_eq!(text.matches("times_bucket").count(), BOUNDED + 1);
    }
}
