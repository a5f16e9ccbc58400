//! A YAML text as a tree in which everything knows its place. Takes the plain part of YAML: one document, maps with text as
//! keys, each once; no anchors, no tags, no merging, so that no small file is a large one and no line means another. A
//! scalar stays the text that was written, since only its place in the table says what it is. Floor 5.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::Fault;
use crate::policy::row::is_special;

/// Far more than a table nests.
const DEPTH_MAX: usize = 16;
/// Scalars, lists and maps of one file.
const NODES_MAX: usize = 400_000;

/// One value.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub range: Range<usize>,
    pub is: Is,
}

#[derive(Clone, Debug)]
pub(super) enum Is {
    /// Written bare: what it is depends on who asks.
    Plain(String),
    /// In quotes or as a block: text.
    Quoted(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A map's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub text: String,
    pub range: Range<usize>,
}

impl Node {
    /// What people call it.
    pub fn sort(&self) -> String {
        match &self.is {
            Is::List(_) => "a list".into(),
            Is::Map(_) => "a map".into(),
            Is::Quoted(text) => format!("\"{text}\""),
            Is::Plain(text) if text.is_empty() => "nothing".into(),
            Is::Plain(text) => format!("`{text}`"),
        }
    }

    pub fn fault(&self, message: impl Into<String>) -> Fault {
        Fault { range: self.range.clone(), message: message.into() }
    }

    pub fn is_null(&self) -> bool {
        matches!(&self.is, Is::Plain(text) if matches!(text.as_str(), "" | "~" | "null"))
    }

    pub fn map(&self) -> Result<&[(Key, Node)], Fault> {
        match &self.is {
            Is::Map(entries) => Ok(entries),
            _ => Err(self.fault(format!("a map stands here, not {}", self.sort()))),
        }
    }

    pub fn list(&self) -> Result<&[Node], Fault> {
        match &self.is {
            Is::List(items) => Ok(items),
            _ => Err(self.fault(format!("a list stands here, not {}", self.sort()))),
        }
    }

    /// A text, such that every reader of YAML takes it for one.
    pub fn text(&self) -> Result<&str, Fault> {
        match &self.is {
            Is::Quoted(text) => Ok(text),
            Is::Plain(text) if !self.is_null() => match misread(text) {
                None => Ok(text),
                Some(what) => Err(self.fault(format!("a bare `{text}` is {what} to some readers of YAML: write it in quotes, \"{text}\""))),
            },
            _ => Err(self.fault(format!("a text stands here, not {}", self.sort()))),
        }
    }
}

/// What else a bare word could be taken for.
fn misread(text: &str) -> Option<&'static str> {
    let digits = text.trim_start_matches(['-', '+']).to_ascii_lowercase();
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok();
    if text.eq_ignore_ascii_case("null") {
        Some("nothing")
    } else if is_special(text) {
        Some("a truth")
    } else if is_number || [".inf", ".nan"].contains(&digits.as_str()) || digits.starts_with("0x") || digits.starts_with("0o") {
        Some("a number")
    } else {
        None
    }
}

/// A collection that is not closed yet.
struct Open {
    start: Range<usize>,
    is_block: bool,
    is: Is,
    /// A map's key that waits for its value.
    key: Option<Key>,
    /// Where each key stands.
    seen: HashMap<String, usize>,
}

/// Reads a text.
///
/// # Errors
/// The first thing that does not read: what follows it may mean anything.
pub(super) fn parse(text: &str) -> Result<Node, Fault> {
    let options = granit_parser::options! {
        strict_indentation: true,
        disallow_directives: true,
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    let mut building = Building { text, open: vec![], root: None, nodes: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|e| {
            let at = e.marker().byte_offset().unwrap_or(text.len());
            Fault { range: at..at, message: e.info() }
        })?;
        building.event(event, range(span, text))?;
    }
    building.root.ok_or_else(|| Fault { range: 0..0, message: "the file holds nothing: was it cut short?".into() })
}

fn range(span: Span, text: &str) -> Range<usize> {
    span.byte_range().unwrap_or(text.len()..text.len())
}

