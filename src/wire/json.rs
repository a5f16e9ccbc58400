//! One strict pass over a JSON document.
//!
//! Two readers of one document must not see different values (CouchDB CVE-2017-12635 is the classic), so ambiguity is
//! refused once, here: no repeated name anywhere, valid UTF-8, no lone surrogate, depth at most 64, nothing behind the
//! end. Whoever reads the [`Json`] tree, or the same bytes again, then sees the same document.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::domain::guard::{Guard, stands};
use crate::domain::reason::ReasonCode;

/// How deep arrays and objects may nest.
pub const DEPTH_MAX: usize = 64;

/// How many values a document may hold: a value takes many times the two bytes that it may be written in.
pub const VALUES_MAX: usize = 256 * 1024;

/// A JSON value that borrows from its document.
#[derive(Clone, PartialEq, Debug)]
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i128),
    /// A longer integer, digit for digit.
    Long(&'a str),
    /// Any other number.
    Float(f64),
    /// A string, unescaped.
    Str(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object in document order; no name repeats.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

impl<'a> Json<'a> {
    /// The value of a name; [`Json::Null`] when it is absent or this is no object.
    pub fn at(&self, name: &str) -> &Json<'a> {
        match self {
            Self::Object(fields) => fields.iter().find(|(n, _)| n == name).map_or(&Json::Null, |(_, v)| v),
            _ => &Json::Null,
        }
    }

    /// Whether an object has the name at all.
    pub fn has(&self, name: &str) -> bool {
        matches!(self, Self::Object(fields) if fields.iter().any(|(n, _)| n == name))
    }

    /// The text of a string.
    pub fn str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    /// An identifier: a string that is not empty, or an integer in its digits.
    pub fn id(&self) -> Option<String> {
        match self {
            Self::Str(text) if !text.is_empty() => Some(text.to_string()),
            Self::Int(n) => Some(n.to_string()),
            Self::Long(digits) => Some((*digits).to_owned()),
            _ => None,
        }
    }

    /// An integer in its digits, however many.
    pub fn digits(&self) -> Option<String> {
        match self {
            Self::Int(_) | Self::Long(_) => self.id(),
            _ => None,
        }
    }

    /// The integer, where it is of 64 bits.
    pub fn int(&self) -> Option<i128> {
        match self {
            Self::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The truth value.
    pub fn bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The elements of an array; none for anything else.
    pub fn items(&self) -> &[Json<'a>] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// Whether it is absent or `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// Reads a text that holds an object or an array, as strictly as a document.
///
/// # Errors
/// As [`parse`].
pub fn value(text: &str) -> Result<serde_json::Value, ReasonCode> {
    // Before any of its values is kept; whatever ends the text early is no value by itself.
    parse(format!("{{\"value\":{text}}}").as_bytes())?;
    serde_json::from_str(text).map_err(|_| ReasonCode::IngressJsonInvalid)
}

/// Parses a document whose root is an object.
///
/// # Errors
/// `ingress.json_duplicate_key`, `ingress.json_too_deep`, `ingress.json_too_many_values`, or `ingress.json_invalid` for
/// everything else.
pub fn parse(bytes: &[u8]) -> Result<Json<'_>, ReasonCode> {
    let text = std::str::from_utf8(bytes).map_err(|_| ReasonCode::IngressJsonInvalid)?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let (mut fault, mut floats, mut left) = (None, false, VALUES_MAX);
    let tree = Node { depth: 0, fault: &mut fault, floats: &mut floats, left: &mut left }.deserialize(&mut deserializer);
    let tree = tree.map_err(|_| fault.unwrap_or(ReasonCode::IngressJsonInvalid))?;
    if stands(Guard::JsonEnds) {
        deserializer.end().map_err(|_| ReasonCode::IngressJsonInvalid)?;
    }
    let mut tree = tree;
    if floats && stands(Guard::DigitsKept) {
        keep_digits(&mut tree, &mut literals(text));
    }
    match tree {
        Json::Object(_) => Ok(tree),
        _ if !stands(Guard::JsonIsObject) => Ok(tree),
        _ => Err(ReasonCode::IngressJsonInvalid),
    }
}

/// The number literals of a document that was parsed, in order.
fn literals(text: &str) -> impl Iterator<Item = &str> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let mut quoted = false;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'\\' if quoted => at += 1,
                b'"' => quoted = !quoted,
                b'-' | b'0'..=b'9' if !quoted => {
                    let rest = text.get(at..)?;
                    let end = rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
                    at += end;
                    return rest.get(..end);
                }
                _ => {}
            }
            at += 1;
        }
        None
    })
}

