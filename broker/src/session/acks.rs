//! Acknowledgements owed to a publisher, in the order of its messages.

use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll},
};

use crate::{
    api::{BoxFuture, Refusal},
    codec::reply::{PUBREC, put_ack},
};

/// What the publisher is told, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AckForm {
    pub(crate) version5: bool,
    pub(crate) problem_information: bool,
    pub(crate) packet_max_bytes: usize,
}

type Outcome = Result<(), Refusal>;

enum Due {
    Now(Outcome),
    When(BoxFuture<'static, Outcome>),
}

struct Owed {
    kind: u8,
    packet_id: u16,
    due: Due,
}

/// Acknowledgements that wait for one before them.
pub(crate) struct Acks {
    form: AckForm,
    waiting: VecDeque<Owed>,
    broken: bool,
}

/// QoS 2 messages of which the host had not said whether they are safe when their connection was
/// lost: sent again they are still the same messages, and still wait for that.
#[derive(Default)]
pub(crate) struct Unsure(HashMap<u16, BoxFuture<'static, Outcome>>);

impl std::fmt::Debug for Unsure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Unsure {
    pub(crate) fn add(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(crate) fn take(&mut self, packet_id: u16) -> Option<BoxFuture<'static, Outcome>> {
        self.0.remove(&packet_id)
    }
}

impl std::fmt::Debug for Acks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acks").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl Acks {
    pub(crate) fn new(form: AckForm) -> Self {
        Self { form, waiting: VecDeque::new(), broken: false }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A version 3.1.1 client has to send something again, which it does only when it connects anew.
    pub(crate) fn broken(&self) -> bool {
        self.broken
    }

    /// At the end of a connection: what was received and is not acknowledged, and the packet ids
    /// of what has to be sent again.
    pub(crate) fn left(&mut self) -> (Unsure, Vec<u16>) {
        let (mut unsure, mut again) = (Unsure::default(), Vec::new());
        for owed in self.waiting.drain(..).filter(|owed| owed.kind == PUBREC) {
            match owed.due {
                Due::When(due) => drop(unsure.0.insert(owed.packet_id, due)),
                Due::Now(Err(refusal)) if refusal.temporary => again.push(owed.packet_id),
                Due::Now(_) => {}
            }
        }
        (unsure, again)
    }

    /// An acknowledgement that is due now, or as soon as those before it are.
    pub(crate) fn put(&mut self, out: &mut Vec<u8>, kind: u8, packet_id: u16, outcome: Outcome) {
        if self.waiting.is_empty() {
            self.write(out, kind, packet_id, &outcome);
        } else {
            self.waiting.push_back(Owed { kind, packet_id, due: Due::Now(outcome) });
        }
    }

    /// An acknowledgement that is due when the future says so.
    pub(crate) fn put_when(&mut self, kind: u8, packet_id: u16, due: BoxFuture<'static, Outcome>) {
        self.waiting.push_back(Owed { kind, packet_id, due: Due::When(due) });
    }

    /// Writes what is due by now. Ready when there was any; gives the packet ids of QoS 2 messages
    /// that were refused and may come again: version 5 frees these.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<Vec<u16>> {
        let (before, mut freed) = (out.len(), Vec::new());
        while let Some(first) = self.waiting.front_mut() {
            let outcome = match &mut first.due {
                Due::Now(outcome) => std::mem::replace(outcome, Ok(())),
                Due::When(future) => match future.as_mut().poll(context) {
                    Poll::Ready(outcome) => outcome,
                    Poll::Pending => break,
                },
            };
            let (kind, packet_id) = (first.kind, first.packet_id);
            self.waiting.pop_front();
            let again = |refusal: &Refusal| self.form.version5 || refusal.temporary;
            if kind == PUBREC && outcome.as_ref().is_err_and(again) {
                freed.push(packet_id);
            }
            self.write(out, kind, packet_id, &outcome);
        }
        if out.len() > before || self.broken { Poll::Ready(freed) } else { Poll::Pending }
    }

    fn write(&mut self, out: &mut Vec<u8>, kind: u8, packet_id: u16, outcome: &Outcome) {
        let AckForm { version5, problem_information, packet_max_bytes } = self.form;
        self.broken |= !version5 && outcome.as_ref().is_err_and(|refusal| refusal.temporary);
        if self.broken {
            return;
        }
        let (code, text) = match outcome {
            Ok(()) => (0, ""),
            Err(refusal) if problem_information => (refusal.reason as u8, &*refusal.text),
            Err(refusal) => (refusal.reason as u8, ""),
        };
        put_ack(out, kind, packet_id, code, text, version5, packet_max_bytes);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::{RefusalReason, codec::reply::PUBACK};

    #[tokio::test]
    async fn acknowledgements_keep_the_order_of_the_messages() {
        let form =
            AckForm { version5: true, problem_information: true, packet_max_bytes: usize::MAX };
        let (mut acks, mut out) = (Acks::new(form), Vec::new());
        acks.put(&mut out, PUBACK, 1, Ok(()));
        assert_eq!(out, [PUBACK, 2, 0, 1]);
        out.clear();
        let (done, wait) = oneshot::channel();
        acks.put_when(PUBREC, 2, Box::pin(async move { wait.await.unwrap() }));
        acks.put(&mut out, PUBACK, 3, Ok(()));
        assert!(out.is_empty(), "the third waits for the second");
        let text = "no".into();
        let reason = RefusalReason::QuotaExceeded;
        done.send(Err(Refusal { reason, text, temporary: true })).unwrap();
        let freed = std::future::poll_fn(|context| acks.poll(context, &mut out)).await;
        assert_eq!(freed, [2]);
        assert_eq!(&out[..5], [PUBREC, 9, 0, 2, 0x97]);
        assert_eq!(&out[11..], [PUBACK, 2, 0, 3]);
        assert_eq!(acks.waiting(), 0);
    }
}
