//! CEL as Flux offers it: compiled when an object changes, run for each event. Pure: it reads
//! nothing but its arguments. Used by `compose` for `commitStatusExpr`.
//!
//! An expression goes `syntax` (text to tree) → `check` (names and types, to what can be run) →
//! `run`; `functions`, `strings`, `time` and `pattern` are what it can call, `types` and `value` what it
//! is made of.
//!
//! The measure is cel-go 0.27 with the options of Flux: standard library, optional types, the
//! extensions for strings, sets and encoders, comparison across number types, UTC, lists and maps
//! of one type. `tests/fixtures/cel.tsv` holds what that one says to some hundreds of expressions. What
//! it has no bounds for is bounded here, by the constants below.
//!
//! It is our own from text to result because the crate `cel` can neither check types nor be
//! bounded: a text may double with every step of an expression, and its parser takes 100 KiB of
//! stack for each pair of parentheses in a debug build.

mod check;
mod functions;
mod pattern;
mod run;
mod strings;
mod syntax;
mod time;
mod types;
mod value;

use run::Node;
use value::Value;

/// Bytes of an expression. Those in use have some hundred.
pub const MAX_TEXT: usize = 16 << 10;

/// Levels of an expression, so that no walk over it can run out of stack. As cel-go's.
pub const MAX_DEPTH: usize = 250;

/// Brackets within brackets. cel-go allows 250; each takes the parser 14 KiB in a debug build, and a
/// thread has 2 MiB.
pub const MAX_NESTING: usize = 100;

/// Steps of one run: each node visited, each element gone through, each 16 bytes of text read or made is one; a
/// search pays for the states it makes. Bounds time to some ten milliseconds and memory to some ten megabytes.
pub const MAX_STEPS: usize = 250_000;

/// What an expression must give, known before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultType {
    /// A name.
    String,
    /// A condition.
    Bool,
}

/// An expression that was found to be right.
#[derive(Debug)]
pub struct Expr {
    node: Node,
    variables: Vec<String>,
}

/// Why an expression cannot be used, for the one who wrote it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(*.position))]
pub struct CompileError {
    /// Line and column, from 1, where it is about a place.
    pub position: Option<(usize, usize)>,
    /// What is wrong.
    pub message: String,
}

/// Why an expression gave nothing for these values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    message: String,
    /// It had fewer steps than [`MAX_STEPS`], and they did not suffice.
    is_short: bool,
}

/// What is wrong at a byte of the text, or with the whole of it.
#[derive(Debug)]
struct Problem {
    at: Option<usize>,
    message: String,
}

impl Expr {
    /// Compiles an expression over `variables`, each of them a map from string to anything.
    pub fn compile(text: &str, variables: &[&str], result: ResultType) -> Result<Self, CompileError> {
        let node = Self::read(text).and_then(|expr| check::check(&expr, variables, result));
        match node {
            Ok(node) => Ok(Self { node, variables: variables.iter().map(|&name| name.to_owned()).collect() }),
            Err(problem) => Err(problem.explain(text)),
        }
    }

    fn read(text: &str) -> Result<syntax::Expr, Problem> {
        if text.len() > MAX_TEXT {
            return Err(Problem::whole(format!("it has {} bytes; {MAX_TEXT} is the most", text.len())));
        }
        syntax::parse(text)
    }

    /// Runs an expression that was compiled for [`ResultType::String`].
    ///
    /// # Errors
    /// It gives nothing for these values.
    pub fn evaluate_string(&self, variables: &[(&str, &serde_json::Value)]) -> Result<String, EvalError> {
        self.evaluate_string_within(variables, &mut MAX_STEPS.clone())
    }

    /// The same within `steps`, of which fewer are left afterwards.
    ///
    /// # Errors
    /// It gives nothing for these values, or there are too few steps: see [`EvalError::is_short`].
    pub fn evaluate_string_within(
        &self,
        variables: &[(&str, &serde_json::Value)],
        steps: &mut usize,
    ) -> Result<String, EvalError> {
        match self.evaluate(variables, steps)? {
            Value::String(text) => Ok(text.to_string()),
            other => Err(wrong_result(&other, "string")),
        }
    }

    /// Runs an expression that was compiled for [`ResultType::Bool`].
    pub fn evaluate_bool(&self, variables: &[(&str, &serde_json::Value)]) -> Result<bool, EvalError> {
        match self.evaluate(variables, &mut MAX_STEPS.clone())? {
            Value::Bool(bool) => Ok(bool),
            other => Err(wrong_result(&other, "bool")),
        }
    }

    fn evaluate<'a>(
        &self,
        variables: &[(&str, &'a serde_json::Value)],
        steps: &mut usize,
    ) -> Result<Value<'a>, EvalError> {
        let value_of = |declared: &String| {
            let found = variables.iter().find(|(name, _)| name == declared);
            let (_, value) = found.ok_or_else(|| EvalError::new(format!("no such attribute(s): {declared}")))?;
            Ok(Value::from(*value))
        };
        run::run(&self.node, self.variables.iter().map(value_of).collect::<Result<_, EvalError>>()?, steps)
    }
}

impl Problem {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at: Some(at), message: message.into() }
    }

    fn whole(message: impl Into<String>) -> Self {
        Self { at: None, message: message.into() }
    }

    fn explain(self, text: &str) -> CompileError {
        let position = self.at.and_then(|at| text.get(..at)).map(|before| {
            let line = before.rsplit('\n').next().unwrap_or_default();
            (before.matches('\n').count() + 1, line.chars().count() + 1)
        });
        CompileError { position, message: self.message }
    }
}

impl EvalError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), is_short: false }
    }

    /// Whether the caller had too few steps, and more might have sufficed.
    pub fn is_short(&self) -> bool {
        self.is_short
    }
}

/// What cannot be known before an expression runs: cel-go too takes a few signatures on trust.
fn wrong_result(value: &Value<'_>, wanted: &str) -> EvalError {
    EvalError::new(format!("the result is of type {}, not {wanted}", value.type_name()))
}

/// The error of a function or operator that has no use for these values.
fn no_such_overload(function: &str, values: &[Value<'_>]) -> EvalError {
    let types: Vec<_> = values.iter().map(Value::type_name).collect();
    EvalError::new(format!("no such overload: {function}({})", types.join(", ")))
}

fn place(position: Option<(usize, usize)>) -> String {
    position.map(|(line, column)| format!("{line}:{column}: ")).unwrap_or_default()
}

#[cfg(test)]
mod tests;
