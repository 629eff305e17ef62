//! Rows, their order, and screens of any size.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::screen::Screen;
use super::*;
use crate::telemetry::services::{LatencyOf, LatencyView, RatesView, ServiceView, TrafficView};

fn traffic(rate: f64, success: f64, p99: f64, denied: f64) -> TrafficView {
    TrafficView {
        connections_open: 3,
        connections_opened_total: 100,
        rates: RatesView {
            connections_per_second: Some(rate),
            sent_bytes_per_second: Some(2048.0),
            received_bytes_per_second: Some(rate),
            errors_per_second: Some(0.0),
            denied_per_second: Some(denied),
            success_ratio: Some(success),
            ..RatesView::default()
        },
        latency: LatencyView {
            of: LatencyOf::Connect,
            p50_seconds: Some(p99 / 4.0),
            p95_seconds: Some(p99 / 2.0),
            p99_seconds: Some(p99),
        },
        ..TrafficView::default()
    }
}

fn services() -> Services {
    let service = |name: &str, inbound, outbound| ServiceView {
        service: name.into(),
        inbound,
        outbound,
        ..ServiceView::default()
    };
    let none = TrafficView::default;
    Services {
        schema_version: SCHEMA_VERSION,
        window_seconds: 10.0,
        services: vec![
            service("edge/gateway", none(), traffic(50.0, 1.0, 0.002, 0.0)),
            service("shop/idle", none(), none()),
            service("shop/payments", traffic(20_500.0, 0.985, 1.5, 0.0), none()),
            service("shop/stock", traffic(20.0, 1.0, 0.000_2, 4.9), none()),
        ],
        ..Services::default()
    }
}

#[test]
fn the_text_is_a_table() {
    let expected = "\
SERVICE        DIR  RATE/S  SUCCESS  P50      P95      P99    OPEN  SENT/S  RECV/S   DENIED/S
shop/payments  in   20.5k   98.50%   375.0ms  750.0ms  1.50s  3     2.0KiB  20.0KiB  0.0
edge/gateway   out  50.0    100.00%  500us    1.0ms    2.0ms  3     2.0KiB  50B      0.0
shop/stock     in   20.0    100.00%  50us     100us    200us  3     2.0KiB  20B      4.9
shop/idle      in   -       -        -        -        -      0     -       -        -
";
    assert_eq!(text(&services(), Sort::Rate), expected);
}

#[test]
fn every_order_has_its_first() {
    for (sort, first) in [
        (Sort::Name, "edge/gateway"),
        (Sort::Rate, "shop/payments"),
        (Sort::Errors, "shop/payments"),
        (Sort::Latency, "shop/payments"),
        (Sort::Open, "edge/gateway"),
        (Sort::Bytes, "shop/payments"),
        (Sort::Denied, "shop/stock"),
    ] {
        assert_eq!(rows(&services(), sort)[0].cells[0], first, "{sort:?}");
        assert_eq!(Sort::of_key(sort.key()), Some(sort));
        assert!(HEAD.iter().any(|(_, key)| *key == Some(sort.key())));
    }
    assert_eq!(Sort::of_key('x'), None);
}

fn drawn(screen: &mut Screen, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| screen.draw(frame)).expect("drawn");
    let buffer = terminal.backend().buffer();
    let cells = buffer.content().chunks(usize::from(width.max(1)));
    let lines = cells.map(|line| line.iter().map(|cell| cell.symbol()).collect::<String>());
    lines
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

#[test]
fn a_screen_has_any_size() {
    let mut screen = Screen::new(Sort::Denied);
    assert!(drawn(&mut screen, 80, 24).starts_with("mesh-agent top - 0 services, measuring\n"));
    screen.take(Ok(services()));
    for (width, height) in [(1, 1), (3, 2), (40, 5), (80, 24), (132, 43), (500, 200)] {
        drawn(&mut screen, width, height);
    }
    let full = drawn(&mut screen, 120, 24);
    let lines: Vec<_> = full.lines().collect();
    assert_eq!(lines[0], "mesh-agent top - 4 services, over the last 10 s");
    assert!(lines[1].contains("DENIED/S*"), "{full}");
    assert!(lines[2].starts_with("shop/stock "), "{full}");
    assert!(lines[23].starts_with("q quit"), "{full}");
}

#[test]
fn an_agent_that_does_not_answer_is_said_so_and_what_was_known_stays() {
    let mut screen = Screen::new(Sort::Name);
    screen.take(Ok(services()));
    screen.take(Err("no agent answers".into()));
    let full = drawn(&mut screen, 120, 24);
    assert!(
        full.starts_with("no answer for 0 s: no agent answers\n"),
        "{full}"
    );
    assert!(full.contains("shop/payments"), "{full}");
    screen.take(Ok(services()));
    assert!(drawn(&mut screen, 120, 24).starts_with("mesh-agent top"));
}
