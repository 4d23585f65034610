use proptest::prelude::*;

use super::*;

fn limits(max_registers: u16, max_gap_registers: u16) -> RequestLimits {
    RequestLimits { max_registers, max_gap_registers, ..RequestLimits::default() }
}

fn range(table: Table, first: u16, last: u16) -> AddressRange {
    AddressRange { table, first, last }
}

fn holding(spans: &[(u16, u16)]) -> Vec<Item> {
    let item = |(at, (address, count)): (u16, &(u16, u16))| Item {
        table: Table::Holding,
        address: *address,
        count: *count,
        point: PointIndex(at),
        part: Part::Value,
    };
    (0..).zip(spans).map(item).collect()
}

/// The plan as a technician would note it: `address+count[points]`, and what is left over.
fn shown(plan: &Plan) -> String {
    let points = |items: &[Item]| items.iter().map(|i| i.point.0.to_string()).collect::<Vec<_>>().join(",");
    let mut parts: Vec<String> =
        plan.requests.iter().map(|r| format!("{}+{}[{}]", r.address, r.count, points(&r.items))).collect();
    if !plan.unreachable.is_empty() {
        parts.push(format!("!{}", points(&plan.unreachable)));
    }
    parts.join(" ")
}

fn check(spans: &[(u16, u16)], limits: &RequestLimits, holes: &[AddressRange], expected: &str) {
    assert_eq!(shown(&plan(&holding(spans), limits, holes)), expected, "{spans:?} {limits:?} {holes:?}");
}

#[test]
fn neighbours_and_gaps() {
    check(&[], &limits(125, 16), &[], "");
    check(&[(0, 2), (2, 2), (4, 1)], &limits(125, 0), &[], "0+5[0,1,2]");
    check(&[(4, 1), (0, 2), (2, 2)], &limits(125, 0), &[], "0+5[1,2,0]");
    check(&[(0, 1), (17, 1)], &limits(125, 16), &[], "0+18[0,1]");
    check(&[(0, 1), (18, 1)], &limits(125, 16), &[], "0+1[0] 18+1[1]");
    check(&[(0, 1), (2, 1)], &limits(125, 0), &[], "0+1[0] 2+1[1]");
    check(&[(65534, 2), (0, 1)], &limits(125, 16), &[], "0+1[1] 65534+2[0]");
}

#[test]
fn what_lies_inside_another_is_read_once() {
    // Three bits of one register, a register inside a long value, the same value twice.
    check(&[(7, 1), (7, 1), (7, 1)], &limits(125, 0), &[], "7+1[0,1,2]");
    check(&[(0, 4), (1, 1), (2, 2), (0, 4)], &limits(4, 0), &[], "0+4[0,3,1,2]");
    // Overlapping values that do not fit together.
    check(&[(0, 3), (2, 3)], &limits(4, 0), &[], "0+3[0] 2+3[1]");
    check(&[(0, 3), (2, 3), (3, 2)], &limits(4, 0), &[], "0+3[0] 2+3[1,2]");
}

#[test]
fn a_value_is_never_split() {
    check(&[(0, 2), (2, 2), (4, 2)], &limits(5, 0), &[], "0+4[0,1] 4+2[2]");
    check(&[(0, 124), (124, 2)], &limits(125, 0), &[], "0+124[0] 124+2[1]");
    check(&[(0, 126)], &limits(2000, 0), &[], "!0");
    check(&[(0, 3), (8, 1)], &limits(2, 16), &[], "8+1[1] !0");
    check(&[(65535, 2)], &limits(125, 16), &[], "!0");
    check(&[(5, 0)], &limits(125, 16), &[], "!0");
}

#[test]
fn fewest_requests_then_fewest_addresses_then_early_and_full() {
    // Two requests either way; cutting at the wide gap reads three addresses less.
    check(&[(0, 1), (2, 1), (6, 1), (7, 1)], &limits(7, 16), &[], "0+3[0,1] 6+2[2,3]");
    // Filling the first request to its brim would need a third one.
    check(&[(0, 1), (9, 1), (10, 5), (15, 5)], &limits(10, 16), &[], "0+10[0,1] 10+10[2,3]");
    // All neighbours: nothing to save, so the first requests are full.
    let row: Vec<(u16, u16)> = (0..10).map(|a| (a, 1)).collect();
    check(&row, &limits(4, 0), &[], "0+4[0,1,2,3] 4+4[4,5,6,7] 8+2[8,9]");
    // The same gap on both sides of the middle one.
    check(&[(0, 1), (2, 1), (4, 1)], &limits(3, 1), &[], "0+3[0,1] 4+1[2]");
}

