//! Regular expressions that tenants write, in Go's dialect: bounded when they are compiled, charged for what they
//! do when they run, and shared by text. Used by `matching` for the lists of Alerts and by `cel` for `matches`.
//!
//! Most expressions in use are a text with `.*` around or within it. Those become searches for literals. The rest
//! becomes a lazy DFA, whose states are made while it runs. A search pays for each state it makes, so an
//! expression whose states multiply ends with [`Exhausted`] and holds up nobody.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};

use hashbrown::HashMap;
use memchr::{memchr, memmem, memrchr};
use parking_lot::Mutex;
use regex_automata::Input;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_syntax::hir::{Dot, Hir, HirKind, Look};

use crate::goregex;

/// Bytes of one expression.
pub const MAX_TEXT: usize = 4 << 10;

/// States of one automaton, as [`goregex::Cost`] counts them: some milliseconds to compile, half a megabyte to
/// keep.
pub const MAX_STATES: u32 = 8_000;

/// What one expression may cost to read, see [`goregex::Cost`]: some milliseconds.
const MAX_READING: u32 = 600;

/// Bytes of one automaton, should the estimate be wrong.
const MAX_COMPILED: usize = 1 << 20;

/// Steps of one search. A step is some 50 ns.
pub const MAX_SEARCH: usize = 200_000;

/// Bytes one automaton may use to remember states; past that it begins again.
const CACHE: usize = 128 << 10;

/// Bytes that all automata together keep of their states between searches.
const WARM: usize = 16 << 20;

/// Alternatives that are searched for one by one.
const MAX_ALTERNATIVES: usize = 16;

/// An expression, compiled. Cheap to share; see [`Pattern::compile`].
#[derive(Debug)]
pub struct Pattern {
    text: Arc<str>,
    engine: Engine,
    states: u32,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Go does not take it either; Go's words.
    #[error("{0}")]
    Syntax(String),
    /// Of [`MAX_TEXT`].
    #[error("longer than {MAX_TEXT} bytes")]
    TooLong,
    /// Of [`MAX_STATES`].
    #[error("larger than {MAX_STATES} states when compiled; repeat less, or use fewer classes such as \\pL")]
    TooLarge,
    /// Of [`MAX_READING`].
    #[error("too many large classes, which take too long to read; use fewer, or leave (?i) out")]
    TooManyClasses,
}

/// A search that did not end within its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exhausted {
    /// This search alone took [`MAX_SEARCH`] steps.
    #[error("the expression takes more than {MAX_SEARCH} steps for a text")]
    Alone,
    /// What was left of the caller's steps did not suffice.
    #[error("no steps are left")]
    Together,
}

