//! Watches the bytes of a connection for framing that could be read two ways.
//!
//! hyper resolves `Content-Length` beside `Transfer-Encoding` and equal repeated lengths in silence, as RFC 9112 §6.3
//! lets it. Behind a proxy that resolves them the other way, that is request smuggling (RUSTSEC-2021-0020), so such a
//! request is answered 400 and its connection closed.

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
        let watch = Watch { at: At::Line, line: Vec::new(), head: Head::default(), ambiguous: ambiguous.clone() };
        (Self { stream, watch }, ambiguous)
    }
}

#[derive(Default)]
struct Head {
    lines: usize,
    lengths: Vec<u64>,
    coded: bool,
}

enum At {
    /// In a head, collecting a line.
    Line,
    /// In a body of known length.
    Body(u64),
    /// Behind a chunked body: the connection is closed after it, so nothing more needs watching.
    Over,
}

struct Watch {
    at: At,
    line: Vec<u8>,
    head: Head,
    ambiguous: Ambiguous,
}

/// Only the two framing headers matter; longer lines are cut, not kept.
const LINE_BYTES_MAX: usize = 128;

impl Watch {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match &mut self.at {
                At::Over => return,
                At::Body(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    *left -= take as u64;
                    bytes = bytes.get(take..).unwrap_or_default();
                    if *left == 0 {
                        self.at = At::Line;
                    }
                }
                At::Line => {
                    let end = bytes.iter().position(|b| *b == b'\n');
                    let (part, rest) = match end {
                        Some(end) => (bytes.get(..end).unwrap_or_default(), bytes.get(end + 1..).unwrap_or_default()),
                        None => (bytes, &[][..]),
                    };
                    let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
                    self.line.extend_from_slice(part.get(..room).unwrap_or(part));
                    bytes = rest;
                    if end.is_some() {
                        self.line_done();
                    }
                }
            }
        }
    }

    fn line_done(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.is_empty() {
            // Blank lines before a request line are allowed.
            if self.head.lines > 0 {
                self.head_done();
            }
        } else {
            self.head.lines += 1;
            self.header(line);
        }
        self.line = Vec::new();
    }

    fn header(&mut self, line: &[u8]) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { return };
        let (name, value) = (line.get(..colon).unwrap_or_default().trim_ascii(), line.get(colon + 1..).unwrap_or_default().trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
            self.head.lengths.push(length.unwrap_or(u64::MAX));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.head.coded = true;
        }
    }

    fn head_done(&mut self) {
        let head = std::mem::take(&mut self.head);
        if head.lengths.len() > 1 || (head.coded && !head.lengths.is_empty()) {
            self.ambiguous.0.store(true, Ordering::Release);
        }
        self.at = match head.lengths.first() {
            _ if head.coded => At::Over,
            Some(0) | None => At::Line,
            Some(length) => At::Body(*length),
        };
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
