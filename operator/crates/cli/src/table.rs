//! Tables that fit a line.

use std::fmt::Write as _;

use crate::text::{cut, one_line};

/// Longest line of a table that isn't wide.
pub const WIDTH: usize = 120;

const GAP: usize = 2;

/// A column.
pub struct Column {
    name: &'static str,
    /// Smallest width that it may be cut to.
    least: usize,
    /// Cut before others that are kept longest, such as names that people copy.
    first: bool,
}

impl Column {
    /// A column whose values matter less than those of [`Self::kept`] ones.
    pub fn new(name: &'static str, least: usize) -> Self {
        Self { name, least: least.max(name.len()), first: true }
    }

    /// A column that is cut only when nothing else can be.
    pub fn kept(name: &'static str, least: usize) -> Self {
        Self { name, least: least.max(name.len()), first: false }
    }
}

/// The table; with `fit`, no line is longer than [`WIDTH`].
pub fn render(columns: &[Column], rows: &[Vec<String>], fit: bool) -> String {
    let cell = |row: &Vec<String>, i: usize| row.get(i).map_or_else(String::new, |text| one_line(text));
    let natural = |i: usize| rows.iter().map(|row| cell(row, i).chars().count()).max().unwrap_or_default();
    let mut widths: Vec<usize> =
        columns.iter().enumerate().map(|(i, column)| natural(i).max(column.name.len())).collect();
    if fit {
        shrink(columns, &mut widths);
    }
    let mut text = String::new();
    let header: Vec<String> = columns.iter().map(|column| column.name.to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let mut line = String::new();
        for (i, width) in widths.iter().enumerate() {
            let _ = write!(line, "{:<1$}", cut(&cell(row, i), *width), width + GAP);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Takes from the widest column that can give, until the line fits.
fn shrink(columns: &[Column], widths: &mut [usize]) {
    let room = WIDTH - GAP * columns.len().saturating_sub(1);
    while widths.iter().sum::<usize>() > room {
        let can = |i: usize, first: bool| columns[i].first == first && widths[i] > columns[i].least;
        let widest = |first: bool| (0..columns.len()).filter(|i| can(*i, first)).max_by_key(|i| widths[*i]);
        match widest(true).or_else(|| widest(false)) {
            Some(i) => widths[i] -= 1,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Vec<Column> {
        vec![Column::kept("NAME", 20), Column::new("RULE", 8), Column::new("TARGET", 8)]
    }

    #[test]
    fn short_values_stand_as_they_are() {
        let rows = [vec!["a".to_owned(), "bcd".to_owned(), "e".to_owned()]];
        assert_eq!(render(&columns(), &rows, true), "NAME  RULE  TARGET\na     bcd   e\n");
    }

    #[test]
    fn long_values_are_cut_to_the_line_and_names_last() {
        let long = |c: char| c.to_string().repeat(200);
        let rows = [vec!["n".repeat(60), long('r'), long('t')]];
        let text = render(&columns(), &rows, true);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains(&"n".repeat(60)) && text.contains('…'), "{text}");
        let rows = [vec!["n".repeat(300), long('r'), long('t')]];
        assert!(render(&columns(), &rows, true).lines().all(|line| line.chars().count() <= WIDTH));
        assert!(!render(&columns(), &rows, false).contains('…'));
    }

    #[test]
    fn a_value_is_one_line() {
        let rows = [vec!["a\nb".to_owned(), "\u{1b}[31m".to_owned(), String::new()]];
        assert_eq!(render(&columns(), &rows, true).lines().count(), 2);
    }
}