#[derive(Debug)]
enum Engine {
    /// Every text has a match.
    Always,
    /// One of them has to match.
    Literals(Box<[Pieces]>),
    /// All the literals occur in the text, and the automaton matches.
    Automaton(Box<[memmem::Finder<'static>]>, Box<Automaton>),
    /// The same for what a lazy DFA cannot decide: `\B` beside characters outside of ASCII.
    Simulated(Box<[memmem::Finder<'static>]>, Box<regex::Regex>),
}

/// Literals in their order, with anything between them, or anything but a line feed.
#[derive(Debug)]
struct Pieces {
    literals: Box<[memmem::Finder<'static>]>,
    /// The match begins where the text begins.
    starts: bool,
    /// The match ends where the text ends.
    ends: bool,
    /// All of it is in one line.
    one_line: bool,
}

#[derive(Debug)]
struct Automaton {
    dfa: DFA,
    /// States of before, for the next search.
    warm: Mutex<Option<Box<Cache>>>,
}

/// Bytes of all [`Automaton::warm`].
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Every expression in use, by its text.
static SHARED: LazyLock<Mutex<HashMap<Arc<str>, Weak<Pattern>>>> = LazyLock::new(Mutex::default);

impl Pattern {
    /// Compiles what Go would accept; the same text again, while it is in use, is the same value.
    ///
    /// # Errors
    /// The expression is none, or too large.
    pub fn compile(text: &str) -> Result<Arc<Self>, PatternError> {
        if let Some(shared) = SHARED.lock().get(text).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        // Without the lock: it takes its time.
        let compiled = Arc::new(Self::read(text)?);
        let mut shared = SHARED.lock();
        // Dropped only after the lock, which its end takes too.
        let other = shared.get(text).and_then(Weak::upgrade);
        if other.is_none() {
            shared.insert(compiled.text.clone(), Arc::downgrade(&compiled));
        }
        drop(shared);
        Ok(other.unwrap_or(compiled))
    }

    fn read(text: &str) -> Result<Self, PatternError> {
        if text.len() > MAX_TEXT {
            return Err(PatternError::TooLong);
        }
        let translated = goregex::translate(text).map_err(PatternError::Syntax)?;
        if translated.cost.states > MAX_STATES {
            return Err(PatternError::TooLarge);
        }
        if translated.cost.reading > MAX_READING {
            return Err(PatternError::TooManyClasses);
        }
        // Not known to fail: `goregex` writes nothing that `regex` does not read.
        let hir = regex_syntax::parse(&translated.text)
            .map_err(|error| PatternError::Syntax(last_line(&error.to_string())))?;
        let engine = engine(&trimmed(hir), &translated.text)?;
        let literal = matches!(engine, Engine::Always | Engine::Literals(_));
        Ok(Self { text: text.into(), engine, states: if literal { 1 } else { translated.cost.states } })
    }

    /// An estimate of [`Pattern::states`], which takes microseconds; 0 for what will be refused.
    pub fn estimate(text: &str) -> u32 {
        let cost = (text.len() <= MAX_TEXT).then(|| goregex::translate(text).ok()).flatten();
        cost.map(|translated| translated.cost)
            .filter(|cost| cost.states <= MAX_STATES && cost.reading <= MAX_READING)
            .map_or(0, |cost| cost.states.max(cost.reading))
    }

    /// What it takes of the memory and time that a namespace has for expressions.
    pub fn states(&self) -> u32 {
        self.states
    }

    /// Whether some part of `text` matches; `steps` are what the caller has left, and fewer afterwards.
    ///
    /// # Errors
    /// The search takes more steps than it may.
    pub fn is_match(&self, text: &str, steps: &mut usize) -> Result<bool, Exhausted> {
        let mut meter = Meter { left: (*steps).min(MAX_SEARCH) };
        let before = meter.left;
        let found = self.search(text.as_bytes(), text, &mut meter);
        let together = *steps < MAX_SEARCH;
        *steps -= before - meter.left;
        found.map_err(|OutOfSteps| if together { Exhausted::Together } else { Exhausted::Alone })
    }

    fn search(&self, bytes: &[u8], text: &str, meter: &mut Meter) -> Result<bool, OutOfSteps> {
        match &self.engine {
            Engine::Always => Ok(true),
            Engine::Literals(pieces) => {
                for pieces in pieces {
                    meter.pay(pieces.literals.len() * (1 + bytes.len() / 512))?;
                    if pieces.are_in(bytes) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Engine::Automaton(literals, automaton) => {
                Ok(all_in(literals, bytes, meter)? && automaton.search(bytes, meter)?)
            }
            Engine::Simulated(literals, regex) => {
                if !all_in(literals, bytes, meter)? {
                    return Ok(false);
                }
                meter.pay((1 + bytes.len()).saturating_mul(1 + self.states as usize / 4))?;
                Ok(regex.is_match(text))
            }
        }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        let mut shared = SHARED.lock();
        // Another may have taken the place already.
        if shared.get(&self.text).is_some_and(|shared| shared.strong_count() == 0) {
            shared.remove(&self.text);
        }
    }
}

/// What a search may still do.
struct Meter {
    left: usize,
}

struct OutOfSteps;

impl Meter {
    fn pay(&mut self, steps: usize) -> Result<(), OutOfSteps> {
        match self.left.checked_sub(steps) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(OutOfSteps)
            }
        }
    }
}

fn all_in(literals: &[memmem::Finder<'_>], text: &[u8], meter: &mut Meter) -> Result<bool, OutOfSteps> {
    meter.pay(literals.len() * (1 + text.len() / 512))?;
    Ok(literals.iter().all(|literal| literal.find(text).is_some()))
}

impl Pieces {
    fn are_in(&self, text: &[u8]) -> bool {
        if !self.one_line {
            return self.in_order(text);
        }
        match (self.starts, self.ends) {
            (true, true) => memchr(b'\n', text).is_none() && self.in_order(text),
            (true, false) => self.in_order(&text[..memchr(b'\n', text).unwrap_or(text.len())]),
            (false, true) => self.in_order(&text[memrchr(b'\n', text).map_or(0, |at| at + 1)..]),
            (false, false) => self.in_some_line(text),
        }
    }

    fn in_some_line(&self, mut text: &[u8]) -> bool {
        let Some((first, rest)) = self.literals.split_first() else { return true };
        while let Some(at) = first.find(text) {
            let behind = &text[at + first.needle().len()..];
            let end = memchr(b'\n', behind).unwrap_or(behind.len());
            // The first place in a line leaves the most room for the rest.
            if follow(rest, &behind[..end]).is_some() {
                return true;
            }
            text = behind.get(end + 1..).unwrap_or_default();
        }
        false
    }

    fn in_order(&self, text: &[u8]) -> bool {
        let mut literals = &self.literals[..];
        let mut rest = text;
        if self.starts {
            let Some((first, others)) = literals.split_first() else { return !self.ends || text.is_empty() };
            let Some(behind) = rest.strip_prefix(first.needle()) else { return false };
            if others.is_empty() && self.ends {
                return behind.is_empty();
            }
            (literals, rest) = (others, behind);
        }
        if self.ends {
            let Some((last, others)) = literals.split_last() else { return true };
            let Some(before) = rest.strip_suffix(last.needle()) else { return false };
            (literals, rest) = (others, before);
        }
        follow(literals, rest).is_some()
    }
}

/// What is left of `text` behind all of them, one after the other.
fn follow<'a>(literals: &[memmem::Finder<'_>], text: &'a [u8]) -> Option<&'a [u8]> {
    literals.iter().try_fold(text, |text, literal| Some(&text[literal.find(text)? + literal.needle().len()..]))
}

impl Automaton {
    fn search(&self, text: &[u8], meter: &mut Meter) -> Result<bool, OutOfSteps> {
        meter.pay(2 + text.len() / 32)?;
        let mut cache = match self.warm.lock().take() {
            Some(cache) => {
                KEPT.fetch_sub(cache.memory_usage(), Ordering::Relaxed);
                cache
            }
            None => Box::new(self.dfa.create_cache()),
        };
        let found = self.walk(&mut cache, text, meter);
        let bytes = cache.memory_usage();
        if KEPT.fetch_add(bytes, Ordering::Relaxed) + bytes > WARM {
            KEPT.fetch_sub(bytes, Ordering::Relaxed);
        } else if let Some(other) = self.warm.lock().replace(cache) {
            KEPT.fetch_sub(other.memory_usage(), Ordering::Relaxed);
        }
        found
    }

    fn walk(&self, cache: &mut Cache, text: &[u8], meter: &mut Meter) -> Result<bool, OutOfSteps> {
        let made = 8 + self.dfa.get_nfa().states().len() / 4;
        meter.pay(made)?;
        let start = self.dfa.start_state_forward(cache, &Input::new(text));
        let mut at = start.map_err(|_| OutOfSteps)?;
        for &byte in text {
            let mut next = self.dfa.next_state_untagged(cache, at, byte);
            if next.is_tagged() {
                if next.is_unknown() {
                    meter.pay(made)?;
                    next = self.dfa.next_state(cache, at, byte).map_err(|_| OutOfSteps)?;
                }
                if next.is_match() || next.is_dead() {
                    return Ok(next.is_match());
                }
                if next.is_tagged() {
                    // It quits at no byte, so this does not happen.
                    return Err(OutOfSteps);
                }
            }
            at = next;
        }
        meter.pay(made)?;
        self.dfa.next_eoi_state(cache, at).map(|end| end.is_match()).map_err(|_| OutOfSteps)
    }
}

impl Drop for Automaton {
    fn drop(&mut self) {
        if let Some(cache) = self.warm.get_mut() {
            KEPT.fetch_sub(cache.memory_usage(), Ordering::Relaxed);
        }
    }
}

/// An expression that matches some part of the same texts, without what may match nothing at its ends.
fn trimmed(hir: Hir) -> Hir {
    let needless = |part: &Hir| {
        let properties = part.properties();
        properties.minimum_len() == Some(0) && properties.look_set().is_empty()
    };
    if needless(&hir) {
        return Hir::empty();
    }
    match hir.into_kind() {
        HirKind::Concat(mut parts) => {
            parts.drain(..parts.iter().take_while(|part| needless(part)).count());
            parts.truncate(parts.len() - parts.iter().rev().take_while(|part| needless(part)).count());
            Hir::concat(parts)
        }
        HirKind::Alternation(parts) => Hir::alternation(parts.into_iter().map(trimmed).collect()),
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0),
        HirKind::Class(class) => Hir::class(class),
        HirKind::Look(look) => Hir::look(look),
        HirKind::Repetition(repetition) => Hir::repetition(repetition),
        HirKind::Capture(capture) => *capture.sub,
    }
}

fn engine(hir: &Hir, translated: &str) -> Result<Engine, PatternError> {
    let alternatives = match hir.kind() {
        HirKind::Empty => return Ok(Engine::Always),
        HirKind::Alternation(alternatives) if alternatives.len() <= MAX_ALTERNATIVES => &alternatives[..],
        _ => std::slice::from_ref(hir),
    };
    if let Some(pieces) = alternatives.iter().map(pieces).collect::<Option<Box<[_]>>>() {
        return Ok(Engine::Literals(pieces));
    }
    let literals = required(hir);
    if hir.properties().look_set().contains_word_unicode() {
        let regex = regex::RegexBuilder::new(translated).size_limit(MAX_COMPILED).build();
        return Ok(Engine::Simulated(literals, Box::new(regex.map_err(|_| PatternError::TooLarge)?)));
    }
    let nfa = thompson::Compiler::new()
        .configure(thompson::Config::new().which_captures(WhichCaptures::None).nfa_size_limit(Some(MAX_COMPILED)))
        .build_from_hir(hir)
        .map_err(|_| PatternError::TooLarge)?;
    let dfa = DFA::builder()
        .configure(DFA::config().cache_capacity(CACHE).skip_cache_capacity_check(true))
        .build_from_nfa(nfa)
        .map_err(|_| PatternError::TooLarge)?;
    Ok(Engine::Automaton(literals, Box::new(Automaton { dfa, warm: Mutex::new(None) })))
}

/// The literals that every match has.
fn required(hir: &Hir) -> Box<[memmem::Finder<'static>]> {
    let HirKind::Concat(parts) = hir.kind() else { return Box::default() };
    let literal = |part: &Hir| match part.kind() {
        HirKind::Literal(literal) => Some(finder(&literal.0)),
        _ => None,
    };
    parts.iter().filter_map(literal).take(4).collect()
}

fn finder(needle: &[u8]) -> memmem::Finder<'static> {
    memmem::Finder::new(needle).into_owned()
}

/// An expression of literals and `.*`, if it is one.
fn pieces(hir: &Hir) -> Option<Pieces> {
    let parts = match hir.kind() {
        HirKind::Concat(parts) => &parts[..],
        _ => std::slice::from_ref(hir),
    };
    let starts = matches!(parts.first()?.kind(), HirKind::Look(Look::Start));
    let ends = parts.len() > usize::from(starts) && matches!(parts.last()?.kind(), HirKind::Look(Look::End));
    let mut parts = &parts[usize::from(starts)..parts.len() - usize::from(ends)];
    let mut literals = Vec::new();
    let mut gap = None;
    if let Some(lines) = parts.first().and_then(any_text).filter(|_| starts) {
        literals.push(Box::default());
        (gap, parts) = (Some(lines), &parts[1..]);
        if parts.is_empty() {
            literals.push(Box::default());
        }
    }
    while let Some((part, rest)) = parts.split_first() {
        let HirKind::Literal(literal) = part.kind() else { return None };
        literals.push(literal.0.clone());
        let Some((between, rest)) = rest.split_first() else { break };
        let lines = any_text(between)?;
        if gap.is_some_and(|gap| gap != lines) || (rest.is_empty() && !ends) {
            return None;
        }
        if rest.is_empty() {
            literals.push(Box::default());
        }
        (gap, parts) = (Some(lines), rest);
    }
    let one_line = gap == Some(Gap::OneLine);
    if literals.is_empty() || (one_line && literals.iter().any(|literal| literal.contains(&b'\n'))) {
        return None;
    }
    Some(Pieces { literals: literals.iter().map(|literal| finder(literal)).collect(), starts, ends, one_line })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gap {
    OneLine,
    Anything,
}

/// `.*`, and what it may pass over.
fn any_text(hir: &Hir) -> Option<Gap> {
    let HirKind::Repetition(repetition) = hir.kind() else { return None };
    let of = |dot| repetition.sub.kind() == Hir::dot(dot).kind();
    match (repetition.min, repetition.max) {
        (0, None) if of(Dot::AnyCharExceptLF) => Some(Gap::OneLine),
        (0, None) if of(Dot::AnyChar) => Some(Gap::Anything),
        _ => None,
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::clock::{Clock, SystemClock};

    fn now() -> std::time::Instant {
        SystemClock.now()
    }

    fn is_match(pattern: &Pattern, text: &str) -> bool {
        pattern.is_match(text, &mut usize::MAX.clone()).expect("enough steps")
    }

    fn engine_of(text: &str) -> &'static str {
        match &Pattern::compile(text).expect("it is one").engine {
            Engine::Always => "always",
            Engine::Literals(_) => "literals",
            Engine::Automaton(..) => "automaton",
            Engine::Simulated(..) => "simulated",
        }
    }

    /// Measured with Go, see `goregex`.
    #[test]
    fn every_engine_answers_as_go_does() {
        #[derive(serde::Deserialize)]
        struct Measured {
            go: String,
            #[serde(default)]
            yes: Vec<String>,
            #[serde(default)]
            no: Vec<String>,
            error: Option<String>,
        }
        let mut asked = 0;
        for line in include_str!("../tests/fixtures/goregex.jsonl").lines() {
            let Measured { go, yes, no, error } = serde_json::from_str(line).unwrap();
            match (Pattern::read(&go), error) {
                (Ok(pattern), None) => {
                    let answers = yes.iter().map(|text| (text, true)).chain(no.iter().map(|text| (text, false)));
                    for (text, expected) in answers {
                        assert_eq!(is_match(&pattern, text), expected, "{go} on {text:?}");
                        asked += 1;
                    }
                }
                (Err(PatternError::Syntax(ours)), Some(theirs)) => assert_eq!(ours, theirs),
                (ours, theirs) => panic!("{go}: {ours:?}, Go says {theirs:?}"),
            }
        }
        assert!(asked > 1000);
    }

    #[test]
    fn what_people_write_is_a_search_for_literals() {
        for (text, engine) in [
            ("", "always"),
            (".*", "always"),
            ("a*", "always"),
            (".*no change.*", "literals"),
            ("no change", "literals"),
            ("error.*lookup github\\.com", "literals"),
            ("^Dependencies do not meet ready condition", "literals"),
            ("^waiting.*socket$", "literals"),
            ("^.*timeout.*$", "literals"),
            ("(?s)^.*timeout.*$", "literals"),
            (".*foo.*|.*bar.*|^baz", "literals"),
            ("\\Qa.b\\E.*c", "literals"),
            ("(?i)no change", "automaton"),
            ("retry [0-9]+ of", "automaton"),
            ("a.+b", "automaton"),
            ("^$", "automaton"),
            (r"é\B", "simulated"),
        ] {
            assert_eq!(engine_of(text), engine, "{text}");
        }
    }

    #[test]
    fn one_text_is_compiled_once_and_forgotten_with_its_last_user() {
        let text = "one text of this test.*and of no other";
        let first = Pattern::compile(text).unwrap();
        let second = Pattern::compile(text).unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        drop(first);
        assert!(SHARED.lock().contains_key(text));
        drop(second);
        assert!(!SHARED.lock().contains_key(text));
    }

    /// Each of them took seconds, or hundreds of megabytes.
    #[test]
    fn what_takes_too_long_to_compile_is_refused_at_once() {
        let folded = format!("(?i){}", r"\pL".repeat(1363));
        let ranges = format!("(?i){}", r"[\x{0}-\x{10FFFF}]".repeat(200));
        let begun = now();
        for (text, error) in [
            (folded, PatternError::TooLarge),
            (ranges, PatternError::TooManyClasses),
            ("[a-z]{0,1000}".repeat(28), PatternError::TooLarge),
            (r"\pL{1000}".to_owned(), PatternError::TooLarge),
            ("((a{10}){10}){10}".repeat(9), PatternError::TooLarge),
            ("a".repeat(MAX_TEXT + 1), PatternError::TooLong),
        ] {
            assert_eq!(Pattern::compile(&text).err(), Some(error), "{}", &text[..20]);
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }

    /// The worst that is taken, at each bound.
    #[test]
    fn what_is_taken_compiles_and_ends_within_its_steps() {
        let set = "ab".chars().cycle().zip("abbabbbaab".chars().cycle()).map(|(a, b)| if a == b { 'a' } else { 'b' });
        let text: String = set.take(16 << 10).collect();
        for expression in [
            "[a-z]{0,1000}[a-z]{0,1000}[a-z]{0,1000}~".to_owned(),
            "a[ab]{1000}[ab]{1000}~".to_owned(),
            format!("(?i){}", r"\pL".repeat(7)),
            r"(?i)[\x{0}-\x{10FFFF}]".to_owned(),
            r"a[ab]{1000}\B".to_owned(),
        ] {
            let begun = now();
            let pattern = Pattern::compile(&expression).unwrap();
            let (compiled, begun) = (begun.elapsed(), now());
            let mut steps = MAX_SEARCH;
            let found = pattern.is_match(&text, &mut steps);
            assert!(found.is_ok() || (found == Err(Exhausted::Alone) && steps == 0), "{expression}: {found:?}");
            // In a debug build on a busy machine; a tenth of that in use.
            assert!(compiled < Duration::from_secs(1), "{expression} compiled in {compiled:?}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{expression} ran for {:?}", begun.elapsed());
        }
        let costly = Pattern::compile("a[ab]{1000}[ab]{1000}~").unwrap();
        assert_eq!(costly.is_match(&format!("{text}~"), &mut MAX_SEARCH.clone()), Err(Exhausted::Alone));
        assert_eq!(costly.is_match(&format!("{text}~"), &mut 1000), Err(Exhausted::Together));
    }

    /// Pieces of expressions that become literals, and of some that do not.
    fn expression() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a", "b", "ab", "é", ".*", "(?s:.*)", ".+", "\n", "^", "$", "|", "(?i:a)", "(a|b)", "a?", r"\b", r"\B",
            "[^a]",
        ]);
        prop::collection::vec(piece, 0..7).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn every_engine_answers_as_the_crate_regex_does(
            go in expression(),
            texts in prop::collection::vec("[abAé\n~]{0,12}", 1..8),
        ) {
            let Ok(translated) = goregex::translate(&go) else { return Ok(()) };
            let reference = regex::Regex::new(&translated.text).unwrap();
            let pattern = Pattern::read(&go).unwrap();
            for text in texts {
                prop_assert_eq!(is_match(&pattern, &text), reference.is_match(&text), "{:?} on {:?}", go, text);
            }
        }
    }
}
