//! The arguments of a call as an SDK writes them: query, JSON, form or multipart. Read once and written anew, so that what
//! was judged is what leaves: nothing is passed on that was not read. Floor 1.

use std::borrow::Cow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt as _, iter, poll_fn};
use serde_json::{Map, Value};

use super::budget::Held;
use super::spool::{Slice, Spool};
use super::{Payload, Piece, json};
use crate::domain::reason::ReasonCode;

/// Longest name of an argument.
const NAME_CHARS_MAX: usize = 128;
/// Arguments of one call.
const FIELDS_MAX: usize = 500;
/// A larger file goes to the disk.
const FILE_IN_MEMORY_MAX: usize = 64 * 1024;
/// What may stand before, between and behind the contents of parts: their heads.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What a value of JSON takes in memory besides its text.
const VALUE_BYTES: usize = 48;

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
    pub content: Piece,
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
    Raw(String, Piece),
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
    pub body: Payload,
}

/// What of a multipart body is kept where.
#[derive(Debug)]
pub struct Keep<'k> {
    held: &'k mut Held,
    memory_max: usize,
    spool: Option<Spool>,
    in_memory: usize,
}

impl<'k> Keep<'k> {
    /// At most `memory_max` bytes in memory, counted in `held`; large files in `spool`, where one is given, else in memory too.
    pub fn new(held: &'k mut Held, memory_max: usize, spool: Option<Spool>) -> Self {
        Self { held, memory_max, spool, in_memory: 0 }
    }
}

/// What was read of one part so far.
#[derive(Default)]
struct Content {
    memory: Vec<u8>,
    slice: Option<Slice>,
}

impl Content {
    async fn add(&mut self, bytes: Bytes, is_file: bool, keep: &mut Keep<'_>) -> Result<(), ReasonCode> {
        if let (Some(slice), Some(spool)) = (&mut self.slice, &mut keep.spool) {
            return spool.write(slice, bytes).await;
        }
        let size = self.memory.len().saturating_add(bytes.len());
        let total = keep.in_memory.saturating_add(bytes.len());
        let large = size > FILE_IN_MEMORY_MAX || total > keep.memory_max;
        if let (true, true, Some(spool)) = (large, is_file, &mut keep.spool) {
            let mut slice = spool.begin().await?;
            keep.in_memory = keep.in_memory.saturating_sub(self.memory.len());
            spool.write(&mut slice, std::mem::take(&mut self.memory).into()).await?;
            spool.write(&mut slice, bytes).await?;
            self.slice = Some(slice);
            return Ok(());
        }
        if total > keep.memory_max {
            return Err(ReasonCode::IngressBodyTooLarge);
        }
        // Room is made in steps of twice what was there.
        keep.held.grow(total.saturating_mul(2))?;
        keep.in_memory = total;
        self.memory.extend_from_slice(&bytes);
        Ok(())
    }
}

impl From<Content> for Piece {
    fn from(content: Content) -> Self {
        content.slice.map_or_else(|| Self::Bytes(content.memory.into()), Self::Spooled)
    }
}