#[test]
fn forbidden_ranges_and_holes_cut() {
    let mut rules = limits(125, 16);
    rules.forbidden = vec![range(Table::Holding, 2, 3), range(Table::Input, 0, 100)];
    check(&[(0, 2), (4, 2)], &rules, &[], "0+2[0] 4+2[1]");
    check(&[(0, 2), (4, 2)], &rules, &[range(Table::Holding, 5, 5)], "0+2[0] !1");
    check(&[(0, 3), (4, 2)], &rules, &[], "4+2[1] !0");
    // A long value over a hole is lost, a shorter one inside it is not.
    check(&[(10, 4), (10, 1)], &rules, &[range(Table::Holding, 12, 12)], "10+1[1] !0");
    // Overlapping ranges in any order, and the last address of all.
    let holes =
        [range(Table::Holding, 65535, 65535), range(Table::Holding, 20, 30), range(Table::Holding, 25, 26)];
    check(
        &[(18, 2), (28, 1), (31, 1), (65534, 1), (65535, 1)],
        &limits(125, 16),
        &holes,
        "18+2[0] 31+1[2] 65534+1[3] !1,4",
    );
}

#[test]
fn one_request_per_point() {
    let mut rules = limits(125, 16);
    rules.one_request_per_point = true;
    check(&[(0, 2), (2, 2), (0, 1), (2, 2)], &rules, &[], "0+1[2] 0+2[0] 2+2[1,3]");
}

#[test]
fn tables_keep_apart_and_bits_have_their_own_limits() {
    let at = |table, address, point| Item {
        table,
        address,
        count: 1,
        point: PointIndex(point),
        part: Part::Value,
    };
    let items = [
        at(Table::Input, 0, 0),
        at(Table::Holding, 1, 1),
        at(Table::Coil, 0, 2),
        at(Table::Coil, 200, 3),
        at(Table::Discrete, 1, 4),
        at(Table::Input, 18, 5),
        at(Table::Coil, 1999, 6),
        at(Table::Coil, 2001, 7),
    ];
    let rules = RequestLimits { max_gap_bits: 1800, ..limits(125, 16) };
    let seen: Vec<String> = plan(&items, &rules, &[])
        .requests
        .iter()
        .map(|r| format!("{} {}+{}", r.table.as_str(), r.address, r.count))
        .collect();
    let expected = ["coil 0+201", "coil 1999+3", "discrete 1+1", "holding 1+1", "input 0+1", "input 18+1"];
    assert_eq!(seen, expected);
}

#[test]
fn a_scale_factor_is_read_with_its_point() {
    let register = RegisterPoint {
        scale_factor: Some(40083),
        address: 40079,
        ..crate::modbus::codec::bare(
            Table::Holding,
            crate::model::register::Encoding {
                kind: crate::model::register::Kind::Uint16,
                order: crate::model::register::Order::big(2),
            },
        )
    };
    let items: Vec<Item> = items(PointIndex(0), &register).collect();
    let plan = plan(&items, &RequestLimits::default(), &[]);
    assert_eq!(shown(&plan), "40079+5[0,0]");
    assert_eq!(plan.requests[0].items[1].part, Part::ScaleFactor);
}

#[test]
fn ten_thousand_coils() {
    let items: Vec<Item> = (0..10_000u16)
        .map(|n| Item {
            table: Table::Coil,
            address: n * 6,
            count: 1,
            point: PointIndex(n),
            part: Part::Value,
        })
        .collect();
    let plan = plan(&items, &RequestLimits::default(), &[]);
    assert_eq!(plan.requests.len(), 30);
    assert_eq!(plan.requests.iter().map(|r| r.items.len()).sum::<usize>(), 10_000);
}

/// What the rule compares: requests, addresses, and how full they are from the first on
/// (negated: fuller is better).
fn rank(requests: &[(u32, u32)]) -> (usize, u32, Vec<i64>) {
    let mut sorted = requests.to_vec();
    sorted.sort_unstable();
    let addresses = sorted.iter().map(|(start, end)| end - start).sum();
    (sorted.len(), addresses, sorted.iter().map(|(start, end)| -i64::from(end - start)).collect())
}

