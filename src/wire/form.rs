//! The arguments of a call as an SDK writes them: query, JSON, form or multipart. Read once and written anew, so that what
//! was judged is what leaves: nothing is passed on that was not read. Floor 1.

use std::borrow::Cow;

use bytes::{BufMut as _, Bytes, BytesMut};
use serde_json::{Map, Value};

use super::json;
use crate::domain::reason::ReasonCode;

/// Longest name of an argument.
const NAME_CHARS_MAX: usize = 128;
/// Arguments of one call.
const FIELDS_MAX: usize = 500;

/// One part of a multipart body.
#[derive(Clone, PartialEq, Debug)]
pub struct Part {
    /// The argument's name.
    pub name: String,
    /// The file's name; a part without one is plain text.
    pub file_name: Option<String>,
    /// What the file says it is.
    pub media_type: Option<String>,
    /// The bytes.
    pub bytes: Bytes,
}

/// A body, by the form it came in and leaves in.
#[derive(Clone, PartialEq, Debug)]
pub enum Body {
    /// None.
    Empty,
    /// `application/json`, one object.
    Json(Map<String, Value>),
    /// `application/x-www-form-urlencoded`
    Form(Vec<(String, String)>),
    /// `multipart/form-data`
    Multipart(Vec<Part>),
    /// Bytes that hold no arguments, with their media type: a file.
    Raw(String, Bytes),
}

/// Everything a call was given beside its path.
#[derive(Clone, PartialEq, Debug)]
pub struct Arguments {
    /// The query.
    pub query: Vec<(String, String)>,
    /// The body.
    pub body: Body,
}

/// A query and a body as they go on the wire.
#[derive(Debug)]
pub struct Written {
    /// Without the question mark; empty when there is none.
    pub query: String,
    /// The media type, where there is a body.
    pub media_type: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Arguments {
    /// Reads query and body.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] for whatever two readers could read in two ways.
    pub async fn read(query: Option<&str>, content_type: &str, body: Bytes) -> Result<Self, ReasonCode> {
        let invalid = ReasonCode::EgressMessageInvalid;
        let query = pairs(query.unwrap_or_default().as_bytes())?;
        let media_type = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let body = match media_type.as_str() {
            _ if body.is_empty() => Body::Empty,
            "application/json" => {
                json::parse(&body).map_err(|_| invalid)?;
                let Ok(Value::Object(fields)) = serde_json::from_slice(&body) else { return Err(invalid) };
                Body::Json(fields)
            }
            "application/x-www-form-urlencoded" => Body::Form(pairs(&body)?),
            "multipart/form-data" => Body::Multipart(parts(content_type, body).await?),
            _ => return Err(invalid),
        };
        let read = Self { query, body };
        let mut count = 0usize;
        for name in read.names() {
            count += 1;
            // PHP and its like turn dots, blanks and brackets into other names than were read here.
            let fit =
                (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            if !fit || count > FIELDS_MAX {
                return Err(invalid);
            }
        }
        Ok(read)
    }

    /// Bytes that are no arguments.
    pub fn raw(content_type: &str, body: Bytes) -> Self {
        Self { query: Vec::new(), body: Body::Raw(content_type.to_owned(), body) }
    }

    /// The name of every argument.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let body: Box<dyn Iterator<Item = &str>> = match &self.body {
            Body::Empty | Body::Raw(..) => Box::new(std::iter::empty()),
            Body::Json(fields) => Box::new(fields.keys().map(String::as_str)),
            Body::Form(pairs) => Box::new(pairs.iter().map(|(name, _)| name.as_str())),
            Body::Multipart(parts) => Box::new(parts.iter().map(|p| p.name.as_str())),
        };
        self.query.iter().map(|(name, _)| name.as_str()).chain(body)
    }

    /// Whether an argument is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    /// The one value of an argument as JSON; in a form it is text. `null` is absent.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] when it is there twice or is a file.
    pub fn value(&self, name: &str) -> Result<Option<Cow<'_, Value>>, ReasonCode> {
        let text = |text: &str| Ok(Cow::Owned(Value::String(text.to_owned())));
        let mut found: Vec<Result<Cow<'_, Value>, ReasonCode>> = Vec::new();
        found.extend(self.query.iter().filter(|(n, _)| n == name).map(|(_, v)| text(v)));
        match &self.body {
            Body::Empty | Body::Raw(..) => {}
            Body::Json(fields) => found.extend(fields.get(name).map(|v| Ok(Cow::Borrowed(v)))),
            Body::Form(pairs) => found.extend(pairs.iter().filter(|(n, _)| n == name).map(|(_, v)| text(v))),
            Body::Multipart(parts) => found.extend(parts.iter().filter(|p| p.name == name).map(|p| match std::str::from_utf8(&p.bytes) {
                Ok(said) if p.file_name.is_none() => text(said),
                _ => Err(ReasonCode::EgressMessageInvalid),
            })),
        }
        if found.len() > 1 {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        found.pop().transpose().map(|value| value.filter(|v| !v.is_null()))
    }

