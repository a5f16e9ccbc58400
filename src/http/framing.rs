//! Watches the bytes of a connection for framing that could be read two ways.
//!
//! hyper resolves `Content-Length` beside `Transfer-Encoding` and equal repeated lengths in silence, as RFC 9112 §6.3
//! lets it, and takes a line feed alone for the end of a line, as §2.2 lets it. Behind a proxy that resolves them the other
//! way, that is request smuggling (RUSTSEC-2021-0020), so such a request is answered 400 and its connection closed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Set for ever once a connection has carried ambiguous framing.
#[derive(Clone, Debug, Default)]
pub(super) struct Ambiguous(Arc<AtomicBool>);

impl Ambiguous {
    /// Whether it has.
    pub(super) fn seen(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Says whether a connection that arrives in these pieces carries ambiguous framing.
pub fn is_ambiguous<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> bool {
    let (mut watched, ambiguous) = Watched::new(());
    pieces.into_iter().for_each(|piece| watched.watch.see(piece));
    ambiguous.seen()
}

/// A stream that is watched while it is read.
pub(super) struct Watched<S> {
    stream: S,
    watch: Watch,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> (Self, Ambiguous) {
        let ambiguous = Ambiguous::default();
        let watch = Watch { at: At::Head, head: Head::default(), ambiguous: ambiguous.clone() };
        (Self { stream, watch }, ambiguous)
    }
}

/// The head that is being read, as far as it has come.
#[derive(Default)]
struct Head {
    /// The number of complete lines, the request line included.
    lines: usize,
    line: Line,
    /// The name of a field in lower case, as far as a name that matters is long, or the value of `Transfer-Encoding`.
    word: Vec<u8>,
    length: Option<u64>,
    chunked: bool,
}

/// The line that is being read. Its size does not depend on how long the line is.
#[derive(Default)]
struct Line {
    begun: bool,
    /// The last byte was a carriage return: only a line feed may follow.
    returned: bool,
    part: Part,
}

/// The part of a line that the next byte belongs to.
#[derive(Default)]
enum Part {
    #[default]
    Name,
    Length(Length),
    /// The value of `Transfer-Encoding`.
    Coding,
    /// The request line, or the value of a field that does not matter.
    Rest,
}

/// The value of a `Content-Length`, read digit by digit: however far it is padded, its number is seen.
#[derive(Default)]
struct Length {
    digits: Option<u64>,
    /// Blanks stand behind the digits, so no further digit may come.
    ended: bool,
}

enum At {
    Head,
    /// In a body of known length.
    Body(u64),
    /// Behind a chunked body, after which the connection is closed, or behind ambiguous framing: nothing more needs watching.
    Over,
}

struct Watch {
    at: At,
    head: Head,
    ambiguous: Ambiguous,
}

const CONTENT_LENGTH: &[u8] = b"content-length";
const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
/// The only coding that requests are read in.
const CHUNKED: &[u8] = b"chunked";

/// The framing can be read in two ways.
struct TwoWays;

impl Watch {
    fn see(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Over => return,
                At::Body(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left = left.saturating_sub(u64::try_from(take).unwrap_or(u64::MAX));
                    bytes = bytes.get(take..).unwrap_or_default();
                    if *left == 0 {
                        self.at = At::Head;
                    }
                }
                At::Head => {
                    let plain = self.head.plain(bytes);
                    if plain > 0 {
                        bytes = bytes.get(plain..).unwrap_or_default();
                        continue;
                    }
                    bytes = rest;
                    match self.head.see(*first) {
                        Ok(None) => {}
                        Ok(Some(next)) => self.at = next,
                        Err(TwoWays) => {
                            self.ambiguous.0.store(true, Ordering::Release);
                            self.at = At::Over;
                        }
                    }
                }
            }
        }
    }
}

