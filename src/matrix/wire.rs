//! An HTTP/1.1 client that sends what it is told, byte for byte, and reads what comes. A row about broken framing needs one
//! that breaks it; no client library does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A case that hangs is a case that fails; nothing is measured by it.
const GUARD: Duration = Duration::from_secs(60);

/// A request as it will stand on the wire.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In order, as often as they stand here.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
    /// How its end is told.
    pub framing: Framing,
}

/// How the body's end is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By a `content-length` that is right.
    Length,
    /// In chunks of at most so many bytes.
    Chunked(usize),
    /// By what stands among the headers, and nothing else; the body goes out as it is.
    AsIs,
}

impl Request {
    /// One without headers and body.
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new(), framing: Framing::Length }
    }

    /// A POST.
    pub fn post(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new("POST", target) }
    }

    /// A GET.
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.into(), value.as_ref().to_vec()));
        self
    }

    /// With more headers.
    #[must_use]
    pub fn headers(mut self, headers: impl IntoIterator<Item = (String, String)>) -> Self {
        self.headers.extend(headers.into_iter().map(|(n, v)| (n, v.into_bytes())));
        self
    }

    /// Its body is JSON.
    #[must_use]
    pub fn json(self) -> Self {
        self.header("content-type", "application/json")
    }

    /// The head alone.
    pub fn head(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            out.extend_from_slice(b"host: 127.0.0.1:80\r\n");
        }
        for (name, value) in &self.headers {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
        match self.framing {
            Framing::Length if self.body.is_empty() && self.method == "GET" => {}
            Framing::Length => out.extend_from_slice(format!("content-length: {}\r\n", self.body.len()).as_bytes()),
            Framing::Chunked(_) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Framing::AsIs => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.head();
        match self.framing {
            Framing::Chunked(size) => {
                for chunk in self.body.chunks(size.max(1)) {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
            }
            Framing::Length | Framing::AsIs => out.extend_from_slice(&self.body),
        }
        out
    }
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Lower-case names, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    read: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(to: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader, writer, read: Vec::new() })
    }

    /// Writes; a peer that has hung up is no error here, what it said before counts.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.writer.write_all(bytes).await.is_ok()
    }

    /// Writes while it reads: a server may answer before it has read everything. None where it hangs up without an answer.
    ///
    /// # Errors
    /// When no answer and no end comes.
    pub async fn exchange(&mut self, bytes: &[u8]) -> Result<Option<Response>, String> {
        let Self { reader, writer, read } = self;
        let write = async {
            let _ = writer.write_all(bytes).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            response = tokio::time::timeout(GUARD, next(reader, read)) => response.map_err(|_| "neither an answer nor an end comes".to_owned()),
            () = write => Ok(None),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When no answer and no end comes.
    pub async fn send(&mut self, request: &Request) -> Result<Option<Response>, String> {
        self.exchange(&request.bytes()).await
    }

    /// Waits for the peer's end; what it still said.
    ///
    /// # Errors
    /// When the end does not come.
    pub async fn rest(&mut self) -> Result<Vec<u8>, String> {
        let mut all = std::mem::take(&mut self.read);
        match tokio::time::timeout(GUARD, async { while more(&mut self.reader, &mut all).await {} }).await {
            Ok(()) => Ok(all),
            Err(_) => Err("the peer does not hang up".into()),
        }
    }

    /// Whether the peer hangs up, and says nothing more before.
    ///
    /// # Errors
    /// When the end does not come.
    pub async fn ends(&mut self) -> Result<bool, String> {
        self.rest().await.map(|rest| rest.is_empty())
    }
}

/// One request on a connection of its own.
///
/// # Errors
/// When nobody listens, or no answer and no end comes.
pub async fn once(to: SocketAddr, request: &Request) -> Result<Option<Response>, String> {
    Connection::open(to).await.map_err(|e| format!("{to}: {e}"))?.send(request).await
}

async fn more(reader: &mut OwnedReadHalf, read: &mut Vec<u8>) -> bool {
    let mut chunk = [0u8; 16 * 1024];
    match reader.read(&mut chunk).await {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            read.extend_from_slice(chunk.get(..n).unwrap_or_default());
            true
        }
    }
}

async fn next(reader: &mut OwnedReadHalf, read: &mut Vec<u8>) -> Option<Response> {
    let end = loop {
        if let Some(end) = read.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if !more(reader, read).await {
            return None;
        }
    };
    let head = String::from_utf8_lossy(read.get(..end)?).into_owned();
    read.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
    let mut answer = Response { status, headers, body: Vec::new() };
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = line(reader, read).await?;
            let size = usize::from_str_radix(&size, 16).ok()?;
            let chunk = exactly(reader, read, size + 2).await?;
            answer.body.extend_from_slice(chunk.get(..size)?);
            if size == 0 {
                return Some(answer);
            }
        }
    }
    match answer.header("content-length") {
        Some(length) => answer.body = exactly(reader, read, length.parse().ok()?).await?,
        // A 204 has no body, and says no length.
        None if answer.status == 204 => {}
        None => {
            while more(reader, read).await {}
            answer.body = std::mem::take(read);
        }
    }
    Some(answer)
}

async fn exactly(reader: &mut OwnedReadHalf, read: &mut Vec<u8>, n: usize) -> Option<Vec<u8>> {
    while read.len() < n {
        if !more(reader, read).await {
            return None;
        }
    }
    Some(read.drain(..n).collect())
}

async fn line(reader: &mut OwnedReadHalf, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = read.windows(2).position(|w| w == b"\r\n") {
            let line = String::from_utf8_lossy(read.get(..end)?).into_owned();
            read.drain(..end + 2);
            return Some(line);
        }
        if !more(reader, read).await {
            return None;
        }
    }
}