    /// The one value of an argument that is a text or an integer.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] when it is there twice, or is something else.
    pub fn text(&self, name: &str) -> Result<Option<String>, ReasonCode> {
        match self.value(name)?.as_deref() {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(n)) if n.is_i64() || n.is_u64() => Ok(Some(n.to_string())),
            Some(_) => Err(ReasonCode::EgressMessageInvalid),
        }
    }

    /// The one value of an argument that is an object; forms hold it as JSON text.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] when it is there twice, or is something else.
    pub fn object(&self, name: &str) -> Result<Option<Map<String, Value>>, ReasonCode> {
        let invalid = ReasonCode::EgressMessageInvalid;
        match self.value(name)?.as_deref() {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields.clone())),
            Some(Value::String(text)) => {
                json::parse(text.as_bytes()).map_err(|_| invalid)?;
                match serde_json::from_str(text) {
                    Ok(Value::Object(fields)) => Ok(Some(fields)),
                    Ok(Value::Null) => Ok(None),
                    _ => Err(invalid),
                }
            }
            Some(_) => Err(invalid),
        }
    }

    /// Takes an argument out, wherever it stands.
    pub fn remove(&mut self, name: &str) {
        self.query.retain(|(n, _)| n != name);
        match &mut self.body {
            Body::Empty | Body::Raw(..) => {}
            Body::Json(fields) => {
                fields.remove(name);
            }
            Body::Form(pairs) => pairs.retain(|(n, _)| n != name),
            Body::Multipart(parts) => parts.retain(|p| p.name != name),
        }
    }

    /// Writes them in the form they came in. `boundary` parts a multipart body; whoever wrote the parts must not know it.
    pub fn write(&self, boundary: &str) -> Result<Written, ReasonCode> {
        let query = form(&self.query);
        let (media_type, body) = match &self.body {
            Body::Empty => (None, Bytes::new()),
            Body::Json(fields) => {
                let body = serde_json::to_vec(fields).map_err(|_| ReasonCode::EgressMessageInvalid)?;
                (Some("application/json; charset=utf-8".to_owned()), body.into())
            }
            Body::Form(pairs) => (Some("application/x-www-form-urlencoded".to_owned()), form(pairs).into()),
            Body::Multipart(parts) => (Some(format!("multipart/form-data; boundary={boundary}")), multipart(parts, boundary)),
            Body::Raw(media_type, bytes) => (Some(media_type.clone()).filter(|m| !m.is_empty()), bytes.clone()),
        };
        Ok(Written { query, media_type, body })
    }
}

fn pairs(bytes: &[u8]) -> Result<Vec<(String, String)>, ReasonCode> {
    // What is no UTF-8 would be replaced by another text than the provider reads.
    let pairs: Vec<(String, String)> = form_urlencoded::parse(bytes).into_owned().collect();
    let replaced = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    if pairs.iter().any(|(n, v)| replaced(n) || replaced(v)) { Err(ReasonCode::EgressMessageInvalid) } else { Ok(pairs) }
}

fn form(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn parts(content_type: &str, body: Bytes) -> Result<Vec<Part>, ReasonCode> {
    let invalid = |_| ReasonCode::EgressMessageInvalid;
    let boundary = multer::parse_boundary(content_type).map_err(invalid)?;
    let whole = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(body)]);
    let mut read = multer::Multipart::new(whole, boundary);
    let mut parts = Vec::new();
    while let Some(field) = read.next_field().await.map_err(invalid)? {
        if parts.len() >= FIELDS_MAX {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        let name = field.name().ok_or(ReasonCode::EgressMessageInvalid)?.to_owned();
        let (file_name, media_type) = (field.file_name().map(str::to_owned), field.content_type().map(ToString::to_string));
        parts.push(Part { name, file_name, media_type, bytes: field.bytes().await.map_err(invalid)? });
    }
    Ok(parts)
}

