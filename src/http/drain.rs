//! A connection whose client has to take what it asked for: one that does not would hold its place
//! for ever, and there are only so many.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client may take for [`ENOUGH_BYTES`] once its socket is full. Longer than the bus
/// gives a WebSocket, which comes through here too, so that there the bus has its own say.
const LIMIT: Duration = Duration::from_secs(15);
/// What shows that a client reads, if slowly.
const ENOUGH_BYTES: usize = 16 << 10;

/// A stream that fails when its other end takes next to nothing.
#[derive(Debug)]
pub(super) struct Drained<T> {
    stream: T,
    /// While the socket is full.
    slow: Option<Slow>,
}

#[derive(Debug)]
struct Slow {
    taken: usize,
    ends: Pin<Box<Sleep>>,
}

impl<T> Drained<T> {
    pub(super) const fn new(stream: T) -> Self {
        Self { stream, slow: None }
    }

    /// Looks at how a write went.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => {
                let more = |slow: &mut Slow| {
                    slow.taken += bytes;
                    slow.taken >= ENOUGH_BYTES
                };
                self.slow.take_if(more);
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                ready!(self.late(context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
        }
    }

    /// Ready when the time is up.
    fn late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let start = || Slow { taken: 0, ends: Box::pin(sleep(LIMIT)) };
        self.slow.get_or_insert_with(start).ends.as_mut().poll(context)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Drained<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Drained<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => {
                ready!(self.late(context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
            flushed => {
                // All that was to be written is on its way.
                self.slow = None;
                flushed
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => {
                ready!(self.late(context));
                Poll::Ready(Err(ErrorKind::TimedOut.into()))
            }
            shut => shut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_or_next_to_nothing_is_given_up() {
        for drops in [0, 100] {
            let (near, mut far) = tokio::io::duplex(1024);
            let reader = tokio::spawn(async move {
                for _ in 0..drops {
                    sleep(Duration::from_secs(1)).await;
                    far.read_exact(&mut [0; 10]).await.unwrap();
                }
                std::future::pending::<()>().await;
            });
            let error = Drained::new(near).write_all(&[0; 1 << 20]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{drops}");
            reader.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_client_gets_everything_and_one_at_rest_is_left_alone() {
        let (near, mut far) = tokio::io::duplex(1024);
        let reader = tokio::spawn(async move {
            let mut taken = 0;
            while taken < 1 << 20 {
                sleep(Duration::from_millis(500)).await;
                taken += far.read(&mut [0; 1024]).await.unwrap();
            }
            sleep(LIMIT * 3).await;
            far.read_exact(&mut [0; 4]).await.unwrap();
        });
        let mut stream = Drained::new(near);
        stream.write_all(&[0; 1 << 20]).await.unwrap();
        stream.flush().await.unwrap();
        sleep(LIMIT * 2).await;
        stream.write_all(b"more").await.unwrap();
        reader.await.unwrap();
    }
}
