//! Words out of CamelCase, and cutting to a vendor's length.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

/// A reason as a description: split where the class of characters changes (lower, upper, digit,
/// other), joined with spaces, in lower case. An upper-case run before a lower-case one gives it
/// its last letter: `OCIArtifactPullFailed` is `oci artifact pull failed`.
pub fn words(reason: &str) -> String {
    let mut spaced = String::with_capacity(reason.len() + 8);
    let mut before = None;
    let mut letters = reason.chars().map(|letter| (letter, Class::of(letter))).peekable();
    while let Some((letter, class)) = letters.next() {
        let begins = match (before, class) {
            (None, _) => false,
            (Some(Class::Upper), Class::Upper) => letters.peek().is_some_and(|(_, next)| *next == Class::Lower),
            (Some(Class::Upper), Class::Lower) => false,
            (Some(before), _) => before != class,
        };
        if begins {
            spaced.push(' ');
        }
        spaced.push(letter);
        before = Some(class);
    }
    spaced.to_lowercase()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Lower,
    Upper,
    Digit,
    Other,
}

impl Class {
    fn of(letter: char) -> Self {
        match letter {
            _ if letter.is_lowercase() => Class::Lower,
            _ if letter.is_uppercase() => Class::Upper,
            _ if letter.is_numeric() => Class::Digit,
            _ => Class::Other,
        }
    }
}

/// At most `limit` characters of `text`; what was longer ends in `…`.
pub fn cut(text: &str, limit: usize) -> String {
    // No text has more characters than bytes, and most are far shorter.
    if text.len() <= limit {
        return text.to_owned();
    }
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Hex digits of the hash in a name that was cut.
const HASH: usize = 16;

/// A name of at most `limit` characters: a longer one is cut and ends in a part of its hash, so that two names
/// stay two. With `ignores_case`, names that differ in case alone stay one.
pub fn fit(name: Arc<str>, limit: usize, ignores_case: bool) -> Arc<str> {
    if name.len() <= limit || name.chars().count() <= limit {
        return name;
    }
    let hash = match ignores_case {
        true => digest(&SHA256, name.to_lowercase().as_bytes()),
        false => digest(&SHA256, name.as_bytes()),
    };
    let start = name.chars().take(limit.saturating_sub(HASH + 1)).chain(['-']);
    let hash = hash.as_ref()[..HASH / 2].iter().map(|byte| format!("{byte:02x}"));
    start.map(String::from).chain(hash).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// spec/pipeline.md 4.5 and git-providers.md 1.7.
    #[test]
    fn pipeline_4_5_words_of_reasons() {
        for (reason, expected) in [
            ("ReconciliationSucceeded", "reconciliation succeeded"),
            ("HealthCheckFailed", "health check failed"),
            ("error", "error"),
            ("OCIArtifactPullFailed", "oci artifact pull failed"),
            ("InvalidCELExpression", "invalid cel expression"),
            ("Apply2Failed", "apply 2 failed"),
            ("GETFailed2Times", "get failed 2 times"),
            ("PDFLoader", "pdf loader"),
            ("foo_bar", "foo _ bar"),
            ("event-happened", "event - happened"),
            ("a-b_c", "a - b _ c"),
            ("", ""),
            ("X", "x"),
        ] {
            assert_eq!(words(reason), expected, "{reason}");
        }
    }

    #[test]
    fn cuts_by_characters() {
        assert_eq!(cut("übergröße", 9), "übergröße");
        assert_eq!(cut("übergröße", 5), "über…");
    }

    #[test]
    fn a_name_that_does_not_fit_keeps_its_start_and_is_told_from_others() {
        let long = |end: &str| Arc::from(format!("Kustomization/{}{end}", "ü".repeat(255)));
        let (one, other) = (fit(long("a"), 255, false), fit(long("b"), 255, false));
        assert_eq!([one.chars().count(), other.chars().count()], [255, 255]);
        assert!(one.starts_with("Kustomization/üü") && one != other);
        assert_eq!(one, fit(long("a"), 255, false), "the same each time");
        assert_ne!(fit(long("A"), 255, false), one);
        let lower = |text: &str| text.to_lowercase();
        assert_eq!(lower(&fit(long("A"), 255, true)), lower(&fit(long("a"), 255, true)));
        let fits: Arc<str> = "ü".repeat(255).into();
        assert_eq!(fit(fits.clone(), 255, false), fits);
    }

    proptest::proptest! {
        #[test]
        fn a_cut_text_never_exceeds_its_limit(text in ".*", limit in 1usize..50) {
            let short = cut(&text, limit);
            assert!(short.chars().count() <= limit);
            assert!(text.chars().count() > limit || short == text);
        }
    }
}
