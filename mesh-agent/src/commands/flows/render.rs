//! Flows as rows, and what is not shown as sentences.

use crate::commands::output::{Style, Tone, clean};
use crate::telemetry::flows::{FlowView, FlowsDocument};
use crate::telemetry::time::utc;

const COLUMNS: usize = 11;
const HEAD: [&str; COLUMNS] = [
    "TIME", "VERDICT", "EVENT", "FROM", "TO", "SENT", "RECEIVED", "DURATION", "RTT", "END", "RULE",
];

/// Rows that come one after the other: columns only grow, and nothing is cut.
pub(super) struct Table {
    style: Style,
    widths: [usize; COLUMNS],
    headed: bool,
}

impl Table {
    pub(super) fn new(style: Style) -> Self {
        let mut widths = HEAD.map(str::len);
        // What most rows need, so that the columns of the first ones stand where later ones do.
        for (width, usual) in widths
            .iter_mut()
            .zip([12, 10, 10, 16, 34, 9, 9, 8, 8, 10, 0])
        {
            *width = usual.max(*width);
        }
        Self {
            style,
            widths,
            headed: false,
        }
    }

    /// The head, the first time.
    pub(super) fn head(&mut self) -> String {
        if std::mem::replace(&mut self.headed, true) {
            return String::new();
        }
        self.line(HEAD.map(String::from), None) + "\n"
    }

    pub(super) fn row(&mut self, flow: &FlowView) -> String {
        let cells = [
            time_of_day(flow.time_unix_seconds),
            clean(&flow.verdict),
            clean(&flow.event),
            clean(&flow.source_service),
            called(flow),
            bytes(flow, flow.sent_bytes),
            bytes(flow, flow.received_bytes),
            flow.duration_seconds.map_or("-".into(), seconds),
            flow.rtt_seconds.map_or("-".into(), seconds),
            end(flow),
            cause(flow),
        ];
        self.line(cells, tone(flow))
    }

    fn line(&mut self, cells: [String; COLUMNS], tone: Option<Tone>) -> String {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            let width = cell.chars().count();
            self.widths[index] = self.widths[index].max(width);
            match tone.filter(|_| index == 1) {
                Some(tone) => line.push_str(&self.style.paint(tone, cell)),
                None => line.push_str(cell),
            }
            if index + 1 < COLUMNS {
                line.push_str(&" ".repeat(self.widths[index] - width + 2));
            }
        }
        line.trim_end().to_owned()
    }
}

fn tone(flow: &FlowView) -> Option<Tone> {
    match (&*flow.verdict, &*flow.response_flags) {
        ("denied", _) => Some(Tone::Bad),
        ("would-deny", _) => Some(Tone::Warning),
        (_, "-") => Some(Tone::Good),
        _ => Some(Tone::Warning),
    }
}

/// Whom, which version of it, by what address, and where that is.
fn called(flow: &FlowView) -> String {
    let mut text = clean(&flow.destination_service);
    if &*flow.destination_version != "-" {
        text += &format!(":{}", clean(&flow.destination_version));
    }
    text += &format!(" {}/{}", clean(&flow.dialled), clean(&flow.protocol));
    if let Some(node) = &flow.node {
        text += &format!(" on {}", clean(node));
    }
    if flow.connection_security_policy == "mutual_tls" {
        text += " mTLS";
    }
    text
}

fn end(flow: &FlowView) -> String {
    match (&flow.end, &flow.ended_by) {
        (Some(end), Some(by)) => format!("{}/{}", clean(end), clean(by)),
        (Some(end), None) => clean(end),
        (None, _) => "-".into(),
    }
}

/// The rule and where it is, or the reason that is not policy; and what else is known.
fn cause(flow: &FlowView) -> String {
    let mut text = match &*flow.rule {
        "" | "-" => clean(&flow.reason),
        rule => clean(rule),
    };
    if let (Some(file), Some(line)) = (&flow.file, flow.line) {
        text += &format!(" {}:{line}", clean(file));
    }
    if flow.reason != "policy" && !matches!(&*flow.rule, "" | "-") {
        text += &format!(" ({})", clean(&flow.reason));
    }
    if let Some(detail) = &flow.detail {
        text += &format!(": {}", clean(detail));
    }
    text
}

/// A denial has no bytes, rather than none of them.
fn bytes(flow: &FlowView, count: u64) -> String {
    if flow.id.is_none() {
        return "-".into();
    }
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_240_000 => format!("{} KiB", count / 1024),
        _ => format!("{:.1} MiB", count as f64 / 1_048_576.0),
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 0.001 {
        format!("{:.0}us", seconds * 1e6)
    } else if seconds < 1.0 {
        format!("{:.1}ms", seconds * 1e3)
    } else {
        format!("{seconds:.1}s")
    }
}

