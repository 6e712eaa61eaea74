//! Inclusion and exclusion lists: the expressions of one list, compiled together when the Alert
//! changes. An event compiles nothing. They are written in Go's dialect; `goregex` turns each
//! into Rust's.

use regex::{RegexSet, RegexSetBuilder};

use crate::goregex;

/// Bytes one compiled list may take, so that no Alert can fill the memory.
const COMPILED_LIMIT: usize = 4 << 20;

/// Bytes of one expression. The limit above is looked at late: before it, `(?i)` and two
/// thousand `\pL` take a second and hundreds of megabytes.
const EXPRESSION_LIMIT: usize = 4 << 10;

/// Bytes of all expressions of one list together, because reading them takes time too.
const LIST_LIMIT: usize = 64 << 10;

/// Bytes one list may use to remember states while it searches; past that it searches on, slower.
const CACHE_LIMIT: usize = 256 << 10;

/// A list of regular expressions, searched unanchored.
#[derive(Debug, Default)]
pub struct Filter {
    set: Option<RegexSet>,
    listed: bool,
}

impl Filter {
    /// Compiles the good expressions of a list and reports the bad ones by position.
    pub fn compile(expressions: &[String]) -> (Self, Vec<(usize, String)>) {
        let mut good = Vec::new();
        let mut bad = Vec::new();
        let mut read = 0;
        for (position, expression) in expressions.iter().enumerate() {
            read += expression.len();
            let compiled = if read > LIST_LIMIT {
                Err(format!("the expressions up to this one are longer than {LIST_LIMIT} bytes together"))
            } else {
                check(expression)
            };
            match compiled {
                Ok(expression) => good.push(expression),
                Err(error) => bad.push((position, error)),
            }
        }
        let set = if good.is_empty() { None } else { compile(&good).ok() };
        if set.is_none() && !good.is_empty() {
            bad.push((0, format!("the list is larger than {COMPILED_LIMIT} bytes when compiled; shorten it")));
        }
        (Self { set, listed: !expressions.is_empty() }, bad)
    }

    /// Whether the list holds anything, good or bad.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Whether any good expression matches somewhere in `text`.
    pub fn matches(&self, text: &str) -> bool {
        self.set.as_ref().is_some_and(|set| set.is_match(text))
    }
}

fn compile(expressions: &[String]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(expressions).size_limit(COMPILED_LIMIT).dfa_size_limit(CACHE_LIMIT).build()
}

/// One expression on its own, so that a bad one cannot take its neighbours down: as Rust spells
/// it, or what is wrong with it.
fn check(expression: &str) -> Result<String, String> {
    if expression.len() > EXPRESSION_LIMIT {
        return Err(format!("longer than {EXPRESSION_LIMIT} bytes"));
    }
    let expression = goregex::translate(expression)?;
    match compile(std::slice::from_ref(&expression)) {
        Ok(_) => Ok(expression),
        Err(regex::Error::CompiledTooBig(limit)) => Err(format!("larger than {limit} bytes when compiled")),
        // Not known to happen: `goregex` writes nothing that `regex` does not read.
        Err(error) => Err(error.to_string().lines().last().unwrap_or_default().trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(expressions: &[&str]) -> (Filter, Vec<(usize, String)>) {
        Filter::compile(&expressions.iter().map(|&text| text.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn searches_anywhere_in_the_text() {
        let (filter, bad) = filter(&["^waiting", "time.*out"]);
        assert!(bad.is_empty());
        assert!(filter.matches("health check: timed out"));
        assert!(!filter.matches("not waiting"));
    }

    #[test]
    fn a_bad_expression_is_named_and_its_neighbours_work() {
        let (filter, bad) = filter(&["(unclosed", "fine"]);
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].0, 0);
        assert_eq!(bad[0].1, "missing closing ): `(unclosed`");
        assert!(filter.matches("it is fine"));
    }

    #[test]
    fn a_list_of_only_bad_expressions_is_listed_and_matches_nothing() {
        let (filter, _) = filter(&["(unclosed"]);
        assert!(filter.is_listed() && !filter.matches("(unclosed"));
    }

    #[test]
    fn a_huge_expression_is_refused() {
        let (_, bad) = filter(&[r"\pL{1000}"]);
        assert_eq!(bad[0].1, "larger than 4194304 bytes when compiled");
        let (_, bad) = filter(&[&"x".repeat(4 << 10), &"x".repeat((4 << 10) + 1)]);
        assert_eq!(bad, [(1, "longer than 4096 bytes".to_owned())]);
    }

    #[test]
    fn an_endless_list_is_read_up_to_a_limit() {
        let long = format!("[{}]", "x".repeat((4 << 10) - 2));
        let (filter, bad) = filter(&[long.as_str(); 17]);
        assert_eq!(bad, [(16, "the expressions up to this one are longer than 65536 bytes together".to_owned())]);
        assert!(filter.matches("x"));
    }

    #[test]
    fn expressions_are_read_as_go_reads_them() {
        let (filter, bad) = filter(&[r"\<b>\d+\</b>", "a{,2}"]);
        assert!(bad.is_empty());
        assert!(filter.matches("<b>12</b>") && !filter.matches("<b>١٢</b>"));
        assert!(filter.matches("a{,2}") && !filter.matches("aa"));
    }
}
