//! The one layout of policy files. Lays out, never changes what a policy says: what would come out with another meaning, or
//! with a comment less, is not given out. Floor 5.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use serde_json::Value;

use super::load::{self, Diagnostic, LoadError};
use super::{limits, validate};
use crate::config::PolicyTextLimits;

/// A policy file in the one layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Laid {
    /// As people find it.
    pub file: String,
    /// As it stands there.
    pub old: String,
    /// As it should.
    pub new: Result<String, Vec<Diagnostic>>,
}

/// Lays out every policy file of a folder; the schema and everything beside the policies is not looked at.
///
/// # Errors
/// [`LoadError`] with every file that cannot be taken.
pub fn folder(policies_dir: &Path, platform: &PolicyTextLimits) -> Result<Vec<Laid>, LoadError> {
    let laid = |source: load::Source| {
        let new = limits::with_room(platform, || laid_out(&source, platform));
        Laid { file: source.file, old: source.text, new }
    };
    Ok(load::policy_files(policies_dir, platform)?.into_iter().map(laid).collect())
}

fn laid_out(source: &load::Source, platform: &PolicyTextLimits) -> Result<String, Vec<Diagnostic>> {
    let (before, _) = validate::parsed(source, platform)?;
    let kept = layout(&source.text).and_then(|new| kept(&source.text, &before, new));
    kept.map_err(|why| vec![Diagnostic::of_file(load::Rule::Syntax, &source.file, format!("left as it is: {why}"))])
}

/// The new text, where it says what the old one says.
fn kept(old: &str, before: &PolicySet, new: String) -> Result<String, String> {
    let after: PolicySet = new.parse().map_err(|_| "laid out it would be no Cedar any more; this is a fault of the formatter")?;
    let said = meaning(before);
    if said.is_none() || said != meaning(&after) {
        return Err("laid out it would say something else; this is a fault of the formatter".into());
    }
    if words(old) != words(&new) {
        return Err("laid out it would lose a comment; put comments on lines of their own".into());
    }
    Ok(new)
}

/// A text in the one layout. The formatter takes every empty line out; those behind a comment come back, since a comment that
/// heads a file is not about its first policy.
fn layout(text: &str) -> Result<String, String> {
    let laid = policies_str_to_pretty(text, &Config { line_width: 80, indent_width: 2 }).map_err(|e| e.to_string())?;
    let lines: Vec<&str> = text.lines().collect();
    let stands_apart = |comment: &Comment<'_>| comment.alone && lines.get(comment.line + 1).is_some_and(|next| next.trim().is_empty());
    // The comments of both texts are the same ones in the same order: whoever calls makes sure of that.
    let (before, after) = (comments(text), comments(&laid));
    let headings: HashSet<usize> =
        before.iter().zip(&after).filter(|(old, new)| stands_apart(old) && new.alone && new.outside).map(|(_, new)| new.line).collect();
    let mut out = String::with_capacity(laid.len() + headings.len());
    let mut rest = laid.lines().enumerate().peekable();
    while let Some((number, line)) = rest.next() {
        out.push_str(line);
        out.push('\n');
        if headings.contains(&number) && rest.peek().is_some_and(|(_, next)| !next.is_empty()) {
            out.push('\n');
        }
    }
    Ok(out)
}

/// What the policies and templates of a file say, by the ids that count them: the formatter keeps their order.
fn meaning(set: &PolicySet) -> Option<BTreeMap<String, Value>> {
    let policies = set.policies().map(|policy| Some((policy.id().to_string(), policy.to_json().ok()?)));
    let templates = set.templates().map(|template| Some((template.id().to_string(), template.to_json().ok()?)));
    policies.chain(templates).collect()
}

/// A comment.
struct Comment<'t> {
    /// The line, from 0.
    line: usize,
    /// Whether nothing else stands on it.
    alone: bool,
    /// Whether it stands between policies.
    outside: bool,
    text: &'t str,
}

