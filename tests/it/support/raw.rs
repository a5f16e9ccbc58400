//! The matrix's client for tests, where whatever goes wrong ends the test.

use std::net::SocketAddr;

use byoa_gateway::matrix::wire;
pub use byoa_gateway::matrix::wire::{Request, Response};

/// One connection.
pub struct Connection(wire::Connection);

impl Connection {
    pub async fn open(to: SocketAddr) -> Self {
        Self::try_open(to).await.unwrap()
    }

    pub async fn try_open(to: SocketAddr) -> std::io::Result<Self> {
        wire::Connection::open(to).await.map(Self)
    }

    /// Writes, and does not wait for an answer.
    pub async fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write(bytes).await
    }

    pub async fn send(&mut self, request: &Request) -> Option<Response> {
        self.0.send(request).await.unwrap()
    }

    /// Whether the peer hangs up, and says nothing more before.
    pub async fn ends(&mut self) -> bool {
        self.0.ends().await.unwrap()
    }
}

/// One request on a connection of its own.
pub async fn once(to: SocketAddr, request: &Request) -> Option<Response> {
    wire::once(to, request).await.unwrap()
}
