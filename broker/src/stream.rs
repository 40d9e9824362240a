//! A client's byte stream. TCP today; what else carries MQTT joins here.

use std::{
    cell::RefCell,
    io,
    net::Shutdown,
    task::{Context, Poll, ready},
};

use tokio::net::TcpStream;

/// Bytes taken from a socket in one turn.
pub(crate) const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// One read buffer for all connections of a worker: an idle connection has none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// A stream that is read by one task and written by whoever has something for it.
#[derive(Debug)]
pub(crate) struct Stream(TcpStream);

impl Stream {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // Without it small answers wait for each other; a socket that refuses works all the same.
        let _ = stream.set_nodelay(true);
        Self(stream)
    }

    /// Hands the next bytes to `take`; `None` at the end of the stream.
    pub(crate) fn poll_read<T>(
        &self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            let read = BUFFER.with_borrow_mut(|buffer| {
                // Copied out of the closure's way: `take` may panic, the buffer stays valid.
                self.0.try_read(buffer)
            });
            match read {
                Ok(0) => return Poll::Ready(Ok(None)),
                Ok(count) => {
                    let taken = BUFFER.with_borrow(|buffer| take(&buffer[..count]));
                    return Poll::Ready(Ok(Some(taken)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    /// Resolves when writing makes sense again, also after the end of the connection.
    pub(crate) async fn writable(&self) {
        let _ = self.0.writable().await;
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        // It may be shut down already, by either side.
        let _ = socket2::SockRef::from(&self.0).shutdown(how);
    }
}
