//! Conditions as data: what Cedar's JSON says of a `when` or an `unless`, taken apart and written as Cedar again. Lints look
//! into conditions with it, explanations show them. Knows the form, never what a condition means. Floor 5.

use cedar_policy::{Expression, Policy};
use serde_json::Value;

/// One `when` or `unless`.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Clause {
    /// `when`; else `unless`.
    pub when: bool,
    /// What stands in its braces.
    pub body: Value,
}

/// A policy's conditions in the order they are evaluated in.
pub(super) fn clauses(policy: &Policy) -> Vec<Clause> {
    let mut json = policy.to_json().unwrap_or_default();
    let Some(Value::Array(conditions)) = json.get_mut("conditions").map(Value::take) else { return vec![] };
    let clause = |mut condition: Value| Clause {
        when: condition.get("kind").is_none_or(|kind| kind != "unless"),
        body: condition.get_mut("body").map(Value::take).unwrap_or_default(),
    };
    conditions.into_iter().map(clause).collect()
}

/// An expression's operator and what it works on: Cedar writes `{"operator": …}`.
pub(super) fn operator(expression: &Value) -> Option<(&str, &Value)> {
    expression.as_object()?.iter().next().map(|(name, on)| (name.as_str(), on))
}

/// What a chain of one operator joins, brackets or not: `a && (b && c)` is three parts.
pub(super) fn parts<'e>(expression: &'e Value, chain: &str) -> Vec<&'e Value> {
    match operator(expression) {
        Some((name, on)) if name == chain => [&on["left"], &on["right"]].into_iter().flat_map(|side| parts(side, chain)).collect(),
        _ => vec![expression],
    }
}

/// The expressions that one is made of.
pub(super) fn children(expression: &Value) -> Vec<&Value> {
    match operator(expression) {
        Some(("Value" | "Var" | "Slot", _)) | None => vec![],
        Some((_, Value::Array(items))) => items.iter().collect(),
        Some(("Record", Value::Object(fields))) => fields.values().collect(),
        Some((_, on)) => ["left", "right", "arg", "if", "then", "else", "in"].iter().filter_map(|name| on.get(name)).collect(),
    }
}

/// What it reads: each variable or the longest path of attributes from it, in the order of reading, each once.
pub(super) fn paths(expression: &Value) -> Vec<String> {
    let mut all = Vec::new();
    walk(expression, &mut all);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|path| seen.insert(path.clone()));
    all
}

fn walk(expression: &Value, all: &mut Vec<String>) {
    match operator(expression) {
        Some(("has", on)) => {
            let names = on["attr"].as_array().cloned().unwrap_or_else(|| vec![on["attr"].clone()]);
            match path(&on["left"]) {
                Some(from) => all.push(names.iter().fold(from, step)),
                None => walk(&on["left"], all),
            }
        }
        _ => match path(expression) {
            Some(path) => all.push(path),
            None => children(expression).into_iter().for_each(|child| walk(child, all)),
        },
    }
}

fn path(expression: &Value) -> Option<String> {
    match operator(expression)? {
        ("Var", name) => name.as_str().map(str::to_owned),
        (".", on) => Some(step(path(&on["left"])?, &on["attr"])),
        _ => None,
    }
}

fn step(path: String, name: &Value) -> String {
    match name.as_str().unwrap_or_default() {
        name if is_identifier(name) => format!("{path}.{name}"),
        name => format!("{path}[{}]", quoted(name)),
    }
}

fn is_identifier(name: &str) -> bool {
    // What of these is a reserved word does not parse behind a dot.
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    plain
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !["true", "false", "if", "then", "else", "in", "is", "like", "has", "__cedar"].contains(&name)
}

/// Text as Cedar writes it.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &str) -> String {
    text.escape_debug().to_string().replace("\\'", "'")
}

/// As Cedar evaluates it; none where the text of it does not parse, which none of a parsed policy does.
pub(super) fn expression(text: &str) -> Option<Expression> {
    text.parse().ok()
}

/// How tightly an operator binds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Grip {
    If,
    Or,
    And,
    Compare,
    Add,
    Multiply,
    Unary,
    Member,
}

/// As Cedar text on one line, with brackets where they are needed and around an `&&` within an `||`, where readers need them.
pub(super) fn text(expression: &Value) -> String {
    written(expression).0
}

