//! What a plan costs when another set of points falls due.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fieldgate::modbus::plan::{Item, Part, plan};
use fieldgate::model::device::RequestLimits;
use fieldgate::model::ids::PointIndex;
use fieldgate::model::register::Table;

/// `points` items of `count` addresses, `step` apart.
fn items(table: Table, points: u16, count: u16, step: u16) -> Vec<Item> {
    let item = |n: u16| Item { table, address: n * step, count, point: PointIndex(n), part: Part::Value };
    (0..points).map(item).collect()
}

fn planner(c: &mut Criterion) {
    for (name, items) in [
        ("40 floats of a meter", items(Table::Input, 40, 2, 2)),
        ("1000 registers with gaps", items(Table::Holding, 1000, 1, 3)),
        ("10000 registers", items(Table::Holding, 10_000, 1, 1)),
        ("10000 coils with gaps", items(Table::Coil, 10_000, 1, 6)),
    ] {
        let limits = RequestLimits::default();
        c.bench_function(&format!("plan {name}"), |b| b.iter(|| plan(black_box(&items), &limits, &[])));
    }
}

criterion_group!(benches, planner);
criterion_main!(benches);
