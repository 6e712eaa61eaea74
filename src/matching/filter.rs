//! Inclusion and exclusion lists: the expressions of one list, compiled together when the Alert
//! changes. An event compiles nothing.

use regex::{RegexSet, RegexSetBuilder};

/// Bytes one compiled list may take, so that no Alert can fill the memory.
const COMPILED_LIMIT: usize = 4 << 20;

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
        for (position, expression) in expressions.iter().enumerate() {
            match regex_syntax_check(expression) {
                Ok(()) => good.push(expression.as_str()),
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

fn compile(expressions: &[&str]) -> Result<RegexSet, regex::Error> {
    RegexSetBuilder::new(expressions).size_limit(COMPILED_LIMIT).dfa_size_limit(CACHE_LIMIT).build()
}

/// One expression on its own, so that a bad one cannot take its neighbours down. The place where
/// Go's spelling will be turned into Rust's.
fn regex_syntax_check(expression: &str) -> Result<(), String> {
    compile(&[expression]).map(|_| ()).map_err(|error| match error {
        regex::Error::Syntax(text) => text.lines().last().unwrap_or("not a regular expression").trim().to_owned(),
        regex::Error::CompiledTooBig(limit) => format!("larger than {limit} bytes when compiled"),
        other => other.to_string(),
    })
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
        assert!(bad[0].1.contains("unclosed group"), "{}", bad[0].1);
        assert!(filter.matches("it is fine"));
    }

    #[test]
    fn a_list_of_only_bad_expressions_is_listed_and_matches_nothing() {
        let (filter, _) = filter(&["(unclosed"]);
        assert!(filter.is_listed() && !filter.matches("(unclosed"));
    }

    #[test]
    fn a_huge_expression_is_refused() {
        let (_, bad) = filter(&[r"(\pL{1000}){1000}"]);
        assert!(bad[0].1.contains("larger than"), "{}", bad[0].1);
    }
}
