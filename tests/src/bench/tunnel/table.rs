//! Tables: a row for each contestant, and how far each value is from the best pair's.

/// What a value and its ratio take.
const WIDTH: usize = 14;

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) rank: Rank,
    pub(super) show: fn(f64) -> String,
}

/// Which value of a column is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    Most,
    Least,
    /// None is.
    No,
}

/// A contestant's values, one for each column; NaN where it has none.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
    pub(super) kind: Kind,
}

/// What a row is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing, and nothing is held against it.
    Floor,
    /// The best pair, which it may be.
    Pair,
    /// The best pair, which it is not.
    Mesh,
}

/// The table as text.
pub(super) fn render(columns: &[Column], rows: &[Row]) -> String {
    let width = columns.iter().map(|column| column.name.len() + 2).max();
    let width = width.unwrap_or_default().max(WIDTH);
    let names = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or_default();
    let mut text = format!("  {:<names$}", "");
    for column in columns {
        text += &format!("{:>width$}", column.name);
    }
    for row in rows {
        text += &format!("\n  {:<names$}", row.name);
        for (which, column) in columns.iter().enumerate() {
            let value = row.values[which];
            let ratio = best(column.rank, rows, which).filter(|_| row.kind != Kind::Floor);
            let ratio = ratio.map(|best| format!(" x {:.2}", value / best));
            let cell = if value.is_nan() {
                "-".into()
            } else {
                (column.show)(value) + &ratio.unwrap_or_default()
            };
            text += &format!("{cell:>width$}");
        }
    }
    text
}

/// The best value that a pair has.
fn best(rank: Rank, rows: &[Row], column: usize) -> Option<f64> {
    let pairs = rows.iter().filter(|row| row.kind == Kind::Pair);
    let values = pairs
        .map(|row| row.values[column])
        .filter(|value| value.is_finite());
    match rank {
        Rank::Most => values.max_by(f64::total_cmp),
        Rank::Least => values.min_by(f64::total_cmp),
        Rank::No => None,
    }
}

/// A number with so many decimals.
pub(super) fn decimals<const N: usize>(value: f64) -> String {
    format!("{value:.N$}")
}

/// A number without decimals.
pub(super) fn count(value: f64) -> String {
    format!("{value:.0}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_held_against_the_best_pair() {
        let row = |name: &str, kind, values: &[f64]| Row {
            name: name.into(),
            values: values.into(),
            kind,
        };
        let column = |rank| Column {
            name: "c",
            rank,
            show: decimals::<1>,
        };
        let columns = [Rank::Most, Rank::Least, Rank::No].map(column);
        let rows = [
            row("direct", Kind::Floor, &[9.0, f64::NAN, 0.0]),
            row("a", Kind::Pair, &[2.0, 3.0, 0.0]),
            row("b", Kind::Pair, &[4.0, 6.0, 1.0]),
            row("mesh", Kind::Mesh, &[8.0, 1.5, 2.0]),
        ];
        let text = render(&columns, &rows);
        let words = |line: usize| {
            let line = text.lines().nth(line).expect("a line");
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(1), "direct 9.0 - 0.0");
        assert_eq!(words(2), "a 2.0 x 0.50 3.0 x 1.00 0.0");
        assert_eq!(words(3), "b 4.0 x 1.00 6.0 x 2.00 1.0");
        assert_eq!(words(4), "mesh 8.0 x 2.00 1.5 x 0.50 2.0");
    }
}