fn written(expression: &Value) -> (String, Grip) {
    let Some((name, on)) = operator(expression) else { return (String::new(), Grip::Member) };
    let at = |key: &str, grip: Grip| within(&on[key], grip);
    let binary = |grip: Grip, right: Grip| (format!("{} {name} {}", at("left", grip), at("right", right)), grip);
    match name {
        "Value" => literal(on),
        "Var" | "Slot" => (on.as_str().unwrap_or_default().to_owned(), Grip::Member),
        "!" => (format!("!{}", at("arg", Grip::Unary)), Grip::Unary),
        // Brackets, since a minus before a number is part of the number.
        "neg" => (format!("-({})", text(&on["arg"])), Grip::Unary),
        "||" => {
            let side = |key: &str| if operator(&on[key]).is_some_and(|(o, _)| o == "&&") { Grip::Compare } else { Grip::Or };
            // Left to right: a bracketed `||` on the right stays bracketed.
            let right = if operator(&on["right"]).is_some_and(|(o, _)| o == "||") { Grip::And } else { side("right") };
            (format!("{} || {}", at("left", side("left")), at("right", right)), Grip::Or)
        }
        "&&" => binary(Grip::And, Grip::Compare),
        "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" => (binary(Grip::Add, Grip::Add).0, Grip::Compare),
        "+" | "-" => binary(Grip::Add, Grip::Multiply),
        "*" => binary(Grip::Multiply, Grip::Unary),
        "." => (step(at("left", Grip::Member), &on["attr"]), Grip::Member),
        "has" => {
            let names: Vec<&Value> = on["attr"].as_array().map_or_else(|| vec![&on["attr"]], |names| names.iter().collect());
            let shown: Vec<String> = names
                .iter()
                .filter_map(|name| name.as_str())
                .map(|name| if is_identifier(name) { name.to_owned() } else { quoted(name) })
                .collect();
            (format!("{} has {}", at("left", Grip::Add), shown.join(".")), Grip::Compare)
        }
        "like" => (format!("{} like {}", at("left", Grip::Add), pattern(&on["pattern"])), Grip::Compare),
        "is" => {
            let inside = on.get("in").map_or_else(String::new, |of| format!(" in {}", within(of, Grip::Add)));
            (format!("{} is {}{inside}", at("left", Grip::Add), on["entity_type"].as_str().unwrap_or_default()), Grip::Compare)
        }
        "if-then-else" => (format!("if {} then {} else {}", text(&on["if"]), text(&on["then"]), text(&on["else"])), Grip::If),
        "Set" => (format!("[{}]", list(on.as_array())), Grip::Member),
        "Record" => (format!("{{{}}}", fields(on, text)), Grip::Member),
        "contains" | "containsAll" | "containsAny" | "getTag" | "hasTag" => {
            (format!("{}.{name}({})", at("left", Grip::Member), text(&on["right"])), Grip::Member)
        }
        "isEmpty" => (format!("{}.isEmpty()", at("arg", Grip::Member)), Grip::Member),
        "ip" | "decimal" | "datetime" | "duration" => (format!("{name}({})", list(on.as_array())), Grip::Member),
        // The methods of extension values.
        method => {
            let mut items = on.as_array().into_iter().flatten();
            let receiver = items.next().map_or_else(String::new, |first| within(first, Grip::Member));
            let rest: Vec<String> = items.map(text).collect();
            (format!("{receiver}.{method}({})", rest.join(", ")), Grip::Member)
        }
    }
}

fn within(expression: &Value, needed: Grip) -> String {
    match written(expression) {
        (text, grip) if grip >= needed => text,
        (text, _) => format!("({text})"),
    }
}

fn list(items: Option<&Vec<Value>>) -> String {
    items.into_iter().flatten().map(text).collect::<Vec<_>>().join(", ")
}

fn fields(record: &Value, text: impl Fn(&Value) -> String) -> String {
    let field = |(name, value): (&String, &Value)| format!("{}: {}", quoted(name), text(value));
    record.as_object().into_iter().flatten().map(field).collect::<Vec<_>>().join(", ")
}

