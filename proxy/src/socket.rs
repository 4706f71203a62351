//! One leg of a proxied connection: a TCP socket that counts its bytes and ends the way it is told to.
//!
//! A connection's sockets travel deep into hyper and back. What must be known or decided from outside meanwhile (how much
//! went through, and whether the leg ends with RST) lies in a [`Leg`] that both sides hold.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// How long the peer may go on sending after the last word to it. Closing with bytes unread would be a RST, and that can
/// overtake the word.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1 << 20;

/// What can be known and decided about a leg from outside.
#[derive(Debug, Default)]
pub struct Leg {
    received: AtomicU64,
    sent: AtomicU64,
    reset: AtomicBool,
}

impl Leg {
    /// Bytes that were read from this peer.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes that were written to this peer.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// From now on this leg ends with RST: what is in its buffers is not delivered any more.
    pub fn reset_on_close(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Where the client of a diverted connection wanted to go before any translation, such as to a Service's address. None: nothing
/// tracks it.
pub(crate) fn asked_for(stream: &TcpStream) -> Option<IpAddr> {
    if stream.local_addr().is_ok_and(|own| own.is_ipv4()) {
        let asked = getsockopt(stream, sockopt::OriginalDst).ok()?;
        Some(Ipv4Addr::from(u32::from_be(asked.sin_addr.s_addr)).into())
    } else {
        let asked = getsockopt(stream, sockopt::Ip6tOriginalDst).ok()?;
        Some(Ipv6Addr::from(asked.sin6_addr.s6_addr).into())
    }
}

/// A TCP socket with its [`Leg`].
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    leg: Arc<Leg>,
}

impl Socket {
    /// Takes over `stream`: small writes leave at once, and a peer that vanished is noticed after some minutes.
    pub fn new(stream: TcpStream, leg: Arc<Leg>) -> Self {
        let socket = SockRef::from(&stream);
        let keepalive = socket2::TcpKeepalive::new()
            .with_time(Duration::from_secs(120))
            .with_interval(Duration::from_secs(30))
            .with_retries(4);
        // A socket that refuses an option is one whose peer has already gone: the first read says so.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_keepalive(&keepalive);
        Self { stream, leg }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Both directions, for whoever counts the bytes himself.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        self.stream.split()
    }

    pub fn leg(&self) -> &Arc<Leg> {
        &self.leg
    }

    /// Closes so that the peer gets the last word whole.
    pub(crate) async fn linger(mut self) {
        if self.shutdown().await.is_err() {
            return;
        }
        let mut rest = LINGER_BYTES;
        let mut sink = [0; 4096];
        let reading = async {
            while let Ok(read @ 1..) = self.read(&mut sink).await {
                rest = rest.saturating_sub(read);
                if rest == 0 {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LINGER_TIME, reading).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.leg.reset.load(Ordering::Relaxed) {
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.leg.add_received(buf.filled().len() - before);
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &result {
            self.leg.add_sent(*written);
        }
        result
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = &result {
            self.leg.add_sent(*written);
        }
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
