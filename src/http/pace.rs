//! A stream whose other side has to read: what cannot be written for a while ends the connection, so that nobody holds one by
//! never taking the answer. Part of `http`, floor 8.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A stream with a deadline on the progress of what is written.
pub(super) struct Paced<S> {
    stream: S,
    timeout: Duration,
    /// Runs while something waits to be written.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Paced<S> {
    pub(super) fn new(stream: S, timeout: Duration) -> Self {
        Self { stream, timeout, deadline: None }
    }

    /// What came of a write, or that it has waited for too long.
    fn progress<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let timeout = self.timeout;
        ready!(self.deadline.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other side does not read")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.progress(cx, polled)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.progress(cx, polled)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.progress(cx, polled)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.progress(cx, polled)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::timeout;

    /// A write that no deadline ends fails the test after this.
    const GUARD: Duration = Duration::from_secs(30);

    async fn refused(paced: &mut Paced<tokio::io::DuplexStream>) -> io::ErrorKind {
        timeout(GUARD, paced.write_all(&[7; 1])).await.unwrap().unwrap_err().kind()
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_let_go_and_progress_begins_anew() {
        let (ours, mut theirs) = duplex(64);
        let mut paced = Paced::new(ours, Duration::from_millis(20));
        paced.write_all(&[7; 64]).await.unwrap();
        assert_eq!(refused(&mut paced).await, io::ErrorKind::TimedOut);
        assert!(paced.deadline.is_some());
        // What is taken after all is progress: nothing runs any more, until something waits again.
        let mut read = [0u8; 32];
        theirs.read_exact(&mut read).await.unwrap();
        paced.write_all(&[7; 32]).await.unwrap();
        assert!(paced.deadline.is_none());
        assert_eq!(refused(&mut paced).await, io::ErrorKind::TimedOut);
    }
}
