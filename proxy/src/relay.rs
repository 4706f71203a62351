//! Bytes that need no judgement: both directions, each with its own end, until both have ended.
//!
//! A direction holds a buffer only while it has bytes in hand, so an idle connection costs none. The buffer grows with what
//! the sender delivers, from 16 to 512 KiB, and shrinks again.

use std::io;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::socket::{Leg, Socket};

const SMALLEST_BUFFER: usize = 16 * 1024;
const LARGEST_BUFFER: usize = 512 * 1024;

/// A socket, and what was read from it already and belongs to the stream.
#[derive(Debug)]
pub struct Side {
    pub socket: Socket,
    pub read: Bytes,
}

impl Side {
    pub fn new(socket: Socket) -> Self {
        Self { socket, read: Bytes::new() }
    }
}

/// Carries bytes both ways until both sides have ended theirs. A side that breaks off is an error, and both legs end with RST:
/// the other side must not take a broken stream for a complete one.
pub async fn relay(client: Side, server: Side) -> io::Result<()> {
    relay_seen(client, server, &|_| {}).await
}

/// [`relay`], where `seen` is shown what the client sends, once it is on its way.
pub(crate) async fn relay_seen(mut client: Side, mut server: Side, seen: &Seen<'_>) -> io::Result<()> {
    let (client_leg, server_leg) = (client.socket.leg().clone(), server.socket.leg().clone());
    let (from_client, to_client) = client.socket.split();
    let (from_server, to_server) = server.socket.split();
    let up = carry(from_client, &client_leg, to_server, &server_leg, client.read, seen);
    let down = carry(from_server, &server_leg, to_client, &client_leg, server.read, &|_| {});
    let result = tokio::try_join!(up, down);
    if result.is_err() {
        client_leg.reset_on_close();
        server_leg.reset_on_close();
    }
    result.map(|_| ())
}

/// Who looks on.
pub(crate) type Seen<'a> = dyn Fn(&[u8]) + Sync + 'a;

/// One direction, and its end.
async fn carry(
    from: ReadHalf<'_>,
    from_leg: &Leg,
    mut to: WriteHalf<'_>,
    to_leg: &Leg,
    first: Bytes,
    seen: &Seen<'_>,
) -> io::Result<()> {
    write_all(&mut to, to_leg, &first).await?;
    seen(&first);
    drop(first);
    let mut size = SMALLEST_BUFFER;
    loop {
        from.readable().await?;
        let mut buf = Vec::with_capacity(size);
        loop {
            buf.clear();
            let read = match from.try_read_buf(&mut buf) {
                Ok(0) => return to.shutdown().await,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            from_leg.add_received(read);
            write_all(&mut to, to_leg, &buf).await?;
            seen(&buf);
            let next = next_size(size, read);
            if next != size {
                size = next;
                buf = Vec::with_capacity(size);
            }
            // One busy direction must not starve the other connections of its core.
            tokio::task::consume_budget().await;
        }
    }
}

async fn write_all(to: &mut WriteHalf<'_>, leg: &Leg, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = to.write(bytes).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        leg.add_sent(written);
        bytes = &bytes[written..];
    }
    Ok(())
}

/// | read | next size |
/// |---|---|
/// | the whole buffer | double, up to 512 KiB |
/// | less than an eighth | half, down to 16 KiB |
/// | else | the same |
fn next_size(size: usize, read: usize) -> usize {
    if read >= size {
        (size * 2).min(LARGEST_BUFFER)
    } else if read < size / 8 {
        (size / 2).max(SMALLEST_BUFFER)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::{LARGEST_BUFFER, SMALLEST_BUFFER, next_size};

    #[test]
    fn buffers_follow_what_arrives() {
        for (size, read, next) in [
            (SMALLEST_BUFFER, SMALLEST_BUFFER, 2 * SMALLEST_BUFFER),
            (LARGEST_BUFFER, LARGEST_BUFFER, LARGEST_BUFFER),
            (LARGEST_BUFFER, 64, LARGEST_BUFFER / 2),
            (SMALLEST_BUFFER, 64, SMALLEST_BUFFER),
            (64 * 1024, 20 * 1024, 64 * 1024),
        ] {
            assert_eq!(next_size(size, read), next, "{size} {read}");
        }
    }
}