/// Tries every way to put the items into groups.
fn brute_force(spans: &[(u32, u32)], rules: &Rules) -> (usize, u32, Vec<i64>) {
    fn allowed(group: &[(u32, u32)], rules: &Rules) -> Option<(u32, u32)> {
        let start = group.iter().map(|s| s.0).min()?;
        let end = group.iter().map(|s| s.1).max()?;
        let mut gap = 0;
        for address in start..end {
            let needed = group.iter().any(|s| (s.0..s.1).contains(&address));
            gap = if needed { 0 } else { gap + 1 };
            let bad = rules.forbidden.iter().any(|s| (s.0..s.1).contains(&address));
            if gap > rules.max_gap || bad {
                return None;
            }
        }
        (end - start <= rules.max).then_some((start, end))
    }
    fn go(
        spans: &[(u32, u32)],
        groups: &mut Vec<Vec<(u32, u32)>>,
        rules: &Rules,
        best: &mut Option<(usize, u32, Vec<i64>)>,
    ) {
        let Some((first, others)) = spans.split_first() else {
            let requests: Option<Vec<(u32, u32)>> = groups.iter().map(|g| allowed(g, rules)).collect();
            if let Some(requests) = requests {
                let rank = rank(&requests);
                if best.as_ref().is_none_or(|b| rank < *b) {
                    *best = Some(rank);
                }
            }
            return;
        };
        for at in 0..=groups.len() {
            if at == groups.len() {
                groups.push(vec![*first]);
            } else {
                groups[at].push(*first);
            }
            go(others, groups, rules, best);
            groups[at].pop();
            if groups[at].is_empty() {
                groups.pop();
            }
        }
    }
    let mut best = None;
    go(spans, &mut Vec::new(), rules, &mut best);
    best.unwrap()
}

fn some_limits(max: u16) -> impl Strategy<Value = (RequestLimits, Vec<AddressRange>)> {
    let ranges = prop::collection::vec((0u16..60, 0u16..4), 0..3).prop_map(|ranges| {
        ranges.into_iter().map(|(first, more)| range(Table::Holding, first, first + more)).collect::<Vec<_>>()
    });
    (2..max, 0u16..6, ranges.clone(), ranges)
        .prop_map(|(max, gap, forbidden, holes)| (RequestLimits { forbidden, ..limits(max, gap) }, holes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_other_plan_is_better(
        spans in prop::collection::vec((0u16..40, 1u16..6), 1..7),
        (limits, holes) in some_limits(14),
    ) {
        let items = holding(&spans);
        let rules = Rules::new(Table::Holding, &limits, &holes);
        let served: Vec<(u32, u32)> = items.iter().filter(|i| rules.allow(i)).map(span).collect();
        let plan = plan(&items, &limits, &holes);
        let requests: Vec<(u32, u32)> = plan
            .requests
            .iter()
            .map(|r| (u32::from(r.address), u32::from(r.address) + u32::from(r.count)))
            .collect();
        prop_assert_eq!(rank(&requests), brute_force(&served, &rules), "{:?}", plan);
    }

    #[test]
    fn every_plan_keeps_the_rules(
        spans in prop::collection::vec((0u16..400, 1u16..9), 0..120),
        (mut limits, holes) in some_limits(40),
        one: bool,
        order in any::<prop::sample::Index>(),
    ) {
        limits.one_request_per_point = one;
        let items = holding(&spans);
        let plan = plan(&items, &limits, &holes);
        let bad = |address: u16| {
            limits.forbidden.iter().chain(&holes).any(|r| (r.first..=r.last).contains(&address))
        };
        for request in &plan.requests {
            let addresses = request.address..request.address + request.count;
            prop_assert!(request.count <= limits.max_registers);
            prop_assert!(!addresses.clone().any(bad));
            let mut gap = 0;
            for address in addresses {
                let needed = request.items.iter().any(|i| (i.address..i.address + i.count).contains(&address));
                // An address may be needed by an item that another request serves as well.
                let wanted = needed || items.iter().any(|i| (i.address..i.address + i.count).contains(&address));
                gap = if wanted { 0 } else { gap + 1 };
                prop_assert!(gap <= limits.max_gap_registers);
            }
            for item in &request.items {
                prop_assert!(item.address >= request.address);
                prop_assert!(item.address + item.count <= request.address + request.count);
            }
            prop_assert!(request.items.is_sorted());
        }
        for item in &plan.unreachable {
            let long = item.count > limits.max_registers;
            prop_assert!(long || (item.address..item.address + item.count).any(bad));
        }
        let mut covered: Vec<Item> =
            plan.requests.iter().flat_map(|r| r.items.clone()).chain(plan.unreachable.clone()).collect();
        covered.sort_unstable();
        let mut wanted = items.clone();
        wanted.sort_unstable();
        prop_assert_eq!(covered, wanted);

        let mut turned = items.clone();
        if !turned.is_empty() {
            turned.rotate_left(order.index(items.len()));
            turned.reverse();
        }
        prop_assert_eq!(super::plan(&turned, &limits, &holes), plan);
    }
}
