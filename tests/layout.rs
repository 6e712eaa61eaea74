//! The house rules that neither the compiler nor clippy can see: which module may know which,
//! where sockets and the kube client are, and that lists and generated files agree with the code.
//!
//! Reads `src` as text, without comments and tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use herald::vendors::TABLE;
use regex::Regex;

/// Which module may use which: the arrows of the architecture. Besides, `ops` is known by all who
/// count, and `app` knows all.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("goregex", &[]),
    ("compute", &[]),
    ("pattern", &["goregex"]),
    ("cel", &["pattern"]),
    ("clock", &[]),
    ("secret", &[]),
    ("view", &["api", "cel", "secret"]),
    ("matching", &["api", "cel", "pattern", "view"]),
    ("compose", &["api", "cel", "view"]),
    ("outbound", &["secret", "clock"]),
    ("outbox", &["compose", "clock"]),
    ("vendors", &["outbound", "compose", "api", "secret"]),
    ("pipeline", &["matching", "compose", "compute", "outbox", "view", "vendors", "ops"]),
    ("delivery", &["outbox", "vendors", "outbound", "view", "clock", "ops"]),
    ("cluster", &["api", "compute", "matching", "view", "ops"]),
    ("ingest", &["pipeline", "api", "ops"]),
    ("reconcile", &["api", "view", "matching", "delivery::resolve", "delivery::troubles", "cluster", "ops"]),
    ("ops", &[]),
    ("cli", &["ops", "outbound"]),
    ("operate", &["cli", "clock", "compose", "outbox"]),
    (
        "app",
        &[
            "api",
            "cli",
            "clock",
            "cluster",
            "compute",
            "delivery",
            "ingest",
            "ops",
            "outbound",
            "outbox",
            "pipeline",
            "reconcile",
            "view",
        ],
    ),
];

/// Arrows that stand in the code all the same: from a module to what it names, and why that is borne.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("compose", "matching", "an Alert is composed as it was compiled, and a skip says why there is nothing to say"),
    ("outbox", "api", "a job names its Provider and Alert, and a repeat is told by the event"),
    ("outbox", "matching::gate", "a repeat asks the same marks of an event as the gates"),
    ("vendors", "matching::gate", "a row says what its type carries, in the gates' word"),
    ("vendors", "outbox", "what a vendor has on a commit is what the outbox remembers of it"),
    ("pipeline", "api", "the event itself comes in"),
    ("app", "vendors", "what waits is shown by type of Provider, and the table has their names"),
    ("pipeline", "clock", "a job is stamped with its arrival"),
    ("pipeline", "delivery", "whoever puts a job wakes who tells it"),
    ("delivery", "api", "a Provider is resolved from its spec"),
    ("delivery", "compose", "a job carries a notice"),
    ("delivery", "secret", "credentials go from the view to the target"),
    ("delivery", "matching::gate", "certificates beside the token are for types that carry a commit status"),
    (
        "cluster",
        "outbound",
        "a ServiceAccount's token is what a credential is made of, and the lack of one ends a delivery",
    ),
    ("cluster", "secret", "a ServiceAccount's token is one"),
    ("cluster", "clock", "a lease is a matter of time"),
    ("ingest", "clock", "a spell of refusals is told once"),
    ("ingest", "compose", "metadata is cleaned on arrival, before anything reads it"),
    ("reconcile", "compose", "an Event has compose's words on metadata, and is cut like any text"),
    ("reconcile", "clock", "transitions have times, and writes a pace"),
    ("ops", "clock", "a line of the log has a time"),
    ("ops", "compose::text", "a field of a line is cut like any text"),
    ("ops", "view", "readiness asks whether everything is known"),
];

/// A file below `src`, its tests and comments taken out.
struct Source {
    /// `delivery/mod.rs`.
    file: String,
    /// `delivery`.
    module: String,
    text: String,
    code: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut paths = Vec::new();
    files(&src, &mut paths);
    paths.sort();
    let comment = Regex::new(r"(?m)^\s*//.*$").expect("valid");
    paths
        .into_iter()
        .map(|path| {
            let file = path.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("text");
            let tests_only = file.ends_with("/tests.rs");
            let code = text.split("#[cfg(test)]\nmod ").next().filter(|_| !tests_only).unwrap_or_default();
            let code = comment.replace_all(code, "").into_owned();
            let module = file.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
            Source { file, module, text, code }
        })
        .collect()
}

