//! Regular expressions for `matches`, in Go's dialect.

use std::sync::Arc;

use super::EvalError;
use super::run::Budget;
use crate::pattern::{Exhausted, Pattern};

/// Expressions that are compiled ahead, for one text of CEL: bounds what it keeps.
pub(super) const MOST: usize = 32;

/// States of all of them together: some milliseconds to compile.
pub(super) const MOST_STATES: u32 = 16_000;

/// Steps that compiling one while running counts as, besides its size.
pub(super) const COST: usize = 20_000;

/// Compiles what Go would accept; the error is in cel-go's words.
pub(super) fn compile(expression: &str) -> Result<Arc<Pattern>, String> {
    Pattern::compile(expression).map_err(|error| format!("error parsing regexp: {error}"))
}

/// Searches a text, and pays for what that takes.
pub(super) fn is_match(budget: &mut Budget, pattern: &Pattern, text: &str) -> Result<bool, EvalError> {
    budget.search(|steps| pattern.is_match(text, steps)).map_err(|why| match why {
        Exhausted::Alone => EvalError::new(format!("matches: {why}; write it with fewer repetitions")),
        Exhausted::Together => budget.out_of_steps(),
    })
}
