//! The socket as a connection uses it.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// A connection to a client, encrypted or not.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Resolves when there may be something to read.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Transport for TcpStream {
    async fn readable(&self) -> io::Result<()> {
        Self::readable(self).await
    }
}
