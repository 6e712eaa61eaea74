//! The evaluator beside cel-go: every expression of the fixture gives what cel-go gave, or is refused
//! where cel-go refuses it; and no text at all makes it panic.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

const VARIABLES: [&str; 3] = ["event", "provider", "alert"];

/// What cel-go says; the head of the file tells how it was asked.
const MEASURED: &str = include_str!("../../tests/fixtures/cel.tsv");

fn world() -> Json {
    serde_json::from_str(include_str!("../../tests/fixtures/cel.json")).unwrap()
}

fn compile(text: &str) -> Result<Expr, String> {
    Expr::compile(text, &VARIABLES, ResultType::String).map_err(|error| error.to_string())
}

fn evaluate(text: &str, world: &Json) -> Result<String, String> {
    let variables = VARIABLES.map(|name| (name, &world[name]));
    compile(text)?.evaluate_string(&variables).map_err(|error| error.to_string())
}

/// What becomes of an expression and what comes of it, in the words of the fixture.
fn verdict(text: &str, world: &Json) -> (String, String) {
    let (node, found) = match Expr::read(text).and_then(|expr| check::infer(&expr, &VARIABLES)) {
        Ok(checked) => checked,
        Err(problem) => return ("refused".to_owned(), problem.explain(text).to_string()),
    };
    let found = check::output_name(&found);
    match run::run(&node, VARIABLES.map(|name| Value::from(&world[name])).into(), &mut super::MAX_STEPS.clone()) {
        Err(error) => (format!("fails as {found}"), error.to_string()),
        Ok(value) => {
            let value = match &value {
                Value::String(text) => serde_json::to_string(&**text).unwrap(),
                Value::Int(int) => int.to_string(),
                Value::Uint(uint) => format!("{uint}u"),
                Value::Bool(bool) => bool.to_string(),
                other => other.type_name().to_owned(),
            };
            (found, value)
        }
    }
}

/// Where this differs from cel-go, and why that is borne.
const DIFFERENCES: &[(&str, &str)] = &[
    ("string(double('0x1p4'))", "Rust does not read hexadecimal fractions"),
    ("string(double('1_000'))", "nor underscores"),
    ("google.protobuf.StringValue{value: 'a'}", "there are no protocol buffers here"),
    ("google.protobuf.StringValue{value: 'a'} + ''", "there are no protocol buffers here"),
    ("google.protobuf.Int64Value{value: 3}", "there are no protocol buffers here"),
    (
        "google.protobuf.Struct{fields: {'a': google.protobuf.Value{string_value: 'x'}}}",
        "there are no protocol buffers here",
    ),
    ("google.protobuf.Timestamp{seconds: 1}", "there are no protocol buffers here"),
];