impl Arguments {
    /// Reads a query and a body that holds arguments and is no multipart body.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] for whatever two readers could read in two ways.
    pub fn read(query: Option<&str>, content_type: &str, body: &[u8]) -> Result<Self, ReasonCode> {
        let invalid = ReasonCode::EgressMessageInvalid;
        let query = pairs(query.unwrap_or_default().as_bytes(), FIELDS_MAX)?;
        let left = FIELDS_MAX.saturating_sub(query.len());
        let body = match media_type(content_type).as_str() {
            _ if body.is_empty() => Body::Empty,
            "application/json" => {
                // Refuses a document of too many values before any of them is kept.
                json::parse(body).map_err(|_| invalid)?;
                let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return Err(invalid) };
                if fields.len() > left || !fields.keys().all(|name| is_name(name)) {
                    return Err(invalid);
                }
                Body::Json(fields)
            }
            "application/x-www-form-urlencoded" => Body::Form(pairs(body, left)?),
            _ => return Err(invalid),
        };
        Ok(Self { query, body })
    }

    /// Reads a query and a multipart body as it comes. Texts and small files are kept in memory, large files go to the disk.
    ///
    /// # Errors
    /// [`ReasonCode::EgressMessageInvalid`] for whatever two readers could read in two ways; what the body ends with;
    /// [`ReasonCode::IngressBodyTooLarge`] and [`ReasonCode::IngressMemoryFull`] where there is no room for it.
    pub async fn read_parts(
        query: Option<&str>,
        content_type: &str,
        body: impl Stream<Item = Result<Bytes, ReasonCode>> + Send,
        keep: Keep<'_>,
    ) -> Result<Self, ReasonCode> {
        let query = pairs(query.unwrap_or_default().as_bytes(), FIELDS_MAX)?;
        let mut body = pin!(body);
        let Some(first) = body.next().await else { return Ok(Self { query, body: Body::Empty }) };
        let body = iter([first]).chain(body);
        let parts = parts(content_type, body, FIELDS_MAX.saturating_sub(query.len()), keep).await?;
        Ok(Self { query, body: Body::Multipart(parts) })
    }

    /// Bytes that are no arguments, as they come: in memory where they are few, else on the disk.
    ///
    /// # Errors
    /// What the body ends with; [`ReasonCode::IngressMemoryFull`] where there is no room for it.
    pub async fn read_raw(
        content_type: &str,
        body: impl Stream<Item = Result<Bytes, ReasonCode>> + Send,
        mut keep: Keep<'_>,
    ) -> Result<Self, ReasonCode> {
        let (mut body, mut part) = (pin!(body), Content::default());
        while let Some(piece) = body.next().await {
            part.add(piece?, true, &mut keep).await?;
        }
        Ok(Self { query: Vec::new(), body: Body::Raw(content_type.to_owned(), part.into()) })
    }

    /// About how many bytes of memory the values of a JSON body take besides its text.
    pub fn weight(&self) -> usize {
        match &self.body {
            Body::Json(fields) => fields.values().map(values).fold(0, usize::saturating_add).saturating_mul(VALUE_BYTES),
            _ => 0,
        }
    }

    /// The parts that lie on the disk, in order.
    #[cfg(test)]
    pub fn spooled(&self) -> Vec<Slice> {
        let slice = |piece: &Piece| match piece {
            Piece::Spooled(slice) => Some(slice.clone()),
            Piece::Bytes(_) => None,
        };
        match &self.body {
            Body::Raw(_, piece) => slice(piece).into_iter().collect(),
            Body::Multipart(parts) => parts.iter().filter_map(|part| slice(&part.content)).collect(),
            _ => Vec::new(),
        }
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

    /// Every argument with its value as JSON; in a form that is a text. Without files.
    pub fn each(&self) -> impl Iterator<Item = (&str, Cow<'_, Value>)> {
        let text = |text: &str| Cow::Owned(Value::String(text.to_owned()));
        let body: Box<dyn Iterator<Item = (&str, Cow<'_, Value>)>> = match &self.body {
            Body::Empty | Body::Raw(..) => Box::new(std::iter::empty()),
            Body::Json(fields) => Box::new(fields.iter().map(|(name, value)| (name.as_str(), Cow::Borrowed(value)))),
            Body::Form(pairs) => Box::new(pairs.iter().map(move |(name, value)| (name.as_str(), text(value)))),
            Body::Multipart(parts) => Box::new(parts.iter().filter(|part| part.file_name.is_none()).filter_map(move |part| {
                let Piece::Bytes(said) = &part.content else { return None };
                Some((part.name.as_str(), text(&String::from_utf8_lossy(said))))
            })),
        };
        self.query.iter().map(move |(name, value)| (name.as_str(), text(value))).chain(body)
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
            Body::Multipart(parts) => found.extend(parts.iter().filter(|p| p.name == name).map(|p| match &p.content {
                Piece::Bytes(said) if p.file_name.is_none() => {
                    std::str::from_utf8(said).map_err(|_| ReasonCode::EgressMessageInvalid).and_then(text)
                }
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
            Body::Empty => (None, Payload::default()),
            Body::Json(fields) => {
                let body = serde_json::to_vec(fields).map_err(|_| ReasonCode::EgressMessageInvalid)?;
                (Some("application/json; charset=utf-8".to_owned()), body.into())
            }
            Body::Form(pairs) => (Some("application/x-www-form-urlencoded".to_owned()), form(pairs).into()),
            Body::Multipart(parts) => (Some(format!("multipart/form-data; boundary={boundary}")), multipart(parts, boundary)),
            Body::Raw(media_type, piece) => (Some(media_type.clone()).filter(|m| !m.is_empty()), Payload::Pieces(vec![piece.clone()])),
        };
        Ok(Written { query, media_type, body })
    }
}

/// The media type without parameters, lower case.
pub fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// PHP and its like turn dots, blanks and brackets into other names than were read here.
fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn values(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(values).fold(0, usize::saturating_add),
        Value::Object(fields) => fields.values().map(values).fold(0, usize::saturating_add),
        _ => 0,
    };
    below.saturating_add(1)
}

/// Reads pairs, and stops at the first that is none or one too many.
fn pairs(bytes: &[u8], pairs_max: usize) -> Result<Vec<(String, String)>, ReasonCode> {
    collected(form_urlencoded::parse(bytes), pairs_max)
}

fn collected<'b>(
    parsed: impl Iterator<Item = (Cow<'b, str>, Cow<'b, str>)>,
    pairs_max: usize,
) -> Result<Vec<(String, String)>, ReasonCode> {
    // What is no UTF-8 would be replaced by another text than the provider reads.
    let replaced = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in parsed {
        if pairs.len() >= pairs_max || !is_name(&name) || replaced(&name) || replaced(&value) {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        pairs.push((name.into_owned(), value.into_owned()));
    }
    Ok(pairs)
}

fn form(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

async fn parts(
    content_type: &str,
    body: impl Stream<Item = Result<Bytes, ReasonCode>> + Send,
    parts_max: usize,
    mut keep: Keep<'_>,
) -> Result<Vec<Part>, ReasonCode> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| ReasonCode::EgressMessageInvalid)?;
    let (mut body, progress) = (pin!(body), Arc::new(AtomicUsize::new(0)));
    let mut read = multer::Multipart::new(one_by_one(body.as_mut(), progress.clone()), boundary);
    let mut parts = Vec::new();
    while let Some(mut field) = read.next_field().await.map_err(why)? {
        progress.fetch_add(1, Ordering::Relaxed);
        let name = field.name().filter(|name| is_name(name)).ok_or(ReasonCode::EgressMessageInvalid)?.to_owned();
        if parts.len() >= parts_max {
            return Err(ReasonCode::EgressMessageInvalid);
        }
        let (file_name, media_type) = (field.file_name().map(str::to_owned), field.content_type().map(ToString::to_string));
        let mut content = Content::default();
        while let Some(chunk) = field.chunk().await.map_err(why)? {
            progress.fetch_add(1, Ordering::Relaxed);
            content.add(chunk, file_name.is_some(), &mut keep).await?;
        }
        parts.push(Part { name, file_name, media_type, content: content.into() });
    }
    drop(read);
    // What stands behind the last part is not passed on; it is read to its end, so that the connection can go on.
    while let Some(piece) = body.next().await {
        piece?;
    }
    Ok(parts)
}