/// `09:30:00.042`, UTC.
fn time_of_day(unix_seconds: f64) -> String {
    let text = utc(unix_seconds);
    let clock = text.get(11..19).unwrap_or(&text);
    let millis = (unix_seconds.max(0.0) * 1000.0).round() as u64 % 1000;
    format!("{clock}.{millis:03}")
}

/// What of everything was shown.
pub(super) fn account(document: &FlowsDocument) -> String {
    let (shown, kept) = (document.flows.len(), document.kept);
    let mut text = format!("{shown} of {kept} flows");
    if let Some(oldest) = document.oldest_unix_seconds {
        text += &format!(", oldest {}", utc(oldest));
    }
    if document.seen > kept {
        text += &format!(", {} older ones forgotten", document.seen - kept);
    }
    text + &format!(", {} records lost", document.lost)
}

/// What a follower has not seen.
pub(super) fn gaps(document: &FlowsDocument, lost_before: u64) -> Vec<String> {
    let mut lines = Vec::new();
    if document.restarted {
        lines.push("-- the agent was restarted: its last records are gone".to_owned());
    }
    if let Some(missed) = document.missed {
        lines.push(format!(
            "-- {missed} records missed: they were forgotten before they were asked for"
        ));
    }
    let lost = document.lost.saturating_sub(lost_before);
    if lost > 0 {
        lines.push(format!(
            "-- {lost} records lost: the kernel's buffer was full"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close() -> FlowView {
        FlowView {
            time_unix_seconds: 1_795_253_400.042,
            event: "close".into(),
            id: Some("2a".into()),
            protocol: "tcp".into(),
            source_service: "shop/checkout".into(),
            destination_service: "shop/payments".into(),
            destination_version: "v1".into(),
            dialled: "10.96.0.10:80".into(),
            connection_security_policy: "none".into(),
            verdict: "allowed".into(),
            reason: "policy".into(),
            rule: "checkout-pays".into(),
            file: Some("10-shop.toml".into()),
            line: Some(14),
            response_flags: "-".into(),
            sent_bytes: 70_000,
            received_bytes: 512,
            rtt_seconds: Some(0.000_25),
            duration_seconds: Some(2.04),
            end: Some("fin".into()),
            ended_by: Some("client".into()),
            ..FlowView::default()
        }
    }

    #[test]
    fn a_row_says_who_whom_how_much_and_by_which_rule() {
        let mut table = Table::new(Style::Plain);
        let row = table.row(&close());
        let words: Vec<&str> = row.split("  ").filter(|word| !word.is_empty()).collect();
        let words: Vec<&str> = words.iter().map(|word| word.trim()).collect();
        assert_eq!(
            words,
            [
                "09:30:00.042",
                "allowed",
                "close",
                "shop/checkout",
                "shop/payments:v1 10.96.0.10:80/tcp",
                "68 KiB",
                "512 B",
                "2.0s",
                "250us",
                "fin/client",
                "checkout-pays 10-shop.toml:14",
            ]
        );
        assert!(table.head().starts_with("TIME"));
        assert_eq!(table.head(), "");
    }

    #[test]
    fn nothing_is_cut_and_no_terminal_obeys() {
        let mut table = Table::new(Style::Plain);
        let long = "x".repeat(300);
        let flow = FlowView {
            id: None,
            detail: Some("a\x1b[2Jb".into()),
            source_service: long.as_str().into(),
            node: Some("edge-2".into()),
            connection_security_policy: "mutual_tls".into(),
            rule: "-".into(),
            reason: "no-endpoint".into(),
            ..close()
        };
        let row = table.row(&flow);
        assert!(row.contains(&long) && !row.contains('\x1b'), "{row}");
        assert!(row.contains("on edge-2 mTLS"), "{row}");
        assert!(
            row.ends_with("no-endpoint 10-shop.toml:14: a\\u{1b}[2Jb"),
            "{row}"
        );
    }

    #[test]
    fn what_is_not_shown_is_said() {
        let mut document = FlowsDocument {
            flows: vec![close()],
            kept: 2000,
            seen: 2500,
            lost: 7,
            oldest_unix_seconds: Some(1_795_253_400.0),
            ..FlowsDocument::default()
        };
        assert_eq!(
            account(&document),
            "1 of 2000 flows, oldest 2026-11-21T09:30:00Z, 500 older ones forgotten, 7 records lost"
        );
        assert_eq!(gaps(&document, 7), Vec::<String>::new());
        document.missed = Some(3);
        document.restarted = true;
        let lines = gaps(&document, 5);
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with("-- 2 records lost"), "{lines:?}");
    }
}
