//! Between a transport that is more than a socket and its session: TLS records or WebSocket frames
//! on one side, a [`pipe`](crate::pipe) on the other.
//!
//! Nothing is read from a client whose session does not read, and nothing more is taken from a
//! session than the client takes: both lanes are bounded, and so is what is on its way.

use std::{pin::pin, sync::Arc, task::ready, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::{
    pipe::{Far, pipe},
    session::{connect::serve, connection::caught},
    shared::Shared,
    stream::{Peer, Stream, poll_read_any},
};

/// How long a transport may take to say goodbye when its session is over.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Serves one client over a transport that `carry` knows how to move bytes on.
pub(crate) async fn serve_over<F: Future<Output = ()>>(
    shared: Arc<Shared>,
    peer: Peer,
    carry: impl FnOnce(Far) -> F,
) {
    let (near, far) = pipe();
    let mut session = pin!(serve(shared.clone(), Stream::Pipe(near), peer));
    // Caught, so that the session can be put in order whatever becomes of its transport.
    let mut carry = pin!(caught(carry(far)));
    tokio::select! {
        () = &mut session => {}
        carried = &mut carry => {
            if carried.is_none() {
                tracing::error!("a transport panicked");
            }
            return session.await;
        }
    }
    tokio::select! {
        _ = tokio::time::timeout(CLOSE_LIMIT, carry) => {}
        () = shared.ended() => {}
    }
}

/// Moves plain bytes, until both directions have ended.
pub(crate) async fn carry_bytes(transport: impl AsyncRead + AsyncWrite, far: Far) {
    let (reader, writer) = tokio::io::split(transport);
    tokio::join!(inward(reader, &far), outward(writer, &far));
}

async fn inward(mut reader: ReadHalf<impl AsyncRead>, far: &Far) {
    loop {
        let read = std::future::poll_fn(|context| {
            if !ready!(far.poll_room(context)) {
                return None.into();
            }
            poll_read_any(&mut reader, context).map(Some)
        });
        match read.await {
            Some(Ok(bytes)) if !bytes.is_empty() => {
                if !far.write_all(&bytes).await {
                    return;
                }
            }
            // The end, or an error: the session cannot do anything about the difference.
            Some(_) => return far.finish(),
            None => return,
        }
    }
}

async fn outward(mut writer: WriteHalf<impl AsyncWrite>, far: &Far) {
    while let Some(bytes) = far.take().await {
        if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
            return far.abandon();
        }
    }
    // Tells the client that this is the end and not a cut; it may be gone already.
    let _ = writer.shutdown().await;
}
