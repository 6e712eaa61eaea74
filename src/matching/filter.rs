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

/// An Alert's inclusion and exclusion list, searched unanchored and in one pass.
#[derive(Debug, Default)]
pub struct Filter {
    /// The good expressions, inclusions first.
    set: Option<RegexSet>,
    /// How many of them are inclusions.
    inclusions: usize,
    /// The inclusion list holds something, good or bad.
    chooses: bool,
}

/// An expression that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Bad {
    /// It stands in the exclusion list.
    pub excludes: bool,
    /// Its place in the list.
    pub position: usize,
    /// What is wrong with it.
    pub error: String,
}

impl Filter {
    /// Compiles the good expressions of both lists and reports the bad ones.
    pub fn compile(inclusions: &[String], exclusions: &[String]) -> (Self, Vec<Bad>) {
        let mut bad = Vec::new();
        let mut good = Vec::new();
        read(inclusions, false, &mut good, &mut bad);
        let included = good.len();
        read(exclusions, true, &mut good, &mut bad);
        let set = if good.is_empty() { None } else { compile(&good).ok() };
        if set.is_none() && !good.is_empty() {
            let error = format!("with the rest of the lists larger than {COMPILED_LIMIT} bytes when compiled");
            bad.push(Bad { excludes: included == 0, position: 0, error });
        }
        (Self { set, inclusions: included, chooses: !inclusions.is_empty() }, bad)
    }

    /// Whether a message passes: some inclusion matches it, where there are any, and no exclusion.
    pub fn admits(&self, text: &str) -> bool {
        let Some(set) = &self.set else { return !self.chooses };
        match (self.inclusions, set.len() - self.inclusions) {
            (0, _) => !self.chooses && !set.is_match(text),
            (_, 0) => set.is_match(text),
            // Exclusions come last, so the last match tells whether there is one.
            _ => set.matches(text).iter().next_back().is_some_and(|last| last < self.inclusions),
        }
    }
}

