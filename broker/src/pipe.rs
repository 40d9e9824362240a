//! A byte stream in memory, between a session and a transport that is more than a socket.
//!
//! TLS and WebSocket cannot be written to by whoever happens to have something for a client, as a
//! socket can; so they get a task each (see `carry`), and a session sees two bounded lanes that
//! behave as a socket's buffers do: a full lane is a blocked socket.

use std::{
    io,
    net::Shutdown,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use crate::{lock::lock, stream::READ_BYTES};

/// Bytes that one direction holds.
const LANE_BYTES: usize = READ_BYTES;

#[derive(Debug, Default)]
struct Pipe {
    /// From the client.
    inward: Lane,
    /// To the client.
    outward: Lane,
}

/// Makes a pipe: the session's end and the transport's.
pub(crate) fn pipe() -> (Near, Far) {
    let pipe = Arc::new(Pipe::default());
    (Near(pipe.clone()), Far(pipe))
}

/// The session's end.
#[derive(Debug)]
pub(crate) struct Near(Arc<Pipe>);

impl Near {
    /// What has come in; `None` at the end of the stream.
    pub(crate) fn poll_read(&self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.0.inward.poll_take(context)
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.outward.try_write(bytes)
    }

    /// Resolves when writing makes sense again, also after the end of the connection.
    pub(crate) async fn writable(&self) {
        std::future::poll_fn(|context| self.0.outward.poll_room(context).map(drop)).await;
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Read {
            self.0.outward.finish();
        }
        if how != Shutdown::Write {
            self.0.inward.abandon();
        }
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        self.shutdown(Shutdown::Both);
    }
}

/// The transport's end.
#[derive(Debug)]
pub(crate) struct Far(Arc<Pipe>);

impl Far {
    /// Resolves when bytes from the client can be taken; false when nobody wants them any more.
    /// The waker is kept in both cases: who goes on to read learns of a session's end by it.
    pub(crate) fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        self.0.inward.poll_room(context)
    }

    /// Hands in bytes from the client, waiting for room; false when nobody wants them any more.
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if !std::future::poll_fn(|context| self.poll_room(context)).await {
                return false;
            }
            match self.0.inward.try_write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return false,
            }
        }
        true
    }

    /// Nothing more comes from the client.
    pub(crate) fn finish(&self) {
        self.0.inward.finish();
    }

    /// Nothing more can be sent to the client.
    pub(crate) fn abandon(&self) {
        self.0.outward.abandon();
        self.0.inward.finish();
    }

    /// What is to be sent; `None` when the session has said everything.
    pub(crate) async fn take(&self) -> Option<Vec<u8>> {
        std::future::poll_fn(|context| self.0.outward.poll_take(context)).await
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// One direction. Each end has one task at a time that waits.
#[derive(Debug, Default)]
struct Lane(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// The writing end adds no more.
    finished: bool,
    /// The reading end takes no more.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Lane {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = lock(&self.0);
        if state.finished || state.abandoned {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let count = bytes.len().min(LANE_BYTES.saturating_sub(state.bytes.len()));
        if count == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.bytes.extend_from_slice(&bytes[..count]);
        let reader = state.reader.take();
        drop(state);
        wake(reader);
        Ok(count)
    }

    fn poll_room(&self, context: &mut Context<'_>) -> Poll<bool> {
        let mut state = lock(&self.0);
        if state.finished || state.abandoned {
            return Poll::Ready(false);
        }
        remember(&mut state.writer, context);
        if state.bytes.len() < LANE_BYTES { Poll::Ready(true) } else { Poll::Pending }
    }

    fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut state = lock(&self.0);
        if state.abandoned {
            return Poll::Ready(None);
        }
        if !state.bytes.is_empty() {
            let bytes = std::mem::take(&mut state.bytes);
            let writer = state.writer.take();
            drop(state);
            wake(writer);
            return Poll::Ready(Some(bytes));
        }
        if state.finished {
            return Poll::Ready(None);
        }
        remember(&mut state.reader, context);
        Poll::Pending
    }

    fn finish(&self) {
        self.end(|state| state.finished = true);
    }

    fn abandon(&self) {
        self.end(|state| {
            state.abandoned = true;
            state.bytes = Vec::new();
        });
    }

    fn end(&self, how: impl FnOnce(&mut State)) {
        let mut state = lock(&self.0);
        how(&mut state);
        let wakers = (state.reader.take(), state.writer.take());
        drop(state);
        wake(wakers.0);
        wake(wakers.1);
    }
}

fn remember(place: &mut Option<Waker>, context: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(context.waker()),
        None => *place = Some(context.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(near: &Near) -> Option<Vec<u8>> {
        std::future::poll_fn(|context| near.poll_read(context)).await
    }

    fn is_blocked(near: &Near) -> bool {
        near.try_write(b"x").is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn a_full_lane_is_a_blocked_socket_until_it_is_taken() {
        let (near, far) = pipe();
        let big = vec![7; LANE_BYTES + 5];
        assert_eq!(near.try_write(&big).unwrap(), LANE_BYTES);
        assert!(is_blocked(&near));
        let near = Arc::new(near);
        let waiting = tokio::spawn({
            let near = near.clone();
            async move { near.writable().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        assert_eq!(far.take().await.unwrap().len(), LANE_BYTES);
        waiting.await.unwrap();
        assert_eq!(near.try_write(b"abc").unwrap(), 3);
        assert_eq!(far.take().await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn the_transport_waits_while_the_session_does_not_read() {
        let (near, far) = pipe();
        let writing =
            tokio::spawn(async move { far.write_all(&vec![1; 3 * LANE_BYTES + 1]).await });
        tokio::task::yield_now().await;
        assert!(!writing.is_finished());
        let mut got = 0;
        while let Some(bytes) = read(&near).await {
            assert!(bytes.len() <= LANE_BYTES);
            got += bytes.len();
        }
        assert_eq!(got, 3 * LANE_BYTES + 1);
        assert!(writing.await.unwrap());
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_still_arrives() {
        let (near, far) = pipe();
        near.try_write(b"last words").unwrap();
        near.shutdown(Shutdown::Write);
        assert!(near.try_write(b"x").is_err());
        assert!(far.write_all(b"answer").await, "the other direction is open");
        drop(near);
        assert_eq!(far.take().await.unwrap(), b"last words");
        assert_eq!(far.take().await, None);
        assert!(!far.write_all(b"x").await);
    }

    #[tokio::test]
    async fn the_end_of_a_transport_ends_reading_and_writing() {
        let (near, far) = pipe();
        assert!(far.write_all(b"rest").await);
        let big = vec![7; LANE_BYTES];
        near.try_write(&big).unwrap();
        let near = Arc::new(near);
        let waiting = tokio::spawn({
            let near = near.clone();
            async move { near.writable().await }
        });
        tokio::task::yield_now().await;
        drop(far);
        waiting.await.unwrap();
        assert_eq!(near.try_write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(read(&near).await.unwrap(), b"rest");
        assert_eq!(read(&near).await, None);
    }
}
