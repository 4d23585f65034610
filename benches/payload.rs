//! What one row costs on its way from the observation to the wire.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fieldgate::model::ids::{DeviceName, GatewayName, PointIndex, PointName};
use fieldgate::model::reading::{Measured, Reading};
use fieldgate::model::time::Timestamp;
use fieldgate::model::value::Value;
use fieldgate::packed::{Reader, Writer};
use fieldgate::wire::payload::{Head, Telemetry};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// Half of them counters, half of them decimals.
fn readings(n: u16) -> Vec<Reading> {
    let value =
        |p| if p % 2 == 0 { Value::Uint(10_000 + u64::from(p)) } else { Value::Float(f64::from(p) * 0.1) };
    (0..n).map(|p| Reading { point: PointIndex(p), measured: Measured::Good(value(p)) }).collect()
}

fn pack(readings: &[Reading]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.push(NOW, readings.iter());
    writer.into_bytes()
}

fn packed(c: &mut Criterion) {
    let mut group = c.benchmark_group("packed");
    for n in [50, 125] {
        let readings = readings(n);
        let bytes = pack(&readings);
        group.throughput(Throughput::Elements(n.into()));
        group.bench_function(BenchmarkId::new("write", n), |b| b.iter(|| pack(black_box(&readings))));
        group.bench_function(BenchmarkId::new("read", n), |b| {
            b.iter(|| {
                let mut reader = Reader::new(black_box(&bytes), NOW);
                while let Ok(Some((_, n))) = reader.group() {
                    let mut next = 0;
                    for _ in 0..n {
                        let _ = black_box(reader.reading(&mut next));
                    }
                }
            });
        });
    }
}

fn render(c: &mut Criterion) {
    let (gateway, device) = (GatewayName::new("gw-1"), DeviceName::new("meter-1"));
    let mut group = c.benchmark_group("render");
    for n in [50u16, 125] {
        let bytes = pack(&readings(n));
        let points: Vec<(PointName, Option<String>)> =
            (0..n).map(|p| (PointName::new(&format!("voltage_{p}")), Some("V".to_owned()))).collect();
        group.throughput(Throughput::Elements(n.into()));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| {
                let head =
                    Head { gateway: &gateway, device: &device, boot: "0badcafe-7", seq: (1, n.into()) };
                let mut telemetry = Telemetry::new(head, &points, 160 + bytes.len() * 5);
                let mut reader = Reader::new(black_box(&bytes), NOW);
                while let Ok(Some((at, n))) = reader.group() {
                    let mut next = 0;
                    telemetry.group(at, (0..n).map_while(|_| reader.reading(&mut next).ok()));
                }
                telemetry.finish()
            });
        });
    }
}

criterion_group!(benches, packed, render);
criterion_main!(benches);
