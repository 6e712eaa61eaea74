//! Inclusion and exclusion lists: compiled when the Alert changes. An event compiles nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::api::AlertSpec;
use crate::pattern::{Exhausted, Pattern, PatternError};

/// States of all expressions of one Alert together, as [`Pattern::states`] counts them.
const MAX_STATES: u32 = 16_000;

/// An expression of fewer states takes some ten microseconds to compile, and is compiled wherever it is met.
const LIGHT: u32 = 500;

/// Bytes of all expressions of one list together, because reading them takes time too.
const LIST_LIMIT: usize = 64 << 10;

/// An Alert's inclusion and exclusion list, searched unanchored.
#[derive(Debug, Default)]
pub struct Filter {
    inclusions: Box<[Entry]>,
    exclusions: Box<[Entry]>,
    /// The inclusion list holds something, good or bad.
    chooses: bool,
}

/// A good expression.
#[derive(Debug)]
struct Entry {
    /// Its place in the list.
    position: usize,
    pattern: Arc<Pattern>,
    /// A search took more steps than one may: it counts as a bad one.
    costly: AtomicBool,
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

/// What a filter makes of a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Some inclusion matches, where there are any, and no exclusion does.
    pub admits: bool,
    /// An expression that ran out of steps, and counted as a bad one.
    pub over: Option<Over>,
}

/// An expression that ran out of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// It stands in the exclusion list.
    pub excludes: bool,
    /// Its place in the list.
    pub position: usize,
    /// By itself, or together with others.
    pub why: Exhausted,
}

impl Filter {
    /// Compiles the good expressions of both lists and reports the bad ones. `share` is what is left of the states
    /// that the namespace may have.
    pub fn compile(inclusions: &[String], exclusions: &[String], share: u32) -> (Self, Vec<Bad>) {
        let mut reader = Reader { bad: Vec::new(), states: 0, share };
        let filter = Self {
            inclusions: reader.read(inclusions, false),
            exclusions: reader.read(exclusions, true),
            chooses: !inclusions.is_empty(),
        };
        (filter, reader.bad)
    }

    /// States of all its expressions.
    pub fn states(&self) -> u32 {
        self.inclusions.iter().chain(&self.exclusions).map(|entry| entry.pattern.states()).sum()
    }

    /// Whether a text passes; `steps` are what is left for it, and fewer afterwards.
    pub fn admits(&self, text: &str, steps: &mut usize) -> Verdict {
        let mut over = None;
        let included = !self.chooses || any(&self.inclusions, text, steps, false, &mut over);
        let admits = included && !any(&self.exclusions, text, steps, true, &mut over);
        Verdict { admits, over }
    }
}

/// Whether an expression of the list matches.
fn any(list: &[Entry], text: &str, steps: &mut usize, excludes: bool, over: &mut Option<Over>) -> bool {
    list.iter().any(|entry| {
        if entry.costly.load(Ordering::Relaxed) {
            return false;
        }
        entry.pattern.is_match(text, steps).unwrap_or_else(|why| {
            if why == Exhausted::Alone {
                entry.costly.store(true, Ordering::Relaxed);
            }
            over.get_or_insert(Over { excludes, position: entry.position, why });
            false
        })
    })
}

/// Expressions compiled ahead of their Alert, which shares them as long as this value lives.
#[derive(Debug, Default)]
pub struct Prepared {
    _patterns: Vec<Arc<Pattern>>,
}

/// The expressions of an Alert that take long to compile, as far as [`Filter::compile`] will compile them.
pub fn heavy(spec: &AlertSpec) -> Vec<String> {
    let mut left = MAX_STATES;
    let texts = spec.inclusion_list.iter().chain(&spec.exclusion_list).take(LIST_LIMIT / 8);
    let heavy = texts.filter_map(|text| Some((text, Pattern::estimate(text))).filter(|(_, states)| *states > LIGHT));
    let within = heavy.map_while(|(text, states)| {
        left = left.checked_sub(states)?;
        Some(text.clone())
    });
    within.collect()
}

/// Compiles [`heavy`] expressions.
pub fn prepare(texts: &[String]) -> Prepared {
    Prepared { _patterns: texts.iter().filter_map(|text| Pattern::compile(text).ok()).collect() }
}

struct Reader {
    bad: Vec<Bad>,
    states: u32,
    share: u32,
}

impl Reader {
    fn read(&mut self, list: &[String], excludes: bool) -> Box<[Entry]> {
        let (mut good, mut bytes) = (Vec::new(), 0);
        for (position, expression) in list.iter().enumerate() {
            bytes += expression.len();
            let checked = match bytes <= LIST_LIMIT {
                true => self.check(expression),
                false => Err(format!("the expressions up to this one are longer than {LIST_LIMIT} bytes together")),
            };
            match checked {
                Ok(pattern) => good.push(Entry { position, pattern, costly: AtomicBool::new(false) }),
                Err(error) => self.bad.push(Bad { excludes, position, error }),
            }
        }
        good.into()
    }

