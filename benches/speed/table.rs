//! The table, and the few statistics behind it.

use std::fmt;
use std::time::Duration;

/// Rows in the order they were measured.
#[derive(Debug, Default)]
pub struct Table(Vec<[String; 4]>);

impl Table {
    /// A value that is held to a limit: `measured` may be at most `limit`.
    pub fn judged(
        &mut self,
        what: impl Into<String>,
        value: impl Into<String>,
        measured: f64,
        limit: f64,
        shown: impl Into<String>,
    ) {
        let verdict = if measured <= limit { "met" } else { "missed" };
        self.0.push([what.into(), value.into(), shown.into(), verdict.to_owned()]);
    }

    /// A value for information.
    pub fn told(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.0.push([what.into(), value.into(), String::new(), String::new()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["what", "value", "limit", "verdict"].map(str::to_owned);
        let widths: Vec<usize> = (0..head.len())
            .map(|column| self.0.iter().chain([&head]).map(|row| row[column].len()).max().unwrap_or(0))
            .collect();
        let rule: [String; 4] = std::array::from_fn(|column| "-".repeat(widths[column]));
        writeln!(f)?;
        for row in [&head, &rule].into_iter().chain(&self.0) {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// The middle of the rounds, and the range they were in. Printed with as many decimals as asked.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Half of the rounds were below.
    pub median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    /// Of one value per round: the median, and the range without the lowest and highest tenth.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |part: f64| sorted[(part * (sorted.len() - 1) as f64).round() as usize];
        Self { median: at(0.5), low: at(0.1), high: at(0.9) }
    }

    /// Of the ratios of two series measured in turns: what disturbed a round disturbed both.
    pub fn of_ratios(above: &[f64], below: &[f64]) -> Self {
        Self::of(&above.iter().zip(below).map(|(above, below)| above / below).collect::<Vec<_>>())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = f.precision().unwrap_or(0);
        let Self { median, low, high } = self;
        write!(f, "{median:.decimals$} ({low:.decimals$} to {high:.decimals$})")
    }
}

/// The time that `part` of `times` do not exceed; zero when there are none.
pub fn percentile(times: &mut [Duration], part: f64) -> Duration {
    times.sort_unstable();
    let last = times.len().saturating_sub(1);
    times.get((part * last as f64).round() as usize).copied().unwrap_or_default()
}
