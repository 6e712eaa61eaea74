//! What `commitStatusExpr` can be: refused with a place and a reason, or something that gives one
//! text or one reason for the same values, however often it runs. `make fuzz` runs it; its limits of
//! time and memory for each input are what shows an expression that escapes the bounds of `cel`.

#![no_main]

use std::sync::LazyLock;

use herald::cel::{Expr, MAX_STEPS, ResultType};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

static VALUES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../tests/fixtures/cel.json")).expect("it is JSON"));

/// Bytes of a result: a step pays for 16 of them.
const LONGEST: usize = 16 * MAX_STEPS;

fuzz_target!(|text: &str| {
    let names = ["event", "provider", "alert"];
    let compiled = Expr::compile(text, &names, ResultType::String);
    let expr = match compiled {
        Ok(expr) => expr,
        Err(error) => {
            let again = Expr::compile(text, &names, ResultType::String).expect_err("it was refused before");
            assert_eq!(again, error, "{text:?}");
            if let Some((line, column)) = error.position {
                let place = text.split('\n').nth(line - 1).expect("a line of the text");
                assert!(column <= place.chars().count() + 1, "{error} in {text:?}");
            }
            return;
        }
    };
    assert!(Expr::compile(text, &names, ResultType::Bool).is_err(), "{text:?} cannot be text and a condition");
    let values = names.map(|name| (name, &VALUES[name]));
    let result = expr.evaluate_string(&values);
    assert!(result.as_ref().is_ok_and(|text| text.len() <= LONGEST) || result.is_err(), "{text:?} grew");
    assert_eq!(expr.evaluate_string(&values), result, "{text:?}");
});