#[test]
fn agrees_with_cel_go() {
    let world = world();
    let mut wrong = Vec::new();
    let (mut rows, mut differences) = (0, 0);
    for row in MEASURED.lines().filter(|row| !row.starts_with("# ")) {
        let columns: Vec<_> = row.split('\t').map(|cell| cell.replace('␤', "\n").replace('␉', "\t")).collect();
        let [text, became, result] = [0, 1, 2].map(|column: usize| columns[column].as_str());
        rows += 1;
        let (ours, ours_result) = verdict(text, &world);
        let same = match became {
            // cel-go's own words where its checker speaks; its parser's are those of a tool.
            "refused" if result.contains("Syntax error") => ours == "refused",
            "refused" => ours == "refused" && (ours_result == result || result.contains("precision")),
            // Before it runs or when it runs: it cannot be used.
            "cannot be made" => ours == "refused" || ours.starts_with("fails as "),
            became if became.starts_with("fails as ") => {
                ours == became && (ours_result == result || about_values(result) || about_values(&ours_result))
            }
            became => ours == became && ours_result == result,
        };
        if DIFFERENCES.iter().any(|(known, _)| *known == text) {
            differences += 1;
            assert!(!same, "no longer differs: {text}");
        } else if !same {
            wrong.push(format!("{text}\n  cel-go: {became}: {result}\n  here:   {ours}: {ours_result}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {rows} rows differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(rows > 1200 && differences == DIFFERENCES.len(), "{rows} rows, {differences} differences");
}

/// Errors that cel-go words by its Go types.
fn about_values(error: &str) -> bool {
    ["no such overload", "illegal base64 data", "iterable type", "qualifier type", "regexp"]
        .iter()
        .any(|words| error.contains(words))
}

#[test]
fn the_expressions_of_the_documentation() {
    let world = world();
    for (text, result) in [
        (
            "(event.involvedObject.kind + '/' + event.metadata.foo + '/' + \
             provider.metadata.uid.split('-').first().value()).lowerAscii()",
            "kustomization/bar/0c9c2e41",
        ),
        ("event.metadata.foo + ''", "bar"),
        ("string(event.metadata.foo)", "bar"),
        ("event.metadata['a.b/c'] + ''", "dotted"),
        ("event.metadata.?x.orValue('def') + ''", "def"),
        ("has(event.metadata.x) ? 'y' : 'n'", "n"),
        ("string(provider.metadata.generation)", "3"),
    ] {
        assert_eq!(evaluate(text, &world).as_deref(), Ok(result), "{text}");
    }
}

#[test]
fn what_is_refused_says_why() {
    let mismatch = "CEL expression output type mismatch: expected string, got";
    for (text, words) in [
        ("event.metadata.foo", &*format!("{mismatch} dyn")),
        ("event.metadata.foo + event.metadata.foo", &format!("{mismatch} dyn")),
        ("event.involvedObject.kind == 'x'", &format!("{mismatch} bool")),
        ("unknown + 'a'", "1:1: undeclared reference to 'unknown' (in container '')"),
        ("'a'\n + regex.replace('a', 'b', 'c')", "2:4: undeclared reference to 'regex' (in container '')"),
        ("[1, 2].slice(0, 1)", "1:13: undeclared reference to 'slice' (in container '')"),
        ("'a' + 1", "1:5: found no matching overload for '_+_' applied to '(string, int)'"),
        ("1 == 'a'", "1:3: found no matching overload for '_==_' applied to '(int, string)'"),
        ("'a' +", "1:6: Syntax error: found the end, expected an expression"),
        ("'a", "1:1: Syntax error: a string that does not end"),
        ("int('a') > 1 ? 'a' : 'b'", "1:4: type conversion error from 'string' to 'int'"),
    ] {
        assert_eq!(compile(text).unwrap_err(), words, "{text}");
    }
}

#[test]
fn what_the_values_do_not_allow_is_said_when_it_runs() {
    let world = world();
    for (text, words) in [
        ("event.metadata.missing + ''", "no such key: missing"),
        ("provider.metadata.generation + ''", "no such overload: _+_(int, string)"),
        // What is not optional passes `orValue`, whatever it is; cel-go lets it too.
        ("provider.metadata.generation.orValue('a')", "the result is of type int, not string"),
    ] {
        assert_eq!(evaluate(text, &world).unwrap_err(), words, "{text}");
    }
}

#[test]
fn conditions_over_other_variables() {
    let expr = Expr::compile("res.kind == req.kind && req.count > 2", &["res", "req"], ResultType::Bool).unwrap();
    let (res, req) = (json!({"kind": "a"}), json!({"kind": "a", "count": 3}));
    assert_eq!(expr.evaluate_bool(&[("req", &req), ("res", &res)]), Ok(true));
    let error = expr.evaluate_bool(&[("req", &req)]).unwrap_err();
    assert_eq!(error.to_string(), "no such attribute(s): res");
}

#[test]
fn nothing_runs_away() {
    let world = world();
    let doubled = "['x']".to_owned() + &".map(x, x + x)".repeat(60) + ".join()";
    let nested =
        (0..8).fold("'x'".to_owned(), |body, level| format!("[1,2,3,4,5,6,7,8,9,10].map(v{level}, {body}).join('')"));
    let replaced = "['0123456789']".to_owned() + &".map(x, x.replace('', x))".repeat(6) + ".join()";
    for text in [doubled, nested, replaced] {
        let error = evaluate(&text, &world).unwrap_err();
        assert!(error.contains("more than 250000 steps"), "{error}");
    }
    assert!(evaluate("'%.1001f'.format([1.0])", &world).unwrap_err().contains("up to 1000"));
    let long = |bytes: usize| format!("'{}'", "x".repeat(bytes - 2));
    assert!(evaluate(&long(MAX_TEXT), &world).is_ok());
    assert_eq!(compile(&long(MAX_TEXT + 1)).unwrap_err(), "it has 16385 bytes; 16384 is the most");
    let patterns = "'a'.matches('a') ? 'b' : ".repeat(33) + "'c'";
    assert!(compile(&patterns).unwrap_err().contains("more than 32 regular expressions"));
    let patterns = "[1,2,3,4,5,6,7,8,9,10,11,12,13].map(x, string('a'.matches(string(x)))).join()";
    assert!(evaluate(patterns, &world).unwrap_err().contains("steps"));
    // Types that double with each level.
    let types = (0..40).rev().fold("'x'".to_owned(), |body, level| {
        let next = level + 1;
        format!("[{{v{level}: v{level}}}].map(v{next}, v{next} == v{next} ? {body} : 'y')[0]")
    });
    assert_eq!(compile(&format!("[{{1: 1}}].map(v0, {types})[0]")).unwrap_err(), "its types are too large");
}

/// Threads of tests have 2 MiB of stack, as those of the service have.
#[test]
fn depth_is_refused_before_the_stack_ends() {
    let world = world();
    for (head, more, middle, tail) in [
        ("'a'", " + 'a'", "", ""),
        ("event", ".a", "", ""),
        ("event", "[0]", "", ""),
        ("'a'", ".trim()", "", ""),
        ("event", ".?a", "", ""),
        ("1", " < 1", "", ""),
        ("", "(", "'a'", ")"),
        ("", "[", "'a'", "]"),
        ("", "[", "'a'", "][0]"),
        ("", "{'a': ", "'a'", "}"),
        ("", "!(", "true", ")"),
        ("", "string(", "'a'", ")"),
        ("", "true ? 'a' : ", "'b'", ""),
        ("", "true ? (", "'b'", ") : 'a'"),
        ("", "[1].map(x, ", "'a'", ")[0]"),
        ("", "[1].all(x, ", "true", ")"),
        ("", "optional.of(1).optMap(x, ", "1", ")"),
        ("", "optional.of(", "1", ").value()"),
        ("", "event[", "'a'", "]"),
        ("", "'%s'.format([", "1", "])"),
    ] {
        for times in [MAX_NESTING / 2 - 3, MAX_NESTING - 3, MAX_NESTING, MAX_DEPTH - 3, MAX_DEPTH, 5000] {
            let text = [head, &more.repeat(times), middle, &tail.repeat(times)].concat();
            let outcome = evaluate(&text, &world);
            if times > MAX_DEPTH {
                let error = outcome.unwrap_err();
                assert!(error.contains("nested deeper") || error.contains("is the most"), "{more}: {error}");
            }
        }
    }
    // These are long, not deep.
    for text in
        [format!("true{} ? 'a' : 'b'", " && true".repeat(1000)), format!("{}true ? 'a' : 'b'", "!".repeat(5000))]
    {
        assert_eq!(evaluate(&text, &world).as_deref(), Ok("a"));
    }
}

/// Text of the pieces that expressions are made of.
fn some_text() -> impl Strategy<Value = String> {
    const PIECES: &str = r#"event provider .metadata .foo .?x [ [? ] ( ) { } 'a' "b" ' " ''' r' b' \ \u00 1 2u 0x 1.5 1e9 - !
        + * / % == < in && || ? : , . true null has( .map(x, .all(x, .optMap(x, x string( size( .first() .value()
        .orValue( .format([ '%s|%.2f|%x' .split( .join( .substring( timestamp( duration( .getHours( .matches('(')
        sets.contains( // é 👋 @ ` if"#;
    let pieces: Vec<_> = PIECES.split_whitespace().chain(["\n", " "]).collect();
    prop::collection::vec(prop::sample::select(pieces), 0..30).prop_map(|pieces| pieces.concat())
}

/// An expression that can be read, and sometimes be run.
fn some_expression() -> impl Strategy<Value = String> {
    let words = |text: &'static str| prop::sample::select(text.split_whitespace().collect::<Vec<_>>());
    let leaf = words(
        "event.metadata.foo event.metadata event.metadata.?x provider.metadata.list provider.metadata.nothing 'a,b' 'é👋' \
         -1 9223372036854775807 2u 1.5 true null b'a' [] ['a'] {} {'a':1} x int timestamp(0) duration('1h') \
         optional.none() dyn(1)",
    );
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 3, move |inner| {
        let one = || inner.clone();
        let operator = words("+ - * / % == != < >= && || in");
        let method = words("size first last value hasValue trim reverse join getHours unwrapOpt");
        let with = words("split contains indexOf lastIndexOf charAt substring orValue or format join matches getDate");
        let function = words("string int uint double bytes dyn type duration timestamp size optional.of base64.decode");
        let each = words("map filter all exists exists_one optMap optFlatMap");
        prop_oneof![
            (one(), operator, one()).prop_map(|(a, operator, b)| format!("({a} {operator} {b})")),
            (one(), one(), one()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (one(), method).prop_map(|(a, name)| format!("{a}.{name}()")),
            (one(), with, one()).prop_map(|(a, name, b)| format!("{a}.{name}({b})")),
            (function, one()).prop_map(|(name, a)| format!("{name}({a})")),
            (one(), each, one()).prop_map(|(a, name, b)| format!("{a}.{name}(x, {b})")),
            (one(), one()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (one(), one()).prop_map(|(a, b)| format!("[{a}, ?{b}]")),
            (one(), one()).prop_map(|(a, b)| format!("'%s|%d|%e|%X'.format([{a}, {b}, {a}, {b}])")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in prop_oneof![any::<String>(), some_text(), some_expression()]) {
        let world = world();
        let _ = evaluate(&text, &world);
        // What gives no string runs as well.
        let _ = verdict(&text, &world);
    }
}
