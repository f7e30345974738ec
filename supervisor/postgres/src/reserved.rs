//! A stream to the local server whose startup packet asks for a walsender that runs SQL (`replication=database`): the
//! client library knows no such option.

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// What is put into the startup packet.
const ASK: &[u8] = b"replication\0database\0";

/// See the module.
#[derive(Debug)]
pub(crate) struct AsWalsender {
    socket: UnixStream,
    /// What is left to be sent of the startup packet; `None` before it.
    startup: Option<Vec<u8>>,
}

impl AsWalsender {
    pub(crate) async fn connect(socket: &Path) -> io::Result<Self> {
        Ok(Self { socket: UnixStream::connect(socket).await?, startup: None })
    }

    fn poll_startup(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(left) = &mut self.startup else { return Poll::Ready(Ok(())) };
        while !left.is_empty() {
            let sent = std::task::ready!(Pin::new(&mut self.socket).poll_write(cx, left))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            left.drain(..sent);
        }
        Poll::Ready(Ok(()))
    }
}

/// A startup packet (length, protocol version, pairs of texts, a final zero) with [`ASK`] as one pair more; `None` if
/// `packet` is no such thing.
fn asking(packet: &[u8]) -> Option<Vec<u8>> {
    let length = u32::from_be_bytes(packet.get(..4)?.try_into().ok()?);
    let (last, pairs) = packet.split_last()?;
    if *last != 0 || usize::try_from(length).ok()? != packet.len() {
        return None;
    }
    let mut asking = pairs.to_vec();
    asking.extend_from_slice(ASK);
    asking.push(0);
    let length = u32::try_from(asking.len()).ok()?;
    asking[..4].copy_from_slice(&length.to_be_bytes());
    Some(asking)
}

impl AsyncRead for AsWalsender {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for AsWalsender {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.startup.is_none() {
            let Some(packet) = asking(buf) else {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "no whole startup packet")));
            };
            self.startup = Some(packet);
            // The rest of it is sent by the flush that follows.
            return match self.poll_startup(cx) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                _ => Poll::Ready(Ok(buf.len())),
            };
        }
        std::task::ready!(self.poll_startup(cx))?;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_startup(cx))?;
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pair_is_added_and_the_length_is_right() {
        let packet = b"\0\0\0\x13\0\x03\0\0user\0boss\0\0";
        assert_eq!(asking(packet).unwrap(), b"\0\0\0\x28\0\x03\0\0user\0boss\0replication\0database\0\0");
        for odd in [&packet[..8], b"", b"\0\0\0\x04", b"\0\0\0\x05x"] {
            assert!(asking(odd).is_none(), "{odd:?}");
        }
    }
}
