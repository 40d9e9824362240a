//! A client's byte stream: a socket, or a pipe to the task of a transport that is more than one.

use std::{
    cell::RefCell,
    io,
    net::{Shutdown, SocketAddr},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::Instant,
};

use crate::pipe::Near;

/// Bytes taken from a socket in one turn.
pub(crate) const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// One read buffer for all connections of a worker: an idle connection has none.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// Who is at the other end, before any word of MQTT.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// The name in its verified client certificate.
    pub(crate) certificate: Option<Box<str>>,
    /// By when it has to be let in.
    pub(crate) deadline: Instant,
}

/// A stream that is read by one task and written by whoever has something for it.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Pipe(Near),
}

impl Stream {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        no_delay(&stream);
        Self::Tcp(stream)
    }

    /// Hands the next bytes to `take`; `None` at the end of the stream.
    pub(crate) fn poll_read<T>(
        &self,
        context: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Option<T>>> {
        match self {
            Self::Tcp(stream) => poll_read_tcp(stream, context, take),
            Self::Pipe(near) => near.poll_read(context).map(|bytes| Ok(bytes.map(|b| take(&b)))),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Pipe(near) => near.try_write(bytes),
        }
    }

    /// Resolves when writing makes sense again, also after the end of the connection.
    pub(crate) async fn writable(&self) {
        match self {
            Self::Tcp(stream) => drop(stream.writable().await),
            Self::Pipe(near) => near.writable().await,
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            // It may be shut down already, by either side.
            Self::Tcp(stream) => drop(socket2::SockRef::from(stream).shutdown(how)),
            Self::Pipe(near) => near.shutdown(how),
        }
    }
}

/// Without it small answers wait for each other; a socket that refuses works all the same.
pub(crate) fn no_delay(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
}

fn poll_read_tcp<T>(
    stream: &TcpStream,
    context: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Option<T>>> {
    loop {
        ready!(stream.poll_read_ready(context))?;
        let read = BUFFER.with_borrow_mut(|buffer| {
            // Copied out of the closure's way: `take` may panic, the buffer stays valid.
            stream.try_read(buffer)
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

/// Reads from any transport by the worker's buffer; empty at the end of the stream.
pub(crate) fn poll_read_any(
    transport: &mut (impl AsyncRead + Unpin),
    context: &mut Context<'_>,
) -> Poll<io::Result<Vec<u8>>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut read = ReadBuf::new(buffer);
        ready!(Pin::new(transport).poll_read(context, &mut read))?;
        Poll::Ready(Ok(read.filled().to_vec()))
    })
}
