//! From queues to sockets.
//!
//! Whoever queues something also writes it, here and now, as far as the socket takes it; only a
//! full socket starts a helper task. That halves the latency against a task per connection.

use std::{
    cell::Cell,
    io,
    net::Shutdown,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use super::{Session, queue::OUT_BYTES};
use crate::{
    bounds::Bound,
    chunk::{Chunk, Take},
    codec::Reason,
    lock::{lock, try_lock},
    shared::Shared,
    stats::add,
    stream::Stream,
};

/// Bytes (an acknowledgement counts for 512) that are a fair amount for a client to take within
/// the grace; less does not count as progress, so that one byte now and then holds up nobody.
const PROGRESS_BYTES: usize = 4096;
const ACK_CREDIT: usize = 512;

/// The socket of the present connection and what is on its way into it.
#[derive(Debug, Default)]
pub(crate) struct Io {
    pub(crate) stream: Option<Arc<Stream>>,
    out: Vec<u8>,
    whole: Option<Arc<Chunk>>,
    written: usize,
    pub(crate) blocked: bool,
    /// Taken by the client since its progress was last noted.
    credit: usize,
}

impl Io {
    pub(crate) fn new(stream: Arc<Stream>) -> Self {
        Self { stream: Some(stream), ..Self::default() }
    }

    fn unwritten(&self) -> &[u8] {
        match (&self.whole, self.out.get(self.written..)) {
            (_, Some(bytes)) if !bytes.is_empty() => bytes,
            (Some(chunk), _) => &chunk.bytes()[self.written - self.out.len()..],
            (None, _) => &[],
        }
    }

    /// Is everything that was prepared in the socket?
    pub(crate) fn is_written(&self) -> bool {
        self.unwritten().is_empty()
    }
}

thread_local! {
    /// One output buffer for all connections of a worker that are not blocked.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Session {
    fn is_stalled(&self, shared: &Shared) -> bool {
        let grace = shared.limits.stall_grace.as_millis() as u64;
        shared.now_ms() > self.progress_ms.load(SeqCst) + grace
    }

    /// Queues one run. True when this session has become a reason for the publisher to wait.
    pub(crate) fn push(&self, shared: &Shared, take: Take) -> bool {
        let (count, bytes) = (take.chunk.len(), take.chunk.bytes().len());
        let limits = &shared.limits;
        let mut queue = lock(&self.queue);
        if !queue.online {
            if take.qos == 0 {
                return false; // not kept for who is away, and not counted as lost
            }
            if shared.is_crowded() {
                shared.reached(Bound::Queues, &self.key.client_id);
                self.count_dropped(shared, &mut queue.dropped, count);
                return false;
            }
            let kept = queue.push_what_fits(take, limits);
            self.count_dropped(shared, &mut queue.dropped, count - kept);
            return false;
        }
        if queue.is_quiet() {
            // Nothing was owed: the time to be slow begins now.
            self.progress_ms.fetch_max(shared.now_ms(), SeqCst);
        }
        let crowded = shared.is_crowded();
        let over = !queue.is_quiet() && (crowded || queue.is_over(count, bytes, limits, 1));
        if over && self.is_stalled(shared) {
            let too_much = take.qos > 0 && (crowded || queue.is_over(count, bytes, limits, 2));
            if crowded {
                shared.reached(Bound::Queues, &self.key.client_id);
            }
            if too_much {
                self.end(queue.ticket, Reason::Quota);
            }
            if too_much || take.qos == 0 {
                self.count_dropped(shared, &mut queue.dropped, count);
                return false;
            }
        }
        queue.push(take);
        if over {
            self.full.store(true, SeqCst);
        }
        over
    }

    fn count_dropped(&self, shared: &Shared, dropped: &mut u64, count: usize) {
        if count == 0 {
            return;
        }
        add(&shared.counters.dropped, count);
        if *dropped == 0 {
            tracing::warn!(client_id = %self.key.client_id, "queue full, dropping messages");
        }
        *dropped += count as u64;
    }

    /// Must a publisher that feeds this session still wait?
    pub(crate) fn holds_up(&self, shared: &Shared) -> bool {
        self.full.load(SeqCst) && !self.is_stalled(shared) && lock(&self.queue).online
    }

    /// Tells the writer to look, and writes if nobody else is writing.
    pub(crate) fn wake(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.pending.store(true, SeqCst);
        self.pump(shared);
    }

    /// Writes what is queued; when the socket is full a helper task goes on.
    pub(crate) fn pump(self: &Arc<Self>, shared: &Arc<Shared>) {
        loop {
            // Who holds the lock looks at `pending` again after letting it go.
            let Some(mut io) = try_lock(&self.io) else { return };
            self.drain(shared, &mut io);
            let blocked = io.blocked;
            drop(io);
            if blocked || !self.pending.load(SeqCst) {
                return;
            }
        }
    }

    pub(super) fn drain(self: &Arc<Self>, shared: &Arc<Shared>, io: &mut Io) {
        io.blocked = false;
        let Some(stream) = io.stream.clone() else {
            self.pending.store(false, SeqCst);
            return;
        };
        loop {
            if !io.is_written() {
                match stream.try_write(io.unwritten()) {
                    Ok(count) => self.count_written(shared, io, count),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        io.blocked = true;
                        if !self.writer.swap(true, SeqCst) {
                            let writer = self.clone().write_when_possible(shared.clone(), stream);
                            shared.tasks.spawn(writer);
                        }
                        return;
                    }
                    Err(_) => {
                        // The reading side finds out by itself what became of the connection.
                        stream.shutdown(Shutdown::Both);
                        io.stream = None;
                        self.pending.store(false, SeqCst);
                        return;
                    }
                }
                continue;
            }
            self.progress_ms.fetch_max(shared.now_ms(), SeqCst);
            if !self.refill(shared, io) {
                return;
            }
        }
    }

    /// Takes the next turn out of the queue. False when there is nothing to send.
    fn refill(&self, shared: &Shared, io: &mut Io) -> bool {
        if io.out.capacity() == 0 {
            io.out = SPARE.take();
        }
        io.out.clear();
        (io.whole, io.written) = (None, 0);
        self.pending.store(false, SeqCst);
        let mut queue = lock(&self.queue);
        let filled = queue.fill(&mut io.out, &shared.limits, shared.now_ms());
        let room = self.full.load(SeqCst) && queue.has_room(&shared.limits);
        drop(queue);
        io.whole = filled.whole;
        add(&shared.counters.messages_out, filled.messages);
        if room {
            self.full.store(false, SeqCst);
            self.room.notify_waiters();
        }
        let more = !io.is_written();
        if !more {
            let out = std::mem::take(&mut io.out);
            if out.capacity() <= 2 * OUT_BYTES {
                SPARE.set(out);
            }
        }
        more
    }

    fn count_written(&self, shared: &Shared, io: &mut Io, count: usize) {
        io.written += count;
        io.credit += count;
        add(&shared.counters.bytes_out, count);
        if io.credit >= PROGRESS_BYTES {
            io.credit = 0;
            self.progress_ms.fetch_max(shared.now_ms(), SeqCst);
        }
    }

    /// Acknowledgements are progress too: a client with a small window takes few bytes at a time.
    pub(crate) fn credit_acks(&self, shared: &Shared, acks: usize) {
        if let Some(mut io) = try_lock(&self.io) {
            io.credit += acks * ACK_CREDIT;
            if io.credit >= PROGRESS_BYTES {
                io.credit = 0;
                self.progress_ms.fetch_max(shared.now_ms(), SeqCst);
            }
        }
    }

    async fn write_when_possible(self: Arc<Self>, shared: Arc<Shared>, stream: Arc<Stream>) {
        loop {
            stream.writable().await;
            {
                let mut io = lock(&self.io);
                let current = io.stream.as_ref().is_some_and(|s| Arc::ptr_eq(s, &stream));
                if current && io.blocked {
                    self.drain(&shared, &mut io);
                    if io.blocked {
                        continue;
                    }
                }
            }
            self.pump(&shared);
            self.writer.store(false, SeqCst);
            // Somebody may have been blocked after the pump and before the flag was cleared.
            let io = lock(&self.io);
            let current = io.stream.as_ref().is_some_and(|s| Arc::ptr_eq(s, &stream));
            if !io.blocked || !current || self.writer.swap(true, SeqCst) {
                return;
            }
        }
    }
}