/// serde_json reads an integer beyond 64 bits as a float, and an id must not be rounded. The tree has its numbers in the
/// order of the document, so each finds its literal.
fn keep_digits<'a>(node: &mut Json<'a>, literals: &mut impl Iterator<Item = &'a str>) {
    match node {
        Json::Int(_) => {
            literals.next();
        }
        Json::Float(_) => {
            if let Some(literal) = literals.next().filter(|l| l.bytes().all(|b| b.is_ascii_digit() || b == b'-')) {
                *node = Json::Long(literal);
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| keep_digits(item, literals)),
        Json::Object(fields) => fields.iter_mut().for_each(|(_, value)| keep_digits(value, literals)),
        Json::Null | Json::Bool(_) | Json::Long(_) | Json::Str(_) => {}
    }
}

/// Names compared one by one up to this many, by hash beyond: an object with 100,000 names must not cost their square.
const LINEAR_NAMES: usize = 24;

struct Node<'f> {
    depth: usize,
    fault: &'f mut Option<ReasonCode>,
    floats: &'f mut bool,
    /// Values that may still come.
    left: &'f mut usize,
}

impl Node<'_> {
    fn deeper<E: serde::de::Error>(&mut self) -> Result<Node<'_>, E> {
        if self.depth >= DEPTH_MAX && stands(Guard::JsonDepth) {
            *self.fault = Some(ReasonCode::IngressJsonTooDeep);
            return Err(E::custom("too deep"));
        }
        match self.left.checked_sub(1) {
            Some(left) => *self.left = left,
            None => {
                *self.fault = Some(ReasonCode::IngressJsonTooManyValues);
                return Err(E::custom("too many values"));
            }
        }
        Ok(Node { depth: self.depth + 1, fault: self.fault, floats: self.floats, left: self.left })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Json<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// A name, borrowed from the document where it holds no escape.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Json<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }
    fn visit_bool<E>(self, b: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(b))
    }
    fn visit_i64<E>(self, n: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(n.into()))
    }
    fn visit_u64<E>(self, n: u64) -> Result<Json<'de>, E> {
        Ok(Json::Int(n.into()))
    }
    fn visit_f64<E>(self, n: f64) -> Result<Json<'de>, E> {
        *self.floats = true;
        Ok(Json::Float(n))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Str(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Str(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut items = Vec::new();
        loop {
            let node = self.deeper()?;
            match seq.next_element_seed(node)? {
                Some(item) => items.push(item),
                None => return Ok(Json::Array(items)),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut fields: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        let mut seen: HashSet<Cow<'de, str>> = HashSet::new();
        while let Some(name) = map.next_key_seed(Name)? {
            let repeated = if fields.len() < LINEAR_NAMES {
                fields.iter().any(|(n, _)| *n == name)
            } else {
                if seen.is_empty() {
                    seen.extend(fields.iter().map(|(n, _)| n.clone()));
                }
                !seen.insert(name.clone())
            };
            if repeated && stands(Guard::JsonNamesOnce) {
                *self.fault = Some(ReasonCode::IngressJsonDuplicateKey);
                return Err(A::Error::custom("repeated name"));
            }
            let value = map.next_value_seed(self.deeper()?)?;
            fields.push((name, value));
        }
        Ok(Json::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nested(depth: usize) -> String {
        format!("{}{}{}", "{\"a\":".repeat(depth), 1, "}".repeat(depth))
    }

    #[test]
    fn what_is_ambiguous_is_refused() {
        use ReasonCode::{IngressJsonDuplicateKey as Dup, IngressJsonInvalid as Bad, IngressJsonTooDeep as Deep};
        let cases: Vec<(Vec<u8>, ReasonCode)> = vec![
            (br#"{"a":1,"a":2}"#.to_vec(), Dup),
            (br#"{"x":[{"a":1,"\u0061":2}]}"#.to_vec(), Dup),
            (format!("{{{},\"n5\":0}}", (0..40).map(|i| format!("\"n{i}\":0")).collect::<Vec<_>>().join(",")).into_bytes(), Dup),
            (nested(65).into_bytes(), Deep),
            (nested(100_000).into_bytes(), Deep),
            (format!("{{\"a\":{}{}}}", "[".repeat(64), "]".repeat(64)).into_bytes(), Deep),
            (b"".to_vec(), Bad),
            (b"null".to_vec(), Bad),
            (b"[]".to_vec(), Bad),
            (b"{\"a\":NaN}".to_vec(), Bad),
            (b"{\"a\":1} x".to_vec(), Bad),
            (b"\xef\xbb\xbf{}".to_vec(), Bad),
            (b"{\"a\":\"\xff\"}".to_vec(), Bad),
            (br#"{"a":"\ud800"}"#.to_vec(), Bad),
            (b"{\"a\":\"\n\"}".to_vec(), Bad),
        ];
        for (bytes, want) in cases {
            assert_eq!(parse(&bytes).unwrap_err(), want, "{}", String::from_utf8_lossy(&bytes).chars().take(60).collect::<String>());
        }
    }

    #[test]
    fn no_more_values_are_kept_than_may_be() {
        let array = |values: usize| format!("{{\"a\":[{}]}}", vec!["1"; values].join(","));
        assert!(parse(array(VALUES_MAX - 2).as_bytes()).is_ok());
        assert_eq!(parse(array(VALUES_MAX).as_bytes()).unwrap_err(), ReasonCode::IngressJsonTooManyValues);
        // The count ends the reading: what is behind it is not looked at.
        let broken = format!("{}}}", array(VALUES_MAX).trim_end_matches("]}"));
        assert_eq!(parse(broken.as_bytes()).unwrap_err(), ReasonCode::IngressJsonTooManyValues);
    }

    #[test]
    fn what_is_clear_is_read_digit_for_digit() {
        assert!(parse(nested(64).as_bytes()).is_ok());
        let doc = parse(br#"{"id":9007199254740993,"neg":-1001234567890123,"u":18446744073709551615,"t":"caf\u00e9"}"#).unwrap();
        assert_eq!(doc.at("id").id().as_deref(), Some("9007199254740993"));
        assert_eq!(doc.at("neg").id().as_deref(), Some("-1001234567890123"));
        assert_eq!(doc.at("u").id().as_deref(), Some("18446744073709551615"));
        assert_eq!(doc.at("t").str(), Some("café"));
        assert!(doc.at("absent").is_null());
        let doc = parse(br#"{"1":"2\"3","f":[-1.5e3,-0,{"9":4}],"big":184467440737095516160,"neg":-99999999999999999999,"x":1e400}"#);
        assert!(doc.is_err(), "a float that is none");
        let doc = parse(br#"{"1":"2\"3","f":[-1.5e3,-0,{"9":4}],"big":184467440737095516160,"neg":-99999999999999999999,"e":1}"#).unwrap();
        assert_eq!(doc.at("big").id().as_deref(), Some("184467440737095516160"));
        assert_eq!(doc.at("neg").id().as_deref(), Some("-99999999999999999999"));
        assert_eq!((doc.at("e").int(), doc.at("f").items()[0].id()), (Some(1), None));
    }

    proptest! {
        /// Whatever we accept, serde_json accepts, and sees the same names in the same order.
        #[test]
        fn accepted_means_serde_json_agrees(doc in "[\\[\\]{}:,\"a-c0-9.eE\\\\u -]{0,40}") {
            if let Ok(Json::Object(fields)) = parse(doc.as_bytes()) {
                let other: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&doc).unwrap();
                prop_assert_eq!(fields.len(), other.len());
                for (name, _) in &fields {
                    prop_assert!(other.contains_key(name.as_ref()));
                }
            }
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }
    }
}
