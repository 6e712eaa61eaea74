//! Regular expressions for `matches`, in Go's dialect.

use regex::{Regex, RegexBuilder};

use crate::goregex;

/// Bytes one compiled expression may take.
const COMPILED_LIMIT: usize = 256 << 10;

/// Bytes of one expression; reading a longer one takes too long.
const LONGEST: usize = 4 << 10;

/// Expressions that are compiled ahead, for one text of CEL: bounds what it keeps.
pub(super) const MOST: usize = 32;

/// Steps that compiling one while running counts as: it can take some milliseconds.
pub(super) const COST: usize = 20_000;

/// Compiles what Go would accept; the error is in cel-go's words.
pub(super) fn compile(expression: &str) -> Result<Regex, String> {
    let refused = |why: &str| format!("error parsing regexp: {why}");
    if expression.len() > LONGEST {
        return Err(refused("it is too long"));
    }
    let translated = goregex::translate(expression).map_err(|why| refused(&why))?;
    RegexBuilder::new(&translated)
        .size_limit(COMPILED_LIMIT)
        .build()
        .map_err(|_| refused(&format!("it is too large: `{expression}`")))
}