/// The comments of a text, in their order.
fn comments(text: &str) -> Vec<Comment<'_>> {
    let mut all = Vec::new();
    // Text in quotes may reach over lines; a policy ends with a semicolon.
    let (mut quoted, mut outside) = (false, true);
    for (number, line) in text.lines().enumerate() {
        let mut escaped = false;
        for (at, c) in line.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                '/' if !quoted && line.get(at..).is_some_and(|rest| rest.starts_with("//")) => {
                    let (before, text) = line.split_at(at);
                    all.push(Comment { line: number, alone: before.trim().is_empty(), outside, text: text.trim() });
                    break;
                }
                ';' if !quoted => outside = true,
                c if !c.is_whitespace() => outside = false,
                _ => {}
            }
        }
    }
    all
}

fn words(text: &str) -> Vec<&str> {
    comments(text).into_iter().map(|comment| comment.text).collect()
}

#[cfg(test)]
mod tests {
    use super::super::envelope;
    use super::super::law_tests::Disk;
    use super::*;

    fn one(text: &str) -> String {
        let disk = Disk::empty();
        disk.write("a.cedar", text);
        match folder(disk.path(), &PolicyTextLimits::default()).unwrap().remove(0).new {
            Ok(new) => new,
            Err(faults) => faults.iter().map(|f| f.message.clone()).collect::<Vec<_>>().join("\n"),
        }
    }

    #[test]
    fn what_ships_is_laid_out() {
        for laid in folder("policies".as_ref(), &PolicyTextLimits::default()).unwrap() {
            assert_eq!(laid.new.as_ref(), Ok(&laid.old), "{}: run `byoa policy fmt`", laid.file);
        }
        for bound in [envelope::ENVELOPE, envelope::FLOOR] {
            assert_eq!(one(bound), bound, "run `byoa policy fmt --policies src/policy/invariants`");
        }
    }

    #[test]
    fn layout_keeps_words_and_comments() {
        insta::assert_snapshot!(one(
            "// above\n@id(\"a\")@reason(\"a // no comment \\\" \")permit(principal is Byoa::Operator,action,resource)when{true // why\n&& 1==2};// behind\n\n\n// last"
        ), @r#"
        // above
        @id("a")
        @reason("a // no comment \" ")
        permit (
          principal is Byoa::Operator,
          action,
          resource
        )
        when
        {
          true // why
           &&
          1 == 2
        }; // behind
        // last
        "#);
        assert_eq!(words("// a\nx \"// b \\\" //\" // c // d\n/ / \"\n"), ["// a", "// c // d"]);
    }

    #[test]
    fn laying_out_twice_changes_nothing() {
        let odd = "// head\n\n// of it\npermit(principal,action,resource)when{context.b.c==1||action.y.z like \"*\" && (if true then false else 5 in [A::\"b\"])};";
        let once = one(odd);
        assert_eq!(one(&once), once);
    }

    #[test]
    fn what_does_not_parse_is_left_alone() {
        assert_eq!(one("permit (principal, action"), "unexpected end of input");
        assert_eq!(one("// nothing\n"), "the file holds no policy: remove it, or was it cut short?");
    }

    #[test]
    fn what_says_something_else_is_not_given_out() {
        let old = "// c\npermit (principal, action, resource) when { context.a };\n";
        let with = |new: &str| kept(old, &old.parse().unwrap(), new.to_owned());
        let laid = "// c\npermit (\n  principal,\n  action,\n  resource\n)\nwhen { context.a };\n";
        assert_eq!(with(laid).as_deref(), Ok(laid));
        let no = |new: &str| with(new).unwrap_err();
        assert!(no(&laid.replace("context.a", "context.b")).contains("say something else"));
        assert!(no(&format!("{laid}{laid}")).contains("say something else"));
        assert!(no(&laid.replace("// c\n", "")).contains("lose a comment"));
        assert!(no(&laid.replace(';', "")).contains("no Cedar"));
    }
}