impl Head {
    /// The number of bytes, from the first one on, that say nothing of the framing.
    fn plain(&self, bytes: &[u8]) -> usize {
        match self.line {
            Line { returned: false, part: Part::Rest, .. } => memchr::memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len()),
            _ => 0,
        }
    }

    /// Takes the next byte; says what comes behind the head when it was the last one of it.
    ///
    /// hyper takes a line feed alone for the end of a line. Readers in front of the gateway may not, and a line that one of them
    /// sees as a part of another can hold a second length.
    fn see(&mut self, byte: u8) -> Result<Option<At>, TwoWays> {
        match (byte, self.line.returned) {
            (b'\n', true) => self.line_done(),
            (b'\n', false) | (_, true) => Err(TwoWays),
            (b'\r', false) => {
                self.line.returned = true;
                Ok(None)
            }
            (byte, false) => {
                if self.lines == 0 {
                    self.line.part = Part::Rest;
                }
                self.line.begun = true;
                self.line.part.see(byte, &mut self.word)?;
                Ok(None)
            }
        }
    }

    fn line_done(&mut self) -> Result<Option<At>, TwoWays> {
        let line = std::mem::take(&mut self.line);
        let chunked = self.word.trim_ascii().eq_ignore_ascii_case(CHUNKED);
        self.word.clear();
        if !line.begun {
            // Blank lines before a request line are allowed.
            return if self.lines == 0 { Ok(None) } else { self.done().map(Some) };
        }
        self.lines = self.lines.saturating_add(1);
        match line.part {
            Part::Length(length) => {
                let length = length.digits.ok_or(TwoWays)?;
                if self.length.replace(length).is_some() {
                    return Err(TwoWays);
                }
            }
            Part::Coding => {
                if !chunked || std::mem::replace(&mut self.chunked, true) {
                    return Err(TwoWays);
                }
            }
            Part::Name | Part::Rest => {}
        }
        Ok(None)
    }

    fn done(&mut self) -> Result<At, TwoWays> {
        let head = std::mem::take(self);
        match (head.chunked, head.length) {
            (true, Some(_)) => Err(TwoWays),
            (true, None) => Ok(At::Over),
            (false, Some(0) | None) => Ok(At::Head),
            (false, Some(length)) => Ok(At::Body(length)),
        }
    }
}

impl Part {
    fn see(&mut self, byte: u8, word: &mut Vec<u8>) -> Result<(), TwoWays> {
        let blank = matches!(byte, b' ' | b'\t');
        match self {
            Self::Name if byte == b':' => {
                *self = match word.as_slice() {
                    CONTENT_LENGTH => Self::Length(Length::default()),
                    TRANSFER_ENCODING => Self::Coding,
                    _ => Self::Rest,
                };
                word.clear();
            }
            // A line that goes on with the one before, or a blank before the colon: readers disagree on what the name is.
            Self::Name if blank => return Err(TwoWays),
            // A byte more than the longest name that matters tells a longer one apart.
            Self::Name if word.len() <= TRANSFER_ENCODING.len() => word.push(byte.to_ascii_lowercase()),
            Self::Coding if blank && (word.is_empty() || word.ends_with(b" ")) => {}
            // So many bytes are `chunked`, a blank and something else.
            Self::Coding if word.len() > CHUNKED.len().saturating_add(1) => return Err(TwoWays),
            Self::Coding => word.push(if blank { b' ' } else { byte }),
            Self::Length(length) => length.see(byte)?,
            Self::Name | Self::Rest => {}
        }
        Ok(())
    }
}

