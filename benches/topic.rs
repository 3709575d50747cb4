//! One key against many patterns, of which three match.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use event_core::{Pattern, TopicMap};

fn patterns(count: usize) -> TopicMap<usize> {
    let mut map = TopicMap::new();
    let texts = [
        "order.*.submit".to_owned(),
        "order.#".to_owned(),
        "#.submit".to_owned(),
    ];
    let others = (0..count - texts.len()).map(|at| format!("tenant{at}.*.submit.v{}", at % 7));
    for (at, text) in texts.into_iter().chain(others).enumerate() {
        if let Ok(pattern) = Pattern::new(&*text) {
            map.insert(&pattern, at);
        }
    }
    map
}

fn topic(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topic");
    for count in [10, 10_000] {
        let map = patterns(count);
        group.bench_function(format!("3 of {count} patterns match"), |bencher| {
            bencher.iter(|| {
                let mut found = 0;
                map.for_each_match(black_box("order.v1.submit"), |_| found += 1);
                assert_eq!(found, 3);
            });
        });
    }
    let pattern = Pattern::new("order.*.submit");
    group.bench_function("one pattern with a wildcard", |bencher| {
        bencher.iter(|| {
            pattern
                .as_ref()
                .is_ok_and(|pattern| pattern.matches(black_box("order.v1.submit")))
        });
    });
}

// The macro writes a public function without documentation.
mod group {
    #![allow(missing_docs)]
    use super::{criterion_group, topic};
    criterion_group!(benches, topic);
}
use group::benches;

criterion_main!(benches);
