//! How a connection goes, and how a session ends.

use std::{
    net::Shutdown,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use super::{
    Session,
    connection::{Connection, End},
    deliver::Io,
    subscribe::leave_all,
    will,
};
use crate::{
    codec::{Reason, reply::goodbye},
    fanout::Turn,
    housekeeping::Deadline,
    lock::lock,
    shared::Shared,
    stream::Stream,
};

/// Closing at once after a last packet makes a reset that eats it, so for so long what still comes
/// in is read and thrown away.
const LINGER: Duration = Duration::from_secs(2);

impl Connection {
    /// Puts everything in order that this connection touched. True: the client should read a last
    /// packet, see [`linger`].
    pub(crate) fn leave(mut self: Box<Self>, end: End) -> bool {
        // After a panic a run may be left over; its messages are admitted and must be delivered.
        self.fanout.finish(Turn::new(&self.shared));
        let linger = self.say_goodbye(end);
        {
            // Whoever else is writing is done by now, and nobody writes after us.
            let mut io = lock(&self.session.io);
            if linger {
                self.session.drain(&self.shared, &mut io);
            }
            *io = Io::default();
        }
        let how = if linger { Shutdown::Write } else { Shutdown::Both };
        self.stream.shutdown(how);
        self.log(end);
        let dropped = {
            let mut queue = lock(&self.session.queue);
            let (unsure, again) = self.acks.left();
            queue.unsure.add(unsure);
            queue.received.retain(|packet_id| !again.contains(packet_id));
            queue.go_offline();
            std::mem::take(&mut queue.dropped)
        };
        if dropped > 0 {
            tracing::warn!(client_id = %self.who.client_id, dropped, "messages were dropped");
        }
        self.session.full.store(false, SeqCst);
        self.session.room.notify_waiters();
        self.shared.leave_online(self.session.uid);
        self.leave_will(end);
        self.leave_session();
        linger
    }

    fn say_goodbye(&self, end: End) -> bool {
        let End::Because(reason) = end else { return false };
        let mut queue = lock(&self.session.queue);
        // No message comes after the goodbye, whoever is writing.
        queue.paused = true;
        if self.version5 {
            queue.answers.extend_from_slice(&goodbye(reason));
        }
        true
    }

    fn log(&self, end: End) {
        let client_id = &self.who.client_id;
        match end {
            End::Because(Reason::ShuttingDown | Reason::TakenOver) | End::Asked { .. } => {
                tracing::debug!(%client_id, ?end, "connection ended");
            }
            End::Closed => tracing::debug!(%client_id, "connection lost"),
            End::Because(reason) => {
                tracing::info!(%client_id, ?reason, "connection ended by broker");
            }
        }
    }

    fn leave_will(&mut self, end: End) {
        let wanted = match end {
            End::Asked { publish_will } => publish_will,
            // A client that is sent away only to send again is alive, and so is one at the end of
            // the broker.
            End::Because(reason) => !matches!(reason, Reason::ShuttingDown | Reason::Unavailable),
            End::Closed => true,
        };
        let Some(will) = self.will.take().filter(|_| wanted) else { return };
        let delay_s = will.delay_s.min(self.session_expiry_s);
        if delay_s == 0 {
            will::publish(&self.shared, &self.session, &self.who, &will);
            return;
        }
        lock(&self.session.queue).delayed_will = Some((will, self.who.clone()));
        Deadline::Will.set(&self.shared, &self.session, delay_s);
    }

    fn leave_session(&mut self) {
        // A change that found the client still here is followed here; an end is under way anyway.
        let _ = self.follow_rules();
        if self.session_expiry_s == 0 {
            forget(&self.shared, &self.session, &mut self.attached);
        } else {
            Deadline::Expiry.set(&self.shared, &self.session, self.session_expiry_s);
        }
    }
}

/// Ends a session nobody is attached to; `dead` is what its attachment guards.
pub(crate) fn forget(shared: &Arc<Shared>, session: &Arc<Session>, dead: &mut bool) {
    *dead = true;
    will::publish_delayed(shared, session);
    Deadline::clear_all(shared, session);
    leave_all(shared, session);
    lock(&session.queue).clear();
    lock(&shared.sessions).remove(session);
}

/// Reads what still comes until the client closes, for a while.
pub(crate) async fn linger(shared: &Shared, stream: &Stream) {
    let read_on = async {
        while let Ok(Some(())) = std::future::poll_fn(|c| stream.poll_read(c, |_| ())).await {}
    };
    tokio::select! {
        _ = tokio::time::timeout(LINGER, read_on) => {}
        () = shared.ended() => {}
    }
}
