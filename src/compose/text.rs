//! Words out of CamelCase, and cutting to a vendor's length.

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

    proptest::proptest! {
        #[test]
        fn a_cut_text_never_exceeds_its_limit(text in ".*", limit in 1usize..50) {
            let short = cut(&text, limit);
            assert!(short.chars().count() <= limit);
            assert!(text.chars().count() > limit || short == text);
        }
    }
}
