//! Words out of CamelCase, and cutting to a vendor's length.

/// A reason as a description: split where the class of characters changes (lower, upper, digit,
/// other), joined with spaces, in lower case. An upper-case run before a lower-case one gives it
/// its last letter: `OCIArtifactPullFailed` is `oci artifact pull failed`.
pub fn words(reason: &str) -> String {
    let mut runs: Vec<(Class, Vec<char>)> = Vec::new();
    for letter in reason.chars() {
        let class = Class::of(letter);
        match runs.last_mut() {
            Some((last, run)) if *last == class => run.push(letter),
            _ => runs.push((class, vec![letter])),
        }
    }
    for at in 1..runs.len() {
        if runs[at - 1].0 == Class::Upper && runs[at].0 == Class::Lower {
            let capital = runs[at - 1].1.pop().expect("a run holds at least one letter");
            runs[at].1.insert(0, capital);
        }
    }
    let words: Vec<String> = runs
        .into_iter()
        .filter(|(_, run)| !run.is_empty())
        .map(|(_, run)| run.into_iter().collect::<String>().to_lowercase())
        .collect();
    words.join(" ")
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
    match text.char_indices().nth(limit) {
        None => text.to_owned(),
        Some(_) => text.chars().take(limit.saturating_sub(1)).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_reasons() {
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
