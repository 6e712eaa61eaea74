//! Regular expressions as Go spells them, for `matches`.

use regex::{Regex, RegexBuilder};

/// Bytes one compiled expression may take.
const COMPILED_LIMIT: usize = 256 << 10;

/// Steps that compiling one counts as.
pub(super) const COST: usize = 2000;

/// Compiles what Go would accept.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(&translate(expression)?).size_limit(COMPILED_LIMIT).build();
    regex.map_err(|error| {
        let words = match &error {
            regex::Error::Syntax(text) => text.lines().last().unwrap_or_default().trim(),
            regex::Error::CompiledTooBig(_) => "it is too large",
            _ => "",
        };
        format!("error parsing regexp: {}: `{expression}`", words.strip_prefix("error: ").unwrap_or(words))
    })
}

/// Rust's spelling of the same: there `\d \w \s \b` mean Unicode unless told otherwise, brackets
/// inside of brackets nest, and `&& -- ~~` work on sets.
fn translate(expression: &str) -> Result<String, String> {
    let mut out = String::with_capacity(expression.len());
    let mut rest = expression;
    let mut class = false;
    // Whether a repetition stands just before; Go does not let them follow each other.
    let mut repeated = false;
    while let Some(c) = rest.chars().next() {
        let pair = rest.get(..2).unwrap_or_default();
        if let Some(repetition) = repetition(rest).filter(|_| !class) {
            if repeated {
                return refuse("invalid nested repetition operator", expression);
            }
            if repetition.split(['{', ',', '}']).any(|count| count.parse().is_ok_and(|count: u64| count > 1000)) {
                return refuse("invalid repeat count", expression);
            }
            out += repetition;
            rest = &rest[repetition.len()..];
            repeated = true;
            continue;
        }
        repeated = false;
        let taken = match (pair, c) {
            ("\\Q", _) => {
                let (literal, after) = rest[2..].split_once("\\E").unwrap_or((&rest[2..], ""));
                out += &regex::escape(literal);
                rest = after;
                continue;
            }
            (_, '\\') => {
                let Some(escaped) = rest[1..].chars().next() else { return refuse("trailing backslash", expression) };
                match escaped {
                    'd' => out += "[0-9]",
                    'D' => out += "[^0-9]",
                    'w' => out += "[0-9A-Za-z_]",
                    'W' => out += "[^0-9A-Za-z_]",
                    's' => out += r"[\t\n\f\r ]",
                    'S' => out += r"[^\t\n\f\r ]",
                    'b' if !class => out += r"(?-u:\b)",
                    // Both sides of a character that is not ASCII are what Rust cannot look at.
                    'B' if !class => out += r"\B",
                    '0'..='7' => {
                        let digits = rest[1..].len() - rest[1..].trim_start_matches(|c| matches!(c, '0'..='7')).len();
                        let digits = digits.min(3);
                        // One digit, but zero, is a back-reference, which Go does not have either.
                        if escaped != '0' && digits < 2 {
                            return refuse("invalid escape sequence", expression);
                        }
                        let code = u32::from_str_radix(&rest[1..=digits], 8).unwrap_or_default();
                        out += &format!("\\x{{{code:x}}}");
                        rest = &rest[1 + digits..];
                        continue;
                    }
                    'p' | 'P' | 'x' if rest[2..].starts_with('{') => {
                        let length = rest.find('}').map_or(rest.len(), |end| end + 1);
                        out += &rest[..length];
                        rest = &rest[length..];
                        continue;
                    }
                    'A' | 'z' | 'p' | 'P' | 'x' | 'a' | 'f' | 't' | 'n' | 'r' | 'v' => out.extend(['\\', escaped]),
                    escaped if escaped.is_ascii_punctuation() => out += &regex::escape(&escaped.to_string()),
                    _ => return refuse("invalid escape sequence", expression),
                }
                1 + escaped.len_utf8()
            }
            ("[:", _) if class => {
                let end = rest.find(":]").map_or(0, |end| end + 2);
                out += if end == 0 { "\\[:" } else { &rest[..end] };
                end.max(2)
            }
            (_, '[') if class => {
                out += "\\[";
                1
            }
            ("&&" | "~~", _) if class => {
                out.extend(['\\', c, '\\', c]);
                2
            }
            ("--", _) if class => return refuse("invalid character class range", expression),
            (_, '{') if !class => {
                out += "\\{";
                1
            }
            (_, '[') => {
                class = true;
                out.push('[');
                // A bracket that comes first is itself.
                let mut taken = 1;
                if rest[taken..].starts_with('^') {
                    out.push('^');
                    taken += 1;
                }
                if rest[taken..].starts_with(']') {
                    out += "\\]";
                    taken += 1;
                }
                taken
            }
            (_, ']') if class => {
                class = false;
                out.push(']');
                1
            }
            ("(?", _) if !class => {
                let flags = rest[2..].trim_start_matches(['i', 'm', 's', 'U', '-']);
                if !flags.starts_with([':', ')', 'P', '<']) || flags.starts_with("<=") || flags.starts_with("<!") {
                    return refuse("invalid or unsupported Perl syntax", expression);
                }
                out += "(?";
                2
            }
            _ => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[taken..];
    }
    Ok(out)
}

/// The repetition that `text` starts with. A brace that does not begin one is itself.
fn repetition(text: &str) -> Option<&str> {
    let length = match text.as_bytes().first()? {
        b'*' | b'+' | b'?' => 1,
        b'{' => {
            let end = text.find('}')?;
            let (least, most) = text[1..end].split_once(',').unwrap_or((&text[1..end], "0"));
            let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
            (!least.is_empty() && digits(least) && digits(most)).then_some(end + 1)?
        }
        _ => return None,
    };
    let lazy = text[length..].starts_with('?');
    Some(&text[..length + usize::from(lazy)])
}

fn refuse(why: &str, expression: &str) -> Result<String, String> {
    Err(format!("error parsing regexp: {why}: `{expression}`"))
}