/// <https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data>
fn multipart(parts: &[Part], boundary: &str) -> Bytes {
    let mut out = BytesMut::with_capacity(parts.iter().map(|p| p.bytes.len() + 256).sum::<usize>() + 64);
    for part in parts {
        out.put_slice(format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{}\"", part.name).as_bytes());
        if let Some(file) = &part.file_name {
            let file: String = file.chars().filter(|c| !c.is_control()).collect();
            out.put_slice(format!("; filename=\"{}\"", file.replace('"', "%22")).as_bytes());
        }
        if let Some(media_type) = part.media_type.as_ref().filter(|m| m.bytes().all(|b| b.is_ascii_graphic() || b == b' ')) {
            out.put_slice(format!("\r\ncontent-type: {media_type}").as_bytes());
        }
        out.put_slice(b"\r\n\r\n");
        out.put_slice(&part.bytes);
        out.put_slice(b"\r\n");
    }
    out.put_slice(format!("--{boundary}--\r\n").as_bytes());
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn read(query: &str, content_type: &str, body: &str) -> Result<Arguments, ReasonCode> {
        Arguments::read(Some(query), content_type, Bytes::from(body.to_owned())).await
    }

    const FORM: &str = "application/x-www-form-urlencoded";
    const MULTIPART: &str = "multipart/form-data; boundary=XX";
    /// As slack_sdk writes it: with an empty line before the first part.
    const PARTS: &str = "\r\n--XX\r\nContent-Disposition: form-data; name=\"chat_id\"\r\n\r\n-100\r\n--XX\r\nContent-Disposition: form-data; \
        name=\"document\"; filename=\"a\u{f6}.txt\"\r\nContent-Type: text/plain\r\n\r\nline\r\n--X\r\n--XX--\r\n";

    #[tokio::test]
    async fn each_form_is_read_and_written_anew() {
        let json =
            read("a=1", "application/json; charset=utf-8", r#"{"chat_id": -1001234567890123, "x": null, "o": {"p": 1}}"#).await.unwrap();
        assert_eq!(json.text("chat_id"), Ok(Some("-1001234567890123".into())));
        assert_eq!((json.text("x"), json.text("a")), (Ok(None), Ok(Some("1".into()))));
        assert_eq!(json.object("o").unwrap().unwrap()["p"], json!(1));
        let written = json.write("B").unwrap();
        assert_eq!((written.query.as_str(), serde_json::from_slice::<Value>(&written.body).unwrap()["o"]["p"].clone()), ("a=1", json!(1)));

        let mut form = read("", FORM, "token=agt&text=gr%C3%BC%C3%9Fe+a%26b&o=%7B%22p%22%3A1%7D").await.unwrap();
        assert_eq!(form.object("o").unwrap().unwrap()["p"], json!(1));
        form.remove("token");
        assert_eq!(form.write("B").unwrap().body, "text=gr%C3%BC%C3%9Fe+a%26b&o=%7B%22p%22%3A1%7D");

        let parts = read("", MULTIPART, PARTS).await.unwrap();
        assert_eq!(parts.text("chat_id"), Ok(Some("-100".into())));
        assert_eq!(parts.text("document"), Err(ReasonCode::EgressMessageInvalid), "a file is no text");
        let written = parts.write("YY").unwrap();
        let again = Arguments::read(None, &written.media_type.unwrap(), written.body).await.unwrap();
        assert_eq!(again, parts);
        let Body::Multipart(parts) = again.body else { panic!() };
        assert_eq!((parts[1].bytes.as_ref(), parts[1].file_name.as_deref()), (&b"line\r\n--X"[..], Some("a\u{f6}.txt")));
        assert_eq!(read("", FORM, "").await.unwrap().body, Body::Empty);
    }

    #[tokio::test]
    async fn what_two_readers_could_read_differently_is_refused() {
        let twice = PARTS.replace("name=\"document\"; filename=\"a\u{f6}.txt\"", "name=\"chat_id\"");
        for (query, form, body) in [
            ("chat_id=1", "application/json", r#"{"chat_id": 2}"#),
            ("chat_id=1", FORM, "chat_id=2"),
            ("", FORM, "chat_id=1&chat_id=1"),
            ("", MULTIPART, twice.as_str()),
            ("", "application/json", r#"{"chat_id": {"a": 1}}"#),
            ("", "application/json", r#"{"chat_id": 1.5}"#),
        ] {
            assert_eq!(read(query, form, body).await.unwrap().text("chat_id"), Err(ReasonCode::EgressMessageInvalid), "{query} {body}");
        }
        for (query, form, body) in [
            ("", "application/json", r#"{"chat_id": 1, "chat_id": 2}"#),
            ("", "application/json", "[1]"),
            ("", "text/plain", "chat_id=1"),
            ("", "", "chat_id=1"),
            ("channel.id=1", FORM, ""),
            ("", FORM, "channel%5B%5D=C1"),
            ("", FORM, "cha%20nnel=C1"),
            ("", FORM, "a=%FF"),
            ("", "multipart/form-data", PARTS),
            ("", "multipart/form-data; boundary=ZZ", PARTS),
            ("", MULTIPART, "--XX\r\nContent-Disposition: form-data\r\n\r\n1\r\n--XX--\r\n"),
        ] {
            assert!(read(query, form, body).await.is_err(), "{query} {form} {body}");
        }
    }

    #[test]
    fn a_file_s_name_ends_no_header() {
        let part = Part {
            name: "f".into(),
            file_name: Some("a\"; x=\"\r\nevil: 1".into()),
            media_type: Some("text/plain\r\nx: y".into()),
            bytes: Bytes::from_static(b"b"),
        };
        let said = String::from_utf8(multipart(&[part], "B").to_vec()).unwrap();
        assert_eq!(said, "--B\r\ncontent-disposition: form-data; name=\"f\"; filename=\"a%22; x=%22evil: 1\"\r\n\r\nb\r\n--B--\r\n");
    }
}