/// Checks the expressions of one list.
fn read(list: &[String], excludes: bool, good: &mut Vec<String>, bad: &mut Vec<Bad>) {
    let mut read = 0;
    for (position, expression) in list.iter().enumerate() {
        read += expression.len();
        let checked = if read > LIST_LIMIT {
            Err(format!("the expressions up to this one are longer than {LIST_LIMIT} bytes together"))
        } else {
            check(expression)
        };
        match checked {
            Ok(expression) => good.push(expression),
            Err(error) => bad.push(Bad { excludes, position, error }),
        }
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

    fn filter(inclusions: &[&str], exclusions: &[&str]) -> (Filter, Vec<Bad>) {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Filter::compile(&list(inclusions), &list(exclusions))
    }

    fn errors(bad: Vec<Bad>) -> Vec<(bool, usize, String)> {
        bad.into_iter().map(|bad| (bad.excludes, bad.position, bad.error)).collect()
    }

    #[test]
    fn inclusions_choose_and_exclusions_win() {
        for (inclusions, exclusions, admitted, refused) in [
            (&[][..], &[][..], &["anything", ""][..], &[][..]),
            (&["^waiting", "time.*out"], &[], &["waiting", "health check: timed out"], &["not waiting", ""]),
            (&[], &["noise", "^debug"], &["signal", "no debug", ""], &["noise", "debug: x"]),
            (&["a", "b"], &["x", "y"], &["a", "ba", "b"], &["", "c", "x", "ax", "bay"]),
        ] {
            let (filter, bad) = filter(inclusions, exclusions);
            assert_eq!(bad, []);
            for text in admitted {
                assert!(filter.admits(text), "{inclusions:?} {exclusions:?} {text}");
            }
            for text in refused {
                assert!(!filter.admits(text), "{inclusions:?} {exclusions:?} {text}");
            }
        }
    }

    #[test]
    fn a_bad_expression_is_named_and_its_neighbours_work() {
        let (filter, bad) = filter(&["(unclosed", "fine"], &["fine day", "*"]);
        let expected = [
            (false, 0, "missing closing ): `(unclosed`".to_owned()),
            (true, 1, "missing argument to repetition operator: `*`".to_owned()),
        ];
        assert_eq!(errors(bad), expected);
        assert!(filter.admits("it is fine") && !filter.admits("a fine day"));
    }

    #[test]
    fn bad_inclusions_let_nothing_through_and_bad_exclusions_everything() {
        let (only_bad, _) = filter(&["(unclosed"], &[]);
        assert!(!only_bad.admits("(unclosed"));
        let (with_exclusion, _) = filter(&["(unclosed"], &["x"]);
        assert!(!with_exclusion.admits("(unclosed"));
        let (open, _) = filter(&[], &["(unclosed"]);
        assert!(open.admits("(unclosed"));
    }

    #[test]
    fn a_huge_expression_is_refused() {
        let (_, bad) = filter(&[r"\pL{1000}"], &[]);
        assert_eq!(errors(bad), [(false, 0, "larger than 4194304 bytes when compiled".to_owned())]);
        let (_, bad) = filter(&[&"a".repeat(4 << 10), &"a".repeat((4 << 10) + 1)], &[]);
        assert_eq!(errors(bad), [(false, 1, "longer than 4096 bytes".to_owned())]);
    }

    #[test]
    fn an_endless_list_is_read_up_to_a_limit() {
        let long = "a".repeat(4 << 10);
        let (filter, bad) = filter(&[long.as_str(); 17], &[]);
        assert_eq!(bad.iter().map(|bad| bad.position).collect::<Vec<_>>(), [16]);
        assert!(filter.admits(&long));
    }

    #[test]
    fn expressions_are_read_as_go_reads_them() {
        let (filter, bad) = filter(&[r"\<b>\d+\</b>", "a{,2}"], &[]);
        assert_eq!(bad, []);
        assert!(filter.admits("<b>12</b>") && !filter.admits("<b>١٢</b>"));
        assert!(filter.admits("a{,2}") && !filter.admits("aa"));
    }
    /// spec/pipeline.md 3.4: where Go and the crate `regex` part ways. What an expression matches, what
    /// it does not, or that it is refused.
    #[test]
    fn pipeline_3_4_expressions_as_go_reads_them() {
        let accepted: [(&str, &[&str], &[&str]); 23] = [
            (r"^\d$", &["1"], &["١", "a"]),
            (r"^\w$", &["a", "_"], &["é", "-"]),
            (r"^\s$", &[" ", "\t"], &["\u{a0}", "\u{2028}"]),
            // No word ends inside a word, and for Go `é` is none.
            (r"\bx", &["x", "éx"], &["ax"]),
            (r"\<b", &["<b"], &["b"]),
            ("^[a&&b]$", &["a", "&", "b"], &["", "c"]),
            ("^[[]$", &["["], &["]"]),
            ("^a{,2}$", &["a{,2}"], &["a", "aa"]),
            ("^foo{$", &["foo{"], &["foo"]),
            ("^{foo}$", &["{foo}"], &["foo"]),
            (r"^\Qa.b\E$", &["a.b"], &["axb"]),
            (r"^\123$", &["S"], &["123"]),
            (r"^[\w-.]$", &["a", "-", "."], &["+"]),
            // The same in both.
            ("a.b", &["axb"], &["a\nb"]),
            ("a$", &["a"], &["a\n"]),
            ("(?i)k", &["k", "K", "\u{212a}"], &["c"]),
            (r"^\pL$", &["é"], &["1"]),
            ("^(?P<n>a)$", &["a"], &["b"]),
            ("^(?<n>a)$", &["a"], &["b"]),
            ("^(?U)a+$", &["aa"], &["b"]),
            (r"a\z", &["ba"], &["a\n"]),
            // Unanchored, and over the whole message.
            ("b", &["abc", "a\nb"], &["ac"]),
            ("", &["", "anything"], &[]),
        ];
        for (expression, matched, missed) in accepted {
            let (filter, bad) = filter(&[expression], &[]);
            assert_eq!(bad, [], "{expression}");
            for text in matched {
                assert!(filter.admits(text), "{expression} on {text:?}");
            }
            for text in missed {
                assert!(!filter.admits(text), "{expression} on {text:?}");
            }
        }
        for refused in ["[a--c]", "a{1001}", "a++", "a**", "(?x)a", "(?-u)a", "(?R)a", r"\u0041", r"\p{Alphabetic}"] {
            let (_, bad) = filter(&[refused], &[]);
            assert_eq!(bad.len(), 1, "{refused}");
            // A list of such ones only lets nothing pass, and excludes nothing.
            assert!(!filter(&[refused], &[]).0.admits(refused), "{refused}");
            assert!(filter(&[], &[refused]).0.admits(refused), "{refused}");
        }
    }
}
