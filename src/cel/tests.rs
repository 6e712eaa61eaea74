use super::*;
use serde_json::Value as Json;

fn data(text: &str) -> Json { serde_json::from_str(text).unwrap() }

fn render(value: &Value<'_>) -> String {
    match value {
        Value::String(text) => serde_json::to_string(&**text).unwrap(),
        Value::Int(i) => i.to_string(),
        Value::Uint(i) => format!("{i}u"),
        Value::Bool(b) => b.to_string(),
        Value::Double(_) => "double".into(),
        other => format!("other:{}", other.type_name()),
    }
}

#[test]
fn compare_all() {
    let Ok(path) = std::env::var("CEL_ORACLE") else { return };
    let data = data(&std::fs::read_to_string("/tmp/celoracle/data.json").unwrap());
    let names = ["event", "provider", "alert"];
    let (mut same, mut words, mut differ) = (0, 0, 0);
    let (mut posdiff, mut pos) = (0, 0);
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let row: Json = serde_json::from_str(line).unwrap();
        let text = row["expr"].as_str().unwrap();
        let ours = Expr::read(text).and_then(|expr| check::infer(&expr, &names));
        let s = |key: &str| row.get(key).and_then(Json::as_str);
        let (ours_text, kind) = match ours {
            Err(problem) => { let e = problem.explain(text); (e.to_string(), 'R') }
            Ok((node, found)) => match run::run(&node, names.iter().map(|n| Value::from(&data[*n])).collect()) {
                Ok(value) => (format!("{} {}", check::output_name(&found), render(&value)), 'V'),
                Err(error) => (format!("{} ERR {error}", check::output_name(&found)), 'E'),
            },
        };
        let theirs = if let Some(refused) = s("refused") {
            (refused.replace("ERROR: <input>:", "").lines().next().unwrap_or("").to_string(), 'R')
        } else if let Some(error) = s("error") {
            match error.strip_prefix("PROGRAM ") { Some(e) => (e.to_string(), 'P'), None => (format!("{} ERR {error}", s("type").unwrap()), 'E') }
        } else {
            let v = s("value").unwrap(); let v = if v.starts_with("double:") { "double" } else { v };
            (format!("{} {}", s("type").unwrap(), v), 'V')
        };
        if ours_text == theirs.0 { same += 1; continue; }
        let ok = match (kind, theirs.1) {
            ('R', 'R') => { pos += 1; if ours_text.split(' ').next() != theirs.0.split(' ').next() { posdiff += 1; } true }
            ('R' | 'E', 'P') => true,
            ('E', 'E') => ours_text.split(" ERR ").next() == theirs.0.split(" ERR ").next(),
            _ => false,
        };
        if ok { words += 1; if std::env::var("CEL_WORDS").is_ok() { println!("WORDS {text}\n   ours   {ours_text}\n   theirs {}", theirs.0); } }
        else { differ += 1; println!("DIFF {text}\n   ours   {kind} {ours_text}\n   theirs {} {}", theirs.1, theirs.0); }
    }
    println!("same {same}, same but for words {words} (refused both {pos}, other place {posdiff}), differ {differ}");
}
