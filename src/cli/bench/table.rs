//! Tables that read well on a terminal and are Markdown.

/// Columns by their heads; the first `left` are words, the rest numbers.
pub struct Table {
    left: usize,
    lines: Vec<Vec<String>>,
}

impl Table {
    /// Without lines.
    pub fn new(left: usize, heads: &[&str]) -> Self {
        Self { left, lines: vec![heads.iter().map(|head| (*head).to_owned()).collect()] }
    }

    /// Adds a line of as many cells as there are heads.
    pub fn line(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.lines[0].len(), "cells of a line");
        self.lines.push(cells);
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| self.lines.iter().map(|line| line[column].chars().count()).max();
        let widths: Vec<usize> =
            (0..self.lines[0].len()).map(|column| width(column).unwrap_or(0).max(4)).collect();
        for (at, line) in self.lines.iter().enumerate() {
            for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
                match column < self.left {
                    true => write!(f, "| {cell:width$} ")?,
                    false => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if at == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width - usize::from(column >= self.left));
                    write!(f, "| {dashes}{} ", if column < self.left { "" } else { ":" })?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// Three significant digits, or all before the point.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if !v.is_finite() => "-".into(),
        0.0 => "0".into(),
        v if v < 0.0995 => format!("{value:.4}"),
        v if v < 0.995 => format!("{value:.3}"),
        v if v < 9.95 => format!("{value:.2}"),
        v if v < 99.5 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// `83%`
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(1, &["name", "us"]);
        table.line(["linear".into(), number(1234.5)]);
        table.line(["x".into(), number(0.5)]);
        let found = table.to_string();
        let wanted = ["| name   |    us |", "| ------ | ----: |", "| linear |  1234 |", "| x      | 0.500 |"];
        assert_eq!(found.lines().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let texts = [0.0123, 0.5, 1.234, 12.34, 123.4, 12345.6].map(number);
        assert_eq!(texts, ["0.0123", "0.500", "1.23", "12.3", "123", "12346"]);
    }
}