impl Length {
    fn see(&mut self, byte: u8) -> Result<(), TwoWays> {
        match (byte, self.digits) {
            (b' ' | b'\t', digits) => self.ended = digits.is_some(),
            (b'0'..=b'9', digits) if !self.ended => {
                let digit = u64::from(byte.saturating_sub(b'0'));
                let length = digits.unwrap_or(0).checked_mul(10).and_then(|tens| tens.checked_add(digit)).ok_or(TwoWays)?;
                self.digits = Some(length);
            }
            _ => return Err(TwoWays),
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            this.watch.see(buf.filled().get(before..).unwrap_or_default());
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ambiguous(bytes: &[u8], step: usize) -> bool {
        let (mut watched, flag) = Watched::new(());
        for chunk in bytes.chunks(step) {
            watched.watch.see(chunk);
        }
        flag.seen()
    }

    #[test]
    fn framing_that_reads_two_ways_is_seen_however_it_arrives() {
        let te_first: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n";
        let cl_first: &[u8] = b"POST / HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        let twice: &[u8] = b"POST / HTTP/1.1\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nabcd";
        let second: &[u8] =
            b"POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nabcdPOST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        for bytes in [te_first, cl_first, twice, second] {
            for step in [1, 2, 7, bytes.len()] {
                assert!(ambiguous(bytes, step), "{}", String::from_utf8_lossy(bytes));
            }
        }
    }

    /// Says of each head, and of a request with two lengths behind it, whether its framing is ambiguous.
    fn judged(head: &str) -> [bool; 2] {
        let second = "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        [format!("{head}abcd"), format!("{head}abcd{second}")].map(|wire| {
            let seen = [1, 2, 7, 64, wire.len()].map(|step| ambiguous(wire.as_bytes(), step));
            assert!(seen.iter().all(|s| *s == seen[0]), "{wire}");
            seen[0]
        })
    }

    #[test]
    fn a_length_is_seen_however_it_is_padded() {
        let pad = " ".repeat(4096);
        let zeros = "0".repeat(4096);
        for value in ["4", " 4 ", "\t4\t", &format!("{pad}4"), &format!("4{pad}\t"), &format!("{pad}{zeros}4{pad}")] {
            let head = format!("POST / HTTP/1.1\r\nx-a: b\r\nContent-LENGTH:{value}\r\n\r\n");
            assert_eq!(judged(&head), [false, true], "{value:?}");
        }
        for value in ["", "+4", "-4", "4,4", "4 4", "0x4", "4\u{b}", "\u{664}", "18446744073709551620", "4;"] {
            assert_eq!(judged(&format!("POST / HTTP/1.1\r\ncontent-length: {value}\r\n\r\n")), [true; 2], "{value:?}");
        }
        // A length that is not seen would make a head of the body.
        let body = "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        for value in [format!("{pad}{}", body.len()), format!("\t{}\t", body.len()), format!("{zeros}{}", body.len())] {
            assert!(!ambiguous(format!("POST / HTTP/1.1\r\ncontent-length:{value}\r\n\r\n{body}").as_bytes(), 5), "{value:?}");
        }
        let long_name = format!("POST / HTTP/1.1\r\ncontent-length{}: 9\r\ncontent-length: 4\r\n\r\n", "x".repeat(300));
        assert_eq!(judged(&long_name), [false, true]);
    }

    #[test]
    fn a_coding_is_chunked_and_said_once() {
        let chunked = |lines: &str| format!("POST / HTTP/1.1\r\n{lines}\r\n4\r\n");
        for one in ["transfer-encoding: chunked\r\n", "Transfer-Encoding:\t  CHUNKED  \t \r\n"] {
            // What stands behind a chunked body is not read.
            assert_eq!(judged(&chunked(one)), [false; 2], "{one:?}");
        }
        let padded = format!("transfer-encoding:{}chunked\r\ncontent-length: 4\r\n", " ".repeat(300));
        for two in [
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked chunked\r\n",
            "transfer-encoding: chunke\r\n",
            "transfer-encoding:\r\n",
            "transfer-encoding : chunked\r\n",
            padded.as_str(),
        ] {
            assert_eq!(judged(&chunked(two)), [true; 2], "{two:?}");
        }
    }

    #[test]
    fn a_line_ends_with_a_carriage_return_and_a_line_feed() {
        for head in [
            "POST / HTTP/1.1\ncontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 4\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 4\r\n\n",
            "POST / HTTP/1.1\r\nx-a: 1\ncontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nx-a: 1\rcontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nx-a: 1\r\r\ncontent-length: 4\r\n\r\n",
            "\nPOST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nx-a: 1\r\n 2\r\ncontent-length: 4\r\n\r\n",
            "POST / HTTP/1.1\r\nx-a: 1\r\n\t2\r\ncontent-length: 4\r\n\r\n",
        ] {
            assert_eq!(judged(head), [true; 2], "{head:?}");
        }
        assert_eq!(judged("\r\n\r\nPOST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n"), [false, true]);
        // The body may hold what it likes.
        let body = "\n\r\n\n";
        assert!(!ambiguous(format!("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\n{body}GET / HTTP/1.1\r\n\r\n").as_bytes(), 3));
    }

    #[test]
    fn a_body_that_looks_like_headers_is_a_body() {
        let body = b"x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n";
        let mut bytes = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        for step in [1, 3, 1000] {
            assert!(!ambiguous(&bytes, step));
        }
    }
}