/// Files in which `pattern` occurs, each with what was found there.
fn found<'a>(sources: &'a [Source], pattern: &str) -> Vec<(&'a Source, String)> {
    let pattern = Regex::new(pattern).expect("valid");
    let of = |source: &'a Source| {
        let found: Vec<_> = pattern.find_iter(&source.code).map(|found| (source, found.as_str().to_owned())).collect();
        found
    };
    sources.iter().flat_map(of).collect()
}

#[test]
fn modules_know_only_what_they_may() {
    let sources = sources();
    let mut used = BTreeSet::new();
    let mut wrong = Vec::new();
    // `super::` of a file that is a module of its own is the crate too.
    let path = Regex::new(r"\b(?:crate|super)::([a-z_]+(?:::[a-z_]+)*)").expect("valid");
    for source in sources.iter().filter(|source| !matches!(source.module.as_str(), "lib" | "main")) {
        let (_, allowed) = ARROWS
            .iter()
            .find(|(module, _)| *module == source.module)
            .unwrap_or_else(|| panic!("{} is of a module that ARROWS does not know", source.file));
        let alone = !source.file.contains('/');
        for found in path.captures_iter(&source.code) {
            let (whole, target) = (&found[0], &found[1]);
            let top = target.split("::").next().unwrap_or_default();
            let known = ARROWS.iter().any(|(module, _)| *module == top);
            if (whole.starts_with("super") && !alone) || !known || top == source.module {
                continue;
            }
            let leads_to = |to: &str| target == to || target.starts_with(&format!("{to}::"));
            if allowed.iter().any(|to| leads_to(to)) {
                continue;
            }
            let exception = EXCEPTIONS.iter().position(|(from, to, _)| *from == source.module && leads_to(to));
            match exception {
                Some(exception) => {
                    used.insert(exception);
                }
                None => wrong.push(format!("{}: {whole}", source.file)),
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that no rule allows:\n{}", wrong.join("\n"));
    let idle: Vec<_> = (0..EXCEPTIONS.len()).filter(|at| !used.contains(at)).map(|at| EXCEPTIONS[at]).collect();
    assert!(idle.is_empty(), "exceptions that nothing needs any more: {idle:?}");
}

#[test]
fn pure_modules_do_nothing_but_think() {
    let sources = sources();
    let pure = |source: &Source| ["api", "cel", "view", "matching", "compose"].contains(&source.module.as_str());
    let world = r"\b(tokio|hyper|hyper_util|axum|rusqlite|notify|tracing)::|\bkube::\w+|\bcrate::ops\b|\bstd::(net|process|thread|env)\b|\bSystemTime\b";
    let wrong: Vec<_> = found(&sources, world)
        .into_iter()
        .filter(|(source, _)| pure(source))
        // The derive that makes an API type and prints its schema knows no server.
        .filter(|(source, found)| source.module != "api" || !found.starts_with("kube::CustomResource"))
        .map(|(source, found)| format!("{}: {found}", source.file))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_kube_client_and_sockets_are_where_they_belong() {
    let sources = sources();
    let may = |rule: &str, pattern: &str, homes: &[&str]| {
        let wrong: Vec<_> = found(&sources, pattern)
            .into_iter()
            .filter(|(source, _)| !homes.contains(&source.module.as_str()) && !homes.contains(&source.file.as_str()))
            .map(|(source, found)| format!("{}: {found}", source.file))
            .collect();
        assert!(wrong.is_empty(), "{rule}:\n{}", wrong.join("\n"));
    };
    may(
        "the kube client is for `cluster`, `reconcile`, and `app`, which hands it on",
        r"\bkube::(Client|Api|api|runtime|client|Config)\b|\buse kube::\{",
        &["cluster", "reconcile", "app"],
    );
    may(
        "only `outbound` opens connections to vendors",
        r"\bhyper(_util)?::client\b|\bhyper_rustls::|\breqwest::|\bTcpStream\b|\bUnixStream\b|\bUdpSocket\b",
        &["outbound"],
    );
    may("only `app` and `ingest` listen", r"\bTcpListener\b", &["app", "ingest"]);
    may("only `clock` asks the system for the time", r"\b(Instant|SystemTime|Timestamp)::now\b", &["clock"]);
}

#[test]
fn a_vendor_only_says_how_its_service_is_spoken_to() {
    let wrong: Vec<_> = found(&sources(), r"\b(tokio|tracing)::|\bsleep\b|\bClient\b|\bspawn\b")
        .into_iter()
        .filter(|(source, _)| source.module == "vendors")
        .map(|(source, found)| format!("{}: {found}", source.file))
        .collect();
    assert!(wrong.is_empty(), "no client, no retry, no sleep, no log:\n{}", wrong.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<_> = sources().into_iter().filter(|source| !source.text.starts_with("//! ")).collect();
    let names: Vec<_> = silent.iter().map(|source| source.file.as_str()).collect();
    assert!(names.is_empty(), "no //! header: {names:?}");

    let sources = sources();
    let map = &sources.iter().find(|source| source.file == "lib.rs").expect("there is a library").text;
    let modules = Regex::new(r"(?m)^pub mod (\w+);").expect("valid");
    for module in modules.captures_iter(map) {
        let link = format!("[`{}`]", &module[1]);
        assert!(map.contains(&link), "the map at the top of lib.rs does not name {link}");
    }
}

#[test]
fn every_vendor_has_a_file_a_header_and_a_place_in_the_docs() {
    let sources = sources();
    let docs = fs::read_to_string(root().join("docs/vendors.md")).unwrap_or_default();
    for row in &TABLE {
        let file = format!("vendors/{}.rs", row.name.replace(['-', '.'], "_"));
        let source = sources.iter().find(|source| source.file == file).unwrap_or_else(|| panic!("there is no {file}"));
        let header = format!("//! Type `{}`:", row.name);
        assert!(source.text.starts_with(&header), "{file} does not open with {header}");
        for place in [format!("| `{}` |", row.name), format!("\n## {}\n", row.name)] {
            assert!(docs.is_empty() || docs.contains(&place), "docs/vendors.md has no {place:?}");
        }
    }
    let names: Vec<_> = TABLE.iter().map(|row| row.name).collect();
    assert!(names.is_sorted(), "rows stand in the order of their names: {names:?}");
}

#[test]
fn the_definitions_are_those_the_binary_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_herald")).arg("crds").output().expect("the binary starts");
    assert!(printed.status.success());
    let mut kept: Vec<_> = fs::read_dir(root().join("crds"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| !path.ends_with("kustomization.yaml"))
        .collect();
    kept.sort();
    let kept: String = kept.iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    assert!(
        kept == String::from_utf8(printed.stdout).expect("text"),
        "crds/ is not what the types say; run `make generate`"
    );
}

#[test]
fn each_line_of_the_threat_model_names_a_test_that_exists() {
    let page = fs::read_to_string(root().join("docs/threat-model.md")).expect("the page");
    let held = page.split("\n## What is held\n").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("its table");
    let named = Regex::new(r"`((?:tests|src)/[\w/]+\.rs)::(\w+)`").expect("valid");
    let lines: Vec<&str> = held.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(lines.len() > 10, "the table was found");
    for line in lines {
        assert!(named.is_match(line), "no test holds this line: {line}");
        for test in named.captures_iter(line) {
            let text = fs::read_to_string(root().join(&test[1])).unwrap_or_else(|_| panic!("there is no {}", &test[1]));
            let function = Regex::new(&format!(r"test[^\n]*\]\s+(?:async )?fn {}\(", &test[2])).expect("valid");
            assert!(function.is_match(&text), "{} has no test {}", &test[1], &test[2]);
        }
    }
}
