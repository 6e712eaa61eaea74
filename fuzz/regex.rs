//! What the lists of an Alert make of any expression in Go's dialect: it is refused, with words a
//! condition can hold, or it is compiled within the bounds and means the same in both lists.
//! `make fuzz` runs it; a time limit for each input is what shows an expression that takes too long.
//!
//! The first line of the input is the expression, the rest is the message it is asked about.

#![no_main]

use herald::api::{Alert, AlertSpec, Event, Key, ObjectMeta};
use herald::goregex;
use herald::matching::{CompiledAlert, Effort};
use libfuzzer_sys::fuzz_target;

/// Bytes of what is said about an expression: what is wrong, and a piece of it.
const WORDS: usize = 1024;

fn alert(spec: AlertSpec) -> CompiledAlert {
    let key = Key::new("apps", "all");
    let meta = ObjectMeta { key, uid: "uid".into(), generation: 1, annotations: Default::default() };
    CompiledAlert::new(&Alert { meta, spec, object: "{}".into() })
}

fuzz_target!(|text: &str| {
    let (expression, message) = text.split_once('\n').unwrap_or((text, ""));
    let list = vec![expression.to_owned()];
    let spec = || {
        let mut spec = AlertSpec { event_severity: "info".into(), ..Default::default() };
        spec.provider_ref.name = "git".into();
        spec
    };
    let including = alert(AlertSpec { inclusion_list: list.clone(), ..spec() });
    let excluding = alert(AlertSpec { exclusion_list: list, ..spec() });
    let event = Event { message: message.to_owned(), severity: "info".into(), ..Default::default() };

    assert_eq!(including.problems.len(), excluding.problems.len(), "{expression:?}");
    let wants = |alert: &CompiledAlert| alert.wants(&event, &mut Effort::elsewhere()).expect("all the steps there are");
    if [&including, &excluding].iter().any(|alert| wants(alert) && alert.over.get().is_some()) {
        return;
    }
    match including.problems.first() {
        None => {
            goregex::translate(expression).expect("only what was translated is compiled");
            assert_eq!(wants(&including), !wants(&excluding), "{expression:?} of {message:?}");
        }
        Some(problem) => {
            assert!(problem.terminal && problem.message.len() < WORDS, "{problem:?}");
            // `goregex` writes nothing that the crate `regex` does not read.
            let ours = goregex::translate(expression).is_err();
            assert!(
                ours || problem.message.contains(" bytes")
                    || problem.message.contains("states")
                    || problem.message.contains("classes"),
                "{expression:?}: {problem:?}"
            );
            assert!(!wants(&including) && wants(&excluding), "{expression:?}");
        }
    }
});
