//! What one reading costs between the words and the value.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fieldgate::modbus::codec::{bare, decode};
use fieldgate::modbus::{kind, order};
use fieldgate::model::register::{Encoding, RegisterPoint, Table, Transform};

fn point(type_name: &str, order_name: &str) -> RegisterPoint {
    let details = kind::Details { registers: Some(8), ..kind::Details::default() };
    let kind = kind::kind(type_name, &details).expect("a known type");
    let order = order::parse(order_name, order::byte_len(&kind)).expect("a known order");
    bare(Table::Holding, Encoding { kind, order })
}

fn codec(c: &mut Criterion) {
    let words = [0x4367, 0x6666, 0x3132, 0x3334, 0x3536, 0x3738, 0x4142, 0x4344];
    let scaled = |scale, decimals| {
        let mut p = point("uint16", "AB");
        p.transform = Transform { scale: Some(scale), decimals, ..Transform::default() };
        p
    };
    for (name, point) in [
        ("uint16", point("uint16", "AB")),
        ("int16 BA", point("int16", "BA")),
        ("float32", point("float32", "ABCD")),
        ("float32 CDAB", point("float32", "CDAB")),
        ("uint64 GHEFCDAB", point("uint64", "GHEFCDAB")),
        ("uint16 x 0.1", scaled(0.1, None)),
        ("uint16 x 0.001, 2 decimals", scaled(0.001, Some(2))),
        ("string of 16", point("string", "AB")),
    ] {
        c.bench_function(&format!("decode {name}"), |b| {
            b.iter(|| decode(black_box(&point), black_box(&words), None));
        });
    }
}

criterion_group!(benches, codec);
criterion_main!(benches);