fn literal(value: &Value) -> (String, Grip) {
    let text = match value {
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(|item| literal(item).0).collect::<Vec<_>>().join(", ")),
        Value::Object(_) => match (value.get("__entity"), value.get("__extn")) {
            (Some(uid), _) => {
                format!("{}::{}", uid["type"].as_str().unwrap_or_default(), quoted(uid["id"].as_str().unwrap_or_default()))
            }
            (_, Some(call)) => format!("{}({})", call["fn"].as_str().unwrap_or_default(), literal(&call["arg"]).0),
            _ => format!("{{{}}}", fields(value, |value| literal(value).0)),
        },
        other => other.to_string(),
    };
    // `(-1).x` is not `-1.x`.
    let grip = if text.starts_with('-') { Grip::Unary } else { Grip::Member };
    (text, grip)
}

fn pattern(elements: &Value) -> String {
    let element = |element: &Value| match element.get("Literal").and_then(Value::as_str) {
        // A star of the text itself is escaped.
        Some(text) => text.split('*').map(escaped).collect::<Vec<_>>().join("\\*"),
        None => "*".to_owned(),
    };
    format!("\"{}\"", elements.as_array().into_iter().flatten().map(element).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::*;

    fn body(condition: &str) -> Value {
        let policy: Policy = format!("permit (principal, action, resource) when {{ {condition} }};").parse().unwrap();
        clauses(&policy).remove(0).body
    }

    #[test]
    fn what_is_written_reads_as_the_same() {
        let mut conditions: Vec<String> = Vec::new();
        let mut texts: Vec<String> =
            std::fs::read_dir("policies/platform").unwrap().map(|e| std::fs::read_to_string(e.unwrap().path()).unwrap()).collect();
        texts.extend([envelope::ENVELOPE.to_owned(), envelope::FLOOR.to_owned()]);
        for text in texts {
            let set: cedar_policy::PolicySet = text.parse().unwrap();
            for clause in set.policies().flat_map(clauses) {
                assert_eq!(body(&super::text(&clause.body)), clause.body);
                conditions.push(super::text(&clause.body));
            }
        }
        assert!(conditions.len() > 30);
        let odd = [
            "($a || $b) || ($c || $d)",
            "$a || ($b || ($c && $d))",
            "$a && ($b || $c && $d) && !($a && $b)",
            "1 + 2 * 3 - (4 - 5) < -(6) && -7 != (1 + 2) * 3",
            "if $a then $b else if $c then $d else $a",
            "(if $a then $b else $c) && $d",
            "$a.b[\"c d\"][\"if\"].contains([1, 2].isEmpty())",
            "context has a.b && context has \"x y\" && $a like \"*\\\\0 \\\" \\**\"",
            "principal is Byoa::Org in Byoa::Org::\"a'\\\"\\n\" || resource in [A::\"b\", C::\"d\"]",
            "ip(\"127.0.0.1\").isInRange(ip(\"10.0.0.0/8\")) || decimal(\"1.0\").lessThan(decimal(\"2.0\"))",
            "datetime(\"2026-01-01\").offset(duration(\"1h\")) > datetime(\"2026-01-01\")",
            "principal.hasTag(\"a\") && principal.getTag(\"a\") == {\"x\": 1, y: [true]}",
            "(-1 == $n) && !(!$a)",
            "[$a].containsAll([$b]) && [$a].containsAny([]) && ($a == $b) == ($c in $d)",
        ];
        for condition in odd.map(|condition| condition.replace('$', "context.")) {
            let wanted = body(&condition);
            assert_eq!(body(&super::text(&wanted)), wanted, "{condition}");
        }
    }

    #[test]
    fn what_is_read_is_named() {
        let read = |condition: &str| paths(&body(condition)).join(", ");
        assert_eq!(read("context.flag.stage == Byoa::Stage::\"on\""), "context.flag.stage");
        assert_eq!(
            read("resource.canary.contains(principal) || context.n < resource.percent"),
            "resource.canary, principal, context.n, resource.percent"
        );
        assert_eq!(read("context has a.b && context.a.b == 1 && [principal][\"x\"] has y"), "context.a.b, principal");
        assert_eq!(read("if context[\"a b\"] then action in [principal] else 1 == 2"), "context[\"a b\"], action, principal");
    }
}
