//! What the disk costs: appending in batches, and draining by peek and ack.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fieldgate::model::ids::PointIndex;
use fieldgate::model::reading::{Measured, Reading};
use fieldgate::model::row::{Kind, LayoutId, NewRow, OutboxId, Route};
use fieldgate::model::time::Timestamp;
use fieldgate::model::value::Value;
use fieldgate::packed::Writer;
use fieldgate::store::Store;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const READINGS: u32 = 50;

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("outbox.db"), 4 << 30, None, NOW).expect("a new store opens")
}

fn rows(store: &Store, n: u64) -> Vec<NewRow> {
    let layout = store.layout(&"meter".into(), &[]).expect("a layout is made");
    (0..n).map(|seq| row(layout, seq)).collect()
}

fn row(layout: LayoutId, seq: u64) -> NewRow {
    let readings: Vec<Reading> = (0..READINGS)
        .map(|p| Reading {
            point: PointIndex(p as u16),
            measured: Measured::Good(Value::Uint(10_000 + u64::from(p))),
        })
        .collect();
    let mut writer = Writer::default();
    writer.push(NOW, readings.iter());
    NewRow {
        route: Route::GATEWAY,
        kind: Kind::Telemetry,
        layout,
        seq,
        readings: READINGS,
        first: NOW,
        last: NOW,
        payload: writer.into_bytes(),
    }
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append, flushed to the disk");
    for batch in [1, 16, 256] {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        let rows = rows(&store, batch);
        group.throughput(Throughput::Elements(batch * u64::from(READINGS)));
        group.bench_function(BenchmarkId::from_parameter(batch), |b| {
            b.iter(|| {
                // What was appended last is acknowledged, so that the file stays as it is.
                let last = store.commit(black_box(&rows)).expect("it commits");
                (last.0 + 1 - batch as i64..=last.0).for_each(|id| store.ack(OutboxId(id)));
            });
        });
    }
}

fn drain(c: &mut Criterion) {
    let mut group = c.benchmark_group("drain");
    let n = 10_000;
    group.throughput(Throughput::Elements(n * u64::from(READINGS))).sample_size(10);
    group.bench_function("peek, ack, delete", |b| {
        b.iter_batched(
            || {
                let folder = tempfile::tempdir().expect("a folder");
                let store = open(&folder);
                store.commit(&rows(&store, n)).expect("it commits");
                (folder, store)
            },
            |(folder, store)| {
                let (mut after, end) = (OutboxId(0), OutboxId(n as i64));
                while after < end {
                    for row in store.peek(Route::GATEWAY, after, end, 128, 1 << 20).expect("it reads") {
                        after = row.id;
                        store.ack(row.id);
                    }
                    if store.acked_rows() >= 4096 {
                        store.flush_acks().expect("it deletes");
                    }
                }
                store.flush_acks().expect("it deletes");
                (folder, store)
            },
            BatchSize::PerIteration,
        );
    });
}

criterion_group!(benches, append, drain);
criterion_main!(benches);