struct Building<'t> {
    text: &'t str,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Building<'_> {
    fn event(&mut self, event: Event<'_>, range: Range<usize>) -> Result<(), Fault> {
        let no = |message: &str| Err(Fault { range: range.clone(), message: message.into() });
        match event {
            Event::Scalar(_, _, anchor, _) | Event::SequenceStart(_, anchor, _) | Event::MappingStart(_, anchor, _) if anchor != 0 => {
                no("anchors are not used in tables: what several rows share stands in `given` and `defaults`")
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, _, Some(_)) | Event::MappingStart(_, _, Some(_)) => {
                no("tags are not used in tables")
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) | Event::Anchor(..) => no("aliases are not used in tables: write the value out"),
            Event::DocumentStart(..) if self.root.is_some() => no("a table is one document: put the second into a file of its own"),
            Event::Scalar(text, style, ..) => {
                let is = match style {
                    ScalarStyle::Plain => Is::Plain(text.into_owned()),
                    _ => Is::Quoted(text.into_owned()),
                };
                self.value(Node { range, is })
            }
            Event::SequenceStart(..) => self.begin(range, Is::List(vec![])),
            Event::MappingStart(..) => self.begin(range, Is::Map(vec![])),
            Event::SequenceEnd | Event::MappingEnd => self.end(&range),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, start: Range<usize>, is: Is) -> Result<(), Fault> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Fault { range: start, message: format!("this nests deeper than {DEPTH_MAX} levels") });
        }
        if let Some(Open { is: Is::Map(_), key: None, .. }) = self.open.last() {
            return Err(Fault { range: start, message: "a key is a text".into() });
        }
        let is_block = !self.text.get(start.start..).is_some_and(|rest| rest.starts_with(['[', '{']));
        self.open.push(Open { start, is_block, is, key: None, seen: HashMap::new() });
        Ok(())
    }

    fn end(&mut self, end: &Range<usize>) -> Result<(), Fault> {
        let Some(Open { start, is_block, is, .. }) = self.open.pop() else { return Ok(()) };
        // A block ends where the next thing begins, comments and blank lines included; it is meant to end with its last value.
        let last = match &is {
            Is::List(items) => items.last().map(|node| node.range.end),
            Is::Map(entries) => entries.last().map(|(_, node)| node.range.end),
            _ => None,
        };
        let end = if is_block { last.unwrap_or(start.end) } else { end.end };
        self.value(Node { range: start.start..end.max(start.start), is })
    }

    fn value(&mut self, mut node: Node) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(node.fault(format!("the file holds more than {NODES_MAX} values: split the table")));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.is {
            Is::List(items) => items.push(node),
            Is::Map(entries) => match open.key.take() {
                Some(key) => {
                    if node.range.is_empty() {
                        // An absent value is shown at its key.
                        node.range = key.range.clone();
                    }
                    entries.push((key, node));
                }
                None => {
                    let Node { range, is: Is::Plain(text) | Is::Quoted(text) } = node else {
                        return Err(node.fault("a key is a text"));
                    };
                    if let Some(first) = open.seen.insert(text.clone(), range.start) {
                        let line = 1 + self.text.get(..first).unwrap_or_default().matches('\n').count();
                        return Err(Fault { range, message: format!("`{text}` is given twice: first in line {line}") });
                    }
                    open.key = Some(Key { text, range });
                }
            },
            Is::Plain(_) | Is::Quoted(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(node: &Node) -> String {
        match &node.is {
            Is::Plain(text) => text.clone(),
            Is::Quoted(text) => format!("{text:?}"),
            Is::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
            Is::Map(entries) => {
                format!("{{{}}}", entries.iter().map(|(k, v)| format!("{}: {}", k.text, shown(v))).collect::<Vec<_>>().join(", "))
            }
        }
    }

    #[test]
    fn everything_knows_its_place() {
        let text = "a: {b: [on, 'off', \"x\\n\"], c: }\nö:\n  - d: 1 # one\n    e: |\n      f\n\n# end\ng: ~\n";
        let node = parse(text).unwrap();
        assert_eq!(shown(&node), "{a: {b: [on \"off\" \"x\\n\"], c: ~}, ö: [{d: 1, e: \"f\\n\"}], g: ~}");
        let Is::Map(entries) = &node.is else { panic!() };
        let of = |at: usize| &text[entries[at].1.range.clone()];
        assert_eq!((of(0), of(2)), ("{b: [on, 'off', \"x\\n\"], c: }", "~"));
        let Is::List(items) = &entries[1].1.is else { panic!() };
        let Is::Map(first) = &items[0].is else { panic!() };
        assert_eq!((&text[first[0].0.range.clone()], &text[first[0].1.range.clone()]), ("d", "1"));
        assert_eq!(&text[items[0].range.clone()][..4], "d: 1");
    }

    #[test]
    fn what_could_mislead_is_refused() {
        let said = |text: &str| {
            let fault = parse(text).unwrap_err();
            format!("{:?} {}\n", &text[fault.range], fault.message)
        };
        let all: String = [
            "a: 1\nb: 2\na: 3\n",
            "a: &x 1\nb: *x\n",
            "a: *x\n",
            "a: !!str 1\n",
            "[a]: 1\n",
            "a: {[b]: 1}\n",
            "a: 1\n---\nb: 2\n",
            "%YAML 1.2\n---\na: 1\n",
            "a: [1, 2\n",
            "a: b: c\n",
            "a: 1\n\tb: 2\n",
            "",
            "# nothing\n",
            &"[".repeat(17),
        ]
        .into_iter()
        .map(said)
        .collect();
        insta::assert_snapshot!(all, @r#"
        "a" `a` is given twice: first in line 1
        "1" anchors are not used in tables: what several rows share stands in `given` and `defaults`
        "" while parsing node, found unknown anchor
        "1" tags are not used in tables
        "[" a key is a text
        "[" a key is a text
        "---" a table is one document: put the second into a file of its own
        "" YAML directives are disallowed
        "" unclosed bracket '['
        "" mapping values are not allowed in this context
        "" while scanning a plain scalar, found a tab
        "" the file holds nothing: was it cut short?
        "" the file holds nothing: was it cut short?
        "" recursion limit exceeded
        "#);
        assert!(parse(&format!("a: {}{}\n", "[".repeat(14), "]".repeat(14))).is_ok());
        let many = format!("[{}]", "a,".repeat(NODES_MAX));
        assert!(parse(&many).unwrap_err().message.contains("more than 400000 values"));
    }

    #[test]
    fn a_word_that_readers_disagree_about_is_written_in_quotes() {
        for word in ["on", "off", "Yes", "no", "y", "true", "12", "-1.5", "0x1f", ".inf", "~", "null", ""] {
            assert!(parse(&format!("a: {word}\n")).unwrap().map().unwrap()[0].1.text().is_err(), "{word}");
            assert_eq!(parse(&format!("a: '{word}'\n")).unwrap().map().unwrap()[0].1.text().unwrap(), word);
        }
        for word in ["canary", "online", "1a", "acme", "message.received"] {
            assert_eq!(parse(&format!("a: {word}\n")).unwrap().map().unwrap()[0].1.text().unwrap(), word);
        }
    }
}