/// Hands out one piece, and the next only when the parser has found nothing more in those before: it takes as much as it can get
/// before it looks at any of it, and looks again at all of it with every piece. `progress` counts what the parser has found.
fn one_by_one<'b>(
    mut body: Pin<&'b mut (impl Stream<Item = Result<Bytes, ReasonCode>> + Send)>,
    progress: Arc<AtomicUsize>,
) -> impl Stream<Item = Result<Bytes, Stopped>> + Send + 'b {
    let (mut tried, mut rests, mut fed) = (usize::MAX, 0u8, 0usize);
    poll_fn(move |cx| {
        let found = progress.load(Ordering::Relaxed);
        if tried != found {
            (tried, rests, fed) = (found, 1, 0);
        }
        if let Some(left) = rests.checked_sub(1) {
            rests = left;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Nothing was found in so much: the head of a part, or what stands before the first, is too long.
        if fed > HEAD_BYTES_MAX {
            return Poll::Ready(Some(Err(Stopped(ReasonCode::EgressMessageInvalid))));
        }
        let polled = body.as_mut().poll_next(cx).map(|next| next.map(|piece| piece.map_err(Stopped)));
        if let Poll::Ready(Some(Ok(piece))) = &polled {
            // Once to end this taking, and once because the parser may take before it looks.
            (rests, fed) = (2, fed.saturating_add(piece.len()));
        }
        polled
    })
}

/// Why no more of a body comes, on its way through the parser.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Stopped(ReasonCode);

fn why(error: multer::Error) -> ReasonCode {
    match error {
        multer::Error::StreamReadFailed(error) => {
            error.downcast_ref::<Stopped>().map_or(ReasonCode::EgressMessageInvalid, |stopped| stopped.0)
        }
        _ => ReasonCode::EgressMessageInvalid,
    }
}

/// <https://html.spec.whatwg.org/multipage/form-control-infrastructure.html#multipart-form-data>
fn multipart(parts: &[Part], boundary: &str) -> Payload {
    let (mut pieces, mut text) = (Vec::new(), String::new());
    for part in parts {
        text.push_str(&format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{}\"", part.name));
        if let Some(file) = &part.file_name {
            let file: String = file.chars().filter(|c| !c.is_control()).collect();
            // A backslash would escape the quote behind it for some readers and not for others.
            text.push_str(&format!("; filename=\"{}\"", file.replace('\\', "%5C").replace('"', "%22")));
        }
        if let Some(media_type) = part.media_type.as_ref().filter(|m| m.bytes().all(|b| b.is_ascii_graphic() || b == b' ')) {
            text.push_str(&format!("\r\ncontent-type: {media_type}"));
        }
        text.push_str("\r\n\r\n");
        pieces.push(Piece::Bytes(std::mem::take(&mut text).into()));
        pieces.push(part.content.clone());
        text.push_str("\r\n");
    }
    text.push_str(&format!("--{boundary}--\r\n"));
    pieces.push(Piece::Bytes(text.into()));
    Payload::Pieces(pieces)
}

#[cfg(test)]
mod tests;