    /// One expression, so that a bad one cannot take its neighbours down.
    fn check(&mut self, expression: &str) -> Result<Arc<Pattern>, String> {
        let limit = MAX_STATES.min(self.share);
        let together = || {
            if self.share < MAX_STATES {
                return "the Alerts of this namespace have as many large expressions as they may; make some smaller, \
                        then change this Alert"
                    .to_owned();
            }
            format!("the expressions up to this one have more than {MAX_STATES} states together")
        };
        let estimate = Pattern::estimate(expression);
        if estimate > LIGHT && self.states + estimate > limit {
            return Err(together());
        }
        let pattern = Pattern::compile(expression).map_err(|error: PatternError| error.to_string())?;
        if self.states + pattern.states() > limit {
            return Err(together());
        }
        self.states += pattern.states();
        Ok(pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(inclusions: &[&str], exclusions: &[&str]) -> (Filter, Vec<Bad>) {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        Filter::compile(&list(inclusions), &list(exclusions), u32::MAX)
    }

    fn admits(filter: &Filter, text: &str) -> bool {
        let verdict = filter.admits(text, &mut usize::MAX.clone());
        assert_eq!(verdict.over, None, "{text}");
        verdict.admits
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
                assert!(admits(&filter, text), "{inclusions:?} {exclusions:?} {text}");
            }
            for text in refused {
                assert!(!admits(&filter, text), "{inclusions:?} {exclusions:?} {text}");
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
        assert!(admits(&filter, "it is fine") && !admits(&filter, "a fine day"));
    }

    #[test]
    fn bad_inclusions_let_nothing_through_and_bad_exclusions_everything() {
        let (only_bad, _) = filter(&["(unclosed"], &[]);
        assert!(!admits(&only_bad, "(unclosed"));
        let (with_exclusion, _) = filter(&["(unclosed"], &["x"]);
        assert!(!admits(&with_exclusion, "(unclosed"));
        let (open, _) = filter(&[], &["(unclosed"]);
        assert!(admits(&open, "(unclosed"));
    }

    #[test]
    fn a_huge_expression_is_refused() {
        let (_, bad) = filter(&[r"\pL{1000}"], &[]);
        assert_eq!(errors(bad), [(false, 0, PatternError::TooLarge.to_string())]);
        let (_, bad) = filter(&[&"a".repeat(4 << 10), &"a".repeat((4 << 10) + 1)], &[]);
        assert_eq!(errors(bad), [(false, 1, "longer than 4096 bytes".to_owned())]);
    }

    #[test]
    fn an_expression_that_runs_out_of_steps_counts_as_a_bad_one() {
        let costly = "a[ab]{1000}[ab]{1000}~";
        let text: String = "abbab"
            .chars()
            .cycle()
            .zip("ab".chars().cycle())
            .map(|(a, b)| if a == b { 'a' } else { 'b' })
            .take(16_000)
            .collect();
        let text = text + "~";
        for (inclusions, exclusions, admits) in [
            (&[costly][..], &[][..], false),
            (&[costly, "~$"], &[], true),
            (&[], &[costly], true),
            (&[], &[costly, "~$"], false),
        ] {
            let (filter, bad) = filter(inclusions, exclusions);
            assert_eq!(bad, []);
            let excludes = inclusions.is_empty();
            let over = |why| Some(Over { excludes, position: 0, why });
            assert_eq!(filter.admits(&text, &mut 1000).over, over(Exhausted::Together), "it is tried again with more");
            let verdict = filter.admits(&text, &mut usize::MAX.clone());
            assert_eq!(verdict, Verdict { admits, over: over(Exhausted::Alone) }, "{inclusions:?} {exclusions:?}");
            // It is not tried again.
            let mut steps = 1000;
            assert_eq!(filter.admits(&text, &mut steps), Verdict { admits, over: None });
            assert!(steps > 900);
        }
    }

    #[test]
    fn a_namespace_has_a_share_of_states() {
        let list = |text: &str| vec![text.to_owned()];
        let (filter, bad) = Filter::compile(&list("[ab]{1000}~"), &[], 5_000);
        assert!(bad.is_empty() && (2_000..5_000).contains(&filter.states()), "{}", filter.states());
        let (filter, bad) = Filter::compile(&list("[ab]{1000}~"), &list(".*no change.*"), 1_000);
        assert!(
            matches!(&bad[..], [Bad { excludes: false, position: 0, error }] if error.contains("namespace")),
            "{bad:?}"
        );
        assert_eq!(filter.states(), 1, "a text is nearly nothing");
        let spec = |list: &[&str]| AlertSpec {
            exclusion_list: list.iter().map(|&text| text.to_owned()).collect(),
            ..Default::default()
        };
        assert_eq!(heavy(&spec(&["a", "[ab]{1000}", "("])), ["[ab]{1000}"]);
        assert!(heavy(&spec(&["[ab]{1000}"; 9_000])).len() < 20, "no more than an Alert may have");
    }

    #[test]
    fn an_endless_list_is_read_up_to_a_limit() {
        let long = "a".repeat(4 << 10);
        let (filter, bad) = filter(&[long.as_str(); 17], &[]);
        assert_eq!(bad.iter().map(|bad| bad.position).collect::<Vec<_>>(), [16]);
        assert!(admits(&filter, &long));
    }

    #[test]
    fn expressions_are_read_as_go_reads_them() {
        let (filter, bad) = filter(&[r"\<b>\d+\</b>", "a{,2}"], &[]);
        assert_eq!(bad, []);
        assert!(admits(&filter, "<b>12</b>") && !admits(&filter, "<b>١٢</b>"));
        assert!(admits(&filter, "a{,2}") && !admits(&filter, "aa"));
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
                assert!(admits(&filter, text), "{expression} on {text:?}");
            }
            for text in missed {
                assert!(!admits(&filter, text), "{expression} on {text:?}");
            }
        }
        for refused in ["[a--c]", "a{1001}", "a++", "a**", "(?x)a", "(?-u)a", "(?R)a", r"\u0041", r"\p{Alphabetic}"] {
            let (_, bad) = filter(&[refused], &[]);
            assert_eq!(bad.len(), 1, "{refused}");
            // A list of such ones only lets nothing pass, and excludes nothing.
            assert!(!admits(&filter(&[refused], &[]).0, refused), "{refused}");
            assert!(admits(&filter(&[], &[refused]).0, refused), "{refused}");
        }
    }
}
